"""The kernel that turns per-row losses into the step's loss and adds it up over the steps of an epoch."""

from __future__ import annotations

from nnkit.jit import Doubles, Int, Vector, kernel
from nnkit.plan.build import SUMS

__all__ = ["accumulate"]

LOSS, SAMPLES, LAST = SUMS["loss"], SUMS["samples"], SUMS["last"]


@kernel
def accumulate(task: Int, tasks: Int, sums: Doubles, rows: Vector, penalties: Doubles, batch: Int) -> None:
    """loss = mean of rows [R] + sum of penalties; sums[loss] += batch loss, sums[samples] += batch, sums[last] = loss. One task.

    Sums are float64 in a fixed order: eight partial sums over rows r = 0 to 7 modulo 8 (one would wait for the addition before), then these.
    """
    R = rows.size
    whole = R // 8 * 8
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    for r in range(0, whole, 8):
        s0 += rows[r]
        s1 += rows[r + 1]
        s2 += rows[r + 2]
        s3 += rows[r + 3]
        s4 += rows[r + 4]
        s5 += rows[r + 5]
        s6 += rows[r + 6]
        s7 += rows[r + 7]
    total = ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))
    for r in range(whole, R):
        total += rows[r]
    loss = total / R
    for p in range(penalties.size):
        loss += penalties[p]
    sums[LOSS] += loss * batch
    sums[SAMPLES] += batch
    sums[LAST] = loss
