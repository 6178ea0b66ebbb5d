"""Kernels of row-wise updates: see lazy.py. V rows of a parameter, D columns (all other axes), R places for distinct rows, S = SPAN.

p the parameter, then the rule's states, all [V, D]; last [V]: the number of the update up to which a row is current. The distinct rows of a batch are
the first count[0] of `rows`, which has R places. Task t covers its share of the rows. Parameters, states and `last` are updated in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkit.jit import Counters, Double, Doubles, Int, Kernel, Labels, Matrix, Ordinals, kernel, routine, scalar
from nnkit.optimizers import rules_cpu as rules
from nnkit.optimizers.base import PIECE, WIDTH
from nnkit.optimizers.lazy import LONG, RECORD, SHORT, SPAN
from nnkit.optimizers.rules_cpu import rate_of
from nnkit.plan.layout import COUNTERS
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.pointwise_cpu import share
from nnkit.prims.simd_cpu import part, prefetch, run
from nnkit.scalar import sqrt

__all__ = [
    "adadelta_record",
    "adadelta_replay",
    "adadelta_rows",
    "adagrad_record",
    "adagrad_replay",
    "adagrad_rows",
    "adam_4_missed",
    "adam_12_missed",
    "adam_amsgrad_replay",
    "adam_amsgrad_rows",
    "adam_record",
    "adam_replay",
    "adam_rows",
    "adam_tick",
    "add_square_sums",
    "amsgrad_missed",
    "clip_rows_by_norm",
    "clip_rows_by_value",
    "coast_1_missed",
    "coast_2_missed",
    "coast_3_missed",
    "nadam_record",
    "nadam_replay",
    "nadam_rows",
    "rmsprop_centered_momentum_replay",
    "rmsprop_centered_momentum_rows",
    "rmsprop_centered_replay",
    "rmsprop_centered_rows",
    "rmsprop_momentum_replay",
    "rmsprop_momentum_rows",
    "rmsprop_record",
    "rmsprop_replay",
    "rmsprop_rows",
    "row_square_sums",
    "sgd_momentum_replay",
    "sgd_momentum_rows",
    "sgd_nesterov_replay",
    "sgd_nesterov_rows",
    "sgd_record",
    "sgd_replay",
    "sgd_rows",
    "still_0_missed",
    "still_1_missed",
    "still_2_missed",
    "unit_tick",
]

AHEAD = 4                                                # rows that are fetched before their turn
STEP, TERM = COUNTERS["step"], COUNTERS["term"]


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


def record(constants: Callable[..., Any]) -> Kernel:
    """The kernel that enters an update's constants into the history of a replay."""
    @kernel
    def enter(task: Int, tasks: Int, history: Doubles, counters: Counters, rates: Doubles, c0: Double, c1: Double, c2: Double, decay: Double,
              ahead: Int) -> None:
        """history[s] = the constants of the coming update s of the term, and 1 - lr decay. Shape: [(S + 1) RECORD]. One task. Updates history,
        counters."""
        if ahead == 0 or counters[STEP] - counters[TERM] == SPAN:
            counters[TERM] = counters[STEP]
        if ahead:
            rate = rate_of(rates, counters)
            k0, k1, k2, k3, k4 = constants(rate, counters[STEP] + 1, c0, c1, c2)
            at = (counters[STEP] - counters[TERM] + 1) * RECORD
            history[at], history[at + 1], history[at + 2], history[at + 3], history[at + 4] = k0, k1, k2, k3, k4
            history[at + 5] = 1.0 - rate * decay
    return enter


unit_tick = tick(unit)
adam_tick = tick(adam_amount)
sgd_record = record(rules.sgd_constants)
adagrad_record = record(rules.adagrad_constants)
rmsprop_record = record(rules.rmsprop_constants)
adam_record = record(rules.adam_constants)
adadelta_record = record(rules.rmsprop_constants)
nadam_record = record(rules.nadam_constants)


@routine
def rows_to_visit(p, rows, count, counters, tasks, task):
    """(whether all rows catch up, first, one after the last) of a task: all where `rows` is empty or the history is full."""
    every = rows.size == 0 or counters[STEP] - counters[TERM] == SPAN
    start, stop = row_share(p.shape[0] if every else count[0], tasks, task)
    return every, start, stop


# Replay: the rule with gradient 0 for every missed update, in the very arithmetic of the dense sweep.

@routine
def recorded(history, s, like):
    """The constants of update s of the term, and the factor of p."""
    T, at = like.dtype.type, s * RECORD
    k = (T(history[at]), T(history[at + 1]), T(history[at + 2]), T(history[at + 3]), T(history[at + 4]))
    return k, T(history[at + 5])


def replay_0(rule: Callable[..., Any]) -> Kernel:
    """The kernel of a rule without states."""
    @kernel
    def replay(task: Int, tasks: Int, p: Matrix, last: Ordinals, rows: Labels, count: Ordinals, history: Doubles, counters: Counters) -> None:
        """p = rule((1 - lr decay) p, 0) for every missed update."""
        every, start, stop = rows_to_visit(p, rows, count, counters, tasks, task)
        T, D, now = p.dtype.type, p.shape[1], counters[STEP]
        for j in range(start, stop):
            r = j if every else rows[j]
            ps = run(p, r * D, D)
            for s in range(last[r] + 1 - counters[TERM], now + 1 - counters[TERM]):
                k, keep = recorded(history, s, p)
                for i in range(ps.size):
                    ps[i] = rule(keep * ps[i], T(0), k)
            last[r] = max(last[r], now)
    return replay


def replay_1(rule: Callable[..., Any]) -> Kernel:
    """The kernel of a rule with one state."""
    @kernel
    def replay(task: Int, tasks: Int, p: Matrix, a: Matrix, last: Ordinals, rows: Labels, count: Ordinals, history: Doubles,
               counters: Counters) -> None:
        """p, a = rule((1 - lr decay) p, 0, a) for every missed update."""
        every, start, stop = rows_to_visit(p, rows, count, counters, tasks, task)
        T, D, now = p.dtype.type, p.shape[1], counters[STEP]
        for j in range(start, stop):
            r = j if every else rows[j]
            ps, us = run(p, r * D, D), run(a, r * D, D)
            for s in range(last[r] + 1 - counters[TERM], now + 1 - counters[TERM]):
                k, keep = recorded(history, s, p)
                for i in range(ps.size):
                    ps[i], us[i] = rule(keep * ps[i], T(0), us[i], k)
            last[r] = max(last[r], now)
    return replay


def replay_2(rule: Callable[..., Any]) -> Kernel:
    """The kernel of a rule with two states."""
    @kernel
    def replay(task: Int, tasks: Int, p: Matrix, a: Matrix, b: Matrix, last: Ordinals, rows: Labels, count: Ordinals, history: Doubles,
               counters: Counters) -> None:
        """p, a, b = rule((1 - lr decay) p, 0, a, b) for every missed update."""
        every, start, stop = rows_to_visit(p, rows, count, counters, tasks, task)
        T, D, now = p.dtype.type, p.shape[1], counters[STEP]
        for j in range(start, stop):
            r = j if every else rows[j]
            ps, us, vs = run(p, r * D, D), run(a, r * D, D), run(b, r * D, D)
            for s in range(last[r] + 1 - counters[TERM], now + 1 - counters[TERM]):
                k, keep = recorded(history, s, p)
                for i in range(ps.size):
                    ps[i], us[i], vs[i] = rule(keep * ps[i], T(0), us[i], vs[i], k)
            last[r] = max(last[r], now)
    return replay


def replay_3(moments: Callable[..., Any], step: Callable[..., Any]) -> Kernel:
    """The kernel of a rule with three states."""
    @kernel
    def replay(task: Int, tasks: Int, p: Matrix, a: Matrix, b: Matrix, c: Matrix, last: Ordinals, rows: Labels, count: Ordinals, history: Doubles,
               counters: Counters) -> None:
        """a, b = moments(0, a, b); p, c = step((1 - lr decay) p, 0, a, b, c) for every missed update."""
        every, start, stop = rows_to_visit(p, rows, count, counters, tasks, task)
        T, D, now = p.dtype.type, p.shape[1], counters[STEP]
        for j in range(start, stop):
            r = j if every else rows[j]
            ps, us, vs, ws = run(p, r * D, D), run(a, r * D, D), run(b, r * D, D), run(c, r * D, D)
            for s in range(last[r] + 1 - counters[TERM], now + 1 - counters[TERM]):
                k, keep = recorded(history, s, p)
                for i in range(us.size):
                    us[i], vs[i] = moments(T(0), us[i], vs[i], k)
                for i in range(ps.size):
                    ps[i], ws[i] = step(keep * ps[i], T(0), us[i], vs[i], ws[i], k)
            last[r] = max(last[r], now)
    return replay


sgd_replay = replay_0(rules.sgd)
sgd_momentum_replay = replay_1(rules.sgd_momentum)
sgd_nesterov_replay = replay_1(rules.sgd_nesterov)
adagrad_replay = replay_1(rules.adagrad)
rmsprop_replay = replay_1(rules.rmsprop)
rmsprop_momentum_replay = replay_2(rules.rmsprop_momentum)
rmsprop_centered_replay = replay_2(rules.rmsprop_centered)
rmsprop_centered_momentum_replay = replay_3(rules.centered_moments, rules.centered_step)
adam_replay = replay_2(rules.adam)
adam_amsgrad_replay = replay_3(rules.amsgrad_moments, rules.amsgrad_step)
adadelta_replay = replay_2(rules.adadelta)
nadam_replay = replay_2(rules.nadam)


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
