"""What goes along one row of n numbers, by address, and memory on the stack for a block of rows.

A row of ten numbers is one masked register. Loops over rows that short would be scalar code, since LLVM makes vectors only of what fills several
registers, and each loop costs 0.1 s to compile. But a masked store is not forwarded to a load that follows soon and overlaps it: so kernels on
rows only read along a row, fill a block with each row's number, and do the arithmetic in one loop over the whole block; or they read what they
wrote in a later pass over the rows. Every sum is a tree that depends on the row's length alone.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, array_view, vector_bytes
from nnkit.prims.simd_cpu import Emitter

__all__ = [
    "BLOCK", "blend_run", "block_like", "dot_run", "fill_over", "fill_run", "largest_or_nan", "largest_run", "multiply", "scale_run", "shift_run",
    "sum_run", "sum_shifted",
]

BLOCK = 2048                                             # numbers of a block: a few of them fit into the first-level cache


@intrinsic
def block_like(typing_context: Any, like: Any) -> Any:
    """BLOCK numbers of the type of `like` (a number or an array) on the stack, and room for the overrun of `fill_over`."""
    element = like.dtype if isinstance(like, types.Array) else like

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = context.get_data_type(element)
        count = BLOCK + vector_bytes() // context.get_abi_sizeof(kind)
        memory = cgutils.alloca_once(builder, kind, size=count)
        return array_view(context, builder, signature.return_type, builder.ptrtoint(memory, I64), [ir.Constant(I64, count)])
    return types.Array(element, 1, "C")(like), codegen


@intrinsic
def fill_over(typing_context: Any, y: Any, number: Any, n: Any, like: Any) -> Any:
    """y[:n] = number in whole registers, so that up to one register behind is overwritten as well. `like`: an array, for its type."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        e = Emitter(builder, signature.args[-1].dtype)
        y, number, lanes = e.pointer(values[0]), e.splat(values[1]), ir.Constant(I64, e.lanes)
        turns = builder.sdiv(builder.add(values[2], ir.Constant(I64, e.lanes - 1)), lanes)
        with cgutils.for_range(builder, turns) as loop:
            e.store(number, e.at(y, builder.mul(loop.index, lanes)))
        return context.get_dummy_value()
    return types.void(types.int64, like.dtype, types.int64, like), codegen


def largest(keeps_nan: bool) -> Any:
    """f(x, n, like): the largest of x[:n]; -inf where n is 0. NaN is the largest of all, or (keeps_nan False) passed over."""
    @intrinsic
    def run(typing_context: Any, x: Any, n: Any, like: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            x, n, _ = values
            e = Emitter(builder, signature.args[-1].dtype)
            lowest = ir.Constant(e.vector, [-math.inf] * e.lanes)
            top = cgutils.alloca_once_value(builder, lowest)

            def larger(a: Any, b: Any) -> Any:
                above = builder.fcmp_ordered(">", a, b)
                return builder.select(builder.or_(above, builder.fcmp_unordered("uno", a, a)) if keeps_nan else above, a, b)

            def visit(first: Any, mask: Any) -> None:
                found = builder.select(mask, e.load(e.at(e.pointer(x), first), mask), lowest)
                builder.store(larger(found, builder.load(top)), top)
            e.each_register(n, visit)
            return e.fold(builder.load(top), larger)
        return like.dtype(types.int64, types.int64, like), codegen
    return run


largest_run = largest(keeps_nan=False)                   # for who subtracts the largest and meets a NaN again in the element
largest_or_nan = largest(keeps_nan=True)


@intrinsic
def sum_run(typing_context: Any, x: Any, n: Any, like: Any) -> Any:
    """x[0] + ... + x[n - 1]: one partial sum for each lane, then the lanes pairwise."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        x, n, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        total = e.long_sum(n, lambda total, first, mask: builder.fadd(e.load(e.at(e.pointer(x), first), mask), total))
        return e.fold(total, builder.fadd)
    return like.dtype(types.int64, types.int64, like), codegen


@intrinsic
def dot_run(typing_context: Any, x: Any, y: Any, n: Any, like: Any) -> Any:
    """x[0] y[0] + ... + x[n - 1] y[n - 1]: one partial sum for each lane, by fma, then the lanes pairwise."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        x, y, n, _ = values
        e = Emitter(builder, signature.args[-1].dtype)

        def step(total: Any, first: Any, mask: Any) -> Any:
            factors = (e.load(e.at(e.pointer(run), first), mask) for run in (x, y))
            return e.fma(*factors, total)
        return e.fold(e.long_sum(n, step), builder.fadd)
    return like.dtype(types.int64, types.int64, types.int64, like), codegen


@intrinsic
def sum_shifted(typing_context: Any, t: Any, x: Any, shift: Any, n: Any, like: Any) -> Any:
    """The sum of t[i] (x[i] - shift), i < n, in which t[i] = 0 counts as 0 whatever x[i] is: 0 log 0 = 0."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        t, x, shift, n, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        shifts = e.splat(shift)

        def step(total: Any, first: Any, mask: Any) -> Any:
            factor = e.load(e.at(e.pointer(t), first), mask)
            term = builder.fmul(factor, builder.fsub(e.load(e.at(e.pointer(x), first), mask), shifts))
            term = builder.select(builder.fcmp_ordered("==", factor, e.zero), e.zero, term)
            return builder.fadd(total, term)
        return e.fold(e.long_sum(n, step), builder.fadd)
    return like.dtype(types.int64, types.int64, like.dtype, types.int64, like), codegen


@intrinsic
def shift_run(typing_context: Any, y: Any, x: Any, shift: Any, n: Any, like: Any) -> Any:
    """y[:n] = x[:n] - shift."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        y, x, shift, n, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        shifts = e.splat(shift)

        def visit(first: Any, mask: Any) -> None:
            e.store(builder.fsub(e.load(e.at(e.pointer(x), first), mask), shifts), e.at(e.pointer(y), first), mask)
        e.each_register(n, visit)
        return context.get_dummy_value()
    return types.void(types.int64, types.int64, like.dtype, types.int64, like), codegen


@intrinsic
def scale_run(typing_context: Any, y: Any, a: Any, x: Any, n: Any, like: Any) -> Any:
    """y[:n] = a x[:n]; y may be x."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        y, a, x, n, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        a = e.splat(a)

        def visit(first: Any, mask: Any) -> None:
            e.store(builder.fmul(a, e.load(e.at(e.pointer(x), first), mask)), e.at(e.pointer(y), first), mask)
        e.each_register(n, visit)
        return context.get_dummy_value()
    return types.void(types.int64, like.dtype, types.int64, types.int64, like), codegen


@intrinsic
def multiply(typing_context: Any, y: Any, x: Any, n: Any, like: Any) -> Any:
    """y[:n] *= x[:n]."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        y, x, n, _ = values
        e = Emitter(builder, signature.args[-1].dtype)

        def visit(first: Any, mask: Any) -> None:
            here = e.at(e.pointer(y), first)
            e.store(builder.fmul(e.load(here, mask), e.load(e.at(e.pointer(x), first), mask)), here, mask)
        e.each_register(n, visit)
        return context.get_dummy_value()
    return types.void(types.int64, types.int64, types.int64, like), codegen


@intrinsic
def fill_run(typing_context: Any, y: Any, a: Any, n: Any, like: Any) -> Any:
    """y[:n] = a."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        y, a, n, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        a = e.splat(a)
        e.each_register(n, lambda first, mask: e.store(a, e.at(e.pointer(y), first), mask))
        return context.get_dummy_value()
    return types.void(types.int64, like.dtype, types.int64, like), codegen


@intrinsic
def blend_run(typing_context: Any, y: Any, a: Any, x: Any, b: Any, t: Any, c: Any, n: Any, like: Any) -> Any:
    """y[:n] = a x[:n] + b t[:n] + c."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        y, a, x, b, t, c, n, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        a, b, c = e.splat(a), e.splat(b), e.splat(c)

        def visit(first: Any, mask: Any) -> None:
            value = e.fma(b, e.load(e.at(e.pointer(t), first), mask), c)
            e.store(e.fma(a, e.load(e.at(e.pointer(x), first), mask), value), e.at(e.pointer(y), first), mask)
        e.each_register(n, visit)
        return context.get_dummy_value()
    real = like.dtype
    return types.void(types.int64, real, types.int64, real, types.int64, real, types.int64, like), codegen
