"""Neighbour sampling beside PyTorch Geometric's NeighborLoader: same graphs, seeds and fan-outs, in one process, batches by turns (with
--workers one after the other).

    python benchmarks/neighbors.py --nodes 1000000 --entries 10000000 --features 64

PyTorch Geometric takes part where it is installed with its samplers in C++, pyg-lib or torch-sparse. Printed, for each graph: sampled edges a second
of both, as the median over batches, features and targets gathered; for nnkit also the sampling alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse

from nnkit.graph.adjacency import Adjacency
from nnkit.graph.sampling import NeighborLoader

FAN_OUTS, BATCH = (10, 10), 1024


def made_graph(kind: str, nodes: int, entries: int) -> np.ndarray:
    """Edges (2, E) without repetition: both ends uniform, or of a density that falls like a power (the greatest in-degree some thousands)."""
    rng = np.random.default_rng(0)
    powers = (1, 1) if kind == "uniform" else (2, 3)
    target, source = (rng.permutation(nodes)[np.minimum((nodes * rng.random(entries) ** power).astype(np.int64), nodes - 1)] for power in powers)
    distinct = scipy.sparse.coo_matrix((np.ones(entries, np.float32), (target, source)), (nodes, nodes)).tocsr().tocoo()
    return np.stack([distinct.col, distinct.row]).astype(np.int64)


def peer_batches(x: np.ndarray, edges: np.ndarray, y: np.ndarray, workers: int) -> Iterator[int] | None:
    """Numbers of edges of PyTorch Geometric's batches, or None where it cannot sample."""
    try:
        import torch
        from torch_geometric.data import Data
        from torch_geometric.loader import NeighborLoader as PeerLoader
        data = Data(x=torch.from_numpy(x), edge_index=torch.from_numpy(edges), y=torch.from_numpy(y))
        loader = PeerLoader(data, num_neighbors=list(FAN_OUTS), batch_size=BATCH, shuffle=True, num_workers=workers)
    except ImportError as error:
        print(f"PyTorch Geometric does not take part: {error}")
        return None

    def edges_of_batches() -> Iterator[int]:
        for batch in loader:
            yield batch.edge_index.shape[1]
    return edges_of_batches()


def timed(batches: Iterator[Any], count: int) -> tuple[int, float]:
    """(edges, seconds) of the next batches."""
    began = time.perf_counter()
    edges = sum(next(batches) for _ in range(count))
    return edges, time.perf_counter() - began


def compare(kind: str, options: argparse.Namespace) -> None:
    edges = made_graph(kind, options.nodes, options.entries)
    x = np.random.default_rng(1).random((options.nodes, options.features), dtype=np.float32)
    y = np.zeros(options.nodes, np.int64)
    adjacency = Adjacency.of(edges, nodes=options.nodes)
    degrees = np.diff(adjacency.csr.starts)
    print(f"{kind}: {options.nodes} nodes, {adjacency.entries} entries, greatest in-degree {degrees.max()}")
    runs: dict[str, Iterator[int]] = {}
    for threads in (1, 2):
        loader = NeighborLoader(x, adjacency, y, fan_outs=FAN_OUTS, batch_size=BATCH, threads=threads)
        runs[f"nnkit, {threads} threads"] = (batch.adjacency.entries for batch in loader)
    peer = peer_batches(x, edges, y, options.workers)
    if peer is not None:
        runs["PyTorch Geometric"] = peer
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in runs}
    # Worker processes would prepare their batches in the others' turns.
    for group in [list(runs)] if not options.workers else [[name] for name in runs]:
        for turn in range(options.turns + 1):
            for name in group:
                one = timed(runs[name], options.batches)
                if turn:                                 # the first one warms up
                    found[name].append(one)
    means = {name: sum(edges for edges, _ in own) / options.batches / len(own) for name, own in found.items()}
    assert max(means.values()) < 1.03 * min(means.values()), f"they do not sample alike: {means}"
    for name, own in found.items():
        rates = [edges / seconds / 1e6 for edges, seconds in own]
        print(f"  {name:20} {means[name]:9.0f} edges a batch; million edges a second: median {statistics.median(rates):6.2f}, "
              f"least {min(rates):6.2f}, most {max(rates):6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0, help="processes that PyTorch Geometric samples in")
    parser.add_argument("--batches", type=int, default=8, help="of each turn")
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args()
    for kind in ("uniform", "power law"):
        compare(kind, options)


if __name__ == "__main__":
    main()
