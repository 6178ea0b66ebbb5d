"""The frozen beginning of a network, computed once over a data set: `fit(cache_frozen=...)`.

What training computes anew in every epoch although it never changes: all layers from the inputs on that have no trainable parameter and whose forward
pass neither draws random numbers nor keeps anything between steps. Their outputs become a data set of their own, on which the rest is trained, by the
same kernels in the same order and with the same random streams as it would be in the whole.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np

from nnkit.nodes import Graph, Ref
from nnkit.plan.build import lowered
from nnkit.plan.plan import PERSISTENT
from nnkit.training.data import Data

if TYPE_CHECKING:
    from nnkit.training.model import Model

__all__ = ["Split", "split_model"]

Room = Callable[[tuple[int, ...], str], np.ndarray]      # makes an array of this shape and dtype


@attrs.frozen(eq=False)
class Split:
    """A model as two on the same memory. base: computes what is frozen. head: trains the rest.

    sources: for each input of the head the base's output of that number, or (negative, from -1 on) the model's own input.
    """

    base: Model
    head: Model
    sources: tuple[int, ...]

    def nbytes(self, n: int) -> int:
        """Bytes of what is cached for n samples."""
        return n * np.dtype(self.base.dtype).itemsize * sum(math.prod(output.shape) for output in self.base.outputs)

    def cached(self, data: Data, batch: int, mode: str, room: Room) -> Data:
        """The head's data set for that of the model. mode: "features" for training, "predict" for evaluation."""
        base = self.base
        found = [room((data.n, *output.shape), base.dtype) for output in base.outputs]
        own = [data.inputs[position] for position in self._own_inputs()]
        base.run_forward(own, found, batch, mode)
        inputs = tuple(found[source] if source >= 0 else data.inputs[-1 - source] for source in self.sources)
        return attrs.evolve(data, inputs=inputs)

    def _own_inputs(self) -> list[int]:
        """Which of the model's inputs the base takes."""
        names = self.head.whole.graph.input_names
        return [names.index(name) for name in self.base.graph.input_names]


def split_model(model: Model) -> Split:
    """The model cut behind its frozen beginning. Raises ValueError where nothing is frozen there, or the network is one on graphs."""
    graph = model.graph
    if graph.flow.on_graphs:
        raise ValueError("fit: cache_frozen cannot keep what is computed on a graph: all of it is one batch")
    fixed = _fixed_nodes(model)
    places = _boundary(graph, fixed)
    while masked := {place[0] for place, mask in zip(places, _masked(model, places), strict=True) if mask}:
        fixed = _without(graph, fixed, masked)           # masks do not stand in the cache, so it ends before them
        places = _boundary(graph, fixed)
    computed = [place for place in places if graph.nodes[place[0]].inputs]
    if not computed:
        raise ValueError("fit: cache_frozen needs layers at the network's beginning that are frozen, received none: see freeze")
    base, head = _between(graph, (), computed), graph.between(places, list(zip(graph.outputs, graph.output_names, strict=True)))
    inputs = [index for index, node in enumerate(graph.nodes) if not node.inputs]
    sources = tuple(computed.index(place) if place in computed else -1 - inputs.index(place[0]) for place in places)
    return Split(model.view_of(base), model.view_of(head, trains=True), sources)


def _between(graph: Graph, given: Sequence[Ref], wanted: Sequence[Ref]) -> Graph:
    return graph.between(given, [(place, graph.nodes[place[0]].name) for place in wanted])


def _fixed_nodes(model: Model) -> set[int]:
    """Numbers of the nodes whose outputs are the same in every epoch."""
    graph, declared = model.graph, model.layout.declared
    steps, _ = lowered(graph, model.layout, graph.batch_size or 1, "features")
    changing = {step.layer for step in steps
                if any(buffer.role == "state" for buffer in step.buffers) or any(buffer.role in PERSISTENT for buffer in step.writes + step.updates)}
    changing.update(node.name for node in graph.nodes for name in node.layer.parameters(*node.input_shapes)
                    if declared[f"{node.name}/{name}"].trainable)
    fixed: set[int] = set()
    for index, node in enumerate(graph.nodes):
        if not node.inputs or (node.name not in {*changing, *graph.stateful} and all(source in fixed for source, _ in node.inputs)):
            fixed.add(index)
    return fixed


def _boundary(graph: Graph, fixed: set[int]) -> list[Ref]:
    """The outputs of fixed nodes that others take, or that are outputs of the network."""
    taken = {ref for index, node in enumerate(graph.nodes) if index not in fixed for ref in node.inputs} | {*graph.outputs}
    return sorted(ref for ref in taken if ref[0] in fixed)


def _masked(model: Model, places: Sequence[Ref]) -> list[bool]:
    """For each output of a node whether it has a mask."""
    computed = [place for place in places if model.graph.nodes[place[0]].inputs]
    masks = {}
    if computed:
        _, outputs = lowered(_between(model.graph, (), computed), model.layout, model.graph.batch_size or 1, "features")
        masks = {place: mask is not None for place, (_, mask) in zip(computed, outputs, strict=True)}
    return [masks.get(place, False) for place in places]


def _without(graph: Graph, fixed: set[int], masked: set[int]) -> set[int]:
    """The fixed nodes without the masked ones and what is computed from these."""
    left = set(fixed)
    for index, node in enumerate(graph.nodes):
        if index in masked or (node.inputs and any(source not in left for source, _ in node.inputs)):
            left.discard(index)
    return left


class Folder:
    """A folder for arrays that are memory-mapped files, removed with what is in it."""

    def __init__(self, parent: str | os.PathLike[str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="nnkit-frozen-", dir=parent)
        self._count = 0

    def room(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """A new file of that array."""
        self._count += 1
        return np.lib.format.open_memmap(os.path.join(self._folder.name, f"{self._count}.npy"), "w+", dtype, shape)

    def close(self) -> None:
        """Remove it."""
        self._folder.cleanup()
