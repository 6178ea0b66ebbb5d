"""Kernels of the activations: for each a scalar function f and its derivative, side by side; loops over them are made by `pointwise`.

N batch, F features. Forward: y [N, F] = f(x). Backward: dx [N, F] = dy f'(kept), where kept is x or y as the spec's `keeps` says.
NaN goes through every f. A derivative from y has an absolute error of a few roundings of its largest value, also where it is nearly zero.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from nnkit.floats import by_type, constant, copysign, fabs, fma, polynomial
from nnkit.jit import Int, Kernel, Matrix, Real, kernel, routine, scalar
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.rows_cpu import block_like
from nnkit.prims.simd_cpu import LINE, STREAMED, address, copy_past, fence, itemsize, part
from nnkit.scalar import EXP_BOTTOM, exp, exp_below, exp_normal, expm1_below, normal_cdf, normal_pdf
from nnkit.scalar import gelu as gelu_of
from nnkit.scalar import sigmoid as sigmoid_of
from nnkit.scalar import softplus as softplus_of
from nnkit.scalar import tanh as tanh_of

PIECE = 256                                              # numbers that are made at a time, then written past the caches
AHEAD = 4096                                             # bytes from what is read to what is fetched meanwhile


@routine
def piece_end(y, first, stop):
    """Where a piece of y[first:stop], flat, ends: so that the next one begins with a line."""
    return min(stop, first + PIECE - (address(y) + first * itemsize(y)) % LINE // itemsize(y))


def pointwise(f: Callable[..., Any], df: Callable[..., Any]) -> tuple[Kernel, Kernel]:
    """The forward and the backward kernel of a scalar function f(x, constants...) and its derivative df(kept, constants...).

    A task covers its share of the rows. y may be x, dx may be dy. Where they are not, a large result is made piece by piece in the first-level
    cache and copied from there past the caches: else each of its lines would be fetched from memory before it is written.
    """
    count = len(inspect.signature(f).parameters) - 1
    inner, inner_derivative = scalar(f), scalar(df)

    @kernel
    def forward(task: Int, tasks: Int, y: Matrix, x: Matrix, p0: Real, p1: Real, p2: Real) -> None:
        start, stop = row_share(y.shape[0], tasks, task)
        constants = (p0, p1, p2)[:count]
        F = y.shape[1]
        ys, xs = part(y, start * F, stop * F), part(x, start * F, stop * F)
        if address(y) == address(x):                     # one array: a loop over two that overlap would not become vector code
            for i in range(ys.size):
                ys[i] = inner(ys[i], *constants)
        elif y.size * itemsize(y) >= STREAMED:
            block, first = block_like(y), start * F
            while first < stop * F:
                last = piece_end(y, first, stop * F)
                xs = part(x, first, last)
                for i in range(xs.size):
                    block[i] = inner(xs[i], *constants)
                copy_past(address(y) + first * itemsize(y), address(block), xs.size, address(xs) + AHEAD, address(xs) + AHEAD, y)
                first = last
            fence()
        else:
            for i in range(ys.size):
                ys[i] = inner(xs[i], *constants)

    @kernel
    def backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, kept: Matrix, p0: Real, p1: Real, p2: Real) -> None:
        start, stop = row_share(dx.shape[0], tasks, task)
        constants = (p0, p1, p2)[:count]
        F = dx.shape[1]
        dxs, dys, ks = part(dx, start * F, stop * F), part(dy, start * F, stop * F), part(kept, start * F, stop * F)
        if address(dx) == address(dy):
            for i in range(dxs.size):
                dxs[i] *= inner_derivative(ks[i], *constants)
        elif dx.size * itemsize(dx) >= STREAMED:
            block, first = block_like(dx), start * F
            while first < stop * F:
                last = piece_end(dx, first, stop * F)
                dys, ks = part(dy, first, last), part(kept, first, last)
                for i in range(ks.size):
                    block[i] = dys[i] * inner_derivative(ks[i], *constants)
                copy_past(address(dx) + first * itemsize(dx), address(block), ks.size, address(dys) + AHEAD, address(ks) + AHEAD, dx)
                first = last
            fence()
        else:
            for i in range(dxs.size):
                dxs[i] = dys[i] * inner_derivative(ks[i], *constants)
    forward.formula, backward.formula = f, df
    return forward, backward


# Piecewise linear. Comparisons are turned so that NaN takes the branch that keeps it.

def relu(x):
    """max(x, 0)."""
    T = type(x)
    return T(0) if x <= T(0) else x


def relu_derivative(y):
    """1 where x > 0, from y = max(x, 0)."""
    T = type(y)
    return T(0) if y <= T(0) else T(1)


relu_forward, relu_backward = pointwise(relu, relu_derivative)


def relu_general(x, top, slope, threshold):
    """min(x, top) where x > threshold, slope (x - threshold) elsewhere."""
    T = type(x)
    low = slope * (x - threshold) if slope != T(0) else T(0)      # 0 * -inf would be NaN
    high = top if x > top else x
    return low if x <= threshold else high


def relu_general_derivative(x, top, slope, threshold):
    """Slope up to the threshold, 1 below top, 0 from there on."""
    T = type(x)
    last = T(1) if top == T(math.inf) else T(0)          # no limit: infinity is not beyond it
    high = last if x >= top else T(1)
    return slope if x <= threshold else high


relu_general_forward, relu_general_backward = pointwise(relu_general, relu_general_derivative)


def leaky_relu(x, slope):
    """X where x > 0, slope x elsewhere."""
    T = type(x)
    return x if x > T(0) else slope * x


def leaky_relu_derivative(y, slope):
    """From y, which has the sign of x."""
    T = type(y)
    return T(1) if y > T(0) else slope


leaky_relu_forward, leaky_relu_backward = pointwise(leaky_relu, leaky_relu_derivative)


def hard_sigmoid(x):
    """min(max(x + 3, 0), 6) / 6."""
    T = type(x)
    t = x + T(3)
    t = T(0) if t < T(0) else t
    return (T(6) if t > T(6) else t) * T(1 / 6)


def hard_sigmoid_derivative(y):
    """1/6 where 0 < y < 1."""
    T = type(y)
    right = T(0) if y >= T(1) else T(1 / 6)
    return T(0) if y <= T(0) else right


hard_sigmoid_forward, hard_sigmoid_backward = pointwise(hard_sigmoid, hard_sigmoid_derivative)


def hard_silu(x):
    """X times its hard sigmoid; -0 from x = -3 down to -inf."""
    T = type(x)
    x = T(-3) if x < T(-3) else x
    t = x + T(3)
    return x * ((T(6) if t > T(6) else t) * T(1 / 6))


def hard_silu_derivative(x):
    """0 up to -3, x/3 + 1/2 below 3, 1 from there on."""
    T = type(x)
    right = T(1) if x >= T(3) else fma(x, T(1 / 3), T(0.5))
    return T(0) if x <= T(-3) else right


hard_silu_forward, hard_silu_backward = pointwise(hard_silu, hard_silu_derivative)


# The exponential family.

def sigmoid_derivative(y):
    """Y (1 - y)."""
    T = type(y)
    return y * (T(1) - y)


sigmoid_forward, sigmoid_backward = pointwise(lambda x: sigmoid_of(x), sigmoid_derivative)


def tanh_derivative(y):
    """1 - y^2."""
    T = type(y)
    return T(1) - y * y


tanh_forward, tanh_backward = pointwise(lambda x: tanh_of(x), tanh_derivative)


exponential_forward, exponential_backward = pointwise(lambda x: exp(x), lambda y: y)


def elu(x, alpha):
    """X where x > 0, alpha (e^x - 1) elsewhere."""
    T = type(x)
    low = alpha * expm1_below(x)
    return low if x <= T(0) else x


def elu_derivative(y, alpha):
    """1, or alpha e^x = y + alpha."""
    T = type(y)
    return y + alpha if y <= T(0) else T(1)


elu_forward, elu_backward = pointwise(elu, elu_derivative)

SELU_SCALE = constant(1.0507009873554804934193349852946)
SELU_LOW = constant(1.0507009873554804934193349852946 * 1.6732632423543772848170429916717)        # scale alpha


def selu(x):
    """Scale x where x > 0, scale alpha (e^x - 1) elsewhere."""
    T = type(x)
    low = SELU_LOW(x) * expm1_below(x)
    return low if x <= T(0) else SELU_SCALE(x) * x


def selu_derivative(y):
    """Scale, or scale alpha e^x = y + scale alpha."""
    T = type(y)
    return y + SELU_LOW(y) if y <= T(0) else SELU_SCALE(y)


selu_forward, selu_backward = pointwise(selu, selu_derivative)


def celu(x, alpha, inverse):
    """X where x > 0, alpha (e^(x / alpha) - 1) elsewhere; inverse is 1 / alpha."""
    T = type(x)
    low = alpha * expm1_below(x * inverse)
    return low if x <= T(0) else x


def celu_derivative(y, alpha, inverse):
    """1, or e^(x / alpha) = y / alpha + 1."""
    T = type(y)
    return fma(y, inverse, T(1)) if y <= T(0) else T(1)


celu_forward, celu_backward = pointwise(celu, celu_derivative)


def softplus_derivative(y):
    """1 / (1 + e^-x) = 1 - e^-y."""
    return -expm1_below(-y)


softplus_forward, softplus_backward = pointwise(lambda x: softplus_of(x), softplus_derivative)


def softsign(x):
    """X / (1 + |x|); 1 and -1 at the infinities."""
    T = type(x)
    t = fabs(x)
    return copysign(T(1), x) if t > T(1e30) else x / (T(1) + t)


def softsign_derivative(y):
    """1 / (1 + |x|)^2 = (1 - |y|)^2."""
    T = type(y)
    r = T(1) - fabs(y)
    return r * r


softsign_forward, softsign_backward = pointwise(softsign, softsign_derivative)


# x times something that falls to 0 on the left and rises to 1 on the right. Beyond a bound where the factor is 0 (or its derivative is) x stands
# still, since an infinity times 0 would be NaN.

@scalar
def within(x, bound):
    """X, at most `bound` from 0; NaN stays."""
    x = bound if x > bound else x
    return -bound if x < -bound else x


@scalar
def sigmoid_pair(x):
    """s = 1 / (1 + e^-x) and ds/dx = s (1 - s), without cancellation."""
    T = type(x)
    e = exp_below(-fabs(x))
    r = T(1) / (T(1) + e)
    return (e if x < T(0) else T(1)) * r, e * r * r


def silu(x):
    """X sigmoid(x)."""
    x = EXP_BOTTOM(x) if x < EXP_BOTTOM(x) else x
    return x * sigmoid_of(x)


def silu_derivative(x):
    """S + x s (1 - s)."""
    x = within(x, -EXP_BOTTOM(x))
    s, ds = sigmoid_pair(x)
    return fma(x, ds, s)


silu_forward, silu_backward = pointwise(silu, silu_derivative)

MISH_TOP = constant(20.0, 40.0)                          # tanh(softplus(x)) is 1 from here on


def mish(x):
    """X tanh(log(1 + e^x)) = x n / (n + 2), n = e^x (e^x + 2) = (1 + e^x)^2 - 1."""
    T = type(x)
    x = EXP_BOTTOM(x) if x < EXP_BOTTOM(x) else x
    e = exp_below(MISH_TOP(x) if x > MISH_TOP(x) else x)
    n = e * (e + T(2))
    return x * (n / (n + T(2)))


def mish_derivative(x):
    """With w = n / (n + 2): w + x dw/dx, dw/dx = 4 e^x (e^x + 1) / (n + 2)^2."""
    T = type(x)
    x = EXP_BOTTOM(x) if x < EXP_BOTTOM(x) else x
    x = MISH_TOP(x) if x > MISH_TOP(x) else x
    e = exp_below(x)
    n = e * (e + T(2))
    r = T(1) / (n + T(2))
    return r * fma(x * r, T(4) * e * (e + T(1)), n)


mish_forward, mish_backward = pointwise(mish, mish_derivative)

GELU_TOP = constant(13.0, 40.0)                          # density and tail of the normal distribution count as 0 from here on
# Phi(-t) / phi(t) / k in k = 1 / (1 + 0.2316419 t), t >= 0: Abramowitz and Stegun 26.2.17. Phi(-t) is right to 7.5e-8.
TAIL = polynomial((.319381530, -.356563782, 1.781477937, -1.821255978, 1.330274429))


@scalar
def _gelu_derivative_single(x):
    """One exponential and one division; absolute error within 3e-7."""
    T = type(x)
    x = within(x, GELU_TOP(x))
    t = fabs(x)
    density = T(1 / math.sqrt(2 * math.pi)) * exp_normal(T(-0.5) * x * x)
    k = T(1) / fma(T(0.2316419), t, T(1))
    tail = density * k * TAIL(k)
    return fma(x, density, tail if x < T(0) else T(1) - tail)


@scalar
def _gelu_derivative_double(x):
    x = within(x, GELU_TOP(x))
    return fma(x, normal_pdf(x), normal_cdf(x))


_gelu_derivative = by_type(_gelu_derivative_single, _gelu_derivative_double)


def gelu_derivative(x):
    """Phi(x) + x phi(x)."""
    return _gelu_derivative(x)


gelu_forward, gelu_backward = pointwise(lambda x: gelu_of(x), gelu_derivative)

GELU_TANH_TOP = constant(11.0, 22.0)                     # e^-v is 0 from here on
GELU_TANH_1 = constant(2 * math.sqrt(2 / math.pi))
GELU_TANH_3 = constant(2 * math.sqrt(2 / math.pi) * 0.044715)


def gelu_tanh(x):
    """X (1 + tanh(v / 2)) / 2 = x sigmoid(v), v = 2 sqrt(2 / pi) (x + 0.044715 x^3)."""
    x = -GELU_TANH_TOP(x) if x < -GELU_TANH_TOP(x) else x
    return x * sigmoid_of(x * fma(x * x, GELU_TANH_3(x), GELU_TANH_1(x)))


def gelu_tanh_derivative(x):
    """S + x s (1 - s) dv/dx."""
    T = type(x)
    x = within(x, GELU_TANH_TOP(x))
    z = x * x
    s, ds = sigmoid_pair(x * fma(z, GELU_TANH_3(x), GELU_TANH_1(x)))
    return fma(x * ds, fma(z, T(3) * GELU_TANH_3(x), GELU_TANH_1(x)), s)


gelu_tanh_forward, gelu_tanh_backward = pointwise(gelu_tanh, gelu_tanh_derivative)


# A user's own activation.

POINTS = (-3.3, -1.7, -0.61, -0.13, 0.21, 0.73, 1.9, 3.1)        # where a user's derivative is checked: both sides of 0, no likely kink


def check_derivative(f: Any, df: Any, keeps: str) -> None:
    """Raise ValueError where df is far from the central difference of f. Error of the difference: 1e-9; tolerance: 1e-4 of the larger of it and 1.

    Points where f is not finite, such as those outside of a logarithm's domain, are passed over.
    """
    for x in POINTS:
        h = 1e-6 * (1 + abs(x))
        y, difference = f(x), (f(x + h) - f(x - h)) / (2 * h)
        if not (math.isfinite(y) and math.isfinite(difference)):
            continue
        found = df(y if keeps == "y" else x)
        if not abs(found - difference) <= 1e-4 * max(1.0, abs(difference)):
            place = f"df(f({x}))" if keeps == "y" else f"df({x})"
            raise ValueError(f"df must be the derivative of f (keeps={keeps!r}), received {place} = {found:.6g} where the central difference of f "
                             f"is {difference:.6g}")
