"""Direct convolution on packed places: the tile of tile_cpu.py, fed from a few rows of the input that are copied where the tile wants them.

Letters: see convolution.py. A unit of work is a run of TP output rows of one image (and depth): `unit_place`. Its input lies packed, zeros where
there is padding, so that no edge remains for the tile:

    direct   [block of 16 channels][t][row][place][16]. Places of a row are sorted by their remainder by the stride, so that a window's place reads
             neighbours. Chains go over 64 channels and all places of the window.
    few      [t][block of a run][row][q][16]: for every output place along a row the run of S C numbers that its window's row covers; image rows
             sorted by their remainder by the stride. So all places of a unit are one run, and W is read where it lies.
"""

from __future__ import annotations

from nnkit.jit import Int, Matrix, Ordinals, Vector, Windows, kernel, routine
from nnkit.prims.convolution import BLOCK, CHAIN
from nnkit.prims.direct import CHAIN_PLACES
from nnkit.prims.rows_cpu import fill_run
from nnkit.prims.simd_cpu import address, copy_masked, copy_whole, itemsize, lanes, largest_of_square, transpose_tile
from nnkit.prims.tile_cpu import channel_rows, place_rows, put_step

__all__ = [
    "direct_forward", "direct_weight", "few_forward", "few_weight", "pack_filters", "pack_filters_turned",
]


@routine
def copy_run(y, x, n, like):
    """y[:n] = x[:n] by address, whole registers where they are full."""
    size, lane = itemsize(like), lanes(like)
    j = 0
    while j + lane <= n:
        copy_whole(y + size * j, x + size * j, like)
        j += lane
    if j < n:
        copy_masked(y + size * j, x + size * j, n - j, like)


@routine
def unit_place(unit, rows, windows):
    """(image, depth of the output, first row, number of rows) of a unit of at most `rows` output rows."""
    E, P = windows[15], windows[16]
    pieces = (P + rows - 1) // rows
    first = unit % pieces * rows
    return unit // (pieces * E), unit // pieces % E, first, min(rows, P - first)


@routine
def packed_rows(tp, windows):
    """(image rows that tp output rows cover, places of one of them, places for each remainder by the stride)."""
    R, S, stride_h, stride_w, step_h, step_w, Q = windows[4], windows[5], windows[7], windows[8], windows[10], windows[11], windows[17]
    wide = (Q - 1) * stride_w + (S - 1) * step_w + 1
    each = (wide + stride_w - 1) // stride_w
    return (tp - 1) * stride_h + (R - 1) * step_h + 1, each * stride_w, each


@routine
def pack_places(to, image, e, first, tp, channels, windows, like):
    """Pack `channels` channels, which begin at the address `image` of the image's first place, for a unit of `direct`."""
    D, H, W, T, _, _, stride_d, stride_h, stride_w, step_d, _, _, before_d, before_h, before_w, _, _, _, C, _, _ = windows
    size = itemsize(like)
    rows, places, each = packed_rows(tp, windows)
    plane = size * BLOCK * T * rows * places
    for t in range(T):
        d = e * stride_d + t * step_d - before_d
        for r in range(rows):
            h = first * stride_h + r - before_h
            line = to + size * BLOCK * (t * rows + r) * places
            inside = 0 <= d < D and 0 <= h < H
            source = image + size * ((d * H + h) * W - before_w) * C
            for place in range(places):
                at = line + size * BLOCK * (place % stride_w * each + place // stride_w)
                if inside and before_w <= place < W + before_w:
                    for c in range(0, channels, BLOCK):
                        copy_run(at, source + size * (place * C + c), min(BLOCK, channels - c), like)
                        at += plane
                else:
                    for _ in range(0, channels, BLOCK):
                        fill_run(at, like.dtype.type(0), BLOCK, like)
                        at += plane


@routine
def place_steps(steps, tp, channels, windows):
    """The table of a unit of `direct`, at the address `steps`: an offset for every block of channels and place of the window. Returns how many."""
    T, R, S, stride_w, step_h, step_w = windows[3], windows[4], windows[5], windows[8], windows[10], windows[11]
    rows, places, each = packed_rows(tp, windows)
    k = 0
    for c in range(0, channels, BLOCK):
        for t in range(T):
            for r in range(R):
                for s in range(S):
                    along = s * step_w
                    row = (c // BLOCK * T + t) * rows + r * step_h
                    put_step(steps, k, (row * places + along % stride_w * each + along // stride_w) * BLOCK, min(BLOCK, channels - c))
                    k += 1
    return k


@routine
def rows_place(y, packed, task, n, e, first, TP, pool, windows):
    """Where a unit writes its rows: in y, or, where these are pooled afterwards, behind what its task packs."""
    E, P, Q, O = windows[15], windows[16], windows[17], windows[19]
    if pool:
        return address(packed) + itemsize(y) * ((task + 1) * packed.shape[1] - TP * Q * O)
    return address(y) + itemsize(y) * ((n * E + e) * P + first) * Q * O


@routine
def pool_rows(y, rows, n, e, first, tp, windows):
    """y = the largest of every 2 x 2 places of a unit's rows."""
    E, P, Q, O = windows[15], windows[16], windows[17], windows[19]
    size = itemsize(y)
    for p in range(first // 2, (first + tp) // 2):
        for q in range(Q // 2):
            to = address(y) + size * (((n * E + e) * (P // 2) + p) * (Q // 2) + q) * O
            largest_of_square(to, rows + size * ((2 * p - first) * Q + 2 * q) * O, Q * O, O, O, y)


@kernel
def direct_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, filters: Vector, bias: Vector, packed: Matrix, table: Ordinals, windows: Windows,
                   TP: Int, pool: Int, relu: Int) -> None:
    """y = x * W + b, then max(y, 0) if relu, then the largest of every 2 x 2 places if pool. Shapes: y [N, E P Q O], with pool [N, E P/2 Q/2 O],
    x [N, D H W C], filters: W as `pack_filters` writes it, bias [O] or empty, packed [tasks, ...], table [tasks x ...].

    Task t covers its share of the units of TP output rows. Writes y (=).
    """
    D, H, W, T, R, S, _, stride_h, _, _, _, _, _, _, _, E, P, Q, C, O, G = windows
    size = itemsize(y)
    each, own, taps, panel = C // G, O // G, T * R * S, 2 * lanes(y)
    a, steps = address(packed) + size * task * packed.shape[1], address(table) + 8 * task * (table.size // tasks)
    units = y.shape[0] * E * ((P + TP - 1) // TP)
    for unit in range(units * task // tasks, units * (task + 1) // tasks):
        n, e, first, tp = unit_place(unit, TP, windows)
        row_step = packed_rows(tp, windows)[1] * stride_h * BLOCK
        for group in range(G):
            start = address(filters) + size * group * taps * each * own
            to = rows_place(y, packed, task, n, e, first, TP, pool, windows) + size * group * own
            for c in range(0, each, CHAIN):
                channels = min(CHAIN, each - c)
                pack_places(a, address(x) + size * (n * D * H * W * C + group * each + c), e, first, tp, channels, windows, y)
                count = place_steps(steps, tp, channels, windows)
                last = relu if c + channels == each else 0
                for o in range(0, own, panel):
                    width = min(panel, own - o)
                    b = start + size * taps * (c * own + o * channels)
                    for p in range(tp):
                        cell = to + size * (p * Q * O + o)
                        c0, rs0 = (cell, O) if c else (address(bias) + size * (group * own + o) if bias.size else 0, 0)
                        place_rows(Q, width, steps, count, a + size * p * row_step, b, width, cell, O, c0, rs0, last, y)
        if pool:
            pool_rows(y, rows_place(y, packed, task, n, e, first, TP, pool, windows), n, e, first, tp, windows)


@kernel
def direct_weight(task: Int, tasks: Int, dweight: Matrix, x: Matrix, dy: Matrix, packed: Matrix, table: Ordinals, windows: Windows, TP: Int) -> None:
    """dW of slices of the batch. Shapes: dweight [slices, T R S C/G O], x [N, D H W C], dy [N, E P Q O], packed [tasks, ...], table [tasks x ...].

    Task t covers its share of the pairs (slice, CHAIN channels of a group). Writes dweight (=).
    """
    _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, E, P, _, C, _, G = windows
    size = itemsize(x)
    chains = (C // G + CHAIN - 1) // CHAIN
    slices, units = dweight.shape[0], x.shape[0] * E * ((P + TP - 1) // TP)
    a, steps = address(packed) + size * task * packed.shape[1], address(table) + 8 * task * (table.size // tasks)
    jobs = slices * G * chains
    for job in range(jobs * task // tasks, jobs * (task + 1) // tasks):
        part, group, c = job // (G * chains), job // chains % G, job % chains * CHAIN
        to = address(dweight) + size * part * dweight.shape[1]
        start = units * part // slices
        for unit in range(start, units * (part + 1) // slices):
            direct_weight_unit(to, address(x), address(dy), a, steps, group, c, unit_place(unit, TP, windows), unit > start, windows, x)


@routine
def direct_weight_unit(to, x, dy, a, steps, group, c, place, more, windows, like):
    """dW (+)= what one unit gives for the channels of a chain: the unit's dy lies panel by panel behind its packed places."""
    D, H, W, T, R, S, _, stride_h, stride_w, _, step_h, step_w, _, _, _, E, P, Q, C, O, G = windows
    size, panel = itemsize(like), 2 * lanes(like)
    n, e, first, tp = place
    each, own = C // G, O // G
    channels = min(CHAIN, each - c)
    rows, places, remainder = packed_rows(tp, windows)
    pack_places(a, x + size * (n * D * H * W * C + group * each + c), e, first, tp, channels, windows, like)
    b = a + size * BLOCK * ((channels + BLOCK - 1) // BLOCK) * T * rows * places
    chain = CHAIN_PLACES if tp == 1 else Q               # only a single row has more places than a chain may go over
    for o in range(0, own, panel):
        width = min(panel, own - o)
        source = dy + size * (((n * E + e) * P + first) * Q * O + group * own + o)
        for q in range(tp * Q):
            copy_run(b + size * q * width, source + size * q * O, width, like)
        for q in range(0, Q, chain):
            for p in range(tp):
                put_step(steps, p, (p * stride_h * places + q) * BLOCK, min(chain, Q - q))
            for k in range(0, channels, BLOCK):
                for tap in range(T * R * S):
                    t, r, s = tap // (R * S), tap // S % R, tap % S * step_w
                    at = ((k // BLOCK * T + t) * rows + r * step_h) * places + s % stride_w * remainder + s // stride_w
                    cell = to + size * ((tap * each + c + k) * O + group * own + o)
                    channel_rows(min(BLOCK, channels - k), width, steps, tp, a + size * BLOCK * at, BLOCK, b + size * q * width, width, cell, O,
                                 cell if more or q else 0, like)


@kernel
def pack_filters(task: Int, tasks: Int, filters: Vector, weight: Matrix, taps: Int, groups: Int) -> None:
    """W [taps C/G, O] as `direct_forward` reads it: for every group, chain of channels and panel of two registers: [block of channels][tap][c][o].

    Task t covers its share of the rows of W. Writes filters (=).
    """
    rows, O = weight.shape
    size, panel = itemsize(weight), 2 * lanes(weight)
    each, own = rows // taps, O // groups
    for row in range(rows * task // tasks, rows * (task + 1) // tasks):
        tap, c = row // each, row % each
        for group in range(groups):
            base = address(filters) + size * group * taps * each * own
            for o in range(0, own, panel):
                width = min(panel, own - o)
                to = base + size * filter_row(tap, c, o, width, taps, each, own)
                copy_run(to, address(weight) + size * (row * O + group * own + o), width, weight)


@routine
def filter_row(tap, c, o, width, taps, each, own):
    """Where the row (tap, c) of the panel that begins at filter o lies among a group's packed filters."""
    chain = c // CHAIN * CHAIN
    channels = min(CHAIN, each - chain)
    block = (c - chain) // BLOCK * BLOCK
    row = block * taps + tap * min(BLOCK, channels - block) + c - chain - block
    return taps * (chain * own + o * channels) + row * width


@kernel
def pack_filters_turned(task: Int, tasks: Int, filters: Vector, weight: Matrix, taps: Int, groups: Int) -> None:
    """The same for the gradient by the input: W with its places in reverse and channels and filters exchanged. Task t: its share of the places."""
    rows, O = weight.shape
    size, lane = itemsize(weight), lanes(weight)
    each, own = rows // taps, O // groups
    for tap in range(taps * task // tasks, taps * (task + 1) // tasks):
        for group in range(groups):
            base = address(filters) + size * group * taps * each * own
            for c in range(0, each, lane):
                panel = c // (2 * lane) * 2 * lane
                width = min(2 * lane, each - panel)
                for o in range(0, own, lane):
                    to = base + size * (filter_row(taps - 1 - tap, o, panel, width, taps, own, each) + c - panel)
                    source = address(weight) + size * ((tap * each + c) * O + group * own + o)
                    transpose_tile(to, width, source, O, min(lane, each - c), min(lane, own - o), weight)


# Few channels.

@routine
def run_rows(tp, windows):
    """(image rows that tp output rows cover, rounded up to the stride; rows for each remainder by the stride)."""
    stride_h = windows[7]
    rows = (tp - 1) * stride_h + (windows[4] - 1) * windows[10] + 1
    each = (rows + stride_h - 1) // stride_h
    return each * stride_h, each


@routine
def pack_runs(to, image, end, e, first, tp, windows, like):
    """Pack a unit of `few` from the image at an address: the runs of S C numbers. end: where x ends; up to there whole blocks can be copied."""
    D, H, W, T, _, S, stride_d, stride_h, stride_w, step_d, _, _, before_d, before_h, before_w, _, _, Q, C, _, _ = windows
    size = itemsize(like)
    length = S * C
    blocks = (length + BLOCK - 1) // BLOCK
    rows, each = run_rows(tp, windows)
    plane = size * BLOCK * rows * Q
    for t in range(T):
        d = e * stride_d + t * step_d - before_d
        for r in range(rows):
            h = first * stride_h + r - before_h
            line = to + size * BLOCK * ((t * blocks * rows) + r % stride_h * each + r // stride_h) * Q
            inside = 0 <= d < D and 0 <= h < H
            source = image + size * (d * H + h) * W * C
            for q in range(Q):
                w = q * stride_w - before_w
                at = line + size * BLOCK * q
                if inside and w >= 0 and w + S <= W:
                    for k in range(0, length, BLOCK):
                        start = source + size * (w * C + k)
                        copy_run(at, start, BLOCK if start + size * BLOCK <= end else min(BLOCK, length - k), like)
                        at += plane
                else:
                    for k in range(0, length, BLOCK):
                        start, stop = min(length, max(0, -w * C)), max(0, min(length, (W - w) * C))
                        torn_run(at, source + size * (w * C + k), max(start, k) - k, min(stop, k + BLOCK) - k if inside else 0, like)
                        at += plane


@routine
def torn_run(to, source, start, stop, like):
    """A block of zeros with the numbers [start, stop) of the source in their places."""
    size = itemsize(like)
    fill_run(to, like.dtype.type(0), BLOCK, like)
    if start < stop:
        copy_run(to + size * start, source + size * start, stop - start, like)


@routine
def run_offset(t, r, block, tp, windows):
    """Where the block of the window's row (t, r) begins, in elements."""
    stride_h, blocks = windows[7], (windows[5] * windows[18] + BLOCK - 1) // BLOCK
    rows, each = run_rows(tp, windows)
    down = r * windows[10]
    return ((t * blocks + block) * rows + down % stride_h * each + down // stride_h) * windows[17] * BLOCK


@kernel
def few_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, weight: Matrix, bias: Vector, packed: Matrix, table: Ordinals, windows: Windows, TP: Int,
                relu: Int) -> None:
    """As `direct_forward`, W [T R S C, O] as it is, without pooling."""
    D, H, W, T, R, S, _, _, _, _, _, _, _, _, _, E, P, Q, C, O, _ = windows
    size, panel = itemsize(y), 2 * lanes(y)
    a, steps = address(packed) + size * task * packed.shape[1], address(table) + 8 * task * (table.size // tasks)
    units = y.shape[0] * E * ((P + TP - 1) // TP)
    for unit in range(units * task // tasks, units * (task + 1) // tasks):
        n, e, first, tp = unit_place(unit, TP, windows)
        pack_runs(a, address(x) + size * n * D * H * W * C, address(x) + size * x.size, e, first, tp, windows, y)
        count = 0
        for t in range(T):
            for r in range(R):
                for k in range(0, S * C, BLOCK):
                    put_step(steps, count, run_offset(t, r, k // BLOCK, tp, windows), min(BLOCK, S * C - k))
                    count += 1
        to = address(y) + size * ((n * E + e) * P + first) * Q * O
        for o in range(0, O, panel):
            c0, b = address(bias) + size * o if bias.size else 0, address(weight) + size * o
            place_rows(tp * Q, min(panel, O - o), steps, count, a, b, O, to + size * o, O, c0, 0, relu, y)


@kernel
def few_weight(task: Int, tasks: Int, dweight: Matrix, x: Matrix, dy: Matrix, packed: Matrix, table: Ordinals, windows: Windows, TP: Int) -> None:
    """As `direct_weight`; dy is read where it lies. Task t covers its share of the slices."""
    D, H, W, T, R, S, _, _, _, _, _, _, _, _, _, E, P, Q, C, O, _ = windows
    size, panel = itemsize(x), 2 * lanes(x)
    slices, units = dweight.shape[0], x.shape[0] * E * ((P + TP - 1) // TP)
    a, steps = address(packed) + size * task * packed.shape[1], address(table) + 8 * task * (table.size // tasks)
    for part in range(slices * task // tasks, slices * (task + 1) // tasks):
        start = units * part // slices
        for unit in range(start, units * (part + 1) // slices):
            n, e, first, tp = unit_place(unit, TP, windows)
            pack_runs(a, address(x) + size * n * D * H * W * C, address(x) + size * x.size, e, first, tp, windows, x)
            for o in range(0, O, panel):
                b = address(dy) + size * (((n * E + e) * P + first) * Q * O + o)
                for q in range(0, tp * Q, CHAIN_PLACES):
                    put_step(steps, 0, BLOCK * q, min(CHAIN_PLACES, tp * Q - q))
                    for row in range(T * R):
                        for k in range(0, S * C, BLOCK):
                            at = a + size * run_offset(row // R, row % R, k // BLOCK, tp, windows)
                            cell = address(dweight) + size * (part * dweight.shape[1] + (row * S * C + k) * O + o)
                            channel_rows(min(BLOCK, S * C - k), min(panel, O - o), steps, 1, at, BLOCK, b + size * q * O, O, cell, O,
                                         cell if unit > start or q else 0, x)
