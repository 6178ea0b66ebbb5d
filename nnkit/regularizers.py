"""Regularizers: a penalty on a parameter or on a layer's output that is added to the loss. Keras 3's names, defaults and formulas.

The penalty of an array w is l1 sum|w| + l2 sum w^2, and its gradient l1 sign(w) + 2 l2 w, with sign(0) = 0. Beware of other conventions:
PyTorch's weight_decay adds w itself to the gradient (half as much), scikit-learn's alpha is halved and divided by the number of samples.
Some penalties make sense on outputs alone: these stand only as `activity_regularizer`. Kernels: losses/penalty_cpu.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnkit.prims.reduce import Tiling
from nnkit.spec import SHORTHANDS, Spec, base, real, spec

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["L1", "L1L2", "L2", "ActivityRegularizer", "KLSparsity", "Regularizer"]

CLIP = 1e-7                                              # mean activations are kept this far from 0 and 1


@base
class ActivityRegularizer(Spec):
    """Base of all that may stand as a layer's `activity_regularizer`."""

    family: ClassVar[str] = "activity_regularizer"

    def __call__(self, y: Any) -> float:
        """The penalty of an array, in float64."""
        raise TypeError(f"{type(self).__name__} does not say what its penalty is")

    def lower(self, g: Builder, y: Buffer) -> None:
        """Emit the steps of the penalty on a layer's output y, (N, ...); hand those that add to its gradient to `g.on_backward(y, [y], ...)`."""
        raise TypeError(f"{type(self).__name__} does not say how it lowers itself")


@base
class Regularizer(ActivityRegularizer):
    """Base of the regularizers of parameters, and of outputs: there the penalty is divided by the size of the batch, as in Keras.

    A subclass overrides `l1`, `l2` or both with a field.
    """

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

    def lower(self, g: Builder, y: Buffer) -> None:
        """The penalty on an output; dx = dy + (l1 sign(y) + 2 l2 y) / N."""
        l1, l2 = self.l1 / g.batch, self.l2 / g.batch
        g.add_penalty(y, l1, l2)

        def backward(dy: Buffer) -> Buffer:
            dx = g.buffer("activity_dx", *y.shape)
            g.step("losses.penalty.penalty_gradient", [dx.rows()], [dy.rows(), y.rows()], scalars=[l1, l2], rows=y.shape[0], in_place=True)
            return dx
        g.on_backward(y, [y], backward)                  # met before what made y: it adds to y's gradient


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


SHORTHANDS.update({("activity_regularizer", shorthand): SHORTHANDS["regularizer", shorthand] for shorthand in ("l1", "l2", "l1_l2")})


@spec("kl_sparsity")
class KLSparsity(ActivityRegularizer):
    """weight sum_j KL(rho || rho_j), KL(a || b) = a log(a / b) + (1 - a) log((1 - a) / (1 - b)): every unit j is to be active rarely.

    rho_j is the mean of unit j (of the output's last axis) over the batch and all axes between, so the penalty depends on the batch as a whole
    and is not divided by its size. It is clipped to [1e-7, 1 - 1e-7]; outside of it the penalty has no gradient. Meant for activations in (0, 1).
    rho: the mean to aim at, greater than 0 and less than 1, default 0.05. weight: at least 0, default 0.01. Only as `activity_regularizer`.
    Ng, Sparse autoencoder (CS294A lecture notes, 2011), section 3; after Lee, Ekanadham and Ng, Sparse deep belief net model for visual area V2
    (NIPS 2007).

    >>> round(KLSparsity(rho=0.1, weight=2.0)([[0.1, 0.5], [0.1, 0.9]]), 6)
    1.58832
    """

    rho: float = real(default=0.05, low=0, high=1, low_open=True, high_open=True)
    weight: float = real(default=0.01, low=0)

    def __call__(self, y: Any) -> float:
        """The penalty of outputs (..., J), in float64."""
        y = np.asarray(y, dtype=np.float64)
        means = np.clip(y.reshape(-1, y.shape[-1]).mean(axis=0), CLIP, 1 - CLIP) if y.size else np.empty(0)
        return float(self.weight * (self.rho * np.log(self.rho / means) + (1 - self.rho) * np.log((1 - self.rho) / (1 - means))).sum())

    def lower(self, g: Builder, y: Buffer) -> None:
        """Sums of the units by chunks of rows; penalty and slopes from them; dx = dy + slopes, row by row."""
        if not y.size:
            return
        y2 = y.rows(max(1, len(y.shape) - 1))
        rows, units = y2.shape
        tiling = Tiling(rows, units, g.backend == "cuda", fold=1)
        sums, slopes = g.buffer("activity_sums", tiling.chunks, units), g.buffer("activity_slopes", units)
        g.step("losses.penalty.column_totals", [sums], [y2], scalars=[tiling.chunk], tasks=tiling.tasks(y.size, y.nbytes), flops=y.size)
        g.step("losses.penalty.sparsity", [g.penalty(), slopes], [sums], scratch=[g.scratch("activity_terms", units, dtype="float64")],
               scalars=[rows, self.rho, self.weight, CLIP], flops=40 * units)

        def backward(dy: Buffer) -> Buffer:
            dx = g.buffer("activity_dx", *y.shape)
            g.step("losses.penalty.sparsity_gradient", [dx.rows()], [dy.rows(), slopes], rows=y.shape[0], flops=y.size, in_place=True)
            return dx
        g.on_backward(y, [y], backward)
