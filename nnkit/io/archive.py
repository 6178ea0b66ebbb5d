"""Zip archives whose entries are stored as they are, looked at in memory: every number of theirs is checked against the file before it is used."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator

import attrs

from nnkit.io.report import FormatError

__all__ = ["Entry", "entries"]

END, END64, LOCATOR64, CENTRAL, LOCAL = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02", b"PK\x03\x04"
IN_ZIP64 = 0xFFFFFFFF                                    # stands where a number does not fit into 32 bits
ENCRYPTED, STORED = 0x0041, 0                            # flags; method


@attrs.frozen(eq=False, repr=False)
class Entry:
    """One entry: its name and its bytes, a view of the archive's. crc: the checksum that the archive gives, 0 where it gives none."""

    name: str
    content: memoryview
    crc: int

    def checked(self) -> memoryview:
        """The bytes, once their checksum is found right (PyTorch writes 0 where it was told not to compute one). Raises FormatError."""
        if self.crc and zlib.crc32(self.content) != self.crc:
            raise FormatError(f"its entry {self.name!r} is damaged: the checksum is wrong")
        return self.content


def entries(archive: memoryview) -> dict[str, Entry]:
    """The entries by name. Raises FormatError for what is no zip archive, and where an entry is compressed, encrypted, there twice, lies on another
    or beyond the file."""
    count, start, stop = _directory(archive)
    if stop - start < 46 * count:
        raise FormatError("its directory is cut short")
    found: dict[str, Entry] = {}
    places = []
    for name, crc, size, offset in _listed(archive, count, start, stop):
        if name in found:
            raise FormatError(f"its entry {name[:200]!r} is there twice")
        content = _content(archive, name, offset, size, start)
        places.append((offset, offset + content))
        found[name] = Entry(name, archive[offset + content - size:offset + content], crc)
    places.sort()
    if any(stop > start for (_, stop), (start, _) in itertools.pairwise(places)):
        raise FormatError("its entries lie on one another")
    return found


def _directory(archive: memoryview) -> tuple[int, int, int]:
    """How many entries the directory lists, where it begins and where it ends."""
    tail = bytes(archive[-(22 + 0xFFFF):])
    place = tail.rfind(END)
    if place < 0 or len(tail) - place < 22:
        raise FormatError("it has no zip directory at its end: it is cut short, or no zip archive")
    end = len(archive) - len(tail) + place
    disk, first, here, count, size, start, comment = struct.unpack("<4H2LH", archive[end + 4:end + 22])
    if end + 22 + comment != len(archive):
        raise FormatError("its zip directory does not end where the file ends")
    if end >= 20 and archive[end - 20:end - 16] == LOCATOR64:
        at, end = struct.unpack("<Q", archive[end - 12:end - 4])[0], end - 20
        if at > end - 56 or archive[at:at + 4] != END64:
            raise FormatError("its zip64 directory is damaged")
        disk, first, here, count, size, start = struct.unpack("<2L4Q", archive[at + 16:at + 56])
        end = at
    if disk or first or here != count:
        raise FormatError("it is a part of a zip archive in several files")
    if start + size > end:
        raise FormatError("its zip directory lies beyond the file")
    return count, start, start + size


def _listed(archive: memoryview, count: int, at: int, stop: int) -> Iterator[tuple[str, int, int, int]]:
    """(name, checksum, size, where its header begins) of each entry."""
    for _ in range(count):
        if at + 46 > stop or archive[at:at + 4] != CENTRAL:
            raise FormatError("its directory is damaged")
        flags, method, _, crc, packed, size, name, extra, comment, offset = struct.unpack("<2H4s3L3H8xL", archive[at + 8:at + 46])
        behind = at + 46 + name
        if behind + extra + comment > stop:
            raise FormatError("its directory is cut short")
        shown = bytes(archive[at + 46:behind]).decode("utf-8", "backslashreplace")
        if flags & ENCRYPTED:
            raise FormatError(f"its entry {shown[:200]!r} is encrypted")
        packed, size, offset = _in_64_bits(archive[behind:behind + extra], (size, packed, offset))
        if method != STORED or packed != size:
            raise FormatError(f"its entry {shown[:200]!r} is compressed, where PyTorch stores bytes as they are")
        yield shown, crc, size, offset
        at = behind + extra + comment


def _in_64_bits(extra: memoryview, numbers: tuple[int, int, int]) -> tuple[int, int, int]:
    """(packed size, size, offset), with those that do not fit into 32 bits taken from the field for them, in which they stand as they come."""
    wide: list[int] = []
    while len(extra) >= 4:
        kind, length = struct.unpack("<2H", extra[:4])
        if kind == 1:
            wide = [number for (number,) in struct.iter_unpack("<Q", extra[4:4 + min(length, len(extra) - 4) // 8 * 8])]
        extra = extra[4 + length:]
    if sum(number == IN_ZIP64 for number in numbers) > len(wide):
        raise FormatError("its zip64 numbers are missing")
    size, packed, offset = (wide.pop(0) if number == IN_ZIP64 else number for number in numbers)
    return packed, size, offset


def _content(archive: memoryview, name: str, offset: int, size: int, stop: int) -> int:
    """How many bytes the header of an entry and its content are. `stop`: where the directory begins; all lies before it."""
    if offset + 30 > stop or archive[offset:offset + 4] != LOCAL:
        raise FormatError(f"its entry {name[:200]!r} is not where the directory says")
    length, extra = struct.unpack("<2H", archive[offset + 26:offset + 30])
    if offset + 30 + length + extra + size > stop:
        raise FormatError(f"its entry {name[:200]!r} lies beyond the file")
    if bytes(archive[offset + 30:offset + 30 + length]).decode("utf-8", "backslashreplace") != name:
        raise FormatError(f"its entry {name[:200]!r} has another name where it lies")
    return 30 + length + extra + size
