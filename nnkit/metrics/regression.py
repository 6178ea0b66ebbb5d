"""Metrics of regression: mean absolute and squared error, its root, R2. Targets and predictions have one shape, (N, ...).

Every output of a sample carries the sample's weight. See metrics.base for the contract and the weights.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnkit.metrics.base import Metric, alike, mean_of, spread, weighted_sums
from nnkit.spec import spec

__all__ = ["MeanAbsoluteError", "MeanSquaredError", "R2Score", "RootMeanSquaredError"]


@spec("mean_absolute_error", "mae")
class MeanAbsoluteError(Metric):
    """Mean of |y_true - y_pred| over all samples and outputs."""

    def update(self, y_true: Any, y_pred: Any, weight: Any = None) -> np.ndarray:
        """(sum of weighted absolute errors, sum of weights)."""
        y_true, y_pred = alike(y_true, y_pred)
        return weighted_sums(np.abs(y_true - y_pred), weight)

    def result(self, sums: np.ndarray) -> float:
        """The mean."""
        return mean_of(sums)


@spec("mean_squared_error", "mse")
class MeanSquaredError(Metric):
    """Mean of (y_true - y_pred)^2 over all samples and outputs."""

    def update(self, y_true: Any, y_pred: Any, weight: Any = None) -> np.ndarray:
        """(sum of weighted squared errors, sum of weights)."""
        y_true, y_pred = alike(y_true, y_pred)
        return weighted_sums(np.square(y_true - y_pred), weight)

    def result(self, sums: np.ndarray) -> float:
        """The mean."""
        return mean_of(sums)


@spec("root_mean_squared_error", "rmse")
class RootMeanSquaredError(MeanSquaredError):
    """Square root of the mean of (y_true - y_pred)^2 over all samples and outputs."""

    def result(self, sums: np.ndarray) -> float:
        """The root of the mean."""
        return math.sqrt(mean_of(sums))


@spec("r2_score", "r2")
class R2Score(Metric):
    """Coefficient of determination 1 - sum (y_true - y_pred)^2 / sum (y_true - mean)^2, for each output, then their plain mean.

    As in scikit-learn an output whose targets are all equal counts 1 where the predictions are exact and 0 elsewhere.
    The squares are summed about 0, which is what adds up over pieces: the relative error is about 1e-16 (mean / standard deviation)^2 of the
    targets, so shift targets whose mean is more than 1e5 standard deviations away from 0.
    """

    def update(self, y_true: Any, y_pred: Any, weight: Any = None) -> np.ndarray:
        """For each output: sums of weights w, of w y, of w y^2, of w (y - y_pred)^2."""
        y_true, y_pred = alike(y_true, y_pred)
        if y_true.ndim == 1:
            y_true, y_pred = y_true[:, None], y_pred[:, None]
        w = spread(weight, y_true.shape)
        parts = np.stack([w, w * y_true, w * y_true**2, w * (y_true - y_pred)**2])
        return parts.sum(axis=1).reshape(-1)

    def result(self, sums: np.ndarray) -> float:
        """1 - residual / total, the mean over the outputs; NaN where the weights sum to 0."""
        weights, first, second, residual = sums.reshape(4, -1)
        if weights.size == 0 or not (weights > 0).all():
            return math.nan
        total = second - first**2 / weights
        constant = total <= 16 * np.finfo(np.float64).eps * second       # what rounding leaves of a sum of squares that is 0
        scores = np.where(constant, np.where(residual == 0, 1.0, 0.0), 1 - residual / np.where(constant, 1.0, total))
        return float(scores.mean())
