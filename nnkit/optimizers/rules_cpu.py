"""Kernels of the optimizers: one sweep over the flat vector of trainable parameters, and clipping.

p parameters, g gradients, then the rule's state vectors, all [P]. `rates` is the table of learning rates and `counters` says where in it the
next update stands. Task t covers its share of the elements. Parameters and states are updated in place.

A rule is two functions. The first makes up to five constants, in float64, from the learning rate, the number t of the update and the three
scalars of the spec; the second is the formula for one parameter, and returns the new parameter and states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nnkit.jit import Counters, Double, Doubles, Int, Kernel, Vector, kernel, routine, scalar
from nnkit.optimizers.base import PIECE, WIDTH
from nnkit.plan.layout import COUNTERS
from nnkit.prims.pointwise_cpu import share
from nnkit.prims.simd_cpu import part
from nnkit.scalar import maximum, minimum, sqrt, whole_power

__all__ = [
    "adadelta_update", "adagrad_update", "adam_amsgrad_update", "adam_update", "clip_by_norm", "clip_by_value", "nadam_update",
    "rmsprop_centered_momentum_update", "rmsprop_centered_update", "rmsprop_momentum_update", "rmsprop_update", "sgd_momentum_update",
    "sgd_nesterov_update", "sgd_update", "square_sums",
]

STEP, TABLE_START, TABLE_SIZE = COUNTERS["step"], COUNTERS["table_start"], COUNTERS["table_size"]
BLOCK = 512                # elements of a state that stay in the first-level cache between the two loops of a rule of three states


@routine
def rate_of(rates, counters):
    """The learning rate of the next update, float64; a table of one entry is a constant rate."""
    return rates[min(max(counters[STEP] - counters[TABLE_START], 0), counters[TABLE_SIZE] - 1)]


# Constants: (rate, t, c0, c1, c2) -> five float64 numbers.

@scalar
def sgd_constants(rate, t, momentum, c1, c2):
    """Rate, momentum."""
    return rate, momentum, 0.0, 0.0, 0.0


@scalar
def adagrad_constants(rate, t, epsilon, c1, c2):
    """Rate, epsilon."""
    return rate, epsilon, 0.0, 0.0, 0.0


@scalar
def rmsprop_constants(rate, t, rho, epsilon, momentum):
    """Rate, rho, 1 - rho, epsilon, momentum; of Adadelta too, which has no momentum."""
    return rate, rho, 1.0 - rho, epsilon, momentum


@scalar
def adam_constants(rate, t, beta_1, beta_2, epsilon):
    """Alpha = lr sqrt(1 - beta_2^t) / (1 - beta_1^t)."""
    return rate * sqrt(1.0 - whole_power(beta_2, t)) / (1.0 - whole_power(beta_1, t)), 1.0 - beta_1, 1.0 - beta_2, epsilon, 0.0


# The product over i of (1 - 0.96^i / 2): from i = SETTLED on its factors are 1 in float64.
SETTLED = 900
LIMIT = 1.0
for _i in range(1, SETTLED + 1):
    LIMIT *= 1.0 - 0.5 * 0.96 ** _i


@scalar
def nadam_constants(rate, t, beta_1, beta_2, epsilon):
    """The factors of m and of g, both divided by s = 1 / sqrt(1 - beta_2^t), which sqrt(v / (1 - beta_2^t)) + epsilon then loses as well."""
    power, product = 1.0, 1.0
    for _ in range(t if t < SETTLED else 0):
        power *= 0.96
        product *= 1.0 - 0.5 * power
    if t >= SETTLED:
        power, product = whole_power(0.96, t), LIMIT
    now, then = beta_1 * (1.0 - 0.5 * power), beta_1 * (1.0 - 0.48 * power)
    product *= whole_power(beta_1, t)
    unscale = sqrt(1.0 - whole_power(beta_2, t))
    scale = rate * unscale
    return scale * then / (1.0 - product * then), scale * (1.0 - now) / (1.0 - product), 1.0 - beta_1, 1.0 - beta_2, epsilon * unscale


# Formulas: (p, g, states, constants) -> new p, new states.

@scalar
def sgd(p, g, k):
    """p - lr g."""
    return p - k[0] * g


@scalar
def sgd_momentum(p, g, m, k):
    """m = momentum m - lr g; p + m."""
    m = k[1] * m - k[0] * g
    return p + m, m


@scalar
def sgd_nesterov(p, g, m, k):
    """m = momentum m - lr g; p + momentum m - lr g."""
    m = k[1] * m - k[0] * g
    return p + (k[1] * m - k[0] * g), m


@scalar
def adagrad(p, g, a, k):
    """a += g^2; p - lr g / sqrt(a + epsilon)."""
    a += g * g
    return p - k[0] * g / sqrt(a + k[1]), a


@scalar
def rmsprop(p, g, v, k):
    """v = rho v + (1 - rho) g^2; p - lr g / sqrt(v + epsilon)."""
    v = k[1] * v + k[2] * (g * g)
    return p - k[0] * g / sqrt(v + k[3]), v


@scalar
def rmsprop_momentum(p, g, v, m, k):
    """The same step, gathered in m = momentum m + step; p - m."""
    v = k[1] * v + k[2] * (g * g)
    m = k[4] * m + k[0] * g / sqrt(v + k[3])
    return p - m, v, m


@scalar
def variance(v, a):
    """v - a^2, not below 0, where rounding takes it when gradients hardly change: the root would be NaN."""
    return maximum(v - a * a, type(v)(0))


@scalar
def rmsprop_centered(p, g, v, a, k):
    """a = rho a + (1 - rho) g; p - lr g / sqrt(v - a^2 + epsilon)."""
    v = k[1] * v + k[2] * (g * g)
    a = k[1] * a + k[2] * g
    return p - k[0] * g / sqrt(variance(v, a) + k[3]), v, a


@scalar
def adam(p, g, m, v, k):
    """m += (g - m)(1 - beta_1); v += (g^2 - v)(1 - beta_2); p - alpha m / (sqrt(v) + epsilon)."""
    m += (g - m) * k[1]
    v += (g * g - v) * k[2]
    return p - k[0] * m / (sqrt(v) + k[3]), m, v


@scalar
def adadelta(p, g, a, b, k):
    """a = rho a + (1 - rho) g^2; d = g sqrt(b + epsilon) / sqrt(a + epsilon), with one root; b = rho b + (1 - rho) d^2; p - lr d."""
    a = k[1] * a + k[2] * (g * g)
    d = sqrt((b + k[3]) / (a + k[3])) * g
    return p - k[0] * d, a, k[1] * b + k[2] * (d * d)


@scalar
def nadam(p, g, m, v, k):
    """m and v as in Adam; p - (factor of m * m + factor of g * g) / (sqrt(v) + epsilon')."""
    m += (g - m) * k[2]
    v += (g * g - v) * k[3]
    return p - (k[0] * m + k[1] * g) / (sqrt(v) + k[4]), m, v


# Rules of three states, in two parts: (g, two states, constants) -> the two; then (p, g, all states, constants) -> new p, third state.

@scalar
def amsgrad_moments(g, m, v, k):
    """Adam's m and v."""
    return m + (g - m) * k[1], v + (g * g - v) * k[2]


@scalar
def amsgrad_step(p, g, m, v, h, k):
    """h = max(h, v); p - alpha m / (sqrt(h) + epsilon)."""
    h = maximum(h, v)
    return p - k[0] * m / (sqrt(h) + k[3]), h


@scalar
def centered_moments(g, v, a, k):
    """Running means of g^2 and g."""
    return k[1] * v + k[2] * (g * g), k[1] * a + k[2] * g


@scalar
def centered_step(p, g, v, a, m, k):
    """m = momentum m + lr g / sqrt(v - a^2 + epsilon); p - m."""
    m = k[4] * m + k[0] * g / sqrt(variance(v, a) + k[3])
    return p - m, m


# Sweeps.

def prepared(constants: Callable[..., Any]) -> Any:
    """What an update's formula takes, in the parameters' type: its five constants, and 1 - lr decay; lr is factor times the table's."""
    @routine
    def prepare(rates, counters, c0, c1, c2, decay, factor, like):
        T = like.dtype.type
        rate = factor * rate_of(rates, counters)
        k0, k1, k2, k3, k4 = constants(rate, counters[STEP] + 1, c0, c1, c2)
        return (T(k0), T(k1), T(k2), T(k3), T(k4)), T(1.0 - rate * decay)
    return prepare


def sweep_0(constants: Callable[..., Any], rule: Callable[..., Any]) -> Kernel:
    """The kernel of a rule without states."""
    prepare = prepared(constants)

    @kernel
    def update(task: Int, tasks: Int, p: Vector, g: Vector, rates: Doubles, counters: Counters, c0: Double, c1: Double, c2: Double,
               decay: Double, factor: Double) -> None:
        """p = rule((1 - lr decay) p, g)."""
        start, stop = share(p.size, tasks, task)
        k, keep = prepare(rates, counters, c0, c1, c2, decay, factor, p)
        ps, gs = part(p, start, stop), part(g, start, stop)
        for i in range(ps.size):
            ps[i] = rule(keep * ps[i], gs[i], k)
    return update


def sweep_1(constants: Callable[..., Any], rule: Callable[..., Any]) -> Kernel:
    """The kernel of a rule with one state."""
    prepare = prepared(constants)

    @kernel
    def update(task: Int, tasks: Int, p: Vector, a: Vector, g: Vector, rates: Doubles, counters: Counters, c0: Double, c1: Double, c2: Double,
               decay: Double, factor: Double) -> None:
        """p, a = rule((1 - lr decay) p, g, a)."""
        start, stop = share(p.size, tasks, task)
        k, keep = prepare(rates, counters, c0, c1, c2, decay, factor, p)
        ps, gs, us = part(p, start, stop), part(g, start, stop), part(a, start, stop)
        for i in range(ps.size):
            ps[i], us[i] = rule(keep * ps[i], gs[i], us[i], k)
    return update


def sweep_2(constants: Callable[..., Any], rule: Callable[..., Any]) -> Kernel:
    """The kernel of a rule with two states."""
    prepare = prepared(constants)

    @kernel
    def update(task: Int, tasks: Int, p: Vector, a: Vector, b: Vector, g: Vector, rates: Doubles, counters: Counters, c0: Double, c1: Double,
               c2: Double, decay: Double, factor: Double) -> None:
        """p, a, b = rule((1 - lr decay) p, g, a, b)."""
        start, stop = share(p.size, tasks, task)
        k, keep = prepare(rates, counters, c0, c1, c2, decay, factor, p)
        ps, gs, us, vs = part(p, start, stop), part(g, start, stop), part(a, start, stop), part(b, start, stop)
        for i in range(ps.size):
            ps[i], us[i], vs[i] = rule(keep * ps[i], gs[i], us[i], vs[i], k)
    return update


def sweep_3(constants: Callable[..., Any], moments: Callable[..., Any], step: Callable[..., Any]) -> Kernel:
    """The kernel of a rule with three states: two loops over a block, since LLVM makes no vector code of a loop over five arrays.

    Any two of them might overlap, of which one is written: ten checks before the loop, more than the eight that LLVM is willing to make.
    """
    prepare = prepared(constants)

    @kernel
    def update(task: Int, tasks: Int, p: Vector, a: Vector, b: Vector, c: Vector, g: Vector, rates: Doubles, counters: Counters, c0: Double,
               c1: Double, c2: Double, decay: Double, factor: Double) -> None:
        """a, b = moments(g, a, b); p, c = step((1 - lr decay) p, g, a, b, c)."""
        start, stop = share(p.size, tasks, task)
        k, keep = prepare(rates, counters, c0, c1, c2, decay, factor, p)
        for first in range(start, stop, BLOCK):
            end = min(first + BLOCK, stop)
            ps, gs, us, vs, ws = part(p, first, end), part(g, first, end), part(a, first, end), part(b, first, end), part(c, first, end)
            for i in range(gs.size):
                us[i], vs[i] = moments(gs[i], us[i], vs[i], k)
            for i in range(ps.size):
                ps[i], ws[i] = step(keep * ps[i], gs[i], us[i], vs[i], ws[i], k)
    return update


sgd_update = sweep_0(sgd_constants, sgd)
sgd_momentum_update = sweep_1(sgd_constants, sgd_momentum)
sgd_nesterov_update = sweep_1(sgd_constants, sgd_nesterov)
adagrad_update = sweep_1(adagrad_constants, adagrad)
rmsprop_update = sweep_1(rmsprop_constants, rmsprop)
rmsprop_momentum_update = sweep_2(rmsprop_constants, rmsprop_momentum)
rmsprop_centered_update = sweep_2(rmsprop_constants, rmsprop_centered)
rmsprop_centered_momentum_update = sweep_3(rmsprop_constants, centered_moments, centered_step)
adam_update = sweep_2(adam_constants, adam)
adam_amsgrad_update = sweep_3(adam_constants, amsgrad_moments, amsgrad_step)
adadelta_update = sweep_2(rmsprop_constants, adadelta)
nadam_update = sweep_2(nadam_constants, nadam)


# Clipping.

@routine
def cut(g, limit):
    """g = g cut to [-limit, limit]; NaN stays."""
    top = g.dtype.type(limit)
    for i in range(g.size):
        g[i] = maximum(minimum(g[i], top), -top)


@kernel
def clip_by_value(task: Int, tasks: Int, g: Vector, limit: Double) -> None:
    """g = g cut to [-limit, limit]; NaN stays. Task t covers its share of the elements. Updates g (in place)."""
    start, stop = share(g.size, tasks, task)
    cut(part(g, start, stop), limit)


@routine
def piece_squares(lanes, g):
    """lanes[0] = the sum of the squares of g, in float64; lanes [WIDTH] are partial sums."""
    for j in range(WIDTH):
        lanes[j] = 0.0
    for first in range(0, g.size, WIDTH):
        gs = part(g, first, min(first + WIDTH, g.size))
        for j in range(gs.size):
            x = np.float64(gs[j])                        # float() would leave a float32 as it is
            lanes[j] += x * x
    width = WIDTH // 2
    while width:
        for j in range(width):
            lanes[j] += lanes[j + width]
        width //= 2


@routine
def scale_down(g, sums, limit):
    """g *= limit / max(norm, limit), norm the root of the sum over pieces of `sums` (see square_sums), in order.

    A norm within the limit leaves g untouched; a NaN makes all of g NaN.
    """
    total = 0.0
    for q in range(sums.size // WIDTH):
        total += sums[q * WIDTH]
    norm = sqrt(total)
    if norm <= limit:
        return
    factor = g.dtype.type(limit / norm)
    for i in range(g.size):
        g[i] *= factor


@kernel
def square_sums(task: Int, tasks: Int, sums: Doubles, g: Vector) -> None:
    """sums[WIDTH q] = the sum of the squares of piece q of g, PIECE elements long, in float64. Shapes: sums [WIDTH pieces], g [P].

    Lane j adds up the elements j, j + WIDTH, ... of the piece; then the lanes are added pairwise, halving: a tree that depends on P alone.
    Task t covers its share of the pieces. Writes sums (=), of which the other entries are of no use.
    """
    pieces = sums.size // WIDTH
    for q in range(pieces * task // tasks, pieces * (task + 1) // tasks):
        piece_squares(part(sums, q * WIDTH, (q + 1) * WIDTH), part(g, q * PIECE, min((q + 1) * PIECE, g.size)))


@kernel
def clip_by_norm(task: Int, tasks: Int, g: Vector, sums: Doubles, limit: Double) -> None:
    """scale_down(g). Task t covers its share of the elements. Updates g (in place)."""
    start, stop = share(g.size, tasks, task)
    scale_down(part(g, start, stop), sums, limit)
