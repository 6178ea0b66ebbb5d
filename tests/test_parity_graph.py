"""Layers on graphs in PyTorch Geometric, value by value and gradient by gradient; GraphConv beside dense matrices. Skipped where these are missing.

A failed test's name begins with the number of the network; `draw_on_graph(SEED, number)` makes it again. The larger sample takes the seed of
NNKIT_SWEEP_SEED.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

import nnkit
from nnkit.graph import Adjacency
from nnkit.layers import GAT, GIN, GraphConv, GraphSAGE
from nnkit.tensors import GraphInput
from parity_graph import GRAPHS, DrawnOnGraph, draw_on_graph, in_nnkit, in_pyg
from sweeps import BLOCKS, sweep

SEED = 1
FIXED = [draw_on_graph(SEED, number) for number in range(240)]

# In float64, of the largest number or of 1. Outputs pass two layers of sums of at most 400 terms; gradients that are 0 as a difference of large terms
# have the error of these, so theirs is measured against a share of the largest entry of all gradients too. The most that 1,400 networks of other
# seeds were off stands behind each. A wrong formula, or float32 within one, is off by 1e-8 and more.
OUTPUTS, GRADIENTS = 1e-12, 1e-11                        # 3.1e-15, 6.9e-14
CANCELLED = 1e-2                                         # of the largest gradient: arrays that are smaller are held to the error of this

quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch_geometric.*", "ignore::DeprecationWarning:torch.*")


def assert_parity(drawn: DrawnOnGraph) -> None:
    pytest.importorskip("torch_geometric")
    found, expected = in_nnkit(drawn), in_pyg(drawn)
    assert expected.keys() <= found.keys() <= {*expected, "x1"}
    largest = max(np.abs(values).max(initial=0) for name, values in expected.items() if name != "y")
    for name, values in expected.items():
        tolerance, floor = (OUTPUTS, 1.0) if name == "y" else (GRADIENTS, CANCELLED * max(1, largest))
        assert found[name].shape == values.shape, f"{name} has shape {found[name].shape}, expected {values.shape}"
        np.testing.assert_allclose(found[name], values, rtol=0, atol=tolerance * np.abs(values).max(initial=floor), err_msg=name)


@quiet
@pytest.mark.parametrize("drawn", FIXED, ids=str)
def test_pyg(drawn):
    assert_parity(drawn)


@pytest.mark.sweep
@quiet
@pytest.mark.parametrize("block", range(BLOCKS))
def test_pyg_sweep(block):
    sweep(block, draw_on_graph, assert_parity)


def test_the_sample_covers_what_it_is_drawn_from():
    layers = [layer for drawn in FIXED for layer in drawn.layers]
    convolutions, means = [layer for layer in layers if isinstance(layer, GraphConv)], [layer for layer in layers if isinstance(layer, GraphSAGE)]
    attention, sums = [layer for layer in layers if isinstance(layer, GAT)], [layer for layer in layers if isinstance(layer, GIN)]
    assert min(map(len, (convolutions, means, attention, sums))) > 60
    assert {drawn.graph for drawn in FIXED} == {*GRAPHS}
    assert {drawn.pooling for drawn in FIXED} == {None, "mean", "sum", "max"}
    assert {(layer.normalization, layer.self_loops) for layer in convolutions} == {(n, loops) for n in ("symmetric", "row", None) for loops in (0, 1)}
    graphs = [drawn.adjacency() for drawn in FIXED]
    pooled = [graph for drawn, graph in zip(FIXED, graphs, strict=True) if drawn.pooling]
    for what, often in (("two layers", sum(len(drawn.layers) == 2 for drawn in FIXED)), ("weighted", sum(drawn.weighted for drawn in FIXED)),
                        ("self-loops", sum((graph.edges[0] == graph.edges[1]).any() for graph in graphs)),
                        ("many nodes", sum(graph.nodes > 100 for graph in graphs)),
                        ("isolated nodes", sum((np.diff(graph.csr.starts) == 0).any() for graph in graphs)),
                        ("no edges", sum(graph.entries == 0 for graph in graphs)), ("directed", sum(not graph.is_symmetric for graph in graphs)),
                        ("many graphs pooled", sum(graph.graphs > 1 for graph in pooled)), ("sparse", sum(drawn.is_sparse for drawn in FIXED)),
                        ("largest neighbours", sum(layer.aggregator == "max" for layer in means)),
                        ("many heads", sum(layer.heads > 1 for layer in attention)), ("mean of heads", sum(not layer.concat for layer in attention)),
                        ("without self-loops", sum(not layer.self_loops for layer in attention)),
                        ("learnt eps", sum(layer.train_eps for layer in sums)), ("no bias", sum(not layer.use_bias for layer in layers))):
        assert often > 8, what


# GraphConv beside the dense formula, whose gradient by A autograd takes through the normalization.

def dense(a, x, kernel, bias, normalization: str | None, self_loops: bool):
    """D^-1/2 (A + I) D^-1/2 X W + b, or as the layer is told, in NumPy or PyTorch; a row of sum 0 counts nothing."""
    a = a + 1.0 * (np.eye(len(a)) if isinstance(a, np.ndarray) else a.new_ones(len(a)).diag()) if self_loops else a
    sums = a.sum(1)
    empty = sums == 0
    if normalization == "symmetric":
        f = (1 - 1.0 * empty) * (sums + 1.0 * empty) ** -0.5
        a = f[:, None] * a * f[None, :]
    elif normalization == "row":
        a = a / (sums + 1.0 * empty)[:, None]
    return a @ (x @ kernel) + bias


def weighted_graph(rng, V: int, both_signs: bool, symmetric: bool):
    """Weights in a dense array, rows of positive sums or empty; a third of the places are entries."""
    a = (rng.random((V, V)) < 1 / 3) * rng.uniform(0.2, 2, (V, V))
    a[V // 2] = 0
    if symmetric:
        a = a + a.T
    if both_signs:
        a[:, 0] *= -0.1
        a[(a.sum(1) <= 0.1), 0] = 0
    return a


@pytest.mark.parametrize("both_signs", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("self_loops", [True, False])
@pytest.mark.parametrize("normalization", ["symmetric", "row", None])
@pytest.mark.parametrize(("V", "F", "U"), [(1, 3, 2), (7, 5, 3), (12, 3, 17), (130, 17, 33)])
def test_graph_conv_is_the_dense_formula(V, F, U, normalization, self_loops, symmetric, both_signs):
    """Outputs beside NumPy; gradients by features, parameters and the weights of the edges beside autograd with A as one more parameter."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng([V, F, U, self_loops, symmetric, both_signs])
    a = weighted_graph(rng, V, both_signs, symmetric)
    x, t, values = rng.standard_normal((V, F)), rng.standard_normal((V, U)), [rng.standard_normal((F, U)), rng.standard_normal(U)]
    inputs = nnkit.Input((F,)), GraphInput()
    network = nnkit.Network([*inputs], GraphConv(U, normalization=normalization, self_loops=self_loops)([*inputs]))
    model = nnkit.compile(network, loss="mse", dtype="float64")
    model.set_parameters(dict(zip(model.parameters, values, strict=True)))
    adjacency = Adjacency.of(sparse.csr_matrix(a))
    y = dense(a, x, *values, normalization, self_loops)
    np.testing.assert_allclose(model.predict([x, adjacency]), y, rtol=0, atol=1e-12 * max(1, np.abs(y).max()))

    sources = [torch.tensor(array, requires_grad=True) for array in (a, x, *values)]
    (dense(*sources, normalization, self_loops) - torch.tensor(t)).square().mean().backward()
    gradients = model.gradients([x, adjacency], t, inputs=True)
    da, *others = [source.grad.numpy() for source in sources]
    expected = {"x1": da[a != 0], **dict(zip(["x", *model.parameters], others, strict=True))}
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        np.testing.assert_allclose(gradients[name], gradient, rtol=0, atol=1e-11 * max(1, np.abs(gradient).max(initial=0)), err_msg=name)
