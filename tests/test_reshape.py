"""Flatten and Reshape beyond the case table: no steps, and what they refuse."""

import re

import pytest

from nnkit.layers.reshape import Flatten, Reshape
from nnkit.network import Sequential
from nnkit.plan.build import build
from nnkit.plan.layout import lay_out
from nnkit.tensors import Input


def test_no_steps():
    graph = Sequential((Input((2, 6)), Reshape((3, -1)), Flatten())).graph()
    assert [step.kernel for step in build(graph, lay_out(graph, None, "float32"), "predict", 4).steps] == [
        "prims.feed.gather_rows", "prims.feed.scatter", "prims.feed.advance"]


@pytest.mark.parametrize(("target", "shape", "expected"), [
    ((-1,), (2, 3), (6,)), ((3, -1, 2), (12,), (3, 2, 2)), ((), (1,), ()), ((-1, 5), (0, 5), (0, 5)),
])
def test_output_shape(target, shape, expected):
    assert Reshape(target).output_shape(shape) == expected


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Reshape((-1, 2, -1)), "Reshape: target_shape must hold -1 at most once, received (-1, 2, -1)"),
    (lambda: Reshape((2, -2)), "Reshape: target_shape must be a tuple of whole numbers at least 0 or -1, received (2, -2)"),
    (lambda: Reshape((4, 2)).output_shape((9,)), "Reshape: target_shape must hold the 9 numbers of a sample of shape (9,), received (4, 2)"),
    (lambda: Reshape((4, -1)).output_shape((3, 3)), "Reshape: target_shape must hold the 9 numbers of a sample of shape (3, 3), received (4, -1)"),
    (lambda: Reshape((0, -1)).output_shape((0,)), "Reshape: target_shape must hold the 0 numbers of a sample of shape (0,), received (0, -1)"),
])
def test_refusals(make, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        make()
