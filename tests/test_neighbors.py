"""Neighbour sampling: against the reference draw by draw, its distribution, shapes and padding, the same bits for any threads, refusals."""

import gc
import itertools
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
from scipy import stats

from helpers import debug_mode, refused
from naive_neighbors import sample
from nnkit.graph import sampling
from nnkit.graph.adjacency import Adjacency
from nnkit.graph.csr import CsrArrays
from nnkit.graph.sampling import COUNTERS, LAST_SLOT, NeighborLoader, Spare, bucket
from nnkit.graph.sampling_cpu import sort_rows
from nnkit.runtime import store


def made(V, density, seed=0, weighted=True):
    """A random directed graph, self-loops included; every seventh row is empty."""
    rng = np.random.default_rng(seed)
    matrix = np.where(rng.random((V, V)) < density, rng.uniform(0.5, 2.0, (V, V)) if weighted else 1.0, 0.0)
    matrix[::7] = 0.0
    return matrix


def rows_of(matrix):
    return [[(int(j), row[j]) for j in np.flatnonzero(row)] for row in matrix]


def loader_of(matrix, **options):
    V = len(matrix)
    x = np.arange(3 * V, dtype=np.float32).reshape(V, 3) + 1
    return NeighborLoader(x, scipy.sparse.csr_matrix(matrix), np.arange(V) + 100, **options)


def entries_of(batch):
    """{(row, column): weight} in the batch's numbers."""
    csr = batch.adjacency.csr
    return {(int(i), int(j)): w for i, j, w in zip(csr.rows, csr.columns[:csr.entries], csr.values[:csr.entries], strict=True)}


def same_batch(a, b):
    arrays = [(a.x, b.x), (a.y, b.y), (a.mask, b.mask), (a.nodes, b.nodes)]
    arrays += [(getattr(a.adjacency.csr, name), getattr(b.adjacency.csr, name)) for name in ("starts", "columns", "values")]
    return all(np.array_equal(p, q) and p.dtype == q.dtype for p, q in arrays)


# What is drawn.

@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize(("V", "density", "fan_outs", "batch_size", "seed"), [
    (1, 1.0, (3,), 1, 0), (13, 0.5, (1,), 5, 1), (29, 0.4, (3, 2), 7, 2), (31, 0.9, (5, 13, 1), 3, 1 << 40), (23, 0.6, (-1, 4), 23, 3),
    (40, 0.05, (10, 10, 10), 11, 4), (97, 0.9, (61, 70), 2, 5), (150, 0.3, (9, -1), 149, 6)])
def test_batches_are_the_documented_ones(V, density, fan_outs, batch_size, seed, replace, weighted, debug):
    """Bits; a weight that was drawn k times is the product k w, here a sum of k: two units in the last place for each addition."""
    matrix = made(V, density, weighted=weighted)
    rows = rows_of(matrix)
    seeds = np.arange(V)[::-1]
    with debug_mode(debug):
        loader = loader_of(matrix, nodes=seeds, fan_outs=fan_outs, batch_size=batch_size, shuffle=False, seed=seed, replace=replace)
        for epoch in range(2):
            for position, batch in enumerate(loader):
                own = seeds[position * batch_size:(position + 1) * batch_size].tolist()
                nodes, edges = sample(rows, own, fan_outs, seed, epoch * len(loader) + position, replace)
                assert batch.nodes.tolist() == nodes
                assert entries_of(batch) == (pytest.approx(edges, rel=1e-14, abs=0) if replace else edges)
                assert batch.mask.sum() == len(own)
                assert batch.mask[:len(own)].all()


@pytest.mark.parametrize("fan_outs", [(2,), (3, 2), (1, 1, 1)])
def test_edges_are_edges_and_fan_outs_bounds(fan_outs):
    matrix = made(60, 0.2)
    loader = loader_of(matrix, fan_outs=fan_outs, batch_size=9, seed=8)
    seen = []
    for batch in loader:
        csr, nodes = batch.adjacency.csr, batch.nodes
        assert len(set(nodes.tolist())) == len(nodes)
        for i, row in enumerate(np.split(csr.columns[:csr.entries], csr.starts[1:-1])):
            assert (np.diff(row) > 0).all()              # sorted, each once
            assert len(row) <= max(fan_outs)
            values = csr.values[csr.starts[i]:csr.starts[i + 1]]
            np.testing.assert_array_equal(values, matrix[nodes[i], nodes[row]] if len(row) else [])
            if i < batch.mask.sum():
                assert len(row) == min(fan_outs[0], np.count_nonzero(matrix[nodes[i]]))
        seen += nodes[:batch.mask.sum()].tolist()
    assert sorted(seen) == list(range(60))
    assert seen != list(range(60))


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_full_fan_out_is_the_neighbourhood_of_so_many_hops(hops):
    """All nodes within `hops` steps, and all edges of those within one fewer."""
    matrix = made(50, 0.04)
    for batch in loader_of(matrix, fan_outs=(-1,) * hops, batch_size=4):
        reached = within = set(batch.nodes[:batch.mask.sum()].tolist())
        for _ in range(hops):
            within = reached
            reached = reached | {int(j) for i in within for j in np.flatnonzero(matrix[i])}
        assert set(batch.nodes.tolist()) == reached
        found = {(int(batch.nodes[i]), int(batch.nodes[j])): w for (i, j), w in entries_of(batch).items()}
        assert found == {(i, int(j)): matrix[i, j] for i in within for j in np.flatnonzero(matrix[i])}


def bipartite(rows, degree):
    """The first `rows` nodes gather from the same `degree` others."""
    matrix = np.zeros((rows + degree, rows + degree), bool)
    matrix[:rows, rows:] = True
    return scipy.sparse.csr_matrix(matrix).astype(float)


@pytest.mark.parametrize(("degree", "fan_out"), [(20, 1), (20, 5), (20, 19), (301, 40)])
def test_every_neighbour_is_equally_likely(degree, fan_out):
    """Chi square of how often each of d neighbours is drawn in R rows of k: without replacement the counts have the covariance
    R p (1 - p) d / (d - 1) (I - 1/d), p = k / d. The seed is fixed; a fair draw fails with a chance of 1 in 1000 for a new one."""
    R = 2000
    loader = NeighborLoader(np.ones((R + degree, 1)), bipartite(R, degree), nodes=np.arange(R), fan_outs=(fan_out,), batch_size=R, seed=3)
    counts, p = np.zeros(degree), fan_out / degree
    for _ in range(2):
        (batch,) = loader
        csr = batch.adjacency.csr
        counts += np.bincount(batch.nodes[csr.columns[:csr.entries]] - R, minlength=degree)
    statistic = ((counts - 2 * R * p) ** 2).sum() / (2 * R * p * (1 - p) * degree / (degree - 1))
    assert 1e-3 < stats.chi2.sf(statistic, degree - 1) < 1 - 1e-3


def test_draws_with_replacement_are_uniform():
    """Chi square of all draws; the sum of weights is the number of draws. The seed is fixed."""
    R, degree, fan_out = 2000, 20, 7
    loader = NeighborLoader(np.ones((R + degree, 1)), bipartite(R, degree), nodes=np.arange(R), fan_outs=(fan_out,), batch_size=R, seed=2,
                            replace=True)
    (batch,) = loader
    csr = batch.adjacency.csr
    assert (csr.matrix[:R].sum(axis=1) == fan_out).all()
    assert stats.chisquare(np.bincount(batch.nodes[csr.columns[:csr.entries]] - R, csr.values[:csr.entries])).pvalue > 1e-3


def test_every_set_of_neighbours_is_equally_likely():
    """All 20 sets of 3 of 6, in 4000 rows; the seed is fixed."""
    R = 4000
    loader = NeighborLoader(np.ones((R + 6, 1)), bipartite(R, 6), nodes=np.arange(R), fan_outs=(3,), batch_size=R, seed=1)
    (batch,) = loader
    sets = np.sort(batch.nodes[batch.adjacency.csr.columns[:3 * R]].reshape(R, 3), axis=1) - R
    counts = [int((sets == chosen).all(axis=1).sum()) for chosen in itertools.combinations(range(6), 3)]
    assert sum(counts) == R
    assert stats.chisquare(counts).pvalue > 1e-3


# Shapes, padding, memory.

def test_padding_is_inert():
    for batch in loader_of(made(70, 0.1), fan_outs=(4, 4), batch_size=10):
        n, csr = len(batch.nodes), batch.adjacency.csr
        assert len(batch.x) == len(batch.y) == len(batch.mask) == batch.adjacency.nodes == bucket(n)
        assert len(csr.columns) == len(csr.values) == bucket(csr.entries)
        assert not batch.x[n:].any()
        assert not batch.y[n:].any()
        assert not batch.mask[n:].any()
        assert (csr.starts[n:] == csr.entries).all()
        assert not csr.columns[csr.entries:].any()
        assert not csr.values[csr.entries:].any()
        assert batch.adjacency.segments.tolist() == [0, n]
        np.testing.assert_array_equal(batch.x[:n, 0], 3 * batch.nodes + 1)
        np.testing.assert_array_equal(batch.y[:n], batch.nodes + 100)


def test_buckets_are_few_and_close():
    buckets = [bucket(n) for n in range(1, 5000)]
    assert all(n <= b <= n * 1.125 + 1 for n, b in enumerate(buckets, 1))
    assert sum(2048 < b <= 4096 for b in set(buckets)) == 8
    assert all(bucket(b) == b for b in buckets)
    assert bucket(0) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("features", [1, 2, 3, 16, 33, 130])
def test_features_and_targets_of_any_width(features, dtype):
    rng = np.random.default_rng(features)
    x, y = rng.standard_normal((40, features)).astype(dtype), rng.standard_normal((40, 3)).astype(dtype)
    x[0, 0] = np.nan
    loader = NeighborLoader(x, scipy.sparse.csr_matrix(made(40, 0.2)), y, fan_outs=(3,), batch_size=6)
    for batch in loader:
        n = len(batch.nodes)
        assert batch.x.dtype == batch.y.dtype == dtype
        np.testing.assert_array_equal(batch.x[:n], x[batch.nodes])
        np.testing.assert_array_equal(batch.y[:n], y[batch.nodes])


@pytest.mark.parametrize(("given", "expected"), [("bool", "int32"), ("int8", "int32"), ("int64", "int64"), ("float16", "float32"),
                                                 (">i4", "int32"), ("longdouble", "float64")])
def test_targets_of_other_numbers(given, expected):
    y = (np.arange(20) % 2).astype(given)
    for batch in NeighborLoader(np.ones((20, 1)), scipy.sparse.csr_matrix(made(20, 0.2)), y, batch_size=20, shuffle=False):
        assert batch.y.dtype == expected
        np.testing.assert_array_equal(batch.y[:20], y)


def test_sparse_features_and_no_targets():
    x = scipy.sparse.random(40, 9, 0.3, "csr", random_state=0)
    for batch in NeighborLoader(x, scipy.sparse.csr_matrix(made(40, 0.2)), fan_outs=(3,), batch_size=6):
        assert isinstance(batch.x, CsrArrays)
        assert batch.x.shape == (batch.adjacency.nodes, 9)
        assert batch.y is None
        dense = batch.x.matrix.toarray()
        np.testing.assert_array_equal(dense[:len(batch.nodes)], x.toarray()[batch.nodes])
        assert not dense[len(batch.nodes):].any()


def test_edges_count_nodes_by_features():
    (batch,) = NeighborLoader(np.eye(6), np.array([[0, 1, 2], [1, 2, 3]]), nodes=[3, 5], fan_outs=(2,), shuffle=False)
    assert batch.nodes.tolist() == [3, 5, 2]
    assert entries_of(batch) == {(0, 2): 1.0}


def test_memory_comes_back_and_is_never_shared():
    spare = Spare()
    first = spare.take((10, 3), np.dtype(np.float32))
    view, address = first[2:], first.ctypes.data
    assert address % 64 == 0
    del first
    gc.collect()
    second = spare.take((10, 3), np.dtype(np.float32))
    assert second.ctypes.data != address                 # a view holds the first one
    del view
    gc.collect()
    assert spare.take((15, 2), np.dtype(np.int32)).ctypes.data == address
    loader = loader_of(made(70, 0.1), fan_outs=(4, 4), batch_size=10, seed=5)
    kept = list(loader)
    again = loader_of(made(70, 0.1), fan_outs=(4, 4), batch_size=10, seed=5)
    assert all(same_batch(a, b) for a, b in zip(kept, again, strict=True))


# The same bits.

@pytest.mark.parametrize(("fan_outs", "replace"), [((10, 10), False), ((-1, 3), False), ((10, 10), True)])
def test_threads_and_tasks_change_no_bit(fan_outs, replace, monkeypatch):
    matrix = scipy.sparse.random(20_000, 20_000, 1e-3, "csr", random_state=0)
    x, y = np.random.default_rng(0).random((20_000, 5), np.float32), np.arange(20_000)
    options = {"fan_outs": fan_outs, "batch_size": 700, "nodes": np.arange(2000), "seed": 4, "replace": replace}
    expected = [NeighborLoader(x, matrix, y, threads=threads, **options) for threads in (1, 2)]
    monkeypatch.setattr(sampling, "TASK_ROWS", 3)
    monkeypatch.setattr(sampling, "TASKS", 7)
    loaders = [*expected, NeighborLoader(x, matrix, y, threads=2, **options)]
    assert loaders[1]._sampler.tape.helpers == loaders[2]._sampler.tape.helpers == 1
    for _ in range(2):
        for batches in zip(*loaders, strict=True):
            assert all(same_batch(batches[0], other) for other in batches[1:])


def test_epochs_seeds_and_batches_differ():
    def drawn(loader):
        return [(batch.nodes.tolist(), entries_of(batch)) for batch in loader]
    loader, again = (loader_of(made(60, 0.3), fan_outs=(2, 2), batch_size=20, seed=1) for _ in range(2))
    epochs = [drawn(loader) for _ in range(3)]
    assert [drawn(again) for _ in range(3)] == epochs
    other = drawn(loader_of(made(60, 0.3), fan_outs=(2, 2), batch_size=20, seed=1 + (1 << 32)))
    assert len(loader) == len(epochs[0]) == 3
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0] != other
    still = loader_of(made(60, 0.3), fan_outs=(2,), batch_size=20, seed=1, shuffle=False)
    for first, second in zip(still, still, strict=True):
        assert first.nodes[:20].tolist() == second.nodes[:20].tolist()
        assert entries_of(first) != entries_of(second)


def test_slots_begin_anew_before_they_overflow():
    loaders = [loader_of(made(60, 0.3), fan_outs=(2, 2), batch_size=20, seed=1) for _ in range(2)]
    for first, second in zip(loaders[0], loaders[1], strict=True):
        assert same_batch(first, second)
        counters = loaders[1]._sampler.counters
        counters[COUNTERS["base"]] = LAST_SLOT - loaders[1]._sampler.size
    assert counters[COUNTERS["base"]] > 1
    assert same_batch(*(next(iter(loader)) for loader in loaders))
    assert counters[COUNTERS["base"]] == 1


# The edges of what there is.

@pytest.mark.parametrize("size", [1, 2, 24, 25, 26, 100, 1001])
def test_rows_of_any_length_are_sorted(size):
    rng = np.random.default_rng(size)
    found = rng.permutation(size).astype(np.int32)
    places, y = found * 3, np.full(size + 2, -1, np.int32)
    sort_rows(0, 1, y, found, places, np.array([0, size]), np.array([0, 1, size]), 1)
    np.testing.assert_array_equal(y, [*range(size), 0, 0])
    np.testing.assert_array_equal(places, 3 * np.arange(size))


def test_isolated_seeds_and_empty_graphs():
    empty = scipy.sparse.csr_matrix((5, 5))
    for fan_outs in ((3, 2), (-1,)):
        (batch,) = NeighborLoader(np.ones((5, 2)), empty, fan_outs=fan_outs, shuffle=False)
        assert batch.nodes.tolist() == [0, 1, 2, 3, 4]
        assert batch.adjacency.entries == 0
    one = np.zeros((5, 5))
    one[1, 4] = 0.5
    (batch,) = NeighborLoader(np.ones((5, 2)), one, nodes=[0, 1], fan_outs=(3, 2), shuffle=False)
    assert batch.nodes.tolist() == [0, 1, 4]
    assert entries_of(batch) == {(1, 2): 0.5}


def test_a_mask_of_seeds():
    mask = np.arange(60) % 3 == 1
    loader = loader_of(made(60, 0.1), nodes=mask, batch_size=7)
    seeds = np.concatenate([batch.nodes[batch.mask[:len(batch.nodes)]] for batch in loader])
    assert sorted(seeds.tolist()) == np.flatnonzero(mask).tolist()


def test_bad_input():
    x, A = np.ones((5, 2)), scipy.sparse.csr_array(np.eye(5))

    def wrong(message, *arguments, error=ValueError, **options):
        refused(message, NeighborLoader, *(arguments or (x, A)), error=error, **options)
    wrong("fan_outs must be a tuple with one whole number for every hop, received 10", fan_outs=10)
    wrong("fan_outs must be a tuple with one whole number for every hop, received ()", fan_outs=())
    wrong("fan_outs[1] must be a whole number at least -1, received 2.0", fan_outs=(1, 2.0))
    wrong("fan_outs[0] must be a whole number at least -1, received -2", fan_outs=(-2,))
    wrong("fan_outs[1] must be at least 1, or -1 for all neighbours, received 0", fan_outs=(1, 0))
    wrong("batch_size must be a whole number at least 1, received 0", batch_size=0)
    wrong("seed must be a whole number at least 0, received -1", seed=-1)
    wrong("threads must be a whole number at least 1, received 0", threads=0)
    wrong("nodes must hold whole numbers from 0 to 4, received 5 at position 1", nodes=[1, 5])
    wrong("nodes must hold whole numbers from 0 to 4, received -1 at position 0", nodes=[-1])
    wrong("nodes must hold distinct numbers, received 3 repeatedly", nodes=[1, 3, 0, 3])
    wrong("nodes must name at least one node, received none", nodes=np.zeros(5, bool))
    wrong("nodes must have 5 booleans where it is a mask, received 4", nodes=np.ones(4, bool))
    wrong("nodes must be booleans, or the numbers of those that are meant, received 5 zeros and ones: pass them as booleans, array.astype(bool)",
          nodes=np.array([0, 1, 1, 0, 1]))
    wrong("nodes must hold whole numbers, received dtype float64", nodes=[0.5], error=TypeError)
    wrong("x must have shape (5, features), one row for each node, received (4, 2)", x[:4], A)
    wrong("x must have shape (5, features), one row for each node, received (5,)", x[:, 0], A)
    wrong("x must have shape (5, features), one row for each node, received (3, 5)", scipy.sparse.csr_matrix((3, 5)), A)
    wrong("y must have shape (5,) or (5, k), one row for each node, received (4,)", x, A, np.zeros(4))
    wrong("y must hold real numbers, received dtype <U1", x, A, np.array(list("abcde")), error=TypeError)


def test_an_adjacency_is_taken_as_it_is():
    adjacency = Adjacency.of(made(20, 0.3))
    assert NeighborLoader(np.ones((20, 1)), adjacency).adjacency is adjacency
    assert re.match("<Adjacency of", repr(next(iter(NeighborLoader(np.ones((20, 1)), adjacency))).adjacency))


PROGRAM = """
import sys, numpy as np
from nnkit.runtime import store
from nnkit.graph.links import LinkLoader
from nnkit.graph.sampling import NeighborLoader
x, edges = np.ones((8, 2), np.float32), np.array([[0, 1, 2], [1, 2, 3]])
batches = [*NeighborLoader(x, edges, np.arange(8), fan_outs=(2,)), *LinkLoader(x, edges)]
print(len(batches), store.compiled_count(), "numba" in sys.modules)
"""


def test_a_known_machine_compiles_nothing():
    def run():
        done = subprocess.run([sys.executable, "-c", PROGRAM], env={**os.environ, "NNKIT_QUIET": "1", "NNKIT_DEBUG": "0"}, capture_output=True,
                              text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()
    assert run()[0] == "2"
    if store.writable():
        assert run() == ["2", "0", "False"]
