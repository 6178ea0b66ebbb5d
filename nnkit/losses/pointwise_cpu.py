"""The loops that pointwise losses share: sum over the last axis, sample weights, and the gradient.

R rows, J entries of a row, N samples (R / N rows each): row r has the weight w[r // (R // N)].
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from nnkit.jit import Int, Kernel, Matrix, Real, Vector, kernel, scalar
from nnkit.losses.weights_cpu import weigh, weigh_matrix
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.rows_cpu import sum_run
from nnkit.prims.simd_cpu import address, itemsize, part

__all__ = ["pointwise_loss"]


def pointwise_loss(f: Callable[..., Any], df: Callable[..., Any]) -> tuple[Kernel, Kernel]:
    """The forward and the backward kernel of l = f(y, t, constants...) with df = dl/dy; at most two constants.

    share: what one entry counts in its row, 1 / J for a mean and 1 for a sum.
    """
    count = len(inspect.signature(f).parameters) - 2
    inner, inner_derivative = scalar(f), scalar(df)

    @kernel
    def forward(task: Int, tasks: Int, rows: Vector, y: Matrix, t: Matrix, w: Vector, terms: Matrix, share: Real, p0: Real, p1: Real) -> None:
        """rows[r] = w share sum_j f(y[r, j], t[r, j]). Shapes: rows [R], y, t [R, J], w [N], scratch terms [R, J]. Row-local. Writes rows (=)."""
        start, stop = row_share(y.shape[0], tasks, task)
        constants = (p0, p1)[:count]
        J = y.shape[1]
        ys, ts = part(y, start * J, stop * J), part(t, start * J, stop * J)
        ls = part(rows, start, stop) if J == 1 else part(terms, start * J, stop * J)
        for i in range(ls.size):
            ls[i] = inner(ys[i], ts[i], *constants)
        if J != 1:
            for r in range(start, stop):
                rows[r] = sum_run(address(terms) + itemsize(terms) * r * J, J, terms) * share
        weigh(rows, w, start, stop)

    @kernel
    def backward(task: Int, tasks: Int, dy: Matrix, y: Matrix, t: Matrix, w: Vector, share: Real, p0: Real, p1: Real) -> None:
        """dy[r, j] = w share / R f'(y[r, j], t[r, j]). Shapes: dy, y, t [R, J], w [N]. Row-local. Writes dy (=)."""
        start, stop = row_share(y.shape[0], tasks, task)
        constants = (p0, p1)[:count]
        R, J = y.shape
        T = type(p0)
        scale = share / T(R)
        dys, ys, ts = part(dy, start * J, stop * J), part(y, start * J, stop * J), part(t, start * J, stop * J)
        for i in range(dys.size):
            dys[i] = scale * inner_derivative(ys[i], ts[i], *constants)
        weigh_matrix(dy, w, start, stop)
    forward.formula, backward.formula = f, df
    return forward, backward
