"""The side of one peer's process: prepares a piece of work, then times one round each time the driver asks.

The driver starts `python peer_x.py WORK ARRAYS.npz PEER`, reads one line of JSON per answer, and writes "round SECONDS" for each round.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Job:
    """What a peer prepared. Each item is a function of n that does the work n times and returns when it is really done."""

    items: dict[str, Callable[[int], Any]]
    loss: Callable[[], float] | None = None              # loss on all data, as the parameters stand
    checks: dict[str, np.ndarray] = field(default_factory=dict)   # results that must agree between peers (leading elements)
    note: str = ""                                       # printed below the table


def threads() -> int:
    return int(os.environ["OMP_NUM_THREADS"])


def repetitions(run: Callable[[int], Any], seconds: float) -> int:
    """How many repetitions take about so long. Doubles until a tenth is reached: one repetition may be a microsecond or a second. The first one, in
    which some compile, does not count."""
    run(1)
    n = 1
    while True:
        start = time.perf_counter()
        run(n)
        elapsed = time.perf_counter() - start
        if elapsed > seconds / 10:
            return max(1, round(n * seconds / elapsed))
        n *= 2


def repeated(call: Callable[[], Any], wait: Callable[[Any], Any] = lambda last: None) -> Callable[[int], None]:
    """A function of n that makes the call n times; `wait` gets the last result and returns when it is really there."""
    def run(n: int) -> None:
        last = None
        for _ in range(n):
            last = call()
        wait(last)
    return run


def peak_megabytes() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def serve(prepare: Callable[[str, dict[str, np.ndarray], str], Job]) -> None:
    """Run the protocol. `prepare(work, arrays, peer)` builds the job; `startup` is the work mlp, one epoch, and out."""
    answers = os.fdopen(os.dup(1), "w")                  # libraries print to stdout as they like: that goes to stderr
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    work, path, peer = sys.argv[1:4]
    with np.load(path) as stored:
        arrays = dict(stored)
    if work == "startup":
        prepare("mlp", arrays, peer).items["epoch"](1)
        answer(done=True)
        return

    job = prepare(work, arrays, peer)
    epochs = int(sys.argv[4])
    if job.loss is not None:
        job.items["epoch" if "epoch" in job.items else "train"](epochs)
    loss = None if job.loss is None else float(job.loss())
    job.items.pop("train", None)
    answer(loss=loss, checks={name: np.asarray(value, float).ravel()[:64].tolist() for name, value in job.checks.items()}, note=job.note)

    counts: dict[str, int] = {}
    for line in sys.stdin:
        seconds = float(line.split()[1])
        times = {}
        for name, run in job.items.items():
            if name not in counts:
                counts[name] = repetitions(run, seconds)   # warms up, too
            start = time.perf_counter()
            run(counts[name])
            times[name] = (time.perf_counter() - start) / counts[name]
        answer(times=times, megabytes=peak_megabytes())
