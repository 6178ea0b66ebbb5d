"""What passes do around convolutions: ReLU and pooling inside, batch normalization folded into the weight. Nothing but the plan changes."""

import numpy as np
import pytest

from helpers import Rig, assert_close, assert_same_bits, many_tasks
from nnkit import (
    Add,
    BatchNormalization,
    Conv2D,
    Conv2DTranspose,
    Conv3D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    Input,
    MaxPooling2D,
    MaxPooling3D,
    Network,
    ReLU,
    SeparableConv2D,
    Sequential,
)
from nnkit.plan import passes

EXACT = 1e-12               # float64: a few hundred products of numbers near 1, and scales of at most a few


def run(layers, shape, batch=3, seed=0, **fields):
    """(prediction, gradients, kernels of both plans). fields: of the `Rig`."""
    network = Sequential((Input(shape), *layers))
    rng = np.random.default_rng(seed)
    values = {name: rng.uniform(0.5, 1.5, declared.shape) if "variance" in name else rng.standard_normal(declared.shape) / 2
              for name, declared in network.graph().parameters().items()}
    rig = Rig(network, values, batch, **fields)
    x = rng.standard_normal((batch, *shape))
    predicted = rig.predict(x)
    results = rig.run(x, rng.standard_normal(predicted.shape))
    kernels = {mode: [step.kernel.rpartition(".")[2] for step in rig.tape(mode).plan.steps] for mode in ("predict", "gradients")}
    return predicted, results, kernels


def without(monkeypatch, names, layers, shape, **fields):
    """The same with passes that do nothing."""
    with monkeypatch.context() as patch:
        for name in names.split():
            patch.setattr(passes, name, lambda plan: plan)
        return run(layers, shape, **fields)


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


@pytest.mark.parametrize("between", [[], [Flatten()]], ids=["at once", "reshaped"])
def test_gradient_through_dropout_and_relu_is_one_step(monkeypatch, between):
    layers = [Dense(19, "relu"), *between, Dropout(0.4), Dense(5), ReLU(), Dropout(0.2), Dense(3)]
    predicted, results, kernels = run(layers, (4, 7))
    _, expected, before = without(monkeypatch, "fuse_dropout", layers, (4, 7))
    assert kernels["gradients"].count("relu_dropout_backward") == 2
    assert kernels["gradients"].count("dropout_apply") == 2
    assert before["gradients"].count("dropout_apply") == 4
    assert not np.array_equal(predicted, results.y)      # training drops something
    assert_same_bits(results.dx, expected.dx)
    for name, gradient in results.gradients.items():
        assert_same_bits(gradient, expected.gradients[name], name)


@pytest.mark.parametrize("layers", [[Dense(9, "tanh"), Dropout(0.4), Dense(3)], [Dropout(0.4), Dense(9, "relu"), Dense(3)],
                                    [Dense(9, "relu"), Dropout(0.4, noise_shape=(1, None)), Dense(3)]], ids=["tanh", "before", "mask"])
def test_other_dropout_stays(layers):
    assert "relu_dropout_backward" not in run(layers, (7,))[2]["gradients"]


def test_gradient_of_a_relu_that_others_read_goes_through_it_alone():
    x = Input((7,))
    hidden = Dense(9, "relu")(x)
    y = Add()(Dropout(0.4)(hidden), hidden)
    network = Network(x, y)
    rig = Rig(network, {name: np.zeros(declared.shape) for name, declared in network.graph().parameters().items()}, 3)
    kernels = [step.kernel.rpartition(".")[2] for step in rig.tape("gradients").plan.steps]
    assert "relu_dropout_backward" not in kernels


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
    plain, _, before = without(monkeypatch, "fuse_cells fuse_pooling", layers, shape)
    assert "max_forward" in before["predict"]
    assert "max_forward" not in kernels["predict"]
    assert "max_forward" in kernels["gradients"]         # backward compares with what is pooled
    assert_same_bits(predicted, plain)


@pytest.mark.parametrize("pooling", [MaxPooling2D(3), MaxPooling2D(2, strides=1), MaxPooling2D(padding="same"), MaxPooling2D((2, 1))])
def test_other_poolings_stay(pooling):
    _, _, kernels = run([Conv2D(4, 3, padding="same"), pooling], (9, 7, 2))
    assert "max_forward" in kernels["predict"]


CELLS = [
    ([Conv2D(19, 3, activation="relu"), MaxPooling2D()], (9, 8, 1)),
    ([Conv2D(5, (5, 3), padding="same", use_bias=False), MaxPooling2D()], (7, 11, 2)),
    ([Conv2D(17, (4, 5), (1, 2), "same", activation="relu"), MaxPooling2D()], (12, 29, 3)),
    ([Conv3D(33, (3, 3, 2), activation="relu"), MaxPooling3D()], (9, 8, 7, 1)),
    ([Conv3D(20, (3, 3, 5), padding="same", dilation_rate=(2, 1, 1)), MaxPooling3D((1, 2, 2))], (5, 6, 9, 3)),
    ([Conv3D(4, (2, 4, 5), (2, 1, 2), "same", activation="relu"), MaxPooling3D()], (9, 5, 13, 2)),
    ([Conv2D(6, (1, 3), padding=(0, 4), algorithm="few"), MaxPooling2D()], (2, 3, 19)),
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("layers", "shape"), CELLS)
def test_pooling_is_fused_in_training(monkeypatch, layers, shape, dtype):
    predicted, results, kernels = run(layers, shape, dtype=dtype, inputs=False)
    plain, expected, before = without(monkeypatch, "fuse_cells fuse_pooling", layers, shape, dtype=dtype, inputs=False)
    assert {"max_forward", "max_backward"} < {*before["gradients"]}
    assert not {"max_forward", "max_backward"} & {*kernels["gradients"], *kernels["predict"]}
    assert_same_bits(predicted, plain)
    assert_same_bits(results.y, expected.y)
    for name, gradient in results.gradients.items():     # sums in another order
        assert_close(gradient, expected.gradients[name], EXACT if dtype == "float64" else 2e-6, name)


@pytest.mark.parametrize(("layers", "shape"), CELLS)
def test_tasks_and_threads_change_no_bit_of_cells(layers, shape):
    predicted, expected, _ = run(layers, shape, batch=5, dtype="float32", inputs=False)
    with many_tasks():
        for threads in (1, 2):
            same, results, _ = run(layers, shape, batch=5, dtype="float32", inputs=False, threads=threads)
            assert_same_bits(same, predicted)
            for name, gradient in results.gradients.items():
                assert_same_bits(gradient, expected.gradients[name], name)


@pytest.mark.parametrize(("layers", "shape"), CELLS)
def test_gradients_of_cells(layers, shape):
    """Against differences of the loss, in float64."""
    network = Sequential((Input(shape), *layers))
    rng = np.random.default_rng(4)
    values = {name: rng.standard_normal(declared.shape) for name, declared in network.graph().parameters().items()}
    rig = Rig(network, values, 2, inputs=False)
    x = rng.standard_normal((2, *shape))
    t = rng.standard_normal((2, *network.graph().output_shapes[0]))
    found = rig.run(x, t).gradients
    for name, gradient in found.items():
        view = rig.parameters[name].reshape(-1)
        for k in rng.permutation(view.size)[:20]:
            losses = []
            for side in (1e-6, -1e-6):
                view[k] += side
                losses.append(np.vdot(rig.predict(x), t))
                view[k] -= side
            # Sums of a few hundred numbers near 1, so losses to 1e-13, which the distance of 2e-6 makes 1e-7.
            assert abs((losses[0] - losses[1]) / 2e-6 - gradient.reshape(-1)[k]) < 1e-6, (name, k)


def test_cells_of_a_layer_that_is_called_twice(monkeypatch):
    """Both poolings take one gradient, and both gradients of the kernel are added."""
    a, b, convolution = Input((9, 8, 1)), Input((9, 8, 1)), Conv2D(5, 3, activation="relu")
    network = Network([a, b], Add()([MaxPooling2D()(convolution(a)), MaxPooling2D()(convolution(b))]))
    rng = np.random.default_rng(5)
    values = {name: rng.standard_normal(declared.shape) for name, declared in network.graph().parameters().items()}
    x, t = tuple(rng.standard_normal((3, 9, 8, 1)) for _ in range(2)), rng.standard_normal((3, 3, 3, 5))
    rig = Rig(network, values, 3, inputs=False)
    found = rig.run(x, t)
    assert [step.kernel for step in rig.tape("gradients").plan.steps].count("prims.pooled.cells_weight") == 2
    monkeypatch.setattr(passes, "fuse_cells", lambda plan: plan)
    expected = Rig(network, values, 3, inputs=False).run(x, t)
    assert_same_bits(found.y, expected.y)
    for name, gradient in found.gradients.items():
        assert_close(gradient, expected.gradients[name], EXACT, name)


def test_of_equal_numbers_the_first_wins_and_nan_is_the_largest():
    layers, x = [Conv2D(1, 1, use_bias=False, algorithm="few"), MaxPooling2D()], np.zeros((3, 2, 2, 1))
    x[1] = 2.0
    x[2].flat = [1, np.nan, np.nan, 5]
    rig = Rig(Sequential((Input((2, 2, 1)), *layers)), {"conv2d/kernel": np.ones((1, 1, 1, 1))}, 3, debug=False, inputs=False)
    assert_same_bits(rig.run(x, np.ones((3, 1, 1, 1))).y.ravel(), np.array([0.0, 2.0, np.nan]))
    x[1].flat = [1, 3, 3, 3]
    x[2] = 0.0
    assert rig.run(x, np.ones((3, 1, 1, 1))).gradients["conv2d/kernel"].item() == 3


FOLDED = [
    *[[Conv2D(17, 3, use_bias=use_bias, algorithm=algorithm), BatchNormalization(**fields), ReLU()]
      for use_bias in (True, False) for algorithm in ("taps", "direct", "few", "winograd4") for fields in ({}, {"scale": False}, {"center": False})],
    *[[layer, BatchNormalization()] for use_bias in (True, False) for layer in (
        Conv2D(6, 1, use_bias=use_bias), DepthwiseConv2D(3, depth_multiplier=2, use_bias=use_bias), Dense(7, use_bias=use_bias))],
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
