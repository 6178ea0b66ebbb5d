"""Random networks in PyTorch, and the same declared in nnkit, for loading the weights of the one into the other: a function of (seed, number).

Chains of layers on images, volumes and sequences, with what flattens them and what makes images of rows; recurrent layers on sequences and words.
What is compared is predictions, so initial weights are drawn anew where PyTorch's would hide a mistake (running statistics, normalizations).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn

import nnkit
from nnkit.layers.base import Layer, Shape
from parity_draw import Generator, chance, pick

__all__ = ["DrawnWeights", "draw_weights"]

EPSILON = 1e-5                                           # of PyTorch's normalizations
CHANNELS, UNITS = (1, 2, 3, 4, 6), (1, 2, 3, 5, 7, 16)
WORDS = 13
STYLES = ("path", "names", "order")

Step = Callable[[Tensor], Tensor]


class Modules(nn.Module):
    """Modules under dotted names, and a chain of steps that use them; data is channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []

    def put(self, path: str, module: nn.Module) -> None:
        """Under that path."""
        holder: nn.Module = self
        *above, name = path.split(".")
        for part in above:
            if part not in dict(holder.named_children()):
                holder.add_module(part, Modules())
            holder = getattr(holder, part)
        holder.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


@attrs.define
class DrawnWeights:
    """Both networks, while they are drawn and afterwards. shape: of what comes out, as nnkit has it. names: for `from_torch`; None: none needed."""

    rng: Generator
    number: int
    style: str
    layers: list[Layer] = attrs.Factory(list)
    modules: Modules = attrs.Factory(Modules)
    names: dict[str, str] | None = None
    shape: Shape = ()
    words: bool = False
    is_image: bool = False                               # whether PyTorch's data is channels first by now
    dtype: str = "float64"

    def __str__(self) -> str:
        """What a failed test shows."""
        return f"{self.number}: {self.style} {' '.join(repr(layer).replace(' ', '') for layer in self.layers)}"

    @property
    def network(self) -> nnkit.Sequential:
        """The declaration."""
        return nnkit.Sequential(self.layers)

    def add(self, layer: Layer, step: Step | None = None, **modules: nn.Module) -> None:
        """A layer, and modules for it: under its path itself ("own"), or behind that ("depthwise"). `step` runs them; by default the one module."""
        position = len(self.layers)
        path = (f"m{position}", f"block{position // 3}.m{position}", f"a.b{position // 4}.{position}")[self.number // 27 % 3]
        if modules:
            name = {"path": path, "names": f"layer{position}", "order": None}[self.style]
            layer = attrs.evolve(layer, name=name)
            for part, module in modules.items():
                place = path if part == "own" else f"{path}.{part}"
                if part != "own" and self.style == "names":
                    place = f"{path}x.{part}2"
                    self.names = {**(self.names or {}), f"{name}/{part}": place}
                self.modules.put(place, module)
            if self.style == "names" and "own" in modules:
                self.names = {**(self.names or {}), str(name): path}
        self.layers.append(layer)
        self.modules.steps.append(step or next(iter(modules.values())))
        self.shape = self.layers[0].shape if len(self.layers) == 1 else layer.output_shape(self.shape)  # type: ignore[attr-defined]

    def start(self, shape: Shape, *, image: bool, words: bool = False) -> None:
        """The Input."""
        self.words = words
        self.add(nnkit.Input(shape), (lambda x: x.movedim(-1, 1)) if image else (lambda x: x))

    def data(self, batch: int) -> np.ndarray:
        """A batch of samples."""
        rng = np.random.default_rng([self.number, 1])
        shape = (batch, *self.layers[0].shape)  # type: ignore[attr-defined]
        return rng.integers(0, WORDS, shape) if self.words else rng.standard_normal(shape)

    def expected(self, x: np.ndarray) -> np.ndarray:
        """What PyTorch makes of it, channels last."""
        with torch.no_grad():
            y = self.modules(torch.as_tensor(x if self.words else x.astype(self.dtype)))
        return (y.movedim(1, -1) if len(self.shape) > 1 and self.is_image else y).numpy()


# Layers in a chain of layers over places. K is the rank.

def at_places(rank: int, name: str) -> type:
    return getattr(nnkit, f"{name}{rank}D")


def of_torch(rank: int, name: str) -> type:
    return getattr(nn, f"{name}{rank}d")


def convolution(d: DrawnWeights, rank: int) -> None:
    sizes, channels = d.shape[:-1], d.shape[-1]
    k = tuple(pick(d.rng, [n for n in (1, 2, 3) if n <= size]) for size in sizes)
    groups = pick(d.rng, [g for g in (1, 1, 2, 3) if channels % g == 0])
    filters = groups * pick(d.rng, (1, 2, 3))
    stride, pad, bias = pick(d.rng, (1, 1, 2)), pick(d.rng, (0, 1)), chance(d.rng, 0.8)
    layer = at_places(rank, "Conv")(filters, k, strides=stride, padding=((pad, pad),) * rank, groups=groups, use_bias=bias)
    d.add(layer, own=of_torch(rank, "Conv")(channels, filters, k, stride, pad, groups=groups, bias=bias))


def transposed(d: DrawnWeights, rank: int) -> None:
    filters, k, stride, bias = pick(d.rng, CHANNELS), pick(d.rng, (1, 2, 3)), pick(d.rng, (1, 2)), chance(d.rng, 0.8)
    layer = getattr(nnkit, f"Conv{rank}DTranspose")(filters, k, strides=stride, padding=((0, 0),) * rank, use_bias=bias)
    d.add(layer, own=of_torch(rank, "ConvTranspose")(d.shape[-1], filters, k, stride, bias=bias))


def depthwise(d: DrawnWeights, rank: int) -> None:
    channels, k, m, bias = d.shape[-1], min(2, *d.shape[:-1]), pick(d.rng, (1, 2, 3)), chance(d.rng, 0.8)
    d.add(at_places(rank, "DepthwiseConv")(k, depth_multiplier=m, use_bias=bias),
          own=of_torch(rank, "Conv")(channels, channels * m, k, groups=channels, bias=bias))


def separable(d: DrawnWeights, rank: int) -> None:
    channels, k, m, filters, bias = d.shape[-1], min(2, *d.shape[:-1]), pick(d.rng, (1, 2)), pick(d.rng, CHANNELS), chance(d.rng, 0.8)
    first = of_torch(rank, "Conv")(channels, channels * m, k, groups=channels, bias=False)
    second = of_torch(rank, "Conv")(channels * m, filters, 1, bias=bias)
    layer = at_places(rank, "SeparableConv")(filters, k, depth_multiplier=m, use_bias=bias)
    d.add(layer, lambda x: second(first(x)), depthwise=first, pointwise=second)


def batch_normalization(d: DrawnWeights, rank: int) -> None:
    """Over the last axis, rank 0 for rows."""
    affine = chance(d.rng, 0.8)
    module = of_torch(max(1, rank), "BatchNorm")(d.shape[-1], affine=affine)
    nn.init.normal_(module.running_mean)
    nn.init.uniform_(module.running_var, 0.5, 2)
    if affine:
        nn.init.normal_(module.weight)
        nn.init.normal_(module.bias)
    d.add(nnkit.BatchNormalization(epsilon=EPSILON, center=affine, scale=affine), own=module)


def layer_normalization(d: DrawnWeights, rank: int) -> None:
    """Over the whole sample: of images (C, H, W) there."""
    shape = (d.shape[-1], *d.shape[:-1]) if rank else d.shape[-1:]
    module = nn.LayerNorm(shape)
    nn.init.normal_(module.weight)
    nn.init.normal_(module.bias)
    d.add(nnkit.LayerNormalization(axis=tuple(range(-len(shape), 0)), epsilon=EPSILON), own=module)


def slopes(d: DrawnWeights, rank: int) -> None:
    module = nn.PReLU(pick(d.rng, (1, d.shape[-1])))
    nn.init.uniform_(module.weight, -0.5, 0.5)
    shared = pick(d.rng, [None, tuple(range(1, rank + 1)) or None])
    layer = nnkit.PReLU(shared_axes=shared)
    d.add(pick(d.rng, [layer, nnkit.Activation(layer)]), own=module)


def elementwise(d: DrawnWeights, rank: int) -> None:
    layer, step = pick(d.rng, [(nnkit.ReLU(), torch.relu), (nnkit.Activation("tanh"), torch.tanh), (nnkit.Dropout(0.3), lambda x: x),
                               (nnkit.GaussianNoise(0.1), lambda x: x), (nnkit.SiLU(), nn.functional.silu)])
    d.add(layer, step)


def pooling(d: DrawnWeights, rank: int) -> None:
    d.add(at_places(rank, "MaxPooling")(min(2, *d.shape[:-1])), of_torch(rank, "MaxPool")(min(2, *d.shape[:-1])))


def flatten(d: DrawnWeights) -> None:
    d.add(pick(d.rng, [nnkit.Flatten(), nnkit.Reshape((math.prod(d.shape),))]), lambda x: x.flatten(1))
    d.is_image = False


def dense(d: DrawnWeights, units: int | None = None) -> None:
    units, bias = units or pick(d.rng, UNITS), chance(d.rng, 0.8)
    module = nn.Linear(d.shape[-1], units, bias=bias)
    if chance(d.rng, 0.2) and len(d.shape) == 1:
        alpha = nn.PReLU(pick(d.rng, (1, units)))
        nn.init.uniform_(alpha.weight, -0.5, 0.5)
        d.add(nnkit.Dense(units, nnkit.PReLU(), use_bias=bias), lambda x: alpha(module(x)), own=module, alpha=alpha)
    else:
        d.add(nnkit.Dense(units, use_bias=bias), own=module)


OVER_PLACES = (convolution, convolution, batch_normalization, layer_normalization, slopes, elementwise, pooling)


def places(d: DrawnWeights, rank: int, count: int) -> None:
    """Some layers over places."""
    for _ in range(count):
        kinds = [*OVER_PLACES, *[transposed] * (math.prod(d.shape) < 100), *[depthwise, separable] * (rank < 3)]
        pick(d.rng, kinds)(d, rank)


def head(d: DrawnWeights) -> None:
    """Rows of numbers to rows of numbers."""
    for _ in range(int(d.rng.integers(0, 3))):
        pick(d.rng, (batch_normalization, slopes, elementwise, elementwise))(d, 0)
    dense(d)
    if chance(d.rng, 0.5):
        dense(d)


def drawn_images(d: DrawnWeights) -> None:
    rank = pick(d.rng, (1, 2, 2, 3))
    d.is_image = True
    d.start((*(pick(d.rng, (3, 4, 5, 6)) for _ in range(rank)), pick(d.rng, CHANNELS)), image=True)
    convolution(d, rank)
    places(d, rank, int(d.rng.integers(0, 5)))
    if chance(d.rng, 0.8):
        flatten(d)
        head(d)


def drawn_decoder(d: DrawnWeights) -> None:
    rank = pick(d.rng, (1, 2, 3))
    d.start((pick(d.rng, UNITS),), image=False)
    shape = (*(pick(d.rng, (2, 3)) for _ in range(rank)), pick(d.rng, CHANNELS))
    dense(d, math.prod(shape))
    for _ in range(int(d.rng.integers(0, 3))):
        pick(d.rng, (batch_normalization, slopes, elementwise))(d, 0)
    d.add(nnkit.Reshape(shape), lambda x: x.reshape(-1, shape[-1], *shape[:-1]))
    d.is_image = True
    pick(d.rng, (transposed, convolution))(d, rank)
    places(d, rank, int(d.rng.integers(0, 3)))
    if chance(d.rng, 0.4):
        flatten(d)
        head(d)


def recurrent(d: DrawnWeights, sequences: bool) -> None:
    """One layer, or both directions."""
    name = pick(d.rng, ("SimpleRNN", "LSTM", "GRU"))
    units, bias, both, relu = pick(d.rng, UNITS), chance(d.rng, 0.8), chance(d.rng, 0.4), name == "SimpleRNN" and chance(d.rng, 0.3)
    options: dict[str, Any] = {"nonlinearity": "relu"} if relu else {}
    module = getattr(nn, name.removeprefix("Simple"))(d.shape[-1], units, bias=bias, batch_first=True, bidirectional=both, **options)
    layer = getattr(nnkit, name)(units, use_bias=bias, return_sequences=sequences, **({"activation": "relu"} if relu else {}))

    def step(x: Tensor) -> Tensor:
        y = module(x)[0]
        if sequences:
            return y
        return torch.cat([y[:, -1, :units], y[:, 0, units:]], -1) if both else y[:, -1]
    d.add(nnkit.Bidirectional(layer) if both else layer, step, own=module)


def drawn_sequences(d: DrawnWeights) -> None:
    steps = pick(d.rng, (1, 2, 5))
    if chance(d.rng, 0.5):
        d.start((steps,), image=False, words=True)
        width = pick(d.rng, UNITS)
        d.add(nnkit.Embedding(WORDS, width), own=nn.Embedding(WORDS, width))
    else:
        d.start((steps, pick(d.rng, UNITS)), image=False)
    for _ in range(int(d.rng.integers(0, 3))):
        pick(d.rng, (lambda d: recurrent(d, True), lambda d: layer_normalization(d, 0), dense, lambda d: elementwise(d, 0)))(d)
    if chance(d.rng, 0.5):
        recurrent(d, False)
    else:
        recurrent(d, True)
        flatten(d)
    head(d)


def draw_weights(seed: int, number: int) -> DrawnWeights:
    """The networks of that number; kinds take turns."""
    rng = np.random.default_rng([seed, number])
    torch.manual_seed(int(rng.integers(1 << 30)))
    drawn = DrawnWeights(rng, number, STYLES[number // 3 % 3])
    (drawn_images, drawn_decoder, drawn_sequences)[number % 3](drawn)
    drawn.modules.eval()
    drawn.dtype = ("float32", "float64")[number % 2]
    drawn.modules.to(getattr(torch, drawn.dtype))
    return drawn
