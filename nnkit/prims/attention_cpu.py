"""Softmax over the entries of each row of a sparse matrix, and sums along rows. Letters and work: see csr_cpu.py; tasks take whole rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, Int, Labels, Matrix, Ordinals, Real, kernel
from nnkit.prims.csr_cpu import prefetch_near, rest_share, row_cut
from nnkit.prims.reduce_cpu import columns_plain
from nnkit.prims.rows_cpu import BLOCK, fill_run
from nnkit.prims.simd_cpu import I32, Emitter, address, itemsize, lanes, part
from nnkit.scalar import exp_below

__all__ = ["csr_places", "csr_row_sums", "edge_softmax_backward", "edge_softmax_forward"]


AHEAD = 32                                               # entries between the fetching of a number of another row and its use
LONG = 128                                               # entries whose sum is taken on its own
NEAR = 2 ** 18                                           # entries whose numbers a core's caches hold


FEW = (1, 2, 4, 8)                                       # numbers of heads that are whole parts of a register


def each_width(builder: Any, element: types.Float, H: Any, n: Any, emit: Callable[[Emitter, Any], None]) -> None:
    """emit(emitter, mask): for each H of FEW code without a mask, for others with one of n lanes. A masked store of a few lanes for every entry
    takes 15 cycles."""
    widest = Emitter(builder, element)
    end, other = builder.append_basic_block("widths_end"), builder.append_basic_block("masked")
    choice = builder.switch(H, other)
    for few in FEW:
        if few <= widest.lanes:
            block = builder.append_basic_block(f"heads_{few}")
            choice.add_case(I64(few), block)
            builder.position_at_end(block)
            emit(Emitter(builder, element, few), None)
            builder.branch(end)
    builder.position_at_end(other)
    emit(widest, widest.first(n))
    builder.branch(end)
    builder.position_at_end(end)


class Row:
    """Emits what goes along the entries first <= e < last of a row, at most a register of each, H apart. All by address."""

    def __init__(self, e: Emitter, first: Any, last: Any, H: Any, mask: Any) -> None:
        self.e, self.first, self.last, self.H, self.mask = e, first, last, H, mask

    def each(self, visit: Callable[[Any], None]) -> None:
        """visit(e) for all entries."""
        with cgutils.for_range_slice(self.e.b, self.first, self.last, I64(1)) as (entry, _):
            visit(entry)

    def total(self, add: Callable[[Any, Any], Any]) -> Any:
        """The sum over all entries of what add(running total, e) adds: LONG at a time, then these sums, so that it does not outgrow its terms."""
        b, long = self.e.b, I64(LONG)
        whole, part = (cgutils.alloca_once_value(b, self.e.zero) for _ in range(2))

        def stretch(start: Any, stop: Any) -> None:
            with cgutils.for_range_slice(b, start, stop, I64(1)) as (entry, _):
                b.store(add(b.load(part), entry), part)
        done, is_long = cgutils.alloca_once(b, I64), b.icmp_signed(">", b.sub(self.last, self.first), long)
        b.store(self.first, done)
        with b.if_then(is_long, likely=False):
            full = b.add(self.first, b.mul(b.sdiv(b.sub(self.last, self.first), long), long))
            with cgutils.for_range_slice(b, self.first, full, long) as (start, _):
                stretch(start, b.add(start, long))
                b.store(b.fadd(b.load(whole), b.load(part)), whole)
                b.store(self.e.zero, part)
            b.store(full, done)
        stretch(b.load(done), self.last)
        with b.if_then(is_long, likely=False):
            b.store(b.fadd(b.load(whole), b.load(part)), part)
        return b.load(part)

    def place(self, x: Any, row: Any) -> Any:
        """Pointer to row `row` of a matrix of H columns."""
        return self.e.at(self.e.pointer(x), self.e.b.mul(row, self.H))

    def load(self, x: Any, row: Any) -> Any:
        """The numbers of that row."""
        return self.e.load(self.place(x, row), self.mask)

    def column(self, columns: Any, entry: Any) -> Any:
        """columns[entry] as int64."""
        return self.e.b.sext(self.e.b.load(self.e.b.gep(self.e.b.inttoptr(columns, I32.as_pointer()), [entry])), I64)


@intrinsic
def shift_scores(typing_context: Any, y: Any, columns: Any, first: Any, last: Any, s: Any, t: Any, H: Any, n: Any, known: Any, slope: Any,
                 like: Any) -> Any:
    """y[e] = z[e] - the largest z of the row, z[e] = leaky(s + t[columns[e]]); s: the row's numbers. known: entries whose columns may be read."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        y, columns, first, last, s, t, H, n, known, slope, _ = values
        top = builder.sub(known, I64(1))

        def emit(e: Emitter, mask: Any) -> None:
            row, slopes, own = Row(e, first, last, H, mask), e.splat(slope), e.load(e.pointer(s), mask)
            largest = cgutils.alloca_once_value(builder, e.splat_constant(-math.inf))

            def score(entry: Any) -> Any:
                a = builder.fadd(own, row.load(t, row.column(columns, entry)))
                return builder.select(builder.fcmp_ordered(">", a, e.zero), a, builder.fmul(slopes, a))

            def see(entry: Any) -> None:
                ahead = builder.add(entry, I64(AHEAD))
                ahead = row.column(columns, builder.select(builder.icmp_signed("<", ahead, top), ahead, top))
                e.prefetch(builder.ptrtoint(row.place(t, ahead), I64), near=True)
                z, before = score(entry), builder.load(largest)
                builder.store(builder.select(builder.fcmp_ordered(">", z, before), z, before), largest)
            row.each(see)
            row.each(lambda entry: e.store(builder.fsub(score(entry), builder.load(largest)), row.place(y, entry), mask))
        each_width(builder, signature.args[-1].dtype, H, n, emit)
        return context.get_dummy_value()
    return types.void(*[types.int64] * 9, like.dtype, like), codegen


@intrinsic
def divide_by_sum(typing_context: Any, y: Any, first: Any, last: Any, H: Any, n: Any, like: Any) -> Any:
    """y[e] /= the sum of y over the row."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        y, first, last, H, n, _ = values

        def emit(e: Emitter, mask: Any) -> None:
            row = Row(e, first, last, H, mask)
            factor = builder.fdiv(e.splat_constant(1.0), row.total(lambda total, entry: builder.fadd(total, row.load(y, entry))))
            row.each(lambda entry: e.store(builder.fmul(factor, row.load(y, entry)), row.place(y, entry), mask))
        each_width(builder, signature.args[-1].dtype, H, n, emit)
        return context.get_dummy_value()
    return types.void(*[types.int64] * 5, like), codegen


@intrinsic
def row_gradient(typing_context: Any, d: Any, ds: Any, columns: Any, first: Any, last: Any, alpha: Any, dalpha: Any, s: Any, t: Any, H: Any, n: Any,
                 slope: Any, like: Any) -> Any:
    """d[e] = leaky'(s + t[columns[e]]) alpha[e] (dalpha[e] - the row's sum of alpha dalpha); ds = the row's sum of d. s, ds: the row's numbers."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        d, ds, columns, first, last, alpha, dalpha, s, t, H, n, slope, _ = values

        def emit(e: Emitter, mask: Any) -> None:
            row, slopes, own = Row(e, first, last, H, mask), e.splat(slope), e.load(e.pointer(s), mask)

            def dot(total: Any, entry: Any) -> Any:
                e.prefetch(builder.ptrtoint(row.place(t, row.column(columns, entry)), I64), near=True)
                return e.fma(row.load(alpha, entry), row.load(dalpha, entry), total)
            inner = row.total(dot)

            def visit(total: Any, entry: Any) -> Any:
                gradient = builder.fmul(row.load(alpha, entry), builder.fsub(row.load(dalpha, entry), inner))
                a = builder.fadd(own, row.load(t, row.column(columns, entry)))
                gradient = builder.select(builder.fcmp_ordered(">", a, e.zero), gradient, builder.fmul(slopes, gradient))
                e.store(gradient, row.place(d, entry), mask)
                return builder.fadd(total, gradient)
            e.store(row.total(visit), e.pointer(ds), mask)
        each_width(builder, signature.args[-1].dtype, H, n, emit)
        return context.get_dummy_value()
    return types.void(*[types.int64] * 11, like.dtype, like), codegen


@intrinsic
def copy_entry(typing_context: Any, y: Any, x: Any, H: Any, like: Any) -> Any:
    """y[:H] = x[:H], by address."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        y, x, H, _ = values
        kind = signature.args[-1].dtype

        def emit(e: Emitter, mask: Any) -> None:
            if mask is None:
                e.store(e.load(e.pointer(x)), e.pointer(y))
            else:
                e.each_register(H, lambda first, some: e.store(e.load(e.at(e.pointer(x), first), some), e.at(e.pointer(y), first), some))
        each_width(builder, kind, H, H, emit)
        return context.get_dummy_value()
    return types.void(*[types.int64] * 3, like), codegen


@kernel
def edge_softmax_forward(task: Int, tasks: Int, alpha: Matrix, starts: Ordinals, columns: Labels, s: Matrix, t: Matrix, slope: Real) -> None:
    """alpha[e, h] = e^z[e, h] / sum over row i of e^z[., h], z[e, h] = leaky(s[i, h] + t[columns[e], h]), leaky(a) = a if a > 0 else slope a;
    0 behind starts[R]. Shapes: alpha [E, H], starts [R + 1], columns [E], s [R, H], t [C, H]. Task t covers the entries of its rows, a block
    of rows at a time: exponentials are one loop over all of its numbers. Writes alpha (=)."""
    H = s.shape[1]
    size, lane, known = itemsize(s), lanes(s), starts[starts.size - 1]
    row, last = row_cut(starts, tasks, task), row_cut(starts, tasks, task + 1)
    a = address(alpha)
    while row < last:
        stop = row + 1
        while stop < last and (starts[stop + 1] - starts[row]) * H <= BLOCK:
            stop += 1
        for i in range(row, stop):
            for h in range(0, H, lane):
                own = address(s) + size * (i * H + h)
                shift_scores(a + size * h, address(columns), starts[i], starts[i + 1], own, address(t) + size * h, H, H - h, known, slope, s)
        z = part(alpha, starts[row] * H, starts[stop] * H)
        for k in range(z.size):
            z[k] = exp_below(z[k])
        for i in range(row, stop):
            for h in range(0, H, lane):
                divide_by_sum(a + size * h, starts[i], starts[i + 1], H, H - h, s)
        row = stop
    first, stop = rest_share(alpha.shape[0], known, tasks, task)
    fill_run(a + size * first * H, s.dtype.type(0), (stop - first) * H, s)


@kernel
def edge_softmax_backward(task: Int, tasks: Int, dscores: Matrix, ds: Matrix, starts: Ordinals, columns: Labels, alpha: Matrix, dalpha: Matrix,
                          s: Matrix, t: Matrix, slope: Real) -> None:
    """With a = s[i, h] + t[columns[e], h]: dscores[e, h] = dL/da = leaky'(a) alpha (dalpha - sum over row i of alpha dalpha), 0 behind starts[R];
    ds[i, h] = its sum over row i. Shapes: dscores, alpha, dalpha [E, H], ds, s [R, H], t [C, H]. Task t covers its rows.
    Writes dscores, ds (=)."""
    R, H = s.shape
    size, lane = itemsize(s), lanes(s)
    for i in range(row_cut(starts, tasks, task), row_cut(starts, tasks, task + 1)):
        for h in range(0, H, lane):
            at, own = size * h, size * (i * H + h)
            row_gradient(address(dscores) + at, address(ds) + own, address(columns), starts[i], starts[i + 1], address(alpha) + at,
                         address(dalpha) + at, address(s) + own, address(t) + at, H, H - h, slope, s)
    first, stop = rest_share(dscores.shape[0], starts[R], tasks, task)
    fill_run(address(dscores) + size * first * H, s.dtype.type(0), (stop - first) * H, s)


@kernel
def csr_row_sums(task: Int, tasks: Int, y: Matrix, starts: Ordinals, values: Matrix) -> None:
    """y[i] = the sum of values[e] over the entries e of row i. Shapes: y [R, H], starts [R + 1], values [E, H]. Task t covers its rows.
    Writes y (=)."""
    H, size = y.shape[1], itemsize(y)
    for i in range(row_cut(starts, tasks, task), row_cut(starts, tasks, task + 1)):
        columns_plain(starts[i + 1] - starts[i], H, address(y) + size * i * H, H, address(values) + size * starts[i] * H, 0, H, 0, 0, y)


@kernel
def csr_places(task: Int, tasks: Int, y: Matrix, x: Matrix, places: Labels) -> None:
    """y[e] = x[places[e]]. Shapes: y, x [E, H], places [E]. Task t covers its share of the entries. Writes y (=)."""
    E, H = y.shape
    size = itemsize(y)
    start, stop = E * task // tasks, E * (task + 1) // tasks
    if H == 1 and E < NEAR:                              # what lies in a cache is fetched as fast without asking
        for e in range(start, stop):
            y[e, 0] = x[places[e], 0]
        return
    for e in range(start, stop):
        prefetch_near(address(x) + size * H * places[min(e + AHEAD, E - 1)], H, x)
        copy_entry(address(y) + size * H * e, address(x) + size * H * places[e], H, x)
