"""CUDA kernels of chains whose arrays lie in the shared memory of a block: see plan/chip.py. R rows of the batch, I inputs, O outputs of a product.

What stands there before the chain begins comes by copies that no thread waits for before `arrive`. Weights lie there with rows of `width` elements,
four times an odd number, and zeros behind the last output: threads that read four neighbouring elements each, of one row or of one column, then meet
no bank twice. All other kernels of such a chain are those that work in global memory.

A product of few rows has too few elements for the threads of a block, so several threads share each sum (`dense_forward_few`); of more rows a thread
makes a tile of TALL rows. plan/chip.py chooses, and so a launch has the code of one alone. Loops that would gain nothing from being unrolled count
by `anew`, so that the compiler does not: a launch runs once through much code, which has to be fetched.
"""

from __future__ import annotations

from nnkit.cuda_jit import THREADS, anew, barrier, copy_later, data, from_lane, kernel, registers, routine, scratch, thread, wait_for_copies
from nnkit.jit import Counters, Int, LabelMatrix, Matrix, Ordinals, Vector
from nnkit.plan.launch import TALL, WARPS
from nnkit.prims.block_cuda import divided, row_share, share
from nnkit.prims.feed_cuda import POSITION, gathering
from nnkit.prims.rows_cuda import row_of_warp, warp_lane

__all__ = [
    "arrive", "bring", "dense_backward_input", "dense_backward_input_few", "dense_backward_weight", "dense_backward_weight_few", "dense_forward",
    "dense_forward_few", "gather_labels", "gather_rows", "sum_parts",
]

QUAD = 4                                                 # neighbouring elements of a row of a weight that a thread reads at once
SHARING, SHARING_BACK = 8, 4                             # threads of a sum where rows are few, forward and backward
HIGH = 8                                                 # rows of W of a thread's tile of its gradient
BEHIND = 4                                               # parts that a thread reads before it adds the first
quad, tall, tile, sums, high = registers(QUAD), registers(TALL), registers(TALL * QUAD), registers(HIGH * QUAD), registers(HIGH)
tall_places, high_places, quad_places = registers(TALL, "int64"), registers(HIGH, "int64"), registers(QUAD, "int64")
behind = registers(BEHIND * QUAD)


# What comes on chip.

@kernel
def bring(task: Int, tasks: Int, own_weight: Matrix, own_bias: Vector, weight: Matrix, bias: Vector) -> None:
    """Copies of a weight and of a bias for the block. Shapes: own_weight [I, width], weight [I, O], own_bias and bias [O] or empty.

    A warp takes a row. Writes own_weight, as far as whole quads of outputs go, and own_bias (=), both on chip; they are there after `arrive`.
    """
    inputs, outputs = weight.shape
    width, to, source = own_weight.shape[1], data(own_weight), data(weight)
    end = (outputs + QUAD - 1) // QUAD * QUAD
    i = row_of_warp()
    while i < inputs:
        o = warp_lane()
        while o < end:
            copy_later(to, i * width + o, source, i * outputs + o if o < outputs else 0, o < outputs)
            o = anew(o + 32)
        i = anew(i + WARPS)
    o = thread()
    while o < bias.size:
        copy_later(data(own_bias), o, data(bias), o, True)
        o = anew(o + THREADS)


@routine
def put_later(ys, i, xs, at):
    """ys[i] = xs[at], after `arrive`."""
    copy_later(ys, i, xs, at, True)


@routine
def next_of(i):
    """The same thread's next element, in a loop that is not unrolled."""
    return anew(i + THREADS)


gather = gathering(put_later, next_of)


@kernel
def gather_rows(task: Int, tasks: Int, y: Matrix, x: Matrix, order: Ordinals, counters: Counters) -> None:
    """prims.feed.gather_rows where y [N, F] lies on chip; it is there after `arrive`."""
    gather(y, x, order, data(counters)[POSITION], task, tasks)


@kernel
def gather_labels(task: Int, tasks: Int, y: LabelMatrix, x: LabelMatrix, order: Ordinals, counters: Counters) -> None:
    """The same for labels."""
    gather(y, x, order, data(counters)[POSITION], task, tasks)


bring.where, gather_rows.where, gather_labels.where = "ww--", "r---", "r---"           # nothing can be copied later to global memory


@kernel
def arrive(task: Int, tasks: Int) -> None:
    """Wait for all that was brought."""
    wait_for_copies()


# Products. Row-local; a task's rows are its share.

@routine
def one_of(s, a, b, c, d):
    """The one of four numbers whose place is s."""
    return a if s == 0 else b if s == 1 else c if s == 2 else d


@routine
def over_four(value):
    """The sum over four neighbouring lanes."""
    value += from_lane(value, 1)
    return value + from_lane(value, 2)


@routine
def forward_few(start, stop, outputs, inputs, ys, xs, ws, width, bias, like):
    """QUAD elements of a row for SHARING threads, of which the s-th takes k = s, s + SHARING, ...; then a tree over them."""
    T, own, shifts = like.dtype.type, quad(like), data(bias)
    quads, s = (outputs + QUAD - 1) // QUAD, thread() % SHARING
    count, whole = (stop - start) * quads, inputs // (4 * SHARING) * (4 * SHARING)
    for first in range(0, count, THREADS // SHARING):    # warps stay whole: their lanes exchange sums
        e = first + thread() // SHARING
        row, j = divided(min(e, count - 1), quads)
        at, column = (start + row) * inputs, QUAD * j
        for u in range(QUAD):
            own[u] = T(0)
        k = s
        while k < whole:
            for v in range(4):
                for u in range(QUAD):
                    own[u] += xs[at + k + v * SHARING] * ws[(k + v * SHARING) * width + column + u]
            k = anew(k + 4 * SHARING)
        while k < inputs:
            for u in range(QUAD):
                own[u] += xs[at + k] * ws[k * width + column + u]
            k = anew(k + SHARING)
        for u in range(QUAD):
            own[u] = over_four(own[u])
            own[u] += from_lane(own[u], 4)
        if e < count and s < QUAD and column + s < outputs:
            total = one_of(s, own[0], own[1], own[2], own[3])
            ys[(start + row) * outputs + column + s] = total + shifts[column + s] if bias.size else total


@routine
def forward_many(start, stop, outputs, inputs, ys, xs, ws, width, bias, like):
    """TALL rows by QUAD columns for a thread, k in ascending order."""
    T, own, left, right, at, shifts = like.dtype.type, tile(like), tall(like), quad(like), tall_places(like), data(bias)
    quads = (outputs + QUAD - 1) // QUAD
    for e in range(thread(), (stop - start + TALL - 1) // TALL * quads, THREADS):
        group, j = divided(e, quads)
        row, column = start + TALL * group, QUAD * j
        for i in range(TALL):
            at[i] = min(row + i, stop - 1) * inputs
            for u in range(QUAD):
                own[i * QUAD + u] = shifts[min(column + u, outputs - 1)] if bias.size else T(0)
        for k in range(inputs):                          # which gains from being unrolled
            for u in range(QUAD):
                right[u] = ws[k * width + column + u]
            for i in range(TALL):
                left[i] = xs[at[i] + k]
            for i in range(TALL):
                for u in range(QUAD):
                    own[i * QUAD + u] += left[i] * right[u]
        for i in range(TALL):
            for u in range(QUAD):
                if row + i < stop and column + u < outputs:
                    ys[(row + i) * outputs + column + u] = own[i * QUAD + u]


@kernel
def dense_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, weight: Matrix, bias: Vector) -> None:
    """y = x W + b. Shapes: y [R, O], x [R, I], weight [I, width], bias [O] or empty. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    width = weight.shape[1] // QUAD * QUAD               # which it is: so it is known that four elements are aligned
    forward_many(start, stop, y.shape[1], x.shape[1], data(y), data(x), data(weight), width, bias, y)


@kernel
def dense_forward_few(task: Int, tasks: Int, y: Matrix, x: Matrix, weight: Matrix, bias: Vector) -> None:
    """The same for tasks of few rows."""
    start, stop = row_share(y.shape[0], tasks, task)
    forward_few(start, stop, y.shape[1], x.shape[1], data(y), data(x), data(weight), weight.shape[1] // QUAD * QUAD, bias, y)


@routine
def backward_few(start, stop, inputs, outputs, dxs, dys, ws, width, like):
    """An element for SHARING_BACK threads, of which the s-th takes the quads s, s + SHARING_BACK, ... of W's row; then a tree over them."""
    T = like.dtype.type
    s, count, whole = thread() % SHARING_BACK, (stop - start) * inputs, outputs // QUAD * QUAD
    for first in range(0, count, THREADS // SHARING_BACK):
        e = first + thread() // SHARING_BACK
        row, i = divided(min(e, count - 1), inputs)
        at, total = (start + row) * outputs, T(0)
        o = QUAD * s
        while o < whole:
            for u in range(QUAD):
                total += dys[at + o + u] * ws[i * width + o + u]
            o = anew(o + QUAD * SHARING_BACK)
        if whole + s < outputs:
            total += dys[at + whole + s] * ws[i * width + whole + s]
        total = over_four(total)
        if e < count and s == 0:
            dxs[(start + row) * inputs + i] = total


@routine
def backward_many(start, stop, inputs, outputs, dxs, dys, ws, width, like):
    """TALL rows by QUAD columns, a quarter of all columns apart, for a thread; the outputs in ascending order."""
    T, own, edge, at, rows_of_w = like.dtype.type, tile(like), tile(like), tall_places(like), quad_places(like)
    quarter, whole = (inputs + QUAD - 1) // QUAD, outputs // QUAD * QUAD
    for e in range(thread(), (stop - start + TALL - 1) // TALL * quarter, THREADS):
        group, c = divided(e, quarter)
        row = start + TALL * group
        for i in range(TALL):
            at[i], rows_of_w[i] = min(row + i, stop - 1) * outputs, min(c + i * quarter, inputs - 1) * width
        for i in range(TALL * QUAD):
            own[i] = T(0)
        for o in range(0, whole, QUAD):
            for m in range(QUAD):
                for u in range(QUAD):
                    edge[m * QUAD + u] = ws[rows_of_w[m] + o + u]
            for i in range(TALL):
                for u in range(QUAD):
                    value = dys[at[i] + o + u]
                    for m in range(QUAD):
                        own[i * QUAD + m] += value * edge[m * QUAD + u]
        for o in range(whole, outputs):
            for i in range(TALL):
                for m in range(QUAD):
                    own[i * QUAD + m] += dys[at[i] + o] * ws[rows_of_w[m] + o]
        for i in range(TALL):
            for m in range(QUAD):
                if row + i < stop and c + m * quarter < inputs:
                    dxs[(row + i) * inputs + c + m * quarter] = own[i * QUAD + m]


@kernel
def dense_backward_input(task: Int, tasks: Int, dx: Matrix, dy: Matrix, weight: Matrix) -> None:
    """dx = dy W^T. Shapes: dx [R, I], dy [R, O], weight [I, width]. Row-local. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    backward_many(start, stop, dx.shape[1], dy.shape[1], data(dx), data(dy), data(weight), weight.shape[1] // QUAD * QUAD, dx)


@kernel
def dense_backward_input_few(task: Int, tasks: Int, dx: Matrix, dy: Matrix, weight: Matrix) -> None:
    """The same for tasks of few rows."""
    start, stop = row_share(dx.shape[0], tasks, task)
    backward_few(start, stop, dx.shape[1], dy.shape[1], data(dx), data(dy), data(weight), weight.shape[1] // QUAD * QUAD, dx)


@kernel
def dense_backward_weight(task: Int, tasks: Int, parts: Matrix, x: Matrix, dy: Matrix, first: Int, last: Int, first_bias: Int, last_bias: Int
                          ) -> None:
    """What the task's rows add to dW = x^T dy and db = sum of dy: parts[task, first : last] and parts[task, first_bias : last_bias], 0 behind their
    I O and O elements.

    Shapes: parts [tasks, S], x [R, I], dy [R, O]; first_bias = last_bias: there is no bias. A thread makes HIGH rows by QUAD columns, a quarter of
    all columns apart; rows of x in ascending order. Writes these elements of parts (=).
    """
    start, stop = row_share(x.shape[0], tasks, task)
    inputs, outputs = x.shape[1], dy.shape[1]
    T, own, left, right, rows, columns = parts.dtype.type, sums(parts), high(parts), quad(parts), high_places(parts), quad_places(parts)
    to, xs, dys, quarter = data(parts), data(x), data(dy), (outputs + QUAD - 1) // QUAD
    at = task * parts.shape[1]
    for e in range(thread(), (inputs + HIGH - 1) // HIGH * quarter, THREADS):
        group, c = divided(e, quarter)
        for i in range(HIGH):
            rows[i] = min(HIGH * group + i, inputs - 1)
        for m in range(QUAD):
            columns[m] = min(c + m * quarter, outputs - 1)
        for i in range(HIGH * QUAD):
            own[i] = T(0)
        r = start
        while r < stop:
            for i in range(HIGH):
                left[i] = xs[r * inputs + rows[i]]
            for m in range(QUAD):
                right[m] = dys[r * outputs + columns[m]]
            for i in range(HIGH):
                for m in range(QUAD):
                    own[i * QUAD + m] += left[i] * right[m]
            r = anew(r + 1)
        for i in range(HIGH):
            for m in range(QUAD):
                if HIGH * group + i < inputs and c + m * quarter < outputs:
                    to[at + first + (HIGH * group + i) * outputs + c + m * quarter] = own[i * QUAD + m]
    behind_weight = first + inputs * outputs + thread()
    if behind_weight < last:                             # less than a line of memory
        to[at + behind_weight] = T(0)
    o = thread()
    while o < last_bias - first_bias:
        total, r = T(0), start
        while r < stop and o < outputs:
            total += dys[r * outputs + o]
            r = anew(r + 1)
        to[at + first_bias + o] = total
        o = anew(o + THREADS)


@kernel
def dense_backward_weight_few(task: Int, tasks: Int, parts: Matrix, x: Matrix, dy: Matrix, first: Int, last: Int, first_bias: Int, last_bias: Int
                              ) -> None:
    """The same for tasks of TALL rows at most: a lane keeps a column of dy, a warp goes through rows of W. Of rows that are
    missing the last one is read and not added, for 0 times an infinite number would be NaN."""
    start, stop = row_share(x.shape[0], tasks, task)
    inputs, outputs = x.shape[1], dy.shape[1]
    T, own, at = parts.dtype.type, tall(parts), tall_places(parts)
    to, xs, dys, begin, end = data(parts), data(x), data(dy), task * parts.shape[1], max(stop, 1) - 1
    for r in range(TALL):
        at[r] = min(start + r, end) * inputs
    column = warp_lane()
    while column < outputs:
        total = T(0)
        for r in range(TALL):
            value = dys[min(start + r, end) * outputs + column]
            own[r] = value if start + r < stop else T(0)
            total += own[r]
        if row_of_warp() == 0 and first_bias < last_bias:
            to[begin + first_bias + column] = total
        i = row_of_warp()
        while i < inputs:
            total = T(0)
            for r in range(TALL):
                value = xs[at[r] + i]
                total += (value if start + r < stop else T(0)) * own[r]
            to[begin + first + i * outputs + column] = total
            i += WARPS
        column = anew(column + 32)
    behind_weight, behind_bias = first + inputs * outputs + thread(), first_bias + outputs + thread()
    if behind_weight < last:                             # less than a line of memory, both
        to[begin + behind_weight] = T(0)
    if behind_bias < last_bias:
        to[begin + behind_bias] = T(0)


@kernel
def sum_parts(task: Int, tasks: Int, gradient: Vector, parts: Matrix, first: Int) -> None:
    """gradient[p] = the sum of parts[k, first + p] over k. Shapes: gradient [P], parts [K, S].

    Task t covers its share of the elements. A thread takes QUAD of them and every eighth k; then the warps' sums in their order. Writes gradient (=).
    """
    start, stop = share(gradient.size, tasks, task)
    T, own, coming, place = gradient.dtype.type, quad(gradient), behind(gradient), scratch(gradient)
    K, S = parts.shape
    warp, lane, xs = row_of_warp(), warp_lane(), data(parts)
    for at in range(start, stop, 32 * QUAD):
        for u in range(QUAD):
            own[u] = T(0)
        for k in range(warp, K, BEHIND * WARPS):
            for v in range(BEHIND):
                for u in range(QUAD):
                    coming[v * QUAD + u] = xs[min(k + v * WARPS, K - 1) * S + first + min(at + 32 * u + lane, stop - 1)]
            for v in range(BEHIND):
                for u in range(QUAD):
                    own[u] += coming[v * QUAD + u] if k + v * WARPS < K else T(0)
        barrier()                                        # whoever used the scratch before is done
        for u in range(QUAD):
            place[(warp * QUAD + u) * 32 + lane] = own[u]
        barrier()
        if warp < QUAD and at + thread() < stop:
            total = place[thread()]
            for w in range(1, WARPS):
                total += place[w * QUAD * 32 + thread()]
            data(gradient)[at + thread()] = total
