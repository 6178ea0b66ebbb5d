"""CUDA twins of reduce_cpu.py: per-row losses into the step's loss, added up over the steps of an epoch."""

from __future__ import annotations

from nnkit.cuda_jit import THREADS, data, kernel, scratch, thread
from nnkit.jit import Double, Doubles, Int, Vector
from nnkit.plan.layout import SUMS
from nnkit.prims.block_cuda import block_sum

__all__ = ["accumulate", "report"]

LOSS, SAMPLES, LAST, TERMS = SUMS["loss"], SUMS["samples"], SUMS["last"], SUMS["terms"]
TOGETHER = 16                                            # rows that a thread reads at a time: the block is alone with all of them


@kernel
def accumulate(task: Int, tasks: Int, sums: Doubles, rows: Vector, penalties: Doubles, batch: Int, term: Int, unweighted: Double, last: Int
               ) -> None:
    """One term of the loss, the mean of rows [R]; see the twin. One task. Sums are float64 in a fixed order: each thread's rows r, r + THREADS, ...,
    then a tree over the threads."""
    t, R = thread(), rows.size
    values, totals, more = data(rows), data(sums), data(penalties)
    own, whole = 0.0, R // (TOGETHER * THREADS) * (TOGETHER * THREADS)
    for r in range(t, whole, TOGETHER * THREADS):
        for u in range(TOGETHER):
            own += values[r + u * THREADS]
    for r in range(whole + t, R, THREADS):
        own += values[r]
    total = block_sum(own, scratch(sums))
    if t == 0:
        value = total / R
        totals[TERMS + term] += unweighted * value * batch
        loss = value if term == 0 else totals[LAST] + value
        if last:
            for p in range(penalties.size):
                loss += more[p]
            totals[LOSS] += loss * batch
            totals[SAMPLES] += batch
        totals[LAST] = loss


@kernel
def report(task: Int, tasks: Int, sums: Doubles, value: Doubles, batch: Int, term: Int) -> None:
    """sums[terms + term] += batch value[0]: a penalty that is reported by name. One task. Updates sums (+=)."""
    if thread() == 0:
        data(sums)[TERMS + term] += data(value)[0] * batch
