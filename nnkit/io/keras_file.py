"""Weights that Keras wrote: .weights.h5 and .keras of Keras 3, and the .h5 files of Keras 1 to 3."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from nnkit.io.hdf5 import Dataset, File, Group
from nnkit.io.keras_layout import FileLayer, Weight, from_keras, split
from nnkit.io.keras_order import NETWORKS
from nnkit.io.report import FormatError
from nnkit.layers.base import snake_case

__all__ = ["FileLayer", "Weight", "from_keras", "read_layers"]

CONTAINERS = ("layers", "_layer_checkpoint_dependencies")               # groups of layers: Keras 3, Keras 2.13
PARTS = ("forward_layer", "backward_layer", "cell", "layer")            # layers in layers, in the order in which their weights are counted
Classes = list[tuple[str, str, "Classes"]]               # of a network's layers in their order: name, class in snake case, what is in it


def read_layers(path: str | os.PathLike[str]) -> list[FileLayer]:
    """What a Keras file holds: its layers with their weights, in the file's order; optimizer variables and random states are left.

    `.weights.h5`: layers/<class>[_n]/vars/<i>, with the layer's name as an attribute. Groups have no order in HDF5, so layers of one class come in
    their order, classes by the alphabet. `.keras`: the same in a zip archive, in the order of its config.json. Legacy `.h5`: the groups that the
    attributes layer_names and weight_names name, in the group model_weights or at the root; classes where there is a model_config.

    The file is read whole, once; the arrays are views of it, and not writable. It is read without h5py (see `hdf5`).

    Raises OSError where the file cannot be read; FormatError for anything but weights as Keras writes them.
    """
    what = repr(os.fspath(path))
    config: bytes | None = None
    with open(path, "rb", buffering=0) as file:          # whole and into one piece: a buffer would have to be joined to the rest
        is_archive = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        content = b"" if is_archive else file.readall()
    if is_archive:
        config, content = _members(path, what)
    with File(content, f"model.weights.h5 in {what}" if is_archive else what) as opened:
        return _layers_of(opened.root, what, None if config is None else _classes(config, what))


def _members(path: str | os.PathLike[str], what: str) -> tuple[bytes, bytes]:
    """config.json and model.weights.h5 of a .keras archive, which Keras stores uncompressed: so nothing can be larger than it seems."""
    size = os.path.getsize(path)
    found = []
    try:
        with zipfile.ZipFile(path) as archive:
            for name in ("config.json", "model.weights.h5"):
                member = archive.getinfo(name)
                if member.compress_type != zipfile.ZIP_STORED or not member.file_size == member.compress_size <= size:
                    raise FormatError(f"{name} in {what} must be stored uncompressed, as Keras does")
                found.append(archive.read(member))
    except FormatError:
        raise
    except Exception as error:                           # a broken archive raises nearly anything
        raise FormatError(f"{what} must be a .keras archive with config.json and model.weights.h5: {error}") from None
    return found[0], found[1]


def _layers_of(root: Group, what: str, classes: Classes | None) -> list[FileLayer]:
    """The layers of a file in any of the three forms."""
    group = root.group("model_weights") if "model_weights" in root else root
    names = _texts(group, "layer_names")
    if names is not None:
        config = root.attribute("model_config")
        return list(_legacy(group, names, _classes(config, what) if isinstance(config, str) else []))
    found = list(_inside(root))
    if all(layer.empty for layer in found):
        raise FormatError(f"{what} must hold weights that Keras wrote: neither the attribute layer_names nor layers with variables are there")
    return _in_order(found, classes)


# Keras 3.

def _inside(group: Group) -> Iterator[FileLayer]:
    """The layers of a network: those in its group of layers, and of a subclassed model those that are its attributes."""
    for name in CONTAINERS:
        if name in group:
            yield from _layers_in(group.group(name), True)
    yield from _layers_in(group, False)


def _layers_in(group: Group, by_class: bool) -> Iterator[FileLayer]:
    """The layers whose groups are in a group; by_class: named by class and number, else by the attributes of a model."""
    for key in sorted(group.children, key=_numbered):
        child = group.get(key)
        if not isinstance(child, Group) or (not by_class and (key in ("vars", "optimizer", *CONTAINERS) or "seed_generator" in key)):
            continue
        kind = _numbered(key)[0] if by_class else None
        name = child.group("vars").attribute("name") if "vars" in child else None
        name = name if isinstance(name, str) else None
        if any(part in child for part in PARTS) or ("vars" in child and not any(name in child for name in CONTAINERS)):
            yield FileLayer(name, kind, child.path, tuple(_variables(child)))
        else:
            network = FileLayer(name if "vars" in child else key, kind, child.path, layers=tuple(_inside(child)))
            if by_class or not network.empty:
                yield network


def _numbered(key: str) -> tuple[str, int]:
    """A group's class and number: conv2d_10 -> (conv2d, 10)."""
    found = re.fullmatch(r"(.*?)_(\d{1,9})", key)
    return (found[1], int(found[2])) if found else (key, 0)


def _variables(group: Group) -> Iterator[Weight]:
    """The weights of a layer: its own, then those of the layers in it."""
    if "vars" in group:
        own = group.group("vars")
        for key in sorted(own.children, key=lambda key: (not key.isdecimal(), len(key), key)):
            yield Weight(None if key.isdecimal() else key, _array(own.dataset(key)))
    inside = [name for name in group.children if name != "vars" and "seed_generator" not in name]
    for name in sorted(inside, key=lambda name: (PARTS.index(name) if name in PARTS else len(PARTS), name)):
        child = group.get(name)
        if isinstance(child, Group):
            yield from _variables(child)


def _array(dataset: Dataset) -> np.ndarray:
    """The array; bfloat16 as float32, of which it is the upper half."""
    array = dataset.read()
    return (array.astype(np.uint32) << 16).view(np.float32) if dataset.bfloat16 else array


def _in_order(layers: Iterator[FileLayer] | Sequence[FileLayer], classes: Classes | None) -> list[FileLayer]:
    """The layers in the order of the config, where there is one and it names them."""
    given = list(layers)
    if not classes:
        return given
    places = {name: (number, inside) for number, (name, _, inside) in enumerate(classes)}
    ordered = sorted(given, key=lambda layer: places.get(layer.name or "", (len(places), []))[0])
    found = []
    for layer in ordered:
        inside = places.get(layer.name or "", (0, []))[1]
        nested = bool(layer.layers) and layer.name in places
        found.append(attrs.evolve(layer, kind="network", layers=tuple(_in_order(layer.layers, inside))) if nested else layer)
    return found


def _classes(config: str | bytes, what: str) -> Classes:
    """Names and classes of the layers in a model's JSON. Raises FormatError where it is no JSON."""
    try:
        return _listed(json.loads(config), 0)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the config in {what} must be JSON: {error}") from None


def _listed(config: Any, depth: int) -> Classes:
    """What a network's config lists; nothing where it is not as Keras writes it."""
    inside = config.get("config") if isinstance(config, dict) else None
    entries = inside.get("layers") if isinstance(inside, dict) else inside       # Keras 2.2 and before: a Sequential's config is the list
    found: Classes = []
    for entry in entries if isinstance(entries, list) and depth < 50 else ():
        own = entry.get("config") if isinstance(entry, dict) else None
        name, kind = (own.get("name") if isinstance(own, dict) else None), entry.get("class_name") if isinstance(entry, dict) else None
        name = entry.get("name", name) if isinstance(entry, dict) else name      # a Sequential of Keras 2.2 has no name inside
        if isinstance(name, str) and isinstance(kind, str):
            found.append((name, snake_case(kind), _listed(entry, depth + 1)))
    return found


# The legacy form.

def _texts(group: Group, name: str) -> list[str] | None:
    """An attribute that is a list of texts, also in chunks name0, name1, ...; None where there is none."""
    whole = group.attribute(name)
    if isinstance(whole, list):
        return whole
    found: list[str] | None = None
    for number in range(1 << 16):
        chunk = group.attribute(f"{name}{number}")
        if not isinstance(chunk, list):
            break
        found = (found or []) + chunk
    return found


def _legacy(group: Group, names: Sequence[str], classes: Classes) -> Iterator[FileLayer]:
    """The layers that the attributes name."""
    kinds: Mapping[str, tuple[str, Classes]] = {name: (kind, inside) for name, kind, inside in classes}
    for name in names:
        entry = group.group(name)
        weights = tuple(Weight(weight, _array(entry.dataset(weight))) for weight in _texts(entry, "weight_names") or ())
        kind, inside = kinds.get(name, (None, []))
        layer = FileLayer(name, kind, entry.path, weights)
        yield attrs.evolve(layer, kind="network", layers=_nested(layer, inside)) if kind in NETWORKS and inside else layer


def _nested(layer: FileLayer, classes: Classes) -> tuple[FileLayer, ...]:
    """The layers of a nested network, whose weights stand in one list."""
    found = split(layer, {name: kind for name, kind, _ in classes})
    inside = {name: deeper for name, kind, deeper in classes if kind in NETWORKS}
    return tuple(attrs.evolve(part, kind="network", layers=_nested(part, inside[part.name])) if part.name and inside.get(part.name) else part
                 for part in found)
