"""Winograd's convolution on the device: its transforms, and the products of stacks of matrices between them. Matrices and errors: winograd.py.

    filters   U = G W G^T                    inputs      V = B^T x B of every tile           product          M[k] = V[k] U[k]
    outputs   y = A^T M A (+ b)              gradients   E = A dy A^T of every tile          product_turned   dU[k] = V[k]^T E[k]
    weight    dW = G^T dU G

Each of V, U, M, E and dU is a stack of (m + 2)^2 matrices, one for each place of a transformed tile. A thread of a transform has one tile and one
channel, all of it in registers; neighbours have neighbouring channels, so they read and write neighbours. Tiles are counted image by image, row by row.
"""

from __future__ import annotations

import math
from typing import Any

from nnkit.cuda_jit import THREADS, Kernel, behind, both_sides, data, kernel, nothing, registers, routine, thread
from nnkit.jit import Int, Matrix, Tensor3, Vector, Windows
from nnkit.prims.block_cuda import divided, row_share
from nnkit.prims.matmul_cuda import ARITHMETIC, tile_of, tiles_of
from nnkit.prims.winograd import matrices, transposed
from nnkit.scalar import maximum

__all__ = [
    "filters2", "filters4", "gradients2", "gradients4", "inputs2", "inputs4", "outputs2", "outputs4", "product_32", "product_64", "product_128",
    "product_turned_32", "product_turned_64", "product_turned_128", "weight2", "weight4",
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
        """found[size i + j] = the number at place (h + i, w + j), which is source[at + (i W + j) step]; 0 outside of the H x W places."""
        for i in range(size):
            for j in range(size):
                inside = 0 <= h + i < H and 0 <= w + j < W
                found[size * i + j] = source[at + (i * W + j) * step] if inside else like.dtype.type(0)
    return read


def filters_of(m: int) -> Kernel:
    """The kernel that makes U."""
    K = (m + 2) ** 2
    transform, window, tile = both_sides(matrices(m)[1]), registers(9), registers(K)

    @kernel
    def filters(task: Int, tasks: Int, transformed: Matrix, weight: Matrix, C: Int, O: Int, turned: Int) -> None:
        """U = G W G^T. Shapes: transformed [K, C O], weight [9, C O], or [9, O C] with its places in reverse if `turned`.

        Task t covers its share of the pairs of a channel and a filter. Writes transformed (=).
        """
        us, ws = data(transformed), data(weight)
        found, made = window(weight), tile(weight)
        start, stop = row_share(C * O, tasks, task)
        for e in range(start + thread(), stop, THREADS):
            c, o = divided(e, O)
            for s in range(9):
                found[s] = ws[(8 - s) * C * O + o * C + c] if turned else ws[s * C * O + e]
            transform(made, found)
            for k in range(K):
                us[k * C * O + e] = made[k]
    return filters


def inputs_of(m: int) -> Kernel:
    """The kernel that makes V."""
    K, place, read = (m + 2) ** 2, tile_place(m), reading(m + 2)
    transform, tile = both_sides(matrices(m)[2]), registers(K)

    @kernel
    def inputs(task: Int, tasks: Int, transformed: Matrix, x: Matrix, windows: Windows) -> None:
        """V = B^T x B of every tile. Shapes: transformed [K, T C], x [N, D H W C].

        Task t covers its share of the pairs of a tile and a channel. Writes transformed (=).
        """
        H, W, before_h, before_w, C = windows[1], windows[2], windows[13], windows[14], windows[18]
        vs, xs, total = data(transformed), data(x), transformed.shape[1]
        found, made = tile(x), tile(x)
        start, stop = row_share(total, tasks, task)
        for e in range(start + thread(), stop, THREADS):
            t, c = divided(e, C)
            image, h, w = place(t, windows)
            h, w = h - before_h, w - before_w
            read(found, xs, ((image * H + h) * W + w) * C + c, C, h, w, H, W, x)
            transform(made, found)
            for k in range(K):
                vs[k * total + e] = made[k]
    return inputs


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


def gradients_of(m: int) -> Kernel:
    """The kernel that makes E."""
    K, place, read = (m + 2) ** 2, tile_place(m), reading(m)
    transform, tile, square = both_sides(transposed(matrices(m)[0])), registers(K), registers(m * m)

    @kernel
    def gradients(task: Int, tasks: Int, transformed: Matrix, dy: Matrix, windows: Windows) -> None:
        """E = A dy A^T of every tile. Shapes: transformed [K, T O], dy [N, E P Q O].

        Task t covers its share of the pairs of a tile and a filter. Writes transformed (=).
        """
        P, Q, O = windows[16], windows[17], windows[19]
        es, dys, total = data(transformed), data(dy), transformed.shape[1]
        found, made = square(dy), tile(dy)
        start, stop = row_share(total, tasks, task)
        for e in range(start + thread(), stop, THREADS):
            t, o = divided(e, O)
            image, p, q = place(t, windows)
            read(found, dys, ((image * P + p) * Q + q) * O + o, O, p, q, P, Q, dy)
            transform(made, found)
            for k in range(K):
                es[k * total + e] = made[k]
    return gradients


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


filters2, filters4 = filters_of(2), filters_of(4)
inputs2, inputs4 = inputs_of(2), inputs_of(4)
outputs2, outputs4 = outputs_of(2), outputs_of(4)
gradients2, gradients4 = gradients_of(2), gradients_of(4)
weight2, weight4 = weight_of(2), weight_of(4)


# The products, by tiles as in matmul_cuda.py.

def product_of(side: int) -> Kernel:
    """The kernel that multiplies the matrices of two stacks by tiles of that size."""
    make_tile: Any = tile_of(ARITHMETIC, side, True, False)

    @kernel
    def product(task: Int, tasks: Int, y: Tensor3, a: Tensor3, b: Tensor3) -> None:
        """y[k] = a[k] b[k]. Shapes: y [K, M, N], or [K, slices M, N]: the sums over slices of I, one behind the other; a [K, M, I], b [K, I, N].

        Task t covers the tiles t, t + tasks, ... of all. Writes y (=).
        """
        stacks, rows, inner = a.shape
        columns, none = b.shape[2], nothing(a)
        slices = divided(y.shape[1], max(1, rows))[0]
        tiles = tiles_of(rows, columns, side) * slices
        for number in range(task, stacks * tiles, tasks):
            k, tile = divided(number, tiles)
            make_tile(tile, slices, rows, columns, inner, behind(data(y), k * y.shape[1] * columns), behind(data(a), k * rows * inner), inner,
                      behind(data(b), k * inner * columns), columns, none, none, y)
    return product


def product_turned_of(side: int) -> Kernel:
    """The same with the left factors transposed."""
    make_tile: Any = tile_of(ARITHMETIC, side, False, False)

    @kernel
    def product_turned(task: Int, tasks: Int, y: Tensor3, a: Tensor3, b: Tensor3) -> None:
        """y[k] = a[k]^T b[k]. Shapes: y [K, M, N] or [K, slices M, N], a [K, I, M], b [K, I, N]. Otherwise as `product`."""
        stacks, inner, rows = a.shape
        columns, none = b.shape[2], nothing(a)
        slices = divided(y.shape[1], max(1, rows))[0]
        tiles = tiles_of(rows, columns, side) * slices
        for number in range(task, stacks * tiles, tasks):
            k, tile = divided(number, tiles)
            make_tile(tile, slices, rows, columns, inner, behind(data(y), k * y.shape[1] * columns), behind(data(a), k * rows * inner), rows,
                      behind(data(b), k * inner * columns), columns, none, none, y)
    return product_turned


product_32, product_64, product_128 = map(product_of, (32, 64, 128))
product_turned_32, product_turned_64, product_turned_128 = map(product_turned_of, (32, 64, 128))
