"""Weights out of any file that nnkit reads, as arrays by the names of a network's own parameters."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from nnkit.io.report import FormatError

if TYPE_CHECKING:
    from nnkit.nodes import Graph

__all__ = ["Weights", "has_torch_names", "kind_of", "read_weights"]

Weights = tuple[dict[str, np.ndarray], tuple[str, ...]]  # arrays by own name, and what the file holds besides, by its names

HDF5, ZIP, PICKLE = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"\x80"


def kind_of(path: str | os.PathLike[str]) -> str:
    """What a file is, by its first bytes: "hdf5", "keras" (a .keras archive), "torch" (.pt, .pth), or "safetensors", nnkit's own among them.

    Raises OSError where it cannot be read, FormatError where it is none of these.
    """
    with open(path, "rb") as file:
        head = file.read(9)
    if head.startswith(HDF5):
        return "hdf5"
    if head.startswith(ZIP):
        try:
            with zipfile.ZipFile(path) as archive:
                return "keras" if "model.weights.h5" in archive.namelist() else "torch"
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise FormatError(f"{os.fspath(path)!r} is a damaged zip archive: {error}") from None
    if head.startswith(PICKLE):
        return "torch"
    if head[8:9] == b"{":
        return "safetensors"
    raise FormatError(f"{os.fspath(path)!r} must be an .nnkit, .safetensors, .h5, .keras, .pt or .pth file, received one that begins with {head!r}")


def has_torch_names(path: str | os.PathLike[str], kind: str) -> bool:
    """Whether a file of that kind names its arrays as PyTorch's modules do: PyTorch's own, and safetensors that nnkit did not write."""
    from nnkit.io.native import is_native

    return kind == "torch" or (kind == "safetensors" and not is_native(path))


def read_weights(path: str | os.PathLike[str], graph: Graph, names: Mapping[str, str] | None = None) -> Weights:
    """The weights that a file holds for the parameters of a graph.

    names: own names of layers -> those in the file: see `report.source_name`; what foreign names mean without it: see `from_keras`, `from_torch`.
    Arrays have the file's shapes, in nnkit's layout; whether they fit is for the caller to compare.
    """
    kind = kind_of(path)
    if kind in ("hdf5", "keras"):
        from nnkit.io.keras_file import from_keras, read_layers

        return from_keras(read_layers(path), graph, names)
    if not has_torch_names(path, kind):
        from nnkit.io.native import read_native

        return read_native(path, graph, names)
    from nnkit.io.native import read_tensors
    from nnkit.io.torch_layout import from_torch
    from nnkit.io.torch_pickle import read_pickled

    return from_torch(read_pickled(path) if kind == "torch" else read_tensors(path), graph, names)
