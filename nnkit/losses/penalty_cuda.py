"""CUDA twins of penalty_cpu.py. N batch, J units, R rows (of all axes but the units'), K chunks of rows."""

from __future__ import annotations

import numpy as np

from nnkit.cuda_jit import THREADS, data, kernel, routine, scratch, thread
from nnkit.jit import Double, Doubles, Int, Matrix, Real, Vector
from nnkit.losses.penalty_cpu import slope
from nnkit.prims.block_cuda import AT_ONCE, block_sum, columns_of, piece_count, row_share, several, share, wholes
from nnkit.prims.pointwise_cuda import by_column, pointwise
from nnkit.prims.reduce_cuda import sum_columns
from nnkit.scalar import fabs, log, maximum, minimum

__all__ = [
    "add_penalty_gradient", "add_penalty_gradient_within", "column_totals", "penalty", "penalty_gradient", "penalty_total", "sparsity",
    "sparsity_gradient",
]


@routine
def absolute_and_squares(start, stop, xs, like):
    """The thread's own sums of |x| and x^2, in float64."""
    own = several(like)
    absolute, squares = 0.0, 0.0
    whole = wholes(start, stop)
    for i in range(start + thread(), whole, AT_ONCE * THREADS):
        for u in range(AT_ONCE):
            own[u] = xs[i + u * THREADS]
        for u in range(AT_ONCE):
            x = np.float64(own[u])
            absolute += fabs(x)
            squares += x * x
    for i in range(whole + thread(), stop, THREADS):
        x = np.float64(xs[i])
        absolute += fabs(x)
        squares += x * x
    return absolute, squares


@kernel
def penalty(task: Int, tasks: Int, value: Doubles, x: Vector, l1: Double, l2: Double, block: Int) -> None:
    """value[k] = l1 sum |x| + l2 sum x^2 over the elements k block, ..., (k + 1) block - 1 of x, in float64.

    Task t covers its share of the blocks. Writes value (=).
    """
    first, last = row_share(value.size, tasks, task)
    place = scratch(value)
    for k in range(first, last):
        absolute, squares = absolute_and_squares(k * block, min(x.size, (k + 1) * block), data(x), x)
        absolute, squares = block_sum(absolute, place), block_sum(squares, place)
        if thread() == 0:
            data(value)[k] = l1 * absolute + l2 * squares


@kernel
def penalty_total(task: Int, tasks: Int, value: Doubles, blocks: Doubles) -> None:
    """value[0] = the sum of the blocks [K]. One task. Writes value (=)."""
    own, parts = 0.0, data(blocks)
    for k in range(thread(), blocks.size, THREADS):
        own += parts[k]
    total = block_sum(own, scratch(value))
    if thread() == 0:
        data(value)[0] = total


@routine
def with_slope(x, dy, l1, l2):
    """dy + l1 sign(x) + 2 l2 x."""
    return dy + slope(x, l1, l2)


sweep_slope = pointwise(with_slope)


@kernel
def penalty_gradient(task: Int, tasks: Int, dx: Matrix, dy: Matrix, x: Matrix, l1: Real, l2: Real) -> None:
    """dx = dy + l1 sign(x) + 2 l2 x; dx may be dy. All [N, F]. Row-local. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    F = dx.shape[1]
    sweep_slope(start * F, stop * F, data(dx), data(x), data(dy), l1, l2, dx)


@kernel
def add_penalty_gradient(task: Int, tasks: Int, dx: Vector, x: Vector, l1: Real, l2: Real) -> None:
    """dx += l1 sign(x) + 2 l2 x. Task t covers its share of the elements. Updates dx (+=)."""
    start, stop = share(dx.size, tasks, task)
    sweep_slope(start, stop, data(dx), data(x), data(dx), l1, l2, dx)


@kernel
def add_penalty_gradient_within(task: Int, tasks: Int, dx: Vector, x: Vector, l1: Real, l2: Real, first: Int, whole: Int) -> None:
    """The same where dx begins at element `first` of a vector of `whole` elements, through which an update in the same chain goes: task t covers what
    is in dx of its share of that vector. Updates dx (+=)."""
    start, stop = share(whole, tasks, task)
    start = max(0, start - first)
    sweep_slope(start, max(start, min(dx.size, stop - first)), data(dx), data(x), data(dx), l1, l2, dx)


# Sparsity: KL(rho || rho_j) of the units' means rho_j.

@kernel
def column_totals(task: Int, tasks: Int, sums: Matrix, y: Matrix, chunk: Int) -> None:
    """sums[k, j] = the sum of y[r, j] over the `chunk` rows of chunk k. y [R, J], sums [K, J]. Task t covers its share of the pieces, see
    prims/reduce.py. Writes sums (=)."""
    rows, units = y.shape
    chunks, columns = sums.shape[0], columns_of(units)
    first, last = row_share(piece_count(chunks, units, columns), tasks, task)
    sum_columns(data(sums), 0, data(y), 0, rows, units, units, chunk, chunks, columns, first, last, y)


@kernel
def sparsity(task: Int, tasks: Int, value: Doubles, slopes: Vector, sums: Matrix, terms: Doubles, rows: Int, rho: Double, weight: Double,
             clip: Double) -> None:
    """value[0] = weight sum_j KL(rho || rho_j), rho_j = sum_k sums[k, j] / rows in [clip, 1 - clip], in float64.

    slopes[j] = weight / rows ((1 - rho) / (1 - rho_j) - rho / rho_j), what it changes by with y[r, j]; 0 where rho_j was clipped.
    sums [K, J]; slopes [J]; terms is not used. One task. Writes value, slopes (=).
    """
    units, parts = slopes.size, data(sums)
    own = 0.0
    for j in range(thread(), units, THREADS):
        total = 0.0
        for k in range(sums.shape[0]):
            total += parts[k * units + j]
        mean = total / rows
        r = minimum(maximum(mean, clip), 1.0 - clip)
        data(slopes)[j] = weight / rows * ((1.0 - rho) / (1.0 - r) - rho / r) if r == mean else 0.0
        own += rho * log(rho / r) + (1.0 - rho) * log((1.0 - rho) / (1.0 - r))
    own = block_sum(own, scratch(value))
    if thread() == 0:
        data(value)[0] = weight * own


@routine
def shifted(dy, z, slopes, a1, a2, b, b1):
    """dy + the column's slope."""
    return dy + slopes


sweep_shifted = by_column(shifted)


@kernel
def sparsity_gradient(task: Int, tasks: Int, dx: Matrix, dy: Matrix, slopes: Vector) -> None:
    """dx = dy + slopes in every row; dx may be dy. dx, dy [N, P J], slopes [J]. Row-local. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    F, s = dx.shape[1], data(slopes)
    sweep_shifted(start * F, stop * F, slopes.size, data(dx), data(dy), data(dy), s, 0, 0, s, 0, dx)
