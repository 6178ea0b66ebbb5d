"""Sample weights: what losses do to each row for the weight of its sample. R rows, J entries of a row, N samples of R / N rows each."""

from __future__ import annotations

from nnkit.jit import Int, Real, Vector, kernel, routine
from nnkit.prims.rows_cpu import multiply, scale_run
from nnkit.prims.simd_cpu import address, itemsize

__all__ = ["masked", "weigh", "weigh_matrix"]


@kernel
def masked(task: Int, tasks: Int, weights: Vector, w: Vector, mask: Vector, factor: Real) -> None:
    """weights[r] = factor w mask R / (sum of mask R / M): so the mean over all R rows is one over those that count; 0 where none does.

    Shapes: weights [R], w [N], mask [M] of 0 and 1, R a multiple of M, M of N. One task. Writes weights (=).
    """
    R, N, M = weights.size, w.size, mask.size
    count = 0
    for m in range(M):
        count += int(mask[m] != 0)
    scale = factor * weights.dtype.type(M / max(1, count))
    for r in range(R):
        weights[r] = scale * w[r // (R // N)] * mask[r // (R // M)]


@routine
def weigh(rows, w, start, stop):
    """rows[r] *= w of the row's sample, for rows [start, stop) of R; samples N have R / N rows each."""
    per_sample = rows.size // w.size
    if per_sample == 1:
        multiply(address(rows) + itemsize(rows) * start, address(w) + itemsize(w) * start, stop - start, rows)
        return
    n, left = start // per_sample, per_sample - start % per_sample
    for r in range(start, stop):
        rows[r] *= w[n]
        left -= 1
        if left == 0:
            n, left = n + 1, per_sample


@routine
def weigh_matrix(dy, w, start, stop):
    """dy[r, :] *= w of the row's sample, for rows [start, stop) of dy [R, J]. Rows of weight 1, the usual case, are not touched."""
    R, J = dy.shape
    T = dy.dtype.type
    per_sample = R // w.size
    if per_sample == 1 and J == 1:
        multiply(address(dy) + itemsize(dy) * start, address(w) + itemsize(w) * start, stop - start, dy)
        return
    n, left = start // per_sample, per_sample - start % per_sample
    for r in range(start, stop):
        if w[n] != T(1):
            row = address(dy) + itemsize(dy) * r * J
            scale_run(row, w[n], row, J, dy)
        left -= 1
        if left == 0:
            n, left = n + 1, per_sample
