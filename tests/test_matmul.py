"""The matrix product and the transpose at every edge: tiles, masked columns, blocks along the depth, bands, packed panels."""

import numpy as np
import pytest

from helpers import Rig, assert_same_bits, many_tasks
from nnkit import Dense, Input, Sequential
from nnkit.layers.dense import COLUMNS
from nnkit.layers.dense_cpu import (
    dense_backward_columns,
    dense_backward_input,
    dense_backward_weight,
    dense_backward_weight_slices,
    dense_forward,
    dense_forward_slices,
)
from nnkit.prims.matmul import SLICE
from nnkit.prims.matmul_cpu import BAND, DEPTH, pack, pack_transposed, transpose

# Rows, depth, columns. The last ones go through several blocks along the depth, bands, and several panels.
SHAPES = [
    (1, 1, 1), (1, 5, 3), (7, 1, 2), (8, 3, 16), (9, 17, 17), (13, 20, 33), (5, 0, 4), (0, 3, 4), (4, 3, 0), (31, 64, 47), (8, 7, 48), (8, 7, 49),
    (3, DEPTH, 5), (12, DEPTH + 1, 97), (100, 2 * DEPTH + 3, 10), (3 * BAND, 11, 49), (BAND + 9, 53, DEPTH + 7), (257, 1024, 64),
    (20, 9, 64), (11, 4, 50), (13, 6, 61), (7, 3, 60), (9, 5, 31), (17, 3, 32), (23, 8, 112),
    (3 * BAND + 3, DEPTH + 5, 1025),
]


def assert_product(found, a, b, start, dtype):
    """Sums of K products: the error of each is at most K + 1 roundings of the sum of absolute products (Higham 2002, 3.5)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    bound = (a.shape[1] + 1) * np.finfo(dtype).eps * (np.abs(a) @ np.abs(b) + np.abs(start))
    assert (np.abs(found - (a @ b + start)) <= bound).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_of_a_dense_layer(shape, dtype):
    rows, inputs, outputs = shape
    rng = np.random.default_rng(0)
    x, w, dy = (rng.standard_normal(size).astype(dtype) for size in ((rows, inputs), (inputs, outputs), (rows, outputs)))
    bias = rng.standard_normal(outputs).astype(dtype)
    y, dx, dw, db, wt = (np.full(size, np.nan, dtype) for size in (dy.shape, x.shape, w.shape, bias.shape, (outputs, inputs)))
    none, packed_w, packed_wt, packed_dy = (np.full(size, np.nan, dtype) for size in (0, w.size, w.size, dy.size))
    pack(0, 1, packed_w, w)
    pack_transposed(0, 1, packed_wt, w)
    pack(0, 1, packed_dy, dy)
    transpose(0, 1, wt, w)
    assert np.array_equal(wt, w.T)
    for w_panels, wt_panels, dy_panels in ((none, none, none), (packed_w, packed_wt, packed_dy)):
        dense_forward(0, 1, y, x, w, bias, w_panels)
        assert_product(y, x, w, bias, dtype)
        dense_forward(0, 1, y, x, w, none, w_panels)
        assert_product(y, x, w, 0, dtype)
        dense_backward_input(0, 1, dx, dy, wt, wt_panels)
        assert_product(dx, dy, w.T, 0, dtype)
        dense_backward_weight(0, 1, dw, db, x, dy, dy_panels)
        assert_product(dw, x.T, dy, 0, dtype)
    assert_product(db[None], np.ones((1, rows)), dy, 0, dtype)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (9, 5), (4, 48), (3, 50)], ids=str)
def test_long_sums_do_not_outgrow_their_terms(shape):
    """dW and db of 2**19 rows of equal numbers, whose rounding errors are all of one sign. One sum of all rows is 3e-3 off, of 2**25 rows it would
    be half of what it should. Sums of DEPTH rows, of those in slices of SLICE rows, then of these, are within as many roundings as each has terms,
    which is the bound here."""
    inputs, outputs = shape
    rows = 2**19
    spec = Sequential([Input((inputs,)), Dense(outputs, name="dense")])
    rng = np.random.default_rng(0)
    parameters = {"dense/kernel": rng.standard_normal(shape), "dense/bias": rng.standard_normal(outputs)}
    rig = Rig(spec, parameters, rows, dtype="float32", debug=False, inputs=False)
    x, t = np.full((rows, inputs), 0.7, np.float32), np.full((rows, outputs), 1 / 3, np.float32)
    found = rig.run(x, t).gradients
    assert "layers.dense.dense_backward_weight_slices" in rig.tape("gradients").plan.kernels
    bound = (DEPTH + SLICE / DEPTH + rows / SLICE) * np.finfo(np.float32).eps / 2
    for name, each in (("dense/kernel", float(x[0, 0]) * float(t[0, 0])), ("dense/bias", float(t[0, 0]))):
        np.testing.assert_allclose(found[name], rows * each, rtol=bound, atol=0)


@pytest.mark.parametrize("slices", [1, 2, 5])
@pytest.mark.parametrize("shape", [(11, 3, 1), (1200, 17, 33), (5, 4, 3), (3, 2, 2)], ids=str)
def test_slices_of_the_rows(shape, slices):
    """More slices than rows, too, some of which are empty."""
    rows, inputs, outputs = shape
    rng = np.random.default_rng(4)
    x, dy = rng.standard_normal((rows, inputs)), rng.standard_normal((rows, outputs))
    for tasks in (1, 3):
        parts = np.full((slices, inputs * outputs), np.nan)
        for task in range(tasks):
            dense_backward_weight_slices(task, tasks, parts, x, dy)
        assert_product(parts.sum(0).reshape(inputs, outputs), x.T, dy, 0, np.float64)


@pytest.mark.parametrize("tasks", [2, 3, 7])
@pytest.mark.parametrize("shape", [(257, 300, 64), (13, 20, 33), (400, 260, 1030)], ids=str)
def test_tasks_change_no_bit(shape, tasks):
    """An element is summed in the order of k whatever tile, band or panel it falls in, and whether the panel is packed."""
    rows, inputs, outputs = shape
    rng = np.random.default_rng(1)
    x, w, dy = (rng.standard_normal(size, dtype=np.float32) for size in ((rows, inputs), (inputs, outputs), (rows, outputs)))
    bias, wt, none = rng.standard_normal(outputs, dtype=np.float32), np.ascontiguousarray(w.T), np.empty(0, np.float32)
    found = []
    for count, packed in ((1, False), (tasks, False), (1, True), (tasks, True)):
        y, dx, dw, db, w_panels, wt_panels, dy_panels = (np.empty_like(array) for array in (dy, x, w, bias, w.ravel(), w.ravel(), dy.ravel()))
        for task in range(count):
            pack(task, count, w_panels, w)
            pack_transposed(task, count, wt_panels, w)
            pack(task, count, dy_panels, dy)
        for task in range(count):
            dense_forward(task, count, y, x, w, bias, w_panels if packed else none)
            dense_backward_input(task, count, dx, dy, wt, wt_panels if packed else none)
            dense_backward_weight(task, count, dw, db, x, dy, dy_panels if packed else none)
        found.append([array.tobytes() for array in (y, dx, dw, db)])
    assert found.count(found[0]) == len(found)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_with_a_large_weight(shape, dtype):
    """By slices of the inputs, and column by column of the inputs' gradients."""
    rows, inputs, outputs = shape
    rng = np.random.default_rng(2)
    x, w, dy, bias = (rng.standard_normal(size).astype(dtype) for size in ((rows, inputs), (inputs, outputs), (rows, outputs), (outputs,)))
    for slices, tasks in ((1, 1), (3, 1), (3, 2)):
        parts, dx, columns = (np.full(size, np.nan, dtype) for size in ((slices, rows * outputs), x.shape, (tasks, COLUMNS * rows)))
        for task in range(tasks):
            dense_forward_slices(task, tasks, parts, x, w, bias)
            dense_backward_columns(task, tasks, dx, np.ascontiguousarray(dy.T), w, columns)
        assert_product(parts.sum(0).reshape(dy.shape), x, w, bias, dtype)
        assert_product(dx, dy, w.T, 0, dtype)


@pytest.mark.parametrize("use_bias", [True, False])
def test_few_rows_of_a_large_weight(use_bias):
    network = Sequential((Input((2100,)), Dense(130, use_bias=use_bias)))
    rng = np.random.default_rng(3)
    values = {name: rng.standard_normal(declared.shape) for name, declared in network.graph().parameters().items()}
    x, dy = (rng.standard_normal((5, size), dtype=np.float32) for size in (2100, 130))
    rig = Rig(network, values, 5, dtype="float32", debug=False)
    assert "layers.dense.dense_forward_slices" in rig.tape("gradients").plan.kernels
    expected = rig.run(x, dy)
    assert_product(expected.y, x, rig.parameters["dense/kernel"], rig.parameters["dense/bias"] if use_bias else 0, np.float32)
    with many_tasks():
        sliced = Rig(network, values, 5, dtype="float32").run(x, dy)
        for threads in (1, 2):
            found = Rig(network, values, 5, dtype="float32", debug=False, threads=threads).run(x, dy)
            for a, b in ((found.y, sliced.y), (found.dx, expected.dx)):
                assert_same_bits(a, b)
