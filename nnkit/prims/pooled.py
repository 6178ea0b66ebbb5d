"""Convolutions of few channels whose outputs go into a pooling, as steps: y is never kept, nor its gradient. Kernels: pooled_cpu.py.

A cell is a window of the pooling, 2 x 2 or 2 x 2 x 2 places of y side by side. Forward writes its largest number and, for training, which of its
places that was, its winner; dW comes from the pooled gradient and the winners, an eighth or a quarter of y's numbers. `passes.fuse_cells` puts these
steps in the place of others.
"""

from __future__ import annotations

import attrs

from nnkit.plan.passes import work_tasks
from nnkit.plan.plan import Buffer, Step

__all__ = ["Cells", "cells_forward", "cells_weight"]

OVERRUN = 32                                             # numbers behind a band: registers are read whole
BAND = 32 * 1024                                         # numbers that a unit copies: what stays in the second-level cache beside the rest
LONGEST = 1024                                           # cells that one chain of dW goes over, at most
SLICES = 16                                              # pieces that dW is computed in, at most
FEWEST = 8                                               # units into which a batch is cut where its work is worth it


@attrs.frozen
class Cells:
    """The cells of a convolution's outputs. windows: as `Convolution.windows`; deep: whether cells have two depths."""

    windows: tuple[int, ...]
    deep: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Depths, rows and cells of a row."""
        E, P, Q = self.windows[15:18]
        return E // (1 + self.deep), P // 2, Q // 2

    def band(self, tp: int) -> int:
        """Numbers of the input that tp rows of cells need."""
        T, R, S, stride_d, stride_h, stride_w, step_d, step_h = self.windows[3:11]
        depths, rows = self.deep * stride_d + (T - 1) * step_d + 1, (2 * tp - 1) * stride_h + (R - 1) * step_h + 1
        return depths * rows * ((2 * self.shape[2] - 1) * stride_w + S) * self.windows[18]

    def rows(self, N: int) -> int:
        """Rows of cells of a unit: as many as the limits allow, in units of even height."""
        depths, height, width = self.shape
        most = max([1, *(tp for tp in range(1, height + 1) if self.band(tp) <= BAND and tp * width <= LONGEST)])
        return -(-height // max(-(-height // most), min(height, -(-FEWEST // max(1, N * depths)))))

    def units(self, N: int) -> int:
        """Units of a batch."""
        return N * self.shape[0] * -(-self.shape[1] // self.rows(N))


def workspace(step: Step, cells: Cells, tasks: int) -> Buffer:
    """The band of every task."""
    x = step.reads[0]
    return Buffer(f"{step.writes[0].name}/band", (tasks, cells.band(cells.rows(x.shape[0])) + OVERRUN), x.dtype, "workspace")


def cells_forward(step: Step, pooled: Buffer, winners: Buffer, deep: int) -> Step:
    """The step that takes the place of a convolution and the pooling that made `pooled` of it."""
    N, cells = step.reads[0].shape[0], Cells(tuple(map(int, step.scalars[:21])), deep)
    tasks = work_tasks(step.flops, pooled.nbytes, most=cells.units(N))
    table = Buffer(f"{pooled.name}/table", (tasks * step.reads[1].shape[0],), "int64", "workspace")
    return attrs.evolve(step, kernel="prims.pooled.cells_forward", writes=(pooled, winners), scratch=(workspace(step, cells, tasks), table),
                        scalars=(*cells.windows, cells.rows(N), deep, step.scalars[-1]), tasks=tasks, relu=False, cells=False)


def cells_weight(step: Step, dy: Buffer, winners: Buffer, deep: int) -> Step:
    """The step that takes the place of one for dW: from the pooled gradient dy."""
    (x, _), (parts,) = step.reads, step.writes
    cells = Cells(tuple(map(int, step.scalars[:21])), deep)
    flops = 2 * dy.size * parts.shape[1] // cells.windows[19]
    tasks = work_tasks(flops, dy.nbytes, most=parts.shape[0])
    return attrs.evolve(step, kernel="prims.pooled.cells_weight", reads=(x, dy, winners), scratch=(workspace(step, cells, tasks),),
                        scalars=(*cells.windows, cells.rows(x.shape[0]), deep), tasks=tasks, flops=flops, cells=False)
