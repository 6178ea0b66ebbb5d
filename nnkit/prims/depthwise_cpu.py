"""Depthwise convolution: registers hold channels, so there is no sum over channels and no matrix product. x is read where it lies.

Letters: see convolution.py. With several filters for each channel, output f belongs to input channel f // m. The gradient by the input is the same
with places in reverse and a sum over the m filters.

A unit of work is a row of the output. Of a window only the box of its rows that lie inside the input is visited; numbers of its columns that lie
outside are masked. Where stride and dilation are equal along a row, a place's next number is its neighbour's, and a tile loads what three places of
the window need once: `triples`. Where an output's channel is another number than the input's, a tile reads a copy, [set][t][row][place][channel],
with a set for each of the m filters whose gradients are added.
"""

from __future__ import annotations

import itertools
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, Int, Matrix, Ordinals, Vector, Windows, kernel, routine
from nnkit.prims.convolution import CHAIN
from nnkit.prims.depthwise import ROWS
from nnkit.prims.direct import CHAIN_PLACES
from nnkit.prims.direct_cpu import unit_place
from nnkit.prims.rows_cpu import fill_run
from nnkit.prims.simd_cpu import STREAMED, Emitter, address, fence, itemsize, lanes, part

__all__ = ["depthwise_forward", "depthwise_weight"]

TAPS = 9                                                 # places of the window whose gradients are summed at once
PLACES = 4                                               # places that a tile of gradients takes in one turn


def places_tile(whole: bool) -> Any:
    """y[i, :n] of m <= ROWS places = the sum over steps (offset in a, in w, place in a row) of a[offset + i step] w[offset], + bias (address or 0).

    The first `triples` steps stand for three numbers each, `step` apart in a and rsw in w; then come `singles`. whole: n is a register, m is ROWS,
    and all places lie inside. Else a number counts as 0 unless its place, that of the step + from + i stride, is in [0, W).
    ahead: address of what is read next, fetched into the second-level cache. past: whether y is written past the caches.
    """
    @intrinsic
    def tile(typing_context: Any, steps: Any, triples: Any, singles: Any, a: Any, step: Any, w: Any, rsw: Any, y: Any, rsy: Any, bias: Any, m: Any,
             n: Any, start: Any, stride: Any, W: Any, relu: Any, ahead: Any, past: Any, like: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            steps, triples, singles, a, step, w, rsw, y, rsy, bias, m, n, start, stride, W, relu, ahead, past, _ = values
            e = Emitter(builder, signature.args[-1].dtype)
            mask = None if whole else e.first(n)
            cells = [cgutils.alloca_once_value(builder, e.zero) for _ in range(ROWS)]
            with builder.if_then(builder.icmp_signed("!=", bias, I64(0))):
                first = e.load(e.pointer(bias), mask)
                for cell in cells:
                    builder.store(first, cell)
            table = builder.inttoptr(steps, I64.as_pointer())

            def inside(place: Any) -> Any:
                there = builder.icmp_unsigned("<", place, W)
                return None if whole else e.first(builder.select(there, n, I64(0)))

            for before, count, together in ((I64(0), triples, 3), (triples, singles, 1)):
                with cgutils.for_range(builder, count) as loop:
                    entry = builder.gep(table, [builder.mul(builder.add(before, loop.index), I64(3))])
                    offset, at, place = (builder.load(builder.gep(entry, [I64(k)])) for k in range(3))
                    factors = [e.load(e.at(e.at(e.pointer(w), at), builder.mul(rsw, I64(s))), mask) for s in range(together)]
                    here, place = e.at(e.pointer(a), offset), builder.add(start, place)
                    for i in range(ROWS + together - 1):
                        number = e.load(e.at(here, builder.mul(step, I64(i))), inside(builder.add(place, builder.mul(stride, I64(i)))))
                        for cell, factor in ((i - s, factors[s]) for s in range(together) if 0 <= i - s < ROWS):
                            builder.store(e.fma(number, factor, builder.load(cells[cell])), cells[cell])
            for i in range(ROWS):
                e.prefetch(builder.add(ahead, builder.mul(step, I64(i * e.itemsize))))
            with builder.if_then(builder.icmp_signed("!=", relu, I64(0))):
                for cell in cells:
                    value = builder.load(cell)
                    builder.store(builder.select(builder.fcmp_ordered("<=", value, e.zero), e.zero, value), cell)
            _store_places(e, [builder.load(cell) for cell in cells], e.pointer(y), rsy, m, mask, past)
            return context.get_dummy_value()
        return types.void(*[types.int64] * 18, like), codegen
    return tile


def _store_places(e: Emitter, values: list[Any], y: Any, rsy: Any, m: Any, mask: Any, past: Any) -> None:
    """Write the first m places, or, without a mask, all of them."""
    places = [e.at(y, e.b.mul(rsy, I64(i))) for i in range(len(values))]
    if mask is None:
        with e.b.if_else(e.b.icmp_signed("!=", past, I64(0))) as (beyond, through):
            for branch, store in ((beyond, e.stream), (through, e.store)):
                with branch:
                    for value, place in zip(values, places, strict=True):
                        store(value, place)
    else:
        for i, (value, place) in enumerate(zip(values, places, strict=True)):
            with e.b.if_then(e.b.icmp_signed("<", I64(i), m), likely=True):
                e.store(value, place, mask)


whole_tile, torn_tile = places_tile(True), places_tile(False)


def taps_tile(together: int) -> Any:
    """dw[offset, :n] += the sum over `rows` rows r and m places i of a[offset + r row_a + i step] dy[r row_dy + i rsy], for count steps (offset in a,
    in dw, place in a row). A step stands for `together` numbers, `step` apart in a and rsw in dw; there are at most TAPS of these.

    A number counts as 0 unless its place, as in `places_tile`, is in [0, W); reach: from a window's first to its last place.
    ahead_...: how much further what is read next lies; it is fetched into the second-level cache.
    """
    @intrinsic
    def tile(typing_context: Any, steps: Any, count: Any, a: Any, row_a: Any, step: Any, dy: Any, row_dy: Any, rsy: Any, rows: Any, m: Any,
             dw: Any, rsw: Any, n: Any, start: Any, stride: Any, reach: Any, W: Any, ahead_a: Any, ahead_dy: Any, like: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            steps, count, a, row_a, step, dy, row_dy, rsy, rows, m, dw, rsw, n, start, stride, reach, W, ahead_a, ahead_dy, _ = values
            e = Emitter(builder, signature.args[-1].dtype)
            mask = e.first(n)
            entries = []
            for k in range(TAPS // together):            # beyond the last step the first one is summed again, and not written
                at = builder.select(builder.icmp_signed("<", I64(k), count), I64(3 * k), I64(0))
                entry = builder.gep(builder.inttoptr(steps, I64.as_pointer()), [at])
                entries.append([builder.load(builder.gep(entry, [I64(part)])) for part in range(3)])
            cells = [[cgutils.alloca_once(builder, e.vector) for _ in range(together)] for _ in entries]
            for cell in itertools.chain(*cells):
                builder.store(e.zero, cell)

            def add(row: Any, i: Any, number: int, whole: bool) -> None:
                first, line = (e.at(e.pointer(run), builder.add(builder.mul(row, far), builder.mul(i, near)))
                               for run, far, near in ((a, row_a, step), (dy, row_dy, rsy)))
                shift = builder.add(start, builder.mul(i, stride))
                factors = [e.load(e.at(line, builder.mul(rsy, I64(k))), None if whole else mask) for k in range(number)]
                for k in range(number):
                    e.prefetch(builder.ptrtoint(e.at(line, builder.add(ahead_dy, builder.mul(rsy, I64(k)))), I64))
                    e.prefetch(builder.ptrtoint(e.at(first, builder.add(ahead_a, builder.mul(step, I64(k)))), I64))
                for (offset, _, along), sums in zip(entries, cells, strict=True):
                    for k in range(number + together - 1):
                        place = builder.add(builder.add(shift, along), builder.mul(stride, I64(k)))
                        there = None if whole else e.first(builder.select(builder.icmp_unsigned("<", place, W), n, I64(0)))
                        value = e.load(e.at(first, builder.add(offset, builder.mul(step, I64(k)))), there)
                        for s in range(together):
                            if 0 <= k - s < number:
                                builder.store(e.fma(value, factors[k - s], builder.load(sums[s])), sums[s])

            blocks, full = builder.sdiv(m, I64(PLACES)), builder.icmp_signed(">=", n, I64(e.lanes))
            with cgutils.for_range(builder, rows) as row:
                with cgutils.for_range(builder, blocks) as loop:
                    i = builder.mul(loop.index, I64(PLACES))
                    first = builder.add(start, builder.mul(i, stride))
                    last = builder.add(first, builder.add(reach, builder.mul(stride, I64(PLACES - 1))))
                    inside = builder.and_(builder.icmp_signed(">=", first, I64(0)), builder.icmp_signed("<", last, W))
                    with builder.if_else(builder.and_(full, inside), likely=True) as (whole, torn):
                        with whole:
                            add(row.index, i, PLACES, True)
                        with torn:
                            add(row.index, i, PLACES, False)
                done = builder.mul(blocks, I64(PLACES))
                with cgutils.for_range(builder, builder.sub(m, done)) as loop:
                    add(row.index, builder.add(done, loop.index), 1, False)
            for k, ((_, offset, _), sums) in enumerate(zip(entries, cells, strict=True)):
                with builder.if_then(builder.icmp_signed("<", I64(k), count), likely=True):
                    for s, cell in enumerate(sums):
                        place = e.at(e.at(e.pointer(dw), offset), builder.mul(rsw, I64(s)))
                        e.store(builder.fadd(builder.load(cell), e.load(place, mask)), place, mask)
            return context.get_dummy_value()
        return types.void(*[types.int64] * 19, like), codegen
    return tile


triples_tile, singles_tile = taps_tile(3), taps_tile(1)


@routine
def seen(start, step, places, size):
    """The places k in [first, last) of a window, `step` apart from `start` on, that lie in [0, size)."""
    first = min(places, max(0, (step - 1 - start) // step))
    return first, max(first, min(places, (size - start + step - 1) // step))


@routine
def list_steps(table, box, sets, triples, turned, distances, windows):
    """The steps of a tile for a box (t, end of t, r, end, s, end) of the window: first those of three places, `triples` for each row, then of one.

    distances: from set to set, depth to depth, row to row and place to place of what is read. Returns how many there are of both.
    """
    R, S, step_w, O, taps = windows[4], windows[5], windows[11], windows[19], windows[3] * windows[4] * windows[5]
    t0, t1, r0, r1, s0, s1 = box
    middle = s0 + 3 * triples
    k = 0
    for first, last, along in ((s0, middle, 3), (middle, s1, 1)):
        for j in range(sets):
            for t in range(t0, t1):
                for r in range(r0, r1):
                    for s in range(first, last, along):
                        tap = (t * R + r) * S + s
                        table[k] = j * distances[0] + t * distances[1] + r * distances[2] + s * distances[3]
                        table[k + 1] = (j * taps + (taps - 1 - tap if turned else tap)) * O
                        table[k + 2] = s * step_w
                        k += 3
    rows = sets * (t1 - t0) * (r1 - r0)
    return rows * triples, rows * (s1 - middle)


@routine
def copy_window(copied, x, n, corner, places, c, channels, windows):
    """Copy what the windows of a tile see for the outputs [c, c + channels), from the place `corner` (d, h, w) on; 0 where there is no place."""
    D, H, W, T, R, _, _, _, _, step_d, step_h, _, _, _, _, _, _, _, C, O, _ = windows
    up, down, depth, wide = max(1, O // C), max(1, C // O), min(CHAIN, O), tile_places(windows)
    line = 0
    for j in range(down):
        for t in range(T):
            for r in range(R):
                d, h = corner[0] + t * step_d, corner[1] + r * step_h
                there = 0 <= d < D and 0 <= h < H
                for place in range(places):
                    w = corner[2] + place
                    source, to, repeat = ((d * H + h) * W + w) * C + c // up * down + j, line + place * depth, c % up
                    if not there or w < 0 or w >= W:
                        fill_run(address(copied) + itemsize(x) * to, x.dtype.type(0), channels, x)
                        continue
                    for f in range(channels):
                        copied[to + f] = x[n, source]
                        repeat += 1
                        if repeat == up:
                            source, repeat = source + down, 0
                line += wide * depth


@routine
def tile_places(windows):
    """Places of a row that the windows of ROWS outputs cover."""
    return (ROWS - 1) * windows[8] + (windows[5] - 1) * windows[11] + 1


@routine
def tile_distances(straight, windows):
    """From set to set, depth to depth, row to row and place to place of what a tile reads: of x, or of a copy."""
    H, W, T, R, step_d, step_h, step_w, C = windows[1], windows[2], windows[3], windows[4], windows[9], windows[10], windows[11], windows[18]
    if straight:
        return 0, step_d * H * W * C, step_h * W * C, step_w * C
    depth = min(CHAIN, windows[19])
    line = tile_places(windows) * depth
    return T * R * line, R * line, line, step_w * depth


@kernel
def depthwise_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, weight: Matrix, bias: Vector, copied: Matrix, table: Ordinals, windows: Windows,
                      turned: Int, relu: Int) -> None:
    """y = x * W + b, then max(y, 0) if relu. Shapes: y [N, E P Q O], x [N, D H W C], weight [T R S, O], or, turned, [m T R S, O], its places
    in reverse; bias [O] or empty; copied [tasks, ...], table [tasks x ...].

    Task t covers its share of the rows of the output. Writes y (=).
    """
    rows, each = y.shape[0] * windows[15] * windows[16], table.size // tasks
    places = part(copied, copied.shape[1] * task, copied.shape[1] * (task + 1))
    depthwise_rows(rows * task // tasks, rows * (task + 1) // tasks, y, x, weight, bias, places, part(table, each * task, each * (task + 1)), windows,
                   turned, relu)
    fence()


@routine
def depthwise_rows(start, stop, y, x, weight, bias, copied, table, windows, turned, relu):
    """The rows [start, stop) of the output."""
    D, H, W, T, R, S, stride_d, stride_h, stride_w, step_d, step_h, step_w, before_d, before_h, before_w, E, P, Q, C, O, _ = windows
    size, lane, straight = itemsize(y), lanes(y), O == C
    wide, sets, distances = tile_places(windows), max(1, C // O), tile_distances(straight, windows)
    triples, step = S // 3 if stride_w == step_w else 0, stride_w * (C if straight else min(CHAIN, O))
    past = int(y.size * size >= STREAMED and address(y) % 64 == 0 and O * size % 64 == 0)
    listed, three, one = (0, 0, 0, 0), 0, 0
    for row in range(start, stop):
        n, d, h = row // (E * P), row // P % E * stride_d - before_d, row % P * stride_h - before_h
        (t0, t1), (r0, r1) = (seen(d, step_d, T, D), seen(h, step_h, R, H)) if straight else ((0, T), (0, R))
        if (t0, t1, r0, r1) != listed:
            listed = t0, t1, r0, r1
            three, one = list_steps(table, (t0, t1, r0, r1, 0, S), sets, triples, turned, distances, windows)
        for q in range(0, Q, ROWS):
            w, m = q * stride_w - before_w, min(ROWS, Q - q)
            whole = m == ROWS and (not straight or (w >= 0 and w + wide <= W))
            for c in range(0, O, CHAIN):
                channels = min(CHAIN, O - c)
                a, first, places = address(x) + size * ((((n * D + d) * H + h) * W + w) * C + c), w, W
                ahead = a + size * (stride_h + (R - 1) * step_h) * W * C
                if not straight:
                    copy_window(copied, x, n, (d, h, w), (m - 1) * stride_w + (S - 1) * step_w + 1, c, channels, windows)
                    a, first, places = address(copied), 0, wide
                for f in range(c, c + channels, lane):
                    factors, to = address(weight) + size * f, address(y) + size * ((row * Q + q) * O + f)
                    shift, rsw = address(bias) + size * f if bias.size else 0, -O if turned else O
                    if whole and f + lane <= O:
                        whole_tile(address(table), three, one, a, step, factors, rsw, to, O, shift, m, lane, first, stride_w, places, relu, ahead,
                                   past, y)
                    else:
                        torn_tile(address(table), three, one, a, step, factors, rsw, to, O, shift, m, O - f, first, stride_w, places, relu, ahead,
                                  past, y)
                    a, ahead = a + size * lane, ahead + size * lane


@kernel
def depthwise_weight(task: Int, tasks: Int, dweight: Matrix, x: Matrix, dy: Matrix, copied: Matrix, table: Ordinals, windows: Windows,
                     TP: Int) -> None:
    """dW of slices of the batch. Shapes: dweight [slices, T R S O], x [N, D H W C], dy [N, E P Q O], copied [tasks, ...], table [tasks x ...].

    Task t covers its share of the slices, unit after unit of TP output rows. Writes dweight (=).
    """
    slices, each = dweight.shape[0], table.size // tasks
    units = x.shape[0] * windows[15] * ((windows[16] + TP - 1) // TP)
    places, steps = part(copied, copied.shape[1] * task, copied.shape[1] * (task + 1)), part(table, each * task, each * (task + 1))
    for piece in range(slices * task // tasks, slices * (task + 1) // tasks):
        to = address(dweight) + itemsize(x) * piece * dweight.shape[1]
        fill_run(to, x.dtype.type(0), dweight.shape[1], x)
        for unit in range(units * piece // slices, units * (piece + 1) // slices):
            weight_unit(to, x, dy, places, steps, unit_place(unit, TP, windows), TP, windows)


@routine
def weight_unit(dweight, x, dy, copied, table, place, TP, windows):
    """dW, at an address, += what a unit gives: together those of its rows that see the same rows of their windows."""
    D, H, W, T, R, S, stride_d, stride_h, stride_w, step_d, step_h, step_w, before_d, before_h, before_w, E, P, Q, C, O, _ = windows
    size, lane, straight, reach = itemsize(x), lanes(x), O == C, (S - 1) * step_w
    distances, step, down = tile_distances(straight, windows), stride_w * (C if straight else min(CHAIN, O)), stride_h * W * C
    n, e, p, tp = place
    triples, most = S // 3 if stride_w == step_w else 0, (CHAIN_PLACES if tp == 1 else Q) if straight else ROWS
    stop, d = p + tp, e * stride_d - before_d
    while p < stop:
        h, rows, box = p * stride_h - before_h, 1, (0, T, 0, R, 0, S)
        if straight:
            rows = min(alike(p, R, H, P, stride_h, step_h, before_h), stop) - p
            (t0, t1), (r0, r1) = seen(d, step_d, T, D), seen(h, step_h, R, H)
            box = t0, t1, r0, r1, 0, S
        three, one = list_steps(table, box, 1, triples, 0, distances, windows)
        for q in range(0, Q, most):
            m, w = min(most, Q - q), q * stride_w - before_w
            for c in range(0, O, CHAIN):
                channels = min(CHAIN, O - c)
                a, first, places = address(x) + size * ((((n * D + d) * H + h) * W + w) * C + c), w, W
                if not straight:
                    copy_window(copied, x, n, (d, h, w), (m - 1) * stride_w + reach + 1, c, channels, windows)
                    a, first, places = address(copied), 0, tile_places(windows)
                for f in range(c, c + channels, lane):
                    line, to = address(dy) + size * ((((n * E + e) * P + p) * Q + q) * O + f), dweight + size * f
                    for k in range(0, three, TAPS // 3):
                        triples_tile(address(table) + 24 * k, min(TAPS // 3, three - k), a, down, step, line, Q * O, O, rows, m, to, O, O - f,
                                     first, stride_w, reach, places, TP * down, TP * Q * O, x)
                    for k in range(three, three + one, TAPS):
                        singles_tile(address(table) + 24 * k, min(TAPS, three + one - k), a, down, step, line, Q * O, O, rows, m, to, O, O - f,
                                     first, stride_w, reach, places, TP * down, TP * Q * O, x)
                    a += size * lane
        p += rows


@routine
def alike(o, places, size, windows, stride, step, before):
    """The end of the run of windows from o on that see the input with the same of their places: of those with all, or of one alone."""
    first = (before + stride - 1) // stride
    last = min(windows, (size + before - (places - 1) * step - 1) // stride + 1)
    return last if first <= o < last else o + 1
