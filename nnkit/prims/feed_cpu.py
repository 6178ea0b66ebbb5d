"""Kernels that bring the data set's rows into the arena, predictions out of it, and count.

N rows of the batch, F features of a row. `counters` is laid out as plan.layout.COUNTERS says.
"""

from __future__ import annotations

from nnkit.jit import Counters, Int, LabelMatrix, Matrix, Ordinals, kernel, routine
from nnkit.plan.layout import COUNTERS
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.simd_cpu import address, copy_masked, copy_whole, itemsize, lanes

__all__ = ["advance", "gather_labels", "gather_rows", "scatter"]

STEP, POSITION = COUNTERS["step"], COUNTERS["position"]


@routine
def copy_row(y, x, n, like):
    """y[:n] = x[:n] by address, register by register; only the last one under a mask, which costs more even where it is full."""
    size, lane = itemsize(like), lanes(like)
    whole = n // lane * lane
    for f in range(0, whole, lane):
        copy_whole(y + size * f, x + size * f, like)
    if whole < n:
        copy_masked(y + size * whole, x + size * whole, n - whole, like)


@kernel
def gather_rows(task: Int, tasks: Int, y: Matrix, x: Matrix, order: Ordinals, counters: Counters) -> None:
    """y[n] = x[order[position + n]], or x[position + n] where order is empty. Shapes: y [N, F], x [samples, F]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    features = y.shape[1]
    row = itemsize(y) * features
    if features == 1:
        for n in range(start, stop):
            sample = counters[POSITION] + n
            y[n, 0] = x[order[sample] if order.size else sample, 0]
        return
    for n in range(start, stop):
        sample = counters[POSITION] + n
        sample = order[sample] if order.size else sample
        copy_row(address(y) + n * row, address(x) + sample * row, features, y)


@kernel
def gather_labels(task: Int, tasks: Int, y: LabelMatrix, x: LabelMatrix, order: Ordinals, counters: Counters) -> None:
    """The same for labels, F of a sample (one for each place, or one alone)."""
    start, stop = row_share(y.shape[0], tasks, task)
    for n in range(start, stop):
        sample = counters[POSITION] + n
        sample = order[sample] if order.size else sample
        for f in range(y.shape[1]):
            y[n, f] = x[sample, f]


@kernel
def scatter(task: Int, tasks: Int, y: Matrix, x: Matrix, counters: Counters) -> None:
    """y[position + n] = x[n]. Shapes: y [samples, F], x [N, F]. Row-local. Writes the batch's rows of y (=)."""
    start, stop = row_share(x.shape[0], tasks, task)
    position = counters[POSITION]
    for n in range(start, stop):
        for f in range(x.shape[1]):
            y[position + n, f] = x[n, f]


@kernel
def advance(task: Int, tasks: Int, counters: Counters, samples: Int, updates: Int) -> None:
    """The batch is done: position += samples, step += updates. One task. Updates counters."""
    counters[POSITION] += samples
    counters[STEP] += updates
