"""Sampling beyond the case table: its noise number by number, the divergence, gradients under one draw, what evaluation and prediction do."""

import math
import re

import numpy as np
import pytest
from scipy import integrate, stats

import nnkit.models
from helpers import Rig, assert_close, assert_derivative, assert_same_bits, many_tasks
from naive_sampling import divergence, draw_normals
from nnkit import Dense, GaussianNoise, Input, Network, Sampling
from nnkit.layers.sampling_cpu import kl_divergence
from nnkit.plan.builder import PENALTY_BLOCK
from nnkit.plan.layout import COUNTERS


def network_of(shape, layer, before=()):
    """mean and log_variance, (N, *shape) each, -> z; `before`: layers on the mean."""
    mean, log_variance = Input(shape), Input(shape)
    h = mean
    for other in before:
        h = other(h)
    return Network([mean, log_variance], layer([h, log_variance]))


class Draws(Rig):
    """A rig of `network_of` at training step `step`."""

    def __init__(self, F, batch, layer=None, *, step=0, before=(), **options):
        self.step = step
        super().__init__(network_of((F,), layer or Sampling(), before), {}, batch, **options)

    def bind(self, *arguments):
        ys = super().bind(*arguments)
        self.memory.view(self.layout.buffers["counters"])[COUNTERS["step"]] = self.step
        return ys


def data_of(F, batch):
    """(mean, log_variance), dLoss/dz."""
    rng = np.random.default_rng([F, batch])
    return (rng.standard_normal((batch, F)), rng.standard_normal((batch, F))), rng.standard_normal((batch, F))


# The noise.

@pytest.mark.parametrize(("F", "batch"), [(1, 1), (3, 7), (20, 9), (5, 211)])            # 211 x 5 numbers fill two blocks of 512 and a part
def test_noise_of_training_is_the_documented_one(F, batch):
    """Uniform numbers of 24 bits are exact in both types; the rest is a few roundings of numbers up to 20."""
    (mean, log_variance), dz = data_of(F, batch)
    for dtype, tolerance in (("float64", 1e-14), ("float32", 1e-6)):
        rig = Draws(F, batch, dtype=dtype, step=3)
        e = draw_normals((batch, F), rig.seed, 1, step=3)
        assert_close(rig.run((mean, log_variance), dz).y, mean + np.exp(log_variance / 2) * e, tolerance)


def evaluated(F, x, batch, dtype="float64", **options):
    """z in evaluation of the data set x = (mean, log_variance), in batches."""
    rig = Draws(F, batch, dtype=dtype, loss=nnkit.MeanSquaredError(), **options)
    N = len(x[0])
    z = np.full((N, F), np.nan, dtype)
    rig.bind("evaluate", x, np.zeros((N, F)), np.zeros(N))
    rig.tape("evaluate").bind({"predictions": z})
    rig.tape("evaluate").run(N // batch)
    return z


@pytest.mark.parametrize("F", [1, 3, 4, 130])
def test_noise_of_evaluation_counts_the_samples_of_the_data(F):
    """z of a sample depends on its place in the data alone, not on the batch that it comes in, nor on the step: the very bits."""
    x, _ = data_of(F, 60)
    mean, log_variance = x
    whole = evaluated(F, x, 60)
    assert_close(whole, mean + np.exp(log_variance / 2) * draw_normals((60, F), 11, 1, evaluation=1), 1e-14)
    single = evaluated(F, x, 60, "float32")
    for batch in (1, 4, 30):
        assert_same_bits(evaluated(F, x, batch, step=5), whole)
        assert_same_bits(evaluated(F, x, batch, "float32"), single)


def test_noise_is_normal():
    """Kolmogorov and Smirnov, moments and correlations of 10^5 numbers; the seed is fixed. The k-th moment's spread is sqrt(mean e^2k / n)."""
    x = np.zeros((1000, 100)), np.zeros((1000, 100))
    for e in (Draws(100, 1000, debug=False).run(x, x[0]).y, evaluated(100, x, 100, debug=False)):
        e, n = e.ravel(), e.size
        assert stats.kstest(e, "norm").pvalue > 1e-3
        for power, exact, spread in ((1, 0, 1), (2, 1, math.sqrt(2)), (3, 0, math.sqrt(15)), (4, 3, math.sqrt(96))):
            assert abs((e**power).mean() - exact) < 5 * spread / math.sqrt(n)
        for lag in (1, 2, 3, 4, 100):                                                    # neighbours, one block of Philox, the next sample
            assert abs((e[lag:] * e[:-lag]).mean()) < 5 / math.sqrt(n)


def test_seeds_streams_steps_and_modes_differ():
    """Other noise altogether: correlations of 800 numbers, whose standard deviation is 0.035."""
    zeros = np.zeros((8, 100))

    def drawn(layer=None, mode="gradients", **options):
        return Draws(100, 8, layer, **options).run((zeros, zeros), zeros, mode=mode).y.ravel()

    found = [drawn(), drawn(step=1), drawn(seed=12), drawn(seed=11 + (1 << 40)), drawn(Sampling(seed=5)), drawn(mode="evaluate"),
             drawn(before=[GaussianNoise(1e-9)])]                                        # the noise takes the first stream
    for i, first in enumerate(found):
        for second in found[:i]:
            assert abs(np.corrcoef(first, second)[0, 1]) < 0.18
    np.testing.assert_array_equal(drawn(Sampling(seed=5), seed=1), drawn(Sampling(seed=5), seed=2))
    np.testing.assert_array_equal(drawn(Sampling(seed=11)), drawn())


def test_tasks_threads_and_batches_change_no_bit():
    x, dz = data_of(13, 61)
    expected, evaluation = Draws(13, 61, dtype="float32", debug=False).run(x, dz), evaluated(13, x, 61, "float32")
    with many_tasks():
        for threads in (1, 2):
            found = Draws(13, 61, dtype="float32", threads=threads, debug=False).run(x, dz)
            assert_same_bits(found.y, expected.y)
            assert_same_bits(found.dx[0], expected.dx[0])
            assert_same_bits(found.dx[1], expected.dx[1])
            assert found.loss == expected.loss
            assert_same_bits(evaluated(13, x, 61, "float32", threads=threads, debug=False), evaluation)


# The divergence.

@pytest.mark.parametrize("mode", ["gradients", "evaluate"])
@pytest.mark.parametrize(("F", "batch", "beta"), [(1, 1, 1.0), (3, 7, 0.25), (20, 9, 4.0)])
def test_divergence(F, batch, beta, mode):
    """float64: a few roundings; float32: terms round by 6e-8 of the largest, 1 to 10 here, times beta."""
    x, dz = data_of(F, batch)
    expected = beta / batch * divergence(*x).sum()
    assert Draws(F, batch, Sampling(beta)).run(x, dz, mode=mode).loss == pytest.approx(expected, rel=1e-13, abs=1e-13)
    assert Draws(F, batch, Sampling(beta), dtype="float32").run(x, dz, mode=mode).loss == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_divergence_is_what_it_says():
    """The closed form against the integral of p log(p / q)."""
    for mean, log_variance in ((0.0, 0.0), (1.5, -0.7), (-0.2, 1.1)):
        p, q = stats.norm(mean, math.exp(log_variance / 2)), stats.norm()
        integral = integrate.quad(lambda t, p=p, q=q: p.pdf(t) * (p.logpdf(t) - q.logpdf(t)), -20, 20)[0]
        assert divergence(np.array(mean), np.array(log_variance)) == pytest.approx(integral, abs=1e-9)      # quad's error is below 1e-8


@pytest.mark.parametrize("size", [1, 511, 513, PENALTY_BLOCK, 2 * PENALTY_BLOCK + 517])
def test_divergence_in_blocks(size):
    rng = np.random.default_rng(size)
    mean, log_variance = rng.standard_normal((2, size))
    values = np.full(max(1, -(-size // PENALTY_BLOCK)), np.nan)
    for task in range(2):
        kl_divergence(task, 2, values, mean, log_variance, 0.5, PENALTY_BLOCK)
    for k, value in enumerate(values):
        part = slice(k * PENALTY_BLOCK, (k + 1) * PENALTY_BLOCK)
        assert value == pytest.approx(0.5 * divergence(mean[part], log_variance[part]).sum(), rel=1e-12)    # 3e4 roundings of 1e-16, all positive


def test_large_batches_are_added_block_by_block():
    x, dz = data_of(331, 203)                                                            # three blocks
    rig = Draws(331, 203, debug=False)
    assert [step.kernel.rpartition(".")[2] for step in rig.tape("evaluate").plan.steps if "penalt" in step.kernel] == ["penalty_total"]
    assert rig.run(x, dz).loss == pytest.approx(divergence(*x).sum() / 203, rel=1e-12)


@pytest.mark.parametrize("value", [-80.0, -30.0, -1e-4, 0.0, 1e-4, 30.0, 80.0])
def test_extreme_variances_stay_finite(value):
    """e^80 = 5.5e34 fits into float32: z, divergence and gradients are those of float64, to a few roundings of 6e-8 (of 40: e^40 has as many)."""
    x = np.full((5, 3), 0.75), np.full((5, 3), value)
    double, single = Draws(3, 5).run(x, np.ones((5, 3))), Draws(3, 5, dtype="float32").run(x, np.ones((5, 3)))
    assert double.loss == pytest.approx(3 * divergence(0.75, value), rel=1e-12)
    assert single.loss == pytest.approx(double.loss, rel=3e-6)
    np.testing.assert_allclose(single.y, double.y, rtol=3e-6)
    for a, b in zip(single.dx, double.dx, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=3e-6, atol=1e-6)


def test_no_beta_no_divergence():
    x, dz = data_of(3, 4)
    rig = Draws(3, 4, Sampling(0.0))
    results = rig.run(x, dz)
    assert results.loss == 0
    assert [kernel for kernel in rig.tape("gradients").plan.kernels if "sampling" in kernel] == [
        "layers.sampling.sampling_forward", "layers.sampling.sampling_backward_log_variance"]
    np.testing.assert_array_equal(results.dx[0], dz)                                     # dmean = dz


def test_one_tensor_may_be_both_inputs():
    x = Input((5,))
    h = Dense(3)(x)
    network, rng = Network(x, Sampling(0.7)([h, h])), np.random.default_rng(0)
    rig = Rig(network, {"dense/kernel": rng.standard_normal((5, 3)), "dense/bias": np.zeros(3)}, 4)
    x, dz = rng.standard_normal((4, 5)), rng.standard_normal((4, 3))
    results = rig.run(x, dz)
    assert_derivative(lambda: rig.objective(x, dz), x, results.dx, float(np.abs(dz * results.y).sum()) + results.loss, rng, "input")


# In a model.

def test_prediction_is_the_mean():
    rig = Draws(3, 5)
    x, _ = data_of(3, 5)
    np.testing.assert_array_equal(rig.predict(x), x[0])
    assert rig.tape("predict").plan.kernels == ("prims.feed.gather_rows", "prims.feed.scatter", "prims.feed.advance")
    assert "x1" not in rig.tape("predict").plan.buffers                                  # log_variance is not even fetched


def test_a_model_reports_both_parts_and_evaluates_alike_in_any_batches():
    """The sum of the parts is the loss; batches of 7 and 64 of 64 samples only add in another order (float64 sums of float32 losses)."""
    x = np.random.default_rng(0).random((64, 6)).astype(np.float32)
    model = nnkit.compile(nnkit.models.vae(6, hidden=(8,), latent=2), optimizer="adam", loss="binary_crossentropy", seed=3)
    history = model.fit(x, x, epochs=3, batch_size=16, verbose=0, validation_data=(x, x))
    assert set(history.keys()) == {f"{side}{part}" for side in ("", "val_") for part in ("loss", "reconstruction_loss", "kl_loss")}
    found = model.evaluate(x, x)
    assert found["loss"] == pytest.approx(found["reconstruction_loss"] + found["kl_loss"], rel=1e-12)
    assert found == model.evaluate(x, x)
    for key, value in model.evaluate(x, x, batch_size=7).items():
        assert value == pytest.approx(found[key], rel=1e-6)
    assert found["loss"] == history["val_loss"][-1]


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: Sampling(-1), ValueError, "Sampling: beta must be a finite number at least 0, received -1.0"),
    (lambda: Sampling(float("nan")), ValueError, "Sampling: beta must be a finite number at least 0, received nan"),
    (lambda: Sampling(seed=-1), ValueError, "Sampling: seed must be a whole number at least 0 or None, received -1"),
    (lambda: Sampling()([Input((3,), name="mean"), Input((4,), name="log_variance")]), ValueError,
     "layer 'sampling' cannot take mean and log_variance: Sampling: mean and log_variance must have one shape, received (3,) and (4,)"),
    (lambda: Sampling()(Input((3,), name="mean")), ValueError, "layer 'sampling' cannot take mean: it needs 2 inputs, received 1"),
])
def test_refusals(make, error, message):
    with pytest.raises(error, match="^" + re.escape(message) + "$"):
        make()
