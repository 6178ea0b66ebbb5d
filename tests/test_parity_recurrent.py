"""Random recurrent layers in PyTorch and in Keras, value by value and gradient by gradient; Keras' declarations. Skipped where these are missing.

A failed test's name begins with the number of the layer; `draw_recurrent(SEED, number)` makes it again. The larger sample takes the seed of
NNKIT_SWEEP_SEED. What differs from Keras on purpose: around a layer that goes backwards its Bidirectional returns sequences from the last step to
the first, here outputs lie where their inputs lie; and of a layer that goes backwards the mask is turned round along with the outputs.
"""

from __future__ import annotations

import collections
import inspect
import os
import secrets

import attrs
import numpy as np
import pytest

import nnkit
from parity_recurrent import PADDINGS, DrawnRecurrent, draw_recurrent, in_keras, in_nnkit, in_torch, torch_takes

SEED = 1
FIXED = [draw_recurrent(SEED, number) for number in range(330)]
SWEEP_BLOCKS, BLOCK = 10, 100                            # of the sweep: tests, and layers in each

# Of the largest number, or of 1. Gradients of kernels are sums of at most 130 x 37 terms, after as many steps of roundings by 1.1e-16 (6e-8 in
# float32). The most that 3,000 layers of another seed were off is MOST64 in float64, MOST32 in float32: activations without bounds multiply.
DOUBLE, SINGLE = 1e-11, 1e-3

quiet = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def assert_near(found, expected, tolerance: float, what: str) -> None:
    """Off by no more than tolerance times the largest expected number, or 1, the size of what is summed: a sum may cancel."""
    assert found.keys() == expected.keys(), what
    for name, values in expected.items():
        assert found[name].shape == values.shape, f"{what}: {name} has shape {found[name].shape}, expected {values.shape}"
        np.testing.assert_allclose(found[name], values, rtol=0, atol=tolerance * np.abs(values).max(initial=1), err_msg=f"{what}: {name}")


def assert_parity(drawn: DrawnRecurrent) -> None:
    """Outputs and gradients; and prediction, which keeps a few steps alone, has the bits of training."""
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
    pytest.importorskip("torch")
    pytest.importorskip("keras")
    assert_parity(drawn)


@pytest.mark.sweep
@quiet
@pytest.mark.parametrize("block", range(SWEEP_BLOCKS))
def test_torch_and_keras_sweep(block):
    """Check a block of layers; then fail with all those that disagree."""
    pytest.importorskip("torch")
    pytest.importorskip("keras")
    seed, failures = int(os.environ.get("NNKIT_SWEEP_SEED") or 2 + secrets.randbelow(2 ** 31)), []
    print(f"NNKIT_SWEEP_SEED={seed}")
    for number in range(BLOCK * block, BLOCK * (block + 1)):
        drawn = draw_recurrent(seed, number)
        try:
            assert_parity(drawn)
        except AssertionError as error:
            failures.append(f"{drawn}\n{error}")
    assert not failures, f"NNKIT_SWEEP_SEED={seed}: {len(failures)} of {BLOCK} layers disagree:\n" + "\n".join(failures)


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
    assert ours.keys() - theirs.keys() <= {"name", "trainable"}
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
