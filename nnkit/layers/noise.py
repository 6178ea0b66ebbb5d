"""Noise as a regularizer. Kernels: noise_cpu.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nnkit.layers.base import Layer
from nnkit.spec import integer, real, spec

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["GaussianNoise"]


@spec()
class GaussianNoise(Layer):
    """In training y = x + e, e normal with mean 0 and standard deviation `stddev`; in inference y = x, without a step.

    stddev: at least 0; 0 adds nothing. seed: whole number of at least 0 for noise that does not depend on the model's seed; None (default)
    takes the model's. The noise is a pure function of seed, layer, step and place, the same for any number of threads.
    """

    keeps_mask: ClassVar[bool] = True

    stddev: float = real(low=0)
    seed: int | None = integer(default=None, low=0, none=True)

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """y = x + noise; backward: dx = dy, without a step."""
        (x,) = xs
        if not g.training or self.stddev == 0 or x.size == 0:
            return x
        y = g.buffer("noisy", *x.shape)
        seed = -1 if self.seed is None else self.seed
        g.step("layers.noise.gaussian_noise_forward", [y.rows()], [x.rows(), g.state("counters")], scalars=(self.stddev, g.stream(), seed),
               rows=x.shape[0], in_place=True)
        g.on_backward(y, [x], lambda dy: dy)
        return y
