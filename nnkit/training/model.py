"""`Model`: a declared network with memory, that trains, evaluates and predicts. `compile` makes it."""

from __future__ import annotations

import collections
import functools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from nnkit.derive import layers_matching, with_flags
from nnkit.graph import GraphBatch, LinkBatch
from nnkit.io.report import Report, compare, source_names
from nnkit.losses.base import Loss
from nnkit.metrics import Metric
from nnkit.network import Container, Graph, own_name
from nnkit.optimizers.base import Optimizer
from nnkit.optimizers.schedules import Schedule
from nnkit.plan.build import COUNTERS, LEARNING_RATES, SUMS, Layout, Sizes, build, flush_plan, lay_out, numbered, numbered_input, shuffle_plan
from nnkit.plan.describe import summary_text
from nnkit.plan.plan import Plan
from nnkit.pretrained import pretrained_networks
from nnkit.runtime import cpu
from nnkit.runtime.backend import Backend, backend_of
from nnkit.spec import article, is_of_family, nearest, resolve
from nnkit.training.callbacks import Callback
from nnkit.training.data import Data, Kept, as_inputs, output_arrays
from nnkit.training.feed import as_batch, as_whole, is_batches
from nnkit.training.fitting import Fitting
from nnkit.training.graphs import Surroundings, by_kind, input_arrays, samples_of, sizes_of, smallest_sizes
from nnkit.training.history import History
from nnkit.training.outputs import Output, resolve_outputs

__all__ = ["Model", "compile"]

Predictions = tuple[np.ndarray, ...]                     # for each output (samples, ...)
Targets = tuple[np.ndarray | None, ...]                  # likewise; None where an output has no loss

PLANS_KEPT = 32                                          # bound plans a model keeps, one for each mode and batch size
EVALUATION_BATCH = 256
STRIP = 16                                               # columns that are copied together where a layout is turned
POSITION = COUNTERS["position"]
NO_SIZES = Sizes()


def compile(spec: Container, *, optimizer: Optimizer | str | None = None, loss: Any = None, metrics: Any = (), loss_weights: Any = None,
            backend: str = "cpu", dtype: str = "float32", seed: int = 0, threads: int | None = None, precision: str = "float32",
            blas: bool = False) -> Model:
    """A `Model` of the declared network, with its parameters initialised from `seed`.

    Args:
        spec: the network.
        optimizer: spec or name; needed by `fit` and `train_on_batch`.
        loss: spec or name; needed by `fit`, `evaluate` and `gradients`. For several outputs one for all of them, a dict by output name or a
            list; an output whose loss is None or missing is not trained for.
        metrics: metric specs, names ("accuracy" is chosen by the loss) or functions f(y_true, y_pred), one or a list. For several outputs a
            dict by output name, or a list with an entry for each.
        loss_weights: for several outputs the factors of their losses in the sum that is trained for, all greater than 0; a dict by output name
            or a list. Default 1. Reported losses of single outputs do not carry them.
        backend: "cpu", or "cuda" for the first NVIDIA GPU of the machine (needs the extra nnkit[cuda]).
        dtype: "float32" or "float64", of parameters and arithmetic.
        seed: of initial parameters, the order of samples, dropout and noise. The same seed gives the same bits, for any number of threads.
        threads: most threads of the CPU that a step may use; None for as many as there are processors (or NUMBA_NUM_THREADS, which also is the
            most). On a GPU it does not matter.
        precision: of large products on a GPU, of Dense and convolutions: "float32"; "tf32" or "bfloat16" round their factors to that and use tensor
            cores. Sums, and all that lies in memory, stay float32.
        blas: whether large products of Dense on a GPU are NVIDIA's cuBLASLt's (needs the extra nnkit[cuda-blas]).

    Raises:
        ValueError: an unknown name, a loss that does not fit the output, a layer that the backend does not have, or another wrong argument.
        RuntimeError: for "cuda" and `blas`, without the extra or a GPU.

    >>> import nnkit
    >>> from nnkit import Dense, Input, Sequential
    >>> model = nnkit.compile(Sequential([Input((3,)), Dense(2)]), seed=1)
    >>> model.predict([[1, 2, 3], [4, 5, 6]]).shape
    (2, 2)
    """
    if not is_of_family(spec, "network"):
        raise TypeError(f"compile: spec must be a network such as Sequential, received {spec!r}")
    runtime = backend_of(backend, "compile", precision, bool(blas))
    optimizer = resolved_optimizer(optimizer)
    if dtype not in ("float32", "float64"):
        raise ValueError(f"compile: dtype must be 'float32' or 'float64', received {dtype!r}")
    runtime.check_products(dtype)
    seed = as_whole(seed, 0, "seed")
    threads = None if threads is None else as_whole(threads, 1, "threads")
    graph = spec.graph()
    outputs = resolve_outputs(graph, loss, loss_weights, metrics)
    model = Model(spec, graph, optimizer, outputs, dtype, seed, threads, runtime)  # type: ignore[arg-type]
    model.check_backend()
    return model


def resolved_optimizer(optimizer: Any) -> Optimizer | None:
    """The optimizer that a value stands for. Raises ValueError."""
    optimizer = resolve("optimizer", optimizer)
    if optimizer is not None and not is_of_family(optimizer, "optimizer"):
        raise ValueError(f"compile: optimizer must be {article('optimizer')} spec, its name or None, received {optimizer!r}")
    return optimizer


class Model:
    """A network with memory. Made by `nnkit.compile`.

    Attributes:
        spec: the declared network; of a submodel, the whole one. graph: the same as nodes. outputs: name, shape, loss, weight and metrics of each
            output. optimizer, dtype, seed, threads, backend: what it was compiled with; runtime: the backend with its precision and blas. whole: the
            model whose memory a submodel uses, or itself.
        stop_training: a callback sets it to end training after the present step.
    """

    def __init__(self, spec: Container, graph: Graph, optimizer: Optimizer | None, outputs: tuple[Output, ...], dtype: str, seed: int,
                 threads: int | None, runtime: Backend, whole: Model | None = None, draw: bool = True) -> None:
        """whole: the model whose memory this one uses. draw: whether initial parameters are drawn; else whoever asks writes them."""
        self.spec, self.graph, self.optimizer, self.outputs = spec, graph, optimizer, outputs
        self.dtype, self.seed, self.threads = dtype, seed, threads
        self.runtime, self.backend = runtime, runtime.name
        self.stop_training = False
        self.whole = self if whole is None else whole
        self.layout: Layout = lay_out(graph, optimizer, dtype, runtime.name) if whole is None else whole.layout
        self.memory: Any = runtime.memory(self.layout, None if whole is None else whole.memory)
        self._tapes: collections.OrderedDict[tuple[str, int, bool, bool, Sizes], Any] = collections.OrderedDict()
        self.lock: threading.RLock = threading.RLock() if whole is None else whole.lock
        self.training = False                            # whether a fit is running
        self.fitting: Fitting | None = None              # the loop of that fit; how far it is is saved with the model
        self.stale = False                               # whether rows of a table may have missed updates: see flush
        self.watched = False                             # whether anybody may hold views of the parameters
        self.counters = self.memory.view(self.layout.buffers["counters"])
        self.sums = self.memory.view(self.layout.buffers["sums"])
        self._parameters = {name: self.memory.view(self.layout.parameters[name]) for name in graph.parameters()}
        if whole is None:
            self._initialise(draw)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of a sample's output, without the batch. Raises ValueError where there are several outputs: see `outputs`."""
        if len(self.outputs) > 1:
            raise ValueError(f"the model has {len(self.outputs)} outputs: their shapes are in model.outputs")
        return self.outputs[0].shape

    @property
    def loss(self) -> Loss | None:
        """The loss; of several outputs that of the first that has one."""
        return next((output.loss for output in self.outputs if output.loss is not None), None)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of all outputs."""
        return tuple(metric for output in self.outputs for metric in output.metrics)

    def submodel(self, *, inputs: str | Sequence[str] | None = None, outputs: str | Sequence[str] | None = None) -> Model:
        """A part of the network as a model of its own that predicts with the same memory: training the whole changes it, too.

        Args:
            inputs: layers (by name; nested networks, too) in place of whose outputs the submodel takes its inputs. Default: the network's inputs,
                as far as they are needed.
            outputs: layers whose outputs the submodel gives. Default: the network's outputs.

        Raises:
            ValueError: a name that is unknown or that of a layer called more than once, outputs that need other inputs or none of one of them.

        >>> import nnkit
        >>> from nnkit import Dense, Input, Sequential
        >>> model = nnkit.compile(Sequential([Input((20,)), Dense(2, name="latent"), Dense(20)]))
        >>> model.submodel(outputs="latent").predict([[0.0] * 20]).shape
        (1, 2)
        >>> model.submodel(inputs="latent").predict([[0.0, 0.0]]).shape
        (1, 20)
        """
        given, wanted = ((names,) if isinstance(names, str) else names for names in (inputs, outputs))
        return self.view_of(self.graph.cut(given, wanted))

    def view_of(self, graph: Graph, trains: bool = False) -> Model:
        """A part of the network as a model on the same memory, which only predicts, or (trains) has the outputs and the optimizer of this one."""
        outputs = self.outputs if trains else resolve_outputs(graph, None, None, ())
        return Model(self.spec, graph, self.optimizer if trains else None, outputs, self.dtype, self.seed, self.threads, self.runtime, self.whole)

    def _initialise(self, draw: bool) -> None:
        """Initial parameters, from the seed or the files that the spec names, and optimizer state. Without `draw` whoever asks writes the parameters,
        and no file is looked for."""
        given = self._read_pretrained() if draw else set()
        for position, (name, declared) in enumerate(self.layout.declared.items() if draw else ()):
            if name not in given:
                values = declared.initializer.values(declared.shape, np.random.default_rng([self.seed, position]))
                self.memory.edit(self.layout.parameters[name])[...] = values
        self.counters[COUNTERS["seed"]] = self.seed
        self._start_optimizer()

    def _start_optimizer(self) -> None:
        """The optimizer as before its first update."""
        self.counters[COUNTERS["step"]] = 0
        if self.optimizer is not None:
            self._start_states()
            if not isinstance(self.optimizer.learning_rate, Schedule):
                self._set_rates(np.array([self.optimizer.learning_rate]), 0)

    def _start_states(self) -> None:
        """The optimizer's states as they are before any update; rows of tables are current."""
        for name, start in self._optimizer("train").states().items():
            self.memory.edit(self.layout.buffers[f"optimizer/{name}"])[...] = start
        for name, values in self.layout.history.items():
            self.memory.edit(self.layout.buffers[name])[...] = values
        for name in self.layout.rowwise:
            self.memory.edit(self.layout.buffers[f"@last/{name}"])[...] = self.counters[COUNTERS["step"]]
        self.counters[COUNTERS["term"]] = self.counters[COUNTERS["step"]]

    def _read_pretrained(self) -> set[str]:
        """Copy the parameters of networks that name a file of weights from there (see `Pretrained`); returns which these are."""
        given = set()
        for prefix, network, weights in pretrained_networks(self.spec):
            for name, values in weights.read(network.graph(), own_name(network)).items():
                copy_into(self.memory.edit(self.layout.parameters[prefix + name]), values)
                given.add(prefix + name)
        return given

    # What a model holds.

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        """Live views of all parameters by name ("dense/kernel"), moving statistics included. Writing into one changes the model.

        Of a model on a GPU they are read-only and show the parameters as they were when `parameters` was last asked for: see `set_parameters`.
        """
        whole = self.whole
        whole.watched = True
        if whole.lock.acquire(blocking=False):           # else another thread is at work; it brings the views up to date when it is done
            try:
                whole.flush()
                whole.memory.fetch()
            finally:
                whole.lock.release()
        return MappingProxyType(self._parameters)

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
        return bool(self.layout.history) and self._optimizer("fit").by_rows(self.dtype) == "closed"

    def will_train(self) -> None:
        """Note that rows may miss updates from now on."""
        self.whole.stale = bool(self.layout.history)

    def set_parameters(self, values: Mapping[str, Any]) -> None:
        """Copy values into the parameters of these names; the others stay.

        Raises ValueError for an unknown name (with the nearest known one) or a wrong shape; then nothing was changed.
        """
        checked = {}
        for name, value in values.items():
            if name not in self._parameters:
                raise ValueError(f"unknown parameter {name!r}: {nearest(name, self._parameters)}")
            array = np.asarray(value)
            if array.dtype.kind not in "fiub" or array.shape != self._parameters[name].shape:
                raise ValueError(f"parameter {name!r} must be numbers of shape {self._parameters[name].shape}, "
                                 f"received {array.dtype} of shape {array.shape}")
            checked[name] = array
        with _Use(self, "set_parameters"):
            for name, array in checked.items():
                copy_into(self.memory.edit(self.layout.parameters[name]), array)

    # What is trained, and how fast.

    def freeze(self, *layers: str) -> None:
        """Freeze layers: training leaves their parameters as they are, and batch normalization uses its moving averages.

        layers: names or patterns ("block1_*", "vgg16/block?_conv1"), by the layer's own name, by that with the networks it is in, or by that of such
        a network, which means all that is in it; none: all layers. `model.spec` then says trainable=False. What the plan needs for these layers
        alone, backward steps, gradients, states of the optimizer, is gone; for the others the optimizer goes on where it was.

        Raises:
            ValueError: a name that no layer has.
            RuntimeError: for a submodel; within an epoch of a `fit`, or in one that has cached frozen layers.

        >>> import nnkit
        >>> from nnkit import Dense, Input, Sequential
        >>> model = nnkit.compile(Sequential([Input((4,)), Dense(3), Dense(2)]), optimizer="adam", loss="mse")
        >>> model.freeze("dense")
        >>> model.spec
        Sequential((Input((4,)), Dense(3, trainable=False), Dense(2)))
        """
        self._change_flags("freeze", dict.fromkeys(layers or ("*",), (False, None)))

    def unfreeze(self, *layers: str) -> None:
        """Train layers again that were frozen; see `freeze`. Their states of the optimizer begin anew, at the present count of updates."""
        self._change_flags("unfreeze", dict.fromkeys(layers or ("*",), (True, None)))

    def set_learning_rate_factors(self, factors: Mapping[str, float]) -> None:
        """Let layers learn at a rate of their own: factor times the optimizer's. Keys name layers as in `freeze`; later ones count.

        >>> import nnkit
        >>> from nnkit import Dense, Input, Sequential
        >>> model = nnkit.compile(Sequential([Input((4,)), Dense(3), Dense(2)]), optimizer="adam", loss="mse")
        >>> model.set_learning_rate_factors({"*": 0.1, "dense_1": 1.0})
        >>> model.spec
        Sequential((Input((4,)), Dense(3, learning_rate_factor=0.1), Dense(2)))
        """
        self._change_flags("set_learning_rate_factors", {pattern: (None, factor) for pattern, factor in factors.items()})

    def reset_optimizer(self) -> None:
        """The optimizer as before its first update: its states, the count of updates, and with it the learning rate."""
        self._optimizer("reset_optimizer")
        with _Use(self, "reset_optimizer"):
            self._start_optimizer()

    def _change_flags(self, action: str, changes: Mapping[str, tuple[bool | None, float | None]]) -> None:
        """Set the flags of layers that are not None, by name or pattern."""
        if self.whole is not self:
            raise RuntimeError(f"{action}: a submodel is not trained by itself: change the whole model")
        flags = {node.name: (node.layer.trainable, node.layer.learning_rate_factor) for node in self.graph.nodes}
        before = dict(flags)
        for pattern, (trainable, factor) in changes.items():
            for name in layers_matching(self.graph, [pattern]):
                old = flags[name]
                flags[name] = (old[0] if trainable is None else trainable, old[1] if factor is None else factor)
        changed = {name: new for name, new in flags.items() if new != before[name]}
        with _Use(self, action):
            if self.fitting is not None:
                self.fitting.will_change(action)
            if changed:
                self.declare(with_flags(self.spec, changed))

    def declare(self, spec: Container) -> None:
        """Use another spec of the same parameters: the memory of what is trained is laid out anew, and states of the optimizer are kept."""
        if spec == self.spec:
            return
        kept = {(state, name): self.memory.read(self.layout.piece(f"optimizer/{state}", name))
                for name in self.layout.gradients for state in (self.optimizer.states() if self.optimizer is not None else ())}
        graph = spec.graph()
        self.spec, self.graph, self.layout = spec, graph, lay_out(graph, self.optimizer, self.dtype, self.backend)
        self.memory.lay_out_anew(self.layout)
        self._tapes.clear()
        if self.optimizer is not None:
            self._start_states()
        for (state, name), values in kept.items():
            if name in self.layout.gradients:
                self.memory.edit(self.layout.piece(f"optimizer/{state}", name))[...] = values

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next update. Settable, unless a schedule drives it (ValueError)."""
        rate = self._optimizer("learning_rate").learning_rate
        if isinstance(rate, Schedule):
            return float(rate(int(self.counters[COUNTERS["step"]])))
        return float(self.memory.view(self.layout.buffers["learning_rates"])[0])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        rate = self._optimizer("learning_rate").learning_rate
        if isinstance(rate, Schedule):
            raise ValueError(f"learning_rate cannot be set: the schedule {rate!r} drives it")
        if not (isinstance(value, (int, float, np.number)) and np.isfinite(value) and value > 0):
            raise ValueError(f"learning_rate must be a finite number greater than 0, received {value!r}")
        self._set_rates(np.array([float(value)]), 0)

    def _set_rates(self, rates: np.ndarray, start: int) -> None:
        """The table of learning rates that the update kernels read: rates[i] is that of update start + i, the last one stays."""
        self.memory.view(self.layout.buffers["learning_rates"])[:len(rates)] = rates
        self.counters[COUNTERS["table_start"]] = start
        self.counters[COUNTERS["table_size"]] = len(rates)

    def prepare_rates(self, steps: int) -> int:
        """Fill the table for the next updates of a schedule; returns for how many of `steps` it is right."""
        optimizer = self.optimizer
        if optimizer is None or not isinstance(optimizer.learning_rate, Schedule):
            return steps
        steps = min(steps, LEARNING_RATES)
        start = int(self.counters[COUNTERS["step"]])
        self._set_rates(np.asarray(optimizer.learning_rate(np.arange(start, start + steps))), start)
        return steps

    def copy_parameters(self, source: Model | Mapping[str, Any], *, names: Mapping[str, str] | None = None) -> Report:
        """Copy parameters of the same name and shape from another model, and report what matched and what did not. A new head should have a name of
        its own, or what the old one of the same shape has learnt is copied, too.

        Args:
            source: a model (a submodel, too), or arrays by name ("dense/kernel").
            names: own layer name -> the source's, also as patterns in which one `*` stands for the same text on both sides: {"base/*": "*"} where a
                part of the source is the layer "base" here. Layers that none fits have the same name there.

        Raises:
            TypeError, ValueError: what holds no arrays of numbers; then nothing was changed.

        >>> import nnkit
        >>> from nnkit import Dense, Input, Sequential
        >>> trained = nnkit.compile(Sequential([Input((4,)), Dense(8), Dense(2)]))
        >>> model = nnkit.compile(Sequential([Input((4,)), Dense(8), Dense(5)]))
        >>> print(model.copy_parameters(trained))
        copied 2 parameters
        of another shape: 2
          dense_1/kernel: (8, 5) here, (8, 2) there
          dense_1/bias: (5,) here, (2,) there
        """
        found = source.parameters if isinstance(source, Model) else {name: np.asarray(value) for name, value in source.items()}
        wanted = source_names(self.graph, names)
        own = {name: view.shape for name, view in self._parameters.items()}
        taken = {name: found[other] for name, other in wanted.items() if other in found}
        report = compare(own, taken, [name for name in found if name not in {wanted[name] for name in taken}])
        self.set_parameters({name: taken[name] for name in report.copied})
        return report

    @property
    def plan(self) -> Plan:
        """The plan of a training step (of prediction, without optimizer and loss), of whole batches where some are smaller; print it."""
        mode = "train" if self.optimizer is not None and self.loss is not None else "predict"
        plans = [tape.plan for (kept, *_), tape in self._tapes.items() if kept == mode]
        if not plans and self.graph.flow.on_graphs:
            raise ValueError("the plan of a network on graphs depends on the graph: see plan_for(x)")
        return max(plans, key=lambda plan: plan.batch) if plans else self.build_plan(mode, 32)

    def plan_for(self, x: Any, mode: str = "train") -> Plan:
        """The plan of a step ("train", "evaluate" or "predict") on all of x as one batch, before anything is compiled or allocated: print it, or look
        at its `arena_bytes`. So one sees what a network on a large graph will take. Raises as `fit` does for an x that does not fit the network."""
        inputs = self.inputs(x)
        return self.build_plan(mode, samples_of(inputs, self.graph), sizes=sizes_of(inputs))

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

    def tape(self, mode: str, batch: int, keep_predictions: bool = False, input_gradients: bool = False, sizes: Sizes = NO_SIZES) -> Any:
        """That plan, bound to the model's memory; the last PLANS_KEPT are kept."""
        key = (mode, batch, keep_predictions, input_gradients, sizes)
        if key not in self._tapes:
            plan = self._special_plan(mode) or self.build_plan(mode, batch, keep_predictions, input_gradients, sizes)
            if mode == "shuffle":                        # one thread draws an order: the host's is the fastest, and it has the counters
                self._tapes[key] = self.memory.host.tape(plan, self.threads)
            else:
                self.runtime.check(plan)
                self._tapes[key] = self.memory.tape(plan, self.threads)
            if len(self._tapes) > PLANS_KEPT:
                self._tapes.popitem(last=False)
        self._tapes.move_to_end(key)
        return self._tapes[key]

    def _special_plan(self, mode: str) -> Plan | None:
        """The plan of a mode that runs no layer."""
        if mode == "flush":
            return flush_plan(self.layout, self._optimizer(mode))
        return shuffle_plan(self.layout) if mode == "shuffle" else None

    def prepare_kernels(self, batch: int, keep_predictions: bool, shuffle: bool, sizes: Sizes = NO_SIZES) -> None:
        """Have all that an epoch runs compiled or loaded: asked for at once, kernels are compiled several at a time."""
        if ("train", batch, keep_predictions, False, sizes) not in self._tapes:
            plans = [self.build_plan("train", batch, keep_predictions, sizes=sizes), *[shuffle_plan(self.layout)] * shuffle]
            self.memory.prepare(plans)

    def summary(self) -> None:
        """Print the layers with their output shapes and numbers of parameters."""
        print(summary_text(self.graph))

    def __repr__(self) -> str:
        size = sum(values.size for name, values in self._parameters.items() if not self.layout.declared[name].is_state)
        return f"<Model of {len(self.graph.nodes)} layers, {size:,} parameters, {self.dtype}>"

    # What a model does.

    def fit(self, x: Any, y: Any = None, *, batch_size: int = 32, epochs: int = 1, verbose: int | str = "auto",
            callbacks: Iterable[Callback] | Callback | None = None, validation_split: float = 0.0, validation_data: Any = None,
            shuffle: bool = True, class_weight: Mapping[int, float] | None = None, sample_weight: Any = None, initial_epoch: int = 0,
            validation_freq: int = 1, check_finite: bool = False, mask: Any = None, validation_mask: Any = None,
            cache_frozen: bool | str | os.PathLike[str] = False, resume: str | os.PathLike[str] | None = None) -> History:
        """Train for `epochs` passes over the data; returns the history of losses and metrics.

        Args:
            x, y: arrays (anything that NumPy understands) of one length; for several inputs or outputs dicts by name, or lists. Or x alone:
                batches (x, y) or (x, y, sample_weight), from an iterable that can be gone through once an epoch, or from a function that
                returns such an iterable.
            batch_size: samples per update, at least 1; the last batch may be smaller. Not for batches.
            epochs, initial_epoch: train from epoch initial_epoch up to, not including, `epochs`.
            verbose: 0 quiet, 1 a progress line, 2 a line per epoch, "auto" 1 on a terminal and in a notebook, else 0.
            callbacks: see `nnkit.Callback`.
            validation_split: fraction of the samples, taken from the end before shuffling, to evaluate after each epoch.
            validation_data: (x, y) or (x, y, sample_weight) to evaluate after each epoch (each `validation_freq` epochs).
            shuffle: draw a new order of the samples for each epoch.
            class_weight: weight of each class's samples. sample_weight: weight of each sample.
            check_finite: refuse NaN and infinite values in the data.
            mask: which samples count, booleans or their numbers: loss (a mean over them) and metrics leave out the others, such as the nodes of a
                graph whose labels are kept for a test. validation_mask: the same x and y, with these samples, evaluated after each epoch.
            cache_frozen: compute the outputs of the frozen layers at the network's beginning once, for training and for validation data, and train
                the rest on them, in a fraction of the time. The parameters are those without it, bit for bit where no last batch is smaller (for
                fewer samples a kernel may add up in another order). True: in memory; a folder: in memory-mapped files there, removed at the end.
                Their size is printed with the progress. A layer of one's own that mixes the samples of a batch must not be among the frozen ones.
            resume: path of a file that was saved during an earlier call, as `ModelCheckpoint` does: training goes on behind the last batch that it
                knows of, and gives the bits of a run that was never stopped. Where there is no such file yet, training begins at the start, so one
                script can be started again and again. Everything but `epochs` and `verbose` must be as it was; the compiled model, batch_size, the
                number of samples and callbacks with a state are compared, the data itself is not. The history is that of the whole.

        A network on graphs takes x with the graph in it as one batch, whatever batch_size says: one update an epoch. Batches of smaller graphs come
        from a `nnkit.graph` loader, passed as x alone.

        Raises:
            ValueError, TypeError: data or arguments that do not fit, also to `resume` (what differs first); the model is then as before.
            RuntimeError: without optimizer or loss, or while another thread uses the model.
        """
        self._optimizer("fit")
        self._loss("fit")
        with _Use(self, "fit"):
            fitting = Fitting(self, batch_size=batch_size, epochs=epochs, initial_epoch=initial_epoch, shuffle=shuffle,
                              validation_freq=validation_freq, callbacks=callbacks, check_finite=check_finite)
            fitting.take(x, y, sample_weight, class_weight, validation_split, validation_data, mask, validation_mask)
            try:
                fitting.resume(resume, verbose)
                self.fitting = fitting
                fitting.cache(cache_frozen, verbose)
                return fitting.run(verbose)
            finally:
                self.fitting = None
                fitting.close()

    def evaluate(self, x: Any, y: Any = None, *, batch_size: int = EVALUATION_BATCH, sample_weight: Any = None, check_finite: bool = False,
                 mask: Any = None) -> dict[str, float]:
        """Loss and metrics over the data, without training: {"loss": ..., "accuracy": ...}. mask: which samples count, as for `fit`.

        x alone may be batches, as for `fit`.
        """
        batch_size = as_whole(batch_size, 1, "batch_size")
        self._loss("evaluate")
        if y is None and (is_batches(x) or isinstance(x, (list, tuple))):
            if sample_weight is not None or mask is not None:
                raise ValueError("evaluate: sample_weight and mask need arrays x and y, received batches")
            return self.evaluate_batches(x, check_finite)
        data = self.data(x, y, sample_weight, check_finite=check_finite, mask=mask)
        return self.evaluate_data(data, self.rows_of(batch_size, data.n, "evaluate"))

    def rows_of(self, batch_size: int, n: int, action: str) -> int:
        """The batch size for n samples: the one asked for, that of the Inputs where they name one, or all n of a graph. Raises ValueError where n is
        no multiple."""
        if self.graph.flow.on_graphs:
            return n
        fixed = self.graph.batch_size
        if fixed is not None and n % fixed:
            raise ValueError(f"{action}: the number of samples must be a multiple of {fixed}, the batch_size of the Input, received {n}")
        return batch_size if fixed is None else fixed

    def reset_states(self) -> None:
        """Set what stateful layers keep between batches to 0: the next batch begins new sequences."""
        with _Use(self, "reset_states"):
            for name, parameter in self.layout.declared.items():
                if parameter.is_state:
                    self.memory.edit(self.layout.parameters[name])[...] = 0

    def data(self, x: Any, y: Any, sample_weight: Any = None, class_weight: Mapping[int, float] | None = None, check_finite: bool = False,
             mask: Any = None, inputs: Any = None) -> Data:
        """The user's arrays, checked against network and losses; inputs: those of x where they have been checked."""
        self._loss("data")
        inputs = self.inputs(x, check_finite) if inputs is None else inputs
        y, sample_weight = self.runtime.on_host(y, "y"), self.runtime.on_host(sample_weight, "sample_weight")
        return Data.of(x, y, self.graph, self.outputs, self.dtype, sample_weight, class_weight, check_finite, mask, inputs)

    def inputs(self, x: Any, check_finite: bool = False) -> tuple[Any, ...]:
        """The network's inputs, checked."""
        return as_inputs(self.runtime.adopt(x, "x"), self.graph, self.dtype, check_finite)

    def batch(self, given: Any, check_finite: bool = False) -> Data:
        """One batch of an iterable, checked: (x, y), (x, y, sample_weight), or what a loader of `nnkit.graph` gives."""
        if isinstance(given, (GraphBatch, LinkBatch)):
            x = by_kind(self.graph, given.x, given.adjacency, given.pairs if isinstance(given, LinkBatch) else None)
            return self.data(x, given.y, check_finite=check_finite, mask=None if isinstance(given, LinkBatch) else given.mask)
        return self.data(*as_batch(given), check_finite=check_finite)

    def evaluate_batches(self, batches: Iterable[Any], check_finite: bool = False) -> dict[str, float]:
        """`evaluate` on batches: the loss is the mean over all samples of all batches."""
        sums = self.sums.copy()
        pieces: list[tuple[Targets, Kept | None]] = []
        with _Use(self, "evaluate"):
            try:
                self.sums[:] = 0
                for given in batches:
                    data = self.batch(given, check_finite)
                    kept = self.room_for_metrics(data.n, data.counted)
                    tape = self.tape("evaluate", data.n, kept is not None, sizes=data.sizes)
                    self.counters[POSITION] = 0
                    self.run_batch(tape, data, kept)
                    pieces.append((data.targets, kept))
                logs = self.mean_losses()
            finally:
                self.sums[:] = sums
        if not pieces:
            raise ValueError("evaluate: x must give at least one batch, received none")
        return {**logs, **self.metric_values(pieces)}

    def evaluate_data(self, data: Data, batch_size: int) -> dict[str, float]:
        """`evaluate` on checked data."""
        sums = self.sums.copy()
        kept = self.room_for_metrics(data.n, data.counted)
        with _Use(self, "evaluate"):
            try:
                self.sums[:] = 0
                tapes = [*self.cut(data.n, batch_size, "evaluate", kept is not None, data.sizes)]
                feed = self.feed(data, kept)
                for _, tape, steps in tapes:
                    feed.run(tape, steps)
                feed.fetch()
                logs = self.mean_losses()
            finally:
                self.sums[:] = sums
        return {**logs, **self.metric_values([(data.targets, kept)])}

    def predict(self, x: Any, *, batch_size: int = EVALUATION_BATCH) -> Any:
        """The network's output for x, as an array (samples, ...); of several outputs a tuple, or a dict where a dict names them."""
        inputs = self.inputs(x)
        n = samples_of(inputs, self.graph)
        predictions = self.room(n)
        with _Use(self, "predict"):
            self.run_forward(inputs, predictions, self.rows_of(as_whole(batch_size, 1, "batch_size"), n, "predict"))
        if self.whole is self and self.spec.output_names is not None:
            return dict(zip(self.spec.output_names, predictions, strict=True))
        return predictions if len(predictions) > 1 else predictions[0]

    def run_forward(self, inputs: Sequence[Any], predictions: Sequence[np.ndarray], batch: int, mode: str = "predict") -> None:
        """Write the outputs for checked inputs, from the present position on. mode: "predict" or "features"."""
        tapes = [*self.cut(len(predictions[0]), batch, mode, sizes=sizes_of(inputs))]
        written = output_arrays(predictions)
        feed = self.memory.hold(input_arrays(inputs), written).feed(written)
        for _, tape, steps in tapes:
            feed.run(tape, steps)
        feed.fetch()

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

    def train_on_batch(self, x: Any, y: Any, *, sample_weight: Any = None, class_weight: Mapping[int, float] | None = None,
                       check_finite: bool = False, mask: Any = None) -> dict[str, float]:
        """One update on one batch; returns its loss and metrics before the update. mask: which samples count, as for `fit`."""
        self._optimizer("train_on_batch")
        self._loss("train_on_batch")
        data = self.data(x, y, sample_weight, class_weight, check_finite, mask)
        self.check_batch(data.n, "train_on_batch")
        with _Use(self, "train_on_batch"):
            sums = self.sums.copy()
            try:
                self.sums[:] = 0
                kept = self.train_batch(data)
                logs = {**self.mean_losses(), "loss": float(self.sums[SUMS["last"]])}
            finally:
                self.sums[:] = sums
            return {**logs, **self.metric_values([(data.targets, kept)])}

    def train_batch(self, data: Data) -> Kept | None:
        """One update on checked data; returns the predictions before it, where there are metrics."""
        kept = self.room_for_metrics(data.n, data.counted)
        self.counters[POSITION] = 0
        self.prepare_rates(1)
        tape = self.tape("train", data.n, kept is not None, sizes=data.sizes)
        self.will_train()
        self.run_batch(tape, data, kept, np.arange(data.n))
        self.settle()
        return kept

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

    def gradients(self, x: Any, y: Any, *, sample_weight: Any = None, inputs: bool = False, mask: Any = None) -> dict[str, np.ndarray]:
        """Gradients of the loss (penalties included) by parameter name, for these samples as one batch in training mode; nothing is updated.

        inputs: also the gradient by the input, as "x"; of several inputs as "x", "x1", ..., 0 where no loss depends on one. That by a sparse matrix
        or a graph is by its entries' values (of a graph the weights of its edges), in their order. Dropout draws the mask that the next update would
        draw. mask: which samples count, as for `fit`.
        """
        self._loss("gradients")
        data = self.data(x, y, sample_weight, mask=mask)
        self.check_batch(data.n, "gradients")
        with _Use(self, "gradients"):
            sums = self.sums.copy()
            tape = self.tape("gradients", data.n, input_gradients=inputs, sizes=data.sizes)
            self.feed(data).run(tape)
            self.sums[:] = sums
            pieces = self.layout.gradients
            found = {name: self.memory.read(pieces[name]) for name in self._parameters if name in pieces}
            if inputs:
                gradients = iter([self.memory.read(buffer, tape.plan) for buffer in tape.plan.outputs])
                for position, value in enumerate(data.inputs):
                    found[numbered_input(position)] = (value.pullback([next(gradients) for _ in value.forms]) if isinstance(value, Surroundings)
                                                       else next(gradients))
            return found

    # Files: see nnkit.io.native.

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole model to one file, "name.nnkit" by custom, which `nnkit.load` reads: declaration, parameters, optimizer state, counts.
        While it is being trained (in a callback) also how far `fit` has come, for `fit(resume=path)`.

        The file takes the place of one that is there once it is complete. Python functions (a metric, a schedule) are not saved: `load` asks for
        them.
        Raises ValueError for a submodel, OSError where the file cannot be written, RuntimeError while another thread trains the model.
        """
        from nnkit.io import native

        with _Use(self, "save"):
            native.save(self, path)

    def save_weights(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters alone (of a submodel those of its part), by name, as a safetensors file; moving statistics and states included."""
        from nnkit.io import native

        with _Use(self, "save_weights"):
            native.save_weights(self, path)

    def load_weights(self, path: str | os.PathLike[str], *, names: Mapping[str, str] | None = None, strict: bool = True) -> Report:
        """Copy parameters by name out of a file: .nnkit, .safetensors, Keras' .weights.h5, .keras and .h5, PyTorch's .pt and .pth.

        Args:
            path: the file. What it holds besides is no fault.
            names: own name of a layer -> the file's, also as patterns with one `*`: {"base/*": "*"}; other layers have their own names there.
            strict: refuse a file that lacks a parameter or has it with another shape; else what fits is copied. States may be missing.

        Returns what became of every parameter. Raises OSError, `FormatError` for a damaged file, ValueError for one that does not fit (its first ten
        differences), ImportError where a package is missing that reads such files; then nothing was changed.
        """
        from nnkit.io import native

        return native.load_weights(self, path, names, strict)

    # How they do it.

    def feed(self, data: Data, kept: Kept | None = None, order: np.ndarray | None = None) -> Any:
        """What runs tapes on a data set: with where they are to keep what metrics look at, and the order of samples."""
        written = {} if kept is None else kept.arrays()
        return self.memory.hold(data.arrays, written, data).feed(written, order)

    def cut(self, n: int, batch: int, mode: str, keep_predictions: bool = False, sizes: Sizes = NO_SIZES) -> Iterator[tuple[int, Any, int]]:
        """(batch size, tape, steps) for the whole batches, then for the rest."""
        if n >= batch:
            yield batch, self.tape(mode, batch, keep_predictions, sizes=sizes), n // batch
        if n % batch:
            yield n % batch, self.tape(mode, n % batch, keep_predictions, sizes=sizes), 1

    def mean_losses(self) -> dict[str, float]:
        """The loss over the samples since `sums` was cleared, and its parts where it has several: {"loss": ..., "score_loss": ...}."""
        samples = self.sums[SUMS["samples"]]
        terms = next((tape.plan.terms for tape in reversed(self._tapes.values()) if tape.plan.terms), ())        # of what ran last
        names = [f"{term}_loss" for term in terms] if len(terms) > 1 else []
        places = {"loss": SUMS["loss"], **{name: SUMS["terms"] + position for position, name in enumerate(names)}}
        return {name: float(self.sums[place] / samples) if samples else float("nan") for name, place in places.items()}

    def metric_values(self, pieces: Sequence[tuple[Targets, Kept | None]]) -> dict[str, float]:
        """The metrics of pieces of one data set, by label. Time steps that are masked do not count."""
        found = {}
        for position, output in enumerate(self.outputs):
            own = [kept.counted(position, t) for targets, kept in pieces if kept is not None and (t := targets[position]) is not None]
            for label, metric in zip(output.labels(), output.metrics, strict=True):
                sums: Any
                if metric.additive or len(own) == 1:
                    sums = sum(metric.update(targets, predictions) for targets, predictions in own)
                else:
                    sums = metric.update(*(np.concatenate(parts) for parts in zip(*own, strict=True)))
                found[label] = metric.result(sums)
        return found

    def check_batch(self, n: int, action: str) -> None:
        """Refuse a batch that has not as many samples as the Inputs say. Raises ValueError."""
        if self.graph.batch_size not in (None, n):
            raise ValueError(f"{action}: a batch must have {self.graph.batch_size} samples, the batch_size of the Input, received {n}")

    def _optimizer(self, action: str) -> Optimizer:
        if self.optimizer is None:
            raise RuntimeError(f"{action} needs an optimizer: pass optimizer= to nnkit.compile")
        return self.optimizer

    def _loss(self, action: str) -> None:
        if self.loss is None:
            raise RuntimeError(f"{action} needs a loss: pass loss= to nnkit.compile")


def copy_into(target: np.ndarray, values: np.ndarray) -> None:
    """target[...] = values. A layout that is turned, as of weights from other libraries, is read in strips: each line of the cache once."""
    if values.ndim < 2 or values.flags.c_contiguous:
        target[...] = values
        return
    for begin in range(0, target.shape[-1], STRIP):
        target[..., begin:begin + STRIP] = values[..., begin:begin + STRIP]


class _Use:
    """One thread uses a model at a time. While one trains, others are refused, not kept waiting; the training thread itself (its callbacks) may
    use the model between two pieces of an epoch, so data is read from position 0 here and the position put back afterwards."""

    def __init__(self, model: Model, action: str) -> None:
        self.model, self.action = model.whole, action

    def __enter__(self) -> None:
        model = self.model
        if not model.lock.acquire(blocking=not model.training):
            raise RuntimeError(f"{self.action}: another thread trains the model; wait until its fit returns")
        if self.action == "fit":
            if model.training:
                model.lock.release()
                raise RuntimeError("fit: the model is being trained already; wait until its fit returns")
            model.training = True
        self.position = int(model.counters[POSITION])
        model.counters[POSITION] = 0
        if self.action not in ("fit", "train_on_batch"):
            try:
                model.flush()
            except BaseException:                        # its kernels could not be compiled
                model.lock.release()
                raise

    def __exit__(self, *error: object) -> None:
        model = self.model
        model.counters[POSITION] = self.position
        try:
            if self.action == "fit":
                model.flush()
            else:
                model.settle()
        finally:
            if self.action == "fit":
                model.training = False
            model.lock.release()
