"""What the case table cannot express: moving averages, large inputs that are cut into chunks, hard numbers, messages."""

import re

import numpy as np
import pytest

import nnkit
from helpers import Rig, assert_close, assert_same_bits, many_tasks
from nnkit import Dense, Input, Sequential
from nnkit.layers.norm import BatchNormalization, LayerNormalization
from nnkit.layers.prelu import PReLU
from nnkit.regularizers import L1L2

RELATIVE = 1e-11            # float64, sums of up to 40,000 terms in another order than the reference's: 200 roundings of 1e-16 on average


def rig_of(layer, shape, batch, dtype="float64", threads=1):
    network = Sequential((Input(shape), layer))
    rng = np.random.default_rng(5)
    values = {name: rng.uniform(0.5, 1.5, declared.shape) for name, declared in network.graph().parameters().items()}
    return Rig(network, values, batch, dtype=dtype, threads=threads, debug=False)


def moments(x, axis):
    mean = x.mean(axis=axis, keepdims=True)
    return mean, ((x - mean) ** 2).mean(axis=axis, keepdims=True)


# Moving averages.

@pytest.mark.parametrize("axis", [-1, 1])
def test_training_moves_the_moving_averages(axis):
    """moving = momentum moving + (1 - momentum) batch, with the biased variance; twice, since the first step starts at 0 and 1."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(2.0, 3.0, (6, 4, 5)), rng.normal(size=(6, 4, 5))
    layer = BatchNormalization(axis, momentum=0.7, name="norm")
    model = nnkit.compile(Sequential((Input((4, 5)), layer)), optimizer="sgd", loss="mean_squared_error", dtype="float64")
    mean, variance = moments(x, (0, 1) if axis == -1 else (0, 2))
    expected_mean, expected_variance = np.zeros(mean.size), np.ones(mean.size)
    for _ in range(2):
        model.train_on_batch(x, y)
        expected_mean = 0.7 * expected_mean + 0.3 * mean.ravel()
        expected_variance = 0.7 * expected_variance + 0.3 * variance.ravel()
        assert_close(model.parameters["norm/moving_mean"], expected_mean, RELATIVE)
        assert_close(model.parameters["norm/moving_variance"], expected_variance, RELATIVE)
    shape = mean.shape[1:]
    gamma, beta = (model.parameters[f"norm/{name}"].reshape(shape) for name in ("gamma", "beta"))
    expected = gamma * (x - expected_mean.reshape(shape)) / np.sqrt(expected_variance.reshape(shape) + 1e-3) + beta
    assert_close(model.predict(x), expected, RELATIVE)


def test_only_training_moves_them():
    rng = np.random.default_rng(1)
    x, y = rng.normal(2.0, 3.0, (6, 4)), rng.normal(size=(6, 4))
    for layer, moves in ((BatchNormalization(name="norm"), True), (BatchNormalization(name="norm", trainable=False), False)):
        model = nnkit.compile(Sequential((Input((4,)), layer, Dense(4))), optimizer="sgd", loss="mean_squared_error")
        before = {name: value.copy() for name, value in model.parameters.items()}
        model.gradients(x, y)
        model.evaluate(x, y)
        model.predict(x)
        for name, value in model.parameters.items():
            assert_same_bits(value, before[name], name)
        model.train_on_batch(x, y)
        for name in ("norm/moving_mean", "norm/moving_variance", "norm/gamma"):
            assert (model.parameters[name] != before[name]).any() == moves, name


# Large inputs.

LARGE = {
    "narrow": ((3,), 40_001, -1),                        # a tile of 32 rows, three chunks, rows left over
    "wide": ((600,), 201, -1),                           # two strips of columns, three chunks
    "one-channel": ((1,), 70_003, -1),
    "inner": ((5, 1000), 31, 1),
}


@pytest.mark.parametrize("name", LARGE)
def test_batch_normalization_of_large_inputs(name):
    shape, batch, axis = LARGE[name]
    rng = np.random.default_rng(2)
    x = rng.normal(1.0, 2.0, (batch, *shape))
    dy = rng.normal(size=x.shape)
    rig = rig_of(BatchNormalization(axis, name="norm"), shape, batch)
    found = rig.run(x, dy)
    cells = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    mean, variance = moments(x, cells)
    rstd = 1 / np.sqrt(variance + 1e-3)
    gamma, beta = (rig.parameters[f"norm/{p}"].reshape(mean.shape[1:]) for p in ("gamma", "beta"))
    xhat = (x - mean) * rstd
    g = dy * gamma
    assert_close(found.y, xhat * gamma + beta, RELATIVE)
    assert_close(found.dx, rstd * (g - g.mean(axis=cells, keepdims=True) - xhat * (g * xhat).mean(axis=cells, keepdims=True)), RELATIVE)
    assert_close(found.gradients["norm/gamma"], (dy * xhat).sum(axis=cells), RELATIVE)
    assert_close(found.gradients["norm/beta"], dy.sum(axis=cells), RELATIVE)


@pytest.mark.parametrize("shape", [(40, 7), (3, 600)])
def test_layer_normalization_of_large_inputs(shape):
    rng = np.random.default_rng(3)
    x = rng.normal(1.0, 2.0, (311, *shape))
    dy = rng.normal(size=x.shape)
    found = rig_of(LayerNormalization(name="norm"), shape, 311).run(x, dy)
    mean, variance = moments(x, -1)
    xhat = (x - mean) / np.sqrt(variance + 1e-3)
    assert_close(found.gradients["norm/gamma"], (dy * xhat).sum(axis=(0, 1)), RELATIVE)
    assert_close(found.gradients["norm/beta"], dy.sum(axis=(0, 1)), RELATIVE)


@pytest.mark.parametrize(("shape", "shared", "batch"), [((3,), None, 40_001), ((600,), None, 201), ((50, 7), (1,), 301), ((7, 50), (2,), 301)])
def test_prelu_of_large_inputs(shape, shared, batch):
    rng = np.random.default_rng(4)
    x, dy = rng.normal(size=(batch, *shape)), rng.normal(size=(batch, *shape))
    found = rig_of(PReLU(shared_axes=shared, name="prelu"), shape, batch).run(x, dy)
    expected = (dy * np.minimum(x, 0)).sum(axis=(0, *(shared or ())), keepdims=True)[0]
    assert_close(found.gradients["prelu/alpha"], expected, RELATIVE)


def test_large_penalties():
    """A weight and an activity of several blocks, with a ragged last one; activities count once for each sample."""
    rng = np.random.default_rng(5)
    penalty = L1L2(0.3, 0.2)
    layer = Dense(700, kernel_regularizer=penalty, activity_regularizer=penalty, name="dense")
    rig = rig_of(layer, (101,), 64)
    x, dy = rng.normal(size=(64, 101)), rng.normal(size=(64, 700))
    found = rig.run(x, dy)
    weight = rig.parameters["dense/kernel"]
    y = x @ weight + rig.parameters["dense/bias"]
    assert_close(found.loss, penalty(weight) + penalty(y) / 64, RELATIVE)
    full = dy + (0.3 * np.sign(y) + 0.4 * y) / 64
    assert_close(found.gradients["dense/kernel"], x.T @ full + 0.3 * np.sign(weight) + 0.4 * weight, RELATIVE)


@pytest.mark.parametrize(("layer", "shape", "batch"), [
    (BatchNormalization(), (3,), 40_001), (BatchNormalization(), (600,), 201), (BatchNormalization(1), (5, 1000), 31),
    (LayerNormalization(), (600,), 201), (PReLU(), (600,), 201), (PReLU(shared_axes=1), (50, 7), 301),
    (Dense(700, kernel_regularizer="l2", activity_regularizer="l1"), (101,), 64)],
    ids=["narrow", "wide", "inner", "layer", "prelu", "prelu-shared", "penalties"])
def test_tasks_change_no_bit_of_large_inputs(layer, shape, batch):
    """Several chunks and strips; the case table's inputs are of one chunk."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(batch, *shape))
    dy = rng.normal(size=(batch, *layer.output_shape(shape)))
    expected = rig_of(layer, shape, batch, "float32").run(x, dy)
    with many_tasks():
        for threads in (1, 2):
            rig = rig_of(layer, shape, batch, "float32", threads)
            assert any(step.tasks > 1 for step in rig.tape("gradients").plan.steps if not step.rows)
            found = rig.run(x, dy)
            assert found.loss == expected.loss
            for first, second in ((found.y, expected.y), (found.dx, expected.dx)):
                assert_same_bits(first, second)
            for name, value in found.gradients.items():
                assert_same_bits(value, expected.gradients[name], name)


# Hard numbers.

@pytest.mark.parametrize("layer", [BatchNormalization(), BatchNormalization(1), LayerNormalization()], ids=["last", "inner", "layer"])
def test_a_large_mean_costs_no_precision(layer):
    """x = 10^4 + noise of size 1, in float32. E[x^2] - E[x]^2 would lose all digits of the variance: 10^8 rounds by 4.

    The reference sees the same rounded x. What remains is the rounding of the mean, at most one unit in the last place of 10^4, 9.8e-4, over the
    standard deviation, at least 0.7.
    """
    rng = np.random.default_rng(7)
    x = (1e4 + rng.normal(size=(64, 40, 64))).astype(np.float32).astype(np.float64)
    rig = rig_of(layer, (40, 64), 64, "float32")
    for name in ("gamma", "beta"):
        next(view for key, view in rig.parameters.items() if key.endswith(name))[...] = name == "gamma"
    found = rig.run(x, np.zeros_like(x))
    cells = {(-1,): -1, -1: (0, 1), 1: (0, 2)}[layer.axis]
    mean, variance = moments(x, cells)
    np.testing.assert_allclose(found.y, (x - mean) / np.sqrt(variance + 1e-3), rtol=1e-5, atol=1.4e-3)


@pytest.mark.parametrize("layer", [BatchNormalization(epsilon=1e-6), BatchNormalization(1, epsilon=1e-6), LayerNormalization(epsilon=1e-6)],
                         ids=["last", "inner", "layer"])
def test_a_constant_input_gives_beta(layer):
    """The variance is 0, never below: y = beta, and no NaN from the root of a negative rounding."""
    x = np.full((64, 40, 64), 0.1)
    rig = rig_of(layer, (40, 64), 64, "float32")
    beta = rig.parameters[next(name for name in rig.parameters if name.endswith("beta"))]
    expected = beta if layer.axis != 1 else beta[:, None]
    # sqrt(1 / epsilon) = 1000 times the rounding of the mean, at most 0.5 ulp of 0.1 = 4e-9.
    np.testing.assert_allclose(rig.run(x, np.zeros_like(x)).y, np.broadcast_to(expected, x.shape), rtol=0, atol=2e-5)


def test_nan_reaches_the_output():
    x = np.ones((4, 3))
    x[1, 2] = np.nan
    for layer in (BatchNormalization(), LayerNormalization(), PReLU()):
        found = rig_of(layer, (3,), 4, "float32").run(x, np.ones_like(x))
        assert np.isnan(found.y[1, 2]), layer
    assert np.isnan(found.gradients["p_re_lu/alpha"]).tolist() == [False, False, True]


# Messages.

@pytest.mark.parametrize(("make", "message"), [
    (lambda: BatchNormalization(axis=0).output_shape((3, 4)),
     "BatchNormalization: axis must name an axis of the input other than the batch (axis 0), received axis 0 for samples of shape (3, 4)"),
    (lambda: BatchNormalization(axis=3).output_shape((3, 4)),
     "BatchNormalization: axis must name an axis of the input other than the batch (axis 0), received axis 3 for samples of shape (3, 4)"),
    (lambda: LayerNormalization(axis=1).output_shape((3, 4)),
     "LayerNormalization: axis must name the last axes of the input, each once, received (1,) for samples of shape (3, 4)"),
    (lambda: LayerNormalization(axis=(-1, 2)).output_shape((3, 4)),
     "LayerNormalization: axis must name the last axes of the input, each once, received (-1, 2) for samples of shape (3, 4)"),
    (lambda: PReLU(shared_axes=(1, 3)).output_shape((3, 4)),
     "PReLU: shared_axes must lie from 1 to 2 for samples of shape (3, 4), received (1, 3)"),
    (lambda: BatchNormalization(momentum=1.5), "BatchNormalization: momentum must be a finite number at least 0 and at most 1, received 1.5"),
    (lambda: LayerNormalization(epsilon=0), "LayerNormalization: epsilon must be a finite number greater than 0, received 0.0"),
])
def test_messages(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


def test_a_constant_row_and_a_tiny_epsilon():
    """Variance 0: dx = rstd (g - mean of g), though rstd^3 is beyond float32."""
    rig = Rig(Sequential([Input((3,)), LayerNormalization(epsilon=1e-30)]), {"layer_normalization/gamma": np.ones(3),
                                                                             "layer_normalization/beta": np.zeros(3)}, 1, dtype="float32")
    found = rig.run(np.full((1, 3), 5.0), np.array([[0.0, 3.0, 0.0]])).dx
    np.testing.assert_allclose(found, [[-1e15, 2e15, -1e15]], rtol=1e-6)
