"""Winograd's convolution on a GPU as steps: tiles and kernels are transformed into stacks of matrices, these multiplied, the products transformed
back. Kernels: stacks_cuda.py; matrices and errors: winograd.py.

It is chosen by shapes alone, in float32 and where nothing is to go on tensor cores, which round factors too much for it. What is saved is multiplying
(a quarter of it is left, without what tiles have beyond the image); what is paid is memory: V and M hold 2.25 numbers for each one of x and y, and go
there and back.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from nnkit.plan.launch import MOST_TASKS, THREADS
from nnkit.prims.convolution import Convolution
from nnkit.prims.winograd import Winograd, tiles

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["Stacks", "stacks_for"]

M = 4                                                    # of F(m x m, 3 x 3), where the layer does not say which
LEAST_FLOPS = 2 ** 28                                    # of a convolution that is worth three launches
MOST_BYTES = 2 ** 32                                     # of V and M together
# What one of its operations and one byte that goes to or from memory cost in operations of a product by gathered tiles. Estimates: from instructions
# counted in PTX, and 2.5 TB/s beside 28 TFLOP/s.
OPERATION, BYTE = 1.25, 12


def stacks_for(g: Builder, c: Convolution, N: int) -> Stacks | None:
    """How this convolution of N samples goes by stacks, or None where it does not."""
    if not Winograd.fits(c):
        return None
    if c.algorithm.startswith("winograd"):
        return Stacks(int(c.algorithm.removeprefix("winograd")))
    return Stacks(M) if c.algorithm == "auto" and g.dtype == g.precision == "float32" and pays(c, N) else None


def pays(c: Convolution, N: int) -> bool:
    """Whether the transforms cost less than they save."""
    way, stacked = Winograd(M), 4 * Winograd(M).places * tiles(c, N, M) * (c.channels + c.filters)         # bytes of V and M
    images = 4 * N * (math.prod(c.input_shape(3)) + math.prod(c.output_shape(3)))
    kernels = 4 * (9 + 2 * way.places) * c.channels * c.filters
    cost = OPERATION * way.flops(c, N) + BYTE * (2 * stacked + images + kernels)
    return c.flops(N) >= LEAST_FLOPS and stacked <= MOST_BYTES and cost < c.flops(N)


@attrs.frozen
class Stacks:
    """F(m x m, 3 x 3)."""

    m: int

    def forward(self, g: Builder, c: Convolution, y: Buffer, x: Buffer, weight: Buffer, bias: Buffer | None, turned: bool = False) -> None:
        """y = x * W (+ b); turned: by the transposed kernel, of which W has its channels and filters the other way round."""
        N, C, O, matrix, bias = x.shape[0], c.channels, c.filters, weight.reshaped(9, weight.size // 9), bias or weight.piece(0)
        K, T = Winograd(self.m).places, tiles(c, N, self.m)
        filters, inputs, products = g.scratch("filter_stack", K, C * O), g.scratch("input_stack", K, T * C), g.scratch("product_stack", K, T * O)
        g.step(f"prims.stacks.factors{self.m}", [filters, inputs], [matrix, x.rows()], scalars=[*c.windows, int(turned)],
               tasks=threads(max(T, O) * C))
        g.step("prims.stacks.product", [products.reshaped(K, T, O)], [inputs.reshaped(K, T, C), filters.reshaped(K, C, O)],
               flops=Winograd(self.m).flops(c, N))
        g.step(f"prims.stacks.outputs{self.m}", [y.rows()], [products, bias], scalars=[*c.windows, 0], tasks=threads(T * O), relu=True,
               filters=None if turned else (c.flat(weight), bias))

    def input_gradient(self, g: Builder, c: Convolution, dx: Buffer, dy: Buffer, weight: Buffer, bias: Buffer | None) -> None:
        """dx = what y's gradient dy gives for x (+ b): a convolution of dy, whose windows are turned."""
        self.forward(g, c.turned(), dx, dy, weight, bias, turned=True)

    def weight_gradient(self, g: Builder, c: Convolution, dweight: Buffer, x: Buffer, dy: Buffer) -> None:
        """dW = x^T * dy."""
        N, C, O = x.shape[0], c.channels, c.filters
        K, T = Winograd(self.m).places, tiles(c, N, self.m)
        inputs, gradients, products = g.scratch("input_stack", K, T * C), g.scratch("gradient_stack", K, T * O), g.scratch("product_stack", K, C * O)
        g.step(f"prims.stacks.weight_factors{self.m}", [inputs, gradients], [x.rows(), dy.rows()], scalars=c.windows, tasks=threads(T * max(C, O)))
        g.step("prims.stacks.product_turned", [products.reshaped(K, C, O)], [inputs.reshaped(K, T, C), gradients.reshaped(K, T, O)],
               flops=Winograd(self.m).flops(c, N))
        g.step(f"prims.stacks.weight{self.m}", [dweight.reshaped(9, C * O)], [products], tasks=threads(C * O))


def threads(count: int) -> int:
    """The tasks of a transform of so many pairs of a tile and a channel, or the like: each is a thread's."""
    return max(1, min(MOST_TASKS, -(-count // THREADS)))
