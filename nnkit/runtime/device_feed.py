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

from nnkit.plan.layout import COUNTERS
from nnkit.runtime.cuda import Block, Device, DeviceTape, Location
from nnkit.runtime.device_array import DeviceArray

if TYPE_CHECKING:
    from nnkit.runtime.device_memory import DeviceMemory

__all__ = ["DeviceFeed", "DeviceHeld"]

POSITION = COUNTERS["position"]
SHARE = 0.8                                              # of the free memory that a data set may take: plans that come later need some, too
CHUNK_BYTES = 1 << 26                                    # of a chunk: gathered in some 20 ms


class DeviceHeld:
    """Arrays that plans read, for one use, with the memory that this use takes; one feed of it at a time.

    written: arrays like those that will be written for them.
    """

    def __init__(self, memory: DeviceMemory, arrays: Mapping[str, Any], written: Mapping[str, np.ndarray]) -> None:
        self.memory, self.device = memory, memory.device
        self.arrays = arrays
        self._blocks: dict[str, Block] = {}
        self.rooms: list[_Room] = []                     # for chunks
        own = sum(array.nbytes for array in (*arrays.values(), *written.values()) if not isinstance(array, DeviceArray))
        free = self.device.free()
        self.streams = own > SHARE * free and len({len(array) for array in arrays.values()}) == 1
        self.chunk_bytes = int(min(CHUNK_BYTES, SHARE * free / 4))

    def place(self, name: str) -> Location:
        """Where an array that plans read lies; uploaded when it is first asked for."""
        array = self.arrays[name]
        if isinstance(array, DeviceArray):
            return array.address, array.shape
        if name not in self._blocks:
            self._blocks[name] = Block.of(self.device, np.ascontiguousarray(array))
        return self._blocks[name].address, array.shape

    def space(self, name: str, nbytes: int) -> Block:
        """Memory for another array."""
        if name not in self._blocks or self._blocks[name].nbytes != nbytes:
            self._blocks[name] = Block(self.device, nbytes)
        return self._blocks[name]

    def feed(self, written: Mapping[str, np.ndarray] | None = None, order: np.ndarray | None = None) -> DeviceFeed:
        """These arrays with others that are to be written, and the order in which training reads them."""
        return (StreamedFeed if self.streams else DeviceFeed)(self, written or {}, order)


class DeviceFeed:
    """Arrays that stay on the device, and the runs of tapes on them."""

    def __init__(self, held: DeviceHeld, written: Mapping[str, np.ndarray], order: np.ndarray | None) -> None:
        self.held, self.memory, self.device = held, held.memory, held.device
        self.written, self.order = written, order
        self.counters = self.memory.view(self.memory.layout.buffers["counters"])
        self._places: dict[str, Location] = {}           # of what is written, and of the order
        self._unread: tuple[int, int] | None = None      # rows that have been written and not fetched

    def run(self, tape: DeviceTape, steps: int = 1) -> None:
        """Run a tape so many times from the present position on."""
        tape.bind({name: place for name in tape.arrays if (place := self._place(name)) is not None})
        begin = int(self.counters[POSITION])
        try:
            tape.run(steps)
        finally:
            first, stop = self._unread or (begin, begin)
            self._unread = min(begin, first), max(int(self.counters[POSITION]), stop)

    def fetch(self) -> None:
        """Bring home what has been written since the last time."""
        if self._unread is not None:
            first, stop = self._unread
            self._unread = None
            for name in self.written.keys() & self._places.keys():
                self._read_rows(name, self._places[name][0], first, stop, first)

    def _place(self, name: str) -> Location | None:
        """Where an array lies; None for one that is not there."""
        if name in self.held.arrays:
            return self.held.place(name)
        array = self.order if name == "order" else self.written.get(name)
        if array is not None and name not in self._places:
            address = self.held.space(name, array.nbytes).address
            if name == "order":
                self.device.write(address, array)
            self._places[name] = address, array.shape
        return self._places.get(name)

    def _read_rows(self, name: str, address: int, first: int, stop: int, row: int) -> None:
        """Fetch the rows [first, stop) of an array that is written, from row `row` of what lies at the address."""
        array = self.written[name]
        rows = array[first:stop]
        at = address + row * (array.nbytes // max(1, len(array)))
        if type(rows) is np.ndarray:
            self.device.read(at, rows)
        else:                                            # a memory-mapped file
            found = np.empty(rows.shape, rows.dtype)
            self.device.read(at, found)
            rows[...] = found


class StreamedFeed(DeviceFeed):
    """Chunks of a data set that does not fit, one after the other."""

    def __init__(self, held: DeviceHeld, written: Mapping[str, np.ndarray], order: np.ndarray | None) -> None:
        super().__init__(held, written, order)
        self.n = len(next(iter(held.arrays.values())))
        for room in held.rooms:                          # another epoch has another order
            room.start = room.stop = 0

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
                if room.stop < self.n:                   # what comes next is gathered while the device works
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
        rooms = self._rooms(batch)
        for room in rooms:
            if room is not busy and room.start <= position and position + batch <= room.stop:
                return room
        room = min((room for room in rooms if room is not busy), key=lambda room: room.start)
        room.fill(position, self.n, self.order)
        return room

    def _rooms(self, batch: int) -> list[_Room]:
        """Two rooms of as many whole batches as fit, or of all samples; the same in every epoch."""
        if not self.held.rooms:
            arrays = {**self.held.arrays, **self.written}
            row = sum(array.nbytes // max(1, len(array)) for array in arrays.values())
            samples = min(self.n, batch * max(1, self.held.chunk_bytes // (row * batch)))
            self.held.rooms = [_Room(self.device, self.held.arrays, arrays, samples) for _ in range(2)]
        return self.held.rooms


class _Room:
    """A place for a chunk of so many samples on the device, and one in pinned memory. start, stop: which samples of the epoch it holds."""

    def __init__(self, device: Device, sources: Mapping[str, Any], arrays: Mapping[str, Any], samples: int) -> None:
        self.device, self.sources, self.samples = device, sources, samples
        self.start = self.stop = 0
        self.places: dict[str, Location] = {}
        self._blocks: dict[str, Block] = {}
        self._pinned: dict[str, np.ndarray] = {}
        for name, array in arrays.items():
            shape, dtype = (samples, *array.shape[1:]), array.dtype
            nbytes = math.prod(shape) * dtype.itemsize
            self._blocks[name] = Block(device, nbytes)
            self.places[name] = self._blocks[name].address, shape
            if name in sources:
                self._pinned[name] = device.pinned(nbytes).view(dtype).reshape(shape)
        device.wait_for(None)                            # until it is zeroed: chunks come beside whatever does that
        weakref.finalize(self, device.sent).atexit = False       # before the memory goes

    def fill(self, start: int, n: int, order: np.ndarray | None) -> None:
        """Send the samples from this one on, of n, in the order of the epoch."""
        self.device.sent()                               # what was in the pinned memory before
        self.start, self.stop = start, min(start + self.samples, n)
        for name, pinned in self._pinned.items():
            source, target = np.asarray(self.sources[name]), pinned[:self.stop - start]
            if order is None:
                target[...] = source[start:self.stop]
            else:
                np.take(source, order[start:self.stop], axis=0, out=target, mode="clip")      # the other modes go through a buffer
            self.device.send(self.places[name][0], target)
