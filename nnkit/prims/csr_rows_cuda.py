"""Products with a sparse matrix whose tasks take rows, for a device: what follows row by row goes on in the same launch. Letters: see csr_cpu.py.

A row of up to LONG entries is a warp's, a longer one the whole block's: right for all matrices, fast for those whose entries lie evenly
(`csr.is_even`). The others are cut along the merge path: csr_cuda.py.
"""

from __future__ import annotations

from typing import Any

from nnkit.cuda_jit import data, kernel, routine
from nnkit.jit import Int, Labels, Matrix, Ordinals, Vector
from nnkit.prims.block_cuda import divided, row_share
from nnkit.prims.csr_cuda import WIDE, entry_sums
from nnkit.prims.teams_cuda import Team, lanes_for, rows_by_teams

__all__ = ["product", "product_heads"]

LONG = 128                                               # entries of a row that a warp goes through alone


def row_products(headed: bool) -> Any:
    """f(task, tasks, y, starts, columns, values, H, x, bias): see product_heads. headed: whether H may be more than 1."""
    def make(team: Team) -> Any:
        narrow, wide, part_of = entry_sums(1, headed, team), entry_sums(WIDE, headed, team), team.part

        @routine
        def add(i, first, last, held, place, like):
            ys, columns, values, H, units, xs, F, bias, biased = held
            width, column, part, parts = lanes_for(F)
            own_part, all_parts = part_of(part, parts)
            lanes = width, column, own_part, all_parts
            if F > 32:
                for strip in range(0, F, 32 * WIDE):
                    wide(ys, i * F, first, last, columns, values, H, units, xs, F, strip, lanes, bias, biased, place, like)
            else:
                narrow(ys, i * F, first, last, columns, values, H, units, xs, F, 0, lanes, bias, biased, place, like)
        return add
    by_teams = rows_by_teams(make, LONG)

    @routine
    def rows(task, tasks, y, starts, columns, values, H, x, bias):
        """The rows of a task. values: a pointer."""
        F = y.shape[1]
        units = divided(F, H)[0] if headed else F
        row, stop = row_share(y.shape[0] if F else 0, tasks, task)
        by_teams(row, stop, data(starts), (data(y), data(columns), values, H, units, data(x), F, data(bias), bias.size > 0), y)
    return rows


rows_single, rows_headed = row_products(False), row_products(True)


@kernel
def product(task: Int, tasks: Int, y: Matrix, starts: Ordinals, columns: Labels, values: Vector, x: Matrix, bias: Vector) -> None:
    """y = A x + bias: product_heads with one head, values [E]."""
    rows_single(task, tasks, y, starts, columns, data(values), 1, x, bias)


@kernel
def product_heads(task: Int, tasks: Int, y: Matrix, starts: Ordinals, columns: Labels, values: Matrix, x: Matrix, bias: Vector) -> None:
    """y[i, h U + u] = bias[h U + u] + sum over the entries e of row i of values[e, h] x[columns[e], h U + u].

    Shapes: y [R, H U], starts [R + 1], columns [E], values [E, H], x [C, H U], bias [H U] or [0]. Row-local, but for values and x. The order of a sum
    depends on the number of its row's entries alone. Writes y (=).
    """
    rows_headed(task, tasks, y, starts, columns, data(values), values.shape[1], x, bias)
