"""From a declared graph to a plan: data comes in, layers, losses and the optimizer lower themselves into steps, predictions go out.

Which plans there are, and of which parts each consists, is said here; what a layer may ask for on the way is `Builder` (builder.py).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnkit.plan.builder import PENALTY_BLOCK, Builder, Sizes, Touched
from nnkit.plan.launch import ARCHITECTURE
from nnkit.plan.layout import Layout
from nnkit.plan.passes import optimise, work_tasks
from nnkit.plan.plan import Buffer, Plan, Step
from nnkit.prims.csr import Csr, GraphBuffer

if TYPE_CHECKING:
    from nnkit.losses.base import Loss
    from nnkit.nodes import Graph
    from nnkit.optimizers.base import Optimizer
    from nnkit.regularizers import Regularizer

__all__ = ["build", "differentiable", "flush_plan", "lowered", "numbered", "numbered_input", "shuffle_plan", "update_plan"]


def build(graph: Graph, layout: Layout, mode: str, batch: int, *, losses: Sequence[tuple[Loss | None, float]] = (),
          optimizer: Optimizer | None = None, keep_predictions: bool = False, input_gradients: bool = False, sizes: Sizes | None = None,
          gap: int = 0, backend: str = "cpu", precision: str = "float32", blas: bool = False,
          architecture: tuple[int, int] = ARCHITECTURE) -> Plan:
    """The plan of one step.

    mode: 'train' (gather, forward, loss, backward, update), 'gradients' (the same without update), 'evaluate' (inference and loss),
    'predict' (inference), 'features' (the forward pass of training alone). losses: for each output its loss (or None) and the loss's weight.
    keep_predictions: write every batch's outputs to the external arrays "predictions", "predictions_1", ..., and, where a loss is asked for, the
    masks of their time steps to "mask", "mask_1", ...
    input_gradients: the plan's outputs are the gradients of the inputs: see `differentiable`. sizes: where a graph comes in. gap: see `arena.place`.
    precision, blas: of large products on a GPU: see `products.size_products` and `by_library`. Raises ValueError where the plan cannot have them.
    architecture: the GPU's compute capability, which says how much shared memory there is (`launch.most_shared`), and whether there are clusters
    (`prims.walk`).
    """
    g = Builder(layout, batch, mode, optimizer, sizes, backend, architecture, precision)
    inputs = [_enter(g, graph, position) for position in range(len(graph.input_shapes))]
    outputs = g.forward(graph, inputs)
    kept: tuple[Buffer, ...] = ()
    forward_alone = mode in ("predict", "features")
    if forward_alone or keep_predictions:
        for position, (y, mask) in enumerate(outputs):
            _keep(g, numbered("predictions", position), y)
            if mask is not None and not forward_alone and _heeds(y, mask):
                _keep(g, numbered("mask", position), mask)
    if not forward_alone:
        terms = _lower_losses(g, losses, outputs, graph.output_names)
        if g.training:
            wanted = [buffer for x in inputs for buffer in differentiable(x)] if input_gradients else []
            kept = _lower_backward(g, [rows for rows, _ in terms], wanted)
        _lower_sums(g, terms)
    if mode == "train":
        assert optimizer is not None
        g.phase = "update"
        optimizer.lower(g, layout)
    if mode != "gradients":
        g.step("prims.feed.advance", updates=[g.state("counters")], scalars=[batch, int(mode == "train")])
    return optimise(Plan(mode=mode, batch=batch, dtype=layout.dtype, steps=tuple(g.steps), outputs=kept, terms=tuple(g.terms)), gap, backend,
                    precision, blas, architecture)


def lowered(graph: Graph, layout: Layout, batch: int, mode: str) -> tuple[list[Step], list[tuple[Buffer, Buffer | None]]]:
    """The forward steps of a graph as its layers emit them, before any pass, and its outputs, each with its mask; not of a network on graphs."""
    g = Builder(layout, batch, mode)
    outputs = g.forward(graph, [_enter(g, graph, position) for position in range(len(graph.input_shapes))])
    return g.steps, outputs


def numbered(name: str, position: int) -> str:
    """The name of the array of output `position`: target, target_1, target_2, ..."""
    return f"{name}_{position}" if position else name


def shuffle_plan(layout: Layout, backend: str = "cpu") -> Plan:
    """The plan of one step that draws a new order of the samples."""
    order = Buffer("order", (0,), "int64", "external")
    step = Step(kernel="prims.random.shuffle", layer="", phase="feed", writes=(order,), reads=(layout.buffers["counters"],))
    return optimise(Plan(mode="shuffle", batch=0, dtype=layout.dtype, steps=(step,)), backend=backend)


def flush_plan(layout: Layout, optimizer: Optimizer) -> Plan:
    """The plan that brings all rows up to date that are updated row by row."""
    g = Builder(layout, 0, "flush", optimizer)
    g.phase = "update"
    rows, count = Buffer("all_rows", (0,), "int32", "external"), Buffer("no_count", (0,), "int64", "external")       # left unbound, they are empty
    for name in layout.rowwise:
        optimizer.lower_missed(g, name, rows, count)
    optimizer.lower_tick(g, ahead=0)
    return optimise(Plan(mode="flush", batch=0, dtype=layout.dtype, steps=tuple(g.steps)))


def update_plan(layout: Layout, optimizer: Optimizer, gap: int = 0, backend: str = "cpu", architecture: tuple[int, int] = ARCHITECTURE) -> Plan:
    """The plan of an update alone, by the gradients that stand in memory. Of tables that are updated row by row it reads all rows, which are current:
    their numbers come from the external arrays "rows", "rows_1", ... and how many there are from "count", "count_1", ..."""
    g = Builder(layout, 0, "update", optimizer, backend=backend, architecture=architecture)
    g.phase = "update"
    for position, name in enumerate(layout.rowwise):
        rows = Buffer(numbered("rows", position), layout.parameters[name].shape[:1], "int32", "external")
        g.touch_all(name, Touched(rows, rows, Buffer(numbered("count", position), (1,), "int64", "external")))
    optimizer.lower(g, layout)
    g.step("prims.feed.advance", updates=[g.state("counters")], scalars=[0, 1])
    return optimise(Plan(mode="update", batch=0, dtype=layout.dtype, steps=tuple(g.steps)), gap, backend, architecture=architecture)


def _enter(g: Builder, graph: Graph, position: int) -> Any:
    """An input: a buffer, or a matrix or graph whose arrays data brings. The rows of nodes are read where the caller has them: they are all there."""
    name, shape, limit = numbered_input(position), graph.input_shapes[position], graph.index_limits[position]
    flow = graph.flow
    if flow.kinds[position] == "graph":
        return GraphBuffer(name, g.sizes.nodes, {matrix: size for matrix, size in g.sizes.entries if matrix.startswith(f"{name}/")}, g.dtype,
                           g.sizes.even)
    if flow.kinds[position] == "sparse":
        return Csr.external(name, (g.sizes.nodes, shape[0]), dict(g.sizes.entries)[name], g.dtype, g.sizes.even)
    dtype = "T" if limit is None and flow.kinds[position] == "numbers" else "int32"
    if flow.by_node[position]:
        return Buffer(f"{name}/data", (g.sizes.nodes, *shape), g.dtype if dtype == "T" else dtype, "external")
    return _feed(g, name, shape, dtype)


def differentiable(x: Any) -> list[Buffer]:
    """The buffers of an input of which there are gradients: itself; the values of a matrix, of a graph those of all its forms."""
    if isinstance(x, GraphBuffer):
        return [Csr.external(name, (x.nodes, x.nodes), size, x.dtype).values for name, size in x.entries.items()]
    return [x.values] if isinstance(x, Csr) else [x]


def numbered_input(position: int) -> str:
    """The name of input `position`: x, x1, x2, ..."""
    return f"x{position}" if position else "x"


def _feed(g: Builder, name: str, shape: tuple[int, ...], dtype: str = "T") -> Buffer:
    """The batch's rows of one array of the data set: in the order given by "order" while training, one after the other elsewhere."""
    x = g.buffer(name, g.batch, *shape, role="input", dtype=dtype)
    source = Buffer(f"{name}/data", (0, *x.rows().shape[1:]), x.dtype, "external")
    ordered = g.mode == "train" and not g.sizes.nodes
    order = Buffer("order" if ordered else "no_order", (0,), "int64", "external")      # left unbound, it is empty
    kernel = "gather_labels" if dtype == "int32" else "gather_rows"
    g.step(f"prims.feed.{kernel}", [x.rows()], [source, order, g.state("counters")], rows=g.batch, places=x.places)
    return x


def _keep(g: Builder, name: str, x: Buffer) -> None:
    """Write the batch's rows of x to an external array."""
    g.step("prims.feed.scatter", [Buffer(name, (0, *x.rows().shape[1:]), g.dtype, "external")], [x.rows(), g.state("counters")], rows=g.batch)


def _heeds(y: Buffer, mask: Buffer) -> bool:
    """Whether loss and metrics of an output leave out its masked time steps: it must have rows of them."""
    return len(y.shape) > 2 and y.shape[:2] == mask.shape


def _lower_losses(g: Builder, losses: Sequence[tuple[Loss | None, float]], outputs: Sequence[tuple[Buffer, Buffer | None]], names: Sequence[str]
                  ) -> list[tuple[Buffer, float]]:
    """Targets, losses and penalties; returns each loss's rows with its weight, which the rows carry already."""
    g.phase = "loss"
    w = _feed(g, "sample_weight", ())
    found: list[tuple[Buffer, float]] = []
    for position, ((y, mask), (loss, weight)) in enumerate(zip(outputs, losses, strict=True)):
        if loss is None:
            continue
        shape, dtype = loss.target(y.shape[1:])
        t = _feed(g, numbered("target", position), shape, dtype)
        g.layer = "loss" if len(outputs) == 1 else f"{names[position]}_loss"
        weighted = w
        mask = mask if mask is not None and _heeds(y, mask) else None
        if mask is not None:                             # of a masked time step no row counts; the mean is over those that do
            weighted = g.buffer("weights", math.prod(y.shape[:-1]))
            g.step("losses.weights.masked", [weighted], [w, mask.flat()], scalars=[weight])
        elif weight != 1:
            weighted = g.buffer("weights", g.batch)
            g.step("prims.pointwise.scaled", [weighted], [w], scalars=[weight], rows=g.batch)
        rows = g.with_masks((mask,), functools.partial(loss.lower, g, y, t, weighted))
        found.append((rows.flat(), weight))
        g.terms.append(names[position])
        g.layer = ""
    for name, regularizer in _penalized(g.layout).items():
        g.add_penalty(g.layout.parameters[name], regularizer.l1, regularizer.l2)
    return found


def _lower_sums(g: Builder, terms: Sequence[tuple[Buffer, float]]) -> None:
    """The loss from its terms and penalties. It comes after the backward steps: so a loss's forward and backward run task by task as one group."""
    g.phase, g.layer = "loss", "loss"
    for position, (rows, weight) in enumerate(terms):
        last = position == len(terms) - 1
        g.step("losses.reduce.accumulate", updates=[g.state("sums")], reads=[rows, g.state("penalties")],
               scalars=[g.batch, position, 1 / weight, int(last)])
    for value, name in g.named_penalties():
        g.step("losses.reduce.report", updates=[g.state("sums")], reads=[value], scalars=[g.batch, len(g.terms)])
        g.terms.append(name)
    g.layer = ""


def _penalized(layout: Layout) -> dict[str, Regularizer]:
    """Regularizers by parameter; that of a frozen parameter does not count, as in Keras."""
    return {name: declared.regularizer for name, declared in layout.declared.items() if declared.regularizer is not None and declared.trainable}


def _lower_backward(g: Builder, roots: Sequence[Buffer], inputs: Sequence[Buffer]) -> tuple[Buffer, ...]:
    """The backward steps, the penalties' gradients; returns the gradients of `inputs`, zeros for those on which no loss depends."""
    g.layer = ""
    gradients = g.backward(roots)
    for name, regularizer in _penalized(g.layout).items():
        weight, dweight = g.layout.parameters[name], g.layout.gradients[name]
        g.step("losses.penalty.add_penalty_gradient", [], [weight.flat()], updates=[dweight.flat()], scalars=[regularizer.l1, regularizer.l2],
               tasks=work_tasks(0, 3 * weight.nbytes, most=-(-weight.size // PENALTY_BLOCK)))
    for x in inputs:
        if x.name not in gradients:
            gradients[x.name] = g.buffer(f"{x.name}/no_gradient", *x.shape)
            g.step("prims.pointwise.zero", [gradients[x.name].flat()])
    return tuple(gradients[x.name].reshaped(*x.shape) for x in inputs)
