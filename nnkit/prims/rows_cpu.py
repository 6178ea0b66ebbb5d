"""What goes along one row of n numbers, by address, and memory on the stack for a block of rows.

Rows of ten numbers are too short for vector loops of their own, and loading and storing them one after the other through masks makes every load
wait for the store before it (their registers overlap). So kernels on rows only read along a row, fill a block with each row's number, and do
the arithmetic in one loop over the whole block.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, array_view, vector_bytes
from nnkit.prims.simd_cpu import I32, Emitter

__all__ = ["BLOCK", "block_like", "fill_run", "largest_run"]

BLOCK = 2048                                             # numbers of a block: a few of them fit into the first-level cache


@intrinsic
def block_like(typing_context: Any, like: Any) -> Any:
    """BLOCK numbers of the type of `like` (a number or an array) on the stack, and room for the overrun of `fill_run`."""
    element = like.dtype if isinstance(like, types.Array) else like

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = context.get_data_type(element)
        count = BLOCK + vector_bytes() // context.get_abi_sizeof(kind)
        memory = cgutils.alloca_once(builder, kind, size=count)
        return array_view(context, builder, signature.return_type, builder.ptrtoint(memory, I64), [ir.Constant(I64, count)])
    return types.Array(element, 1, "C")(like), codegen


@intrinsic
def fill_run(typing_context: Any, y: Any, number: Any, n: Any, like: Any) -> Any:
    """y[:n] = number in whole registers, so that up to one register behind is overwritten as well. `like`: an array, for its type."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        e = Emitter(builder, signature.args[-1].dtype)
        y, number, lanes = e.pointer(values[0]), e.splat(values[1]), ir.Constant(I64, e.lanes)
        turns = builder.sdiv(builder.add(values[2], ir.Constant(I64, e.lanes - 1)), lanes)
        with cgutils.for_range(builder, turns) as loop:
            e.store(number, e.at(y, builder.mul(loop.index, lanes)))
        return context.get_dummy_value()
    return types.void(types.int64, like.dtype, types.int64, like), codegen


@intrinsic
def largest_run(typing_context: Any, x: Any, n: Any, like: Any) -> Any:
    """The largest of x[:n], NaN left out; -inf where there is none. `like`: an array, for its type."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        e = Emitter(builder, signature.args[-1].dtype)
        x, n, lanes = e.pointer(values[0]), values[1], ir.Constant(I64, e.lanes)
        lowest = ir.Constant(e.vector, [-math.inf] * e.lanes)

        def larger(a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)
        largest = cgutils.alloca_once_value(builder, lowest)
        with cgutils.for_range(builder, builder.sdiv(builder.add(n, ir.Constant(I64, e.lanes - 1)), lanes)) as loop:
            first = builder.mul(loop.index, lanes)
            mask = e.first(builder.sub(n, first))
            builder.store(larger(builder.select(mask, e.load(e.at(x, first), mask), lowest), builder.load(largest)), largest)
        value = builder.load(largest)
        width = e.lanes
        while width > 1:
            width //= 2
            order = [k + width if k < width else k for k in range(e.lanes)]
            value = larger(value, builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(I32, e.lanes), order)))
        return builder.extract_element(value, ir.Constant(I32, 0))
    return like.dtype(types.int64, types.int64, like), codegen
