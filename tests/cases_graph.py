"""Rows of the layers on graphs: isolated nodes, self-loops, directed and weighted graphs, graphs without edges, many small graphs."""

import numpy as np
from scipy import sparse

from cases import Case
from nnkit.graph import Adjacency
from nnkit.layers import GAT, GIN, Add, Dense, Dropout, EdgeDot, GlobalGraphPooling, GraphConv, GraphSAGE
from nnkit.network import Network
from nnkit.tensors import GraphInput, Input


def undirected(rng, V):
    """A symmetric graph of weight 1, about three edges a node, the last node isolated."""
    upper = np.triu(rng.random((V, V)) < 3 / max(V, 3), 1)
    upper[:, -1] = False
    return Adjacency.of((upper | upper.T).astype(float))


def directed(rng, V):
    """Weights from 0.2 to 2, one way each, some self-loops, one row that gathers from nobody."""
    edges = (rng.random((V, V)) < 3 / max(V, 3)) * rng.uniform(0.2, 2, (V, V))
    edges[V // 2] = 0
    return Adjacency.of(sparse.csr_matrix(edges))


def star(rng, V):
    """One node that gathers from all others, and all others from it; weights of both signs that sum to more than 0."""
    edges = np.zeros((V, V))
    edges[0, 1:] = rng.uniform(0.5, 1, V - 1)
    edges[1:, 0] = rng.uniform(0.5, 1, V - 1)
    edges[0, V - 1] *= -0.25 if V > 3 else 1
    return Adjacency.of(edges)


def empty(rng, V):
    return Adjacency.of(sparse.csr_matrix((V, V)))


def small_graphs(rng, G):
    """G graphs of 1 to 4 nodes side by side."""
    return Adjacency.blocks([undirected(rng, int(V)) if V > 1 else empty(rng, 1) for V in rng.integers(1, 5, G)])


def several(rng, B):
    """A graph of 6 nodes, whatever the number of pairs."""
    return directed(rng, 6)


def on_graph(layer, F, is_sparse=False):
    x, a = Input((F,), sparse=is_sparse), GraphInput()
    return Network([x, a], layer([x, a]))


def two_convolutions():
    """Two forms of one graph, a skip connection, a sparse input that is dropped from."""
    x, a = Input((9,), sparse=True), GraphInput()
    h = GraphConv(5, activation="tanh", normalization="row")([x, a])
    return Network([x, a], GraphConv(5)([Add()([h, Dense(5)(x)]), a]))


def dropped():
    x, a = Input((9,), sparse=True), GraphInput()
    return Network([a, x], GraphConv(3, dropout=0.4)([Dropout(0.3)(x), a]))


def pooled(pooling):
    x, a = Input((3,)), GraphInput()
    return Network([x, a], Dense(2)(GlobalGraphPooling(pooling)([GraphSAGE(5)([x, a]), a])))


def pairs():
    x, a, ends = Input((3,)), GraphInput(), Input((2,))
    return Network([x, a, ends], EdgeDot()([GraphConv(5)([x, a]), ends]))


CASES = [
    Case("graph-conv", on_graph(GraphConv(4), 5), adjacency=undirected, batch=7),
    Case("graph-conv-wider", on_graph(GraphConv(17, activation="tanh", use_bias=False), 3), adjacency=directed, batch=5),
    Case("graph-conv-row", on_graph(GraphConv(3, normalization="row", kernel_regularizer="l2", bias_regularizer="l1"), 3), adjacency=directed,
         batch=6),
    Case("graph-conv-plain", on_graph(GraphConv(1, normalization=None, self_loops=False, activity_regularizer="l2"), 2), adjacency=star, batch=5),
    Case("graph-conv-without-loops", on_graph(GraphConv(2, self_loops=False), 4), adjacency=undirected, batch=6),
    Case("graph-conv-no-edges", on_graph(GraphConv(2, normalization=None, self_loops=False), 4), adjacency=empty, batch=3),
    Case("graph-conv-one-node", on_graph(GraphConv(2), 4), adjacency=empty, batch=1),
    Case("graph-conv-no-features", on_graph(GraphConv(2), 0), adjacency=undirected, batch=4),
    Case("graph-conv-sparse", on_graph(GraphConv(19, activation="softmax"), 11, True), adjacency=star, batch=7),
    Case("graph-conv-sparse-frozen", on_graph(GraphConv(4, trainable=False), 5, True), adjacency=undirected, batch=7),
    Case("graph-conv-two-forms", two_convolutions(), adjacency=directed, batch=5),
    Case("graph-conv-dropout", dropped(), adjacency=directed, batch=5, random=True),
    Case("graph-sage", on_graph(GraphSAGE(3), 4), adjacency=directed, batch=6),
    Case("graph-sage-wider", on_graph(GraphSAGE(7, activation="sigmoid", use_bias=False), 2), adjacency=undirected, batch=6),
    Case("graph-sage-sparse", on_graph(GraphSAGE(7), 9, True), adjacency=directed, batch=6),
    Case("graph-sage-max", on_graph(GraphSAGE(3, aggregator="max"), 5), adjacency=undirected, batch=8),
    Case("graph-sage-max-directed", on_graph(GraphSAGE(2, aggregator="max", dropout=0.2), 17), adjacency=directed, batch=5, random=True),
    Case("gat", on_graph(GAT(3, heads=2), 4), adjacency=undirected, batch=6),
    Case("gat-mean", on_graph(GAT(5, heads=3, concat=False, negative_slope=0.5, activation="elu"), 2), adjacency=directed, batch=7),
    Case("gat-one-head", on_graph(GAT(17, use_bias=False, self_loops=False), 3), adjacency=directed, batch=5),
    Case("gat-mean-no-bias", on_graph(GAT(2, heads=2, concat=False, use_bias=False), 3), adjacency=star, batch=5),
    Case("gat-dropout", on_graph(GAT(2, heads=2, attention_dropout=0.4, dropout=0.1), 7, True), adjacency=undirected, batch=6, random=True),
    Case("gin", on_graph(GIN(3), 4), adjacency=undirected, batch=6),
    Case("gin-deep", on_graph(GIN(2, hidden_units=(5, 3), hidden_activation="tanh", eps=0.5, train_eps=True), 3), adjacency=directed, batch=5),
    Case("gin-plain", on_graph(GIN(2, hidden_units=(), use_bias=False, train_eps=True, activation="softplus"), 3), adjacency=star, batch=5),
    Case("gin-sparse", on_graph(GIN(4, hidden_units=6, eps=-0.25, train_eps=True), 9, True), adjacency=directed, batch=5),
    Case("global-graph-pooling", pooled("mean"), adjacency=small_graphs, batch=3),
    Case("global-graph-pooling-sum", pooled("sum"), adjacency=small_graphs, batch=5),
    Case("global-graph-pooling-max", pooled("max"), adjacency=small_graphs, batch=4),
    Case("edge-dot", pairs(), adjacency=several, batch=9),
]
