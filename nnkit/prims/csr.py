"""Sparse matrices in a plan: how lowering asks for products with them. Kernels: csr_cpu.py.

A matrix [R, C] of E entries in compressed sparse rows: the entries of row r are starts[r] to starts[r + 1] - 1, each with a column and a value. Data
brings it together with its transpose, so that backward needs no scatter: `places` says which entry of the matrix an entry of the transpose is. The
structure never changes; values may be computed (dropout, attention), several of an entry, one for each head.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import attrs
import numpy as np

from nnkit.plan.launch import BLOCK_ROWS, MOST_TASKS, WARPS
from nnkit.plan.passes import work_tasks
from nnkit.plan.plan import Buffer
from nnkit.prims.reduce import sum_rows

if TYPE_CHECKING:
    from nnkit.layers.base import Form
    from nnkit.plan.builder import Builder

__all__ = ["Csr", "GraphBuffer", "aggregate", "attend", "form_name", "is_even", "largest_neighbours"]


CHUNK = 1024                                             # entries of a row that are summed in one go: longer rows are cut, whatever the tasks
WHOLE = 32_768                                           # entries of a matrix, to which on a CPU no row is cut: sums are short, and the steps few
DEVICE_CHUNK = 512                                       # the same on a GPU, where a warp sums them
EXPONENTIAL = 16                                         # FLOPs of an entry's part of a softmax, about


@attrs.frozen
class Csr:
    """A sparse matrix of `shape` (R, C). values: (E,), or (E, H) of H heads. turned: starts, columns and places of the transpose; turned_values: its
    values where data brings them, None where they have to be fetched. even: whether entries are known to lie evenly (`is_even`), here and there."""

    shape: tuple[int, int]
    starts: Buffer
    columns: Buffer
    values: Buffer
    turned: tuple[Buffer, Buffer, Buffer]
    turned_values: Buffer | None
    even: tuple[bool, bool] = (False, False)

    @classmethod
    def external(cls, name: str, shape: tuple[int, int], entries: int, dtype: str, even: Collection[str] = ()) -> Csr:
        """A matrix that data brings: `nnkit.graph.CsrArrays.arrays` gives the arrays of these names. even: see `Sizes`."""
        def array(part: str, size: int, kind: str) -> Buffer:
            return Buffer(f"{name}/{part}", (size,), kind, "external")
        rows, columns = shape
        turned = array("transposed/starts", columns + 1, "int64"), array("transposed/columns", entries, "int32"), array("transposed/places", entries,
                                                                                                                       "int32")
        return cls(shape, array("starts", rows + 1, "int64"), array("columns", entries, "int32"), array("values", entries, dtype), turned,
                   array("transposed/values", entries, dtype), (name in even, f"{name}/transposed" in even))

    @property
    def entries(self) -> int:
        """E."""
        return self.columns.size

    @property
    def heads(self) -> int:
        """H."""
        return self.values.size // max(1, self.entries) if len(self.values.shape) > 1 else 1

    @property
    def suffix(self) -> str:
        """Of the kernels that take values of heads."""
        return "_heads" if len(self.values.shape) > 1 else ""

    def with_values(self, values: Buffer) -> Csr:
        """The same structure with other values, which a step computes."""
        return attrs.evolve(self, values=values, turned_values=None)

    def transposed(self, g: Builder) -> Csr:
        """The transpose; values that are computed are brought into its order by a step."""
        starts, columns, places = self.turned
        values = self.turned_values
        if values is None:
            values = g.scratch("transposed_values", *self.values.shape)
            g.step("prims.attention.csr_places", [values.rows()], [self.values.rows(), places], tasks=self.tasks(self.heads))
        return Csr(self.shape[::-1], starts, columns, values, (self.starts, self.columns, places), None, self.even[::-1])

    def tasks(self, width: int) -> int:
        """How many tasks a step is worth that goes through all entries with `width` numbers of each."""
        moved = self.entries * (8 + 4 * width) + 4 * self.shape[0] * width
        return work_tasks(2 * self.entries * width, moved, most=max(1, self.entries + self.shape[0]))

    def multiply(self, g: Builder, y: Buffer, x: Buffer, bias: Buffer | None = None) -> None:
        """Emit y = A x (+ bias): y [R, F], x [C, F]; of several heads each has its own share of F."""
        width, device = y.shape[1], g.backend == "cuda"
        flops, tasks, none = 2 * self.entries * width, self.tasks(width), y.piece(0)
        reads = [self.starts, self.columns, self.values, x, bias or none]
        if device and self.even[0]:
            g.step(f"prims.csr_rows.product{self.suffix}", [y], reads, rows=self.shape[0], gathers=[2, 3], flops=flops)
            return
        chunk = DEVICE_CHUNK if device else (CHUNK if self.entries > WHOLE else WHOLE)
        parted = self.entries > chunk                    # a row may be so long that several tasks share it
        carry = g.scratch("carry", 2 * (self.entries // chunk) + 2 if parted else 0, width)
        if parted and not device:
            g.step("prims.pointwise.zero", [carry.flat()])
        g.step(f"prims.csr.csr_product{self.suffix}", [y, carry] if device else [y], reads, updates=[] if device else [carry], scalars=[chunk],
               tasks=tasks, flops=flops)
        if parted:                                       # on a device row-local, so that what follows may go on behind it
            g.step("prims.csr.csr_join", [], [carry, self.starts, bias or none], updates=[y], scalars=[chunk], tasks=tasks,
                   rows=self.shape[0] if device else 0, gathers=[0] if device else [])

    def entry_gradient(self, g: Builder, dy: Buffer, x: Buffer) -> Buffer:
        """Emit d[e] = dy[row] . x[column], the gradient by the values; of several heads each has its own share."""
        d = g.buffer("dvalues", *self.values.shape)
        g.step(f"prims.csr.csr_entries{self.suffix}", [d], [self.starts, self.columns, dy, x], tasks=self.tasks(dy.shape[1]),
               flops=2 * self.entries * dy.shape[1])
        return d


@attrs.frozen
class GraphBuffer:
    """A graph in a plan: its adjacency in the forms that layers ask for.

    name: of the input. nodes: V. entries: E of each form, by its name. dtype: of the values. even: see `Sizes`.
    """

    name: str
    nodes: int
    entries: Mapping[str, int]
    dtype: str
    even: Collection[str] = ()

    def csr(self, form: Form | None) -> Csr:
        """The adjacency in that form."""
        assert form is not None
        name = form_name(self.name, form)
        return Csr.external(name, (self.nodes, self.nodes), self.entries[name], self.dtype, self.even)

    def segments(self, graphs: int) -> Buffer:
        """Where the nodes of each graph begin, and the end of the last."""
        return Buffer(f"{self.name}/segments", (graphs + 1,), "int64", "external")


def is_even(starts: np.ndarray) -> bool:
    """Whether blocks of a device may take equal numbers of the rows that begin at `starts`: no BLOCK_ROWS neighbours hold so many entries that their
    block would take longer than a warp takes for DEVICE_CHUNK of them, and there are blocks for so few rows each."""
    R = len(starts) - 1
    window = min(BLOCK_ROWS, R)
    return R <= BLOCK_ROWS * MOST_TASKS and bool((starts[window:] - starts[:R + 1 - window] <= WARPS * DEVICE_CHUNK).all())


def form_name(name: str, form: Form) -> str:
    """The name of an adjacency's form among the external arrays."""
    normalization, self_loops = form
    return f"{name}/{normalization or 'plain'}{'_loops' if self_loops else ''}"


def aggregate(g: Builder, a: Csr, x: Buffer, bias: str | None = None) -> Buffer:
    """y = A x (+ the parameter `bias`), with its backward steps: dx = A^T dy, the gradient by A's values, and db."""
    y = g.buffer("aggregated", a.shape[0], x.shape[1])
    b = g.parameter(bias) if bias is not None else None
    a.multiply(g, y, x, b)

    def backward(dy: Buffer) -> tuple[Buffer, Buffer]:
        if bias is not None:
            sum_rows(g, g.gradient(bias), dy)
        dx = g.buffer("dx", *x.shape)
        a.transposed(g).multiply(g, dx, dy)
        return dx, a.entry_gradient(g, dy, x)
    g.on_backward(y, [x, a.values], backward)
    return y


def attend(g: Builder, a: Csr, s: Buffer, t: Buffer, slope: float) -> Buffer:
    """alpha [E, H]: for each head the softmax over the entries of a row i of LeakyReLU(s_i + t_j); with its backward steps."""
    heads = s.shape[1]
    alpha = g.buffer("alpha", a.entries, heads)
    tasks, flops = a.tasks(EXPONENTIAL * heads), EXPONENTIAL * alpha.size
    g.step("prims.attention.edge_softmax_forward", [alpha], [a.starts, a.columns, s, t], scalars=[slope], tasks=tasks, flops=flops)

    def backward(dalpha: Buffer) -> tuple[Buffer, Buffer]:
        dscores, ds, dt = g.buffer("dscores", *alpha.shape), g.buffer("ds", *s.shape), g.buffer("dt", *t.shape)
        g.step("prims.attention.edge_softmax_backward", [dscores, ds], [a.starts, a.columns, alpha, dalpha, s, t], scalars=[slope], tasks=tasks,
               flops=flops)
        turned = a.with_values(dscores).transposed(g)
        g.step("prims.attention.csr_row_sums", [dt], [turned.starts, turned.values], tasks=a.tasks(heads))
        return ds, dt
    g.on_backward(alpha, [s, t], backward)
    return alpha


def largest_neighbours(g: Builder, a: Csr, x: Buffer) -> Buffer:
    """y_i = feature by feature the largest x_j of the entries of row i, 0 for an empty row; with its backward step."""
    y = g.buffer("largest", a.shape[0], x.shape[1])
    best = g.buffer("best", *y.shape, dtype="int32")
    tasks = a.tasks(x.shape[1])
    g.step("prims.segment.csr_max_forward", [y, best], [a.starts, a.columns, x], tasks=tasks)

    def backward(dy: Buffer) -> Buffer:
        dx = g.buffer("dx", *x.shape)
        g.step("prims.segment.csr_max_backward", [dx], [*a.turned, best, dy], tasks=tasks)
        return dx
    g.on_backward(y, [x], backward)
    return y
