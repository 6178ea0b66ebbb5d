"""Padding, cropping and upsampling beyond the case table: what comes out of small examples, no steps where nothing changes, what is refused."""

import inspect
import re

import numpy as np
import pytest

import nnkit
from helpers import Rig, assert_close
from nnkit.network import Sequential
from nnkit.plan.build import build
from nnkit.plan.layout import lay_out
from nnkit.tensors import Input


def rig(layer, shape, batch, **options):
    return Rig(Sequential((Input(shape), layer)), {}, batch, **options)


def test_padding_and_cropping_are_inverse():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    there = nnkit.ZeroPadding2D(((1, 2), (0, 3)))
    back = nnkit.Cropping2D(there.padding)
    y = rig(there, x.shape[1:], 2).predict(x)
    assert np.count_nonzero(y) == x.size
    np.testing.assert_array_equal(rig(back, y.shape[1:], 2).predict(y), x)


def test_bilinear_of_a_slope():
    """Centres of pixels are aligned: of 0, 1, 2 the places lie at -1/4, 1/4, 3/4, ...; the outermost are held."""
    x = np.arange(3.0).reshape(1, 1, 3, 1)
    y = rig(nnkit.UpSampling2D((1, 2), interpolation="bilinear"), (1, 3, 1), 1).predict(x)
    assert_close(y.ravel(), np.array([0, 0.25, 0.75, 1.25, 1.75, 2]), 1e-15)
    y = rig(nnkit.UpSampling2D((1, 3), interpolation="bilinear"), (1, 3, 1), 1).predict(x)
    assert_close(y.ravel(), np.array([0, 0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2, 2]), 1e-15)


def test_bilinear_keeps_its_precision_far_from_the_origin():
    """In float32 the place 3000.2 itself would be off by 1e-4: its part behind the point is computed apart."""
    x = np.random.default_rng(1).random((1, 1, 4001, 1)).astype(np.float32)
    layer = nnkit.UpSampling2D((1, 5), interpolation="bilinear")
    single = rig(layer, x.shape[1:], 1, dtype="float32", debug=False).predict(x)
    assert_close(single, rig(layer, x.shape[1:], 1, debug=False).predict(x.astype(float)), 3e-7)


def test_many_times():
    """More places of dy for one of dx than a block on the stack would hold."""
    layer = nnkit.UpSampling2D((1, 3000), interpolation="bilinear")
    x = np.ones((1, 1, 2, 1))
    results = rig(layer, (1, 2, 1), 1).run(x, np.ones((1, 1, 6000, 1)))
    np.testing.assert_array_equal(results.y, np.ones((1, 1, 6000, 1)))
    assert_close(results.dx.ravel(), np.array([3000.0, 3000.0]), 1e-12)


def test_no_steps_where_nothing_changes():
    layers = (Input((2, 3, 4)), nnkit.UpSampling2D(1), nnkit.UpSampling2D((1, 1), interpolation="bilinear"))
    graph = Sequential(layers).graph()
    assert [step.kernel for step in build(graph, lay_out(graph, None, "float32"), "predict", 4).steps] == [
        "prims.feed.gather_rows", "prims.feed.scatter", "prims.feed.advance"]


@pytest.mark.parametrize(("name", "expected"), [
    ("ZeroPadding1D", {"padding": 1}), ("ZeroPadding2D", {"padding": (1, 1)}), ("ZeroPadding3D", {"padding": ((1, 1), (1, 1), (1, 1))}),
    ("Cropping1D", {"cropping": (1, 1)}), ("Cropping2D", {"cropping": ((0, 0), (0, 0))}), ("Cropping3D", {"cropping": ((1, 1), (1, 1), (1, 1))}),
    ("UpSampling1D", {"size": 2}), ("UpSampling2D", {"size": (2, 2), "interpolation": "nearest"}), ("UpSampling3D", {"size": (2, 2, 2)}),
    ("SpatialDropout1D", {"rate": 0.5, "seed": None}), ("SpatialDropout2D", {"rate": 0.5, "seed": None}),
    ("SpatialDropout3D", {"rate": 0.5, "seed": None}),
])
def test_fields_are_those_of_keras(name, expected):
    cls = getattr(nnkit, name)
    found = [parameter for parameter in inspect.signature(cls).parameters if parameter not in ("name", "trainable", "learning_rate_factor")]
    assert found == [*expected]
    given = {"rate": 0.5} if "rate" in expected else {}
    assert cls(**given) == cls(**expected)
    assert repr(cls(**given)) == f"{name}({'0.5' if given else ''})"


def test_forms_of_pairs():
    """A number, one for each axis, a pair for each; of one axis a pair alone, which is no number for each axis."""
    assert nnkit.ZeroPadding2D(2) == nnkit.ZeroPadding2D((2, 2)) == nnkit.ZeroPadding2D([[2, 2], [2, 2]])
    assert nnkit.Cropping2D((1, (0, 2))).cropping == ((1, 1), (0, 2))
    assert nnkit.ZeroPadding1D((1, 3)).padding == nnkit.ZeroPadding1D(((1, 3),)).padding == ((1, 3),)
    assert repr(nnkit.Cropping1D((0, 3))) == "Cropping1D(cropping=((0, 3),))"
    assert repr(nnkit.UpSampling2D((2, 3), "bilinear")) == "UpSampling2D(size=(2, 3), interpolation='bilinear')"


@pytest.mark.parametrize(("make", "message"), [
    (lambda: nnkit.ZeroPadding2D(-1), "ZeroPadding2D: padding must be a whole number of at least 0, or a tuple of 2 numbers or pairs (before, "
                                      "behind), received ((-1, -1), (-1, -1))"),
    (lambda: nnkit.ZeroPadding3D((1, 2)), "ZeroPadding3D: padding must be a whole number of at least 0, or a tuple of 3 numbers or pairs (before, "
                                          "behind), received ((1, 1), (2, 2))"),
    (lambda: nnkit.ZeroPadding2D("same"), "ZeroPadding2D: padding must be a whole number of at least 0, or a tuple of 2 numbers or pairs (before, "
                                          "behind), received 'same'"),
    (lambda: nnkit.ZeroPadding2D().output_shape((4,)), "ZeroPadding2D needs samples of 3 axes (height x width, channels), received samples of "
                                                       "shape (4,)"),
    (lambda: nnkit.Cropping2D(2).output_shape((5, 4, 3)), "Cropping2D: cropping ((2, 2), (2, 2)) must leave something of every axis, received "
                                                          "samples of shape (5, 4, 3)"),
    (lambda: nnkit.Cropping1D().output_shape((0, 3)), "Cropping1D: cropping ((1, 1),) must leave something of every axis, received samples of "
                                                      "shape (0, 3)"),
    (lambda: nnkit.UpSampling1D(0), "UpSampling1D: size must be a whole number of at least 1, or a tuple of 1 of them, received (0,)"),
    (lambda: nnkit.UpSampling2D(2, "bicubic"), "UpSampling2D: interpolation must be one of 'nearest', 'bilinear', received 'bicubic'"),
    (lambda: nnkit.UpSampling3D().output_shape((2, 3, 1)), "UpSampling3D needs samples of 4 axes (depth x height x width, channels), received "
                                                           "samples of shape (2, 3, 1)"),
])
def test_refusals(make, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        make()
