"""Kernels of the hinge losses. R rows, C classes (entries of a row), N samples (R / N rows each)."""

from __future__ import annotations

from nnkit.jit import Int, Matrix, Vector, kernel
from nnkit.losses.pointwise_cpu import pointwise_loss
from nnkit.losses.weights_cpu import weigh, weigh_matrix
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.rows_cpu import largest_or_nan, largest_run, sum_shifted
from nnkit.prims.simd_cpu import address, itemsize, part


def hinge(y, t):
    """max(1 - t y, 0)."""
    T = type(y)
    m = T(1) - t * y
    return T(0) if m < T(0) else m


def hinge_derivative(y, t):
    """-t where 1 - t y > 0, 0 elsewhere, NaN for NaN."""
    T = type(y)
    m = T(1) - t * y
    return -t if m > T(0) else (T(0) if m <= T(0) else m)


hinge_forward, hinge_backward = pointwise_loss(hinge, hinge_derivative)


def squared_hinge(y, t):
    """max(1 - t y, 0)^2."""
    T = type(y)
    m = T(1) - t * y
    return T(0) if m < T(0) else m * m


def squared_hinge_derivative(y, t):
    """-2 t max(1 - t y, 0)."""
    T = type(y)
    m = T(1) - t * y
    return T(0) if m < T(0) else T(-2) * t * m


squared_hinge_forward, squared_hinge_backward = pointwise_loss(squared_hinge, squared_hinge_derivative)


@kernel
def categorical_hinge_forward(task: Int, tasks: Int, rows: Vector, others: Matrix, y: Matrix, t: Matrix, w: Vector) -> None:
    """rows[r] = w max(1 + max_j (1 - t) y - sum_j t y, 0); others = (1 - t) y. Shapes: rows [R], others, y, t [R, C], w [N].

    Row-local. Writes rows and others (=).
    """
    start, stop = row_share(y.shape[0], tasks, task)
    C = y.shape[1]
    T = y.dtype.type
    row = itemsize(y) * C
    ns, ys, ts = part(others, start * C, stop * C), part(y, start * C, stop * C), part(t, start * C, stop * C)
    for i in range(ns.size):
        ns[i] = T(0) if ts[i] == T(1) else (T(1) - ts[i]) * ys[i]     # whatever y is
    for r in range(start, stop):
        margin = T(1) + largest_or_nan(address(others) + r * row, C, y) - sum_shifted(address(t) + r * row, address(y) + r * row, T(0), C, y)
        rows[r] = T(0) if margin < T(0) else margin
    weigh(rows, w, start, stop)


@kernel
def categorical_hinge_backward(task: Int, tasks: Int, dy: Matrix, rows: Vector, others: Matrix, t: Matrix, w: Vector) -> None:
    """dy[r, j] = w / R (-t + [j is the largest of the others] (1 - t)) where rows[r] > 0, NaN where it is NaN, else 0. Of equal
    ones the first is the largest.

    Shapes: dy, others, t [R, C], rows [R], w [N]. Row-local. Writes dy (=).
    """
    start, stop = row_share(dy.shape[0], tasks, task)
    R, C = dy.shape
    T = dy.dtype.type
    scale = T(1) / T(R)
    for r in range(start, stop):
        own, targets = part(dy, r * C, (r + 1) * C), part(t, r * C, (r + 1) * C)
        active = -scale if rows[r] > T(0) else (T(0) if rows[r] <= T(0) else rows[r])
        for j in range(C):
            own[j] = active * targets[j]
        top = largest_run(address(others) + itemsize(dy) * r * C, C, dy)
        largest = 0
        while largest < C - 1 and others[r, largest] != top:
            largest += 1
        own[largest] -= active * (T(1) - targets[largest])
    weigh_matrix(dy, w, start, stop)
