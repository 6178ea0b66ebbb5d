"""Recurrent layers on a GPU as steps: products of all time steps, and between them one walk through time. Kernels: recurrent_cuda.py, those of Dense.

What a block owns and what of the recurrent kernel it keeps in shared memory follows from shapes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from nnkit.plan.launch import DEVICE, MOST_SHARED, MOST_TASKS, THREADS
from nnkit.plan.plan import ITEMSIZE
from nnkit.prims.recurrent import Way

if TYPE_CHECKING:
    from nnkit.plan.build import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["Walk", "Walked"]

ROWS = 4                                                 # of a thread, and steps of a sum that are packed side by side
AT_ONCE = 4                                              # most of these that are on their way from memory at a time


def quartets(n: int) -> int:
    """Runs of four."""
    return -(-n // 4)


@attrs.frozen
class Walk(Way):
    """A way on a GPU: all of its steps in one launch, between products of all steps."""

    @property
    def kernel(self) -> str:
        """What the kernels' names begin with."""
        before = self.cell.kernel if self.cell.after else self.cell.kernel.replace(".gru", ".gru_before")
        return f"{before}_walk"

    @property
    def groups(self) -> int:
        """Q: a block owns 4 Q rows. More than one where all multiprocessors are busy and a step has fewer units than a block has threads."""
        columns = -(-self.units // -(-self.units // THREADS))
        return max(1, min(THREADS // columns, self.x.shape[0] // (ROWS * DEVICE)))

    @property
    def blocks(self) -> int:
        """That share no rows."""
        return min(MOST_TASKS, max(1, -(-self.x.shape[0] // (ROWS * self.groups))))

    def flops(self) -> int:
        """Of all steps."""
        N, T, _ = self.x.shape
        return 2 * N * T * self.cell.gates * self.units ** 2

    def scalars(self, g: Builder, runs: int, more: int, rows: int, width: int) -> list[float | int]:
        """What the kernel takes as `Sequence`, and the activations' constants.

        runs: of units that lie in shared memory for each row; more: numbers beside them. Behind them come as many as fit of the `rows` quartets of
        rows, `width` columns each, in which the kernel of the products is packed. Raises ValueError where not even the units fit.
        """
        size = ITEMSIZE[self.x.dtype]
        own = ROWS * self.groups * runs * ROWS * quartets(self.units) + more
        if own * size > MOST_SHARED:
            raise ValueError(f"layer {g.layer!r}: {self.units} units in {self.x.dtype} take {own * size} bytes of shared memory, a block of a GPU "
                             f"has {MOST_SHARED}")
        kept = min(rows, (MOST_SHARED // size - own) // (ROWS * width))
        kept -= (kept - rows) % AT_ONCE if kept >= AT_ONCE else kept           # so that the others come in whole rounds
        room = own + kept * ROWS * width
        return [self.units, self.groups, kept, self.x.shape[1], *self.flags, room, *self.cell.codes, self.x.shape[0], *self.cell.constants]

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
        packed = g.scratch("recurrent_packed", 4 * quartets(U) * width)
        g.step("prims.recurrent.pack_quartets", [packed], [weights[1]])
        found = Walked(planes=planes, hidden=self.steps(g, "hidden", U, self.training and gru and drop is not None),
                       cells=self.steps(g, "cells", U, self.training and cell.cells), left=self.steps(g, "left", U, self.training),
                       inner=self.steps(g, "inner", U, self.training and gru), mask=mask, drop=drop)
        second = none if bias is None or bias.size == width else second_half(bias, width)
        g.step(f"{self.kernel}_forward", [*(part or self.absent() for part in writes), found.hidden, found.cells, found.left, found.inner],
               [packed, second, *(part or self.absent() for part in (*start, mask, drop))], updates=[planes],
               scratch=[g.scratch("state", 2 * self.x.shape[0], U)], tasks=self.blocks, flops=self.flops(),
               scalars=self.scalars(g, 2 if cell.after else 3, 0, quartets(U), width))
        return found

    def run_back(self, g: Builder, memory: Walked, writes: Sequence[Buffer | None], reads: Sequence[Buffer | None], recurrent: Buffer) -> None:
        """Emit the way back: the gates become their gradients. writes: of h and c before; reads: of y, of h and c at the end."""
        cell, U = self.cell, self.units
        turned = g.scratch("recurrent_turned", 4 * cell.gates * quartets(U) * U)
        g.step("prims.recurrent.pack_quartets_turned", [turned], [recurrent])
        g.step(f"{self.kernel}_backward", [*(part or self.absent() for part in writes), *self.through(memory)],
               [memory.hidden, memory.cells, memory.left, memory.inner, *(part or self.absent() for part in reads), turned,
                *(part or self.absent() for part in (memory.mask, memory.drop))],
               updates=[memory.planes], scratch=[g.scratch("gradients", 2 * self.x.shape[0], U)], tasks=self.blocks, flops=self.flops(),
               scalars=self.scalars(g, cell.gates, ROWS * self.groups, cell.gates * quartets(U), U))

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
    """What the way forward keeps for the way back: see recurrent_cuda.py."""

    planes: Buffer
    hidden: Buffer
    cells: Buffer
    left: Buffer
    inner: Buffer
    mask: Buffer | None
    drop: Buffer | None
