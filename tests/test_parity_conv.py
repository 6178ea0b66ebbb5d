"""Random convolutions in PyTorch and in Keras, value by value and gradient by gradient; Keras' declarations. Skipped where these are not installed.

A failed test's name begins with the number of the convolution; `draw_convolution(SEED, number)` makes it again. The larger sample takes the seed of
NNKIT_SWEEP_SEED.
"""

from __future__ import annotations

import collections
import inspect
import itertools

import attrs
import numpy as np
import pytest

import nnkit
from helpers import Rig, assert_near
from nnkit.prims.convolution import ALGORITHMS
from parity_conv import LAYERS, DrawnConvolution, draw_convolution
from sweeps import BLOCKS, sweep

SEED = 1
FIXED = [draw_convolution(SEED, number) for number in range(220)]

# Of the largest number. The most that 3,000 convolutions of another seed were off is 5.4e-15 in float64, 4.0e-6 in float32; larger ones are in
# test_conv.py. Winograd's transforms add, and multiply by numbers other than 1, before and after the products: in float32 they may lose another
# digit. 'auto' may choose any of these.
DOUBLE = 1e-12
PLAIN, TRANSFORMED = 2e-5, 1e-4
SINGLE = dict.fromkeys(ALGORITHMS, PLAIN) | {"winograd2": TRANSFORMED, "winograd4": TRANSFORMED, "auto": TRANSFORMED}


def in_torch(drawn: DrawnConvolution, parameters, x, dy):
    """Output and gradients by name, in float64."""
    torch = pytest.importorskip("torch")
    import parity_torch

    x, dy = torch.tensor(x, requires_grad=True), torch.tensor(dy)
    p = {name: torch.tensor(values, requires_grad=True) for name, values in parameters.items()}
    y = parity_torch.LAYERS[type(drawn.layer)](drawn.layer, p, x, parity_torch.Pass(training=True))
    found = torch.autograd.grad(y, [x, *p.values()], dy)
    return {"y": y.detach().numpy(), **{name: gradient.numpy() for name, gradient in zip(["x", *p], found, strict=True)}}


def in_nnkit(network: nnkit.Sequential, parameters, x, dy, dtype: str):
    """The same."""
    node = network.graph().nodes[1]
    rig = Rig(network, {f"{node.name}/{name}": values for name, values in parameters.items()}, len(x), dtype=dtype, debug=False)
    results = rig.run(x, dy)
    return {"y": results.y, "x": results.dx, **{name.split("/")[1]: gradient for name, gradient in results.gradients.items()}}


def assert_torch_parity(drawn: DrawnConvolution) -> None:
    """Float64 as chosen by shapes; float32 by the drawn algorithm."""
    data = drawn.data()
    expected = in_torch(drawn, *data)
    assert_near(in_nnkit(drawn.network, *data, "float64"), expected, DOUBLE, "float64")
    assert_near(in_nnkit(drawn.with_algorithm, *data, "float64"), expected, DOUBLE, f"float64 by {drawn.algorithm}")
    assert_near(in_nnkit(drawn.with_algorithm, *data, "float32"), expected, SINGLE[drawn.algorithm], f"float32 by {drawn.algorithm}")


@pytest.mark.parametrize("drawn", FIXED, ids=str)
def test_torch(drawn):
    assert_torch_parity(drawn)


@pytest.mark.sweep
@pytest.mark.parametrize("block", range(BLOCKS))
def test_torch_sweep(block):
    pytest.importorskip("torch")
    sweep(block, draw_convolution, assert_torch_parity)


def test_the_sample_covers_what_it_is_drawn_from():
    layers = [drawn.layer for drawn in FIXED]
    assert {type(layer) for layer in layers} == {*LAYERS}
    assert {drawn.algorithm for drawn in FIXED} == {"auto", *ALGORITHMS}
    paddings = collections.Counter(layer.padding if isinstance(layer.padding, str) else "pairs" for layer in layers)
    assert min(paddings[padding] for padding in ("valid", "same", "causal", "pairs")) > 3
    assert sum(getattr(layer, "groups", 1) > 1 for layer in layers) > 10
    assert sum(getattr(layer, "depth_multiplier", 1) > 1 for layer in layers) > 10
    assert sum(getattr(layer, "output_padding", None) is not None for layer in layers) > 10
    assert sum(max(layer.strides) > 1 and max(layer.dilation_rate) > 1 for layer in layers) > 10


# Keras.

def keras_takes(drawn: DrawnConvolution) -> bool:
    """Keras pads by words only, and refuses strides together with dilation, and zeros at the end that no stride leaves room for."""
    layer = drawn.layer
    extra = getattr(layer, "output_padding", None)
    both = max(layer.strides) > 1 and max(layer.dilation_rate) > 1
    return isinstance(layer.padding, str) and not both and (extra is None or all(e < s for e, s in zip(extra, layer.strides, strict=True)))


IN_KERAS = [drawn for drawn in FIXED if keras_takes(drawn)]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("drawn", IN_KERAS, ids=str)
def test_keras(drawn):
    """The same numbers and the same declared shapes."""
    import parity_keras
    from parity_keras import keras

    parameters, x, dy = drawn.data()
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        (layer,) = parity_keras.layers_of(drawn.layer)
        layer.build(x.shape)
        assert {variable.name: tuple(variable.shape) for variable in layer.weights} == {name: values.shape for name, values in parameters.items()}
        layer.set_weights([parameters[variable.name] for variable in layer.weights])
        y = keras.ops.convert_to_numpy(layer(keras.ops.convert_to_tensor(x)))
        assert tuple(layer.compute_output_shape(x.shape)) == dy.shape
    finally:
        keras.config.set_floatx(before)
    assert_near({"y": in_nnkit(drawn.network, parameters, x, dy, "float64")["y"]}, {"y": y}, DOUBLE, "Keras")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_where_transposed_ones_begin_and_end_in_keras(padding):
    """All windows, strides, dilations and output_padding up to 5, with whole numbers, whose sums are exact. An even window with 'same' and
    output_padding 0 makes fewer places than Keras on TensorFlow can; on PyTorch and JAX it follows its own rule."""
    from parity_keras import keras

    rng = np.random.default_rng(4)
    for window, stride, dilation in itertools.product(range(1, 6), range(1, 5), range(1, 4)):
        for extra in (None, *range(stride)):
            layer = nnkit.Conv1DTranspose(1, window, stride, padding, extra, dilation_rate=dilation, use_bias=False)
            if stride > 1 and dilation > 1:
                continue                                 # Keras refuses both
            x, kernel = rng.integers(-9, 9, (1, 3, 2)).astype(np.float64), rng.integers(-9, 9, (window, 1, 2)).astype(np.float64)
            theirs = keras.ops.conv_transpose(x, kernel, stride, padding, extra, dilation_rate=dilation)
            rig = Rig(nnkit.Sequential((nnkit.Input((3, 2)), layer)), {"conv1d_transpose/kernel": kernel}, 1, debug=False)
            np.testing.assert_array_equal(rig.predict(x), keras.ops.convert_to_numpy(theirs), err_msg=repr(layer))


MISSING = {"data_format", "kernel_constraint", "bias_constraint", "depthwise_constraint", "pointwise_constraint", "kwargs", "self"}


@pytest.mark.parametrize("cls", [*dict.fromkeys(LAYERS)])
def test_fields_are_keras(cls):
    """Names and defaults; constraints and channels first are what nnkit has not."""
    from parity_keras import keras

    theirs = {name: parameter.default for name, parameter in inspect.signature(getattr(keras.layers, cls.__name__).__init__).parameters.items()}
    ours = {field.name: field for field in attrs.fields(cls)}
    assert ours.keys() - theirs.keys() <= {"algorithm", "name", "trainable", "learning_rate_factor"}
    assert theirs.keys() - ours.keys() <= MISSING
    layer = cls(**{name: 3 for name in ("filters", "kernel_size") if name in ours})
    for name in theirs.keys() & ours.keys() - {"filters", "kernel_size", "name", "trainable"}:
        value, expected = getattr(layer, name), theirs[name]
        if name == "activation":
            assert (value, expected) == (nnkit.Linear(), None)
        elif name.endswith("_initializer"):
            assert value == {"glorot_uniform": nnkit.GlorotUniform(), "zeros": nnkit.Zeros()}[expected], name
        elif name in ("strides", "dilation_rate"):
            assert {*value} == ({*expected} if isinstance(expected, tuple) else {expected}), name
        else:
            assert value == expected, name
    required = [name for name, default in theirs.items() if default is inspect.Parameter.empty and name not in MISSING]
    assert required == [name for name, field in ours.items() if field.default is attrs.NOTHING]
