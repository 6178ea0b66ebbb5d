"""Convolutions of few channels into a pooling of 2 x 2 or 2 x 2 x 2 places: y and its gradient exist in registers only.

Letters: see convolution.py. A cell is a window of the pooling; its places count 0 to 3 or 7, along depth, height, width. A unit of work is TP rows of
cells of one image (and depth): `cell_place`. The rows of x that it needs lie copied as a band, [depth][row][place][channel], zeros where there is
padding; so all steps are the same distance apart, and a window's row is a run of S C numbers.

Of a filter's largest number only one place of the cell has a gradient, its winner, another one for each filter. So dW takes for every number of the
window the one that the winner sees: a permutation of a few neighbours of x, where they fit into two registers, else a selection among the places.
"""

from __future__ import annotations

import itertools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, Int, LabelMatrix, Matrix, Ordinals, Vector, Windows, kernel, routine, vector_bytes
from nnkit.prims.direct_cpu import copy_run
from nnkit.prims.rows_cpu import fill_run
from nnkit.prims.simd_cpu import Emitter, address, itemsize, lanes, part

__all__ = ["cells_forward", "cells_weight"]

VECTORS = 1 if vector_bytes() == 32 else 2               # registers of filters of a forward tile: it has eight places
GROUP = 3                                                # rows of the window, and numbers of each, whose gradients are summed at once
PERMUTES = vector_bytes() == 64                          # AVX-512 permutes two registers by a third one
I32 = ir.IntType(32)


# Forward.

def cells_tile(deep: bool) -> Any:
    """The cells of eight places, one or (deep False) two side by side, of at most VECTORS registers of filters: y, and, by address or 0, winners.

    A number of x at a + offset (of `count` in the table) + d plane + h line + w step, with the rows of W, rsw apart. n: filters; m: cells that exist.
    """
    columns = 2 if deep else 4
    places = list(itertools.product(range(2 if deep else 1), range(2), range(columns)))

    @intrinsic
    def tile(typing_context: Any, table: Any, count: Any, a: Any, plane: Any, line: Any, step: Any, w: Any, rsw: Any, bias: Any, y: Any, winners: Any,
             rsy: Any, m: Any, n: Any, relu: Any, like: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            table, count, a, plane, line, step, w, rsw, bias, y, winners, rsy, m, n, relu, _ = values
            e = Emitter(builder, signature.args[-1].dtype)
            masks = [e.first(builder.sub(n, I64(v * e.lanes))) for v in range(VECTORS)]
            cells = {place: [cgutils.alloca_once_value(builder, e.zero) for _ in masks] for place in places}
            with builder.if_then(builder.icmp_signed("!=", bias, I64(0))):
                start = [e.load(e.at(e.pointer(bias), v * e.lanes), mask) for v, mask in enumerate(masks)]
                for kept in cells.values():
                    for cell, value in zip(kept, start, strict=True):
                        builder.store(value, cell)
            rows = {(d, h): builder.add(builder.mul(plane, I64(d)), builder.mul(line, I64(h))) for d, h, _ in places}
            with cgutils.for_range(builder, count) as loop:
                offset = builder.load(builder.gep(builder.inttoptr(table, I64.as_pointer()), [loop.index]))
                factor = e.at(e.pointer(w), builder.mul(rsw, loop.index))
                factors = [e.load(e.at(factor, v * e.lanes), mask) for v, mask in enumerate(masks)]
                starts = {row: e.at(e.at(e.pointer(a), offset), at) for row, at in rows.items()}
                for (d, h, column), kept in cells.items():
                    x = e.splat(builder.load(e.at(starts[d, h], builder.mul(step, I64(column)))))
                    for cell, value in zip(kept, factors, strict=True):
                        builder.store(e.fma(x, value, builder.load(cell)), cell)
            for cell in range(columns // 2):
                own = [kept for (_, _, column), kept in cells.items() if column // 2 == cell]
                with builder.if_then(builder.icmp_signed("<", I64(cell), m)):
                    for v, mask in enumerate(masks):
                        at = builder.add(builder.mul(rsy, I64(cell)), I64(v * e.lanes))
                        _store_cell(e, [builder.load(kept[v]) for kept in own], e.at(e.pointer(y), at), winners, at, mask, relu)
            return context.get_dummy_value()
        return types.void(*[types.int64] * 15, like), codegen
    return tile


def _store_cell(e: Emitter, numbers: list[Any], y: Any, winners: Any, at: Any, mask: Any, relu: Any) -> None:
    """Write the largest number of a cell, the first of several, or a NaN; and its place."""
    b, index = e.b, ir.VectorType(I32, e.lanes)
    top, winner = numbers[0], ir.Constant(index, [0] * e.lanes)
    for place, number in enumerate(numbers[1:], 1):
        better = b.and_(b.fcmp_unordered(">", number, top), b.fcmp_ordered("ord", top, top))
        top, winner = b.select(better, number, top), b.select(better, ir.Constant(index, [place] * e.lanes), winner)
    positive = b.or_(b.fcmp_unordered(">", top, e.zero), e.all_lanes(b.icmp_signed("==", relu, I64(0))))
    e.store(b.select(positive, top, e.zero), y, mask)
    with b.if_then(b.icmp_signed("!=", winners, I64(0))):
        e.store_whole(winner, b.gep(b.inttoptr(winners, I32.as_pointer()), [at]), mask)


deep_tile, flat_tile = cells_tile(True), cells_tile(False)


@routine
def cell_place(unit, TP, deep, windows):
    """(image, depth, first row, number of rows) of a unit, counted in cells."""
    E, P = windows[15] // (1 + deep), windows[16] // 2
    pieces = (P + TP - 1) // TP
    first = unit % pieces * TP
    return unit // (pieces * E), unit // pieces % E, first, min(TP, P - first)


@routine
def band_shape(TP, deep, windows):
    """(depths, rows, numbers of a row) of a band."""
    _, _, _, T, R, S, stride_d, stride_h, stride_w, step_d, step_h, _, _, _, _, _, _, Q, C, _, _ = windows
    return deep * stride_d + (T - 1) * step_d + 1, (2 * TP - 1) * stride_h + (R - 1) * step_h + 1, ((Q // 2 * 2 - 1) * stride_w + S) * C


@routine
def copy_band(to, image, e, first, TP, deep, windows, like):
    """Copy the band of a unit from the image at an address."""
    D, H, W, C = windows[0], windows[1], windows[2], windows[18]
    size, zero = itemsize(like), like.dtype.type(0)
    depths, rows, length = band_shape(TP, deep, windows)
    before = windows[14] * C
    start, stop = min(before, length), min(length, before + W * C)
    for t in range(depths):
        d = (1 + deep) * e * windows[6] + t - windows[12]
        for r in range(rows):
            h = 2 * first * windows[7] + r - windows[13]
            if 0 <= d < D and 0 <= h < H:
                fill_run(to, zero, start, like)
                copy_run(to + size * start, image + size * (d * H + h) * W * C, stop - start, like)
                fill_run(to + size * stop, zero, length - stop, like)
            else:
                fill_run(to, zero, length, like)
            to += size * length


@kernel
def cells_forward(task: Int, tasks: Int, y: Matrix, winners: LabelMatrix, x: Matrix, weight: Matrix, bias: Vector, band: Matrix, table: Ordinals,
                  windows: Windows, TP: Int, deep: Int, relu: Int) -> None:
    """y = the largest of every cell of x * W + b, then max(y, 0) if relu; winners: its place. Shapes: y, winners [N, cells O] (or winners [N, 0]),
    x [N, D H W C], weight [T R S C, O], bias [O] or empty, band [tasks, ...], table [tasks x T R S C]. deep: whether cells have two depths.

    Task t covers its share of the units of TP rows of cells. Writes y and winners (=).
    """
    D, H, W, T, R, S, stride_d, stride_h, stride_w, step_d, step_h, _, _, _, _, E, P, Q, C, O, _ = windows
    size, panel = itemsize(y), VECTORS * lanes(y)
    copy, steps = address(band) + size * task * band.shape[1], part(table, T * R * S * C * task, T * R * S * C * (task + 1))
    _, rows, line = band_shape(TP, deep, windows)
    for k in range(steps.size):
        steps[k] = (k // (R * S * C) * step_d * rows + k // (S * C) % R * step_h) * line + k % (S * C)
    depths, height, width = E // (1 + deep), P // 2, Q // 2
    units = y.shape[0] * depths * ((height + TP - 1) // TP)
    for unit in range(units * task // tasks, units * (task + 1) // tasks):
        n, e, first, tp = cell_place(unit, TP, deep, windows)
        copy_band(copy, address(x) + size * n * D * H * W * C, e, first, TP, deep, windows, y)
        for o in range(0, O, panel):
            w, b = address(weight) + size * o, address(bias) + size * o if bias.size else 0
            for p in range(tp):
                for q in range(0, width, 2 - deep):
                    a = copy + size * 2 * (p * stride_h * line + q * stride_w * C)
                    at = (((n * depths + e) * height + first + p) * width + q) * O + o
                    to, who = address(y) + size * at, address(winners) + 4 * at if winners.size else 0
                    if deep:
                        deep_tile(address(steps), steps.size, a, stride_d * rows * line, stride_h * line, stride_w * C, w, O, b, to, who, O, 1, O - o,
                                  relu, y)
                    else:
                        flat_tile(address(steps), steps.size, a, 0, stride_h * line, stride_w * C, w, O, b, to, who, O, width - q, O - o, relu, y)


# The gradient by the kernel.

def cells_sums(deep: bool, permutes: bool) -> Any:
    """dw[r, k, :n] += the sum over `rows` x m cells of the number that each filter's winner sees at (r, k) of the window, times dy.

    For GROUP x GROUP numbers (r, k), of which r_count and k_count are written, rsr and rsk apart in dw. In a: down apart for r, neighbours for k;
    plane, line, step from place to place of a cell; row_a, col_a from cell to cell. In dy and winners: row_dy and rsy.
    permutes: `down` is `line`, and step + GROUP numbers from a on are in a register.
    """
    places = list(itertools.product(range(2 if deep else 1), range(2), range(2)))

    @intrinsic
    def sums(typing_context: Any, a: Any, down: Any, plane: Any, line: Any, step: Any, row_a: Any, col_a: Any, dy: Any, winners: Any, row_dy: Any,
             rsy: Any, rows: Any, m: Any, dw: Any, rsr: Any, rsk: Any, r_count: Any, k_count: Any, n: Any, like: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            a, down, plane, line, step, row_a, col_a, dy, winners, row_dy, rsy, rows, m, dw, rsr, rsk, r_count, k_count, n, _ = values
            e = Emitter(builder, signature.args[-1].dtype)
            mask = e.first(n)
            group = list(itertools.product(range(GROUP), range(GROUP)))
            cells = {key: cgutils.alloca_once(builder, e.vector) for key in group}
            for cell in cells.values():
                builder.store(e.zero, cell)

            def row_of(r: int, more: int) -> Any:        # of those that are not written any one
                there = builder.icmp_signed("<", I64(r), builder.add(r_count, I64(more)))
                return builder.select(there, builder.mul(down, I64(r)), I64(0))
            with cgutils.for_range(builder, rows) as row, cgutils.for_range(builder, m) as column:
                at = builder.add(builder.mul(row.index, row_dy), builder.mul(column.index, rsy))
                here = e.at(e.pointer(a), builder.add(builder.mul(row.index, row_a), builder.mul(column.index, col_a)))
                factor = e.load(e.at(e.pointer(dy), at), mask)
                winner = e.load_whole(builder.gep(builder.inttoptr(winners, I32.as_pointer()), [at]), mask)
                ahead = builder.add(at, builder.mul(rows, row_dy))       # the next unit's
                e.prefetch(builder.ptrtoint(e.at(e.pointer(dy), ahead), I64))
                e.prefetch(builder.add(winners, builder.mul(ahead, I64(4))))
                pick = _permuted if permutes else _selected
                for key, number in pick(e, here, winner, places, row_of, (plane, line, step)):
                    builder.store(e.fma(number, factor, builder.load(cells[key])), cells[key])
            for (r, k), cell in cells.items():
                with builder.if_then(builder.and_(builder.icmp_signed("<", I64(r), r_count), builder.icmp_signed("<", I64(k), k_count))):
                    to = e.at(e.pointer(dw), builder.add(builder.mul(rsr, I64(r)), builder.mul(rsk, I64(k))))
                    e.store(builder.fadd(builder.load(cell), e.load(to, mask)), to, mask)
            return context.get_dummy_value()
        return types.void(*[types.int64] * 19, like), codegen
    return sums


def _selected(e: Emitter, here: Any, winner: Any, places: Any, row_of: Any, distances: Any) -> Any:
    """((r, k), the numbers that the winners see there), one place of the cell after the other."""
    b = e.b
    offsets = [[b.mul(distance, I64(k)) for distance, k in zip(distances, place, strict=True)] for place in places]
    starts = [e.at(here, b.add(b.add(d, h), w)) for d, h, w in offsets]
    masks = [b.icmp_signed("==", winner, ir.Constant(winner.type, [place] * e.lanes)) for place in range(len(places))]
    for r, k in itertools.product(range(GROUP), range(GROUP)):
        found = None
        for start, mask in zip(starts, masks, strict=True):
            number = e.splat(b.load(e.at(e.at(start, row_of(r, 0)), k)))
            found = number if found is None else b.select(mask, number, found)
        yield (r, k), found


def _permuted(e: Emitter, here: Any, winner: Any, places: Any, row_of: Any, distances: Any) -> Any:
    """The same by permutation: two rows of x lie in a register each, and the winner says which number of which."""
    b, (plane, _, step) = e.b, distances
    whole = ir.VectorType(ir.IntType(8 * e.itemsize), e.lanes)
    winner = b.sext(winner, whole) if e.itemsize == 8 else winner

    def constant(number: int) -> Any:
        return ir.Constant(whole, [number] * e.lanes)
    far = e.splat(b.trunc(step, whole.element) if e.itemsize == 4 else step, whole)
    index = b.add(b.mul(b.and_(winner, constant(2)), constant(e.lanes // 2)), b.and_(b.sub(constant(0), b.and_(winner, constant(1))), far))
    behind = b.icmp_signed("!=", b.and_(winner, constant(4)), constant(0))
    above = [[e.load(e.at(here, b.add(b.mul(plane, I64(d)), row_of(r, 1)))) for r in range(GROUP + 1)] for d in range(1 + places[-1][0])]
    kind = ir.FunctionType(e.vector, [e.vector, whole, e.vector])
    permute = cgutils.get_or_insert_function(b.module, kind, f"llvm.x86.avx512.vpermi2var.{'ps' if e.itemsize == 4 else 'pd'}.512")
    for k in range(GROUP):
        order = b.add(index, constant(k))
        for r in range(GROUP):
            found = [b.call(permute, [run[r], order, run[r + 1]]) for run in above]
            yield (r, k), found[0] if len(found) == 1 else b.select(behind, found[1], found[0])


deep_sums, flat_sums, deep_selected, flat_selected = (cells_sums(deep, permutes) for permutes in (PERMUTES, False) for deep in (True, False))


@kernel
def cells_weight(task: Int, tasks: Int, dweight: Matrix, x: Matrix, dy: Matrix, winners: LabelMatrix, band: Matrix, windows: Windows, TP: Int,
                 deep: Int) -> None:
    """dW of slices of the batch from the gradient dy of the cells' largest numbers. Shapes: dweight [slices, T R S C O], x [N, D H W C],
    dy, winners [N, cells O], band [tasks, ...]; the rest as in `cells_forward`.

    Task t covers its share of the slices, unit after unit. Writes dweight (=).
    """
    D, H, W, _, _, _, _, _, _, _, _, _, _, _, _, E, P, _, C, _, _ = windows
    size, slices = itemsize(x), dweight.shape[0]
    units = x.shape[0] * (E // (1 + deep)) * ((P // 2 + TP - 1) // TP)
    copy = address(band) + size * task * band.shape[1]
    for piece in range(slices * task // tasks, slices * (task + 1) // tasks):
        to = address(dweight) + size * piece * dweight.shape[1]
        fill_run(to, x.dtype.type(0), dweight.shape[1], x)
        for unit in range(units * piece // slices, units * (piece + 1) // slices):
            place = cell_place(unit, TP, deep, windows)
            copy_band(copy, address(x) + size * place[0] * D * H * W * C, place[1], place[2], TP, deep, windows, x)
            weight_cells(to, copy, dy, winners, place, TP, deep, windows)


@routine
def weight_cells(dweight, band, dy, winners, place, TP, deep, windows):
    """dW, at an address, += what the cells of a unit give, whose band is at an address."""
    _, _, _, T, R, S, stride_d, stride_h, stride_w, step_d, step_h, _, _, _, _, E, P, Q, C, O, _ = windows
    n, e, first, tp = place
    size, width, length = itemsize(dy), Q // 2, S * C
    _, rows, line = band_shape(TP, deep, windows)
    plane, down, step = stride_d * rows * line, stride_h * line, stride_w * C
    quick = stride_h == step_h and step + length <= lanes(dy)
    start = ((n * (E // (1 + deep)) + e) * (P // 2) + first) * width * O
    for o in range(0, O, lanes(dy)):
        g, who = address(dy) + size * (start + o), address(winners) + 4 * (start + o)
        for t in range(T):
            for r in range(0, R, GROUP):
                for k in range(0, length, GROUP):
                    a, to = band + size * ((t * step_d * rows + r * step_h) * line + k), dweight + size * (((t * R + r) * length + k) * O + o)
                    if deep and quick:
                        deep_sums(a, step_h * line, plane, down, step, 2 * down, 2 * step, g, who, width * O, O, tp, width, to, length * O, O, R - r,
                                  length - k, O - o, dy)
                    elif deep:
                        deep_selected(a, step_h * line, plane, down, step, 2 * down, 2 * step, g, who, width * O, O, tp, width, to, length * O, O,
                                      R - r, length - k, O - o, dy)
                    elif quick:
                        flat_sums(a, step_h * line, plane, down, step, 2 * down, 2 * step, g, who, width * O, O, tp, width, to, length * O, O, R - r,
                                  length - k, O - o, dy)
                    else:
                        flat_selected(a, step_h * line, plane, down, step, 2 * down, 2 * step, g, who, width * O, O, tp, width, to, length * O, O,
                                      R - r, length - k, O - o, dy)
