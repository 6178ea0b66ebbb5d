"""The largest number over the entries of each row of a sparse matrix; sums, means and largest numbers over runs of rows (graphs of a batch).

Letters of csr_cpu.py; V nodes, G runs: nodes segments[g] <= v < segments[g + 1] belong to graph g.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, Int, LabelMatrix, Labels, Matrix, Ordinals, kernel, routine
from nnkit.prims.csr_cpu import Walk, each_variant, row_cut
from nnkit.prims.reduce_cpu import columns_plain
from nnkit.prims.rows_cpu import fill_run, scale_run
from nnkit.prims.simd_cpu import I1, I32, Emitter, address, itemsize, lanes

__all__ = ["csr_max_backward", "csr_max_forward", "segment_max_backward", "segment_max_forward", "segment_mean_backward", "segment_mean_forward",
           "segment_sum_backward", "segment_sum_forward"]


REGISTERS = (1, 2, 3, 4)                                 # of a row side by side, each with a register of positions


def largest_rows(listed: bool) -> Any:
    """f(y, best, rows, first, ends, columns, x, F, n, known, like), by address: y[i F:][:n] = the largest numbers at x[columns[e] F:] over the
    entries of row i, best (int32) = the first entry that has each, for i < rows; the rest as in `sum_rows`. Not listed: entry e reads row e."""
    @intrinsic
    def largest(typing_context: Any, y: Any, best: Any, rows: Any, first: Any, ends: Any, columns: Any, x: Any, F: Any, n: Any, known: Any,
                like: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            y, best, rows, first, ends, columns, x, F, n, known, _ = values
            e = Emitter(builder, signature.args[-1].dtype)
            walk = Walk(e, first, known, ends, columns if listed else None, x, F, known)
            places = builder.inttoptr(best, I32.as_pointer())

            def emit(e: Emitter, V: int, masks: list[Any]) -> None:
                masks = [e.all_lanes(I1(1)) if mask is None else mask for mask in masks]
                kind = ir.VectorType(I32, e.lanes)
                top = [cgutils.alloca_once(builder, e.vector) for _ in range(V)]
                who = [cgutils.alloca_once(builder, kind) for _ in range(V)]

                def begin(i: Any, entry: Any, end: Any) -> Any:
                    some = builder.icmp_signed("<", entry, end)
                    for r in range(V):
                        builder.store(e.zero, top[r])
                        builder.store(ir.Constant(kind, [-1] * e.lanes), who[r])
                    with builder.if_then(some):
                        for r in range(V):
                            builder.store(e.load(e.at(e.pointer(walk.address(entry)), r * e.lanes), masks[r]), top[r])
                            builder.store(e.splat(builder.trunc(entry, I32), kind), who[r])
                    return builder.add(entry, builder.zext(some, I64))

                def visit(entry: Any, row: Any) -> None:
                    here = e.splat(builder.trunc(entry, I32), kind)
                    for r in range(V):
                        value, before = e.load(e.at(e.pointer(row), r * e.lanes), masks[r]), builder.load(top[r])
                        takes = builder.and_(builder.fcmp_unordered(">", value, before), builder.fcmp_ordered("ord", before, before))
                        builder.store(builder.select(takes, value, before), top[r])
                        builder.store(builder.select(takes, here, builder.load(who[r])), who[r])

                def finish(i: Any) -> None:
                    for r in range(V):
                        at = builder.add(builder.mul(i, F), I64(r * e.lanes))
                        e.store(builder.load(top[r]), e.at(e.pointer(y), at), masks[r])
                        e.store_whole(builder.load(who[r]), builder.gep(places, [at]), masks[r])
                walk.through(rows, V, n, begin, visit, finish)
            each_variant(e, n, REGISTERS, emit)
            return context.get_dummy_value()
        return types.void(*[types.int64] * 10, like), codegen
    return largest


largest_of_listed, largest_of_run = largest_rows(True), largest_rows(False)


@intrinsic
def sum_chosen(typing_context: Any, dx: Any, rows: Any, first: Any, ends: Any, columns: Any, places: Any, best: Any, dy: Any, F: Any, n: Any,
               known: Any, like: Any) -> Any:
    """dx[j F:][:n] = the sum of dy[i F:], i = columns[e], over the entries e of row j where best[i F:] (int32) == places[e]; see `largest_rows`."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        dx, rows, first, ends, columns, places, best, dy, F, n, known, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        walk = Walk(e, first, known, ends, columns, dy, F, known, best)
        place_of = builder.inttoptr(places, I32.as_pointer())

        def emit(e: Emitter, V: int, masks: list[Any]) -> None:
            masks = [e.all_lanes(I1(1)) if mask is None else mask for mask in masks]
            sums = [cgutils.alloca_once(builder, e.vector) for _ in range(V)]

            def begin(j: Any, entry: Any, end: Any) -> Any:
                for r in range(V):
                    builder.store(e.zero, sums[r])
                return entry

            def visit(entry: Any, row: Any) -> None:
                place = e.splat(builder.load(builder.gep(place_of, [entry])), ir.VectorType(I32, e.lanes))
                labels = builder.inttoptr(walk.address_of_labels(entry), I32.as_pointer())
                for r in range(V):
                    chosen = builder.icmp_signed("==", e.load_whole(builder.gep(labels, [I64(r * e.lanes)]), masks[r]), place)
                    value = e.load(e.at(e.pointer(row), r * e.lanes), masks[r])
                    builder.store(builder.fadd(builder.load(sums[r]), builder.select(chosen, value, e.zero)), sums[r])

            def finish(j: Any) -> None:
                for r in range(V):
                    e.store(builder.load(sums[r]), e.at(e.pointer(dx), builder.add(builder.mul(j, F), I64(r * e.lanes))), masks[r])
            walk.through(rows, V, n, begin, visit, finish)
        each_variant(e, n, REGISTERS, emit)
        return context.get_dummy_value()
    return types.void(*[types.int64] * 11, like), codegen


@intrinsic
def choose_run(typing_context: Any, dx: Any, best: Any, dy: Any, place: Any, n: Any, like: Any) -> Any:
    """dx[:n] = dy[:n] where best[:n] (int32) is `place`, else 0. By address."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        dx, best, dy, place, n, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        labels = builder.inttoptr(best, I32.as_pointer())
        here = e.splat(builder.trunc(place, I32), ir.VectorType(I32, e.lanes))

        def visit(first: Any, mask: Any) -> None:
            chosen = builder.icmp_signed("==", e.load_whole(builder.gep(labels, [first]), mask), here)
            e.store(builder.select(chosen, e.load(e.at(e.pointer(dy), first), mask), e.zero), e.at(e.pointer(dx), first), mask)
        e.each_register(n, visit)
        return context.get_dummy_value()
    return types.void(*[types.int64] * 5, like), codegen


@kernel
def csr_max_forward(task: Int, tasks: Int, y: Matrix, best: LabelMatrix, starts: Ordinals, columns: Labels, x: Matrix) -> None:
    """y[i, f] = the largest of x[columns[e], f] over the entries e of row i, best[i, f] = the first e that has it; 0 and -1 where there is none.
    Shapes: y, best [R, F], starts [R + 1], columns [E], x [C, F]. The first NaN counts as the largest. Task t covers its rows.
    Writes y, best (=)."""
    F, size, wide = y.shape[1], itemsize(y), REGISTERS[-1] * lanes(y)
    first, last, known = row_cut(starts, tasks, task), row_cut(starts, tasks, task + 1), starts[starts.size - 1]
    for f in range(0, F, wide):
        at = first * F + f
        largest_of_listed(address(y) + size * at, address(best) + 4 * at, last - first, starts[first], address(starts) + 8 * (first + 1),
                          address(columns), address(x) + size * f, F, min(wide, F - f), known, y)


@kernel
def csr_max_backward(task: Int, tasks: Int, dx: Matrix, starts_t: Ordinals, columns_t: Labels, places: Labels, best: LabelMatrix, dy: Matrix) -> None:
    """dx[j, f] = the sum of dy[i, f] over the entries e of row j of the transpose, i = columns_t[e], of which best[i, f] == places[e].
    Shapes: dx [C, F], starts_t [C + 1], columns_t, places [E], best, dy [R, F]. Task t covers its rows of the transpose. Writes dx (=)."""
    F, size, wide = dx.shape[1], itemsize(dx), REGISTERS[-1] * lanes(dx)
    first, last, known = row_cut(starts_t, tasks, task), row_cut(starts_t, tasks, task + 1), starts_t[starts_t.size - 1]
    for f in range(0, F, wide):
        sum_chosen(address(dx) + size * (first * F + f), last - first, starts_t[first], address(starts_t) + 8 * (first + 1), address(columns_t),
                   address(places), address(best) + 4 * f, address(dy) + size * f, F, min(wide, F - f), known, dx)


@routine
def rows_share(V, segments, tasks, task):
    """(first node, end, graph of the first node, G where it is in none) of a task that covers its share of V nodes."""
    first = V * task // tasks
    low, high = 0, segments.size - 1
    while low < high:
        g = (low + high) // 2
        if segments[g + 1] <= first:
            low = g + 1
        else:
            high = g
    return first, V * (task + 1) // tasks, low


@routine
def unit_of(unit, F, wide):
    """(graph, first column, columns) of a unit of work, `wide` columns of one graph: so that several tasks share one large graph."""
    bands = (F + wide - 1) // wide
    f = unit % bands * wide
    return unit // bands, f, min(wide, F - f)


@routine
def sums(task, tasks, y, segments, x, mean):
    """See segment_sum_forward and segment_mean_forward."""
    G, F = y.shape
    size, wide = itemsize(y), lanes(y)
    T = y.dtype.type
    units = G * ((F + wide - 1) // wide)
    for unit in range(units * task // tasks, units * (task + 1) // tasks):
        g, f, n = unit_of(unit, F, wide)
        nodes = segments[g + 1] - segments[g]
        at = address(y) + size * (g * F + f)
        columns_plain(nodes, n, at, F, address(x) + size * (segments[g] * F + f), 0, F, 0, 0, y)
        if mean and nodes > 1:
            scale_run(at, T(1) / T(nodes), at, n, y)


@routine
def spread(task, tasks, dx, segments, dy, mean):
    """See segment_sum_backward and segment_mean_backward."""
    V, F = dx.shape
    G, size = dy.shape[0], itemsize(dx)
    T = dx.dtype.type
    first, last, g = rows_share(V, segments, tasks, task)
    for v in range(first, last):
        while g < G and v >= segments[g + 1]:
            g += 1
        at = address(dx) + size * v * F
        if g == G:
            fill_run(at, T(0), F, dx)
        else:
            scale_run(at, T(1) / T(segments[g + 1] - segments[g]) if mean else T(1), address(dy) + size * g * F, F, dx)


@kernel
def segment_sum_forward(task: Int, tasks: Int, y: Matrix, segments: Ordinals, x: Matrix) -> None:
    """y[g] = the sum of x[v] over the nodes of graph g, in their order. Shapes: y [G, F], segments [G + 1] from 0 on, x [V, F]. Task t covers its
    share of the graphs' registers of columns. Writes y (=)."""
    sums(task, tasks, y, segments, x, False)


@kernel
def segment_sum_backward(task: Int, tasks: Int, dx: Matrix, segments: Ordinals, dy: Matrix) -> None:
    """dx[v] = dy[g] for the nodes of graph g, 0 for nodes of none. Shapes as above. Task t covers its share of the nodes. Writes dx (=)."""
    spread(task, tasks, dx, segments, dy, False)


@kernel
def segment_mean_forward(task: Int, tasks: Int, y: Matrix, segments: Ordinals, x: Matrix) -> None:
    """y[g] = the mean of x[v] over the nodes of graph g, 0 where it has none. Otherwise as segment_sum_forward."""
    sums(task, tasks, y, segments, x, True)


@kernel
def segment_mean_backward(task: Int, tasks: Int, dx: Matrix, segments: Ordinals, dy: Matrix) -> None:
    """dx[v] = dy[g] / number of nodes of graph g, for those nodes; 0 for nodes of none. Otherwise as segment_sum_backward."""
    spread(task, tasks, dx, segments, dy, True)


@kernel
def segment_max_forward(task: Int, tasks: Int, y: Matrix, best: LabelMatrix, segments: Ordinals, x: Matrix) -> None:
    """y[g, f] = the largest of x[v, f] over the nodes of graph g, best[g, f] = the first v that has it; 0 and -1 where there is none. The first
    NaN counts as the largest. Shapes: y, best [G, F], segments [G + 1] from 0 on, x [V, F]. Task t covers its share of the graphs' registers of
    columns. Writes y, best (=)."""
    G, F = y.shape
    size, wide = itemsize(y), lanes(y)
    units = G * ((F + wide - 1) // wide)
    for unit in range(units * task // tasks, units * (task + 1) // tasks):
        g, f, n = unit_of(unit, F, wide)
        at = g * F + f
        largest_of_run(address(y) + size * at, address(best) + 4 * at, 1, segments[g], address(segments) + 8 * (g + 1), 0, address(x) + size * f, F,
                       n, segments[g + 1], y)


@kernel
def segment_max_backward(task: Int, tasks: Int, dx: Matrix, segments: Ordinals, best: LabelMatrix, dy: Matrix) -> None:
    """dx[v, f] = dy[g, f] where best[g, f] == v, else 0. Shapes: dx [V, F], best, dy [G, F]. Task t covers its share of the nodes.
    Writes dx (=)."""
    V, F = dx.shape
    G, size = dy.shape[0], itemsize(dx)
    first, last, g = rows_share(V, segments, tasks, task)
    for v in range(first, last):
        while g < G and v >= segments[g + 1]:
            g += 1
        at = address(dx) + size * v * F
        if g == G:
            fill_run(at, dx.dtype.type(0), F, dx)
        else:
            choose_run(at, address(best) + 4 * g * F, address(dy) + size * g * F, v, F, dx)
