"""Where a library with channels first has features in another order than nnkit, which has them last.

Images (H, W, C) are (C, H, W) there. Most layers do not notice; one that takes or makes images as rows of numbers does: behind a Flatten feature i is
another cell, and so is what a Dense makes for a Reshape to images. PyTorch is such a library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
import numpy as np

from nnkit.layers.activation import Activation, ActivationFunction
from nnkit.layers.base import Layer, Shape
from nnkit.layers.dense import Dense
from nnkit.layers.dropout import Dropout
from nnkit.layers.merge import Concatenate, Elementwise
from nnkit.layers.noise import GaussianNoise
from nnkit.layers.norm import BatchNormalization, LayerNormalization
from nnkit.layers.reshape import Flatten, Reshape
from nnkit.layers.window import Spatial
from nnkit.layers.wrappers import TimeDistributed
from nnkit.nodes import Graph, Node, Ref

__all__ = ["Flow", "flow_of"]

KEEPING = (ActivationFunction, Activation, Dropout, GaussianNoise, BatchNormalization, LayerNormalization, Elementwise)


@attrs.frozen(eq=False)
class Flow:
    """What an output of a node holds. image: places with channels, which come first elsewhere. order: of the last axis, order[i] is the place that
    feature i has elsewhere; None: the same."""

    image: bool = False
    order: np.ndarray | None = None


PLAIN = Flow()


def flow_of(graph: Graph) -> dict[Ref, Flow]:
    """For every first output of a node.

    Images are: Inputs of three axes or more, what layers over places (convolutions, poolings, ...) make, and what a Reshape makes of three axes or
    more, or of two that a layer over places takes. What keeps the shape cell by cell (activations, Dropout, normalizations, sums) keeps order, too;
    so does a layer of the user's that keeps the shape. What is added to rows in such an order is in that order.
    """
    wanted: dict[Ref, np.ndarray | None] = {}
    flows = _forward(graph, wanted)
    for position in reversed(range(len(graph.nodes))):
        node, ref = graph.nodes[position], (position, 0)
        if isinstance(node.layer, Reshape) and len(node.input_shapes[0]) == 1 and flows[ref].image:
            wanted[node.inputs[0]] = _order(node.shape)
        elif _keeps(node):
            order = wanted.get(ref, flows[ref].order)
            wanted.update({source: order for source, shape in zip(node.inputs, node.input_shapes, strict=True) if shape == node.shape})
    return _forward(graph, wanted)


@attrs.frozen(eq=False)
class Place:
    """Where a layer stands. shape: that it takes; made: that it makes; sizes: last axes of its inputs. taken: what these hold. wanted: the order that
    its units have to have elsewhere. to_places: whether a layer over places takes what it makes."""

    shape: Shape
    made: Shape
    sizes: tuple[int, ...]
    taken: list[Flow]
    wanted: np.ndarray | None
    to_places: bool


def _forward(graph: Graph, wanted: Mapping[Ref, np.ndarray | None]) -> dict[Ref, Flow]:
    """From the inputs on; `wanted`: the order that a Dense has to give to its units."""
    to_places = {ref for node in graph.nodes if isinstance(node.layer, Spatial) for ref in node.inputs}
    flows: dict[Ref, Flow] = {}
    for position, node in enumerate(graph.nodes):
        ref = (position, 0)
        if not node.inputs:
            flows[ref] = Flow(image=len(node.shape) >= 3)
            continue
        layer, shape = _inner(node)
        sizes = tuple(taken[-1] if taken else 1 for taken in node.input_shapes)
        taken = [flows.get(source, PLAIN) for source in node.inputs]
        place = Place(shape, node.shape, sizes, taken, wanted.get(ref), ref in to_places)
        rule = next((RULES[kind] for kind in type(layer).__mro__ if kind in RULES), _kept if _keeps(node) else _unknown)
        flows[ref] = rule(place)
    return flows


def _unknown(place: Place) -> Flow:
    """Rows without an order, no image."""
    return PLAIN


def _over_places(place: Place) -> Flow:
    """An image, as far as places are left."""
    return Flow(image=len(place.made) >= 2)


def _flattened(place: Place) -> Flow:
    """Rows of an image are in another order; rows stay as they are."""
    if len(place.shape) > 1:
        return Flow(order=_order(place.shape) if place.taken[0].image else None)
    return Flow(order=place.taken[0].order if len(place.shape) == 1 else None)


def _reshaped(place: Place) -> Flow:
    """An image of three axes, or of two that a layer over places takes; else rows."""
    return Flow(image=len(place.made) >= 3 or place.to_places) if len(place.made) > 1 else _flattened(place)


def _dense(place: Place) -> Flow:
    """An image stays one; units are in the order that is wanted of them."""
    return Flow(place.taken[0].image and len(place.made) >= 3, place.wanted)


def _kept(place: Place) -> Flow:
    """What the inputs are."""
    return Flow(any(flow.image for flow in place.taken), next((flow.order for flow in place.taken if flow.order is not None), None))


def _side_by_side(place: Place) -> Flow:
    """Of rows put together."""
    image = any(flow.image for flow in place.taken)
    if len(place.made) > 1 or all(flow.order is None for flow in place.taken):
        return Flow(image)
    parts, start = [], 0
    for flow, size in zip(place.taken, place.sizes, strict=True):
        parts.append(start + (np.arange(size) if flow.order is None else flow.order))
        start += size
    return Flow(image, np.concatenate(parts))


RULES: Mapping[type, Callable[[Place], Flow]] = {
    Reshape: _reshaped, Flatten: _flattened, Dense: _dense, Concatenate: _side_by_side, Spatial: _over_places,
}


def _keeps(node: Node) -> bool:
    """Whether the layer works cell by cell."""
    foreign = not type(node.layer).__module__.startswith("nnkit.")
    return isinstance(node.layer, KEEPING) or (foreign and bool(node.inputs) and node.shape == node.input_shapes[0])


def _inner(node: Node) -> tuple[Layer, Shape]:
    """The layer and the shape that it takes; of TimeDistributed those within."""
    layer, shape = node.layer, node.input_shapes[0] if node.input_shapes else ()
    return (layer.layer, shape[1:]) if isinstance(layer, TimeDistributed) else (layer, shape)


def _order(shape: Shape) -> np.ndarray | None:
    """Of images of that shape as rows: where the cells are in rows of (channels, places)."""
    channels, places = shape[-1], int(np.prod(shape[:-1]))
    return np.arange(channels * places).reshape(channels, places).T.ravel() if channels > 1 and places > 1 else None
