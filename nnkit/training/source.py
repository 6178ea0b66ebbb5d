"""Batches that users pass in place of arrays: from an iterable that can be gone through again and again, or a function that returns one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from nnkit.spec import article
from nnkit.training.feed import kind_of

__all__ = ["Source", "as_batch", "batches_of", "is_batches", "is_labelled"]


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


def is_batches(x: Any) -> bool:
    """Whether x yields batches (x, y) or (x, y, sample_weight): an iterator, an iterable such as a DataLoader, or a function that returns one.

    Anything that is an array, or that NumPy would take as one (lists and tuples too), does not.
    """
    array_like = any(hasattr(x, name) for name in ("__array__", "__array_interface__", "__dlpack__", "shape", "itemsize"))
    if array_like or isinstance(x, (str, bytes, bytearray, Sequence, Mapping, Set, type)):
        return False
    return callable(x) or hasattr(x, "__iter__")


def batches_of(x: Any) -> Any:
    """The batches that x, of which `is_batches` is true, gives when it is gone through once."""
    return x() if callable(x) else x


def as_batch(batch: Any, what: str = "a batch") -> tuple[Any, Any, Any]:
    """One batch of an iterable as (x, y, sample_weight or None). Raises TypeError for anything else; the arrays are checked by others."""
    if isinstance(batch, (tuple, list)) and len(batch) in (2, 3):
        return (*batch, None) if len(batch) == 2 else tuple(batch)  # type: ignore[return-value]
    received = f"{article(type(batch).__name__)} of length {len(batch)}" if isinstance(batch, (tuple, list)) else kind_of(batch)
    raise TypeError(f"{what} must be (x, y) or (x, y, sample_weight), received {received}")


def is_labelled(batch: Any, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether a batch for `predict` is (x, ...), not x alone: every tuple is; of lists, which a DataLoader of PyTorch makes of batches and which are
    samples or inputs, too, those whose first entry is a whole x for inputs of these shapes, and no sample and no single input."""
    if not isinstance(batch, list) or not 1 <= len(batch) <= 3:
        return isinstance(batch, tuple) and len(batch) > 0
    first = batch[0]
    if isinstance(first, Mapping):
        return True
    if len(shapes) > 1:
        return isinstance(first, (list, tuple)) and len(first) == len(shapes) and all(hasattr(part, "shape") for part in first)
    axes = len(getattr(first, "shape", ()))
    return axes > len(shapes[0]) or (shapes[0] == (1,) and axes == 1 and len(first) != 1)
