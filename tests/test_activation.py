"""Activations beyond the case table: the whole range of float32, special values, shorthands, a user's own."""

import math
import re

import numpy as np
import pytest

import naive
import nnkit.layers.activation as act
from cases_activation import ELEMENTWISE
from helpers import Rig, assert_close
from nnkit.layers.activation_cpu import sigmoid_forward, silu_backward
from nnkit.layers.dense import Dense
from nnkit.layers.softmax import LogSoftmax, Softmax
from nnkit.network import Sequential
from nnkit.prims.simd_cpu import STREAMED
from nnkit.runtime import store
from nnkit.spec import from_json, resolve, to_json
from nnkit.tensors import Input

INF, NAN = math.inf, math.nan
BUILT_IN = [spec for spec in ELEMENTWISE if not isinstance(spec, act.UserActivation)]
SELU_SCALE = 1.0507009873554805

every_activation = pytest.mark.parametrize("spec", BUILT_IN, ids=repr)

# spec: f(-inf), f(inf), f'(-inf), f'(inf)
LIMITS = {
    act.Linear(): (-INF, INF, 1, 1), act.ReLU(): (0, INF, 0, 1), act.ReLU(1.5): (0, 1.5, 0, 0), act.ReLU(negative_slope=0.2): (-INF, INF, 0.2, 1),
    act.ReLU(threshold=0.3): (0, INF, 0, 1), act.ReLU(2.0, 0.1, 0.7): (-INF, 2, 0.1, 0), act.LeakyReLU(): (-INF, INF, 0.3, 1),
    act.LeakyReLU(0.07): (-INF, INF, 0.07, 1), act.LeakyReLU(0.0): (0, INF, 0, 1), act.HardSigmoid(): (0, 1, 0, 0), act.HardSiLU(): (0, INF, 0, 1),
    act.Sigmoid(): (0, 1, 0, 0), act.Tanh(): (-1, 1, 0, 0), act.Exponential(): (0, INF, 0, INF), act.ELU(): (-1, INF, 0, 1),
    act.ELU(0.4): (-0.4, INF, 0, 1), act.SELU(): (-SELU_SCALE * 1.6732632423543772, INF, 0, SELU_SCALE), act.CELU(): (-1, INF, 0, 1),
    act.CELU(2.3): (-2.3, INF, 0, 1), act.GELU(): (0, INF, 0, 1), act.GELU(True): (0, INF, 0, 1), act.SiLU(): (0, INF, 0, 1),
    act.Mish(): (0, INF, 0, 1), act.Softplus(): (0, INF, 0, 1), act.Softsign(): (-1, 1, 0, 0),
}


def run(spec, x, dtype="float32", dy=None):
    """y and dx of one activation over a vector, as users get them (no debug checks: values here are not finite on purpose)."""
    x = np.asarray(x, dtype)
    rig = Rig(Sequential((Input(()), spec)), {}, x.size, dtype=dtype, debug=False)
    with np.errstate(all="ignore"):
        results = rig.run(x, np.ones_like(x) if dy is None else dy)
    return results.y, results.dx


@every_activation
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_special_values(spec, dtype):
    y, dx = run(spec, [-INF, INF, NAN, 0.0, -0.0], dtype)
    # a few roundings of the limits, which are of size 1; float64 erfc and others are as exact
    assert_close(np.array([*y[:2], *dx[:2]]), np.array(LIMITS[spec], dtype), 1e-6 if dtype == "float32" else 1e-14)
    assert np.isnan(y[2])
    assert_close(y[3:], naive.forward(spec, {}, np.zeros(2)), 1e-6 if dtype == "float32" else 1e-14)
    assert np.isfinite(dx[3:]).all()


@every_activation
def test_forward_over_the_whole_range(spec):
    """float32 against the formula in float64, from the smallest denormal number to the largest on both sides."""
    sizes = np.concatenate([np.geomspace(1e-45, 3e38, 500), np.linspace(0.01, 130, 3001)]).astype(np.float32)
    x = np.concatenate([-sizes, sizes])
    with np.errstate(all="ignore"):
        expected = naive.forward(spec, {}, x.astype(np.float64)).astype(np.float32)
    y, _ = run(spec, x)
    # GELU is 0 from -6 on, where it is -6e-9; its tanh form from -9 on, where it is 1e-18, and there the rounding of an exponent of size 40 to 100
    # is multiplied by it: 3e-5. Others stay within 1e-6. A threshold is rounded to float32, which counts as 1e-7 of 1. What is below the least normal
    # number counts as 0 on a tape, which a factor of up to 2.3 may follow; SiLU and Mish multiply it by x, of at most 104 where it is not 0 anyway.
    least = 2.3 * np.finfo(np.float32).tiny
    absolute = {act.GELU(): 7e-9, act.GELU(True): 2e-18, act.SiLU(): 46 * least, act.Mish(): 46 * least}.get(
        spec, 1e-7 if isinstance(spec, act.ReLU) and spec.threshold else least)
    np.testing.assert_allclose(y, expected, rtol=3e-5 if isinstance(spec, act.GELU) else 1e-6, atol=absolute)


@every_activation
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_derivative_over_a_wide_range(spec, dtype):
    """The kernels' derivative against central differences of the reference in float64, h = 1e-5: error 1e-10 at most.

    From y or from x, a derivative of size 1 may be off by a few roundings, 1e-16 or 6e-8 each; 2e-6 leaves room for the exponential's slope.
    """
    # no point within h of a kink: at 0, 0.3, 0.7, 1.5, 2, 3 and -3
    x = np.linspace(-40, 40, 2003).astype(np.float32).astype(np.float64) + 0.00123
    x = x[x < 20] if isinstance(spec, act.Exponential) else x
    x = x.astype(dtype).astype(np.float64)
    h = 1e-5
    slope = (naive.forward(spec, {}, x + h) - naive.forward(spec, {}, x - h)) / (2 * h)
    _, dx = run(spec, x, dtype)
    np.testing.assert_allclose(dx, slope, rtol=2e-6 if dtype == "float32" else 1e-8, atol=1e-6 if dtype == "float32" else 1e-9)


@pytest.mark.parametrize(("spec", "x", "slope"), [
    (act.ReLU(), 0.0, 0.0), (act.ReLU(6.0, 0.25), 0.0, 0.25), (act.ReLU(6.0, 0.25), 6.0, 0.0), (act.LeakyReLU(), 0.0, 0.3),
    (act.HardSigmoid(), -3.0, 0.0), (act.HardSigmoid(), 3.0, 0.0), (act.HardSiLU(), -3.0, 0.0), (act.HardSiLU(), 3.0, 1.0), (act.ELU(0.5), 0.0, 0.5),
])
def test_derivative_at_a_bend_is_that_of_the_outer_piece(spec, x, slope):
    assert run(spec, [x], "float64")[1] == slope


def test_every_built_in_is_tested():
    elementwise = {cls for name in act.__all__ if isinstance(cls := getattr(act, name), type)}
    others = {act.ActivationFunction, act.Activation, act.UserActivation}
    assert elementwise - others == {type(spec) for spec in BUILT_IN} == {type(spec) for spec in LIMITS}


@pytest.mark.parametrize(("name", "spec"), [
    ("linear", act.Linear()), ("relu", act.ReLU()), ("relu6", act.ReLU(max_value=6)), ("leaky_relu", act.LeakyReLU(0.2)),
    (None, act.Linear()), ("elu", act.ELU(1.0)),
    ("selu", act.SELU()), ("celu", act.CELU(1.0)), ("gelu", act.GELU(approximate=False)), ("silu", act.SiLU()), ("swish", act.SiLU()),
    ("mish", act.Mish()), ("sigmoid", act.Sigmoid()), ("hard_sigmoid", act.HardSigmoid()), ("hard_silu", act.HardSiLU()),
    ("hard_swish", act.HardSiLU()), ("tanh", act.Tanh()), ("softplus", act.Softplus()), ("softsign", act.Softsign()),
    ("exponential", act.Exponential()), ("softmax", Softmax(axis=-1)), ("log_softmax", LogSoftmax(axis=-1)),
])
def test_names_stand_for_what_keras_means_by_them(name, spec):
    assert resolve("activation", name) == spec
    assert Dense(2, name).activation == spec


@pytest.mark.parametrize(("make", "message"), [
    (lambda: act.ReLU(max_value=-1), "ReLU: max_value must be a finite number at least 0 or None, received -1.0"),
    (lambda: act.ELU(alpha=-0.5), "ELU: alpha must be a finite number at least 0, received -0.5"),
    (lambda: act.CELU(alpha=0), "CELU: alpha must be a finite number greater than 0, received 0.0"),
    (lambda: act.GELU(approximate="tanh"), "GELU: approximate must be True or False, received 'tanh'"),
])
def test_refusals(make, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        make()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_results_written_past_the_caches(dtype):
    """The bits of small arrays, nothing beside them, from any address on, for any number of tasks."""
    R, C = 1021, STREAMED // np.dtype(dtype).itemsize // 1021 + 1
    rng = np.random.default_rng(7)
    x, dy = (rng.standard_normal((R, C)).astype(dtype) for _ in range(2))

    def over(kernel, shift, tasks, step, *reads):
        memory = np.full(R * C + 64, 7, dtype)
        y = memory[shift:shift + R * C].reshape(R, C)
        for first in range(0, R, step):
            for task in range(tasks):
                kernel(task, tasks, y[first:first + step], *(a[first:first + step] for a in reads), 0.0, 0.0, 0.0)
        assert (memory[:shift] == 7).all()
        assert (memory[shift + R * C:] == 7).all()
        return y
    for kernel, reads in ((sigmoid_forward, [x]), (silu_backward, [dy, x])):
        expected = over(kernel, 0, 1, 100, *reads)
        for shift, tasks in ((0, 1), (3, 2), (16, 7), (29, 32)):
            np.testing.assert_array_equal(over(kernel, shift, tasks, R, *reads), expected, strict=True)


# A user's own.

@pytest.fixture
def fresh():
    """Nothing that the test registers stays."""
    before = dict(act.REGISTERED), dict(act.SHORTHANDS), dict(store.USER_KERNELS)
    yield
    for registry, kept in zip((act.REGISTERED, act.SHORTHANDS, store.USER_KERNELS), before, strict=True):
        registry.clear()
        registry.update(kept)


@pytest.mark.usefixtures("fresh")
def test_user_activation_by_name_and_json():
    spec = act.register_activation("squared_relu", lambda x: x * x if x > 0 else 0 * x, lambda x: 2 * x if x > 0 else 0 * x)
    assert spec == act.UserActivation("squared_relu") == Dense(3, "squared_relu").activation
    assert from_json(to_json(Dense(3, spec))) == Dense(3, "squared_relu")
    y, dx = run(spec, [-1.0, 2.0, NAN])
    np.testing.assert_array_equal(y, np.array([0, 4, NAN], np.float32))
    np.testing.assert_array_equal(dx[:2], [0, 4])


@pytest.mark.usefixtures("fresh")
def test_user_activation_registered_anew():
    first = act.register_activation("mine", lambda x: 2 * x, lambda x: 2.0)
    assert run(first, [3.0])[0] == 6
    second = act.register_activation("mine", lambda x: 5 * x, lambda y: 5.0, keeps="y")
    assert run(second, [3.0])[0] == 15
    assert run(second, [3.0])[1] == 5


@pytest.mark.usefixtures("fresh")
def test_user_activation_is_not_kept_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("NNKIT_CACHE_DIR", str(tmp_path))
    run(act.register_activation("passing", lambda x: 3 * x, lambda x: 3.0), [1.0])
    assert not [path for path in tmp_path.rglob("*") if "passing" in path.name]


def unknown(x):
    return undefined_name(x)                             # noqa: F821


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(("arguments", "kind", "message"), [
    (("relu", lambda x: x, lambda x: 1.0), ValueError, "register_activation: name must be new, received 'relu', which is nnkit's own"),
    (("my relu", lambda x: x, lambda x: 1.0), ValueError, "register_activation: name must be made of letters, digits and '_', received 'my relu'"),
    (("new", lambda x: x, lambda x: 1.0, "z"), ValueError, "register_activation: keeps must be 'x' or 'y', received 'z'"),
    (("new", 3.0, lambda x: 1.0), TypeError, "register_activation: f must be a plain Python function of one number, received 3.0"),
    (("new", np.tanh, lambda x: 1.0), TypeError, "register_activation: f must be a plain Python function of one number, received <ufunc 'tanh'>"),
    (("new", lambda x: x, lambda x, y: 1.0), TypeError, "register_activation: df must take exactly one number, received <lambda>(x, y)"),
    (("new", lambda *x: x[0], lambda x: 1.0), TypeError, "register_activation: f must take exactly one number, received <lambda>(*x)"),
    (("new", unknown, lambda x: 1.0), ValueError,
     "register_activation: f cannot be compiled by Numba: NameError: name 'undefined_name' is not defined"),
    (("new", lambda x: (x, x), lambda x: 1.0), ValueError, "register_activation: f must return a number, returns UniTuple(float32 x 2)"),
    (("new", lambda x: x * x, lambda x: x), ValueError,
     "df must be the derivative of f (keeps='x'), received df(-3.3) = -3.3 where the central difference of f is -6.6"),
    (("new", lambda x: math.tanh(x), lambda y: 1 - y, "y"), ValueError,
     "df must be the derivative of f (keeps='y'), received df(f(-3.3)) = 1.99728 where the central difference of f is 0.00542"),
])
def test_registration_refusals(arguments, kind, message):
    with pytest.raises(kind) as error:
        act.register_activation(*arguments)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert ("activation", "new") not in act.SHORTHANDS


def test_unregistered_name():
    with pytest.raises(ValueError, match=r"^UserActivation: no activation 'cases_sin' is registered in this process \(did you mean 'cases_sine'\?\); "
                                         r"call register_activation first$"):
        act.UserActivation("cases_sin")
