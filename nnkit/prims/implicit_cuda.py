"""Convolutions on the device: products by tiles whose left factor, the patches, is gathered on the way. Letters: see convolution.py.

    forward   y [places of y, O] = patches of x [places of y, T R S C] W
    input     dx [places of dx, C] = patches of dy [places of dx, T R S O] W^T
    weight    dW [T R S C, O] = (patches of x)^T dy, in slices of the places of y

A block makes a tile as in matmul_cuda.py. How it gathers the patches: patches_cuda.py.

Of a stride s, only every s-th place of the window sees a given place of dx. So these are parted into phases, by their remainders by the strides;
in each the gradient is like a convolution without stride by some of the window's places: nothing is multiplied in vain.

Groups are products of their own. Sums go over k in ascending order: their bits do not depend on tasks or on the size of the tile.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkit.cuda_jit import (
    THREADS,
    Kernel,
    anew,
    barrier,
    copy_four_later,
    copy_later,
    data,
    four_aligned,
    kernel,
    registers,
    routine,
    scratch,
    thread,
    whole_numbers,
)
from nnkit.jit import Int, Matrix, Vector, Windows
from nnkit.plan.launch import DEPTH, PATCHES
from nnkit.prims.block_cuda import divided, row_share
from nnkit.prims.cores_cuda import WAYS
from nnkit.prims.matmul_cuda import ARITHMETIC, FOUR, Way, slice_bounds, slices
from nnkit.prims.patches_cuda import (
    COUNTS,
    ENTRY,
    FIRSTS,
    GAP,
    GAPS,
    NOWHERE,
    STEPS,
    axis_phase,
    channels_of,
    no_entry,
    numbers_of,
    own_k,
    patches,
    phase_sizes,
    place_in,
    put_entry,
    put_phase,
    put_window,
    slices_in,
    storing,
    sums_by_slices,
)

__all__ = [
    "implicit_forward", "implicit_forward_64", "implicit_forward_64_bfloat16", "implicit_forward_64_tf32", "implicit_forward_128",
    "implicit_forward_128_bfloat16", "implicit_forward_128_tf32", "implicit_forward_narrow", "implicit_forward_narrow_bfloat16",
    "implicit_forward_narrow_tf32", "implicit_input", "implicit_input_64", "implicit_input_64_bfloat16", "implicit_input_64_tf32",
    "implicit_input_128", "implicit_input_128_bfloat16", "implicit_input_128_tf32", "implicit_input_narrow", "implicit_input_narrow_bfloat16",
    "implicit_input_narrow_tf32", "implicit_weight", "implicit_weight_64", "implicit_weight_64_bfloat16", "implicit_weight_64_tf32",
    "implicit_weight_128", "implicit_weight_128_bfloat16", "implicit_weight_128_tf32", "implicit_weight_narrow", "implicit_weight_narrow_bfloat16",
    "implicit_weight_narrow_tf32",
]

OWN, EACH, FILTER, CHANNEL = range(12, 16)               # filters and channels of a group, the tile's first ones: filter of all, channel of the group


# Forward.

def forward_slices(way: Way, tall: int, wide: int) -> Any:
    """Slices of patches of x, and of W."""
    fetch_patches, fetch_weight = patches(way, tall), slices(way, wide, False)
    left, by_four = way.size(tall), way.by_four

    @routine
    def fetch(place, begin, start, k0, K, factors):
        table, x, weight, each, first_channel, first_filter, stop_filter, windows = factors
        D, H, W, _, R, S, _, _, _, step_d, step_h, step_w, _, _, _, _, _, _, C, O, _ = windows
        fours = by_four and four_aligned(x) and each % FOUR == 0          # neighbouring channels of one place
        k = k0 + own_k(fours)
        tap, c = divided(k, each)
        rest, s = divided(tap, S)
        t, r = divided(rest, R)
        fetch_patches(place, begin, table, x, C, first_channel + c, t * step_d if k < K else NOWHERE, r * step_h, s * step_w, D, H, W,
                      fours)
        fetch_weight(place, begin + left, weight, O, first_filter, stop_filter, k0, K)
    return fetch


def forward_tiles(way: Way, tall: int, wide: int) -> Any:
    """The routine that makes y by tiles."""
    product = way.product(tall, wide, True, False)
    sums, store = sums_by_slices(way, tall, wide, product, forward_slices(way, tall, wide)), storing(tall, product)
    behind = 2 * (way.size(tall) + way.size(wide))
    tile = registers(tall * wide // THREADS)

    @routine
    def tiles(first, step, first_image, images, results, y, x, weight, bias, windows, relu):
        """The tiles first, first + step, ... of y of the images [first_image, first_image + images). results: as many, or as many for each of several
        slices: then y holds the sums over each part of k, one behind the other, and the images are all."""
        E, P, Q, O, G = windows[15], windows[16], windows[17], windows[19], windows[20]
        each, own = channels_of(windows)
        K = windows[3] * windows[4] * windows[5] * each
        accumulators, place = tile(y), scratch(y)
        table = whole_numbers(place, behind)
        rows, slices = images * E * P * Q, slices_in(results, images)
        high, across = divided(rows + tall - 1, tall)[0], divided(own + wide - 1, wide)[0]
        for number in range(first, high * across * G * slices, step):
            part, _, group, down, right = numbers_of(number, 1, G, high, across)
            start, t, m = group * own + right * wide, thread(), down * tall + thread()
            barrier()                                    # whoever used the scratch before is done
            if t < tall:
                if m < rows:
                    put_window(table, t, m, first_image, windows)
                else:
                    no_entry(table, t)
                table[tall * ENTRY + t] = np.int32(first_image * E * P * Q + m if m < rows else -1)
            barrier()
            begin, end = slice_bounds(part, slices, K)
            sums(accumulators, place, begin, end, (table, data(x), data(weight), each, group * each, start, (group + 1) * own, windows), y)
            store(accumulators, y, part * rows * O, O, table, start, (group + 1) * own, bias, relu)
    return tiles


def forward_by_tiles(end: str, way: Way) -> Kernel:
    """implicit_forward by tiles of which each is any task's. y may hold the sums of slices of k, one behind the other."""
    tiles = forward_tiles(way, *PATCHES[end])

    @kernel
    def forward(task: Int, tasks: Int, y: Matrix, x: Matrix, weight: Matrix, bias: Vector, windows: Windows, relu: Int) -> None:
        """y = x * W + b."""
        tiles(task, tasks, 0, x.shape[0], y.shape[0], y, x, weight, bias, windows, relu)
    return forward


whole_forward = forward_tiles(ARITHMETIC, *PATCHES[""])


@kernel
def implicit_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, weight: Matrix, bias: Vector, windows: Windows, relu: Int) -> None:
    """y = x * W + b, then max(y, 0) if relu. Shapes: y [N, E P Q O], x [N, D H W C], weight [T R S C/G, O], bias [O] or empty.

    Row-local. Writes y (=).
    """
    start, stop = row_share(y.shape[0], tasks, task)
    whole_forward(0, 1, start, stop - start, stop - start, y, x, weight, bias, windows, relu)


ENDS = ("_narrow", "_64", "_128")
implicit_forward_narrow, implicit_forward_64, implicit_forward_128 = (forward_by_tiles(end, ARITHMETIC) for end in ENDS)
implicit_forward_narrow_tf32, implicit_forward_64_tf32, implicit_forward_128_tf32 = (forward_by_tiles(end, WAYS["_tf32"]) for end in ENDS)
implicit_forward_narrow_bfloat16, implicit_forward_64_bfloat16, implicit_forward_128_bfloat16 = (
    forward_by_tiles(end, WAYS["_bfloat16"]) for end in ENDS)


# Gradient by the input.

def rows_along(way: Way, side: int) -> Any:
    """How a block brings a slice of a factor whose rows lie any distance apart, the thread's steps along k anywhere."""
    index, by_four, turns = way.index(side, True), way.by_four, max(1, side // (FOUR * GAP))

    @routine
    def fetch(place, begin, source, at, stride, rows, exists, fours):
        """The slice from place[begin] on: row r of k is source[at + r stride], 0 from `rows` on, or where the thread's k does not exist."""
        near, t = own_k(fours), anew(thread())
        if by_four and fours:
            for u in range(turns):
                row = t // (DEPTH // FOUR) + u * FOUR * GAP
                if row < side:                           # of a narrow slice not all threads bring
                    inside = (row < rows) & exists
                    copy_four_later(place, begin + index(row, near), source, at + row * stride if inside else 0, FOUR if inside else 0)
            return
        for u in range(anew(side // GAP) if by_four else side // GAP):
            row = t // DEPTH + u * GAP
            inside = (row < rows) & exists
            copy_later(place, begin + index(row, near), source, at + row * stride if inside else 0, inside)
    return fetch


def input_slices(way: Way, tall: int, wide: int) -> Any:
    """Slices of patches of dy, and of the transpose of W."""
    fetch_patches, fetch_weight, left, by_four = patches(way, tall), rows_along(way, wide), way.size(tall), way.by_four

    @routine
    def fetch(place, begin, start, k0, K, factors):
        table, header, dy, weight, windows = factors
        own, first_filter, first = np.int64(header[OWN]), np.int64(header[FILTER]), np.int64(header[CHANNEL])
        R, S, E, P, Q, O = windows[4], windows[5], windows[15], windows[16], windows[17], windows[19]
        fours = by_four and four_aligned(dy) and four_aligned(weight) and own % FOUR == 0       # neighbouring filters of one place
        k = k0 + own_k(fours)
        tap, o = divided(k, own)
        rest, s = divided(tap, np.int64(header[COUNTS + 2]))
        t, r = divided(rest, np.int64(header[COUNTS + 1]))
        exists = k < K
        d, h, w = -t * header[STEPS], -r * header[STEPS + 1], -s * header[STEPS + 2]
        fetch_patches(place, begin, table, dy, O, first_filter + o, d if exists else NOWHERE, h, w, E, P, Q, fours)
        t, r, s = header[FIRSTS] + t * header[GAPS], header[FIRSTS + 1] + r * header[GAPS + 1], header[FIRSTS + 2] + s * header[GAPS + 2]
        at = (((t * R + r) * S + s) * header[EACH] + first) * O + first_filter + o
        fetch_weight(place, begin + left, weight, at, O, header[EACH] - first, exists, fours)
    return fetch


def input_tiles(way: Way, tall: int, wide: int) -> Any:
    """The routine that makes dx by tiles."""
    product = way.product(tall, wide, True, True)
    sums, store = sums_by_slices(way, tall, wide, product, input_slices(way, tall, wide)), storing(tall, product)
    behind = 2 * (way.size(tall) + way.size(wide))
    tile = registers(tall * wide // THREADS)

    @routine
    def prepare(table, header, phase, t, m, rows, first_image, group, first, windows):
        """Say where the patches of the rows from m - t on lie, and what of the window the phase has; returns how much that is. first: channel of dx
        with which the tile begins in its group."""
        D, H, W, T, R, S, stride_d, stride_h, stride_w, step_d, step_h, step_w, before_d, before_h, before_w, E, P, Q, _, _, _ = windows
        d, h, w, _, high, wide_ = phase_sizes(phase, windows)
        deep, down, across = (axis_phase(d, T, stride_d, step_d, before_d), axis_phase(h, R, stride_h, step_h, before_h),
                              axis_phase(w, S, stride_w, step_w, before_w))
        if t == 0:
            each, own = channels_of(windows)
            header[OWN], header[EACH], header[FILTER], header[CHANNEL] = np.int32(own), np.int32(each), np.int32(group * own), np.int32(first)
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
    def numbers(number, images, windows):
        """(slice, phase, group, row of tiles, column of tiles) of a tile, and how many tiles a slice has."""
        _, _, _, deep, high, broad = phase_sizes(0, windows)                       # the largest phase
        G, phases, each = windows[20], windows[6] * windows[7] * windows[8], channels_of(windows)[0]
        down, across = divided(images * deep * high * broad + tall - 1, tall)[0], divided(each + wide - 1, wide)[0]
        part, phase, group, top, right = numbers_of(number, phases, G, down, across)
        return part, phase, group, top, right, down * across * G * phases

    @routine
    def tiles(first, step, first_image, images, results, dx, dy, weight, bias, windows, relu):
        """The tiles first, first + step, ... of dx of the images [first_image, first_image + images). results: as many, or as many for each of
        several slices: then dx holds the sums over each part of k, one behind the other, and the images are all."""
        C = windows[18]
        accumulators, place = tile(dx), scratch(dx)
        table = whole_numbers(place, behind)
        header = whole_numbers(place, behind + tall * (ENTRY + 1))
        number = first
        while number < numbers(0, anew(images), windows)[5] * slices_in(results, anew(images)):    # counted anew, so that registers are free below
            part, phase, group, top, right, _ = numbers(number, anew(images), windows)
            _, _, _, deep, high, broad = phase_sizes(phase, windows)
            rows = images * deep * high * broad
            if top * tall < rows:
                barrier()                                # whoever used the scratch before is done
                taps = prepare(table, header, phase, thread(), top * tall + thread(), rows, first_image, group, right * wide, windows)
                barrier()
                begin, end = slice_bounds(part, slices_in(results, images), taps * header[OWN])
                sums(accumulators, place, begin, end, (table, header, data(dy), data(weight), windows), dx)
                part, _, group, _, right, _ = numbers(number, anew(images), windows)
                each = channels_of(windows)[0]
                start = group * each + right * wide
                store(accumulators, dx, part * images * dx.shape[1], C, table, start, (group + 1) * each, bias, relu)
            number += step
    return tiles


def input_by_tiles(end: str, way: Way) -> Kernel:
    """implicit_input by tiles of which each is any task's. dx may hold the sums of slices of k, one behind the other."""
    tiles = input_tiles(way, *PATCHES[end])

    @kernel
    def input_gradient(task: Int, tasks: Int, dx: Matrix, dy: Matrix, weight: Matrix, bias: Vector, windows: Windows, relu: Int) -> None:
        """dx = dy spread over the windows (+ b)."""
        tiles(task, tasks, 0, dy.shape[0], dx.shape[0], dx, dy, weight, bias, windows, relu)
    return input_gradient


whole_input = input_tiles(ARITHMETIC, *PATCHES[""])


@kernel
def implicit_input(task: Int, tasks: Int, dx: Matrix, dy: Matrix, weight: Matrix, bias: Vector, windows: Windows, relu: Int) -> None:
    """dx = dy spread over the windows (+ b, where this is a transposed convolution, then max(dx, 0) if relu). dx [N, D H W C], dy [N, E P Q O].

    weight [T R S C/G, O], bias [C] or empty. Row-local. Writes dx (=).
    """
    start, stop = row_share(dx.shape[0], tasks, task)
    whole_input(0, 1, start, stop - start, stop - start, dx, dy, weight, bias, windows, relu)


implicit_input_narrow, implicit_input_64, implicit_input_128 = (input_by_tiles(end, ARITHMETIC) for end in ENDS)
implicit_input_narrow_tf32, implicit_input_64_tf32, implicit_input_128_tf32 = (input_by_tiles(end, WAYS["_tf32"]) for end in ENDS)
implicit_input_narrow_bfloat16, implicit_input_64_bfloat16, implicit_input_128_bfloat16 = (input_by_tiles(end, WAYS["_bfloat16"]) for end in ENDS)


# Gradient by the weight.

def own_row(tall: int) -> Any:
    """The routine that says which row of a slice that lies along its rows the thread brings, or the first of four."""
    @routine
    def own(fours):
        return thread() % (tall // FOUR) * FOUR if fours else thread() % tall
    return own


def weight_slices(way: Way, tall: int, wide: int) -> Any:
    """Slices of the transpose of patches of x, and of dy. k counts the places of y; where those of THREADS of them lie is written at a time."""
    fetch_dy, left = slices(way, wide, False), way.size(tall)
    index, by_four, own = way.index(tall, False), way.by_four, own_row(tall)
    gap = THREADS // tall

    @routine
    def fetch(place, begin, start, k0, K, factors):
        table, x, dy, channel, d, h, w, first_filter, stop_filter, fours, windows = factors
        D, H, W, C, O = windows[0], windows[1], windows[2], windows[18], windows[19]
        since = (k0 - start) & (THREADS - 1)
        near, t = own(fours), anew(thread()) if by_four else thread()
        if since == 0:                                   # nobody reads the entries before: the barrier of the slice is behind all
            if k0 + thread() < K:
                put_window(table, thread(), k0 + thread(), 0, windows)
            else:
                no_entry(table, thread())
            barrier()
        ahead = (d * H + h) * W + w
        if by_four and fours:
            for u in range(DEPTH // (FOUR * gap)):
                k = t // (tall // FOUR) + u * FOUR * gap
                at, inside = place_in(table, since + k, ahead, d, h, w, D, H, W)
                copy_four_later(place, begin + index(near, k), x, at * C + channel if inside else 0, FOUR if inside else 0)
        else:
            for u in range(anew(DEPTH // gap) if by_four else DEPTH // gap):
                k = t // tall + u * gap
                at, inside = place_in(table, since + k, ahead, d, h, w, D, H, W)
                copy_later(place, begin + index(near, k), x, at * C + channel if inside else 0, inside)
        fetch_dy(place, begin + left, dy, O, first_filter, stop_filter, k0, K)
    return fetch


def weight_by_tiles(end: str, way: Way) -> Kernel:
    """implicit_weight by tiles of that size."""
    tall, wide = PATCHES[end]
    product, by_four, own_place = way.product(tall, wide, False, False), way.by_four, own_row(tall)
    sums = sums_by_slices(way, tall, wide, product, weight_slices(way, tall, wide))
    row_of, column_of, line_and_column, rows, columns = (product.row_of, product.column_of, product.line_and_column, product.rows, product.columns)
    tile = registers(tall * wide // THREADS)
    behind = 2 * (way.size(tall) + way.size(wide))

    @routine
    def store(accumulators, parts, at, first, M, start, stop, O):
        """parts[at + row O + column] = the sum."""
        line, column = line_and_column(thread())
        for j in range(columns):
            c = start + column_of(column, j)
            for i in range(rows):
                row = first + row_of(line, i)
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
        fours = by_four and four_aligned(data(x)) and each % FOUR == 0             # neighbouring channels of one place
        down, across = divided(M + tall - 1, tall)[0], divided(own + wide - 1, wide)[0]
        for number in range(task, dweight.shape[0] * G * down * across, tasks):
            rest, right = divided(number, across)
            rest, top = divided(rest, down)
            part, group = divided(rest, G)
            row = top * tall + own_place(fours)
            tap, c = divided(min(row, M - 1), each)
            rest, s = divided(tap, S)
            t, r = divided(rest, R)
            barrier()                                    # whoever used the scratch before is done
            start, first = group * own + right * wide, part * chunk
            sums(accumulators, place, first, min(places, first + chunk), (table, data(x), data(dy), group * each + c,
                 t * step_d if row < M else NOWHERE, r * step_h, s * step_w, start, (group + 1) * own, fours, windows), x)
            store(accumulators, data(dweight), part * M * O, top * tall, M, start, (group + 1) * own, O)
    return weight_gradient


implicit_weight, implicit_weight_narrow, implicit_weight_64, implicit_weight_128 = (weight_by_tiles(end, ARITHMETIC) for end in ("", *ENDS))
implicit_weight_narrow_tf32, implicit_weight_64_tf32, implicit_weight_128_tf32 = (weight_by_tiles(end, WAYS["_tf32"]) for end in ENDS)
implicit_weight_narrow_bfloat16, implicit_weight_64_bfloat16, implicit_weight_128_bfloat16 = (weight_by_tiles(end, WAYS["_bfloat16"]) for end in ENDS)
