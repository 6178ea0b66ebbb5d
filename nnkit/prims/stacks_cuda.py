"""Winograd's convolution on the device: its transforms, and the products of stacks of matrices between them. Matrices and errors: winograd.py.

    y    factors          U = G W G^T, V = B^T x B        product          M[k] = V[k] U[k]         outputs   y = A^T M A (+ b)
    dW   weight_factors   V = B^T x B, E = A dy A^T       product_turned   dU[k] = V[k]^T E[k]      weight    dW = G^T dU G

Each of V, U, M, E and dU is a stack of (m + 2)^2 matrices, one for each place of a transformed tile. A thread of a transform has one tile and one
channel, all of it in registers; neighbours have neighbouring channels, so they read and write neighbours. Tiles are counted image by image, row by
row.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnkit.cuda_jit import THREADS, Kernel, behind, both_sides, data, kernel, nothing, registers, routine, thread
from nnkit.jit import Int, Matrix, Tensor3, Vector, Windows
from nnkit.prims.block_cuda import divided, row_share
from nnkit.prims.matmul_cuda import ARITHMETIC, tile_of, tiles_of
from nnkit.prims.winograd import matrices, transposed
from nnkit.scalar import maximum

__all__ = [
    "factors2", "factors4", "outputs2", "outputs4", "product_32", "product_64", "product_128", "product_turned_32", "product_turned_64",
    "product_turned_128", "weight2", "weight4", "weight_factors2", "weight_factors4",
]


# The transforms.

def tile_place(m: int) -> Any:
    """The routine that says where a tile of the output begins."""
    @routine
    def place(t, windows):
        """(image, first row, first column) of tile t."""
        down, along = divided(windows[16] + m - 1, m)[0], divided(windows[17] + m - 1, m)[0]
        rest, right = divided(t, along)
        image, top = divided(rest, down)
        return image, top * m, right * m
    return place


def reading(size: int) -> Any:
    """The routine that reads size x size places of an image."""
    @routine
    def read(found, source, at, step, h, w, H, W, like):
        """found[size i + j] = the number at place (h + i, w + j), which is source[at + (i W + j) step]; 0 outside of the H x W places.

        Outside a number that is there is read and not used: without branches all of them are on their way at a time.
        """
        zero = like.dtype.type(0)
        for i in range(size):
            for j in range(size):
                inside = (np.uint32(h + i) < np.uint32(H)) & (np.uint32(w + j) < np.uint32(W))
                value = source[at + (i * W + j) * step if inside else 0]
                found[size * i + j] = value if inside else zero
    return read


def spreading(m: int, matrix: Any) -> Any:
    """The routine that transforms the tiles of images: V of x, or E of dy."""
    size, K = len(matrix[0]), len(matrix) ** 2
    transform, square, tile, place, read = both_sides(matrix), registers(size * size), registers(K), tile_place(m), reading(size)

    @routine
    def spread(task, tasks, transformed, images, H, W, before_h, before_w, C, windows):
        """The task's share of the pairs of a tile and a channel. A tile has its first place so far before that of the output's tile."""
        stack, source, total = data(transformed), data(images), transformed.shape[1]
        found, made = square(images), tile(images)
        start, stop = row_share(total, tasks, task)
        for e in range(start + thread(), stop, THREADS):
            t, c = divided(e, C)
            image, h, w = place(t, windows)
            h, w = h - before_h, w - before_w
            read(found, source, ((image * H + h) * W + w) * C + c, C, h, w, H, W, images)
            transform(made, found)
            for k in range(K):
                stack[k * total + e] = made[k]
    return spread


def factors_of(m: int) -> Kernel:
    """The kernel that makes U and V."""
    K, spread = (m + 2) ** 2, spreading(m, matrices(m)[2])
    transform, window, tile = both_sides(matrices(m)[1]), registers(9), registers(K)

    @kernel
    def factors(task: Int, tasks: Int, filters: Matrix, inputs: Matrix, weight: Matrix, x: Matrix, windows: Windows, turned: Int) -> None:
        """U = G W G^T, and V = B^T x B of every tile. Shapes: filters: U [K, C O], inputs: V [K, T C], weight [9, C O], or [9, O C] with its places
        in reverse if `turned`, x [N, D H W C].

        Task t covers its share of the pairs of a channel and a filter, and of those of a tile and a channel. Writes filters and inputs (=).
        """
        C, O = windows[18], windows[19]
        us, ws = data(filters), data(weight)
        found, made = window(weight), tile(weight)
        start, stop = row_share(C * O, tasks, task)
        for e in range(start + thread(), stop, THREADS):
            c, o = divided(e, O)
            for s in range(9):
                found[s] = ws[(8 - s) * C * O + o * C + c] if turned else ws[s * C * O + e]
            transform(made, found)
            for k in range(K):
                us[k * C * O + e] = made[k]
        spread(task, tasks, inputs, x, windows[1], windows[2], windows[13], windows[14], C, windows)
    return factors


def weight_factors_of(m: int) -> Kernel:
    """The kernel that makes V and E."""
    spread, spread_gradients = spreading(m, matrices(m)[2]), spreading(m, transposed(matrices(m)[0]))

    @kernel
    def weight_factors(task: Int, tasks: Int, inputs: Matrix, gradients: Matrix, x: Matrix, dy: Matrix, windows: Windows) -> None:
        """V = B^T x B and E = A dy A^T of every tile. Shapes: inputs: V [K, T C], gradients: E [K, T O], x [N, D H W C], dy [N, E P Q O].

        Task t covers its share of the pairs of a tile and a channel, and of those of a tile and a filter. Writes inputs and gradients (=).
        """
        spread_gradients(task, tasks, gradients, dy, windows[16], windows[17], 0, 0, windows[19], windows)
        spread(task, tasks, inputs, x, windows[1], windows[2], windows[13], windows[14], windows[18], windows)
    return weight_factors


def outputs_of(m: int) -> Kernel:
    """The kernel that makes y."""
    K, place = (m + 2) ** 2, tile_place(m)
    transform, tile, square = both_sides(matrices(m)[0]), registers(K), registers(m * m)

    @kernel
    def outputs(task: Int, tasks: Int, y: Matrix, products: Matrix, bias: Vector, windows: Windows, relu: Int) -> None:
        """y = A^T M A + b, then max(y, 0) if relu. Shapes: y [N, E P Q O], products: M [K, T O], bias [O] or empty.

        Task t covers its share of the pairs of a tile and a filter. Writes y (=).
        """
        P, Q, O = windows[16], windows[17], windows[19]
        ys, ms, shifts, total = data(y), data(products), data(bias), products.shape[1]
        found, made, least = tile(y), square(y), y.dtype.type(0 if relu else -math.inf)
        start, stop = row_share(total, tasks, task)
        for e in range(start + thread(), stop, THREADS):
            for k in range(K):
                found[k] = ms[k * total + e]
            transform(made, found)
            t, o = divided(e, O)
            image, p, q = place(t, windows)
            at, shift = ((image * P + p) * Q + q) * O + o, shifts[o] if bias.size else y.dtype.type(0)
            for i in range(m):
                for j in range(m):
                    if p + i < P and q + j < Q:
                        ys[at + (i * Q + j) * O] = maximum(made[m * i + j] + shift, least)
    return outputs


def weight_of(m: int) -> Kernel:
    """The kernel that makes dW."""
    K = (m + 2) ** 2
    transform, tile, window = both_sides(transposed(matrices(m)[1])), registers(K), registers(9)

    @kernel
    def weight(task: Int, tasks: Int, dweight: Matrix, products: Matrix) -> None:
        """dW = G^T dU G. Shapes: dweight [9, C O], products: dU [K, C O]. Task t covers its share of the columns. Writes dweight (=)."""
        dws, dus, total = data(dweight), data(products), products.shape[1]
        found, made = tile(dweight), window(dweight)
        start, stop = row_share(total, tasks, task)
        for e in range(start + thread(), stop, THREADS):
            for k in range(K):
                found[k] = dus[k * total + e]
            transform(made, found)
            for s in range(9):
                dws[s * total + e] = made[s]
    return weight


factors2, factors4 = factors_of(2), factors_of(4)
weight_factors2, weight_factors4 = weight_factors_of(2), weight_factors_of(4)
outputs2, outputs4 = outputs_of(2), outputs_of(4)
weight2, weight4 = weight_of(2), weight_of(4)


# The products, by tiles as in matmul_cuda.py.

def product_of(side: int, turned: bool) -> Kernel:
    """The kernel that multiplies the matrices of two stacks by tiles of that size, the left ones transposed if `turned`."""
    make_tile: Any = tile_of(ARITHMETIC, side, not turned, False)

    @kernel
    def product(task: Int, tasks: Int, y: Tensor3, a: Tensor3, b: Tensor3) -> None:
        """y[k] = a[k] b[k]. Shapes: y [K, M, N], or [K, slices M, N]: the sums over slices of I, one behind the other; a [K, M, I] or, turned,
        [K, I, M], b [K, I, N].

        Task t covers the tiles t, t + tasks, ... of all. Writes y (=).
        """
        stacks, inner, columns = b.shape
        rows, leading, none = a.shape[2 if turned else 1], a.shape[2], nothing(a)
        slices = divided(y.shape[1], max(1, rows))[0]
        tiles = tiles_of(rows, columns, side) * slices
        for number in range(task, stacks * tiles, tasks):
            k, tile = divided(number, tiles)
            make_tile(tile, slices, rows, columns, inner, behind(data(y), k * y.shape[1] * columns), behind(data(a), k * rows * inner), leading,
                      behind(data(b), k * inner * columns), columns, none, none, y)
    return product


product_32, product_64, product_128 = (product_of(side, False) for side in (32, 64, 128))
product_turned_32, product_turned_64, product_turned_128 = (product_of(side, True) for side in (32, 64, 128))
