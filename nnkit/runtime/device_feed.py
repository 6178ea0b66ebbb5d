"""How data reaches a device, and what steps write comes back: arrays that stay there, or chunks that stream through it.

A `DeviceHeld` is a data set for one use, such as one call of `fit`. If it fits, each array is uploaded when a plan first reads it, and stays. If it
does not, the plans run on *chunks* of whole batches. The host gathers a chunk's rows in the order of the epoch into pinned memory and sends it while
the chunk before is trained: there are two places for them. A plan sees a chunk as a data set of its own, so the numbers are those of the data set
that stays, bit for bit.

A `DeviceFeed` is such a data set with an order, and arrays that are to be written; `fetch` brings home of these what has been written.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkit.plan.build import COUNTERS
from nnkit.runtime.cuda import Block, DeviceTape, Location
from nnkit.runtime.device_array import DeviceArray

if TYPE_CHECKING:
    from nnkit.runtime.device_memory import DeviceMemory

__all__ = ["DeviceFeed", "DeviceHeld"]

POSITION = COUNTERS["position"]
SHARE = 0.8                                              # of the free memory that a data set may take: plans that come later need some, too
CHUNK_BYTES = 1 << 26                                    # of a chunk: gathered in some 20 ms


class DeviceHeld:
    """Arrays that plans read, for one use. written: bytes of what will be written for them."""

    def __init__(self, memory: DeviceMemory, arrays: Mapping[str, Any], written: int = 0) -> None:
        self.memory, self.device = memory, memory.device
        self.arrays = arrays
        self._blocks: dict[str, Block] = {}
        own = sum(array.nbytes for array in arrays.values() if not isinstance(array, DeviceArray))
        free = self.device.free()
        self.streams = own + written > SHARE * free and len({len(array) for array in arrays.values()}) == 1
        self.chunk_bytes = int(min(CHUNK_BYTES, SHARE * free / 4))

    def place(self, name: str) -> Location:
        """Where an array lies; uploaded when it is first asked for."""
        array = self.arrays[name]
        if isinstance(array, DeviceArray):
            return array.address, array.shape
        if name not in self._blocks:
            self._blocks[name] = Block.of(self.device, np.ascontiguousarray(array))
        return self._blocks[name].address, array.shape

    def feed(self, written: Mapping[str, np.ndarray] | None = None, order: np.ndarray | None = None) -> DeviceFeed:
        """These arrays with others that are to be written, and the order in which training reads them."""
        return (StreamedFeed if self.streams else DeviceFeed)(self, written or {}, order)


class DeviceFeed:
    """Arrays that stay on the device, and the runs of tapes on them."""

    def __init__(self, held: DeviceHeld, written: Mapping[str, np.ndarray], order: np.ndarray | None) -> None:
        self.held, self.memory, self.device = held, held.memory, held.device
        self.written, self.order = written, order
        self.counters = self.memory.view(self.memory.layout.buffers["counters"])
        self._blocks: dict[str, Block] = {}
        self._unread: tuple[int, int] | None = None      # rows that have been written and not fetched

    def run(self, tape: DeviceTape, steps: int = 1) -> None:
        """Run a tape so many times from the present position on."""
        tape.bind({name: self._place(name) for name in tape.arrays if self._has(name)})
        begin = int(self.counters[POSITION])
        try:
            tape.run(steps)
        finally:
            first = begin if self._unread is None else min(begin, self._unread[0])
            self._unread = first, max(int(self.counters[POSITION]), first if self._unread is None else self._unread[1])

    def fetch(self) -> None:
        """Bring home what has been written since the last time."""
        if self._unread is not None:
            first, stop = self._unread
            self._unread = None
            for name, block in self._blocks.items():
                if name in self.written:
                    self._read_rows(name, block.address, first, stop, first)

    def _has(self, name: str) -> bool:
        return name in self.held.arrays or name in self.written or (name == "order" and self.order is not None)

    def _place(self, name: str) -> Location:
        if name in self.held.arrays:
            return self.held.place(name)
        array = self.written.get(name, self.order)
        assert array is not None
        if name not in self._blocks:
            self._blocks[name] = Block(self.device, array.nbytes) if name in self.written else Block.of(self.device, array)
        return self._blocks[name].address, array.shape

    def _read_rows(self, name: str, address: int, first: int, stop: int, row: int) -> None:
        """Fetch the rows [first, stop) of an array that is written, from row `row` of what lies at the address."""
        array = self.written[name]
        rows = array[first:stop]
        at = address + row * (array.nbytes // max(1, len(array)))
        if rows.flags.c_contiguous and type(rows) is np.ndarray:
            self.device.read(at, rows)
        else:                                            # a memory-mapped file
            found = np.empty(rows.shape, rows.dtype)
            self.device.read(at, found)
            rows[...] = found


class StreamedFeed(DeviceFeed):
    """Chunks of a data set that does not fit, one after the other."""

    def __init__(self, held: DeviceHeld, written: Mapping[str, np.ndarray], order: np.ndarray | None) -> None:
        super().__init__(held, written, order)
        self.arrays = {**held.arrays, **written}
        self.n = len(next(iter(held.arrays.values())))
        self._rooms: list[_Room] = []

    def run(self, tape: DeviceTape, steps: int = 1) -> None:
        """Run a tape so many times from the present position on; the next chunk comes while this one is worked on."""
        batch = tape.plan.batch
        while steps:
            position = int(self.counters[POSITION])
            room = self._room_of(position, batch)
            behind = (room.stop - position) // batch     # batches that the chunk has still
            now = min(steps, behind)
            self.device.sent()
            tape.bind({name: room.places[name] for name in tape.arrays if name in room.places})
            self.counters[POSITION] = position - room.start
            try:
                tape.start(now)
                if room.stop < self.n:
                    self._room_of(position + behind * batch, batch, room)
            finally:
                tape.finish()
                self.counters[POSITION] += room.start
            for name in self.written:
                self._read_rows(name, room.places[name][0], position, position + now * batch, position - room.start)
            steps -= now

    def fetch(self) -> None:
        """Nothing: it comes home chunk by chunk."""

    def _room_of(self, position: int, batch: int, busy: _Room | None = None) -> _Room:
        """The room that holds the batch at this position; where none does, a chunk that begins there is sent to one that is not busy."""
        if not self._rooms:                              # chunks are whole batches, as far as there are
            row = sum(array.nbytes // max(1, len(array)) for array in self.arrays.values())
            samples = min(self.n, batch * max(1, self.held.chunk_bytes // (row * batch)))
            self._rooms = [_Room(self, samples) for _ in range(2)]
        for room in self._rooms:
            if room is not busy and room.start <= position and position + batch <= room.stop:
                return room
        room = min((room for room in self._rooms if room is not busy), key=lambda room: room.start)
        room.fill(position)
        return room


class _Room:
    """A place for a chunk of so many samples on the device, and one in pinned memory. start, stop: which samples of the epoch it holds."""

    def __init__(self, feed: StreamedFeed, samples: int) -> None:
        self.device, self.samples = feed.device, samples
        self.n, self.order, self.sources = feed.n, feed.order, feed.held.arrays
        self.start = self.stop = 0
        self.places: dict[str, Location] = {}
        self._blocks: dict[str, Block] = {}
        self._pinned: dict[str, np.ndarray] = {}
        for name, array in feed.arrays.items():
            shape, dtype = (samples, *array.shape[1:]), array.dtype
            nbytes = math.prod(shape) * dtype.itemsize
            self._blocks[name] = Block(self.device, nbytes)
            self.places[name] = self._blocks[name].address, shape
            if name in self.sources:
                self._pinned[name] = self.device.pinned(nbytes).view(dtype).reshape(shape)
        weakref.finalize(self, self.device.sent).atexit = False              # before the memory goes

    def fill(self, start: int) -> None:
        """Send the samples from this one on, in the order of the epoch."""
        self.device.sent()                               # what was in the pinned memory before
        self.start, self.stop = start, min(start + self.samples, self.n)
        for name, pinned in self._pinned.items():
            source, target = np.asarray(self.sources[name]), pinned[:self.stop - start]
            if self.order is None:
                target[...] = source[start:self.stop]
            else:
                np.take(source, self.order[start:self.stop], axis=0, out=target, mode="clip")      # the other modes go through a buffer
            self.device.send(self.places[name][0], target)
