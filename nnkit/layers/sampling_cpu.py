"""Kernels of Sampling. N batch, F numbers of a sample.

Number e takes the normal number e % 4 of the four that Philox's words for counter e // 4 give. In training e is the number's place in the batch
and the step is part of the counter; in evaluation e is its place in the whole data set, and a word of the counter is another one.
"""

from __future__ import annotations

from nnkit.jit import Counters, Double, Doubles, Int, Matrix, Real, Vector, kernel
from nnkit.layers.noise_cpu import BLOCK, block_like, draw_normals
from nnkit.plan.layout import COUNTERS
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.reduce_cpu import run_sums
from nnkit.prims.simd_cpu import address, part
from nnkit.scalar import exp, expm1

__all__ = ["kl_divergence", "sampling_backward_log_variance", "sampling_backward_mean", "sampling_forward"]

STEP, POSITION, SEED = COUNTERS["step"], COUNTERS["position"], COUNTERS["seed"]


def widened(e, v, c, sums):  # type: ignore[no-untyped-def]
    """Sum x, in float64."""
    return [e.b.fadd(sums[0], v[0] if v[0].type == sums[0].type else e.b.fpext(v[0], sums[0].type))]


run_total = run_sums(widened, 1, 1, wide=True)


@kernel
def sampling_forward(task: Int, tasks: Int, z: Matrix, mean: Matrix, log_variance: Matrix, counters: Counters, stream: Int, seed: Int,
                     evaluation: Int) -> None:
    """z = mean + exp(log_variance / 2) e, e standard normal. All [N, F]. seed < 0: the model's. Row-local. Writes z (=)."""
    T = z.dtype.type
    start, stop = row_share(z.shape[0], tasks, task)
    F = z.shape[1]
    key = counters[SEED] if seed < 0 else seed
    step, origin = (0, counters[POSITION] * F) if evaluation else (counters[STEP], 0)
    noise = block_like(z)
    begin, end = origin + start * F, origin + stop * F
    for at in range(begin // 4 * 4, end, BLOCK):         # a sample's numbers may begin between two counters
        first, last = max(at, begin), min(at + BLOCK, end)
        draw_normals(noise, last - at, key, stream, at // 4, evaluation, step)
        es, zs = part(noise, first - at, last - at), part(z, first - origin, last - origin)
        means, logs = part(mean, first - origin, last - origin), part(log_variance, first - origin, last - origin)
        for i in range(zs.size):
            zs[i] = means[i] + exp(T(0.5) * logs[i]) * es[i]


@kernel
def sampling_backward_log_variance(task: Int, tasks: Int, dlog_variance: Matrix, dz: Matrix, z: Matrix, mean: Matrix, log_variance: Matrix,
                                   scale: Real) -> None:
    """dlog_variance = dz (z - mean) / 2 + scale (exp(log_variance) - 1) / 2. All [N, F]. Row-local. Writes dlog_variance (=)."""
    T = z.dtype.type
    first, last = row_share(z.shape[0], tasks, task)
    F = z.shape[1]
    out, dzs, zs = part(dlog_variance, first * F, last * F), part(dz, first * F, last * F), part(z, first * F, last * F)
    means, logs = part(mean, first * F, last * F), part(log_variance, first * F, last * F)
    for i in range(out.size):
        out[i] = T(0.5) * (dzs[i] * (zs[i] - means[i]) + scale * expm1(logs[i]))


@kernel
def sampling_backward_mean(task: Int, tasks: Int, dmean: Matrix, dz: Matrix, mean: Matrix, scale: Real) -> None:
    """dmean = dz + scale mean; dmean may be dz. All [N, F]. Row-local. Writes dmean (=)."""
    first, last = row_share(dz.shape[0], tasks, task)
    F = dz.shape[1]
    out, dzs, means = part(dmean, first * F, last * F), part(dz, first * F, last * F), part(mean, first * F, last * F)
    if address(dmean) == address(dz):                    # one array: a loop over two that overlap would not become vector code
        for i in range(out.size):
            out[i] += scale * means[i]
    else:
        for i in range(out.size):
            out[i] = dzs[i] + scale * means[i]


@kernel
def kl_divergence(task: Int, tasks: Int, value: Doubles, mean: Vector, log_variance: Vector, scale: Double, block: Int) -> None:
    """value[k] = scale sum of (mean^2 + exp(log_variance) - 1 - log_variance) / 2 over the elements k block, ..., (k + 1) block - 1.

    Terms are of the arrays' type, sums are float64, by BLOCK elements in the order of `run_sums`. Task t covers its share of the blocks.
    Writes value (=).
    """
    T = mean.dtype.type
    terms = block_like(mean)
    for k in range(value.size * task // tasks, value.size * (task + 1) // tasks):
        total = 0.0
        stop = min(mean.size, (k + 1) * block)
        for first in range(k * block, stop, BLOCK):
            last = min(stop, first + BLOCK)
            means, logs = part(mean, first, last), part(log_variance, first, last)
            for i in range(means.size):
                terms[i] = T(0.5) * (means[i] * means[i] + (expm1(logs[i]) - logs[i]))
            total += run_total(last - first, address(terms), 0, 0, T(0), mean)[0]
        value[k] = scale * total
