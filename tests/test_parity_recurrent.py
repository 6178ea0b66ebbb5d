"""Random recurrent layers in PyTorch and in Keras, value by value and gradient by gradient; Keras' declarations. Skipped where these are missing.

A failed test's name begins with the number of the layer; `draw_recurrent(SEED, number)` makes it again. The larger sample takes the seed of
NNKIT_SWEEP_SEED. What differs from Keras on purpose: around a layer that goes backwards its Bidirectional returns sequences from the last step to
the first, here outputs lie where their inputs lie; and of a layer that goes backwards the mask is turned round along with the outputs.
"""

from __future__ import annotations

import collections
import inspect

import attrs
import numpy as np
import pytest

import nnkit
from helpers import assert_near
from parity_recurrent import PADDINGS, DrawnRecurrent, draw_recurrent, in_keras, in_nnkit, in_torch, torch_takes
from sweeps import BLOCKS, sweep

SEED = 1
FIXED = [draw_recurrent(SEED, number) for number in range(330)]

# Of the largest number, or of 1. Gradients of kernels are sums of at most 130 x 37 terms, after as many steps of roundings by 1.1e-16 (6e-8 in
# float32). The most that 3,000 layers of another seed were off is 4.3e-14 in float64, 1.3e-5 in float32.
DOUBLE, SINGLE = 1e-12, 1e-4

quiet = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def assert_parity(drawn: DrawnRecurrent) -> None:
    """Outputs and gradients; and prediction, which keeps a few steps alone, has the bits of training. Keras comes first: it skips what is missing."""
    expected = {"Keras": in_keras(drawn), **({"PyTorch": in_torch(drawn)} if torch_takes(drawn) else {})}
    for dtype, tolerance in (("float64", DOUBLE), ("float32", SINGLE)):
        found, predictions = in_nnkit(drawn, dtype)
        for library, values in expected.items():
            assert_near(found, values, tolerance, f"{dtype}, {library}")
        for number, y in enumerate(predictions):
            np.testing.assert_array_equal(y, found[f"y{number}"], err_msg=f"{dtype}, prediction {number}")


@quiet
@pytest.mark.parametrize("drawn", FIXED, ids=str)
def test_torch_and_keras(drawn):
    assert_parity(drawn)


@pytest.mark.sweep
@quiet
@pytest.mark.parametrize("block", range(BLOCKS))
def test_torch_and_keras_sweep(block):
    sweep(block, draw_recurrent, assert_parity)


def test_the_sample_covers_what_it_is_drawn_from():
    counts = collections.Counter(type(drawn.inner) for drawn in FIXED)
    assert min(counts[cls] for cls in (nnkit.SimpleRNN, nnkit.LSTM, nnkit.GRU)) >= 100
    grus = [drawn.inner for drawn in FIXED if isinstance(drawn.inner, nnkit.GRU)]
    around = [drawn for drawn in FIXED if isinstance(drawn.layer, nnkit.Bidirectional)]
    paddings = collections.Counter(drawn.padding for drawn in FIXED)
    assert min(paddings[padding] for padding in PADDINGS) > 10
    assert {drawn.layer.merge_mode for drawn in around} == {"concat", "sum", "mul", "ave", None}
    for what, often in (("reset before", sum(not layer.reset_after for layer in grus)), ("Bidirectional", len(around)),
                        ("masked Bidirectional", sum(drawn.padding is not None for drawn in around)),
                        ("initial states", sum(drawn.starts for drawn in FIXED)), ("backwards", sum(drawn.inner.go_backwards for drawn in FIXED)),
                        ("sequences", sum(drawn.inner.return_sequences for drawn in FIXED)),
                        ("states", sum(drawn.inner.return_state for drawn in FIXED)), ("no bias", sum(not drawn.inner.use_bias for drawn in FIXED)),
                        ("wide", sum(drawn.inner.units > 48 for drawn in FIXED)), ("one step", sum(drawn.shape[0] == 1 for drawn in FIXED)),
                        ("long", sum(drawn.shape[0] > 60 for drawn in FIXED)), ("many rows", sum(drawn.batch > 32 for drawn in FIXED)),
                        ("other activations", sum(drawn.inner.activation != nnkit.Tanh() for drawn in FIXED)),
                        ("in PyTorch", sum(torch_takes(drawn) for drawn in FIXED))):
        assert often > 20, what


MISSING = {"kernel_constraint", "recurrent_constraint", "bias_constraint", "unroll", "use_cudnn", "kwargs", "self"}
INITIALIZERS = {"glorot_uniform": nnkit.GlorotUniform(), "orthogonal": nnkit.Orthogonal(), "zeros": nnkit.Zeros(),
                "uniform": nnkit.RandomUniform(-0.05, 0.05)}


@pytest.mark.parametrize("cls", [nnkit.SimpleRNN, nnkit.LSTM, nnkit.GRU, nnkit.Embedding, nnkit.Masking, nnkit.Bidirectional, nnkit.TimeDistributed])
def test_fields_are_keras(cls):
    """Names and defaults; constraints, unrolling and what only Keras' machinery needs are left out."""
    from parity_keras import keras

    parameters = inspect.signature(getattr(keras.layers, cls.__name__).__init__).parameters
    theirs = {name: parameter.default for name, parameter in parameters.items()}
    ours = {field.name: field for field in attrs.fields(cls)}
    assert ours.keys() - theirs.keys() <= {"name", "trainable", "learning_rate_factor"}
    left_out = MISSING | {"weights", "embeddings_constraint", "lora_rank", "lora_alpha", "quantization_config", "input_length"}
    assert theirs.keys() - ours.keys() <= left_out
    required = {"units": 3, "input_dim": 3, "output_dim": 2, "layer": nnkit.LSTM(2)}
    layer = cls(**{name: value for name, value in required.items() if name in ours})
    for name in theirs.keys() & ours.keys() - {*required, "name", "trainable", "args"}:
        value, expected = getattr(layer, name), theirs[name]
        if name.endswith("activation"):
            assert value == {"tanh": nnkit.Tanh(), "sigmoid": nnkit.Sigmoid()}[expected], name
        elif name.endswith("_initializer"):
            assert value == INITIALIZERS[expected], name
        else:
            assert value == expected, name


# Masks in whole networks: losses, sample weights, metrics, the mean over steps.

WORDS, STEPS = 9, 6
LOSSES = {"mse": (3, "linear", nnkit.MeanSquaredError()), "binary": (1, "sigmoid", nnkit.BinaryCrossentropy()),
          "sparse": (4, "softmax", nnkit.SparseCategoricalCrossentropy()),
          "ignoring": (4, "softmax", nnkit.SparseCategoricalCrossentropy(ignore_class=1)),
          "categorical": (4, "softmax", nnkit.CategoricalCrossentropy())}


def padded_text(rng, n):
    """Token ids with padding on the left, on the right, in the middle, and none."""
    x = rng.integers(1, WORDS, (n, STEPS))
    x[0, :3], x[1, 2:], x[2, 1:4] = 0, 0, 0
    return x


def masked_networks(units, activation):
    """The same network in both: an output for every step, and one of the mean over the steps."""
    from parity_keras import keras

    def declared(layers, x):
        h = layers.Embedding(WORDS, 3, mask_zero=True)(x)
        h = layers.Bidirectional(layers.LSTM(4, return_sequences=True), merge_mode="sum")(h)
        h = layers.Concatenate()([layers.TimeDistributed(layers.Dense(4, activation="tanh"))(h), layers.GRU(5, return_sequences=True)(h)])
        mean = layers.Dense(1, name="whole")(layers.GlobalAveragePooling1D()(h))
        return [layers.Dense(units, activation=activation, name="steps")(h), mean]

    x, kx = nnkit.Input((STEPS,)), keras.Input((STEPS,), dtype="int32")
    return nnkit.Network(x, declared(nnkit, x)), keras.Model(kx, declared(keras.layers, kx))


@quiet
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_masked_losses_and_metrics_are_keras(name, weighted):
    """Loss and metrics in evaluation, and three updates. Keras wants a weight for every step; one for each sample is meant."""
    import parity_keras
    from parity_keras import keras

    units, activation, loss = LOSSES[name]
    options = {"loss_weights": [0.7, 1.3], "metrics": [["mse" if name == "mse" else "accuracy"], []]}
    rng = np.random.default_rng(6)
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        ours, theirs = masked_networks(units, activation)
        model = nnkit.compile(ours, optimizer=nnkit.SGD(0.3), loss=[loss, "mse"], dtype="float64", **options)
        keras_loss = getattr(keras.losses, type(loss).__name__)(**parity_keras.arguments(loss))
        theirs.compile(optimizer=keras.optimizers.SGD(0.3), loss=[keras_loss, "mse"], run_eagerly=True, **options)
        values = [rng.standard_normal(tuple(variable.shape)) / 2 for variable in theirs.weights]
        theirs.set_weights(values)
        assert [tuple(variable.shape) for variable in theirs.weights] == [values.shape for values in model.parameters.values()]
        model.set_parameters(dict(zip(model.parameters, values, strict=True)))
        x = padded_text(rng, 8)
        labels = rng.integers(0, units, (8, STEPS))
        steps = {"mse": rng.standard_normal((8, STEPS, units)), "binary": rng.integers(0, 2, (8, STEPS, units)), "sparse": labels, "ignoring": labels,
                 "categorical": np.eye(units)[labels]}[name]
        y, w = [steps, rng.standard_normal((8, 1))], rng.uniform(0.5, 2, 8) if weighted else None
        weights = None if w is None else [np.repeat(w[:, None], STEPS, axis=1), w]
        found = model.evaluate(x, y, sample_weight=w)
        expected = theirs.evaluate(x, y, sample_weight=weights, batch_size=8, verbose=0, return_dict=True)
        assert found["loss"] == pytest.approx(float(expected["loss"]), rel=DOUBLE)
        metrics = [key for key in found if "loss" not in key]
        assert len(metrics) == len([key for key in expected if "loss" not in key])
        if name == "ignoring":                           # labels that the loss ignores are left out; Keras' accuracy counts them as any others
            counted = (x > 0) & (labels != loss.ignore_class)
            right = theirs.predict(x, verbose=0)[0].argmax(axis=-1) == labels
            expected["steps_accuracy"] = right[counted].mean()
            assert right[counted].mean() != right[x > 0].mean()
        for key, other in zip(metrics, [key for key in expected if "loss" not in key], strict=True):
            assert found[key] == pytest.approx(float(expected[other]), rel=1e-6), key        # Keras' metrics are float32
        for _ in range(3):
            model.train_on_batch(x, y, sample_weight=w)
            theirs.train_on_batch(x, y, sample_weight=weights)
        for (key, values), variable in zip(model.parameters.items(), theirs.weights, strict=True):
            np.testing.assert_allclose(values, keras.ops.convert_to_numpy(variable), rtol=0, atol=1e-10, err_msg=key)
    finally:
        keras.config.set_floatx(before)
