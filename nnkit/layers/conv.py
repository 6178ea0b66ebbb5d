"""Convolutions: Conv1D to Conv3D, their transposes, depthwise and separable ones. How they are computed: prims/convolution.py.

Samples are channels last, (D, H, W, C), (H, W, C) or (W, C). Letters: N batch, D H W input places, E P Q output places, C channels, O filters,
T R S places of the window (along depth, height, width).

Kernels and their fields have Keras' names, shapes and defaults: (*kernel_size, inputs, outputs), Glorot uniform.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from nnkit.initializers import Initializer, initializer_field
from nnkit.layers.activation import ActivationFunction
from nnkit.layers.base import Parameter, Shape
from nnkit.layers.window import Span, Spatial, pairs, per_axis, spans
from nnkit.prims.convolution import ALGORITHMS, Convolution, algorithms
from nnkit.prims.reduce import sum_rows
from nnkit.regularizers import ActivityRegularizer, Regularizer
from nnkit.spec import base, boolean, child, choice, integer, spec

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = [
    "Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose", "Conv3D", "Conv3DTranspose", "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D",
    "SeparableConv2D",
]

Padding = str | tuple[tuple[int, int], ...]


@base
class Convolutional(Spatial):
    """The fields that all convolutions share (keyword only), and what they end with: bias, activation, penalties.

    dilation_rate: distance of neighbouring places of the window, at least 1, default 1; a number, or one for every axis.
    activation: a spec or its name. use_bias: whether there is a bias b.
    bias_initializer, bias_regularizer: how b starts (zeros), its penalty. activity_regularizer: penalty on the output.
    algorithm: how it is computed: 'auto' (chosen by shapes and dtype alone) or one of `prims.convolution.ALGORITHMS`; the printed plan shows it.
    One that cannot compute the convolution raises ValueError where the input's shape is known; gradients that it cannot compute are left to
    others. Of a transposed layer it is that of the convolution, of a separable one that of the depthwise part. On a GPU 'winograd2', 'winograd4' and
    'auto' count; there is one way for all others.
    """

    dilation_rate: Shape = per_axis(default=1, kw_only=True)
    activation: ActivationFunction = child("activation", default="linear", kw_only=True)
    use_bias: bool = boolean(default=True, kw_only=True)
    bias_initializer: Initializer = initializer_field(default="zeros", kw_only=True)
    bias_regularizer: Regularizer | None = child("regularizer", default=None, none=True, kw_only=True)
    activity_regularizer: ActivityRegularizer | None = child("activity_regularizer", default=None, none=True, kw_only=True)
    algorithm: str = choice("auto", *ALGORITHMS, default="auto", kw_only=True)

    def convolution_of(self, shape: Shape, axes: tuple[Span, ...], channels: int, filters: int, groups: int) -> Convolution:
        """How samples of that shape are convolved. Raises ValueError where the named algorithm cannot do it."""
        c = Convolution.of(axes, channels, filters, groups, self.algorithm)
        if self.algorithm != "auto" and not algorithms()[self.algorithm].fits(c):
            able = ", ".join(repr(name) for name, algorithm in algorithms().items() if algorithm.fits(c))
            raise ValueError(f"{type(self).__name__}: algorithm must be one that can compute {self!r} for samples of shape {shape} ('auto', {able}), "
                             f"received {self.algorithm!r}")
        return c

    def with_bias(self, kernels: Mapping[str, Parameter], output: Shape) -> Mapping[str, Parameter]:
        """The kernels, the bias, and what the activation learns."""
        found = dict(kernels)
        if self.use_bias:
            found["bias"] = Parameter((output[-1],), self.bias_initializer, regularizer=self.bias_regularizer)
        return {**found, **self.activation.parameters(output)}

    def bias(self, g: Builder) -> Buffer | None:
        """The bias, where there is one."""
        return g.parameter("bias") if self.use_bias else None

    def bias_gradient(self, g: Builder, dy: Buffer) -> None:
        """db, where there is a b: the sum of dy over the batch and all places."""
        if self.use_bias:
            sum_rows(g, g.gradient("bias"), dy.rows(len(dy.shape) - 1))

    def convolve(self, g: Builder, c: Convolution, x: Buffer, kernel: str, bias: Buffer | None) -> Buffer:
        """The convolution by the parameter `kernel`; backward: db, dW and dx."""
        seen = (*(span.window for span in c.axes[3 - self.rank:]), c.channels_each, c.filters)     # a depthwise kernel is kept as (..., C, m)
        weight = g.parameter(kernel).reshaped(*seen)
        y = g.buffer("y" if kernel != "depthwise_kernel" else "channels", x.shape[0], *c.output_shape(self.rank))
        c.forward(g, y, x, weight, bias)

        def backward(dy: Buffer) -> Buffer:
            if bias is not None:
                self.bias_gradient(g, dy)
            c.weight_gradient(g, g.gradient(kernel).reshaped(*seen), x, dy)
            dx = g.buffer("dx", *x.shape)
            c.input_gradient(g, dx, dy, weight, None)
            return dx
        g.on_backward(y, [x], backward)
        return y

    def end(self, g: Builder, y: Buffer) -> Buffer:
        """The activation and the penalty on its output."""
        return g.penalize(self.activation.lower(g, y), self.activity_regularizer)


@base
class Conv(Convolutional):
    """y[n, o, f] = activation(sum over the window's places k and the channels c of x[n, o stride + k dilation - before, c] W[k, c, f] + b[f]).

    filters: size of the output's last axis, at least 1, a multiple of groups. kernel_size, strides: at least 1, a number or one for each axis.
    padding: 'valid' (none), 'same' (ceil(size / stride) windows, the odd zero behind), 'causal' (Conv1D: all before), or how many zeros: a number,
    one for each axis, or pairs (before, behind). groups: the filters of each group see their own part of the channels, which it must divide.
    kernel_initializer, kernel_regularizer: how W (parameter "kernel", (*kernel_size, channels / groups, filters)) starts, its penalty; "bias"
    (filters,). The other fields: see `Convolutional`. Input (N, *places, channels), output (N, *windows, filters). Raises ValueError where a window
    is larger than the padded input. A cross-correlation, as in Keras and PyTorch; PyTorch keeps W as (filters, channels / groups, *kernel_size).
    """

    filters: int = integer(low=1)
    kernel_size: Shape = per_axis()
    strides: Shape = per_axis(default=1)
    padding: Padding = pairs("valid", "same", default="valid")
    groups: int = integer(default=1, low=1, kw_only=True)
    kernel_initializer: Initializer = initializer_field(default="glorot_uniform", kw_only=True)
    kernel_regularizer: Regularizer | None = child("regularizer", default=None, none=True, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.filters % self.groups:
            raise ValueError(f"{type(self).__name__}: filters must be a multiple of groups = {self.groups}, received {self.filters}")

    def convolution(self, shape: Shape) -> Convolution:
        """How samples of that shape are convolved."""
        sizes = self.spatial(shape)
        if shape[-1] % self.groups:
            rule = f"the input's channels must be a multiple of groups = {self.groups}"
            raise ValueError(f"{type(self).__name__}: {rule}, received samples of shape {shape}")
        axes = spans(type(self).__name__, sizes, self.kernel_size, self.strides, self.dilation_rate, self.padding)
        return self.convolution_of(shape, axes, shape[-1], self.filters, self.groups)

    def output_shape(self, *shapes: Shape) -> Shape:
        """The number of windows along every axis, then the filters."""
        return self.activation.output_shape(self.convolution(shapes[0]).output_shape(self.rank))

    def parameters(self, *shapes: Shape) -> Mapping[str, Parameter]:
        """The kernel, the bias, and what the activation learns."""
        kernel = (*self.kernel_size, shapes[0][-1] // self.groups, self.filters)
        declared = {"kernel": Parameter(kernel, self.kernel_initializer, regularizer=self.kernel_regularizer)}
        return self.with_bias(declared, self.output_shape(*shapes))

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """The convolution, then the activation; backward: db, dW and dx."""
        (x,) = xs
        return self.end(g, self.convolve(g, self.convolution(x.shape[1:]), x, "kernel", self.bias(g)))


@spec()
class Conv1D(Conv):
    """Convolution along one axis, (N, steps, channels) -> (N, windows, filters): see `Conv`. padding may be 'causal'.

    >>> Conv1D(8, 3, padding="causal").output_shape((20, 2))
    (20, 8)
    """

    rank: ClassVar[int] = 1

    filters: int = integer(low=1)
    kernel_size: Shape = per_axis()
    strides: Shape = per_axis(default=1)
    padding: Padding = pairs("valid", "same", "causal", default="valid")


@spec()
class Conv2D(Conv):
    """Convolution of images, (N, height, width, channels) -> (N, P, Q, filters): see `Conv`.

    >>> Conv2D(32, (3, 5), strides=2, padding="same").output_shape((28, 28, 1))
    (14, 14, 32)
    """

    rank: ClassVar[int] = 2


@spec()
class Conv3D(Conv):
    """Convolution of volumes, (N, depth, height, width, channels) -> (N, E, P, Q, filters): see `Conv`.

    >>> Conv3D(32, 3).output_shape((32, 32, 32, 1))
    (30, 30, 30, 32)
    """

    rank: ClassVar[int] = 3


@base
class ConvTranspose(Convolutional):
    """The transpose of a convolution from the output to the input: each number of x is spread over a window of the output.

    y[n, o stride + k dilation - before, f] += x[n, o, c] W[k, f, c], over all o, k and c; then + b[f], and the activation.
    filters, kernel_size, strides: as in `Conv`. padding: what is cut off the output: 'valid' (nothing), 'same' (so that the output has
    size * stride places), a number, one for each axis, or pairs. output_padding: places that the output has more, behind, at least 0 and less than
    the stride or the dilation; None (default): none for padding by numbers, else what makes size * stride places ('valid': at least these).
    Output places: (size - 1) stride + reach - cut + output_padding, where reach = (kernel_size - 1) dilation + 1; 'same' with output_padding given:
    (size - 1) stride + reach % 2 + output_padding. What 'same' cuts off is halved, the odd place behind. Parameters "kernel"
    (*kernel_size, filters, channels), "bias" (filters,). kernel_initializer, kernel_regularizer: as in `Conv`; the other fields: see
    `Convolutional`. Input (N, *places, channels), output (N, *places, filters). Raises ValueError where nothing of the output is left. Same
    numbers as Keras' layer of that name; padding by numbers is PyTorch's, which cuts it off both ends and then appends output_padding.
    """

    filters: int = integer(low=1)
    kernel_size: Shape = per_axis()
    strides: Shape = per_axis(default=1)
    padding: Padding = pairs("valid", "same", default="valid")
    output_padding: Shape | None = per_axis(low=0, default=None, none=True)
    kernel_initializer: Initializer = initializer_field(default="glorot_uniform", kw_only=True)
    kernel_regularizer: Regularizer | None = child("regularizer", default=None, none=True, kw_only=True)

    def __attrs_post_init__(self) -> None:
        for extra, stride, step in zip(self.output_padding or (), self.strides, self.dilation_rate, strict=False):
            if extra >= max(stride, step):
                rule = f"less than strides {self.strides} or dilation_rate {self.dilation_rate}"
                raise ValueError(f"{type(self).__name__}: output_padding must be {rule}, received {self.output_padding}")

    def spans(self, shape: Shape) -> tuple[Span, ...]:
        """The windows, along every axis, of the convolution whose transpose this is: from this layer's output to its input."""
        found = []
        for axis, size in enumerate(self.spatial(shape)):
            k, stride, step = self.kernel_size[axis], self.strides[axis], self.dilation_rate[axis]
            reach = (k - 1) * step + 1
            extra = self.output_padding[axis] if self.output_padding is not None else None
            whole, before = (size - 1) * stride + reach, 0
            if isinstance(self.padding, tuple):
                before, behind = self.padding[axis]
                places = whole - before - behind + (extra or 0)
            elif self.padding == "valid":
                places = whole + (max(0, stride - reach) if extra is None else extra)
            else:
                places = size * stride if extra is None else (size - 1) * stride + reach % 2 + extra
                before = max(0, whole - places) // 2
            if places < 1 and size:
                rule = "what is cut off must leave something of the output"
                raise ValueError(f"{type(self).__name__}: {rule}, received padding {self.padding!r} for samples of shape {shape}")
            found.append(Span(max(0, places), k, stride, step, before, size))
        return tuple(found)

    def convolution(self, shape: Shape) -> Convolution:
        """The convolution whose transpose maps samples of that shape."""
        return self.convolution_of(shape, self.spans(shape), self.filters, shape[-1], 1)

    def output_shape(self, *shapes: Shape) -> Shape:
        """The places along every axis, then the filters."""
        return self.activation.output_shape(self.convolution(shapes[0]).input_shape(self.rank))

    def parameters(self, *shapes: Shape) -> Mapping[str, Parameter]:
        """The kernel, the bias, and what the activation learns."""
        kernel = (*self.kernel_size, self.filters, shapes[0][-1])
        declared = {"kernel": Parameter(kernel, self.kernel_initializer, regularizer=self.kernel_regularizer)}
        return self.with_bias(declared, self.output_shape(*shapes))

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """The input gradient of the convolution whose transpose this is; backward: its forward pass, and its weight gradient."""
        (x,) = xs
        c = self.convolution(x.shape[1:])
        weight = g.parameter("kernel")
        y = g.buffer("y", x.shape[0], *c.input_shape(self.rank))
        c.input_gradient(g, y, x, weight, self.bias(g))

        def backward(dy: Buffer) -> Buffer:
            self.bias_gradient(g, dy)
            c.weight_gradient(g, g.gradient("kernel"), dy, x)
            dx = g.buffer("dx", *x.shape)
            c.forward(g, dx, dy, weight, None)
            return dx
        g.on_backward(y, [x], backward)
        return self.end(g, y)


@spec()
class Conv1DTranspose(ConvTranspose):
    """Transposed convolution along one axis, (N, steps, channels) -> (N, places, filters): see `ConvTranspose`."""

    rank: ClassVar[int] = 1


@spec()
class Conv2DTranspose(ConvTranspose):
    """Transposed convolution of images, (N, height, width, channels) -> (N, H, W, filters): see `ConvTranspose`.

    >>> Conv2DTranspose(16, 3, strides=2, padding="same").output_shape((7, 7, 32))
    (14, 14, 16)
    """

    rank: ClassVar[int] = 2


@spec()
class Conv3DTranspose(ConvTranspose):
    """Transposed convolution of volumes, (N, depth, height, width, channels) -> (N, D, H, W, filters): see `ConvTranspose`."""

    rank: ClassVar[int] = 3


@base
class DepthwiseConv(Convolutional):
    """Every channel has filters of its own: y[n, o, c m + j] = activation(sum over k of x[n, place, c] W[k, c, j] + b[c m + j]).

    place = o stride + k dilation - before. kernel_size, strides, padding: as in `Conv`. depth_multiplier: m, filters of each channel, at least 1,
    default 1. depthwise_initializer, depthwise_regularizer: how W (parameter "kernel", (*kernel_size, channels, m)) starts, its penalty; "bias"
    (channels m,). Input (N, *places, channels), output (N, *windows, channels m). The same as `Conv` with groups = channels.
    """

    kernel_size: Shape = per_axis()
    strides: Shape = per_axis(default=1)
    padding: Padding = pairs("valid", "same", default="valid")
    depth_multiplier: int = integer(default=1, low=1)
    depthwise_initializer: Initializer = initializer_field(default="glorot_uniform", kw_only=True)
    depthwise_regularizer: Regularizer | None = child("regularizer", default=None, none=True, kw_only=True)

    def convolution(self, shape: Shape) -> Convolution:
        """How samples of that shape are convolved: with a group for every channel."""
        axes = spans(type(self).__name__, self.spatial(shape), self.kernel_size, self.strides, self.dilation_rate, self.padding)
        return self.convolution_of(shape, axes, shape[-1], shape[-1] * self.depth_multiplier, max(1, shape[-1]))

    def output_shape(self, *shapes: Shape) -> Shape:
        """The number of windows along every axis, then channels times depth_multiplier."""
        return self.activation.output_shape(self.convolution(shapes[0]).output_shape(self.rank))

    def parameters(self, *shapes: Shape) -> Mapping[str, Parameter]:
        """The kernel, the bias, and what the activation learns."""
        return self.with_bias({"kernel": self.depthwise_kernel(shapes[0])}, self.output_shape(*shapes))

    def depthwise_kernel(self, shape: Shape) -> Parameter:
        """W for samples of that shape."""
        return Parameter((*self.kernel_size, shape[-1], self.depth_multiplier), self.depthwise_initializer, regularizer=self.depthwise_regularizer)

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """As `Conv` with a group for every channel."""
        (x,) = xs
        return self.end(g, self.convolve(g, self.convolution(x.shape[1:]), x, "kernel", self.bias(g)))


@spec()
class DepthwiseConv1D(DepthwiseConv):
    """Depthwise convolution along one axis, (N, steps, channels) -> (N, windows, channels m): see `DepthwiseConv`."""

    rank: ClassVar[int] = 1


@spec()
class DepthwiseConv2D(DepthwiseConv):
    """Depthwise convolution of images, (N, height, width, channels) -> (N, P, Q, channels m): see `DepthwiseConv`.

    >>> DepthwiseConv2D(3, padding="same", depth_multiplier=2).output_shape((28, 28, 8))
    (28, 28, 16)
    """

    rank: ClassVar[int] = 2


@base
class SeparableConv(DepthwiseConv):
    """A depthwise convolution without bias and activation, then a convolution of window 1 that mixes the channels.

    filters: size of the output's last axis, at least 1. kernel_size, strides, padding, depth_multiplier, depthwise_initializer,
    depthwise_regularizer: as in `DepthwiseConv`. pointwise_initializer, pointwise_regularizer: of the second kernel.
    Parameters "depthwise_kernel" (*kernel_size, channels, m), "pointwise_kernel" (1, ..., channels m, filters), "bias" (filters,).
    Input (N, *places, channels), output (N, *windows, filters). Chollet, Xception: deep learning with depthwise separable convolutions, CVPR 2017.
    """

    filters: int = integer(low=1)
    kernel_size: Shape = per_axis()
    strides: Shape = per_axis(default=1)
    padding: Padding = pairs("valid", "same", default="valid")
    depth_multiplier: int = integer(default=1, low=1)
    pointwise_initializer: Initializer = initializer_field(default="glorot_uniform", kw_only=True)
    pointwise_regularizer: Regularizer | None = child("regularizer", default=None, none=True, kw_only=True)

    def output_shape(self, *shapes: Shape) -> Shape:
        """The number of windows along every axis, then the filters."""
        return self.activation.output_shape((*self.convolution(shapes[0]).output_shape(self.rank)[:-1], self.filters))

    def parameters(self, *shapes: Shape) -> Mapping[str, Parameter]:
        """Both kernels, the bias, and what the activation learns."""
        shape = (*(1,) * self.rank, shapes[0][-1] * self.depth_multiplier, self.filters)
        pointwise = Parameter(shape, self.pointwise_initializer, regularizer=self.pointwise_regularizer)
        return self.with_bias({"depthwise_kernel": self.depthwise_kernel(shapes[0]), "pointwise_kernel": pointwise}, self.output_shape(*shapes))

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """Both convolutions, one behind the other."""
        (x,) = xs
        between = self.convolve(g, self.convolution(x.shape[1:]), x, "depthwise_kernel", None)
        one = (1,) * self.rank
        mixing = spans(type(self).__name__, between.shape[1:-1], one, one, one, "same")
        c = Convolution.of(mixing, between.shape[-1], self.filters, 1, "auto")
        return self.end(g, self.convolve(g, c, between, "pointwise_kernel", self.bias(g)))


@spec()
class SeparableConv1D(SeparableConv):
    """Separable convolution along one axis, (N, steps, channels) -> (N, windows, filters): see `SeparableConv`."""

    rank: ClassVar[int] = 1


@spec()
class SeparableConv2D(SeparableConv):
    """Separable convolution of images, (N, height, width, channels) -> (N, P, Q, filters): see `SeparableConv`.

    >>> SeparableConv2D(8, 3).parameters((28, 28, 4))["depthwise_kernel"].shape
    (3, 3, 4, 1)
    """

    rank: ClassVar[int] = 2
