"""A checked data set: what `fit`, `evaluate` and `predict` hand to the plans."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from nnkit.plan.build import numbered
from nnkit.spec import article, nearest
from nnkit.training.feed import as_indices, as_samples, as_weights, class_weights, same_length
from nnkit.training.graphs import Checked, as_graph_inputs, as_mask, input_arrays, samples_of
from nnkit.training.outputs import Output, per_name

if TYPE_CHECKING:
    from nnkit.nodes import Graph

__all__ = ["Data", "Kept", "as_inputs", "output_arrays"]


@attrs.frozen(eq=False)
class Data:
    """C-contiguous arrays of one length n: inputs, for each output its targets in the form that its loss takes (None without a loss), weights.

    Inputs of a network on graphs may be sparse matrices and graphs: see `training.graphs`. counted: which samples metrics look at; None: all.
    """

    inputs: tuple[Checked, ...]
    targets: tuple[np.ndarray | None, ...]
    weights: np.ndarray
    counted: np.ndarray | None = None

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.weights)

    def part(self, start: int, stop: int) -> Data:
        """The samples [start, stop), without a copy; not of a graph."""
        inputs = tuple(x[start:stop] for x in self.inputs)  # type: ignore[index]
        targets = tuple(None if t is None else t[start:stop] for t in self.targets)
        return Data(inputs=inputs, targets=targets, weights=self.weights[start:stop])

    def targets_of(self, samples: np.ndarray) -> tuple[np.ndarray | None, ...]:
        """The targets of these samples, in their order."""
        return tuple(None if t is None else t[samples] for t in self.targets)

    @functools.cached_property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The external arrays of a plan by name."""
        targets = {f"{numbered('target', position)}/data": t for position, t in enumerate(self.targets) if t is not None}
        return {**input_arrays(self.inputs), **targets, "sample_weight/data": self.weights}

    @classmethod
    def of(cls, x: Any, y: Any, graph: Graph, outputs: Sequence[Output], dtype: str, sample_weight: Any = None,
           class_weight: Mapping[int, float] | None = None, check_finite: bool = False, mask: Any = None,
           inputs: tuple[Checked, ...] | None = None) -> Data:
        """Check everything that the user passed; inputs: those of x, if they have been checked. Raises TypeError or ValueError with one sentence."""
        inputs = as_inputs(x, graph, dtype, check_finite) if inputs is None else inputs
        given = as_targets(y, outputs)
        samples = range(samples_of(inputs, graph))
        counted = None if mask is None else as_mask(mask, len(samples), "mask")
        if counted is not None:
            given = [own if own is None else _filled(own, counted) for own in given]
        targets = tuple(_prepared(own, output, dtype, check_finite, len(outputs) > 1) for own, output in zip(given, outputs, strict=True))
        n = same_length(x=samples, **{f"y[{o.name!r}]" if len(outputs) > 1 else "y": t for o, t in zip(outputs, targets, strict=True)})
        weights = as_weights(sample_weight, n, dtype) if sample_weight is not None else np.ones(n, dtype)
        if counted is not None:                          # the loss, a mean over all samples, becomes one over those that count
            weights = weights * (counted * (n / counted.sum())).astype(dtype)
        if class_weight is not None:
            if len(outputs) > 1:
                raise ValueError(f"class_weight needs a network of one output, received one of {len(outputs)}: pass sample_weight")
            known = None if outputs[0].loss is None else outputs[0].loss.classes(outputs[0].shape)
            weights = class_weights(class_weight, given[0], dtype, weights, known)
        return cls(inputs=inputs, targets=targets, weights=weights, counted=counted)


@attrs.frozen(eq=False)
class Kept:
    """What metrics look at, for each output: its predictions (n, ...), and its mask (n, T), 1 for the time steps that count; None where all do.

    rows: which samples count; None: all.
    """

    predictions: tuple[np.ndarray, ...]
    masks: tuple[np.ndarray | None, ...]
    rows: np.ndarray | None = None

    def first(self, n: int) -> Kept:
        """Those of the first n samples, without a copy."""
        masks = tuple(None if mask is None else mask[:n] for mask in self.masks)
        return Kept(tuple(y[:n] for y in self.predictions), masks, None if self.rows is None else self.rows[:n])

    def part(self, begin: int, end: int, rows: np.ndarray | None) -> Kept:
        """Those of the samples [begin, end), without a copy. rows: which of these count."""
        return Kept(tuple(y[begin:end] for y in self.predictions), tuple(mask if mask is None else mask[begin:end] for mask in self.masks), rows)

    def take(self, other: Kept) -> None:
        """Copy those of the first samples from another."""
        for own, theirs in zip((*self.predictions, *self.masks), (*other.predictions, *other.masks), strict=True):
            if own is not None and theirs is not None:
                own[:len(theirs)] = theirs

    @staticmethod
    def joined(pieces: Sequence[Kept]) -> Kept:
        """Those of pieces, one after the other; without `rows`."""
        if len(pieces) == 1:
            return pieces[0]
        masks = [None if parts[0] is None else np.concatenate(parts) for parts in zip(*(piece.masks for piece in pieces), strict=True)]  # type: ignore[arg-type]
        return Kept(tuple(map(np.concatenate, zip(*(piece.predictions for piece in pieces), strict=True))), tuple(masks))

    def arrays(self) -> dict[str, np.ndarray]:
        """The external arrays of a plan by name."""
        masks = {numbered("mask", position): mask for position, mask in enumerate(self.masks) if mask is not None}
        return {**output_arrays(self.predictions), **masks}

    def counted(self, position: int, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Targets and predictions of one output; where it has a mask, those of the time steps that count, one after the other."""
        predictions, mask = self.predictions[position], self.masks[position]
        if self.rows is not None:
            targets, predictions, mask = targets[self.rows], predictions[self.rows], None if mask is None else mask[self.rows]
        return (targets, predictions) if mask is None else (targets[mask != 0], predictions[mask != 0])


def as_inputs(x: Any, graph: Graph, dtype: str, check_finite: bool = False) -> tuple[Checked, ...]:
    """The inputs of the network, checked: one array, a tuple of as many as it has inputs, or a dict by their names."""
    names, shapes = graph.input_names, graph.input_shapes
    if type(x) is not np.ndarray and isinstance(x, Mapping):           # asked first what is nearly always so: this is on the way of one row
        for name in {**dict.fromkeys(x), **dict.fromkeys(names)}:
            if name not in names:
                raise ValueError(f"x: unknown input {name!r}: {nearest(str(name), names)}")
            if name not in x:
                raise ValueError(f"x must have an array for each of the inputs {names}, received none for {name!r}")
        x = [x[name] for name in names] if len(names) > 1 else x[names[0]]
    limits = graph.index_limits
    if len(shapes) == 1:
        return (as_input(x, shapes[0], limits[0], dtype, "x", check_finite),)
    if not isinstance(x, (tuple, list)) or len(x) != len(shapes):
        raise ValueError(f"x must be a tuple of {len(shapes)} arrays, one for each input, or a dict by input name, "
                         f"received {article(type(x).__name__)}{f' of {len(x)}' if hasattr(x, '__len__') else ''}")
    if graph.flow.on_graphs:
        return as_graph_inputs(x, graph, dtype, check_finite)
    arrays = tuple(as_input(part, shape, limit, dtype, f"x[{i}]", check_finite)
                   for i, (part, shape, limit) in enumerate(zip(x, shapes, limits, strict=True)))
    same_length(**{f"x[{i}]": array for i, array in enumerate(arrays)})
    return arrays


def as_input(x: Any, shape: tuple[int, ...], limit: int | None, dtype: str, what: str, check_finite: bool) -> np.ndarray:
    """One input, checked: numbers, or whole numbers below a limit where a layer takes them as indices."""
    return as_samples(x, shape, dtype, what, check_finite) if limit is None else as_indices(x, shape, limit, what)


def _filled(y: Any, counted: np.ndarray) -> np.ndarray:
    """Targets in which those of samples that do not count are some that are right: what stands there does not matter."""
    try:
        array = np.array(y)
    except ValueError:                                   # rows of unequal length, which the loss refuses
        return y
    if array.ndim and len(array) == len(counted):
        array[~counted] = array[counted.argmax()]
    return array


def as_targets(y: Any, outputs: Sequence[Output]) -> list[Any]:
    """What the user passed for each output. Raises ValueError where a loss has no targets, or targets no loss."""
    names = tuple(output.name for output in outputs)
    given = [y] if len(outputs) == 1 and not isinstance(y, Mapping) else per_name(y, names, "y")
    for own, output in zip(given, outputs, strict=True):
        if own is None and output.loss is not None:
            raise ValueError(f"y must have targets for the output {output.name!r}, received none")
        if own is not None and output.loss is None:
            raise ValueError(f"y: output {output.name!r} has no loss, but received targets")
    return given


def _prepared(y: Any, output: Output, dtype: str, check_finite: bool, several: bool) -> np.ndarray | None:
    """The targets of one output in the form that its loss takes."""
    if output.loss is None:
        return None
    try:
        return output.loss.prepare(y, output.shape, dtype, check_finite)
    except (TypeError, ValueError) as error:
        if not several:
            raise
        raise type(error)(f"output {output.name!r}: {error}") from None


def output_arrays(predictions: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The external output arrays of a plan by name."""
    if len(predictions) == 1:
        return {"predictions": predictions[0]}
    return {numbered("predictions", position): array for position, array in enumerate(predictions)}
