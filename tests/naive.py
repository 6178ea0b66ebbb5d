"""The obviously correct version of everything, in NumPy float64. References live in naive_*.py (and here), one function a class.

A function is named after its class, with or without underscores: LeakyReLU -> leaky_relu.
    layers and activations   def dense(spec, parameters, x, training=False) -> y        parameters: the layer's own, {"kernel": array, ...}
    layers of several inputs def add(spec, parameters, *xs, training=False) -> y
    layers that make a mask  def masking_mask(spec, xs, masks) -> mask of the output: (N, T) bool, None, or a tuple, one for each output
    losses                   def mean_squared_error(spec, y, t) -> losses of the rows, shape (N, ...) without the last axis
`forward` and `loss_rows` find the function of a spec; use `forward(spec.activation, parameters, x)` for an activation inside a layer.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nnkit.network import Container

__all__ = ["dense", "forward", "loss_rows", "masked_network", "network", "reference"]

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


def forward(spec: Any, parameters: Parameters, x: np.ndarray | tuple[np.ndarray, ...], training: bool = False, mask: Any = None) -> Any:
    """The output of a layer or activation, a tuple where it has several; x is a tuple where it has several inputs.

    mask: (N, T), True for the time steps of the first input that count, or None; a reference that heeds it has an argument of that name.
    """
    function = reference(type(spec))
    assert function is not None, f"{type(spec).__name__} has no naive reference: write it in tests/naive_*.py"
    heeded = {"mask": mask} if "mask" in inspect.signature(function).parameters else {}
    return function(spec, parameters, *(x if isinstance(x, tuple) else (x,)), training=training, **heeded)


def output_mask(spec: Any, xs: Sequence[np.ndarray], masks: Sequence[Any], y: np.ndarray) -> Any:
    """The mask of a layer's first output: by a function <layer>_mask(spec, xs, masks) beside its reference, else where it keeps time steps."""
    function = _functions().get(f"{type(spec).__name__.lower()}mask")
    if function is not None:
        return function(spec, xs, masks)
    fitting = [mask for mask in masks if mask is not None and mask.shape == y.shape[:2]]
    return np.logical_and.reduce(fitting) if spec.keeps_mask and fitting else None


def loss_rows(spec: Any, y: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The unweighted losses of the rows, as a vector."""
    function = reference(type(spec))
    assert function is not None, f"{type(spec).__name__} has no naive reference: write it in tests/naive_*.py"
    return np.asarray(function(spec, y, t)).reshape(-1)


def network(spec: Container, parameters: Parameters, x: np.ndarray | tuple[np.ndarray, ...], training: bool = False) -> Any:
    """The output of a network, node by node; parameters by full name ("dense/kernel"). A tuple where it has several inputs; so is the result."""
    return masked_network(spec, parameters, x, training)[0]


def masked_network(spec: Container, parameters: Parameters, x: np.ndarray | tuple[np.ndarray, ...], training: bool = False) -> tuple[Any, Any]:
    """The output of a network, and its mask; tuples where it has several outputs."""
    graph = spec.graph()
    given = iter(x if isinstance(x, tuple) else (x,))
    values: list[tuple[np.ndarray, ...]] = []
    masks: list[tuple[Any, ...]] = []
    for node in graph.nodes:
        if not node.inputs:
            values.append((next(given),))
            masks.append((None,))
            continue
        names = [*node.layer.parameters(*node.input_shapes), *node.layer.states(1, *node.input_shapes)]
        own = {name: parameters[f"{node.name}/{name}"] for name in names}
        xs = tuple(values[index][output] for index, output in node.inputs)
        given_masks = [masks[index][output] for index, output in node.inputs]
        ys = forward(node.layer, own, xs, training, given_masks[0])
        values.append(ys if isinstance(ys, tuple) else (ys,))
        first = output_mask(node.layer, xs, given_masks, values[-1][0])
        masks.append(first if isinstance(first, tuple) else (first, *(None,) * (len(values[-1]) - 1)))
    found, found_masks = (tuple(kept[index][output] for index, output in graph.outputs) for kept in (values, masks))
    return (found, found_masks) if len(found) > 1 else (found[0], found_masks[0])


def dense(spec: Any, parameters: Parameters, x: np.ndarray, training: bool = False) -> np.ndarray:
    """y[..., o] = sum_i x[..., i] W[i, o] + b[o], then the activation."""
    weight = parameters["kernel"]
    y = np.zeros((*x.shape[:-1], weight.shape[1]))
    for i in range(weight.shape[0]):
        y += x[..., i, None] * weight[i]
    if spec.use_bias:
        y += parameters["bias"]
    return forward(spec.activation, parameters, y, training)
