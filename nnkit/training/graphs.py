"""The edge of networks on graphs: features, adjacencies and pairs of nodes become checked arrays for one number of nodes.

V nodes. All of a graph is one batch: its nodes have no order that could be shuffled, as neighbours are known by their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from nnkit.graph.adjacency import Adjacency
from nnkit.graph.csr import CsrArrays, refuse_flags
from nnkit.plan.build import numbered_input
from nnkit.plan.builder import Sizes
from nnkit.prims.csr import form_name, is_even
from nnkit.runtime.device_array import DeviceArray
from nnkit.training.feed import as_indices, as_samples

if TYPE_CHECKING:
    from nnkit.layers.base import Form
    from nnkit.nodes import Graph

__all__ = ["SparseRows", "Surroundings", "as_graph_inputs", "as_mask", "by_kind", "input_arrays", "samples_of", "sizes_of", "sizes_with",
           "smallest_sizes"]


@attrs.frozen(eq=False)
class SparseRows:
    """An input that is a sparse matrix with a row for each node, its values of dtype."""

    matrix: CsrArrays
    dtype: str

    def __len__(self) -> int:
        return self.matrix.shape[0]

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The external arrays of a plan by name."""
        return self.matrix.arrays(name, self.dtype)

    def matrices(self, name: str) -> dict[str, CsrArrays]:
        """The matrix by name."""
        return {name: self.matrix}


@attrs.frozen(eq=False)
class Surroundings:
    """An input that is a graph, in the forms in which the layers take its adjacency, their values of dtype."""

    adjacency: Adjacency
    forms: tuple[Form, ...]
    dtype: str

    def __len__(self) -> int:
        return self.adjacency.nodes

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The external arrays of a plan by name."""
        found = {f"{name}/segments": self.adjacency.segments}
        for form, matrix in self.matrices(name).items():
            found.update(matrix.arrays(form, self.dtype))
        return found

    def matrices(self, name: str) -> dict[str, CsrArrays]:
        """The forms by name."""
        return {form_name(name, form): self.adjacency.form(*form) for form in self.forms}

    def pullback(self, gradients: Sequence[np.ndarray]) -> np.ndarray:
        """The gradient by the weights of the edges, in the order of the adjacency's entries, from those by the values of the forms."""
        total = np.zeros(len(self.adjacency.csr.values))
        for form, gradient in zip(self.forms, gradients, strict=True):
            total += self.adjacency.pullback(*form, gradient)
        return total[:self.adjacency.entries].astype(self.dtype)


Checked = np.ndarray | DeviceArray | SparseRows | Surroundings


def as_graph_inputs(values: Sequence[Any], graph: Graph, dtype: str, check_finite: bool = False) -> tuple[Checked, ...]:
    """The inputs of a network on graphs, checked. Raises TypeError or ValueError with one sentence."""
    flow = graph.flow
    names = [f"x[{position}]" for position in range(len(values))]
    rows = next((_rows(value) for value, kind in zip(values, flow.kinds, strict=True) if kind in ("numbers", "sparse")), None)
    found: list[Any] = [Surroundings(Adjacency.around(value, rows), forms, dtype) if kind == "graph" else None
                        for value, kind, forms in zip(values, flow.kinds, flow.forms, strict=True)]
    nodes = next(len(value) for value in found if value is not None)
    for position, (value, kind) in enumerate(zip(values, flow.kinds, strict=True)):
        shape, limit, what = graph.input_shapes[position], graph.index_limits[position], names[position]
        if kind == "sparse":
            found[position] = SparseRows(as_sparse(value, shape, what), dtype)
        elif kind == "places":
            found[position] = as_indices(value, shape, nodes, what, "nodes of the graph")
        elif kind == "numbers":
            found[position] = as_samples(value, shape, dtype, what, check_finite) if limit is None else as_indices(value, shape, limit, what)
        if kind != "places" and len(found[position]) != nodes:
            raise ValueError(f"{what} must have {nodes} rows, one for each node of the graph, received {len(found[position])}")
    return tuple(found)


def _rows(value: Any) -> int | None:
    """How many rows features seem to have, before they are checked."""
    shape = value.shape if hasattr(value, "shape") else (len(value),) if hasattr(value, "__len__") else ()
    return shape[0] if shape else None


def as_sparse(value: Any, shape: tuple[int, ...], what: str) -> CsrArrays:
    """Rows of a known number of features as a sparse matrix. Raises TypeError or ValueError with one sentence."""
    if not isinstance(value, CsrArrays) and not hasattr(value, "nnz"):
        from scipy import sparse  # costs 50 ms; mostly the value is sparse, and whoever made it has imported it
        value = sparse.csr_matrix(as_samples(value, shape, "float64", what, check_finite=True))
    matrix = value if isinstance(value, CsrArrays) else CsrArrays.of(value, what)
    if matrix.shape[1:] != shape:
        raise ValueError(f"{what} must have shape (nodes, {shape[0]}), received {matrix.shape}")
    return matrix


def by_kind(graph: Graph, features: Any, adjacency: Any, pairs: Any = None) -> tuple[Any, ...]:
    """What a loader gives, in the order of the network's inputs. features: an array, or a tuple of one for each input that has rows of nodes.

    Raises ValueError where the network has other inputs.
    """
    kinds = graph.flow.kinds
    rows = list(features) if isinstance(features, tuple) else [features]
    wanted = [kind for kind in kinds if kind in ("numbers", "sparse")]
    if len(rows) != len(wanted) or kinds.count("graph") != 1 or kinds.count("places") != (pairs is not None):
        raise ValueError(f"a batch of a graph has {len(rows)} inputs of nodes, a graph{' and pairs of nodes' if pairs is not None else ''}, "
                         f"but the network takes {', '.join(kinds)}")
    given = iter(rows)
    return tuple(adjacency if kind == "graph" else pairs if kind == "places" else next(given) for kind in kinds)


def as_mask(mask: Any, n: int, what: str) -> np.ndarray:
    """Which of n samples count, as booleans (n,): from booleans, or from the samples' numbers. Raises ValueError, TypeError."""
    array = np.asarray(mask)
    if array.dtype.kind == "b":
        if array.shape != (n,):
            raise ValueError(f"{what} must have shape ({n},), a boolean for each sample, received {array.shape}")
    else:
        places = as_indices(array, (), n, what, "samples")
        refuse_flags(places, n, what)
        array = np.zeros(n, bool)
        array[places] = True
    if not array.any():
        raise ValueError(f"{what} must count at least one sample, received none")
    return array


def input_arrays(inputs: Sequence[Checked]) -> dict[str, np.ndarray]:
    """The external input arrays of a plan by name."""
    found: dict[str, np.ndarray] = {}
    for position, value in enumerate(inputs):
        name = numbered_input(position)
        found.update(value.arrays(name) if isinstance(value, (SparseRows, Surroundings)) else {f"{name}/data": value})  # type: ignore[dict-item]
    return found


def sizes_of(inputs: Sequence[Checked], evenness: bool) -> Sizes:
    """What a plan depends on besides the batch. evenness: whether also on how the entries of matrices lie, see `Sizes`."""
    graphs = [value for value in inputs if isinstance(value, Surroundings)]
    if not graphs:
        return Sizes()
    matrices: dict[str, CsrArrays] = {}
    for position, value in enumerate(inputs):
        if isinstance(value, (SparseRows, Surroundings)):
            matrices.update(value.matrices(numbered_input(position)))
    return sizes_with(len(graphs[0]), matrices, evenness)


def sizes_with(nodes: int, matrices: Mapping[str, CsrArrays], evenness: bool = True) -> Sizes:
    """Those of so many nodes and these matrices."""
    sides = [(side, starts) for name, matrix in matrices.items() if evenness
             for side, starts in ((name, matrix.starts), (f"{name}/transposed", matrix.transposed[0]))]
    return Sizes(nodes, tuple((name, len(matrix.columns)) for name, matrix in matrices.items()),
                 tuple(side for side, starts in sides if is_even(starts)))


def smallest_sizes(graph: Graph) -> Sizes:
    """Sizes with which a plan of the network can be built where no data says them: a node, an entry in each matrix."""
    flow = graph.flow
    if not flow.on_graphs:
        return Sizes()
    names = [numbered_input(position) for position in range(len(flow.kinds))]
    matrices = [name for name, kind in zip(names, flow.kinds, strict=True) if kind == "sparse"]
    matrices += [form_name(name, form) for name, kind, forms in zip(names, flow.kinds, flow.forms, strict=True) if kind == "graph" for form in forms]
    return Sizes(1, tuple((name, 1) for name in matrices))


def samples_of(inputs: Sequence[Checked], graph: Graph) -> int:
    """How many samples there are: nodes, graphs, or pairs of nodes. Raises ValueError where graphs and pairs differ in number."""
    flow = graph.flow
    if not flow.on_graphs:
        return len(inputs[0])
    if flow.samples_are_nodes:
        return next(len(value) for value, kind in zip(inputs, flow.kinds, strict=True) if kind == "graph")
    pairs = [len(value) for value, kind in zip(inputs, flow.kinds, strict=True) if kind == "places"]
    counts = {*pairs} if pairs else {len(value.adjacency.segments) - 1 for value in inputs if isinstance(value, Surroundings)}
    if len(counts) > 1:
        raise ValueError(f"x: all inputs must have as many samples, received {sorted(counts)}")
    return counts.pop()


