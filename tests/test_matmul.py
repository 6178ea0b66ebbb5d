"""The matrix product and the transpose at every edge: tiles, masked columns, blocks along the depth, bands, copied panels."""

import numpy as np
import pytest

from nnkit.layers.dense_cpu import dense_backward_input, dense_backward_weight, dense_forward
from nnkit.prims.matmul_cpu import DEPTH, WIDE_BAND, transpose

# Rows, depth, columns. The last ones go through several blocks along the depth, bands, and panels that are copied to the stack.
SHAPES = [
    (1, 1, 1), (1, 5, 3), (7, 1, 2), (8, 3, 16), (9, 17, 17), (13, 20, 33), (5, 0, 4), (0, 3, 4), (4, 3, 0), (31, 64, 47), (8, 7, 48), (8, 7, 49),
    (3, DEPTH, 5), (12, DEPTH + 1, 97), (100, 2 * DEPTH + 3, 10), (WIDE_BAND // 2, 11, 49), (WIDE_BAND + 9, 53, DEPTH + 7), (257, 1024, 64),
    (WIDE_BAND // 2 + 3, DEPTH + 5, 1025),
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
    dense_forward(0, 1, y, x, w, bias)
    assert_product(y, x, w, bias, dtype)
    dense_forward(0, 1, y, x, w, bias[:0])
    assert_product(y, x, w, 0, dtype)
    transpose(0, 1, wt, w)
    assert np.array_equal(wt, w.T)
    dense_backward_input(0, 1, dx, dy, wt)
    assert_product(dx, dy, w.T, 0, dtype)
    dense_backward_weight(0, 1, dw, db, x, dy)
    assert_product(dw, x.T, dy, 0, dtype)
    assert_product(db[None], np.ones((1, rows)), dy, 0, dtype)


@pytest.mark.parametrize("tasks", [2, 3, 7])
@pytest.mark.parametrize("shape", [(257, 300, 64), (13, 20, 33), (400, 260, 1030)], ids=str)
def test_tasks_change_no_bit(shape, tasks):
    """An element is summed in the order of k whatever tile, band or copied panel it falls in."""
    rows, inputs, outputs = shape
    rng = np.random.default_rng(1)
    x, w, dy = (rng.standard_normal(size, dtype=np.float32) for size in ((rows, inputs), (inputs, outputs), (rows, outputs)))
    bias, wt = rng.standard_normal(outputs, dtype=np.float32), np.ascontiguousarray(w.T)
    found = []
    for count in (1, tasks):
        y, dx, dw, db = np.empty_like(dy), np.empty_like(x), np.empty_like(w), np.empty_like(bias)
        for task in range(count):
            dense_forward(task, count, y, x, w, bias)
            dense_backward_input(task, count, dx, dy, wt)
            dense_backward_weight(task, count, dw, db, x, dy)
        found.append([array.tobytes() for array in (y, dx, dw, db)])
    assert found[0] == found[1]
