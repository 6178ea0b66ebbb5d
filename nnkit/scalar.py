"""Scalar maths for kernels, written so that LLVM turns a loop over it into a vector loop.

Every function takes float32 or float64 and returns the type it was given; which one is settled when the caller is compiled. All arguments of
one call have one type: a float64 literal among float32 values is a compile error, not a silent promotion.

How they stay vectors: no branches (selects only), no tables, no libm, no conversion from float to integer, fma asked for by name, and no fastmath,
which would delete NaN and undo the rounding trick below. Two ideas carry the file:

- Adding ROUND = 1.5 * 2^23 (float64: 2^52) to a float rounds it to a whole number n, and the low bits of the sum are n as an integer. So
  t = x + ROUND serves as float (n = t - ROUND) and as integer (`power_of_two(t)` = 2^n), and NaN passes through.
- x = n log 2 + r for the exponential family; y = 2^k m, m near 1, for the logarithms; a polynomial does the rest.

"ulp" counts units in the last place of the exact result; for denormal results, of the smallest denormal. Errors stated are upper bounds that
the tests confirm: float32 over a sample of all bit patterns, float64 against long double. Special values follow IEEE 754 and C: NaN gives NaN,
the sign of zero is kept where the function is odd. "Down to the least normal number" (1.2e-38, float64: 2.2e-308): below it a result lies between 0
and that number, as all numbers do while a tape runs.

Coefficients: float32 minimax by Lawson's reweighted least squares; float64 Taylor, where the reduced argument is small enough.
Argument reductions follow Muller et al., Handbook of Floating-Point Arithmetic (2nd ed. 2018), chapter 10.
"""

from __future__ import annotations

import math

from nnkit.floats import by_type, constant, copysign, fabs, fma, maximum, minimum, polynomial, power_of_two, split, sqrt, whole_power
from nnkit.jit import scalar

__all__ = [
    "copysign", "erf", "exp", "exp_below", "exp_normal", "expm1", "expm1_below", "fabs", "fma", "gelu", "log", "log1p", "log_normal",
    "maximum", "minimum", "normal_cdf", "normal_pdf", "sigmoid", "sigmoid_gate", "sin_cos_turn", "softplus", "sqrt", "tanh", "whole_power",
]


# Constants whose value depends on the type.

ROUND = constant(1.5 * 2.0**23, 1.5 * 2.0**52)
LOG2E = constant(1 / math.log(2))
LOG_2 = constant(math.log(2))                                                           # math.log in a function would be computed on a GPU
LOG2_HIGH = constant(0.693359375, float.fromhex("0x1.62e42feep-1"))                     # few bits, so that k * LOG2_HIGH is exact
LOG2_LOW = constant(-2.12194440e-4, float.fromhex("0x1.a39ef35793c76p-33"))             # log 2 - LOG2_HIGH
EXP_TOP, EXP_BOTTOM = constant(89.5, 710.5), constant(-104.5, -746.0)                   # beyond: infinity, zero
BELOW_BOTTOM = constant(-88.0, -709.0)                                                  # here n is -127 (-1023), whose 2^n `power_of_two` makes 0
EXPM1_TOP, EXPM1_BOTTOM = constant(88.8, 709.8), constant(-17.5, -38.0)                 # beyond: infinity, -1
TANH_TOP = constant(9.1, 19.1)                                                          # tanh is 1 from here on
GATE_TOP = constant(87.0, 708.0)                                                        # e^-x is normal up to here
TINY = constant(2.0**-126, 2.0**-1022)                                                  # the smallest normal number
LIFT, LIFTED = constant(2.0**25, 2.0**54), constant(25.0, 54.0)                         # makes denormals normal
NEGLIGIBLE = constant(2.0**-25, 2.0**-54)                                               # 1 + x == 1 below
NORMAL_TOP = constant(9.0, 40.0)                                                        # Phi(-x) counts as 0 from here on
GELU_TOP = constant(6.0)                                                                # |x| Phi(-|x|) counts as 0 from here on
ERF_TOP = constant(3.95)                                                                # erf is 1 from here on

# (e^r - 1 - r) / r^2 in r, |r| <= 0.35
EXP = polynomial((.4999999403953552, .16666515171527863, .04166845604777336, .008369418792426586, .0013813144760206342),
                 [1 / math.factorial(k) for k in range(2, 14)])
# (2^r - 1) / r in r, |r| <= 1/2
EXP_2 = polynomial((.6931471824645996, .24022647738456726, .055503323674201965, .00961843691766262, .0013398873852565885, .00015353361959569156))
# (log(1 + f) - f + f^2/2) / f^3 in f, sqrt(1/2) <= 1 + f <= sqrt(2)
LOG = polynomial((.3333331346511841, -.25000008940696716, .2000211924314499, -.1666799634695053, .14219552278518677, -.1240558847784996,
                  .11888165026903152, -.11675657331943512, .06746641546487808))
# (log(1 + f) - 2 w) / w^3 in w^2, w = f / (2 + f): 2 atanh(w) = 2 w + 2 w^3 / 3 + 2 w^5 / 5 + ...
ATANH = polynomial([2 / (2 * k + 1) for k in range(1, 13)])
# (2 atanh(w) - 2 w) / w^3 in w^2, 0 <= w <= 1/3
ATANH_UNIT = polynomial((.666664183139801, .4002152681350708, .28001806139945984, .2801198661327362))
# erf(x) / x - 1 in x^2, |x| <= 1; -log(erfc(t)) / t - 1 in t, 1 <= t <= 3.95
ERF_SMALL = polynomial((.12837916612625122, -.3761262595653534, .1128358542919159, -.026853812858462334, .005188327748328447,
                        -.0008010193705558777, 7.853861461626366e-05))
ERF_LARGE = polynomial((.1286943405866623, .6349695324897766, .10653084516525269, -.024010052904486656, .0037574691232293844,
                        -.00035059009678661823, 1.3962249795440584e-05))
# -log(2 Phi(-t)) / t in t, 0 <= t <= 9
NORMAL = polynomial((.7978852391242981, .3183022141456604, .036363959312438965, -.004829149227589369, 4.468151928449515e-07,
                     .00020243195467628539, -5.9786936617456377e-05, 1.0116985322383698e-05, -1.108412902794953e-06, 7.750674058115692e-08,
                     -3.148480365311457e-09, 5.654684706590807e-11))
# The same for 0 <= t <= 6, least where t Phi(-t), which gelu needs, is large; in powers of 2: over log 2
GELU_TAIL = polynomial([c / math.log(2) for c in (
    .7978865504264832, .31828704476356506, .036422524601221085, -.004938672296702862, .00011517289385665208, .0001303511526202783,
    -3.183776789228432e-05, 3.428278660067008e-06, -1.4813774384947465e-07)], halves=True)
# sin(pi f / 2) / f and (cos(pi f / 2) - 1) / f^2 in f^2, |f| <= 1/2
SIN = polynomial((1.5707963705062866, -.6459634304046631, .07968002557754517, -.0046016257256269455),
                 [(-1) ** k * (math.pi / 2) ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(9)])
COS = polynomial((-1.2337005138397217, .25366923213005066, -.02086028642952442, .0009040156146511436),
                 [(-1) ** k * (math.pi / 2) ** (2 * k) / math.factorial(2 * k) for k in range(1, 10)])


# The exponential family.

@scalar
def exp_parts(x):
    """x = n log 2 + r, |r| <= log(2) / 2: (n + ROUND, e^r - 1)."""
    t = fma(x, LOG2E(x), ROUND(x))
    n = t - ROUND(x)
    r = fma(n, -LOG2_LOW(x), fma(n, -LOG2_HIGH(x), x))
    return t, fma(r * r, EXP(r), r)


@scalar
def exp(x):
    """e^x within 1 ulp, denormal results included; inf above log(max), 0 below."""
    T = type(x)
    x = EXP_TOP(x) if x > EXP_TOP(x) else x             # in this order NaN passes
    x = EXP_BOTTOM(x) if x < EXP_BOTTOM(x) else x
    t, p = exp_parts(x)
    n = t - ROUND(x)
    half = fma(n, T(0.5), ROUND(x))                     # 2^n in two factors: neither overflows, and a denormal result is rounded once
    rest = n - (half - ROUND(x)) + ROUND(x)
    return (T(1) + p) * power_of_two(half) * power_of_two(rest)


@scalar
def exp_normal(x):
    """e^x within 1 ulp where e^x is a normal number, |x| <= 87 (float64: 708); meaningless beyond. NaN gives NaN."""
    t, p = exp_parts(x)
    s = power_of_two(t)
    return fma(s, p, s)


@scalar
def exp_below(x):
    """e^x within 1 ulp for x up to 88 (float64: 709), down to the least normal number; meaningless above. NaN gives NaN."""
    return exp_normal(BELOW_BOTTOM(x) if x < BELOW_BOTTOM(x) else x)


@scalar
def expm1(x):
    """e^x - 1 within 2 ulp, also where x is small; inf above log(max)."""
    T = type(x)
    y = EXPM1_TOP(x) if x > EXPM1_TOP(x) else x
    y = EXPM1_BOTTOM(x) if y < EXPM1_BOTTOM(x) else y
    t, p = exp_parts(y)
    s = power_of_two(t - T(1))                          # half of 2^n, which itself may overflow
    e = fma(s, p, s - T(0.5)) * T(2)
    return x if fabs(x) < NEGLIGIBLE(x) else e          # keeps -0 and the last bit of denormals


@scalar
def expm1_below(x):
    """e^x - 1 within 2 ulp for x up to 87 (float64: 708), 0 at both zeros; meaningless above. NaN gives NaN."""
    t, p = exp_parts(EXPM1_BOTTOM(x) if x < EXPM1_BOTTOM(x) else x)
    s = power_of_two(t)
    return fma(s, p, s - type(x)(1))


@scalar
def tanh(x):
    """tanh x = e / (e + 2) with e = e^2|x| - 1, within 3 ulp."""
    T = type(x)
    y = fabs(x)
    t, p = exp_parts(T(2) * (TANH_TOP(x) if y > TANH_TOP(x) else y))
    s = power_of_two(t)
    e = fma(s, p, s - T(1))
    return copysign(e / (e + T(2)), x)


@scalar
def sigmoid(x):
    """1 / (1 + e^-x) within 3 ulp, down to the least normal number."""
    T = type(x)
    e = exp_below(-fabs(x))
    return (e if x < T(0) else T(1)) / (T(1) + e)


@scalar
def sigmoid_gate(x):
    """1 / (1 + e^-x) within 3 ulp for x >= -87 (float64: -708), constant (1e-38) below. Cheaper than `sigmoid`; meant for gates."""
    T = type(x)
    y = GATE_TOP(x) if x > GATE_TOP(x) else x
    y = -GATE_TOP(x) if y < -GATE_TOP(x) else y
    return T(1) / (T(1) + exp_normal(-y))


# The logarithms.

@scalar
def _log_parts_single(f, k):
    """log(2^k (1 + f)), sqrt(1/2) <= 1 + f <= sqrt(2): k log 2 + f - f^2/2 + f^3 LOG(f), the large terms added last."""
    s = f * f
    return fma(k, LOG2_HIGH(f), f - fma(type(f)(0.5), s, -fma(f * s, LOG(f), k * LOG2_LOW(f))))


@scalar
def _log_parts_double(f, k):
    """The same by log(1 + f) = f - (h - w (h + R)), h = f^2/2, w = f / (2 + f), R = w^2 ATANH(w^2), as in fdlibm (Sun, 1993)."""
    T = type(f)
    h = T(0.5) * f * f
    w = f / (T(2) + f)
    z = w * w
    return fma(k, LOG2_HIGH(f), f - (h - fma(w, fma(z, ATANH(z), h), k * LOG2_LOW(f))))


log_parts = by_type(_log_parts_single, _log_parts_double)


@scalar
def log_normal(x):
    """log x within 1 ulp for x positive, normal and finite; meaningless elsewhere."""
    m, k = split(x)
    return log_parts(m - type(x)(1), k)


@scalar
def log(x):
    """log x within 1 ulp, denormals included; -inf at 0, NaN below."""
    T = type(x)
    lifted = x < TINY(x)
    m, k = split(x * LIFT(x) if lifted else x)
    r = log_parts(m - T(1), k - LIFTED(x) if lifted else k)
    r = r if x < T(math.inf) else x                     # inf and NaN
    return r if x > T(0) else (T(-math.inf) if x == T(0) else T(math.nan))


@scalar
def log1p(x):
    """log(1 + x) within 2 ulp, also where x is small; -inf at -1, NaN below.

    1 + x = 2^k (1 + f), f = x 2^-k + (2^-k - 1) by one fma, so that nothing of x is lost. x / 4 and 4 * 2^-k, for k up to 128.
    """
    T = type(x)
    _, k = split(T(1) + x)
    s = power_of_two(ROUND(x) + (T(2) - k))
    r = log_parts(fma(T(0.25) * x, s, fma(T(0.25), s, T(-1))), k)
    r = r if x < T(math.inf) else x                     # inf and NaN
    r = x if fabs(x) < NEGLIGIBLE(x) else r             # keeps -0 and denormals
    return r if not x <= T(-1) else (T(-math.inf) if x == T(-1) else T(math.nan))


@scalar
def _log1p_unit_single(u):
    w = u / (type(u)(2) + u)
    z = w * w
    return fma(-w, fma(-z, ATANH_UNIT(z), u), u)


@scalar
def _log1p_unit_double(u):
    T = type(u)
    halved = u > T(math.sqrt(2) - 1)                    # 1 + u is at most 2, so k is 0 or 1
    return log_parts(fma(T(0.5), u, T(-0.5)) if halved else u, T(1) if halved else T(0))


# log(1 + u) for u from 0 to 1. float32: 2 atanh(w) = 2 w + 2 w^3 / 3 + ... = u - w (u - 2 w^2 / 3 - ...), w = u / (2 + u).
_log1p_unit = by_type(_log1p_unit_single, _log1p_unit_double)


@scalar
def softplus(x):
    """log(1 + e^x) = max(x, 0) + log(1 + u), u = e^-|x|, within 2 ulp, down to the least normal number."""
    T = type(x)
    return (T(0) if x < T(0) else x) + _log1p_unit(exp_below(-fabs(x)))


# The normal distribution.

@scalar
def _erf_single(x):
    T = type(x)
    t = fabs(x)
    small = fma(x, ERF_SMALL(x * x), x)
    y = ERF_TOP(x) if t > ERF_TOP(x) else t
    large = copysign(T(1) - exp_normal(-fma(y, ERF_LARGE(y), y)), x)
    return large if t > T(1) else small


@scalar
def _erf_double(x):
    return math.erf(x)


_erf = by_type(_erf_single, _erf_double)


@scalar
def erf(x):
    """2 / sqrt(pi) times the integral of e^-t^2 from 0 to x, within 1.1 ulp. float64 calls libm, 20 times slower: meant for gradient checks."""
    return _erf(x)


@scalar
def _normal_cdf_single(x):
    """Phi(-t) = e^(-t NORMAL(t)) / 2 for t = |x|, 1 - Phi(-t) on the right."""
    T = type(x)
    t = fabs(x)
    y = NORMAL_TOP(x) if t > NORMAL_TOP(x) else t
    tail = T(0.5) * exp_normal(-y * NORMAL(y))
    tail = T(0) if t >= NORMAL_TOP(x) else tail
    return tail if x < T(0) else T(1) - tail


@scalar
def _normal_cdf_double(x):
    return 0.5 * math.erfc(x * -math.sqrt(0.5))


_normal_cdf = by_type(_normal_cdf_single, _normal_cdf_double)


@scalar
def normal_cdf(x):
    """Phi(x), the probability that a standard normal variable is below x. Absolute error within 1 ulp of 1 (1.2e-7).

    float32: the left tail keeps a relative error of 5e-6 down to x = -6 and 4e-5 to -9, below which it is 0. float64 calls libm.
    """
    return _normal_cdf(x)


@scalar
def normal_pdf(x):
    """The standard normal density e^(-x^2/2) / sqrt(2 pi). Absolute error below 5e-8 (float64: 2e-16); 0 beyond |x| = 13.1 (37.6)."""
    T = type(x)
    y = T(0.5) * x * x
    density = T(1 / math.sqrt(2 * math.pi)) * exp_normal(-(GATE_TOP(x) if y > GATE_TOP(x) else y))
    return T(0) if y > GATE_TOP(x) else density


@scalar
def _gelu_single(x):
    """max(x, 0) - t Phi(-t) with t = |x|: on either side the smaller part is made, by one power of 2, 2^(n + r)."""
    T = type(x)
    t = fabs(x)
    y = GELU_TOP(x) if t > GELU_TOP(x) else t
    power = fma(-y, GELU_TAIL(y), T(-1))
    n = power + ROUND(x)
    r = power - (n - ROUND(x))
    s = power_of_two(n)
    part = y * fma(s, r * EXP_2(r), s)
    return (x if x >= T(0) else T(-0.0)) - (T(0) if t >= GELU_TOP(x) else part)


@scalar
def _gelu_double(x):
    y = -NORMAL_TOP(x) if x < -NORMAL_TOP(x) else x     # x Phi(x) is 0 here, and -inf * 0 would be NaN
    return y * normal_cdf(y)


_gelu = by_type(_gelu_single, _gelu_double)


@scalar
def gelu(x):
    """x Phi(x) (Hendrycks and Gimpel 2016), within 3 ulp of max(|x| / 2, the result). -0 from x = -6 (float64: -40) down to -inf.

    float32: relative error of the left tail below 1e-5 down to x = -4.
    """
    return _gelu(x)


# Sine and cosine.

@scalar
def sin_cos_turn(u):
    """(sin 2 pi u, cos 2 pi u) for u in [0, 1], within 2 ulp. u turns = n quarters and f of a quarter, |f| <= 1/2."""
    T = type(u)
    n = fma(T(4), u, ROUND(u)) - ROUND(u)
    f = fma(T(4), u, -n)
    z = f * f
    s, c = f * SIN(z), fma(z, COS(z), T(1))
    swapped = fabs(n - T(2)) == T(1)                    # after one and three quarters
    return copysign(c if swapped else s, T(0.5) - u), copysign(s if swapped else c, fabs(u - T(0.5)) - T(0.25))
