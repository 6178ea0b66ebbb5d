"""Data made on the spot: what the docstrings say of it, and that a seed gives the same again."""

import re

import networkx as nx
import numpy as np
import pytest

from graphs import assert_well_formed
from helpers import refused
from nnkit.datasets import SHAPES, Characters, made_citation_graph, made_random_graph, made_reviews, made_shape_graphs, made_text
from nnkit.graph import normalized


def sentiment(review, vocabulary):
    """The sum of the docstring, word by word."""
    kinds = (vocabulary - 4) // 4
    total, before = 0, None
    for word in review.tolist():
        sign = 1 if 4 <= word < 4 + kinds else -1 if 4 + kinds <= word < 4 + 2 * kinds else 0
        total += -sign if before == 3 else sign
        before = word
    return total


@pytest.mark.parametrize(("samples", "length", "vocabulary", "seed"), [(200, 4, 8, 0), (200, 30, 100, 1), (50, 81, 1000, 2), (1, 5, 9, 3)])
def test_made_reviews(samples, length, vocabulary, seed):
    x, y = made_reviews(samples, length, vocabulary, seed)
    assert x.shape == y.shape == (samples,)
    assert y.dtype == np.int64
    for review, label in zip(x, y, strict=True):
        assert review.dtype == np.int32
        assert (length + 1) // 2 <= len(review) <= length
        assert review[0] == 1
        assert review[1:].min() >= 3
        assert review.max() < vocabulary
        total = sentiment(review, vocabulary)
        assert total != 0
        assert (total > 0) == label
    again, labels = made_reviews(samples, length, vocabulary, seed)
    np.testing.assert_array_equal(y, labels)
    for review, same in zip(x, again, strict=True):
        np.testing.assert_array_equal(review, same)


def test_the_order_of_made_reviews_matters_a_bit():
    x, y = made_reviews(1000, 40, 100, seed=0)
    assert 0.45 < y.mean() < 0.55                        # four standard deviations
    counts = np.array([((review >= 4) & (review < 28)).sum() - ((review >= 28) & (review < 52)).sum() for review in x])
    assert 0.7 < np.mean((counts > 0) == y) < 0.9        # without the order
    assert len({len(review) for review in x}) > 10
    assert not np.array_equal(made_reviews(1000, 40, 100, seed=1)[1], y)


def test_made_text():
    text = made_text(5000, seed=0)
    assert len(text) == 5000
    assert text == made_text(5000, seed=0)
    assert made_text(5000, seed=1) != text
    assert made_text(70, seed=0) == text[:70]
    assert len(Characters.fit(text)) < 40
    assert len(set(re.findall("[a-z]+", text[:4000].lower()))) == 30
    assert all(len(sentence.split()) == 6 for sentence in re.split(r"[.!?]\s", text)[:-1])


def test_wrong_sizes_of_made_data():
    refused("samples must be a whole number at least 1, received 0", made_reviews, 0, 10, 20, 0)
    refused("length must be a whole number at least 4, received 3", made_reviews, 1, 3, 20, 0)
    refused("vocabulary must be a whole number at least 8, received 7", made_reviews, 1, 10, 7, 0)
    refused("seed must be a whole number at least 0, received None", made_reviews, 1, 10, 20, None)
    refused("characters must be a whole number at least 1, received 0", made_text, 0, 0)
    refused("seed must be a whole number at least 0, received -1", made_text, 1, -1)


# Graphs.

def shape_of(adjacency):
    """The shape of a graph by degrees, edges and connection alone."""
    graph = nx.from_scipy_sparse_array(adjacency.csr.matrix)
    V, E = len(graph), graph.number_of_edges()
    degrees = sorted(degree for _, degree in graph.degree)
    assert nx.is_connected(graph)
    if V - 1 == E:
        return "path" if degrees[-1] == 2 else "star" if degrees[-1] == V - 1 else "tree"
    if degrees[0] == degrees[-1] == 2:
        return "cycle"
    if degrees == [3] * (V - 1) + [V - 1]:
        return "wheel"
    assert any(nx.is_isomorphic(graph, nx.grid_2d_graph(a, V // a)) for a in range(2, V // 2 + 1) if V % a == 0)
    return "grid"


def test_shape_graphs():
    features, adjacencies, labels = made_shape_graphs(301, seed=0)
    assert len(features) == len(adjacencies) == len(labels) == 301
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(np.sort(np.bincount(labels)), [50] * 5 + [51])
    for x, adjacency, label in zip(features, adjacencies, labels, strict=True):
        assert_well_formed(adjacency.csr)
        assert adjacency.is_symmetric
        assert 6 <= adjacency.nodes <= 20
        assert shape_of(adjacency) == SHAPES[label]
        np.testing.assert_array_equal(x, np.ones((adjacency.nodes, 1), np.float32))
    assert {adjacency.nodes for adjacency in adjacencies} == set(range(6, 21))
    hubs = [int(np.diff(adjacency.csr.starts).argmax()) for adjacency, label in zip(adjacencies, labels, strict=True) if SHAPES[label] == "star"]
    assert len(set(hubs)) > 5                            # numbered at random
    again = made_shape_graphs(301, seed=0)
    np.testing.assert_array_equal(again[2], labels)
    assert all(np.array_equal(one.edges, other.edges) for one, other in zip(adjacencies, again[1], strict=True))
    assert not np.array_equal(made_shape_graphs(301, seed=1)[2], labels)


def test_citation_graph():
    graph = made_citation_graph(1000, 5, 300, seed=0)
    s, t = graph.adjacency.edges
    assert_well_formed(graph.adjacency.csr)
    assert graph.adjacency.is_symmetric
    assert (s != t).all()
    np.testing.assert_array_equal(graph.adjacency.csr.values, 1)
    assert 3.8 < graph.adjacency.entries / 1000 <= 4
    assert 0.7 < np.mean(graph.labels[s] == graph.labels[t]) < 0.82                       # 0.7 + 0.3 / 5, give or take 4 standard deviations
    np.testing.assert_array_equal(np.bincount(graph.labels), [200] * 5)
    assert graph.features.shape == (1000, 300)
    assert graph.features.dtype == np.float32
    np.testing.assert_array_equal(np.unique(graph.features.data), 1)
    np.testing.assert_array_equal(np.bincount(graph.labels[graph.train_mask]), [20] * 5)
    assert [int(mask.sum()) for mask in (graph.validation_mask, graph.test_mask)] == [200, 400]
    assert (graph.train_mask.astype(int) + graph.validation_mask + graph.test_mask).max() == 1
    words, propagate = graph.features.toarray().astype(np.float64), normalized(graph.adjacency)
    assert nearest(graph, words) + 0.1 < nearest(graph, propagate @ (propagate @ words))
    again = made_citation_graph(1000, 5, 300, seed=0)
    np.testing.assert_array_equal(again.adjacency.edges, graph.adjacency.edges)
    np.testing.assert_array_equal(again.features.indices, graph.features.indices)
    small = made_citation_graph(8, 2, 2, seed=0)
    assert [int(mask.sum()) for mask in (small.train_mask, small.validation_mask, small.test_mask)] == [2, 1, 3]


def nearest(graph, x):
    """The accuracy of the nearest class mean of the training nodes."""
    means = np.stack([x[graph.train_mask & (graph.labels == k)].mean(0) for k in range(graph.classes)])
    guess = ((x[:, None] - means) ** 2).sum(-1).argmin(1)
    return np.mean((guess == graph.labels)[graph.test_mask])


@pytest.mark.parametrize("kind", ["uniform", "power_law"])
def test_random_graphs(kind):
    for nodes, edges in ((2, 0), (5, 5), (40, 390), (3000, 20_000)):
        graph = made_random_graph(nodes, edges, kind, seed=1)
        assert_well_formed(graph.csr)
        assert (graph.nodes, graph.entries) == (nodes, edges)
        assert (graph.edges[0] != graph.edges[1]).all()
        np.testing.assert_array_equal(graph.csr.values, 1)
        np.testing.assert_array_equal(graph.edges, made_random_graph(nodes, edges, kind, seed=1).edges)
    assert not np.array_equal(graph.edges, made_random_graph(nodes, edges, kind, seed=2).edges)
    degrees = np.diff(graph.csr.starts)                  # mean 6.7
    assert degrees.max() > 200 if kind == "power_law" else degrees.max() < 30
    if kind == "power_law":
        assert np.bincount(graph.edges[0]).max() > 200
        assert degrees.argmax() != 0


def test_wrong_arguments_of_graphs():
    for function, arguments, named in ((made_shape_graphs, (0, 0), "n must be a whole number at least 1, received 0"),
                                       (made_shape_graphs, (1, -1), "seed must be a whole number at least 0, received -1"),
                                       (made_citation_graph, (7, 2, 9, 0), "nodes must be a whole number at least 8, received 7"),
                                       (made_citation_graph, (9, 1, 9, 0), "classes must be a whole number at least 2, received 1"),
                                       (made_citation_graph, (9, 2, 1, 0), "features must be a whole number at least 2, received 1"),
                                       (made_random_graph, (1, 0), "nodes must be a whole number at least 2, received 1"),
                                       (made_random_graph, (5, 2.0), "edges must be a whole number at least 0, received 2.0"),
                                       (made_random_graph, (5, 5, "star"), "kind must be 'uniform' or 'power_law', received 'star'")):
        refused(named, function, *arguments)
    rule = "nodes must be fewer than 2**31, and edges too and at most a quarter of nodes * (nodes - 1), received"
    refused(f"{rule} 5 and 6", made_random_graph, 5, 6)
    refused(f"{rule} 2147483648 and 1", made_random_graph, 2**31, 1)
