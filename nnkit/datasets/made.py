"""Data made on the spot, for examples and tests where no data set is at hand. The same seed gives the same data."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkit.datasets.vocabulary import FIRST, START
from nnkit.training.feed import as_whole

__all__ = ["made_reviews", "made_text"]

NOT = FIRST                                              # the id of the word that turns the next one's sentiment round
SENTIMENTAL, NEGATED = 0.3, 0.2                          # the parts of words with a sentiment, and of these with a "not" in front
AGREEING = 0.65                                          # the part of words with a sentiment whose meaning is the review's

# Each sentence is one of each list, in this order.
SENTENCE = (
    ("the", "a", "my", "her", "this", "every"),
    ("old", "young", "gentle", "foolish", "noble", "weary"),
    ("king", "queen", "sailor", "painter", "fox", "moon"),
    ("sees", "follows", "greets", "remembers", "leaves", "answers"),
    ("the", "a", "my", "her", "this", "every"),
    ("river", "garden", "castle", "stranger", "mountain", "song"),
)
ENDS = (". ", "! ", "? ", ".\n")


def made_reviews(samples: int, length: int, vocabulary: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences with a sentiment, in the form of `load_imdb`: x an object array (N,) of int32 arrays of ids, y int64 (N,), 0 or 1.

    Ids: 1 the start of every review, 3 "not"; of the others, with K = (vocabulary - 4) // 4, K positive ones from 4, K negative ones from
    4 + K, and neutral ones from 4 + 2 K to vocabulary - 1. A word with a sentiment counts +1 or -1, and the other way round directly after a
    "not"; the label says whether the sum is above 0, and no sum is 0. So the number of good and bad words tells most of the labels (four
    of five in reviews of 40 words, nine of ten in those of 200), their order all.

    >>> x, y = made_reviews(4, length=12, vocabulary=20, seed=0)
    >>> [len(review) <= 12 for review in x], y.shape
    ([True, True, True, True], (4,))

    Args:
        samples: N, at least 1.
        length: the most ids of a review, at least 4; lengths are drawn evenly from half of it (rounded up) to all of it.
        vocabulary: number of ids, at least 8.
        seed: at least 0.

    Raises:
        ValueError: a number below its least.
    """
    N, T, V = as_whole(samples, 1, "samples"), as_whole(length, 4, "length"), as_whole(vocabulary, NOT + 5, "vocabulary")
    rng = np.random.default_rng(as_whole(seed, 0, "seed"))
    lengths = rng.integers((T + 1) // 2, T + 1, N)
    x, y = np.empty(N, object), rng.integers(0, 2, N)
    for n in range(N):
        x[n] = np.concatenate([[START], _review(rng, int(lengths[n]) - 1, V, bool(y[n]))]).astype(np.int32)
    return x, y


def _review(rng: np.random.Generator, words: int, V: int, positive: bool) -> np.ndarray:
    """The words of one review of that sentiment: drawn until they have it, which every second time they do."""
    K = (V - NOT - 1) // 4
    while True:
        ids = rng.integers(NOT + 1 + 2 * K, V, words)
        places = np.flatnonzero(rng.random(words) < SENTIMENTAL)
        negated = (rng.random(len(places)) < NEGATED) & (places > 0)
        means_good = (rng.random(len(places)) < AGREEING) == positive
        ids[places] = np.where(means_good != negated, NOT + 1, NOT + 1 + K) + rng.integers(0, K, len(places))
        ids[places[negated] - 1] = NOT                   # may take the place of a word with a sentiment, so the sum is taken of what is there
        good, bad = (ids > NOT) & (ids <= NOT + K), (ids > NOT + K) & (ids <= NOT + 2 * K)
        signs = good.astype(int) - bad
        signs[1:][ids[:-1] == NOT] *= -1
        if signs.sum() > 0 if positive else signs.sum() < 0:
            return ids


def made_text(characters: int, seed: int) -> str:
    """A text of that many characters, in sentences of six words, for models of characters.

    Each word is one of six, each end of a sentence one of four: 17.5 bits for some 36 characters. So the best cross-entropy that a model can
    reach is about 0.34 (0.49 bits) a character.

    >>> made_text(34, seed=3)
    'This old queen follows a mountain.'

    Args:
        characters: at least 1.
        seed: at least 0.

    Raises:
        ValueError: a number below its least.
    """
    most, rng = as_whole(characters, 1, "characters"), np.random.default_rng(as_whole(seed, 0, "seed"))
    pieces: list[str] = []
    written = 0
    while written < most:
        words: list[Any] = [choices[rng.integers(len(choices))] for choices in SENTENCE]
        sentence = " ".join(words).capitalize() + ENDS[rng.integers(len(ENDS))]
        pieces.append(sentence)
        written += len(sentence)
    return "".join(pieces)[:most]
