"""Depthwise convolution as steps: every channel has filters of its own. Kernels: depthwise_cpu.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnkit.plan.passes import work_tasks
from nnkit.prims.convolution import CHAIN, Convolution
from nnkit.prims.direct import CHAIN_PLACES, SLICES, unit_rows, units
from nnkit.prims.reduce import sum_slices

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["ROWS", "Depthwise"]

UNIT = 64 * 1024                                         # numbers that a unit of dW reads: this unit and the next fit into the second-level cache
ROWS = 8                                                 # places of a tile


class Depthwise:
    """A group for every channel."""

    @staticmethod
    def fits(c: Convolution, turned: bool = False) -> bool:
        """As many groups as channels, turned as filters, and not one alone."""
        return not c.empty and c.groups == (c.filters if turned else c.channels) and c.groups > 1

    @staticmethod
    def forward(g: Builder, c: Convolution, y: Buffer, x: Buffer, weight: Buffer, bias: Buffer | None, turned: bool = False) -> None:
        """W is read where it lies; turned, with several filters for each channel, filter by filter."""
        multiple = c.channels // c.filters if turned else 1
        matrix = weight.reshaped(c.taps * multiple, weight.size // (c.taps * multiple))
        if multiple > 1:
            matrix = g.scratch("kernel_by_filter", *matrix.shape)
            g.step("prims.matmul.transpose", [matrix.reshaped(multiple, c.taps * c.filters)], [weight.reshaped(c.taps * c.filters, multiple)])
        N, flops, bias = x.shape[0], c.flops(x.shape[0]), bias or weight.piece(0)
        tasks = work_tasks(flops, x.nbytes + y.nbytes, most=N * c.axes[0].windows * c.axes[1].windows)
        g.step("prims.depthwise.depthwise_forward", [y.rows()], [x.rows(), matrix, bias], scratch=workspace(g, c, tasks, multiple),
               scalars=[*c.windows, int(turned), 0], tasks=tasks, flops=flops, relu=True, filters=None if turned else (matrix, bias))

    @staticmethod
    def weight_gradient(g: Builder, c: Convolution, dweight: Buffer, x: Buffer, dy: Buffer) -> None:
        """Slice by slice of the batch."""
        N, flops = x.shape[0], c.flops(x.shape[0])
        tp = unit_rows(c, N, rows_size, UNIT, CHAIN_PLACES)
        slices = max(1, min(units(c, N, tp), SLICES))
        tasks = work_tasks(flops, x.nbytes + dy.nbytes, most=slices)
        with sum_slices(g, dweight, slices) as parts:
            g.step("prims.depthwise.depthwise_weight", [parts], [x.rows(), dy.rows()], scratch=workspace(g, c, tasks, 1), scalars=[*c.windows, tp],
                   tasks=tasks, flops=flops)


def rows_size(c: Convolution, tp: int) -> int:
    """Numbers of dy, and about as many of x, that tp output rows need."""
    _, height, width = c.axes
    return tp * (width.windows * c.filters + height.stride * width.size * c.channels)


def workspace(g: Builder, c: Convolution, tasks: int, multiple: int) -> list[Buffer]:
    """What every task copies where outputs have channels of other numbers, `multiple` sets of a tile's places; its list of steps."""
    depth, height, width = c.axes
    rows = depth.window * height.window
    places = (ROWS - 1) * width.stride + width.reach
    copied = 0 if c.filters == c.channels else multiple * rows * places * min(CHAIN, c.filters)
    return [g.scratch("copied", tasks, copied), g.scratch("table", tasks * 3 * multiple * rows * width.window, dtype="int64")]
