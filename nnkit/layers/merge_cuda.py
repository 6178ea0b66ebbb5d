"""CUDA twins of merge_cpu.py. N batch, F numbers of a sample; where rows are other than samples, R rows."""

from __future__ import annotations

from nnkit.cuda_jit import THREADS, data, kernel, routine, thread
from nnkit.jit import Int, Matrix, Real, Tensor3, Vector
from nnkit.layers.merge_cpu import is_first
from nnkit.prims.block_cuda import WARPS, divided, row_share, strided_sums
from nnkit.prims.pointwise_cuda import pointwise, sweep_product
from nnkit.prims.reduce_cuda import plain_sums
from nnkit.prims.rows_cuda import row_of_warp, sum_over_warp, warp_lane
from nnkit.scalar import sqrt

__all__ = [
    "concatenate_backward", "concatenate_more", "concatenate_two", "dot_products", "dot_transpose", "extreme_backward", "extreme_forward", "multiply",
    "normalize_backward", "normalize_forward", "repeat_backward", "repeat_forward", "sum_backward", "sum_forward",
]


# Number by number.

@routine
def combined(a, b, sign, factor):
    """factor (a + sign b)."""
    return factor * (a + sign * b)


@routine
def multiplied(a, b, factor, q):
    """factor a."""
    return factor * a


@routine
def extreme(a, b, sign, q):
    """The larger (sign 1) or smaller (-1) of a and b."""
    return a if is_first(a, b, sign) else b


sweep_combined, sweep_multiplied, sweep_extreme = pointwise(combined), pointwise(multiplied), pointwise(extreme)


@kernel
def sum_forward(task: Int, tasks: Int, y: Matrix, a: Matrix, b: Matrix, sign: Real, factor: Real) -> None:
    """y = factor (a + sign b); y may be a. All [N, F]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F = y.shape[1]
    sweep_combined(start * F, stop * F, data(y), data(a), data(b), sign, factor, y)


@kernel
def sum_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, factor: Real) -> None:
    """dx = factor dy; dx may be dy. Both [N, F]. Row-local. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    F = dx.shape[1]
    sweep_multiplied(start * F, stop * F, data(dx), data(dy), data(dy), factor, 0, dx)


@kernel
def multiply(task: Int, tasks: Int, y: Matrix, a: Matrix, b: Matrix) -> None:
    """y = a b, number by number; y may be a. All [N, F]. Row-local. Writes y (=). Forward, and backward with dy for a."""
    start, stop = row_share(y.shape[0], tasks, task)
    F = y.shape[1]
    sweep_product(start * F, stop * F, data(y), data(a), data(b), 0, 0, y)


@kernel
def extreme_forward(task: Int, tasks: Int, y: Matrix, a: Matrix, b: Matrix, sign: Real) -> None:
    """y = max(a, b) for sign 1, min(a, b) for -1; y may be a. All [N, F]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F = y.shape[1]
    sweep_extreme(start * F, stop * F, data(y), data(a), data(b), sign, 0, y)


@kernel
def extreme_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, a: Matrix, b: Matrix, sign: Real, side: Int) -> None:
    """dx = dy where y is a (side 0) or b (side 1), else 0; dx may be dy. All [N, F]. Row-local. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    F, zero = dx.shape[1], dx.dtype.type(0)
    dxs, dys, first, second = data(dx), data(dy), data(a), data(b)
    for i in range(start * F + thread(), stop * F, THREADS):
        dxs[i] = dys[i] if is_first(first[i], second[i], sign) == (side == 0) else zero


# Broadcasting.

@kernel
def repeat_forward(task: Int, tasks: Int, y: Tensor3, x: Matrix) -> None:
    """y[r, s] = x[r] for all s. Shapes: y [R, S, B], x [R, B]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    times, run = y.shape[1], y.shape[2]
    ys, xs = data(y), data(x)
    for i in range(start * times * run + thread(), stop * times * run, THREADS):
        copy, b = divided(i, run)
        ys[i] = xs[divided(copy, times)[0] * run + b]


@kernel
def repeat_backward(task: Int, tasks: Int, dx: Matrix, dy: Tensor3) -> None:
    """dx[r] = sum over s of dy[r, s], in their order, or by the tree of a warp where B is 1. dx [R, B], dy [R, S, B]. Row-local. Writes dx (=)."""
    zero = dx.dtype.type(0)
    start, stop = row_share(dx.shape[0], tasks, task)
    times, run = dy.shape[1], dy.shape[2]
    dxs, dys = data(dx), data(dy)
    if run == 1:
        for r in range(start + row_of_warp(), stop, WARPS):
            total, _ = plain_sums(warp_lane(), times, 32, 1, dys, r * times, dys, r * times, zero, 0, dx)
            total = sum_over_warp(total)
            if warp_lane() == 0:
                dxs[r] = total
        return
    for i in range(start * run + thread(), stop * run, THREADS):
        r, b = divided(i, run)
        at = r * times * run + b
        dxs[i], _ = plain_sums(0, times, 1, run, dys, at, dys, at, zero, 0, dx)


# Concatenation.

@kernel
def concatenate_two(task: Int, tasks: Int, y: Matrix, a: Matrix, b: Matrix) -> None:
    """y[r] = a[r], then b[r], then 0. Shapes: y [R, W], a [R, A], b [R, B], A + B <= W. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    width, A, B = y.shape[1], a.shape[1], b.shape[1]
    for i in range(start * width + thread(), stop * width, THREADS):
        r, j = divided(i, width)
        found = y.dtype.type(0)
        if j < A:
            found = data(a)[r * A + j]
        elif j < A + B:
            found = data(b)[r * B + j - A]
        data(y)[i] = found


@routine
def copy_columns(ys, y_width, to, xs, x_width, at, columns, first, last):
    """y[r, to:to + columns] = x[r, at:at + columns] for the rows [first, last)."""
    for i in range(first * columns + thread(), last * columns, THREADS):
        r, j = divided(i, columns)
        ys[r * y_width + to + j] = xs[r * x_width + at + j]


@kernel
def concatenate_more(task: Int, tasks: Int, y: Matrix, x: Matrix, start: Int) -> None:
    """y[r, start:start + X] = x[r]. Shapes: y [R, W], x [R, X]. Row-local. Updates these columns of y."""
    first, last = row_share(y.shape[0], tasks, task)
    X = x.shape[1]
    copy_columns(data(y), y.shape[1], start, data(x), X, 0, X, first, last)


@kernel
def concatenate_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, start: Int) -> None:
    """dx[r] = dy[r, start:start + X]. Shapes: dx [R, X], dy [R, W]. Row-local. Writes dx (=)."""
    first, last = row_share(dx.shape[0], tasks, task)
    X = dx.shape[1]
    copy_columns(data(dx), X, 0, data(dy), dy.shape[1], start, X, first, last)


# Dot products.

@routine
def product(x, y, constant, more, r):
    """Sum x y."""
    return x * y, type(x)(0)


product_sums = strided_sums(product)


@routine
def row_dot(xs, ys, at, length, like):
    """The dot product of x[at : at + length] and y there, by a warp."""
    found, _ = product_sums(warp_lane(), length, 32, 1, xs, at, ys, at, like.dtype.type(0), 0, like)
    return sum_over_warp(found)


@kernel
def dot_products(task: Int, tasks: Int, z: Tensor3, a: Tensor3, b: Tensor3, transposed: Int) -> None:
    """z[n] = a[n] b[n], or a[n]^T b[n] where `transposed`. Shapes: z [N, M, O], a [N, M, K] or [N, K, M], b [N, K, O]. Row-local. Writes z (=).

    A thread makes a number of z.
    """
    start, stop = row_share(z.shape[0], tasks, task)
    T, M, O, K = z.dtype.type, z.shape[1], z.shape[2], b.shape[1]
    down, along = (1, M) if transposed else (K, 1)       # from row to row of z, from term to term
    zs, left, right = data(z), data(a), data(b)
    for i in range(start * M * O + thread(), stop * M * O, THREADS):
        row, o = divided(i, O)
        n, m = divided(row, M)
        total = T(0)
        for k in range(K):
            total += left[n * M * K + m * down + k * along] * right[(n * K + k) * O + o]
        zs[i] = total


@kernel
def dot_transpose(task: Int, tasks: Int, y: Tensor3, x: Tensor3) -> None:
    """y[r, j, i] = x[r, i, j]. Shapes: y [R, J, I], x [R, I, J]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    J, I = y.shape[1], y.shape[2]
    for at in range(start * I * J + thread(), stop * I * J, THREADS):
        row, i = divided(at, I)
        r, j = divided(row, J)
        data(y)[at] = data(x)[(r * I + i) * J + j]


@kernel
def normalize_forward(task: Int, tasks: Int, y: Matrix, inverse: Vector, x: Matrix, most: Real) -> None:
    """y = inverse x, inverse = 1 / the row's Euclidean length, `most` where that is larger. y, x [R, D], inverse [R]. Row-local. Writes both (=)."""
    start, stop = row_share(x.shape[0], tasks, task)
    D, xs = x.shape[1], data(x)
    for r in range(start + row_of_warp(), stop, WARPS):
        factor = min(x.dtype.type(1) / sqrt(row_dot(xs, xs, r * D, D, x)), most)
        if warp_lane() == 0:
            data(inverse)[r] = factor
        for i in range(r * D + warp_lane(), (r + 1) * D, 32):
            data(y)[i] = factor * xs[i]


@kernel
def normalize_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, y: Matrix, inverse: Vector, most: Real) -> None:
    """dx = inverse (dy - (dy . y) y), or inverse dy where inverse is `most`; dx may be dy.

    Shapes: dx, dy, y [R, D], inverse [R]. Row-local. Writes dx (=).
    """
    start, stop = row_share(dx.shape[0], tasks, task)
    D, dys, ys = dx.shape[1], data(dy), data(y)
    for r in range(start + row_of_warp(), stop, WARPS):
        own = data(inverse)[r]
        along = row_dot(dys, ys, r * D, D, dx)
        along = own * along if own < most else dx.dtype.type(0)
        for i in range(r * D + warp_lane(), (r + 1) * D, 32):
            data(dx)[i] = own * dys[i] - along * ys[i]
