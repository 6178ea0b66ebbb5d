"""Products of a sparse matrix with a dense one: nnkit's kernel on its tape beside SciPy and PyTorch, on given graphs.

    python benchmarks/peers/spmm.py [--graphs uniform,power] [--features 16,64,256] [--threads 2] [--nodes 1000000] [--pubmed file.npz]

All three run in this process and take turns; each result is checked, then each number is the least time of the rounds. SciPy has one thread.
With --cuda: on a GPU, beside cuSPARSE as PyTorch calls it, by default on graphs of ten million nodes and a hundred million entries: spmm_cuda.py.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.sparse

sys.path.append(str(Path(__file__).resolve().parents[1] / "suites"))
kernels = importlib.import_module("kernels")


def graph(name: str, nodes: int, file: str | None) -> scipy.sparse.csr_matrix:
    """"pubmed": from a file of SciPy's arrays, with self-loops; "uniform" and "power": ten entries for each node."""
    return kernels.planetoid(file) if name == "pubmed" else kernels.random_graph(name, nodes)


def runners(a: scipy.sparse.csr_matrix, x: np.ndarray, threads: int) -> dict[str, tuple[Callable[[], object], Callable[[], np.ndarray]]]:
    """Library -> (what runs the product, what gives its result)."""
    run, y = kernels.sparse_product(a, x, threads)
    made: dict[str, tuple[Callable[[], object], Callable[[], np.ndarray]]] = {
        "nnkit": (lambda: run(1), lambda: y), "scipy": (lambda: a @ x, lambda: a @ x)}
    try:
        import torch
    except ImportError:
        return made
    torch.set_num_threads(threads)
    matrix = torch.sparse_csr_tensor(torch.from_numpy(a.indptr), torch.from_numpy(a.indices),
                                     torch.from_numpy(a.data), a.shape)
    right = torch.from_numpy(x)
    return {**made, "torch": (lambda: torch.sparse.mm(matrix, right), lambda: torch.sparse.mm(matrix, right).numpy())}


def least(made: dict[str, tuple[Callable[[], object], Callable[[], np.ndarray]]], seconds: float, rest: float) -> dict[str, float]:
    """Milliseconds of each: the least of rounds in which all take turns, with a rest between, for the helpers of the one before go on spinning."""
    found = dict.fromkeys(made, np.inf)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, (run, _) in made.items():
            time.sleep(rest)
            repeats = max(1, min(50, int(5 / found[name]))) if np.isfinite(found[name]) else 1
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            found[name] = min(found[name], (time.perf_counter() - start) * 1e3 / repeats)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", default="uniform,power")
    parser.add_argument("--cuda", action="store_true", help="on the GPU")
    parser.add_argument("--features", help="default: 16,64,256; on a GPU 16,64")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--nodes", type=int, help="default: a million; on a GPU ten")
    parser.add_argument("--pubmed", help="file with adj_indptr, adj_indices, adj_data, adj_shape")
    parser.add_argument("--seconds", type=float, default=8.0, help="of rounds for each line")
    given = parser.parse_args()
    nodes = given.nodes or (10_000_000 if given.cuda else 1_000_000)
    widths = [int(width) for width in (given.features or ("16,64" if given.cuda else "16,64,256")).split(",")]
    if given.cuda:
        spmm_cuda = importlib.import_module("spmm_cuda")
        spmm_cuda.compare(((name, graph(name, nodes, given.pubmed)) for name in given.graphs.split(",")), widths, given.seconds)
        return
    print("| graph | nodes | entries | features | nnkit ms | scipy ms | torch ms | better of them / nnkit |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in given.graphs.split(","):
        a = graph(name, nodes, given.pubmed)
        for features in widths:
            x = np.random.default_rng(1).standard_normal((a.shape[1], features), dtype=np.float32)
            made = runners(a, x, given.threads)
            expected = made["scipy"][1]()
            for library, (run, result) in made.items():
                run()
                bound = 1e-5 * (abs(a) @ np.abs(x)) + 1e-6
                assert (np.abs(result() - expected) <= bound).all(), library
            times = least(made, given.seconds, 0.05)
            peers = [times[library] for library in ("scipy", "torch") if library in times]
            print(f"| {name} | {a.shape[0]} | {a.nnz} | {features} | {times['nnkit']:.3f} | {times['scipy']:.3f} | {times.get('torch', np.nan):.3f} "
                  f"| {min(peers) / times['nnkit']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
