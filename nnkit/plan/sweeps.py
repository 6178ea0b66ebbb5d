"""Sweeps on a device: steps that go element by element.

Over large samples they are cut finer than by samples, of which a batch may have too few. Those over the gradients of penalized parameters are cut as
the update is that follows.
"""

from __future__ import annotations

import attrs

from nnkit.plan.launch import image_pieces
from nnkit.plan.plan import Buffer, Plan, Step

__all__ = ["cut_rows", "join_penalties"]

PENALTY = "losses.penalty.add_penalty_gradient"
UPDATE_ROW = 32                                          # elements: updates are cut at multiples of so many


def cut_rows(plan: Plan) -> Plan:
    """Where a batch of few large samples is swept (`Step.places`), parts of samples are rows, so that there are blocks for the whole device. What is
    cut follows from shapes alone; neighbouring steps on arrays of one shape are cut alike and stay a chain."""
    return plan.replaced({id(step): [_cut(step)] for step in plan.steps if step.places > 1 and step.rows})


def _cut(step: Step) -> Step:
    shape = step.writes[0].shape
    wanted = min(step.places, image_pieces(step.rows, 2 * step.writes[0].nbytes))
    pieces = next(count for count in range(wanted, step.places + 1) if step.places % count == 0)

    def cut(buffer: Buffer) -> Buffer:
        return buffer.reshaped(shape[0] * pieces, shape[1] // pieces) if buffer.shape == shape else buffer
    return attrs.evolve(step, rows=step.rows * pieces, writes=tuple(map(cut, step.writes)), reads=tuple(map(cut, step.reads)))


def join_penalties(plan: Plan) -> Plan:
    """The gradients of penalties are added by the blocks that then update these elements, in one chain: the update waits for no launch more."""
    updates = [step for step in plan.steps if step.phase == "update" and step.kernel.endswith("_update") and step.reads[0].role == "gradient"]
    changes: dict[int, list[Step]] = {}
    for update in updates:
        name, first, size = _stretch(update.reads[0])
        rows = update.rows or -(-size // UPDATE_ROW)
        for step in plan.steps:
            if step.kernel != PENALTY:
                continue
            vector, start, length = _stretch(step.updates[0])
            if vector == name and first <= start and start + length <= first + size:
                changes[id(step)] = [attrs.evolve(step, kernel=f"{PENALTY}_within", phase="update", rows=rows,
                                                  scalars=(*step.scalars, start - first, size))]
                changes[id(update)] = [attrs.evolve(update, rows=rows)]
    return plan.replaced(changes)


def _stretch(gradient: Buffer) -> tuple[str, int, int]:
    """The vector that a gradient is a piece of, the piece's first element and its size."""
    name, first = gradient.inside or (gradient.name, 0)
    return name, first, gradient.size
