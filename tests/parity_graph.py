"""Random networks on random graphs, a function of (seed, number), and the same in PyTorch Geometric.

GraphConv, GraphSAGE, GAT and GIN, one or two of them, with and without GlobalGraphPooling behind: on graphs directed or not, weighted or not, with
and without self-loops, with nodes that have no neighbours, with a hub, without any edge, and on several graphs side by side. V nodes, E entries.

What differs on purpose, and is brought into line here: GCNConv keeps the weight of a self-loop, where A + I adds 1 to it; SAGEConv and GINConv take
no weights of edges, so sums by weight are made by SimpleConv there. Of equal largest numbers nnkit passes the gradient to the first, PyTorch a share
to each: maxima are taken only of rows that differ from node to node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from scipy import sparse

import nnkit
from nnkit.graph import Adjacency
from nnkit.layers import GAT, GIN, GlobalGraphPooling, GraphConv, GraphSAGE
from nnkit.tensors import GraphInput
from parity_draw import Generator, chance, number, pick

__all__ = ["GRAPHS", "DrawnOnGraph", "draw_on_graph", "in_nnkit", "in_pyg"]

WIDTHS = (1, 2, 3, 5, 8, 16, 17, 33)
NODES, MANY = (1, 2, 3, 5, 7, 16, 33), (150, 400)        # products on the latter are cut into tasks, which share the hub's row
GRAPHS = ("one way", "both ways", "hub", "no edges", "several")
ACTIVATIONS = ("linear", "relu", "tanh", "elu", "sigmoid")

Values = dict[str, np.ndarray]


@attrs.frozen
class DrawnOnGraph:
    """Layers one behind the other on features and a graph, then a pooling (None: none); x is dense or sparse."""

    seed: int
    number: int
    layers: tuple[Any, ...]
    pooling: str | None
    nodes: int
    features: int
    graph: str
    weighted: bool
    loops: bool
    is_sparse: bool

    def __str__(self) -> str:
        """What a failed test shows."""
        words = f"{self.number}: {list(self.layers)} {self.pooling} V={self.nodes} F={self.features} {self.graph}"
        return (words + " weighted" * self.weighted + " loops" * self.loops + " sparse" * self.is_sparse).replace(" ", "")

    @property
    def network(self) -> nnkit.Network:
        """Inputs: features, graph."""
        x, a = nnkit.Input((self.features,), sparse=self.is_sparse), GraphInput()
        y = x
        for layer in self.layers:
            y = layer([y, a])
        return nnkit.Network([x, a], GlobalGraphPooling(self.pooling)([y, a]) if self.pooling else y)

    def adjacency(self) -> Adjacency:
        """The graph. Weights are from 0.3 to 2."""
        rng = np.random.default_rng([self.seed, self.number, 1])
        if self.graph != "several":
            return self._graph(rng, self.nodes, self.graph)
        sizes = rng.multinomial(self.nodes, np.full(4, 0.25))
        return Adjacency.blocks([self._graph(rng, int(V), pick(rng, GRAPHS[:-1])) for V in sizes if V])

    def _graph(self, rng: Generator, V: int, graph: str) -> Adjacency:
        edges = rng.random((V, V)) < 3 / max(V, 4)
        if graph == "hub":
            edges[V // 2] = True
        if graph == "no edges":
            edges[:] = False
        if graph == "both ways":
            edges |= edges.T
        np.fill_diagonal(edges, self.loops & (rng.random(V) < 0.5))
        if V > 2:
            edges[-1] = edges[:, -1] = False             # alone
        weights = rng.uniform(0.3, 2, (V, V)) if self.weighted else np.ones((V, V))
        return Adjacency.of(sparse.csr_matrix(edges * (weights + weights.T if graph == "both ways" and self.weighted else weights)))

    def parameters(self) -> Values:
        """By nnkit's names."""
        rng = np.random.default_rng([self.seed, self.number, 2])
        declared = self.network.graph().parameters()
        return {name: rng.standard_normal(parameter.shape) / np.sqrt(max(1, parameter.shape[0] if "kernel" in name else 4))
                for name, parameter in declared.items()}

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Features, a third of them 0 where they are sparse, and targets for a squared error."""
        rng = np.random.default_rng([self.seed, self.number, 3])
        x = rng.standard_normal((self.nodes, self.features))
        if self.is_sparse:
            x *= rng.random(x.shape) > 1 / 3
        rows = self.adjacency().graphs if self.pooling else self.nodes
        return x, rng.standard_normal((rows, *self.network.graph().output_shapes[0]))


def drawn_layer(rng: Generator, cls: type, maxima: bool) -> Any:
    """A layer of that class, which may take maxima of its input or not."""
    fields: dict[str, Any] = {"activation": pick(rng, ACTIVATIONS), "use_bias": chance(rng, 0.75)}
    if cls is GraphConv:
        fields |= {"normalization": pick(rng, ["symmetric", "symmetric", "row", None]), "self_loops": chance(rng, 0.6)}
    elif cls is GraphSAGE:
        fields["aggregator"] = pick(rng, ["mean", "max"] if maxima else ["mean"])
    elif cls is GAT:
        fields |= {"heads": pick(rng, [1, 2, 3, 8]), "concat": chance(rng, 0.6), "self_loops": chance(rng, 0.6)}
        fields["negative_slope"] = pick(rng, [0.2, 0.0, number(rng, 0.05, 0.9)])
    else:
        fields |= {"hidden_units": pick(rng, [None, (), (5,), (3, 4)]), "hidden_activation": pick(rng, ACTIVATIONS[1:]),
                   "eps": number(rng, -0.5, 1), "train_eps": chance(rng, 0.5)}
    return cls(pick(rng, WIDTHS), **fields)


def differs(layer: Any) -> bool:
    """Whether it tells a node from another one that has the same neighbours."""
    return isinstance(layer, (GraphSAGE, GIN))


def draw_on_graph(seed: int, number: int) -> DrawnOnGraph:
    """The network of that number; classes of the first layer take turns."""
    rng = np.random.default_rng([seed, number, 0])
    classes = (GraphConv, GraphSAGE, GAT, GIN)
    is_sparse = chance(rng, 0.3)
    layers = [drawn_layer(rng, classes[number % 4], not is_sparse)]
    if chance(rng, 0.5):
        layers.append(drawn_layer(rng, pick(rng, classes), differs(layers[-1])))
    poolings = ["mean", "sum", "max"] if differs(layers[-1]) else ["mean", "sum"]
    pooling = pick(rng, poolings) if chance(rng, 0.3) else None
    nodes = pick(rng, MANY) if chance(rng, 0.1) else pick(rng, NODES)
    return DrawnOnGraph(seed, number, tuple(layers), pooling, nodes, features=pick(rng, WIDTHS), graph=pick(rng, GRAPHS), weighted=chance(rng, 0.5),
                        loops=chance(rng, 0.4), is_sparse=is_sparse)


# Each library's results by name: "y" the output, "x" the gradient by the features (of a sparse input by its entries), "x1" that by the weights of the
# edges in the adjacency's order, and those by the parameters.

def in_nnkit(drawn: DrawnOnGraph, dtype: str = "float64", threads: int = 1) -> Values:
    """By predict and gradients."""
    model = nnkit.compile(drawn.network, loss="mse", dtype=dtype, threads=threads)
    model.set_parameters(drawn.parameters())
    x, t = drawn.data()
    inputs = [sparse.csr_matrix(x) if drawn.is_sparse else x, drawn.adjacency()]
    return {"y": model.predict(inputs), **model.gradients(inputs, t, inputs=True)}


@attrs.frozen
class Edges:
    """A graph as PyTorch Geometric has it: index (2, E) of sources and targets, the weight of each edge."""

    index: Any
    weight: Any

    @property
    def targets(self) -> Any:
        """Who gathers."""
        return self.index[1]

    def with_loops(self, V: int) -> Edges:
        """A + I."""
        import torch

        own = torch.arange(V).expand(2, V)
        return Edges(torch.cat([self.index, own], dim=1), torch.cat([self.weight, self.weight.new_ones(V)]))

    def by_rows(self, V: int) -> Edges:
        """D^-1 A."""
        import torch

        sums = torch.zeros(V, dtype=self.weight.dtype).index_add(0, self.targets, self.weight)
        return Edges(self.index, self.weight / sums[self.targets])


def call(module: Any, given: Mapping[str, Any], *inputs: Any) -> Any:
    """A module's output with these tensors as its parameters and buffers, all of them and no others; kernels are (outputs, inputs) there."""
    import torch

    expected = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    assert {name: tensor.shape for name, tensor in given.items()} == {name: tensor.shape for name, tensor in expected.items()}
    return torch.func.functional_call(module, dict(given), inputs)


def optional(name: str, layer: Any, p: Mapping[str, Any]) -> dict[str, Any]:
    """The bias under PyTorch's name, where the layer has one."""
    return {name: p["bias"]} if layer.use_bias else {}


def gcn(layer: GraphConv, p: Mapping[str, Any], x: Any, edges: Edges) -> Any:
    """GCNConv. It normalizes symmetrically or not at all."""
    from torch_geometric import nn

    V, symmetric = len(x), layer.normalization == "symmetric"
    if layer.self_loops and symmetric:
        on_diagonal = edges.index[0] == edges.targets
        edges = Edges(edges.index, edges.weight + on_diagonal.to(x.dtype))
    elif layer.self_loops:
        edges = edges.with_loops(V)
    if layer.normalization == "row":
        edges = edges.by_rows(V)
    module = nn.GCNConv(x.shape[1], layer.units, add_self_loops=layer.self_loops and symmetric, normalize=symmetric, bias=layer.use_bias)
    return call(module, {"lin.weight": p["kernel"].T, **optional("bias", layer, p)}, x, edges.index, edges.weight)


def sage(layer: GraphSAGE, p: Mapping[str, Any], x: Any, edges: Edges, weighted: bool) -> Any:
    """SAGEConv; means by weight as SimpleConv and two products."""
    from torch_geometric import nn

    if layer.aggregator == "mean" and weighted:
        rows = edges.by_rows(len(x))
        around = nn.SimpleConv("sum")(x, rows.index, rows.weight)
        return x @ p["kernel"] + around @ p["neighbour_kernel"] + (p["bias"] if layer.use_bias else 0)
    module = nn.SAGEConv(x.shape[1], layer.units, aggr=layer.aggregator, bias=layer.use_bias)
    given = {"lin_l.weight": p["neighbour_kernel"].T, "lin_r.weight": p["kernel"].T, **optional("lin_l.bias", layer, p)}
    return call(module, given, x, edges.index)


def gat(layer: GAT, p: Mapping[str, Any], x: Any, edges: Edges) -> Any:
    """GATConv."""
    from torch_geometric import nn

    module = nn.GATConv(x.shape[1], layer.units, heads=layer.heads, concat=layer.concat, negative_slope=layer.negative_slope,
                        add_self_loops=layer.self_loops, bias=layer.use_bias)
    given = {"lin.weight": p["kernel"].T, "att_dst": p["attention"][None], "att_src": p["neighbour_attention"][None], **optional("bias", layer, p)}
    return call(module, given, x, edges.index)


def gin(layer: GIN, p: Mapping[str, Any], x: Any, edges: Edges, weighted: bool) -> Any:
    """GINConv around a Sequential; sums by weight as SimpleConv."""
    import torch
    from torch_geometric import nn

    ends = [name for name in p if "kernel" in name]
    mlp, given = torch.nn.Sequential(), {}
    for position, kernel in enumerate(ends):
        mlp.append(torch.nn.Linear(*p[kernel].shape, bias=layer.use_bias, dtype=x.dtype))
        given[f"{2 * position}.weight"] = p[kernel].T
        if layer.use_bias:
            given[f"{2 * position}.bias"] = p[kernel.replace("kernel", "bias")]
        if kernel != ends[-1]:
            mlp.append(getattr(torch.nn, type(layer.hidden_activation).__name__)())
    if weighted:
        return call(mlp, given, (1 + p["eps"]) * x + nn.SimpleConv("sum")(x, edges.index, edges.weight))
    module = nn.GINConv(mlp, eps=layer.eps, train_eps=layer.train_eps)
    return call(module, {**{f"nn.{name}": tensor for name, tensor in given.items()}, "eps": p["eps"]}, x, edges.index)


def activated(activation: Any, x: Any) -> Any:
    """The activation by PyTorch's function of the same name."""
    import torch

    name = type(activation).__name__.lower()
    return x if name == "linear" else getattr(torch.nn.functional, name)(x)


def in_pyg(drawn: DrawnOnGraph) -> Values:
    """By PyTorch Geometric and autograd, in float64; without "x1" where one of its layers took no weights though nnkit's does."""
    import torch
    import torch_geometric.nn as pyg

    x, t = drawn.data()
    adjacency = drawn.adjacency()
    p = {name: torch.tensor(values, requires_grad=True) for name, values in drawn.parameters().items()}
    features = torch.tensor(x, requires_grad=True)
    weight = torch.tensor(adjacency.csr.values, requires_grad=True)
    edges, y = Edges(torch.tensor(adjacency.edges).long(), weight), features
    graph = drawn.network.graph()
    for node in graph.nodes[2:2 + len(drawn.layers)]:
        layer: Any = node.layer
        own = {name.removeprefix(f"{node.name}/"): tensor for name, tensor in p.items() if name.startswith(f"{node.name}/")}
        if isinstance(layer, (GraphSAGE, GIN)):
            y = (sage if isinstance(layer, GraphSAGE) else gin)(layer, own, y, edges, drawn.weighted)
        else:
            y = (gcn if isinstance(layer, GraphConv) else gat)(layer, own, y, edges)
        y = activated(layer.activation, y)
    if drawn.pooling:
        pool = {"mean": pyg.global_mean_pool, "sum": pyg.global_add_pool, "max": pyg.global_max_pool}[drawn.pooling]
        y = pool(y, torch.tensor(np.repeat(np.arange(adjacency.graphs), np.diff(adjacency.segments))), adjacency.graphs)
    loss = (y - torch.tensor(t)).square().mean()
    trainable = [name for name, declared in graph.parameters().items() if declared.trainable]
    found = torch.autograd.grad(loss, [features, weight, *(p[name] for name in trainable)], allow_unused=True, materialize_grads=True)
    dx, dweight, *gradients = (gradient.numpy() for gradient in found)
    results = {"y": y.detach().numpy(), "x": dx[x != 0] if drawn.is_sparse else dx, **dict(zip(trainable, gradients, strict=True))}
    unweighed = not drawn.weighted and any(isinstance(layer, GIN) or getattr(layer, "aggregator", "") == "mean" for layer in drawn.layers)
    return results if unweighed else {**results, "x1": dweight}
