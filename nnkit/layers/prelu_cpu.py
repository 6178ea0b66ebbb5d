"""Kernels of PReLU. N batch, F features of a sample, P period of alpha along the samples, W = F' P tile of it (see prims/reduce.py), K chunks.

Every array named in `writes` is written whole (=).
"""

from __future__ import annotations

from nnkit.jit import Int, Matrix, Tensor3, Vector, kernel
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.reduce import STRIP
from nnkit.prims.reduce_cpu import column_sums, piece_bounds
from nnkit.prims.simd_cpu import address, itemsize, part

__all__ = ["prelu_forward", "prelu_gradient_sums", "prelu_input", "prelu_repeat"]


def below(e, v, c, sums):  # type: ignore[no-untyped-def]
    """Sum dy x where x is not above 0; where x is NaN, that too."""
    above = e.b.fcmp_ordered(">", v[1], e.zero)
    return [e.fma(v[0], e.b.select(above, e.zero, v[1]), sums[0])]


columns_below = column_sums(below, 2, 1)


@kernel
def prelu_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, alpha: Vector) -> None:
    """y = x where x > 0, alpha x elsewhere; y may be x. y, x [N, F], alpha [W] repeats along the elements. Row-local. Writes y (=)."""
    T = x.dtype.type
    first, last = row_share(y.shape[0], tasks, task)
    features, width = y.shape[1], alpha.size
    slopes = part(alpha, 0, width)
    for start in range(first * features, last * features, max(1, width)):
        stop = min(start + width, last * features)
        ys, xs = part(y, start, stop), part(x, start, stop)
        if address(y) == address(x):                     # one array: a loop over two that overlap would not become vector code
            for j in range(ys.size):
                ys[j] = ys[j] if ys[j] > T(0) else slopes[j] * ys[j]
        else:
            for j in range(ys.size):
                ys[j] = xs[j] if xs[j] > T(0) else slopes[j] * xs[j]


@kernel
def prelu_input(task: Int, tasks: Int, dx: Matrix, dy: Matrix, x: Matrix, alpha: Vector) -> None:
    """dx = dy where x > 0, alpha dy elsewhere; dx may be dy. dx, dy, x [N, F], alpha [W] as forward. Row-local. Writes dx (=)."""
    T = x.dtype.type
    first, last = row_share(dx.shape[0], tasks, task)
    features, width = dx.shape[1], alpha.size
    slopes = part(alpha, 0, width)
    for start in range(first * features, last * features, max(1, width)):
        stop = min(start + width, last * features)
        dxs, dys, xs = part(dx, start, stop), part(dy, start, stop), part(x, start, stop)
        if address(dx) == address(dy):
            for j in range(dxs.size):
                dxs[j] *= T(1) if xs[j] > T(0) else slopes[j]
        else:
            for j in range(dxs.size):
                dxs[j] = dys[j] * (T(1) if xs[j] > T(0) else slopes[j])


@kernel
def prelu_gradient_sums(task: Int, tasks: Int, partial: Matrix, dy: Matrix, x: Matrix, times: Int, chunk: Int) -> None:
    """partial[k, j] = sum of dy x where x is not above 0, over the tile rows of chunk k. dy, x [R, P], partial [K, W].

    Task t covers its share of the pieces. Writes partial (=).
    """
    rows, columns = x.shape
    chunks, width = partial.shape
    size = itemsize(x)
    pieces = chunks * ((width + STRIP - 1) // STRIP)
    for piece in range(pieces * task // tasks, pieces * (task + 1) // tasks):
        k, start, stop, first, count, left = piece_bounds(piece, rows, columns, times, chunk, chunks, STRIP)
        extra = left * columns                           # the first columns of the tile have one row more
        at, behind = address(dy) + size * (first * width + start), address(x) + size * (first * width + start)
        out = address(partial) + size * (k * width + start)
        for side in range(2):
            more, n_side = side * size * extra, stop - start - extra if side else extra
            columns_below(count + 1 - side, n_side, out + more, width, at + more, behind + more, width, 0, 0, x)


@kernel
def prelu_repeat(task: Int, tasks: Int, y: Tensor3, x: Matrix) -> None:
    """y[a, s, b] = x[a, b]. y [A, S, B], x [A, B]. Task t covers its share of the runs [a, s]. Writes y (=)."""
    runs = y.shape[0] * y.shape[1]
    copies, length = y.shape[1], y.shape[2]
    for run in range(runs * task // tasks, runs * (task + 1) // tasks):
        a = run // copies
        ys, xs = part(y, run * length, (run + 1) * length), part(x, a * length, (a + 1) * length)
        for b in range(ys.size):
            ys[b] = xs[b]
