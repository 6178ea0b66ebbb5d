"""Which layer of a Keras file belongs to which layer of a network, and which array to which parameter."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np

from nnkit.io.keras_order import NETWORKS, OwnLayer, base_name, key_of, own_layers
from nnkit.io.report import SHOWN, source_name
from nnkit.layers.base import Shape

if TYPE_CHECKING:
    from nnkit.nodes import Graph

__all__ = ["FileLayer", "Weight", "from_keras"]


@attrs.frozen(eq=False)
class Weight:
    """An array of a file, in Keras' layout, and its name where the file gives one ("block1_conv1/kernel:0")."""

    name: str | None
    array: np.ndarray


@attrs.frozen(eq=False)
class FileLayer:
    """A layer of a Keras file.

    name: as the user gave it or Keras numbered it, None where the file does not say. kind: the class in snake case ("conv2d"), "network" for a nested
    one among layers whose order the file tells, None where it does not say. path: where it is in the file. weights: in the file's order. layers: of a
    nested network.
    """

    name: str | None
    kind: str | None
    path: str
    weights: tuple[Weight, ...] = ()
    layers: tuple[FileLayer, ...] = ()

    def is_of(self, kind: str) -> bool:
        """Whether it is of that class, which may be "network"; where the file does not say, its name tells if Keras made it."""
        return (self.kind or base_name(self.name or "")) in (NETWORKS if kind == "network" else (kind,))

    @functools.cached_property
    def empty(self) -> bool:
        """Whether there are no weights, not in nested layers either."""
        return not self.weights and all(layer.empty for layer in self.layers)

    def automatic(self, kind: str) -> bool:
        """Whether Keras made the name of a layer of that class: dense, dense_7. These differ from session to session."""
        return self.name is None or base_name(self.name) in (NETWORKS if kind == "network" else (kind,))

    @functools.cached_property
    def parts(self) -> tuple[FileLayer, ...]:
        """The layers of a nested network, also where only the names of its weights tell ("block1_conv1/kernel:0" in the group "vgg16")."""
        return self.layers or split(self, {})


def inner_path(layer: str | None, weight: str) -> list[str]:
    """The parts of a weight's name behind the layer's, where that is among them: "model/vgg16/conv1/kernel:0" of vgg16 -> [conv1, kernel]."""
    parts = weight.removesuffix(":0").split("/")
    return parts[parts.index(layer) + 1:] if layer in parts[:-1] else parts


def split(layer: FileLayer, kinds: Mapping[str, str]) -> tuple[FileLayer, ...]:
    """A legacy entry cut into the layers of the nested network that it is, by the names of its weights; kinds: classes of layers, in their order."""
    found: dict[str, list[Weight]] = {name: [] for name in kinds}
    for weight in layer.weights:
        inside = inner_path(layer.name, weight.name or "")
        if len(inside) > 1:
            found.setdefault(inside[0], []).append(Weight("/".join(inside), weight.array))
    return tuple(FileLayer(name, kinds.get(name), f"{layer.path}/{name}", tuple(weights)) for name, weights in found.items())


class _Match:
    """Pairs of a network's layer and a file's, as they are found."""

    def __init__(self, names: Mapping[str, str] | None) -> None:
        self.names = names
        self.pairs: list[tuple[OwnLayer, FileLayer]] = []
        self.taken: dict[int, FileLayer] = {}            # the file's layers, by their ids

    def asked(self, layer: OwnLayer) -> str | None:
        """What `names` says that the file calls a layer; None where it says nothing."""
        if not layer.name:
            return (self.names or {}).get(layer.full)
        marked = source_name(layer.full, {own: f"{other}\n" for own, other in (self.names or {}).items()})
        return marked[:-1] if marked.endswith("\n") else None

    def by_request(self, own: Iterable[OwnLayer], there: Sequence[FileLayer]) -> None:
        """Pair what `names` names."""
        for layer in (leaf for item in own for leaf in item.leaves()):
            wanted = self.asked(layer)
            found = _named(there, wanted) if wanted is not None else None
            if found is not None:
                self.pair(layer, found)

    def pair(self, own: OwnLayer, found: FileLayer, prefix: str = "") -> None:
        """Note that two belong together; nested networks: what is in them, too. prefix: the networks in the file in which `found` lies."""
        self.taken[id(found)] = found
        if own.kind == "network":
            self.level(own.layers, found.parts, f"{prefix}{found.name or found.path}/")
        else:
            self.pairs.append((own, found))

    def level(self, own: Sequence[OwnLayer], there: Sequence[FileLayer], prefix: str = "") -> None:
        """Pair layers that lie in one network, by equal names, then by class and order."""
        done = {id(layer) for layer, _ in self.pairs}
        rest = [layer for layer in own if id(layer) not in done and (layer.layers or self.asked(layer) is None)]
        free = [layer for layer in there if id(layer) not in self.taken and not layer.empty]
        by_name = {layer.name: layer for layer in reversed(free)}
        for layer in [layer for layer in rest if not layer.automatic]:
            found = by_name.get(layer.name)
            if found is not None and _may_be(layer, found):
                self.pair(layer, found, prefix)
                rest.remove(layer)
        for kind in dict.fromkeys(layer.kind for layer in rest):
            there_too = [layer for layer in free if layer.is_of(kind) and id(layer) not in self.taken]
            self.by_order([layer for layer in rest if layer.kind == kind], there_too, kind, prefix)

    def by_order(self, own: list[OwnLayer], there: list[FileLayer], kind: str, prefix: str) -> None:
        """Pair layers of one class in their order. Raises ValueError where that is no answer."""
        made, numbered = [layer.automatic for layer in own], [layer.automatic(kind) for layer in there]
        as_many = len(own) == len(there)
        if any(made) and any(numbered) and not (as_many and all(map(operator.or_, made, numbered))):
            raise ValueError(_which(kind, own, there, prefix))
        if not as_many or not all(map(operator.or_, made, numbered)):
            return                                       # names given on both sides differ: what the file has is something else
        if len({layer.kind for layer in there if layer.kind}) > 1:               # networks of two classes, whose order the file does not tell
            own.sort(key=lambda layer: base_name(layer.name) == "sequential")
            there.sort(key=lambda layer: layer.kind == "sequential")
            if not all(made) or [base_name(layer.name) == "sequential" for layer in own] != [layer.kind == "sequential" for layer in there]:
                raise ValueError(_which(kind, own, there, prefix))
        for mine, other in zip(own, there, strict=True):
            self.pair(mine, other, prefix)


def _may_be(own: OwnLayer, found: FileLayer) -> bool:
    return found.kind in (None, *(NETWORKS if own.kind == "network" else (own.kind,)))


def _named(layers: Sequence[FileLayer], path: str) -> FileLayer | None:
    """The layer of that name, in nested networks by "network/layer"; where it has none, of that place in the file."""
    for layer in layers:
        if path in (layer.name, layer.path):
            return layer
        if layer.name is not None and path.startswith(f"{layer.name}/"):
            found = _named(layer.parts, path[len(layer.name) + 1:])
            if found is not None:
                return found
    return None


def _which(kind: str, own: Sequence[OwnLayer], there: Sequence[FileLayer], prefix: str) -> str:
    mine = [_with_shapes(layer.full, layer.shapes) for layer in own]
    called = [f"{prefix}{layer.name}" if layer.name else layer.path for layer in there]
    others = [_with_shapes(name, [weight.array.shape for weight in layer.weights]) for name, layer in zip(called, there, strict=True)]
    return (f"neither names nor order tell which layers of kind {kind} belong together: the network has {_first(mine)}; the file has "
            f"{_first(others)}; say it by names={{{own[0].full!r}: {called[0]!r}, ...}}")


def _with_shapes(name: str, shapes: Sequence[Shape]) -> str:
    return f"{name} of {' and '.join(map(str, shapes))}" if shapes else name


def _first(words: Sequence[str]) -> str:
    return ", ".join(words[:SHOWN]) + (f", and {len(words) - SHOWN} more" if len(words) > SHOWN else "")


def _handed(own: OwnLayer, found: FileLayer) -> Iterator[tuple[str, Weight]]:
    """Own names of parameters with the file's arrays: by the last part of their names where that is known, else in order, if there are as many."""
    keys = {key_of(inner_path(found.name, weight.name)): weight for weight in found.weights if weight.name}
    known = {name: keys[key] for name, own_key in own.parameters.items() for key in (own_key, f"depthwise_{own_key}")[:1 + (own_key not in keys)]
             if key in keys}                             # Keras 2 calls the kernel of a DepthwiseConv2D depthwise_kernel
    if known and len(keys) == len(found.weights):
        yield from known.items()
    elif len(found.weights) == len(own.parameters):
        yield from zip(own.parameters, found.weights, strict=True)


def _labelled(layers: Iterable[FileLayer], prefix: str = "") -> Iterator[tuple[str, Weight]]:
    """All arrays of a file by the names that a report uses: "vgg16/block1_conv1/0", or with the weight's name where the file gives one."""
    for layer in layers:
        name = f"{prefix}{layer.name or layer.path}"
        for position, weight in enumerate(layer.weights if not layer.layers else ()):
            yield f"{name}/{'/'.join(inner_path(layer.name, weight.name)) if weight.name else position}", weight
        yield from _labelled(layer.layers, f"{name}/")


def from_keras(layers: Sequence[FileLayer], graph: Graph, names: Mapping[str, str] | None = None) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The arrays of a Keras file by the names of a graph's parameters, and the names of those that no parameter has.

    nnkit has Keras 3's parameters in Keras 3's layouts and orders, so arrays are handed over as they are, of whatever shape; the caller compares.

    Which layer of the file belongs to a layer, by the first rule that says it:
    1. names: own name -> the file's (see `report.source_name`; layers in nested networks are "network/layer"). Where the file has none of that name
       there is none.
    2. A name that was given in the network is the same in the file.
    3. Names that were made are numbered anew in every session (dense_7). Layers of one class that are left belong together in the order in which they
       stand in the network, which is that of Keras' `model.layers`, where both sides have as many; but not two whose names were given and differ.
    Nested networks are paired likewise, then what is in them. An activation with parameters (Dense(8, PReLU())) is a layer of its own in Keras.

    Which array of the layer belongs to a parameter: of the same last part of the name (".../lstm_cell/kernel:0"; of a Bidirectional also of the same
    direction) where the file gives names that are known; else in order, if there are as many. A BatchNormalization without scale has as many as one
    without center, and a .weights.h5 file does not tell them apart.

    Raises ValueError, which says how to pass `names`, where rule 3 is asked and the numbers differ, and where no layer is found at all.
    """
    own = own_layers(graph)
    match = _Match(names)
    match.by_request(own, layers)
    match.level(own, layers)
    found: dict[str, np.ndarray] = {}
    for layer, there in match.pairs:
        found.update({name: weight.array for name, weight in _handed(layer, there)})
    labels = list(_labelled(layers))
    if own and labels and not match.pairs and not names:
        mine, others = [leaf.full for layer in own for leaf in layer.leaves()], [name.rsplit("/", 1)[0] for name, _ in labels]
        raise ValueError(f"no layer of the network ({_first(mine)}) is in the file ({_first([*dict.fromkeys(others)])}); say which is which by "
                         f"names={{{mine[0]!r}: {others[0]!r}, ...}}")
    used = {id(array) for array in found.values()}
    return found, tuple(label for label, weight in labels if id(weight.array) not in used)
