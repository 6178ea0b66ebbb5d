"""The optimizers. Kernels: rules_cpu.py. Formulas, names and defaults are Keras 3's.

Below, w is a parameter, g its gradient (after clipping), lr the learning rate, t the number of the update, counted from 1; states start at 0
unless said otherwise. `weight_decay` (w -= lr weight_decay w, before the rule) and the three clips are described in `Optimizer`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nnkit.optimizers.base import Optimizer
from nnkit.optimizers.lazy import Missed, powers, rounded
from nnkit.optimizers.schedules import Schedule, schedule_field
from nnkit.spec import boolean, real, spec

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Nadam", "RMSprop"]


def _decay_rate(default: float) -> Any:
    """A field in [0, 1): how much of a running mean stays."""
    return real(default=default, low=0, high=1, high_open=True)


def _epsilon() -> Any:
    """A field greater than 0: at 0, a parameter whose gradient was always 0 would become 0 / 0."""
    return real(default=1e-7, low=0, low_open=True)


@spec("sgd")
class SGD(Optimizer):
    """Gradient descent: w -= lr g; with momentum, m = momentum m - lr g, then w += m, or (Nesterov) w += momentum m - lr g.

    learning_rate: default 0.01. momentum: from 0 to 1, default 0. nesterov: look ahead (no effect without momentum), default False.
    PyTorch keeps the momentum without lr, which differs where the rate changes. Nesterov form: Sutskever et al. (ICML 2013).
    """

    learning_rate: float | Schedule = schedule_field(default=0.01)
    momentum: float = real(default=0.0, low=0, high=1)
    nesterov: bool = boolean(default=False)

    def states(self) -> Mapping[str, float]:
        """m, where there is momentum."""
        return {"momentum": 0.0} if self.momentum else {}

    @property
    def rule(self) -> str:
        """Plain, with momentum, or Nesterov's."""
        return "sgd" if not self.momentum else "sgd_nesterov" if self.nesterov else "sgd_momentum"

    def scalars(self) -> tuple[float, ...]:
        """momentum."""
        return (self.momentum,)

    def missed(self, dtype: str) -> Missed:
        """Momentum goes on: w += m (momentum + momentum^2 + ...), one factor more for Nesterov's."""
        if not self.momentum:
            return Missed("still_0", ())
        stays = rounded(self.momentum, dtype)
        return Missed("coast_1", (stays,), (powers(stays) * (stays if self.nesterov else 1.0),))


@spec("adagrad")
class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer, JMLR 2011): a += g^2; w -= lr g / sqrt(a + epsilon).

    initial_accumulator_value: where a starts, at least 0, default 0.1. epsilon: greater than 0, default 1e-7.
    PyTorch starts at 0, and its epsilon (1e-10) stands outside the root.
    """

    initial_accumulator_value: float = real(default=0.1, low=0)
    epsilon: float = _epsilon()

    def states(self) -> Mapping[str, float]:
        """The sum of squares a."""
        return {"accumulator": self.initial_accumulator_value}

    def scalars(self) -> tuple[float, ...]:
        """epsilon."""
        return (self.epsilon,)

    def missed(self, dtype: str) -> Missed:
        """Nothing moves."""
        return Missed("still_1", (1.0,))


@spec("rmsprop")
class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton, Coursera lecture 6.5, 2012): v = rho v + (1 - rho) g^2; w -= lr g / sqrt(v + epsilon).

    rho: in [0, 1), default 0.9. epsilon: greater than 0, default 1e-7.
    momentum: at least 0, default 0: m = momentum m + lr g / sqrt(v + epsilon); w -= m.
    centered: subtract the squared mean of the gradients, a = rho a + (1 - rho) g, from v under the root (Graves 2013, arXiv:1308.0850,
    equations 38 to 45); default False. PyTorch: rho 0.99, rate 0.01, epsilon 1e-8 outside the root.
    """

    rho: float = _decay_rate(0.9)
    momentum: float = real(default=0.0, low=0)
    epsilon: float = _epsilon()
    centered: bool = boolean(default=False)

    def states(self) -> Mapping[str, float]:
        """v; a where centered; m where there is momentum."""
        names = ["velocity", *["average_gradient"] * self.centered, *["momentum"] * (self.momentum > 0)]
        return dict.fromkeys(names, 0.0)

    @property
    def rule(self) -> str:
        """One of four."""
        return "rmsprop" + "_centered" * self.centered + "_momentum" * (self.momentum > 0)

    def scalars(self) -> tuple[float, ...]:
        """rho, epsilon, momentum."""
        return (self.rho, self.epsilon, self.momentum)

    def missed(self, dtype: str) -> Missed | None:
        """The means fade; momentum goes on: w -= m (momentum + momentum^2 + ...). A momentum that grows is left to the dense sweep."""
        means = (rounded(self.rho, dtype),) * (1 + self.centered)
        if not self.momentum:
            return Missed(f"still_{len(means)}", means)
        stays = rounded(self.momentum, dtype)
        return Missed(f"coast_{len(means) + 1}", (*means, stays), (-powers(stays),)) if self.momentum <= 1 else None


@spec("adam")
class Adam(Optimizer):
    """Adam (Kingma and Ba 2014, arXiv:1412.6980, end of section 2: the form with "epsilon hat").

    m += (g - m) (1 - beta_1); v += (g^2 - v) (1 - beta_2); w -= lr sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon).
    beta_1, beta_2: in [0, 1), 0.9 and 0.999. epsilon: greater than 0, default 1e-7 (PyTorch's 1e-8 stands inside the bias correction).
    amsgrad: use the largest v so far (Reddi, Kale and Kumar 2018, arXiv:1904.09237); default False.
    """

    beta_1: float = _decay_rate(0.9)
    beta_2: float = _decay_rate(0.999)
    epsilon: float = _epsilon()
    amsgrad: bool = boolean(default=False)

    def states(self) -> Mapping[str, float]:
        """m, v, and with amsgrad the largest v."""
        return {"momentum": 0.0, "velocity": 0.0, **({"velocity_hat": 0.0} if self.amsgrad else {})}

    @property
    def rule(self) -> str:
        """With amsgrad another one."""
        return "adam_amsgrad" if self.amsgrad else "adam"

    def scalars(self) -> tuple[float, ...]:
        """beta_1, beta_2, epsilon."""
        return (self.beta_1, self.beta_2, self.epsilon)

    def missed(self, dtype: str) -> Missed | None:
        """w -= m sum_s alpha_s beta_1^s / (beta_2^(s/2) sqrt(v) + epsilon), as a series in x = 1 - beta_2^(s/2): see closed_cpu.adam_4.

        What is left out behind j terms is at most sum_s alpha_s beta_1^s x^j / (1 - x) of such terms; it must be below the rounding of the sum.
        """
        first, second = (1 - rounded(1 - beta, dtype) for beta in (self.beta_1, self.beta_2))
        fading = powers(first)
        if self.amsgrad:
            return Missed("amsgrad", (first, second, 1.0), (-fading,), "adam")
        x = 1 - powers(math.sqrt(second))
        for terms in (4, 12):
            with np.errstate(all="ignore"):
                rest = np.sum(fading * x ** terms / (1 - x))
            if rest <= np.finfo(dtype).eps / 2 * fading.sum():
                return Missed(f"adam_{terms}", (first, second), tuple(-fading * x ** j for j in range(terms)), "adam")
        return None


@spec("adamw")
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101): Adam(weight_decay=0.004) under its own name.

    weight_decay: at least 0 or None, default 0.004, the second argument as in Keras (PyTorch's default is 0.01). The others: see Adam.
    """

    weight_decay: float | None = real(default=0.004, low=0, none=True)
    beta_1: float = _decay_rate(0.9)                     # declared again so that they follow weight_decay in the order of arguments
    beta_2: float = _decay_rate(0.999)
    epsilon: float = _epsilon()
    amsgrad: bool = boolean(default=False)


@spec("adadelta")
class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012, arXiv:1212.5701, algorithm 1).

    a = rho a + (1 - rho) g^2; d = sqrt(b + epsilon) / sqrt(a + epsilon) g; b = rho b + (1 - rho) d^2; w -= lr d.
    rho: in [0, 1), default 0.95. epsilon: greater than 0, default 1e-7. learning_rate: default 0.001; the paper's rule is that of 1.0.
    """

    rho: float = _decay_rate(0.95)
    epsilon: float = _epsilon()

    def states(self) -> Mapping[str, float]:
        """a and b."""
        return {"accumulated_grad": 0.0, "accumulated_delta_var": 0.0}

    def scalars(self) -> tuple[float, ...]:
        """rho, epsilon."""
        return (self.rho, self.epsilon)

    def missed(self, dtype: str) -> Missed:
        """Both means fade."""
        return Missed("still_2", (rounded(self.rho, dtype),) * 2)


@spec("nadam")
class Nadam(Optimizer):
    """Adam with Nesterov momentum (Dozat 2016, Incorporating Nesterov momentum into Adam).

    u_t = beta_1 (1 - 0.96^t / 2); U_t = u_1 u_2 ... u_t; m and v as in Adam;
    w -= lr (u_(t+1) m / (1 - U_(t+1)) + (1 - u_t) g / (1 - U_t)) / (sqrt(v / (1 - beta_2^t)) + epsilon).
    beta_1, beta_2: in [0, 1), 0.9 and 0.999. epsilon: greater than 0, default 1e-7. U_t follows from t, so it is no state here.
    """

    beta_1: float = _decay_rate(0.9)
    beta_2: float = _decay_rate(0.999)
    epsilon: float = _epsilon()

    def states(self) -> Mapping[str, float]:
        """m and v."""
        return {"momentum": 0.0, "velocity": 0.0}

    def scalars(self) -> tuple[float, ...]:
        """beta_1, beta_2, epsilon."""
        return (self.beta_1, self.beta_2, self.epsilon)
