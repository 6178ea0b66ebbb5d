"""The walks of a GRU whose reset gate comes before the recurrent kernel: a step has two products, one after the other. See recurrent_cuda.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkit.cuda_jit import Kernel, anew, barrier, data, kernel, registers, scratch
from nnkit.jit import Int, Matrix, Real, Sequence, Vector
from nnkit.prims.recurrent_cuda import (
    add_to_rows,
    begin_back,
    begin_walk,
    chosen,
    clear_padding,
    each_row,
    end_back,
    fetch_weights,
    groups_of,
    own_place,
    padded,
    product,
    rows_of,
)
from nnkit.prims.recurrent_step_cuda import (
    ACTIVATION,
    BATCH,
    GATE,
    ON_CHIP,
    QUARTETS,
    ROWS,
    STEPS,
    UNITS,
    incoming,
    note_begins,
    of_output,
    place_of,
    rows_that_count,
    settle,
    sizes,
)

__all__ = ["backward_twice_kernel", "forward_twice_kernel"]


def rows_forward(act: Callable[..., Any], sig: Callable[..., Any]) -> Any:
    """(open_gates, finish): what a step makes of the thread's rows behind its first product, and behind its second."""
    @each_row
    def open_gates(r, first, u, total, source, place, now, quartet, inner, planes, shape, g):
        """v and r, in their places, and r m in shared memory behind both h."""
        U, Q, T, _ = sizes(shape)
        row = (first + r) * T + source
        at = row * 3 * U + u
        reset = sig(data(planes)[at + U] + chosen(total, ROWS, r), shape[GATE], g)
        data(planes)[at] = sig(data(planes)[at] + chosen(total, 0, r), shape[GATE], g)
        data(planes)[at + U] = reset
        within = reset * place[4 * (now + quartet * padded(U) + u) + r]
        place[4 * ((2 * Q + quartet) * padded(U) + u) + r] = within
        if inner.shape[0]:
            data(inner)[row * U + u] = within

    @each_row
    def finish(r, first, u, total, t, source, counts, begun, place, now, quartet, y, last, hidden, left, mask, drop, state, planes, shape, a):
        """u, and h after the step."""
        (U, Q, T, _), n = sizes(shape), first + r
        at = (n * T + source) * 3 * U + u
        v, before = data(planes)[at], data(state)[n * U + u]
        value = act(data(planes)[at + 2 * U] + chosen(total, 0, r), shape[ACTIVATION], a)
        data(planes)[at + 2 * U] = value
        h, m = value + v * (before - value), place[4 * (now + quartet * padded(U) + u) + r]
        h = settle(r, n, u, t, source, counts, begun, h, before, m, y, last, hidden, left, mask, state, shape, U, T)
        if drop.shape[0]:
            h *= data(drop)[n * U + u]
        place[4 * ((Q + quartet) * padded(U) - now + u) + r] = h
    return open_gates, finish


def forward_twice_kernel(act: Callable[..., Any], sig: Callable[..., Any]) -> Kernel:
    """The walk forward of a GRU whose reset gate comes before R: a step has two products, of v and r, then of u; `inner` keeps r m."""
    add_two, add_one = product(2), product(1)
    two, one = registers(2 * ROWS), registers(ROWS)
    open_gates, finish = rows_forward(act, sig)

    @kernel
    def forward(task: Int, tasks: Int, y: Matrix, last: Matrix, last_cell: Matrix, hidden: Matrix, cells: Matrix, left: Matrix, inner: Matrix,
                planes: Matrix, recurrent: Vector, bias: Vector, h0: Matrix, c0: Matrix, mask: Matrix, drop: Matrix, state: Matrix, shape: Sequence,
                a: Real, g: Real) -> None:
        """As `forward_kernel`'s."""
        U, Q, T = shape[UNITS], shape[QUARTETS], shape[STEPS]
        place, P, chip = scratch(y), padded(U), 12 * padded(U) * Q
        columns, quartet, own = own_place(U)
        pair, single = two(y), one(y)
        fetch_weights(place, chip, recurrent, 3 * U, shape)
        start, stop = groups_of(task, tasks, shape)
        for group in range(start, stop):
            first, live, end = rows_of(group, quartet, shape)
            barrier()                                    # whoever used the scratch before is done
            if live:
                begin_walk(place, quartet, first, live, own, columns, h0, c0, drop, state, shape)
            clear_padding(place, 3 * Q, U, y)
            begun, now = 0, 0
            barrier()
            for t in range(T):
                first = anew(first)
                source = place_of(t, shape)
                counts = rows_that_count(mask, first, live, source, T)
                begun |= counts
                u = own
                while u < end:
                    add_two(pair, recurrent, chip, shape[ON_CHIP], u, 3 * U, U, 0, P // 4, place, now + quartet * P, y)
                    open_gates(live, first, u, pair, source, place, now, quartet, inner, planes, shape, g)
                    u += columns
                barrier()
                u = own
                while u < end:
                    add_one(single, recurrent, chip, shape[ON_CHIP], 2 * U + u, 3 * U, U, 0, P // 4, place, (2 * Q + quartet) * P, y)
                    finish(live, first, u, single, t, source, counts, begun, place, now, quartet, y, last, hidden, left, mask, drop, state, planes,
                           shape, a)
                    u += columns
                now = P * Q - now
                barrier()
    return forward


def rows_backward(act_slope: Callable[..., Any], sig_slope: Callable[..., Any]) -> Any:
    """(differentiate, pass_reset): what a step makes of the thread's rows before its first product, and behind it."""
    @each_row
    def differentiate(r, first, u, t, source, counts, place, begins, quartet, through, single, planes, hidden, left, dy, mask, state, shape, a, g):
        """The gradients of v and u, and what goes to h before the step past R."""
        (U, _, T, _), n = sizes(shape), first + r
        one = state.dtype.type(1)
        row = n * T + source
        at = row * 3 * U + u
        v, value = data(planes)[at], data(planes)[at + 2 * U]
        p = data(hidden)[row * U + u] if hidden.shape[0] else data(left)[row * U + u]
        dh = incoming(data(state)[n * U + u], r, t, counts, place, begins, of_output(n, u, t, source, dy, shape, U, T), mask, shape)
        du, dv, dp = dh * (one - v) * act_slope(value, shape[ACTIVATION], a), dh * (p - value) * sig_slope(v, shape[GATE], g), dh * v
        if not (counts >> r) & 1:
            du, dv, dp = one - one, one - one, dh
        data(state)[n * U + u] = dp
        data(planes)[at], data(planes)[at + 2 * U] = dv, du
        data(through)[row * 2 * U + u], data(single)[row * U + u] = dv, du
        place[4 * (quartet * 3 * padded(U) + u) + r], place[4 * ((quartet * 3 + 2) * padded(U) + u) + r] = dv, du

    @each_row
    def pass_reset(r, first, u, total, source, counts, place, quartet, through, planes, left, drop, state, shape, g):
        """The gradient of r, and what goes to h before the step through u's part of R."""
        (U, _, T, _), n = sizes(shape), first + r
        row = n * T + source
        at = row * 3 * U + U + u
        reset, dm = data(planes)[at], chosen(total, 0, r)
        dr = dm * data(left)[row * U + u] * sig_slope(reset, shape[GATE], g)
        dp = dm * reset
        if drop.shape[0]:
            dp *= data(drop)[n * U + u]
        if not (counts >> r) & 1:
            dr, dp = state.dtype.type(0), state.dtype.type(0)
        data(state)[n * U + u] += dp
        data(planes)[at], data(through)[row * 2 * U + U + u] = dr, dr
        place[4 * ((quartet * 3 + 1) * padded(U) + u) + r] = dr
    return differentiate, pass_reset


def backward_twice_kernel(act_slope: Callable[..., Any], sig_slope: Callable[..., Any]) -> Kernel:
    """The walk backward of a GRU whose reset gate comes before R: first what u gives, through R and the reset gate, then what v and r give."""
    add_product, own_sums = product(1), registers(ROWS)
    differentiate, pass_reset = rows_backward(act_slope, sig_slope)

    @kernel
    def backward(task: Int, tasks: Int, dh0: Matrix, dc0: Matrix, through: Matrix, single: Matrix, planes: Matrix, hidden: Matrix, cells: Matrix,
                 left: Matrix, inner: Matrix, dy: Matrix, dlast: Matrix, dlast_cell: Matrix, turned: Vector, mask: Matrix, drop: Matrix,
                 state: Matrix, shape: Sequence, a: Real, g: Real) -> None:
        """As `backward_kernel`'s; through [N T, 2 U]: the gradients of v and r, single [N T, U]: that of u, in arrays of their own."""
        U, Q, T, N = shape[UNITS], shape[QUARTETS], shape[STEPS], shape[BATCH]
        place, P = scratch(state), padded(U)
        begins = 12 * P * Q
        chip = begins + 4 * Q
        columns, quartet, own = own_place(U)
        total = own_sums(state)
        fetch_weights(place, chip, turned, U, shape)
        start, stop = groups_of(task, tasks, shape)
        for group in range(start, stop):
            first, live, end = rows_of(group, quartet, shape)
            barrier()                                    # whoever used the scratch before is done
            clear_padding(place, 3 * Q, U, state)
            note_begins(place, begins, ROWS * group * Q, min(ROWS * Q, N - ROWS * group * Q), mask, shape)
            if live:
                begin_back(first, live, own, columns, dlast, dlast_cell, state, shape)
            barrier()
            for t in range(T - 1, -1, -1):
                first = anew(first)
                source = place_of(t, shape)
                counts = rows_that_count(mask, first, live, source, T)
                u = own
                while u < end:
                    differentiate(live, first, u, t, source, counts, place, begins + ROWS * quartet, quartet, through, single, planes, hidden, left,
                                  dy, mask, state, shape, a, g)
                    u += columns
                barrier()
                u = own
                while u < end:
                    add_product(total, turned, chip, shape[ON_CHIP], u, U, 0, P // 2, 3 * P // 4, place, quartet * 3 * P, state)
                    pass_reset(live, first, u, total, source, counts, place, quartet, through, planes, left, drop, state, shape, g)
                    u += columns
                barrier()
                u = own
                while u < end:
                    add_product(total, turned, chip, shape[ON_CHIP], u, U, 0, 0, P // 2, place, quartet * 3 * P, state)
                    add_to_rows(live, first, u, total, drop, state, shape)
                    u += columns
                barrier()
            if live:
                end_back(first, live, own, columns, dh0, dc0, state, shape)
    return backward
