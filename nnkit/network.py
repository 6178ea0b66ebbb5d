"""The declared network: `Input`, `Network`, `Sequential`, and the graph that a plan is built from.

Layers are called on symbolic tensors, as in Keras' functional style:

    x = Input((20,))
    h = Dense(64, activation="relu")(x)
    network = Network(x, Dense(1)(Concatenate()([x, h])))

A `Network` keeps what was declared as plain values: its layers, and the calls of these layers in an order in which each comes after what it
takes. `Sequential` is the same for a chain. Both are layers themselves. `graph()` unfolds all of it into one flat `Graph`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import attrs

from nnkit.flow import Flow, flow_of
from nnkit.layers.base import Layer, Parameter, Shape, flagged, snake_case
from nnkit.pretrained import Pretrained, weights_field
from nnkit.spec import boolean, integer, is_of_family, nearest, received, shape_of, spec

__all__ = ["Call", "Graph", "GraphInput", "Input", "Network", "Node", "Sequential", "Tensor"]

Ref = tuple[int, int]                                    # (number of a call or node, number of one of its outputs)


@spec()
class Input(Layer):
    """Where data enters. shape: of one sample, without the batch dimension; every entry at least 0. It can be used as a tensor itself.

    batch_size: samples of every batch, at least 1, for networks that keep a state of each of its rows (`stateful`); default None: any number.
    sparse: whether data comes as a SciPy sparse matrix, shape (features,), and stays one: the first layer multiplies it as it is. For the features of
    the nodes in a network with a `GraphInput`; default False.
    What an `Embedding` takes from it are whole numbers, so the input's are int32 then; otherwise they are of the model's dtype.

    >>> Input((28, 28, 1)).shape
    (28, 28, 1)
    """

    arity: ClassVar[tuple[int, int | None]] = (0, 0)

    shape: Shape = shape_of(low=0)
    batch_size: int | None = integer(default=None, low=1, none=True)
    sparse: bool = boolean(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Refuse sparse samples that are no rows of a matrix."""
        if self.sparse and len(self.shape) != 1:
            raise ValueError(f"Input: shape must be (features,) where sparse is True, received {self.shape!r}")

    @property
    def kind(self) -> str:
        """What the data is: "numbers", "sparse" or "graph"."""
        return "sparse" if self.sparse else "numbers"

    def output_shape(self, *shapes: Shape) -> Shape:
        """The declared shape."""
        return self.shape


def _check_default(instance: Any, attribute: Any, value: object) -> None:
    if value != attribute.default:
        raise ValueError(f"GraphInput: {attribute.name} must be {attribute.default}, received {value!r}")


@spec()
class GraphInput(Input):
    """Where a graph enters: which nodes are neighbours, with weights of the edges. Graph layers take it as their second input.

    In a network that has one, every other Input holds a row for each node of the graph (but for pairs of nodes, see `EdgeDot`). A model takes the
    graph as a `nnkit.graph.Adjacency`, or as anything that makes one: a SciPy sparse matrix, edges (2, E), a NetworkX graph. All of it is one batch.

    >>> x, a = Input((16,)), GraphInput()
    >>> x.shape, a.shape
    ((16,), ())
    """

    shape: Shape = attrs.field(default=(), validator=_check_default, kw_only=True)
    batch_size: int | None = attrs.field(default=None, validator=_check_default, kw_only=True)
    sparse: bool = attrs.field(default=False, validator=_check_default, kw_only=True)

    @property
    def kind(self) -> str:
        """A graph."""
        return "graph"


# Symbolic tensors.

@attrs.frozen(eq=False)
class Call:
    """One call of a layer on tensors. Compared by identity: two calls of one layer are two places in a network."""

    layer: Layer
    inputs: tuple[Tensor, ...]


@attrs.frozen(eq=False, repr=False)
class Tensor:
    """What a layer returns when it is called on tensors: output `index` of a call, with the shape of one sample. It holds no numbers."""

    call: Call
    index: int
    shape: Shape

    def __repr__(self) -> str:
        return f"<Tensor {path_to(self)} of shape {self.shape}>"

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"a {self!r} cannot be unpacked: it is one output of a layer")


def as_tensors(values: Any, what: str) -> tuple[Tensor, ...]:
    """Tensors and Inputs, one or a list of them, as tensors. Raises TypeError for anything else."""
    items = tuple(values) if isinstance(values, (list, tuple)) else (values,)
    tensors = tuple(Tensor(Call(item, ()), 0, item.shape) if isinstance(item, Input) else item for item in items)
    for item in tensors:
        if not isinstance(item, Tensor):
            raise TypeError(f"{what} must be Inputs or what layers return when they are called on them, received {item!r}")
    return tensors


def call(layer: Layer, inputs: tuple[Any, ...]) -> Tensor | tuple[Tensor, ...]:
    """What `layer(*inputs)` returns: a tensor, or a tuple of them where there are several outputs. Raises TypeError, ValueError."""
    if len(inputs) == 1 and isinstance(inputs[0], (list, tuple)):
        inputs = tuple(inputs[0])
    tensors = as_tensors(inputs, f"the inputs of {type(layer).__name__}")
    shapes = output_shapes(layer, tuple(tensor.shape for tensor in tensors), [path_to(tensor) for tensor in tensors])
    made = Call(layer, tensors)
    outputs = tuple(Tensor(made, index, shape) for index, shape in enumerate(shapes))
    return outputs if len(outputs) > 1 else outputs[0]


def key_of(call: Call) -> int:
    """What tells calls apart: the call itself; of an Input, which stands for itself, the Input."""
    return id(call.layer) if isinstance(call.layer, Input) else id(call)


def path_to(tensor: Tensor) -> str:
    """The layers from an input to a tensor, always by their first input: "input -> dense -> add"."""
    layers: list[Layer] = []
    at: Call | None = tensor.call
    while at is not None:
        layers.append(at.layer)
        at = at.inputs[0].call if at.inputs else None
    shown = [layers[-1], None, *layers[2::-1]] if len(layers) > 5 else layers[::-1]
    return " -> ".join("..." if layer is None else own_name(layer) for layer in shown)


def own_name(layer: Layer) -> str:
    """The layer's name, or what it is numbered by."""
    return layer.name or snake_case(type(layer).__name__)


def output_shapes(layer: Layer, shapes: tuple[Shape, ...], paths: Sequence[str]) -> tuple[Shape, ...]:
    """The shapes of a layer's outputs, once it has been checked that it takes these inputs. Raises ValueError with the paths of the inputs."""
    least, most = layer.arity
    fault = f"layer {own_name(layer)!r} cannot take {' and '.join(paths) or 'nothing'}"
    if len(shapes) < least or (most is not None and len(shapes) > most):
        wanted = f"{least}" if least == most else f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"{fault}: it needs {wanted} input{'s' * (wanted != '1')}, received {len(shapes)}")
    try:
        found = layer.output_shapes(*shapes)
        layer.parameters(*shapes)
        return found
    except ValueError as error:
        raise ValueError(f"{fault}: {error}") from None


# The flat graph.

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
        names = _numbered([self.nodes[index].name for index, _ in given])
        starts = [self._start(name, ref) for name, ref in zip(names, given, strict=True)]
        kept = [index for index in sorted(wants) if self.nodes[index].inputs]
        place: dict[Ref, Ref] = {(old, output): (new, output) for new, old in enumerate(kept, len(given))
                                 for output in range(len(self.nodes[old].shapes))}
        place.update({ref: (new, 0) for new, ref in enumerate(given)})
        nodes = [attrs.evolve(self.nodes[i], inputs=tuple(place[source] for source in self.nodes[i].inputs)) for i in kept]
        inside = {name: tuple(tuple(place[ref] for ref in ends) for ends in calls if place.keys() >= {*ends}) for name, calls in self.places.items()}
        return Graph(nodes=(*starts, *nodes), outputs=tuple(place[ref] for ref, _ in wanted),
                     output_names=tuple(_numbered([name for _, name in wanted])), places={name: calls for name, calls in inside.items() if calls})

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


class Container(Layer):
    """What `Sequential` and `Network` share: layers, calls of them, outputs. A layer itself, of as many inputs as it has Inputs.

    weights: the file that `nnkit.compile` takes all their parameters from, a `Pretrained` or a path; None (default): they are drawn.
    """

    family: ClassVar[str] = "network"
    arity: ClassVar[tuple[int, int | None]] = (1, None)

    layers: tuple[Layer, ...]
    weights: Pretrained | None

    @property
    def calls(self) -> tuple[tuple[int, tuple[Ref, ...]], ...]:
        """(which layer, what it takes) in an order in which each call comes after what it takes; the Inputs come first."""
        raise TypeError(f"{type(self).__name__} does not say what it calls")

    @property
    def outputs(self) -> tuple[Ref, ...]:
        """What comes out."""
        raise TypeError(f"{type(self).__name__} does not say what comes out")

    @property
    def output_names(self) -> tuple[str, ...] | None:
        """Names of the outputs where they were given."""
        return None

    @property
    def output_count(self) -> int:
        """How many outputs there are."""
        return len(self.outputs)

    def output_shapes(self, *shapes: Shape) -> tuple[Shape, ...]:
        """Shapes of the outputs. Raises ValueError where the shapes are not those of the Inputs."""
        graph = self.graph()
        if shapes != graph.input_shapes:
            raise ValueError(f"its inputs have shapes {graph.input_shapes}, received {shapes}")
        return graph.output_shapes

    def output_shape(self, *shapes: Shape) -> Shape:
        """Shape of the one output. Raises ValueError where there are several."""
        found = self.output_shapes(*shapes)
        if len(found) > 1:
            raise ValueError(f"{own_name(self)} has {len(found)} outputs; where one is needed, call it on tensors and take one")
        return found[0]

    def layer(self, name: str) -> Layer:
        """The layer or nested network of that name, as it is declared. Raises ValueError for an unknown name."""
        names = unique_names(self.layers)
        if name not in names:
            raise ValueError(f"unknown layer {name!r}: {nearest(str(name), names)}")
        return self.layers[names.index(name)]

    def part(self, *, inputs: str | Sequence[str] | None = None, outputs: str | Sequence[str] | None = None, name: str | None = None) -> Network:
        """A part of the network as a network of its own, to be trained alone or called as a layer of another.

        Its layers keep the names that they have here, so that parameters can be copied by name: see `Model.copy_parameters`. If this network names a
        file of weights, the part does, too, and takes from it what it needs.

        Args:
            inputs: layers (by name) in place of whose outputs the part has Inputs. Default: the network's Inputs, as far as they are needed.
            outputs: layers whose outputs the part gives. Default: the network's outputs.
            name: of the part, for a network that it becomes a layer of.

        Raises:
            ValueError: a name that is unknown or that of a layer called more than once, outputs that need other inputs or none of one of them.

        >>> from nnkit import Dense
        >>> spec = Sequential([Input((20,)), Dense(8, activation="relu", name="features"), Dense(3)])
        >>> Sequential([Input((20,)), spec.part(outputs="features", name="base"), Dense(5)]).graph().nodes[1].name
        'base/features'
        """
        from nnkit.derive import part

        return part(self, inputs, outputs, name)

    def graph(self) -> Graph:
        """The network with all that is nested in it as one flat graph; names of nested layers begin with that of their network: "encoder/dense"."""
        return self._graph

    @functools.cached_property                           # or of networks in networks the inner ones would be unfolded 2, 4, 8, ... times
    def _graph(self) -> Graph:
        nodes: list[Node] = []
        places: dict[str, list[tuple[Ref, ...]]] = {}
        ends = _unfold(self, nodes, places, None, "", self.trainable, self.learning_rate_factor)
        names = self.output_names or _numbered(_output_layers(self))
        graph = Graph(nodes=tuple(nodes), outputs=ends, output_names=tuple(names), places={name: tuple(found) for name, found in places.items()})
        graph.parameters()                               # refuses a shared layer whose calls do not fit together
        graph.index_limits                               # refuses indices that no Input gives  # noqa: B018
        graph.flow                                       # refuses graphs and sparse rows where numbers are asked for  # noqa: B018
        return graph


def _output_layers(network: Container) -> list[str]:
    """For each output the name of the layer that makes it."""
    names, calls = unique_names(network.layers), network.calls
    return [names[calls[number][0]] for number, _ in network.outputs]


def _numbered(names: Sequence[str]) -> list[str]:
    """Names of which each is used once: a, b, a -> a, b, a_1."""
    return [name if not (before := list(names[:position]).count(name)) else f"{name}_{before}" for position, name in enumerate(names)]


def _unfold(network: Container, nodes: list[Node], places: dict[str, list[tuple[Ref, ...]]], given: Sequence[Ref] | None, prefix: str,
            trainable: bool, factor: float) -> tuple[Ref, ...]:
    """Append the network's nodes; `given` is what stands for its Inputs (None: they become nodes). Returns its outputs."""
    names = [prefix + name for name in unique_names(network.layers)]
    values: list[tuple[Ref, ...]] = []
    free = iter(given or ())
    for which, refs in network.calls:
        layer, name = network.layers[which], names[which]
        sources = tuple(values[number][output] for number, output in refs)
        shapes = tuple(nodes[index].shapes[output] for index, output in sources)
        active, own_factor = trainable and layer.trainable, factor * layer.learning_rate_factor
        if isinstance(layer, Input) and given is not None:
            values.append((next(free),))
            continue
        made = output_shapes(layer, shapes, [nodes[index].name for index, _ in sources])
        if is_of_family(layer, "network"):
            values.append(_unfold(layer, nodes, places, sources, f"{name}/", active, own_factor))  # type: ignore[arg-type]
        else:
            if (active, own_factor) != (layer.trainable, layer.learning_rate_factor):
                layer = attrs.evolve(layer, trainable=active, learning_rate_factor=own_factor)
            nodes.append(Node(name, layer, sources, shapes, made))
            values.append(tuple((len(nodes) - 1, output) for output in range(len(made))))
        places.setdefault(name, []).append(values[-1])
    return tuple(values[number][output] for number, output in network.outputs)


@spec()
class Sequential(Container):
    """Layers one after the other; the first is an `Input`. Every entry is a layer of its own, also where one spec stands twice.

    weights: the file that all parameters come from, a `Pretrained` or a path; default None: they are drawn.

    Raises ValueError where the list is empty, does not begin with an Input, holds something that is no layer, where two layers have the same
    name, or where a layer cannot take the shape that reaches it (the message names the layer).

    >>> from nnkit import Dense
    >>> Sequential([Input((20,)), Dense(64, activation="relu"), Dense(1, activation="sigmoid")])
    Sequential((Input((20,)), Dense(64, activation=ReLU()), Dense(1, activation=Sigmoid())))
    """

    layers: tuple[Layer, ...] = attrs.field(converter=lambda layers: tuple(layers) if isinstance(layers, (list, tuple)) else layers)
    weights: Pretrained | None = weights_field()

    def __attrs_post_init__(self) -> None:
        """Refuse what is no chain of layers."""
        layers: Any = self.layers
        if not isinstance(layers, tuple) or not layers:
            raise ValueError(f"Sequential: layers must be a list of layers that begins with an Input, received {layers!r}")
        for position, layer in enumerate(layers):
            if not is_of_family(layer, "layer"):
                raise ValueError(f"Sequential: layers[{position}] must be a layer, received {received(layer)}")
            if isinstance(layer, Input) != (position == 0):
                rule = "the first layer must be Input(shape)" if position == 0 else "Input must come first and once"
                raise ValueError(f"Sequential: {rule}, received {layer!r} at position {position}")
            if layer.output_count > 1 and position < len(layers) - 1:
                raise ValueError(f"Sequential: layer {own_name(layer)!r} has {layer.output_count} outputs, but the layer behind it takes one")
        self.graph()

    @property
    def calls(self) -> tuple[tuple[int, tuple[Ref, ...]], ...]:
        """Every layer on the one before."""
        return tuple((position, ((position - 1, 0),) if position else ()) for position in range(len(self.layers)))

    @property
    def outputs(self) -> tuple[Ref, ...]:
        """The last layer's, all of them."""
        return tuple((len(self.layers) - 1, output) for output in range(self.layers[-1].output_count))


@spec()
class Network(Container):
    """A directed acyclic graph of layers, declared by calling them on `Input`s and on what they return.

    Network(inputs, outputs): inputs is an Input or a list of them; outputs a tensor, a list of tensors, or a dict that names them. A layer
    called twice shares its parameters. Networks can be called as layers; one with several outputs returns a tuple.

    Outputs are named as the layers that make them, unless a dict names them; targets, losses, metrics and reported values use these names.
    weights: the file that all parameters come from, a `Pretrained` or a path; default None: they are drawn.

    Raises TypeError for anything that is no Input or tensor; ValueError where an input is not used or used without being declared, an output
    depends on no layer, or two layers have one name. Shapes are checked when a layer is called.

    >>> from nnkit import Dense
    >>> x = Input((20,))
    >>> h = Dense(8, activation="relu", name="latent")(x)
    >>> Network(x, {"again": Dense(20)(h), "score": Dense(1)(h)}).graph().output_names
    ('again', 'score')
    """

    layers: tuple[Layer, ...]
    calls: tuple[tuple[int, tuple[Ref, ...]], ...]       # type: ignore[assignment]
    outputs: tuple[Ref, ...]                             # type: ignore[assignment]
    output_names: tuple[str, ...] | None                 # type: ignore[assignment]
    weights: Pretrained | None = weights_field()

    def __init__(self, inputs: Any, outputs: Any, *, name: str | None = None, trainable: bool = True, learning_rate_factor: float = 1.0,
                 weights: Any = None) -> None:
        names = tuple(outputs) if isinstance(outputs, Mapping) else None
        starts = as_tensors(inputs, "Network: inputs")
        ends = as_tensors(list(outputs.values()) if isinstance(outputs, Mapping) else outputs, "Network: outputs")
        layers, calls, refs = _declared(starts, ends)
        self.__attrs_init__(layers, calls, refs, names, name=name, trainable=trainable,  # type: ignore[attr-defined]
                            learning_rate_factor=learning_rate_factor, weights=weights)

    @classmethod
    def from_fields(cls, **fields: Any) -> Network:
        """The network of these layers, calls, outputs and output_names: what repr and JSON write.

        Raises ValueError where a call takes what comes later (a cycle), or where anything names a call or layer that is not there.
        """
        self = cls.__new__(cls)
        self.__attrs_init__(**fields)                    # type: ignore[attr-defined]
        return self

    def __attrs_post_init__(self) -> None:
        """Refuse what is no network."""
        _check_calls(self)
        if self.output_names is not None:
            for name in self.output_names:
                if not isinstance(name, str) or not name or "/" in name:
                    raise ValueError(f"Network: names of outputs must be strings without '/', received {name!r}")
        graph = self.graph()
        if len(set(graph.output_names)) != len(graph.output_names):
            raise ValueError(f"Network: two outputs have one name, received {graph.output_names}")

    def __repr__(self) -> str:
        """The code that makes it: names of layers hold what they share, so plain calls would not do."""
        fields = sorted(attrs.fields(type(self)), key=lambda field: field.kw_only)
        values = {field.alias: (getattr(self, field.name), field) for field in fields}
        words = [f"{key}={value!r}" for key, (value, field) in values.items() if not field.kw_only or value != field.default]
        return f"Network.from_fields({', '.join(words)})"


def _declared(starts: Sequence[Tensor], ends: Sequence[Tensor]) -> tuple[tuple[Layer, ...], tuple[Any, ...], tuple[Ref, ...]]:
    """Layers, calls and outputs as plain values: the inputs first, then every call after what it takes."""
    numbers: dict[int, int] = {}                         # key of a call -> its number
    layers: dict[int, Layer] = {}                        # id of a layer -> the layer
    calls: list[tuple[int, tuple[Ref, ...]]] = []

    def add(made: Call) -> None:
        layers.setdefault(id(made.layer), made.layer)
        numbers[key_of(made)] = len(calls)
        calls.append((list(layers).index(id(made.layer)), tuple((numbers[key_of(x.call)], x.index) for x in made.inputs)))

    for start in starts:
        if not isinstance(start.call.layer, Input):
            raise ValueError(f"Network: inputs must be Inputs, received {start!r}")
        if key_of(start.call) in numbers:
            raise ValueError(f"Network: inputs must differ, received {own_name(start.call.layer)!r} twice")
        add(start.call)
    for end in ends:
        if isinstance(end.call.layer, Input):
            raise ValueError(f"Network: outputs must depend on a layer, received the input {own_name(end.call.layer)!r} itself")
        for made in _in_order(end.call, numbers):
            if isinstance(made.layer, Input):
                raise ValueError(f"Network: the output {path_to(end)} depends on {made.layer!r}, which is not among the inputs")
            add(made)
    used = {number for _, refs in calls for number, _ in refs}
    for number, start in enumerate(starts):
        if number not in used:
            raise ValueError(f"Network: no output depends on the input {own_name(start.call.layer)!r} (number {number}) of shape {start.shape}")
    return tuple(layers.values()), tuple(calls), tuple((numbers[key_of(end.call)], end.index) for end in ends)


def _in_order(made: Call, known: Mapping[int, int]) -> Iterator[Call]:
    """The calls that `made` depends on and that are not known yet, each after what it takes, itself last. Without recursion: networks are deep."""
    stack: list[tuple[Call, Iterator[Tensor]]] = [(made, iter(made.inputs))]
    entered = {key_of(made)}
    if key_of(made) in known:
        return
    while stack:
        at, inputs = stack[-1]
        for tensor in inputs:
            key = key_of(tensor.call)
            if key not in known and key not in entered:
                entered.add(key)
                stack.append((tensor.call, iter(tensor.call.inputs)))
                break
        else:
            stack.pop()
            yield at


def _check_calls(network: Network) -> None:
    """Refuse calls that are no network: these come from text, which may say anything. Raises ValueError."""
    layers, calls, outputs = network.layers, network.calls, network.outputs
    for part, value in (("layers", layers), ("calls", calls), ("outputs", outputs)):
        if not isinstance(value, tuple) or not value:
            raise ValueError(f"Network: {part} must be a tuple that is not empty, received {value!r}")
    for layer in layers:
        if not is_of_family(layer, "layer"):
            raise ValueError(f"Network: layers must hold layers, received {layer!r}")
    if network.output_names is not None and (not isinstance(network.output_names, tuple) or len(network.output_names) != len(outputs)):
        raise ValueError(f"Network: output_names must be {len(outputs)} names or None, received {network.output_names!r}")
    counts: list[int] = []
    for position, entry in enumerate(calls):
        if not (isinstance(entry, tuple) and len(entry) == 2 and _is_index(entry[0], len(layers)) and isinstance(entry[1], tuple)):
            raise ValueError(f"Network: calls[{position}] must be (number of a layer, what it takes), received {entry!r}")
        which, refs = entry
        for ref in refs:
            _check_ref(ref, counts, f"calls[{position}], of layer {own_name(layers[which])!r},", "before it: a cycle?")
        counts.append(layers[which].output_count)
    for ref in outputs:
        _check_ref(ref, counts, "outputs", "that is there")
    _check_use(layers, calls, outputs)


def _check_use(layers: Sequence[Layer], calls: Sequence[tuple[int, tuple[Ref, ...]]], outputs: Sequence[Ref]) -> None:
    """Refuse what no output depends on, outputs that depend on no layer, and Inputs that are called twice. Raises ValueError."""
    called = [which for which, _ in calls]
    taken = {number for _, refs in calls for number, _ in refs} | {number for number, _ in outputs}
    for number, which in enumerate(called):
        if isinstance(layers[which], Input) and called.count(which) > 1:
            raise ValueError(f"Network: the input {own_name(layers[which])!r} must be called once, received {called.count(which)} calls")
        if number not in taken:
            raise ValueError(f"Network: no output depends on calls[{number}], of layer {own_name(layers[which])!r}")
    for number, layer in enumerate(layers):
        if number not in called:
            raise ValueError(f"Network: every layer must be called, received {own_name(layer)!r}, which is not")
    for number, _ in outputs:
        if isinstance(layers[called[number]], Input):
            raise ValueError(f"Network: outputs must depend on a layer, received the input {own_name(layers[called[number]])!r} itself")


def _is_index(value: Any, size: int) -> bool:
    return type(value) is int and 0 <= value < size


def _check_ref(ref: Any, counts: Sequence[int], what: str, rule: str) -> None:
    """Raise ValueError for what is not (number of a call, number of one of its outputs)."""
    if not (isinstance(ref, tuple) and len(ref) == 2 and _is_index(ref[0], len(counts)) and _is_index(ref[1], counts[ref[0]])):
        raise ValueError(f"Network: {what} must take the output of a call {rule}, received {ref!r}")


def unique_names(layers: Iterable[Layer]) -> list[str]:
    """Every layer's name: its own, or its class name in snake case, numbered from the second on. Raises ValueError for a name given twice."""
    layers = tuple(layers)
    names: list[str] = []
    counts: dict[str, int] = {}
    given: set[str] = set()
    for layer in layers:
        if layer.name is not None and layer.name in given:
            raise ValueError(f"two layers have the name {layer.name!r}; names must differ")
        given.update(() if layer.name is None else (layer.name,))
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
