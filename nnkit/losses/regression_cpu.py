"""Kernels of the losses on numbers and counts: for each a scalar function l(y, t) and its derivative in y, side by side."""

from __future__ import annotations

from nnkit.losses.pointwise_cpu import pointwise_loss
from nnkit.scalar import LOG_2, expm1_below, fabs, log, log1p, tanh


def mean_squared_error(y, t):
    """(y - t)^2."""
    return (y - t) * (y - t)


def mean_squared_error_derivative(y, t):
    """2 (y - t)."""
    return type(y)(2) * (y - t)


mean_squared_error_forward, mean_squared_error_backward = pointwise_loss(mean_squared_error, mean_squared_error_derivative)


def mean_absolute_error(y, t):
    """|y - t|."""
    return fabs(y - t)


def mean_absolute_error_derivative(y, t):
    """sign(y - t); 0 at 0, NaN for NaN."""
    T = type(y)
    e = y - t
    return T(1) if e > T(0) else (T(-1) if e < T(0) else e)


mean_absolute_error_forward, mean_absolute_error_backward = pointwise_loss(mean_absolute_error, mean_absolute_error_derivative)


def huber(y, t, delta):
    """e^2 / 2 where |e| <= delta, delta |e| - delta^2 / 2 beyond; e = y - t."""
    T = type(y)
    e = fabs(y - t)
    return T(0.5) * e * e if e <= delta else delta * (e - T(0.5) * delta)


def huber_derivative(y, t, delta):
    """Y - t within [-delta, delta]."""
    e = y - t
    return delta if e > delta else (-delta if e < -delta else e)


huber_forward, huber_backward = pointwise_loss(huber, huber_derivative)


def log_cosh(y, t):
    """log cosh e, e = y - t. With p = exp(-|e|): log(1 + (1 - p)^2 / 2p) where e is small, where log cosh e is about e^2 / 2; elsewhere
    |e| - log 2 + log(1 + p^2)."""
    T = type(y)
    e = fabs(y - t)
    q = -expm1_below(-e)
    p = T(1) - q
    small = e < T(1)
    return log1p(q * q / (T(2) * p) if small else p * p) + (T(0) if small else e - LOG_2(y))


def log_cosh_derivative(y, t):
    """Tanh e."""
    return tanh(y - t)


log_cosh_forward, log_cosh_backward = pointwise_loss(log_cosh, log_cosh_derivative)


def poisson(y, t):
    """y - t log(y + 1e-7)."""
    return y - t * log(y + type(y)(1e-7))


def poisson_derivative(y, t):
    """1 - t / (y + 1e-7)."""
    T = type(y)
    return T(1) - t / (y + T(1e-7))


poisson_forward, poisson_backward = pointwise_loss(poisson, poisson_derivative)
