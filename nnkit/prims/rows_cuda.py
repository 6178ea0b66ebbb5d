"""Along one row by one warp: 32 threads that run together, lane l taking the entries l, l + 32, ..."""

from __future__ import annotations

import math

from numba import int64

from nnkit.cuda_jit import from_lane, routine, thread

__all__ = ["larger", "largest_of_row", "largest_over_warp", "row_of_warp", "smallest_over_warp", "sum_over_warp", "warp_lane"]


@routine
def row_of_warp():
    """The number of the warp in its block."""
    return thread() // 32


@routine
def warp_lane():
    """The number of the thread in its warp."""
    return thread() & int64(31)


@routine
def sum_over_warp(value):
    """The sum of `value` over the warp's lanes, the same bits in all of them: halves that are exchanged and added."""
    value += from_lane(value, 16)                        # no loop: it would not be unrolled
    value += from_lane(value, 8)
    value += from_lane(value, 4)
    value += from_lane(value, 2)
    return value + from_lane(value, 1)


@routine
def larger(a, b):
    """The larger of a and b; of a NaN and a number the number."""
    return b if b > a or a != a else a


@routine
def largest_of_row(xs, first, n, like):
    """max of xs[first : first + n], -inf of none; NaN is not the largest, and stays in x - max. Each lane reads its own entries alone, so it
    may write them without waiting for others. like: an array, for its type."""
    largest = xs[first + warp_lane()] if warp_lane() < n else like.dtype.type(-math.inf)
    for i in range(warp_lane() + 32, n, 32):
        largest = larger(largest, xs[first + i])
    return largest_over_warp(largest)


@routine
def largest_over_warp(largest):
    """The largest number of the warp's lanes, NaN only where there is no other."""
    largest = larger(largest, from_lane(largest, 16))
    largest = larger(largest, from_lane(largest, 8))
    largest = larger(largest, from_lane(largest, 4))
    largest = larger(largest, from_lane(largest, 2))
    return larger(largest, from_lane(largest, 1))


@routine
def smallest_over_warp(n):
    """The smallest of the warp's lanes' whole numbers."""
    n = min(n, from_lane(n, 16))
    n = min(n, from_lane(n, 8))
    n = min(n, from_lane(n, 4))
    n = min(n, from_lane(n, 2))
    return min(n, from_lane(n, 1))
