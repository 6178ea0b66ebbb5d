"""Kernels of BatchNormalization and LayerNormalization.

N batch, C channels, R rows (cells of a channel), I cells of a channel that lie side by side (1 where the channels are the last axis),
L elements of a row that LayerNormalization takes together; F fold, W = F C tile, K chunks: see prims/reduce.py.
Every array named in `writes` is written whole (=).

Moments are those of the corrected two-pass algorithm (Chan, Golub, LeVeque: Algorithms for computing the sample variance, 1983): with a first
mean m and d = x - m, mean = m + sum d / n and squares = sum d^2 - (sum d)^2 / n, so that the rounding of m does not matter.
"""

from __future__ import annotations

from nnkit.jit import Int, Matrix, Real, Tensor3, Vector, kernel, routine
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.pointwise_cpu import share
from nnkit.prims.reduce import STRIP
from nnkit.prims.reduce_cpu import column_sums, columns_plain, fold, piece_bounds, run_plain, run_sums, tile
from nnkit.prims.simd_cpu import address, itemsize, part
from nnkit.scalar import sqrt

__all__ = [
    "batch_norm_fold", "batch_norm_gradient_sums", "batch_norm_gradient_sums_inner", "batch_norm_gradients", "batch_norm_inference",
    "batch_norm_input", "batch_norm_input_inner", "batch_norm_moments", "batch_norm_moments_inner", "batch_norm_normalize",
    "batch_norm_normalize_inner", "batch_norm_scale", "batch_norm_scale_inner", "batch_norm_statistics", "fill", "layer_norm_forward",
    "layer_norm_gradient_sums", "layer_norm_gradients", "layer_norm_input",
]


# Rules of the sums: from loaded vectors v and constants c to new sums.

def centred(e, v, c, sums):  # type: ignore[no-untyped-def]
    """Sum d and sum d^2, d = x - c."""
    d = e.b.fsub(v[0], c[0])
    return [e.b.fadd(sums[0], d), e.fma(d, d, sums[1])]


def with_centred(e, v, c, sums):  # type: ignore[no-untyped-def]
    """Sum dy and sum dy d, d = x - c."""
    return [e.b.fadd(sums[0], v[0]), e.fma(v[0], e.b.fsub(v[1], c[0]), sums[1])]


def with_normalized(e, v, c, sums):  # type: ignore[no-untyped-def]
    """Sum dy and sum dy (x - mean) rstd."""
    return [e.b.fadd(sums[0], v[0]), e.fma(v[0], e.b.fmul(e.b.fsub(v[1], c[0]), c[1]), sums[1])]


def weighted(e, v, c, sums):  # type: ignore[no-untyped-def]
    """Sum g and sum g d, g = dy gamma, d = x - c."""
    g = e.b.fmul(v[0], v[2])
    return [e.b.fadd(sums[0], g), e.fma(g, e.b.fsub(v[1], c[0]), sums[1])]


run_centred, run_with_centred, run_weighted = run_sums(centred, 1, 2), run_sums(with_centred, 2, 2), run_sums(weighted, 3, 2)
columns_centred = column_sums(centred, 1, 2, along_columns=True)
columns_with_centred = column_sums(with_centred, 2, 2, along_columns=True)
columns_with_normalized = column_sums(with_normalized, 2, 2, along_rows=2)


# Batch normalization: moments of every channel.

@kernel
def batch_norm_moments(task: Int, tasks: Int, partial: Tensor3, x: Matrix, times: Int, chunk: Int) -> None:
    """Of every chunk k and channel c the mean, partial[k, 0, c], and the squared deviations from it, partial[k, 1, c].

    x [R, C], partial [K, 3, W]; times: F; chunk: tile rows of a chunk. Task t covers its share of the pieces. Writes partial (=).
    """
    T = x.dtype.type
    rows, columns = x.shape
    chunks, width = partial.shape[0], partial.shape[2]
    size = itemsize(x)
    pieces = chunks * ((width + STRIP - 1) // STRIP)
    for piece in range(pieces * task // tasks, pieces * (task + 1) // tasks):
        k, start, stop, first, count, left = piece_bounds(piece, rows, columns, times, chunk, chunks, STRIP)
        extra = left * columns                           # the first columns of the tile have one row more
        n = stop - start if times == 1 else columns
        skip = size * extra
        base = k * 3 * width + start
        at, mean = address(x) + size * (first * width + start), address(partial) + size * base
        out = mean + size * width
        scale = T(1) / T(max(1, count * times + left))
        for side in range(2):
            more, n_side = side * skip, stop - start - extra if side else extra
            columns_plain(count + 1 - side, n_side, mean + more, width, at + more, 0, width, 0, 0, x)
        fold(mean, columns, times, x)
        means = part(partial, base, base + n)
        for c in range(n):
            means[c] *= scale
        tile(mean, columns, times, x)
        for side in range(2):
            more, n_side = side * skip, stop - start - extra if side else extra
            columns_centred(count + 1 - side, n_side, out + more, width, at + more, 0, width, mean + more, 0, x)
        for t in range(2):
            fold(out + size * t * width, columns, times, x)
        sums, squares = part(partial, base + width, base + width + n), part(partial, base + 2 * width, base + 2 * width + n)
        for c in range(n):
            d = sums[c]
            means[c] += d * scale
            sums[c] = squares[c] - d * d * scale


@kernel
def batch_norm_moments_inner(task: Int, tasks: Int, partial: Tensor3, x: Tensor3) -> None:
    """The same for channels that are not the last axis: x [O, C, I], partial [1, 3, C]. Task t covers its share of the channels."""
    T = x.dtype.type
    outer, channels, inner = x.shape
    size = itemsize(x)
    scale = T(1) / T(max(1, outer * inner))
    for c in range(channels * task // tasks, channels * (task + 1) // tasks):
        at = address(x) + size * c * inner
        total = T(0)
        for o in range(outer):
            total += run_plain(inner, at + size * o * channels * inner, 0, 0, T(0), x)[0]
        mean = total * scale
        d, squares = T(0), T(0)
        for o in range(outer):
            first, second = run_centred(inner, at + size * o * channels * inner, 0, 0, mean, x)
            d += first
            squares += second
        partial[0, 0, c] = mean + d * scale
        partial[0, 1, c] = squares - d * d * scale
        partial[0, 2, c] = T(0)


@routine
def channel_share(channels, times, tasks, task):  # type: ignore[no-untyped-def]
    """The channels of a task; where a tile holds several copies of them, the first task has all, since it repeats them."""
    if times == 1:
        return share(channels, tasks, task)
    return 0, channels if task == 0 else 0


@routine
def affine(statistics, gamma, beta, start, stop, times, epsilon):  # type: ignore[no-untyped-def]
    """From rows mean and variance of `statistics` [4, W]: rows mean, rstd = 1 / sqrt(variance + epsilon), scale = gamma rstd, beta."""
    T = statistics.dtype.type
    width = statistics.shape[1]
    rstd, scale = part(statistics, width + start, width + stop), part(statistics, 2 * width + start, 2 * width + stop)
    shift, gammas, betas = part(statistics, 3 * width + start, 3 * width + stop), part(gamma, start, stop), part(beta, start, stop)
    for c in range(rstd.size):
        r = T(1) / sqrt(rstd[c] + epsilon)
        rstd[c] = r
        scale[c] = gammas[c] * r
        shift[c] = betas[c]
    if stop > start:
        for s in range(4):
            tile(address(statistics) + itemsize(statistics) * s * width, stop, times, statistics)


@kernel
def batch_norm_statistics(task: Int, tasks: Int, statistics: Matrix, moving_mean: Vector, moving_variance: Vector, partial: Tensor3, gamma: Vector,
                          beta: Vector, channels: Int, rows: Int, chunk: Int, epsilon: Real, momentum: Real) -> None:
    """Mean and variance of every channel from those of the chunks: mean = sum n_k mean_k / n, squares = sum squares_k + n_k (mean_k - mean)^2.

    statistics [4, W]: mean, rstd = 1 / sqrt(variance + epsilon), gamma rstd, beta. moving <- momentum moving + (1 - momentum) batch, where the
    moving arrays are not empty. chunk: rows of every chunk but the last. Task t covers its share of the channels.
    Writes statistics (=), updates the moving arrays.
    """
    T = gamma.dtype.type
    width, old, chunks = statistics.shape[1], partial.shape[2], partial.shape[0]
    times = width // max(1, channels)
    start, stop = channel_share(channels, times, tasks, task)
    mean, squares = part(statistics, start, stop), part(statistics, width + start, width + stop)
    first = part(partial, start, stop)
    for c in range(mean.size):
        squares[c] = T(0)
    scale = T(1) / T(max(1, rows))
    for k in range(1, chunks):                           # first what the means differ by, so that a large mean is rounded once
        share_k = T(min(chunk, rows - k * chunk)) * scale
        m = part(partial, 3 * k * old + start, 3 * k * old + stop)
        for c in range(mean.size):
            squares[c] += share_k * (m[c] - first[c])
    for c in range(mean.size):
        mean[c] = first[c] + squares[c]
        squares[c] = T(0)
    for k in range(chunks):
        n = T(min(chunk, rows - k * chunk))
        m, s = part(partial, 3 * k * old + start, 3 * k * old + stop), part(partial, (3 * k + 1) * old + start, (3 * k + 1) * old + stop)
        for c in range(mean.size):
            d = m[c] - mean[c]
            squares[c] += s[c] + n * d * d
    for c in range(mean.size):
        variance = squares[c] * scale
        squares[c] = variance if not variance < T(0) else T(0)
    if moving_mean.size:
        means, variances = part(moving_mean, start, stop), part(moving_variance, start, stop)
        for c in range(mean.size):
            means[c] = momentum * means[c] + (T(1) - momentum) * mean[c]
            variances[c] = momentum * variances[c] + (T(1) - momentum) * squares[c]
    affine(statistics, gamma, beta, start, stop, times, epsilon)


@kernel
def batch_norm_inference(task: Int, tasks: Int, statistics: Matrix, moving_mean: Vector, moving_variance: Vector, gamma: Vector, beta: Vector,
                         epsilon: Real) -> None:
    """The statistics [4, W] of `batch_norm_statistics` from the moving mean and variance [C]. Task t covers its share. Writes statistics (=)."""
    width, channels = statistics.shape[1], moving_mean.size
    times = width // max(1, channels)
    start, stop = channel_share(channels, times, tasks, task)
    mean, variance = part(statistics, start, stop), part(statistics, width + start, width + stop)
    means, variances = part(moving_mean, start, stop), part(moving_variance, start, stop)
    for c in range(mean.size):
        mean[c] = means[c]
        variance[c] = variances[c]
    affine(statistics, gamma, beta, start, stop, times, epsilon)


@kernel
def batch_norm_fold(task: Int, tasks: Int, folded: Matrix, shift: Vector, weight: Matrix, bias: Vector, statistics: Matrix) -> None:
    """folded = W scale and shift = (b - mean) scale + beta, filter by filter. Shapes: folded, weight [R, O], shift [O], bias [O] or empty,
    statistics [4, W], W >= O.

    Task t covers its share of the rows, and the first one shift. Writes folded and shift (=).
    """
    rows, O = weight.shape
    width = statistics.shape[1]
    scale = part(statistics, 2 * width, 2 * width + O)
    for r in range(rows * task // tasks, rows * (task + 1) // tasks):
        ys, xs = part(folded, r * O, (r + 1) * O), part(weight, r * O, (r + 1) * O)
        for o in range(ys.size):
            ys[o] = xs[o] * scale[o]
    if task == 0:
        for o in range(O):
            b = bias[o] if bias.size else weight.dtype.type(0)
            shift[o] = (b - statistics[0, o]) * scale[o] + statistics[3, o]


# Batch normalization: y, and back.

@kernel
def batch_norm_normalize(task: Int, tasks: Int, y: Matrix, x: Matrix, statistics: Matrix) -> None:
    """y = (x - mean) scale + beta; y may be x. y, x [N, P C], statistics [4, W]. Row-local. Writes y (=)."""
    first, last = row_share(y.shape[0], tasks, task)
    cells, width = y.shape[1], statistics.shape[1]
    mean, scale, beta = part(statistics, 0, width), part(statistics, 2 * width, 3 * width), part(statistics, 3 * width, 4 * width)
    for start in range(first * cells, last * cells, max(1, width)):
        stop = min(start + width, last * cells)
        ys, xs = part(y, start, stop), part(x, start, stop)
        if address(y) == address(x):                     # one array: a loop over two that overlap would not become vector code
            for j in range(ys.size):
                ys[j] = (ys[j] - mean[j]) * scale[j] + beta[j]
        else:
            for j in range(ys.size):
                ys[j] = (xs[j] - mean[j]) * scale[j] + beta[j]


@kernel
def batch_norm_normalize_inner(task: Int, tasks: Int, y: Tensor3, x: Tensor3, statistics: Matrix) -> None:
    """The same for y, x [N, P C, I], statistics [4, C]. Row-local. Writes y (=)."""
    first, last = row_share(y.shape[0], tasks, task)
    runs, inner = y.shape[1], y.shape[2]
    channels = statistics.shape[1]
    for run in range(first * runs, last * runs):
        c = run % channels
        mean, scale, beta = statistics[0, c], statistics[2, c], statistics[3, c]
        ys, xs = part(y, run * inner, (run + 1) * inner), part(x, run * inner, (run + 1) * inner)
        if address(y) == address(x):
            for i in range(ys.size):
                ys[i] = (ys[i] - mean) * scale + beta
        else:
            for i in range(ys.size):
                ys[i] = (xs[i] - mean) * scale + beta


@kernel
def batch_norm_gradient_sums(task: Int, tasks: Int, partial: Tensor3, dy: Matrix, x: Matrix, statistics: Matrix, times: Int, chunk: Int) -> None:
    """Of every chunk k and channel c: partial[k, 0, c] = sum dy and partial[k, 1, c] = sum dy (x - mean).

    dy, x [R, C], statistics [4, W], partial [K, 2, W]. Task t covers its share of the pieces. Writes partial (=).
    """
    rows, columns = x.shape
    chunks, width = partial.shape[0], partial.shape[2]
    size = itemsize(x)
    pieces = chunks * ((width + STRIP - 1) // STRIP)
    for piece in range(pieces * task // tasks, pieces * (task + 1) // tasks):
        k, start, stop, first, count, left = piece_bounds(piece, rows, columns, times, chunk, chunks, STRIP)
        extra = left * columns                           # the first columns of the tile have one row more
        skip = size * extra
        at, behind = address(dy) + size * (first * width + start), address(x) + size * (first * width + start)
        out, mean = address(partial) + size * (k * 2 * width + start), address(statistics) + size * start
        for side in range(2):
            more, n_side = side * skip, stop - start - extra if side else extra
            columns_with_centred(count + 1 - side, n_side, out + more, width, at + more, behind + more, width, mean + more, 0, x)
        for t in range(2):
            fold(out + size * t * width, columns, times, x)


@kernel
def batch_norm_gradient_sums_inner(task: Int, tasks: Int, partial: Tensor3, dy: Tensor3, x: Tensor3, statistics: Matrix) -> None:
    """The same for dy, x [O, C, I], statistics [4, C], partial [1, 2, C]. Task t covers its share of the channels. Writes partial (=)."""
    T = x.dtype.type
    outer, channels, inner = x.shape
    size = itemsize(x)
    for c in range(channels * task // tasks, channels * (task + 1) // tasks):
        plain_sum, centred_sum = T(0), T(0)
        for o in range(outer):
            at = size * (o * channels + c) * inner
            first, second = run_with_centred(inner, address(dy) + at, address(x) + at, 0, statistics[0, c], x)
            plain_sum += first
            centred_sum += second
        partial[0, 0, c] = plain_sum
        partial[0, 1, c] = centred_sum


@kernel
def batch_norm_gradients(task: Int, tasks: Int, coefficients: Matrix, dgamma: Vector, dbeta: Vector, partial: Tensor3, statistics: Matrix,
                         channels: Int, rows: Int) -> None:
    """dbeta = sum dy, dgamma = rstd sum dy (x - mean), each the sum of its chunks.

    coefficients [2, W] of the gradient dx = scale dy + b (x - mean) + a: a = -scale dbeta / n, b = -scale rstd dgamma / n.
    Task t covers its share of the channels. Writes coefficients, dgamma, dbeta (=).
    """
    T = dgamma.dtype.type
    width, old = coefficients.shape[1], partial.shape[2]
    times = width // max(1, channels)
    start, stop = channel_share(channels, times, tasks, task)
    a, b = part(coefficients, start, stop), part(coefficients, width + start, width + stop)
    rstd, scale = part(statistics, width + start, width + stop), part(statistics, 2 * width + start, 2 * width + stop)
    for c in range(a.size):
        a[c] = T(0)
        b[c] = T(0)
    for k in range(partial.shape[0]):
        p, q = part(partial, 2 * k * old + start, 2 * k * old + stop), part(partial, (2 * k + 1) * old + start, (2 * k + 1) * old + stop)
        for c in range(a.size):
            a[c] += p[c]
            b[c] += q[c]
    n = T(-1) / T(max(1, rows))
    gammas, betas = part(dgamma, start, stop), part(dbeta, start, stop)
    for c in range(a.size):
        dg, db, factor = b[c] * rstd[c], a[c], scale[c] * n
        gammas[c] = dg
        betas[c] = db
        a[c] = factor * db
        b[c] = factor * rstd[c] * dg
    if stop > start:
        for t in range(2):
            tile(address(coefficients) + itemsize(coefficients) * t * width, stop, times, coefficients)


@kernel
def batch_norm_input(task: Int, tasks: Int, dx: Matrix, dy: Matrix, x: Matrix, statistics: Matrix, coefficients: Matrix) -> None:
    """dx = scale dy + b (x - mean) + a; dx may be dy. dx, dy, x [N, P C], coefficients [2, W]. Row-local. Writes dx (=)."""
    first, last = row_share(dx.shape[0], tasks, task)
    cells, width = dx.shape[1], statistics.shape[1]
    mean, scale = part(statistics, 0, width), part(statistics, 2 * width, 3 * width)
    a, b = part(coefficients, 0, width), part(coefficients, width, 2 * width)
    for start in range(first * cells, last * cells, max(1, width)):
        stop = min(start + width, last * cells)
        dxs, dys, xs = part(dx, start, stop), part(dy, start, stop), part(x, start, stop)
        if address(dx) == address(dy):
            for j in range(dxs.size):
                dxs[j] = dxs[j] * scale[j] + ((xs[j] - mean[j]) * b[j] + a[j])
        else:
            for j in range(dxs.size):
                dxs[j] = dys[j] * scale[j] + ((xs[j] - mean[j]) * b[j] + a[j])


@kernel
def batch_norm_input_inner(task: Int, tasks: Int, dx: Tensor3, dy: Tensor3, x: Tensor3, statistics: Matrix, coefficients: Matrix) -> None:
    """The same for dx, dy, x [N, P C, I], coefficients [2, C]. Row-local. Writes dx (=)."""
    first, last = row_share(dx.shape[0], tasks, task)
    runs, inner = dx.shape[1], dx.shape[2]
    channels = statistics.shape[1]
    for run in range(first * runs, last * runs):
        c = run % channels
        mean, scale, a, b = statistics[0, c], statistics[2, c], coefficients[0, c], coefficients[1, c]
        start, stop = run * inner, (run + 1) * inner
        dxs, dys, xs = part(dx, start, stop), part(dy, start, stop), part(x, start, stop)
        if address(dx) == address(dy):
            for i in range(dxs.size):
                dxs[i] = dxs[i] * scale + ((xs[i] - mean) * b + a)
        else:
            for i in range(dxs.size):
                dxs[i] = dys[i] * scale + ((xs[i] - mean) * b + a)


@kernel
def batch_norm_scale(task: Int, tasks: Int, dx: Matrix, dy: Matrix, statistics: Matrix) -> None:
    """Of a frozen layer: dx = scale dy; dx may be dy. dx, dy [N, P C], statistics [4, W]. Row-local. Writes dx (=)."""
    first, last = row_share(dx.shape[0], tasks, task)
    cells, width = dx.shape[1], statistics.shape[1]
    scale = part(statistics, 2 * width, 3 * width)
    for start in range(first * cells, last * cells, max(1, width)):
        stop = min(start + width, last * cells)
        dxs, dys = part(dx, start, stop), part(dy, start, stop)
        if address(dx) == address(dy):
            for j in range(dxs.size):
                dxs[j] *= scale[j]
        else:
            for j in range(dxs.size):
                dxs[j] = dys[j] * scale[j]


@kernel
def batch_norm_scale_inner(task: Int, tasks: Int, dx: Tensor3, dy: Tensor3, statistics: Matrix) -> None:
    """The same for dx, dy [N, P C, I], statistics [4, C]. Row-local. Writes dx (=)."""
    first, last = row_share(dx.shape[0], tasks, task)
    runs, inner = dx.shape[1], dx.shape[2]
    channels = statistics.shape[1]
    for run in range(first * runs, last * runs):
        scale = statistics[2, run % channels]
        dxs, dys = part(dx, run * inner, (run + 1) * inner), part(dy, run * inner, (run + 1) * inner)
        if address(dx) == address(dy):
            for i in range(dxs.size):
                dxs[i] *= scale
        else:
            for i in range(dxs.size):
                dxs[i] = dys[i] * scale


# Layer normalization.

@kernel
def fill(task: Int, tasks: Int, y: Vector, value: Real) -> None:
    """y = value: the gamma or beta of a layer without one. Task t covers its share of the elements. Writes y (=)."""
    start, stop = share(y.size, tasks, task)
    ys = part(y, start, stop)
    for j in range(ys.size):
        ys[j] = value


@kernel
def layer_norm_forward(task: Int, tasks: Int, y: Matrix, statistics: Matrix, x: Matrix, gamma: Vector, beta: Vector, epsilon: Real) -> None:
    """y = (x - mean) rstd gamma + beta with mean and rstd = 1 / sqrt(variance + epsilon) of the row, kept in statistics [R, 2]; y may be x.

    y, x [R, L]; gamma, beta [L]. Row-local. Writes y, statistics (=).
    """
    T = x.dtype.type
    first, last = row_share(x.shape[0], tasks, task)
    length = x.shape[1]
    n = T(1) / T(max(1, length))
    gammas, betas = part(gamma, 0, length), part(beta, 0, length)
    for r in range(first, last):
        at = address(x) + itemsize(x) * r * length
        mean = run_plain(length, at, 0, 0, T(0), x)[0] * n
        d, squares = run_centred(length, at, 0, 0, mean, x)
        mean += d * n
        variance = (squares - d * d * n) * n
        rstd = T(1) / sqrt((T(0) if variance < T(0) else variance) + epsilon)
        statistics[r, 0] = mean
        statistics[r, 1] = rstd
        ys, xs = part(y, r * length, (r + 1) * length), part(x, r * length, (r + 1) * length)
        if address(y) == address(x):                     # one array: a loop over two that overlap would not become vector code
            for j in range(ys.size):
                ys[j] = (ys[j] - mean) * rstd * gammas[j] + betas[j]
        else:
            for j in range(ys.size):
                ys[j] = (xs[j] - mean) * rstd * gammas[j] + betas[j]


@kernel
def layer_norm_gradient_sums(task: Int, tasks: Int, partial: Tensor3, dy: Matrix, x: Matrix, statistics: Matrix, chunk: Int) -> None:
    """Of every chunk k of rows: partial[k, 0] = sum dy and partial[k, 1] = sum dy (x - mean) rstd.

    dy, x [R, L], statistics [R, 2], partial [K, 2, L]. Task t covers its share of the pieces. Writes partial (=).
    """
    rows, length = x.shape
    chunks = partial.shape[0]
    size = itemsize(x)
    pieces = chunks * ((length + STRIP - 1) // STRIP)
    for piece in range(pieces * task // tasks, pieces * (task + 1) // tasks):
        k, start, stop, first, count, _ = piece_bounds(piece, rows, length, 1, chunk, chunks, STRIP)
        at = size * (first * length + start)
        columns_with_normalized(count, stop - start, address(partial) + size * (2 * k * length + start), length, address(dy) + at, address(x) + at,
                                length, 0, address(statistics) + size * 2 * first, x)


@kernel
def layer_norm_gradients(task: Int, tasks: Int, dgamma: Vector, dbeta: Vector, partial: Tensor3) -> None:
    """dbeta = sum dy, dgamma = sum dy (x - mean) rstd, from the sums of the chunks in their order; empty where the layer has none.

    dgamma, dbeta [L], partial [K, 2, L]. Task t covers its share of the columns. Writes dgamma, dbeta (=).
    """
    chunks, _, length = partial.shape
    size = itemsize(partial)
    start, stop = share(length, tasks, task)
    for t in range(2):
        found = dbeta if t == 0 else dgamma
        if found.size and stop > start:
            columns_plain(chunks, stop - start, address(found) + size * start, 0, address(partial) + size * (t * length + start), 0, 2 * length, 0, 0,
                          partial)


@kernel
def layer_norm_input(task: Int, tasks: Int, dx: Matrix, dy: Matrix, x: Matrix, statistics: Matrix, gamma: Vector) -> None:
    """dx = rstd (g - mean of g - xhat * mean of g xhat), g = dy gamma, xhat = (x - mean) rstd; dx may be dy.

    dx, dy, x [R, L], statistics [R, 2], gamma [L]. Row-local. Writes dx (=).
    """
    T = x.dtype.type
    first, last = row_share(x.shape[0], tasks, task)
    length = x.shape[1]
    n = T(-1) / T(max(1, length))
    gammas = part(gamma, 0, length)
    for r in range(first, last):
        at = itemsize(x) * r * length
        mean, rstd = statistics[r, 0], statistics[r, 1]
        total, moment = run_weighted(length, address(dy) + at, address(x) + at, address(gamma), mean, x)
        a, b = rstd * total * n, moment * rstd * n * rstd * rstd      # in this order: rstd^3 alone may be infinite where the row is constant
        start, stop = r * length, (r + 1) * length
        dxs, dys, xs = part(dx, start, stop), part(dy, start, stop), part(x, start, stop)
        if address(dx) == address(dy):
            for j in range(dxs.size):
                dxs[j] = dxs[j] * gammas[j] * rstd + ((xs[j] - mean) * b + a)
        else:
            for j in range(dxs.size):
                dxs[j] = dys[j] * gammas[j] * rstd + ((xs[j] - mean) * b + a)
