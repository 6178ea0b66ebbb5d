"""CUDA twins of reduce_cpu.py: sums down the columns of a matrix, by chunks of rows. `times`, the fold of a `Tiling`, is always 1 here."""

from __future__ import annotations

from nnkit.cuda_jit import THREADS, data, kernel, routine, scratch, thread
from nnkit.jit import Int, Matrix, Tensor3
from nnkit.prims.block_cuda import block_sum, column_piece, columns_joined, columns_of, divided, over_parts, piece_count, row_share, strided_sums

__all__ = ["both_sums", "plain", "plain_sums", "sum_chunks", "sum_columns", "sum_middle"]


@routine
def plain(x, y, constant, more, r):
    """Sum x."""
    return x, type(x)(0)


@routine
def both(x, y, constant, more, r):
    """Sum x and sum y."""
    return x, y


plain_sums, both_sums = strided_sums(plain), strided_sums(both)


@routine
def sum_columns(sums, at, xs, x_at, rows, width, stride, chunk, chunks, columns, first, last, like):
    """sums[at + k width + j] = the sum of xs[x_at + r stride + j] over the rows of chunk k, for the pieces [first, last)."""
    T, place = like.dtype.type, scratch(like)
    for piece in range(first, last):
        k, j, begin, end, parts = column_piece(piece, chunks, rows, width, chunk, columns)
        total, _ = plain_sums(begin, end, parts, stride, xs, x_at + j, xs, x_at + j, T(0), 0, like)
        total = over_parts(total, columns, place)
        if thread() < columns and j < width:
            sums[at + k * width + j] = total


@kernel
def sum_chunks(task: Int, tasks: Int, partial: Matrix, x: Matrix, times: Int, chunk: Int) -> None:
    """partial[k, j] = sum over the rows of chunk k. x [R, C], partial [K, C]. Task t covers its share of the pieces. Writes partial (=)."""
    rows, width = x.shape
    chunks, columns = partial.shape[0], columns_of(width)
    first, last = row_share(piece_count(chunks, width, columns), tasks, task)
    sum_columns(data(partial), 0, data(x), 0, rows, width, width, chunk, chunks, columns, first, last, x)


@kernel
def sum_middle(task: Int, tasks: Int, dx: Matrix, dy: Tensor3) -> None:
    """dx[a, b] = sum over s of dy[a, s, b]. dx [A, B], dy [A, S, B]. Task t covers its share of the strips of columns of all a. Writes dx (=)."""
    T = dx.dtype.type
    copies, length = dy.shape[1], dy.shape[2]
    columns = columns_joined(length, copies)
    strips = piece_count(1, length, columns)
    first, last = row_share(dy.shape[0] * strips, tasks, task)
    if length == 1:
        for a in range(first, last):
            total, _ = plain_sums(thread(), copies, THREADS, 1, data(dy), a * copies, data(dy), a * copies, T(0), 0, dx)
            total = block_sum(total, scratch(dx))
            if thread() == 0:
                data(dx)[a] = total
        return
    for unit in range(first, last):
        a, strip = divided(unit, strips)
        sum_columns(data(dx), a * length, data(dy), a * copies * length, copies, length, length, max(1, copies), 1, columns, strip, strip + 1, dx)
