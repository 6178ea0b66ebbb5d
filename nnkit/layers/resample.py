"""Layers that add, remove or repeat places: ZeroPadding, Cropping, UpSampling. Kernels: resample_cpu.py, and the sums over windows of pool_cpu.py.

Samples are channels last, (D, H, W, C), (H, W, C) or (W, C). Letters: see prims/convolution.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from nnkit.layers.base import Shape
from nnkit.layers.pool import SUM, by_channel, tiling
from nnkit.layers.window import Pair, Span, Spatial, pairs, per_axis
from nnkit.plan.passes import image_tasks
from nnkit.spec import base, choice, spec

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = [
    "Cropping1D", "Cropping2D", "Cropping3D", "UpSampling1D", "UpSampling2D", "UpSampling3D", "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D",
]


# More places at the ends of an axis, or fewer.

def shift(g: Builder, y: Buffer, x: Buffer, before: tuple[int, ...]) -> None:
    """Emit y[n, o] = x[n, o - before] where that is a place of x, else 0; `before` may be negative."""
    axes = tuple(Span(size=size, window=1, stride=1, dilation=1, before=b, windows=windows)
                 for size, b, windows in zip(x.shape[1:-1], before, y.shape[1:-1], strict=True))
    c = by_channel(axes, x.shape[-1])
    pieces, cut = image_tasks(x.shape[0], c.axes[0].windows * c.axes[1].windows, 0, x.nbytes + y.nbytes, g.backend)
    g.step("layers.resample.shift", [y.rows()], [x.rows()], scalars=[*c.windows, pieces], **cut)


def shifted(g: Builder, x: Buffer, shape: Shape, before: tuple[int, ...]) -> Buffer:
    """x shifted into samples of that shape; backward: shifted back."""
    y = g.buffer("y", x.shape[0], *shape)
    shift(g, y, x, before)

    def backward(dy: Buffer) -> Buffer:
        dx = g.buffer("dx", *x.shape)
        shift(g, dx, dy, tuple(-b for b in before))
        return dx
    g.on_backward(y, [x], backward)
    return y


@base
class ZeroPadding(Spatial):
    """Zeros before and behind every spatial axis.

    padding: how many, at least 0, default 1: a number, one for each axis, or pairs (before, behind); of one axis one pair.
    Input (N, *places, channels), output (N, *(before + places + behind), channels).
    """

    padding: tuple[Pair, ...] = pairs(default=1)

    def output_shape(self, *shapes: Shape) -> Shape:
        """Every axis longer by its zeros."""
        sizes = self.spatial(shapes[0])
        return (*(size + before + behind for size, (before, behind) in zip(sizes, self.padding, strict=True)), shapes[0][-1])

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """One step each forward and backward."""
        (x,) = xs
        return shifted(g, x, self.output_shape(x.shape[1:]), tuple(before for before, _ in self.padding))


@spec()
class ZeroPadding1D(ZeroPadding):
    """Zeros at both ends of a sequence, (N, steps, channels): see `ZeroPadding`.

    >>> ZeroPadding1D((2, 0)).output_shape((10, 3))
    (12, 3)
    """

    rank: ClassVar[int] = 1


@spec()
class ZeroPadding2D(ZeroPadding):
    """Zeros around an image, (N, height, width, channels): see `ZeroPadding`.

    >>> ZeroPadding2D((1, 3)).output_shape((28, 28, 1))
    (30, 34, 1)
    """

    rank: ClassVar[int] = 2


@spec()
class ZeroPadding3D(ZeroPadding):
    """Zeros around a volume, (N, depth, height, width, channels): see `ZeroPadding`."""

    rank: ClassVar[int] = 3


@base
class Cropping(Spatial):
    """Places at both ends of every spatial axis are left out.

    cropping: how many, at least 0: a number, one for each axis, or pairs (before, behind); of one axis one pair. Default 1, of images 0.
    Input (N, *places, channels), output (N, *(places - before - behind), channels). Raises ValueError where nothing would be left.
    """

    cropping: tuple[Pair, ...] = pairs(default=1)

    def output_shape(self, *shapes: Shape) -> Shape:
        """Every axis shorter by what is left out."""
        sizes = self.spatial(shapes[0])
        if any(0 < sum(pair) >= size for size, pair in zip(sizes, self.cropping, strict=True)):
            rule = f"cropping {self.cropping} must leave something of every axis"
            raise ValueError(f"{type(self).__name__}: {rule}, received samples of shape {shapes[0]}")
        return (*(size - before - behind for size, (before, behind) in zip(sizes, self.cropping, strict=True)), shapes[0][-1])

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """One step each forward and backward."""
        (x,) = xs
        return shifted(g, x, self.output_shape(x.shape[1:]), tuple(-before for before, _ in self.cropping))


@spec()
class Cropping1D(Cropping):
    """A sequence without its ends, (N, steps, channels): see `Cropping`.

    >>> Cropping1D((2, 1)).output_shape((10, 3))
    (7, 3)
    """

    rank: ClassVar[int] = 1


@spec()
class Cropping2D(Cropping):
    """An image without its margins, (N, height, width, channels), by default all of it: see `Cropping`.

    >>> Cropping2D(((1, 2), (0, 3))).output_shape((28, 28, 1))
    (25, 25, 1)
    """

    rank: ClassVar[int] = 2

    cropping: tuple[Pair, ...] = pairs(default=0)


@spec()
class Cropping3D(Cropping):
    """A volume without its margins, (N, depth, height, width, channels): see `Cropping`."""

    rank: ClassVar[int] = 3


# More places in between.

@base
class UpSampling(Spatial):
    """Every place `size` times along every spatial axis: y[n, o, c] = x[n, floor(o / size), c].

    size: at least 1, a number or one for each axis, default 2. Input (N, *places, channels), output (N, *(places size), channels).
    """

    size: Shape = per_axis(default=2)

    def output_shape(self, *shapes: Shape) -> Shape:
        """Every spatial axis times its entry of size."""
        return (*(places * times for places, times in zip(self.spatial(shapes[0]), self.size, strict=True)), shapes[0][-1])

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """What the sum over windows of `size` does, backward and forward: dx is the sum of dy over all places that x went to."""
        (x,) = xs
        shape = self.output_shape(x.shape[1:])
        if shape == x.shape[1:]:
            return x
        c = by_channel(tuple(tiling(*entry) for entry in zip(x.shape[1:-1], self.size, strict=True)), x.shape[-1])
        y = g.buffer("y", x.shape[0], *shape)
        SUM.backward(g, y, y, x, x, c)

        def backward(dy: Buffer) -> Buffer:
            dx = g.buffer("dx", *x.shape)
            SUM.forward(g, dx, dy, c)
            return dx
        g.on_backward(y, [x], backward)
        return y


@spec()
class UpSampling1D(UpSampling):
    """Every step of a sequence several times, (N, steps, channels) -> (N, steps size, channels): see `UpSampling`.

    >>> UpSampling1D(3).output_shape((10, 4))
    (30, 4)
    """

    rank: ClassVar[int] = 1


@spec()
class UpSampling2D(UpSampling):
    """Larger images, (N, height, width, channels) -> (N, height size[0], width size[1], channels).

    size: at least 1, a number or one for each axis, default 2. interpolation: 'nearest' (default; see `UpSampling`) or 'bilinear': along each axis
    output place o lies at (o + 1/2) / size - 1/2, on the line between the input places left and right of it, or outside of them on the outermost:
    centres of pixels are aligned, as in Keras and TensorFlow, and in PyTorch with align_corners=False.

    >>> UpSampling2D((2, 3), interpolation="bilinear").output_shape((7, 5, 8))
    (14, 15, 8)
    """

    rank: ClassVar[int] = 2

    size: Shape = per_axis(default=2)
    interpolation: str = choice("nearest", "bilinear", default="nearest")

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """Of 'bilinear' first along the width, where the image is small, then along the height, in long runs."""
        if self.interpolation == "nearest":
            return UpSampling.lower(self, g, *xs)
        (y,) = xs
        for axis in (2, 1):
            if self.size[axis - 1] > 1:
                y = between(g, y, axis, self.size[axis - 1])
        return y


def between(g: Builder, x: Buffer, axis: int, times: int) -> Buffer:
    """x with `times` as many places along an axis, on the lines between its own. Seen as [N, outer, places, inner]; backward: the transpose."""
    N, shape = x.shape[0], (*x.shape[:axis], x.shape[axis] * times, *x.shape[axis + 1:])
    outer, places, inner = math.prod(x.shape[1:axis]), x.shape[axis], math.prod(x.shape[axis + 1:])

    def step(kernel: str, target: Buffer, source: Buffer, rows: int) -> None:
        flops = 4 * N * outer * places * times * inner
        pieces, cut = image_tasks(N, rows, flops, target.nbytes + source.nbytes, g.backend)
        weights = g.scratch("weights", N * pieces, 2 * times)
        g.step(f"layers.resample.{kernel}", [target.rows()], [source.rows()], scratch=[weights], scalars=[outer, places, times, inner, pieces],
               flops=flops, **cut)

    y = g.buffer("y", *shape)
    step("linear_forward", y, x, outer * places * times)

    def backward(dy: Buffer) -> Buffer:
        dx = g.buffer("dx", *x.shape)
        step("linear_backward", dx, dy, outer * places)
        return dx
    g.on_backward(y, [x], backward)
    return y


@spec()
class UpSampling3D(UpSampling):
    """Larger volumes, (N, depth, height, width, channels): every place several times along every axis: see `UpSampling`."""

    rank: ClassVar[int] = 3
