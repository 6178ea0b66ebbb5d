"""Kernels that need random numbers of their own: the order of the samples."""

from __future__ import annotations

from nnkit.jit import Counters, Int, Ordinals, kernel
from nnkit.philox import philox, place_below
from nnkit.plan.layout import COUNTERS, STREAMS

__all__ = ["shuffle"]

SEED, EPOCH, SHUFFLE = COUNTERS["seed"], COUNTERS["epoch"], STREAMS["shuffle"]


@kernel
def shuffle(task: Int, tasks: Int, order: Ordinals, counters: Counters) -> None:
    """order = a permutation of 0 ... n - 1 that depends on seed and epoch alone (Fisher and Yates; Durstenfeld 1964). One task. Writes order (=).

    A place below i + 1 is drawn by `place_below`. The seed's upper half is part of the counter.
    """
    for i in range(order.size):
        order[i] = i
    for block in range((order.size + 3) // 4):
        words = philox(counters[SEED], SHUFFLE, block, 0, counters[EPOCH], counters[SEED] >> 32)
        for lane in range(4):
            i = order.size - 1 - 4 * block - lane
            if i > 0:
                j = place_below(words[lane], i + 1)
                order[i], order[j] = order[j], order[i]
