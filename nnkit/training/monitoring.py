"""Callbacks that follow one logged value: they stop training, keep the best model, lower the learning rate."""

from __future__ import annotations

import math
import os
import string
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import numpy as np

from nnkit.spec import boolean, choice, integer, nearest, real
from nnkit.training.callbacks import Callback, Logs, awaits_validation, needs_validation
from nnkit.training.progress import say

__all__ = ["EarlyStopping", "ModelCheckpoint", "ReduceLROnPlateau"]

# Metrics whose direction mode "auto" knows. Anything that ends in "loss" or "error" is better when lower.
LOWER = frozenset({"mse", "mae", "mape", "msle", "rmse", "kl_divergence", "poisson", "hinge", "crossentropy"})
HIGHER = frozenset({"acc", "accuracy", "auc", "precision", "recall", "f1", "f1_score", "fbeta_score", "r2", "r2_score", "iou"})


def _is_text(instance: Any, attribute: attrs.Attribute, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{type(instance).__name__}: {attribute.name} must be a name, received {value!r}")


def _not_logged(key: str, logs: Mapping[str, Any]) -> str:
    """What there is instead."""
    if needs_validation(key, logs):
        return f"needs validation_data or validation_split; without them the keys are {', '.join(sorted(logs))}"
    return nearest(key, logs)


def _shown(value: float | None) -> str:
    return "never a number" if value is None else f"{value:.6g}"


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
        return awaits_validation(self.monitor, logs, self.model)

    def _value(self, logs: Mapping[str, float]) -> float:
        name = type(self).__name__
        if self.monitor in logs:
            return float(logs[self.monitor])
        if needs_validation(self.monitor, logs):
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
        verbose: 1 to print when training is stopped and when weights go back, 0 (default) for silence.
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
    verbose: int = integer(default=0, low=0)
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
            if self.verbose:
                say(f"epoch {epoch + 1}: training stops, {self.monitor} was best in epoch {self.best_epoch + 1}: {_shown(self.best)}")

    def on_train_end(self, logs: Logs) -> None:
        """Put the best weights back."""
        if self._weights is not None:
            self.model.set_parameters(self._weights)
            if self.verbose:
                say(f"the weights of epoch {self.best_epoch + 1} are back, {self.monitor}: {_shown(self.best)}")
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
        verbose: 1 to print what is saved, 0 (default) for silence.

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
    verbose: int = integer(default=0, low=0, kw_only=True)
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
            reason = ("there is no validation after this epoch (validation_freq)" if awaits_validation(key, known, self.model)
                      else _not_logged(key, known))
            raise ValueError(f"ModelCheckpoint: path names {key!r}, which is not logged: {reason}") from None
        (self.model.save_weights if self.save_weights_only else self.model.save)(path)
        if self.verbose:
            say(f"epoch {known['epoch']}: saved {path}" + f", {self.monitor}: {_shown(self.best)}" * self.save_best_only)


@attrs.define(eq=False, slots=False)
class ReduceLROnPlateau(_Monitoring):
    """Multiply the learning rate by `factor` when a logged value no longer improves; Keras 3's rule and defaults.

    After `patience` epochs in a row without improvement, lr = max(factor lr, min_lr); then `cooldown` epochs do not count. The rate of each
    epoch is added to its logs as "learning_rate", and so to the history.

    Args:
        monitor: logged key to follow, "val_loss" by default.
        factor: greater than 0 and less than 1, default 0.1.
        patience: epochs without improvement, at least 0 (which counts as 1), default 10.
        verbose: 1 to print when the rate is reduced, 0 (default) for silence.
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
    verbose: int = integer(default=0, low=0)
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
                if self.verbose:
                    say(f"epoch {epoch + 1}: the learning rate goes from {rate:g} to {self.model.learning_rate:g}")
