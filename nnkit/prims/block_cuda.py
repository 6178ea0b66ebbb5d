"""What CUDA kernels share: a task's part of the work, sums over a block's threads, sums down columns. A task is a block of THREADS threads.

For sums down columns, a block's threads stand in rows: thread t is part t // columns of column t % columns, and takes the rows part,
part + parts, ... So neighbours read neighbours however narrow the matrix is. The threads that are left over sum nothing. Orders depend on shapes
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nnkit.cuda_jit import THREADS, barrier, registers, routine, thread
from nnkit.plan.launch import COLUMNS, FEW, MANY, NARROW, WARPS
from nnkit.prims.rows_cuda import row_of_warp, sum_over_warp, warp_lane

__all__ = [
    "AT_ONCE", "WARPS", "block_sum", "column_piece", "columns_joined", "columns_of", "divided", "over_parts", "piece_count", "row_share",
    "several", "share", "strided_sums", "wholes",
]

# Elements of a sweep that a thread reads before it writes the first result: as many are on their way from memory at a time, whatever may overlap.
AT_ONCE = 4
several = registers(AT_ONCE)


@routine
def wholes(start, stop):
    """Where the last whole round of AT_ONCE elements for each thread of the block ends."""
    return start + (stop - start) // (AT_ONCE * THREADS) * (AT_ONCE * THREADS)


@routine
def divided(a, b):
    """a // b and what is left, for whole numbers from 0 to 2^32 - 1: of 64 bits a division takes four times as long."""
    quotient = np.int64(np.uint32(a) // np.uint32(b))
    return quotient, a - quotient * b


@routine
def row_share(rows, tasks, task):
    """The rows [start, stop) of task `task` of `tasks`: the first tasks have one more where they do not come out even."""
    each = np.uint32(rows) // np.uint32(tasks)
    more = rows - np.int64(each) * tasks
    start = task * np.int64(each) + min(task, more)
    return start, start + np.int64(each) + (1 if task < more else 0)


@routine
def share(n, tasks, task):
    """The elements [start, stop) of task `task` of `tasks`, cut at multiples of 32, so that whole warps read whole lines."""
    first, last = row_share((n + 31) // 32, tasks, task)
    return min(n, 32 * first), min(n, 32 * last)


@routine
def block_sum(value, place):
    """The sum of `value` over the block's threads, for all of them: by a tree over each warp's lanes, then over the warps in their order.

    place: WARPS numbers of scratch.
    """
    value = sum_over_warp(value)
    barrier()                                            # whoever used the scratch before is done
    if warp_lane() == 0:
        place[row_of_warp()] = value
    barrier()
    total = place[0]
    for w in range(1, WARPS):
        total += place[w]
    return total


def strided_sums(term: Callable[..., Any]) -> Any:
    """Two sums of a thread's own: over r = start, start + step, ... below stop, of the two numbers term(x, y, constant, more, r).

    x = xs[r stride + x_at], y = ys[r stride + y_at]; more: whatever the term takes. In the order of r; several are read before they are added.
    """
    @routine
    def sums(start, stop, step, stride, xs, x_at, ys, y_at, constant, more, like):
        T = like.dtype.type
        a, b = T(0), T(0)
        own_x, own_y = several(like), several(like)
        r = start
        while r + (AT_ONCE - 1) * step < stop:
            for u in range(AT_ONCE):
                own_x[u], own_y[u] = xs[(r + u * step) * stride + x_at], ys[(r + u * step) * stride + y_at]
            for u in range(AT_ONCE):
                p, q = term(own_x[u], own_y[u], constant, more, r + u * step)
                a += p
                b += q
            r += AT_ONCE * step
        while r < stop:
            p, q = term(xs[r * stride + x_at], ys[r * stride + y_at], constant, more, r)
            a += p
            b += q
            r += step
        return a, b
    return sums


@routine
def columns_of(width):
    """Columns of a strip of a matrix of so many that is summed by chunks of rows: plan/launch.py, strip."""
    return max(1, width if width <= NARROW else COLUMNS)


@routine
def columns_joined(width, rows):
    """The same for sums over all of its rows: plan/launch.py, joined_strip."""
    return max(1, min(width, FEW)) if rows >= MANY else columns_of(width)


@routine
def piece_count(chunks, width, columns):
    """Chunks of rows times strips of columns."""
    return chunks * divided(width + columns - 1, columns)[0]


@routine
def column_piece(piece, chunks, rows, width, chunk, columns):
    """(k, j, first, last, parts): of a piece the chunk, and the thread's column j and rows first, first + parts, ... below last.

    A thread that has no column has no rows, and j = width.
    """
    parts = divided(THREADS, columns)[0]
    part, lane = divided(thread(), columns)
    strip, k = divided(piece, chunks)
    j = strip * columns + lane
    if part >= parts or j >= width:
        return k, width, 0, 0, parts
    return k, j, k * chunk + part, min((k + 1) * chunk, rows), parts


@routine
def over_parts(value, columns, place):
    """The sum of `value` over the parts of a column, for all of its threads, by a tree. place: THREADS numbers of scratch."""
    parts, t = divided(THREADS, columns)[0], thread()
    lane = divided(t, columns)[1]
    barrier()
    place[t] = value
    barrier()
    while parts > 1:
        half = (parts + 1) // 2
        if t < (parts - half) * columns:
            place[t] += place[t + half * columns]
        barrier()
        parts = half
    return place[lane]
