"""Compiling on several processors: helper processes compile kernels into the store's folder while this process compiles others.

Numba compiles one function at a time in a process, so a first run would leave all processors but one idle. A helper is a Python that imports
the same nnkit, reads names of kernels from its standard input, and answers each with a line once the kernel is in the store. Nothing depends
on it: what a helper did not deliver, for whatever reason, is compiled here.
"""

from __future__ import annotations

import collections
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from nnkit.runtime import store
from nnkit.runtime.threads import processors

__all__ = ["compile_all", "serve"]

SHARE = 4                                                # fewest kernels worth a process: it takes half a second to start
MOST = 7                                                 # helpers; each takes some 200 MB while it runs

Key = tuple[str, str, bool]


def compile_all(wanted: Sequence[Key], compile_here: Callable[[Key], None]) -> None:
    """Compile kernels (name, dtype, debug) from the first on with `compile_here`, while helpers begin at the other end."""
    waiting = collections.deque(wanted)
    threads = [threading.Thread(target=_feed, args=(waiting,), daemon=True) for _ in range(_helpers(len(wanted)))]
    for thread in threads:
        thread.start()
    try:
        with contextlib.suppress(IndexError):            # a helper may take the last one between two looks
            while waiting:
                compile_here(waiting.popleft())
    finally:
        waiting.clear()
    for thread in threads:
        thread.join()


def _helpers(kernels: int) -> int:
    """How many helpers to start."""
    interpreter = os.path.basename(sys.executable or "").lower()
    if "python" not in interpreter or getattr(sys, "frozen", False) or os.environ.get("NUMBA_NUM_THREADS") == "1" or not store.writable():
        return 0                                         # embedded: another program; a worker of joblib's: its processor is all it may use
    return max(0, min(MOST, processors() - 1, kernels // SHARE - 1))


def _feed(waiting: collections.deque[Key]) -> None:
    """Start a helper and hand it kernels from the end until none waits."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from nnkit.runtime.compilers import serve; serve()"
    command = [sys.executable, "-P", "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    start: Any = subprocess.Popen                        # Any: its type does not say that the pipes are there
    with (contextlib.suppress(OSError, IndexError, ValueError), start(command, env={**os.environ, "NNKIT_QUIET": "1"}, **pipes) as helper,
          helper.stdin, helper.stdout):
        while waiting:
            name, dtype, debug = waiting.pop()
            helper.stdin.write(f"{name} {dtype} {int(debug)}\n")
            helper.stdin.flush()
            if not helper.stdout.readline():
                break


def serve() -> None:
    """The helper: compile what the lines of standard input name."""
    for line in sys.stdin:
        name, dtype, debug = line.split()
        store.entries([name], dtype, debug == "1")
        print(name, flush=True)
