"""CUDA twins of hinge_cpu.py. R rows, C classes (entries of a row), N samples (R / N rows each). A warp takes a row of classes."""

from __future__ import annotations

import math

from nnkit.cuda_jit import data, kernel
from nnkit.jit import Int, Matrix, Vector
from nnkit.losses import hinge_cpu as cpu
from nnkit.losses.pointwise_cuda import pointwise_loss, weight_of
from nnkit.prims.block_cuda import WARPS, row_share
from nnkit.prims.rows_cuda import larger, largest_of_row, largest_over_warp, row_of_warp, smallest_over_warp, sum_over_warp, warp_lane

__all__ = [
    "categorical_hinge_backward", "categorical_hinge_forward", "hinge_backward", "hinge_forward", "squared_hinge_backward", "squared_hinge_forward",
]

hinge_forward, hinge_backward = pointwise_loss(cpu.hinge_forward, cpu.hinge_backward)
squared_hinge_forward, squared_hinge_backward = pointwise_loss(cpu.squared_hinge_forward, cpu.squared_hinge_backward)


@kernel
def categorical_hinge_forward(task: Int, tasks: Int, rows: Vector, others: Matrix, y: Matrix, t: Matrix, w: Vector) -> None:
    """rows[r] = w max(1 + max_j (1 - t) y - sum_j t y, 0); others = (1 - t) y. Shapes: rows [R], others, y, t [R, C], w [N].

    Row-local. Writes rows and others (=).
    """
    start, stop = row_share(y.shape[0], tasks, task)
    T = y.dtype.type
    R, C = y.shape
    ns, ys, ts = data(others), data(y), data(t)
    for r in range(start + row_of_warp(), stop, WARPS):
        largest, total, unknown = T(-math.inf), T(0), T(0)
        for i in range(r * C + warp_lane(), (r + 1) * C, 32):
            other = T(0) if ts[i] == T(1) else (T(1) - ts[i]) * ys[i]     # whatever y is
            ns[i] = other
            largest = larger(largest, other)
            unknown = other if other != other else unknown            # the largest is none
            total += T(0) if ts[i] == T(0) else ts[i] * ys[i]
        margin = T(1) + largest_over_warp(largest) - sum_over_warp(total) + sum_over_warp(unknown)
        if warp_lane() == 0:
            data(rows)[r] = weight_of(w, r, R) * (T(0) if margin < T(0) else margin)


@kernel
def categorical_hinge_backward(task: Int, tasks: Int, dy: Matrix, rows: Vector, others: Matrix, t: Matrix, w: Vector) -> None:
    """dy[r, j] = w / R (-t + [j is the largest of the others] (1 - t)) where rows[r] > 0, NaN where it is NaN, else 0. Of equal
    ones the first is the largest.

    Shapes: dy, others, t [R, C], rows [R], w [N]. Row-local. Writes dy (=).
    """
    start, stop = row_share(dy.shape[0], tasks, task)
    T = dy.dtype.type
    R, C = dy.shape
    ds, ns, ts = data(dy), data(others), data(t)
    for r in range(start + row_of_warp(), stop, WARPS):
        top = largest_of_row(ns, r * C, C, others)
        largest = C - 1
        for j in range(warp_lane(), C, 32):
            if ns[r * C + j] == top:
                largest = min(largest, j)
        largest = smallest_over_warp(largest)
        row = data(rows)[r]
        active = T(0) if row <= T(0) else (weight_of(w, r, R) * (T(1) / T(R)) if row > T(0) else row)
        for j in range(warp_lane(), C, 32):
            i = r * C + j
            ds[i] = -active * ts[i] + (active * (T(1) - ts[i]) if j == largest else T(0))
