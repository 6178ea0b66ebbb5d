"""The product of packed blocks that all fast convolutions are made of: C = C0 + sum over steps and k of A's columns times rows of B.

A lies in blocks of BLOCK numbers, [block][place][BLOCK], as convolution.py says. Rows of a tile are a constant number of elements apart and so are
its k: machine code holds them as displacements, not in registers. What moves (place of the window, block of channels, image row) stands in a table
of steps, (offset in elements, number of k) each; the rows of B follow one another through all steps. An element of C is one chain of fma in the order
of the steps, whatever tile it falls in: the bits depend on no tile, no share of a task.

    place_rows     rows of C are places, BLOCK elements apart; k are channels: forward passes, gradients by the input
    tile_rows      rows of C are Winograd's tiles, TILE_STEP elements apart; k are channels
    channel_rows   rows of C are channels; k are places or tiles: gradients by the kernel
"""

from __future__ import annotations

import itertools
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, routine, shared, vector_bytes
from nnkit.prims.convolution import BLOCK, TILE_STEP
from nnkit.prims.simd_cpu import Emitter, itemsize, lanes

__all__ = ["TILE_ROWS", "channel_rows", "place_rows", "put_step", "tile_rows"]

# Rows of the tiles, two registers wide: as many as there are registers for (32 with AVX-512 and NEON, 16 with AVX2), and two smaller ones.
TILE_ROWS = (6, 4, 2) if vector_bytes() == 32 else (14, 8, 4)


@intrinsic
def put_step(typing_context: Any, steps: Any, number: Any, offset: Any, count: Any) -> Any:
    """Entry `number` of the table at the address `steps`: (offset in elements, number of k)."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        steps, number, offset, count = values
        entry = builder.gep(builder.inttoptr(steps, I64.as_pointer()), [builder.mul(number, I64(2))])
        builder.store(offset, entry)
        builder.store(count, builder.gep(entry, [I64(1)]))
        return context.get_dummy_value()
    return types.void(*[types.int64] * 4), codegen


def tile(rows: int, vectors: int, row_step: int) -> Any:
    """C[:m, :n] of at most `rows` rows and `vectors` registers of columns, by address; strides in elements.

    steps: address of the table, of `count` pairs. rsb: from one row of B to the next. c0: address of C0 with row stride rs0, or 0 for none: it is
    added last, so that a chain is never longer than one table; with rs0 = 0 it is one row for all, a bias, with which sums begin.
    relu: whether what is below 0 becomes 0. ahead: address of what is read next, fetched into the second-level cache, a line for each k.
    """
    @intrinsic
    def product(typing_context: Any, steps: Any, count: Any, a: Any, k_step: Any, b: Any, rsb: Any, c: Any, rsc: Any, c0: Any, rs0: Any, m: Any,
                n: Any, relu: Any, ahead: Any, like: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            steps, count, a, k_step, b, rsb, c, rsc, c0, rs0, m, n, relu, ahead, _ = values
            e = Emitter(builder, signature.args[-1].dtype)
            masks = [e.first(builder.sub(n, I64(j * e.lanes))) for j in range(vectors)]
            cells = [[cgutils.alloca_once_value(builder, e.zero) for _ in range(vectors)] for _ in range(rows)]

            def each_row(first: Any, stride: Any, visit: Any, all_rows: bool = False) -> None:
                for i, row in enumerate(cells):
                    if all_rows:
                        visit(row, e.at(first, builder.mul(stride, I64(i))))
                        continue
                    with builder.if_then(builder.icmp_signed("<", I64(i), m), likely=True):
                        visit(row, e.at(first, builder.mul(stride, I64(i))))

            def add(row: Any, place: Any) -> None:
                for j, cell in enumerate(row):
                    builder.store(builder.fadd(builder.load(cell), e.load(e.at(place, j * e.lanes), masks[j])), cell)

            def end(whole: bool) -> Any:
                def visit(row: Any, place: Any) -> None:
                    for j, cell in enumerate(row):
                        e.store(builder.load(cell), e.at(place, j * e.lanes), None if whole else masks[j])
                return visit

            given, alike = builder.icmp_signed("!=", c0, I64(0)), builder.icmp_signed("==", rs0, I64(0))
            with builder.if_then(builder.and_(given, alike)):
                start = [e.load(e.at(e.pointer(c0), j * e.lanes), mask) for j, mask in enumerate(masks)]
                for row in cells:
                    for cell, value in zip(row, start, strict=True):
                        builder.store(value, cell)
            _multiply(e, cells, masks, steps, count, e.pointer(a), k_step, e.pointer(b), rsb, ahead, row_step)
            with builder.if_then(builder.and_(given, builder.not_(alike))):   # a branch: even a load under an empty mask waits for its line
                each_row(e.pointer(c0), rs0, add)
            with builder.if_then(builder.icmp_signed("!=", relu, I64(0))):
                for cell in itertools.chain(*cells):
                    value = builder.load(cell)
                    builder.store(builder.select(builder.fcmp_ordered("<=", value, e.zero), e.zero, value), cell)
            full = builder.and_(builder.icmp_signed(">=", n, I64(vectors * e.lanes)), builder.icmp_signed(">=", m, I64(rows)))
            with builder.if_else(full, likely=True) as (whole, torn):
                with whole:                              # masked stores cost more
                    each_row(e.pointer(c), rsc, end(True), all_rows=True)
                with torn:
                    each_row(e.pointer(c), rsc, end(False))
            return context.get_dummy_value()
        return types.void(*[types.int64] * 14, like), codegen
    return product


def _multiply(e: Emitter, cells: Any, masks: Any, steps: Any, count: Any, a: Any, k_step: Any, b: Any, rsb: Any, ahead: Any, row_step: int) -> None:
    """cells += the products of all steps."""
    builder = e.b
    table = builder.inttoptr(steps, I64.as_pointer())
    row, line = cgutils.alloca_once_value(builder, b), cgutils.alloca_once_value(builder, ahead)
    with cgutils.for_range(builder, count) as outer:
        pair = builder.mul(outer.index, I64(2))
        first = e.at(a, builder.load(builder.gep(table, [pair])))
        with cgutils.for_range(builder, builder.load(builder.gep(table, [builder.add(pair, I64(1))]))) as inner:
            here, next_line = builder.load(row), builder.load(line)
            factors = [e.load(e.at(here, j * e.lanes), masks[j]) for j in range(len(masks))]
            place = e.opaque(e.at(first, builder.mul(inner.index, k_step)))
            for i, row_cells in enumerate(cells):
                x = e.splat(builder.load(e.at(place, i * row_step)))
                for cell, factor in zip(row_cells, factors, strict=True):
                    builder.store(e.fma(x, factor, builder.load(cell)), cell)
            e.prefetch(next_line)
            builder.store(e.at(here, rsb), row)
            builder.store(builder.add(next_line, I64(64)), line)


def cover(row_step: int) -> Any:
    """The routine that covers any number of rows, `row_step` elements apart, by tiles. next_ahead: how much further each fetches."""
    high, half, low = TILE_ROWS
    high2, half2, low2 = (tile(rows, 2, row_step) for rows in TILE_ROWS)
    high1, half1, low1 = (tile(rows, 1, row_step) for rows in TILE_ROWS)

    @routine
    def rows(m, n, steps, count, a, k_step, b, rsb, c, rsc, c0, rs0, relu, ahead, next_ahead, like):
        size, lane = itemsize(like), lanes(like)
        while m > 0:
            if m >= high - 1 and (m <= high or m > 2 * half):
                done = high
                if n > lane:
                    high2(steps, count, a, k_step, b, rsb, c, rsc, c0, rs0, m, n, relu, ahead, like)
                else:
                    high1(steps, count, a, k_step, b, rsb, c, rsc, c0, rs0, m, n, relu, ahead, like)
            elif m > low:
                done = half
                if n > lane:
                    half2(steps, count, a, k_step, b, rsb, c, rsc, c0, rs0, m, n, relu, ahead, like)
                else:
                    half1(steps, count, a, k_step, b, rsb, c, rsc, c0, rs0, m, n, relu, ahead, like)
            else:
                done = low
                if n > lane:
                    low2(steps, count, a, k_step, b, rsb, c, rsc, c0, rs0, m, n, relu, ahead, like)
                else:
                    low1(steps, count, a, k_step, b, rsb, c, rsc, c0, rs0, m, n, relu, ahead, like)
            m -= done
            a, c, ahead = a + size * done * row_step, c + size * done * rsc, ahead + next_ahead
            c0 = c0 + size * done * rs0 if c0 != 0 else 0
    return rows


by_places, by_tiles, by_channels = cover(BLOCK), cover(TILE_STEP), cover(1)


@shared
def place_rows(m, n, steps, count, a, b, rsb, c, rsc, c0, rs0, relu, like):
    """C[m, n], n at most two registers, rows BLOCK elements apart, k side by side; arguments as for `tile`. m may exceed a tile."""
    by_places(m, n, steps, count, a, 1, b, rsb, c, rsc, c0, rs0, relu, b, 0, like)


@shared
def tile_rows(m, n, steps, count, a, b, rsb, c, rsc, ahead, next_ahead, like):
    """The same with rows TILE_STEP elements apart, without C0, bias and ReLU."""
    by_tiles(m, n, steps, count, a, 1, b, rsb, c, rsc, 0, 0, 0, ahead, next_ahead, like)


@shared
def channel_rows(m, n, steps, count, a, k_step, b, rsb, c, rsc, c0, like):
    """The same with rows side by side and k `k_step` elements apart; C0 has C's rows."""
    by_channels(m, n, steps, count, a, k_step, b, rsb, c, rsc, c0, rsc, 0, b, 0, like)
