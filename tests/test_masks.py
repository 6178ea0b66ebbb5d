"""Masks in whole networks: the loss and the metrics of an output with time steps leave out those that are masked; layers hand masks on, or drop them.

The flow through single layers is in the case table (cases_embedding.py, cases_wrappers.py); the same in Keras is in test_parity_recurrent.py.
"""

import numpy as np
import pytest

import naive
import nnkit
from helpers import assert_close, assert_derivative
from nnkit import (
    GRU,
    LSTM,
    Activation,
    Add,
    Bidirectional,
    Concatenate,
    Dense,
    Dot,
    Dropout,
    Embedding,
    GlobalAveragePooling1D,
    Input,
    Masking,
    Network,
    Sequential,
    SimpleRNN,
    TimeDistributed,
)

N, T, WORDS = 11, 6, 9
EXACT = 1e-12                # float64; a few hundred roundings of 1e-16


def ids(seed=0, n=N):
    """Token ids with 0 on the left, on the right, in the middle, everywhere, and nowhere."""
    x = np.random.default_rng(seed).integers(1, WORDS, (n, T))
    x[0, :3], x[1, 2:], x[2, 1:4], x[3], x[5, 1:] = 0, 0, 0, 0, 0
    return x


def tagger(*last):
    """An output for each step of a text with padding."""
    return Sequential([Input((T,)), Embedding(WORDS, 4, mask_zero=True), LSTM(5, return_sequences=True), *last])


LOSSES = {
    "mse": ([Dense(3)], "mse", (3,)),
    "mse-of-states": ([], "mse", (5,)),
    "mse-time-distributed": ([TimeDistributed(Dense(3, activation="tanh"))], "mse", (3,)),
    "binary": ([Dense(2, activation="sigmoid")], "binary_crossentropy", (2,)),
    "binary-unfused": ([Dense(1, activation="hard_sigmoid")], "binary_crossentropy", (1,)),
    "binary-logits": ([Dense(1)], nnkit.BinaryCrossentropy(from_logits=True), (1,)),
    "sparse": ([Dense(4, activation="softmax")], "sparse_categorical_crossentropy", ()),
    "sparse-time-distributed": ([TimeDistributed(Dense(4, activation="softmax"))], "sparse_categorical_crossentropy", ()),
    "categorical": ([Dense(4), Activation("softmax")], "categorical_crossentropy", (4,)),
    "bidirectional": ([Bidirectional(GRU(2, return_sequences=True)), Dense(2)], "mse", (2,)),
    "backwards": ([SimpleRNN(3, return_sequences=True, go_backwards=True)], "mse", (3,)),
}


def targets(shape, loss, seed=1, n=N):
    rng = np.random.default_rng(seed)
    if loss == "sparse_categorical_crossentropy":
        return rng.integers(0, 4, (n, T))
    if loss == "categorical_crossentropy":
        return np.eye(4)[rng.integers(0, 4, (n, T))]
    t = rng.uniform(0, 1, (n, T, *shape))
    return t if loss == "mse" else np.round(t)


def masked_loss(model, x, t, w=None, position=0):
    """The mean over the steps that count, each with its sample's weight; 0 where there are none. In NumPy."""
    y, mask = naive.masked_network(model.spec, model.parameters, x)
    y, mask = (y[position], mask[position]) if isinstance(y, tuple) else (y, mask)
    rows = naive.loss_rows(model.outputs[position].loss, y, t).reshape(mask.shape)
    weights = mask * (np.ones(len(x)) if w is None else w)[:, None]
    return float((rows * weights).sum() / max(1, mask.sum()))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_the_mean_over_the_steps_that_count(name, weighted):
    layers, loss, shape = LOSSES[name]
    model = nnkit.compile(tagger(*layers), optimizer="sgd", loss=loss, dtype="float64", seed=3)
    x, t = ids(), targets(shape, loss)
    w = np.random.default_rng(2).uniform(0.5, 2, N) if weighted else None
    expected = masked_loss(model, x, t, w)
    assert_close(model.evaluate(x, t, sample_weight=w)["loss"], expected, EXACT)
    gradients = model.gradients(x, t, sample_weight=w)
    for part in ("lstm/recurrent_kernel", "embedding/embeddings"):
        assert_derivative(lambda: model.evaluate(x, t, sample_weight=w)["loss"], model.parameters[part], gradients[part], 1.0,
                          np.random.default_rng(4), part)
    assert_close(model.train_on_batch(x, t, sample_weight=w)["loss"], expected, EXACT)


def test_targets_of_masked_steps_do_not_matter():
    layers, loss, shape = LOSSES["mse"]
    model = nnkit.compile(tagger(*layers), loss=loss, seed=3)
    x, t = ids(), targets(shape, loss)
    other = np.where((x == 0)[:, :, None], 1e6, t)
    assert model.evaluate(x, t) == model.evaluate(x, other)
    first, second = model.gradients(x, t), model.gradients(x, other)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("ignored", [0, 2])
@pytest.mark.parametrize("activation", ["softmax", "softplus"])
def test_ignored_labels_and_masked_steps_count_once(ignored, activation):
    """The mean is over the steps that are neither, whether padding has the ignored label, as is usual, or some other."""
    loss = nnkit.SparseCategoricalCrossentropy(ignore_class=ignored)
    model = nnkit.compile(tagger(Dense(4, activation=activation)), loss=loss, dtype="float64", seed=3)
    x, t = ids(), targets((), "sparse_categorical_crossentropy")
    t = np.where(x == 0, ignored, t) if ignored == 0 else t
    w = np.random.default_rng(2).uniform(0.5, 2, N)
    counts = (x != 0) & (t != ignored)
    y = naive.network(model.spec, model.parameters, x)
    rows = naive.loss_rows(nnkit.SparseCategoricalCrossentropy(), y, np.where(counts, t, 1)).reshape(N, T)
    assert_close(model.evaluate(x, t, sample_weight=w)["loss"], float((rows * w[:, None])[counts].sum() / counts.sum()), EXACT)
    assert_derivative(lambda: model.evaluate(x, t, sample_weight=w)["loss"], model.parameters["dense/bias"],
                      model.gradients(x, t, sample_weight=w)["dense/bias"], 1.0, np.random.default_rng(4), "bias")
    assert model.evaluate(x, np.where(x == 0, t, ignored))["loss"] == 0


@pytest.mark.parametrize("metric", ["accuracy", "f1", "auc", lambda t, y: float(len(t))])
@pytest.mark.parametrize("shape", [(), (5,)])
def test_metrics_leave_out_ignored_labels(metric, shape):
    """They are those of the samples that are left, in one batch or in several, with a label that is no class and with one that is."""
    rng = np.random.default_rng(8)
    x, t = rng.standard_normal((12, *shape, 3)), rng.integers(0, 3, (12, *shape))
    spec = Sequential([Input((*shape, 3)), Dense(3, activation="softmax")])
    for ignored in (-1, 2):
        labels = np.where(rng.random(t.shape) < 0.4, ignored, t)
        left = labels != ignored
        model = nnkit.compile(spec, optimizer="sgd", loss=nnkit.SparseCategoricalCrossentropy(ignore_class=ignored), metrics=[metric], seed=1)
        plain = nnkit.metrics.resolve_metric(metric, "sparse_categorical_crossentropy", (*shape, 3), target_shape=shape)
        expected = plain.result(plain.update(labels[left], model.predict(x)[left]))
        assert model.evaluate(x, labels, batch_size=5)[plain.label] == expected
        assert model.evaluate([(x[:7], labels[:7]), (x[7:], labels[7:])])[plain.label] == expected
        assert model.fit(x, labels, batch_size=12, verbose=0)[plain.label][-1] == expected


def several():
    """Three outputs: with steps and a mask, with steps alone, of a whole text."""
    x = Input((T,), name="text")
    h = Embedding(WORDS, 4, mask_zero=True)(x)
    steps = LSTM(5, return_sequences=True)(h)
    free = Dense(2)(nnkit.Conv1D(4, 1)(h))               # behind a convolution there is no mask
    return Network(x, {"tags": Dense(4, activation="softmax")(steps), "free": free, "mood": Dense(1, activation="sigmoid")(GRU(3)(steps))})


def test_several_outputs_with_weights():
    losses = {"tags": "sparse_categorical_crossentropy", "free": "mse", "mood": "binary_crossentropy"}
    weights = {"tags": 0.3, "free": 2.0}
    model = nnkit.compile(several(), optimizer="sgd", loss=losses, loss_weights=weights, dtype="float64", metrics={"tags": "accuracy"}, seed=3)
    rng = np.random.default_rng(5)
    x, w = ids(), rng.uniform(0.5, 2, N)
    t = {"tags": rng.integers(0, 4, (N, T)), "free": rng.standard_normal((N, T, 2)), "mood": rng.integers(0, 2, (N, 1))}
    y = naive.network(model.spec, model.parameters, x)
    tags = masked_loss(model, x, t["tags"], w)
    free = float(np.mean(w[:, None] * naive.loss_rows(nnkit.MeanSquaredError(), y[1], t["free"]).reshape(N, T)))
    mood = float(np.mean(w * naive.loss_rows(nnkit.BinaryCrossentropy(), y[2], t["mood"])))
    found = model.evaluate(x, t, sample_weight=w)
    right = (y[0].argmax(-1) == t["tags"])[x != 0]
    assert list(found) == ["loss", "tags_loss", "free_loss", "mood_loss", "tags_accuracy"]
    assert_close(list(found.values()), [0.3 * tags + 2 * free + mood, tags, free, mood, right.mean()], EXACT)
    gradient = model.gradients(x, t, sample_weight=w)["embedding/embeddings"]
    assert_derivative(lambda: model.evaluate(x, t, sample_weight=w)["loss"], model.parameters["embedding/embeddings"], gradient, 1.0, rng, "table")


@pytest.mark.parametrize("name", ["mse", "binary", "sparse", "bidirectional"])
def test_a_batch_that_is_all_padding_has_no_loss_and_no_gradient(name):
    layers, loss, shape = LOSSES[name]
    model = nnkit.compile(tagger(*layers), optimizer="adam", loss=loss, metrics=["accuracy"] if name == "sparse" else [], seed=3)
    x, t = np.zeros((5, T)), targets(shape, loss, n=5)
    assert model.evaluate(x, t)["loss"] == 0
    assert all(not gradient.any() for gradient in model.gradients(x, t).values())
    before = {key: values.copy() for key, values in model.parameters.items()}
    found = model.train_on_batch(x, t)
    assert found["loss"] == 0
    assert np.isnan(found.get("accuracy", np.nan))       # a mean over nothing
    for key, values in model.parameters.items():
        np.testing.assert_array_equal(values, before[key], key)


def last_value(y_true, y_pred):
    """A metric that is no mean; it sees the steps that count, one after the other."""
    assert y_true.shape == y_pred.shape
    return float(y_pred.reshape(-1)[-1])


@pytest.mark.parametrize("batch_size", [4, 16])
def test_metrics_leave_out_masked_steps(batch_size):
    """In evaluation, in training from arrays and from batches, whole or in pieces."""
    spec = tagger(Dense(1, activation="sigmoid"))
    metrics = ["accuracy", "auc", "mae", last_value]
    model = nnkit.compile(spec, optimizer=nnkit.SGD(1e-30), loss="binary_crossentropy", metrics=metrics, dtype="float64", seed=3)
    x, t = ids(), targets((1,), "binary_crossentropy")
    y = naive.network(spec, model.parameters, x)
    y, t_counted = y[x != 0], t[x != 0]
    expected = [nnkit.metrics.BinaryAccuracy().update(t_counted, y), nnkit.metrics.AUC().update(t_counted, y)]
    values = [float(sums[0] / sums[1]) for sums in expected] + [float(np.abs(t_counted - y).mean()), float(y[-1, 0])]
    names = ["binary_accuracy", "auc", "mean_absolute_error", "last_value"]

    def check(found):
        keys = [key for key in found if key != "loss"]
        assert len(keys) == len(names)
        assert_close([found[key] for key in keys], values, EXACT)

    check(model.evaluate(x, t, batch_size=batch_size))
    check({key: column[0] for key, column in model.fit(x, t, batch_size=batch_size, shuffle=False, verbose=0).items()})
    pieces = [(x[start:start + batch_size], t[start:start + batch_size]) for start in range(0, N, batch_size)]
    check({key: column[0] for key, column in model.fit(pieces, verbose=0).items()})
    check(model.train_on_batch(x, t))


def test_metrics_follow_the_order_of_training():
    """With shuffled samples, each keeps its own mask: an accuracy of 1 stays 1."""
    x = ids()
    model = nnkit.compile(Sequential([Input((T,)), Embedding(WORDS, WORDS, "identity", mask_zero=True, trainable=False), Activation("softmax")]),
                          optimizer="sgd", loss="sparse_categorical_crossentropy", metrics=["accuracy"], seed=1)
    wrong_where_masked = np.where(x == 0, 3, x)
    history = model.fit(x, wrong_where_masked, batch_size=4, epochs=3, verbose=0, validation_data=(x, wrong_where_masked))
    assert history["accuracy"] == history["val_accuracy"] == [1.0, 1.0, 1.0]


# Which layers hand a mask on.

def mask_reaches_the_end(*layers, shape=(T, 3)):
    """Whether the loss of the last output leaves out masked steps."""
    model = nnkit.compile(Sequential([Input(shape), Masking(), *layers]), loss="mse")
    return model._masked == (True,)


def test_layers_hand_masks_on_or_drop_them():
    for layer in (Dense(2), Dropout(0.5), Activation("relu"), nnkit.BatchNormalization(), nnkit.LayerNormalization(), nnkit.GaussianNoise(0.1),
                  nnkit.SpatialDropout1D(0.5), nnkit.PReLU(), TimeDistributed(Dense(2)), LSTM(2, return_sequences=True),
                  Bidirectional(GRU(2, return_sequences=True)), TimeDistributed(Dense(2, activation="softmax"))):
        assert mask_reaches_the_end(layer), layer
    for layer in (nnkit.Conv1D(2, 1), nnkit.AveragePooling1D(1), nnkit.Reshape((T, 3)), nnkit.UpSampling1D(1), nnkit.ZeroPadding1D(0)):
        assert not mask_reaches_the_end(layer, Dense(2)), layer


def test_steps_count_where_they_count_in_all_inputs():
    a, b = Input((T, 2)), Input((T, 2))
    masked = [Masking()(a), Masking()(b)]
    for merged in (Add()(masked), nnkit.Average()(masked), Concatenate()(masked), Add()([*masked, a])):
        model = nnkit.compile(Network([a, b], merged), loss="mse", dtype="float64")
        rng = np.random.default_rng(7)
        x, z = rng.standard_normal((2, 4, T, 2))
        x[0, :2], z[0, 1:4], z[1, -1], x[2], z[3] = 0, 0, 0, 0, 0
        t = rng.standard_normal((4, T, *merged.shape[1:]))
        counts = (x.any(-1)) & (z.any(-1))
        y = model.predict((x, z))
        assert_close(model.evaluate((x, z), t)["loss"], float(((y - t) ** 2).mean(-1)[counts].mean()), EXACT)


def test_steps_side_by_side_keep_their_masks():
    """Along the steps masks lie one behind the other; an input without a mask counts whole."""
    a, b = Input((T, 2)), Input((3, 2))
    model = nnkit.compile(Network([a, b], Concatenate(axis=-2)([b, Masking()(a)])), loss="mse", dtype="float64")
    rng = np.random.default_rng(7)
    x, z, t = rng.standard_normal((4, T, 2)), rng.standard_normal((4, 3, 2)), rng.standard_normal((4, 3 + T, 2))
    x[0, :2], x[2], z[1] = 0, 0, 0
    counts = np.concatenate([np.ones((4, 3), bool), x.any(-1)], axis=1)
    y = np.concatenate([z, x], axis=1)
    assert_close(model.evaluate((x, z), t)["loss"], float(((y - t) ** 2).mean(-1)[counts].mean()), EXACT)


def test_a_product_along_the_steps_has_no_mask():
    """Dot of (T, T) samples has rows that are no time steps, though as many."""
    a = Input((T, T))
    h = Masking()(a)
    assert nnkit.compile(Network(a, Dot(axes=1)([h, h])), loss="mse")._masked == (False,)


def test_the_mean_over_steps_ignores_padding_on_either_side():
    rng = np.random.default_rng(8)
    model = nnkit.compile(Sequential([Input((T, 19)), Masking(), GlobalAveragePooling1D()]), dtype="float64")
    short = rng.standard_normal((7, 2, 19))
    left, right, spread = np.zeros((3, 7, T, 19))
    left[:, -2:], right[:, :2], spread[:, [1, 4]] = short, short, short
    for x in (left, right, spread):
        assert_close(model.predict(x), short.mean(axis=1), EXACT)
    assert not model.predict(np.zeros((3, T, 19))).any()
