"""What passes do around convolutions: ReLU and pooling inside, batch normalization folded into the weight. Nothing but the plan changes."""

import numpy as np
import pytest

from helpers import Rig, assert_close, assert_same_bits
from nnkit import (
    BatchNormalization,
    Conv2D,
    Conv2DTranspose,
    Dense,
    DepthwiseConv2D,
    Flatten,
    Input,
    MaxPooling2D,
    ReLU,
    SeparableConv2D,
    Sequential,
)
from nnkit.plan import passes

EXACT = 1e-12               # float64: a few hundred products of numbers near 1, and scales of at most a few


def run(layers, shape, batch=3, seed=0):
    """(prediction, gradients, kernels of both plans)."""
    network = Sequential((Input(shape), *layers))
    rng = np.random.default_rng(seed)
    values = {name: rng.uniform(0.5, 1.5, declared.shape) if "variance" in name else rng.standard_normal(declared.shape) / 2
              for name, declared in network.graph().parameters().items()}
    rig = Rig(network, values, batch)
    x = rng.standard_normal((batch, *shape))
    predicted = rig.predict(x)
    results = rig.run(x, rng.standard_normal(predicted.shape))
    kernels = {mode: [step.kernel.rpartition(".")[2] for step in rig.tape(mode).plan.steps] for mode in ("predict", "gradients")}
    return predicted, results, kernels


def without(monkeypatch, name, layers, shape):
    """The same with a pass that does nothing."""
    with monkeypatch.context() as patch:
        patch.setattr(passes, name, lambda plan: plan)
        return run(layers, shape)


@pytest.mark.parametrize("algorithm", ["direct", "few", "winograd2", "winograd4"])
def test_relu_is_fused(monkeypatch, algorithm):
    layers = [Conv2D(19, 3, activation="relu", algorithm=algorithm), MaxPooling2D(), Flatten(), Dense(3)]
    predicted, results, kernels = run(layers, (9, 8, 5))
    plain, expected, before = without(monkeypatch, "fuse_relu", layers, (9, 8, 5))
    assert "relu_forward" in before["predict"]
    assert "relu_backward" in before["gradients"]
    assert not {"relu_forward", "relu_backward"} & {*kernels["predict"], *kernels["gradients"]}
    assert_same_bits(predicted, plain)
    assert_same_bits(results.dx, expected.dx)
    for name, gradient in results.gradients.items():
        assert_same_bits(gradient, expected.gradients[name], name)


def test_relu_that_others_read_stays():
    """The gradient of a ReLU's output that does not come from a pooling alone."""
    _, _, kernels = run([Conv2D(4, 3, activation="relu"), Conv2D(4, 3)], (7, 7, 2))
    assert "relu_backward" in kernels["gradients"]


@pytest.mark.parametrize("algorithm", ["direct", "few", "winograd2", "winograd4"])
@pytest.mark.parametrize(("shape", "filters"), [((9, 8, 8), 16), ((13, 15, 5), 19), ((6, 7, 17), 33), ((40, 41, 3), 4)])
@pytest.mark.parametrize(("padding", "activation"), [("same", "relu"), ("valid", "linear")])
def test_pooling_is_fused_in_prediction(monkeypatch, algorithm, shape, filters, padding, activation):
    layers = [Conv2D(filters, 3, padding=padding, activation=activation, algorithm=algorithm), MaxPooling2D()]
    predicted, _, kernels = run(layers, shape)
    plain, _, before = without(monkeypatch, "fuse_pooling", layers, shape)
    assert "max_forward" in before["predict"]
    assert "max_forward" not in kernels["predict"]
    assert "max_forward" in kernels["gradients"]         # backward compares with what is pooled
    assert_same_bits(predicted, plain)


@pytest.mark.parametrize("pooling", [MaxPooling2D(3), MaxPooling2D(2, strides=1), MaxPooling2D(padding="same"), MaxPooling2D((2, 1))])
def test_other_poolings_stay(pooling):
    _, _, kernels = run([Conv2D(4, 3, padding="same"), pooling], (9, 7, 2))
    assert "max_forward" in kernels["predict"]


FOLDED = [
    *[[Conv2D(17, 3, use_bias=use_bias, algorithm=algorithm), BatchNormalization(**fields), ReLU()]
      for use_bias in (True, False) for algorithm in ("taps", "direct", "few", "winograd4") for fields in ({}, {"scale": False}, {"center": False})],
    [Conv2D(6, 1), BatchNormalization()], [DepthwiseConv2D(3, depth_multiplier=2), BatchNormalization()], [Dense(7), BatchNormalization()],
    [Conv2D(9, 3, algorithm="few"), BatchNormalization(), BatchNormalization(center=False)], [Dense(7), BatchNormalization(), BatchNormalization()],
    [SeparableConv2D(6, 3), BatchNormalization()], [Conv2D(6, 3), BatchNormalization(), Conv2D(5, 3), BatchNormalization()],
]


@pytest.mark.parametrize("layers", FOLDED)
def test_normalization_is_folded_in_prediction(monkeypatch, layers):
    predicted, _, kernels = run(layers, (9, 8, 3))
    plain, _, before = without(monkeypatch, "fold_normalization", layers, (9, 8, 3))
    assert "batch_norm_normalize" in before["predict"]
    assert "batch_norm_normalize" not in kernels["predict"]
    assert "batch_norm_normalize" in kernels["gradients"]        # the statistics are the batch's there
    assert_close(predicted, plain, EXACT)


@pytest.mark.parametrize("layers", [[Conv2D(6, 1), BatchNormalization(axis=1)], [Conv2DTranspose(6, 3), BatchNormalization()],
                                    [Conv2D(6, 3, activation="tanh"), BatchNormalization()]])
def test_normalization_of_something_else_stays(layers):
    _, _, kernels = run(layers, (6, 5, 3))
    assert any(kernel.startswith("batch_norm_normalize") for kernel in kernels["predict"])


def test_frozen_normalization_keeps_its_gradients(monkeypatch):
    """Moving averages in training, too: what is folded forward changes no gradient beyond rounding."""
    layers = [Conv2D(6, 3), BatchNormalization(trainable=False), Conv2D(5, 3)]
    _, results, kernels = run(layers, (9, 8, 3))
    _, expected, _ = without(monkeypatch, "fold_normalization", layers, (9, 8, 3))
    assert "batch_norm_fold" in kernels["gradients"]
    assert_close(results.dx, expected.dx, EXACT)
    for name, gradient in results.gradients.items():
        assert_close(gradient, expected.gradients[name], EXACT, name)
