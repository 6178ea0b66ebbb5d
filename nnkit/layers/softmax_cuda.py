"""CUDA twins of softmax_cpu.py."""

from __future__ import annotations

from nnkit.cuda_jit import THREADS, data, kernel, routine, thread
from nnkit.jit import Int, Matrix, Tensor3
from nnkit.prims.block_cuda import divided, row_share, strided_sums
from nnkit.prims.reduce_cuda import plain_sums
from nnkit.prims.rows_cuda import larger, largest_of_row, row_of_warp, sum_over_warp, warp_lane
from nnkit.scalar import exp_below, log

# Along rows [R, C]: a warp takes a row, its lanes the entries c, c + 32, ...; sums by a tree over the lanes.

@kernel
def softmax_forward(task: Int, tasks: Int, y: Matrix, x: Matrix) -> None:
    """y = e^(x - max) / sum e^(x - max) along rows. Shapes: y, x [R, C]. Row-local; y may be x. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    T, C, ys, xs = y.dtype.type, y.shape[1], data(y), data(x)
    for r in range(start + row_of_warp(), stop if C else start, THREADS // 32):
        largest = largest_of_row(xs, r * C, C, x)
        total = T(0)
        for c in range(r * C + warp_lane(), (r + 1) * C, 32):
            ys[c] = exp_below(xs[c] - largest)
            total += ys[c]
        scale = T(1) / sum_over_warp(total)
        for c in range(r * C + warp_lane(), (r + 1) * C, 32):
            ys[c] *= scale


@kernel
def softmax_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, y: Matrix) -> None:
    """dx = y (dy - sum y dy) along rows. Shapes: dx, dy, y [R, C]. Row-local; dx may be dy. Writes dx (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    T, C, dxs, dys, ys = y.dtype.type, y.shape[1], data(dx), data(dy), data(y)
    for r in range(start + row_of_warp(), stop, THREADS // 32):
        total = T(0)
        for c in range(r * C + warp_lane(), (r + 1) * C, 32):
            total += dys[c] * ys[c]
        total = sum_over_warp(total)
        for c in range(r * C + warp_lane(), (r + 1) * C, 32):
            dxs[c] = ys[c] * (dys[c] - total)


@kernel
def log_softmax_forward(task: Int, tasks: Int, y: Matrix, x: Matrix) -> None:
    """y = (x - max) - log sum e^(x - max) along rows. Shapes: y, x [R, C]. Row-local; y may be x. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    T, C, ys, xs = y.dtype.type, y.shape[1], data(y), data(x)
    for r in range(start + row_of_warp(), stop if C else start, THREADS // 32):
        largest = largest_of_row(xs, r * C, C, x)
        total = T(0)
        for c in range(r * C + warp_lane(), (r + 1) * C, 32):
            total += exp_below(xs[c] - largest)
        total = log(sum_over_warp(total))
        for c in range(r * C + warp_lane(), (r + 1) * C, 32):
            ys[c] = (xs[c] - largest) - total


@kernel
def log_softmax_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, y: Matrix) -> None:
    """dx = dy - e^y sum dy along rows. Shapes: dx, dy, y [R, C]. Row-local; dx may be dy. Writes dx (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    T, C, dxs, dys, ys = y.dtype.type, y.shape[1], data(dx), data(dy), data(y)
    for r in range(start + row_of_warp(), stop, THREADS // 32):
        total = T(0)
        for c in range(r * C + warp_lane(), (r + 1) * C, 32):
            total += dys[c]
        total = sum_over_warp(total)
        for c in range(r * C + warp_lane(), (r + 1) * C, 32):
            dxs[c] = dys[c] - exp_below(ys[c]) * total


# Along another axis [A, C, B]: a thread takes the entries of one a and b, so that neighbours read neighbours. `largest` and `total` are not used.

@routine
def exponential(x, y, largest, more, c):
    """Sum e^(x - largest)."""
    return exp_below(x - largest), type(x)(0)


@routine
def product(x, y, constant, more, c):
    """Sum x y."""
    return x * y, type(x)(0)


exponential_sums, product_sums = strided_sums(exponential), strided_sums(product)


@routine
def largest_along(xs, at, C, B):
    """max of xs[at + c B]; NaN is not the largest, and stays in x - max."""
    largest = xs[at]
    for c in range(1, C):
        largest = larger(largest, xs[at + c * B])
    return largest


@kernel
def softmax_axis_forward(task: Int, tasks: Int, y: Tensor3, x: Tensor3, largest: Matrix, total: Matrix) -> None:
    """y = e^(x - max) / sum e^(x - max) along c. Shapes: y, x [A, C, B]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    T, C, B, ys, xs = y.dtype.type, y.shape[1], y.shape[2], data(y), data(x)
    for n in range(start * B + thread(), stop * B if C else 0, THREADS):
        a, b = divided(n, B)
        at = a * C * B + b
        top = largest_along(xs, at, C, B)
        found, _ = exponential_sums(0, C, 1, B, xs, at, xs, at, top, 0, y)
        scale = T(1) / found
        for i in range(at, at + C * B, B):
            ys[i] = exp_below(xs[i] - top) * scale


@kernel
def softmax_axis_backward(task: Int, tasks: Int, dx: Tensor3, dy: Tensor3, y: Tensor3, total: Matrix) -> None:
    """dx = y (dy - sum y dy) along c. Shapes: dx, dy, y [A, C, B]. Row-local. Writes dx (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    T, C, B, dxs, dys, ys = y.dtype.type, y.shape[1], y.shape[2], data(dx), data(dy), data(y)
    for n in range(start * B + thread(), stop * B, THREADS):
        a, b = divided(n, B)
        at = a * C * B + b
        along, _ = product_sums(0, C, 1, B, dys, at, ys, at, T(0), 0, y)
        for i in range(at, at + C * B, B):
            dxs[i] = ys[i] * (dys[i] - along)


@kernel
def log_softmax_axis_forward(task: Int, tasks: Int, y: Tensor3, x: Tensor3, largest: Matrix, total: Matrix) -> None:
    """y = (x - max) - log sum e^(x - max) along c. Shapes: y, x [A, C, B]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    C, B, ys, xs = y.shape[1], y.shape[2], data(y), data(x)
    for n in range(start * B + thread(), stop * B if C else 0, THREADS):
        a, b = divided(n, B)
        at = a * C * B + b
        top = largest_along(xs, at, C, B)
        found, _ = exponential_sums(0, C, 1, B, xs, at, xs, at, top, 0, y)
        found = log(found)
        for i in range(at, at + C * B, B):
            ys[i] = (xs[i] - top) - found


@kernel
def log_softmax_axis_backward(task: Int, tasks: Int, dx: Tensor3, dy: Tensor3, y: Tensor3, total: Matrix) -> None:
    """dx = dy - e^y sum dy along c. Shapes: dx, dy, y [A, C, B]. Row-local. Writes dx (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    T, C, B, dxs, dys, ys = y.dtype.type, y.shape[1], y.shape[2], data(dx), data(dy), data(y)
    for n in range(start * B + thread(), stop * B, THREADS):
        a, b = divided(n, B)
        at = a * C * B + b
        along, _ = plain_sums(0, C, 1, B, dys, at, dys, at, T(0), 0, y)
        for i in range(at, at + C * B, B):
            dxs[i] = dys[i] - exp_below(ys[i]) * along
