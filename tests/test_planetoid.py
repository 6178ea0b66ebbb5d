"""Citation graphs from files: the eight of Planetoid, made small by hand as Python 2 wrote them, npz files, pickles that do more than they should."""

import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from helpers import refused
from nnkit.datasets import load_graph_npz, load_karate_club, load_planetoid
from nnkit.datasets.pickled import read_array, read_matrix, read_neighbours

# Pickles of protocol 2, instruction by instruction, with the names that NumPy, SciPy and Python had when Planetoid was written.

START, END = b"\x80\x02", b"."


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def whole(n):
    return b"J" + struct.pack("<i", n)


def text(content):
    return b"T" + struct.pack("<I", len(content)) + content


def together(*items):
    return b"(" + b"".join(items) + b"t"


def py2_array(array, shape=None, code=None, order=b"<", items=None, by_columns=False, head=None):
    """An array, or what claims to be one."""
    code = array.dtype.str[1:].encode() if code is None else code
    items = text(array.tobytes("F" if by_columns else "C")) if items is None else items
    dtype = named("numpy", "dtype") + together(text(code), whole(0), whole(1)) + b"R"
    dtype += together(whole(3), text(order), b"N", b"N", b"N", whole(-1), whole(-1), whole(0)) + b"b"
    made = (head or named("numpy.core.multiarray", "_reconstruct")) + together(named("numpy", "ndarray"), together(whole(0)), text(b"b")) + b"R"
    return made + together(whole(1), together(*map(whole, array.shape if shape is None else shape)), dtype, b"\x88" if by_columns else b"\x89",
                           items) + b"b"


def py2_matrix(matrix, shape=None, module="scipy.sparse.csr", **parts):
    arrays = {name: parts.get(name, py2_array(getattr(matrix, name))) for name in ("indptr", "indices", "data")}
    state = text(b"format") + text(b"csr") + text(b"_shape") + (together(*map(whole, matrix.shape)) if shape is None else shape)
    state += b"".join(text(name.encode()) + array for name, array in arrays.items()) + text(b"maxprint") + whole(50)
    return named(module, "csr_matrix") + b")\x81}(" + state + b"ub"


def py2_lists(lists):
    made = named("collections", "defaultdict") + together(named("__builtin__", "list")) + b"R("
    return made + b"".join(whole(key) + b"](" + b"".join(map(whole, row)) + b"e" for key, row in lists.items()) + b"u"


# A graph of 6 nodes: 3 in allx, of which 2 for training; test nodes 5 and 3; node 4 is missing, as 15 are in CiteSeer.

ALLX = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 1]], np.float32)
TX = np.array([[0, 1, 1, 0], [1, 0, 0, 0]], np.float32)
ALLY, TY = np.array([[1, 0], [0, 1], [1, 0]], np.int32), np.array([[0, 1], [1, 0]], np.int32)
LISTS = {0: [1, 1, 2], 1: [0], 2: [2, 5], 3: [], 4: [4], 5: []}         # repeated, in one direction only, self-loops
FILES = {"x": py2_matrix(sp.csr_matrix(ALLX[:2])), "y": py2_array(ALLY[:2]), "tx": py2_matrix(sp.csr_matrix(TX)), "ty": py2_array(TY),
         "allx": py2_matrix(sp.csr_matrix(ALLX)), "ally": py2_array(ALLY), "graph": py2_lists(LISTS)}


def write(folder, **changes):
    """The eight files, some of them changed; None leaves one out."""
    files = {f"ind.tiny.{part}": START + changes.get(part, content) + END for part, content in FILES.items() if changes.get(part, b"") is not None}
    files["ind.tiny.test.index"] = changes.get("index", b"5\n3\n")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_the_eight_files(tmp_path):
    graph = load_planetoid(write(tmp_path), "tiny")
    np.testing.assert_array_equal(graph.features.toarray(), [*ALLX, TX[1], np.zeros(4), TX[0]])
    assert graph.features.dtype == np.float32
    np.testing.assert_array_equal(graph.labels, [0, 1, 0, 0, -1, 1])
    assert graph.labels.dtype == np.int64
    np.testing.assert_array_equal(graph.adjacency.edges, [[1, 2, 0, 0, 5, 2], [0, 0, 1, 2, 2, 5]])
    np.testing.assert_array_equal(graph.adjacency.csr.values, 1)
    for mask, nodes in ((graph.train_mask, [0, 1]), (graph.validation_mask, [2]), (graph.test_mask, [3, 5])):
        np.testing.assert_array_equal(np.flatnonzero(mask), nodes)
        assert mask.shape == (6,)
    assert graph.classes == 2
    assert repr(graph) == "<CitationGraph of 6 nodes, 6 entries, 4 features, 2 classes>"


def test_other_ways_to_write_the_same(tmp_path):
    expected = load_planetoid(write(tmp_path), "tiny")
    encoded = named("_codecs", "encode") + together(b"X" + struct.pack("<I", 24) + ALLY.tobytes(), text(b"latin1")) + b"R"
    for changes in ({"ally": py2_array(ALLY, by_columns=True)}, {"ally": py2_array(ALLY, items=encoded)},
                    {"ally": py2_array(ALLY.astype(">i8"), order=b">")}, {"ally": py2_array(ALLY.astype(float))},
                    {"allx": py2_matrix(sp.csr_matrix(ALLX).astype(np.float64))},
                    {"allx": py2_matrix(sp.csr_matrix(ALLX), module="scipy.sparse._csr")},
                    {"graph": py2_lists({5: [2], 0: [2, 1], 3: [3], 4: [4]})}, {"index": b"5 3"}):
        graph = load_planetoid(write(tmp_path, **changes), "tiny")
        np.testing.assert_array_equal(graph.features.toarray(), expected.features.toarray())
        np.testing.assert_array_equal(graph.labels, expected.labels)
        np.testing.assert_array_equal(graph.adjacency.edges, expected.adjacency.edges)
    python3 = START + py2_array(ALLY, head=named("numpy._core.multiarray", "_reconstruct")) + END
    np.testing.assert_array_equal(read_array(python3, "y"), ALLY)
    np.testing.assert_array_equal(read_array(pickle.dumps(np.arange(-3.5, 4), 2), "y"), np.arange(-3.5, 4))
    assert read_array(START + py2_array(np.zeros((0, 4), np.uint8)) + END, "y").shape == (0, 4)
    np.testing.assert_array_equal(read_matrix(pickle.dumps(sp.csr_matrix(TX), 2), "tx").matrix.toarray(), TX)


def test_files_that_do_not_go_together(tmp_path):
    def check(message, **changes):
        refused(message, load_planetoid, write(tmp_path, **changes), "tiny")

    check("ind.tiny.x and ind.tiny.y must have the same nodes, 4 features and 2 classes, received shapes (2, 4) and (3, 2)", y=py2_array(ALLY))
    check("ind.tiny.tx and ind.tiny.ty must have the same nodes, 4 features and 2 classes, received shapes (2, 3) and (2, 2)",
          tx=py2_matrix(sp.csr_matrix(TX[:, :3])))
    check("ind.tiny.tx and ind.tiny.ty must have the same nodes, 4 features and 2 classes, received shapes (2, 4) and (2, 3)",
          ty=py2_array(np.eye(3, dtype=np.int32)[:2]))
    other = "ind.tiny.x and ind.tiny.y must be the first rows of allx and ally, received others"
    check(other, x=py2_matrix(sp.csr_matrix(ALLX[1:])))
    check(other, y=py2_array(ALLY[1:]))
    check(other, x=py2_matrix(sp.csr_matrix(ALLX[[0, 1, 2, 2]])), y=py2_array(ALLY[[0, 1, 2, 2]]))
    check("ind.tiny.ty must hold one-hot labels (nodes, classes), received something else of shape (2, 2)", ty=py2_array(np.ones((2, 2), int)))
    check("ind.tiny.ty must hold one-hot labels (nodes, classes), received something else of shape (2,)", ty=py2_array(np.ones(2, int)))
    check("ind.tiny.ty must hold one-hot labels (nodes, classes), received something else of shape (2, 2)", ty=py2_array(2 * TY))
    check("ind.tiny.test.index must hold a node's number in each line, received something else", index=b"5\nx\n")
    check("ind.tiny.test.index must hold a node's number in each line, received something else", index=b"")
    check("ind.tiny.test.index must hold a node's number in each line, received something else", index=b"5\n99999999999\n")
    check("ind.tiny.test.index must name each node once, received some of them repeatedly", index=b"5\n5\n")
    check("ind.tiny.test.index must name the 2 nodes of tx, received 3", index=b"3\n4\n5\n")
    check("ind.tiny.test.index must name nodes behind the 3 of allx, received 2", index=b"5\n2\n")
    check("ind.tiny.graph must name the 7 nodes that the other files have, received 6, from 0 to 5", index=b"3\n6\n")
    check("ind.tiny.graph must name the 100000000 nodes that the other files have, received 6, from 0 to 5",
          index=b"3\n99999999\n")
    check("ind.tiny.graph must name the 6 nodes that the other files have, received 6, from -1 to 4",
          graph=py2_lists({-1: [0], 1: [2], 3: [4]}))
    check("ind.tiny.graph must name the 6 nodes that the other files have, received 0", graph=py2_lists({}))


def test_wrong_paths_and_names(tmp_path):
    refused(f"folder must hold the file ind.tiny.graph, received {str(tmp_path)!r}", load_planetoid, write(tmp_path, graph=None), "tiny",
            error=FileNotFoundError)
    refused(f"folder must hold the file ind.cora.x, received {str(tmp_path)!r}", load_planetoid, tmp_path, error=FileNotFoundError)
    refused("folder must be a path, received None", load_planetoid, None, error=TypeError)
    for name in ("../cora", "", None):
        refused(f"name must be a word such as 'cora', received {name!r}", load_planetoid, tmp_path, name)


# Pickles that do more than they should, or are damaged.

ARRAY, MATRIX, LISTED = ("x must be a pickled array of numbers and nothing else: ", "x must be a pickled SciPy CSR matrix and nothing else: ",
                         "x must be a pickled dictionary of lists of whole numbers and nothing else: ")
READERS = ((read_array, ARRAY), (read_matrix, MATRIX), (read_neighbours, LISTED))


class Call:
    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


def test_nothing_that_a_pickle_names_is_called():
    calls = [(b"cos\nsystem\n" + together(text(b"true")) + b"R", "os.system"), (b"cbuiltins\neval\n" + together(text(b"1")) + b"R", "builtins.eval"),
             (b"(S'true'\nios\nsystem\n", "os.system"), (named("numpy", "load"), "numpy.load"), (b"(cposix\nsystem\nS'true'\no", "posix.system"),
             (named("scipy.sparse", "load_npz"), "scipy.sparse.load_npz"), (named("collections", "Counter"), "collections.Counter"),
             (named("numpy.core.multiarray", "scalar"), "numpy.core.multiarray.scalar"), (named("__builtin__", "getattr"), "__builtin__.getattr")]
    for content, name in calls:
        for read, rule in READERS:
            refused(f"{rule}it names {name}", read, START + content + END, "x")
            refused(f"{rule}it names {name}", read, START + content + b"0" + FILES["y"] + END, "x")
    for protocol in range(2, 6):
        for read, rule in READERS:
            with pytest.raises(ValueError, match=f"^{rule}it names "):
                read(pickle.dumps(Call(os.mkdir, "never"), protocol), "x")
    assert not Path("never").exists()


def test_names_are_held_to_what_they_stand_for():
    def check(message, read, content):
        refused(message, read, START + content + END, "x")

    array, matrix = named("numpy", "ndarray"), named("scipy.sparse.csr", "csr_matrix")
    check(f"{ARRAY}it calls what needs no call", read_array, array + b")R")
    check(f"{ARRAY}it changes a function", read_array, array + b"}b")
    check(f"{ARRAY}it names scipy.sparse.csr.csr_matrix", read_array, FILES["x"])
    check(f"{ARRAY}it names collections.defaultdict", read_array, FILES["graph"])
    check(f"{LISTED}it names numpy.core.multiarray._reconstruct", read_neighbours, FILES["y"])
    check(f"{MATRIX}it names collections.defaultdict", read_matrix, FILES["graph"])
    nested = b"N" + b"2\x86" * 200                       # a tuple twice in a tuple twice in a tuple ...: hashed along all paths it takes for ever
    check(f"{LISTED}a dictionary's key must be text or a number", read_neighbours, b"}" + nested + b"Ns")
    for content in (array, b"N", b"}", b"](K\x01e", text(b"a"), FILES["y"][:-1] + b"0",
                    named("numpy", "dtype") + together(text(b"i4")) + b"R"):
        check(f"{ARRAY}it holds something else", read_array, content)
    for content in (FILES["y"], matrix, matrix + b")R", matrix + b")\x81", matrix + b")\x81}b", matrix + b")\x81K\x01b",
                    py2_matrix(sp.csr_matrix(TX), b"K\x02"), py2_matrix(sp.csr_matrix(TX), together(b"K\x02", text(b"4")))):
        check(f"{MATRIX}it holds something else", read_matrix, content)
    with pytest.raises(ValueError, match=f"^{MATRIX}"):
        read_matrix(START + matrix + b"}b" + END, "x")   # a state for the class itself
    with pytest.raises(ValueError, match=f"^{MATRIX}"):
        read_matrix(START + matrix + together(whole(1)) + b"\x81" + END, "x")
    encode = named("_codecs", "encode")
    for content in (together(text(b"a"), text(b"rot13")), together(text(b"a")), together(whole(1), text(b"latin1"))):
        check(f"{ARRAY}it encodes something else than text as latin1", read_array, encode + content + b"R")
    items = (b"K\x02", b"](\x88e", b"](U\x01ae", b"](G" + bytes(8) + b"e", b"](\x8a\x09" + b"\x7f" * 9 + b"e", b"}", b"K\x01\x85")
    for lists in (*(b"}(K\x01" + item + b"u" for item in items), b"}(U\x01a]u", b"]", b"N"):
        check(f"{LISTED}it holds something else", read_neighbours, lists)


def test_forged_arrays():
    def check(message, *arguments, **named):
        refused(ARRAY + message, read_array, START + py2_array(*arguments, **named) + END, "x")

    dtypes, size = "it holds an array of other dtypes than real numbers", "it holds an array of another number of bytes than its shape {} has"
    for code in (b"O8", b"V8", b"S4", b"U4", b"c16", b"M8", b"i3", b"i99999999", b"", b"f16", b"b1"):
        check(dtypes, ALLY, code=code)
    for order in (b"", b"!", b"<<", b"="):
        check(dtypes, ALLY, order=order)
    for shape in ((3, 3), (2**30, 2**30), (0, 2), (7,)):
        check(size.format(shape), ALLY, shape=shape)
    for shape in ((-1, -6), (), (3, 2, 1), (-6,)):
        check("it holds something else", ALLY, shape=shape)
    check(size.format((3, 2)), ALLY, items=text(b"short"))
    check(size.format((3, 2)), ALLY, items=b"N")
    check(size.format((3, 2)), ALLY, items=b"]")
    check(size.format((1, 1)), ALLY, shape=(1, 1), items=b"X\x03\x00\x00\x00\xe2\x82\xac")         # one character, but none of latin1


BROKEN = r"^(the indptr of |the indices of |)x must "


def test_forged_matrices():
    matrix = sp.csr_matrix(TX)
    for name, array in (("indices", [0, 9, 1]), ("indices", [0, 1, -1]), ("indices", [0, 2**31 - 1, 1]), ("indices", [[0], [1], [2]]),
                        ("indices", [0.0, 1.0, 2.0]), ("indptr", [0, 3, 2]), ("indptr", [0, 2, 99]), ("indptr", [0, -7, 3]),
                        ("indptr", [-1, 1, 3]), ("indptr", [0, 3]), ("data", [1.0]), ("data", [[1.0, 1.0, 1.0]]), ("data", [1.0, np.nan, 1.0])):
        array = np.array(array, None if isinstance(np.ravel(array)[0], float) else np.int32)
        with pytest.raises(ValueError, match=BROKEN):
            read_matrix(START + py2_matrix(matrix, **{name: py2_array(array)}) + END, "x")
    refused(f"{MATRIX}it holds something else", read_matrix, START + py2_matrix(matrix, data=text(b"abc")) + END, "x")
    for shape in ((2, 2), (3, 4), (2, 2**31)):
        with pytest.raises(ValueError, match=BROKEN):
            read_matrix(START + py2_matrix(matrix, b"(" + b"".join(b"\x8a\x05" + n.to_bytes(5, "little") for n in shape) + b"t") + END, "x")
    refused(f"{MATRIX}it holds something else", read_matrix, START + py2_matrix(matrix, together(whole(-2), whole(4))) + END, "x")


def test_damaged_files():
    """Cut off anywhere, or with any byte changed, a file is refused in the same words or read as an array of that kind."""
    for (read, rule), part in zip(READERS, ("y", "x", "graph"), strict=True):
        content = START + FILES[part] + END
        read(content, "x")
        for length in range(len(content)):
            with pytest.raises(ValueError, match=f"^{rule}"):
                read(content[:length], "x")
        with pytest.raises(ValueError, match=f"^{rule}it ends at byte {len(content)} of {len(content) + 1}$"):
            read(content + b"\0", "x")
        rng = np.random.default_rng(0)
        for place in range(len(content)):
            changed = bytearray(content)
            changed[place] ^= 1 << rng.integers(8)
            message = "x must, read"
            try:
                read(bytes(changed), "x")
            except ValueError as error:
                message = str(error)
            assert message.startswith((rule, "x must", "the indptr of x", "the indices of x"))
    with pytest.raises(ValueError, match=f"^{ARRAY}it remembers 2147483647 objects$"):
        read_array(START + b"Nr\xff\xff\xff\x7f" + END, "x")         # 16 GB for a few bytes
    with pytest.raises(ValueError, match=f"^{ARRAY}"):
        read_array(START + b"T\xff\xff\xff\x7f" + END, "x")


# npz files.

def stored(**changes):
    adjacency, features = sp.csr_matrix(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32)), sp.csr_matrix(np.eye(3, 2, dtype=np.float32))
    arrays = {"labels": np.array([0, 1, -1]), "train_idx": np.array([0]), "val_idx": np.array([1]), "test_idx": np.array([], np.int64),
              "num_classes": np.array(2)}
    for prefix, matrix in (("adj", adjacency), ("features", features)):
        arrays |= {f"{prefix}_{part}": getattr(matrix, part) for part in ("indptr", "indices", "data")}
        arrays[f"{prefix}_shape"] = np.array(matrix.shape)
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def write_npz(folder, **changes):
    np.savez(folder / "g.npz", **stored(**changes))
    return folder / "g.npz"


def test_npz_files(tmp_path):
    graph = load_graph_npz(write_npz(tmp_path))
    np.testing.assert_array_equal(graph.features.toarray(), np.eye(3, 2))
    assert graph.features.dtype == np.float32
    np.testing.assert_array_equal(graph.adjacency.edges, [[1, 0, 2, 1], [0, 1, 1, 2]])
    np.testing.assert_array_equal(graph.labels, [0, 1, -1])
    np.testing.assert_array_equal([graph.train_mask, graph.validation_mask, graph.test_mask], [[1, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert type(graph.classes) is int
    missing = dict.fromkeys(("features_indptr", "features_indices", "features_data", "features_shape"))
    graph = load_graph_npz(str(write_npz(tmp_path, **missing)))
    assert graph.features is None
    assert repr(graph) == "<CitationGraph of 3 nodes, 4 entries, no features, 2 classes>"


def test_broken_npz_files(tmp_path):
    def check(message, **changes):
        refused(message, load_graph_npz, write_npz(tmp_path, **changes))

    check("g.npz must hold the arrays labels, train_idx, val_idx, test_idx, num_classes, received none of the name val_idx", val_idx=None)
    check("g.npz must hold the arrays adj_data, adj_indices, adj_indptr, adj_shape, received none of the name adj_indptr", adj_indptr=None)
    check("the indices of adj of g.npz must hold whole numbers from 0 to 2, received 3 at position 1", adj_indices=np.array([1, 3, 2, 1]))
    check("adj_shape of g.npz must be 2 whole numbers, received array([3., 3.])", adj_shape=np.array([3.0, 3.0]))
    check("adjacency must be square, received shape (3, 4)", adj_shape=np.array([3, 4]))
    check("features of g.npz must have the 3 nodes of its adjacency, received 4", features_shape=np.array([4, 2]),
          features_indptr=np.array([0, 1, 2, 2, 2]))
    check("num_classes of g.npz must be a whole number at least 1, received array(0)", num_classes=np.array(0))
    check("labels of g.npz must be whole numbers (3,), one for each node, received int64 (2,)", labels=np.array([0, 1]))
    check("labels of g.npz must be from 0 to 1, or -1 for none, received 2 at position 1", labels=np.array([0, 2, 0]))
    check("labels of g.npz must be from 0 to 1, or -1 for none, received -2 at position 2", labels=np.array([0, 1, -2]))
    check("test_idx of g.npz must hold whole numbers from 0 to 2, received 3 at position 0", test_idx=np.array([3]))
    with pytest.raises(ValueError, match=r"^adj of g\.npz must be a CSR matrix: "):
        load_graph_npz(write_npz(tmp_path, adj_data=np.ones(3)))
    rule = r"^g\.npz must be an npz file of arrays without pickles: "
    with pytest.raises(ValueError, match=f"{rule}Object arrays cannot be loaded when allow_pickle=False$"):
        load_graph_npz(write_npz(tmp_path, labels=np.array([Call(os.mkdir, "never")], object)))
    path = write_npz(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    for content in (path.read_bytes()[:-100], b"", b"no file", pickle.dumps(1)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rule):
            load_graph_npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labels.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<i8'")
    with pytest.raises(ValueError, match=rule):
        load_graph_npz(path)
    missing = str(tmp_path / "missing.npz")
    refused(f"path must name a file that exists, received {missing!r}", load_graph_npz, missing, error=FileNotFoundError)
    refused("path must be a path, received 3", load_graph_npz, 3, error=TypeError)


# The karate club.

def test_karate_club():
    club = load_karate_club()
    assert repr(club) == "<CitationGraph of 34 nodes, 156 entries, 34 features, 2 classes>"
    assert club.adjacency.is_symmetric
    np.testing.assert_array_equal(club.adjacency.csr.values, 1)
    np.testing.assert_array_equal(club.features.toarray(), np.eye(34))
    assert club.features.dtype == np.float32
    assert (club.labels[0], club.labels[33], club.labels.sum()) == (0, 1, 17)
    assert [int(mask.sum()) for mask in (club.train_mask, club.validation_mask, club.test_mask)] == [2, 0, 32]


def test_karate_club_without_networkx(monkeypatch):
    monkeypatch.setitem(sys.modules, "networkx", None)
    refused("load_karate_club needs NetworkX, which is not installed: pip install networkx", load_karate_club, error=ImportError)


# Real files, where NNKIT_DATA names the folder that holds them.

def real(name):
    folder = os.environ.get("NNKIT_DATA")
    path = Path(folder, "planetoid", name) if folder else None
    if path is None or not path.exists():
        pytest.skip(f"NNKIT_DATA names no folder that holds planetoid/{name}")
    return path


def test_cora_is_the_same_in_both_formats():
    one, other = load_planetoid(real("raw"), "cora"), load_graph_npz(real("cora.npz"))
    for graph in (one, other):
        assert repr(graph) == "<CitationGraph of 2708 nodes, 10556 entries, 1433 features, 7 classes>"
        assert graph.adjacency.is_symmetric
        assert graph.features.dtype == np.float32
        np.testing.assert_array_equal(np.bincount(graph.labels), [351, 217, 418, 818, 426, 298, 180])
        np.testing.assert_array_equal(np.bincount(graph.labels[graph.train_mask]), [20] * 7)
        assert [int(mask.sum()) for mask in (graph.train_mask, graph.validation_mask, graph.test_mask)] == [140, 500, 1000]
    for part in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(one.features, part), getattr(other.features, part))
    for part in ("starts", "columns", "values"):
        np.testing.assert_array_equal(getattr(one.adjacency.csr, part), getattr(other.adjacency.csr, part))
    for part in ("labels", "train_mask", "validation_mask", "test_mask"):
        np.testing.assert_array_equal(getattr(one, part), getattr(other, part))


def test_pubmed_without_features():
    graph = load_graph_npz(real("pubmed_graph_only.npz"))
    assert repr(graph) == "<CitationGraph of 19717 nodes, 88648 entries, no features, 3 classes>"
    np.testing.assert_array_equal(np.bincount(graph.labels), [4103, 7739, 7875])
