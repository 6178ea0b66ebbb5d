"""What the case table cannot say of losses: messages, targets as users pass them, ties and extremes, fusion, the sum over the batch."""

import numpy as np
import pytest

from helpers import Rig, assert_close
from nnkit.layers.activation import Activation
from nnkit.layers.dense import Dense
from nnkit.layers.reshape import Flatten
from nnkit.losses import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    CategoricalHinge,
    Hinge,
    Huber,
    KLDivergence,
    LogCosh,
    MeanAbsoluteError,
    MeanSquaredError,
    Poisson,
    SparseCategoricalCrossentropy,
    SquaredHinge,
)
from nnkit.losses.crossentropy_cpu import valid_share
from nnkit.losses.reduce_cpu import accumulate, report
from nnkit.network import Sequential
from nnkit.plan.build import build
from nnkit.plan.layout import lay_out
from nnkit.regularizers import L2
from nnkit.spec import resolve
from nnkit.tensors import Input

EXACT = 1e-12               # float64, few roundings


def network(*layers, shape=(4,)):
    return Sequential([Input(shape), *layers])


def rig(*layers, loss, shape=(4,), batch=3, seed=0, **options):
    net = network(*layers, shape=shape)
    rng = np.random.default_rng(seed)
    parameters = {name: declared.initializer.values(declared.shape, rng) for name, declared in net.graph().parameters().items()}
    return Rig(net, parameters, batch, loss=loss, **options)


def logits_of(loss):
    return type(loss)(from_logits=True, **({"ignore_class": loss.ignore_class} if isinstance(loss, SparseCategoricalCrossentropy) else {}))


@pytest.mark.parametrize(("name", "loss"), [
    ("mse", MeanSquaredError()), ("MSE", MeanSquaredError()), ("mean_squared_error", MeanSquaredError()), ("mae", MeanAbsoluteError()),
    ("MAE", MeanAbsoluteError()), ("mean_absolute_error", MeanAbsoluteError()), ("huber", Huber()), ("log_cosh", LogCosh()),
    ("kl_divergence", KLDivergence()), ("kld", KLDivergence()), ("KLD", KLDivergence()), ("poisson", Poisson()), ("hinge", Hinge()),
    ("squared_hinge", SquaredHinge()), ("categorical_hinge", CategoricalHinge()), ("bce", BinaryCrossentropy()), ("BCE", BinaryCrossentropy()),
    ("binary_crossentropy", BinaryCrossentropy()), ("categorical_crossentropy", CategoricalCrossentropy()),
    ("sparse_categorical_crossentropy", SparseCategoricalCrossentropy())])
def test_shorthands(name, loss):
    assert resolve("loss", name) == loss


def test_labels_are_keras_names():
    assert [loss().label for loss in (KLDivergence, MeanSquaredError, LogCosh, SparseCategoricalCrossentropy)] == [
        "kl_divergence", "mean_squared_error", "log_cosh", "sparse_categorical_crossentropy"]


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Huber(delta=0), "Huber: delta must be a finite number greater than 0, received 0.0"),
    (lambda: BinaryCrossentropy(label_smoothing=1.5),
     "BinaryCrossentropy: label_smoothing must be a finite number at least 0 and at most 1, received 1.5"),
    (lambda: CategoricalCrossentropy(from_logits=1), "CategoricalCrossentropy: from_logits must be True or False, received 1"),
    (lambda: SparseCategoricalCrossentropy(ignore_class=0.5),
     "SparseCategoricalCrossentropy: ignore_class must be a whole number or None, received 0.5")])
def test_wrong_fields_are_refused(make, message):
    with pytest.raises(ValueError) as error:             # noqa: PT011  (the whole message is compared)
        make()
    assert str(error.value) == message


@pytest.mark.parametrize(("loss", "shape", "message"), [
    (SparseCategoricalCrossentropy(), (1,), "sparse_categorical_crossentropy must have an output of at least 2 classes on its last axis, received "
     "shape (1,): use binary_crossentropy for two classes on one unit"),
    (CategoricalCrossentropy(), (3, 1), "categorical_crossentropy must have an output of at least 2 classes on its last axis, received "
     "shape (3, 1): use binary_crossentropy for two classes on one unit"),
    (CategoricalHinge(), (), "categorical_hinge must have an output of at least 2 classes on its last axis, received "
     "shape (): use hinge for two classes on one unit")])
def test_outputs_that_do_not_fit_are_refused(loss, shape, message):
    with pytest.raises(ValueError) as error:             # noqa: PT011
        loss.check(shape)
    assert str(error.value) == message


@pytest.mark.parametrize("loss", [MeanSquaredError(), BinaryCrossentropy(), Hinge(), KLDivergence(), Poisson()])
def test_pointwise_losses_take_any_output(loss):
    for shape in [(), (1,), (3,), (2, 5)]:
        loss.check(shape)
        assert loss.target(shape) == (shape, "T")


@pytest.mark.parametrize(("loss", "y", "shape", "message"), [
    (BinaryCrossentropy(), [[0.0], [2.0]], (1,), "y must hold values from 0 to 1 for binary_crossentropy, received 2 at position (1, 0)"),
    (BinaryCrossentropy(), [[0.0, 1.0]], (3,), "y must have shape (samples, 3), received (1, 2)"),
    (KLDivergence(), [[0.5, -0.5]], (2,), "y must hold probabilities from 0 to 1 for kl_divergence, received -0.5 at position (0, 1)"),
    (Poisson(), [[3], [-1]], (1,), "y must hold counts of at least 0 for poisson, received -1 at position (1, 0)"),
    (Hinge(), [-1, 0, 1], (1,), "y must hold -1 and 1, or 0 and 1, for hinge, received 0 at position (1, 0)"),
    (CategoricalHinge(), [[0, 2]], (2,), "y must hold one-hot rows for categorical_hinge, received 2 at position (0, 1)"),
    (CategoricalCrossentropy(), [0, 2, 1], (3,), "y must have shape (samples, 3) for categorical_crossentropy, received (3,): class labels need the "
     "loss sparse_categorical_crossentropy"),
    (CategoricalCrossentropy(), [[0], [2]], (3,), "y must have shape (samples, 3) for categorical_crossentropy, received (2, 1): class labels need "
     "the loss sparse_categorical_crossentropy"),
    (CategoricalCrossentropy(), [[0, 0, 3]], (3,), "y must hold one-hot rows or probabilities from 0 to 1 for categorical_crossentropy, received 3 "
     "at position (0, 2)"),
    (SparseCategoricalCrossentropy(), [0, 1, 3], (3,), "y must hold class labels from 0 to 2, received 3 at position 2"),
    (SparseCategoricalCrossentropy(ignore_class=-1), [0, -1, -2], (3,),
     "y must hold class labels from 0 to 2, or -1 to ignore, received -2 at position 2"),
    (SparseCategoricalCrossentropy(), [0, 1.5], (3,), "y must hold whole numbers, received 1.5 at position 1"),
    (SparseCategoricalCrossentropy(), np.eye(3), (3,), "y must have shape (samples,) or (samples, 1), received (3, 3): one-hot rows need the loss "
     "categorical_crossentropy"),
    (SparseCategoricalCrossentropy(), [[0, 1], [1, 5]], (2, 3), "y must hold class labels from 0 to 2, received 5 at position (1, 1)"),
    (SparseCategoricalCrossentropy(ignore_class=9), [[0, 9], [-1, 2]], (2, 3), "y must hold class labels from 0 to 2, or 9 to ignore, received -1 at "
     "position (1, 0)"),
    (SparseCategoricalCrossentropy(), np.zeros((4, 2, 3)), (2, 3), "y must have shape (samples, 2), received (4, 2, 3): one-hot rows need the loss "
     "categorical_crossentropy")])
def test_wrong_targets_are_refused(loss, y, shape, message):
    with pytest.raises(ValueError) as error:             # noqa: PT011
        loss.prepare(y, shape, "float32")
    assert str(error.value) == message


@pytest.mark.parametrize(("loss", "y", "shape", "expected", "dtype"), [
    (BinaryCrossentropy(), [True, False], (1,), [[1], [0]], "float32"),
    (MeanSquaredError(), [1, 2, 3], (1,), [[1], [2], [3]], "float32"),
    (Hinge(), [0, 1, 1], (1,), [[-1], [1], [1]], "float32"),
    (Hinge(), [-1, 1], (1,), [[-1], [1]], "float32"),
    (SquaredHinge(), [[1, 1]], (2,), [[1, 1]], "float32"),
    (SparseCategoricalCrossentropy(), [[0.0], [2.0]], (3,), [0, 2], "int32"),
    (SparseCategoricalCrossentropy(ignore_class=-1), [0, -1], (3,), [0, -1], "int32"),
    (SparseCategoricalCrossentropy(ignore_class=255), [[0, 255]], (2, 3), [[0, 255]], "int32"),
    (SparseCategoricalCrossentropy(), [[[0], [1]]], (2, 3), [[0, 1]], "int32"),
    (CategoricalCrossentropy(), np.eye(3, dtype=bool), (3,), np.eye(3), "float32")])
def test_targets_are_prepared(loss, y, shape, expected, dtype):
    found = loss.prepare(y, shape, "float32")
    assert found.dtype == dtype
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


def test_targets_that_are_right_are_not_copied():
    y = np.random.default_rng(0).random((5, 2)).astype("float32")
    assert MeanSquaredError().prepare(y, (2,), "float32") is y
    assert BinaryCrossentropy().prepare(y, (2,), "float32") is y


# Fusion.

FUSED = [
    (BinaryCrossentropy(), "sigmoid", "binary_crossentropy", [[0, 1, 1, 0]] * 3),
    (CategoricalCrossentropy(), "softmax", "categorical_crossentropy", np.eye(4)[:3]),
    (SparseCategoricalCrossentropy(ignore_class=-1), "softmax", "sparse_categorical_crossentropy", np.array([2, -1, 0], np.int32)),
]
every_fused = pytest.mark.parametrize(("loss", "activation", "kernel", "t"), FUSED, ids=["binary", "categorical", "sparse"])


@every_fused
def test_fused_equals_unfused_and_from_logits(loss, activation, kernel, t):
    """An activity penalty of 0 keeps the pass away; the numbers stay (probabilities far from the clip)."""
    x, t, w = np.random.default_rng(3).standard_normal((3, 4)), np.asarray(t), np.array([1.0, 0.5, 2.0])
    if t.dtype != np.int32:
        t = t.astype(np.float64)
    fused = rig(Dense(4, activation), loss=loss)
    apart = rig(Dense(4, activation, activity_regularizer=L2(0.0)), loss=loss)
    logits = rig(Dense(4), loss=logits_of(loss))
    assert f"losses.crossentropy.{kernel}_logits_forward" in fused.tape("gradients").plan.kernels
    assert f"losses.crossentropy.{kernel}_logits_backward" in fused.tape("gradients").plan.kernels
    assert f"losses.crossentropy.{kernel}_forward" in apart.tape("gradients").plan.kernels
    assert f"losses.crossentropy.{kernel}_backward" in apart.tape("gradients").plan.kernels
    expected = fused.run(x, t, w)
    for other in (apart, logits):
        found = other.run(x, t, w)
        assert_close(found.loss, expected.loss, EXACT)
        assert_close(found.dx, expected.dx, EXACT)
        for name, gradient in expected.gradients.items():
            assert_close(found.gradients[name], gradient, EXACT, name)


@every_fused
def test_activation_goes_away_where_nobody_reads_it(loss, activation, kernel, t):
    net = network(Dense(4, activation))
    for mode in ("gradients", "evaluate"):
        plan = build(net.graph(), lay_out(net.graph(), None, "float32"), mode, 3, losses=[(loss, 1.0)])
        assert not [name for name in plan.kernels if activation in name]


@every_fused
def test_activity_penalty_on_the_activation_counts(loss, activation, kernel, t):
    """The gradient of loss plus penalty is the sum of both, so the loss's step must not swallow the penalty's."""
    x = np.random.default_rng(4).standard_normal((3, 4))
    t = np.asarray(t) if np.asarray(t).dtype == np.int32 else np.asarray(t, np.float64)
    with_penalty = rig(Dense(4, activation, activity_regularizer=L2(0.3)), loss=loss)
    results = with_penalty.run(x, t, np.ones(3))
    objective, step = [], 1e-6
    for sign in (1, -1):
        moved = x.copy()
        moved[1, 2] += sign * step
        objective.append(with_penalty.run(moved, t, np.ones(3)).loss)
    # a central difference of step 1e-6 is good to about 1e-10
    assert results.dx[1, 2] == pytest.approx((objective[0] - objective[1]) / (2 * step), abs=1e-8)


def test_softmax_over_other_rows_does_not_fuse():
    """Softmax over the last axis of (2, 3), then Flatten: the loss's rows have 6 entries of two distributions."""
    loss = CategoricalCrossentropy()
    flat = rig(Activation("softmax"), Flatten(), loss=loss, shape=(2, 3))
    x, t = np.random.default_rng(5).standard_normal((3, 2, 3)), np.eye(6)[:3]
    results = flat.run(x, t, np.ones(3))
    p = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
    assert_close(results.loss, np.mean([-np.log(p.reshape(3, 6)[n, n] / 2) for n in range(3)]), EXACT)
    assert "losses.crossentropy.categorical_crossentropy_forward" in flat.tape("gradients").plan.kernels


# Extremes.

@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("loss", "t"), [(CategoricalCrossentropy(from_logits=True), np.eye(3)), (SparseCategoricalCrossentropy(from_logits=True),
                                                                                                np.arange(3, dtype=np.int32))])
def test_large_logits(loss, t, dtype):
    """Losses log(1 + 2 e^-2000) = 0, 2000, and log 3 at equal logits of 1e4; minus infinity at a class that is not the true one is 0 more."""
    x = np.array([[1000.0, -1000.0, -1000.0], [1000.0, -1000.0, -np.inf], [1e4, 1e4, 1e4]])
    results = rig(loss=loss, shape=(3,), dtype=dtype, debug=False).run(x, t, np.ones(3))
    assert results.loss == pytest.approx((0 + 2000 + np.log(3)) / 3, rel=1e-6)         # float32 rounds by 6e-8
    np.testing.assert_allclose(results.dx, np.array([[0, 0, 0], [1, -1, 0], [1 / 3, 1 / 3, -2 / 3]]) / 3, atol=1e-7)


@pytest.mark.parametrize("loss", [MeanSquaredError(), MeanAbsoluteError(), Huber(), LogCosh(), Poisson(), KLDivergence(), Hinge(), SquaredHinge(),
                                  BinaryCrossentropy(), BinaryCrossentropy(from_logits=True), CategoricalCrossentropy(),
                                  CategoricalCrossentropy(from_logits=True), CategoricalHinge(), SparseCategoricalCrossentropy(),
                                  SparseCategoricalCrossentropy(from_logits=True)], ids=repr)
def test_nan_stays_nan(loss):
    """A NaN in the output is a NaN in the loss; the rows beside it keep their gradients."""
    x = np.random.default_rng(6).uniform(0.1, 0.9, (3, 5))
    x[1, 3] = np.nan
    t = np.array([1, 3, 2], np.int32) if loss.target((5,))[1] == "int32" else np.eye(5)[[1, 3, 2]]
    results = rig(loss=loss, shape=(5,), debug=False).run(x, t, np.ones(3))
    assert np.isnan(results.loss)
    assert np.isfinite(results.dx[[0, 2]]).all()


@pytest.mark.parametrize(("loss", "t"), [(BinaryCrossentropy(), [0.0]), (KLDivergence(), [0.3]), (Hinge(), [1.0]), (SquaredHinge(), [-1.0]),
                                         (CategoricalHinge(), [0.0, 1.0]), (SparseCategoricalCrossentropy(), 1)], ids=repr)
def test_nan_is_in_the_gradient_too(loss, t):
    """Comparisons with NaN are false: none of them may make it the 0 of what was clipped or is beyond a corner."""
    t = np.array([t], np.int32 if loss.target((2,))[1] == "int32" else np.float64)
    shape = (2,) if t.ndim == 1 or t.shape[1] == 2 else (1,)
    x = np.full((1, *shape), 0.4)
    x[0, 0] = np.nan
    results = rig(loss=loss, shape=shape, batch=1, debug=False).run(x, t, np.ones(1))
    assert np.isnan(results.loss)
    assert np.isnan(results.dx[0, 0])


@pytest.mark.parametrize(("loss", "x", "t", "expected"), [
    (BinaryCrossentropy(from_logits=True), [np.inf], [1.0], 0), (BinaryCrossentropy(from_logits=True), [-np.inf], [0.0], 0),
    (BinaryCrossentropy(from_logits=True), [np.inf], [0.0], np.inf), (BinaryCrossentropy(from_logits=True), [-np.inf], [0.5], np.inf),
    (CategoricalCrossentropy(from_logits=True), [-np.inf, 0, 0], [0.0, 1, 0], np.log(2)),
    (CategoricalCrossentropy(from_logits=True, label_smoothing=1.0), [-np.inf, 0, 0], [1.0, 0, 0], np.inf),
    (CategoricalHinge(), [0, -np.inf], [0.0, 1.0], np.inf), (LogCosh(), [-np.inf], [0.0], np.inf),
])
def test_infinities_go_to_the_limit(loss, x, t, expected):
    """What a factor of 0 multiplies counts as 0, and nothing infinite is subtracted from another."""
    results = rig(loss=loss, shape=(len(x),), batch=1, debug=False).run(np.array([x]), np.array([t]), np.ones(1))
    assert results.loss == pytest.approx(expected, rel=1e-15)
    assert np.isfinite(results.dx).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("loss", "x", "t", "expected"), [
    (LogCosh(), [0, 1e-6, -1e-3, 0.01, 0.999, 1.001, -4, 80], 0, lambda x: np.log1p(2 * np.sinh(x / 2) ** 2)),
    (BinaryCrossentropy(from_logits=True), [-1, 0, 1, 5, 12, 20, 60], 1, lambda x: np.log1p(np.exp(-x))),
    (BinaryCrossentropy(from_logits=True), [1, 0, -1, -5, -12, -20, -60], 0, lambda x: np.log1p(np.exp(x))),
], ids=["log_cosh", "bce-1", "bce-0"])
def test_small_losses_are_right_to_the_last_digits(loss, x, t, expected, dtype):
    """Where the output is nearly right the loss is small beside the numbers that it is the difference of: the textbook's formulas leave 0 of it,
    or 6e-8. Functions of 3 ulp and a few more roundings."""
    x = np.array(x, dtype)[:, None]
    for row in x:
        found = rig(loss=loss, shape=(1,), batch=1, dtype=dtype).run(row[None], np.full((1, 1), float(t)), np.ones(1)).loss
        np.testing.assert_allclose(found, expected(row[0].astype(np.longdouble)).astype(np.float64), rtol=8 * np.finfo(dtype).eps)


def test_ignored_rows_hide_what_stands_there():
    """Keras: rows of the ignored class count neither in loss nor in gradient, even where they are NaN; the mean is over the others."""
    loss = SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    x = np.array([[1.0, 2, 3], [np.nan, 5, 6], [0, 1, 0]])
    results = rig(loss=loss, shape=(3,), debug=False).run(x, np.array([0, -1, 2], np.int32), np.array([1.0, 2, 3]))
    assert results.loss == pytest.approx(3.5309699, rel=1e-6)                           # from Keras 3, which prints float32
    np.testing.assert_allclose(results.dx, [[-0.45498472, 0.12236424, 0.33262047], [0, 0, 0], [0.31791234, 0.86417538, -1.18208766]], atol=1e-8)


def test_valid_share():
    valid = np.zeros(1, "float32")
    for t, mask, expected in [([0, 1, 2, 1], [], 4 / 2), ([1, 1], [], 0), ([0, 2], [], 1), ([0, 1, 2, 1], [1, 1, 0, 0], 2),
                              ([0, 1, 2, 1], [0, 1, 0, 1], 0), ([0, 1, 2, 1], [1, 0], 2), ([0, 2], [0, 0], 0)]:
        valid_share(0, 1, valid, np.array(t, np.int32), np.array(mask, "float32"), 1)
        assert valid[0] == expected


def test_kinks():
    """At a kink: 0 for |e| and the hinges' corner, as in Keras; the clip's own ends still count as inside."""
    same = np.array([[0.5, 1.0]])
    assert not rig(loss=MeanAbsoluteError(), shape=(2,), batch=1).run(same, same.copy(), np.ones(1)).dx.any()
    assert not rig(loss=Hinge(), shape=(2,), batch=1).run(np.ones((1, 2)), np.ones((1, 2)), np.ones(1)).dx.any()
    tied = rig(loss=CategoricalHinge(), shape=(3,), batch=1).run(np.array([[0.5, 0.7, 0.5]]), np.array([[0.0, 1.0, 0.0]]), np.ones(1))
    np.testing.assert_array_equal(tied.dx, [[1, -1, 0]])
    assert tied.loss == pytest.approx(0.8)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 37, 256])
def test_accumulate(size):
    """Mean of the rows plus penalties, times the batch, on top of what is there; the mean alone as term 0; NaN shows."""
    rng = np.random.default_rng(size)
    rows, penalties, sums = rng.standard_normal(size).astype("float32"), np.array([0.25, 0.5]), np.array([10.0, 4, 0, 0, 0, 0, 0, 0])
    accumulate(0, 1, sums, rows, penalties, 6, 0, 1.0, 1)
    expected = rows.astype(np.float64).mean() + 0.75
    np.testing.assert_allclose(sums[:3], [10 + 6 * expected, 10, expected], rtol=1e-14)  # float64, sums of at most 256 terms of size 1
    np.testing.assert_allclose(sums[3], 6 * (expected - 0.75), rtol=1e-13)      # it may be small beside the penalties
    rows[-1] = np.nan
    accumulate(0, 1, sums, rows, penalties, 6, 0, 1.0, 1)
    assert np.isnan(sums[2])


def test_two_terms_are_added_and_reported_without_their_weights():
    """Rows carry their weight (0.5 and 4); the terms do not. Every number is exact in binary."""
    penalties, sums = np.array([0.25]), np.zeros(8)
    for term, (rows, weight) in enumerate([([1, 2, 3], 0.5), ([8, 16, 24], 4.0)]):
        accumulate(0, 1, sums, np.array(rows, "float32"), penalties, 3, term, 1 / weight, term)
    report(0, 1, sums, penalties, 3, 2)
    assert sums.tolist() == [3 * 18.25, 3, 18.25, 3 * 4, 3 * 4, 3 * 0.25, 0, 0]
