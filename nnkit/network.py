"""The declared network: `Input`, `Sequential`, and the graph that a plan is built from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from nnkit.layers.base import Layer, Parameter, Shape, snake_case
from nnkit.spec import Spec, is_of_family, shape_of, spec

if TYPE_CHECKING:
    pass

__all__ = ["Graph", "Input", "Node", "Sequential"]


@spec()
class Input(Layer):
    """Where data enters. shape: of one sample, without the batch dimension; every entry at least 0.

    >>> Input((28, 28, 1)).shape
    (28, 28, 1)
    """

    shape: Shape = shape_of(low=0)

    def output_shape(self, *shapes: Shape) -> Shape:
        """The declared shape."""
        return self.shape


@attrs.frozen
class Node:
    """One call of a layer: the nodes whose outputs it takes, and the shapes that go in and come out."""

    name: str
    layer: Layer
    inputs: tuple[int, ...]
    input_shapes: tuple[Shape, ...]
    shape: Shape


@attrs.frozen
class Graph:
    """Nodes in an order in which each comes after its inputs; `outputs` are indices of nodes."""

    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        """Shapes of the inputs, in the order of their nodes."""
        return tuple(node.shape for node in self.nodes if not node.inputs)

    @property
    def output_shapes(self) -> tuple[Shape, ...]:
        """Shapes of the outputs."""
        return tuple(self.nodes[index].shape for index in self.outputs)

    def parameters(self) -> dict[str, Parameter]:
        """All parameters by full name ("dense/kernel"); those of a frozen layer are not trainable."""
        found: dict[str, Parameter] = {}
        for node in self.nodes:
            for name, parameter in node.layer.parameters(*node.input_shapes).items():
                frozen = not node.layer.trainable
                found.setdefault(f"{node.name}/{name}", attrs.evolve(parameter, trainable=False) if frozen else parameter)
        return found


@spec()
class Sequential(Spec):
    """Layers one after the other; the first is an `Input`.

    Raises ValueError where the list is empty, does not begin with an Input, holds something that is no layer, where two layers have the same
    name, or where a layer cannot take the shape that reaches it (the message names the layer).

    >>> from nnkit import Dense
    >>> Sequential([Input((20,)), Dense(64, activation="relu"), Dense(1, activation="sigmoid")])
    Sequential((Input((20,)), Dense(64, activation=ReLU()), Dense(1, activation=Sigmoid())))
    """

    family: ClassVar[str] = "network"

    layers: tuple[Layer, ...] = attrs.field(converter=lambda layers: tuple(layers) if isinstance(layers, (list, tuple)) else layers)
    name: str | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Refuse what is no chain of layers."""
        layers: Any = self.layers
        if not isinstance(layers, tuple) or not layers:
            raise ValueError(f"Sequential: layers must be a list of layers that begins with an Input, received {layers!r}")
        for position, layer in enumerate(layers):
            if not is_of_family(layer, "layer"):
                raise ValueError(f"Sequential: layers[{position}] must be a layer, received {layer!r}")
            if isinstance(layer, Input) != (position == 0):
                rule = "the first layer must be Input(shape)" if position == 0 else "Input must come first and once"
                raise ValueError(f"Sequential: {rule}, received {layer!r} at position {position}")
        self.graph()

    def graph(self) -> Graph:
        """The network as a graph: a chain."""
        names = unique_names(self.layers)
        nodes: list[Node] = []
        for position, (name, layer) in enumerate(zip(names, self.layers, strict=True)):
            shapes = (nodes[-1].shape,) if nodes else ()
            inputs = (position - 1,) if nodes else ()
            try:
                shape = layer.output_shape(*shapes)
                layer.parameters(*shapes)
            except ValueError as error:
                raise ValueError(f"layer {name!r} (number {position}) cannot follow: {error}") from None
            nodes.append(Node(name=name, layer=layer, inputs=inputs, input_shapes=shapes, shape=shape))
        return Graph(nodes=tuple(nodes), outputs=(len(nodes) - 1,))


def unique_names(layers: tuple[Layer, ...]) -> list[str]:
    """Every layer's name: its own, or its class name in snake case, numbered from the second on. Raises ValueError for a name given twice."""
    names: list[str] = []
    counts: dict[str, int] = {}
    given = [layer.name for layer in layers if layer.name is not None]
    for name in given:
        if given.count(name) > 1:
            raise ValueError(f"two layers have the name {name!r}; names must differ")
    for layer in layers:
        if layer.name is not None:
            names.append(layer.name)
            continue
        base = snake_case(type(layer).__name__)
        while True:
            number = counts.get(base, 0)
            counts[base] = number + 1
            candidate = f"{base}_{number}" if number else base
            if candidate not in given:
                break
        names.append(candidate)
    return names
