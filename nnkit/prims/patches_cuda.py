"""What convolutions on the device gather: where the patches of a tile's rows lie, how slices of them are brought, and what the three products of
implicit_cuda.py do alike, summing a tile slice by slice and writing it. Letters: see convolution.py.

Shared memory holds, behind the slices of both factors, where the patches of the rows begin: of each the number of its first place in the image batch
(FIRST) and that place's depth, row and column there, which may lie outside; what lies outside is 0. So an element of a slice costs a few additions,
no division. Places are counted in 32 bits: a batch has fewer than 2^31 of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnkit.cuda_jit import THREADS, anew, barrier, copy_four_later, copy_later, data, routine, thread, wait_for_copies
from nnkit.plan.launch import DEPTH
from nnkit.prims.block_cuda import divided
from nnkit.prims.matmul_cuda import FOUR, Product, Way
from nnkit.scalar import maximum

__all__ = [
    "COUNTS", "ENTRY", "FIRSTS", "GAP", "GAPS", "NOWHERE", "STEPS", "axis_phase", "channels_of", "no_entry", "numbers_of", "own_k", "patches",
    "phase_sizes", "place_in", "put_entry", "put_phase", "put_window", "slices_in", "storing", "sums_by_slices",
]

NOWHERE = -(1 << 30)                                     # outside of every image, whatever part of a window is added
FIRST, DEEP, HIGH, ACROSS, ENTRY = range(5)              # what is kept of a row's patch; numbers of an entry
COUNTS, FIRSTS, GAPS, STEPS = range(0, 12, 3)            # of a phase, for each axis: see `axis_phase`
GAP = THREADS // DEPTH                                   # rows between those of a slice that a thread brings


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


@routine
def own_k(fours):
    """Which of a slice's steps along k the thread brings, or the first of four."""
    return thread() % (DEPTH // FOUR) * FOUR if fours else thread() % DEPTH


def patches(way: Way, tall: int) -> Any:
    """How a block brings a slice of patches: the thread's k is one place of the window and one channel, or four of them; its rows are GAP apart, or
    four times as far."""
    index, by_four = way.index(tall, True), way.by_four

    @routine
    def fetch(place, begin, table, source, channels, c, d, h, w, D, H, W, fours):
        """The slice from place[begin] on: of each row channel c of the place (d, h, w) behind the patch's first; 0 outside of the image."""
        near, t = own_k(fours), anew(thread())
        ahead = (d * H + h) * W + w
        if by_four and fours:
            for u in range(tall // (FOUR * GAP)):
                row = t // (DEPTH // FOUR) + u * FOUR * GAP
                at, inside = place_in(table, row, ahead, d, h, w, D, H, W)
                copy_four_later(place, begin + index(row, near), source, at * channels + c if inside else 0, FOUR if inside else 0)
            return
        for u in range(anew(tall // GAP) if by_four else tall // GAP):
            row = t // DEPTH + u * GAP
            at, inside = place_in(table, row, ahead, d, h, w, D, H, W)
            copy_later(place, begin + index(row, near), source, at * channels + c if inside else 0, inside)
    return fetch


def sums_by_slices(way: Way, tall: int, wide: int, product: Product, fetch: Any) -> Any:
    """The routine that sums products for a tile. fetch(place, begin, start, k0, K, factors) brings the slices of both factors from k0 on."""
    add_products, line_and_column = product.add_products, product.line_and_column
    room = way.size(tall) + way.size(wide)               # of a slice of both factors
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


def storing(tall: int, product: Product) -> Any:
    """The routine that writes a tile of places."""
    row_of, column_of, line_and_column = product.row_of, product.column_of, product.line_and_column
    rows, columns = product.rows, product.columns

    @routine
    def store(accumulators, y, offset, width, table, start, stop, bias, relu):
        """y[offset + place width + column] = the sum (+ bias), with relu max(that, 0); columns begin at `start`. The rows' places stand behind their
        entries; -1 where a row is not there. Only what begins at offset 0 has a bias: behind it are the sums of further slices of k."""
        line, column = line_and_column(thread())
        ys, shifts, least, T = data(y), data(bias), y.dtype.type(0 if relu else -math.inf), y.dtype.type
        for j in range(columns):
            c = start + column_of(column, j)
            shift = shifts[c] if bias.size and offset == 0 and c < stop else T(0)
            for i in range(rows):
                row = np.int64(table[tall * ENTRY + row_of(line, i)])
                if row >= 0 and c < stop:
                    ys[offset + row * width + c] = maximum(accumulators[i * columns + j] + shift, least)
    return store


@routine
def channels_of(windows):
    """(channels, filters) of a group."""
    return divided(windows[18], windows[20])[0], divided(windows[19], windows[20])[0]


@routine
def numbers_of(number, phases, groups, down, across):
    """(slice, phase, group, row of tiles, column of tiles) of a tile."""
    rest, right = divided(number, across)
    rest, top = divided(rest, down)
    rest, group = divided(rest, groups)
    part, phase = divided(rest, phases)
    return part, phase, group, top, right


@routine
def slices_in(results, images):
    """How many slices' sums an array of results has of so many images."""
    return divided(results, max(1, images))[0]


# Phases of the gradient by the input: see implicit_cuda.py.

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
