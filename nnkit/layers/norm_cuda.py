"""CUDA twins of norm_cpu.py.

N batch, C channels, R rows (cells of a channel), I cells of a channel that lie side by side (1 where the channels are the last axis),
L elements of a row that LayerNormalization takes together; W = C as a rule, K chunks: see prims/reduce.py. The fold of chunks is always 1.
Every array named in `writes` is written whole (=), but for what only the CPU needs of the moments.

Moments are those of the corrected two-pass algorithm, as there: the second pass finds the chunk, or the row, in the first-level cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkit.cuda_jit import THREADS, data, kernel, routine, scratch, thread
from nnkit.jit import Int, Matrix, Real, Tensor3, Vector
from nnkit.prims.block_cuda import (
    WARPS,
    block_sum,
    column_piece,
    columns_joined,
    columns_of,
    divided,
    over_parts,
    piece_count,
    row_share,
    share,
    strided_sums,
)
from nnkit.prims.pointwise_cuda import by_channel, by_column
from nnkit.prims.reduce_cuda import both_sums, plain, plain_sums, sum_columns
from nnkit.prims.rows_cuda import row_of_warp, sum_over_warp, warp_lane
from nnkit.scalar import sqrt

__all__ = [
    "batch_norm_fold", "batch_norm_gradient_sums", "batch_norm_gradient_sums_inner", "batch_norm_gradients", "batch_norm_inference",
    "batch_norm_input", "batch_norm_input_inner", "batch_norm_moments", "batch_norm_moments_inner", "batch_norm_normalize",
    "batch_norm_normalize_inner", "batch_norm_scale", "batch_norm_scale_inner", "batch_norm_statistics", "fill", "layer_norm_forward",
    "layer_norm_gradient_sums", "layer_norm_gradients", "layer_norm_input",
]

LONG = 512                                               # elements of a row from which on a block takes it; fewer are a warp's


# Terms of the sums: see strided_sums. d = x - constant.

@routine
def centred(x, y, mean, more, r):
    """Sum d and sum d^2."""
    d = x - mean
    return d, d * d


@routine
def with_centred(dy, x, mean, more, r):
    """Sum dy and sum dy d."""
    return dy, dy * (x - mean)


@routine
def with_normalized(dy, x, constant, statistics, r):
    """Sum dy and sum dy (x - mean) rstd, with mean and rstd of row r."""
    return dy, dy * ((x - statistics[2 * r]) * statistics[2 * r + 1])


@routine
def weighted(dy, x, mean, gamma, r):
    """Sum g and sum g d, g = dy gamma."""
    g = dy * gamma[r]
    return g, g * (x - mean)


@routine
def mean_differences(mean, y, first, sizes, k):
    """Sum (n_k / n) (mean_k - first), with sizes = (rows of every chunk but the last, all rows, 1 / n)."""
    T = type(mean)
    chunk, rows, scale = sizes
    return T(min(chunk, rows - k * chunk)) * scale * (mean - first), T(0)


@routine
def joined_squares(mean, squares, whole, sizes, k):
    """Sum squares_k + n_k (mean_k - whole)^2."""
    T = type(mean)
    chunk, rows, _ = sizes
    d = mean - whole
    return squares + T(min(chunk, rows - k * chunk)) * d * d, T(0)


centred_sums, with_centred_sums, with_normalized_sums = strided_sums(centred), strided_sums(with_centred), strided_sums(with_normalized)
weighted_sums, difference_sums, square_sums = strided_sums(weighted), strided_sums(mean_differences), strided_sums(joined_squares)


# Batch normalization: moments of every channel.

@kernel
def batch_norm_moments(task: Int, tasks: Int, partial: Tensor3, x: Matrix, times: Int, chunk: Int) -> None:
    """Of every chunk k and channel c the mean, partial[k, 0, c], and the squared deviations from it, partial[k, 1, c].

    x [R, C], partial [K, 3, C]; times: 1; chunk: rows of a chunk. Task t covers its share of the pieces. Writes these rows of partial (=).
    """
    T, place, xs, out = x.dtype.type, scratch(x), data(x), data(partial)
    rows, width = x.shape
    chunks, columns = partial.shape[0], columns_of(width)
    first, last = row_share(piece_count(chunks, width, columns), tasks, task)
    for piece in range(first, last):
        k, j, begin, end, parts = column_piece(piece, chunks, rows, width, chunk, columns)
        scale = T(1) / T(max(1, min(chunk, rows - k * chunk)))
        total, _ = plain_sums(begin, end, parts, width, xs, j, xs, j, T(0), 0, x)
        mean = over_parts(total, columns, place) * scale
        d, squares = centred_sums(begin, end, parts, width, xs, j, xs, j, mean, 0, x)
        d, squares = over_parts(d, columns, place), over_parts(squares, columns, place)
        if thread() < columns and j < width:
            out[3 * k * width + j] = mean + d * scale
            out[(3 * k + 1) * width + j] = squares - d * d * scale


def channel_sums(term: Callable[..., Any]) -> Any:
    """The thread's own sums of the terms over all cells of channel c of arrays [O, C, I]: its cells i, i + THREADS, ... of the channel's O I."""
    @routine
    def sums(xs, ys, outer, channels, inner, c, constant, like):
        T = like.dtype.type
        a, b = T(0), T(0)
        steps, rest = divided(THREADS, max(1, inner))
        o, i = divided(thread(), max(1, inner))
        for _ in range(thread(), outer * inner, THREADS):
            at = (o * channels + c) * inner + i
            p, q = term(xs[at], ys[at], constant, 0, 0)
            a += p
            b += q
            o, i = o + steps, i + rest
            if i >= inner:
                o, i = o + 1, i - inner
        return a, b
    return sums


plain_channel, centred_channel, with_centred_channel = channel_sums(plain), channel_sums(centred), channel_sums(with_centred)


@kernel
def batch_norm_moments_inner(task: Int, tasks: Int, partial: Tensor3, x: Tensor3) -> None:
    """The same for channels that are not the last axis: x [O, C, I], partial [1, 3, C]. Task t covers its share of the channels."""
    T, place, xs, out = x.dtype.type, scratch(x), data(x), data(partial)
    outer, channels, inner = x.shape
    scale = T(1) / T(max(1, outer * inner))
    first, last = row_share(channels, tasks, task)
    for c in range(first, last):
        total, _ = plain_channel(xs, xs, outer, channels, inner, c, T(0), x)
        mean = block_sum(total, place) * scale
        d, squares = centred_channel(xs, xs, outer, channels, inner, c, mean, x)
        d, squares = block_sum(d, place), block_sum(squares, place)
        if thread() == 0:
            out[c] = mean + d * scale
            out[channels + c] = squares - d * d * scale


@routine
def affine(statistics, width, channels, c, mean, variance, gamma, beta, epsilon):
    """Mean, rstd = 1 / sqrt(variance + epsilon), scale = gamma rstd and beta of channel c: all its copies in the rows of `statistics` [4, W]."""
    rstd = type(mean)(1) / sqrt(variance + epsilon)
    scale, shift = gamma[c] * rstd, beta[c]
    for j in range(c, width, channels):
        statistics[j], statistics[width + j], statistics[2 * width + j], statistics[3 * width + j] = mean, rstd, scale, shift


@kernel
def batch_norm_statistics(task: Int, tasks: Int, statistics: Matrix, moving_mean: Vector, moving_variance: Vector, partial: Tensor3, gamma: Vector,
                          beta: Vector, channels: Int, rows: Int, chunk: Int, epsilon: Real, momentum: Real) -> None:
    """Mean and variance of every channel from those of the chunks: mean = sum n_k mean_k / n, squares = sum squares_k + n_k (mean_k - mean)^2.

    statistics [4, W]: mean, rstd = 1 / sqrt(variance + epsilon), gamma rstd, beta. moving <- momentum moving + (1 - momentum) batch, where the
    moving arrays are not empty. chunk: rows of every chunk but the last. Task t covers its share of the strips of channels.
    Writes statistics (=), updates the moving arrays.
    """
    T, place, ps, means, variances = gamma.dtype.type, scratch(gamma), data(partial), data(moving_mean), data(moving_variance)
    width, old, chunks = statistics.shape[1], partial.shape[2], partial.shape[0]
    scale = T(1) / T(max(1, rows))
    sizes = (chunk, rows, scale)
    columns = columns_joined(channels, chunks)
    first, last = row_share(piece_count(1, channels, columns), tasks, task)
    for strip in range(first, last):
        _, c, begin, end, parts = column_piece(strip, 1, chunks, channels, chunks, columns)
        start = ps[c] if c < channels else T(0)
        begin_more = begin if begin > 0 else parts       # the first chunk's differs by 0 from itself, NaN if it is infinite
        d, _ = difference_sums(begin_more, end, parts, 3 * old, ps, c, ps, c, start, sizes, gamma)
        mean = start + over_parts(d, columns, place)    # first what the means differ by, so that a large mean is rounded once
        squares, _ = square_sums(begin, end, parts, 3 * old, ps, c, ps, old + c, mean, sizes, gamma)
        variance = over_parts(squares, columns, place) * scale
        variance = T(0) if variance < T(0) else variance
        if thread() < columns and c < channels:
            if moving_mean.size:
                means[c] = momentum * means[c] + (T(1) - momentum) * mean
                variances[c] = momentum * variances[c] + (T(1) - momentum) * variance
            affine(data(statistics), width, channels, c, mean, variance, data(gamma), data(beta), epsilon)


@kernel
def batch_norm_inference(task: Int, tasks: Int, statistics: Matrix, moving_mean: Vector, moving_variance: Vector, gamma: Vector, beta: Vector,
                         epsilon: Real) -> None:
    """The statistics [4, W] of `batch_norm_statistics` from the moving mean and variance [C]. Task t covers its share. Writes statistics (=)."""
    start, stop = share(moving_mean.size, tasks, task)
    for c in range(start + thread(), stop, THREADS):
        affine(data(statistics), statistics.shape[1], moving_mean.size, c, data(moving_mean)[c], data(moving_variance)[c], data(gamma), data(beta),
               epsilon)


@kernel
def batch_norm_fold(task: Int, tasks: Int, folded: Matrix, shift: Vector, weight: Matrix, bias: Vector, statistics: Matrix) -> None:
    """folded = W scale and shift = (b - mean) scale + beta, filter by filter. Shapes: folded, weight [R, O], shift [O], bias [O] or empty,
    statistics [4, W], W >= O.

    Task t covers its share of the elements, and the first one shift. Writes folded and shift (=).
    """
    O, width, s = weight.shape[1], statistics.shape[1], data(statistics)
    start, stop = share(weight.size, tasks, task)
    for i in range(start + thread(), stop, THREADS):
        data(folded)[i] = data(weight)[i] * s[2 * width + divided(i, O)[1]]
    if task == 0:
        for o in range(thread(), O, THREADS):
            b = data(bias)[o] if bias.size else weight.dtype.type(0)
            data(shift)[o] = (b - s[o]) * s[2 * width + o] + s[3 * width + o]


# Batch normalization: y, and back. Of a column: mean, scale, beta; scale, mean, a, b.

@routine
def normalized(x, z, mean, scale, beta, b, b1):
    """(x - mean) scale + beta."""
    return (x - mean) * scale + beta


@routine
def returned(dy, x, mean, scale, unused, a, b):
    """Scale dy + b (x - mean) + a."""
    return dy * scale + ((x - mean) * b + a)


@routine
def rescaled(dy, z, mean, scale, a2, b, b1):
    """Scale dy."""
    return dy * scale


sweep_normalized, sweep_returned, sweep_rescaled = by_column(normalized), by_column(returned), by_column(rescaled)
sweep_normalized_inner, sweep_returned_inner, sweep_rescaled_inner = by_channel(normalized), by_channel(returned), by_channel(rescaled)


@kernel
def batch_norm_normalize(task: Int, tasks: Int, y: Matrix, x: Matrix, statistics: Matrix) -> None:
    """y = (x - mean) scale + beta; y may be x. y, x [N, P C], statistics [4, W]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F, W, s = y.shape[1], statistics.shape[1], data(statistics)
    sweep_normalized(start * F, stop * F, W, data(y), data(x), data(x), s, 2 * W, 3 * W, s, 0, x)


@kernel
def batch_norm_normalize_inner(task: Int, tasks: Int, y: Tensor3, x: Tensor3, statistics: Matrix) -> None:
    """The same for y, x [N, P C, I], statistics [4, C]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F, C, s = y.shape[1] * y.shape[2], statistics.shape[1], data(statistics)
    sweep_normalized_inner(start * F, stop * F, C, y.shape[2], data(y), data(x), data(x), s, 2 * C, 3 * C, s, 0, x)


@kernel
def batch_norm_gradient_sums(task: Int, tasks: Int, partial: Tensor3, dy: Matrix, x: Matrix, statistics: Matrix, times: Int, chunk: Int) -> None:
    """Of every chunk k and channel c: partial[k, 0, c] = sum dy and partial[k, 1, c] = sum dy (x - mean).

    dy, x [R, C], statistics [4, W], partial [K, 2, C]; times: 1. Task t covers its share of the pieces. Writes partial (=).
    """
    T, place, dys, xs, out = x.dtype.type, scratch(x), data(dy), data(x), data(partial)
    rows, width = x.shape
    chunks, columns = partial.shape[0], columns_of(width)
    first, last = row_share(piece_count(chunks, width, columns), tasks, task)
    for piece in range(first, last):
        k, j, begin, end, parts = column_piece(piece, chunks, rows, width, chunk, columns)
        mean = data(statistics)[j] if j < width else T(0)
        a, b = with_centred_sums(begin, end, parts, width, dys, j, xs, j, mean, 0, x)
        a, b = over_parts(a, columns, place), over_parts(b, columns, place)
        if thread() < columns and j < width:
            out[2 * k * width + j], out[(2 * k + 1) * width + j] = a, b


@kernel
def batch_norm_gradient_sums_inner(task: Int, tasks: Int, partial: Tensor3, dy: Tensor3, x: Tensor3, statistics: Matrix) -> None:
    """The same for dy, x [O, C, I], statistics [4, C], partial [1, 2, C]. Task t covers its share of the channels. Writes partial (=)."""
    place, out = scratch(x), data(partial)
    outer, channels, inner = x.shape
    first, last = row_share(channels, tasks, task)
    for c in range(first, last):
        a, b = with_centred_channel(data(dy), data(x), outer, channels, inner, c, data(statistics)[c], x)
        a, b = block_sum(a, place), block_sum(b, place)
        if thread() == 0:
            out[c], out[channels + c] = a, b


@kernel
def batch_norm_gradients(task: Int, tasks: Int, coefficients: Matrix, dgamma: Vector, dbeta: Vector, partial: Tensor3, statistics: Matrix,
                         channels: Int, rows: Int) -> None:
    """dbeta = sum dy, dgamma = rstd sum dy (x - mean), each the sum of its chunks.

    coefficients [2, W] of the gradient dx = scale dy + b (x - mean) + a: a = -scale dbeta / n, b = -scale rstd dgamma / n.
    Task t covers its share of the strips of channels. Writes coefficients, dgamma, dbeta (=).
    """
    T, place, ps, s, out = dgamma.dtype.type, scratch(dgamma), data(partial), data(statistics), data(coefficients)
    width, old, chunks = coefficients.shape[1], partial.shape[2], partial.shape[0]
    n = T(-1) / T(max(1, rows))
    columns = columns_joined(channels, chunks)
    first, last = row_share(piece_count(1, channels, columns), tasks, task)
    for strip in range(first, last):
        _, c, begin, end, parts = column_piece(strip, 1, chunks, channels, chunks, columns)
        a, b = both_sums(begin, end, parts, 2 * old, ps, c, ps, old + c, T(0), 0, dgamma)
        a, b = over_parts(a, columns, place), over_parts(b, columns, place)
        if thread() < columns and c < channels:
            rstd, factor = s[width + c], s[2 * width + c] * n
            b *= rstd
            data(dgamma)[c], data(dbeta)[c] = b, a
            for j in range(c, width, channels):
                out[j], out[width + j] = factor * a, factor * rstd * b


@kernel
def batch_norm_input(task: Int, tasks: Int, dx: Matrix, dy: Matrix, x: Matrix, statistics: Matrix, coefficients: Matrix) -> None:
    """dx = scale dy + b (x - mean) + a; dx may be dy. dx, dy, x [N, P C], coefficients [2, W]. Row-local. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    F, W = dx.shape[1], statistics.shape[1]
    sweep_returned(start * F, stop * F, W, data(dx), data(dy), data(x), data(statistics), 2 * W, 0, data(coefficients), W, x)


@kernel
def batch_norm_input_inner(task: Int, tasks: Int, dx: Tensor3, dy: Tensor3, x: Tensor3, statistics: Matrix, coefficients: Matrix) -> None:
    """The same for dx, dy, x [N, P C, I], coefficients [2, C]. Row-local. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    F, C = dx.shape[1] * dx.shape[2], statistics.shape[1]
    sweep_returned_inner(start * F, stop * F, C, dx.shape[2], data(dx), data(dy), data(x), data(statistics), 2 * C, 0, data(coefficients), C, x)


@kernel
def batch_norm_scale(task: Int, tasks: Int, dx: Matrix, dy: Matrix, statistics: Matrix) -> None:
    """Of a frozen layer: dx = scale dy; dx may be dy. dx, dy [N, P C], statistics [4, W]. Row-local. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    F, W, s = dx.shape[1], statistics.shape[1], data(statistics)
    sweep_rescaled(start * F, stop * F, W, data(dx), data(dy), data(dy), s, 2 * W, 0, s, 0, dx)


@kernel
def batch_norm_scale_inner(task: Int, tasks: Int, dx: Tensor3, dy: Tensor3, statistics: Matrix) -> None:
    """The same for dx, dy [N, P C, I], statistics [4, C]. Row-local. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    F, C, s = dx.shape[1] * dx.shape[2], statistics.shape[1], data(statistics)
    sweep_rescaled_inner(start * F, stop * F, C, dx.shape[2], data(dx), data(dy), data(dy), s, 2 * C, 0, s, 0, dx)


# Layer normalization. Short rows are a warp's, long ones a block's: a choice by shapes alone, as all orders of sums.

@kernel
def fill(task: Int, tasks: Int, y: Vector, value: Real) -> None:
    """y = value: the gamma or beta of a layer without one. Task t covers its share of the elements. Writes y (=)."""
    start, stop = share(y.size, tasks, task)
    ys = data(y)
    for i in range(start + thread(), stop, THREADS):
        ys[i] = value


@routine
def warp_sum(value, place):
    """As block_sum, over the lanes of a warp."""
    return sum_over_warp(value)


def forward_row(total: Callable[..., Any]) -> Any:
    """What threads lane, lane + width, ... do together for row r; `total` sums over them."""
    @routine
    def row(r, lane, width, ys, statistics, xs, gammas, betas, length, epsilon, place, like):
        T = like.dtype.type
        n, at = T(1) / T(max(1, length)), r * length
        own, _ = plain_sums(lane, length, width, 1, xs, at, xs, at, T(0), 0, like)
        mean = total(own, place) * n
        d, squares = centred_sums(lane, length, width, 1, xs, at, xs, at, mean, 0, like)
        d, squares = total(d, place), total(squares, place)
        mean += d * n
        variance = (squares - d * d * n) * n
        rstd = T(1) / sqrt((T(0) if variance < T(0) else variance) + epsilon)
        if lane == 0:
            statistics[2 * r], statistics[2 * r + 1] = mean, rstd
        for j in range(lane, length, width):
            ys[at + j] = (xs[at + j] - mean) * rstd * gammas[j] + betas[j]
    return row


def input_row(total: Callable[..., Any]) -> Any:
    """The same backward."""
    @routine
    def row(r, lane, width, dxs, dys, xs, statistics, gammas, length, place, like):
        T = like.dtype.type
        n, at = T(-1) / T(max(1, length)), r * length
        mean, rstd = statistics[2 * r], statistics[2 * r + 1]
        a, b = weighted_sums(lane, length, width, 1, dys, at, xs, at, mean, gammas, like)
        a, b = rstd * total(a, place) * n, total(b, place) * rstd * n * rstd * rstd
        for j in range(lane, length, width):
            dxs[at + j] = dys[at + j] * gammas[j] * rstd + ((xs[at + j] - mean) * b + a)
    return row


forward_by_warp, forward_by_block = forward_row(warp_sum), forward_row(block_sum)
input_by_warp, input_by_block = input_row(warp_sum), input_row(block_sum)


@kernel
def layer_norm_forward(task: Int, tasks: Int, y: Matrix, statistics: Matrix, x: Matrix, gamma: Vector, beta: Vector, epsilon: Real) -> None:
    """y = (x - mean) rstd gamma + beta with mean and rstd = 1 / sqrt(variance + epsilon) of the row, kept in statistics [R, 2]; y may be x.

    y, x [R, L]; gamma, beta [L]. Row-local. Writes y, statistics (=).
    """
    start, stop = row_share(x.shape[0], tasks, task)
    length, place = x.shape[1], scratch(x)
    if length < LONG:
        for r in range(start + row_of_warp(), stop, WARPS):
            forward_by_warp(r, warp_lane(), 32, data(y), data(statistics), data(x), data(gamma), data(beta), length, epsilon, place, x)
    else:
        for r in range(start, stop):
            forward_by_block(r, thread(), THREADS, data(y), data(statistics), data(x), data(gamma), data(beta), length, epsilon, place, x)


@kernel
def layer_norm_gradient_sums(task: Int, tasks: Int, partial: Tensor3, dy: Matrix, x: Matrix, statistics: Matrix, chunk: Int) -> None:
    """Of every chunk k of rows: partial[k, 0] = sum dy and partial[k, 1] = sum dy (x - mean) rstd.

    dy, x [R, L], statistics [R, 2], partial [K, 2, L]. Task t covers its share of the pieces. Writes partial (=).
    """
    T, place, dys, xs, out = x.dtype.type, scratch(x), data(dy), data(x), data(partial)
    rows, width = x.shape
    chunks, columns = partial.shape[0], columns_of(width)
    first, last = row_share(piece_count(chunks, width, columns), tasks, task)
    for piece in range(first, last):
        k, j, begin, end, parts = column_piece(piece, chunks, rows, width, chunk, columns)
        a, b = with_normalized_sums(begin, end, parts, width, dys, j, xs, j, T(0), data(statistics), x)
        a, b = over_parts(a, columns, place), over_parts(b, columns, place)
        if thread() < columns and j < width:
            out[2 * k * width + j], out[(2 * k + 1) * width + j] = a, b


@kernel
def layer_norm_gradients(task: Int, tasks: Int, dgamma: Vector, dbeta: Vector, partial: Tensor3) -> None:
    """dbeta = sum dy, dgamma = sum dy (x - mean) rstd, from the sums of the chunks; empty where the layer has none.

    dgamma, dbeta [L], partial [K, 2, L]. Task t covers its share of the strips of columns. Writes dgamma, dbeta (=).
    """
    chunks, length = partial.shape[0], partial.shape[2]
    columns = columns_joined(length, chunks)
    first, last = row_share(piece_count(1, length, columns), tasks, task)
    if dbeta.size:
        sum_columns(data(dbeta), 0, data(partial), 0, chunks, length, 2 * length, chunks, 1, columns, first, last, partial)
    if dgamma.size:
        sum_columns(data(dgamma), 0, data(partial), length, chunks, length, 2 * length, chunks, 1, columns, first, last, partial)


@kernel
def layer_norm_input(task: Int, tasks: Int, dx: Matrix, dy: Matrix, x: Matrix, statistics: Matrix, gamma: Vector) -> None:
    """dx = rstd (g - mean of g - xhat * mean of g xhat), g = dy gamma, xhat = (x - mean) rstd; dx may be dy.

    dx, dy, x [R, L], statistics [R, 2], gamma [L]. Row-local. Writes dx (=).
    """
    start, stop = row_share(x.shape[0], tasks, task)
    length, place = x.shape[1], scratch(x)
    if length < LONG:
        for r in range(start + row_of_warp(), stop, WARPS):
            input_by_warp(r, warp_lane(), 32, data(dx), data(dy), data(x), data(statistics), data(gamma), length, place, x)
    else:
        for r in range(start, stop):
            input_by_block(r, thread(), THREADS, data(dx), data(dy), data(x), data(statistics), data(gamma), length, place, x)
