"""CUDA twins of touched_cpu.py, and sums into the rows of a table that lists of indices name.

V rows of the table, D columns, R indices, M places for distinct rows: the lesser of R and V.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int64

from nnkit.cuda_jit import data, routine
from nnkit.prims.block_cuda import AT_ONCE, WARPS, row_share
from nnkit.prims.rows_cuda import row_of_warp, sum_over_warp, warp_lane

__all__ = ["scanning"]


def scanning(touches: Callable[..., Any], add: Callable[..., Any]) -> Any:
    """f(task, tasks, table, n, held): table [V, D] = 0; then add(table, held, begin, end, first, stop) for runs of the r < n, in their order, where
    some r touches(held, r, first, stop): whether r names one of the rows first <= v < stop. Each warp has its share of the rows and looks at all r,
    as many at a time as it has lanes, and AT_ONCE for each; no two warps write one row."""
    @routine
    def scan(task, tasks, table, n, held):
        V, D = table.shape
        ys, T = data(table), table.dtype.type
        first, stop = row_share(V, tasks * WARPS, task * WARPS + row_of_warp())
        for row in range(first, stop):
            for d in range(warp_lane(), D, 32):          # each number by the lane that adds to it
                ys[row * D + d] = T(0)
        span = 32 * AT_ONCE
        for batch in range(0, n if first < stop else 0, span):
            found = int64(0)
            for u in range(AT_ONCE):
                r = batch + 32 * u + warp_lane()
                if touches(held, min(r, n - 1), first, stop) and r < n:
                    found = int64(1)
            if sum_over_warp(found) > 0:
                add(table, held, batch, min(batch + span, n), first, stop)
    return scan
