"""References of dropout and noise. Masks and noise of a training step are drawn here from Philox as well, number by number."""

import numpy as np

M0, M1, W0, W1, LOW = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85, 0xFFFFFFFF


def draw_words(seed, stream, *counter):
    """Philox-4x32-10, in Python's integers."""
    k0, k1 = seed & LOW, stream & LOW
    x0, x1, x2, x3 = counter
    for _ in range(10):
        p0, p1 = M0 * x0, M1 * x2
        x0, x1, x2, x3 = (p1 >> 32) ^ x1 ^ k0, p1 & LOW, (p0 >> 32) ^ x3 ^ k1, p0 & LOW
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    return x0, x1, x2, x3


def draw_mask(rate, size, seed, stream, step):
    """The mask of `size` numbers: 16 bits each, low half-words first, against the threshold of the step."""
    limit = int(rate * 65536 + draw_words(seed, stream, 0, 1, step, seed >> 32)[0] / 2**32)
    kept = []
    for e in range(size):
        word = draw_words(seed, stream, e // 8, 0, step, seed >> 32)[e % 8 // 2]
        kept.append((word >> 16 * (e % 2)) & 0xFFFF >= limit)
    return np.array(kept) / (1 - rate)


def draw_noise(size, seed, stream, step):
    """`size` standard normal numbers by Box and Muller."""
    found = []
    for block in range((size + 3) // 4):
        u = [(word >> 8) / 2**24 for word in draw_words(seed, stream, block, 0, step, seed >> 32)]
        for a, b in ((u[0], u[1]), (u[2], u[3])):
            r = np.sqrt(-2 * np.log1p(-a))
            found += [r * np.cos(2 * np.pi * b), r * np.sin(2 * np.pi * b)]
    return np.array(found[:size])


def dropout(spec, parameters, x, training=False):
    """Inference alone: test_dropout.py has the masks of training."""
    return x


def spatial_dropout_1d(spec, parameters, x, training=False):
    return x


def spatial_dropout_2d(spec, parameters, x, training=False):
    return x


def spatial_dropout_3d(spec, parameters, x, training=False):
    return x


def gaussian_noise(spec, parameters, x, training=False):
    return x
