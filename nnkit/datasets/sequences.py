"""Sequences as arrays: padding, windows over a text, windows over a time series.

N is the number of sequences or windows, T the steps of one, F the numbers of a step. Every function returns new C-contiguous arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnkit.training.feed import as_samples, as_whole

__all__ = ["pad_sequences", "text_windows", "time_series_windows"]

SIDES = ("pre", "post")


def pad_sequences(sequences: Sequence[Any], maxlen: int | None = None, dtype: Any = "int32", padding: str = "pre", truncating: str = "pre",
                  value: Any = 0.0) -> np.ndarray:
    """Sequences of different lengths as one array (N, T) of dtype, or (N, T, ...) where each step is an array of its own.

    >>> pad_sequences([[1], [2, 3], [4, 5, 6]])
    array([[0, 0, 1],
           [0, 2, 3],
           [4, 5, 6]], dtype=int32)
    >>> pad_sequences([[1], [2, 3], [4, 5, 6]], maxlen=2, padding="post", truncating="post", value=-1)
    array([[ 1, -1],
           [ 2,  3],
           [ 4,  5]], dtype=int32)

    Args:
        sequences: N sequences: lists, tuples or arrays of numbers, or of steps that all have one shape. One without steps becomes all `value`.
        maxlen: T, at least 1. Default: the length of the longest sequence.
        dtype: of the result. A whole-number dtype takes whole numbers only: real numbers need dtype="float32", strings dtype=object.
        padding: "pre" (default) puts `value` before a sequence that is shorter than T, "post" behind it.
        truncating: "pre" (default) keeps the last T steps of a sequence that is longer, "post" the first ones.
        value: what fills the rest, 0 by default.

    Raises:
        TypeError: something that is no sequence; steps or a value that hold no numbers, with a dtype of numbers.
        ValueError: another padding or truncating; steps of different shapes; numbers that dtype cannot hold; no sequences without maxlen.

    Keras' `pad_sequences`, but numbers that do not fit dtype are refused where Keras cuts off their fraction.
    """
    target = _as_dtype(dtype)
    for what, side in (("padding", padding), ("truncating", truncating)):
        if side not in SIDES:
            raise ValueError(f"{what} must be 'pre' or 'post', received {side!r}")
    fill = _as_fill(value, target)
    if isinstance(sequences, (str, bytes)) or not hasattr(sequences, "__len__"):
        raise TypeError(f"sequences must be a list of sequences, received {sequences!r}")
    rows = [_as_steps(sequence, target, f"sequences[{n}]") for n, sequence in enumerate(sequences)]
    if maxlen is None and not rows:
        raise ValueError("sequences must hold at least one sequence where maxlen is None, received none")
    T = max(map(len, rows)) if maxlen is None else as_whole(maxlen, 1, "maxlen")
    shape: tuple[int, ...] = next((row.shape[1:] for row in rows if len(row)), ())
    padded = np.full((len(rows), T, *shape), fill, target)
    for n, row in enumerate(rows):
        if not len(row):
            continue
        if row.shape[1:] != shape:
            raise ValueError(f"sequences must hold steps of one shape, received {shape} first and {row.shape[1:]} in sequences[{n}]")
        kept = row[-T:] if truncating == "pre" else row[:T]
        start = T - len(kept) if padding == "pre" else 0
        padded[n, start:start + len(kept)] = kept
    return padded


def text_windows(ids: Any, length: int, batch_size: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Windows over a text for a model that predicts the next token: x and y, int32 (N, T), y one token ahead of x.

    With T = length and R = batch_size the text is cut into R stretches of B = (len(ids) - 1) // (R T) windows each, N = B R, and

        x[b R + r] = ids[(r B + b) T : (r B + b + 1) T],    y[b R + r] = ids[(r B + b) T + 1 : (r B + b + 1) T + 1].

    So in batches of R, taken in order, row r of a batch continues row r of the batch before: what a stateful recurrent network needs
    (`batch_size=R, shuffle=False` in `fit`, states reset between epochs). Without batch_size the windows stand in the order of the text. The
    tokens behind the last whole window are left out.

    >>> x, y = text_windows(range(13), length=3, batch_size=2)
    >>> x
    array([[ 0,  1,  2],
           [ 6,  7,  8],
           [ 3,  4,  5],
           [ 9, 10, 11]], dtype=int32)
    >>> y[0]
    array([1, 2, 3], dtype=int32)

    Args:
        ids: the text as whole numbers (tokens,): see `Characters` and `Vocabulary`.
        length: T, tokens of a window, at least 1.
        batch_size: R, rows of a batch, at least 1. Default: 1.

    Raises:
        TypeError: ids that are no numbers.
        ValueError: ids of another shape or not whole; a length or batch_size below 1; fewer than R T + 1 ids.
    """
    tokens = as_samples(ids, (), "int32", "ids")
    T, R = as_whole(length, 1, "length"), as_whole(batch_size, 1, "batch_size")
    B = (len(tokens) - 1) // (R * T)
    if B < 1:
        raise ValueError(f"ids must hold at least batch_size * length + 1 = {R * T + 1} tokens, received {len(tokens)}")
    x, y = (np.array(part.reshape(R, B, T).swapaxes(0, 1)).reshape(B * R, T) for part in (tokens[:R * B * T], tokens[1:R * B * T + 1]))
    return x, y


def time_series_windows(values: Any, length: int, horizon: int = 1, stride: int = 1, targets: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Windows over a time series and what comes `horizon` steps after each: x (N, T, F) and y (N, ...).

    With T = length and a series of S steps, N = (S - T - horizon) // stride + 1, and

        x[n] = values[n stride : n stride + T],    y[n] = targets[n stride + T - 1 + horizon].

    No window holds its target or anything later. Windows of neighbours overlap where stride < T, so cut a series into training and test by
    time first, and make windows of each part.

    >>> x, y = time_series_windows([1.0, 2.0, 3.0, 4.0, 5.0], length=3)
    >>> x.shape
    (2, 3, 1)
    >>> x[:, :, 0]
    array([[1., 2., 3.],
           [2., 3., 4.]])
    >>> y
    array([4., 5.])

    Args:
        values: (S,) or (S, F) real numbers, one row for each step of time; (S,) does for F = 1. float32 stays, all others become float64.
        length: T, steps of a window, at least 1.
        horizon: how many steps after the window's last one its target stands: at least 1 (default), with `targets` at least 0.
        stride: steps from the beginning of one window to the next, at least 1 (default).
        targets: (S,) or (S, K), targets[s] belongs to step s; their dtype stays. Default: `values`, in their shape and the dtype of x.

    Raises:
        TypeError: no real numbers.
        ValueError: another shape, a whole number below its least, targets of another length, a series shorter than length + horizon.

    Keras' `timeseries_dataset_from_array`, as arrays. There targets are counted by window: its `targets` are `targets[length - 1 + horizon:]`.
    """
    series = _as_series(values, "values")
    series = np.require(series, "float32" if series.dtype == "float32" else "float64")
    T, stride = as_whole(length, 1, "length"), as_whole(stride, 1, "stride")
    horizon = as_whole(horizon, 1 if targets is None else 0, "horizon")
    following = series if targets is None else _as_series(targets, "targets")
    if len(following) != len(series):
        raise ValueError(f"targets must have one row for each of the {len(series)} steps of values, received {len(following)}")
    N = (len(series) - T - horizon) // stride + 1
    if N < 1:
        raise ValueError(f"values must hold at least length + horizon = {T + horizon} steps, received {len(series)}")
    steps = series.reshape(len(series), -1)
    x = np.lib.stride_tricks.sliding_window_view(steps, T, axis=0)[:(N - 1) * stride + 1:stride].swapaxes(1, 2)
    first = T - 1 + horizon
    return np.array(x, order="C"), np.array(following[first:first + (N - 1) * stride + 1:stride], order="C")


def _as_dtype(dtype: Any) -> np.dtype:
    try:
        target = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype must be a NumPy dtype, received {dtype!r}") from None
    if target.kind not in "biufOUS":
        raise ValueError(f"dtype must be one of real numbers, objects or strings, received {dtype!r}")
    return target


def _as_fill(value: Any, target: np.dtype) -> Any:
    if target.kind in "OUS":
        return value
    if not isinstance(value, (int, float, np.integer, np.floating, np.bool_)):
        raise TypeError(f"value must be a number where dtype is {target}, received {value!r}")
    fitting = target.kind == "f"
    if not fitting:
        with np.errstate(invalid="ignore"):              # NaN and infinity become some whole number, which differs from them
            fitting = bool(np.asarray(value).astype(target) == value)
    if not fitting:
        raise ValueError(f"value must fit dtype {target}, received {value!r}")
    return value


def _as_steps(sequence: Any, target: np.dtype, what: str) -> np.ndarray:
    """One sequence as an array whose first axis counts the steps."""
    if isinstance(sequence, (str, bytes)) or not hasattr(sequence, "__len__") or getattr(sequence, "ndim", 1) == 0:
        raise TypeError(f"{what} must be a sequence, received {sequence!r}")
    if len(sequence) == 0:
        return np.empty(0, target)
    array = _as_array(sequence, what, target if target.kind in "OUS" else None)
    return array if target.kind in "OUS" else as_samples(array, array.shape[1:], target.name, what)


def _as_series(value: Any, what: str) -> np.ndarray:
    array = _as_array(value, what)
    if array.ndim not in (1, 2):
        raise ValueError(f"{what} must have shape (steps,) or (steps, features), received {array.shape}")
    return as_samples(array, array.shape[1:], array.dtype.name, what)


def _as_array(value: Any, what: str, dtype: Any = None) -> np.ndarray:
    try:
        array = np.asarray(value, dtype)
    except ValueError:
        raise ValueError(f"{what} must be a rectangular array, received steps of different shapes") from None
    if array.ndim == 0:
        raise TypeError(f"{what} must be a sequence, received {value!r}")
    return array
