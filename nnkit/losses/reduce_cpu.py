"""The kernels that turn per-row losses into the step's loss and add it up over the steps of an epoch."""

from __future__ import annotations

from nnkit.jit import Double, Doubles, Int, Vector, kernel
from nnkit.plan.layout import SUMS

__all__ = ["accumulate", "report"]

LOSS, SAMPLES, LAST, TERMS = SUMS["loss"], SUMS["samples"], SUMS["last"], SUMS["terms"]


@kernel
def accumulate(task: Int, tasks: Int, sums: Doubles, rows: Vector, penalties: Doubles, batch: Int, term: Int, unweighted: Double, last: Int
               ) -> None:
    """One term of the loss, the mean of rows [R]: sums[last] grows by it (term 0 begins anew), sums[terms + term] by batch unweighted times it.

    After the last term the loss is whole but for the penalties: they are added, sums[loss] += batch loss, sums[samples] += batch. One task. Sums
    are float64 in a fixed order: eight partial sums over rows r = 0 to 7 modulo 8 (one would wait for the addition before), then these.
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
    value = total / R
    sums[TERMS + term] += unweighted * value * batch
    loss = value if term == 0 else sums[LAST] + value
    if last:
        for p in range(penalties.size):
            loss += penalties[p]
        sums[LOSS] += loss * batch
        sums[SAMPLES] += batch
    sums[LAST] = loss


@kernel
def report(task: Int, tasks: Int, sums: Doubles, value: Doubles, batch: Int, term: Int) -> None:
    """sums[terms + term] += batch value[0]: a penalty that is reported by name. One task. Updates sums (+=)."""
    sums[TERMS + term] += value[0] * batch
