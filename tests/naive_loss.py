"""References of the losses: the loss of each row, in loops over rows. y: outputs (..., C); t: targets of that shape, or labels (...)."""

import math

import numpy as np


def rows_of(y, t):
    """Pairs of a row of y and a row (or label) of t."""
    y = np.asarray(y, np.float64)
    if y.ndim == 1:
        y, t = y[:, None], np.asarray(t)[:, None]
    rows = y.reshape(math.prod(y.shape[:-1]), y.shape[-1])
    return zip(rows, np.asarray(t).reshape(len(rows), -1), strict=True)


def entrywise(y, t, f, summarise=np.mean):
    return np.array([summarise([f(float(a), float(b)) for a, b in zip(row, target, strict=True)]) for row, target in rows_of(y, t)])


def clip(value, low, high):
    return min(max(value, low), high)


def log_sum_exp(z):
    top = max(z)
    return top + math.log(sum(math.exp(value - top) for value in z))


def log_probabilities(y, from_logits):
    """log softmax of logits, or log of the normalised and clipped probabilities."""
    if from_logits:
        total = log_sum_exp(y)
        return [value - total for value in y]
    total = sum(y)
    return [math.log(clip(value / total, 1e-7, 1 - 1e-7)) for value in y]


def mean_squared_error(spec, y, t):
    return entrywise(y, t, lambda a, b: (a - b) ** 2)


def mean_absolute_error(spec, y, t):
    return entrywise(y, t, lambda a, b: abs(a - b))


def huber(spec, y, t):
    def f(a, b):
        e = abs(a - b)
        return 0.5 * e**2 if e <= spec.delta else spec.delta * e - 0.5 * spec.delta**2
    return entrywise(y, t, f)


def log_cosh(spec, y, t):
    return entrywise(y, t, lambda a, b: math.log(math.cosh(a - b)))


def user_loss(spec, y, t):
    """The one that cases_loss.py registers."""
    return entrywise(y, t, lambda a, b: max(0.3 * (b - a), 0.7 * (a - b)) + (a - b) ** 2)


def poisson(spec, y, t):
    return entrywise(y, t, lambda a, b: a - b * math.log(a + 1e-7))


def kl_divergence(spec, y, t):
    def f(a, b):
        a, b = clip(a, 1e-7, 1), clip(b, 1e-7, 1)
        return b * math.log(b / a)
    return entrywise(y, t, f, sum)


def hinge(spec, y, t):
    return entrywise(y, t, lambda a, b: max(1 - a * b, 0))


def squared_hinge(spec, y, t):
    return entrywise(y, t, lambda a, b: max(1 - a * b, 0) ** 2)


def categorical_hinge(spec, y, t):
    return np.array([max(1 + max((1 - b) * a for a, b in zip(row, target, strict=True)) - row @ target, 0) for row, target in rows_of(y, t)])


def binary_crossentropy(spec, y, t):
    def f(a, b):
        b = b * (1 - spec.label_smoothing) + 0.5 * spec.label_smoothing
        p = 1 / (1 + math.exp(-a)) if spec.from_logits else clip(a, 1e-7, 1 - 1e-7)
        return -(b * math.log(p) + (1 - b) * math.log(1 - p))
    return entrywise(y, t, f)


def categorical_crossentropy(spec, y, t):
    s = spec.label_smoothing
    return np.array([-sum((b * (1 - s) + s / len(row)) * p for b, p in zip(target, log_probabilities(row, spec.from_logits), strict=True))
                     for row, target in rows_of(y, t)])


def sparse_categorical_crossentropy(spec, y, t):
    """Ignored rows are 0; the others are scaled so that the mean over all rows is the mean over them."""
    pairs = [(row, int(label[0])) for row, label in rows_of(y, t)]
    counted = [spec.ignore_class is None or label != spec.ignore_class for _, label in pairs]
    share = len(pairs) / sum(counted) if any(counted) else 0.0
    return np.array([-share * log_probabilities(row, spec.from_logits)[label] if counts else 0.0
                     for (row, label), counts in zip(pairs, counted, strict=True)])
