"""Dropout and noise beyond the case table: their masks number by number, seeds, statistics, refusals."""

import math
import re

import numpy as np
import pytest
from scipy import stats

from helpers import Rig, assert_close, many_tasks
from naive_dropout import draw_mask, draw_noise
from nnkit.layers.dense import Dense
from nnkit.layers.dropout import Dropout, SpatialDropout1D, SpatialDropout2D, SpatialDropout3D, five, runs
from nnkit.layers.noise import GaussianNoise
from nnkit.network import Sequential
from nnkit.plan.build import build
from nnkit.plan.layout import COUNTERS, lay_out
from nnkit.tensors import Input


class Steps(Rig):
    """A rig whose next run counts as training step `step`."""

    step = 0

    def bind(self, *arguments):
        y = super().bind(*arguments)
        self.memory.view(self.layout.buffers["counters"])[COUNTERS["step"]] = self.step
        return y


def rig(layers, shape, batch, **options):
    return Steps(Sequential((Input(shape), *layers)), {}, batch, **options)


def ones(shape, batch):
    return np.ones((batch, *shape)), np.ones((batch, *shape))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.93])
def test_mask_is_the_documented_one(rate, dtype):
    """y and dx of ones are the mask: stream 1, the rig's seed, 16 bits a number."""
    of = rig([Dropout(rate)], (53,), 11, dtype=dtype)
    for step in (0, 5):
        of.step = step
        results = of.run(*ones((53,), 11))
        expected = draw_mask(rate, 11 * 53, of.seed, 1, step).reshape(11, 53).astype(dtype)
        np.testing.assert_array_equal(results.y, expected)
        np.testing.assert_array_equal(results.dx, expected)


def test_seeds_streams_and_steps_differ():
    """A layer's own seed, another seed of the model, another layer, another step: other masks; a seed of its own does not see the model's."""
    def drawn(layers, seed=11, step=0):
        of = rig(layers, (800,), 1, seed=seed)
        of.step = step
        return of.run(*ones((800,), 1)).y != 0
    plain = drawn([Dropout(0.5)])
    large = 5 + (1 << 40)                                # the upper half of a seed counts as well
    others = [drawn([Dropout(0.5)], seed=12), drawn([Dropout(0.5)], step=1), drawn([Dropout(0.5, seed=5)]), drawn([Dropout(0.5)], seed=large),
              drawn([Dropout(0.5)], seed=5 + (1 << 33))]
    for first, second in [(plain, other) for other in others] + [(others[3], others[4])]:
        assert 0.4 < np.mean(first == second) < 0.6      # 800 fair coins: a deviation of 0.1 has probability 1e-8
    np.testing.assert_array_equal(drawn([Dropout(0.5)]), plain)
    np.testing.assert_array_equal(drawn([Dropout(0.5, seed=5)], seed=1), drawn([Dropout(0.5, seed=5)], seed=2))
    np.testing.assert_array_equal(drawn([Dropout(0.5, seed=5)]), drawn([Dropout(0.5)], seed=5))
    both = drawn([Dropout(0.5), Dropout(0.5)])
    assert 0.15 < both.mean() < 0.35


def test_share_of_dropped_numbers():
    """Binomial over 10^5 numbers: five standard deviations are 0.005. No mask repeats itself along rows or columns."""
    for rate in (0.05, 0.5, 0.8):
        kept = rig([Dropout(rate)], (400,), 250, debug=False).run(*ones((400,), 250)).y != 0
        assert abs(1 - kept.mean() - rate) < 5 * math.sqrt(rate * (1 - rate) / kept.size)
        centred = kept - kept.mean()
        spread = 5 / math.sqrt(kept.size)                # a correlation of independent numbers has standard deviation 1 / sqrt(n)
        for lag in range(1, 17):
            assert abs((centred[:, lag:] * centred[:, :-lag]).mean() / kept.var()) < 1.1 * spread
            assert abs((centred[lag:] * centred[:-lag]).mean() / kept.var()) < 1.1 * spread


def test_extreme_rates_are_right_on_average():
    """A rate between two multiples of 2^-16 is one or the other in a step: 65535.5 of them keep 1 in 65536 in half of the steps, else none."""
    of = rig([Dropout(65535.5 / 65536)], (8,), 1, debug=False)
    limits = []
    for step in range(40):
        limits.append(int(65535.5 + draw_fraction(of.seed, step)))
        of.step = step
        y = of.run(*ones((8,), 1)).y
        assert set(np.unique(y)) <= {0.0, 131072.0}
    assert 8 < limits.count(65535) < 32                  # 40 fair coins: outside of it with probability 1e-4, and the seed is fixed


def draw_fraction(seed, step):
    from naive_dropout import draw_words
    return draw_words(seed, 1, 0, 1, step, 0)[0] / 2**32


@pytest.mark.parametrize(("shape", "noise_shape"), [
    ((7, 5), (None, 1, None)), ((7, 5), (None, None, 1)), ((7, 5), (1, None, None)), ((7, 5), (1, 1, None)), ((7, 5), (None, 1, 1)),
    ((3, 4, 5), (None, 1, 4, 1)), ((3, 4, 5), (None, 3, 1, 5)), ((3, 4, 5), (1, 3, 1, 1)), ((2, 3, 2, 3, 2), (None, 2, 1, 2, 1, 2)), ((), (1,)),
    ((1, 5), (None, 1, 5)), ((33,), (None, None)),
])
def test_noise_shape_is_broadcast(shape, noise_shape):
    batch, rate = 9, 0.4
    of = rig([Dropout(rate, noise_shape)], shape, batch)
    x = np.random.default_rng(3).standard_normal((batch, *shape))
    results = of.run(x, np.ones_like(x))
    full = tuple(size if entry is None else entry for entry, size in zip(noise_shape, (batch, *shape), strict=True))
    mask = draw_mask(rate, math.prod(full), of.seed, 1, 0).reshape(full) * np.ones((batch, *shape))
    assert_close(results.y, mask * x, 1e-15)
    np.testing.assert_array_equal(results.dx, mask)


@pytest.mark.parametrize(("cls", "shape"), [(SpatialDropout1D, (7, 5)), (SpatialDropout2D, (3, 4, 6)), (SpatialDropout2D, (2, 3, 1)),
                                            (SpatialDropout3D, (2, 3, 2, 37))])
def test_spatial_dropout_drops_whole_channels(cls, shape):
    """A draw for each channel of each sample, in their order; the same as Dropout with that noise_shape."""
    batch, rate = 9, 0.4
    x = np.random.default_rng(3).standard_normal((batch, *shape))
    results = rig([cls(rate)], shape, batch).run(x, np.ones_like(x))
    mask = draw_mask(rate, batch * shape[-1], 11, 1, 0).reshape(batch, *[1] * len(shape[:-1]), shape[-1]) * np.ones_like(x)
    assert_close(results.y, mask * x, 1e-15)
    np.testing.assert_array_equal(results.dx, mask)
    other = rig([Dropout(rate, (None, *[1] * len(shape[:-1]), None))], shape, batch).run(x, np.ones_like(x))
    np.testing.assert_array_equal(results.y, other.y)


def test_runs():
    assert runs((2, 1, 3), (2, 5, 3)) == [2, 5, 3]
    assert runs((1, 1), (4, 5)) == [1, 20]
    assert runs((1, 4, 1, 5), (1, 4, 1, 5)) == [20]
    assert five([20]) == (1, 1, 1, 1, 20)
    assert five([1, 20]) == (1, 1, 1, 20, 1)
    assert five([2, 5, 3]) == (2, 5, 1, 1, 3)
    assert five([2, 5, 3, 4]) == (2, 5, 3, 4, 1)


def test_tasks_and_dtypes_have_one_mask():
    """Rows cut anywhere: a number's random bits depend on its place alone; float32 and float64 drop the same numbers."""
    x, dy = ones((13,), 61)
    expected = rig([Dropout(0.3)], (13,), 61).run(x, dy).y != 0
    with many_tasks():
        for threads in (1, 2):
            found = rig([Dropout(0.3)], (13,), 61, dtype="float32", threads=threads, debug=False).run(x, dy).y != 0
            np.testing.assert_array_equal(found, expected)


def test_nothing_is_left_in_inference():
    network = Sequential((Input((5,)), Dropout(0.5), GaussianNoise(2.0), Dense(3)))
    graph = network.graph()
    layout = lay_out(graph, None, "float32")
    assert [step.kernel for step in build(graph, layout, "predict", 4).steps if "dropout" in step.kernel or "noise" in step.kernel] == []


def test_noise_is_the_documented_one():
    """Uniform numbers of 24 bits are exact in both types; cosines and logarithms differ by a few roundings of numbers up to 6."""
    for dtype, tolerance in (("float64", 1e-14), ("float32", 1e-6)):
        of = rig([GaussianNoise(0.7)], (13,), 9, dtype=dtype)
        of.step = 3
        x = np.arange(9 * 13).reshape(9, 13) / 64.0
        results = of.run(x, np.ones_like(x))
        expected = x + 0.7 * draw_noise(x.size, of.seed, 1, 3).reshape(x.shape)
        assert_close(results.y, expected, tolerance)
        np.testing.assert_array_equal(results.dx, np.ones_like(x, dtype))


def test_noise_is_normal():
    """Kolmogorov and Smirnov over 10^5 numbers; the seed is fixed, so a p-value above 0.001 stays."""
    e = rig([GaussianNoise(2.5, seed=4)], (1000,), 100, debug=False).run(np.zeros((100, 1000)), np.zeros((100, 1000))).y.ravel()
    assert stats.kstest(e / 2.5, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(e[:-1], e[1:])[0, 1]) < 5 / math.sqrt(e.size)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Dropout(1.0), "Dropout: rate must be a finite number at least 0 and less than 1, received 1.0"),
    (lambda: Dropout(-0.1), "Dropout: rate must be a finite number at least 0 and less than 1, received -0.1"),
    (lambda: Dropout(0.5, seed=-1), "Dropout: seed must be a whole number at least 0 or None, received -1"),
    (lambda: Dropout(0.5, noise_shape=(None, 2)).output_shape((3,)),
     "Dropout: noise_shape must have an entry for the batch (None or 1) and for every axis of a sample of shape (3,) (None, 1 or its size), "
     "received (None, 2)"),
    (lambda: Dropout(0.5, noise_shape=(None,)).output_shape((3,)),
     "Dropout: noise_shape must have an entry for the batch (None or 1) and for every axis of a sample of shape (3,) (None, 1 or its size), "
     "received (None,)"),
    (lambda: Dropout(0.5, noise_shape=(32, 3)).output_shape((3,)),
     "Dropout: noise_shape must have an entry for the batch (None or 1) and for every axis of a sample of shape (3,) (None, 1 or its size), "
     "received (32, 3)"),
    (lambda: SpatialDropout2D(1.0), "SpatialDropout2D: rate must be a finite number at least 0 and less than 1, received 1.0"),
    (lambda: SpatialDropout1D(0.5).output_shape((3,)), "SpatialDropout1D needs samples of 2 axes (steps, channels), received samples of shape (3,)"),
    (lambda: SpatialDropout3D(0.5, seed=-1), "SpatialDropout3D: seed must be a whole number at least 0 or None, received -1"),
    (lambda: GaussianNoise(-1), "GaussianNoise: stddev must be a finite number at least 0, received -1.0"),
])
def test_refusals(make, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        make()
