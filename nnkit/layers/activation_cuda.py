"""CUDA twins of activation_cpu.py: the same scalar functions, element by element; softmax and its logarithm along an axis.

N batch, F features. Forward: y [N, F] = f(x). Backward: dx [N, F] = dy f'(kept).
"""

from __future__ import annotations

import inspect

from nnkit.cuda_jit import THREADS, Kernel, data, kernel, routine, thread
from nnkit.jit import Int, Matrix, Real, Tensor3, scalar
from nnkit.jit import Kernel as Twin
from nnkit.layers import activation_cpu as cpu
from nnkit.prims.block_cuda import AT_ONCE, divided, row_share, several, strided_sums, wholes
from nnkit.prims.reduce_cuda import plain_sums
from nnkit.prims.rows_cuda import larger, largest_of_row, row_of_warp, sum_over_warp, warp_lane
from nnkit.scalar import exp_below, log


def pointwise(forward_twin: Twin, backward_twin: Twin) -> tuple[Kernel, Kernel]:
    """The forward and the backward kernel of the scalar functions that their twins are made of. A task covers its share of the rows."""
    f, df = forward_twin.formula, backward_twin.formula
    assert f is not None
    assert df is not None
    count = len(inspect.signature(f).parameters) - 1
    inner, inner_derivative = scalar(f), scalar(df)

    @kernel
    def forward(task: Int, tasks: Int, y: Matrix, x: Matrix, p0: Real, p1: Real, p2: Real) -> None:
        start, stop = row_share(y.shape[0], tasks, task)
        constants = (p0, p1, p2)[:count]
        F, ys, xs = y.shape[1], data(y), data(x)
        own = several(y)
        whole = wholes(start * F, stop * F)
        for i in range(start * F + thread(), whole, AT_ONCE * THREADS):
            for u in range(AT_ONCE):
                own[u] = xs[i + u * THREADS]
            for u in range(AT_ONCE):
                ys[i + u * THREADS] = inner(own[u], *constants)
        for i in range(whole + thread(), stop * F, THREADS):
            ys[i] = inner(xs[i], *constants)

    @kernel
    def backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, kept: Matrix, p0: Real, p1: Real, p2: Real) -> None:
        start, stop = row_share(dx.shape[0], tasks, task)
        constants = (p0, p1, p2)[:count]
        F, dxs, dys, ks = dx.shape[1], data(dx), data(dy), data(kept)
        own, factors = several(dx), several(dx)
        whole = wholes(start * F, stop * F)
        for i in range(start * F + thread(), whole, AT_ONCE * THREADS):
            for u in range(AT_ONCE):
                own[u], factors[u] = ks[i + u * THREADS], dys[i + u * THREADS]
            for u in range(AT_ONCE):
                dxs[i + u * THREADS] = factors[u] * inner_derivative(own[u], *constants)
        for i in range(whole + thread(), stop * F, THREADS):
            dxs[i] = dys[i] * inner_derivative(ks[i], *constants)
    return forward, backward


relu_forward, relu_backward = pointwise(cpu.relu_forward, cpu.relu_backward)
relu_general_forward, relu_general_backward = pointwise(cpu.relu_general_forward, cpu.relu_general_backward)
leaky_relu_forward, leaky_relu_backward = pointwise(cpu.leaky_relu_forward, cpu.leaky_relu_backward)
hard_sigmoid_forward, hard_sigmoid_backward = pointwise(cpu.hard_sigmoid_forward, cpu.hard_sigmoid_backward)
hard_silu_forward, hard_silu_backward = pointwise(cpu.hard_silu_forward, cpu.hard_silu_backward)
sigmoid_forward, sigmoid_backward = pointwise(cpu.sigmoid_forward, cpu.sigmoid_backward)
tanh_forward, tanh_backward = pointwise(cpu.tanh_forward, cpu.tanh_backward)
exponential_forward, exponential_backward = pointwise(cpu.exponential_forward, cpu.exponential_backward)
elu_forward, elu_backward = pointwise(cpu.elu_forward, cpu.elu_backward)
selu_forward, selu_backward = pointwise(cpu.selu_forward, cpu.selu_backward)
celu_forward, celu_backward = pointwise(cpu.celu_forward, cpu.celu_backward)
softplus_forward, softplus_backward = pointwise(cpu.softplus_forward, cpu.softplus_backward)
softsign_forward, softsign_backward = pointwise(cpu.softsign_forward, cpu.softsign_backward)
silu_forward, silu_backward = pointwise(cpu.silu_forward, cpu.silu_backward)
mish_forward, mish_backward = pointwise(cpu.mish_forward, cpu.mish_backward)
gelu_forward, gelu_backward = pointwise(cpu.gelu_forward, cpu.gelu_backward)
gelu_tanh_forward, gelu_tanh_backward = pointwise(cpu.gelu_tanh_forward, cpu.gelu_tanh_backward)


# Along rows [R, C]: a warp takes a row, its lanes the entries c, c + 32, ...; sums by a tree over the lanes.

@kernel
def softmax_forward(task: Int, tasks: Int, y: Matrix, x: Matrix) -> None:
    """y = e^(x - max) / sum e^(x - max) along rows. Shapes: y, x [R, C]. Row-local; y may be x. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    T, C, ys, xs = y.dtype.type, y.shape[1], data(y), data(x)
    for r in range(start + row_of_warp(), stop if C else start, THREADS // 32):
        largest = largest_of_row(xs, r * C, C, x)
        total = T(0)
        for c in range(r * C + warp_lane(), (r + 1) * C, 32):
            ys[c] = exp_below(xs[c] - largest)
            total += ys[c]
        scale = T(1) / sum_over_warp(total)
        for c in range(r * C + warp_lane(), (r + 1) * C, 32):
            ys[c] *= scale


@kernel
def softmax_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, y: Matrix) -> None:
    """dx = y (dy - sum y dy) along rows. Shapes: dx, dy, y [R, C]. Row-local; dx may be dy. Writes dx (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    T, C, dxs, dys, ys = y.dtype.type, y.shape[1], data(dx), data(dy), data(y)
    for r in range(start + row_of_warp(), stop, THREADS // 32):
        total = T(0)
        for c in range(r * C + warp_lane(), (r + 1) * C, 32):
            total += dys[c] * ys[c]
        total = sum_over_warp(total)
        for c in range(r * C + warp_lane(), (r + 1) * C, 32):
            dxs[c] = ys[c] * (dys[c] - total)


@kernel
def log_softmax_forward(task: Int, tasks: Int, y: Matrix, x: Matrix) -> None:
    """y = (x - max) - log sum e^(x - max) along rows. Shapes: y, x [R, C]. Row-local; y may be x. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    T, C, ys, xs = y.dtype.type, y.shape[1], data(y), data(x)
    for r in range(start + row_of_warp(), stop if C else start, THREADS // 32):
        largest = largest_of_row(xs, r * C, C, x)
        total = T(0)
        for c in range(r * C + warp_lane(), (r + 1) * C, 32):
            total += exp_below(xs[c] - largest)
        total = log(sum_over_warp(total))
        for c in range(r * C + warp_lane(), (r + 1) * C, 32):
            ys[c] = (xs[c] - largest) - total


@kernel
def log_softmax_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, y: Matrix) -> None:
    """dx = dy - e^y sum dy along rows. Shapes: dx, dy, y [R, C]. Row-local; dx may be dy. Writes dx (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    T, C, dxs, dys, ys = y.dtype.type, y.shape[1], data(dx), data(dy), data(y)
    for r in range(start + row_of_warp(), stop, THREADS // 32):
        total = T(0)
        for c in range(r * C + warp_lane(), (r + 1) * C, 32):
            total += dys[c]
        total = sum_over_warp(total)
        for c in range(r * C + warp_lane(), (r + 1) * C, 32):
            dxs[c] = dys[c] - exp_below(ys[c]) * total


# Along another axis [A, C, B]: a thread takes the entries of one a and b, so that neighbours read neighbours. `largest` and `total` are not used.

@routine
def exponential(x, y, largest, more, c):
    """Sum e^(x - largest)."""
    return exp_below(x - largest), type(x)(0)


@routine
def product(x, y, constant, more, c):
    """Sum x y."""
    return x * y, type(x)(0)


exponential_sums, product_sums = strided_sums(exponential), strided_sums(product)


@routine
def largest_along(xs, at, C, B):
    """max of xs[at + c B]; NaN is not the largest, and stays in x - max."""
    largest = xs[at]
    for c in range(1, C):
        largest = larger(largest, xs[at + c * B])
    return largest


@kernel
def softmax_axis_forward(task: Int, tasks: Int, y: Tensor3, x: Tensor3, largest: Matrix, total: Matrix) -> None:
    """y = e^(x - max) / sum e^(x - max) along c. Shapes: y, x [A, C, B]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    T, C, B, ys, xs = y.dtype.type, y.shape[1], y.shape[2], data(y), data(x)
    for n in range(start * B + thread(), stop * B if C else 0, THREADS):
        a, b = divided(n, B)
        at = a * C * B + b
        top = largest_along(xs, at, C, B)
        found, _ = exponential_sums(0, C, 1, B, xs, at, xs, at, top, 0, y)
        scale = T(1) / found
        for i in range(at, at + C * B, B):
            ys[i] = exp_below(xs[i] - top) * scale


@kernel
def softmax_axis_backward(task: Int, tasks: Int, dx: Tensor3, dy: Tensor3, y: Tensor3, total: Matrix) -> None:
    """dx = y (dy - sum y dy) along c. Shapes: dx, dy, y [A, C, B]. Row-local. Writes dx (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    T, C, B, dxs, dys, ys = y.dtype.type, y.shape[1], y.shape[2], data(dx), data(dy), data(y)
    for n in range(start * B + thread(), stop * B, THREADS):
        a, b = divided(n, B)
        at = a * C * B + b
        along, _ = product_sums(0, C, 1, B, dys, at, ys, at, T(0), 0, y)
        for i in range(at, at + C * B, B):
            dxs[i] = ys[i] * (dys[i] - along)


@kernel
def log_softmax_axis_forward(task: Int, tasks: Int, y: Tensor3, x: Tensor3, largest: Matrix, total: Matrix) -> None:
    """y = (x - max) - log sum e^(x - max) along c. Shapes: y, x [A, C, B]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    C, B, ys, xs = y.shape[1], y.shape[2], data(y), data(x)
    for n in range(start * B + thread(), stop * B if C else 0, THREADS):
        a, b = divided(n, B)
        at = a * C * B + b
        top = largest_along(xs, at, C, B)
        found, _ = exponential_sums(0, C, 1, B, xs, at, xs, at, top, 0, y)
        found = log(found)
        for i in range(at, at + C * B, B):
            ys[i] = (xs[i] - top) - found


@kernel
def log_softmax_axis_backward(task: Int, tasks: Int, dx: Tensor3, dy: Tensor3, y: Tensor3, total: Matrix) -> None:
    """dx = dy - e^y sum dy along c. Shapes: dx, dy, y [A, C, B]. Row-local. Writes dx (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    T, C, B, dxs, dys, ys = y.dtype.type, y.shape[1], y.shape[2], data(dx), data(dy), data(y)
    for n in range(start * B + thread(), stop * B, THREADS):
        a, b = divided(n, B)
        at = a * C * B + b
        along, _ = plain_sums(0, C, 1, B, dys, at, dys, at, T(0), 0, y)
        for i in range(at, at + C * B, B):
            dxs[i] = dys[i] - exp_below(ys[i]) * along
