"""Kernels over elements: sums of gradients, shares of a flat range."""

from __future__ import annotations

from nnkit.jit import Int, Vector, kernel, routine
from nnkit.prims.simd_cpu import part

__all__ = ["add", "share", "sum_of_two"]


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
def sum_of_two(task: Int, tasks: Int, y: Vector, a: Vector, b: Vector) -> None:
    """y = a + b; y may be a. Task t covers its share of the elements. Writes y (=)."""
    start, stop = share(y.size, tasks, task)
    ys, first, second = part(y, start, stop), part(a, start, stop), part(b, start, stop)
    for i in range(ys.size):
        ys[i] = first[i] + second[i]
