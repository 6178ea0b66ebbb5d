"""Random numbers as scalar functions: Philox, and what kernels make of its words.

They are a pure function of key and counter, so that a mask can be made again and no order of calls matters. The key is the model's seed and the
number of a stream, the counter is made of the step and of the element: see dropout_cpu.py.
"""

from __future__ import annotations

import numpy as np

from nnkit.floats import sqrt
from nnkit.jit import scalar
from nnkit.scalar import log_normal, sin_cos_turn

__all__ = ["normal_pair", "philox", "place_below", "uniform"]

LOW = np.uint64(0xFFFFFFFF)
WORD = np.uint64(32)
MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_0, WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@scalar
def philox(key0, key1, c0, c1, c2, c3):
    """Philox-4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers, as easy as 1, 2, 3, SC 2011): four uint32 from key and counter.

    Arguments are integers of any type, of which the low 32 bits count. A loop over counters, one call each, becomes vector code if its four
    words go to four planes or to word[4 i], ..., word[4 i + 3]; a call per word, which picks one of the four, does not. Words are kept in
    64-bit lanes, where one vector instruction multiplies 32 x 32 -> 64 bits; uint64 throughout, since Numba makes float64 of uint64 and int64.
    """
    k0, k1 = np.uint64(key0) & LOW, np.uint64(key1) & LOW
    x0, x1, x2, x3 = np.uint64(c0) & LOW, np.uint64(c1) & LOW, np.uint64(c2) & LOW, np.uint64(c3) & LOW
    for _ in range(10):
        p0, p1 = MULTIPLIER_0 * x0, MULTIPLIER_1 * x2
        x0, x1, x2, x3 = (p1 >> WORD) ^ x1 ^ k0, p1 & LOW, (p0 >> WORD) ^ x3 ^ k1, p0 & LOW
        k0, k1 = (k0 + WEYL_0) & LOW, (k1 + WEYL_1) & LOW
    return np.uint32(x0), np.uint32(x1), np.uint32(x2), np.uint32(x3)


@scalar
def place_below(bits, n):
    """A place from 0 to n - 1 of 32 random bits: the high half of their product with n, which is 64 bits long without a sign.

    Chances differ by at most n / 2^32; for n above 2^32 places from there on have none.
    """
    return np.int64((np.uint64(bits) * np.uint64(n)) >> WORD)


@scalar
def uniform(bits, like):
    """The upper 24 of 32 random bits as a number in [0, 1), a multiple of 2^-24, in the type of `like`; the same number in both types."""
    T = type(like)
    return T(np.int32(np.uint32(bits) >> np.uint32(8))) * T(2.0**-24)


@scalar
def normal_pair(u0, u1):
    """Two independent standard normal numbers from two uniform ones in [0, 1): r cos(2 pi u1), r sin(2 pi u1), r^2 = -2 log(1 - u0).

    Box and Muller, A note on the generation of random normal deviates (1958). With uniforms of 24 bits no number exceeds 5.77.
    """
    T = type(u0)
    r = sqrt(T(-2) * log_normal(T(1) - u0))
    s, c = sin_cos_turn(u1)
    return r * c, r * s
