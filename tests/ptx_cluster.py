"""What tests/ptx.py looks at where blocks form clusters: who touched which word of shared memory, and after how many barriers of the cluster.

An access is known to come before another block's later one if its thread arrived at a barrier afterwards at which the other thread has waited.
Threads count how often they arrived and how often they waited; so an access by a thread that had arrived a times comes before one by a thread that
has waited more than a times. Two accesses of which neither is known to come first are a fault if one of them writes.
"""

from __future__ import annotations

import attrs
import numpy as np

__all__ = ["Accesses", "Fault", "Traffic", "mapped"]

WINDOW = 24                                              # bits of an address in shared memory; above them a block's number in its cluster, from 1


class Fault(RuntimeError):
    """The program did what it must not."""


def mapped(addresses: np.ndarray, ranks: np.ndarray, cluster: int, text: str) -> np.ndarray:
    """mapa: the address in the shared memory of the cluster's block of that number."""
    if (ranks >= cluster).any():
        raise Fault(f"no such block in the cluster: {text}")
    return (ranks.astype(np.uint32) + np.uint32(1) << np.uint32(WINDOW) | addresses).astype(np.uint32)


@attrs.frozen
class Accesses:
    """An instruction's accesses: for each the thread's block, how often it had arrived and waited; the address."""

    blocks: np.ndarray
    arrived: np.ndarray
    waited: np.ndarray
    addresses: np.ndarray
    text: str


class Traffic:
    """The shared memory of a launch's blocks, `size` bytes each, `stride` apart. Blocks count from 1 where they stand for who touched a word; 0 is
    nobody, -1 several."""

    def __init__(self, blocks: int, cluster: int, size: int, stride: int) -> None:
        self.cluster, self.size, self.stride = cluster, size, stride
        words = blocks * stride // 4
        self.writer, self.written, self.reader, self.read = np.zeros((4, words), np.int32)
        self.used = np.full(blocks, -1)                  # how often who used a block's memory from outside had arrived
        self.ended = np.zeros(blocks, np.bool_)

    def places(self, accesses: Accesses, size: int, writes: bool, anywhere: bool) -> np.ndarray:
        """Where these accesses of `size` bytes lie, after all checks. anywhere: whether addresses may be those of other blocks."""
        offsets, owners = accesses.addresses, accesses.blocks
        if anywhere:
            rank = offsets >> WINDOW
            if ((rank < 0) | (rank > self.cluster)).any():
                raise Fault(f"outside of the cluster's shared memory: {accesses.text}")
            owners = np.where(rank > 0, owners // self.cluster * self.cluster + rank - 1, owners)
            offsets = offsets & ((1 << WINDOW) - 1)
            self._abroad(accesses, owners)
        if offsets.size and (offsets.min() < 0 or offsets.max() + size > self.size):
            raise Fault(f"outside of the {'cluster' if anywhere else 'block'}'s shared memory: {accesses.text}")
        places = owners * self.stride + offsets
        for word in range(-(-size // 4)):
            self._touch(accesses, places // 4 + word, writes)
        return places

    def _abroad(self, accesses: Accesses, owners: np.ndarray) -> None:
        """Blocks whose memory is used by others must be there."""
        far = owners != accesses.blocks
        if (accesses.waited[far] == 0).any():
            raise Fault(f"no barrier of the cluster says that the other block is there: {accesses.text}")
        if self.ended[owners[far]].any():
            raise Fault(f"the other block has ended: {accesses.text}")
        np.maximum.at(self.used, owners[far], accesses.arrived[far])

    def _touch(self, accesses: Accesses, words: np.ndarray, writes: bool) -> None:
        own = accesses.blocks + 1

        def unordered(who: np.ndarray, when: np.ndarray) -> np.ndarray:
            return (who[words] != 0) & (who[words] != own) & (accesses.waited <= when[words])
        if unordered(self.writer, self.written).any():
            raise Fault(f"no barrier of the cluster between it and another block's writing: {accesses.text}")
        if writes:
            if unordered(self.reader, self.read).any():
                raise Fault(f"no barrier of the cluster between it and another block's reading: {accesses.text}")
            self.writer[words], self.written[words] = own, accesses.arrived
            if (self.writer[words] != own).any():        # several blocks in this very instruction
                raise Fault(f"no barrier of the cluster between it and another block's writing: {accesses.text}")
            return
        several = unordered(self.reader, self.read)
        self.reader[words], self.read[words] = np.where(several, -1, own), accesses.arrived
        self.reader[words[self.reader[words] != own]] = -1

    def end(self, blocks: np.ndarray, waited: np.ndarray) -> None:
        """Threads of these blocks end."""
        if (self.used[blocks] >= waited).any():
            raise Fault("a block ends while others may still use its shared memory")
