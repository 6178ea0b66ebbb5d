"""CUDA twins of csr_cpu.py, and what kernels share that go along the entries of rows. Letters: see csr_cpu.py.

Work is cut along the merge path, as on the CPU, but a share is a warp's, whose lanes stand in parts: see teams_cuda.py. A round of AT_ONCE entries is
loaded before the first is added, and there are no branches in it: what lies behind the last entry is read at the last one and not added. Orders
depend on the rows alone, never on the cut.

Of a row of more than `chunk` entries each chunk's sum goes to `carry`, and a second step adds them: so such a row is shared by many warps. Kernels
whose tasks take whole rows leave rows of more than LONG entries to the whole block (`over_rows`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int64

from nnkit.cuda_jit import THREADS, data, kernel, registers, routine, scratch, thread
from nnkit.jit import Int, Labels, Matrix, Ordinals, Vector
from nnkit.prims.block_cuda import AT_ONCE, WARPS, block_sum, columns_of, divided, over_parts, row_share, strided_sums
from nnkit.prims.rows_cuda import row_of_warp, sum_over_warp, warp_lane
from nnkit.prims.teams_cuda import WARP, Team, lanes_for, rows_by_teams, sum_within

__all__ = [
    "WIDE", "csr_entries", "csr_entries_heads", "csr_join", "csr_product", "csr_product_heads", "dot_pairs", "entry_sums", "fill_rest", "over_rows",
    "walk_place",
]

LONG = 512                                               # entries of a row that a warp goes through alone
WIDE = 2                                                 # columns of a lane where rows have more than 32 numbers


# The walk.

@routine
def walk_place(starts, R, step):
    """How many rows end before step `step` of the walk, row i's end being step starts[i + 1] + i: the lanes look at 32 rows at a time."""
    low, high = int64(0), R
    while low < high:
        stride = (high - low + 31) >> 5
        i = low + (warp_lane() + 1) * stride - 1
        at = min(i, high - 1)
        found = sum_over_warp(int64(1) if i < high and starts[at + 1] + at < step else int64(0))
        low += found * stride
        high = min(high, low + stride - 1)
    return low


@routine
def rows_of_block(starts, R, tasks, task):
    """The rows [first, stop) that begin in the block's share of the walk."""
    step, end = row_share(starts[R] + R, tasks, task)
    row = walk_place(starts, R, step)
    stop = walk_place(starts, R, end)
    row += 1 if row < R and step - row > starts[row] else 0
    stop += 1 if stop < R and end - stop > starts[stop] else 0
    return row, R if task == tasks - 1 else stop


def over_rows(make: Callable[[Team], Any]) -> Any:
    """f(task, tasks, starts, held, like): `rows_by_teams` for the rows that begin in the task's share of the walk."""
    by_teams = rows_by_teams(make, LONG)

    @routine
    def run(task, tasks, starts, held, like):
        ends = data(starts)
        row, stop = rows_of_block(ends, starts.size - 1, tasks, task)
        by_teams(row, stop, ends, held, like)
    return run


@routine
def fill_rest(y, used, E, H, tasks, task, like):
    """y [E, H] = 0 from entry `used` on: the task's share of it."""
    first, stop = row_share((E - used) * H, tasks, task)
    for i in range(first + thread(), stop, THREADS):
        y[used * H + i] = like.dtype.type(0)


# Products.

def entry_sums(wide: int, headed: bool, team: Team) -> Any:
    """f(ys, at, first, last, columns, values, H, units, xs, F, first_column, lanes, bias, biased, place, like):

    ys[at + f] = bias[f] + the sum of values[e H + f // units] xs[columns[e] F + f] over the entries first <= e < last, by a team, for a strip of
    columns from first_column on. wide: columns of a lane. headed: whether H may be more than 1. lanes: see `lanes_for`, parts among the team's.
    """
    total_of = team.total
    own_sums, own_got, own_factors = registers(wide), registers(wide * AT_ONCE), registers(wide * AT_ONCE)
    own_places, own_columns, own_heads = registers(AT_ONCE, "int64"), registers(wide, "int64"), registers(wide, "int64")

    @routine
    def add(ys, at, first, last, columns, values, H, units, xs, F, first_column, lanes, bias, biased, place, like):
        T = like.dtype.type
        width, column, part, parts = lanes
        total, got, factors = own_sums(like), own_got(like), own_factors(like)
        entries, f, heads = own_places(like), own_columns(like), own_heads(like)
        for j in range(wide):
            f[j] = min(first_column + 32 * j + column, F - 1)
            heads[j] = divided(f[j], units)[0] if headed else 0
            total[j] = T(0)
        e = first + part
        start = first
        while start < last:
            for u in range(AT_ONCE):
                entries[u] = min(e + u * parts, last - 1)
            for u in range(AT_ONCE):
                row = columns[entries[u]] * F
                for j in range(wide):
                    got[u * wide + j] = xs[row + f[j]]
                    factors[u * wide + j] = values[entries[u] * H + heads[j]]
            for u in range(AT_ONCE):
                for j in range(wide):
                    more = total[j] + factors[u * wide + j] * got[u * wide + j]
                    total[j] = more if e + u * parts < last else total[j]
            start += AT_ONCE * parts
            e += AT_ONCE * parts
        for j in range(wide):
            found = total_of(total[j], width, place)
            if part == 0 and first_column + 32 * j + column < F:
                ys[at + f[j]] = found + bias[f[j]] if biased else found
    return add


def products(headed: bool) -> Any:
    """f(task, tasks, y, carry, starts, columns, values, H, x, bias, chunk): see csr_product_heads. values: a pointer."""
    narrow, wide = entry_sums(1, headed, WARP), entry_sums(WIDE, headed, WARP)

    @routine
    def product(task, tasks, y, carry, starts, columns, values, H, x, bias, chunk):
        F, R, T = y.shape[1], starts.size - 1, y.dtype.type
        ends, ys, sums, entries, xs, bs, place = data(starts), data(y), data(carry), data(columns), data(x), data(bias), scratch(y)
        lanes, units = lanes_for(F), divided(F, H)[0] if headed else F
        step, stop = row_share(ends[R] + R, tasks * WARPS, task * WARPS + row_of_warp())
        row = walk_place(ends, R, step)
        before = max(0, step - row - ends[row]) if row < R else 0        # entries of the row before this share
        more = F > 0 and step < stop
        while more and row < R:
            begin, end = ends[row], ends[row + 1]
            long, mine = end - begin > chunk, end + row < stop           # mine: the row ends in this share
            to, at, first, last, pieces = ys, row * F, begin, end, 1 if mine else 0
            if long:
                if mine:
                    for f in range(warp_lane(), F, 32):
                        ys[row * F + f] = T(0)
                done = divided(before, chunk)[0]                         # chunks
                first = begin + done * chunk
                last = end if mine else begin + divided(stop - row - begin, chunk)[0] * chunk
                pieces = divided(last - first + chunk - 1, chunk)[0]
                to, at = sums, (2 * divided(begin, chunk)[0] + done) * F
            biased = bias.size > 0 and not long
            for _ in range(pieces):
                limit = min(first + chunk, last)
                if F > 32:
                    for column in range(0, F, 32 * WIDE):
                        wide(to, at, first, limit, entries, values, H, units, xs, F, column, (32, warp_lane(), 0, 1), bs, biased, place, y)
                else:
                    narrow(to, at, first, limit, entries, values, H, units, xs, F, 0, lanes, bs, biased, place, y)
                first += chunk
                at += F
            row, before, more = row + 1, int64(0), mine
    return product


product_single, product_headed = products(False), products(True)


@kernel
def csr_product_heads(task: Int, tasks: Int, y: Matrix, carry: Matrix, starts: Ordinals, columns: Labels, values: Matrix, x: Matrix, bias: Vector,
                      chunk: Int) -> None:
    """y[i, h U + u] = bias[h U + u] + sum over the entries e of row i of values[e, h] x[columns[e], h U + u].

    Shapes: y [R, H U], carry [2 (E // chunk) + 2, H U] (or [0, H U] where E <= chunk), starts [R + 1], columns [E], values [E, H], x [C, H U], bias
    [H U] or [0]. Each warp takes its share of the walk, of a long row whole chunks: their sums go to carry, from slot 2 (starts[i] // chunk) on, and
    y becomes 0: see csr_join. Writes y (=) and those slots of carry (=).
    """
    product_headed(task, tasks, y, carry, starts, columns, data(values), values.shape[1], x, bias, chunk)


@kernel
def csr_product(task: Int, tasks: Int, y: Matrix, carry: Matrix, starts: Ordinals, columns: Labels, values: Vector, x: Matrix, bias: Vector,
                chunk: Int) -> None:
    """y = A x + bias: csr_product_heads with one head, values [E]."""
    product_single(task, tasks, y, carry, starts, columns, data(values), 1, x, bias, chunk)


@routine
def slot(x, y, constant, more, r):
    """Sum x."""
    return x, type(x)(0)


slot_sums = strided_sums(slot)


@kernel
def csr_join(task: Int, tasks: Int, y: Matrix, carry: Matrix, starts: Ordinals, bias: Vector, chunk: Int) -> None:
    """y[i] = bias + the sums of row i's chunks, for rows of more than `chunk` entries.

    Shapes: y [R, F], carry [2 (E // chunk) + 2, F], starts [R + 1], bias [F] or [0]. Task t covers its share of the rows: each thread looks at one,
    and the block sums those that are long, a strip of columns at a time. Updates rows of y (=).
    """
    first, stop = row_share(y.shape[0], tasks, task)
    F, T, ends, ys, sums, place = y.shape[1], y.dtype.type, data(starts), data(y), data(carry), scratch(y)
    columns = columns_of(F)
    part, lane = divided(thread(), columns)
    parts = divided(THREADS, columns)[0]
    for batch in range(first, stop, THREADS):
        i = min(batch + thread(), stop - 1)
        if block_sum(T(1) if ends[i + 1] - ends[i] > chunk else T(0), place) == T(0):
            continue
        for r in range(batch, min(batch + THREADS, stop)):
            entries = ends[r + 1] - ends[r]
            if entries > chunk:
                slots, at = divided(entries + chunk - 1, chunk)[0], 2 * divided(ends[r], chunk)[0]
                strip = int64(0)
                while strip < F:
                    f = min(strip + lane, F - 1)
                    total, _ = slot_sums(part, slots if part < parts else 0, parts, F, sums, at * F + f, sums, at * F + f, T(0), 0, y)
                    total = over_parts(total, columns, place)
                    if thread() < columns and strip + lane < F:
                        ys[r * F + f] = total + data(bias)[f] if bias.size else total
                    strip += columns


# Dot products.

def dot_pairs(places: Callable[..., Any]) -> Any:
    """f(ds, first, stop, warp, warps, length, a, b, held, like): ds[q] = the dot product of `length` numbers of a and of b, for
    first <= q < stop, by `warps` warps of which this is number `warp`. places(held, q): where these numbers begin."""
    own_sums, own_places = registers(AT_ONCE), registers(AT_ONCE, "int64")

    @routine
    def dots(ds, first, stop, warp, warps, length, a, b, held, like):
        T = like.dtype.type
        width, column, part, parts = lanes_for(length)
        span = AT_ONCE * parts
        total, at, other = own_sums(like), own_places(like), own_places(like)
        q = first + warp * span
        while q < stop:
            for u in range(AT_ONCE):
                at[u], other[u] = places(held, min(q + u * parts + part, stop - 1))
                total[u] = T(0)
            f = column
            while f < length:
                for u in range(AT_ONCE):
                    total[u] += a[at[u] + f] * b[other[u] + f]
                f += width
            for u in range(AT_ONCE):
                found = sum_within(total[u], width)
                if column == 0 and q + u * parts + part < stop:
                    ds[q + u * parts + part] = found
            q += warps * span
    return dots


@routine
def entry_places(held, q):
    """Of entry q // H and head q % H of a row: the head's part of the row of dy, and of the row of x that the column names."""
    columns, H, units, row = held
    e, h = divided(q, H)
    return row + h * units, columns[e] * H * units + h * units


entry_dots = dot_pairs(entry_places)


@routine
def entries(task, tasks, ds, E, H, starts, columns, dy, x):
    """See csr_entries_heads. ds: a pointer."""
    F, R, ends = x.shape[1], starts.size - 1, data(starts)
    units = divided(F, H)[0]
    step, stop = row_share(ends[R] + R, tasks * WARPS, task * WARPS + row_of_warp())
    row = walk_place(ends, R, step)
    first, more = step - row, step < stop
    while more and row < R:
        end, mine = ends[row + 1], ends[row + 1] + row < stop
        last = end if mine else stop - row
        held = (data(columns), H, units, row * F)
        entry_dots(ds, first * H, last * H, 0, 1, units, data(dy), data(x), held, x)
        row, first, more = row + 1, end, mine
    fill_rest(ds, ends[R], E, H, tasks, task, x)


@kernel
def csr_entries(task: Int, tasks: Int, d: Vector, starts: Ordinals, columns: Labels, dy: Matrix, x: Matrix) -> None:
    """d[e] = dy[i] . x[columns[e]] for the entries e of row i; 0 behind starts[R].

    Shapes: d [E], starts [R + 1], columns [E], dy [R, F], x [C, F]. Each warp covers the entries of its share of the walk. Writes d (=).
    """
    entries(task, tasks, data(d), d.size, 1, starts, columns, dy, x)


@kernel
def csr_entries_heads(task: Int, tasks: Int, d: Matrix, starts: Ordinals, columns: Labels, dy: Matrix, x: Matrix) -> None:
    """d[e, h] = sum over u of dy[i, h U + u] x[columns[e], h U + u] for the entries e of row i; 0 behind starts[R].

    Shapes: d [E, H], starts [R + 1], columns [E], dy [R, H U], x [C, H U]. Each warp covers the entries of its share of the walk. Writes d (=).
    """
    entries(task, tasks, data(d), d.shape[0], d.shape[1], starts, columns, dy, x)
