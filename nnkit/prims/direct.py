"""Direct convolution as steps: blocks and workspaces, by shapes alone. Kernels and layouts: direct_cpu.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nnkit.plan.passes import work_tasks
from nnkit.prims.convolution import BLOCK, CHAIN, Convolution
from nnkit.prims.reduce import sum_slices

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["Direct", "Few"]

PACKED = 96 * 1024                                       # numbers that a unit may pack: what stays in the second-level cache beside the filters
CHAIN_PLACES = 1024                                      # places that one chain of dW goes over, at most
PANEL = 32                                               # columns of the widest tile
SLICES = 16                                              # pieces that dW is computed in, at most
OVERRUN = 16 * BLOCK                                     # numbers behind the packed ones: a tile reads whole rows, also those that it does not write
FEWEST_UNITS = 8                                         # into which a batch is cut where its work is worth it

Size = Callable[[Convolution, int], int]


def places_size(c: Convolution, tp: int, channels: int) -> int:
    """Numbers that a unit of tp output rows packs for so many channels."""
    depth, height, width = c.axes
    rows = (tp - 1) * height.stride + height.reach
    places = -(-((width.windows - 1) * width.stride + width.reach) // width.stride) * width.stride
    return -(-channels // BLOCK) * BLOCK * depth.window * rows * places


def packed_size(c: Convolution, tp: int) -> int:
    """The same for one chain of channels of a group."""
    return places_size(c, tp, min(CHAIN, c.channels_each))


def runs_size(c: Convolution, tp: int) -> int:
    """Numbers that a unit packs for `Few`."""
    depth, height, width = c.axes
    rows = -(-((tp - 1) * height.stride + height.reach) // height.stride) * height.stride
    return -(-width.window * c.channels // BLOCK) * BLOCK * depth.window * rows * width.windows


def unit_rows(c: Convolution, N: int, size: Size, limit: int, places: int) -> int:
    """Output rows of a unit: as many as the limits on numbers packed and places allow, in units of even height."""
    P, Q = c.axes[1].windows, c.axes[2].windows
    most = max([1, *(tp for tp in range(1, P + 1) if size(c, tp) <= limit and tp * Q <= places)])
    pieces = -(-P // most)
    if c.flops(N) > FEWEST_UNITS * 2 ** 20:
        pieces = max(pieces, min(P, -(-FEWEST_UNITS // max(1, N * c.axes[0].windows))))
    return -(-P // pieces)


def units(c: Convolution, N: int, tp: int) -> int:
    """Units of the batch."""
    return N * c.axes[0].windows * -(-c.axes[1].windows // tp)


def packed_forward(g: Builder, c: Convolution, y: Buffer, x: Buffer, filters: Buffer, bias: Buffer, kernel: str, size: Size, steps: int,
                   weight: Buffer | None, cells: bool = False) -> None:
    """The step of a forward pass with its workspace, a part for each task.

    steps: entries of the tile's table; weight: of which y is a linear function, filter by filter; cells: see `Step.cells`; else the kernel can pool.
    """
    N = x.shape[0]
    tp = unit_rows(c, N, size, PACKED, 2 ** 62)
    tasks = work_tasks(c.flops(N), x.nbytes + y.nbytes, most=units(c, N, tp))
    packed, table = g.scratch("packed", tasks, size(c, tp) + OVERRUN), g.scratch("table", tasks * 2 * steps, dtype="int64")
    whole = tp % 2 == 0 or tp >= c.axes[1].windows       # else squares of 2 x 2 places would be torn
    pool = tp * c.axes[2].windows * c.filters if whole and not cells else None
    g.step(f"prims.{kernel}", [y.rows()], [x.rows(), filters, bias], scratch=[packed, table], scalars=[*c.windows, tp, *([] if cells else [0]), 0],
           tasks=tasks, flops=c.flops(N), relu=True, pool=pool, cells=cells, filters=(weight, bias) if weight else None)


def packed_weight(g: Builder, c: Convolution, dweight: Buffer, x: Buffer, dy: Buffer, kernel: str, size: Size, jobs: int,
                  cells: bool = False) -> None:
    """dW slice by slice of the batch, then their sum. jobs: into how many a slice is cut; cells: see `Step.cells`."""
    N = x.shape[0]
    tp = unit_rows(c, N, size, PACKED, CHAIN_PLACES)
    slices = max(1, min(units(c, N, tp), SLICES // jobs))
    tasks = work_tasks(c.flops(N), x.nbytes + dy.nbytes, most=slices * jobs)
    packed, table = g.scratch("packed", tasks, size(c, tp)), g.scratch("table", tasks * 2 * tp, dtype="int64")
    with sum_slices(g, dweight, slices) as parts:
        g.step(f"prims.{kernel}", [parts], [x.rows(), dy.rows()], scratch=[packed, table], scalars=[*c.windows, tp], tasks=tasks, flops=c.flops(N),
               cells=cells)


class Direct:
    """The tile over packed places."""

    @staticmethod
    def fits(c: Convolution, turned: bool = False) -> bool:
        """Whatever is not empty."""
        return not c.empty

    @staticmethod
    def forward(g: Builder, c: Convolution, y: Buffer, x: Buffer, weight: Buffer, bias: Buffer | None, turned: bool = False) -> None:
        """W is packed in a step of its own."""
        filters = g.scratch("kernel_packed", weight.size)
        matrix = c.flat(weight)
        kernel, most = ("pack_filters_turned", c.taps) if turned else ("pack_filters", matrix.shape[0])
        g.step(f"prims.direct.{kernel}", [filters], [matrix], scalars=[c.taps, c.groups], tasks=work_tasks(0, 2 * weight.nbytes, most=most))
        steps = c.taps * -(-min(CHAIN, c.channels_each) // BLOCK)
        packed_forward(g, c, y, x, filters, bias or weight.piece(0), "direct.direct_forward", packed_size, steps,
                       None if turned else matrix)

    @staticmethod
    def weight_gradient(g: Builder, c: Convolution, dweight: Buffer, x: Buffer, dy: Buffer) -> None:
        """For every chain of channels of every group."""
        def size(c: Convolution, tp: int) -> int:
            return packed_size(c, tp) + tp * c.axes[2].windows * min(PANEL, c.filters // c.groups)
        packed_weight(g, c, dweight, x, dy, "direct.direct_weight", size, c.groups * -(-c.channels_each // CHAIN))


class Few:
    """The same with the numbers along a window's row as channels."""

    @staticmethod
    def fits(c: Convolution, turned: bool = False) -> bool:
        """One group, and windows whose rows have no gaps; not turned, since filters are read where they lie."""
        return not c.empty and not turned and c.groups == 1 and (c.axes[2].dilation == 1 or c.axes[2].window == 1)

    @staticmethod
    def forward(g: Builder, c: Convolution, y: Buffer, x: Buffer, weight: Buffer, bias: Buffer | None) -> None:
        """W is read where it lies."""
        steps = c.axes[0].window * c.axes[1].window * -(-c.axes[2].window * c.channels // BLOCK)
        matrix = c.flat(weight)
        packed_forward(g, c, y, x, matrix, bias or weight.piece(0), "direct.few_forward", runs_size, steps, matrix, cells=True)

    @staticmethod
    def weight_gradient(g: Builder, c: Convolution, dweight: Buffer, x: Buffer, dy: Buffer) -> None:
        """dy is read where it lies."""
        packed_weight(g, c, dweight, x, dy, "direct.few_weight", runs_size, 1, cells=True)
