"""Layers that only see the same memory with another shape: no steps, no kernels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from nnkit.layers.base import Layer, Shape
from nnkit.spec import shape_of, spec

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["Flatten", "Reshape"]


@spec()
class Flatten(Layer):
    """All axes but the batch as one, the last fastest: (N, ...) -> (N, features). Samples without axes become samples of one number."""

    is_view: ClassVar[bool] = True

    def output_shape(self, *shapes: Shape) -> Shape:
        """One axis of as many entries as a sample has."""
        return (math.prod(shapes[0]),)

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """x itself, seen with another shape."""
        return xs[0].reshaped(xs[0].shape[0], *self.output_shape(xs[0].shape[1:]))


@spec()
class Reshape(Layer):
    """Every sample with another shape of the same size, the last axis fastest: (N, ...) -> (N, *target_shape).

    target_shape: without the batch; at most one entry is -1 and takes what is left. Raises ValueError where the sizes do not fit.

    >>> Reshape((-1, 4)).output_shape((2, 6))
    (3, 4)
    """

    is_view: ClassVar[bool] = True

    target_shape: Shape = shape_of(wildcard=-1)

    def __attrs_post_init__(self) -> None:
        if self.target_shape.count(-1) > 1:
            raise ValueError(f"Reshape: target_shape must hold -1 at most once, received {self.target_shape}")

    def output_shape(self, *shapes: Shape) -> Shape:
        """target_shape, with what is left in place of -1."""
        (shape,) = shapes
        size, given = math.prod(shape), math.prod(entry for entry in self.target_shape if entry != -1)
        free = -1 in self.target_shape
        if (size % given if given else 1) if free else size != given:
            raise ValueError(f"Reshape: target_shape must hold the {size} numbers of a sample of shape {shape}, received {self.target_shape}")
        return tuple(size // given if entry == -1 else entry for entry in self.target_shape)

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """x itself, seen with another shape."""
        return xs[0].reshaped(xs[0].shape[0], *self.output_shape(xs[0].shape[1:]))
