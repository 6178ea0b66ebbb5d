"""Scalar maths: error in ulp over samples of bit patterns, special values, vector code without float64."""

import functools
import math
import re
import secrets

import numpy as np
import pytest
from numba.core.errors import TypingError
from scipy import special

from nnkit import scalar
from nnkit.jit import cpu_features, routine

INF, NAN = math.inf, math.nan
# float64 needs references with more digits than its own; some platforms have none.
wide = pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long double is no wider than double here")


@functools.cache
def loop(name):
    """y[i] = f(x[i]) compiled as kernels are: the scalar functions must keep their meaning inside a caller that allows contraction."""
    f = getattr(scalar, name)

    def over(y, x):
        for i in range(x.size):
            y[i] = f(x[i])
    return routine(over)


def apply(name, x):
    y = np.full_like(x, 123)
    loop(name)(y, x)
    return y


def ulps(got, exact, normal=False):
    """Error of every finite result in units of the last place of the exact one; infinite where a finite result was due and none came.

    normal: a result below the least normal number may be anything from 0 to that number, which must not be passed.
    """
    T = got.dtype.type
    limits = np.finfo(T)
    with np.errstate(over="ignore"):
        nearest = exact.astype(T)
    due = np.isfinite(nearest)
    np.testing.assert_array_equal(got[~due], nearest[~due])
    if normal:
        small = np.abs(nearest) < limits.tiny
        assert ((got[small] >= 0) & (got[small] <= limits.tiny)).all()
        due &= ~small
    unit = np.spacing(np.maximum(np.abs(nearest[due]), limits.tiny)).astype(exact.dtype)
    error = np.abs(got[due].astype(exact.dtype) - exact[due]) / unit
    return np.where(np.isfinite(got[due]), error, np.inf)


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def sigmoid(x):
    return np.where(x < 0, np.exp(np.minimum(x, 0)), 1) / (1 + np.exp(-np.abs(x)))


# name: reference, smallest and largest argument in float32 and in float64, largest error in ulp that the docstring states
ERRORS = {
    "exp": (np.exp, -INF, INF, -INF, INF, 1),
    "exp_below": (np.exp, -INF, 88, -INF, 709, 1),
    "exp_normal": (np.exp, -87, 87, -708, 708, 1),
    "expm1": (np.expm1, -INF, INF, -INF, INF, 2),
    "expm1_below": (np.expm1, -INF, 87, -INF, 708, 2),
    "tanh": (np.tanh, -INF, INF, -INF, INF, 3),
    "sigmoid": (sigmoid, -INF, INF, -INF, INF, 3),
    "sigmoid_gate": (sigmoid, -87, INF, -708, INF, 3),
    "log": (np.log, 0, INF, 0, INF, 1),
    "log_normal": (np.log, 2.0**-126, 3.4e38, 2.0**-1022, 1.7e308, 1),
    "log1p": (np.log1p, -1, INF, -1, INF, 2),
    "softplus": (softplus, -INF, INF, -INF, INF, 2),
    "erf": (lambda x: special.erf(x.astype(np.float64)), -INF, INF, None, None, 1.1),
    "sqrt": (np.sqrt, 0, INF, 0, INF, 0.5001),
}
NORMAL = {"exp_below", "sigmoid", "softplus"}            # right down to the least normal number


def patterns(start, step):
    """Every step-th float32 by bit pattern, NaN left out."""
    x = np.arange(start, 2**32, step, dtype=np.uint32).view(np.float32)
    return x[~np.isnan(x)]


def worst_single(name, x):
    reference, low, high, *_ = ERRORS[name]
    worst = 0.0
    for part in np.array_split(x[(x >= low) & (x <= high)], 1 + (x.size >> 20)):
        with np.errstate(all="ignore"):
            exact = reference(part.astype(np.float64))
        worst = max(worst, ulps(apply(name, part), exact, name in NORMAL).max(initial=0))
    return worst


@pytest.mark.parametrize("name", ERRORS)
def test_float32_error(name):
    assert worst_single(name, patterns(0, 4099)) <= ERRORS[name][-1]


@pytest.mark.sweep
@pytest.mark.parametrize("name", ERRORS)
def test_float32_error_dense(name):
    offset = secrets.randbelow(97)
    print(f"offset {offset}")
    assert worst_single(name, patterns(offset, 97)) <= ERRORS[name][-1]


@wide
@pytest.mark.parametrize("name", [name for name in ERRORS if ERRORS[name][3] is not None])
def test_float64_error(name):
    reference, _, _, low, high, bound = ERRORS[name]
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.integers(0, 2**64, 200_000, dtype=np.uint64).view(np.float64), rng.uniform(-750, 750, 200_000),
                        rng.uniform(-2, 2, 200_000), rng.uniform(0.5, 2, 100_000), [-INF, INF]])
    x = x[(x >= low) & (x <= high)]
    with np.errstate(all="ignore"):
        exact = reference(x.astype(np.longdouble))
    assert ulps(apply(name, x), exact, name in NORMAL).max() <= bound


SPECIAL = {
    "exp": [(0, 1), (-0.0, 1), (INF, INF), (-INF, 0), (1e4, INF), (-1e4, 0)],
    "exp_below": [(0, 1), (-0.0, 1), (-INF, 0), (-1e4, 0)],
    "exp_normal": [(0, 1), (-0.0, 1)],
    "expm1": [(0, 0), (-0.0, -0.0), (INF, INF), (-INF, -1), (1e4, INF), (-1e4, -1)],
    "expm1_below": [(0, 0), (-0.0, 0), (-INF, -1), (-1e4, -1)],
    "tanh": [(0, 0), (-0.0, -0.0), (INF, 1), (-INF, -1), (1e4, 1), (-1e4, -1)],
    "sigmoid": [(0, 0.5), (-0.0, 0.5), (INF, 1), (-INF, 0), (1e4, 1), (-1e4, 0)],
    "sigmoid_gate": [(0, 0.5), (-0.0, 0.5), (INF, 1)],
    "log": [(1, 0), (0, -INF), (-0.0, -INF), (INF, INF), (-1, NAN), (-1e-40, NAN), (-INF, NAN)],
    "log_normal": [(1, 0)],
    "log1p": [(0, 0), (-0.0, -0.0), (-1, -INF), (-1.5, NAN), (-1e30, NAN), (-INF, NAN), (INF, INF)],
    "softplus": [(INF, INF), (-INF, 0), (1e4, 1e4), (-1e4, 0)],
    "erf": [(0, 0), (-0.0, -0.0), (INF, 1), (-INF, -1), (1e4, 1), (-1e4, -1)],
    "normal_cdf": [(0, 0.5), (-0.0, 0.5), (INF, 1), (-INF, 0), (1e4, 1), (-1e4, 0)],
    "normal_pdf": [(INF, 0), (-INF, 0), (1e4, 0), (-1e4, 0)],
    "gelu": [(0, 0), (-0.0, -0.0), (INF, INF), (-INF, -0.0), (1e4, 1e4), (-1e4, -0.0), (-1e30, -0.0)],
    "sqrt": [(0, 0), (-0.0, -0.0), (INF, INF), (-1, NAN), (-INF, NAN)],
    "fabs": [(0, 0), (-0.0, 0), (INF, INF), (-INF, INF), (-1.5, 1.5)],
}


@pytest.mark.parametrize("T", [np.float32, np.float64])
@pytest.mark.parametrize("name", [name for name in SPECIAL if name != "log_normal"])
def test_nan_stays_nan(name, T):
    assert np.isnan(apply(name, np.full(37, NAN, T))).all()


@pytest.mark.parametrize("T", [np.float32, np.float64])
@pytest.mark.parametrize("name", SPECIAL)
def test_special_values(name, T):
    # 40 copies, so that the vector loop meets them and not only its scalar remainder
    x, want = (np.repeat(np.array(column, T), 40) for column in zip(*SPECIAL[name], strict=True))
    got = apply(name, x)
    np.testing.assert_array_equal(got, want)
    numbers = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got[numbers]), np.signbit(want[numbers]))


@pytest.mark.parametrize("T", [np.float32, np.float64])
def test_one_call_on_plain_numbers(T):
    assert scalar.exp(T(1)) == pytest.approx(math.e, rel=1e-6)


@pytest.mark.parametrize("T", [np.float32, np.float64])
def test_normal_distribution_against_scipy(T):
    x = patterns(1, 9973).astype(T)
    x = x[np.isfinite(x)]
    wide_x = x.astype(np.float64)
    phi = special.ndtr(wide_x)
    got = apply("normal_cdf", x)
    error = np.abs(got - phi)
    assert error.max() <= 2.0**-23
    if T is np.float32:                                  # the relative error that the docstring states for the left tail
        for left, bound in ((-6, 5e-6), (-9, 4e-5)):
            tail = (x > left) & (x < 0)
            assert (error[tail] / phi[tail]).max() <= bound
    with np.errstate(over="ignore", under="ignore"):
        density = np.exp(-0.5 * wide_x * wide_x) / math.sqrt(2 * math.pi)
    # float64: the reference errs as much as we do
    assert np.abs(apply("normal_pdf", x) - density).max() <= (5e-8 if T is np.float32 else 2e-16)
    unit = np.spacing(np.maximum(np.maximum(np.abs(x) * T(0.5), np.abs(wide_x * phi).astype(T)), np.finfo(T).tiny)).astype(np.float64)
    # float64: SciPy and libm each err by an ulp or so, and x sqrt(1/2) is rounded
    error = np.abs(apply("gelu", x) - wide_x * phi)
    assert (error / unit).max() <= (3 if T is np.float32 else 6)
    tail = (x > -4) & (x < -1e-30)                      # beyond, denormal numbers have fewer bits
    assert (error[tail] / np.abs(wide_x * phi)[tail]).max() <= (1e-5 if T is np.float32 else 1e-14)


@pytest.mark.parametrize("T", [np.float32, np.float64])
def test_minimum_and_maximum_keep_nan(T):
    pairs = np.array([(1, 2), (2, 1), (-INF, INF), (NAN, 1), (1, NAN), (NAN, NAN), (NAN, -INF), (INF, NAN)], T)

    @routine
    def both(low, high, a, b):
        for i in range(a.size):
            low[i] = scalar.minimum(a[i], b[i])
            high[i] = scalar.maximum(a[i], b[i])
    a, b = np.repeat(pairs, 40, axis=0).T.copy()
    low, high = np.empty_like(a), np.empty_like(a)
    both(low, high, a, b)
    np.testing.assert_array_equal(low, np.minimum(a, b))
    np.testing.assert_array_equal(high, np.maximum(a, b))


@pytest.mark.parametrize("T", [np.float32, np.float64])
def test_fma_rounds_once_and_copysign_takes_the_sign_of_zero(T):
    @routine
    def both(a, b, c):
        return scalar.fma(a, b, c), scalar.copysign(a, b)
    h = T(2.0) ** (-12 if T is np.float32 else -27)      # (1 + h)^2 = 1 + 2 h + h^2, whose last term a rounded product loses
    assert both(1 + h, 1 + h, -(1 + 2 * h))[0] == h * h
    assert both(T(3), T(-0.0), T(0))[1] == -3
    assert both(T(-3), T(0.0), T(0))[1] == 3


def test_mixed_types_are_refused():
    @routine
    def mixed(a, b):
        return scalar.fma(a, b, a)
    with pytest.raises(TypingError):
        mixed(np.float32(1), np.float64(1))
    with pytest.raises(TypingError):
        scalar.exp(1)


ALL_LOOPS = [name for name in SPECIAL if name != "fabs"]


@pytest.mark.parametrize("name", ALL_LOOPS)
def test_float32_loops_hold_no_float64(name):
    apply(name, np.ones(8, np.float32))
    code = next(iter(loop(name).inspect_llvm().values()))
    assert "float" in code
    assert "double" not in code


@pytest.mark.skipif(not {"fma", "neon"} & cpu_features(), reason="without fma in hardware LLVM may choose scalar code")
@pytest.mark.parametrize(("name", "T"), [(name, T) for name in ALL_LOOPS for T in (np.float32, np.float64)
                                         if T is np.float32 or name not in ("erf", "normal_cdf", "gelu")])
def test_loops_are_vector_code(name, T):
    apply(name, np.ones(8, T))
    code = next(code for signature, code in loop(name).inspect_llvm().items() if np.dtype(T).name in str(signature))
    operation = "sqrt" if name == "sqrt" else "fma"
    assert re.search(rf"@llvm\.{operation}\.v\d+f{np.dtype(T).itemsize * 8}\(", code)


# Sine and cosine.

@routine
def turns(sine, cosine, u):
    for i in range(u.size):
        sine[i], cosine[i] = scalar.sin_cos_turn(u[i])


@pytest.mark.parametrize("T", [np.float32, np.float64])
def test_sin_cos_turn_error(T):
    u = np.concatenate([np.arange(0, 2**24, 37) * 2.0**-24, np.arange(9) / 8, [2.0**-24, 1 - 2.0**-24]]).astype(T)
    sine, cosine = np.empty_like(u), np.empty_like(u)
    turns(sine, cosine, u)
    L = np.float64 if T is np.float32 else np.longdouble
    # Reduced to an eighth of a turn exactly, so that the reference keeps its digits near its zeros.
    n = np.rint(4 * u.astype(L))
    angle = (4 * u.astype(L) - n) * (2 * np.arctan(L(1)))
    s, c = np.sin(angle), np.cos(angle)
    # float64 against a long double that is no wider: one more ulp for the reference
    bound = 2 if np.finfo(L).nmant > np.finfo(T).nmant else 3
    assert ulps(sine, np.choose(n.astype(int) % 4, [s, c, -s, -c])).max() <= bound
    assert ulps(cosine, np.choose(n.astype(int) % 4, [c, -s, -c, s])).max() <= bound
