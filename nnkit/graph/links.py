"""Link prediction: pairs that are no edges, edges held out for validation and test, batches of pairs.

A pair (source, target) stands for the entry A[target, source]: the target gathers from the source. P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np

from nnkit.graph.adjacency import Adjacency
from nnkit.graph.csr import CsrArrays
from nnkit.graph.sampling import COUNTERS, SeedOrder, as_graph, external, step_tape, tasks_of
from nnkit.plan.plan import Step
from nnkit.training.feed import as_seed, as_whole

__all__ = ["EdgeSplit", "LinkBatch", "LinkLoader", "sample_negatives", "split_edges"]

SPARSEST = 1000                                          # at least one of so many ordered pairs must be free
TRIES = 32 * SPARSEST                                    # of two draws each: all fail with a chance of e^-64
STEPS = {"validation": 2**32 - 1, "test": 2**32 - 2}     # of the random counter, far from those of batches


@attrs.frozen(eq=False)
class EdgeSplit:
    """A graph with edges held out.

    Fields:
        adjacency: what is left for training.
        validation, test: held-out edges, int32 (P, 2) of (source, target); an undirected edge once, with source < target.
        validation_negatives, test_negatives: as many pairs that are no edges of the whole graph.
    """

    adjacency: Adjacency
    validation: np.ndarray
    validation_negatives: np.ndarray
    test: np.ndarray
    test_negatives: np.ndarray


@attrs.frozen(eq=False)
class LinkBatch:
    """The whole graph with some pairs of its nodes.

    Fields:
        x: features (V, F), or `CsrArrays`.
        adjacency: of the whole graph.
        pairs: int32 (P, 2) of (source, target).
        y: float32 (P, 1), 1 for an edge, 0 for none.
    """

    x: np.ndarray | CsrArrays
    adjacency: Adjacency
    pairs: np.ndarray
    y: np.ndarray


class _Negatives:
    """Draws pairs that are no edges of a graph, always by the same memory."""

    def __init__(self, adjacency: Adjacency, count: int, seed: int, threads: int | None = None) -> None:
        V, csr = adjacency.nodes, adjacency.csr
        free = V * (V - 1) - int((csr.columns[:csr.entries] != csr.rows).sum())
        if free * SPARSEST < V * V and count:
            raise ValueError(f"adjacency must leave at least one of {SPARSEST} pairs of nodes without an edge to draw negatives, "
                             f"received {free} of {V * V} pairs without one")
        self.counters = np.zeros(len(COUNTERS), np.int64)
        self.counters[COUNTERS["seed"]], self.counters[COUNTERS["tries"]] = seed, TRIES
        self.arrays = {"starts": csr.starts, "columns": csr.columns, "counters": self.counters}
        pairs = external("pairs", np.empty((0, 2), np.int32))
        step = Step("graph.links.draw_negatives", "", "sample", writes=(pairs,), reads=tuple(external(*item) for item in self.arrays.items()),
                    tasks=tasks_of(count))
        self.tape = step_tape("negatives", [step], threads)

    def draw(self, count: int, step: int) -> np.ndarray:
        """int32 (count, 2)."""
        pairs = np.empty((count, 2), np.int32)
        self.counters[COUNTERS["step"]] = step
        self.tape.bind({**self.arrays, "pairs": pairs})
        if count:
            self.tape.run()
        return pairs


def sample_negatives(adjacency: Any, count: int, seed: int = 0, step: int = 0) -> np.ndarray:
    """Pairs (source, target) without an edge from source to target, int32 (count, 2).

    Each is drawn uniformly from all ordered pairs of distinct nodes that are no edge, whatever the others are: a pair may come twice. The same seed
    and step give the same pairs, for any number of threads.

    Args:
        adjacency: whatever `Adjacency.of` takes.
        count: P, at least 0.
        seed: of the draws, at least 0.
        step: another one gives other pairs.

    Raises:
        ValueError: a number below its least; a graph with an edge nearly everywhere.

    >>> sample_negatives(np.array([[0.0, 1.0], [0.0, 0.0]]), 2).tolist()
    [[0, 1], [0, 1]]
    """
    count, step = as_whole(count, 0, "count"), as_whole(step, 0, "step")
    return _Negatives(Adjacency.of(adjacency), count, as_seed(seed)).draw(count, step)


def split_edges(adjacency: Any, validation: float = 0.05, test: float = 0.1, seed: int = 0) -> EdgeSplit:
    """Hold edges out for validation and test; as many pairs without an edge go with them.

    Where every entry has its counterpart in the other direction the graph counts as undirected: both go together. Self-loops stay.

    Args:
        adjacency: whatever `Adjacency.of` takes.
        validation, test: parts of the edges, at least 0, together below 1; numbers of edges are rounded.
        seed: of the choice and the negatives.

    Raises:
        ValueError: parts out of range; a graph with an edge nearly everywhere.
    """
    made, seed = Adjacency.of(adjacency), as_seed(seed)
    parts = {"validation": validation, "test": test}
    for name, part in parts.items():
        if isinstance(part, bool) or not isinstance(part, (int, float, np.floating)) or not 0 <= part < 1:
            raise ValueError(f"{name} must be a number from 0 to below 1, received {part!r}")
    if validation + test >= 1:
        raise ValueError(f"validation and test must be below 1 together, received {validation} and {test}")
    csr = made.csr
    edges, counterparts = _edges_once(csr)
    sources, targets = csr.columns[:csr.entries], csr.rows
    order = edges[SeedOrder(len(edges), seed, True).of(0)]
    kept = np.ones(csr.entries, bool)
    held: dict[str, np.ndarray] = {}
    begin = 0
    for name, part in parts.items():
        chosen = order[begin:begin + round(part * len(edges))]
        begin += len(chosen)
        held[name] = np.stack([sources[chosen], targets[chosen]], axis=1)
        kept[chosen] = kept[counterparts[chosen]] = False
    left = CsrArrays(csr.shape, np.concatenate([[0], np.cumsum(kept)])[csr.starts], sources[kept], csr.values[:csr.entries][kept])
    negatives = _Negatives(made, max(map(len, held.values())), seed)
    drawn = {f"{name}_negatives": negatives.draw(len(pairs), STEPS[name]) for name, pairs in held.items()}
    return EdgeSplit(adjacency=Adjacency(left, made.segments), **held, **drawn)


class LinkLoader:
    """Batches of pairs for link prediction on the whole graph: edges with target 1, and fresh pairs that are none with target 0.

    Goes through all pairs whenever it is iterated over, in another order and with other negatives every time; the same seed gives the same batches.

    Args:
        x: features (V, F): an array, or a SciPy sparse matrix.
        adjacency: the graph that messages go along, whatever `Adjacency.of` takes; negatives are no edges of it.
        pairs: (P, 2) whole numbers (source, target), the edges to be told. Default: the entries of the adjacency, an undirected edge once.
        batch_size: positive pairs of a batch; the last one of an epoch may have fewer.
        negatives: negative pairs for each positive one.
        seed: of order and negatives.

    Raises:
        TypeError, ValueError: what does not fit; one sentence that names it.
    """

    def __init__(self, x: Any, adjacency: Any, pairs: Any = None, *, batch_size: int = 1024, negatives: int = 1, seed: int = 0) -> None:
        self.x, self.adjacency = as_graph(x, adjacency)
        csr = self.adjacency.csr
        once = _edges_once(csr)[0] if pairs is None else None
        self.pairs = _as_pairs(np.stack([csr.columns[once], csr.rows[once]], axis=1) if once is not None else pairs, self.adjacency.nodes)
        self.batch_size = as_whole(batch_size, 1, "batch_size")
        self.negatives = as_whole(negatives, 0, "negatives")
        self.seed = as_seed(seed)
        self.epoch = 0
        self._order = SeedOrder(len(self.pairs), self.seed, True)
        self._negatives = _Negatives(self.adjacency, min(self.batch_size, len(self.pairs)) * self.negatives, self.seed)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.pairs) // self.batch_size)

    def __iter__(self) -> Iterator[LinkBatch]:
        """The batches of the next epoch."""
        epoch, self.epoch = self.epoch, self.epoch + 1
        pairs = self.pairs[self._order.of(epoch)]
        for position in range(len(self)):
            positive = pairs[position * self.batch_size:(position + 1) * self.batch_size]
            negative = self._negatives.draw(len(positive) * self.negatives, epoch * len(self) + position)
            y = np.zeros((len(positive) + len(negative), 1), np.float32)
            y[:len(positive)] = 1
            yield LinkBatch(x=self.x, adjacency=self.adjacency, pairs=np.concatenate([positive, negative]), y=y)


def _edges_once(csr: CsrArrays) -> tuple[np.ndarray, np.ndarray]:
    """Which entries stand for an edge, without self-loops: in an undirected graph those with source < target. And for every entry its counterpart:
    the one in the other direction, in a directed graph itself."""
    starts, columns, places = csr.transposed
    sources, targets = csr.columns[:csr.entries], csr.rows
    if starts is csr.starts and columns is csr.columns:
        return np.flatnonzero(sources < targets), places
    return np.flatnonzero(sources != targets), np.arange(csr.entries)


def _as_pairs(pairs: Any, V: int) -> np.ndarray:
    given = np.asarray(pairs)
    if given.ndim != 2 or given.shape[1] != 2:
        raise ValueError(f"pairs must have shape (pairs, 2), received {given.shape}")
    if not len(given):
        raise ValueError("pairs must hold at least one pair, received none")
    if given.dtype.kind not in "iu":
        raise TypeError(f"pairs must hold whole numbers, received dtype {given.dtype}")
    wrong = (given < 0) | (given >= V)
    if wrong.any():
        p, side = (int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"pairs must hold whole numbers from 0 to {V - 1}, received {given[p, side]} at position ({p}, {side})")
    return given.astype(np.int32)
