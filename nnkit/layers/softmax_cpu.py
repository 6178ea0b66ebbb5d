"""Kernels of softmax and its logarithm, along rows [R, C], or along the middle axis of [A, C, B].

Along a row its largest number and its sum are found by single instructions on registers (prims/rows_cpu.py); everything else is done for a block of
rows at once, with each row's number repeated along it. A row longer than a block is a block of its own, gone through in pieces. A sum along a row is
a tree that depends on C alone. Along a middle axis all is elementwise along b, so plain loops become vector code.
"""

from __future__ import annotations

from nnkit.jit import Int, Matrix, Tensor3, kernel, routine
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.rows_cpu import BLOCK, block_like, fill_over, largest_run, sum_run
from nnkit.prims.simd_cpu import address, itemsize, part
from nnkit.scalar import exp_below, log

# Along rows.

@routine
def rows_at_once(C):
    """How many rows of C numbers make a block."""
    return max(1, BLOCK // max(1, C))


@routine
def exp_of_difference(y, x, numbers):
    """y = e^(x - numbers); y may be x."""
    if address(y) == address(x):
        for i in range(y.size):
            y[i] = exp_below(y[i] - numbers[i])
    else:
        for i in range(y.size):
            y[i] = exp_below(x[i] - numbers[i])


@routine
def difference(y, x, numbers):
    """y = x - numbers; y may be x."""
    if address(y) == address(x):
        for i in range(y.size):
            y[i] -= numbers[i]
    else:
        for i in range(y.size):
            y[i] = x[i] - numbers[i]


@kernel
def softmax_forward(task: Int, tasks: Int, y: Matrix, x: Matrix) -> None:
    """y = e^(x - max) / sum e^(x - max) along rows. Shapes: y, x [R, C]. Row-local; y may be x. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    C = y.shape[1]
    row, place = itemsize(y) * C, block_like(y)
    T = y.dtype.type
    for first in range(start, stop, rows_at_once(C)):
        last = min(stop, first + rows_at_once(C))
        for r in range(first, last):
            fill_over(address(place) + (r - first) * row, largest_run(address(x) + r * row, C, x), min(C, BLOCK), x)
        for piece in range(first * C, last * C, BLOCK):
            end = min(last * C, piece + BLOCK)
            exp_of_difference(part(y, piece, end), part(x, piece, end), place)
        for r in range(first, last):
            fill_over(address(place) + (r - first) * row, T(1) / sum_run(address(y) + r * row, C, y), min(C, BLOCK), x)
        for piece in range(first * C, last * C, BLOCK):
            ys = part(y, piece, min(last * C, piece + BLOCK))
            for i in range(ys.size):
                ys[i] *= place[i]


@kernel
def softmax_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, y: Matrix) -> None:
    """dx = y (dy - sum y dy) along rows. Shapes: dx, dy, y [R, C]. Row-local; dx may be dy. Writes dx (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    C = y.shape[1]
    row, place = itemsize(y) * C, block_like(y)
    for first in range(start, stop, rows_at_once(C)):
        last = min(stop, first + rows_at_once(C))
        dxs, dys, ys = part(dx, first * C, last * C), part(dy, first * C, last * C), part(y, first * C, last * C)
        if address(dx) == address(dy):
            for i in range(dxs.size):
                dxs[i] *= ys[i]
        else:
            for i in range(dxs.size):
                dxs[i] = dys[i] * ys[i]
        for r in range(first, last):
            fill_over(address(place) + (r - first) * row, sum_run(address(dx) + r * row, C, dx), min(C, BLOCK), dx)
        for piece in range(first * C, last * C, BLOCK):
            end = min(last * C, piece + BLOCK)
            dxs, ys = part(dx, piece, end), part(y, piece, end)
            for i in range(dxs.size):
                dxs[i] -= ys[i] * place[i]


@kernel
def log_softmax_forward(task: Int, tasks: Int, y: Matrix, x: Matrix) -> None:
    """y = (x - max) - log sum e^(x - max) along rows. Shapes: y, x [R, C]. Row-local; y may be x. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    C = y.shape[1]
    row, place, terms = itemsize(y) * C, block_like(y), block_like(y)
    for first in range(start, stop, rows_at_once(C)):
        last = min(stop, first + rows_at_once(C))
        for r in range(first, last):
            fill_over(address(place) + (r - first) * row, largest_run(address(x) + r * row, C, x), min(C, BLOCK), x)
        total = y.dtype.type(0)
        for piece in range(first * C, last * C, BLOCK):
            end = min(last * C, piece + BLOCK)
            ys = part(y, piece, end)
            difference(ys, part(x, piece, end), place)
            for i in range(ys.size):
                terms[i] = exp_below(ys[i])
            if C > BLOCK:
                total += sum_run(address(terms), end - piece, y)
        for r in range(last - first):                    # sum r goes where row 0, ..., r were summed before
            terms[r] = total if C > BLOCK else sum_run(address(terms) + r * row, C, y)
        for r in range(last - first):
            terms[r] = log(terms[r])
        for r in range(last - first):
            fill_over(address(place) + r * row, terms[r], min(C, BLOCK), y)
        for piece in range(first * C, last * C, BLOCK):
            ys = part(y, piece, min(last * C, piece + BLOCK))
            for i in range(ys.size):
                ys[i] -= place[i]


@kernel
def log_softmax_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, y: Matrix) -> None:
    """dx = dy - e^y sum dy along rows. Shapes: dx, dy, y [R, C]. Row-local; dx may be dy. Writes dx (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    C = y.shape[1]
    row, place = itemsize(y) * C, block_like(y)
    for first in range(start, stop, rows_at_once(C)):
        last = min(stop, first + rows_at_once(C))
        for r in range(first, last):
            fill_over(address(place) + (r - first) * row, sum_run(address(dy) + r * row, C, dy), min(C, BLOCK), dy)
        for piece in range(first * C, last * C, BLOCK):
            end = min(last * C, piece + BLOCK)
            dxs, dys, ys = part(dx, piece, end), part(dy, piece, end), part(y, piece, end)
            if address(dx) == address(dy):
                for i in range(dxs.size):
                    dxs[i] -= exp_below(ys[i]) * place[i]
            else:
                for i in range(dxs.size):
                    dxs[i] = dys[i] - exp_below(ys[i]) * place[i]


# Along the middle axis of [A, C, B]. Task t covers its share of a.

@routine
def largest_along(ms, x, a):
    """ms = max over c of x[a, c, :]. NaN is not the largest, and stays in x - ms."""
    _, C, B = x.shape
    xs = part(x, a * C * B, (a * C + 1) * B)
    for b in range(ms.size):
        ms[b] = xs[b]
    for c in range(1, x.shape[1]):
        first = (a * C + c) * B
        xs = part(x, first, first + B)
        for b in range(ms.size):
            ms[b] = xs[b] if xs[b] > ms[b] else ms[b]


@kernel
def softmax_axis_forward(task: Int, tasks: Int, y: Tensor3, x: Tensor3, largest: Matrix, total: Matrix) -> None:
    """y = e^(x - max) / sum e^(x - max) along c. Shapes: y, x [A, C, B]; scratch: largest, total [A, B]. Row-local. Writes y (=)."""
    A, C, B = y.shape
    start, stop = row_share(A, tasks, task)
    for a in range(start, stop if C else start):
        ms, ts = part(largest, a * B, (a + 1) * B), part(total, a * B, (a + 1) * B)
        largest_along(ms, x, a)
        for b in range(ts.size):
            ts[b] = 0
        for c in range(C):
            first = (a * C + c) * B
            ys, xs = part(y, first, first + B), part(x, first, first + B)
            for b in range(ts.size):
                ys[b] = exp_below(xs[b] - ms[b])
            for b in range(ts.size):
                ts[b] += ys[b]
        for b in range(ts.size):
            ts[b] = y.dtype.type(1) / ts[b]
        for c in range(C):
            first = (a * C + c) * B
            ys = part(y, first, first + B)
            for b in range(ts.size):
                ys[b] *= ts[b]


@kernel
def softmax_axis_backward(task: Int, tasks: Int, dx: Tensor3, dy: Tensor3, y: Tensor3, total: Matrix) -> None:
    """dx = y (dy - sum y dy) along c. Shapes: dx, dy, y [A, C, B]; scratch: total [A, B]. Row-local. Writes dx (=)."""
    A, C, B = y.shape
    start, stop = row_share(A, tasks, task)
    for a in range(start, stop):
        ts = part(total, a * B, (a + 1) * B)
        for b in range(ts.size):
            ts[b] = 0
        for c in range(C):
            first = (a * C + c) * B
            dys, ys = part(dy, first, first + B), part(y, first, first + B)
            for b in range(ts.size):
                ts[b] += dys[b] * ys[b]
        for c in range(C):
            first = (a * C + c) * B
            dxs, dys, ys = part(dx, first, first + B), part(dy, first, first + B), part(y, first, first + B)
            for b in range(ts.size):
                dxs[b] = ys[b] * (dys[b] - ts[b])


@kernel
def log_softmax_axis_forward(task: Int, tasks: Int, y: Tensor3, x: Tensor3, largest: Matrix, total: Matrix) -> None:
    """y = (x - max) - log sum e^(x - max) along c. Shapes: y, x [A, C, B]; scratch: largest, total [A, B]. Row-local. Writes y (=)."""
    A, C, B = y.shape
    start, stop = row_share(A, tasks, task)
    for a in range(start, stop if C else start):
        ms, ts = part(largest, a * B, (a + 1) * B), part(total, a * B, (a + 1) * B)
        largest_along(ms, x, a)
        for b in range(ts.size):
            ts[b] = 0
        for c in range(C):
            first = (a * C + c) * B
            xs = part(x, first, first + B)
            for b in range(ts.size):
                ts[b] += exp_below(xs[b] - ms[b])
        for b in range(ts.size):
            ts[b] = log(ts[b])
        for c in range(C):
            first = (a * C + c) * B
            ys, xs = part(y, first, first + B), part(x, first, first + B)
            for b in range(ts.size):
                ys[b] = (xs[b] - ms[b]) - ts[b]


@kernel
def log_softmax_axis_backward(task: Int, tasks: Int, dx: Tensor3, dy: Tensor3, y: Tensor3, total: Matrix) -> None:
    """dx = dy - e^y sum dy along c. Shapes: dx, dy, y [A, C, B]; scratch: total [A, B]. Row-local. Writes dx (=)."""
    A, C, B = y.shape
    start, stop = row_share(A, tasks, task)
    for a in range(start, stop):
        ts = part(total, a * B, (a + 1) * B)
        for b in range(ts.size):
            ts[b] = 0
        for c in range(C):
            first = (a * C + c) * B
            dys = part(dy, first, first + B)
            for b in range(ts.size):
                ts[b] += dys[b]
        for c in range(C):
            first = (a * C + c) * B
            dxs, dys, ys = part(dx, first, first + B), part(dy, first, first + B), part(y, first, first + B)
            for b in range(ts.size):
                dxs[b] = dys[b] - exp_below(ys[b]) * ts[b]
