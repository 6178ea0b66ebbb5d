"""Activations along an axis: Softmax and LogSoftmax. Kernels: softmax_cpu.py."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from nnkit.layers.activation import ActivationFunction
from nnkit.layers.base import Shape
from nnkit.spec import base, integer, spec

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["LogSoftmax", "Softmax"]


@base
class AxisActivation(ActivationFunction):
    """Base of the activations that tie the numbers along one axis together."""

    module: ClassVar[str] = "layers.softmax."

    axis: int = integer(default=-1)

    def output_shape(self, *shapes: Shape) -> Shape:
        """The input's shape. Raises ValueError where it has no such axis."""
        (shape,) = shapes
        self._axis(len(shape) + 1)
        return shape

    def _axis(self, ndim: int) -> int:
        """The axis counted from the front, of ndim with the batch."""
        if not (1 <= self.axis < ndim or 1 - ndim <= self.axis < 0):
            raise ValueError(f"{type(self).__name__}: axis must name an axis other than the batch of an input of {ndim} axes, batch included, "
                             f"received {self.axis}")
        return self.axis % ndim

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """Rows [R, C] where nothing but axes of one entry follow the axis, else lines [A, C, B]."""
        (x,) = xs
        axis = self._axis(len(x.shape))
        A, C, B = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1:])
        last = B == 1
        shape = (A, C) if last else (A, C, B)
        name = f"{self.module}{self.kernel}" if last else f"{self.module}{self.kernel}_axis"
        y = g.buffer(self.kernel, *x.shape)

        def scratch(*names: str) -> list[Buffer]:
            return [] if last else [g.scratch(of, A, B) for of in names]
        g.step(f"{name}_forward", [y.reshaped(*shape)], [x.reshaped(*shape)], scratch=scratch("largest", "total"), rows=A, in_place=last)

        def backward(dy: Buffer) -> Buffer:
            dx = g.buffer(f"{self.kernel}_dx", *x.shape)
            g.step(f"{name}_backward", [dx.reshaped(*shape)], [dy.reshaped(*shape), y.reshaped(*shape)], scratch=scratch("total"), rows=A,
                   in_place=last)
            return dx
        g.on_backward(y, [x], backward)
        return y


@spec("softmax")
class Softmax(AxisActivation):
    """f(x)_c = e^(x_c) / sum_k e^(x_k) along an axis, computed from x - max(x).

    axis: of the array with its batch dimension, so never 0; default the last. A line without a finite largest number gives NaN.
    """

    kernel: ClassVar[str] = "softmax"  # type: ignore[misc]


@spec("log_softmax")
class LogSoftmax(AxisActivation):
    """f(x)_c = x_c - log sum_k e^(x_k) along an axis, computed from x - max(x).

    axis: of the array with its batch dimension, so never 0; default the last. A line without a finite largest number gives NaN.
    """

    signed: ClassVar[bool] = True
    kernel: ClassVar[str] = "log_softmax"  # type: ignore[misc]
