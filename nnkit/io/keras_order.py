"""The layers of a network with parameters, as Keras would have them: in its order, by its names of classes and parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from nnkit.layers.base import Layer, Shape, snake_case

if TYPE_CHECKING:
    from nnkit.nodes import Graph, Node

__all__ = ["NETWORKS", "OwnLayer", "base_name", "key_of", "own_layers"]

NETWORKS = ("sequential", "functional", "model", "network")


def base_name(name: str) -> str:
    """A name without the number at its end: dense_7 -> dense."""
    return re.sub(r"_\d+$", "", name)


def key_of(parts: Sequence[str]) -> str:
    """What a parameter is called apart from the names of layers: its own name, and of a Bidirectional the direction."""
    way = next((way for way in ("forward", "backward") for part in parts[:-1] if part.startswith(f"{way}_")), "")
    return f"{way}/{parts[-1]}" if way else parts[-1]


@attrs.frozen(eq=False)
class OwnLayer:
    """A layer of the network with parameters (name in full -> what Keras calls it), or a nested network.

    automatic: the user gave no name. name: without those of the networks that it lies in; none for an activation, whose full name is "dense/alpha".
    """

    name: str
    full: str
    kind: str
    automatic: bool
    parameters: Mapping[str, str] = attrs.field(factory=dict)
    shapes: tuple[Shape, ...] = ()
    layers: tuple[OwnLayer, ...] = ()

    def leaves(self) -> Iterator[OwnLayer]:
        """The layers themselves."""
        if self.kind != "network":
            yield self
        for layer in self.layers:
            yield from layer.leaves()


def own_layers(graph: Graph) -> tuple[OwnLayer, ...]:
    """The layers of a graph that have parameters, in the order in which Keras keeps them."""
    return _inside(graph, range(len(graph.nodes)), "")


def _inside(graph: Graph, places: Sequence[int], prefix: str) -> tuple[OwnLayer, ...]:
    """The layers among the nodes at `places`, whose names begin with prefix, in the order in which Keras keeps them."""
    heads = [graph.nodes[place].name[len(prefix):].split("/")[0] for place in places]
    nested = {head for place, head in zip(places, heads, strict=True) if graph.nodes[place].name != prefix + head}
    found: list[OwnLayer] = []
    for head in _keras_order(graph, places, heads, nested):
        inside = [place for place, other in zip(places, heads, strict=True) if other == head]
        if head in nested:
            layers = _inside(graph, inside, f"{prefix}{head}/")
            found += [OwnLayer(head, prefix + head, "network", base_name(head) in NETWORKS, layers=layers)] if layers else []
        else:
            found += _leaves(graph.nodes[inside[0]], head)
    return tuple(found)


def _leaves(node: Node, head: str) -> list[OwnLayer]:
    """The layer, and behind it the activation where that has parameters: Keras has a layer of its own for it."""
    declared = dict(node.layer.parameters(*node.input_shapes))
    activation = getattr(node.layer, "activation", None)
    learned = set() if not isinstance(activation, Layer) else set(activation.parameters(node.shape)) & {*declared}
    kind, found = snake_case(type(node.layer).__name__), []
    for kind_, names, automatic in ((kind, [name for name in declared if name not in learned], node.layer.name is None),
                                    (snake_case(type(activation).__name__), sorted(learned), True)):
        if names:
            name, full = (head, node.name) if names[0] not in learned else ("", f"{node.name}/{names[0]}")
            found.append(OwnLayer(name, full, kind_, automatic, {f"{node.name}/{name}": key_of(name.split("/")) for name in names},
                              tuple(declared[name].shape for name in names)))
    return found


def _keras_order(graph: Graph, places: Sequence[int], heads: Sequence[str], nested: set[str]) -> list[str]:
    """The heads in the order of Keras' `Functional.layers`: by the longest way to an output, the longest first; of those with ways of one length the
    one first that a depth-first search from the outputs meets first. (keras.src.ops.function.map_graph)

    The network's own order, where a nested network is called more than once: a flat graph does not tell its calls apart.
    """
    names = [graph.nodes[place].name for place in places]
    own = list(dict.fromkeys(heads))
    inside = {head: [place for place, other in zip(places, heads, strict=True) if other == head] for head in nested}       # one call of each
    if any(head in nested and names.count(name) > 1 for name, head in zip(names, heads, strict=True)):
        return own
    calls = {place: own_places[0] if (own_places := inside.get(head)) else place for place, head in zip(places, heads, strict=True)}
    head_of = dict(zip(calls.values(), heads, strict=True))
    takes: dict[int, list[int]] = {call: [] for call in head_of}
    used: set[int] = set()
    for place, call in calls.items():
        sources = [source for source, _ in graph.nodes[place].inputs if source in calls and calls[source] != call]
        takes[call] += [calls[source] for source in sources]
        used.update(sources)
    outside = [index for index, _ in graph.outputs if index in calls] or [place for place in places if place not in used]
    met, finished = _search([calls[place] for place in outside], takes, head_of)
    depths: dict[int, int] = {}
    longest: dict[str, int] = {}
    for call in reversed(finished):
        head = head_of[call]
        longest[head] = depths[call] = max(depths.get(call, 0), longest.get(head, 0))
        for source in takes[call]:
            depths[source] = max(depths[call] + 1, depths.get(source, 0))
    return sorted(own, key=lambda head: (-longest.get(head, 0), met.get(head, len(met))))


def _search(ends: Iterable[int], takes: Mapping[int, Sequence[int]], head_of: Mapping[int, str]) -> tuple[dict[str, int], list[int]]:
    """Depth first from the ends: when each head was met, and the calls, each after what it takes."""
    met: dict[str, int] = {}
    finished: dict[int, None] = {}
    for end in ends:
        stack = [(end, iter(takes[end]))] if end not in finished else []
        while stack:
            call, sources = stack[-1]
            met.setdefault(head_of[call], len(met))
            source = next((source for source in sources if source not in finished), None)
            if source is not None:
                stack.append((source, iter(takes[source])))
            else:
                finished[call] = None
                stack.pop()
    return met, list(finished)
