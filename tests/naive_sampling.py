"""References of Sampling: inference, its noise number by number, and the divergence in closed form."""

import numpy as np

from naive_dropout import draw_words


def sampling(spec, parameters, mean, log_variance, training=False):
    """Inference alone: test_sampling.py has the noise of training."""
    return mean


def draw_number(e, seed, stream, step=0, evaluation=0):
    """The standard normal number of place e: of the batch in training, of the data set in evaluation."""
    words = draw_words(seed, stream, e // 4, evaluation, step, seed >> 32)
    a, b = ((word >> 8) / 2**24 for word in words[e % 4 // 2 * 2:][:2])
    return np.sqrt(-2 * np.log1p(-a)) * (np.cos, np.sin)[e % 2](2 * np.pi * b)


def draw_normals(shape, seed, stream, step=0, evaluation=0, first=0):
    """Numbers of the places from `first` on."""
    return np.array([draw_number(first + e, seed, stream, step, evaluation) for e in range(int(np.prod(shape)))]).reshape(shape)


def divergence(mean, log_variance):
    """KL(N(mean, exp(log_variance)) || N(0, 1)), number by number: Kingma and Welling 2014, appendix B."""
    return -0.5 * (1 + log_variance - mean**2 - np.exp(log_variance))
