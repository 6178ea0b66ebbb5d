"""CUDA twins of pointwise_cpu.py: the loops that pointwise losses share.

R rows, J entries of a row, N samples (R / N rows each): row r has the weight w[r // (R // N)].
"""

from __future__ import annotations

import inspect

import numpy as np

from nnkit.cuda_jit import THREADS, Kernel, data, kernel, routine, thread
from nnkit.jit import Int, Matrix, Real, Vector, scalar
from nnkit.jit import Kernel as Twin
from nnkit.prims.block_cuda import row_share
from nnkit.prims.rows_cuda import row_of_warp, sum_over_warp, warp_lane

__all__ = ["pointwise_loss", "weight_of"]


@routine
def weight_of(w, r, R):
    """The weight of the sample that row r of R belongs to."""
    return data(w)[r] if w.size == R else data(w)[np.uint32(r) // (np.uint32(R) // np.uint32(w.size))]


def pointwise_loss(forward_twin: Twin, backward_twin: Twin) -> tuple[Kernel, Kernel]:
    """The forward and the backward kernel of the scalar functions that their twins are made of."""
    f, df = forward_twin.formula, backward_twin.formula
    assert f is not None
    assert df is not None
    count = len(inspect.signature(f).parameters) - 2
    inner, inner_derivative = scalar(f), scalar(df)

    @kernel
    def forward(task: Int, tasks: Int, rows: Vector, y: Matrix, t: Matrix, w: Vector, terms: Matrix, share: Real, p0: Real, p1: Real) -> None:
        """rows[r] = w share sum_j f(y[r, j], t[r, j]). Shapes: rows [R], y, t [R, J], w [N]; terms is not used. Row-local. Writes rows (=).

        One thread a row where J is 1, else one warp.
        """
        start, stop = row_share(y.shape[0], tasks, task)
        constants = (p0, p1)[:count]
        R, J = y.shape
        ls, ys, ts = data(rows), data(y), data(t)
        if J == 1:
            for r in range(start + thread(), stop, THREADS):
                ls[r] = inner(ys[r], ts[r], *constants) * weight_of(w, r, R)
            return
        for r in range(start + row_of_warp(), stop, THREADS // 32):
            total = type(p0)(0)
            for i in range(r * J + warp_lane(), (r + 1) * J, 32):
                total += inner(ys[i], ts[i], *constants)
            total = sum_over_warp(total)
            if warp_lane() == 0:
                ls[r] = total * share * weight_of(w, r, R)

    @kernel
    def backward(task: Int, tasks: Int, dy: Matrix, y: Matrix, t: Matrix, w: Vector, share: Real, p0: Real, p1: Real) -> None:
        """dy[r, j] = w share / R f'(y[r, j], t[r, j]). Shapes: dy, y, t [R, J], w [N]. Row-local. Writes dy (=)."""
        start, stop = row_share(y.shape[0], tasks, task)
        constants = (p0, p1)[:count]
        R, J = y.shape
        scale = share / type(p0)(R)
        ds, ys, ts = data(dy), data(y), data(t)
        for i in range(start * J + thread(), stop * J, THREADS):
            r = i if J == 1 else np.int64(np.uint32(i) // np.uint32(J))
            ds[i] = scale * inner_derivative(ys[i], ts[i], *constants) * weight_of(w, r, R)
    return forward, backward
