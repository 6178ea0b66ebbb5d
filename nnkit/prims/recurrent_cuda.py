"""What goes through time in recurrent layers on a GPU: the walks forward and backward are made of a cell's functions for one number.

N batch, T time steps, U units, G gates. What x gives to the gates of all steps, x W + b, is one product before the walk (kernels of Dense), and so
are the gradients of W, R and x behind it. Between them one launch walks through all steps: a block owns B = 4 Q rows of the batch and shares nothing
with other blocks, so nothing waits for anything but its barriers. What a step makes of one number, and which arrays it reads and writes, is said in
recurrent_step_cuda.py. Where R does not fit into a block's shared memory, several may share it: recurrent_cluster_cuda.py.

A thread has a unit u and four rows, and where there are more units than threads several units, one after the other. It adds up the products of all
gates for these in registers, k ascending, and makes the new h of them by itself; what it needs of others is h before the step, which lies in
shared memory, four rows side by side, twice, so that one barrier a step is enough. The first K rows of R lie in shared memory from the first step
to the last, as many as there is room for; the others are read anew in every step, several on their way at a time. Backward goes the same way with
the transpose of R and the gates' gradients in the place of h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkit.cuda_jit import THREADS, Kernel, anew, barrier, data, kernel, quartet_at, registers, routine, scratch, thread
from nnkit.jit import Int, Matrix, Real, Sequence, Vector
from nnkit.prims.block_cuda import divided, row_share, share
from nnkit.prims.recurrent_step_cuda import (
    BATCH,
    ON_CHIP,
    QUARTETS,
    ROWS,
    STEPS,
    UNITS,
    begun_at,
    give_start,
    note_begins,
    place_of,
    rows_that_count,
    sizes,
    step_backward,
    step_forward,
    take_state,
)

__all__ = [
    "add_to_rows", "backward_kernel", "begin_back", "begin_walk", "chosen", "clear_padding", "each_row", "end_back", "fetch_weights",
    "forward_kernel", "groups_of", "keep_state", "own_place", "pack_quartets", "pack_quartets_turned", "padded", "product", "quartet_sums", "rows_of",
]

four = registers(ROWS)


# Where things are.

@routine
def own_place(units):
    """(columns, the thread's row group, its first unit): units are cut evenly where there are more than threads."""
    turns = divided(units + THREADS - 1, THREADS)[0]
    columns = divided(units + turns - 1, turns)[0]
    group, unit = divided(thread(), columns)
    return columns, group, unit


@routine
def chosen(own, first, r):
    """own[first + r], of registers: r may be unknown when the kernel is compiled."""
    return own[first] if r == 0 else own[first + 1] if r == 1 else own[first + 2] if r == 2 else own[first + 3]


@routine
def groups_of(task, tasks, shape):
    """The task's share of the groups of 4 Q rows, as a range."""
    rows = ROWS * shape[QUARTETS]
    return row_share(divided(shape[BATCH] + rows - 1, rows)[0], tasks, task)


@routine
def rows_of(group, quartet, shape):
    """(the first of the thread's four rows, how many of them there are, where its units end: a thread without rows goes along to the barriers)."""
    first = ROWS * (group * shape[QUARTETS] + quartet)
    live = max(0, min(ROWS, shape[BATCH] - first)) if quartet < shape[QUARTETS] else 0
    return first, live, shape[UNITS] if live else 0


def each_row(function: Callable[..., None]) -> Any:
    """Of function(r, first, u, *rest) the routine (live, first, u, *rest) that calls it for the thread's rows r, those that there are."""
    one = routine(function)

    @routine
    def each(live, first, u, *rest):
        n, j, r = anew(first), anew(u), 0
        while r < live:
            one(r, n, j, *rest)
            r = anew(r + 1)
    return each


@routine
def padded(units):
    """Units rounded up to whole quartets: so many rows of h, or of a gate's gradients, are multiplied."""
    return (units + 3) // 4 * 4


@routine
def fetch_weights(place, at, weights, width, shape):
    """The rows of R, or of its transpose, that stay in shared memory, as they are packed."""
    source = data(weights)
    for e in range(thread(), shape[ON_CHIP] * width * 4, THREADS):
        place[at + e] = source[e]


@routine
def clear_padding(place, runs, units, like):
    """What lies behind the units of each of so many runs of h or of a gate: 0, for its weights are 0, too."""
    width = padded(units) - units
    e = thread()
    while e < runs * width:
        run = divided(e, width)[0]
        for r in range(ROWS):
            place[4 * (run * padded(units) + units + e - run * width) + r] = like.dtype.type(0)
        e = anew(e + THREADS)


def quartet_sums(gates: int) -> Any:
    """The routine that adds one quartet of packed rows of a factor to a thread's sums: sums[4 g + r] += sum over i of left(i, r) w(i, g).

    w(i, g) = weights[4 (at + g apart) + i]; left(i, r) = place[4 (left + i step) + r].
    """
    four_each = registers(gates * 4)

    @routine
    def add(own, weights, at, apart, place, left, step, like):
        coming = four_each(like)
        for g in range(gates):
            coming[4 * g], coming[4 * g + 1], coming[4 * g + 2], coming[4 * g + 3] = quartet_at(weights, 4 * (at + g * apart))
        for i in range(4):
            a, b, c, d = quartet_at(place, 4 * (left + i * step))
            for g in range(gates):
                weight = coming[4 * g + i]
                own[ROWS * g] += weight * a
                own[ROWS * g + 1] += weight * b
                own[ROWS * g + 2] += weight * c
                own[ROWS * g + 3] += weight * d
    return add


def sums(gates: int, at_once: int) -> Any:
    """The routine that adds the quartets [start, stop), `width` apart, so many on their way at a time; left(4 k + i, r) as place[4 (left + 4 k + i)
    + r]."""
    several, add_quartet = registers(gates * at_once * 4), quartet_sums(gates)

    @routine
    def add(own, weights, at, width, apart, start, stop, place, left, like):
        coming = several(like)
        whole = start + max(0, stop - start) // at_once * at_once
        for k in range(start, whole, at_once):
            for i in range(at_once):
                for g in range(gates):
                    e = 4 * (i * gates + g)
                    coming[e], coming[e + 1], coming[e + 2], coming[e + 3] = quartet_at(weights, 4 * (at + (k + i) * width + g * apart))
            for i in range(4 * at_once):
                a, b, c, d = quartet_at(place, 4 * (left + 4 * k + i))
                for g in range(gates):
                    weight = coming[4 * (i // 4 * gates + g) + i % 4]
                    own[ROWS * g] += weight * a
                    own[ROWS * g + 1] += weight * b
                    own[ROWS * g + 2] += weight * c
                    own[ROWS * g + 3] += weight * d
        k = whole
        while k < stop:
            add_quartet(own, weights, at + k * width, apart, place, left + 4 * k, 1, like)
            k = anew(k + 1)
    return add


def product(gates: int) -> Any:
    """The same over the quartets of rows [start, stop) of a factor of which the first `kept` lie in shared memory, from chip on; from 0."""
    add_kept, add_read = sums(gates, 2 if gates == 1 else 1), sums(gates, 4 if gates == 1 else 2)

    @routine
    def add(own, weights, chip, kept, at, width, apart, start, stop, place, left, like):
        for e in range(gates * ROWS):
            own[e] = like.dtype.type(0)
        add_kept(own, place, chip // 4 + at, width, apart, start, min(stop, kept), place, left, like)
        add_read(own, data(weights), at, width, apart, max(start, kept), stop, place, left, like)
    return add


# Forward.

@routine
def begin_walk(place, quartet, first, live, own, columns, h0, c0, drop, state, shape):
    """h and c before the first step: h as it is multiplied with R in shared memory, both in `state`."""
    U = shape[UNITS]
    u = own
    while u < U:
        for r in range(ROWS):
            h = state.dtype.type(0)
            if r < live:
                n = (first + r) * U + u
                take_state(n, h0, c0, state, shape)
                h = begun_at(n, h0, drop, state)
            place[4 * (quartet * padded(U) + u) + r] = h
        u += columns


def rows_forward(gates: int, cell: Callable[..., Any]) -> Any:
    """(fetch, finish): what a step reads for the thread's rows before its product, and makes of them behind it. cell: see `forward_kernel`."""
    make, keep = step_forward(gates, cell)

    @routine
    def fetch(given, p, q, first, u, source, planes, state, shape):
        """What x gives to the gates, p and q."""
        U, T, N = shape[UNITS], shape[STEPS], shape[BATCH]
        for r in range(ROWS):
            n = min(first + r, N - 1)
            for k in range(gates):
                given[ROWS * k + r] = data(planes)[(n * T + source) * (gates * U) + k * U + u]
            p[r] = data(state)[n * U + u]
            if gates == 4:
                q[r] = data(state)[(N + n) * U + u]

    @each_row
    def finish(r, first, u, total, given, p, q, t, source, counts, begun, place, now, quartet, y, last, last_cell, hidden, cells, left, inner, bias,
               mask, drop, state, planes, shape, a, g):
        U, Q, _, _ = sizes(shape)
        zero, n = state.dtype.type(0), first + r
        z = (chosen(given, 0, r), chosen(given, ROWS, r) if gates > 1 else zero, chosen(given, 2 * ROWS, r) if gates > 2 else zero,
             chosen(given, 3 * ROWS, r) if gates > 3 else zero)
        s = (chosen(total, 0, r), chosen(total, ROWS, r) if gates > 1 else zero, chosen(total, 2 * ROWS, r) if gates > 2 else zero,
             chosen(total, 3 * ROWS, r) if gates > 3 else zero)
        before, cell_before = chosen(p, 0, r), chosen(q, 0, r) if gates == 4 else zero
        made = make(z, s, before, cell_before, u, bias, shape, a, g, state)
        m = place[4 * (now + quartet * padded(U) + u) + r]
        h = keep(made, before, cell_before, m, r, n, u, t, source, counts, begun, y, last, last_cell, hidden, cells, left, inner, mask, state, planes,
                 shape)
        if drop.shape[0]:
            h *= data(drop)[n * U + u]
        place[4 * ((Q + quartet) * padded(U) - now + u) + r] = h
    return fetch, finish


def forward_kernel(gates: int, cell: Callable[..., Any]) -> Kernel:
    """The walk forward of a cell. cell(z, s, p, q, b, shape, a, g) -> (h, c, values of the gates, inner): z what x gives to four gates, s what h
    gives, b the bias of h, as tuples of four; gates beyond the cell's own are 0."""
    add_product, own_sums, own_inputs = product(gates), registers(gates * ROWS), registers(gates * ROWS)
    fetch, finish = rows_forward(gates, cell)

    @kernel
    def forward(task: Int, tasks: Int, y: Matrix, last: Matrix, last_cell: Matrix, hidden: Matrix, cells: Matrix, left: Matrix, inner: Matrix,
                planes: Matrix, recurrent: Vector, bias: Vector, h0: Matrix, c0: Matrix, mask: Matrix, drop: Matrix, state: Matrix, shape: Sequence,
                a: Real, g: Real) -> None:
        """y [N T, U] of all steps, or [N, U] of the last; last, last_cell [N, U]: h and c at the end. What the way back reads, see above.

        Reads recurrent: R packed by quartets of rows, bias [3 U] of h, h0, c0 [N, U], mask [N, T], drop [N, U]: the factors of h. Arrays that are
        not there have no rows. state [2 N, U]. Task t covers its share of the groups of 4 Q rows.

        Writes y, last, last_cell, hidden, cells, left, inner (=); updates planes.
        """
        U, Q, T = shape[UNITS], shape[QUARTETS], shape[STEPS]
        place, width = scratch(y), gates * U
        P, chip = padded(U), 8 * padded(U) * Q
        columns, quartet, own = own_place(U)
        total, given, p, q = own_sums(y), own_inputs(y), four(y), four(y)
        fetch_weights(place, chip, recurrent, width, shape)
        start, stop = groups_of(task, tasks, shape)
        for group in range(start, stop):
            first, live, end = rows_of(group, quartet, shape)
            barrier()                                    # whoever used the scratch before is done
            if live:
                begin_walk(place, quartet, first, live, own, columns, h0, c0, drop, state, shape)
            clear_padding(place, 2 * Q, U, y)
            begun, now = 0, 0
            barrier()
            for t in range(T):
                first = anew(first)
                source = place_of(t, shape)
                counts = rows_that_count(mask, first, live, source, T)
                begun |= counts
                u = own
                while u < end:
                    fetch(given, p, q, first, u, source, planes, state, shape)             # on their way while the products are made
                    add_product(total, recurrent, chip, shape[ON_CHIP], u, width, U, 0, P // 4, place, now + quartet * P, y)
                    finish(live, first, u, total, given, p, q, t, source, counts, begun, place, now, quartet, y, last, last_cell, hidden, cells, left,
                           inner, bias, mask, drop, state, planes, shape, a, g)
                    u += columns
                now = P * Q - now
                barrier()
    return forward


# Backward.

@routine
def begin_back(first, live, own, columns, dlast, dlast_cell, state, shape):
    """The first of both for the thread's numbers."""
    u = own
    while u < shape[UNITS]:
        r = 0
        while r < live:
            take_state((first + r) * shape[UNITS] + u, dlast, dlast_cell, state, shape)
            r = anew(r + 1)
        u += columns


@routine
def end_back(first, live, own, columns, dh0, dc0, state, shape):
    """The other one."""
    u = own
    while u < shape[UNITS]:
        r = 0
        while r < live:
            give_start((first + r) * shape[UNITS] + u, dh0, dc0, state, shape)
            r = anew(r + 1)
        u += columns


@each_row
def add_to_rows(r, first, u, total, drop, state, shape):
    """What goes back through R."""
    n = (first + r) * shape[UNITS] + u
    dm = chosen(total, 0, r)
    if drop.shape[0]:
        dm *= data(drop)[n]
    data(state)[n] += dm


def backward_kernel(gates: int, cell: Callable[..., Any]) -> Kernel:
    """The walk backward of a cell. cell(dh, dc, values of the gates, inner, p, q, shape, a, g) -> (gradients of the gates, the last one's for R, dp,
    dq): gates as tuples of four, dp without what goes through R."""
    add_product, own_sums, (fetch, differentiate) = product(1), registers(ROWS), step_backward(gates, cell)

    @each_row
    def differentiate_rows(r, first, u, t, source, counts, place, begins, quartet, through, planes, hidden, cells, left, inner, dy, mask, state,
                           shape, a, g):
        kept, P = fetch(first + r, u, t, source, planes, hidden, cells, left, inner, dy, state, shape), padded(shape[UNITS])
        differentiate(kept, state.dtype.type(0), r, first + r, u, t, source, counts, place, begins + ROWS * quartet, quartet * gates * P + u, P,
                      through, planes, mask, state, shape, a, g)

    @kernel
    def backward(task: Int, tasks: Int, dh0: Matrix, dc0: Matrix, through: Matrix, single: Matrix, planes: Matrix, hidden: Matrix, cells: Matrix,
                 left: Matrix, inner: Matrix, dy: Matrix, dlast: Matrix, dlast_cell: Matrix, turned: Vector, mask: Matrix, drop: Matrix,
                 state: Matrix, shape: Sequence, a: Real, g: Real) -> None:
        """The gates become their gradients; through [N T, G U]: those for R, where they are others; dh0, dc0 [N, U]. dy, dlast, dlast_cell: of what
        forward writes; turned: the transpose of R, packed. Arrays that are not there have no rows. state [2 N, U].

        Task t covers its share of the groups of 4 Q rows. Writes dh0, dc0, through, single (=); updates planes.
        """
        U, Q, T, N = shape[UNITS], shape[QUARTETS], shape[STEPS], shape[BATCH]
        place, P = scratch(state), padded(U)
        begins = 4 * gates * P * Q
        chip = begins + 4 * Q
        columns, quartet, own = own_place(U)
        total = own_sums(state)
        fetch_weights(place, chip, turned, U, shape)
        start, stop = groups_of(task, tasks, shape)
        for group in range(start, stop):
            first, live, end = rows_of(group, quartet, shape)
            barrier()                                    # whoever used the scratch before is done
            clear_padding(place, gates * Q, U, state)
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
                    differentiate_rows(live, first, u, t, source, counts, place, begins, quartet, through, planes, hidden, cells, left, inner, dy,
                                       mask, state, shape, a, g)
                    u += columns
                barrier()
                u = own
                while u < end:
                    add_product(total, turned, chip, shape[ON_CHIP], u, U, 0, 0, gates * P // 4, place, quartet * gates * P, state)
                    add_to_rows(live, first, u, total, drop, state, shape)
                    u += columns
                barrier()
            if live:
                end_back(first, live, own, columns, dh0, dc0, state, shape)
    return backward


# Before and behind the walk.

@kernel
def pack_quartets(task: Int, tasks: Int, y: Vector, x: Matrix) -> None:
    """R as walks forward read it: y [P / 4, C, 4], y[k, j, i] = x[4 k + i, j], 0 beyond x [R, C]; P: R rounded up. Task t covers its share of the
    quartets. Writes y (=)."""
    R, C = x.shape
    ys, xs = data(y), data(x)
    start, stop = row_share(y.size // 4, tasks, task)
    for e in range(start + thread(), stop, THREADS):
        k, j = divided(e, C)
        for i in range(4):
            ys[4 * e + i] = xs[(4 * k + i) * C + j] if 4 * k + i < R else x.dtype.type(0)


@kernel
def pack_quartets_turned(task: Int, tasks: Int, y: Vector, x: Matrix) -> None:
    """The transpose of R [U, G U] as walks backward read it, gate by gate: y [G, P / 4, U, 4], y[g, k, j, i] = x[j, g U + 4 k + i], 0 beyond a gate.
    Task t covers its share of the quartets. Writes y (=)."""
    U, C = x.shape
    P = padded(U)
    ys, xs = data(y), data(x)
    start, stop = row_share(y.size // 4, tasks, task)
    for e in range(start + thread(), stop, THREADS):
        row, j = divided(e, U)
        g, k = divided(row, P // 4)
        for i in range(4):
            ys[4 * e + i] = xs[j * C + g * U + 4 * k + i] if 4 * k + i < U else x.dtype.type(0)


@kernel
def keep_state(task: Int, tasks: Int, state: Matrix, last: Matrix) -> None:
    """state = last, for the next batch. Both [N, U]. Task t covers its share of the elements. Updates state (in place)."""
    start, stop = share(state.size, tasks, task)
    to, source = data(state), data(last)
    for e in range(start + thread(), stop, THREADS):
        to[e] = source[e]
