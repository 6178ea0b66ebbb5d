"""`Model`: a declared network with memory, that trains, evaluates and predicts. `compile` makes it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from nnkit.io.report import Report, compare, source_names
from nnkit.network import Container
from nnkit.optimizers.base import Optimizer
from nnkit.optimizers.schedules import Schedule
from nnkit.plan.build import numbered_input
from nnkit.plan.describe import summary_text
from nnkit.plan.layout import COUNTERS, SUMS
from nnkit.plan.plan import Plan
from nnkit.runtime.backend import backend_of
from nnkit.spec import article, is_of_family, nearest, received, resolve
from nnkit.training.callbacks import Callback
from nnkit.training.engine import Engine
from nnkit.training.feed import as_seed, as_whole
from nnkit.training.fitting import Fitting
from nnkit.training.graphs import Surroundings, samples_of
from nnkit.training.history import History
from nnkit.training.outputs import resolve_outputs
from nnkit.training.progress import one_pass
from nnkit.training.source import batches_of, is_batches
from nnkit.training.state import change_flags, copy_into, set_rates, start_optimizer
from nnkit.training.use import Use

__all__ = ["Model", "compile"]

EVALUATION_BATCH = 256


def compile(spec: Container, *, optimizer: Optimizer | str | None = None, loss: Any = None, metrics: Any = (), loss_weights: Any = None,
            backend: str = "cpu", dtype: Any = "float32", seed: int = 0, threads: int | None = None, precision: str = "float32",
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
        dtype: "float32" or "float64" (or NumPy's dtypes of these names), of parameters and arithmetic.
        seed: of initial parameters, the order of samples, dropout and noise; from 0 to 2**63 - 1. The same seed gives the same bits, for any
            number of threads.
        threads: most threads of the CPU that a step may use; None for as many as there are processors (or NUMBA_NUM_THREADS, which also is the
            most). On a GPU it does not matter.
        precision: of large products on a GPU, of Dense and convolutions: "float32"; "tf32" or "bfloat16" round their factors to that and use tensor
            cores. Sums, and all that lies in memory, stay float32.
        blas: whether large products of Dense on a GPU are NVIDIA's cuBLASLt's (needs the extra nnkit[cuda-blas]).

    Raises:
        TypeError: spec is no network.
        ValueError: an unknown name, a loss that does not fit the output, a layer that the backend does not have or a formula that it cannot
            compile, or another wrong argument.
        RuntimeError: for "cuda" and `blas`, without the extra or a GPU.

    Warns (UserWarning) of an output that ends in an activation which its loss is hardly meant for: one that gives numbers below 0 where the loss
    takes probabilities, or a softmax over one number.

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
    dtype = resolved_dtype(dtype)
    runtime.check_products(dtype)
    seed = as_seed(seed)
    threads = None if threads is None else as_whole(threads, 1, "threads")
    graph = spec.graph()
    outputs = resolve_outputs(graph, loss, loss_weights, metrics)
    model = Model(spec, graph, optimizer, outputs, dtype, seed, threads, runtime)  # type: ignore[arg-type]
    model.check_backend()
    return model


def as_parameter(value: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Numbers of the shape of a parameter. Raises ValueError."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" or array.shape != shape:
        raise ValueError(f"{what} must be numbers of shape {shape}, received {array.dtype} of shape {array.shape}")
    return array


def resolved_dtype(dtype: Any) -> str:
    """The name of a dtype, which NumPy may know in another form. Raises ValueError."""
    for name in ("float32", "float64"):
        if dtype == name or dtype is np.dtype(name).type or (isinstance(dtype, np.dtype) and dtype == name):
            return name
    raise ValueError(f"compile: dtype must be 'float32' or 'float64', received {dtype!r}")


def resolved_optimizer(optimizer: Any) -> Optimizer | None:
    """The optimizer that a value stands for. Raises ValueError."""
    optimizer = resolve("optimizer", optimizer)
    if optimizer is not None and not is_of_family(optimizer, "optimizer"):
        raise ValueError(f"compile: optimizer must be {article('optimizer')} spec, its name or None, received {received(optimizer)}")
    return optimizer


class Model(Engine):
    """A network with memory. Made by `nnkit.compile`.

    Attributes:
        spec: the declared network; of a submodel, the whole one. graph: the same as nodes. outputs: name, shape, loss, weight and metrics of each
            output. optimizer, dtype, seed, threads, backend: what it was compiled with; runtime: the backend with its precision and blas. whole: the
            model whose memory a submodel uses, or itself.
        stop_training: a callback sets it to end training after the present step.
    """

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of a sample's output, without the batch. Raises ValueError where there are several outputs: see `outputs`."""
        if len(self.outputs) > 1:
            raise ValueError(f"the model has {len(self.outputs)} outputs: their shapes are in model.outputs")
        return self.outputs[0].shape

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

    def set_parameters(self, values: Mapping[str, Any]) -> None:
        """Copy values into the parameters of these names; the others stay.

        Raises ValueError for an unknown name (with the nearest known one) or a wrong shape, TypeError for what is no mapping; then nothing was
        changed.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"set_parameters: values must be a dict of arrays by name, received {article(type(values).__name__)}")
        checked = {}
        for name, value in values.items():
            if name not in self._parameters:
                raise ValueError(f"unknown parameter {name!r}: {nearest(name, self._parameters)}")
            checked[name] = as_parameter(value, self._parameters[name].shape, f"parameter {name!r}")
        with Use(self, "set_parameters"):
            for name, array in checked.items():
                copy_into(self.memory.edit(self.layout.parameters[name]), array)

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
        if not isinstance(source, (Model, Mapping)):
            raise TypeError(f"copy_parameters: source must be a model or a dict of arrays by name, received {article(type(source).__name__)}")
        found = source.parameters if isinstance(source, Model) else {name: np.asarray(value) for name, value in source.items()}
        wanted = source_names(self.graph, names)
        own = {name: view.shape for name, view in self._parameters.items()}
        taken = {name: found[other] for name, other in wanted.items() if other in found}
        report = compare(own, taken, [name for name in found if name not in {wanted[name] for name in taken}])
        self.set_parameters({name: taken[name] for name in report.copied})
        return report

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
        change_flags(self, "freeze", [(name, False, None) for name in layers or ("*",)])

    def unfreeze(self, *layers: str) -> None:
        """Train layers again that were frozen; see `freeze`. Their states of the optimizer begin anew, at the present count of updates."""
        change_flags(self, "unfreeze", [(name, True, None) for name in layers or ("*",)])

    def set_learning_rate_factors(self, factors: Mapping[str, float]) -> None:
        """Let layers learn at a rate of their own: factor times the optimizer's. Keys name layers as in `freeze`; later ones count.

        >>> import nnkit
        >>> from nnkit import Dense, Input, Sequential
        >>> model = nnkit.compile(Sequential([Input((4,)), Dense(3), Dense(2)]), optimizer="adam", loss="mse")
        >>> model.set_learning_rate_factors({"*": 0.1, "dense_1": 1.0})
        >>> model.spec
        Sequential((Input((4,)), Dense(3, learning_rate_factor=0.1), Dense(2)))
        """
        if not isinstance(factors, Mapping):
            raise TypeError(f"set_learning_rate_factors: factors must be a dict of numbers by layer, received {article(type(factors).__name__)}")
        change_flags(self, "set_learning_rate_factors", [(pattern, None, factor) for pattern, factor in factors.items()])

    def reset_optimizer(self) -> None:
        """The optimizer as before its first update: its states, the count of updates, and with it the learning rate."""
        self.needed_optimizer("reset_optimizer")
        with Use(self, "reset_optimizer"):
            start_optimizer(self)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next update. Settable, unless a schedule drives it (ValueError)."""
        rate = self.needed_optimizer("learning_rate").learning_rate
        if isinstance(rate, Schedule):
            return float(rate(int(self.counters[COUNTERS["step"]])))
        return float(self.memory.view(self.layout.buffers["learning_rates"])[0])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        rate = self.needed_optimizer("learning_rate").learning_rate
        if isinstance(rate, Schedule):
            raise ValueError(f"learning_rate cannot be set: the schedule {rate!r} drives it")
        if not (isinstance(value, (int, float, np.number)) and np.isfinite(value) and value > 0):
            raise ValueError(f"learning_rate must be a finite number greater than 0, received {value!r}")
        set_rates(self, np.array([float(value)]), 0)

    def reset_states(self) -> None:
        """Set what stateful layers keep between batches to 0: the next batch begins new sequences."""
        with Use(self, "reset_states"):
            for name, parameter in self.layout.declared.items():
                if parameter.is_state:
                    self.memory.edit(self.layout.parameters[name])[...] = 0

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
            validation_data: (x, y) or (x, y, sample_weight) to evaluate after each epoch (each `validation_freq` epochs); or batches, as x alone may
                be, but not in a list.
            shuffle: draw a new order of the samples for each epoch.
            class_weight: weight of each class's samples in training, {label: weight}; classes that are not listed weigh 1. sample_weight: weight of
                each sample, those of validation_split too.
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
        self.needed_optimizer("fit")
        self.need_loss("fit")
        with Use(self, "fit"):
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

    def train_on_batch(self, x: Any, y: Any, *, sample_weight: Any = None, class_weight: Mapping[int, float] | None = None,
                       check_finite: bool = False, mask: Any = None) -> dict[str, float]:
        """One update on one batch; returns its loss and metrics before the update. sample_weight, class_weight, check_finite, mask: as for `fit`.

        Raises as `fit` does.
        """
        self.needed_optimizer("train_on_batch")
        self.need_loss("train_on_batch")
        data = self.data(x, y, sample_weight, class_weight, check_finite, mask)
        self.check_batch(data.n, "train_on_batch")
        with Use(self, "train_on_batch"):
            sums = self.sums.copy()
            try:
                self.sums[:] = 0
                kept = self.train_batch(data)
                logs = {**self.mean_losses(), "loss": float(self.sums[SUMS["last"]])}
            finally:
                self.sums[:] = sums
            return {**logs, **self.metric_values([(data.targets, kept)])}

    def gradients(self, x: Any, y: Any, *, sample_weight: Any = None, inputs: bool = False, mask: Any = None) -> dict[str, np.ndarray]:
        """Gradients of the loss (penalties included) by parameter name, for these samples as one batch in training mode; nothing is updated.

        inputs: also the gradient by the input, as "x"; of several inputs as "x", "x1", ..., 0 where no loss depends on one. That by a sparse matrix
        or a graph is by its entries' values (of a graph the weights of its edges), in their order. Dropout draws the mask that the next update would
        draw. sample_weight, mask: as for `fit`. Raises as `fit` does, but needs no optimizer.
        """
        self.need_loss("gradients")
        data = self.data(x, y, sample_weight, mask=mask)
        self.check_batch(data.n, "gradients")
        with Use(self, "gradients"):
            sums = self.sums.copy()
            tape = self.tape("gradients", data.n, input_gradients=inputs, sizes=self.sizes_of(data.inputs))
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

    def apply_gradients(self, gradients: Mapping[str, Any]) -> None:
        """One update of the optimizer, with clipping, decay, states and learning rate as in `train_on_batch`, by gradients that a training loop of
        one's own has made of those that `gradients` gives: sums over several batches, of several losses, with noise.

        gradients: an array for each parameter that is trained, by name. What else training does is left out: batch normalization moves its averages
        in `fit` and `train_on_batch` alone.

        Raises ValueError for an unknown name, one that is missing and a wrong shape, TypeError for what is no mapping, RuntimeError without an
        optimizer; then nothing was changed.

        >>> import nnkit
        >>> from nnkit import SGD, Dense, Input, Sequential
        >>> model = nnkit.compile(Sequential([Input((2,)), Dense(1)]), optimizer=SGD(0.5), loss="mse")
        >>> model.apply_gradients({"dense/kernel": [[0.0], [0.0]], "dense/bias": [1.0]})
        >>> model.parameters["dense/bias"]
        array([-0.5], dtype=float32)
        """
        self.needed_optimizer("apply_gradients")
        wanted = self.layout.gradients
        if not isinstance(gradients, Mapping):
            raise TypeError(f"apply_gradients: gradients must be a dict of arrays by name, received {article(type(gradients).__name__)}")
        for name in {**gradients, **wanted}:
            if name not in wanted:
                known = f"{name!r} is frozen" if name in self._parameters else f"no parameter is named {name!r}, {nearest(str(name), wanted)}"
                raise ValueError(f"apply_gradients: gradients must be of what is trained: {known}")
            if name not in gradients:
                raise ValueError(f"apply_gradients: gradients must have an array for each parameter that is trained, received none for {name!r}")
        checked = {name: as_parameter(gradients[name], wanted[name].shape, f"the gradient of {name!r}") for name in wanted}
        with Use(self, "apply_gradients"):
            for name, array in checked.items():
                copy_into(self.memory.edit(wanted[name]), array)
            self.update()

    def evaluate(self, x: Any, y: Any = None, *, batch_size: int = EVALUATION_BATCH, verbose: int | str = 0, sample_weight: Any = None,
                 check_finite: bool = False, mask: Any = None) -> dict[str, float]:
        """Loss and metrics over the data, without training: {"loss": ..., "accuracy": ...}.

        x alone may be batches, as for `fit`. batch_size: samples that are computed at a time, at least 1, default 256; not for batches.
        sample_weight, check_finite, mask: as for `fit`. verbose: as for `fit`, 1 a progress line, 2 a line at the end; default 0, quiet.
        Raises as `fit` does, but needs no optimizer.
        """
        batch_size = as_whole(batch_size, 1, "batch_size")
        self.need_loss("evaluate")
        if y is None and (is_batches(x) or isinstance(x, (list, tuple))):
            if sample_weight is not None or mask is not None:
                raise ValueError("evaluate: sample_weight and mask need arrays x and y, received batches")
            with one_pass("evaluate", None, verbose) as progress:
                logs = self.evaluate_batches(batches_of(x), check_finite, progress)
                progress.end_epoch(logs)
            return logs
        data = self.data(x, y, sample_weight, check_finite=check_finite, mask=mask)
        rows = self.rows_of(batch_size, data.n, "evaluate")
        with one_pass("evaluate", data.n, verbose) as progress:
            logs = self.evaluate_data(data, rows, progress)
            progress.end_epoch(logs)
        return logs

    def predict(self, x: Any, *, batch_size: int = EVALUATION_BATCH, verbose: int | str = 0) -> Any:
        """The network's output for x, as an array (samples, ...); of several outputs a tuple, or a dict where a dict names them.

        x may be batches, from an iterable or a function that returns one: x alone, or (x, y, ...) as for `fit`, of which the first is taken;
        or a loader of `nnkit.graph`, of whose nodes those that count are predicted. The rows are in the order in which they come.
        batch_size: samples that are computed at a time, at least 1, default 256; not for batches. verbose: as for `fit`, 1 a progress line, 2 a line
        at the end; default 0, quiet. Raises ValueError, TypeError for data that does not fit, RuntimeError while another thread uses the model.
        """
        batch_size = as_whole(batch_size, 1, "batch_size")
        if is_batches(x):
            with one_pass("predict", None, verbose) as progress:
                predictions = self.predict_batches(batches_of(x), progress)
                progress.end_epoch({})
        else:
            inputs = self.inputs(x)
            predictions = self.room(samples_of(inputs, self.graph))
            rows = self.rows_of(batch_size, len(predictions[0]), "predict")
            with Use(self, "predict"), one_pass("predict", len(predictions[0]), verbose) as progress:
                self.run_forward(inputs, predictions, rows, progress=progress)
                progress.end_epoch({})
        if self.whole is self and self.spec.output_names is not None:
            return dict(zip(self.spec.output_names, predictions, strict=True))
        return predictions if len(predictions) > 1 else predictions[0]

    # What it looks like.

    @property
    def plan(self) -> Plan:
        """The plan of a training step (of prediction, without optimizer and loss), of whole batches where some are smaller; print it."""
        mode = "train" if self.optimizer is not None and self.loss is not None else "predict"
        plans = [tape.plan for (kept, *_), tape in self.tapes.items() if kept == mode]
        if not plans and self.graph.flow.on_graphs:
            raise ValueError("the plan of a network on graphs depends on the graph: see plan_for(x)")
        return max(plans, key=lambda plan: plan.batch) if plans else self.build_plan(mode, 32)

    def plan_for(self, x: Any, mode: str = "train") -> Plan:
        """The plan of a step ("train", "evaluate" or "predict") on all of x as one batch, before anything is compiled or allocated: print it, or look
        at its `arena_bytes`. So one sees what a network on a large graph will take. Raises as `fit` does for an x that does not fit the network."""
        inputs = self.inputs(x)
        return self.build_plan(mode, samples_of(inputs, self.graph), sizes=self.sizes_of(inputs))

    def summary(self) -> None:
        """Print the layers with their output shapes and numbers of parameters."""
        print(summary_text(self.graph))

    def __repr__(self) -> str:
        size = sum(values.size for name, values in self._parameters.items() if not self.layout.declared[name].is_state)
        return f"<Model of {len(self.graph.nodes)} layers, {size:,} parameters, {self.dtype}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """For `copy` and `pickle`: a model of its own with the same parameters, optimizer state and counts, which goes on with the same bits.

        Raises ValueError for a submodel, RuntimeError while another thread trains the model.
        """
        from nnkit.io import copies

        with Use(self, "copy"):
            return copies.joined, copies.apart(self)

    # Files: see nnkit.io.native.

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole model to one file, "name.nnkit" by custom, which `nnkit.load` reads: declaration, parameters, optimizer state, counts.
        While it is being trained (in a callback) also how far `fit` has come, for `fit(resume=path)`.

        The file takes the place of one that is there once it is complete. Python functions (a metric, a schedule) are not saved: `load` asks for
        them.
        Raises ValueError for a submodel, and for a name of another library's files (.keras, .h5, .pt, ...); OSError where the file cannot be
        written, RuntimeError while another thread trains the model.
        """
        from nnkit.io import native

        with Use(self, "save"):
            native.save(self, path)

    def save_weights(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters alone (of a submodel those of its part), by name, as a safetensors file; moving statistics and states included.
        Raises as `save`."""
        from nnkit.io import native

        with Use(self, "save_weights"):
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
