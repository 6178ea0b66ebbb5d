"""Adjacency: its sources, its refusals, its forms against the dense formula, the gradient by its weights against central differences."""

import copy
import pickle
import subprocess
import sys

import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import assert_well_formed, dense_form, random_matrix
from helpers import refused
from nnkit.graph import Adjacency, CsrArrays, mask_of, normalized

EVERY_FORM = [(normalization, loops) for normalization in ("symmetric", "row", None) for loops in (True, False)]
STEP = 1e-6
PATH = np.array([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])     # 0 - 1 - 2


def with_values(adjacency, values):
    csr = adjacency.csr
    return Adjacency(CsrArrays(csr.shape, csr.starts, csr.columns, values), adjacency.segments)


def of_dense(A):
    return Adjacency.of(sp.csr_matrix(A))


# Directed and weighted, entries on the diagonal, nodes without entries in their row or at all.

@settings(max_examples=60, deadline=None)
@given(V=st.integers(1, 9), density=st.floats(0, 1), seed=st.integers(0, 999), symmetric=st.booleans(), negative=st.booleans(),
       form=st.sampled_from(EVERY_FORM))
def test_forms_are_the_dense_formula(V, density, seed, symmetric, negative, form):
    A = np.abs(random_matrix(V, V, density, seed))
    A[seed % V] = 0.0
    A[:, seed // 7 % V] = 0.0
    if symmetric:
        A += A.T
    if negative:                                         # weights below 0, and sums that are not
        A[np.arange(V) % 3 == 0, seed % V] *= -0.01
        A[A.sum(1) < 0] *= -1
    adjacency = of_dense(A)
    made = adjacency.form(*form)
    assert_well_formed(made)
    assert len(made.columns) == len(adjacency.csr.columns) + V * form[1]
    np.testing.assert_allclose(made.matrix.toarray(), dense_form(A, *form), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(normalized(A.copy(), *form).toarray(), made.matrix.toarray())
    assert made is adjacency.form(*form)
    if symmetric and not negative and form[0] != "row":
        assert made.symmetric                            # bit for bit, so that no transposed values are kept


def test_gradient_by_weights_is_that_of_central_differences():
    rng = np.random.default_rng(0)
    for seed in range(12):
        V = 1 + seed % 7
        A = np.abs(random_matrix(V, V, 0.5, seed)) + 0.2 * np.diag(rng.random(V) < 0.5)
        A[A > 0] += 0.1                                  # sums near 0 have third derivatives that the differences do not
        A[V // 2] = 0.0
        for adjacency in (of_dense(A), of_dense(A).padded(V + 2, (A != 0).sum() + 3)):
            for form in EVERY_FORM:
                dvalues = rng.normal(size=len(adjacency.form(*form).values))
                dA = adjacency.pullback(*form, dvalues)
                assert dA.shape == adjacency.csr.values.shape
                assert not dA[adjacency.entries:].any()
                for e in range(adjacency.entries):
                    ends = []
                    for h in (STEP, -STEP):
                        values = adjacency.csr.values.copy()
                        values[e] += h
                        ends.append(with_values(adjacency, values).form(*form).values @ dvalues)
                    difference = (ends[0] - ends[1]) / (2 * STEP)
                    assert abs(difference - dA[e]) < 1e-6 * max(1.0, abs(dA[e]))      # 1e-16 / STEP of rounding, h^2 of the difference
    refused("dvalues must have shape (7,), received (4,)", of_dense(PATH).pullback, None, True, np.ones(4))


def test_a_row_of_sum_zero_becomes_zero():
    A = np.array([[0.0, 2, -2], [1, 0, 0], [0, 0, 0]])
    for normalization in ("symmetric", "row"):
        made = of_dense(A).form(normalization, False).matrix
        np.testing.assert_array_equal(made.toarray()[[0, 2]], 0)
        np.testing.assert_array_equal(of_dense(A).pullback(normalization, False, np.ones(3))[:2], 0)
    assert made[1, 0] == 1


def test_refused_forms():
    A = np.array([[0.0, 1, 0], [1, 0, -3], [0, 0, 0]])
    for normalization in ("symmetric", "row"):
        rule = f"adjacency must have no row of a negative sum for normalization {normalization!r}, received"
        refused(f"{rule} -2.0 at node 1", of_dense(A).form, normalization, False)
        refused(f"{rule} -1.0 at node 1 with its self-loop", of_dense(A).form, normalization, True)
    assert of_dense(A).form(None, True).entries == 6
    refused("normalization must be one of 'symmetric', 'row' or None, received 'sym'", of_dense(PATH).form, "sym")
    refused("self_loops must be True or False, received 1", of_dense(PATH).form, "row", 1)
    refused("adjacency must have weights of moderate size for normalization 'row', received some that overflow in the row of node 1",
            of_dense(np.array([[0.0, 1], [5e-324, 0]])).form, "row", False)


# Sources.

def test_sources_of_one_graph():
    A = np.array([[0.0, 2, 0, 0], [0, 0, 3, 0], [1, 0, 5, 0], [0, 0, 0, 0]])        # directed, weighted, a self-loop, an isolated node
    target, source = np.nonzero(A)
    weights = A[target, source]
    directed = nx.DiGraph()
    directed.add_nodes_from("abcd")
    directed.add_weighted_edges_from(zip(np.array(list("abcd"))[source], np.array(list("abcd"))[target], weights, strict=True))
    order = [3, 0, 2, 1]
    edges = np.stack([source, target])
    for adjacency in (Adjacency.of(A), Adjacency.of(A.tolist()), Adjacency.of(sp.csr_matrix(A)), Adjacency.of(sp.coo_array(A)),
                      Adjacency.of(edges, nodes=4, weights=weights), Adjacency.of(edges.tolist(), nodes=4, weights=list(weights)),
                      Adjacency.of((source[order], target[order]), nodes=4, weights=weights[order].astype(np.float32)),
                      Adjacency.of((source.tolist(), target.tolist()), nodes=4, weights=weights), Adjacency.of(directed),
                      Adjacency.of(Adjacency.of(A)), Adjacency.of(A, nodes=4)):
        np.testing.assert_array_equal(adjacency.csr.matrix.toarray(), A)
        assert_well_formed(adjacency.csr)
        np.testing.assert_array_equal(adjacency.edges, edges)
        np.testing.assert_array_equal(adjacency.segments, [0, 4])
        assert (adjacency.nodes, adjacency.entries, adjacency.graphs, adjacency.is_symmetric) == (4, 4, 1, False)
    given_one = Adjacency.of(A)
    assert Adjacency.of(given_one) is given_one
    assert repr(given_one) == "<Adjacency of 4 nodes, 4 entries>"
    np.testing.assert_array_equal(Adjacency.of(given_one.edges, nodes=4, weights=given_one.csr.values).csr.matrix.toarray(), A)


def test_edges_without_nodes_or_weights():
    adjacency = Adjacency.of(np.array([[0, 1, 1], [1, 0, 4]], np.uint8))
    assert adjacency.nodes == 5
    np.testing.assert_array_equal(adjacency.csr.values, [1, 1, 1])
    assert Adjacency.of(np.zeros((2, 0), int), nodes=3).entries == 0
    assert Adjacency.of(([], []), nodes=3, weights=[]).entries == 0
    assert Adjacency.of(np.array([[0, 1], [1, 0]]), nodes=2).is_symmetric
    with pytest.warns(UserWarning, match=r"^adjacency holds 1 repeated entry, which was added to the first of the same place$"):
        adjacency = Adjacency.of(([0, 0], [1, 1]))
    np.testing.assert_array_equal(adjacency.csr.values, [2])


def test_networkx_graphs():
    club = nx.karate_club_graph()
    adjacency = Adjacency.of(club)
    assert adjacency.is_symmetric
    np.testing.assert_array_equal(adjacency.csr.matrix.toarray(), nx.to_numpy_array(club))
    many = nx.MultiGraph([(0, 1), (0, 1), (1, 1)])
    np.testing.assert_array_equal(Adjacency.of(many).csr.matrix.toarray(), [[0, 2], [2, 1]])
    refused("adjacency must have at least one node, received a graph without nodes", Adjacency.of, nx.Graph())
    club.add_edge(0, 1, weight=float("nan"))
    refused("adjacency must be finite, received nan in row 0, column 1", Adjacency.of, club)
    club.add_edge(0, 1, weight="much")
    with pytest.raises((TypeError, ValueError)):
        Adjacency.of(club)


def test_importing_takes_neither_scipy_nor_networkx():
    code = "import sys, nnkit.graph, nnkit.datasets; print([name for name in ('networkx', 'numba', 'scipy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_refused_matrices():
    for value in (sp.csr_matrix(np.ones((3, 4))), np.ones((3, 4))):
        refused("adjacency must be square, received shape (3, 4)", Adjacency.of, value)
    refused("adjacency must be finite, received nan in row 0, column 1", Adjacency.of, np.array([[0, np.nan], [0, 0]]))
    refused("adjacency must have at least one node, received shape (0, 0)", Adjacency.of, sp.csr_matrix((0, 0)))
    refused("nodes must be the 3 nodes of the adjacency, received 4", Adjacency.of, PATH, nodes=4)
    refused("nodes must be a whole number at least 1, received 0", Adjacency.of, PATH, nodes=0)
    refused("weights must come with edges, received another kind of adjacency, which holds its own", Adjacency.of, PATH, weights=np.ones(4))
    refused("adjacency must have 2 axes, received shape (3,)", Adjacency.of, np.ones(3))
    refused("adjacency must be a rectangular array, received rows of unequal length", Adjacency.of, [[1, 2], [3]])
    refused("adjacency must be an Adjacency, a SciPy sparse matrix, a dense array, an edge array or a NetworkX graph, received 'cora'",
            Adjacency.of, "cora", error=TypeError)
    refused("adjacency must be an Adjacency, a SciPy sparse matrix, a dense array, an edge array or a NetworkX graph, received None",
            Adjacency.of, None, error=TypeError)
    refused("adjacency must hold real numbers, received complex numbers (dtype complex128)", Adjacency.of, sp.csr_matrix(np.eye(2) * 1j),
            error=TypeError)


def test_refused_edges():
    edges = np.array([[0, 1, 2], [1, 2, 3]])
    refused("an edge array must have shape (2, entries), received (3, 5)", Adjacency.of, np.zeros((3, 5), int))
    refused("an edge array must have shape (2, entries), received (3, 2): transpose it", Adjacency.of, edges.T)
    refused("an edge array must hold whole numbers, received dtype float64 and shape (2, 3)", Adjacency.of, edges.astype(float))
    refused("an edge array must hold whole numbers, received dtype float64 and shape (2, 2)", Adjacency.of, ([0.0, 1.0], [1.0, 0.0]))
    refused("source and target must have the same length, received 1 and 2", Adjacency.of, ([0], [1, 2]))
    refused("adjacency must not be whole numbers of shape (2, 2), which are edges or a dense matrix: pass nodes with edges, or floats for a matrix",
            Adjacency.of, np.array([[0, 1], [1, 0]]))
    refused("target of the edges must hold whole numbers from 0 to 2, received 3 at position 2", Adjacency.of, edges, nodes=3)
    refused("source of the edges must hold whole numbers from 0 to 4, received -1 at position 0", Adjacency.of, edges - np.array([[1], [0]]), nodes=5)
    refused("source of the edges must hold whole numbers from 0 to 3, received -1 at position 0", Adjacency.of, edges - np.array([[1], [0]]))
    refused("adjacency must have fewer than 2**31 nodes, received 2147483649", Adjacency.of, np.array([[0, 1, 2], [1, 2, 2**31]]))
    refused("nodes must be given for an edge array without edges, received None", Adjacency.of, np.zeros((2, 0), int))
    refused("weights must have shape (3,), one weight for each edge, received (2,)", Adjacency.of, edges, weights=[1.0, 2.0])
    refused("weights must have shape (samples,), received (3, 1)", Adjacency.of, edges, weights=np.ones((3, 1)))
    refused("weights must be finite, received nan at position 1", Adjacency.of, edges, weights=[1.0, np.nan, 2.0])
    refused("weights must hold real numbers, received strings (dtype <U1)", Adjacency.of, edges, weights=["a", "b", "c"], error=TypeError)


# Room, batches, parts.

@settings(max_examples=40, deadline=None)
@given(V=st.integers(1, 6), seed=st.integers(0, 99), nodes=st.integers(0, 3), entries=st.integers(0, 5), form=st.sampled_from(EVERY_FORM))
def test_padded_forms_are_those_of_the_graph_with_isolated_nodes(V, seed, nodes, entries, form):
    A = np.abs(random_matrix(V, V, 0.5, seed))
    adjacency = of_dense(A)
    padded = adjacency.padded(V + nodes, adjacency.entries + entries)
    wide = np.zeros((V + nodes, V + nodes))
    wide[:V, :V] = A
    for csr in (padded.csr, padded.form(*form)):
        assert_well_formed(csr)
    assert len(padded.form(*form).columns) == adjacency.entries + entries + (V + nodes) * form[1]
    np.testing.assert_allclose(padded.form(*form).matrix.toarray(), dense_form(wide, *form), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(padded.segments, [0, V])
    again = padded.padded(V + nodes + 1, adjacency.entries)          # less room than before
    assert (again.nodes, len(again.csr.columns), again.entries) == (V + nodes + 1, adjacency.entries, adjacency.entries)


def test_too_little_room():
    refused("nodes must be a whole number at least 3, received 2", of_dense(PATH).padded, 2, 10)
    refused("entries must be a whole number at least 4, received 3", of_dense(PATH).padded, 3, 3)
    refused("nodes and entries must be fewer than 2**31, received 3 and 2147483648", of_dense(PATH).padded, 3, 2**31)


def test_blocks():
    parts = [np.abs(random_matrix(V, V, 0.6, V)) for V in (3, 1, 4)]
    batch = Adjacency.blocks([of_dense(parts[0]), of_dense(parts[1]), of_dense(parts[2]).padded(4, 20)])
    assert_well_formed(batch.csr)
    np.testing.assert_array_equal(batch.csr.matrix.toarray(), sp.block_diag(parts).toarray())
    np.testing.assert_array_equal(batch.segments, [0, 3, 4, 8])
    assert repr(batch) == f"<Adjacency of 8 nodes, {batch.entries} entries, 3 graphs>"
    twice = Adjacency.blocks([batch, of_dense(PATH)])
    np.testing.assert_array_equal(twice.segments, [0, 3, 4, 8, 11])
    np.testing.assert_array_equal(twice.csr.matrix.toarray(), sp.block_diag([*parts, PATH]).toarray())
    refused("adjacencies must hold at least one adjacency, received none", Adjacency.blocks, [])
    refused("adjacencies must have no nodes behind their graphs, received one that was padded from 3 to 5 nodes",
            Adjacency.blocks, [of_dense(PATH).padded(5, 10), of_dense(PATH)])


@settings(max_examples=40, deadline=None)
@given(V=st.integers(1, 8), seed=st.integers(0, 99), data=st.data())
def test_subgraphs(V, seed, data):
    A = random_matrix(V, V, 0.5, seed)
    nodes = np.array(data.draw(st.lists(st.integers(0, V - 1), min_size=1, unique=True)))
    for adjacency in (of_dense(A), of_dense(A).padded(V + 1, V * V)):
        part = adjacency.subgraph(nodes)
        assert_well_formed(part.csr)
        np.testing.assert_array_equal(part.csr.matrix.toarray(), A[np.ix_(nodes, nodes)])
        np.testing.assert_array_equal(part.segments, [0, len(nodes)])


def test_subgraphs_of_batches_and_refused_ones():
    batch = Adjacency.blocks([of_dense(PATH)] * 3)
    part = batch.subgraph(np.array([True, True, False, False, False, False, False, True, True]))
    np.testing.assert_array_equal(part.segments, [0, 2, 2, 4])
    np.testing.assert_array_equal(part.csr.matrix.toarray(), batch.csr.matrix.toarray()[np.ix_([0, 1, 7, 8], [0, 1, 7, 8])])
    refused("nodes must rise where the adjacency holds several graphs, received another order of 3 graphs", batch.subgraph, [1, 0])
    refused("nodes must name each node once, received 1 repeatedly", of_dense(PATH).subgraph, [1, 2, 1])
    refused("nodes must name at least one node, received none", of_dense(PATH).subgraph, [])
    refused("nodes must hold whole numbers from 0 to 2, received 3 at position 0", of_dense(PATH).subgraph, [3])


def test_copies_and_pickles():
    adjacency = of_dense(PATH)
    made = adjacency.form()
    for again in (copy.deepcopy(adjacency), pickle.loads(pickle.dumps(adjacency))):
        np.testing.assert_array_equal(again.form().values, made.values)
        np.testing.assert_array_equal(again.segments, adjacency.segments)


def test_masks():
    np.testing.assert_array_equal(mask_of(np.array([3, 0, 3], np.int32), 5), [True, False, False, True, False])
    np.testing.assert_array_equal(mask_of([], 2), [False, False])
    np.testing.assert_array_equal(mask_of([1, 0], 2), [True, True])
    refused("indices must be booleans, or the numbers of those that are meant, received 5 zeros and ones: pass them as booleans, array.astype(bool)",
            mask_of, [0, 1, 0, 0, 1], 5)
    refused("indices must hold whole numbers from 0 to 4, received 5 at position 0", mask_of, [5], 5)
    refused("indices must hold whole numbers, received dtype float64", mask_of, [0.5], 5, error=TypeError)
    refused("nodes must be a whole number at least 1, received 0", mask_of, [], 0)
