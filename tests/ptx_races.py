"""Which thread of a block touched what since the block's last barrier: for tests/ptx.py.

On a GPU the threads of a block, those of a warp among them, go on each at its own pace. What one writes, in shared or in global memory, others may
touch only behind a barrier, and what one reads others may write only there. Two threads that write one word between the same barriers are a fault,
too, whatever they write.

A thread that has arrived at a barrier of its cluster and does not wait yet stands on both sides of it.
"""

from __future__ import annotations

import attrs
import numpy as np

__all__ = ["Races", "Touch"]

WORD = 4
SEVERAL = -1                                             # threads that read a word


@attrs.frozen
class Touch:
    """An access of some threads, by their numbers in the launch, from 1 on. before: how many barriers their block has passed, from 1 on; until: the
    same, or one more for a thread that has arrived at the next one."""

    threads: np.ndarray
    before: np.ndarray
    until: np.ndarray
    writes: bool


class Races:
    """Marks for the words of one memory: who wrote and read it last, and when."""

    def __init__(self, nbytes: int) -> None:
        self.writer, self.written, self.reader, self.read = np.zeros((4, nbytes // WORD + 1), np.int32)

    def find(self, places: np.ndarray, size: int, touch: Touch) -> str:
        """Note an access of `size` bytes at these places; what is wrong with it, or ""."""
        return next(filter(None, (self._find((places + offset) // WORD, touch) for offset in range(0, size, WORD))), "")

    def _find(self, words: np.ndarray, touch: Touch) -> str:
        if (self._meets(self.written[words], touch) & (self.writer[words] != touch.threads)).any():
            return "a thread touches what another one of its block writes, without a barrier between"
        others = self._meets(self.read[words], touch) & (self.reader[words] != touch.threads)
        if not touch.writes:
            self.reader[words], self.read[words] = np.where(others, SEVERAL, touch.threads), touch.until
            self.reader[words[self.reader[words] != touch.threads]] = SEVERAL          # of this very access, and those just found
            return ""
        if others.any():
            return "a thread writes what another one of its block reads, without a barrier between"
        self.writer[words], self.written[words] = touch.threads, touch.until
        if (self.writer[words] != touch.threads).any():
            return "several threads of a block write one place, without a barrier between"
        return ""

    @staticmethod
    def _meets(when: np.ndarray, touch: Touch) -> np.ndarray:
        return (when == touch.before) | (when == touch.until)
