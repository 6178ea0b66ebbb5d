"""The progress line of `fit`, `evaluate` and `predict`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any, Self, TextIO

__all__ = ["QUIET", "Progress", "one_pass", "resolve_verbose", "say"]

INTERVAL = 0.2                                           # seconds between two updates of what is shown
# Short enough for a loss, a metric and both of the validation in about 115 columns; a narrower terminal cuts the end.
FORMAT = "{desc}: {percentage:3.0f}%|{bar:10}| {rate_fmt}, {remaining} left{postfix}"


def resolve_verbose(verbose: Any) -> int:
    """The argument `verbose` of `fit` as 0, 1 or 2. "auto" is 1 on a terminal and in a notebook, else 0. Raises ValueError for anything else."""
    if isinstance(verbose, str) and verbose == "auto":
        return int(_in_notebook() or _terminal() is not None)
    if isinstance(verbose, int) and verbose in (0, 1, 2):
        return int(verbose)
    raise ValueError(f"verbose must be 'auto', 0, 1 or 2, received {verbose!r}")


class Progress:
    """What `fit` shows while it runs: how far it is, loss and metrics, samples per second, time left.

    With verbose 1 it is one line for the whole training, by tqdm, at most 5 updates a second and one more at the end, so that a thousand short
    epochs neither flood a notebook nor take time; where tqdm is not installed, and where there is neither terminal nor notebook, plain lines
    at the same pace. With verbose 2 it is one plain line per epoch, each epoch. With verbose 0 it is nothing.

    Args:
        epochs: number of the last epoch, as given to `fit`; the first one is that of the first `begin_epoch`.
        samples: samples per epoch; None where only the first epoch will tell.
        verbose: "auto", 0, 1 or 2.
        title: what the line begins with; "" for the number of the epoch.
    """

    def __init__(self, epochs: int, samples: int | None, verbose: Any = "auto", title: str = "") -> None:
        self.verbose = resolve_verbose(verbose)
        self._named = title
        self._epochs = epochs
        self._samples = samples
        self._first: int | None = None                   # the first epoch of this training
        self._epoch = 0
        self._done = 0                                   # samples of this epoch
        self._before = 0                                 # samples of the epochs before it
        self._shown: dict[str, float] = {}
        self._bar: Any = None
        self._pending = ""                               # the line of an epoch that came too soon after another one
        self._last = self._began = 0.0

    def begin_epoch(self, epoch: int) -> None:
        """Epoch `epoch`, counted from 0, begins."""
        if not self.verbose:
            return
        self._began = time.perf_counter()
        self._epoch, self._done = epoch, 0
        if self._first is None:
            self._first = epoch
            self._open()

    def advance(self, samples_done: int, logs: Mapping[str, float]) -> None:
        """`samples_done` samples of this epoch are done; logs hold loss and metrics so far. Cheap: most calls only look at the clock."""
        if not self.verbose:
            return
        self._done = samples_done
        if self._bar is None:
            return
        self._shown.update(logs)
        if time.perf_counter() - self._last >= INTERVAL:
            self._update()

    def end_epoch(self, logs: Mapping[str, float]) -> None:
        """The epoch is complete, validation included."""
        if not self.verbose:
            return
        if self._samples is None:
            self._samples = self._done                   # the model tells by `advance`
        self._done = self._samples
        if self._bar is None:
            self._line(logs)
        else:
            self.advance(self._done, logs)
        self._before += self._done
        self._done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Training ended, however it ended: show the last state and leave the line. May be called twice."""
        if self._pending:
            self._print(self._pending)
        if self._bar is not None:
            self._update()
            self._bar.close()
            self._bar = None

    def _total(self) -> int | None:
        return None if self._samples is None or self._first is None else (self._epochs - self._first) * self._samples

    def _open(self) -> None:
        bar = _bar_class() if self.verbose == 1 else None
        if bar is None:
            return
        # We keep the pace ourselves (mininterval 0), since making the text costs more than looking at the clock.
        self._bar = bar(total=self._total(), unit=" samples", unit_scale=True, mininterval=0, miniters=0, desc=self._title(), **_place())
        self._last = time.perf_counter()

    def _update(self) -> None:
        self._last = time.perf_counter()
        self._bar.total = self._total()
        self._bar.set_description_str(self._title(), refresh=False)
        self._bar.set_postfix_str(_text(self._shown), refresh=False)
        position = self._before + self._done
        if position > self._bar.n:
            self._bar.update(position - self._bar.n)     # keeps tqdm's estimate of the rate, and shows
        else:
            self._bar.refresh()

    def _title(self) -> str:
        return self._named or f"epoch {self._epoch + 1}/{self._epochs}"

    def _line(self, logs: Mapping[str, float]) -> None:
        now = time.perf_counter()
        seconds = max(now - self._began, 1e-9)
        speed = f", {self._done / seconds:,.0f} samples/s" if self._done else ""
        line = f"{self._title()}: {_text(logs) or f'{self._done:,} samples'} ({seconds:.3g} s{speed})"
        if self.verbose == 1 and now - self._last < INTERVAL:
            self._pending = line
            return
        self._last = now
        self._print(line)

    def _print(self, line: str) -> None:
        self._pending = ""
        print(line, file=sys.stdout, flush=True)


QUIET = Progress(1, None, 0)


def one_pass(title: str, samples: int | None, verbose: Any) -> Progress:
    """The progress of one pass over so many samples, begun."""
    if verbose == 0:
        return QUIET                                     # a call of `predict` takes microseconds
    progress = Progress(1, samples, verbose, title)
    progress.begin_epoch(0)
    return progress


def say(line: str) -> None:
    """Print a line of its own, above a progress line that is being drawn."""
    bar = _bar_class()
    if bar is None:
        print(line, flush=True)
    else:
        bar.write(line)


def _text(logs: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {_number(value)}" for key, value in logs.items())


def _number(value: float) -> str:
    """Four digits after the point, so that the line does not jump; in powers of ten where these would say nothing."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 or value != value else f"{value:.3e}"


def _terminal() -> TextIO | None:
    """The stream of standard error or output that is a terminal, None where neither is."""
    for stream in (sys.stderr, sys.stdout):
        try:
            if stream is not None and stream.isatty():
                return stream
        except (AttributeError, ValueError):             # a replacement without isatty; a closed stream
            continue
    return None


def _place() -> dict[str, Any]:
    """Where and how wide tqdm draws. Some terminals (containers) do not know their size, and tqdm would draw nothing in 0 columns."""
    if _in_notebook():
        return {"dynamic_ncols": True, "bar_format": FORMAT.replace("{bar:10}", "{bar}")}      # a widget has a width of its own
    stream = _terminal()
    if stream is None:
        return {"dynamic_ncols": True, "bar_format": FORMAT}
    try:
        known = os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):
        known = False
    return {"file": stream, "bar_format": FORMAT, **({"dynamic_ncols": True} if known else {"ncols": 120, "nrows": 24})}


def _in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook; IPython is not imported to find out."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})


def _bar_class() -> Any:
    """The tqdm that fits where we run; None where a line cannot be drawn again, or without tqdm."""
    try:
        if _in_notebook():
            from tqdm.auto import tqdm
            return tqdm
        if _terminal() is not None:
            from tqdm import tqdm
            return tqdm
    except ImportError:
        pass
    return None
