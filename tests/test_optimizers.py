"""Optimizers: Keras' own numbers, naive references in float64, clipping, decay, schedules, tasks and threads, refusals."""

import re

import attrs
import numpy as np
import pytest

import naive_optimizer
import nnkit
from helpers import assert_same_bits, debug_mode, many_tasks, refused
from nnkit.layers.dense import Dense
from nnkit.network import Sequential
from nnkit.optimizers import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    CallableSchedule,
    CosineDecay,
    Nadam,
    Optimizer,
    PiecewiseConstantDecay,
    RMSprop,
)
from nnkit.optimizers import rules_cpu as rules
from nnkit.optimizers.base import PIECE, WIDTH
from nnkit.plan.builder import Builder
from nnkit.plan.layout import COUNTERS, lay_out
from nnkit.plan.passes import optimise
from nnkit.plan.plan import Plan
from nnkit.runtime import cpu
from nnkit.runtime.cpu import Memory, Tape
from nnkit.spec import CLASSES, from_json, resolve, to_json
from nnkit.tensors import Input

# The update of Keras 3.15 (float64, JAX backend) after five steps from w = (1, -2), b = 0.5 with dLoss/dw = (w_0, 3 w_1), dLoss/db = 2 (b - 1).
KERAS = [
    (Adam(0.1), [0.5079647224544055, -1.5029559551269491, 0.9721845496056992]),
    (Adam(0.1, beta_1=0.8, beta_2=0.99, epsilon=1e-3, amsgrad=True), [0.5163434055231769, -1.5058763489654343, 0.957766507471327]),
    (AdamW(0.1), [0.5064090726863478, -1.499387311169827, 0.970933763052655]),
    (AdamW(0.1, weight_decay=0.3), [0.39926480902067607, -1.2518653567562295, 0.8818442099010785]),
    (SGD(0.1), [0.5904900000000001, -0.33614, 0.83616]),
    (SGD(0.1, momentum=0.9), [-0.02916000000000013, 1.55656, 1.29021]),
    (SGD(0.1, momentum=0.9, nesterov=True), [-0.10458168390000014, 0.6957044794, 1.2078587904]),
    (SGD(0.1, momentum=0.5, weight_decay=0.2), [0.31420751680000014, 0.29731168640000005, 0.9522000304]),
    (Adagrad(0.1), [0.7056087864347588, -1.6870008628345512, 0.7703626178799494]),
    (Adagrad(0.1, initial_accumulator_value=0.7, epsilon=0.01), [0.7409687332050106, -1.6884444929727196, 0.7391641585044262]),
    (RMSprop(0.1), [0.19979534290082496, -1.0489273091028126, 0.9978253592481874]),
    (RMSprop(0.1, rho=0.7, epsilon=1e-3), [0.4106445303971228, -1.364278561962883, 0.9627623977039131]),
    (RMSprop(0.1, momentum=0.6), [-0.24165785967758535, -0.29041246835736306, 1.016001734568786]),
    (RMSprop(0.1, centered=True), [0.14637479264670436, -0.9336798958338813, 0.9992268386546496]),
    (RMSprop(0.1, momentum=0.6, centered=True), [-0.26509121536418123, -0.148191566487533, 1.0074570075175162]),
    (Adadelta(1.0), [0.9928068627759031, -1.9928004862996813, 0.5071803789949841]),
    (Adadelta(0.5, rho=0.8, epsilon=1e-3), [0.8172902465712646, -1.8125603581982321, 0.6738055113442226]),
    (Nadam(0.1), [0.6297530836272774, -1.6160493496019483, 0.8375094108280151]),
    (Nadam(0.1, beta_1=0.7, beta_2=0.99, epsilon=1e-3), [0.5556667529068718, -1.5335162921039238, 0.8914658096370052]),
    (SGD(0.1, clipnorm=0.5), [0.9574956315780632, -1.7536418881091762, 0.7500000000000002]),
    (SGD(0.1, clipvalue=0.3), [0.8499999999999999, -1.8499999999999999, 0.6500000000000001]),
    (SGD(0.1, global_clipnorm=0.5), [0.9580969456158899, -1.7570063951672403, 0.5411949621326198]),
]

# Every rule, every option, and what all optimizers share on top of some of them.
CASES = [
    *(optimizer for optimizer, _ in KERAS), Adam(0.02, clipnorm=0.1), AdamW(0.02, global_clipnorm=0.7, weight_decay=None),
    Nadam(0.02, clipvalue=0.05), RMSprop(0.01, rho=0.5, weight_decay=0.1, clipnorm=100.0), SGD(clipnorm=1e-6),
    Adagrad(0.03, weight_decay=0.01, global_clipnorm=0.2), Adadelta(PiecewiseConstantDecay([2, 4], [1.0, 0.5, 0.1]), weight_decay=0.05),
    SGD(CosineDecay(0.1, 5, warmup_target=0.3, warmup_steps=2), momentum=0.3), Adam(CallableSchedule(lambda t: 0.1 / (t + 1))),
]
every_case = pytest.mark.parametrize("optimizer", CASES, ids=[f"{position}-{type(optimizer).__name__}" for position, optimizer in enumerate(CASES)])


class Bench:
    """An optimizer's update steps alone, over the parameters of a network; gradients are given."""

    def __init__(self, optimizer, layers, inputs, dtype="float64", threads=1, debug=True):
        graph = Sequential([Input((inputs,)), *layers]).graph()
        self.layout = lay_out(graph, optimizer, dtype)
        self.memory = Memory(self.layout)
        g = Builder(self.layout, 1, "train")
        g.phase = "update"
        optimizer.lower(g, self.layout)
        plan = optimise(Plan(mode="train", batch=1, dtype=dtype, steps=tuple(g.steps)), cpu.RED_ZONE if debug else 0)
        with debug_mode(debug):
            self.tape = Tape(plan, self.memory, threads)
        self.counters = self.memory.view(self.layout.buffers["counters"])
        rates = self.memory.view(self.layout.buffers["learning_rates"])
        schedule = optimizer.learning_rate
        rates[:] = schedule if isinstance(schedule, float) else schedule(np.arange(len(rates)))
        self.counters[COUNTERS["table_size"]] = 1 if isinstance(schedule, float) else len(rates)
        for name, start in optimizer.states().items():
            self.memory.view(self.layout.buffers[f"optimizer/{name}"])[...] = start
        self.parameters = {name: self.memory.view(buffer) for name, buffer in self.layout.parameters.items()}
        self.gradients = {name: self.memory.view(buffer) for name, buffer in self.layout.gradients.items()}

    def set(self, parameters):
        for name, view in self.parameters.items():
            view[...] = parameters[name]

    def update(self, gradients):
        for name, view in self.gradients.items():
            view[...] = gradients[name]
        self.tape.run()
        self.counters[COUNTERS["step"]] += 1


LAYERS = [Dense(23, name="first"), Dense(3, name="frozen", trainable=False), Dense(1, name="last", use_bias=False)]


def random_problem(bench, steps, seed=0):
    """Parameters, and gradients of many magnitudes, a few of them 0."""
    rng = np.random.default_rng(seed)
    parameters = {name: rng.standard_normal(view.shape) for name, view in bench.parameters.items()}
    gradients = [{name: rng.standard_normal(view.shape) * 10.0 ** rng.integers(-3, 2, view.shape) * (rng.random(view.shape) > 0.1)
                  for name, view in bench.gradients.items()} for _ in range(steps)]
    return parameters, gradients


@pytest.mark.parametrize(("optimizer", "expected"), KERAS, ids=[repr(optimizer) for optimizer, _ in KERAS])
def test_keras_traces(optimizer, expected):
    bench = Bench(optimizer, [Dense(1)], 2)
    w, b = bench.parameters["dense/kernel"], bench.parameters["dense/bias"]
    w[:, 0], b[0] = (1.0, -2.0), 0.5
    for _ in range(5):
        bench.update({"dense/kernel": np.array([[1.0], [3.0]]) * w, "dense/bias": 2 * (b - 1)})
    np.testing.assert_allclose([*w[:, 0], *b], expected, rtol=1e-13)            # five updates of a dozen roundings each


@pytest.mark.parametrize(("optimizer", "expected"), [                            # measured with Keras and PyTorch on 0.5 w^2 from w = 1
    (Adam(0.1), [0.900001, 0.800414, 0.701589, 0.603943, 0.507968]), (RMSprop(0.1), [0.683772, 0.498871, 0.369181, 0.272825, 0.199795]),
    (Adagrad(0.1), [0.904654, 0.839339, 0.787513, 0.743783, 0.705609]), (SGD(0.1, momentum=0.9), [0.9, 0.72, 0.486, 0.2268, -0.02916]),
    (SGD(0.1, momentum=0.9, nesterov=True), [0.81, 0.5751, 0.327321, 0.093888, -0.104582]),
])
def test_traces_in_single_precision(optimizer, expected):
    bench = Bench(optimizer, [Dense(1, use_bias=False)], 1, dtype="float32", debug=False)
    w = bench.parameters["dense/kernel"]
    w[0, 0] = 1.0
    found = []
    for _ in range(5):
        bench.update({"dense/kernel": w})
        found.append(float(w[0, 0]))
    # The traces were measured in float32, whose 1 - beta_2^t is off by up to 3e-5 of itself in the first steps, and are printed to 6 digits.
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)


@every_case
def test_like_the_reference(optimizer):
    """Fifty updates; the frozen layer stays. Sums of squares are added in another order than NumPy's: 1e-12."""
    bench = Bench(optimizer, LAYERS, 13)
    parameters, gradients = random_problem(bench, 50)
    bench.set(parameters)
    for given in gradients:
        bench.update(given)
    expected = naive_optimizer.train(optimizer, {name: parameters[name] for name in bench.gradients}, gradients)
    for name, value in bench.parameters.items():
        np.testing.assert_allclose(value, expected.get(name, parameters[name]), rtol=1e-11, atol=1e-12, err_msg=name)
    assert any(np.abs(value - parameters[name]).max() > 1e-9 for name, value in bench.parameters.items())


@every_case
def test_tasks_and_threads_change_no_bit(optimizer):
    """21,000 parameters: several shares, and more than one piece of a norm."""
    found = []
    for threads, forced in ((1, False), (1, True), (2, True)):
        if forced:
            with many_tasks():
                bench = Bench(optimizer, [Dense(1000)], 20, "float32", threads, debug=False)
            assert all(step.tasks > 1 for step in bench.tape.plan.steps if step.buffers[0].size > PIECE)
        else:
            bench = Bench(optimizer, [Dense(1000)], 20, "float32", threads, debug=False)
        parameters, gradients = random_problem(bench, 3)
        bench.set(parameters)
        for given in gradients:
            bench.update(given)
        found.append({name: value.copy() for name, value in bench.parameters.items()})
    for other in found[1:]:
        for name, value in other.items():
            assert_same_bits(value, found[0][name], name)


def test_single_precision_stays_close():
    """float32 against float64 over 20 updates of every rule: 20 roundings of 6e-8, relative to steps of size 0.1 and values of size 1."""
    for optimizer in CASES:
        double, single = Bench(optimizer, LAYERS, 13), Bench(optimizer, LAYERS, 13, "float32", debug=False)
        parameters, gradients = random_problem(double, 20)
        for bench in (double, single):
            bench.set(parameters)
            for given in gradients:
                bench.update(given)
        for name, value in single.parameters.items():
            np.testing.assert_allclose(value, double.parameters[name], rtol=2e-5, atol=2e-5, err_msg=f"{optimizer!r} {name}")


def test_nadam_after_many_updates():
    """The product over all updates: summed up to update 899, a constant from there on."""
    for step in (1, 2, 10, 898, 899, 900, 901, 5000):
        p, m, v, g = np.array([1.0]), np.array([0.2]), np.array([0.3]), np.array([0.7])
        spec = Nadam(0.1, beta_1=0.999)
        counters = np.zeros(8, np.int64)
        counters[COUNTERS["step"]], counters[COUNTERS["table_size"]] = step - 1, 1
        state = {"m": m.copy(), "v": v.copy(), "product": np.prod([0.999 * (1 - 0.5 * 0.96**i) for i in range(1, step)])}
        expected = naive_optimizer.nadam(spec, 0.1, step, p, g, state)
        rules.nadam_update(0, 1, p, m, v, g, np.array([0.1]), counters, *spec.scalars(), 0.0, 1.0)
        np.testing.assert_allclose(p, expected, rtol=1e-11, err_msg=str(step))   # a product of 900 factors, each rounded


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [0, 1, WIDTH - 1, WIDTH + 1, PIECE, PIECE + 1, 3 * PIECE + 777])
def test_norms(size, dtype):
    g = np.random.default_rng(size).standard_normal(size).astype(dtype)
    pieces = -(-size // PIECE)
    found = []
    for tasks in (1, 2, 7):
        sums = np.full(pieces * WIDTH, np.nan)
        for task in range(tasks):
            rules.square_sums(task, tasks, sums, g)
        found.append(sums)
    assert_same_bits(found[0], found[1])
    assert_same_bits(found[0], found[2])
    squares = g.astype(np.float64) ** 2
    expected = [squares[start:start + PIECE].sum() for start in range(0, size, PIECE)]
    np.testing.assert_allclose(found[0][::WIDTH], expected, rtol=1e-13)          # sums of up to 16,384 positive terms in float64


@pytest.mark.parametrize("update", [rules.rmsprop_centered_update, rules.rmsprop_centered_momentum_update], ids=["plain", "momentum"])
def test_the_variance_of_a_constant_gradient(update):
    """v - a^2 is 0, and by rounding often less than -epsilon in float32, whose root would be NaN; an infinite or unknown gradient still shows."""
    g = np.geomspace(0.1, 1e4, 300, dtype=np.float32)
    states = 3 if update is rules.rmsprop_centered_momentum_update else 2
    p, *others = (np.zeros_like(g) for _ in range(1 + states))
    counters, rates = np.zeros(8, np.int64), np.array([1e-3])
    counters[COUNTERS["table_size"]] = 1
    for step in range(100):
        counters[COUNTERS["step"]] = step
        update(0, 1, p, *others, g, rates, counters, 0.5, 1e-7, 0.5, 0.0, 1.0)
    assert (others[0] - others[1] * others[1] < -1e-6).any()         # the case that is meant
    assert np.isfinite(p).all()
    g[0] = np.nan
    update(0, 1, p, *others, g, rates, counters, 0.5, 1e-7, 0.5, 0.0, 1.0)
    assert np.isnan(p[0])


def test_clipping_of_what_is_not_finite():
    """A NaN spreads over the array whose norm it spoils, as in Keras; clipvalue leaves it where it is and cuts infinities."""
    g = np.array([1.0, np.nan, -3.0])
    rules.clip_by_norm(0, 1, g, np.array([np.nan, *[0.0] * (WIDTH - 1)]), 1.0)
    assert np.isnan(g).all()
    g = np.array([1.0, np.nan, -np.inf, np.inf, 0.25, -0.25])
    rules.clip_by_value(0, 1, g, 0.5)
    np.testing.assert_array_equal(g, [0.5, np.nan, -0.5, 0.5, 0.25, -0.25])


def test_large_values_do_not_overflow_the_norm():
    """Squares are summed in float64: 1e30 in float32 has the square 1e60."""
    bench = Bench(SGD(1.0, global_clipnorm=1.0), [Dense(1, use_bias=False)], 2, dtype="float32", debug=False)
    bench.set({"dense/kernel": np.zeros((2, 1))})
    bench.update({"dense/kernel": np.array([[3e30], [-4e30]])})
    np.testing.assert_allclose(bench.parameters["dense/kernel"][:, 0], [-0.6, 0.8], rtol=1e-6)


def test_schedule_is_read_from_the_table():
    """The table of rates begins at update table_start; beyond its ends the nearest rate counts."""
    counters = np.zeros(8, np.int64)
    counters[COUNTERS["table_start"]], counters[COUNTERS["table_size"]] = 100, 3
    rates = np.array([1.0, 2.0, 4.0, 1000.0])
    for step, rate in ((0, 1.0), (100, 1.0), (101, 2.0), (102, 4.0), (103, 4.0)):
        counters[COUNTERS["step"]] = step
        p = np.zeros(1)
        rules.sgd_update(0, 1, p, np.ones(1), rates, counters, 0.0, 0.0, 0.0, 0.0, 1.0)
        assert p[0] == -rate


def test_no_trainable_parameter_no_step():
    graph = Sequential([Input((2,)), Dense(1, trainable=False)]).graph()
    layout = lay_out(graph, Adam(clipnorm=1.0), "float32")
    g = Builder(layout, 1, "train")
    Adam(clipnorm=1.0).lower(g, layout)
    assert g.steps == []


@every_case
def test_round_trips(optimizer):
    if isinstance(optimizer.learning_rate, CallableSchedule):
        with pytest.raises(ValueError, match="JSON cannot hold"):
            to_json(optimizer)
        return
    assert from_json(to_json(optimizer)) == optimizer
    assert eval(repr(optimizer), dict(CLASSES)) == optimizer
    assert hash(optimizer) == hash(attrs.evolve(optimizer))


def test_defaults_and_shorthands_are_those_of_keras():
    assert resolve("optimizer", "sgd") == SGD(learning_rate=0.01, momentum=0.0, nesterov=False, weight_decay=None, clipnorm=None)
    assert resolve("optimizer", "adagrad") == Adagrad(0.001, initial_accumulator_value=0.1, epsilon=1e-7)
    assert resolve("optimizer", "rmsprop") == RMSprop(0.001, rho=0.9, momentum=0.0, epsilon=1e-7, centered=False)
    assert resolve("optimizer", "adam") == Adam(0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7, amsgrad=False, weight_decay=None)
    assert resolve("optimizer", "adamw") == AdamW(0.001, 0.004, 0.9, 0.999, 1e-7, False)
    assert resolve("optimizer", "adadelta") == Adadelta(0.001, rho=0.95, epsilon=1e-7)
    assert resolve("optimizer", "nadam") == Nadam(0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: SGD(0.0), "SGD: learning_rate must be a finite number greater than 0, a schedule or a function of the step, received 0.0"),
    (lambda: SGD(momentum=1.5), "SGD: momentum must be a finite number at least 0 and at most 1, received 1.5"),
    (lambda: SGD(nesterov=1), "SGD: nesterov must be True or False, received 1"),
    (lambda: Adam(beta_1=1.0), "Adam: beta_1 must be a finite number at least 0 and less than 1, received 1.0"),
    (lambda: Adam(epsilon=0.0), "Adam: epsilon must be a finite number greater than 0, received 0.0"),
    (lambda: RMSprop(rho=-0.1), "RMSprop: rho must be a finite number at least 0 and less than 1, received -0.1"),
    (lambda: Adagrad(initial_accumulator_value=-1), "Adagrad: initial_accumulator_value must be a finite number at least 0, received -1.0"),
    (lambda: AdamW(weight_decay=-0.1), "AdamW: weight_decay must be a finite number at least 0 or None, received -0.1"),
    (lambda: Adam(clipvalue=0), "Adam: clipvalue must be a finite number greater than 0 or None, received 0.0"),
    (lambda: Adam(clipnorm=1, clipvalue=2),
     "Adam: at most one of clipnorm, clipvalue and global_clipnorm may be given, received ['clipnorm', 'clipvalue']"),
    (lambda: resolve("optimizer", "adamm"), "unknown optimizer 'adamm': did you mean 'adam'?"),
])
def test_refusals(make, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        make()


def test_every_public_optimizer_has_a_reference_and_a_case():
    public = {cls for name, cls in vars(nnkit).items() if CLASSES.get(name) is cls and issubclass(cls, Optimizer)}
    assert {SGD, Adam} <= public
    assert all(cls.__name__.lower() in vars(naive_optimizer) for cls in public)
    assert public == {type(optimizer) for optimizer in CASES} == {type(optimizer) for optimizer, _ in KERAS}


# Updates by gradients of one's own.

def tables(optimizer, seed=1):
    """A table that is updated row by row, dropout, a frozen layer and one with a rate of its own."""
    spec = Sequential([Input((3,)), nnkit.Embedding(5000, 4), nnkit.Flatten(), nnkit.Dropout(0.3), Dense(5, "tanh", trainable=False),
                       Dense(2, learning_rate_factor=0.5)])
    return nnkit.compile(spec, optimizer=optimizer, loss="mse", seed=seed)


@pytest.mark.parametrize("optimizer", [
    SGD(0.1), SGD(0.1, momentum=0.9, nesterov=True), nnkit.Adam(0.01, row_updates="replay"), nnkit.Nadam(0.01), nnkit.RMSprop(0.01, momentum=0.5),
    nnkit.Adagrad(0.1), nnkit.AdamW(lambda step: 0.01 / (step + 1)), SGD(0.5, global_clipnorm=0.05), nnkit.Adam(0.01, clipvalue=0.001)],
    ids=lambda optimizer: type(optimizer).__name__)
def test_the_models_own_gradients_make_the_update_of_a_batch(optimizer):
    rng = np.random.default_rng(2)
    one, other = tables(optimizer), tables(optimizer)
    for _ in range(5):                                   # other rows each time: those that are left out catch up later
        x, y = rng.integers(0, 5000, (8, 3)), rng.standard_normal((8, 2))
        one.train_on_batch(x, y)
        other.apply_gradients(other.gradients(x, y))
    exact = optimizer.row_updates == "replay" or not one.layout.history      # a closed form rounds otherwise than the rule that is repeated
    for name, values in one.parameters.items():
        np.testing.assert_allclose(other.parameters[name], values, rtol=0 if exact else 1e-5, atol=0 if exact else 1e-7, err_msg=name)
    assert other.learning_rate == one.learning_rate
    assert other.counters[COUNTERS["step"]] == 5


def test_sums_over_batches_are_the_update_of_a_large_one():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((24, 5)), rng.standard_normal((24, 1))
    spec = Sequential([Input((5,)), Dense(4, "tanh", kernel_regularizer="l2"), Dense(1)])
    whole, parts = (nnkit.compile(spec, optimizer=nnkit.Adam(0.1), loss="mse", dtype="float64", seed=1) for _ in range(2))
    for _ in range(3):
        whole.train_on_batch(x, y)
        gradients = [parts.gradients(x[rows:rows + 8], y[rows:rows + 8]) for rows in (0, 8, 16)]
        parts.apply_gradients({name: sum(found[name] for found in gradients) / 3 for name in gradients[0]})
    for name, values in whole.parameters.items():
        np.testing.assert_allclose(parts.parameters[name], values, rtol=1e-10, atol=1e-12, err_msg=name)     # the order of sums, three times


def test_gradients_that_are_none():
    model = tables("adam")
    x, y = np.zeros((4, 3), int), np.ones((4, 2))
    good = model.gradients(x, y)
    before = {name: values.copy() for name, values in model.parameters.items()}
    lead = "apply_gradients: gradients must"
    refused(f"{lead} have an array for each parameter that is trained, received none for 'dense_1/bias'", model.apply_gradients,
            {name: value for name, value in good.items() if name != "dense_1/bias"})
    refused(f"{lead} be of what is trained: 'dense/kernel' is frozen", model.apply_gradients, {**good, "dense/kernel": np.zeros((12, 5))})
    refused(f"{lead} be of what is trained: no parameter is named 'dense_1/bais', did you mean 'dense_1/bias'?", model.apply_gradients,
            {**good, "dense_1/bais": np.zeros(2)})
    refused("the gradient of 'dense_1/bias' must be numbers of shape (2,), received float64 of shape (3,)", model.apply_gradients,
            {**good, "dense_1/bias": np.zeros(3)})
    refused(f"{lead} be a dict of arrays by name, received a list", model.apply_gradients, [*good.values()], error=TypeError)
    refused("apply_gradients needs an optimizer: pass optimizer= to nnkit.compile", nnkit.compile(model.spec).apply_gradients, good,
            error=RuntimeError)
    for name, values in before.items():
        np.testing.assert_array_equal(model.parameters[name], values)
    assert model.counters[COUNTERS["step"]] == 0
