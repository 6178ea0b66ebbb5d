"""Activations: specs that stand as a layer of their own or as the `activation` of another. Kernels: activation_cpu.py.

An elementwise activation names its scalar functions in activation_cpu.py, says whether its derivative is cheaper from the output y or needs
the input x, and lists its constants; forward and backward steps follow from that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from nnkit.layers.base import Layer
from nnkit.spec import child, real, spec

if TYPE_CHECKING:
    from nnkit.plan.build import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["Activation", "ActivationFunction", "LeakyReLU", "Linear", "ReLU", "Sigmoid", "Tanh"]


@attrs.frozen(repr=False)
class ActivationFunction(Layer):
    """Base of all activations. Output and input have the same shape.

    kernel: the name <kernel>_forward and <kernel>_backward begin with. keeps: what backward reads, "x" or "y".
    """

    family: ClassVar[str] = "activation"
    keeps: ClassVar[str] = "y"

    @property
    def kernel(self) -> str:
        """First part of the kernels' names."""
        raise TypeError(f"{type(self).__name__} names no kernel")

    def scalars(self) -> tuple[float, ...]:
        """The constants of the formula, at most three."""
        return ()

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """y = f(x), elementwise; backward: dx = dy f', with f' from y or from x."""
        (x,) = xs
        scalars = (*self.scalars(), 0.0, 0.0, 0.0)[:3]
        y = g.buffer(self.kernel, *x.shape)
        rows = x.shape[0]
        name = f"layers.activation.{self.kernel}"
        g.step(f"{name}_forward", [y.rows()], [x.rows()], scalars=scalars, rows=rows, in_place=True)

        def backward(dy: Buffer) -> Buffer:
            dx = g.buffer(f"{self.kernel}_dx", *x.shape)
            kept = y if self.keeps == "y" else x
            g.step(f"{name}_backward", [dx.rows()], [dy.rows(), kept.rows()], scalars=scalars, rows=rows, in_place=True)
            return dx
        g.on_backward(y, [x], backward)
        return y


@spec("linear")
class Linear(ActivationFunction):
    """f(x) = x."""

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """No step at all."""
        return xs[0]


@spec("relu")
class ReLU(ActivationFunction):
    """f(x) = x where x >= threshold, negative_slope (x - threshold) below, and at most max_value.

    max_value: at least 0, or None for no limit. negative_slope: at least 0, default 0. threshold: at least 0, default 0.
    At the kinks the derivative is that of the left side, as f'(0) = 0 for the plain ReLU.
    """

    max_value: float | None = real(default=None, low=0, none=True)
    negative_slope: float = real(default=0.0, low=0)
    threshold: float = real(default=0.0, low=0)

    @property
    def keeps(self) -> str:  # type: ignore[override]
        """The plain ReLU's derivative follows from y; the general one's needs x."""
        return "y" if self.kernel == "relu" else "x"

    @property
    def kernel(self) -> str:
        """The plain ReLU has a kernel of its own."""
        plain = self.max_value is None and self.negative_slope == 0 and self.threshold == 0
        return "relu" if plain else "relu_general"

    def scalars(self) -> tuple[float, ...]:
        """max_value, negative_slope, threshold."""
        return (math.inf if self.max_value is None else self.max_value, self.negative_slope, self.threshold)


@spec("leaky_relu")
class LeakyReLU(ActivationFunction):
    """f(x) = x where x > 0, negative_slope x elsewhere. negative_slope: at least 0, default 0.3 (Keras; PyTorch's is 0.01)."""

    negative_slope: float = real(default=0.3, low=0)

    kernel: ClassVar[str] = "leaky_relu"  # type: ignore[misc]

    def scalars(self) -> tuple[float, ...]:
        """negative_slope."""
        return (self.negative_slope,)


@spec("sigmoid")
class Sigmoid(ActivationFunction):
    """f(x) = 1 / (1 + exp(-x))."""

    kernel: ClassVar[str] = "sigmoid"  # type: ignore[misc]


@spec("tanh")
class Tanh(ActivationFunction):
    """f(x) = tanh(x)."""

    kernel: ClassVar[str] = "tanh"  # type: ignore[misc]


@spec()
class Activation(Layer):
    """A layer that is nothing but an activation: Activation("relu")."""

    activation: ActivationFunction = child("activation")

    def parameters(self, *shapes: Any) -> Any:
        """What the activation learns."""
        return self.activation.parameters(*shapes)

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """The activation's own steps."""
        return self.activation.lower(g, *xs)
