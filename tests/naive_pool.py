"""References of pooling: place by place, and over all places."""

import itertools
import math

import numpy as np


def windows(size, k, stride, padding, axis):
    """The places [first, last) of the input that each window along one axis covers, what lies outside left out."""
    if padding == "same":
        count = math.ceil(size / stride)
        missing = max(0, (count - 1) * stride + k - size)
        before, behind = missing // 2, missing - missing // 2
    else:
        before, behind = (0, 0) if padding == "valid" else padding[axis]
    starts = range(-before, size + behind - k + 1, stride)
    if padding == "same":
        starts = list(starts)[:count]
    return [(max(0, start), min(size, start + k)) for start in starts]


def pooled(spec, x, reduce):
    strides = spec.strides or spec.pool_size
    axes = [windows(*entry, spec.padding, axis) for axis, entry in enumerate(zip(x.shape[1:-1], spec.pool_size, strides, strict=True))]
    y = np.zeros((len(x), *map(len, axes), x.shape[-1]))
    for place in itertools.product(*(range(len(found)) for found in axes)):
        block = x[(slice(None), *(slice(*axes[axis][o]) for axis, o in enumerate(place)))]
        y[(slice(None), *place)] = reduce(block.reshape(len(x), math.prod(block.shape[1:-1]), x.shape[-1]), axis=1)
    return y


def max_pooling_1d(spec, parameters, x, training=False):
    return pooled(spec, x, np.max)


def average_pooling_1d(spec, parameters, x, training=False):
    return pooled(spec, x, np.mean)


def over_all(spec, x, reduce):
    return reduce(x, axis=tuple(range(1, x.ndim - 1)), keepdims=spec.keepdims)


def global_max_pooling_1d(spec, parameters, x, training=False):
    return over_all(spec, x, np.max)


def global_average_pooling_1d(spec, parameters, x, training=False, mask=None):
    if mask is None:
        return over_all(spec, x, np.mean)
    y = np.zeros((len(x), *spec.output_shape(x.shape[1:])))
    for n, kept in enumerate(mask):
        if kept.any():
            y[n] = x[n, kept].mean(axis=0, keepdims=spec.keepdims)
    return y


def max_pooling_2d(spec, parameters, x, training=False):
    return pooled(spec, x, np.max)


def max_pooling_3d(spec, parameters, x, training=False):
    return pooled(spec, x, np.max)


def average_pooling_2d(spec, parameters, x, training=False):
    return pooled(spec, x, np.mean)


def average_pooling_3d(spec, parameters, x, training=False):
    return pooled(spec, x, np.mean)


def global_max_pooling_2d(spec, parameters, x, training=False):
    return over_all(spec, x, np.max)


def global_max_pooling_3d(spec, parameters, x, training=False):
    return over_all(spec, x, np.max)


def global_average_pooling_2d(spec, parameters, x, training=False):
    return over_all(spec, x, np.mean)


def global_average_pooling_3d(spec, parameters, x, training=False):
    return over_all(spec, x, np.mean)
