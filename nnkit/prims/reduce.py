"""How a sum over the rows of a matrix is cut into pieces: by shapes alone, so that its bits do not depend on tasks or threads.

A matrix [R, C] whose rows are short is read as one of wider rows: F consecutive rows side by side are a tile row of W = F C elements, which
keeps vector registers full however few columns there are. The tile rows are cut into K chunks and their columns into strips; a piece is one
chunk of one strip, small enough for the second-level cache. Partial sums of the chunks are [K, ..., W]; they are folded F to 1 and added in
the order of k. Kernels: reduce_cpu.py.

For a GPU F is 1, pieces are smaller, and they are no more than the device holds at a time. Kernels: reduce_cuda.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from nnkit.plan.launch import DEVICE, strip
from nnkit.plan.passes import work_tasks
from nnkit.plan.plan import Buffer, Step

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder

__all__ = ["STRIP", "Tiling", "sum_rows", "sum_rows_steps", "sum_slices", "tile_fold"]

TILE = 64                                                # fewest elements of a tile row: four registers of 512 bits
MAP_TILE = 512                                           # the same for loops that LLVM makes, which begin with a check for overlaps
STRIP = 512                                              # most columns of a piece: their sums stay in the first-level cache
PIECE = 32768                                            # elements of a piece, about
DEVICE_PIECE = 4096                                      # the same on a GPU: 16 for each thread of a block
DEVICE_PIECES = 4 * DEVICE                               # most of a matrix: what one block sums, another one has to add up


def tile_fold(rows: int, columns: int, least: int = TILE) -> int:
    """F: the power of two that makes F rows of that many columns a tile row of `least` elements, but no more than there are rows."""
    fold = 1
    while columns and fold * columns < least and 2 * fold <= rows:
        fold *= 2
    return fold


@attrs.frozen
class Tiling:
    """The pieces of a matrix of `rows` rows and `columns` columns. fold: F, rows side by side in a tile row, a power of two. device: for a GPU."""

    rows: int
    columns: int
    device: bool = False
    fold: int = attrs.field(default=attrs.Factory(lambda self: 1 if self.device else tile_fold(self.rows, self.columns), takes_self=True))

    @property
    def width(self) -> int:
        """W: elements of a tile row."""
        return self.fold * self.columns

    @property
    def map_fold(self) -> int:
        """Copies of a row's constants worth making, F or more, for steps that go element by element: longer loops, at most an eighth more work."""
        return 1 if self.device else max(self.fold, tile_fold(self.rows // 8, self.columns, MAP_TILE))

    @property
    def strip(self) -> int:
        """Most columns of a piece."""
        return strip(self.width) if self.device else STRIP

    @property
    def chunk(self) -> int:
        """Tile rows of a chunk, but for the last one."""
        full = self.rows // self.fold
        chunks = max(1, full // max(1, (DEVICE_PIECE if self.device else PIECE) // max(1, min(self.width, self.strip))))
        if self.device:
            chunks = min(chunks, max(1, DEVICE_PIECES // max(1, -(-self.width // self.strip))))
        return max(1, -(-full // chunks))

    @property
    def chunks(self) -> int:
        """K."""
        return max(1, -(-(self.rows // self.fold) // self.chunk))

    @property
    def pieces(self) -> int:
        """Chunks times strips."""
        return self.chunks * max(1, -(-self.width // self.strip))

    def tasks(self, flops: int, nbytes: int) -> int:
        """How many tasks the pieces are worth."""
        return work_tasks(flops, nbytes, most=self.pieces)


def sum_rows(g: Builder, y: Buffer, x: Buffer) -> None:
    """Emit y[c] = sum over r of x[r, c]: sums of the chunks, then theirs."""
    name = g.buffer("row_sums").name
    g.steps += [attrs.evolve(step, layer=g.layer, phase=g.phase) for step in sum_rows_steps(y, x, name, g.backend == "cuda")]


def sum_rows_steps(y: Buffer, x: Buffer, name: str, device: bool = False) -> tuple[Step, Step]:
    """The steps of `sum_rows`; name: that of the sums of the chunks."""
    tiling = Tiling(x.shape[0], x.shape[1], device)
    partial = Buffer(name, (tiling.chunks, tiling.width), x.dtype, "activation")
    chunks = Step(kernel="prims.reduce.sum_chunks", layer="", phase="", writes=(partial,), reads=(x,), scalars=(tiling.fold, tiling.chunk),
                  tasks=tiling.tasks(x.size, x.nbytes), flops=x.size)
    total = Step(kernel="prims.reduce.sum_middle", layer="", phase="", writes=(y.reshaped(1, y.size),),
                 reads=(partial.reshaped(1, tiling.chunks * tiling.fold, y.size),), tasks=work_tasks(0, partial.nbytes, most=-(-y.size // 64)))
    return chunks, total


@contextlib.contextmanager
def sum_slices(g: Builder, total: Buffer, slices: int) -> Iterator[Buffer]:
    """Where a step is to write `total` in slices, [slices, size]; afterwards their sum is taken."""
    flat = total.reshaped(1, total.size)
    parts = flat if slices == 1 else g.buffer("slices", slices, total.size)
    yield parts
    if slices > 1:
        g.step("prims.reduce.sum_middle", [flat], [parts.reshaped(1, slices, total.size)], flops=parts.size,
               tasks=work_tasks(0, parts.nbytes, most=-(-total.size // 64)))
