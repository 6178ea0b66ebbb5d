"""Batches of many small graphs, side by side in one adjacency of blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from nnkit.graph.adjacency import Adjacency
from nnkit.graph.sampling import GraphBatch, SeedOrder, bucket
from nnkit.training.feed import as_seed, as_whole

__all__ = ["GraphLoader"]


class GraphLoader:
    """Batches of whole graphs for networks with a row for each graph: goes through all of them whenever iterated over, each time in another order.

    A batch is a `GraphBatch`: the nodes of its graphs one graph after the other, an adjacency of blocks, targets for each graph. It is padded with
    nodes of no graph to one of few shapes, for which plans are kept. The same seed gives the same batches, epoch by epoch.

    Args:
        x: for each graph its features (V, F); F is the same for all.
        adjacencies: for each graph whatever `Adjacency.of` takes.
        y: targets (graphs,) or (graphs, k); None for none.
        batch_size: graphs of a batch; the last one of an epoch may have fewer.
        shuffle: whether every epoch has an order of its own, default True.
        seed: of the order.

    Raises:
        TypeError, ValueError: what does not fit; one sentence that names it.

    >>> ring = np.roll(np.eye(4), 1, axis=0) + np.roll(np.eye(4), -1, axis=0)
    >>> loader = GraphLoader([np.ones((4, 2))] * 5, [ring] * 5, [0, 1, 0, 1, 0], batch_size=2)
    >>> [batch.y.tolist() for batch in loader][-1], [batch.adjacency.graphs for batch in loader]
    ([1], [2, 2, 1])
    """

    def __init__(self, x: Sequence[Any], adjacencies: Sequence[Any], y: Any = None, *, batch_size: int = 32, shuffle: bool = True,
                 seed: int = 0) -> None:
        self.x, given_adjacencies = [np.asarray(rows) for rows in x], list(adjacencies)
        self.y = None if y is None else np.asarray(y)
        self.batch_size = as_whole(batch_size, 1, "batch_size")
        self.epoch = 0
        if not self.x:
            raise ValueError("x must have the features of at least one graph, received none")
        for what, given in (("adjacencies", given_adjacencies), ("y", self.y)):
            if given is not None and len(given) != len(self.x):
                raise ValueError(f"{what} must have an entry for each of the {len(self.x)} graphs, received {len(given)}")
        self.adjacencies = [Adjacency.around(adjacency, len(rows) if rows.ndim else None)
                            for adjacency, rows in zip(given_adjacencies, self.x, strict=True)]
        for number, (rows, adjacency) in enumerate(zip(self.x, self.adjacencies, strict=True)):
            if rows.ndim != 2 or rows.shape != (adjacency.nodes, self.x[0].shape[-1]):
                raise ValueError(f"x[{number}] must have shape ({adjacency.nodes}, {self.x[0].shape[-1]}), a row for each node of the graph, "
                                 f"received {rows.shape}")
            if adjacency.graphs != 1:
                raise ValueError(f"adjacencies[{number}] must be one graph, received {adjacency.graphs}")
        self._order = SeedOrder(len(self.x), as_seed(seed), bool(shuffle))

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.x) // self.batch_size)

    def __iter__(self) -> Iterator[GraphBatch]:
        """The batches of the next epoch."""
        epoch, self.epoch = self.epoch, self.epoch + 1
        order = self._order.of(epoch)
        for position in range(len(self)):
            yield self._batch(order[position * self.batch_size:(position + 1) * self.batch_size])

    def _batch(self, graphs: np.ndarray) -> GraphBatch:
        blocks = Adjacency.blocks([self.adjacencies[number] for number in graphs])
        padded = blocks.padded(bucket(blocks.nodes), bucket(blocks.entries))
        x = np.zeros((padded.nodes, self.x[0].shape[1]), np.result_type(*(self.x[number] for number in graphs)))
        np.concatenate([self.x[number] for number in graphs], out=x[:blocks.nodes])
        y = None if self.y is None else self.y[graphs]
        return GraphBatch(x=x, adjacency=padded, y=y, mask=np.ones(len(graphs), bool), nodes=graphs.astype(np.int32))
