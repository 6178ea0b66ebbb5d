"""The loop of `fit`: epochs, pieces of about 50 ms, validation, callbacks, progress."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkit.plan.builder import Sizes
from nnkit.plan.layout import COUNTERS
from nnkit.training.callbacks import Callback, as_callbacks, needs_batches, overridden
from nnkit.training.data import Data, Kept
from nnkit.training.feed import as_whole, split
from nnkit.training.frozen import Folder, split_model
from nnkit.training.history import History
from nnkit.training.progress import Progress, resolve_verbose
from nnkit.training.source import Source, as_batch, is_batches
from nnkit.training.state import prepare_rates

if TYPE_CHECKING:
    from nnkit.io.resume import Resumption
    from nnkit.training.engine import Targets
    from nnkit.training.model import Model

__all__ = ["Fitting", "piece_of"]

PIECE_SECONDS = 0.05                                     # how long the compiled loop runs before Python looks up: Ctrl-C, progress, callbacks
PIECE_STEPS = 16                                         # the same in steps, where what a callback does at the end of a piece may change bits


class Fitting:
    """One call of `fit`. `take` checks the data, `run` trains; everything that can be refused is refused before the first step. `close` ends it.

    How far it is, for the files that the model is saved to: `epoch`, and of it `batch` batches with `done` samples; `batches_done` over all epochs;
    `shuffled`, the counter that the epoch's order is drawn by; the places of loaders of batches, see `Source`.
    """

    SHUFFLED = COUNTERS["epoch"]

    def __init__(self, model: Model, *, batch_size: int, epochs: int, initial_epoch: int, shuffle: bool, validation_freq: int,
                 callbacks: Iterable[Callback] | Callback | None, check_finite: bool) -> None:
        self.model = model
        self.worker = model                              # what trains: the model, or what is left of it where its frozen part is cached
        self.folder: Folder | None = None
        self.within_epoch = False
        self.batch_size = as_whole(batch_size, 1, "batch_size")
        self.epochs = as_whole(epochs, 0, "epochs")
        self.initial_epoch = as_whole(initial_epoch, 0, "initial_epoch")
        self.validation_freq = as_whole(validation_freq, 1, "validation_freq")
        self.callbacks = as_callbacks(callbacks)
        self.by_batch = needs_batches(self.callbacks)
        self.by_piece = model.flushes_round and overridden(self.callbacks, "on_train_piece_end")
        self.shuffle = bool(shuffle)
        self.check_finite = check_finite
        self.training: Data | None = None
        self.batches: Source | None = None               # in place of arrays for training
        self.validation: Data | Source | None = None
        self.seconds: dict[int, float] = {}              # batch size -> seconds per step, for the length of pieces
        self.order = np.empty(0, np.int64)
        self.sizes = Sizes()
        self.history = History()
        self.spec = model.spec                           # callbacks may freeze layers
        self.epoch, self.batch, self.done, self.batches_done = self.initial_epoch, 0, 0, 0
        self.shuffled = int(model.counters[self.SHUFFLED])
        self.pieces: list[tuple[Targets, Kept | None]] = []      # what metrics look at, of this epoch
        self.resumed: Resumption | None = None           # what is to be taken over before training begins
        self.feed: Any = None                            # what runs the epoch's tapes on its data
        self.before: Kept | None = None                  # of the epoch that was taken over half-done
        self.rest: Iterator[Any] | None = None           # its remaining batches
        self.finished = False                            # whether there was nothing left to take over but the end

    # The data.

    def take(self, x: Any, y: Any, sample_weight: Any, class_weight: Mapping[int, float] | None, validation_split: float,
             validation_data: Any, mask: Any, validation_mask: Any) -> None:
        """Check what the user passed."""
        model = self.model
        if validation_split and (model.graph.flow.on_graphs or mask is not None):
            raise ValueError("fit: validation_split cannot cut a graph or masked data: pass validation_mask")
        if validation_mask is not None and validation_data is not None:
            raise ValueError("fit: give validation_data or validation_mask, not both")
        if y is None:
            if not is_batches(x) and not isinstance(x, (list, tuple)):
                raise ValueError(f"fit needs targets: pass y (an autoencoder's is x itself), or batches (x, y); received {type(x).__name__} alone")
            if validation_split or any(value is not None for value in (sample_weight, class_weight, mask, validation_mask)):
                raise ValueError("validation_split, sample_weight, class_weight and masks need arrays x and y, received batches; "
                                 "put weights into the batches: (x, y, sample_weight)")
            self.batches = Source(x, self.epochs - self.initial_epoch, "x", "a list of batches, or a function that returns a new iterator")
        else:
            self.training = model.data(x, y, sample_weight, class_weight, self.check_finite, mask)
            if validation_mask is not None:
                self.validation = model.data(x, y, sample_weight, mask=validation_mask, inputs=self.training.inputs)
            kept = split(self.training.n, validation_split)
            if kept < self.training.n:
                if validation_data is not None:
                    raise ValueError("fit: give validation_data or validation_split, not both")
                plain = self.training if class_weight is None else model.data(x, y, sample_weight, inputs=self.training.inputs)
                self.validation = plain.part(kept, self.training.n)
                self.training = self.training.part(0, kept)
        if is_batches(validation_data):
            times = self.epochs // self.validation_freq - self.initial_epoch // self.validation_freq
            self.validation = Source(validation_data, times, "validation_data", "a function that returns a new one")
        elif validation_data is not None:
            xv, yv, wv = as_batch(validation_data, "validation_data")
            try:
                self.validation = model.data(xv, yv, wv, check_finite=self.check_finite)
            except (TypeError, ValueError) as error:
                raise type(error)(f"validation_data: {error}") from None
        self._check_rows()

    def _check_rows(self) -> None:
        """Refuse what does not fit a network of a fixed batch size, or one whose rows go on from batch to batch."""
        model = self.model
        if model.graph.stateful and self.shuffle and self.training is not None:
            raise ValueError(f"fit: layer {model.graph.stateful[0]!r} is stateful, so the order of samples matters: pass shuffle=False")
        self.shuffle = self.shuffle and not model.graph.flow.on_graphs
        for data, what in ((self.training, "fit"), (self.validation, "fit: validation data")):
            rows = model.rows_of(self.batch_size, data.n, what) if isinstance(data, Data) else self.batch_size
            self.batch_size = rows if data is self.training else self.batch_size
        self.sizes = self.sizes if self.training is None else model.sizes_of(self.training.inputs)

    def resume(self, path: str | os.PathLike[str] | None, verbose: int | str) -> None:
        """Check a file that an earlier call left, and what of it is to be taken over. Nothing is changed yet but the place of a loader."""
        if path is None:
            return
        from nnkit.io.resume import Resumption
        from nnkit.io.safetensors import leftovers

        tell = f"fit: there is no {os.fspath(path)!r} yet: training begins at the start"
        show = resolve_verbose(verbose)
        if os.path.exists(path):
            self.resumed = Resumption(path, self)
            try:
                self._skip(self.resumed)
            except BaseException:
                self.resumed.close()
                for source in self.sources.values():
                    source.put(source.place)
                raise
            tell = f"fit: goes on from {os.fspath(path)!r}: epoch {self.resumed.epoch + 1}, batch {self.resumed.batch + 1}"
        for leftover in leftovers(path):                 # of runs that were killed while they wrote this file
            os.unlink(leftover)
        if show:
            print(tell)

    def _skip(self, resumed: Resumption) -> None:
        """Of batches from an iterable: draw those that are done, for their targets; the others stay for `run`."""
        for name, source in self.sources.items():
            source.put(resumed.places[name])
        if self.batches is None or not resumed.batch:
            return
        kept, done = resumed.kept(), 0
        self.rest = iter(self.batches)
        for _, given in zip(range(resumed.batch), self.rest, strict=False):      # in this order: the other draws one too many
            data = self.model.batch(given, self.check_finite)
            begin, done = done, done + data.n
            self.pieces.append((data.targets, kept if kept is None else kept.part(begin, done, data.counted)))
        if done != resumed.samples or len(self.pieces) != resumed.batch:
            raise ValueError(f"fit: cannot resume from {resumed.path!r}: the first {resumed.batch} batches held {resumed.samples} samples, "
                             f"x gives {done} in {len(self.pieces)}")

    @property
    def sources(self) -> dict[str, Source]:
        """What gives batches, by the name of its place in a file; a loader that is used for training and for validation, once."""
        found = {} if self.batches is None else {"loader": self.batches}
        if isinstance(self.validation, Source) and (self.batches is None or self.validation.given is not self.batches.given):
            found["validation_loader"] = self.validation
        return found

    def cache(self, where: bool | str | os.PathLike[str], verbose: int | str) -> None:
        """Where it is asked for, replace the model by its part that is not frozen, and the data by what the frozen part makes of them."""
        if where is False:
            return
        if self.training is None:
            raise ValueError("fit: cache_frozen needs arrays x and y, received batches")
        if where is not True and not os.path.isdir(where):
            raise ValueError(f"fit: cache_frozen must be True, False or a folder that exists, received {where!r}")
        if isinstance(self.validation, Source):
            raise ValueError("fit: cache_frozen needs arrays for validation_data, received batches")
        split = split_model(self.model)
        if self.resumed is not None:
            self.resumed.check_cached(split.base)
        self.folder = None if where is True else Folder(where)
        room = np.empty if self.folder is None else self.folder.room
        n = self.training.n + (0 if self.validation is None else self.validation.n)
        if resolve_verbose(verbose):
            names = ", ".join(output.name for output in split.base.outputs)
            print(f"computing {names} for {n:,} samples, {split.nbytes(n) / 1e6:,.1f} MB {'in memory' if where is True else 'in files'}", flush=True)
        if self.validation is not None:
            self.validation = split.cached(self.validation, self._validation_rows(), "predict", room)
        self.training = split.cached(self.training, self.batch_size, "features", room)
        self.worker = split.head

    def close(self) -> None:
        """Give back what the fit has held on disk."""
        self.training = self.validation = self.feed = None
        if self.folder is not None:
            self.folder.close()
        if self.resumed is not None:
            self.resumed.close()

    def will_change(self, action: str) -> None:
        """Refuse a change of what is trained that this loop would not notice. Raises RuntimeError."""
        if self.within_epoch:
            raise RuntimeError(f"{action}: not within an epoch; a callback may do it in on_epoch_begin or on_epoch_end")
        if self.worker is not self.model:
            raise RuntimeError(f"{action}: the fit has cached what is frozen (cache_frozen), so that must stay as it is until it ends")

    def _validation_rows(self) -> int:
        """The batch size of validation on arrays."""
        assert isinstance(self.validation, Data)
        return self.model.rows_of(max(self.batch_size, 256), self.validation.n, "fit: validation data")

    # The loop.

    def run(self, verbose: int | str) -> History:
        """Train; callbacks and the progress line end properly however training ends."""
        model = self.model
        samples = self.training.n if self.training is not None else None
        progress = Progress(self.epochs, samples, verbose)
        history = self.history = History({"epochs": self.epochs, "batch_size": self.batch_size, "samples": samples})
        model.stop_training = False
        logs: dict[str, float] = {}
        for callback in self.callbacks:
            callback.set_model(model)
        began: list[Callback] = []
        try:
            for callback in self.callbacks:
                began.append(callback)
                callback.on_train_begin({})
            self._take_over()
            for epoch in range(self.epoch, self.epoch if model.stop_training and self.finished else self.epochs):
                if not self.batch:
                    self._call("on_epoch_begin", epoch, {})
                progress.begin_epoch(epoch)
                logs = self._epoch(progress)
                if self.validation is not None and (epoch + 1) % self.validation_freq == 0:
                    logs.update({f"val_{key}": value for key, value in self._validate().items()})
                self._call("on_epoch_end", epoch, logs)
                history.record(epoch, logs)
                progress.end_epoch(logs)
                self._complete(epoch, logs)
                if model.stop_training:
                    break
        finally:
            model.settle()
            for callback in began:
                callback.on_train_end(logs)
            progress.close()
        return history

    def _validate(self) -> dict[str, float]:
        """Loss and metrics of the validation data."""
        if isinstance(self.validation, Data):
            return self.worker.evaluate_data(self.validation, self._validation_rows())
        assert self.validation is not None
        return self.model.evaluate_batches(self.validation, self.check_finite, what="validation_data")

    def _take_over(self) -> None:
        """Go on where another call stopped: callbacks have begun as they did there, and then everything becomes what it was."""
        resumed = self.resumed
        if resumed is None:
            return
        if resumed.batch:
            self._call("on_epoch_begin", resumed.epoch, {})
        resumed.restore(self)
        resumed.close()                                  # its place will be taken by another file, which some systems refuse while it is open
        self.finished = not self.batch

    def _complete(self, epoch: int, logs: dict[str, float]) -> None:
        """The epoch is behind us, for callbacks and history, too."""
        self.epoch, self.batch, self.done, self.pieces = epoch + 1, 0, 0, []
        self.shuffled = int(self.model.counters[self.SHUFFLED])
        for source in self.sources.values():
            source.mark()
        self._call("on_epoch_complete", epoch, logs)

    def kept_so_far(self) -> Kept | None:
        """What metrics will look at of the batches of this epoch that are done."""
        if self.feed is not None:
            self.feed.fetch()
        pieces = [kept for _, kept in self.pieces if kept is not None]
        return Kept.joined(pieces).first(self.done) if pieces else None

    def _call(self, hook: str, *arguments: Any) -> None:
        if overridden(self.callbacks, hook):
            self.model.settle()
        for callback in self.callbacks:
            getattr(callback, hook)(*arguments)

    def _epoch(self, progress: Progress) -> dict[str, float]:
        if not self.batch:
            self.model.sums[:] = 0
        self.within_epoch = True
        try:
            logs = self._epoch_of_arrays(progress) if self.training is not None else self._epoch_of_batches(progress)
        finally:
            self.within_epoch = False
        self.model.counters[COUNTERS["epoch"]] += 1
        return logs

    def _epoch_of_arrays(self, progress: Progress) -> dict[str, float]:
        model, data = self.worker, self.training
        assert data is not None
        model.prepare_kernels(min(self.batch_size, data.n), bool(model.metrics), self.shuffle, self.sizes)
        order = self._order(data.n)
        kept = model.room_for_metrics(data.n, data.counted)
        self.pieces = [(data.targets, kept)]
        model.counters[COUNTERS["position"]] = done = self.done
        batch = skipped = self.batch
        if kept is not None and self.before is not None:
            kept.take(self.before)
        self.before = None
        tapes = [*model.cut(data.n, self.batch_size, "train", kept is not None, self.sizes)]
        self.feed = model.feed(data, kept, order)
        for size, tape, steps in tapes:
            skipped, steps = max(0, skipped - steps), max(0, steps - skipped)
            while steps and not self.model.stop_training:
                piece = prepare_rates(model, self._piece(size, steps))
                if self.by_batch:
                    self._call("on_train_batch_begin", batch, {})
                model.will_train()
                began = time.perf_counter()
                self.feed.run(tape, piece)
                self.seconds[size] = (time.perf_counter() - began) / piece
                steps -= piece
                batch += piece
                done += piece * size
                self._after_piece(progress, done, batch)
        self.feed.fetch()
        self.feed = None
        seen = [(data.targets_of(order[:done]), kept.first(done))] if kept is not None else []
        return {**model.mean_losses(), **model.metric_values(seen)}

    def _after_piece(self, progress: Progress, done: int, batch: int) -> None:
        self.batches_done += batch - self.batch
        self.batch, self.done = batch, done
        if self.by_batch:
            self._call("on_train_batch_end", batch - 1, self.worker.mean_losses())
        if self.callbacks or progress.verbose:
            logs = self.worker.mean_losses()
            self._call("on_train_piece_end", done, logs)
            progress.advance(done, logs)
            due = [callback for callback in self.callbacks if callback.interval and self.batches_done % callback.interval == 0]
            if due:
                self.model.settle()
            for callback in due:
                callback.on_interval_end(self.epoch, batch, logs)

    def _piece(self, size: int, steps: int) -> int:
        """How many steps the compiled loop may run before Python looks up."""
        steps = min([steps, *(callback.interval - self.batches_done % callback.interval for callback in self.callbacks if callback.interval)])
        if self.by_batch or self.by_piece:
            return 1 if self.by_batch else min(steps, PIECE_STEPS)
        return piece_of(steps, self.seconds.get(size))

    def _order(self, n: int) -> np.ndarray:
        """The order of the samples in this epoch."""
        if not self.order.size:
            self.order = np.arange(n)
        if self.shuffle:
            tape = self.model.tape("shuffle", 0)
            tape.bind({"order": self.order})
            tape.run()
        return self.order

    def _epoch_of_batches(self, progress: Progress) -> dict[str, float]:
        model = self.model
        assert self.batches is not None
        pieces, done, batch = self.pieces, self.done, self.batch
        rest, self.rest = self.rest or self.batches, None
        for given in rest:
            if model.stop_training:
                break
            data = model.batch(given, self.check_finite)
            model.check_batch(data.n, "fit")
            if self.by_batch:
                self._call("on_train_batch_begin", batch, {})
            pieces.append((data.targets, model.train_batch(data)))
            batch, done = batch + 1, done + data.n
            self._after_piece(progress, done, batch)
        if not done:
            raise ValueError("x must give at least one batch an epoch, received none: a generator can be gone through only once; "
                             "pass a list, or a function that returns a new generator")
        return {**model.mean_losses(), **model.metric_values(pieces)}


def piece_of(steps: int, seconds: float | None) -> int:
    """How many of so many steps take PIECE_SECONDS, where one takes so long; 1 where nobody knows."""
    return min(steps, max(1, int(PIECE_SECONDS / seconds))) if seconds else 1
