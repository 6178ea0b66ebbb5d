"""What a loss is: a spec that says what targets it takes and how it lowers itself into a forward and a backward step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import numpy as np

from nnkit.layers.base import Shape, snake_case
from nnkit.spec import Spec
from nnkit.training.feed import as_samples

if TYPE_CHECKING:
    from nnkit.plan.build import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["Loss", "PointwiseLoss"]


@attrs.frozen(repr=False)
class Loss(Spec):
    """Base of all losses. Per-row values are averaged over all rows of the batch, each multiplied by its sample's weight (Keras'
    'sum_over_batch_size'); a row is one entry of all axes but the last."""

    family: ClassVar[str] = "loss"

    @property
    def label(self) -> str:
        """The name in Keras' words: mean_squared_error."""
        return snake_case(type(self).__name__)

    def check(self, output_shape: Shape) -> None:
        """Raise ValueError where the loss does not fit an output of this shape (without the batch)."""

    def target(self, output_shape: Shape) -> tuple[Shape, str]:
        """Shape (without the batch) and dtype ('T' or 'int32') of the targets for an output of this shape."""
        return output_shape, "T"

    def prepare(self, y: Any, output_shape: Shape, dtype: str, check_finite: bool = False) -> np.ndarray:
        """The user's targets as a checked C-contiguous array. Raises ValueError where they do not fit."""
        return as_samples(y, output_shape, dtype, "y", check_finite)

    def lower(self, g: Builder, y: Buffer, t: Buffer, w: Buffer) -> Buffer:
        """Emit the forward step; hand the backward step to `g.on_backward`. Returns the weighted losses of the rows, shape (R,)."""
        raise TypeError(f"{type(self).__name__} does not say how it lowers itself")


@attrs.frozen(repr=False)
class PointwiseLoss(Loss):
    """A loss that is the mean over the last axis of l(y, t), elementwise. Kernels <family>.<kernel>_forward and _backward."""

    module: ClassVar[str] = "regression"

    @property
    def kernel(self) -> str:
        """First part of the kernels' names."""
        return self.label

    def scalars(self) -> tuple[float, ...]:
        """The constants of the formula, at most two."""
        return ()

    def logits(self) -> Mapping[str, str]:
        """Kernel of an activation -> first part of the names of the kernels that read its input instead."""
        return {}

    def lower(self, g: Builder, y: Buffer, t: Buffer, w: Buffer) -> Buffer:
        """rows = w mean_j l(y, t); dy = w / (R J) l'(y, t)."""
        y2, t2 = y.rows(len(y.shape) - 1), t.rows(len(t.shape) - 1)
        rows = g.buffer("rows", y2.shape[0])
        terms = g.scratch("terms", *y2.shape)
        name = f"losses.{self.module}.{self.kernel}"
        scalars = (*self.scalars(), 0.0, 0.0)[:2]
        local = y2.shape[0]

        def fused(part: str) -> dict[str, str]:
            return {below: f"losses.{self.module}.{kernel}_{part}" for below, kernel in self.logits().items()}
        g.step(f"{name}_forward", [rows], [y2, t2, w], scratch=[terms], scalars=scalars, rows=local, logits=fused("forward"))

        def backward(_: Buffer) -> Buffer:
            dy = g.buffer("dy", *y.shape)
            g.step(f"{name}_backward", [dy.rows(len(y.shape) - 1)], [y2, t2, w], scalars=scalars, rows=local, logits=fused("backward"))
            return dy
        g.on_backward(rows, [y], backward)
        return rows
