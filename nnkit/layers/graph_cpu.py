"""Kernels of the layers on graphs, as far as they do not go along edges. V nodes, F features, H heads, U units of a head, B pairs of nodes."""

from __future__ import annotations

from nnkit.jit import Int, LabelMatrix, Matrix, Vector, kernel
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.pointwise_cpu import share
from nnkit.prims.simd_cpu import address, part

__all__ = [
    "add_scaled", "diagonal_blocks", "head_mean_backward", "head_mean_forward", "pair_dot_backward", "pair_dot_forward", "row_dots", "scaled_rows",
    "scores_backward", "scores_forward",
]


@kernel
def scores_forward(task: Int, tasks: Int, s: Matrix, t: Matrix, z: Matrix, own: Matrix, other: Matrix) -> None:
    """s[v, h] = sum over u of z[v, h U + u] own[h, u]; t likewise with `other`. Shapes: s, t [V, H], z [V, H U], own, other [H, U]. Row-local.
    Writes s, t (=)."""
    start, stop = row_share(s.shape[0], tasks, task)
    H, U = own.shape
    T = s.dtype.type
    for v in range(start, stop):
        for h in range(H):
            first, second = T(0), T(0)
            for u in range(U):
                first += z[v, h * U + u] * own[h, u]
                second += z[v, h * U + u] * other[h, u]
            s[v, h] = first
            t[v, h] = second


@kernel
def scores_backward(task: Int, tasks: Int, dz: Matrix, ds: Matrix, dt: Matrix, own: Matrix, other: Matrix) -> None:
    """dz[v, h U + u] = ds[v, h] own[h, u] + dt[v, h] other[h, u]. Shapes as above. Row-local. Writes dz (=)."""
    start, stop = row_share(dz.shape[0], tasks, task)
    H, U = own.shape
    for v in range(start, stop):
        for h in range(H):
            for u in range(U):
                dz[v, h * U + u] = ds[v, h] * own[h, u] + dt[v, h] * other[h, u]


@kernel
def diagonal_blocks(task: Int, tasks: Int, y: Matrix, x: Matrix) -> None:
    """y[h, u] = x[h, h U + u]. Shapes: y [H, U], x [H, H U]. One task. Writes y (=)."""
    H, U = y.shape
    for h in range(H):
        for u in range(U):
            y[h, u] = x[h, h * U + u]


@kernel
def head_mean_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, bias: Vector) -> None:
    """y[v, u] = bias[u] + the mean over h of x[v, h U + u]. Shapes: y [V, U], x [V, H U], bias [U] or [0]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    U = y.shape[1]
    H = x.shape[1] // U
    T = y.dtype.type
    share_of_one = T(1) / T(H)
    for v in range(start, stop):
        for u in range(U):
            total = T(0)
            for h in range(H):
                total += x[v, h * U + u]
            y[v, u] = total * share_of_one + (bias[u] if bias.size else T(0))


@kernel
def head_mean_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix) -> None:
    """dx[v, h U + u] = dy[v, u] / H. Shapes as above. Row-local. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    U = dy.shape[1]
    H = dx.shape[1] // U
    T = dx.dtype.type
    share_of_one = T(1) / T(H)
    for v in range(start, stop):
        for h in range(H):
            for u in range(U):
                dx[v, h * U + u] = dy[v, u] * share_of_one


@kernel
def add_scaled(task: Int, tasks: Int, y: Matrix, a: Matrix, x: Matrix, eps: Vector) -> None:
    """y = a + (1 + eps) x. Shapes: y, a, x [V, F], eps [1]. Row-local; y may be a. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F, scale = y.shape[1], y.dtype.type(1) + eps[0]
    ys, terms, xs = part(y, start * F, stop * F), part(a, start * F, stop * F), part(x, start * F, stop * F)
    if address(y) == address(a):                         # one array less: the loop becomes vector code
        for i in range(ys.size):
            ys[i] += scale * xs[i]
    else:
        for i in range(ys.size):
            ys[i] = terms[i] + scale * xs[i]


@kernel
def scaled_rows(task: Int, tasks: Int, y: Matrix, x: Matrix, eps: Vector) -> None:
    """y = (1 + eps) x. Shapes: y, x [V, F], eps [1]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    F, scale = y.shape[1], y.dtype.type(1) + eps[0]
    ys, xs = part(y, start * F, stop * F), part(x, start * F, stop * F)
    for i in range(ys.size):
        ys[i] = scale * xs[i]


@kernel
def row_dots(task: Int, tasks: Int, y: Matrix, a: Matrix, b: Matrix) -> None:
    """y[v, 0] = sum over f of a[v, f] b[v, f]. Shapes: y [V, 1], a, b [V, F]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    for v in range(start, stop):
        total = y.dtype.type(0)
        for f in range(a.shape[1]):
            total += a[v, f] * b[v, f]
        y[v, 0] = total


@kernel
def pair_dot_forward(task: Int, tasks: Int, y: Matrix, pairs: LabelMatrix, x: Matrix) -> None:
    """y[b, 0] = x[pairs[b, 0]] . x[pairs[b, 1]]. Shapes: y [B, 1], pairs [B, 2], x [V, F]. Task t covers its share of the pairs. Writes y (=)."""
    start, stop = share(y.shape[0], tasks, task)
    F = x.shape[1]
    for b in range(start, stop):
        total = y.dtype.type(0)
        for f in range(F):
            total += x[pairs[b, 0], f] * x[pairs[b, 1], f]
        y[b, 0] = total


@kernel
def pair_dot_backward(task: Int, tasks: Int, dx: Matrix, pairs: LabelMatrix, dy: Matrix, x: Matrix) -> None:
    """dx[v] = the sum over pairs in which v stands of dy times the other node's x, in the order of the pairs. Shapes as above. Task t covers its
    share of the nodes. Writes dx (=)."""
    V, F = dx.shape
    start, stop = row_share(V, tasks, task)
    T = dx.dtype.type
    own = part(dx, start * F, stop * F)
    for i in range(own.size):
        own[i] = T(0)
    for b in range(pairs.shape[0]):
        for side in range(2):
            v, other = pairs[b, side], pairs[b, 1 - side]
            if start <= v < stop:
                for f in range(F):
                    dx[v, f] += dy[b, 0] * x[other, f]
