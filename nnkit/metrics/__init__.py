"""Metrics: what is reported beside the loss. Keras 3's names; `base` states the contract.

`nnkit.compile(..., metrics=["accuracy", AUC(), f])` takes names, specs and functions f(y_true, y_pred).
"""

from __future__ import annotations

import math
from typing import Any

import attrs

from nnkit.metrics.base import Function, Metric
from nnkit.metrics.classification import (
    AUC,
    BinaryAccuracy,
    CategoricalAccuracy,
    F1Score,
    Precision,
    Recall,
    SparseCategoricalAccuracy,
    SparseTopKCategoricalAccuracy,
    TopKCategoricalAccuracy,
)
from nnkit.metrics.regression import MeanAbsoluteError, MeanSquaredError, R2Score, RootMeanSquaredError
from nnkit.spec import SHORTHANDS, Spec, is_of_family, nearest, received

__all__ = [
    "AUC", "BinaryAccuracy", "CategoricalAccuracy", "F1Score", "Function", "MeanAbsoluteError", "MeanSquaredError", "Metric", "Precision", "R2Score",
    "Recall", "RootMeanSquaredError", "SparseCategoricalAccuracy", "SparseTopKCategoricalAccuracy", "TopKCategoricalAccuracy", "choose_accuracy",
    "resolve_metric",
]

ACCURACY = ("accuracy", "acc")                            # the names that mean the accuracy that fits the loss
HINGES = ("hinge", "squared_hinge")                       # their outputs are scores, whose border is 0


def choose_accuracy(loss_name: str, output_shape: tuple[int, ...], *, target_shape: tuple[int, ...] | None = None, from_logits: bool = False,
                    name: str = "accuracy") -> Metric:
    """The accuracy that "accuracy" means with this loss and this output.

    loss_name: as "binary_crossentropy". output_shape, target_shape: of one sample, without the batch; target_shape may be None where it is not
    known. The cross-entropies choose their own: binary, categorical, sparse categorical; the hinge losses the binary one.
    An output of one number (last dimension 1) is binary whatever the loss, and with other losses the shapes decide as in Keras: targets of
    fewer dimensions than the output, or of one number, are labels; others are one-hot.
    from_logits: True where the loss takes logits: BinaryAccuracy's threshold is then 0 instead of 0.5, as it is for hinge losses. (Keras leaves
    0.5, which puts the border at a probability of 0.62.)
    """
    labels = target_shape is not None and (len(target_shape) < len(output_shape) or target_shape[-1:] == (1,))
    metric: Any
    if loss_name in ("binary_crossentropy", *HINGES) or output_shape[-1:] in ((), (1,)):
        metric = BinaryAccuracy(threshold=0.0 if from_logits or loss_name in HINGES else 0.5)
    elif loss_name == "sparse_categorical_crossentropy" or (labels and loss_name != "categorical_crossentropy"):
        metric = SparseCategoricalAccuracy()
    else:
        metric = CategoricalAccuracy()
    return attrs.evolve(metric, name=name)


def _at_zero(metric: Any, output_shape: tuple[int, ...]) -> Any:
    """A metric whose default means probability 0.5 as one of logits, which are 0 there; others as they are."""
    default = getattr(metric, "threshold", math.nan)
    half = default == 0.5 or (default is None and output_shape[-1:] in ((), (1,)))      # None: the largest of several classes
    return attrs.evolve(metric, threshold=0.0) if half else metric


def resolve_metric(value: Any, loss_name: str = "", output_shape: tuple[int, ...] = (), *, target_shape: tuple[int, ...] | None = None,
                   from_logits: bool = False) -> Metric:
    """The metric that value stands for: a metric itself, the one of that name (which becomes its label), Function of a function.

    The names "accuracy" and "acc" go to `choose_accuracy` with the other arguments. Other names stand for the metric with its defaults, but where
    the loss takes binary outputs as logits or scores a threshold of 0.5 is 0. Raises ValueError for an unknown name, with the nearest known one, and
    for anything else.
    """
    if isinstance(value, str):
        if value in ACCURACY:
            return choose_accuracy(loss_name, output_shape, target_shape=target_shape, from_logits=from_logits, name=value)
        known = {name: cls for (family, name), cls in SHORTHANDS.items() if family == "metric" and name is not None}
        if value not in known:
            raise ValueError(f"unknown metric {value!r}: {nearest(value, [*known, *ACCURACY])}")
        metric: Any = known[value]()
        if loss_name in HINGES or (from_logits and loss_name == "binary_crossentropy"):
            metric = _at_zero(metric, output_shape)
        return metric if metric.label == value else attrs.evolve(metric, name=value)
    if is_of_family(value, "metric"):
        return value
    if callable(value) and not isinstance(value, (type, Spec)):
        return Function(value)
    raise ValueError(f"a metric must be a metric spec, its name or a function f(y_true, y_pred), received {received(value)}")
