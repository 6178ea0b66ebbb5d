"""CUDA twins of resample_cpu.py: padding, cropping, linear interpolation. A thread makes a number of the result. Letters: prims/convolution.py."""

from __future__ import annotations

from nnkit.cuda_jit import THREADS, data, kernel, routine, thread
from nnkit.jit import Int, Matrix, Windows
from nnkit.layers.pool_cuda import place_of, unit_elements
from nnkit.prims.block_cuda import divided

__all__ = ["linear_backward", "linear_forward", "shift"]


@kernel
def shift(task: Int, tasks: Int, y: Matrix, x: Matrix, windows: Windows, pieces: Int) -> None:
    """y[n, o] = x[n, o - before] where that is a place of x, else 0. Shapes: y [N, E P Q C], x [N, D H W C]. `before` may be negative.

    Task t covers its share of the images, each cut into `pieces` by rows of the output. Writes y (=).
    """
    D, H, W, _, _, _, _, _, _, _, _, _, before_d, before_h, before_w, E, P, Q, C, _, _ = windows
    zero, ys, xs = y.dtype.type(0), data(y), data(x)
    start, stop = unit_elements(task, tasks, y.shape[0], pieces, E * P, Q * C)
    for i in range(start + thread(), stop, THREADS):
        n, e, p, q, c = place_of(i, E, P, Q, C)
        d, h, w = e - before_d, p - before_h, q - before_w
        inside = 0 <= d < D and 0 <= h < H and 0 <= w < W
        ys[i] = xs[(((n * D + d) * H + h) * W + w) * C + c] if inside else zero


# Linear interpolation along one axis. Output place o lies at (o + 1/2) / times - 1/2: `position` / (2 times), within the outermost input places.

@routine
def position(o, places, times):
    """Where output place o lies, in steps of 1 / (2 times) of an input place."""
    return max(0, min(2 * o + 1 - times, 2 * times * (places - 1)))


@kernel
def linear_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, weights: Matrix, outer: Int, places: Int, times: Int, inner: Int,
                   pieces: Int) -> None:
    """y[n, a, o] = (1 - f) x[n, a, i] + f x[n, a, i + 1], where i + f is the position of output place o.

    Shapes: y [N, A S M I], x [N, A S I], where A S M I are outer, places, times, inner; weights is not used. Task t covers its share of the
    samples, each cut into `pieces` by A S M. Writes y (=).
    """
    T, ys, xs = y.dtype.type, data(y), data(x)
    start, stop = unit_elements(task, tasks, y.shape[0], pieces, outer * places * times, inner)
    for i in range(start + thread(), stop, THREADS):
        row, c = divided(i, inner)
        a, o = divided(row, places * times)              # a: of all samples
        left, rest = divided(position(o, places, times), 2 * times)
        at = (a * places + left) * inner + c
        found = T(2 * times - rest) / T(2 * times) * xs[at]
        if rest:
            found += T(rest) / T(2 * times) * xs[at + inner]
        ys[i] = found


@kernel
def linear_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, weights: Matrix, outer: Int, places: Int, times: Int, inner: Int,
                    pieces: Int) -> None:
    """dx[n, a, i] = sum over the output places o near i, in their order, of (1 - |position of o - i|) dy[n, a, o].

    Shapes: dx [N, A S I], dy [N, A S M I], where A S M I are outer, places, times, inner; weights is not used. Task t covers its share of the
    samples, each cut into `pieces` by A S. Writes dx (=).
    """
    T, dxs, dys = dx.dtype.type, data(dx), data(dy)
    start, stop = unit_elements(task, tasks, dx.shape[0], pieces, outer * places, inner)
    for i in range(start + thread(), stop, THREADS):
        row, c = divided(i, inner)
        a, place = divided(row, places)
        first = max(0, (2 * times * place - times - 1) // 2 + 1)
        last = min(places * times, (2 * times * place + 3 * times) // 2)
        found = T(0)
        for o in range(first, last):
            weight = T(2 * times - abs(position(o, places, times) - 2 * times * place)) / T(2 * times)
            found += weight * dys[(a * places * times + o) * inner + c]
        dxs[i] = found
