"""Neighbour sampling: batches of seed nodes with a part of their neighbourhood, for graphs that are too large to train on at once.

Hamilton, Ying, Leskovec: Inductive representation learning on large graphs (NeurIPS 2017), in the form of PyTorch Geometric's NeighborLoader: hop h
draws up to fan_outs[h] distinct neighbours of each node that hop h - 1 has reached for the first time; the edges of a batch are those drawn.

V nodes, E entries, B seeds of a batch, H hops; N nodes and M entries that a batch can have; P and Q, to which it is padded.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from nnkit.graph.adjacency import Adjacency
from nnkit.graph.csr import CsrArrays, as_members
from nnkit.plan import layout as plan_layout
from nnkit.plan.passes import split_into_tasks
from nnkit.plan.plan import ALIGNMENT, Buffer, Plan, Step
from nnkit.runtime.cpu import Memory, Tape
from nnkit.training.feed import as_samples, as_seed, as_whole

__all__ = ["CHUNK", "COUNTERS", "STREAMS", "GraphBatch", "NeighborLoader", "bucket", "external", "step_tape"]

# What kernels read, in the int64 array "counters": the seed; the number of the batch over all epochs; the least valid slot; how often a pair is
# drawn before it is given up.
COUNTERS = {"seed": 0, "step": 1, "base": 2, "tries": 3}
# Random streams, counted down from 2^32 so that none is a layer's.
STREAMS = {"neighbors": 2**32 - 1, "negatives": 2**32 - 2}
CHUNK = 64                                               # rows whose random words are drawn together
TASKS = 16                                               # of a step with much to do
TASK_ROWS = 256                                          # fewest rows worth a task
LAST_SLOT = 2**31 - 1


@attrs.frozen(eq=False)
class GraphBatch:
    """What `NeighborLoader` and `GraphLoader` give: a graph, padded by isolated nodes to one of few shapes, for which plans are kept.

    Fields:
        x: features, an array (P, F) or, where the loader's are sparse, `CsrArrays`; padding is 0.
        adjacency: `Adjacency` of P nodes. Sampled, node i is node nodes[i] of the graph; it gathers from those neighbours that are drawn.
        y: targets of all samples: nodes, (P,) or (P, k), padded with 0, or graphs; None where the loader has none.
        mask: which samples count: of sampled nodes the seeds, which come first; all graphs.
        nodes: int32, the numbers of the sampled nodes, without the padding, or of the graphs.
    """

    x: np.ndarray | CsrArrays
    adjacency: Adjacency
    y: np.ndarray | None
    mask: np.ndarray
    nodes: np.ndarray


class NeighborLoader:
    """Batches of seed nodes with sampled neighbourhoods: goes through all seeds whenever it is iterated over, by other draws every time.

    The same seed gives the same batches, epoch by epoch, for any number of threads. A batch's arrays are its own: they are used again once nobody
    holds them any more.

    Args:
        x: features (V, F): an array, or a SciPy sparse matrix.
        adjacency: whatever `Adjacency.of` takes. Row i names the nodes from which node i gathers: its neighbours here.
        y: targets (V,) or (V, k), or None.
        nodes: the seeds: distinct node numbers, or a mask (V,). Default: all nodes.
        fan_outs: for every hop, how many neighbours of a node are drawn at most, or -1 for all.
        batch_size: seeds of a batch; the last one of an epoch may have fewer.
        shuffle: whether the seeds come in another order every epoch.
        seed: of order and draws.
        threads: how many take part at most. Default: as many as there are processors.
        replace: whether a neighbour can be drawn several times: fan_outs[h] draws then, wherever there is a neighbour; its weight counts as often.

    Raises:
        TypeError, ValueError: what does not fit; one sentence that names it.

    >>> import nnkit.graph, numpy as np
    >>> ring = np.stack([np.arange(8), (np.arange(8) + 1) % 8])
    >>> loader = NeighborLoader(np.eye(8), ring, nodes=[0, 4], fan_outs=(1, 1), shuffle=False)
    >>> [batch.nodes.tolist() for batch in loader]
    [[0, 4, 7, 3, 6, 2]]
    """

    def __init__(self, x: Any, adjacency: Any, y: Any = None, *, nodes: Any = None, fan_outs: Sequence[int] = (10, 10), batch_size: int = 1024,
                 shuffle: bool = True, seed: int = 0, threads: int | None = None, replace: bool = False) -> None:
        self.x, self.adjacency = as_graph(x, adjacency)
        V = self.adjacency.nodes
        self.y = None if y is None else _as_targets(y, V)
        self.nodes = _as_seeds(nodes, V)
        self.fan_outs = _as_fan_outs(fan_outs)
        self.batch_size = as_whole(batch_size, 1, "batch_size")
        self.shuffle = bool(shuffle)
        self.seed = as_seed(seed)
        threads = None if threads is None else as_whole(threads, 1, "threads")
        self.epoch = 0
        self._order = SeedOrder(len(self.nodes), self.seed, self.shuffle)
        self._sampler = _Sampler(self.adjacency.csr, self.fan_outs, min(self.batch_size, len(self.nodes)), self.seed, threads, bool(replace))
        self._gatherer = _Gatherer(self._sampler, self.x, self.y, threads)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.nodes) // self.batch_size)

    def __iter__(self) -> Iterator[GraphBatch]:
        """The batches of the next epoch."""
        epoch, self.epoch = self.epoch, self.epoch + 1
        seeds = self.nodes[self._order.of(epoch)]
        for position in range(len(self)):
            yield self._batch(seeds[position * self.batch_size:(position + 1) * self.batch_size], epoch * len(self) + position)

    def _batch(self, seeds: np.ndarray, step: int) -> GraphBatch:
        with self._lock:                                 # the sampler's memory holds one batch
            self._sampler.run(seeds, step)
            return self._gatherer.run(len(seeds))


# The edge.

def as_graph(x: Any, adjacency: Any) -> tuple[np.ndarray | CsrArrays, Adjacency]:
    """Features of V nodes, float32 or float64 (V, F) or `CsrArrays` of a sparse matrix, and their adjacency. Edges have as many nodes as x has rows.

    Raises as `Adjacency.of`, `CsrArrays.of` and `as_samples` do, and ValueError where x has not one row for each node.
    """
    sparse = isinstance(x, CsrArrays) or hasattr(x, "nnz")
    features = (x if isinstance(x, CsrArrays) else CsrArrays.of(x, "x")) if sparse else np.asarray(x)
    made = Adjacency.around(adjacency, features.shape[0] if len(features.shape) == 2 else None)
    if len(features.shape) != 2 or features.shape[0] != made.nodes:
        raise ValueError(f"x must have shape ({made.nodes}, features), one row for each node, received {features.shape}")
    if isinstance(features, CsrArrays):
        return features, made
    return as_samples(features, features.shape[1:], "float64" if features.dtype == np.float64 else "float32", "x"), made


def _as_targets(y: Any, V: int) -> np.ndarray:
    """Targets (V,) or (V, k), of four or eight bytes an element: other numbers become int32 or float32."""
    given = np.asarray(y)
    if given.ndim not in (1, 2) or len(given) != V:
        raise ValueError(f"y must have shape ({V},) or ({V}, k), one row for each node, received {given.shape}")
    if given.dtype.kind not in "biuf":
        raise TypeError(f"y must hold real numbers, received dtype {given.dtype}")
    small = given.dtype.itemsize < 4 or given.dtype.kind == "b"
    dtype = given.dtype if not small and given.dtype.itemsize <= 8 else np.dtype("float64" if given.dtype.itemsize > 8 else
                                                                                  "float32" if given.dtype.kind == "f" else "int32")
    return np.ascontiguousarray(given, dtype.newbyteorder("="))


def _as_seeds(nodes: Any, V: int) -> np.ndarray:
    """Distinct node numbers as int32."""
    if nodes is None:
        return np.arange(V, dtype=np.int32)
    seeds = as_members(nodes, V, "nodes")
    if not len(seeds):
        raise ValueError("nodes must name at least one node, received none")
    times = np.bincount(seeds)
    if times.max() > 1:
        raise ValueError(f"nodes must hold distinct numbers, received {times.argmax()} repeatedly")
    return seeds.astype(np.int32)


def _as_fan_outs(fan_outs: Any) -> tuple[int, ...]:
    if not isinstance(fan_outs, (tuple, list)) or not fan_outs:
        raise ValueError(f"fan_outs must be a tuple with one whole number for every hop, received {fan_outs!r}")
    found = tuple(as_whole(fan_out, -1, f"fan_outs[{hop}]") for hop, fan_out in enumerate(fan_outs))
    if 0 in found:
        raise ValueError(f"fan_outs[{found.index(0)}] must be at least 1, or -1 for all neighbours, received 0")
    return found


# Plans over the caller's arrays alone.

def external(name: str, array: np.ndarray) -> Buffer:
    """The buffer of an array that is bound by address."""
    return Buffer(name, (0, *array.shape[1:]), str(array.dtype), "external")


def step_tape(mode: str, steps: Sequence[Step], threads: int | None, dtype: str = "float32") -> Tape:
    """A tape of steps that touch no memory but external arrays."""
    layout = plan_layout.Layout(dtype=dtype, offsets={}, buffers={}, parameters={}, gradients={})
    return Tape(split_into_tasks(Plan(mode=mode, batch=0, dtype=dtype, steps=tuple(steps))), Memory(layout), threads)


class _Steps:
    """Collects steps on named external arrays."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.buffers = {name: external(name, array) for name, array in arrays.items()}
        self.steps: list[Step] = []

    def add(self, kernel: str, writes: str, updates: str, reads: str, scratch: str = "", scalars: tuple[int, ...] = (), tasks: int = 1) -> None:
        """One step; arrays by name, separated by spaces."""
        w, u, r, s = (tuple(self.buffers[name] for name in names.split()) for names in (writes, updates, reads, scratch))
        self.steps.append(Step(f"graph.sampling.{kernel}", "", "sample", w, u, r, s, scalars, tasks))


def tasks_of(rows: int) -> int:
    """How many tasks so many rows are worth: by shapes alone."""
    return max(1, min(TASKS, rows // TASK_ROWS))


class SeedOrder:
    """The order of n items in every epoch: as numbers, shuffled by seed and epoch."""

    def __init__(self, n: int, seed: int, shuffle: bool) -> None:
        self.order = np.arange(n)
        self.counters = np.zeros(len(plan_layout.COUNTERS), np.int64)
        self.counters[plan_layout.COUNTERS["seed"]] = seed
        self.tape: Tape | None = None
        if shuffle:
            step = Step("prims.random.shuffle", "", "feed", writes=(external("order", self.order),), reads=(external("counters", self.counters),))
            self.tape = step_tape("shuffle", [step], 1)

    def of(self, epoch: int) -> np.ndarray:
        """The numbers 0 to n - 1 in the order of this epoch."""
        if self.tape is None:
            return self.order
        order = np.empty_like(self.order)
        self.counters[plan_layout.COUNTERS["epoch"]] = epoch
        self.tape.bind({"order": order, "counters": self.counters})
        self.tape.run()
        return order


class _Sampler:
    """The memory and the tape that sample a batch: its nodes, and the entries of its rows, in places of one batch after the other.

    Arrays: nodes (N + 1,); found and places (M,): column in the batch and entry in the graph of each entry drawn; starts (N + 1,): where rows begin,
    as far as nodes are expanded; bounds (H + 2,): hop h expands the nodes bounds[h] to bounds[h + 1] - 1; slots (V,): see number_seeds.
    """

    def __init__(self, csr: CsrArrays, fan_outs: tuple[int, ...], batch_size: int, seed: int, threads: int | None,
                 replace: bool) -> None:
        self.csr, self.hops, self.replace = csr, len(fan_outs), replace
        V, E = csr.shape[0], csr.entries
        if not replace:
            most = int(np.diff(csr.starts).max())        # memory for no more draws than there are neighbours
            fan_outs = tuple(min(fan_out, most) for fan_out in fan_outs)
        rows, N, M = [batch_size], batch_size, 0
        for fan_out in fan_outs:
            drawn = E if fan_out < 0 else rows[-1] * fan_out if replace else min(E, rows[-1] * fan_out)
            rows.append(min(V, drawn))
            N, M = min(V, N + rows[-1]), M + drawn if replace else min(E, M + drawn)
        words = max((tasks_of(n) * 4 * -(-max(fan_out, 0) // 4) * CHUNK for n, fan_out in zip(rows, fan_outs, strict=False)), default=0)
        self.arrays: dict[str, np.ndarray] = {
            "nodes": np.empty(N + 1, np.int32), "slots": np.zeros(V, np.int32), "bounds": np.zeros(len(fan_outs) + 2, np.int64),
            "starts": np.zeros(N + 1, np.int64), "first": np.empty(N, np.int32), "degrees": np.empty(N, np.int32),
            "places": np.empty(M, np.int32), "found": np.empty(M, np.int32), "words": np.empty(words, np.int32),
            "counters": np.zeros(len(COUNTERS), np.int64), "graph_starts": csr.starts, "columns": csr.columns, "seeds": np.empty(0, np.int32)}
        self.counters[COUNTERS["seed"]], self.counters[COUNTERS["base"]] = seed, 1
        self.size = N
        g = _Steps(self.arrays)
        g.add("number_seeds", "nodes bounds starts", "slots", "seeds counters")
        for hop, fan_out in enumerate(fan_outs):
            tasks, again = tasks_of(rows[hop]), int(replace and fan_out > 0)
            g.add("take_counts", "starts first degrees", "", "bounds nodes graph_starts", scalars=(hop, fan_out, again), tasks=tasks)
            g.add("sum_counts", "", "starts", "bounds", scalars=(hop,))
            g.add("draw_neighbors", "places found", "", "starts first degrees bounds columns counters", "words", (hop, fan_out, again), tasks)
            g.add("number_found", "", "nodes found slots bounds", "starts counters", scalars=(hop,))
        self.tape = step_tape("sample", g.steps, threads)
        self.tape.bind(self.arrays)

    @property
    def counters(self) -> np.ndarray:
        """See COUNTERS."""
        return self.arrays["counters"]

    def run(self, seeds: np.ndarray, step: int) -> None:
        """Sample the batch of these seeds."""
        base = int(self.counters[COUNTERS["base"]]) + self.size
        if base + self.size > LAST_SLOT:
            self.arrays["slots"][:] = 0
            base = 1
        self.counters[COUNTERS["base"]], self.counters[COUNTERS["step"]] = base, step
        self.tape.bind({"seeds": seeds})
        self.tape.run()

    @property
    def found(self) -> tuple[int, int]:
        """How many nodes the batch has, and how many entries were drawn."""
        bounds = self.arrays["bounds"]
        return int(bounds[-1]), int(self.arrays["starts"][bounds[-2]])


class _Gatherer:
    """Makes batches of what was sampled: sorted rows, padded; features, targets and weights gathered, as words of four bytes."""

    def __init__(self, sampler: _Sampler, x: np.ndarray | CsrArrays, y: np.ndarray | None, threads: int | None) -> None:
        self.sampler, self.x, self.y, csr = sampler, x, y, sampler.csr
        self.spare = Spare()
        self.weighted = not (csr.values[:csr.entries] == 1).all()
        given = {"x": x if isinstance(x, np.ndarray) else None, "y": y, "values": csr.values if self.weighted else None}
        self.sources = {name: array for name, array in given.items() if array is not None}
        words = {f"{name}/all": as_words(array) for name, array in self.sources.items()}
        arrays = {**sampler.arrays, **words}
        made: dict[str, np.ndarray] = {name: words[f"{name}/all"][:0] for name in self.sources}
        made.update(row_starts=np.empty(0, np.int64), row_columns=np.empty(0, np.int32), times=np.empty(0))
        g = _Steps({**arrays, **made})
        nodes, entries = tasks_of(len(arrays["first"])), tasks_of(len(arrays["places"]))
        g.add("sort_rows", "row_columns", "found places", "starts bounds", scalars=(sampler.hops,), tasks=nodes)
        if sampler.replace:
            g.add("merge_repeated", "row_starts row_columns times", "places", "found starts bounds", scalars=(sampler.hops,))
        else:
            g.add("find_places", "row_starts", "", "starts bounds", scalars=(sampler.hops,))
        for name in self.sources:
            indices, tasks = ("places row_starts", entries) if name == "values" else ("nodes bounds", nodes)
            g.add("gather", name, "", f"{name}/all {indices}", tasks=tasks)
        self.tape = step_tape("gather", g.steps, threads)
        self.tape.bind(arrays)

    def run(self, seeds: int) -> GraphBatch:
        """The batch that the sampler holds."""
        n, m = self.sampler.found
        P, Q = bucket(n), bucket(m)
        lengths = {"x": P, "y": P, "values": Q}
        taken = {name: self.spare.take((lengths[name], *array.shape[1:]), array.dtype) for name, array in self.sources.items()}
        made = {"row_starts": self.spare.take((P + 1,), np.dtype(np.int64)), "row_columns": self.spare.take((Q,), np.dtype(np.int32))}
        if self.sampler.replace:
            made["times"] = np.empty(Q)
        self.tape.bind({**made, **{name: as_words(array) for name, array in taken.items()}})
        self.tape.run()
        values = taken.get("values")
        if values is None:
            values = made["times"] if self.sampler.replace else _ones(m, Q)
        elif self.sampler.replace:
            values *= made["times"]
        nodes, mask = self.sampler.arrays["nodes"][:n].copy(), np.zeros(P, bool)
        mask[:seeds] = True
        adjacency = Adjacency(CsrArrays((P, P), made["row_starts"], made["row_columns"], values), np.array([0, n]))
        x = taken["x"] if isinstance(self.x, np.ndarray) else _padded_rows(self.x.take_rows(nodes), P)
        return GraphBatch(x=x, adjacency=adjacency, y=taken.get("y"), mask=mask, nodes=nodes)


def as_words(array: np.ndarray) -> np.ndarray:
    """The same memory as float32 (rows, words of four bytes of a row): kernels copy them without looking at them."""
    words = array.itemsize // 4 * int(np.prod(array.shape[1:], dtype=np.int64))
    return array.reshape(-1).view(np.float32).reshape(len(array), words)


def _ones(count: int, room: int) -> np.ndarray:
    """The weights of entries that all weigh 1."""
    values = np.zeros(room)
    values[:count] = 1.0
    return values


def _padded_rows(csr: CsrArrays, rows: int) -> CsrArrays:
    """The matrix with empty rows and room behind, up to shapes that repeat."""
    starts = np.full(rows + 1, csr.starts[-1])
    starts[:len(csr.starts)] = csr.starts
    columns, values = (np.zeros(bucket(csr.entries), array.dtype) for array in (csr.columns, csr.values))
    columns[:csr.entries], values[:csr.entries] = csr.columns, csr.values
    return CsrArrays((rows, csr.shape[1]), starts, columns, values)


def bucket(n: int) -> int:
    """The least number not below n of which there are few: eight to each power of two."""
    step = 1 << max(0, (max(n, 1) - 1).bit_length() - 4)
    return -(-max(n, 1) // step) * step


# Memory that is used again.

class Lease:
    """Owns a block of memory on behalf of the arrays over it: it lives as long as one of them does."""

    def __init__(self, block: np.ndarray, nbytes: int) -> None:
        start = -block.ctypes.data % ALIGNMENT
        self.block = block
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (nbytes,), "data": (block.ctypes.data + start, False)}


class Spare:
    """Arrays whose memory comes back when nobody holds them any more: fresh memory costs more than a gather into it.

    At most KEPT blocks lie idle.
    """

    KEPT = 12

    def __init__(self) -> None:
        self.free: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array of that shape, C-contiguous, with anything in it."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        fitting = [position for position, block in enumerate(self.free) if block.size == nbytes + ALIGNMENT]
        block = self.free.pop(fitting[0]) if fitting else np.empty(nbytes + ALIGNMENT, np.uint8)
        lease = Lease(block, nbytes)
        weakref.finalize(lease, self._return, block).atexit = False
        return np.asarray(lease).view(dtype).reshape(shape)

    def _return(self, block: np.ndarray) -> None:
        self.free.append(block)
        del self.free[:-self.KEPT]
