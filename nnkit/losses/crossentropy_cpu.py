"""Kernels of the cross-entropies."""

from __future__ import annotations

from nnkit.jit import scalar
from nnkit.losses.pointwise_cpu import pointwise_loss
from nnkit.scalar import log, sigmoid, softplus


@scalar
def smoothed(t, smoothing):
    """T (1 - s) + s / 2."""
    T = type(t)
    return t * (T(1) - smoothing) + T(0.5) * smoothing


@scalar
def clipped(y):
    """Y within [1e-7, 1 - 1e-7]; NaN stays NaN."""
    T = type(y)
    low, high = T(1e-7), T(1) - T(1e-7)
    return low if y < low else (high if y > high else y)


def binary_crossentropy(y, t, smoothing):
    """-t log y - (1 - t) log(1 - y)."""
    T = type(y)
    t = smoothed(t, smoothing)
    p = clipped(y)
    return -(t * log(p) + (T(1) - t) * log(T(1) - p))


def binary_crossentropy_derivative(y, t, smoothing):
    """(y - t) / (y (1 - y)), 0 where y was clipped."""
    T = type(y)
    p = clipped(y)
    return (p - smoothed(t, smoothing)) / (p * (T(1) - p)) if p == y else T(0)


binary_crossentropy_forward, binary_crossentropy_backward = pointwise_loss(binary_crossentropy, binary_crossentropy_derivative)


def binary_crossentropy_logits(z, t, smoothing):
    """softplus(z) - z t, which is max(z, 0) - z t + log(1 + exp(-|z|))."""
    return softplus(z) - z * smoothed(t, smoothing)


def binary_crossentropy_logits_derivative(z, t, smoothing):
    """sigmoid(z) - t."""
    return sigmoid(z) - smoothed(t, smoothing)


binary_crossentropy_logits_forward, binary_crossentropy_logits_backward = pointwise_loss(
    binary_crossentropy_logits, binary_crossentropy_logits_derivative)
