"""The native format: what is saved is loaded, and goes on bit for bit; what does not fit, is damaged or hostile is refused with one sentence."""

import contextlib
import doctest
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest

import nnkit
from helpers import assert_same_bits, refused
from mutate import mutated
from nnkit import (
    LSTM,
    SGD,
    Adam,
    Add,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    GraphConv,
    GraphInput,
    Input,
    LambdaCallback,
    Network,
    RMSprop,
    Sequential,
)
from nnkit.io import native
from nnkit.io.report import FormatError
from nnkit.io.safetensors import Reader, write
from nnkit.runtime import store
from sweeps import sweep_seed

RNG = np.random.default_rng(0)


def dense(dtype="float32", **changes):
    spec = Sequential([Input((5,)), Dense(7, activation="relu"), Dropout(0.3), Dense(3, activation="softmax")])
    return nnkit.compile(spec, **{"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"], "seed": 3, "dtype": dtype,
                                  **changes})


def data(n=24):
    return RNG.standard_normal((n, 5)).astype(np.float32), RNG.integers(0, 3, n)


def dense_case():
    return dense(), *data()


def double_case():
    return dense("float64", optimizer=SGD(0.1, momentum=0.9)), *data()


def scheduled_case():
    return dense(optimizer=RMSprop(nnkit.ExponentialDecay(0.01, 5, 0.5), momentum=0.5)), *data()


def conv_case():
    spec = Sequential([Input((6, 6, 2)), Conv2D(4, 3), BatchNormalization(), Flatten(), Dense(1)])
    return nnkit.compile(spec, optimizer="adagrad", loss="mse", seed=1), RNG.standard_normal((24, 6, 6, 2)), RNG.standard_normal((24, 1))


def stateful_case():
    spec = Sequential([Input((4, 3), batch_size=8), LSTM(5, stateful=True), Dense(1)])
    return nnkit.compile(spec, optimizer="adam", loss="mse", seed=2), RNG.standard_normal((24, 4, 3)), RNG.standard_normal((24, 1))


def table(optimizer):
    spec = Sequential([Input((6,)), Embedding(3000, 8), GlobalAveragePooling1D(), Dense(1, activation="sigmoid")])
    model = nnkit.compile(spec, optimizer=optimizer, loss="binary_crossentropy", seed=4)
    assert model.layout.history
    return model, RNG.integers(0, 3000, (24, 6)), RNG.integers(0, 2, 24)


def closed_case():
    return table(Adam(0.01))


def replay_case():
    return table(Adam(0.01, row_updates="replay", weight_decay=0.01))


def vae_case():
    inputs = Input((6,))
    h = Dense(4, activation="relu")(inputs)
    encoder = Network(inputs, [Dense(2, name="mean")(h), Dense(2, name="log_variance")(h)], name="encoder")
    x = Input((6,))
    mean, log_variance = encoder(x)
    z = nnkit.Sampling()([mean, log_variance])
    spec = Network(x, {"again": Dense(6, activation="sigmoid")(z), "score": Dense(1)(mean)})
    model = nnkit.compile(spec, optimizer="adam", loss={"again": "binary_crossentropy", "score": "mse"}, loss_weights={"score": 0.25},
                          metrics={"score": ["mae", "mse"]}, seed=5)
    return model, RNG.random((24, 6)), {"again": RNG.random((24, 6)), "score": RNG.standard_normal((24, 1))}


def shared_case():
    x = Input((5,))
    once = Dense(5, activation="tanh", name="twice")
    spec = Network(x, Dense(1, trainable=False)(Add()([once(x), once(once(x))])))
    return nnkit.compile(spec, optimizer="nadam", loss="mse", seed=6), RNG.standard_normal((24, 5)), RNG.standard_normal((24, 1))


def gcn_case():
    x, graph = Input((4,)), GraphInput()
    spec = Network([x, graph], GraphConv(3, activation="softmax")([GraphConv(5, activation="relu")([x, graph]), graph]))
    edges = np.stack([np.arange(24), np.roll(np.arange(24), 5)])
    model = nnkit.compile(spec, optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"], seed=7)
    return model, [RNG.standard_normal((24, 4)), edges], RNG.integers(0, 3, 24)


CASES = (dense_case, double_case, scheduled_case, conv_case, stateful_case, closed_case, replay_case, vae_case, shared_case, gcn_case)


def parameters(model):
    return {name: value.copy() for name, value in model.parameters.items()}


def assert_same_parameters(a, b):
    a, b = parameters(a), parameters(b)
    assert list(a) == list(b)
    for name, value in a.items():
        assert_same_bits(value, b[name], name)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_loaded_model_goes_on_bit_for_bit(tmp_path, case):
    model, x, y = case()
    calls = {"batch_size": 8, "verbose": 0, "shuffle": not model.graph.stateful}
    model.fit(x, y, epochs=2, **calls)
    model.save(tmp_path / "a.nnkit")
    again = nnkit.load(tmp_path / "a.nnkit")
    for name in ("spec", "optimizer", "outputs", "dtype", "seed", "learning_rate"):
        assert getattr(again, name) == getattr(model, name), name
    assert_same_parameters(model, again)
    first, second = (m.fit(x, y, epochs=2, **calls) for m in (model, again))
    assert first.history == second.history
    assert_same_parameters(model, again)
    for (name, value), other in zip(model.evaluate(x, y).items(), again.evaluate(x, y).values(), strict=True):
        assert value == other, name


def test_a_model_that_was_never_trained(tmp_path):
    model, (x, y) = dense(), data()
    model.save(tmp_path / "a.nnkit")
    again = nnkit.load(tmp_path / "a.nnkit")
    for m in (model, again):
        m.fit(x, y, verbose=0)
    assert_same_parameters(model, again)


def test_a_model_without_optimizer_and_loss(tmp_path):
    model = nnkit.compile(Sequential([Input((3,)), Dense(2)]), seed=1)
    model.save(tmp_path / "a.nnkit")
    again = nnkit.load(tmp_path / "a.nnkit")
    assert again.optimizer is None
    assert again.loss is None
    assert_same_bits(again.predict(np.ones((2, 3))), model.predict(np.ones((2, 3))))


def test_the_learning_rate_that_was_set_is_kept(tmp_path):
    model = dense()
    model.learning_rate = 0.125
    model.save(tmp_path / "a.nnkit")
    assert nnkit.load(tmp_path / "a.nnkit").learning_rate == 0.125
    assert nnkit.load(tmp_path / "a.nnkit", optimizer=Adam(0.5)).learning_rate == 0.5


def test_rows_that_are_behind_catch_up_before_they_are_saved(tmp_path):
    model, x, y = closed_case()
    for n in range(0, 24, 8):
        model.train_on_batch(x[n:n + 8], y[n:n + 8])
    model.save(tmp_path / "a.nnkit")
    assert_same_parameters(nnkit.load(tmp_path / "a.nnkit"), model)


def test_loading_draws_and_compiles_nothing(tmp_path, monkeypatch):
    model, x, y = closed_case()
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "a.nnkit")

    def fail(*_, **__):
        raise AssertionError

    monkeypatch.setattr(nnkit.GlorotUniform, "values", fail)
    monkeypatch.setattr(nnkit.RandomUniform, "values", fail)
    monkeypatch.setattr(store, "entries", fail)
    again = nnkit.load(tmp_path / "a.nnkit")
    monkeypatch.undo()
    assert_same_parameters(again, model)


def test_the_files_that_a_network_began_with_are_not_looked_for(tmp_path):
    weights = tmp_path / "base"
    layers = (Input((3,)), Dense(2))
    nnkit.compile(Sequential(layers), seed=1).save_weights(weights)
    model = nnkit.compile(Sequential(layers, weights=weights), seed=2)
    model.save(tmp_path / "a.nnkit")
    weights.unlink()
    again = nnkit.load(tmp_path / "a.nnkit")
    assert again.spec == model.spec
    assert_same_parameters(again, model)


def test_threads_are_the_callers(tmp_path):
    dense().save(tmp_path / "a.nnkit")
    assert nnkit.load(tmp_path / "a.nnkit", threads=1).threads == 1
    with pytest.raises(ValueError, match=r"^threads must be a whole number at least 1, received 0$"):
        nnkit.load(tmp_path / "a.nnkit", threads=0)


def test_an_initializer_of_many_numbers_stands_outside_of_the_header(tmp_path):
    values = RNG.standard_normal((300, 40)).astype(np.float32)
    spec = Sequential([Input((3,)), Embedding(300, 40, embeddings_initializer=values), Flatten(), Dense(1)])
    model = nnkit.compile(spec, optimizer="adam", loss="mse")
    model.save(tmp_path / "a.nnkit")
    with Reader(tmp_path / "a.nnkit") as reader:
        assert len(reader.metadata["nnkit"]) < 4000
        assert "@text/0" in reader.entries
    assert nnkit.load(tmp_path / "a.nnkit").spec == spec


# What is passed in place of what the file says.

def half(y_true, y_pred):
    return 0.5


def rate(step):
    return 0.01 / (1 + step)


def test_python_functions_are_asked_for(tmp_path):
    path = tmp_path / "a.nnkit"
    model, (x, y) = dense(optimizer=Adam(rate), metrics=["accuracy", half]), data()
    model.fit(x, y, verbose=0)
    model.save(path)
    rule = "a Python function, which no file holds: pass"
    assert_refused(path, f"it was saved with the optimizer 'Adam', {rule} optimizer= to nnkit.load")
    assert_refused(path, f"it was saved with the metrics 'half', {rule} metrics= to nnkit.load", optimizer=Adam(rate))
    again = nnkit.load(path, optimizer=Adam(rate), metrics=["accuracy", half])
    assert model.fit(x, y, verbose=0).history == again.fit(x, y, verbose=0).history
    assert_same_parameters(model, again)


def test_replacements(tmp_path):
    path = tmp_path / "a.nnkit"
    model, (x, y) = dense(), data()
    model.fit(x, y, verbose=0)
    model.save(path)
    other = nnkit.load(path, optimizer=SGD(0.1, momentum=0.5), loss="categorical_crossentropy", metrics=["mse"])
    assert (repr(other.optimizer), repr(other.loss), [metric.label for metric in other.metrics]) == (
        "SGD(learning_rate=0.1, momentum=0.5)", "CategoricalCrossentropy()", ["mse"])
    assert int(other.counters[native.COUNTERS["step"]]) == 0
    assert_same_parameters(other, model)
    bare = nnkit.load(path, optimizer=None, loss=None)
    assert (bare.optimizer, bare.loss, bare.metrics) == (None, None, ())
    with pytest.raises(ValueError, match=r"^unknown optimizer 'adm': did you mean 'adam'\?$"):
        nnkit.load(path, optimizer="adm")


def test_a_faster_adam_keeps_its_state(tmp_path):
    model, (x, y) = dense(), data()
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "a.nnkit")
    again = nnkit.load(tmp_path / "a.nnkit", optimizer=Adam(0.1))
    model.learning_rate = 0.1
    for m in (model, again):
        m.fit(x, y, verbose=0)
    assert_same_parameters(model, again)


# Weights.

def test_weights_alone(tmp_path):
    model, (x, y) = dense(), data()
    model.fit(x, y, verbose=0)
    model.save_weights(tmp_path / "a.safetensors")
    model.save(tmp_path / "a.nnkit")
    for name in ("a.safetensors", "a.nnkit"):
        other = dense(seed=9)
        report = other.load_weights(tmp_path / name)
        assert report.complete
        assert report.unused == ()
        assert_same_parameters(model, other)
    with pytest.raises(FormatError, match=r"cannot be loaded: it holds parameters alone: compile the network and take them by load_weights$"):
        nnkit.load(tmp_path / "a.safetensors")


def test_weights_of_another_dtype(tmp_path):
    dense("float64").save_weights(tmp_path / "a")
    model = dense()
    model.load_weights(tmp_path / "a")
    for name, value in dense("float64").parameters.items():
        assert_same_bits(model.parameters[name], value.astype(np.float32))


def test_weights_by_other_names(tmp_path):
    base = Sequential([Input((5,)), Dense(7, name="first"), Dense(3, name="second")])
    whole = nnkit.compile(Sequential([Input((5,)), Sequential([Input((5,)), Dense(7, name="first"), Dense(3, name="second")], name="base")]), seed=2)
    nnkit.compile(base, seed=1).save_weights(tmp_path / "a")
    report = whole.load_weights(tmp_path / "a", names={"base/*": "*"})
    assert report.copied == ("base/first/kernel", "base/first/bias", "base/second/kernel", "base/second/bias")
    assert_same_bits(whole.parameters["base/second/kernel"], nnkit.compile(base, seed=1).parameters["second/kernel"])


def test_weights_that_do_not_fit(tmp_path):
    path = tmp_path / "a"
    nnkit.compile(Sequential([Input((5,)), Dense(8), Dense(4, name="other")]), seed=1).save_weights(path)
    model = nnkit.compile(Sequential([Input((5,)), Dense(7), Dense(3)]), seed=2)
    before = parameters(model)
    with pytest.raises(ValueError, match="^" + re.escape(
            f"{str(path)!r} does not fit the network: dense/kernel of shape (5, 7) has shape (5, 8) there; dense/bias of shape (7,) has shape (8,) "
            "there; dense_1/kernel is not there; dense_1/bias is not there; not used: other/kernel, other/bias") + "$"):
        model.load_weights(path)
    for name, value in model.parameters.items():
        assert_same_bits(value, before[name])
    report = model.load_weights(path, strict=False)
    assert report.copied == ()
    assert report.different == (("dense/kernel", (5, 7), (5, 8)), ("dense/bias", (7,), (8,)))


def test_only_the_first_ten_differences_are_named(tmp_path):
    nnkit.compile(Sequential([Input((5,)), *[Dense(4) for _ in range(8)]])).save_weights(tmp_path / "a")
    with pytest.raises(ValueError, match=r"dense_4/bias of shape \(5,\) has shape \(4,\) there, and 6 more$"):
        nnkit.compile(Sequential([Input((5,)), *[Dense(5) for _ in range(8)]])).load_weights(tmp_path / "a")


def test_states_may_be_missing(tmp_path):
    stateful = stateful_case()[0]
    plain = nnkit.compile(Sequential([Input((4, 3)), LSTM(5), Dense(1)]), seed=8)
    plain.save_weights(tmp_path / "a")
    stateful.load_weights(tmp_path / "a")
    assert_same_bits(stateful.parameters["lstm/kernel"], plain.parameters["lstm/kernel"])


def test_submodels(tmp_path):
    model = vae_case()[0]
    part = model.submodel(outputs="encoder/mean")
    with pytest.raises(ValueError, match="^" + re.escape(
            "save: a submodel is a part of a model and has no declaration of its own: save the whole, model.whole.save(path), "
            "or the part's parameters, save_weights(path)") + "$"):
        part.save(tmp_path / "a")
    part.save_weights(tmp_path / "a")
    with Reader(tmp_path / "a") as reader:
        assert list(reader.entries) == ["encoder/dense/kernel", "encoder/dense/bias", "encoder/mean/kernel", "encoder/mean/bias"]
    other = vae_case()[0]
    other.set_parameters({"encoder/mean/bias": [1, 2]})
    other.submodel(outputs="encoder/mean").load_weights(tmp_path / "a")
    assert_same_parameters(other, model)


def test_another_thread_may_not_save_during_training(tmp_path):
    model, (x, y) = dense(), data()
    found = []

    def save():
        try:
            model.save(tmp_path / "a")
        except RuntimeError as error:
            found.append(str(error))

    def other(*_):
        thread = threading.Thread(target=save)
        thread.start()
        thread.join()

    model.fit(x, y, verbose=0, callbacks=LambdaCallback(on_epoch_end=other))
    assert found == ["save: another thread trains the model; wait until its fit returns"]


# Bad files.

def rewritten(path, change, arrays=lambda arrays: None):
    """Write the file anew with a changed document."""
    with Reader(path) as reader:
        kept = {name: reader.read(name) for name in reader.entries}
        document = json.loads(reader.metadata["nnkit"])
    document = change(document) or document
    arrays(kept)
    write(path, kept, {"nnkit": document if isinstance(document, str) else json.dumps(document)})


def assert_refused(path, reason, **replacements):
    with pytest.raises(FormatError, match="^" + re.escape(f"{str(path)!r} cannot be loaded: {reason}") + "$"):
        nnkit.load(path, **replacements)


def setting(*keys, value):
    def change(document):
        at = document
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value
    return change


def deep(levels):
    return lambda document: json.dumps(document)[:-1] + ',"more":' + "[" * levels + "]" * levels + "}"


TYPES = "where it is a layer, loss or metric of one's own, import the module that declares it first"

BAD = [
    (lambda document: "{", "what it says of itself is no JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    (lambda document: '{"format":NaN}', "what it says of itself is no JSON: NaN is no number"),
    (deep(100_000), "what it says of itself is no JSON: RecursionError"),
    (deep(70), "the declaration of the network is nested more than 64 levels deep"),
    (lambda document: "[]", "what it says of itself must be a JSON object with a format of at least 1, received None"),
    (setting("format", value="1"), "what it says of itself must be a JSON object with a format of at least 1, received '1'"),
    (setting("format", value=0), "what it says of itself must be a JSON object with a format of at least 1, received 0"),
    (setting("format", value=True), "what it says of itself must be a JSON object with a format of at least 1, received True"),
    (setting("format", value=2),
     f"it is of format 2, written by nnkit {nnkit.__version__!r}, and this nnkit, {nnkit.__version__}, reads formats up to 1"),
    (setting("dtype", value="float16"), "dtype must be 'float32' or 'float64', received 'float16'"),
    (setting("dtype", value=[]), "dtype must be 'float32' or 'float64', received []"),
    (setting("dtype", value="float64"), "'dense/kernel' must be of dtype F64, received F32"),
    (setting("seed", value=-1), "seed must be a whole number of at least 0, received -1"),
    (setting("seed", value=1 << 64), f"seed must be a whole number of at least 0, received {1 << 64}"),
    (setting("step", value=1.0), "step must be a whole number of at least 0, received 1.0"),
    (setting("epoch", value=None), "epoch must be a whole number of at least 0, received None"),
    (setting("learning_rate", value=0), "learning_rate must be a finite number greater than 0, received 0"),
    (setting("learning_rate", value=[1]), "learning_rate must be a finite number greater than 0, received [1]"),
    (setting("spec", value=None), "the network must be a spec of that kind, received None"),
    (setting("spec", "type", value="MyNetwork"), f"unknown spec type 'MyNetwork': {TYPES}"),
    (setting("spec", "type", value=["Dense"]), f"unknown spec type ['Dense']: {TYPES}"),
    (setting("spec", "layers", 1, "type", value="Mine"), f"unknown spec type 'Mine': {TYPES}"),
    (setting("spec", "layers", 1, "unit", value=8), "Dense has no field 'unit': did you mean 'units'?"),
    (setting("spec", "layers", 1, "units", value=8),
     "what it holds does not fit the network: " + "; ".join(
         f"{prefix}dense/kernel of shape (5, 8) has shape (5, 7) there; {prefix}dense/bias of shape (8,) has shape (7,) there; "
         f"{prefix}dense_1/kernel of shape (8, 3) has shape (7, 3) there" for prefix in ("", "@optimizer/momentum/", "@optimizer/velocity/"))),
    (setting("spec", "layers", 1, "units", value="many"), "Dense: units must be a whole number at least 1, received 'many'"),
    (setting("spec", "layers", value=[]), "Sequential: layers must be a list of layers that begins with an Input, received ()"),
    (setting("optimizer", value={"type": "Dense", "units": 3}), "the optimizer must be a spec of that kind, received Dense(3)"),
    (setting("optimizer", "beta_1", value=2), "Adam: beta_1 must be a finite number at least 0 and less than 1, received 2.0"),
    (setting("outputs", value=[]), "outputs must be a record for each of the outputs ('dense_1',)"),
    (setting("outputs", value=[3]), "outputs must be a record for each of the outputs ('dense_1',)"),
    (setting("outputs", 0, "name", value="x"), "outputs must be a record for each of the outputs ('dense_1',)"),
    (setting("outputs", 0, "loss", value=[]), "the loss must be a spec of that kind, received ()"),
    (setting("outputs", 0, "loss", value="mse"), "the loss must be a spec of that kind, received 'mse'"),
    (setting("outputs", 0, "metrics", value=3), "metrics of an output must be a list, received 3"),
    (setting("outputs", 0, "weight", value=-1),
     "loss_weights: the weight of output 'dense_1' must be a finite number greater than 0, received -1: an output without a loss is loss=None"),
    (setting("spec", "name", value={"@text": "@text/0"}), "the text '@text/0' must be an array of dtype U8 and stand in one place"),
    (setting("spec", "layers", 1, "units", value=10 ** 4000),
     "what it holds does not fit the network: dense/kernel of shape (5, 1" + "0" * 1930 + "..."),
]


@pytest.mark.parametrize(("change", "reason"), BAD)
def test_bad_documents_are_refused(tmp_path, change, reason):
    path = tmp_path / "a.nnkit"
    dense().save(path)
    rewritten(path, change)
    assert_refused(path, reason)


def test_arrays_that_the_network_does_not_have(tmp_path):
    path = tmp_path / "a.nnkit"
    dense().save(path)
    rewritten(path, lambda document: None, lambda arrays: arrays.update(more=np.zeros(3)))
    assert_refused(path, "it holds 'more', of which its network knows nothing")
    rewritten(path, lambda document: None, lambda arrays: (arrays.pop("more"), arrays.pop("@optimizer/momentum/dense/bias")))
    assert_refused(path, "what it holds does not fit the network: @optimizer/momentum/dense/bias is not there")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.nnkit"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 100)
    message = f"{str(path)!r} cannot be read as safetensors: the length of its header must be from 2 to 100, received 727905341920923785"
    with pytest.raises(FormatError, match="^" + re.escape(message) + "$"):
        nnkit.load(path)
    write(path, {"x": np.zeros(3)}, {"format": "pt"})
    assert_refused(path, "it is a safetensors file that nnkit did not write, and says nothing of a network; load_weights reads such files")
    with pytest.raises(FileNotFoundError):
        nnkit.load(tmp_path / "none")


@pytest.mark.parametrize(("name", "library"), [("a.keras", "Keras"), ("a.weights.h5", "Keras"), ("A.PT", "PyTorch"), ("a.onnx", "ONNX")])
def test_names_of_other_libraries_are_refused(tmp_path, name, library):
    model, path = small_model(), tmp_path / name
    for action in ("save", "save_weights"):
        refused(f"{action}: nnkit writes its own format, by custom to name.nnkit; received {str(path)!r}, which would be taken for a file of "
                f"{library}", getattr(model, action), path)
    assert not os.listdir(tmp_path)


def test_where_no_file_can_be_written(tmp_path):
    model, path = small_model(), tmp_path / "none" / "a.nnkit"
    refused(f"[Errno 2] a file cannot be written to {str(path)!r}, there is no folder: {os.path.realpath(tmp_path / 'none')!r}",
            model.save, path, error=FileNotFoundError)
    refused(f"[Errno 21] a file cannot be written, there is a folder of that name: {str(tmp_path)!r}", model.save, tmp_path, error=IsADirectoryError)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("length", [-1, 1])
def test_files_of_another_length_are_refused(tmp_path, length):
    path = tmp_path / "a.nnkit"
    dense().save(path)
    content = path.read_bytes()
    path.write_bytes(content[:-1] if length < 0 else content + b"0")
    with pytest.raises(FormatError, match=r"cannot be read as safetensors: its header speaks of 792 bytes of data, but it has 79[13]$"):
        nnkit.load(path)


@pytest.mark.parametrize(("spec", "reason"), [
    ({"type": "Sequential", "layers": [{"type": "Input", "shape": [2]}] + [{"type": "Flatten"}] * 17000},
     "the network has more than 8192 layers, those of nested networks counted once more for every level"),
    ({"type": "Sequential", "layers": [[]] * (1 << 20)}, "the declaration has 3145868 letters besides names, and may have 2097152"),
])
def test_declarations_that_would_take_for_ever_are_refused(tmp_path, spec, reason):
    path = tmp_path / "a.nnkit"
    dense().save(path)
    rewritten(path, setting("spec", value=spec))
    with pytest.raises(FormatError, match=re.sub(r"\d{7}", r"\\d{7}", re.escape(reason)) + "$"):
        nnkit.load(path)


def test_a_gigantic_network_is_refused_before_memory_is_there(tmp_path):
    path = tmp_path / "a.nnkit"
    dense().save(path)
    rewritten(path, setting("spec", "layers", 1, "units", value=1 << 40))
    tracemalloc.start()
    with pytest.raises(FormatError, match="does not fit the network: dense/kernel of shape"):
        nnkit.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_layer_of_ones_own_needs_its_module(tmp_path):
    """In a process that has not imported it."""
    path, module = tmp_path / "a.nnkit", tmp_path / "mine.py"
    module.write_text("from nnkit.extend import *\n\n@spec()\nclass Mine(Layer):\n    def lower(self, g, x):\n        return x\n")
    make = ("import mine, nnkit; nnkit.compile(nnkit.Sequential([nnkit.Input((3,)), mine.Mine(), nnkit.Dense(1)]))"
            f".save({str(path)!r}); print(nnkit.load({str(path)!r}).spec.layers[1])")
    run = {"cwd": tmp_path, "capture_output": True, "text": True, "env": os.environ | {"PYTHONPATH": str(pathlib.Path(nnkit.__file__).parents[1])}}
    assert subprocess.run([sys.executable, "-c", make], check=True, **run).stdout == "Mine()\n"
    assert_refused(path, f"unknown spec type 'Mine': {TYPES}")


def test_what_the_documentation_says():
    """Also that another program reads our files: its reader is on that page."""
    found = doctest.testfile(str(pathlib.Path(__file__).parents[1] / "docs" / "format.md"), module_relative=False)
    assert found.failed == 0
    assert found.attempted > 10


# Fuzz.

def small_model():
    """A model of few bytes, with a fit's progress in its file."""
    spec = Sequential([Input((2,)), Dense(2, activation="relu"), Dense(1)])
    return nnkit.compile(spec, optimizer="adam", loss="mse", metrics=["mae"], seed=1)


def fuzz(path, seed, count):
    """Load damaged copies; returns how many were refused. Anything but FormatError is an error."""
    model = small_model()
    x = np.ones((4, 2))
    model.fit(x, x[:, :1], verbose=0, callbacks=LambdaCallback(on_train_piece_end=lambda *_: model.save(path)))
    refused = 0
    for damaged in mutated(path.read_bytes(), seed, count):
        path.write_bytes(damaged)
        try:
            nnkit.load(path)
        except FormatError:
            refused += 1
        with contextlib.suppress(ValueError):            # without the mark of nnkit's it is taken for one of PyTorch's, with layers of other names
            model.load_weights(path, strict=False)
    return refused


def test_damaged_files_raise_nothing_else(tmp_path):
    assert fuzz(tmp_path / "a", 0, 300) > 200


@pytest.mark.sweep
@pytest.mark.parametrize("block", range(10))
def test_sweep_of_damaged_files(tmp_path, block):
    assert fuzz(tmp_path / "a", 100 * sweep_seed() + block, 2000) > 1000
