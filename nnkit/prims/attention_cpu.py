"""Softmax over the entries of each row of a sparse matrix, and sums along rows. Letters and work: see csr_cpu.py; tasks take whole rows."""

from __future__ import annotations

import math

from nnkit.jit import Int, Labels, Matrix, Ordinals, Real, kernel
from nnkit.prims.csr_cpu import row_cut
from nnkit.scalar import exp

__all__ = ["csr_places", "csr_row_sums", "edge_softmax_backward", "edge_softmax_forward"]


@kernel
def edge_softmax_forward(task: Int, tasks: Int, alpha: Matrix, starts: Ordinals, columns: Labels, s: Matrix, t: Matrix, slope: Real) -> None:
    """alpha[e, h] = e^z[e, h] / sum over row i of e^z[., h], z[e, h] = leaky(s[i, h] + t[columns[e], h]), leaky(a) = a if a > 0 else slope a;
    0 behind starts[R]. Shapes: alpha [E, H], starts [R + 1], columns [E], s [R, H], t [C, H]. Task t covers the entries of its rows.
    Writes alpha (=)."""
    R, H, E = s.shape[0], s.shape[1], alpha.shape[0]
    T = alpha.dtype.type
    for i in range(row_cut(starts, tasks, task), row_cut(starts, tasks, task + 1)):
        for h in range(H):
            top, total = T(-math.inf), T(0)
            for e in range(starts[i], starts[i + 1]):
                a = s[i, h] + t[columns[e], h]
                a = a if a > T(0) else slope * a
                alpha[e, h] = a
                top = a if a > top else top
            for e in range(starts[i], starts[i + 1]):
                alpha[e, h] = exp(alpha[e, h] - top)
                total += alpha[e, h]
            for e in range(starts[i], starts[i + 1]):
                alpha[e, h] /= total
    rest = E - starts[R]
    for e in range(starts[R] + rest * task // tasks, starts[R] + rest * (task + 1) // tasks):
        for h in range(H):
            alpha[e, h] = T(0)


@kernel
def edge_softmax_backward(task: Int, tasks: Int, dscores: Matrix, ds: Matrix, starts: Ordinals, columns: Labels, alpha: Matrix, dalpha: Matrix,
                          s: Matrix, t: Matrix, slope: Real) -> None:
    """With a = s[i, h] + t[columns[e], h]: dscores[e, h] = dL/da = leaky'(a) alpha (dalpha - sum over row i of alpha dalpha), 0 behind starts[R];
    ds[i, h] = its sum over row i. Shapes: dscores, alpha, dalpha [E, H], ds, s [R, H], t [C, H]. Task t covers its rows.
    Writes dscores, ds (=)."""
    R, H, E = s.shape[0], s.shape[1], alpha.shape[0]
    T = alpha.dtype.type
    for i in range(row_cut(starts, tasks, task), row_cut(starts, tasks, task + 1)):
        for h in range(H):
            inner, total = T(0), T(0)
            for e in range(starts[i], starts[i + 1]):
                inner += alpha[e, h] * dalpha[e, h]
            for e in range(starts[i], starts[i + 1]):
                d = alpha[e, h] * (dalpha[e, h] - inner)
                d = d if s[i, h] + t[columns[e], h] > T(0) else slope * d
                dscores[e, h] = d
                total += d
            ds[i, h] = total
    rest = E - starts[R]
    for e in range(starts[R] + rest * task // tasks, starts[R] + rest * (task + 1) // tasks):
        for h in range(H):
            dscores[e, h] = T(0)


@kernel
def csr_row_sums(task: Int, tasks: Int, y: Matrix, starts: Ordinals, values: Matrix) -> None:
    """y[i] = the sum of values[e] over the entries e of row i. Shapes: y [R, H], starts [R + 1], values [E, H]. Task t covers its rows.
    Writes y (=)."""
    H = y.shape[1]
    T = y.dtype.type
    for i in range(row_cut(starts, tasks, task), row_cut(starts, tasks, task + 1)):
        for h in range(H):
            total = T(0)
            for e in range(starts[i], starts[i + 1]):
                total += values[e, h]
            y[i, h] = total


@kernel
def csr_places(task: Int, tasks: Int, y: Matrix, x: Matrix, places: Labels) -> None:
    """y[e] = x[places[e]]. Shapes: y, x [E, H], places [E]. Task t covers its share of the entries. Writes y (=)."""
    E, H = y.shape
    for e in range(E * task // tasks, E * (task + 1) // tasks):
        for h in range(H):
            y[e, h] = x[places[e], h]
