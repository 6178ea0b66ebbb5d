"""How far a `fit` has come, in the file that its model is saved to, and how another one goes on from there."""

from __future__ import annotations

import collections
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkit.io.native import Saved, described, recorded
from nnkit.optimizers.schedules import Schedule
from nnkit.training.data import Data, Kept
from nnkit.training.state import declare

if TYPE_CHECKING:
    from nnkit.training.callbacks import Callback
    from nnkit.training.fitting import Fitting
    from nnkit.training.history import History
    from nnkit.training.model import Model

__all__ = ["Resumption", "progress_of"]

COMPARED = ("dtype", "seed", "spec", "optimizer", "outputs")
LOADERS = ("loader", "validation_loader")                # what may have a place, see training.source
LONGEST = 60                                             # letters of a value in a message


def progress_of(fitting: Fitting, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a file says of a running fit; what are arrays of it is put into `arrays`, under names that begin with @fit/."""
    model = fitting.model
    arrays["@fit/sums"] = model.sums.copy()              # they are set to 0 where somebody evaluates
    if fitting.batch:
        kept = fitting.kept_so_far()
        for position, predictions in enumerate(kept.predictions if kept is not None else ()):
            arrays[f"@fit/predictions/{position}"] = predictions
        for position, mask in enumerate(kept.masks if kept is not None else ()):
            if mask is not None:
                arrays[f"@fit/masks/{position}"] = mask
    arrays["@fit/epochs"] = np.array(fitting.history.epoch, np.int64)
    for key in fitting.history:
        arrays[f"@fit/history/{key}"] = np.array([fitting.history.epochs_of(key), fitting.history[key]], np.float64).T.reshape(-1, 2)
    callbacks = [{"type": type(callback).__name__, "state": _plain(callback.state(), f"@fit/callbacks/{number}", arrays)}
                 for number, callback in enumerate(fitting.callbacks)]
    begun = {} if model.spec == fitting.spec else {"begun": recorded(fitting.spec)}
    return {**begun, "call": call_of(fitting), "epoch": fitting.epoch, "batch": fitting.batch, "samples": fitting.done,
            "batches": fitting.batches_done, "shuffled": fitting.shuffled, **dict.fromkeys(LOADERS),
            **{name: source.place for name, source in fitting.sources.items()}, "stopped": bool(model.stop_training), "watched": model.watched,
            "callbacks": callbacks}


def call_of(fitting: Fitting) -> dict[str, Any]:
    """How fit was called, as far as a resumed one must be called alike."""
    training, validation = fitting.training, fitting.validation
    return {"batch_size": None if training is None else fitting.batch_size, "samples": None if training is None else training.n,
            "shuffle": None if training is None else fitting.shuffle,
            "validation_samples": validation.n if isinstance(validation, Data) else None, "validation_freq": fitting.validation_freq}


def _plain(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """A callback's state as JSON holds it: arrays stand elsewhere, numbers that JSON does not know as text. Raises TypeError for what is neither."""
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"@array": name}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"@float": str(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}/{key}", arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{name}/{number}", arrays) for number, item in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"the state of a callback must be made of dicts, lists, numbers, texts and arrays, received {value!r}")


class Resumption:
    """A file that a fit goes on from; open until `close`. Everything is checked when it is made.

    Raises:
        OSError: the file cannot be read.
        FormatError: it is damaged, or no .nnkit file.
        ValueError: it belongs to another model or call of fit, with what differs first.
    """

    def __init__(self, path: str | os.PathLike[str], fitting: Fitting) -> None:
        self.path = os.fspath(path)
        self.saved = Saved.open(path)
        try:
            self._check(fitting)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self.saved.reader.close()

    def _compare(self, fitting: Fitting) -> None:
        """Refuse a file of another model or call of fit."""
        saved = self.saved
        if saved.get("fit") is None:
            raise ValueError(f"fit: cannot resume from {self.path!r}: it was not saved while a model was trained")
        mine = {**described(fitting.model), "call": call_of(fitting)}
        theirs = {**{key: saved.get(key) for key in COMPARED}, "call": saved.get("fit", "call")}
        theirs["spec"] = saved.get("fit", "begun") or theirs["spec"]
        for key in theirs:
            if found := _difference(theirs[key], mine[key], "" if key == "call" else key):
                where, there, here = found
                raise ValueError(f"fit: cannot resume from {self.path!r}: {where} is {there} there and {here} here")

    def _check(self, fitting: Fitting) -> None:
        self._compare(fitting)
        saved, model = self.saved, fitting.model
        self.states: Mapping[str, float] = {} if model.optimizer is None else model.optimizer.states()
        self.spec = saved.spec(saved.get("spec"), "network", "the network") if saved.get("fit", "begun") else model.spec
        graph = saved.guarded(self.spec.graph)
        if {name: own.shape for name, own in graph.parameters().items()} != {name: own.shape for name, own in model.graph.parameters().items()}:
            raise saved.fault("the network must be the one that the fit began with, but for what is frozen")
        saved.check_arrays(graph, model.dtype, self.states)
        self.epoch, self.batch, self.samples, self.batches, self.shuffled = (
            saved.whole("fit", key) for key in ("epoch", "batch", "samples", "batches", "shuffled"))
        saved.whole("step")
        saved.whole("epoch")
        self.places = {name: None if saved.get("fit", name) is None else saved.whole("fit", name, high=1 << 31) for name in LOADERS}
        self.stopped, self.watched = saved.get("fit", "stopped") is True, saved.get("fit", "watched") is True
        rate = saved.get("learning_rate")
        driven = model.optimizer is None or isinstance(model.optimizer.learning_rate, Schedule)
        if not (rate is None if driven else isinstance(rate, float) and 0 < rate < math.inf):
            raise saved.fault(f"learning_rate must be a number greater than 0, or null where a schedule drives it, received {_shown(rate)}")
        n, size = (0, 1) if fitting.training is None else (fitting.training.n, fitting.batch_size)
        if n and (self.batch > -(-n // size) or self.samples != min(self.batch * size, n)):
            raise saved.fault(f"{self.batch} batches of {size} are not the {self.samples} samples of {n} that it speaks of")
        self._check_arrays(fitting)
        self.callbacks = self._matched(fitting.callbacks)

    def _check_arrays(self, fitting: Fitting) -> None:
        """The arrays that a fit needs to go on."""
        model = fitting.model
        wanted: dict[str, tuple[str, tuple[int | None, ...]]] = {"@fit/sums": ("F64", model.sums.shape), "@fit/epochs": ("I64", (None,))}
        wanted |= {name: ("F64", (None, 2)) for name in self.saved.reader.entries if name.startswith("@fit/history/")}
        kept = model.room_for_metrics(0) if self.batch else None
        item = "F32" if model.dtype == "float32" else "F64"
        for position, own in enumerate(() if kept is None else kept.predictions):
            wanted[f"@fit/predictions/{position}"] = (item, (self.samples, *own.shape[1:]))
        for position, mask in enumerate(() if kept is None else kept.masks):
            if mask is not None:
                wanted[f"@fit/masks/{position}"] = (item, (self.samples, *mask.shape[1:]))
        for name, (dtype, shape) in wanted.items():
            entry = self.saved.reader.entries.get(name)
            fits = entry is not None and len(entry.shape) == len(shape) and all(
                asked in (None, size) for asked, size in zip(shape, entry.shape, strict=True))
            if entry is None or entry.dtype != dtype or not fits:
                raise self.saved.fault(f"it must hold {name!r} of dtype {dtype} and shape {shape}".replace("None", "any"))

    def _matched(self, callbacks: Sequence[Callback]) -> list[tuple[Callback, dict[str, Any]]]:
        """The callbacks that have a state in the file, with it: the first of a class belongs to the first of that class, and so on."""
        records = self.saved.get("fit", "callbacks")
        if not isinstance(records, list) or not all(isinstance(record, dict) and isinstance(record.get("type"), str)
                                                    and isinstance(record.get("state"), dict) for record in records):
            raise self.saved.fault("callbacks must be records of a type and a state")
        free: dict[str, collections.deque[Callback]] = collections.defaultdict(collections.deque)
        for callback in callbacks:
            free[type(callback).__name__].append(callback)
        found: list[tuple[Callback, dict[str, Any]]] = []
        for record in records:
            name, state = record["type"], record["state"]
            own = free[name].popleft() if free[name] else None
            if not state:
                continue
            if own is None:
                raise ValueError(f"fit: cannot resume from {self.path!r}: callbacks must have {_shown(name)}, of which it holds a state")
            found.append((own, state))
        return found

    def restore(self, fitting: Fitting) -> None:
        """Take everything into the model, the callbacks and the fit."""
        model, saved = fitting.model, self.saved
        declare(model, self.spec)
        saved.fill(model, self.states)
        if saved.get("learning_rate") is not None:
            model.learning_rate = saved.get("learning_rate")
        saved.reader.read_into("@fit/sums", model.sums)
        for callback, state in self.callbacks:
            try:
                callback.restore(self._state(state))
            except (KeyError, TypeError, AttributeError) as error:
                raise saved.fault(f"the state of {type(callback).__name__} does not fit it: {error!r}") from None
        fitting.epoch, fitting.batch, fitting.done, fitting.batches_done = self.epoch, self.batch, self.samples, self.batches
        fitting.before = self.kept() if self.batch else None
        if self.batch:
            model.counters[fitting.SHUFFLED] = self.shuffled
        fitting.shuffled = self.shuffled
        for name, source in fitting.sources.items():
            source.place = self.places[name]
        self._record(fitting.history)
        model.stop_training = self.stopped
        model.watched = model.watched or self.watched

    def check_cached(self, base: Model) -> None:
        """What a fit caches of frozen layers is computed before the file is taken over: their parameters must be those of the file already."""
        for name in base.graph.parameters():
            own = base.memory.view(base.layout.parameters[name])
            if own.tobytes() != self.saved.reader.read(name).tobytes():
                raise ValueError(f"fit: cannot resume from {self.path!r}: with cache_frozen the frozen {name!r} must be what it is there: "
                                 "take it by load_weights first")

    def kept(self) -> Kept | None:
        """The predictions and masks of the half-done epoch."""
        entries, read = self.saved.reader.entries, self.saved.reader.read
        count = sum(name.startswith("@fit/predictions/") for name in entries)
        if not count:
            return None
        masks = tuple(read(name) if (name := f"@fit/masks/{position}") in entries else None for position in range(count))
        return Kept(tuple(read(f"@fit/predictions/{position}") for position in range(count)), masks)

    def _record(self, history: History) -> None:
        """The epochs before."""
        names = [name for name in self.saved.reader.entries if name.startswith("@fit/history/")]
        values = {name.removeprefix("@fit/history/"): dict(self.saved.reader.read(name).tolist()) for name in names}
        for epoch in self.saved.reader.read("@fit/epochs").tolist():
            history.record(epoch, {key: own[epoch] for key, own in values.items() if epoch in own})

    def _state(self, value: Any) -> Any:
        """What `_plain` made plain."""
        if isinstance(value, dict):
            if value.keys() == {"@array"}:
                name = value["@array"]
                if not isinstance(name, str) or not name.startswith("@fit/callbacks/") or name not in self.saved.reader.entries:
                    raise self.saved.fault(f"the state of a callback names the array {_shown(name)}, which is not there")
                return self.saved.reader.read(name)
            if value.keys() == {"@float"} and value["@float"] in ("nan", "inf", "-inf"):
                return float(value["@float"])
            return {key: self._state(item) for key, item in value.items()}
        return [self._state(item) for item in value] if isinstance(value, list) else value


def _difference(theirs: Any, own: Any, where: str) -> tuple[str, str, str] | None:
    """The first place in which two documents differ, with what stands there."""
    if isinstance(theirs, dict) and isinstance(own, dict) and theirs.get("type") == own.get("type"):
        for key in {**own, **theirs}:
            if key not in own or key not in theirs:
                return f"{where}.{key}".lstrip("."), *("missing" if key not in side else _shown(side[key]) for side in (theirs, own))  # type: ignore[return-value]
            if found := _difference(theirs[key], own[key], f"{where}.{key}".lstrip(".")):
                return found
        return None
    if isinstance(theirs, list) and isinstance(own, list):
        for number, pair in enumerate(zip(theirs, own, strict=False)):
            if found := _difference(*pair, f"{where}[{number}]"):
                return found
        return (f"the length of {where}", str(len(theirs)), str(len(own))) if len(theirs) != len(own) else None
    return (where, _shown(theirs), _shown(own)) if theirs != own or type(theirs) is not type(own) else None


def _shown(value: Any) -> str:
    """A value for a message; of a spec its type."""
    if isinstance(value, dict) and "type" in value:
        value = value["type"]
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST - 3]}..."
