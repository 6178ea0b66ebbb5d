"""Sums of very many terms are sums of sums: in float32 one long sum outgrows its terms and loses what they round to.

All terms of a sum are equal here and no powers of two, so that roundings are of one sign and add up: the worst case, to which constant gradients
(behind a mean, say) come near. A bound counts roundings, half a unit of the last place each: as many as the parts of a sum have terms.
"""

import numpy as np
import pytest
import scipy.sparse as sp

import nnkit
from helpers import Rig
from nnkit import GAT, GIN, GRU, LSTM, Conv1D, DepthwiseConv1D, Embedding, GraphInput, GraphSAGE, Input, LayerNormalization, Network, Sequential
from nnkit.layers.embedding import MANY
from nnkit.losses.regression_cpu import mean_squared_error_forward
from nnkit.prims import reduce_cpu, simd_cpu, touched_cpu
from nnkit.prims.csr import CHUNK
from nnkit.prims.direct import CHAIN_PLACES
from nnkit.prims.simd_cpu import LANES32

X, DY = np.float32(0.7), np.float32(1 / 3)


def assert_sum(found, expected, roundings):
    """Relative to what is expected."""
    np.testing.assert_allclose(found, expected, rtol=roundings * float(np.finfo(np.float32).eps) / 2, atol=0)


def gradients(layer, shape, x):
    """By the parameters of a layer, whose name is "layer", all of whose outputs have the gradient DY. x: a batch of samples of that shape."""
    rng = np.random.default_rng(0)
    parameters = {f"layer/{name}": rng.standard_normal(parameter.shape) for name, parameter in layer.parameters(shape).items()}
    rig = Rig(Sequential([Input(shape), layer]), parameters, len(x), dtype="float32", debug=False, inputs=False)
    found = rig.run(x, np.full((len(x), *layer.output_shape(shape)), DY)).gradients
    return {name.split("/")[1]: value for name, value in found.items()}


@pytest.mark.parametrize("layer", [Conv1D(3, 2, algorithm="few", name="layer"), Conv1D(3, 2, algorithm="direct", name="layer"),
                                   Conv1D(2, 2, groups=2, algorithm="direct", name="layer"), DepthwiseConv1D(2, name="layer")], ids=str)
def test_one_long_row_of_an_image(layer):
    """Kernel and bias sum over 2**19 places of one row, whose kernel was off by 3e-3 as one chain."""
    places = 2**19
    found = gradients(layer, (places + 1, 2), np.full((1, places + 1, 2), X))
    (kernel,) = (name for name in found if name != "bias")
    assert_sum(found["bias"], float(DY) * places, CHAIN_PLACES)
    assert_sum(found[kernel], float(X) * float(DY) * places, CHAIN_PLACES + places / CHAIN_PLACES)


def test_biases_of_many_rows():
    """beta of 2**19 rows: chunks, and the sums of those; 3e-5 off as one sum of chunks."""
    rows = 2**19
    x = np.random.default_rng(0).standard_normal((rows, 5))
    assert_sum(gradients(LayerNormalization(name="layer"), (5,), x)["beta"], float(DY) * rows, 256)


@pytest.mark.parametrize("copies", [1, 2, 128, 129, 5000, 70000])
@pytest.mark.parametrize("length", [1, 3, 200])
def test_sums_of_rows(copies, length):
    """Right for every number of rows (whole numbers, exact in any order), and of few roundings."""
    x = np.random.default_rng(copies).integers(-9, 9, (1, copies, length)).astype(np.float32)
    total = np.full((1, length), np.nan, np.float32)
    for tasks in (1, 3):
        for task in range(tasks):
            reduce_cpu.sum_middle(task, tasks, total, x)
        assert np.array_equal(total, x.sum(1))
    x[...] = DY
    reduce_cpu.sum_middle(0, 1, total, x)
    assert_sum(total, float(DY) * copies, 2 * max(reduce_cpu.LONG, 2 * copies**0.5))


@pytest.mark.parametrize("length", [1, 40, simd_cpu.LONG * LANES32, simd_cpu.LONG * LANES32 + 1, 2**21 + 5])
def test_rows_of_a_loss(length):
    """The loss of a sample of two million numbers: as one sum for each lane it was 1.5e-3 off."""
    rows, terms = np.full(1, np.nan, np.float32), np.empty((1, length), np.float32)
    y, t = np.full((1, length), X), np.full((1, length), np.float32(0))
    mean_squared_error_forward(0, 1, rows, y, t, np.ones(1, np.float32), terms, np.float32(1), np.float32(0), np.float32(0))
    assert_sum(rows, float(X * X) * length, simd_cpu.LONG + length / (simd_cpu.LONG * LANES32) + 16)


@pytest.mark.parametrize("indices", ["one", "three"])
@pytest.mark.parametrize("rows", ["touched", "all"])
def test_an_index_that_occurs_often(indices, rows):
    """Of a table whose touched rows are summed by lists, and of one that has a gradient as a whole: one sum of 2**19 rows would be 1.6e-3 off."""
    count, D = 2**19, 5
    x = (np.zeros(count) if indices == "one" else np.arange(count) % 3).astype(np.int32)
    dy = np.full((count, D), DY)
    times = np.bincount(x, minlength=3)[:3, None] * np.ones((1, D))
    if rows == "all":
        found = gradients(Embedding(3, D, name="layer"), (), x)["embeddings"]
        assert_sum(found, float(DY) * times, MANY + count / MANY)
        return
    places, link, number = np.full(3, -1, np.int32), np.empty(3 + count, np.int32), np.zeros(1, np.int64)
    found = np.full((3, D), np.nan, np.float32)
    touched_cpu.distinct(0, 1, places, link, number, x, np.zeros(3, np.int32), np.zeros(3, np.int32))
    touched_cpu.add_up(0, 1, found, link, number, dy)
    assert_sum(found[:number[0]], float(DY) * times[places[:number[0]]], touched_cpu.LONG)


@pytest.mark.parametrize("layer", [LSTM(3, name="layer"), GRU(3, name="layer")], ids=str)
def test_many_rows_of_a_recurrent_layer(layer):
    """20000 equal samples: 3 steps of some 66 groups in each of 19 slices; 3e-5 off as one sum of groups, 4e-4 of 2e5 samples."""
    x = np.full((20000, 3, 2), X)
    rng = np.random.default_rng(0)
    parameters = {f"layer/{name}": rng.uniform(0, 0.2, parameter.shape) for name, parameter in layer.parameters((3, 2)).items()}
    found = []
    for dtype, samples in (("float32", x), ("float64", x[:1])):
        rig = Rig(Sequential([Input((3, 2)), layer]), parameters, len(samples), dtype=dtype, debug=False, inputs=False)
        found.append(rig.run(samples, np.full((len(samples), 3), DY)).gradients)
    for name, one in found[1].items():
        assert_sum(found[0][name], len(x) * one, 3 * 66 + 19)


@pytest.mark.parametrize("count", [1, touched_cpu.LONG - 1, touched_cpu.LONG, touched_cpu.LONG + 1, 2 * touched_cpu.LONG, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lists_of_every_length(count, dtype):
    dy = np.random.default_rng(count).integers(-9, 9, (2 * count, 70)).astype(dtype)
    x = np.repeat([4, 2], count).astype(np.int32)
    places, link, number = np.zeros(5, np.int32), np.empty(5 + x.size, np.int32), np.zeros(1, np.int64)
    found = np.full((5, 70), np.nan, dtype)
    touched_cpu.distinct(0, 1, places, link, number, x, np.zeros(5, np.int32), np.zeros(5, np.int32))
    touched_cpu.add_up(0, 1, found, link, number, dy)
    assert np.array_equal(found[:2], [dy[:count].sum(0), dy[count:].sum(0)])


@pytest.mark.parametrize("layer", [GIN(2, hidden_units=(), use_bias=False, name="layer"), GraphSAGE(2, use_bias=False, name="layer"),
                                   GAT(2, self_loops=False, use_bias=False, name="layer")], ids=str)
def test_a_node_of_very_many_neighbours(layer):
    """The first of 2**17 nodes has all as neighbours, whose features are equal: their sum, mean, and mean by attention. It was 6e-4 off."""
    V = 2**17
    adjacency = sp.csr_matrix((np.ones(V, np.float32), (np.zeros(V, int), np.arange(V))), shape=(V, V))
    x, graph = Input((2,)), GraphInput()
    found = []
    for dtype in ("float32", "float64"):
        model = nnkit.compile(Network([x, graph], layer([x, graph])), seed=0, dtype=dtype)
        model.set_parameters({name: np.full(value.shape, X) for name, value in model.parameters.items()})
        found.append(model.predict([np.full((V, 2), X), adjacency])[0])
    assert_sum(found[0], found[1], 2 * (CHUNK + V / CHUNK))          # of attention also the sum of its weights
