"""What goes along one row of n numbers, by address: registers with masks at the end, so that rows of ten numbers are fast as well.

A sum or largest is taken lane by lane, then the lanes in pairs, halving: a tree that depends on n and the register's width alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64
from nnkit.prims.simd_cpu import I32, Emitter

__all__ = ["divide_by_sum", "subtract_largest", "subtract_number", "subtract_share"]

Combine = Callable[[Any, Any], Any]


def _along(e: Emitter, n: Any, body: Callable[[Any, Any], None]) -> None:
    """body(first element, mask) for every register of a run of n elements."""
    lanes = ir.Constant(I64, e.lanes)
    turns = e.b.sdiv(e.b.add(n, ir.Constant(I64, e.lanes - 1)), lanes)
    with cgutils.for_range(e.b, turns) as loop:
        first = e.b.mul(loop.index, lanes)
        body(first, e.first(e.b.sub(n, first)))


def _fold(e: Emitter, n: Any, start: Any, term: Callable[[Any, Any], Any], combine: Combine) -> Any:
    """All terms of a run combined by combine(term, total); every lane of the result holds the outcome."""
    total = cgutils.alloca_once_value(e.b, start)

    def add(first: Any, mask: Any) -> None:
        e.b.store(combine(term(first, mask), e.b.load(total)), total)
    _along(e, n, add)
    value = e.b.load(total)
    width = e.lanes
    while width > 1:
        width //= 2
        order = ir.Constant(ir.VectorType(I32, e.lanes), [k ^ width for k in range(e.lanes)])
        value = combine(value, e.b.shuffle_vector(value, value, order))
    return value


@intrinsic
def subtract_largest(typing_context: Any, y: Any, x: Any, n: Any, like: Any) -> Any:
    """y[:n] = x[:n] - max(x[:n]); y may be x. NaN is not the largest, and stays. `like`: an array, for its type."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        e = Emitter(builder, signature.args[-1].dtype)
        y, x, n = e.pointer(values[0]), e.pointer(values[1]), values[2]
        lowest = ir.Constant(e.vector, [-math.inf] * e.lanes)

        def term(first: Any, mask: Any) -> Any:
            return builder.select(mask, e.load(e.at(x, first), mask), lowest)
        largest = _fold(e, n, lowest, term, lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
        _along(e, n, lambda first, mask: e.store(builder.fsub(e.load(e.at(x, first), mask), largest), e.at(y, first), mask))
        return context.get_dummy_value()
    return types.void(types.int64, types.int64, types.int64, like), codegen


@intrinsic
def divide_by_sum(typing_context: Any, y: Any, n: Any, like: Any) -> Any:
    """y[:n] /= sum(y[:n])."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        e = Emitter(builder, signature.args[-1].dtype)
        y, n = e.pointer(values[0]), values[1]
        total = _fold(e, n, e.zero, lambda first, mask: e.load(e.at(y, first), mask), builder.fadd)
        factor = builder.fdiv(ir.Constant(e.vector, [1.0] * e.lanes), total)
        _along(e, n, lambda first, mask: e.store(builder.fmul(e.load(e.at(y, first), mask), factor), e.at(y, first), mask))
        return context.get_dummy_value()
    return types.void(types.int64, types.int64, like), codegen


@intrinsic
def subtract_share(typing_context: Any, y: Any, x: Any, share: Any, n: Any, like: Any) -> Any:
    """y[:n] = x[:n] - share[:n] sum(x[:n]); y may be x."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        e = Emitter(builder, signature.args[-1].dtype)
        y, x, share, n = *map(e.pointer, values[:3]), values[3]
        total = _fold(e, n, e.zero, lambda first, mask: e.load(e.at(x, first), mask), builder.fadd)
        negative = builder.fsub(e.zero, total)

        def term(first: Any, mask: Any) -> None:
            e.store(e.fma(e.load(e.at(share, first), mask), negative, e.load(e.at(x, first), mask)), e.at(y, first), mask)
        _along(e, n, term)
        return context.get_dummy_value()
    return types.void(types.int64, types.int64, types.int64, types.int64, like), codegen


@intrinsic
def subtract_number(typing_context: Any, y: Any, number: Any, n: Any, like: Any) -> Any:
    """y[:n] -= number."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        e = Emitter(builder, signature.args[-1].dtype)
        y, number, n = e.pointer(values[0]), e.splat(values[1]), values[2]
        _along(e, n, lambda first, mask: e.store(builder.fsub(e.load(e.at(y, first), mask), number), e.at(y, first), mask))
        return context.get_dummy_value()
    return types.void(types.int64, like.dtype, types.int64, like), codegen
