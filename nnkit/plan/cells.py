"""The pass that computes a convolution, its ReLU and its pooling in registers, in training too: see prims/pooled.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from nnkit.plan.arena import in_arena
from nnkit.plan.plan import Buffer, Plan, Step

__all__ = ["fuse_cells"]

POOLING, POOLING_BACKWARD = "layers.pool.max_forward", "layers.pool.max_backward"
RELU_BACKWARD, SUM = "layers.activation.relu_backward", "prims.reduce.sum_chunks"


def fuse_cells(plan: Plan) -> Plan:
    """A convolution whose kernel can (`cells` of its step) writes the largest numbers of a pooling's cells instead of y.

    So it is where nothing but the pooling reads y and, in training, its backward step, whose gradient goes nowhere but into that of the kernel and a
    sum, the bias' gradient: these then take the pooled gradient, and the ReLU between, if there is one, is passed after the pooling.
    """
    for step in plan.steps:
        if step.cells and step.phase == "forward":
            plan = plan.replaced(_fused(plan, step))
    return plan


def _fused(plan: Plan, convolution: Step) -> Mapping[int, Sequence[Step]]:
    """What comes in the place of steps, by their identity; nothing where they stay."""
    from nnkit.prims.pooled import cells_forward

    y = convolution.writes[0]
    pooling, *rest = sorted(plan.readers[y.name] or [None], key=lambda step: step is None or step.kernel != POOLING)
    if pooling is None or pooling.kernel != POOLING or not in_arena(y) or len(rest) > 1:
        return {}
    deep = _depths(pooling.scalars)
    if deep is None:
        return {}
    pooled = pooling.writes[0]
    winners = Buffer(f"{pooled.name}/winners", pooled.shape if rest else (pooled.shape[0], 0), "int32", "activation")
    changes = _backward(plan, rest[0], winners, deep) if rest else {}
    if changes is None:
        return {}
    return {**changes, id(convolution): [cells_forward(convolution, pooled, winners, deep)], id(pooling): []}


def _depths(windows: Sequence[float | int]) -> int | None:
    """1 or 0: whether a pooling's windows have two depths, where they are cells side by side from the first place on, at least one; else None."""
    D, H, W, T, *rest = map(int, windows[:18])
    side_by_side = T in (1, 2) and rest == [2, 2, T, 2, 2, *rest[5:8], 0, 0, 0, D // T, H // 2, W // 2]
    return T - 1 if side_by_side and min(D // T, H // 2, W // 2) > 0 else None


def _backward(plan: Plan, pooling: Step | None, winners: Buffer, deep: int) -> dict[int, list[Step]] | None:
    """The same for a pooling's backward step and what reads its gradient; None where something else does."""
    from nnkit.prims.pooled import cells_weight

    if pooling is None or pooling.kernel != POOLING_BACKWARD:
        return None
    _, pooled, dy = pooling.reads
    users = plan.readers[pooling.writes[0].name]
    if any(user is None or not (user.cells or user.kernel == SUM) for user in users):
        return None
    gated = dy
    changes: dict[int, list[Step]] = {id(pooling): []}
    if pooling.scalars[-1]:
        gated = attrs.evolve(dy, name=f"{pooled.name}/dy_gated", role="activation", inside=None)
        changes[id(pooling)] = [Step(kernel=RELU_BACKWARD, layer=pooling.layer, phase="backward", writes=(gated,), reads=(dy, pooled),
                                     scalars=(0.0, 0.0, 0.0), rows=dy.shape[0], in_place=True)]
    for user in users:
        assert user is not None
        changes |= {id(user): [cells_weight(user, gated, winners, deep)]} if user.cells else _summed(plan, user, gated)
    return changes


def _summed(plan: Plan, chunks: Step, dy: Buffer) -> dict[int, list[Step]]:
    """A sum over rows, of the rows of dy instead."""
    from nnkit.prims.reduce import sum_rows_steps

    (total,) = plan.readers[chunks.writes[0].name]
    assert total is not None
    columns = chunks.reads[0].shape[1]
    first, last = sum_rows_steps(total.writes[0], dy.reshaped(dy.size // columns, columns), chunks.writes[0].name)
    layer, phase = chunks.layer, chunks.phase
    return {id(chunks): [attrs.evolve(first, layer=layer, phase=phase)], id(total): [attrs.evolve(last, layer=layer, phase=phase)]}
