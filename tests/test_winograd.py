"""Winograd's convolution: its matrices, and the error that its docstring states."""

import numpy as np
import pytest

from helpers import Rig
from nnkit import Conv2D, Input, Sequential
from nnkit.prims.winograd import matrices

# Largest error in float32, relative to the largest number: what prims/winograd.py states, and of dW and dx likewise (each is a sum of 4,000 to 5,000
# products, which `direct` forms with 1e-6).
BOUNDS = {"direct": 2e-6, "winograd2": 2e-6, "winograd4": 1e-5}


@pytest.mark.parametrize("m", [2, 4])
def test_matrices_are_exact(m):
    """A^T [(G w) * (B^T x)] is the convolution of any w of 3 and x of m + 2 numbers: so for every pair of unit vectors, in fractions."""
    AT, G, BT = matrices(m)
    for i in range(m):
        for k in range(3):
            for j in range(m + 2):
                found = sum(AT[i][place] * G[place][k] * BT[place][j] for place in range(m + 2))
                assert found == (j == i + k)


def products(algorithm, dtype, N, size, C, O):
    """y, dx, dW of one layer on data as in a network: x >= 0, He's weights."""
    network = Sequential((Input((size, size, C)), Conv2D(O, 3, padding="same", use_bias=False, algorithm=algorithm)))
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3, 3, C, O)).astype(np.float32) * np.float32((2 / (9 * C)) ** 0.5)
    x = np.maximum(rng.standard_normal((N, size, size, C)), 0).astype(np.float32)
    dy = rng.standard_normal((N, size, size, O)).astype(np.float32)
    results = Rig(network, {"conv2d/kernel": weight}, N, dtype=dtype, debug=False).run(x, dy)
    return results.y, results.dx, results.gradients["conv2d/kernel"]


@pytest.mark.parametrize("algorithm", list(BOUNDS))
@pytest.mark.parametrize(("N", "size", "C", "O"), [(2, 13, 64, 48), (1, 14, 512, 96), (3, 27, 40, 70)])
def test_error(algorithm, N, size, C, O):
    expected = products("taps", "float64", N, size, C, O)
    for found, exact in zip(products(algorithm, "float32", N, size, C, O), expected, strict=True):
        assert np.abs(found - exact).max() < BOUNDS[algorithm] * np.abs(exact).max()
