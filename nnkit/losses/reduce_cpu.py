"""The kernel that turns per-row losses into the step's loss and adds it up over the steps of an epoch."""

from __future__ import annotations

from nnkit.jit import Doubles, Int, Vector, kernel
from nnkit.plan.build import SUMS

__all__ = ["accumulate"]

LOSS, SAMPLES, LAST = SUMS["loss"], SUMS["samples"], SUMS["last"]


@kernel
def accumulate(task: Int, tasks: Int, sums: Doubles, rows: Vector, penalties: Doubles, batch: Int) -> None:
    """loss = mean of rows [R] + sum of penalties, in float64 and in order; sums[loss] += batch loss, sums[samples] += batch. One task."""
    total = 0.0
    for r in range(rows.size):
        total += rows[r]
    loss = total / rows.size
    for p in range(penalties.size):
        loss += penalties[p]
    sums[LOSS] += loss * batch
    sums[SAMPLES] += batch
    sums[LAST] = loss
