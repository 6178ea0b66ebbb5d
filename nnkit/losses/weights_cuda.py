"""CUDA twin of weights_cpu.py: sample weights of masked rows. R rows, N samples of R / N rows each, M entries of the mask."""

from __future__ import annotations

from nnkit.cuda_jit import THREADS, data, kernel, scratch, thread
from nnkit.jit import Int, Real, Vector
from nnkit.prims.block_cuda import block_sum, divided

__all__ = ["masked"]


@kernel
def masked(task: Int, tasks: Int, weights: Vector, w: Vector, mask: Vector, factor: Real) -> None:
    """weights[r] = factor w mask R / (sum of mask R / M): so the mean over all R rows is one over those that count; 0 where none does.

    Shapes: weights [R], w [N], mask [M] of 0 and 1, R a multiple of M, M of N. One task. Writes weights (=).
    """
    T = weights.dtype.type
    R, N, M = weights.size, w.size, mask.size
    ms, ws = data(mask), data(w)
    count = T(0)                                         # whole numbers below 2^24: exact in float32
    for m in range(thread(), M, THREADS):
        count += T(1) if ms[m] != T(0) else T(0)
    count = block_sum(count, scratch(weights))
    scale = factor * (T(M) / max(T(1), count))
    per_sample, per_entry = divided(R, max(1, N))[0], divided(R, max(1, M))[0]
    for r in range(thread(), R, THREADS):
        data(weights)[r] = scale * ws[divided(r, per_sample)[0]] * ms[divided(r, per_entry)[0]]
