"""Link prediction: negatives that are no edges and uniform, edges held out, batches of pairs, refusals."""

import numpy as np
import pytest
import scipy.sparse
from scipy import stats

from helpers import debug_mode, refused
from naive_neighbors import negatives
from nnkit.graph import sampling
from nnkit.graph.adjacency import Adjacency
from nnkit.graph.links import LinkLoader, sample_negatives, split_edges


def directed(V, density, seed=0):
    rng = np.random.default_rng(seed)
    return np.where(rng.random((V, V)) < density, rng.uniform(0.5, 2.0, (V, V)), 0.0)


def undirected(V, density, seed=0):
    half = np.triu(directed(V, density, seed))
    return half + np.triu(half, 1).T


def edges_of(matrix):
    """Pairs (source, target)."""
    return {(int(j), int(i)) for i, j in np.argwhere(matrix)}


# Negatives.

@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize(("V", "density", "seed", "step"), [(2, 0.0, 0, 0), (7, 0.5, 1, 3), (30, 0.9, 1 << 40, 2**32 - 1), (50, 0.02, 2, 1)])
def test_negatives_are_the_documented_ones(V, density, seed, step, debug):
    matrix = directed(V, density)
    with debug_mode(debug):
        found = sample_negatives(matrix, 40, seed, step)
    assert found.dtype == np.int32
    assert list(map(tuple, found.tolist())) == negatives(edges_of(matrix), V, 40, seed, step)


def test_negatives_are_no_edges_and_uniform():
    """Chi square over all free pairs; the seed is fixed."""
    matrix = directed(12, 0.6)
    found = sample_negatives(matrix, 20_000, seed=4)
    pairs, counts = np.unique(found, axis=0, return_counts=True)
    free = {(i, j) for i in range(12) for j in range(12) if i != j} - edges_of(matrix)
    assert set(map(tuple, pairs.tolist())) == free
    assert stats.chisquare(counts).pvalue > 1e-3


def test_negatives_depend_on_seed_and_step_alone(monkeypatch):
    matrix = scipy.sparse.csr_matrix(directed(300, 0.1))
    first = sample_negatives(matrix, 3000, 1, 2)
    assert not np.array_equal(first, sample_negatives(matrix, 3000, 1, 3))
    assert not np.array_equal(first, sample_negatives(matrix, 3000, 2, 2))
    monkeypatch.setattr(sampling, "TASK_ROWS", 7)
    np.testing.assert_array_equal(sample_negatives(matrix, 3000, 1, 2), first)
    np.testing.assert_array_equal(sample_negatives(matrix, 10, 1, 2), first[:10])
    assert sample_negatives(matrix, 0).shape == (0, 2)


# Held-out edges.

@pytest.mark.parametrize("make", [directed, undirected])
def test_split_holds_edges_out(make):
    matrix = make(40, 0.3)
    pairs = edges_of(matrix) - {(i, i) for i in range(40)}
    if make is undirected:
        pairs = {pair for pair in pairs if pair[0] < pair[1]}
    found = split_edges(matrix, 0.1, 0.25, seed=3)
    held = [tuple(pair) for part in (found.validation, found.test) for pair in part.tolist()]
    assert len(found.validation) == round(0.1 * len(pairs))
    assert len(found.test) == round(0.25 * len(pairs))
    assert len(set(held)) == len(held)
    assert set(held) <= pairs
    expected = matrix.copy()
    for source, target in held:
        expected[target, source] = 0.0
        if make is undirected:
            expected[source, target] = 0.0
    np.testing.assert_array_equal(found.adjacency.csr.matrix.toarray(), expected)
    for positive, negative in ((found.validation, found.validation_negatives), (found.test, found.test_negatives)):
        assert positive.shape == negative.shape
        assert not {tuple(pair) for pair in negative.tolist()} & edges_of(matrix)
    assert not np.array_equal(found.validation_negatives, found.test_negatives[:len(found.validation)])


def test_split_depends_on_the_seed():
    first, again, other = (split_edges(undirected(30, 0.3), seed=seed) for seed in (1, 1, 2))
    for name in ("validation", "test", "validation_negatives", "test_negatives"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert not np.array_equal(getattr(first, name), getattr(other, name))


def test_nothing_held_out():
    adjacency = Adjacency.of(directed(9, 0.5))
    found = split_edges(adjacency, 0, 0.0)
    assert found.validation.shape == found.test.shape == found.test_negatives.shape == (0, 2)
    np.testing.assert_array_equal(found.adjacency.csr.matrix.toarray(), adjacency.csr.matrix.toarray())


# Batches.

def test_batches_of_pairs():
    matrix = undirected(30, 0.2)
    x = np.ones((30, 4), np.float32)
    loader, again = (LinkLoader(x, matrix, batch_size=16, negatives=2, seed=5) for _ in range(2))
    expected = {pair for pair in edges_of(matrix) if pair[0] < pair[1]}
    epochs = []
    for _ in range(2):
        seen, batches = [], list(loader)
        assert len(batches) == len(loader) == -(-len(expected) // 16)
        for batch, same in zip(batches, again, strict=True):
            np.testing.assert_array_equal(batch.pairs, same.pairs)
            P = len(batch.pairs) // 3
            assert batch.x is loader.x
            assert batch.adjacency is loader.adjacency
            assert batch.pairs.dtype == np.int32
            assert batch.y.shape == (3 * P, 1)
            assert batch.y[:P].all()
            assert not batch.y[P:].any()
            assert not {tuple(pair) for pair in batch.pairs[P:].tolist()} & edges_of(matrix)
            seen += [tuple(pair) for pair in batch.pairs[:P].tolist()]
        assert sorted(seen) == sorted(expected)
        epochs.append(np.concatenate([batch.pairs for batch in batches]))
    assert not np.array_equal(*epochs)


def test_pairs_of_ones_own_and_no_negatives():
    batches = list(LinkLoader(np.ones((9, 1)), np.ones((9, 9)), [[0, 1], [8, 2], [3, 3]], batch_size=2, negatives=0))
    assert [len(batch.pairs) for batch in batches] == [2, 1]
    assert sorted(pair for batch in batches for pair in batch.pairs.tolist()) == [[0, 1], [3, 3], [8, 2]]


# Refusals.

def test_bad_input():
    A, x = directed(5, 0.3), np.ones((5, 1))
    refused("count must be a whole number at least 0, received -1", sample_negatives, A, -1)
    refused("seed must be a whole number at least 0, received 0.5", sample_negatives, A, 1, 0.5)
    refused("step must be a whole number at least 0, received -1", sample_negatives, A, 1, 0, -1)
    rule = "adjacency must leave at least one of 1000 pairs of nodes without an edge to draw negatives, received "
    refused(rule + "0 of 25 pairs without one", sample_negatives, np.ones((5, 5)), 1)
    refused(rule + "0 of 1 pairs without one", sample_negatives, np.zeros((1, 1)), 1)
    nearly = np.ones((40, 40))
    nearly[3, 4] = 0
    refused(rule + "1 of 1600 pairs without one", split_edges, nearly)
    refused("validation must be a number from 0 to below 1, received 1", split_edges, A, 1)
    refused("test must be a number from 0 to below 1, received '0.1'", split_edges, A, 0.1, "0.1")
    refused("validation and test must be below 1 together, received 0.5 and 0.5", split_edges, A, 0.5, 0.5)
    refused("pairs must have shape (pairs, 2), received (2, 3)", LinkLoader, x, A, np.zeros((2, 3), int))
    refused("pairs must hold at least one pair, received none", LinkLoader, x, A, np.zeros((0, 2), int))
    refused("pairs must hold at least one pair, received none", LinkLoader, x, np.eye(5))
    refused("pairs must hold whole numbers from 0 to 4, received 5 at position (1, 0)", LinkLoader, x, A, [[0, 1], [5, 0]])
    refused("pairs must hold whole numbers, received dtype float64", LinkLoader, x, A, [[0.0, 1.0]], error=TypeError)
    refused("batch_size must be a whole number at least 1, received 0", LinkLoader, x, A, batch_size=0)
    refused("negatives must be a whole number at least 0, received True", LinkLoader, x, A, negatives=True)
    refused("x must have shape (5, features), one row for each node, received (4, 1)", LinkLoader, x[:4], A)
