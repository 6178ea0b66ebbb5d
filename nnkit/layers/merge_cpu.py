"""Kernels of the merge layers. N batch, F numbers of a sample; where rows are other than samples, R rows."""

from __future__ import annotations

from numpy import sqrt

from nnkit.jit import Int, Matrix, Real, Tensor3, Vector, kernel, routine, scalar
from nnkit.prims.feed_cpu import copy_row
from nnkit.prims.matmul_cpu import product, row_share, transpose_rows
from nnkit.prims.rows_cpu import blend_run, dot_run, fill_run, scale_run, sum_run
from nnkit.prims.simd_cpu import address, itemsize, part

__all__ = [
    "concatenate_backward", "concatenate_more", "concatenate_two", "dot_products", "dot_transpose", "extreme_backward", "extreme_forward", "multiply",
    "normalize_backward", "normalize_forward", "repeat_backward", "repeat_forward", "sum_backward", "sum_forward",
]


# Number by number. Loops in which y is an input are written twice: over one array less they become vector code.

@kernel
def sum_forward(task: Int, tasks: Int, y: Matrix, a: Matrix, b: Matrix, sign: Real, factor: Real) -> None:
    """y = factor (a + sign b); y may be a. All [N, F]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F = y.shape[1]
    ys, first, second = part(y, start * F, stop * F), part(a, start * F, stop * F), part(b, start * F, stop * F)
    if address(y) == address(a):
        for i in range(ys.size):
            ys[i] = factor * (ys[i] + sign * second[i])
    else:
        for i in range(ys.size):
            ys[i] = factor * (first[i] + sign * second[i])


@kernel
def sum_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, factor: Real) -> None:
    """dx = factor dy; dx may be dy. Both [N, F]. Row-local. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    F = dx.shape[1]
    dxs, dys = part(dx, start * F, stop * F), part(dy, start * F, stop * F)
    if address(dx) == address(dy):
        for i in range(dxs.size):
            dxs[i] *= factor
    else:
        for i in range(dxs.size):
            dxs[i] = factor * dys[i]


@kernel
def multiply(task: Int, tasks: Int, y: Matrix, a: Matrix, b: Matrix) -> None:
    """y = a b, number by number; y may be a. All [N, F]. Row-local. Writes y (=). Forward, and backward with dy for a."""
    start, stop = row_share(y.shape[0], tasks, task)
    F = y.shape[1]
    ys, first, second = part(y, start * F, stop * F), part(a, start * F, stop * F), part(b, start * F, stop * F)
    if address(y) == address(a):
        for i in range(ys.size):
            ys[i] *= second[i]
    else:
        for i in range(ys.size):
            ys[i] = first[i] * second[i]


@scalar
def is_first(a, b, sign):
    """Whether the larger (sign 1) or smaller (-1) of a and b is a: also where they are equal, and where a is NaN; not where b alone is."""
    return (sign * a >= sign * b) | (a != a)


@kernel
def extreme_forward(task: Int, tasks: Int, y: Matrix, a: Matrix, b: Matrix, sign: Real) -> None:
    """y = max(a, b) for sign 1, min(a, b) for -1; y may be a. All [N, F]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F = y.shape[1]
    ys, first, second = part(y, start * F, stop * F), part(a, start * F, stop * F), part(b, start * F, stop * F)
    if address(y) == address(a):
        for i in range(ys.size):
            ys[i] = ys[i] if is_first(ys[i], second[i], sign) else second[i]
    else:
        for i in range(ys.size):
            ys[i] = first[i] if is_first(first[i], second[i], sign) else second[i]


@kernel
def extreme_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, a: Matrix, b: Matrix, sign: Real, side: Int) -> None:
    """dx = dy where y is a (side 0) or b (side 1), else 0; dx may be dy. All [N, F]. Row-local. Writes dx (=)."""
    T = dx.dtype.type
    start, stop = row_share(dx.shape[0], tasks, task)
    F = dx.shape[1]
    dxs, dys = part(dx, start * F, stop * F), part(dy, start * F, stop * F)
    first, second = part(a, start * F, stop * F), part(b, start * F, stop * F)
    if address(dx) == address(dy):
        for i in range(dxs.size):
            dxs[i] = dxs[i] if is_first(first[i], second[i], sign) == (side == 0) else T(0)
    else:
        for i in range(dxs.size):
            dxs[i] = dys[i] if is_first(first[i], second[i], sign) == (side == 0) else T(0)


# Broadcasting.

@kernel
def repeat_forward(task: Int, tasks: Int, y: Tensor3, x: Matrix) -> None:
    """y[r, s] = x[r] for all s. Shapes: y [R, S, B], x [R, B]. Row-local. Writes y (=)."""
    first, last = row_share(y.shape[0], tasks, task)
    times, run = y.shape[1], y.shape[2]
    size = itemsize(y)
    for r in range(first, last):
        at = address(y) + size * r * times * run
        if run == 1:
            fill_run(at, x[r, 0], times, y)
        else:
            for s in range(times):
                copy_row(at + size * s * run, address(x) + size * r * run, run, y)


@kernel
def repeat_backward(task: Int, tasks: Int, dx: Matrix, dy: Tensor3) -> None:
    """dx[r] = sum over s of dy[r, s], in their order, or by the tree of `sum_run` where B is 1. dx [R, B], dy [R, S, B]. Row-local. Writes dx (=)."""
    T = dx.dtype.type
    first, last = row_share(dx.shape[0], tasks, task)
    times, run = dy.shape[1], dy.shape[2]
    for r in range(first, last):
        if run == 1:
            dx[r, 0] = sum_run(address(dy) + itemsize(dy) * r * times, times, dy)
        else:
            sums = part(dx, r * run, (r + 1) * run)
            for i in range(sums.size):
                sums[i] = T(0)
            for s in range(r * times, (r + 1) * times):
                terms = part(dy, s * run, (s + 1) * run)
                for i in range(sums.size):
                    sums[i] += terms[i]


# Concatenation.

@routine
def copy_columns(y, to, x, at, columns, first, last):
    """y[r, to:to + columns] = x[r, at:at + columns] for the rows [first, last)."""
    size = itemsize(y)
    for r in range(first, last):
        copy_row(address(y) + size * (r * y.shape[1] + to), address(x) + size * (r * x.shape[1] + at), columns, y)


@kernel
def concatenate_two(task: Int, tasks: Int, y: Matrix, a: Matrix, b: Matrix) -> None:
    """y[r] = a[r], then b[r], then 0. Shapes: y [R, W], a [R, A], b [R, B], A + B <= W. Row-local. Writes y (=)."""
    first, last = row_share(y.shape[0], tasks, task)
    width, A, B = y.shape[1], a.shape[1], b.shape[1]
    size, zero = itemsize(y), y.dtype.type(0)
    for r in range(first, last):
        at = address(y) + size * r * width
        copy_row(at, address(a) + size * r * A, A, y)
        copy_row(at + size * A, address(b) + size * r * B, B, y)
        fill_run(at + size * (A + B), zero, width - A - B, y)


@kernel
def concatenate_more(task: Int, tasks: Int, y: Matrix, x: Matrix, start: Int) -> None:
    """y[r, start:start + X] = x[r]. Shapes: y [R, W], x [R, X]. Row-local. Updates these columns of y."""
    first, last = row_share(y.shape[0], tasks, task)
    copy_columns(y, start, x, 0, x.shape[1], first, last)


@kernel
def concatenate_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, start: Int) -> None:
    """dx[r] = dy[r, start:start + X]. Shapes: dx [R, X], dy [R, W]. Row-local. Writes dx (=)."""
    first, last = row_share(dx.shape[0], tasks, task)
    copy_columns(dx, 0, dy, start, dx.shape[1], first, last)


# Dot products.

@kernel
def dot_products(task: Int, tasks: Int, z: Tensor3, a: Tensor3, b: Tensor3, transposed: Int) -> None:
    """z[n] = a[n] b[n], or a[n]^T b[n] where `transposed`. Shapes: z [N, M, O], a [N, M, K] or [N, K, M], b [N, K, O]. Row-local. Writes z (=)."""
    first, last = row_share(z.shape[0], tasks, task)
    M, O, K = z.shape[1], z.shape[2], b.shape[1]
    size = itemsize(z)
    for n in range(first, last):
        to, left, right = address(z) + size * n * M * O, address(a) + size * n * M * K, address(b) + size * n * K * O
        if transposed:
            product(M, O, K, left, 1, M, right, O, to, O, 0, 0, z)
        elif O == 1:                                     # one column: whole registers along the rows of a instead
            for m in range(M):
                z[n, m, 0] = dot_run(left + size * m * K, right, K, z)
        else:
            product(M, O, K, left, K, 1, right, O, to, O, 0, 0, z)


@kernel
def dot_transpose(task: Int, tasks: Int, y: Tensor3, x: Tensor3) -> None:
    """y[r, j, i] = x[r, i, j]. Shapes: y [R, J, I], x [R, I, J]. Row-local. Writes y (=)."""
    first, last = row_share(y.shape[0], tasks, task)
    J, I = y.shape[1], y.shape[2]
    size = itemsize(x)
    for r in range(first, last):
        transpose_rows(address(y) + size * r * I * J, address(x) + size * r * I * J, I, J, 0, I, x)


@kernel
def normalize_forward(task: Int, tasks: Int, y: Matrix, inverse: Vector, x: Matrix, most: Real) -> None:
    """y = inverse x, inverse = 1 / the row's Euclidean length, `most` where that is larger. y, x [R, D], inverse [R]. Row-local. Writes both (=)."""
    T = x.dtype.type
    first, last = row_share(x.shape[0], tasks, task)
    D = x.shape[1]
    for r in range(first, last):
        at = itemsize(x) * r * D
        factor = T(1) / sqrt(dot_run(address(x) + at, address(x) + at, D, x))
        inverse[r] = min(factor, most)
        scale_run(address(y) + at, inverse[r], address(x) + at, D, x)


@kernel
def normalize_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, y: Matrix, inverse: Vector, most: Real) -> None:
    """dx = inverse (dy - (dy . y) y), or inverse dy where inverse is `most`; dx may be dy.

    Shapes: dx, dy, y [R, D], inverse [R]. Row-local. Writes dx (=).
    """
    T = dx.dtype.type
    first, last = row_share(dx.shape[0], tasks, task)
    D = dx.shape[1]
    for r in range(first, last):
        at = itemsize(dx) * r * D
        along = dot_run(address(dy) + at, address(y) + at, D, dx) if inverse[r] < most else T(0)
        blend_run(address(dx) + at, inverse[r], address(dy) + at, -inverse[r] * along, address(y) + at, T(0), D, dx)
