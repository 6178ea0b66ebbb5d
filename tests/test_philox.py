"""Random numbers: Philox against published vectors, places, uniform and normal numbers, vector code."""

import math
import re

import numpy as np
import pytest
from scipy import special

from nnkit.jit import cpu_features, routine
from nnkit.philox import normal_pair, philox, place_below, uniform


@routine
def philox_words(out, key0, key1, first):
    """The four words of counters first, first + 1, ...; the counter's upper words are 5, 6 and 7 as int64."""
    for i in range(out.shape[1]):
        out[0, i], out[1, i], out[2, i], out[3, i] = philox(key0, key1, first + i, 5, 6, 7)


def philox_reference(key, counter):
    """Salmon et al. 2011, section 3.3, in whole numbers without a width."""
    key, x = list(key), list(counter)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [(p1 >> 32) ^ x[1] ^ key[0], p1 % 2**32, (p0 >> 32) ^ x[3] ^ key[1], p0 % 2**32]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return tuple(x)


@pytest.mark.parametrize("word", [int, np.uint32])
@pytest.mark.parametrize(("key", "counter", "want"), [
    ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0xA4093822, 0x299F31D0), (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
])
def test_philox_known_answers(key, counter, want, word):
    """The vectors that Random123 publishes for philox4x32_10."""
    assert philox(*map(word, key + counter)) == want
    assert philox_reference(key, counter) == want


def test_philox_loop_takes_the_low_32_bits():
    key0, key1, first = 2**40 + 9, -3, 2**32 - 20        # the counter wraps within the loop
    out = np.empty((4, 64), np.uint32)
    philox_words(out, key0, key1, first)
    for i in range(64):
        want = philox_reference((9, 2**32 - 3), ((first + i) % 2**32, 5, 6, 7))
        assert tuple(map(int, out[:, i])) == want


@routine
def places_below(out, words, n):
    """A place for each of the words, which stand as the words of Philox do, uint32."""
    for i in range(words.size):
        out[i] = place_below(words[i], n)


@pytest.mark.parametrize("n", [1, 7, 2**31 - 1, 2**31 + 1, 2**32 - 1, 2**32, 2**33 + 1])
def test_places_below_any_number(n):
    """Also below one whose product with the word has all of 64 bits: with a sign it was negative, a place in front of the array."""
    words = np.array([0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1], np.uint32)
    out = np.empty(len(words), np.int64)
    places_below(out, words, n)
    assert all(0 <= place < n for place in out)
    if n <= 2**32:
        assert out.tolist() == [int(word) * n // 2**32 for word in words]


@pytest.mark.skipif("avx2" not in cpu_features(), reason="looks for the vector multiply of AVX2 and AVX-512")
def test_philox_loop_is_vector_code():
    philox_words(np.empty((4, 8), np.uint32), 0, 0, 0)
    code = next(iter(philox_words.inspect_asm().values()))
    assert re.search(r"vpmuludq\s.*%[yz]mm", code)


@routine
def uniforms(out, bits):
    for i in range(bits.size):
        out[i] = uniform(bits[i], out[i])


@pytest.mark.parametrize("T", [np.float32, np.float64])
def test_uniform_is_the_upper_24_bits(T):
    bits = np.concatenate([np.array([0, 255, 256, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF], np.uint32),
                           np.random.default_rng(2).integers(0, 2**32, 1000, dtype=np.uint32)])
    out = np.empty(bits.size, T)
    uniforms(out, bits)
    np.testing.assert_array_equal(out, (bits >> 8) / 2.0**24)
    assert out.min() == 0
    assert out.max() == 1 - 2.0**-24


@routine
def normals(z, key0, key1):
    for i in range(z.shape[1]):
        a, b, _, _ = philox(key0, key1, i, 0, 0, 0)
        z[0, i], z[1, i] = normal_pair(uniform(a, z[0, 0]), uniform(b, z[0, 0]))


@pytest.mark.parametrize("T", [np.float32, np.float64])
def test_normal_pair_is_normal(T):
    N = 2**19
    z = np.empty((2, N), T)
    normals(z, 42, 7)
    z = z.astype(np.float64)
    # Standard errors of the estimates from N independent numbers; 4 of them leave each check a chance of 6e-5 with an unlucky key,
    # and the key is fixed. What the cut at 5.77 removes from any of these moments is below 1e-5.
    error = 4 / math.sqrt(N)
    assert np.isfinite(z).all()
    assert np.abs(z).max() <= 5.78
    assert np.abs(z.mean(axis=1)).max() <= error
    assert np.abs((z**2).mean(axis=1) - 1).max() <= error * math.sqrt(2)
    assert np.abs((z**3).mean(axis=1)).max() <= error * math.sqrt(15)
    assert np.abs((z**4).mean(axis=1) - 3).max() <= error * math.sqrt(96)
    assert abs((z[0] * z[1]).mean()) <= error
    assert abs((z[0]**2 * z[1]**2).mean() - 1) <= error * math.sqrt(8)
    # Kolmogorov and Smirnov: the distance exceeds 2 / sqrt(N) with probability 7e-4
    for row in z:
        steps = np.arange(N + 1) / N
        phi = special.ndtr(np.sort(row))
        assert max(np.abs(phi - steps[:-1]).max(), np.abs(phi - steps[1:]).max()) <= 2 / math.sqrt(N)


def test_normal_pair_ends():
    """u0 = 0 gives zeros, not NaN; the largest u0 gives the largest number."""
    assert tuple(map(abs, normal_pair(np.float32(0), np.float32(0.3)))) == (0, 0)
    assert normal_pair(np.float32(1 - 2.0**-24), np.float32(0))[0] == pytest.approx(math.sqrt(48 * math.log(2)), rel=1e-6)
