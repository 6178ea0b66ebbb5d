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
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nnkit.spec import nearest, received

__all__ = ["CSVLogger", "Callback", "LambdaCallback", "TerminateOnNaN"]

Logs = dict[str, float]

BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end")
HOOKS = ("on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end", "on_epoch_complete", *BATCH_HOOKS, "on_train_piece_end")


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


def needs_validation(key: str, logs: Mapping[str, Any]) -> bool:
    """Whether a key that is not logged is one of validation, of which there is none."""
    return key.startswith("val_") and not any(other.startswith("val_") for other in logs)


def awaits_validation(key: str, logs: Mapping[str, Any], model: Any) -> bool:
    """Whether a key that is not logged is one of validation, which the fit that is running does in some epochs alone."""
    fitting = getattr(model, "fitting", None)
    return needs_validation(key, logs) and fitting is not None and fitting.validation is not None


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
            later = [f"val_{key}" for key in logs if key != "learning_rate"] if awaits_validation("val_loss", logs, self.model) else []
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
