"""Pooling beyond the case table: ties, NaN, few images in pieces, sums over many places, what is refused."""

import inspect
import math
import re

import numpy as np
import pytest

import nnkit
from helpers import Rig, assert_close, assert_same_bits, many_tasks
from nnkit.layers.pool import MaxPooling2D, by_channel, stages
from nnkit.layers.window import spans
from nnkit.network import Sequential
from nnkit.plan.build import build
from nnkit.plan.layout import lay_out
from nnkit.tensors import Input


def rig(layer, shape, batch, **options):
    return Rig(Sequential((Input(shape), layer)), {}, batch, **options)


def first_places(spec, x, dy):
    """dx where every window's dy goes to the first of its largest numbers, or of its NaN, window by window and place by place. Images alone."""
    strides = spec.strides or spec.pool_size
    axes = spans("", x.shape[1:-1], spec.pool_size, strides, (1, 1), spec.padding)
    dx = np.zeros_like(x)
    for n, p, q, c in np.ndindex(dy.shape):
        places = [(h, w) for h in range(p * strides[0] - axes[0].before, p * strides[0] - axes[0].before + spec.pool_size[0])
                  for w in range(q * strides[1] - axes[1].before, q * strides[1] - axes[1].before + spec.pool_size[1])
                  if 0 <= h < x.shape[1] and 0 <= w < x.shape[2]]
        numbers = [x[n, h, w, c] for h, w in places]
        wins = [k for k, number in enumerate(numbers) if math.isnan(number)] or [k for k, number in enumerate(numbers) if number == max(numbers)]
        dx[(n, *places[wins[0]], c)] += dy[n, p, q, c]
    return dx


LAYERS = [MaxPooling2D(), MaxPooling2D(3, strides=2), MaxPooling2D(2, strides=1, padding="same"), MaxPooling2D((3, 2), strides=(1, 3)),
          MaxPooling2D(2, strides=3, padding=1)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3, 64, 83])
@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_ties_go_to_the_first_place(layer, channels, dtype):
    """Numbers that are mostly equal, and dy whose sums are exact in every order."""
    rng = np.random.default_rng(3)
    x = rng.integers(0, 2, (2, 7, 6, channels)) * 1.0
    x[0, :3, :3, 0] = -0.0                               # equal to 0
    dy = rng.integers(-8, 9, (2, *layer.output_shape(x.shape[1:]))) * 1.0
    results = rig(layer, x.shape[1:], 2, dtype=dtype).run(x, dy)
    np.testing.assert_array_equal(results.dx, first_places(layer, x, dy))


def test_ties_of_all_places():
    x = np.zeros((3, 4, 8, 5))                           # 32 places, of which several lie side by side in the forward pass
    x[1, 2, 3:6] = x[2, 1, 7] = x[2, 3, 0] = 1
    dy = np.arange(1.0, 16).reshape(3, 5)
    expected = np.zeros_like(x)
    expected[0, 0, 0], expected[1, 2, 3], expected[2, 1, 7] = dy
    results = rig(nnkit.GlobalMaxPooling2D(), x.shape[1:], 3).run(x, dy)
    np.testing.assert_array_equal(results.y, x.max(axis=(1, 2)))
    np.testing.assert_array_equal(results.dx, expected)


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_nan_is_the_largest(layer):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((2, 7, 6, 5))
    x[rng.random(x.shape) < 0.1] = np.nan
    x[rng.random(x.shape) < 0.1] = np.inf
    x[rng.random(x.shape) < 0.3] = -np.inf
    dy = rng.integers(-8, 9, (2, *layer.output_shape(x.shape[1:]))) * 1.0
    results = rig(layer, x.shape[1:], 2, dtype="float32", debug=False).run(x, dy)
    np.testing.assert_array_equal(results.dx, first_places(layer, x, dy))
    from naive_pool import pooled
    np.testing.assert_array_equal(results.y, pooled(layer, x, np.max).astype(np.float32))


@pytest.mark.parametrize("layer", [
    nnkit.MaxPooling2D(3, strides=2), nnkit.MaxPooling2D(), nnkit.AveragePooling2D((3, 2), strides=1, padding="same"),
    nnkit.AveragePooling2D(), nnkit.GlobalMaxPooling2D(), nnkit.GlobalAveragePooling2D(), nnkit.ZeroPadding2D((1, 2)), nnkit.Cropping2D((2, 1)),
    nnkit.UpSampling2D((2, 3)), nnkit.UpSampling2D((2, 3), interpolation="bilinear"),
], ids=repr)
def test_few_images_in_pieces_change_no_bit(layer):
    """One image and three, cut into pieces, against nine that are not; tasks as many as can be."""
    shape = (21, 10, 6)
    rng = np.random.default_rng(7)
    x = rng.standard_normal((9, *shape))
    dy = rng.standard_normal((9, *layer.output_shape(shape)))
    expected = rig(layer, shape, 9, dtype="float32", debug=False).run(x, dy)
    with many_tasks():
        for batch in (1, 3):
            for threads in (1, 2):
                of = rig(layer, shape, batch, dtype="float32", debug=False, threads=threads)
                found = of.run(x[:batch], dy[:batch])
                assert_same_bits(found.y, expected.y[:batch])
                assert_same_bits(found.dx, expected.dx[:batch])
            of.run_watched("gradients", x[:batch], dy[:batch])
            steps = [step for step in of.tape("gradients").plan.steps if step.kernel.startswith(("layers.pool", "layers.resample"))]
            whole = "pooling" in steps[0].layer and steps[0].layer.startswith("global")
            assert all(step.tasks > batch or whole for step in steps)


def test_large_images_are_cut():
    """Eight images of VGG's first pooling, and one."""
    graph = Sequential((Input((224, 224, 64)), nnkit.MaxPooling2D(), nnkit.GlobalAveragePooling2D())).graph()
    for batch in (1, 8):
        steps = {step.kernel: step for step in build(graph, lay_out(graph, None, "float32"), "predict", batch).steps}
        assert steps["layers.pool.max_forward"].tasks == 8


@pytest.mark.parametrize("places", [1, 2, 7, 49, 96, 224 * 224, 10007, 3 * 2 ** 17])
@pytest.mark.parametrize("channels", [1, 3, 64, 513])
def test_stages_cover_all_places(places, channels):
    found = stages(places, channels)
    assert math.prod(stage.taps for stage in found) == places
    size = places * channels
    for stage in found:
        assert math.prod(stage.input_shape(3)) == size
        size = math.prod(stage.output_shape(3))
    assert size == channels


@pytest.mark.parametrize("shape", [(224, 224, 1), (96, 160, 3), (64, 64, 40)])
def test_means_of_many_places(shape):
    """float32 rounds by 6e-8; a chain of some ten thousand sums would be off by 1e-5 and more."""
    x = (1 + np.random.default_rng(1).random((2, *shape))).astype(np.float32)
    assert_close(rig(nnkit.GlobalAveragePooling2D(), shape, 2, dtype="float32", debug=False).predict(x), x.mean(axis=(1, 2), dtype=float), 1e-6)


def test_nothing_is_stored():
    """One step each forward and backward, and no buffer but y and dx."""
    graph = Sequential((Input((4, 4, 3)), nnkit.MaxPooling2D())).graph()
    layout = lay_out(graph, None, "float32")
    from helpers import Probe
    plan = build(graph, layout, "gradients", 9, losses=[(Probe(), 1.0)], input_gradients=True)
    assert [step.kernel for step in plan.steps if "pool" in step.kernel] == ["layers.pool.max_forward", "layers.pool.max_backward"]
    assert sorted(name for name in plan.buffers if "pool" in name) == ["max_pooling2d/dx", "max_pooling2d/y"]


@pytest.mark.parametrize(("name", "expected"), [
    ("MaxPooling", {"pool_size": 2, "strides": None, "padding": "valid"}), ("AveragePooling", {"pool_size": 2, "strides": None, "padding": "valid"}),
    ("GlobalMaxPooling", {"keepdims": False}), ("GlobalAveragePooling", {"keepdims": False}),
])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_fields_are_those_of_keras(name, expected, rank):
    cls = getattr(nnkit, f"{name}{rank}D")
    found = [parameter for parameter in inspect.signature(cls).parameters if parameter not in ("name", "trainable", "learning_rate_factor")]
    assert found == [*expected]
    assert cls() == cls(**expected)
    assert repr(cls()) == f"{name}{rank}D()"


def test_repr():
    assert repr(MaxPooling2D(3, 2, "same")) == "MaxPooling2D(pool_size=(3, 3), strides=(2, 2), padding='same')"
    assert repr(nnkit.AveragePooling1D([4], padding=(1, 2))) == "AveragePooling1D(pool_size=(4,), padding=((1, 2),))"
    assert repr(nnkit.GlobalMaxPooling3D(True)) == "GlobalMaxPooling3D(keepdims=True)"


def test_places_are_those_of_a_convolution():
    c = by_channel(spans("", (5, 6), (3, 2), (2, 1), (1, 1), "same"), 7)
    assert c.windows == (1, 5, 6, 1, 3, 2, 1, 2, 1, 1, 1, 1, 0, 1, 0, 1, 3, 6, 7, 7, 7)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: MaxPooling2D(0), "MaxPooling2D: pool_size must be a whole number of at least 1, or a tuple of 2 of them, received (0, 0)"),
    (lambda: nnkit.AveragePooling3D((2, 2)), "AveragePooling3D: pool_size must be a whole number of at least 1, or a tuple of 3 of them, "
                                             "received (2, 2)"),
    (lambda: MaxPooling2D(strides=1.5), "MaxPooling2D: strides must be a whole number of at least 1, or a tuple of 2 of them, or None, received 1.5"),
    (lambda: MaxPooling2D(padding="full"), "MaxPooling2D: padding must be 'valid', 'same', a whole number of at least 0, or a tuple of 2 numbers or "
                                           "pairs (before, behind), received 'full'"),
    (lambda: MaxPooling2D(2, padding=2), "MaxPooling2D: padding must be 'valid', 'same' or less than pool_size (2, 2) along every axis, "
                                         "received ((2, 2), (2, 2))"),
    (lambda: nnkit.MaxPooling1D(3).output_shape((2, 5)), "MaxPooling1D: a window of (3,) (dilation (1,)) must fit into the padded input, received "
                                                         "spatial axes of sizes (2,) with padding 'valid'"),
    (lambda: MaxPooling2D(3, padding=2).output_shape((0, 4, 1)), "MaxPooling2D: every window must hold a place of the input, received samples of "
                                                                 "shape (0, 4, 1) with padding ((2, 2), (2, 2))"),
    (lambda: MaxPooling2D().output_shape((4,)), "MaxPooling2D needs samples of 3 axes (height x width, channels), received samples of shape (4,)"),
    (lambda: nnkit.GlobalMaxPooling1D().output_shape((4, 4, 1)), "GlobalMaxPooling1D needs samples of 2 axes (steps, channels), received samples of "
                                                                 "shape (4, 4, 1)"),
    (lambda: nnkit.GlobalAveragePooling2D().output_shape((4, 0, 1)), "GlobalAveragePooling2D needs at least one place along every axis, received "
                                                                     "samples of shape (4, 0, 1)"),
    (lambda: nnkit.GlobalMaxPooling2D(1), "GlobalMaxPooling2D: keepdims must be True or False, received 1"),
])
def test_refusals(make, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        make()
