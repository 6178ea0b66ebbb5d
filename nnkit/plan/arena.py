"""Liveness: where the buffers of the arena lie. Buffers whose lives do not overlap share bytes."""

from __future__ import annotations

import bisect

import attrs

from nnkit.plan.plan import ALIGNMENT, CHIP, PERSISTENT, Buffer, Plan

__all__ = ["aligned", "lives", "place"]


def aligned(nbytes: int, alignment: int = ALIGNMENT) -> int:
    """nbytes rounded up to the next boundary."""
    return -(-nbytes // alignment) * alignment


def in_arena(buffer: Buffer) -> bool:
    """Whether the buffer lives in the arena: neither persistent nor the caller's own array nor in a block's shared memory."""
    return buffer.role not in PERSISTENT and buffer.role not in CHIP and buffer.role != "external" and buffer.inside is None


def lives(plan: Plan) -> dict[str, tuple[int, int]]:
    """Storage name -> (first group, last group) that touches it; outputs live to the end.

    Lives are counted in groups, not steps: one task of a group may be at its last step while another is at its first.
    """
    last_group = len(plan.groups) - 1
    found: dict[str, tuple[int, int]] = {}
    for group, (start, stop) in enumerate(plan.group_bounds()):
        for step in plan.steps[start:stop]:
            for buffer in filter(in_arena, step.buffers):
                name = plan.storage(buffer.name)
                found[name] = (found.get(name, (group, group))[0], group)
    for buffer in filter(in_arena, plan.outputs):
        name = plan.storage(buffer.name)
        found[name] = (found[name][0], last_group)
    return found


def place(plan: Plan, gap: int = 0) -> Plan:
    """Give every buffer of the arena its offset: largest first, each at the lowest offset that is free during its life.

    gap: bytes left untouched after every buffer (the red zones of debug mode); then no two buffers share bytes, so that zones stay as they are.
    """
    sizes: dict[str, int] = {}
    for step in plan.steps:
        for buffer in filter(in_arena, step.buffers):
            name = plan.storage(buffer.name)
            sizes[name] = max(sizes.get(name, 0), aligned(buffer.nbytes) + gap)
    life = lives(plan) if not gap else dict.fromkeys(sizes, (0, len(plan.groups)))
    order = {name: position for position, name in enumerate(sizes)}
    placed: list[tuple[int, int, int, int]] = []         # (offset, end, first group, last group), in order
    offsets: dict[str, int] = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], order[name])):
        first, last = life[name]
        offset, size = 0, sizes[name]
        for start, end, other_first, other_last in placed:
            if other_first <= last and first <= other_last:
                if offset + size <= start:
                    break
                if end > offset:
                    offset = end
        offsets[name] = offset
        bisect.insort(placed, (offset, offset + size, first, last))
    total = max((end for _, end, _, _ in placed), default=0)
    return attrs.evolve(plan, offsets=offsets, arena_bytes=total, separate_bytes=sum(_separate(plan, gap)))


def _separate(plan: Plan, gap: int) -> list[int]:
    """Bytes of every buffer of the arena, had each its own place."""
    sizes: dict[str, int] = {}
    for step in plan.steps:
        for buffer in filter(in_arena, step.buffers):
            sizes[buffer.name] = max(sizes.get(buffer.name, 0), aligned(buffer.nbytes) + gap)
    return list(sizes.values())
