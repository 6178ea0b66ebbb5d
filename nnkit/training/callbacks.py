"""Callbacks: what else happens while `fit` runs.

The contract with `fit`. Hooks are called in the order of the list. `logs` is one dict per call that all callbacks share: a callback may add a
key, and later callbacks and the history see it. Once `on_train_begin` was called, `on_train_end` is called too, however training ends: by its
last epoch, by `model.stop_training = True`, by Ctrl-C or by an error. `stop_training` is looked at after every hook of a piece, batch or epoch.

A whole epoch runs inside one compiled call, which is left about every 50 ms (a piece). Hooks of single batches make it leave after every batch,
so `fit` calls them only where a callback overrides one.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import numpy as np

from nnkit.spec import boolean, choice, integer, nearest, real

__all__ = [
    "CSVLogger", "Callback", "EarlyStopping", "LambdaCallback", "ReduceLROnPlateau", "TerminateOnNaN", "as_callbacks", "needs_batches",
    "overridden",
]

Logs = dict[str, float]

BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end")
HOOKS = ("on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end", *BATCH_HOOKS, "on_train_piece_end")

# Metrics whose direction mode "auto" knows. Anything that ends in "loss" or "error" is better when lower.
LOWER = frozenset({"mse", "mae", "mape", "msle", "rmse", "kl_divergence", "poisson", "hinge", "crossentropy"})
HIGHER = frozenset({"acc", "accuracy", "auc", "precision", "recall", "f1", "f1_score", "fbeta_score", "r2", "r2_score", "iou"})


class Callback:
    """Base of all callbacks: override the hooks that you need; `self.model` is the model being trained.

    `epoch` counts from 0 and `batch` from 0 within the epoch. `logs` holds the loss and metrics so far in the epoch (batch and piece hooks), or
    of the whole epoch with validation (`on_epoch_end`); it is empty in the begin hooks.
    """

    model: Any = None

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

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """Before a batch. Overriding this makes training of small networks slower."""

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """After a batch. Overriding this makes training of small networks slower."""

    def on_train_piece_end(self, samples: int, logs: Logs) -> None:
        """About every 50 ms within an epoch, after `samples` of its samples; costs nothing while the compiled loop runs."""


def as_callbacks(callbacks: Iterable[Callback] | Callback | None) -> list[Callback]:
    """The argument `callbacks` of `fit` as a list. Raises TypeError for anything that is not a `Callback`."""
    if callbacks is None:
        return []
    found = [callbacks] if isinstance(callbacks, Callback) else list(callbacks)
    for callback in found:
        if not isinstance(callback, Callback):
            made = f"the class {callback.__name__}, not an object made from it" if isinstance(callback, type) else repr(callback)
            raise TypeError(f"callbacks must be Callback objects, received {made}")
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


def _state(default: Any) -> Any:
    """A field that training changes and that the constructor does not take."""
    return attrs.field(init=False, default=default, repr=False)


class _Monitoring(Callback):
    """What callbacks share that follow one logged value: `monitor`, `mode` and `min_delta` are fields of the subclass."""

    monitor: str
    mode: str
    min_delta: float

    def _value(self, logs: Mapping[str, float]) -> float:
        name = type(self).__name__
        if self.monitor in logs:
            return float(logs[self.monitor])
        if self.monitor.startswith("val_") and not any(key.startswith("val_") for key in logs):
            known = ", ".join(sorted(logs))
            raise ValueError(f"{name}: monitor {self.monitor!r} needs validation_data or validation_split; without them the keys are {known}")
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
        """Compare, remember, stop."""
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

    def _remember(self) -> None:
        if not self.restore_best_weights:
            return
        if self._weights is None:
            self._weights = {name: np.array(value) for name, value in self.model.parameters.items()}
            return
        for name, value in self.model.parameters.items():
            self._weights[name][...] = value


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
        """Compare, count, reduce."""
        value = self._value(logs)
        self._higher_is_better()                         # an unknown direction is refused now, not at the second epoch
        rate = float(self.model.learning_rate)
        logs["learning_rate"] = rate
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

    The first epoch decides the columns; a key that a later epoch lacks is written as NA. Every line is on disk at the end of its epoch.

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

    def on_train_begin(self, logs: Logs) -> None:
        """Open the file."""
        self._columns = self._present_columns() if self.append else []
        self._file = open(self.filename, "a" if self.append else "w", newline="", encoding="utf-8")  # noqa: SIM115  (closed by on_train_end)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Write a line."""
        writer = csv.writer(self._file, delimiter=self.separator, lineterminator="\n")
        if not self._columns:
            self._columns = ["epoch", *logs]
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
            self._file.close()
            self._file = None

    def _present_columns(self) -> list[str]:
        if not os.path.exists(self.filename):
            return []
        with open(self.filename, newline="", encoding="utf-8") as file:
            return next(csv.reader(file, delimiter=self.separator), [])
