"""Kernels on the rows of a table that a batch touches.

V rows of the table, D columns, R indices, M places for distinct rows: the lesser of R and V.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, Int, Labels, Matrix, Ordinals, kernel
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.simd_cpu import Emitter, address, itemsize, lanes

__all__ = ["add_up", "distinct"]

WIDE = 4                                                 # registers of a row that are summed side by side
LONG = 128                                               # places of a list that are summed in one go


@kernel
def distinct(task: Int, tasks: Int, rows: Labels, link: Labels, count: Ordinals, indices: Labels, slot: Labels, tail: Labels) -> None:
    """rows[:count] = the numbers that occur among the indices, in the order of their first occurrence, and a list for each of where they do.

    The list of place j: r = link[j], then r = link[M + r], ... while r >= 0; r rises. Shapes: rows [M], link [M + R], count [1], indices [R].
    Scratch: slot [V], of which an entry counts where `rows` confirms it, so that it needs no start; tail [M], where in `link` the list goes on.
    Without branches, since nobody can foretell them. One task. Writes rows, link, count (=).
    """
    n, M = 0, rows.size
    for r in range(indices.size):
        v = indices[r]
        j = slot[v]
        known = 0 <= j < n
        j = j if known else 0
        known &= rows[j] == v
        j = j if known else n
        slot[v] = j
        rows[j] = v
        link[tail[j] if known else j] = r
        tail[j] = M + r
        link[M + r] = -1
        n += not known
    count[0] = n
    for j in range(n, M):
        rows[j] = 0
        link[j] = -1


@intrinsic
def sum_listed(typing_context: Any, y: Any, x: Any, stride: Any, r: Any, link: Any, n: Any, like: Any) -> Any:
    """y[:n] = x[r stride:][:n] + the same for r = link[r], ... while r >= 0, n at most WIDE registers. By address; link: of int32.

    Of a list of more than LONG places, LONG at a time are summed, and these sums in float64.
    """
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        y, x, stride, r, link, n, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        wide = ir.VectorType(ir.DoubleType(), e.lanes)
        masks = [e.first(builder.sub(n, I64(u * e.lanes))) for u in range(WIDE)]
        sums = [cgutils.alloca_once_value(builder, e.zero) for _ in range(WIDE)]
        totals = [cgutils.alloca_once(builder, wide) for _ in range(WIDE)]
        place = cgutils.alloca_once_value(builder, r)
        links = builder.inttoptr(link, ir.IntType(32).as_pointer())

        def widened() -> list[Any]:
            found = [builder.load(part) for part in sums]
            return found if e.vector == wide else [builder.fpext(part, wide) for part in found]

        def stretch() -> None:
            """Add LONG places of the list, or what is left of it."""
            left = cgutils.alloca_once(builder, I64)
            builder.store(I64(LONG), left)
            test, body, end = (builder.append_basic_block(f"list_{part}") for part in ("test", "body", "end"))
            builder.branch(test)
            builder.position_at_end(test)
            more = builder.and_(builder.icmp_signed(">=", builder.load(place), I64(0)), builder.icmp_signed(">", builder.load(left), I64(0)))
            builder.cbranch(more, body, end)
            builder.position_at_end(body)
            here = builder.load(place)
            row = e.at(e.pointer(x), builder.mul(here, stride))
            for u in range(WIDE):
                builder.store(builder.fadd(builder.load(sums[u]), e.load(e.at(row, u * e.lanes), masks[u])), sums[u])
            builder.store(builder.sext(builder.load(builder.gep(links, [here])), I64), place)
            builder.store(builder.sub(builder.load(left), I64(1)), left)
            builder.branch(test)
            builder.position_at_end(end)

        stretch()
        with builder.if_then(builder.icmp_signed(">=", builder.load(place), I64(0)), likely=False):
            for total, part in zip(totals, widened(), strict=True):
                builder.store(part, total)
            again, done = builder.append_basic_block("list_again"), builder.append_basic_block("list_done")
            builder.branch(again)
            builder.position_at_end(again)
            for part in sums:
                builder.store(e.zero, part)
            stretch()
            for total, part in zip(totals, widened(), strict=True):
                builder.store(builder.fadd(builder.load(total), part), total)
            builder.cbranch(builder.icmp_signed(">=", builder.load(place), I64(0)), again, done)
            builder.position_at_end(done)
            for total, part in zip(totals, sums, strict=True):
                found = builder.load(total)
                builder.store(found if e.vector == wide else builder.fptrunc(found, e.vector), part)
        for u in range(WIDE):
            e.store(builder.load(sums[u]), e.at(e.pointer(y), u * e.lanes), masks[u])
        return context.get_dummy_value()
    return types.void(*[types.int64] * 6, like), codegen


@kernel
def add_up(task: Int, tasks: Int, dtable: Matrix, link: Labels, count: Ordinals, dy: Matrix) -> None:
    """dtable[j] = the sum of dy[r] over the list of place j (see distinct), in the order of r (see sum_listed), for j < count.

    Shapes: dtable [M, D], dy [R, D]. Task t covers its share of the places. Writes the rows of dtable below the count (=)."""
    start, stop = row_share(count[0], tasks, task)
    D, size, wide = dy.shape[1], itemsize(dy), WIDE * lanes(dy)
    M = link.size - dy.shape[0]
    for j in range(start, stop):
        for d in range(0, D, wide):
            sum_listed(address(dtable) + size * (j * D + d), address(dy) + size * d, D, link[j], address(link) + 4 * M, D - d, dy)
