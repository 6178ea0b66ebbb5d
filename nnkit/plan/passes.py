"""Passes: plan -> plan. They read the step list, never layer classes."""

from __future__ import annotations

import attrs

from nnkit.plan.arena import in_arena, place
from nnkit.plan.plan import PERSISTENT, Plan, Step

__all__ = ["drop_dead_steps", "fuse_loss", "in_place", "optimise", "split_into_tasks"]

# What a task should be worth. A fork and join of the threads costs 1 to 3 us; FLOPs here are those of one core's vector units, and a byte
# moved counts like 4 FLOPs (50 GFLOP/s against 12 GB/s, the slowest machine that this was thought through for).
FLOPS_PER_BYTE = 4
TASK_FLOPS = 4_000_000
MOST_TASKS = 32


def optimise(plan: Plan, gap: int = 0) -> Plan:
    """All passes in their order, then the arena."""
    for step in (fuse_loss, drop_dead_steps, in_place, split_into_tasks):
        plan = step(plan)
    return place(plan, gap)


def fuse_loss(plan: Plan) -> Plan:
    """A loss on top of a sigmoid or softmax reads that activation's input instead: the stable logits form.

    Forward and backward of the loss change their kernel; the gradient that the loss wrote for the activation's output is now the one for
    its input, and the activation's own backward step goes away. Its forward step stays; `drop_dead_steps` removes it where nobody reads it.
    """
    producers = {buffer.name: step for step in plan.steps for buffer in step.writes}
    losses = [step for step in plan.steps if step.logits]
    for loss in losses:
        y = loss.reads[0]
        below = producers.get(y.name)
        fused = dict(loss.logits).get(below.kernel) if below is not None else None
        if below is None or fused is None or below.reads[0].size != y.size:
            continue
        x = below.reads[0].reshaped(*y.shape)
        changed = attrs.evolve(loss, kernel=fused, reads=(x, *loss.reads[1:]), logits=())
        if loss.phase == "backward":
            plan = _without_activation_backward(plan, loss, changed, y.name)
        else:
            plan = _replace(plan, loss, changed)
    return plan


def _replace(plan: Plan, old: Step, new: Step) -> Plan:
    return attrs.evolve(plan, steps=tuple(new if step is old else step for step in plan.steps))


def _without_activation_backward(plan: Plan, loss: Step, changed: Step, y: str) -> Plan:
    """The loss's backward step writes dx of the activation directly, where the activation's backward is the only reader of dy."""
    dy = loss.writes[0].name
    readers = [step for step in plan.steps if any(buffer.name == dy for buffer in step.reads + step.updates)]
    if len(readers) != 1 or not any(buffer.name == y for buffer in readers[0].reads):
        return plan
    changed = attrs.evolve(changed, writes=(readers[0].writes[0].reshaped(*loss.writes[0].shape), *changed.writes[1:]))
    return attrs.evolve(plan, steps=tuple(changed if step is loss else step for step in plan.steps if step is not readers[0]))


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
    return max(1, min(MOST_TASKS, worth, run[0].rows // max(step.grain for step in run)))


def work_tasks(flops: int, nbytes: int, most: int) -> int:
    """How many tasks a step that splits itself is worth; at most `most` pieces can be cut."""
    return max(1, min(MOST_TASKS, most, (flops + FLOPS_PER_BYTE * nbytes) // TASK_FLOPS))


def _merge_single_tasks(plan: Plan) -> Plan:
    """Neighbouring groups of one task are one group: fewer turns of the runner's loop."""
    groups = [start for position, start in enumerate(plan.groups)
              if position == 0 or plan.steps[start].tasks > 1 or plan.steps[plan.groups[position - 1]].tasks > 1]
    return attrs.evolve(plan, groups=tuple(groups))
