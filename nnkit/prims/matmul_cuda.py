"""Matrix products on the device: y [M, N] = A [M, K] B [K, N] (+ bias), each element a sum whose order depends on shapes alone.

`product` is for small ones, element by element straight from memory: a thread makes a whole element, so a task's elements may be any range of rows.
`tiled(...)` is for large ones: a block makes a square tile of y, of which each thread keeps side^2 / THREADS elements in registers; slices of A and B
of depth DEPTH lie in shared memory while the next ones are on their way there from global memory. How they lie there and are multiplied is a `Way`:
ARITHMETIC is here, tensor cores are in cores_cuda.py. In ARITHMETIC the rows of a slice are PAD elements longer, which keeps the columns of a slice
that is stored transposed out of one bank, and 16-byte loads aligned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from nnkit.cuda_jit import (
    THREADS,
    anew,
    barrier,
    copy_four_later,
    copy_later,
    data,
    four_aligned,
    registers,
    routine,
    scratch,
    thread,
    wait_for_copies,
)
from nnkit.plan.launch import CHUNK, DEPTH, LEDGE, PAD
from nnkit.prims.block_cuda import divided
from nnkit.prims.rows_cuda import row_of_warp, sum_over_warp, warp_lane

__all__ = ["ARITHMETIC", "FOUR", "Product", "Way", "product", "slice_bounds", "slices", "tile_of", "tiled", "tiles_of"]

UNROLLED, FEW = 16, 4                                    # factors that a thread of `product` reads before it multiplies
NARROW, LONG = 32, 256                                   # fewer columns than this, and sums at least so long: a warp shares each sum
STRIDE = 2                                               # steps along k of a tile that are unrolled
LINE = 16                                                # threads along one side of a tile
FOUR = 4                                                 # numbers that are copied at a time


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


@attrs.frozen
class Product:
    """What a block does with slices of two factors, for a tile of y.

    add_products(accumulators, place, now, line, column, like): accumulators[i columns + j] += sum over k of left(row i, k) right(column j, k), the
    slices lying one behind the other from place[now] on. row_of(line, i), column_of(column, j): which row and column of the tile are the thread's.
    line_and_column(t): what says so. rows, columns: how many of them.
    """

    rows: int
    columns: int
    add_products: Any
    row_of: Any
    column_of: Any
    line_and_column: Any


@attrs.frozen
class Way:
    """How products by tiles are done.

    size(side): elements that a slice [side, DEPTH] takes in shared memory. index(side, along_k): the routine (row, k) that says where an element of a
    slice lies, for a factor whose elements lie one after the other along k in memory, or else along the other axis. by_four: whether four neighbours
    in memory are neighbours in the slice, so that they can be copied at a time. product(tall, wide, left_along_k, right_along_k): what is done with
    slices of tall rows of the left factor and wide columns of the right one.
    """

    size: Callable[[int], int]
    index: Callable[[int, bool], Any]
    by_four: bool
    product: Callable[[int, int, bool, bool], Product]


def slices(way: Way, side: int, along_k: bool) -> Any:
    """How a block brings a slice [side, DEPTH] of a factor into shared memory. along_k: whether its elements lie one after the other along k in
    memory, else along the other axis; neighbouring threads read neighbouring elements, four at a time where that can be."""
    span, across = (DEPTH, side) if along_k else (side, DEPTH)
    each, gap = side * DEPTH // THREADS, THREADS // span
    index, by_four = way.index(side, along_k), way.by_four
    fours, turns = span // FOUR, max(1, each // FOUR)

    @routine
    def fetch_fours(place, begin, source, leading, first, limit, k0, K):
        t = anew(thread())                               # else what it gives would be kept in registers from slice to slice
        near, far = t % fours * FOUR, t // fours
        for u in range(turns):
            other = far + u * FOUR * gap
            row, k = (other, near) if along_k else (near, other)
            if other < across:                           # of a narrow slice not all threads bring
                many = min(FOUR, K - k0 - k if along_k else limit - first - row)
                inside = many > 0 and (first + row < limit if along_k else k0 + k < K)
                at = (first + row) * leading + k0 + k if along_k else (k0 + k) * leading + first + row
                copy_four_later(place, begin + index(row, k), source, at if inside else 0, many if inside else 0)

    @routine
    def fetch(place, begin, source, leading, first, limit, k0, K):
        """place[begin + index(row, k)] = element (first + row, k0 + k), 0 beyond (limit, K); there after `wait_for_copies`."""
        if by_four and four_aligned(source) and ((leading | first) & (FOUR - 1)) == 0:
            fetch_fours(place, begin, source, leading, first, limit, k0, K)
            return
        t = anew(thread()) if by_four else thread()
        near, far = t % span, t // span                  # along the axis that is contiguous in memory, and across
        row, k = (first + far, k0 + near) if along_k else (first + near, k0 + far)
        at, stride = (row * leading + k if along_k else k * leading + row), gap * leading
        for u in range(anew(each) if by_four else each):         # not unrolled where it is the exception
            inside = (row + u * gap < limit and k < K) if along_k else (row < limit and k + u * gap < K)
            to = index(far + u * gap, near) if along_k else index(near, far + u * gap)
            copy_later(place, begin + to, source, at + u * stride if inside else 0, inside)
    return fetch


def slice_product(tall: int, wide: int) -> Product:
    """The product by arithmetic of float32 or float64, of slices that lie as `padded` says.

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
    return Product(rows, columns, add_products, row_of, column_of, line_and_column)


@routine
def line_and_column(t):
    """A thread's line and column: a warp is 4 lines by 8 columns, so it reads least."""
    return t // 64 * 4 + t % 32 // 8, t // 32 % 2 * 8 + t % 8


def padded(side: int, along_k: bool) -> Any:
    """Where elements of a slice lie: row behind row along the other axis, whatever the factor."""
    width = side + PAD

    @routine
    def index(row, k):
        return k * width + row
    return index


ARITHMETIC = Way(size=lambda side: DEPTH * (side + PAD), index=padded, by_four=False, product=lambda tall, wide, *_: slice_product(tall, wide))


@routine
def slice_bounds(number, slices, K):
    """[start, stop) of slice `number` of a sum over K: all but the last of them a multiple of DEPTH long; those behind K are empty."""
    chunk = (K + slices * DEPTH - 1) // (slices * DEPTH) * DEPTH
    return min(K, number * chunk), min(K, (number + 1) * chunk)


def tile_of(way: Way, side: int, a_along_k: bool, b_along_k: bool) -> Any:
    """The routine that makes one tile of side^2 elements."""
    fetch_a, fetch_b = slices(way, side, a_along_k), slices(way, side, b_along_k)
    product = way.product(side, side, a_along_k, b_along_k)
    rows, columns = product.rows, product.columns
    add_products, row_of, column_of, own_place = product.add_products, product.row_of, product.column_of, product.line_and_column
    index_b = way.index(side, b_along_k)
    room = way.size(side)                                # of one slice
    tile = registers(rows * columns)

    @routine
    def make_tile(number, slices, M, N, K, y, a, leading_a, b, leading_b, bias, totals, like):
        """Tile `number` of y = A B + bias, and totals [N] = the sums of B's columns where there is room for them; tiles are counted down the columns.

        Of several slices y holds the sums over each part of k, one behind the other; the first has the bias; totals are of one slice alone.
        y, a, b: pointers; y's rows have N elements. A(i, k) = a[i leading_a + k] where a_along_k, else a[k leading_a + i]; B likewise.
        """
        T = like.dtype.type
        accumulators = tile(like)
        place = scratch(like)
        t = thread()
        line, column = own_place(t)
        tall, across = (M + side - 1) // side, (N + side - 1) // side
        rest, down = divided(number, tall)
        part, right = divided(rest, across)
        first, start = down * side, right * side
        begin, end = slice_bounds(part, slices, K)
        for i in range(rows * columns):
            accumulators[i] = T(0)
        sum_b = T(0)
        barrier()                                        # whoever used the scratch before is done
        now = 2 * room
        for k0 in range(begin - DEPTH, end, DEPTH):      # the first turn only brings; so what brings stands in the launch once
            coming = 2 * room - now
            if k0 >= begin:
                wait_for_copies()
                barrier()
            if k0 + DEPTH < end:
                fetch_a(place, coming, a, leading_a, first, M, k0 + DEPTH, end)
                fetch_b(place, coming + room, b, leading_b, start, N, k0 + DEPTH, end)
            if k0 >= begin:
                add_products(accumulators, place, now, line, column, like)
                if totals.size and first == 0 and t < side:
                    for k in range(DEPTH):
                        sum_b += place[now + room + index_b(t, k)]
            now = coming
        rest, down = divided(anew(number), tall)         # again, so that registers are free in the loop
        part, right = divided(rest, across)
        first, start = down * side, right * side
        for j in range(columns):
            c = start + column_of(column, j)
            shift = data(bias)[c] if bias.size and part == 0 and c < N else T(0)
            for i in range(rows):
                r = first + row_of(line, i)
                if r < M and c < N:
                    y[(part * M + r) * N + c] = accumulators[i * columns + j] + shift
        if totals.size and first == 0 and t < side and start + t < N:
            data(totals)[start + t] = sum_b
    return make_tile


@routine
def tiles_of(M, N, side):
    """How many tiles a result of M x N elements has."""
    return (M + side - 1) // side * ((N + side - 1) // side)


def tiled(way: Way, side: int, a_along_k: bool, b_along_k: bool) -> Any:
    """The routine that makes a task's tiles."""
    make_tile = tile_of(way, side, a_along_k, b_along_k)

    @routine
    def tile_product(task, tasks, slices, M, N, K, y, a, leading_a, b, leading_b, bias, totals, like):
        """The tiles task, task + tasks, ... of y; the other arguments: see `tile_of`."""
        number = task
        while number < tiles_of(anew(M), N, side) * slices:              # counted anew, so that registers are free in a tile
            make_tile(number, slices, M, N, K, y, a, leading_a, b, leading_b, bias, totals, like)
            number += tasks
    return tile_product
