"""The walks of a GRU whose reset gate comes before the recurrent kernel: a step has two products, one after the other. See recurrent_cuda.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkit.cuda_jit import Kernel, anew, barrier, data, kernel, registers, routine, scratch
from nnkit.jit import Int, Matrix, Real, Sequence, Vector
from nnkit.prims.block_cuda import divided, row_share
from nnkit.prims.recurrent_cuda import add_to_row, begin_back, begin_walk, chosen, clear_padding, end_back, fetch_weights, own_place, padded, product
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


def forward_twice_kernel(act: Callable[..., Any], sig: Callable[..., Any]) -> Kernel:
    """The walk forward of a GRU whose reset gate comes before R: a step has two products, of v and r, then of u; `inner` keeps r m."""
    add_two, add_one = product(2), product(1)
    two, one = registers(2 * ROWS), registers(ROWS)

    @routine
    def open_gates(r, total, first, u, source, place, now, quartet, inner, planes, shape, g):
        """v and r of row first + r, in their places, and r m in shared memory behind both h."""
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

    @routine
    def finish(r, total, first, u, t, source, counts, begun, place, now, quartet, y, last, last_cell, hidden, cells, left, mask, drop, state, planes,
               shape, a):
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

    @kernel
    def forward(task: Int, tasks: Int, y: Matrix, last: Matrix, last_cell: Matrix, hidden: Matrix, cells: Matrix, left: Matrix, inner: Matrix,
                planes: Matrix, recurrent: Vector, bias: Vector, h0: Matrix, c0: Matrix, mask: Matrix, drop: Matrix, state: Matrix, shape: Sequence,
                a: Real, g: Real) -> None:
        """As `forward_kernel`'s."""
        U, Q, T, N = shape[UNITS], shape[QUARTETS], shape[STEPS], shape[BATCH]
        place, P, chip = scratch(y), padded(U), 12 * padded(U) * Q
        columns, quartet, own = own_place(U)
        pair, single = two(y), one(y)
        fetch_weights(place, chip, recurrent, 3 * U, shape)
        groups = divided(N + ROWS * Q - 1, ROWS * Q)[0]
        start, stop = row_share(groups, tasks, task)
        for group in range(start, stop):
            first = ROWS * (group * Q + quartet)
            live = max(0, min(ROWS, N - first)) if quartet < Q else 0
            end = U if live else 0
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
                    n, j = anew(first), anew(u)
                    r = 0
                    while r < live:
                        open_gates(r, pair, n, j, source, place, now, quartet, inner, planes, shape, g)
                        r = anew(r + 1)
                    u += columns
                barrier()
                u = own
                while u < end:
                    add_one(single, recurrent, chip, shape[ON_CHIP], 2 * U + u, 3 * U, U, 0, P // 4, place, (2 * Q + quartet) * P, y)
                    n, j = anew(first), anew(u)
                    r = 0
                    while r < live:
                        finish(r, single, n, j, t, source, counts, begun, place, now, quartet, y, last, last_cell, hidden, cells, left, mask,
                                drop, state, planes, shape, a)
                        r = anew(r + 1)
                    u += columns
                now = P * Q - now
                barrier()
    return forward


def backward_twice_kernel(act_slope: Callable[..., Any], sig_slope: Callable[..., Any]) -> Kernel:
    """The walk backward of a GRU whose reset gate comes before R: first what u gives, through R and the reset gate, then what v and r give."""
    add_product, own_sums = product(1), registers(ROWS)

    @routine
    def differentiate(r, first, u, t, source, counts, place, begins, quartet, through, single, planes, hidden, left, dy, mask, state, shape, a, g):
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

    @routine
    def pass_reset(r, total, first, u, source, counts, place, quartet, through, planes, left, drop, state, shape, g):
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
        groups = divided(N + ROWS * Q - 1, ROWS * Q)[0]
        start, stop = row_share(groups, tasks, task)
        for group in range(start, stop):
            first = ROWS * (group * Q + quartet)
            live = max(0, min(ROWS, N - first)) if quartet < Q else 0
            end = U if live else 0
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
                    n, j = anew(first), anew(u)
                    r = 0
                    while r < live:
                        differentiate(r, n, j, t, source, counts, place, begins + ROWS * quartet, quartet, through, single, planes, hidden,
                                       left, dy, mask, state, shape, a, g)
                        r = anew(r + 1)
                    u += columns
                barrier()
                u = own
                while u < end:
                    add_product(total, turned, chip, shape[ON_CHIP], u, U, 0, P // 2, 3 * P // 4, place, quartet * 3 * P, state)
                    n, j = anew(first), anew(u)
                    r = 0
                    while r < live:
                        pass_reset(r, total, n, j, source, counts, place, quartet, through, planes, left, drop, state, shape, g)
                        r = anew(r + 1)
                    u += columns
                barrier()
                u = own
                while u < end:
                    add_product(total, turned, chip, shape[ON_CHIP], u, U, 0, 0, P // 2, place, quartet * 3 * P, state)
                    n, j = anew(first), anew(u)
                    r = 0
                    while r < live:
                        add_to_row(r, total, n, j, drop, state, shape)
                        r = anew(r + 1)
                    u += columns
                barrier()
            if live:
                end_back(first, live, own, columns, dh0, dc0, state, shape)
    return backward
