"""Single kernels on the tape: matrix products, activations and their gradients, optimizer steps."""

import os

import numpy as np

from . import kernels

THREADS = min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
GRADIENTS = [f"{name} gradient" for name in kernels.ACTIVATIONS]


class Products:
    params = ((32, 64, 256, 1024), (1, 2))
    param_names = ("n", "threads")

    def setup(self, n, threads):
        if threads > THREADS:
            raise NotImplementedError("fewer processors than threads")    # asv's word for: skip
        self.run, c, expected = kernels.product(n, threads)
        self.run(2)
        # float32 sums of n products of about unit size: error of about sqrt(n) units of the last place of sqrt(n).
        assert np.abs(c - expected).max() < 1e-6 * n

    def time_product(self, n, threads):
        self.run(1)


class Activations:
    """On 8,192 elements, which stay in cache, and on 4 M, which do not."""

    params = ((1 << 13, 1 << 22), ("copy", *kernels.ACTIVATIONS, *GRADIENTS))
    param_names = ("elements", "kernel")

    def setup(self, elements, kernel):
        rng = np.random.default_rng(0)
        x, dy = (rng.standard_normal((elements // 64, 64), dtype=np.float32) for _ in range(2))
        names = [name for name in kernels.ACTIVATIONS if name in (kernel, kernel.removesuffix(" gradient"))]
        self.run, result = kernels.activations(x, dy, THREADS if elements > 1 << 20 else 1, names)[kernel]
        result[...] = np.nan
        self.run(2)
        assert np.isfinite(result).all()

    def time_pass(self, elements, kernel):
        self.run(1)


class OptimizerSteps:
    params = ((3457, 10_000_000), tuple(kernels.OPTIMIZERS))
    param_names = ("parameters", "optimizer")

    def setup(self, parameters, optimizer):
        rng = np.random.default_rng(0)
        p, g = (rng.standard_normal(parameters, dtype=np.float32) for _ in range(2))
        self.run, result = kernels.optimizers(p, g, THREADS if parameters > 10**6 else 1, [optimizer])[optimizer]
        self.run(2)
        moved = result - p
        assert np.isfinite(moved).all()
        assert (moved[np.abs(g) > 0.1] * g[np.abs(g) > 0.1] < 0).mean() > 0.95

    def time_step(self, parameters, optimizer):
        self.run(1)
