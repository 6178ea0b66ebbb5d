"""Kernels of the noise layers. N batch, F numbers of a sample.

Number e of a step takes the normal number e % 4 of the four that Philox's words for counter e // 4 give. A task's numbers may begin between two
counters.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, Counters, Int, Matrix, Real, array_view, kernel, routine
from nnkit.philox import normal_pair, philox, uniform
from nnkit.plan.layout import COUNTERS
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.simd_cpu import address, part

__all__ = ["gaussian_noise_forward"]

STEP, SEED = COUNTERS["step"], COUNTERS["seed"]
BLOCK = 512                                              # numbers per round: their noise stays in the first-level cache


@intrinsic
def block_like(typing_context: Any, like: Any) -> Any:
    """BLOCK numbers of the type of the array `like`, on the stack."""
    vector = types.Array(like.dtype, 1, "C")

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        memory = cgutils.alloca_once(builder, context.get_data_type(like.dtype), size=BLOCK)
        return array_view(context, builder, vector, builder.ptrtoint(memory, I64), [ir.Constant(I64, BLOCK)])
    return vector(like), codegen


@routine
def draw_normals(noise, count, key, stream, first, word, step):
    """noise[:count] = standard normal numbers, four for each counter from `first` on; up to three more are written. `noise` also gives the type."""
    zero = noise.dtype.type(0)
    for i in range((count + 3) // 4):
        w0, w1, w2, w3 = philox(key, stream, first + i, word, step, key >> 32)
        noise[4 * i], noise[4 * i + 1] = normal_pair(uniform(w0, zero), uniform(w1, zero))
        noise[4 * i + 2], noise[4 * i + 3] = normal_pair(uniform(w2, zero), uniform(w3, zero))


@kernel
def gaussian_noise_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, counters: Counters, stddev: Real, stream: Int, seed: Int) -> None:
    """y = x + stddev e, e standard normal. Shapes: y, x [N, F]. seed < 0: the model's. Row-local; y may be x. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F = y.shape[1]
    key = counters[SEED] if seed < 0 else seed
    step = counters[STEP]
    noise = block_like(y)
    for at in range(start * F // 4 * 4, stop * F, BLOCK):
        first, last = max(at, start * F), min(at + BLOCK, stop * F)
        draw_normals(noise, last - at, key, stream, at // 4, 0, step)
        ys, xs, es = part(y, first, last), part(x, first, last), part(noise, first - at, last - at)
        if address(y) == address(x):
            for i in range(ys.size):
                ys[i] += stddev * es[i]
        else:
            for i in range(ys.size):
                ys[i] = xs[i] + stddev * es[i]
