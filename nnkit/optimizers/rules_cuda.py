"""CUDA twins of rules_cpu.py: the same constants and formulas. p parameters, g gradients, the rule's states, all [P].

The constants, float64 powers among them, are made by one thread of each block and shared. Task t covers its share of the elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nnkit.cuda_jit import THREADS, Kernel, barrier, data, kernel, routine, scratch, thread
from nnkit.jit import Counters, Double, Doubles, Int, Vector
from nnkit.optimizers import rules_cpu as cpu
from nnkit.optimizers.base import PIECE, WIDTH
from nnkit.optimizers.rules_cpu import rate_of
from nnkit.plan.layout import COUNTERS
from nnkit.prims.block_cuda import AT_ONCE, block_sum, row_share, several, share, wholes
from nnkit.prims.pointwise_cuda import pointwise
from nnkit.scalar import maximum, minimum, sqrt

__all__ = [
    "adadelta_update", "adagrad_update", "adam_amsgrad_update", "adam_update", "clip_by_norm", "clip_by_value", "nadam_update",
    "rmsprop_centered_momentum_update", "rmsprop_centered_update", "rmsprop_momentum_update", "rmsprop_update", "sgd_momentum_update",
    "sgd_nesterov_update", "sgd_update", "square_sums",
]

STEP = COUNTERS["step"]


def prepared(constants: Callable[..., Any]) -> Any:
    """What an update's formula takes, in the parameters' type: its five constants, and 1 - lr decay; lr is factor times the table's."""
    @routine
    def prepare(rates, counters, c0, c1, c2, decay, factor, like):
        T = like.dtype.type
        place = scratch(rates)
        barrier()
        if thread() == 0:
            rate = factor * rate_of(rates, counters)
            place[0], place[1], place[2], place[3], place[4] = constants(rate, counters[STEP] + 1, c0, c1, c2)
            place[5] = 1.0 - rate * decay
        barrier()
        return (T(place[0]), T(place[1]), T(place[2]), T(place[3]), T(place[4])), T(place[5])
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
        ps, gs = data(p), data(g)
        own_p, own_g = several(p), several(p)
        whole = wholes(start, stop)
        for i in range(start + thread(), whole, AT_ONCE * THREADS):
            for u in range(AT_ONCE):
                own_p[u] = ps[i + u * THREADS]
                own_g[u] = gs[i + u * THREADS]
            for u in range(AT_ONCE):
                ps[i + u * THREADS] = rule(keep * own_p[u], own_g[u], k)
        for i in range(whole + thread(), stop, THREADS):
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
        ps, gs, us = data(p), data(g), data(a)
        own_p, own_g, own_a = several(p), several(p), several(p)
        whole = wholes(start, stop)
        for i in range(start + thread(), whole, AT_ONCE * THREADS):
            for u in range(AT_ONCE):
                own_p[u] = ps[i + u * THREADS]
                own_g[u] = gs[i + u * THREADS]
                own_a[u] = us[i + u * THREADS]
            for u in range(AT_ONCE):
                j = i + u * THREADS
                ps[j], us[j] = rule(keep * own_p[u], own_g[u], own_a[u], k)
        for i in range(whole + thread(), stop, THREADS):
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
        ps, gs, us, vs = data(p), data(g), data(a), data(b)
        own_p, own_g, own_a, own_b = several(p), several(p), several(p), several(p)
        whole = wholes(start, stop)
        for i in range(start + thread(), whole, AT_ONCE * THREADS):
            for u in range(AT_ONCE):
                own_p[u] = ps[i + u * THREADS]
                own_g[u] = gs[i + u * THREADS]
                own_a[u] = us[i + u * THREADS]
                own_b[u] = vs[i + u * THREADS]
            for u in range(AT_ONCE):
                j = i + u * THREADS
                ps[j], us[j], vs[j] = rule(keep * own_p[u], own_g[u], own_a[u], own_b[u], k)
        for i in range(whole + thread(), stop, THREADS):
            ps[i], us[i], vs[i] = rule(keep * ps[i], gs[i], us[i], vs[i], k)
    return update


def sweep_3(constants: Callable[..., Any], moments: Callable[..., Any], step: Callable[..., Any]) -> Kernel:
    """The kernel of a rule with three states."""
    prepare = prepared(constants)

    @kernel
    def update(task: Int, tasks: Int, p: Vector, a: Vector, b: Vector, c: Vector, g: Vector, rates: Doubles, counters: Counters, c0: Double,
               c1: Double, c2: Double, decay: Double, factor: Double) -> None:
        """a, b = moments(g, a, b); p, c = step((1 - lr decay) p, g, a, b, c)."""
        start, stop = share(p.size, tasks, task)
        k, keep = prepare(rates, counters, c0, c1, c2, decay, factor, p)
        ps, gs, us, vs, ws = data(p), data(g), data(a), data(b), data(c)
        for i in range(start + thread(), stop, THREADS):
            us[i], vs[i] = moments(gs[i], us[i], vs[i], k)
            ps[i], ws[i] = step(keep * ps[i], gs[i], us[i], vs[i], ws[i], k)
    return update


sgd_update = sweep_0(cpu.sgd_constants, cpu.sgd)
sgd_momentum_update = sweep_1(cpu.sgd_constants, cpu.sgd_momentum)
sgd_nesterov_update = sweep_1(cpu.sgd_constants, cpu.sgd_nesterov)
adagrad_update = sweep_1(cpu.adagrad_constants, cpu.adagrad)
rmsprop_update = sweep_1(cpu.rmsprop_constants, cpu.rmsprop)
rmsprop_momentum_update = sweep_2(cpu.rmsprop_constants, cpu.rmsprop_momentum)
rmsprop_centered_update = sweep_2(cpu.rmsprop_constants, cpu.rmsprop_centered)
rmsprop_centered_momentum_update = sweep_3(cpu.rmsprop_constants, cpu.centered_moments, cpu.centered_step)
adam_update = sweep_2(cpu.adam_constants, cpu.adam)
adam_amsgrad_update = sweep_3(cpu.adam_constants, cpu.amsgrad_moments, cpu.amsgrad_step)
adadelta_update = sweep_2(cpu.rmsprop_constants, cpu.adadelta)
nadam_update = sweep_2(cpu.nadam_constants, cpu.nadam)


# Clipping.

@routine
def cut(x, z, top, q):
    """x cut to [-top, top]; NaN stays."""
    return maximum(minimum(x, top), -top)


@routine
def multiplied(x, z, factor, q):
    """factor x."""
    return factor * x


@routine
def squared(start, stop, xs, like):
    """The thread's own sum of squares, in float64."""
    own = several(like)
    total = 0.0
    whole = wholes(start, stop)
    for i in range(start + thread(), whole, AT_ONCE * THREADS):
        for u in range(AT_ONCE):
            own[u] = xs[i + u * THREADS]
        for u in range(AT_ONCE):
            total += np.float64(own[u]) * np.float64(own[u])
    for i in range(whole + thread(), stop, THREADS):
        total += np.float64(xs[i]) * np.float64(xs[i])
    return total


sweep_cut, sweep_multiplied = pointwise(cut), pointwise(multiplied)


@kernel
def clip_by_value(task: Int, tasks: Int, g: Vector, limit: Double) -> None:
    """g = g cut to [-limit, limit]; NaN stays. Task t covers its share of the elements. Updates g (in place)."""
    start, stop = share(g.size, tasks, task)
    sweep_cut(start, stop, data(g), data(g), data(g), g.dtype.type(limit), 0, g)


@kernel
def square_sums(task: Int, tasks: Int, sums: Doubles, g: Vector) -> None:
    """sums[WIDTH q] = the sum of the squares of piece q of g, PIECE elements long, in float64. Shapes: sums [WIDTH pieces], g [P].

    Task t covers its share of the pieces. Writes these entries of sums (=); the others are of no use.
    """
    first, last = row_share(sums.size // WIDTH, tasks, task)
    for q in range(first, last):
        total = block_sum(squared(q * PIECE, min((q + 1) * PIECE, g.size), data(g), g), scratch(sums))
        if thread() == 0:
            data(sums)[q * WIDTH] = total


@kernel
def clip_by_norm(task: Int, tasks: Int, g: Vector, sums: Doubles, limit: Double) -> None:
    """g *= limit / max(norm, limit), norm the root of the sum over the pieces of `sums` (see square_sums).

    A norm within the limit leaves g untouched; a NaN makes all of g NaN. Every block adds the pieces up anew.
    Task t covers its share of the elements. Updates g (in place).
    """
    start, stop = share(g.size, tasks, task)
    own, pieces = 0.0, data(sums)
    for q in range(thread(), sums.size // WIDTH, THREADS):
        own += pieces[q * WIDTH]
    norm = sqrt(block_sum(own, scratch(sums)))
    if not norm <= limit:
        sweep_multiplied(start, stop, data(g), data(g), data(g), g.dtype.type(limit / norm), 0, g)
