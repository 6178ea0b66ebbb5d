"""Cases of the kernels of chains on chip, as far as they do the same in global memory; what copies to shared memory is in test_cuda_chip.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkit.plan.chip import width_on_chip

__all__ = ["chip_cases"]


def row_share(rows: int, tasks: int, task: int) -> slice:
    """The rows of a task, the first ones having one more."""
    each, more = divmod(rows, tasks)
    start = task * each + min(task, more)
    return slice(start, start + each + (task < more))


def padded(weight: np.ndarray) -> np.ndarray:
    """A weight as it lies on chip."""
    return np.pad(weight, ((0, 0), (0, width_on_chip(weight.shape[1]) - weight.shape[1])))


def chip_cases(case: Any, normal: Any, empty: Any, counters: Any) -> Iterator[Any]:
    """Rows fewer and more than a tile's, and not a multiple; one output, fewer than four, more than the lanes of a warp; sums longer than a round.
    `case` makes a KernelCase; normal, empty and counters make arrays."""
    for R, I, O in ((7, 5, 3), (1, 1, 1), (13, 37, 67), (4, 128, 1), (3, 41, 128)):
        for end in ("", "_few"):
            for b in (normal(O), np.empty(0)):
                yield case(f"chip-forward{end}-{R}-{I}-{O}-{b.size}", f"prims.chip.dense_forward{end}",
                           (empty(R, O), normal(R, I), padded(normal(I, O)), b),
                           expected=lambda y, x, w, b: [x @ w[:, :y.shape[1]] + (b if b.size else 0)])
            yield case(f"chip-input{end}-{R}-{I}-{O}", f"prims.chip.dense_backward_input{end}", (empty(R, I), normal(R, O), padded(normal(I, O))),
                       expected=lambda dx, dy, w: [dy @ w[:, :dy.shape[1]].T])
    yield case("chip-forward-none", "prims.chip.dense_forward", (empty(0, 3), normal(0, 5), padded(normal(5, 3)), normal(3)),
               expected=lambda y, x, w, b: [y])

    def parts_of(parts: np.ndarray, x: np.ndarray, dy: np.ndarray, first: int, last: int, first_bias: int, last_bias: int) -> list[np.ndarray]:
        for task in range(len(parts)):
            own = row_share(len(x), len(parts), task)
            for start, stop, values in ((first, last, x[own].T @ dy[own]), (first_bias, last_bias, dy[own].sum(0))):
                parts[task, start:stop] = 0
                parts[task, start:start + values.size if stop > start else start] = values.ravel() if stop > start else 0
        return [parts]
    for K, R, I, O in ((1, 1, 1, 1), (3, 7, 5, 3), (4, 13, 37, 67), (2, 8, 9, 128), (3, 2, 3, 2)):
        for biased in (0, 1):
            last = 5 + -(-I * O // 16) * 16
            for end in ("", "_few"):
                yield case(f"chip-weight{end}-{K}-{R}-{I}-{O}-{biased}", f"prims.chip.dense_backward_weight{end}",
                           (empty(K, last + 160), normal(R, I), normal(R, O), 5, last, last + 9 * biased, last + (9 + -(-O // 16) * 16) * biased),
                           tasks=(K,), expected=parts_of)
    for K, R in ((3, 7), (2, 2)):                        # an infinite activation in the last row of a task is not one times 0 where rows are missing
        x, dy = np.cos(np.arange(5 * R)).reshape(R, 5), np.cos(np.arange(3 * R)).reshape(R, 3)
        x[-1, 2], x[R // K, 4] = np.inf, -np.inf
        for end in ("", "_few"):
            yield case(f"chip-weight{end}-infinite-{K}-{R}", f"prims.chip.dense_backward_weight{end}",
                       (empty(K, 40), x, dy, 0, 16, 16, 32), tasks=(K,), expected=parts_of)
    for K, P, first in ((1, 1, 0), (3, 129, 2), (41, 77, 1), (129, 300, 0), (64, 32, 5)):
        yield case(f"chip-parts-{K}-{P}", "prims.chip.sum_parts", (empty(P), normal(K, P + 7), first),
                   expected=lambda g, parts, first: [parts[:, first:first + g.size].sum(0)])
    yield case("copy-counters", "prims.feed.copy_counters", (counters(), counters(step=3, position=7, seed=2 ** 40)), tasks=(1,),
               expected=lambda now, counters: [counters])
