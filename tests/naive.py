"""The obviously correct version of everything, in NumPy float64. References live in naive_*.py (and here), one function a class.

A function is named after its class, with or without underscores: LeakyReLU -> leaky_relu.
    layers and activations   def dense(spec, parameters, x, training=False) -> y        parameters: the layer's own, {"kernel": array, ...}
    layers of several inputs def add(spec, parameters, *xs, training=False) -> y
    losses                   def mean_squared_error(spec, y, t) -> losses of the rows, shape (N, ...) without the last axis
`forward` and `loss_rows` find the function of a spec; use `forward(spec.activation, parameters, x)` for an activation inside a layer.
"""

from __future__ import annotations

import functools
import importlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nnkit.network import Container

__all__ = ["dense", "forward", "loss_rows", "network", "reference"]

Parameters = Mapping[str, np.ndarray]


@functools.cache
def _functions() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for path in [pathlib.Path(__file__), *sorted(pathlib.Path(__file__).parent.glob("naive_*.py"))]:
        module = importlib.import_module(path.stem)
        own = {name: value for name, value in vars(module).items() if callable(value) and getattr(value, "__module__", "") == module.__name__}
        found |= {name.replace("_", ""): value for name, value in own.items()}
    return found


def reference(cls: type) -> Callable[..., Any] | None:
    """The reference of a class of specs, None where there is none."""
    return _functions().get(cls.__name__.lower())


def forward(spec: Any, parameters: Parameters, x: np.ndarray | tuple[np.ndarray, ...], training: bool = False) -> np.ndarray:
    """The output of a layer or activation; x is a tuple where it has several inputs."""
    function = reference(type(spec))
    assert function is not None, f"{type(spec).__name__} has no naive reference: write it in tests/naive_*.py"
    return function(spec, parameters, *(x if isinstance(x, tuple) else (x,)), training=training)


def loss_rows(spec: Any, y: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The unweighted losses of the rows, as a vector."""
    function = reference(type(spec))
    assert function is not None, f"{type(spec).__name__} has no naive reference: write it in tests/naive_*.py"
    return np.asarray(function(spec, y, t)).reshape(-1)


def network(spec: Container, parameters: Parameters, x: np.ndarray | tuple[np.ndarray, ...], training: bool = False) -> Any:
    """The output of a network, node by node; parameters by full name ("dense/kernel"). A tuple where it has several inputs; so is the result."""
    graph = spec.graph()
    given = iter(x if isinstance(x, tuple) else (x,))
    values: list[np.ndarray] = []
    for node in graph.nodes:
        if not node.inputs:
            values.append(next(given))
            continue
        own = {name: parameters[f"{node.name}/{name}"] for name in node.layer.parameters(*node.input_shapes)}
        values.append(forward(node.layer, own, tuple(values[index] for index in node.inputs), training))
    found = tuple(values[index] for index in graph.outputs)
    return found if len(found) > 1 else found[0]


def dense(spec: Any, parameters: Parameters, x: np.ndarray, training: bool = False) -> np.ndarray:
    """y[..., o] = sum_i x[..., i] W[i, o] + b[o], then the activation."""
    weight = parameters["kernel"]
    y = np.zeros((*x.shape[:-1], weight.shape[1]))
    for i in range(weight.shape[0]):
        y += x[..., i, None] * weight[i]
    if spec.use_bias:
        y += parameters["bias"]
    return forward(spec.activation, parameters, y, training)
