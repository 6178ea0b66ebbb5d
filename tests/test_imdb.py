"""The loader of IMDB reviews: its three formats made small, Keras' meaning of the arguments, pickles that do more than they should, real files."""

import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from helpers import refused
from nnkit.datasets import Vocabulary, imdb_vocabulary, load_imdb, pad_sequences
from nnkit.datasets.pickled import read_lists

TEXTS = {
    "train/neg/2_1.txt": "A bad film.<br /><br />Not good!",
    "train/neg/10_4.txt": "a BAD, bad film",
    "train/neg/3_2.txt": "dull",
    "train/pos/1_9.txt": "a good film; not bad",
    "train/pos/4_10.txt": "Good",
    "test/neg/0_3.txt": "a dull thing",
    "test/pos/0_7.txt": "unheard-of, but good",
}
# train: film 3, bad 4, a 3, good 3, not 2, dull 1
WORDS = ("bad", "a", "film", "good", "not", "dull")


def lists(*rows):
    """An array of lists, also where all have one length."""
    array = np.empty(len(rows), object)
    array[:] = [list(row) for row in rows]
    return array


def write_folder(root):
    for name, text in TEXTS.items():
        file = root / "aclImdb" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    for name in ("README", "imdb.vocab", "train/labeledBow.feat", "train/pos/notes.md", "train/neg/urls.txt"):
        (root / "aclImdb" / name).write_text("no review")
    (root / "aclImdb" / "train" / "unsup").mkdir()
    (root / "aclImdb" / "train" / "unsup" / "0_0.txt").write_text("word " * 50)
    return root / "aclImdb"


def write_tar(root, mode="w:gz"):
    folder = write_folder(root / "unpacked")
    with tarfile.open(root / "aclImdb.tar.gz", mode) as archive:
        archive.add(folder, "aclImdb")
    shutil.rmtree(folder)
    return root / "aclImdb.tar.gz"


RNG = np.random.default_rng(0)
KERAS = {
    "x_train": lists(*([int(w) for w in RNG.integers(1, 40, length)] for length in (3, 9, 1, 5, 7, 2, 30))),
    "y_train": np.array([0, 1, 1, 0, 1, 0, 1]),
    "x_test": lists(*([int(w) for w in RNG.integers(1, 60, length)] for length in (4, 4, 4))),
    "y_test": np.array([1, 0, 1]),
}


def write_keras(root, **changes):
    np.savez(root / "imdb.npz", **{**KERAS, **changes})
    (root / "imdb_word_index.json").write_text(json.dumps({f"w{rank}": rank for rank in (2, 1, *range(60, 2, -1))}))
    return root / "imdb.npz"


ARRAYS = {"words": np.array(["<pad>", "<start>", "<oov>", "the", "film", "good"]),
          "train_tokens": np.array([1, 3, 4, 1, 5, 2, 4], "u2"), "train_offsets": np.array([0, 3, 7], "i4"), "train_labels": np.array([0, 1], "u1"),
          "test_tokens": np.array([1, 2, 1, 3], "u2"), "test_offsets": np.array([0, 2, 4], "i4"), "test_labels": np.array([1, 0], "u1")}


def write_arrays(root, **changes):
    np.savez(root / "part.npz", **{**ARRAYS, **changes})
    return root / "part.npz"


def rows(part):
    """Reviews and labels without their order."""
    x, y = part
    assert x.shape == y.shape
    assert x.dtype == object
    assert y.dtype == np.int64
    assert all(isinstance(review, np.ndarray) and review.dtype == np.int32 and review.ndim == 1 for review in x)
    return sorted((review.tolist(), int(label)) for review, label in zip(x, y, strict=True))


# The original data set.

@pytest.mark.parametrize("form", ["folder", "parent", "tar", "plain tar", "string"])
def test_original_data_set(tmp_path, form):
    path = {"folder": write_folder, "parent": lambda root: write_folder(root).parent, "tar": write_tar,
            "plain tar": lambda root: write_tar(root, "w"), "string": lambda root: str(write_folder(root))}[form](tmp_path)
    train, test = load_imdb(path)
    bad, a, film, good, not_, dull = range(3, 9)
    assert rows(train) == sorted([
        ([1, a, bad, film, not_, good], 0), ([1, a, bad, bad, film], 0), ([1, dull], 0), ([1, a, good, film, not_, bad], 1), ([1, good], 1)])
    assert rows(test) == sorted([([1, a, dull, 2], 0), ([1, 2, 2, good], 1)])
    assert imdb_vocabulary(path) == Vocabulary(WORDS)
    assert imdb_vocabulary(path, num_words=5) == Vocabulary(WORDS[:2])
    assert imdb_vocabulary(path, index_from=7) == Vocabulary(WORDS, 7)


def test_folder_and_tar_give_the_same_order(tmp_path):
    (a, a_test), (b, b_test) = load_imdb(write_folder(tmp_path / "a")), load_imdb(write_tar(tmp_path))
    for one, other in ((a, b), (a_test, b_test)):
        np.testing.assert_array_equal(one[1], other[1])
        assert [review.tolist() for review in one[0]] == [review.tolist() for review in other[0]]


def test_vocabulary_agrees_with_the_loader(tmp_path):
    path = write_folder(tmp_path)
    for num_words, index_from in ((None, 3), (6, 3), (8, 5)):
        (x, y), _ = load_imdb(path, num_words=num_words, index_from=index_from)
        vocabulary = imdb_vocabulary(path, num_words, index_from)
        texts = [(text.replace("<br />", " "), int("pos" in name)) for name, text in TEXTS.items() if name.startswith("train")]
        encoded = vocabulary.encode([text for text, _ in texts])
        assert sorted((ids.tolist(), label) for ids, (_, label) in zip(encoded, texts, strict=True)) == rows((x, y))


def add(archive, name, content=b"", **fields):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(content))


def test_links_in_a_tar_are_not_followed(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        for name, text in TEXTS.items():
            add(archive, f"aclImdb/{name}", text.encode())
        add(archive, "aclImdb/train/pos/77_8.txt", type=tarfile.SYMTYPE, linkname=str(secret))
        add(archive, "aclImdb/train/pos/78_8.txt", type=tarfile.LNKTYPE, linkname="aclImdb/README")
        add(archive, "aclImdb/train/pos/79_8.txt", type=tarfile.CHRTYPE)
        add(archive, "../../train/pos/80_8.txt", b"good")           # a member's name is a name, nothing is written
    before = sorted(tmp_path.rglob("*"))
    train, _ = load_imdb(tmp_path / "bad.tar")
    assert len(train[0]) == 6
    assert sorted(tmp_path.rglob("*")) == before


def test_broken_original_data_sets(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "train" / "pos" / "5_9.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"^train/pos/5_9\.txt must be text in UTF-8: "):
        load_imdb(folder)
    shutil.rmtree(folder / "test" / "neg")
    (folder / "train" / "pos" / "5_9.txt").unlink()
    refused(f"path must hold reviews test/neg/ID_STARS.txt, received {str(folder)!r} without any", load_imdb, folder)
    assert imdb_vocabulary(folder).words == WORDS
    with tarfile.open(tmp_path / "large.tar", "w") as archive:
        add(archive, "aclImdb/train/neg/0_1.txt", b"x" * ((1 << 20) + 1))
    refused("aclImdb/train/neg/0_1.txt must be a review of at most 1048576 bytes, received 1048577", load_imdb, tmp_path / "large.tar")


# Keras' file.

OPTIONS = [{}, {"num_words": 20}, {"num_words": 20, "skip_top": 8}, {"skip_top": 5, "oov_char": None}, {"maxlen": 6},
           {"maxlen": 6, "start_char": None}, {"seed": 0},
           {"start_char": None}, {"start_char": None, "index_from": 0}, {"index_from": 10, "start_char": 5, "oov_char": 7},
           {"num_words": 30, "oov_char": None, "maxlen": 10}]


def naive_keras(x, start_char, oov_char, index_from, skip_top, num_words):
    ids = ([] if start_char is None else [start_char]) + [word + index_from for word in x]
    most = float("inf") if num_words is None else num_words
    return [i if skip_top <= i < most else oov_char for i in ids if oov_char is not None or skip_top <= i < most]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_keras_file(tmp_path, options):
    found = load_imdb(write_keras(tmp_path), **options)
    options = {"num_words": None, "skip_top": 0, "maxlen": None, "start_char": 1, "oov_char": 2, "index_from": 3, **options}
    options.pop("seed", None)
    longest = options.pop("maxlen") or 1000
    for part, (x, y) in zip(("train", "test"), found, strict=True):
        kept = [(w, int(label)) for w, label in zip(KERAS[f"x_{part}"], KERAS[f"y_{part}"], strict=True)
                if len(w) + (options["start_char"] is not None) < longest]
        assert rows((x, y)) == sorted((naive_keras(w, **options), label) for w, label in kept)


def test_arguments_mean_what_they_mean_in_keras(tmp_path, monkeypatch):
    imdb = pytest.importorskip("keras.src.datasets.imdb")
    path = write_keras(tmp_path)
    monkeypatch.setattr(imdb, "get_file", lambda **_: path)
    for options in OPTIONS:
        options = {"num_words": 1000, **options}         # None takes the rarest word for unknown there
        for (x, y), (their_x, their_y) in zip(load_imdb(path, **options), imdb.load_data(**options), strict=True):
            np.testing.assert_array_equal(y, their_y)
            assert [review.tolist() for review in x] == [list(review) for review in their_x]


def test_words_of_keras_file(tmp_path):
    path = write_keras(tmp_path)
    vocabulary = imdb_vocabulary(path)
    assert vocabulary.words == tuple(f"w{rank}" for rank in range(1, 61))
    assert vocabulary.index_from == 4
    (x, _), _ = load_imdb(path)
    known = sorted(vocabulary.decode(review) for review in x)
    assert known == sorted(" ".join(f"w{w}" for w in review) for review in KERAS["x_train"])
    assert len(imdb_vocabulary(path, num_words=20)) == 20
    (path.parent / "imdb_word_index.json").write_text('{"a": 1, "b": 3}')
    refused("imdb_word_index.json must map words to the numbers from 1 to their count", imdb_vocabulary, path)
    (path.parent / "imdb_word_index.json").unlink()
    refused(f"the words of Keras' imdb.npz must stand beside it, received no file {str(path.parent / 'imdb_word_index.json')!r}",
            imdb_vocabulary, path, error=FileNotFoundError)


def npy(array, protocol=None, pickled=None):
    """The bytes of an .npy file, with another pickle where one is given."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    if protocol is None and pickled is None:
        return stream.getvalue()
    header = stream.getvalue()
    length = 10 + int.from_bytes(header[8:10], "little")
    return header[:length] + (pickle.dumps(array, protocol) if pickled is None else pickled)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickled_lists(protocol):
    rows = [[1, 255, 256, 65536, 2**31 - 1], [], [0] * 3000]
    if protocol == 2:                                    # names _codecs.encode for bytes; what Python 2 wrote does not
        pickled = pickle.dumps(lists(*rows), 2)
        refused_names = "it names _codecs.encode"
        with pytest.raises(ValueError, match=refused_names):
            read_lists(io.BytesIO(npy(lists(*rows), pickled=pickled)), "x_train")
        return
    found = read_lists(io.BytesIO(npy(lists(*rows), protocol)), "x_train")
    assert [numbers.tolist() for numbers in found] == rows
    assert all(numbers.dtype == np.int32 for numbers in found)


def test_a_pickle_of_numpy_1_and_of_python_2():
    pickled = pickle.dumps(lists([5, 6], [7]), 3)
    old = pickled.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert [numbers.tolist() for numbers in read_lists(io.BytesIO(npy(lists([5, 6], [7]), pickled=old)), "x")] == [[5, 6], [7]]
    # Protocol 2 by Python 2 holds its byte strings as SHORT_BINSTRING (U) where Python 3 has SHORT_BINBYTES (C).
    by_2 = old.replace(b"\x80\x03", b"\x80\x02").replace(b"C\x01b", b"U\x01b")
    assert b"C\x01" not in by_2
    assert [numbers.tolist() for numbers in read_lists(io.BytesIO(npy(lists([5, 6], [7]), pickled=by_2)), "x")] == [[5, 6], [7]]


class Runs:
    """Pickled, a call of a function with arguments."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def malicious(folder):
    """Name -> pickle that makes a file in folder, or tries to, or reaches for NumPy with forged arguments."""
    target = str(folder / "made")
    calls = {
        "os.system": Runs(os.system, f"touch {target}"), "eval": Runs(eval, f"open({target!r}, 'w').close()"), "open": Runs(open, target, "w"),
        "getattr": Runs(getattr, "", "join"), "np.load": Runs(np.load, target), "frombuffer": Runs(np.frombuffer, b"12345678"),
    }
    found = {name: pickle.dumps(call, 4) for name, call in calls.items()}
    found |= {f"{name} in a list": pickle.dumps(lists([1], [call]), 4) for name, call in calls.items()}
    found["two names"] = b"cos\nsystem\n(S'touch " + target.encode() + b"'\ntR."
    found["attribute of a name"] = b"\x80\x04\x8c\x05numpy\x8c\x0ddtype.__new__\x93."
    found["module of a module"] = b"\x80\x04\x8c\x05numpy\x8c\x11_core.multiarray\x93."
    found["ndarray called"] = b"cnumpy\nndarray\n(I1\ntR."
    found["a function changed"] = b"cnumpy\nndarray\n}S'made'\nI1\nsb."
    found["slots changed"] = b"cnumpy\ndtype\n(N}S'made'\nI1\nstb."
    found["an instance"] = b"(S'x'\nios\nsystem\n."
    found["a class"] = b"\x80\x02cnumpy\nndarray\n)\x81."
    found["persistent"] = b"Pname\n."
    found["an extension"] = b"\x82\x01."
    found["cut off"] = pickle.dumps(lists([1, 2], [3]), 4)[:-20]
    found["nothing"] = b""
    found["noise"] = bytes(range(256))
    return found


@pytest.mark.parametrize("name", malicious(Path()))
def test_a_pickle_runs_nothing(tmp_path, name):
    pickled = malicious(tmp_path)[name]
    with pytest.raises(ValueError, match=r"^x_train must be a pickled array of lists of whole numbers and nothing else: "):
        read_lists(io.BytesIO(npy(lists([1], [2]), pickled=pickled)), "x_train")
    path = write_keras(tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", npy(lists([1], [2]), pickled=pickled))
        archive.writestr("y_train.npy", npy(np.array([0, 1])))
        archive.writestr("x_test.npy", npy(lists([1], [2])))
        archive.writestr("y_test.npy", npy(np.array([0, 1])))
    with pytest.raises(ValueError, match=r"^x_train must be a pickled array"):
        load_imdb(path)
    assert not (tmp_path / "made").exists()


def test_other_pickles():
    rule = "x must be a pickled array of lists of whole numbers and nothing else: it holds something else"
    for value in ([1, 2], {"a": 1}, 3, np.dtype("f8"), lists([1], [2], [3]), np.array([[[1]], [[2]]], object)):
        refused(rule, read_lists, io.BytesIO(npy(lists([1], [2]), pickled=pickle.dumps(value, 4))), "x")
    refused("x must be a pickled array of lists of whole numbers and nothing else: it holds something else",
            read_lists, io.BytesIO(npy(lists([1]), pickled=pickle.dumps(np.zeros(1), 4))), "x")
    refused("x[1] must be a list of whole numbers, received 'b'", read_lists, io.BytesIO(npy(np.array([[1], "b"], object))), "x")
    refused("x[0] must hold real numbers, received strings (dtype <U1)", read_lists, io.BytesIO(npy(lists(["b"]))), "x", error=TypeError)
    refused("x[0] must have shape (samples,), received (1, 1)", read_lists, io.BytesIO(npy(lists([[1]]))), "x")
    refused("x[0] must fit int32, received 2147483648 at position 0", read_lists, io.BytesIO(npy(lists([1 << 31]))), "x")
    refused("x must be an array (samples,) of lists, received dtype int64 and shape (2,)", read_lists, io.BytesIO(npy(np.array([1, 2]))), "x")
    refused("x must be an array (samples,) of lists, received dtype object and shape (1, 1)",
            read_lists, io.BytesIO(npy(np.array([[None]], object))), "x")


def test_labels_of_keras_file_are_read_without_pickle(tmp_path):
    with pytest.raises(ValueError, match=r"^Object arrays cannot be loaded when allow_pickle=False$"):
        load_imdb(write_keras(tmp_path, y_train=lists([0], [1])))
    refused("y_test must hold class labels from 0 to 1, received 2 at position 1", load_imdb, write_keras(tmp_path, y_test=np.array([0, 2, 1])))
    refused("x_test and y_test must have the same number of samples, received 3 and 2", load_imdb, write_keras(tmp_path, y_test=np.array([0, 1])))


# The file of arrays.

def test_file_of_arrays(tmp_path):
    path = write_arrays(tmp_path)
    train, test = load_imdb(path)
    assert rows(train) == [([1, 3, 4], 0), ([1, 5, 2, 4], 1)]
    assert rows(test) == [([1, 2], 1), ([1, 3], 0)]
    train, test = load_imdb(path, start_char=None, oov_char=None, index_from=10)
    assert rows(train) == [([10, 11], 0), ([12, 11], 1)]
    assert rows(test) == [([], 1), ([10], 0)]
    assert imdb_vocabulary(path) == Vocabulary(("the", "film", "good"))
    assert imdb_vocabulary(path, 5) == Vocabulary(("the", "film"))


def test_broken_files_of_arrays(tmp_path):
    rule = "train_tokens and train_offsets must be whole numbers (all,) and (3,), received"
    refused(f"{rule} float64 (2,) and int32 (3,)", load_imdb, write_arrays(tmp_path, train_tokens=np.zeros(2)))
    refused(f"{rule} uint16 (7,) and int64 (2,)", load_imdb, write_arrays(tmp_path, train_offsets=np.array([0, 7])))
    for offsets in ([0, 3, 8], [1, 3, 7], [0, 0, 7], [0, -1, 7]):
        refused("train_offsets must rise from 0 to the 7 tokens", load_imdb, write_arrays(tmp_path, train_offsets=np.array(offsets)))
    refused("test_labels must hold class labels from 0 to 1, received 9 at position 0",
            load_imdb, write_arrays(tmp_path, test_labels=np.array([9, 0])))


# Wrong arguments.

def test_wrong_paths(tmp_path):
    missing = str(tmp_path / "missing.npz")
    refused(f"path must name a file or folder that exists, received {missing!r}", load_imdb, missing, error=FileNotFoundError)
    refused("path must be a path, received None", load_imdb, None, error=TypeError)
    text, other = tmp_path / "text", tmp_path / "other.npz"
    text.write_text("no data set")
    np.savez(other, x_train=np.zeros(2))
    for path in (text, other):
        for function in (load_imdb, imdb_vocabulary):
            refused(f"path must name Keras' imdb.npz, the folder aclImdb or a tar of it, or an npz file of tokens, received {str(path)!r}",
                    function, path)
    refused(f"path must hold reviews train/neg/ID_STARS.txt, received {str(tmp_path)!r} without any", load_imdb, tmp_path)


def test_wrong_numbers(tmp_path):
    path = write_arrays(tmp_path)
    for name, low in (("num_words", 1), ("skip_top", 0), ("maxlen", 1), ("seed", 0), ("start_char", 0), ("oov_char", 0), ("index_from", 0)):
        for wrong in (low - 1, 2.0, "3", True):
            refused(f"{name} must be a whole number at least {low}, received {wrong!r}", load_imdb, path, **{name: wrong})
    refused("seed must be a whole number at most 4294967295, received 4294967296", load_imdb, path, seed=1 << 32)
    refused("maxlen must leave reviews for training and for test, received 2: no review is shorter", load_imdb, path, maxlen=2)
    refused("index_from must be a whole number at least 3, received 2", imdb_vocabulary, path, index_from=2)
    refused("num_words must be a whole number at least 4, received 3", imdb_vocabulary, path, 3)


# Real files, where NNKIT_DATA names the folder that holds them.

def real(name):
    folder = os.environ.get("NNKIT_DATA")
    path = Path(folder, "imdb", name) if folder else None
    if path is None or not path.exists():
        pytest.skip(f"NNKIT_DATA names no folder that holds imdb/{name}")
    return path


def test_sample_of_the_original_data_set():
    path = real("aclImdb_sample.tar.gz")
    (x_train, y_train), (x_test, y_test) = load_imdb(path, num_words=5000)
    vocabulary = imdb_vocabulary(path, num_words=5000)
    assert len(x_train) == len(x_test) == 200
    assert y_train.sum() == y_test.sum() == 100
    assert len(vocabulary) == 5000
    assert vocabulary.words[:3] == ("the", "a", "and")
    assert max(review.max() for review in x_train) == 4999
    known = np.concatenate([*x_train, *x_test]) != 2
    assert 0.8 < known.mean() < 1
    assert pad_sequences(x_train, 100).shape == (200, 100)
    assert not any("br" in vocabulary.decode(review).split() for review in x_train)


def test_part_of_imdb_as_arrays():
    path = real("imdb_part1.npz")
    (x_train, y_train), (x_test, y_test) = load_imdb(path)
    assert len(x_train) == len(x_test) == 10_000
    assert y_train.sum() == y_test.sum() == 5000
    with np.load(path) as stored:
        assert sorted(map(len, x_train)) == sorted(np.diff(stored["train_offsets"]))
        np.testing.assert_array_equal(np.bincount(np.concatenate(x_train)), np.bincount(stored["train_tokens"]))
        vocabulary = imdb_vocabulary(path)
        assert vocabulary.words == tuple(stored["words"][3:])
        first = stored["train_tokens"][:stored["train_offsets"][1]]
        assert vocabulary.decode(first) == " ".join("[UNK]" if i == 2 else stored["words"][i] for i in first[1:])
    assert len(vocabulary) == 10_003
    positive = np.mean(y_train[[vocabulary.index["excellent"] in review for review in x_train]])
    assert positive > 0.75                               # labels went along with their reviews
