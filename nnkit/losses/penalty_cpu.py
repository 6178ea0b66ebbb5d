"""Kernels of the penalties l1 sum |x| + l2 sum x^2 on weights and activities (regularizers)."""

from __future__ import annotations

from llvmlite import ir

from nnkit.jit import Double, Doubles, Int, Matrix, Real, Vector, kernel, scalar
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.pointwise_cpu import share
from nnkit.prims.reduce_cpu import run_sums
from nnkit.prims.simd_cpu import address, itemsize, part

__all__ = ["add_penalty_gradient", "penalty", "penalty_gradient", "penalty_total"]


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
