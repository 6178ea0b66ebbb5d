"""The plan: a frozen list of steps over buffers. Pure Python; nothing here compiles or allocates.

A `Step` calls one kernel. Its arrays stand in the order of the kernel's arguments: `writes` (=), `updates` (+= or in place), `reads`,
`scratch`; then `scalars`. Every buffer of the arena is written whole by the one step that names it in `writes`, before any step reads it.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence

import attrs

__all__ = ["ALIGNMENT", "CHIP", "Buffer", "Plan", "Step"]

ALIGNMENT = 64                                           # bytes; a cache line, and an AVX-512 register
ITEMSIZE = {"float32": 4, "float64": 8, "int32": 4, "int64": 8}
PERSISTENT = frozenset({"parameter", "gradient", "state", "constant"})      # roles that outlive a step
CHIP = frozenset({"chip_rows", "chip_whole"})            # roles of what lies in the shared memory of a device's blocks


@attrs.frozen
class Buffer:
    """A named array. Two buffers of one name are the same memory, seen with different shapes.

    role: input, target (filled from the data set), activation, workspace (arena); parameter, gradient, state, constant (persistent);
    external (the caller's own array, bound by address; a first dimension that is unknown here stands as 0); chip_rows, chip_whole (the shared memory
    of a block on a device, which has the rows of its task there, or all of them: see plan/chip.py).
    inside: (name of the buffer that this one is a piece of, offset in elements), or None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    inside: tuple[str, int] | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without padding."""
        return self.size * ITEMSIZE[self.dtype]

    def reshaped(self, *shape: int) -> Buffer:
        """The same memory with another shape of the same size."""
        if math.prod(shape) != self.size:
            raise ValueError(f"buffer {self.name} of shape {self.shape} cannot be seen with shape {shape}: the sizes differ")
        return attrs.evolve(self, shape=shape)

    def piece(self, size: int) -> Buffer:
        """The first `size` elements, as a vector; 0 stands for an array that is not there."""
        return attrs.evolve(self, shape=(size,))

    def rows(self, axis: int = 1) -> Buffer:
        """The same memory as a matrix: dimensions before `axis` as rows, the others as columns."""
        return self.reshaped(math.prod(self.shape[:axis]), math.prod(self.shape[axis:]))

    @property
    def places(self) -> int:
        """Places of a sample that has several: all dimensions but the first and the last."""
        return math.prod(self.shape[1:-1])

    def flat(self) -> Buffer:
        """The same memory as a vector."""
        return self.reshaped(self.size)


@attrs.frozen
class Step:
    """One call of one kernel.

    rows > 0: row-local. Task t of T reads and writes only its share of the `rows` first-dimension rows of the arrays that have that many
    (others, such as weights, it reads whole), so neighbouring steps may run task by task as one group. grain: fewest rows worth a task.
    rows == 0: the kernel splits its own work into `tasks` tasks.
    places: of a row-local step that goes element by element over matrices of one shape, that of writes[0], into how many equal parts their rows
    may be cut: see `sweeps.cut_rows`.
    gathers: of a row-local step for a device, which of `reads` it reads at any row, not at its task's own alone: its launch writes none of these.
    flops: floating-point operations of the whole step. in_place: writes[0] may be the memory of reads[0].
    relu: the kernel's last scalar says whether numbers below 0 become 0 in what it writes; gate: whether reads[0] is max(z, 0) and what it writes is
    the gradient for z. See `passes.fuse_relu`.
    pool: where the kernel can write the largest of every 2 x 2 places (its last but one scalar says whether): numbers that each task's part of
    scratch[0] then has more; else None. See `passes.fuse_pooling`.
    cells: whether prims/pooled.py has a kernel that takes the step's place where a pooling follows: see `cells.fuse_cells`.
    filters: the weight W [rows, filters] and the bias b, an array that the step reads, where what it writes is linear in W, plus b: see
    `passes.fold_normalization`.
    logits: for a loss, kernel of the activation below -> kernel of the loss that reads its input instead.
    """

    kernel: str
    layer: str
    phase: str
    writes: tuple[Buffer, ...] = ()
    updates: tuple[Buffer, ...] = ()
    reads: tuple[Buffer, ...] = ()
    scratch: tuple[Buffer, ...] = ()
    scalars: tuple[float | int, ...] = ()
    tasks: int = 1
    rows: int = 0
    grain: int = 1
    places: int = 1
    gathers: tuple[int, ...] = ()
    flops: int = 0
    in_place: bool = False
    relu: bool = False
    gate: bool = False
    pool: int | None = None
    cells: bool = False
    filters: tuple[Buffer, Buffer] | None = None
    logits: tuple[tuple[str, str], ...] = ()

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """All arrays, in the order of the kernel's arguments."""
        return self.writes + self.updates + self.reads + self.scratch

    @property
    def nbytes(self) -> int:
        """Bytes that the step moves at least, to and from memory."""
        return sum(buffer.nbytes for buffer in self.writes + self.updates + self.updates + self.reads if buffer.role not in CHIP)

    @property
    def on_chip(self) -> bool:
        """Whether the step reads or writes the shared memory of a block."""
        return any(buffer.role in CHIP for buffer in self.buffers)


@attrs.frozen(repr=False)
class Plan:
    """Steps, in order; what buffers there are; which steps run as a group; where the arena's buffers lie.

    groups: index of the first step of every group. lanes: of every lane, in plans for a device: see plan/launch.py. shared: name -> name of the
    buffer whose memory it takes over (in place). terms: names of the parts of the loss that "sums" holds, in their order. offsets: name -> byte
    offset in the arena. arena_bytes: size of the arena; separate_bytes: what it would be without sharing. chip: name -> byte offset in the shared
    memory of a block; chip_bytes: the end of what lies there.
    """

    mode: str
    batch: int
    dtype: str
    steps: tuple[Step, ...]
    outputs: tuple[Buffer, ...] = ()
    terms: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    lanes: tuple[int, ...] = ()
    shared: Mapping[str, str] = attrs.field(factory=dict)
    offsets: Mapping[str, int] = attrs.field(factory=dict)
    chip: Mapping[str, int] = attrs.field(factory=dict)
    chip_bytes: int = 0
    arena_bytes: int = 0
    separate_bytes: int = 0

    @property
    def buffers(self) -> dict[str, Buffer]:
        """All buffers by name, in the order of first use; of several views the first."""
        found: dict[str, Buffer] = {}
        for step in self.steps:
            for buffer in step.buffers:
                found.setdefault(buffer.name, buffer)
        return found

    @property
    def readers(self) -> Mapping[str, list[Step | None]]:
        """Which steps read each buffer; None stands for whoever takes the outputs."""
        found: dict[str, list[Step | None]] = collections.defaultdict(list)
        for buffer in self.outputs:
            found[buffer.name].append(None)
        for step in self.steps:
            for buffer in step.reads + step.updates:
                found[buffer.name].append(step)
        return found

    def replaced(self, changes: Mapping[int, Sequence[Step]]) -> Plan:
        """The plan with other steps, or none, in the place of those that `changes` names by their identity."""
        return attrs.evolve(self, steps=tuple(new for old in self.steps for new in changes.get(id(old), (old,))))

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels that the plan needs, each once."""
        return tuple(dict.fromkeys(step.kernel for step in self.steps))

    @property
    def external_bytes(self) -> int:
        """Bytes of the caller's arrays that the plan reads where they lie, as far as it knows their shapes: features and matrices of a graph."""
        known = {buffer.name: buffer.nbytes for step in self.steps for buffer in step.buffers if buffer.role == "external" and buffer.size}
        return sum(known.values())

    @property
    def flops(self) -> int:
        """Floating-point operations of one run of the plan."""
        return sum(step.flops for step in self.steps)

    def storage(self, name: str) -> str:
        """The buffer whose memory the buffer `name` uses: itself unless a pass put it in place of another."""
        while name in self.shared:
            name = self.shared[name]
        return name

    def group_bounds(self) -> list[tuple[int, int]]:
        """(first step, step after the last) of every group."""
        return list(zip(self.groups, [*self.groups[1:], len(self.steps)], strict=True))

    def to_dot(self) -> str:
        """The plan as a graph in the DOT language: steps as boxes, buffers as edges with shape and bytes."""
        from nnkit.plan.describe import dot
        return dot(self)

    def __str__(self) -> str:
        from nnkit.plan.describe import table
        return table(self)

    def __repr__(self) -> str:
        return f"<Plan {self.mode} batch={self.batch} steps={len(self.steps)} arena={self.arena_bytes} bytes>"
