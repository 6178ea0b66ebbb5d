"""Activations: specs that stand as a layer of their own or as the `activation` of another. Kernels: activation_cpu.py.

An elementwise activation names its scalar functions in activation_cpu.py, says whether its derivative is cheaper from the output y or needs
the input x, and lists its constants; forward and backward steps follow from that. Names, defaults and formulas are those of Keras 3.
NaN in gives NaN out. At a bend the derivative is that of the outer piece, as in PyTorch: ReLU's is 0 at 0, ReLU6's also at 6.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from nnkit.layers.base import Layer, Shape
from nnkit.spec import SHORTHANDS, base, boolean, child, nearest, real, spec

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = [
    "CELU", "ELU", "GELU", "SELU", "Activation", "ActivationFunction", "Exponential", "HardSiLU", "HardSigmoid", "LeakyReLU", "Linear",
    "Mish", "ReLU", "SiLU", "Sigmoid", "Softplus", "Softsign", "Tanh", "UserActivation", "register_activation",
]


@base
class ActivationFunction(Layer):
    """Base of all activations. Output and input have the same shape.

    kernel: what the names of its two kernels, <module><kernel>_forward and _backward, begin with. keeps: what backward reads, "x" or "y".
    signed: whether it is known to give numbers below 0, which are no probabilities.
    """

    keeps_mask: ClassVar[bool] = True

    family: ClassVar[str] = "activation"
    module: ClassVar[str] = "layers.activation."
    keeps: ClassVar[str] = "y"
    signed: ClassVar[bool] = False

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
        name = f"{self.module}{self.kernel}"
        g.step(f"{name}_forward", [y.rows()], [x.rows()], scalars=scalars, rows=rows, places=x.places, in_place=True)

        def backward(dy: Buffer) -> Buffer:
            dx = g.buffer(f"{self.kernel}_dx", *x.shape)
            kept = y if self.keeps == "y" else x
            g.step(f"{name}_backward", [dx.rows()], [dy.rows(), kept.rows()], scalars=scalars, rows=rows, places=x.places,
                   in_place=True)
            return dx
        g.on_backward(y, [x], backward)
        return y


@spec("linear")
class Linear(ActivationFunction):
    """f(x) = x. `activation=None` means it, too, as in Keras."""

    signed: ClassVar[bool] = True
    kernel: ClassVar[str] = "linear"  # type: ignore[misc]

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """No step at all."""
        return xs[0]


SHORTHANDS["activation", None] = Linear


# Piecewise linear.

@spec("relu")
class ReLU(ActivationFunction):
    """f(x) = min(x, max_value) where x > threshold, negative_slope (x - threshold) elsewhere. "relu6" is short for ReLU(max_value=6).

    max_value: at least 0, or None for no limit. negative_slope: at least 0, default 0. threshold: at least 0, default 0.
    Nair and Hinton, Rectified linear units improve restricted Boltzmann machines, ICML 2010.
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


SHORTHANDS["activation", "relu6"] = functools.partial(ReLU, max_value=6.0)


@spec()
class LeakyReLU(ActivationFunction):
    """f(x) = x where x > 0, negative_slope x elsewhere. negative_slope: at least 0, default 0.3 (Keras' layer; PyTorch's is 0.01).

    "leaky_relu" is short for LeakyReLU(0.2): Keras' function of that name has another slope than its layer.
    Maas, Hannun and Ng, Rectifier nonlinearities improve neural network acoustic models, ICML 2013.
    """

    signed: ClassVar[bool] = True
    negative_slope: float = real(default=0.3, low=0)

    @property
    def kernel(self) -> str:
        """Without a slope it is the ReLU, which makes 0 of -infinity."""
        return "leaky_relu" if self.negative_slope else "relu"

    def scalars(self) -> tuple[float, ...]:
        """negative_slope."""
        return (self.negative_slope,)


SHORTHANDS["activation", "leaky_relu"] = functools.partial(LeakyReLU, negative_slope=0.2)


@spec("hard_sigmoid")
class HardSigmoid(ActivationFunction):
    """f(x) = min(max(x + 3, 0), 6) / 6, as in Keras 3 and PyTorch; Keras 2 had another slope."""

    kernel: ClassVar[str] = "hard_sigmoid"  # type: ignore[misc]


@spec("hard_silu", "hard_swish")
class HardSiLU(ActivationFunction):
    """f(x) = x min(max(x + 3, 0), 6) / 6. Howard et al., Searching for MobileNetV3, ICCV 2019."""

    signed: ClassVar[bool] = True
    kernel: ClassVar[str] = "hard_silu"  # type: ignore[misc]
    keeps: ClassVar[str] = "x"


# The exponential family.

@spec("sigmoid")
class Sigmoid(ActivationFunction):
    """f(x) = 1 / (1 + e^-x)."""

    kernel: ClassVar[str] = "sigmoid"  # type: ignore[misc]


@spec("tanh")
class Tanh(ActivationFunction):
    """f(x) = tanh(x)."""

    signed: ClassVar[bool] = True
    kernel: ClassVar[str] = "tanh"  # type: ignore[misc]


@spec("exponential")
class Exponential(ActivationFunction):
    """f(x) = e^x."""

    kernel: ClassVar[str] = "exponential"  # type: ignore[misc]


@spec("elu")
class ELU(ActivationFunction):
    """f(x) = x where x > 0, alpha (e^x - 1) elsewhere. alpha: at least 0, default 1.

    Clevert, Unterthiner and Hochreiter, Fast and accurate deep network learning by exponential linear units, ICLR 2016.
    """

    signed: ClassVar[bool] = True
    alpha: float = real(default=1.0, low=0)

    kernel: ClassVar[str] = "elu"  # type: ignore[misc]

    def scalars(self) -> tuple[float, ...]:
        """alpha."""
        return (self.alpha,)


@spec("selu")
class SELU(ActivationFunction):
    """f(x) = 1.0507 x where x > 0, 1.0507 * 1.6733 (e^x - 1) elsewhere. Klambauer et al., Self-normalizing neural networks, NIPS 2017."""

    signed: ClassVar[bool] = True
    kernel: ClassVar[str] = "selu"  # type: ignore[misc]


@spec("celu")
class CELU(ActivationFunction):
    """f(x) = x where x > 0, alpha (e^(x / alpha) - 1) elsewhere. alpha: greater than 0, default 1.

    Barron, Continuously differentiable exponential linear units, 2017.
    """

    signed: ClassVar[bool] = True
    alpha: float = real(default=1.0, low=0, low_open=True)

    kernel: ClassVar[str] = "celu"  # type: ignore[misc]

    def scalars(self) -> tuple[float, ...]:
        """alpha, 1 / alpha."""
        return (self.alpha, 1 / self.alpha)


@spec("gelu")
class GELU(ActivationFunction):
    """f(x) = x Phi(x), Phi the normal distribution; approximate: f(x) = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.

    approximate: default False. Hendrycks and Gimpel, Gaussian error linear units, 2016.
    """

    signed: ClassVar[bool] = True
    approximate: bool = boolean(default=False)

    keeps: ClassVar[str] = "x"

    @property
    def kernel(self) -> str:
        """The exact or the approximate form."""
        return "gelu_tanh" if self.approximate else "gelu"


@spec("silu", "swish")
class SiLU(ActivationFunction):
    """f(x) = x / (1 + e^-x). Elfwing, Uchibe and Doya, Sigmoid-weighted linear units, 2017; also known as swish."""

    signed: ClassVar[bool] = True
    kernel: ClassVar[str] = "silu"  # type: ignore[misc]
    keeps: ClassVar[str] = "x"


@spec("mish")
class Mish(ActivationFunction):
    """f(x) = x tanh(log(1 + e^x)). Misra, Mish: a self regularized non-monotonic activation function, BMVC 2020."""

    signed: ClassVar[bool] = True
    kernel: ClassVar[str] = "mish"  # type: ignore[misc]
    keeps: ClassVar[str] = "x"


@spec("softplus")
class Softplus(ActivationFunction):
    """f(x) = log(1 + e^x)."""

    kernel: ClassVar[str] = "softplus"  # type: ignore[misc]


@spec("softsign")
class Softsign(ActivationFunction):
    """f(x) = x / (1 + |x|)."""

    signed: ClassVar[bool] = True
    kernel: ClassVar[str] = "softsign"  # type: ignore[misc]


# A user's own.

@attrs.frozen
class Registered:
    """A registered pair of functions; `kernel`, a name of its own, tells it from an earlier one of the same name."""

    f: Callable[[Any], Any]
    df: Callable[[Any], Any]
    keeps: str
    kernel: str


REGISTERED: dict[str, Registered] = {}


def registered_in(registry: Mapping[str, Any]) -> Callable[[Any, Any, Any], None]:
    """The validator of a user's spec: its function must be a name of the registry."""
    def check(instance: Any, attribute: Any, value: Any) -> None:
        if value not in registry:
            tail = f" ({nearest(value, registry)})" if isinstance(value, str) and registry else ""
            family = instance.family
            raise ValueError(f"{type(instance).__name__}: no {family} {value!r} is registered in this process{tail}; call register_{family} first")
    return check


@spec()
class UserActivation(ActivationFunction):
    """An activation that `register_activation` made known. function: its registered name, which is all that JSON keeps of it."""

    function: str = attrs.field(validator=registered_in(REGISTERED))

    module: ClassVar[str] = "user:"

    @property
    def keeps(self) -> str:  # type: ignore[override]
        """What it was registered with."""
        return REGISTERED[self.function].keeps

    @property
    def kernel(self) -> str:
        """A name that a later registration does not take over."""
        return REGISTERED[self.function].kernel


def register_activation(name: str, f: Callable[[Any], Any], df: Callable[[Any], Any], keeps: str = "x") -> UserActivation:
    """Make an elementwise activation of a function and its derivative; afterwards `name` stands for it wherever an activation is asked for.

    Args:
        name: letters, digits and '_'; not the name of an activation of nnkit's. A name of one's own may be registered anew: models compiled
            before must be compiled again.
        f: y = f(x), a plain Python function of one number that Numba can compile (`math` and the functions of `nnkit.scalar` may be called).
            It is compiled into the loop; constants as type(x)(0.5) keep float32 arithmetic in float32, and without branches the loop
            becomes vector code. For a GPU it is compiled when a model of that backend is: `nnkit.compile` refuses what Numba cannot there.
        df: the derivative of f, from x (keeps="x") or from y (keeps="y").
        keeps: what df takes; "y" lets y take the memory of x.

    Returns:
        UserActivation(name).

    Raises:
        TypeError: f or df is no plain Python function of one argument.
        ValueError: the name is taken or malformed, keeps is neither "x" nor "y", Numba cannot compile a function (its reason is given), or df
            is far from the central differences of f.

    >>> import math
    >>> import nnkit
    >>> sine = nnkit.register_activation("sine", lambda x: math.sin(x), lambda x: math.cos(x))
    >>> nnkit.Dense(8, activation="sine").activation
    UserActivation('sine')
    """
    check_new_name("register_activation", "activation", name, name in REGISTERED)
    if keeps not in ("x", "y"):
        raise ValueError(f"register_activation: keeps must be 'x' or 'y', received {keeps!r}")
    f, df = plain_function(f, "register_activation: f"), plain_function(df, "register_activation: df")
    from nnkit.jit import compiled_scalar  # imports Numba
    from nnkit.layers.activation_cpu import check_derivative, pointwise
    from nnkit.runtime import store

    check_derivative(compiled_scalar(f, "register_activation: f"), compiled_scalar(df, "register_activation: df"), keeps)
    forward, backward = pointwise(f, df)
    registered = store.register(f"user:{name}", {"_forward": forward, "_backward": backward})
    REGISTERED[name] = Registered(f, df, keeps, registered.removeprefix("user:"))
    SHORTHANDS["activation", name] = functools.partial(UserActivation, name)
    return UserActivation(name)


def check_new_name(action: str, family: str, name: Any, registered: bool) -> None:
    """Raise ValueError where a user's spec cannot be registered under that name: one's own (`registered`) may be registered anew."""
    if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)):
        raise ValueError(f"{action}: name must be made of letters, digits and '_', received {name!r}")
    if (family, name) in SHORTHANDS and not registered:
        raise ValueError(f"{action}: name must be new, received {name!r}, which is nnkit's own")


def plain_function(function: Any, what: str, numbers: str = "one number", counts: Sequence[int] = (1,)) -> Callable[..., Any]:
    """The Python function, of a function that Numba compiled already the one below it. Raises TypeError for anything else.

    counts: how many arguments it may take; `numbers` says so in words.
    """
    function = getattr(function, "py_func", function)
    if not inspect.isfunction(function):
        raise TypeError(f"{what} must be a plain Python function of {numbers}, received {function!r}")
    parameters = inspect.signature(function).parameters.values()
    if len(parameters) not in counts or any(p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters):
        raise TypeError(f"{what} must take exactly {numbers}, received {function.__name__}{inspect.signature(function)}")
    return function


@spec()
class Activation(Layer):
    """A layer that is nothing but an activation: Activation("relu")."""

    keeps_mask: ClassVar[bool] = True

    activation: ActivationFunction = child("activation")

    def output_shape(self, *shapes: Shape) -> Shape:
        """The input's shape."""
        return self.activation.output_shape(*shapes)

    def parameters(self, *shapes: Any) -> Any:
        """What the activation learns."""
        return self.activation.parameters(*shapes)

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """The activation's own steps."""
        return self.activation.lower(g, *xs)
