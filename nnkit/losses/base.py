"""What a loss is: a spec that says what targets it takes and how it lowers itself into a forward and a backward step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnkit.layers.base import Shape, snake_case
from nnkit.spec import Spec, base
from nnkit.training.feed import as_samples

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["Loss", "PointwiseLoss"]

ENTRY_FLOPS = 20                                         # what an exponential or a logarithm and the arithmetic around it cost


@base
class Loss(Spec):
    """Base of all losses. Per-row values are averaged over all rows of the batch, each multiplied by its sample's weight (Keras'
    'sum_over_batch_size'); a row is one entry of all axes but the last. An output of one axis, the batch, has rows of one entry."""

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

    def classes(self, output_shape: Shape) -> int | None:
        """How many classes the targets tell apart, whose labels are 0, 1, ...; None where they are no such classes."""
        return None

    def prepare(self, y: Any, output_shape: Shape, dtype: str, check_finite: bool = False) -> np.ndarray:
        """The user's targets as a checked C-contiguous array. Raises TypeError or ValueError where they do not fit."""
        return as_samples(y, output_shape, dtype, "y", check_finite)

    def counted(self, targets: np.ndarray) -> np.ndarray | None:
        """Which of prepared targets count, as booleans of their shape; None where all do. Metrics leave out the others, as the loss does."""
        return None

    def lower(self, g: Builder, y: Buffer, t: Buffer, w: Buffer) -> Buffer:
        """Emit the forward step; hand the backward step to `g.on_backward`. Returns the weighted losses of the rows, shape (R,)."""
        raise TypeError(f"{type(self).__name__} does not say how it lowers itself")


def as_rows(y: Buffer) -> Buffer:
    """An output or its targets as (R, J): all axes but the last are rows."""
    return y.rows(max(1, len(y.shape) - 1))


def refuse_outside(y: np.ndarray, low: float, high: float, rule: str) -> None:
    """Raise ValueError for the first target below low or above high; `rule` follows "y must". NaN passes: check_finite asks for that."""
    if y.size and (y.min() < low or y.max() > high or np.isnan(y.min())):
        wrong = (y < low) | (y > high)
        if wrong.any():
            place = tuple(map(int, np.unravel_index(int(wrong.argmax()), y.shape)))
            raise ValueError(f"y must {rule}, received {y[place].item():.9g} at position {place if len(place) > 1 else place[0]}")


@base
class PointwiseLoss(Loss):
    """A loss that is the mean (or sum) over the last axis of l(y, t), elementwise. Kernels <module>_cpu.<kernel>_forward and _backward."""

    module: ClassVar[str] = "regression"
    mean: ClassVar[bool] = True

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
        """rows = w share sum_j l(y, t); dy = w share / R l'(y, t); share is 1 / J for a mean, 1 for a sum."""
        y2, t2 = as_rows(y), as_rows(t)
        R, J = y2.shape
        rows = g.buffer("rows", R)
        terms = g.scratch("terms", R, J)
        name = f"losses.{self.module}.{self.kernel}"
        scalars = (1.0 / J if self.mean and J else 1.0, *self.scalars(), 0.0, 0.0)[:3]

        def fused(part: str) -> dict[str, str]:
            return {below: f"losses.{self.module}.{kernel}_{part}" for below, kernel in self.logits().items()}
        g.step(f"{name}_forward", [rows], [y2, t2, w], scratch=[terms], scalars=scalars, rows=R, flops=ENTRY_FLOPS * R * J, logits=fused("forward"))

        def backward(_: Buffer) -> Buffer:
            dy = g.buffer("dy", *y.shape)
            g.step(f"{name}_backward", [as_rows(dy)], [y2, t2, w], scalars=scalars, rows=R, flops=ENTRY_FLOPS * R * J, logits=fused("backward"))
            return dy
        g.on_backward(rows, [y], backward)
        return rows
