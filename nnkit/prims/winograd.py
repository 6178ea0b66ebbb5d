"""Winograd's convolution F(m x m, 3 x 3), m = 2 or 4, as steps; its matrices. Kernels and layouts: winograd_cpu.py; on a GPU: stacks.py.

An output tile of m x m places comes from (m + 2)^2 products a channel instead of 9 m^2:

    y = A^T [ sum over c of (G W G^T) * (B^T x B) ] A            dW = G^T [ sum over tiles of (B^T x B) * (A dy A^T) ] G

Error, relative to the largest |y|: up to 5e-6 (m = 4) and 7e-7 (m = 2) in float32 for up to 512 channels, where `direct` has 6e-7; tests
hold it below 1e-5 and 2e-6. Lavin and Gray, Fast algorithms for convolutional neural networks, CVPR 2016. Points 0, 1, -1, 1/2, -2: those with
2 and -2 have two to three times the error.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from nnkit.plan.passes import work_tasks
from nnkit.prims.convolution import BLOCK, CHAIN, TILE_STEP, Convolution
from nnkit.prims.reduce import sum_slices

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["FILTER_GROUP", "PAIRS", "SKEW", "Winograd", "matrices", "product_of", "tiles", "transposed"]

PAIRS = {2: ((1, -1),), 4: ((1, -1), (Fraction(1, 2), -2))}      # the points, besides 0 and infinity
SKEW = 80                                                # numbers between the (m + 2)^2 planes: else powers of two would share few sets of a cache
TILES, FEWEST_BLOCKS = 28, 8                             # tiles that a task transforms at a time; blocks of them that a batch is cut into at least
LARGE = 2 ** 23                                          # numbers of U from which on blocks are twice as large: each reads all of U from memory
WEIGHT_TILES = 64                                        # the same for dW: the length of its chains
FILTER_GROUP = 128                                       # filters whose sums one job of dW keeps
OVERRUN = 13 * TILE_STEP                                 # numbers behind V: a product reads whole tiles of rows, also those that it does not write
SLICES = 16                                              # pieces that dW is computed in, at most

Matrix = tuple[tuple[Fraction, ...], ...]


@functools.cache
def matrices(m: int) -> tuple[Matrix, Matrix, Matrix]:
    """(A^T [m, n], G [n, 3], B^T [n, n]), n = m + 2, exact: the construction of Toom and Cook over the points 0, PAIRS[m] and infinity."""
    points = [Fraction(0), *(Fraction(point) for pair in PAIRS[m] for point in pair)]
    inputs, filters, outputs = [], [], []
    for a in points:
        others = [b for b in points if b != a]
        inputs.append((*product_of(others), Fraction(0)))
        filters.append(tuple(a ** k / math.prod(a - b for b in others) for k in range(3)))
    inputs.append(product_of(points))
    filters.append((Fraction(0), Fraction(0), Fraction(1)))
    for k in range(m):
        outputs.append((*(a ** k for a in points), Fraction(int(k == m - 1))))
    return tuple(outputs), tuple(filters), tuple(inputs)


def product_of(roots: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """The coefficients of the product of all (x - root), lowest power first."""
    found = [Fraction(1)]
    for root in roots:
        found = [low - root * high for low, high in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return tuple(found)


def transposed(matrix: Matrix) -> Matrix:
    """The transpose."""
    return tuple(zip(*matrix, strict=True))


def tiles(c: Convolution, N: int, m: int) -> int:
    """Tiles of a batch."""
    depth, height, width = c.axes
    return N * depth.windows * -(-height.windows // m) * -(-width.windows // m)


class Winograd:
    """F(m x m, 3 x 3)."""

    def __init__(self, m: int) -> None:
        self.m = m
        self.places = (m + 2) ** 2

    @staticmethod
    def fits(c: Convolution, turned: bool = False) -> bool:
        """Windows of 3 x 3 without stride or dilation, one group; along a third axis nothing but single places."""
        depth, height, width = c.axes
        flat = depth.window == 1 and depth.before == 0 and depth.windows == depth.size
        return not c.empty and c.groups == 1 and c.dense and flat and all(span.window == 3 and span.dilation == 1 for span in (height, width))

    def forward(self, g: Builder, c: Convolution, y: Buffer, x: Buffer, weight: Buffer, bias: Buffer | None, turned: bool = False) -> None:
        """G W G^T in a step of its own, then tiles in blocks."""
        transformed = g.scratch("kernel_transformed", self.places, c.channels * c.filters + SKEW)
        flat, nbytes = weight.reshaped(9, weight.size // 9), transformed.nbytes + weight.nbytes
        if turned:
            flat = g.scratch("kernel_turned", 9, weight.size // 9)
            g.step("prims.taps.turn", [flat.reshaped(9, c.channels, c.filters)], [weight.reshaped(9, c.filters, c.channels)],
                   tasks=work_tasks(0, 2 * weight.nbytes, most=9))
        g.step(f"prims.winograd.winograd{self.m}_filters", [transformed], [flat], scalars=[c.channels, c.filters, int(turned)],
               tasks=work_tasks(0, nbytes, most=-(-c.channels // BLOCK)))
        N, bias = x.shape[0], bias or weight.piece(0)
        total = tiles(c, N, self.m)
        larger = 2 if transformed.size > LARGE else 1
        blocks = max(-(-total // (larger * TILES)), min(total, FEWEST_BLOCKS // larger))
        count = -(-total // (blocks + blocks % 2))
        tasks = work_tasks(c.flops(N) // 2, x.nbytes + y.nbytes, most=-(-total // count))
        channels = -(-c.channels // BLOCK) * BLOCK
        workspace = count * channels // BLOCK * TILE_STEP + self.places * (count * c.filters + SKEW) + OVERRUN
        packed, table = g.scratch("transformed", tasks, workspace), g.scratch("table", tasks * channels // BLOCK * 2, dtype="int64")
        g.step(f"prims.winograd.winograd{self.m}_forward", [y.rows()], [x.rows(), transformed, bias], scratch=[packed, table],
               scalars=[*c.windows, count, 0, 0], tasks=tasks, flops=self.flops(c, N), relu=True, pool=0,
               filters=None if turned else (c.flat(weight), bias))

    def weight_gradient(self, g: Builder, c: Convolution, dweight: Buffer, x: Buffer, dy: Buffer) -> None:
        """dW slice by slice of the tiles, then their sum."""
        N = x.shape[0]
        total = tiles(c, N, self.m)
        count = -(-total // -(-total // WEIGHT_TILES))
        groups = min(c.filters, FILTER_GROUP)
        jobs = -(-c.channels // CHAIN) * -(-c.filters // FILTER_GROUP)
        slices = max(1, min(-(-total // count), SLICES // jobs))
        tasks = work_tasks(c.flops(N) // 2, x.nbytes + dy.nbytes, most=slices * jobs)
        channels = -(-min(CHAIN, c.channels) // BLOCK) * BLOCK
        workspace = count * channels // BLOCK * TILE_STEP + self.places * (count * groups + channels * groups + 2 * SKEW)
        packed, table = g.scratch("transformed", tasks, workspace), g.scratch("table", tasks * 2, dtype="int64")
        with sum_slices(g, dweight, slices) as parts:
            g.step(f"prims.winograd.winograd{self.m}_weight", [parts], [x.rows(), dy.rows()], scratch=[packed, table], scalars=[*c.windows, count],
                   tasks=tasks, flops=self.flops(c, N))

    def flops(self, c: Convolution, N: int) -> int:
        """Of the products, without the transforms."""
        return 2 * tiles(c, N, self.m) * self.places * c.channels * c.filters
