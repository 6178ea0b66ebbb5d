"""Matrix products on the device: y [M, N] = A [M, K] B [K, N] (+ bias), each element a sum whose order depends on shapes alone.

`product` is for small ones, element by element straight from memory: a thread makes a whole element, so a task's elements may be any range of rows.
`tiled(...)` is for large ones: a block makes a square tile of y, of which each thread keeps side^2 / THREADS elements in registers; slices of A and B
of depth DEPTH lie in shared memory while the next ones are on their way there from global memory. Their rows are PAD elements longer, which keeps the
columns of a slice that is stored transposed out of one bank, and 16-byte loads aligned.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkit.cuda_jit import THREADS, barrier, copy_later, data, registers, routine, scratch, thread, wait_for_copies
from nnkit.plan.launch import CHUNK, DEPTH, LEDGE, PAD
from nnkit.prims.rows_cuda import row_of_warp, sum_over_warp, warp_lane

__all__ = ["LINE", "line_and_column", "product", "slice_product", "slices", "tiled"]

UNROLLED, FEW = 16, 4                                    # factors that a thread of `product` reads before it multiplies
NARROW, LONG = 32, 256                                   # fewer columns than this, and sums at least so long: a warp shares each sum
STRIDE = 2                                               # steps along k of a tile that are unrolled
LINE = 16                                                # threads along one side of a tile


@routine
def narrow_product(start, stop, N, K, y, a, row_a, step_a, b, step_b, column_b, bias):
    """The same for few columns and long sums: a warp makes FEW elements of a row, its lanes taking k, k + 32, ...; then a tree over the lanes."""
    shifts, T = data(bias), bias.dtype.type
    groups = (N + FEW - 1) // FEW
    for e in range(start * groups + row_of_warp(), stop * groups, THREADS // 32):
        i = np.int64(np.uint32(e) // np.uint32(groups))
        first = (e - i * groups) * FEW
        j1, j2, j3 = min(first + 1, N - 1), min(first + 2, N - 1), min(first + 3, N - 1)
        s0, s1, s2, s3 = T(0), T(0), T(0), T(0)
        for k in range(warp_lane(), K, 32):
            value, at = a[i * row_a + k * step_a], k * step_b
            s0 += value * b[at + first * column_b]
            s1 += value * b[at + j1 * column_b]
            s2 += value * b[at + j2 * column_b]
            s3 += value * b[at + j3 * column_b]
        s0, s1, s2, s3 = sum_over_warp(s0), sum_over_warp(s1), sum_over_warp(s2), sum_over_warp(s3)
        lane = warp_lane()
        if lane < FEW and first + lane < N:
            total = s0 if lane == 0 else s1 if lane == 1 else s2 if lane == 2 else s3
            y[i * N + first + lane] = total + shifts[first + lane] if bias.size else total


@routine
def product(start, stop, N, K, y, a, row_a, step_a, b, step_b, column_b, bias):
    """Rows [start, stop) of y = A B + bias. A sum goes over k in ascending order, or, where few columns have long sums, is shared by a warp.

    y, a, b: pointers; A(i, k) = a[i row_a + k step_a], B(k, j) = b[k step_b + j column_b]; bias [N] or empty."""
    shifts, T = data(bias), bias.dtype.type
    if N < NARROW and K >= LONG and step_a == 1:         # else its lanes would read far apart
        narrow_product(start, stop, N, K, y, a, row_a, step_a, b, step_b, column_b, bias)
        return
    whole, few = K // UNROLLED * UNROLLED, K // FEW * FEW
    for e in range(start * N + thread(), stop * N, THREADS):
        i = np.int64(np.uint32(e) // np.uint32(N))
        j = e - i * N
        at, bt = i * row_a, j * column_b
        total = shifts[j] if bias.size else T(0)
        for k in range(0, whole, UNROLLED):
            for u in range(UNROLLED):
                total += a[at + (k + u) * step_a] * b[bt + (k + u) * step_b]
        for k in range(whole, few, FEW):
            for u in range(FEW):
                total += a[at + (k + u) * step_a] * b[bt + (k + u) * step_b]
        for k in range(few, K):
            total += a[at + k * step_a] * b[bt + k * step_b]
        y[e] = total


PIECES = 64 * CHUNK // THREADS                           # elements of B that a thread brings
pieces = registers(PIECES)


@routine
def product_transposed(start, stop, N, K, y, a, b, like):
    """Rows [start, stop) of y = A B^T, A [M, K], B [N, K], pointers: a sum goes over k in ascending order.

    A thread would read its own row of B, far from its neighbour's; so pieces of both factors, 64 rows of B or 32, come through shared memory: CHUNK
    steps along k at a time, B's elements of one k side by side, A's rows behind them.
    """
    T, place, t = like.dtype.type, scratch(like), thread()
    coming = pieces(like)
    bits = 6 if N > 32 else 5
    columns = 1 << bits
    row, column, own_row, own_k = t >> bits, t & (columns - 1), t // CHUNK, t % CHUNK
    for first in range(start, stop, THREADS >> bits):
        for j0 in range(0, N, columns):
            total = T(0)
            for k0 in range(0, K, CHUNK):
                value = a[(first + own_row) * K + k0 + own_k] if first + own_row < stop and k0 + own_k < K else T(0)
                for u in range(PIECES):                  # all on their way before the first is put down
                    j = j0 + own_row + u * (THREADS // CHUNK)
                    coming[u] = b[j * K + k0 + own_k] if j < N and k0 + own_k < K else T(0)
                barrier()                                # whoever used the scratch before is done
                place[CHUNK * LEDGE + t] = value
                for u in range(PIECES):
                    place[own_k * LEDGE + own_row + u * (THREADS // CHUNK)] = coming[u]
                barrier()
                for k in range(CHUNK):
                    total += place[CHUNK * LEDGE + row * CHUNK + k] * place[k * LEDGE + column]
            if first + row < stop and j0 + column < N:
                y[(first + row) * N + j0 + column] = total


def slices(side: int, along_k: bool) -> Any:
    """How a block brings a slice [side, DEPTH] of a factor into shared memory. along_k: whether its elements lie one after the other along k in
    memory, else along the other axis; neighbouring threads read neighbouring elements."""
    each = side * DEPTH // THREADS
    width = side + PAD
    gap, span = (THREADS // DEPTH, DEPTH) if along_k else (THREADS // side, side)

    @routine
    def fetch(place, begin, source, leading, first, limit, k0, K):
        """place[begin + k width + row] = element (first + row, k0 + k), 0 beyond (limit, K); there after `wait_for_copies`."""
        t = thread()
        near, far = t % span, t // span                  # along the axis that is contiguous in memory, and across
        row, k = (first + far, k0 + near) if along_k else (first + near, k0 + far)
        to, step = (near * width + far, gap) if along_k else (far * width + near, gap * width)
        at, stride = (row * leading + k if along_k else k * leading + row), gap * leading
        for u in range(each):
            inside = (row + u * gap < limit and k < K) if along_k else (row < limit and k + u * gap < K)
            copy_later(place, begin + to + u * step, source, at + u * stride if inside else 0, inside)
    return fetch


def slice_product(tall: int, wide: int) -> tuple[Any, Any, Any]:
    """What a block does with slices [tall, DEPTH] and [wide, DEPTH] of two factors: (the routine that adds their product to a thread's sums, the
    routines that say which rows and which columns of the tile are the thread's).

    A thread is one of LINE lines and LINE columns of threads. Its rows and columns lie in runs of four at most, so that a warp reads shared memory in
    one go.
    """
    rows, columns = tall // LINE, wide // LINE
    high, broad = min(rows, 4), min(columns, 4)
    left_edge, upper_edge = registers(rows), registers(columns)

    @routine
    def row_of(line, i):
        return (i // high) * (LINE * high) + line * high + i % high

    @routine
    def column_of(column, j):
        return (j // broad) * (LINE * broad) + column * broad + j % broad

    @routine
    def add_products(accumulators, place, now, line, column, like):
        """accumulators[i columns + j] += sum over k of left(row i, k) right(column j, k), the slices lying one behind the other from `now` on."""
        left, right = left_edge(like), upper_edge(like)
        behind = now + DEPTH * (tall + PAD)
        for k in range(0, DEPTH, STRIDE):
            for u in range(STRIDE):
                for i in range(rows):
                    left[i] = place[now + (k + u) * (tall + PAD) + row_of(line, i)]
                for j in range(columns):
                    right[j] = place[behind + (k + u) * (wide + PAD) + column_of(column, j)]
                for i in range(rows):
                    for j in range(columns):
                        accumulators[i * columns + j] += left[i] * right[j]
    return add_products, row_of, column_of


@routine
def line_and_column(t):
    """A thread's line and column: a warp is 4 lines by 8 columns, so it reads least."""
    return t // 64 * 4 + t % 32 // 8, t // 32 % 2 * 8 + t % 8


def tiled(side: int, a_along_k: bool, b_along_k: bool) -> Any:
    """The routine that makes tiles of side^2 elements."""
    fetch_a, fetch_b = slices(side, a_along_k), slices(side, b_along_k)
    add_products, place_of, _ = slice_product(side, side)
    own, width = side // LINE, side + PAD
    room = DEPTH * width                                 # of one slice
    tile = registers(own * own)

    @routine
    def tile_product(task, tasks, M, N, K, y, a, leading_a, b, leading_b, bias, totals, like):
        """y = A B + bias, and totals [N] = the sums of B's columns where there is room for them. The task's tiles are task, task + tasks, ...

        y, a, b: pointers; y's rows have N elements. A(i, k) = a[i leading_a + k] where a_along_k, else a[k leading_a + i]; B likewise.
        """
        T = like.dtype.type
        accumulators = tile(like)
        place = scratch(like)
        t = thread()
        line, column = line_and_column(t)
        tall = (M + side - 1) // side
        for number in range(task, tall * ((N + side - 1) // side), tasks):
            across = np.int64(np.uint32(number) // np.uint32(tall))
            first, start = (number - across * tall) * side, across * side
            for i in range(own * own):
                accumulators[i] = T(0)
            sum_b = T(0)
            barrier()                                    # whoever used the scratch before is done
            fetch_a(place, 0, a, leading_a, first, M, 0, K)
            fetch_b(place, room, b, leading_b, start, N, 0, K)
            now = 0
            for k0 in range(0, K, DEPTH):
                wait_for_copies()
                barrier()
                coming = 2 * room - now
                if k0 + DEPTH < K:
                    fetch_a(place, coming, a, leading_a, first, M, k0 + DEPTH, K)
                    fetch_b(place, coming + room, b, leading_b, start, N, k0 + DEPTH, K)
                add_products(accumulators, place, now, line, column, like)
                if totals.size and first == 0 and t < side:
                    for k in range(DEPTH):
                        sum_b += place[now + room + k * width + t]
                now = coming
            for i in range(own):
                r = first + place_of(line, i)
                for j in range(own):
                    c = start + place_of(column, j)
                    if r < M and c < N:
                        value = accumulators[i * own + j]
                        y[r * N + c] = value + data(bias)[c] if bias.size else value
            if totals.size and first == 0 and t < side and start + t < N:
                data(totals)[start + t] = sum_b
    return tile_product
