"""CsrArrays: every format of SciPy against its own conversion, the transpose, broken matrices, rows taken."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import assert_well_formed, random_matrix
from helpers import refused
from nnkit.graph import CsrArrays
from nnkit.plan.launch import MOST_TASKS
from nnkit.prims.csr import is_even

FORMATS = ("csr", "csc", "coo", "lil", "dok", "bsr", "dia")


@settings(max_examples=60, deadline=None)
@given(R=st.integers(1, 9), C=st.integers(1, 9), density=st.floats(0, 1), seed=st.integers(0, 999), kind=st.sampled_from(FORMATS),
       make=st.sampled_from([sp.csr_matrix, sp.csr_array]), dtype=st.sampled_from([np.float32, np.float64]))
def test_every_format_and_its_transpose(R, C, density, seed, kind, make, dtype):
    dense = random_matrix(R, C, density, seed, dtype)
    csr = CsrArrays.of(make(dense).asformat(kind), "x")
    assert_well_formed(csr)
    assert csr.values.dtype == dtype
    np.testing.assert_array_equal(csr.matrix.toarray(), dense)
    np.testing.assert_array_equal(csr.rows, csr.matrix.tocoo().row)
    starts, columns, places = csr.transposed
    turned = CsrArrays((C, R), starts, columns, csr.transposed_values(dtype))
    assert_well_formed(turned)
    np.testing.assert_array_equal(turned.matrix.toarray(), dense.T)
    np.testing.assert_array_equal(turned.values, csr.values[places])
    assert csr.symmetric == np.array_equal(dense, dense.T)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float16", "float32", "float64", "longdouble"])
def test_dtypes(dtype):
    matrix = sp.csr_matrix(np.array([[0, 1], [1, 0]], dtype)) if dtype != "float16" else sp.csr_matrix(np.eye(2, dtype="float32")[::-1].copy())
    if dtype == "float16":                               # SciPy takes it only when it is assigned
        matrix.data = matrix.data.astype(dtype)
    assert CsrArrays.of(matrix, "x").values.dtype == ("float32" if dtype == "float32" else "float64")
    for asked in ("float32", "float64"):
        csr = CsrArrays.of(matrix, "x", asked)
        assert csr.values.dtype == asked
        np.testing.assert_array_equal(csr.values, [1, 1])


def test_symmetric_matrices_share_their_transpose():
    dense = random_matrix(7, 7, 0.4, 0)
    csr = CsrArrays.of(sp.csr_matrix(dense + dense.T), "x")
    assert csr.symmetric
    assert csr.transposed[0] is csr.starts
    assert csr.transposed[1] is csr.columns
    assert csr.transposed_values("float64") is csr.values
    assert csr.transposed_values("float32") is csr.cast("float32") is csr.cast("float32")
    values = csr.values.copy()
    values[csr.rows < csr.columns] *= 2                  # the same places, other values
    csr = CsrArrays(csr.shape, csr.starts, csr.columns, values)
    assert not csr.symmetric
    assert csr.transposed[1] is csr.columns
    for dtype in ("float32", "float64"):
        assert csr.transposed_values(dtype) is csr.transposed_values(dtype)
        np.testing.assert_array_equal(csr.transposed_values(dtype), csr.cast(dtype)[csr.transposed[2]])


def test_arrays_of_a_plan():
    csr = CsrArrays.of(sp.csr_matrix(random_matrix(3, 5, 0.5, 1)), "x")
    arrays = csr.arrays("g", "float32")
    assert list(arrays) == ["g/starts", "g/columns", "g/values", "g/transposed/starts", "g/transposed/columns", "g/transposed/values",
                            "g/transposed/places"]
    assert arrays["g/starts"] is csr.starts
    assert [str(array.dtype) for array in arrays.values()] == ["int64", "int32", "float32", "int64", "int32", "float32", "int32"]
    assert csr.nbytes == 4 * 8 + csr.entries * (4 + 8)
    assert repr(csr) == f"<CsrArrays of shape (3, 5), {csr.entries} entries of float64>"


def test_room_behind_the_entries():
    csr = CsrArrays.of(sp.csr_matrix(random_matrix(4, 3, 0.5, 2)), "x")
    roomy = CsrArrays(csr.shape, csr.starts, np.append(csr.columns, [0, 0]).astype(np.int32), np.append(csr.values, [0.0, 0.0]))
    starts, columns, places = roomy.transposed
    assert len(columns) == len(places) == csr.entries + 2
    np.testing.assert_array_equal(columns[-2:], 0)
    np.testing.assert_array_equal(places[-2:], [csr.entries, csr.entries + 1])
    np.testing.assert_array_equal(starts, csr.transposed[0])
    np.testing.assert_array_equal(roomy.transposed_values("float64")[:-2], csr.transposed_values("float64"))
    np.testing.assert_array_equal(roomy.matrix.toarray(), csr.matrix.toarray())


def test_the_input_is_copied_and_not_modified():
    matrix = sp.csr_matrix((np.array([1.0, 2.0, 3.0]), np.array([2, 0, 0], np.int32), np.array([0, 2, 3], np.int32)), (2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")                   # unsorted columns need no word
        csr = CsrArrays.of(matrix, "x")
    np.testing.assert_array_equal(matrix.indices, [2, 0, 0])
    np.testing.assert_array_equal(csr.columns, [0, 2, 0])
    again = CsrArrays.of(csr.matrix, "x")
    sorted_matrix = csr.matrix
    kept = CsrArrays.of(sorted_matrix, "x")
    sorted_matrix.indices[:], sorted_matrix.data[:], sorted_matrix.indptr[:] = 99, np.nan, -1
    np.testing.assert_array_equal(kept.matrix.toarray(), again.matrix.toarray())


def test_repeated_entries_are_summed_with_a_word():
    for matrix, message in (
            (sp.coo_matrix((np.array([1, 2, 3, 100, 100], np.int8), ([0, 0, 1, 1, 1], [1, 1, 0, 2, 2])), (2, 3)),
             "x holds 2 repeated entries, which were added to the first of the same place"),
            (sp.csr_matrix((np.array([3.0, 1.0, 2.0]), np.array([2, 1, 2]), np.array([0, 3, 3])), (2, 3)),
             "x holds 1 repeated entry, which was added to the first of the same place"),
            (sp.csc_matrix((np.array([3.0, 1.0]), np.array([1, 1]), np.array([0, 2, 2])), (2, 2)),
             "x holds 1 repeated entry, which was added to the first of the same place")):
        with pytest.warns(UserWarning, match=f"^{message}$"):
            csr = CsrArrays.of(matrix, "x")
        assert_well_formed(csr)
        np.testing.assert_array_equal(csr.matrix.toarray(), matrix.astype(np.float64).toarray())


def test_entries_of_zero_are_kept():
    for matrix in (sp.csr_matrix((np.zeros(2), np.array([0, 1]), np.array([0, 1, 2])), (2, 2)), sp.coo_matrix((np.zeros(2), ([0, 1], [0, 1])))):
        assert CsrArrays.of(matrix, "x").entries == 2


def test_what_is_no_matrix_of_numbers():
    refused("x must be a SciPy sparse matrix, received [1]", CsrArrays.of, [1], "x", error=TypeError)
    refused("x must hold real numbers, received complex numbers (dtype complex128)", CsrArrays.of, sp.csr_matrix(np.eye(2) * 1j), "x",
            error=TypeError)
    for kind in ("csr", "coo", "csc"):
        matrix = sp.csr_matrix(np.eye(2)).asformat(kind)
        matrix.data = np.array(["a", "b"])
        refused("x must hold real numbers, received strings (dtype <U1)", CsrArrays.of, matrix, "x", error=TypeError)
    if sp.coo_array(np.ones(3)).ndim == 1:              # SciPy before 1.13 makes a row of it
        refused("x must have 2 axes, received shape (3,)", CsrArrays.of, sp.coo_array(np.ones(3)), "x")
    refused("x must have fewer than 2**31 rows and columns, received shape (1, 2147483648)", CsrArrays.of, sp.coo_matrix((1, 2**31)), "x")


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(kind, value):
    dense = np.zeros((3, 5))
    dense[0, 1], dense[2, 4] = 1.0, value
    refused(f"x must be finite, received {value!r} in row 2, column 4", CsrArrays.of, sp.csr_matrix(dense).asformat(kind), "x")


def test_values_too_large_for_the_dtype():
    matrix = sp.csr_matrix(np.array([[0.0, 1e300]]))
    refused("x must be finite in float32, received 1e+300 in row 0, column 1", CsrArrays.of, matrix, "x", "float32")
    refused("the values of a sparse matrix must be finite in float32, received 1e+300", CsrArrays.of(matrix, "x").cast, "float32")
    twice = sp.csr_matrix((np.array([1e308, 1e308]), np.array([0, 0]), np.array([0, 2])), (1, 1))
    refused("x must be finite, received inf in row 0, column 0", CsrArrays.of, twice, "x")


BROKEN = [                                               # what is assigned to a good matrix (3, 4), and the message
    ({"indices": np.array([0, 4, 1])}, "the indices of x must hold whole numbers from 0 to 3, received 4 at position 1"),
    ({"indices": np.array([0, 1, -1])}, "the indices of x must hold whole numbers from 0 to 3, received -1 at position 2"),
    ({"indices": np.array([0, 1, 2**40])}, "the indices of x must hold whole numbers from 0 to 3, received 1099511627776 at position 2"),
    ({"indices": np.array([0.0, 1.0, 2.0])}, "the indices of x must be whole numbers on 1 axis, received float64 of shape (3,)"),
    ({"indices": np.array([[0, 1, 2]])}, "the indices of x must be whole numbers on 1 axis, received int64 of shape (1, 3)"),
    ({"indptr": np.array([0, 2, 1, 3])}, "the indptr of x must never fall, received 2 and 1 at position 1"),
    ({"indptr": np.array([1, 2, 3, 3])}, "the indptr of x must begin with 0, received 1"),
    ({"indptr": np.array([0, -1, 2, 3])}, "the indptr of x must never fall, received 0 and -1 at position 0"),
    ({"indptr": np.array([0, 1, 3])}, "the indptr of x must have 4 numbers, received 3"),
    ({"indptr": np.array([0, 1, 2, 4])}, "the indices and data of x must have 4 entries, as its indptr says, received 3 and 3"),
    ({"data": np.ones(2)}, "the indices and data of x must have 3 entries, as its indptr says, received 3 and 2"),
    ({"data": np.ones((3, 1))}, "the data of x must have 1 axis, received shape (3, 1)"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_broken_matrices(change, message):
    for make, shape in ((sp.csr_matrix, (3, 4)), (sp.csr_array, (3, 4)), (sp.csc_matrix, (4, 3))):
        matrix = make((np.ones(3), np.array([0, 1, 2]), np.array([0, 1, 2, 3])), shape)
        for name, value in change.items():
            setattr(matrix, name, value)
        refused(message, CsrArrays.of, matrix, "x")


def test_broken_matrices_of_other_formats():
    matrix = sp.bsr_matrix(np.eye(4), blocksize=(2, 2))
    matrix.indices = np.array([0, 2], np.int32)
    refused("the indices of x must hold whole numbers from 0 to 1, received 2 at position 1", CsrArrays.of, matrix, "x")
    matrix = sp.bsr_matrix(np.eye(4), blocksize=(2, 2))
    matrix.indptr = np.array([0, 1, 9], np.int32)
    refused("the indices and data of x must have 9 entries, as its indptr says, received 2 and 2", CsrArrays.of, matrix, "x")
    for name, value, message in (("row", [0, 3], "the row of x must hold whole numbers from 0 to 1, received 3 at position 1"),
                                 ("col", [-1, 1], "the col of x must hold whole numbers from 0 to 1, received -1 at position 0"),
                                 ("row", [0], "the row of x must have as many numbers as its data, received 1 and 2")):
        matrix = sp.coo_matrix(np.eye(2))
        setattr(matrix, name, np.array(value, np.int32))
        refused(message, CsrArrays.of, matrix, "x")


@pytest.mark.parametrize(("kind", "name", "value", "message"), [
    # SciPy would read offsets that are not there.
    ("dia", "offsets", np.array([0]), "the offsets of x must be as many as the rows of its data, received 1 and 2"),
    ("dia", "offsets", np.array([0.0, 1.0]), "the offsets of x must be whole numbers on 1 axis, received float64 of shape (2,)"),
    ("dia", "data", np.ones(4), "the data of x must have 2 axes, received shape (4,)"),
    # It would leave what is missing as it finds it in memory.
    ("lil", "rows", np.array([[0], [1], [2]], object)[:, 0], "the rows and data of x must have 4 lists each, received 3 and 4"),
    ("lil", "data", np.array([[], [1.0], [], [], []], object), "the rows and data of x must have 4 lists each, received 4 and 5"),
    ("lil", "data", np.array([[1.0, 1.0], [1.0], [1.0, 1.0], [1.0]], object),
     "the rows and data of x must have lists of one length, received 2 and 1 numbers in row 1"),
    ("bsr", "data", np.ones((2, 3, 3)), "the blocks of x must fit its shape (4, 4), received blocks of shape (3, 3)"),
    ("bsr", "data", np.ones((2, 0, 2)), "the blocks of x must fit its shape (4, 4), received blocks of shape (0, 2)"),
    ("bsr", "data", np.ones(2), "the data of x must have 3 axes, received shape (2,)"),
])
def test_broken_matrices_that_scipy_would_convert(kind, name, value, message):
    matrix = sp.csr_matrix(np.eye(4) + np.eye(4, k=1)).asformat(kind)
    if kind == "bsr":
        matrix = sp.bsr_matrix(np.eye(4), blocksize=(2, 2))
    setattr(matrix, name, value)
    refused(message, CsrArrays.of, matrix, "x")


def test_arrays_cannot_be_written():
    """A kernel would follow them out of memory; a form that is kept would not be that of the matrix any more."""
    source = sp.csr_matrix(np.eye(3))
    csr = CsrArrays.of(source, "x")
    for array in (csr.starts, csr.columns, csr.values, *csr.transposed, csr.cast("float32"), csr.transposed_values("float32")):
        refused("assignment destination is read-only", array.__setitem__, 0, 9)
    source.data[:], source.indices[:] = 5.0, 0           # the caller's own stays as it was
    np.testing.assert_array_equal(csr.matrix.toarray(), np.eye(3))


def test_arrays_longer_than_their_entries_are_cut():
    matrix = sp.csr_matrix(np.eye(3))
    matrix.indices, matrix.data = np.array([0, 1, 2, 77], np.int32), np.array([1.0, 1.0, 1.0, np.nan])
    csr = CsrArrays.of(matrix, "x")
    assert len(csr.columns) == len(csr.values) == 3


@settings(max_examples=40, deadline=None)
@given(R=st.integers(1, 8), seed=st.integers(0, 99), rows=st.lists(st.integers(0, 7), max_size=12), masked=st.booleans())
def test_rows_taken(R, seed, rows, masked):
    dense = random_matrix(R, 5, 0.5, seed)
    csr = CsrArrays.of(sp.csr_matrix(dense), "x")
    chosen = np.isin(np.arange(R), rows) if masked else np.array([r % R for r in rows], np.int64)
    taken = csr.take_rows(chosen)
    assert_well_formed(taken)
    np.testing.assert_array_equal(taken.matrix.toarray(), dense[chosen])


def test_wrong_rows():
    csr = CsrArrays.of(sp.csr_matrix(np.eye(3)), "x")
    refused("rows must hold whole numbers from 0 to 2, received 3 at position 1", csr.take_rows, [0, 3])
    refused("rows must hold whole numbers from 0 to 2, received -1 at position 0", csr.take_rows, [-1])
    refused("rows must have 3 booleans where it is a mask, received 2", csr.take_rows, [True, False])
    refused("rows must have 1 axis, received shape ()", csr.take_rows, 1)
    refused("rows must hold whole numbers, received dtype float64", csr.take_rows, [1.0], error=TypeError)


@pytest.mark.parametrize(("lengths", "even"), [
    ([4096], True), ([4097], False), ([0] * 40, True), ([256] * 40, True), ([256] * 20 + [257] + [256] * 20, False),
    ([4000] + [0] * 14 + [96], True), ([4000] + [0] * 14 + [97], False), ([4000] + [0] * 15 + [4000], True),
    ([1] * 16 * MOST_TASKS, True), ([1] * (16 * MOST_TASKS + 1), False)])
def test_matrices_are_even_whose_16_neighbouring_rows_hold_no_more_than_4096_entries(lengths, even):
    assert is_even(np.concatenate([[0], np.cumsum(lengths)])) is even
