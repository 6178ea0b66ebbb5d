"""Texts as whole numbers: vocabularies of words and of characters."""

from __future__ import annotations

import functools
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import attrs
import numpy as np

from nnkit.spec import Spec, integer, spec
from nnkit.training.feed import as_samples, as_whole

__all__ = ["FIRST", "PADDING", "START", "UNKNOWN", "Characters", "Vocabulary", "tokenize"]

PADDING, START, UNKNOWN, FIRST = 0, 1, 2, 3              # the ids that stand for no word, and the first that does: as in Keras' IMDB
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
SHOWN = 8                                                # words that repr shows of a long vocabulary


def tokenize(text: str) -> list[str]:
    """The words of a text: lower case, the 32 punctuation characters of ASCII taken out, split at white space.

    Taken out means that nothing takes their place, so "don't" becomes "dont" and "good-natured" "goodnatured". Lower case and white space are
    Python's (`str.lower`, `str.split`).

    >>> tokenize("It's a film -- a GOOD one!")
    ['its', 'a', 'film', 'a', 'good', 'one']

    The rule "lower_and_strip_punctuation" with split="whitespace" of Keras' TextVectorization, which leaves capitals outside of ASCII.
    """
    return text.lower().translate(NO_PUNCTUATION).split()


def _as_texts(texts: Any) -> list[str]:
    """A list of strings. Raises TypeError for one string, which would count as a list of its characters, and for anything else."""
    if isinstance(texts, (str, bytes)):
        raise TypeError("texts must be a list of strings, received one string: pass [text]")
    if not isinstance(texts, Iterable):
        raise TypeError(f"texts must be a list of strings, received {texts!r}")
    listed = list(texts)
    for position, text in enumerate(listed):
        if not isinstance(text, str):
            raise TypeError(f"texts must be a list of strings, received {text!r} at position {position}")
    return listed


def _as_words(words: Any) -> Any:
    return tuple(words) if isinstance(words, (list, np.ndarray)) else words


def _check_words(_instance: Spec, _attribute: attrs.Attribute, words: Any) -> None:
    rule = "Vocabulary: words must be a tuple of different strings, received"
    if not isinstance(words, tuple):
        raise ValueError(f"{rule} {words!r}")
    for word in words:
        if not isinstance(word, str):
            raise ValueError(f"{rule} {word!r} among them")
    if len(set(words)) < len(words):
        raise ValueError(f"{rule} {Counter(words).most_common(1)[0][0]!r} twice")


def _check_characters(_instance: Spec, _attribute: attrs.Attribute, characters: Any) -> None:
    rule = "Characters: characters must be a string of at least one, none of them twice, received"
    if not isinstance(characters, str) or not characters:
        raise ValueError(f"{rule} {characters!r}")
    if len(set(characters)) < len(characters):
        raise ValueError(f"{rule} {Counter(characters).most_common(1)[0][0]!r} twice")


@spec()
class Vocabulary(Spec):
    """Words and their ids, as in Keras' IMDB: 0 padding, 1 start, 2 out of vocabulary, then the words from `index_from`.

    A value like every spec: it compares, and `nnkit.to_json` and `nnkit.from_json` keep it beside a model. `len(vocabulary)` is the number of
    ids, index_from + len(words): the `input_dim` of an embedding.

    >>> vocabulary = Vocabulary.fit(["the film is good", "the film is not"])
    >>> vocabulary.words
    ('film', 'is', 'the', 'good', 'not')
    >>> vocabulary.encode(["The film: bad."])
    [array([1, 5, 3, 2], dtype=int32)]
    >>> vocabulary.decode([0, 0, 1, 5, 3, 2])
    'the film [UNK]'
    >>> len(vocabulary), vocabulary.index["not"]
    (8, 7)

    Fields:
        words: different strings; word w has the id index_from + w.
        index_from: id of the first word, at least 3 (default). Ids from 3 to below it stand for nothing.

    Raises:
        ValueError: words that are not different strings, an index_from below 3.
    """

    family: ClassVar[str] = "vocabulary"
    namespace: ClassVar[str] = "datasets."

    words: tuple[str, ...] = attrs.field(converter=_as_words, validator=_check_words)
    index_from: int = integer(default=FIRST, low=FIRST)

    @classmethod
    def fit(cls, texts: Iterable[str], max_tokens: int | None = None, index_from: int = FIRST) -> Vocabulary:
        """The words of texts (see `tokenize`) by falling frequency, words of one frequency in alphabetical order.

        Args:
            texts: strings; of training data, or the vocabulary knows more than the model may.
            max_tokens: the most ids, those that stand for no word included, at least index_from + 1. Default: as many as there are words.
            index_from: id of the most frequent word, at least 3 (default).

        Raises:
            TypeError: texts that are no list of strings.
            ValueError: texts without a word, a number below its least.
        """
        index_from = as_whole(index_from, FIRST, "index_from")
        most = None if max_tokens is None else as_whole(max_tokens, index_from + 1, "max_tokens") - index_from
        counts: Counter[str] = Counter()
        for text in _as_texts(texts):
            counts.update(tokenize(text))
        if not counts:
            raise ValueError("texts must hold at least one word, received none")
        return cls(tuple(sorted(counts, key=lambda word: (-counts[word], word))[:most]), index_from)

    @functools.cached_property
    def index(self) -> Mapping[str, int]:
        """word -> id."""
        return {word: i for i, word in enumerate(self.words, self.index_from)}

    def __len__(self) -> int:
        """Number of ids."""
        return self.index_from + len(self.words)

    def encode(self, texts: Iterable[str], start: bool = True) -> list[np.ndarray]:
        """The ids of each text, int32 (words,) or, with the id 1 in front unless start is False, (1 + words,). Unknown words have id 2.

        Raises:
            TypeError: texts that are no list of strings.
        """
        front = [START] if start else []
        return [np.array(front + [self.index.get(word, UNKNOWN) for word in tokenize(text)], np.int32) for text in _as_texts(texts)]

    def decode(self, ids: Any) -> str:
        """The words of one sequence of ids (tokens,), with blanks between. Padding and start are left out, "[UNK]" is what stands for no word.

        Raises:
            TypeError: no numbers.
            ValueError: another shape; ids that are not whole numbers from 0 to len(self) - 1.
        """
        tokens = _as_ids(ids, len(self))
        return " ".join(self.words[i - self.index_from] if i >= self.index_from else "[UNK]" for i in tokens.tolist() if i not in (PADDING, START))

    def __repr__(self) -> str:
        """The code that makes it; of a long vocabulary the first words and their number."""
        if len(self.words) <= SHOWN:
            return Spec.__repr__(self)
        return f"<Vocabulary of {len(self.words)} words: {', '.join(map(repr, self.words[:SHOWN]))}, ...>"


@spec()
class Characters(Spec):
    """Characters and their ids, 0 to len - 1, for models of characters: no id stands for padding, start or the unknown.

    A value like every spec, with JSON.

    >>> characters = Characters.fit("to be or not to be")
    >>> characters
    datasets.Characters(' benort')
    >>> characters.encode("not")
    array([3, 4, 6], dtype=int32)
    >>> characters.decode([1, 2, 2])
    'bee'

    Fields:
        characters: a string of different characters, at least one; character c has its position as id.

    Raises:
        ValueError: anything else.
    """

    family: ClassVar[str] = "vocabulary"
    namespace: ClassVar[str] = "datasets."

    characters: str = attrs.field(validator=_check_characters)

    @classmethod
    def fit(cls, text: str) -> Characters:
        """The characters that occur in text, in the order of their code points. Raises TypeError, ValueError for a text without any."""
        if not _as_text(text):
            raise ValueError("text must hold at least one character, received none")
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        """Number of ids."""
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, int32 (characters,).

        Raises:
            TypeError: text that is no string.
            ValueError: a character without an id (the first one is named, with its position).
        """
        own, codes = _code_points(self.characters), _code_points(_as_text(text))
        order = np.argsort(own)
        place = np.searchsorted(own, codes, sorter=order)
        ids = order[np.minimum(place, len(own) - 1)]
        unknown = own[ids] != codes
        if unknown.any():
            first = int(unknown.argmax())
            raise ValueError(f"text must hold characters of {self.characters!r} only, received {text[first]!r} at position {first}")
        return ids.astype(np.int32)

    def decode(self, ids: Any) -> str:
        """The text of ids (characters,).

        Raises:
            TypeError: no numbers.
            ValueError: another shape; ids that are not whole numbers from 0 to len(self) - 1.
        """
        return _code_points(self.characters)[_as_ids(ids, len(self))].tobytes().decode("utf-32-le", "surrogatepass")


def _as_text(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, received {text!r}")
    return text


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _as_ids(ids: Any, n: int) -> np.ndarray:
    if np.ndim(ids) == 1 and len(ids) == 0:
        return np.empty(0, np.int32)
    tokens = as_samples(ids, (), "int32", "ids")
    wrong = (tokens < 0) | (tokens >= n)
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(f"ids must be from 0 to {n - 1}, received {tokens[first]} at position {first}")
    return tokens
