"""Pooling, padding, cropping and upsampling in PyTorch and in Keras: the rows of the case table. Skipped where these are not installed.

Then layers drawn at random, on images and volumes as well; chains that hold some: test_parity.py.
"""

import numpy as np
import pytest

import cases_pool
import cases_resample
from helpers import Rig
from nnkit.network import Sequential
from nnkit.tensors import Input
from parity_draw import over_places, pick

ROWS = [case for case in cases_pool.CASES + cases_resample.CASES if len(case.layers) == 1 and 0 not in case.shape]
quiet = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
TOLERANCE = 1e-13                                        # float64: a few hundred sums at most


def known_to_keras(case):
    """It pads a pooling by words alone, and its averages on PyTorch count what 'same' adds (on TensorFlow they do not)."""
    padding = getattr(case.layers[0], "padding", "valid")
    return "pooling" not in case.id or padding == "valid" or (padding == "same" and case.id.startswith("max"))


KERAS_ROWS = [case for case in ROWS if known_to_keras(case)]


def assert_parity(layer, shape, batch, run):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((batch, *shape))
    dy = rng.standard_normal((batch, *layer.output_shape(shape)))
    y, dx = run(layer, x, dy)
    found = Rig(Sequential((Input(shape), layer)), {}, batch, debug=False).run(x, dy)
    np.testing.assert_allclose(found.y, y, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found.dx, dx, rtol=0, atol=TOLERANCE * max(1, np.abs(dx).max()))


@pytest.mark.parametrize("case", ROWS, ids=[case.id for case in ROWS])
def test_torch(case):
    pytest.importorskip("torch")
    from parity_torch import run_layer
    assert_parity(case.layers[0], case.shape, case.batch, run_layer)


@quiet
@pytest.mark.parametrize("case", KERAS_ROWS, ids=[case.id for case in KERAS_ROWS])
def test_keras(case):
    from parity_keras import run_layer
    assert_parity(case.layers[0], case.shape, case.batch, run_layer)


def drawn(number):
    """A layer, and a shape that it takes."""
    rng = np.random.default_rng([1, number])
    shape = (*(pick(rng, [1, 2, 3, 5, 8]) for _ in range(pick(rng, [1, 2, 2, 3]))), pick(rng, [1, 2, 3, 7, 17, 65]))
    return over_places(rng, shape), shape, pick(rng, [1, 2, 9])


@pytest.mark.parametrize("block", range(10))
def test_drawn_in_torch(block):
    pytest.importorskip("torch")
    from parity_torch import run_layer
    for number in range(30 * block, 30 * (block + 1)):
        assert_parity(*drawn(number), run_layer)


@quiet
@pytest.mark.parametrize("block", range(10))
def test_drawn_in_keras(block):
    from parity_keras import run_layer
    for number in range(30 * block, 30 * (block + 1)):
        assert_parity(*drawn(number), run_layer)
