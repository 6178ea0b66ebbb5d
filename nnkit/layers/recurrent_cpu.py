"""The cells of SimpleRNN, LSTM and GRU: one step forward and one step backward, side by side. `prims/recurrent_cpu.py` takes them through time.

h, c: state after the step; p, q: before it. m: p as it goes into the recurrent kernel R, with dropout if there is any. A gate is a run of b U
numbers that comes in as x W + b and leaves as the gate's value; backward it becomes dz, the gradient of what went into its activation. act is
the activation, sig the recurrent activation; act', sig' are taken from their values. dh comes in whole; dp (=) and dc, which becomes dq, go out.
`products` then adds what goes back through R: dm += sum over the gates of dz R^T.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkit.jit import Int, Matrix, kernel, routine
from nnkit.prims.gates_cpu import ANY, STANDARD, add_product, in_place
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.recurrent_cpu import ACTIVATION, AFTER, GATE, clear, copy_run, recurrent
from nnkit.prims.simd_cpu import run

__all__ = [
    "gru_any_backward", "gru_any_forward", "gru_backward", "gru_forward", "lstm_any_backward", "lstm_any_forward", "lstm_backward", "lstm_forward",
    "reverse_steps", "simple_rnn_any_backward", "simple_rnn_any_forward", "simple_rnn_backward", "simple_rnn_forward",
]


def simple_rnn(act: Callable[..., Any], act_slope: Callable[..., Any], sig: Callable[..., Any], sig_slope: Callable[..., Any]) -> Any:
    """h = act(x W + b + p R)."""
    @routine
    def forward(planes, z, plane, h, p, c, q, m, panels, bias, rows, units, shape, a, g):
        v = run(planes, z, h.size)
        add_product(v, rows, units, m, panels, 0)
        for k in range(h.size):
            h[k] = act(v[k], shape[ACTIVATION], a)

    @routine
    def backward(planes, z, plane, dh, dp, dc, h, p, c, q, room, shape, a, g):
        v = run(planes, z, dh.size)
        for k in range(dh.size):
            v[k] = dh[k] * act_slope(h[k], shape[ACTIVATION], a)
        clear(dp)

    @routine
    def products(dm, planes, z, plane, m, panels, room, rows, units, shape, g):
        add_product(dm, rows, units, run(planes, z, dm.size), panels, 0)
    return forward, backward, products


def lstm(act: Callable[..., Any], act_slope: Callable[..., Any], sig: Callable[..., Any], sig_slope: Callable[..., Any]) -> Any:
    """i, f, o = sig(x W + b + p R), u = act(...), in the order i f u o; c = f q + i u; h = o act(c)."""
    activate, open_gate = in_place(act), in_place(sig)

    @routine
    def forward(planes, z, plane, h, p, c, q, m, panels, bias, rows, units, shape, a, g):
        n = h.size
        i, f, u, o = run(planes, z, n), run(planes, z + plane, n), run(planes, z + 2 * plane, n), run(planes, z + 3 * plane, n)
        add_product(i, rows, units, m, panels, 0)
        add_product(f, rows, units, m, panels, 1)
        add_product(u, rows, units, m, panels, 2)
        add_product(o, rows, units, m, panels, 3)
        open_gate(i, shape[GATE], g)
        open_gate(f, shape[GATE], g)
        activate(u, shape[ACTIVATION], a)
        open_gate(o, shape[GATE], g)
        for k in range(c.size):
            c[k] = f[k] * q[k] + i[k] * u[k]
        for k in range(h.size):
            h[k] = o[k] * act(c[k], shape[ACTIVATION], a)

    @routine
    def backward(planes, z, plane, dh, dp, dc, h, p, c, q, room, shape, a, g):
        n = dh.size
        i, f, u, o = run(planes, z, n), run(planes, z + plane, n), run(planes, z + 2 * plane, n), run(planes, z + 3 * plane, n)
        for k in range(room.size):
            room[k] = act(c[k], shape[ACTIVATION], a)
        for k in range(dc.size):                         # h = o act(c)
            dc[k] += dh[k] * o[k] * act_slope(room[k], shape[ACTIVATION], a)
        for k in range(o.size):
            o[k] = dh[k] * room[k] * sig_slope(o[k], shape[GATE], g)
        for k in range(i.size):                          # c = f q + i u
            x, y = i[k], u[k]
            i[k] = dc[k] * y * sig_slope(x, shape[GATE], g)
            u[k] = dc[k] * x * act_slope(y, shape[ACTIVATION], a)
        for k in range(f.size):
            x, d = f[k], dc[k]
            f[k] = d * q[k] * sig_slope(x, shape[GATE], g)
            dc[k] = d * x
        clear(dp)

    @routine
    def products(dm, planes, z, plane, m, panels, room, rows, units, shape, g):
        for gate in range(4):
            add_product(dm, rows, units, run(planes, z + gate * plane, dm.size), panels, gate)
    return forward, backward, products


def gru(act: Callable[..., Any], act_slope: Callable[..., Any], sig: Callable[..., Any], sig_slope: Callable[..., Any]) -> Any:
    """v, r = sig(x W + b + p R); u = act(x W + b + r (p R + b')), or act(x W + b + (r p) R) where r comes before R; h = v p + (1 - v) u.

    The fourth plane keeps s = p R + b', or r p. v is Keras' z.
    """
    open_gate = in_place(sig)

    @routine
    def forward(planes, z, plane, h, p, c, q, m, panels, bias, rows, units, shape, a, g):
        n = h.size
        v, r, u, s = run(planes, z, n), run(planes, z + plane, n), run(planes, z + 2 * plane, n), run(planes, z + 3 * plane, n)
        add_product(v, rows, units, m, panels, 0)
        add_product(r, rows, units, m, panels, 1)
        open_gate(v, shape[GATE], g)
        open_gate(r, shape[GATE], g)
        if shape[AFTER]:                                 # s = p R + b', u = act(x W + b + r s); b' is the bias's sixth run
            if bias.size:
                for row in range(rows):
                    copy_run(s, row * units, bias, 5 * units, units)
            else:
                clear(s)
            add_product(s, rows, units, m, panels, 2)
            for k in range(u.size):
                u[k] = act(u[k] + r[k] * s[k], shape[ACTIVATION], a)
        else:                                            # s = r p, u = act(x W + b + s R)
            for k in range(s.size):
                s[k] = r[k] * m[k]
            add_product(u, rows, units, s, panels, 2)
            for k in range(u.size):
                u[k] = act(u[k], shape[ACTIVATION], a)
        for k in range(h.size):
            h[k] = u[k] + v[k] * (p[k] - u[k])

    @routine
    def backward(planes, z, plane, dh, dp, dc, h, p, c, q, room, shape, a, g):
        n = dh.size
        v, r, u, s = run(planes, z, n), run(planes, z + plane, n), run(planes, z + 2 * plane, n), run(planes, z + 3 * plane, n)
        one = dh.dtype.type(1)
        for k in range(room.size):                       # h = v p + (1 - v) u
            room[k] = dh[k] * (one - v[k]) * act_slope(u[k], shape[ACTIVATION], a)
        for k in range(dp.size):
            x = v[k]
            dp[k] = dh[k] * x
            v[k] = dh[k] * (p[k] - u[k]) * sig_slope(x, shape[GATE], g)
        for k in range(u.size):
            u[k] = room[k]
        if shape[AFTER]:                                 # u = act(... + r s)
            for k in range(r.size):
                x = r[k]
                r[k] = room[k] * s[k] * sig_slope(x, shape[GATE], g)
                s[k] = room[k] * x

    @routine
    def products(dm, planes, z, plane, m, panels, room, rows, units, shape, g):
        n = dm.size
        v, r, u, s = run(planes, z, n), run(planes, z + plane, n), run(planes, z + 2 * plane, n), run(planes, z + 3 * plane, n)
        if shape[AFTER]:
            add_product(dm, rows, units, s, panels, 2)
        else:                                            # s = r m goes through R: its gradient first
            clear(room)
            add_product(room, rows, units, u, panels, 2)
            for k in range(dm.size):
                x = r[k]
                dm[k] += room[k] * x
                r[k] = room[k] * m[k] * sig_slope(x, shape[GATE], g)
        add_product(dm, rows, units, v, panels, 0)
        add_product(dm, rows, units, r, panels, 1)
    return forward, backward, products


simple_rnn_forward, simple_rnn_backward = recurrent(1, 1, *simple_rnn(*STANDARD))
simple_rnn_any_forward, simple_rnn_any_backward = recurrent(1, 1, *simple_rnn(*ANY))
lstm_forward, lstm_backward = recurrent(4, 4, *lstm(*STANDARD))
lstm_any_forward, lstm_any_backward = recurrent(4, 4, *lstm(*ANY))
gru_forward, gru_backward = recurrent(3, 4, *gru(*STANDARD))
gru_any_forward, gru_any_backward = recurrent(3, 4, *gru(*ANY))


@kernel
def reverse_steps(task: Int, tasks: Int, y: Matrix, x: Matrix) -> None:
    """y[n, t] = x[n, T - 1 - t]. Both [N, T]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    T = y.shape[1]
    for n in range(start, stop):
        for t in range(T):
            y[n, t] = x[n, T - 1 - t]
