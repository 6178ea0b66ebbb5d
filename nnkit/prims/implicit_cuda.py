"""Convolutions on the device: products by tiles whose left factor, the patches, is gathered on the way. Letters: see convolution.py.

    forward   y [places of y, O] = patches of x [places of y, T R S C] W
    input     dx [places of dx, C] = patches of dy [places of dx, T R S O] W^T
    weight    dW [T R S C, O] = (patches of x)^T dy, in slices of the places of y

A block makes a tile as in matmul_cuda.py. Shared memory holds, behind the slices of both factors, where the patches of the rows begin: of each the
number of its first place in the image batch (FIRST) and that place's depth, row and column there, which may lie outside; what lies outside is 0.
So an element of a slice costs a few additions, no division. Places are counted in 32 bits: a batch has fewer than 2^31 of them.

Of a stride s, only every s-th place of the window sees a given place of dx. So these are parted into phases, by their remainders by the strides;
in each the gradient is like a convolution without stride by some of the window's places: nothing is multiplied in vain.

Groups are products of their own. Sums go over k in ascending order: their bits do not depend on tasks or on the size of the tile.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnkit.cuda_jit import (
    THREADS,
    Kernel,
    barrier,
    copy_later,
    data,
    kernel,
    registers,
    routine,
    scratch,
    thread,
    wait_for_copies,
    whole_numbers,
)
from nnkit.jit import Int, Matrix, Vector, Windows
from nnkit.plan.launch import DEPTH, PAD, PATCHES
from nnkit.prims.block_cuda import divided, row_share
from nnkit.prims.matmul_cuda import LINE, line_and_column, slice_product, slices
from nnkit.scalar import maximum

__all__ = [
    "axis_phase", "implicit_forward", "implicit_forward_64", "implicit_forward_128", "implicit_forward_narrow", "implicit_input", "implicit_input_64",
    "implicit_input_128", "implicit_input_narrow", "implicit_weight", "implicit_weight_64", "implicit_weight_128", "implicit_weight_narrow",
]

NOWHERE = -(1 << 30)                                     # outside of every image, whatever part of a window is added
FIRST, DEEP, HIGH, ACROSS, ENTRY = range(5)              # what is kept of a row's patch; numbers of an entry
GAP = THREADS // DEPTH                                   # rows between those of a slice that a thread brings
COUNTS, FIRSTS, GAPS, STEPS = range(0, 12, 3)            # of a phase, for each axis: see `axis_phase`


# Where the patches lie.

@routine
def put_entry(table, row, n, d, h, w, D, H, W):
    """The row's patch begins at place (d, h, w) of image n."""
    at = row * ENTRY
    table[at + FIRST] = np.int32(((n * D + d) * H + h) * W + w)
    table[at + DEEP] = np.int32(d)
    table[at + HIGH] = np.int32(h)
    table[at + ACROSS] = np.int32(w)


@routine
def no_entry(table, row):
    """The row has no patch."""
    at = row * ENTRY
    table[at + FIRST] = np.int32(0)
    table[at + DEEP] = table[at + HIGH] = table[at + ACROSS] = np.int32(NOWHERE)


@routine
def put_window(table, row, m, first_image, windows):
    """The row's patch is window m of the images from first_image on."""
    D, H, W, _, _, _, stride_d, stride_h, stride_w, _, _, _, before_d, before_h, before_w, E, P, Q, _, _, _ = windows
    rest, q = divided(m, Q)
    rest, p = divided(rest, P)
    n, e = divided(rest, E)
    put_entry(table, row, first_image + n, e * stride_d - before_d, p * stride_h - before_h, q * stride_w - before_w, D, H, W)


@routine
def place_in(table, row, ahead, d, h, w, D, H, W):
    """(the number of the place that lies (d, h, w) behind the beginning of the row's patch, `ahead` places, whether it is in the image)."""
    at = row * ENTRY
    inside = ((np.uint32(table[at + DEEP] + d) < np.uint32(D)) & (np.uint32(table[at + HIGH] + h) < np.uint32(H))
              & (np.uint32(table[at + ACROSS] + w) < np.uint32(W)))
    return np.int64(np.int32(table[at + FIRST] + ahead)), inside


def patches(tall: int) -> Any:
    """How a block brings a slice of patches: the thread's k is one place of the window and one channel, its rows are GAP apart."""
    @routine
    def fetch(place, begin, table, source, channels, c, d, h, w, D, H, W):
        """The slice from place[begin] on: of each row channel c of the place (d, h, w) behind the patch's first; 0 outside of the image."""
        t = thread()
        near, far = t % DEPTH, t // DEPTH
        ahead = (d * H + h) * W + w
        for u in range(tall // GAP):
            at, inside = place_in(table, far + u * GAP, ahead, d, h, w, D, H, W)
            copy_later(place, begin + near * (tall + PAD) + far + u * GAP, source, at * channels + c if inside else 0, inside)
    return fetch


def sums_by_slices(tall: int, wide: int, fetch: Any) -> Any:
    """The routine that sums products for a tile. fetch(place, begin, k0, K, factors) brings the slices of both factors from k0 on."""
    add_products, _, _ = slice_product(tall, wide)
    room = DEPTH * (tall + wide + 2 * PAD)               # of a slice of both factors
    own = tall * wide // THREADS

    @routine
    def sums(accumulators, place, start, K, factors, like):
        """accumulators = the sums over k in [start, K); the first of a tile's barriers is the caller's."""
        line, column = line_and_column(thread())
        for i in range(own):
            accumulators[i] = like.dtype.type(0)
        now = room
        for k0 in range(start - DEPTH, K, DEPTH):        # the first turn only brings; so what brings stands in the launch once
            coming = room - now
            if k0 >= start:
                wait_for_copies()
                barrier()
            if k0 + DEPTH < K:
                fetch(place, coming, start, k0 + DEPTH, K, factors)
            if k0 >= start:
                add_products(accumulators, place, now, line, column, like)
            now = coming
    return sums


def storing(tall: int, wide: int) -> Any:
    """The routine that writes a tile of places."""
    _, row_of, column_of = slice_product(tall, wide)
    columns = wide // LINE

    @routine
    def store(accumulators, y, width, table, start, stop, bias, relu):
        """y[place width + column] = the sum (+ bias), with relu max(that, 0); columns begin at `start`. The rows' places stand behind their entries;
        -1 where a row is not there."""
        line, column = line_and_column(thread())
        ys, shifts, least = data(y), data(bias), y.dtype.type(0 if relu else -math.inf)
        for i in range(tall // LINE):
            row = np.int64(table[tall * ENTRY + row_of(line, i)])
            for j in range(columns):
                c = start + column_of(column, j)
                if row >= 0 and c < stop:
                    value = accumulators[i * columns + j]
                    ys[row * width + c] = maximum(value + shifts[c] if bias.size else value, least)
    return store


@routine
def channels_of(windows):
    """(channels, filters) of a group."""
    return divided(windows[18], windows[20])[0], divided(windows[19], windows[20])[0]


# Forward.

def forward_slices(tall: int, wide: int) -> Any:
    """Slices of patches of x, and of W."""
    fetch_patches, fetch_weight = patches(tall), slices(wide, False)

    @routine
    def fetch(place, begin, start, k0, K, factors):
        table, x, weight, each, first_channel, first_filter, stop_filter, windows = factors
        D, H, W, _, R, S, _, _, _, step_d, step_h, step_w, _, _, _, _, _, _, C, O, _ = windows
        k = k0 + thread() % DEPTH
        tap, c = divided(k, each)
        rest, s = divided(tap, S)
        t, r = divided(rest, R)
        fetch_patches(place, begin, table, x, C, first_channel + c, t * step_d if k < K else NOWHERE, r * step_h, s * step_w, D, H, W)
        fetch_weight(place, begin + DEPTH * (tall + PAD), weight, O, first_filter, stop_filter, k0, K)
    return fetch


def forward_tiles(tall: int, wide: int) -> Any:
    """The routine that makes y by tiles."""
    sums, store = sums_by_slices(tall, wide, forward_slices(tall, wide)), storing(tall, wide)
    behind = 2 * DEPTH * (tall + wide + 2 * PAD)
    tile = registers(tall * wide // THREADS)

    @routine
    def tiles(first, step, first_image, images, y, x, weight, bias, windows, relu):
        """The tiles first, first + step, ... of y of the images [first_image, first_image + images)."""
        E, P, Q, O, G = windows[15], windows[16], windows[17], windows[19], windows[20]
        each, own = channels_of(windows)
        K = windows[3] * windows[4] * windows[5] * each
        accumulators, place = tile(y), scratch(y)
        table = whole_numbers(place, behind)
        rows = images * E * P * Q
        high, across = divided(rows + tall - 1, tall)[0], divided(own + wide - 1, wide)[0]
        for number in range(first, high * across * G, step):
            rest, right = divided(number, across)
            group, down = divided(rest, high)
            start, t, m = group * own + right * wide, thread(), down * tall + thread()
            barrier()                                    # whoever used the scratch before is done
            if t < tall:
                if m < rows:
                    put_window(table, t, m, first_image, windows)
                else:
                    no_entry(table, t)
                table[tall * ENTRY + t] = np.int32(first_image * E * P * Q + m if m < rows else -1)
            barrier()
            sums(accumulators, place, 0, K, (table, data(x), data(weight), each, group * each, start, (group + 1) * own, windows), y)
            store(accumulators, y, O, table, start, (group + 1) * own, bias, relu)
    return tiles


def forward_by_tiles(end: str) -> Kernel:
    """implicit_forward by tiles of which each is any task's."""
    tiles = forward_tiles(*PATCHES[end])

    @kernel
    def forward(task: Int, tasks: Int, y: Matrix, x: Matrix, weight: Matrix, bias: Vector, windows: Windows, relu: Int) -> None:
        """y = x * W + b."""
        tiles(task, tasks, 0, y.shape[0], y, x, weight, bias, windows, relu)
    return forward


whole_forward = forward_tiles(*PATCHES[""])


@kernel
def implicit_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, weight: Matrix, bias: Vector, windows: Windows, relu: Int) -> None:
    """y = x * W + b, then max(y, 0) if relu. Shapes: y [N, E P Q O], x [N, D H W C], weight [T R S C/G, O], bias [O] or empty.

    Row-local. Writes y (=).
    """
    start, stop = row_share(y.shape[0], tasks, task)
    whole_forward(0, 1, start, stop - start, y, x, weight, bias, windows, relu)


implicit_forward_narrow, implicit_forward_64, implicit_forward_128 = (forward_by_tiles(end) for end in ("_narrow", "_64", "_128"))


# Gradient by the input.

@routine
def axis_phase(place, window, stride, step, before):
    """Which windows along an axis see the places `place`, place + stride, ... of the input: (places of them, first, gap, step, offset).

    So many places of the window do, from `first` on, `gap` apart. Place u of these belongs to window number i + offset - u step for input place i.
    """
    first = 0
    while first < window and divided(place + before + first * step * (stride - 1), stride)[1] != 0:
        first += 1
    gap = 1
    while divided(gap * step, stride)[1] != 0:
        gap += 1
    many = divided(window - first + gap - 1, gap)[0]
    at = place + before - first * step                   # a multiple of the stride, if there is a place
    offset = divided(at, stride)[0] if at >= 0 else -divided(-at, stride)[0]
    return many, first, gap, divided(gap * step, stride)[0], offset


@routine
def phase_sizes(phase, windows):
    """(remainders by the strides, how many places have them) along each axis."""
    D, H, W, _, _, _, stride_d, stride_h, stride_w, _, _, _, _, _, _, _, _, _, _, _, _ = windows
    rest, w = divided(phase, stride_w)
    d, h = divided(rest, stride_h)
    return (d, h, w, divided(D - d + stride_d - 1, stride_d)[0], divided(H - h + stride_h - 1, stride_h)[0],
            divided(W - w + stride_w - 1, stride_w)[0])


@routine
def put_phase(header, axis, phase):
    """Keep what `axis_phase` found where all threads of the block can read it."""
    header[COUNTS + axis] = np.int32(phase[0])
    header[FIRSTS + axis] = np.int32(phase[1])
    header[GAPS + axis] = np.int32(phase[2])
    header[STEPS + axis] = np.int32(phase[3])


def input_slices(tall: int, wide: int) -> Any:
    """Slices of patches of dy, and of the transpose of W."""
    fetch_patches = patches(tall)

    @routine
    def fetch(place, begin, start, k0, K, factors):
        table, header, dy, weight, own, first_filter, each, first, windows = factors
        R, S, E, P, Q, O = windows[4], windows[5], windows[15], windows[16], windows[17], windows[19]
        near, far = thread() % DEPTH, thread() // DEPTH
        tap, o = divided(k0 + near, own)
        rest, s = divided(tap, np.int64(header[COUNTS + 2]))
        t, r = divided(rest, np.int64(header[COUNTS + 1]))
        exists = k0 + near < K
        d, h, w = -t * header[STEPS], -r * header[STEPS + 1], -s * header[STEPS + 2]
        fetch_patches(place, begin, table, dy, O, first_filter + o, d if exists else NOWHERE, h, w, E, P, Q)
        t, r, s = header[FIRSTS] + t * header[GAPS], header[FIRSTS + 1] + r * header[GAPS + 1], header[FIRSTS + 2] + s * header[GAPS + 2]
        at = (((t * R + r) * S + s) * each + first + far) * O + first_filter + o
        for u in range(wide // GAP):
            inside = (first + far + u * GAP < each) & exists
            to = begin + DEPTH * (tall + PAD) + near * (wide + PAD) + far + u * GAP
            copy_later(place, to, weight, at + u * (GAP * O) if inside else 0, inside)
    return fetch


def input_tiles(tall: int, wide: int) -> Any:
    """The routine that makes dx by tiles."""
    sums, store = sums_by_slices(tall, wide, input_slices(tall, wide)), storing(tall, wide)
    behind = 2 * DEPTH * (tall + wide + 2 * PAD)
    tile = registers(tall * wide // THREADS)

    @routine
    def prepare(table, header, phase, t, m, rows, first_image, windows):
        """Say where the patches of the rows from m - t on lie, and what of the window the phase has; returns how much that is."""
        D, H, W, T, R, S, stride_d, stride_h, stride_w, step_d, step_h, step_w, before_d, before_h, before_w, E, P, Q, _, _, _ = windows
        d, h, w, _, high, wide_ = phase_sizes(phase, windows)
        deep, down, across = (axis_phase(d, T, stride_d, step_d, before_d), axis_phase(h, R, stride_h, step_h, before_h),
                              axis_phase(w, S, stride_w, step_w, before_w))
        if t == 0:
            put_phase(header, 0, deep)
            put_phase(header, 1, down)
            put_phase(header, 2, across)
        if t < tall:
            rest, c = divided(m, wide_)
            rest, b = divided(rest, high)
            n, a = divided(rest, phase_sizes(phase, windows)[3])
            table[tall * ENTRY + t] = np.int32(-1)
            if m < rows:
                put_entry(table, t, first_image + n, a + deep[4], b + down[4], c + across[4], E, P, Q)
                table[tall * ENTRY + t] = np.int32((((first_image + n) * D + d + a * stride_d) * H + h + b * stride_h) * W + w + c * stride_w)
            else:
                no_entry(table, t)
        return deep[0] * down[0] * across[0]

    @routine
    def tiles(first, step, first_image, images, dx, dy, weight, bias, windows, relu):
        """The tiles first, first + step, ... of dx of the images [first_image, first_image + images)."""
        C, G, phases = windows[18], windows[20], windows[6] * windows[7] * windows[8]
        each, own = channels_of(windows)
        accumulators, place = tile(dx), scratch(dx)
        table = whole_numbers(place, behind)
        header = whole_numbers(place, behind + tall * (ENTRY + 1))
        _, _, _, deep, high, broad = phase_sizes(0, windows)                       # the largest phase
        down, across = divided(images * deep * high * broad + tall - 1, tall)[0], divided(each + wide - 1, wide)[0]
        for number in range(first, down * across * G * phases, step):
            rest, right = divided(number, across)
            rest, top = divided(rest, down)
            phase, group = divided(rest, G)
            _, _, _, deep, high, broad = phase_sizes(phase, windows)
            rows = images * deep * high * broad
            if top * tall < rows:
                barrier()                                # whoever used the scratch before is done
                taps = prepare(table, header, phase, thread(), top * tall + thread(), rows, first_image, windows)
                barrier()
                sums(accumulators, place, 0, taps * own,
                     (table, header, data(dy), data(weight), own, group * own, each, right * wide, windows), dx)
                start = group * each + right * wide
                store(accumulators, dx, C, table, start, (group + 1) * each, bias, relu)
    return tiles


def input_by_tiles(end: str) -> Kernel:
    """implicit_input by tiles of which each is any task's."""
    tiles = input_tiles(*PATCHES[end])

    @kernel
    def input_gradient(task: Int, tasks: Int, dx: Matrix, dy: Matrix, weight: Matrix, bias: Vector, windows: Windows, relu: Int) -> None:
        """dx = dy spread over the windows (+ b)."""
        tiles(task, tasks, 0, dx.shape[0], dx, dy, weight, bias, windows, relu)
    return input_gradient


whole_input = input_tiles(*PATCHES[""])


@kernel
def implicit_input(task: Int, tasks: Int, dx: Matrix, dy: Matrix, weight: Matrix, bias: Vector, windows: Windows, relu: Int) -> None:
    """dx = dy spread over the windows (+ b, where this is a transposed convolution, then max(dx, 0) if relu). dx [N, D H W C], dy [N, E P Q O].

    weight [T R S C/G, O], bias [C] or empty. Row-local. Writes dx (=).
    """
    start, stop = row_share(dx.shape[0], tasks, task)
    whole_input(0, 1, start, stop - start, dx, dy, weight, bias, windows, relu)


implicit_input_narrow, implicit_input_64, implicit_input_128 = (input_by_tiles(end) for end in ("_narrow", "_64", "_128"))


# Gradient by the weight.

def weight_slices(tall: int, wide: int) -> Any:
    """Slices of the transpose of patches of x, and of dy. k counts the places of y; where those of THREADS of them lie is written at a time."""
    fetch_dy = slices(wide, False)
    gap = THREADS // tall

    @routine
    def fetch(place, begin, start, k0, K, factors):
        table, x, dy, channel, d, h, w, first_filter, stop_filter, windows = factors
        D, H, W, C, O = windows[0], windows[1], windows[2], windows[18], windows[19]
        since = (k0 - start) & (THREADS - 1)
        near, far = thread() % tall, thread() // tall
        if since == 0:                                   # nobody reads the entries before: the barrier of the slice is behind all
            if k0 + thread() < K:
                put_window(table, thread(), k0 + thread(), 0, windows)
            else:
                no_entry(table, thread())
            barrier()
        ahead = (d * H + h) * W + w
        for u in range(tall // GAP):
            at, inside = place_in(table, since + far + u * gap, ahead, d, h, w, D, H, W)
            copy_later(place, begin + (far + u * gap) * (tall + PAD) + near, x, at * C + channel if inside else 0, inside)
        fetch_dy(place, begin + DEPTH * (tall + PAD), dy, O, first_filter, stop_filter, k0, K)
    return fetch


def weight_by_tiles(end: str) -> Kernel:
    """implicit_weight by tiles of that size."""
    tall, wide = PATCHES[end]
    sums = sums_by_slices(tall, wide, weight_slices(tall, wide))
    _, row_of, column_of = slice_product(tall, wide)
    tile = registers(tall * wide // THREADS)
    behind, columns = 2 * DEPTH * (tall + wide + 2 * PAD), wide // LINE

    @routine
    def store(accumulators, parts, at, first, M, start, stop, O):
        """parts[at + row O + column] = the sum."""
        line, column = line_and_column(thread())
        for i in range(tall // LINE):
            row = first + row_of(line, i)
            for j in range(columns):
                c = start + column_of(column, j)
                if row < M and c < stop:
                    parts[at + row * O + c] = accumulators[i * columns + j]

    @kernel
    def weight_gradient(task: Int, tasks: Int, dweight: Matrix, x: Matrix, dy: Matrix, windows: Windows, chunk: Int) -> None:
        """dW of slices of `chunk` places of y. Shapes: dweight [slices, T R S C/G O], x [N, D H W C], dy [N, E P Q O].

        Task t covers the tiles t, t + tasks, ... of all slices. Writes dweight (=).
        """
        _, _, _, T, R, S, _, _, _, step_d, step_h, step_w, _, _, _, E, P, Q, _, O, G = windows
        each, own = channels_of(windows)
        M, places = T * R * S * each, x.shape[0] * E * P * Q
        accumulators, place = tile(x), scratch(x)
        table = whole_numbers(place, behind)
        down, across = divided(M + tall - 1, tall)[0], divided(own + wide - 1, wide)[0]
        for number in range(task, dweight.shape[0] * G * down * across, tasks):
            rest, right = divided(number, across)
            rest, top = divided(rest, down)
            part, group = divided(rest, G)
            row = top * tall + thread() % tall
            tap, c = divided(min(row, M - 1), each)
            rest, s = divided(tap, S)
            t, r = divided(rest, R)
            barrier()                                    # whoever used the scratch before is done
            start, first = group * own + right * wide, part * chunk
            sums(accumulators, place, first, min(places, first + chunk), (table, data(x), data(dy), group * each + c,
                 t * step_d if row < M else NOWHERE, r * step_h, s * step_w, start, (group + 1) * own, windows), x)
            store(accumulators, data(dweight), part * M * O, top * tall, M, start, (group + 1) * own, O)
    return weight_gradient


implicit_weight, implicit_weight_narrow, implicit_weight_64, implicit_weight_128 = (weight_by_tiles(end) for end in PATCHES)
