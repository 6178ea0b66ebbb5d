"""The adjacency of a graph, or of a block-diagonal batch of graphs, and its normalized forms.

V nodes, E entries, G graphs. Row i of the adjacency A gathers from the columns of row i: y_i = sum_j A_ij x_j. The forms are those of Kipf and
Welling, Semi-supervised classification with graph convolutional networks (ICLR 2017), equation 2 and the renormalization behind it:

    A~ = A + I  (with self-loops),  D_ii = sum_j A~_ij,    "symmetric": D^-1/2 A~ D^-1/2,    "row": D^-1 A~,    None: A~
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from nnkit.graph.csr import LIMIT, CsrArrays, as_members, locked, refuse_outside
from nnkit.spec import article
from nnkit.training.feed import as_samples, as_whole

__all__ = ["NORMALIZATIONS", "Adjacency"]

NORMALIZATIONS = ("symmetric", "row", None)
EDGES = "an edge array must have shape (2, entries)"


@attrs.frozen(eq=False, repr=False)
class Adjacency:
    """The adjacency of a graph of V nodes, checked. Make it by `of` or `blocks`; the constructor trusts what it is given.

    Fields:
        csr: the arrays of A (V, V), in float64.
        segments: int64 (G + 1,): graph g has the nodes segments[g] to segments[g + 1] - 1. One graph: [0, V].
    """

    csr: CsrArrays
    segments: np.ndarray = attrs.field(converter=locked)
    _cache: dict[Any, Any] = attrs.field(init=False, factory=dict)

    @classmethod
    def of(cls, value: Any, *, nodes: int | None = None, weights: Any = None) -> Adjacency:
        """The adjacency of a graph in any of the usual forms. Isolated nodes are allowed; the input is copied.

        >>> Adjacency.of((np.array([0, 1]), np.array([1, 2])), nodes=4).csr.matrix.toarray()
        array([[0., 0., 0., 0.],
               [1., 0., 0., 0.],
               [0., 1., 0., 0.],
               [0., 0., 0., 0.]])

        Args:
            value: of one of these:
                an Adjacency, taken as it is.
                a SciPy sparse matrix or array (V, V) of any format, taken as it is: row i gathers from its columns. Repeated entries are summed,
                    with a UserWarning; entries of 0 are kept.
                a dense array (V, V): each number but 0 is an entry.
                edges, whole numbers (2, E) or a tuple (source, target): the target gathers from the source, as in PyTorch Geometric, so that
                    A[target, source] is the weight. Repeated edges are summed, with a UserWarning. Whole numbers (2, 2) alone could be both,
                    and are refused: with nodes they are edges. Beside features (`fit`, loaders) the features' rows are the nodes.
                a NetworkX graph: its nodes in their order; an undirected edge counts in both directions, after a directed one u -> v the node v
                    gathers from u. The attribute "weight" is the weight, 1 where it is missing. Parallel edges are summed.
            nodes: V. For edges by default the greatest number + 1; for all else it must agree.
            weights: (E,), of edges only; all 1 by default.

        Raises:
            TypeError: something else; weights that hold no numbers.
            ValueError: another shape; nodes out of range; weights that are not finite, or of another number than edges; no nodes.
        """
        edges = _as_edges(value, nodes is not None or weights is not None)
        if weights is not None and edges is None:
            raise ValueError("weights must come with edges, received another kind of adjacency, which holds its own")
        if isinstance(value, Adjacency):
            made = value
        else:
            csr = CsrArrays.of(_as_matrix(value) if edges is None else _of_edges(*edges, nodes, weights), "adjacency", "float64")
            if csr.shape[0] != csr.shape[1]:
                raise ValueError(f"adjacency must be square, received shape {csr.shape}")
            if csr.shape[0] == 0:
                raise ValueError("adjacency must have at least one node, received shape (0, 0)")
            made = cls(csr, np.array([0, csr.shape[0]], np.int64))
        if nodes is not None and as_whole(nodes, 1, "nodes") != made.nodes:
            raise ValueError(f"nodes must be the {made.nodes} nodes of the adjacency, received {nodes}")
        return made

    @classmethod
    def around(cls, value: Any, nodes: int | None) -> Adjacency:
        """The same beside features, which say the number of nodes that edges do not: nodes without edges may be the last ones. None: nothing says it.

        Raises as `of`; other kinds of adjacency keep their own number, which is compared later.
        """
        return cls.of(value, nodes=nodes if nodes is not None and _is_edges(value, nodes) else None)

    @classmethod
    def blocks(cls, adjacencies: Sequence[Adjacency]) -> Adjacency:
        """Graphs side by side, as one graph without edges between them: the nodes of each behind those of the one before.

        Raises ValueError where there are none, one has nodes that belong to no graph, or they have 2**31 nodes or entries or more.
        """
        if not len(adjacencies):
            raise ValueError("adjacencies must hold at least one adjacency, received none")
        for adjacency in adjacencies:
            if adjacency.segments[-1] != adjacency.nodes:
                raise ValueError("adjacencies must have no nodes behind their graphs, "
                                 f"received one that was padded from {adjacency.segments[-1]} to {adjacency.nodes} nodes")
        matrices = [adjacency.csr for adjacency in adjacencies]
        V, E = (np.cumsum([0, *sizes]) for sizes in ([csr.shape[0] for csr in matrices], [csr.entries for csr in matrices]))
        if max(V[-1], E[-1]) >= LIMIT:
            raise ValueError(f"adjacencies must have fewer than 2**31 nodes and entries together, received {V[-1]} and {E[-1]}")
        starts = np.concatenate([[0], *(csr.starts[1:] + e for csr, e in zip(matrices, E[:-1], strict=True))])
        columns = np.concatenate([csr.columns[:csr.entries] for csr in matrices]) + np.repeat(V[:-1].astype(np.int32), np.diff(E))
        values = np.concatenate([csr.values[:csr.entries] for csr in matrices])
        segments = np.concatenate([[0], *(adjacency.segments[1:] + v for adjacency, v in zip(adjacencies, V[:-1], strict=True))])
        return cls(CsrArrays((int(V[-1]), int(V[-1])), starts, columns, values), segments)

    def __repr__(self) -> str:
        graphs = "" if self.graphs == 1 else f", {self.graphs} graphs"
        return f"<Adjacency of {self.nodes} nodes, {self.entries} entries{graphs}>"

    @property
    def nodes(self) -> int:
        """V."""
        return self.csr.shape[0]

    @property
    def entries(self) -> int:
        """E, without the room behind: an undirected edge counts twice."""
        return self.csr.entries

    @property
    def graphs(self) -> int:
        """G."""
        return len(self.segments) - 1

    @property
    def edges(self) -> np.ndarray:
        """Sources and targets of the entries, int32 (2, E), in the order of the values: by target, then by source."""
        return np.stack([self.csr.columns[:self.entries], self.csr.rows])

    @property
    def is_symmetric(self) -> bool:
        """Whether the graph is undirected: A equals its transpose, weights included."""
        return self.csr.symmetric

    def form(self, normalization: str | None = "symmetric", self_loops: bool = True) -> CsrArrays:
        """The normalized adjacency in float64, computed once.

        A weight on the diagonal is added to 1 where self_loops. A row of sum 0 becomes 0. columns and values have the length of the adjacency's
        own, plus V where self_loops: a node that had an entry on the diagonal leaves room behind.

        Args:
            normalization: "symmetric" (default), "row" or None.
            self_loops: whether the identity is added (default).

        Raises:
            ValueError: another normalization or self_loops; a row with a negative sum, or one whose factor is too large, unless normalization
                is None.
        """
        key = _as_key(normalization, self_loops)
        if key not in self._cache:
            looped = self._looped()[0] if self_loops else self.csr
            values = looped.values
            if normalization is not None:
                factors, E = self._factors(looped, *key), looped.entries
                values = values.copy()
                values[:E] *= factors[looped.rows] if normalization == "row" else factors[looped.rows] * factors[looped.columns[:E]]
                _refuse_overflow(values[:E], looped, normalization)
            self._cache[key] = looped if values is looped.values else CsrArrays(looped.shape, looped.starts, looped.columns, values)
        return self._cache[key]

    def pullback(self, normalization: str | None, self_loops: bool, dvalues: Any) -> np.ndarray:
        """dLoss/dA of the adjacency's own entries, float64 (E,), from dvalues (E~,), dLoss/d(values) of `form`; 0 for the room behind.

        With f_i = D_ii^-1/2, f_i = 0 where D_ii = 0, and v_e = f_i A~_ij f_j for the entry e in row i and column j:

            dA_ij = dv_e f_i f_j + dD_i,    dD_i = -1/2 f_i^3 (sum_j dv_ij A~_ij f_j + sum_j dv_ji A~_ji f_j)    ("symmetric")
            dA_ij = dv_e / D_ii + dD_i,     dD_i = -1/D_ii^2 sum_j dv_ij A~_ij                                    ("row")
        """
        key = _as_key(normalization, self_loops)
        looped, places = self._looped(keep=True) if self_loops else (self.csr, slice(self.entries))
        E, V = looped.entries, self.nodes
        dv = np.asarray(dvalues, np.float64)
        if dv.shape != looped.values.shape:
            raise ValueError(f"dvalues must have shape {looped.values.shape}, received {dv.shape}")
        dA = dv[:E]
        if normalization is not None:
            f, i, j = self._factors(looped, *key), looped.rows, looped.columns[:E]
            moved = dA * looped.values[:E]               # dv A~
            if normalization == "row":
                dD = -f * f * np.bincount(i, moved, V)
                dA = dA * f[i] + dD[i]
            else:
                dD = -0.5 * f**3 * (np.bincount(i, moved * f[j], V) + np.bincount(j, moved * f[i], V))
                dA = dA * (f[i] * f[j]) + dD[i]
        own = np.zeros(len(self.csr.values))
        own[:self.entries] = dA[places]
        return own

    def padded(self, nodes: int, entries: int) -> Adjacency:
        """The same with isolated nodes behind, which belong to no graph, and room for entries: always the same shapes for a plan.

        Raises ValueError where nodes or entries is less than there are.
        """
        V, E, csr = as_whole(nodes, self.nodes, "nodes"), as_whole(entries, self.entries, "entries"), self.csr
        if max(V, E) >= LIMIT:
            raise ValueError(f"nodes and entries must be fewer than 2**31, received {V} and {E}")
        columns, values = np.zeros(E, np.int32), np.zeros(E)
        columns[:csr.entries], values[:csr.entries] = csr.columns[:csr.entries], csr.values[:csr.entries]
        starts = np.concatenate([csr.starts, np.full(V - self.nodes, csr.starts[-1])])
        return Adjacency(CsrArrays((V, V), starts, columns, values), self.segments)

    def subgraph(self, nodes: Any) -> Adjacency:
        """The graph of these nodes, in their order, and of the edges between them.

        Args:
            nodes: numbers, each once, or a mask (V,). Rising, where the adjacency holds several graphs.

        Raises:
            TypeError, ValueError: no whole numbers, out of range, repeated; no nodes at all.
        """
        chosen = as_members(nodes, self.nodes, "nodes")
        number = np.full(self.nodes, -1, np.int32)
        number[chosen] = turn = np.arange(len(chosen), dtype=np.int32)
        if not len(chosen):
            raise ValueError("nodes must name at least one node, received none")
        if (number[chosen] != turn).any():
            raise ValueError(f"nodes must name each node once, received {chosen[(number[chosen] != turn).argmax()]} repeatedly")
        risen = bool((chosen[1:] > chosen[:-1]).all())
        if not risen and self.graphs > 1:
            raise ValueError(f"nodes must rise where the adjacency holds several graphs, received another order of {self.graphs} graphs")
        csr = self.csr.take_rows(chosen)
        columns, rows = number[csr.columns], csr.rows
        kept = columns >= 0
        rows, columns, values = rows[kept], columns[kept], csr.values[kept]
        if not risen:
            order = np.lexsort((columns, rows))
            columns, values = columns[order], values[order]
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(chosen)))])
        segments = np.searchsorted(chosen, self.segments) if risen else np.array([0, len(chosen)], np.int64)
        return Adjacency(CsrArrays((len(chosen), len(chosen)), starts, columns, values), segments)

    def _looped(self, keep: bool = False) -> tuple[CsrArrays, Any]:
        """A + I, and where in it each entry of A stands, int32 (E,): behind the diagonals that are new before it.

        keep: for the next call, which `pullback` has at every step and `form` hardly ever: it is as large as the adjacency.
        """
        if "looped" in self._cache:
            return self._cache["looped"]
        csr, V, E, rows = self.csr, self.nodes, self.entries, self.csr.rows
        if len(csr.columns) + V >= LIMIT:
            raise ValueError(f"adjacency must have fewer than 2**31 entries with its self-loops, received {len(csr.columns) + V}")
        columns, node = csr.columns[:E], np.arange(V, dtype=np.int32)
        new = np.ones(V, bool)
        new[rows[columns == rows]] = False
        starts = csr.starts + np.concatenate([[0], np.cumsum(new)])
        places = np.arange(E, dtype=np.int32) + (starts - csr.starts).astype(np.int32)[rows]
        places += new[rows] & (columns > rows)
        wide, values = np.zeros(len(csr.columns) + V, np.int32), np.zeros(len(csr.columns) + V)
        wide[places], values[places] = columns, csr.values[:E]
        at = starts[:-1] + np.bincount(rows[columns < rows], minlength=V)        # of each diagonal
        wide[at] = node
        values[at] += 1.0
        looped = CsrArrays(csr.shape, starts, wide, values), places
        if keep:
            self._cache["looped"] = looped
        return looped

    def _factors(self, looped: CsrArrays, normalization: str, self_loops: bool) -> np.ndarray:
        """D^-1/2 or D^-1 of A~, (V,), 0 where the sum of the row is 0."""
        key = ("factors", normalization, self_loops)
        if key not in self._cache:
            sums = np.bincount(looped.rows, looped.values[:looped.entries], self.nodes)
            if (sums < 0).any():
                node = int((sums < 0).argmax())
                raise ValueError(f"adjacency must have no row of a negative sum for normalization {normalization!r}, "
                                 f"received {sums[node].item()!r} at node {node}{' with its self-loop' if self_loops else ''}")
            with np.errstate(divide="ignore", over="ignore"):
                factors = 1.0 / (sums if normalization == "row" else np.sqrt(sums))
            factors[sums == 0.0] = 0.0
            self._cache[key] = factors
        return self._cache[key]


def _as_key(normalization: Any, self_loops: Any) -> tuple[Any, bool]:
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of 'symmetric', 'row' or None, received {normalization!r}")
    if not isinstance(self_loops, (bool, np.bool_)):
        raise ValueError(f"self_loops must be True or False, received {self_loops!r}")
    return normalization, bool(self_loops)


def _refuse_overflow(values: np.ndarray, csr: CsrArrays, normalization: str) -> None:
    if not np.isfinite(values).all():
        node = int(csr.rows[np.isfinite(values).argmin()])
        raise ValueError(f"adjacency must have weights of moderate size for normalization {normalization!r}, "
                         f"received some that overflow in the row of node {node}")


def _as_edges(value: Any, named: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """(source, target) where value means edges; named: whether nodes or weights were passed along. None for another kind of adjacency."""
    if isinstance(value, Adjacency) or hasattr(value, "nnz") or _is_networkx(value):
        return None
    pair = isinstance(value, tuple) and len(value) == 2 and all(np.ndim(side) == 1 for side in value)
    if pair and len(value[0]) != len(value[1]):
        raise ValueError(f"source and target must have the same length, received {len(value[0])} and {len(value[1])}")
    array = _as_array(value)
    if array.ndim != 2:
        raise ValueError(f"adjacency must have 2 axes, received shape {array.shape}")
    whole = array.dtype.kind in "iu" or (array.size == 0 and len(array) == 2)
    if not whole and (pair or (len(array) == 2 and array.shape[1] != 2)):
        raise ValueError(f"an edge array must hold whole numbers, received dtype {array.dtype} and shape {array.shape}")
    if array.shape == (2, 2) and whole and not named and not pair:
        raise ValueError("adjacency must not be whole numbers of shape (2, 2), which are edges or a dense matrix: pass nodes with edges, "
                         "or floats for a matrix")
    if whole and len(array) == 2:
        return array[0], array[1]
    if whole and array.shape[0] != array.shape[1]:
        raise ValueError(f"{EDGES}, received {array.shape}" + (": transpose it" if array.shape[1] == 2 else ""))
    return None


def _is_edges(value: Any, nodes: int) -> bool:
    """Whether value, beside features of so many nodes, is edges and can be nothing else."""
    if isinstance(value, Adjacency) or hasattr(value, "nnz") or _is_networkx(value) or not hasattr(value, "__len__") or len(value) != 2:
        return False
    pair = isinstance(value, tuple) and all(np.ndim(side) == 1 for side in value)
    array = _as_array(value)
    return pair or (array.dtype.kind in "iu" and array.ndim == 2 and (nodes != 2 or array.shape != (2, 2)))


def _as_array(value: Any) -> np.ndarray:
    kinds = "an Adjacency, a SciPy sparse matrix, a dense array, an edge array or a NetworkX graph"
    if hasattr(value, "edge_index"):
        raise TypeError(f"adjacency must be {kinds}, received {article(type(value).__name__)}: pass its edge_index")
    if isinstance(value, (list, tuple)) and len(value) and (_is_networkx(value[0]) or isinstance(value[0], Adjacency) or hasattr(value[0], "nnz")):
        raise TypeError(f"adjacency must be {kinds}, received {article(type(value).__name__)} of {len(value)} of them: nnkit.graph.GraphLoader makes "
                        "batches of many graphs, Adjacency.blocks one batch")
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError("adjacency must be a rectangular array, received rows of unequal length") from None
    except (TypeError, RuntimeError) as error:           # a sparse tensor
        raise TypeError(f"adjacency must be {kinds}, received {article(type(value).__name__)} that NumPy cannot read: {error}") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"adjacency must be {kinds}, received {value!r}")
    return array


def _of_edges(source: np.ndarray, target: np.ndarray, nodes: int | None, weights: Any) -> Any:
    """The SciPy matrix of edges, entries not yet summed."""
    import scipy.sparse

    E = len(source)
    if nodes is None and E == 0:
        raise ValueError("nodes must be given for an edge array without edges, received None")
    V = max(0, int(source.max()), int(target.max())) + 1 if nodes is None else as_whole(nodes, 1, "nodes")
    for what, side in (("source", source), ("target", target)):
        refuse_outside(side, V, f"{what} of the edges")
    if V >= LIMIT:
        raise ValueError(f"adjacency must have fewer than 2**31 nodes, received {V}")
    values = np.ones(E) if weights is None else np.asarray(weights) if E == 0 else as_samples(weights, (), "float64", "weights", check_finite=True)
    if values.shape != (E,):
        raise ValueError(f"weights must have shape ({E},), one weight for each edge, received {values.shape}")
    return scipy.sparse.coo_matrix((values, (target.astype(np.int32), source.astype(np.int32))), (V, V))


def _as_matrix(value: Any) -> Any:
    """The SciPy matrix of what is no edges."""
    import scipy.sparse

    if _is_networkx(value):
        networkx = sys.modules["networkx"]
        if len(value) == 0:
            raise ValueError("adjacency must have at least one node, received a graph without nodes")
        matrix = networkx.to_scipy_sparse_array(value, weight="weight", format="csr")
        return matrix.T.tocsr() if value.is_directed() else matrix
    if hasattr(value, "nnz"):
        return value
    array = _as_array(value)
    if array.shape[0] != array.shape[1]:
        raise ValueError(f"adjacency must be square, received shape {array.shape}")
    return scipy.sparse.csr_matrix(array)


def _is_networkx(value: Any) -> bool:
    networkx = sys.modules.get("networkx")               # whoever passes a graph has imported it
    return networkx is not None and isinstance(value, networkx.Graph)
