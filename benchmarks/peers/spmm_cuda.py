"""`spmm.py --cuda`: nnkit's product of a sparse matrix with a dense one on a GPU, beside cuSPARSE as PyTorch calls it, and beside a copy.

Every product is first checked against SciPy on some rows. Then all take turns; a turn asks for many runs at once and waits for the last of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import device_kernels
import numpy as np
import scipy.sparse

COPIED = 1 << 28                                         # float32 that the copy copies, 1 GiB
CHECKED = 1000                                           # rows of every product, drawn, and three besides
TURN = 0.05                                              # seconds of one turn, about
FEWEST = 3                                               # turns of each
CUSPARSE = ("torch.sparse.mm", "torch.mm out")
HEADING = ("graph", "nodes", "entries", "features", "nnkit ms", *(f"{name} ms" for name in CUSPARSE), "better of them / nnkit", "GB/s at least",
           "at most", "copy GB/s", "share of copy at least", "at most")


@dataclass
class Product:
    """run(n) runs n times and returns when all are done; rows(numbers) gives these rows of the result of the last run."""

    run: Callable[[int], object]
    rows: Callable[[np.ndarray], np.ndarray]


def of_nnkit(device: Any, a: scipy.sparse.csr_matrix, x: np.ndarray) -> Product:
    """Our kernel on a device (`nnkit.runtime.cuda.Device`)."""
    kernel, F = device_kernels.sparse_product(device, a, x), x.shape[1]
    return Product(kernel.run, lambda numbers: np.stack([kernel.read(row * F, (row + 1) * F) for row in map(int, numbers)]))


def of_torch(a: scipy.sparse.csr_matrix, x: np.ndarray, gpu: str = "cuda") -> dict[str, Product]:
    """cuSPARSE, with 32-bit indices: into a new array, which PyTorch clears first, and into one that is there."""
    import torch

    starts, columns, values, right = (torch.from_numpy(array).to(gpu) for array in (a.indptr.astype(np.int32), a.indices.astype(np.int32), a.data, x))
    matrix = torch.sparse_csr_tensor(starts, columns, values, a.shape)
    y = torch.empty((a.shape[0], x.shape[1]), device=gpu)
    last = [y]

    def anew() -> None:
        last.clear()                                     # so that its memory can be the next one's
        last.append(torch.sparse.mm(matrix, right))

    def rows(found: list[torch.Tensor]) -> Callable[[np.ndarray], np.ndarray]:
        return lambda numbers: found[0][torch.from_numpy(numbers).to(gpu)].cpu().numpy()
    calls = (anew, rows(last)), (lambda: torch.mm(matrix, right, out=y), rows([y]))
    return {name: Product(repeated(call, gpu), some) for name, (call, some) in zip(CUSPARSE, calls, strict=True)}


def copying(elements: int = COPIED, gpu: str = "cuda") -> Callable[[int], object]:
    """A copy from device memory to device memory, by PyTorch, which asks the driver for it."""
    import torch

    source = torch.ones(elements, device=gpu)
    target = torch.zeros_like(source)
    return repeated(lambda: target.copy_(source), gpu)


def repeated(call: Callable[[], object], gpu: str) -> Callable[[int], None]:
    """n calls, then a wait for all that PyTorch has asked for."""
    import torch

    def run(times: int) -> None:
        for _ in range(times):
            call()
        if gpu == "cuda":
            torch.cuda.synchronize()
    return run


def check(name: str, product: Product, a: scipy.sparse.csr_matrix, x: np.ndarray) -> None:
    """Compare rows of the product with SciPy's in float64: drawn ones, the first, the last and the longest. Raises AssertionError."""
    drawn = np.random.default_rng(0).integers(0, a.shape[0], CHECKED)
    numbers = np.unique([0, a.shape[0] - 1, int(np.diff(a.indptr).argmax()), *drawn])
    some = a[numbers]
    columns, places = np.unique(some.indices, return_inverse=True)       # of x only the rows that are needed: all of it in float64 is too much
    small = scipy.sparse.csr_matrix((some.data.astype(float), places, some.indptr), (len(numbers), len(columns)))
    right = x[columns].astype(float)
    product.run(1)
    found, bound = product.rows(numbers), 1e-5 * (abs(small) @ np.abs(right)) + 1e-6
    assert (np.abs(found - small @ right) <= bound).all(), f"{name}: other numbers than SciPy's"


def least(runs: dict[str, Callable[[int], object]], seconds: float) -> dict[str, float]:
    """Seconds of one run of each: the least of the turns."""
    for run in runs.values():
        run(1)
    found = dict.fromkeys(runs, np.inf)
    end, turns = time.perf_counter() + seconds, 0
    while turns < FEWEST or time.perf_counter() < end:
        for name, run in runs.items():
            times = max(1, min(1000, round(TURN / found[name])))          # once in the first turn
            start = time.perf_counter()
            run(times)
            found[name] = min(found[name], (time.perf_counter() - start) / times)
        turns += 1
    return found


def traffic(a: scipy.sparse.csr_matrix, features: int) -> tuple[int, int]:
    """Bytes that a product moves at least, the matrix, x and y once each, and at most: of x a row for every entry, as if no cache held any."""
    rows, columns = a.shape
    matrix, y = 8 * a.nnz + 8 * (rows + 1), 4 * rows * features
    return matrix + y + 4 * columns * features, matrix + y + 4 * a.nnz * features


def line(graph: str, a: scipy.sparse.csr_matrix, features: int, times: dict[str, float], copied: int = 8 * COPIED) -> str:
    """A row of the table. times: seconds of "nnkit", of those of CUSPARSE, and of "copy", which reads and writes so many bytes."""
    own, peers, speed = times["nnkit"], [times[name] for name in CUSPARSE], copied / times["copy"]
    moved = [nbytes / own for nbytes in traffic(a, features)]
    cells = [graph, a.shape[0], a.nnz, features, *(f"{1e3 * seconds:.3f}" for seconds in (own, *peers)), f"{min(peers) / own:.2f}",
             *(f"{each / 1e9:.0f}" for each in (*moved, speed)), *(f"{each / speed:.0%}" for each in moved)]
    return "| " + " | ".join(map(str, cells)) + " |"


def devices() -> tuple[Any, str]:
    """nnkit's device, and the name of the GPU. Exits with one sentence where something is missing."""
    try:
        import torch
    except ImportError:
        raise SystemExit(f"--cuda: PyTorch, which calls cuSPARSE, must be installed for the same interpreter, {sys.executable}") from None
    if not torch.cuda.is_available():
        raise SystemExit(f"--cuda: PyTorch {torch.__version__} sees no NVIDIA GPU")
    from nnkit.runtime import driver

    try:
        return driver.device(), torch.cuda.get_device_name()
    except RuntimeError as error:
        raise SystemExit(f"--cuda: {error}") from None


def compare(graphs: Iterable[tuple[str, scipy.sparse.csr_matrix]], features: Sequence[int], seconds: float) -> None:
    """Print the table."""
    device, name = devices()
    print(f"{name}; to reach: 0.9, and 60% of the copy\n")
    print("| " + " | ".join(HEADING) + " |\n" + "| --- " * len(HEADING) + "|", flush=True)
    copy = copying()
    for graph, a in graphs:
        for width in features:
            print(line(graph, a, width, measured(device, a, width, copy, seconds)), flush=True)


def measured(device: Any, a: scipy.sparse.csr_matrix, features: int, copy: Callable[[int], object], seconds: float) -> dict[str, float]:
    """Seconds of a run of every product and of the copy; products must be right. What they take of the GPU is given back."""
    x = np.random.default_rng(1).standard_normal((a.shape[1], features), dtype=np.float32)
    products = {"nnkit": of_nnkit(device, a, x), **of_torch(a, x)}
    for name, product in products.items():
        check(name, product, a, x)
    return least({"copy": copy, **{name: product.run for name, product in products.items()}}, seconds)
