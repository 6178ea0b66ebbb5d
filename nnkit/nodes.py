"""The flat graph of a network: one node for each call of a layer, nested networks unfolded. Plans are built from it, and from nothing else.

A node's outputs are referred to as (number of the node, number of the output). `Graph.cut` gives the part between named layers.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import attrs

from nnkit.flow import Flow, flow_of
from nnkit.layers.base import Layer, Parameter, Shape, flagged
from nnkit.spec import nearest
from nnkit.tensors import Input

__all__ = ["Graph", "Node", "Ref", "distinct_names"]

Ref = tuple[int, int]                                    # (number of a call or node, number of one of its outputs)


@attrs.frozen
class Node:
    """One call of a layer: the outputs of other nodes that it takes, and the shapes that go in and come out."""

    name: str
    layer: Layer
    inputs: tuple[Ref, ...]
    input_shapes: tuple[Shape, ...]
    shapes: tuple[Shape, ...]

    @property
    def shape(self) -> Shape:
        """The shape of the first output."""
        return self.shapes[0]


@attrs.frozen
class Graph:
    """Nodes in an order in which each comes after its inputs; `outputs` are outputs of nodes, with their names.

    places: name of a layer or nested network -> its outputs, call by call.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[Ref, ...]
    output_names: tuple[str, ...]
    places: Mapping[str, tuple[tuple[Ref, ...], ...]] = attrs.field(factory=dict, eq=False)

    @functools.cached_property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in the order of their nodes."""
        return tuple(node.name for node in self.nodes if not node.inputs)

    @functools.cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        """Shapes of the inputs, in the order of their nodes."""
        return tuple(node.shape for node in self.nodes if not node.inputs)

    @property
    def output_shapes(self) -> tuple[Shape, ...]:
        """Shapes of the outputs."""
        return tuple(self.nodes[index].shapes[output] for index, output in self.outputs)

    @functools.cached_property
    def batch_size(self) -> int | None:
        """The number of samples of every batch, where an Input names it. Raises ValueError where two name different ones."""
        given = {node.name: node.layer.batch_size for node in self.nodes if isinstance(node.layer, Input) and node.layer.batch_size is not None}
        if len({*given.values()}) > 1:
            raise ValueError(f"the batch_size of all inputs must be the same, received {given}")
        return next(iter(given.values()), None)

    @functools.cached_property
    def stateful(self) -> tuple[str, ...]:
        """Names of the layers that keep a state between batches."""
        return tuple(dict.fromkeys(node.name for node in self.nodes if node.layer.states(1, *node.input_shapes)))

    @functools.cached_property
    def flow(self) -> Flow:
        """What the inputs hold, and which outputs have a row for each node of a graph. Raises ValueError for what does not fit."""
        return flow_of(self)

    @functools.cached_property
    def index_limits(self) -> tuple[int | None, ...]:
        """For each input: the number below which its whole numbers must lie, where layers take them as indices; None where they take numbers.

        Raises ValueError where indices are asked of what a layer computes, or indices and numbers of one input.
        """
        wants: dict[Ref, dict[str, int | None]] = {ref: {"output": None} for ref in self.outputs}      # output of a node -> who takes it -> limit
        for position in reversed(range(len(self.nodes))):
            node = self.nodes[position]
            own = wants.get((position, 0), {})
            for source in node.inputs:
                if node.layer.index_limit is None and node.layer.is_view:
                    wants.setdefault(source, {}).update(own)
                else:
                    wants.setdefault(source, {})[node.name] = node.layer.index_limit
            taker = next((name for name, limit in own.items() if limit is not None), None)
            if taker is not None and node.inputs and not node.layer.is_view:
                raise ValueError(f"layer {taker!r} must take whole numbers from an Input, received what layer {node.name!r} computes")
        return tuple(_one_limit(node.name, wants.get((position, 0), {})) for position, node in enumerate(self.nodes) if not node.inputs)

    def parameters(self) -> dict[str, Parameter]:
        """All parameters by full name ("dense/kernel"), states that layers keep included; those of a frozen layer are not trainable.

        Raises ValueError where a layer that is called twice would need two shapes of one parameter, and where one that keeps a state of each row
        does not know how many rows there are.
        """
        found: dict[str, Parameter] = {}
        if self.stateful and self.batch_size is None:
            raise ValueError(f"layer {self.stateful[0]!r} is stateful: the Input must have a batch_size, Input(shape, batch_size=...)")
        for node in self.nodes:
            states = node.layer.states(self.batch_size or 1, *node.input_shapes)
            for name, parameter in {**node.layer.parameters(*node.input_shapes), **states}.items():
                full = f"{node.name}/{name}"
                declared = flagged(parameter, node.layer)
                if found.setdefault(full, declared).shape != declared.shape:
                    raise ValueError(f"layer {node.name!r} is called twice with inputs that do not fit together: its {name} would have shape "
                                     f"{found[full].shape} for one and {declared.shape} for the other")
        return found

    def cut(self, inputs: Sequence[str] | None, outputs: Sequence[str] | None) -> Graph:
        """The part from the outputs of the layers `inputs` (None: from the network's own inputs), those it needs, to those of the layers `outputs`
        (None: to the network's own). Of several outputs of one layer the second is named "layer_1", and so on.

        Raises ValueError for a name that is unknown or called more than once, where an output needs more than the inputs, or none of one of them;
        for inputs that are named twice, and where no input or output is named.
        """
        for what, names in (("inputs", inputs), ("outputs", outputs)):
            if names is not None and not names:
                raise ValueError(f"submodel: {what} must name layers, received {tuple(names)}")
        if inputs is not None and len({*inputs}) < len(inputs):
            raise ValueError(f"submodel: inputs must differ, received {tuple(inputs)}")
        wanted = [(ref, name) for name in outputs for ref in self.place(name)] if outputs is not None else [
            *zip(self.outputs, self.output_names, strict=True)]
        given = [ref for name in inputs for ref in self.place(name)] if inputs is not None else []
        return self.between(given, wanted, inputs)

    def between(self, given: Sequence[Ref], wanted: Sequence[tuple[Ref, str]], inputs: Sequence[str] | None = None) -> Graph:
        """The part from outputs of nodes (none: from the network's own inputs) to others, which have these names. inputs: the layers of `given`, for
        messages; without them the part may begin at the network's inputs, too. Raises ValueError as `cut` does."""
        taken = {ref for ref, _ in wanted}               # outputs of nodes that are needed
        wants: dict[int, int | None] = {index: None for index, _ in taken - {*given}}         # node -> one that takes an output of it
        for index in reversed(range(len(self.nodes))):
            if index in wants:
                if inputs is not None and not self.nodes[index].inputs:
                    raise ValueError(f"submodel: {self._path(index, wants)} begins at an input that is not among inputs={tuple(inputs)}")
                taken.update(self.nodes[index].inputs)
                wants.update({source: index for source, output in self.nodes[index].inputs if source not in wants and (source, output) not in given})
        for name in inputs or ():
            if not taken & {*self.place(name)}:
                raise ValueError(f"submodel: no output depends on {self.nodes[self.place(name)[0][0]].name!r}")
        given = [ref for ref in given if ref in taken] + [(i, 0) for i in sorted(wants) if not self.nodes[i].inputs and (i, 0) not in given]
        names = distinct_names([self.nodes[index].name for index, _ in given])
        starts = [self._start(name, ref) for name, ref in zip(names, given, strict=True)]
        kept = [index for index in sorted(wants) if self.nodes[index].inputs]
        place: dict[Ref, Ref] = {(old, output): (new, output) for new, old in enumerate(kept, len(given))
                                 for output in range(len(self.nodes[old].shapes))}
        place.update({ref: (new, 0) for new, ref in enumerate(given)})
        nodes = [attrs.evolve(self.nodes[i], inputs=tuple(place[source] for source in self.nodes[i].inputs)) for i in kept]
        inside = {name: tuple(tuple(place[ref] for ref in ends) for ends in calls if place.keys() >= {*ends}) for name, calls in self.places.items()}
        return Graph(nodes=(*starts, *nodes), outputs=tuple(place[ref] for ref, _ in wanted),
                     output_names=tuple(distinct_names([name for _, name in wanted])),
                     places={name: calls for name, calls in inside.items() if calls})

    def _start(self, name: str, ref: Ref) -> Node:
        """The Input that stands for an output of a node: itself, where it is one."""
        node = self.nodes[ref[0]]
        shape = node.shapes[ref[1]]
        return Node(name, Input(shape, batch_size=self.batch_size) if node.inputs else node.layer, (), (), (shape,))

    def _path(self, index: int, wants: Mapping[int, int | None]) -> str:
        """The layers from a node to the output that needs it: "input -> dense -> add"."""
        names, at = [self.nodes[index].name], wants[index]
        while at is not None:
            names.append(self.nodes[at].name)
            at = wants[at]
        return " -> ".join(names)

    def place(self, name: str) -> tuple[Ref, ...]:
        """The outputs of the one call of a layer or nested network. Raises ValueError."""
        if name not in self.places:
            raise ValueError(f"unknown layer {name!r}: {nearest(str(name), self.places)}")
        if len(self.places[name]) > 1:
            raise ValueError(f"layer {name!r} is called {len(self.places[name])} times: a submodel needs a place that its name alone tells")
        return self.places[name][0]


def _one_limit(name: str, wants: Mapping[str, int | None]) -> int | None:
    """The least of the limits that layers set to one input. Raises ValueError where others take numbers."""
    limits = [limit for limit in wants.values() if limit is not None]
    if limits and len(limits) < len(wants):
        first, second = (next(layer for layer, limit in wants.items() if (limit is None) == free) for free in (False, True))
        raise ValueError(f"input {name!r} must hold whole numbers for layer {first!r} and numbers for layer {second!r}: declare two Inputs")
    return min(limits, default=None)


def distinct_names(names: Sequence[str]) -> list[str]:
    """Names of which each is used once: a, b, a -> a, b, a_1."""
    return [name if not (before := list(names[:position]).count(name)) else f"{name}_{before}" for position, name in enumerate(names)]
