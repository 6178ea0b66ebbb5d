"""What goes through time in recurrent layers: the kernels are made of a cell's two functions, one step forward and one step backward.

N batch, T time steps, I inputs, U units, G gates, P planes (what a cell keeps of a step: its gates, mostly). The rows of the batch are cut into
groups of B rows, by shapes alone; a group is worked through by one task, and its numbers lie together:

    planes [groups, P, T, b, U]     of every step the gates; backward they become the gradients of what went into them
    hidden [groups, T + 1, b, U]    h before the first step, then after each; cells likewise for c
    left   [groups, T, b, U]        h as it was multiplied with the recurrent kernel, where some of it was dropped

b is B, in the last group what is left. So what happens between two products is a loop over b U neighbouring numbers, and a gate's product over
many steps one matrix product. In prediction only S steps are kept at a time: T above stands for S then. W and R are read as panels, gate by gate.

Steps are counted as they are taken; going backwards, step t takes the input of time T - 1 - t. A step of a row that is masked changes nothing: h
and c stay, backward its gradients are 0 and those of h and c pass. A masked step's output is that of the step before, 0 where there was none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkit.jit import Int, Kernel, Matrix, Real, Sequence, Tensor3, Vector, kernel, routine
from nnkit.prims.feed_cpu import copy_row
from nnkit.prims.matmul_cpu import product, row_share
from nnkit.prims.reduce_cpu import add_masked
from nnkit.prims.rows_cpu import fill_run
from nnkit.prims.simd_cpu import address, itemsize, lanes, part, run

__all__ = ["clear", "copy_run", "keep_state", "recurrent", "recurrent_input", "recurrent_weight"]

# What follows is the order of `Sequence`: see prims/recurrent.py.
UNITS, ROWS, KEPT, BLOCK, BACKWARDS, ALIGNED, SEQUENCES, ZERO, AFTER, ACTIVATION, GATE, BATCH = range(12)


# Parts of a step: runs of numbers, rows of a group, masks, what comes in and what goes out.

@routine
def clear(x):
    """x = 0."""
    fill_run(address(x), x.dtype.type(0), x.size, x)


@routine
def is_masked(mask, n, t):
    """Whether step t of row n does not count; t is the place in the data."""
    return mask.size > 0 and mask[n, t] == mask.dtype.type(0)


@routine
def rows_of_group(group, rows, batch):
    """(first row, rows) of a group."""
    return group * rows, min(rows, batch - group * rows)


@routine
def place(step, steps, backwards):
    """Where the input of a step lies."""
    return steps - 1 - step if backwards else step


@routine
def first_counted(mask, n, steps, backwards):
    """The first step of row n that counts; `steps` where none does."""
    if mask.size == 0:
        return 0
    for step in range(steps):
        if not is_masked(mask, n, place(step, steps, backwards)):
            return step
    return steps


@routine
def all_masked(mask, first, rows, t):
    """Whether step t counts for none of a group's rows."""
    if mask.size == 0:
        return False
    count = 0
    for r in range(rows):
        count += is_masked(mask, first + r, t)
    return count == rows


@routine
def copy_run(y, y_start, x, x_start, n):
    """y[y_start:][:n] = x[x_start:][:n], of vectors or of matrices seen as vectors."""
    copy_row(address(y) + itemsize(x) * y_start, address(x) + itemsize(x) * x_start, n, x)


@routine
def multiply_runs(y, a, b):
    """y = a b."""
    for k in range(y.size):
        y[k] = a[k] * b[k]


@routine
def add_product_of_runs(y, a, b):
    """y += a b."""
    for k in range(y.size):
        y[k] += a[k] * b[k]


@routine
def begin_state(h, h0, first, units):
    """h [b, U] = the group's rows of h0; 0 where h0 has no rows."""
    if h0.shape[0]:
        copy_run(h, 0, h0, first * units, h.size)
    else:
        clear(h)


@routine
def add_biases(both, bias, gates, shape):
    """What is added to a gate before its step: the bias of x, and that of h where it is not multiplied by a gate."""
    size = gates * shape[UNITS]
    for k in range(min(size, bias.size)):
        both[k] = bias[k]
    for k in range((gates - 1) * shape[UNITS] if bias.size > size else 0):
        both[k] += bias[size + k]


@routine
def note_begins(begins, mask, first, steps, shape):
    """The first step that counts of every row of a group."""
    for r in range(begins.size):
        begins[r] = first_counted(mask, first + r, steps, shape[BACKWARDS])


@routine
def project(planes, z, plane, x, first, rows, t0, steps, panels, bias, gates, shape):
    """What x gives to the gates of some steps, as products of many rows: of a row's steps, or of a step's rows where these are more."""
    _, T, I = x.shape
    U, size = shape[UNITS], itemsize(x)
    along = -I if shape[BACKWARDS] else I
    at = address(x) + size * (first * T + place(t0, T, shape[BACKWARDS])) * I
    for gate in range(gates):
        out, b = address(planes) + size * (z + gate * plane), address(panels) + size * gate * I * U
        start = address(bias) + size * gate * U if bias.size else 0
        if steps >= rows:
            for r in range(rows):
                product(steps, U, I, at + size * r * T * I, along, 1, b, 0, out + size * r * U, rows * U, start, 0, x)
        else:
            for s in range(steps):
                product(rows, U, I, at + size * s * along, T * I, 1, b, 0, out + size * s * rows * U, U, start, 0, x)


@routine
def keep_masked(h, p, mask, first, rows, t, units):
    """h = p in the rows of which step t does not count."""
    if mask.size:
        for r in range(rows):
            if is_masked(mask, first + r, t):
                copy_run(h, r * units, p, r * units, units)


@routine
def clear_masked(x, mask, first, rows, t, units):
    """x = 0 in the rows of which step t does not count."""
    for r in range(rows):
        if is_masked(mask, first + r, t):
            clear(run(x, r * units, units))


@routine
def is_silent(begins, mask, r, first, t, steps, shape):
    """Whether the output of a step is 0 because of the mask: nothing counted up to it, or (where it is to be so) it does not count itself."""
    return t < begins[r] or (shape[ZERO] and is_masked(mask, first + r, place(t, steps, shape[BACKWARDS])))


@routine
def output_row(n, t, steps, shape):
    """The row of y that holds step t of row n."""
    if not shape[SEQUENCES]:
        return n
    return n * steps + (place(t, steps, shape[BACKWARDS]) if shape[ALIGNED] else t)


@routine
def write_output(y, h, begins, mask, first, t, steps, shape):
    """The group's rows of y for step t."""
    U = shape[UNITS]
    for r in range(begins.size):
        at = output_row(first + r, t, steps, shape) * U
        if mask.size and is_silent(begins, mask, r, first, t, steps, shape):
            clear(part(y, at, at + U))
        else:
            copy_run(y, at, h, r * U, U)


@routine
def read_gradient(dh, dy, begins, mask, first, t, steps, shape):
    """dh += the group's rows of dy for step t."""
    U, size, lane = shape[UNITS], itemsize(dy), lanes(dy)
    for r in range(begins.size):
        if mask.size and is_silent(begins, mask, r, first, t, steps, shape):
            continue
        at = address(dy) + size * output_row(first + r, t, steps, shape) * U
        for u in range(0, U, lane):
            add_masked(address(dh) + size * (r * U + u), at + size * u, U - u, dy)


# The kernels of a layer.

def recurrent(gates: int, kept: int, step_forward: Callable[..., Any], step_backward: Callable[..., Any], products: Callable[..., Any]
              ) -> tuple[Kernel, Kernel]:
    """The forward and the backward kernel of a cell of so many gates that keeps so many planes.

    step_forward(planes, z, plane, h, p, c, q, m, panels, bias, rows, units, shape, a, g): h (and c) of a step from those before, p (and q), and
    from what the inputs give to the gates. Gate k lies at z + k plane of planes; m is p as it is multiplied with the recurrent kernel.
    step_backward(planes, z, plane, dh, dp, dc, h, p, c, q, room, shape, a, g): from dh the gates' gradients, in their place, and what of dp does
    not go through the recurrent kernel (=); dc becomes dq.
    products(dm, planes, z, plane, m, panels, room, rows, units, shape, g): dm += what the gates' gradients give through the recurrent kernel.
    """
    return forward_kernel(gates, kept, step_forward), backward_kernel(kept, step_backward, products)


def forward_kernel(gates: int, kept: int, step_forward: Callable[..., Any]) -> Kernel:
    """The way forward: see `recurrent`."""
    @kernel
    def forward(task: Int, tasks: Int, y: Matrix, last: Matrix, last_cell: Matrix, planes: Vector, hidden: Vector, cells: Vector, left: Vector,
                x: Tensor3, panels: Vector, recurrent_panels: Vector, bias: Vector, h0: Matrix, c0: Matrix, mask: Matrix, drop: Matrix,
                work: Matrix, shape: Sequence, a: Real, g: Real) -> None:
        """y [N T, U] of all steps, or [N, U] of the last; last, last_cell: h and c at the end, or of no rows. Reads x [N, T, I], the panels of W and
        R, bias [G U], [2 G U] (of x, of h) or empty, h0, c0 [N, U] or of no rows (0), mask [N, T] or of no rows, drop: the factors of h, likewise.

        work [groups, G U + B]. Task t covers its share of the groups. Writes y, last, last_cell, planes, hidden, cells, left (=).
        """
        N, T, _ = x.shape
        U, B, K, S = shape[UNITS], shape[ROWS], shape[KEPT], shape[BLOCK]
        groups = (N + B - 1) // B
        for group in range(groups * task // tasks, groups * (task + 1) // tasks):
            first, b = rows_of_group(group, B, N)
            n = b * U
            base, at, plane = group * kept * K * B * U, group * (K + 1) * B * U, K * n
            both = part(work, group * work.shape[1], group * work.shape[1] + gates * U)
            begins = part(work, group * work.shape[1] + gates * U, group * work.shape[1] + gates * U + b)
            add_biases(both, bias, gates, shape)
            note_begins(begins, mask, first, T, shape)
            begin_state(run(hidden, at, n), h0, first, U)
            if cells.size:
                begin_state(run(cells, at, n), c0, first, U)
            for t0 in range(0, T, S):
                slot = t0 if K == T else 0
                steps = min(S, T - t0)
                if slot < t0:                            # what is left of the steps before
                    copy_run(hidden, at, hidden, at + S * n, n)
                    if cells.size:
                        copy_run(cells, at, cells, at + S * n, n)
                project(planes, base + slot * n, plane, x, first, b, t0, steps, panels, both if bias.size else bias, gates, shape)
                for t in range(t0, t0 + steps):
                    k = slot + t - t0
                    z, hp = base + k * n, at + k * n
                    p, h = run(hidden, hp, n), run(hidden, hp + n, n)
                    q, c = (run(cells, hp, n), run(cells, hp + n, n)) if cells.size else (p, h)
                    m = p
                    if drop.size:
                        m = run(left, group * K * B * U + k * n, n)
                        multiply_runs(m, p, part(drop, first * U, first * U + n))
                    source = place(t, T, shape[BACKWARDS])
                    if all_masked(mask, first, b, source):
                        copy_run(h, 0, p, 0, n)
                        if cells.size:
                            copy_run(c, 0, q, 0, n)
                        for number in range(kept):
                            clear(run(planes, z + number * plane, n))
                    else:
                        step_forward(planes, z, plane, h, p, c, q, m, recurrent_panels, bias, b, U, shape, a, g)
                        keep_masked(h, p, mask, first, b, source, U)
                        if cells.size:
                            keep_masked(c, q, mask, first, b, source, U)
                    if shape[SEQUENCES] or t == T - 1:
                        write_output(y, h, begins, mask, first, t, T, shape)
            end = at + (T if K == T else (T - 1) % S + 1) * n
            if last.shape[0]:
                copy_run(last, first * U, hidden, end, n)
            if last_cell.shape[0]:
                copy_run(last_cell, first * U, cells, end, n)
    return forward


def backward_kernel(kept: int, step_backward: Callable[..., Any], products: Callable[..., Any]) -> Kernel:
    """The way back: see `recurrent`."""
    @kernel
    def backward(task: Int, tasks: Int, dh0: Matrix, dc0: Matrix, planes: Vector, hidden: Vector, cells: Vector, left: Vector, dy: Matrix,
                 dlast: Matrix, dlast_cell: Matrix, panels: Vector, mask: Matrix, drop: Matrix, work: Matrix, shape: Sequence, a: Real, g: Real
                 ) -> None:
        """The gates become their gradients; dh0, dc0 [N, U], or of no rows. dy, dlast, dlast_cell: of what forward writes, or of no rows; panels: of
        the transposes of R. work [groups, 6 B U + B]. Task t covers its share of the groups. Updates planes; writes dh0, dc0 (=).
        """
        N, U, B, T = shape[BATCH], shape[UNITS], shape[ROWS], shape[KEPT]
        groups = (N + B - 1) // B
        for group in range(groups * task // tasks, groups * (task + 1) // tasks):
            first, b = rows_of_group(group, B, N)
            n, w = b * U, group * work.shape[1]
            base, at, plane = group * kept * T * B * U, group * (T + 1) * B * U, T * n
            dh, dp, dc = part(work, w, w + n), part(work, w + n, w + 2 * n), part(work, w + 2 * n, w + 3 * n)
            room, dm, safe = part(work, w + 3 * n, w + 4 * n), part(work, w + 4 * n, w + 5 * n), part(work, w + 5 * n, w + 6 * n)
            begins = part(work, w + 6 * n, w + 6 * n + b)
            note_begins(begins, mask, first, T, shape)
            begin_state(dp, dlast, first, U)
            begin_state(dc, dlast_cell, first, U)
            for t in range(T - 1, -1, -1):
                z, hp = base + t * n, at + t * n
                p, h = run(hidden, hp, n), run(hidden, hp + n, n)
                q, c = (run(cells, hp, n), run(cells, hp + n, n)) if cells.size else (p, h)
                m = run(left, group * T * B * U + t * n, n) if drop.size else p
                source = place(t, T, shape[BACKWARDS])
                copy_run(dh, 0, dp, 0, n)
                if dy.shape[0] and (shape[SEQUENCES] or t == T - 1):
                    read_gradient(dh, dy, begins, mask, first, t, T, shape)
                if all_masked(mask, first, b, source):
                    copy_run(dp, 0, dh, 0, n)
                    continue
                if mask.size:
                    copy_run(safe, 0, dc, 0, n)
                step_backward(planes, z, plane, dh, dp, dc, h, p, c, q, room, shape, a, g)
                if mask.size:
                    keep_masked(dp, dh, mask, first, b, source, U)
                    keep_masked(dc, safe, mask, first, b, source, U)
                    for number in range(kept):
                        clear_masked(run(planes, z + number * plane, n), mask, first, b, source, U)
                if drop.size:
                    clear(dm)
                    products(dm, planes, z, plane, m, panels, room, b, U, shape, g)
                    add_product_of_runs(dp, dm, part(drop, first * U, first * U + n))
                else:
                    products(dp, planes, z, plane, m, panels, room, b, U, shape, g)
            if dh0.shape[0]:
                copy_run(dh0, first * U, dp, 0, n)
            if dc0.shape[0]:
                copy_run(dc0, first * U, dc, 0, n)
    return backward


# The gradients of W, R and the bias, and that of x, from the gates' gradients.

@kernel
def recurrent_weight(task: Int, tasks: Int, dweight: Matrix, drecurrent: Matrix, dbias: Vector, x: Tensor3, planes: Vector, hidden: Vector,
                     left: Vector, one: Vector, shape: Sequence, gates: Int, kept: Int, into: Int, of: Int, parts: Int, slices: Int) -> None:
    """dW = sum over rows and steps of x^T dz, dR of h^T dz, db of dz, gate by gate, of each of the slices of the groups.

    Shapes: dweight [slices I, G U], drecurrent [slices U, G U], dbias [slices G U], [slices 2 G U] or empty, x [N, T, I], one [tasks]. The last
    gate's dz for R is plane `into`; what R multiplies there is plane `of`, or (-1) h like elsewhere. A unit is a strip of columns of a gate, three
    registers wide, of a slice, in one of the `parts` into which the rows of dW and dR together are cut; the first of them has db, too. Task t
    covers its share of the units.

    Writes dweight, drecurrent, dbias (=).
    """
    N, T, I = x.shape
    above = (I + 7) // 8 * 8                             # rows of dW, rounded up so that tiles are whole
    U, B, size = shape[UNITS], shape[ROWS], itemsize(x)
    wide = 3 * lanes(x)
    strips = (U + wide - 1) // wide
    factors, kept_steps = (left, T) if left.size else (hidden, T + 1)
    one[task] = 1
    groups, biases, units = (N + B - 1) // B, dbias.size // slices, gates * strips * parts * slices
    for unit in range(units * task // tasks, units * (task + 1) // tasks):
        piece, strip, rows = unit % slices, unit // slices // parts, unit // slices % parts
        gate, u = strip // strips, strip % strips * wide
        to_weight, to_recurrent = address(dweight) + size * piece * I * gates * U, address(drecurrent) + size * piece * U * gates * U
        width, column = min(wide, U - u), gate * U + u
        last = gate == gates - 1
        start, stop = row_share(above + U, parts, rows)
        i0, i1, u0, u1 = min(start, I), min(stop, I), max(start - above, 0), max(stop - above, 0)
        begin = groups * piece // slices
        for group in range(begin, groups * (piece + 1) // slices):
            more = group > begin
            first, b = rows_of_group(group, B, N)
            base, plane = address(planes) + size * (group * kept * T * B * U), T * b * U
            dz, dr = base + size * (gate * plane + u), base + size * ((into if last else gate) * plane + u)
            m = base + size * of * plane if last and of >= 0 else address(factors) + size * group * kept_steps * B * U
            if i1 > i0:
                input_weight(to_weight + size * (i0 * gates * U + column), x, first, b, i0, i1, width, dz, gates, more, shape)
            if u1 > u0:
                out = to_recurrent + size * (u0 * gates * U + column)
                product(u1 - u0, width, T * b, m + size * u0, 1, U, dr, U, out, gates * U, out if more else 0, gates * U, x)
            for k in range(2 if rows == 0 else 0):
                if k * gates * U < biases:               # the second bias of a GRU
                    out = address(dbias) + size * (piece * biases + k * gates * U + column)
                    product(1, width, T * b, address(one) + size * task, 0, 0, dr if k else dz, U, out, U, out if more else 0, U, x)


@routine
def input_weight(out, x, first, rows, i0, i1, width, dz, gates, more, shape):
    """The rows [i0, i1) of a strip of columns of one gate's part of dW, at `out`: += a group's x^T dz, or (more False) = it."""
    _, T, I = x.shape
    U, size = shape[UNITS], itemsize(x)
    along = -I if shape[BACKWARDS] else I
    at = address(x) + size * ((first * T + place(0, T, shape[BACKWARDS])) * I + i0)
    if rows <= T:
        for r in range(rows):
            begun = out if more or r else 0
            product(i1 - i0, width, T, at + size * r * T * I, 1, along, dz + size * r * U, rows * U, out, gates * U, begun, gates * U, x)
    else:
        for t in range(T):
            begun = out if more or t else 0
            product(i1 - i0, width, rows, at + size * t * along, 1, T * I, dz + size * t * rows * U, U, out, gates * U, begun, gates * U, x)


@kernel
def recurrent_input(task: Int, tasks: Int, dx: Tensor3, planes: Vector, panels: Vector, shape: Sequence, gates: Int, kept: Int) -> None:
    """dx = sum over the gates of dz W^T. Shapes: dx [N, T, I]; panels: of the transposes of W. Task t covers its share of the groups.

    Writes dx (=).
    """
    N, T, I = dx.shape
    U, B, size = shape[UNITS], shape[ROWS], itemsize(dx)
    along = -I if shape[BACKWARDS] else I
    groups = (N + B - 1) // B
    for group in range(groups * task // tasks, groups * (task + 1) // tasks):
        first, b = rows_of_group(group, B, N)
        n = b * U
        at = address(dx) + size * (first * T + place(0, T, shape[BACKWARDS])) * I
        for gate in range(gates):
            z = address(planes) + size * (group * kept * T * B * U + gate * T * n)
            w = address(panels) + size * gate * I * U
            if b <= T:                                   # many rows for a product: of a row's steps, or of a step's rows
                for r in range(b):
                    out = at + size * r * T * I
                    product(T, I, U, z + size * r * U, n, 1, w, 0, out, along, out if gate else 0, along, dx)
            else:
                for t in range(T):
                    out = at + size * t * along
                    product(b, I, U, z + size * t * n, U, 1, w, 0, out, T * I, out if gate else 0, T * I, dx)


@kernel
def keep_state(task: Int, tasks: Int, state: Matrix, last: Matrix) -> None:
    """state = last, for the next batch. Both [N, U]. One task. Updates state (in place)."""
    copy_run(state, 0, last, 0, last.size)
