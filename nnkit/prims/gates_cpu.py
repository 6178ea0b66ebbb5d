"""What cells make their gates of: activations with their derivatives, and the product with one gate of the recurrent kernel.

An activation is f(x, code, p), its derivative is made from its value y. The usual ones are known when a kernel is compiled (`STANDARD`); others go by
a code (`ANY`). A CPU's and a GPU's cells take the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkit.jit import routine, scalar
from nnkit.layers import activation_cpu as activations
from nnkit.prims.matmul_cpu import product
from nnkit.prims.simd_cpu import address, itemsize
from nnkit.scalar import exp, sigmoid_gate, softplus, tanh

__all__ = ["ANY", "STANDARD", "add_product", "in_place"]

tanh_derivative, sigmoid_derivative = scalar(activations.tanh_derivative), scalar(activations.sigmoid_derivative)


@scalar
def tanh_of(x, code, p):
    """Tanh(x), whatever the code."""
    return tanh(x)


@scalar
def tanh_slope(y, code, p):
    """1 - y^2, whatever the code."""
    return tanh_derivative(y)


@scalar
def sigmoid_of(x, code, p):
    """1 / (1 + e^-x), whatever the code."""
    return sigmoid_gate(x)


@scalar
def sigmoid_slope(y, code, p):
    """Y (1 - y), whatever the code."""
    return sigmoid_derivative(y)


relu, relu_slope = scalar(activations.relu), scalar(activations.relu_derivative)
hard_sigmoid, hard_sigmoid_slope = scalar(activations.hard_sigmoid), scalar(activations.hard_sigmoid_derivative)
leaky_relu, leaky_relu_slope = scalar(activations.leaky_relu), scalar(activations.leaky_relu_derivative)
elu, elu_slope = scalar(activations.elu), scalar(activations.elu_derivative)
selu, selu_slope = scalar(activations.selu), scalar(activations.selu_derivative)
softsign, softsign_slope = scalar(activations.softsign), scalar(activations.softsign_derivative)
softplus_slope = scalar(activations.softplus_derivative)


@scalar
def any_of(x, code, p):
    """The activation that `code` stands for: the place of its kernel's name in prims/recurrent.py's ACTIVATIONS; p is its constant."""
    if code == 1:
        return tanh(x)
    if code == 2:
        return sigmoid_gate(x)
    if code == 3:
        return relu(x)
    if code == 4:
        return hard_sigmoid(x)
    if code == 5:
        return leaky_relu(x, p)
    if code == 6:
        return elu(x, p)
    if code == 7:
        return selu(x)
    if code == 8:
        return softplus(x)
    if code == 9:
        return softsign(x)
    if code == 10:
        return exp(x)
    return x


@scalar
def any_slope(y, code, p):
    """Its derivative, from its value y."""
    T = type(y)
    if code == 1:
        return tanh_derivative(y)
    if code == 2:
        return sigmoid_derivative(y)
    if code == 3:
        return relu_slope(y)
    if code == 4:
        return hard_sigmoid_slope(y)
    if code == 5:
        return leaky_relu_slope(y, p)
    if code == 6:
        return elu_slope(y, p)
    if code == 7:
        return selu_slope(y)
    if code == 8:
        return softplus_slope(y)
    if code == 9:
        return softsign_slope(y)
    if code == 10:
        return y
    return T(1)


STANDARD = (tanh_of, tanh_slope, sigmoid_of, sigmoid_slope)          # activation, its slope, recurrent activation, its slope
ANY = (any_of, any_slope, any_of, any_slope)


# At a gate.

def in_place(f: Callable[..., Any]) -> Any:
    """x = f(x, code, p) for every element."""
    @routine
    def change(x, code, p):
        for k in range(x.size):
            x[k] = f(x[k], code, p)
    return change


@routine
def add_product(y, rows, units, a, panels, gate):
    """y[b, j] += sum over k of a[b, k] R[k, j] for one gate's panels of a square R. y, a vectors of rows times units."""
    size = itemsize(y)
    product(rows, units, units, address(a), units, 1, address(panels) + size * gate * units * units, 0, address(y), units, address(y), units, y)
