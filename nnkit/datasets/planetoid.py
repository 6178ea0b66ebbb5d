"""The citation graphs Cora, CiteSeer and PubMed in the eight files of Planetoid: nodes are papers, features the words they hold.

Yang, Cohen and Salakhutdinov, Revisiting semi-supervised learning with graph embeddings (ICML 2016), https://github.com/kimiyoung/planetoid.

V nodes, N the first of them, which are not for testing, F features, K classes. Seven files are pickles that Python 2 wrote, which are read as
`nnkit.datasets.pickled` says:

    x, y           of the training nodes: features (CSR) and one-hot labels; the first rows of allx and ally
    allx, ally     of nodes 0 to N - 1
    tx, ty         of the test nodes, in the order of test.index
    graph          dictionary: node -> list of its neighbours
    test.index     text: a node's number in each line
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from nnkit.datasets.graphs import UNLABELLED, AnyPath, CitationGraph
from nnkit.datasets.pickled import read_array, read_matrix, read_neighbours
from nnkit.graph import Adjacency, CsrArrays, mask_of

__all__ = ["load_planetoid"]

VALIDATION = 500                                         # nodes, behind those for training


def load_planetoid(folder: AnyPath, name: str = "cora") -> CitationGraph:
    """A citation graph from the eight files ind.<name>.x, y, tx, ty, allx, ally, graph and test.index.

    Training has the nodes of x (20 of each class), validation the next 500, testing those of test.index. The edges are undirected, each once,
    without weights and without the self-loops that CiteSeer's and PubMed's files hold, as in PyTorch Geometric. In CiteSeer 15 node numbers are
    missing from test.index: these nodes have no features, the label -1, and are in no mask.

    Args:
        folder: holds the files.
        name: "cora" (default), "citeseer" or "pubmed", or any other in such files.

    Raises:
        FileNotFoundError: no such folder, or a file is missing.
        TypeError: folder is no path.
        ValueError: a file that is damaged, holds anything but its arrays, or does not go with the others.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"folder must be a path, received {folder!r}")
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"name must be a word such as 'cora', received {name!r}")
    content = {part: _read(Path(folder), f"ind.{name}.{part}") for part in ("x", "y", "tx", "ty", "allx", "ally", "graph", "test.index")}
    x, tx, allx = (read_matrix(content[part], f"ind.{name}.{part}") for part in ("x", "tx", "allx"))
    y, ty, ally = (_as_labels(content[part], f"ind.{name}.{part}") for part in ("y", "ty", "ally"))
    test = _as_test_index(content["test.index"], f"ind.{name}.test.index")
    _refuse_different(name, (x, tx, allx), (y, ty, ally), test)
    N, V = allx.shape[0], int(test.max()) + 1
    edges = _as_edges(*read_neighbours(content["graph"], f"ind.{name}.graph"), V, f"ind.{name}.graph")
    labels = np.full(V, UNLABELLED, np.int64)
    for nodes, one_hot in ((np.arange(N), ally), (test, ty)):
        labels[nodes] = np.where(one_hot.any(1), one_hot.argmax(1), UNLABELLED)
    validation = np.arange(len(y), min(len(y) + VALIDATION, N))
    return CitationGraph(_stacked(allx, tx, test, V), Adjacency.of(edges), labels, mask_of(np.arange(len(y)), V), mask_of(validation, V),
                         mask_of(test, V), ally.shape[1])


def _read(folder: Path, file: str) -> bytes:
    if not (folder / file).is_file():
        raise FileNotFoundError(f"folder must hold the file {file}, received {str(folder)!r}")
    return (folder / file).read_bytes()


def _as_labels(content: bytes, file: str) -> np.ndarray:
    """One-hot labels, or rows of zeros, (nodes, K)."""
    array = read_array(content, file)
    if array.ndim != 2 or 0 in array.shape or not np.isin(array, (0, 1)).all() or (array.sum(1) > 1).any():
        raise ValueError(f"{file} must hold one-hot labels (nodes, classes), received something else of shape {array.shape}")
    return array


def _as_test_index(content: bytes, file: str) -> np.ndarray:
    words = content.split()
    if not words or not all(word.isdigit() and len(word) < 10 for word in words):
        raise ValueError(f"{file} must hold a node's number in each line, received something else")
    test = np.array([int(word) for word in words])
    if len(np.unique(test)) < len(test):
        raise ValueError(f"{file} must name each node once, received some of them repeatedly")
    return test


def _refuse_different(name: str, features: tuple[CsrArrays, ...], labels: tuple[np.ndarray, ...], test: np.ndarray) -> None:
    """Raise ValueError where the files do not go together."""
    F, K = features[2].shape[1], labels[2].shape[1]
    for part, matrix, one_hot in zip(("x", "tx", "allx"), features, labels, strict=True):
        if matrix.shape[1] != F or one_hot.shape != (matrix.shape[0], K):
            raise ValueError(f"ind.{name}.{part} and ind.{name}.{part.replace('x', 'y')} must have the same nodes, {F} features and {K} classes, "
                             f"received shapes {matrix.shape} and {one_hot.shape}")
    (x, tx, allx), (y, _, ally) = features, labels
    if len(test) != tx.shape[0]:
        raise ValueError(f"ind.{name}.test.index must name the {tx.shape[0]} nodes of tx, received {len(test)}")
    if test.min() < allx.shape[0]:
        raise ValueError(f"ind.{name}.test.index must name nodes behind the {allx.shape[0]} of allx, received {test.min()}")
    first = allx.take_rows(np.arange(min(len(y), len(ally))))
    if len(y) > len(ally) or (y != ally[:len(y)]).any() or any(
            not np.array_equal(getattr(first, part), getattr(x, part)) for part in ("starts", "columns", "values")):
        raise ValueError(f"ind.{name}.x and ind.{name}.y must be the first rows of allx and ally, received others")


def _as_edges(nodes: np.ndarray, source: np.ndarray, target: np.ndarray, V: int, file: str) -> Any:
    """The SciPy matrix (V, V) of neighbours, each pair once and in both directions. Each node must be named: so the file's size bounds V."""
    import scipy.sparse

    named = np.unique(np.concatenate([nodes, target]))
    if len(named) != V or named[0] != 0 or named[-1] != V - 1:
        raise ValueError(f"{file} must name the {V} nodes that the other files have, received {len(named)}"
                         + (f", from {named[0]} to {named[-1]}" if len(named) else ""))
    between = source != target
    i, j = source[between].astype(np.int32), target[between].astype(np.int32)
    matrix = scipy.sparse.coo_matrix((np.ones(2 * len(i)), (np.concatenate([i, j]), np.concatenate([j, i]))), (V, V)).tocsr()
    matrix.data[:] = 1.0
    return matrix


def _stacked(allx: CsrArrays, tx: CsrArrays, test: np.ndarray, V: int) -> Any:
    """The features of all nodes: those of allx, then those of tx where test says, no others."""
    import scipy.sparse

    blank = allx.entries + tx.entries                    # the rows of both matrices, and a row without entries behind
    both = CsrArrays((allx.shape[0] + len(test) + 1, allx.shape[1]), np.concatenate([allx.starts, allx.entries + tx.starts[1:], [blank]]),
                     np.concatenate([allx.columns, tx.columns]), np.concatenate([allx.values, tx.values]))
    rows = np.full(V, both.shape[0] - 1)
    rows[:allx.shape[0]] = np.arange(allx.shape[0])
    rows[test] = allx.shape[0] + np.arange(len(test))
    features: scipy.sparse.csr_matrix = both.take_rows(rows).matrix.astype(np.float32)
    return features
