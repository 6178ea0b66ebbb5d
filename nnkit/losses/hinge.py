"""Margin losses. Kernels: hinge_cpu.py. R rows (entries of all axes but the last), C classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnkit.layers.base import Shape
from nnkit.losses.base import Loss, PointwiseLoss, as_rows, refuse_outside
from nnkit.spec import base, spec

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["CategoricalHinge", "Hinge", "SquaredHinge"]


@base
class SignLoss(PointwiseLoss):
    """Base of the losses whose targets are signs, -1 and 1."""

    module: ClassVar[str] = "hinge"

    def prepare(self, y: Any, output_shape: Shape, dtype: str, check_finite: bool = False) -> np.ndarray:
        """Targets of the output's shape, -1 and 1; where all are 0 or 1, they become -1 and 1."""
        t = super().prepare(y, output_shape, dtype, check_finite)
        if ((t == 0) | (t == 1)).all():
            return 2 * t - 1
        wrong = (t != 1) & (t != -1)
        if wrong.any():
            place = tuple(map(int, np.unravel_index(int(wrong.argmax()), t.shape)))
            raise ValueError(f"y must hold -1 and 1, or 0 and 1, for {self.label}, received {t[place].item():.9g} at position "
                             f"{place if len(place) > 1 else place[0]}")
        return t


@spec("hinge")
class Hinge(SignLoss):
    """l = max(1 - t y, 0), mean over the last axis; the derivative at the corner is 0.

    Output: any shape, any numbers; its sign is the class. Targets: of the same shape, -1 and 1, or 0 and 1, which become -1 and 1 (Keras decides
    that batch by batch, here the whole array decides); others are refused (ValueError).
    """


@spec("squared_hinge")
class SquaredHinge(SignLoss):
    """l = max(1 - t y, 0)^2, mean over the last axis. Output and targets as for Hinge."""


@spec("categorical_hinge")
class CategoricalHinge(Loss):
    """l = max(1 + max_c (1 - t) y - sum_c t y, 0): how far the true class is from a margin of 1 above the others (Crammer and Singer 2001).

    Output: (..., C), C at least 2, any numbers. Targets: of the same shape, one-hot rows; values outside of [0, 1] are refused (ValueError). As
    Keras: the largest of the others is at least 0, since the true class stands among them with (1 - t) y = 0. Of equal ones the first has the
    gradient.
    """

    def check(self, output_shape: Shape) -> None:
        """The last axis must hold at least two classes."""
        if not output_shape or output_shape[-1] < 2:
            raise ValueError(f"{self.label} must have an output of at least 2 classes on its last axis, received shape {output_shape}: "
                             "use hinge for two classes on one unit")

    def prepare(self, y: Any, output_shape: Shape, dtype: str, check_finite: bool = False) -> np.ndarray:
        """Targets of the output's shape, from 0 to 1."""
        t = super().prepare(y, output_shape, dtype, check_finite)
        refuse_outside(t, 0, 1, "hold one-hot rows for categorical_hinge")
        return t

    def lower(self, g: Builder, y: Buffer, t: Buffer, w: Buffer) -> Buffer:
        """One step forward, which keeps (1 - t) y, and one backward."""
        y2, t2 = as_rows(y), as_rows(t)
        R, C = y2.shape
        rows, others = g.buffer("rows", R), g.buffer("others", R, C)
        g.step("losses.hinge.categorical_hinge_forward", [rows, others], [y2, t2, w], rows=R, flops=6 * R * C)

        def backward(_: Buffer) -> Buffer:
            dy = g.buffer("dy", *y.shape)
            g.step("losses.hinge.categorical_hinge_backward", [as_rows(dy)], [rows, others, t2, w], rows=R, flops=6 * R * C)
            return dy
        g.on_backward(rows, [y], backward)
        return rows
