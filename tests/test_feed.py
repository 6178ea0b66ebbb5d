"""The edge: what is accepted, what is refused and in which words, and that inputs are neither modified nor copied without need."""

import array as stdlib_array
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from helpers import refused
from nnkit.training.feed import as_indices, as_labels, as_samples, as_seed, as_weights, as_whole, class_weights, same_length, split
from nnkit.training.source import as_batch, is_batches


def grid(*shape, dtype="float32"):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


# as_samples.

@pytest.mark.parametrize("shape", [(3,), (1,), (2, 5), (4, 3, 1), ()])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_samples_that_are_right_are_not_copied(shape, dtype):
    x = grid(7, *shape, dtype=dtype)
    samples = as_samples(x, shape, dtype, "x")
    assert np.shares_memory(samples, x)
    assert samples.shape == x.shape
    assert samples.dtype == dtype


def accepted():
    x = grid(7, 3, dtype="float64")
    wide = np.zeros((7, 6))
    wide[:, ::2] = x
    packed = np.zeros(7, np.dtype([("tag", "u1"), ("x", "f4", 3)]))
    packed["x"] = x
    return {
        "lists": x.tolist(), "tuples": tuple(map(tuple, x.tolist())), "list of rows": list(x), "float64": x, "float16": x.astype("f2"),
        "Fortran order": np.asfortranarray(x), "strided": wide[:, ::2], "reversed": x[::-1][::-1], "int64": x.astype("i8"), "uint8": x.astype("u1"),
        "big-endian": x.astype(">f4"), "unaligned": packed["x"], "unmasked": np.ma.array(x),
    }


@pytest.mark.parametrize("kind", accepted())
def test_samples_of_any_kind(kind):
    samples = as_samples(accepted()[kind], (3,), "float32", "x")
    np.testing.assert_array_equal(samples, grid(7, 3))
    assert type(samples) is np.ndarray
    assert samples.dtype == np.dtype("float32")
    assert samples.dtype.isnative
    assert samples.flags.c_contiguous
    assert samples.flags.aligned


def test_booleans():
    np.testing.assert_array_equal(as_samples([[True, False]], (2,), "float32", "x"), [[1.0, 0.0]])


def test_memmap(tmp_path):
    x = np.memmap(tmp_path / "x", "float32", "w+", shape=(7, 3))
    x[...] = grid(7, 3)
    samples = as_samples(x, (3,), "float32", "x", check_finite=True)
    assert type(samples) is np.ndarray
    assert np.shares_memory(samples, x)


def test_read_only_samples_are_not_copied():
    x = grid(7, 3)
    x.flags.writeable = False
    assert np.shares_memory(as_samples(x, (3,), "float32", "x"), x)


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(st.sampled_from(["f4", "f8", "i2", ">f8", "?"]), st.sampled_from([(1, 3), (5, 3)]), elements=st.integers(0, 1)), st.booleans())
def test_input_is_never_modified(x, fortran):
    x = np.asfortranarray(x) if fortran else x
    before = x.copy()
    as_samples(x, (3,), "float64", "x", check_finite=True)
    as_samples(x, (3,), "int32", "x")
    as_labels(x[:, 0], 2, "y")
    as_weights(x[:, 1], len(x), "float64")
    class_weights({0: 2.0}, x, "float32", as_weights(x[:, 1], len(x), "float32"))
    np.testing.assert_array_equal(x, before)


def test_strings_as_targets_are_probably_labels():
    refused("y must hold real numbers, received strings (dtype <U1); number them first: np.unique(labels, return_inverse=True)[1]",
            as_samples, ["a", "b"], (1,), "float32", "y", error=TypeError)
    refused("x must hold real numbers, received strings (dtype <U1)", as_samples, ["a", "b"], (1,), "float32", "x", error=TypeError)


def test_one_dimension_does_for_shape_one():
    x = grid(7)
    samples = as_samples(x, (1,), "float32", "x")
    assert samples.shape == (7, 1)
    assert np.shares_memory(samples, x)


def test_wrong_shapes():
    refused("x must have shape (samples, 20), received (800, 19)", as_samples, np.zeros((800, 19)), (20,), "float32", "x")
    refused("x must have shape (samples, 28, 28, 1), received (5, 28, 28): the last axis, of one channel, is missing: "
            "x[..., np.newaxis]", as_samples, np.zeros((5, 28, 28)), (28, 28, 1), "float32", "x")
    refused("x must have shape (samples, 8, 8, 3), received (5, 8, 8)", as_samples, np.zeros((5, 8, 8)), (8, 8, 3), "float32", "x")
    refused("y must have shape (samples,), received (5, 2)", as_samples, np.zeros((5, 2)), (), "float32", "y")
    refused("x must have shape (samples, 2), received ()", as_samples, 3.0, (2,), "float32", "x")
    refused("x must have shape (samples, 20), received (20,): a single sample needs a leading axis, x[np.newaxis]",
            as_samples, np.zeros(20), (20,), "float32", "x")
    refused("x must hold at least one sample, received shape (0, 20)", as_samples, np.zeros((0, 20)), (20,), "float32", "x")


class Unreadable:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("it is on another device")


@pytest.mark.parametrize(("value", "received"), [
    (np.array([[1, None]]), "an object array (dtype object); if it holds nothing but numbers, pass np.asarray(x, float)"),
    ([[1.0, None]], "an object array (dtype object); if it holds nothing but numbers, pass np.asarray(x, float)"),
    ([["a", "b"]], "strings (dtype <U1)"),
    (np.array([[b"a"]]), "bytes (dtype |S1)"),
    (np.zeros((2, 2), complex), "complex numbers (dtype complex128)"),
    (np.zeros((2, 2), "M8[s]"), "dates (dtype datetime64[s])"),
    (np.zeros((2, 2), "m8[s]"), "time differences (dtype timedelta64[s])"),
    (np.zeros(2, [("a", "f4")]), "records (dtype [('a', '<f4')])"),
    (None, "None"),
    ({"a": [1.0]}, "a dict"),
    ((row for row in [[1.0]]), "a generator"),
])
def test_what_holds_no_real_numbers(value, received):
    refused(f"x must hold real numbers, received {received}", as_samples, value, (2,), "float32", "x", error=TypeError)


def test_other_objects():
    refused("x must be a rectangular array, received rows of unequal length: nnkit.datasets.pad_sequences makes sequences equally long",
            as_samples, [[1.0, 2.0], [3.0]], (2,), "float32", "x")
    refused("x must be an array, received an Unreadable that NumPy cannot read: it is on another device",
            as_samples, Unreadable(), (2,), "float32", "x", error=TypeError)
    masked = np.ma.array([[1.0, 2.0]], mask=[[False, True]])
    refused("x must have no masked values, received 1: fill them first, x.filled(...)", as_samples, masked, (2,), "float32", "x")


@pytest.mark.parametrize("form", ["csr_matrix", "csr_array", "coo_matrix"])
def test_sparse_matrices(form):
    sparse = pytest.importorskip("scipy.sparse")
    refused(f"x must be a dense array, received a sparse {form}: pass x.toarray()",
            as_samples, getattr(sparse, form)(np.eye(3)), (3,), "float32", "x", error=TypeError)


def test_check_finite():
    x = grid(70_000, 4, dtype="float64")                # more than one block
    assert as_samples(x, (4,), "float32", "x", check_finite=True).shape == x.shape
    for value in (np.nan, np.inf, -np.inf):
        x[69_999, 1], x[69_998, 2] = value, value
        message = f"x must be finite, received {value} at position (69998, 2)"
        refused(message, as_samples, x, (4,), "float32", "x", check_finite=True)
        refused(message, as_samples, np.asfortranarray(x), (4,), "float32", "x", check_finite=True)
        as_samples(x, (4,), "float32", "x")             # only on request
    as_samples([[np.iinfo("i8").max]], (1,), "int64", "x", check_finite=True)


def test_check_finite_after_conversion():
    with warnings.catch_warnings():
        warnings.simplefilter("error")                  # the message replaces NumPy's warning
        refused("x must be finite in float32, received 1e+39 at position (1, 0)",
                as_samples, [[1.0], [1e39]], (1,), "float32", "x", check_finite=True)


def test_whole_numbers():
    samples = as_samples([[1.0, 2.0], [3.0, -4.0]], (2,), "int32", "x")
    np.testing.assert_array_equal(samples, [[1, 2], [3, -4]])
    assert samples.dtype == np.int32
    refused("x must hold whole numbers, received 2.5 at position (0, 1)", as_samples, [[1.0, 2.5]], (2,), "int32", "x")
    refused("x must hold whole numbers, received nan at position (1, 0)", as_samples, [[1.0], [np.nan]], (1,), "int32", "x")
    refused("x must hold whole numbers, received inf at position 1", as_samples, [1.0, np.inf], (), "int32", "x")
    refused("x must fit int32, received 2147483648 at position (1, 0)", as_samples, [[0], [2**31]], (1,), "int32", "x")
    refused("x must fit int32, received 18446744073709551615 at position 1", as_samples, np.array([0, 2**64 - 1], "u8"), (), "int32", "x")
    refused("x must fit uint8, received -1 at position 0", as_samples, [-1], (), "uint8", "x")
    # float32 has no 2**31 - 1: the next number is one too many.
    refused("x must fit int32, received 2147483648.0 at position 1", as_samples, np.array([0, 2**31], "f4"), (), "int32", "x")
    half = np.array([3, 65504], "f2")                    # has no 2**31 at all
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(as_samples(half, (), "int32", "x"), [3, 65504])
        np.testing.assert_array_equal(as_labels(half, 100_000, "y"), [3, 65504])


# Frames.

def test_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], "b": [0.5, 1.5], "c": [True, False]})
    want = np.array([[1, 0.5, 1], [2, 1.5, 0]], "float32")
    np.testing.assert_array_equal(as_samples(frame, (3,), "float32", "x"), want)
    np.testing.assert_array_equal(as_samples(frame.convert_dtypes(), (3,), "float32", "x"), want)      # nullable columns
    np.testing.assert_array_equal(as_samples(frame["b"], (1,), "float32", "x"), want[:, 1:2])
    np.testing.assert_array_equal(as_labels(frame[["a"]], 3, "y"), [1, 2])
    np.testing.assert_array_equal(as_weights(frame["b"], 2, "float32"), want[:, 1])
    missing = pandas.DataFrame({"a": pandas.array([1, None], "Int64")})
    np.testing.assert_array_equal(as_samples(missing, (1,), "float32", "x"), [[1], [np.nan]])
    refused("y must hold whole numbers, received nan at position 1", as_labels, missing["a"], 3, "y")


def test_pandas_columns_without_numbers():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"size": [1.0, 2.0], "colour": pandas.Categorical([3, 4])})
    refused("x must hold real numbers, received column 'colour' of dtype category", as_samples, frame, (2,), "float32", "x", error=TypeError)
    hint = "; number them first: np.unique(labels, return_inverse=True)[1]"
    refused("y must hold real numbers, received a column of dtype category" + hint, as_labels, frame["colour"], 5, "y", error=TypeError)
    frame = pandas.DataFrame({"day": pandas.to_datetime(["2020-01-01"]), "what": np.array([1.0], object)})
    refused("x must hold real numbers, received column 'what' of dtype object", as_samples, frame[["what"]], (1,), "float32", "x", error=TypeError)
    with pytest.raises(TypeError, match=r"^x must hold real numbers, received column 'day' of dtype datetime64\[\w+\]$"):
        as_samples(frame[["day"]], (1,), "float32", "x")


def test_polars():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": [1, 2], "b": [0.5, 1.5], "c": [True, False]})
    np.testing.assert_array_equal(as_samples(frame, (3,), "float32", "x"), np.array([[1, 0.5, 1], [2, 1.5, 0]], "float32"))
    np.testing.assert_array_equal(as_labels(frame["a"], 3, "y"), [1, 2])
    words = polars.DataFrame({"a": [1.0], "colour": ["red"]})
    refused("x must hold real numbers, received column 'colour' of dtype String", as_samples, words, (2,), "float32", "x", error=TypeError)


# as_labels.

@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64", "float32", "float64", ">i4", "bool"])
@pytest.mark.parametrize("column", [False, True])
def test_labels(dtype, column):
    y = np.array([0, 1, 1, 0, 1], dtype)
    labels = as_labels(y[:, None] if column else y, 2, "y")
    np.testing.assert_array_equal(labels, [0, 1, 1, 0, 1])
    assert labels.shape == (5,)
    assert labels.dtype == np.int32
    assert labels.dtype.isnative
    assert labels.flags.c_contiguous


@pytest.mark.parametrize("take", [lambda y: as_labels(y, 3, "y"), lambda y: as_indices(y, (), 3, "x")], ids=["labels", "indices"])
def test_numbers_that_kernels_follow_are_nobody_elses(take, tmp_path):
    """Whoever has the array could write to it after it was checked; what nobody can write stays where it is."""
    y = np.array([0, 2, 1], np.int32)
    view = y[:]
    view.flags.writeable = False
    for given_ in (y, view, np.ma.masked_array(y)):
        taken = take(given_)
        assert not np.shares_memory(taken, y)
        np.testing.assert_array_equal(taken, y)
    frozen = y.copy()
    frozen.flags.writeable = False
    np.save(tmp_path / "y.npy", y)
    for given_ in (frozen, np.load(tmp_path / "y.npy", mmap_mode="r")):
        assert np.shares_memory(take(given_), given_)


def test_labels_out_of_range():
    refused("y must hold class labels from 0 to 9, received 10 at position 1", as_labels, [9, 10, 11], 10, "y")
    refused("y must hold class labels from 0 to 9, received -1 at position 2", as_labels, [9, 0, -1], 10, "y")
    refused("y must hold class labels from 0 to 9, received 10.0 at position 0", as_labels, [10.0], 10, "y")
    refused("y must hold class labels from 0 to 9, received 255 at position 1", as_labels, np.array([0, 255], "uint8"), 10, "y")
    refused("y must hold class labels from 0 to 2, received 4294967296 at position 0", as_labels, [2**32], 3, "y")      # 0 as an int32


@pytest.mark.parametrize("ignore", [-1, 255])
def test_ignored_class(ignore):
    np.testing.assert_array_equal(as_labels([0, ignore, 2], 3, "y", ignore_class=ignore), [0, ignore, 2])
    refused(f"y must hold class labels from 0 to 2, or {ignore} to ignore, received 3 at position 2",
            as_labels, [0, ignore, 3], 3, "y", ignore_class=ignore)


def test_labels_of_wrong_kind():
    refused("y must hold whole numbers, received 0.5 at position 1", as_labels, [1.0, 0.5], 3, "y")
    refused("y must hold whole numbers, received nan at position 0", as_labels, [np.nan], 3, "y")
    refused("y must hold real numbers, received strings (dtype <U3); number them first: np.unique(labels, return_inverse=True)[1]",
            as_labels, ["cat", "dog"], 3, "y", error=TypeError)
    refused("y must have shape (samples,) or (samples, 1), received (7, 2)", as_labels, np.zeros((7, 2)), 3, "y")
    refused("y must have shape (samples,) or (samples, 1), received (7, 3): one-hot rows need the loss categorical_crossentropy",
            as_labels, np.zeros((7, 3)), 3, "y")
    refused("y must hold at least one sample, received shape (0,)", as_labels, [], 3, "y")


# Weights.

def test_weights():
    weights = as_weights([0, 1, 2.5], 3, "float32")
    np.testing.assert_array_equal(weights, np.array([0, 1, 2.5], "float32"))
    assert weights.dtype == np.float32
    assert np.shares_memory(as_weights(weights, 3, "float32"), weights)
    assert as_weights([[1.0], [2.0]], 2, "float64").shape == (2,)


def test_wrong_weights():
    refused("sample_weight must have shape (3,), one weight for each sample, received (2,)", as_weights, [1, 2], 3, "float32")
    refused("validation weights must have shape (3,), one weight for each sample, received ()", as_weights, 1.0, 3, "float32", "validation weights")
    refused("sample_weight must be finite and at least 0, received -0.5 at position 1", as_weights, [1, -0.5, -1], 3, "float32")
    refused("sample_weight must be finite and at least 0, received nan at position 2", as_weights, [1, 2, np.nan], 3, "float32")
    refused("sample_weight must be finite and at least 0, received inf at position 0", as_weights, [np.inf], 1, "float32")
    refused("sample_weight must hold real numbers, received strings (dtype <U1)", as_weights, ["1"], 1, "float32", error=TypeError)


@pytest.mark.parametrize("labels", [
    np.array([0, 2, 1, 2]), np.array([[0], [2], [1], [2]]), np.array([0.0, 2.0, 1.0, 2.0]), np.eye(3)[[0, 2, 1, 2]], [0, 2, 1, 2],
])
def test_class_weights(labels):
    """A class that is not listed weighs 1; weights of samples are multiplied in."""
    listed = {0: 0.25, 2: 3}
    weights = class_weights(listed, labels, "float32", classes=3)
    np.testing.assert_array_equal(weights, np.array([0.25, 3, 1, 3], "float32"))
    assert weights.dtype == np.float32
    sample_weight = np.array([2, 0.5, 4, 0], "float32")
    np.testing.assert_array_equal(class_weights(listed, labels, "float32", sample_weight), [0.5, 1.5, 4, 0])
    np.testing.assert_array_equal(sample_weight, [2, 0.5, 4, 0])


def test_class_weights_of_ignored_labels_and_numpy_keys():
    np.testing.assert_array_equal(class_weights({np.int64(1): np.float32(0.5)}, [-1, 1, 0], "float64"), [1, 0.5, 1])


def test_wrong_class_weights():
    y = [0, 1]
    refused("class_weight must map classes to weights, received 'balanced'", class_weights, "balanced", y, "float32", error=TypeError)
    refused("class_weight must have whole numbers as keys, received 'cat'", class_weights, {"cat": 1}, y, "float32", error=TypeError)
    refused("class_weight must have numbers as weights, received '2' for class 1", class_weights, {1: "2"}, y, "float32", error=TypeError)
    refused("class_weight must name classes from 0 to 1, received 2", class_weights, {0: 1, 2: 1}, y, "float32", classes=2)
    refused("class_weight must have weights that are finite and at least 0, received -1 for class 0", class_weights, {0: -1}, y, "float32")
    refused("class_weight must have weights that are finite and at least 0, received nan for class 0", class_weights, {0: np.nan}, y, "float32")
    refused("y, with class_weight, must hold whole numbers, received 0.5 at position 1", class_weights, {0: 1}, [0.0, 0.5], "float32")
    refused("class_weight needs targets of shape (samples,), (samples, 1) or (samples, classes), received (2, 2, 2)",
            class_weights, {0: 1}, np.zeros((2, 2, 2)), "float32")


# The rest.

@pytest.mark.parametrize(("n", "part", "training"), [(10, 0.2, 8), (7, 0.5, 3), (3, 0.1, 2), (10, 0.0, 10), (10, 0, 10), (100, 0.9, 9)])
def test_split(n, part, training):
    """Keras' floor(n (1 - part)), rounding included: 100 (1 - 0.9) is 9.999999999999998."""
    assert split(n, part) == training


def test_wrong_splits():
    for part in (1.0, -0.1, 1, "0.2", None, True, float("nan")):
        refused(f"validation_split must be a number at least 0 and less than 1, received {part!r}", split, 10, part)
    refused("validation_split must leave samples for training and for validation, received 0.5 with 1 sample", split, 1, 0.5)
    refused("validation_split must leave samples for training and for validation, received 1e-20 with 10 samples", split, 10, 1e-20)


def test_same_length():
    assert same_length(x=np.zeros((7, 2)), y=[1] * 7, sample_weight=None) == 7
    refused("x and y must have the same number of samples, received 800 and 799", same_length, x=range(800), y=range(799), sample_weight=None)
    refused("x, y and sample_weight must have the same number of samples, received 8, 8 and 7",
            same_length, x=range(8), y=range(8), sample_weight=range(7))


class Loader:
    def __len__(self):
        return 1

    def __iter__(self):
        return iter([([[1.0]], [1.0])])


def test_is_batches():
    for batches in (iter([]), (b for b in ()), Loader(), lambda: iter([]), map(len, []), zip([], [], strict=True)):
        assert is_batches(batches)
    arrays = [np.zeros(3), [[1.0]], ((1.0,),), 3.0, None, "x", b"x", {"a": 1}, {1}, range(3), memoryview(b"ab"), stdlib_array.array("d", [1.0]),
              np.float64(1), np.ma.array([1]), Loader]
    for array in arrays:
        assert not is_batches(array)


def test_is_batches_of_frames_and_sparse_matrices():
    pandas = pytest.importorskip("pandas")
    sparse = pytest.importorskip("scipy.sparse")
    assert not any(map(is_batches, [pandas.DataFrame({"a": [1]}), pandas.Series([1]), sparse.eye(3), sparse.csr_array(np.eye(3))]))


def test_as_batch():
    x, y, w = object(), object(), object()
    assert as_batch((x, y)) == (x, y, None)
    assert as_batch([x, y, w]) == (x, y, w)
    refused("a batch must be (x, y) or (x, y, sample_weight), received a tuple of length 4", as_batch, (1, 2, 3, 4), error=TypeError)
    refused("a batch must be (x, y) or (x, y, sample_weight), received an ndarray", as_batch, np.zeros((2, 3)), error=TypeError)
    refused("a batch must be (x, y) or (x, y, sample_weight), received None", as_batch, None, error=TypeError)


def test_as_seed():
    assert as_seed(np.uint64(2**63 - 1)) == 2**63 - 1
    refused("seed must be a whole number below 2**63, received 9223372036854775808", as_seed, 2**63)
    refused("seed must be a whole number at least 0, received -1", as_seed, -1)


def test_as_whole():
    assert as_whole(1, 1, "batch_size") == 1
    value = as_whole(np.int16(32), 1, "batch_size")
    assert value == 32
    assert type(value) is int
    for wrong in (0, -3, 3.0, True, "32", None):
        refused(f"batch_size must be a whole number at least 1, received {wrong!r}", as_whole, wrong, 1, "batch_size")
    refused("epochs must be a whole number at least 0, received array([1])", as_whole, np.array([1]), 0, "epochs")


def test_feed_does_not_import_pandas_to_look_for_frames():
    before = "pandas" in sys.modules
    as_samples([[1.0]], (1,), "float32", "x")
    assert ("pandas" in sys.modules) == before
