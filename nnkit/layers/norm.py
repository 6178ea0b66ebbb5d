"""Normalization layers: BatchNormalization, LayerNormalization. Kernels: norm_cpu.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from nnkit.initializers import Initializer, initializer_field
from nnkit.layers.base import Layer, Parameter, Shape
from nnkit.plan.passes import work_tasks
from nnkit.prims.reduce import Tiling
from nnkit.regularizers import Regularizer
from nnkit.spec import boolean, child, integer, real, shape_of, spec

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["BatchNormalization", "LayerNormalization"]


def sample_axis(layer: str, axis: int, shape: Shape) -> int:
    """The axis of a sample that `axis` names, which counts the batch as axis 0 or, below 0, from the end. Raises ValueError outside."""
    rank = len(shape) + 1
    if not (1 <= axis < rank or -rank < axis < 0):
        rule = "axis must name an axis of the input other than the batch (axis 0)"
        raise ValueError(f"{layer}: {rule}, received axis {axis} for samples of shape {shape}")
    return axis % rank - 1


def affine(g: Builder, layer: BatchNormalization | LayerNormalization, size: int) -> list[Buffer]:
    """gamma and beta as vectors; where the layer has none, vectors of 1 and of 0."""
    found = []
    for name, present, value in (("gamma", layer.scale, 1.0), ("beta", layer.center, 0.0)):
        if present:
            found.append(g.parameter(name).flat())
        else:
            found.append(g.buffer(name, size))
            g.step("layers.norm.fill", [found[-1]], scalars=[value])
    return found


@spec()
class BatchNormalization(Layer):
    """y = gamma (x - mean) / sqrt(variance + epsilon) + beta for every channel: in training with mean and variance of the batch.

    Elsewhere they are the moving averages that training keeps: moving = momentum moving + (1 - momentum) batch. The variance is the biased one
    (divided by the number of cells) in both, as in Keras; PyTorch's running variance is unbiased, and its momentum is 1 - momentum.
    axis: the channels', not the batch's; default -1. momentum: from 0 to 1, default 0.99. epsilon: greater than 0, default 0.001.
    center, scale: whether there is a beta, a gamma. beta_initializer, gamma_initializer, moving_mean_initializer, moving_variance_initializer:
    how they start, by default 0, 1, 0, 1. beta_regularizer, gamma_regularizer: penalties.
    Parameters gamma, beta, moving_mean, moving_variance, each (channels,); training changes the last two, but not by gradients.
    trainable=False makes the layer use and keep its moving averages in training too (Keras' rule for this layer).
    Masked time steps count like all others, unlike in Keras.
    Input and output (N, ..., channels, ...). Ioffe and Szegedy, Batch normalization (2015), algorithms 1 and 2.

    >>> BatchNormalization(axis=1).parameters((3, 28, 28))["gamma"].shape
    (3,)
    """

    keeps_mask: ClassVar[bool] = True

    axis: int = integer(default=-1)
    momentum: float = real(default=0.99, low=0, high=1)
    epsilon: float = real(default=1e-3, low=0, low_open=True)
    center: bool = boolean(default=True)
    scale: bool = boolean(default=True)
    beta_initializer: Initializer = initializer_field(default="zeros")
    gamma_initializer: Initializer = initializer_field(default="ones")
    moving_mean_initializer: Initializer = initializer_field(default="zeros")
    moving_variance_initializer: Initializer = initializer_field(default="ones")
    beta_regularizer: Regularizer | None = child("regularizer", default=None, none=True, kw_only=True)
    gamma_regularizer: Regularizer | None = child("regularizer", default=None, none=True, kw_only=True)

    def output_shape(self, *shapes: Shape) -> Shape:
        """The input's."""
        sample_axis("BatchNormalization", self.axis, shapes[0])
        return shapes[0]

    def parameters(self, *shapes: Shape) -> Mapping[str, Parameter]:
        """gamma and beta where the layer has them, moving_mean, moving_variance."""
        channels = (shapes[0][sample_axis("BatchNormalization", self.axis, shapes[0])],)
        found = {}
        if self.scale:
            found["gamma"] = Parameter(channels, self.gamma_initializer, regularizer=self.gamma_regularizer)
        if self.center:
            found["beta"] = Parameter(channels, self.beta_initializer, regularizer=self.beta_regularizer)
        found["moving_mean"] = Parameter(channels, self.moving_mean_initializer, trainable=False)
        found["moving_variance"] = Parameter(channels, self.moving_variance_initializer, trainable=False)
        return found

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """Statistics of every channel, of the batch or the moving ones; then y, row by row. Backward: sums over the batch, then dx."""
        (x,) = xs
        view = _ChannelView(x, sample_axis("BatchNormalization", self.axis, x.shape[1:]) + 1, g.backend == "cuda")
        batch_statistics = g.training and self.trainable
        statistics = self._batch_statistics(g, x, view) if batch_statistics else self._moving_statistics(g, view)
        y, places = g.buffer("y", *x.shape), 1 if view.suffix else x.places
        g.step(f"layers.norm.batch_norm_normalize{view.suffix}", [view.local(y)], [view.local(x), statistics], rows=x.shape[0],
               places=places, in_place=True)

        def backward(dy: Buffer) -> Buffer:
            dx = g.buffer("dx", *x.shape)
            if batch_statistics:
                coefficients = self._gradients(g, dy, x, view, statistics)
                reads = [view.local(dy), view.local(x), statistics, coefficients]
                g.step(f"layers.norm.batch_norm_input{view.suffix}", [view.local(dx)], reads, rows=x.shape[0], places=places, in_place=True)
            else:
                g.step(f"layers.norm.batch_norm_scale{view.suffix}", [view.local(dx)], [view.local(dy), statistics], rows=x.shape[0],
                       places=places, in_place=True)
            return dx
        g.on_backward(y, [x], backward)
        return y

    def _moving_statistics(self, g: Builder, view: _ChannelView) -> Buffer:
        """The statistics that the moving averages give."""
        statistics = g.buffer("statistics", 4, view.map_width)
        moving = [g.parameter("moving_mean"), g.parameter("moving_variance")]
        g.step("layers.norm.batch_norm_inference", [statistics], [*moving, *affine(g, self, view.channels)], scalars=[self.epsilon])
        return statistics

    def _batch_statistics(self, g: Builder, x: Buffer, view: _ChannelView) -> Buffer:
        """The statistics of the batch: moments of every chunk, then of all; a training step moves the moving averages."""
        partial, tiling = g.buffer("moments", view.chunks, 3, view.width), view.tiling
        scalars = [] if view.suffix else [tiling.fold, tiling.chunk]
        g.step(f"layers.norm.batch_norm_moments{view.suffix}", [partial], [view.sums(x)], scalars=scalars, tasks=view.tasks(4, 1), flops=4 * x.size)
        statistics = g.buffer("statistics", 4, view.map_width)
        moving = [g.parameter("moving_mean"), g.parameter("moving_variance")]
        if g.mode != "train":
            moving = [buffer.piece(0) for buffer in moving]
        rows = tiling.fold * tiling.chunk if view.chunks > 1 else view.rows
        g.step("layers.norm.batch_norm_statistics", [statistics], [partial, *affine(g, self, view.channels)], updates=moving,
               scalars=[view.channels, view.rows, rows, self.epsilon, self.momentum], tasks=view.channel_tasks())
        return statistics

    def _gradients(self, g: Builder, dy: Buffer, x: Buffer, view: _ChannelView, statistics: Buffer) -> Buffer:
        """Emit the steps to dgamma and dbeta; returns the coefficients of dx."""
        partial, tiling = g.buffer("gradient_sums", view.chunks, 2, view.width), view.tiling
        scalars = [] if view.suffix else [tiling.fold, tiling.chunk]
        g.step(f"layers.norm.batch_norm_gradient_sums{view.suffix}", [partial], [view.sums(dy), view.sums(x), statistics], scalars=scalars,
               tasks=view.tasks(4, 2), flops=4 * x.size)
        dgamma = g.gradient("gamma") if self.scale else g.buffer("dgamma", view.channels)
        dbeta = g.gradient("beta") if self.center else g.buffer("dbeta", view.channels)
        coefficients = g.buffer("coefficients", 2, view.map_width)
        g.step("layers.norm.batch_norm_gradients", [coefficients, dgamma, dbeta], [partial, statistics], scalars=[view.channels, view.rows],
               tasks=view.channel_tasks())
        return coefficients


class _ChannelView:
    """How the kernels see x: [R, C] in tiles where the channels are the last axis, [O, C, I] (suffix "_inner") elsewhere."""

    def __init__(self, x: Buffer, axis: int, device: bool) -> None:
        self.nbytes = x.nbytes
        self.size = x.size
        self.channels = x.shape[axis]
        self.outer, self.inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1:])
        self.rows = self.outer * self.inner
        self.suffix = "" if self.inner == 1 else "_inner"
        self.tiling = Tiling(self.rows, self.channels, device)
        self.width = self.channels if self.suffix else self.tiling.width
        self.map_width = self.channels if self.suffix else self.tiling.map_fold * self.channels
        self.chunks = 1 if self.suffix else self.tiling.chunks

    def sums(self, x: Buffer) -> Buffer:
        """x for sums over the cells of a channel."""
        return x.reshaped(self.outer, self.channels, self.inner) if self.suffix else x.reshaped(self.rows, self.channels)

    def local(self, x: Buffer) -> Buffer:
        """x for steps that go row by row."""
        return x.reshaped(x.shape[0], self.outer // max(1, x.shape[0]) * self.channels, self.inner) if self.suffix else x.rows()

    def tasks(self, operations: int, arrays: int) -> int:
        """Tasks of a sum that reads so many arrays and does so many operations for each element."""
        most = self.channels if self.suffix else self.tiling.pieces
        return work_tasks(operations * self.size, arrays * self.nbytes, most=most)

    def channel_tasks(self) -> int:
        """Tasks of a step that joins the chunks: one where a tile repeats the channels."""
        most = 1 if self.map_width > self.channels else -(-self.channels // 64)
        return work_tasks(0, 32 * self.chunks * self.channels, most=most)


@spec()
class LayerNormalization(Layer):
    """y = gamma (x - mean) / sqrt(variance + epsilon) + beta with mean and (biased) variance of every row: of all cells of the last axes.

    axis: the last axis (-1, the default), or a tuple of the last axes, such as (-2, -1); 1, 2, ... count the batch as axis 0. epsilon: greater
    than 0, default 0.001 (PyTorch's is 0.00001). center, scale: whether there is a beta, a gamma. beta_initializer, gamma_initializer: how they
    start, by default 0 and 1. beta_regularizer, gamma_regularizer: penalties.
    Parameters gamma and beta, of the shape of these axes. Input and output (N, ...); training and inference do the same.
    Raises ValueError where the axes are not the last ones. Ba, Kiros and Hinton, Layer normalization (2016), equation 4.

    >>> LayerNormalization(axis=(-2, -1)).parameters((5, 3, 2))["gamma"].shape
    (3, 2)
    """

    keeps_mask: ClassVar[bool] = True

    axis: tuple[int, ...] = shape_of(default=-1, low=-64)
    epsilon: float = real(default=1e-3, low=0, low_open=True)
    center: bool = boolean(default=True)
    scale: bool = boolean(default=True)
    beta_initializer: Initializer = initializer_field(default="zeros")
    gamma_initializer: Initializer = initializer_field(default="ones")
    beta_regularizer: Regularizer | None = child("regularizer", default=None, none=True, kw_only=True)
    gamma_regularizer: Regularizer | None = child("regularizer", default=None, none=True, kw_only=True)

    def _normalized(self, shape: Shape) -> Shape:
        """The shape of the axes that are normalized together."""
        axes = sorted(sample_axis("LayerNormalization", axis, shape) for axis in self.axis)
        if not axes or axes != list(range(len(shape) - len(axes), len(shape))):
            rule = "axis must name the last axes of the input, each once"
            raise ValueError(f"LayerNormalization: {rule}, received {self.axis} for samples of shape {shape}")
        return shape[axes[0]:]

    def output_shape(self, *shapes: Shape) -> Shape:
        """The input's."""
        self._normalized(shapes[0])
        return shapes[0]

    def parameters(self, *shapes: Shape) -> Mapping[str, Parameter]:
        """gamma and beta where the layer has them."""
        shape = self._normalized(shapes[0])
        found = {}
        if self.scale:
            found["gamma"] = Parameter(shape, self.gamma_initializer, regularizer=self.gamma_regularizer)
        if self.center:
            found["beta"] = Parameter(shape, self.beta_initializer, regularizer=self.beta_regularizer)
        return found

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """y and the row's mean and 1 / sqrt(variance + epsilon); backward: dgamma and dbeta by chunks of rows, dx row by row."""
        (x,) = xs
        length = math.prod(self._normalized(x.shape[1:]))
        rows = math.prod(x.shape[:len(x.shape) - len(self.axis)])
        gamma, beta = affine(g, self, length)
        y, statistics = g.buffer("y", *x.shape), g.buffer("statistics", rows, 2)
        flops = 10 * x.size
        g.step("layers.norm.layer_norm_forward", [y.reshaped(rows, length), statistics], [x.reshaped(rows, length), gamma, beta],
               scalars=[self.epsilon], rows=rows, flops=flops, in_place=True)

        def backward(dy: Buffer) -> Buffer:
            reads = [dy.reshaped(rows, length), x.reshaped(rows, length), statistics]
            if self.scale or self.center:
                self._gradients(g, reads, length)
            dx = g.buffer("dx", *x.shape)
            g.step("layers.norm.layer_norm_input", [dx.reshaped(rows, length)], [*reads, gamma], rows=rows, flops=flops, in_place=True)
            return dx
        g.on_backward(y, [x], backward)
        return y

    def _gradients(self, g: Builder, reads: list[Buffer], length: int) -> None:
        """The steps to dgamma and dbeta."""
        dy = reads[0]
        tiling = Tiling(dy.shape[0], length, g.backend == "cuda", fold=1)
        partial = g.buffer("gradient_sums", tiling.chunks, 2, length)
        g.step("layers.norm.layer_norm_gradient_sums", [partial], reads, scalars=[tiling.chunk], tasks=tiling.tasks(6 * dy.size, 2 * dy.nbytes),
               flops=6 * dy.size)
        none = partial.piece(0)
        dgamma, dbeta = g.gradient("gamma").flat() if self.scale else none, g.gradient("beta").flat() if self.center else none
        g.step("layers.norm.layer_norm_gradients", [dgamma, dbeta], [partial], tasks=work_tasks(0, partial.nbytes, most=-(-length // 64)))
