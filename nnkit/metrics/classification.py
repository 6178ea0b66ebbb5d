"""Metrics of classification: the accuracies, precision, recall, F1, area under the ROC curve; the rule that chooses the accuracy.

Three forms of targets: binary, 0 or 1 (or -1 or 1), for predictions of shape (N,), (N, 1) or any; one-hot, shape (N, C), or (N, T, C); class labels,
whole numbers of shape (N,) or (N, 1), or (N, T). Predictions may be probabilities or scores; where a threshold is meant for probabilities, give
0 for scores (logits): sigmoid(0) = 0.5. See metrics.base for the contract and the weights.
"""

from __future__ import annotations

import abc
import math
from typing import Any

import numpy as np

from nnkit.metrics.base import Metric, alike, mean_of, spread, weighted_sums
from nnkit.spec import base, choice, integer, real, spec

__all__ = [
    "AUC", "BinaryAccuracy", "CategoricalAccuracy", "F1Score", "Precision", "Recall", "SparseCategoricalAccuracy",
    "SparseTopKCategoricalAccuracy", "TopKCategoricalAccuracy",
]


def one_hot_pair(y_true: Any, y_pred: Any) -> tuple[np.ndarray, np.ndarray]:
    """One-hot targets and predictions, both (..., C). Raises ValueError where the shapes differ."""
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    if y_true.shape != y_pred.shape or y_pred.ndim < 2:
        raise ValueError(f"one-hot targets must have the predictions' shape {y_pred.shape}, with classes last, received shape {y_true.shape}")
    return y_true, y_pred


def label_pair(y_true: Any, y_pred: Any) -> tuple[np.ndarray, np.ndarray]:
    """Labels (...) and predictions (..., C); labels may have a last dimension of 1. Raises ValueError for other shapes."""
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    if y_true.shape == (*y_pred.shape[:-1], 1):
        y_true = y_true[..., 0]
    if y_pred.ndim < 2 or y_true.shape != y_pred.shape[:-1]:
        raise ValueError(f"labels must have the predictions' shape {y_pred.shape} without the classes, received shape {y_true.shape}")
    return y_true, y_pred


def whole_labels(y_true: np.ndarray, classes: int) -> np.ndarray:
    """Labels as int64. Raises ValueError where one is not a whole number from 0 to classes - 1."""
    labels = y_true.astype(np.int64)
    wrong = (labels != y_true) | (labels < 0) | (labels >= classes)
    if wrong.any():
        raise ValueError(f"labels must be whole numbers from 0 to {classes - 1}, received {y_true[wrong][0]}")
    return labels


def place_of_largest(y_pred: np.ndarray) -> np.ndarray:
    """Where along the last axis the largest stands, the first of equal ones; -1, which is no class, where one is NaN."""
    place = y_pred.argmax(axis=-1)                        # that of the first NaN where there is one
    return np.where(np.isnan(np.take_along_axis(y_pred, place[..., None], axis=-1)[..., 0]), -1, place)


@spec("binary_accuracy")
class BinaryAccuracy(Metric):
    """Share of outputs for which (y_pred > threshold) equals y_true; NaN never does. Several outputs of a sample count one by one.

    threshold: finite, default 0.5; give 0 for predictions that are logits (the name "binary_accuracy" does by itself). A target of -1 (hinge losses)
    counts as 0.
    """

    threshold: float = real(default=0.5)

    def update(self, y_true: Any, y_pred: Any, weight: Any = None) -> np.ndarray:
        """(sum of weights of right outputs, sum of weights)."""
        y_true, y_pred = alike(y_true, y_pred)
        return weighted_sums((np.where(y_true == -1, 0, y_true) == (y_pred > self.threshold)) & ~np.isnan(y_pred), weight)

    def result(self, sums: np.ndarray) -> float:
        """The share of right outputs."""
        return mean_of(sums)


@spec("categorical_accuracy")
class CategoricalAccuracy(Metric):
    """Share of samples whose largest prediction is at the largest target. Targets are one-hot; the first of equal predictions counts, and no sample
    with a NaN among them is right."""

    def update(self, y_true: Any, y_pred: Any, weight: Any = None) -> np.ndarray:
        """(sum of weights of right samples, sum of weights)."""
        y_true, y_pred = one_hot_pair(y_true, y_pred)
        return weighted_sums(y_true.argmax(axis=-1) == place_of_largest(y_pred), weight)

    def result(self, sums: np.ndarray) -> float:
        """The share of right samples."""
        return mean_of(sums)


@spec("sparse_categorical_accuracy")
class SparseCategoricalAccuracy(Metric):
    """Share of samples whose largest prediction is at their label. The first of equal predictions counts, and no sample with a NaN among them is
    right."""

    def update(self, y_true: Any, y_pred: Any, weight: Any = None) -> np.ndarray:
        """(sum of weights of right samples, sum of weights)."""
        y_true, y_pred = label_pair(y_true, y_pred)
        return weighted_sums(y_true == place_of_largest(y_pred), weight)

    def result(self, sums: np.ndarray) -> float:
        """The share of right samples."""
        return mean_of(sums)


def in_top(labels: np.ndarray, y_pred: np.ndarray, k: int) -> np.ndarray:
    """Whether fewer than k predictions are larger than the label's: so predictions equal to the k-th largest are all in. NaN never is."""
    mine = np.take_along_axis(y_pred, labels[..., None], axis=-1)
    return ((y_pred > mine).sum(axis=-1) < k) & ~np.isnan(mine[..., 0])


@spec("top_k_categorical_accuracy")
class TopKCategoricalAccuracy(Metric):
    """Share of samples for which the class of the largest target is among the k largest predictions. Targets are one-hot.

    k: at least 1, default 5. Predictions equal to the k-th largest are all taken in, as in Keras on TensorFlow.
    """

    k: int = integer(default=5, low=1)

    def update(self, y_true: Any, y_pred: Any, weight: Any = None) -> np.ndarray:
        """(sum of weights of right samples, sum of weights)."""
        y_true, y_pred = one_hot_pair(y_true, y_pred)
        return weighted_sums(in_top(y_true.argmax(axis=-1), y_pred, self.k), weight)

    def result(self, sums: np.ndarray) -> float:
        """The share of right samples."""
        return mean_of(sums)


@spec("sparse_top_k_categorical_accuracy")
class SparseTopKCategoricalAccuracy(Metric):
    """Share of samples whose label is among the k largest predictions.

    k: at least 1, default 5. Predictions equal to the k-th largest are all taken in, as in Keras on TensorFlow.
    """

    k: int = integer(default=5, low=1)

    def update(self, y_true: Any, y_pred: Any, weight: Any = None) -> np.ndarray:
        """(sum of weights of right samples, sum of weights)."""
        y_true, y_pred = label_pair(y_true, y_pred)
        return weighted_sums(in_top(whole_labels(y_true, y_pred.shape[-1]), y_pred, self.k), weight)

    def result(self, sums: np.ndarray) -> float:
        """The share of right samples."""
        return mean_of(sums)


def indicators(y_true: Any, y_pred: Any) -> tuple[np.ndarray, np.ndarray]:
    """Targets as 0 and 1, and predictions, both (M, C) float64; C is 1 for a binary output. Labels become one-hot."""
    y_pred = np.asarray(y_pred, dtype=np.float64)
    if y_pred.ndim < 2 or y_pred.shape[-1] == 1:
        y_true, y_pred = alike(y_true, y_pred)
        return (y_true.reshape(-1, 1) > 0).astype(np.float64), y_pred.reshape(-1, 1)
    y_true = np.asarray(y_true)
    classes = y_pred.shape[-1]
    if y_true.shape == y_pred.shape:
        return (y_true.reshape(-1, classes) > 0).astype(np.float64), y_pred.reshape(-1, classes)
    labels, y_pred = label_pair(y_true, y_pred)
    return np.eye(classes)[whole_labels(labels, classes).reshape(-1)], y_pred.reshape(-1, classes)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, and 0 where below is 0."""
    return np.where(below == 0, 0.0, above / np.where(below == 0, 1.0, below))


@base
class Hits(Metric):
    """Base of precision, recall and F1: counts hits, false alarms and misses of each class. A subclass gives `score`."""

    threshold: float | None = real(default=0.5, none=True)
    average: str = choice("micro", "macro", "weighted", default="micro")

    def update(self, y_true: Any, y_pred: Any, weight: Any = None) -> np.ndarray:
        """For each class, in this order: weighted hits (true positives), false alarms (false positives), misses (false negatives)."""
        shape = np.shape(y_pred)
        t, y_pred = indicators(y_true, y_pred)
        M, C = t.shape
        if self.threshold is None and C > 1:
            p = np.eye(C)[y_pred.argmax(axis=-1)]
        else:
            p = (y_pred > (0.5 if self.threshold is None else self.threshold)).astype(np.float64)
        w = spread(weight, shape if len(shape) < 2 else shape[:-1]).reshape(M, 1)
        return np.concatenate([(w * t * p).sum(axis=0), (w * (1 - t) * p).sum(axis=0), (w * t * (1 - p)).sum(axis=0)])

    def result(self, sums: np.ndarray) -> float:
        """The score of all classes together (micro), or the mean of the classes' scores, plain (macro) or by their share (weighted)."""
        hits, alarms, misses = sums.reshape(3, -1)
        if self.average == "micro":
            return float(self.score(hits.sum(), alarms.sum(), misses.sum()))
        scores = self.score(hits, alarms, misses)
        if self.average == "macro":
            return float(scores.mean())
        share = hits + misses
        return float(ratio((scores * share).sum(), share.sum()))

    @abc.abstractmethod
    def score(self, hits: np.ndarray, alarms: np.ndarray, misses: np.ndarray) -> np.ndarray:
        """The score of each class."""


@spec("precision")
class Precision(Hits):
    """hits / (hits + false alarms): the share of what was predicted positive that is positive. 0 where nothing was predicted positive.

    threshold: a prediction above it is positive; default 0.5 (give 0 for logits; the name "precision" does by itself). None: with several classes
    the largest prediction is the positive one, with one output 0.5.
    average: "micro" (default) counts all classes together, which with the threshold of 0.5 is what Keras does; "macro" is the plain mean of
    the classes' values, "weighted" the mean by the share of each class among the targets. Of no meaning for a binary output.
    """

    def score(self, hits: np.ndarray, alarms: np.ndarray, misses: np.ndarray) -> np.ndarray:
        """The precision of each class."""
        return ratio(hits, hits + alarms)


@spec("recall")
class Recall(Hits):
    """hits / (hits + misses): the share of positives that was predicted so. 0 where there are no positives.

    threshold, average: as in Precision.
    """

    def score(self, hits: np.ndarray, alarms: np.ndarray, misses: np.ndarray) -> np.ndarray:
        """The recall of each class."""
        return ratio(hits, hits + misses)


@spec("f1_score", "f1")
class F1Score(Hits):
    """2 hits / (2 hits + false alarms + misses), the harmonic mean of precision and recall. 0 where there is nothing to count.

    threshold: None (default): with several classes the largest prediction is the positive one, with one output a prediction above 0.5 is.
    A number: a prediction above it is positive (several labels a sample; 0 for logits).
    average: "macro" (default) is the plain mean of the classes' values, "weighted" the mean by the share of each class among the targets,
    "micro" counts all classes together. Of no meaning for a binary output. Keras' default, None, gives one value a class; a metric here is
    one number.
    """

    threshold: float | None = real(default=None, none=True)
    average: str = choice("micro", "macro", "weighted", default="macro")

    def score(self, hits: np.ndarray, alarms: np.ndarray, misses: np.ndarray) -> np.ndarray:
        """The F1 of each class."""
        return ratio(2 * hits, 2 * hits + alarms + misses)


@spec("auc")
class AUC(Metric):
    """Area under the ROC curve: the chance that a positive gets a larger prediction than a negative, half of it where they are equal.

    Exact, from the ranks of all predictions (Keras interpolates between 200 thresholds); so it needs all data at once. Probabilities and
    logits give the same. Several classes are counted as so many binary outputs, as in Keras. NaN where positives or negatives are missing,
    or where a prediction is NaN. Hanley and McNeil (1982), The meaning and use of the area under a ROC curve, section 3.
    """

    additive = False

    def update(self, y_true: Any, y_pred: Any, weight: Any = None) -> np.ndarray:
        """(sum of weight products of the pairs that are in order, sum of the weight products of all pairs)."""
        shape = np.shape(y_pred)
        t, y_pred = indicators(y_true, y_pred)
        w = spread(weight, shape).reshape(t.shape)
        if np.isnan(y_pred).any():
            return np.array([math.nan, math.nan])
        _, place = np.unique(y_pred.reshape(-1), return_inverse=True)
        positives = np.bincount(place.reshape(-1), weights=(w * t).reshape(-1))
        negatives = np.bincount(place.reshape(-1), weights=(w * (1 - t)).reshape(-1))
        below = np.cumsum(negatives) - negatives
        return np.array([(positives * (below + negatives / 2)).sum(), positives.sum() * negatives.sum()])

    def result(self, sums: np.ndarray) -> float:
        """The area."""
        return mean_of(sums)
