"""Threads that help to run tapes (tape_cpu.py says how): started when they are first asked for, kept, asleep while there is nothing to do."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

__all__ = ["CELLS", "DONE", "STOP", "TICKET", "WAIT", "WORDS", "ask_helpers", "available_threads", "processors"]

# What the thread that leads a run and its helpers tell each other: int64 cells, a cache line apart. TICKET: generation * 2^32 + group * 2^16 + the
# next task of that group. DONE: finished tasks of the group. WORDS: where the words are in this run; a helper may still be on its way out of an
# earlier one, in which they lay elsewhere.
TICKET, DONE, WORDS, CELLS = 0, 8, 16, 24
WAIT, STOP = 0xFFFF, 0xFFFFFFFF                          # a ticket's lower half when a group will be opened, and when none will

Job = Callable[[], object]
BACKLOG = 4                                              # jobs that may wait for one helper: more would come too late anyway

_queues: list[queue.SimpleQueue[Job]] = []
_lock = threading.Lock()


def processors() -> int:
    """How many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_threads() -> int:
    """How many threads a step may use at most: NUMBA_NUM_THREADS where it is set, else the processors that this process may run on."""
    given = os.environ.get("NUMBA_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else processors()


def ask_helpers(count: int, job: Job) -> None:
    """Let `count` helpers call job(), as soon as each is free. Whoever asks does not wait for them, and must not need them."""
    with _lock:
        while len(_queues) < count:
            jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(jobs,), name=f"nnkit-{len(_queues) + 1}", daemon=True).start()
            _queues.append(jobs)
    for jobs in _queues[:count]:
        if jobs.qsize() < BACKLOG:
            jobs.put(job)


def _serve(jobs: queue.SimpleQueue[Job]) -> None:
    """A helper's life."""
    while True:
        jobs.get()()


def _forget() -> None:
    """A forked process has none of the threads."""
    global _lock
    _lock = threading.Lock()
    _queues.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
