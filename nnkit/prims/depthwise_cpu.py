"""Depthwise convolution on packed places (see direct_cpu.py): registers hold channels, so there is no sum over channels and no matrix product.

Letters: see convolution.py. With several filters for each channel, output f belongs to input channel f // m. The gradient by the input is the same
with places in reverse and a sum over the m filters.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, Int, Matrix, Ordinals, Vector, Windows, kernel, routine
from nnkit.prims.convolution import BLOCK, CHAIN
from nnkit.prims.direct_cpu import pack_places, packed_rows, unit_place
from nnkit.prims.simd_cpu import Emitter, address, itemsize, lanes
from nnkit.prims.tile_cpu import put_step

__all__ = ["depthwise_forward", "depthwise_weight"]

ROWS = 8                                                 # places of a tile
TAPS = 9                                                 # places of the window whose gradients are summed at once


@intrinsic
def places_tile(typing_context: Any, steps: Any, count: Any, a: Any, w: Any, y: Any, rsy: Any, bias: Any, m: Any, n: Any, relu: Any,
                like: Any) -> Any:
    """y[i, :n] of m <= ROWS places = the sum over steps (offset in a, offset in w) of a[offset + i BLOCK] w[offset], + bias (an address or 0)."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        steps, count, a, w, y, rsy, bias, m, n, relu, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        mask = e.first(n)
        cells = [cgutils.alloca_once_value(builder, e.zero) for _ in range(ROWS)]
        with builder.if_then(builder.icmp_signed("!=", bias, I64(0))):
            start = e.load(e.pointer(bias), mask)
            for cell in cells:
                builder.store(start, cell)
        table = builder.inttoptr(steps, I64.as_pointer())
        with cgutils.for_range(builder, count) as loop:
            pair = builder.gep(table, [builder.mul(loop.index, I64(2))])
            factor = e.load(e.at(e.pointer(w), builder.load(builder.gep(pair, [I64(1)]))), mask)
            first = e.at(e.pointer(a), builder.load(pair))
            for i, cell in enumerate(cells):
                builder.store(e.fma(e.load(e.at(first, i * BLOCK)), factor, builder.load(cell)), cell)
        floor = builder.select(builder.icmp_signed("!=", relu, I64(0)), e.zero, e.splat_constant(float("-inf")))
        for i, cell in enumerate(cells):
            value = builder.load(cell)
            value = builder.select(builder.fcmp_ordered("<=", value, floor), floor, value)
            with builder.if_then(builder.icmp_signed("<", I64(i), m), likely=True):
                place = e.at(e.pointer(y), builder.mul(rsy, I64(i)))
                with builder.if_else(builder.icmp_signed(">=", n, I64(e.lanes)), likely=True) as (whole, torn):
                    with whole:
                        e.store(value, place)
                    with torn:
                        e.store(value, place, mask)
        return context.get_dummy_value()
    return types.void(*[types.int64] * 10, like), codegen


@intrinsic
def taps_tile(typing_context: Any, steps: Any, count: Any, a: Any, row_a: Any, dy: Any, rsy: Any, row_dy: Any, rows: Any, m: Any, dw: Any, rsw: Any,
              n: Any, more: Any, like: Any) -> Any:
    """dw[k, :n] (+)= the sum over `rows` rows r and m places i of a[offset k + r row_a + i BLOCK] dy[r row_dy + i rsy], for count <= TAPS steps k."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        steps, count, a, row_a, dy, rsy, row_dy, rows, m, dw, rsw, n, more, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        mask = e.first(n)
        table = builder.inttoptr(steps, I64.as_pointer())
        cells = [cgutils.alloca_once_value(builder, e.zero) for _ in range(TAPS)]
        places = []
        for k in range(TAPS):                            # beyond the last step the first one is summed again, and not written
            there = builder.icmp_signed("<", I64(k), count)
            places.append(builder.load(builder.gep(table, [builder.select(there, I64(2 * k), I64(0))])))
        with cgutils.for_range(builder, rows) as outer:
            first = e.at(e.pointer(a), builder.mul(outer.index, row_a))
            line = e.at(e.pointer(dy), builder.mul(outer.index, row_dy))
            with cgutils.for_range(builder, m) as inner:
                factor = e.load(e.at(line, builder.mul(inner.index, rsy)), mask)
                here = e.at(first, builder.mul(inner.index, I64(BLOCK)))
                for place, cell in zip(places, cells, strict=True):
                    builder.store(e.fma(e.load(e.at(here, place)), factor, builder.load(cell)), cell)
        for k, cell in enumerate(cells):
            with builder.if_then(builder.icmp_signed("<", I64(k), count)):
                to = e.at(e.pointer(dw), builder.mul(rsw, I64(k)))
                with builder.if_then(builder.icmp_signed("!=", more, I64(0))):
                    builder.store(builder.fadd(builder.load(cell), e.load(to, mask)), cell)
                e.store(builder.load(cell), to, mask)
        return context.get_dummy_value()
    return types.void(*[types.int64] * 13, like), codegen


@routine
def pack_mapped(packed, task, at, x, n, e, first, tp, c0, channels, up, down, j, windows):
    """As `pack_places`, from element `at` of a task's part on, for the channels f // up * down + j of the f from c0 on."""
    D, H, W, T, _, _, stride_d, stride_h, stride_w, step_d, _, _, before_d, before_h, before_w, _, _, _, C, _, _ = windows
    rows, places, each = packed_rows(tp, windows)
    for f in range(channels):
        source = (c0 + f) // up * down + j
        for row in range(T * rows):
            d, h = e * stride_d + row // rows * step_d - before_d, first * stride_h + row % rows - before_h
            inside = 0 <= d < D and 0 <= h < H
            line = at + ((f // BLOCK * T * rows + row) * places) * BLOCK + f % BLOCK
            for place in range(places):
                w = place - before_w
                to = line + BLOCK * (place % stride_w * each + place // stride_w)
                packed[task, to] = x[n, ((d * H + h) * W + w) * C + source] if inside and 0 <= w < W else 0


@routine
def pack_channels(packed, task, x, n, e, first, tp, c0, channels, up, down, windows):
    """The packed places of a unit for the outputs [c0, c0 + channels); those of each of `down` filters follow one another. Returns one's size."""
    size = itemsize(x)
    rows, places, _ = packed_rows(tp, windows)
    area = (channels + BLOCK - 1) // BLOCK * BLOCK * windows[3] * rows * places
    if up == 1 and down == 1:
        D, H, W, C = windows[0], windows[1], windows[2], windows[18]
        image = address(x) + size * (n * D * H * W * C + c0)
        pack_places(address(packed) + size * task * packed.shape[1], image, e, first, tp, channels, windows, x)
    else:
        for j in range(down):
            pack_mapped(packed, task, j * area, x, n, e, first, tp, c0, channels, up, down, j, windows)
    return area


@routine
def window_offset(tap, tp, windows):
    """Where place `tap` of the window lies in a packed block, in elements."""
    R, S, stride_w = windows[4], windows[5], windows[8]
    rows, places, each = packed_rows(tp, windows)
    down, along = tap // S % R * windows[10], tap % S * windows[11]
    return ((tap // (R * S) * rows + down) * places + along % stride_w * each + along // stride_w) * BLOCK


@kernel
def depthwise_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, weight: Matrix, bias: Vector, packed: Matrix, table: Ordinals, windows: Windows,
                      TP: Int, turned: Int, relu: Int) -> None:
    """y = x * W + b, then max(y, 0) if relu. Shapes: y [N, E P Q O], x [N, D H W C], weight [T R S, O], or, turned, [m T R S, O], its places
    in reverse; bias [O] or empty; packed [tasks, ...], table [tasks x ...].

    Task t covers its share of the units of TP output rows. Writes y (=).
    """
    _, _, _, T, R, S, _, stride_h, _, _, _, _, _, _, _, E, P, Q, C, O, _ = windows
    size, lane, taps = itemsize(y), lanes(y), T * R * S
    up, down = max(1, O // C), max(1, C // O)
    a, steps = address(packed) + size * task * packed.shape[1], address(table) + 8 * task * (table.size // tasks)
    units = y.shape[0] * E * ((P + TP - 1) // TP)
    for unit in range(units * task // tasks, units * (task + 1) // tasks):
        n, e, first, tp = unit_place(unit, TP, windows)
        rows, places, _ = packed_rows(tp, windows)
        for c in range(0, O, CHAIN):
            channels = min(CHAIN, O - c)
            area = pack_channels(packed, task, x, n, e, first, tp, c, channels, up, down, windows)
            for k in range(down * taps):
                place = k % taps
                put_step(steps, k, k // taps * area + window_offset(place, tp, windows),
                         (k // taps * taps + (taps - 1 - place if turned else place)) * O)
            for p in range(tp):
                for q in range(0, Q, ROWS):
                    at, m = a + size * (p * stride_h * places + q) * BLOCK, min(ROWS, Q - q)
                    to = address(y) + size * ((((n * E + e) * P + first + p) * Q + q) * O + c)
                    for f in range(0, channels, lane):
                        block, shift = f // BLOCK * BLOCK * T * rows * places + f % BLOCK, address(bias) + size * (c + f) if bias.size else 0
                        places_tile(steps, down * taps, at + size * block, address(weight) + size * (c + f), to + size * f, O, shift, m,
                                    min(lane, channels - f), relu, y)


@kernel
def depthwise_weight(task: Int, tasks: Int, dweight: Matrix, x: Matrix, dy: Matrix, packed: Matrix, table: Ordinals, windows: Windows,
                     TP: Int) -> None:
    """dW of slices of the batch. Shapes: dweight [slices, T R S O], x [N, D H W C], dy [N, E P Q O], packed [tasks, ...], table [tasks x ...].

    Task t covers its share of the slices. Writes dweight (=).
    """
    _, _, _, T, R, S, _, stride_h, _, _, _, _, _, _, _, E, P, Q, C, O, _ = windows
    size, lane, taps = itemsize(x), lanes(x), T * R * S
    slices, units = dweight.shape[0], x.shape[0] * E * ((P + TP - 1) // TP)
    a, steps = address(packed) + size * task * packed.shape[1], address(table) + 8 * task * (table.size // tasks)
    for part in range(slices * task // tasks, slices * (task + 1) // tasks):
        start = units * part // slices
        for unit in range(start, units * (part + 1) // slices):
            n, e, first, tp = unit_place(unit, TP, windows)
            rows, places, _ = packed_rows(tp, windows)
            for k in range(taps):
                put_step(steps, k, window_offset(k, tp, windows), 0)
            for c in range(0, O, CHAIN):
                channels = min(CHAIN, O - c)
                pack_channels(packed, task, x, n, e, first, tp, c, channels, O // C, 1, windows)
                for f in range(0, channels, lane):
                    block = a + size * (f // BLOCK * BLOCK * T * rows * places + f % BLOCK)
                    line = address(dy) + size * (((n * E + e) * P + first) * Q * O + c + f)
                    for k in range(0, taps, TAPS):
                        to = address(dweight) + size * (part * dweight.shape[1] + k * O + c + f)
                        taps_tile(steps + 16 * k, min(TAPS, taps - k), block, stride_h * places * BLOCK, line, O, Q * O, tp, Q, to, O,
                                  min(lane, channels - f), int(unit > start), x)
