"""CUDA twins of activation_cpu.py: the same scalar functions, element by element.

N batch, F features. Forward: y [N, F] = f(x). Backward: dx [N, F] = dy f'(kept).
"""

from __future__ import annotations

import inspect

from nnkit.cuda_jit import THREADS, Kernel, data, kernel, thread
from nnkit.jit import Int, Matrix, Real, scalar
from nnkit.jit import Kernel as Twin
from nnkit.layers import activation_cpu as cpu
from nnkit.prims.block_cuda import AT_ONCE, row_share, several, wholes


def pointwise(forward_twin: Twin, backward_twin: Twin) -> tuple[Kernel, Kernel]:
    """The forward and the backward kernel of the scalar functions that their twins are made of. A task covers its share of the rows."""
    f, df = forward_twin.formula, backward_twin.formula
    assert f is not None
    assert df is not None
    count = len(inspect.signature(f).parameters) - 1
    inner, inner_derivative = scalar(f), scalar(df)

    @kernel
    def forward(task: Int, tasks: Int, y: Matrix, x: Matrix, p0: Real, p1: Real, p2: Real) -> None:
        start, stop = row_share(y.shape[0], tasks, task)
        constants = (p0, p1, p2)[:count]
        F, ys, xs = y.shape[1], data(y), data(x)
        own = several(y)
        whole = wholes(start * F, stop * F)
        for i in range(start * F + thread(), whole, AT_ONCE * THREADS):
            for u in range(AT_ONCE):
                own[u] = xs[i + u * THREADS]
            for u in range(AT_ONCE):
                ys[i + u * THREADS] = inner(own[u], *constants)
        for i in range(whole + thread(), stop * F, THREADS):
            ys[i] = inner(xs[i], *constants)

    @kernel
    def backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, kept: Matrix, p0: Real, p1: Real, p2: Real) -> None:
        start, stop = row_share(dx.shape[0], tasks, task)
        constants = (p0, p1, p2)[:count]
        F, dxs, dys, ks = dx.shape[1], data(dx), data(dy), data(kept)
        own, factors = several(dx), several(dx)
        whole = wholes(start * F, stop * F)
        for i in range(start * F + thread(), whole, AT_ONCE * THREADS):
            for u in range(AT_ONCE):
                own[u], factors[u] = ks[i + u * THREADS], dys[i + u * THREADS]
            for u in range(AT_ONCE):
                dxs[i + u * THREADS] = factors[u] * inner_derivative(own[u], *constants)
        for i in range(whole + thread(), stop * F, THREADS):
            dxs[i] = dys[i] * inner_derivative(ks[i], *constants)
    return forward, backward


relu_forward, relu_backward = pointwise(cpu.relu_forward, cpu.relu_backward)
relu_general_forward, relu_general_backward = pointwise(cpu.relu_general_forward, cpu.relu_general_backward)
leaky_relu_forward, leaky_relu_backward = pointwise(cpu.leaky_relu_forward, cpu.leaky_relu_backward)
hard_sigmoid_forward, hard_sigmoid_backward = pointwise(cpu.hard_sigmoid_forward, cpu.hard_sigmoid_backward)
hard_silu_forward, hard_silu_backward = pointwise(cpu.hard_silu_forward, cpu.hard_silu_backward)
sigmoid_forward, sigmoid_backward = pointwise(cpu.sigmoid_forward, cpu.sigmoid_backward)
tanh_forward, tanh_backward = pointwise(cpu.tanh_forward, cpu.tanh_backward)
exponential_forward, exponential_backward = pointwise(cpu.exponential_forward, cpu.exponential_backward)
elu_forward, elu_backward = pointwise(cpu.elu_forward, cpu.elu_backward)
selu_forward, selu_backward = pointwise(cpu.selu_forward, cpu.selu_backward)
celu_forward, celu_backward = pointwise(cpu.celu_forward, cpu.celu_backward)
softplus_forward, softplus_backward = pointwise(cpu.softplus_forward, cpu.softplus_backward)
softsign_forward, softsign_backward = pointwise(cpu.softsign_forward, cpu.softsign_backward)
silu_forward, silu_backward = pointwise(cpu.silu_forward, cpu.silu_backward)
mish_forward, mish_backward = pointwise(cpu.mish_forward, cpu.mish_backward)
gelu_forward, gelu_backward = pointwise(cpu.gelu_forward, cpu.gelu_backward)
gelu_tanh_forward, gelu_tanh_backward = pointwise(cpu.gelu_tanh_forward, cpu.gelu_tanh_backward)
