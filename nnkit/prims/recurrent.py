"""How recurrent layers go through time: the sizes of groups and blocks, and the steps of a plan. Kernels: recurrent_cpu.py."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from nnkit.plan.passes import work_tasks
from nnkit.prims.reduce import sum_slices

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["ACTIVATIONS", "Cell", "Pass", "Way"]

# Kernels of activations whose derivative follows from their value, in the order of `gates_cpu.any_of`.
ACTIVATIONS = ("linear", "tanh", "sigmoid", "relu", "hard_sigmoid", "leaky_relu", "elu", "selu", "softplus", "softsign", "exponential")

BLOCK_BYTES = 2 ** 18                                    # of the gates of a block of steps: they stay in the second-level cache
LEAST_STEPS, MOST_STEPS = 8, 64                          # of a block: rows of a product
SLICE, MOST_SLICES = 64, 64                              # fewest groups of a slice of the weights' gradients, and most slices
SLICED = 2 ** 22                                         # numbers of all slices, at most
STRIP = 48                                               # columns of a gate worth a task of the kernels' gradients: three registers of float32
STRIPS = 8                                               # with fewer of them, their rows are shared among tasks, too
PART = 32                                                # fewest rows of such a part


@attrs.frozen
class Cell:
    """A cell. kernel: what its kernels' names begin with; gates: G; kept: P, planes of a step that backward reads; cells: whether there is a c.

    into, of: planes of the last gate's gradient for the recurrent kernel, and of what that multiplies there (-1: h, as elsewhere). after: of a GRU,
    whether its reset gate comes after the product. codes, constants: of the activation and the recurrent activation, by ACTIVATIONS.
    """

    kernel: str
    gates: int
    kept: int
    cells: bool
    codes: tuple[int, int]
    constants: tuple[float, float]
    into: int
    of: int = -1
    after: bool = True


@attrs.frozen
class Way:
    """One way of a cell through its sequences x [N, T, I], of U units.

    backwards: from the last step to the first; aligned: then put outputs where their inputs lie, not in the order of steps. sequences: the output
    of every step, not of the last alone. zero_masked: the output of masked steps is 0, not that of the step before.
    """

    cell: Cell
    x: Buffer
    units: int
    training: bool
    backwards: bool = False
    aligned: bool = False
    sequences: bool = False
    zero_masked: bool = False

    @property
    def flags(self) -> tuple[int, ...]:
        """backwards, aligned, sequences, zero_masked, as kernels take them."""
        return int(self.backwards), int(self.aligned), int(self.sequences), int(self.zero_masked)

    def absent(self) -> Buffer:
        """A matrix of no rows, for arrays that are not there."""
        return attrs.evolve(self.x, shape=(0, self.units))


@attrs.frozen
class Pass(Way):
    """A way on the CPU: groups of rows, and blocks of steps whose inputs are multiplied at a time."""

    @property
    def rows(self) -> int:
        """B: rows of a group; two groups at least where there are more than 8 rows."""
        return 16 if self.x.shape[0] >= 32 else 8

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return -(-self.x.shape[0] // self.rows)

    @property
    def block(self) -> int:
        """S: steps whose inputs are multiplied at a time."""
        step = self.cell.kept * self.rows * self.units * (self.x.nbytes // max(1, self.x.size))
        return min(self.x.shape[1], MOST_STEPS, max(LEAST_STEPS, BLOCK_BYTES // step))

    @property
    def steps(self) -> int:
        """K: steps that are kept; all of them for the way back."""
        return self.x.shape[1] if self.training else self.block

    @property
    def shape(self) -> tuple[int, ...]:
        """What kernels take as `Sequence`: see recurrent_cpu.py for the order."""
        return (self.units, self.rows, self.steps, self.block, *self.flags, int(self.cell.after), *self.cell.codes, self.x.shape[0])

    def flops(self) -> int:
        """Of the way forward."""
        N, T, inputs = self.x.shape
        return 2 * N * T * self.cell.gates * self.units * (inputs + self.units)

    def panels(self, g: Builder, name: str, weight: Buffer, *, transposed: bool = False) -> Buffer:
        """A kernel's panels, gate by gate."""
        panels = g.scratch(f"{name}_panels", weight.size)
        kernel = "pack_gates_transposed" if transposed else "pack_gates"
        g.step(f"prims.matmul.{kernel}", [panels], [weight], scalars=[self.cell.gates],
               tasks=work_tasks(0, 2 * weight.nbytes, most=-(-weight.shape[0] // 16)))
        return panels

    def run(self, g: Builder, writes: Sequence[Buffer | None], weights: Sequence[Buffer], bias: Buffer | None, start: Sequence[Buffer | None],
            mask: Buffer | None, drop: Buffer | None) -> Memory:
        """Emit the way forward. writes: y, h and c at the end; weights: W and R; start: h and c before."""
        N = self.x.shape[0]
        keeps, U, cell = self.steps, self.units, self.cell
        memory = Memory(planes=g.buffer("gates", cell.kept * keeps * N * U), hidden=g.buffer("hidden", (keeps + 1) * N * U),
                        cells=g.buffer("cells", (keeps + 1) * N * U if cell.cells else 0),
                        left=g.buffer("left", keeps * N * U if drop is not None else 0), mask=mask, drop=drop)
        panels = [self.panels(g, name, weight) for name, weight in zip(("kernel", "recurrent"), weights, strict=True)]
        reads = [self.x, *panels, bias.flat() if bias is not None else self.x.piece(0), *(part or self.absent() for part in (*start, mask, drop))]
        work = g.scratch("biases", self.groups, cell.gates * U + self.rows)
        g.step(f"{cell.kernel}_forward", [*(part or self.absent() for part in writes), *memory.buffers], reads, scratch=[work],
               scalars=[*self.shape, *cell.constants], tasks=work_tasks(self.flops(), 0, most=self.groups), flops=self.flops())
        return memory

    def run_back(self, g: Builder, memory: Memory, writes: Sequence[Buffer | None], reads: Sequence[Buffer | None], recurrent: Buffer) -> None:
        """Emit the way back: the gates become their gradients. writes: of h and c before; reads: of y, of h and c at the end."""
        panels = self.panels(g, "recurrent_transposed", recurrent, transposed=True)
        flops = 2 * self.x.shape[0] * self.x.shape[1] * recurrent.size
        work = g.scratch("gradients", self.groups, 6 * self.rows * self.units + self.rows)
        g.step(f"{self.cell.kernel}_backward", [part or self.absent() for part in writes],
               [*memory.buffers[1:], *(part or self.absent() for part in reads), panels,
                *(part or self.absent() for part in (memory.mask, memory.drop))],
               updates=[memory.planes], scratch=[work], scalars=[*self.shape, *self.cell.constants],
               tasks=work_tasks(flops, 0, most=self.groups), flops=flops)

    def weight_gradients(self, g: Builder, memory: Memory, dweight: Buffer, drecurrent: Buffer, dbias: Buffer | None) -> None:
        """Emit the gradients of W, R and the bias, from those of the gates: of slices of many groups, and their sums."""
        cell, columns = self.cell, dweight.shape[1]
        strips = cell.gates * -(-self.units // STRIP)
        parts = max(1, min(-(-STRIPS // strips), (dweight.shape[0] + self.units) // PART))
        slices = max(1, min(MOST_SLICES, self.groups // SLICE, SLICED // (dweight.size + drecurrent.size)))
        tasks = work_tasks(self.flops(), 0, most=strips * parts * slices)
        biases = sum_slices(g, dbias.flat(), slices) if dbias is not None else contextlib.nullcontext(self.x.piece(0))
        with sum_slices(g, dweight, slices) as dw, sum_slices(g, drecurrent, slices) as dr, biases as db:
            matrices = [each.reshaped(each.size // columns, columns) for each in (dw, dr)]
            g.step("prims.recurrent.recurrent_weight", [*matrices, db.flat()], [self.x, memory.planes, memory.hidden, memory.left],
                   scratch=[g.scratch("one", tasks)], scalars=[*self.shape, cell.gates, cell.kept, cell.into, cell.of, parts, slices], tasks=tasks,
                   flops=self.flops())

    def input_gradient(self, g: Builder, memory: Memory, dx: Buffer, weight: Buffer) -> None:
        """Emit dx, from the gradients of the gates."""
        panels = self.panels(g, "kernel_transposed", weight, transposed=True)
        flops = 2 * self.x.shape[0] * self.x.shape[1] * weight.size
        g.step("prims.recurrent.recurrent_input", [dx], [memory.planes, panels], scalars=[*self.shape, self.cell.gates, self.cell.kept],
               tasks=work_tasks(flops, 0, most=self.groups), flops=flops)


@attrs.frozen
class Memory:
    """What the way forward keeps for the way back: see recurrent_cpu.py."""

    planes: Buffer
    hidden: Buffer
    cells: Buffer
    left: Buffer
    mask: Buffer | None
    drop: Buffer | None

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """In the order of the kernels' arguments."""
        return self.planes, self.hidden, self.cells, self.left
