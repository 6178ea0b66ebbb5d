"""Random convolutions with data, a function of (seed, number): all ranks, strides, dilations, paddings, groups; transposed, depthwise, separable."""

from __future__ import annotations

import math
from typing import Any

import attrs
import numpy as np

import nnkit
from nnkit.layers.base import Layer, Shape
from nnkit.prims.convolution import ALGORITHMS
from parity_draw import Generator, chance, pick

__all__ = ["LAYERS", "DrawnConvolution", "draw_convolution"]

LAYERS = (
    nnkit.Conv1D, nnkit.Conv2D, nnkit.Conv2D, nnkit.Conv3D, nnkit.Conv1DTranspose, nnkit.Conv2DTranspose, nnkit.Conv3DTranspose,
    nnkit.DepthwiseConv1D, nnkit.DepthwiseConv2D, nnkit.SeparableConv1D, nnkit.SeparableConv2D,
)
SIZES = {1: (1, 2, 3, 7, 16, 29), 2: (1, 2, 3, 5, 8, 11), 3: (1, 2, 3, 5)}       # by rank
WINDOWS = {1: (1, 2, 3, 4, 5, 7), 2: (1, 2, 3, 3, 3, 4, 5), 3: (1, 2, 3)}
CHANNELS, FILTERS = (1, 2, 3, 5, 16, 19), (1, 2, 3, 8, 17, 33, 50)
BATCHES = (1, 2, 3, 8, 11)                               # below and beyond what cuts single images into pieces


@attrs.frozen
class DrawnConvolution:
    """A layer, the shape of its samples, the batch, and an algorithm that can compute it."""

    seed: int
    number: int
    layer: Layer
    shape: Shape
    batch: int
    algorithm: str

    def __str__(self) -> str:
        """What a failed test shows."""
        return f"{self.number}: {self.layer!r} {self.shape} N={self.batch} {self.algorithm}".replace(" ", "")

    @property
    def network(self) -> nnkit.Sequential:
        """The layer alone."""
        return nnkit.Sequential((nnkit.Input(self.shape), self.layer))

    @property
    def with_algorithm(self) -> nnkit.Sequential:
        """The same, computed by the drawn algorithm."""
        return nnkit.Sequential((nnkit.Input(self.shape), attrs.evolve(self.layer, algorithm=self.algorithm)))  # type: ignore[call-arg]

    def data(self) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Parameters by the layer's own names, x, and the output's gradient: all rounded to float32, kept in float64.

        Kernels are small enough for activities near 1: far out tanh is flat, and 1 - y^2 has lost its digits.
        """
        rng = np.random.default_rng([self.seed, self.number, 1])

        def values(shape: Shape, scale: float = 1.0) -> np.ndarray:
            return (scale * rng.standard_normal(shape)).astype(np.float32).astype(np.float64)
        outputs = -2 if "Transpose" in type(self.layer).__name__ else -1         # which axis of a kernel
        shapes = {name: declared.shape for name, declared in self.layer.parameters(self.shape).items()}
        parameters = {name: values(shape, (shape[outputs] / math.prod(shape)) ** 0.5 if "kernel" in name else 1.0) for name, shape in shapes.items()}
        return parameters, values((self.batch, *self.shape)), values((self.batch, *self.layer.output_shape(self.shape)))


def along_axes(rng: Generator, rank: int, options: Any) -> Any:
    """One number for all axes, or one for each."""
    return pick(rng, options) if chance(rng, 0.5) else tuple(pick(rng, options) for _ in range(rank))


def pads(rng: Generator, rank: int) -> Any:
    """Padding by numbers: one, one for each axis, or pairs."""
    return pick(rng, [pick(rng, (0, 1, 2)), tuple(pick(rng, (0, 1, 2)) for _ in range(rank)) if rank > 1 else (pick(rng, (0, 1)), 2),
                      tuple((pick(rng, (0, 1, 3)), pick(rng, (0, 1, 2))) for _ in range(rank))])


def draw_layer(rng: Generator, cls: Any, channels: int) -> Layer:
    """One of that class, for samples of so many channels."""
    rank = cls.rank
    fields: dict[str, Any] = {"kernel_size": along_axes(rng, rank, WINDOWS[rank]), "use_bias": chance(rng, 0.7)}
    fields["strides"] = along_axes(rng, rank, (1, 2, 3)) if chance(rng, 0.5) else 1
    fields["dilation_rate"] = along_axes(rng, rank, (1, 2, 3)) if chance(rng, 0.3) else 1
    fields["padding"] = pick(rng, ["valid", "same", "same", pads(rng, rank), *["causal"] * (cls is nnkit.Conv1D)])
    fields["activation"] = pick(rng, ["linear", "linear", "tanh"])
    if "Depthwise" not in cls.__name__:
        fields["filters"] = pick(rng, FILTERS)
    if "Depthwise" in cls.__name__ or "Separable" in cls.__name__:
        fields["depth_multiplier"] = pick(rng, (1, 1, 2, 3))
    elif "Transpose" not in cls.__name__:
        fields["groups"] = pick(rng, [1, 1, *(g for g in (2, 3, 5, 16, 19) if channels % g == 0)])
        fields["filters"] = fields["groups"] * pick(rng, [f for f in FILTERS if f * fields["groups"] <= 50])
    layer = cls(**fields)
    if "Transpose" in cls.__name__ and chance(rng, 0.5):
        extra = tuple(pick(rng, range(max(stride, step))) for stride, step in zip(layer.strides, layer.dilation_rate, strict=True))
        return attrs.evolve(layer, output_padding=extra)
    return layer


def fits(layer: Layer, shape: Shape) -> bool:
    """Whether the layer takes samples of that shape."""
    try:
        return math.prod(layer.output_shape(shape)) > 0
    except ValueError:
        return False


def draw_convolution(seed: int, number: int) -> DrawnConvolution:
    """The convolution of that number; classes take turns."""
    rng = np.random.default_rng([seed, number, 0])
    cls = LAYERS[number % len(LAYERS)]
    while True:
        shape = (*(pick(rng, SIZES[cls.rank]) for _ in range(cls.rank)), pick(rng, CHANNELS))
        layer = draw_layer(rng, cls, shape[-1])
        if fits(layer, shape):
            break
    able = [name for name in ALGORITHMS if fits(attrs.evolve(layer, algorithm=name), shape)]  # type: ignore[call-arg]
    return DrawnConvolution(seed, number, layer, shape, pick(rng, BATCHES), pick(rng, ["auto", *able, *able]))
