"""Losses on numbers and counts. Kernels: regression_cpu.py. Output and targets have one shape; a row's loss is the mean over the last axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkit.layers.base import Shape
from nnkit.losses.base import PointwiseLoss, refuse_outside
from nnkit.spec import real, spec

__all__ = ["Huber", "LogCosh", "MeanAbsoluteError", "MeanSquaredError", "Poisson"]


@spec("mean_squared_error", "mse", "MSE")
class MeanSquaredError(PointwiseLoss):
    """l = (y - t)^2. Output and targets: one shape, any numbers. Without a factor 1/2, as in Keras and PyTorch; scikit-learn's has it."""


@spec("mean_absolute_error", "mae", "MAE")
class MeanAbsoluteError(PointwiseLoss):
    """l = |y - t|; the derivative at 0 is 0. Output and targets: one shape, any numbers."""


@spec("huber", "Huber")
class Huber(PointwiseLoss):
    """l = e^2 / 2 where |e| <= delta, delta |e| - delta^2 / 2 beyond; e = y - t (Huber 1964).

    delta: greater than 0, default 1. Output and targets: one shape, any numbers. As Keras and PyTorch's HuberLoss; PyTorch's SmoothL1Loss is
    this divided by delta.
    """

    delta: float = real(default=1.0, low=0, low_open=True)

    def scalars(self) -> tuple[float, ...]:
        """delta."""
        return (self.delta,)


@spec("log_cosh", "logcosh")
class LogCosh(PointwiseLoss):
    """l = log cosh(y - t), nearly e^2 / 2 for small errors e and |e| - log 2 for large ones. Output and targets: one shape, any numbers."""


@spec("poisson")
class Poisson(PointwiseLoss):
    """l = y - t log(y + 1e-7): minus the log-likelihood of the count t at rate y, without the term log t!.

    Output: rates y above -1e-7 (end in softplus or exponential); below, the loss is NaN. Targets: of the same shape, at least 0; others are
    refused (ValueError). As Keras; PyTorch's PoissonNLLLoss takes log y by default.
    """

    def prepare(self, y: Any, output_shape: Shape, dtype: str, check_finite: bool = False) -> np.ndarray:
        """Targets of the output's shape, at least 0."""
        t = super().prepare(y, output_shape, dtype, check_finite)
        refuse_outside(t, 0, np.inf, "hold counts of at least 0 for poisson")
        return t
