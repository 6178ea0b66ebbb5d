"""Kernels over elements: sums of gradients, weights of outputs, shares of a flat range."""

from __future__ import annotations

from nnkit.jit import Int, Matrix, Real, Vector, kernel, routine
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.simd_cpu import address, part

__all__ = ["add", "product_of_two", "scaled", "share", "sum_of_two", "zero"]


@routine
def share(n, tasks, task):
    """The elements [start, stop) of task `task` of `tasks`, cut at multiples of 64 so that no cache line has two writers."""
    blocks = (n + 63) // 64
    return min(n, blocks * task // tasks * 64), min(n, blocks * (task + 1) // tasks * 64)


@kernel
def add(task: Int, tasks: Int, y: Vector, x: Vector) -> None:
    """y += x. Task t covers its share of the elements. Updates y (+=)."""
    start, stop = share(y.size, tasks, task)
    ys, xs = part(y, start, stop), part(x, start, stop)
    for i in range(ys.size):
        ys[i] += xs[i]


@kernel
def sum_of_two(task: Int, tasks: Int, y: Matrix, a: Matrix, b: Matrix) -> None:
    """y = a + b; y may be a. All [N, F]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F = y.shape[1]
    ys, first, second = part(y, start * F, stop * F), part(a, start * F, stop * F), part(b, start * F, stop * F)
    if address(y) == address(a):                         # one array less: the loop becomes vector code
        for i in range(ys.size):
            ys[i] += second[i]
    else:
        for i in range(ys.size):
            ys[i] = first[i] + second[i]


@kernel
def product_of_two(task: Int, tasks: Int, y: Matrix, a: Matrix, b: Matrix) -> None:
    """y = a b, elementwise. All [N, F]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F = y.shape[1]
    ys, first, second = part(y, start * F, stop * F), part(a, start * F, stop * F), part(b, start * F, stop * F)
    for i in range(ys.size):
        ys[i] = first[i] * second[i]


@kernel
def scaled(task: Int, tasks: Int, y: Vector, x: Vector, factor: Real) -> None:
    """y = factor x. Both [N]. Row-local. Writes y (=)."""
    start, stop = row_share(y.size, tasks, task)
    for n in range(start, stop):
        y[n] = factor * x[n]


@kernel
def zero(task: Int, tasks: Int, y: Vector) -> None:
    """y = 0. Task t covers its share of the elements. Writes y (=)."""
    start, stop = share(y.size, tasks, task)
    for i in range(start, stop):
        y[i] = 0
