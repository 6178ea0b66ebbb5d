"""The Large Movie Review Dataset: 50,000 reviews of films from IMDB, half of them positive, as sequences of word ids.

Maas, Daly, Pham, Huang, Ng and Potts, Learning word vectors for sentiment analysis (ACL 2011), https://ai.stanford.edu/~amaas/data/sentiment/.

Three formats, each read by a function of its own into `Part`s, which hold words by their rank: rank r has the id index_from + r.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import numpy as np

from nnkit.datasets.pickled import read_lists
from nnkit.datasets.vocabulary import FIRST, Vocabulary
from nnkit.training.feed import as_labels, as_whole, same_length

__all__ = ["imdb_vocabulary", "load_imdb"]

AnyPath: TypeAlias = str | os.PathLike[str]
Sequences: TypeAlias = tuple[np.ndarray, np.ndarray]

PARTS = ("train", "test")
SENTIMENTS = ("neg", "pos")                              # a label is a position here
REVIEW = re.compile(r"(?:^|/)(train|test)/(neg|pos)/(\d+)_(\d+)\.txt$")
WORD_INDEX = "imdb_word_index.json"
LARGEST = 1 << 20                                        # bytes of a review in a tar: the longest of the data set has 14,000
LARGEST_ID = np.iinfo(np.int32).max


@attrs.frozen(eq=False)
class Part:
    """Reviews, each the ranks of its words, int32 (words,), below 0 where a word has none; and their labels, int32 (N,): 1 for positive."""

    reviews: list[np.ndarray]
    labels: np.ndarray


def load_imdb(path: AnyPath, num_words: int | None = None, skip_top: int = 0, maxlen: int | None = None, seed: int = 113,
              start_char: int | None = 1, oov_char: int | None = 2, index_from: int = 3) -> tuple[Sequences, Sequences]:
    """IMDB reviews, ((x_train, y_train), (x_test, y_test)): x an object array (N,) of int32 arrays of ids, y int64 (N,), 1 for positive.

    Pass x to `pad_sequences`, and see `imdb_vocabulary` for the words of its ids.

    Args:
        path: of one of these (nothing is unpacked to disk):
            imdb.npz as Keras publishes it. Its pickled lists are read by an unpickler that knows lists of whole numbers alone. Its words are
                counted from 1, so that the most frequent one has the id index_from + 1.
            aclImdb, the folder of the original data set, or a tar of it, also compressed. The vocabulary is made of the training texts
                (`Vocabulary.fit`, after "<br />" has become a blank); the most frequent word has the id index_from.
            an npz file of arrays without pickles: words (ids,) whose first three stand for no word, and for both parts train_tokens and
                test_tokens (all,), _offsets (N + 1,), _labels (N,); review i is tokens[offsets[i]:offsets[i + 1]] and begins with a 1.
        num_words: ids from num_words on become oov_char, so that an embedding of input_dim=num_words does. Default: all words are kept.
        skip_top: ids below skip_top become oov_char; 0 by default.
        maxlen: reviews of maxlen ids or more, the start among them, are left out. Default: all are kept.
        seed: of the order of the reviews, from 0 to 2**32 - 1.
        start_char: first id of every review (1 by default; num_words and skip_top hold for it, too), or None for no such id.
        oov_char: the id of words without one of their own (2 by default), or None to leave them out.
        index_from: what is added to the ranks of words, at least 0; 3 by default.

    Raises:
        FileNotFoundError: nothing at path.
        TypeError: path is no path; arrays that hold no numbers.
        ValueError: something else at path; a file of its format that is damaged; a number below its least; a maxlen that leaves no reviews.

    The arguments of Keras' `imdb.load_data`, and its order of the reviews. There num_words=None takes the rarest word for unknown.
    """
    low, high = as_whole(skip_top, 0, "skip_top"), LARGEST_ID if num_words is None else as_whole(num_words, 1, "num_words")
    longest = None if maxlen is None else as_whole(maxlen, 1, "maxlen")
    start, unknown = (None if value is None else as_whole(value, 0, what) for value, what in ((start_char, "start_char"), (oov_char, "oov_char")))
    first = as_whole(index_from, 0, "index_from")
    rng, path = _as_generator(seed), _as_path(path)
    loaded = []
    for part in READ[_kind(path)](path):
        order = np.arange(len(part.reviews))
        rng.shuffle(order)
        if longest is not None:
            order = order[[len(part.reviews[i]) + (start is not None) < longest for i in order]]
            if not len(order):
                raise ValueError(f"maxlen must leave reviews for training and for test, received {maxlen}: no review is shorter")
        x = np.empty(len(order), object)
        for n, i in enumerate(order):
            x[n] = _ids(part.reviews[i], first, start, unknown, low, high)
        loaded.append((x, part.labels[order].astype(np.int64)))
    return loaded[0], loaded[1]


def imdb_vocabulary(path: AnyPath, num_words: int | None = None, index_from: int = 3) -> Vocabulary:
    """The words of the ids that `load_imdb` gives for the same path, num_words and index_from, with start_char=1 and oov_char=2.

    Args:
        path: as for `load_imdb`. Beside Keras' imdb.npz must stand its imdb_word_index.json.
        num_words: the most ids, those that stand for no word included. Default: all words.
        index_from: at least 3 (default).

    Raises:
        FileNotFoundError: nothing at path, or no imdb_word_index.json.
        ValueError: something else at path; a number below its least.
    """
    first, path = as_whole(index_from, FIRST, "index_from"), _as_path(path)
    kind = _kind(path)
    if kind == "texts":
        words = Vocabulary.fit(text for text, _ in _texts(path, "train")).words
    elif kind == "arrays":
        with np.load(path, allow_pickle=False) as stored:
            words = tuple(map(str, stored["words"][FIRST:]))
    else:
        words = _keras_words(path.with_name(WORD_INDEX))
        first += 1                                       # Keras counts words from 1
    most = len(words) if num_words is None else as_whole(num_words, first + 1, "num_words") - first
    return Vocabulary(words[:most], first)


def _as_path(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a path, received {path!r}")
    return Path(path)


def _as_generator(seed: int) -> np.random.RandomState:
    if as_whole(seed, 0, "seed") >= 1 << 32:
        raise ValueError(f"seed must be a whole number at most {(1 << 32) - 1}, received {seed!r}")
    return np.random.RandomState(seed)                     # the older generator: it gives Keras' order


def _ids(ranks: np.ndarray, first: int, start: int | None, unknown: int | None, low: int, high: int) -> np.ndarray:
    """The ids of one review, of those in [low, high)."""
    ids = np.where(ranks < 0, -1, ranks + first)
    if start is not None:
        ids = np.concatenate([[start], ids])
    known = (ids >= low) & (ids < high)
    ids = ids[known] if unknown is None else np.where(known, ids, unknown)
    return ids.astype(np.int32)


def _kind(path: Path) -> str:
    """Which format stands at path: "texts", "keras" or "arrays"."""
    import tarfile  # costs a few ms, which `import nnkit` need not pay

    if not path.exists():
        raise FileNotFoundError(f"path must name a file or folder that exists, received {str(path)!r}")
    if path.is_dir():
        return "texts"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
        for kind, form in (("keras", "x_{}.npy y_{}.npy"), ("arrays", "{0}_tokens.npy {0}_offsets.npy {0}_labels.npy words.npy")):
            if names.issuperset(name for part in PARTS for name in form.format(part, part).split()):
                return kind
    elif tarfile.is_tarfile(path):
        return "texts"
    raise ValueError(f"path must name Keras' imdb.npz, the folder aclImdb or a tar of it, or an npz file of tokens, received {str(path)!r}")


# Keras' imdb.npz: object arrays x_train and x_test of lists of word numbers from 1, arrays y_train and y_test.

def _read_keras(path: Path) -> Iterator[Part]:
    with zipfile.ZipFile(path) as archive:
        for part in PARTS:
            with archive.open(f"x_{part}.npy") as stream:
                reviews = read_lists(stream, f"x_{part}")
            with archive.open(f"y_{part}.npy") as stream:
                labels = as_labels(np.lib.format.read_array(stream, allow_pickle=False), len(SENTIMENTS), f"y_{part}")
            same_length(**{f"x_{part}": reviews, f"y_{part}": labels})
            yield Part(reviews, labels)


def _keras_words(path: Path) -> tuple[str, ...]:
    if not path.exists():
        raise FileNotFoundError(f"the words of Keras' imdb.npz must stand beside it, received no file {str(path)!r}")
    ranks = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(ranks, dict) or sorted(ranks.values()) != list(range(1, len(ranks) + 1)):
        raise ValueError(f"{path.name} must map words to the numbers from 1 to their count")
    return tuple(sorted(ranks, key=ranks.__getitem__))


# Arrays of tokens, whose ids are those of Vocabulary.

def _read_arrays(path: Path) -> Iterator[Part]:
    with np.load(path, allow_pickle=False) as stored:
        for part in PARTS:
            tokens, offsets = (stored[f"{part}_{name}"] for name in ("tokens", "offsets"))
            labels = as_labels(stored[f"{part}_labels"], len(SENTIMENTS), f"{part}_labels")
            if {tokens.dtype.kind, offsets.dtype.kind} - set("iu") or tokens.ndim != 1 or offsets.shape != (len(labels) + 1,):
                raise ValueError(f"{part}_tokens and {part}_offsets must be whole numbers (all,) and ({len(labels) + 1},), received "
                                 f"{tokens.dtype} {tokens.shape} and {offsets.dtype} {offsets.shape}")
            if offsets[0] != 0 or offsets[-1] != len(tokens) or (offsets[1:] <= offsets[:-1]).any():
                raise ValueError(f"{part}_offsets must rise from 0 to the {len(tokens)} tokens")
            ranks = tokens.astype(np.int32) - FIRST
            yield Part([ranks[a + 1:b] for a, b in itertools.pairwise(offsets)], labels)       # without the start


# The original data set: a text file for each review, in a folder or a tar.

def _read_texts(path: Path) -> Iterator[Part]:
    vocabulary = None
    for part in PARTS:
        texts = _texts(path, part)
        vocabulary = vocabulary or Vocabulary.fit(text for text, _ in texts)
        ids = vocabulary.encode((text for text, _ in texts), start=False)
        yield Part([review - np.int32(FIRST) for review in ids], np.array([label for _, label in texts], np.int32))


def _texts(path: Path, part: str) -> list[tuple[str, int]]:
    """Text and label of every review of a part: the negative ones first, each half by number. Raises ValueError where one half is missing."""
    found = {}
    for name, content in (_in_folder if path.is_dir() else _in_tar)(path, part):
        match = REVIEW.search(name)
        if match and match[1] == part:
            try:
                text = content.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{name} must be text in UTF-8: {error}") from None
            found[SENTIMENTS.index(match[2]), int(match[3]), int(match[4])] = text.replace("<br />", " ")
    for label, sentiment in enumerate(SENTIMENTS):
        if not any(key[0] == label for key in found):
            raise ValueError(f"path must hold reviews {part}/{sentiment}/ID_STARS.txt, received {str(path)!r} without any")
    return [(found[key], key[0]) for key in sorted(found)]


def _in_folder(path: Path, part: str) -> Iterator[tuple[str, bytes]]:
    root = path / "aclImdb" if (path / "aclImdb").is_dir() else path
    for sentiment in SENTIMENTS:
        for file in (root / part / sentiment).glob("*.txt"):
            yield file.relative_to(root).as_posix(), file.read_bytes()


def _in_tar(path: Path, part: str) -> Iterator[tuple[str, bytes]]:
    import tarfile

    with tarfile.open(path) as archive:
        for member in archive:
            if member.isreg() and f"{part}/" in member.name and REVIEW.search(member.name):          # no links, no devices
                if member.size > LARGEST:
                    raise ValueError(f"{member.name} must be a review of at most {LARGEST} bytes, received {member.size}")
                content = archive.extractfile(member)
                assert content is not None               # it is a regular file
                yield member.name, content.read()


READ: dict[str, Callable[[Path], Iterator[Part]]] = {"keras": _read_keras, "arrays": _read_arrays, "texts": _read_texts}
