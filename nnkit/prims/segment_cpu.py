"""The largest number over the entries of each row of a sparse matrix; sums, means and largest numbers over runs of rows (graphs of a batch).

Letters of csr_cpu.py; V nodes, G runs: nodes segments[g] <= v < segments[g + 1] belong to graph g.
"""

from __future__ import annotations

from nnkit.jit import Int, LabelMatrix, Labels, Matrix, Ordinals, kernel, routine
from nnkit.prims.csr_cpu import row_cut

__all__ = ["csr_max_backward", "csr_max_forward", "segment_max_backward", "segment_max_forward", "segment_mean_backward", "segment_mean_forward",
           "segment_sum_backward", "segment_sum_forward"]


@kernel
def csr_max_forward(task: Int, tasks: Int, y: Matrix, best: LabelMatrix, starts: Ordinals, columns: Labels, x: Matrix) -> None:
    """y[i, f] = the largest of x[columns[e], f] over the entries e of row i, best[i, f] = the first e that has it; 0 and -1 where there is none.
    Shapes: y, best [R, F], starts [R + 1], columns [E], x [C, F]. The first NaN counts as the largest. Task t covers its rows.
    Writes y, best (=)."""
    F = y.shape[1]
    T = y.dtype.type
    for i in range(row_cut(starts, tasks, task), row_cut(starts, tasks, task + 1)):
        for f in range(F):
            top, place = T(0), -1
            for e in range(starts[i], starts[i + 1]):
                found = x[columns[e], f]
                if place < 0 or found > top or (found != found and top == top):
                    top, place = found, e
            y[i, f] = top
            best[i, f] = place


@kernel
def csr_max_backward(task: Int, tasks: Int, dx: Matrix, starts_t: Ordinals, columns_t: Labels, places: Labels, best: LabelMatrix, dy: Matrix) -> None:
    """dx[j, f] = the sum of dy[i, f] over the entries e of row j of the transpose, i = columns_t[e], of which best[i, f] == places[e].
    Shapes: dx [C, F], starts_t [C + 1], columns_t, places [E], best, dy [R, F]. Task t covers its rows of the transpose. Writes dx (=)."""
    F = dx.shape[1]
    T = dx.dtype.type
    for j in range(row_cut(starts_t, tasks, task), row_cut(starts_t, tasks, task + 1)):
        for f in range(F):
            total = T(0)
            for e in range(starts_t[j], starts_t[j + 1]):
                i = columns_t[e]
                total += dy[i, f] if best[i, f] == places[e] else T(0)
            dx[j, f] = total


@routine
def rows_share(V, segments, tasks, task):
    """(first row, last row, graph of the first row) of a task that covers its share of V rows; the graph is -1 or G where the row is in none."""
    G = segments.size - 1
    first, last = V * task // tasks, V * (task + 1) // tasks
    low, high = 0, G + 1
    while low < high:
        g = (low + high) // 2
        if segments[g] <= first:
            low = g + 1
        else:
            high = g
    return first, last, low - 1


@kernel
def segment_sum_forward(task: Int, tasks: Int, y: Matrix, segments: Ordinals, x: Matrix) -> None:
    """y[g] = the sum of x[v] over the nodes of graph g, in their order. Shapes: y [G, F], segments [G + 1], x [V, F]. Task t covers its share
    of the numbers of y. Writes y (=)."""
    G, F = y.shape
    T = y.dtype.type
    for k in range(G * F * task // tasks, G * F * (task + 1) // tasks):
        g, f = k // F, k % F
        total = T(0)
        for v in range(segments[g], segments[g + 1]):
            total += x[v, f]
        y[g, f] = total


@kernel
def segment_sum_backward(task: Int, tasks: Int, dx: Matrix, segments: Ordinals, dy: Matrix) -> None:
    """dx[v] = dy[g] for the nodes of graph g, 0 for nodes of none. Shapes as above. Task t covers its share of the nodes. Writes dx (=)."""
    V, F = dx.shape
    G = dy.shape[0]
    T = dx.dtype.type
    first, last, g = rows_share(V, segments, tasks, task)
    for v in range(first, last):
        while g < G and v >= segments[g + 1]:
            g += 1
        for f in range(F):
            dx[v, f] = dy[g, f] if 0 <= g < G else T(0)


@kernel
def segment_mean_forward(task: Int, tasks: Int, y: Matrix, segments: Ordinals, x: Matrix) -> None:
    """y[g] = the mean of x[v] over the nodes of graph g, 0 where it has none. Otherwise as segment_sum_forward."""
    G, F = y.shape
    T = y.dtype.type
    for k in range(G * F * task // tasks, G * F * (task + 1) // tasks):
        g, f = k // F, k % F
        total = T(0)
        for v in range(segments[g], segments[g + 1]):
            total += x[v, f]
        y[g, f] = total / T(max(1, segments[g + 1] - segments[g]))


@kernel
def segment_mean_backward(task: Int, tasks: Int, dx: Matrix, segments: Ordinals, dy: Matrix) -> None:
    """dx[v] = dy[g] / number of nodes of graph g, for those nodes; 0 for nodes of none. Otherwise as segment_sum_backward."""
    V, F = dx.shape
    G = dy.shape[0]
    T = dx.dtype.type
    first, last, g = rows_share(V, segments, tasks, task)
    for v in range(first, last):
        while g < G and v >= segments[g + 1]:
            g += 1
        for f in range(F):
            dx[v, f] = dy[g, f] / T(segments[g + 1] - segments[g]) if 0 <= g < G else T(0)


@kernel
def segment_max_forward(task: Int, tasks: Int, y: Matrix, best: LabelMatrix, segments: Ordinals, x: Matrix) -> None:
    """y[g, f] = the largest of x[v, f] over the nodes of graph g, best[g, f] = the first v that has it; 0 and -1 where there is none. The first
    NaN counts as the largest. Shapes: y, best [G, F], segments [G + 1], x [V, F]. Task t covers its share of the numbers. Writes y, best (=)."""
    G, F = y.shape
    T = y.dtype.type
    for k in range(G * F * task // tasks, G * F * (task + 1) // tasks):
        g, f = k // F, k % F
        top, place = T(0), -1
        for v in range(segments[g], segments[g + 1]):
            found = x[v, f]
            if place < 0 or found > top or (found != found and top == top):
                top, place = found, v
        y[g, f] = top
        best[g, f] = place


@kernel
def segment_max_backward(task: Int, tasks: Int, dx: Matrix, segments: Ordinals, best: LabelMatrix, dy: Matrix) -> None:
    """dx[v, f] = dy[g, f] where best[g, f] == v, else 0. Shapes: dx [V, F], best, dy [G, F]. Task t covers its share of the nodes.
    Writes dx (=)."""
    V, F = dx.shape
    G = dy.shape[0]
    T = dx.dtype.type
    first, last, g = rows_share(V, segments, tasks, task)
    for v in range(first, last):
        while g < G and v >= segments[g + 1]:
            g += 1
        for f in range(F):
            dx[v, f] = dy[g, f] if 0 <= g < G and best[g, f] == v else T(0)
