"""Convolution as a sum of matrix products, one for every place of the window: serves every stride, dilation, padding and group.

Letters: see convolution.py. An image row of the output is a matrix [Q, O]; for each place (t, r, s) of the window those of its rows whose place
of x is not padding get x's places [., C] times W[t, r, s]. Nothing is copied, nothing outside is read.
"""

from __future__ import annotations

from nnkit.jit import Int, Matrix, Tensor3, Vector, Windows, kernel, routine
from nnkit.prims.feed_cpu import copy_row
from nnkit.prims.matmul_cpu import product, row_share, transpose_rows
from nnkit.prims.rows_cpu import fill_run
from nnkit.prims.simd_cpu import address, itemsize

__all__ = ["inside", "taps_forward", "taps_input", "taps_weight", "turn"]


@routine
def inside(windows, stride, offset, size):
    """The windows o in [first, last) with 0 <= o stride + offset < size."""
    first = max(0, (stride - 1 - offset) // stride)
    last = min(windows, (size - offset + stride - 1) // stride)
    return first, max(first, last)


@routine
def start_row(y, places, width, bias, like):
    """Every one of the places, each `width` numbers, becomes the bias, or 0 where `bias` (an address) is 0."""
    size = itemsize(like)
    if bias == 0:
        fill_run(y, like.dtype.type(0), places * width, like)
    else:
        for q in range(places):
            copy_row(y + size * q * width, bias, width, like)


@kernel
def taps_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, weight: Matrix, bias: Vector, windows: Windows, pieces: Int) -> None:
    """y = x * W + b. Shapes: y [N, E P Q O], x [N, D H W C], weight [T R S C/G, O], bias [O] or empty.

    Task t covers its share of the images, each cut into `pieces` by rows of the output. Writes y (=).
    """
    D, H, W, T, R, S, stride_d, stride_h, stride_w, step_d, step_h, step_w, before_d, before_h, before_w, E, P, Q, C, O, G = windows
    size = itemsize(y)
    each, own = C // G, O // G
    first, last = row_share(y.shape[0] * pieces, tasks, task)
    for unit in range(first, last):
        n, piece = unit // pieces, unit % pieces
        for row in range(E * P * piece // pieces, E * P * (piece + 1) // pieces):
            e, p = row // P, row % P
            to = address(y) + size * (n * E * P + row) * Q * O
            start_row(to, Q, O, address(bias) if bias.size else 0, y)
            for tap in range(T * R * S):
                d, h = e * stride_d + tap // (R * S) * step_d - before_d, p * stride_h + tap // S % R * step_h - before_h
                offset = tap % S * step_w - before_w
                q, behind = inside(Q, stride_w, offset, W)
                if 0 <= d < D and 0 <= h < H and q < behind:
                    a = address(x) + size * (((n * D + d) * H + h) * W + q * stride_w + offset) * C
                    for g in range(G):
                        c = to + size * (q * O + g * own)
                        product(behind - q, own, each, a + size * g * each, stride_w * C, 1, address(weight) + size * (tap * each * O + g * own), O,
                                c, O, c, O, y)


@kernel
def turn(task: Int, tasks: Int, y: Tensor3, x: Tensor3) -> None:
    """y[k, j, i] = x[k, i, j]. Shapes: y [K, J, I], x [K, I, J]. Task t covers its share of the k. Writes y (=)."""
    K, I, J = x.shape
    size = itemsize(x)
    for k in range(K * task // tasks, K * (task + 1) // tasks):
        transpose_rows(address(y) + size * k * I * J, address(x) + size * k * I * J, I, J, 0, I, x)


@kernel
def taps_input(task: Int, tasks: Int, dx: Matrix, dy: Matrix, turned: Matrix, bias: Vector, windows: Windows, pieces: Int) -> None:
    """dx = dy spread over the windows (+ b). Shapes: dx [N, D H W C], dy [N, E P Q O], turned [T R S O, C/G] = W turned, bias [C] or empty.

    Task t covers its share of the images, each cut into `pieces` by rows of the input. Writes dx (=).
    """
    D, H, W, T, R, S, stride_d, stride_h, stride_w, step_d, step_h, step_w, before_d, before_h, before_w, E, P, Q, C, O, G = windows
    size = itemsize(dx)
    each, own = C // G, O // G
    first, last = row_share(dx.shape[0] * pieces, tasks, task)
    for unit in range(first, last):
        n, piece = unit // pieces, unit % pieces
        for row in range(D * H * piece // pieces, D * H * (piece + 1) // pieces):
            to = address(dx) + size * (n * D * H + row) * W * C
            start_row(to, W, C, address(bias) if bias.size else 0, dx)
            for tap in range(T * R * S):
                e, p = row // H + before_d - tap // (R * S) * step_d, row % H + before_h - tap // S % R * step_h
                offset = tap % S * step_w - before_w
                q, behind = inside(Q, stride_w, offset, W)
                if e % stride_d == 0 and 0 <= e < E * stride_d and p % stride_h == 0 and 0 <= p < P * stride_h and q < behind:
                    a = address(dy) + size * (((n * E + e // stride_d) * P + p // stride_h) * Q + q) * O
                    for g in range(G):
                        c = to + size * ((q * stride_w + offset) * C + g * each)
                        product(behind - q, each, own, a + size * g * own, O, 1, address(turned) + size * (tap * O + g * own) * each, each,
                                c, stride_w * C, c, stride_w * C, dx)


@kernel
def taps_weight(task: Int, tasks: Int, dweight: Matrix, x: Matrix, dy: Matrix, windows: Windows, blocks: Int) -> None:
    """dW[tap, c, o] = sum over n and the windows of x[n, place, c] dy[n, window, o]. Shapes: dweight [T R S C/G, O], x [N, D H W C], dy [N, E P Q O].

    Task t covers its share of the window's places, of each by `blocks` blocks of channels. Image row after image row. Writes dweight (=).
    """
    D, H, W, T, R, S, stride_d, stride_h, stride_w, step_d, step_h, step_w, before_d, before_h, before_w, E, P, Q, C, O, G = windows
    size = itemsize(x)
    each, own = C // G, O // G
    units = T * R * S * blocks
    for unit in range(units * task // tasks, units * (task + 1) // tasks):
        tap, block = unit // blocks, unit % blocks
        i, rows = each * block // blocks, each * (block + 1) // blocks - each * block // blocks
        to = address(dweight) + size * (tap * each + i) * O
        fill_run(to, x.dtype.type(0), rows * O, x)
        offset = tap % S * step_w - before_w
        q, behind = inside(Q, stride_w, offset, W)
        for row in range(x.shape[0] * E * P):
            n, e, p = row // (E * P), row // P % E, row % P
            d, h = e * stride_d + tap // (R * S) * step_d - before_d, p * stride_h + tap // S % R * step_h - before_h
            if 0 <= d < D and 0 <= h < H and q < behind:
                a = address(x) + size * ((((n * D + d) * H + h) * W + q * stride_w + offset) * C + i)
                b = address(dy) + size * (row * Q + q) * O
                for g in range(G):
                    c = to + size * g * own
                    product(rows, own, behind - q, a + size * g * each, 1, stride_w * C, b + size * g * own, O, c, O, c, O, x)
