"""References of the merge layers, sample by sample: NumPy broadcasts samples as these layers do."""

import functools

import numpy as np


def _pairwise(f, xs):
    return np.stack([functools.reduce(f, samples) for samples in zip(*xs, strict=True)])


def add(spec, parameters, *xs, training=False):
    return _pairwise(lambda a, b: a + b, xs)


def subtract(spec, parameters, a, b, training=False):
    return _pairwise(lambda a, b: a - b, (a, b))


def multiply(spec, parameters, *xs, training=False):
    return _pairwise(lambda a, b: a * b, xs)


def average(spec, parameters, *xs, training=False):
    return add(spec, parameters, *xs) / len(xs)


def maximum(spec, parameters, *xs, training=False):
    return _pairwise(lambda a, b: np.where(a > b, a, b), xs)


def minimum(spec, parameters, *xs, training=False):
    return _pairwise(lambda a, b: np.where(a < b, a, b), xs)


def concatenate(spec, parameters, *xs, training=False):
    first = np.moveaxis(xs[0], spec.axis, 0)
    rows = [row for x in xs for row in np.moveaxis(x, spec.axis, 0)]
    return np.moveaxis(np.array(rows).reshape(len(rows), *first.shape[1:]), 0, spec.axis)


def concatenate_mask(spec, xs, masks):
    if all(mask is None for mask in masks) or xs[0].ndim < 3:
        return None
    full = [np.ones(x.shape[:2], bool) if mask is None else mask for x, mask in zip(xs, masks, strict=True)]
    return np.concatenate(full, axis=1) if spec.axis % xs[0].ndim == 1 else np.logical_and.reduce(full)


def dot(spec, parameters, a, b, training=False):
    """z[n, p, q] = sum over d of a[n, d, p] b[n, d, q], the axis in front."""
    i, j = spec.axes if isinstance(spec.axes, tuple) else (spec.axes, spec.axes)
    a, b = np.moveaxis(a, i, 1), np.moveaxis(b, j, 1)
    if spec.normalize:
        a, b = (x / np.maximum(np.sqrt((x**2).sum(axis=1, keepdims=True)), 1e-7) for x in (a, b))
    z = np.zeros((len(a), *a.shape[2:], *b.shape[2:]))
    for d in range(a.shape[1]):
        for n in range(len(a)):
            z[n] += np.multiply.outer(a[n, d], b[n, d])
    return z.reshape(len(a), 1) if z.ndim == 1 else z
