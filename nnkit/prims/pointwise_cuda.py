"""CUDA twins of pointwise_cpu.py: kernels over elements."""

from __future__ import annotations

from nnkit.cuda_jit import THREADS, data, kernel, thread
from nnkit.jit import Int, Matrix, Real, Vector
from nnkit.prims.block_cuda import row_share, share

__all__ = ["add", "product_of_two", "scaled", "sum_of_two", "zero"]


@kernel
def add(task: Int, tasks: Int, y: Vector, x: Vector) -> None:
    """y += x. Task t covers its share of the elements. Updates y (+=)."""
    start, stop = share(y.size, tasks, task)
    ys, xs = data(y), data(x)
    for i in range(start + thread(), stop, THREADS):
        ys[i] += xs[i]


@kernel
def sum_of_two(task: Int, tasks: Int, y: Matrix, a: Matrix, b: Matrix) -> None:
    """y = a + b; y may be a. All [N, F]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F = y.shape[1]
    ys, first, second = data(y), data(a), data(b)
    for i in range(start * F + thread(), stop * F, THREADS):
        ys[i] = first[i] + second[i]


@kernel
def product_of_two(task: Int, tasks: Int, y: Matrix, a: Matrix, b: Matrix) -> None:
    """y = a b, elementwise. All [N, F]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F = y.shape[1]
    ys, first, second = data(y), data(a), data(b)
    for i in range(start * F + thread(), stop * F, THREADS):
        ys[i] = first[i] * second[i]


@kernel
def scaled(task: Int, tasks: Int, y: Vector, x: Vector, factor: Real) -> None:
    """y = factor x. Both [N]. Row-local. Writes y (=)."""
    start, stop = row_share(y.size, tasks, task)
    ys, xs = data(y), data(x)
    for n in range(start + thread(), stop, THREADS):
        ys[n] = factor * xs[n]


@kernel
def zero(task: Int, tasks: Int, y: Vector) -> None:
    """y = 0. Task t covers its share of the elements. Writes y (=)."""
    start, stop = share(y.size, tasks, task)
    T = y.dtype.type
    ys = data(y)
    for i in range(start + thread(), stop, THREADS):
        ys[i] = T(0)
