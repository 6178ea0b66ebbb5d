"""The CPU runtime: memory of a model, and plans bound to it as tapes of addresses.

`Memory` owns the blocks that persist and the arena. `Tape` resolves a plan's kernels, checks every step against the signature that its kernel
declares, and writes the words that the kernels read: addresses, dimensions, scalars. After that a run is one foreign call, without the
interpreter and without the GIL.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nnkit.plan.layout import Layout
from nnkit.plan.plan import ALIGNMENT, Buffer, Plan, Step
from nnkit.runtime import store
from nnkit.runtime.threads import CELLS, STOP, TICKET, WAIT, ask_helpers, available_threads

__all__ = ["Feed", "Held", "Memory", "Tape", "debugging", "persistent_offset"]

RED_ZONE = 64                                            # bytes behind every buffer in debug mode
RED_BYTE = 0xA5


def debugging() -> bool:
    """Whether NNKIT_DEBUG=1: arena filled with NaN, red zones, checked indices, non-finite values named."""
    return os.environ.get("NNKIT_DEBUG", "0") not in ("", "0")


def aligned_zeros(nbytes: int) -> np.ndarray:
    """Zeroed bytes that begin at an ALIGNMENT boundary."""
    raw = np.zeros(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start:start + nbytes]


class Feed:
    """Arrays of the caller's, and the runs of tapes on them."""

    __slots__ = ("arrays",)

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = arrays

    def run(self, tape: Tape, steps: int = 1) -> None:
        """Run a tape so many times from the present position on."""
        tape.bind(self.arrays)
        tape.run(steps)

    def fetch(self) -> None:
        """Have in the arrays what has been written into them: it is there."""


class Held:
    """A data set for one use, such as one call of `fit`."""

    __slots__ = ("arrays",)

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = arrays

    def feed(self, written: Mapping[str, np.ndarray] | None = None, order: np.ndarray | None = None) -> Feed:
        """These arrays with others that are to be written, and the order in which training reads them."""
        arrays = {**self.arrays, **written} if written else {**self.arrays}
        if order is not None:
            arrays["order"] = order
        return Feed(arrays)


class Memory:
    """The memory of one model: what its layout keeps between steps, and one arena that all of its plans use in turn.

    `view`, `edit`, `read`, `fetch`, `lay_out_anew`, `tape`, `prepare`, `hold` and `host` are what a model asks of the memory of any backend.

    What persists is two blocks: `kept` (parameters, counters), of which views may be held for good, and `training` (gradients, the optimizer's
    states), which a change of what is trained makes anew.

    shared: the memory of another model of the same layout, whose blocks both then use.
    """

    def __init__(self, layout: Layout, shared: Memory | None = None) -> None:
        self.layout = layout
        self.kept: np.ndarray = aligned_zeros(layout.kept_bytes) if shared is None else shared.kept
        self.training: np.ndarray = aligned_zeros(layout.nbytes - layout.kept_bytes) if shared is None else shared.training
        self.arena = aligned_zeros(0)

    def lay_out_anew(self, layout: Layout) -> None:
        """Use another layout with the same kept part; the block `training` is then zeros. Tapes bound before must be made again."""
        self.layout = layout
        self.training = aligned_zeros(layout.nbytes - layout.kept_bytes)

    def reserve(self, nbytes: int) -> None:
        """Make the arena at least this large. Tapes bound before must be bound again: see `Tape.bind`."""
        if nbytes > self.arena.size:
            self.arena = aligned_zeros(nbytes)

    @property
    def host(self) -> Memory:
        """What persists, in the host's memory."""
        return self

    def view(self, buffer: Buffer, plan: Plan | None = None) -> np.ndarray:
        """A live array over a persistent buffer, or over one of the arena as `plan` lays it out."""
        block, start = self._place(buffer, plan)
        return block[start:start + buffer.nbytes].view(buffer.dtype).reshape(buffer.shape)

    def edit(self, buffer: Buffer) -> np.ndarray:
        """A persistent buffer to be written, at once: elsewhere than on the CPU views cannot be."""
        return self.view(buffer)

    def read(self, buffer: Buffer, plan: Plan | None = None) -> np.ndarray:
        """A copy of a buffer, of the arena where `plan` says how that is laid out."""
        return self.view(buffer, plan).copy()

    def fetch(self) -> None:
        """Bring views of parameters up to date that somebody holds: they are live."""

    def tape(self, plan: Plan, threads: int | None) -> Tape:
        """A plan bound to this memory."""
        return Tape(plan, self, threads)

    def prepare(self, plans: Iterable[Plan]) -> None:
        """Have all that plans run compiled or loaded: asked for at once, kernels are compiled several at a time."""
        store.prepare((kernel, self.layout.dtype, debugging()) for plan in plans for kernel in plan.kernels)

    def hold(self, arrays: Mapping[str, np.ndarray], written: Mapping[str, np.ndarray], owner: object = None) -> Held:
        """Arrays that plans read, for one use; arrays like `written` will be written for them. owner: as long as it lives they are the same."""
        return Held(arrays)

    def address(self, buffer: Buffer, plan: Plan | None = None) -> int:
        """Where the buffer's first element lies."""
        block, start = self._place(buffer, plan)
        return block.ctypes.data + start

    def _place(self, buffer: Buffer, plan: Plan | None) -> tuple[np.ndarray, int]:
        """The block that holds the buffer, and the bytes before it in the block."""
        if plan is not None and buffer.inside is None and plan.storage(buffer.name) in plan.offsets:
            return self.arena, plan.offsets[plan.storage(buffer.name)]
        offset, kept = persistent_offset(buffer, self.layout), self.layout.kept_bytes
        return (self.kept, offset) if offset < kept else (self.training, offset - kept)


def persistent_offset(buffer: Buffer, layout: Layout) -> int:
    """Bytes before a persistent buffer's first element in the layout."""
    name, elements = buffer.inside or (buffer.name, 0)
    return layout.offsets[name] + elements * np.dtype(buffer.dtype).itemsize


def words_of(step: Step, addresses: list[int]) -> list[int]:
    """What the kernel of the step reads: for every array its address and dimensions, then the scalars."""
    words: list[int] = []
    for buffer, address in zip(step.buffers, addresses, strict=True):
        words += [address, *buffer.shape]
    for value in step.scalars:
        words.append(value if isinstance(value, int) else struct.unpack("<q", struct.pack("<d", value))[0])
    return words


def check_signature(step: Step, signature: str, dtype: str) -> None:
    """Refuse a step that does not match what its kernel declares: it would read memory at random. Raises TypeError."""
    declared = ["real" if word in ("T", "float64") else word.replace("T", dtype) for word in signature.split()]
    given = [f"{buffer.dtype}{len(buffer.shape)}" for buffer in step.buffers]
    given += ["int64" if isinstance(value, int) else "real" for value in step.scalars]
    if given != declared:
        raise TypeError(f"step {step.kernel} of layer {step.layer!r} passes ({' '.join(given)}), its kernel declares ({signature})")


class Tape:
    """A plan bound to a model's memory."""

    def __init__(self, plan: Plan, memory: Memory, threads: int | None) -> None:
        self.plan = plan
        self.memory = memory
        self.debug = debugging()
        bounds = plan.group_bounds()
        most = max((plan.steps[start].tasks for start, _ in bounds), default=1)
        self.helpers = 0 if self.debug else min(threads or available_threads(), available_threads(), most) - 1
        kernels = store.entries(plan.kernels, plan.dtype, self.debug)
        self._lead = self._runner("lead")
        self._assist = self._runner("assist") if self.helpers else None
        for step in plan.steps:
            check_signature(step, kernels[step.kernel].signature, plan.dtype)
        self.first = np.array([start for start, _ in bounds] + [len(plan.steps)], np.int64)
        self.tasks = np.array([plan.steps[start].tasks for start, _ in bounds], np.int64)
        self.cells = np.zeros(CELLS, np.int64)
        self.kernels = np.array([kernels[step.kernel].address for step in plan.steps], np.int64)
        self._slots = np.zeros(2, np.int64)
        self._arena: np.ndarray | None = None
        self._externals: dict[str, list[tuple[int, int, int]]] = {}         # name -> (word, dimensions to fill in, bytes)
        self._known: set[str] = set()                    # those whose shapes the plan knows: they must be bound
        self._kept: dict[str, np.ndarray] = {}
        memory.reserve(plan.arena_bytes)
        self._write_words()

    @staticmethod
    def _runner(part: str) -> Any:
        """A part of the tape runner, callable."""
        name = f"runtime.tape.{part}"
        return store.RUN(store.entries([name], "any")[name].address)

    def _write_words(self) -> None:
        """The words of all steps in one array, and where the words of each step begin."""
        words: list[int] = []
        starts: list[int] = []
        self._externals.clear()
        self._known = {buffer.name for step in self.plan.steps for buffer in step.buffers if buffer.role == "external" and buffer.size}
        for step in self.plan.steps:
            starts.append(len(words))
            position = len(words)
            addresses = []
            for buffer in step.buffers:
                external = buffer.role == "external"
                addresses.append(0 if external else self.memory.address(buffer, self.plan))
                if external:                             # of an array whose shape the plan knows only the address is missing
                    missing = 0 if buffer.name in self._known else len(buffer.shape)
                    self._externals.setdefault(buffer.name, []).append((position, missing, buffer.nbytes))
                position += 1 + len(buffer.shape)
            words += words_of(step, addresses)
        self.words = np.array(words or [0], np.int64)
        self.starts = self.words.ctypes.data + 8 * np.array(starts, np.int64)
        self._arena = self.memory.arena
        self._arguments = (self._slots.ctypes.data, self._slots.ctypes.data + 8)
        self._tape = (len(self.tasks), self.first.ctypes.data, self.tasks.ctypes.data, self.kernels.ctypes.data, self.starts.ctypes.data,
                      self.cells.ctypes.data)
        for name, array in self._kept.items():
            self._patch(name, array)

    def bind(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Give the external arrays their memory: C-contiguous, of the dtype and trailing shape that the plan names; kept alive until bound anew."""
        if self._arena is not self.memory.arena:
            self._write_words()
        for name, array in arrays.items():
            if name in self._externals and self._kept.get(name) is not array:
                self._kept[name] = array
                self._patch(name, array)
        if not self._known <= self._kept.keys():
            raise TypeError(f"the plan reads the array {min(self._known - self._kept.keys())!r}, but received none")

    def _patch(self, name: str, array: np.ndarray) -> None:
        for position, ndim, nbytes in self._externals[name]:
            if nbytes and array.nbytes != nbytes:
                raise TypeError(f"array {name!r} must have the {nbytes} bytes that the plan gives it, received {array.nbytes}")
            shape = (array.shape[0], array[0].size) if ndim == 2 and array.ndim != 2 and array.shape[0] else array.shape
            self.words[position] = array.__array_interface__["data"][0]      # a third of the time of array.ctypes.data
            self.words[position + 1:position + 1 + ndim] = shape[:ndim]

    def run(self, steps: int = 1) -> None:
        """Run the plan `steps` times, one after the other."""
        if self.debug:
            for _ in range(steps):
                self._run_checked()
            return
        if self.helpers:
            self.cells[TICKET] = self.cells[TICKET] & ~STOP | WAIT
            ask_helpers(self.helpers, self.assist)
        self._lead(*self._arguments, steps, *self._tape)

    def assist(self) -> None:
        """What a helping thread does: take tasks until the run is over. Nothing, where it comes too late."""
        assert self._assist is not None
        self._assist(*self._arguments, 0, *self._tape)

    # Debug mode: step by step, from Python.

    def _run_checked(self) -> None:
        """One run: fill the arena with NaN and red zones, then after every step look at zones, indices and values."""
        self.memory.arena[:self.plan.arena_bytes] = 0xFF                      # all bits set is NaN in every float type
        zones = self._red_zones()
        for zone in zones.values():
            zone[:] = RED_BYTE
        alone, status = self._runner("alone"), np.zeros(1, np.int64)
        for index, step in enumerate(self.plan.steps):
            for task in range(step.tasks):
                alone(*self._arguments, int(self.kernels[index]), int(self.starts[index]), task, step.tasks, status.ctypes.data, 0, 0)
                if status[0] > 0:
                    raise IndexError(f"step {index} ({step.kernel}, layer {step.layer!r}) used an index outside of its array")
            for name, zone in zones.items():
                if not (zone == RED_BYTE).all():
                    raise MemoryError(f"step {index} ({step.kernel}, layer {step.layer!r}) wrote behind buffer {name!r}")
            self._check_finite(index, step)

    def _red_zones(self) -> Mapping[str, np.ndarray]:
        """The RED_ZONE bytes behind every buffer of the arena."""
        sizes: dict[str, int] = {}
        for buffer in self.plan.buffers.values():
            name = self.plan.storage(buffer.name)
            if name in self.plan.offsets:
                sizes[name] = max(sizes.get(name, 0), -(-buffer.nbytes // ALIGNMENT) * ALIGNMENT)
        return {name: self.memory.arena[self.plan.offsets[name] + size:self.plan.offsets[name] + size + RED_ZONE] for name, size in sizes.items()}

    def _check_finite(self, index: int, step: Step) -> None:
        """Name the step and layer where the first non-finite value appears; only steps whose inputs are finite are to blame."""
        for buffer in step.writes + step.updates:
            if buffer.role == "external" or not buffer.dtype.startswith("float"):
                continue
            values = self.memory.view(buffer, self.plan)
            if not np.isfinite(values).all():
                where = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
                raise FloatingPointError(f"{buffer.name}{list(where)} is {values[where]} after step {index} ({step.kernel}, layer {step.layer!r})")
