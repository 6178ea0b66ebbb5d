"""CUDA twins of regression_cpu.py."""

from __future__ import annotations

from nnkit.losses import regression_cpu as cpu
from nnkit.losses.pointwise_cuda import pointwise_loss

mean_squared_error_forward, mean_squared_error_backward = pointwise_loss(cpu.mean_squared_error_forward, cpu.mean_squared_error_backward)
mean_absolute_error_forward, mean_absolute_error_backward = pointwise_loss(cpu.mean_absolute_error_forward, cpu.mean_absolute_error_backward)
huber_forward, huber_backward = pointwise_loss(cpu.huber_forward, cpu.huber_backward)
log_cosh_forward, log_cosh_backward = pointwise_loss(cpu.log_cosh_forward, cpu.log_cosh_backward)
poisson_forward, poisson_backward = pointwise_loss(cpu.poisson_forward, cpu.poisson_backward)
