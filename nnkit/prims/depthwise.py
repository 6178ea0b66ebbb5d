"""Depthwise convolution as steps: every channel has filters of its own. Kernels: depthwise_cpu.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnkit.prims.convolution import CHAIN, Convolution
from nnkit.prims.direct import packed_forward, packed_weight, places_size

if TYPE_CHECKING:
    from nnkit.plan.build import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["Depthwise"]


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
        packed_forward(g, c, y, x, matrix, bias or weight.piece(0), "depthwise.depthwise_forward", area_size, c.taps * multiple, extra=[int(turned)])

    @staticmethod
    def weight_gradient(g: Builder, c: Convolution, dweight: Buffer, x: Buffer, dy: Buffer) -> None:
        """Slice by slice of the batch."""
        packed_weight(g, c, dweight, x, dy, "depthwise.depthwise_weight", area_size, c.taps, 1)


def area_size(c: Convolution, tp: int) -> int:
    """Numbers that a unit of tp output rows packs: for one chain of the outputs, as often as there are inputs for each."""
    multiple = max(1, c.channels // c.filters)
    return places_size(c, tp, min(CHAIN, c.filters)) * multiple
