"""Learning-rate schedules: Keras' numbers, loops of plain Python, vectorisation, JSON, refusals."""

import math

import numpy as np
import pytest

import nnkit.optimizers.schedules as schedules
from nnkit.optimizers.schedules import (
    CallableSchedule,
    CosineDecay,
    ExponentialDecay,
    InverseTimeDecay,
    PiecewiseConstantDecay,
    PolynomialDecay,
    StepDecay,
    schedule_field,
)
from nnkit.spec import Spec, from_json, spec, to_json

STEPS = np.array([0, 1, 7, 10, 15, 20, 33])

# Measured with Keras 3.15 on TensorFlow at STEPS. It computes in float32, so 9 digits are printed and about 7 hold.
KERAS = [
    (ExponentialDecay(0.3, 10, 0.7), [0.300000012, 0.289488345, 0.233716771, 0.210000008, 0.175698608, 0.147, 0.0924580619]),
    (ExponentialDecay(0.3, 10, 0.7, staircase=True), [0.300000012, 0.300000012, 0.300000012, 0.210000008, 0.210000008, 0.147, 0.102900006]),
    (InverseTimeDecay(0.3, 10, 0.7), [0.300000012, 0.280373842, 0.201342285, 0.176470593, 0.146341473, 0.125, 0.0906344429]),
    (InverseTimeDecay(0.3, 10, 0.7, staircase=True), [0.300000012, 0.300000012, 0.300000012, 0.176470593, 0.176470593, 0.125, 0.0967741981]),
    (PolynomialDecay(0.3, 10, 0.02, 1.5), [0.300000012, 0.259068191, 0.0660086945, 0.0199999996, 0.0199999996, 0.0199999996, 0.0199999996]),
    (PolynomialDecay(0.3, 10, 0.02, 1.5, cycle=True),
     [0.300000012, 0.259068191, 0.0660086945, 0.0199999996, 0.0549999997, 0.0199999996, 0.0404981747]),
    (CosineDecay(0.3, 20, 0.1), [0.300000012, 0.298337936, 0.226288721, 0.164999992, 0.06954059, 0.0300000012, 0.0300000012]),
    (CosineDecay(0.03, 20, 0.1, 0.5, 8), [0.0299999993, 0.0887499973, 0.441249996, 0.488987714, 0.377147853, 0.205471128, 0.0500000007]),
    (PiecewiseConstantDecay([7, 15], [0.3, 0.2, 0.1]), [0.300000012, 0.300000012, 0.300000012, 0.200000003, 0.200000003, 0.100000001, 0.100000001]),
]
SPECS = [schedule for schedule, _ in KERAS] + [StepDecay(0.3, 7, 0.5), CosineDecay(0.0, 5, warmup_target=0.1), PolynomialDecay(0.3, 3)]


@spec()
class RateHolder(Spec):
    learning_rate: float | Spec = schedule_field()


@pytest.mark.parametrize(("schedule", "rates"), KERAS, ids=[repr(schedule) for schedule, _ in KERAS])
def test_keras_numbers(schedule, rates):
    np.testing.assert_allclose(schedule(STEPS), rates, rtol=1e-6)               # a few roundings of float32 (6e-8 each) on Keras' side


def test_step_decay():
    expected = [0.3 * 0.5 ** (t // 7) for t in range(30)]
    np.testing.assert_allclose(StepDecay(0.3, 7, 0.5)(np.arange(30)), expected, rtol=1e-15)
    assert StepDecay(1.0, 10)(20) == pytest.approx(0.01, rel=1e-14)


def test_cosine_meets_its_corners():
    warm = CosineDecay(0.001, 1000, 0.05, warmup_target=0.01, warmup_steps=100)
    assert [warm(0), warm(100)] == [0.001, 0.01]
    assert warm(50) == pytest.approx(0.0055, rel=1e-14)
    assert warm(600) == pytest.approx(0.01 * (0.95 / 2 + 0.05), rel=1e-14)
    assert warm(1100) == warm(10**9) == pytest.approx(0.0005, rel=1e-14)
    assert CosineDecay(0.3, 10, warmup_target=0.5)(0) == 0.5                     # no warm-up steps: starts at the top


def test_piecewise_keeps_the_rate_at_its_boundary():
    schedule = PiecewiseConstantDecay([100, 110.5], [1.0, 0.5, 0.1])
    assert [schedule(t) for t in (0, 100, 101, 110, 111)] == [1.0, 1.0, 0.5, 0.5, 0.1]


@pytest.mark.parametrize("schedule", SPECS, ids=repr)
def test_contract_repr_json_hash(schedule):
    one = schedule(5)
    assert type(one) is float
    many = schedule(np.arange(6).reshape(2, 3))
    assert many.dtype == np.float64
    assert many.shape == (2, 3)
    assert many[1, 2] == one
    assert type(schedule(np.int64(5))) is float
    assert schedule(np.zeros(0)).shape == (0,)
    assert eval(repr(schedule), vars(schedules)) == schedule
    assert from_json(to_json(schedule)) == schedule
    assert hash(from_json(to_json(schedule))) == hash(schedule)


def halved(t):
    return 0.1 / (1 + t)


class Unhashable:
    __hash__ = None

    def __call__(self, t):
        return 0.5


def test_callable_schedule():
    schedule = CallableSchedule(halved)
    assert schedule(4) == 0.1 / 5
    np.testing.assert_array_equal(schedule(np.arange(6).reshape(2, 3)), 0.1 / np.arange(1, 7).reshape(2, 3))
    seen = []
    CallableSchedule(lambda t: seen.append(t) or 0.1)(np.arange(3))
    assert seen == [0, 1, 2]
    assert all(type(t) is int for t in seen)
    assert schedule == CallableSchedule(halved)
    assert hash(schedule) == hash(CallableSchedule(halved))
    assert CallableSchedule(lambda t: 0.1) != CallableSchedule(lambda t: 0.1)
    odd = Unhashable()
    assert CallableSchedule(odd) == CallableSchedule(odd) != CallableSchedule(Unhashable())
    assert hash(CallableSchedule(odd)) == hash(CallableSchedule(odd))


def test_callable_schedule_is_refused_by_json():
    with pytest.raises(ValueError, match=r"^CallableSchedule: function is a Python function, which JSON cannot hold, received <function halved"):
        to_json(RateHolder(halved))


@pytest.mark.parametrize("returned", [-0.1, math.nan, math.inf, None, "a", [0.1, 0.2]])
def test_callable_schedule_must_return_a_rate(returned):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared below
        CallableSchedule(lambda t: returned)(3)
    assert str(error.value) == f"CallableSchedule: the function must return a finite rate of at least 0, received {returned!r} at step 3"


def test_field():
    assert RateHolder().learning_rate == 0.001
    assert repr(RateHolder(0.1)) == "RateHolder(learning_rate=0.1)"
    assert type(RateHolder(np.float32(1)).learning_rate) is float
    assert type(RateHolder(1).learning_rate) is float
    assert RateHolder(StepDecay(0.1, 5)).learning_rate == StepDecay(0.1, 5)
    assert RateHolder(halved).learning_rate == CallableSchedule(halved)
    assert from_json(to_json(RateHolder(StepDecay(0.1, 5)))) == RateHolder(StepDecay(0.1, 5))


RULE = "a finite number greater than 0, a schedule or a function of the step"


@pytest.mark.parametrize(("make", "message"), [
    (lambda: RateHolder(0), f"RateHolder: learning_rate must be {RULE}, received 0.0"),
    (lambda: RateHolder(math.inf), f"RateHolder: learning_rate must be {RULE}, received inf"),
    (lambda: RateHolder("fast"), f"RateHolder: learning_rate must be {RULE}, received 'fast'"),
    (lambda: RateHolder(True), f"RateHolder: learning_rate must be {RULE}, received True"),
    (lambda: RateHolder(None), f"RateHolder: learning_rate must be {RULE}, received None"),
    (lambda: RateHolder(RateHolder()), f"RateHolder: learning_rate must be {RULE}, received RateHolder()"),
    (lambda: RateHolder(StepDecay), f"RateHolder: learning_rate must be {RULE}, received {StepDecay!r}"),
    (lambda: CallableSchedule(3), "CallableSchedule: function must be a function of the step, received 3"),
    (lambda: ExponentialDecay(0.1, 0, 0.5), "ExponentialDecay: decay_steps must be a whole number at least 1, received 0"),
    (lambda: ExponentialDecay(0.1, 10, 0), "ExponentialDecay: decay_rate must be a finite number greater than 0, received 0.0"),
    (lambda: CosineDecay(0.1, 10, 1.5), "CosineDecay: alpha must be a finite number at least 0 and at most 1, received 1.5"),
    (lambda: CosineDecay(0.0, 10), "CosineDecay: initial_learning_rate must be greater than 0 without a warmup_target, received 0.0"),
    (lambda: CosineDecay(0.1, 10, warmup_steps=3), "CosineDecay: warmup_steps must be 0 without a warmup_target, received 3"),
    (lambda: PiecewiseConstantDecay([5, 5], [1, 2, 3]), "PiecewiseConstantDecay: boundaries must be a tuple of rising numbers, received (5.0, 5.0)"),
    (lambda: PiecewiseConstantDecay([], [1]), "PiecewiseConstantDecay: boundaries must be a tuple of rising numbers, received []"),
    (lambda: PiecewiseConstantDecay([5], [1, -1]), "PiecewiseConstantDecay: values must be a tuple of numbers greater than 0, received (1.0, -1.0)"),
    (lambda: PiecewiseConstantDecay([5], [1, "a"]), "PiecewiseConstantDecay: values must be a tuple of numbers greater than 0, received [1, 'a']"),
    (lambda: PiecewiseConstantDecay([5], [1]), "PiecewiseConstantDecay: values must be one more than the 1 boundaries, received 1 values"),
])
def test_refusals(make, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared below
        make()
    assert str(error.value) == message
