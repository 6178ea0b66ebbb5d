"""CUDA twins of attention_cpu.py: softmax over the entries of each row of a sparse matrix, and sums along rows. Letters: see csr_cpu.py.

Tasks take whole rows, each a warp, long ones the block: see csr_cuda.py. A lane's column is a head.
"""

from __future__ import annotations

import math
from typing import Any

from nnkit.cuda_jit import THREADS, data, kernel, routine, thread
from nnkit.jit import Int, Labels, Matrix, Ordinals, Real
from nnkit.prims.block_cuda import divided, share
from nnkit.prims.csr_cuda import fill_rest, over_rows
from nnkit.prims.teams_cuda import Team, lanes_for, row_totals
from nnkit.scalar import exp_below

__all__ = ["csr_places", "csr_row_sums", "edge_softmax_backward", "edge_softmax_forward"]


@routine
def leaky(a, slope):
    """a if a > 0 else slope a."""
    return a if a > type(a)(0) else slope * a


def softmax_of_row(team: Team) -> Any:
    """edge_softmax_forward of row i; held: (alpha, columns, s, t, H, slope)."""
    part_of, total_of, largest_of = team.part, team.total, team.largest

    @routine
    def forward(i, first, last, held, place, like):
        alphas, columns, s, t, H, slope = held
        T = like.dtype.type
        width, column, part, parts = lanes_for(H)
        part, parts = part_of(part, parts)
        for head in range(0, H, 32):
            h = min(head + column, H - 1)
            own, largest, total = s[i * H + h], T(-math.inf), T(0)
            e = first + part
            while e < last:
                z = leaky(own + t[columns[e] * H + h], slope)
                largest = z if z > largest else largest
                e += parts
            largest = largest_of(largest, width, place)
            e = first + part
            while e < last:
                power = exp_below(leaky(own + t[columns[e] * H + h], slope) - largest)
                total += power
                if head + column < H:
                    alphas[e * H + h] = power
                e += parts
            factor = T(1) / total_of(total, width, place)
            e = first + part if head + column < H else last
            while e < last:
                alphas[e * H + h] *= factor
                e += parts
    return forward


def gradient_of_row(team: Team) -> Any:
    """edge_softmax_backward of row i; held: (dscores, ds, columns, alpha, dalpha, s, t, H, slope)."""
    part_of, total_of = team.part, team.total

    @routine
    def backward(i, first, last, held, place, like):
        ds, sums, columns, alphas, dalphas, s, t, H, slope = held
        T = like.dtype.type
        width, column, part, parts = lanes_for(H)
        part, parts = part_of(part, parts)
        for head in range(0, H, 32):
            h = min(head + column, H - 1)
            own, inner, total = s[i * H + h], T(0), T(0)
            e = first + part
            while e < last:
                inner += alphas[e * H + h] * dalphas[e * H + h]
                e += parts
            inner = total_of(inner, width, place)
            e = first + part
            while e < last:
                gradient = alphas[e * H + h] * (dalphas[e * H + h] - inner)
                gradient = gradient if own + t[columns[e] * H + h] > T(0) else slope * gradient
                total += gradient
                if head + column < H:
                    ds[e * H + h] = gradient
                e += parts
            total = total_of(total, width, place)
            if part == 0 and head + column < H:
                sums[i * H + h] = total
    return backward


@routine
def number_of_entry(more, e, f):
    """values[e, f]."""
    values, F = more
    return values[e * F + f]


softmax_rows, gradient_rows, sum_rows = over_rows(softmax_of_row), over_rows(gradient_of_row), over_rows(row_totals(number_of_entry))


@kernel
def edge_softmax_forward(task: Int, tasks: Int, alpha: Matrix, starts: Ordinals, columns: Labels, s: Matrix, t: Matrix, slope: Real) -> None:
    """alpha[e, h] = e^z[e, h] / sum over row i of e^z[., h], z[e, h] = leaky(s[i, h] + t[columns[e], h]), leaky(a) = a if a > 0 else slope a;
    0 behind starts[R]. Shapes: alpha [E, H], starts [R + 1], columns [E], s [R, H], t [C, H]. Task t covers the entries of its rows.
    Writes alpha (=)."""
    E, H = alpha.shape
    softmax_rows(task, tasks, starts, (data(alpha), data(columns), data(s), data(t), H, slope), s)
    fill_rest(data(alpha), data(starts)[starts.size - 1], E, H, tasks, task, s)


@kernel
def edge_softmax_backward(task: Int, tasks: Int, dscores: Matrix, ds: Matrix, starts: Ordinals, columns: Labels, alpha: Matrix, dalpha: Matrix,
                          s: Matrix, t: Matrix, slope: Real) -> None:
    """With a = s[i, h] + t[columns[e], h]: dscores[e, h] = dL/da = leaky'(a) alpha (dalpha - sum over row i of alpha dalpha), 0 behind starts[R];
    ds[i, h] = its sum over row i. Shapes: dscores, alpha, dalpha [E, H], ds, s [R, H], t [C, H]. Task t covers its rows.
    Writes dscores, ds (=)."""
    E, H = dscores.shape
    held = (data(dscores), data(ds), data(columns), data(alpha), data(dalpha), data(s), data(t), H, slope)
    gradient_rows(task, tasks, starts, held, s)
    fill_rest(data(dscores), data(starts)[starts.size - 1], E, H, tasks, task, s)


@kernel
def csr_row_sums(task: Int, tasks: Int, y: Matrix, starts: Ordinals, values: Matrix) -> None:
    """y[i] = the sum of values[e] over the entries e of row i. Shapes: y [R, H], starts [R + 1], values [E, H]. Task t covers its rows.
    Writes y (=)."""
    H = y.shape[1]
    sum_rows(task, tasks, starts, (data(y), H, False, (data(values), H)), y)


@kernel
def csr_places(task: Int, tasks: Int, y: Matrix, x: Matrix, places: Labels) -> None:
    """y[e] = x[places[e]]. Shapes: y, x [E, H], places [E]. Task t covers its share of the elements. Writes y (=)."""
    E, H = y.shape
    first, stop = share(E * H, tasks, task)
    ys, xs, sources = data(y), data(x), data(places)
    for i in range(first + thread(), stop, THREADS):
        e, h = divided(i, H)
        ys[i] = xs[sources[e] * H + h]
