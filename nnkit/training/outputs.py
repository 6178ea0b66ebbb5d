"""The outputs of a model: their names, losses, weights and metrics, from what `nnkit.compile` was given."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from nnkit.layers.base import Shape
from nnkit.layers.softmax import Softmax
from nnkit.losses.base import Loss, PointwiseLoss
from nnkit.metrics import Metric, resolve_metric
from nnkit.spec import article, is_of_family, nearest, received, resolve

if TYPE_CHECKING:
    from nnkit.nodes import Graph

__all__ = ["Output", "per_name", "resolve_outputs"]


@attrs.frozen
class Output:
    """One output. shape: of a sample. prefix: what the labels of its metrics begin with in logs: "score_", or nothing where it is the only one."""

    name: str
    shape: Shape
    loss: Loss | None
    weight: float
    metrics: tuple[Metric, ...]
    prefix: str

    def labels(self) -> list[str]:
        """The keys of its metrics in logs."""
        return [self.prefix + metric.label for metric in self.metrics]

    def counted(self, targets: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What metrics look at: where the loss ignores some targets, the others with their predictions, one after the other."""
        counts = None if self.loss is None else self.loss.counted(targets)
        return (targets, predictions) if counts is None else (targets[counts], predictions[counts])


def resolve_outputs(graph: Graph, loss: Any, loss_weights: Any, metrics: Any) -> tuple[Output, ...]:
    """The outputs of a graph with what belongs to each. Raises ValueError where a loss or metric does not fit, or a name is unknown; warns of an
    activation that the loss can hardly be meant for."""
    names, shapes = graph.output_names, graph.output_shapes
    losses = per_name(loss, names, "loss", alone=True)
    weights = per_name(loss_weights, names, "loss_weights") if loss_weights is not None else [None] * len(names)
    if len(names) == 1 and not isinstance(metrics, Mapping):
        metrics = [metrics]
    wanted = per_name(metrics, names, "metrics") if _given(metrics) else [()] * len(names)
    found = []
    for position, (name, shape, chosen, weight, own) in enumerate(zip(names, shapes, losses, weights, wanted, strict=True)):
        resolved = _loss(chosen, shape, name if len(names) > 1 else None)
        fault = None if resolved is None else _unlikely(graph, position, resolved)
        if fault is not None:
            warnings.warn(f"the output {name!r} is {fault}", stacklevel=3)
        prefix = f"{name}_" if len(names) > 1 else ""
        found.append(Output(name, shape, resolved, _weight(weight, resolved, name), _metrics(own, resolved, shape), prefix))
    labels = ["loss", *(f"{name}_loss" for name in names if len(names) > 1), *(label for output in found for label in output.labels())]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"compile: two metrics have the label {label!r}; give one a name")
    return tuple(found)


def per_name(value: Any, names: Sequence[str], what: str, alone: bool = False) -> list[Any]:
    """One entry for each name: from a mapping (None where a name is missing), from a sequence of as many, or (alone) one value for all.

    Raises ValueError for an unknown name and another number of entries.
    """
    if isinstance(value, Mapping):
        for key in value:
            if key not in names:
                raise ValueError(f"{what}: unknown output {key!r}: {nearest(str(key), names)}")
        return [value.get(name) for name in names]
    if isinstance(value, (list, tuple)):
        if len(value) != len(names):
            raise ValueError(f"{what} must have one entry for each of the {len(names)} outputs {tuple(names)}, received {len(value)}")
        return list(value)
    if not alone:
        raise ValueError(f"{what} must be a dict by output name, or a list of one entry for each of the outputs {tuple(names)}, "
                         f"received {article(type(value).__name__)}")
    return [value] * len(names)


def _given(metrics: Any) -> bool:
    """Whether there are metrics at all: [] and [[], []] are none."""
    return not isinstance(metrics, (list, tuple)) or any(_given(entry) if isinstance(entry, (list, tuple)) else True for entry in metrics)


def _loss(value: Any, shape: Shape, output: str | None) -> Loss | None:
    loss = resolve("loss", value)
    if loss is not None and not is_of_family(loss, "loss"):
        hint = ": nnkit.register_loss makes one of a function and its derivative" if callable(value) and not isinstance(value, type) else ""
        raise ValueError(f"compile: loss must be {article('loss')} spec, its name or None, received {received(value)}{hint}")
    if loss is not None:
        try:
            loss.check(shape)
        except ValueError as error:
            raise ValueError(f"output {output!r}: {error}" if output else str(error)) from None
    return loss


def _unlikely(graph: Graph, position: int, loss: Loss) -> str | None:
    """What is wrong with the activation that an output ends in, if that is known: a loss of probabilities trains on scores, too, but badly."""
    index, _ = graph.outputs[position]
    while graph.nodes[index].layer.is_view and graph.nodes[index].inputs:
        index, _ = graph.nodes[index].inputs[0]
    layer = graph.nodes[index].layer
    last: Any = layer if is_of_family(layer, "activation") else getattr(layer, "activation", None)
    if isinstance(last, Softmax) and last.axis in (-1, len(graph.output_shapes[position])) and graph.output_shapes[position][-1:] == (1,):
        return "a softmax over one number, which is always 1: take activation='sigmoid'"
    if not (is_of_family(last, "activation") and last.signed) or getattr(loss, "from_logits", True):
        return None
    wanted = "sigmoid" if isinstance(loss, PointwiseLoss) else "softmax"
    return (f"{article(last.kernel)} function, whose values may be below 0, but {loss.label} takes probabilities: end in activation={wanted!r}, "
            f"or take loss={type(loss).__name__}(from_logits=True)")


def _weight(value: Any, loss: Loss | None, name: str) -> float:
    if value is None:
        return 1.0
    if loss is None:
        raise ValueError(f"loss_weights: output {name!r} has no loss, received the weight {value!r}")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"loss_weights: the weight of output {name!r} must be a finite number greater than 0, received {value!r}: "
                         "an output without a loss is loss=None")
    return float(value)


def _metrics(value: Any, loss: Loss | None, shape: Shape) -> tuple[Metric, ...]:
    """The metrics of one output, from a metric or a list of them."""
    if value is None:
        return ()
    if isinstance(value, str) or callable(value) or not isinstance(value, Iterable):
        value = [value]
    value = list(value)
    if loss is None:
        if value:
            raise ValueError(f"compile: metrics need a loss, received metrics={value!r} and no loss")
        return ()
    target_shape, _ = loss.target(shape)
    return tuple(resolve_metric(metric, loss.label, shape, target_shape=target_shape, from_logits=getattr(loss, "from_logits", False))
                 for metric in value)
