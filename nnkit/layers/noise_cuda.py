"""CUDA twins of noise_cpu.py: the same numbers. N batch, F numbers of a sample.

A block draws 4 THREADS numbers at a time: every thread makes the four of one counter, which the threads then share.
"""

from __future__ import annotations

from nnkit.cuda_jit import THREADS, barrier, data, kernel, routine, scratch, thread
from nnkit.jit import Counters, Int, Matrix, Real
from nnkit.philox import normal_pair, philox, uniform
from nnkit.plan.layout import COUNTERS
from nnkit.prims.block_cuda import row_share

__all__ = ["DRAWN", "draw_normals", "gaussian_noise_forward"]

STEP, SEED = COUNTERS["step"], COUNTERS["seed"]
DRAWN = 4 * THREADS                                      # numbers at a time


@routine
def draw_normals(place, first, stop, key, stream, word, step, like):
    """place[4 c], ... = the four standard normal numbers of counter first + c, as far as counters go below stop. place: DRAWN numbers of scratch."""
    t, zero = thread(), like.dtype.type(0)
    barrier()                                            # whoever used the scratch before is done
    if first + t < stop:
        w0, w1, w2, w3 = philox(key, stream, first + t, word, step, key >> 32)
        place[4 * t], place[4 * t + 1] = normal_pair(uniform(w0, zero), uniform(w1, zero))
        place[4 * t + 2], place[4 * t + 3] = normal_pair(uniform(w2, zero), uniform(w3, zero))
    barrier()


@kernel
def gaussian_noise_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, counters: Counters, stddev: Real, stream: Int, seed: Int) -> None:
    """y = x + stddev e, e standard normal. Shapes: y, x [N, F]. seed < 0: the model's. Row-local; y may be x. Writes y (=)."""
    first, last = row_share(y.shape[0], tasks, task)
    start, stop = first * y.shape[1], last * y.shape[1]
    key, step = data(counters)[SEED] if seed < 0 else seed, data(counters)[STEP]
    noise, ys, xs = scratch(y), data(y), data(x)
    for at in range(start >> 2 << 2, stop, DRAWN):
        draw_normals(noise, at >> 2, (stop + 3) >> 2, key, stream, 0, step, y)
        for i in range(at + thread(), min(at + DRAWN, stop), THREADS):
            if i >= start:
                ys[i] = xs[i] + stddev * noise[i - at]
