"""Initializers: formulas, fans, seeds, arrays as values, JSON, refusals."""

import math

import attrs
import numpy as np
import pytest

import nnkit.initializers as initializers
from nnkit.initializers import (
    Array,
    Constant,
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    Identity,
    LecunNormal,
    LecunUniform,
    Ones,
    Orthogonal,
    RandomNormal,
    RandomUniform,
    TruncatedNormal,
    VarianceScaling,
    Zeros,
    compute_fans,
    initializer_field,
    resolve_initializer,
)
from nnkit.spec import Spec, from_json, spec, to_json

RANDOM = [
    GlorotUniform(), GlorotNormal(), HeUniform(), HeNormal(), LecunUniform(), LecunNormal(), VarianceScaling(0.7, "fan_out", "untruncated_normal"),
    RandomUniform(-0.3, 0.1), RandomNormal(0.2, 0.4), TruncatedNormal(-0.2, 0.4), Orthogonal(1.5),
]
FIXED = [Constant(0.3), Zeros(), Ones(), Identity(2.0), Array(np.arange(12.0).reshape(3, 4))]


def rng(seed=0):
    return np.random.default_rng(seed)


@spec()
class WeightHolder(Spec):
    weight: Spec = initializer_field(default="glorot_uniform")


@pytest.mark.parametrize(("shape", "fans"), [
    ((), (1, 1)), ((7,), (7, 7)), ((5, 3), (5, 3)), ((3, 3, 16, 32), (144, 288)), ((2, 5, 7), (10, 14)), ((2, 3, 5, 7, 11), (210, 330)),
    ((0, 3), (0, 3)),
])
def test_fans(shape, fans):
    assert compute_fans(shape) == fans


@pytest.mark.parametrize(("initializer", "variance"), [
    (GlorotUniform(), 2 / (150 + 400)), (GlorotNormal(), 2 / (150 + 400)),
    (HeUniform(), 2 / 150), (HeNormal(), 2 / 150), (LecunUniform(), 1 / 150), (LecunNormal(), 1 / 150),
    (VarianceScaling(0.7, "fan_out", "untruncated_normal"), 0.7 / 400),
    (VarianceScaling(0.7, "fan_avg", "truncated_normal"), 0.7 / 275),
    (VarianceScaling(3.0, "fan_in", "uniform"), 3.0 / 150),
])
def test_variance_follows_the_fans(initializer, variance):
    values = initializer.values((150, 400), rng())
    # 60,000 draws: the sample's variance has a relative standard deviation below sqrt(2 / 60000) = 0.6 %; 3 % is 5 of them.
    assert values.var() == pytest.approx(variance, rel=0.03)
    assert abs(values.mean()) < 5 * math.sqrt(variance / values.size)


@pytest.mark.parametrize(("initializer", "limit"), [
    (GlorotUniform(), math.sqrt(6 / 25)), (HeUniform(), math.sqrt(6 / 10)), (LecunUniform(), math.sqrt(3 / 10)),
    (GlorotNormal(), 2 * math.sqrt(2 / 25) / 0.87962566103423978), (HeNormal(), 2 * math.sqrt(2 / 10) / 0.87962566103423978),
    (LecunNormal(), 2 * math.sqrt(1 / 10) / 0.87962566103423978),
])
def test_values_fill_their_interval_and_stay_inside(initializer, limit):
    values = initializer.values((1000, 10, 15), rng()) * math.sqrt(1000)        # a window of 1000 cells divides the variance by 1000
    assert np.abs(values).max() <= limit * (1 + 1e-12)
    assert np.abs(values).max() > 0.999 * limit


def test_plain_random_ones():
    uniform = RandomUniform(-0.3, 0.1).values((40000,), rng())
    assert -0.3 <= uniform.min() < -0.2999
    assert 0.0999 < uniform.max() < 0.1
    normal = RandomNormal(0.2, 0.4).values((40000,), rng())
    assert normal.mean() == pytest.approx(0.2, abs=5 * 0.4 / 200)               # 5 standard errors
    assert normal.std() == pytest.approx(0.4, rel=0.02)
    truncated = TruncatedNormal(0.2, 0.4).values((40000,), rng())
    assert np.abs(truncated - 0.2).max() <= 0.8 * (1 + 1e-12)
    assert truncated.std() == pytest.approx(0.4 * 0.87962566103423978, rel=0.02)


def test_truncated_normal_has_the_right_distribution():
    from scipy import stats
    z = TruncatedNormal(0.0, 1.0).values((20000,), rng(3))
    assert stats.kstest(z, stats.truncnorm(-2, 2).cdf).pvalue > 0.01            # the seed is fixed; a plain normal gives below 1e-8
    assert stats.kstest(rng(3).standard_normal(20000), stats.truncnorm(-2, 2).cdf).pvalue < 1e-8


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (5, 5), (1, 4), (3, 2, 5), (2, 3, 1)])
def test_orthogonal(shape):
    matrix = Orthogonal(1.5).values(shape, rng()).reshape(-1, shape[-1])
    gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(gram, 2.25 * np.eye(len(gram)), atol=1e-13)      # QR in float64 is orthogonal to a few eps


def test_orthogonal_is_uniform_over_signs():
    corners = [Orthogonal().values((2, 2), rng(seed))[0, 0] for seed in range(200)]
    assert 60 < sum(corner > 0 for corner in corners) < 140                     # without the signs of r all are of one sign


def test_fixed_ones():
    np.testing.assert_array_equal(Constant(0.3).values((2, 3), rng()), np.full((2, 3), 0.3))
    np.testing.assert_array_equal(Zeros().values((4,), rng()), [0, 0, 0, 0])
    np.testing.assert_array_equal(Ones().values((), rng()), 1.0)
    np.testing.assert_array_equal(Identity(2.0).values((2, 3), rng()), [[2, 0, 0], [0, 2, 0]])


@pytest.mark.parametrize("initializer", RANDOM, ids=repr)
def test_seed_makes_a_generator_of_its_own(initializer):
    shared = rng()
    first, second = initializer.values((3, 4), shared), initializer.values((3, 4), shared)
    assert (first != second).any()
    np.testing.assert_array_equal(initializer.values((3, 4), rng()), first)
    seeded = attrs.evolve(initializer, seed=5)
    untouched = rng()
    np.testing.assert_array_equal(seeded.values((3, 4), untouched), seeded.values((3, 4), rng(9)))
    assert untouched.random() == rng().random()
    assert (seeded.values((3, 4), rng()) != attrs.evolve(initializer, seed=6).values((3, 4), rng())).any()


@pytest.mark.parametrize("initializer", RANDOM + FIXED, ids=lambda i: type(i).__name__)
def test_contract_repr_json_hash(initializer):
    values = initializer.values((3, 4), rng())
    assert values.dtype == np.float64
    assert values.shape == (3, 4)
    assert values.flags.writeable
    assert eval(repr(initializer), vars(initializers)) == initializer
    assert from_json(to_json(initializer)) == initializer
    assert hash(from_json(to_json(initializer))) == hash(initializer)


@pytest.mark.parametrize("initializer", [i for i in RANDOM if not isinstance(i, Orthogonal)], ids=lambda i: type(i).__name__)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3), (2, 0, 3), (1, 1, 1)])
def test_odd_shapes(initializer, shape):
    values = np.asarray(initializer.values(shape, rng()))
    assert values.shape == shape
    assert np.isfinite(values).all()


@pytest.mark.parametrize("numbers", [
    np.float64(0.1), np.array(3), np.arange(5), np.array([[0.1, -2.5e300]]), np.zeros((0, 3)), np.zeros((3, 0, 2)), np.arange(256) / 7,
    np.arange(257) / 7, np.arange(300, dtype=np.float32).reshape(2, 50, 3) / np.float32(7), np.asfortranarray(np.arange(600.0).reshape(20, 30)),
    np.full((300,), 1e300), np.arange(300, dtype=">f8") / 3,
], ids=lambda a: f"{a.dtype.str}{a.shape}")
def test_array_keeps_every_bit(numbers):
    array = Array(numbers)
    np.testing.assert_array_equal(array.values(numbers.shape, rng()), numbers)
    assert array == Array(numbers.tolist() if numbers.size else numbers.copy())
    for again in (eval(repr(array), vars(initializers)), from_json(to_json(array))):
        assert again == array
        assert hash(again) == hash(array)
    if numbers.size > 256:
        changed = numbers.copy()
        changed.flat[-1] += 1 if changed.flat[-1] < 1e10 else 1e299
        assert Array(changed) != array


def test_array_is_a_copy():
    numbers = np.ones(3)
    array = Array(numbers)
    numbers[0] = 7
    array.values((3,), rng())[1] = 8
    np.testing.assert_array_equal(array.values((3,), rng()), [1, 1, 1])


@pytest.mark.parametrize(("value", "meant"), [
    ("he_normal", HeNormal()), ("zeros", Zeros()), ("uniform", RandomUniform()), ("orthogonal", Orthogonal()),
    (GlorotNormal(seed=1), GlorotNormal(seed=1)),
    (0.5, Constant(0.5)), (3, Constant(3.0)), (np.float32(0.5), Constant(0.5)), (np.eye(2), Array(np.eye(2))), ([1, 2], Array([1.0, 2.0])),
    (np.array(2.0), Constant(2.0)),
])
def test_what_stands_for_an_initializer(value, meant):
    assert resolve_initializer(value) == meant
    assert WeightHolder(value).weight == meant


def test_field_default_and_repr():
    assert WeightHolder().weight == GlorotUniform()
    assert repr(WeightHolder()) == "WeightHolder()"
    assert repr(WeightHolder("zeros")) == "WeightHolder(weight=Zeros())"
    assert from_json(to_json(WeightHolder([[1.0, 2.0]]))) == WeightHolder([[1.0, 2.0]])


RULE = "an initializer spec, its name, a finite number or an array of finite numbers"


@pytest.mark.parametrize(("make", "message"), [
    (lambda: WeightHolder("he_norml"), "unknown initializer 'he_norml': did you mean 'he_normal'?"),
    (lambda: resolve_initializer(None), f"an initializer must be {RULE}, received None"),
    (lambda: WeightHolder([1.0, np.nan]), f"WeightHolder: weight must be {RULE}, received [1.0, nan]"),
    (lambda: WeightHolder(True), f"WeightHolder: weight must be {RULE}, received True"),
    (lambda: WeightHolder(WeightHolder()), f"WeightHolder: weight must be {RULE}, received WeightHolder()"),
    (lambda: Array([[1.0], [2.0, 3.0]]), "Array: values must be an array of finite numbers, received [[1.0], [2.0, 3.0]]"),
    (lambda: Array(((1.0,), (2.0, 3.0))), "Array: values must be an array of finite numbers, received ((1.0,), (2.0, 3.0))"),
    (lambda: Array(np.array([1j])), "Array: values must be an array of finite numbers, received array([0.+1.j])"),
    (lambda: Array("float32 3 AAAA"), "Array: values must be an array of finite numbers, received 'float32 3 AAAA'"),
    (lambda: Array([1.0, 2.0]).values((2, 1), rng()), "Array: values must have the parameter's shape (2, 1), received shape (2,)"),
    (lambda: Orthogonal().values((4,), rng()), "Orthogonal: the parameter's shape must have at least two dimensions, received (4,)"),
    (lambda: Identity().values((2, 2, 2), rng()), "Identity: the parameter's shape must have two dimensions, received (2, 2, 2)"),
    (lambda: VarianceScaling(0.0), "VarianceScaling: scale must be a finite number greater than 0, received 0.0"),
    (lambda: VarianceScaling(mode="fan"), "VarianceScaling: mode must be one of 'fan_in', 'fan_out', 'fan_avg', received 'fan'"),
    (lambda: RandomUniform(0.1, -0.1), "RandomUniform: maxval must be at least minval 0.1, received -0.1"),
    (lambda: RandomNormal(stddev=-1), "RandomNormal: stddev must be a finite number at least 0, received -1.0"),
    (lambda: HeNormal(seed=1.5), "HeNormal: seed must be a whole number at least 0 or None, received 1.5"),
])
def test_refusals(make, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared below
        make()
    assert str(error.value) == message


def test_messages_stay_short():
    with pytest.raises(ValueError, match="received array") as error:
        resolve_initializer(np.full((500,), np.nan))
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)
