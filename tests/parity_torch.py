"""A drawn network in PyTorch: the same parameters, float64, PyTorch's own functions and autograd. Conventions that differ are converted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import nnkit
from parity_draw import Declared, Drawn, DrawnGraph, GraphResults, Results

__all__ = ["run", "run_graph", "run_layer"]

torch.set_num_threads(1)

Parameters = dict[str, Tensor]


@attrs.define
class Pass:
    """One pass through the network: whether it is training, and the penalties met so far."""

    training: bool
    penalties: list[Tensor] = attrs.Factory(list)

    def penalize(self, w: Tensor, regularizer: Any, share: float = 1.0) -> None:
        """L2 is l2 sum(w^2), not halved; PyTorch's weight_decay would be l2 / 2."""
        if regularizer is not None:
            self.penalties.append(share * (regularizer.l1 * w.abs().sum() + regularizer.l2 * w.square().sum()))


# Activations: functions of (spec, x).

def general_relu(spec: Any, x: Tensor) -> Tensor:
    above = x if spec.max_value is None else x.clamp(max=spec.max_value)
    return torch.where(x > spec.threshold, above, spec.negative_slope * (x - spec.threshold))


ACTIVATIONS: dict[type, Callable[[Any, Tensor], Tensor]] = {
    nnkit.Linear: lambda spec, x: x,
    nnkit.ReLU: lambda spec, x: F.relu(x) if spec == nnkit.ReLU() else general_relu(spec, x),
    nnkit.LeakyReLU: lambda spec, x: F.leaky_relu(x, spec.negative_slope),
    # Not F.hardsigmoid: its derivative is 1/6 rounded to float32 (PyTorch 2.13).
    nnkit.HardSigmoid: lambda spec, x: (x + 3).clamp(0, 6) / 6,
    nnkit.HardSiLU: lambda spec, x: F.hardswish(x),
    nnkit.Sigmoid: lambda spec, x: torch.sigmoid(x),
    nnkit.Tanh: lambda spec, x: torch.tanh(x),
    nnkit.Exponential: lambda spec, x: torch.exp(x),
    nnkit.ELU: lambda spec, x: F.elu(x, spec.alpha),
    nnkit.SELU: lambda spec, x: F.selu(x),
    # Not F.celu: its derivative takes alpha as float32 (PyTorch 2.13).
    nnkit.CELU: lambda spec, x: spec.alpha * F.elu(x / spec.alpha),
    nnkit.GELU: lambda spec, x: F.gelu(x, approximate="tanh" if spec.approximate else "none"),
    nnkit.SiLU: lambda spec, x: F.silu(x),
    nnkit.Mish: lambda spec, x: F.mish(x),
    # F.softplus takes x itself above 20, where log(1 + e^x) is still 2e-9 more.
    nnkit.Softplus: lambda spec, x: F.softplus(x, threshold=40),
    nnkit.Softsign: lambda spec, x: F.softsign(x),
    nnkit.Softmax: lambda spec, x: torch.softmax(x, spec.axis),
    nnkit.LogSoftmax: lambda spec, x: torch.log_softmax(x, spec.axis),
}


def activate(spec: Any, p: Parameters, x: Tensor, run: Pass) -> Tensor:
    if not isinstance(spec, nnkit.PReLU):
        return ACTIVATIONS[type(spec)](spec, x)
    alpha = p["alpha"]
    if x.ndim == 2:                                      # F.prelu has a slope for each entry of axis 1, or one for all
        return F.prelu(x, alpha)
    return torch.where(x > 0, x, alpha * x)


# Layers: functions of (spec, parameters, x, pass); of several inputs, x is a list.

def dense(spec: Any, p: Parameters, x: Tensor, run: Pass) -> Tensor:
    y = activate(spec.activation, p, F.linear(x, p["kernel"].T, p.get("bias")), run)         # Linear keeps the transpose
    run.penalize(y, spec.activity_regularizer, 1 / len(x))
    return y


def batch_normalization(spec: Any, p: Parameters, x: Tensor, run: Pass) -> Tensor:
    """PyTorch's momentum is 1 - momentum, and its running variance gets n / (n - 1) times the biased variance of the batch."""
    mean, variance = p["moving_mean"], p["moving_variance"]
    running = variance.clone()
    learns = run.training and spec.trainable
    # torch.batch_norm, since F.batch_norm refuses a single value for each channel.
    # One axis behind the channels: of images with an axis of size 1 its gradients are wrong in places, as its own differences show (2.13).
    channels = x.movedim(spec.axis, 1)
    cells = channels.reshape(*channels.shape[:2], -1)
    y = torch.batch_norm(cells, p.get("gamma"), p.get("beta"), mean, running, learns, 1 - spec.momentum, spec.epsilon, False)
    if learns:
        n = x.numel() // x.shape[spec.axis]
        kept = spec.momentum * variance
        variance.copy_(kept + (running - kept) * (n - 1) / n if n > 1 else kept)             # of one value the unbiased variance is NaN
    return y.reshape(channels.shape).movedim(1, spec.axis)


def layer_normalization(spec: Any, p: Parameters, x: Tensor, run: Pass) -> Tensor:
    shape = x.shape[x.ndim - len(spec.axis):]
    return F.layer_norm(x, shape, p.get("gamma"), p.get("beta"), spec.epsilon)


# Convolutions. PyTorch has channels first, and pads both ends alike: zeros are laid around, or cut off, explicitly.

def pads(spec: Any, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Zeros before and behind each axis."""
    reaches = [(k - 1) * step + 1 for k, step in zip(spec.kernel_size, spec.dilation_rate, strict=True)]
    missing = [max(0, (size - 1) // stride * stride + reach - size) for size, stride, reach in zip(sizes, spec.strides, reaches, strict=True)]
    named = {"valid": [(0, 0)] * len(reaches), "same": [(m // 2, m - m // 2) for m in missing], "causal": [(reach - 1, 0) for reach in reaches]}
    return named[spec.padding] if isinstance(spec.padding, str) else list(spec.padding)


def laid_around(x: Tensor, widths: Sequence[tuple[int, int]]) -> Tensor:
    """Zeros before and behind each axis behind the channels; where a number is negative, so many places are cut off."""
    return F.pad(x, [width for pair in reversed(widths) for width in pair])


def convolved(spec: Any, x: Tensor, kernel: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """kernel (*kernel_size, channels of a group, filters) becomes PyTorch's (filters, channels of a group, *kernel_size)."""
    x = laid_around(x.movedim(-1, 1), pads(spec, x.shape[1:-1]))
    function = (F.conv1d, F.conv2d, F.conv3d)[spec.rank - 1]
    kernel = kernel.movedim((-1, -2), (0, 1)).contiguous()
    return function(x, kernel, bias, spec.strides, 0, spec.dilation_rate, groups).movedim(1, -1)


def finished(spec: Any, p: Parameters, y: Tensor, run: Pass) -> Tensor:
    y = activate(spec.activation, p, y, run)
    run.penalize(y, spec.activity_regularizer, 1 / len(y))
    return y


def convolution(spec: Any, p: Parameters, x: Tensor, run: Pass) -> Tensor:
    return finished(spec, p, convolved(spec, x, p["kernel"], p.get("bias"), spec.groups), run)


def depthwise(spec: Any, p: Parameters, x: Tensor, run: Pass) -> Tensor:
    """A group for every channel: (*kernel_size, C, m) becomes (*kernel_size, 1, C m)."""
    kernel = p["kernel"].flatten(-2).unsqueeze(-2)
    return finished(spec, p, convolved(spec, x, kernel, p.get("bias"), x.shape[-1]), run)


def separable(spec: Any, p: Parameters, x: Tensor, run: Pass) -> Tensor:
    channels = convolved(spec, x, p["depthwise_kernel"].flatten(-2).unsqueeze(-2), None, x.shape[-1])
    return finished(spec, p, F.linear(channels, p["pointwise_kernel"].flatten(0, -2).T, p.get("bias")), run)


def transposed(spec: Any, p: Parameters, x: Tensor, run: Pass) -> Tensor:
    """kernel (*kernel_size, filters, channels) becomes (channels, filters, *kernel_size). Padding by equal numbers is PyTorch's own; else the whole
    output is cut, or zeros are appended, until its shape is Keras'."""
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[spec.rank - 1]
    kernel = p["kernel"].movedim((-1, -2), (0, 1)).contiguous()      # else PyTorch refuses its gradient
    extra = spec.output_padding or (0,) * spec.rank
    if not isinstance(spec.padding, str) and all(before == behind for before, behind in spec.padding):
        y = function(x.movedim(-1, 1), kernel, p.get("bias"), spec.strides, [before for before, _ in spec.padding], extra, 1, spec.dilation_rate)
        return finished(spec, p, y.movedim(1, -1), run)
    y = function(x.movedim(-1, 1), kernel, None, spec.strides, 0, 0, 1, spec.dilation_rate)
    lengths = [wanted - length for wanted, length in zip(spec.output_shape(tuple(x.shape[1:]))[:-1], y.shape[2:], strict=True)]
    before = [max(0, -length) // 2 if spec.padding == "same" else 0 for length in lengths]
    if not isinstance(spec.padding, str):
        before = [pair[0] for pair in spec.padding]
    y = laid_around(y, [(-cut, length + cut) for cut, length in zip(before, lengths, strict=True)]).movedim(1, -1)
    return finished(spec, p, y + p["bias"] if spec.use_bias else y, run)


def noise(spec: Any, p: Parameters, x: Tensor, run: Pass) -> Tensor:
    assert not run.training or getattr(spec, "rate", 1) == 0
    return x


def merged(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any, Parameters, list[Tensor], Pass], Tensor]:
    """Pair after pair; axes of size 1 behind the batch let PyTorch broadcast samples."""
    def layer(spec: Any, p: Parameters, xs: list[Tensor], run: Pass) -> Tensor:
        rank = max(x.ndim for x in xs)
        return functools.reduce(function, [x.reshape(len(x), *[1] * (rank - x.ndim), *x.shape[1:]) for x in xs])
    return layer


def average(spec: Any, p: Parameters, xs: list[Tensor], run: Pass) -> Tensor:
    return merged(torch.add)(spec, p, xs, run) / len(xs)


def dot(spec: Any, p: Parameters, xs: list[Tensor], run: Pass) -> Tensor:
    a, b = (x.movedim(axis, -1) for x, axis in zip(xs, spec.axes, strict=True))
    if spec.normalize:
        a, b = (F.normalize(x, dim=-1, eps=1e-7) for x in (a, b))
    rows = [x.reshape(len(x), -1, x.shape[-1]) for x in (a, b)]
    return torch.bmm(rows[0], rows[1].mT).reshape(len(a), *(a.shape[1:-1] + b.shape[1:-1] or (1,)))


# Layers over places, channels last: PyTorch's functions take the channels first.

def channels_first(x: Tensor) -> Tensor:
    return x.movedim(-1, 1)


def channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1)


def padded(spec: Any, x: Tensor, value: float) -> Tensor:
    """Channels first, with what the spec's padding adds: of 'same' what ceil(size / stride) windows need, the odd place behind."""
    pairs = [(0, 0)] * spec.rank if spec.padding == "valid" else spec.padding
    if spec.padding == "same":
        sizes = zip(x.shape[1:-1], spec.pool_size, spec.strides or spec.pool_size, strict=True)
        missing = [max(0, (-(-size // stride) - 1) * stride + k - size) for size, k, stride in sizes]
        pairs = [(number // 2, number - number // 2) for number in missing]
    return F.pad(channels_first(x), [number for pair in reversed(pairs) for number in pair], value=value)


def max_pooling(spec: Any, p: Parameters, x: Tensor, run: Pass) -> Tensor:
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[spec.rank - 1]
    return channels_last(pool(padded(spec, x, -np.inf), spec.pool_size, spec.strides))


def average_pooling(spec: Any, p: Parameters, x: Tensor, run: Pass) -> Tensor:
    """The means of zeros and numbers, divided by the share of places that are no padding."""
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[spec.rank - 1]
    share = pool(padded(spec, torch.ones_like(x), 0), spec.pool_size, spec.strides)
    return channels_last(pool(padded(spec, x, 0), spec.pool_size, spec.strides) / share)


def global_pooling(reduce: Callable[..., Tensor]) -> Callable[[Any, Parameters, Tensor, Pass], Tensor]:
    """`reduce` over the places as one axis."""
    def layer(spec: Any, p: Parameters, x: Tensor, run: Pass) -> Tensor:
        y = reduce(x.flatten(1, -2))
        return y.reshape(len(y), *[1] * spec.rank, y.shape[-1]) if spec.keepdims else y
    return layer


def cropping(spec: Any, p: Parameters, x: Tensor, run: Pass) -> Tensor:
    return channels_last(F.pad(channels_first(x), [-number for pair in reversed(spec.cropping) for number in pair]))


def up_sampling(spec: Any, p: Parameters, x: Tensor, run: Pass) -> Tensor:
    if getattr(spec, "interpolation", "nearest") == "bilinear":
        return channels_last(F.interpolate(channels_first(x), scale_factor=spec.size, mode="bilinear", align_corners=False))
    return channels_last(F.interpolate(channels_first(x), scale_factor=spec.size, mode="nearest"))


PLACES: dict[str, Callable[[Any, Parameters, Any, Pass], Tensor]] = {
    "MaxPooling": max_pooling,
    "AveragePooling": average_pooling,
    "GlobalMaxPooling": global_pooling(lambda x: x.max(1).values),
    "GlobalAveragePooling": global_pooling(lambda x: x.mean(1)),
    "ZeroPadding": lambda spec, p, x, run: channels_last(padded(spec, x, 0)),
    "Cropping": cropping,
    "UpSampling": up_sampling,
    "SpatialDropout": noise,
}


LAYERS: dict[type, Callable[[Any, Parameters, Any, Pass], Tensor]] = {
    nnkit.Input: lambda spec, p, x, run: x,
    nnkit.Dense: dense,
    nnkit.BatchNormalization: batch_normalization,
    nnkit.LayerNormalization: layer_normalization,
    nnkit.Activation: lambda spec, p, x, run: activate(spec.activation, p, x, run),
    nnkit.Flatten: lambda spec, p, x, run: x.flatten(1),
    nnkit.Reshape: lambda spec, p, x, run: x.reshape(len(x), *spec.target_shape),
    nnkit.Dropout: noise,
    nnkit.GaussianNoise: noise,
    nnkit.Add: merged(torch.add),
    nnkit.Subtract: merged(torch.subtract),
    nnkit.Multiply: merged(torch.multiply),
    nnkit.Average: average,
    nnkit.Maximum: merged(torch.maximum),
    nnkit.Minimum: merged(torch.minimum),
    nnkit.Concatenate: lambda spec, p, xs, run: torch.cat(xs, spec.axis),
    nnkit.Dot: dot,
    nnkit.Conv1D: convolution,
    nnkit.Conv2D: convolution,
    nnkit.Conv3D: convolution,
    nnkit.Conv1DTranspose: transposed,
    nnkit.Conv2DTranspose: transposed,
    nnkit.Conv3DTranspose: transposed,
    nnkit.DepthwiseConv1D: depthwise,
    nnkit.DepthwiseConv2D: depthwise,
    nnkit.SeparableConv1D: separable,
    nnkit.SeparableConv2D: separable,
    **{getattr(nnkit, f"{name}{rank}D"): layer for name, layer in PLACES.items() for rank in (1, 2, 3)},
}


# Losses of the rows: functions of (spec, y, t).

def binary(spec: Any, y: Tensor, t: Tensor) -> Tensor:
    t = t * (1 - spec.label_smoothing) + 0.5 * spec.label_smoothing
    if spec.from_logits:
        return F.binary_cross_entropy_with_logits(y, t, reduction="none").mean(-1)
    y = y.clamp(1e-7, 1 - 1e-7)                          # PyTorch clamps the logarithms at -100 instead
    return F.binary_cross_entropy(y, t, reduction="none").mean(-1)


def log_probabilities(spec: Any, y: Tensor) -> Tensor:
    """PyTorch knows logits only; probabilities are normalised and clipped as Keras does."""
    return torch.log_softmax(y, -1) if spec.from_logits else (y / y.sum(-1, keepdim=True)).clamp(1e-7, 1 - 1e-7).log()


def categorical(spec: Any, y: Tensor, t: Tensor) -> Tensor:
    rows = y.reshape(-1, y.shape[-1]), t.reshape(-1, y.shape[-1])
    if spec.from_logits:
        return F.cross_entropy(*rows, label_smoothing=spec.label_smoothing, reduction="none").reshape(y.shape[:-1])
    t = t * (1 - spec.label_smoothing) + spec.label_smoothing / y.shape[-1]
    return -(t * log_probabilities(spec, y)).sum(-1)


def sparse(spec: Any, y: Tensor, t: Tensor) -> Tensor:
    """Ignored rows count 0; the mean is over the others, as that of F.cross_entropy is."""
    ignored = -100 if spec.ignore_class is None else spec.ignore_class
    rows = F.nll_loss(log_probabilities(spec, y).reshape(-1, y.shape[-1]), t.reshape(-1), ignore_index=ignored, reduction="none")
    valid = int((t != ignored).sum())
    return rows.reshape(t.shape) * (t.numel() / max(1, valid))


def log_cosh(spec: Any, y: Tensor, t: Tensor) -> Tensor:
    e = y - t
    return (torch.logaddexp(e, -e) - np.log(2)).mean(-1)


LOSSES: dict[type, Callable[[Any, Tensor, Tensor], Tensor]] = {
    nnkit.MeanSquaredError: lambda spec, y, t: F.mse_loss(y, t, reduction="none").mean(-1),
    nnkit.MeanAbsoluteError: lambda spec, y, t: F.l1_loss(y, t, reduction="none").mean(-1),
    nnkit.Huber: lambda spec, y, t: F.huber_loss(y, t, reduction="none", delta=spec.delta).mean(-1),
    nnkit.LogCosh: log_cosh,
    nnkit.Poisson: lambda spec, y, t: F.poisson_nll_loss(y, t, log_input=False, eps=1e-7, reduction="none").mean(-1),
    nnkit.BinaryCrossentropy: binary,
    nnkit.CategoricalCrossentropy: categorical,
    nnkit.SparseCategoricalCrossentropy: sparse,
    # F.kl_div takes log y, and does not clip.
    nnkit.KLDivergence: lambda spec, y, t: F.kl_div(y.clamp(1e-7, 1).log(), t.clamp(1e-7, 1), reduction="none").sum(-1),
    nnkit.Hinge: lambda spec, y, t: F.relu(1 - t * y).mean(-1),
    nnkit.SquaredHinge: lambda spec, y, t: F.relu(1 - t * y).square().mean(-1),
    nnkit.CategoricalHinge: lambda spec, y, t: F.relu(1 + ((1 - t) * y).max(-1).values - (t * y).sum(-1)),
}


# Optimizers: where PyTorch's formula is nnkit's, after conversion. RMSprop is not: its epsilon stands outside of the root.

class Trainer:
    """PyTorch's optimizer, with what has to be set before every update."""

    def __init__(self, spec: Any, weights: list[Tensor]) -> None:
        self.spec, self.weights, self.updates = spec, weights, 0
        self.optimizer = OPTIMIZERS[type(spec)](spec, weights)

    def update(self, gradients: list[Tensor]) -> None:
        """Clip by value, decoupled weight decay, then PyTorch's rule."""
        spec, (group,) = self.spec, self.optimizer.param_groups
        rate = spec.learning_rate if isinstance(spec.learning_rate, float) else float(spec.learning_rate(self.updates))
        self.updates += 1
        group["lr"] = rate
        if isinstance(spec, nnkit.Adam):                 # PyTorch adds its epsilon after the bias correction of the root
            group["eps"] = spec.epsilon / (1 - spec.beta_2 ** self.updates) ** 0.5
        with torch.no_grad():
            for weight, gradient in zip(self.weights, gradients, strict=True):
                weight.grad = gradient
                weight.mul_(1 - rate * (spec.weight_decay or 0.0))
        if spec.clipvalue is not None:
            torch.nn.utils.clip_grad_value_(self.weights, spec.clipvalue)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)           # NAdam keeps a product of coefficients in the default type
        self.optimizer.step()
        torch.set_default_dtype(before)


OPTIMIZERS: dict[type, Callable[[Any, list[Tensor]], torch.optim.Optimizer]] = {
    nnkit.SGD: lambda spec, weights: torch.optim.SGD(weights, momentum=spec.momentum, nesterov=spec.nesterov),
    nnkit.Adam: lambda spec, weights: torch.optim.Adam(weights, betas=(spec.beta_1, spec.beta_2), amsgrad=spec.amsgrad),
    nnkit.AdamW: lambda spec, weights: torch.optim.AdamW(weights, betas=(spec.beta_1, spec.beta_2), amsgrad=spec.amsgrad, weight_decay=0),
    # g / sqrt(a + epsilon): epsilon is part of where a starts.
    nnkit.Adagrad: lambda spec, weights: torch.optim.Adagrad(weights, initial_accumulator_value=spec.initial_accumulator_value + spec.epsilon, eps=0),
    nnkit.Adadelta: lambda spec, weights: torch.optim.Adadelta(weights, rho=spec.rho, eps=spec.epsilon),
    # 0.96^(t momentum_decay) with PyTorch's default 0.004; Dozat's and Keras' is 0.96^t.
    nnkit.Nadam: lambda spec, weights: torch.optim.NAdam(weights, betas=(spec.beta_1, spec.beta_2), eps=spec.epsilon, momentum_decay=1.0),
}


def agrees(spec: Any) -> bool:
    """Whether PyTorch has the rule. Its clipping of norms adds 1e-6 to them; its momentum is kept without the rate, so the rate must not move."""
    clips = spec.clipnorm is not None or spec.global_clipnorm is not None
    moves = isinstance(spec, nnkit.SGD) and spec.momentum > 0 and not isinstance(spec.learning_rate, float)
    return type(spec) in OPTIMIZERS and not clips and not moves


class Network:
    """The drawn network's parameters as tensors."""

    def __init__(self, drawn: Drawn) -> None:
        self.drawn, self.graph = drawn, drawn.network.graph()
        self.declared = self.graph.parameters()
        self.parameters = {name: torch.tensor(values, requires_grad=self.declared[name].trainable) for name, values in drawn.parameters().items()}
        self.trainable = [name for name, declared in self.declared.items() if declared.trainable]

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        for node in self.graph.nodes:
            p = {name: self.parameters[f"{node.name}/{name}"] for name in node.layer.parameters(*node.input_shapes)}
            x = LAYERS.get(type(node.layer), activate)(node.layer, p, x, run)
        return x

    def loss(self, y: Tensor, t: np.ndarray, w: np.ndarray | None, run: Pass) -> Tensor:
        """Mean over rows, each times its sample's weight, and all penalties; those of frozen parameters do not count."""
        rows = LOSSES[type(self.drawn.loss)](self.drawn.loss, y, torch.as_tensor(t))
        if w is not None:
            rows = rows * torch.as_tensor(w).reshape(-1, *[1] * (rows.ndim - 1))
        for name in self.trainable:
            run.penalize(self.parameters[name], self.declared[name].regularizer)
        return rows.mean() + sum(run.penalties)

    def gradients(self, x: np.ndarray, t: np.ndarray, w: np.ndarray | None) -> tuple[np.ndarray, dict[str, Tensor]]:
        """The output, and gradients by name, that of the input as "x". Training mode: moving statistics move."""
        run = Pass(training=True)
        inputs = torch.tensor(x, requires_grad=True)
        y = self.forward(inputs, run)
        loss = self.loss(y, t, w, run)
        sources = [inputs, *(self.parameters[name] for name in self.trainable)]
        # A softmax of one class, for one, does not depend on its input.
        found = torch.autograd.grad(loss, sources, allow_unused=True, materialize_grads=True)
        return y.detach().numpy(), dict(zip(["x", *self.trainable], found, strict=True))

    def values(self) -> dict[str, np.ndarray]:
        return {name: values.detach().numpy().copy() for name, values in self.parameters.items()}


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def run(drawn: Drawn) -> Results:
    """PyTorch's results. Where it has not the optimizer's rule: only the moving statistics after the first update."""
    network, evaluation = Network(drawn), Pass(training=False)
    batches = drawn.batches()
    x, t, w = batches[0]
    y = network.forward(torch.as_tensor(x), evaluation)
    loss = network.loss(y, t, w, evaluation).item()
    if not drawn.updates:
        return Results(y.detach().numpy(), loss, {}, [])
    if not agrees(drawn.optimizer) or not network.trainable:
        output, gradients = network.gradients(x, t, w)
        moved = {name: values for name, values in network.values().items() if name not in network.trainable}
        return Results(y.detach().numpy(), loss, arrays(gradients), [moved], [output])
    trained, outputs, first = [], [], None
    trainer = Trainer(drawn.optimizer, [network.parameters[name] for name in network.trainable])
    for batch in batches:
        output, gradients = network.gradients(*batch)
        first = first or {name: tensor.clone() for name, tensor in gradients.items()}        # clip_grad_value_ writes into them
        trainer.update([gradients[name] for name in network.trainable])
        trained.append(network.values())
        outputs.append(output)
    assert first is not None
    return Results(y.detach().numpy(), loss, arrays(first), trained, outputs)


def run_layer(layer: Any, x: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Output and input gradient of a layer without parameters, where the output's gradient is dy."""
    inputs = torch.tensor(x, requires_grad=True)
    y = LAYERS[type(layer)](layer, {}, inputs, Pass(training=True))
    (dx,) = torch.autograd.grad(y, inputs, torch.tensor(dy))
    return y.detach().numpy(), dx.numpy()


# Networks as graphs. They are followed from the outputs along the tensors that they were declared with, not along nnkit's own graph.

def follow(declared: Declared, xs: Sequence[Tensor], parameters: Parameters, prefix: str = "") -> list[Tensor]:
    """The outputs of a declared network; `prefix` is that of the parameters of a nested one: "layer3/"."""
    known: dict[int, Sequence[Tensor]] = {id(spec): [x] for spec, x in zip(declared.inputs, xs, strict=True)}      # id of an Input or call

    def values(call: Any) -> Sequence[Tensor]:
        layer = call.layer
        key = id(layer) if isinstance(layer, nnkit.Input) else id(call)
        if key not in known:
            taken = [values(tensor.call)[tensor.index] for tensor in call.inputs]
            if id(layer) in declared.nested:
                known[key] = follow(declared.nested[id(layer)], taken, parameters, f"{prefix}{layer.name}/")
            else:
                own = f"{prefix}{layer.name}/"
                p = {name.removeprefix(own): value for name, value in parameters.items() if name.startswith(own)}
                known[key] = [LAYERS[type(layer)](layer, p, taken if len(taken) > 1 else taken[0], Pass(training=True))]
        return known[key]
    return [values(tensor.call)[tensor.index] for tensor in declared.outputs]


def frozen(declared: Declared, prefix: str = "") -> set[str]:
    """What the names of frozen layers' parameters begin with."""
    found = {f"{prefix}{layer.name}/" for layer in declared.network.layers if not layer.trainable}
    for layer in declared.network.layers:
        if id(layer) in declared.nested:
            found |= frozen(declared.nested[id(layer)], f"{prefix}{layer.name}/")
    return found


def run_graph(drawn: DrawnGraph) -> GraphResults:
    """PyTorch's results."""
    parameters = {name: torch.tensor(values, requires_grad=True) for name, values in drawn.parameters().items()}
    x, t = drawn.data()
    xs = [torch.tensor(values, requires_grad=True) for values in x]
    ys = follow(drawn.declared, xs, parameters)
    loss = sum(weight * LOSSES[type(spec)](spec, y, torch.as_tensor(target)).mean()
               for spec, weight, y, target in zip(drawn.losses, drawn.weights, ys, t, strict=True) if spec is not None)
    fixed = tuple(frozen(drawn.declared))
    sources = {f"x{number or ''}": values for number, values in enumerate(xs)}
    sources |= {name: values for name, values in parameters.items() if not name.startswith(fixed)}
    found = torch.autograd.grad(loss, list(sources.values()), allow_unused=True, materialize_grads=True)
    return GraphResults(tuple(y.detach().numpy() for y in ys), loss.item(), arrays(dict(zip(sources, found, strict=True))))
