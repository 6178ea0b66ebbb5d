"""Vocabularies of words and of characters: the rule of tokens, ids, values, JSON."""

import string
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import refused
from nnkit import from_json, to_json
from nnkit.datasets import Characters, Vocabulary, tokenize

TEXTS = ["The film, the FILM: it's good!", "", "Not good; not bad. A film?"]


@pytest.mark.parametrize(("text", "words"), [
    ("", []), (" \t\n", []), ("...", []), ("Don't", ["dont"]), ("good-natured", ["goodnatured"]), ("a,b c", ["ab", "c"]),
    (string.punctuation + "x", ["x"]), ("  two\twords\n", ["two", "words"]), ("Ünïcode — “quotes”", ["ünïcode", "—", "“quotes”"]),
    ("1,000", ["1000"]),
])
def test_tokenize(text, words):
    assert tokenize(text) == words


def test_tokens_are_those_of_keras():
    keras = pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    texts = [*TEXTS, string.printable, "it's -- a 'test', (really) [ok] {x} <br /> a_b @c #d 50% 3*4=12 ~ ^ | \\ ` $5"]
    layer = keras.layers.TextVectorization(ragged=False)
    layer.adapt(texts)
    known = layer.get_vocabulary()[2:]
    vocabulary = Vocabulary.fit(texts)
    assert sorted(known) == sorted(vocabulary.words)
    for text in texts:
        assert [known[i - 2] for i in np.asarray(layer([text]))[0] if i > 1] == tokenize(text)


def test_fit():
    vocabulary = Vocabulary.fit(TEXTS)
    assert vocabulary.words == ("film", "good", "not", "the", "a", "bad", "its")
    assert vocabulary.index == {"film": 3, "good": 4, "not": 5, "the": 6, "a": 7, "bad": 8, "its": 9}
    assert len(vocabulary) == 10
    assert Vocabulary.fit(iter(TEXTS)) == vocabulary
    assert Vocabulary.fit(np.array(TEXTS)) == vocabulary


@pytest.mark.parametrize(("most", "words"), [(4, 1), (5, 2), (9, 6), (10, 7), (100, 7)])
def test_max_tokens_counts_all_ids(most, words):
    vocabulary = Vocabulary.fit(TEXTS, max_tokens=most)
    assert vocabulary.words == Vocabulary.fit(TEXTS).words[:words]
    assert len(vocabulary) == min(most, 10)
    assert max(ids.max(initial=0) for ids in vocabulary.encode(TEXTS)) < most


def test_index_from():
    vocabulary = Vocabulary.fit(TEXTS, max_tokens=7, index_from=5)
    assert vocabulary.index == {"film": 5, "good": 6}
    assert len(vocabulary) == 7
    np.testing.assert_array_equal(vocabulary.encode(["good bad film"])[0], [1, 6, 2, 5])
    assert vocabulary.decode([0, 1, 2, 3, 4, 5, 6]) == "[UNK] [UNK] [UNK] film good"


def test_encode():
    vocabulary = Vocabulary.fit(TEXTS)
    encoded = vocabulary.encode(["A GOOD movie.", ""])
    assert [ids.tolist() for ids in encoded] == [[1, 7, 4, 2], [1]]
    encoded = vocabulary.encode(["A GOOD movie.", ""], start=False)
    assert [ids.tolist() for ids in encoded] == [[7, 4, 2], []]
    assert all(ids.dtype == np.int32 for ids in encoded)
    assert vocabulary.encode([]) == []


def test_decode():
    vocabulary = Vocabulary.fit(TEXTS)
    for text in TEXTS:
        assert vocabulary.decode(vocabulary.encode([text])[0]) == " ".join(tokenize(text))
    assert vocabulary.decode([]) == ""
    assert vocabulary.decode(np.array([0, 0, 1, 2, 9], "uint16")) == "[UNK] its"


WORDS = st.text(st.sampled_from("abcß'. \n"), max_size=12)


@settings(max_examples=100, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=5).filter(lambda texts: any(map(tokenize, texts))))
def test_fit_of_drawn_texts(texts):
    counts = Counter(word for text in texts for word in tokenize(text))
    vocabulary = Vocabulary.fit(texts)
    assert set(vocabulary.words) == set(counts)
    for word, following in zip(vocabulary.words, vocabulary.words[1:], strict=False):
        assert counts[word] > counts[following] or (counts[word] == counts[following] and word < following)
    for text, ids in zip(texts, vocabulary.encode(texts), strict=True):
        assert vocabulary.decode(ids).split() == tokenize(text)


def test_vocabularies_are_values():
    vocabulary = Vocabulary(("a", "b"))
    assert vocabulary == Vocabulary(["a", "b"]) == Vocabulary(np.array(["a", "b"]))
    assert hash(vocabulary) == hash(Vocabulary(["a", "b"]))
    assert vocabulary != Vocabulary(("b", "a"))
    assert vocabulary != Vocabulary(("a", "b"), index_from=4)
    with pytest.raises(AttributeError):
        vocabulary.words = ()
    assert repr(Vocabulary(("a", "b"), 4)) == "datasets.Vocabulary(('a', 'b'), index_from=4)"
    assert repr(Vocabulary(tuple("abcdefghij"))) == "<Vocabulary of 10 words: 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', ...>"
    assert Characters("ab") == Characters("ab") != Characters("ba")


@pytest.mark.parametrize("value", [Vocabulary.fit(TEXTS), Vocabulary(("é", "\"", "\n"), 7), Vocabulary(()), Characters.fit("né \U0001f600\n\""),
                                   Characters("ba")], ids=repr)
def test_json_round_trip(value):
    again = from_json(to_json(value))
    assert again == value
    assert type(again) is type(value)
    assert len(again) == len(value)


def test_wrong_vocabularies():
    rule = "Vocabulary: words must be a tuple of different strings, received"
    refused(f"{rule} 'abc'", Vocabulary, "abc")
    refused(f"{rule} 3 among them", Vocabulary, ("a", 3))
    refused(f"{rule} 'b' twice", Vocabulary, ("a", "b", "b"))
    refused("Vocabulary: index_from must be a whole number at least 3, received 2", Vocabulary, ("a",), 2)


def test_wrong_texts():
    for function in (Vocabulary.fit, Vocabulary(("a",)).encode):
        refused("texts must be a list of strings, received one string: pass [text]", function, "a text", error=TypeError)
        refused("texts must be a list of strings, received one string: pass [text]", function, b"a text", error=TypeError)
        refused("texts must be a list of strings, received None", function, None, error=TypeError)
        refused("texts must be a list of strings, received b'x' at position 1", function, ["a", b"x"], error=TypeError)
    refused("texts must hold at least one word, received none", Vocabulary.fit, ["...", ""])
    refused("texts must hold at least one word, received none", Vocabulary.fit, [])
    refused("max_tokens must be a whole number at least 4, received 3", Vocabulary.fit, TEXTS, 3)
    refused("max_tokens must be a whole number at least 6, received 5", Vocabulary.fit, TEXTS, 5, 5)
    refused("index_from must be a whole number at least 3, received 0", Vocabulary.fit, TEXTS, None, 0)


@pytest.mark.parametrize("value", [Vocabulary(("a", "b")), Characters("abcde")], ids=repr)
def test_wrong_ids(value):
    refused("ids must be from 0 to 4, received 5 at position 1", value.decode, [0, 5])
    refused("ids must be from 0 to 4, received -1 at position 0", value.decode, [-1])
    refused("ids must hold whole numbers, received 0.5 at position 0", value.decode, [0.5])
    refused("ids must have shape (samples,), received (1, 2)", value.decode, [[1, 2]])
    refused("ids must hold real numbers, received strings (dtype <U1)", value.decode, "a", error=TypeError)


# Characters.

def test_characters():
    text = "to be, or not\nto be: ÄÖ \U0001f600"
    characters = Characters.fit(text)
    assert characters.characters == "".join(sorted(set(text)))
    assert len(characters) == len(set(text))
    ids = characters.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == [characters.characters.index(c) for c in text]
    assert set(ids.tolist()) == set(range(len(characters)))
    assert characters.decode(ids) == text


def test_characters_in_an_order_of_their_own():
    characters = Characters("zay")
    assert characters.encode("azyz").tolist() == [1, 0, 2, 0]
    assert characters.decode([1, 0, 2, 0]) == "azyz"


def test_no_characters():
    characters = Characters("x")
    assert characters.encode("").tolist() == []
    assert characters.decode([]) == ""
    assert characters.encode("xx").tolist() == [0, 0]


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(), min_size=1), st.randoms(use_true_random=False))
def test_drawn_characters(text, random):
    order = sorted(set(text))
    random.shuffle(order)
    for characters in (Characters.fit(text), Characters("".join(order))):
        assert characters.decode(characters.encode(text)) == text


def test_wrong_characters():
    rule = "Characters: characters must be a string of at least one, none of them twice, received"
    refused(f"{rule} ''", Characters, "")
    refused(f"{rule} ['a']", Characters, ["a"])
    refused(f"{rule} 'b' twice", Characters, "abcb")
    refused("text must hold at least one character, received none", Characters.fit, "")
    refused("text must be a string, received ['a']", Characters.fit, ["a"], error=TypeError)
    refused("text must be a string, received b'a'", Characters("a").encode, b"a", error=TypeError)
    refused("text must hold characters of 'abc' only, received 'z' at position 2", Characters("abc").encode, "abzaz")
