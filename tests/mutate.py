"""Damaged copies of a file, for the tests that every reader refuses them with nnkit's own errors and does nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator

EXTREMES = (b"\x00" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\xff" * 7 + b"\x7f", b"\x00\x00\x00\x80", b"\x80\x00\x00\x00", b"-1", b"9" * 20)


def mutated(content: bytes, seed: int, count: int) -> Iterator[bytes]:
    """`count` damaged copies of content: cut short, made longer, bytes and bits changed, parts swapped, repeated or overwritten by extreme numbers.

    Half of the damage falls into the first KiB, where the headers of most formats are.
    """
    draw = random.Random(seed)
    for _ in range(count):
        copy = bytearray(content)
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            damage(copy, draw)
        yield bytes(copy)


def damage(copy: bytearray, draw: random.Random) -> None:
    """Damage the bytes in one of several ways, in place."""
    size = len(copy)
    if not size:
        copy += draw.randbytes(draw.randrange(64))
        return
    place = draw.randrange(min(size, 1024) if draw.random() < 0.5 else size)
    length = draw.randrange(1, 17)
    how = draw.randrange(8)
    if how == 0:
        copy[place] ^= 1 << draw.randrange(8)
    elif how == 1:
        copy[place] = draw.randrange(256)
    elif how == 2:
        del copy[place:]
    elif how == 3:
        copy += draw.randbytes(length)
    elif how == 4:
        copy[place:place + length] = draw.randbytes(length)
    elif how == 5:
        extreme = draw.choice(EXTREMES)
        copy[place:place + len(extreme)] = extreme
    elif how == 6:
        other = draw.randrange(size)
        copy[place:place + length], copy[other:other + length] = copy[other:other + length], copy[place:place + length]
    elif draw.random() < 0.5:
        del copy[place:place + length]
    else:
        copy[place:place] = copy[place:place + length] * draw.randrange(1, 4)
