"""CUDA twins of feed_cpu.py: the batch in, predictions out, counters. N rows of the batch, F features of a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkit.cuda_jit import THREADS, data, kernel, routine, thread
from nnkit.jit import Counters, Int, LabelMatrix, Matrix, Ordinals
from nnkit.plan.layout import COUNTERS
from nnkit.prims.block_cuda import divided, row_share

__all__ = ["POSITION", "advance", "copy_counters", "gather_labels", "gather_rows", "gathering", "scatter"]

STEP, POSITION = COUNTERS["step"], COUNTERS["position"]


def gathering(put: Callable[..., Any], following: Callable[..., Any]) -> Any:
    """The routine that gathers rows. put(ys, i, xs, at) copies an element, following(i) is the thread's next one: they say how."""
    @routine
    def gather(y, x, order, position, task, tasks):
        """y[n] = x[order[position + n]] for the task's rows, which may be equal parts of rows of x; of any dtype."""
        start, stop = row_share(y.shape[0], tasks, task)
        part, F = y.shape[1], x.shape[1]
        ys, xs, places = data(y), data(x), data(order)
        i = start * part + thread()
        while i < stop * part:
            n, f = divided(i, F)
            sample = places[position + n] if order.size else position + n
            put(ys, i, xs, sample * F + f)
            i = following(i)
    return gather


@routine
def put_now(ys, i, xs, at):
    """ys[i] = xs[at]."""
    ys[i] = xs[at]


@routine
def next_of(i):
    """The same thread's next element."""
    return i + THREADS


gather = gathering(put_now, next_of)


@kernel
def gather_rows(task: Int, tasks: Int, y: Matrix, x: Matrix, order: Ordinals, counters: Counters) -> None:
    """y[n] = x[order[position + n]], or x[position + n] where order is empty. Shapes: y [N, F], x [samples, F]. Row-local. Writes y (=).

    y may also be [N P, F / P]: then its rows are parts of rows of x, and tasks may share these.
    """
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
