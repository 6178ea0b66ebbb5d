"""Recurrent layers on a GPU as steps: products of all time steps, and between them one walk through time. Kernels: recurrent_cuda.py, those of Dense.

What a block owns and what of the recurrent kernel R it keeps in shared memory follows from shapes alone. Where R does not fit there as a whole, and
the GPU has clusters of blocks whose shares fit, these share it: recurrent_cluster_cuda.py. Forward and backward are looked at each by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from nnkit.plan.launch import CLUSTER, CLUSTERS, DEVICE, MOST_CLUSTER_SHARED, MOST_TASKS, THREADS, WARPS, most_shared
from nnkit.plan.plan import ITEMSIZE
from nnkit.prims.recurrent import Way

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["Walk", "Walked"]

ROWS = 4                                                 # of a thread, and steps of a sum that are packed side by side
AT_ONCE = 4                                              # most of these that are on their way from memory at a time
COLUMNS = 4                                              # of the transpose of R that a thread of a cluster multiplies at a time
PARTS = (4, 8, 16, 32)                                   # lanes that may share a sum: each of four rows has one in the end
LANES = THREADS // WARPS                                 # of a warp: a cluster's share of R comes in whole ones
ADDING = 2                                               # what it costs to add their sums and to go on, in quartets of a sum


def quartets(n: int) -> int:
    """Runs of four."""
    return -(-n // 4)


@attrs.frozen
class Alone:
    """What a block that walks alone keeps in shared memory: for each of its rows so many runs of all units and `more` numbers; of R, which is packed
    as `rows` quartets of rows, `width` columns each, what still fits."""

    runs: int
    more: int
    rows: int
    width: int


@attrs.frozen
class Share:
    """What a block of a cluster keeps and does: sums over k numbers for so many slots, `columns` of each slot at a time, P lanes to a sum.

    more: numbers that it keeps besides R and h, or the gates' gradients in its place; twice: whether these are there twice.
    """

    k: int
    slots: int
    columns: int
    more: int
    twice: bool
    parts: int

    @property
    def quartets(self) -> int:
        """Of a lane's part of a sum."""
        return -(-self.k // (ROWS * self.parts))

    @property
    def room(self) -> int:
        """Numbers in shared memory."""
        cells = self.quartets * (self.columns * LANES * -(-self.slots * self.parts // LANES) + ROWS * self.parts * (1 + self.twice))
        return 4 * cells + self.more

    @property
    def turns(self) -> int:
        """Quartets that a thread multiplies in a step, with what it does besides."""
        return -(-self.slots * self.parts // THREADS) * (self.quartets + ADDING)


@attrs.frozen
class Walk(Way):
    """A way on a GPU: all of its steps in one launch, between products of all steps."""

    @property
    def kernel(self) -> str:
        """What the kernels' names begin with."""
        return self.cell.kernel if self.cell.after else self.cell.kernel.replace(".gru", ".gru_before")

    @property
    def groups(self) -> int:
        """Q: a block owns 4 Q rows. More than one where all multiprocessors are busy and a step has fewer units than a block has threads."""
        columns = -(-self.units // -(-self.units // THREADS))
        return max(1, min(THREADS // columns, self.x.shape[0] // (ROWS * DEVICE)))

    @property
    def blocks(self) -> int:
        """That share no rows."""
        return min(MOST_TASKS, max(1, -(-self.x.shape[0] // (ROWS * self.groups))))

    def clusters(self, share: Share) -> int:
        """That share no rows, and have four at a time: no more than there are at once on a GPU, for each reads all of R before its first step."""
        beside = 2 if 2 * share.room * ITEMSIZE[self.x.dtype] <= MOST_CLUSTER_SHARED else 1        # blocks of a multiprocessor
        return max(1, min(beside * DEVICE // CLUSTER, quartets(self.x.shape[0])))

    def share(self, g: Builder, alone: Alone, backward: bool) -> Share | None:
        """How a cluster's blocks share R; None where a block walks alone: all of R fits there, there are no clusters, or their shares do not fit."""
        U, gates, size = self.units, self.cell.gates, ITEMSIZE[self.x.dtype]
        whole = self.beside(alone) + alone.rows * ROWS * alone.width
        if g.architecture[0] not in CLUSTERS or not self.cell.after or whole * size <= most_shared(g.architecture):
            return None
        own = -(-U // CLUSTER)
        given = 2 * ROWS * own * CLUSTER                 # the blocks' parts of the gradients of h, twice
        forms = [Share(gates * own, quartets(U), COLUMNS, given + ROWS, False, parts) if backward else Share(U, own, gates, 0, True, parts)
                 for parts in PARTS]
        return min((form for form in forms if form.room * size <= MOST_CLUSTER_SHARED), key=lambda form: form.turns, default=None)

    def flops(self) -> int:
        """Of all steps."""
        N, T, _ = self.x.shape
        return 2 * N * T * self.cell.gates * self.units ** 2

    def beside(self, alone: Alone) -> int:
        """Numbers that a block keeps in shared memory besides R."""
        return ROWS * self.groups * (alone.runs * ROWS * quartets(self.units) + alone.more)

    def scalars(self, g: Builder, alone: Alone) -> list[float | int]:
        """What the kernel of a block that walks alone takes as `Sequence`, and the activations' constants. Raises ValueError where not even the units
        fit."""
        size, rows, width, most = ITEMSIZE[self.x.dtype], alone.rows, alone.width, most_shared(g.architecture)
        own = self.beside(alone)
        if own * size > most:
            raise ValueError(f"layer {g.layer!r}: {self.units} units in {self.x.dtype} take {own * size} bytes of shared memory, a block of a GPU "
                             f"has {most}")
        kept = min(rows, (most // size - own) // (ROWS * width))
        kept -= (kept - rows) % AT_ONCE if kept >= AT_ONCE else kept           # so that the others come in whole rounds
        room = own + kept * ROWS * width
        return self.words(self.groups, kept, room)

    def words(self, groups: int, kept: int, room: int) -> list[float | int]:
        """The same in the kernels' order. Of a cluster the first is how many lanes share a sum, and nothing is kept but all of it."""
        return [self.units, groups, kept, self.x.shape[1], *self.flags, room, *self.cell.codes, self.x.shape[0], *self.cell.constants]

    def pack(self, g: Builder, share: Share | None, name: str, recurrent: Buffer, runs: int) -> Buffer:
        """R as the walk reads it: a block alone reads runs of four rows, a cluster R as it is."""
        if share is not None:
            return recurrent.flat()
        packed = g.scratch(f"recurrent_{name}", 4 * runs)
        g.step(f"prims.recurrent.pack_quartets{'' if name == 'packed' else '_turned'}", [packed], [recurrent])
        return packed

    def step(self, g: Builder, way: str, share: Share | None, alone: Alone, *buffers: Sequence[Buffer], state: str) -> None:
        """Emit the walk. buffers: what the kernel writes, reads and updates."""
        writes, reads, updates = buffers
        g.step(f"{self.kernel}_{'walk' if share is None else 'cluster'}_{way}", writes, reads, updates=updates,
               scratch=[g.scratch(state, 2 * self.x.shape[0], self.units)], tasks=self.blocks if share is None else CLUSTER * self.clusters(share),
               flops=self.flops(), scalars=self.scalars(g, alone) if share is None else self.words(share.parts, 0, share.room))

    def steps(self, g: Builder, name: str, width: int, wanted: bool = True) -> Buffer:
        """A matrix with a row for each step of each sample; without rows where it is not wanted."""
        N, T, _ = self.x.shape
        return g.buffer(name, N * T if wanted else 0, width)

    def run(self, g: Builder, writes: Sequence[Buffer | None], weights: Sequence[Buffer], bias: Buffer | None, start: Sequence[Buffer | None],
            mask: Buffer | None, drop: Buffer | None) -> Walked:
        """Emit the way forward. writes: y, h and c at the end; weights: W and R; start: h and c before."""
        cell, U, x = self.cell, self.units, self.x.rows(2)
        width, gru = cell.gates * U, cell.gates == 3
        given, none = (bias.flat().piece(width), self.x.piece(0)) if bias is not None else (self.x.piece(0),) * 2
        planes = self.steps(g, "gates", width)
        g.step("layers.dense.dense_forward", [planes], [x, weights[0], given, none], rows=x.shape[0], flops=2 * x.shape[0] * weights[0].size)
        alone = Alone(2 if cell.after else 3, 0, quartets(U), width)
        share = self.share(g, alone, backward=False)
        packed = self.pack(g, share, "packed", weights[1], quartets(U) * width)
        found = Walked(planes=planes, hidden=self.steps(g, "hidden", U, self.training and gru and drop is not None),
                       cells=self.steps(g, "cells", U, self.training and cell.cells), left=self.steps(g, "left", U, self.training),
                       inner=self.steps(g, "inner", U, self.training and gru), mask=mask, drop=drop)
        second = none if bias is None or bias.size == width else second_half(bias, width)
        self.step(g, "forward", share, alone,
                  [*(part or self.absent() for part in writes), found.hidden, found.cells, found.left, found.inner],
                  [packed, second, *(part or self.absent() for part in (*start, mask, drop))], [planes], state="state")
        return found

    def run_back(self, g: Builder, memory: Walked, writes: Sequence[Buffer | None], reads: Sequence[Buffer | None], recurrent: Buffer) -> None:
        """Emit the way back: the gates become their gradients. writes: of h and c before; reads: of y, of h and c at the end."""
        cell, U = self.cell, self.units
        alone = Alone(cell.gates, 1, cell.gates * quartets(U), U)
        share = self.share(g, alone, backward=True)
        turned = self.pack(g, share, "turned", recurrent, cell.gates * quartets(U) * U)
        self.step(g, "backward", share, alone,
                  [*(part or self.absent() for part in writes), *self.through(memory)],
                  [memory.hidden, memory.cells, memory.left, memory.inner, *(part or self.absent() for part in reads), turned,
                   *(part or self.absent() for part in (memory.mask, memory.drop))], [memory.planes], state="gradients")

    def through(self, memory: Walked) -> tuple[Buffer, Buffer]:
        """Of a GRU the gradients that go into R: of all gates where the reset gate comes after it, else of two and of the last."""
        rows, U = memory.planes.shape[0] if self.cell.gates == 3 else 0, self.units
        through, single = (3 * U, 0) if self.cell.after else (2 * U, rows)
        return (attrs.evolve(memory.planes, name=f"{memory.planes.name}/through", shape=(rows, through)),
                attrs.evolve(memory.planes, name=f"{memory.planes.name}/single", shape=(single, U)))

    def weight_gradients(self, g: Builder, memory: Walked, dweight: Buffer, drecurrent: Buffer, dbias: Buffer | None) -> None:
        """Emit the gradients of W, R and the bias, from those of the gates."""
        cell, U = self.cell, self.units
        width, none, halves = cell.gates * U, self.x.piece(0), []
        if dbias is not None and dbias.size > width:
            halves = [g.scratch("dbias", width), g.scratch("dbias", width)]
        products(g, dweight, halves[0] if halves else dbias.flat() if dbias is not None else none, self.x.rows(2), memory.planes)
        through, single = self.through(memory)
        if cell.gates != 3:
            products(g, drecurrent, none, memory.left, memory.planes)
        elif cell.after:
            products(g, drecurrent, halves[1] if halves else none, memory.left, through)
        else:
            parts = g.scratch("drecurrent", U, 2 * U), g.scratch("drecurrent", U, U)
            products(g, parts[0], none, memory.left, through)
            products(g, parts[1], none, memory.inner, single)
            g.step("layers.merge.concatenate_two", [drecurrent], parts, rows=U)
        if halves and dbias is not None:
            g.step("layers.merge.concatenate_two", [dbias.reshaped(1, dbias.size)], [half.reshaped(1, width) for half in halves], rows=1)

    def input_gradient(self, g: Builder, memory: Walked, dx: Buffer, weight: Buffer) -> None:
        """Emit dx, from the gradients of the gates."""
        rows = memory.planes.shape[0]
        g.step("layers.dense.dense_backward_input_whole", [dx.rows(2)], [memory.planes, weight], rows=rows, flops=2 * rows * weight.size)


def second_half(bias: Buffer, width: int) -> Buffer:
    """The bias of h, behind that of x."""
    assert bias.inside is not None
    vector, start = bias.inside
    return attrs.evolve(bias, name=f"{bias.name}/recurrent", shape=(width,), inside=(vector, start + width))


def products(g: Builder, dweight: Buffer, dbias: Buffer, x: Buffer, dy: Buffer) -> None:
    """Emit dW = x^T dy, db = the sum of dy."""
    g.step("layers.dense.dense_backward_weight", [dweight, dbias], [x, dy, x.piece(0)], flops=2 * x.shape[0] * dweight.size)


@attrs.frozen
class Walked:
    """What the way forward keeps for the way back: see recurrent_step_cuda.py."""

    planes: Buffer
    hidden: Buffer
    cells: Buffer
    left: Buffer
    inner: Buffer
    mask: Buffer | None
    drop: Buffer | None
