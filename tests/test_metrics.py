"""Metrics against scikit-learn and Keras' numbers: whole data and pieces, with and without weights; the choice of the accuracy; refusals."""

import math
from itertools import pairwise

import numpy as np
import pytest
from sklearn import metrics as reference

import nnkit
import nnkit.metrics
from nnkit.metrics import (
    AUC,
    BinaryAccuracy,
    CategoricalAccuracy,
    F1Score,
    Function,
    MeanAbsoluteError,
    MeanSquaredError,
    Precision,
    R2Score,
    Recall,
    RootMeanSquaredError,
    SparseCategoricalAccuracy,
    SparseTopKCategoricalAccuracy,
    TopKCategoricalAccuracy,
    choose_accuracy,
    resolve_metric,
)
from nnkit.spec import Spec, from_json, to_json

N, C = 101, 4
RNG = np.random.default_rng(11)
LABELS = RNG.integers(0, C, N)
ONE_HOT = np.eye(C)[LABELS]
# Half of it follows the labels, so that scores are neither of chance nor perfect; two decimals make many ties.
SCORES = np.round(RNG.dirichlet(np.ones(C), N) + 0.4 * ONE_HOT * RNG.random((N, 1)), 2)
BINARY = RNG.integers(0, 2, N)
CHANCE = np.round(np.clip(0.25 * BINARY + 0.75 * RNG.random(N), 0, 1), 2)
MULTI = (RNG.random((N, 3)) < 0.4).astype(float)
MULTI_CHANCE = np.round(0.3 * MULTI + 0.7 * RNG.random((N, 3)), 2)
Y = RNG.normal(3, 2, (N, 2)) * [1.0, 10.0]
Y_PRED = Y + RNG.normal(0, 1, (N, 2))
WEIGHT = np.round(RNG.uniform(0, 2, N), 2)
PICKED = SCORES.argmax(axis=1)
CLASSES = list(range(C))
# Sums of 101 float64 terms in another order: well below 101 eps = 2e-14.
SAME = 1e-13


def score(metric, y_true, y_pred, weight=None, pieces=1):
    """The metric over so many pieces of unequal length."""
    ends = np.unique([0, *(len(y_true) * np.arange(1, pieces) ** 2 // pieces**2), len(y_true)])
    parts = [metric.update(y_true[a:b], y_pred[a:b], None if weight is None else weight[a:b]) for a, b in pairwise(ends)]
    assert all(part.dtype == np.float64 and part.ndim == 1 for part in parts)
    return metric.result(np.sum(parts, axis=0))


def f1(average):
    return lambda t, p, **w: reference.f1_score(t, p, average=average, labels=CLASSES, zero_division=0, **w)


def precision(average):
    return lambda t, p, **w: reference.precision_score(t, p, average=average, labels=CLASSES, zero_division=0, **w)


def recall(average):
    return lambda t, p, **w: reference.recall_score(t, p, average=average, labels=CLASSES, zero_division=0, **w)


BY_CHANCE = (CHANCE > 0.5).astype(int)
# metric, targets, predictions, scikit-learn's function, its targets, its predictions
CASES = [
    (BinaryAccuracy(), BINARY, CHANCE, reference.accuracy_score, BINARY, BY_CHANCE),
    (BinaryAccuracy(0.3), BINARY[:, None], CHANCE, reference.accuracy_score, BINARY, CHANCE > 0.3),
    (BinaryAccuracy(), BINARY, CHANCE[:, None].astype(np.float32), reference.accuracy_score, BINARY, CHANCE.astype(np.float32) > 0.5),
    (BinaryAccuracy(), 2 * BINARY - 1, CHANCE, reference.accuracy_score, BINARY, BY_CHANCE),
    (CategoricalAccuracy(), ONE_HOT, SCORES, reference.accuracy_score, LABELS, PICKED),
    (SparseCategoricalAccuracy(), LABELS, SCORES, reference.accuracy_score, LABELS, PICKED),
    (SparseCategoricalAccuracy(), LABELS[:, None].astype(np.uint8), SCORES, reference.accuracy_score, LABELS, PICKED),
    (Precision(), BINARY, CHANCE, reference.precision_score, BINARY, BY_CHANCE),
    (Recall(0.3), BINARY, CHANCE[:, None], reference.recall_score, BINARY, CHANCE > 0.3),
    (F1Score(), BINARY[:, None], CHANCE[:, None], reference.f1_score, BINARY, BY_CHANCE),
    (F1Score(0.7), BINARY, CHANCE, reference.f1_score, BINARY, CHANCE > 0.7),
    *[(F1Score(average=average), ONE_HOT, SCORES, f1(average), LABELS, PICKED) for average in ("micro", "macro", "weighted")],
    *[(F1Score(average=average), LABELS, SCORES, f1(average), LABELS, PICKED) for average in ("micro", "macro", "weighted")],
    *[(Precision(None, average), LABELS, SCORES, precision(average), LABELS, PICKED) for average in ("micro", "macro", "weighted")],
    *[(Recall(None, average), LABELS[:, None], SCORES, recall(average), LABELS, PICKED) for average in ("micro", "macro", "weighted")],
    *[(F1Score(0.5, average), MULTI, MULTI_CHANCE, (lambda t, p, average=average, **w: reference.f1_score(t, p, average=average, **w)), MULTI,
       MULTI_CHANCE > 0.5) for average in ("micro", "macro", "weighted")],
    (Precision(), MULTI, MULTI_CHANCE, (lambda t, p, **w: reference.precision_score(t, p, average="micro", **w)), MULTI, MULTI_CHANCE > 0.5),
    (AUC(), BINARY, CHANCE, reference.roc_auc_score, BINARY, CHANCE),
    (AUC(), BINARY[:, None], CHANCE, reference.roc_auc_score, BINARY, CHANCE),
    (AUC(), LABELS, SCORES, (lambda t, p, **w: reference.roc_auc_score(t, p, average="micro", **w)), ONE_HOT, SCORES),
    (MeanAbsoluteError(), Y, Y_PRED, reference.mean_absolute_error, Y, Y_PRED),
    (MeanSquaredError(), Y, Y_PRED, reference.mean_squared_error, Y, Y_PRED),
    (RootMeanSquaredError(), Y[:, 0], Y_PRED[:, :1], reference.root_mean_squared_error, Y[:, 0], Y_PRED[:, 0]),
    (R2Score(), Y, Y_PRED, reference.r2_score, Y, Y_PRED),
    (R2Score(), Y[:, :1], Y_PRED[:, 0], reference.r2_score, Y[:, 0], Y_PRED[:, 0]),
    (Function(reference.log_loss), BINARY, CHANCE, reference.log_loss, BINARY, CHANCE),
]


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize(("metric", "y_true", "y_pred", "function", "true", "pred"), CASES,
                         ids=[f"{i}-{case[0].label}" for i, case in enumerate(CASES)])
def test_scikit_learn_whole_and_pieces(metric, y_true, y_pred, function, true, pred, weighted):
    weight = WEIGHT if weighted else None
    kept = y_true.copy(), y_pred.copy()
    expected = function(true, pred, sample_weight=weight) if weighted else function(true, pred)
    whole = score(metric, y_true, y_pred, weight)
    assert type(whole) is float
    assert whole == pytest.approx(expected, rel=SAME)
    if metric.additive:
        assert score(metric, y_true, y_pred, weight, pieces=6) == pytest.approx(expected, rel=SAME)
    np.testing.assert_array_equal(y_true, kept[0])
    np.testing.assert_array_equal(y_pred, kept[1])


@pytest.mark.parametrize(("metric", "y_true", "y_pred"), [case[:3] for case in CASES if not isinstance(case[0], Function)],
                         ids=[f"{i}-{case[0].label}" for i, case in enumerate(CASES) if not isinstance(case[0], Function)])
def test_weights_count_copies(metric, y_true, y_pred):
    copies = np.arange(N) % 3
    repeated = score(metric, np.repeat(y_true, copies, axis=0), np.repeat(y_pred, copies, axis=0))
    assert score(metric, y_true, y_pred, copies) == pytest.approx(repeated, rel=SAME)
    assert score(metric, y_true, y_pred, copies[:, None]) == pytest.approx(repeated, rel=SAME)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7])
def test_top_k(k):
    # A label is in where fewer than k scores are larger; the loop says so once more.
    expected = np.mean([sum(s > row[label] for s in row) < k for row, label in zip(SCORES, LABELS, strict=True)])
    for pieces in (1, 5):
        assert score(SparseTopKCategoricalAccuracy(k), LABELS, SCORES, pieces=pieces) == pytest.approx(expected, rel=SAME)
        assert score(TopKCategoricalAccuracy(k), ONE_HOT, SCORES, pieces=pieces) == pytest.approx(expected, rel=SAME)
    distinct = SCORES + 1e-4 * np.arange(C)
    if k < C:
        expected = reference.top_k_accuracy_score(LABELS, distinct, k=k, sample_weight=WEIGHT)
        assert score(SparseTopKCategoricalAccuracy(k), LABELS, distinct, WEIGHT) == pytest.approx(expected, rel=SAME)


def test_accuracy_never_takes_nan():
    """NaN > threshold is false and the largest of NaN is the first: neither is the right answer."""
    nan = np.nan
    assert score(BinaryAccuracy(), np.array([0, 0, 1]), np.array([nan, 0.2, 0.7])) == 2 / 3
    y = np.array([[nan, nan, nan], [0.1, nan, 0.2], [0.5, 0.4, 0.1]])
    assert score(SparseCategoricalAccuracy(), np.array([0, 1, 0]), y) == 1 / 3
    assert score(CategoricalAccuracy(), np.eye(3)[[0, 1, 0]], y) == 1 / 3


def test_top_k_never_takes_nan():
    assert score(SparseTopKCategoricalAccuracy(2), np.array([0, 1]), np.array([[np.nan, 0.1, 0.2], [0.5, 0.4, 0.1]])) == 0.5


def test_places_within_samples():
    labels, scores = LABELS[:100].reshape(20, 5), SCORES[:100].reshape(20, 5, C)
    flat, places = SparseCategoricalAccuracy().update(LABELS[:100], SCORES[:100]), SparseCategoricalAccuracy()
    np.testing.assert_array_equal(places.update(labels, scores), flat)
    np.testing.assert_array_equal(places.update(labels[..., None], scores), flat)
    by_sample, by_place = WEIGHT[:20], WEIGHT[:100].reshape(20, 5)
    for metric, y_true in [(places, labels), (CategoricalAccuracy(), np.eye(C)[labels]), (F1Score(), labels), (Recall(), np.eye(C)[labels])]:
        expected = score(metric, y_true.reshape(100, *y_true.shape[2:]), SCORES[:100], np.repeat(by_sample, 5))
        assert score(metric, y_true, scores, by_sample) == pytest.approx(expected, rel=SAME)
        expected = score(metric, y_true.reshape(100, *y_true.shape[2:]), SCORES[:100], by_place.reshape(-1))
        assert score(metric, y_true, scores, by_place) == pytest.approx(expected, rel=SAME)


def test_keras_numbers():
    # Measured with Keras 3.15 on TensorFlow, of which float32 arithmetic leaves about 7 digits.
    labels = np.array([2, 2, 0, 2, 1, 1, 1, 0, 2, 0, 0, 1])
    scores = np.array([[0.47, 0.08, 0.2], [0.18, 0.2, 0.44], [0.23, 0.34, 0.22], [0.46, 0.12, 0.4], [0.08, 0.24, 0.41], [0.03, 0.24, 0.5],
                       [0.1, 0.19, 0.32], [0.18, 0.59, 0.0], [0.38, 0.16, 0.31], [0.54, 0.31, 0.12], [0.46, 0.22, 0.3], [0.21, 0.35, 0.18]])
    weight = np.array([1.98, 0.78, 1.73, 0.74, 1.11, 0.61, 1.79, 1.74, 0.71, 1.29, 0.89, 1.24])
    one_hot = np.eye(3)[labels]
    for metric, y_true, expected in [
        (F1Score(average="micro"), one_hot, 0.287474280681), (F1Score(), one_hot, 0.277632353636),
        (F1Score(average="weighted"), one_hot, 0.287860734923),
        (Precision(), one_hot, 0.425742574257), (Recall(), one_hot, 0.088295687885), (CategoricalAccuracy(), one_hot, 0.287474332649),
        (SparseCategoricalAccuracy(), labels, 0.287474332649), (SparseTopKCategoricalAccuracy(2), labels, 1.0),
        (BinaryAccuracy(), one_hot, 0.656399726215), (MeanSquaredError(), one_hot, 0.231088569473), (MeanAbsoluteError(), one_hot, 0.40301619895),
        (RootMeanSquaredError(), one_hot, 0.480716724769), (R2Score(), one_hot, -0.046451592113),
    ]:
        assert score(metric, y_true, scores, weight, pieces=3) == pytest.approx(expected, rel=1e-6)


def test_nothing_to_count():
    zeros = np.zeros(5)
    assert score(Precision(), zeros, zeros) == 0.0
    assert score(Recall(), zeros, zeros) == 0.0
    assert score(F1Score(average="weighted"), zeros, zeros) == 0.0
    assert math.isnan(score(AUC(), zeros, np.arange(5.0)))
    assert math.isnan(score(AUC(), np.array([0, 1]), np.array([np.nan, 0.5])))
    for metric in (MeanSquaredError(), RootMeanSquaredError(), BinaryAccuracy(), R2Score()):
        assert math.isnan(score(metric, zeros, zeros, zeros))


def test_auc_of_equal_and_perfect_predictions():
    assert score(AUC(), BINARY, np.full(N, 0.3)) == 0.5
    assert score(AUC(), BINARY, BINARY * 1.0) == 1.0
    assert score(AUC(), BINARY, -BINARY * 1.0) == 0.0


@pytest.mark.parametrize("value", [0.0, 0.1, -1e8 / 3])
def test_r2_of_constant_targets(value):
    y = np.full(N, value)
    assert score(R2Score(), y, y, pieces=4) == 1.0
    assert score(R2Score(), y, Y_PRED[:, 0], pieces=4) == 0.0                    # scikit-learn divides by the rounding of 101 * 0.1: -1.8e34


def test_r2_far_from_zero():
    y = 1e5 + RNG.normal(size=500)
    y_pred = y + RNG.normal(size=500)
    # The squares are summed about 0: eps (mean / standard deviation)^2 = 2e-6, as the docstring says.
    assert score(R2Score(), y, y_pred, pieces=5) == pytest.approx(reference.r2_score(y, y_pred), abs=1e-5)


def worst(y_true, y_pred):
    return np.abs(y_true - y_pred).max()


def test_function():
    metric = Function(worst)
    assert metric.label == "worst"
    assert not metric.additive
    assert score(metric, Y, Y_PRED) == np.abs(Y - Y_PRED).max()
    assert metric == Function(worst) != Function(lambda a, b: 0)
    assert hash(metric) == hash(Function(worst))
    by_sample = Function(lambda t, p: np.square(t - p).mean(axis=-1), name="by_sample")
    assert by_sample.label == "by_sample"
    assert score(by_sample, Y, Y_PRED) == pytest.approx(np.square(Y - Y_PRED).mean(), rel=SAME)
    with pytest.raises(ValueError, match=r"^metrics\.Function: function is a Python function, which JSON cannot hold, received <function worst"):
        to_json(metric)


ALL = [
    AUC(), BinaryAccuracy(0.0, name="accuracy"), CategoricalAccuracy(), F1Score(0.3, "micro"), MeanAbsoluteError(), MeanSquaredError(name="mse"),
    Precision(None, "macro"), R2Score(), Recall(), RootMeanSquaredError(), SparseCategoricalAccuracy(), SparseTopKCategoricalAccuracy(3),
    TopKCategoricalAccuracy(2),
]


@pytest.mark.parametrize("metric", ALL, ids=repr)
def test_repr_json_hash(metric):
    assert isinstance(metric, Spec)
    assert eval(repr(metric), vars(nnkit)) == metric
    assert from_json(to_json(metric)) == metric
    assert hash(from_json(to_json(metric))) == hash(metric)


@pytest.mark.parametrize(("metric", "label"), [
    (AUC(), "auc"), (BinaryAccuracy(), "binary_accuracy"), (F1Score(), "f1_score"), (R2Score(), "r2_score"), (Precision(), "precision"),
    (SparseTopKCategoricalAccuracy(), "sparse_top_k_categorical_accuracy"), (RootMeanSquaredError(), "root_mean_squared_error"),
    (MeanSquaredError(name="mine"), "mine"),
])
def test_labels_are_keras_names(metric, label):
    assert metric.label == label
    if metric.name is None:
        assert resolve_metric(label) == metric


@pytest.mark.parametrize(("arguments", "options", "metric"), [
    (("binary_crossentropy", (1,)), {}, BinaryAccuracy(name="accuracy")),
    (("binary_crossentropy", (7,)), {}, BinaryAccuracy(name="accuracy")),
    (("binary_crossentropy", (1,)), {"from_logits": True}, BinaryAccuracy(0.0, name="accuracy")),
    (("mean_squared_error", (1,)), {}, BinaryAccuracy(name="accuracy")),
    (("hinge", (1,)), {}, BinaryAccuracy(0.0, name="accuracy")),
    (("categorical_crossentropy", (7,)), {"from_logits": True}, CategoricalAccuracy(name="accuracy")),
    (("sparse_categorical_crossentropy", (7,)), {"name": "acc"}, SparseCategoricalAccuracy(name="acc")),
    (("sparse_categorical_crossentropy", (5, 7)), {"target_shape": (5,)}, SparseCategoricalAccuracy(name="accuracy")),
    (("mean_squared_error", (7,)), {}, CategoricalAccuracy(name="accuracy")),
    (("mean_squared_error", (7,)), {"target_shape": (7,)}, CategoricalAccuracy(name="accuracy")),
    (("mean_squared_error", (7,)), {"target_shape": ()}, SparseCategoricalAccuracy(name="accuracy")),
    (("mean_squared_error", (7,)), {"target_shape": (1,)}, SparseCategoricalAccuracy(name="accuracy")),
])
def test_choose_accuracy(arguments, options, metric):
    assert choose_accuracy(*arguments, **options) == metric


def test_logits_are_cut_where_probabilities_are():
    logits = RNG.normal(size=50)
    y = RNG.integers(0, 2, 50)
    on_logits = choose_accuracy("binary_crossentropy", (1,), from_logits=True)
    assert score(on_logits, y, logits) == score(choose_accuracy("binary_crossentropy", (1,)), y, 1 / (1 + np.exp(-logits)))


def test_resolve():
    assert resolve_metric("acc", "binary_crossentropy", (1,)) == BinaryAccuracy(name="acc")
    assert resolve_metric("accuracy", "sparse_categorical_crossentropy", (3,), from_logits=True) == SparseCategoricalAccuracy(name="accuracy")
    assert resolve_metric("mae") == MeanAbsoluteError(name="mae")
    assert resolve_metric("auc") == AUC()
    assert resolve_metric(worst) == Function(worst)
    assert resolve_metric(F1Score(0.5)) == F1Score(0.5)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: resolve_metric("accurracy"), "unknown metric 'accurracy': did you mean 'accuracy'?"),
    (lambda: resolve_metric(3), "a metric must be a metric spec, its name or a function f(y_true, y_pred), received 3"),
    (lambda: TopKCategoricalAccuracy(0), "TopKCategoricalAccuracy: k must be a whole number at least 1, received 0"),
    (lambda: F1Score(average="none"), "F1Score: average must be one of 'micro', 'macro', 'weighted', received 'none'"),
    (lambda: AUC(name=""), "AUC: name must be a name of at least one letter or None, received ''"),
    (lambda: Function(3), "Function: function must be a function f(y_true, y_pred), received 3"),
    (lambda: Function(worst).update(Y, Y_PRED, WEIGHT), "Function: worst must have an argument sample_weight to be given weights, received weights"),
    (lambda: Function(lambda t, p: "high", name="odd").update(Y, Y_PRED),
     "Function: odd must return a real number or an array of them, received 'high'"),
    (lambda: MeanSquaredError().update(Y, Y_PRED[:, 0]), "targets must have the predictions' shape (101,), received shape (101, 2)"),
    (lambda: CategoricalAccuracy().update(LABELS, SCORES),
     "one-hot targets must have the predictions' shape (101, 4), with classes last, received shape (101,)"),
    (lambda: SparseCategoricalAccuracy().update(ONE_HOT, SCORES),
     "labels must have the predictions' shape (101, 4) without the classes, received shape (101, 4)"),
    (lambda: MeanSquaredError().update(Y, Y_PRED, WEIGHT[:3]),
     "weights must have the leading dimensions of the predictions' shape (101, 2), received shape (3,)"),
    (lambda: F1Score().update(np.array([0, 4]), SCORES[:2]), "labels must be whole numbers from 0 to 3, received 4"),
    (lambda: F1Score().update(np.array([0, 0.5]), SCORES[:2]), "labels must be whole numbers from 0 to 3, received 0.5"),
    (lambda: SparseTopKCategoricalAccuracy().update(np.array([0, -1]), SCORES[:2]), "labels must be whole numbers from 0 to 3, received -1"),
])
def test_refusals(make, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared below
        make()
    assert str(error.value) == message


@pytest.mark.parametrize("name", ["accuracy", "binary_accuracy", "precision", "recall", "f1", "auc", "mse"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_names_put_the_border_of_logits_where_that_of_probabilities_is(name, outputs):
    """The same network with its sigmoid in the output or in the loss: thresholds differ, numbers do not, but those of the outputs themselves."""
    rng = np.random.default_rng(6)
    x, t = rng.standard_normal((40, 4)), rng.integers(0, 2, (40, outputs))
    found = []
    for activation, loss in (("sigmoid", "binary_crossentropy"), ("linear", nnkit.BinaryCrossentropy(from_logits=True))):
        model = nnkit.compile(nnkit.Sequential([nnkit.Input((4,)), nnkit.Dense(outputs, activation)]), loss=loss, metrics=[name], seed=2)
        found.append(model.evaluate(x, t)[name])
    assert (found[0] == found[1]) == (name != "mse")


def test_names_put_the_border_of_scores_at_zero():
    for name, metric in (("binary_accuracy", BinaryAccuracy), ("precision", Precision)):
        assert resolve_metric(name, "hinge", (1,)) == metric(threshold=0.0)
        assert resolve_metric(name, "mean_squared_error", (1,)) == metric(threshold=0.5)
    given = Precision()                                  # a spec says all itself
    assert resolve_metric(given, "binary_crossentropy", (1,), from_logits=True) is given
