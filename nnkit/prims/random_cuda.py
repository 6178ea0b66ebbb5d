"""CUDA twin of random_cpu.py: the order of the samples. The same permutation as on the CPU, to the last place."""

from __future__ import annotations

from nnkit.cuda_jit import THREADS, barrier, data, kernel, thread
from nnkit.jit import Counters, Int, Ordinals
from nnkit.philox import philox, place_below
from nnkit.plan.layout import COUNTERS, STREAMS

__all__ = ["shuffle"]

SEED, EPOCH, SHUFFLE = COUNTERS["seed"], COUNTERS["epoch"], STREAMS["shuffle"]


@kernel
def shuffle(task: Int, tasks: Int, order: Ordinals, counters: Counters) -> None:
    """order = the permutation of random_cpu.shuffle: swaps one after the other, so one thread makes them. One task. Writes order (=)."""
    places, counts, n = data(order), data(counters), order.size
    for i in range(thread(), n, THREADS):
        places[i] = i
    barrier()
    if thread() == 0:
        for block in range((n + 3) // 4):
            words = philox(counts[SEED], SHUFFLE, block, 0, counts[EPOCH], counts[SEED] >> 32)
            for lane in range(4):
                i = n - 1 - 4 * block - lane
                if i > 0:
                    j = place_below(words[lane], i + 1)
                    kept = places[i]
                    places[i] = places[j]
                    places[j] = kept
