"""CUDA twins of feed_cpu.py: the batch in, predictions out, counters. N rows of the batch, F features of a row."""

from __future__ import annotations

import numpy as np

from nnkit.cuda_jit import THREADS, data, kernel, routine, thread
from nnkit.jit import Counters, Int, LabelMatrix, Matrix, Ordinals
from nnkit.plan.build import COUNTERS
from nnkit.prims.block_cuda import row_share

__all__ = ["POSITION", "advance", "copy_counters", "gather_labels", "gather_rows", "scatter"]

STEP, POSITION = COUNTERS["step"], COUNTERS["position"]


@routine
def gather(y, x, order, position, task, tasks):
    """y[n] = x[order[position + n]] for the task's rows; of any dtype."""
    start, stop = row_share(y.shape[0], tasks, task)
    F = y.shape[1]
    ys, xs, places = data(y), data(x), data(order)
    for i in range(start * F + thread(), stop * F, THREADS):
        n = np.int64(np.uint32(i) // np.uint32(F))
        sample = places[position + n] if order.size else position + n
        ys[i] = xs[sample * F + (i - n * F)]


@kernel
def gather_rows(task: Int, tasks: Int, y: Matrix, x: Matrix, order: Ordinals, counters: Counters) -> None:
    """y[n] = x[order[position + n]], or x[position + n] where order is empty. Shapes: y [N, F], x [samples, F]. Row-local. Writes y (=)."""
    gather(y, x, order, data(counters)[POSITION], task, tasks)


@kernel
def gather_labels(task: Int, tasks: Int, y: LabelMatrix, x: LabelMatrix, order: Ordinals, counters: Counters) -> None:
    """The same for labels, F of a sample."""
    gather(y, x, order, data(counters)[POSITION], task, tasks)


@kernel
def scatter(task: Int, tasks: Int, y: Matrix, x: Matrix, counters: Counters) -> None:
    """y[position + n] = x[n]. Shapes: y [samples, F], x [N, F]. Row-local. Writes the batch's rows of y (=)."""
    start, stop = row_share(x.shape[0], tasks, task)
    F = x.shape[1]
    ys, xs, first = data(y), data(x), data(counters)[POSITION] * F
    for i in range(start * F + thread(), stop * F, THREADS):
        ys[first + i] = xs[i]


@kernel
def advance(task: Int, tasks: Int, counters: Counters, samples: Int, updates: Int) -> None:
    """The batch is done: position += samples, step += updates. One task. Updates counters."""
    if thread() == 0:
        counts = data(counters)
        counts[POSITION] += samples
        counts[STEP] += updates


@kernel
def copy_counters(task: Int, tasks: Int, now: Counters, counters: Counters) -> None:
    """now = counters, for those who read them while others count on. Both of one size, up to THREADS. One task. Writes now (=)."""
    if thread() < now.size:
        data(now)[thread()] = data(counters)[thread()]
