"""The case table: rows that feed every check of test_cases.py. Rows live in cases_*.py, each with a list CASES (and LOSS_CASES for losses).

    from cases import Case
    CASES = [Case("dense-prime", [Dense(7, activation="relu")], (5,), batch=3)]

A row should differ from its neighbours in something: every parameter of a layer varies somewhere, never at its default alone; dimensions are
prime, 1, non-square and empty somewhere. Rows stay small: a check of gradients runs the network hundreds of times.
"""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from nnkit.layers.base import Layer
from nnkit.losses.base import Loss
from nnkit.network import Container, Sequential
from nnkit.tensors import Input

__all__ = ["Case", "LossCase", "all_cases", "all_loss_cases", "one_hot", "probabilities"]

Sampler = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers: both sides of every kink at 0, never on it."""
    return rng.standard_normal(shape)


def probabilities(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Positive rows of sum 1 over the last axis; of a last axis of one entry, a number from 0.05 to 0.95."""
    if shape[-1] == 1:
        return rng.uniform(0.05, 0.95, shape)
    values = rng.uniform(0.1, 1.0, shape)
    return values / values.sum(axis=-1, keepdims=True)


def one_hot(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A 1 somewhere in every row of the last axis."""
    return np.eye(shape[-1])[rng.integers(0, shape[-1], shape[:-1])]


def _layers(value: Any) -> tuple[Layer, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _layers_or_network(value: Any) -> Any:
    return value if isinstance(value, Container) else _layers(value)


@attrs.frozen
class Case:
    """A network whose layers are checked.

    id: unique, starts with the layer's name. layers: one layer or several, without the Input, and shape: of one sample; or layers: a whole
    network, of as many inputs and outputs as it likes, without a shape. batch: samples.
    seed: of data and parameters; change it where a finite difference happens to straddle a kink. x: makes the data of each input (default: normal).
    parameters: makes a parameter from (rng, name, shape), by default normal / 2, positive (0.5 to 1.5) for names that contain "variance".
    random: the layer draws random numbers in training, so there only gradients are checked, not values (a layer's own tests do that).
    single: the tolerance of float32 against float64, relative to the largest entry.
    moved: whether the gradient by the inputs is checked; not where moving a number changes what is masked.
    adjacency: makes the graph from (rng, batch): of `batch` nodes, or of graphs or pairs of nodes, where these are the samples.
    """

    id: str
    layers: tuple[Layer, ...] | Container = attrs.field(converter=_layers_or_network)
    shape: tuple[int, ...] | None = None
    batch: int = 3
    seed: int = 0
    x: Sampler = normal
    parameters: Callable[[np.random.Generator, str, tuple[int, ...]], np.ndarray] | None = None
    random: bool = False
    single: float = 2e-5
    moved: bool = True
    adjacency: Callable[[np.random.Generator, int], Any] | None = None

    @property
    def network(self) -> Container:
        """The declared network."""
        return self.layers if isinstance(self.layers, Container) else Sequential((Input(self.shape), *self.layers))


@attrs.frozen
class LossCase:
    """A loss on outputs of one shape (without the batch).

    y: makes the outputs, t the targets, from (rng, shape with batch); t's shape is that of `loss.target(shape)`. layers: layers between the
    data and the loss, for losses that a pass fuses with the activation below; y then makes the data and `shape` is the data's.
    weighted: random sample weights, one of them 0; otherwise all 1.
    """

    id: str
    loss: Loss
    shape: tuple[int, ...]
    batch: int = 3
    seed: int = 0
    y: Sampler = normal
    t: Sampler = normal
    layers: tuple[Layer, ...] = attrs.field(default=(), converter=_layers)
    weighted: bool = True
    single: float = 2e-5

    @property
    def network(self) -> Sequential:
        """The data, the layers between, nothing else."""
        return Sequential((Input(self.shape), *self.layers))


def _collect(name: str) -> list[Any]:
    found = []
    for path in sorted(pathlib.Path(__file__).parent.glob("cases_*.py")):
        found += getattr(importlib.import_module(path.stem), name, [])
    return found


def all_cases() -> list[Case]:
    """The rows of all cases_*.py, in the order of files and rows."""
    return _collect("CASES")


def all_loss_cases() -> list[LossCase]:
    """The rows of all losses."""
    return _collect("LOSS_CASES")
