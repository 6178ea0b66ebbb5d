"""What the CUDA side makes of a plan: launches, lanes, tasks.

A *launch* is one kernel on the device: a group of the plan. Its *lanes* run side by side, in blocks of their own; a lane is a chain of steps that one
set of tasks goes through, with a barrier of the block between two steps. A task is a block of THREADS threads.

Steps of one lane are row-local with the same rows, so that a task never reads what another writes: of what a step reads at any row (`Step.gathers`)
nothing is written in its launch. Lanes of one launch touch nothing that another of them writes. Launches come one after the other. What a step may
not overtake follows from the memory that it names, see `regions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from nnkit.plan.plan import ITEMSIZE, Buffer, Plan, Step

__all__ = [
    "ARCHITECTURE", "BLOCK_ROWS", "CHUNK", "CLUSTER", "CLUSTERS", "COLUMNS", "CONVOLUTIONS", "CORES", "DEPTH", "DEVICE", "ENTRY", "FEW",
    "LEAST_ARCHITECTURE", "LEDGE", "LESS_SHARED", "LIBRARY", "MANY", "MOST_CLUSTER_SHARED", "MOST_SHARED", "MOST_TASKS", "NARROW", "PAD",
    "PATCHES", "PRODUCTS", "SHARED_BYTES", "SIDES", "STACKED", "TALL", "TAPS", "THREADS", "TILED_FLOPS", "WALKS", "WARPS", "coded", "dependences",
    "image_pieces", "into_launches", "joined_strip", "lanes_of", "most_shared", "patch_bytes", "regions", "scratch_bytes", "shared_bytes",
    "slices_bytes", "step_words", "strip",
]

THREADS = 256                                            # of a block
WARPS = THREADS // 32
ARCHITECTURE = (9, 0)                                    # that plans and PTX are made for, where no device says otherwise
ENTRY = "launch"                                         # the name of a launch's kernel in its PTX
DEPTH = 16                                               # of the slices that a tiled product keeps in shared memory
PAD = 4                                                  # elements behind each row of them: see prims/matmul_cuda.py
COLUMNS, NARROW = 32, 64                                 # of a matrix that a block sums: so many, or all where there are no more than NARROW
FEW, MANY = 8, 64                                        # columns that it sums of a matrix of many rows, such as the sums of chunks: more parts
CHUNK, LEDGE = 32, 65                                    # of the pieces that prims/matmul_cuda.product_transposed keeps there: depth, row length
SHARED_BYTES = 48 * 1024                                 # of a block, without asking the driver for more
MOST_SHARED = 160 * 1024                                 # with asking: sm_80 has 163 KB for a block, sm_90 227; see `most_shared`
LESS_SHARED = 96 * 1024                                  # of the others, from sm_86 on: these have 99 KB
SUMS_BYTES = 12 * THREADS                                # of shared memory for a sum over a block, or its largest number and where it is
DEVICE = 132                                             # multiprocessors of an H100, for which plans are made on every device
LEAST_ARCHITECTURE = (8, 0)                              # copies to shared memory beside other work
CLUSTERS = (9, 10)                                       # first numbers of the architectures that have clusters of several blocks, and room for them
CLUSTER = 8                                              # blocks of a cluster, which is the most that every such device takes
MOST_CLUSTER_SHARED = 224 * 1024                         # of a block of a cluster: these have 227 KB
MOST_TASKS = 32 * DEVICE                                 # blocks of a lane
MOST_WORDS = 480                                         # of a launch, whose parameters may take 4096 bytes
MOST_STEPS = 32                                          # of a launch, which is one function in the end
MOST_CHIP_STEPS = 64                                     # where one of its chains is on chip, whose steps are short
TALL = 4                                                 # rows of a thread's tile in products on chip; a task of no more rows has few
ELEMENTS = THREADS                                       # of a sweep, for each block
FEW_ELEMENTS = 64                                        # of a chain's largest step, for each block, as long as not every multiprocessor has one
BLOCK_ROWS = 2 * WARPS                                   # of a chain that gathers (`Step.gathers`), at most, as far as MOST_TASKS go
STEPS = 128                                              # of the walk through entries and rows of a sparse matrix, for each block: 16 for a warp
SCANNED = 8                                              # rows of a table for which a warp looks at all indices, as long as others are busy, too
LARGE_IMAGE = 32 * 1024                                  # bytes of an image, in and out, that are worth more than one block

# Products: from so many FLOPs on by tiles; sides of them. Which is chosen: products.py.
TILED_FLOPS = 2 ** 22
SIDES = (128, 64, 32)
CORES = ("_tf32", "_bfloat16")                           # ends of the names of their kernels on tensor cores
PRODUCTS = ("layers.dense.dense_forward", "layers.dense.dense_backward_weight", "layers.dense.dense_backward_input_whole")
STACKED = ("prims.stacks.product", "prims.stacks.product_turned")        # the same for every matrix of a stack

# Steps that are a launch of their own: they need all the registers that a thread can have, and beside another lane would lack some.
LIBRARY = "blas.product"                                 # products that are calls of a library, nodes between launches: see runtime/blas.py
# So are those whose blocks form clusters: a launch says of all of its blocks how many do.
ALONE = (*(f"_128{core}" for core in CORES), *(f"{name}_128" for name in STACKED), "_cluster_forward", "_cluster_backward")

# Convolutions: rows and columns of the tile that a block makes, by the end of the kernel's name. Those without an end go into chains.
CONVOLUTIONS = ("prims.implicit.implicit_forward", "prims.implicit.implicit_input", "prims.implicit.implicit_weight")
PATCHES = {"": (64, 16), "_narrow": (128, 32), "_64": (64, 64), "_128": (128, 128)}
FORMS = {"simple_rnn": ("walk", "cluster"), "lstm": ("walk", "cluster"), "gru": ("walk", "cluster"), "gru_before": ("walk",)}
WALKS = tuple(f"layers.recurrent.{cell}{end}_{form}_{way}" for cell, forms in FORMS.items() for form in forms for end in ("", "_any")
              for way in ("forward", "backward"))        # through time
WALK_ROOM = 8                                            # which of a walk's scalars says how many numbers it keeps in shared memory
TAPS = 9                                                 # places of a window that a thread of channels_weight sums for at a time
WHERE = 20 * THREADS                                     # bytes behind the slices, which say where the rows of a tile lie


def most_shared(architecture: tuple[int, int]) -> int:
    """Bytes of shared memory that plans give a block of such a GPU."""
    return MOST_SHARED if architecture[0] in CLUSTERS or architecture in ((8, 0), (8, 7)) else LESS_SHARED


# What steps read and write.

Region = tuple[str, int, int]


def regions(buffers: Sequence[Buffer], plan: Plan) -> list[Region]:
    """(memory, first byte, byte after the last) of each buffer; pieces of one vector are regions of that vector."""
    found = []
    for buffer in buffers:
        name, elements = buffer.inside or (plan.storage(buffer.name), 0)
        start = elements * (buffer.nbytes // buffer.size) if buffer.size else 0
        end = 2 ** 62 if buffer.role == "external" else start + buffer.nbytes
        if end > start:
            found.append((name, start, end))
    return found


def _meet(some: Sequence[Region], others: Sequence[Region]) -> bool:
    return any(name == other and start < stop and begin < end for name, start, end in some for other, begin, stop in others)


def dependences(plan: Plan) -> list[set[int]]:
    """For every step the earlier ones that it may not overtake: it reads or writes what they write, or writes what they read."""
    written = [regions(step.writes + step.updates + step.scratch, plan) for step in plan.steps]
    touched = [regions(step.buffers, plan) for step in plan.steps]
    return [{i for i in range(j) if _meet(written[i], touched[j]) or _meet(touched[i], written[j])} for j in range(len(plan.steps))]


def _apart(plan: Plan, before: Sequence[set[int]]) -> list[set[int]]:
    """For every step those of `before` with which it is not in one chain either: one of the two reads at any row what the other writes."""
    written = [regions(step.writes + step.updates, plan) for step in plan.steps]
    gathered = [regions([step.reads[position] for position in step.gathers], plan) for step in plan.steps]
    return [{i for i in before[j] if _meet(written[i], gathered[j]) or _meet(gathered[i], written[j])} for j in range(len(plan.steps))]


# Tasks.

def _by_elements(step: Step) -> int:
    """For sweeps over the elements of what the step writes or updates first."""
    return min(MOST_TASKS, -(-(step.writes + step.updates)[0].size // ELEMENTS))


def _by_rows_of_result(step: Step) -> int:
    """For products whose tasks take rows of what they write."""
    rows, columns = step.writes[0].shape
    return min(rows, -(-rows * columns // THREADS))


def strip(columns: int) -> int:
    """Columns of a matrix of so many that a block sums."""
    return max(1, columns if columns <= NARROW else COLUMNS)


def joined_strip(columns: int, rows: int) -> int:
    """The same where the block sums all of the rows, which other blocks have made: of many rows fewer columns, a sector of memory."""
    return max(1, min(columns, FEW)) if rows >= MANY else strip(columns)


def _joined(columns: int, rows: int) -> int:
    return -(-columns // joined_strip(columns, rows))


def _by_pieces(step: Step) -> int:
    """For sums down columns by chunks of rows: what is written first holds a row for each chunk."""
    columns = step.writes[0].shape[-1]
    return step.writes[0].shape[0] * -(-columns // strip(columns))


def _by_channels(step: Step) -> int:
    """For steps that join the chunks of so many channels as the first scalar says; what they read first has a row for each chunk."""
    return _joined(int(step.scalars[0]), step.reads[0].shape[0])


def _by_copies(step: Step) -> int:
    """For sums over the middle axis."""
    stretches, copies, length = step.reads[0].shape
    return min(MOST_TASKS, stretches * _joined(length, copies))


def _by_numbers(step: Step) -> int:
    """For steps of which each task writes a number, or several."""
    return step.writes[0].shape[-1]


def _by_walk(step: Step) -> int:
    """For steps along the rows of a sparse matrix: what they read first says where these begin, the next has a row for each entry."""
    return min(MOST_TASKS, -(-(step.reads[0].size + step.reads[1].shape[0]) // STEPS))


def _by_table(step: Step) -> int:
    """For steps of which each warp has rows of a table."""
    rows = step.writes[0].shape[0]
    return min(MOST_TASKS, max(-(-rows // (SCANNED * WARPS)), min(DEVICE, -(-rows // WARPS))))


def _by_squares(step: Step) -> int:
    from nnkit.optimizers.base import WIDTH

    return step.writes[0].size // WIDTH


def _as_planned(step: Step) -> int:
    """For steps that are cut by shapes alone."""
    return step.tasks


def image_pieces(N: int, nbytes: int) -> int:
    """Into how many pieces a step on N images, all of so many bytes, is worth cutting an image: 1 where they are small or many."""
    return 1 if N == 0 or N >= 2 * DEVICE or nbytes < LARGE_IMAGE * N else -(-4 * DEVICE // N)


# Steps that are not row-local and that several tasks can share; all others are one task's.
TASKS: Mapping[str, Callable[[Step], int]] = {
    "layers.dense.dense_backward_weight": _by_rows_of_result,
    "prims.pointwise.add": _by_elements,
    "prims.pointwise.zero": _by_elements,
    "optimizers.rules.clip_by_value": _by_elements,
    "optimizers.rules.clip_by_norm": _by_elements,
    "optimizers.rules.square_sums": _by_squares,
    "losses.penalty.penalty": _by_numbers,
    "losses.penalty.add_penalty_gradient": _by_elements,
    "losses.penalty.column_totals": _by_pieces,
    "layers.sampling.kl_divergence": _by_numbers,
    "layers.prelu.prelu_gradient_sums": _by_pieces,
    "layers.prelu.prelu_repeat": _by_elements,
    "layers.norm.batch_norm_moments": _by_pieces,
    "layers.norm.batch_norm_moments_inner": _by_numbers,
    "layers.norm.batch_norm_statistics": _by_channels,
    "layers.norm.batch_norm_gradient_sums": _by_pieces,
    "layers.norm.batch_norm_gradient_sums_inner": _by_numbers,
    "layers.norm.batch_norm_gradients": _by_channels,
    "layers.norm.batch_norm_fold": _by_elements,
    "layers.norm.fill": _by_elements,
    "layers.norm.layer_norm_gradient_sums": _by_pieces,
    "layers.norm.layer_norm_gradients": lambda step: _joined(step.reads[0].shape[-1], step.reads[0].shape[0]),
    **dict.fromkeys(("prims.csr.csr_product", "prims.csr.csr_product_heads", "prims.csr.csr_entries", "prims.csr.csr_entries_heads",
                     "prims.attention.edge_softmax_forward", "prims.attention.edge_softmax_backward", "prims.attention.csr_row_sums",
                     "prims.segment.csr_max_forward", "prims.segment.csr_max_backward", "prims.segment.segment_sum_forward",
                     "prims.segment.segment_mean_forward", "prims.segment.segment_max_forward"), _by_walk),
    **dict.fromkeys(("prims.attention.csr_places", "prims.segment.segment_sum_backward", "prims.segment.segment_mean_backward",
                     "prims.segment.segment_max_backward"), _by_elements),
    "layers.graph.pair_dot_forward": lambda step: min(MOST_TASKS, -(-step.writes[0].size // (4 * WARPS))),
    "layers.graph.pair_dot_backward": _by_table,
    "layers.embedding.embedding_backward": _by_table,
    "prims.reduce.sum_chunks": _by_pieces,
    "prims.reduce.sum_middle": _by_copies,
    **dict.fromkeys(("layers.pool.max_forward", "layers.pool.max_backward", "layers.pool.sum_forward", "layers.pool.sum_backward",
                     "layers.resample.shift", "layers.resample.linear_forward", "layers.resample.linear_backward",
                     "prims.depthwise.channels_forward", "prims.depthwise.channels_input", "prims.depthwise.channels_weight", *WALKS), _as_planned),
    **dict.fromkeys(("prims.recurrent.pack_quartets", "prims.recurrent.pack_quartets_turned", "prims.recurrent.keep_state"), _by_elements),
    **dict.fromkeys((f"{name}{end}{core}" for name in CONVOLUTIONS for end in PATCHES for core in ("", *CORES)), _as_planned),
    **dict.fromkeys((f"{name}_{side}{core}" for name in PRODUCTS for side in SIDES for core in ("", *CORES)), _as_planned),
    **dict.fromkeys((f"{name}_{side}" for name in STACKED for side in SIDES), _as_planned),
    **dict.fromkeys((f"prims.stacks.{transform}{m}" for transform in ("factors", "outputs", "weight_factors", "weight") for m in (2, 4)),
                    _as_planned),
}


def _tasks(step: Step) -> int:
    update = step.kernel.startswith("optimizers.rules.") and step.kernel.endswith("_update")
    rule = _by_elements if update else TASKS.get(step.kernel)
    return 1 if rule is None else max(1, rule(step))


def _chain_tasks(steps: Sequence[Step]) -> int:
    """Of a chain; of one on chip it was decided with what a block holds."""
    return next((step.tasks for step in steps if step.on_chip), 0) or _row_tasks(steps)


def _row_tasks(steps: Sequence[Step]) -> int:
    """Of a chain: about one element of its largest step for each thread, fewer where that leaves multiprocessors idle; a task has a row at least."""
    largest = max(buffer.size for step in steps for buffer in step.writes + step.updates)
    wanted = max(-(-largest // THREADS), min(DEVICE, -(-largest // FEW_ELEMENTS)))
    if any(step.gathers for step in steps):              # rows wait for their entries: a warp has one, as far as all blocks run at a time
        wanted = max(wanted, min(2 * DEVICE, -(-steps[0].rows // WARPS)), -(-steps[0].rows // BLOCK_ROWS))
    return max(1, min(steps[0].rows, MOST_TASKS, wanted))


def scratch_bytes(steps: Sequence[Step]) -> int:
    """Bytes of shared memory that these steps need, one after the other."""
    sides = {f"{name}_{side}{core}": side for name in (*PRODUCTS, *STACKED) for side in SIDES for core in ("", *CORES)}
    tiles = [slices_bytes(sides[step.kernel], step.writes[0].dtype) for step in steps if step.kernel in sides]
    pieces = [(CHUNK * LEDGE + THREADS) * ITEMSIZE[step.writes[0].dtype] for step in steps if step.kernel == PRODUCTS[2]]
    drawn = [DRAWN[step.kernel](ITEMSIZE[step.buffers[0].dtype]) for step in steps if step.kernel in DRAWN]
    ends = {f"{name}{end}{core}": end for name in CONVOLUTIONS for end in PATCHES for core in ("", *CORES)}
    parts = [4 * THREADS * ITEMSIZE[step.writes[0].dtype] for step in steps if step.kernel == "prims.chip.sum_parts"]
    patches = [patch_bytes(ends[step.kernel], step.writes[0].dtype) for step in steps if step.kernel in ends]
    walks = [int(step.scalars[WALK_ROOM]) * ITEMSIZE[step.writes[0].dtype] for step in steps if step.kernel in WALKS]
    return max([SUMS_BYTES, *tiles, *pieces, *drawn, *parts, *patches, *walks])


# Random numbers that a block draws at a time: four words of 32 bits, or four normal numbers, for each thread.
DRAWN: Mapping[str, Callable[[int], int]] = {
    **dict.fromkeys(("layers.dropout.dropout_apply", "layers.dropout.dropout_mask"), lambda itemsize: 16 * THREADS),
    **dict.fromkeys(("layers.noise.gaussian_noise_forward", "layers.sampling.sampling_forward"), lambda itemsize: 4 * itemsize * THREADS),
}


def slices_bytes(side: int, dtype: str) -> int:
    """Of two slices of both factors of a product by tiles: one is used while the other comes."""
    return 4 * DEPTH * (side + PAD) * ITEMSIZE[dtype]


def patch_bytes(end: str, dtype: str) -> int:
    """Of a convolution by tiles: two slices of both factors, and where the rows lie."""
    return 2 * DEPTH * (sum(PATCHES[end]) + 2 * PAD) * ITEMSIZE[dtype] + WHERE


# Launches.

def step_words(step: Step) -> int:
    """How many words the step's kernel reads."""
    return sum(1 + len(buffer.shape) for buffer in step.buffers) + len(step.scalars)


def coded(step: Step) -> str:
    """The step's kernel as the code of a launch names it: behind an @, where it works on chip, a letter for each array. w: all of it lies in the
    block's shared memory; r: the rows of its task do; -: it lies in global memory."""
    letters = "".join({"chip_whole": "w", "chip_rows": "r"}.get(buffer.role, "-") for buffer in step.buffers)
    return f"{step.kernel}@{letters}" if step.on_chip else step.kernel


def shared_bytes(plan: Plan, lanes: Sequence[Sequence[Step]]) -> int:
    """Bytes of shared memory of a launch's blocks."""
    steps = [step for lane in lanes for step in lane]
    return max(scratch_bytes(steps), plan.chip_bytes if any(step.on_chip for step in steps) else 0)


def into_launches(plan: Plan) -> Plan:
    """Put the steps into the order of launches and say where launches (`groups`) and lanes begin.

    A launch takes every step whose predecessors are done, and lets row-local chains run on as far as they can. So the row-local part of a network
    goes through forward and backward in one launch, and the gradients of all weights follow side by side in the next.
    """
    before = dependences(plan)
    apart = _apart(plan, before)
    done: set[int] = set()
    steps: list[Step] = []
    groups: list[int] = []
    lanes: list[int] = []
    while len(done) < len(plan.steps):
        groups.append(len(steps))
        for lane in _next_launch(plan, before, apart, done):
            chain = [plan.steps[index] for index in lane]
            tasks = _chain_tasks(chain) if chain[0].rows else _tasks(chain[0])
            lanes.append(len(steps))
            steps += [attrs.evolve(step, tasks=tasks) for step in chain]
            done.update(lane)
    return attrs.evolve(plan, steps=tuple(steps), groups=tuple(groups), lanes=tuple(lanes))


def _next_launch(plan: Plan, before: Sequence[set[int]], apart: Sequence[set[int]], done: set[int]) -> list[list[int]]:
    """The lanes of the next launch, as numbers of steps."""
    pending = [index for index in range(len(plan.steps)) if index not in done]
    taken: set[int] = set()
    words = count = 0
    most = MOST_CHIP_STEPS if plan.chip else MOST_STEPS
    lanes: list[list[int]] = []
    chains: dict[tuple[int, bool], list[int]] = {}       # by rows, of a batch or of parameters: steps of as many rows may go into one
    for index in pending:
        step = plan.steps[index]
        needed = before[index] - done
        chain = chains.setdefault((step.rows, step.phase == "update"), []) if step.rows else []
        if step.kernel.endswith(ALONE) or step.kernel.startswith(LIBRARY):
            if taken or needed:
                continue
            return [[index]]
        if not needed <= set(chain) - apart[index] or (taken and (words + step_words(step) + len(lanes) + 1 > MOST_WORDS or count == most)):
            continue
        if not chain:
            lanes.append(chain)
        chain.append(index)
        taken.add(index)
        words, count = words + step_words(step), count + 1
    return lanes


def lanes_of(plan: Plan) -> list[list[list[Step]]]:
    """The steps of every lane of every launch."""
    ends = dict(zip(plan.lanes, [*plan.lanes[1:], len(plan.steps)], strict=True))
    return [[list(plan.steps[start:ends[start]]) for start in plan.lanes if first <= start < last] for first, last in plan.group_bounds()]
