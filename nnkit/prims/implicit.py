"""Convolutions on a GPU as steps: products by tiles whose left factor is gathered on the way. Kernels: implicit_cuda.py, depthwise_cuda.py.

One way for all shapes, whatever `algorithm` says (but for Winograd's, which go another way: stacks.py): nothing is packed, W is read as it lies.
Small convolutions go image by image, as a part of a chain; large ones by tiles, each any block's. What is chosen follows from shapes alone, so a
sum's order, too, depends on nothing else.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from nnkit.plan.launch import DEPTH, MOST_TASKS, PATCHES, SHARED_BYTES, TAPS, TILED_FLOPS, patch_bytes, strip
from nnkit.plan.passes import image_tasks
from nnkit.plan.products import BLOCKS, SHORTEST, chunks, slices_worth
from nnkit.prims.reduce import sum_slices

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer
    from nnkit.prims.convolution import Convolution

__all__ = ["Channels", "Implicit", "on_device"]

IMAGE_FLOPS = 2 ** 19                                    # of an image that are worth more than one block
SHORTEST_PLACES = 8 * DEPTH                              # fewest places of y that a slice of dW goes over


def on_device(c: Convolution) -> Any:
    """How a GPU computes the convolution."""
    return Channels if c.groups > 1 and c.groups == c.channels and not c.empty else Implicit


def tiles(end: str, rows: int, columns: int) -> int:
    """Tiles of a matrix."""
    tall, wide = PATCHES[end]
    return -(-rows // tall) * -(-columns // wide)


def tile_size(g: Builder, rows: int, columns: int, parts: int, depth: int, shortest: int = SHORTEST) -> tuple[str, int]:
    """(end of a kernel's name, slices of the sums over `depth`) for a large product, in so many parts that are products of their own: the tiles that
    are estimated to take least."""
    narrow, cores = columns <= PATCHES["_narrow"][1], g.precision != "float32"
    found = []
    for end in ["_narrow"] if narrow else [end for end in ("_128", "_64") if patch_bytes(end, g.dtype) <= SHARED_BYTES]:
        count = parts * tiles(end, rows, columns)
        found.append((*slices_worth(count, depth, math.prod(PATCHES[end]), parts * rows * columns, shortest, cores), end))
    _, slices, end = min(found, key=lambda each: each[0])
    return end, slices


class Implicit:
    """Products by tiles: any window, stride, dilation, padding and groups."""

    @staticmethod
    def forward(g: Builder, c: Convolution, y: Buffer, x: Buffer, weight: Buffer, bias: Buffer | None) -> None:
        """y = x * W (+ b)."""
        N, matrix, bias = x.shape[0], c.flat(weight), bias or weight.piece(0)
        end, cut, slices = Implicit.cut(g, c, N, [span.windows for span in c.axes], c.filters, (1, 1, 1))
        with sum_slices(g, y, slices) as parts:
            g.step(f"prims.implicit.implicit_forward{end}", [parts.reshaped(slices * N, y.rows().shape[1])],
                   [x.rows(), matrix, bias], scalars=[*c.windows, 0], flops=c.flops(N), relu=slices == 1,
                   filters=(matrix, bias) if slices == 1 else None, **cut)

    @staticmethod
    def input_gradient(g: Builder, c: Convolution, dx: Buffer, dy: Buffer, weight: Buffer, bias: Buffer | None) -> None:
        """dx = what y's gradient dy gives for x (+ b)."""
        N, strides = dx.shape[0], [span.stride for span in c.axes]
        end, cut, slices = Implicit.cut(g, c, N, [span.size for span in c.axes], c.channels, strides)
        with sum_slices(g, dx, slices) as parts:
            g.step(f"prims.implicit.implicit_input{end}", [parts.reshaped(slices * N, dx.rows().shape[1])],
                   [dy.rows(), c.flat(weight), bias or weight.piece(0)], scalars=[*c.windows, 0], flops=c.flops(N), relu=slices == 1, **cut)

    @staticmethod
    def cut(g: Builder, c: Convolution, N: int, sizes: Any, columns: int, strides: Any) -> tuple[str, dict[str, Any], int]:
        """(end of the kernel's name, how the step is cut, slices of its sums) for a result of so many places along each axis, in phases by the
        strides, and columns. What goes in slices cannot have a ReLU or be folded: their sum is another step's."""
        flops = c.flops(N)
        if flops < min(TILED_FLOPS, IMAGE_FLOPS * N):
            return "", {"rows": N}, 1
        rows, own = N * math.prod(-(-size // stride) for size, stride in zip(sizes, strides, strict=True)), columns // c.groups
        parts = c.groups * math.prod(strides)            # products of their own
        depth = c.taps // math.prod(strides) * (c.channels + c.filters - columns) // c.groups
        end, slices = tile_size(g, rows, own, parts, depth)
        return end, {"tasks": max(1, min(MOST_TASKS, slices * parts * tiles(end, rows, own)))}, slices

    @staticmethod
    def weight_gradient(g: Builder, c: Convolution, dweight: Buffer, x: Buffer, dy: Buffer) -> None:
        """dW slice by slice of the places of y, then their sum."""
        flops, own = c.flops(x.shape[0]), c.filters // c.groups
        rows, places = c.taps * c.channels_each, x.shape[0] * math.prod(span.windows for span in c.axes)
        if flops < TILED_FLOPS:
            end, wanted = "", -(-BLOCKS // max(1, c.groups * tiles("", rows, own)))
        else:
            end, wanted = tile_size(g, rows, own, c.groups, places, SHORTEST_PLACES)
        count = c.groups * tiles(end, rows, own)
        chunk, slices = slices_of(places, wanted)
        with sum_slices(g, dweight, slices) as parts:
            g.step(f"prims.implicit.implicit_weight{end}", [parts], [x.rows(), dy.rows()], scalars=[*c.windows, chunk], flops=flops,
                   tasks=max(1, min(MOST_TASKS, count * slices)))


def slices_of(places: int, wanted: int) -> tuple[int, int]:
    """(places of a slice but for the last one, how many slices): not many more than wanted, none of them short."""
    return chunks(places, max(1, min(wanted, places // SHORTEST_PLACES)))


class Channels:
    """A group for every channel."""

    @staticmethod
    def forward(g: Builder, c: Convolution, y: Buffer, x: Buffer, weight: Buffer, bias: Buffer | None) -> None:
        """y = x * W (+ b)."""
        N = x.shape[0]
        matrix, bias = c.flat(weight), bias or weight.piece(0)
        pieces, cut = image_tasks(N, c.axes[0].windows * c.axes[1].windows, c.flops(N), x.nbytes + y.nbytes, g.backend)
        g.step("prims.depthwise.channels_forward", [y.rows()], [x.rows(), matrix, bias], scalars=[*c.windows, pieces, 0],
               flops=c.flops(N), relu=True, filters=(matrix, bias), **cut)

    @staticmethod
    def input_gradient(g: Builder, c: Convolution, dx: Buffer, dy: Buffer, weight: Buffer, bias: Buffer | None) -> None:
        """dx = what y's gradient dy gives for x."""
        assert bias is None                              # a transposed convolution has no groups
        N = dx.shape[0]
        pieces, cut = image_tasks(N, c.axes[0].size * c.axes[1].size, c.flops(N), dx.nbytes + dy.nbytes, g.backend)
        g.step("prims.depthwise.channels_input", [dx.rows()], [dy.rows(), c.flat(weight)], scalars=[*c.windows, pieces], flops=c.flops(N), **cut)

    @staticmethod
    def weight_gradient(g: Builder, c: Convolution, dweight: Buffer, x: Buffer, dy: Buffer) -> None:
        """dW slice by slice of the places of y, then their sum."""
        places = x.shape[0] * math.prod(span.windows for span in c.axes)
        count = -(-c.filters // strip(c.filters)) * -(-c.taps // TAPS)
        chunk, slices = slices_of(places, -(-2 * BLOCKS // count))
        with sum_slices(g, dweight, slices) as parts:
            g.step("prims.depthwise.channels_weight", [parts], [x.rows(), dy.rows()], scalars=[*c.windows, chunk], flops=c.flops(x.shape[0]),
                   tasks=min(MOST_TASKS, count * slices))
