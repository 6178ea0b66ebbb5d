"""Cross-entropies. Kernels: crossentropy_cpu.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from nnkit.losses.base import PointwiseLoss
from nnkit.spec import boolean, real, spec

__all__ = ["BinaryCrossentropy"]


@spec("binary_crossentropy", "bce")
class BinaryCrossentropy(PointwiseLoss):
    """l = -t log y - (1 - t) log(1 - y), y a probability clipped to [1e-7, 1 - 1e-7]; with logits z, l = max(z, 0) - z t + log(1 + exp(-|z|)).

    from_logits: the output is z, not sigmoid(z). On top of a sigmoid the plan takes the logits form by itself.
    label_smoothing: s in [0, 1]; targets become t (1 - s) + s / 2. Targets of the output's shape, usually 0 and 1.
    """

    from_logits: bool = boolean(default=False)
    label_smoothing: float = real(default=0.0, low=0, high=1)

    module: ClassVar[str] = "crossentropy"

    @property
    def kernel(self) -> str:
        """The form for probabilities or for logits."""
        return "binary_crossentropy_logits" if self.from_logits else "binary_crossentropy"

    def scalars(self) -> tuple[float, ...]:
        """label_smoothing."""
        return (self.label_smoothing,)

    def logits(self) -> Mapping[str, str]:
        """On a sigmoid the logits form."""
        return {} if self.from_logits else {"layers.activation.sigmoid_forward": "binary_crossentropy_logits"}
