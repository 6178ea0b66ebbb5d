"""How a plan for a device does its large products: by tiles of which size, on tensor cores or not, in how many slices of a sum.

`size_products` is the pass. Everything follows from shapes, so that a sum's order does, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from nnkit.plan.launch import CONVOLUTIONS, CORES, DEPTH, DEVICE, FULL, MOST_TASKS, PATCHES, PRODUCTS, SHARED_BYTES, SIDES, TILED_FLOPS, slices_bytes
from nnkit.plan.plan import Buffer, Plan, Step

__all__ = ["PRECISIONS", "check_precision", "size_products", "slices_worth", "tile_side"]

PRECISIONS = {"float32": "", **{end[1:]: end for end in CORES}}          # and the end of the kernels' names
SHORTEST = 16 * DEPTH                                    # fewest elements of a sum that a slice of it goes over
BLOCKS = 2 * DEVICE                                      # that share a product of few tiles: two for each multiprocessor
PADDED = 1.5                                             # times the result that its tiles may cover
LARGE = {f"{name}{end}" for name in CONVOLUTIONS for end in PATCHES if end}


def check_precision(precision: str, dtype: str, backend: str) -> None:
    """Raises ValueError where products of a plan of this dtype for this backend cannot have the precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision: must be 'float32', 'tf32' or 'bfloat16', received {precision!r}")
    if precision != "float32" and backend != "cuda":
        raise ValueError(f"precision {precision!r} needs backend 'cuda', received backend {backend!r}")
    if precision != "float32" and dtype != "float32":
        raise ValueError(f"precision {precision!r} needs dtype 'float32', received dtype {dtype!r}")


def size_products(plan: Plan, precision: str = "float32") -> Plan:
    """Large products go by tiles; they are then no longer row-local.

    precision: 'float32'; 'tf32' or 'bfloat16': the factors of large products are rounded to that as they are multiplied, on tensor cores; sums, and
    all that lies in memory, stay float32.
    """
    check_precision(precision, plan.dtype, "cuda")
    return plan.replaced({id(step): _sized(step, PRECISIONS[precision]) for step in plan.steps if step.kernel in PRODUCTS or step.kernel in LARGE})


def _sized(step: Step, end: str) -> Sequence[Step]:
    if step.kernel in LARGE:
        return [attrs.evolve(step, kernel=f"{step.kernel}{end}")]
    y = step.writes[0]
    if step.flops < TILED_FLOPS or min(y.shape) < SIDES[-1]:
        return [step]
    sides = [side for side in SIDES if slices_bytes(side, y.dtype) <= SHARED_BYTES and (side > SIDES[-1] or not end)]
    depth = step.reads[0].shape[1] if step.kernel != PRODUCTS[1] else 0            # a gradient of a weight brings the bias's along: not in slices
    side, slices = tile_side(y.shape[0], y.shape[1], depth, sides)
    step = attrs.evolve(step, kernel=f"{step.kernel}_{side}{end}", rows=0, tasks=min(MOST_TASKS, slices * _tiles(y.shape[0], y.shape[1], side)))
    if slices == 1:
        return [step]
    parts = Buffer(f"{y.name}/slices", (slices * y.shape[0], y.shape[1]), y.dtype, "activation")
    total = Step(kernel="prims.reduce.sum_middle", layer=step.layer, phase=step.phase, writes=(y.reshaped(1, y.size),),
                 reads=(parts.reshaped(1, slices, y.size),), flops=parts.size)
    return [attrs.evolve(step, writes=(parts,)), total]


def _tiles(rows: int, columns: int, side: int) -> int:
    return -(-rows // side) * -(-columns // side)


def tile_side(rows: int, columns: int, depth: int, sides: Sequence[int]) -> tuple[int, int]:
    """(side of the tiles, slices of the sum over `depth`) of a product: of sides from the largest on the first that keeps the device busy and does
    not go far beyond the result, else the last."""
    for side in sides:
        count = _tiles(rows, columns, side)
        slices = slices_worth(count, depth)
        if count * slices >= FULL and count * side * side <= PADDED * rows * columns:
            return side, slices
    count = _tiles(rows, columns, sides[-1])
    return sides[-1], slices_worth(count, depth)


def slices_worth(tiles: int, depth: int) -> int:
    """In how many slices a sum of this length goes where the result has so many tiles: 1 where these keep the device busy, none of them short."""
    if tiles >= FULL:
        return 1
    slices = max(1, min(BLOCKS // max(1, tiles), depth // SHORTEST))
    chunk = -(-depth // (slices * DEPTH)) * DEPTH        # as prims/matmul_cuda.slice_bounds has it
    return max(1, -(-depth // max(1, chunk)))
