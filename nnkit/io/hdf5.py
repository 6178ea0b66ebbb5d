"""Groups, attributes and arrays out of HDF5 files in the form that h5py writes unless it is told otherwise, read without libhdf5.

libhdf5 trusts its files: of 30,000 damaged copies of two small Keras files it crashed on 4, hung on 13, and took up to 3.8 GiB (HDF5 2.0). So the few
structures that Keras' files consist of are read here, every address and length checked against the file. Whatever else HDF5 has (links to other
places and files, external storage, chunks and filters, references) is refused by name.

The file is bytes; arrays are views of them, so nothing is allocated for what a file claims. `_take` counts all other bytes that are read; a file that
wants more than twice its length read is refused, so loops end.

Sources: HDF5 File Format Specification 3.0, https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html; the sections are named below.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import attrs
import numpy as np

from nnkit.io.report import FormatError

__all__ = ["Dataset", "File", "Group"]

UNDEFINED = 0xFFFFFFFFFFFFFFFF                           # the address of what is not there
DATASPACE, DATATYPE, EXTERNAL, LAYOUT, FILTERS, ATTRIBUTE, CONTINUATION, SYMBOLS = 0x01, 0x03, 0x07, 0x08, 0x0B, 0x0C, 0x10, 0x11   # messages
DEEPEST = 100                                            # groups in groups

# The properties of IEEE numbers: bits, place and size of the exponent, place and size of the mantissa, bias; and those of bfloat16.
FLOATS = {(16, 10, 5, 0, 10, 15): "f2", (32, 23, 8, 0, 23, 127): "f4", (64, 52, 11, 0, 52, 1023): "f8", (16, 7, 8, 0, 7, 127): "bfloat16"}


@attrs.frozen
class _Type:
    """A datatype: of numbers ("<f4", "<bfloat16"), text of a fixed number of bytes ("S"), text elsewhere ("text"), or any other ("")."""

    name: str
    size: int


@attrs.frozen(eq=False)
class _Object:
    """What is at an address: the messages of its header, by their kinds. `depth`: how many groups it lies in."""

    file: File
    path: str
    messages: Mapping[int, Sequence[tuple[int, int]]]    # kind -> (place, length) of each
    depth: int

    def attribute(self, name: str) -> str | list[str] | None:
        """An attribute that is a text or a list of texts; None where there is none, or where it is something else."""
        for at, length in self.messages.get(ATTRIBUTE, ()):
            found, parts = self.file._attribute_name(at, length)
            if found == name:
                return self.file._texts(*parts)
        return None


@attrs.frozen(eq=False)
class Dataset(_Object):
    """An array in the file."""

    def read(self) -> np.ndarray:
        """The array, a view of the file's bytes (of uint16 where the numbers are bfloat16). Raises FormatError where it is not stored plainly."""
        file, what = self.file, f"its dataset {self.path!r}"
        for kind, fault in ((EXTERNAL, "lies in another file"), (FILTERS, "is compressed")):
            if kind in self.messages:
                file._refuse(f"{what} {fault}, and nnkit reads arrays that are stored plainly")
        dtype, shape = file._type(*self._one(DATATYPE, what)), file._shape(*self._one(DATASPACE, what))
        if dtype.name in ("", "S", "text"):
            file._refuse(f"{what} must hold numbers")
        place, size = file._place(*self._one(LAYOUT, what), what)
        wanted = math.prod(shape) * dtype.size
        if size != wanted or (wanted and place + wanted > len(file.content)):
            file._refuse(f"{what} of shape {shape} must have {wanted} bytes within the file's {len(file.content)}, received {size} at byte {place}")
        code = dtype.name.replace("bfloat16", "u2")
        if not wanted:
            return np.empty(shape, np.dtype(code).newbyteorder("="))
        found = np.ndarray(shape, code, file.content, place)
        if found.dtype.isnative and not dtype.name.endswith("bfloat16"):
            return found
        file._take(place, wanted)                        # there will be a copy: counted, since several datasets may name the same bytes
        return found.astype(found.dtype.newbyteorder("="))

    @property
    def bfloat16(self) -> bool:
        """Whether the numbers are bfloat16, the upper halves of float32, which NumPy does not know."""
        return self.file._type(*self._one(DATATYPE, self.path)).name.endswith("bfloat16")

    def _one(self, kind: int, what: str) -> tuple[int, int]:
        found = self.messages.get(kind, ())
        if len(found) != 1:
            self.file._refuse(f"{what} must say once what it holds and where, received {len(found)} messages of kind {kind}")
        return found[0]


@attrs.frozen(eq=False)
class Group(_Object):
    """Named groups and datasets."""

    children: dict[str, tuple[int, int]] = attrs.field(factory=dict)     # name -> address of its header, kind of the link

    def __contains__(self, name: str) -> bool:
        return name in self.children

    def get(self, path: str) -> Group | Dataset:
        """What has that name in the group, or in groups in it ("layer/kernel:0"). Raises FormatError where there is no such thing."""
        at: Group | Dataset = self
        for name in path.split("/"):
            if not isinstance(at, Group) or name not in at.children:
                there = f"it holds {', '.join([*at.children][:10]) or 'nothing'}" if isinstance(at, Group) else "it is an array"
                self.file._refuse(f"{at.path or '/'!r} must hold {name!r}, and {there}")
            address, link = at.children[name]
            if link > 1:
                self.file._refuse(f"{at.path}/{name} is a link to another place, and weights must lie where their names say")
            at = self.file._object(address, f"{at.path}/{name}", at.depth + 1)
        return at

    def group(self, path: str) -> Group:
        """The group of that name. Raises FormatError."""
        found = self.get(path)
        return found if isinstance(found, Group) else self.file._refuse(f"{found.path!r} must be a group, received an array")

    def dataset(self, path: str) -> Dataset:
        """The array of that name. Raises FormatError."""
        found = self.get(path)
        return found if isinstance(found, Dataset) else self.file._refuse(f"{found.path!r} must be an array, received a group")


class File:
    """An HDF5 file in memory; `root` is its group. As a context it lets go of the bytes at its end, which only arrays hold then."""

    def __init__(self, content: bytes, what: str) -> None:
        """content: the bytes; what: the file in messages. Raises FormatError where the beginning is not that of an HDF5 file."""
        self.content, self.what, self.left = content, what, 2 * len(content)
        self._objects: dict[int, Group | Dataset] = {}
        self._heaps: dict[int, dict[int, tuple[int, int]]] = {}
        if content[:8] != b"\x89HDF\r\n\x1a\n":
            raise FormatError(f"{what} must be an HDF5 file, received one that begins with {content[:8]!r}")
        # Section II: the superblock.
        version, sizes = self._unpack("<B4xBB", 8)[0], self._unpack("<BB", 13)
        if version > 1:
            self._refuse("it has the newer form of HDF5 (libver='latest'): copy it with h5py without that")
        extra = 4 * version
        base, _, end = self._unpack("<QQQ", 24 + extra)
        if sizes != (8, 8) or base != 0:
            self._refuse(f"addresses and lengths must have 8 bytes and count from 0, received {sizes[0]}, {sizes[1]} and {base}")
        if end > len(content):
            raise FormatError(f"{what} is cut short: it must have {end} bytes, received {len(content)}")
        (root,) = self._unpack("<Q", 64 + extra)
        found = self._object(root, "", 0)
        if not isinstance(found, Group):
            self._refuse("its root must be a group")
        self.root = found

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self.content = b""                               # objects and file refer to each other, so Python would keep the bytes for a while
        self._objects.clear()

    def _refuse(self, fault: str) -> NoReturn:
        raise FormatError(f"{self.what} is damaged, or not as Keras writes it: {fault}")

    def _take(self, at: int, length: int) -> int:
        """Count bytes that are about to be read. Raises FormatError where they lie outside, or where more is read than there is."""
        if not 0 <= at <= len(self.content) - length:
            self._refuse(f"it refers to {length} bytes at byte {at}, and has {len(self.content)}")
        self.left -= length
        if self.left < 0:
            self._refuse("its parts overlap")
        return at

    def _unpack(self, form: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(form, self.content, self._take(at, struct.calcsize(form)))

    def _signed(self, at: int, signature: bytes) -> None:
        if self.content[self._take(at, 4):at + 4] != signature:
            self._refuse(f"{signature.decode()} must stand at byte {at}")

    # Objects and groups.

    def _object(self, address: int, path: str, depth: int) -> Group | Dataset:
        """The group or dataset whose header is there."""
        if address in self._objects:
            known = self._objects[address]
            if known.path != path:
                self._refuse(f"{path!r} and {known.path!r} are one object")
            return known
        if depth > DEEPEST:
            self._refuse(f"groups lie more than {DEEPEST} deep in groups")
        messages = self._messages(address, path)
        made: Group | Dataset
        if SYMBOLS in messages:
            made = Group(self, path, messages, depth, self._children(messages[SYMBOLS][0]))
        else:
            made = Dataset(self, path, messages, depth)
        self._objects[address] = made
        return made

    def _messages(self, address: int, path: str) -> dict[int, list[tuple[int, int]]]:
        """Section IV.A: the messages of an object header, as (place, length) by kind."""
        version, count, length = self._unpack("<BxHxxxxI", address)
        if self.content[address:address + 4] == b"OHDR":
            self._refuse(f"{path or '/'!r} has the newer form of HDF5 (libver='latest', track_order=True): copy it with h5py without these")
        if version != 1:
            self._refuse(f"the header of {path or '/'!r} at byte {address} must have version 1, received {version}")
        found: dict[int, list[tuple[int, int]]] = {}
        blocks = [(address + 16, length)]
        for at, size in blocks:
            self._take(at, 0)
            end = at + size
            while at + 8 <= end and count:
                kind, room, flags = self._unpack("<HHB", at)
                at = self._take(at + 8, room)
                count -= 1
                if at + room > end:
                    self._refuse(f"a message of {path or '/'!r} at byte {at} is longer than its block")
                if kind == CONTINUATION:
                    blocks.append(self._unpack("<QQ", at) if room >= 16 else self._refuse("a continuation must have 16 bytes"))
                elif flags & 2 and kind in (DATASPACE, DATATYPE, LAYOUT, SYMBOLS):
                    self._refuse(f"{path or '/'!r} shares a description with another object")
                else:
                    found.setdefault(kind, []).append((at, room))
                at += room
        return found

    def _children(self, message: tuple[int, int]) -> dict[str, tuple[int, int]]:
        """Sections III.A and III.D: the names in a group, from its tree and its heap of names."""
        if message[1] < 16:
            self._refuse("a group must name its tree and its heap")
        tree, heap = self._unpack("<QQ", message[0])
        self._signed(heap, b"HEAP")
        size, _, names = self._unpack("<QQQ", heap + 8)
        self._take(names, 0)
        found: dict[str, tuple[int, int]] = {}
        for place in self._leaves(tree, None):
            self._signed(place, b"SNOD")
            (count,) = self._unpack("<xxH", place + 4)
            for number in range(count):
                offset, address, link = self._unpack("<QQI", place + 8 + 40 * number)
                begin = names + min(offset, size)
                end = self.content.find(b"\0", self._take(begin, 0), names + size)
                name = self._text(self._take(begin, max(0, end - begin) + 1), end - begin)
                if not name or name in found or "/" in name:
                    self._refuse(f"a group must hold different names, received {name!r}")
                found[name] = (address, link)
        return found

    def _leaves(self, at: int, level: int | None) -> list[int]:
        """Where the nodes are that hold a group's names."""
        self._signed(at, b"TREE")
        kind, own, count = self._unpack("<BBH", at + 4)
        if kind != 0 or (level is not None and own != level):
            self._refuse(f"the tree at byte {at} must be one of names")
        places = [place for _, place in struct.iter_unpack("<QQ", self.content[self._take(at + 24, 16 * count):at + 24 + 16 * count])]
        return places if own == 0 else [leaf for place in places for leaf in self._leaves(place, own - 1)]

    # What messages say.

    def _shape(self, at: int, length: int) -> tuple[int, ...]:
        """Section IV.A.2.b: a dataspace."""
        version, rank, _, kind = self._unpack("<BBBB", at) if length >= 4 else (0, 0, 0, 0)
        begin = {1: 8, 2: 4}.get(version, length)
        if version not in (1, 2) or (version == 2 and kind == 2) or begin + 8 * rank > length or rank > 32:
            self._refuse("a dataset's shape must be that of numbers or an array")
        shape = self._unpack(f"<{rank}Q", at + begin)
        if math.prod(max(1, size) for size in shape) > len(self.content):
            self._refuse(f"a dataset of shape {shape} is larger than the file")
        return shape

    def _type(self, at: int, length: int) -> _Type:
        """Section IV.A.2.d: a datatype."""
        if length < 8:
            self._refuse("a datatype must have at least 8 bytes")
        kind, low, high, _, size = self._unpack("<BBBBI", at)
        kind &= 15
        order = ">" if low & 1 else "<"
        if kind == 1 and length >= 20 and not low & 64 and low & 48 == 32:             # normalized, in one byte order
            offset, bits, *parts, bias = self._unpack("<HHBBBBI", at + 8)
            name = FLOATS.get((bits, *parts, bias), "")
            if name and not offset and high == bits - 1 and 8 * size == bits:
                return _Type(order + name, size)
        if kind == 0 and length >= 12 and size in (1, 2, 4, 8) and self._unpack("<HH", at + 8) == (0, 8 * size):
            return _Type(f"{order}{'i' if low & 8 else 'u'}{size}", size)
        if kind == 5 and size == 2:                      # opaque: h5py's way of keeping bfloat16
            return _Type("<bfloat16", size)
        if kind == 3:
            return _Type("S", size)
        return _Type("text" if kind == 9 and low & 15 == 1 and size == 16 else "", size)

    def _place(self, at: int, length: int, what: str) -> tuple[int, int]:
        """Section IV.A.2.i: where an array's bytes are, and how many."""
        version, kind = self._unpack("<BB", at) if length >= 4 else (0, 0)
        if version not in (3, 4) or kind > 1 or (kind == 1 and length < 18):
            self._refuse(f"{what} is stored in chunks or in an unknown way, and nnkit reads arrays that are stored plainly")
        if kind == 0:
            (size,) = self._unpack("<H", at + 2)
            return self._take(at + 4, size), size
        place, size = self._unpack("<QQ", at + 2)
        return (place, size) if place != UNDEFINED else (0, 0)

    # Attributes.

    def _attribute_name(self, at: int, length: int) -> tuple[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]]:
        """Section IV.A.2.m: an attribute's name, and where its datatype, its dataspace and its value are."""
        version, flags, name, kind, space = self._unpack("<BBHHH", at) if length >= 9 else (0, 0, 0, 0, 0)
        if version not in (1, 2, 3) or (version > 1 and flags):
            self._refuse("an attribute must have version 1 to 3 and say itself what it is")
        begin = at + (9 if version == 3 else 8)
        lengths = (name, kind, space)
        ends = [begin]
        for part in lengths:
            ends.append(ends[-1] + (-(-part // 8) * 8 if version == 1 else part))
        if ends[-1] > at + length:
            self._refuse("an attribute is longer than its message")
        parts = (ends[1], kind), (ends[2], space), (ends[3], at + length - ends[3])
        return self._text(begin, name), parts

    def _texts(self, kind: tuple[int, int], space: tuple[int, int], value: tuple[int, int]) -> str | list[str] | None:
        """The text or texts of an attribute; None where it is something else."""
        dtype, shape = self._type(*kind), self._shape(*space)
        count = math.prod(shape)
        if count == 0:
            return []                                    # of whatever type: NumPy's empty list has numbers
        if dtype.name not in ("S", "text") or len(shape) > 1:
            return None
        if count * dtype.size > value[1] or dtype.size == 0:
            self._refuse("an attribute must have room for its texts")
        places = range(value[0], value[0] + count * dtype.size, dtype.size)
        found = [self._text(at, dtype.size) if dtype.name == "S" else self._text_elsewhere(at) for at in places]
        return found if shape else found[0]

    def _text(self, at: int, length: int) -> str:
        """A text that ends with its bytes or with a zero."""
        if length < 0:
            self._refuse("a text must end")
        try:
            return self.content[at:at + length].split(b"\0", 1)[0].decode()
        except UnicodeDecodeError:
            self._refuse(f"the text at byte {at} must be UTF-8")

    def _text_elsewhere(self, at: int) -> str:
        """Section III.E: a text in a global heap."""
        length, heap, number = self._unpack("<IQI", at)
        if length == 0:
            return ""
        if heap not in self._heaps:
            self._heaps[heap] = self._heap(heap)
        place, size = self._heaps[heap].get(number, (0, -1))
        if length > size:
            self._refuse(f"a text of {length} bytes must lie in the heap at byte {heap}")
        return self._text(self._take(place, length), length)

    def _heap(self, heap: int) -> dict[int, tuple[int, int]]:
        """What a global heap holds: number -> (place, length)."""
        self._signed(heap, b"GCOL")
        (size,) = self._unpack("<Q", heap + 8)
        self._take(heap, 0)
        found: dict[int, tuple[int, int]] = {}
        at, end = heap + 16, heap + size
        while at + 16 <= end:
            number, _, length = self._unpack("<HHxxxxQ", at)
            if number == 0:
                break
            found[number] = (at + 16, length)
            at += 16 + -(-length // 8) * 8
        return found


