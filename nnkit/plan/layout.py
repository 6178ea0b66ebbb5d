"""What a model keeps between steps (parameters, gradients, optimizer state, counters) and where: every plan of the model shares it."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from nnkit.plan.arena import aligned
from nnkit.plan.plan import ALIGNMENT, ITEMSIZE, Buffer

if TYPE_CHECKING:
    from nnkit.nodes import Graph
    from nnkit.optimizers.base import Optimizer

__all__ = ["COUNTERS", "LEARNING_RATES", "LEAST_ROWWISE", "STREAMS", "SUMS", "Layout", "Run", "lay_out"]

# What a step counts, in the int64 buffer "counters": finished updates; where the batch begins in the order of samples; the seed of all
# random streams; the update at which the table of learning rates begins, and how many rates it holds; finished epochs; the update after which the
# history begins with which rows catch up.
COUNTERS = {"step": 0, "position": 1, "seed": 2, "table_start": 3, "table_size": 4, "epoch": 5, "term": 6}
# Random streams that belong to no layer; layers count from 1: see Builder.stream.
STREAMS = {"shuffle": 0}
# Sums over steps, in the float64 buffer "sums": batch loss times batch size; samples; the last batch's loss; then, likewise times batch size, the
# parts of the loss that Plan.terms names.
SUMS = {"loss": 0, "samples": 1, "last": 2, "terms": 3}
# Learning rates of the coming updates, in the float64 buffer "learning_rates".
LEARNING_RATES = 1024

# Numbers of a table for which going through its rows one by one begins to pay: smaller ones are swept as a whole.
LEAST_ROWWISE = 16_384


@attrs.frozen
class Run:
    """Trainable parameters that lie one behind the other, with one factor of the learning rate: one sweep of the optimizer.

    start: first element in the vector "parameters"; first: in "gradients" and the optimizer's states; size: elements.
    """

    start: int
    first: int
    size: int
    factor: float

    def piece(self, vector: Buffer, start: int) -> Buffer:
        """The run's part of a vector."""
        if start == 0:
            return vector.piece(self.size)
        return Buffer(f"{vector.name}[{start}:]", (self.size,), vector.dtype, vector.role, (vector.name, start))


@attrs.frozen
class Layout:
    """Persistent memory: buffers with byte offsets, and which pieces of the flat vectors belong to which parameter.

    parameters: name ("dense/kernel") -> piece of the vector "parameters"; the order does not depend on which are frozen. gradients: likewise, for
    trainable parameters alone, which are also all that the optimizer's states have room for. `runs` says which parts of both belong together, so that
    mostly one optimizer step covers all in one sweep; behind `dense_size` elements of the gradients come those of the parameters that are updated row
    by row, named in `rowwise`, up to `trainable_size`. history: where it is not empty, rows have to catch up before they are read, and these are the
    values with which the persistent buffers start that they catch up with. kept_bytes: the first of all `nbytes`, which stay as they are when layers
    are frozen.
    """

    dtype: str
    offsets: Mapping[str, int]
    buffers: Mapping[str, Buffer]
    parameters: Mapping[str, Buffer]
    gradients: Mapping[str, Buffer]
    declared: Mapping[str, Any] = attrs.field(factory=dict)
    runs: tuple[Run, ...] = ()
    dense_size: int = 0
    trainable_size: int = 0
    rowwise: tuple[str, ...] = ()
    history: Mapping[str, Any] = attrs.field(factory=dict, eq=False)       # arrays
    kept_bytes: int = 0
    nbytes: int = 0

    def piece(self, vector: str, name: str) -> Buffer:
        """The part of an optimizer's state vector that belongs to a trainable parameter, with its shape."""
        inside = self.gradients[name].inside
        assert inside is not None
        return Buffer(f"{vector}/{name}", self.parameters[name].shape, self.dtype, "state", (vector, inside[1]))


def row_wise(graph: Graph, optimizer: Optimizer | None, dtype: str, backend: str = "cpu") -> tuple[str, ...]:
    """Names of the parameters that can be updated row by row: declared so, large, without a penalty (whose gradient has no zeros), of layers that are
    called once, by an optimizer that can do it. On a GPU none: there all tables are swept."""
    if backend == "cuda" or optimizer is None or optimizer.by_rows(dtype) is None:
        return ()
    calls = collections.Counter(f"{node.name}/{name}" for node in graph.nodes for name in node.layer.parameters(*node.input_shapes))
    return tuple(name for name, declared in graph.parameters().items()
                 if declared.rowwise and declared.regularizer is None and declared.size >= LEAST_ROWWISE and calls[name] == 1)


def lay_out(graph: Graph, optimizer: Optimizer | None, dtype: str, backend: str = "cpu") -> Layout:
    """The layout of a model's persistent memory."""
    declared = graph.parameters()
    tables = row_wise(graph, optimizer, dtype, backend)
    names = sorted(declared, key=lambda name: (not (declared[name].trainable or declared[name].frozen), name in tables))     # stable
    rowwise = tuple(name for name in tables if declared[name].trainable and declared[name].learning_rate_factor == 1)
    trained = [name for name in names if declared[name].trainable]
    places, size = _places(declared, names, dtype)
    swept, dense_size = _places(declared, [name for name in trained if name not in rowwise], dtype)
    by_row, trainable_size = _places(declared, rowwise, dtype, dense_size)
    firsts = {**swept, **by_row}
    vectors = _vectors(graph, dtype, len(names), size)
    kept = tuple(vectors)
    vectors["gradients"] = Buffer("gradients", (trainable_size,), dtype, "gradient")
    for state in optimizer.states() if optimizer is not None else ():
        vectors[f"optimizer/{state}"] = Buffer(f"optimizer/{state}", (trainable_size,), dtype, "state")
    history = optimizer.history(dtype) if optimizer is not None and rowwise else {}
    for name, start in history.items():
        vectors[name] = Buffer(name, start.shape, "float64", "state")
    for name in rowwise:
        vectors[f"@last/{name}"] = Buffer(f"@last/{name}", declared[name].shape[:1], "int64", "state")
    offsets, end, kept_bytes = {}, 0, 0
    for name, buffer in vectors.items():
        offsets[name] = end
        end += aligned(buffer.nbytes)
        kept_bytes = end if name in kept else kept_bytes
    inside = {name: Buffer(name, declared[name].shape, dtype, "parameter", ("parameters", places[name])) for name in names}
    gradients = {name: Buffer(f"{name}/gradient", declared[name].shape, dtype, "gradient", ("gradients", firsts[name])) for name in trained}
    return Layout(dtype=dtype, offsets=offsets, buffers=vectors, parameters=inside, gradients=gradients, declared=declared,
                  runs=_runs(declared, places, swept, dtype), dense_size=dense_size, trainable_size=trainable_size, rowwise=rowwise, history=history,
                  kept_bytes=kept_bytes, nbytes=end)


def _places(declared: Mapping[str, Any], names: Sequence[str], dtype: str, start: int = 0) -> tuple[dict[str, int], int]:
    """Where each of these parameters begins in a vector that holds them one behind the other, each aligned; and where the last one ends."""
    places = {}
    for name in names:
        places[name] = start
        start += aligned(declared[name].size, ALIGNMENT // ITEMSIZE[dtype])
    return places, start


def _vectors(graph: Graph, dtype: str, parameters: int, size: int) -> dict[str, Buffer]:
    """The persistent vectors that every model has, whatever of it is trained."""
    penalties = max(1, parameters + len(graph.nodes))
    return {buffer.name: buffer for buffer in (
        Buffer("parameters", (size,), dtype, "parameter"), Buffer("penalties", (penalties,), "float64", "state"),
        Buffer("counters", (8,), "int64", "state"), Buffer("sums", (SUMS["terms"] + len(graph.outputs) + penalties,), "float64", "state"),
        Buffer("learning_rates", (LEARNING_RATES,), "float64", "state"))}


def _runs(declared: Mapping[str, Any], places: Mapping[str, int], firsts: Mapping[str, int], dtype: str) -> tuple[Run, ...]:
    """The runs of the parameters that begin at these elements of the gradients."""
    runs: list[Run] = []
    for name, first in firsts.items():
        size, factor = aligned(declared[name].size, ALIGNMENT // ITEMSIZE[dtype]), declared[name].learning_rate_factor
        last = runs[-1] if runs else None
        if last is not None and last.start + last.size == places[name] and last.factor == factor:
            runs[-1] = attrs.evolve(last, size=last.size + size)
        else:
            runs.append(Run(places[name], first, size, factor))
    return tuple(run for run in runs if run.size)
