"""The container safetensors: named arrays and a few strings in one file, read and written without a copy of the arrays.

    8 bytes       H, the length of the header, little-endian
    H bytes       JSON: {name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ..., "__metadata__": {string: string}}, then spaces
    the rest      the arrays, little-endian and C-contiguous; offsets count from here; no gaps, no overlaps

`Reader` checks a header as a whole against the file's real size before anything else is read, and reads arrays straight into memory that the caller
has. `write` puts the finished file in its place at once: whoever looks sees the old file or the new one.

https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from nnkit.io.report import FormatError

__all__ = ["Entry", "Reader", "write"]

# Item types, as NumPy keeps them in the file. BF16, the upper half of a float32, is read as whole numbers and shifted.
DTYPES = {"F64": "<f8", "I64": "<i8", "U64": "<u8", "F32": "<f4", "I32": "<i4", "U32": "<u4", "F16": "<f2", "BF16": "<u2", "I16": "<i2", "U16": "<u2",
          "I8": "|i1", "U8": "|u1", "BOOL": "|b1"}
NAMES = {np.dtype(code).newbyteorder("="): name for name, code in DTYPES.items() if name != "BF16"}

LONGEST_HEADER = 1 << 24                                 # bytes; the format allows 100 MB, which no file needs: 16 MiB speak of 200,000 arrays
LONGEST_ENTRY = 2_000                                    # characters that say dtype, shape and place of one array
MOST_AXES = 32
BLOCK = 1 << 20                                          # bytes that are converted at a time
ALIGNMENT = 64                                           # where the data begins

SPACE = re.compile(r"[ \t\n\r]*")
DECODER = json.JSONDecoder()
ENTRY = re.compile(rf"\{{[^{{}}]{{0,{LONGEST_ENTRY}}}\}}")


@attrs.frozen
class Entry:
    """An array of the file: name, dtype in the format's words ("F32"), shape, and where its bytes [begin, end) lie in the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def kept(self) -> np.dtype:
        """The items' dtype in the file; of BF16 that of its bits."""
        return np.dtype(DTYPES[self.dtype])

    @property
    def natural(self) -> np.dtype:
        """The dtype in which the array is read where nothing else is asked for: this machine's, float32 for BF16."""
        return np.dtype(np.float32) if self.dtype == "BF16" else self.kept.newbyteorder("=")


class Reader:
    """A file that is open for reading; a context manager.

    Attributes:
        entries: {name: Entry} in the order in which the arrays lie in the file.
        metadata: the strings of "__metadata__".

    Raises:
        OSError: the file cannot be opened or read.
        FormatError: its header is not what the format asks for, or does not fit the file's size; later, the file has become shorter.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.entries: dict[str, Entry] = {}
        self.metadata: dict[str, str] = {}
        self._file = open(path, "rb", buffering=0)       # noqa: SIM115  (closed by close)
        try:
            status = os.fstat(self._file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise self.fault("it is no regular file")
            self._start = self._read_header(status.st_size)
            self._check_places(status.st_size - self._start)
        except BaseException:
            self.close()
            raise

    def fault(self, reason: str) -> FormatError:
        """The error that says what is wrong with this file."""
        return FormatError(f"{self.path!r} cannot be read as safetensors: {reason}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def read(self, name: str) -> np.ndarray:
        """The array of that name, in its natural dtype. Raises KeyError for an unknown name."""
        entry = self.entries[name]
        array = np.empty(entry.shape, entry.natural)
        self.read_into(name, array)
        return array

    def read_into(self, name: str, array: np.ndarray) -> None:
        """Read the array of that name into another one of its shape, C-contiguous and writable; where the dtypes differ, by conversion in blocks.

        Raises KeyError for an unknown name, ValueError for an array that does not fit.
        """
        entry = self.entries[name]
        if array.shape != entry.shape or not array.flags.c_contiguous:
            raise ValueError(f"{name!r} must be read into a C-contiguous array of shape {entry.shape}, received shape {array.shape}")
        self._file.seek(self._start + entry.begin)
        flat = array.reshape(-1)
        if entry.dtype != "BOOL" and entry.dtype != "BF16" and array.dtype == entry.kept:
            self._fill(flat.view(np.uint8))
            return
        items = np.empty(min(BLOCK // entry.kept.itemsize, flat.size), np.uint8 if entry.dtype == "BOOL" else entry.kept)
        for begin in range(0, flat.size, items.size or 1):
            block = items[:flat.size - begin]
            self._fill(block.view(np.uint8))
            flat[begin:begin + len(block)] = _meant(block, entry.dtype)

    def _fill(self, target: Any) -> None:
        """Fill this memory of bytes from where the file stands."""
        room = memoryview(target)
        while len(room):
            count = self._file.readinto(room)            # at most 2 GiB at a time
            if not count:
                raise self.fault("it ends before its data does: it has become shorter")
            room = room[count:]

    def _read_header(self, size: int) -> int:
        """Read what stands before the data; returns its length."""
        if size < 10:
            raise self.fault(f"it has {size} bytes, fewer than any header")
        start = bytearray(8)
        self._fill(start)
        length = int.from_bytes(start, "little")
        most = min(size - 8, LONGEST_HEADER)
        if not 2 <= length <= most:
            raise self.fault(f"the length of its header must be from 2 to {most}, received {length}")
        content = bytearray(length)
        self._fill(content)
        try:
            self._scan(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise self.fault(f"its header is no UTF-8: {error.reason} at byte {error.start}") from None
        return 8 + length

    def _scan(self, text: str) -> None:
        """The entries of the header. They are taken one by one, so that nothing is made of a header but what an entry may be."""
        at = self._expect(text, 0, "{")
        if (at := _skip(text, at)) < len(text) and text[at] == "}":
            at += 1
        else:
            while True:
                name, at = self._string(text, at)
                at = _skip(text, self._expect(text, at, ":"))
                at = self._scan_metadata(text, at) if name == "__metadata__" else self._scan_entry(name, text, at)
                at = _skip(text, at)
                if at < len(text) and text[at] == ",":
                    at += 1
                    continue
                at = self._expect(text, at, "}")
                break
        if _skip(text, at) != len(text):
            raise self.fault("its header goes on behind its end")

    def _expect(self, text: str, at: int, letter: str) -> int:
        at = _skip(text, at)
        if at >= len(text) or text[at] != letter:
            raise self.fault(f"its header is no JSON object: {letter!r} is missing at character {at}")
        return at + 1

    def _string(self, text: str, at: int) -> tuple[str, int]:
        """The JSON string that begins at the next letter, and where it ends."""
        at = self._expect(text, at, '"') - 1
        try:
            value, end = DECODER.raw_decode(text, at)
            if not value.isascii():
                value.encode()                           # a half of a surrogate pair cannot be shown
        except ValueError:
            raise self.fault(f"its header is no JSON object: the string at character {at} is damaged") from None
        return value, end

    def _scan_metadata(self, text: str, at: int) -> int:
        if self.metadata:
            raise self.fault("its header has '__metadata__' twice")
        at = self._expect(text, at, "{")
        if (at := _skip(text, at)) < len(text) and text[at] == "}":
            return at + 1
        while True:
            key, at = self._string(text, at)
            value, at = self._string(text, self._expect(text, at, ":"))
            if key in self.metadata:
                raise self.fault(f"its metadata has {key!r} twice")
            self.metadata[key] = value
            at = _skip(text, at)
            if at < len(text) and text[at] == ",":
                at += 1
                continue
            return self._expect(text, at, "}")

    def _scan_entry(self, name: str, text: str, at: int) -> int:
        found = ENTRY.match(text, at)
        if name in self.entries:
            raise self.fault(f"its header has {name!r} twice")
        try:
            if found is None:
                raise ValueError
            pairs = json.loads(found[0], object_pairs_hook=list)
        except (ValueError, RecursionError):
            raise self.fault(f"what its header says of {name!r} is no JSON object of dtype, shape and data_offsets") from None
        fields = dict(pairs)
        if len(pairs) != 3 or fields.keys() != {"dtype", "shape", "data_offsets"}:
            raise self.fault(f"what its header says of {name!r} must be dtype, shape and data_offsets, each once")
        self.entries[name] = self._entry(name, **fields)
        return found.end()

    def _entry(self, name: str, dtype: Any, shape: Any, data_offsets: Any) -> Entry:
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise self.fault(f"dtype of {name!r} must be one of {', '.join(DTYPES)}, received {str(dtype)[:40]!r}")
        if not _whole(shape) or len(shape) > MOST_AXES:
            raise self.fault(f"shape of {name!r} must be a list of at most {MOST_AXES} whole numbers of at least 0")
        if not _whole(data_offsets) or len(data_offsets) != 2 or data_offsets[0] > data_offsets[1]:
            raise self.fault(f"data_offsets of {name!r} must be two whole numbers, the second not below the first")
        begin, end = data_offsets
        item = np.dtype(DTYPES[dtype]).itemsize
        if math.prod(shape) * item != end - begin:
            raise self.fault(f"{name!r} of shape {_shown(shape)} and dtype {dtype} needs {_shown(math.prod(shape) * item)} bytes, "
                             f"its data_offsets give {_shown(end - begin)}")
        if math.prod(size for size in shape if size) >= 1 << 59:       # an array without elements, but of a shape that NumPy cannot have
            raise self.fault(f"shape of {name!r} is too large")
        return Entry(name, dtype, tuple(shape), begin, end)

    def _check_places(self, size: int) -> None:
        """Put the entries in the order of their places; together they must be all of the data."""
        end = 0
        ordered = sorted(self.entries.values(), key=lambda entry: (entry.begin, entry.end))
        for entry in ordered:
            if entry.begin != end:
                what = "overlaps what lies before it" if entry.begin < end else "leaves a gap before it"
                raise self.fault(f"the data of {entry.name!r}, from byte {_shown(entry.begin)} on, {what}, which ends at {_shown(end)}")
            end = entry.end
        if end != size:
            raise self.fault(f"its header speaks of {_shown(end)} bytes of data, but it has {size}")
        self.entries = {entry.name: entry for entry in ordered}


def _skip(text: str, at: int) -> int:
    """Behind the white space that begins at a place."""
    return SPACE.match(text, at).end()                   # type: ignore[union-attr]


def _whole(values: Any) -> bool:
    return type(values) is list and all(type(value) is int and value >= 0 for value in values)


def _shown(value: Any) -> str:
    """A number or a shape of a file for a message: it may have thousands of digits."""
    text = str(tuple(value) if isinstance(value, list) else value)
    return text if len(text) <= 80 else f"{text[:40]}..."


def _meant(block: np.ndarray, dtype: str) -> np.ndarray:
    """What items of the file stand for."""
    if dtype == "BOOL":
        return block != 0                                # any byte may stand there
    return (block.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else block


def write(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays of numbers and strings as one file, which takes the place of what was there when it is complete and on the disk.

    Wide items come first, else arrays lie in the order of the mapping; so each begins at a multiple of its items' size. What goes wrong leaves the
    file that was there as it is. A process that is killed may leave a temporary file: see `leftovers`.

    Raises ValueError for a dtype that the format does not know, OSError where the file cannot be written.
    """
    target = os.path.realpath(path)                      # through a link, not in place of it
    folder, name = os.path.split(target)
    header, ordered = _header(arrays, metadata or {})
    check_target(path)
    temporary = os.path.join(folder, f".{name}.{os.urandom(4).hex()}.tmp")
    file = open(temporary, "xb", buffering=0)  # noqa: SIM115
    try:
        with file:
            _write_all(file, memoryview(header))
            for array in ordered:
                _write_all(file, memoryview(_as_kept(array).reshape(-1).view(np.uint8)))       # type: ignore[arg-type]
            os.fsync(file.fileno())
        if os.path.exists(target):
            os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_folder(folder)


def check_target(path: str | os.PathLike[str]) -> None:
    """Raise FileNotFoundError or IsADirectoryError where no file can be written at a path, which is named as the user knows it."""
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, f"a file cannot be written to {os.fspath(path)!r}, there is no folder", folder)
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, "a file cannot be written, there is a folder of that name", os.fspath(path))


def leftovers(path: str | os.PathLike[str]) -> list[str]:
    """Paths of the temporary files that processes left which were killed while they wrote this file."""
    folder, name = os.path.split(os.path.realpath(path))
    pattern = re.compile(re.escape(f".{name}.") + r"[0-9a-f]{8}\.tmp")
    return [os.path.join(folder, found) for found in os.listdir(folder) if pattern.fullmatch(found)] if os.path.isdir(folder) else []


def _header(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> tuple[bytes, list[np.ndarray]]:
    """All that stands before the data, and the arrays in their order."""
    for name, array in arrays.items():
        if array.dtype.newbyteorder("=") not in NAMES:
            raise ValueError(f"{name!r} must be an array of numbers that safetensors knows, received {array.dtype}")
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end, ordered = 0, []
    for name in sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize):       # stable
        array = arrays[name]
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": NAMES[array.dtype.newbyteorder("=")], "shape": list(array.shape), "data_offsets": [begin, end]}
        ordered.append(array)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    if len(text) > LONGEST_HEADER:
        raise ValueError(f"names and metadata of a file must have at most {LONGEST_HEADER} bytes, received {len(text)}")
    return len(text).to_bytes(8, "little") + text, ordered


def _as_kept(array: np.ndarray) -> np.ndarray:
    """The array as it stands in the file: a copy only where it is not C-contiguous and little-endian already."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))


def _write_all(file: Any, content: memoryview) -> None:
    while len(content):
        content = content[file.write(content):]


def _sync_folder(folder: str) -> None:
    """Have the folder's entry on the disk, too."""
    if os.name == "nt":                                  # Windows cannot open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
