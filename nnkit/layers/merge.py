"""Merge layers, which make one tensor of several: number by number, side by side, or by dot products. Kernels: merge_cpu.py."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from nnkit.layers.base import Layer, Shape
from nnkit.layers.norm import sample_axis
from nnkit.spec import base, boolean, integer, spec

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["Add", "Average", "Concatenate", "Dot", "Maximum", "Minimum", "Multiply", "Subtract"]

NORM_EPSILON = 1e-7                                      # Keras': rows shorter than this are divided by it


# Number by number.

@base
class Elementwise(Layer):
    """Base of the layers that work number by number, pair after pair: f(f(x0, x1), x2) and so on.

    Samples are broadcast against each other as NumPy and Keras do it: axes are aligned at the last one, and a sample is repeated along axes that
    it lacks or of which it has 1. In backward its gradient is summed over these repetitions in a fixed order. The batch is the same for all.
    """

    keeps_mask: ClassVar[bool] = True

    arity: ClassVar[tuple[int, int | None]] = (2, None)

    def output_shape(self, *shapes: Shape) -> Shape:
        """The shape to which all inputs are broadcast. Raises ValueError where they cannot be."""
        found = broadcast_shape(shapes)
        if found is None:
            raise ValueError(f"{type(self).__name__}: the shapes of its inputs' samples must broadcast against each other: aligned at the last axis, "
                             f"sizes must be equal or 1, received {' and '.join(map(str, shapes))}")
        return found

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """Repeat the samples that are smaller, then step after step the pairs; the result of one may be written over that of the one before."""
        shape = self.output_shape(*(x.shape[1:] for x in xs))
        *before, last = (repeated(g, x, shape) for x in xs)
        return self.pair(g, functools.reduce(lambda a, b: self.pair(g, a, b, 1.0), before), last, 1 / len(xs))

    def pair(self, g: Builder, a: Buffer, b: Buffer, share: float) -> Buffer:
        """Emit f(a, b) of equal shapes with its backward steps. share: 1 divided by the number of inputs where it is the last pair, else 1."""
        raise TypeError(f"{type(self).__name__} does not say how it merges two inputs")


def broadcast_shape(shapes: Sequence[Shape]) -> Shape | None:
    """The shape to which samples of these shapes are broadcast, None where they cannot be."""
    rank = max(map(len, shapes))
    axes = [{*sizes} - {1} for sizes in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True)]
    return tuple(min(sizes, default=1) for sizes in axes) if all(len(sizes) < 2 for sizes in axes) else None


def repeated(g: Builder, x: Buffer, shape: Shape) -> Buffer:
    """x with its samples broadcast to `shape`; x itself, seen with that shape, where nothing has to be repeated."""
    N = x.shape[0]
    sizes = (1,) * (len(shape) - len(x.shape) + 1) + x.shape[1:]
    axes = [(size == 1, entry) for size, entry in zip(sizes, shape, strict=True) if entry != 1]
    runs = [(repeats, math.prod(entry for _, entry in run)) for repeats, run in itertools.groupby(axes, key=lambda axis: axis[0])]
    inner = 1
    for position, (repeats, size) in reversed([*enumerate(runs)]):
        if repeats:
            outer = N * math.prod(size for repeats, size in runs[:position] if not repeats)
            x = _repeated_run(g, x, outer, size, inner)
        inner *= size
    return x.reshaped(N, *shape)


def _repeated_run(g: Builder, x: Buffer, outer: int, times: int, inner: int) -> Buffer:
    """x [R, B] as y [R, S, B], each row S times; backward: dx, the sum over them."""
    y = g.buffer("repeated", outer, times, inner)
    g.step("layers.merge.repeat_forward", [y], [x.reshaped(outer, inner)], rows=outer)

    def backward(dy: Buffer) -> Buffer:
        dx = g.buffer("repeated_dx", *x.shape)
        g.step("layers.merge.repeat_backward", [dx.reshaped(outer, inner)], [dy], rows=outer, flops=dy.size)
        return dx
    g.on_backward(y, [x], backward)
    return y


def _pointwise(g: Builder, kernel: str, name: str, *xs: Buffer, scalars: tuple[float, ...] = ()) -> Buffer:
    """Emit a row-local step over arrays of one shape, which may write over the first of them; returns what it writes."""
    y = g.buffer(name, *xs[0].shape)
    g.step(kernel, [y.rows()], [x.rows() for x in xs], scalars=scalars, rows=y.shape[0], places=y.places, flops=y.size, in_place=True)
    return y


def _sum(g: Builder, a: Buffer, b: Buffer, sign: float, factor: float) -> Buffer:
    """y = factor (a + sign b); backward: da = factor dy, db = sign da; without a step where that is dy."""
    if sign == factor == 1:
        y = _pointwise(g, "prims.pointwise.sum_of_two", "y", a, b)
    else:
        y = _pointwise(g, "layers.merge.sum_forward", "y", a, b, scalars=(sign, factor))

    def scaled(dy: Buffer, factor: float) -> Buffer:
        return dy if factor == 1 else _pointwise(g, "layers.merge.sum_backward", "dx", dy, scalars=(factor,))

    def backward(dy: Buffer) -> tuple[Buffer, Buffer]:
        da = scaled(dy, factor)
        return da, da if sign == 1 else scaled(dy, sign * factor)
    g.on_backward(y, [a, b], backward)
    return y


def _extreme(g: Builder, a: Buffer, b: Buffer, sign: float) -> Buffer:
    """y = the larger of a and b (sign 1) or the smaller (-1); backward: dy for the one that y is, 0 for the other."""
    y = _pointwise(g, "layers.merge.extreme_forward", "y", a, b, scalars=(sign,))

    def backward(dy: Buffer) -> tuple[Buffer, ...]:
        return tuple(_pointwise(g, "layers.merge.extreme_backward", "dx", dy, a, b, scalars=(sign, side)) for side in (0, 1))
    g.on_backward(y, [a, b], backward)
    return y


@spec()
class Add(Elementwise):
    """y = x0 + x1 + ..., of two inputs or more; called on a list or on several tensors.

    Inputs (N, ...) whose samples broadcast against each other (see Keras or NumPy), output (N, ...) of the broadcast shape. Raises ValueError
    where they do not. The gradient of an input of the output's shape is dy itself: no step, no copy.

    >>> Add().output_shape((28, 28, 3), (1, 3))
    (28, 28, 3)
    """

    def pair(self, g: Builder, a: Buffer, b: Buffer, share: float) -> Buffer:
        """a + b."""
        return _sum(g, a, b, 1.0, 1.0)


@spec()
class Subtract(Elementwise):
    """y = x0 - x1, of exactly two inputs. Inputs (N, ...) are broadcast as by `Add`; raises ValueError where they cannot be.

    >>> Subtract().output_shape((5, 1), (4,))
    (5, 4)
    """

    arity: ClassVar[tuple[int, int | None]] = (2, 2)

    def pair(self, g: Builder, a: Buffer, b: Buffer, share: float) -> Buffer:
        """a - b."""
        return _sum(g, a, b, -1.0, 1.0)


@spec()
class Average(Elementwise):
    """y = (x0 + x1 + ...) / number of inputs, of two or more. Inputs (N, ...) are broadcast as by `Add`; raises ValueError where they cannot be."""

    def pair(self, g: Builder, a: Buffer, b: Buffer, share: float) -> Buffer:
        """share (a + b): the last pair divides the sum."""
        return _sum(g, a, b, 1.0, share)


@spec()
class Multiply(Elementwise):
    """y = x0 x1 ..., number by number, of two inputs or more. Inputs (N, ...) are broadcast as by `Add`; raises ValueError where they cannot be."""

    def pair(self, g: Builder, a: Buffer, b: Buffer, share: float) -> Buffer:
        """y = a b; backward: da = dy b, db = dy a."""
        y = _pointwise(g, "layers.merge.multiply", "y", a, b)
        g.on_backward(y, [a, b], lambda dy: tuple(_pointwise(g, "layers.merge.multiply", "dx", dy, other) for other in (b, a)))
        return y


@spec()
class Maximum(Elementwise):
    """y = max(x0, x1, ...), number by number, of two inputs or more; NaN where one is NaN.

    Where several are largest, the whole gradient goes to the first of them, as in TensorFlow (PyTorch gives each of two equal ones half).
    Inputs (N, ...) are broadcast as by `Add`; raises ValueError where they cannot be.
    """

    def pair(self, g: Builder, a: Buffer, b: Buffer, share: float) -> Buffer:
        """max(a, b)."""
        return _extreme(g, a, b, 1.0)


@spec()
class Minimum(Elementwise):
    """y = min(x0, x1, ...), number by number, of two inputs or more; NaN where one is NaN.

    Where several are smallest, the whole gradient goes to the first of them, as in TensorFlow (PyTorch gives each of two equal ones half).
    Inputs (N, ...) are broadcast as by `Add`; raises ValueError where they cannot be.
    """

    def pair(self, g: Builder, a: Buffer, b: Buffer, share: float) -> Buffer:
        """min(a, b)."""
        return _extreme(g, a, b, -1.0)


# Side by side.

@spec()
class Concatenate(Layer):
    """The inputs one behind the other along an axis, of two inputs or more.

    axis: of the samples, which counts the batch as axis 0 and cannot be the batch; default -1, the last. Inputs (N, ...) of shapes that differ
    along that axis alone, output (N, ...) with the sum of their sizes there. Raises ValueError where the shapes do not fit.

    >>> Concatenate(axis=1).output_shape((2, 5), (3, 5))
    (5, 5)
    """

    keeps_mask: ClassVar[bool] = True                    # along other axes than the steps, whose masks `lower` puts one behind the other

    arity: ClassVar[tuple[int, int | None]] = (2, None)

    axis: int = integer(default=-1)

    def output_shape(self, *shapes: Shape) -> Shape:
        """The inputs' shape with the sum of their sizes along the axis."""
        first = shapes[0]
        at = sample_axis("Concatenate", self.axis, first)
        if any(len(shape) != len(first) or (*shape[:at], *shape[at + 1:]) != (*first[:at], *first[at + 1:]) for shape in shapes):
            raise ValueError(f"Concatenate: the shapes of its inputs' samples must be equal but for axis {self.axis}, "
                             f"received {' and '.join(map(str, shapes))}")
        return (*first[:at], sum(shape[at] for shape in shapes), *first[at + 1:])

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """Copies: the first step writes y whole, with two inputs, and 0 where others follow. Backward: for each input the copy of its part of dy."""
        axis = sample_axis("Concatenate", self.axis, xs[0].shape[1:]) + 1
        rows = math.prod(xs[0].shape[:axis])
        y = g.buffer("y", xs[0].shape[0], *self.output_shape(*(x.shape[1:] for x in xs)))
        widths = [math.prod(x.shape[axis:]) for x in xs]
        starts = [sum(widths[:position]) for position in range(len(xs))]
        side_by_side(g, y, xs, rows)
        if axis == 1 and len(y.shape) > 2 and any(g.mask(position) for position in range(len(xs))):
            mask = g.buffer("mask", *y.shape[:2])
            side_by_side(g, mask, [g.mask(position) or all_steps(g, x) for position, x in enumerate(xs)], y.shape[0])
            g.set_masks(mask)

        def backward(dy: Buffer) -> tuple[Buffer, ...]:
            dxs = tuple(g.buffer("dx", *x.shape) for x in xs)
            for dx, width, start in zip(dxs, widths, starts, strict=True):
                g.step("layers.merge.concatenate_backward", [dx.reshaped(rows, width)], [dy.reshaped(rows, sum(widths))], scalars=[start], rows=rows)
            return dxs
        g.on_backward(y, xs, backward)
        return y


def side_by_side(g: Builder, y: Buffer, xs: Sequence[Buffer], rows: int) -> None:
    """y = the matrices xs of `rows` rows, one beside the other."""
    y2, views = y.reshaped(rows, y.size // rows if rows else 0), [x.reshaped(rows, x.size // rows if rows else 0) for x in xs]
    g.step("layers.merge.concatenate_two", [y2], views[:2], rows=rows)
    for position in range(2, len(views)):
        start = sum(view.shape[1] for view in views[:position])
        g.step("layers.merge.concatenate_more", [], [views[position]], updates=[y2], scalars=[start], rows=rows)


def all_steps(g: Builder, x: Buffer) -> Buffer:
    """The mask of an input of which all time steps count."""
    mask = g.buffer("all_steps", *x.shape[:2])
    g.step("layers.norm.fill", [mask.flat()], scalars=[1.0])
    return mask


# Dot products.

def _plain_axes(value: Any) -> Any:
    """Whole numbers as Python's, a list of them as a tuple; anything else as it is."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain_axes, value))
    return int(value) if hasattr(value, "__index__") and not isinstance(value, bool) else value


def _check_axes(instance: Dot, attribute: Any, value: Any) -> None:
    axes = value if isinstance(value, tuple) else (value, value)
    if len(axes) != 2 or any(type(axis) is not int or axis == 0 for axis in axes):
        raise ValueError(f"Dot: axes must be a whole number or two of them, none of them 0 (the batch), received {value!r}")


@spec()
class Dot(Layer):
    """Sample by sample the dot products of two inputs along an axis of each: z[n, p, q] = sum over d of x[n, p, d] y[n, q, d].

    axes: the axis along which both are summed, or one for each; they count the batch as axis 0 and cannot be the batch; negative ones count from
    the end. normalize: divide the numbers along these axes by their Euclidean length (by 1e-7 where that is smaller), so that the result is the
    cosine of the angle between them; default False.
    p stands for all other axes of the first input, q for those of the second, in their order: inputs (N, ...) and (N, ...), output (N, p..., q...);
    (N, 1) where both have no other axis. Raises ValueError where the two axes differ in size. As in Keras.

    >>> Dot(axes=(1, 2)).output_shape((3, 5), (10, 3))
    (5, 10)
    >>> Dot(axes=1, normalize=True).output_shape((64,), (64,))
    (1,)
    """

    arity: ClassVar[tuple[int, int | None]] = (2, 2)

    axes: int | tuple[int, int] = attrs.field(converter=_plain_axes, validator=_check_axes)
    normalize: bool = boolean(default=False)

    def _axes(self, x: Shape, y: Shape) -> tuple[int, int]:
        """The axes of the samples, from 0."""
        axes = self.axes if isinstance(self.axes, tuple) else (self.axes, self.axes)
        i, j = sample_axis("Dot", axes[0], x), sample_axis("Dot", axes[1], y)
        if x[i] != y[j]:
            raise ValueError(f"Dot: the axes {self.axes} of the two inputs must have one size, received samples of shapes {x} and {y}")
        return i, j

    def output_shape(self, *shapes: Shape) -> Shape:
        """The first input's other axes, then the second's."""
        x, y = shapes
        i, j = self._axes(x, y)
        return (*x[:i], *x[i + 1:], *y[:j], *y[j + 1:]) or (1,)

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """Both inputs with their axis at the end, [N, P, D] and [N, Q, D]; then products of matrices: z = x y^T, dx = dz y, dy = dz^T x."""
        N = xs[0].shape[0]
        axes = self._axes(xs[0].shape[1:], xs[1].shape[1:])
        x, y = (_axis_last(g, buffer, axis + 1) for buffer, axis in zip(xs, axes, strict=True))
        if self.normalize:
            x, y = _normalized(g, x), _normalized(g, y)
        (_, P, D), Q = x.shape, y.shape[1]
        z = g.buffer("y", N, P, Q)
        columns = xs[1].reshaped(N, D, Q) if axes[1] == 0 and not self.normalize else _transposed(g, y)
        _products(g, z, x, columns, transposed=False)

        def backward(dz: Buffer) -> tuple[Buffer, Buffer]:
            dx, dy = g.buffer("dx", *x.shape), g.buffer("dx", *y.shape)
            _products(g, dx, dz, y, transposed=False)
            _products(g, dy, dz, x, transposed=True)
            return dx, dy
        g.on_backward(z, [x, y], backward)
        return z.reshaped(N, *self.output_shape(xs[0].shape[1:], xs[1].shape[1:]))


def _products(g: Builder, z: Buffer, a: Buffer, b: Buffer, *, transposed: bool) -> None:
    """z [N, M, O] = a [N, M, K] b [N, K, O]; transposed: a is [N, K, M] and its transpose is meant."""
    g.step("layers.merge.dot_products", [z], [a, b], scalars=[int(transposed)], rows=z.shape[0], flops=2 * z.size * b.shape[1])


def _transposed(g: Builder, x: Buffer) -> Buffer:
    """x [R, I, J] as [R, J, I]: a copy where neither is 1."""
    R, I, J = x.shape
    if 1 in (I, J):
        return x.reshaped(R, J, I)
    y = g.buffer("transposed", R, J, I)
    g.step("layers.merge.dot_transpose", [y], [x], rows=R)
    return y


def _axis_last(g: Builder, x: Buffer, axis: int) -> Buffer:
    """x [N, ...] as [N, P, D] with the axis as D."""
    N, D = x.shape[0], x.shape[axis]
    outer, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1:])
    moved = _transposed(g, x.reshaped(outer, D, inner))
    if moved.name != x.name:
        g.on_backward(moved, [x], lambda dy: _transposed(g, dy).reshaped(*x.shape))
    return moved.reshaped(N, outer * inner // N, D)


def _normalized(g: Builder, x: Buffer) -> Buffer:
    """x [N, P, D] with every row of D numbers divided by its length."""
    y = g.buffer("normalized", *x.shape)
    rows = x.shape[0] * x.shape[1]
    inverse = g.buffer("inverse", rows)
    g.step("layers.merge.normalize_forward", [y.rows(2), inverse], [x.rows(2)], scalars=[1 / NORM_EPSILON], rows=rows, flops=3 * x.size)

    def backward(dy: Buffer) -> Buffer:
        dx = g.buffer("normalized_dx", *x.shape)
        g.step("layers.merge.normalize_backward", [dx.rows(2)], [dy.rows(2), y.rows(2), inverse], scalars=[1 / NORM_EPSILON], rows=rows,
               flops=5 * x.size, in_place=True)
        return dx
    g.on_backward(y, [x], backward)
    return y
