"""The CUDA runtime: memory on a device, and plans bound to it as graphs of launches.

A `DeviceTape` is for a device what `cpu.Tape` is for the CPU: it resolves the kernels of a plan, checks every step against the signature that its
kernel declares, and writes the words that the kernels read. They become parameters of the launches, and the launches nodes of a graph that is made
once and replayed. So a training step has no arguments: whatever it changes (counters, learning rate, sums) lies in device memory.

What a device does is little: see `Device`. `driver.py` does it by NVIDIA's driver; the tests have one that executes PTX on the CPU.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs
import numpy as np

from nnkit.plan.build import Layout
from nnkit.plan.launch import coded, lanes_of, shared_bytes
from nnkit.plan.plan import CHIP, Buffer, Plan, Step
from nnkit.runtime.cpu import Memory, check_signature, persistent_offset

__all__ = ["Code", "Device", "DeviceMemory", "DeviceTape", "Graph", "Node", "bits", "code_of"]

UNROLLED = 16                                            # steps of the larger of a tape's two graphs: launching a graph costs as much as two launches


@attrs.frozen
class Code:
    """PTX of a launch, and the signatures of the kernels of its steps."""

    ptx: str
    signatures: tuple[str, ...]


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

    def allocate(self, nbytes: int) -> int:
        """Zeroed memory, which lives as long as the device; it begins at a multiple of 256."""

    def write(self, address: int, array: np.ndarray) -> None:
        """Copy a C-contiguous array to the device, after all that was asked for before."""

    def read(self, address: int, array: np.ndarray) -> None:
        """Fill a C-contiguous array from the device, after all that was asked for before."""

    def load(self, ptx: str) -> Any:
        """The function of a launch."""

    def graph(self, nodes: Sequence[Node], copies: int) -> Graph:
        """A graph of so many copies of the nodes, one after the other."""


class DeviceMemory:
    """The memory of one model on a device: the persistent block of its layout, and one arena that all of its plans use in turn."""

    def __init__(self, device: Device, layout: Layout) -> None:
        self.device = device
        self.layout = layout
        self.block = device.allocate(layout.nbytes)
        self.arena = self.arena_bytes = 0

    def reserve(self, nbytes: int) -> None:
        """Make the arena at least this large. Tapes bound before must be made again."""
        if nbytes > self.arena_bytes:
            self.arena, self.arena_bytes = self.device.allocate(nbytes), nbytes

    def address(self, buffer: Buffer, plan: Plan) -> int:
        """Where the buffer's first element lies; of one on chip, its offset there."""
        storage = plan.storage(buffer.name)
        if buffer.role in CHIP:
            return plan.chip[storage]
        if buffer.inside is None and storage in plan.offsets:
            return self.arena + plan.offsets[storage]
        return self.block + persistent_offset(buffer, self.layout)

    def put(self, memory: Memory) -> None:
        """Copy what persists, of the same layout, to the device."""
        self.device.write(self.block, memory.kept)
        self.device.write(self.block + self.layout.kept_bytes, memory.training)

    def get(self, memory: Memory) -> None:
        """Copy it from the device."""
        self.device.read(self.block, memory.kept)
        self.device.read(self.block + self.layout.kept_bytes, memory.training)


_codes: dict[tuple[tuple[tuple[str, ...], ...], str], Code] = {}


def code_of(lanes: tuple[tuple[str, ...], ...], dtype: str) -> Code:
    """The code of a launch of these kernels, by name; compiled once in a process. Raises ValueError where a kernel has no CUDA form."""
    key = (lanes, dtype)
    if key not in _codes:
        from nnkit import cuda_jit  # imports Numba

        kernels = [[cuda_jit.find(name) for name in lane] for lane in lanes]
        _codes[key] = Code(cuda_jit.compile_launch(kernels, dtype), tuple(kernel.signature for lane in kernels for kernel in lane))
    return _codes[key]


def bits(value: float | int, declared: str, dtype: str) -> int:
    """A scalar as a word: a real by the bits of its type."""
    if declared == "int64":
        return int(value)
    if declared == "T" and dtype == "float32":
        return int(struct.unpack("<i", struct.pack("<f", value))[0])
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


class DeviceTape:
    """A plan of launches (built for the backend "cuda") bound to a device's memory."""

    def __init__(self, plan: Plan, memory: DeviceMemory) -> None:
        self.plan = plan
        self.memory = memory
        self.device = memory.device
        self._externals: dict[str, list[tuple[int, int, int]]] = {}
        memory.reserve(plan.arena_bytes)
        self.nodes = [self._node(index, lanes) for index, lanes in enumerate(lanes_of(plan))]
        self._graphs: dict[int, Graph] = {}

    def _node(self, index: int, lanes: Sequence[Sequence[Step]]) -> Node:
        """The launch of these lanes: first the tasks of each, then the words of all steps."""
        code = code_of(tuple(tuple(coded(step) for step in lane) for lane in lanes), self.plan.dtype)
        words = [lane[0].tasks for lane in lanes]
        steps = [step for lane in lanes for step in lane]
        for step, signature in zip(steps, code.signatures, strict=True):
            check_signature(step, signature, self.plan.dtype)
            for buffer in step.buffers:
                if buffer.role == "external":
                    self._externals.setdefault(buffer.name, []).append((index, len(words), len(buffer.shape)))
                words += [0 if buffer.role == "external" else self.memory.address(buffer, self.plan), *buffer.shape]
            declared = signature.split()
            words += [bits(value, kind, self.plan.dtype)
                      for value, kind in zip(step.scalars, declared[len(declared) - len(step.scalars):], strict=True)]
        blocks = sum(lane[0].tasks for lane in lanes)
        return Node(self.device.load(code.ptx), blocks, shared_bytes(self.plan, lanes), np.array(words, np.int64))

    def bind(self, arrays: Mapping[str, tuple[int, tuple[int, ...]]]) -> None:
        """Give the external arrays their memory: for each name its address on the device and its shape."""
        changed = set()
        for name, (address, shape) in arrays.items():
            for index, position, ndim in self._externals.get(name, ()):
                words = [address, shape[0], int(np.prod(shape[1:]))] if ndim == 2 else [address, shape[0]]
                if self.nodes[index].words[position:position + 1 + ndim].tolist() != words:
                    self.nodes[index].words[position:position + 1 + ndim] = words
                    changed.add(index)
        for graph in self._graphs.values():
            for index in changed:
                graph.update(index)

    def run(self, steps: int = 1) -> None:
        """Run the plan `steps` times, one after the other; need not wait for the last one."""
        for copies in (UNROLLED, 1):
            times, steps = divmod(steps, copies)
            if times:
                if copies not in self._graphs:
                    self._graphs[copies] = self.device.graph(self.nodes, copies)
                self._graphs[copies].run(times)
