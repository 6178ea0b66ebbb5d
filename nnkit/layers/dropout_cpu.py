"""Kernels of Dropout. N batch, F numbers of a sample, M numbers of its mask.

Number e of a step takes 16 random bits: the half-word e % 8 (low half first) of the four words that Philox gives for counter e // 8. A task's
numbers may begin between two counters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, Counters, Double, Int, Matrix, Real, array_view, kernel, routine
from nnkit.philox import philox
from nnkit.plan.layout import COUNTERS
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.simd_cpu import address, part

__all__ = ["dropout_apply", "dropout_mask", "dropout_spread", "relu_dropout_backward"]

STEP, SEED = COUNTERS["step"], COUNTERS["seed"]
BLOCK = 512                                              # numbers per round: their random bits stay in the first-level cache
RESOLUTION = 65536
WORD = np.uint64(32)


@intrinsic
def random_bits(typing_context: Any) -> Any:
    """16 BLOCK bits on the stack, as a vector of uint64 and, the same memory, as one of uint16."""
    wide, narrow = types.Array(types.uint64, 1, "C"), types.Array(types.uint16, 1, "C")

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        memory = builder.ptrtoint(cgutils.alloca_once(builder, I64, size=BLOCK // 4), I64)
        views = [array_view(context, builder, wide, memory, [ir.Constant(I64, BLOCK // 4)]),
                 array_view(context, builder, narrow, memory, [ir.Constant(I64, BLOCK)])]
        return context.make_tuple(builder, signature.return_type, views)
    return types.Tuple([wide, narrow])(), codegen


@routine
def draw(words, counters, first, seed, stream, step):
    """Philox's words for the counters first, first + 1, ..., two to a uint64. A seed's upper half is part of the counter, as the step is."""
    for i in range(counters):
        w0, w1, w2, w3 = philox(seed, stream, first + i, 0, step, seed >> 32)
        words[2 * i] = np.uint64(w0) | np.uint64(w1) << WORD
        words[2 * i + 1] = np.uint64(w2) | np.uint64(w3) << WORD


@routine
def threshold(rate, seed, stream, step):
    """rate * 2^16, rounded up or down at random: half-words below it drop their number. One draw for the whole step (c1 = 1)."""
    w0, _, _, _ = philox(seed, stream, 0, 1, step, seed >> 32)
    return np.int32(rate * RESOLUTION + np.float64(w0) / 4294967296.0)


@kernel
def dropout_apply(task: Int, tasks: Int, y: Matrix, x: Matrix, counters: Counters, rate: Double, scale: Real, stream: Int, seed: Int) -> None:
    """y = scale x, or 0 with probability `rate`. Shapes: y, x [N, F]. seed < 0: the model's. Row-local; y may be x. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F = y.shape[1]
    T = type(scale)
    key = counters[SEED] if seed < 0 else seed
    limit = threshold(rate, key, stream, counters[STEP])
    words, bits = random_bits()
    for at in range(start * F // 8 * 8, stop * F, BLOCK):
        first, last = max(at, start * F), min(at + BLOCK, stop * F)
        draw(words, (last - at + 7) // 8, at // 8, key, stream, counters[STEP])
        ys, xs, own = part(y, first, last), part(x, first, last), part(bits, first - at, last - at)
        if address(y) == address(x):
            for i in range(ys.size):
                ys[i] = ys[i] * scale if np.int32(own[i]) >= limit else T(0)
        else:
            for i in range(ys.size):
                ys[i] = xs[i] * scale if np.int32(own[i]) >= limit else T(0)


@kernel
def relu_dropout_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, y: Matrix, scale: Real) -> None:
    """dx = scale dy where y > 0, else 0: backward of y = dropout(max(x, 0)). All [N, F]. Row-local; dx may be dy. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    F = dx.shape[1]
    T = type(scale)
    dxs, dys, ys = part(dx, start * F, stop * F), part(dy, start * F, stop * F), part(y, start * F, stop * F)
    if address(dx) == address(dy):
        for i in range(dxs.size):
            dxs[i] *= T(0) if ys[i] <= T(0) else scale
    else:
        for i in range(dxs.size):
            dxs[i] = dys[i] * (T(0) if ys[i] <= T(0) else scale)


@kernel
def dropout_mask(task: Int, tasks: Int, mask: Matrix, counters: Counters, rate: Double, scale: Real, stream: Int, seed: Int) -> None:
    """mask = scale, or 0 with probability `rate`. Shape: mask [N, M] or [1, M]. seed < 0: the model's. Row-local. Writes mask (=)."""
    start, stop = row_share(mask.shape[0], tasks, task)
    M = mask.shape[1]
    T = type(scale)
    key = counters[SEED] if seed < 0 else seed
    limit = threshold(rate, key, stream, counters[STEP])
    words, bits = random_bits()
    for at in range(start * M // 8 * 8, stop * M, BLOCK):
        first, last = max(at, start * M), min(at + BLOCK, stop * M)
        draw(words, (last - at + 7) // 8, at // 8, key, stream, counters[STEP])
        ms, own = part(mask, first, last), part(bits, first - at, last - at)
        for i in range(ms.size):
            ms[i] = scale if np.int32(own[i]) >= limit else T(0)


@routine
def multiply_run(y, x, mask):
    """y = x mask; y may be x."""
    if address(y) == address(x):
        for i in range(y.size):
            y[i] *= mask[i]
    else:
        for i in range(y.size):
            y[i] = x[i] * mask[i]


@routine
def multiply_number(y, x, factor):
    """y = x factor; y may be x."""
    if address(y) == address(x):
        for i in range(y.size):
            y[i] *= factor
    else:
        for i in range(y.size):
            y[i] = x[i] * factor


@kernel
def dropout_spread(task: Int, tasks: Int, y: Matrix, x: Matrix, mask: Matrix, B: Int, C: Int, D: Int, E: Int) -> None:
    """y = x mask, a sample's axes seen as [A, B, C, D, E] and its mask's as [A, 1, C, 1, E].

    Shapes: y, x [N, A B C D E], mask [N, A C E] or [1, A C E]. Row-local; y may be x. Writes y (=).
    """
    start, stop = row_share(y.shape[0], tasks, task)
    F, M = y.shape[1], mask.shape[1]
    for n in range(start, stop):
        position = n * F
        sample = n * M if mask.shape[0] > 1 else 0
        for a in range(M // (C * E)):
            for _ in range(B):
                for c in range(C):
                    m = sample + (a * C + c) * E
                    if E == 1:
                        multiply_number(part(y, position, position + D), part(x, position, position + D), part(mask, m, m + 1)[0])
                        position += D
                    else:
                        for _ in range(D):
                            multiply_run(part(y, position, position + E), part(x, position, position + E), part(mask, m, m + E))
                            position += E
