"""Matrix products on the device: y [M, N] = A [M, K] B [K, N] (+ bias), each element one sum over k in ascending order, whatever the cut.

`product` is for small ones, element by element straight from memory: a thread makes a whole element, so a task's elements may be any range of rows.
`tiled(...)` is for large ones: a block makes a square tile of y, of which each thread keeps side^2 / THREADS elements in registers; slices of A and B
of depth DEPTH lie in shared memory while the next ones are on their way from global memory. Their rows are PAD elements longer, which keeps the
columns of a slice that is stored transposed out of one bank, and 16-byte loads aligned.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkit.cuda_jit import THREADS, barrier, data, registers, routine, scratch, thread
from nnkit.plan.launch import DEPTH, PAD

__all__ = ["product", "tiled"]

UNROLLED = 8
LINE = 16                                                # threads along one side of a tile


@routine
def product(start, stop, N, K, y, a, row_a, step_a, b, step_b, column_b, bias):
    """Rows [start, stop) of y = A B + bias. y, a, b: pointers; A(i, k) = a[i row_a + k step_a], B(k, j) = b[k step_b + j column_b]; bias [N] or empty."""
    shifts, T = data(bias), bias.dtype.type
    whole = K // UNROLLED * UNROLLED
    for e in range(start * N + thread(), stop * N, THREADS):
        i = np.int64(np.uint32(e) // np.uint32(N))
        j = e - i * N
        at, bt = i * row_a, j * column_b
        total = shifts[j] if bias.size else T(0)
        for k in range(0, whole, UNROLLED):
            for u in range(UNROLLED):
                total += a[at + (k + u) * step_a] * b[bt + (k + u) * step_b]
        for k in range(whole, K):
            total += a[at + k * step_a] * b[bt + k * step_b]
        y[e] = total


def slices(side: int, along_k: bool) -> tuple[Any, Any]:
    """How a block brings a slice [side, DEPTH] of a factor into shared memory: (fetch, put). along_k: whether its elements lie one after the other
    along k in memory, else along the other axis; neighbouring threads read neighbouring elements."""
    each = side * DEPTH // THREADS
    width = side + PAD
    gap, span = (THREADS // DEPTH, DEPTH) if along_k else (THREADS // side, side)

    @routine
    def fetch(values, source, leading, first, limit, k0, K, like):
        """values = the thread's elements of the slice that begins at (first, k0); 0 beyond (limit, K)."""
        t = thread()
        near, far = t % span, t // span                  # along the axis that is contiguous in memory, and across
        for u in range(each):
            across = far + u * gap
            row, k = (first + across, k0 + near) if along_k else (first + near, k0 + across)
            values[u] = source[row * leading + k if along_k else k * leading + row] if row < limit and k < K else like.dtype.type(0)

    @routine
    def put(place, begin, values):
        """Into shared memory, as place[begin + k width + row]."""
        t = thread()
        near, far = t % span, t // span
        for u in range(each):
            across = far + u * gap
            place[begin + (near * width + across if along_k else across * width + near)] = values[u]
    return fetch, put


def tiled(side: int, a_along_k: bool, b_along_k: bool) -> Any:
    """The routine that makes tiles of side^2 elements."""
    fetch_a, put_a = slices(side, a_along_k)
    fetch_b, put_b = slices(side, b_along_k)
    each, own, width = side * DEPTH // THREADS, side // LINE, side + PAD
    tile, edge, coming = registers(own * own), registers(own), registers(each)
    quad = min(own, 4)                                   # a thread's rows lie in runs of this many, so that a warp reads shared memory in one go

    @routine
    def place_of(line, i):
        return (i // quad) * (LINE * quad) + line * quad + i % quad

    @routine
    def tile_product(task, tasks, M, N, K, y, a, leading_a, b, leading_b, bias, totals, like):
        """y = A B + bias, and totals [N] = the sums of B's columns where there is room for them. The task's tiles are task, task + tasks, ...

        y, a, b: pointers; y's rows have N elements. A(i, k) = a[i leading_a + k] where a_along_k, else a[k leading_a + i]; B likewise.
        """
        T = like.dtype.type
        accumulators, left, right, coming_a, coming_b = tile(like), edge(like), edge(like), coming(like), coming(like)
        place = scratch(like)
        t = thread()
        line, column = t // LINE, t % LINE
        tall = (M + side - 1) // side
        for number in range(task, tall * ((N + side - 1) // side), tasks):
            across = np.int64(np.uint32(number) // np.uint32(tall))
            first, start = (number - across * tall) * side, across * side
            for i in range(own * own):
                accumulators[i] = T(0)
            sum_b = T(0)
            fetch_a(coming_a, a, leading_a, first, M, 0, K, like)
            fetch_b(coming_b, b, leading_b, start, N, 0, K, like)
            for k0 in range(0, K, DEPTH):
                barrier()
                put_a(place, 0, coming_a)
                put_b(place, DEPTH * width, coming_b)
                barrier()
                if k0 + DEPTH < K:
                    fetch_a(coming_a, a, leading_a, first, M, k0 + DEPTH, K, like)
                    fetch_b(coming_b, b, leading_b, start, N, k0 + DEPTH, K, like)
                for k in range(DEPTH):
                    for i in range(own):
                        left[i] = place[k * width + place_of(line, i)]
                    for j in range(own):
                        right[j] = place[DEPTH * width + k * width + place_of(column, j)]
                    for i in range(own):
                        for j in range(own):
                            accumulators[i * own + j] += left[i] * right[j]
                if totals.size and first == 0 and t < side:
                    for k in range(DEPTH):
                        sum_b += place[DEPTH * width + k * width + t]
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
