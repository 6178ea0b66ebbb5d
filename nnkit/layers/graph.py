"""Layers on graphs: GraphConv, GraphSAGE, GAT, GIN; GlobalGraphPooling, EdgeDot. Kernels: graph_cpu.py; along edges: prims/csr.py.

V nodes, F features, U units, H heads. Row i of the adjacency A gathers from the nodes of its columns: (A x)_i = sum_j A_ij x_j.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from nnkit.initializers import Constant, Initializer, initializer_field
from nnkit.layers.activation import ActivationFunction
from nnkit.layers.base import Form, Layer, Parameter, Shape
from nnkit.layers.dense import affine
from nnkit.layers.dropout import drop
from nnkit.plan.build import numbered
from nnkit.plan.passes import work_tasks
from nnkit.prims.csr import Csr, GraphBuffer, aggregate, attend, largest_neighbours
from nnkit.prims.matmul import weight_gradient
from nnkit.prims.reduce import sum_rows
from nnkit.regularizers import ActivityRegularizer, Regularizer
from nnkit.spec import base, boolean, child, choice, integer, real, shape_of, spec

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["GAT", "GIN", "EdgeDot", "GlobalGraphPooling", "GraphConv", "GraphSAGE"]

NODES = 64                                               # fewest nodes worth a task that looks at all pairs


@base
class OnNodes(Layer):
    """Base of the layers that make new features for every node of those of its neighbours.

    activation: a spec or its name. use_bias: whether there is a b. dropout: rate of the input's features that training drops, from 0 to less than 1;
    of a sparse input its entries. kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, activity_regularizer: as for `Dense`.
    Inputs: features (V, F) of an Input or a layer, dense or sparse, and a `GraphInput` of V nodes.
    """

    arity: ClassVar[tuple[int, int | None]] = (2, 2)
    graph_at: ClassVar[int | None] = 1

    units: int = integer(low=1)
    activation: ActivationFunction = child("activation", default="linear")
    use_bias: bool = boolean(default=True)
    dropout: float = real(default=0.0, low=0, high=1, high_open=True, kw_only=True)
    kernel_initializer: Initializer = initializer_field(default="glorot_uniform", kw_only=True)
    bias_initializer: Initializer = initializer_field(default="zeros", kw_only=True)
    kernel_regularizer: Regularizer | None = child("regularizer", default=None, none=True, kw_only=True)
    bias_regularizer: Regularizer | None = child("regularizer", default=None, none=True, kw_only=True)
    activity_regularizer: ActivityRegularizer | None = child("activity_regularizer", default=None, none=True, kw_only=True)

    @property
    def takes_sparse(self) -> bool:
        """Yes."""
        return True

    @property
    def width(self) -> int:
        """Features of the output."""
        return self.units

    def features(self, shapes: tuple[Shape, ...]) -> int:
        """F. Raises ValueError where nodes have no row of features."""
        if len(shapes[0]) != 1:
            raise ValueError(f"{type(self).__name__}: every node must have one row of features, received samples of shape {shapes[0]}")
        return shapes[0][0]

    def output_shape(self, *shapes: Shape) -> Shape:
        """A row of features for each node. Raises ValueError where the input has none."""
        self.features(shapes)
        return self.activation.output_shape((self.width,))

    def weights(self, F: int) -> dict[str, Parameter]:
        """What the layer learns besides bias and activation."""
        return {"kernel": self.weight(F, self.units)}

    def weight(self, *shape: int) -> Parameter:
        """A weight of that shape."""
        return Parameter(shape, self.kernel_initializer, regularizer=self.kernel_regularizer)

    def parameters(self, *shapes: Shape) -> Mapping[str, Parameter]:
        """The weights, the bias, and what the activation learns."""
        found = self.weights(self.features(shapes))
        if self.use_bias:
            found["bias"] = Parameter((self.width,), self.bias_initializer, regularizer=self.bias_regularizer)
        return {**found, **self.activation.parameters((self.width,))}

    @property
    def bias(self) -> str | None:
        """The name of the bias, None where there is none."""
        return "bias" if self.use_bias else None

    def lower(self, g: Builder, *xs: Any) -> Buffer:
        """Dropout, what the layer does of its own, then the activation."""
        y = self.convolve(g, drop(g, xs[0], self.dropout), xs[1])
        return g.penalize(self.activation.lower(g, y), self.activity_regularizer)

    def convolve(self, g: Builder, x: Buffer | Csr, graph: GraphBuffer) -> Buffer:
        """Emit what comes before the activation, with its backward steps."""
        raise TypeError(f"{type(self).__name__} does not say how it lowers itself")


@spec()
class GraphConv(OnNodes):
    """Y = activation(A^ X W + b): the graph convolution of Kipf and Welling; A^ is the normalized adjacency.

    units: U, features of the output, at least 1. Parameters "kernel" (F, U), "bias" (U,).
    normalization: "symmetric" (default) A^ = D^-1/2 (A + I) D^-1/2, "row" A^ = D^-1 (A + I), None A^ = A + I; D_ii = sum_j (A + I)_ij, and a row of
    sum 0 stays 0. self_loops: whether I is added, default True.
    activation, use_bias, dropout, initializers and regularizers: as for `OnNodes`. Inputs (V, F) and a graph, output (V, U).
    The product with the fewer columns comes first: A^ (X W), or (A^ X) W where U > F and X is dense.
    Called GCNConv in PyTorch Geometric and Spektral, GraphConv in DGL.
    Kipf and Welling, Semi-supervised classification with graph convolutional networks, ICLR 2017, equation 2.

    >>> GraphConv(16, activation="relu").output_shape((1433,), ())
    (16,)
    """

    normalization: str | None = choice("symmetric", "row", default="symmetric", none=True, kw_only=True)
    self_loops: bool = boolean(default=True, kw_only=True)

    @property
    def form(self) -> Form:
        """The adjacency as normalization and self_loops say."""
        return self.normalization, self.self_loops

    def convolve(self, g: Builder, x: Buffer | Csr, graph: GraphBuffer) -> Buffer:
        """The two products."""
        a = graph.csr(self.form)
        if isinstance(x, Csr) or self.units <= x.shape[1]:
            return aggregate(g, a, affine(g, x, "kernel"), self.bias)
        return affine(g, aggregate(g, a, x), "kernel", self.bias)


@spec()
class GraphSAGE(OnNodes):
    """y_i = activation(x_i W + n_i W' + b), where n_i is the mean, or feature by feature the largest, of the x_j of i's neighbours; 0 without any.

    units: U, features of the output, at least 1. Parameters "kernel" W and "neighbour_kernel" W' (F, U), "bias" (U,).
    aggregator: "mean" (default; by the weights of the edges, sum_j A_ij x_j / sum_j A_ij) or "max" (weights count for nothing; x must be dense).
    activation, use_bias, dropout, initializers and regularizers: as for `OnNodes`. Inputs (V, F) and a graph, output (V, U).
    SAGEConv in PyTorch Geometric. Hamilton, Ying and Leskovec, Inductive representation learning on large graphs, NeurIPS 2017, algorithm 1.

    >>> GraphSAGE(8, aggregator="max").parameters((5,), ()).keys()
    dict_keys(['kernel', 'neighbour_kernel', 'bias'])
    """

    aggregator: str = choice("mean", "max", default="mean", kw_only=True)

    @property
    def takes_sparse(self) -> bool:
        """Where means are taken: they can be taken behind the product."""
        return self.aggregator == "mean"

    @property
    def form(self) -> Form:
        """Without self-loops; of a mean normalized by rows."""
        return "row" if self.aggregator == "mean" else None, False

    def weights(self, F: int) -> dict[str, Parameter]:
        """One for the node, one for its neighbours."""
        return {"kernel": self.weight(F, self.units), "neighbour_kernel": self.weight(F, self.units)}

    def convolve(self, g: Builder, x: Buffer | Csr, graph: GraphBuffer) -> Buffer:
        """Two products side by side; of a mean the narrower first."""
        a = graph.csr(self.form)
        own = affine(g, x, "kernel", self.bias)
        if self.aggregator == "max":
            assert not isinstance(x, Csr)
            around = affine(g, largest_neighbours(g, a, x), "neighbour_kernel")
        elif isinstance(x, Csr) or self.units <= x.shape[1]:
            around = aggregate(g, a, affine(g, x, "neighbour_kernel"))
        else:
            around = affine(g, aggregate(g, a, x), "neighbour_kernel")
        y = g.buffer("sum", *own.shape)
        g.step("prims.pointwise.sum_of_two", [y], [own, around], rows=y.shape[0], in_place=True)
        g.on_backward(y, [own, around], lambda dy: (dy, dy))
        return y


@spec()
class GAT(OnNodes):
    """Graph attention: y_i = activation(sum_j alpha_ij z_j + b) with z = x W, and for each head weights alpha that sum to 1 over i's neighbours.

    alpha_ij = softmax_j(LeakyReLU(z_i . a + z_j . a')). units: U of each head, at least 1. heads: H, at least 1, default 1. concat: whether the
    heads' outputs stand side by side (V, H U), default, or are averaged (V, U). negative_slope: of the LeakyReLU, at least 0, default 0.2.
    self_loops: whether a node is a neighbour of its own, default True. attention_dropout: rate of the alphas that training drops, from 0 to less than
    1, default 0.
    Parameters "kernel" W (F, H U), "attention" a and "neighbour_attention" a' (H, U), "bias". The weights of the edges count for nothing.
    activation, use_bias, dropout, initializers and regularizers: as for `OnNodes`. Inputs (V, F) and a graph, output (V, H U) or (V, U).
    Velickovic et al., Graph attention networks, ICLR 2018, equations 3 to 6.

    >>> GAT(8, heads=8).output_shape((1433,), ()), GAT(7, heads=8, concat=False).output_shape((64,), ())
    ((64,), (7,))
    """

    heads: int = integer(default=1, low=1, kw_only=True)
    concat: bool = boolean(default=True, kw_only=True)
    negative_slope: float = real(default=0.2, low=0, kw_only=True)
    self_loops: bool = boolean(default=True, kw_only=True)
    attention_dropout: float = real(default=0.0, low=0, high=1, high_open=True, kw_only=True)

    @property
    def form(self) -> Form:
        """As it is; its weights are not looked at."""
        return None, self.self_loops

    @property
    def width(self) -> int:
        """H U or U."""
        return self.heads * self.units if self.concat else self.units

    def weights(self, F: int) -> dict[str, Parameter]:
        """The weight of the features, those of the attention."""
        attention = Parameter((self.heads, self.units), self.kernel_initializer)
        return {"kernel": self.weight(F, self.heads * self.units), "attention": attention, "neighbour_attention": attention}

    def convolve(self, g: Builder, x: Buffer | Csr, graph: GraphBuffer) -> Buffer:
        """Scores of nodes, a softmax along the edges, the weighted sum."""
        a = graph.csr(self.form)
        z = affine(g, x, "kernel")
        s, t = self._scores(g, z)
        alpha = drop(g, attend(g, a, s, t, self.negative_slope), self.attention_dropout)
        weighted = a.with_values(alpha)
        return aggregate(g, weighted, z, self.bias) if self.concat else self._mean(g, aggregate(g, weighted, z))

    def _scores(self, g: Builder, z: Buffer) -> tuple[Buffer, Buffer]:
        """s = z . a and t = z . a' for each head; backward also da and da', the diagonal blocks of ds^T z and dt^T z."""
        V = z.shape[0]
        own, other = g.parameter("attention"), g.parameter("neighbour_attention")
        s, t = g.buffer("scores", V, self.heads), g.buffer("neighbour_scores", V, self.heads)
        g.step("layers.graph.scores_forward", [s, t], [z, own, other], rows=V, flops=4 * z.size)

        def backward(ds: Buffer, dt: Buffer) -> Buffer:
            dz = g.buffer("dz", *z.shape)
            g.step("layers.graph.scores_backward", [dz], [ds, dt, own, other], rows=V, flops=4 * z.size)
            for name, d in (("attention", ds), ("neighbour_attention", dt)):
                blocks = g.scratch("blocks", self.heads, z.shape[1])
                weight_gradient(g, blocks, blocks.piece(0), d, z, self.heads)
                g.step("layers.graph.diagonal_blocks", [g.gradient(name)], [blocks])
            return dz
        g.on_backward([s, t], [z], backward)
        return s, t

    def _mean(self, g: Builder, x: Buffer) -> Buffer:
        """The mean over the heads, and the bias."""
        V = x.shape[0]
        y = g.buffer("mean", V, self.units)
        g.step("layers.graph.head_mean_forward", [y], [x, g.parameter("bias") if self.use_bias else x.piece(0)], rows=V)

        def backward(dy: Buffer) -> Buffer:
            if self.use_bias:
                sum_rows(g, g.gradient("bias"), dy)
            dx = g.buffer("mean_dx", *x.shape)
            g.step("layers.graph.head_mean_backward", [dx], [dy], rows=V)
            return dx
        g.on_backward(y, [x], backward)
        return y


@spec()
class GIN(OnNodes):
    """y_i = activation(MLP((1 + eps) x_i + sum_j A_ij x_j)): the graph isomorphism network, sums of neighbours through dense layers.

    units: U, features of the output, at least 1. hidden_units: units of the MLP's hidden layers, default one of U; () for a single product.
    hidden_activation: of the hidden layers, default "relu". eps: what the node itself counts more than a neighbour, default 0; train_eps: whether it
    is learnt (parameter "eps", (1,)), default False. Parameters "hidden_kernel", "hidden_bias" ("hidden_kernel_1", ...), "kernel", "bias".
    activation, use_bias, dropout, initializers and regularizers: as for `OnNodes`. Inputs (V, F) and a graph, output (V, U).
    Xu et al., How powerful are graph neural networks?, ICLR 2019, equation 4.1.

    >>> GIN(4, hidden_units=(8, 8)).parameters((5,), ()).keys()
    dict_keys(['hidden_kernel', 'hidden_kernel_1', 'kernel', 'eps', 'hidden_bias', 'hidden_bias_1', 'bias'])
    """

    hidden_units: tuple[int, ...] | None = shape_of(default=None, low=1, none=True, kw_only=True)
    hidden_activation: ActivationFunction = child("activation", default="relu", kw_only=True)
    eps: float = real(default=0.0, kw_only=True)
    train_eps: bool = boolean(default=False, kw_only=True)

    @property
    def form(self) -> Form:
        """As it is."""
        return None, False

    @property
    def _hidden(self) -> tuple[int, ...]:
        return (self.units,) if self.hidden_units is None else self.hidden_units

    def weights(self, F: int) -> dict[str, Parameter]:
        """Those of the MLP, and eps."""
        sizes = (F, *self._hidden, self.units)
        shapes = list(itertools.pairwise(sizes))
        kernels = {name: self.weight(*shape) for name, shape in zip((*self._names("hidden_kernel"), "kernel"), shapes, strict=True)}
        biases = {name: Parameter((size,), self.bias_initializer, regularizer=self.bias_regularizer)
                  for name, size in zip(self._names("hidden_bias"), self._hidden, strict=True)} if self.use_bias else {}
        return {**kernels, "eps": Parameter((1,), Constant(self.eps), trainable=self.train_eps), **biases}

    def _names(self, name: str) -> list[str]:
        """Of one parameter of each hidden layer."""
        return [numbered(name, position) for position in range(len(self._hidden))]

    def convolve(self, g: Builder, x: Buffer | Csr, graph: GraphBuffer) -> Buffer:
        """The sums, then the MLP; of a sparse x the MLP's first product comes before the sums."""
        a = graph.csr(self.form)
        kernels = [*self._names("hidden_kernel"), "kernel"]
        biases = [*self._names("hidden_bias"), "bias"] if self.use_bias else [None] * len(kernels)
        if isinstance(x, Csr):
            y = self._sums(g, a, affine(g, x, kernels[0]), biases[0])
        else:
            y = affine(g, self._sums(g, a, x, None), kernels[0], biases[0])
        for kernel, bias in zip(kernels[1:], biases[1:], strict=True):
            y = affine(g, self.hidden_activation.lower(g, y), kernel, bias)
        return y

    def _sums(self, g: Builder, a: Csr, x: Buffer, bias: str | None) -> Buffer:
        """A x + (1 + eps) x (+ b)."""
        around, eps, V = aggregate(g, a, x, bias), g.parameter("eps"), x.shape[0]
        y = g.buffer("sums", *x.shape)
        g.step("layers.graph.add_scaled", [y], [around, x, eps], rows=V, in_place=True)

        def backward(dy: Buffer) -> tuple[Buffer, Buffer]:
            dots, dx = g.buffer("dots", V, 1), g.buffer("own_dx", *x.shape)
            g.step("layers.graph.row_dots", [dots], [dy, x], rows=V, flops=2 * x.size)
            sum_rows(g, g.gradient("eps"), dots)
            g.step("layers.graph.scaled_rows", [dx], [dy, eps], rows=V)
            return dy, dx
        g.on_backward(y, [around, x], backward)
        return y


@spec()
class GlobalGraphPooling(Layer):
    """One row for each graph of all of its nodes' rows: their mean, sum, or feature by feature the largest; 0 for a graph without nodes.

    pooling: "mean" (default), "sum" or "max". Inputs: rows (V, F) and the graph, which may be many graphs side by side; output (graphs, F). What
    follows has a row for each graph, and so have targets. global_mean_pool and its kin in PyTorch Geometric.

    >>> GlobalGraphPooling("sum").output_shape((16,), ())
    (16,)
    """

    arity: ClassVar[tuple[int, int | None]] = (2, 2)
    graph_at: ClassVar[int | None] = 1
    to_samples: ClassVar[bool] = True

    pooling: str = choice("mean", "sum", "max", default="mean")

    def lower(self, g: Builder, *xs: Any) -> Buffer:
        """Sums along each graph's run of rows; backward spreads them."""
        x, graph = xs
        rows, segments = x.rows(), graph.segments(g.batch)
        y = g.buffer("y", g.batch, *x.shape[1:])
        best = [g.buffer("best", *y.rows().shape, dtype="int32")] if self.pooling == "max" else []
        name = f"prims.segment.segment_{self.pooling}"
        tasks = work_tasks(x.size, x.nbytes, most=max(1, y.size))
        g.step(f"{name}_forward", [y.rows(), *best], [segments, rows], tasks=tasks, flops=x.size)

        def backward(dy: Buffer) -> Buffer:
            dx = g.buffer("dx", *x.shape)
            g.step(f"{name}_backward", [dx.rows()], [segments, *best, dy.rows()], tasks=work_tasks(0, x.nbytes, most=max(1, x.shape[0])))
            return dx
        g.on_backward(y, [x], backward)
        return y


@spec()
class EdgeDot(Layer):
    """y_b = x_i . x_j for pairs (i, j) of nodes: how likely an edge is, as a logit, from the nodes' embeddings.

    Inputs: rows (V, F), and an `Input((2,))` of pairs, whole numbers of nodes; output (pairs, 1). What follows has a row for each pair, and so have
    targets: 1 for an edge, 0 for none, with the loss BinaryCrossentropy(from_logits=True) or behind a sigmoid. The decoder of Kipf and Welling,
    Variational graph auto-encoders, 2016, equation 2. See `nnkit.graph.LinkLoader`.

    >>> EdgeDot().output_shape((16,), (2,))
    (1,)
    """

    arity: ClassVar[tuple[int, int | None]] = (2, 2)
    pairs_at: ClassVar[int | None] = 1
    to_samples: ClassVar[bool] = True

    def output_shape(self, *shapes: Shape) -> Shape:
        """(1,). Raises ValueError for other shapes."""
        if len(shapes[0]) != 1 or shapes[1] != (2,):
            raise ValueError(f"EdgeDot must take rows of shape (features,) and pairs of shape (2,), received {shapes[0]} and {shapes[1]}")
        return (1,)

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """Products of two rows each; backward each node adds up what its pairs give."""
        x, pairs = xs
        y = g.buffer("y", pairs.shape[0], 1)
        cost = pairs.shape[0] * x.shape[1]
        g.step("layers.graph.pair_dot_forward", [y], [pairs, x], tasks=work_tasks(2 * cost, 8 * cost, most=-(-y.size // 64)), flops=2 * cost)

        def backward(dy: Buffer) -> Buffer:
            dx = g.buffer("dx", *x.shape)
            g.step("layers.graph.pair_dot_backward", [dx], [pairs, dy, x], flops=4 * cost,
                   tasks=work_tasks(4 * cost, dx.nbytes + 16 * cost, most=-(-x.shape[0] // NODES)))
            return dx
        g.on_backward(y, [x], backward)
        return y
