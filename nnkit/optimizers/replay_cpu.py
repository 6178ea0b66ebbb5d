"""Kernels by which rows catch up by a replay: the rule with gradient 0 for every missed update, in the very arithmetic of the dense sweep.

Letters as in lazy_cpu.py; S = SPAN. The history holds the constants of every update since counters[TERM], of which there are
counters[STEP] - counters[TERM].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkit.jit import Counters, Double, Doubles, Int, Kernel, Labels, Matrix, Ordinals, kernel, routine
from nnkit.optimizers import rules_cpu as rules
from nnkit.optimizers.lazy import RECORD, SPAN
from nnkit.optimizers.lazy_cpu import STEP, TERM, rows_to_visit
from nnkit.optimizers.rules_cpu import rate_of
from nnkit.prims.simd_cpu import run

__all__ = [
    "adadelta_record",
    "adadelta_replay",
    "adagrad_record",
    "adagrad_replay",
    "adam_amsgrad_replay",
    "adam_record",
    "adam_replay",
    "nadam_record",
    "nadam_replay",
    "rmsprop_centered_momentum_replay",
    "rmsprop_centered_replay",
    "rmsprop_momentum_replay",
    "rmsprop_record",
    "rmsprop_replay",
    "sgd_momentum_replay",
    "sgd_nesterov_replay",
    "sgd_record",
    "sgd_replay",
]


# The history of the term.

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


sgd_record = record(rules.sgd_constants)
adagrad_record = record(rules.adagrad_constants)
rmsprop_record = record(rules.rmsprop_constants)
adam_record = record(rules.adam_constants)
adadelta_record = record(rules.rmsprop_constants)
nadam_record = record(rules.nadam_constants)


# The replays.

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
