"""Windows that slide over the spatial axes: what convolution, pooling and resampling share. Fields with an entry for each axis, and sizes.

Samples are (D, H, W, C), (H, W, C) or (W, C): spatial axes, then channels. A class says its number of spatial axes in `rank`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import attrs

from nnkit.layers.base import Layer, Shape
from nnkit.spec import base

__all__ = ["Span", "Spatial", "pairs", "per_axis", "spans"]

Pair = tuple[int, int]


@base
class Spatial(Layer):
    """Base of layers over samples with `rank` spatial axes, followed by the channels."""

    rank: ClassVar[int] = 0

    def spatial(self, shape: Shape) -> Shape:
        """The spatial part of a sample's shape. Raises ValueError where a sample has another number of axes."""
        if len(shape) != self.rank + 1:
            axes = " x ".join(("depth", "height", "width")[3 - self.rank:]) if self.rank > 1 else "steps"
            raise ValueError(f"{type(self).__name__} needs samples of {self.rank + 1} axes ({axes}, channels), received samples of shape {shape}")
        return shape[:-1]


def _whole(value: Any) -> Any:
    return int(value) if hasattr(value, "__index__") and not isinstance(value, bool) else value


def _plain(value: Any) -> Any:
    """Lists and NumPy's integers as tuples and Python's."""
    return tuple(map(_plain, value)) if isinstance(value, (tuple, list)) else _whole(value)


def per_axis(*, low: int = 1, default: Any = attrs.NOTHING, none: bool = False, kw_only: bool = False) -> Any:
    """A whole number of at least `low` for every spatial axis; one number stands for all axes, None too where `none` is true.

    Kept as a tuple of `rank` entries.
    """
    def convert(value: Any, instance: Spatial) -> Any:
        value = _plain(value)
        return (value,) * instance.rank if type(value) is int else value

    def check(instance: Spatial, attribute: Any, value: Any) -> None:
        if value is None and none:
            return
        if not (isinstance(value, tuple) and len(value) == instance.rank and all(type(entry) is int and entry >= low for entry in value)):
            rule = f"a whole number of at least {low}, or a tuple of {instance.rank} of them" + (", or None" if none else "")
            raise ValueError(f"{type(instance).__name__}: {attribute.name} must be {rule}, received {value!r}")
    return attrs.field(default=default, converter=attrs.Converter(convert, takes_self=True), validator=check, kw_only=kw_only)  # type: ignore[call-overload]


def pairs(*words: str, default: Any, kw_only: bool = False) -> Any:
    """One of the words, or what lies before and behind each spatial axis: a pair for every axis, a number for both sides, one number for all.

    Kept as the word, or as a tuple of `rank` pairs. Of one axis a single pair may stand alone.
    """
    def convert(value: Any, instance: Spatial) -> Any:
        value = _plain(value)
        if type(value) is int:
            return ((value, value),) * instance.rank
        if isinstance(value, tuple):
            if instance.rank == 1 and len(value) == 2 and all(type(entry) is int for entry in value):
                return (value,)
            return tuple((entry, entry) if type(entry) is int else entry for entry in value)
        return value

    def check(instance: Spatial, attribute: Any, value: Any) -> None:
        if isinstance(value, str) and value in words:
            return
        good = isinstance(value, tuple) and len(value) == instance.rank and all(
            isinstance(pair, tuple) and len(pair) == 2 and all(type(entry) is int and entry >= 0 for entry in pair) for pair in value)
        if not good:
            rule = ", ".join([*map(repr, words), f"a whole number of at least 0, or a tuple of {instance.rank} numbers or pairs (before, behind)"])
            raise ValueError(f"{type(instance).__name__}: {attribute.name} must be {rule}, received {value!r}")
    return attrs.field(default=default, converter=attrs.Converter(convert, takes_self=True), validator=check, kw_only=kw_only)  # type: ignore[call-overload]


@attrs.frozen
class Span:
    """The windows along one axis: window o covers the places o * stride - before + k * dilation, k < window, of an input of `size` places.

    windows: how many there are. Places outside of the input are padding.
    """

    size: int
    window: int
    stride: int
    dilation: int
    before: int
    windows: int

    @property
    def reach(self) -> int:
        """Places from the first to the last of a window, both counted."""
        return (self.window - 1) * self.dilation + 1


def spans(layer: str, sizes: Shape, window: Shape, strides: Shape, dilation: Shape, padding: str | tuple[Pair, ...]) -> tuple[Span, ...]:
    """The windows along every axis.

    padding: 'valid' (none), 'same' (ceil(size / stride) windows, the odd place of padding behind), 'causal' (all before), or pairs.
    Raises ValueError where a window is larger than the padded input.
    """
    found = []
    for axis, (size, k, stride, step) in enumerate(zip(sizes, window, strides, dilation, strict=True)):
        reach = (k - 1) * step + 1
        if padding == "same":
            windows = -(-size // stride)
            before = max(0, (windows - 1) * stride + reach - size) // 2
        else:
            before, behind = {"valid": (0, 0), "causal": (reach - 1, 0)}[padding] if isinstance(padding, str) else padding[axis]
            if size + before + behind < reach:
                raise ValueError(f"{layer}: a window of {window} (dilation {dilation}) must fit into the padded input, received spatial axes of "
                                 f"sizes {sizes} with padding {padding!r}")
            windows = (size + before + behind - reach) // stride + 1
        found.append(Span(size, k, stride, step, before, windows))
    return tuple(found)

