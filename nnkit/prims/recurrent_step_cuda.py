"""A step through time of one number of a recurrent layer's h on a GPU: what all walks make of it, forward and backward.

N batch, T time steps, U units, G gates. Arrays of steps stand as x does, [N T, ...], each step at the place of its input:

    planes [N T, G U]   comes in as x W + b, leaves as the gates' values; backward these become the gradients of what went into them
    left  [N T, U]      h before the step as it is multiplied with the recurrent kernel R
    hidden [N T, U]     the same without dropout, of a GRU where there is any
    cells [N T, U]      c before the step
    inner [N T, U]      of a GRU what its reset gate is multiplied with (p R + b'), or gives (r p)

state [2 N, U] holds h and c as they are now, backward what comes in for them. A number's thread is the same in every step. Arrays that are not there
have no rows. Rows come in fours, of which a number's is row r: bit r of `counts` says whether the step counts there, of `begun` whether it or one
before it did.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkit.cuda_jit import anew, data, routine
from nnkit.prims.block_cuda import WARPS
from nnkit.prims.rows_cuda import row_of_warp, smallest_over_warp, warp_lane

__all__ = [
    "ACTIVATION", "BATCH", "GATE", "ON_CHIP", "QUARTETS", "ROWS", "STEPS", "UNITS", "begun_at", "give_start", "incoming",
    "note_begins", "of_output", "place_of", "rows_that_count", "settle", "sizes", "step_backward", "step_forward", "take_state",
]

# What follows is the order of `Sequence`: see prims/walk.py, Walk. ON_CHIP: quartets of rows of R in shared memory; STEPS: T.
UNITS, QUARTETS, ON_CHIP, STEPS, BACKWARDS, ALIGNED, SEQUENCES, ZERO, _, ACTIVATION, GATE, BATCH = range(12)
ROWS = 4                                                 # of a thread


# Where things are.

@routine
def place_of(t, shape):
    """Where the input of step t lies."""
    return shape[STEPS] - 1 - t if shape[BACKWARDS] else t


@routine
def rows_that_count(mask, first, live, source, steps):
    """Bit r: whether step `source` of row first + r counts, for the thread's rows that there are."""
    bits = (1 << live) - 1
    if mask.size:
        r = 0
        while r < live:
            if data(mask)[(first + r) * steps + source] == mask.dtype.type(0):
                bits &= ~(1 << r)
            r = anew(r + 1)
    return bits


@routine
def sizes(shape):
    """U, 4-row groups, T, N as if they were new: what is made of them is not kept in registers while products are made."""
    return anew(shape[UNITS]), anew(shape[QUARTETS]), anew(shape[STEPS]), anew(shape[BATCH])


@routine
def output_at(n, t, source, shape, U, T):
    """Where y has step t of row n."""
    if not shape[SEQUENCES]:
        return n * U
    return (n * T + (source if shape[ALIGNED] else t)) * U


@routine
def take_state(n, h, c, state, shape):
    """What h and c, of one number, are before the first step forward, or what comes in for them after the last one, goes to `state`."""
    T, states = state.dtype.type, data(state)
    states[n] = data(h)[n] if h.shape[0] else T(0)
    states[shape[BATCH] * shape[UNITS] + n] = data(c)[n] if c.shape[0] else T(0)


# Forward.

@routine
def begun_at(n, h0, drop, like):
    """h before the first step, of one number, as it is multiplied with R."""
    h = like.dtype.type(0)
    if h0.shape[0]:
        h = data(h0)[n]
        if drop.shape[0]:
            h *= data(drop)[n]
    return h


@routine
def settle(r, n, u, t, source, counts, begun, h, p, m, y, last, hidden, left, mask, state, shape, U, T):
    """Row r has its h after step t, or where the step does not count, that before: it is kept, and what the way back reads. Returns that h."""
    at, row = n * U + u, (n * T + source) * U + u
    counted = (counts >> r) & 1
    if not counted:
        h = p
    data(state)[at] = h
    if left.shape[0]:
        data(left)[row] = m
    if hidden.shape[0]:
        data(hidden)[row] = p
    end = t == T - 1
    if shape[SEQUENCES] or end:
        silent = mask.size > 0 and (not (begun >> r) & 1 or (shape[ZERO] and not counted))
        data(y)[output_at(n, t, source, shape, U, T) + u] = y.dtype.type(0) if silent else h
    if end and last.shape[0]:
        data(last)[at] = h
    return h


@routine
def settle_cell(r, n, u, t, source, counts, c, q, last_cell, cells, state, U, T, N):
    """The same of c."""
    if not (counts >> r) & 1:
        c = q
    data(state)[(N + n) * U + u] = c
    if cells.shape[0]:
        data(cells)[(n * T + source) * U + u] = q
    if t == T - 1 and last_cell.shape[0]:
        data(last_cell)[n * U + u] = c


def step_forward(gates: int, cell: Callable[..., Any]) -> Any:
    """(make, keep): one step of one number of h, and what of it is kept. cell: see `forward_kernel`."""
    @routine
    def make(z, s, p, q, u, bias, shape, a, g, like):
        U, zero = anew(shape[UNITS]), like.dtype.type(0)
        b = (zero, zero, zero)
        if gates == 3 and bias.size:
            b = (data(bias)[u], data(bias)[U + u], data(bias)[2 * U + u])
        return cell(z, s, p, q, b, shape, a, g)

    @routine
    def keep(made, p, q, m, r, n, u, t, source, counts, begun, y, last, last_cell, hidden, cells, left, inner, mask, state, planes, shape):
        (U, _, T, N), (h, c, values, within) = sizes(shape), made
        row = n * T + source
        if left.shape[0]:
            for k in range(gates):
                data(planes)[row * gates * U + k * U + u] = values[k]
            if gates == 3:
                data(inner)[row * U + u] = within
        h = settle(r, n, u, t, source, counts, begun, h, p, m, y, last, hidden, left, mask, state, shape, U, T)
        if gates == 4:
            settle_cell(r, n, u, t, source, counts, c, q, last_cell, cells, state, U, T, N)
        return h
    return make, keep


# Backward.

@routine
def note_begins(place, at, first, rows, mask, shape):
    """place[at + r] = the first step of row first + r that counts, T where none does; one row to a warp."""
    T = shape[STEPS]
    if mask.size:
        r = row_of_warp()
        while r < rows:
            found, t = T, warp_lane()
            while t < found:
                if data(mask)[(first + r) * T + place_of(t, shape)] != mask.dtype.type(0):
                    found = t
                t = anew(t + 32)
            found = smallest_over_warp(found)
            if warp_lane() == 0:
                place[at + r] = mask.dtype.type(found)
            r = anew(r + WARPS)


@routine
def give_start(n, dh0, dc0, state, shape):
    """What goes out for h and c before the first step, of one number."""
    if dh0.shape[0]:
        data(dh0)[n] = data(state)[n]
    if dc0.shape[0]:
        data(dc0)[n] = data(state)[shape[BATCH] * shape[UNITS] + n]


@routine
def of_output(n, u, t, source, dy, shape, U, T):
    """The gradient of what y has of row n for step t."""
    found = dy.dtype.type(0)
    if dy.shape[0] and (shape[SEQUENCES] or t == T - 1):
        found = data(dy)[output_at(n, t, source, shape, U, T) + u]
    return found


@routine
def incoming(dh, r, t, counts, place, begins, outer, mask, shape):
    """dh of row r after step t: from the step behind it, and from y."""
    silent = mask.size > 0 and (mask.dtype.type(t) < place[begins + r] or (shape[ZERO] and not (counts >> r) & 1))
    if not silent:
        dh += outer
    return dh


def step_backward(gates: int, cell: Callable[..., Any]) -> Any:
    """(fetch, differentiate): one step back of one number; what was kept of it, and what comes in for h and c, is fetched before. cell: see
    `backward_kernel`. more: what comes in for h besides. Gate k's gradient for R goes to place[4 (to + k apart) + r]."""
    @routine
    def fetch(n, u, t, source, planes, hidden, cells, left, inner, dy, state, shape):
        U, _, T, N = sizes(shape)
        zero = planes.dtype.type(0)
        row = n * T + source
        at = row * gates * U + u
        values = (data(planes)[at], data(planes)[at + U] if gates > 1 else zero, data(planes)[at + 2 * U] if gates > 2 else zero,
                  data(planes)[at + 3 * U] if gates > 3 else zero)
        within = data(inner)[row * U + u] if gates == 3 else zero
        p = zero
        if gates == 3:
            p = data(hidden)[row * U + u] if hidden.shape[0] else data(left)[row * U + u]
        q = data(cells)[row * U + u] if gates == 4 else zero
        dc = data(state)[(N + n) * U + u] if gates == 4 else zero
        return values, within, p, q, data(state)[n * U + u], dc, of_output(n, u, t, source, dy, shape, U, T)

    @routine
    def differentiate(kept, more, r, n, u, t, source, counts, place, begins, to, apart, through, planes, mask, state, shape, a, g):
        (U, _, T, N), (values, within, p, q, dh, dc, outer) = sizes(shape), kept
        zero, at = state.dtype.type(0), (n * T + source) * gates * U + u
        dh = incoming(dh + more, r, t, counts, place, begins, outer, mask, shape)
        dz, ds, dp, dq = cell(dh, dc, values, within, p, q, shape, a, g)
        if not (counts >> r) & 1:                        # the state passed through unchanged
            dz, ds, dp, dq = (zero, zero, zero, zero), zero, dh, dc
        data(state)[n * U + u] = dp
        if gates == 4:
            data(state)[(N + n) * U + u] = dq
        for k in range(gates):
            data(planes)[at + k * U] = dz[k]
            into = ds if k == gates - 1 else dz[k]
            place[4 * (to + k * apart) + r] = into
            if gates == 3:
                data(through)[at + k * U] = into
    return fetch, differentiate
