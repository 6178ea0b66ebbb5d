"""Softmax and LogSoftmax beyond the case table: large and infinite numbers, layouts, refusals."""

import math
import re

import numpy as np
import pytest

import naive
from helpers import Rig, assert_close
from nnkit.layers.activation import Activation
from nnkit.layers.softmax import LogSoftmax, Softmax
from nnkit.network import Sequential
from nnkit.tensors import Input

INF, NAN = math.inf, math.nan


def rows(spec, x, dtype="float32", dy=None):
    rig = Rig(Sequential((Input(x.shape[1:]), spec)), {}, len(x), dtype=dtype, debug=False)
    return rig.run(np.asarray(x, dtype), np.zeros_like(x, dtype) if dy is None else dy)


@pytest.mark.parametrize("spec", [Softmax(), LogSoftmax(), Softmax(axis=1), LogSoftmax(axis=1)], ids=repr)
@pytest.mark.parametrize("C", [3, 16, 17, 50])
def test_softmax_of_large_and_infinite_numbers(spec, C):
    """A common large number changes nothing; -inf has probability 0; NaN, or inf, makes its line NaN and no other one."""
    rng = np.random.default_rng(C)
    x = np.round(rng.standard_normal((5, C, 3)) * 64) / 64                        # exact when 1024 is added, in float32
    x = x if spec.axis == 1 else np.moveaxis(x, 1, 2)
    expected = naive.forward(spec, {}, x)
    assert_close(rows(spec, x + 1024).y, expected, 2e-6)                          # sums of up to 50 terms, logarithms of size 5
    lines = np.moveaxis(x, spec.axis, -1).copy()
    lines[0, 0, 1], lines[1, 2, 0], lines[2, 1, 2] = -INF, NAN, INF
    y = np.moveaxis(rows(spec, np.moveaxis(lines, -1, spec.axis)).y, spec.axis, -1)
    y = np.exp(y) if isinstance(spec, LogSoftmax) else y
    assert y[0, 0, 1] == 0
    assert abs(y[0, 0].sum() - 1) < 1e-5                                          # exp of a logarithm of size 10: 10 roundings of 6e-8, and the sum's
    bad = np.zeros((5, 3), bool)
    bad[1, 2] = bad[2, 1] = True
    assert np.isnan(y[bad]).all()
    assert np.isfinite(y[~bad]).all()


@pytest.mark.parametrize("spec", [Softmax(), LogSoftmax()], ids=repr)
def test_softmax_does_not_depend_on_the_layout(spec):
    """The last axis and another one: two kernels, the same numbers but for the order of a sum."""
    rng = np.random.default_rng(5)
    x, dy = rng.standard_normal((4, 7, 13)), rng.standard_normal((4, 7, 13))
    last = rows(spec, x, "float64", dy)
    other = rows(type(spec)(axis=1), np.ascontiguousarray(np.moveaxis(x, 1, 2)), "float64", np.ascontiguousarray(np.moveaxis(dy, 1, 2)))
    assert_close(np.moveaxis(other.y, 1, 2), last.y, 1e-13)
    assert_close(np.moveaxis(other.dx, 1, 2), last.dx, 1e-13)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Softmax(axis=0).output_shape((3,)), "Softmax: axis must name an axis other than the batch of an input of 2 axes, "
                                                 "batch included, received 0"),
    (lambda: Softmax(axis=-3).output_shape((3, 4)), "Softmax: axis must name an axis other than the batch of an input of 3 axes, "
                                                    "batch included, received -3"),
    (lambda: LogSoftmax().output_shape(()), "LogSoftmax: axis must name an axis other than the batch of an input of 1 axes, batch "
                                               "included, received -1"),
    (lambda: Activation(Softmax(axis=2)).output_shape((3,)), "Softmax: axis must name an axis other than the batch of an input of 2 "
                                                             "axes, batch included, received 2"),
])
def test_refusals(make, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        make()
