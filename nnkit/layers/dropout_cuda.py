"""CUDA twins of dropout_cpu.py: the same masks, bit by bit. N batch, F numbers of a sample, M numbers of its mask.

A block draws for 8 THREADS numbers at a time: every thread makes the four words of one counter, which the threads then share, so that neighbours
read and write neighbours.
"""

from __future__ import annotations

import numpy as np

from nnkit.cuda_jit import THREADS, barrier, data, kernel, registers, routine, scratch, thread
from nnkit.jit import Counters, Double, Int, Matrix, Real
from nnkit.layers.dropout_cpu import WORD, threshold
from nnkit.philox import philox
from nnkit.plan.layout import COUNTERS
from nnkit.prims.block_cuda import divided, row_share

__all__ = ["dropout_apply", "dropout_mask", "dropout_spread", "relu_dropout_backward"]

STEP, SEED = COUNTERS["step"], COUNTERS["seed"]
NUMBERS = 8                                              # of a counter
own_numbers = registers(NUMBERS)


@routine
def draw(words, first, stop, key, stream, step):
    """words[2 c], words[2 c + 1] = Philox's words for counter first + c, two to a word of 64 bits, as far as counters go below stop."""
    t = thread()
    barrier()                                            # whoever used the scratch before is done
    if first + t < stop:
        w0, w1, w2, w3 = philox(key, stream, first + t, 0, step, key >> 32)
        words[2 * t] = np.int64(np.uint64(w0) | np.uint64(w1) << WORD)
        words[2 * t + 1] = np.int64(np.uint64(w2) | np.uint64(w3) << WORD)
    barrier()


@routine
def kept(words, e, limit):
    """Whether number e of those drawn together stays: half-word e % 4 of word e // 4."""
    return (words[e >> 2] >> ((e & 3) << 4)) & 65535 >= limit


@kernel
def dropout_apply(task: Int, tasks: Int, y: Matrix, x: Matrix, counters: Counters, rate: Double, scale: Real, stream: Int, seed: Int) -> None:
    """y = scale x, or 0 with probability `rate`. Shapes: y, x [N, F]. seed < 0: the model's. Row-local; y may be x. Writes y (=)."""
    first, last = row_share(y.shape[0], tasks, task)
    T = type(scale)
    start, stop = first * y.shape[1], last * y.shape[1]
    key, step = data(counters)[SEED] if seed < 0 else seed, data(counters)[STEP]
    limit = np.int64(threshold(rate, key, stream, step))
    words, ys, xs, own = scratch(counters), data(y), data(x), own_numbers(y)
    for at in range(start >> 3 << 3, stop, NUMBERS * THREADS):
        draw(words, at >> 3, (stop + 7) >> 3, key, stream, step)
        for u in range(NUMBERS):
            i = at + u * THREADS + thread()
            own[u] = xs[i] if start <= i < stop else T(0)
        for u in range(NUMBERS):
            i = at + u * THREADS + thread()
            if start <= i < stop:
                ys[i] = own[u] * scale if kept(words, i - at, limit) else T(0)


@kernel
def relu_dropout_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, y: Matrix, scale: Real) -> None:
    """dx = scale dy where y > 0, else 0: backward of y = dropout(max(x, 0)). All [N, F]. Row-local; dx may be dy. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    F = dx.shape[1]
    T = type(scale)
    dxs, dys, ys = data(dx), data(dy), data(y)
    for i in range(start * F + thread(), stop * F, THREADS):
        dxs[i] = dys[i] * (T(0) if ys[i] <= T(0) else scale)


@kernel
def dropout_mask(task: Int, tasks: Int, mask: Matrix, counters: Counters, rate: Double, scale: Real, stream: Int, seed: Int) -> None:
    """mask = scale, or 0 with probability `rate`. Shape: mask [N, M] or [1, M]. seed < 0: the model's. Row-local. Writes mask (=)."""
    first, last = row_share(mask.shape[0], tasks, task)
    T = type(scale)
    start, stop = first * mask.shape[1], last * mask.shape[1]
    key, step = data(counters)[SEED] if seed < 0 else seed, data(counters)[STEP]
    limit = np.int64(threshold(rate, key, stream, step))
    words, ms = scratch(counters), data(mask)
    for at in range(start >> 3 << 3, stop, NUMBERS * THREADS):
        draw(words, at >> 3, (stop + 7) >> 3, key, stream, step)
        for u in range(NUMBERS):
            i = at + u * THREADS + thread()
            if start <= i < stop:
                ms[i] = scale if kept(words, i - at, limit) else T(0)


@kernel
def dropout_spread(task: Int, tasks: Int, y: Matrix, x: Matrix, mask: Matrix, B: Int, C: Int, D: Int, E: Int) -> None:
    """y = x mask, a sample's axes seen as [A, B, C, D, E] and its mask's as [A, 1, C, 1, E].

    Shapes: y, x [N, A B C D E], mask [N, A C E] or [1, A C E]. Row-local; y may be x. Writes y (=).
    """
    start, stop = row_share(y.shape[0], tasks, task)
    F, M = y.shape[1], mask.shape[1]
    ys, xs, ms = data(y), data(x), data(mask)
    for i in range(start * F + thread(), stop * F, THREADS):
        rest, e = divided(i, E)
        rest, c = divided(divided(rest, D)[0], C)
        n, a = divided(divided(rest, B)[0], divided(M, C * E)[0])
        ys[i] = xs[i] * ms[(n * M if mask.shape[0] > 1 else 0) + (a * C + c) * E + e]
