"""CUDA twins of prelu_cpu.py. N batch, F features of a sample, P period of alpha along the samples, W = P here, K chunks: see prims/reduce.py.

Every array named in `writes` is written whole (=).
"""

from __future__ import annotations

from nnkit.cuda_jit import THREADS, data, kernel, routine, scratch, thread
from nnkit.jit import Int, Matrix, Tensor3, Vector
from nnkit.prims.block_cuda import column_piece, columns_of, divided, over_parts, piece_count, row_share, share, strided_sums
from nnkit.prims.pointwise_cuda import by_column

__all__ = ["prelu_forward", "prelu_gradient_sums", "prelu_input", "prelu_repeat"]


@routine
def sloped(x, z, alpha, a1, a2, b, b1):
    """x where z > 0, alpha x elsewhere."""
    return x if z > type(z)(0) else alpha * x


@routine
def below(dy, x, constant, more, r):
    """Sum dy x where x is not above 0; where x is NaN, that too."""
    zero = type(x)(0)
    return dy * (zero if x > zero else x), zero


sweep_sloped, sums_below = by_column(sloped), strided_sums(below)


@kernel
def prelu_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, alpha: Vector) -> None:
    """y = x where x > 0, alpha x elsewhere; y may be x. y, x [N, F], alpha [W] repeats along the elements. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F, slopes = y.shape[1], data(alpha)
    sweep_sloped(start * F, stop * F, alpha.size, data(y), data(x), data(x), slopes, 0, 0, slopes, 0, x)


@kernel
def prelu_input(task: Int, tasks: Int, dx: Matrix, dy: Matrix, x: Matrix, alpha: Vector) -> None:
    """dx = dy where x > 0, alpha dy elsewhere; dx may be dy. dx, dy, x [N, F], alpha [W] as forward. Row-local. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    F, slopes = dx.shape[1], data(alpha)
    sweep_sloped(start * F, stop * F, alpha.size, data(dx), data(dy), data(x), slopes, 0, 0, slopes, 0, x)


@kernel
def prelu_gradient_sums(task: Int, tasks: Int, partial: Matrix, dy: Matrix, x: Matrix, times: Int, chunk: Int) -> None:
    """partial[k, j] = sum of dy x where x is not above 0, over the rows of chunk k. dy, x [R, P], partial [K, P]; times is 1.

    Task t covers its share of the pieces. Writes partial (=).
    """
    T = x.dtype.type
    rows, width = x.shape
    chunks, columns = partial.shape[0], columns_of(width)
    first, last = row_share(piece_count(chunks, width, columns), tasks, task)
    for piece in range(first, last):
        k, j, begin, end, parts = column_piece(piece, chunks, rows, width, chunk, columns)
        total, _ = sums_below(begin, end, parts, width, data(dy), j, data(x), j, T(0), 0, x)
        total = over_parts(total, columns, scratch(x))
        if thread() < columns and j < width:
            data(partial)[k * width + j] = total


@kernel
def prelu_repeat(task: Int, tasks: Int, y: Tensor3, x: Matrix) -> None:
    """y[a, s, b] = x[a, b]. y [A, S, B], x [A, B]. Task t covers its share of the elements. Writes y (=)."""
    start, stop = share(y.size, tasks, task)
    copies, length = y.shape[1], y.shape[2]
    ys, xs = data(y), data(x)
    for i in range(start + thread(), stop, THREADS):
        run, b = divided(i, length)
        ys[i] = xs[divided(run, copies)[0] * length + b]
