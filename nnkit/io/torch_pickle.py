"""PyTorch's files, .pt and .pth, of both forms, without PyTorch and without running what they say.

Since 2020 `torch.save` writes a zip archive: NAME/data.pkl, a pickle, and NAME/data/KEY, the bytes of each storage. Before, it wrote five pickles one
behind the other (a magic number, the version, facts about the machine, the object, the list of keys), then each storage: its number of elements and
its bytes; the public weights of VGG16 are of that form. In both the pickle names functions of PyTorch's that would make tensors of storages. Here
those names are stand-ins (see `nnkit.io.pickles`) and tensors are views of the file, made once all of their numbers are checked.
"""

from __future__ import annotations

import abc
import io
import math
import os
import pickle
from collections.abc import Callable, Iterable
from typing import Any, Literal

import attrs
import numpy as np

from nnkit.io.archive import Entry, entries
from nnkit.io.pickles import Dictionary, Kept, Makes, Name, read
from nnkit.io.report import FormatError

__all__ = ["read_pickled"]

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001            # of the older form
MOST_BYTES = 1 << 21                                     # of the pickles: some 12,000 tensors. What they make takes up to 90 times as much memory
AXES, FAR = 32, 1 << 62                                  # NumPy's limits
HOLDERS = ("state_dict", "model_state_dict", "model")    # under which of its keys a checkpoint keeps the weights of the network

# The class of a storage -> the type of its elements in the file, and how they become NumPy's where it has none that is the same.
Conversion = Callable[[np.ndarray], np.ndarray]


def _of_bfloat16(bits: np.ndarray) -> np.ndarray:
    """float32 whose upper halves are these."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


CONVERSIONS: dict[str, Conversion] = {"bfloat16": _of_bfloat16, "bool": lambda byte: byte != 0}
PLAIN = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64")
KINDS: dict[str, np.dtype] = {"bfloat16": np.dtype("u2"), "bool": np.dtype("u1"), **{name: np.dtype(name) for name in PLAIN}}

# Classes of storages, by the dtype of their elements (None: bytes, of which tensors say the dtype), and dtypes: names that are never called.
CLASSES: dict[tuple[str, str], str | None] = {
    ("torch", "FloatStorage"): "float32", ("torch", "DoubleStorage"): "float64", ("torch", "HalfStorage"): "float16",
    ("torch", "BFloat16Storage"): "bfloat16", ("torch", "LongStorage"): "int64", ("torch", "IntStorage"): "int32", ("torch", "ShortStorage"): "int16",
    ("torch", "CharStorage"): "int8", ("torch", "ByteStorage"): "uint8", ("torch", "BoolStorage"): "bool",
    ("torch", "UntypedStorage"): None, ("torch.storage", "UntypedStorage"): None, **{("torch", name): name for name in KINDS}}


@attrs.frozen(eq=False)
class _Storage:
    """Stands for a storage, or the part of one from element `first` on: its key in the file, its dtype, its number of elements."""

    key: str
    dtype: str | None
    size: int
    first: int = 0


class _Tensor:
    """Stands for a tensor: where in a storage its elements are. Of what it was given only that counts; whether it needs gradients, for one, not."""

    def __init__(self, storage: Any, first: Any, shape: Any, strides: Any, dtype: str | None = None, metadata: Any = None) -> None:
        if type(storage) is not _Storage:
            raise pickle.UnpicklingError("a tensor must have a storage")
        if metadata:
            raise pickle.UnpicklingError("a tensor must hold its numbers as they are, received one that is to be negated or conjugated")
        self.storage, self.first, self.shape, self.strides, self.dtype = storage, first, shape, strides, dtype or storage.dtype

    def checked(self, what: str) -> str:
        """The dtype. Raises FormatError where it does not lie in its storage, or has more elements (expanded: a copy could fill all memory)."""
        storage, first, shape, strides = self.storage, self.first, self.shape, self.strides
        if self.dtype is None or storage.dtype not in (None, self.dtype):
            raise FormatError(f"{what} must have the dtype of its storage, or one of its own where that is of bytes")
        if not (_are_sizes(shape) and _are_sizes(strides) and _are_sizes((first,)) and len(shape) == len(strides) <= AXES):
            raise FormatError(f"{what} must have a shape, as many strides and an offset, all whole numbers at least 0")
        size = storage.size // (KINDS[self.dtype].itemsize if storage.dtype is None else 1)
        count = math.prod(shape)
        reach = first + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 1 if count else 0
        if reach > size:
            raise FormatError(f"{what} of shape {shape}, strides {strides} and offset {first} must lie in its storage of {size} elements")
        if count > size or math.prod(n for n in shape if n) >= FAR:
            raise FormatError(f"{what} of shape {shape} must have no more elements than its storage, {size}: clone an expanded tensor")
        return self.dtype


def _dtype(name: Any) -> str | None:
    """The dtype of a class of storages, or what a name of a dtype means."""
    if type(name) is not Name or name.path not in CLASSES:
        raise pickle.UnpicklingError("a storage must be of a class and dtype that are known")
    return CLASSES[name.path]


def _tensor_v2(storage: Any, first: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, metadata: Any = None) -> _Tensor:
    return _Tensor(storage, first, shape, strides, None, metadata)


def _tensor_v3(storage: Any, first: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, dtype: Any, metadata: Any = None) -> _Tensor:
    return _Tensor(storage, first, shape, strides, _dtype(dtype), metadata)


def _parameter(tensor: Any, *_: Any) -> _Tensor:
    if type(tensor) is not _Tensor:
        raise pickle.UnpicklingError("a parameter must be a tensor")
    return tensor


def _dictionary(*arguments: Any) -> Dictionary:
    """An OrderedDict; Python 2 gave its items at once."""
    found, pairs = Dictionary(), arguments[0] if arguments else []
    if len(arguments) > 1 or type(pairs) is not list:
        raise pickle.UnpicklingError("an OrderedDict must be made of nothing, or of a list of keys and values")
    for pair in pairs:
        if type(pair) not in (list, tuple) or len(pair) != 2 or type(pair[0]) is not str:
            raise pickle.UnpicklingError("an OrderedDict must be made of nothing, or of a list of keys and values")
        found[pair[0]] = pair[1]
    return found


# What a state_dict names, and what often stands beside it in a checkpoint.
MAKES: Makes = {
    ("collections", "OrderedDict"): _dictionary,
    ("torch._utils", "_rebuild_tensor"): _Tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch", "Size"): Kept,
    ("torch", "device"): Kept,
    **dict.fromkeys(CLASSES),
}


def read_pickled(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of the state_dict in a file that `torch.save` wrote: name -> array.

    The file holds the state_dict itself or a checkpoint, a dictionary that holds it under "state_dict", "model_state_dict" or "model" (the first of
    these that is a dictionary of tensors). What a state_dict holds besides tensors is left out.
    dtypes are PyTorch's, bfloat16 as float32 (NumPy has none), complex and quantized ones are refused. Arrays are read-only views of the file's
    bytes, which are read once (mapped memory would end the process if another one cut the file). What is converted (bfloat16, bool) is a copy.
    Tensors that share a storage share memory. Checksums of the archive are checked for what is used.

    Raises:
        OSError: the file cannot be read.
        FormatError: it is damaged, cut short or of another format, holds anything else, or tensors with more elements than their storage.
    """
    with open(path, "rb") as file:
        whole = memoryview(file.read())
    try:
        source: _Source = _Archive(whole) if whole[:4] == b"PK\x03\x04" else _Sequence(whole)
        return {name: source.array(tensor, name) for name, tensor in _tensors(source.load()).items()}
    except Exception as error:                           # a broken pickle raises nearly anything
        raise FormatError(f"{os.fspath(path)!r} must be a state_dict that torch.save wrote, and nothing else: {error}") from None


def _tensors(loaded: Any) -> dict[str, _Tensor]:
    """The tensors of a state_dict, or of that in a checkpoint."""
    if not isinstance(loaded, dict):
        raise FormatError("it holds no dictionary")
    candidates = [loaded[key] for key in HOLDERS if isinstance(loaded.get(key), dict)]
    for candidate in (*candidates, loaded):
        found = {name: tensor for name, tensor in candidate.items() if type(tensor) is _Tensor}
        if found and all(type(name) is str for name in found):
            return found
    raise FormatError(f"it holds no tensors by name, neither itself nor under one of {', '.join(map(repr, HOLDERS))}")


class _Source(abc.ABC):
    """A file of one of the forms: the object that is pickled in it, and the bytes of its storages."""

    def __init__(self) -> None:
        self.storages: dict[str, _Storage] = {}
        self.converted: dict[tuple[str, str], np.ndarray] = {}
        self.order: Literal["<", ">"] = "<"

    @abc.abstractmethod
    def load(self) -> Any:
        """The object, made of stand-ins."""

    @abc.abstractmethod
    def content(self, storage: _Storage) -> memoryview:
        """The bytes of a whole storage."""

    def unpickled(self, stream: io.BytesIO) -> Any:
        """The next object of the stream."""
        return read(stream, MAKES, self.storage)

    def storage(self, identity: Any) -> _Storage:
        """The storage of a persistent id: ("storage", class, key, place, elements); in the older form then None, or which part of it is meant."""
        if type(identity) is not tuple or len(identity) not in (5, 6) or type(identity[0]) is not str or identity[0] != "storage":
            raise pickle.UnpicklingError("a persistent id must be that of a storage")
        dtype, key, size = _dtype(identity[1]), identity[2], identity[4]
        view = identity[5] if len(identity) == 6 else None
        if type(key) is not str or type(size) is not int or not 0 <= size < FAR:
            raise pickle.UnpicklingError("a storage must have a key and a number of elements")
        found = self.storages.setdefault(key, _Storage(key, dtype, size))
        if (found.dtype, found.size) != (dtype, size):
            raise pickle.UnpicklingError(f"storage {key[:200]!r} must be the same wherever it is named")
        if view is None:
            return found
        if type(view) is not tuple or len(view) != 3 or not _are_sizes(view[1:]) or view[1] + view[2] > size:
            raise pickle.UnpicklingError(f"a part of storage {key[:200]!r} must lie in it")
        return _Storage(key, found.dtype, view[2], view[1])

    def elements(self, storage: _Storage, dtype: str) -> np.ndarray:
        """The elements of a whole storage, one after the other."""
        if (storage.key, dtype) not in self.converted:
            kind = KINDS[dtype].newbyteorder(self.order)
            content = self.content(self.storages[storage.key])
            elements = np.frombuffer(content[:len(content) // kind.itemsize * kind.itemsize], kind)
            if not kind.isnative:
                elements = elements.astype(kind.newbyteorder("="))
            self.converted[storage.key, dtype] = _converted(elements, dtype)
        return self.converted[storage.key, dtype]

    def array(self, tensor: _Tensor, name: str) -> np.ndarray:
        """A tensor as a view of its storage. Raises FormatError where it does not lie in it."""
        storage, dtype = tensor.storage, tensor.checked(f"tensor {name[:200]!r}")
        if not math.prod(tensor.shape):
            return _converted(np.zeros(tensor.shape, KINDS[dtype]), dtype)
        elements = self.elements(storage, dtype)
        strides = [stride * elements.itemsize for stride in tensor.strides]
        array: np.ndarray = np.ndarray(tensor.shape, elements.dtype, elements, (storage.first + tensor.first) * elements.itemsize, strides)
        array.flags.writeable = False
        return array


def _converted(elements: np.ndarray, dtype: str) -> np.ndarray:
    return CONVERSIONS[dtype](elements) if dtype in CONVERSIONS else elements


def _are_sizes(numbers: Any) -> bool:
    return type(numbers) is tuple and all(type(number) is int and 0 <= number < FAR for number in numbers)


class _Archive(_Source):
    """The zip form."""

    def __init__(self, whole: memoryview) -> None:
        super().__init__()
        self.entries: dict[str, Entry] = entries(whole)
        tops = [name.removesuffix("data.pkl") for name in self.entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(tops) != 1:
            raise FormatError("the archive must hold one data.pkl in its top folder")
        self.top = tops[0]

    def load(self) -> Any:
        """The object in data.pkl."""
        if f"{self.top}byteorder" in self.entries:
            order = bytes(self.entries[f"{self.top}byteorder"].checked()[:20])
            if order not in (b"little", b"big"):
                raise FormatError("the archive's byteorder must be little or big")
            self.order = "<" if order == b"little" else ">"
        pickled = self.entries[f"{self.top}data.pkl"]
        if len(pickled.content) > MOST_BYTES:
            raise FormatError(f"its pickle must have at most {MOST_BYTES} bytes, received {len(pickled.content)}")
        return self.unpickled(io.BytesIO(pickled.checked()))

    def content(self, storage: _Storage) -> memoryview:
        """Those of data/KEY."""
        entry = self.entries.get(f"{self.top}data/{storage.key}")
        size = storage.size * (1 if storage.dtype is None else KINDS[storage.dtype].itemsize)
        if entry is None or len(entry.content) != size:
            received = "none" if entry is None else f"{len(entry.content)}"
            raise FormatError(f"storage {storage.key[:200]!r} must have {size} bytes in the archive, received {received}")
        return entry.checked()


class _Sequence(_Source):
    """The older form. Bytes of storages are little-endian whatever machine wrote them."""

    def __init__(self, whole: memoryview) -> None:
        super().__init__()
        self.whole = whole
        self.places: dict[str, memoryview] = {}

    def load(self) -> Any:
        """The fourth pickle; the keys behind it tell where the storages are."""
        stream = io.BytesIO(self.whole[:MOST_BYTES])
        for what, number in (("magic number", MAGIC), ("version", VERSION)):
            found = self.unpickled(stream)
            if type(found) is not int or found != number:
                raise FormatError(f"its {what} must be {number}")
        self.unpickled(stream)
        loaded, keys = self.unpickled(stream), self.unpickled(stream)
        self._find(keys if type(keys) is list else [], stream.tell())
        return loaded

    def _find(self, keys: Iterable[Any], place: int) -> None:
        """Where each storage's bytes are: behind one another, each behind its number of elements."""
        for key in keys:
            storage = self.storages.get(key) if type(key) is str else None
            if storage is None or key in self.places:
                raise FormatError("the storages behind its pickle must be those that it names, each once")
            start = place + 8
            place = start + storage.size * (1 if storage.dtype is None else KINDS[storage.dtype].itemsize)
            if place > len(self.whole):
                raise FormatError(f"storage {key[:200]!r} must lie in the file: it is cut short")
            if int.from_bytes(self.whole[start - 8:start], "little") != storage.size:
                raise FormatError(f"storage {key[:200]!r} must have {storage.size} elements, received another number")
            self.places[key] = self.whole[start:place]

    def content(self, storage: _Storage) -> memoryview:
        """Those behind its number of elements."""
        if storage.key not in self.places:
            raise FormatError(f"storage {storage.key[:200]!r} must lie behind the pickle, received no such")
        return self.places[storage.key]
