"""Winograd's convolution: transforms by 16 channels at a time, between them a matrix product for each of the n x n = (m + 2)^2 places of a tile.

Letters: see convolution.py; K = n n places of a tile, of which V and E have room for 37; T tiles of a block; a panel: two registers of
filters. Places that make planes of their own lie SKEW numbers further apart than a plane is long.
    V [block of 16 channels][T][37][16] = B^T x B           U [K][panel][c][o] = G W G^T
    M [K][T][O] = V U, then y = A^T M A                     E [K][panel][T][o] = A dy A^T, dU [K][c][O] = V^T E, dW = G^T dU G
Depths of three dimensions are images of their own. Matrices: winograd.py.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, Int, Kernel, Matrix, Ordinals, Vector, Windows, kernel, routine
from nnkit.prims.convolution import BLOCK, CHAIN, TILE_STEP
from nnkit.prims.rows_cpu import fill_run
from nnkit.prims.simd_cpu import Emitter, address, itemsize, lanes
from nnkit.prims.tile_cpu import channel_rows, put_step, tile_rows
from nnkit.prims.winograd import FILTER_GROUP, PAIRS, SKEW, matrices, product_of, transposed

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


def by_matrix(matrix: Any) -> Any:
    """The map xs -> matrix @ xs of registers."""
    return lambda e, xs: linear_map(e, matrix, xs)


def by_factors(m: int) -> Any:
    """The map xs -> B^T @ xs: its rows are products of the (x - point) of all other points, and share what they have in common.

    With x^k standing for xs[k], a product with x - a is the same one place later, minus a times itself.
    """
    pairs = [tuple(map(Fraction, pair)) for pair in PAIRS[m]]

    def apply(e: Emitter, xs: list[Any]) -> list[Any]:
        known: dict[Any, Any] = {}

        def value(factors: tuple[Any, ...], place: int) -> Any:
            """The product of the factors, each given by its roots, from xs[place] on."""
            if not factors:
                return xs[place]
            if (factors, place) not in known:
                coefficients = product_of(factors[-1])
                known[factors, place] = linear(e, coefficients, [value(factors[:-1], place + k) for k in range(len(coefficients))])
            return known[factors, place]
        rows = [value(tuple(pairs), 0)]
        for pair in pairs:
            others = tuple(other for other in pairs if other != pair)
            rows += [value((*others, (partner,)), 1) for partner in reversed(pair)]
        return [*rows, value(tuple(pairs), 1)]
    return apply


def both_sides(e: Emitter, linear: Any, size: int, load: Any) -> list[list[Any]]:
    """A X A^T of the registers X[i, j] = load(i, j), i, j < size, for a map `linear` by A."""
    columns = [linear(e, [load(i, j) for i in range(size)]) for j in range(size)]
    return [linear(e, [column[i] for column in columns]) for i in range(len(columns[0]))]


def transform(linear: Any, size: int, fetched: int) -> Any:
    """Y = A X A^T for grids of registers: X[i, j] at x + i xr + j xs, Y[i, j] at y + i yr + j ys (by address, strides in elements).

    Of X only the rows [i0, i1) and columns [j0, j1) are there, the others are 0. given, taken: how many lanes of X there are, how many of Y are
    written. next_x: a later x, of which the last `fetched` columns are fetched into the cache.
    """
    @intrinsic
    def apply(typing_context: Any, y: Any, yr: Any, ys: Any, taken: Any, next_x: Any, x: Any, xr: Any, xs: Any, given: Any, i0: Any, i1: Any, j0: Any,
              j1: Any, like: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            y, yr, ys, taken, next_x, x, xr, xs, given, i0, i1, j0, j1, _ = values
            e = Emitter(builder, signature.args[-1].dtype)
            below, above, none = (lambda a, b: builder.icmp_signed("<", a, b)), (lambda a, b: builder.icmp_signed(">=", a, b)), I64(0)

            def place(base: Any, down: Any, along: Any, i: int, j: int) -> Any:
                return e.at(e.pointer(base), builder.add(builder.mul(down, I64(i)), builder.mul(along, I64(j))))

            def write(load: Any, mask: Any) -> None:
                for i, row in enumerate(both_sides(e, linear, size, load)):
                    for j, value in enumerate(row):
                        e.store(value, place(y, yr, ys, i, j), mask)
                for i in range(size):
                    for j in range(size - fetched, size):
                        e.prefetch(builder.ptrtoint(place(next_x, xr, xs, i, j), I64))
            inside = builder.and_(builder.and_(below(i0, I64(1)), above(i1, I64(size))), builder.and_(below(j0, I64(1)), above(j1, I64(size))))
            full = builder.and_(above(given, I64(e.lanes)), above(taken, I64(e.lanes)))
            with builder.if_else(builder.and_(inside, full), likely=True) as (whole, torn):
                with whole:
                    write(lambda i, j: e.load(place(x, xr, xs, i, j)), None)
                with torn:
                    rows = [builder.and_(builder.icmp_signed("<=", i0, I64(i)), below(I64(i), i1)) for i in range(size)]
                    columns = [builder.and_(builder.icmp_signed("<=", j0, I64(j)), below(I64(j), j1)) for j in range(size)]

                    def load(i: int, j: int) -> Any:
                        """What lies outside is not touched: nothing is loaded, from a place that is there."""
                        there = builder.and_(rows[i], columns[j])
                        at = builder.select(there, place(x, xr, xs, i, j), e.pointer(y))
                        return e.load(at, e.first(builder.select(there, given, none)))
                    write(load, e.first(taken))
            return context.get_dummy_value()
        return types.void(*[types.int64] * 13, like), codegen
    return apply


def finish(linear: Any, size: int, m: int, pooled: bool) -> Any:
    """As `transform`, of a grid that is all there, then + bias (an address, or 0), max(y, 0) if relu; then, where
    `pooled`, the largest of every 2 x 2 places. Only the first `rows` rows and `columns` columns of y exist."""
    @intrinsic
    def apply(typing_context: Any, y: Any, yr: Any, ys: Any, rows: Any, columns: Any, next_x: Any, x: Any, xr: Any, xs: Any, count: Any, bias: Any,
              relu: Any, like: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            y, yr, ys, rows, columns, next_x, x, xr, xs, count, bias, relu, _ = values
            e = Emitter(builder, signature.args[-1].dtype)
            mask = e.first(count)
            shift, floor = cgutils.alloca_once_value(builder, e.zero), e.splat_constant(float("-inf"))
            with builder.if_then(builder.icmp_signed("!=", bias, I64(0))):
                builder.store(e.load(e.pointer(bias), mask), shift)
            floor = builder.select(builder.icmp_signed("!=", relu, I64(0)), e.zero, floor)

            def load(i: int, j: int) -> Any:
                return e.load(e.at(e.pointer(x), builder.add(builder.mul(xr, I64(i)), builder.mul(xs, I64(j)))), mask)
            grid = both_sides(e, linear, size, load)
            shifts = builder.load(shift)
            for row in grid:
                for j, value in enumerate(row):
                    value = builder.fadd(value, shifts)
                    row[j] = builder.select(builder.fcmp_ordered("<=", value, floor), floor, value)
            if pooled:
                grid = [[e.larger(e.larger(a[j], a[j + 1]), e.larger(b[j], b[j + 1])) for j in range(0, m, 2)]
                        for a, b in zip(grid[::2], grid[1::2], strict=True)]
            side = len(grid)

            def place(i: int, j: int) -> Any:
                return e.at(e.pointer(y), builder.add(builder.mul(yr, I64(i)), builder.mul(ys, I64(j))))
            enough = [builder.icmp_signed(">=", rows, I64(side)), builder.icmp_signed(">=", columns, I64(side)),
                      builder.icmp_signed(">=", count, I64(e.lanes))]
            for i in range(size):
                for j in range(size):
                    e.prefetch(builder.ptrtoint(e.at(e.pointer(next_x), builder.add(builder.mul(xr, I64(i)), builder.mul(xs, I64(j)))), I64))
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
        return types.void(*[types.int64] * 12, like), codegen
    return apply


@routine
def tile_place(t, m, windows):
    """(image, first row, first column) of tile t among the output's."""
    P, Q = windows[16], windows[17]
    down, along = (P + m - 1) // m, (Q + m - 1) // m
    return t // (down * along), t // along % down * m, t % along * m


def winograd(m: int) -> tuple[Kernel, Kernel, Kernel]:
    """The kernels of F(m x m, 3 x 3): filters, forward, weight."""
    fill = filling(m)
    return filters_of(m), forward_of(m, fill), weight_of(m, fill)


def filters_of(m: int) -> Kernel:
    """The kernel that makes U."""
    n, K = m + 2, (m + 2) ** 2
    transform_filter = transform(by_matrix(matrices(m)[1]), 3, 0)

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
                transform_filter(to, n * step, step, count, 0, start + size * (c * O + o), sign * 3 * C * O, sign * C * O, count, 0, 3, 0, 3,
                                 weight)
    return filters


def filling(m: int) -> Any:
    """The routine that makes V."""
    n = m + 2
    transform_input = transform(by_factors(m), n, m)

    @routine
    def input_tiles(V, x, first, stop, T, total, c0, channels, windows, like):
        """V of the tiles from `first` to `stop`, for `channels` channels from c0 on; tiles behind the last of all are 0."""
        size, lane = itemsize(like), lanes(like)
        H, W, before_h, before_w, C = windows[1], windows[2], windows[13], windows[14], windows[18]
        for t in range(first, stop):
            image, h, w = tile_place(t, m, windows)
            h, w = h - before_h, w - before_w
            source = x + size * (((image * H + h) * W + w) * C + c0)
            bottom = H - h if t < total else 0
            for c in range(0, channels, lane):
                to = V + size * ((c // BLOCK * T + t - first) * TILE_STEP + c % BLOCK)
                transform_input(to, n * BLOCK, BLOCK, lane, source + size * (c + 2 * m * C), source + size * c, W * C, C, min(lane, channels - c),
                                -h, bottom, -w, W - w, like)
    return input_tiles


def finishing(m: int) -> Any:
    """The routine that makes y of M."""
    n = m + 2
    transform_output, transform_pooled = (finish(by_matrix(matrices(m)[0]), n, m, pooled) for pooled in (False, True))

    @routine
    def output_tiles(y, M, step, first, stop, bias, pool, relu, windows):
        """y of the tiles from `first` to `stop`."""
        size, lane = itemsize(y), lanes(y)
        P, Q, O = windows[16], windows[17], windows[19]
        for t in range(first, stop):
            image, p, q = tile_place(t, m, windows)
            if pool:
                to = address(y) + size * ((image * (P // 2) + p // 2) * (Q // 2) + q // 2) * O
            else:
                to = address(y) + size * ((image * P + p) * Q + q) * O
            for o in range(0, O, lane):
                shift, count = address(bias) + size * o if bias.size else 0, min(lane, O - o)
                source, later = M + size * ((t - first) * O + o), M + size * ((t - first + 1) * O + o)
                if pool:
                    transform_pooled(to + size * o, Q // 2 * O, O, (P - p) // 2, (Q - q) // 2, later, source, n * step, step, count, shift, relu, y)
                else:
                    transform_output(to + size * o, Q * O, O, P - p, Q - q, later, source, n * step, step, count, shift, relu, y)
    return output_tiles


def forward_of(m: int, input_tiles: Any) -> Kernel:
    """The kernel that makes y."""
    K, output_tiles = (m + 2) ** 2, finishing(m)

    @kernel
    def forward(task: Int, tasks: Int, y: Matrix, x: Matrix, transformed: Matrix, bias: Vector, packed: Matrix, table: Ordinals, windows: Windows,
                T: Int, pool: Int, relu: Int) -> None:
        """y = x * W + b, then max(y, 0) if relu, then the largest of every 2 x 2 places if pool. Shapes: y [N, E P Q O], with pool [N, E P/2 Q/2 O],
        x [N, D H W C], transformed: U, bias [O] or empty, packed [tasks, ...], table [tasks x ...].

        Task t covers its share of the blocks of T tiles. Writes y (=).
        """
        _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, E, P, Q, C, O, _ = windows
        size, lane = itemsize(y), lanes(y)
        blocks = (C + BLOCK - 1) // BLOCK
        total = y.shape[0] * E * ((P + m - 1) // m) * ((Q + m - 1) // m)
        units = (total + T - 1) // T
        step_u, step_m = transformed.shape[1], T * O + SKEW
        V, steps = address(packed) + size * task * packed.shape[1], address(table) + 8 * task * (table.size // tasks)
        M = V + size * blocks * T * TILE_STEP
        for k in range(blocks):
            put_step(steps, k, k * T * TILE_STEP, min(BLOCK, C - k * BLOCK))
        for unit in range(units * task // tasks, units * (task + 1) // tasks):
            first = unit * T
            rows = min(T, total - first)
            input_tiles(V, address(x), first, first + rows, T, total, 0, C, windows, y)
            for k in range(K):
                for o in range(0, O, 2 * lane):
                    width = min(2 * lane, O - o)
                    b = address(transformed) + size * (k * step_u + o * C)
                    tile_rows(rows, width, steps, blocks, V + size * k * BLOCK, b, width, M + size * (k * step_m + o), O, b + size * width * C,
                              64 * C, y)
            output_tiles(y, M, step_m, first, first + rows, bias, pool, relu, windows)
    return forward


def spreading(m: int) -> Any:
    """The routine that makes E."""
    n = m + 2
    transform_dy = transform(by_matrix(transposed(matrices(m)[0])), m, m)

    @routine
    def dy_tiles(E, step, dy, first, T, total, o0, count, windows, like):
        """E of the tiles from `first` on, for `count` filters from o0 on; tiles behind the last are 0."""
        size, lane = itemsize(like), lanes(like)
        P, Q, O = windows[16], windows[17], windows[19]
        for t in range(first, first + T):
            image, p, q = tile_place(t, m, windows)
            source = dy + size * (((image * P + p) * Q + q) * O + o0)
            bottom = P - p if t < total else 0
            for o in range(0, count, lane):
                panel = o // (2 * lane) * 2 * lane
                width, left = min(2 * lane, count - panel), min(lane, count - o)
                to = E + size * (panel * T + (t - first) * width + o - panel)
                transform_dy(to, n * step, step, left, source + size * (o + 2 * m * O), source + size * o, Q * O, O, left, 0, bottom, 0, Q - q, like)
    return dy_tiles


def summing(m: int, input_tiles: Any) -> Any:
    """The routine that makes dW of some channels and filters."""
    n, K, dy_tiles = m + 2, (m + 2) ** 2, spreading(m)
    transform_back = transform(by_matrix(transposed(matrices(m)[1])), n, 0)

    @routine
    def weight_job(to, V, steps, x, dy, start, stop, T, total, c0, channels, o0, count, windows, like):
        """dW of the tiles [start, stop) for some channels and filters."""
        size, lane = itemsize(like), lanes(like)
        C, O = windows[18], windows[19]
        step_e, step_u = T * count + SKEW, channels * count + SKEW
        E = V + size * ((channels + BLOCK - 1) // BLOCK) * T * TILE_STEP
        dU = E + size * K * step_e
        put_step(steps, 0, 0, T)
        for first in range(start, stop, T):
            input_tiles(V, x, first, first + T, T, total, c0, channels, windows, like)
            dy_tiles(E, step_e, dy, first, T, total, o0, count, windows, like)
            for k in range(K):
                for o in range(0, count, 2 * lane):
                    width = min(2 * lane, count - o)
                    b = E + size * (k * step_e + o * T)
                    for c in range(0, channels, BLOCK):
                        cell = dU + size * (k * step_u + c * count + o)
                        channel_rows(min(BLOCK, channels - c), width, steps, 1, V + size * (c // BLOCK * T * TILE_STEP + k * BLOCK), TILE_STEP,
                                     b, width, cell, count, cell if first > start else 0, like)
        for c in range(channels):
            for o in range(0, count, lane):
                left = min(lane, count - o)
                transform_back(to + size * (c * O + o), 3 * C * O, C * O, left, 0, dU + size * (c * count + o), n * step_u, step_u, left, 0, n, 0, n,
                               like)
    return weight_job


def weight_of(m: int, input_tiles: Any) -> Kernel:
    """The kernel that makes dW."""
    weight_job = summing(m, input_tiles)

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
    return weight


winograd2_filters, winograd2_forward, winograd2_weight = winograd(2)
winograd4_filters, winograd4_forward, winograd4_weight = winograd(4)
