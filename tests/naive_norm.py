"""References of the normalization layers."""

import numpy as np


def batch_normalization(spec, parameters, x, training=False):
    """Channel by channel; a frozen layer, and inference, use the moving averages."""
    first = np.moveaxis(x, spec.axis, 0)
    cells = first.reshape(len(first), int(np.prod(first.shape[1:])))
    y = np.empty_like(cells)
    for c in range(len(cells)):
        if training and spec.trainable:
            mean = sum(cells[c]) / max(1, cells[c].size)
            variance = sum((cells[c] - mean) ** 2) / max(1, cells[c].size)
        else:
            mean, variance = parameters["moving_mean"][c], parameters["moving_variance"][c]
        gamma = parameters["gamma"][c] if spec.scale else 1.0
        beta = parameters["beta"][c] if spec.center else 0.0
        y[c] = gamma * (cells[c] - mean) / np.sqrt(variance + spec.epsilon) + beta
    return np.moveaxis(y.reshape(first.shape), 0, spec.axis)


def layer_normalization(spec, parameters, x, training=False):
    """Row by row over the last axes."""
    shape = x.shape[x.ndim - len(spec.axis):]
    length = int(np.prod(shape))
    rows = x.reshape(int(np.prod(x.shape[:x.ndim - len(spec.axis)])), length)
    gamma = parameters["gamma"].reshape(length) if spec.scale else np.ones(length)
    beta = parameters["beta"].reshape(length) if spec.center else np.zeros(length)
    y = np.empty_like(rows)
    for r in range(len(rows)):
        mean = sum(rows[r]) / max(1, length)
        variance = sum((rows[r] - mean) ** 2) / max(1, length)
        y[r] = gamma * (rows[r] - mean) / np.sqrt(variance + spec.epsilon) + beta
    return y.reshape(x.shape)
