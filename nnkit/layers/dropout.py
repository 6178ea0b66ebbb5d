"""Dropout. Kernels: dropout_cpu.py."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, ClassVar

from nnkit.layers.base import Layer, Shape
from nnkit.layers.window import Spatial
from nnkit.prims.csr import Csr
from nnkit.spec import base, integer, real, shape_of, spec

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"]

GROUPS = 5                                               # runs of sample axes that are alternately of the mask and spread over: see `runs`


@spec()
class Dropout(Layer):
    """In training every number is dropped (0) with probability `rate`, the others are divided by 1 - rate; in inference y = x, without a step.

    rate: at least 0, less than 1; 0 drops nothing. In any one step it counts as a multiple of 2^-16, rounded up or down at random so that its
    mean over the steps is exact.
    noise_shape: the mask's shape with the batch dimension, each entry None (the input's size), 1 (one draw for the whole axis) or the input's
    size (not for the batch): (None, 1, None) drops whole features of a sequence. Default: a draw for every number.
    seed: whole number of at least 0 for a mask that does not depend on the model's seed; None (default) takes the model's.

    Of a sparse matrix its entries are dropped, as all others are 0 anyway; noise_shape must be None.

    The mask is a pure function of seed, layer, step and place: the same for any number of threads, and made anew in backward instead of kept.
    Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting, JMLR 15, 2014; scaled in training, as in Keras.
    """

    keeps_mask: ClassVar[bool] = True

    rate: float = real(low=0, high=1, high_open=True)
    noise_shape: tuple[int | None, ...] | None = shape_of(default=None, low=1, none=True)
    seed: int | None = integer(default=None, low=0, none=True)

    @property
    def keeps_sparse(self) -> bool:
        """Where every number has a draw of its own."""
        return self.noise_shape is None

    def output_shape(self, *shapes: Shape) -> Shape:
        """The input's shape. Raises ValueError where noise_shape does not fit it."""
        (shape,) = shapes
        if self.noise_shape is not None:
            fits = len(self.noise_shape) == len(shape) + 1 and self.noise_shape[0] in (None, 1) and all(
                entry in (None, 1, size) for entry, size in zip(self.noise_shape[1:], shape, strict=True))
            if not (fits and len(runs(mask_shape(self.noise_shape, shape), shape)) <= GROUPS):
                raise ValueError(f"Dropout: noise_shape must have an entry for the batch (None or 1) and for every axis of a sample of shape {shape} "
                                 f"(None, 1 or its size), received {self.noise_shape}")
        return shape

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """y = mask x; backward: dx = mask dy, by the same kernels."""
        return drop(g, xs[0], self.rate, self.noise_shape, self.seed)


@base
class SpatialDropout(Spatial):
    """`Dropout` of whole channels: in training all places of a channel are dropped (0) together, or all divided by 1 - rate.

    rate, seed: as in `Dropout`. Input and output (N, *places, channels).
    Tompson et al., Efficient object localization using convolutional networks, CVPR 2015, section 3.2.
    """

    keeps_mask: ClassVar[bool] = True

    rate: float = real(low=0, high=1, high_open=True)
    seed: int | None = integer(default=None, low=0, none=True)

    def output_shape(self, *shapes: Shape) -> Shape:
        """The input's."""
        self.spatial(shapes[0])
        return shapes[0]

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """`Dropout` with a draw for each channel of a sample."""
        return drop(g, xs[0], self.rate, (None, *(1,) * self.rank, None), self.seed)


@spec()
class SpatialDropout1D(SpatialDropout):
    """Drops whole channels of sequences, (N, steps, channels): see `SpatialDropout`."""

    rank: ClassVar[int] = 1


@spec()
class SpatialDropout2D(SpatialDropout):
    """Drops whole channels of images, (N, height, width, channels): see `SpatialDropout`."""

    rank: ClassVar[int] = 2


@spec()
class SpatialDropout3D(SpatialDropout):
    """Drops whole channels of volumes, (N, depth, height, width, channels): see `SpatialDropout`."""

    rank: ClassVar[int] = 3


def drop(g: Builder, x: Any, rate: float, noise_shape: tuple[int | None, ...] | None = None, seed: int | None = None) -> Any:
    """y = mask x; backward: dx = mask dy, by the same kernels. The fields are those of `Dropout`. x is a buffer, or a sparse matrix, and so is y."""
    if isinstance(x, Csr):
        values = drop(g, x.values, rate, noise_shape, seed)
        return x if values is x.values else x.with_values(values)
    if not g.training or rate == 0 or x.size == 0:
        return x
    y = g.buffer("dropped", *x.shape)
    draw = (rate, 1 / (1 - rate), g.stream(), -1 if seed is None else seed)
    apply_mask(g, y, x, noise_shape, draw)

    def backward(dy: Buffer) -> Buffer:
        dx = g.buffer("dropped_dx", *x.shape)
        apply_mask(g, dx, dy, noise_shape, draw)
        return dx
    g.on_backward(y, [x], backward)
    return y


def apply_mask(g: Builder, y: Buffer, x: Buffer, noise_shape: tuple[int | None, ...] | None, draw: tuple[float, float, int, int]) -> None:
    """y = mask x. Where the mask is smaller than x, it is made in a step of its own."""
    N, shape = x.shape[0], x.shape[1:]
    if noise_shape is None:
        g.step("layers.dropout.dropout_apply", [y.rows()], [x.rows(), g.state("counters")], scalars=draw, rows=N, places=x.places, in_place=True)
        return
    entries = mask_shape(noise_shape, shape)
    masks = 1 if noise_shape[0] == 1 else N
    mask = g.buffer("mask", masks, math.prod(entries))
    g.step("layers.dropout.dropout_mask", [mask], [g.state("counters")], scalars=draw, rows=N if masks == N else 0)
    g.step("layers.dropout.dropout_spread", [y.rows()], [x.rows(), mask], scalars=five(runs(entries, shape))[1:], rows=N, in_place=True)


def mask_shape(noise_shape: tuple[int | None, ...], shape: Shape) -> Shape:
    """The mask's shape for one sample of that shape."""
    return tuple(size if entry is None else entry for entry, size in zip(noise_shape[1:], shape, strict=True))


def runs(entries: Shape, shape: Shape) -> list[int]:
    """Sizes of the runs of neighbouring axes that a mask of shape `entries` has, is spread over, has, ...; the first may be 1.

    >>> runs((1, 1, 7), (4, 5, 7)), runs((4, 1, 1), (4, 5, 7))
    ([1, 20, 7], [4, 35])
    """
    found = [1]
    kept = True
    axes = [(entry == size, size) for entry, size in zip(entries, shape, strict=True) if size != 1]
    for of_mask, sizes in itertools.groupby(axes, key=lambda axis: axis[0]):
        size = math.prod(size for _, size in sizes)
        if of_mask == kept:
            found[-1] *= size
        else:
            found.append(size)
        kept = of_mask
    return found


def five(sizes: list[int]) -> tuple[int, ...]:
    """Up to five runs as five, filled up with 1 before the innermost one, so that the kernel's innermost loop is as long as can be."""
    tail = sizes[-1:] if len(sizes) % 2 else [sizes[-1], 1]
    return (*sizes[:-1], *[1] * (GROUPS + 1 - len(sizes) - len(tail)), *tail)
