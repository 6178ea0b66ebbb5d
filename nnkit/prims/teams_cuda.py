"""Who goes through the entries of a row together on a device: a warp, or a block. F numbers of a row of x.

The lanes of a warp stand in parts: `width` lanes side by side take neighbouring columns of an entry, and each part takes every parts-th entry, so
that narrow rows keep all lanes busy; the parts' sums are added by exchanges. Orders depend on the rows alone, never on how rows are cut into tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
from numba import int64

from nnkit.cuda_jit import barrier, from_lane, routine, scratch, thread
from nnkit.prims.block_cuda import AT_ONCE, WARPS, block_sum, divided, several
from nnkit.prims.rows_cuda import row_of_warp, warp_lane

__all__ = ["WARP", "Team", "from_far", "lanes_for", "row_totals", "rows_by_teams", "shared_by_warps", "sum_within"]


# Lanes in parts.

@routine
def lanes_for(n):
    """(width, column, part, parts) of a lane for rows of n numbers: a power of two of lanes side by side, 32 at most."""
    width, lane = int64(1), warp_lane()
    while width < min(n, 32):
        width *= 2
    return width, lane & (width - 1), divided(lane, width)[0], divided(32, width)[0]


@routine
def from_far(value, distance):
    """`from_lane` at a distance that is not known before."""
    return from_lane(value, np.int32(distance))


@routine
def sum_of_parts(value, width):
    """The sum of `value` over the parts of a warp, the same bits in all of them."""
    distance = int64(16)
    while distance >= width:
        value += from_far(value, distance)
        distance >>= 1
    return value


@routine
def sum_within(value, width):
    """The sum of `value` over the lanes of a part, the same bits in all of them."""
    distance = width >> 1
    while distance > 0:
        value += from_far(value, distance)
        distance >>= 1
    return value


@routine
def above(a, b):
    """b where it is larger than a, else a: of NaN the one that is a."""
    return b if b > a else a


@routine
def largest_of_parts(value, width):
    """The largest `value` of the parts of a warp."""
    distance = int64(16)
    while distance >= width:
        value = above(value, from_far(value, distance))
        distance >>= 1
    return value


# Rows by warps, long ones by the block.

@routine
def part_of_warp(part, parts):
    """(part, parts) of a warp alone."""
    return part, parts


@routine
def part_of_block(part, parts):
    """(part, parts) among those of all warps."""
    return row_of_warp() * parts + part, parts * WARPS


@routine
def warp_sum(value, width, place):
    """The sum over the parts of a warp."""
    return sum_of_parts(value, width)


@routine
def shared_by_warps(value, width, place):
    """Put what each warp has for a column into place[32 w + column]."""
    barrier()                                            # whoever used the scratch before is done
    if warp_lane() < width:
        place[thread()] = value
    barrier()


@routine
def sum_of_warps(value, width, place):
    """The sum over the parts of all warps, for all threads."""
    shared_by_warps(sum_of_parts(value, width), width, place)
    column = warp_lane() & (width - 1)
    total = place[column]
    for w in range(1, WARPS):
        total += place[32 * w + column]
    return total


@routine
def warp_largest(value, width, place):
    """The largest of the parts of a warp."""
    return largest_of_parts(value, width)


@routine
def largest_of_warps(value, width, place):
    """The largest of the parts of all warps."""
    shared_by_warps(largest_of_parts(value, width), width, place)
    column = warp_lane() & (width - 1)
    largest = place[column]
    for w in range(1, WARPS):
        largest = above(largest, place[32 * w + column])
    return largest


@attrs.frozen
class Team:
    """Who goes through a row together. part: (part, parts) of a thread; total, largest: of a number of each part, for all. alone: a warp."""

    part: Any
    total: Any
    largest: Any
    alone: bool


WARP = Team(part_of_warp, warp_sum, warp_largest, True)
BLOCK = Team(part_of_block, sum_of_warps, largest_of_warps, False)


def rows_by_teams(make: Callable[[Team], Any], longest: int) -> Any:
    """f(row, stop, ends, held, like): make(team)(i, first entry, end, held, place, like) for these rows of a block: each by a warp, those of more
    than `longest` entries by the block. ends: a pointer to the row starts."""
    by_warp, by_block = make(WARP), make(BLOCK)

    @routine
    def run(row, stop, ends, held, like):
        T, place = like.dtype.type, scratch(like)
        some = T(0)
        for i in range(row + row_of_warp(), stop, WARPS):
            if ends[i + 1] - ends[i] > longest:
                some = T(1)
            else:
                by_warp(i, ends[i], ends[i + 1], held, place, like)
        if block_sum(some, place) > T(0):
            for i in range(row, stop):
                if ends[i + 1] - ends[i] > longest:
                    by_block(i, ends[i], ends[i + 1], held, place, like)
    return run


def row_totals(term: Callable[..., Any]) -> Callable[[Team], Any]:
    """For `rows_by_teams`: ys[i F + f] = scale times the sum of term(more, e, f) over the entries of row i; held: (ys, F, mean, more). scale: 1,
    or of a mean 1 / entries."""
    def make(team: Team) -> Any:
        part_of, total_of = team.part, team.total

        @routine
        def add(i, first, last, held, place, like):
            ys, F, mean, more = held
            T = like.dtype.type
            width, column, part, parts = lanes_for(F)
            own_part, all_parts = part_of(part, parts)
            scale = T(1) / T(max(1, last - first)) if mean else T(1)
            own = several(like)
            for first_column in range(0, F, 32):
                f = min(first_column + column, F - 1)
                total, e = T(0), first + own_part
                while e + (AT_ONCE - 1) * all_parts < last:
                    for u in range(AT_ONCE):
                        own[u] = term(more, e + u * all_parts, f)
                    for u in range(AT_ONCE):
                        total += own[u]
                    e += AT_ONCE * all_parts
                while e < last:
                    total += term(more, e, f)
                    e += all_parts
                total = total_of(total, width, place)
                if own_part == 0 and first_column + column < F:
                    ys[i * F + f] = scale * total
        return add
    return make
