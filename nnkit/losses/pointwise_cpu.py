"""The loops that pointwise losses share: mean over the last axis, sample weights, and the gradient.

R rows, J entries of a row, N samples (R / N rows each): row r has the weight w[r // (R // N)].
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from nnkit.jit import Int, Kernel, Matrix, Real, Vector, kernel, scalar
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.simd_cpu import address, itemsize, part, sum_run

__all__ = ["pointwise_loss"]


def pointwise_loss(f: Callable[..., Any], df: Callable[..., Any]) -> tuple[Kernel, Kernel]:
    """The forward and the backward kernel of l = f(y, t, constants...) with df = dl/dy; at most two constants."""
    count = len(inspect.signature(f).parameters) - 2
    inner, inner_derivative = scalar(f), scalar(df)

    @kernel
    def forward(task: Int, tasks: Int, rows: Vector, y: Matrix, t: Matrix, w: Vector, terms: Matrix, p0: Real, p1: Real) -> None:
        """rows[r] = w mean_j f(y[r, j], t[r, j]). Row-local; terms [R, J] is scratch. Writes rows (=)."""
        start, stop = row_share(y.shape[0], tasks, task)
        constants = (p0, p1)[:count]
        J = y.shape[1]
        T = type(p0)
        ys, ts, ls = part(y, start * J, stop * J), part(t, start * J, stop * J), part(terms, start * J, stop * J)
        for i in range(ls.size):
            ls[i] = inner(ys[i], ts[i], *constants)
        scale = T(1) / T(J)
        per_sample = rows.size // w.size
        for r in range(start, stop):
            total = terms[r, 0] if J == 1 else sum_run(address(terms) + itemsize(terms) * r * J, J, terms)
            rows[r] = total * scale * w[r // per_sample]

    @kernel
    def backward(task: Int, tasks: Int, dy: Matrix, y: Matrix, t: Matrix, w: Vector, p0: Real, p1: Real) -> None:
        """dy[r, j] = w / (R J) f'(y[r, j], t[r, j]). Row-local. Writes dy (=)."""
        start, stop = row_share(y.shape[0], tasks, task)
        constants = (p0, p1)[:count]
        R, J = y.shape
        T = type(p0)
        scale = T(1) / (T(R) * T(J))
        per_sample = R // w.size
        dys, ys, ts = part(dy, start * J, stop * J), part(y, start * J, stop * J), part(t, start * J, stop * J)
        for i in range(dys.size):
            dys[i] = scale * inner_derivative(ys[i], ts[i], *constants)
        for r in range(start, stop):
            factor = w[r // per_sample]
            if factor != T(1):
                row = part(dy, r * J, (r + 1) * J)
                for j in range(J):
                    row[j] *= factor
    return forward, backward
