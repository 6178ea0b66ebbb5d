"""The CUDA runtime: what a device does, and plans bound to its memory as graphs of launches.

A `DeviceTape` is for a device what `cpu.Tape` is for the CPU: it resolves the kernels of a plan, checks every step against the signature that its
kernel declares, and writes the words that the kernels read. They become parameters of the launches, and the launches nodes of a graph that is made
once and replayed. So a training step has no arguments: whatever it changes (counters, learning rate, sums) lies in device memory.

What a device does is little: see `Device`. `driver.py` does it by NVIDIA's driver; the tests have one that executes PTX on the CPU.
"""

from __future__ import annotations

import math
import struct
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import numpy as np

from nnkit.plan.launch import LIBRARY, coded, lanes_of, shared_bytes
from nnkit.plan.plan import PERSISTENT, Plan, Step
from nnkit.runtime import ptx_store
from nnkit.runtime.blas import Call, call_of
from nnkit.runtime.cpu import check_signature
from nnkit.runtime.ptx_store import Code, Lanes

if TYPE_CHECKING:
    from nnkit.runtime.device_memory import DeviceMemory

__all__ = ["Block", "Code", "Device", "DeviceTape", "Graph", "Location", "Node", "bits"]

UNROLLED = 16                                            # steps of the larger of a tape's two graphs: launching a graph costs as much as two launches

Location = tuple[int, tuple[int, ...]]                   # of an array on a device: address and shape
NOWHERE: Location = (0, (0,))                            # an array that is not there: no rows


@attrs.frozen
class Node:
    """One launch: a loaded function, its blocks, its bytes of shared memory, its words."""

    function: Any
    blocks: int
    shared: int
    words: np.ndarray


class Graph(Protocol):
    """Nodes that run one after the other."""

    def run(self, times: int) -> None:
        """Run all nodes so many times; need not wait for them."""

    def update(self, index: int) -> None:
        """The words of a node have changed."""


class Device(Protocol):
    """What the runtime asks of a device. Addresses are whole numbers."""

    architecture: tuple[int, int]                        # its compute capability

    def allocate(self, nbytes: int) -> int:
        """Zeroed memory, until `release`; it begins at a multiple of 256. Raises MemoryError."""

    def release(self, address: int) -> None:
        """Give memory back that `allocate` gave."""

    def free(self) -> int:
        """Bytes that are free."""

    def write(self, address: int, array: np.ndarray) -> None:
        """Copy a C-contiguous array to the device, after all that was asked for before."""

    def read(self, address: int, array: np.ndarray) -> None:
        """Fill a C-contiguous array from the device, after all that was asked for before."""

    def pinned(self, nbytes: int) -> np.ndarray:
        """Bytes of the host's memory that `send` reads without a copy in between."""

    def send(self, address: int, array: np.ndarray) -> None:
        """Copy a C-contiguous array of pinned memory to the device while other work goes on; the array must stay as it is until `sent`."""

    def sent(self) -> None:
        """Wait until all that `send` was given is there."""

    def wait_for(self, stream: int | None) -> None:
        """Wait for what another library has asked of a stream, by its handle; None: of all streams."""

    def holds(self, address: int) -> bool:
        """Whether memory of another library's lies on this device."""

    def check_library(self) -> None:
        """Raise RuntimeError where cuBLASLt cannot be called."""

    def load(self, ptx: str) -> Any:
        """The function of a launch."""

    def graph(self, nodes: Sequence[Node | Call], copies: int) -> Graph:
        """A graph of so many copies of the nodes, one after the other."""


class Block:
    """Memory of a device that is given back when nobody has it any more."""

    def __init__(self, device: Device, nbytes: int) -> None:
        self.address, self.nbytes = device.allocate(nbytes), nbytes
        weakref.finalize(self, device.release, self.address).atexit = False

    @classmethod
    def of(cls, device: Device, array: np.ndarray) -> Block:
        """A copy of a C-contiguous array."""
        block = cls(device, array.nbytes)
        device.write(block.address, array)
        return block


def bits(value: float | int, declared: str, dtype: str) -> int:
    """A scalar as a word: a real by the bits of its type."""
    if declared == "int64":
        return int(value)
    if declared == "T" and dtype == "float32":
        return int(struct.unpack("<i", struct.pack("<f", value))[0])
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def names_of(lanes: Sequence[Sequence[Step]]) -> Lanes:
    """The kernels of a launch."""
    return tuple(tuple(coded(step) for step in lane) for lane in lanes)


class DeviceTape:
    """A plan of launches (built for the backend "cuda") bound to a device's memory."""

    def __init__(self, plan: Plan, memory: DeviceMemory) -> None:
        self.plan = plan
        self.memory = memory
        self.device = memory.device
        self.debug = False                               # there is no such mode on a device
        lasting = {buffer.inside[0] if buffer.inside else buffer.name
                   for step in plan.steps for buffer in step.writes + step.updates if buffer.role in PERSISTENT}
        self.changes = lasting                           # the persistent vectors that a run changes
        launches = lanes_of(plan)
        compiled = [lanes for lanes in launches if not lanes[0][0].kernel.startswith(LIBRARY)]
        codes = ptx_store.codes(map(names_of, compiled), plan.dtype, self.device.architecture)
        self._codes = [(lanes, codes.get(names_of(lanes))) for lanes in launches]
        self._places: dict[str, Location] = {}
        memory.reserve(plan.arena_bytes)
        self._write_words()

    def _write_words(self) -> None:
        """The nodes, for the memory as it lies now; graphs that were made of others are gone."""
        self._arrays: dict[str, list[tuple[int, int, int, int]]] = {}       # name -> (node, first word, dimensions to fill in, bytes)
        self.nodes = [self._node(index, lanes, code) for index, (lanes, code) in enumerate(self._codes)]
        self._graphs: dict[int, Graph] = {}
        self._bound_to = self.memory.places()
        for name in self._arrays:
            self._patch(name, self._places.get(name, NOWHERE))

    def _node(self, index: int, lanes: Sequence[Sequence[Step]], code: Code | None) -> Node | Call:
        """The launch of these lanes: first the tasks of each, then the words of all steps. Without code the call of a library."""
        if code is None:
            return call_of(lanes[0][0], [self.memory.address(buffer, self.plan) for buffer in lanes[0][0].buffers])
        words = [lane[0].tasks for lane in lanes]
        steps = [step for lane in lanes for step in lane]
        for step, signature in zip(steps, code.signatures, strict=True):
            check_signature(step, signature, self.plan.dtype)
            for buffer in step.buffers:
                external = buffer.role == "external"
                if external:                             # of an array whose shape the plan knows only the address is missing
                    missing = 0 if buffer.size else len(buffer.shape)
                    self._arrays.setdefault(buffer.name, []).append((index, len(words), missing, buffer.nbytes))
                words += [0 if external else self.memory.address(buffer, self.plan), *buffer.shape]
            declared = signature.split()
            words += [bits(value, kind, self.plan.dtype)
                      for value, kind in zip(step.scalars, declared[len(declared) - len(step.scalars):], strict=True)]
        blocks = sum(lane[0].tasks for lane in lanes)
        return Node(self.device.load(code.ptx), blocks, shared_bytes(self.plan, lanes), np.array(words, np.int64))

    @property
    def arrays(self) -> tuple[str, ...]:
        """The names of the external arrays that the plan reads or writes."""
        return tuple(self._arrays)

    def bind(self, arrays: Mapping[str, Location]) -> None:
        """Give the external arrays their memory: for each name its address on the device and its shape. Those without are taken away."""
        changed: set[int] = set()
        for name in self._arrays:
            location = arrays.get(name, NOWHERE)
            if self._places.get(name, NOWHERE) != location:
                self._places[name] = location
                changed |= self._patch(name, location)
        for graph in self._graphs.values():
            for index in changed:
                graph.update(index)

    def _patch(self, name: str, location: Location) -> set[int]:
        """Write where an array lies into the words; returns of which nodes."""
        address, shape = location
        for index, position, ndim, nbytes in self._arrays[name]:
            if nbytes and not address:
                continue                                 # `run` refuses it
            node = self.nodes[index]
            assert isinstance(node, Node)                # calls have no external arrays
            words = node.words
            words[position] = address
            if ndim:
                words[position + 1] = shape[0]
            if ndim == 2 and shape[0]:
                words[position + 2] = math.prod(shape[1:])
        return {index for index, *_ in self._arrays[name]}

    def run(self, steps: int = 1) -> None:
        """Run the plan `steps` times, one after the other, and wait for the last one."""
        try:
            self.start(steps)
        finally:
            self.finish()

    def start(self, steps: int = 1) -> None:
        """Ask for so many runs, without waiting for them."""
        for name, uses in self._arrays.items():
            if not self._places.get(name, NOWHERE)[0] and any(nbytes for *_, nbytes in uses):
                raise TypeError(f"the plan reads the array {name!r}, but received none")
        self.memory.before(self.changes)
        if self._bound_to != self.memory.places():
            self._write_words()
        for copies in (UNROLLED, 1):
            times, steps = divmod(steps, copies)
            if times:
                if copies not in self._graphs:
                    self._graphs[copies] = self.device.graph(self.nodes, copies)
                self._graphs[copies].run(times)

    def finish(self) -> None:
        """Wait for the runs; the host then has what they counted."""
        self.memory.after()
