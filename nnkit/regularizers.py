"""Regularizers: a penalty on a parameter (or on a layer's output) that is added to the loss. Keras 3's names, defaults and formulas.

The penalty of an array w is l1 sum|w| + l2 sum w^2, and its gradient l1 sign(w) + 2 l2 w, with sign(0) = 0. Beware of other conventions:
PyTorch's weight_decay adds w itself to the gradient (half as much), scikit-learn's alpha is halved and divided by the number of samples.
"""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np

from nnkit.spec import Spec, real, spec

__all__ = ["L1", "L1L2", "L2", "Regularizer"]


@attrs.frozen(repr=False)
class Regularizer(Spec):
    """Base of all regularizers. A subclass overrides `l1`, `l2` or both with a field."""

    family: ClassVar[str] = "regularizer"

    @property
    def l1(self) -> float:
        """The factor of sum|w|."""
        return 0.0

    @property
    def l2(self) -> float:
        """The factor of sum w^2."""
        return 0.0

    def __call__(self, w: Any) -> float:
        """The penalty l1 sum|w| + l2 sum w^2 of an array of any shape, in float64."""
        w = np.asarray(w, dtype=np.float64)
        return float(self.l1 * np.abs(w).sum() + self.l2 * np.square(w).sum())


@spec("l1")
class L1(Regularizer):
    """l1 sum|w|. l1: at least 0, default 0.01. Drives values to exactly 0; also called lasso penalty."""

    l1: float = real(default=0.01, low=0)


@spec("l2")
class L2(Regularizer):
    """l2 sum w^2 (not halved). l2: at least 0, default 0.01. Also called ridge penalty."""

    l2: float = real(default=0.01, low=0)


@spec("l1_l2")
class L1L2(Regularizer):
    """l1 sum|w| + l2 sum w^2. l1, l2: at least 0, default 0: give at least one, since the shorthand alone penalises nothing (as in Keras)."""

    l1: float = real(default=0.0, low=0)
    l2: float = real(default=0.0, low=0)
