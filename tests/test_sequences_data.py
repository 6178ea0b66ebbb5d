"""Padding, windows over texts and time series."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import refused
from nnkit.datasets import pad_sequences, text_windows, time_series_windows

# pad_sequences.

def naive_pad(sequences, maxlen=None, dtype="int32", padding="pre", truncating="pre", value=0.0):
    """One step after the other, each at its place counted from the side that is kept and filled last."""
    length = maxlen if maxlen is not None else max(len(sequence) for sequence in sequences)
    shape = next((np.shape(sequence[0]) for sequence in sequences if len(sequence)), ())
    padded = np.empty((len(sequences), length, *shape), dtype)
    padded[...] = value
    for n, sequence in enumerate(sequences):
        kept = list(sequence)
        while len(kept) > length:
            kept.pop(0 if truncating == "pre" else -1)
        for t, step in enumerate(kept):
            padded[n, t + (length - len(kept) if padding == "pre" else 0)] = step
    return padded


SIDES = ["pre", "post"]
SEQUENCES = {
    "lists": [[1], [2, 3], [], [4, 5, 6, 7, 8, 9, 10]],
    "arrays": [np.arange(3), np.arange(5), np.arange(0), np.arange(1)],
    "tuples": ((1, 2), (3,)),
    "one": [[7]],
    "empty": [[], []],
    "empty first": [[], [1, 2]],
    "vectors": [[[1, 2, 3]], [], [[4, 5, 6], [7, 8, 9]]],
    "matrices": [np.arange(8).reshape(2, 2, 2), np.arange(20).reshape(5, 2, 2)],
    "array": np.arange(6).reshape(2, 3),
    "unsigned": [np.array([1, 65535], "uint16"), np.array([3], "uint16")],
    "objects": np.array([np.array([1, 2]), np.array([3])], object),
}


@pytest.mark.parametrize("kind", SEQUENCES)
@pytest.mark.parametrize("maxlen", [None, 1, 2, 3, 11])
@pytest.mark.parametrize("padding", SIDES)
@pytest.mark.parametrize("truncating", SIDES)
@pytest.mark.parametrize(("dtype", "value"), [("int32", 0.0), ("int64", -1), ("float32", 0.5), (np.float64, float("nan"))])
def test_padding(kind, maxlen, padding, truncating, dtype, value):
    options = {"maxlen": maxlen, "dtype": dtype, "padding": padding, "truncating": truncating, "value": value}
    padded = pad_sequences(SEQUENCES[kind], **options)
    expected = naive_pad(SEQUENCES[kind], **options)
    assert padded.dtype == expected.dtype
    assert padded.flags.c_contiguous
    np.testing.assert_array_equal(padded, expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(-5, 5), max_size=6), min_size=1, max_size=5), st.none() | st.integers(1, 8), st.sampled_from(["pre", "post"]),
       st.sampled_from(["pre", "post"]))
def test_padding_of_drawn_sequences(sequences, maxlen, padding, truncating):
    before = [list(sequence) for sequence in sequences]
    padded = pad_sequences(sequences, maxlen, padding=padding, truncating=truncating)
    np.testing.assert_array_equal(padded, naive_pad(sequences, maxlen, padding=padding, truncating=truncating))
    assert sequences == before


def test_padding_is_that_of_keras():
    keras = pytest.importorskip("keras")
    numbers = ({}, {"dtype": "float32", "value": -0.5}, {"dtype": "int64", "value": 7})
    for sequences, maxlen, padding, truncating, options in itertools.product(SEQUENCES.values(), (None, 1, 3, 11), SIDES, SIDES, numbers):
        options = {**options, "maxlen": maxlen, "padding": padding, "truncating": truncating}
        ours, theirs = pad_sequences(sequences, **options), keras.utils.pad_sequences(sequences, **options)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_padding_of_strings():
    words = [["a", "film"], ["good"]]
    np.testing.assert_array_equal(pad_sequences(words, dtype=object, value="-"), [["a", "film"], ["-", "good"]])
    np.testing.assert_array_equal(pad_sequences(words, dtype="U4", value="-", padding="post"), [["a", "film"], ["good", "-"]])


def test_no_sequences():
    assert pad_sequences([], maxlen=3).shape == (0, 3)
    refused("sequences must hold at least one sequence where maxlen is None, received none", pad_sequences, [])


def test_wrong_sequences():
    refused("sequences must be a list of sequences, received 3", pad_sequences, 3, error=TypeError)
    refused("sequences must be a list of sequences, received 'abc'", pad_sequences, "abc", error=TypeError)
    refused("sequences[1] must be a sequence, received 3", pad_sequences, [[1], 3], error=TypeError)
    refused("sequences[0] must be a sequence, received 'abc'", pad_sequences, ["abc"], error=TypeError)
    refused("sequences[0] must be a sequence, received {1}", pad_sequences, [{1}], error=TypeError)
    refused("sequences[0] must be a sequence, received array(3)", pad_sequences, [np.array(3)], error=TypeError)
    refused("sequences[1] must be a rectangular array, received steps of different shapes", pad_sequences, [[1], [[1, 2], [3]]])
    refused("sequences must hold steps of one shape, received (2,) first and (3,) in sequences[2]", pad_sequences, [[[1, 2]], [], [[1, 2, 3]]])
    refused("sequences must hold steps of one shape, received () first and (1,) in sequences[1]", pad_sequences, [[1], [[1]]])
    refused("sequences[0] must hold real numbers, received strings (dtype <U1)", pad_sequences, [["a"]], error=TypeError)
    refused("sequences[1] must hold real numbers, received an object array (dtype object)", pad_sequences, [[1], [1, None]], error=TypeError)


def test_numbers_that_do_not_fit():
    refused("sequences[1] must hold whole numbers, received 0.5 at position 1", pad_sequences, [[1], [1.0, 0.5]])
    refused("sequences[0] must fit int32, received 2147483648 at position 0", pad_sequences, [[1 << 31]])
    refused("sequences[0] must fit uint8, received -1 at position 1", pad_sequences, [[1, -1]], dtype="uint8")
    refused("value must fit dtype int32, received 0.5", pad_sequences, [[1]], value=0.5)
    refused("value must fit dtype int32, received nan", pad_sequences, [[1]], value=float("nan"))
    refused("value must fit dtype uint8, received 256", pad_sequences, [[1]], value=256, dtype="uint8")
    refused("value must be a number where dtype is int32, received 'x'", pad_sequences, [[1]], value="x", error=TypeError)
    refused("value must be a number where dtype is float32, received [0]", pad_sequences, [[1]], value=[0], dtype="float32", error=TypeError)


def test_wrong_options_of_padding():
    refused("padding must be 'pre' or 'post', received 'left'", pad_sequences, [[1]], padding="left")
    refused("truncating must be 'pre' or 'post', received None", pad_sequences, [[1]], truncating=None)
    for maxlen in (0, -1, 2.0, True, "3"):
        refused(f"maxlen must be a whole number at least 1, received {maxlen!r}", pad_sequences, [[1]], maxlen)
    refused("dtype must be a NumPy dtype, received 'int31'", pad_sequences, [[1]], dtype="int31", error=TypeError)
    refused("dtype must be one of real numbers, objects or strings, received 'complex64'", pad_sequences, [[1]], dtype="complex64")


# text_windows.

@pytest.mark.parametrize(("characters", "length", "rows"), [(13, 3, 2), (100, 7, 3), (101, 1, 1), (6, 5, 1), (50, 5, 7), (43, 6, 7), (44, 6, 7)])
def test_text_windows(characters, length, rows):
    """Every cell by the formula of the docstring; and the walk along one row of all batches is the text itself."""
    ids = np.random.default_rng(0).permutation(characters)
    x, y = text_windows(ids, length, batch_size=rows)
    batches = (characters - 1) // (rows * length)
    assert x.shape == y.shape == (batches * rows, length)
    assert x.dtype == y.dtype == np.int32
    for b in range(batches):
        for r in range(rows):
            for t in range(length):
                place = (r * batches + b) * length + t
                assert (x[b * rows + r, t], y[b * rows + r, t]) == (ids[place], ids[place + 1])
    for r in range(rows):
        stretch = slice(r * batches * length, (r + 1) * batches * length)
        np.testing.assert_array_equal(x[r::rows].reshape(-1), ids[stretch])


def test_text_windows_in_order():
    x, y = text_windows(list(range(12)), 5)
    np.testing.assert_array_equal(x, [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
    np.testing.assert_array_equal(y, x + 1)


@pytest.mark.parametrize("rows", [1, 2])
def test_text_windows_are_copies(rows):
    ids = np.arange(13, dtype=np.int32)
    x, y = text_windows(ids, 3, rows)
    assert x.flags.c_contiguous
    assert y.flags.c_contiguous
    assert x.flags.writeable
    assert not np.shares_memory(x, ids)
    assert not np.shares_memory(y, ids)
    assert not np.shares_memory(x, y)


def test_wrong_text_windows():
    refused("ids must hold at least batch_size * length + 1 = 7 tokens, received 6", text_windows, range(6), 3, 2)
    refused("length must be a whole number at least 1, received 0", text_windows, range(6), 0)
    refused("batch_size must be a whole number at least 1, received 2.0", text_windows, range(6), 2, 2.0)
    refused("ids must hold real numbers, received strings (dtype <U4)", text_windows, "text", 2, error=TypeError)
    refused("ids must hold whole numbers, received 0.5 at position 1", text_windows, [1, 0.5, 2], 1)
    refused("ids must have shape (samples,), received (2, 3)", text_windows, np.zeros((2, 3)), 1)


# time_series_windows.

@pytest.mark.parametrize("steps", [13, 20])
@pytest.mark.parametrize("length", [1, 3, 7])
@pytest.mark.parametrize("horizon", [1, 2, 5])
@pytest.mark.parametrize("stride", [1, 2, 3, 7])
@pytest.mark.parametrize("features", [None, 1, 2])
@pytest.mark.parametrize("targets", ["values", "labels", "rows"])
def test_time_series_windows(steps, length, horizon, stride, features, targets):
    rng = np.random.default_rng(1)
    values = rng.standard_normal(steps if features is None else (steps, features))
    given_targets = {"values": None, "labels": rng.integers(0, 5, steps), "rows": rng.standard_normal((steps, 2)).astype("float32")}[targets]
    x, y = time_series_windows(values, length, horizon, stride, given_targets)
    expected_x, expected_y = [], []
    following = values if given_targets is None else given_targets
    for start in range(0, steps, stride):
        if start + length - 1 + horizon < steps:
            expected_x.append([np.reshape(values[t], -1) for t in range(start, start + length)])
            expected_y.append(following[start + length - 1 + horizon])
    np.testing.assert_array_equal(x, expected_x)
    np.testing.assert_array_equal(y, expected_y)
    assert y.dtype == following.dtype
    for made in (x, y):
        assert made.flags.c_contiguous
        assert made.flags.writeable
        assert not np.shares_memory(made, values)
        assert not np.shares_memory(made, following)


def test_no_window_holds_its_target_or_anything_later():
    for horizon in (1, 3):
        x, y = time_series_windows(np.arange(30), 4, horizon)
        assert (x.max(axis=(1, 2)) + horizon == y).all()


def test_targets_of_the_window_s_own_last_step():
    values = np.arange(6.0)
    x, y = time_series_windows(values, 3, 0, targets=values.astype(int) * 10)
    np.testing.assert_array_equal(y, x[:, -1, 0] * 10)
    refused("horizon must be a whole number at least 1, received 0", time_series_windows, values, 3, 0)


@pytest.mark.parametrize(("given_dtype", "dtype"), [("f4", "f4"), ("f8", "f8"), ("f2", "f8"), ("i8", "f8"), ("?", "f8"),
                                                      (">f4", "f4"), (">f8", "f8")])
def test_dtypes_of_windows(given_dtype, dtype):
    x, y = time_series_windows(np.ones(5, given_dtype), 2)
    assert x.dtype == y.dtype == np.dtype(dtype)
    assert x.dtype.isnative


def test_windows_are_those_of_keras():
    keras = pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    values, targets = np.random.default_rng(2).standard_normal((40, 3)), np.arange(40)
    for length, horizon, stride in ((5, 1, 1), (4, 3, 2), (7, 2, 5)):
        x, y = time_series_windows(values, length, horizon, stride, targets)
        batches = list(keras.utils.timeseries_dataset_from_array(
            values[:len(values) - horizon], targets[length - 1 + horizon:], length, sequence_stride=stride, batch_size=None))
        np.testing.assert_array_equal(x, [np.asarray(part) for part, _ in batches])
        np.testing.assert_array_equal(y, [int(target) for _, target in batches])


def test_wrong_series():
    refused("values must hold at least length + horizon = 6 steps, received 5", time_series_windows, range(5), 4, 2)
    refused("values must have shape (steps,) or (steps, features), received (2, 3, 4)", time_series_windows, np.zeros((2, 3, 4)), 1)
    refused("values must hold at least one sample, received shape (0,)", time_series_windows, [], 1)
    refused("values must be a rectangular array, received steps of different shapes", time_series_windows, [[1, 2], [3]], 1)
    refused("values must be a sequence, received 3.0", time_series_windows, 3.0, 1, error=TypeError)
    refused("values must hold real numbers, received strings (dtype <U1)", time_series_windows, ["a", "b"], 1, error=TypeError)
    refused("targets must have one row for each of the 5 steps of values, received 4", time_series_windows, range(5), 2, targets=range(4))
    refused("targets must have shape (steps,) or (steps, features), received (5, 1, 1)",
            time_series_windows, range(5), 2, targets=np.zeros((5, 1, 1)))
    for name in ("length", "horizon", "stride"):
        refused(f"{name} must be a whole number at least 1, received -1", time_series_windows, range(5), **{"length": 2, name: -1})
    refused("horizon must be a whole number at least 0, received -1", time_series_windows, range(5), 2, -1, targets=range(5))


def test_datasets_import_nothing_slow():
    code = "import sys, nnkit.datasets; print([name for name in ('numba', 'tarfile', 'scipy', 'pandas') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
