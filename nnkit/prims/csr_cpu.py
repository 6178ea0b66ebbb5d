"""Products with a sparse matrix A [R, C] in compressed rows, and what goes along its entries.

R rows, C columns, E entries, F features, H heads, U units of a head. Row i holds the entries starts[i] <= e < starts[i + 1]; columns and values
may be longer than starts[R], and what lies behind it is never read.

Work is cut along the merge path (Merrill and Garland, Merge-based parallel sparse matrix-vector multiplication, SC 2016): the walk through all
entries in which a row's end is a step of its own, E + R steps. A task takes an equal share of the walk, whatever the rows' lengths.
"""

from __future__ import annotations

from nnkit.jit import Int, Labels, Matrix, Ordinals, Vector, kernel, routine

__all__ = ["csr_entries", "csr_entries_heads", "csr_join", "csr_join_heads", "csr_product", "csr_product_heads", "row_cut", "walk_cut"]


@routine
def walk_cut(starts, tasks, task):
    """(rows whose ends lie before the share of task `task`, entries before it). Row i's end is step starts[i + 1] + i of the walk."""
    R = starts.size - 1
    step = (starts[R] + R) * task // tasks
    low, high = 0, R
    while low < high:
        i = (low + high) // 2
        if starts[i + 1] + i < step:
            low = i + 1
        else:
            high = i
    return low, step - low


@routine
def row_cut(starts, tasks, task):
    """The first row of a task that takes whole rows: the first one that begins in the task's share of the walk, or behind."""
    i, e = walk_cut(starts, tasks, task)
    return i + 1 if e > starts[i] else i


@routine
def add_entries(y, h, U, first, last, columns, values, x):
    """y[h U + u] += the sum over entries first <= e < last of values[e, h] x[columns[e], h U + u], u < U."""
    for e in range(first, last):
        for u in range(U):
            y[h * U + u] += values[e, h] * x[columns[e], h * U + u]


@routine
def product(task, tasks, y, carry, starts, columns, values, x, bias):
    """See csr_product_heads."""
    H, F = values.shape[1], y.shape[1]
    U = F // H
    T = y.dtype.type
    row, e = walk_cut(starts, tasks, task)
    last_row, last = walk_cut(starts, tasks, task + 1)
    carry[2 * task] = T(0)
    carry[2 * task + 1] = T(0)
    if row < last_row and e > starts[row]:
        y[row] = T(0)
        for h in range(H):
            add_entries(carry[2 * task], h, U, e, starts[row + 1], columns, values, x)
        e = starts[row + 1]
        row += 1
    while row < last_row:
        for f in range(F):
            y[row, f] = bias[f] if bias.size else T(0)
        for h in range(H):
            add_entries(y[row], h, U, e, starts[row + 1], columns, values, x)
        e = starts[row + 1]
        row += 1
    for h in range(H):
        add_entries(carry[2 * task + 1], h, U, e, last, columns, values, x)


@routine
def join(y, carry, starts, bias, parts):
    """See csr_join."""
    F = y.shape[1]
    T = y.dtype.type
    begun = False
    for part in range(parts):
        row, _e = walk_cut(starts, parts, part)
        last_row, last = walk_cut(starts, parts, part + 1)
        if begun and row < last_row:
            for f in range(F):
                y[row, f] += carry[2 * part, f]
            begun = False
        if last_row < y.shape[0] and last > starts[last_row]:
            for f in range(F):
                if not begun:
                    y[last_row, f] = bias[f] if bias.size else T(0)
                y[last_row, f] += carry[2 * part + 1, f]
            begun = True


@kernel
def csr_product_heads(task: Int, tasks: Int, y: Matrix, carry: Matrix, starts: Ordinals, columns: Labels, values: Matrix, x: Matrix,
                      bias: Vector) -> None:
    """y[i, h U + u] = bias[h U + u] + sum over the entries e of row i, in their order, of values[e, h] x[columns[e], h U + u].

    Shapes: y [R, H U], carry [2 tasks, H U], starts [R + 1], columns [E], values [E, H], x [C, H U], bias [H U] or [0]. Task t writes the rows
    that lie whole in its share of the walk; of the row that it ends and did not begin the sum goes to carry[2 t] and y becomes 0, of the one
    that it does not end to carry[2 t + 1]: see csr_join. Writes y, carry (=).
    """
    product(task, tasks, y, carry, starts, columns, values, x, bias)


@kernel
def csr_join_heads(task: Int, tasks: Int, y: Matrix, carry: Matrix, starts: Ordinals, columns: Labels, bias: Vector, parts: Int) -> None:
    """The rows of y that several tasks of csr_product_heads share: see csr_join."""
    join(y, carry, starts, bias, parts)


@kernel
def csr_product(task: Int, tasks: Int, y: Matrix, carry: Matrix, starts: Ordinals, columns: Labels, values: Vector, x: Matrix, bias: Vector) -> None:
    """y = A x + bias: csr_product_heads with one head, values [E]."""
    product(task, tasks, y, carry, starts, columns, values.reshape(values.size, 1), x, bias)


@kernel
def csr_join(task: Int, tasks: Int, y: Matrix, carry: Matrix, starts: Ordinals, columns: Labels, bias: Vector, parts: Int) -> None:
    """The rows of y that several of the `parts` tasks of csr_product share: bias and their sums, in the order of the entries.

    Shapes: y [R, F], carry [2 parts, F], starts [R + 1], columns [E], bias [F] or [0]. One task. Updates those rows of y (=).
    """
    join(y, carry, starts, bias, parts)


@routine
def entries(task, tasks, d, starts, columns, dy, x):
    """See csr_entries_heads."""
    R, E, H = starts.size - 1, d.shape[0], d.shape[1]
    U = x.shape[1] // H
    T = d.dtype.type
    row, e = walk_cut(starts, tasks, task)
    _, last = walk_cut(starts, tasks, task + 1)
    while e < last:
        while e >= starts[row + 1]:
            row += 1
        for h in range(H):
            total = T(0)
            for u in range(U):
                total += dy[row, h * U + u] * x[columns[e], h * U + u]
            d[e, h] = total
        e += 1
    rest = E - starts[R]
    for e in range(starts[R] + rest * task // tasks, starts[R] + rest * (task + 1) // tasks):
        for h in range(H):
            d[e, h] = T(0)


@kernel
def csr_entries_heads(task: Int, tasks: Int, d: Matrix, starts: Ordinals, columns: Labels, dy: Matrix, x: Matrix) -> None:
    """d[e, h] = sum over u of dy[i, h U + u] x[columns[e], h U + u] for the entries e of row i; 0 behind starts[R].

    Shapes: d [E, H], starts [R + 1], columns [E], dy [R, H U], x [C, H U]. Task t covers the entries of its share of the walk. Writes d (=).
    """
    entries(task, tasks, d, starts, columns, dy, x)


@kernel
def csr_entries(task: Int, tasks: Int, d: Vector, starts: Ordinals, columns: Labels, dy: Matrix, x: Matrix) -> None:
    """d[e] = dy[i] . x[columns[e]] for the entries e of row i: csr_entries_heads with one head, d [E]."""
    entries(task, tasks, d.reshape(d.size, 1), starts, columns, dy, x)
