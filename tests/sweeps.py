"""Long sweeps: what they draw their samples from, and a block of comparisons."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Any

__all__ = ["BLOCK", "BLOCKS", "sweep", "sweep_seed"]

BLOCKS, BLOCK = 10, 100                                  # tests of a sweep, and comparisons in each


def sweep_seed() -> int:
    """The seed of a sweep: from NNKIT_SWEEP_SEED, else a new one, unlike those of the tests of every day (0 and 1); printed."""
    seed = int(os.environ.get("NNKIT_SWEEP_SEED") or 2 + secrets.randbelow(2 ** 31))
    print(f"NNKIT_SWEEP_SEED={seed}")
    return seed


def sweep(block: int, draw: Callable[[int, int], Any], check: Callable[[Any], None]) -> None:
    """Check a block of what draw(seed, number) gives; then fail with all those that disagree."""
    seed, failures = sweep_seed(), []
    for number in range(BLOCK * block, BLOCK * (block + 1)):
        drawn = draw(seed, number)
        try:
            check(drawn)
        except AssertionError as error:
            failures.append(f"{drawn}\n{error}")
    assert not failures, f"NNKIT_SWEEP_SEED={seed}: {len(failures)} of {BLOCK} disagree:\n" + "\n".join(failures)
