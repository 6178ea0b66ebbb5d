"""The contract of a metric, a metric from any function, and what the helpers share.

Dimensions: N samples, T places within a sample, C classes. A metric sees its data in pieces (batches of a data set):

    sums = metric.update(y_true[:500], y_pred[:500]) + metric.update(y_true[500:], y_pred[500:])
    metric.result(sums)                                   # the same as over the whole, up to rounding

`update` returns float64 sums that add up over pieces, `result` makes the value from them. A metric that cannot be had from such sums says
`additive = False`, and then `update` must be given all data at once.

Weights: one a sample, shape (N,), or one a place, as long as leading dimensions of the predictions go, for instance (N, T). A sample of weight
2 counts as two equal samples. Where all weights are 0 a mean is NaN.
"""

from __future__ import annotations

import abc
import inspect
import math
import re
from collections.abc import Callable
from typing import Any, ClassVar

import attrs
import numpy as np

from nnkit.spec import Spec, base, spec

__all__ = ["Function", "Metric"]


def _check_name(instance: Spec, attribute: attrs.Attribute, value: object) -> None:
    if value is not None and (not isinstance(value, str) or not value):
        raise ValueError(f"{type(instance).__name__}: {attribute.name} must be a name of at least one letter or None, received {value!r}")


@base
class Metric(Spec, abc.ABC):
    """Base of all metrics. A subclass gives `update` and `result`; one that does not cannot be made (TypeError).

    name: the key in logs and histories; None (default) means Keras' name, the class's in lower case with underscores.
    """

    family: ClassVar[str] = "metric"
    namespace: ClassVar[str] = "metrics."
    additive: ClassVar[bool] = True

    name: str | None = attrs.field(default=None, validator=_check_name, kw_only=True)

    @property
    def label(self) -> str:
        """The key in logs and histories."""
        return self.name or self.default_label

    @property
    def default_label(self) -> str:
        """The key without a name: MeanSquaredError -> mean_squared_error."""
        words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(self).__name__)
        return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()

    @abc.abstractmethod
    def update(self, y_true: Any, y_pred: Any, weight: Any = None) -> np.ndarray:
        """The sums of these samples: float64, one-dimensional. Raises ValueError where the shapes do not fit each other."""

    @abc.abstractmethod
    def result(self, sums: np.ndarray) -> float:
        """The metric's value from its sums."""


def mean_of(sums: np.ndarray) -> float:
    """Weighted mean from (sum of weight times value, sum of weights); NaN where the weights sum to 0."""
    return float(sums[0] / sums[1]) if sums[1] else math.nan


def weighted_sums(values: np.ndarray, weight: Any) -> np.ndarray:
    """(sum of weight times value, sum of weights) over all values, whose leading dimensions are the weight's."""
    if weight is None:
        return np.array([values.sum(dtype=np.float64), values.size])
    w = spread(weight, values.shape)
    return np.array([(w * values).sum(), w.sum()])


def spread(weight: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The weight at every value: float64 of that shape, ones where weight is None. Raises ValueError where it is not a leading part of shape."""
    if weight is None:
        return np.ones(shape)
    w = np.asarray(weight, dtype=np.float64)
    if w.shape != shape[:w.ndim] and w.shape[-1:] == (1,):
        w = w[..., 0]                                     # (N, 1) means (N,)
    if w.shape != shape[:w.ndim] or w.ndim == 0:
        raise ValueError(f"weights must have the leading dimensions of the predictions' shape {shape}, received shape {w.shape}")
    return np.broadcast_to(w.reshape(w.shape + (1,) * (len(shape) - w.ndim)), shape)


def alike(y_true: Any, y_pred: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 arrays of one shape: (N,) and (N, 1) are taken for the same. Raises ValueError for other shapes that differ."""
    y_true, y_pred = np.asarray(y_true, dtype=np.float64), np.asarray(y_pred, dtype=np.float64)
    if y_true.shape != y_pred.shape:
        if y_true.shape[:-1] == y_pred.shape and y_true.shape[-1:] == (1,):
            y_pred = y_pred.reshape(y_true.shape)
        elif y_pred.shape[:-1] == y_true.shape and y_pred.shape[-1:] == (1,):
            y_true = y_true.reshape(y_pred.shape)
        else:
            raise ValueError(f"targets must have the predictions' shape {y_pred.shape}, received shape {y_true.shape}")
    return y_true, y_pred


def _check_function(instance: Spec, attribute: attrs.Attribute, value: object) -> None:
    if not callable(value) or isinstance(value, (type, Spec)):
        raise ValueError(f"{type(instance).__name__}: {attribute.name} must be a function f(y_true, y_pred), received {value!r}")


@spec()
class Function(Metric):
    """Any f(y_true, y_pred) as a metric: it returns a number, or an array, of which the mean is taken.

    It is given all data at once, so any of sklearn.metrics' functions is right here. Weights go to an argument `sample_weight` where the
    function has one; otherwise `update` with weights raises ValueError, as it does for a result that is not a real number. The label is the
    function's name. Two are equal where they hold the same function object; JSON cannot hold a function: `to_json` raises ValueError.
    """

    additive = False

    function: Callable[..., Any] = attrs.field(validator=_check_function, eq=id)

    @property
    def default_label(self) -> str:
        """The function's name."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def update(self, y_true: Any, y_pred: Any, weight: Any = None) -> np.ndarray:
        """The function's value of all samples: float64, shape (1,)."""
        weights = {}
        if weight is not None:
            if not takes_weights(self.function):
                raise ValueError(f"Function: {self.label} must have an argument sample_weight to be given weights, received weights")
            weights = {"sample_weight": np.asarray(weight)}
        value = self.function(y_true, y_pred, **weights)
        try:
            return np.array([np.asarray(value, dtype=np.float64).mean()])
        except (TypeError, ValueError):
            raise ValueError(f"Function: {self.label} must return a real number or an array of them, received {value!r}") from None

    def result(self, sums: np.ndarray) -> float:
        """The function's value."""
        return float(sums[0])


def takes_weights(function: Callable[..., Any]) -> bool:
    """Whether the function has an argument named sample_weight."""
    try:
        return "sample_weight" in inspect.signature(function).parameters
    except (TypeError, ValueError):                       # some functions written in C tell nothing about themselves
        return False
