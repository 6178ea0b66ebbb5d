"""Where batches come from that are no arrays: an iterable that can be gone through again and again, or a function that returns one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nnkit.training.feed import batches_of

__all__ = ["Source"]


class Source:
    """The user's batches, which are gone through once whenever it is iterated over.

    Loaders of `nnkit.graph`, and others that count their epochs in `epoch` as these do, have a place: the number of the epoch that comes next.
    `place` is where such a loader was when it was last marked, for files from which a fit goes on; None for anything else.
    """

    def __init__(self, given: Any, times: int, what: str, instead: str) -> None:
        """times: how often it will be gone through. Raises ValueError for an iterator, which is used up by the first, with what to pass instead."""
        if not callable(given) and iter(given) is given and times > 1:
            raise ValueError(f"{what} is an iterator, which can be gone through once, but {times} epochs are asked for; pass {instead}")
        self.given = given
        self.place: int | None = None
        self.mark()

    def __iter__(self) -> Iterator[Any]:
        return iter(batches_of(self.given))

    def _counted(self) -> int | None:
        epoch = getattr(self.given, "epoch", None)
        return epoch if type(epoch) is int else None

    def mark(self) -> None:
        """Note the place."""
        self.place = self._counted()

    def put(self, place: int | None) -> None:
        """Go on from another place; without one, or where it counts no epochs, nothing changes."""
        if place is not None and self._counted() is not None:
            self.given.epoch = place
