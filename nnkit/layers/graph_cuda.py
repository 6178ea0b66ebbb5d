"""CUDA twins of graph_cpu.py. V nodes, F features, H heads, U units of a head, B pairs of nodes."""

from __future__ import annotations

from numba import int64

from nnkit.cuda_jit import THREADS, data, kernel, routine, thread
from nnkit.jit import Int, LabelMatrix, Matrix, Vector
from nnkit.prims.block_cuda import WARPS, divided, row_share
from nnkit.prims.csr_cuda import dot_pairs
from nnkit.prims.rows_cuda import row_of_warp, warp_lane
from nnkit.prims.touched_cuda import scanning

__all__ = [
    "add_scaled", "diagonal_blocks", "head_mean_backward", "head_mean_forward", "pair_dot_backward", "pair_dot_forward", "row_dots", "scaled_rows",
    "scores_backward", "scores_forward",
]


@routine
def head_places(held, q):
    """Of node q // H and head q % H: the head's part of z, and of the attention's vector."""
    H, U = held
    return q * U, divided(q, H)[1] * U


@routine
def row_places(F, q):
    """Row q of both."""
    return q * F, q * F


@routine
def pair_places(held, q):
    """The rows of both nodes of pair q."""
    pairs, F = held
    return pairs[2 * q] * F, pairs[2 * q + 1] * F


head_dots, row_products, pair_dots = dot_pairs(head_places), dot_pairs(row_places), dot_pairs(pair_places)


@kernel
def scores_forward(task: Int, tasks: Int, s: Matrix, t: Matrix, z: Matrix, own: Matrix, other: Matrix) -> None:
    """s[v, h] = sum over u of z[v, h U + u] own[h, u]; t likewise with `other`. Shapes: s, t [V, H], z [V, H U], own, other [H, U]. Row-local.
    Writes s, t (=)."""
    start, stop = row_share(s.shape[0], tasks, task)
    H, U = own.shape
    head_dots(data(s), start * H, stop * H, row_of_warp(), WARPS, U, data(z), data(own), (H, U), s)
    head_dots(data(t), start * H, stop * H, row_of_warp(), WARPS, U, data(z), data(other), (H, U), s)


@kernel
def scores_backward(task: Int, tasks: Int, dz: Matrix, ds: Matrix, dt: Matrix, own: Matrix, other: Matrix) -> None:
    """dz[v, h U + u] = ds[v, h] own[h, u] + dt[v, h] other[h, u]. Shapes as above. Row-local. Writes dz (=)."""
    start, stop = row_share(dz.shape[0], tasks, task)
    H, U = own.shape
    F, dzs, first, second = H * U, data(dz), data(ds), data(dt)
    for i in range(start * F + thread(), stop * F, THREADS):
        k, f = divided(i, U)[0], divided(i, F)[1]
        dzs[i] = first[k] * data(own)[f] + second[k] * data(other)[f]


@kernel
def diagonal_blocks(task: Int, tasks: Int, y: Matrix, x: Matrix) -> None:
    """y[h, u] = x[h, h U + u]. Shapes: y [H, U], x [H, H U]. One task. Writes y (=)."""
    H, U = y.shape
    ys, xs = data(y), data(x)
    for i in range(thread(), H * U, THREADS):
        ys[i] = xs[divided(i, U)[0] * H * U + i]


@kernel
def head_mean_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, bias: Vector) -> None:
    """y[v, u] = bias[u] + the mean over h of x[v, h U + u]. Shapes: y [V, U], x [V, H U], bias [U] or [0]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    T, U = y.dtype.type, y.shape[1]
    H = divided(x.shape[1], U)[0]
    ys, xs, share_of_one = data(y), data(x), T(1) / T(H)
    for i in range(start * U + thread(), stop * U, THREADS):
        v, u = divided(i, U)
        total = T(0)
        for h in range(H):
            total += xs[(v * H + h) * U + u]
        ys[i] = total * share_of_one + (data(bias)[u] if bias.size else T(0))


@kernel
def head_mean_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix) -> None:
    """dx[v, h U + u] = dy[v, u] / H. Shapes as above. Row-local. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    T, U, F = dx.dtype.type, dy.shape[1], dx.shape[1]
    H = divided(F, U)[0]
    dxs, dys, share_of_one = data(dx), data(dy), T(1) / T(H)
    for i in range(start * F + thread(), stop * F, THREADS):
        k, u = divided(i, U)
        dxs[i] = dys[divided(k, H)[0] * U + u] * share_of_one


@kernel
def add_scaled(task: Int, tasks: Int, y: Matrix, a: Matrix, x: Matrix, eps: Vector) -> None:
    """y = a + (1 + eps) x. Shapes: y, a, x [V, F], eps [1]. Row-local; y may be a. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F, scale = y.shape[1], y.dtype.type(1) + data(eps)[0]
    ys, terms, xs = data(y), data(a), data(x)
    for i in range(start * F + thread(), stop * F, THREADS):
        ys[i] = terms[i] + scale * xs[i]


@kernel
def scaled_rows(task: Int, tasks: Int, y: Matrix, x: Matrix, eps: Vector) -> None:
    """y = (1 + eps) x. Shapes: y, x [V, F], eps [1]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F, scale = y.shape[1], y.dtype.type(1) + data(eps)[0]
    ys, xs = data(y), data(x)
    for i in range(start * F + thread(), stop * F, THREADS):
        ys[i] = scale * xs[i]


@kernel
def row_dots(task: Int, tasks: Int, y: Matrix, a: Matrix, b: Matrix) -> None:
    """y[v, 0] = sum over f of a[v, f] b[v, f]. Shapes: y [V, 1], a, b [V, F]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    row_products(data(y), start, stop, row_of_warp(), WARPS, a.shape[1], data(a), data(b), a.shape[1], y)


@kernel
def pair_dot_forward(task: Int, tasks: Int, y: Matrix, pairs: LabelMatrix, x: Matrix) -> None:
    """y[b, 0] = x[pairs[b, 0]] . x[pairs[b, 1]]. Shapes: y [B, 1], pairs [B, 2], x [V, F]. Task t covers its share of the pairs. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F = x.shape[1]
    pair_dots(data(y), start, stop, row_of_warp(), WARPS, F, data(x), data(x), (data(pairs), F), y)


@routine
def either_inside(held, b, first, stop):
    """Whether one of the nodes of pair b is among those of the warp."""
    pairs, _, _ = held
    return first <= pairs[2 * b] < stop or first <= pairs[2 * b + 1] < stop


@routine
def add_others(dx, held, begin, end, first, stop):
    """Each of the warp's nodes in pairs [begin, end) gets dy times the other one's x."""
    pairs, dys, xs = held
    dxs, F = data(dx), dx.shape[1]
    for b in range(begin, end):
        for side in range(2):
            v, other = int64(pairs[2 * b + side]), int64(pairs[2 * b + 1 - side])
            if first <= v < stop:
                for f in range(warp_lane(), F, 32):
                    dxs[v * F + f] += dys[b] * xs[other * F + f]


add_pairs = scanning(either_inside, add_others)


@kernel
def pair_dot_backward(task: Int, tasks: Int, dx: Matrix, pairs: LabelMatrix, dy: Matrix, x: Matrix) -> None:
    """dx[v] = the sum over pairs in which v stands of dy times the other node's x, in the order of the pairs. Shapes as above. Each warp covers its
    share of the nodes. Writes dx (=)."""
    add_pairs(task, tasks, dx, pairs.shape[0], (data(pairs), data(dy), data(x)))
