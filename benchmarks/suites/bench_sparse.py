"""Kernels on the entries of sparse matrices, on the tape: products, sampled products, edge softmax, largest neighbours, sums of segments."""

import os

import numpy as np

from . import kernels

THREADS = min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
GRAPHS = {"uniform 20k": ("uniform", 20_000), "power 20k": ("power", 20_000), "uniform 200k": ("uniform", 200_000)}


class Products:
    params = (tuple(GRAPHS), (1, 7, 16, 64, 256))
    param_names = ("graph", "features")

    def setup(self, name, features):
        a = kernels.random_graph(*GRAPHS[name])
        x = np.random.default_rng(0).standard_normal((a.shape[1], features), dtype=np.float32)
        self.run, y = kernels.sparse_product(a, x, THREADS)
        self.run(2)
        assert (np.abs(y - a @ x) <= 1e-5 * (abs(a) @ np.abs(x)) + 1e-6).all()

    def time_product(self, name, features):
        self.run(1)


class Entries:
    params = (tuple(GRAPHS), ("entries 16", "entries 64", "softmax 1", "softmax 8", "largest 16", "largest 64", "segments 64"))
    param_names = ("graph", "kernel")

    def setup(self, name, kernel):
        what, width = kernel.split()
        self.run, found, expected = kernels.along_entries(kernels.random_graph(*GRAPHS[name]), what, int(width), THREADS)
        self.run(2)
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-4)

    def time_kernel(self, name, kernel):
        self.run(1)
