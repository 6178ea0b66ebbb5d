"""Cases of Winograd's transforms and of products of stacks of matrices. They are a part of cuda_cases.CASES.

The transforms are held against their definitions, tile by tile, in matrices of float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cuda_cases import KernelCase, convolution, empty, normal, sizes_of
from nnkit.prims.winograd import matrices, tiles

__all__ = ["winograd"]

# Windows of 3 x 3 with and without padding, also more than needed; sizes that are whole tiles and not; several places of a third axis; one channel.
CONVOLUTIONS = {
    "plain": (convolution((6, 3, 1, 1, 0, 4), (11, 3, 1, 1, 0, 9), channels=5, filters=3), 2),
    "padded": (convolution((3, 1, 1, 1, 0, 3), (5, 3, 1, 1, 2, 7), (4, 3, 1, 1, 1, 4), channels=7, filters=11), 1),
    "point": (convolution((1, 3, 1, 1, 1, 1), (1, 3, 1, 1, 1, 1), channels=1, filters=1), 3),
}
STACKS = {"_32": (3, 35, 33, 37), "_64": (2, 67, 20, 65), "_128": (2, 129, 17, 40)}        # matrices, rows, sums, columns


def real(m: int) -> list[np.ndarray]:
    """A^T, G, B^T."""
    return [np.array(matrix, np.float64) for matrix in matrices(m)]


def cut(images: np.ndarray, windows: tuple[int, ...], m: int, first: tuple[int, int], size: int) -> np.ndarray:
    """[tiles, size, size, channels]: the places of images [N, H, W, C] from m times a tile's row and column less `first` on, 0 outside."""
    N, H, W, C = images.shape
    down, along = -(-windows[16] // m), -(-windows[17] // m)
    wide = np.zeros((N, H + m * down + 2 * size, W + m * along + 2 * size, C))
    wide[:, size:size + H, size:size + W] = images
    return np.stack([wide[n, size + m * i - first[0]:, size + m * j - first[1]:][:size, :size]
                     for n in range(N) for i in range(down) for j in range(along)])


def both(matrix: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """M s M^T of squares [..., size, size, channels], as a stack [places, ... channels]."""
    found = np.einsum("ai,...ijc,bj->ab...c", matrix, squares, matrix)
    return found.reshape(found.shape[0] * found.shape[1], -1)


def images(x: np.ndarray, windows: tuple[int, ...], end: bool) -> np.ndarray:
    """A batch of x, or of y, as images: one for each place of the third axis."""
    D, H, W, C = (*windows[15:18], windows[19]) if end else (*windows[:3], windows[18])
    return x.reshape(len(x) * D, H, W, C)


def squares_of(stack: np.ndarray, channels: int) -> np.ndarray:
    """A stack [places, ... channels] as squares [..., size, size, channels]."""
    size = int(len(stack) ** 0.5)
    return np.moveaxis(stack.reshape(size, size, -1, channels), 2, 0)


def expected(m: int) -> dict[str, Any]:
    """What the transforms give, by name."""
    output, kernel, inner = real(m)

    def inputs(x: np.ndarray, windows: tuple[int, ...]) -> np.ndarray:
        return both(inner, cut(images(x, windows, False), windows, m, windows[13:15], m + 2))

    def factors(u: np.ndarray, v: np.ndarray, w: np.ndarray, x: np.ndarray, windows: tuple[int, ...], turned: int) -> list[np.ndarray]:
        w = w[::-1].reshape(9, windows[19], windows[18]).swapaxes(1, 2) if turned else w
        return [both(kernel, w.reshape(1, 3, 3, w.size // 9)), inputs(x, windows)]

    def weight_factors(v: np.ndarray, e: np.ndarray, x: np.ndarray, dy: np.ndarray, windows: tuple[int, ...]) -> list[np.ndarray]:
        return [inputs(x, windows), both(output.T, cut(images(dy, windows, True), windows, m, (0, 0), m))]

    def outputs(y: np.ndarray, products: np.ndarray, bias: np.ndarray, windows: tuple[int, ...], relu: int) -> list[np.ndarray]:
        P, Q, O = windows[16], windows[17], windows[19]
        made = np.einsum("ai,tijo,bj->tabo", output, squares_of(products, O), output)
        made = made.reshape(-1, -(-P // m), -(-Q // m), m, m, O).swapaxes(2, 3)
        y = made.reshape(-1, -(-P // m) * m, -(-Q // m) * m, O)[:, :P, :Q].reshape(y.shape)
        y = y + np.tile(bias, y.shape[1] // O) if bias.size else y
        return [np.maximum(y, 0) if relu else y]

    def weight(dw: np.ndarray, products: np.ndarray) -> list[np.ndarray]:
        return [both(kernel.T, squares_of(products, products.shape[1]))]
    return {"factors": factors, "weight_factors": weight_factors, "outputs": outputs, "weight": weight}


def transforms(m: int) -> Iterator[KernelCase]:
    """All transforms of each convolution."""
    K, known = (m + 2) ** 2, expected(m)
    for case, (c, N) in CONVOLUTIONS.items():
        C, O, T = c.channels, c.filters, tiles(c, N, m)
        before, after, _ = sizes_of(c)
        x, products = normal(N, before), normal(K, T * O)
        given = [("factors", (empty(K, C * O), empty(K, T * C), normal(9, C * O), x, c.windows, turned)) for turned in (0, 1)]
        given += [("outputs", (empty(N, after), products, normal(O * relu), c.windows, relu)) for relu in (0, 1)]
        given += [("weight_factors", (empty(K, T * C), empty(K, T * O), x, normal(N, after), c.windows)),
                  ("weight", (empty(9, C * O), normal(K, C * O)))]
        for number, (name, arguments) in enumerate(given):
            yield KernelCase(f"winograd{m}-{name}-{case}-{number}", f"prims.stacks.{name}{m}", arguments, written=1 + name.endswith("factors"),
                             expected=known[name])


def in_slices(y: np.ndarray, a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    """a[k] b[k] of each slice of the sums, one behind the other; all slices but the last a multiple of 16 long."""
    slices = y.shape[1] // a.shape[1]
    chunk = -(-a.shape[2] // (16 * slices)) * 16
    return [np.concatenate([a[:, :, first:first + chunk] @ b[:, first:first + chunk] for first in range(0, slices * chunk, chunk)], 1)]


def winograd() -> Iterator[KernelCase]:
    """Transforms of both sizes of tiles; products whose ends lie within a tile, their sums in one slice and in two."""
    for m in (2, 4):
        yield from transforms(m)
    for end, (K, M, I, N) in STACKS.items():
        for slices in (1, 2):
            shared = {"dtypes": ("float32",), "tasks": (1, 3)}
            b = normal(K, I, N)
            yield KernelCase(f"stack{end}-{slices}", f"prims.stacks.product{end}", (empty(K, slices * M, N), normal(K, M, I), b),
                             expected=in_slices, **shared)
            yield KernelCase(f"stack-turned{end}-{slices}", f"prims.stacks.product_turned{end}", (empty(K, slices * M, N), normal(K, I, M), b),
                             expected=lambda y, a, b: in_slices(y, a.swapaxes(1, 2), b), **shared)
