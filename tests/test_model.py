"""Model: fit, evaluate, predict, gradients; what is refused, and that a refused call changes nothing."""

import _thread
import itertools
import re
import signal
import subprocess
import sys
import textwrap
import threading
import types

import numpy as np
import pytest

import nnkit
from helpers import refused
from nnkit import Adam, BatchNormalization, Callback, Dense, Dropout, Input, Network, Sequential

SPEC = Sequential([Input((6,)), Dense(8, activation="relu"), Dense(1, activation="sigmoid")])
SOFTMAX = Sequential([Input((6,)), Dense(8, activation="tanh"), Dense(3, activation="softmax")])


def data(n=100, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 6))
    return x, (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(float)


def compiled(spec=SPEC, loss="binary_crossentropy", **options):
    return nnkit.compile(spec, optimizer=options.pop("optimizer", "adam"), loss=loss, **options)


def snapshot(model):
    memory = {"kept": model.memory.kept.copy(), "training": model.memory.training.copy()}
    return {**{name: array.copy() for name, array in model.parameters.items()}, **memory}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


# Training.

def test_fit_learns_and_reports():
    x, y = data(400)
    model = compiled(optimizer=Adam(0.01), metrics=["accuracy"])
    history = model.fit(x, y, epochs=30, validation_split=0.25, verbose=0)
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert len(history["loss"]) == 30
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["val_accuracy"][-1] > 0.8             # measured 0.9 for this seed
    assert model.evaluate(x[300:], y[300:]) == {"loss": history["val_loss"][-1], "accuracy": history["val_accuracy"][-1]}


def test_one_epoch_is_what_numpy_computes():
    """Two updates of SGD in float64, the last batch smaller, against the same in NumPy."""
    x, y = data(10)
    model = compiled(Sequential([Input((6,)), Dense(1)]), loss="mse", optimizer=nnkit.SGD(0.1), dtype="float64")
    w, b = (model.parameters[name].copy() for name in ("dense/kernel", "dense/bias"))
    losses = []
    for part in (slice(0, 6), slice(6, 10)):
        error = x[part] @ w + b - y[part, None]
        losses.append((len(error), np.mean(error ** 2)))
        w = w - 0.1 * 2 * x[part].T @ error / len(error)
        b = b - 0.1 * 2 * error.sum(0) / len(error)
    history = model.fit(x, y, batch_size=6, shuffle=False, verbose=0)
    np.testing.assert_allclose(model.parameters["dense/kernel"], w, rtol=1e-12)     # float64 rounding of a few dozen operations
    np.testing.assert_allclose(model.parameters["dense/bias"], b, rtol=1e-12)
    np.testing.assert_allclose(history["loss"][0], sum(n * loss for n, loss in losses) / 10, rtol=1e-12)


def test_fit_equals_train_on_batch():
    x, y = data(64)
    first, second = compiled(seed=4), compiled(seed=4)
    first.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    for _ in range(2):
        for start in range(0, 64, 16):
            logs = second.train_on_batch(x[start:start + 16], y[start:start + 16])
    assert same(first.parameters, second.parameters)
    assert set(logs) == {"loss"}


def test_batches_are_taken_from_iterables_and_functions():
    x, y = data(64)
    batches = [(x[i:i + 16], y[i:i + 16]) for i in range(0, 64, 16)]
    whole, listed, made = compiled(seed=4), compiled(seed=4), compiled(seed=4)
    expected = whole.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    assert listed.fit(batches, epochs=2, verbose=0)["loss"] == expected["loss"]
    made.fit(lambda: iter(batches), epochs=2, verbose=0)
    assert same(whole.parameters, listed.parameters)
    assert same(whole.parameters, made.parameters)
    with pytest.raises(ValueError, match="x is an iterator, which can be gone through once, but 2 epochs are asked for"):
        compiled().fit(iter(batches), epochs=2)


def test_batches_are_evaluated_and_predicted():
    """From iterators, iterables and functions; of a tuple the first is x, as for `fit`. A list is data."""
    x, y = data(40)
    model = compiled(seed=4)
    batches = [(x[i:i + 16], y[i:i + 16]) for i in range(0, 40, 16)]
    expected, predicted = model.evaluate(x, y), model.predict(x)
    for given in (lambda: iter(batches), iter(batches)):
        assert model.evaluate(given)["loss"] == pytest.approx(expected["loss"], rel=1e-6)       # a mean of the batches' float32 means
    for given in (lambda: iter(batches), iter(batches), (part for part, _ in batches)):
        np.testing.assert_allclose(model.predict(given), predicted, rtol=1e-6)
    np.testing.assert_array_equal(model.predict([*x[:2]]), model.predict(x[:2]))
    with pytest.raises(ValueError, match=r"^predict: x must give at least one batch, received none$"):
        model.predict(iter(()))
    with pytest.raises(ValueError, match=r"^x must have shape \(samples, 6\), received \(16, 2\)$"):
        model.predict(iter([x[:16, :2]]))


def test_batches_of_several_inputs_are_predicted():
    a, b = nnkit.Input((2,), name="a"), nnkit.Input((2,), name="b")
    h = nnkit.Add()([nnkit.Dense(3)(a), nnkit.Dense(3)(b)])
    model = nnkit.compile(nnkit.Network([a, b], {"sum": h, "score": nnkit.Dense(1)(h)}), seed=0)
    x = {name: np.random.default_rng(0).standard_normal((10, 2)) for name in "ab"}
    found = model.predict({name: values[i:i + 4] for name, values in x.items()} for i in range(0, 10, 4))
    for name, values in model.predict(x).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-6)       # products of fewer rows may add up in another order


def test_sample_weights_and_class_weights():
    x, y = data(40)
    weighted, repeated, by_class = compiled(seed=1), compiled(seed=1), compiled(seed=1)
    weights = np.where(y > 0, 3.0, 1.0)
    a = weighted.gradients(x, y, sample_weight=weights)
    by_class.train_on_batch(x, y, class_weight={0: 1.0, 1: 3.0})
    weighted.train_on_batch(x, y, sample_weight=weights)
    assert same(weighted.parameters, by_class.parameters)
    # Weight 3 is three copies of a sample; the mean is over the number of samples.
    index = np.repeat(np.arange(40), weights.astype(int))
    b = repeated.gradients(x[index], y[index])
    for name in a:
        np.testing.assert_allclose(a[name] * 40 / len(index), b[name], rtol=1e-4, atol=1e-7)      # float32 sums in another order


@pytest.mark.parametrize("sample_weight", [None, np.linspace(0.5, 2, 40)], ids=["", "sample_weight"])
def test_class_weights_do_not_weigh_validation(sample_weight):
    """As in Keras; so validation_split says what validation_data of the same samples does."""
    x, y = data(40)
    weights = {} if sample_weight is None else {"sample_weight": sample_weight}
    split = compiled().fit(x, y, epochs=2, class_weight={0: 1.0, 1: 3.0}, validation_split=0.25, verbose=0, **weights)
    first = {key: value[:30] for key, value in weights.items()}
    last = (x[30:], y[30:], *(value[30:] for value in weights.values()))
    apart = compiled().fit(x[:30], y[:30], epochs=2, class_weight={0: 1.0, 1: 3.0}, validation_data=last, verbose=0, **first)
    assert split.history == apart.history


def test_class_weights_of_unknown_classes_are_refused():
    x, y = data(12)
    refused("class_weight must name classes from 0 to 1, received 2", compiled().fit, x, y, class_weight={1: 1.0, 2: 3.0})
    three = Sequential([Input((6,)), Dense(3, activation="softmax")])
    model = nnkit.compile(three, optimizer="sgd", loss="sparse_categorical_crossentropy")
    refused("class_weight must name classes from 0 to 2, received 3", model.fit, x, np.arange(12) % 3, class_weight={3: 1.0})
    ignoring = nnkit.compile(three, optimizer="sgd", loss=nnkit.SparseCategoricalCrossentropy(ignore_class=-1))
    ignoring.fit(x, np.arange(12) % 4 - 1, class_weight={-1: 1.0, 2: 3.0}, verbose=0)


def test_validation_data_is_named():
    x, y = data(12)
    refused("validation_data: x must have shape (samples, 6), received (12, 5)", compiled().fit, x, y, validation_data=(x[:, :5], y))
    refused("validation_data must be (x, y) or (x, y, sample_weight), received an ndarray", compiled().fit, x, y, validation_data=x, error=TypeError)


def test_validation_on_batches():
    """From a function, an iterable, an iterator for one epoch; the numbers are those of arrays."""
    x, y = data(30)
    parts = [(x[20:27], y[20:27]), (x[27:], y[27:])]

    def fitted(validation, **changes):
        return compiled(metrics=["accuracy"]).fit(x[:20], y[:20], **{"epochs": 3, "verbose": 0, "validation_data": validation, **changes}).history

    expected = fitted((x[20:], y[20:]))
    for batches in (lambda: iter(parts), dict(enumerate(parts)).values()):
        found = fitted(batches)
        for key, values in expected.items():
            np.testing.assert_allclose(found[key], values, rtol=1e-6)      # sums of float32 losses, cut elsewhere
    np.testing.assert_allclose(fitted(iter(parts), validation_freq=3)["val_loss"], expected["val_loss"][2:], rtol=1e-6)
    assert "val_loss" not in fitted(iter(parts), epochs=1, validation_freq=2)


def test_validation_on_batches_that_do_not_fit():
    x, y = data(12)
    refused("validation_data is an iterator, which can be gone through once, but 2 epochs are asked for; pass a function that returns a new one",
            compiled().fit, x, y, epochs=2, validation_data=iter([(x, y)]))
    refused("validation_data must give at least one batch, received none", compiled().fit, x, y, validation_data=lambda: [])
    refused("validation_data: x must have shape (samples, 6), received (12, 5)", compiled().fit, x, y, validation_data=lambda: [(x[:, :5], y)])
    frozen = compiled(Sequential([Input((6,)), Dense(4, trainable=False), Dense(1, activation="sigmoid")]))
    refused("fit: cache_frozen needs arrays for validation_data, received batches", frozen.fit, x, y, validation_data=lambda: [(x, y)],
            cache_frozen=True)


def test_a_data_loader_of_pytorch_gives_lists():
    """(x, y) and (x,) as lists, from which `predict` takes x as from tuples; a list that is x itself stays so."""
    x, y = data(12)
    model = compiled()
    expected = model.predict(x)
    for parts in ([x, y], [x], [x, y, y], [{"input": x}, y]):
        np.testing.assert_array_equal(model.predict(iter([parts])), expected)
    np.testing.assert_array_equal(model.predict(iter([list(x)])), expected)           # a list of samples
    np.testing.assert_array_equal(model.predict(iter([x[:2].tolist()])), expected[:2])
    single = compiled(Sequential([Input((1,)), Dense(1)]), loss="mse")
    np.testing.assert_array_equal(single.predict(iter([[x[:, 0], y]])), single.predict(x[:, 0]))
    np.testing.assert_array_equal(single.predict(iter([list(x[:3, :1])])), single.predict(x[:3, 0]))
    a, b = Input((6,)), Input((2,))
    two = compiled(Network([a, b], Dense(1)(nnkit.Concatenate()([a, b]))), loss="mse")
    wanted = two.predict([x, x[:, :2]])
    for batch in ([x, x[:, :2]], [[x, x[:, :2]], y], [(x, x[:, :2])]):
        np.testing.assert_array_equal(two.predict(iter([batch])), wanted)


def test_a_large_seed_is_one_for_every_use(tmp_path):
    x, y = data(12)
    model = compiled(Sequential([Input((6,)), Dropout(0.5), Dense(1, activation="sigmoid")]), seed=2**63 - 1)
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "a.nnkit")
    again = nnkit.load(tmp_path / "a.nnkit")
    assert again.seed == 2**63 - 1
    assert model.fit(x, y, verbose=0).history == again.fit(x, y, verbose=0).history
    refused("seed must be a whole number below 2**63, received 9223372036854775808", compiled, seed=2**63)


def test_dtypes_in_the_forms_that_numpy_has():
    for dtype in (np.float64, np.dtype("float64"), np.dtype(float)):
        assert compiled(dtype=dtype).dtype == "float64"
    assert compiled(dtype=np.float32).dtype == "float32"
    refused("compile: dtype must be 'float32' or 'float64', received <class 'numpy.float16'>", compiled, dtype=np.float16)
    refused("compile: dtype must be 'float32' or 'float64', received <class 'float'>", compiled, dtype=float)
    refused("compile: dtype must be 'float32' or 'float64', received dtype('int64')", compiled, dtype=np.dtype("int64"))


@pytest.mark.parametrize(("name", "advice"), [
    ("optimizer", "the model was compiled with it: nnkit.compile makes another model, which takes over what this one has learnt by copy_parameters"),
    ("seed", "the model was compiled with it: nnkit.compile makes another model, which takes over what this one has learnt by copy_parameters"),
    ("trainable", "nothing looks at it: freeze and unfreeze say which layers are trained"),
    ("lr", "nothing looks at it: the learning rate is model.learning_rate"),
    ("stop_trainig", "nothing looks at it: did you mean 'stop_training'?")])
def test_attributes_that_would_be_set_in_vain(name, advice):
    model = compiled()
    refused(f"Model: {name} cannot be set, {advice}", setattr, model, name, 1, error=AttributeError)
    assert not hasattr(model, name) or getattr(model, name) != 1
    model.notes = "a note of the user's"
    model.learning_rate = 0.5
    model.freeze("dense")
    assert model.learning_rate == 0.5
    assert model.submodel(outputs="dense").spec == model.spec


def test_rows_of_unequal_length_as_targets():
    x = np.zeros((3, 6))
    ragged = [[0], [1, 0], [1]]
    for spec, loss in ((SPEC, "binary_crossentropy"), (SOFTMAX, "categorical_crossentropy"), (SOFTMAX, "sparse_categorical_crossentropy"),
                       (Sequential([Input((6,)), nnkit.Reshape((2, 3)), nnkit.Softmax()]), "sparse_categorical_crossentropy")):
        for changes in ({}, {"mask": [True, False, True]}):
            refused("y must be a rectangular array, received rows of unequal length", compiled(spec, loss).evaluate, x, ragged, **changes)


def test_parameters_of_no_names_are_refused():
    model = compiled()
    values = list(model.parameters.values())
    refused("set_parameters: values must be a dict of arrays by name, received a list", model.set_parameters, values, error=TypeError)
    refused("copy_parameters: source must be a model or a dict of arrays by name, received a list", model.copy_parameters, values, error=TypeError)


def test_classes_in_place_of_objects():
    refused("compile: optimizer must be an optimizer spec, its name or None, received the class Adam, not an object made from it",
            compiled, optimizer=nnkit.Adam)
    refused("compile: loss must be a loss spec, its name or None, received the class MeanSquaredError, not an object made from it",
            compiled, loss=nnkit.MeanSquaredError)
    refused("compile: loss must be a loss spec, its name or None, received <built-in function max>: nnkit.register_loss makes one of a function and "
            "its derivative", compiled, loss=max)


def test_gradients_change_nothing_and_include_the_input():
    x, y = data(20)
    model = compiled(Sequential([Input((6,)), Dense(5), BatchNormalization(), Dropout(0.3), Dense(1)]), loss="mse", dtype="float64")
    before = snapshot(model)
    found = model.gradients(x, y, inputs=True)
    again = model.gradients(x, y, inputs=True)
    after = snapshot(model)
    before.pop("training"), after.pop("training")
    assert same(before, after)
    assert same(found, again)
    assert found["x"].shape == x.shape
    norm = {"batch_normalization/gamma", "batch_normalization/beta"}
    assert set(found) == {"x", "dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias", *norm}


def test_training_goes_on_where_it_stopped():
    x, y = data(64)
    once, twice = compiled(seed=2), compiled(seed=2)
    once.fit(x, y, epochs=4, verbose=0)
    twice.fit(x, y, epochs=2, verbose=0)
    history = twice.fit(x, y, epochs=4, initial_epoch=2, verbose=0)
    assert same(once.parameters, twice.parameters)
    assert history.epoch == [2, 3]


def test_a_schedule_drives_the_rate():
    x, y = data(64)
    schedule = nnkit.PiecewiseConstantDecay([3], [0.1, 0.01])
    model = compiled(Sequential([Input((6,)), Dense(1)]), loss="mse", optimizer=nnkit.SGD(schedule), dtype="float64")
    byhand = compiled(Sequential([Input((6,)), Dense(1)]), loss="mse", optimizer=nnkit.SGD(0.1), dtype="float64")
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    for step in range(8):
        byhand.learning_rate = schedule(step)
        byhand.train_on_batch(x[8 * step:8 * step + 8], y[8 * step:8 * step + 8])
    assert same(model.parameters, byhand.parameters)
    assert model.learning_rate == 0.01
    with pytest.raises(ValueError, match="learning_rate cannot be set: the schedule"):
        model.learning_rate = 0.1


def test_penalties_count_in_loss_and_gradient():
    x, y = data(30)
    plain = compiled(Sequential([Input((6,)), Dense(1)]), loss="mse", dtype="float64", seed=3)
    spec = Sequential([Input((6,)), Dense(1, kernel_regularizer=nnkit.L1L2(0.1, 0.2), bias_regularizer="l2")])
    penalized = compiled(spec, loss="mse", dtype="float64", seed=3)
    for model in (plain, penalized):
        model.set_parameters({"dense/bias": [0.5]})
    w = plain.parameters["dense/kernel"]
    extra = 0.1 * np.abs(w).sum() + 0.2 * (w ** 2).sum() + 0.01 * 0.25
    assert penalized.evaluate(x, y)["loss"] == pytest.approx(plain.evaluate(x, y)["loss"] + extra, rel=1e-12)
    a, b = plain.gradients(x, y), penalized.gradients(x, y)
    np.testing.assert_allclose(b["dense/kernel"], a["dense/kernel"] + 0.1 * np.sign(w) + 0.4 * w, rtol=1e-12)
    np.testing.assert_allclose(b["dense/bias"], a["dense/bias"] + 0.01, rtol=1e-12)


def test_penalties_of_frozen_layers_do_not_count():
    x, y = data(30)
    plain, frozen = (compiled(Sequential([Input((6,)), Dense(1, trainable=False, kernel_regularizer=penalty)]), loss="mse", seed=3)
                     for penalty in (None, "l2"))
    assert frozen.evaluate(x, y) == plain.evaluate(x, y)


# Prediction and evaluation.

def test_predict_takes_what_numpy_takes_and_cuts_batches():
    pandas = pytest.importorskip("pandas")
    x, _ = data(50)
    model = compiled()
    expected = model.predict(x.astype(np.float32))
    for given in (x, x.tolist(), np.asfortranarray(x), pandas.DataFrame(x), x[::1]):
        assert np.array_equal(model.predict(given), expected)
    for batch_size in (1, 7, 50, 1000):
        assert np.array_equal(model.predict(x, batch_size=batch_size), expected)
    assert model.predict(x[:1]).shape == (1, 1)


def test_evaluate_does_not_depend_on_batches():
    x, y = data(50)
    model = compiled(metrics=["accuracy", "auc", lambda t, p: float(np.mean(p))])
    a, b = model.evaluate(x, y, batch_size=50), model.evaluate(x, y, batch_size=7)
    assert list(a) == ["loss", "accuracy", "auc", "<lambda>"]
    assert a == pytest.approx(b, rel=1e-6)               # float32 losses, summed in float64 in another grouping


def test_evaluate_and_predict_say_how_far_they_are(capsys):
    x, y = data(100)
    model = compiled()
    model.evaluate(x, y, batch_size=7)
    model.predict(x, batch_size=7)
    assert capsys.readouterr() == ("", "")
    model.evaluate(x, y, batch_size=7, verbose=2)
    model.evaluate([(x, y), (x, y)], verbose=2)
    model.predict(x, batch_size=7, verbose=2)
    shown = capsys.readouterr().out.splitlines()
    for line, text in zip(shown, ("evaluate: loss 0.8853", "evaluate: loss 0.8853", "predict: 100 samples"), strict=True):
        assert re.fullmatch(rf"{re.escape(text)} \(\S+ s, \S+ samples/s\)", line)
    for run in (model.predict, lambda x, **named: model.evaluate(x, y, **named)):
        with pytest.raises(ValueError, match=r"^verbose must be 'auto', 0, 1 or 2, received 'loud'$"):
            run(x, verbose="loud")


def every_piece_takes(seconds, module, monkeypatch):
    """Put a clock into a module that tells the time before and behind every piece."""
    ticks = itertools.count()
    monkeypatch.setattr(f"nnkit.training.{module}.time", types.SimpleNamespace(perf_counter=lambda: next(ticks) * seconds))


def test_pieces_of_evaluate_and_predict_are_as_long_as_their_steps_allow(monkeypatch):
    x, y = data(100)
    model = compiled()
    tape = type(model.tape("evaluate", 1))
    pieces, advance = [], tape.run
    monkeypatch.setattr(tape, "run", lambda tape, steps=1: (pieces.append(steps), advance(tape, steps)))
    every_piece_takes(1 / 128, "engine", monkeypatch)
    model.evaluate(x, y, batch_size=1)
    model.predict(x, batch_size=1)
    assert pieces == [1, 6, 38, 55] * 2                  # 0.05 s are 6.4 times 1/128 s, so the next piece has 6.4 times as many; 55 are the rest


def test_long_runs_are_cut_into_pieces(monkeypatch):
    """Ctrl-C is heard between them, and the model is as before."""
    x, y = data(100)
    model = compiled()
    expected = model.evaluate(x, y, batch_size=7), model.predict(x, batch_size=7)
    monkeypatch.setattr("nnkit.training.fitting.PIECE_SECONDS", 0.0)
    pieces = []
    advance = model.tape("evaluate", 7).run.__func__

    def run(tape, steps=1):
        pieces.append(steps)
        if len(pieces) == stop:
            raise KeyboardInterrupt
        advance(tape, steps)
    monkeypatch.setattr(type(model.tape("evaluate", 7)), "run", run)
    stop = 0
    assert model.evaluate(x, y, batch_size=7) == expected[0]
    np.testing.assert_array_equal(model.predict(x, batch_size=7), expected[1])
    assert pieces == [1] * 30
    before = snapshot(model)
    stop = len(pieces) + 5
    with pytest.raises(KeyboardInterrupt):
        model.evaluate(x, y, batch_size=7)
    assert same(snapshot(model), before)
    assert model.evaluate(x, y, batch_size=7) == expected[0]


def test_a_model_without_optimizer_and_loss_predicts():
    model = nnkit.compile(SPEC)
    assert model.predict(data(3)[0]).shape == (3, 1)
    assert model.plan.mode == "predict"
    with pytest.raises(RuntimeError, match=r"fit needs an optimizer: pass optimizer= to nnkit\.compile"):
        model.fit(*data())
    with pytest.raises(RuntimeError, match="evaluate needs a loss"):
        model.evaluate(*data())


def test_parameters_are_live_views():
    model = compiled()
    x, _ = data(3)
    model.parameters["dense_1/kernel"][...] = 0
    model.parameters["dense_1/bias"][...] = 0
    assert np.array_equal(model.predict(x), np.full((3, 1), 0.5, np.float32))
    with pytest.raises(TypeError):
        model.parameters["dense/kernel"] = 0


# Callbacks.

class Recorder(Callback):
    def __init__(self):
        self.calls = []

    def on_train_batch_end(self, batch, logs):
        self.calls.append(batch)
        self.model.predict(np.zeros((2, 6)))             # may use the model between two batches
        self.model.evaluate(*data(5))


def test_batch_hooks_may_use_the_model_and_change_no_bit():
    x, y = data(40)
    recorder = Recorder()
    watched, alone = compiled(seed=1), compiled(seed=1)
    history = watched.fit(x, y, batch_size=16, epochs=2, callbacks=recorder, verbose=0)
    assert history["loss"] == alone.fit(x, y, batch_size=16, epochs=2, verbose=0)["loss"]
    assert same(watched.parameters, alone.parameters)
    assert recorder.calls == [0, 1, 2, 0, 1, 2]


def test_a_callback_may_train_on_other_data_of_the_same_batch_size():
    """It uses the tape that the epoch runs on; the epoch goes on with its own data, and reports its own loss."""
    x, y = data(64)
    other = data(16, seed=9)

    class Intruder(Callback):
        def on_train_batch_end(self, batch, logs):
            self.model.train_on_batch(*other)
    fitted, byhand = compiled(seed=1), compiled(seed=1)
    history = fitted.fit(x, y, batch_size=16, shuffle=False, callbacks=Intruder(), verbose=0)
    losses = []
    for start in range(0, 64, 16):
        losses.append(byhand.train_on_batch(x[start:start + 16], y[start:start + 16])["loss"])
        byhand.train_on_batch(*other)
    assert same(fitted.parameters, byhand.parameters)
    assert history["loss"] == [pytest.approx(np.mean(losses), rel=1e-12)]       # the same float64 losses, added in another grouping


def test_early_stopping_restores_the_best_weights():
    x, y = data(60)
    stopping = nnkit.EarlyStopping(monitor="loss", patience=1, restore_best_weights=True, mode="max")       # the loss falls: stop soon
    model = compiled(optimizer=Adam(0.01), seed=1)
    history = model.fit(x, y, epochs=10, callbacks=[stopping], verbose=0)
    assert len(history["loss"]) == 2
    once = compiled(optimizer=Adam(0.01), seed=1)
    once.fit(x, y, epochs=1, verbose=0)
    assert same(model.parameters, once.parameters)


def test_terminate_on_nan():
    x, y = data(40)
    model = compiled(Sequential([Input((6,)), Dense(1)]), loss="mse", optimizer=nnkit.SGD(1e30))
    history = model.fit(x, y, epochs=20, callbacks=[nnkit.TerminateOnNaN()], verbose=0)
    assert len(history["loss"]) < 20


# What is refused.

@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda m: m.fit(np.zeros((10, 5)), np.zeros(10)), ValueError, "x must have shape (samples, 6), received (10, 5)"),
    (lambda m: m.fit(np.zeros((10, 6)), np.zeros(9)), ValueError, "10"),
    (lambda m: m.fit(np.zeros((0, 6)), np.zeros(0)), ValueError, "x must hold at least one sample"),
    (lambda m: m.fit(np.array([[object()] * 6]), np.zeros(1)), TypeError, "x must"),
    (lambda m: m.fit(*data(), batch_size=0), ValueError, "batch_size must be"),
    (lambda m: m.fit(*data(), batch_size=2.5), ValueError, "batch_size"),
    (lambda m: m.fit(*data(), epochs=-1), ValueError, "epochs"),
    (lambda m: m.fit(*data(), validation_split=1.0), ValueError, "validation_split"),
    (lambda m: m.fit(*data(), validation_split=0.1, validation_data=data()), ValueError, "give validation_data or validation_split, not both"),
    (lambda m: m.fit(*data(), sample_weight=np.ones(3)), ValueError, "sample_weight must have shape (100,)"),
    (lambda m: m.fit(*data(), callbacks=[3]), TypeError, "callbacks must be Callback objects, received 3"),
    (lambda m: m.fit(*data(), verbose=7), ValueError, "verbose must be 'auto', 0, 1 or 2, received 7"),
    (lambda m: m.fit(np.full((4, 6), np.nan), np.zeros(4), check_finite=True), ValueError, "x must be finite"),
    (lambda m: m.fit(np.zeros((4, 6)), np.full(4, 2.0)), ValueError, "y"),
    (lambda m: m.set_parameters({"dense/kernel": np.zeros((6, 8)), "dense/bias": np.zeros(3)}), ValueError,
     "parameter 'dense/bias' must be numbers of shape (8,), received float64 of shape (3,)"),
    (lambda m: m.set_parameters({"dense/kernel": np.ones((6, 8)), "dense/bia": np.zeros(8)}), ValueError,
     "unknown parameter 'dense/bia': did you mean 'dense/bias'?"),
    (lambda m: m.predict(np.zeros((3, 7))), ValueError, "x must have shape (samples, 6), received (3, 7)"),
    (lambda m: m.gradients(np.zeros((3, 6)), np.zeros((3, 2))), ValueError, "y"),
    (lambda m: setattr(m, "learning_rate", -1.0), ValueError, "learning_rate must be a finite number greater than 0, received -1.0"),
], ids=lambda value: getattr(value, "__name__", str(value))[:40])
def test_a_refused_call_says_why_and_changes_nothing(call, error, message):
    model = compiled()
    model.fit(*data(20), verbose=0)
    before = snapshot(model)
    with pytest.raises(error, match=re.escape(message)):
        call(model)
    assert same(before, snapshot(model))
    model.fit(*data(20), verbose=0)                      # still usable


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: nnkit.compile(SPEC, optimizer="adamm"), ValueError, "unknown optimizer 'adamm': did you mean 'adam'?"),
    (lambda: nnkit.compile(SPEC, loss="mqe"), ValueError, "unknown loss 'mqe': did you mean 'mse'?"),
    (lambda: nnkit.compile(SPEC, loss="mse", metrics=["acuracy"]), ValueError, "unknown metric 'acuracy': did you mean 'accuracy'?"),
    (lambda: nnkit.compile(SPEC, metrics=["accuracy"]), ValueError, "metrics need a loss"),
    (lambda: nnkit.compile(SPEC, loss="sparse_categorical_crossentropy"), ValueError, "binary_crossentropy"),
    (lambda: nnkit.compile([Dense(3)]), TypeError, "spec must be a network such as Sequential"),
    (lambda: nnkit.compile(SPEC, dtype="float16"), ValueError, "dtype must be 'float32' or 'float64', received 'float16'"),
    (lambda: nnkit.compile(SPEC, backend="tpu"), ValueError, "backend must be 'cpu' or 'cuda', received 'tpu'"),
    (lambda: nnkit.compile(SPEC, seed=-1), ValueError, "seed"),
    (lambda: nnkit.compile(SPEC, threads=0), ValueError, "threads"),
    (lambda: nnkit.compile(SPEC, optimizer=Dense(3)), ValueError, "optimizer must be an optimizer spec, its name or None, received Dense(3)"),
    (lambda: nnkit.compile(SPEC, loss="mse", metrics=["mae", "mae"]), ValueError, "two metrics have the label 'mae'; give one a name"),
], ids=lambda value: str(value)[:30])
def test_compile_refuses(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_labels_out_of_range_are_refused():
    model = compiled(SOFTMAX, loss="sparse_categorical_crossentropy")
    x, _ = data(4)
    for y, message in (([0, 1, 2, 3], "from 0 to 2, received 3 at position 3"), ([0, -1, 2, 0], "received -1 at position 1"),
                       ([0, 1.5, 2, 0], "y must hold whole numbers, received 1.5 at position 1")):
        with pytest.raises(ValueError, match=re.escape(message)):
            model.fit(x, y)


def test_fit_during_fit_is_refused():
    model = compiled()
    x, y = data(50)
    found = []

    class Intruder(Callback):
        def on_epoch_end(self, epoch, logs):
            for action in (lambda: model.fit(x, y), lambda: model.predict(x)):
                def attempt(action=action):
                    try:
                        action()
                    except RuntimeError as error:
                        found.append(str(error))
                thread = threading.Thread(target=attempt)
                thread.start()
                thread.join(timeout=60)
            with pytest.raises(RuntimeError, match="fit: the model is being trained already"):
                model.fit(x, y)

    model.fit(x, y, callbacks=[Intruder()], verbose=0)
    assert found == [f"{action}: another thread trains the model; wait until its fit returns" for action in ("fit", "predict")]
    model.fit(x, y, verbose=0)


def test_ctrl_c_leaves_the_model_usable():
    x, y = data(200)
    model = compiled()
    model.fit(x, y, verbose=0)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    ended = []

    class End(Callback):
        def on_train_end(self, logs):
            ended.append(True)
    timer = threading.Timer(0.3, _thread.interrupt_main)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            model.fit(x, y, epochs=10**9, callbacks=[End()], verbose=0)
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, previous)
    assert ended == [True]
    assert np.isfinite(model.fit(x, y, verbose=0)["loss"][0])


def test_a_compiled_epoch_is_left_every_piece(monkeypatch):
    """A long epoch runs in pieces of about 50 ms, as its steps have taken so far: Python gets its turn many times, and not at every step."""
    every_piece_takes(1 / 128, "fitting", monkeypatch)
    x, y = data(1 << 12)
    seen = []

    class Watch(Callback):
        def on_train_piece_end(self, samples, logs):
            seen.append(samples)
            if len(seen) == 4:
                self.model.stop_training = True
    compiled().fit(x, y, batch_size=1, epochs=1, callbacks=[Watch()], verbose=0)
    assert seen == [1, 1 + 6, 1 + 6 + 38, 1 + 6 + 38 + 243]               # 6.4 times as many every time


def test_compile_and_fit_do_not_leak():
    """Memory stays flat over many models: nothing global keeps them. Counted by live objects, not by the process's size."""
    program = textwrap.dedent("""
        import gc, resource, numpy as np, nnkit
        from nnkit import Sequential, Input, Dense
        x, y = np.random.default_rng(0).standard_normal((64, 20)), np.zeros(64)
        def once(seed):
            spec = Sequential([Input((20,)), Dense(64, activation="relu"), Dense(1, activation="sigmoid")])
            model = nnkit.compile(spec, optimizer="adam", loss="binary_crossentropy", seed=seed, threads=1)
            model.fit(x, y, verbose=0)
        for seed in range(30): once(seed)
        gc.collect(); objects = len(gc.get_objects()); size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in range(300): once(seed)
        gc.collect(); print(len(gc.get_objects()) - objects, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - size)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    objects, kilobytes = map(int, done.stdout.split())
    assert objects < 100                                 # 300 models of some hundred objects each would be tens of thousands
    assert kilobytes < 4096                              # and 300 arenas of 120 kB each about 36 MB; allocators wander by a few hundred kB
