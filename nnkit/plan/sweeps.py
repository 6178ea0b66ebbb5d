"""Sweeps on a device: steps that go element by element over large samples are cut finer than by samples, of which a batch may have too few."""

from __future__ import annotations

import attrs

from nnkit.plan.launch import image_pieces
from nnkit.plan.plan import Buffer, Plan, Step

__all__ = ["cut_rows"]


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
