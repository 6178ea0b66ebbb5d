"""Kernels of row-wise updates: the rule on the rows of a batch, and clipping of their gradients. How rows catch up with the updates that they have
missed: closed_cpu.py and replay_cpu.py; which of them when: lazy.py.

V rows of a parameter, D columns (all other axes), R places for distinct rows. p the parameter, then the rule's states, all [V, D]; last [V]: the
number of the update up to which a row is current. The distinct rows of a batch are the first count[0] of `rows`, which has R places. Task t covers
its share of the rows. Parameters, states and `last` are updated in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkit.jit import Counters, Double, Doubles, Int, Kernel, Labels, Matrix, Ordinals, kernel, routine
from nnkit.optimizers import rules_cpu as rules
from nnkit.optimizers.base import PIECE, WIDTH
from nnkit.optimizers.lazy import SPAN
from nnkit.plan.layout import COUNTERS
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.pointwise_cpu import share
from nnkit.prims.simd_cpu import part, prefetch, run

__all__ = [
    "adadelta_rows",
    "adagrad_rows",
    "adam_amsgrad_rows",
    "adam_rows",
    "add_square_sums",
    "clip_rows_by_norm",
    "clip_rows_by_value",
    "nadam_rows",
    "rmsprop_centered_momentum_rows",
    "rmsprop_centered_rows",
    "rmsprop_momentum_rows",
    "rmsprop_rows",
    "row_square_sums",
    "sgd_momentum_rows",
    "sgd_nesterov_rows",
    "sgd_rows",
]

AHEAD = 4                                                # rows that are fetched before their turn
STEP, TERM = COUNTERS["step"], COUNTERS["term"]


@routine
def rows_to_visit(p, rows, count, counters, tasks, task):
    """(whether all rows catch up, first, one after the last) of a task: all where `rows` is empty or the history is full."""
    every = rows.size == 0 or counters[STEP] - counters[TERM] == SPAN
    start, stop = row_share(p.shape[0] if every else count[0], tasks, task)
    return every, start, stop


# Rows lie anywhere in memory, so the processor cannot guess which comes next.

@routine
def fetch_1(start, n, p):
    """Fetch n elements of an array."""
    prefetch(p, start, n)


@routine
def fetch_2(start, n, p, a):
    """Of two."""
    prefetch(p, start, n)
    prefetch(a, start, n)


@routine
def fetch_3(start, n, p, a, b):
    """Of three."""
    fetch_2(start, n, p, a)
    prefetch(b, start, n)


@routine
def fetch_4(start, n, p, a, b, c):
    """Of four."""
    fetch_2(start, n, p, a)
    fetch_2(start, n, b, c)


# The rule on the rows of a batch: g [R, D] their gradients; the update is number counters[STEP] + 1.

def rows_0(constants: Callable[..., Any], rule: Callable[..., Any]) -> Kernel:
    """The kernel of a rule without states."""
    prepare = rules.prepared(constants)

    @kernel
    def update(task: Int, tasks: Int, p: Matrix, last: Ordinals, g: Matrix, rows: Labels, count: Ordinals, rates: Doubles, counters: Counters,
               c0: Double, c1: Double, c2: Double, decay: Double) -> None:
        """p = rule((1 - lr decay) p, g)."""
        start, stop = row_share(count[0], tasks, task)
        D = p.shape[1]
        k, keep = prepare(rates, counters, c0, c1, c2, decay, 1.0, p)
        for j in range(start, stop):
            if j + AHEAD < stop:
                fetch_1(rows[j + AHEAD] * D, D, p)
            r = rows[j]
            ps, gs = run(p, r * D, D), run(g, j * D, D)
            for i in range(ps.size):
                ps[i] = rule(keep * ps[i], gs[i], k)
            last[r] = counters[STEP] + 1
    return update


def rows_1(constants: Callable[..., Any], rule: Callable[..., Any]) -> Kernel:
    """The kernel of a rule with one state."""
    prepare = rules.prepared(constants)

    @kernel
    def update(task: Int, tasks: Int, p: Matrix, a: Matrix, last: Ordinals, g: Matrix, rows: Labels, count: Ordinals, rates: Doubles,
               counters: Counters, c0: Double, c1: Double, c2: Double, decay: Double) -> None:
        """p, a = rule((1 - lr decay) p, g, a)."""
        start, stop = row_share(count[0], tasks, task)
        D = p.shape[1]
        k, keep = prepare(rates, counters, c0, c1, c2, decay, 1.0, p)
        for j in range(start, stop):
            if j + AHEAD < stop:
                fetch_2(rows[j + AHEAD] * D, D, p, a)
            r = rows[j]
            ps, gs, us = run(p, r * D, D), run(g, j * D, D), run(a, r * D, D)
            for i in range(ps.size):
                ps[i], us[i] = rule(keep * ps[i], gs[i], us[i], k)
            last[r] = counters[STEP] + 1
    return update


def rows_2(constants: Callable[..., Any], rule: Callable[..., Any]) -> Kernel:
    """The kernel of a rule with two states."""
    prepare = rules.prepared(constants)

    @kernel
    def update(task: Int, tasks: Int, p: Matrix, a: Matrix, b: Matrix, last: Ordinals, g: Matrix, rows: Labels, count: Ordinals, rates: Doubles,
               counters: Counters, c0: Double, c1: Double, c2: Double, decay: Double) -> None:
        """p, a, b = rule((1 - lr decay) p, g, a, b)."""
        start, stop = row_share(count[0], tasks, task)
        D = p.shape[1]
        k, keep = prepare(rates, counters, c0, c1, c2, decay, 1.0, p)
        for j in range(start, stop):
            if j + AHEAD < stop:
                fetch_3(rows[j + AHEAD] * D, D, p, a, b)
            r = rows[j]
            ps, gs, us, vs = run(p, r * D, D), run(g, j * D, D), run(a, r * D, D), run(b, r * D, D)
            for i in range(ps.size):
                ps[i], us[i], vs[i] = rule(keep * ps[i], gs[i], us[i], vs[i], k)
            last[r] = counters[STEP] + 1
    return update


def rows_3(constants: Callable[..., Any], moments: Callable[..., Any], step: Callable[..., Any]) -> Kernel:
    """The kernel of a rule with three states, in two loops: see rules_cpu.sweep_3."""
    prepare = rules.prepared(constants)

    @kernel
    def update(task: Int, tasks: Int, p: Matrix, a: Matrix, b: Matrix, c: Matrix, last: Ordinals, g: Matrix, rows: Labels, count: Ordinals,
               rates: Doubles, counters: Counters, c0: Double, c1: Double, c2: Double, decay: Double) -> None:
        """a, b = moments(g, a, b); p, c = step((1 - lr decay) p, g, a, b, c)."""
        start, stop = row_share(count[0], tasks, task)
        D = p.shape[1]
        k, keep = prepare(rates, counters, c0, c1, c2, decay, 1.0, p)
        for j in range(start, stop):
            if j + AHEAD < stop:
                fetch_4(rows[j + AHEAD] * D, D, p, a, b, c)
            r = rows[j]
            ps, gs, us, vs, ws = run(p, r * D, D), run(g, j * D, D), run(a, r * D, D), run(b, r * D, D), run(c, r * D, D)
            for i in range(gs.size):
                us[i], vs[i] = moments(gs[i], us[i], vs[i], k)
            for i in range(ps.size):
                ps[i], ws[i] = step(keep * ps[i], gs[i], us[i], vs[i], ws[i], k)
            last[r] = counters[STEP] + 1
    return update


sgd_rows = rows_0(rules.sgd_constants, rules.sgd)
sgd_momentum_rows = rows_1(rules.sgd_constants, rules.sgd_momentum)
sgd_nesterov_rows = rows_1(rules.sgd_constants, rules.sgd_nesterov)
adagrad_rows = rows_1(rules.adagrad_constants, rules.adagrad)
rmsprop_rows = rows_1(rules.rmsprop_constants, rules.rmsprop)
rmsprop_momentum_rows = rows_2(rules.rmsprop_constants, rules.rmsprop_momentum)
rmsprop_centered_rows = rows_2(rules.rmsprop_constants, rules.rmsprop_centered)
rmsprop_centered_momentum_rows = rows_3(rules.rmsprop_constants, rules.centered_moments, rules.centered_step)
adam_rows = rows_2(rules.adam_constants, rules.adam)
adam_amsgrad_rows = rows_3(rules.adam_constants, rules.amsgrad_moments, rules.amsgrad_step)
adadelta_rows = rows_2(rules.rmsprop_constants, rules.adadelta)
nadam_rows = rows_2(rules.nadam_constants, rules.nadam)


# Clipping of the gradients g [R, D] of the rows of a batch.

@kernel
def clip_rows_by_value(task: Int, tasks: Int, g: Matrix, count: Ordinals, limit: Double) -> None:
    """g = g cut to [-limit, limit]; NaN stays. Task t covers its share of the elements. Updates the rows of g that count (in place)."""
    start, stop = share(count[0] * g.shape[1], tasks, task)
    rules.cut(part(g, start, stop), limit)


@kernel
def row_square_sums(task: Int, tasks: Int, sums: Doubles, g: Matrix, count: Ordinals) -> None:
    """rules_cpu.square_sums of the rows of g that count; pieces without any have the sum 0. Task t covers its share of the pieces.
    Writes sums (=)."""
    pieces, size = sums.size // WIDTH, count[0] * g.shape[1]
    for q in range(pieces * task // tasks, pieces * (task + 1) // tasks):
        rules.piece_squares(part(sums, q * WIDTH, (q + 1) * WIDTH), part(g, min(q * PIECE, size), min((q + 1) * PIECE, size)))


@kernel
def clip_rows_by_norm(task: Int, tasks: Int, g: Matrix, count: Ordinals, sums: Doubles, limit: Double) -> None:
    """rules_cpu.clip_by_norm on the rows of g that count. Task t covers its share of the elements. Updates g (in place)."""
    start, stop = share(count[0] * g.shape[1], tasks, task)
    rules.scale_down(part(g, start, stop), sums, limit)


@kernel
def add_square_sums(task: Int, tasks: Int, total: Doubles, sums: Doubles, before: Doubles) -> None:
    """total[0] = the sum over the pieces of `sums`, in order, + before[0] where there is a `before`; 0 behind it. Shapes: total [WIDTH],
    sums [WIDTH pieces], before [WIDTH] or empty. One task. Writes total (=)."""
    found = before[0] if before.size else 0.0
    for q in range(sums.size // WIDTH):
        found += sums[q * WIDTH]
    for i in range(total.size):
        total[i] = found if i == 0 else 0.0
