"""Sampling from large graphs: neighbourhoods, negative pairs, held-out edges. benchmarks/neighbors.py compares with PyTorch Geometric."""

import numpy as np
import scipy.sparse

from nnkit.graph.adjacency import Adjacency
from nnkit.graph.links import sample_negatives, split_edges
from nnkit.graph.sampling import NeighborLoader

V, E, BATCH = 200_000, 2_000_000, 1024


def made_graph(kind, weighted=False):
    """Both ends of E edges uniform, or of a density that falls like a power."""
    rng = np.random.default_rng(0)
    target, source = (rng.permutation(V)[np.minimum((V * rng.random(E) ** (power if kind == "power law" else 1)).astype(np.int64), V - 1)]
                      for power in (2, 3))
    matrix = scipy.sparse.coo_matrix((np.ones(E), (target, source)), (V, V)).tocsr()
    matrix.data = rng.uniform(0.5, 2.0, matrix.nnz) if weighted else np.ones(matrix.nnz)
    return Adjacency.of(matrix)


class Neighbors:
    """One batch of 1024 seeds: sampled, with the features and targets of its nodes."""

    params = (("uniform", "power law"), (False, True), ((10, 10), (25, 10), (-1,)), (1, 64))
    param_names = ("graph", "weighted", "fan_outs", "features")

    def setup(self, graph, weighted, fan_outs, features):
        adjacency = made_graph(graph, weighted)
        x = np.random.default_rng(1).random((V, features), np.float32)
        self.loader = NeighborLoader(x, adjacency, np.zeros(V, np.int64), fan_outs=fan_outs, batch_size=BATCH)
        batch = next(iter(self.loader))
        csr = batch.adjacency.csr
        rows, columns = batch.nodes[csr.rows], batch.nodes[csr.columns[:csr.entries]]
        assert np.array_equal(csr.values[:csr.entries], np.asarray(adjacency.csr.matrix[rows, columns]).ravel())
        assert np.array_equal(batch.x[:len(batch.nodes)], x[batch.nodes])
        self.batches = iter(self.loader)

    def batch(self):
        found = next(self.batches, None)
        if found is None:
            self.batches = iter(self.loader)
            found = next(self.batches)
        return found

    def time_batch(self, graph, weighted, fan_outs, features):
        self.batch()

    def track_entries(self, graph, weighted, fan_outs, features):
        """Sampled entries of a batch."""
        return self.batch().adjacency.entries


class Links:
    """Pairs that are no edges, and edges held out."""

    params = ("uniform", "power law")
    param_names = ("graph",)

    def setup(self, graph):
        self.adjacency = made_graph(graph)
        source, target = sample_negatives(self.adjacency, 100).T
        assert not np.asarray(self.adjacency.csr.matrix[target, source]).any()
        assert len(split_edges(self.adjacency).test) > 0

    def time_negatives(self, graph):
        sample_negatives(self.adjacency, 100_000)

    def time_split(self, graph):
        split_edges(self.adjacency)
