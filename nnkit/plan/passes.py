"""Passes: plan -> plan. They read the step list, never layer classes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from nnkit.plan.arena import in_arena, place
from nnkit.plan.cells import fuse_cells
from nnkit.plan.chip import onto_chip, spare_counters
from nnkit.plan.launch import ARCHITECTURE, image_pieces, into_launches, most_shared
from nnkit.plan.plan import PERSISTENT, Buffer, Plan, Step
from nnkit.plan.products import by_library, check_precision, size_products
from nnkit.plan.sweeps import cut_rows, join_penalties

__all__ = [
    "drop_dead_steps", "fold_normalization", "fuse_dropout", "fuse_loss", "fuse_pooling", "fuse_relu", "hoist", "image_tasks", "in_place", "optimise",
    "split_into_tasks",
]

# What a task should be worth. A fork and join of the threads costs 1 to 3 us; FLOPs here are those of one core's vector units, and a byte
# moved counts like 4 FLOPs (50 GFLOP/s against 12 GB/s, the slowest machine that this was thought through for).
FLOPS_PER_BYTE = 4
TASK_FLOPS = 400_000                                     # 4 us; the digits' CNN takes 97 us a step, as at 250,000; at 1,000,000 it takes 109
MOST_TASKS = 32
IMAGES = 8                                               # fewer images than this are cut into pieces
RELU, RELU_BACKWARD = "layers.activation.relu_forward", "layers.activation.relu_backward"
POOLING = "layers.pool.max_forward"
DROPOUT, RELU_DROPOUT_BACKWARD = "layers.dropout.dropout_apply", "layers.dropout.relu_dropout_backward"
NORMALIZE, MOVING = "layers.norm.batch_norm_normalize", "layers.norm.batch_norm_inference"
# Activations of single numbers on which a loss has a logits form.
ELEMENTWISE = frozenset({"layers.activation.sigmoid_forward"})


def optimise(plan: Plan, gap: int = 0, backend: str = "cpu", precision: str = "float32", blas: bool = False,
             architecture: tuple[int, int] = ARCHITECTURE) -> Plan:
    """All passes in their order, then the arena. precision: see `products.size_products`; blas: `products.by_library`; architecture: of a GPU."""
    check_precision(precision, plan.dtype, backend, blas)
    passes: list[Callable[[Plan], Plan]] = [fuse_loss, drop_dead_steps, fold_normalization, fuse_dropout]
    if backend == "cpu":
        passes += [fuse_relu, fuse_cells, fuse_pooling, hoist, in_place, split_into_tasks]
    else:
        library = [functools.partial(by_library, precision=precision)] if blas else []
        sized = [functools.partial(onto_chip, precision=precision, shared=most_shared(architecture)),
                 functools.partial(size_products, precision=precision)]
        passes += [fuse_relu, *library, in_place, cut_rows, spare_counters, *sized, join_penalties, into_launches]
    for step in passes:
        plan = step(plan)
    return place(plan, gap)


def fuse_loss(plan: Plan) -> Plan:
    """A loss on top of a sigmoid or softmax reads that activation's input instead: the stable logits form.

    Forward and backward of the loss change their kernel; the gradient that the loss wrote for the activation's output is now the one for
    its input, and the activation's own backward step goes away. Its forward step stays; `drop_dead_steps` removes it where nobody reads it.
    """
    producers = {buffer.name: step for step in plan.steps for buffer in step.writes}
    for y in dict.fromkeys(step.reads[0].name for step in plan.steps if step.logits):
        losses = [step for step in plan.steps if step.logits and step.reads[0].name == y]
        if y in producers:
            plan = _fused(plan, producers[y], losses)
    return plan


def _fused(plan: Plan, below: Step, losses: list[Step]) -> Plan:
    """The plan with these steps of one loss in their logits form, all or none: what forward keeps is what the same form's backward reads."""
    changes: dict[int, list[Step]] = {}
    for loss in losses:
        kernel, y = dict(loss.logits).get(below.kernel), loss.reads[0]
        elementwise = below.kernel in ELEMENTWISE        # a softmax's rows must be the loss's: no reshape in between
        if kernel is None or (below.reads[0].size != y.size if elementwise else below.writes[0].shape != y.shape):
            return plan
        changed = attrs.evolve(loss, kernel=kernel, reads=(below.reads[0].reshaped(*y.shape), *loss.reads[1:]), logits=())
        if loss.phase == "backward":
            dy = loss.writes[0]
            readers = [step for step in plan.steps if any(buffer.name == dy.name for buffer in step.buffers) and step is not loss]
            if len(readers) != 1 or readers[0].kernel != below.kernel.replace("_forward", "_backward"):
                return plan                              # y has other uses, such as an activity penalty, that add to dy
            changed = attrs.evolve(changed, writes=(readers[0].writes[0].reshaped(*dy.shape), *changed.writes[1:]))
            changes[id(readers[0])] = []
        changes[id(loss)] = [changed]
    return plan.replaced(changes)


def drop_dead_steps(plan: Plan) -> Plan:
    """Drop the steps whose results nobody needs: gradients of frozen layers and of the inputs, activations that only training keeps."""
    needed = {buffer.name for buffer in plan.outputs}
    kept = []
    for step in reversed(plan.steps):
        lasting = any(buffer.role in PERSISTENT or buffer.role == "external" for buffer in step.writes + step.updates)
        if lasting or any(buffer.name in needed for buffer in step.writes + step.updates):
            kept.append(step)
            needed.update(buffer.name for buffer in step.reads + step.updates)
    return attrs.evolve(plan, steps=tuple(reversed(kept)))


def fold_normalization(plan: Plan) -> Plan:
    """A batch normalization by moving averages that is all that reads a product with a weight goes into that weight and bias:
    (x W + b - mean) scale + beta = x (W scale) + ((b - mean) scale + beta)."""
    for step in plan.steps:
        if step.kernel == NORMALIZE:
            plan = _folded(plan, step)
    return plan


def _folded(plan: Plan, normalize: Step) -> Plan:
    """The plan without this normalization, where it can be folded."""
    x, statistics = normalize.reads
    makers = {buffer.name: step for step in plan.steps for buffer in step.writes}
    product, moving = makers.get(x.name), makers[statistics.name]
    if product is None or product.filters is None or moving.kernel != MOVING or plan.readers[x.name] != [normalize]:
        return plan
    weight, bias = product.filters
    if moving.reads[0].size != weight.shape[1]:          # the channels are another axis than the filters
        return plan
    scaled = attrs.evolve(weight, name=f"{x.name}/kernel", role="workspace", inside=None)
    shift = Buffer(f"{x.name}/shift", (weight.shape[1],), weight.dtype, "workspace")
    fold = Step(kernel="layers.norm.batch_norm_fold", layer=normalize.layer, phase=normalize.phase, writes=(scaled, shift),
                reads=(weight, bias, statistics), flops=2 * weight.size, tasks=work_tasks(0, 2 * weight.nbytes, most=weight.shape[0]))

    def instead(step: Step) -> Step:
        """The step with W scale for W."""
        reads = (attrs.evolve(scaled, shape=b.shape) if b.name == weight.name and b.size else b for b in step.reads)
        return attrs.evolve(step, reads=tuple(reads))
    between = _between(plan, weight, product)
    earlier = [step for step in plan.steps if _names(step.writes) & _names(moving.reads)]
    last = instead(product)
    at = product.reads.index(bias)                       # the first: what a kernel does without may look the same
    last = attrs.evolve(last, reads=(*last.reads[:at], shift, *last.reads[at + 1:]), filters=(scaled, shift),
                        writes=(normalize.writes[0].reshaped(*product.writes[0].shape),))
    moved = [*earlier, moving, fold, *map(instead, between), last]
    gone = {id(step) for step in (*earlier, moving, *between, normalize)}
    steps = [new for step in plan.steps if id(step) not in gone for new in (moved if step is product else [step])]
    return attrs.evolve(plan, steps=tuple(steps))


def _between(plan: Plan, weight: Buffer, product: Step) -> list[Step]:
    """The steps that make of W, in workspaces, what the product reads of it: packing, or products of their own."""
    wanted, found = _names(product.reads), []
    for step in reversed(plan.steps):
        if _names(step.writes) & wanted and all(buffer.role == "workspace" for buffer in step.writes):
            found.append(step)
            wanted |= _names(step.reads)
    made, between = {weight.name}, []
    for step in reversed(found):
        if _names(step.reads) & made:
            between.append(step)
            made |= _names(step.writes)
    return between


def _names(buffers: Iterable[Buffer]) -> set[str]:
    return {buffer.name for buffer in buffers}


def fuse_relu(plan: Plan) -> Plan:
    """A step that can write max(y, 0) instead of y does so where a ReLU is all that reads y; one that can pass a gradient through the ReLU that made
    its input does so where that ReLU's backward step is all that reads the gradient."""
    readers = plan.readers
    changes: dict[int, list[Step]] = {}
    for step in plan.steps:
        found = readers[step.writes[0].name] if step.relu or step.gate else []
        if len(found) != 1 or found[0] is None or not in_arena(step.writes[0]):
            continue
        relu = found[0]
        gated = step.gate and relu.kernel == RELU_BACKWARD and relu.reads[1].name == step.reads[0].name
        if (step.relu and relu.kernel == RELU) or gated:
            written = relu.writes[0].reshaped(*step.writes[0].shape)
            changes[id(step)] = [attrs.evolve(step, writes=(written, *step.writes[1:]), scalars=(*step.scalars[:-1], 1))]
            changes[id(relu)] = []
    return plan.replaced(changes)


def fuse_dropout(plan: Plan) -> Plan:
    """Where dropout follows a ReLU, the gradient goes through both in one step: what dropout wrote is above 0 where it kept what the ReLU let pass.
    So the mask is drawn once, and the ReLU's output need not be kept."""
    forward = {step.reads[0].name: step for step in plan.steps if step.kernel == DROPOUT and step.phase == "forward"}
    makers = {buffer.name: step for step in plan.steps for buffer in step.writes}
    changes: dict[int, list[Step]] = {}
    for relu in [step for step in plan.steps if step.kernel == RELU_BACKWARD]:
        drop, undrop = forward.get(relu.reads[1].name), makers.get(relu.reads[0].name)
        if drop is None or undrop is None or undrop.kernel != DROPOUT or undrop.scalars != drop.scalars:
            continue
        if plan.readers[undrop.writes[0].name] == [relu]:
            shape, scale = relu.writes[0].shape, drop.scalars[1]
            reads = (undrop.reads[0].reshaped(*shape), drop.writes[0].reshaped(*shape))
            changes[id(relu)] = [attrs.evolve(relu, kernel=RELU_DROPOUT_BACKWARD, reads=reads, scalars=(scale,))]
            changes[id(undrop)] = []
    return plan.replaced(changes)


def fuse_pooling(plan: Plan) -> Plan:
    """A convolution writes the largest of every 2 x 2 places where such a pooling is all that reads it, as in prediction: y is never kept whole."""
    readers = plan.readers
    changes: dict[int, list[Step]] = {}
    for step in plan.steps:
        found = readers[step.writes[0].name] if step.pool is not None else []
        pooling = found[0] if len(found) == 1 else None
        if pooling is None or pooling.kernel != POOLING or not _by_squares(pooling.scalars) or not in_arena(step.writes[0]):
            continue
        workspace = step.scratch[0]
        larger = attrs.evolve(workspace, shape=(workspace.shape[0], workspace.shape[1] + (step.pool or 0)))
        changes[id(step)] = [attrs.evolve(step, writes=pooling.writes, scratch=(larger, *step.scratch[1:]),
                                          scalars=(*step.scalars[:-2], 1, step.scalars[-1]))]
        changes[id(pooling)] = []
    return plan.replaced(changes)


def _by_squares(windows: Sequence[float | int]) -> bool:
    """Whether a pooling's windows are squares of 2 x 2 places side by side, from the first place on; what is left over at the end goes away."""
    _, H, W, T, R, S, stride_d, stride_h, stride_w, _, _, _, before_d, before_h, before_w, _, P, Q = windows[:18]
    return (T, R, S, stride_d, stride_h, stride_w, before_d, before_h, before_w) == (1, 2, 2, 1, 2, 2, 0, 0, 0) and (P, Q) == (H // 2, W // 2)


def hoist(plan: Plan) -> Plan:
    """Steps that make something of parameters alone, such as packing a weight, go before the run of row-local steps that they would part."""
    steps: list[Step] = []
    start = 0                                            # where the run begins
    made: set[str] = set()                               # what such steps have written
    for step in plan.steps:
        written = {buffer.name for other in steps[start:] for buffer in other.writes + other.updates}
        known = all((buffer.role == "parameter" and buffer.name not in written) or buffer.name in made for buffer in step.reads)
        if not step.rows and not step.updates and not step.scratch and known and all(map(in_arena, step.writes)):
            steps.insert(start, step)
            start += 1
            made |= _names(step.writes)
        else:
            steps.append(step)
            start = start if step.rows else len(steps)
    return attrs.evolve(plan, steps=tuple(steps))


def in_place(plan: Plan) -> Plan:
    """Let a step write over its first input where the step allows it and nobody reads that input afterwards."""
    last_read: dict[str, int] = {buffer.name: len(plan.steps) for buffer in plan.outputs}
    for index, step in enumerate(plan.steps):
        for buffer in step.buffers:
            last_read[buffer.name] = max(last_read.get(buffer.name, 0), index)
    shared: dict[str, str] = {}
    for index, step in enumerate(plan.steps):
        if not step.in_place:
            continue
        y, x = step.writes[0], step.reads[0]
        others = step.writes[1:] + step.updates + step.reads[1:] + step.scratch
        free = in_arena(x) and in_arena(y) and x.nbytes == y.nbytes and x.name not in {buffer.name for buffer in others}
        if free and last_read[x.name] == index and y.name not in shared:
            shared[y.name] = x.name
    return attrs.evolve(plan, shared=shared)


def split_into_tasks(plan: Plan) -> Plan:
    """Choose the number of tasks, from shapes alone, and group neighbouring row-local steps that are split alike."""
    steps: list[Step] = []
    groups: list[int] = []
    index = 0
    while index < len(plan.steps):
        groups.append(index)
        run = [plan.steps[index]]
        while run[0].rows and index + len(run) < len(plan.steps) and plan.steps[index + len(run)].rows == run[0].rows:
            run.append(plan.steps[index + len(run)])
        index += len(run)
        if run[0].rows:
            tasks = row_tasks(run)
            steps += [attrs.evolve(step, tasks=tasks) for step in run]
        else:
            steps += run
    return _merge_single_tasks(attrs.evolve(plan, steps=tuple(steps), groups=tuple(groups)))


def row_tasks(run: list[Step]) -> int:
    """How many tasks a run of row-local steps is worth."""
    worth = sum(step.flops + FLOPS_PER_BYTE * step.nbytes for step in run) // TASK_FLOPS
    return even(min(MOST_TASKS, worth, run[0].rows // max(step.grain for step in run)))


def work_tasks(flops: int, nbytes: int, most: int) -> int:
    """How many tasks a step that splits itself is worth; at most `most` pieces can be cut."""
    return even(min(MOST_TASKS, most, (flops + FLOPS_PER_BYTE * nbytes) // TASK_FLOPS))


def image_tasks(N: int, rows: int, flops: int, nbytes: int, backend: str = "cpu") -> tuple[int, dict[str, Any]]:
    """(pieces of an image, how a step on N images is cut): by images where they are many, else by pieces of an image's `rows` rows."""
    if backend == "cuda":
        pieces = max(1, min(rows, image_pieces(N, nbytes)))
        return pieces, {"rows": N} if pieces == 1 else {"tasks": N * pieces}
    if N >= IMAGES:
        return 1, {"rows": N}
    pieces = max(1, min(rows, -(-IMAGES // max(1, N))))
    return pieces, {"tasks": work_tasks(flops, nbytes, most=max(1, N * pieces))}


def even(tasks: int) -> int:
    """At least 1; the next lower multiple of 2, from 8 on of 4: two or four threads then have the same number of tasks."""
    return max(1, tasks if tasks < 2 else tasks // 2 * 2 if tasks < 8 else tasks // 4 * 4)


def _merge_single_tasks(plan: Plan) -> Plan:
    """Neighbouring groups of one task are one group: fewer turns of the runner's loop."""
    groups = [start for position, start in enumerate(plan.groups)
              if position == 0 or plan.steps[start].tasks > 1 or plan.steps[plan.groups[position - 1]].tasks > 1]
    return attrs.evolve(plan, groups=tuple(groups))
