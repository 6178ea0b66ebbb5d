"""Winograd's convolution: transforms by 16 channels at a time, between them a matrix product for each of the n x n = (m + 2)^2 places of a tile.

Letters: see convolution.py; K = n n planes, T tiles of a block. Layouts, planes SKEW numbers further apart than they are long:
    V [K][block of 16 channels][T][16] = B^T x B            U [K][panel of two registers of filters][c][o] = G W G^T
    M [K][T][O] = V U, then y = A^T M A                     E [K][panel][T][o] = A dy A^T, dU [K][c][O] = V^T E, dW = G^T dU G
Depths of three dimensions are images of their own. Matrices: winograd.py.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, Int, Kernel, Matrix, Ordinals, Vector, Windows, kernel, routine
from nnkit.prims.convolution import BLOCK, CHAIN
from nnkit.prims.direct_cpu import copy_run
from nnkit.prims.rows_cpu import fill_run
from nnkit.prims.simd_cpu import Emitter, address, itemsize, lanes
from nnkit.prims.tile_cpu import channel_rows, pixel_rows, put_step
from nnkit.prims.winograd import FILTER_GROUP, SKEW, matrices

__all__ = [
    "winograd2_filters", "winograd2_forward", "winograd2_weight", "winograd4_filters", "winograd4_forward", "winograd4_weight",
]


def linear(e: Emitter, row: tuple[Fraction, ...], xs: list[Any]) -> Any:
    """The sum of row[k] xs[k] over all k: products by 1 and -1 are sums, the others fma."""
    terms = sorted((abs(factor) != 1, factor < 0, k) for k, factor in enumerate(row) if factor)
    total = None
    for scaled, _, k in terms:
        if total is None:
            total = e.b.fmul(e.splat_constant(float(row[k])), xs[k]) if row[k] != 1 else xs[k]
        elif scaled:
            total = e.fma(e.splat_constant(float(row[k])), xs[k], total)
        else:
            total = e.b.fadd(total, xs[k]) if row[k] > 0 else e.b.fsub(total, xs[k])
    return e.zero if total is None else total


def linear_map(e: Emitter, matrix: Any, xs: list[Any]) -> list[Any]:
    """matrix @ xs. Of two rows that agree but for signs, as those of points p and -p do, the common part and the other are formed once."""
    found: list[Any] = [None] * len(matrix)
    for i, row in enumerate(matrix):
        if found[i] is not None:
            continue
        partner = next((j for j in range(i + 1, len(matrix)) if found[j] is None and row != matrix[j]
                        and all(abs(a) == abs(b) for a, b in zip(row, matrix[j], strict=True))), None)
        if partner is None:
            found[i] = linear(e, row, xs)
            continue
        same = linear(e, tuple(a if a == b else Fraction(0) for a, b in zip(row, matrix[partner], strict=True)), xs)
        other = linear(e, tuple(a if a != b else Fraction(0) for a, b in zip(row, matrix[partner], strict=True)), xs)
        found[i], found[partner] = e.b.fadd(same, other), e.b.fsub(same, other)
    return found


def both_sides(e: Emitter, matrix: Any, load: Any) -> list[list[Any]]:
    """matrix x matrix^T of a grid of registers, load(i, j) = x[i, j]."""
    size = len(matrix[0])
    columns = [linear_map(e, matrix, [load(i, j) for i in range(size)]) for j in range(size)]
    return [linear_map(e, matrix, [column[i] for column in columns]) for i in range(len(matrix))]


def transform(matrix: Any) -> Any:
    """y = matrix x matrix^T for grids of registers: x[i, j] at x + i xr + j xs, y[i, j] at y + i yr + j ys (by address, strides in elements).

    given, taken: how many lanes of x there are, how many of y are written.
    """
    @intrinsic
    def apply(typing_context: Any, y: Any, yr: Any, ys: Any, taken: Any, x: Any, xr: Any, xs: Any, given: Any, like: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            y, yr, ys, taken, x, xr, xs, given, _ = values
            e = Emitter(builder, signature.args[-1].dtype)

            def place(base: Any, down: Any, along: Any, i: int, j: int) -> Any:
                return e.at(e.pointer(base), builder.add(builder.mul(down, I64(i)), builder.mul(along, I64(j))))

            def body(loads: Any, stores: Any) -> None:
                grid = both_sides(e, matrix, lambda i, j: e.load(place(x, xr, xs, i, j), loads))
                for i, row in enumerate(grid):
                    for j, value in enumerate(row):
                        e.store(value, place(y, yr, ys, i, j), stores)
            full = builder.and_(builder.icmp_signed(">=", given, I64(e.lanes)), builder.icmp_signed(">=", taken, I64(e.lanes)))
            with builder.if_else(full, likely=True) as (whole, torn):
                with whole:
                    body(None, None)
                with torn:
                    body(e.first(given), e.first(taken))
            return context.get_dummy_value()
        return types.void(*[types.int64] * 8, like), codegen
    return apply


def finish(matrix: Any) -> Any:
    """As `transform`, then + bias (an address, or 0), max(y, 0) if relu; only the first `rows` rows and `columns` columns of y exist."""
    m = len(matrix)

    @intrinsic
    def apply(typing_context: Any, y: Any, yr: Any, ys: Any, rows: Any, columns: Any, x: Any, xr: Any, xs: Any, count: Any, bias: Any, relu: Any,
              like: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            y, yr, ys, rows, columns, x, xr, xs, count, bias, relu, _ = values
            e = Emitter(builder, signature.args[-1].dtype)
            mask = e.first(count)
            shift, floor = cgutils.alloca_once_value(builder, e.zero), e.splat_constant(float("-inf"))
            with builder.if_then(builder.icmp_signed("!=", bias, I64(0))):
                builder.store(e.load(e.pointer(bias), mask), shift)
            floor = builder.select(builder.icmp_signed("!=", relu, I64(0)), e.zero, floor)

            def load(i: int, j: int) -> Any:
                return e.load(e.at(e.pointer(x), builder.add(builder.mul(xr, I64(i)), builder.mul(xs, I64(j)))), mask)
            grid = both_sides(e, matrix, load)
            shifts = builder.load(shift)
            for row in grid:
                for j, value in enumerate(row):
                    value = builder.fadd(value, shifts)
                    row[j] = builder.select(builder.fcmp_ordered("<=", value, floor), floor, value)

            def place(i: int, j: int) -> Any:
                return e.at(e.pointer(y), builder.add(builder.mul(yr, I64(i)), builder.mul(ys, I64(j))))
            enough = [builder.icmp_signed(">=", rows, I64(m)), builder.icmp_signed(">=", columns, I64(m)),
                      builder.icmp_signed(">=", count, I64(e.lanes))]
            with builder.if_else(builder.and_(builder.and_(*enough[:2]), enough[2]), likely=True) as (whole, torn):
                with whole:
                    for i, row in enumerate(grid):
                        for j, value in enumerate(row):
                            e.store(value, place(i, j))
                with torn:
                    for i, row in enumerate(grid):
                        for j, value in enumerate(row):
                            there = builder.and_(builder.icmp_signed("<", I64(i), rows), builder.icmp_signed("<", I64(j), columns))
                            with builder.if_then(there):
                                e.store(value, place(i, j), mask)
            return context.get_dummy_value()
        return types.void(*[types.int64] * 11, like), codegen
    return apply


@routine
def tile_place(t, m, windows):
    """(image, first row, first column) of tile t among the output's."""
    P, Q = windows[16], windows[17]
    down, along = (P + m - 1) // m, (Q + m - 1) // m
    return t // (down * along), t // along % down * m, t % along * m


@routine
def gather_tile(to, x, h, w, size, height, width, channels, count, like):
    """The `size` x `size` places of an image [height, width, channels] from (h, w) on, `count` channels, zeros outside; BLOCK numbers for each place."""
    item = itemsize(like)
    for i in range(size):
        for j in range(size):
            at = to + item * BLOCK * (i * size + j)
            if 0 <= h + i < height and 0 <= w + j < width:
                copy_run(at, x + item * ((h + i) * width + w + j) * channels, count, like)
            else:
                fill_run(at, like.dtype.type(0), BLOCK, like)


def winograd(m: int) -> tuple[Kernel, Kernel, Kernel]:
    """The kernels of F(m x m, 3 x 3): filters, forward, weight."""
    n, K = m + 2, (m + 2) ** 2
    AT, G, BT = matrices(m)
    transform_filter, transform_input, transform_output = transform(G), transform(BT), finish(AT)
    transform_dy, transform_back = transform(tuple(zip(*AT, strict=True))), transform(tuple(zip(*G, strict=True)))

    @kernel
    def filters(task: Int, tasks: Int, transformed: Matrix, weight: Matrix, C: Int, O: Int, turned: Int) -> None:
        """U. Shapes: transformed [K, C O + SKEW], weight [9, C O], its places in reverse if `turned`. Task t: its share of the blocks of channels.

        Writes transformed (=), but for the gaps between planes.
        """
        size, lane, step = itemsize(weight), lanes(weight), transformed.shape[1]
        blocks = (C + BLOCK - 1) // BLOCK
        start, sign = (address(weight) + size * 8 * C * O, -1) if turned else (address(weight), 1)
        if task == 0:
            for k in range(K):
                fill_run(address(transformed) + size * (k * step + C * O), weight.dtype.type(0), step - C * O, weight)
        for c in range(blocks * task // tasks * BLOCK, min(C, blocks * (task + 1) // tasks * BLOCK)):
            for o in range(0, O, lane):
                panel = o // (2 * lane) * 2 * lane
                to = address(transformed) + size * (panel * C + c * min(2 * lane, O - panel) + o - panel)
                count = min(lane, O - o)
                transform_filter(to, n * step, step, count, start + size * (c * O + o), sign * 3 * C * O, sign * C * O, count, weight)

    @routine
    def input_tiles(V, step, scratch, x, first, stop, T, total, c0, channels, windows, like):
        """V of the tiles from `first` to `stop`, for `channels` channels from c0 on; tiles behind the last of all are 0."""
        size, lane = itemsize(like), lanes(like)
        H, W, before_h, before_w, C = windows[1], windows[2], windows[13], windows[14], windows[18]
        for t in range(first, stop):
            image, h, w = tile_place(t, m, windows)
            h, w = h - before_h, w - before_w
            source = x + size * (image * H * W * C + c0)
            inside = t < total and h >= 0 and w >= 0 and h + n <= H and w + n <= W
            for c in range(0, channels, lane):
                to = V + size * (c // BLOCK * T * BLOCK + (t - first) * BLOCK + c % BLOCK)
                count = min(lane, channels - c)
                if inside:
                    transform_input(to, n * step, step, lane, source + size * ((h * W + w) * C + c), W * C, C, count, like)
                else:
                    gather_tile(scratch, source + size * c, h, w, n, H if t < total else 0, W, C, count, like)
                    transform_input(to, n * step, step, lane, scratch, n * BLOCK, BLOCK, count, like)

    @kernel
    def forward(task: Int, tasks: Int, y: Matrix, x: Matrix, transformed: Matrix, bias: Vector, packed: Matrix, table: Ordinals, windows: Windows,
                T: Int, relu: Int) -> None:
        """y = x * W + b, then max(y, 0) if relu. Shapes: y [N, E P Q O], x [N, D H W C], transformed: U, bias [O] or empty, packed [tasks, ...].

        Task t covers its share of the blocks of T tiles. Writes y (=).
        """
        _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, E, P, Q, C, O, _ = windows
        size, lane = itemsize(y), lanes(y)
        blocks = (C + BLOCK - 1) // BLOCK
        total = y.shape[0] * E * ((P + m - 1) // m) * ((Q + m - 1) // m)
        units = (total + T - 1) // T
        step_u, step_v, step_m = transformed.shape[1], blocks * T * BLOCK + SKEW, T * O + SKEW
        V, steps = address(packed) + size * task * packed.shape[1], address(table) + 8 * task * (table.size // tasks)
        M = V + size * K * step_v
        scratch = M + size * K * step_m
        for k in range(blocks):
            put_step(steps, k, k * T * BLOCK, min(BLOCK, C - k * BLOCK))
        for unit in range(units * task // tasks, units * (task + 1) // tasks):
            first = unit * T
            rows = min(T, total - first)
            input_tiles(V, step_v, scratch, address(x), first, first + rows, T, total, 0, C, windows, y)
            for k in range(K):
                for o in range(0, O, 2 * lane):
                    width = min(2 * lane, O - o)
                    b = address(transformed) + size * (k * step_u + o * C)
                    pixel_rows(rows, width, steps, blocks, V + size * k * step_v, b, width, M + size * (k * step_m + o), O, 0, 0, 0,
                               b + size * width * C, y)
            for t in range(first, first + rows):
                image, p, q = tile_place(t, m, windows)
                for o in range(0, O, lane):
                    shift = address(bias) + size * o if bias.size else 0
                    transform_output(address(y) + size * (((image * P + p) * Q + q) * O + o), Q * O, O, P - p, Q - q,
                                     M + size * ((t - first) * O + o), n * step_m, step_m, min(lane, O - o), shift, relu, y)

    @routine
    def dy_tiles(E, step, scratch, dy, first, T, total, o0, count, windows, like):
        """E of the tiles from `first` on, for `count` filters from o0 on; tiles behind the last are 0."""
        size, lane = itemsize(like), lanes(like)
        P, Q, O = windows[16], windows[17], windows[19]
        for t in range(first, first + T):
            image, p, q = tile_place(t, m, windows)
            source = dy + size * (image * P * Q * O + o0)
            inside = t < total and p + m <= P and q + m <= Q
            for o in range(0, count, lane):
                panel = o // (2 * lane) * 2 * lane
                width, left = min(2 * lane, count - panel), min(lane, count - o)
                to = E + size * (panel * T + (t - first) * width + o - panel)
                if inside:
                    transform_dy(to, n * step, step, left, source + size * ((p * Q + q) * O + o), Q * O, O, left, like)
                else:
                    gather_tile(scratch, source + size * o, p, q, m, P if t < total else 0, Q, O, left, like)
                    transform_dy(to, n * step, step, left, scratch, m * BLOCK, BLOCK, left, like)

    @kernel
    def weight(task: Int, tasks: Int, dweight: Matrix, x: Matrix, dy: Matrix, packed: Matrix, table: Ordinals, windows: Windows, T: Int) -> None:
        """dW of slices of the tiles. Shapes: dweight [slices, 9 C O], x [N, D H W C], dy [N, E P Q O], packed [tasks, ...].

        Task t covers its share of the jobs (slice, CHAIN channels, FILTER_GROUP filters). Writes dweight (=).
        """
        _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, E, P, Q, C, O, _ = windows
        size = itemsize(x)
        chains, groups, slices = (C + CHAIN - 1) // CHAIN, (O + FILTER_GROUP - 1) // FILTER_GROUP, dweight.shape[0]
        total = x.shape[0] * E * ((P + m - 1) // m) * ((Q + m - 1) // m)
        units, jobs = (total + T - 1) // T, slices * chains * groups
        V, steps = address(packed) + size * task * packed.shape[1], address(table) + 8 * task * (table.size // tasks)
        for job in range(jobs * task // tasks, jobs * (task + 1) // tasks):
            part, c, o = job // (chains * groups), job // groups % chains * CHAIN, job % groups * FILTER_GROUP
            channels, count = min(CHAIN, C - c), min(FILTER_GROUP, O - o)
            start, stop = units * part // slices * T, min(total, units * (part + 1) // slices * T)
            to = address(dweight) + size * (part * dweight.shape[1] + c * O + o)
            weight_job(to, V, steps, address(x), address(dy), start, stop, T, total, c, channels, o, count, windows, x)

    @routine
    def weight_job(to, V, steps, x, dy, start, stop, T, total, c0, channels, o0, count, windows, like):
        """dW of the tiles [start, stop) for some channels and filters."""
        size, lane = itemsize(like), lanes(like)
        C, O = windows[18], windows[19]
        step_v, step_e, step_u = (channels + BLOCK - 1) // BLOCK * T * BLOCK + SKEW, T * count + SKEW, channels * count + SKEW
        E = V + size * K * step_v
        dU = E + size * K * step_e
        scratch = dU + size * K * step_u
        put_step(steps, 0, 0, T)
        for first in range(start, stop, T):
            input_tiles(V, step_v, scratch, x, first, first + T, T, total, c0, channels, windows, like)
            dy_tiles(E, step_e, scratch, dy, first, T, total, o0, count, windows, like)
            for k in range(K):
                for o in range(0, count, 2 * lane):
                    width = min(2 * lane, count - o)
                    b = E + size * (k * step_e + o * T)
                    for c in range(0, channels, BLOCK):
                        cell = dU + size * (k * step_u + c * count + o)
                        channel_rows(min(BLOCK, channels - c), width, steps, 1, V + size * (k * step_v + c * T), b, width, cell, count,
                                     cell if first > start else 0, count, 0, b + size * T * width, like)
        for c in range(channels):
            for o in range(0, count, lane):
                left = min(lane, count - o)
                transform_back(to + size * (c * O + o), 3 * C * O, C * O, left, dU + size * (c * count + o), n * step_u, step_u, left, like)
    return filters, forward, weight


winograd2_filters, winograd2_forward, winograd2_weight = winograd(2)
winograd4_filters, winograd4_forward, winograd4_weight = winograd(4)
