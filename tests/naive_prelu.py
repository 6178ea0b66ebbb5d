"""Reference of PReLU."""

import numpy as np


def prelu(spec, parameters, x, training=False):
    """alpha broadcasts along the shared axes, where it has one entry."""
    return np.where(x > 0, x, parameters["alpha"] * x)
