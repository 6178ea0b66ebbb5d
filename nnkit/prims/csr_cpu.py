"""Products with a sparse matrix A [R, C] in compressed rows, and what goes along its entries.

R rows, C columns, E entries, F features, H heads, U units of a head. Row i holds the entries starts[i] <= e < starts[i + 1]; columns and values
may be longer than starts[R], and what lies behind it is never read.

Work is cut along the merge path (Merrill and Garland, Merge-based parallel sparse matrix-vector multiplication, SC 2016): the walk through all
entries in which a row's end is a step of its own, E + R steps. A task takes an equal share of the walk, whatever the rows' lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, Int, Labels, Matrix, Ordinals, Vector, kernel, routine, vector_bytes
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.rows_cpu import fill_run
from nnkit.prims.simd_cpu import I1, I32, LINE, Emitter, address, itemsize, lanes

__all__ = ["csr_entries", "csr_entries_heads", "csr_join", "csr_product", "csr_product_heads", "row_cut", "walk_cut"]

HALF = 8
MOST = 8 if vector_bytes() == 32 else 16                 # registers of a row that are summed side by side: AVX2 has 16 in all, others 32
REGISTERS = tuple(sorted({*range(1, HALF + 1), MOST}))
HEADED = (1, 2, 3, 4, HALF)                              # the same where factors differ along a row: fewer, since each costs 0.1 s to compile
AHEAD = 64                                               # lines of x that are fetched before they are used

PERMUTES = vector_bytes() == 64                          # AVX-512 permutes a register by another one


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


def each_variant(e: Emitter, n: Any, registers: Sequence[int], emit: Callable[[Emitter, int, list[Any]], None], narrow: bool = False) -> None:
    """emit(emitter, V, masks) for the number V of registers that n numbers fill, one of `registers`: code for each, of which one runs. A mask is
    None where the register is whole. narrow: up to half a register has code of its own, since a masked load of a whole one from the middle of a
    line touches the next line, too."""
    builder = e.b
    needed = builder.sdiv(builder.add(n, I64(e.lanes - 1)), I64(e.lanes))
    if narrow:
        needed = builder.select(builder.icmp_signed("<=", n, I64(e.lanes // 2)), I64(0), needed)
    end = builder.append_basic_block("variants_end")
    choice = builder.switch(needed, end)
    for V in (0, *registers) if narrow else registers:
        block = builder.append_basic_block(f"registers_{V}")
        choice.add_case(I64(V), block)
        builder.position_at_end(block)
        own, count = (e, V) if V else (Emitter(builder, e.element, e.lanes // 2), 1)
        emit(own, count, [None] * (count - 1) + [own.first(builder.sub(n, I64((count - 1) * own.lanes)))])
        builder.branch(end)
    builder.position_at_end(end)


def fetch_row(e: Emitter, row: Any, V: int, n: Any, itemsize: int) -> None:
    """Fetch n numbers, V registers, from an address on: a line each, and the line of the last one, since rows need not begin with a line."""
    for at in range(0, V * e.lanes * itemsize, LINE):
        e.prefetch(e.b.add(row, I64(at)), near=True)
    e.prefetch(e.b.add(row, e.b.mul(e.b.sub(n, I64(1)), I64(itemsize))), near=True)


def distance(e: Emitter, V: int) -> int:
    """How many entries ahead rows of V registers are fetched: about AHEAD lines, some for the narrow, whose turns are short."""
    return max(16, AHEAD * LINE // (V * e.lanes * e.itemsize))


@attrs.frozen
class Walk:
    """The way through rows of entries, of which each reads a row of F numbers of x: see `sum_rows` for the fields. All by address.

    columns None: entry e reads row e of x. labels: of a matrix of int32 whose rows are read along with those of x, or None.
    """

    e: Emitter
    first: Any
    limit: Any
    ends: Any
    columns: Any
    x: Any
    F: Any
    known: Any
    labels: Any = None

    def place(self, entry: Any) -> Any:
        """Number of the row of x that an entry reads."""
        if self.columns is None:
            return entry
        column = self.e.b.inttoptr(self.columns, I32.as_pointer())
        return self.e.b.sext(self.e.b.load(self.e.b.gep(column, [entry])), I64)

    def address(self, entry: Any) -> Any:
        """Address of the row of x that an entry reads."""
        return self.e.b.add(self.x, self.e.b.mul(self.place(entry), self.e.b.mul(self.F, I64(self.e.itemsize))))

    def address_of_labels(self, entry: Any) -> Any:
        """Address of the row of labels that an entry reads."""
        return self.e.b.add(self.labels, self.e.b.mul(self.place(entry), self.e.b.mul(self.F, I64(4))))

    def fetch(self, entry: Any, V: int, n: Any) -> None:
        """Fetch what a later entry reads."""
        builder, top = self.e.b, self.e.b.sub(self.known, I64(1))
        ahead = builder.add(entry, I64(distance(self.e, V)))
        ahead = builder.select(builder.icmp_signed("<", ahead, top), ahead, top)
        fetch_row(self.e, self.address(ahead), V, n, self.e.itemsize)
        if self.labels is not None:
            fetch_row(self.e, self.address_of_labels(ahead), V, n, 4)

    def through(self, rows: Any, V: int, n: Any, begin: Callable[[Any, Any, Any], Any], visit: Callable[[Any, Any], None],
                finish: Callable[[Any], None]) -> None:
        """For each row i: begin(i, its first entry, its end), which says from which entry on; visit(entry, address in x) for each; finish(i)."""
        builder = self.e.b
        position = cgutils.alloca_once_value(builder, self.first)
        ends = builder.inttoptr(self.ends, I64.as_pointer())
        with cgutils.for_range(builder, rows) as loop:
            end = builder.load(builder.gep(ends, [loop.index]))
            end = builder.select(builder.icmp_signed("<", end, self.limit), end, self.limit)
            start = begin(loop.index, builder.load(position), end)
            with cgutils.for_range_slice(builder, start, end, I64(1)) as (entry, _):
                if self.columns is not None:             # rows one after the other are fetched without our help
                    self.fetch(entry, V, n)
                visit(entry, self.address(entry))
            builder.store(end, position)
            finish(loop.index)


def indices_of(e: Emitter, column: Any, U: Any, n: Any) -> Any:
    """Where n numbers from a column on have their heads, U each: int32 on the stack, in whole registers."""
    builder = e.b
    table = cgutils.alloca_once(builder, I32, size=MOST * e.lanes)
    with cgutils.for_range(builder, n) as loop:
        builder.store(builder.trunc(builder.sdiv(builder.add(column, loop.index), U), I32), builder.gep(table, [loop.index]))
    return table


def permuted(e: Emitter, value: Any, index: Any) -> Any:
    """value[index] for every lane, AVX-512."""
    integer = ir.VectorType(ir.IntType(8 * e.itemsize), e.lanes)
    index = index if index.type == integer else e.b.zext(index, integer)
    name = f"llvm.x86.avx512.permvar.{'sf' if e.itemsize == 4 else 'df'}.512"
    return e.b.call(cgutils.get_or_insert_function(e.b.module, ir.FunctionType(e.vector, [e.vector, integer]), name), [value, index])


def sum_rows(headed: bool) -> Any:
    """f(y, rows, first, limit, ends, columns, values, stride, x, F, n, bias, known, column, U, like), by address:

    y[i F:][:n] = bias[:n] + the sum of values[e stride] x[columns[e] F:][:n] over the entries of row i, for i < rows.

    Row i's entries end before ends[i], at the latest before `limit`, the next row's begin there; row 0's begin at `first`. ends: int64; columns:
    int32; bias may be 0, for none. n fills one of REGISTERS. known: number of entries whose columns may be read.
    headed: values[e stride:] holds a number for each of `stride` heads, at most a register; number k belongs to head (column + k) // U.
    """
    @intrinsic
    def rows_of(typing_context: Any, y: Any, rows: Any, first: Any, limit: Any, ends: Any, columns: Any, factors: Any, stride: Any, x: Any, F: Any,
                n: Any, bias: Any, known: Any, column: Any, U: Any, like: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            y, rows, first, limit, ends, columns, factors, stride, x, F, n, bias, known, column, U, _ = values
            e = Emitter(builder, signature.args[-1].dtype)
            walk = Walk(e, first, limit, ends, columns, x, F, known)
            biased = builder.icmp_signed("!=", bias, I64(0))
            table, some = (indices_of(e, column, U, n), e.first(stride)) if headed else (None, None)

            def emit(e: Emitter, V: int, masks: list[Any]) -> None:
                start = [cgutils.alloca_once_value(builder, e.zero) for _ in range(V)]
                with builder.if_then(biased):
                    for r in range(V):
                        builder.store(e.load(e.at(e.pointer(bias), r * e.lanes), masks[r]), start[r])
                whole = e.all_lanes(ir.Constant(I1, 1))
                indices = [e.load_whole(builder.gep(table, [I64(r * e.lanes)]), whole) for r in range(V)] if headed else []
                sums = [cgutils.alloca_once_value(builder, e.zero) for _ in range(V)]

                def begin(i: Any, entry: Any, end: Any) -> Any:
                    for r in range(V):
                        builder.store(builder.load(start[r]), sums[r])
                    return entry

                def visit(entry: Any, row: Any) -> None:
                    factor = e.at(e.pointer(factors), builder.mul(entry, stride))
                    factor = e.load(factor, some) if headed else e.splat(builder.load(factor))
                    for r in range(V):
                        own = permuted(e, factor, indices[r]) if headed else factor
                        value = e.load(e.at(e.pointer(row), r * e.lanes), masks[r])
                        builder.store(e.fma(own, value, builder.load(sums[r])), sums[r])

                def finish(i: Any) -> None:
                    target = e.at(e.pointer(y), builder.mul(i, F))
                    for r in range(V):
                        e.store(builder.load(sums[r]), e.at(target, r * e.lanes), masks[r])
                walk.through(rows, V, n, begin, visit, finish)
            each_variant(e, n, HEADED if headed else REGISTERS, emit, narrow=not headed)
            return context.get_dummy_value()
        return types.void(*[types.int64] * 15, like), codegen
    return rows_of


sum_single = sum_rows(False)
sum_headed = sum_rows(True) if PERMUTES else sum_single


@routine
def width(n, lane, registers):
    """How many of n numbers go side by side: those of the most registers that they fill, the last one maybe in part, of a tuple of numbers."""
    needed, found = (n + lane - 1) // lane, 1
    for V in registers:
        if needed >= V:
            found = V
    return min(n, found * lane)


@routine
def add_rows(y, rows, first, limit, ends, columns, values, H, x, F, bias, known, like):
    """y[i] = bias + the sum over the entries of row i, as in `sum_rows`, for all F numbers of a row: side by side as many as registers hold,
    whatever their heads, where a permutation finds their factors, else a head at a time."""
    size, lane = itemsize(like), lanes(like)
    U = F // H
    together = H == 1 or (PERMUTES and lane >= H)
    f = 0
    while f < F:
        h = 0 if together else f // U
        b = bias + size * f if bias else 0
        if H > 1 and together:
            n = width(F - f, lane, HEADED)
            sum_headed(y + size * f, rows, first, limit, ends, columns, values, H, x + size * f, F, n, b, known, f, U, like)
        else:
            n = width((F if together else (h + 1) * U) - f, lane, REGISTERS)
            sum_single(y + size * f, rows, first, limit, ends, columns, values + size * h, H, x + size * f, F, n, b, known, 0, 1, like)
        f += n


@routine
def whole_cut(starts, chunk, tasks, task):
    """Like `walk_cut`, but a row of at most `chunk` entries is never cut, and a longer one only at multiples of `chunk` entries from its first."""
    row, e = walk_cut(starts, tasks, task)
    if row < starts.size - 1:
        inside = e - starts[row]
        e = starts[row] + (inside // chunk * chunk if starts[row + 1] - starts[row] > chunk else 0)
    return row, e


@routine
def product(task, tasks, y, carry, starts, columns, values, H, x, bias, chunk):
    """See csr_product_heads. values: their address."""
    F, size, known = y.shape[1], itemsize(y), starts[starts.size - 1]
    row, first = whole_cut(starts, chunk, tasks, task)
    stop, last = whole_cut(starts, chunk, tasks, task + 1)
    b = address(bias) if bias.size else 0
    while row < stop or first < last:
        end = row                                        # rows up to here are short: one run
        while end < stop and starts[end + 1] - starts[end] <= chunk:
            end += 1
        if end > row:
            add_rows(address(y) + size * row * F, end - row, starts[row], starts[end], address(starts) + 8 * (row + 1), address(columns), values, H,
                     address(x), F, b, known, y)
            first, row = starts[end], end
            continue
        if row < stop:
            fill_run(address(y) + size * row * F, y.dtype.type(0), F, y)
        slot = 2 * (starts[row] // chunk) + (first - starts[row]) // chunk
        while first < min(last, starts[row + 1]):
            limit = min(last, first + chunk)
            add_rows(address(carry) + size * slot * F, 1, first, limit, address(starts) + 8 * (row + 1), address(columns), values, H, address(x), F,
                     0, known, y)
            first, slot = min(limit, starts[row + 1]), slot + 1
        row += 1


@kernel
def csr_product_heads(task: Int, tasks: Int, y: Matrix, carry: Matrix, starts: Ordinals, columns: Labels, values: Matrix, x: Matrix, bias: Vector,
                      chunk: Int) -> None:
    """y[i, h U + u] = bias[h U + u] + sum over the entries e of row i, in their order, of values[e, h] x[columns[e], h U + u].

    Shapes: y [R, H U], carry [2 (E // chunk) + 2, H U] (or [0, H U] where E <= chunk), starts [R + 1], columns [E], values [E, H], x [C, H U], bias
    [H U] or [0]. Task t takes the rows of its share of the walk. Of a row of more than `chunk` entries the sums of each chunk go to carry, from slot
    2 (starts[i] // chunk) on, and y becomes 0: see csr_join. So the bits do not depend on the tasks. Writes y (=), updates those slots of carry (=).
    """
    product(task, tasks, y, carry, starts, columns, address(values), values.shape[1], x, bias, chunk)


@kernel
def csr_product(task: Int, tasks: Int, y: Matrix, carry: Matrix, starts: Ordinals, columns: Labels, values: Vector, x: Matrix, bias: Vector,
                chunk: Int) -> None:
    """y = A x + bias: csr_product_heads with one head, values [E]."""
    product(task, tasks, y, carry, starts, columns, address(values), 1, x, bias, chunk)


@kernel
def csr_join(task: Int, tasks: Int, y: Matrix, carry: Matrix, starts: Ordinals, bias: Vector, chunk: Int) -> None:
    """y[i] = bias + the sums of row i's chunks, in their order, for rows of more than `chunk` entries.

    Shapes: y [R, F], carry [2 (E // chunk) + 2, F], starts [R + 1], bias [F] or [0]. Task t covers its share of the rows. Updates rows of y (=).
    """
    first, stop = row_share(y.shape[0], tasks, task)
    F = y.shape[1]
    for i in range(first, stop):
        entries = starts[i + 1] - starts[i]
        if entries > chunk:
            slot = 2 * (starts[i] // chunk)
            for f in range(F):
                total = bias[f] if bias.size else y.dtype.type(0)
                for k in range(slot, slot + (entries + chunk - 1) // chunk):
                    total += carry[k, f]
                y[i, f] = total


@intrinsic
def dot_rows(typing_context: Any, d: Any, rows: Any, first: Any, limit: Any, ends: Any, columns: Any, dy: Any, x: Any, F: Any, n: Any, more: Any,
             known: Any, like: Any) -> Any:
    """d[e] = dy[i F:][:n] . x[columns[e] F:][:n] for the entries of row i, i < rows: sums by lanes, then these pairwise; see `sum_rows`.

    d[e] is that of entry number e, whatever `first`; where `more` is not 0, what it holds is added.
    """
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        d, rows, first, limit, ends, columns, dy, x, F, n, more, known, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        walk = Walk(e, first, limit, ends, columns, x, F, known)
        added = builder.icmp_signed("!=", more, I64(0))

        def emit(e: Emitter, V: int, masks: list[Any]) -> None:
            factors = [cgutils.alloca_once(builder, e.vector) for _ in range(V)]

            def begin(i: Any, entry: Any, end: Any) -> Any:
                source = e.at(e.pointer(dy), builder.mul(i, F))
                for r in range(V):
                    builder.store(e.load(e.at(source, r * e.lanes), masks[r]), factors[r])
                return entry

            def visit(entry: Any, row: Any) -> None:
                total = e.zero
                for r in range(V):
                    total = e.fma(e.load(e.at(e.pointer(row), r * e.lanes), masks[r]), builder.load(factors[r]), total)
                total, target = e.fold(total, builder.fadd), e.at(e.pointer(d), entry)
                builder.store(builder.select(added, builder.fadd(builder.load(target), total), total), target)
            walk.through(rows, V, n, begin, visit, lambda i: None)
        each_variant(e, n, REGISTERS, emit, narrow=True)
        return context.get_dummy_value()
    return types.void(*[types.int64] * 12, like), codegen


@kernel
def csr_entries(task: Int, tasks: Int, d: Vector, starts: Ordinals, columns: Labels, dy: Matrix, x: Matrix) -> None:
    """d[e] = dy[i] . x[columns[e]] for the entries e of row i; 0 behind starts[R].

    Shapes: d [E], starts [R + 1], columns [E], dy [R, F], x [C, F]. Task t covers the entries of its share of the walk. Writes d (=).
    """
    R, F, size, lane = starts.size - 1, x.shape[1], itemsize(x), lanes(x)
    row, e = walk_cut(starts, tasks, task)
    stop, last = walk_cut(starts, tasks, task + 1)
    rows = stop - row + (stop < R)
    f = 0
    if F == 0:                                           # sums of nothing
        fill_run(address(d) + size * e, x.dtype.type(0), last - e, x)
    while f < F:
        n = width(F - f, lane, REGISTERS)
        dot_rows(address(d), rows, e, last, address(starts) + 8 * (row + 1), address(columns), address(dy) + size * (row * F + f),
                 address(x) + size * f, F, n, f, starts[R], x)
        f += n
    first, behind = rest_share(d.size, starts[R], tasks, task)
    fill_run(address(d) + size * first, x.dtype.type(0), behind - first, x)


@routine
def rest_share(E, used, tasks, task):
    """The share of a task of the entries behind the used ones."""
    return used + (E - used) * task // tasks, used + (E - used) * (task + 1) // tasks


@intrinsic
def prefetch_near(typing_context: Any, x: Any, n: Any, like: Any) -> Any:
    """Fetch x[:n], by address, into the first-level cache. Any address will do."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        e = Emitter(builder, signature.args[-1].dtype)
        e.prefetch_lines(values[0], values[1], near=True)
        e.prefetch(builder.add(values[0], builder.mul(builder.sub(values[1], I64(1)), I64(e.itemsize))), near=True)
        return context.get_dummy_value()
    return types.void(types.int64, types.int64, like), codegen


@intrinsic
def dot_to(typing_context: Any, y: Any, a: Any, b: Any, n: Any, like: Any) -> Any:
    """y[0] = a[:n] . b[:n], by address: sums by lanes, then these pairwise. n of one register, without a loop, or of whole ones and one more."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        y, a, b, n, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        total = cgutils.alloca_once_value(builder, e.zero)
        whole = builder.mul(builder.sdiv(builder.sub(n, I64(1)), I64(e.lanes)), I64(e.lanes))
        with cgutils.for_range_slice(builder, I64(0), whole, I64(e.lanes)) as (first, _):
            product = [e.load(e.at(e.pointer(run), first)) for run in (a, b)]
            builder.store(e.fma(*product, builder.load(total)), total)
        mask = e.first(builder.sub(n, whole))
        product = [e.load(e.at(e.pointer(run), whole), mask) for run in (a, b)]
        builder.store(e.fold(e.fma(*product, builder.load(total)), builder.fadd), e.pointer(y))
        return context.get_dummy_value()
    return types.void(*[types.int64] * 4, like), codegen


@kernel
def csr_entries_heads(task: Int, tasks: Int, d: Matrix, starts: Ordinals, columns: Labels, dy: Matrix, x: Matrix) -> None:
    """d[e, h] = sum over u of dy[i, h U + u] x[columns[e], h U + u] for the entries e of row i; 0 behind starts[R].

    Shapes: d [E, H], starts [R + 1], columns [E], dy [R, H U], x [C, H U]. Task t covers the entries of its share of the walk. Writes d (=).
    """
    R, F, size = starts.size - 1, x.shape[1], itemsize(x)
    E, H = d.shape
    U = F // H
    near = max(16, AHEAD * LINE // max(1, size * F))
    row, e = walk_cut(starts, tasks, task)
    _, last = walk_cut(starts, tasks, task + 1)
    while e < last:
        end = min(last, starts[row + 1])
        at = address(dy) + size * row * F
        for k in range(e, end):
            prefetch_near(address(x) + size * F * columns[min(k + near, starts[R] - 1)], F, x)
            source, to = address(x) + size * F * columns[k], address(d) + size * k * H
            for h in range(H):
                dot_to(to + size * h, at + size * h * U, source + size * h * U, U, x)
        e = end
        row += 1
    first, behind = rest_share(E, starts[R], tasks, task)
    fill_run(address(d) + size * first * H, x.dtype.type(0), (behind - first) * H, x)
