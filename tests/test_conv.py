"""What the case table cannot express of convolutions: what they equal, single images in pieces, larger sums, declarations, messages."""

import re

import attrs
import numpy as np
import pytest

import naive
import nnkit
from helpers import Rig, assert_close, assert_same_bits, many_tasks
from nnkit import (
    Conv1D,
    Conv1DTranspose,
    Conv2D,
    Conv2DTranspose,
    Conv3D,
    Conv3DTranspose,
    Dense,
    DepthwiseConv1D,
    DepthwiseConv2D,
    Input,
    SeparableConv1D,
    SeparableConv2D,
    Sequential,
)
from nnkit.prims import depthwise, direct
from nnkit.prims.convolution import ALGORITHMS

EXACT = 1e-12               # float64, sums of at most 4,000 terms in another order: the root of that times 1e-16, and two digits to spare


def rig_of(layer, shape, batch, dtype="float64", threads=1, seed=1):
    network = Sequential((Input(shape), layer))
    rng = np.random.default_rng(seed)
    values = {name: rng.standard_normal(declared.shape) for name, declared in network.graph().parameters().items()}
    return Rig(network, values, batch, dtype=dtype, threads=threads, debug=False)


def data_of(layer, shape, batch, seed=2):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((batch, *shape)), rng.standard_normal((batch, *layer.output_shape(shape)))


def value(layer, shape, kernel, x):
    """The output for a kernel without bias."""
    rig = rig_of(layer, shape, len(x))
    next(view for name, view in rig.parameters.items() if name.endswith("/kernel"))[...] = kernel
    return rig.predict(x)


# What they equal.

@pytest.mark.parametrize(("plain", "depthwise", "shape"), [
    (Conv1D(6, 3, padding="same", groups=3), DepthwiseConv1D(3, padding="same", depth_multiplier=2), (7, 3)),
    (Conv2D(5, (3, 2), 2, groups=5), DepthwiseConv2D((3, 2), 2), (6, 5, 5)),
    (Conv2D(4, 2, padding=1, groups=2, dilation_rate=2), DepthwiseConv2D(2, padding=1, depth_multiplier=2, dilation_rate=2), (4, 3, 2)),
])
def test_depthwise_is_a_group_for_every_channel(plain, depthwise, shape):
    rigs = [rig_of(layer, shape, 3) for layer in (plain, depthwise)]
    x, dy = data_of(plain, shape, 3)
    first, second = (list(rig.parameters.values()) for rig in rigs)
    for a, b in zip(first, second, strict=True):
        b[...] = a.reshape(b.shape)
    expected, found = (rig.run(x, dy) for rig in rigs)
    assert_close(found.y, expected.y, EXACT)
    assert_close(found.dx, expected.dx, EXACT)
    for a, b in zip(found.gradients.values(), expected.gradients.values(), strict=True):
        assert_close(a, b.reshape(a.shape), EXACT)


@pytest.mark.parametrize(("convolution", "transpose", "shape"), [
    (Conv1D(3, 4, 3), Conv1DTranspose(2, 4, 3), (10, 2)),
    (Conv1D(3, 4, 3), Conv1DTranspose(2, 4, 3, output_padding=2), (12, 2)),
    (Conv1D(4, 3, padding=(2, 1), dilation_rate=3), Conv1DTranspose(1, 3, padding=(2, 1), dilation_rate=3), (8, 1)),
    (Conv2D(5, 3, 2, "same"), Conv2DTranspose(3, 3, 2, "same"), (6, 8, 3)),
    (Conv2D(2, (5, 2), (3, 1), "same"), Conv2DTranspose(4, (5, 2), (3, 1), "same"), (9, 4, 4)),
    (Conv2D(3, 3, 2, padding=1), Conv2DTranspose(2, 3, 2, padding=1, output_padding=(1, 0)), (6, 7, 2)),
    (Conv3D(2, (2, 3, 1), (1, 2, 1), "same"), Conv3DTranspose(3, (2, 3, 1), (1, 2, 1), "same"), (3, 4, 2, 3)),
])
def test_transposed_is_the_adjoint(convolution, transpose, shape):
    """<conv(x), y> = <x, transpose(y)> for one kernel; so the transpose's values are the convolution's gradients, and the reverse."""
    convolution, transpose = (attrs.evolve(layer, use_bias=False) for layer in (convolution, transpose))
    inner = convolution.output_shape(shape)
    assert transpose.output_shape(inner) == shape
    forward, back = rig_of(convolution, shape, 2), rig_of(transpose, inner, 2)
    (kernel,), (same,) = forward.parameters.values(), back.parameters.values()
    same[...] = kernel
    x, y = data_of(convolution, shape, 2)
    found, other = forward.run(x, y), back.run(y, x)
    assert_close(np.vdot(found.y, y), np.vdot(x, other.y), EXACT)
    assert_close(other.y, found.dx, EXACT)
    assert_close(other.dx, found.y, EXACT)
    assert_close(*(next(iter(results.gradients.values())) for results in (found, other)), EXACT)


def test_one_place_is_dense():
    x, dy = data_of(Conv2D(7, 1), (3, 4, 5), 2)
    rigs = [rig_of(layer, (3, 4, 5), 2) for layer in (Conv2D(7, 1), Dense(7))]
    for a, b in zip(*(rig.parameters.values() for rig in rigs), strict=True):
        b[...] = a.reshape(b.shape)
    found, expected = (rig.run(x, dy) for rig in rigs)
    assert_close(found.y, expected.y, EXACT)
    assert_close(found.dx, expected.dx, EXACT)


def test_separable_is_depthwise_then_one_place():
    layer = SeparableConv2D(5, 3, 2, "same", 2, activation="tanh")
    pair = Sequential((Input((5, 6, 3)), DepthwiseConv2D(3, 2, "same", 2, use_bias=False), Conv2D(5, 1, activation="tanh")))
    one = rig_of(layer, (5, 6, 3), 4)
    two = Rig(pair, dict(zip(pair.graph().parameters(), one.start.values(), strict=True)), 4, debug=False)
    x, dy = data_of(layer, (5, 6, 3), 4)
    found, expected = one.run(x, dy), two.run(x, dy)
    for a, b in ((found.y, expected.y), (found.dx, expected.dx), *zip(found.gradients.values(), expected.gradients.values(), strict=True)):
        assert_close(a, b, EXACT)


def test_flat_volumes_are_images():
    """Depth 1; likewise images of one row are sequences."""
    x, _ = data_of(Conv2D(4, (3, 2), 2, "same"), (5, 6, 3), 2)
    kernel = np.random.default_rng(3).standard_normal((3, 2, 3, 4))
    image = value(Conv2D(4, (3, 2), 2, "same", use_bias=False), (5, 6, 3), kernel, x)
    volume = value(Conv3D(4, (1, 3, 2), (1, 2, 2), "same", use_bias=False), (1, 5, 6, 3), kernel[None], x[:, None])
    assert_close(volume[:, 0], image, EXACT)
    row = value(Conv2D(4, (1, 2), 2, "same", use_bias=False), (1, 6, 3), kernel[:1], x[:, :1])
    assert_close(value(Conv1D(4, 2, 2, "same", use_bias=False), (6, 3), kernel[0], x[:, 0]), row[:, 0], EXACT)


# Where the zeros are.

X = np.array([1.0, 2, 3, 4, 5]).reshape(1, 5, 1)
SUM = np.ones((2, 1, 1))


@pytest.mark.parametrize(("layer", "expected"), [
    (Conv1D(1, 2, padding="same"), [3, 5, 7, 9, 5]),
    (Conv1D(1, 2, padding="causal"), [1, 3, 5, 7, 9]),
    (Conv1D(1, 2, 2, "same"), [3, 7, 5]),
    (Conv1D(1, 2, 2, "causal"), [1, 5, 9]),
    (Conv1D(1, 2, padding="same", dilation_rate=3), [3, 5, 7, 3, 4]),
    (Conv1D(1, 2, padding=(0, 2)), [3, 5, 7, 9, 5, 0]),
    (Conv1D(1, 2, 4), [3]),
    (Conv1DTranspose(1, 2), [1, 3, 5, 7, 9, 5]),
    (Conv1DTranspose(1, 2, padding="same"), [1, 3, 5, 7, 9]),
    (Conv1DTranspose(1, 2, padding=(1, 0)), [3, 5, 7, 9, 5]),
    (Conv1DTranspose(1, 2, 3), [1, 1, 0, 2, 2, 0, 3, 3, 0, 4, 4, 0, 5, 5, 0]),
    (Conv1DTranspose(1, 2, 3, output_padding=0), [1, 1, 0, 2, 2, 0, 3, 3, 0, 4, 4, 0, 5, 5]),
    (Conv1DTranspose(1, 2, 3, "same", output_padding=2), [1, 1, 0, 2, 2, 0, 3, 3, 0, 4, 4, 0, 5, 5]),
])
def test_where_zeros_are(layer, expected):
    found = value(attrs.evolve(layer, use_bias=False), (5, 1), SUM, X)
    assert found.ravel().tolist() == expected


def test_causal_sees_no_future():
    layer = Conv1D(3, 3, padding="causal", dilation_rate=2)
    rig = rig_of(layer, (9, 2), 1)
    x, _ = data_of(layer, (9, 2), 1)
    before = rig.predict(x)
    x[:, 6] += 1
    changed = (rig.predict(x) != before).any(axis=(0, 2))
    assert changed.tolist() == [False] * 6 + [True, False, True]


@pytest.mark.parametrize(("layer", "shape", "expected"), [
    (Conv1D(7, 3), (10, 2), (8, 7)),
    (Conv2D(4, (3, 5), (2, 3)), (9, 11, 1), (4, 3, 4)),
    (Conv2D(4, 3, padding="same"), (9, 1, 1), (9, 1, 4)),
    (Conv2D(4, 3, (1, 4), "same"), (9, 9, 1), (9, 3, 4)),
    (Conv2D(4, 3, padding=((1, 2), (0, 3)), dilation_rate=2), (5, 5, 1), (4, 4, 4)),
    (Conv3D(2, (1, 2, 3), padding=(0, 1, 2)), (4, 4, 4, 3), (4, 5, 6, 2)),
    (Conv2DTranspose(3, (2, 3), (1, 2)), (4, 5, 1), (5, 11, 3)),
    (Conv2DTranspose(3, (2, 3), 4), (4, 5, 1), (16, 20, 3)),
    (Conv2DTranspose(3, 3, 2, "same", 0), (4, 5, 1), (7, 9, 3)),
    (Conv2DTranspose(3, 3, 2, 1, 1), (4, 5, 1), (8, 10, 3)),
    (Conv3DTranspose(2, 3, padding="same", dilation_rate=2), (2, 1, 4, 3), (2, 1, 4, 2)),
    (DepthwiseConv2D(3, 2, "same", 3), (5, 6, 4), (3, 3, 12)),
    (SeparableConv1D(5, 3, 2), (9, 4), (4, 5)),
    (Conv2D(3, 3, padding="same"), (0, 4, 2), (0, 4, 3)),
    (Conv1DTranspose(3, 3, 2, "same"), (0, 2), (0, 3)),
])
def test_output_shape(layer, shape, expected):
    assert layer.output_shape(shape) == expected


# Single images are cut into pieces; sums of more than one block.

LARGER = {
    "image": (Conv2D(20, 3, padding="same"), (31, 17, 5), 1),
    "strides": (Conv2D(18, (3, 5), (2, 3), padding=(1, 2), groups=2), (29, 40, 4), 3),
    "sequence": (Conv1D(33, 5, padding="causal", dilation_rate=2), (211, 3), 2),
    "volume": (Conv3D(7, 3, padding="same"), (5, 7, 6, 3), 1),
    "transpose": (Conv2DTranspose(9, 3, 2, "same"), (13, 9, 5), 2),
    "transposed-sequence": (Conv1DTranspose(5, 4, 3, output_padding=1), (67, 4), 1),
    "depthwise": (DepthwiseConv2D(3, padding="same", depth_multiplier=2), (19, 14, 9), 1),
    "separable": (SeparableConv2D(6, 3, 2, "same"), (21, 16, 7), 3),
    "deep": (Conv2D(3, 2), (5, 4, 530), 2),                             # two blocks of the product's depth, eight of the gradient's channels
    "one-place": (Conv2D(70, 1), (15, 15, 40), 2),
    "batch": (Conv2D(4, 3, padding="same"), (7, 6, 3), 19),             # images enough to share them out
}
LARGER |= {
    "taps": (Conv2D(20, 3, padding="same", algorithm="taps"), (31, 17, 5), 1),
    "direct": (Conv2D(50, 3, padding=((0, 1), (2, 1)), algorithm="direct"), (13, 19, 9), 3),
    "direct-strides": (Conv3D(19, (3, 2, 3), (1, 2, 2), "same", algorithm="direct"), (4, 9, 11, 17), 2),
    "winograd4": (Conv2D(33, 3, padding="same"), (29, 31, 24), 2),
    "winograd2": (Conv2D(20, 3, padding=(1, 0), algorithm="winograd2"), (17, 23, 70), 2),
    "depthwise-wide": (DepthwiseConv2D((3, 2), (1, 2), padding="same"), (21, 30, 35), 2),
    "depthwise-neighbours": (DepthwiseConv2D((3, 7), padding="same"), (11, 23, 33), 2),
    "depthwise-dilation": (DepthwiseConv2D((2, 5), (3, 2), padding=(1, 5), dilation_rate=2), (14, 41, 19), 2),
}


@pytest.fixture
def small_units(monkeypatch):
    """Plans cut even small images into units, and chains of sums over places; on both sides of a comparison, since it changes the bits."""
    monkeypatch.setattr(direct, "PACKED", 4096)
    monkeypatch.setattr(direct, "CHAIN_PLACES", 100)
    monkeypatch.setattr(depthwise, "UNIT", 2000)


def larger(function):
    return pytest.mark.usefixtures("small_units")(pytest.mark.parametrize("name", LARGER)(function))


@larger
def test_larger_inputs(name):
    layer, shape, batch = LARGER[name]
    rig = rig_of(layer, shape, batch)
    x, dy = data_of(layer, shape, batch)
    parameters = {key.split("/")[1]: values.copy() for key, values in rig.start.items()}
    found = rig.run(x, dy)
    assert_close(found.y, naive.forward(layer, parameters, x), EXACT)
    # The convolution is linear in x and in each parameter p, so <dy, y> = <dx, x> + <db, b> and <dW, W> = <dx, x>. Of separable ones two such.
    bias = np.vdot(found.gradients[f"{rig.graph.nodes[1].name}/bias"], parameters["bias"])
    total = np.vdot(found.y, dy)
    size = np.abs(found.y * dy).sum()
    assert abs(np.vdot(found.dx, x) + bias - total) < EXACT * size
    for key, gradient in found.gradients.items():
        if "kernel" in key:
            assert abs(np.vdot(gradient, parameters[key.split("/")[1]]) + bias - total) < EXACT * size, key


@larger
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tasks_and_threads_change_no_bit_of_larger_inputs(name, dtype):
    layer, shape, batch = LARGER[name]
    x, dy = data_of(layer, shape, batch)
    one = rig_of(layer, shape, batch, dtype)
    expected, predicted = one.run(x, dy), one.predict(x)
    with many_tasks():
        for threads in (1, 2):
            rig = rig_of(layer, shape, batch, dtype, threads)
            found = rig.run(x, dy)
            assert any(step.tasks > 1 for step in rig.tape("gradients").plan.steps)
            for a, b in ((found.y, expected.y), (found.dx, expected.dx), (rig.predict(x), predicted)):
                assert_same_bits(a, b)
            for key, gradient in found.gradients.items():
                assert_same_bits(gradient, expected.gradients[key], key)
            if threads == 1:
                rig.run_watched("gradients", x, dy)
                rig.run_watched("predict", x, dy)


@larger
def test_larger_inputs_in_single_precision(name):
    layer, shape, batch = LARGER[name]
    x, dy = (values.astype(np.float32) for values in data_of(layer, shape, batch))
    double, single = rig_of(layer, shape, batch), rig_of(layer, shape, batch, "float32")
    double.set_parameters(single.parameters)
    expected, found = double.run(x, dy), single.run(x, dy)
    # Sums of up to 4,000 products, each rounded by 6e-8 of the sum so far: at most the root of their number times that on average, 4e-6. Winograd's
    # transforms add before and after the products and multiply by numbers other than 1: another digit is lost.
    for a, b in ((found.y, expected.y), (found.dx, expected.dx), *((found.gradients[key], expected.gradients[key]) for key in found.gradients)):
        assert_close(a, b, 1e-4 if name.startswith("winograd") else 2e-5)


def test_nan_stays_within_its_windows():
    layer = Conv2D(2, 3, padding="same")
    x, _ = data_of(layer, (6, 7, 2), 2)
    x[1, 2, 3, 1] = np.nan
    found = np.isnan(rig_of(layer, (6, 7, 2), 2, "float32").predict(x))
    expected = np.zeros_like(found)
    expected[1, 1:4, 2:5] = True
    assert (found == expected).all()


@pytest.mark.parametrize("place", [0, 7, 12, 19])
def test_nan_stays_within_its_windows_and_its_channel(place):
    """At the ends of rows, where one row is the next one's neighbour, and within."""
    layer = DepthwiseConv2D(3, padding="same")
    x, dy = data_of(layer, (6, 20, 17), 2)
    x[1, 2, place, 16] = np.nan
    rig = rig_of(layer, (6, 20, 17), 2, "float32")
    expected = np.zeros(x.shape, bool)
    expected[1, 1:4, max(0, place - 1):place + 2, 16] = True
    assert (np.isnan(rig.predict(x)) == expected).all()
    gradient = rig.run(np.nan_to_num(x), np.where(expected, np.nan, dy)).dx
    expected[1, :5, max(0, place - 2):place + 3, 16] = True
    assert (np.isnan(gradient) == expected).all()


def test_what_is_written_past_the_caches():
    """Outputs of 16 MB and more."""
    fields, shape = {"kernel_size": 3, "padding": "same", "activation": "relu"}, (64, 260, 256)
    results = []
    for algorithm in ("depthwise", "taps"):
        layer = DepthwiseConv2D(**fields, algorithm=algorithm)
        x, dy = data_of(layer, shape, 1)
        results.append(rig_of(layer, shape, 1, "float32", threads=2).run(x, dy))
    assert_close(results[0].y, results[1].y, 1e-5)
    assert_close(results[0].dx, results[1].dx, 1e-5)


# Algorithms.

FORWARD = {
    "taps": (Conv2D(3, 1), "taps.taps_forward"), "product": (Conv2D(3, 1), "dense.dense_forward"), "direct": (Conv2D(3, 1), "direct.direct_forward"),
    "few": (Conv2D(3, 1), "direct.few_forward"), "winograd2": (Conv2D(3, 3), "winograd"), "winograd4": (Conv2D(3, 3), "winograd"),
    "depthwise": (DepthwiseConv2D(3), "depthwise.depthwise_forward"),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_named_algorithm_is_what_runs(algorithm):
    layer, kernel = FORWARD[algorithm]
    plan = rig_of(attrs.evolve(layer, algorithm=algorithm), (4, 4, 2), 2).tape("predict").plan
    *_, last = [step.kernel for step in plan.steps if "conv2d" in step.layer]
    assert kernel in last


# Declarations.

ACTIVATED = ("activation", "use_bias", "bias_initializer", "bias_regularizer", "activity_regularizer")
FIELDS = {
    Conv1D: ("filters", "kernel_size", "strides", "padding"),
    Conv2D: ("filters", "kernel_size", "strides", "padding"),
    Conv3D: ("filters", "kernel_size", "strides", "padding"),
    Conv1DTranspose: ("filters", "kernel_size", "strides", "padding", "output_padding"),
    Conv2DTranspose: ("filters", "kernel_size", "strides", "padding", "output_padding"),
    Conv3DTranspose: ("filters", "kernel_size", "strides", "padding", "output_padding"),
    DepthwiseConv1D: ("kernel_size", "strides", "padding", "depth_multiplier"),
    DepthwiseConv2D: ("kernel_size", "strides", "padding", "depth_multiplier"),
    SeparableConv1D: ("filters", "kernel_size", "strides", "padding", "depth_multiplier"),
    SeparableConv2D: ("filters", "kernel_size", "strides", "padding", "depth_multiplier"),
}


@pytest.mark.parametrize("cls", FIELDS)
def test_fields_by_position_and_by_name(cls):
    """The first ones may be given by position, as in Keras; the others only by name."""
    fields = attrs.fields(cls)
    assert tuple(field.name for field in fields if not field.kw_only) == FIELDS[cls]
    kernels = {"Dept": ("depthwise",), "Sepa": ("depthwise", "pointwise")}.get(cls.__name__[:4], ("kernel",))
    expected = {"name", "trainable", "learning_rate_factor", "dilation_rate", "algorithm", *ACTIVATED}
    expected |= {f"{kernel}_{what}" for kernel in kernels for what in ("initializer", "regularizer")}
    if cls in (Conv1D, Conv2D, Conv3D):
        expected |= {"groups"}
    assert {field.name for field in fields if field.kw_only} == expected


def test_defaults():
    required = {"filters": 3, "kernel_size": 2}
    for cls, names in FIELDS.items():
        layer = cls(**{name: required[name] for name in names if name in required})
        one = (1,) * cls.rank
        assert layer.kernel_size == (2,) * cls.rank
        assert (layer.strides, layer.dilation_rate, layer.padding, layer.algorithm, layer.use_bias) == (one, one, "valid", "auto", True)
        assert layer.activation == nnkit.Linear()
        assert layer.bias_initializer == nnkit.Zeros()
        for name in ("kernel", "depthwise", "pointwise"):
            assert getattr(layer, f"{name}_initializer", nnkit.GlorotUniform()) == nnkit.GlorotUniform()
            assert getattr(layer, f"{name}_regularizer", None) is None
        assert layer.bias_regularizer is None
        assert layer.activity_regularizer is None
        assert getattr(layer, "groups", 1) == getattr(layer, "depth_multiplier", 1) == 1
        assert getattr(layer, "output_padding", None) is None


@pytest.mark.parametrize(("layer", "shape", "expected"), [
    (Conv1D(4, 3), (9, 2), {"kernel": (3, 2, 4), "bias": (4,)}),
    (Conv2D(6, (3, 5), groups=2), (9, 9, 4), {"kernel": (3, 5, 2, 6), "bias": (6,)}),
    (Conv2D(6, 1, use_bias=False), (9, 9, 4), {"kernel": (1, 1, 4, 6)}),
    (Conv3D(6, (1, 2, 3), activation="prelu"), (3, 3, 3, 2), {"kernel": (1, 2, 3, 2, 6), "bias": (6,), "alpha": (3, 2, 1, 6)}),
    (Conv2DTranspose(6, (3, 5)), (9, 9, 4), {"kernel": (3, 5, 6, 4), "bias": (6,)}),
    (DepthwiseConv2D((3, 5), depth_multiplier=2), (9, 9, 4), {"kernel": (3, 5, 4, 2), "bias": (8,)}),
    (SeparableConv1D(5, 3, depth_multiplier=2), (9, 4), {"depthwise_kernel": (3, 4, 2), "pointwise_kernel": (1, 8, 5), "bias": (5,)}),
    (SeparableConv2D(5, 3), (9, 9, 4), {"depthwise_kernel": (3, 3, 4, 1), "pointwise_kernel": (1, 1, 4, 5), "bias": (5,)}),
])
def test_parameters(layer, shape, expected):
    assert {name: parameter.shape for name, parameter in layer.parameters(shape).items()} == expected


def test_fields_are_kept_for_every_axis():
    assert Conv2D(np.int64(4), [3, np.int32(2)], padding=[1, (0, 2)]) == Conv2D(4, (3, 2), (1, 1), ((1, 1), (0, 2)))
    assert repr(Conv2D(4, 3, padding=1)) == "Conv2D(4, (3, 3), padding=((1, 1), (1, 1)))"
    assert Conv1D(4, 3, padding=(1, 2)).padding == Conv1D(4, 3, padding=[[1, 2]]).padding == ((1, 2),)
    assert Conv2D(4, 3, padding=(1, 2)).padding == ((1, 1), (2, 2))
    assert Conv2DTranspose(4, 3, 2, output_padding=1).output_padding == (1, 1)


# Messages.

SIZES = "must be a whole number of at least 1, or a tuple of"
PADDINGS = "a whole number of at least 0, or a tuple of"


def unable(layer, shape, *able):
    """What is said of a layer whose algorithm cannot compute it; `able` are those that can."""
    names = ", ".join(map(repr, ("auto", *able)))
    rule = f"algorithm must be one that can compute {layer!r} for samples of shape {shape} ({names})"
    return f"{type(layer).__name__}: {rule}, received {layer.algorithm!r}"


REFUSED = [
    (Conv2D(4, 3, algorithm="product"), (5, 5, 3), ("taps", "direct", "few", "winograd2", "winograd4")),
    (Conv2D(4, 3, algorithm="depthwise"), (5, 5, 3), ("taps", "direct", "few", "winograd2", "winograd4")),
    (Conv1D(4, 1, 2, algorithm="product"), (1, 3), ("taps", "direct", "few")),
    (Conv2DTranspose(4, 1, padding=1, algorithm="product"), (5, 5, 3), ("taps", "direct", "few")),
    (DepthwiseConv2D(1, algorithm="product"), (5, 5, 3), ("taps", "direct", "depthwise")),
    (Conv2D(4, 3, 2, algorithm="winograd2"), (5, 5, 3), ("taps", "direct", "few")),
    (Conv2D(4, (3, 5), algorithm="winograd4"), (5, 5, 3), ("taps", "direct", "few")),
    (Conv2D(4, 3, padding=2, dilation_rate=2, algorithm="winograd2"), (5, 5, 3), ("taps", "direct")),
    (Conv2D(4, 3, groups=2, algorithm="winograd4"), (5, 5, 4), ("taps", "direct")),
    (Conv3D(4, 3, algorithm="winograd2"), (5, 5, 5, 1), ("taps", "direct", "few")),
    (Conv1D(4, 2, groups=2, algorithm="few"), (5, 2), ("taps", "direct", "depthwise")),
    (SeparableConv1D(4, 2, algorithm="few"), (5, 2), ("taps", "direct", "depthwise")),
]


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Conv2D(0, 3), "Conv2D: filters must be a whole number at least 1, received 0"),
    (lambda: Conv1DTranspose(2.0, 3), "Conv1DTranspose: filters must be a whole number at least 1, received 2.0"),
    (lambda: Conv2D(4, 0), f"Conv2D: kernel_size {SIZES} 2 of them, received (0, 0)"),
    (lambda: Conv2D(4, (3,)), f"Conv2D: kernel_size {SIZES} 2 of them, received (3,)"),
    (lambda: DepthwiseConv2D((3, -1)), f"DepthwiseConv2D: kernel_size {SIZES} 2 of them, received (3, -1)"),
    (lambda: Conv2D(4, True), f"Conv2D: kernel_size {SIZES} 2 of them, received True"),
    (lambda: Conv3D(4, 3, (1, 2)), f"Conv3D: strides {SIZES} 3 of them, received (1, 2)"),
    (lambda: Conv2D(4, 3, 0), f"Conv2D: strides {SIZES} 2 of them, received (0, 0)"),
    (lambda: SeparableConv2D(4, 3, dilation_rate=-1), f"SeparableConv2D: dilation_rate {SIZES} 2 of them, received (-1, -1)"),
    (lambda: DepthwiseConv1D(3, depth_multiplier=0), "DepthwiseConv1D: depth_multiplier must be a whole number at least 1, received 0"),
    (lambda: Conv2D(4, 3, groups=0), "Conv2D: groups must be a whole number at least 1, received 0"),
    (lambda: Conv2D(4, 3, groups=3), "Conv2D: filters must be a multiple of groups = 3, received 4"),
    *[(lambda cls=cls, fields=fields: cls(*fields, padding="causal"),
       f"{cls.__name__}: padding must be 'valid', 'same', {PADDINGS} {cls.rank} numbers or pairs (before, behind), received 'causal'")
      for cls, fields in ((Conv2D, (4, 3)), (Conv3D, (4, 3)), (Conv1DTranspose, (4, 3)), (DepthwiseConv1D, (3,)), (SeparableConv1D, (4, 3)))],
    (lambda: Conv1D(4, 3, padding="full"),
     f"Conv1D: padding must be 'valid', 'same', 'causal', {PADDINGS} 1 numbers or pairs (before, behind), received 'full'"),
    *[(lambda padding=padding: Conv2D(4, 3, padding=padding),
       f"Conv2D: padding must be 'valid', 'same', {PADDINGS} 2 numbers or pairs (before, behind), received {shown}")
      for padding, shown in ((-1, "((-1, -1), (-1, -1))"), ((1, 2, 3), "((1, 1), (2, 2), (3, 3))"), (((1, 2), (3,)), "((1, 2), (3,))"),
                             (((1, 2), (3, -1)), "((1, 2), (3, -1))"), (1.5, "1.5"), (None, "None"), (True, "True"))],
    (lambda: Conv2DTranspose(4, 3, 2, output_padding=2),
     "Conv2DTranspose: output_padding must be less than strides (2, 2) or dilation_rate (1, 1), received (2, 2)"),
    (lambda: Conv2DTranspose(4, 3, (2, 1), output_padding=1),
     "Conv2DTranspose: output_padding must be less than strides (2, 1) or dilation_rate (1, 1), received (1, 1)"),
    (lambda: Conv2DTranspose(4, 3, output_padding=-1),
     "Conv2DTranspose: output_padding must be a whole number of at least 0, or a tuple of 2 of them, or None, received (-1, -1)"),
    (lambda: Conv2D(4, 3, algorithm="fast"),
     f"Conv2D: algorithm must be one of 'auto', {', '.join(map(repr, ALGORITHMS))}, received 'fast'"),
    (lambda: Conv1D(4, 3).output_shape((5,)), "Conv1D needs samples of 2 axes (steps, channels), received samples of shape (5,)"),
    (lambda: Conv2D(4, 3).output_shape((5, 5)), "Conv2D needs samples of 3 axes (height x width, channels), received samples of shape (5, 5)"),
    (lambda: DepthwiseConv2D(3).output_shape(()), "DepthwiseConv2D needs samples of 3 axes (height x width, channels), received samples of shape ()"),
    (lambda: Conv3DTranspose(4, 3).output_shape((5, 5, 3)),
     "Conv3DTranspose needs samples of 4 axes (depth x height x width, channels), received samples of shape (5, 5, 3)"),
    (lambda: Conv2D(4, 3, groups=2).output_shape((5, 5, 3)),
     "Conv2D: the input's channels must be a multiple of groups = 2, received samples of shape (5, 5, 3)"),
    (lambda: Conv2D(4, 3).output_shape((2, 5, 1)),
     "Conv2D: a window of (3, 3) (dilation (1, 1)) must fit into the padded input, received spatial axes of sizes (2, 5) with padding 'valid'"),
    (lambda: SeparableConv1D(4, 3, padding=1, dilation_rate=4).output_shape((6, 1)),
     "SeparableConv1D: a window of (3,) (dilation (4,)) must fit into the padded input, received spatial axes of sizes (6,) with padding ((1, 1),)"),
    (lambda: Conv1D(4, 1).output_shape((0, 1)),
     "Conv1D: a window of (1,) (dilation (1,)) must fit into the padded input, received spatial axes of sizes (0,) with padding 'valid'"),
    (lambda: Conv2DTranspose(4, 3, padding=4).output_shape((5, 6, 3)),
     "Conv2DTranspose: what is cut off must leave something of the output, received padding ((4, 4), (4, 4)) for samples of shape (5, 6, 3)"),
    (lambda: Conv1DTranspose(4, 2, padding="same", output_padding=0).output_shape((1, 3)),
     "Conv1DTranspose: what is cut off must leave something of the output, received padding 'same' for samples of shape (1, 3)"),
    *[(lambda layer=layer, shape=shape: layer.output_shape(shape), unable(layer, shape, *able)) for layer, shape, able in REFUSED],
    # In a network: with the layer's own name.
    (lambda: Sequential((Input((5, 5, 3)), Conv2D(4, 3, name="first"), Conv2D(4, 4, name="second"))),
     "layer 'second' cannot take first: Conv2D: a window of (4, 4) (dilation (1, 1)) must fit into the padded input, received spatial axes of sizes "
     "(3, 3) with padding 'valid'"),
    (lambda: Conv1D(4, 3, groups=2)(Conv1D(3, 3, name="first")(Input((9, 1)))),
     "layer 'conv1d' cannot take input -> first: Conv1D: the input's channels must be a multiple of groups = 2, received samples of shape (7, 3)"),
    (lambda: Sequential((Input((5, 5)), Conv2DTranspose(4, 3))),
     "layer 'conv2d_transpose' cannot take input: Conv2DTranspose needs samples of 3 axes (height x width, channels), received samples of shape "
     "(5, 5)"),
    (lambda: Sequential((Input((5, 5, 3)), Conv2D(4, 3, algorithm="product", name="mixing"))),
     "layer 'mixing' cannot take input: Conv2D: algorithm must be one that can compute Conv2D(4, (3, 3), name='mixing', algorithm='product') for "
     "samples of shape (5, 5, 3) ('auto', 'taps', 'direct', 'few', 'winograd2', 'winograd4'), received 'product'"),
])
def test_messages(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()
