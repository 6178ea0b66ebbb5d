"""The native format: a whole model in one safetensors file, `.nnkit`. docs/format.md writes it down for other programs.

Parameters stand under their own names ("dense/kernel"), everything else under names that begin with @, which no layer's name can. What is no array is
one JSON document in the metadata, under "nnkit": document.py.

A file is data: whatever it says is checked before it is used, and a network that it declares is made only once it is known that the file holds its
parameters. So a file makes nobody allocate more than what it holds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from nnkit._version import __version__
from nnkit.io.document import FORMAT, KEY, document_of, fault_of, short, text_of
from nnkit.io.report import FormatError, Report, compare, source_names
from nnkit.io.safetensors import Reader, write
from nnkit.optimizers.schedules import Schedule
from nnkit.plan.layout import COUNTERS
from nnkit.runtime.backend import backend_of
from nnkit.spec import FORMAT as SPEC_FORMAT
from nnkit.spec import from_json, is_of_family, to_json, type_name
from nnkit.training.feed import SEEDS, as_whole
from nnkit.training.outputs import resolve_outputs

if TYPE_CHECKING:
    from nnkit.io.weights import Weights
    from nnkit.nodes import Graph
    from nnkit.training.model import Model

__all__ = [
    "Saved", "check_name", "is_native", "load", "load_weights", "rate_of", "read_native", "read_tensors", "restart_rows", "save", "save_weights",
    "tensors_of",
]

FOREIGN = {".keras": "Keras", ".h5": "Keras", ".hdf5": "Keras", ".pt": "PyTorch", ".pth": "PyTorch", ".onnx": "ONNX"}
ITEMS = {"float32": "F32", "float64": "F64"}

MOST_COUNTED = 1 << 62

FROM_FILE: Any = type("FromFile", (), {"__repr__": lambda self: "<what the file says>"})()


# Writing.

def save(model: Model, path: str | os.PathLike[str]) -> None:
    """`Model.save`; the caller has the model for itself, and its rows are up to date."""
    check_name(path, "save")
    if model.whole is not model:
        raise ValueError("save: a submodel is a part of a model and has no declaration of its own: save the whole, model.whole.save(path), "
                         "or the part's parameters, save_weights(path)")
    arrays = tensors_of(model)
    document = {**_head(), **described(model)}
    document.update(step=int(model.counters[COUNTERS["step"]]), epoch=int(model.counters[COUNTERS["epoch"]]), learning_rate=rate_of(model))
    if model.fitting is not None:
        from nnkit.io.resume import progress_of

        document["fit"] = progress_of(model.fitting, arrays)
    _write(path, arrays, document)


def save_weights(model: Model, path: str | os.PathLike[str]) -> None:
    """`Model.save_weights`, likewise."""
    check_name(path, "save_weights")
    _write(path, _parameters(model), _head())


def check_name(path: str | os.PathLike[str], action: str) -> None:
    """Refuse a name that says that the file is another library's. Raises ValueError."""
    ending = next((ending for ending in FOREIGN if os.fspath(path).lower().endswith(ending)), None)
    if ending is not None:
        raise ValueError(f"{action}: nnkit writes its own format, by custom to name.nnkit; received {os.fspath(path)!r}, "
                         f"which would be taken for a file of {FOREIGN[ending]}")


def _head() -> dict[str, Any]:
    return {"format": FORMAT, "nnkit": __version__}


def _parameters(model: Model, edit: bool = False) -> dict[str, np.ndarray]:
    """Views of the parameters in the order of the graph. edit: to write into."""
    view = model.memory.edit if edit else model.memory.view
    return {name: view(model.layout.parameters[name]) for name in model.graph.parameters()}


def tensors_of(model: Model, edit: bool = False) -> dict[str, np.ndarray]:
    """Views of the parameters, and of the optimizer's states under the names that they have in a file. edit: to write into."""
    view = model.memory.edit if edit else model.memory.view
    found = _parameters(model, edit)
    for state in () if model.optimizer is None else model.optimizer.states():
        found |= {f"@optimizer/{state}/{name}": view(model.layout.piece(f"optimizer/{state}", name)) for name in model.layout.gradients}
    return found


def rate_of(model: Model) -> float | None:
    """The learning rate where no schedule drives it."""
    optimizer = model.optimizer
    return None if optimizer is None or isinstance(optimizer.learning_rate, Schedule) else model.learning_rate


def described(model: Model) -> dict[str, Any]:
    """What a model was compiled with, as JSON holds it."""
    outputs = [{"name": output.name, "loss": recorded(output.loss), "weight": output.weight, "metrics": [*map(recorded, output.metrics)]}
               for output in model.outputs]
    return {"dtype": model.dtype, "seed": model.seed, "spec": json.loads(to_json(model.spec))["spec"], "optimizer": recorded(model.optimizer),
            "outputs": outputs}


def recorded(value: Any) -> Any:
    """A spec as JSON holds it; where it holds a Python function, {"python": its name}."""
    try:
        return None if value is None else json.loads(to_json(value))["spec"]
    except ValueError:
        return {"python": getattr(value, "label", None) or type_name(type(value))}


def _write(path: str | os.PathLike[str], arrays: dict[str, np.ndarray], document: dict[str, Any]) -> None:
    text = text_of(document, arrays)                     # which adds the document's long strings to the arrays
    write(path, arrays, {KEY: text})


# Reading.

@attrs.frozen(eq=False)
class Saved:
    """An .nnkit file that is open, with its document; a context manager. `fault` makes the error that says what is wrong with it."""

    path: str
    reader: Reader
    document: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Saved:
        """Open a file and check its document as a whole. Raises OSError; FormatError for anything but a file of this or an earlier format."""
        reader = Reader(path)
        try:
            return cls(os.fspath(path), reader, document_of(reader, os.fspath(path)))
        except BaseException:
            reader.close()
            raise

    def __enter__(self) -> Saved:
        return self

    def __exit__(self, *error: object) -> None:
        self.reader.close()

    def fault(self, reason: object) -> FormatError:
        """The error of a file that cannot be loaded."""
        return fault_of(self.path, reason)

    def get(self, *keys: str) -> Any:
        """What the document says, None where it says nothing."""
        value: Any = self.document
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def whole(self, *keys: str, high: int = MOST_COUNTED) -> int:
        """A whole number of at least 0. Raises FormatError for anything else."""
        value = self.get(*keys)
        if type(value) is not int or not 0 <= value < high:
            raise self.fault(f"{'.'.join(keys)} must be a whole number of at least 0, received {short(value)}")
        return value

    def spec(self, record: Any, family: str, what: str) -> Any:
        """The spec of a record of the document. Raises FormatError for one that is none."""
        if isinstance(record, dict) and "python" in record:
            raise self.fault(f"it was saved with {what} {short(record['python'])}, a Python function, which no file holds: "
                             f"pass {what.split()[-1]}= to nnkit.load")
        found = self.guarded(lambda: from_json(json.dumps({"format": SPEC_FORMAT, "spec": record})))
        if not is_of_family(found, family):
            raise self.fault(f"{what} must be a spec of that kind, received {short(found)}")
        return found

    def guarded(self, make: Callable[[], Any]) -> Any:
        """What `make` makes of the document. Whatever it raises becomes a FormatError with the reason: records of a file may hold anything."""
        try:
            return make()
        except FormatError:
            raise
        except Exception as error:
            raise self.fault(error) from None

    def check_arrays(self, graph: Graph, dtype: str, states: Mapping[str, float]) -> None:
        """Raise FormatError unless the file holds the parameters of the graph, those states of each that is trained, and nothing besides."""
        declared = graph.parameters()
        wanted = {name: parameter.shape for name, parameter in declared.items()}
        wanted |= {f"@optimizer/{state}/{name}": wanted[name] for state in states for name, parameter in declared.items() if parameter.trainable}
        entries = self.reader.entries
        report = compare(wanted, entries, [name for name in entries if name not in wanted and not name.startswith("@")])  # type: ignore[arg-type]
        try:
            report.check("what it holds")
        except ValueError as error:
            raise self.fault(error) from None
        if report.unused:
            raise self.fault(f"it holds {report.unused[0]!r}, of which its network knows nothing")
        for name in wanted:
            if entries[name].dtype != ITEMS[dtype]:
                raise self.fault(f"{name!r} must be of dtype {ITEMS[dtype]}, received {entries[name].dtype}")

    def fill(self, model: Model, states: Mapping[str, float]) -> None:
        """Read parameters and states straight into the model's memory, and what it counts. All has been checked before."""
        memory, layout = model.memory, model.layout
        for name in model.graph.parameters():
            self.reader.read_into(name, memory.edit(layout.parameters[name]))
        for state in states:
            for name in layout.gradients:
                self.reader.read_into(f"@optimizer/{state}/{name}", memory.edit(layout.piece(f"optimizer/{state}", name)))
        step = self.whole("step")
        model.counters[COUNTERS["step"]] = step
        model.counters[COUNTERS["epoch"]] = self.whole("epoch")
        restart_rows(model, step)


def restart_rows(model: Model, step: int) -> None:
    """Tables that are updated row by row begin a history: a file is written after a flush, so every row is current up to its last update."""
    layout = model.layout
    for name, values in layout.history.items():
        model.memory.edit(layout.buffers[name])[...] = values
    for name in layout.rowwise:
        model.memory.edit(layout.buffers[f"@last/{name}"])[...] = step
    model.counters[COUNTERS["term"]] = step if layout.history else 0
    model.stale = False


def load(path: str | os.PathLike[str], *, optimizer: Any = FROM_FILE, loss: Any = FROM_FILE, metrics: Any = FROM_FILE, loss_weights: Any = FROM_FILE,
         threads: int | None = None, backend: str = "cpu", precision: str = "float32", blas: bool = False) -> Model:
    """The model that `Model.save` wrote: declaration, parameters, optimizer with its state, losses, metrics, seed, and what it has counted.

    It goes on as the model that was saved would have: the same calls give the same bits.

    Args:
        path: an .nnkit file.
        optimizer, loss, metrics, loss_weights: as for `nnkit.compile`, in place of what the file says; needed where that was a Python function. An
            optimizer that keeps the same states as the file's goes on with them and with the count of updates, any other begins anew. A loss
            replaces the loss weights, too. None is none.
        threads, backend, precision, blas: as for `nnkit.compile`; a file does not say where the model was trained.

    Raises:
        OSError: the file cannot be read.
        FormatError: it is none that `Model.save` wrote, is damaged, of a newer format, holds a layer of one's own whose module has not been
            imported, or a Python function in whose place nothing was passed. A ValueError.
        ValueError: a replacement that does not fit, or a layer that the backend does not have.
        RuntimeError: for "cuda" and `blas`, without the extra or a GPU.

    >>> import nnkit, os, tempfile
    >>> from nnkit import Dense, Input, Sequential
    >>> model = nnkit.compile(Sequential([Input((3,)), Dense(2)]), optimizer="adam", loss="mse", seed=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(os.path.join(folder, "model.nnkit"))
    ...     again = nnkit.load(os.path.join(folder, "model.nnkit"))
    >>> again.spec == model.spec, bool((again.parameters["dense/kernel"] == model.parameters["dense/kernel"]).all())
    (True, True)
    """
    from nnkit.training.model import Model, resolved_optimizer

    runtime = backend_of(backend, "load", precision, bool(blas))
    threads = None if threads is None else as_whole(threads, 1, "threads")
    with Saved.open(path) as saved:
        if "spec" not in saved.document:
            raise saved.fault("it holds parameters alone: compile the network and take them by load_weights")
        dtype, seed = saved.get("dtype"), saved.whole("seed", high=SEEDS)
        if not isinstance(dtype, str) or dtype not in ITEMS:
            raise saved.fault(f"dtype must be 'float32' or 'float64', received {short(dtype)}")
        runtime.check_products(dtype)
        spec = saved.spec(saved.get("spec"), "network", "the network")
        kept = saved.get("optimizer")
        if optimizer is FROM_FILE:
            chosen = None if kept is None else saved.spec(kept, "optimizer", "the optimizer")
        else:
            chosen = resolved_optimizer(optimizer)
        states = {} if chosen is None else saved.guarded(chosen.states)
        if optimizer is not FROM_FILE and {f"@optimizer/{state}" for state in states} != _states_in(saved.reader):
            states = {}
        graph = saved.guarded(spec.graph)
        saved.guarded(lambda: saved.check_arrays(graph, dtype, states))
        outputs = _outputs(saved, graph, loss, metrics, loss_weights)
        anew = chosen is not None and optimizer is not FROM_FILE and not states and bool(_states_in(saved.reader) or chosen.states())
        model = saved.guarded(lambda: Model(spec, graph, chosen, outputs, dtype, seed, threads, runtime, draw=False))
        model.check_backend()
        saved.fill(model, states)
        if anew:
            model.reset_optimizer()
        if optimizer is FROM_FILE and chosen is not None and not isinstance(chosen.learning_rate, Schedule):
            saved.guarded(lambda: setattr(model, "learning_rate", saved.get("learning_rate")))
        return model


def _states_in(reader: Reader) -> set[str]:
    """@optimizer/<state> for each state that the file has."""
    return {"/".join(name.split("/", 2)[:2]) for name in reader.entries if name.startswith("@optimizer/")}


def _outputs(saved: Saved, graph: Graph, loss: Any, metrics: Any, loss_weights: Any) -> Any:
    """Losses, weights and metrics of the outputs: from the file, or what was passed."""
    records = saved.get("outputs")
    if not isinstance(records, list) or [record.get("name") for record in records if isinstance(record, dict)] != list(graph.output_names):
        raise saved.fault(f"outputs must be a record for each of the outputs {short(graph.output_names)}")
    if loss is FROM_FILE:
        loss = [None if record.get("loss") is None else saved.spec(record["loss"], "loss", "the loss") for record in records]
        if loss_weights is FROM_FILE:
            loss_weights = [None if own is None else record.get("weight") for own, record in zip(loss, records, strict=True)]
    elif loss_weights is FROM_FILE:
        loss_weights = None
    if metrics is FROM_FILE:
        found = [] if loss is None else [_metrics(saved, record) for record in records]
        metrics = found if len(found) > 1 else [metric for own in found for metric in own]
    return saved.guarded(lambda: resolve_outputs(graph, loss, loss_weights, metrics))


def _metrics(saved: Saved, record: Mapping[str, Any]) -> list[Any]:
    records = record.get("metrics")
    if not isinstance(records, list):
        raise saved.fault(f"metrics of an output must be a list, received {short(records)}")
    return [saved.spec(own, "metric", "the metrics") for own in records]


# Weights alone.

def is_native(path: str | os.PathLike[str]) -> bool:
    """Whether a safetensors file was written by nnkit. Raises OSError, FormatError."""
    with Reader(path) as reader:
        return KEY in reader.metadata


def read_native(path: str | os.PathLike[str], graph: Graph, names: Mapping[str, str] | None = None) -> Weights:
    """The arrays of a file that nnkit wrote for the parameters of a graph, and the names of what it holds besides. Raises OSError, FormatError."""
    with Saved.open(path) as saved:
        entries = saved.reader.entries
        wanted = {name: source for name, source in source_names(graph, names).items() if source in entries}
        unused = tuple(name for name in entries if name not in wanted.values() and not name.startswith("@"))
        return {name: saved.reader.read(source) for name, source in wanted.items()}, unused


def read_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file. Raises OSError, FormatError."""
    with Reader(path) as reader:
        return {name: reader.read(name) for name in reader.entries}


def load_weights(model: Model, path: str | os.PathLike[str], names: Mapping[str, str] | None, strict: bool) -> Report:
    """`Model.load_weights`."""
    from nnkit.io.weights import read_weights

    found, unused = read_weights(path, model.graph, names)
    declared = model.graph.parameters()
    own = {name: parameter.shape for name, parameter in declared.items() if name in found or not parameter.is_state}
    report = compare(own, found, unused)
    if strict:
        report.check(repr(os.fspath(path)))
    model.set_parameters({name: found[name] for name in report.copied})
    return report
