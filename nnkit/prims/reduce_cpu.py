"""Sums in vector code, in an order that depends on shapes alone: along a run of elements, and down the columns of a matrix.

Both are made from a rule `terms(e, v, c, sums)`, which emits vector instructions: from the loaded vectors `v` and the constants `c` it makes
the new values of the running `sums`. Everything goes by addresses, and strides in elements; edges are masked, nothing outside is read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, Int, Matrix, Tensor3, kernel, routine
from nnkit.prims.pointwise_cpu import share
from nnkit.prims.reduce import STRIP
from nnkit.prims.simd_cpu import Emitter, address, copy_masked, itemsize, lanes

__all__ = ["add_masked", "column_sums", "columns_plain", "fold", "piece_bounds", "run_plain", "run_sums", "sum_chunks", "sum_middle", "tile"]

BEGINS, GOES_ON, ADDS = 0, 1, 2                          # what rows of a matrix are to those that were summed before them

Terms = Callable[[Emitter, list[Any], list[Any], list[Any]], list[Any]]

BAND = 4                                                 # rows that go by before the next columns: runs of memory, not stripes (a quarter faster)
UNROLLED = 4                                             # independent sums: the latency of an addition is about four additions
LONG = 128                                               # terms that are summed in one go: a sum of such sums does not outgrow its terms


def run_sums(terms: Terms, inputs: int, totals: int, wide: bool = False) -> Any:
    """f(n, x0, x1, x2, c, like) -> `totals` sums over the elements of up to three runs x0[:n], ... and one constant c.

    Vector v of the run goes to sum v mod UNROLLED of each lane; every LONG terms these are added to totals and begin anew; then the totals
    pairwise, then the lanes pairwise, halving. `wide`: the sums are float64, whatever the type of the elements.
    """
    @intrinsic
    def run(typing_context: Any, n: Any, x0: Any, x1: Any, x2: Any, c: Any, like: Any) -> Any:
        result = types.float64 if wide else like.dtype

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            e = Emitter(builder, signature.args[-1].dtype)
            n, constants = values[0], [e.splat(values[4])]
            runs = [e.pointer(value) for value in values[1:1 + inputs]]
            kind = ir.VectorType(ir.DoubleType(), e.lanes) if wide else e.vector
            zero = ir.Constant(kind, [0.0] * e.lanes)
            sums, whole = ([[cgutils.alloca_once_value(builder, zero) for _ in range(totals)] for _ in range(UNROLLED)] for _ in range(2))
            width, long = ir.Constant(I64, e.lanes * UNROLLED), ir.Constant(I64, LONG)
            turns = builder.sdiv(n, width)

            def add(first: Any, places: list[Any], mask: Any) -> None:
                old = [builder.load(place) for place in places]
                new = terms(e, [e.load(e.at(x, first), mask) for x in runs], constants, old)
                for place, before, after in zip(places, old, new, strict=True):
                    builder.store(after if mask is None else builder.select(mask, after, before), place)

            def put_aside() -> None:
                for place, part in zip(itertools.chain(*whole), itertools.chain(*sums), strict=True):
                    builder.store(builder.fadd(builder.load(place), builder.load(part)), place)
                    builder.store(zero, part)

            def stretch(start: Any, stop: Any) -> None:
                with cgutils.for_range_slice(builder, start, stop, I64(1)) as (turn, _):
                    for u in range(UNROLLED):
                        add(builder.add(builder.mul(turn, width), ir.Constant(I64, u * e.lanes)), sums[u], None)
            full, is_long = builder.mul(builder.sdiv(turns, long), long), builder.icmp_signed(">=", turns, long)
            with cgutils.for_range_slice(builder, I64(0), full, long) as (start, _):
                stretch(start, builder.add(start, long))
                put_aside()
            stretch(full, turns)
            done = builder.mul(turns, width)
            for u in range(UNROLLED):
                first = builder.add(done, ir.Constant(I64, u * e.lanes))
                with builder.if_then(builder.icmp_signed("<", first, n)):
                    add(first, sums[u], e.first(builder.sub(n, first)))
            with builder.if_then(is_long, likely=False):
                put_aside()
                for place, part in zip(itertools.chain(*whole), itertools.chain(*sums), strict=True):
                    builder.store(builder.load(place), part)
            found = [_across(e, [builder.load(sums[u][t]) for u in range(UNROLLED)]) for t in range(totals)]
            return context.make_tuple(builder, signature.return_type, found)
        return types.UniTuple(result, totals)(*[types.int64] * 4, like.dtype, like), codegen
    return run


def _across(e: Emitter, vectors: list[Any]) -> Any:
    """The sum of all lanes of all vectors, pairwise."""
    b = e.b
    while len(vectors) > 1:
        vectors = [b.fadd(p, q) for p, q in zip(vectors[::2], vectors[1::2], strict=True)]
    return e.fold(vectors[0], b.fadd)


def column_sums(terms: Terms, inputs: int, totals: int, along_columns: bool = False, along_rows: int = 0) -> Any:
    """f(rows, n, y, rsy, x0, x1, rsx, column, row, like): y[t, :n] = sum t over the rows of one or two matrices x0, x1 of row stride rsx.

    Sums are kept in registers (of wide matrices for BAND rows at a time) and run in the order of the rows. Of more than LONG rows, blocks of about
    as many rows as there are blocks are summed, then these sums. Constants of the rule: where `along_columns`, column[:n], one number for each
    column; then `along_rows` numbers row[r, :] for each row.
    """
    four, one = _strip(terms, inputs, totals, along_columns, along_rows, 4), _strip(terms, inputs, totals, along_columns, along_rows, 0)

    @routine
    def sums(rows, n, y, rsy, x0, x1, rsx, column, row, like):  # type: ignore[no-untyped-def]
        size, lane = itemsize(like), lanes(like)
        block = block_rows(rows)
        for first in range(0, max(rows, 1), block):
            stop = min(first + block, rows)
            most = BAND if n > 4 * lane and rows <= LONG else block
            for r in range(first, max(stop, 1), most):
                band = min(most, stop - r)
                kind = BEGINS if r == 0 else (GOES_ON if r > first else ADDS)
                down, numbers = size * r * rsx, row + size * r * along_rows
                j = 0
                while j < n:
                    at = size * j
                    if n - j >= 4 * lane:
                        four(band, kind, n - j, y + at, rsy, x0 + down + at, x1 + down + at, rsx, column + at, numbers, like)
                        j += 4 * lane
                    else:
                        one(band, kind, n - j, y + at, rsy, x0 + down + at, x1 + down + at, rsx, column + at, numbers, like)
                        j += lane
    return sums


@routine
def block_rows(rows):  # type: ignore[no-untyped-def]
    """Rows that are summed in one go: all, or of more than LONG about the root of their number."""
    block = LONG
    while rows > LONG and block * block < rows:
        block *= 2
    return block if rows > LONG else max(rows, 1)


def _strip(terms: Terms, inputs: int, totals: int, along_columns: bool, along_rows: int, vectors: int) -> Any:
    """`column_sums` for whole registers of columns, or (vectors 0) for the at most n columns of one masked register.

    kind: of these rows: the sums BEGIN with them; y holds sums of rows that went before, with which these GO ON; or these sums are ADDED to y.
    """
    @intrinsic
    def strip(typing_context: Any, rows: Any, kind: Any, n: Any, y: Any, rsy: Any, x0: Any, x1: Any, rsx: Any, column: Any, row: Any,
              like: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            rows, kind, n, y, rsy, x0, x1, rsx, column, row, _ = values
            e = Emitter(builder, signature.args[-1].dtype)
            mask = None if vectors else e.first(n)
            places = [ir.Constant(I64, j * e.lanes) for j in range(vectors or 1)]
            sums = [[cgutils.alloca_once_value(builder, e.zero) for _ in range(totals)] for _ in places]
            targets = [e.at(e.pointer(y), builder.mul(rsy, ir.Constant(I64, t))) for t in range(totals)]
            with builder.if_then(builder.icmp_signed("==", kind, I64(GOES_ON))):
                for j, place in enumerate(places):
                    for t in range(totals):
                        builder.store(e.load(e.at(targets[t], place), mask), sums[j][t])
            fixed = [[e.load(e.at(e.pointer(column), place), mask)] if along_columns else [] for place in places]
            matrices = [e.pointer(x) for x in (x0, x1)[:inputs]]
            with cgutils.for_range(builder, rows) as loop:
                start = builder.mul(loop.index, rsx)
                first = builder.mul(loop.index, ir.Constant(I64, along_rows))
                numbers = [e.splat(builder.load(e.at(e.pointer(row), builder.add(first, ir.Constant(I64, k))))) for k in range(along_rows)]
                for j, place in enumerate(places):
                    loaded = [e.load(e.at(x, builder.add(start, place)), mask) for x in matrices]
                    new = terms(e, loaded, fixed[j] + numbers, [builder.load(total) for total in sums[j]])
                    for total, value in zip(sums[j], new, strict=True):
                        builder.store(value, total)
            with builder.if_then(builder.icmp_signed("==", kind, I64(ADDS))):
                for j, place in enumerate(places):
                    for t in range(totals):
                        builder.store(builder.fadd(e.load(e.at(targets[t], place), mask), builder.load(sums[j][t])), sums[j][t])
            for t in range(totals):
                for j, place in enumerate(places):
                    e.store(builder.load(sums[j][t]), e.at(targets[t], place), mask)
            return context.get_dummy_value()
        return types.void(*[types.int64] * 10, like), codegen
    return strip


@routine
def piece_bounds(piece, rows, columns, fold, chunk, chunks, strip):  # type: ignore[no-untyped-def]
    """Of a piece of a `Tiling`: its chunk k, the first and last + 1 of its columns, its first tile row, their number, and the rows left over.

    The rows that do not fill a tile row stand behind the last chunk.
    """
    k = piece % chunks
    full = rows // fold
    start = piece // chunks * strip
    first = k * chunk
    count = min(chunk, full - first)
    left = rows - full * fold if k == chunks - 1 else 0
    return k, start, min(start + strip, columns * fold), first, count, left


@intrinsic
def add_masked(typing_context: Any, y: Any, x: Any, n: Any, like: Any) -> Any:
    """y[:n] += x[:n] by address, n at most one register."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        e = Emitter(builder, signature.args[-1].dtype)
        mask, target = e.first(values[2]), e.pointer(values[0])
        e.store(builder.fadd(e.load(target, mask), e.load(e.pointer(values[1]), mask)), target, mask)
        return context.get_dummy_value()
    return types.void(types.int64, types.int64, types.int64, like), codegen


# Both go register by register: a loop for LLVM to make vector code of costs 50 ms of compile time in every kernel.

@routine
def fold(x, columns, times, like):  # type: ignore[no-untyped-def]
    """x[j] += x[columns + j] + x[2 columns + j] + ... for `times` (a power of two) stretches behind the address x, halving."""
    size, lane = itemsize(like), lanes(like)
    while times > 1:
        times //= 2
        half = times * columns
        for j in range(0, half, lane):
            add_masked(x + size * j, x + size * (half + j), half - j, like)


@routine
def tile(x, columns, times, like):  # type: ignore[no-untyped-def]
    """Repeat the first `columns` elements behind the address x until there are `times` (a power of two) copies."""
    size, lane = itemsize(like), lanes(like)
    done = columns
    while done < times * columns:
        for j in range(0, done, lane):
            copy_masked(x + size * (done + j), x + size * j, done - j, like)
        done *= 2


# The plain sum, which several layers take.

def plain(e, v, c, sums):  # type: ignore[no-untyped-def]
    """Sum x."""
    return [e.b.fadd(sums[0], v[0])]


run_plain, columns_plain = run_sums(plain, 1, 1), column_sums(plain, 1, 1)


@kernel
def sum_chunks(task: Int, tasks: Int, partial: Matrix, x: Matrix, times: Int, chunk: Int) -> None:
    """partial[k, j] = sum over the tile rows of chunk k. x [R, C], partial [K, W]; times, chunk: of the `Tiling`.

    Task t covers its share of the pieces. Writes partial (=).
    """
    rows, columns = x.shape
    chunks, width = partial.shape
    size = itemsize(x)
    pieces = chunks * ((width + STRIP - 1) // STRIP)
    for piece in range(pieces * task // tasks, pieces * (task + 1) // tasks):
        k, start, stop, first, count, left = piece_bounds(piece, rows, columns, times, chunk, chunks, STRIP)
        extra = left * columns                           # the first columns of the tile have one row more
        at, out = address(x) + size * (first * width + start), address(partial) + size * (k * width + start)
        for side in range(2):
            more, n_side = side * size * extra, stop - start - extra if side else extra
            columns_plain(count + 1 - side, n_side, out + more, width, at + more, 0, width, 0, 0, x)


@kernel
def sum_middle(task: Int, tasks: Int, dx: Matrix, dy: Tensor3) -> None:
    """dx[a, b] = sum over s of dy[a, s, b], in the order of s (where B is 1, in the order of `run_sums`). dx [A, B], dy [A, S, B].

    Task t covers its share of the columns b where A is 1, of the a elsewhere. Writes dx (=).
    """
    T = dx.dtype.type
    stretches, copies, length = dy.shape
    size = itemsize(dx)
    start, stop = 0, length
    first, last = 0, stretches
    if stretches == 1:
        start, stop = share(length, tasks, task)
    else:
        first, last = stretches * task // tasks, stretches * (task + 1) // tasks
    for a in range(first, last):
        at = address(dy) + size * a * copies * length
        if length == 1 and stop > start:
            dx[a, 0] = run_plain(copies, at, 0, 0, T(0), dx)[0]
        else:
            out = address(dx) + size * (a * length + start)
            columns_plain(copies, stop - start, out, length, at + size * start, 0, length, 0, 0, dx)
