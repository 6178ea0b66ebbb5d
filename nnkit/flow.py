"""What flows through a network besides rows of numbers: graphs, sparse matrices, numbers of nodes; and what the rows are rows of.

In a network with a `GraphInput` most tensors have a row for each node of the graph. Where a layer makes one row of all nodes of a graph, or of two
nodes, what follows has a row for each *sample*: what targets, losses and metrics count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from nnkit.layers.base import Form
    from nnkit.nodes import Graph, Node

__all__ = ["Flow", "flow_of"]

WORDS = {"graph": "a graph", "sparse": "a sparse matrix", "numbers": "rows of numbers"}
LEVELS = {True: "a row for each node", False: "a row for each sample"}


@attrs.frozen
class Flow:
    """kinds: what each input holds: "numbers", "sparse", "graph", or "places" (numbers of nodes). by_node: for each input, whether it has a row for
    each node. forms: for each input that is a graph, the forms of the adjacency that layers ask for, each once. samples_are_nodes: whether the
    outputs have a row for each node."""

    kinds: tuple[str, ...] = ()
    by_node: tuple[bool, ...] = ()
    forms: tuple[tuple[Form, ...], ...] = ()
    samples_are_nodes: bool = False

    @property
    def on_graphs(self) -> bool:
        """Whether a graph flows."""
        return "graph" in self.kinds


def flow_of(graph: Graph) -> Flow:
    """What flows in a network. Raises ValueError where a layer cannot take what reaches it."""
    starts = [index for index, node in enumerate(graph.nodes) if not node.inputs]
    kinds = {index: graph.nodes[index].layer.kind for index in starts}         # type: ignore[attr-defined]
    for index, node in enumerate(graph.nodes):
        if node.inputs:
            kinds[index] = _kind_behind(graph, node, kinds)
    for (index, _), name in zip(graph.outputs, graph.output_names, strict=True):
        if kinds[index] == "sparse":
            raise ValueError(f"output {name!r} must be rows of numbers, received the sparse matrix that layer {graph.nodes[index].name!r} gives")
    if "graph" not in kinds.values():
        sparse = next((graph.nodes[index].name for index in starts if kinds[index] == "sparse"), None)
        if sparse is not None:
            raise ValueError(f"input {sparse!r} is sparse, which needs a network with a GraphInput: declare a dense Input")
        return Flow(kinds=tuple(kinds[index] for index in starts), by_node=(False,) * len(starts), forms=((),) * len(starts))
    levels = _levels(graph, kinds)
    ends = {levels[index] for index, _ in graph.outputs}
    if len(ends) > 1:
        raise ValueError(f"all outputs must have rows for the same, received {LEVELS[True]} and {LEVELS[False]}")
    return Flow(kinds=tuple(kinds[index] for index in starts), by_node=tuple(levels[index] for index in starts),
                forms=tuple(_forms(graph, index) for index in starts), samples_are_nodes=ends.pop())


def _kind_behind(graph: Graph, node: Node, kinds: dict[int, str]) -> str:
    """What a layer gives, once it has been checked that it takes what reaches it."""
    layer = node.layer
    for position, (source, _) in enumerate(node.inputs):
        start = graph.nodes[source]
        wanted = "graph" if position == layer.graph_at else "numbers"
        if position == layer.pairs_at:
            if start.inputs or kinds[source] not in ("numbers", "places"):
                raise ValueError(f"layer {node.name!r} must take numbers of nodes from an Input, received what layer {start.name!r} gives")
            kinds[source] = "places"
            continue
        sparse = kinds[source] == "sparse" and position == 0 and layer.takes_sparse
        if kinds[source] != wanted and not sparse:
            found = WORDS.get(kinds[source], "numbers of nodes")
            raise ValueError(f"layer {node.name!r} must take {WORDS[wanted]} as its input number {position}, received {found} from {start.name!r}")
    return "sparse" if layer.keeps_sparse and kinds[node.inputs[0][0]] == "sparse" else "numbers"


def _levels(graph: Graph, kinds: dict[int, str]) -> dict[int, bool]:
    """For each node of the network whether its outputs have a row for each node of a graph. Raises ValueError where rows do not fit together."""
    levels: dict[int, bool] = {}
    for index, node in enumerate(graph.nodes):
        if not node.inputs:
            levels[index] = kinds[index] != "places"
            continue
        layer = node.layer
        rows = {source: levels[source] for position, (source, _) in enumerate(node.inputs) if position not in (layer.graph_at, layer.pairs_at)}
        if len({*rows.values()}) > 1:
            first, second = (next(graph.nodes[source].name for source, level in rows.items() if level == wanted) for wanted in (True, False))
            raise ValueError(f"layer {node.name!r} cannot take {first!r}, which has {LEVELS[True]}, and {second!r}, which has {LEVELS[False]}")
        level = next(iter(rows.values()))
        if not level and (layer.graph_at is not None or layer.pairs_at is not None):
            name = graph.nodes[node.inputs[0][0]].name
            raise ValueError(f"layer {node.name!r} must take {LEVELS[True]} of the graph, received {name!r}, which has {LEVELS[False]}")
        levels[index] = level and not layer.to_samples
    return levels


def _forms(graph: Graph, start: int) -> tuple[Form, ...]:
    """The forms of a graph that layers ask for, in their order."""
    layers = [node.layer for node in graph.nodes if node.layer.graph_at is not None and node.inputs[node.layer.graph_at][0] == start]
    return tuple(dict.fromkeys(layer.form for layer in layers if layer.form is not None))
