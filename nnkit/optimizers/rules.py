"""The optimizers. Kernels: rules_cpu.py. Formulas and defaults are Keras 3's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from nnkit.optimizers.base import Optimizer
from nnkit.spec import boolean, real, spec

__all__ = ["Adam"]


@spec("adam")
class Adam(Optimizer):
    """Adam (Kingma and Ba 2014, arXiv:1412.6980, end of section 2: the form with "epsilon hat").

    m += (g - m) (1 - beta_1); v += (g^2 - v) (1 - beta_2); w -= lr sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon).
    beta_1, beta_2: in [0, 1), 0.9 and 0.999. epsilon: 1e-7 (PyTorch's 1e-8 stands inside the bias correction).
    amsgrad: use the largest v so far (Reddi et al. 2018, arXiv:1904.09237).
    """

    beta_1: float = real(default=0.9, low=0, high=1, high_open=True)
    beta_2: float = real(default=0.999, low=0, high=1, high_open=True)
    epsilon: float = real(default=1e-7, low=0)
    amsgrad: bool = boolean(default=False)

    def states(self) -> Mapping[str, float]:
        """m, v, and with amsgrad the largest v."""
        return {"momentum": 0.0, "velocity": 0.0, **({"velocity_hat": 0.0} if self.amsgrad else {})}

    @property
    def kernel(self) -> str:
        """With amsgrad another kernel."""
        return "optimizers.rules.adam_amsgrad_update" if self.amsgrad else "optimizers.rules.adam_update"

    def scalars(self) -> tuple[float, ...]:
        """beta_1, beta_2, epsilon."""
        return (self.beta_1, self.beta_2, self.epsilon)
