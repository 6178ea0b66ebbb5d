"""Random networks with parameters, data, loss and optimizer, for comparison with other libraries; all of it a function of (seed, number).

N batch, T steps of a sequence, F features, C classes. Numbers that are drawn for a declaration have two digits, so that it prints short.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

import nnkit
from nnkit.layers.activation import ActivationFunction
from nnkit.layers.base import Layer, Shape
from nnkit.losses.base import Loss
from nnkit.optimizers.base import Optimizer

__all__ = ["Drawn", "Results", "draw", "run_nnkit"]

WIDTHS = (1, 2, 3, 7, 16, 33, 64)
BATCHES = (1, 2, 3, 5, 7, 13, 16, 31, 32, 64, 97)
STEPS = (1, 2, 5, 11)
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
        """Values at which activities stay near 1: kernels N(0, 1.2 / inputs), variances within 0.5 and 1.5, slopes around 0.25."""
        rng = np.random.default_rng([self.seed, self.number, 1])
        found = {}
        for name, declared in self.network.graph().parameters().items():
            values = rng.standard_normal(declared.shape)
            kind = name.split("/")[-1]
            found[name] = {"kernel": lambda v: v * np.sqrt(1.2 / v.shape[0]), "alpha": lambda v: 0.25 + 0.2 * v, "gamma": lambda v: 1 + 0.3 * v,
                           "moving_variance": lambda v: 0.5 + 1 / (1 + np.exp(v))}.get(kind, lambda v: 0.4 * v)(values)
        return found

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


def draw_layers(rng: Generator, shape: Shape, units: int, last: ActivationFunction, passive: bool) -> list[Layer]:
    """From one to four Dense layers, with others in between; the last has so many units and that activation."""
    layers: list[Layer] = [nnkit.Input(shape)]

    def add(layer: Layer) -> None:
        nonlocal shape
        layers.append(layer)
        shape = layer.output_shape(shape)

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
    units = pick(rng, [width for width in WIDTHS if width >= fewest])
    layers = draw_layers(rng, shape, units, last, passive)
    updates = 0 if any(isinstance(layer, (nnkit.Dropout, nnkit.GaussianNoise)) and layer != nnkit.Dropout(0.0) for layer in layers) else 1
    return Drawn(seed, number, nnkit.Sequential(layers), loss, optimizer, pick(rng, BATCHES), chance(rng, 0.3),
                 MANY_UPDATES if updates and number % 3 == 0 else updates)


# What every library computes.

@attrs.frozen
class Results:
    """predictions and loss in inference; gradients by name, that of the input as "x"; parameters after each update.

    The other library may give fewer updates, and fewer parameters, where its training follows another formula.
    """

    predictions: np.ndarray
    loss: float
    gradients: Mapping[str, np.ndarray]
    trained: Sequence[Mapping[str, np.ndarray]]


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
