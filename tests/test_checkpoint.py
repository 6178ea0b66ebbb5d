"""Checkpoints and resume: a run that stops anywhere and goes on gives the bits of a run that never stopped."""

import csv
import json
import os
import random
import re

import numpy as np
import pytest

import nnkit
from helpers import assert_same_bits, refused
from killed import kill_and_resume, outcome, train
from mutate import mutated
from nnkit import (
    LSTM,
    Callback,
    CSVLogger,
    Dense,
    Dropout,
    EarlyStopping,
    Input,
    LambdaCallback,
    Masking,
    ModelCheckpoint,
    ReduceLROnPlateau,
    Sequential,
)
from nnkit.io.report import FormatError
from nnkit.io.safetensors import Reader
from nnkit.plan.layout import COUNTERS
from test_native import (
    closed_case,
    conv_case,
    dense_case,
    gcn_case,
    parameters,
    replay_case,
    rewritten,
    scheduled_case,
    setting,
    stateful_case,
    vae_case,
)


class Stopped(Exception):
    pass


class StopAfter(Callback):
    """Ends training by an error after so many batches."""

    interval = 1

    def __init__(self, batches):
        self.batches = batches

    def on_interval_end(self, epoch, batch, logs):
        self.batches -= 1
        if self.batches == 0:
            raise Stopped


def new_model(seed=0, **changes):
    spec = Sequential([Input((5,)), Dense(6, activation="relu"), Dropout(0.3), Dense(1, activation="sigmoid")])
    return nnkit.compile(spec, **{"optimizer": "adam", "loss": "binary_crossentropy", "metrics": ["accuracy"], "seed": seed, **changes})


def new_data(n=50):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((n, 5))
    return x, x[:, 0] * x[:, 1] > 0


def assert_same_run(make, call, path, stops, every):
    """make: a new model; call: fits it with callbacks and resume. Compare runs that stop after so many batches with one that does not."""
    whole = make()
    expected = call(whole, [ModelCheckpoint(path, every=every)])
    for stop in stops:
        path.unlink(missing_ok=True)
        with pytest.raises(Stopped):
            call(make(), [ModelCheckpoint(path, every=every), StopAfter(stop)])
        model = make()
        history = call(model, [ModelCheckpoint(path, every=every)], resume=path)
        assert history.history == expected.history, stop
        assert history.epoch == expected.epoch
        found = parameters(model)
        for name, value in parameters(whole).items():
            assert_same_bits(found[name], value, f"{name}, stopped after {stop}")
        for counter in ("step", "epoch", "position"):    # what is in the table of a schedule's rates depends on time
            assert model.counters[COUNTERS[counter]] == whole.counters[COUNTERS[counter]]


CASES = (dense_case, scheduled_case, conv_case, stateful_case, closed_case, replay_case, vae_case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("every", ["epoch", 2])
def test_a_resumed_run_is_the_run_never_stopped(tmp_path, case, every):
    model, x, y = case()

    def call(model, callbacks, **resume):
        return model.fit(x, y, batch_size=8, epochs=3, verbose=0, shuffle=not model.graph.stateful, callbacks=callbacks, **resume)

    assert_same_run(lambda: case_like(model), call, tmp_path / "a.nnkit", (1, 3, 5, 8) if every == "epoch" else (1, 2, 5, 7), every)


def case_like(model):
    losses = {output.name: output.loss for output in model.outputs}
    weights = {output.name: output.weight for output in model.outputs if output.loss is not None}
    metrics = {output.name: list(output.metrics) for output in model.outputs if output.metrics}
    compiled = {"optimizer": model.optimizer, "loss": losses, "loss_weights": weights, "metrics": metrics, "seed": model.seed, "dtype": model.dtype}
    return nnkit.compile(model.spec, **compiled)


def test_a_network_on_a_graph(tmp_path):
    model, x, y = gcn_case()
    mask = np.arange(24) % 3 > 0

    def call(model, callbacks, **resume):
        return model.fit(x, y, epochs=5, verbose=0, mask=mask, validation_mask=~mask, callbacks=callbacks, **resume)

    for every in ("epoch", 1, 2):
        assert_same_run(lambda: case_like(model), call, tmp_path / "a.nnkit", (1, 2, 4), every)


def test_masked_time_steps(tmp_path):
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((20, 4, 3)) * (rng.random((20, 4, 1)) > 0.3), rng.standard_normal((20, 4, 1))
    spec = Sequential([Input((4, 3)), Masking(), LSTM(3, return_sequences=True), Dense(1)])

    def call(model, callbacks, **resume):
        return model.fit(x, y, epochs=2, batch_size=4, verbose=0, callbacks=callbacks, **resume)

    assert_same_run(lambda: nnkit.compile(spec, optimizer="adam", loss="mse", metrics=["mae"], seed=1), call, tmp_path / "a.nnkit", (3, 6, 8), 2)


@pytest.mark.parametrize("as_function", [True, False])
def test_batches_from_an_iterable(tmp_path, as_function):
    x, y = new_data(40)
    drawn = []

    class Batches:
        def __iter__(self):
            for start in range(0, 40, 12):               # the last one is smaller
                drawn.append(start)
                yield x[start:start + 12], y[start:start + 12]

    def call(model, callbacks, **resume):
        return model.fit(Batches().__iter__ if as_function else Batches(), epochs=3, verbose=0, callbacks=callbacks, **resume)

    assert_same_run(new_model, call, tmp_path / "a.nnkit", (1, 2, 3, 4, 7), 1)


class Loader:
    """Batches in an order that depends on the epoch, which it counts, as the loaders of nnkit.graph do."""

    def __init__(self):
        self.epoch = 0

    def __iter__(self):
        x, y = new_data(40)
        order = np.random.default_rng(self.epoch).permutation(40)
        self.epoch += 1
        for start in range(0, 40, 10):
            yield x[order[start:start + 10]], y[order[start:start + 10]]


def test_a_loader_is_put_to_the_right_epoch(tmp_path):
    for every in ("epoch", 3):
        assert_same_run(new_model, lambda model, callbacks, **resume: model.fit(Loader(), epochs=3, verbose=0, callbacks=callbacks, **resume),
                        tmp_path / "a.nnkit", (2, 4, 6, 10), every)


@pytest.mark.parametrize("every", ["epoch", 3])
def test_loaders_of_validation_are_put_to_the_right_epoch(tmp_path, every):
    """One of its own beside arrays, whose batches differ from epoch to epoch; one beside another loader; and the same for both."""
    x, y = new_data(40)

    class Part(Loader):
        def __iter__(self):
            yield next(super().__iter__())

    def beside_arrays(model, callbacks, **resume):
        return model.fit(x, y, batch_size=10, epochs=3, validation_data=Part(), verbose=0, callbacks=callbacks, **resume)

    def beside_a_loader(model, callbacks, **resume):
        return model.fit(Loader(), epochs=4, validation_data=Part(), validation_freq=2, verbose=0, callbacks=callbacks, **resume)

    def both(model, callbacks, **resume):
        loader = Loader()
        return model.fit(loader, epochs=3, validation_data=loader, verbose=0, callbacks=callbacks, **resume)

    for call in (beside_arrays, beside_a_loader, both):
        assert_same_run(new_model, call, tmp_path / "a.nnkit", (3, 4, 7, 8, 10), every)


def test_batches_that_are_others_are_refused(tmp_path):
    path, (x, y) = tmp_path / "a.nnkit", new_data(40)
    callbacks = [ModelCheckpoint(path, every=2), StopAfter(3)]
    with pytest.raises(Stopped):
        new_model().fit(lambda: ((x[n:n + 10], y[n:n + 10]) for n in range(0, 40, 10)), verbose=0, callbacks=callbacks)
    model = new_model(seed=0)
    before = parameters(model)
    message = f"fit: cannot resume from {str(path)!r}: the first 2 batches held 20 samples, x gives 10 in 2"
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        model.fit(lambda: ((x[n:n + 5], y[n:n + 5]) for n in range(0, 40, 5)), verbose=0, resume=path)
    for name, value in parameters(model).items():
        assert_same_bits(value, before[name])


# Callbacks.

def all_callbacks(folder, every):
    return [ReduceLROnPlateau(monitor="loss", patience=1, min_delta=0.05),
            EarlyStopping("val_loss", min_delta=0.1, patience=4, restore_best_weights=True),
            CSVLogger(folder / "log.csv"), ModelCheckpoint(folder / "a.nnkit", every=every),
            ModelCheckpoint(folder / "best.nnkit", monitor="val_loss", save_best_only=True)]


@pytest.mark.parametrize("every", ["epoch", 4])
def test_callbacks_go_on_where_they_were(tmp_path, every):
    x, y = new_data()
    calls = {"batch_size": 5, "epochs": 8, "verbose": 0, "validation_split": 0.2}
    whole = new_model()
    expected = whole.fit(x, y, callbacks=all_callbacks(tmp_path, every), **calls)
    left = {name: (tmp_path / name).read_bytes() for name in ("log.csv", "best.nnkit", "a.nnkit")}
    assert len(expected.epoch) < 8                       # it was stopped early
    for stop in (3, 9, 17, 24, 40):
        for name in left:
            (tmp_path / name).unlink(missing_ok=True)
        with pytest.raises(Stopped):
            new_model().fit(x, y, callbacks=[*all_callbacks(tmp_path, every), StopAfter(stop)], **calls)
        model = new_model()
        history = model.fit(x, y, callbacks=all_callbacks(tmp_path, every), resume=tmp_path / "a.nnkit", **calls)
        assert history.history == expected.history
        for name, value in parameters(whole).items():
            assert_same_bits(model.parameters[name], value)
        for name, content in left.items():
            assert (tmp_path / name).read_bytes() == content or name == "a.nnkit"
    again = new_model()                                  # it has ended: nothing more is trained
    history = again.fit(x, y, callbacks=all_callbacks(tmp_path, every), resume=tmp_path / "a.nnkit", **calls)
    assert history.history == expected.history
    assert_same_bits(again.parameters["dense/kernel"], whole.parameters["dense/kernel"])


def test_a_callback_of_ones_own(tmp_path):
    class Counts(Callback):
        def __init__(self):
            self.seen, self.log = 0, []

        def on_epoch_begin(self, epoch, logs):
            self.log.append(f"begin {epoch}")

        def on_epoch_end(self, epoch, logs):
            self.seen += 1

        def state(self):
            return {"seen": self.seen, "nested": {"rows": [np.arange(3), np.float32(0.5), float("inf"), float("nan"), None, True, "text"]}}

        def restore(self, state):
            self.seen = state["seen"]
            self.log.append(state["nested"]["rows"])

    x, y = new_data()
    first = Counts()
    with pytest.raises(Stopped):
        new_model().fit(x, y, epochs=5, batch_size=10, verbose=0, callbacks=[first, ModelCheckpoint(tmp_path / "a", every=3), StopAfter(14)])
    second = Counts()
    new_model().fit(x, y, epochs=5, batch_size=10, verbose=0, callbacks=[second], resume=tmp_path / "a")
    assert second.seen == 5
    (begun, rows, *rest) = second.log
    assert begun == "begin 2"                            # batch 12 is the second of epoch 2: it begins, and then becomes what it was
    assert rest == ["begin 3", "begin 4"]
    assert rows[0].tolist() == [0, 1, 2]
    assert rows[1:3] == [0.5, float("inf")]
    assert np.isnan(rows[3])
    assert rows[4:] == [None, True, "text"]


def test_a_state_that_no_file_holds(tmp_path):
    class Odd(Callback):
        def state(self):
            return {"x": {1, 2}}

    with pytest.raises(TypeError, match=r"^the state of a callback must be made of dicts, lists, numbers, texts and arrays, received \{1, 2\}$"):
        new_model().fit(*new_data(), verbose=0, callbacks=[Odd(), ModelCheckpoint(tmp_path / "a")])
    assert os.listdir(tmp_path) == []


def test_the_log_is_cut_where_the_run_goes_on(tmp_path):
    x, y = new_data()
    log = tmp_path / "log.csv"
    log.write_text("of an earlier training\n")

    def callbacks(*more):
        return [CSVLogger(log), ModelCheckpoint(tmp_path / "a", every=7), *more]

    with pytest.raises(Stopped):
        new_model().fit(x, y, epochs=5, batch_size=10, verbose=0, callbacks=callbacks(StopAfter(20)))
    assert len(log.read_text().splitlines()) == 4        # columns, and epochs 0 to 2; the file is of batch 14, in epoch 2
    new_model().fit(x, y, epochs=5, batch_size=10, verbose=0, callbacks=callbacks(), resume=tmp_path / "a")
    rows = list(csv.DictReader(log.open()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3", "4"]


class Thaw(Callback):
    """Trains a layer from an epoch on."""

    def on_epoch_begin(self, epoch, logs):
        if epoch == 1:
            self.model.unfreeze("dense")


@pytest.mark.parametrize("every", ["epoch", 2])
def test_layers_that_callbacks_unfreeze(tmp_path, every):
    x, y = new_data()

    def make():
        model = new_model()
        model.freeze("dense")
        return model

    def call(model, callbacks, **resume):
        return model.fit(x, y, epochs=3, batch_size=12, verbose=0, callbacks=[Thaw(), *callbacks], **resume)

    assert_same_run(make, call, tmp_path / "a.nnkit", (2, 4, 5, 6, 9, 13), every)


def test_a_fit_that_caches_what_is_frozen(tmp_path):
    x, y = new_data(48)
    path = tmp_path / "a.nnkit"

    def make(seed=0):
        model = new_model(seed=0)
        model.freeze("dense")
        if seed:
            model.set_parameters({"dense/bias": np.full(6, 0.5)})
        return model

    def call(model, callbacks, **resume):
        return model.fit(x, y, epochs=3, batch_size=12, verbose=0, cache_frozen=True, callbacks=callbacks, **resume)

    for every in ("epoch", 3):
        assert_same_run(make, call, path, (2, 5, 9), every)
    with pytest.raises(ValueError, match="^" + re.escape(f"fit: cannot resume from {str(path)!r}: with cache_frozen the frozen 'dense/bias' must be "
                                                         "what it is there: take it by load_weights first") + "$"):
        call(make(1), [], resume=path)


def test_more_epochs_than_before(tmp_path):
    x, y = new_data()
    whole, part = new_model(), new_model()
    whole.fit(x, y, epochs=4, verbose=0)
    part.fit(x, y, epochs=2, verbose=0, callbacks=ModelCheckpoint(tmp_path / "a"))
    again = new_model()
    history = again.fit(x, y, epochs=4, verbose=0, resume=tmp_path / "a")
    assert history.epoch == [0, 1, 2, 3]
    for name, value in parameters(whole).items():
        assert_same_bits(again.parameters[name], value)


def test_a_file_saved_in_any_hook_can_be_gone_on_from(tmp_path):
    x, y = new_data()
    calls = {"epochs": 2, "batch_size": 10, "verbose": 0}
    whole = new_model()
    expected = whole.fit(x, y, **calls)
    for hook in ("on_train_begin", "on_epoch_begin", "on_train_piece_end", "on_train_batch_end", "on_epoch_end", "on_epoch_complete", "on_train_end"):
        model = new_model()
        model.fit(x, y, callbacks=LambdaCallback(**{hook: lambda *_, model=model, hook=hook: model.save(tmp_path / hook)}), **calls)
        again = new_model()
        assert again.fit(x, y, resume=tmp_path / hook, **calls).history == expected.history, hook
        for name, value in parameters(whole).items():
            assert_same_bits(again.parameters[name], value, hook)


# ModelCheckpoint.

def test_names_of_files(tmp_path):
    x, y = new_data()
    new_model().fit(x, y, epochs=2, batch_size=20, verbose=0, callbacks=[ModelCheckpoint(tmp_path / "run-{epoch:02d}-{loss:.0f}"),
                                                                         ModelCheckpoint(str(tmp_path / "b-{epoch}-{batch}"), every=2)])
    assert sorted(os.listdir(tmp_path)) == ["b-1-2", "b-2-1", "b-2-3", "run-01-1", "run-02-1"]      # batches 2, 4 and 6 of 3 an epoch


def test_save_best_only_and_weights_only(tmp_path, capsys):
    values = iter([3.0, 1.0, 2.0, 1.0, 0.5])
    best = ModelCheckpoint(tmp_path / "{epoch}", monitor="score", mode="min", save_best_only=True, save_weights_only=True, verbose=1)
    score = LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(score=next(values)))
    new_model().fit(*new_data(), epochs=5, verbose=0, callbacks=[score, best])
    assert sorted(os.listdir(tmp_path)) == ["1", "2", "5"]
    assert best.best == 0.5
    assert capsys.readouterr().out == "".join(f"epoch {epoch}: saved {tmp_path / epoch}, score: {score}\n"
                                              for epoch, score in (("1", "3"), ("2", "1"), ("5", "0.5")))
    assert new_model().load_weights(tmp_path / "5").complete
    with pytest.raises(ValueError, match=r"it was not saved while a model was trained$"):
        new_model().fit(*new_data(), verbose=0, resume=tmp_path / "5")


@pytest.mark.parametrize(("fields", "message"), [
    ({"path": ""}, "ModelCheckpoint: path must be a name, received ''"),
    ({"path": "{epoch.x}"}, "ModelCheckpoint: path must name keys as in '{epoch:02d}', received '{epoch.x}'"),
    ({"path": "{}"}, "ModelCheckpoint: path must name keys as in '{epoch:02d}', received '{}'"),
    ({"path": "a", "every": 0}, "ModelCheckpoint: every must be 'epoch' or a whole number of batches of at least 1, received 0"),
    ({"path": "a", "every": True}, "ModelCheckpoint: every must be 'epoch' or a whole number of batches of at least 1, received True"),
    ({"path": "a", "every": "batch"}, "ModelCheckpoint: every must be 'epoch' or a whole number of batches of at least 1, received 'batch'"),
    ({"path": "a", "every": 5, "save_best_only": True},
     "ModelCheckpoint: monitor must be a loss or metric of training where every is a number of batches, received 'val_loss'"),
    ({"path": "a", "mode": "best"}, "ModelCheckpoint: mode must be one of 'auto', 'min', 'max', received 'best'"),
])
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        ModelCheckpoint(**fields)


def test_unknown_keys_are_refused_at_the_first_epoch(tmp_path):
    with pytest.raises(ValueError, match=r"^ModelCheckpoint: path names 'los', which is not logged: did you mean 'loss'\?$"):
        new_model().fit(*new_data(), verbose=0, callbacks=ModelCheckpoint(tmp_path / "{los}"))
    with pytest.raises(ValueError, match=r"^ModelCheckpoint: monitor 'val_loss' needs validation_data or validation_split; without them the "
                                         r"keys are accuracy, loss$"):
        new_model().fit(*new_data(), verbose=0, callbacks=ModelCheckpoint(tmp_path / "a", save_best_only=True))


# What cannot be gone on from.

def test_no_file_yet(tmp_path, capsys):
    path = tmp_path / "a.nnkit"
    new_model().fit(*new_data(), verbose=0, resume=path)
    assert capsys.readouterr().out == ""
    new_model().fit(*new_data(), verbose=2, resume=path, callbacks=ModelCheckpoint(path))
    assert capsys.readouterr().out.startswith(f"fit: there is no {str(path)!r} yet: training begins at the start\n")
    new_model().fit(*new_data(), epochs=2, verbose=2, resume=path)
    assert capsys.readouterr().out.startswith(f"fit: goes on from {str(path)!r}: epoch 2, batch 1\n")


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "a.nnkit"
    with pytest.raises(Stopped):
        new_model().fit(*new_data(), batch_size=10, epochs=3, verbose=0, validation_split=0.2,
                        callbacks=[EarlyStopping("loss", patience=9), ModelCheckpoint(path, every=2), StopAfter(7)])
    return path


CALL = {"batch_size": 10, "epochs": 3, "verbose": 0, "validation_split": 0.2}


@pytest.mark.parametrize(("model", "call", "difference"), [
    ({"dtype": "float64"}, {}, "dtype is 'float32' there and 'float64' here"),
    ({"seed": 1}, {}, "seed is 0 there and 1 here"),
    ({"optimizer": "sgd"}, {}, "optimizer is 'Adam' there and 'SGD' here"),
    ({"optimizer": nnkit.Adam(0.01)}, {}, "optimizer.learning_rate is 0.001 there and 0.01 here"),
    ({"loss": "mse"}, {}, "outputs[0].loss is 'BinaryCrossentropy' there and 'MeanSquaredError' here"),
    ({"metrics": []}, {}, "the length of outputs[0].metrics is 1 there and 0 here"),
    ({}, {"batch_size": 20}, "batch_size is 10 there and 20 here"),
    ({}, {"shuffle": False}, "shuffle is True there and False here"),
    ({}, {"validation_split": 0.1}, "samples is 40 there and 45 here"),
    ({}, {"validation_freq": 2}, "validation_freq is 1 there and 2 here"),
])
def test_another_run_is_refused(saved, model, call, difference):
    model = new_model(**model)
    before = parameters(model)
    with pytest.raises(ValueError, match="^" + re.escape(f"fit: cannot resume from {str(saved)!r}: {difference}") + "$"):
        model.fit(*new_data(), callbacks=EarlyStopping("loss"), resume=saved, **{**CALL, **call})
    for name, value in parameters(model).items():
        assert_same_bits(value, before[name])
    assert model.fitting is None
    model.fit(*new_data(), verbose=0)


def test_another_network_is_refused(saved):
    spec = Sequential([Input((5,)), Dense(8, activation="relu"), Dropout(0.3), Dense(1, activation="sigmoid")])
    model = nnkit.compile(spec, optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    message = f"fit: cannot resume from {str(saved)!r}: spec.layers[1].units is 6 there and 8 here"
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        model.fit(*new_data(), resume=saved, **CALL)


def test_a_missing_callback_is_refused(saved):
    with pytest.raises(ValueError, match="^" + re.escape(f"fit: cannot resume from {str(saved)!r}: callbacks must have 'EarlyStopping', "
                                                         "of which it holds a state") + "$"):
        new_model().fit(*new_data(), resume=saved, **CALL)


@pytest.mark.parametrize(("change", "reason"), [
    (setting("fit", "epoch", value=-1), "fit.epoch must be a whole number of at least 0, received -1"),
    (setting("fit", "batch", value="2"), "fit.batch must be a whole number of at least 0, received '2'"),
    (setting("fit", "batch", value=3), "3 batches of 10 are not the 20 samples of 40 that it speaks of"),
    (setting("fit", "callbacks", value=[1]), "callbacks must be records of a type and a state"),
    (setting("learning_rate", value=-1.0), "learning_rate must be a number greater than 0, or null where a schedule drives it, received -1.0"),
    (setting("fit", "callbacks", 0, "state", "weights", value={"@array": "x"}), "the state of a callback names the array 'x', which is not there"),
    (setting("fit", "callbacks", 0, "state", value={"best": 1}), "the state of EarlyStopping does not fit it: KeyError('best_epoch')"),
    (setting("fit", "callbacks", 0, "state", "wait", value="1"),
     "the state of EarlyStopping does not fit it: TypeError(\"EarlyStopping: wait must be a whole number, received '1'\")"),
])
def test_damaged_progress_is_refused(saved, change, reason):
    rewritten(saved, change)
    with pytest.raises(FormatError, match="^" + re.escape(f"{str(saved)!r} cannot be loaded: {reason}") + "$"):
        new_model().fit(*new_data(), callbacks=[EarlyStopping("loss"), ModelCheckpoint(saved)], resume=saved, **CALL)


@pytest.mark.parametrize(("name", "kept"), [("@fit/sums", "F64 and shape (12,)"), ("@fit/epochs", "I64 and shape (any,)"),
                                            ("@fit/predictions/0", "F32 and shape (20, 1)")])
def test_missing_arrays_are_refused(saved, name, kept):
    rewritten(saved, lambda document: None, lambda arrays: arrays.pop(name))
    with pytest.raises(FormatError, match="^" + re.escape(f"{str(saved)!r} cannot be loaded: it must hold {name!r} of dtype {kept}") + "$"):
        new_model().fit(*new_data(), callbacks=EarlyStopping("loss"), resume=saved, **CALL)


def test_the_document_is_json_that_others_read(saved):
    with Reader(saved) as reader:
        document = json.loads(reader.metadata["nnkit"])
    assert {key: document["fit"][key] for key in ("epoch", "batch", "samples", "batches", "stopped")} == {
        "epoch": 1, "batch": 2, "samples": 20, "batches": 6, "stopped": False}


def test_leftovers_are_removed(saved):
    leftover = saved.with_name(".a.nnkit.0123abcd.tmp")
    leftover.write_bytes(b"half a file")
    new_model().fit(*new_data(), callbacks=[EarlyStopping("loss"), ModelCheckpoint(saved)], resume=saved, **CALL)
    assert not leftover.exists()
    saved.unlink()
    leftover.write_bytes(b"half of the first file")
    new_model().fit(*new_data(), resume=saved, **CALL)
    assert not leftover.exists()


def test_damaged_files_raise_nothing_else(saved):
    """Values changed at random, in the header mostly: what is not refused is gone on from."""
    model, (x, y) = new_model(), new_data()
    refused = 0
    for damaged in mutated(saved.read_bytes(), 0, 150):
        saved.write_bytes(damaged)
        try:
            model.fit(x, y, callbacks=EarlyStopping("loss"), resume=saved, **CALL)
        except ValueError:
            refused += 1
    assert refused > 100


# kill -9.

def assert_survives_kills(folder, seed, wanted, kills, seconds):
    """Every run is killed `kills` times or until it ends, until there were as many kills as wanted."""
    draw, total, number = random.Random(seed), 0, 0
    for every in ("epoch", 5):
        (folder / f"whole-{every}").mkdir()
        train(folder / f"whole-{every}", every, 0.0, resume=False)
    while total < wanted:
        every = ("epoch", 5)[number % 2]
        place = folder / str(number)
        place.mkdir()
        total += kill_and_resume(place, every, seconds, draw, kills)
        assert outcome(place) == outcome(folder / f"whole-{every}"), f"run {number}"
        assert not [name for name in os.listdir(place) if name.endswith(".tmp") and ".run." in name]
        number += 1


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_runs_survive_kills(tmp_path):
    assert_survives_kills(tmp_path, 0, 3, 2, 0.003)


@pytest.mark.sweep
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_two_hundred_runs_survive_kills(tmp_path):
    assert_survives_kills(tmp_path, 1, 200, 1, 0.003)


# Paths.

@pytest.mark.parametrize("name", ["none/a.nnkit", "none/a-{epoch}.nnkit"])
def test_a_missing_folder_is_refused_before_the_first_step(tmp_path, name):
    model = dense_case()[0]
    before = {key: value.copy() for key, value in model.parameters.items()}
    path = str(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no folder: " + re.escape(repr(os.path.realpath(tmp_path / "none"))) + "$"):
        model.fit(*dense_case()[1:], verbose=0, callbacks=ModelCheckpoint(path))
    refused("ModelCheckpoint: nnkit writes its own format, by custom to name.nnkit; received 'a.keras', which would be taken for a file of Keras",
            model.fit, *dense_case()[1:], verbose=0, callbacks=ModelCheckpoint("a.keras"))
    for key, value in before.items():
        np.testing.assert_array_equal(model.parameters[key], value)


def test_a_folder_whose_name_is_not_known_yet_is_left_to_the_first_file(tmp_path):
    os.mkdir(tmp_path / "1")
    dense_case()[0].fit(*dense_case()[1:], verbose=0, callbacks=ModelCheckpoint(str(tmp_path / "{epoch}" / "a.nnkit")))
    assert os.listdir(tmp_path / "1") == ["a.nnkit"]


def test_a_path_that_names_a_key_of_validation_needs_validation(tmp_path):
    refused("ModelCheckpoint: path names 'val_loss', which is not logged: needs validation_data or validation_split; without them the keys are "
            "accuracy, epoch, loss", dense_case()[0].fit, *dense_case()[1:], verbose=0,
            callbacks=ModelCheckpoint(str(tmp_path / "{val_loss:.2f}.nnkit")))
