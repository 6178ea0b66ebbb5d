"""Regularizers: the penalty, its factors, shorthands, JSON, sparsity of activities, refusals."""

import re

import numpy as np
import pytest

import nnkit.regularizers as regularizers
from helpers import Rig, assert_derivative, assert_same_bits, many_tasks
from nnkit import BatchNormalization, Dense, Input, Sequential
from nnkit.losses.penalty_cpu import column_totals, sparsity
from nnkit.prims.reduce import Tiling
from nnkit.regularizers import L1, L1L2, L2, KLSparsity
from nnkit.spec import from_json, resolve, to_json

W = np.array([[1.0, -2.0, 0.0], [0.5, 3.0, -1.5]])                               # sum|w| = 8, sum w^2 = 16.5


@pytest.mark.parametrize(("regularizer", "l1", "l2", "penalty"), [
    (L1(), 0.01, 0.0, 0.08), (L2(), 0.0, 0.01, 0.165), (L1L2(), 0.0, 0.0, 0.0), (L1(0.3), 0.3, 0.0, 2.4), (L2(0.2), 0.0, 0.2, 3.3),
    (L1L2(0.3, 0.2), 0.3, 0.2, 5.7),
])
def test_penalty_and_factors(regularizer, l1, l2, penalty):
    assert (regularizer.l1, regularizer.l2) == (l1, l2)
    assert regularizer(W) == pytest.approx(penalty, rel=1e-14)                  # a handful of exact float64 terms
    assert regularizer(W.astype(np.float32).reshape(3, 2, 1)) == pytest.approx(penalty, rel=1e-14)
    assert regularizer([]) == 0.0
    assert eval(repr(regularizer), vars(regularizers)) == regularizer
    assert from_json(to_json(regularizer)) == regularizer


def test_shorthands():
    assert resolve("regularizer", "l1") == L1(0.01)
    assert resolve("regularizer", "l2") == L2(0.01)
    assert resolve("regularizer", "l1_l2") == L1L2(0.0, 0.0)
    assert L1(0.1) != L1L2(0.1)
    for name in ("l1", "l2", "l1_l2"):
        assert Dense(3, activity_regularizer=name).activity_regularizer == Dense(3, kernel_regularizer=name).kernel_regularizer
    assert Dense(3, activity_regularizer="kl_sparsity").activity_regularizer == KLSparsity(0.05, 0.01)
    with pytest.raises(ValueError, match=r"^unknown regularizer 'l3': known are l1, l1_l2, l2$"):
        resolve("regularizer", "l3")
    with pytest.raises(ValueError, match=r"^unknown regularizer 'kl_sparsity': known are l1, l1_l2, l2$"):
        Dense(3, kernel_regularizer="kl_sparsity")


# Sparsity of activities.

def divergence(rho, mean):
    return rho * np.log(rho / mean) + (1 - rho) * np.log((1 - rho) / (1 - mean))


def test_sparsity_is_the_divergence_of_the_means():
    y = np.random.default_rng(0).uniform(0.01, 0.99, (5, 2, 3))
    penalty = KLSparsity(0.2, 3.0)
    assert penalty(y) == pytest.approx(sum(3.0 * divergence(0.2, y[:, :, j].mean()) for j in range(3)), rel=1e-14)
    assert penalty(np.full((4, 7), 0.2)) == pytest.approx(0, abs=1e-15)                  # the least
    assert penalty(np.zeros((4, 1))) == pytest.approx(3.0 * divergence(0.2, 1e-7), rel=1e-14)                        # clipped
    assert penalty(np.full((4, 1), 2.0)) == pytest.approx(3.0 * divergence(0.2, 1 - 1e-7), rel=1e-14)
    assert penalty(np.empty((0, 3))) == 0
    assert eval(repr(penalty), vars(regularizers)) == penalty
    assert from_json(to_json(penalty)) == penalty


@pytest.mark.parametrize("mode", ["gradients", "evaluate"])
@pytest.mark.parametrize(("shape", "units", "batch"), [((5,), 3, 7), ((2, 3, 5), 4, 3), ((1,), 1, 1), ((2,), 600, 261), ((0, 2), 3, 4)])
def test_sparsity_counts_into_the_loss(shape, units, batch, mode):
    """Over batch and inner axes; 600 columns are two strips, 261 rows of them five chunks. float32 means round by 6e-8 a few times."""
    network = Sequential([Input(shape), Dense(units, "sigmoid", activity_regularizer=KLSparsity(0.1, 0.7))])
    rng = np.random.default_rng(units)
    parameters = {"dense/kernel": rng.standard_normal((shape[-1], units)), "dense/bias": rng.standard_normal(units) - 2}
    x = rng.standard_normal((batch, *shape))
    y = 1 / (1 + np.exp(-(x @ parameters["dense/kernel"] + parameters["dense/bias"])))
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-5)):
        loss = Rig(network, parameters, batch, dtype=dtype, debug=False).run(x, np.zeros_like(y), mode=mode).loss
        assert loss == pytest.approx(KLSparsity(0.1, 0.7)(y), rel=tolerance, abs=tolerance)


def test_sparsity_where_means_are_clipped():
    """Units whose mean is below 0, above 1, and one between: the penalty is finite, and has a gradient for the last alone."""
    y = np.tile([-0.1, -3.0, 1.1, 5.0, 0.4], (6, 1))
    network = Sequential([Input((5,)), Dense(5, use_bias=False, activity_regularizer=KLSparsity(0.1, 2.0))])
    rig = Rig(network, {"dense/kernel": np.eye(5)}, 6)
    results = rig.run(y, np.zeros((6, 5)))
    assert results.loss == pytest.approx(KLSparsity(0.1, 2.0)(y), rel=1e-14)
    np.testing.assert_array_equal(results.dx[:, :4], 0)
    assert (results.dx[:, 4] > 0).all()
    assert_derivative(lambda: rig.objective(y, np.zeros((6, 5))), y, results.dx, results.loss, np.random.default_rng(0), "input")


def test_nan_shows_in_the_penalty():
    value, slopes, sums = np.zeros(1), np.zeros(2), np.array([[1.0, np.nan]])
    sparsity(0, 1, value, slopes, sums, np.zeros(2), 5, 0.1, 1.0, 1e-7)
    assert np.isnan(value[0])


@pytest.mark.parametrize(("rows", "units"), [(1, 1), (37, 3), (5, 513), (700, 700), (70_001, 2)])
def test_column_totals(rows, units):
    y, tiling = np.random.default_rng(rows).standard_normal((rows, units)), Tiling(rows, units, fold=1)
    found = []
    for tasks in (1, 3):
        sums = np.full((tiling.chunks, units), np.nan)
        for task in range(tasks):
            column_totals(task, tasks, sums, y, tiling.chunk)
        for k, total in enumerate(sums):
            part = y[k * tiling.chunk:(k + 1) * tiling.chunk]
            np.testing.assert_allclose(total, part.sum(axis=0), rtol=0, atol=1e-16 * len(part) * np.abs(part).sum(axis=0).max())
        found.append(sums)
    assert_same_bits(*found)


def test_sparsity_has_the_same_bits_for_any_tasks_and_threads():
    network = Sequential([Input((37,)), Dense(53, "sigmoid", activity_regularizer="kl_sparsity"), Dense(3)])
    rng = np.random.default_rng(0)
    parameters = {name: rng.standard_normal(declared.shape) / 4 for name, declared in network.graph().parameters().items()}
    x, dy = rng.standard_normal((1300, 37)), rng.standard_normal((1300, 3))
    expected = Rig(network, parameters, 1300, dtype="float32", debug=False).run(x, dy)
    with many_tasks():
        for threads in (1, 2):
            found = Rig(network, parameters, 1300, dtype="float32", threads=threads, debug=False).run(x, dy)
            assert found.loss == expected.loss
            assert_same_bits(found.dx, expected.dx)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: L1(-0.1), "L1: l1 must be a finite number at least 0, received -0.1"),
    (lambda: L2("much"), "L2: l2 must be a finite number at least 0, received 'much'"),
    (lambda: L1L2(0.1, float("nan")), "L1L2: l2 must be a finite number at least 0, received nan"),
    (lambda: KLSparsity(0), "KLSparsity: rho must be a finite number greater than 0 and less than 1, received 0.0"),
    (lambda: KLSparsity(1.0), "KLSparsity: rho must be a finite number greater than 0 and less than 1, received 1.0"),
    (lambda: KLSparsity(weight=-1), "KLSparsity: weight must be a finite number at least 0, received -1.0"),
    (lambda: Dense(3, kernel_regularizer=KLSparsity()),
     "Dense: kernel_regularizer must be a regularizer spec or its name or None, received KLSparsity()"),
    (lambda: BatchNormalization(gamma_regularizer=KLSparsity(0.1)),
     "BatchNormalization: gamma_regularizer must be a regularizer spec or its name or None, received KLSparsity(rho=0.1)"),
    (lambda: Dense(3, activity_regularizer=0.1),
     "Dense: activity_regularizer must be an activity_regularizer spec or its name or None, received 0.1"),
])
def test_refusals(make, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        make()
