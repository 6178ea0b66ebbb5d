"""A chain of products for a device with its arrays in shared memory: what a step of the chain leaves for the next never goes to global memory.

`onto_chip` looks for the chain, see `Chain.found`: row-local steps that one launch runs one after the other, two Dense products of at most WIDEST
outputs among them, and only kernels that need no arrays in global memory. Then, as steps of their own that the plan shows:

- weights and biases of the chain are brought into the shared memory of each block once, together with the batch's rows (prims/chip_cuda.py);
- whatever the chain alone writes and reads lies there, a block having its own rows of it (role "chip_rows"); the rest stays where it was;
- gradients of weights are summed over a block's rows in the same launch; the next one adds these parts up, in their order, and goes on to the update.

The chain stays as it was where one of these rules fails, or where its arrays do not fit. Kernels are the same on chip and elsewhere, but for those of
products and of what comes: the code of a launch says for each array where it lies (launch.coded).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import attrs

from nnkit.plan.arena import aligned, in_arena, place
from nnkit.plan.launch import DEVICE, MOST_SHARED, TALL, into_launches, lanes_of, regions, scratch_bytes
from nnkit.plan.plan import CHIP, ITEMSIZE, Buffer, Plan, Step
from nnkit.plan.products import size_products

__all__ = ["onto_chip", "spare_counters"]

WIDEST = 128                                             # outputs of a product
MOST_BLOCKS = 2 * DEVICE                                 # more would leave more parts of the gradients than it costs to write the arrays themselves
# Blocks squared for each row of the batch: a block's products cost in proportion to its rows, the parts in proportion to the blocks. From counts of
# instructions and bytes; no device has been asked yet.
BALANCE = 40
LEAST_ROWS = 4                                           # of a block, where a batch has them: below, too little of the weights' copy is used
FORWARD, WEIGHT, INPUT = (f"layers.dense.dense_{name}" for name in ("forward", "backward_weight", "backward_input_whole"))
GATHERS = ("prims.feed.gather_rows", "prims.feed.gather_labels")
# Kernels that may read and write shared memory: all but those that copy to it on their own.
ALLOWED = ("layers.activation.", "layers.dropout.", "layers.noise.", "layers.norm.layer_norm_", "layers.merge.", "layers.softmax.", "losses.",
           "prims.feed.", "prims.pointwise.")


def spare_counters(plan: Plan) -> Plan:
    """Let the update read a copy of the counters, made where nothing has to wait for it: so they count on while it is running, not after it."""
    last = plan.steps[-1] if plan.steps else None
    readers = [step for step in plan.steps if step.phase == "update" and any(buffer.name == "counters" for buffer in step.reads)]
    if last is None or last.kernel != "prims.feed.advance" or not readers:
        return plan
    counters = last.updates[0]
    now = attrs.evolve(counters, name="counters/now", role="workspace")
    copied = Step(kernel="prims.feed.copy_counters", layer="", phase="feed", writes=(now,), reads=(counters,))
    changes = {id(step): [attrs.evolve(step, reads=tuple(now if buffer.name == counters.name else buffer for buffer in step.reads))]
               for step in readers}
    changed = plan.replaced(changes)
    return attrs.evolve(changed, steps=(copied, *changed.steps))


def onto_chip(plan: Plan, precision: str = "float32", shared: int = MOST_SHARED) -> Plan:
    """The plan with a chain on chip, or as it is. precision: of the products that do not go there. shared: bytes of shared memory of a block."""
    if sum(step.kernel == FORWARD and step.reads[1].shape[1] <= WIDEST for step in plan.steps) < 2:
        return plan
    for lane in (lane for lanes in lanes_of(into_launches(plan)) for lane in lanes):
        chain = Chain.found(plan, {_key(step) for step in lane})
        moved = chain.moved(precision, shared) if chain is not None else None
        if moved is not None:
            return moved
    return plan


def _allowed(step: Step) -> bool:
    """Whether the step may work on shared memory."""
    return step.kernel in (FORWARD, INPUT) or step.kernel.startswith(ALLOWED)


def _key(step: Step) -> tuple[str, str, str, tuple[str, ...]]:
    """What tells steps apart, whatever their tasks."""
    return step.kernel, step.layer, step.phase, tuple(buffer.name for buffer in step.buffers)


def width_on_chip(outputs: int) -> int:
    """Elements of a row of a weight: four times an odd number. See prims/chip_cuda.py."""
    return 4 * (-(-outputs // 4) | 1)


@attrs.frozen
class Chain:
    """A chain that may go on chip. steps: its own; weights: the Dense steps elsewhere whose gradients its rows make."""

    plan: Plan
    steps: tuple[Step, ...]
    weights: tuple[Step, ...]

    @classmethod
    def found(cls, plan: Plan, lane: set[tuple[str, str, str, tuple[str, ...]]]) -> Chain | None:
        """The chain of a lane's steps, where all of its kernels are allowed and its products are two at least and none is too wide. What the lane
        begins with and is not allowed, such as a product with a sparse matrix, stays before it as it is."""
        steps = tuple(itertools.dropwhile(lambda step: not _allowed(step), [step for step in plan.steps if _key(step) in lane]))
        products = [step for step in steps if step.kernel in (FORWARD, INPUT)]
        if len([step for step in products if step.kernel == FORWARD]) < 2 or any(step.reads[1].shape[1] > WIDEST for step in products):
            return None
        if not all(step.rows and _allowed(step) for step in steps):
            return None
        made = {buffer.name for step in steps for buffer in step.writes}
        weights = tuple(step for step in plan.steps if step.kernel == WEIGHT and step.writes[0].inside is not None
                        and all(buffer.inside is not None or not buffer.size for buffer in step.writes)
                        and all(buffer.name in made for buffer in step.reads[:2]))
        return cls(plan, steps, weights)

    @property
    def rows(self) -> int:
        """Rows of the chain."""
        return self.steps[0].rows

    @property
    def own(self) -> tuple[Step, ...]:
        """Steps of the chain and of its weights' gradients, in the plan's order."""
        kept = {id(step) for step in (*self.steps, *self.weights)}
        return tuple(step for step in self.plan.steps if id(step) in kept)

    def moved(self, precision: str, shared: int) -> Plan | None:
        """The plan with this chain on chip, or None where it does not fit."""
        runs = self._runs()
        steps = None if runs is None else self._placed(runs, shared)
        if runs is None or steps is None:
            return None
        prologue, chain, sums = steps
        tasks = chain[0].tasks
        changes = {id(old): [] if old.kernel in GATHERS and _chip(new) else [new] for old, new in zip(self.own, chain, strict=True)}
        changes[id(self.own[0])] = [*prologue, *changes[id(self.own[0])]]
        last = self.own[-1]
        changes[id(last)] = [*changes[id(last)], *sums]
        plan = self.plan.replaced(changes)
        chip, end = _laid_out([*prologue, *chain], tasks, plan)
        plan = attrs.evolve(plan, steps=tuple(_by_elements(step, sums) for step in plan.steps), chip=chip, chip_bytes=end)
        lanes = [lane for lanes in lanes_of(into_launches(size_products(plan, precision))) for lane in lanes if any(step.on_chip for step in lane)]
        return plan if len(lanes) == 1 else None         # too many steps or words for one launch otherwise

    def _runs(self) -> list[tuple[int, int]] | None:
        """The stretches of the vector "gradients" that the chain's weights fill, as first element and size, what aligns them among it; None where
        others work on them before the last of the chain's steps."""
        pieces = sorted((buffer.inside[1], _whole(buffer)) for step in self.weights for buffer in step.writes if buffer.inside and buffer.size)
        runs: list[tuple[int, int]] = []
        for first, size in pieces:
            if runs and sum(runs[-1]) == first:
                runs[-1] = runs[-1][0], runs[-1][1] + size
            elif runs and sum(runs[-1]) > first:         # a weight that two layers share
                return None
            else:
                runs.append((first, size))
        if not self.weights:
            return runs
        own = {id(step) for step in self.own}
        end = max(position for position, step in enumerate(self.plan.steps) if id(step) in own)
        mine = [each for step in self.weights for each in regions(step.writes, self.plan)]
        others = [each for step in self.plan.steps[:end] if id(step) not in own for each in regions(step.buffers, self.plan)]
        meet = any(name == other and start < stop and begin < finish for name, start, finish in mine for other, begin, stop in others)
        return None if meet else runs

    def _placed(self, runs: Sequence[tuple[int, int]], shared: int) -> tuple[list[Step], list[Step], list[Step]] | None:
        """(what is brought, the chain's steps, the sums of its parts), cut into tasks so that a block has room; None where it never has."""
        local = self._local()
        rows = -(-self.rows // max(1, min(self.rows, DEVICE, math.isqrt(BALANCE * self.rows))))
        while True:
            tasks = -(-self.rows // rows)
            steps = self._rewritten(local, runs, tasks)
            if _laid_out([*steps[0], *steps[1]], tasks, self.plan)[1] <= shared:
                return steps if tasks <= MOST_BLOCKS else None
            rows -= 1
            if rows < min(self.rows, LEAST_ROWS):
                return None

    def _local(self) -> set[str]:
        """Storages that the chain alone writes and reads, by rows."""
        own = {id(step) for step in self.own}
        others = {self.plan.storage(buffer.name) for step in self.plan.steps if id(step) not in own for buffer in step.buffers}
        others |= {self.plan.storage(buffer.name) for buffer in self.plan.outputs}
        read = {self.plan.storage(buffer.name) for step in self.own for buffer in step.reads + step.updates}
        made = {self.plan.storage(buffer.name) for step in self.steps for buffer in step.writes if in_arena(buffer)}
        cut = {self.plan.storage(buffer.name) for step in self.own for buffer in step.buffers if buffer.size and buffer.shape[0] != self.rows}
        scratch = {self.plan.storage(buffer.name) for step in self.own for buffer in step.scratch}
        return (made & read) - others - cut - scratch

    def _rewritten(self, local: set[str], runs: Sequence[tuple[int, int]], tasks: int) -> tuple[list[Step], list[Step], list[Step]]:
        """What is brought, the chain, the sums, for so many tasks."""
        brought: dict[str, Step] = {}
        for step in self.steps:
            if step.kernel in (FORWARD, INPUT):
                weight, bias = step.reads[1], step.reads[2] if step.kernel == FORWARD else step.reads[1].piece(0)
                if weight.name not in brought or bias.size:
                    brought[weight.name] = _bring(step, weight, bias)
        size = sum(length for _, length in runs)
        parts = Buffer("gradients/parts", (tasks, size), self.plan.dtype, "workspace")
        columns, at = [], 0
        for first, length in runs:
            columns.append((first, length, at))
            at += length

        def local_form(step: Step) -> Step:
            writes, updates, reads = (
                tuple(attrs.evolve(each, role="chip_rows") if self.plan.storage(each.name) in local and each.size else each for each in buffers)
                for buffers in (step.writes, step.updates, step.reads))
            return attrs.evolve(step, tasks=tasks, writes=writes, updates=updates, reads=reads)
        chain = [_on_chip_form(local_form(step), brought, parts, columns) for step in self.own]
        gathered = [attrs.evolve(step, kernel=step.kernel.replace("feed", "chip")) for step in chain if step.kernel in GATHERS and _chip(step)]
        arrive = Step(kernel="prims.chip.arrive", layer="", phase="feed")
        prologue = [attrs.evolve(step, rows=self.rows, tasks=tasks) for step in (*brought.values(), *gathered, arrive)]
        return prologue, chain, [_sum(parts, *run) for run in columns]


def _chip(step: Step) -> bool:
    """Whether what the step writes lies on chip."""
    return any(buffer.role in CHIP for buffer in step.writes)


def _sum(parts: Buffer, first: int, size: int, at: int) -> Step:
    """The step that adds the parts of `size` of the gradients, from the `first` on; they stand in the columns from `at` on."""
    gradient = Buffer(f"gradients[{first}:]", (size,), parts.dtype, "gradient", ("gradients", first))
    return Step(kernel="prims.chip.sum_parts", layer="", phase="update", rows=-(-size // 32), flops=parts.shape[0] * size, writes=(gradient,),
                reads=(parts,), scalars=(at,))


def _bring(step: Step, weight: Buffer, bias: Buffer) -> Step:
    """The step that copies a weight and a bias to the block's shared memory."""
    own_weight = Buffer(f"{weight.name} on chip", (weight.shape[0], width_on_chip(weight.shape[1])), weight.dtype, "chip_whole")
    own_bias = Buffer(f"{bias.name} on chip", bias.shape, bias.dtype, "chip_whole")
    return Step(kernel="prims.chip.bring", layer=step.layer, phase="feed", writes=(own_weight, own_bias), reads=(weight, bias))


def _on_chip_form(step: Step, brought: dict[str, Step], parts: Buffer, columns: Sequence[tuple[int, int, int]]) -> Step:
    """A product in its form for a weight on chip, a gradient of a weight as the sum over a block's rows; other steps as they are."""
    few = "_few" if step.reads and step.reads[0].shape[0] <= TALL * step.tasks else ""
    if step.kernel in (FORWARD, INPUT):
        weight, bias = brought[step.reads[1].name].writes
        forward = step.kernel == FORWARD
        bias = bias if forward and step.reads[2].size else bias.piece(0)
        kernel = f"prims.chip.dense_{'forward' if forward else 'backward_input'}{few}"
        return attrs.evolve(step, kernel=kernel, reads=(step.reads[0], weight, *([bias] if forward else [])), filters=None)
    if step.kernel == WEIGHT:
        ends = [end for buffer in step.writes for end in _columns(buffer, columns)]
        return attrs.evolve(step, kernel=f"prims.chip.dense_backward_weight{few}", writes=(parts,), reads=step.reads[:2], scalars=tuple(ends),
                            rows=step.reads[0].shape[0])
    return step


def _whole(gradient: Buffer) -> int:
    """Elements of a piece of the gradients with what is between it and the next one."""
    itemsize = ITEMSIZE[gradient.dtype]
    return aligned(gradient.size * itemsize) // itemsize


def _columns(gradient: Buffer, columns: Sequence[tuple[int, int, int]]) -> tuple[int, int]:
    """Which of the parts' columns are a piece of the gradients: first and last + 1; (0, 0) for one that is not there."""
    if gradient.inside is None or not gradient.size:
        return 0, 0
    start = next(at + gradient.inside[1] - first for first, length, at in columns if first <= gradient.inside[1] < first + length)
    return start, start + _whole(gradient)


def _by_elements(step: Step, sums: Sequence[Step]) -> Step:
    """An update of just the elements that one of these sums makes shares its rows of 32 elements: both go into one chain."""
    for total in sums:
        (made,) = total.writes
        if step.kernel.endswith("_update") and step.phase == "update" and _stretch(step.reads[0]) == _stretch(made):
            return attrs.evolve(step, rows=total.rows)
    return step


def _stretch(gradient: Buffer) -> tuple[str, int, int]:
    name, first = gradient.inside or (gradient.name, 0)
    return name, first, gradient.size


def _laid_out(steps: Sequence[Step], tasks: int, plan: Plan) -> tuple[dict[str, int], int]:
    """Where in a block's shared memory the chain's arrays lie, behind the scratch of its steps, each while steps need it; and where the last ends."""
    def held(buffer: Buffer) -> Buffer:
        rows = -(-buffer.shape[0] // tasks) if buffer.role == "chip_rows" else buffer.shape[0]
        return attrs.evolve(buffer, shape=(rows, *buffer.shape[1:]), role="workspace", inside=None)
    alone = tuple(attrs.evolve(step, updates=(), writes=(), scratch=(), reads=tuple(held(buffer) for buffer in step.buffers if buffer.role in CHIP))
                  for step in steps)
    laid = place(Plan(mode="", batch=0, dtype=plan.dtype, steps=alone, groups=tuple(range(len(alone))), shared=plan.shared))
    first = -(-scratch_bytes(steps) // 64) * 64
    return {name: first + offset for name, offset in laid.offsets.items()}, first + laid.arena_bytes

