"""What losses do along a row: maximum, shift, product sum, blend, and each row's sample weight. All by address, in whole masked registers.

A row of 10 classes is one register. Loops over rows that short would be scalar code, since LLVM turns only the part of a loop that fills
several registers into vectors; and each costs 0.1 s to compile. Every sum is a tree that depends on the row's length alone.
A masked store is not forwarded to a load that follows soon: what a kernel has just written to a row it reads in a later pass over the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, routine
from nnkit.prims.simd_cpu import I32, Emitter, address, itemsize

__all__ = ["blend_run", "dot_run", "fill_run", "max_run", "multiply", "scale_run", "shift_run", "weigh", "weigh_matrix"]


def _each_register(builder: Any, e: Emitter, n: Any, visit: Callable[[Any, Any], None]) -> None:
    """visit(first element, mask of the lanes that exist) for every register of a run of n elements."""
    turns = builder.sdiv(builder.add(n, ir.Constant(I64, e.lanes - 1)), ir.Constant(I64, e.lanes))
    with cgutils.for_range(builder, turns) as loop:
        first = builder.mul(loop.index, ir.Constant(I64, e.lanes))
        visit(first, e.first(builder.sub(n, first)))


def _fold(builder: Any, e: Emitter, value: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """One number from the lanes of a register: pairwise, halving."""
    width = e.lanes
    while width > 1:
        width //= 2
        order = [k + width if k < width else k for k in range(e.lanes)]
        value = combine(value, builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(I32, e.lanes), order)))
    return builder.extract_element(value, ir.Constant(I32, 0))


@intrinsic
def max_run(typing_context: Any, x: Any, n: Any, like: Any) -> Any:
    """The largest of x[:n]; -inf where n is 0. NaN may be passed over: who subtracts the maximum meets it again in the element."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        x, n, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        lowest = ir.Constant(e.vector, [-math.inf] * e.lanes)
        top = cgutils.alloca_once_value(builder, lowest)

        def larger(a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        def visit(first: Any, mask: Any) -> None:
            found = builder.select(mask, e.load(e.at(e.pointer(x), first), mask), lowest)
            builder.store(larger(found, builder.load(top)), top)
        _each_register(builder, e, n, visit)
        return _fold(builder, e, builder.load(top), larger)
    return like.dtype(types.int64, types.int64, like), codegen


@intrinsic
def shift_run(typing_context: Any, y: Any, x: Any, shift: Any, n: Any, like: Any) -> Any:
    """y[:n] = x[:n] - shift."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        y, x, shift, n, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        shifts = e.splat(shift)

        def visit(first: Any, mask: Any) -> None:
            e.store(builder.fsub(e.load(e.at(e.pointer(x), first), mask), shifts), e.at(e.pointer(y), first), mask)
        _each_register(builder, e, n, visit)
        return context.get_dummy_value()
    return types.void(types.int64, types.int64, like.dtype, types.int64, like), codegen


@intrinsic
def dot_run(typing_context: Any, t: Any, x: Any, shift: Any, n: Any, like: Any) -> Any:
    """The sum of t[i] (x[i] - shift), i < n, in which t[i] = 0 counts as 0 whatever x[i] is: 0 log 0 = 0."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        t, x, shift, n, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        total = cgutils.alloca_once_value(builder, e.zero)
        shifts = e.splat(shift)

        def visit(first: Any, mask: Any) -> None:
            factor = e.load(e.at(e.pointer(t), first), mask)
            term = builder.fmul(factor, builder.fsub(e.load(e.at(e.pointer(x), first), mask), shifts))
            term = builder.select(builder.fcmp_ordered("==", factor, e.zero), e.zero, term)
            builder.store(builder.fadd(builder.load(total), term), total)
        _each_register(builder, e, n, visit)
        return _fold(builder, e, builder.load(total), builder.fadd)
    return like.dtype(types.int64, types.int64, like.dtype, types.int64, like), codegen


@intrinsic
def scale_run(typing_context: Any, y: Any, a: Any, x: Any, n: Any, like: Any) -> Any:
    """y[:n] = a x[:n]; y may be x."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        y, a, x, n, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        a = e.splat(a)

        def visit(first: Any, mask: Any) -> None:
            e.store(builder.fmul(a, e.load(e.at(e.pointer(x), first), mask)), e.at(e.pointer(y), first), mask)
        _each_register(builder, e, n, visit)
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
        _each_register(builder, e, n, visit)
        return context.get_dummy_value()
    return types.void(types.int64, types.int64, types.int64, like), codegen


@intrinsic
def fill_run(typing_context: Any, y: Any, a: Any, n: Any, like: Any) -> Any:
    """y[:n] = a."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        y, a, n, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        a = e.splat(a)
        _each_register(builder, e, n, lambda first, mask: e.store(a, e.at(e.pointer(y), first), mask))
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
        _each_register(builder, e, n, visit)
        return context.get_dummy_value()
    real = like.dtype
    return types.void(types.int64, real, types.int64, real, types.int64, real, types.int64, like), codegen


@routine
def weigh(rows, w, start, stop):
    """rows[r] *= w of the row's sample, for rows [start, stop) of R; samples N have R / N rows each."""
    per_sample = rows.size // w.size
    if per_sample == 1:
        multiply(address(rows) + itemsize(rows) * start, address(w) + itemsize(w) * start, stop - start, rows)
        return
    n, left = start // per_sample, per_sample - start % per_sample
    for r in range(start, stop):
        rows[r] *= w[n]
        left -= 1
        if left == 0:
            n, left = n + 1, per_sample


@routine
def weigh_matrix(dy, w, start, stop):
    """dy[r, :] *= w of the row's sample, for rows [start, stop) of dy [R, J]. Rows of weight 1, the usual case, are not touched."""
    R, J = dy.shape
    T = dy.dtype.type
    per_sample = R // w.size
    if per_sample == 1 and J == 1:
        multiply(address(dy) + itemsize(dy) * start, address(w) + itemsize(w) * start, stop - start, dy)
        return
    n, left = start // per_sample, per_sample - start % per_sample
    for r in range(start, stop):
        if w[n] != T(1):
            row = address(dy) + itemsize(dy) * r * J
            scale_run(row, w[n], row, J, dy)
        left -= 1
        if left == 0:
            n, left = n + 1, per_sample
