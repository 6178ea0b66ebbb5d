"""Along one row by one warp: 32 threads that run together, lane l taking the entries l, l + 32, ..."""

from __future__ import annotations

from numba import int64

from nnkit.cuda_jit import from_lane, routine, thread

__all__ = ["largest_of_row", "row_of_warp", "sum_over_warp", "warp_lane"]


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
    for distance in (16, 8, 4, 2, 1):
        value += from_lane(value, distance)
    return value


@routine
def largest_of_row(xs, first, n):
    """max of xs[first : first + n]; NaN is not the largest, and stays in x - max. -inf where n is 0."""
    largest = xs[first + warp_lane()] if warp_lane() < n else xs[first]
    for i in range(warp_lane() + 32, n, 32):
        largest = xs[first + i] if xs[first + i] > largest or largest != largest else largest
    for distance in (16, 8, 4, 2, 1):
        other = from_lane(largest, distance)
        largest = other if other > largest or largest != largest else largest
    return largest
