"""CUDA twins of segment_cpu.py: largest numbers over the entries of each row of a sparse matrix; sums, means and largest numbers over runs of rows.

Letters: see segment_cpu.py. A row, or a run, is a warp's, a long one the block's: see csr_cuda.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int64

from nnkit.cuda_jit import THREADS, barrier, data, kernel, routine, scratch, thread
from nnkit.jit import Int, LabelMatrix, Labels, Matrix, Ordinals
from nnkit.prims.attention_cuda import sum_rows
from nnkit.prims.block_cuda import WARPS, divided, share
from nnkit.prims.csr_cuda import over_rows
from nnkit.prims.rows_cuda import warp_lane
from nnkit.prims.teams_cuda import Team, from_far, lanes_for, row_totals, shared_by_warps

__all__ = ["csr_max_backward", "csr_max_forward", "segment_max_backward", "segment_max_forward", "segment_mean_backward", "segment_mean_forward",
           "segment_sum_backward", "segment_sum_forward"]

PLACES = 2 * THREADS                                     # where in the scratch, as int32, the places of the largest begin: behind float64 numbers


# The largest number of a row. Of equal ones the first counts; the first NaN is larger than any.

@routine
def first_largest(a, at, b, other):
    """Which of two, (a, at) or (b, other), counts; a place below 0 is none."""
    b_first = other >= 0 and (at < 0 or other < at)
    takes = b_first if a == b or (a != a and b != b) or at < 0 or other < 0 else b > a or b != b
    return (b, other) if takes else (a, at)


@routine
def of_warp(value, at, width, place, places):
    """The largest of the parts of a warp, and its place."""
    distance = int64(16)
    while distance >= width:
        value, at = first_largest(value, at, from_far(value, distance), from_far(at, distance))
        distance >>= 1
    return value, at


@routine
def of_block(value, at, width, place, places):
    """The largest of the parts of all warps."""
    value, at = of_warp(value, at, width, place, places)
    shared_by_warps(value, width, place)
    if warp_lane() < width:
        places[PLACES + thread()] = at
    barrier()
    column = warp_lane() & (width - 1)
    value, at = place[column], int64(places[PLACES + column])
    for w in range(1, WARPS):
        value, at = first_largest(value, at, place[32 * w + column], int64(places[PLACES + 32 * w + column]))
    return value, at


def largest_rows(row_of: Callable[..., Any]) -> Any:
    """For `over_rows`: y and best of row i; held: (y, best, x, F, more, scratch as int32). row_of(more, e): the row of x that entry e reads."""
    def make(team: Team) -> Any:
        part_of, largest_of = team.part, of_warp if team.alone else of_block

        @routine
        def forward(i, first, last, held, place, like):
            ys, best, xs, F, more, places = held
            T = like.dtype.type
            width, column, part, parts = lanes_for(F)
            part, parts = part_of(part, parts)
            for first_column in range(0, F, 32):
                f = min(first_column + column, F - 1)
                largest, at = T(0), int64(-1)
                e = first + part
                while e < last:
                    x = xs[row_of(more, e) * F + f]
                    if at < 0 or x > largest or (x != x and largest == largest):         # so a NaN stays
                        largest, at = x, e
                    e += parts
                largest, at = largest_of(largest, at, width, place, places)
                if part == 0 and first_column + column < F:
                    ys[i * F + f], best[i * F + f] = largest, at
        return forward
    return make


@routine
def listed(columns, e):
    """Entry e reads the row that its column names."""
    return int64(columns[e])


@routine
def itself(columns, e):
    """Entry e is row e."""
    return e


@routine
def chosen(more, e, f):
    """dy[i, f], i = columns[e], where best[i, f] is the entry's place, else 0."""
    columns, places, best, dys, F = more
    at = columns[e] * F + f
    dy = dys[at]
    return dy if best[at] == places[e] else type(dy)(0)


largest_listed, largest_run, sum_chosen = over_rows(largest_rows(listed)), over_rows(largest_rows(itself)), over_rows(row_totals(chosen))


@kernel
def csr_max_forward(task: Int, tasks: Int, y: Matrix, best: LabelMatrix, starts: Ordinals, columns: Labels, x: Matrix) -> None:
    """y[i, f] = the largest of x[columns[e], f] over the entries e of row i, best[i, f] = the first e that has it; 0 and -1 where there is none.
    Shapes: y, best [R, F], starts [R + 1], columns [E], x [C, F]. The first NaN counts as the largest. Task t covers its rows.
    Writes y, best (=)."""
    largest_listed(task, tasks, starts, (data(y), data(best), data(x), y.shape[1], data(columns), scratch(best)), y)


@kernel
def csr_max_backward(task: Int, tasks: Int, dx: Matrix, starts_t: Ordinals, columns_t: Labels, places: Labels, best: LabelMatrix, dy: Matrix) -> None:
    """dx[j, f] = the sum of dy[i, f] over the entries e of row j of the transpose, i = columns_t[e], of which best[i, f] == places[e].
    Shapes: dx [C, F], starts_t [C + 1], columns_t, places [E], best, dy [R, F]. Task t covers its rows of the transpose. Writes dx (=)."""
    F = dx.shape[1]
    sum_chosen(task, tasks, starts_t, (data(dx), F, False, (data(columns_t), data(places), data(best), data(dy), F)), dx)


# Runs of rows.

@routine
def graph_of(segments, G, v):
    """The graph of node v, G where it is in none."""
    low, high = int64(0), G
    while low < high:
        g = (low + high) >> 1
        if segments[g + 1] <= v:
            low = g + 1
        else:
            high = g
    return low


@routine
def spread(task, tasks, dx, segments, dy, mean):
    """See segment_sum_backward and segment_mean_backward. Neighbouring threads look for the same graph in the same places."""
    V, F = dx.shape
    G, T, runs, dxs, dys = dy.shape[0], dx.dtype.type, data(segments), data(dx), data(dy)
    first, stop = share(V * F, tasks, task)
    for i in range(first + thread(), stop, THREADS):
        v, f = divided(i, F)
        g = graph_of(runs, G, v)
        if g == G:
            dxs[i] = T(0)
        else:
            dxs[i] = dys[g * F + f] * (T(1) / T(runs[g + 1] - runs[g]) if mean else T(1))


@kernel
def segment_sum_forward(task: Int, tasks: Int, y: Matrix, segments: Ordinals, x: Matrix) -> None:
    """y[g] = the sum of x[v] over the nodes of graph g. Shapes: y [G, F], segments [G + 1] from 0 on, x [V, F]. Task t covers its graphs.
    Writes y (=)."""
    F = y.shape[1]
    sum_rows(task, tasks, segments, (data(y), F, False, (data(x), F)), y)


@kernel
def segment_sum_backward(task: Int, tasks: Int, dx: Matrix, segments: Ordinals, dy: Matrix) -> None:
    """dx[v] = dy[g] for the nodes of graph g, 0 for nodes of none. Shapes as above. Task t covers its share of the elements. Writes dx (=)."""
    spread(task, tasks, dx, segments, dy, False)


@kernel
def segment_mean_forward(task: Int, tasks: Int, y: Matrix, segments: Ordinals, x: Matrix) -> None:
    """y[g] = the mean of x[v] over the nodes of graph g, 0 where it has none. Otherwise as segment_sum_forward."""
    F = y.shape[1]
    sum_rows(task, tasks, segments, (data(y), F, True, (data(x), F)), y)


@kernel
def segment_mean_backward(task: Int, tasks: Int, dx: Matrix, segments: Ordinals, dy: Matrix) -> None:
    """dx[v] = dy[g] / number of nodes of graph g, for those nodes; 0 for nodes of none. Otherwise as segment_sum_backward."""
    spread(task, tasks, dx, segments, dy, True)


@kernel
def segment_max_forward(task: Int, tasks: Int, y: Matrix, best: LabelMatrix, segments: Ordinals, x: Matrix) -> None:
    """y[g, f] = the largest of x[v, f] over the nodes of graph g, best[g, f] = the first v that has it; 0 and -1 where there is none. The first
    NaN counts as the largest. Shapes: y, best [G, F], segments [G + 1] from 0 on, x [V, F]. Task t covers its graphs. Writes y, best (=)."""
    largest_run(task, tasks, segments, (data(y), data(best), data(x), y.shape[1], data(best), scratch(best)), y)


@kernel
def segment_max_backward(task: Int, tasks: Int, dx: Matrix, segments: Ordinals, best: LabelMatrix, dy: Matrix) -> None:
    """dx[v, f] = dy[g, f] where best[g, f] == v, else 0. Shapes: dx [V, F], best, dy [G, F]. Task t covers its share of the elements.
    Writes dx (=)."""
    V, F = dx.shape
    G, T, runs, dxs, dys, places = dy.shape[0], dx.dtype.type, data(segments), data(dx), data(dy), data(best)
    first, stop = share(V * F, tasks, task)
    for i in range(first + thread(), stop, THREADS):
        v, f = divided(i, F)
        g = graph_of(runs, G, v)
        dxs[i] = T(0)
        if g < G and places[g * F + f] == v:
            dxs[i] = dys[g * F + f]
