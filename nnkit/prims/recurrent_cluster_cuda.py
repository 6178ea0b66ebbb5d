"""Walks through time in which a cluster of blocks shares the recurrent kernel R, for units of which R does not fit into one block's shared memory.

What comes in and goes out, and what a step makes of one number, is as in recurrent_step_cuda.py. CLUSTER blocks own four rows of the batch at a time
and S = ceil(U / CLUSTER) units each. A block keeps the columns of R that belong to its units, of all gates, in its shared memory from the first step
to the last, so a step reads nothing of R from elsewhere.

Forward, every block has the whole h [U, 4] before the step in its shared memory, adds up the gates of its own units, makes their new h and gives it
to all blocks. h is there twice, so one barrier of the cluster a step is enough: what a step gives is not where anybody still reads.

Backward, a block makes the gates' gradients of its own units, and of them its part of the gradient of h for all units, which it gives to the
units' owners: these add the CLUSTER parts in the order of the blocks, before they take the next step. The parts are there twice, too.

The sum over k for a column and four rows is shared by P neighbouring lanes: lane p takes k = p, p + P, p + 2 P, ..., so that lanes read neighbours of
h; the lanes' sums are added by a tree over them, after which the first four have a row each. What follows is theirs: row 0 to 3, as the bits of the
lane's number from the lowest on, the higher one first. P follows from shapes, and so do the bits.

In shared memory four of a lane's k lie side by side, as a cell; those of a warp's lanes follow one another, and so do its columns: no bank is met
twice, and a lane finds its columns at known distances. Barriers of a cluster are in two
halves: a thread that has given its numbers arrives, and waits after it has written to global memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkit.cuda_jit import (
    THREADS,
    Kernel,
    anew,
    arrive,
    barrier,
    clustered,
    copy_later,
    data,
    from_lane,
    give,
    registers,
    routine,
    scratch,
    thread,
    wait_for_cluster,
    wait_for_copies,
)
from nnkit.jit import Int, Matrix, Real, Sequence, Vector
from nnkit.plan.launch import CLUSTER
from nnkit.prims.block_cuda import divided, row_share
from nnkit.prims.recurrent_cuda import quartet_sums
from nnkit.prims.recurrent_step_cuda import (
    BATCH,
    QUARTETS,
    ROWS,
    STEPS,
    UNITS,
    begun_at,
    give_start,
    note_begins,
    place_of,
    rows_that_count,
    step_backward,
    step_forward,
    take_state,
)
from nnkit.prims.rows_cuda import warp_lane

__all__ = ["backward_cluster_kernel", "forward_cluster_kernel"]

PARTS = QUARTETS                                         # where `Sequence` has P
COLUMNS = 4                                              # of the transpose of R that a thread multiplies at a time
LANES = 32                                               # of a warp


# Where things are.

@routine
def shared_among(n, blocks):
    """ceil(n / blocks)."""
    return divided(n + blocks - 1, blocks)[0]


@routine
def row_of_lane(part):
    """Which row the part's sum is of in the end."""
    return 2 * (part & 1) + (part >> 1 & 1)


@routine
def place_of_cell(cell, warps, columns, parts):
    """(j, c, s, p) of a cell among [quartets, warps, columns, LANES]: of the lanes of all warps P neighbours, p = 0 to P - 1, belong to slot s."""
    lane, rest = cell & (LANES - 1), cell >> 5
    rest, c = divided(rest, columns)
    j, warp = divided(rest, warps)
    s, p = divided(LANES * warp + lane, parts)
    return j, c, s, p


@routine
def fetch_columns(place, at, recurrent, units, width, gates, rank, own, parts, quartets):
    """R's columns of the block's `own` units from unit rank own on, in cells of four k; 0 beyond R [units, width].

    Cell (j, g, s, p) has k = parts (4 j + i) + p of the column g units + rank own + s. They have come after `wait_for_copies`.
    """
    source, cell, warps = data(recurrent), thread(), shared_among(own * parts, LANES)
    while cell < quartets * warps * gates * LANES:
        j, g, s, p = place_of_cell(cell, warps, gates, parts)
        u = rank * own + s
        for i in range(4):
            k = parts * (4 * j + i) + p
            inside = (k < units) & (s < own) & (u < units)
            copy_later(place, at + 4 * cell + i, source, k * width + g * units + u if inside else 0, inside)
        cell = anew(cell + THREADS)


@routine
def fetch_rows(place, at, recurrent, units, width, gates, rank, own, parts, quartets, slots):
    """The same columns as they are multiplied backward: cell (j, c, v, p) has the element of row c slots + v and of the column
    g units + rank own + s for g own + s = parts (4 j + i) + p."""
    source, cell, warps = data(recurrent), thread(), shared_among(slots * parts, LANES)
    while cell < quartets * warps * COLUMNS * LANES:
        j, c, v, p = place_of_cell(cell, warps, COLUMNS, parts)
        row = c * slots + v
        for i in range(4):
            g, s = divided(parts * (4 * j + i) + p, own)
            u = rank * own + s
            inside = (g < gates) & (u < units) & (v < slots) & (row < units)
            copy_later(place, at + 4 * cell + i, source, row * width + g * units + u if inside else 0, inside)
        cell = anew(cell + THREADS)


# Sums.

def shared_sums(columns: int) -> Any:
    """The routine that gives a lane the sums of its row: found[c] = sum over k of left(k, row) w(k, c), of cells as above; all lanes of a warp
    call it.

    e: the number of the lane among those of `slots` slots, left: where k = 0 of the left factor lies, in cells.
    """
    add_quartet, several = quartet_sums(columns), registers(columns * ROWS)

    @routine
    def add_up(found, place, chip, e, slots, quartets, left, part, parts, like):
        total, width = several(like), shared_among(slots * parts, LANES) * columns * LANES
        at, left = (chip >> 2) + (e >> 5) * columns * LANES + (e & (LANES - 1)), left + part
        for number in range(columns * ROWS):
            total[number] = like.dtype.type(0)
        stop = at + quartets * width
        while at < stop:
            add_quartet(total, place, at, LANES, place, left, parts, like)
            at += width
            left += 4 * parts
        low, high = (part & 1) == 0, (part & 2) == 0
        for c in range(columns):
            a, b, d, f = total[ROWS * c], total[ROWS * c + 1], total[ROWS * c + 2], total[ROWS * c + 3]
            first = (a if low else d) + from_lane(d if low else a, 1)
            second = (b if low else f) + from_lane(f if low else b, 1)
            found[c] = (first if high else second) + from_lane(second if high else first, 2)
        distance = 4
        while distance < parts:
            for c in range(columns):
                found[c] += from_lane(found[c], distance)
            distance *= 2
    return add_up


@routine
def given_to_all(place, index, value):
    """place[index] = value, in all blocks of the cluster."""
    for block in range(CLUSTER):
        give(place, index, block, value)


# Forward.

@routine
def begin_rows(place, width, first, live, h0, drop, like, shape):
    """h before the first step, whole, in the first of both places; in both 0 for the rows and the k that there are not."""
    U, e = shape[UNITS], thread()
    while e < ROWS * width:
        u, r = e >> 2, e & 3
        h = like.dtype.type(0)
        if u < U and r < live:
            h = begun_at((first + r) * U + u, h0, drop, like)
        place[e] = h
        if u >= U:
            place[ROWS * width + e] = h
        e = anew(e + THREADS)


@routine
def begin_states(n, first_unit, slots, parts, h0, c0, state, shape):
    """h and c before the first step of row n, of the thread's units."""
    U, e = shape[UNITS], thread()
    while e < slots:
        u = first_unit + divided(e, parts)[0]
        if u < U:
            take_state(n * U + u, h0, c0, state, shape)
        e = anew(e + THREADS)


def forward_cluster_kernel(gates: int, cell: Callable[..., Any]) -> Kernel:
    """The walk forward of a cell as for `recurrent_cuda.forward_kernel`, by clusters."""
    add_up, own_sums, own_inputs, (make, keep) = shared_sums(gates), registers(gates), registers(gates), step_forward(gates, cell)

    @routine
    def fetch(given, n, u, source, planes, state, shape):
        """What x gives to the gates, p and q."""
        U, T, N = shape[UNITS], shape[STEPS], shape[BATCH]
        for k in range(gates):
            given[k] = data(planes)[(n * T + source) * gates * U + k * U + u]
        p = data(state)[n * U + u]
        return p, data(state)[(N + n) * U + u] if gates == 4 else p

    @routine
    def of_gates(own, like):
        zero = like.dtype.type(0)
        return own[0], own[1] if gates > 1 else zero, own[2] if gates > 2 else zero, own[3] if gates > 3 else zero

    @clustered
    def forward(task: Int, tasks: Int, y: Matrix, last: Matrix, last_cell: Matrix, hidden: Matrix, cells: Matrix, left: Matrix, inner: Matrix,
                planes: Matrix, recurrent: Vector, bias: Vector, h0: Matrix, c0: Matrix, mask: Matrix, drop: Matrix, state: Matrix, shape: Sequence,
                a: Real, g: Real) -> None:
        """As `recurrent_cuda.forward_kernel`'s, but for recurrent, which is R [U, G U] as it is. The cluster of blocks 8 c to 8 c + 7 covers its
        share of the groups of four rows."""
        U, P, T, N = shape[UNITS], shape[PARTS], shape[STEPS], shape[BATCH]
        place, S, rank = scratch(y), shared_among(U, CLUSTER), task % CLUSTER
        J = shared_among(U, 4 * P)
        slots, width, chip, zero = S * P, 4 * P * J, 8 * 4 * P * J, y.dtype.type(0)
        part, row = thread() & (P - 1), row_of_lane(thread() & (P - 1))
        found, given = own_sums(y), own_inputs(y)
        fetch_columns(place, chip, recurrent, U, gates * U, gates, rank, S, P, J)
        start, stop = row_share(shared_among(N, ROWS), tasks // CLUSTER, task // CLUSTER)
        for group in range(start, stop):
            first, live = ROWS * group, min(ROWS, N - ROWS * group)
            n = first + row
            mine = part < ROWS and row < live
            begin_rows(place, width, first, live, h0, drop, y, shape)
            begin_states(n, rank * S, slots if mine else 0, P, h0, c0, state, shape)
            wait_for_copies()
            arrive()                                     # from now on all blocks are there
            wait_for_cluster()
            begun, now = 0, 0
            for t in range(T):
                source = place_of(t, shape)
                counts = rows_that_count(mask, n, 1, source, T) << row if mine else 0
                begun |= counts
                e, missing = thread(), True
                while e - warp_lane() < slots:           # whole warps
                    u = rank * S + divided(e, P)[0]
                    makes = mine and e < slots and u < U
                    p, q = fetch(given, n, u, source, planes, state, shape) if makes else (zero, zero)         # while the products are made
                    add_up(found, place, chip, e, S, J, now, part, P, y)
                    made, m = make(of_gates(given, y), of_gates(found, y), p, q, min(u, U - 1), bias, shape, a, g, y), zero
                    if makes:
                        m = place[4 * (now + u) + row]
                        h = made[0] if (counts >> row) & 1 else p
                        if drop.shape[0]:
                            h *= data(drop)[n * U + u]
                        given_to_all(place, 4 * (width - now + u) + row, h)
                    e = anew(e + THREADS)
                    if e - warp_lane() >= slots:         # that was the last of the warp's units
                        arrive()
                        missing = False
                    if makes:
                        keep(made, p, q, m, row, n, u, t, source, counts, begun, y, last, last_cell, hidden, cells, left, inner, mask, state,
                             planes, shape)
                if missing:
                    arrive()
                wait_for_cluster()
                now = width - now
    return forward


# Backward.

@routine
def clear(place, count, like):
    """place[0], ..., place[count - 1] = 0."""
    e = thread()
    while e < count:
        place[e] = like.dtype.type(0)
        e = anew(e + THREADS)


@routine
def sum_of_parts(n, place, at, own, drop):
    """What the blocks gave for number n: their parts, `own` cells apart, in their order."""
    dm = place[at]
    for block in range(1, CLUSTER):
        dm += place[at + 4 * own * block]
    if drop.shape[0]:
        dm *= data(drop)[n]
    return dm


add_columns = shared_sums(COLUMNS)


@routine
def give_parts(found, place, chip, at, rank, own, part, row, parts, quartets, slots, units, like):
    """The block's part of the gradient of h, for all units: each to its unit's owner."""
    e = thread()
    while e - warp_lane() < slots * parts:               # whole warps
        add_columns(found, place, chip, e, slots, quartets, 0, part, parts, like)
        v = divided(e, parts)[0]
        for c in range(COLUMNS):
            if part < ROWS and e < slots * parts and c * slots + v < units:
                owner, s = divided(c * slots + v, own)
                give(place, at + 4 * (rank * own + s) + row, owner, found[c])
        e = anew(e + THREADS)


def backward_cluster_kernel(gates: int, cell: Callable[..., Any]) -> Kernel:
    """The walk backward of a cell as for `recurrent_cuda.backward_kernel`, by clusters."""
    own_sums, (fetch, differentiate) = registers(COLUMNS), step_backward(gates, cell)

    @clustered
    def backward(task: Int, tasks: Int, dh0: Matrix, dc0: Matrix, through: Matrix, single: Matrix, planes: Matrix, hidden: Matrix, cells: Matrix,
                 left: Matrix, inner: Matrix, dy: Matrix, dlast: Matrix, dlast_cell: Matrix, turned: Vector, mask: Matrix, drop: Matrix,
                 state: Matrix, shape: Sequence, a: Real, g: Real) -> None:
        """As `recurrent_cuda.backward_kernel`'s, but for turned, which is R [U, G U] as it is. The cluster of blocks 8 c to 8 c + 7 covers its
        share of the groups of four rows."""
        U, P, T, N = shape[UNITS], shape[PARTS], shape[STEPS], shape[BATCH]
        place, S, rank = scratch(state), shared_among(U, CLUSTER), task % CLUSTER
        J, V = shared_among(gates * S, 4 * P), shared_among(U, COLUMNS)
        parts = 16 * P * J                               # parts: where those of the gradient of h are, behind the gates' gradients
        begins = parts + 2 * 4 * S * CLUSTER
        chip = begins + ROWS
        part, r = thread() & (P - 1), thread() & (ROWS - 1)
        row = row_of_lane(part)
        found, zero = own_sums(state), state.dtype.type(0)
        nothing_kept = (zero, zero, zero, zero), zero, zero, zero, zero, zero, zero
        fetch_rows(place, chip, turned, U, gates * U, gates, rank, S, P, J, V)
        start, stop = row_share(shared_among(N, ROWS), tasks // CLUSTER, task // CLUSTER)
        for group in range(start, stop):
            first, live = ROWS * group, min(ROWS, N - ROWS * group)
            n = first + r
            begin, end = rank * S + (thread() >> 2), min(U, rank * S + S) if r < live else 0
            clear(place, begins, state)
            note_begins(place, begins, first, live, mask, shape)
            u = begin
            while u < end:
                take_state(n * U + u, dlast, dlast_cell, state, shape)
                u = anew(u + THREADS // ROWS)
            wait_for_copies()
            arrive()                                     # from now on all blocks are there
            wait_for_cluster()
            now, other = parts, parts + 4 * S * CLUSTER
            kept = nothing_kept
            if begin < end:
                kept = fetch(n, begin, T - 1, place_of(T - 1, shape), planes, hidden, cells, left, inner, dy, state, shape)
            for t in range(T - 1, -1, -1):
                source = place_of(t, shape)
                counts = rows_that_count(mask, n, 1, source, T) << r if r < live else 0
                u = begin
                while u < end:
                    s = u - rank * S
                    more = sum_of_parts(n * U + u, place, now + 4 * s + r, S, drop)
                    differentiate(kept, more, r, n, u, t, source, counts, place, begins, s, S, through, planes, mask, state, shape, a, g)
                    u = anew(u + THREADS // ROWS)
                    if u < end:
                        kept = fetch(n, u, t, source, planes, hidden, cells, left, inner, dy, state, shape)
                barrier()
                give_parts(found, place, chip, other, rank, S, part, row, P, J, V, U, state)
                arrive()
                if t > 0 and begin < end:                # on their way while the others come
                    kept = fetch(n, begin, t - 1, place_of(t - 1, shape), planes, hidden, cells, left, inner, dy, state, shape)
                wait_for_cluster()
                now, other = other, now
            u = begin
            while u < end:
                data(state)[n * U + u] += sum_of_parts(n * U + u, place, now + 4 * (u - rank * S) + r, S, drop)
                give_start(n * U + u, dh0, dc0, state, shape)
                u = anew(u + THREADS // ROWS)
            barrier()                                    # before the parts are cleared for the next rows
    return backward
