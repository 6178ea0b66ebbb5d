"""What the tests of layers, losses and optimizers share: a network bound to memory, its values and gradients, central differences."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import pytest

from cases import Case
from nnkit.graph import Adjacency, CsrArrays
from nnkit.losses.base import Loss
from nnkit.network import Container
from nnkit.plan import passes
from nnkit.plan.build import build, numbered, numbered_input
from nnkit.plan.builder import Sizes
from nnkit.plan.layout import COUNTERS, SUMS, lay_out
from nnkit.plan.plan import Buffer, Plan
from nnkit.prims.csr import form_name
from nnkit.runtime import cpu, store
from nnkit.runtime.cpu import Memory, Tape
from nnkit.training.graphs import sizes_with

__all__ = [
    "Feeds", "Probe", "Results", "Rig", "assert_close", "assert_derivative", "assert_near", "assert_same_bits", "case_parameters", "debug_mode",
    "many_tasks", "parts", "refused",
]

# Central differences (L(x + h d) - L(x - h d)) / 2h. Their error is h^2 L'''/6, 2e-11 for derivatives near 1, and the rounding of L, about
# 1e-16 |L| / h = 1e-11 |L|. So 1e-6 leaves four digits to spare, and a wrong formula is wrong in the first ones. A derivative a thousand times
# smaller than the terms of L drowns in that rounding, so the error is measured against the derivative or a thousandth of those terms.
STEP = 1e-5
TOLERANCE = 1e-6
FLOOR = 1e-3
EVERY_ENTRY = 60                                         # arrays up to this size: one difference an entry; larger ones: random directions
DIRECTIONS = 12


@attrs.frozen(repr=False)
class Probe(Loss):
    """A loss that is linear in the output: the "targets" are dLoss/dy. Its rows carry the sample weights (0), so its loss is the penalties."""

    def lower(self, g: Any, y: Any, t: Any, w: Any) -> Any:
        """rows = w; dy = t."""
        rows = g.buffer("rows", g.batch)
        no_order = Buffer("no_order", (0,), "int64", "external")
        g.step("prims.feed.gather_rows", [rows.rows()], [w.rows(), no_order, g.state("counters")], rows=g.batch)
        g.on_backward(rows, [y], lambda _: t)
        return rows


def refused(message: str, function: Callable[..., Any], *arguments: Any, error: type[Exception] = ValueError, **named: Any) -> None:
    """The call raises this error with this whole message."""
    with pytest.raises(error, match="^" + re.escape(message) + "$"):
        function(*arguments, **named)


@contextlib.contextmanager
def debug_mode(on: bool) -> Iterator[None]:
    """NNKIT_DEBUG for what is built inside."""
    before = os.environ.get("NNKIT_DEBUG")
    os.environ["NNKIT_DEBUG"] = str(int(on))
    try:
        yield
    finally:
        os.environ.pop("NNKIT_DEBUG")
        if before is not None:
            os.environ["NNKIT_DEBUG"] = before


@contextlib.contextmanager
def many_tasks() -> Iterator[None]:
    """Plans built inside cut even the smallest work: up to 7 tasks for row-local groups (3 rows would do), up to 32 for other steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "TASK_FLOPS", 1)
        patch.setattr(passes, "row_tasks", lambda run: max(1, min(7, run[0].rows)))
        yield


Arrays = Any                                             # an array, or a tuple of them: one for each input or output


def parts(values: Arrays) -> tuple[np.ndarray, ...]:
    """One array, or several, as a tuple."""
    return values if isinstance(values, tuple) else (values,)


def alone(values: Iterable[np.ndarray]) -> Arrays:
    """The one array, or a tuple of several."""
    values = tuple(values)
    return values if len(values) > 1 else values[0]


@attrs.frozen
class Results:
    """What one run in mode "gradients" gives."""

    y: Arrays                                            # output, of shape (N, ...); a tuple where there are several
    loss: float                                          # of the batch, penalties included
    dx: Arrays                                           # dLoss/dx; a tuple where there are several inputs
    gradients: Mapping[str, np.ndarray]                  # of the trainable parameters
    updated: Mapping[str, np.ndarray]                    # the other parameters, after the step


@attrs.frozen(eq=False)
class Feeds:
    """What the inputs of a network on graphs hold: arrays, sparse matrices, adjacencies.

    What can be moved is a tuple of arrays: of an input its rows; of a sparse matrix its entries' values, of a graph those of every form of it.
    """

    graph: Any
    inputs: tuple[Any, ...]

    @property
    def matrices(self) -> list[tuple[str, Any]]:
        """Name and place of everything that can be moved: a CsrArrays, or None for an array."""
        found: list[tuple[str, Any]] = []
        for position, (value, forms) in enumerate(zip(self.inputs, self.graph.flow.forms, strict=True)):
            name = numbered_input(position)
            if isinstance(value, Adjacency):
                found += [(form_name(name, form), value.form(*form)) for form in forms]
            else:
                found.append((name, value if isinstance(value, CsrArrays) else None))
        return found

    @property
    def values(self) -> tuple[np.ndarray, ...]:
        """The arrays that can be moved, as float64, copies."""
        arrays = iter([value for value in self.inputs if isinstance(value, np.ndarray)])
        return tuple(np.array(next(arrays) if matrix is None else matrix.values, np.float64) for _, matrix in self.matrices)

    @property
    def sizes(self) -> Sizes:
        """As the plan wants them."""
        nodes = next(value.nodes for value in self.inputs if isinstance(value, Adjacency))
        return sizes_with(nodes, {name: matrix for name, matrix in self.matrices if matrix is not None})

    def arrays(self, values: Sequence[np.ndarray], dtype: str) -> dict[str, np.ndarray]:
        """The external arrays of a plan by name, with these values in the place of the inputs' own."""
        found = {}
        whole = {numbered_input(position) for position, kind in enumerate(self.graph.flow.kinds) if kind == "places"}
        for (name, matrix), own in zip(self.matrices, values, strict=True):
            if matrix is None:
                found[f"{name}/data"] = np.ascontiguousarray(own, np.int32 if name in whole else dtype)
                continue
            found |= matrix.arrays(name, dtype)
            found[f"{name}/values"] = np.ascontiguousarray(own, dtype)
            found[f"{name}/transposed/values"] = found[f"{name}/values"][matrix.transposed[2]]
        for position, value in enumerate(self.inputs):
            if isinstance(value, Adjacency):
                found[f"{numbered_input(position)}/segments"] = value.segments
        return found


class Rig:
    """A network with a loss, which all its outputs share, bound to memory of its own.

    x, targets t and results are arrays; of several inputs or outputs, tuples. feeds: of a network on graphs; x is then as `Feeds.values`.
    """

    def __init__(self, network: Container, parameters: Mapping[str, np.ndarray], batch: int, *, loss: Loss | None = None, dtype: str = "float64",
                 threads: int = 1, debug: bool = True, seed: int = 11, inputs: bool = True, feeds: Feeds | None = None) -> None:
        self.graph = network.graph()
        self.layout = lay_out(self.graph, None, dtype)
        self.memory = Memory(self.layout)
        self.batch, self.dtype, self.threads, self.debug, self.seed = batch, dtype, threads, debug, seed
        self.feeds = feeds
        self.inputs = inputs                             # whether gradients of the inputs are computed
        self.loss = Probe() if loss is None else loss
        self.parameters = {name: self.memory.view(buffer) for name, buffer in self.layout.parameters.items()}
        self.start = {name: np.asarray(parameters[name]).astype(dtype) for name in self.parameters}
        self.tapes: dict[str, Tape] = {}
        self.set_parameters(self.start)

    def set_parameters(self, values: Mapping[str, np.ndarray]) -> None:
        for name, view in self.parameters.items():
            view[...] = values[name]

    def tape(self, mode: str) -> Tape:
        """The plan of a mode, bound; built on first use."""
        if mode not in self.tapes:
            with debug_mode(self.debug):
                gap = cpu.RED_ZONE if self.debug else 0
                plan = build(self.graph, self.layout, mode, self.batch, losses=[(self.loss, 1.0)] * len(self.graph.outputs), keep_predictions=True,
                             input_gradients=self.inputs and mode == "gradients", gap=gap, sizes=self.feeds and self.feeds.sizes)
                self.tapes[mode] = Tape(plan, self.memory, self.threads)
        return self.tapes[mode]

    def given(self, mode: str, x: Arrays, t: Arrays | None, w: np.ndarray | None) -> dict[str, np.ndarray]:
        """The external arrays that a plan reads, by name."""
        shapes = self.graph.output_shapes
        arrays = self.feeds.arrays(parts(x), self.dtype) if self.feeds is not None else {
            f"x{position or ''}/data": self._floats(values) if limit is None else np.ascontiguousarray(values, np.int32)
            for position, (values, limit) in enumerate(zip(parts(x), self.graph.index_limits, strict=True))}
        if mode != "predict":
            for position, (values, output_shape) in enumerate(zip(parts(t), shapes, strict=True)):
                shape, dtype = self.loss.target(output_shape)
                assert values.shape[1:] == shape
                arrays[f"{numbered('target', position)}/data"] = (
                    np.ascontiguousarray(values, np.int32) if dtype == "int32" else self._floats(values))
            arrays["sample_weight/data"] = self._floats(np.zeros(self.batch) if w is None else w)
        return arrays

    def written(self) -> dict[str, np.ndarray]:
        """The external arrays that a plan writes: predictions, full of NaN, and masks."""
        shapes = self.graph.output_shapes
        ys = {numbered("predictions", position): np.full((self.batch, math.prod(shape)), np.nan, self.dtype) for position, shape in enumerate(shapes)}
        return ys | {numbered("mask", position): np.empty((self.batch, shape[0]), self.dtype) for position, shape in enumerate(shapes) if shape}

    def bind(self, mode: str, x: Arrays, t: Arrays | None, w: np.ndarray | None) -> list[np.ndarray]:
        """Bind the data, reset what a step counts; returns the arrays of predictions, full of NaN."""
        written = self.written()
        self.tape(mode).bind(self.given(mode, x, t, w) | written)
        counters = self.memory.view(self.layout.buffers["counters"])
        counters[:] = 0
        counters[COUNTERS["seed"]] = self.seed
        self.memory.view(self.layout.buffers["sums"])[:] = 0
        return [values for name, values in written.items() if name.startswith("predictions")]

    def outputs(self, ys: Iterable[np.ndarray]) -> Arrays:
        """The arrays of predictions with the outputs' shapes."""
        return alone(y.reshape(self.batch, *shape) for y, shape in zip(ys, self.graph.output_shapes, strict=True))

    def _floats(self, values: np.ndarray) -> np.ndarray:
        """Contiguous, a copy only where the type differs; samples without axes as they are."""
        values = np.ascontiguousarray(values, self.dtype)
        return values.reshape(len(values), int(np.prod(values.shape[1:], dtype=int))) if values.ndim > 1 else values

    def predict(self, x: Arrays) -> Arrays:
        """The output in inference."""
        ys = self.bind("predict", x, None, None)
        self.tape("predict").run()
        return self.outputs(ys)

    def run(self, x: Arrays, t: Arrays, w: np.ndarray | None = None, *, mode: str = "gradients") -> Results:
        """One step without update. Gradients are NaN before; parameters that a training step changes begin as at the start."""
        ys = self.bind(mode, x, t, w)
        for name in set(self.parameters) - set(self.layout.gradients):
            self.parameters[name][...] = self.start[name]
        for view in self._gradient_views().values():
            view[...] = np.nan
        tape = self.tape(mode)
        tape.run()
        plan = tape.plan
        return Results(
            y=self.outputs(ys), loss=float(self.memory.view(self.layout.buffers["sums"])[SUMS["last"]]),
            dx=alone(self.memory.view(buffer, plan).reshape(values.shape).copy() for buffer, values in zip(plan.outputs, parts(x), strict=True))
            if plan.outputs else np.empty(0),
            gradients={name: view.copy() for name, view in self._gradient_views().items()},
            updated={name: view.copy() for name, view in self.parameters.items() if name not in self.layout.gradients})

    def _gradient_views(self) -> dict[str, np.ndarray]:
        return {name: self.memory.view(buffer) for name, buffer in self.layout.gradients.items()}

    def objective(self, x: Arrays, t: Arrays, w: np.ndarray | None = None) -> float:
        """The loss as a function of x and of what stands in `parameters`, with training behaviour; for a Probe sum(t y) + penalties."""
        ys = self.bind("gradients", x, t, w)
        tape = self.tape("gradients")
        checked, tape.debug = tape.debug, False          # hundreds of runs: at full speed
        tape.run()
        tape.debug = checked
        loss = float(self.memory.view(self.layout.buffers["sums"])[SUMS["last"]])
        if isinstance(self.loss, Probe):
            loss += sum(float((values.reshape(y.shape) * y).sum()) for values, y in zip(parts(t), ys, strict=True))
        return loss

    def run_watched(self, mode: str, x: Arrays, t: Arrays) -> None:
        """Run step by step, task by task. Raise AssertionError where a kernel changes an array that its step only reads, or where two tasks of
        a step write the same cell: such a step gives the right bits mostly, not always."""
        self.bind(mode, x, t, None)
        tape = self.tape(mode)
        plan = tape.plan
        for index, step in enumerate(plan.steps):
            call = store.KERNEL(int(tape.kernels[index]))
            written = {_place(plan, buffer) for buffer in step.writes + step.updates + step.scratch}
            read = {b.name: self.memory.view(b, plan) for b in step.reads if b.role != "external" and _place(plan, b) not in written}
            before = {name: view.copy() for name, view in read.items()}
            sources = {_place(plan, buffer) for buffer in step.reads + step.updates}
            fresh = [b for b in step.writes if b.role != "external" and _place(plan, b) not in sources]      # not in place of an input
            cells = {b.name: Cells(self.memory.view(b, plan)) for b in fresh}
            for task in range(step.tasks):
                for written_cells in cells.values():
                    written_cells.clear()
                status = call(*tape._arguments, int(tape.starts[index]), task, step.tasks)
                assert status <= 0, f"{step.kernel} used an index outside of its array"
                for name, written_cells in cells.items():
                    assert written_cells.collect(), f"{step.kernel}: task {task} of {step.tasks} writes to {name} where another task did"
            for name, written_cells in cells.items():
                assert written_cells.restore(), f"{step.kernel} does not write all of {name}"
            for name, view in read.items():
                assert_same_bits(view, before[name], f"{step.kernel} changed {name}, which it only reads")


class Cells:
    """Which cells of an array each task writes: they hold a value before that nothing computes, what differs afterwards was written."""

    def __init__(self, view: np.ndarray) -> None:
        self.view = view.reshape(-1).view(f"u{view.itemsize}")
        self.empty = np.array(-12_345, f"i{view.itemsize}").view(self.view.dtype)          # as a float, one of the NaN
        self.values = np.full_like(self.view, self.empty)

    def clear(self) -> None:
        self.view[:] = self.empty

    def collect(self) -> bool:
        """Keep what the task wrote; False where a cell has been written before."""
        written = self.view != self.empty
        twice = written & (self.values != self.empty)
        self.values[written] = self.view[written]
        return not twice.any()

    def restore(self) -> bool:
        """Put the values of all tasks in place; False where a cell has none."""
        self.view[:] = self.values
        return bool((self.values != self.empty).all())


def _place(plan: Plan, buffer: Any) -> str:
    return buffer.inside[0] if buffer.inside else plan.storage(buffer.name)


def case_parameters(case: Case) -> dict[str, np.ndarray]:
    """Values for all parameters of a case, float64, from its seed."""
    rng = np.random.default_rng([case.seed, 1])
    found = {}
    for name, declared in case.network.graph().parameters().items():
        if case.parameters is not None:
            found[name] = np.asarray(case.parameters(rng, name, declared.shape), np.float64)
        elif "variance" in name:
            found[name] = rng.uniform(0.5, 1.5, declared.shape)
        else:
            found[name] = rng.standard_normal(declared.shape) / 2
    return found


def assert_same_bits(a: np.ndarray, b: np.ndarray, message: str = "") -> None:
    """Equal shapes, dtypes and bits: NaN equals NaN, 0 differs from -0."""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    assert (a.shape, a.dtype) == (b.shape, b.dtype), message
    assert a.tobytes() == b.tobytes(), message


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float, message: str = "") -> None:
    """|found - expected| <= tolerance * max(1, largest |expected|), entry by entry; infinities and NaN must agree."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, f"{message}: shape {found.shape}, expected {expected.shape}"
    if expected.size:
        finite = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * finite, err_msg=message)


def assert_near(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float, message: str) -> None:
    """The same arrays by name, each as `assert_close` says."""
    assert found.keys() == expected.keys(), message
    for name, values in expected.items():
        assert_close(found[name], values, tolerance, f"{message}: {name}")


def assert_derivative(objective: Callable[[], float], array: np.ndarray, derivative: np.ndarray, terms: float, rng: np.random.Generator,
                      message: str) -> None:
    """`derivative` is that of objective() with respect to `array`, which is moved in place and set back. terms: the size of the loss's terms."""
    assert array.shape == derivative.shape, f"{message}: a gradient of shape {derivative.shape} for an array of shape {array.shape}"
    if not array.size:
        return
    start = array.copy()
    if array.size <= EVERY_ENTRY:
        directions = np.eye(array.size).reshape(array.size, *array.shape)
    else:
        directions = rng.standard_normal((DIRECTIONS, *array.shape))
    found, expected = np.zeros(len(directions)), np.zeros(len(directions))
    for k, d in enumerate(directions):
        sides = []
        for h in (STEP, -STEP):
            array[...] = start + h * d
            sides.append(objective())
        found[k], expected[k] = float((derivative * d).sum()), (sides[0] - sides[1]) / (2 * STEP)
    array[...] = start
    error = np.abs(found - expected) / max(np.abs(expected).max(), np.abs(found).max(), FLOOR * terms, np.finfo(float).tiny)
    worst = int(error.argmax())
    assert error[worst] < TOLERANCE, f"{message}: derivative {found[worst]}, central difference {expected[worst]} in direction {worst}"
