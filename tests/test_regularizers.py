"""Regularizers: the penalty, its factors, shorthands, JSON, refusals."""

import numpy as np
import pytest

import nnkit.regularizers as regularizers
from nnkit.regularizers import L1, L1L2, L2
from nnkit.spec import from_json, resolve, to_json

W = np.array([[1.0, -2.0, 0.0], [0.5, 3.0, -1.5]])                               # sum|w| = 8, sum w^2 = 16.5


@pytest.mark.parametrize(("regularizer", "l1", "l2", "penalty"), [
    (L1(), 0.01, 0.0, 0.08), (L2(), 0.0, 0.01, 0.165), (L1L2(), 0.0, 0.0, 0.0), (L1(0.3), 0.3, 0.0, 2.4), (L2(0.2), 0.0, 0.2, 3.3),
    (L1L2(0.3, 0.2), 0.3, 0.2, 5.7),
])
def test_penalty_and_factors(regularizer, l1, l2, penalty):
    assert (regularizer.l1, regularizer.l2) == (l1, l2)
    assert regularizer(W) == pytest.approx(penalty, rel=1e-14)                  # a handful of exact float64 terms
    assert regularizer(W.astype(np.float32).reshape(3, 2, 1)) == pytest.approx(penalty, rel=1e-14)
    assert regularizer([]) == 0.0
    assert eval(repr(regularizer), vars(regularizers)) == regularizer
    assert from_json(to_json(regularizer)) == regularizer


def test_shorthands():
    assert resolve("regularizer", "l1") == L1(0.01)
    assert resolve("regularizer", "l2") == L2(0.01)
    assert resolve("regularizer", "l1_l2") == L1L2(0.0, 0.0)
    assert L1(0.1) != L1L2(0.1)
    with pytest.raises(ValueError, match=r"^unknown regularizer 'l3': known are l1, l1_l2, l2$"):
        resolve("regularizer", "l3")


@pytest.mark.parametrize(("make", "message"), [
    (lambda: L1(-0.1), "L1: l1 must be a finite number at least 0, received -0.1"),
    (lambda: L2("much"), "L2: l2 must be a finite number at least 0, received 'much'"),
    (lambda: L1L2(0.1, float("nan")), "L1L2: l2 must be a finite number at least 0, received nan"),
])
def test_refusals(make, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared below
        make()
    assert str(error.value) == message
