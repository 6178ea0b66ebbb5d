"""CUDA twins of embedding_cpu.py. R indices (batch times inner axes), V rows of the table, D columns; N batch, T steps, F features."""

from __future__ import annotations

from numba import int64

from nnkit.cuda_jit import THREADS, anew, data, kernel, registers, routine, thread
from nnkit.jit import Int, Labels, Matrix, Real, Vector
from nnkit.prims.block_cuda import WARPS, divided, row_share
from nnkit.prims.rows_cuda import row_of_warp, sum_over_warp, warp_lane
from nnkit.prims.touched_cuda import scanning

__all__ = ["embedding_backward", "embedding_forward", "masking_backward", "masking_forward", "nonzero"]

AHEAD = 8                                                # rows of dy
ahead = registers(AHEAD)


@kernel
def embedding_forward(task: Int, tasks: Int, y: Matrix, indices: Labels, table: Matrix) -> None:
    """y[r] = table[indices[r]]. Shapes: y [R, D], indices [R], table [V, D]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    D, ys, rows, places = table.shape[1], data(y), data(table), data(indices)
    for i in range(start * D + thread(), stop * D, THREADS):
        r, d = divided(i, D)
        ys[i] = rows[places[r] * D + d]


@routine
def names_row(held, r, first, stop):
    """Whether index r is among the rows of the warp."""
    indices, _ = held
    return first <= indices[r] < stop


@routine
def add_named(table, held, begin, end, first, stop):
    """The warp's rows that indices [begin, end) name get those rows of dy, AHEAD of which are on their way at a time. As long as an index stays the
    same, as where texts are padded, its sum stays in a register, and is added to the row when it ends: what is long is a sum of sums."""
    indices, dys = held
    rows, D, T = data(table), table.shape[1], table.dtype.type
    coming = ahead(table)
    for d in range(warp_lane(), D, 32):
        total, current = T(0), int64(-1)
        r = begin
        while r < end:
            for k in range(AHEAD):
                at = min(r + k, end - 1)
                coming[k] = T(0)
                if names_row(held, at, first, stop):
                    coming[k] = dys[at * D + d]
            for k in range(AHEAD):
                v = int64(indices[min(r + k, end - 1)])
                if r + k < end:
                    if v != current:                     # also where the index is another warp's: bits must not depend on whose rows are whose
                        if first <= current < stop:
                            rows[current * D + d] += total
                        total, current = T(0), v
                    total += coming[k]
            r = anew(r + AHEAD)
        if first <= current < stop:
            rows[current * D + d] += total


add_rows = scanning(names_row, add_named)


@kernel
def embedding_backward(task: Int, tasks: Int, dtable: Matrix, indices: Labels, dy: Matrix, recent: Vector) -> None:
    """dtable[v] = sum of dy[r] over the r with indices[r] = v, in the order of r. Shapes as above; recent is not used. Each warp covers its share of
    the rows of dtable. Writes dtable (=)."""
    add_rows(task, tasks, dtable, indices.size, (data(indices), data(dy)))


@kernel
def nonzero(task: Int, tasks: Int, mask: Vector, indices: Labels) -> None:
    """mask[r] = 1 where indices[r] is not 0, else 0. Both [R]. Row-local. Writes mask (=)."""
    start, stop = row_share(mask.size, tasks, task)
    T, counts, places = mask.dtype.type, data(mask), data(indices)
    for r in range(start + thread(), stop, THREADS):
        counts[r] = T(1) if places[r] != 0 else T(0)


@kernel
def masking_forward(task: Int, tasks: Int, y: Matrix, mask: Vector, x: Matrix, value: Real) -> None:
    """mask[r] = 0 where all of x[r] is `value`, else 1; y = mask x. Shapes: y, x [N T, F], mask [N T]. Row-local, a row to each warp.
    Writes y, mask (=)."""
    start, stop = row_share(mask.size, tasks, task)
    F, T, ys, counts, xs = x.shape[1], x.dtype.type, data(y), data(mask), data(x)
    for r in range(start + row_of_warp(), stop, WARPS):
        others = int64(0)
        for f in range(warp_lane(), F, 32):
            others += int64(1) if xs[r * F + f] != value else int64(0)
        counted = sum_over_warp(others) > 0
        for f in range(warp_lane(), F, 32):
            ys[r * F + f] = xs[r * F + f] if counted else T(0)
        if warp_lane() == 0:
            counts[r] = T(1) if counted else T(0)


@kernel
def masking_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, mask: Vector) -> None:
    """dx[r] = mask[r] dy[r]. Shapes: dx, dy [N T, F], mask [N T]. Row-local. Writes dx (=)."""
    start, stop = row_share(mask.size, tasks, task)
    F, dxs, dys, counts = dx.shape[1], data(dx), data(dy), data(mask)
    for i in range(start * F + thread(), stop * F, THREADS):
        dxs[i] = counts[divided(i, F)[0]] * dys[i]
