"""Networks made of others: a part of one, and one whose layers are frozen or learn at another rate. Specs in, specs out."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from nnkit.layers.base import Layer, Shape
from nnkit.network import Container, Network, unique_names
from nnkit.nodes import Graph, Ref
from nnkit.spec import is_of_family, nearest, received
from nnkit.tensors import Input

__all__ = ["layers_matching", "part", "with_flags"]

Flags = tuple[bool, float]                               # of a layer: whether it is trainable, and the factor of its learning rate


# Frozen layers.

def layers_matching(graph: Graph, patterns: Iterable[str]) -> list[str]:
    """Full names of the layers with parameters that patterns name: by the full name ("vgg16/block1_conv1"), the layer's own ("block1_conv1") or that
    of a network it is in ("vgg16"), each also with the wildcards of `fnmatch`. Raises ValueError for a pattern that names no layer."""
    names = list(dict.fromkeys(node.name for node in graph.nodes))
    able = {node.name for node in graph.nodes if node.layer.parameters(*node.input_shapes)}
    found: dict[str, None] = {}
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"layers must be names or patterns, one after the other, received {received(pattern)}")
        named = [name for name in names if any(fnmatch.fnmatchcase(form, pattern) for form in _forms(name))]
        if not named:
            raise ValueError(f"no layer is named {pattern!r}: {nearest(pattern, graph.places)}")
        found.update(dict.fromkeys(name for name in named if name in able))
    return list(found)


def _forms(name: str) -> list[str]:
    """The names that a pattern may mean by a layer: its own, and its full one with those of the networks that it is in."""
    parts = name.split("/")
    return [parts[-1], *("/".join(parts[:count]) for count in range(1, len(parts) + 1))]


def with_flags(network: Container, flags: Mapping[str, Flags]) -> Container:
    """The network with other flags for the layers of these full names; of the networks that they are in, flags become those of their layers."""
    return _flagged(network, flags, "", (True, 1.0))


def _flagged(network: Container, flags: Mapping[str, Flags], prefix: str, outer: Flags) -> Container:
    if not any(name.startswith(prefix) for name in flags):
        return network if outer == (True, 1.0) else _evolved(network, **_words(_within(outer, network)))
    outer = _within(outer, network)
    layers: list[Layer] = []
    for layer, name in zip(network.layers, unique_names(network.layers), strict=True):
        if is_of_family(layer, "network"):
            layers.append(_flagged(layer, flags, f"{prefix}{name}/", outer))  # type: ignore[arg-type]
        elif isinstance(layer, Input):
            layers.append(layer)
        else:
            layers.append(attrs.evolve(layer, **_words(flags.get(prefix + name, _within(outer, layer)))))
    return _evolved(network, layers=tuple(layers), **_words((True, 1.0)))


def _within(outer: Flags, layer: Layer) -> Flags:
    return outer[0] and layer.trainable, outer[1] * layer.learning_rate_factor


def _words(flags: Flags) -> dict[str, Any]:
    return {"trainable": flags[0], "learning_rate_factor": flags[1]}


def _evolved(network: Container, **changes: Any) -> Container:
    """The network with other fields."""
    fields = {field.alias: getattr(network, field.name) for field in attrs.fields(type(network))}
    return type(network).from_fields(**{**fields, **changes})


# Parts.

def part(network: Container, inputs: str | Sequence[str] | None, outputs: str | Sequence[str] | None, name: str | None) -> Network:
    """See `Container.part`."""
    names, shapes = unique_names(network.layers), _shapes(network)
    given = _places_of(network, names, shapes, inputs, "inputs") if inputs is not None else []
    wanted = _places_of(network, names, shapes, outputs, "outputs") if outputs is not None else list(network.outputs)
    needed = _needed(network, given, wanted)
    taken = {ref for number in needed for ref in network.calls[number][1]}
    for number, _ in given:
        if not any(ref[0] == number for ref in taken):
            raise ValueError(f"part: no output depends on {names[network.calls[number][0]]!r} alone")
    for number in sorted(needed):
        if given and not network.calls[number][1]:
            raise ValueError(f"part: outputs depend on {names[network.calls[number][0]]!r}, too, which is not behind inputs={inputs!r}")
    given = [ref for ref in given if ref in taken]
    layers: list[Layer] = [Input(shapes[number][output], network.graph().batch_size) for number, output in given]
    calls: list[tuple[int, tuple[Ref, ...]]] = [(position, ()) for position in range(len(given))]
    places: dict[Ref, Ref] = {ref: (position, 0) for position, ref in enumerate(given)}
    which: dict[int, int] = {}                           # number of a layer there -> here
    for number in sorted(needed):                        # Inputs come first there, too
        layer, refs = network.calls[number]
        if layer not in which:
            which[layer] = len(layers)
            layers.append(_named(network.layers[layer], names[layer]))
        places.update({(number, output): (len(calls), output) for output in range(len(shapes[number]))})
        calls.append((which[layer], tuple(places[ref] for ref in refs)))
    return Network.from_fields(layers=tuple(layers), calls=tuple(calls), outputs=tuple(places[ref] for ref in wanted), output_names=None, name=name,
                               weights=network.weights, **_words((network.trainable, network.learning_rate_factor)))


def _places_of(network: Container, names: Sequence[str], shapes: Sequence[tuple[Shape, ...]], layers: str | Sequence[str], what: str) -> list[Ref]:
    """The outputs of the one call of each of these layers. Raises ValueError."""
    found = (layers,) if isinstance(layers, str) else tuple(layers)
    if not found or len({*found}) < len(found):
        raise ValueError(f"part: {what} must name layers, each once, received {layers!r}")
    refs: list[Ref] = []
    for layer in found:
        if layer not in names:
            inside = "; of a nested network take a part by itself" if "/" in str(layer) else ""
            raise ValueError(f"part: unknown layer {layer!r}: {nearest(str(layer), names)}{inside}")
        calls = [number for number, (which, _) in enumerate(network.calls) if names[which] == layer]
        if len(calls) > 1:
            raise ValueError(f"part: layer {layer!r} is called {len(calls)} times: a part needs a place that its name alone tells")
        refs += [(calls[0], output) for output in range(len(shapes[calls[0]]))]
    return refs


def _shapes(network: Container) -> list[tuple[Shape, ...]]:
    """For every call the shapes of its outputs."""
    shapes: list[tuple[Shape, ...]] = []
    for which, refs in network.calls:
        shapes.append(network.layers[which].output_shapes(*(shapes[number][output] for number, output in refs)))
    return shapes


def _needed(network: Container, given: Sequence[Ref], wanted: Sequence[Ref]) -> set[int]:
    """Numbers of the calls between the given outputs of calls and the wanted ones."""
    needed: set[int] = set()
    asked = [ref for ref in wanted if ref not in given]
    while asked:
        number = asked.pop()[0]
        if number not in needed:
            needed.add(number)
            asked += [ref for ref in network.calls[number][1] if ref not in given]
    return needed


def _named(layer: Layer, name: str) -> Any:
    """The layer under the name that it has in its network, so that in another it is not numbered anew."""
    if layer.name == name:
        return layer
    return _evolved(layer, name=name) if is_of_family(layer, "network") else attrs.evolve(layer, name=name)  # type: ignore[arg-type]
