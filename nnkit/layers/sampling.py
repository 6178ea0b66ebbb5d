"""The random layer of variational autoencoders. Kernels: sampling_cpu.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nnkit.layers.base import Layer, Shape
from nnkit.spec import integer, real, spec

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["Sampling"]

ELEMENT_FLOPS = 60                                       # what a normal number, an exponential and the arithmetic around them cost


@spec()
class Sampling(Layer):
    """z = mean + exp(log_variance / 2) e, e standard normal: a draw through which gradients pass. Called on [mean, log_variance].

    In training and evaluation it adds the Kullback-Leibler divergence from N(mean, exp(log_variance)) to N(0, 1) to the loss,
    beta / N sum over all numbers of (mean^2 + exp(log_variance) - 1 - log_variance) / 2 with N the size of the batch, which is reported as
    "kl_loss" beside the reconstruction's loss: together they are the negative evidence lower bound. Sample weights do not count in it.
    In prediction z = mean, and nothing is drawn or added.

    beta: at least 0, default 1; 0 adds no divergence. Where the reconstruction's loss is a mean over D numbers of a sample, the bound needs
    beta = 1 / D: `nnkit.models.vae` does that. seed: whole number of at least 0 for noise that does not depend on the model's seed; None
    (default) takes the model's. The noise is a pure function of seed, layer and, in training, step and place in the batch; in evaluation, of
    the sample's place in the data: so it does not depend on the batch size, and is the same in every evaluation.
    Inputs (N, ...) and (N, ...) of one shape, output (N, ...). Raises ValueError where the shapes differ.
    Kingma and Welling, Auto-Encoding Variational Bayes, ICLR 2014, section 2.4 and appendix B; beta: Higgins et al., beta-VAE, ICLR 2017.

    >>> Sampling().output_shape((20,), (20,))
    (20,)
    """

    arity: ClassVar[tuple[int, int | None]] = (2, 2)

    beta: float = real(default=1.0, low=0)
    seed: int | None = integer(default=None, low=0, none=True)

    def output_shape(self, *shapes: Shape) -> Shape:
        """The inputs'."""
        mean, log_variance = shapes
        if mean != log_variance:
            raise ValueError(f"Sampling: mean and log_variance must have one shape, received {mean} and {log_variance}")
        return mean

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """The divergence, then z; backward: dmean and dlog_variance from dz and z, so that no noise is drawn again."""
        mean, log_variance = xs
        if g.mode == "predict":
            return mean
        scale, rows = self.beta / g.batch, mean.shape[0]
        if self.beta:
            g.add_blocks("layers.sampling.kl_divergence", [mean.flat(), log_variance.flat()], [scale], name="kl", flops=20 * mean.size)
        z = g.buffer("z", *mean.shape)
        seed = -1 if self.seed is None else self.seed
        g.step("layers.sampling.sampling_forward", [z.rows()], [mean.rows(), log_variance.rows(), g.state("counters")],
               scalars=[g.stream(), seed, int(g.mode == "evaluate")], rows=rows, flops=ELEMENT_FLOPS * mean.size)

        def backward(dz: Buffer) -> tuple[Buffer, Buffer]:
            dlog_variance = g.buffer("dlog_variance", *mean.shape)
            g.step("layers.sampling.sampling_backward_log_variance", [dlog_variance.rows()], [dz.rows(), z.rows(), mean.rows(), log_variance.rows()],
                   scalars=[scale], rows=rows, flops=20 * mean.size)
            if not self.beta:
                return dz, dlog_variance
            dmean = g.buffer("dmean", *mean.shape)
            g.step("layers.sampling.sampling_backward_mean", [dmean.rows()], [dz.rows(), mean.rows()], scalars=[scale], rows=rows,
                   flops=2 * mean.size, in_place=True)
            return dmean, dlog_variance
        g.on_backward(z, [mean, log_variance], backward)
        return z
