"""Kernels of Embedding and Masking. R indices (batch times inner axes), V rows of the table, D columns; N batch, T steps, F features."""

from __future__ import annotations

from nnkit.jit import Int, Labels, Matrix, Real, Vector, kernel
from nnkit.layers.embedding import MANY, ROUND
from nnkit.prims.feed_cpu import copy_row
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.reduce_cpu import add_masked
from nnkit.prims.rows_cpu import fill_run, scale_run
from nnkit.prims.simd_cpu import address, itemsize, lanes

__all__ = ["embedding_backward", "embedding_forward", "masking_backward", "masking_forward", "nonzero"]


@kernel
def embedding_forward(task: Int, tasks: Int, y: Matrix, indices: Labels, table: Matrix) -> None:
    """y[r] = table[indices[r]]. Shapes: y [R, D], indices [R], table [V, D]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    D, size = table.shape[1], itemsize(y)
    for r in range(start, stop):
        copy_row(address(y) + size * r * D, address(table) + size * indices[r] * D, D, y)


@kernel
def embedding_backward(task: Int, tasks: Int, dtable: Matrix, indices: Labels, dy: Matrix, recent: Vector) -> None:
    """dtable[v] = sum of dy[r] over the r with indices[r] = v, in the order of r. Shapes as above; recent [V D]: where the sums of some thousand
    rows are taken before they are added to the others, so that no term is added to a sum that has outgrown it; or empty, where rows are few.
    Task t covers its share of the rows of dtable. Writes dtable (=)."""
    V, D = dtable.shape
    start, stop = row_share(V, tasks, task)
    size, lane, T = itemsize(dy), lanes(dy), dy.dtype.type
    fill_run(address(dtable) + size * start * D, T(0), (stop - start) * D, dy)
    sums, block = address(dtable), max(indices.size, 1)
    if recent.size:
        sums, block = address(recent), max(MANY, ROUND * V)
        fill_run(sums + size * start * D, T(0), (stop - start) * D, dy)
    for first in range(0, indices.size, block):
        for r in range(first, min(first + block, indices.size)):
            v = indices[r]
            if start <= v < stop:
                for d in range(0, D, lane):
                    add_masked(sums + size * (v * D + d), address(dy) + size * (r * D + d), D - d, dy)
        if recent.size:
            for d in range(start * D, stop * D, lane):
                add_masked(address(dtable) + size * d, sums + size * d, stop * D - d, dy)
            fill_run(sums + size * start * D, T(0), (stop - start) * D, dy)


@kernel
def nonzero(task: Int, tasks: Int, mask: Vector, indices: Labels) -> None:
    """mask[r] = 1 where indices[r] is not 0, else 0. Both [R]. Row-local. Writes mask (=)."""
    start, stop = row_share(mask.size, tasks, task)
    T = mask.dtype.type
    for r in range(start, stop):
        mask[r] = T(1) if indices[r] != 0 else T(0)


@kernel
def masking_forward(task: Int, tasks: Int, y: Matrix, mask: Vector, x: Matrix, value: Real) -> None:
    """mask[r] = 0 where all of x[r] is `value`, else 1; y = mask x. Shapes: y, x [N T, F], mask [N T]. Row-local. Writes y, mask (=)."""
    start, stop = row_share(mask.size, tasks, task)
    F, size = x.shape[1], itemsize(x)
    T = mask.dtype.type
    for r in range(start, stop):
        counts = T(0)
        for f in range(F):
            if x[r, f] != value:
                counts = T(1)
        mask[r] = counts
        if counts != T(0):
            copy_row(address(y) + size * r * F, address(x) + size * r * F, F, x)
        else:
            fill_run(address(y) + size * r * F, T(0), F, x)


@kernel
def masking_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, mask: Vector) -> None:
    """dx[r] = mask[r] dy[r]. Shapes: dx, dy [N T, F], mask [N T]. Row-local. Writes dx (=)."""
    start, stop = row_share(mask.size, tasks, task)
    F, size = dx.shape[1], itemsize(dx)
    for r in range(start, stop):
        scale_run(address(dx) + size * r * F, mask[r], address(dy) + size * r * F, F, dx)
