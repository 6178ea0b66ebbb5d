"""Convolutions in one to three dimensions as steps: which kernels compute one, by shapes and dtype alone.

One record, `Convolution`, says all about the places; its three products are the forward pass, the gradient by the input (which is also the
forward pass of a transposed convolution) and the gradient by the kernel. Kernels see three spatial axes, the first ones of size 1 where there are
fewer. N batch, D H W input places, E P Q output places, T R S places of the window, C channels, O filters, G groups.

Algorithms:
    taps        a matrix product for every place of the window and row of the output: serves every shape
    product     one matrix product: windows of one place, stride 1, one group
    depthwise   a filter or several for each channel alone: groups = channels
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from nnkit.layers.window import Span
from nnkit.plan.passes import work_tasks
from nnkit.prims.matmul import right_factor, right_factor_transposed

if TYPE_CHECKING:
    from nnkit.plan.build import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["ALGORITHMS", "Convolution"]

ALGORITHMS = ("taps", "product")
ONE = Span(size=1, window=1, stride=1, dilation=1, before=0, windows=1)


@attrs.frozen
class Convolution:
    """y[n, o, f] = sum over k and c of x[n, o stride + k dilation - before, c] W[k, c, f]; group by group, where there are several.

    axes: the windows along depth, height and width. algorithm: 'auto', or one of ALGORITHMS.
    """

    axes: tuple[Span, Span, Span]
    channels: int
    filters: int
    groups: int
    algorithm: str

    @classmethod
    def of(cls, spans: tuple[Span, ...], channels: int, filters: int, groups: int, algorithm: str) -> Convolution:
        """That of one to three axes."""
        axes = (ONE, ONE, ONE, *spans)[-3:]
        return cls(axes=axes, channels=channels, filters=filters, groups=groups, algorithm=algorithm)  # type: ignore[arg-type]

    @property
    def windows(self) -> tuple[int, ...]:
        """What kernels take as `Windows`: D H W, T R S, strides, dilations, places before, E P Q, then C, O, G."""
        fields = ("size", "window", "stride", "dilation", "before", "windows")
        return (*(getattr(span, field) for field in fields for span in self.axes), self.channels, self.filters, self.groups)

    def input_shape(self, rank: int) -> tuple[int, ...]:
        """The shape of a sample of x."""
        return (*(span.size for span in self.axes[3 - rank:]), self.channels)

    def output_shape(self, rank: int) -> tuple[int, ...]:
        """The shape of a sample of y."""
        return (*(span.windows for span in self.axes[3 - rank:]), self.filters)

    @property
    def taps(self) -> int:
        """Places of the window."""
        return math.prod(span.window for span in self.axes)

    def flops(self, N: int) -> int:
        """Of each of the three products; places in the padding count."""
        places = math.prod(span.windows for span in self.axes)
        return 2 * N * places * self.taps * (self.channels // max(1, self.groups)) * self.filters

    def chosen(self, dtype: str) -> str:
        """The algorithm."""
        if self.algorithm != "auto":
            return self.algorithm
        if self.taps == 1 and self.groups == 1 and all(span.stride == 1 and span.before == 0 and span.windows == span.size for span in self.axes):
            return "product"
        return "taps"

    # The three products.

    def forward(self, g: Builder, y: Buffer, x: Buffer, weight: Buffer, bias: Buffer | None) -> None:
        """y = x * W (+ b)."""
        bias = weight.piece(0) if bias is None else bias
        if self.chosen(x.dtype) == "product":
            x2, y2, matrix = x.rows(len(x.shape) - 1), y.rows(len(y.shape) - 1), weight.reshaped(self.channels, self.filters)
            matrix, panels = right_factor(g, "kernel", matrix, x2.shape[0])
            g.step("layers.dense.dense_forward", [y2], [x2, matrix, bias, panels], rows=x2.shape[0], flops=self.flops(x.shape[0]))
            return
        N, pieces, tasks = self._pieces(y, self.axes[0].windows * self.axes[1].windows)
        g.step("prims.taps.taps_forward", [y.rows()], [x.rows(), self.flat(weight), bias], scalars=[*self.windows, pieces],
               flops=self.flops(N), **tasks)

    def input_gradient(self, g: Builder, dx: Buffer, dy: Buffer, weight: Buffer, bias: Buffer | None) -> None:
        """dx = what y's gradient dy gives for x (+ b, where this is a transposed convolution's forward pass)."""
        if self.chosen(dx.dtype) == "product" and bias is None:
            matrix = weight.reshaped(self.channels, self.filters)
            x2, y2 = dx.rows(len(dx.shape) - 1), dy.rows(len(dy.shape) - 1)
            matrix, panels = right_factor_transposed(g, "kernel", matrix, y2.shape[0])
            g.step("layers.dense.dense_backward_input", [x2], [y2, matrix, panels], rows=x2.shape[0], flops=self.flops(dx.shape[0]))
            return
        bias = weight.piece(0) if bias is None else bias
        N, pieces, tasks = self._pieces(dx, self.axes[0].size * self.axes[1].size)
        turned = g.scratch("kernel_turned", self.taps, self.filters, self.channels // self.groups)
        g.step("prims.taps.turn", [turned], [weight.reshaped(self.taps, self.channels // self.groups, self.filters)],
               tasks=work_tasks(0, 2 * weight.nbytes, most=self.taps))
        g.step("prims.taps.taps_input", [dx.rows()], [dy.rows(), turned.rows(2), bias], scalars=[*self.windows, pieces],
               flops=self.flops(N), **tasks)

    def weight_gradient(self, g: Builder, dweight: Buffer, x: Buffer, dy: Buffer) -> None:
        """dW = x^T * dy."""
        N = x.shape[0]
        if self.chosen(x.dtype) == "product":
            x2, y2 = x.rows(len(x.shape) - 1), dy.rows(len(dy.shape) - 1)
            matrix, panels = right_factor(g, "dy", y2, self.channels)
            dw = dweight.reshaped(self.channels, self.filters)
            g.step("layers.dense.dense_backward_weight", [dw, dw.piece(0)], [x2, matrix, panels], flops=self.flops(N),
                   tasks=work_tasks(self.flops(N), 0, most=-(-self.channels // 8)))
            return
        each = self.channels // self.groups
        blocks = max(1, each // 64)
        g.step("prims.taps.taps_weight", [dweight.reshaped(self.taps * each, self.filters)], [x.rows(), dy.rows()],
               scalars=[*self.windows, blocks], flops=self.flops(N), tasks=work_tasks(self.flops(N), 0, most=self.taps * blocks))

    def flat(self, weight: Buffer) -> Buffer:
        """W as a matrix: window places and channels of a group, then filters."""
        return weight.reshaped(self.taps * (self.channels // self.groups), self.filters)

    def _pieces(self, y: Buffer, rows: int) -> tuple[int, int, dict[str, int]]:
        """(N, pieces of an image, how the step is cut): by images where they are many, else by pieces of `rows` image rows each."""
        N = y.shape[0]
        if N >= IMAGES:
            return N, 1, {"rows": N}
        pieces = max(1, min(rows, -(-IMAGES // max(1, N))))
        return N, pieces, {"tasks": work_tasks(self.flops(N), y.nbytes, most=max(1, N * pieces))}


IMAGES = 8                                               # fewer images than this are cut into pieces
