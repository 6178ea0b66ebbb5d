"""Kernels of the activations: for each a scalar function f and its derivative, side by side; loops over them are made by `pointwise`.

N batch, F features. Forward: y [N, F] = f(x). Backward: dx [N, F] = dy f'(kept), where kept is x or y as the spec's `keeps` says.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from nnkit.jit import Int, Kernel, Matrix, Real, kernel, scalar
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.simd_cpu import address, part
from nnkit.scalar import sigmoid as sigmoid_of
from nnkit.scalar import tanh as tanh_of


def pointwise(f: Callable[..., Any], df: Callable[..., Any]) -> tuple[Kernel, Kernel]:
    """The forward and the backward kernel of a scalar function f(x, constants...) and its derivative df(kept, constants...).

    A task covers its share of the rows. y may be x, dx may be dy.
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
        else:
            for i in range(dxs.size):
                dxs[i] = dys[i] * inner_derivative(ks[i], *constants)
    return forward, backward


def relu(x):
    """max(x, 0)."""
    T = type(x)
    return x if x > T(0) else T(0)


def relu_derivative(y):
    """1 where x > 0, from y = max(x, 0)."""
    T = type(y)
    return T(1) if y > T(0) else T(0)


relu_forward, relu_backward = pointwise(relu, relu_derivative)


def leaky_relu(x, slope):
    """X where x > 0, slope x elsewhere."""
    T = type(x)
    return x if x > T(0) else slope * x


def leaky_relu_derivative(y, slope):
    """From y, which has the sign of x."""
    T = type(y)
    return T(1) if y > T(0) else slope


leaky_relu_forward, leaky_relu_backward = pointwise(leaky_relu, leaky_relu_derivative)


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
