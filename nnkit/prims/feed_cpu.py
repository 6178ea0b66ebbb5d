"""Kernels that bring the data set's rows into the arena, predictions out of it, and count.

N rows of the batch, F features of a row. `counters` is laid out as plan.build.COUNTERS says.
"""

from __future__ import annotations

from nnkit.jit import Counters, Int, LabelMatrix, Labels, Matrix, Ordinals, Vector, kernel, routine
from nnkit.plan.build import COUNTERS
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.simd_cpu import address, copy_masked, itemsize, lanes

__all__ = [
    "advance", "gather_label_rows", "gather_labels", "gather_rows", "gather_vector", "scatter", "take_label_rows", "take_labels", "take_rows",
    "take_vector",
]

STEP, POSITION = COUNTERS["step"], COUNTERS["position"]


@routine
def copy_row(y, x, n, like):
    """y[:n] = x[:n] by address, register by register."""
    size, lane = itemsize(like), lanes(like)
    for f in range(0, n, lane):
        copy_masked(y + size * f, x + size * f, min(lane, n - f), like)


@kernel
def gather_rows(task: Int, tasks: Int, y: Matrix, x: Matrix, order: Ordinals, counters: Counters) -> None:
    """y[n] = x[order[position + n]]. Shapes: y [N, F], x [samples, F]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    features = y.shape[1]
    row = itemsize(y) * features
    for n in range(start, stop):
        copy_row(address(y) + n * row, address(x) + order[counters[POSITION] + n] * row, features, y)


@kernel
def take_rows(task: Int, tasks: Int, y: Matrix, x: Matrix, counters: Counters) -> None:
    """y[n] = x[position + n]. Shapes: y [N, F], x [samples, F]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    position = counters[POSITION]
    for n in range(start, stop):
        for f in range(y.shape[1]):
            y[n, f] = x[position + n, f]


@kernel
def gather_vector(task: Int, tasks: Int, y: Vector, x: Vector, order: Ordinals, counters: Counters) -> None:
    """y[n] = x[order[position + n]], one number a sample. Row-local. Writes y (=)."""
    start, stop = row_share(y.size, tasks, task)
    for n in range(start, stop):
        y[n] = x[order[counters[POSITION] + n]]


@kernel
def take_vector(task: Int, tasks: Int, y: Vector, x: Vector, counters: Counters) -> None:
    """y[n] = x[position + n], one number a sample. Row-local. Writes y (=)."""
    start, stop = row_share(y.size, tasks, task)
    position = counters[POSITION]
    for n in range(start, stop):
        y[n] = x[position + n]


@kernel
def gather_labels(task: Int, tasks: Int, y: Labels, x: Labels, order: Ordinals, counters: Counters) -> None:
    """y[n] = x[order[position + n]], one label a sample. Row-local. Writes y (=)."""
    start, stop = row_share(y.size, tasks, task)
    for n in range(start, stop):
        y[n] = x[order[counters[POSITION] + n]]


@kernel
def take_labels(task: Int, tasks: Int, y: Labels, x: Labels, counters: Counters) -> None:
    """y[n] = x[position + n], one label a sample. Row-local. Writes y (=)."""
    start, stop = row_share(y.size, tasks, task)
    position = counters[POSITION]
    for n in range(start, stop):
        y[n] = x[position + n]


@kernel
def gather_label_rows(task: Int, tasks: Int, y: LabelMatrix, x: LabelMatrix, order: Ordinals, counters: Counters) -> None:
    """y[n] = x[order[position + n]], T labels a sample. Shapes: y [N, T], x [samples, T]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    for n in range(start, stop):
        sample = order[counters[POSITION] + n]
        for t in range(y.shape[1]):
            y[n, t] = x[sample, t]


@kernel
def take_label_rows(task: Int, tasks: Int, y: LabelMatrix, x: LabelMatrix, counters: Counters) -> None:
    """y[n] = x[position + n], T labels a sample. Shapes: y [N, T], x [samples, T]. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    position = counters[POSITION]
    for n in range(start, stop):
        for t in range(y.shape[1]):
            y[n, t] = x[position + n, t]


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
