"""The cells of SimpleRNN, LSTM and GRU on a GPU: one step forward and one step backward of one number. `prims/recurrent_cuda.py` takes them through
time, or `prims/recurrent_cluster_cuda.py`.

p, q: h and c before the step; z: what x gives to the gates, s: what h gives through the recurrent kernel R, b: the bias of that. Forward gives
(h, c, values of the gates, what `inner` keeps); backward, from dh and dc, (dz, the last gate's for R, what of dp does not go through R, dq). Gates
are tuples of four, 0 beyond the cell's own. act is the activation, sig the recurrent activation; their slopes are taken from their values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkit.cuda_jit import THREADS, data, kernel, routine, thread
from nnkit.jit import Int, Matrix
from nnkit.prims.block_cuda import divided, row_share
from nnkit.prims.gates_cpu import ANY, STANDARD
from nnkit.prims.recurrent_before_cuda import backward_twice_kernel, forward_twice_kernel
from nnkit.prims.recurrent_cluster_cuda import backward_cluster_kernel, forward_cluster_kernel
from nnkit.prims.recurrent_cuda import backward_kernel, forward_kernel
from nnkit.prims.recurrent_step_cuda import ACTIVATION, GATE

__all__ = [
    "gru_any_cluster_backward", "gru_any_cluster_forward", "gru_any_walk_backward", "gru_any_walk_forward", "gru_before_any_walk_backward",
    "gru_before_any_walk_forward", "gru_before_walk_backward", "gru_before_walk_forward", "gru_cluster_backward", "gru_cluster_forward",
    "gru_walk_backward", "gru_walk_forward", "lstm_any_cluster_backward", "lstm_any_cluster_forward", "lstm_any_walk_backward",
    "lstm_any_walk_forward", "lstm_cluster_backward", "lstm_cluster_forward", "lstm_walk_backward", "lstm_walk_forward", "reverse_steps",
    "simple_rnn_any_cluster_backward", "simple_rnn_any_cluster_forward", "simple_rnn_any_walk_backward", "simple_rnn_any_walk_forward",
    "simple_rnn_cluster_backward", "simple_rnn_cluster_forward", "simple_rnn_walk_backward", "simple_rnn_walk_forward",
]


def simple_rnn(act: Callable[..., Any], act_slope: Callable[..., Any], sig: Callable[..., Any], sig_slope: Callable[..., Any]) -> Any:
    """h = act(x W + b + p R)."""
    @routine
    def forward(z, s, p, q, b, shape, a, g):
        h = act(z[0] + s[0], shape[ACTIVATION], a)
        return h, q, (h, q, q, q), q

    @routine
    def backward(dh, dc, gates, inner, p, q, shape, a, g):
        zero = type(dh)(0)
        dz = dh * act_slope(gates[0], shape[ACTIVATION], a)
        return (dz, zero, zero, zero), dz, zero, dc
    return forward, backward


def lstm(act: Callable[..., Any], act_slope: Callable[..., Any], sig: Callable[..., Any], sig_slope: Callable[..., Any]) -> Any:
    """i, f, o = sig(x W + b + p R), u = act(...), in the order i f u o; c = f q + i u; h = o act(c)."""
    @routine
    def forward(z, s, p, q, b, shape, a, g):
        i, f = sig(z[0] + s[0], shape[GATE], g), sig(z[1] + s[1], shape[GATE], g)
        u, o = act(z[2] + s[2], shape[ACTIVATION], a), sig(z[3] + s[3], shape[GATE], g)
        c = f * q + i * u
        return o * act(c, shape[ACTIVATION], a), c, (i, f, u, o), q

    @routine
    def backward(dh, dc, gates, inner, p, q, shape, a, g):
        i, f, u, o = gates
        bent = act(f * q + i * u, shape[ACTIVATION], a)
        dc += dh * o * act_slope(bent, shape[ACTIVATION], a)                       # h = o act(c)
        do = dh * bent * sig_slope(o, shape[GATE], g)
        di, df = dc * u * sig_slope(i, shape[GATE], g), dc * q * sig_slope(f, shape[GATE], g)
        return (di, df, dc * i * act_slope(u, shape[ACTIVATION], a), do), do, type(dh)(0), dc * f
    return forward, backward


def gru(act: Callable[..., Any], act_slope: Callable[..., Any], sig: Callable[..., Any], sig_slope: Callable[..., Any]) -> Any:
    """v, r = sig(x W + b + p R + b'); u = act(x W + b + r (p R + b')); h = v p + (1 - v) u. inner: p R + b' of u. v is Keras' z."""
    @routine
    def forward(z, s, p, q, b, shape, a, g):
        v, r = sig(z[0] + (s[0] + b[0]), shape[GATE], g), sig(z[1] + (s[1] + b[1]), shape[GATE], g)
        inner = s[2] + b[2]
        u = act(z[2] + r * inner, shape[ACTIVATION], a)
        return u + v * (p - u), q, (v, r, u, q), inner

    @routine
    def backward(dh, dc, gates, inner, p, q, shape, a, g):
        v, r, u, _ = gates
        one = type(dh)(1)
        du = dh * (one - v) * act_slope(u, shape[ACTIVATION], a)
        dv, dr = dh * (p - u) * sig_slope(v, shape[GATE], g), du * inner * sig_slope(r, shape[GATE], g)
        return (dv, dr, du, one - one), du * r, dh * v, dc
    return forward, backward


def walks(gates: int, cell: Any) -> Any:
    """The kernels of a cell's two functions."""
    forward, backward = cell
    return forward_kernel(gates, forward), backward_kernel(gates, backward)


def clusters(gates: int, cell: Any) -> Any:
    """The same by clusters of blocks."""
    forward, backward = cell
    return forward_cluster_kernel(gates, forward), backward_cluster_kernel(gates, backward)


def walks_of_gru_before(activations: Any) -> Any:
    """Those of a GRU whose reset gate comes before R: u = act(x W + b + (r p) R)."""
    act, act_slope, sig, sig_slope = activations
    return forward_twice_kernel(act, sig), backward_twice_kernel(act_slope, sig_slope)


STANDARD_CELLS = simple_rnn(*STANDARD), lstm(*STANDARD), gru(*STANDARD)
ANY_CELLS = simple_rnn(*ANY), lstm(*ANY), gru(*ANY)
simple_rnn_walk_forward, simple_rnn_walk_backward = walks(1, STANDARD_CELLS[0])
simple_rnn_any_walk_forward, simple_rnn_any_walk_backward = walks(1, ANY_CELLS[0])
simple_rnn_cluster_forward, simple_rnn_cluster_backward = clusters(1, STANDARD_CELLS[0])
simple_rnn_any_cluster_forward, simple_rnn_any_cluster_backward = clusters(1, ANY_CELLS[0])
lstm_walk_forward, lstm_walk_backward = walks(4, STANDARD_CELLS[1])
lstm_any_walk_forward, lstm_any_walk_backward = walks(4, ANY_CELLS[1])
lstm_cluster_forward, lstm_cluster_backward = clusters(4, STANDARD_CELLS[1])
lstm_any_cluster_forward, lstm_any_cluster_backward = clusters(4, ANY_CELLS[1])
gru_walk_forward, gru_walk_backward = walks(3, STANDARD_CELLS[2])
gru_any_walk_forward, gru_any_walk_backward = walks(3, ANY_CELLS[2])
gru_cluster_forward, gru_cluster_backward = clusters(3, STANDARD_CELLS[2])
gru_any_cluster_forward, gru_any_cluster_backward = clusters(3, ANY_CELLS[2])
gru_before_walk_forward, gru_before_walk_backward = walks_of_gru_before(STANDARD)
gru_before_any_walk_forward, gru_before_any_walk_backward = walks_of_gru_before(ANY)


@kernel
def reverse_steps(task: Int, tasks: Int, y: Matrix, x: Matrix) -> None:
    """y[n, t] = x[n, T - 1 - t]. Both [N, T]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    T = y.shape[1]
    ys, xs = data(y), data(x)
    for e in range(start * T + thread(), stop * T, THREADS):
        n, t = divided(e, T)
        ys[e] = xs[n * T + T - 1 - t]
