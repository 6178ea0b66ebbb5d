"""Declared networks: `Network` and `Sequential`.

Layers are called on symbolic tensors (tensors.py), as in Keras' functional style:

    x = Input((20,))
    h = Dense(64, activation="relu")(x)
    network = Network(x, Dense(1)(Concatenate()([x, h])))

A `Network` keeps what was declared as plain values: its layers, and the calls of these layers in an order in which each comes after what it
takes. `Sequential` is the same for a chain. Both are layers themselves. `graph()` unfolds all of it into one flat `Graph` (nodes.py).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import attrs

from nnkit.layers.base import Layer, Shape, snake_case
from nnkit.nodes import Graph, Node, Ref, distinct_names
from nnkit.pretrained import Pretrained, weights_field
from nnkit.spec import is_of_family, nearest, received, spec
from nnkit.tensors import Call, Input, Tensor, as_tensors, key_of, output_shapes, own_name, path_to

__all__ = ["Container", "Network", "Sequential", "unique_names"]


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
        names = self.output_names or distinct_names(_output_layers(self))
        graph = Graph(nodes=tuple(nodes), outputs=ends, output_names=tuple(names), places={name: tuple(found) for name, found in places.items()})
        graph.parameters()                               # refuses a shared layer whose calls do not fit together
        graph.index_limits                               # refuses indices that no Input gives  # noqa: B018
        graph.flow                                       # refuses graphs and sparse rows where numbers are asked for  # noqa: B018
        return graph


def _output_layers(network: Container) -> list[str]:
    """For each output the name of the layer that makes it."""
    names, calls = unique_names(network.layers), network.calls
    return [names[calls[number][0]] for number, _ in network.outputs]


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
