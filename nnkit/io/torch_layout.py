"""PyTorch's parameters in nnkit's layout: which module belongs to which layer, and how its tensors become the layer's parameters.

A state_dict has names like "features.0.weight": the path of a module and what the tensor is in it. TABLE says, layer class by layer class, what that
is of each parameter. O outputs (units, filters), I inputs, g groups, k sizes of a kernel, u units of a recurrent layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import numpy as np

from nnkit.io.channels import PLAIN, Flow, flow_of
from nnkit.io.report import source_name
from nnkit.io.weights import Weights
from nnkit.layers.activation import Activation
from nnkit.layers.base import Layer, Shape
from nnkit.layers.conv import Conv, ConvTranspose, DepthwiseConv, SeparableConv
from nnkit.layers.dense import Dense
from nnkit.layers.embedding import Embedding
from nnkit.layers.graph import GAT, GIN, GraphConv, GraphSAGE
from nnkit.layers.norm import BatchNormalization, LayerNormalization
from nnkit.layers.prelu import PReLU
from nnkit.layers.recurrent import GRU, LSTM, SimpleRNN
from nnkit.layers.wrappers import Bidirectional, TimeDistributed
from nnkit.nodes import Graph, Node

__all__ = ["from_torch"]

COUNTER = "num_batches_tracked"                          # of BatchNorm; nnkit needs none
OUTPUTS_AT_ONCE = 16                                     # rows of a matrix that are transposed together: one line of the cache in the result


# How tensors become a parameter. What has not the right number of axes is handed over as it is: whoever compares shapes will name both.

@attrs.frozen(eq=False)
class Site:
    """Where a parameter is: its shape here, and what flows into the layer and out of it."""

    shape: Shape
    before: Flow
    behind: Flow


Make: TypeAlias = Callable[..., np.ndarray]              # (site, tensors) -> parameter


def _as_it_is(site: Site, w: np.ndarray) -> np.ndarray:
    return w


def _ordered(w: np.ndarray, order: np.ndarray | None) -> np.ndarray:
    """Features (F,) in our order."""
    return w if order is None or w.shape != order.shape else w[order]


def _outputs(site: Site, w: np.ndarray) -> np.ndarray:
    """One number for each output (O,)."""
    return _ordered(w, site.behind.order)


def _matrix(site: Site, w: np.ndarray) -> np.ndarray:
    """(O, I) -> (I, O), also of a convolution by a window of one cell, (O, I, 1, ...)."""
    w = w.reshape(w.shape[:2]) if w.ndim > 2 and w.shape[2:] == (1,) * (w.ndim - 2) else w
    if w.ndim != 2:
        return w
    rows, columns = (order if order is not None and len(order) == size else None
                     for order, size in ((site.before.order, w.shape[1]), (site.behind.order, w.shape[0])))
    if rows is None and columns is None:
        return w.T
    found = np.empty(w.T.shape, w.dtype)
    for at in range(0, w.shape[0], OUTPUTS_AT_ONCE):
        part = slice(at, at + OUTPUTS_AT_ONCE)
        block = w[part if columns is None else columns[part]]
        found[:, part] = (block if rows is None else block[:, rows]).T
    return found


def _kernel(site: Site, w: np.ndarray) -> np.ndarray:
    """(O, I / g, *k) -> (*k, I / g, O); of a transposed convolution (I, O, *k) -> (*k, O, I)."""
    return w.transpose(*range(2, w.ndim), 1, 0) if w.ndim > 2 else w


def _depthwise(site: Site, w: np.ndarray) -> np.ndarray:
    """(C m, 1, *k) -> (*k, C, m)."""
    w, each = _kernel(site, w), site.shape[-1]
    fits = w.ndim > 2 and w.shape[-2] == 1 and w.shape[-1] % each == 0
    return w.reshape(*w.shape[:-2], w.shape[-1] // each, each) if fits else w


def _features(site: Site, w: np.ndarray) -> np.ndarray:
    """One number for each feature (F,), or for each cell: of images (C, H, W) -> (H, W, C)."""
    return np.moveaxis(w, 0, -1) if site.before.image and w.ndim > 1 else _ordered(w, site.before.order)


def _slopes(site: Site, w: np.ndarray) -> np.ndarray:
    """A PReLU's slope for each channel, or one for all, at every cell that has one here."""
    if w.ndim != 1 or w.shape[0] not in (1, site.shape[-1]):
        return w
    return np.broadcast_to(_outputs(site, w), site.shape)


def _gates(w: np.ndarray) -> np.ndarray:
    """Of a GRU along axis 0: r, z, n -> z, r, n."""
    u = w.shape[0] // 3
    return np.concatenate([w[u:2 * u], w[:u], w[2 * u:]]) if w.shape[0] % 3 == 0 else w


def _sum(site: Site, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a + b if a.shape == b.shape else a


def _gru_biases(site: Site, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.stack([_gates(a), _gates(b)]) if a.shape == b.shape and a.ndim == 1 else a


def _gru_matrix(site: Site, w: np.ndarray) -> np.ndarray:
    return _matrix(site, _gates(w)) if w.ndim == 2 else w


def _state_matrix(site: Site, w: np.ndarray) -> np.ndarray:
    return w.T


def _gru_state_matrix(site: Site, w: np.ndarray) -> np.ndarray:
    return _gates(w).T if w.ndim == 2 else w


# The table: of each class of layers the modules that it is there, mostly one, under "", and how each parameter comes from their tensors.

@attrs.frozen
class Row:
    """Names of the tensors in the module, and what makes the parameter of them."""

    kinds: tuple[str, ...]
    make: Make = _as_it_is


Rows: TypeAlias = Mapping[str, Row]                      # name of the parameter here -> its row
Modules: TypeAlias = Mapping[str, Rows]                  # path of a module behind the layer's -> rows

MATRIX, BIAS = Row(("weight",), _matrix), Row(("bias",), _outputs)
CONVOLUTION: Rows = {"kernel": Row(("weight",), _kernel), "bias": BIAS}
ON_NODES: Rows = {"kernel": Row(("lin.weight",), _matrix), "bias": BIAS}
SLOPES: Rows = {"alpha": Row(("weight",), _slopes)}


def _recurrent(matrix: Make, state_matrix: Make, biases: Make) -> Rows:
    return {"kernel": Row(("weight_ih_l0",), matrix), "recurrent_kernel": Row(("weight_hh_l0",), state_matrix),
            "bias": Row(("bias_ih_l0", "bias_hh_l0"), biases)}


PLAIN_CELL, GRU_CELL = _recurrent(_matrix, _state_matrix, _sum), _recurrent(_gru_matrix, _gru_state_matrix, _gru_biases)


def _gru(layer: GRU) -> Modules | None:
    return {"": GRU_CELL} if layer.reset_after else None


def _bidirectional(layer: Bidirectional) -> Modules | None:
    """One module; the tensors of the layer that goes backwards end in _reverse."""
    from nnkit.tensors import own_name

    rows: dict[str, Row] = {}
    for way, inner in (("forward", layer.layer), ("backward", layer.other)):
        modules = _modules(inner)
        if modules is None:
            return None
        ending = "_reverse" if inner.go_backwards else ""
        rows |= {f"{way}_{own_name(inner)}/{name}": attrs.evolve(row, kinds=tuple(kind + ending for kind in row.kinds))
                 for name, row in modules[""].items()}
    return {"": rows}


def _gin(layer: GIN) -> Modules:
    """GINConv around a Sequential of Linear modules with activations between."""
    names = [key for key in layer.parameters((1,), ()) if "kernel" in key]
    rows = {"eps": Row(("eps",), lambda site, w: w.reshape(1) if w.size == 1 else w)}
    for position, kernel in enumerate(names):
        rows[kernel] = Row((f"nn.{2 * position}.weight",), _matrix if not position else _state_matrix)
        rows[kernel.replace("kernel", "bias")] = Row((f"nn.{2 * position}.bias",))
    return {"": rows}


# Layers on graphs are PyTorch Geometric's: GCNConv, SAGEConv, GATConv, GINConv.
TABLE: dict[type[Layer], Callable[[Any], Modules | None]] = {
    Dense: lambda layer: {"": {"kernel": MATRIX, "bias": BIAS}},
    Conv: lambda layer: {"": CONVOLUTION},
    ConvTranspose: lambda layer: {"": CONVOLUTION},
    DepthwiseConv: lambda layer: {"": {"kernel": Row(("weight",), _depthwise), "bias": BIAS}},
    SeparableConv: lambda layer: {"depthwise": {"depthwise_kernel": Row(("weight",), _depthwise)},
                                  "pointwise": {"pointwise_kernel": Row(("weight",), _kernel), "bias": BIAS}},
    BatchNormalization: lambda layer: {"": {
        "gamma": Row(("weight",), _features), "beta": Row(("bias",), _features),
        "moving_mean": Row(("running_mean",), _features), "moving_variance": Row(("running_var",), _features)}},
    LayerNormalization: lambda layer: {"": {"gamma": Row(("weight",), _features), "beta": Row(("bias",), _features)}},
    PReLU: lambda layer: {"": SLOPES},
    Activation: lambda layer: {"": SLOPES},
    Embedding: lambda layer: {"": {"embeddings": Row(("weight",))}},
    SimpleRNN: lambda layer: {"": PLAIN_CELL},
    LSTM: lambda layer: {"": PLAIN_CELL},
    GRU: _gru,
    Bidirectional: _bidirectional,
    TimeDistributed: lambda layer: _modules(layer.layer),
    GraphConv: lambda layer: {"": ON_NODES},
    GraphSAGE: lambda layer: {"": {"kernel": Row(("lin_r.weight",), _matrix), "neighbour_kernel": Row(("lin_l.weight",), _matrix),
                                   "bias": Row(("lin_l.bias",), _outputs)}},
    GAT: lambda layer: {"": {**ON_NODES, "attention": Row(("att_dst",), lambda site, w: w[0] if w.ndim == 3 else w),
                             "neighbour_attention": Row(("att_src",), lambda site, w: w[0] if w.ndim == 3 else w)}},
    GIN: _gin,
}


def _modules(layer: Layer) -> Modules | None:
    """What the table says of a layer, or of the class that its own derives from; None: PyTorch has none such."""
    entry = next((TABLE[cls] for cls in type(layer).__mro__ if cls in TABLE), None)
    return entry(layer) if entry is not None else None


# Which module belongs to which layer.

@attrs.frozen(eq=False)
class Unit:
    """What one module is here: the layer, the module's path behind the layer's, the parameters, and where each of them is."""

    node: Node
    path: str
    rows: Rows
    sites: Mapping[str, Site]

    def kinds(self, level: int = 0) -> tuple[str, ...]:
        """The tensors that it takes; of a recurrent module of several layers those of one of them."""
        return tuple(dict.fromkeys(_at(kind, level) for row in self.rows.values() for kind in row.kinds))

    def tensors(self, state: Mapping[str, np.ndarray], path: str, level: int = 0) -> dict[str, tuple[str, ...]]:
        """For each parameter of which all is there: the names of its tensors in the module of that path."""
        wanted = {own: tuple(_full(path, _at(kind, level)) for kind in row.kinds) for own, row in self.rows.items()}
        return {own: found for own, found in wanted.items() if all(name in state for name in found)}

    def arrays(self, state: Mapping[str, np.ndarray], tensors: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
        """The parameters, by the network's names for them."""
        return {f"{self.node.name}/{own}": self.rows[own].make(self.sites[own], *(state[name] for name in found)) for own, found in tensors.items()}

    def __str__(self) -> str:
        """What a message calls it."""
        return f"layer {self.node.name!r} ({type(self.node.layer).__name__})"


def _full(path: str, kind: str) -> str:
    return f"{path}.{kind}" if path else kind


def _at(kind: str, level: int) -> str:
    """The tensor of another layer of a recurrent module: weight_ih_l0 -> weight_ih_l1."""
    return kind.replace("_l0", f"_l{level}")


def from_torch(state: Mapping[str, np.ndarray], graph: Graph, names: Mapping[str, str] | None = None) -> Weights:
    """The parameters of a graph out of a state_dict: arrays in nnkit's layout by the graph's names for them, and the tensors that nothing took.

    Which module belongs to which layer:
    1. `names`, own name of a layer -> path of the module ("" where the file is one module's), patterns included: see `report.source_name`.
    2. Else the module of the same path: layer "layer1.0.conv1", or "conv1" of a nested network "layer1.0", has "layer1.0.conv1.weight".
    3. Where no layer is found so, and no names are given: the layers that have parameters, in the network's order, are the modules in the file's
       order, if there are as many, with the same tensors of the same shapes. Names that are sorted, as in files of safetensors, have lost their
       order; then this needs modules that differ by numbers alone ("layers.0", "layers.2", "layers.10").
    What is several modules in PyTorch has paths behind the layer's: "depthwise" and "pointwise" of a SeparableConv, "alpha" of a PReLU that is the
    activation of another layer (names={"fc/alpha": "prelu1"} says another). Of a recurrent module of several layers "rnn.l1" is the second.

    Layouts are converted (see TABLE), also where features come in another order because PyTorch has channels first: a Dense behind Flatten, what a
    Dense makes for images (see `nnkit.io.channels`). BatchNorm's num_batches_tracked is left out. Arrays may be views of the state's, read-only ones
    too, and have the shapes that they have there: whether these fit is for the caller to compare. A setting is not in a file: PyTorch's default
    epsilon of normalizations is 1e-5, nnkit's 1e-3.

    Raises:
        ValueError: a layer with parameters that PyTorch has no counterpart for; in the third case modules that do not fit.
    """
    units = _units(graph)
    places = [_place(unit, state, names) for unit in units]
    if units and not names and not any(places):
        places = _in_order(units, state)
    arrays: dict[str, np.ndarray] = {}
    for unit, tensors in zip(units, places, strict=True):
        arrays |= unit.arrays(state, tensors)
    used = {name for tensors in places for found in tensors.values() for name in found}
    return arrays, tuple(name for name in state if name not in used and name.rpartition(".")[2] != COUNTER)


def _units(graph: Graph) -> list[Unit]:
    """All of the graph, in its order; of a layer that is called twice the first call counts. Raises ValueError for layers unknown to the table."""
    flows = flow_of(graph)
    found: dict[str, list[Unit]] = {}
    for position, node in enumerate(graph.nodes):
        declared = node.layer.parameters(*node.input_shapes)
        if not declared or node.name in found:
            continue
        before, behind = flows.get(node.inputs[0], PLAIN), flows[position, 0]
        sites = {own: Site(parameter.shape, before, behind) for own, parameter in declared.items()}
        known = _modules(node.layer) or {}
        modules: dict[str, Rows] = {path: {own: row for own, row in rows.items() if own in declared} for path, rows in known.items()}
        rest = set(declared) - {own for rows in modules.values() for own in rows}
        if rest == {"alpha"} and modules:
            modules, rest = {**modules, "alpha": SLOPES}, set()
        if rest:
            raise ValueError(f"layer {node.name!r}, {node.layer!r}, has no counterpart in PyTorch, whose weights could be taken for it")
        found[node.name] = [Unit(node, path, rows, sites) for path, rows in modules.items() if rows]
    return [unit for units in found.values() for unit in units]


def _place(unit: Unit, state: Mapping[str, np.ndarray], names: Mapping[str, str] | None) -> dict[str, tuple[str, ...]]:
    """The tensors of the unit by its layer's name, or what `names` says; nothing where there is no such module."""
    layer = unit.node.name
    own = f"{layer}/{unit.path}" if unit.path else layer
    path = source_name(own, names)
    if path == own and unit.path:
        path = _full(source_name(layer, names), unit.path)
    path = path.replace("/", ".")
    found = unit.tensors(state, path)
    within = re.fullmatch(r"(?:(.*)\.)?l(\d{1,4})", path)
    return found if found or not within else unit.tensors(state, within[1] or "", int(within[2]))


NO_NAMES = "no name in the file is that of a layer, and its modules are not the layers in their order"
SAY = "names={layer: module} says which module belongs to which layer"


def _in_order(units: Sequence[Unit], state: Mapping[str, np.ndarray]) -> list[dict[str, tuple[str, ...]]]:
    """The tensors of each unit, where modules come in the order of the network's layers. Raises ValueError where they do not."""
    left = dict.fromkeys(_defined([name for name in state if name.rpartition(".")[2] != COUNTER], len(units)))
    found = []
    for unit in units:
        name = next(iter(left), None)
        tensors = _fitting(unit, state, name) if name is not None else None
        if tensors is None:
            shapes = ", ".join(f"{own} {site.shape}" for own, site in unit.sites.items() if own in unit.rows)
            goes_on = f"goes on with {name!r} of shape {state[name].shape}" if name is not None else "has no more"
            raise ValueError(f"{NO_NAMES}: {unit} has {shapes}, where the file {goes_on}; {SAY}")
        for name in {name for names in tensors.values() for name in names}:
            left.pop(name, None)
        found.append(tensors)
    if left:
        raise ValueError(f"{NO_NAMES}: behind the last layer the file goes on with {next(iter(left))!r}; {SAY}")
    return found


def _defined(names: list[str], count: int) -> list[str]:
    """Names in the order in which their modules were defined, of `count` modules. Raises ValueError where they are sorted, so that nobody knows."""
    if count < 2 or names != sorted(names):
        return names
    paths = {name: name.rpartition(".")[0] for name in names}
    if len({re.sub(r"\d+", "0", path) for path in paths.values()}) > 1:
        raise ValueError(f"no name in the file is that of a layer, and its names are sorted, so that the order of its modules is unknown; {SAY}")
    return sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d{1,9}", paths[name])])


def _fitting(unit: Unit, state: Mapping[str, np.ndarray], name: str) -> dict[str, tuple[str, ...]] | None:
    """The tensors of the unit in the module of which `name` is a tensor, where all are there in the right shapes."""
    ending = re.search(r"_l(\d{1,4})(?:_reverse)?$", name)
    level = int(ending[1]) if ending else 0
    for kind in unit.kinds(level):
        if name == kind or name.endswith(f".{kind}"):
            tensors = unit.tensors(state, name[:-len(kind)].removesuffix("."), level)
            arrays = unit.arrays(state, tensors)
            if all(arrays.get(f"{unit.node.name}/{own}", np.empty(0)).shape == unit.sites[own].shape for own in unit.rows):
                return tensors
    return None
