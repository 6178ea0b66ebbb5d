"""CUDA twins of sampling_cpu.py: the same numbers. N batch, F numbers of a sample."""

from __future__ import annotations

from nnkit.cuda_jit import THREADS, data, kernel, routine, scratch, thread
from nnkit.jit import Counters, Double, Doubles, Int, Matrix, Real, Vector
from nnkit.layers.noise_cuda import DRAWN, draw_normals
from nnkit.plan.layout import COUNTERS
from nnkit.prims.block_cuda import block_sum, row_share
from nnkit.prims.pointwise_cuda import pointwise
from nnkit.scalar import exp, expm1

__all__ = ["kl_divergence", "sampling_backward_log_variance", "sampling_backward_mean", "sampling_forward"]

STEP, POSITION, SEED = COUNTERS["step"], COUNTERS["position"], COUNTERS["seed"]


@kernel
def sampling_forward(task: Int, tasks: Int, z: Matrix, mean: Matrix, log_variance: Matrix, counters: Counters, stream: Int, seed: Int,
                     evaluation: Int) -> None:
    """z = mean + exp(log_variance / 2) e, e standard normal. All [N, F]. seed < 0: the model's. Row-local. Writes z (=)."""
    T = z.dtype.type
    first, last = row_share(z.shape[0], tasks, task)
    F, counts = z.shape[1], data(counters)
    key = counts[SEED] if seed < 0 else seed
    step, origin = (0, counts[POSITION] * F) if evaluation else (counts[STEP], 0)
    noise, zs, means, logs = scratch(z), data(z), data(mean), data(log_variance)
    begin, end = origin + first * F, origin + last * F
    for at in range(begin >> 2 << 2, end, DRAWN):        # a sample's numbers may begin between two counters
        draw_normals(noise, at >> 2, (end + 3) >> 2, key, stream, evaluation, step, z)
        for e in range(at + thread(), min(at + DRAWN, end), THREADS):
            if e >= begin:
                i = e - origin
                zs[i] = means[i] + exp(T(0.5) * logs[i]) * noise[e - at]


@kernel
def sampling_backward_log_variance(task: Int, tasks: Int, dlog_variance: Matrix, dz: Matrix, z: Matrix, mean: Matrix, log_variance: Matrix,
                                   scale: Real) -> None:
    """dlog_variance = dz (z - mean) / 2 + scale (exp(log_variance) - 1) / 2. All [N, F]. Row-local. Writes dlog_variance (=)."""
    T = z.dtype.type
    first, last = row_share(z.shape[0], tasks, task)
    F = z.shape[1]
    out, dzs, zs, means, logs = data(dlog_variance), data(dz), data(z), data(mean), data(log_variance)
    for i in range(first * F + thread(), last * F, THREADS):
        out[i] = T(0.5) * (dzs[i] * (zs[i] - means[i]) + scale * expm1(logs[i]))


@routine
def pulled(dz, mean, scale, q):
    """dz + scale mean."""
    return dz + scale * mean


sweep_pulled = pointwise(pulled)


@kernel
def sampling_backward_mean(task: Int, tasks: Int, dmean: Matrix, dz: Matrix, mean: Matrix, scale: Real) -> None:
    """dmean = dz + scale mean; dmean may be dz. All [N, F]. Row-local. Writes dmean (=)."""
    first, last = row_share(dz.shape[0], tasks, task)
    F = dz.shape[1]
    sweep_pulled(first * F, last * F, data(dmean), data(dz), data(mean), scale, 0, dz)


@kernel
def kl_divergence(task: Int, tasks: Int, value: Doubles, mean: Vector, log_variance: Vector, scale: Double, block: Int) -> None:
    """value[k] = scale sum of (mean^2 + exp(log_variance) - 1 - log_variance) / 2 over the elements k block, ..., (k + 1) block - 1.

    Terms are of the arrays' type, sums are float64. Task t covers its share of the blocks. Writes value (=).
    """
    T = mean.dtype.type
    first, last = row_share(value.size, tasks, task)
    means, logs = data(mean), data(log_variance)
    for k in range(first, last):
        own = 0.0
        for i in range(k * block + thread(), min(mean.size, (k + 1) * block), THREADS):
            own += T(0.5) * (means[i] * means[i] + (expm1(logs[i]) - logs[i]))
        total = block_sum(own, scratch(value))
        if thread() == 0:
            data(value)[k] = scale * total
