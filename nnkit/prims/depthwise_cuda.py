"""Depthwise convolutions on the device: every channel has m = O / C filters of its own. Letters: see convolution.py.

A thread makes a number of the result, neighbours neighbouring channels. W [T R S, O] is read as it lies. For dW the threads of a block stand in rows
as for sums down columns (block_cuda.py); each sums for TAPS places of the window at a time. Places are counted in 32 bits.
"""

from __future__ import annotations

import numpy as np

from nnkit.cuda_jit import THREADS, data, kernel, registers, routine, scratch, thread
from nnkit.jit import Int, Matrix, Vector, Windows
from nnkit.layers.pool_cuda import place_of, unit_elements, windows_of
from nnkit.plan.launch import TAPS
from nnkit.prims.block_cuda import column_piece, columns_of, divided, over_parts, piece_count, row_share
from nnkit.scalar import maximum

__all__ = ["channels_forward", "channels_input", "channels_weight"]

own_sums = registers(TAPS)


@routine
def within(place, size):
    """0 <= place < size."""
    return np.uint32(place) < np.uint32(size)


@kernel
def channels_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, weight: Matrix, bias: Vector, windows: Windows, pieces: Int, relu: Int) -> None:
    """y = x * W + b, then max(y, 0) if relu. Shapes: y [N, E P Q O], x [N, D H W C], weight [T R S, O], bias [O] or empty.

    Task t covers its share of the images, each cut into `pieces` by rows of the output. Writes y (=).
    """
    D, H, W, T, R, S, stride_d, stride_h, stride_w, step_d, step_h, step_w, before_d, before_h, before_w, E, P, Q, C, O, _ = windows
    zero, ys, xs, weights = y.dtype.type(0), data(y), data(x), data(weight)
    multiple = divided(O, C)[0]
    start, stop = unit_elements(task, tasks, y.shape[0], pieces, E * P, Q * O)
    for i in range(start + thread(), stop, THREADS):
        n, e, p, q, o = place_of(i, E, P, Q, O)
        c = divided(o, multiple)[0]
        d0, h0, w0 = np.int32(e * stride_d - before_d), np.int32(p * stride_h - before_h), np.int32(q * stride_w - before_w)
        found = data(bias)[o] if bias.size else zero
        tap = np.int32(0)
        for t in range(np.int32(T)):
            for r in range(np.int32(R)):
                d, h = np.int32(d0 + t * step_d), np.int32(h0 + r * step_h)
                if within(d, D) & within(h, H):
                    line = np.int32(((n * D + d) * H + h) * W)
                    for s in range(np.int32(S)):
                        w = np.int32(w0 + s * step_w)
                        if within(w, W):
                            found += xs[np.int32(line + w) * C + c] * weights[np.int32(tap + s) * O + o]
                tap = np.int32(tap + S)
        ys[i] = maximum(found, zero) if relu else found


@routine
def tap_of(place, before, window, stride, step):
    """The place of the window with which window number `window` sees a place, -1 where it does not: it must be within its reach."""
    distance = np.int32(place + before - window * stride)
    if step == 1:
        return distance
    tap = np.int32(np.uint32(distance) // np.uint32(step))
    return tap if np.int32(tap * step) == distance else np.int32(-1)


@kernel
def channels_input(task: Int, tasks: Int, dx: Matrix, dy: Matrix, weight: Matrix, windows: Windows, pieces: Int) -> None:
    """dx = dy spread over the windows. Shapes: dx [N, D H W C], dy [N, E P Q O], weight [T R S, O].

    Task t covers its share of the images, each cut into `pieces` by rows of the input. Writes dx (=).
    """
    D, H, W, T, R, S, stride_d, stride_h, stride_w, step_d, step_h, step_w, before_d, before_h, before_w, E, P, Q, C, O, _ = windows
    dxs, dys, weights = data(dx), data(dy), data(weight)
    multiple = divided(O, C)[0]
    start, stop = unit_elements(task, tasks, dx.shape[0], pieces, D * H, W * C)
    for i in range(start + thread(), stop, THREADS):
        n, d, h, w, c = place_of(i, D, H, W, C)
        e_first, e_last = windows_of(d, before_d, (T - 1) * step_d + 1, stride_d, E)
        p_first, p_last = windows_of(h, before_h, (R - 1) * step_h + 1, stride_h, P)
        q_first, q_last = windows_of(w, before_w, (S - 1) * step_w + 1, stride_w, Q)
        gradient = dx.dtype.type(0)
        for e in range(e_first, e_last):
            for p in range(p_first, p_last):
                t, r = tap_of(d, before_d, e, stride_d, step_d), tap_of(h, before_h, p, stride_h, step_h)
                if t >= 0 and r >= 0:
                    for q in range(q_first, q_last):
                        s = tap_of(w, before_w, q, stride_w, step_w)
                        if s >= 0:
                            at = np.int32(((n * E + e) * P + p) * Q + q) * O + c * multiple
                            tap = np.int32((t * R + r) * S + s) * O + c * multiple
                            for j in range(np.int32(multiple)):
                                gradient += dys[at + j] * weights[tap + j]
        dxs[i] = gradient


@kernel
def channels_weight(task: Int, tasks: Int, dweight: Matrix, x: Matrix, dy: Matrix, windows: Windows, chunk: Int) -> None:
    """dW of slices of `chunk` places of y. Shapes: dweight [slices, T R S O], x [N, D H W C], dy [N, E P Q O].

    Task t covers its share of the pieces: a slice's strip of columns, by TAPS places of the window. Writes dweight (=).
    """
    D, H, W, T, R, S, stride_d, stride_h, stride_w, step_d, step_h, step_w, before_d, before_h, before_w, E, P, Q, C, O, _ = windows
    T_, place, xs, dys = x.dtype.type, scratch(x), data(x), data(dy)
    slices, taps, columns, multiple = dweight.shape[0], T * R * S, columns_of(O), divided(O, C)[0]
    turns = divided(taps + TAPS - 1, TAPS)[0]
    sums = own_sums(x)
    first, last = row_share(piece_count(slices, O, columns) * turns, tasks, task)
    for unit in range(first, last):
        piece, turn = divided(unit, turns)
        k, j, begin, end, parts = column_piece(piece, slices, x.shape[0] * E * P * Q, O, chunk, columns)
        for u in range(TAPS):
            sums[u] = T_(0)
        c = divided(j, multiple)[0]
        for m in range(begin, end, parts):
            rest, q = divided(m, Q)
            rest, p = divided(rest, P)
            n, e = divided(rest, E)
            d0, h0, w0 = e * stride_d - before_d, p * stride_h - before_h, q * stride_w - before_w
            own = dys[m * O + j]
            for u in range(TAPS):
                rest, s = divided(turn * TAPS + u, S)
                t, r = divided(rest, R)
                d, h, w = np.int32(d0 + t * step_d), np.int32(h0 + r * step_h), np.int32(w0 + s * step_w)
                if (t < T) & within(d, D) & within(h, H) & within(w, W):
                    sums[u] += xs[np.int32(((n * D + d) * H + h) * W + w) * C + c] * own
        for u in range(TAPS):
            total, tap = over_parts(sums[u], columns, place), turn * TAPS + u
            if thread() < columns and j < O and tap < taps:
                data(dweight)[(k * taps + tap) * O + j] = total
