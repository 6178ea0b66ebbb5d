"""A user's own pointwise losses. The loops of their kernels: pointwise_cpu.py."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import attrs

from nnkit.layers.activation import check_new_name, plain_function, registered_in
from nnkit.losses.base import PointwiseLoss
from nnkit.spec import SHORTHANDS, spec

__all__ = ["UserLoss", "register_loss"]

REGISTERED: dict[str, str] = {}                          # name -> first part of the names of its kernels

# Where a derivative is checked: outputs on both sides of 0 and within (0, 1), targets that are counts, signs and fractions; never y = t.
OUTPUTS = (-3.3, -1.2, -0.41, 0.16, 0.57, 0.88, 1.7, 4.2)
TARGETS = (-2.0, -1.0, 0.0, 0.3, 1.0, 2.5)


@spec()
class UserLoss(PointwiseLoss):
    """A loss that `register_loss` made known. function: its registered name, which is all that JSON keeps of it.

    Output and targets: one shape, any numbers. A row's loss is the mean over the last axis.
    """

    function: str = attrs.field(validator=registered_in(REGISTERED))

    module: ClassVar[str] = "user"

    @property
    def label(self) -> str:
        """Its registered name."""
        return self.function

    @property
    def kernel(self) -> str:
        """A name that a later registration does not take over."""
        return REGISTERED[self.function]


def register_loss(name: str, f: Callable[[Any, Any], Any], df: Callable[[Any, Any], Any]) -> UserLoss:
    """Make a loss of a function and its derivative; afterwards `name` stands for it wherever a loss is asked for.

    The loss of a row is the mean of f over the last axis, that of a batch the mean over its rows, each times its sample's weight: as for
    mean_squared_error, which is f = (y - t)^2.

    Args:
        name: letters, digits and '_'; not the name of a loss of nnkit's. A name of one's own may be registered anew: models compiled before
            must be compiled again.
        f: l = f(y, t), a plain Python function of two numbers, the output first, then its target, that Numba can compile (`math` and the
            functions of `nnkit.scalar` may be called). It is compiled into the loop; constants as type(y)(0.5) keep float32 arithmetic in
            float32, and without branches the loop becomes vector code. For a GPU it is compiled when a model of that backend is: `nnkit.compile`
            refuses what Numba cannot there.
        df: the derivative of f in y: df(y, t).

    Returns:
        UserLoss(name).

    Raises:
        TypeError: f or df is no plain Python function of two arguments.
        ValueError: the name is taken or malformed, Numba cannot compile a function (its reason is given), or df is far from the central
            differences of f.

    >>> import math
    >>> import nnkit
    >>> nnkit.register_loss("my_log_cosh", lambda y, t: math.log(math.cosh(y - t)), lambda y, t: math.tanh(y - t))
    UserLoss('my_log_cosh')
    >>> model = nnkit.compile(nnkit.Sequential([nnkit.Input((1,))]), loss="my_log_cosh")
    >>> round(model.evaluate([[1.0], [2.0]], [[1.0], [0.0]])["loss"], 4)
    0.6625
    """
    check_new_name("register_loss", "loss", name, name in REGISTERED)
    f, df = (plain_function(function, f"register_loss: {what}", "two numbers", (2,)) for function, what in ((f, "f"), (df, "df")))
    from nnkit.jit import compiled_scalar  # imports Numba

    _check_derivative(compiled_scalar(f, "register_loss: f", 2), compiled_scalar(df, "register_loss: df", 2))
    REGISTERED[name] = _registered(name, f, df)
    SHORTHANDS["loss", name] = functools.partial(UserLoss, name)
    return UserLoss(name)


def pointwise_kernels(f: Callable[..., Any], df: Callable[..., Any]) -> tuple[str, str]:
    """What a PointwiseLoss of one's own says as `module, kernel`: where its kernels are, made of f(y, t, ...) and its derivative in y.

    f and df take the output, the target, and the numbers that the class's `scalars` returns, at most two. Raises TypeError for anything else.

        @spec("quantile")
        class Quantile(PointwiseLoss):
            q: float = real(default=0.5, low=0, high=1)
            module, kernel = pointwise_kernels(quantile, quantile_derivative)

            def scalars(self):
                return (self.q,)
    """
    f, df = (plain_function(function, f"pointwise_kernels: {what}", "two to four numbers", (2, 3, 4)) for function, what in ((f, "f"), (df, "df")))
    return UserLoss.module, _registered(f.__name__, f, df)


def _check_derivative(f: Any, df: Any) -> None:
    """Raise ValueError where df is far from the central difference of f in y. Error of the difference: 1e-9; tolerance: 1e-4 of the larger of it
    and 1. Points where f is not finite, such as those outside of a logarithm's domain, are passed over.
    """
    for y, t in itertools.product(OUTPUTS, TARGETS):
        h = 1e-6 * (1 + abs(y))
        value, difference = f(y, t), (f(y + h, t) - f(y - h, t)) / (2 * h)
        if not (math.isfinite(value) and math.isfinite(difference)):
            continue
        found = df(y, t)
        if not abs(found - difference) <= 1e-4 * max(1.0, abs(difference)):
            raise ValueError(f"df must be the derivative of f in its first argument, the output; received df({y}, {t}) = {found:.6g} where the "
                             f"central difference of f is {difference:.6g}")


def _registered(name: str, f: Callable[..., Any], df: Callable[..., Any]) -> str:
    """Register the kernels of f and df under a name that no other has; returns it as `PointwiseLoss.kernel`."""
    from nnkit.losses.pointwise_cpu import pointwise_loss  # imports Numba
    from nnkit.runtime import store

    forward, backward = pointwise_loss(f, df)
    return store.register(f"losses.user.{name}", {"_forward": forward, "_backward": backward}).removeprefix("losses.user.")
