"""References of padding, cropping and upsampling."""

import math

import numpy as np


def padded(spec, x):
    return np.pad(x, ((0, 0), *spec.padding, (0, 0)))


def cropped(spec, x):
    return x[(slice(None), *(slice(before, size - behind) for size, (before, behind) in zip(x.shape[1:-1], spec.cropping, strict=True)))]


def repeated(spec, x):
    for axis, times in enumerate(spec.size):
        x = np.repeat(x, times, axis + 1)
    return x


def on_lines(x, axis, times):
    """Place o of the output at (o + 1/2) / times - 1/2, held within the first and the last place of the input."""
    size = x.shape[axis]
    rows = []
    for o in range(size * times):
        position = min(max((o + 0.5) / times - 0.5, 0), size - 1)
        i = math.floor(position)
        right = min(i + 1, size - 1)
        rows.append((1 - (position - i)) * np.take(x, i, axis) + (position - i) * np.take(x, right, axis))
    return np.stack(rows, axis) if rows else x


def zero_padding_1d(spec, parameters, x, training=False):
    return padded(spec, x)


def zero_padding_2d(spec, parameters, x, training=False):
    return padded(spec, x)


def zero_padding_3d(spec, parameters, x, training=False):
    return padded(spec, x)


def cropping_1d(spec, parameters, x, training=False):
    return cropped(spec, x)


def cropping_2d(spec, parameters, x, training=False):
    return cropped(spec, x)


def cropping_3d(spec, parameters, x, training=False):
    return cropped(spec, x)


def up_sampling_1d(spec, parameters, x, training=False):
    return repeated(spec, x)


def up_sampling_2d(spec, parameters, x, training=False):
    if spec.interpolation == "nearest":
        return repeated(spec, x)
    return on_lines(on_lines(x, 1, spec.size[0]), 2, spec.size[1])


def up_sampling_3d(spec, parameters, x, training=False):
    return repeated(spec, x)
