"""Pooling: the largest number or the mean of every window, or of all places. Kernels: pool_cpu.py.

Samples are channels last, (D, H, W, C), (H, W, C) or (W, C). Letters: see prims/convolution.py. A pooling visits the places of a convolution
that has a group for every channel.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import attrs

from nnkit.layers.base import Shape
from nnkit.layers.window import Span, Spatial, pairs, per_axis, spans
from nnkit.plan.passes import image_tasks
from nnkit.prims.convolution import ONE, Convolution
from nnkit.prims.reduce import PIECE, TILE
from nnkit.spec import base, boolean, spec

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = [
    "AveragePooling1D", "AveragePooling2D", "AveragePooling3D", "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D",
    "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D", "MaxPooling1D", "MaxPooling2D", "MaxPooling3D",
]

MOST_CHUNKS = 32                                         # of the places of one image in global pooling


def by_channel(windows: tuple[Span, ...], channels: int) -> Convolution:
    """The places that windows visit, channel by channel."""
    return Convolution.of(windows, channels, channels, channels, "auto")


@attrs.frozen
class Reduction:
    """What becomes of a window, as steps. kernel: the name of its kernels; scalars: theirs. compares: the gradient goes where x is y."""

    kernel: str
    scalars: tuple[int, ...] = ()
    compares: bool = False

    def forward(self, g: Builder, y: Buffer, x: Buffer, c: Convolution) -> None:
        """y = what becomes of every window of x."""
        flops = c.flops(x.shape[0])
        pieces, cut = image_tasks(x.shape[0], c.axes[0].windows * c.axes[1].windows, flops, x.nbytes + y.nbytes, g.backend)
        g.step(f"layers.pool.{self.kernel}_forward", [y.rows()], [x.rows()], scalars=[*c.windows, *self.scalars, pieces], flops=flops, **cut)

    def backward(self, g: Builder, dx: Buffer, x: Buffer, y: Buffer, dy: Buffer, c: Convolution) -> None:
        """dx = what y's gradient dy gives for x. Pieces are rows of x; who compares looks at all of a window, so these are not more than windows."""
        flops = c.flops(x.shape[0])
        rows = c.axes[0].windows * c.axes[1].windows if self.compares else c.axes[0].size * c.axes[1].size
        pieces, cut = image_tasks(x.shape[0], rows, flops, x.nbytes + y.nbytes, g.backend)
        reads = [x.rows(), y.rows(), dy.rows()] if self.compares else [dy.rows()]
        last = [0] if self.compares else []              # who compares can pass through a ReLU below
        g.step(f"layers.pool.{self.kernel}_backward", [dx.rows()], reads, scalars=[*c.windows, *self.scalars, pieces, *last], flops=flops,
               gate=self.compares, **cut)


LARGEST = Reduction("max", compares=True)
SUM, MEAN = Reduction("sum", scalars=(0,)), Reduction("sum", scalars=(1,))


# Windows.

@base
class Pooling(Spatial):
    """Every channel's windows become one number each: the largest (Max) or the mean (Average).

    pool_size: places of a window, at least 1, a number or one for each axis, default 2. strides: from one window to the next, at least 1; None
    (default): pool_size. padding: 'valid' (none), 'same' (ceil(size / stride) windows, the odd place behind), or how many places: a number, one for
    each axis, or pairs (before, behind), each less than pool_size.
    Places in the padding never count: the largest is that of the real places, and the mean is divided by their number, as in Keras.
    Of several equal numbers the first of the window gets the gradient; a NaN is the largest number.
    Input (N, *places, channels), output (N, *windows, channels). Raises ValueError where a window is larger than the padded input.
    """

    reduction: ClassVar[Reduction] = LARGEST

    pool_size: Shape = per_axis(default=2)
    strides: Shape | None = per_axis(default=None, none=True)
    padding: str | tuple[tuple[int, int], ...] = pairs("valid", "same", default="valid")

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.padding, str) and any(max(pair) >= k for pair, k in zip(self.padding, self.pool_size, strict=True)):
            rule = f"'valid', 'same' or less than pool_size {self.pool_size} along every axis"
            raise ValueError(f"{type(self).__name__}: padding must be {rule}, received {self.padding}")

    def spans(self, shape: Shape) -> tuple[Span, ...]:
        """The windows along every axis."""
        name, sizes = type(self).__name__, self.spatial(shape)
        found = spans(name, sizes, self.pool_size, self.strides or self.pool_size, (1,) * self.rank, self.padding)
        if any(span.windows and not span.size for span in found):
            raise ValueError(f"{name}: every window must hold a place of the input, received samples of shape {shape} with padding {self.padding}")
        return found

    def output_shape(self, *shapes: Shape) -> Shape:
        """The number of windows along every axis, then the channels."""
        return (*(span.windows for span in self.spans(shapes[0])), shapes[0][-1])

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """One step each forward and backward."""
        (x,) = xs
        c = by_channel(self.spans(x.shape[1:]), x.shape[-1])
        y = g.buffer("y", x.shape[0], *c.output_shape(self.rank))
        self.reduction.forward(g, y, x, c)

        def backward(dy: Buffer) -> Buffer:
            dx = g.buffer("dx", *x.shape)
            self.reduction.backward(g, dx, x, y, dy, c)
            return dx
        g.on_backward(y, [x], backward)
        return y


@spec()
class MaxPooling1D(Pooling):
    """The largest number of every window along one axis, (N, steps, channels) -> (N, windows, channels): see `Pooling`.

    >>> MaxPooling1D(3, strides=2).output_shape((20, 4))
    (9, 4)
    """

    rank: ClassVar[int] = 1


@spec()
class MaxPooling2D(Pooling):
    """The largest number of every window of images, (N, height, width, channels) -> (N, P, Q, channels): see `Pooling`.

    >>> MaxPooling2D().output_shape((28, 28, 6))
    (14, 14, 6)
    """

    rank: ClassVar[int] = 2


@spec()
class MaxPooling3D(Pooling):
    """The largest number of every window of volumes, (N, depth, height, width, channels) -> (N, E, P, Q, channels): see `Pooling`.

    >>> MaxPooling3D((1, 2, 2), padding="same").output_shape((3, 5, 5, 8))
    (3, 3, 3, 8)
    """

    rank: ClassVar[int] = 3


@spec()
class AveragePooling1D(Pooling):
    """The mean of every window along one axis, (N, steps, channels) -> (N, windows, channels): see `Pooling`."""

    rank: ClassVar[int] = 1
    reduction: ClassVar[Reduction] = MEAN


@spec()
class AveragePooling2D(Pooling):
    """The mean of every window of images, (N, height, width, channels) -> (N, P, Q, channels): see `Pooling`.

    >>> AveragePooling2D((2, 3), padding=((0, 1), (1, 1))).output_shape((4, 9, 8))
    (2, 3, 8)
    """

    rank: ClassVar[int] = 2
    reduction: ClassVar[Reduction] = MEAN


@spec()
class AveragePooling3D(Pooling):
    """The mean of every window of volumes, (N, depth, height, width, channels) -> (N, E, P, Q, channels): see `Pooling`."""

    rank: ClassVar[int] = 3
    reduction: ClassVar[Reduction] = MEAN


# All places.

@base
class GlobalPooling(Spatial):
    """Every channel becomes one number: the largest (Max) or the mean (Average) of all places.

    keepdims: whether the spatial axes stay, with size 1; default False. Of several equal numbers the first gets the gradient; a NaN is the largest.
    Input (N, *places, channels), output (N, channels) or (N, 1, ..., channels). Raises ValueError for samples without places.
    """

    reduction: ClassVar[Reduction] = LARGEST

    keepdims: bool = boolean(default=False)

    def output_shape(self, *shapes: Shape) -> Shape:
        """The channels, behind axes of size 1 with keepdims."""
        (shape,) = shapes
        if not math.prod(self.spatial(shape)):
            raise ValueError(f"{type(self).__name__} needs at least one place along every axis, received samples of shape {shape}")
        return (1,) * (self.rank if self.keepdims else 0) + shape[-1:]

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """Forward: reductions of the places as `stages` has them. Backward: that of one window over all places."""
        (x,) = xs
        N, sizes, channels = x.shape[0], x.shape[1:-1], x.shape[-1]
        y = x
        for stage in stages(math.prod(sizes), channels):
            whole, y = y, g.buffer("y", N, *stage.output_shape(3))
            self.reduction.forward(g, y, whole, stage)
        y = y.reshaped(N, *self.output_shape(x.shape[1:]))

        def backward(dy: Buffer) -> Buffer:
            dx = g.buffer("dx", *x.shape)
            one = (1,) * self.rank
            self.reduction.backward(g, dx, x, y, dy, by_channel(spans(type(self).__name__, sizes, sizes, one, one, "valid"), channels))
            return dx
        g.on_backward(y, [x], backward)
        return y


def stages(places: int, channels: int) -> list[Convolution]:
    """How all places of an image become one, where their order does not count: by one pooling or by two.

    As many places as fill a few registers lie side by side (F, a power of two) and count as channels; the rest are K chunks of R x S. The first
    pooling makes one of every chunk, the second one of the K F that are left. All divide the number of places, so that the mean of means is the mean.

    >>> [(c.output_shape(3), c.taps) for c in stages(28 * 28, 3)]
    [((1, 1, 1, 48), 49), ((1, 1, 1, 3), 16)]
    """
    F = 1
    while channels > 0 and F * channels < TILE and places % (2 * F) == 0:
        F *= 2
    rest = places // F
    K = largest_divisor(rest, min(MOST_CHUNKS, places * channels // PIECE))
    R = largest_divisor(rest // K, math.isqrt(rest // K))            # a sum of R sums of S: fewer roundings in a row
    S = rest // K // R
    found = [by_channel((ONE, tiling(K, R), tiling(1, S)), F * channels)]
    return found if K * F == 1 else [*found, by_channel((ONE, tiling(1, K), tiling(1, F)), channels)]


def tiling(windows: int, window: int) -> Span:
    """Windows side by side."""
    return Span(size=windows * window, window=window, stride=window, dilation=1, before=0, windows=windows)


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is at most `most`; at least 1."""
    return next((d for d in range(min(number, most), 0, -1) if number % d == 0), 1)


@spec()
class GlobalMaxPooling1D(GlobalPooling):
    """The largest number of every channel of a sequence, (N, steps, channels) -> (N, channels): see `GlobalPooling`."""

    rank: ClassVar[int] = 1


@spec()
class GlobalMaxPooling2D(GlobalPooling):
    """The largest number of every channel of an image, (N, height, width, channels) -> (N, channels): see `GlobalPooling`."""

    rank: ClassVar[int] = 2


@spec()
class GlobalMaxPooling3D(GlobalPooling):
    """The largest number of every channel of a volume, (N, depth, height, width, channels) -> (N, channels): see `GlobalPooling`."""

    rank: ClassVar[int] = 3


@spec()
class GlobalAveragePooling1D(GlobalPooling):
    """The mean of every channel of a sequence, (N, steps, channels) -> (N, channels): see `GlobalPooling`.

    Where steps are masked (see `Masking`, `Embedding`), the mean is over the others, and 0 of a sample without any; in Keras that is NaN.
    """

    rank: ClassVar[int] = 1
    reduction: ClassVar[Reduction] = MEAN

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """With a mask one step each forward and backward, else as any global pooling."""
        (x,), mask = xs, g.mask()
        if mask is None:
            return super().lower(g, x)
        N, _, channels = x.shape
        y = g.buffer("y", N, *self.output_shape(x.shape[1:]))
        g.step("layers.pool.masked_mean_forward", [y.reshaped(N, channels)], [x, mask], rows=N, flops=2 * x.size)

        def backward(dy: Buffer) -> Buffer:
            dx = g.buffer("dx", *x.shape)
            g.step("layers.pool.masked_mean_backward", [dx], [dy.reshaped(N, channels), mask], rows=N, flops=x.size)
            return dx
        g.on_backward(y, [x], backward)
        return y


@spec()
class GlobalAveragePooling2D(GlobalPooling):
    """The mean of every channel of an image, (N, height, width, channels) -> (N, channels): see `GlobalPooling`.

    >>> GlobalAveragePooling2D(keepdims=True).output_shape((7, 7, 512))
    (1, 1, 512)
    """

    rank: ClassVar[int] = 2
    reduction: ClassVar[Reduction] = MEAN


@spec()
class GlobalAveragePooling3D(GlobalPooling):
    """The mean of every channel of a volume, (N, depth, height, width, channels) -> (N, channels): see `GlobalPooling`."""

    rank: ClassVar[int] = 3
    reduction: ClassVar[Reduction] = MEAN
