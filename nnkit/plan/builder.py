"""What layers, losses and optimizers see as `g`: the `Builder`, which collects the steps of one plan.

It walks a graph forward, then backward. A layer's `lower` emits its forward steps and hands over, from the same place, the function that emits its
backward steps. What persists between steps lies where layout.py says; build.py makes whole plans.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from nnkit.plan.launch import ARCHITECTURE
from nnkit.plan.layout import Layout
from nnkit.plan.passes import work_tasks
from nnkit.plan.plan import Buffer, Step

if TYPE_CHECKING:
    from nnkit.jit import Kernel
    from nnkit.nodes import Graph, Node
    from nnkit.optimizers.base import Optimizer
    from nnkit.regularizers import ActivityRegularizer

__all__ = ["DEVICE_PENALTY_BLOCK", "PENALTY_BLOCK", "Builder", "Sizes", "Touched"]

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

    def touch_all(self, name: str, rows: Touched) -> None:
        """Take all rows of a parameter of that full name as touched, with a gradient that stands in memory already."""
        self._touched[name] = rows
        self._gradient_uses[name] = 1

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
