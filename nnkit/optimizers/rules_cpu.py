"""Kernels of the optimizers: one sweep over the flat vector of trainable parameters.

p parameters, g gradients, then the rule's state vectors, all [P]. `rates` is the table of learning rates and `counters` says where in it the
next update stands. Task t covers its share of the elements. Parameters and states are updated in place.
"""

from __future__ import annotations

import math

from nnkit.jit import Counters, Double, Doubles, Int, Vector, kernel, routine, scalar
from nnkit.plan.build import COUNTERS
from nnkit.prims.pointwise_cpu import share
from nnkit.prims.simd_cpu import part

STEP, TABLE_START, TABLE_SIZE = COUNTERS["step"], COUNTERS["table_start"], COUNTERS["table_size"]


@routine
def rate_of(rates, counters):
    """The learning rate of the next update, float64; a table of one entry is a constant rate."""
    return rates[min(max(counters[STEP] - counters[TABLE_START], 0), counters[TABLE_SIZE] - 1)]


@routine
def adam_rate(rates, counters, beta_1, beta_2):
    """lr sqrt(1 - beta_2^t) / (1 - beta_1^t) in float64, t counting from 1."""
    t = float(counters[STEP] + 1)
    return rate_of(rates, counters) * math.sqrt(1.0 - beta_2 ** t) / (1.0 - beta_1 ** t)


@kernel
def adam_update(task: Int, tasks: Int, p: Vector, m: Vector, v: Vector, g: Vector, rates: Doubles, counters: Counters,
                beta_1: Double, beta_2: Double, epsilon: Double) -> None:
    """m += (g - m)(1 - beta_1); v += (g^2 - v)(1 - beta_2); p -= alpha m / (sqrt(v) + epsilon)."""
    start, stop = share(p.size, tasks, task)
    T = p.dtype.type
    alpha, eps = T(adam_rate(rates, counters, beta_1, beta_2)), T(epsilon)
    keep_m, keep_v = T(1.0 - beta_1), T(1.0 - beta_2)
    p, m, v, g = part(p, start, stop), part(m, start, stop), part(v, start, stop), part(g, start, stop)
    for i in range(p.size):
        m[i] += (g[i] - m[i]) * keep_m
        v[i] += (g[i] * g[i] - v[i]) * keep_v
        p[i] -= alpha * m[i] / (math.sqrt(v[i]) + eps)
