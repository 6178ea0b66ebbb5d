"""Kernels on the entries of a sparse matrix, each against the obvious formula in float64: empty and huge rows, cuts into tasks, padding."""

import itertools

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkit.prims import attention_cpu, csr_cpu, segment_cpu

DTYPES = ("float32", "float64")
WIDTHS = (1, 2, 7, 16, 17, 64, 65, 130, 300)
TASKS = (1, 2, 3, 5, 32)
ROOM = 5                                                 # entries behind the used ones


class Sparse:
    """A matrix in compressed rows with room behind, full of NaN and of indices that are in range, and its transpose."""

    def __init__(self, rows, columns, entry_rows, entry_columns, dtype, seed=0):
        self.rng = np.random.default_rng(seed)
        self.R, self.C, self.dtype = rows, columns, dtype
        pairs = np.unique(np.stack([entry_rows, entry_columns], 1).astype(np.int64), axis=0).reshape(-1, 2)
        self.row, self.column = pairs.T
        self.used = len(pairs)
        self.E = self.used + ROOM
        self.starts = np.searchsorted(self.row, np.arange(rows + 1)).astype(np.int64)
        self.columns = self.room(self.column.astype(np.int32), max(0, columns - 1))
        self.values = self.room(self.rng.standard_normal(self.used).astype(dtype))
        order = np.lexsort((self.row, self.column))
        self.starts_t = np.searchsorted(self.column[order], np.arange(columns + 1)).astype(np.int64)
        self.columns_t = self.room(self.row[order].astype(np.int32), max(0, rows - 1))
        self.places = np.concatenate([order, np.arange(self.used, self.E)]).astype(np.int32)

    def room(self, values, behind=np.nan):
        return np.concatenate([values, np.full((ROOM, *values.shape[1:]), behind, values.dtype)])

    def entries(self, heads):
        """Random numbers [E, H], NaN behind."""
        return self.room(self.numbers(self.used, heads))

    def numbers(self, *shape):
        return self.rng.standard_normal(shape).astype(self.dtype)

    def empty(self, *shape):
        return np.full(shape, np.nan, self.dtype)

    def scipy(self, values):
        return scipy.sparse.csr_matrix((values[:self.used].astype(float), self.column, self.starts), shape=(self.R, self.C))


def random_pairs(rows, columns, count, seed=1):
    rng = np.random.default_rng(seed)
    return rng.integers(0, rows, count), rng.integers(0, columns, count)


def huge_row(rows, columns, row):
    """Every column in one row, and a few entries elsewhere."""
    i, j = random_pairs(rows, columns, 40)
    return np.concatenate([np.full(columns, row), i]), np.concatenate([np.arange(columns), j])


MATRICES = {
    "random": (57, 43, *random_pairs(57, 43, 400)),
    "sparse": (200, 90, *random_pairs(200, 90, 60)),
    "huge": (31, 700, *huge_row(31, 700, 11)),
    "first": (9, 500, *huge_row(9, 500, 0)),
    "last": (9, 500, *huge_row(9, 500, 8)),
    "one": (1, 300, np.zeros(300), np.arange(300)),
    "column": (300, 1, np.arange(300), np.zeros(300)),
    "isolated": (50, 50, *random_pairs(20, 20, 100)),
    "nothing": (13, 8, np.empty(0), np.empty(0)),
    "empty": (0, 0, np.empty(0), np.empty(0)),
}


def run(kernel, tasks, *arguments, order=None):
    for task in range(tasks) if order is None else order:
        kernel(task, tasks, *arguments)


def assert_near(found, expected, dtype, scale=1.0):
    """float64: 1e-12 of the terms' size; float32: sums of up to 700 terms, each rounded to 6e-8 of the sum of their sizes."""
    assert found.dtype == dtype
    tolerance = 1e-12 if dtype == "float64" else 3e-5
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * max(1.0, scale))


def product(m, values, x, bias, tasks, heads=False, order=None, chunk=5):
    """A x + bias by the kernels, in that many tasks; rows of more than `chunk` entries are cut."""
    y, carry = m.empty(m.R, x.shape[1]), m.empty(2 * (len(m.columns) // chunk) + 2, x.shape[1])
    run(csr_cpu.csr_product_heads if heads else csr_cpu.csr_product, tasks, y, carry, m.starts, m.columns, values, x, bias, chunk, order=order)
    assert np.isfinite(y).all()
    run(csr_cpu.csr_join, tasks, y, carry, m.starts, bias, chunk)
    return y


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MATRICES)
def test_product(name, dtype):
    m = Sparse(*MATRICES[name], dtype)
    for F in WIDTHS:
        x, bias, none = m.numbers(m.C, F), m.numbers(F), m.numbers(0)
        expected = m.scipy(m.values) @ x.astype(float)
        for tasks in TASKS:
            assert_near(product(m, m.values, x, none, tasks), expected, dtype, 30)
            assert_near(product(m, m.values, x, bias, tasks, chunk=10**6), expected + bias, dtype, 30)
            assert_near(product(m, m.values, x, bias, tasks), expected + bias, dtype, 30)


def test_product_of_many_rows_and_registers():
    """Every number of features up to several blocks of registers."""
    m = Sparse(23, 19, *random_pairs(23, 19, 150), "float32")
    for F in range(1, 600, 3):
        x, bias = m.numbers(m.C, F), m.numbers(F)
        assert_near(product(m, m.values, x, bias, 2), m.scipy(m.values) @ x.astype(float) + bias, "float32", 10)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_product_whatever_the_rows(data):
    R, C = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    pairs = data.draw(st.lists(st.tuples(st.integers(0, R - 1), st.integers(0, C - 1)), max_size=120))
    tasks, F = data.draw(st.integers(1, 32)), data.draw(st.sampled_from([1, 3, 16, 20]))
    i, j = np.array(pairs, np.int64).reshape(-1, 2).T
    m = Sparse(R, C, i, j, "float64")
    x, bias = m.numbers(C, F), m.numbers(F)
    assert_near(product(m, m.values, x, bias, tasks), m.scipy(m.values) @ x + bias, "float64", 10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("H", "U"), [(1, 7), (2, 3), (3, 5), (8, 8), (4, 16), (2, 64), (8, 1), (3, 17), (20, 4), (2, 150), (1, 64)])
def test_product_and_entries_of_heads(H, U, dtype):
    for name in ("random", "sparse", "huge", "nothing", "empty"):
        m = Sparse(*MATRICES[name], dtype)
        values, x, dy, bias = m.entries(H), m.numbers(m.C, H * U), m.numbers(m.R, H * U), m.numbers(H * U)
        expected = np.concatenate([m.scipy(values[:, h]) @ x[:, h * U:(h + 1) * U].astype(float) for h in range(H)], 1) + bias
        d_expected = m.room((dy[m.row].astype(float) * x[m.column]).reshape(m.used, H, U).sum(2), 0.0)
        for tasks in (1, 2, 7):
            assert_near(product(m, values, x, bias, tasks, heads=True), expected, dtype, 30)
            d = m.empty(m.E, H)
            run(csr_cpu.csr_entries_heads, tasks, d, m.starts, m.columns, dy, x)
            assert_near(d, d_expected, dtype, 30)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MATRICES)
def test_entries(name, dtype):
    m = Sparse(*MATRICES[name], dtype)
    for F in WIDTHS:
        x, dy = m.numbers(m.C, F), m.numbers(m.R, F)
        expected = m.room((dy[m.row].astype(float) * x[m.column]).sum(1), 0.0)
        for tasks in TASKS:
            d = m.empty(m.E)
            run(csr_cpu.csr_entries, tasks, d, m.starts, m.columns, dy, x)
            assert_near(d, expected, dtype, 30)


def test_any_order_of_tasks_gives_the_same_bits():
    m = Sparse(*MATRICES["huge"], "float32")
    rng = np.random.default_rng(3)
    for F, tasks in [(1, 4), (16, 7), (65, 32)]:
        x, bias = m.numbers(m.C, F), m.numbers(F)
        found = {product(m, m.values, x, bias, tasks, order=rng.permutation(tasks)).tobytes() for _ in range(5)}
        assert len(found) == 1
        assert found == {product(m, m.values, x, bias, 1).tobytes()}            # the number of tasks changes no bit either


def test_tasks_have_equal_shares_of_entries_and_rows():
    m = Sparse(*MATRICES["huge"], "float32")
    for tasks in TASKS:
        cuts = np.array([csr_cpu.walk_cut(m.starts, tasks, task) for task in range(tasks + 1)])
        assert cuts[0].tolist() == [0, 0]
        assert cuts[-1].tolist() == [m.R, m.used]
        assert np.ptp(np.diff(cuts.sum(1))) <= 1
        assert (np.diff(cuts, axis=0) >= 0).all()


def softmax_of(m, a, slope):
    """alpha for scores a [used, H] before leaky_relu."""
    z = np.where(a > 0, a, slope * a)
    alpha = np.zeros_like(z)
    for i in range(m.R):
        row = slice(m.starts[i], m.starts[i + 1])
        if m.starts[i] < m.starts[i + 1]:
            e = np.exp(z[row] - z[row].max(0))
            alpha[row] = e / e.sum(0)
    return alpha


def row_sums(starts, values):
    return np.array([values[a:b].sum(0) for a, b in itertools.pairwise(starts)]).reshape(len(starts) - 1, values.shape[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("H", [1, 2, 3, 8, 20, 33])
def test_edge_softmax(name, dtype, H):
    m = Sparse(*MATRICES[name], dtype)
    s, t, dalpha, slope = 3 * m.numbers(m.R, H), 3 * m.numbers(m.C, H), m.entries(H), 0.2
    a = (s[m.row] + t[m.column]).astype(float)
    expected = softmax_of(m, a, slope)
    inner = row_sums(m.starts, expected * dalpha[:m.used])[m.row]
    dscores_expected = expected * (dalpha[:m.used] - inner) * np.where(a > 0, 1, slope)
    for tasks in (1, 3, 32):
        alpha = m.empty(m.E, H)
        run(attention_cpu.edge_softmax_forward, tasks, alpha, m.starts, m.columns, s, t, slope)
        assert_near(alpha, m.room(expected, 0.0), dtype)
        dscores, ds = m.empty(m.E, H), m.empty(m.R, H)
        alpha[m.used:] = np.nan
        run(attention_cpu.edge_softmax_backward, tasks, dscores, ds, m.starts, m.columns, alpha, dalpha, s, t, slope)
        assert_near(dscores, m.room(dscores_expected, 0.0), dtype)
        assert_near(ds, row_sums(m.starts, dscores_expected), dtype)


def test_edge_softmax_of_large_scores_and_nan():
    """No overflow; NaN spoils its row and head alone."""
    m = Sparse(*MATRICES["random"], "float32")
    s, t = 1e4 * m.numbers(m.R, 2), 1e4 * m.numbers(m.C, 2)
    alpha = m.empty(m.E, 2)
    run(attention_cpu.edge_softmax_forward, 2, alpha, m.starts, m.columns, s, t, 0.2)
    expected = softmax_of(m, (s[m.row] + t[m.column]).astype(float), 0.2)
    np.testing.assert_allclose(alpha[:m.used], expected, atol=2e-2)          # scores of 1e4 are known to 1e-3
    s[4, 1] = np.nan
    spoilt = m.empty(m.E, 2)
    run(attention_cpu.edge_softmax_forward, 2, spoilt, m.starts, m.columns, s, t, 0.2)
    there = np.zeros((m.E, 2), bool)
    there[m.starts[4]:m.starts[5], 1] = True
    assert np.isnan(spoilt[there]).all()
    assert (spoilt[~there] == alpha[~there]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("H", [1, 3, 8, 40])
def test_row_sums_and_places(name, dtype, H):
    m = Sparse(*MATRICES[name], dtype)
    values = m.entries(H)
    for tasks in (1, 3, 32):
        y = m.empty(m.R, H)
        run(attention_cpu.csr_row_sums, tasks, y, m.starts, values)
        assert_near(y, row_sums(m.starts, values[:m.used].astype(float)), dtype, 30)
        moved = m.empty(m.E, H)
        run(attention_cpu.csr_places, tasks, moved, values, m.places)
        assert np.array_equal(moved, values[m.places], equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MATRICES)
def test_largest_of_neighbours(name, dtype):
    m = Sparse(*MATRICES[name], dtype)
    for F in WIDTHS:
        x, dy = np.round(m.numbers(m.C, F), 1), m.numbers(m.R, F)            # rounded: many equals
        y_expected, best_expected, dx_expected = np.zeros((m.R, F)), np.full((m.R, F), -1), np.zeros((m.C, F))
        for i in range(m.R):
            row = np.arange(m.starts[i], m.starts[i + 1])
            if len(row):
                y_expected[i] = x[m.column[row]].max(0)
                best_expected[i] = row[x[m.column[row]].argmax(0)]
                np.add.at(dx_expected, (m.column[best_expected[i]], np.arange(F)), dy[i])
        for tasks in (1, 3, 32):
            y, best, dx = m.empty(m.R, F), np.full((m.R, F), -7, np.int32), m.empty(m.C, F)
            run(segment_cpu.csr_max_forward, tasks, y, best, m.starts, m.columns, x)
            assert np.array_equal(y, y_expected.astype(dtype))
            assert np.array_equal(best, best_expected)
            run(segment_cpu.csr_max_backward, tasks, dx, m.starts_t, m.columns_t, m.places, best, dy)
            assert_near(dx, dx_expected, dtype, 10)


def test_largest_where_there_is_nan_or_infinity():
    x = np.array([[-np.inf, 1.0, -np.inf], [-np.inf, np.nan, 2.0], [-np.inf, 3.0, np.inf], [-np.inf, np.nan, 1.0]], np.float32)
    m = Sparse(2, 4, np.zeros(4), np.arange(4), "float32")
    y, best = m.empty(2, 3), np.empty((2, 3), np.int32)
    segment_cpu.csr_max_forward(0, 1, y, best, m.starts, m.columns, x)
    assert np.array_equal(y, [[-np.inf, np.nan, np.inf], [0, 0, 0]], equal_nan=True)
    assert best.tolist() == [[0, 1, 2], [-1, -1, -1]]
    segment_cpu.segment_max_forward(0, 1, y, best, np.array([0, 4, 4]), x)
    assert np.array_equal(y, [[-np.inf, np.nan, np.inf], [0, 0, 0]], equal_nan=True)
    assert best.tolist() == [[0, 1, 2], [-1, -1, -1]]


SEGMENTS = {"one": [0, 53], "several": [0, 0, 5, 6, 6, 40, 53, 53], "nodes behind": [0, 20, 30], "none": [0], "empty": [0, 0], "many": [*range(54)]}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SEGMENTS)
def test_segments(name, dtype):
    rng = np.random.default_rng(0)
    segments = np.array(SEGMENTS[name], np.int64)
    G, V = len(segments) - 1, 53
    runs = [slice(a, b) for a, b in itertools.pairwise(segments)]
    for F in WIDTHS:
        x, dy = np.round(rng.standard_normal((V, F)), 1).astype(dtype), rng.standard_normal((G, F)).astype(dtype)
        sums, means, largest = (np.array([f(x[r].astype(float), 0) if r.start < r.stop else np.zeros(F) for r in runs]).reshape(G, F)
                                for f in (np.sum, np.mean, np.max))
        dsum, dmean, dlargest = np.zeros((V, F)), np.zeros((V, F)), np.zeros((V, F))
        best_expected = np.full((G, F), -1)
        for g, r in enumerate(runs):
            dsum[r], dmean[r] = dy[g], dy[g] / max(1, r.stop - r.start)
            if r.start < r.stop:
                best_expected[g] = r.start + x[r].argmax(0)
                dlargest[best_expected[g], np.arange(F)] = dy[g]
        for tasks in (1, 3, 32):
            y, best, dx = np.full((G, F), np.nan, dtype), np.full((G, F), -7, np.int32), np.full((V, F), np.nan, dtype)
            for forward, backward, expected, dexpected in ((segment_cpu.segment_sum_forward, segment_cpu.segment_sum_backward, sums, dsum),
                                                           (segment_cpu.segment_mean_forward, segment_cpu.segment_mean_backward, means, dmean)):
                run(forward, tasks, y, segments, x)
                assert_near(y, expected, dtype, 10)
                run(backward, tasks, dx, segments, dy)
                assert_near(dx, dexpected, dtype)
            run(segment_cpu.segment_max_forward, tasks, y, best, segments, x)
            assert np.array_equal(y, largest.astype(dtype))
            assert np.array_equal(best, best_expected)
            run(segment_cpu.segment_max_backward, tasks, dx, segments, best, dy)
            assert np.array_equal(dx, dlargest.astype(dtype))
