"""Callbacks: what else happens while `fit` runs.

The contract with `fit`. Hooks are called in the order of the list. `logs` is one dict per call that all callbacks share: a callback may add a
key, and later callbacks and the history see it. Once `on_train_begin` was called, `on_train_end` is called too, however training ends: by its
last epoch, by `model.stop_training = True`, by Ctrl-C or by an error. `stop_training` is looked at after every hook of a piece, batch or epoch.

A whole epoch runs inside one compiled call, which is left about every 50 ms (a piece). Hooks of single batches make it leave after every batch,
so `fit` calls them only where a callback overrides one. A callback with an `interval` has it left after every so many batches.

A run that is stopped and goes on (`fit(resume=path)`) begins its callbacks as a new one would: `on_train_begin`, and within an epoch
`on_epoch_begin`. Then it hands each that had a `state` when the file was written that state by `restore`.
"""

from __future__ import annotations

import csv
import math
import os
import string
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import attrs
import numpy as np

from nnkit.spec import boolean, choice, integer, nearest, real, received

__all__ = [
    "CSVLogger", "Callback", "EarlyStopping", "LambdaCallback", "ModelCheckpoint", "ReduceLROnPlateau", "TerminateOnNaN",
]

Logs = dict[str, float]

BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end")
HOOKS = ("on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end", "on_epoch_complete", *BATCH_HOOKS, "on_train_piece_end")

# Metrics whose direction mode "auto" knows. Anything that ends in "loss" or "error" is better when lower.
LOWER = frozenset({"mse", "mae", "mape", "msle", "rmse", "kl_divergence", "poisson", "hinge", "crossentropy"})
HIGHER = frozenset({"acc", "accuracy", "auc", "precision", "recall", "f1", "f1_score", "fbeta_score", "r2", "r2_score", "iou"})


class Callback:
    """Base of all callbacks: override the hooks that you need; `self.model` is the model being trained.

    `epoch` counts from 0 and `batch` from 0 within the epoch. `logs` holds the loss and metrics so far in the epoch (batch and piece hooks), or
    of the whole epoch with validation (`on_epoch_end`); it is empty in the begin hooks.
    """

    model: Any = None
    interval: int | None = None                          # batches, counted over all epochs, after which `on_interval_end` is called; None: never

    def set_model(self, model: Any) -> None:
        """Called by `fit` before anything else."""
        self.model = model

    def on_train_begin(self, logs: Logs) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Logs) -> None:
        """When training ends, however it ends; logs of the last complete epoch."""

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Before an epoch."""

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """After an epoch and its validation."""

    def on_epoch_complete(self, epoch: int, logs: Logs) -> None:
        """After an epoch once all callbacks have seen its end and the history has it: what is saved now is the whole state."""

    def on_interval_end(self, epoch: int, batch: int, logs: Logs) -> None:
        """After every `interval` batches, of which `batch` belong to this epoch."""

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """Before a batch. Overriding this makes training of small networks slower."""

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """After a batch. Overriding this makes training of small networks slower."""

    def on_train_piece_end(self, samples: int, logs: Logs) -> None:
        """About every 50 ms within an epoch, after `samples` of its samples; costs nothing while the compiled loop runs."""

    def state(self) -> dict[str, Any]:
        """What a file must hold for this callback to go on: a dict of numbers, texts, arrays, and dicts and lists of them. Default: nothing."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state, once training has begun again. It comes from a file: raise ValueError, TypeError or KeyError for what does not fit."""


def as_callbacks(callbacks: Iterable[Callback] | Callback | None) -> list[Callback]:
    """The argument `callbacks` of `fit` as a list. Raises TypeError for anything that is not a `Callback`; warns of methods named like hooks."""
    if callbacks is None:
        return []
    single = isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable)
    found: list[Any] = [callbacks] if single else list(callbacks)  # type: ignore[arg-type]
    for callback in found:
        if not isinstance(callback, Callback):
            hint = ": LambdaCallback makes one of a function" if callable(callback) and not isinstance(callback, type) else ""
            raise TypeError(f"callbacks must be Callback objects, received {received(callback)}{hint}")
        for name in dir(type(callback)):
            if name.startswith("on_") and not hasattr(Callback, name):
                hooks = [hook for hook in dir(Callback) if hook.startswith("on_")]
                warnings.warn(f"{type(callback).__name__}.{name} is never called, there is no such hook: {nearest(name, hooks)}", stacklevel=4)
    return found


def overridden(callbacks: Iterable[Callback], hook: str) -> bool:
    """Whether any callback overrides the hook, in its class or on the object itself."""
    return any(getattr(getattr(callback, hook), "__func__", None) is not getattr(Callback, hook) for callback in callbacks)


def needs_batches(callbacks: Iterable[Callback]) -> bool:
    """Whether any callback overrides a hook of single batches."""
    callbacks = list(callbacks)
    return any(overridden(callbacks, hook) for hook in BATCH_HOOKS)


def _is_text(instance: Any, attribute: attrs.Attribute, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{type(instance).__name__}: {attribute.name} must be a name, received {value!r}")


def _needs_validation(key: str, logs: Mapping[str, Any]) -> bool:
    """Whether a key that is not logged is one of validation, of which there is none."""
    return key.startswith("val_") and not any(other.startswith("val_") for other in logs)


def _validates(model: Any) -> bool:
    """Whether the fit that is running has data for validation."""
    fitting = getattr(model, "fitting", None)
    return fitting is not None and fitting.validation is not None


def _not_logged(key: str, logs: Mapping[str, Any]) -> str:
    """What there is instead."""
    if _needs_validation(key, logs):
        return f"needs validation_data or validation_split; without them the keys are {', '.join(sorted(logs))}"
    return nearest(key, logs)


def _state(default: Any) -> Any:
    """A field that training changes and that the constructor does not take."""
    return attrs.field(init=False, default=default, repr=False)


class _Monitoring(Callback):
    """What callbacks share that follow one logged value. monitor, mode and min_delta are fields of the subclass; KEPT names those of its state."""

    KEPT: ClassVar[tuple[str, ...]] = ("best",)

    monitor: str
    mode: str
    min_delta: float

    def state(self) -> dict[str, Any]:
        """The fields that training changes."""
        return {name: getattr(self, name) for name in self.KEPT}

    def restore(self, state: dict[str, Any]) -> None:
        """Take them back."""
        for name in self.KEPT:
            value = state[name]
            whole = name != "best"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float, type(None))):
                raise TypeError(f"{type(self).__name__}: {name} must be {'a whole number' if whole else 'a number or None'}, received {value!r}")
            setattr(self, name, value)

    def _waits(self, logs: Mapping[str, float]) -> bool:
        """Whether the value is one of validation that this epoch has not, since there is validation in some epochs alone."""
        return _needs_validation(self.monitor, logs) and _validates(self.model)

    def _value(self, logs: Mapping[str, float]) -> float:
        name = type(self).__name__
        if self.monitor in logs:
            return float(logs[self.monitor])
        if _needs_validation(self.monitor, logs):
            raise ValueError(f"{name}: monitor {self.monitor!r} {_not_logged(self.monitor, logs)}")
        raise ValueError(f"{name}: monitor must be a logged key, received {self.monitor!r}: {nearest(self.monitor, logs)}")

    def _higher_is_better(self) -> bool:
        if self.mode != "auto":
            return self.mode == "max"
        base = self.monitor.removeprefix("val_")
        words = {base, base.rsplit("_", 1)[-1]}          # binary_accuracy, sparse_categorical_crossentropy
        if base.endswith(("loss", "error")) or words & LOWER:
            return False
        if words & HIGHER or base.startswith("top_"):    # top_5_accuracy, top_k_categorical_accuracy
            return True
        name = type(self).__name__
        raise ValueError(f"{name}: mode must be 'min' or 'max' for a monitor of unknown direction, received 'auto' for {self.monitor!r}")

    def _improves(self, value: float, best: float | None) -> bool:
        """Whether value is better than best by more than min_delta. NaN never is, and anything else is better than nothing."""
        if math.isnan(value) or best is None:
            return not math.isnan(value)
        return value > best + self.min_delta if self._higher_is_better() else value < best - self.min_delta


@attrs.define(eq=False, slots=False)
class EarlyStopping(_Monitoring):
    """Stop when a logged value no longer improves, and on request go back to the best weights.

    Training stops at the end of the `patience`-th epoch in a row without improvement (0 counts as 1). With `restore_best_weights` the model
    has the weights of the best epoch when `fit` returns, whatever ended it: patience, the last epoch or Ctrl-C. All that `model.parameters`
    lists goes back, moving statistics too. When to stop is Keras 3's rule, but NaN never counts as a best value.

    Args:
        monitor: logged key to follow, "val_loss" by default.
        min_delta: least change that counts as an improvement, at least 0, default 0.
        patience: epochs without improvement, at least 0, default 0.
        mode: "min", "max", or "auto" (default): by the name of the key, where its direction is known.
        baseline: value to beat (by min_delta); until it is, better epochs count towards patience too, though none of them stops. Default None.
        restore_best_weights: default False.
        start_from_epoch: first epoch that counts, default 0.

    Attributes:
        best: the best value, None before there was one.
        best_epoch: its epoch, counted from 0.
        stopped_epoch: the epoch after which training was stopped; 0 where it was not (training is never stopped after epoch 0).

    Raises:
        ValueError: a field out of range; at the end of the first epoch, an unknown monitor.
    """

    KEPT = ("best", "best_epoch", "stopped_epoch", "wait")

    monitor: str = attrs.field(default="val_loss", validator=_is_text)
    min_delta: float = real(default=0.0, low=0.0)
    patience: int = integer(default=0, low=0)
    mode: str = choice("auto", "min", "max", default="auto")
    baseline: float | None = real(default=None, none=True)
    restore_best_weights: bool = boolean(default=False)
    start_from_epoch: int = integer(default=0, low=0)
    best: float | None = _state(None)
    best_epoch: int = _state(0)
    stopped_epoch: int = _state(0)
    wait: int = _state(0)
    _weights: dict[str, np.ndarray] | None = attrs.field(init=False, default=None, repr=False)

    def on_train_begin(self, logs: Logs) -> None:
        """Forget an earlier training."""
        self.best, self._weights = None, None
        self.best_epoch = self.stopped_epoch = self.wait = 0

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Compare, remember, stop; epochs without the value do not count."""
        if self._waits(logs):
            return
        value = self._value(logs)
        self._higher_is_better()                         # an unknown direction is refused now, not at the second epoch
        if epoch < self.start_from_epoch:
            return
        self.wait += 1
        if self._improves(value, self.best):
            self.best, self.best_epoch = value, epoch
            self._remember()
            if self.baseline is None or self._improves(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs) -> None:
        """Put the best weights back."""
        if self._weights is not None:
            self.model.set_parameters(self._weights)
            self._weights = None                         # a copy of a large network is not kept for nothing

    def state(self) -> dict[str, Any]:
        """What it has counted, and the best weights."""
        return {**super().state(), "weights": self._weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        super().restore(state)
        weights, own = state["weights"], self.model.parameters if state["weights"] is not None else {}
        if weights is not None and {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in own.items()}:
            raise TypeError("EarlyStopping: the best weights must be those of the model's parameters")
        self._weights = weights

    def _remember(self) -> None:
        if not self.restore_best_weights:
            return
        if self._weights is None:
            self._weights = {name: np.array(value) for name, value in self.model.parameters.items()}
            return
        for name, value in self.model.parameters.items():
            self._weights[name][...] = value


@attrs.define(eq=False, slots=False)
class ModelCheckpoint(_Monitoring):
    """Save the model while it is trained, so that a run that was stopped, however, can go on: `fit(..., resume=path)`.

    The file holds everything: parameters, optimizer, the states of all callbacks, the history, and how far the epoch is. It takes the place of the
    last one when it is complete; so there is always one that can be read, whatever happens while it is written.

    Args:
        path: of the file. It may name the epoch (counted from 1, as in Keras), the batch (with `every` a number) and logged keys:
            "run-{epoch:02d}-{val_loss:.3f}.nnkit".
        every: "epoch" (default), or after how many batches, counted over all epochs, at least 1.
        monitor: logged key to follow with save_best_only, "val_loss" by default.
        mode: "min", "max", or "auto" (default): by the name of the key, where its direction is known.
        save_best_only: save only where the monitored value is better than ever; default False. Within an epoch losses and metrics of validation are
            not known.
        save_weights_only: save the parameters alone, from which no run can go on; default False.

    Attributes:
        best: the best value of those that save_best_only has seen, None before there was one.

    Raises:
        ValueError: a field out of range; when it first saves, an unknown monitor or a key in the path that is not logged.
        OSError: a file cannot be written; where there is no such folder, when training begins.
    """

    path: str = attrs.field(converter=os.fspath)
    every: str | int = attrs.field(default="epoch", kw_only=True)
    monitor: str = attrs.field(default="val_loss", validator=_is_text, kw_only=True)
    mode: str = choice("auto", "min", "max", default="auto", kw_only=True)
    save_best_only: bool = boolean(default=False, kw_only=True)
    save_weights_only: bool = boolean(default=False, kw_only=True)
    best: float | None = _state(None)
    _due: bool = attrs.field(init=False, default=False, repr=False)

    min_delta: ClassVar[float] = 0.0                     # type: ignore[misc]

    @path.validator
    def _check_path(self, attribute: attrs.Attribute, value: object) -> None:
        _is_text(self, attribute, value)
        assert isinstance(value, str)
        for _, name, _, _ in string.Formatter().parse(value):
            if name is not None and not name.isidentifier():
                raise ValueError(f"ModelCheckpoint: path must name keys as in '{{epoch:02d}}', received {value!r}")

    @every.validator
    def _check_every(self, attribute: attrs.Attribute, value: object) -> None:
        if value != "epoch" and (type(value) is not int or value < 1):
            raise ValueError(f"ModelCheckpoint: every must be 'epoch' or a whole number of batches of at least 1, received {value!r}")

    def __attrs_post_init__(self) -> None:
        """Refuse to follow what is not known when it is needed."""
        if self.every != "epoch":
            self.interval = int(self.every)
            if self.save_best_only and self.monitor.startswith("val_"):
                raise ValueError(f"ModelCheckpoint: monitor must be a loss or metric of training where every is a number of batches, "
                                 f"received {self.monitor!r}")

    def on_train_begin(self, logs: Logs) -> None:
        """Forget an earlier training; refuse a path at which no file can be written before any epoch was spent."""
        from nnkit.io.native import check_name
        from nnkit.io.safetensors import check_target

        self.best = None
        check_name(self.path, "ModelCheckpoint")
        if "{" not in self.path:
            check_target(self.path)
        elif "{" not in os.path.dirname(self.path):
            check_target(os.path.join(os.path.dirname(self.path), "name"))

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Decide, so that the files of all callbacks know."""
        self._due = self.every == "epoch" and self._better(logs)

    def on_epoch_complete(self, epoch: int, logs: Logs) -> None:
        """Save."""
        if self._due:
            self._save({**logs, "epoch": epoch + 1})
        self._due = False

    def on_interval_end(self, epoch: int, batch: int, logs: Logs) -> None:
        """Save."""
        if self._better(logs):
            self._save({**logs, "epoch": epoch + 1, "batch": batch})

    def state(self) -> dict[str, Any]:
        """The best value, where it matters."""
        return super().state() if self.save_best_only else {}

    def _better(self, logs: Logs) -> bool:
        if not self.save_best_only:
            return True
        if self._waits(logs):
            return False
        value = self._value(logs)
        self._higher_is_better()                         # an unknown direction is refused now, not when there are two values
        better = self._improves(value, self.best)
        self.best = value if better else self.best
        return better

    def _save(self, known: Mapping[str, Any]) -> None:
        try:
            path = self.path.format(**known)
        except KeyError as error:
            key = str(error.args[0])
            reason = ("there is no validation after this epoch (validation_freq)" if _needs_validation(key, known) and _validates(self.model)
                      else _not_logged(key, known))
            raise ValueError(f"ModelCheckpoint: path names {key!r}, which is not logged: {reason}") from None
        (self.model.save_weights if self.save_weights_only else self.model.save)(path)


class TerminateOnNaN(Callback):
    """Stop as soon as the loss is NaN or infinite; looked at about every 50 ms, since a mean over an epoch that was NaN once stays so."""

    def on_train_piece_end(self, samples: int, logs: Logs) -> None:
        """Look at the loss so far."""
        self._look(logs)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Look at the loss of the epoch."""
        self._look(logs)

    def _look(self, logs: Logs) -> None:
        if not math.isfinite(logs.get("loss", 0.0)):
            self.model.stop_training = True


@attrs.define(eq=False, slots=False)
class ReduceLROnPlateau(_Monitoring):
    """Multiply the learning rate by `factor` when a logged value no longer improves; Keras 3's rule and defaults.

    After `patience` epochs in a row without improvement, lr = max(factor lr, min_lr); then `cooldown` epochs do not count. The rate of each
    epoch is added to its logs as "learning_rate", and so to the history.

    Args:
        monitor: logged key to follow, "val_loss" by default.
        factor: greater than 0 and less than 1, default 0.1.
        patience: epochs without improvement, at least 0 (which counts as 1), default 10.
        mode: "min", "max", or "auto" (default): by the name of the key, where its direction is known.
        min_delta: least change that counts as an improvement, at least 0, default 1e-4.
        cooldown: epochs to wait after a reduction, at least 0, default 0.
        min_lr: the rate never falls below, at least 0, default 0.

    Raises:
        ValueError: a field out of range; at the start of training, a learning rate that a schedule drives; at the end of the first epoch, an
            unknown monitor.
    """

    KEPT = ("best", "wait", "cooldown_counter")

    monitor: str = attrs.field(default="val_loss", validator=_is_text)
    factor: float = real(default=0.1, low=0.0, high=1.0, low_open=True, high_open=True)
    patience: int = integer(default=10, low=0)
    mode: str = choice("auto", "min", "max", default="auto")
    min_delta: float = real(default=1e-4, low=0.0)
    cooldown: int = integer(default=0, low=0)
    min_lr: float = real(default=0.0, low=0.0)
    best: float | None = _state(None)
    wait: int = _state(0)
    cooldown_counter: int = _state(0)

    def on_train_begin(self, logs: Logs) -> None:
        """Forget an earlier training; refuse a rate that cannot be set before any epoch was spent."""
        self.best = None
        self.wait = self.cooldown_counter = 0
        self.model.learning_rate = self.model.learning_rate

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Compare, count, reduce; epochs without the value do not count."""
        rate = float(self.model.learning_rate)
        waits = self._waits(logs)
        value = 0.0 if waits else self._value(logs)
        logs["learning_rate"] = rate
        if waits:
            return
        self._higher_is_better()                         # an unknown direction is refused now, not at the second epoch
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.wait = 0
        if self._improves(value, self.best):
            self.best, self.wait = value, 0
        elif self.cooldown_counter == 0:
            self.wait += 1
            if self.wait >= self.patience and rate > self.min_lr:
                self.model.learning_rate = max(rate * self.factor, self.min_lr)
                self.cooldown_counter, self.wait = self.cooldown, 0


class LambdaCallback(Callback):
    """A callback made of functions: `LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"]))`.

    Takes any hook of `Callback` by name. Raises TypeError for an unknown hook or for something that cannot be called.
    """

    def __init__(self, **hooks: Callable[..., Any] | None) -> None:
        for hook, function in hooks.items():
            if hook not in HOOKS:
                raise TypeError(f"LambdaCallback has no hook {hook!r}: {nearest(hook, HOOKS)}")
            if function is None:
                continue
            if not callable(function):
                raise TypeError(f"LambdaCallback: {hook} must be a function, received {function!r}")
            setattr(self, hook, function)


class CSVLogger(Callback):
    """Write one line per epoch to a CSV file: the column `epoch`, then the logged keys in their order.

    The first epoch decides the columns (with those of validation where that comes only in later ones, see `validation_freq`); a key that an epoch
    lacks is written as NA. Every line is on disk at the end of its epoch.

    Args:
        filename: path of the file; its folder must exist.
        separator: one character, "," by default.
        append: continue a file that exists, with its columns; by default it is replaced.

    Raises:
        ValueError: a separator of another length; at the end of the first epoch, a key for which an appended file has no column.
        OSError: at the start of training, the file cannot be opened.
    """

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:
        if not isinstance(separator, str) or len(separator) != 1:
            raise ValueError(f"CSVLogger: separator must be one character, received {separator!r}")
        self.filename = os.fspath(filename)
        self.separator = separator
        self.append = append
        self._file: Any = None
        self._columns: list[str] = []
        self._replaces = False                           # whether what is in the file is still that of an earlier training

    def on_train_begin(self, logs: Logs) -> None:
        """Open the file. What an earlier training wrote goes with the first line, unless that training goes on: see `restore`."""
        self._columns = self._present_columns() if self.append else []
        self._file = open(self.filename, "a", newline="", encoding="utf-8")  # noqa: SIM115  (closed by on_train_end)
        self._replaces = not self.append

    def state(self) -> dict[str, Any]:
        """Columns and length of the file."""
        return {"columns": self._columns, "size": 0 if self._file is None or self._replaces else os.fstat(self._file.fileno()).st_size}

    def restore(self, state: dict[str, Any]) -> None:
        """Cut off the lines of epochs that will be run again; a file that was replaced by a shorter one is continued."""
        if type(state["size"]) is not int or state["size"] < 0 or not all(isinstance(column, str) for column in state["columns"]):
            raise TypeError(f"CSVLogger: the state must be columns and size, received {state!r}")
        self._replaces = False
        if os.fstat(self._file.fileno()).st_size >= state["size"]:
            self._file.truncate(state["size"])
            self._columns = list(state["columns"])
        else:
            self._columns = self._present_columns()

    def _replace(self) -> None:
        if self._replaces:
            self._file.truncate(0)
        self._replaces = False

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Write a line."""
        self._replace()
        writer = csv.writer(self._file, delimiter=self.separator, lineterminator="\n")
        if not self._columns:
            later = [f"val_{key}" for key in logs if key != "learning_rate"] if _needs_validation("val_loss", logs) and _validates(self.model) else []
            self._columns = ["epoch", *logs, *later]
            writer.writerow(self._columns)
        unknown = [key for key in logs if key not in self._columns]
        if unknown and self.append:
            raise ValueError(f"CSVLogger: {self.filename} has the columns {', '.join(self._columns)}, and none for {', '.join(unknown)}")
        row = {"epoch": epoch, **logs}
        writer.writerow([row.get(column, "NA") for column in self._columns])
        self._file.flush()

    def on_train_end(self, logs: Logs) -> None:
        """Close the file."""
        if self._file is not None:
            self._replace()
            self._file.close()
            self._file = None

    def _present_columns(self) -> list[str]:
        if not os.path.exists(self.filename):
            return []
        with open(self.filename, newline="", encoding="utf-8") as file:
            return next(csv.reader(file, delimiter=self.separator), [])
