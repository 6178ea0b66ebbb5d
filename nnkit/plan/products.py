"""How a plan for a device does its large products: by tiles of which size, on tensor cores or not, in how many slices of a sum.

`size_products` is the pass, `by_library` another one for who asks for it. Everything follows from shapes, so that a sum's order does, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from nnkit.plan.arena import in_arena
from nnkit.plan.launch import (
    CONVOLUTIONS,
    CORES,
    DEPTH,
    DEVICE,
    LIBRARY,
    MOST_TASKS,
    PATCHES,
    PRODUCTS,
    SHARED_BYTES,
    SIDES,
    STACKED,
    TILED_FLOPS,
    slices_bytes,
)
from nnkit.plan.plan import Buffer, Plan, Step

__all__ = [
    "BLOCKS", "PRECISIONS", "SHORTEST", "by_library", "check_precision", "chunks", "microseconds", "size_products", "slices_worth", "tile_side",
]

PRECISIONS = {"float32": "", **{end[1:]: end for end in CORES}}          # and the end of the kernels' names
SHORTEST = 16 * DEPTH                                    # fewest elements of a sum that a slice of it goes over
# A small product goes by tiles, too, where its sums are so long: else few threads would add them up, one after the other. Forward and by the input
# it then leaves the chain; a gradient of a weight is in none.
LONG, LONG_ROWS, FEWEST = 2048, 512, 4 * DEPTH           # and how many a slice of it has at least
BLOCKS = 2 * DEVICE                                      # that run at a time: two on each multiprocessor
# What is assumed of a device, for each microsecond: operations by tiles of so many elements (those of 128 x 128 and 64 x 64 as they were measured,
# in an earlier form), how many times that on tensor cores; bytes; the time that a block takes which has a multiprocessor for itself, beside that of
# two; microseconds of one more launch.
RATES = {128 * 128: 38e6, 64 * 64: 22e6, 32 * 32: 11e6}
ON_CORES, BANDWIDTH, ALONE, LAUNCH = 4, 2.5e6, 0.62, 3.0
RELU = "layers.activation.relu_forward"
LARGE = {f"{name}{end}" for name in CONVOLUTIONS for end in PATCHES if end}


def check_precision(precision: str, dtype: str, backend: str, blas: bool = False) -> None:
    """Raises ValueError where products of a plan of this dtype for this backend cannot have the precision, or not be the library's."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision: must be 'float32', 'tf32' or 'bfloat16', received {precision!r}")
    if precision != "float32" and backend != "cuda":
        raise ValueError(f"precision {precision!r} needs backend 'cuda', received backend {backend!r}")
    if precision != "float32" and dtype != "float32":
        raise ValueError(f"precision {precision!r} needs dtype 'float32', received dtype {dtype!r}")
    if blas and (backend != "cuda" or dtype != "float32"):
        raise ValueError(f"blas=True needs backend 'cuda' and dtype 'float32', received backend {backend!r} and dtype {dtype!r}")


def size_products(plan: Plan, precision: str = "float32") -> Plan:
    """Large products go by tiles; they are then no longer row-local.

    precision: 'float32'; 'tf32' or 'bfloat16': the factors of large products are rounded to that as they are multiplied, on tensor cores; sums, and
    all that lies in memory, stay float32.
    """
    return plan.replaced({id(step): _sized(step, PRECISIONS[precision]) for step in plan.steps if step.kernel in {*PRODUCTS, *LARGE, *STACKED}})


def _sized(step: Step, end: str) -> Sequence[Step]:
    if step.kernel in LARGE:
        return [attrs.evolve(step, kernel=f"{step.kernel}{end}")]
    y, stacked = step.writes[0], step.kernel in STACKED
    stacks, rows, columns = y.shape if stacked else (1, *y.shape)
    depth = step.reads[0].size // max(1, stacks * rows)
    if not stacked and _small(step):
        if depth < (LONG_ROWS if step.kernel == PRODUCTS[1] else LONG):
            return [step]
        side, end = SIDES[-1], ""
        _, slices = slices_worth(_tiles(rows, columns, side), depth, side * side, rows * columns, FEWEST)
    else:
        end = "" if stacked else end
        sides = [side for side in SIDES if slices_bytes(side, y.dtype) <= SHARED_BYTES and (side > SIDES[-1] or not end)]
        side, slices = tile_side(rows, columns, depth, sides, stacks, bool(end))
    tasks = max(1, min(MOST_TASKS, slices * stacks * _tiles(rows, columns, side)))
    step = attrs.evolve(step, kernel=f"{step.kernel}_{side}{end}", rows=0, tasks=tasks)
    if slices == 1:
        return [step]
    bias = _bias_gradient(step) if step.kernel.startswith(PRODUCTS[1]) else []
    parts = Buffer(f"{y.name}/slices", (*y.shape[:-2], slices * rows, columns), y.dtype, "activation")
    total = Step(kernel="prims.reduce.sum_middle", layer=step.layer, phase=step.phase, writes=(y.reshaped(stacks, rows * columns),),
                 reads=(parts.reshaped(stacks, slices, rows * columns),), flops=parts.size)
    return [attrs.evolve(step, writes=(parts, *(buffer.piece(0) for buffer in step.writes[1:]))), *bias[:1], total, *bias[1:]]


def _bias_gradient(step: Step) -> list[Step]:
    """The gradient of the bias that the gradient of a weight brings along, as sums of their own."""
    from nnkit.prims.reduce import sum_rows_steps  # which is made of passes

    dbias, dy = step.writes[1], step.reads[1]
    sums = sum_rows_steps(dbias, dy, f"{dbias.name}/row_sums", True) if dbias.size else ()
    return [attrs.evolve(each, layer=step.layer, phase=step.phase) for each in sums]


def _small(step: Step) -> bool:
    """Whether a product is not worth tiles."""
    return step.flops < TILED_FLOPS or min(step.writes[0].shape[-2:]) < SIDES[-1]


def by_library(plan: Plan, precision: str = "float32") -> Plan:
    """Large products of matrices as calls of cuBLASLt, see runtime/blas.py: forward with its bias, and a ReLU that is all that reads it; a bias's
    gradient is a sum of its own. It comes before buffers take over one another's memory."""
    changes: dict[int, list[Step]] = {}
    readers = plan.readers
    for step in plan.steps:
        if step.kernel not in (*PRODUCTS, *STACKED) or _small(step):
            continue
        if step.kernel in STACKED:
            scalars = (STACKED.index(step.kernel), 0, 0)
            changes[id(step)] = [attrs.evolve(step, kernel=LIBRARY, reads=(*step.reads, step.reads[0].piece(0)), scalars=scalars)]
            continue
        if any(buffer.role == "external" for buffer in step.buffers):
            continue                                     # bound later, which a call cannot be
        y, (a, b, *more) = step.writes[0], step.reads
        bias, form = a.piece(0), PRODUCTS.index(step.kernel)
        rest: list[Step] = []
        relu = 0
        if form == 0:
            bias, found = more[0], readers[y.name]
            if len(found) == 1 and found[0] is not None and found[0].kernel == RELU and in_arena(y):
                y, relu = found[0].writes[0].reshaped(*y.shape), 1
                changes[id(found[0])] = []
        elif form == 1:
            rest = _bias_gradient(step)
        call = attrs.evolve(step, kernel=f"{LIBRARY}{PRECISIONS[precision]}", writes=(y,), reads=(a, b, bias), rows=0, tasks=1, filters=None,
                            scalars=(int(form == 1), int(form == 2), relu))
        changes[id(step)] = [call, *rest]
    return plan.replaced(changes)


def _tiles(rows: int, columns: int, side: int) -> int:
    return -(-rows // side) * -(-columns // side)


def tile_side(rows: int, columns: int, depth: int, sides: Sequence[int], stacks: int = 1, cores: bool = False) -> tuple[int, int]:
    """(side of the tiles, slices of the sum over `depth`) of a product, or of so many: what is estimated to take least."""
    found = [(*slices_worth(stacks * _tiles(rows, columns, side), depth, side * side, stacks * rows * columns, cores=cores), side) for side in sides]
    _, slices, side = min(found, key=lambda each: each[0])
    return side, slices


def slices_worth(tiles: int, depth: int, area: int, elements: int, shortest: int = SHORTEST, cores: bool = False) -> tuple[float, int]:
    """(estimated microseconds, slices) of so many sums over `depth` by tiles of `area` elements: in as many slices as take least, none of them
    short. cores: on tensor cores."""
    counts = {chunks(depth, slices)[1] for slices in range(1, max(1, min(BLOCKS, depth // shortest)) + 1)}
    return min((microseconds(tiles, slices, depth, area, elements, cores), slices) for slices in counts)


def chunks(length: int, slices: int) -> tuple[int, int]:
    """(how long the slices of a sum are but for the last one, how many there are) where so many are wanted: as `matmul_cuda.slice_bounds` has it."""
    chunk = max(1, -(-length // (slices * DEPTH))) * DEPTH
    return chunk, max(1, -(-length // chunk))


def microseconds(tiles: int, slices: int, depth: int, area: int, elements: int, cores: bool = False) -> float:
    """An estimate: the tiles' blocks take turns on the device; several slices are written, read and added up by a launch more."""
    whole, rest = divmod(tiles * slices, BLOCKS)
    turns = whole + (0.0 if rest == 0 else ALONE if rest <= DEVICE else 1.0)
    product = turns * BLOCKS * 2 * area * depth / slices / RATES[area] / (ON_CORES if cores else 1)
    return product if slices == 1 else product + LAUNCH + 8 * slices * elements / BANDWIDTH
