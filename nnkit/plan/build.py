"""From a declared graph to a plan: layers, loss and optimizer lower themselves into steps.

`Layout` says what a model keeps between steps (parameters, gradients, optimizer state, constants) and where; every plan of the model shares
it. `Builder` walks the graph forward, then backward, and collects steps. A layer's `lower` emits its forward steps and hands over, from the
same place, the function that emits its backward steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from nnkit.plan.arena import aligned
from nnkit.plan.passes import optimise, work_tasks
from nnkit.plan.plan import ALIGNMENT, ITEMSIZE, Buffer, Plan, Step

if TYPE_CHECKING:
    from nnkit.losses.base import Loss
    from nnkit.network import Graph, Node
    from nnkit.optimizers.base import Optimizer
    from nnkit.regularizers import Regularizer

__all__ = ["COUNTERS", "LEARNING_RATES", "STREAMS", "SUMS", "Builder", "Layout", "build", "lay_out", "shuffle_plan"]

# What a step counts, in the int64 buffer "counters": finished updates; where the batch begins in the order of samples; the seed of all
# random streams; the update at which the table of learning rates begins, and how many rates it holds; finished epochs.
COUNTERS = {"step": 0, "position": 1, "seed": 2, "table_start": 3, "table_size": 4, "epoch": 5}
# Random streams that belong to no layer; layers count from 1: see Builder.stream.
STREAMS = {"shuffle": 0}
# Sums over steps, in the float64 buffer "sums": batch loss times batch size; samples; the last batch's loss.
SUMS = {"loss": 0, "samples": 1, "last": 2}
# Learning rates of the coming updates, in the float64 buffer "learning_rates".
LEARNING_RATES = 1024

# Elements of a parameter or activity whose penalty is summed in one go.
PENALTY_BLOCK = 32768

Backward = Callable[[Buffer], "Buffer | tuple[Buffer | None, ...] | None"]


@attrs.frozen
class Layout:
    """The persistent block: buffers with byte offsets, and which pieces of the flat vectors belong to which parameter.

    parameters: name ("dense/kernel") -> piece of the vector "parameters"; gradients likewise, for trainable parameters alone. The trainable
    ones come first, so that one optimizer step covers them in one sweep of `trainable_size` elements.
    """

    dtype: str
    offsets: Mapping[str, int]
    buffers: Mapping[str, Buffer]
    parameters: Mapping[str, Buffer]
    gradients: Mapping[str, Buffer]
    declared: Mapping[str, Any]
    trainable_size: int
    nbytes: int


def lay_out(graph: Graph, optimizer: Optimizer | None, dtype: str) -> Layout:
    """The layout of a model's persistent memory."""
    declared = graph.parameters()
    names = sorted(declared, key=lambda name: not declared[name].trainable)      # stable: the graph's order within both parts
    pieces: dict[str, tuple[tuple[int, ...], int]] = {}
    position = trainable_size = 0
    unit = ALIGNMENT // ITEMSIZE[dtype]
    for name in names:
        pieces[name] = (declared[name].shape, position)
        position += aligned(declared[name].size, unit)
        if declared[name].trainable:
            trainable_size = position
    vectors = {"parameters": Buffer("parameters", (position,), dtype, "parameter"),
               "gradients": Buffer("gradients", (trainable_size,), dtype, "gradient")}
    for state in optimizer.states() if optimizer is not None else ():
        vectors[f"optimizer/{state}"] = Buffer(f"optimizer/{state}", (trainable_size,), dtype, "state")
    vectors["penalties"] = Buffer("penalties", (max(1, len(names) + len(graph.nodes)),), "float64", "state")
    vectors["counters"] = Buffer("counters", (8,), "int64", "state")
    vectors["sums"] = Buffer("sums", (8,), "float64", "state")
    vectors["learning_rates"] = Buffer("learning_rates", (LEARNING_RATES,), "float64", "state")
    offsets, end = {}, 0
    for name, buffer in vectors.items():
        offsets[name] = end
        end += aligned(buffer.nbytes)
    inside = {name: Buffer(name, shape, dtype, "parameter", ("parameters", at)) for name, (shape, at) in pieces.items()}
    gradients = {name: Buffer(f"{name}/gradient", shape, dtype, "gradient", ("gradients", at))
                 for name, (shape, at) in pieces.items() if declared[name].trainable}
    return Layout(dtype=dtype, offsets=offsets, buffers=vectors, parameters=inside, gradients=gradients, declared=declared,
                  trainable_size=trainable_size, nbytes=end)


class Builder:
    """Collects the steps of one plan. Layers, losses and optimizers see it as `g` in `lower`.

    training: whether layers behave as in training (dropout, batch statistics). batch: samples per step (N). dtype: of T buffers.
    """

    def __init__(self, layout: Layout, batch: int, mode: str) -> None:
        self.layout = layout
        self.batch = batch
        self.mode = mode
        self.training = mode in ("train", "gradients")
        self.dtype = layout.dtype
        self.steps: list[Step] = []
        self.phase = "forward"
        self.layer = ""
        self._names: dict[str, int] = {}
        self._streams = 0
        self._penalties = 0
        self._tape: list[tuple[str, Buffer, tuple[Buffer, ...], Backward]] = []
        self._gradient_uses: dict[str, int] = {}
        self._pending: list[tuple[Buffer, Buffer]] = []
        self._scope: Node | None = None

    # What a layer asks for.

    def buffer(self, name: str, *shape: int, role: str = "activation", dtype: str = "T") -> Buffer:
        """A new buffer of the arena, named after the current layer; shape includes the batch."""
        full = f"{self.layer}/{name}" if self.layer else name
        count = self._names[full] = self._names.get(full, 0) + 1
        return Buffer(full if count == 1 else f"{full}#{count}", shape, self.dtype if dtype == "T" else dtype, role)

    def scratch(self, name: str, *shape: int, dtype: str = "T") -> Buffer:
        """Memory that one step uses and nobody reads afterwards."""
        return self.buffer(name, *shape, role="workspace", dtype=dtype)

    def parameter(self, name: str) -> Buffer:
        """The current layer's parameter of that name."""
        assert self._scope is not None
        return self.layout.parameters[f"{self._scope.name}/{name}"]

    def gradient(self, name: str) -> Buffer:
        """Where the gradient of that parameter is to be written (=).

        A parameter that is used twice has its second gradient written elsewhere and added; of a frozen one it is written and not read.
        """
        assert self._scope is not None
        full = f"{self._scope.name}/{name}"
        if full not in self.layout.gradients:
            return self.buffer(f"{name}/frozen", *self.layout.parameters[full].shape, role="workspace")
        uses = self._gradient_uses[full] = self._gradient_uses.get(full, 0) + 1
        target = self.layout.gradients[full]
        if uses == 1:
            return target
        extra = self.buffer(f"{name}/gradient", *target.shape, role="workspace")
        self._pending.append((target, extra))
        return extra

    def state(self, name: str) -> Buffer:
        """One of the persistent vectors: counters, sums, learning_rates, parameters, gradients, optimizer/..."""
        return self.layout.buffers[name]

    def penalty(self) -> Buffer:
        """One number of the vector "penalties": what a step writes there (=) counts into the loss."""
        self._penalties += 1
        return Buffer(f"penalties/{self._penalties}", (1,), "float64", "state", ("penalties", self._penalties - 1))

    def penalize(self, y: Buffer, regularizer: Regularizer | None) -> Buffer:
        """Add the regularizer's penalty on the activity y, divided by the batch size, to the loss; returns y."""
        if regularizer is None or self.mode == "predict":
            return y
        l1, l2 = regularizer.l1 / self.batch, regularizer.l2 / self.batch
        self.add_penalty(y, l1, l2)

        def backward(dy: Buffer) -> Buffer:
            dx = self.buffer("activity_dx", *y.shape)
            reads = [dy.rows(), y.rows()]
            self.step("losses.penalty.penalty_gradient", [dx.rows()], reads, scalars=[l1, l2], rows=y.shape[0], in_place=True)
            return dx
        self.on_backward(y, [y], backward)               # met before what made y: it adds to y's gradient
        return y

    def add_penalty(self, x: Buffer, l1: float, l2: float) -> None:
        """Add l1 sum |x| + l2 sum x^2 to the loss: block by block where x is large, then the blocks in their order."""
        value = self.penalty()
        blocks = max(1, -(-x.size // PENALTY_BLOCK))
        parts = value if blocks == 1 else self.buffer("penalty_blocks", blocks, dtype="float64")
        self.step("losses.penalty.penalty", [parts], [x.flat()], scalars=[l1, l2, PENALTY_BLOCK], tasks=work_tasks(0, x.nbytes, most=blocks),
                  flops=4 * x.size)
        if blocks > 1:
            self.step("losses.penalty.penalty_total", [value], [parts])

    def stream(self) -> int:
        """A number that no other random stream of the network has; the same in every plan of one network."""
        self._streams += 1
        return self._streams

    def step(self, kernel: str, writes: Sequence[Buffer] = (), reads: Sequence[Buffer] = (), *, updates: Sequence[Buffer] = (),
             scratch: Sequence[Buffer] = (), scalars: Sequence[float | int] = (), tasks: int = 1, rows: int = 0, grain: int = 1, flops: int = 0,
             in_place: bool = False, logits: Mapping[str, str] | None = None) -> None:
        """Emit a step; see `plan.Step` for the arguments."""
        self.steps.append(Step(
            kernel=kernel, layer=self.layer, phase=self.phase, writes=tuple(writes), updates=tuple(updates), reads=tuple(reads),
            scratch=tuple(scratch), scalars=tuple(scalars), tasks=tasks, rows=rows, grain=grain, flops=flops, in_place=in_place,
            logits=tuple((logits or {}).items())))

    def on_backward(self, y: Buffer, xs: Sequence[Buffer], emit: Backward) -> None:
        """`emit(dy)` emits the backward steps of what made y from xs, and returns dx for each x (None where there is no gradient)."""
        self._tape.append((self.layer, y, tuple(xs), emit))

    # Walking the graph.

    def within(self, node: Node, emit: Callable[[], Any]) -> Any:
        """Run `emit` with buffers and steps named after the node's layer."""
        before = self._scope, self.layer
        self._scope, self.layer = node, node.name
        try:
            return emit()
        finally:
            self._scope, self.layer = before

    def forward(self, graph: Graph, inputs: Sequence[Buffer]) -> list[Buffer]:
        """Emit the forward steps of a graph; returns its outputs."""
        values: list[Buffer] = []
        given = iter(inputs)
        for node in graph.nodes:
            if not node.inputs:
                values.append(next(given))
                continue
            sources = [values[index] for index in node.inputs]
            emit = functools.partial(node.layer.lower, self, *sources)
            values.append(self.within(node, functools.partial(self._scoped_lowering, node, emit)))
        return [values[index] for index in graph.outputs]

    def _scoped_lowering(self, node: Node, emit: Callable[[], Buffer]) -> Buffer:
        """The node's lowering; its backward functions will run in the scope of the same node."""
        start = len(self._tape)
        y = emit()
        for index in range(start, len(self._tape)):
            layer, out, xs, backward = self._tape[index]
            self._tape[index] = (layer, out, xs, lambda dy, node=node, backward=backward: self.within(node, lambda: backward(dy)))  # type: ignore[misc]
        return y

    def backward(self, root: Buffer) -> dict[str, Buffer]:
        """Emit the backward steps from the loss `root`; returns the gradients that reached buffers which nothing produced: the inputs."""
        self.phase = "backward"
        gradients: dict[str, Buffer] = {root.name: root}
        while self._tape:
            layer, y, xs, emit = self._tape.pop()
            dy = gradients.pop(y.name, None)
            if dy is None:
                continue
            self.layer = layer
            dxs = emit(dy.reshaped(*y.shape))
            for x, dx in zip(xs, dxs if isinstance(dxs, tuple) else (dxs,), strict=True):
                if dx is not None:
                    gradients[x.name] = self._sum(x, gradients[x.name], dx) if x.name in gradients else dx
            for target, extra in self._pending:
                self.step("prims.pointwise.add", [], [extra.flat()], updates=[target.flat()])
            self._pending.clear()
        self.layer = ""
        return gradients

    def _sum(self, x: Buffer, first: Buffer, second: Buffer) -> Buffer:
        """x feeds two places: its gradient is the sum of both, in the order in which backward meets them."""
        total = Buffer(f"{first.name}+{second.name.rpartition('/')[2]}", x.shape, x.dtype, "activation")
        self.step("prims.pointwise.sum_of_two", [total.flat()], [first.flat(), second.flat()], in_place=True, rows=0)
        return total


def build(graph: Graph, layout: Layout, mode: str, batch: int, *, loss: Loss | None = None, optimizer: Optimizer | None = None,
          keep_predictions: bool = False, input_gradients: bool = False, gap: int = 0) -> Plan:
    """The plan of one step.

    mode: 'train' (gather, forward, loss, backward, update), 'gradients' (the same without update), 'evaluate' (inference and loss),
    'predict' (inference). keep_predictions: write every batch's output to the external array "predictions". gap: see `arena.place`.
    """
    g = Builder(layout, batch, mode)
    inputs = [_feed(g, f"x{position}" if position else "x", shape) for position, shape in enumerate(graph.input_shapes)]
    outputs = g.forward(graph, inputs)
    kept: list[Buffer] = []
    if mode == "predict" or keep_predictions:
        y = outputs[0].rows()
        g.step("prims.feed.scatter", [Buffer("predictions", (0, *y.shape[1:]), g.dtype, "external")], [y, g.state("counters")], rows=batch)
    if mode != "predict":
        assert loss is not None
        kept += _lower_loss(g, loss, outputs[0], inputs if input_gradients else [])
    if mode == "train":
        assert optimizer is not None
        g.phase = "update"
        optimizer.lower(g, layout)
    if mode != "gradients":
        g.step("prims.feed.advance", updates=[g.state("counters")], scalars=[batch, int(mode == "train")])
    return optimise(Plan(mode=mode, batch=batch, dtype=layout.dtype, steps=tuple(g.steps), outputs=tuple(kept)), gap)


def shuffle_plan(layout: Layout) -> Plan:
    """The plan of one step that draws a new order of the samples."""
    order = Buffer("order", (0,), "int64", "external")
    step = Step(kernel="prims.random.shuffle", layer="", phase="feed", writes=(order,), reads=(layout.buffers["counters"],))
    return optimise(Plan(mode="shuffle", batch=0, dtype=layout.dtype, steps=(step,)))


def _feed(g: Builder, name: str, shape: tuple[int, ...], dtype: str = "T") -> Buffer:
    """The batch's rows of one array of the data set: in the order given by "order" while training, one after the other elsewhere."""
    x = g.buffer(name, g.batch, *shape, role="input", dtype=dtype)
    source = Buffer(f"{name}/data", (0, *x.rows().shape[1:]), x.dtype, "external")
    order = Buffer("order" if g.mode == "train" else "no_order", (0,), "int64", "external")      # left unbound, it is empty
    kernel = "gather_labels" if dtype == "int32" else "gather_rows"
    g.step(f"prims.feed.{kernel}", [x.rows()], [source, order, g.state("counters")], rows=g.batch)
    return x


def _lower_loss(g: Builder, loss: Loss, y: Buffer, inputs: Sequence[Buffer]) -> list[Buffer]:
    """Targets, loss, penalties, and backward where the mode asks for it; returns the gradients of `inputs`."""
    g.phase = "loss"
    target_shape, target_dtype = loss.target(y.shape[1:])
    t = _feed(g, "target", target_shape, target_dtype)
    w = _feed(g, "sample_weight", ())
    g.layer = "loss"
    rows = loss.lower(g, y, t, w)
    penalized = {name: declared.regularizer for name, declared in g.layout.declared.items()
                 if declared.regularizer is not None and declared.trainable}         # that of a frozen parameter does not count, as in Keras
    for name, regularizer in penalized.items():
        g.add_penalty(g.layout.parameters[name], regularizer.l1, regularizer.l2)
    g.step("losses.reduce.accumulate", updates=[g.state("sums")], reads=[rows.flat(), g.state("penalties")], scalars=[g.batch])
    if not g.training:
        return []
    gradients = g.backward(rows)
    for name, regularizer in penalized.items():
        weight, dweight = g.layout.parameters[name], g.layout.gradients[name]
        g.step("losses.penalty.add_penalty_gradient", [], [weight.flat()], updates=[dweight.flat()], scalars=[regularizer.l1, regularizer.l2],
               tasks=work_tasks(0, 3 * weight.nbytes, most=-(-weight.size // PENALTY_BLOCK)))
    return [gradients[x.name] for x in inputs]
