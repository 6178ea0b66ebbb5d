"""Kernels of the penalties l1 sum |x| + l2 sum x^2 on weights and activities (regularizers)."""

from __future__ import annotations

from nnkit.jit import Doubles, Int, Real, Vector, kernel, scalar

__all__ = ["add_penalty_gradient", "penalty", "penalty_gradient"]


@kernel
def penalty(task: Int, tasks: Int, value: Doubles, x: Vector, l1: Real, l2: Real) -> None:
    """value[0] = l1 sum |x| + l2 sum x^2, summed in float64 in the order of the elements. One task. Writes value (=)."""
    absolute = 0.0
    squares = 0.0
    for i in range(x.size):
        v = float(x[i])
        absolute += abs(v)
        squares += v * v
    value[0] = l1 * absolute + l2 * squares


@scalar
def slope(x, l1, l2):
    """l1 sign(x) + 2 l2 x."""
    T = type(x)
    sign = T(1) if x > T(0) else (T(-1) if x < T(0) else T(0))
    return l1 * sign + (l2 + l2) * x


@kernel
def penalty_gradient(task: Int, tasks: Int, dx: Vector, dy: Vector, x: Vector, l1: Real, l2: Real) -> None:
    """dx = dy + l1 sign(x) + 2 l2 x; dx may be dy. One task. Writes dx (=)."""
    for i in range(x.size):
        dx[i] = dy[i] + slope(x[i], l1, l2)


@kernel
def add_penalty_gradient(task: Int, tasks: Int, dx: Vector, x: Vector, l1: Real, l2: Real) -> None:
    """dx += l1 sign(x) + 2 l2 x. One task. Updates dx (+=)."""
    for i in range(x.size):
        dx[i] += slope(x[i], l1, l2)
