"""Kernels of padding, cropping and linear interpolation. Letters: see prims/convolution.py."""

from __future__ import annotations

from nnkit.jit import Int, Matrix, Windows, kernel, routine
from nnkit.prims.feed_cpu import copy_row
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.reduce_cpu import column_sums
from nnkit.prims.rows_cpu import fill_run
from nnkit.prims.simd_cpu import address, itemsize
from nnkit.prims.taps_cpu import inside

__all__ = ["linear_backward", "linear_forward", "shift"]


@kernel
def shift(task: Int, tasks: Int, y: Matrix, x: Matrix, windows: Windows, pieces: Int) -> None:
    """y[n, o] = x[n, o - before] where that is a place of x, else 0. Shapes: y [N, E P Q C], x [N, D H W C]. `before` may be negative.

    Task t covers its share of the images, each cut into `pieces` by rows of the output. Writes y (=).
    """
    D, H, W, _, _, _, _, _, _, _, _, _, before_d, before_h, before_w, E, P, Q, C, _, _ = windows
    size, zero = itemsize(y), y.dtype.type(0)
    first, last = row_share(y.shape[0] * pieces, tasks, task)
    q, behind = inside(Q, 1, -before_w, W)
    for unit in range(first, last):
        n, piece = unit // pieces, unit % pieces
        for row in range(E * P * piece // pieces, E * P * (piece + 1) // pieces):
            d, h = row // P - before_d, row % P - before_h
            to = address(y) + size * (n * E * P + row) * Q * C
            if 0 <= d < D and 0 <= h < H:
                fill_run(to, zero, q * C, y)
                copy_row(to + size * q * C, address(x) + size * (((n * D + d) * H + h) * W + q - before_w) * C, (behind - q) * C, y)
                fill_run(to + size * behind * C, zero, (Q - behind) * C, y)
            else:
                fill_run(to, zero, Q * C, y)


# Linear interpolation along one axis. Output place o lies at (o + 1/2) / times - 1/2: `position` / (2 times), within the outermost input places.

def weighted(e, v, c, sums):  # type: ignore[no-untyped-def]
    """Sum c x, c a number for each row."""
    return [e.fma(v[0], c[0], sums[0])]


rows_weighted = column_sums(weighted, 1, 1, along_rows=1)


@routine
def position(o, places, times):
    """Where output place o lies, in steps of 1 / (2 times) of an input place."""
    return max(0, min(2 * o + 1 - times, 2 * times * (places - 1)))


@kernel
def linear_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, weights: Matrix, outer: Int, places: Int, times: Int, inner: Int,
                   pieces: Int) -> None:
    """y[n, a, o] = (1 - f) x[n, a, i] + f x[n, a, i + 1], where i + f is the position of output place o.

    Shapes: y [N, A S M I], x [N, A S I], scratch weights [N pieces, 2 M], where A S M I are outer, places, times, inner. Task t covers its share
    of the samples, each cut into `pieces` by A S M. Writes y (=).
    """
    T = y.dtype.type
    size = itemsize(y)
    first, last = row_share(y.shape[0] * pieces, tasks, task)
    for unit in range(first, last):
        n, piece = unit // pieces, unit % pieces
        numbers = address(weights) + size * unit * 2 * times
        for row in range(outer * places * times * piece // pieces, outer * places * times * (piece + 1) // pieces):
            a, o = row // (places * times), row % (places * times)
            i, rest = position(o, places, times) // (2 * times), position(o, places, times) % (2 * times)
            weights[unit, 0] = T(2 * times - rest) / T(2 * times)
            weights[unit, 1] = T(rest) / T(2 * times)
            at = address(x) + size * ((n * outer + a) * places + i) * inner
            rows_weighted(2 if rest else 1, inner, address(y) + size * (n * outer * places * times + row) * inner, inner, at, 0, inner, 0, numbers, x)


@kernel
def linear_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, weights: Matrix, outer: Int, places: Int, times: Int, inner: Int,
                    pieces: Int) -> None:
    """dx[n, a, i] = sum over the output places o near i, in their order, of (1 - |position of o - i|) dy[n, a, o].

    Shapes: dx [N, A S I], dy [N, A S M I], scratch weights [N pieces, 2 M], where A S M I are outer, places, times, inner. Task t covers its share
    of the samples, each cut into `pieces` by A S. Writes dx (=).
    """
    T = dx.dtype.type
    size = itemsize(dx)
    first, last = row_share(dx.shape[0] * pieces, tasks, task)
    for unit in range(first, last):
        n, piece = unit // pieces, unit % pieces
        for row in range(outer * places * piece // pieces, outer * places * (piece + 1) // pieces):
            a, i = row // places, row % places
            o, end = max(0, (2 * times * i - times - 1) // 2 + 1), min(places * times, (2 * times * i + 3 * times) // 2)
            for k in range(end - o):
                weights[unit, k] = T(2 * times - abs(position(o + k, places, times) - 2 * times * i)) / T(2 * times)
            at = address(dy) + size * ((n * outer + a) * places * times + o) * inner
            rows_weighted(end - o, inner, address(dx) + size * (n * outer * places + row) * inner, inner, at, 0, inner, 0,
                          address(weights) + size * unit * 2 * times, dx)
