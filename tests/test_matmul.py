"""The matrix product and the transpose at every edge: tiles, masked columns, blocks along the depth, bands, packed panels."""

import numpy as np
import pytest

from nnkit.layers.dense_cpu import dense_backward_input, dense_backward_weight, dense_forward
from nnkit.prims.matmul_cpu import BAND, DEPTH, pack, pack_transposed, transpose

# Rows, depth, columns. The last ones go through several blocks along the depth, bands, and several panels.
SHAPES = [
    (1, 1, 1), (1, 5, 3), (7, 1, 2), (8, 3, 16), (9, 17, 17), (13, 20, 33), (5, 0, 4), (0, 3, 4), (4, 3, 0), (31, 64, 47), (8, 7, 48), (8, 7, 49),
    (3, DEPTH, 5), (12, DEPTH + 1, 97), (100, 2 * DEPTH + 3, 10), (3 * BAND, 11, 49), (BAND + 9, 53, DEPTH + 7), (257, 1024, 64),
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
