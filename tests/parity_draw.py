"""Random networks with parameters, data, loss and optimizer, for comparison with other libraries.

Chains (`draw`) are a function of (seed, number). Graphs (`draw_graph`) are small and drawn choice by choice by whoever calls, for hypothesis.
N batch, T steps of a sequence, F features, C classes. Numbers that are drawn for a declaration have two digits, so that it prints short.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

import nnkit
from nnkit.layers.activation import ActivationFunction
from nnkit.layers.base import Layer, Shape
from nnkit.layers.merge import broadcast_shape
from nnkit.losses.base import Loss
from nnkit.network import Container
from nnkit.optimizers.base import Optimizer
from nnkit.tensors import Tensor

__all__ = ["Declared", "Drawn", "DrawnGraph", "GraphResults", "Results", "draw", "draw_graph", "over_places", "pick", "run_nnkit", "run_nnkit_graph"]

WIDTHS = (1, 2, 3, 7, 16, 33, 64)
BATCHES = (1, 2, 3, 5, 7, 13, 16, 31, 32, 64, 97)
STEPS = (1, 2, 5, 11)
SIDES, CHANNELS = (1, 2, 3, 5), (1, 2, 3)                # of images and volumes
MANY_UPDATES = 5                                         # every third network is trained for so long, the others for one update
PASSIVE_RATE = 0.05                                      # networks with noise, of which only inference can be compared

Generator = np.random.Generator


def pick(rng: Generator, options: Sequence[Any]) -> Any:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def chance(rng: Generator, probability: float) -> bool:
    """True that often."""
    return bool(rng.random() < probability)


def number(rng: Generator, low: float, high: float) -> float:
    """Between the two, with two digits."""
    return float(f"{rng.uniform(low, high):.2g}")


def regularizer(rng: Generator) -> Any:
    """None mostly."""
    if not chance(rng, 0.15):
        return None
    return pick(rng, [lambda: nnkit.L1(number(rng, 0.01, 0.1)), lambda: nnkit.L2(number(rng, 0.01, 0.1)),
                      lambda: nnkit.L1L2(number(rng, 0.01, 0.1), number(rng, 0.01, 0.1))])()


# Activations. What grows like e^x stands alone below: two in a row would overflow.

def general_relu(rng: Generator) -> ActivationFunction:
    threshold = pick(rng, [0.0, number(rng, 0.1, 1)])
    limit = pick(rng, [None, threshold + 1.5])
    return nnkit.ReLU(max_value=limit, negative_slope=pick(rng, [0.0, number(rng, 0.05, 0.5)]), threshold=threshold)


def prelu(rng: Generator, shape: Shape) -> ActivationFunction:
    axes = pick(rng, [None, *[(axis + 1,) for axis in range(len(shape))], tuple(range(1, len(shape) + 1))])
    return nnkit.PReLU(shared_axes=axes, alpha_regularizer=regularizer(rng))


def along_axis(cls: type, rng: Generator, shape: Shape) -> ActivationFunction:
    return cls(axis=pick(rng, [-1, *range(1, len(shape) + 1)]))


ACTIVATIONS: tuple[Callable[[Generator, Shape], ActivationFunction], ...] = (
    lambda rng, shape: nnkit.Linear(),
    lambda rng, shape: nnkit.ReLU(),
    lambda rng, shape: nnkit.ReLU(),
    lambda rng, shape: general_relu(rng),
    lambda rng, shape: nnkit.LeakyReLU(number(rng, 0, 0.5)),
    lambda rng, shape: prelu(rng, shape),
    lambda rng, shape: nnkit.HardSigmoid(),
    lambda rng, shape: nnkit.HardSiLU(),
    lambda rng, shape: nnkit.Sigmoid(),
    lambda rng, shape: nnkit.Tanh(),
    lambda rng, shape: nnkit.Exponential(),
    lambda rng, shape: nnkit.ELU(number(rng, 0.2, 2)),
    lambda rng, shape: nnkit.SELU(),
    lambda rng, shape: nnkit.CELU(number(rng, 0.2, 2)),
    lambda rng, shape: nnkit.GELU(approximate=chance(rng, 0.5)),
    lambda rng, shape: nnkit.SiLU(),
    lambda rng, shape: nnkit.Mish(),
    lambda rng, shape: nnkit.Softplus(),
    lambda rng, shape: nnkit.Softsign(),
    lambda rng, shape: along_axis(nnkit.Softmax, rng, shape),
    lambda rng, shape: along_axis(nnkit.LogSoftmax, rng, shape),
)


# Losses: with the activation of the output and the fewest units.

def smoothing(rng: Generator) -> float:
    return pick(rng, [0.0, 0.0, number(rng, 0.05, 0.4)])


def probabilities(rng: Generator) -> ActivationFunction:
    """Softmax, which is fused with the loss, or something else that is positive, which is not."""
    return pick(rng, [nnkit.Softmax(), nnkit.Softmax(), nnkit.Softplus(), nnkit.Sigmoid()])


def categorical(rng: Generator, logits: bool) -> tuple[Loss, ActivationFunction, int]:
    return nnkit.CategoricalCrossentropy(from_logits=logits, label_smoothing=smoothing(rng)), nnkit.Linear() if logits else probabilities(rng), 2


def sparse(rng: Generator, logits: bool) -> tuple[Loss, ActivationFunction, int]:
    ignore = pick(rng, [None, None, -1, 0, 1])
    return nnkit.SparseCategoricalCrossentropy(from_logits=logits, ignore_class=ignore), nnkit.Linear() if logits else probabilities(rng), 2


def binary(rng: Generator, logits: bool) -> tuple[Loss, ActivationFunction, int]:
    y = nnkit.Linear() if logits else pick(rng, [nnkit.Sigmoid(), nnkit.Sigmoid(), nnkit.HardSigmoid()])
    return nnkit.BinaryCrossentropy(from_logits=logits, label_smoothing=smoothing(rng)), y, 1


def regression(rng: Generator, loss: Loss) -> tuple[Loss, ActivationFunction, int]:
    return loss, pick(rng, [nnkit.Linear(), nnkit.Linear(), nnkit.Tanh(), nnkit.ELU()]), 1


LOSSES: tuple[Callable[[Generator], tuple[Loss, ActivationFunction, int]], ...] = (
    lambda rng: regression(rng, nnkit.MeanSquaredError()),
    lambda rng: regression(rng, nnkit.MeanAbsoluteError()),
    lambda rng: regression(rng, nnkit.Huber(number(rng, 0.3, 3))),
    lambda rng: regression(rng, nnkit.LogCosh()),
    lambda rng: (nnkit.Poisson(), pick(rng, [nnkit.Softplus(), nnkit.Exponential()]), 1),
    lambda rng: binary(rng, False),
    lambda rng: binary(rng, True),
    lambda rng: categorical(rng, False),
    lambda rng: categorical(rng, True),
    lambda rng: sparse(rng, False),
    lambda rng: sparse(rng, True),
    lambda rng: (nnkit.KLDivergence(), pick(rng, [nnkit.Softmax(), nnkit.Sigmoid()]), 1),
    lambda rng: regression(rng, nnkit.Hinge()),
    lambda rng: regression(rng, nnkit.SquaredHinge()),
    lambda rng: (*regression(rng, nnkit.CategoricalHinge())[:2], 2),
)


# Optimizers.

def rate(rng: Generator, top: float) -> Any:
    """A number mostly, else a schedule that moves within the first updates."""
    top = number(rng, top / 2, top)
    return pick(rng, [*[lambda: top] * 6, lambda: nnkit.ExponentialDecay(top, 3, 0.5, staircase=chance(rng, 0.5)),
                      lambda: nnkit.InverseTimeDecay(top, 2, 0.7), lambda: nnkit.PolynomialDecay(top, 3, top / 10, power=2, cycle=chance(rng, 0.5)),
                      lambda: nnkit.PiecewiseConstantDecay((1, 3), (top, top / 2, top / 8)),
                      lambda: nnkit.CosineDecay(top / 10, 4, alpha=0.1, warmup_target=top, warmup_steps=2)])()


def common(rng: Generator, top: float) -> dict[str, Any]:
    """The fields of every optimizer."""
    clipping = pick(rng, [{}, {}, {}, {"clipnorm": number(rng, 0.05, 0.5)}, {"clipvalue": number(rng, 0.01, 0.1)},
                          {"global_clipnorm": number(rng, 0.05, 1)}])
    decay = {"weight_decay": number(rng, 0.01, 0.2)} if chance(rng, 0.25) else {}
    return {"learning_rate": rate(rng, top), **clipping, **decay}


def betas(rng: Generator) -> dict[str, float]:
    return {"beta_1": number(rng, 0.5, 0.95), "beta_2": pick(rng, [0.999, 0.99, 0.9]), "epsilon": pick(rng, [1e-7, 1e-3])}


OPTIMIZERS: tuple[Callable[[Generator], Optimizer], ...] = (
    lambda rng: nnkit.SGD(**common(rng, 0.1)),
    lambda rng: nnkit.SGD(**common(rng, 0.1), momentum=number(rng, 0.5, 0.95)),
    lambda rng: nnkit.SGD(**common(rng, 0.1), momentum=number(rng, 0.5, 0.95), nesterov=True),
    lambda rng: nnkit.Adam(**common(rng, 0.02), **betas(rng)),
    lambda rng: nnkit.Adam(**common(rng, 0.02), **betas(rng), amsgrad=True),
    lambda rng: nnkit.AdamW(**{"weight_decay": 0.02, **common(rng, 0.02)}, **betas(rng), amsgrad=chance(rng, 0.3)),
    lambda rng: nnkit.RMSprop(**common(rng, 0.02), rho=number(rng, 0.5, 0.95), epsilon=pick(rng, [1e-7, 1e-3])),
    lambda rng: nnkit.RMSprop(**common(rng, 0.02), rho=0.9, momentum=pick(rng, [0.0, 0.7]), centered=chance(rng, 0.6), epsilon=1e-4),
    lambda rng: nnkit.Adagrad(**common(rng, 0.1), initial_accumulator_value=number(rng, 0.01, 0.5)),
    lambda rng: nnkit.Adadelta(**common(rng, 1.0), rho=number(rng, 0.5, 0.97), epsilon=pick(rng, [1e-7, 1e-4])),
    lambda rng: nnkit.Nadam(**common(rng, 0.02), **betas(rng)),
)


# Networks.

@attrs.frozen
class Drawn:
    """A network and how it is trained. updates: 0 where training is random, so that only inference can be compared."""

    seed: int
    number: int
    network: nnkit.Sequential
    loss: Loss
    optimizer: Optimizer
    batch: int
    weighted: bool
    updates: int

    def __str__(self) -> str:
        """What a failed test shows."""
        layers = " ".join(repr(layer).replace(" ", "") for layer in self.network.layers)
        words = (layers, self.loss, self.optimizer if self.updates else "inference", f"N={self.batch}", *["weighted"] * self.weighted)
        return f"{self.number}: {' '.join(str(word).replace(' ', '') for word in words)}"

    @property
    def clips(self) -> bool:
        """Whether other libraries clip probabilities that nnkit never computes: on a softmax or sigmoid its loss takes the logits."""
        last = self.network.layers[-1]
        activation = getattr(last, "activation", last)
        fused = {nnkit.BinaryCrossentropy: nnkit.Sigmoid, nnkit.CategoricalCrossentropy: nnkit.Softmax,
                 nnkit.SparseCategoricalCrossentropy: nnkit.Softmax}
        return type(activation) is fused.get(type(self.loss)) and not self.loss.from_logits  # type: ignore[attr-defined]

    @property
    def input_shape(self) -> Shape:
        """Of a sample."""
        return self.network.layers[0].shape  # type: ignore[attr-defined]

    def parameters(self) -> dict[str, np.ndarray]:
        """Values for all parameters."""
        return parameter_values(self.network, np.random.default_rng([self.seed, self.number, 1]))

    def batches(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """(x, y, sample weights or None) for each update; the first serves predictions and gradients too."""
        rng = np.random.default_rng([self.seed, self.number, 2])
        (shape,) = self.network.graph().output_shapes
        found = []
        for _ in range(max(1, self.updates)):
            x = rng.standard_normal((self.batch, *self.input_shape))
            w = np.where(rng.random(self.batch) < 0.15, 0.0, rng.uniform(0.1, 3, self.batch)) if self.weighted else None
            found.append((x, targets(rng, self.loss, (self.batch, *shape)), w))
        return found


def parameter_values(network: Container, rng: Generator) -> dict[str, np.ndarray]:
    """Values at which activities stay near 1: kernels N(0, 1.2 / inputs), variances within 0.5 and 1.5, slopes around 0.25."""
    found = {}
    for name, declared in network.graph().parameters().items():
        values = rng.standard_normal(declared.shape)
        kind = name.split("/")[-1]
        if kind.endswith("kernel"):                      # of a transposed convolution the outputs stand before the inputs
            outputs = declared.shape[-2 if "transpose" in name else -1]
            found[name] = values * np.sqrt(1.2 * outputs / values.size)
            continue
        found[name] = {"alpha": lambda v: 0.25 + 0.2 * v, "gamma": lambda v: 1 + 0.3 * v,
                       "moving_variance": lambda v: 0.5 + 1 / (1 + np.exp(v))}.get(kind, lambda v: 0.4 * v)(values)
    return found


def targets(rng: Generator, loss: Loss, shape: Shape) -> np.ndarray:
    """Targets that the loss takes."""
    labels = rng.integers(0, shape[-1], shape[:-1])
    match type(loss).__name__:
        case "SparseCategoricalCrossentropy":
            if loss.ignore_class is not None:  # type: ignore[attr-defined]
                labels[rng.random(labels.shape) < 0.25] = loss.ignore_class  # type: ignore[attr-defined]
            return labels
        case "CategoricalHinge":
            return np.eye(shape[-1])[labels]
        case "CategoricalCrossentropy" | "KLDivergence":
            return np.eye(shape[-1])[labels] if chance(rng, 0.5) else rng.dirichlet(np.ones(shape[-1]), shape[:-1])
        case "BinaryCrossentropy":
            return rng.integers(0, 2, shape).astype(float) if chance(rng, 0.5) else rng.random(shape)
        case "Hinge" | "SquaredHinge":
            return 2.0 * rng.integers(0, 2, shape) - 1
        case "Poisson":
            return rng.poisson(1.5, shape).astype(float)
    return 1.5 * rng.standard_normal(shape)


def dense(rng: Generator, units: int, activation: ActivationFunction) -> Layer:
    return nnkit.Dense(units, activation=activation, use_bias=chance(rng, 0.8), kernel_regularizer=regularizer(rng),
                       bias_regularizer=regularizer(rng), activity_regularizer=regularizer(rng), trainable=not chance(rng, 0.05))


def batch_normalization(rng: Generator, shape: Shape) -> Layer:
    return nnkit.BatchNormalization(
        axis=pick(rng, [-1, *range(1, len(shape) + 1)]), momentum=pick(rng, [0.99, 0.9, 0.3, 0.0]), epsilon=pick(rng, [1e-3, 0.02]),
        center=chance(rng, 0.8), scale=chance(rng, 0.8), beta_regularizer=regularizer(rng), gamma_regularizer=regularizer(rng),
        trainable=not chance(rng, 0.1))


def layer_normalization(rng: Generator, shape: Shape) -> Layer:
    axes = pick(rng, [-1, tuple(range(-len(shape), 0))])
    return nnkit.LayerNormalization(axis=axes, epsilon=pick(rng, [1e-3, 0.02]), center=chance(rng, 0.8), scale=chance(rng, 0.8),
                                    beta_regularizer=regularizer(rng), gamma_regularizer=regularizer(rng))


def convolution(rng: Generator, shape: Shape) -> Layer:
    """One that takes samples of that shape: from 1 to 3 spatial axes. A transposed one, which grows them, only of small samples."""
    rank, channels = len(shape) - 1, shape[-1]
    sizes = [pick(rng, [k for k in (1, 2, 3, 3, 4) if k <= size]) for size in shape[:-1]]
    # Keras wants strides or dilation, not both.
    step = {"strides": pick(rng, [1, 2, 3])} if chance(rng, 0.4) else {"dilation_rate": pick(rng, [1, 1, 2])}
    padding = "same" if step.get("dilation_rate") == 2 else pick(rng, ["valid", "same", *["causal"] * (rank == 1)])
    rest = {"use_bias": chance(rng, 0.8), "bias_regularizer": regularizer(rng), "activity_regularizer": regularizer(rng),
            "trainable": not chance(rng, 0.05)}
    kinds = ["Conv", "Conv", *["ConvTranspose"] * (math.prod(shape) <= 50), *["DepthwiseConv", "SeparableConv"] * (rank < 3)]
    kind, filters = pick(rng, kinds), pick(rng, [1, 2, 3, 5])
    if kind == "Conv":
        groups = pick(rng, [g for g in (1, 1, 2, 3) if channels % g == 0])
        pairs = padding if padding == "same" else pick(rng, [padding, tuple((pick(rng, [0, 1]), pick(rng, [0, 2])) for _ in sizes)])
        rest |= {"padding": pairs, "groups": groups, "filters": groups * filters, "kernel_regularizer": regularizer(rng)}
    elif kind == "ConvTranspose":
        padding = pick(rng, ["valid", "same"])
        extra = pick(rng, [None, 0, step.get("strides", 1) - 1]) if padding == "valid" else None
        rest |= {"padding": padding, "output_padding": extra, "filters": filters, "kernel_regularizer": regularizer(rng)}
    else:
        padding = "same" if padding == "causal" else padding
        rest |= {"padding": padding, "depth_multiplier": pick(rng, [1, 1, 2, 3]), "depthwise_regularizer": regularizer(rng)}
        rest |= {"filters": filters, "pointwise_regularizer": regularizer(rng)} if kind == "SeparableConv" else {}
    name = kind.replace("Conv", f"Conv{rank}D")
    layer = getattr(nnkit, name)(kernel_size=tuple(sizes), **step, **rest)
    return attrs.evolve(layer, activation=pick(rng, ACTIVATIONS)(rng, layer.output_shape(shape)))


def over_places(rng: Generator, shape: Shape) -> Layer:
    """Pooling, padding, cropping or upsampling of samples of that shape. Not GlobalMaxPooling: of equal numbers, such as the zeros of a ReLU, Keras
    gives each a part of the gradient. Averages without padding: on PyTorch Keras lets padding count."""
    rank = len(shape) - 1
    sizes = tuple(pick(rng, [k for k in (1, 2, 2, 3, 4) if k <= size]) for size in shape[:-1])
    strides = pick(rng, [None, 1, 2, 3])
    pairs = tuple((pick(rng, [0, 1]), pick(rng, [0, 2])) for _ in sizes)
    name, given = pick(rng, [
        ("MaxPooling", {"pool_size": sizes, "strides": strides, "padding": pick(rng, ["valid", "same"])}),
        ("AveragePooling", {"pool_size": sizes, "strides": strides}), ("GlobalAveragePooling", {"keepdims": chance(rng, 0.5)}),
        ("ZeroPadding", {"padding": pairs}), ("SpatialDropout", {"rate": 0.0}),
        *[("Cropping", {"cropping": pairs})] * all(size > sum(pair) for size, pair in zip(shape[:-1], pairs, strict=True)),
        *[("UpSampling", {"size": tuple(pick(rng, [1, 2, 3]) for _ in sizes)})] * (math.prod(shape) <= 50)])
    bilinear = {"interpolation": "bilinear"} if name == "UpSampling" and rank == 2 and chance(rng, 0.5) else {}
    return getattr(nnkit, f"{name}{rank}D")(**given, **bilinear)


def draw_layers(rng: Generator, shape: Shape, units: int, last: ActivationFunction, passive: bool) -> list[Layer]:
    """From one to four Dense layers, with others in between; the last has so many units and that activation."""
    layers: list[Layer] = [nnkit.Input(shape)]

    def add(layer: Layer) -> None:
        nonlocal shape
        layers.append(layer)
        shape = layer.output_shape(shape)

    for _ in range(pick(rng, [1, 1, 2]) if len(shape) > 2 or (len(shape) == 2 and chance(rng, 0.3)) else 0):
        if len(shape) < 2:
            break                                        # behind a pooling that leaves no places
        add(convolution(rng, shape))
        if isinstance(layers[-1].activation, (nnkit.Exponential, nnkit.LogSoftmax)) or chance(rng, 0.2):  # type: ignore[attr-defined]
            add(pick(rng, [batch_normalization, layer_normalization])(rng, shape))
        if chance(rng, 0.3):
            add(over_places(rng, shape))
    if len(shape) > 2:
        add(nnkit.Flatten())
    for _ in range(int(rng.integers(0, 4))):
        width = pick(rng, WIDTHS)
        activation = pick(rng, ACTIVATIONS)(rng, (*shape[:-1], width))
        if chance(rng, 0.25):                            # Dense, normalization, activation, as many write it
            add(dense(rng, width, nnkit.Linear()))
            add(pick(rng, [batch_normalization, layer_normalization])(rng, shape))
            add(activation if chance(rng, 0.5) else nnkit.Activation(activation))
        else:
            add(dense(rng, width, activation))
        if isinstance(activation, (nnkit.Exponential, nnkit.LogSoftmax)):
            add(layer_normalization(rng, shape))         # so that no second exponential sees large numbers
        elif chance(rng, 0.2):
            add(pick(rng, [batch_normalization, layer_normalization])(rng, shape))
        if passive or chance(rng, 0.1):
            add(pick(rng, [nnkit.Dropout(number(rng, 0.1, 0.7)), nnkit.GaussianNoise(number(rng, 0.1, 1))]) if passive else nnkit.Dropout(0.0))
        if len(shape) == 2 and chance(rng, 0.3):
            add(pick(rng, [nnkit.Flatten(), nnkit.Reshape((shape[1], shape[0])), nnkit.Reshape((-1,))]))
        if len(shape) == 2 and chance(rng, 0.3):
            add(over_places(rng, shape))
    if chance(rng, 0.2):                                 # the loss is fused with an activation that is a layer of its own, too
        add(dense(rng, units, nnkit.Linear()))
        add(last if chance(rng, 0.5) else nnkit.Activation(last))
    else:
        add(dense(rng, units, last))
    return layers


def draw(seed: int, number: int) -> Drawn:
    """The network of that number."""
    rng = np.random.default_rng([seed, number, 0])
    loss, last, fewest = LOSSES[number % len(LOSSES)](rng)
    optimizer = OPTIMIZERS[number % len(OPTIMIZERS)](rng)
    passive = chance(rng, PASSIVE_RATE)
    shape = (pick(rng, STEPS), pick(rng, WIDTHS)) if chance(rng, 0.3) else (pick(rng, WIDTHS),)
    if chance(rng, 0.25):
        shape = (*(pick(rng, SIDES) for _ in range(pick(rng, [2, 2, 2, 3]))), pick(rng, CHANNELS))
    units = pick(rng, [width for width in WIDTHS if width >= fewest])
    layers = draw_layers(rng, shape, units, last, passive)
    updates = 0 if any(isinstance(layer, (nnkit.Dropout, nnkit.GaussianNoise)) and layer != nnkit.Dropout(0.0) for layer in layers) else 1
    return Drawn(seed, number, nnkit.Sequential(layers), loss, optimizer, pick(rng, BATCHES), chance(rng, 0.3),
                 MANY_UPDATES if updates and number % 3 == 0 else updates)


# Networks as graphs.

Pick = Callable[[Sequence[Any]], Any]                    # returns one of the options
SAMPLES = ((3,), (4,), (2, 3), (1, 3), (2, 1))           # shapes that meet: some are equal, some broadcast, some share an axis
LARGEST = 40                                             # numbers of a sample that further layers take
GRAPH_ACTIVATIONS = ("linear", "tanh", "sigmoid", "relu", "gelu")
WEIGHTS = (1.0, 0.3, 2.5)


@attrs.frozen(eq=False)
class Declared:
    """A network with the tensors that it was declared from, and the same of every network nested in it, by its id."""

    network: nnkit.Network
    inputs: tuple[nnkit.Input, ...]
    outputs: tuple[Tensor, ...]
    nested: Mapping[int, Declared]


@attrs.frozen(eq=False)
class DrawnGraph:
    """A network with its losses (or None) by output, their weights, and the batch."""

    declared: Declared
    losses: tuple[Loss | None, ...]
    weights: tuple[float, ...]
    batch: int

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What hypothesis shows of a failed test."""
        printer.text(f"{self.declared.network!r}, losses={self.losses}, weights={self.weights}, batch={self.batch}")

    def parameters(self) -> dict[str, np.ndarray]:
        """Values for all parameters."""
        return parameter_values(self.declared.network, np.random.default_rng(1))

    def data(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """An array for each input, and one for each output as its target."""
        rng, graph = np.random.default_rng(2), self.declared.network.graph()
        first, second = ([rng.standard_normal((self.batch, *shape)) for shape in shapes] for shapes in (graph.input_shapes, graph.output_shapes))
        return first, second


class Sketch:
    """A network while it is being declared. Layers have names of their own, which tell their parameters whatever the order of calls is."""

    def __init__(self, pick: Pick, shapes: Sequence[Shape]) -> None:
        self.pick = pick
        self.inputs = tuple(nnkit.Input(shape, name=f"input{number}") for number, shape in enumerate(shapes))
        self.tensors: list[Any] = [*self.inputs]
        self.used: set[int] = set()                      # ids of tensors that a layer takes
        self.calls: list[tuple[Layer, list[Shape]]] = []
        self.nested: dict[int, Declared] = {}

    def name(self) -> str:
        """One that no other layer has."""
        return f"layer{len(self.calls)}"

    def call(self, layer: Layer, tensors: Sequence[Any]) -> Any:
        """The layer on tensors; what comes out may be used from now on."""
        self.used |= {id(tensor) for tensor in tensors}
        self.calls.append((layer, [tensor.shape for tensor in tensors]))
        made = layer(*tensors)
        self.tensors += made if isinstance(made, tuple) else [made]
        return made

    def any(self, fits: Callable[[Any], bool] = lambda tensor: True) -> Any:
        """One of the tensors that fit and are not large."""
        return self.pick([tensor for tensor in self.tensors if math.prod(tensor.shape) <= LARGEST and fits(tensor)])

    # What may come next.

    def dense(self) -> None:
        layer = nnkit.Dense(self.pick((1, 2, 3, 4)), self.pick(GRAPH_ACTIVATIONS), use_bias=self.pick((True, False)),
                            trainable=self.pick((True, True, False)), name=self.name())
        self.call(layer, [self.any()])

    def alone(self) -> None:
        """A layer of one input that has no weight matrix."""
        x, name = self.any(), self.name()
        self.call(self.pick([nnkit.Activation(self.pick(GRAPH_ACTIVATIONS), name=name), nnkit.LayerNormalization(name=name),
                             nnkit.Flatten(name=name), nnkit.Reshape(x.shape[::-1], name=name)]), [x])

    def again(self) -> None:
        """A layer or nested network that was called before, on the same tensors or others of their shapes: it shares its parameters."""
        if self.calls:
            layer, shapes = self.pick(self.calls)
            self.call(layer, [self.pick([tensor for tensor in self.tensors if tensor.shape == shape]) for shape in shapes])

    def elementwise(self) -> None:
        """Of two or three inputs, which may be one tensor."""
        cls = self.pick((nnkit.Add, nnkit.Subtract, nnkit.Multiply, nnkit.Average, nnkit.Maximum, nnkit.Minimum))
        tensors = [self.any()]
        for _ in range(1 if cls is nnkit.Subtract else self.pick((1, 1, 2))):
            tensors.append(self.any(lambda tensor: broadcast_shape([tensor.shape, *(other.shape for other in tensors)]) is not None))
        self.bounded(cls(name=self.name()), tensors)

    def concatenate(self) -> None:
        x = self.any()
        axis = self.pick(range(len(x.shape)))

        def others(shape: Shape) -> Shape:
            return (*shape[:axis], *shape[axis + 1:])
        tensors = [x, *(self.any(lambda tensor: len(tensor.shape) == len(x.shape) and others(tensor.shape) == others(x.shape))
                        for _ in range(self.pick((1, 1, 2))))]
        self.call(nnkit.Concatenate(axis=self.pick((axis + 1, axis - len(x.shape))), name=self.name()), tensors)

    def dot(self) -> None:
        """Normalized, of numbers that are not 0: of zeros, such as x - x, the gradients are 1e7 times as large, and then cancel."""
        x = self.any()
        y = self.any(lambda tensor: not {*x.shape}.isdisjoint(tensor.shape))
        axes = [(i + 1, j + 1) for i, d in enumerate(x.shape) for j, other in enumerate(y.shape) if d == other]
        normalize, tensors = self.pick((False, True)), [x, y]
        if normalize:
            tensors = [self.call(nnkit.Activation("sigmoid", name=self.name()), [tensor]) for tensor in tensors]
        self.bounded(nnkit.Dot(self.pick(axes), normalize=normalize, name=self.name()), tensors)

    def bounded(self, layer: Layer, tensors: Sequence[Any]) -> None:
        """The layer, and behind a product a tanh: products of products would grow beyond all numbers."""
        made = self.call(layer, tensors)
        if isinstance(layer, (nnkit.Multiply, nnkit.Dot)):
            self.call(nnkit.Activation("tanh", name=self.name()), [made])

    def network(self) -> None:
        """A network of one to three layers, nested."""
        tensors = [self.any() for _ in range(self.pick((1, 2)))]
        inner = declare(self.pick, [tensor.shape for tensor in tensors], self.pick((1, 2, 3)), self.pick((1, 2)), self.name())
        self.nested |= {id(inner.network): inner}
        self.call(inner.network, tensors)

    def outputs(self, count: int) -> tuple[Tensor, ...]:
        """So many tensors that depend on all inputs: each is made of what nothing else takes, or is one that others take, too."""
        ends = [tensor for tensor in self.tensors if id(tensor) not in self.used]
        found = []
        for position in range(count):
            own = ends[position::count] or [self.any()]
            if len(own) == 1 and not isinstance(own[0], nnkit.Input) and self.pick((True, False)):
                found.append(own[0])
                continue
            units = self.pick((1, 2, 3))
            flat = [self.call(nnkit.Flatten(name=self.name()), [tensor]) for tensor in own]
            dense = [self.call(nnkit.Dense(units, name=self.name()), [tensor]) for tensor in flat]
            found.append(self.call(nnkit.Add(name=self.name()), dense) if len(dense) > 1 else dense[0])
        return tuple(found)


def declare(pick: Pick, shapes: Sequence[Shape], layers: int, outputs: int, name: str | None = None) -> Declared:
    """A network of inputs of these shapes; `name` where it is nested."""
    sketch = Sketch(pick, shapes)
    moves = [sketch.dense, sketch.alone, sketch.again, *[sketch.elementwise] * 3, sketch.concatenate, sketch.dot]
    moves += [sketch.network] * (name is None)
    for _ in range(layers):
        pick(moves)()
    ends = sketch.outputs(outputs)
    network = nnkit.Network(sketch.inputs, {f"output{number}": end for number, end in enumerate(ends)}, name=name)
    return Declared(network, sketch.inputs, ends, sketch.nested)


def draw_graph(pick: Pick) -> DrawnGraph:
    """A network of one to three inputs and outputs."""
    count = pick((1, 2, 3))
    declared = declare(pick, [pick(SAMPLES) for _ in range(pick((1, 2, 3)))], pick(range(1, 11)), count)
    losses = [pick((nnkit.MeanSquaredError(), nnkit.LogCosh())), *(pick((nnkit.MeanSquaredError(), nnkit.LogCosh(), None)) for _ in range(count - 1))]
    return DrawnGraph(declared, tuple(losses), tuple(pick(WEIGHTS) if loss else 1.0 for loss in losses), pick((1, 2, 5)))


# What every library computes.

@attrs.frozen
class Results:
    """predictions and loss in inference; gradients by name, that of the input as "x"; parameters after each update.

    The other library may give fewer updates, and fewer parameters, where its training follows another formula. It gives its outputs in training as
    well, those that each update began with.
    """

    predictions: np.ndarray
    loss: float
    gradients: Mapping[str, np.ndarray]
    trained: Sequence[Mapping[str, np.ndarray]]
    outputs: Sequence[np.ndarray] = ()


@functools.lru_cache(maxsize=512)
def run_nnkit(drawn: Drawn) -> Results:
    """nnkit's results, in float64."""
    model = nnkit.compile(drawn.network, optimizer=drawn.optimizer, loss=drawn.loss, dtype="float64")
    model.set_parameters(drawn.parameters())
    batches = drawn.batches()
    x, t, w = batches[0]
    predictions = model.predict(x)
    loss = model.evaluate(x, t, sample_weight=w)["loss"]
    if not drawn.updates:
        return Results(predictions, loss, {}, [])
    gradients = model.gradients(x, t, sample_weight=w, inputs=True)
    trained = []
    for x, t, w in batches:
        model.train_on_batch(x, t, sample_weight=w)
        trained.append({name: values.copy() for name, values in model.parameters.items()})
    return Results(predictions, loss, gradients, trained)


@attrs.frozen
class GraphResults:
    """predictions of every output; the loss and its gradients by name, those of the inputs as "x", "x1", ..."""

    predictions: tuple[np.ndarray, ...]
    loss: float
    gradients: Mapping[str, np.ndarray]


def run_nnkit_graph(drawn: DrawnGraph) -> GraphResults:
    """nnkit's results, in float64."""
    network = drawn.declared.network
    weights = [weight if loss else None for loss, weight in zip(drawn.losses, drawn.weights, strict=True)]
    model = nnkit.compile(network, loss=list(drawn.losses), loss_weights=weights, dtype="float64")
    model.set_parameters(drawn.parameters())
    arrays, targets = drawn.data()
    x = dict(zip(model.graph.input_names, arrays, strict=True))
    y = {name: values for name, values, loss in zip(model.graph.output_names, targets, drawn.losses, strict=True) if loss}
    return GraphResults(tuple(model.predict(x).values()), model.evaluate(x, y)["loss"], model.gradients(x, y, inputs=True))
