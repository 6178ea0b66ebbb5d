"""Passes: plan -> plan. They read the step list, never layer classes."""

from __future__ import annotations

from typing import Any

import attrs

from nnkit.plan.arena import in_arena, place
from nnkit.plan.plan import PERSISTENT, Plan, Step

__all__ = ["drop_dead_steps", "fuse_loss", "fuse_relu", "hoist", "image_tasks", "in_place", "optimise", "split_into_tasks"]

# What a task should be worth. A fork and join of the threads costs 1 to 3 us; FLOPs here are those of one core's vector units, and a byte
# moved counts like 4 FLOPs (50 GFLOP/s against 12 GB/s, the slowest machine that this was thought through for).
FLOPS_PER_BYTE = 4
TASK_FLOPS = 1_000_000
MOST_TASKS = 32
IMAGES = 8                                               # fewer images than this are cut into pieces
RELU = "layers.activation.relu_forward"
# Activations of single numbers on which a loss has a logits form.
ELEMENTWISE = frozenset({"layers.activation.sigmoid_forward"})


def optimise(plan: Plan, gap: int = 0) -> Plan:
    """All passes in their order, then the arena."""
    for step in (fuse_loss, drop_dead_steps, fuse_relu, hoist, in_place, split_into_tasks):
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
    changes: dict[int, Step | None] = {}
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
            changes[id(readers[0])] = None
        changes[id(loss)] = changed
    steps = (changes.get(id(step), step) for step in plan.steps)
    return attrs.evolve(plan, steps=tuple(step for step in steps if step is not None))


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


def fuse_relu(plan: Plan) -> Plan:
    """A step that can write max(y, 0) instead of y does so where a ReLU is all that reads y."""
    readers: dict[str, list[Step]] = {buffer.name: [] for buffer in plan.outputs}
    for step in plan.steps:
        for buffer in step.reads + step.updates:
            readers.setdefault(buffer.name, []).append(step)
    kept = {buffer.name for buffer in plan.outputs}
    changes: dict[int, Step | None] = {}
    for step in plan.steps:
        y = step.writes[0] if step.relu else None
        found = readers.get(y.name, []) if y is not None and y.name not in kept else []
        if y is not None and len(found) == 1 and found[0].kernel == RELU and in_arena(y):
            written = found[0].writes[0].reshaped(*y.shape)
            changes[id(step)] = attrs.evolve(step, writes=(written, *step.writes[1:]), scalars=(*step.scalars[:-1], 1))
            changes[id(found[0])] = None
    steps = (changes.get(id(step), step) for step in plan.steps)
    return attrs.evolve(plan, steps=tuple(step for step in steps if step is not None))


def hoist(plan: Plan) -> Plan:
    """Steps that make something of parameters alone, such as packing a weight, go before the run of row-local steps that they would part."""
    steps: list[Step] = []
    start = 0                                            # where the run begins
    for step in plan.steps:
        written = {buffer.name for other in steps[start:] for buffer in other.writes + other.updates}
        alone = all(buffer.role == "parameter" and buffer.name not in written for buffer in step.reads) and all(map(in_arena, step.writes))
        if not step.rows and step.reads and not step.updates and not step.scratch and alone:
            steps.insert(start, step)
            start += 1
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


def image_tasks(N: int, rows: int, flops: int, nbytes: int) -> tuple[int, dict[str, Any]]:
    """(pieces of an image, how a step on N images is cut): by images where they are many, else by pieces of an image's `rows` rows."""
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
