"""Graphs whose nodes have features and classes: the record that all loaders and makers give, a loader of npz files, and the karate club.

V nodes, F features.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import numpy as np

from nnkit.graph import Adjacency, CsrArrays, mask_of
from nnkit.graph.csr import as_numbers

__all__ = ["CitationGraph", "load_graph_npz", "load_karate_club"]

AnyPath: TypeAlias = str | os.PathLike[str]

UNLABELLED = -1


@attrs.frozen(eq=False, repr=False)
class CitationGraph:
    """A graph whose nodes are to be classified.

    Fields:
        features: scipy.sparse.csr_matrix (V, F), float32; None where a file has none.
        adjacency: of V nodes.
        labels: int64 (V,), 0 to classes - 1, or -1 where a node has none.
        train_mask, validation_mask, test_mask: booleans (V,).
        classes: their number.
    """

    features: Any
    adjacency: Adjacency
    labels: np.ndarray
    train_mask: np.ndarray
    validation_mask: np.ndarray
    test_mask: np.ndarray
    classes: int

    def __repr__(self) -> str:
        features = "no" if self.features is None else self.features.shape[1]
        return f"<CitationGraph of {self.adjacency.nodes} nodes, {self.adjacency.entries} entries, {features} features, {self.classes} classes>"


def load_graph_npz(path: AnyPath) -> CitationGraph:
    """A citation graph from an npz file of arrays, read without pickle.

    Args:
        path: of a file that holds adj_indptr, adj_indices, adj_data and adj_shape, a CSR matrix (V, V); the same of features, (V, F), which may
            be missing altogether; labels (V,), -1 for none; train_idx, val_idx and test_idx, numbers of nodes; and num_classes.

    Raises:
        FileNotFoundError: nothing at path.
        ValueError: no npz file; an array that is missing or pickled; broken matrices; labels or nodes out of range.
    """
    path = _as_path(path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except Exception as error:                           # a broken archive raises nearly anything
        raise ValueError(f"{path.name} must be an npz file of arrays without pickles: {error}") from None
    needed = ["labels", "train_idx", "val_idx", "test_idx", "num_classes"]
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise ValueError(f"{path.name} must hold the arrays {', '.join(needed)}, received none of the name {missing[0]}")
    adjacency = Adjacency.of(_stored_matrix(arrays, "adj", path.name).matrix)
    V = adjacency.nodes
    features = _stored_matrix(arrays, "features", path.name) if any(name.startswith("features_") for name in arrays) else None
    classes = arrays["num_classes"]
    if classes.dtype.kind not in "iu" or classes.size != 1 or classes.item() < 1:
        raise ValueError(f"num_classes of {path.name} must be a whole number at least 1, received {classes!r}")
    if features is not None and features.shape[0] != V:
        raise ValueError(f"features of {path.name} must have the {V} nodes of its adjacency, received {features.shape[0]}")
    train, validation, test = (mask_of(as_numbers(arrays[name], V, f"{name} of {path.name}"), V) for name in needed[1:4])
    return CitationGraph(None if features is None else features.matrix.astype(np.float32), adjacency,
                         _as_labels(arrays["labels"], V, classes.item(), path.name), train, validation, test, classes.item())


def load_karate_club() -> CitationGraph:
    """Zachary's karate club through NetworkX: 34 members, 78 friendships, without weights; classes 0, Mr. Hi's, and 1, the Officer's.

    Every member has one feature of its own (the identity matrix). Training knows the sides of Mr. Hi (0) and the Officer (33) alone, all others
    are for testing.

    Raises ImportError where NetworkX is not installed.

    W. W. Zachary, An information flow model for conflict and fission in small groups, Journal of Anthropological Research 33 (1977).
    """
    import scipy.sparse

    try:
        import networkx
    except ImportError:
        raise ImportError("load_karate_club needs NetworkX, which is not installed: pip install networkx") from None
    club = networkx.karate_club_graph()
    V = len(club)
    adjacency = Adjacency.of(networkx.to_scipy_sparse_array(club, weight=None, format="csr"))
    labels = np.array([club.nodes[node]["club"] != "Mr. Hi" for node in club], np.int64)
    train = mask_of([0, V - 1], V)
    return CitationGraph(scipy.sparse.identity(V, np.float32, "csr"), adjacency, labels, train, np.zeros(V, bool), ~train, 2)


def _as_path(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a path, received {path!r}")
    if not Path(path).exists():
        raise FileNotFoundError(f"path must name a file that exists, received {str(path)!r}")
    return Path(path)


def _as_labels(labels: np.ndarray, V: int, classes: int, file: str) -> np.ndarray:
    if labels.shape != (V,) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels of {file} must be whole numbers ({V},), one for each node, received {labels.dtype} {labels.shape}")
    wrong = (labels < UNLABELLED) | (labels >= classes)
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(f"labels of {file} must be from 0 to {classes - 1}, or {UNLABELLED} for none, received {labels[first]} at position {first}")
    return labels.astype(np.int64)


def _stored_matrix(arrays: dict[str, np.ndarray], prefix: str, file: str) -> CsrArrays:
    names = [f"{prefix}_{part}" for part in ("data", "indices", "indptr", "shape")]
    for name in names:
        if name not in arrays:
            raise ValueError(f"{file} must hold the arrays {', '.join(names)}, received none of the name {name}")
    values, indices, indptr, shape = (arrays[name] for name in names)
    if shape.shape != (2,) or shape.dtype.kind not in "iu":
        raise ValueError(f"{prefix}_shape of {file} must be 2 whole numbers, received {shape!r}")
    return CsrArrays.of_parts(indptr, indices, values, tuple(shape.tolist()), f"{prefix} of {file}")
