"""Kernels of the penalties on weights and activities (regularizers). N batch, J units, R rows (of all axes but the units'), K chunks of rows."""

from __future__ import annotations

from llvmlite import ir

from nnkit.jit import Double, Doubles, Int, Matrix, Real, Vector, kernel, scalar
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.pointwise_cpu import share
from nnkit.prims.reduce import STRIP
from nnkit.prims.reduce_cpu import columns_plain, piece_bounds, run_sums
from nnkit.prims.rows_cpu import blend_run
from nnkit.prims.simd_cpu import address, itemsize, part
from nnkit.scalar import log, maximum, minimum

__all__ = ["add_penalty_gradient", "column_totals", "penalty", "penalty_gradient", "penalty_total", "sparsity", "sparsity_gradient"]


def absolute_and_squares(e, v, c, sums):  # type: ignore[no-untyped-def]
    """Sum |x| and sum x^2, in float64."""
    wide = e.b.fpext(v[0], sums[0].type) if isinstance(e.scalar, ir.FloatType) else v[0]
    zero = ir.Constant(wide.type, [0.0] * e.lanes)
    absolute = e.b.select(e.b.fcmp_ordered("<", wide, zero), e.b.fsub(zero, wide), wide)
    return [e.b.fadd(sums[0], absolute), e.b.fadd(sums[1], e.b.fmul(wide, wide))]


run_penalty = run_sums(absolute_and_squares, 1, 2, wide=True)


@kernel
def penalty(task: Int, tasks: Int, value: Doubles, x: Vector, l1: Double, l2: Double, block: Int) -> None:
    """value[k] = l1 sum |x| + l2 sum x^2 over the elements k block, ..., (k + 1) block - 1 of x, in float64, in the order of `run_sums`.

    Task t covers its share of the blocks. Writes value (=).
    """
    T = x.dtype.type
    for k in range(value.size * task // tasks, value.size * (task + 1) // tasks):
        count = min(block, x.size - k * block)
        absolute, squares = run_penalty(count, address(x) + itemsize(x) * k * block, 0, 0, T(0), x)
        value[k] = l1 * absolute + l2 * squares


@kernel
def penalty_total(task: Int, tasks: Int, value: Doubles, blocks: Doubles) -> None:
    """value[0] = the sum of the blocks [K], in their order. One task. Writes value (=)."""
    total = 0.0
    for k in range(blocks.size):
        total += blocks[k]
    value[0] = total


@scalar
def slope(x, l1, l2):
    """l1 sign(x) + 2 l2 x."""
    T = type(x)
    sign = T(1) if x > T(0) else (T(-1) if x < T(0) else T(0))
    return l1 * sign + (l2 + l2) * x


@kernel
def penalty_gradient(task: Int, tasks: Int, dx: Matrix, dy: Matrix, x: Matrix, l1: Real, l2: Real) -> None:
    """dx = dy + l1 sign(x) + 2 l2 x; dx may be dy. All [N, F]. Row-local. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    first, last = start * dx.shape[1], stop * dx.shape[1]
    dxs, dys, xs = part(dx, first, last), part(dy, first, last), part(x, first, last)
    if address(dx) == address(dy):                       # one array: a loop over two that overlap would not become vector code
        for i in range(dxs.size):
            dxs[i] += slope(xs[i], l1, l2)
    else:
        for i in range(dxs.size):
            dxs[i] = dys[i] + slope(xs[i], l1, l2)


@kernel
def add_penalty_gradient(task: Int, tasks: Int, dx: Vector, x: Vector, l1: Real, l2: Real) -> None:
    """dx += l1 sign(x) + 2 l2 x. Task t covers its share of the elements. Updates dx (+=)."""
    start, stop = share(dx.size, tasks, task)
    dxs, xs = part(dx, start, stop), part(x, start, stop)
    for i in range(dxs.size):
        dxs[i] += slope(xs[i], l1, l2)


# Sparsity: KL(rho || rho_j) of the units' means rho_j.

@kernel
def column_totals(task: Int, tasks: Int, sums: Matrix, y: Matrix, chunk: Int) -> None:
    """sums[k, j] = the sum of y[r, j] over the `chunk` rows of chunk k. y [R, J], sums [K, J]. Task t covers its share of the pieces, see
    prims/reduce.py. Writes sums (=)."""
    rows, units = y.shape
    chunks = sums.shape[0]
    size = itemsize(y)
    pieces = chunks * ((units + STRIP - 1) // STRIP)
    for piece in range(pieces * task // tasks, pieces * (task + 1) // tasks):
        k, start, stop, first, count, _ = piece_bounds(piece, rows, units, 1, chunk, chunks, STRIP)
        columns_plain(count, stop - start, address(sums) + size * (k * units + start), units, address(y) + size * (first * units + start), 0,
                      units, 0, 0, y)


@kernel
def sparsity(task: Int, tasks: Int, value: Doubles, slopes: Vector, sums: Matrix, terms: Doubles, rows: Int, rho: Double, weight: Double,
             clip: Double) -> None:
    """value[0] = weight sum_j KL(rho || rho_j), rho_j = sum_k sums[k, j] / rows in [clip, 1 - clip], in float64, in the order of j.

    slopes[j] = weight / rows ((1 - rho) / (1 - rho_j) - rho / rho_j), what it changes by with y[r, j]; 0 where rho_j was clipped.
    sums [K, J]; slopes, terms [J]. One task. Writes value, slopes (=).
    """
    units = slopes.size
    for j in range(units):
        terms[j] = 0.0
    for k in range(sums.shape[0]):
        totals = part(sums, k * units, (k + 1) * units)
        for j in range(units):
            terms[j] += totals[j]
    for j in range(units):
        mean = terms[j] / rows
        r = minimum(maximum(mean, clip), 1.0 - clip)
        slopes[j] = weight / rows * ((1.0 - rho) / (1.0 - r) - rho / r) if r == mean else 0.0
        terms[j] = rho * log(rho / r) + (1.0 - rho) * log((1.0 - rho) / (1.0 - r))
    total = 0.0
    for j in range(units):
        total += terms[j]
    value[0] = weight * total


@kernel
def sparsity_gradient(task: Int, tasks: Int, dx: Matrix, dy: Matrix, slopes: Vector) -> None:
    """dx = dy + slopes in every row; dx may be dy. dx, dy [N, P J], slopes [J]. Row-local. Writes dx (=)."""
    T = dx.dtype.type
    start, stop = row_share(dx.shape[0], tasks, task)
    units = slopes.size
    for r in range(start * dx.shape[1], stop * dx.shape[1], units):
        at = itemsize(dx) * r
        blend_run(address(dx) + at, T(1), address(dy) + at, T(1), address(slopes), T(0), units, dx)
