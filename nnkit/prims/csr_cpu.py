"""Products with a sparse matrix A [R, C] in compressed rows, and what goes along its entries.

R rows, C columns, E entries, F features, H heads, U units of a head. Row i holds the entries starts[i] <= e < starts[i + 1]; columns and values
may be longer than starts[R], and what lies behind it is never read.

Work is cut along the merge path (Merrill and Garland, Merge-based parallel sparse matrix-vector multiplication, SC 2016): the walk through all
entries in which a row's end is a step of its own, E + R steps. A task takes an equal share of the walk, whatever the rows' lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, Int, Labels, Matrix, Ordinals, Vector, kernel, routine, vector_bytes
from nnkit.prims.rows_cpu import fill_run
from nnkit.prims.simd_cpu import LINE, Emitter, address, itemsize, lanes

__all__ = ["csr_entries", "csr_entries_heads", "csr_join", "csr_join_heads", "csr_product", "csr_product_heads", "row_cut", "walk_cut"]

HALF = 8
MOST = 8 if vector_bytes() == 32 else 16                 # registers of a row that are summed side by side: AVX2 has 16 in all, others 32
REGISTERS = tuple(sorted({*range(1, HALF + 1), MOST}))
AHEAD = 24                                               # entries between the fetching of a row of x and its use


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


def each_variant(e: Emitter, n: Any, emit: Callable[[int, list[Any]], None]) -> None:
    """emit(V, masks) for the number V of registers that n numbers fill, one of REGISTERS: code for each, of which one runs. A mask is None where
    the register is whole."""
    builder = e.b
    needed = builder.sdiv(builder.add(n, I64(e.lanes - 1)), I64(e.lanes))
    end = builder.append_basic_block("variants_end")
    choice = builder.switch(needed, end)
    for V in REGISTERS:
        block = builder.append_basic_block(f"registers_{V}")
        choice.add_case(I64(V), block)
        builder.position_at_end(block)
        emit(V, [None] * (V - 1) + [e.first(builder.sub(n, I64((V - 1) * e.lanes)))])
        builder.branch(end)
    builder.position_at_end(end)


def fetch_row(e: Emitter, row: Any, V: int, n: Any) -> None:
    """Fetch n numbers, V registers, from an address on: a line each, and the line of the last one, since rows need not begin with a line."""
    for at in range(0, V * e.lanes * e.itemsize, LINE):
        e.prefetch(e.b.add(row, I64(at)), near=True)
    e.prefetch(e.b.add(row, e.b.mul(e.b.sub(n, I64(1)), I64(e.itemsize))), near=True)


@intrinsic
def sum_rows(typing_context: Any, y: Any, rows: Any, first: Any, limit: Any, ends: Any, columns: Any, values: Any, x: Any, F: Any, n: Any,
             bias: Any, known: Any, like: Any) -> Any:
    """y[i F:][:n] = bias[:n] + the sum of values[e] x[columns[e] F:][:n] over the entries of row i, for i < rows.

    Row i's entries end before ends[i], at the latest before `limit`, the next row's begin there; row 0's begin at `first`. By address; ends of
    int64, columns of int32; bias may be 0, for none. n fills one of REGISTERS. known: number of entries whose columns may be read.
    """
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        y, rows, first, limit, ends, columns, factors, x, F, n, bias, known, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        column_of = builder.inttoptr(columns, ir.IntType(32).as_pointer())
        end_of = builder.inttoptr(ends, I64.as_pointer())
        factor_of, stride = e.pointer(factors), builder.mul(F, I64(e.itemsize))
        biased = builder.icmp_signed("!=", bias, I64(0))
        top = builder.sub(known, I64(1))

        def address_of(entry: Any) -> Any:
            return builder.add(x, builder.mul(builder.sext(builder.load(builder.gep(column_of, [entry])), I64), stride))

        def emit(V: int, masks: list[Any]) -> None:
            begin = cgutils.alloca_once_value(builder, first)
            start = [cgutils.alloca_once_value(builder, e.zero) for _ in range(V)]
            with builder.if_then(biased):
                for r in range(V):
                    builder.store(e.load(e.at(e.pointer(bias), r * e.lanes), masks[r]), start[r])
            sums = [cgutils.alloca_once_value(builder, e.zero) for _ in range(V)]
            with cgutils.for_range(builder, rows) as row:
                end = builder.load(builder.gep(end_of, [row.index]))
                end = builder.select(builder.icmp_signed("<", end, limit), end, limit)
                for r in range(V):
                    builder.store(builder.load(start[r]), sums[r])
                with cgutils.for_range_slice(builder, builder.load(begin), end, I64(1)) as (entry, _):
                    ahead = builder.add(entry, I64(AHEAD))
                    fetch_row(e, address_of(builder.select(builder.icmp_signed("<", ahead, top), ahead, top)), V, n)
                    factor = e.splat(builder.load(e.at(factor_of, entry)))
                    source = e.pointer(address_of(entry))
                    for r in range(V):
                        builder.store(e.fma(factor, e.load(e.at(source, r * e.lanes), masks[r]), builder.load(sums[r])), sums[r])
                builder.store(end, begin)
                target = e.at(e.pointer(y), builder.mul(row.index, F))
                for r in range(V):
                    e.store(builder.load(sums[r]), e.at(target, r * e.lanes), masks[r])
        each_variant(e, n, emit)
        return context.get_dummy_value()
    return types.void(*[types.int64] * 12, like), codegen


@routine
def width(n, lane):
    """How many of n numbers go side by side: those of MOST registers, or of HALF, or all, where they fill at most HALF."""
    if n >= MOST * lane:
        return MOST * lane
    return min(n, HALF * lane)


@routine
def product(task, tasks, y, carry, starts, columns, values, x, bias):
    """See csr_product."""
    F, size, lane, total = y.shape[1], itemsize(y), lanes(y), starts[starts.size - 1]
    T = y.dtype.type
    row, e = walk_cut(starts, tasks, task)
    stop, last = walk_cut(starts, tasks, task + 1)
    torn = row < stop and e > starts[row]                # a row that ends here and did not begin here
    head = starts[row + 1] if torn else e
    own = row + torn
    tail = max(head, starts[stop])
    fill_run(address(carry) + size * 2 * task * F, T(0), 2 * F, y)
    if torn:
        fill_run(address(y) + size * row * F, T(0), F, y)
    f = 0
    while f < F:
        n = width(F - f, lane)
        c, d, v, at = address(columns), address(carry) + size * (2 * task * F + f), address(values), address(x) + size * f
        b = address(bias) + size * f if bias.size else 0
        ends = address(starts) + 8
        if torn:
            sum_rows(d, 1, e, head, ends + 8 * row, c, v, at, F, n, 0, total, y)
        if own < stop:
            sum_rows(address(y) + size * (own * F + f), stop - own, head, last, ends + 8 * own, c, v, at, F, n, b, total, y)
        if last > tail:
            sum_rows(d + size * F, 1, tail, last, ends + 8 * stop, c, v, at, F, n, 0, total, y)
        f += n


@routine
def add_entries(y, h, U, first, last, columns, values, x):
    """y[h U + u] += the sum over entries first <= e < last of values[e, h] x[columns[e], h U + u], u < U."""
    for e in range(first, last):
        for u in range(U):
            y[h * U + u] += values[e, h] * x[columns[e], h * U + u]


@routine
def product_heads(task, tasks, y, carry, starts, columns, values, x, bias):
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
    product_heads(task, tasks, y, carry, starts, columns, values, x, bias)


@kernel
def csr_join_heads(task: Int, tasks: Int, y: Matrix, carry: Matrix, starts: Ordinals, columns: Labels, bias: Vector, parts: Int) -> None:
    """The rows of y that several tasks of csr_product_heads share: see csr_join."""
    join(y, carry, starts, bias, parts)


@kernel
def csr_product(task: Int, tasks: Int, y: Matrix, carry: Matrix, starts: Ordinals, columns: Labels, values: Vector, x: Matrix, bias: Vector) -> None:
    """y = A x + bias: csr_product_heads with one head, values [E]."""
    product(task, tasks, y, carry, starts, columns, values, x, bias)


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
