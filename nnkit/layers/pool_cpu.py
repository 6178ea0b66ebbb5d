"""Kernels of pooling. Letters: see prims/convolution.py; here O = C, and there is no dilation.

A window is the block [T', R', S'] of those of its places that lie within the image. Registers run along the channels and stay where they are for a
whole window: y is written once. Backward goes from window to window, too: dx is written (=) once where windows do not overlap; else it is 0
first, and the windows add to it in a fixed order. Where an image is cut into pieces by rows of dx, a window belongs to every piece that it touches,
and each writes its own rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, Int, Matrix, Tensor3, Windows, kernel, routine
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.reduce_cpu import add_masked
from nnkit.prims.rows_cpu import fill_run, scale_run
from nnkit.prims.simd_cpu import Emitter, address, itemsize, lanes

__all__ = ["masked_mean_backward", "masked_mean_forward", "max_backward", "max_forward", "sum_backward", "sum_forward"]

STRIP = 2                                                # registers that go through a window together


def larger(e: Emitter, a: Any, b: Any) -> Any:
    """The larger number."""
    return e.larger(a, b)


def total(e: Emitter, a: Any, b: Any) -> Any:
    """a + b."""
    return e.b.fadd(a, b)


# Forward.

def reduction(combine: Callable[[Emitter, Any, Any], Any], start: float, tree: bool, registers: int, square: bool) -> Any:
    """f(n, y, x, T', R', S', step_t, step_r, step_s, scale, like): y[:n] = scale times the combination of x[:n] over the places of a window.

    For whole registers, or (registers 0) the at most n channels of one masked register. tree: rows of S' places are combined first, then these.
    square: the window is 1 x 2 x 2, without loops.
    """
    @intrinsic
    def reduce(typing_context: Any, n: Any, y: Any, x: Any, T: Any, R: Any, S: Any, step_t: Any, step_r: Any, step_s: Any, scale: Any,
               like: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            n, y, x, T, R, S, step_t, step_r, step_s, scale, _ = values
            e = Emitter(builder, signature.args[-1].dtype)
            mask, factor = None if registers else e.first(n), e.splat(scale)
            places = [ir.Constant(I64, j * e.lanes) for j in range(registers or 1)]
            y, x = e.pointer(y), e.pointer(x)

            def load(at: Any) -> list[Any]:
                return [e.load(e.at(x, builder.add(at, place)), mask) for place in places]

            def combined(a: list[Any], b: list[Any]) -> list[Any]:
                return [combine(e, p, q) for p, q in zip(a, b, strict=True)]

            if square:
                rows = [combined(load(at), load(builder.add(at, step_s))) for at in (ir.Constant(I64, 0), step_r)]
                found = combined(*rows)
            else:
                found = _looped(e, (T, R, S), (step_t, step_r, step_s), start, tree, len(places), load, combined)
            for place, value in zip(places, found, strict=True):
                e.store(value if combine is larger else builder.fmul(value, factor), e.at(y, place), mask)
            return context.get_dummy_value()
        return types.void(*[types.int64] * 9, like.dtype, like), codegen
    return reduce


def _looped(e: Emitter, counts: Any, steps: Any, start: float, tree: bool, registers: int, load: Any, combined: Any) -> list[Any]:
    """The combination over three loops."""
    b, first = e.b, ir.Constant(e.vector, [start] * e.lanes)
    all_rows = [cgutils.alloca_once_value(b, first) for _ in range(registers)]
    one_row = [cgutils.alloca_once_value(b, first) for _ in range(registers)] if tree else all_rows

    def add(kept: list[Any], values: list[Any]) -> None:
        for place, value in zip(kept, combined([b.load(place) for place in kept], values), strict=True):
            b.store(value, place)

    with cgutils.for_range(b, counts[0]) as t, cgutils.for_range(b, counts[1]) as r:
        at = b.add(b.mul(t.index, steps[0]), b.mul(r.index, steps[1]))
        if tree:
            for place in one_row:
                b.store(first, place)
        with cgutils.for_range(b, counts[2]) as s:
            add(one_row, load(b.add(at, b.mul(s.index, steps[2]))))
        if tree:
            add(all_rows, [b.load(place) for place in one_row])
    return [b.load(place) for place in all_rows]


@routine
def clip(start, reach, size):
    """The places of a window from `start` on that lie within [0, size): first, and last + 1."""
    return max(0, start), min(size, start + reach)


def pooling(combine: Callable[[Emitter, Any, Any], Any], start: float, tree: bool) -> Any:
    """f(task, tasks, y, x, windows, mean, pieces): the forward kernel of a reduction. mean: whether it is divided by the number of places."""
    wide, narrow = (reduction(combine, start, tree, registers, False) for registers in (STRIP, 0))
    wide_square, narrow_square = (reduction(combine, start, tree, registers, True) for registers in (STRIP, 0))

    @routine
    def pool(task, tasks, y, x, windows, mean, pieces):  # type: ignore[no-untyped-def]
        D, H, W, T, R, S, stride_d, stride_h, stride_w, _, _, _, before_d, before_h, before_w, E, P, Q, C, _, _ = windows
        size, lane = itemsize(y), lanes(y)
        one = y.dtype.type(1)
        first, last = row_share(y.shape[0] * pieces, tasks, task)
        for unit in range(first, last):
            n, piece = unit // pieces, unit % pieces
            for row in range(E * P * piece // pieces, E * P * (piece + 1) // pieces):
                d, d_end = clip(row // P * stride_d - before_d, T, D)
                h, h_end = clip(row % P * stride_h - before_h, R, H)
                for q in range(Q):
                    w, w_end = clip(q * stride_w - before_w, S, W)
                    t, r, s = d_end - d, h_end - h, w_end - w
                    scale = one / y.dtype.type(t * r * s) if mean else one
                    to = address(y) + size * ((n * E * P + row) * Q + q) * C
                    at = address(x) + size * (((n * D + d) * H + h) * W + w) * C
                    square = t == 1 and r == 2 and s == 2
                    c = 0
                    while c < C:
                        if C - c >= STRIP * lane:
                            if square:
                                wide_square(C - c, to + size * c, at + size * c, t, r, s, H * W * C, W * C, C, scale, y)
                            else:
                                wide(C - c, to + size * c, at + size * c, t, r, s, H * W * C, W * C, C, scale, y)
                            c += STRIP * lane
                        else:
                            if square:
                                narrow_square(C - c, to + size * c, at + size * c, t, r, s, H * W * C, W * C, C, scale, y)
                            else:
                                narrow(C - c, to + size * c, at + size * c, t, r, s, H * W * C, W * C, C, scale, y)
                            c += lane
    return pool


pool_largest, pool_sum = pooling(larger, -math.inf, False), pooling(total, 0.0, True)


@kernel
def max_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, windows: Windows, pieces: Int) -> None:
    """y = the largest number of every window; NaN where there is one. Shapes: y [N, E P Q C], x [N, D H W C].

    Task t covers its share of the images, each cut into `pieces` by rows of the output. Writes y (=).
    """
    pool_largest(task, tasks, y, x, windows, 0, pieces)


@kernel
def sum_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, windows: Windows, mean: Int, pieces: Int) -> None:
    """y = the sum of every window (mean 0), or its mean (1) over the places within the image. Shapes: y [N, E P Q C], x [N, D H W C].

    Rows of the window are summed first, then these. Task t covers its share of the images, each cut into `pieces` by rows of the output.
    Writes y (=).
    """
    pool_sum(task, tasks, y, x, windows, mean, pieces)


# Backward.

def spreading(compares: bool, registers: int, square: bool) -> Any:
    """f(n, dx, x, y, dy, T', R', S', step_t, step_r, step_s, row, H, top, bottom, add, scale, like): a window's dy goes to its places of dx.

    compares: to the first place of x that is y or NaN, 0 to the others and where y <= scale; else scale dy to all.
    Added where `add` is 1, else written.
    The window begins in row `row` of the image; only rows in [top, bottom) are written. registers: as in `reduction`.
    square: the window is 1 x 2 x 2, all of it is written, and nothing is added.
    """
    @intrinsic
    def spread(typing_context: Any, n: Any, dx: Any, x: Any, y: Any, dy: Any, T: Any, R: Any, S: Any, step_t: Any, step_r: Any, step_s: Any, row: Any,
               H: Any, top: Any, bottom: Any, add: Any, scale: Any, like: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            n, dx, x, y, dy, T, R, S, step_t, step_r, step_s, row, H, top, bottom, add, scale, _ = values
            e = Emitter(builder, signature.args[-1].dtype)
            visit = _visitor(e, compares, registers, (n, dx, x, y, dy), None if square else add, scale)
            if square:
                for at in (ir.Constant(I64, 0), step_r):
                    visit(at, True)
                    visit(builder.add(at, step_s), True)
                return context.get_dummy_value()
            with cgutils.for_range(builder, T) as t, cgutils.for_range(builder, R) as r:
                at = builder.add(builder.mul(t.index, step_t), builder.mul(r.index, step_r))
                here = builder.add(row, builder.add(builder.mul(t.index, H), r.index))
                own = builder.and_(builder.icmp_signed("<=", top, here), builder.icmp_signed("<", here, bottom))
                with builder.if_else(own) as (inside, outside):
                    with inside, cgutils.for_range(builder, S) as s:
                        visit(builder.add(at, builder.mul(s.index, step_s)), True)
                    with outside:
                        if compares:
                            with cgutils.for_range(builder, S) as s:
                                visit(builder.add(at, builder.mul(s.index, step_s)), False)
            return context.get_dummy_value()
        return types.void(*[types.int64] * 16, like.dtype, like), codegen
    return spread


def _visitor(e: Emitter, compares: bool, registers: int, arrays: Any, add: Any, scale: Any) -> Callable[[Any, bool], None]:
    """visit(place, write): what a place of the window gets. arrays: n and the addresses of dx, x, y, dy. add: None where nothing is ever added."""
    b = e.b
    n, dx, x, y, dy = arrays
    dx, x, y, dy = map(e.pointer, (dx, x, y, dy))
    every = ir.Constant(e.mask_type, [1] * e.lanes)
    mask = None if registers else e.first(n)
    runs = [ir.Constant(I64, j * e.lanes) for j in range(registers or 1)]
    given = [e.load(e.at(dy, run), mask) for run in runs]
    if compares:
        largest, floor = [e.load(e.at(y, run), mask) for run in runs], e.splat(scale)
        given = [b.select(b.fcmp_ordered("<=", top, floor), e.zero, value) for top, value in zip(largest, given, strict=True)]
        left = [cgutils.alloca_once_value(b, every) for _ in runs]
    else:
        given = [b.fmul(value, e.splat(scale)) for value in given]
    if add is not None:                                  # a load under an empty mask gives 0 and touches nothing
        adds = e.splat(b.trunc(add, ir.IntType(1)), e.mask_type)
        added = adds if mask is None else b.and_(mask, adds)

    def visit(at: Any, write: bool) -> None:
        for j, run in enumerate(runs):
            here, value = b.add(at, run), given[j]
            if compares:
                found, open_ = e.load(e.at(x, here), mask), b.load(left[j])
                wins = b.or_(b.fcmp_ordered("==", found, largest[j]), b.fcmp_unordered("uno", found, found))
                value = b.select(b.and_(open_, wins), value, e.zero)
                b.store(b.and_(open_, b.xor(wins, every)), left[j])
            if write:
                value = value if add is None else b.fadd(value, e.load(e.at(dx, here), added))
                e.store(value, e.at(dx, here), mask)
    return visit


def spread_over(compares: bool) -> Any:
    """f(task, tasks, dx, x, y, dy, windows, option, pieces): the backward kernel of a reduction. option: `mean`; of who compares, `relu`."""
    wide, narrow = (spreading(compares, registers, False) for registers in (STRIP, 0))
    wide_square, narrow_square = (spreading(compares, registers, True) for registers in (STRIP, 0))

    @routine
    def window(C, dx, x, y, dy, t, r, s, step_t, step_r, row, H, top, bottom, add, scale, like):  # type: ignore[no-untyped-def]
        """All channels of one window."""
        size, lane = itemsize(like), lanes(like)
        square = t == 1 and r == 2 and s == 2 and add == 0 and top <= row and row + 2 <= bottom
        c = 0
        while c < C:
            on = size * c
            if C - c >= STRIP * lane:
                if square:
                    wide_square(C - c, dx + on, x + on, y + on, dy + on, t, r, s, step_t, step_r, C, row, H, top, bottom, add, scale, like)
                else:
                    wide(C - c, dx + on, x + on, y + on, dy + on, t, r, s, step_t, step_r, C, row, H, top, bottom, add, scale, like)
                c += STRIP * lane
            else:
                if square:
                    narrow_square(C - c, dx + on, x + on, y + on, dy + on, t, r, s, step_t, step_r, C, row, H, top, bottom, add, scale, like)
                else:
                    narrow(C - c, dx + on, x + on, y + on, dy + on, t, r, s, step_t, step_r, C, row, H, top, bottom, add, scale, like)
                c += lane

    @routine
    def spread(task, tasks, dx, x, y, dy, windows, option, pieces):  # type: ignore[no-untyped-def]
        D, H, W, T, R, S, stride_d, stride_h, stride_w, _, _, _, before_d, before_h, before_w, E, P, Q, C, _, _ = windows
        size = itemsize(dx)
        one = dx.dtype.type(1)
        overlap = stride_d < T or stride_h < R or stride_w < S
        tiled = (stride_d, stride_h, stride_w, E * T, P * R, Q * S, before_d + before_h + before_w) == (T, R, S, D, H, W, 0)
        # Every second window of a row first, or every third: a store is not followed by a load of the same places.
        phases = max(1, (S + stride_w - 1) // stride_w)
        first, last = row_share(dx.shape[0] * pieces, tasks, task)
        for unit in range(first, last):
            n, piece = unit // pieces, unit % pieces
            top, bottom = D * H * piece // pieces, D * H * (piece + 1) // pieces
            if not tiled:
                fill_run(address(dx) + size * (n * D * H + top) * W * C, one - one, (bottom - top) * W * C, dx)
            for line in range(E * P):
                d, d_end = clip(line // P * stride_d - before_d, T, D)
                h, h_end = clip(line % P * stride_h - before_h, R, H)
                row = d * H + h
                if row < bottom and (d_end - 1) * H + h_end > top:
                    for phase in range(phases):
                        for q in range(phase, Q, phases):
                            w, w_end = clip(q * stride_w - before_w, S, W)
                            t, r, s = d_end - d, h_end - h, w_end - w
                            if compares:                 # nothing is <= NaN
                                scale = dx.dtype.type(0) if option else dx.dtype.type(math.nan)
                            else:
                                scale = one / dx.dtype.type(t * r * s) if option else one
                            here, there = size * ((n * D * H + row) * W + w) * C, size * ((n * E * P + line) * Q + q) * C
                            window(C, address(dx) + here, address(x) + here, address(y) + there, address(dy) + there, t, r, s, H * W * C, W * C,
                                   row, H, top, bottom, 1 if overlap else 0, scale, dx)
    return spread


spread_largest, spread_sum = spread_over(True), spread_over(False)


@kernel
def max_backward(task: Int, tasks: Int, dx: Matrix, x: Matrix, y: Matrix, dy: Matrix, windows: Windows, pieces: Int, relu: Int) -> None:
    """dx = dy at the first place of every window where x is y (or NaN), summed over the windows. dx, x [N, D H W C], y, dy [N, E P Q C].

    With relu, x = max(z, 0) and what is written is dz: 0 where x is 0. Task t covers its share of the images, each cut into `pieces` by
    rows of the input. Writes dx (=).
    """
    spread_largest(task, tasks, dx, x, y, dy, windows, relu, pieces)


@kernel
def sum_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, windows: Windows, mean: Int, pieces: Int) -> None:
    """dx = dy at every place of the window, divided by their number where `mean` is 1, summed over the windows. dx [N, D H W C], dy [N, E P Q C].

    Task t covers its share of the images, each cut into `pieces` by rows of the input. Writes dx (=).
    """
    spread_sum(task, tasks, dx, dy, dy, dy, windows, mean, pieces)


# The mean over the time steps that count. N samples, T steps, C channels.

@routine
def share_of_steps(mask, n):  # type: ignore[no-untyped-def]
    """1 / the number of steps of sample n that count; 1 where none does."""
    one = mask.dtype.type(1)
    count = one - one
    for t in range(mask.shape[1]):
        count += mask[n, t]
    return one / max(one, count)


@kernel
def masked_mean_forward(task: Int, tasks: Int, y: Matrix, x: Tensor3, mask: Matrix) -> None:
    """y[n] = sum of x[n, t] over the t with mask[n, t] = 1, divided by their number; 0 where there are none. y [N, C], x [N, T, C], mask [N, T].

    Row-local. Writes y (=).
    """
    start, stop = row_share(y.shape[0], tasks, task)
    _, T, C = x.shape
    size, lane = itemsize(x), lanes(x)
    for n in range(start, stop):
        row = address(y) + size * n * C
        fill_run(row, y.dtype.type(0), C, y)
        for t in range(T):
            if mask[n, t] != mask.dtype.type(0):
                for c in range(0, C, lane):
                    add_masked(row + size * c, address(x) + size * ((n * T + t) * C + c), C - c, x)
        scale_run(row, share_of_steps(mask, n), row, C, y)


@kernel
def masked_mean_backward(task: Int, tasks: Int, dx: Tensor3, dy: Matrix, mask: Matrix) -> None:
    """dx[n, t] = mask[n, t] dy[n] / the number of steps of sample n that count. Shapes as above. Row-local. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    _, T, C = dx.shape
    size = itemsize(dx)
    for n in range(start, stop):
        share = share_of_steps(mask, n)
        for t in range(T):
            scale_run(address(dx) + size * (n * T + t) * C, share * mask[n, t], address(dy) + size * n * C, C, dx)
