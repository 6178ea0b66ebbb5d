"""Convolution by matrix products, as steps: `Taps` for every place of the window, `Product` for windows of one place. Kernels: taps_cpu.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nnkit.plan.passes import image_tasks, work_tasks
from nnkit.prims.matmul import right_factor, right_factor_transposed, weight_gradient

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer
    from nnkit.prims.convolution import Convolution

__all__ = ["Product", "Taps"]


class Taps:
    """A matrix product for every place of the window and row of the output."""

    @staticmethod
    def fits(c: Convolution, turned: bool = False) -> bool:
        """Every shape."""
        return True

    @classmethod
    def forward(cls, g: Builder, c: Convolution, y: Buffer, x: Buffer, weight: Buffer, bias: Buffer | None, turned: bool = False) -> None:
        """y = x * W (+ b). Where `turned`, x is a dy, y a dx."""
        if turned:
            cls.input_gradient(g, c.turned(), y, x, weight, bias)
            return
        pieces, tasks = _pieces(c, y, c.axes[0].windows * c.axes[1].windows)
        matrix, bias = c.flat(weight), bias or weight.piece(0)
        g.step("prims.taps.taps_forward", [y.rows()], [x.rows(), matrix, bias], scalars=[*c.windows, pieces], flops=c.flops(x.shape[0]),
               filters=(matrix, bias), **tasks)

    @staticmethod
    def input_gradient(g: Builder, c: Convolution, dx: Buffer, dy: Buffer, weight: Buffer, bias: Buffer | None) -> None:
        """dx = dy spread over the windows (+ b)."""
        pieces, tasks = _pieces(c, dx, c.axes[0].size * c.axes[1].size)
        filters = g.scratch("kernel_turned", c.taps, c.filters, c.channels_each)
        g.step("prims.taps.turn", [filters], [weight.reshaped(c.taps, c.channels_each, c.filters)],
               tasks=work_tasks(0, 2 * weight.nbytes, most=c.taps))
        g.step("prims.taps.taps_input", [dx.rows()], [dy.rows(), filters.rows(2), bias or weight.piece(0)], scalars=[*c.windows, pieces],
               flops=c.flops(dx.shape[0]), **tasks)

    @staticmethod
    def weight_gradient(g: Builder, c: Convolution, dweight: Buffer, x: Buffer, dy: Buffer) -> None:
        """dW, place after place."""
        blocks, flops = max(1, c.channels_each // 64), c.flops(x.shape[0])
        g.step("prims.taps.taps_weight", [c.flat(dweight)], [x.rows(), dy.rows()], scalars=[*c.windows, blocks], flops=flops,
               tasks=work_tasks(flops, 0, most=c.taps * blocks))


def _pieces(c: Convolution, y: Buffer, rows: int) -> tuple[int, dict[str, Any]]:
    """(pieces of an image, how the step is cut): see `image_tasks`."""
    return image_tasks(y.shape[0], rows, c.flops(y.shape[0]), y.nbytes)


class Product:
    """The matrix product of dense layers: windows of one place, stride 1, one group."""

    @staticmethod
    def fits(c: Convolution, turned: bool = False) -> bool:
        """Whether every window is one place, and every place a window."""
        return c.taps == 1 and c.groups == 1 and c.dense and all(span.before == 0 and span.windows == span.size for span in c.axes)

    @staticmethod
    def forward(g: Builder, c: Convolution, y: Buffer, x: Buffer, weight: Buffer, bias: Buffer | None, turned: bool = False) -> None:
        """y = x W (+ b), or x W^T."""
        x2, y2 = x.rows(len(x.shape) - 1), y.rows(len(y.shape) - 1)
        factor, bias = right_factor_transposed if turned else right_factor, bias or weight.piece(0)
        matrix, panels = factor(g, "kernel", c.flat(weight), x2.shape[0])
        g.step("layers.dense.dense_forward", [y2], [x2, matrix, bias, panels], rows=x2.shape[0], flops=c.flops(x.shape[0]),
               filters=None if turned else (c.flat(weight), bias))

    @staticmethod
    def weight_gradient(g: Builder, c: Convolution, dweight: Buffer, x: Buffer, dy: Buffer) -> None:
        """dW = x^T dy."""
        dw = c.flat(dweight)
        weight_gradient(g, dw, dw.piece(0), x.rows(len(x.shape) - 1), dy.rows(len(dy.shape) - 1), 8)


