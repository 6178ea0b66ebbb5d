"""The case table's checks: every row of cases_*.py goes through every one of them (see cases.py for the rows, naive.py for the references).

Values and gradients run in float64 in debug mode: the arena is full of NaN before, red zones lie between buffers, every index is checked, and
the first value that is not finite is named. float32, threads and tasks run the kernels as users get them.
"""

import functools
import importlib
import pkgutil

import numpy as np
import pytest
from scipy import sparse

import naive
import nnkit.layers
import nnkit.losses
from cases import all_cases, all_loss_cases
from helpers import Feeds, Rig, assert_close, assert_derivative, assert_same_bits, case_parameters, many_tasks, parts
from nnkit.graph import CsrArrays
from nnkit.spec import CLASSES, from_json, is_of_family, to_json

CASES, LOSS_CASES = all_cases(), all_loss_cases()
EXACT = 1e-11               # float64 against a reference that sums in another order: a few hundred roundings of 1e-16, terms of size 1 to 10
LARGE_BATCH = 37            # rows enough for several tasks of 8 rows, and a ragged last one

every_case = pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
every_loss = pytest.mark.parametrize("case", LOSS_CASES, ids=[case.id for case in LOSS_CASES])


@functools.lru_cache(maxsize=4)
def rig_of(case, dtype="float64", batch=None, threads=1, debug=True):
    return new_rig(case, dtype, batch, threads, debug)


def new_rig(case, dtype="float64", batch=None, threads=1, debug=True, parameters=None):
    return Rig(case.network, parameters or case_parameters(case), batch or case.batch, dtype=dtype, threads=threads, debug=debug,
               feeds=feeds_of(case, batch))


@functools.lru_cache(maxsize=4)
def feeds_of(case, batch=None):
    """The inputs of a case on a graph; None for the others."""
    graph, batch = case.network.graph(), batch or case.batch
    if not graph.flow.on_graphs:
        return None
    rng = np.random.default_rng([case.seed, 2])
    adjacency = case.adjacency(rng, batch)
    inputs = []
    for kind, shape in zip(graph.flow.kinds, graph.input_shapes, strict=True):
        if kind == "places":
            inputs.append(rng.integers(0, adjacency.nodes, (batch, *shape)).astype(np.int32))
        elif kind == "graph":
            inputs.append(adjacency)
        else:
            rows = np.asarray(case.x(rng, (adjacency.nodes, *shape)), np.float64)
            inputs.append(rows if kind == "numbers" else CsrArrays.of(sparse.csr_matrix(rows * (rng.random(rows.shape) < 0.4)), "x"))
    return Feeds(graph, tuple(inputs))


def reference(case, x, training=False):
    """What the naive version of the case's network gives."""
    feeds = feeds_of(case)
    if feeds is not None:
        x = tuple(value.matrix.toarray() if isinstance(value, CsrArrays) else value for value in feeds.inputs)
    return naive.network(case.network, case_parameters(case), x, training)


def data_of(case, batch=None):
    """x for each input and dLoss/dy for each output of a case; dy is scaled so that the loss stays near 1 whatever the output's size."""
    rng = np.random.default_rng([case.seed, 2])
    feeds, batch, graph = feeds_of(case, batch), batch or case.batch, case.network.graph()
    xs = tuple(np.asarray(case.x(rng, (batch, *shape)), np.float64) for shape in graph.input_shapes) if feeds is None else feeds.values
    shapes = [(batch, *shape) for shape in graph.output_shapes]
    return xs, tuple(rng.standard_normal(shape) / max(1.0, np.sqrt(np.prod(shape))) for shape in shapes)


def each(found, expected):
    """The arrays of both, side by side: one for each input or output."""
    return zip(parts(found), parts(expected), strict=True)


def test_ids_are_unique():
    ids = [case.id for case in CASES + LOSS_CASES]
    assert len(set(ids)) == len(ids)


@every_case
def test_shape_and_inference(case):
    x, _ = data_of(case)
    expected = reference(case, x)
    assert [y.shape for y in parts(expected)] == [(case.batch, *shape) for shape in case.network.graph().output_shapes]
    for found, y in each(rig_of(case).predict(x), expected):
        assert_close(found, y, EXACT)


@every_case
def test_training(case):
    x, dy = data_of(case)
    found = rig_of(case).run(x, dy).y
    assert all(np.isfinite(y).all() for y in parts(found))
    if not case.random:
        for y, expected in each(found, reference(case, x, training=True)):
            assert_close(y, expected, EXACT)


@every_case
def test_gradients(case):
    x, dy = data_of(case)
    rig = rig_of(case)
    results = rig.run(x, dy)
    terms = sum(float(np.abs(a * b).sum()) for a, b in each(dy, results.y)) + abs(results.loss)
    rng = np.random.default_rng([case.seed, 3])

    def objective():
        return rig.objective(x, dy)

    graph, feeds = case.network.graph(), feeds_of(case)
    whole = ([limit is not None for limit in graph.index_limits] if feeds is None else
             [matrix is None and graph.flow.kinds[int(name[1:] or 0)] == "places" for name, matrix in feeds.matrices])
    for number, (values, gradient) in enumerate(each(x, results.dx)):
        if whole[number]:                                # indices have no derivative
            assert not gradient.any()
        elif case.moved:
            assert_derivative(objective, values, gradient, terms, rng, f"input {number}")
    for name, gradient in results.gradients.items():
        assert_derivative(objective, rig.parameters[name], gradient, terms, rng, name)
    assert set(results.gradients) == {name for name, declared in rig.layout.declared.items() if declared.trainable}


@every_case
def test_inputs_stay_and_outputs_are_written_whole(case):
    """Gradients and predictions are NaN before each run and equal after it: written with =, never added to what was there."""
    x, dy = data_of(case)
    rig = rig_of(case)
    kept = [values.copy() for values in (*x, *dy)]
    first, second = rig.run(x, dy), rig.run(x, dy)
    for values, before in zip((*x, *dy), kept, strict=True):
        assert_same_bits(values, before, "the data or the targets changed")
    for name, gradient in first.gradients.items():
        assert_same_bits(rig.parameters[name], rig.start[name], f"{name} changed")
        assert np.isfinite(gradient).all(), name
        assert_same_bits(gradient, second.gradients[name], name)
    for a, b in [*each(first.dx, second.dx), *each(first.y, second.y)]:
        assert_same_bits(a, b)
        assert np.isfinite(a).all()
    rig.run_watched("gradients", x, dy)
    rig.run_watched("predict", x, dy)


@every_case
def test_single_precision(case):
    """float32 rounds by 6e-8; a few hundred roundings in sequence, as in the longest sums here, stay below 2e-5."""
    x, dy = data_of(case)
    x, dy = (tuple(values.astype(np.float32).astype(np.float64) for values in arrays) for arrays in (x, dy))
    parameters = {name: value.astype(np.float32) for name, value in case_parameters(case).items()}
    expected = new_rig(case, parameters=parameters).run(x, dy)
    rig = new_rig(case, "float32", debug=False, parameters=parameters)
    found = rig.run(x, dy)
    for what in ("y", "dx"):
        for a, b in each(getattr(found, what), getattr(expected, what)):
            assert_close(a, b, case.single, what)
    for name, gradient in found.gradients.items():
        assert_close(gradient, expected.gradients[name], case.single, name)
    for name, value in found.updated.items():
        assert_close(value, expected.updated[name], case.single, name)
    assert_close(found.loss, expected.loss, case.single, "loss")


@every_case
def test_tasks_and_threads_change_no_bit(case):
    x, dy = data_of(case, LARGE_BATCH)
    one = rig_of(case, "float32", LARGE_BATCH, 1, False)
    expected, predicted = one.run(x, dy), one.predict(x)
    with many_tasks():
        for threads in (1, 2):
            rig = new_rig(case, "float32", LARGE_BATCH, threads, False)
            found = rig.run(x, dy)
            for a, b in [*each(rig.predict(x), predicted), *each(found.y, expected.y), *each(found.dx, expected.dx)]:
                assert_same_bits(a, b)
            assert found.loss == expected.loss
            for part in ("gradients", "updated"):
                for name, value in getattr(found, part).items():
                    assert_same_bits(value, getattr(expected, part)[name], name)
            if threads == 1:
                rig.run_watched("gradients", x, dy)
                rig.run_watched("predict", x, dy)


@every_case
def test_spec_round_trips(case):
    network = case.network
    assert from_json(to_json(network)) == network
    assert eval(repr(network), {name: cls for name, cls in CLASSES.items() if "." not in name}) == network


# Losses.

def loss_data(case, batch=None):
    """Data, targets and weights of a loss's case."""
    rng = np.random.default_rng([case.seed, 4])
    batch = batch or case.batch
    shape, dtype = case.loss.target(case.network.graph().output_shapes[0])
    x = np.asarray(case.y(rng, (batch, *case.shape)), np.float64)
    t = np.asarray(case.t(rng, (batch, *shape)), dtype if dtype != "T" else np.float64)
    w = rng.uniform(0.5, 2.0, batch) if case.weighted else np.ones(batch)
    if case.weighted and batch > 1:
        w[1] = 0.0
    return x, t, w


def loss_rig(case, **options):
    network = case.network
    parameters = {name: declared.initializer.values(declared.shape, np.random.default_rng(case.seed))
                  for name, declared in network.graph().parameters().items()}
    return Rig(network, parameters, options.pop("batch", case.batch), loss=case.loss, **options)


@every_loss
def test_loss_value(case):
    """The mean over all rows of the row's loss times its sample's weight; in evaluation as in training."""
    x, t, w = loss_data(case)
    rig = loss_rig(case)
    rows = naive.loss_rows(case.loss, naive.network(case.network, rig.start, x), t)
    assert len(rows) % case.batch == 0
    expected = float(np.mean(rows * np.repeat(w, len(rows) // case.batch)))
    assert_close(rig.run(x, t, w).loss, expected, EXACT)
    assert_close(rig.run(x, t, w, mode="evaluate").loss, expected, EXACT)
    with_gradients = loss_rig(case, dtype="float32", debug=False).run(x, t, w)
    assert_close(with_gradients.loss, expected, case.single)
    assert_close(with_gradients.dx, rig.run(x, t, w).dx, case.single)


@every_loss
def test_loss_gradients(case):
    x, t, w = loss_data(case)
    rig = loss_rig(case)
    results = rig.run(x, t, w)
    rng = np.random.default_rng([case.seed, 5])
    assert_derivative(lambda: rig.objective(x, t, w), x, results.dx, max(abs(results.loss), 1.0), rng, "output")
    again = rig.run(x, t, w)
    assert_same_bits(results.dx, again.dx)
    kept = t.copy()
    rig.run_watched("gradients", x, t)
    assert_same_bits(t, kept, "the targets changed")


@every_loss
def test_loss_tasks_and_threads_change_no_bit(case):
    x, t, w = loss_data(case, LARGE_BATCH)
    expected = loss_rig(case, batch=LARGE_BATCH, dtype="float32", debug=False).run(x, t, w)
    with many_tasks():
        for threads in (1, 2):
            rig = loss_rig(case, batch=LARGE_BATCH, dtype="float32", debug=False, threads=threads)
            found = rig.run(x, t, w)
            assert found.loss == expected.loss
            assert_same_bits(found.dx, expected.dx)
            if threads == 1:
                rig.run_watched("gradients", x, t)


@every_loss
def test_loss_round_trips(case):
    assert from_json(to_json(case.loss)) == case.loss
    assert eval(repr(case.loss), {name: cls for name, cls in CLASSES.items() if "." not in name}) == case.loss


# Nothing is left out.

def public_classes(package, family):
    """The specs of a family that the modules of a package name in __all__."""
    found = {}
    for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if info.name.endswith(("_cpu", "_cuda")):
            continue
        module = importlib.import_module(info.name)
        for name in module.__all__:
            cls = getattr(module, name)
            if isinstance(cls, type) and CLASSES.get(name) is cls and any(base.__dict__.get("family") == family for base in cls.__mro__):
                found[name] = cls
    return found


def specs_within(value):
    """A spec and all specs in its fields."""
    if isinstance(value, tuple):
        return [inner for item in value for inner in specs_within(item)]
    if not hasattr(value, "__attrs_attrs__"):
        return []
    return [value, *(inner for field in value.__attrs_attrs__ for inner in specs_within(getattr(value, field.name)))]


@pytest.mark.parametrize(("package", "family"), [(nnkit.layers, "layer"), (nnkit.losses, "loss")], ids=["layers", "losses"])
def test_every_public_class_has_a_reference_and_a_case(package, family):
    classes = public_classes(package, family)
    assert classes
    seen = {type(spec) for case in CASES for spec in specs_within(case.network)} | {type(case.loss) for case in LOSS_CASES}
    assert not [name for name, cls in classes.items() if naive.reference(cls) is None], "without a reference in tests/naive_*.py"
    assert not [name for name, cls in classes.items() if cls not in seen], "without a row in tests/cases_*.py"
    assert not [name for name, cls in classes.items() if getattr(nnkit, name, None) is not cls], "without a line in the catalogue, __init__.py"
    assert all(is_of_family(case.loss, "loss") for case in LOSS_CASES)
