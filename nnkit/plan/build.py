"""From a declared graph to a plan: layers, loss and optimizer lower themselves into steps.

`Builder` walks the graph forward, then backward, and collects steps. A layer's `lower` emits its forward steps and hands over, from the same place,
the function that emits its backward steps. What persists between steps lies where layout.py says.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from nnkit.plan.launch import ARCHITECTURE
from nnkit.plan.layout import Layout
from nnkit.plan.passes import optimise, work_tasks
from nnkit.plan.plan import Buffer, Plan, Step
from nnkit.prims.csr import Csr, GraphBuffer

if TYPE_CHECKING:
    from nnkit.jit import Kernel
    from nnkit.losses.base import Loss
    from nnkit.network import Graph, Node
    from nnkit.optimizers.base import Optimizer
    from nnkit.regularizers import ActivityRegularizer, Regularizer

__all__ = ["Builder", "Sizes", "Touched", "build", "differentiable", "flush_plan", "lowered", "numbered_input", "shuffle_plan"]

# Fewest distinct rows worth a task of their gradient.
TOUCHED_STRIP = 8

# Elements of a parameter or activity whose penalty is summed in one go, and on a GPU.
PENALTY_BLOCK, DEVICE_PENALTY_BLOCK = 32768, 4096

Backward = Callable[..., "Buffer | tuple[Buffer | None, ...] | None"]


@attrs.frozen(cache_hash=True)                           # every look for a bound plan asks for it
class Sizes:
    """What a plan depends on besides the batch where sparse matrices come in: nodes V of the graph, and for each matrix its entries, by name.

    even: names of those matrices, and of their transposes (`Csr.external`), whose entries lie evenly enough that blocks may take rows: see
    `csr.is_even`. A plan for a device is faster for knowing it; it is right for any matrix of these sizes.
    """

    nodes: int = 0
    entries: tuple[tuple[str, int], ...] = ()
    even: tuple[str, ...] = ()


@attrs.frozen
class Touched:
    """The rows of a parameter that a batch touches: their numbers `rows`, each once, of which the first count[0] count, and where among the indices
    each occurs: see prims/touched_cpu.py."""

    rows: Buffer
    link: Buffer
    count: Buffer

    def part(self, gradient: Buffer) -> Buffer:
        """Where the gradient of these rows stands in that of the whole: in as many of its first rows as there are places, as a matrix."""
        return attrs.evolve(gradient, shape=(self.rows.size, *gradient.shape[1:])).rows()

    def add_up(self, g: Builder, gradient: Buffer, dy: Buffer) -> None:
        """gradient[j] = the sum of dy over the indices that name rows[j], in their order. Shapes: gradient (places, D), dy (indices, D)."""
        tasks = work_tasks(0, gradient.nbytes + 2 * dy.nbytes, most=-(-gradient.shape[0] // TOUCHED_STRIP))
        g.step("prims.touched.add_up", [gradient], [self.link, self.count, dy], tasks=tasks)


class Builder:
    """Collects the steps of one plan. Layers, losses and optimizers see it as `g` in `lower`.

    training: whether layers behave as in training (dropout, batch statistics). batch: samples per step (N). dtype: of T buffers. backend: "cpu" or
    "cuda", for steps that only one of them has: a CPU packs what a GPU reads as it is. architecture: of the GPU, for those that only some have.
    precision: of its large products.
    """

    def __init__(self, layout: Layout, batch: int, mode: str, optimizer: Optimizer | None = None, sizes: Sizes | None = None,
                 backend: str = "cpu", architecture: tuple[int, int] = ARCHITECTURE, precision: str = "float32") -> None:
        self.layout = layout
        self.optimizer = optimizer
        self.batch = batch
        self.sizes = sizes or Sizes()
        self.mode = mode
        self.backend = backend
        self.architecture = architecture
        self.precision = precision
        self.training = mode in ("train", "gradients", "features")
        self.dtype = layout.dtype
        self.steps: list[Step] = []
        self.phase = "forward"
        self.layer = ""
        self.terms: list[str] = []                       # names of the parts of the loss, in their order in "sums"
        self._names: dict[str, int] = {}
        self._streams = 0
        self._penalties: list[str | None] = []
        self._tape: list[tuple[str, tuple[Buffer, ...], tuple[Buffer, ...], Backward]] = []
        self._gradient_uses: dict[str, int] = {}
        self._touched: dict[str, Touched] = {}           # by parameter
        self._pending: list[tuple[Buffer, Buffer]] = []
        self._scope: Node | None = None
        self._source_masks: tuple[Buffer | None, ...] = ()      # of the node that is being lowered
        self._masks: tuple[Buffer | None, ...] | None = None    # that it has set for its outputs

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
        Of one for which `touched` gave rows, the gradient has as many rows as there are places for them, and only those that count are written.
        """
        assert self._scope is not None
        full = f"{self._scope.name}/{name}"
        if full not in self.layout.gradients:
            return self.buffer(f"{name}/frozen", *self.layout.parameters[full].shape, role="workspace")
        uses = self._gradient_uses[full] = self._gradient_uses.get(full, 0) + 1
        target = self.layout.gradients[full]
        if full in self._touched:
            target = self._touched[full].part(target)
        if uses == 1:
            return target
        extra = self.buffer(f"{name}/gradient", *target.shape, role="workspace")
        self._pending.append((target, extra))
        return extra

    def touched(self, name: str, indices: Buffer) -> Touched | None:
        """The rows of the current layer's parameter of that name, declared `rowwise`, that the batch reads; they are brought up to date.

        indices: vector of int32. A layer calls it before the step that reads the parameter. None: the gradient of the whole is asked for.
        """
        assert self._scope is not None
        full = f"{self._scope.name}/{name}"
        if self.mode != "train" or full not in self.layout.rowwise:
            return None
        assert self.optimizer is not None
        if full in self._touched:
            raise TypeError(f"layer {self.layer!r}: parameter {full!r} is read twice, so it must not be declared rowwise")
        V = self.layout.parameters[full].shape[0]
        most = min(V, indices.size)
        rows, link, count = (self.buffer(f"{name}/{what}", size, dtype=dtype)
                             for what, size, dtype in (("rows", most, "int32"), ("link", most + indices.size, "int32"), ("count", 1, "int64")))
        scratch = [self.scratch(f"{name}/{what}", size, dtype="int32") for what, size in (("slot", V), ("tail", most))]
        self.step("prims.touched.distinct", [rows, link, count], [indices], scratch=scratch)
        self.optimizer.lower_missed(self, full, rows, count)
        self._touched[full] = Touched(rows, link, count)
        return self._touched[full]

    def touched_gradients(self) -> dict[str, tuple[Touched, Buffer]]:
        """The rows that `touched` gave and their gradients, by parameter; those that no loss depends on have none."""
        missing = [name for name in self.layout.rowwise if name not in self._touched]
        if missing:
            raise TypeError(f"parameter {missing[0]!r} is declared rowwise, but its layer does not say by g.touched which rows a batch reads")
        return {name: (touched, touched.part(self.layout.gradients[name])) for name, touched in self._touched.items() if name in self._gradient_uses}

    def state(self, name: str) -> Buffer:
        """One of the persistent vectors: counters, sums, learning_rates, parameters, gradients, optimizer/..."""
        return self.layout.buffers[name]

    def penalty(self, name: str | None = None) -> Buffer:
        """One number of the vector "penalties": what a step writes there (=) counts into the loss.

        With a name it is also reported as a part of the loss of its own ("kl" as "kl_loss"); of two of one name the later is numbered.
        There is room for one each for every parameter and every call of a layer; more raise ValueError.
        """
        if len(self._penalties) == self.layout.buffers["penalties"].size:
            raise ValueError(f"layer {self.layer!r}: a network has room for {len(self._penalties)} penalties, one for each parameter and layer")
        self._penalties.append(name)
        return self._penalty(len(self._penalties) - 1)

    def named_penalties(self) -> list[tuple[Buffer, str]]:
        """The penalties that are reported, each with its name, unlike all others."""
        found: list[tuple[Buffer, str]] = []
        for number, name in enumerate(self._penalties):
            if name is not None:
                taken = [other for _, other in found] + self.terms
                places = [name, *(f"{name}_{k}" for k in range(1, len(taken) + 1))]
                found.append((self._penalty(number), next(place for place in places if place not in taken)))
        return found

    @staticmethod
    def _penalty(number: int) -> Buffer:
        return Buffer(f"penalties/{number + 1}", (1,), "float64", "state", ("penalties", number))

    def penalize(self, y: Buffer, regularizer: ActivityRegularizer | None) -> Buffer:
        """Add the regularizer's penalty on the activity y to the loss; returns y."""
        if regularizer is not None and self.mode != "predict":
            regularizer.lower(self, y)
        return y

    def add_penalty(self, x: Buffer, l1: float, l2: float) -> None:
        """Add l1 sum |x| + l2 sum x^2 to the loss."""
        self.add_blocks("losses.penalty.penalty", [x.flat()], [l1, l2], flops=4 * x.size)

    def add_blocks(self, kernel: str, reads: Sequence[Buffer], scalars: Sequence[float], *, flops: int, name: str | None = None) -> None:
        """Add to the loss what a kernel makes of vectors of one size: block by block where they are large, then the blocks in their order.

        The kernel writes a number for each block, and takes the size of a block as its last scalar. name: see `penalty`.
        """
        value = self.penalty(name)
        block = DEVICE_PENALTY_BLOCK if self.backend == "cuda" else PENALTY_BLOCK
        blocks = max(1, -(-reads[0].size // block))
        parts = value if blocks == 1 else self.buffer("penalty_blocks", blocks, dtype="float64")
        tasks = work_tasks(flops, sum(x.nbytes for x in reads), most=blocks)
        self.step(kernel, [parts], reads, scalars=[*scalars, block], tasks=tasks, flops=flops)
        if blocks > 1:
            self.step("losses.penalty.penalty_total", [value], [parts])

    def stream(self) -> int:
        """A number that no other random stream of the network has; the same in every plan of one network."""
        self._streams += 1
        return self._streams

    def step(self, kernel: str | Kernel, writes: Sequence[Buffer] = (), reads: Sequence[Buffer] = (), *, updates: Sequence[Buffer] = (),
             scratch: Sequence[Buffer] = (), scalars: Sequence[float | int] = (), tasks: int = 1, rows: int = 0, grain: int = 1, places: int = 1,
             gathers: Sequence[int] = (), flops: int = 0, in_place: bool = False, relu: bool = False, gate: bool = False, pool: int | None = None,
             cells: bool = False, filters: tuple[Buffer, Buffer] | None = None, logits: Mapping[str, str] | None = None) -> None:
        """Emit a step; see `plan.Step` for the arguments. kernel: its name ("layers.dense.dense_forward"), or the kernel itself."""
        name = kernel if isinstance(kernel, str) else getattr(kernel, "step", None)
        if name is None:
            raise TypeError(f"layer {self.layer!r}: a step's kernel must be a kernel or its name, received {kernel!r}: declare it with @kernel")
        self.steps.append(Step(
            kernel=name, layer=self.layer, phase=self.phase, writes=tuple(writes), updates=tuple(updates), reads=tuple(reads),
            scratch=tuple(scratch), scalars=tuple(scalars), tasks=tasks, rows=rows, grain=grain, places=places, gathers=tuple(gathers), flops=flops,
            in_place=in_place, relu=relu, gate=gate, pool=pool, cells=cells, filters=filters, logits=tuple((logits or {}).items())))

    def on_backward(self, y: Buffer | Sequence[Buffer], xs: Sequence[Buffer], emit: Backward) -> None:
        """`emit(dy)` emits the backward steps of what made y from xs, and returns dx for each x (None where there is no gradient).

        y may be several buffers; emit then takes as many gradients, None for one on which no loss depends, but never only such.
        """
        self._tape.append((self.layer, (y,) if isinstance(y, Buffer) else tuple(y), tuple(xs), emit))

    def mask(self, position: int = 0) -> Buffer | None:
        """The mask (N, T) of the layer's input of that number: 1 for the time steps that count, 0 for the others. None: all count."""
        return self._source_masks[position] if position < len(self._source_masks) else None

    def with_masks(self, masks: tuple[Buffer | None, ...], emit: Callable[[], Any]) -> Any:
        """Run `emit` as if the inputs had these masks: what a layer lowers inside may see other steps."""
        before, self._source_masks = self._source_masks, masks
        try:
            return emit()
        finally:
            self._source_masks = before

    def set_masks(self, *masks: Buffer | None) -> None:
        """The masks of the layer's outputs, where they are not what `keeps_mask` says."""
        self._masks = masks

    # Walking the graph.

    def within(self, node: Node, emit: Callable[[], Any]) -> Any:
        """Run `emit` with buffers and steps named after the node's layer."""
        before = self._scope, self.layer
        self._scope, self.layer = node, node.name
        try:
            return emit()
        finally:
            self._scope, self.layer = before

    def forward(self, graph: Graph, inputs: Sequence[Buffer]) -> list[tuple[Buffer, Buffer | None]]:
        """Emit the forward steps of a graph; returns its outputs, each with its mask."""
        values: list[tuple[tuple[Buffer, Buffer | None], ...]] = []
        given = iter(inputs)
        for node in graph.nodes:
            if not node.inputs:
                values.append(((next(given), None),))
                continue
            sources = [values[index][output] for index, output in node.inputs]
            values.append(self.within(node, functools.partial(self._lowered, node, sources)))
        return [values[index][output] for index, output in graph.outputs]

    def _lowered(self, node: Node, sources: Sequence[tuple[Buffer, Buffer | None]]) -> tuple[tuple[Buffer, Buffer | None], ...]:
        """The node's outputs with their masks."""
        self._source_masks, self._masks = tuple(mask for _, mask in sources), None
        made = self._scoped_lowering(node, functools.partial(node.layer.lower, self, *(x for x, _ in sources)))
        ys = made if isinstance(made, tuple) else (made,)
        masks = self._masks if self._masks is not None else (self._common_mask(ys[0]),) if node.layer.keeps_mask else (None,) * len(ys)
        return tuple(zip(ys, masks, strict=True))

    def _common_mask(self, y: Buffer) -> Buffer | None:
        """1 where all masks of the node's inputs are 1, as far as they have the time steps of y."""
        masks = list(dict.fromkeys(mask for mask in self._source_masks if mask is not None and mask.shape == y.shape[:2]))
        while len(masks) > 1:
            both = self.buffer("mask", *masks[0].shape)
            self.step("prims.pointwise.product_of_two", [both.rows()], [masks[0].rows(), masks[1].rows()], rows=self.batch)
            masks[:2] = [both]
        return masks[0] if masks else None

    def _scoped_lowering(self, node: Node, emit: Callable[[], Any]) -> Any:
        """The node's lowering; its backward functions will run in the scope of the same node."""
        start = len(self._tape)
        y = emit()
        for index in range(start, len(self._tape)):
            layer, out, xs, backward = self._tape[index]
            self._tape[index] = (layer, out, xs, lambda *dys, node=node, backward=backward: self.within(node, lambda: backward(*dys)))  # type: ignore[misc]
        return y

    def backward(self, roots: Sequence[Buffer]) -> dict[str, Buffer]:
        """Emit the backward steps from the losses `roots`; returns the gradients that reached buffers which nothing produced: the inputs."""
        self.phase = "backward"
        gradients: dict[str, Buffer] = {root.name: root for root in roots}
        while self._tape:
            layer, ys, xs, emit = self._tape.pop()
            dys = [gradients.pop(y.name, None) for y in ys]
            if all(dy is None for dy in dys):
                continue
            self.layer = layer
            dxs = emit(*(dy if dy is None else dy.reshaped(*y.shape) for y, dy in zip(ys, dys, strict=True)))
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
        total = self.buffer("gradient_sum", *x.shape)
        self.step("prims.pointwise.sum_of_two", [total.rows()], [first.rows(), second.rows()], in_place=True, rows=x.shape[0],
                  places=x.places, flops=x.size)
        return total


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
