"""Lists of whole numbers out of a pickled NumPy array, without running what a pickle may say.

NumPy keeps an array of objects as a pickle, and a pickle is a program: whoever loads it with `allow_pickle=True` runs it. Keras' imdb.npz holds such
arrays, of lists of word numbers. Here the program meets stand-ins: the four names that such an array needs stand for objects that take arguments
and do nothing, every other name is refused. So neither a function of Python's nor one of NumPy's is called with what the file says; the latter
matters because a forged dtype can make NumPy follow addresses that the file chose.
"""

from __future__ import annotations

import pickle
from typing import IO, Any

import numpy as np

from nnkit.training.feed import as_samples

__all__ = ["read_lists"]


class _Array:
    """Stands for the array: keeps the state (version, shape, dtype, order, items) that would be its."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _DType:
    """Stands for the array's dtype."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Name:
    """Stands for what the pickle names. Called, it makes the stand-in of what that would have made."""

    def __init__(self, made: type | None) -> None:
        self.made = made

    def __call__(self, *arguments: Any) -> Any:
        if self.made is None:
            raise pickle.UnpicklingError("it calls what needs no call")
        return self.made()

    def __setstate__(self, state: Any) -> None:          # or the state would become attributes of this object
        raise pickle.UnpicklingError("it changes a function")


MAKES: dict[tuple[str, str], type | None] = {
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _Array,   # up to NumPy 1
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in MAKES:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _Name(MAKES[module, name])


def read_lists(stream: IO[bytes], what: str) -> list[np.ndarray]:
    """The lists of an array (N,) of lists of whole numbers, each as int32 (length,), from the bytes of an .npy file.

    Args:
        stream: stands at the beginning of the .npy file.
        what: name of the array in messages.

    Raises:
        TypeError: lists that hold no numbers.
        ValueError: no .npy file of objects; a pickle of anything but lists of whole numbers in one array.
    """
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in header:
        raise ValueError(f"{what} must be an .npy file of version 1.0 or 2.0, received {version[0]}.{version[1]}")
    shape, _, dtype = header[version](stream)
    if dtype != np.dtype(object) or len(shape) != 1:
        raise ValueError(f"{what} must be an array (samples,) of lists, received dtype {dtype} and shape {shape}")
    rule = f"{what} must be a pickled array of lists of whole numbers and nothing else"
    try:
        array = _Unpickler(stream, encoding="latin1").load()
    except Exception as error:                           # a broken pickle raises nearly anything
        raise ValueError(f"{rule}: {error}") from None
    state = array.state if isinstance(array, _Array) else None
    if not isinstance(state, tuple) or len(state) != 5 or type(state[4]) is not list or state[1] != shape or len(state[4]) != shape[0]:
        raise ValueError(f"{rule}: it holds something else")
    return [_as_numbers(numbers, f"{what}[{n}]") for n, numbers in enumerate(state[4])]


def _as_numbers(numbers: Any, what: str) -> np.ndarray:
    if type(numbers) is not list:
        raise ValueError(f"{what} must be a list of whole numbers, received {numbers!r}")
    return as_samples(numbers, (), "int32", what) if numbers else np.empty(0, np.int32)
