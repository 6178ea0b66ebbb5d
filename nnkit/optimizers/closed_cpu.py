"""Kernels by which rows catch up by a closed form of the rule: all missed updates at once. See lazy.py, `Missed`, for the mathematics.

Letters as in lazy_cpu.py; S = SPAN. The history holds, for every update of the term, what a row has missed that is current up to it: the factor of p,
then the sums W_j. A tick enters an update there; a row that was last current at update t reads line t, and the powers of its states' factors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkit.jit import Counters, Double, Doubles, Int, Kernel, Labels, Matrix, Ordinals, kernel, routine, scalar
from nnkit.optimizers import rules_cpu as rules
from nnkit.optimizers.lazy import LONG, SHORT, SPAN
from nnkit.optimizers.lazy_cpu import AHEAD, STEP, TERM, fetch_1, fetch_2, fetch_3, fetch_4, rows_to_visit
from nnkit.optimizers.rules_cpu import rate_of
from nnkit.prims.simd_cpu import part, run
from nnkit.scalar import sqrt

__all__ = [
    "adam_4_missed",
    "adam_12_missed",
    "adam_tick",
    "amsgrad_missed",
    "coast_1_missed",
    "coast_2_missed",
    "coast_3_missed",
    "still_0_missed",
    "still_1_missed",
    "still_2_missed",
    "unit_tick",
]


# The history of the term: what the updates since counters[TERM] were, of which there are counters[STEP] - counters[TERM].

@scalar
def unit(rate, t, c0, c1, c2):
    """1: momentum goes on whatever the rate."""
    return 1.0


@scalar
def adam_amount(rate, t, beta_1, beta_2, epsilon):
    """The rate with the bias correction: see rules_cpu.adam_constants."""
    alpha, _, _, _, _ = rules.adam_constants(rate, t, beta_1, beta_2, epsilon)
    return alpha


def tick(amount_of: Callable[..., Any]) -> Kernel:
    """The kernel that enters an update into the history of a closed form."""
    @kernel
    def enter(task: Int, tasks: Int, history: Doubles, counters: Counters, coefficients: Doubles, rates: Doubles, c0: Double, c1: Double, c2: Double,
              decay: Double, ahead: Int, columns: Int) -> None:
        """history[t] = keep history[t] + amount coefficients[S - k] for all t that are k updates before the coming one; then a row for the rows
        of parameters that it makes current. Shapes: history [(S + 1) columns], coefficients [S columns]. One task. Updates history, counters."""
        now = counters[STEP] - counters[TERM]
        if ahead == 0 or now == SPAN:
            counters[TERM] = counters[STEP]
            now = 0
            for i in range(columns):
                history[i] = 1.0 if i == 0 else 0.0
        if ahead:
            rate = rate_of(rates, counters)
            amount, keep = amount_of(rate, counters[STEP] + 1, c0, c1, c2), 1.0 - rate * decay
            size = (now + 1) * columns
            hs, cs = part(history, 0, size), part(coefficients, SPAN * columns - size, SPAN * columns)
            for i in range(hs.size):
                hs[i] = keep * hs[i] + amount * cs[i]
            for i in range(columns):
                history[size + i] = 1.0 if i == 0 else 0.0
    return enter


unit_tick = tick(unit)
adam_tick = tick(adam_amount)


# Closed forms: (p, states, w, f, epsilon) -> new p and states. w: the factor of p, then the sums W_j; f: the states' factor^k.

@scalar
def still_0(p, w, f, epsilon):
    """p decays, and nothing else moves."""
    return w[0] * p


@scalar
def still_1(p, a, w, f, epsilon):
    """A running mean fades."""
    return w[0] * p, f[0] * a


@scalar
def still_2(p, a, b, w, f, epsilon):
    """Two of them."""
    return w[0] * p, f[0] * a, f[1] * b


@scalar
def coast_1(p, m, w, f, epsilon):
    """Momentum goes on: a geometric series."""
    return w[0] * p + w[1] * m, f[0] * m


@scalar
def coast_2(p, v, m, w, f, epsilon):
    """The same beside a running mean."""
    return w[0] * p + w[1] * m, f[0] * v, f[1] * m


@scalar
def coast_3(p, v, a, m, w, f, epsilon):
    """The same beside two."""
    return w[0] * p + w[1] * m, f[0] * v, f[1] * a, f[2] * m


@scalar
def adam_4(p, m, v, w, f, epsilon):
    """With a = sqrt(v), B = sqrt(beta_2), q = 1 / (a + epsilon), y = a q: 1 / (B^s a + epsilon) = q sum_j ((1 - B^s) y)^j, so that
    p + m q (W_0 + y W_1 + y^2 W_2 + ...) with W_j = -sum_s alpha_s beta_1^s (1 - B^s)^j."""
    T = type(p)
    a = sqrt(v)
    q = T(1) / (a + epsilon)
    y = a * q
    return w[0] * p + m * q * (w[1] + y * (w[2] + y * (w[3] + y * w[4]))), f[0] * m, f[1] * v


@scalar
def adam_12(p, m, v, w, f, epsilon):
    """The same with twelve terms."""
    T = type(p)
    a = sqrt(v)
    q = T(1) / (a + epsilon)
    y = a * q
    sums = w[7] + y * (w[8] + y * (w[9] + y * (w[10] + y * (w[11] + y * w[12]))))
    sums = w[1] + y * (w[2] + y * (w[3] + y * (w[4] + y * (w[5] + y * (w[6] + y * sums)))))
    return w[0] * p + m * q * sums, f[0] * m, f[1] * v


@scalar
def amsgrad(p, m, v, h, w, f, epsilon):
    """The largest v stays while v fades: p + m W_0 / (sqrt(h) + epsilon)."""
    return w[0] * p + m * w[1] / (sqrt(h) + epsilon), f[0] * m, f[1] * v, h


@routine
def short_sums(history, t, like):
    """Row t of a history of SHORT columns."""
    T, at = like.dtype.type, t * SHORT
    return T(history[at]), T(history[at + 1]), T(history[at + 2]), T(history[at + 3]), T(history[at + 4])


@routine
def long_sums(history, t, like):
    """Row t of a history of LONG columns."""
    T, at = like.dtype.type, t * LONG
    return (T(history[at]), T(history[at + 1]), T(history[at + 2]), T(history[at + 3]), T(history[at + 4]), T(history[at + 5]), T(history[at + 6]),
            T(history[at + 7]), T(history[at + 8]), T(history[at + 9]), T(history[at + 10]), T(history[at + 11]), T(history[at + 12]))


def missed_0(formula: Callable[..., Any], sums: Callable[..., Any]) -> Kernel:
    """The kernel of a closed form without states."""
    @kernel
    def catch_up(task: Int, tasks: Int, p: Matrix, last: Ordinals, rows: Labels, count: Ordinals, history: Doubles, powers: Doubles,
                 counters: Counters, epsilon: Double) -> None:
        """p = what the missed updates make of it."""
        every, start, stop = rows_to_visit(p, rows, count, counters, tasks, task)
        T, D, now = p.dtype.type, p.shape[1], counters[STEP]
        for j in range(start, stop):
            if j + AHEAD < stop and not every:
                fetch_1(rows[j + AHEAD] * D, D, p)
            r = j if every else rows[j]
            if last[r] < now:
                w, f = sums(history, last[r] - counters[TERM], p), (T(1),)
                ps = run(p, r * D, D)
                for i in range(ps.size):
                    ps[i] = formula(ps[i], w, f, T(epsilon))
                last[r] = now
    return catch_up


def missed_1(formula: Callable[..., Any], sums: Callable[..., Any]) -> Kernel:
    """The kernel of a closed form with one state."""
    @kernel
    def catch_up(task: Int, tasks: Int, p: Matrix, a: Matrix, last: Ordinals, rows: Labels, count: Ordinals, history: Doubles, powers: Doubles,
                 counters: Counters, epsilon: Double) -> None:
        """p, a = what the missed updates make of them."""
        every, start, stop = rows_to_visit(p, rows, count, counters, tasks, task)
        T, D, now = p.dtype.type, p.shape[1], counters[STEP]
        for j in range(start, stop):
            if j + AHEAD < stop and not every:
                fetch_2(rows[j + AHEAD] * D, D, p, a)
            r = j if every else rows[j]
            if last[r] < now:
                w, f = sums(history, last[r] - counters[TERM], p), (T(powers[now - last[r]]),)
                ps, us = run(p, r * D, D), run(a, r * D, D)
                for i in range(ps.size):
                    ps[i], us[i] = formula(ps[i], us[i], w, f, T(epsilon))
                last[r] = now
    return catch_up


def missed_2(formula: Callable[..., Any], sums: Callable[..., Any]) -> Kernel:
    """The kernel of a closed form with two states."""
    @kernel
    def catch_up(task: Int, tasks: Int, p: Matrix, a: Matrix, b: Matrix, last: Ordinals, rows: Labels, count: Ordinals, history: Doubles,
                 powers: Doubles, counters: Counters, epsilon: Double) -> None:
        """p, a, b = what the missed updates make of them."""
        every, start, stop = rows_to_visit(p, rows, count, counters, tasks, task)
        T, D, now = p.dtype.type, p.shape[1], counters[STEP]
        for j in range(start, stop):
            if j + AHEAD < stop and not every:
                fetch_3(rows[j + AHEAD] * D, D, p, a, b)
            r = j if every else rows[j]
            if last[r] < now:
                k = 2 * (now - last[r])
                w, f = sums(history, last[r] - counters[TERM], p), (T(powers[k]), T(powers[k + 1]))
                ps, us, vs = run(p, r * D, D), run(a, r * D, D), run(b, r * D, D)
                for i in range(ps.size):
                    ps[i], us[i], vs[i] = formula(ps[i], us[i], vs[i], w, f, T(epsilon))
                last[r] = now
    return catch_up


def missed_3(formula: Callable[..., Any], sums: Callable[..., Any]) -> Kernel:
    """The kernel of a closed form with three states."""
    @kernel
    def catch_up(task: Int, tasks: Int, p: Matrix, a: Matrix, b: Matrix, c: Matrix, last: Ordinals, rows: Labels, count: Ordinals, history: Doubles,
                 powers: Doubles, counters: Counters, epsilon: Double) -> None:
        """p, a, b, c = what the missed updates make of them."""
        every, start, stop = rows_to_visit(p, rows, count, counters, tasks, task)
        T, D, now = p.dtype.type, p.shape[1], counters[STEP]
        for j in range(start, stop):
            if j + AHEAD < stop and not every:
                fetch_4(rows[j + AHEAD] * D, D, p, a, b, c)
            r = j if every else rows[j]
            if last[r] < now:
                k = 3 * (now - last[r])
                w, f = sums(history, last[r] - counters[TERM], p), (T(powers[k]), T(powers[k + 1]), T(powers[k + 2]))
                ps, us, vs, ws = run(p, r * D, D), run(a, r * D, D), run(b, r * D, D), run(c, r * D, D)
                for i in range(ps.size):
                    ps[i], us[i], vs[i], ws[i] = formula(ps[i], us[i], vs[i], ws[i], w, f, T(epsilon))
                last[r] = now
    return catch_up


still_0_missed = missed_0(still_0, short_sums)
still_1_missed = missed_1(still_1, short_sums)
still_2_missed = missed_2(still_2, short_sums)
coast_1_missed = missed_1(coast_1, short_sums)
coast_2_missed = missed_2(coast_2, short_sums)
coast_3_missed = missed_3(coast_3, short_sums)
adam_4_missed = missed_2(adam_4, short_sums)
adam_12_missed = missed_2(adam_12, long_sums)
amsgrad_missed = missed_3(amsgrad, short_sums)
