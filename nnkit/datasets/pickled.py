"""Arrays, sparse matrices and lists of whole numbers out of pickles, without running what a pickle may say.

A pickle is a program: whoever loads it plainly, or with NumPy's `allow_pickle=True`, runs it. Keras' imdb.npz holds arrays of lists of word numbers
as pickles; the files of Planetoid, which Python 2 wrote, are pickles of arrays, of SciPy's CSR matrices and of a dictionary of lists. Here the
program meets stand-ins: the few names that these need stand for objects that keep what they are given and do nothing, every other name is refused,
and the arrays are made of what was kept, once it is checked. So neither a function of Python's nor one of NumPy's is called with what the file says;
the latter matters because a forged dtype can make NumPy follow addresses that the file chose.
"""

from __future__ import annotations

import io
import math
import pickle
from itertools import chain
from typing import IO, Any

import numpy as np

from nnkit.graph.csr import CsrArrays
from nnkit.io.pickles import Kept, Makes, Name, read
from nnkit.training.feed import as_samples

__all__ = ["read_array", "read_lists", "read_matrix", "read_neighbours"]


class _Array(Kept):
    """Stands for an array, of state (version, shape, dtype, order, items)."""


class _DType(Kept):
    """Stands for an array's dtype, of arguments (code, ...) and state (version, byte order, ...)."""


class _Matrix(Kept):
    """Stands for a CSR matrix, of state a dictionary."""


def _encoded(*arguments: Any) -> str:
    """Stands for codecs.encode(text, "latin1"), by which Python 3 writes bytes for Python 2."""
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("it encodes something else than text as latin1")
    return arguments[0]


ARRAYS: Makes = {
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _Array,   # up to NumPy 1
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}
TEXTS: Makes = {("_codecs", "encode"): _encoded}
MATRICES: Makes = {("scipy.sparse.csr", "csr_matrix"): _Matrix, ("scipy.sparse._csr", "csr_matrix"): _Matrix}
DICTIONARIES: Makes = {("collections", "defaultdict"): lambda *_: {}, ("__builtin__", "list"): None, ("builtins", "list"): None}


class _Unpickler(pickle.Unpickler):
    """Python's own machine with stand-ins, for the six million numbers of IMDB's reviews: that of `nnkit.io.pickles` takes seven times as long."""

    def __init__(self, stream: IO[bytes], makes: Makes) -> None:
        super().__init__(stream, encoding="latin1")
        self.makes = makes

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.makes:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return Name((module, name), self.makes[module, name])


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
        array = _Unpickler(stream, ARRAYS).load()
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


# The files of Planetoid.

CODES = frozenset(("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))


def read_array(content: bytes, what: str) -> np.ndarray:
    """The array of numbers that is pickled in content; what: name of the file in messages. Raises ValueError where it holds anything else."""
    rule = f"{what} must be a pickled array of numbers and nothing else"
    return _as_array(_load(content, ARRAYS | TEXTS, rule), rule)


def read_matrix(content: bytes, what: str) -> CsrArrays:
    """The SciPy CSR matrix that is pickled in content; what: name of the file in messages. Raises ValueError where it holds anything else."""
    rule = f"{what} must be a pickled SciPy CSR matrix and nothing else"
    loaded = _load(content, ARRAYS | TEXTS | MATRICES, rule)
    state = loaded.state if isinstance(loaded, _Matrix) else None
    if not isinstance(state, dict) or not {"_shape", "indptr", "indices", "data"} <= state.keys() or not _is_shape(state["_shape"], 2):
        raise ValueError(f"{rule}: it holds something else")
    indptr, indices, values = (_as_array(state[name], rule) for name in ("indptr", "indices", "data"))
    return CsrArrays.of_parts(indptr, indices, values, state["_shape"], what)


def read_neighbours(content: bytes, what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a pickled dictionary of lists of whole numbers: its keys, int64 (nodes,); and for each number in a list the key and the number, (edges,).

    Raises ValueError where content holds anything else; what: name of the file in messages.
    """
    rule = f"{what} must be a pickled dictionary of lists of whole numbers and nothing else"
    loaded = _load(content, DICTIONARIES, rule)
    if type(loaded) is not dict or not all(type(numbers) is list for numbers in loaded.values()):
        raise ValueError(f"{rule}: it holds something else")
    keys, numbers = list(loaded), list(chain.from_iterable(loaded.values()))
    if not all(type(number) is int and abs(number) < 1 << 62 for number in chain(keys, numbers)):
        raise ValueError(f"{rule}: it holds something else")
    nodes = np.array(keys, np.int64)
    return nodes, np.repeat(nodes, [len(row) for row in loaded.values()]), np.array(numbers, np.int64)


def _load(content: bytes, makes: Makes, rule: str) -> Any:
    """What the pickle makes of stand-ins. Raises ValueError where it is damaged or asks for anything else."""
    stream = io.BytesIO(content)
    try:
        loaded = read(stream, makes)
        if stream.tell() != len(content):
            raise pickle.UnpicklingError(f"it ends at byte {stream.tell()} of {len(content)}")
        return loaded
    except Exception as error:                           # a broken pickle raises nearly anything
        raise ValueError(f"{rule}: {error}") from None


def _is_shape(shape: Any, axes: int | None = None) -> bool:
    return type(shape) is tuple and len(shape) in (range(1, 3) if axes is None else (axes,)) and all(type(n) is int and n >= 0 for n in shape)


def _as_array(array: Any, rule: str) -> np.ndarray:
    """The array that a stand-in stands for, of 1 or 2 axes, in this machine's byte order."""
    state = array.state if isinstance(array, _Array) else None
    if type(state) is not tuple or len(state) != 5 or not _is_shape(state[1]) or not isinstance(state[2], _DType):
        raise ValueError(f"{rule}: it holds something else")
    _, shape, kept, by_columns, items = state
    code, order = (part[position] if type(part) is tuple and len(part) > position else None
                   for part, position in ((kept.arguments, 0), (kept.state, 1)))
    if type(code) is not str or code not in CODES or order not in ("<", ">", "|"):
        raise ValueError(f"{rule}: it holds an array of other dtypes than real numbers")
    dtype = np.dtype(code).newbyteorder(order)
    try:
        buffer = items.encode("latin1") if type(items) is str else items
    except UnicodeEncodeError:
        buffer = None
    if type(buffer) is not bytes or len(buffer) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{rule}: it holds an array of another number of bytes than its shape {shape} has")
    return np.ndarray(shape, dtype, buffer, order="F" if by_columns else "C").astype(dtype.newbyteorder("="), "C")
