"""The edge: what users pass becomes checked, C-contiguous arrays. Everything behind it trusts them.

N is the number of samples. Every function raises one sentence that says what was passed, the rule, and what came: TypeError where the kind of
object or dtype is wrong, ValueError where shape or values are. None of them modifies its input or copies an array that is already right.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nnkit.runtime.device_array import DeviceArray
from nnkit.spec import article

__all__ = [
    "SEEDS", "as_indices", "as_labels", "as_samples", "as_seed", "as_weights", "as_whole", "class_weights", "kind_of", "same_length",
    "shape_of_given", "split",
]

BLOCK = 1 << 18                                          # elements looked at together: the check of a memmap needs no second copy in memory

SEEDS = 1 << 63                                          # how many seeds there are

RAGGED_HINT = ": nnkit.datasets.pad_sequences makes sequences equally long"
LABELS_HINT = "; number them first: np.unique(labels, return_inverse=True)[1]"

# What the kinds of NumPy's dtypes that hold no numbers are called in messages.
KINDS = {"O": "an object array", "U": "strings", "S": "bytes", "T": "strings", "c": "complex numbers", "M": "dates", "m": "time differences"}


def as_samples(value: Any, shape: tuple[int, ...], dtype: str, what: str, check_finite: bool = False) -> np.ndarray:
    """Samples of a known shape, as a C-contiguous array (N, *shape) of dtype.

    Args:
        value: anything that NumPy takes as an array of real numbers: lists, frames, memmaps, any order and dtype. (N,) does for shape (1,).
        shape: of one sample.
        dtype: of the result; for a whole-number dtype every value must be whole and in range.
        what: name of the argument in messages.
        check_finite: refuse NaN and infinity (in the result: a float64 may be too large for float32).

    Raises:
        TypeError: no real numbers: objects, strings, complex numbers, dates, columns of categories, sparse matrices.
        ValueError: ragged lists, another shape, no samples, values that are not finite or not whole where they must be.
    """
    if type(value) is np.ndarray and value.dtype == dtype and value.shape[1:] == shape and value.flags.carray and len(value) and not check_finite:
        return value                                     # already right: predict of one row spends half of its time here otherwise
    array: Any = value if isinstance(value, DeviceArray) else _numbers(value, what)
    expected = f"{what} must have shape ({', '.join(['samples', *map(str, shape)])}{',' if not shape else ''})"
    if array.ndim == 1 and shape == (1,):
        array = array.reshape(len(array), 1)
    if array.shape == shape and shape:
        raise ValueError(f"{expected}, received {array.shape}: a single sample needs a leading axis, {what}[np.newaxis]")
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        lacks_last = array.ndim > 1 and (*array.shape[1:], 1) == shape
        hint = f": the last axis, of one channel, is missing: {what}[..., np.newaxis]" if lacks_last else ""
        raise ValueError(f"{expected}, received {array.shape}{hint}")
    if len(array) == 0:
        raise ValueError(f"{what} must hold at least one sample, received shape {array.shape}")
    if isinstance(array, DeviceArray):
        return _in_place(array, dtype, what, check_finite)
    with np.errstate(over="ignore" if check_finite else "warn"):
        samples = _cast(array, dtype, what)
    if check_finite and samples.dtype.kind == "f":
        _refuse_infinite(samples, array, what)
    return samples


def as_indices(value: Any, shape: tuple[int, ...], limit: int, what: str, of: str = "indices of an Embedding") -> np.ndarray:
    """Indices 0 to limit - 1 of a known shape, as a C-contiguous int32 array (N, *shape) that nobody else can write.

    Args:
        value: whole numbers of any dtype, 3.0 too.
        shape: of one sample.
        limit: the number below which they must lie.
        what: name of the argument in messages. of: what the numbers stand for.

    Raises:
        TypeError: no real numbers.
        ValueError: ragged lists, another shape, no samples, a number that is not whole or out of range (the first one is named, with its place).
    """
    indices = _own(as_samples(np.asarray(value) if isinstance(value, DeviceArray) else value, shape, "int32", what), value)
    if indices.size and (indices.min() < 0 or indices.max() >= limit):
        first = _place(int(((indices < 0) | (indices >= limit)).argmax()), indices.shape)
        raise ValueError(f"{what} must hold whole numbers from 0 to {limit - 1} ({of}), "
                         f"received {_plain(indices[first])} at position {_position(first)}")
    return indices


def as_labels(value: Any, classes: int, what: str, ignore_class: int | None = None) -> np.ndarray:
    """Class labels 0 to classes - 1, as int32 (N,), which nobody else can write.

    Args:
        value: (N,) or (N, 1); whole numbers of any dtype, 3.0 too.
        classes: number of classes.
        what: name of the argument in messages.
        ignore_class: one more label that is allowed, and kept as it is.

    Raises:
        TypeError: no real numbers.
        ValueError: another shape, no samples, a label that is not whole or out of range (the first one is named, with its position).
    """
    array = _numbers(value, what, hint=LABELS_HINT)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        hint = ": one-hot rows need the loss categorical_crossentropy" if array.ndim == 2 and array.shape[1] == classes else ""
        raise ValueError(f"{what} must have shape (samples,) or (samples, 1), received {array.shape}{hint}")
    if len(array) == 0:
        raise ValueError(f"{what} must hold at least one sample, received shape {array.shape}")
    _refuse_fractions(array, what)
    array = _own(array, value) if array.dtype == np.int32 else array
    # Least and greatest first: they need no memory, and are nearly always all it takes.
    if array.min() < 0 or array.max().item() >= classes:
        wrong = (array < 0) | (array >= classes)
        if ignore_class is not None:
            wrong &= array != ignore_class
        if wrong.any():
            first = int(wrong.argmax())
            also = f", or {ignore_class} to ignore" if ignore_class is not None else ""
            raise ValueError(f"{what} must hold class labels from 0 to {classes - 1}{also}, received {_plain(array[first])} at position {first}")
    return _native(array, "int32")


def as_weights(sample_weight: Any, n: int, dtype: str, what: str = "sample_weight") -> np.ndarray:
    """Weights of n samples, as (n,) of dtype.

    Args:
        sample_weight: (n,) or (n, 1), finite, at least 0.
        n: number of samples.
        dtype: of the result.
        what: name of the argument in messages.

    Raises:
        TypeError: no real numbers.
        ValueError: another shape, a weight that is negative or not finite (the first one is named, with its position).
    """
    array = _numbers(sample_weight, what)
    if array.shape == (n, 1):
        array = array[:, 0]
    if array.shape != (n,):
        raise ValueError(f"{what} must have shape ({n},), one weight for each sample, received {array.shape}")
    weights = _cast(array, dtype, what)
    good = (weights >= 0) & np.isfinite(weights)
    if not good.all():
        first = int(good.argmin())
        raise ValueError(f"{what} must be finite and at least 0, received {_plain(array[first])} at position {first}")
    return weights


def class_weights(class_weight: Mapping[int, float], labels: Any, dtype: str, sample_weight: np.ndarray | None = None,
                  classes: int | None = None) -> np.ndarray:
    """The weight of each sample's class, times its sample weight where there is one: (N,) of dtype, a new array.

    Args:
        class_weight: class -> weight, finite, at least 0; a class that is not listed weighs 1, as in Keras.
        labels: the targets: (N,) or (N, 1) class labels, or (N, classes) rows whose greatest entry marks the class.
        dtype: of the result.
        sample_weight: checked weights (N,), from `as_weights`.
        classes: number of classes, where it is known: other classes in class_weight are refused.

    Raises:
        TypeError: class_weight is no mapping of numbers, or labels are no numbers.
        ValueError: a class out of range, a weight that is negative or not finite, targets that are no classes.
    """
    listed = _checked_class_weight(class_weight, classes)
    array = _numbers(labels, "y")
    if array.ndim == 2 and array.shape[1] > 1:
        array = array.argmax(axis=1)
    if array.ndim == 2:
        array = array.reshape(-1)
    if array.ndim != 1:
        raise ValueError(f"class_weight needs targets of shape (samples,), (samples, 1) or (samples, classes), received {array.shape}")
    _refuse_fractions(array, "y, with class_weight,")
    found, place = np.unique(array, return_inverse=True)
    weights = np.array([listed.get(int(label), 1.0) for label in found], dtype)[place.reshape(-1)]
    return weights if sample_weight is None else weights * sample_weight.astype(dtype, copy=False)


def split(n: int, validation_split: float) -> int:
    """How many of n samples are for training; the others, which are the last ones before any shuffling, are for validation.

    Keras' rule: floor(n (1 - validation_split)). A validation_split of 0 leaves all n.

    Raises:
        ValueError: validation_split outside [0, 1), or a part without samples.
    """
    number = isinstance(validation_split, (int, float, np.integer, np.floating)) and not isinstance(validation_split, bool)
    if not number or not 0.0 <= validation_split < 1.0:
        raise ValueError(f"validation_split must be a number at least 0 and less than 1, received {validation_split!r}")
    if validation_split == 0:
        return n
    training = math.floor(n * (1.0 - float(validation_split)))
    if training in (0, n):
        count = f"{n} sample{'' if n == 1 else 's'}"
        raise ValueError(f"validation_split must leave samples for training and for validation, received {validation_split!r} with {count}")
    return training


def shape_of_given(value: Any) -> tuple[int, ...]:
    """The shape that NumPy sees in what a user passed; (-1, -1), like no other, for rows of unequal length, of which `as_samples` tells."""
    if hasattr(value, "shape"):
        return tuple(value.shape)
    try:
        return np.shape(value)
    except ValueError:
        return (-1, -1)


def same_length(**named: Any) -> int:
    """The number of samples that all arguments share; those that are None do not count. Raises ValueError where they differ."""
    lengths = {name: len(value) for name, value in named.items() if value is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{_listed(lengths)} must have the same number of samples, received {_listed(lengths.values())}")
    return next(iter(lengths.values()))


def as_whole(value: Any, low: int, what: str) -> int:
    """A whole number at least low, as an int. Raises ValueError; booleans and 3.0 are refused, as in specs."""
    if hasattr(value, "__index__") and not isinstance(value, (bool, np.bool_)) and getattr(value, "ndim", 0) == 0 and int(value) >= low:
        return int(value)
    raise ValueError(f"{what} must be a whole number at least {low}, received {value!r}")


def as_seed(value: Any) -> int:
    """A seed of random numbers, which a counter of 64 bits holds: a whole number from 0 to 2**63 - 1. Raises ValueError."""
    seed = as_whole(value, 0, "seed")
    if seed >= SEEDS:
        raise ValueError(f"seed must be a whole number below 2**63, received {value!r}")
    return seed


# What comes in.

def _own(array: np.ndarray, value: Any) -> np.ndarray:
    """An array that was made of `value`, or a copy where it is memory that somebody can still write: kernels follow these numbers as they are, and a
    callback, or another thread, might change what was checked. A read-only memmap stays where it is."""
    if array is not value and array.flags.owndata:
        return array
    memory: Any = array
    while isinstance(memory, np.ndarray):
        if memory.flags.writeable:
            return array.copy()
        memory = memory.base
    return array


def _numbers(value: Any, what: str, hint: str = "") -> np.ndarray:
    """value as an array of booleans, integers or floats, of whatever order and size."""
    rule = f"{what} must hold real numbers, received"
    number_them = hint or (LABELS_HINT if what == "y" else "")
    ragged = f"{what} must be a rectangular array, received rows of unequal length" + (RAGGED_HINT if what.startswith("x") else "")
    if hasattr(value, "toarray") and hasattr(value, "nnz"):
        raise TypeError(f"{what} must be a dense array, received a sparse {type(value).__name__}: pass {what}.toarray()")
    column = _first_column_without_numbers(value)
    if column is not None:
        raise TypeError(f"{rule} {column}{number_them}")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"{what} must have no masked values, received {np.ma.count_masked(value)}: fill them first, {what}.filled(...)")
    try:
        array = np.asarray(value)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise ValueError(ragged) from None
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{what} must be an array, received {kind_of(value)} that NumPy cannot read: {error}") from error
    if array.dtype.kind == "O" and _is_pandas(value):    # nullable columns: a missing value is NaN
        array = value.to_numpy(dtype="float64", na_value=np.nan)
    if array.dtype.kind not in "biuf":
        if array.dtype.kind == "O" and array.ndim == 0:
            raise TypeError(f"{rule} {kind_of(value)}")
        if array.dtype.kind == "O" and all(isinstance(row, (list, tuple, np.ndarray)) for row in array.flat):
            raise ValueError(ragged)
        if array.dtype.kind == "O" and not hint and what.startswith(("x", "y", "sample_weight")):
            number_them = f"; if it holds nothing but numbers, pass np.asarray({what}, float)"
        raise TypeError(f"{rule} {KINDS.get(array.dtype.kind, 'records')} (dtype {array.dtype}){number_them}")
    return array


def _in_place(array: DeviceArray, dtype: str, what: str, check_finite: bool) -> Any:
    """An array on a device of the right shape, which is used where it lies."""
    if array.dtype != dtype:
        raise ValueError(f"{what} must be {dtype} to be used where it lies, received {array.dtype} on a GPU")
    if check_finite:
        _refuse_infinite(np.asarray(array), np.asarray(array), what)
    return array


def _is_pandas(value: Any) -> bool:
    pandas = sys.modules.get("pandas")                   # whoever passes a frame has imported it
    return pandas is not None and isinstance(value, (pandas.DataFrame, pandas.Series, pandas.Index, pandas.api.extensions.ExtensionArray))


def _first_column_without_numbers(value: Any) -> str | None:
    """The column of a frame or series (pandas, polars) that holds no numbers, in words. np.asarray would turn a whole frame into objects for it,
    or silently number categories."""
    if hasattr(value, "columns") and hasattr(value, "dtypes"):
        columns = [(f"column {name!r} of", dtype) for name, dtype in zip(value.columns, value.dtypes, strict=True)]
    elif hasattr(value, "to_numpy") and hasattr(value, "dtype"):
        columns = [("a column of", value.dtype)]
    else:
        return None
    for words, dtype in columns:
        if not _is_number(dtype):
            return f"{words} dtype {str(dtype).split('(')[0]}"
    return None


def _is_number(dtype: Any) -> bool:
    if hasattr(dtype, "kind"):                           # NumPy, pandas
        return dtype.kind in "biuf"
    if hasattr(dtype, "is_numeric"):                     # polars
        return bool(dtype.is_numeric()) or str(dtype) == "Boolean"
    return True


def _cast(array: np.ndarray, dtype: str, what: str) -> np.ndarray:
    """array as dtype, C-contiguous, aligned, in this machine's byte order."""
    target = np.dtype(dtype)
    if target.kind in "iu" and array.dtype != target and array.size:
        _refuse_fractions(array, what)
        info = np.iinfo(target)
        # Python's numbers are exact; the dtype's may not have the limits: float32 rounds 2**31 - 1 up, float16 makes it infinite, with a warning.
        if array.min().item() < info.min or array.max().item() > info.max:
            wrong = (array < info.min) | (array >= info.max + 1)
            first = _place(int(wrong.argmax()), array.shape)
            raise ValueError(f"{what} must fit {dtype}, received {_plain(array[first])} at position {_position(first)}")
    return _native(array, dtype)


def _native(array: np.ndarray, dtype: str) -> np.ndarray:
    return np.require(array, dtype, ["C", "A"])


def _refuse_fractions(array: np.ndarray, what: str) -> None:
    if array.dtype.kind != "f":
        return
    first = _first(array, lambda block: np.isfinite(block) & (block == np.trunc(block)))
    if first is not None:
        raise ValueError(f"{what} must hold whole numbers, received {_plain(array[first])} at position {_position(first)}")


def _refuse_infinite(samples: np.ndarray, array: np.ndarray, what: str) -> None:
    """Refuse NaN and infinity in samples, which were made from array: the message shows what the user passed."""
    first = _first(samples, np.isfinite)
    if first is not None:
        rule = f"finite in {samples.dtype}" if np.isfinite(array[first]) else "finite"
        raise ValueError(f"{what} must be {rule}, received {_plain(array[first])} at position {_position(first)}")


def _first(array: np.ndarray, good: Callable[[np.ndarray], np.ndarray]) -> tuple[int, ...] | None:
    """The position of the first element that is not good, None where all are."""
    if array.ndim != 1 and not array.flags.c_contiguous:
        verdict = good(array)
        return None if verdict.all() else _place(int(verdict.argmin()), array.shape)
    flat = array.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        verdict = good(flat[start:start + BLOCK])
        if not verdict.all():
            return _place(start + int(verdict.argmin()), array.shape)
    return None


def _place(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(int, np.unravel_index(flat, shape)))


def _checked_class_weight(class_weight: Any, classes: int | None) -> dict[int, float]:
    if not isinstance(class_weight, Mapping):
        raise TypeError(f"class_weight must map classes to weights, received {class_weight!r}")
    listed: dict[int, float] = {}
    for label, weight in class_weight.items():
        if not hasattr(label, "__index__") or isinstance(label, (bool, np.bool_)):
            raise TypeError(f"class_weight must have whole numbers as keys, received {label!r}")
        if classes is not None and not 0 <= label < classes:
            raise ValueError(f"class_weight must name classes from 0 to {classes - 1}, received {label!r}")
        if not isinstance(weight, (int, float, np.integer, np.floating)) or isinstance(weight, bool):
            raise TypeError(f"class_weight must have numbers as weights, received {weight!r} for class {label}")
        if not math.isfinite(weight) or weight < 0:
            raise ValueError(f"class_weight must have weights that are finite and at least 0, received {_plain(weight)} for class {label}")
        listed[int(label)] = float(weight)
    return listed


# What goes into messages.

def _plain(value: Any) -> Any:
    """A NumPy scalar as Python's, which prints without its type."""
    return value.item() if isinstance(value, np.generic) else value


def _position(place: tuple[int, ...]) -> str:
    return str(place[0]) if len(place) == 1 else str(place)


def kind_of(value: Any) -> str:
    """What kind of object was received, for messages."""
    return "None" if value is None else article(type(value).__name__)


def _listed(items: Any) -> str:
    *some, last = map(str, items)
    return f"{', '.join(some)} and {last}" if some else last
