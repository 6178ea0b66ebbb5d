"""What a model is inside: its memory, plans bound to it as tapes, and what runs them on checked data. `Model` adds what users call."""

from __future__ import annotations

import collections
import functools
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np

from nnkit.graph import GraphBatch, LinkBatch
from nnkit.losses.base import Loss
from nnkit.metrics import Metric
from nnkit.network import Container
from nnkit.nodes import Graph
from nnkit.optimizers.base import Optimizer
from nnkit.plan.build import build, flush_plan, numbered, shuffle_plan, update_plan
from nnkit.plan.builder import Sizes
from nnkit.plan.layout import COUNTERS, SUMS, Layout, lay_out
from nnkit.plan.plan import Plan
from nnkit.runtime import cpu
from nnkit.runtime.backend import Backend
from nnkit.training.data import Data, Kept, as_inputs, output_arrays
from nnkit.training.fitting import Fitting, piece_of
from nnkit.training.graphs import Checked, by_kind, input_arrays, samples_of, sizes_of, smallest_sizes
from nnkit.training.outputs import Output, resolve_outputs
from nnkit.training.progress import QUIET, Progress
from nnkit.training.source import as_batch, is_labelled
from nnkit.training.state import COMPILED, initialise, prepare_rates, refuse_in_vain
from nnkit.training.use import Use

__all__ = ["Engine", "Predictions", "Targets"]

Predictions = tuple[np.ndarray, ...]                     # for each output (samples, ...)
Targets = tuple[np.ndarray | None, ...]                  # likewise; None where an output has no loss

PLANS_KEPT = 32                                          # bound plans a model keeps, one for each mode and batch size
POSITION = COUNTERS["position"]
NO_SIZES = Sizes()


class Engine:
    """A network with memory, its plans and their runs. Functions of training/state.py say what the memory holds when the model is made or declared
    anew; all data is checked before it comes here."""

    def __init__(self, spec: Container, graph: Graph, optimizer: Optimizer | None, outputs: tuple[Output, ...], dtype: str, seed: int,
                 threads: int | None, runtime: Backend, whole: Engine | None = None, draw: bool = True) -> None:
        """whole: the model whose memory this one uses. draw: whether initial parameters are drawn; else whoever asks writes them."""
        self.spec, self.graph, self.optimizer, self.outputs = spec, graph, optimizer, outputs
        self.dtype, self.seed, self.threads = dtype, seed, threads
        self.runtime, self.backend = runtime, runtime.name
        self.stop_training = False
        self.whole: Engine = self if whole is None else whole
        self.layout: Layout = lay_out(graph, optimizer, dtype, runtime.name) if whole is None else whole.layout
        self.memory: Any = runtime.memory(self.layout, None if whole is None else whole.memory)
        self.tapes: collections.OrderedDict[tuple[str, int, bool, bool, Sizes], Any] = collections.OrderedDict()
        self.lock: threading.RLock = threading.RLock() if whole is None else whole.lock
        self.training = False                            # whether a fit is running
        self.fitting: Fitting | None = None              # the loop of that fit; how far it is is saved with the model
        self.stale = False                               # whether rows of a table may have missed updates: see flush
        self.watched = False                             # whether anybody may hold views of the parameters
        self.counters = self.memory.view(self.layout.buffers["counters"])
        self.sums = self.memory.view(self.layout.buffers["sums"])
        self._parameters = {name: self.memory.view(self.layout.parameters[name]) for name in graph.parameters()}
        if whole is None:
            initialise(self, draw)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set what may be set; see `refuse_in_vain`."""
        new = not (hasattr(type(self), name) or hasattr(self, name))          # `vars` would make all attributes slower to read
        if (new or name in COMPILED) and hasattr(self, "_parameters"):        # when it is made: none of the names that change as it works
            refuse_in_vain(self, name)
        super().__setattr__(name, value)

    @property
    def loss(self) -> Loss | None:
        """The loss; of several outputs that of the first that has one."""
        return next((output.loss for output in self.outputs if output.loss is not None), None)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of all outputs."""
        return tuple(metric for output in self.outputs for metric in output.metrics)

    def needed_optimizer(self, action: str) -> Optimizer:
        """The optimizer. Raises RuntimeError where there is none."""
        if self.optimizer is None:
            raise RuntimeError(f"{action} needs an optimizer: pass optimizer= to nnkit.compile")
        return self.optimizer

    def need_loss(self, action: str) -> None:
        """Raise RuntimeError where there is no loss."""
        if self.loss is None:
            raise RuntimeError(f"{action} needs a loss: pass loss= to nnkit.compile")

    def view_of(self, graph: Graph, trains: bool = False) -> Self:
        """A part of the network as a model on the same memory, which only predicts, or (trains) has the outputs and the optimizer of this one."""
        outputs = self.outputs if trains else resolve_outputs(graph, None, None, ())
        optimizer = self.optimizer if trains else None
        return type(self)(self.spec, graph, optimizer, outputs, self.dtype, self.seed, self.threads, self.runtime, self.whole)

    # Rows of tables that are updated row by row.

    def flush(self) -> None:
        """Bring the rows of tables up to date that are updated row by row. Everything that reads parameters outside of training comes after it."""
        whole = self.whole
        if whole.stale:
            tape = whole.tape("flush", 0)
            tape.bind({})
            tape.debug = False                           # numbers that are not finite were named where they arose; here they are only brought along
            tape.run()
            whole.stale = False

    def settle(self) -> None:
        """The same where somebody may hold views: before any code of the user's runs."""
        if self.whole.watched:
            self.flush()

    @property
    def flushes_round(self) -> bool:
        """Whether a flush changes the last bits of what follows: of closed forms, two in a row are not quite one."""
        return bool(self.layout.history) and self.needed_optimizer("fit").by_rows(self.dtype) == "closed"

    def will_train(self) -> None:
        """Note that rows may miss updates from now on."""
        self.whole.stale = bool(self.layout.history)

    # Plans.

    def build_plan(self, mode: str, batch: int, keep_predictions: bool = False, input_gradients: bool = False, sizes: Sizes = NO_SIZES) -> Plan:
        """The plan for a mode ("train", "gradients", "evaluate", "predict") and batch size; pure, nothing is compiled or allocated."""
        losses = [(output.loss, output.weight) for output in self.outputs]
        return build(self.graph, self.layout, mode, batch, losses=losses, optimizer=self.optimizer, keep_predictions=keep_predictions,
                     input_gradients=input_gradients, sizes=sizes, gap=cpu.RED_ZONE if cpu.debugging() else 0, backend=self.backend,
                     precision=self.runtime.precision, blas=self.runtime.blas, architecture=self.runtime.architecture)

    def check_backend(self) -> None:
        """Refuse layers of which the backend has no kernel, as far as plans of the smallest sizes show it. Raises ValueError."""
        if self.runtime.device is not None:
            sizes = smallest_sizes(self.graph)
            batch = self.graph.batch_size or max(1, sizes.nodes)
            for mode in ("predict", *["evaluate"] * (self.loss is not None), *["train"] * (None not in (self.optimizer, self.loss))):
                self.runtime.check(self.build_plan(mode, batch, sizes=sizes))

    def sizes_of(self, inputs: Sequence[Checked]) -> Sizes:
        """What a plan for checked inputs depends on besides the batch."""
        return sizes_of(inputs, self.runtime.heeds_evenness)

    def tape(self, mode: str, batch: int, keep_predictions: bool = False, input_gradients: bool = False, sizes: Sizes = NO_SIZES) -> Any:
        """That plan, bound to the model's memory; the last PLANS_KEPT are kept."""
        key = (mode, batch, keep_predictions, input_gradients, sizes)
        if key not in self.tapes:
            plan = self._special_plan(mode) or self.build_plan(mode, batch, keep_predictions, input_gradients, sizes)
            if mode == "shuffle":                        # one thread draws an order: the host's is the fastest, and it has the counters
                self.tapes[key] = self.memory.host.tape(plan, self.threads)
            else:
                self.runtime.check(plan)
                self.tapes[key] = self.memory.tape(plan, self.threads)
            if len(self.tapes) > PLANS_KEPT:
                self.tapes.popitem(last=False)
        self.tapes.move_to_end(key)
        return self.tapes[key]

    def _special_plan(self, mode: str) -> Plan | None:
        """The plan of a mode that runs no layer."""
        if mode == "update":
            return update_plan(self.layout, self.needed_optimizer(mode), cpu.RED_ZONE if cpu.debugging() else 0, self.backend,
                               self.runtime.architecture)
        if mode == "flush":
            return flush_plan(self.layout, self.needed_optimizer(mode))
        return shuffle_plan(self.layout) if mode == "shuffle" else None

    def prepare_kernels(self, batch: int, keep_predictions: bool, shuffle: bool, sizes: Sizes = NO_SIZES) -> None:
        """Have all that an epoch runs compiled or loaded: asked for at once, kernels are compiled several at a time."""
        if ("train", batch, keep_predictions, False, sizes) not in self.tapes:
            plans = [self.build_plan("train", batch, keep_predictions, sizes=sizes), *[shuffle_plan(self.layout)] * shuffle]
            self.memory.prepare(plans)

    def cut(self, n: int, batch: int, mode: str, keep_predictions: bool = False, sizes: Sizes = NO_SIZES) -> Iterator[tuple[int, Any, int]]:
        """(batch size, tape, steps) for the whole batches, then for the rest."""
        if n >= batch:
            yield batch, self.tape(mode, batch, keep_predictions, sizes=sizes), n // batch
        if n % batch:
            yield n % batch, self.tape(mode, n % batch, keep_predictions, sizes=sizes), 1

    # What the user passed, checked.

    def data(self, x: Any, y: Any, sample_weight: Any = None, class_weight: Mapping[int, float] | None = None, check_finite: bool = False,
             mask: Any = None, inputs: Any = None) -> Data:
        """The user's arrays, checked against network and losses; inputs: those of x where they have been checked."""
        self.need_loss("data")
        inputs = self.inputs(x, check_finite) if inputs is None else inputs
        y, sample_weight = self.runtime.on_host(y, "y"), self.runtime.on_host(sample_weight, "sample_weight")
        return Data.of(x, y, self.graph, self.outputs, self.dtype, sample_weight, class_weight, check_finite, mask, inputs)

    def inputs(self, x: Any, check_finite: bool = False) -> tuple[Any, ...]:
        """The network's inputs, checked."""
        return as_inputs(self.runtime.adopt(x, "x"), self.graph, self.dtype, check_finite)

    def batch(self, given: Any, check_finite: bool = False) -> Data:
        """One batch of an iterable, checked: (x, y), (x, y, sample_weight), or what a loader of `nnkit.graph` gives."""
        if isinstance(given, (GraphBatch, LinkBatch)):
            x, mask = self.of_loader(given)
            return self.data(x, given.y, check_finite=check_finite, mask=mask)
        return self.data(*as_batch(given), check_finite=check_finite)

    def of_loader(self, given: GraphBatch | LinkBatch) -> tuple[tuple[Any, ...], np.ndarray | None]:
        """The inputs of what a loader gave, in the network's order, and which samples count, where not all do."""
        if isinstance(given, LinkBatch):
            return by_kind(self.graph, given.x, given.adjacency, given.pairs), None
        return by_kind(self.graph, given.x, given.adjacency), given.mask

    def check_batch(self, n: int, action: str) -> None:
        """Refuse a batch that has not as many samples as the Inputs say. Raises ValueError."""
        if self.graph.batch_size not in (None, n):
            raise ValueError(f"{action}: a batch must have {self.graph.batch_size} samples, the batch_size of the Input, received {n}")

    def rows_of(self, batch_size: int, n: int, action: str) -> int:
        """The batch size for n samples: the one asked for, that of the Inputs where they name one, or all n of a graph. Raises ValueError where n is
        no multiple."""
        if self.graph.flow.on_graphs:
            return n
        fixed = self.graph.batch_size
        if fixed is not None and n % fixed:
            raise ValueError(f"{action}: the number of samples must be a multiple of {fixed}, the batch_size of the Input, received {n}")
        return batch_size if fixed is None else fixed

    # Runs.

    def feed(self, data: Data, kept: Kept | None = None, order: np.ndarray | None = None) -> Any:
        """What runs tapes on a data set: with where they are to keep what metrics look at, and the order of samples."""
        written = {} if kept is None else kept.arrays()
        return self.memory.hold(data.arrays, written, data).feed(written, order)

    def run_forward(self, inputs: Sequence[Any], predictions: Sequence[np.ndarray], batch: int, mode: str = "predict",
                    progress: Progress = QUIET) -> None:
        """Write the outputs for checked inputs. mode: "predict" or "features"."""
        self.counters[POSITION] = 0
        tapes = [*self.cut(len(predictions[0]), batch, mode, sizes=self.sizes_of(inputs))]
        written = output_arrays(predictions)
        self.run_through(self.memory.hold(input_arrays(inputs), written).feed(written), tapes, progress)

    @staticmethod
    def run_through(feed: Any, tapes: Iterable[tuple[int, Any, int]], progress: Progress) -> None:
        """Run tapes of `cut` over a data set and bring home what they write; Ctrl-C is heard between pieces, see `piece_of`."""
        done = 0
        for size, tape, steps in tapes:
            seconds = None                               # of a step
            while steps:
                piece, began = piece_of(steps, seconds), time.perf_counter()
                feed.run(tape, piece)
                seconds = (time.perf_counter() - began) / piece
                steps -= piece
                done += piece * size
                progress.advance(done, {})
        feed.fetch()

    def run_batch(self, tape: Any, data: Data, kept: Kept | None, order: np.ndarray | None = None) -> None:
        """Run a tape once on a batch, which counts in the sums as much as the samples in it that count."""
        before = self.sums.copy()
        feed = self.feed(data, kept, order)
        feed.run(tape)
        feed.fetch()
        if data.counted is not None:
            last = self.sums[SUMS["last"]]
            self.sums[:] = before + (self.sums - before) * (data.counted.sum() / data.n)
            self.sums[SUMS["last"]] = last

    def train_batch(self, data: Data) -> Kept | None:
        """One update on checked data; returns the predictions before it, where there are metrics."""
        kept = self.room_for_metrics(data.n, data.counted)
        self.counters[POSITION] = 0
        prepare_rates(self, 1)
        tape = self.tape("train", data.n, kept is not None, sizes=self.sizes_of(data.inputs))
        self.will_train()
        self.run_batch(tape, data, kept, np.arange(data.n))
        self.settle()
        return kept

    def update(self) -> None:
        """One update by the gradients that stand in memory; rows of tables are current."""
        prepare_rates(self, 1)
        tape = self.tape("update", 0)
        arrays = {}
        for position, V in enumerate(self.layout.parameters[name].shape[0] for name in self.layout.rowwise):
            arrays.update({numbered("rows", position): np.arange(V, dtype=np.int32), numbered("count", position): np.array([V])})
        self.will_train()
        self.memory.hold(arrays, {}).feed().run(tape)

    def evaluate_batches(self, batches: Iterable[Any], check_finite: bool = False, progress: Progress = QUIET, what: str = "x") -> dict[str, float]:
        """`evaluate` on batches: the loss is the mean over all samples of all batches. what: the argument in messages."""
        sums = self.sums.copy()
        pieces: list[tuple[Targets, Kept | None]] = []
        done = 0
        with Use(self, "evaluate"):
            try:
                self.sums[:] = 0
                for given in batches:
                    try:
                        data = self.batch(given, check_finite)
                        self.check_batch(data.n, "evaluate")
                    except (TypeError, ValueError) as error:
                        raise error if what == "x" else type(error)(f"{what}: {error}") from None
                    kept = self.room_for_metrics(data.n, data.counted)
                    tape = self.tape("evaluate", data.n, kept is not None, sizes=self.sizes_of(data.inputs))
                    self.counters[POSITION] = 0
                    self.run_batch(tape, data, kept)
                    pieces.append((data.targets, kept))
                    done += data.n
                    progress.advance(done, {})
                logs = self.mean_losses()
            finally:
                self.sums[:] = sums
        if not pieces:
            raise ValueError(f"{'evaluate: ' if what == 'x' else ''}{what} must give at least one batch, received none")
        return {**logs, **self.metric_values(pieces)}

    def evaluate_data(self, data: Data, batch_size: int, progress: Progress = QUIET) -> dict[str, float]:
        """`evaluate` on checked data."""
        sums = self.sums.copy()
        kept = self.room_for_metrics(data.n, data.counted)
        with Use(self, "evaluate"):
            try:
                self.sums[:] = 0
                tapes = [*self.cut(data.n, batch_size, "evaluate", kept is not None, self.sizes_of(data.inputs))]
                self.run_through(self.feed(data, kept), tapes, progress)
                logs = self.mean_losses()
            finally:
                self.sums[:] = sums
        return {**logs, **self.metric_values([(data.targets, kept)])}

    def predict_batches(self, batches: Iterable[Any], progress: Progress = QUIET) -> Predictions:
        """`predict` on batches, one below the other."""
        found: list[Predictions] = []
        done = 0
        with Use(self, "predict"):
            for given in batches:
                inputs, counted = self.batch_inputs(given)
                predictions = self.room(samples_of(inputs, self.graph))
                rows = self.rows_of(len(predictions[0]), len(predictions[0]), "predict")
                self.run_forward(inputs, predictions, rows)
                found.append(predictions if counted is None else tuple(each[counted] for each in predictions))
                done += len(found[-1][0])
                progress.advance(done, {})
        if not found:
            raise ValueError("predict: x must give at least one batch, received none")
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))

    def batch_inputs(self, given: Any) -> tuple[tuple[Any, ...], np.ndarray | None]:
        """The inputs of one batch of an iterable, checked, and which of its samples count, where not all do."""
        if isinstance(given, (GraphBatch, LinkBatch)):
            x, mask = self.of_loader(given)
            return self.inputs(x), mask
        return self.inputs(given[0] if is_labelled(given, self.graph.input_shapes) else given), None

    # What comes out.

    def room(self, n: int) -> Predictions:
        """Arrays for the outputs of n samples."""
        return tuple([np.empty((n, *output.shape), self.dtype) for output in self.outputs])

    def room_for_metrics(self, n: int, rows: np.ndarray | None = None) -> Kept | None:
        """The same, and arrays for the masks of their time steps, where there are metrics that will look at them. rows: which samples count."""
        if not self.metrics:
            return None
        masks = [np.empty((n, output.shape[0]), self.dtype) if masked else None for output, masked in zip(self.outputs, self._masked, strict=True)]
        return Kept(self.room(n), tuple(masks), rows)

    @functools.cached_property
    def _masked(self) -> tuple[bool, ...]:
        """For each output whether it has time steps and a mask; a plan tells."""
        if self.graph.flow.on_graphs:                    # rows of nodes are no time steps
            return (False,) * len(self.outputs)
        written = {buffer.name for step in self.build_plan("evaluate", 1, keep_predictions=True).steps for buffer in step.writes}
        return tuple(numbered("mask", position) in written for position in range(len(self.outputs)))

    def mean_losses(self) -> dict[str, float]:
        """The loss over the samples since `sums` was cleared, and its parts where it has several: {"loss": ..., "score_loss": ...}."""
        samples = self.sums[SUMS["samples"]]
        terms = next((tape.plan.terms for tape in reversed(self.tapes.values()) if tape.plan.terms), ())        # of what ran last
        names = [f"{term}_loss" for term in terms] if len(terms) > 1 else []
        places = {"loss": SUMS["loss"], **{name: SUMS["terms"] + position for position, name in enumerate(names)}}
        return {name: float(self.sums[place] / samples) if samples else float("nan") for name, place in places.items()}

    def metric_values(self, pieces: Sequence[tuple[Targets, Kept | None]]) -> dict[str, float]:
        """The metrics of pieces of one data set, by label. Time steps that are masked and labels that the loss ignores do not count."""
        found = {}
        for position, output in enumerate(self.outputs):
            own = [output.counted(*kept.counted(position, t)) for targets, kept in pieces
                   if kept is not None and (t := targets[position]) is not None]
            for label, metric in zip(output.labels(), output.metrics, strict=True):
                sums: Any
                if metric.additive or len(own) == 1:
                    sums = sum(metric.update(targets, predictions) for targets, predictions in own)
                else:
                    sums = metric.update(*(np.concatenate(parts) for parts in zip(*own, strict=True)))
                found[label] = metric.result(sums)
        return found
