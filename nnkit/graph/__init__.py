"""Graphs: adjacencies from SciPy, NetworkX, edge arrays or dense arrays, and what graph networks take of them.

    adjacency = Adjacency.of(scipy_csr_matrix)
    normalized(adjacency)                                # what GraphConv multiplies by
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkit.graph.adjacency import Adjacency
from nnkit.graph.blocks import GraphLoader
from nnkit.graph.csr import CsrArrays, as_members
from nnkit.graph.links import EdgeSplit, LinkBatch, LinkLoader, sample_negatives, split_edges
from nnkit.graph.sampling import GraphBatch, NeighborLoader
from nnkit.training.feed import as_whole

__all__ = [
    "Adjacency", "CsrArrays", "EdgeSplit", "GraphBatch", "GraphLoader", "LinkBatch", "LinkLoader", "NeighborLoader", "mask_of", "normalized",
    "sample_negatives", "split_edges",
]


def normalized(adjacency: Any, normalization: str | None = "symmetric", self_loops: bool = True) -> Any:
    """The adjacency as graph convolutions multiply by it: a new scipy.sparse.csr_matrix (V, V) in float64.

    >>> normalized(np.array([[0.0, 1.0], [1.0, 0.0]])).toarray()
    array([[0.5, 0.5],
           [0.5, 0.5]])

    Args:
        adjacency: all that `Adjacency.of` takes.
        normalization: "symmetric" (default), D^-1/2 A~ D^-1/2; "row", D^-1 A~; or None, A~. D_ii is the sum of row i of A~.
        self_loops: whether A~ is A + I (default) or A.

    Raises:
        TypeError, ValueError: no adjacency; another normalization; a row with a negative sum, unless normalization is None.
    """
    return Adjacency.of(adjacency).form(normalization, self_loops).matrix


def mask_of(indices: Any, nodes: int) -> np.ndarray:
    """The mask (nodes,) that is True at these indices.

    >>> mask_of([0, 2], 4)
    array([ True, False,  True, False])

    Args:
        indices: whole numbers from 0 to nodes - 1; repeated ones count once.
        nodes: at least 1.

    Raises:
        TypeError: indices that are no whole numbers.
        ValueError: one out of range; nodes below 1; a mask of numbers in place of indices.
    """
    mask = np.zeros(as_whole(nodes, 1, "nodes"), bool)
    mask[as_members(indices, nodes, "indices")] = True
    return mask
