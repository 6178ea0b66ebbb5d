"""What CUDA kernels share: a task's part of the work, and sums over a block's threads. A task is a block of THREADS threads."""

from __future__ import annotations

import numpy as np

from nnkit.cuda_jit import THREADS, barrier, registers, routine, thread

__all__ = ["AT_ONCE", "block_sum", "row_share", "several", "share", "wholes"]

# Elements of a sweep that a thread reads before it writes the first result: as many are on their way from memory at a time, whatever may overlap.
AT_ONCE = 4
several = registers(AT_ONCE)


@routine
def wholes(start, stop):
    """Where the last whole round of AT_ONCE elements for each thread of the block ends."""
    return start + (stop - start) // (AT_ONCE * THREADS) * (AT_ONCE * THREADS)


@routine
def row_share(rows, tasks, task):
    """The rows [start, stop) of task `task` of `tasks`: the first tasks have one more where they do not come out even."""
    each = np.uint32(rows) // np.uint32(tasks)           # of 64 bits a division takes four times as long
    more = rows - np.int64(each) * tasks
    start = task * np.int64(each) + min(task, more)
    return start, start + np.int64(each) + (1 if task < more else 0)


@routine
def share(n, tasks, task):
    """The elements [start, stop) of task `task` of `tasks`, cut at multiples of 32, so that whole warps read whole lines."""
    first, last = row_share((n + 31) // 32, tasks, task)
    return min(n, 32 * first), min(n, 32 * last)


@routine
def block_sum(value, place):
    """The sum of `value` over the block's threads, for all of them, by a tree that depends on THREADS alone. place: THREADS numbers of scratch."""
    t = thread()
    barrier()                                            # whoever used the scratch before is done
    place[t] = value
    barrier()
    width = THREADS // 2
    while width:
        if t < width:
            place[t] += place[t + width]
        barrier()
        width //= 2
    return place[0]
