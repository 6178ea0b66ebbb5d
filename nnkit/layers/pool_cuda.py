"""CUDA twins of pool_cpu.py. Letters: see prims/convolution.py; here O = C, and there is no dilation.

A thread makes a number of the result: neighbours are neighbouring channels. Backward, too, goes by places of dx, not by windows: dx is the sum over
the windows that a place is in, in their order, so no two threads add to one number. A place gets the gradient of a largest number if it is that
number and no place before it in the window is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from nnkit.cuda_jit import THREADS, data, kernel, routine, thread
from nnkit.jit import Int, Matrix, Tensor3, Windows
from nnkit.prims.block_cuda import divided, row_share
from nnkit.scalar import maximum

__all__ = ["masked_mean_backward", "masked_mean_forward", "max_backward", "max_forward", "sum_backward", "sum_forward", "unit_elements"]


@routine
def unit_elements(task, tasks, N, pieces, lines, length):
    """The elements [start, stop) of a task's units of N images: each image is cut into `pieces` of its lines, `length` elements each."""
    first, last = row_share(N * pieces, tasks, task)
    n, piece = divided(first, pieces)
    start = n * lines + divided(lines * piece, pieces)[0]
    n, piece = divided(last, pieces)
    return start * length, (n * lines + divided(lines * piece, pieces)[0]) * length


@routine
def clipped(start, reach, size):
    """The places of a window from `start` on that lie within [0, size): first, and last + 1."""
    return max(0, start), min(size, start + reach)


@routine
def place_of(i, D, H, W, C):
    """(n, d, h, w, c) of element i of images [N, D, H, W, C]."""
    rest, c = divided(i, C)
    rest, w = divided(rest, W)
    rest, h = divided(rest, H)
    n, d = divided(rest, D)
    return n, d, h, w, c


# Forward.

@routine
def total(a, b):
    """a + b."""
    return a + b


def pooling(combine: Callable[..., Any], first: float) -> Any:
    """f(task, tasks, y, x, windows, mean, pieces): y = the combination of every window: of its rows, then of these."""
    @routine
    def pool(task, tasks, y, x, windows, mean, pieces):
        D, H, W, T, R, S, stride_d, stride_h, stride_w, _, _, _, before_d, before_h, before_w, E, P, Q, C, _, _ = windows
        number, ys, xs = y.dtype.type, data(y), data(x)
        start, stop = unit_elements(task, tasks, y.shape[0], pieces, E * P, Q * C)
        for i in range(start + thread(), stop, THREADS):
            n, e, p, q, c = place_of(i, E, P, Q, C)
            d, d_end = clipped(e * stride_d - before_d, T, D)
            h, h_end = clipped(p * stride_h - before_h, R, H)
            w, w_end = clipped(q * stride_w - before_w, S, W)
            at = (((n * D + d) * H + h) * W + w) * C + c
            if d_end - d == 1 and h_end - h == 2 and w_end - w == 2:       # four loads that do not wait for one another
                a, b, below, beside = xs[at], xs[at + C], xs[at + W * C], xs[at + W * C + C]
                found = combine(combine(a, b), combine(below, beside))
            else:
                found = number(first)
                for t in range(d_end - d):
                    for r in range(h_end - h):
                        row = number(first)
                        line = at + (t * H + r) * W * C
                        for s in range(w_end - w):
                            row = combine(row, xs[line + s * C])
                        found = combine(found, row)
            if mean:
                found *= number(1) / number((d_end - d) * (h_end - h) * (w_end - w))
            ys[i] = found
    return pool


pool_largest, pool_sum = pooling(maximum, -math.inf), pooling(total, 0.0)


@kernel
def max_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, windows: Windows, pieces: Int) -> None:
    """y = the largest number of every window; NaN where there is one. Shapes: y [N, E P Q C], x [N, D H W C].

    Task t covers its share of the images, each cut into `pieces` by rows of the output. Writes y (=).
    """
    pool_largest(task, tasks, y, x, windows, 0, pieces)


@kernel
def sum_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, windows: Windows, mean: Int, pieces: Int) -> None:
    """y = the sum of every window (mean 0), or its mean (1) over the places within the image. Shapes: y [N, E P Q C], x [N, D H W C].

    Rows of the window are summed first, then these. Task t covers its share of the images, each cut into `pieces` by rows of the output.
    Writes y (=).
    """
    pool_sum(task, tasks, y, x, windows, mean, pieces)


# Backward.

@routine
def windows_of(place, before, reach, stride, count):
    """The windows [first, last + 1) of `count` that hold a place."""
    at = place + before
    first, _ = divided(max(0, at - reach + 1) + stride - 1, stride)
    last, _ = divided(at, stride)
    return first, min(count, last + 1)


@routine
def is_first(xs, top, n, c, d0, h0, w0, h_end, w_end, d, h, w, D, H, W, C):
    """Whether no place of a window, from (d0, h0, w0) on, before (d, h, w) is its largest number `top`, or NaN."""
    for a in range(d0, d + 1):
        for b in range(h0, h + 1 if a == d else h_end):
            for s in range(w0, w if a == d and b == h else w_end):
                found = xs[(((n * D + a) * H + b) * W + s) * C + c]
                if found == top or found != found:
                    return False
    return True


@kernel
def max_backward(task: Int, tasks: Int, dx: Matrix, x: Matrix, y: Matrix, dy: Matrix, windows: Windows, pieces: Int, relu: Int) -> None:
    """dx = dy at the first place of every window where x is y (or NaN), summed over the windows. dx, x [N, D H W C], y, dy [N, E P Q C].

    With relu, x = max(z, 0) and what is written is dz: 0 where x is 0. Task t covers its share of the images, each cut into `pieces` by
    rows of the input. Writes dx (=).
    """
    D, H, W, T, R, S, stride_d, stride_h, stride_w, _, _, _, before_d, before_h, before_w, E, P, Q, C, _, _ = windows
    zero, dxs, xs, ys, dys = dx.dtype.type(0), data(dx), data(x), data(y), data(dy)
    start, stop = unit_elements(task, tasks, dx.shape[0], pieces, D * H, W * C)
    for i in range(start + thread(), stop, THREADS):
        n, d, h, w, c = place_of(i, D, H, W, C)
        e_first, e_last = windows_of(d, before_d, T, stride_d, E)
        p_first, p_last = windows_of(h, before_h, R, stride_h, P)
        q_first, q_last = windows_of(w, before_w, S, stride_w, Q)
        own, gradient = xs[i], zero
        for e in range(e_first, e_last):
            for p in range(p_first, p_last):
                for q in range(q_first, q_last):
                    o = (((n * E + e) * P + p) * Q + q) * C + c
                    top, dtop = ys[o], dys[o]
                    if (own == top or own != own) and not (relu and top <= zero):
                        d0, _ = clipped(e * stride_d - before_d, T, D)
                        h0, h_end = clipped(p * stride_h - before_h, R, H)
                        w0, w_end = clipped(q * stride_w - before_w, S, W)
                        if is_first(xs, top, n, c, d0, h0, w0, h_end, w_end, d, h, w, D, H, W, C):
                            gradient += dtop
        dxs[i] = gradient


@kernel
def sum_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, windows: Windows, mean: Int, pieces: Int) -> None:
    """dx = dy at every place of the window, divided by their number where `mean` is 1, summed over the windows. dx [N, D H W C], dy [N, E P Q C].

    Task t covers its share of the images, each cut into `pieces` by rows of the input. Writes dx (=).
    """
    D, H, W, T, R, S, stride_d, stride_h, stride_w, _, _, _, before_d, before_h, before_w, E, P, Q, C, _, _ = windows
    number, dxs, dys = dx.dtype.type, data(dx), data(dy)
    start, stop = unit_elements(task, tasks, dx.shape[0], pieces, D * H, W * C)
    for i in range(start + thread(), stop, THREADS):
        n, d, h, w, c = place_of(i, D, H, W, C)
        e_first, e_last = windows_of(d, before_d, T, stride_d, E)
        p_first, p_last = windows_of(h, before_h, R, stride_h, P)
        q_first, q_last = windows_of(w, before_w, S, stride_w, Q)
        gradient = number(0)
        for e in range(e_first, e_last):
            for p in range(p_first, p_last):
                for q in range(q_first, q_last):
                    share = dys[(((n * E + e) * P + p) * Q + q) * C + c]
                    if mean:
                        d0, d_end = clipped(e * stride_d - before_d, T, D)
                        h0, h_end = clipped(p * stride_h - before_h, R, H)
                        w0, w_end = clipped(q * stride_w - before_w, S, W)
                        share *= number(1) / number((d_end - d0) * (h_end - h0) * (w_end - w0))
                    gradient += share
        dxs[i] = gradient


# The mean over the time steps that count. N samples, T steps, C channels.

@routine
def share_of_steps(mask, n):
    """1 / the number of steps of sample n that count; 1 where none does."""
    one, steps = mask.dtype.type(1), data(mask)
    count = one - one
    for t in range(n * mask.shape[1], (n + 1) * mask.shape[1]):
        count += steps[t]
    return one / max(one, count)


@kernel
def masked_mean_forward(task: Int, tasks: Int, y: Matrix, x: Tensor3, mask: Matrix) -> None:
    """y[n] = sum of x[n, t] over the t with mask[n, t] = 1, divided by their number; 0 where there are none. y [N, C], x [N, T, C], mask [N, T].

    Row-local. Writes y (=).
    """
    start, stop = row_share(y.shape[0], tasks, task)
    zero, xs, steps = y.dtype.type(0), data(x), data(mask)
    T, C = x.shape[1], x.shape[2]
    for i in range(start * C + thread(), stop * C, THREADS):
        n, c = divided(i, C)
        found = zero
        for t in range(n * T, (n + 1) * T):
            if steps[t] != zero:
                found += xs[t * C + c]
        data(y)[i] = found * share_of_steps(mask, n)


@kernel
def masked_mean_backward(task: Int, tasks: Int, dx: Tensor3, dy: Matrix, mask: Matrix) -> None:
    """dx[n, t] = mask[n, t] dy[n] / the number of steps of sample n that count. Shapes as above. Row-local. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    T, C = dx.shape[1], dx.shape[2]
    for i in range(start * C + thread(), stop * C, THREADS):
        n, c = divided(i, C)
        own = share_of_steps(mask, n) * data(dy)[i]
        for t in range(n * T, (n + 1) * T):
            data(dx)[t * C + c] = own * data(mask)[t]
