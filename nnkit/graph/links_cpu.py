"""The kernel that draws pairs of nodes that are no edges. V nodes and E entries of the graph, P pairs."""

from __future__ import annotations

from nnkit.graph.sampling import COUNTERS, STREAMS
from nnkit.graph.sampling_cpu import below
from nnkit.jit import Int, LabelMatrix, Labels, Ordinals, kernel, routine
from nnkit.philox import philox
from nnkit.prims.matmul_cpu import row_share

__all__ = ["draw_negatives"]

SEED, STEP, TRIES, NEGATIVES = COUNTERS["seed"], COUNTERS["step"], COUNTERS["tries"], STREAMS["negatives"]


@routine
def holds(columns, start, stop, j):
    """Whether the sorted columns[start:stop] hold j: by halves."""
    end = stop
    while start < stop:
        middle = (start + stop) // 2
        if columns[middle] < j:
            start = middle + 1
        else:
            stop = middle
    return start < end and columns[start] == j


@kernel
def draw_negatives(task: Int, tasks: Int, pairs: LabelMatrix, starts: Ordinals, columns: Labels, counters: Ordinals) -> None:
    """pairs[p] = (source, target): no edge, no node with itself, all such pairs equally likely; -1 where `tries` draws of two found none.

    Shapes: pairs [P, 2], starts [V + 1], columns [E]. A task covers its share of the pairs. Writes pairs (=).
    """
    start, stop = row_share(pairs.shape[0], tasks, task)
    V, seed = starts.size - 1, counters[SEED]
    for p in range(start, stop):
        pairs[p, 0], pairs[p, 1] = -1, -1
        for k in range(counters[TRIES]):
            w0, w1, w2, w3 = philox(seed, NEGATIVES, p, k, counters[STEP], seed >> 32)
            source, target = below(w0, V), below(w1, V)
            taken = source == target or holds(columns, starts[target], starts[target + 1], source)
            if taken:
                source, target = below(w2, V), below(w3, V)
                taken = source == target or holds(columns, starts[target], starts[target + 1], source)
            if not taken:
                pairs[p, 0], pairs[p, 1] = source, target
                break
