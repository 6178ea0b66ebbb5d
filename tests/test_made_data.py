"""Data made on the spot: what the docstrings say of it, and that a seed gives the same again."""

import re

import numpy as np
import pytest

from helpers import refused
from nnkit.datasets import Characters, made_reviews, made_text


def sentiment(review, vocabulary):
    """The sum of the docstring, word by word."""
    kinds = (vocabulary - 4) // 4
    total, before = 0, None
    for word in review.tolist():
        sign = 1 if 4 <= word < 4 + kinds else -1 if 4 + kinds <= word < 4 + 2 * kinds else 0
        total += -sign if before == 3 else sign
        before = word
    return total


@pytest.mark.parametrize(("samples", "length", "vocabulary", "seed"), [(200, 4, 8, 0), (200, 30, 100, 1), (50, 81, 1000, 2), (1, 5, 9, 3)])
def test_made_reviews(samples, length, vocabulary, seed):
    x, y = made_reviews(samples, length, vocabulary, seed)
    assert x.shape == y.shape == (samples,)
    assert y.dtype == np.int64
    for review, label in zip(x, y, strict=True):
        assert review.dtype == np.int32
        assert (length + 1) // 2 <= len(review) <= length
        assert review[0] == 1
        assert review[1:].min() >= 3
        assert review.max() < vocabulary
        total = sentiment(review, vocabulary)
        assert total != 0
        assert (total > 0) == label
    again, labels = made_reviews(samples, length, vocabulary, seed)
    np.testing.assert_array_equal(y, labels)
    for review, same in zip(x, again, strict=True):
        np.testing.assert_array_equal(review, same)


def test_the_order_of_made_reviews_matters_a_bit():
    x, y = made_reviews(1000, 40, 100, seed=0)
    assert 0.45 < y.mean() < 0.55                        # four standard deviations
    counts = np.array([((review >= 4) & (review < 28)).sum() - ((review >= 28) & (review < 52)).sum() for review in x])
    assert 0.7 < np.mean((counts > 0) == y) < 0.9        # without the order
    assert len({len(review) for review in x}) > 10
    assert not np.array_equal(made_reviews(1000, 40, 100, seed=1)[1], y)


def test_made_text():
    text = made_text(5000, seed=0)
    assert len(text) == 5000
    assert text == made_text(5000, seed=0)
    assert made_text(5000, seed=1) != text
    assert made_text(70, seed=0) == text[:70]
    assert len(Characters.fit(text)) < 40
    assert len(set(re.findall("[a-z]+", text[:4000].lower()))) == 30
    assert all(len(sentence.split()) == 6 for sentence in re.split(r"[.!?]\s", text)[:-1])


def test_wrong_sizes_of_made_data():
    refused("samples must be a whole number at least 1, received 0", made_reviews, 0, 10, 20, 0)
    refused("length must be a whole number at least 4, received 3", made_reviews, 1, 3, 20, 0)
    refused("vocabulary must be a whole number at least 8, received 7", made_reviews, 1, 10, 7, 0)
    refused("seed must be a whole number at least 0, received None", made_reviews, 1, 10, 20, None)
    refused("characters must be a whole number at least 1, received 0", made_text, 0, 0)
    refused("seed must be a whole number at least 0, received -1", made_text, 1, -1)
