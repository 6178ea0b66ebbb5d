"""Callbacks, driven by a small stand-in for the model and for fit's loop."""

import csv
import math
import os
import re

import numpy as np
import pytest

import nnkit
from nnkit.training.callbacks import Callback, CSVLogger, LambdaCallback, TerminateOnNaN, as_callbacks, needs_batches
from nnkit.training.monitoring import EarlyStopping, ModelCheckpoint, ReduceLROnPlateau


class FakeModel:
    """Two parameters that hold the number of the epoch they were trained in."""

    def __init__(self, rate=1.0, scheduled=False):
        self.parameters = {"dense/kernel": np.full((2, 3), -1.0, np.float32), "dense/bias": np.full(3, -1.0, np.float32)}
        self.stop_training = False
        self.scheduled = scheduled
        self._rate = rate

    def set_parameters(self, mapping):
        for name, value in mapping.items():
            self.parameters[name][...] = value

    @property
    def learning_rate(self):
        return self._rate

    @learning_rate.setter
    def learning_rate(self, rate):
        if self.scheduled:
            raise ValueError("learning_rate is driven by a schedule")
        self._rate = rate

    @property
    def trained_in(self):
        values = {float(value) for array in self.parameters.values() for value in array.flat}
        assert len(values) == 1
        return values.pop()


def train(model, callback, epochs, interrupt_in=None):
    """Run the hooks as fit does over a list of logs; return the number of epochs begun."""
    callback.set_model(model)
    model.stop_training = False
    begun = 0
    callback.on_train_begin({})
    try:
        for epoch, logs in enumerate(epochs):
            callback.on_epoch_begin(epoch, {})
            begun += 1
            for array in model.parameters.values():
                array[...] = epoch
            if epoch == interrupt_in:
                raise KeyboardInterrupt
            callback.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
    except KeyboardInterrupt:
        pass
    finally:
        callback.on_train_end({})
    return begun


def losses(*values, key="val_loss"):
    return [{"loss": 0.0, key: value} for value in values]


# The base, and helpers.

def test_needs_batches():
    class Batches(Callback):
        def on_train_batch_end(self, batch, logs):
            pass

    class Epochs(Callback):
        def on_epoch_end(self, epoch, logs):
            pass

    own = Callback()
    own.on_train_batch_begin = lambda batch, logs: None
    assert not needs_batches([])
    assert not needs_batches([Callback(), Epochs(), EarlyStopping(), TerminateOnNaN(), ReduceLROnPlateau(), CSVLogger("log.csv")])
    assert needs_batches([Epochs(), Batches()])
    assert needs_batches([own])
    assert needs_batches([LambdaCallback(on_train_batch_end=print)])
    assert not needs_batches([LambdaCallback(on_epoch_end=print, on_train_batch_end=None)])


def test_as_callbacks():
    one, two = Callback(), TerminateOnNaN()
    assert as_callbacks(None) == []
    assert as_callbacks(one) == [one]
    assert as_callbacks((one, two)) == [one, two]
    with pytest.raises(TypeError, match=r"^callbacks must be Callback objects, received the class TerminateOnNaN, not an object made from it$"):
        as_callbacks([one, TerminateOnNaN])
    with pytest.raises(TypeError, match=r"^callbacks must be Callback objects, received 'early'$"):
        as_callbacks(["early"])
    with pytest.raises(TypeError, match=r"^callbacks must be Callback objects, received <built-in function len>: LambdaCallback makes one "
                                        r"of a function$"):
        as_callbacks(len)
    with pytest.raises(TypeError, match=r"^callbacks must be Callback objects, received 3$"):
        as_callbacks(3)


def test_every_hook_of_the_base_does_nothing():
    callback, model = Callback(), FakeModel()
    assert train(model, callback, losses(1.0, 2.0)) == 2
    callback.on_train_batch_begin(0, {})
    callback.on_train_batch_end(0, {})
    callback.on_train_piece_end(32, {})
    assert callback.model is model
    assert not model.stop_training


# EarlyStopping.

@pytest.mark.parametrize(("patience", "values", "begun", "best_epoch"), [
    (0, (3, 2, 1, 1, 0), 4, 2),            # 0 counts as 1; an equal value is no improvement
    (1, (3, 2, 1, 1, 0), 4, 2),
    (2, (3, 2, 2.5, 1, 1.5, 1.25, 0), 6, 3),
    (3, (3, 2, 1), 3, 2),                  # never runs out
    (2, (1, 2, 3, 0), 3, 0),
])
def test_early_stopping_counts_epochs_without_improvement(patience, values, begun, best_epoch):
    model, callback = FakeModel(), EarlyStopping(patience=patience)
    assert train(model, callback, losses(*values)) == begun
    assert callback.best_epoch == best_epoch
    assert callback.best == values[best_epoch]
    stopped = begun < len(values) or model.stop_training
    assert callback.stopped_epoch == (begun - 1 if stopped else 0)
    assert model.trained_in == begun - 1                           # weights are left alone unless asked


@pytest.mark.parametrize(("patience", "interrupt_in", "begun"), [(2, None, 4), (10, None, 6), (10, 4, 5)])
def test_early_stopping_always_restores_the_best_weights(patience, interrupt_in, begun):
    """Whether patience ran out, the epochs did, or Ctrl-C came."""
    model, callback = FakeModel(), EarlyStopping(patience=patience, restore_best_weights=True)
    assert train(model, callback, losses(3, 1, 2, 2, 2, 2), interrupt_in) == begun
    assert (callback.best, callback.best_epoch) == (1.0, 1)
    assert model.trained_in == 1


def test_early_stopping_restores_nothing_before_there_is_a_best():
    model, callback = FakeModel(), EarlyStopping(restore_best_weights=True)
    train(model, callback, losses(3, 1), interrupt_in=0)
    assert model.trained_in == 0
    assert callback.best is None


def test_early_stopping_passes_over_nan():
    """A NaN in the first epoch must not become a best value that nothing can be less than."""
    model, callback = FakeModel(), EarlyStopping(patience=2, restore_best_weights=True)
    assert train(model, callback, losses(math.nan, 2, 1, math.nan, math.nan, 0)) == 5
    assert (callback.best, callback.best_epoch, model.trained_in) == (1.0, 2, 2)


def test_early_stopping_min_delta():
    model, callback = FakeModel(), EarlyStopping(min_delta=0.5, patience=2)
    assert train(model, callback, losses(3, 2.75, 2.5, 0)) == 3    # 2.5 is better by 0.5, not by more
    assert callback.best == 3.0
    callback = EarlyStopping("val_accuracy", min_delta=0.5, patience=2)
    assert train(model, callback, losses(0.0, 0.25, 0.75, 1.0, 1.25, 2.0, key="val_accuracy")) == 5
    assert callback.best == 0.75


def test_early_stopping_baseline():
    """Epochs count until the baseline is beaten, but the best epoch is still known."""
    model, callback = FakeModel(), EarlyStopping(patience=3, baseline=0.5, restore_best_weights=True)
    assert train(model, callback, losses(4, 3, 2, 1, 1, 0)) == 5   # a better epoch never stops, though it counts
    assert (callback.best_epoch, model.trained_in) == (3, 3)
    callback = EarlyStopping(patience=3, baseline=0.5)
    assert train(model, callback, losses(4, 0.25, 2, 1, 0.3, 0)) == 5


def test_early_stopping_start_from_epoch():
    model, callback = FakeModel(), EarlyStopping(patience=1, start_from_epoch=2, restore_best_weights=True)
    assert train(model, callback, losses(0, 5, 4, 3, 3.5, 1)) == 5
    assert (callback.best, callback.best_epoch, model.trained_in) == (3.0, 3, 3)


def test_early_stopping_never_stops_after_the_first_epoch():
    model, callback = FakeModel(), EarlyStopping()
    assert train(model, callback, losses(math.nan, math.nan, 2)) == 2


def test_early_stopping_forgets_an_earlier_training():
    model, callback = FakeModel(), EarlyStopping(patience=1, restore_best_weights=True)
    train(model, callback, losses(1, 2))
    assert train(model, callback, losses(9, 8, 8.5, 7)) == 3
    assert (callback.best, callback.best_epoch, callback.stopped_epoch, model.trained_in) == (8.0, 1, 2, 1)


@pytest.mark.parametrize("monitor", ["val_accuracy", "binary_accuracy", "auc", "val_f1_score", "top_5_accuracy", "r2"])
def test_auto_mode_higher_is_better(monitor):
    callback = EarlyStopping(monitor, patience=1)
    assert train(FakeModel(), callback, losses(1, 2, 1.5, 0, key=monitor)) == 3
    assert callback.best == 2.0


@pytest.mark.parametrize("monitor", ["val_loss", "mse", "mean_absolute_error", "val_binary_crossentropy", "reconstruction_loss"])
def test_auto_mode_lower_is_better(monitor):
    callback = EarlyStopping(monitor, patience=1)
    assert train(FakeModel(), callback, losses(2, 1, 1.5, 0, key=monitor)) == 3
    assert callback.best == 1.0


def test_given_mode_wins():
    callback = EarlyStopping("val_loss", patience=1, mode="max")
    assert train(FakeModel(), callback, losses(1, 2, 1.5, 3)) == 3


@pytest.mark.parametrize("cls", [EarlyStopping, ReduceLROnPlateau])
def test_wrong_monitor_is_refused_at_the_first_epoch_end(cls):
    name = cls.__name__
    refused = [
        ("val_los", losses(1.0), f"{name}: monitor must be a logged key, received 'val_los': did you mean 'val_loss'?"),
        ("val_loss", [{"loss": 1.0, "accuracy": 0.5}],
         f"{name}: monitor 'val_loss' needs validation_data or validation_split; without them the keys are accuracy, loss"),
        ("score", [{"loss": 1.0}], f"{name}: monitor must be a logged key, received 'score': known are loss"),
        ("val_score", losses(1.0, key="val_score"),
         f"{name}: mode must be 'min' or 'max' for a monitor of unknown direction, received 'auto' for 'val_score'"),
    ]
    for monitor, logs, message in refused:
        with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
            train(FakeModel(), cls(monitor), logs)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: EarlyStopping(patience=-1), "EarlyStopping: patience must be a whole number at least 0, received -1"),
    (lambda: EarlyStopping(mode="least"), "EarlyStopping: mode must be one of 'auto', 'min', 'max', received 'least'"),
    (lambda: EarlyStopping(min_delta=-0.1), "EarlyStopping: min_delta must be a finite number at least 0, received -0.1"),
    (lambda: EarlyStopping(monitor=None), "EarlyStopping: monitor must be a name, received None"),
    (lambda: EarlyStopping(restore_best_weights=1), "EarlyStopping: restore_best_weights must be True or False, received 1"),
    (lambda: ReduceLROnPlateau(factor=1.0), "ReduceLROnPlateau: factor must be a finite number greater than 0 and less than 1, received 1.0"),
    (lambda: ReduceLROnPlateau(min_lr=-1), "ReduceLROnPlateau: min_lr must be a finite number at least 0, received -1.0"),
    (lambda: CSVLogger("log.csv", separator=", "), "CSVLogger: separator must be one character, received ', '"),
])
def test_wrong_fields_are_refused(make, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        make()


def test_verbose_says_what_was_done(capsys):
    """In lines of their own; nothing by default."""
    values = losses(3, 1, 2, 2, 2)
    train(FakeModel(), EarlyStopping(patience=3, restore_best_weights=True, verbose=1), values)
    assert capsys.readouterr().out == ("epoch 5: training stops, val_loss was best in epoch 2: 1\n"
                                       "the weights of epoch 2 are back, val_loss: 1\n")
    train(FakeModel(), ReduceLROnPlateau(patience=2, verbose=1), values)
    assert capsys.readouterr().out == "epoch 4: the learning rate goes from 1 to 0.1\n"
    for silent in (EarlyStopping(patience=3, restore_best_weights=True), ReduceLROnPlateau(patience=2)):
        train(FakeModel(), silent, values)
    train(FakeModel(), EarlyStopping(patience=1, verbose=1), losses(math.nan, math.nan))
    assert capsys.readouterr().out == "epoch 2: training stops, val_loss was best in epoch 1: never a number\n"


# TerminateOnNaN.

@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_terminate_on_nan(value):
    model = FakeModel()
    assert train(model, TerminateOnNaN(), [{"loss": 1.0}, {"loss": value}, {"loss": 1.0}]) == 2
    callback = TerminateOnNaN()
    callback.set_model(model)
    model.stop_training = False
    callback.on_train_piece_end(64, {"loss": 1.0})
    assert not model.stop_training
    callback.on_train_piece_end(96, {"loss": value})
    assert model.stop_training


# ReduceLROnPlateau.

def rates(values, **fields):
    """The learning rate during each epoch, and after the last one."""
    model, logs = FakeModel(), losses(*values)
    train(model, ReduceLROnPlateau(**fields), logs)
    return [log["learning_rate"] for log in logs] + [model.learning_rate]


def test_reduce_lr_waits_and_multiplies():
    assert rates([3, 2, 2, 2, 1, 1, 1, 1, 1], patience=2, factor=0.5) == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]


def test_reduce_lr_patience_zero_counts_as_one():
    assert rates([3, 3, 2, 2], patience=0, factor=0.5) == [1, 1, 0.5, 0.5, 0.25]


def test_reduce_lr_cooldown():
    """Reduced after epoch 2; epochs 3 and 4 cool down; then two more without improvement."""
    assert rates([1] * 8, patience=2, factor=0.5, cooldown=2) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]


def test_reduce_lr_stays_above_min_lr():
    assert rates([1] * 5, patience=1, factor=0.5, min_lr=0.375) == [1, 1, 0.5, 0.375, 0.375, 0.375]


def test_reduce_lr_min_delta_and_direction():
    assert rates([1, 0.9999, 0.9], patience=1, factor=0.5)[-1] == 0.5           # 1e-4 less is not enough
    assert rates([1, 0.5, 0.25], patience=1, factor=0.5, mode="max")[-1] == 0.25


def test_reduce_lr_passes_over_nan():
    assert rates([math.nan, 2, 1, math.nan], patience=2, factor=0.5)[-1] == 1.0


def test_reduce_lr_refuses_a_scheduled_rate_before_training():
    with pytest.raises(ValueError, match=r"^learning_rate is driven by a schedule$"):
        train(FakeModel(scheduled=True), ReduceLROnPlateau(), [])


# LambdaCallback.

def test_lambda_callback():
    seen = []
    callback = LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((epoch, logs["loss"])), on_train_end=lambda logs: seen.append("end"))
    train(FakeModel(), callback, [{"loss": 2.0}, {"loss": 1.0}])
    assert seen == [(0, 2.0), (1, 1.0), "end"]


def test_lambda_callback_refuses():
    with pytest.raises(TypeError, match=r"^LambdaCallback has no hook 'on_epoch_ends': did you mean 'on_epoch_end'\?$"):
        LambdaCallback(on_epoch_ends=print)
    with pytest.raises(TypeError, match=r"^LambdaCallback: on_epoch_end must be a function, received 3$"):
        LambdaCallback(on_epoch_end=3)


# CSVLogger.

def rows(path, separator=","):
    with open(path, newline="") as file:
        return list(csv.reader(file, delimiter=separator))


def test_csv_logger(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("old\n")
    third = 1 / 3
    train(FakeModel(), CSVLogger(path), [{"loss": third, "val_loss": 2.0}, {"loss": 0.5}])
    assert rows(path) == [["epoch", "loss", "val_loss"], ["0", repr(third), "2.0"], ["1", "0.5", "NA"]]


def test_csv_logger_has_every_line_on_disk_at_once(tmp_path):
    path = tmp_path / "log.csv"
    callback = CSVLogger(str(path), separator=";")
    callback.set_model(FakeModel())
    callback.on_train_begin({})
    callback.on_epoch_end(0, {"loss": 0.5})
    assert rows(path, ";") == [["epoch", "loss"], ["0", "0.5"]]
    callback.on_train_end({})
    callback.on_train_end({})


def test_csv_logger_appends(tmp_path):
    path = tmp_path / "log.csv"
    callback = CSVLogger(path, append=True)
    train(FakeModel(), callback, [{"loss": 0.5, "accuracy": 0.25}])
    train(FakeModel(), callback, [{"accuracy": 0.75, "loss": 0.125}])
    assert rows(path) == [["epoch", "loss", "accuracy"], ["0", "0.5", "0.25"], ["0", "0.125", "0.75"]]
    before = path.read_text()
    with pytest.raises(ValueError, match="^" + re.escape(f"CSVLogger: {path} has the columns epoch, loss, accuracy, and none for auc") + "$"):
        train(FakeModel(), callback, [{"loss": 0.5, "auc": 0.5}])
    assert path.read_text() == before


def test_csv_logger_refuses_a_missing_folder_before_training(tmp_path):
    with pytest.raises(FileNotFoundError):
        train(FakeModel(), CSVLogger(tmp_path / "none" / "log.csv"), [])


# Validation that comes every few epochs.

def fit_with_rare_validation(*callbacks, epochs=6):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 4))
    spec = nnkit.Sequential([nnkit.Input((4,)), nnkit.Dense(1)])
    model = nnkit.compile(spec, optimizer=nnkit.SGD(0.01), loss="mse", metrics=["mae"], seed=0)
    return model.fit(x, 10 * x[:, 0], validation_data=(x, -10 * x[:, 0]), validation_freq=2, epochs=epochs, callbacks=callbacks, verbose=0)


def test_epochs_without_validation_do_not_count():
    """Validation of the opposite gets worse: epochs 2, 4 and 6 have it, counted from 1."""
    early = EarlyStopping(patience=1)
    assert fit_with_rare_validation(early).epoch == [0, 1, 2, 3]
    assert (early.best_epoch, early.stopped_epoch) == (1, 3)
    history = fit_with_rare_validation(ReduceLROnPlateau(patience=1, factor=0.5))
    np.testing.assert_allclose(history["learning_rate"], [0.01, 0.01, 0.01, 0.01, 0.005, 0.005], rtol=1e-12)


def test_the_best_of_rare_validation_is_saved(tmp_path):
    path = str(tmp_path / "{epoch}-{val_loss:.0f}.nnkit")
    fit_with_rare_validation(ModelCheckpoint(path, save_best_only=True))
    assert [name.split("-")[0] for name in os.listdir(tmp_path)] == ["2"]
    with pytest.raises(ValueError, match=r"^ModelCheckpoint: path names 'val_loss', which is not logged: there is no validation after this epoch "
                                         r"\(validation_freq\)$"):
        fit_with_rare_validation(ModelCheckpoint(path))


def test_csv_logger_keeps_columns_for_rare_validation(tmp_path):
    path = tmp_path / "log.csv"
    history = fit_with_rare_validation(CSVLogger(path), epochs=2)
    found = rows(path)
    assert found[0] == ["epoch", "loss", "mae", "val_loss", "val_mae"]
    assert found[1][3:] == ["NA", "NA"]
    assert [float(value) for value in found[2][3:]] == [history["val_loss"][0], history["val_mae"][0]]


def test_methods_that_look_like_hooks_are_warned_of():
    class Typed(Callback):
        def on_epoch_ends(self, epoch, logs):
            pass

    with pytest.warns(UserWarning, match=r"^Typed\.on_epoch_ends is never called, there is no such hook: did you mean 'on_epoch_end'\?$"):
        as_callbacks(Typed())


def test_a_callback_that_writes_to_the_data_reaches_no_index():
    """Indices and labels are nnkit's own: 2^30 would be far outside of the table and of the classes."""
    x, y = np.zeros((64, 3), np.int32), np.zeros(64, np.int32)

    def spoil(*_):
        x.fill(2 ** 30)
        y.fill(2 ** 30)
    spec = nnkit.Sequential([nnkit.Input((3,)), nnkit.Embedding(5, 2), nnkit.Flatten(), nnkit.Dense(4, activation="softmax")])
    histories = []
    for callbacks in ([], [nnkit.LambdaCallback(on_epoch_end=spoil)]):
        model = nnkit.compile(spec, optimizer="sgd", loss="sparse_categorical_crossentropy", seed=0)
        histories.append(model.fit(x, y, batch_size=16, epochs=3, callbacks=callbacks, verbose=0)["loss"])
    assert histories[0] == histories[1]
    assert x[0, 0] == 2 ** 30
