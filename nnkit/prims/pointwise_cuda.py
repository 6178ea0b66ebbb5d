"""CUDA twins of pointwise_cpu.py: kernels over elements, and the sweeps that such kernels are made of.

A sweep reads AT_ONCE elements for each thread before it writes the first result: so many are on their way from memory, whatever may overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkit.cuda_jit import THREADS, data, kernel, routine, thread
from nnkit.jit import Int, Matrix, Real, Vector
from nnkit.prims.block_cuda import AT_ONCE, divided, row_share, several, share, wholes

__all__ = ["add", "by_channel", "by_column", "pointwise", "product_of_two", "scaled", "sum_of_two", "sweep_product", "zero"]


def pointwise(f: Callable[..., Any]) -> Any:
    """The sweep ys[i] = f(xs[i], zs[i], p, q) for i in [start, stop); ys may be xs or zs."""
    @routine
    def sweep(start, stop, ys, xs, zs, p, q, like):
        own_x, own_z = several(like), several(like)
        whole = wholes(start, stop)
        for i in range(start + thread(), whole, AT_ONCE * THREADS):
            for u in range(AT_ONCE):
                own_x[u], own_z[u] = xs[i + u * THREADS], zs[i + u * THREADS]
            for u in range(AT_ONCE):
                ys[i + u * THREADS] = f(own_x[u], own_z[u], p, q)
        for i in range(whole + thread(), stop, THREADS):
            ys[i] = f(xs[i], zs[i], p, q)
    return sweep


def by_column(f: Callable[..., Any]) -> Any:
    """The sweep ys[i] = f(xs[i], zs[i], numbers) for i in [start, stop), where the numbers are those of column j = i % width:
    a[j], a[a1 + j], a[a2 + j], b[j], b[b1 + j]. ys may be xs or zs."""
    @routine
    def sweep(start, stop, width, ys, xs, zs, a, a1, a2, b, b1, like):
        own_x, own_z = several(like), several(like)
        n0, n1, n2, n3, n4 = several(like), several(like), several(like), several(like), several(like)
        whole, step = wholes(start, stop), divided(THREADS, max(1, width))[1]
        j = divided(start + thread(), max(1, width))[1]
        for i in range(start + thread(), whole, AT_ONCE * THREADS):
            for u in range(AT_ONCE):
                own_x[u], own_z[u] = xs[i + u * THREADS], zs[i + u * THREADS]
                n0[u], n1[u], n2[u], n3[u], n4[u] = a[j], a[a1 + j], a[a2 + j], b[j], b[b1 + j]
                j += step
                j -= width if j >= width else 0
            for u in range(AT_ONCE):
                ys[i + u * THREADS] = f(own_x[u], own_z[u], n0[u], n1[u], n2[u], n3[u], n4[u])
        for i in range(whole + thread(), stop, THREADS):
            ys[i] = f(xs[i], zs[i], a[j], a[a1 + j], a[a2 + j], b[j], b[b1 + j])
            j += step
            j -= width if j >= width else 0
    return sweep


def by_channel(f: Callable[..., Any]) -> Any:
    """The same for channels that are not the last axis: j = i // inner % width."""
    @routine
    def sweep(start, stop, width, inner, ys, xs, zs, a, a1, a2, b, b1, like):
        own_x, own_z = several(like), several(like)
        n0, n1, n2, n3, n4 = several(like), several(like), several(like), several(like), several(like)
        whole = wholes(start, stop)
        for i in range(start + thread(), whole, AT_ONCE * THREADS):
            for u in range(AT_ONCE):
                own_x[u], own_z[u] = xs[i + u * THREADS], zs[i + u * THREADS]
                j = divided(divided(i + u * THREADS, inner)[0], width)[1]
                n0[u], n1[u], n2[u], n3[u], n4[u] = a[j], a[a1 + j], a[a2 + j], b[j], b[b1 + j]
            for u in range(AT_ONCE):
                ys[i + u * THREADS] = f(own_x[u], own_z[u], n0[u], n1[u], n2[u], n3[u], n4[u])
        for i in range(whole + thread(), stop, THREADS):
            j = divided(divided(i, inner)[0], width)[1]
            ys[i] = f(xs[i], zs[i], a[j], a[a1 + j], a[a2 + j], b[j], b[b1 + j])
    return sweep


@routine
def plus(x, z, p, q):
    """x + z."""
    return x + z


@routine
def times(x, z, p, q):
    """x z."""
    return x * z


sweep_sum, sweep_product = pointwise(plus), pointwise(times)


@kernel
def add(task: Int, tasks: Int, y: Vector, x: Vector) -> None:
    """y += x. Task t covers its share of the elements. Updates y (+=)."""
    start, stop = share(y.size, tasks, task)
    sweep_sum(start, stop, data(y), data(y), data(x), 0, 0, y)


@kernel
def sum_of_two(task: Int, tasks: Int, y: Matrix, a: Matrix, b: Matrix) -> None:
    """y = a + b; y may be a. All [N, F]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F = y.shape[1]
    sweep_sum(start * F, stop * F, data(y), data(a), data(b), 0, 0, y)


@kernel
def product_of_two(task: Int, tasks: Int, y: Matrix, a: Matrix, b: Matrix) -> None:
    """y = a b, elementwise. All [N, F]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F = y.shape[1]
    sweep_product(start * F, stop * F, data(y), data(a), data(b), 0, 0, y)


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
