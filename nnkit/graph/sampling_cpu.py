"""Kernels that sample neighbours and gather the rows of what was sampled.

V nodes and E entries of the graph (row i gathers from its columns), B seeds of a batch, H hops, N sampled nodes at most, M sampled entries at
most, F numbers of a row. Sampled nodes are numbered in the order in which they are reached, the seeds first; so the entries of hop after hop, row
after row, are the rows of a CSR matrix already. `counters` and `bounds` are laid out as graph.sampling says.

Random words: Philox of (seed, stream; number of the node in its batch, block of four draws, step, upper half of the seed), so what is drawn
depends on neither tasks nor threads. A place below n is the high half of (32 random bits) n: its chances differ by at most n / 2^32.
"""

from __future__ import annotations

import numpy as np

from nnkit.graph.sampling import CHUNK, COUNTERS, STREAMS
from nnkit.jit import Doubles, Int, Labels, Matrix, Ordinals, kernel, routine
from nnkit.philox import philox
from nnkit.prims.feed_cpu import copy_row
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.simd_cpu import address, itemsize, part, prefetch_run

__all__ = [
    "below", "draw_neighbors", "find_places", "gather", "merge_repeated", "number_found", "number_seeds", "sort_rows", "sum_counts", "take_counts",
]

SEED, STEP, BASE, NEIGHBORS = COUNTERS["seed"], COUNTERS["step"], COUNTERS["base"], STREAMS["neighbors"]
AHEAD = 16                                               # how many rows or numbers ahead memory is asked for
LONG = 64                                                # numbers of a row from which on asking ahead pays
SHORT = 24                                               # rows up to this length are sorted by insertion


@kernel
def number_seeds(task: Int, tasks: Int, nodes: Labels, bounds: Ordinals, starts: Ordinals, slots: Labels, seeds: Labels, counters: Ordinals) -> None:
    """nodes[:B] = seeds; slots[v] = base + the number of node v, of which what lies below the base is left from earlier batches.

    Shapes: nodes [N + 1], bounds [H + 2], starts [N + 1], slots [V], seeds [B]. One task. Writes the first parts of nodes, bounds and starts (=), and
    the seeds' slots (=).
    """
    for i in range(seeds.size):
        nodes[i] = seeds[i]
        slots[seeds[i]] = counters[BASE] + i
    bounds[0], bounds[1], starts[0] = 0, seeds.size, 0


@kernel
def take_counts(task: Int, tasks: Int, counts: Ordinals, first: Labels, degrees: Labels, bounds: Ordinals, nodes: Labels, graph_starts: Ordinals,
                hop: Int, fan_out: Int, replace: Int) -> None:
    """counts[i + 1] = how many neighbours of node i will be drawn, for the nodes that the hop before has reached: fan_out, or all where there are
    fewer (unless `replace` and there is one) or fan_out is -1. first: its first entry in the graph; degrees: how many it has there.

    Shapes: counts [N + 1], first, degrees, nodes [N], graph_starts [V + 1]. A task covers its share of these nodes. Writes their places (=).
    """
    start, stop = row_share(bounds[hop + 1] - bounds[hop], tasks, task)
    for i in range(bounds[hop] + start, bounds[hop] + stop):
        begin = graph_starts[nodes[i]]
        degree = graph_starts[nodes[i] + 1] - begin
        first[i], degrees[i] = begin, degree
        least = fan_out if replace and degree > 0 else degree
        counts[i + 1] = degree if fan_out < 0 else min(least, fan_out)


@kernel
def sum_counts(task: Int, tasks: Int, starts: Ordinals, bounds: Ordinals, hop: Int) -> None:
    """Make the counts of the hop's rows into where their entries start. One task. Updates starts."""
    total = starts[bounds[hop]]
    for i in range(bounds[hop], bounds[hop + 1]):
        total += starts[i + 1]
        starts[i + 1] = total


@routine
def fill_words(words, first, blocks, seed, step):
    """words[4 b + l, i] = the l-th random word of block b of node first + i, as planes of CHUNK: a vector loop over the nodes."""
    for b in range(blocks):
        w0, w1 = part(words, 4 * b * CHUNK, (4 * b + 1) * CHUNK), part(words, (4 * b + 1) * CHUNK, (4 * b + 2) * CHUNK)
        w2, w3 = part(words, (4 * b + 2) * CHUNK, (4 * b + 3) * CHUNK), part(words, (4 * b + 3) * CHUNK, (4 * b + 4) * CHUNK)
        for i in range(CHUNK):
            w0[i], w1[i], w2[i], w3[i] = philox(seed, NEIGHBORS, first + i, b, step, seed >> 32)


@routine
def largest(degrees):
    """The largest of these numbers, or 0."""
    most = np.int32(0)
    for i in range(degrees.size):
        most = max(most, degrees[i])
    return most


@routine
def below(word, n):
    """A random place from 0 to n - 1 of a random word."""
    return (np.int64(np.uint32(word)) * n) >> 32


@routine
def choose(places, words, i, degree):
    """places = distinct numbers below `degree`, every set of them equally likely (Floyd; Bentley and Floyd, CACM 30, 1987)."""
    for k in range(places.size):
        top = degree - places.size + k
        t = below(words[k * CHUNK + i], top + 1)
        known = False
        for j in range(k):
            known |= places[j] == t
        places[k] = top if known else t


@kernel
def draw_neighbors(task: Int, tasks: Int, places: Labels, found: Labels, starts: Ordinals, first: Labels, degrees: Labels, bounds: Ordinals,
                   columns: Labels, counters: Ordinals, words: Labels, hop: Int, fan_out: Int, replace: Int) -> None:
    """places = entries of the graph that are drawn for the hop's rows, each once unless `replace`; found = their columns.

    Shapes: places, found [M], starts [N + 1], first, degrees [N], columns [E]. Scratch: words [tasks * 4 ceil(fan_out / 4) CHUNK].
    A task covers its share of the rows. Writes the entries of these rows (=).
    """
    start, stop = row_share(bounds[hop + 1] - bounds[hop], tasks, task)
    start, stop = bounds[hop] + start, bounds[hop] + stop
    blocks = (max(fan_out, 0) + 3) // 4
    own = part(words, task * 4 * blocks * CHUNK, (task + 1) * 4 * blocks * CHUNK)
    for chunk in range(start, stop, CHUNK):
        end = min(chunk + CHUNK, stop)
        if replace or largest(part(degrees, chunk, end)) > fan_out:
            fill_words(own, chunk, blocks, counters[SEED], counters[STEP])
        for i in range(chunk, end):
            row = part(places, starts[i], starts[i + 1])
            if replace:
                for k in range(row.size):
                    row[k] = first[i] + below(own[k * CHUNK + i - chunk], np.int64(degrees[i]))
            elif row.size < degrees[i]:
                choose(row, own, i - chunk, np.int64(degrees[i]))
                for k in range(row.size):
                    row[k] += first[i]
                    prefetch_run(address(columns) + 4 * row[k], 1, columns)
            else:
                for k in range(row.size):
                    row[k] = first[i] + k
        for e in range(starts[chunk], starts[end]):
            found[e] = columns[places[e]]


@kernel
def number_found(task: Int, tasks: Int, nodes: Labels, found: Labels, slots: Labels, bounds: Ordinals, starts: Ordinals, counters: Ordinals,
                 hop: Int) -> None:
    """found = the numbers of the nodes found in this hop; a node that is met for the first time gets the next one, and its place in `nodes`.

    Shapes: nodes [N + 1], found [M], slots [V]. Without branches, since nobody can foretell them. One task. Updates nodes, found, slots, bounds;
    the rows of nodes that will not be expanded are left empty by `find_places`.
    """
    base = counters[BASE]
    n = bounds[hop + 1]
    last = starts[bounds[hop + 1]]
    for e in range(starts[bounds[hop]], last):
        prefetch_run(address(slots) + 4 * found[min(e + AHEAD, last - 1)], 1, slots)
        v = found[e]
        number = slots[v] - base
        known = number >= 0
        number = number if known else n
        slots[v] = base + number
        nodes[n] = v
        found[e] = number
        n += not known
    bounds[hop + 2] = n


@kernel
def find_places(task: Int, tasks: Int, y: Ordinals, starts: Ordinals, bounds: Ordinals, hops: Int) -> None:
    """y = where the rows of the batch start: those of the nodes reached last, and of the padding, are empty. Shapes: y [P + 1], starts [N + 1].
    A task covers its share. Writes y (=)."""
    start, stop = row_share(y.size, tasks, task)
    for i in range(start, stop):
        y[i] = starts[min(i, bounds[hops])]


@routine
def sift(keys, items, i, n):
    """Let the key at i sink to its place in a heap of n, its item with it."""
    key, item = keys[i], items[i]
    while 2 * i + 1 < n:
        child = 2 * i + 1
        child += child + 1 < n and keys[child + 1] > keys[child]
        if keys[child] <= key:
            break
        keys[i], items[i] = keys[child], items[child]
        i = child
    keys[i], items[i] = key, item


@routine
def sort_pairs(keys, items):
    """Sort distinct keys, their items with them: by insertion, which nearly sorted rows need, or, long ones, by a heap."""
    n = keys.size
    if n > SHORT:
        for i in range(n // 2 - 1, -1, -1):
            sift(keys, items, i, n)
        for i in range(n - 1, 0, -1):
            keys[0], keys[i] = keys[i], keys[0]
            items[0], items[i] = items[i], items[0]
            sift(keys, items, 0, i)
        return
    for i in range(1, n):
        key, item = keys[i], items[i]
        j = i
        while j > 0 and keys[j - 1] > key:
            keys[j], items[j] = keys[j - 1], items[j - 1]
            j -= 1
        keys[j], items[j] = key, item


@kernel
def sort_rows(task: Int, tasks: Int, y: Labels, found: Labels, places: Labels, starts: Ordinals, bounds: Ordinals, hops: Int) -> None:
    """y = the columns of the batch, sorted within each row, 0 behind the last; places go along. Shapes: y [Q], found, places [M], starts [N + 1].
    A task covers its share of the rows, the last one the padding, too. Writes y (=); updates the rows of found and places."""
    start, stop = row_share(bounds[hops], tasks, task)
    for i in range(start, stop):
        sort_pairs(part(found, starts[i], starts[i + 1]), part(places, starts[i], starts[i + 1]))
        for e in range(starts[i], starts[i + 1]):
            y[e] = found[e]
    if task == tasks - 1:
        for e in range(starts[bounds[hops]], y.size):
            y[e] = 0


@kernel
def merge_repeated(task: Int, tasks: Int, y: Ordinals, columns: Labels, times: Doubles, places: Labels, found: Labels, starts: Ordinals,
                   bounds: Ordinals, hops: Int) -> None:
    """Make each run of equal columns in the sorted rows one entry: y = where rows then start, columns, and how many times each was drawn.

    Shapes: y [P + 1], columns, times [Q], found, places [M], starts [N + 1]. One task. Writes y, columns, times (=); moves places along.
    """
    n = 0
    for i in range(bounds[hops]):
        y[i] = n
        for e in range(starts[i], starts[i + 1]):
            if e > starts[i] and found[e] == found[e - 1]:
                times[n - 1] += 1.0
            else:
                columns[n], places[n], times[n] = found[e], places[e], 1.0
                n += 1
    for i in range(bounds[hops], y.size):
        y[i] = n
    for e in range(n, columns.size):
        columns[e], times[e] = 0, 0.0


@kernel
def gather(task: Int, tasks: Int, y: Matrix, x: Matrix, indices: Labels, rows: Ordinals) -> None:
    """y[i] = x[indices[i]] for i < rows[-1], 0 behind. Shapes: y [P, F], x [V, F], indices [at least the last of `rows`].
    A task covers its share of the rows of y. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    count = rows[rows.size - 1]
    F, row = y.shape[1], itemsize(y) * y.shape[1]
    own = part(indices, start, max(start, min(stop, count)))
    target, source = address(y) + start * row, address(x)
    if F == 1:
        for i in range(own.size):
            y[start + i, 0] = x[own[i], 0]
    elif F == 2:
        for i in range(own.size):
            y[start + i, 0], y[start + i, 1] = x[own[i], 0], x[own[i], 1]
    elif F <= LONG:
        for i in range(own.size):
            copy_row(target + i * row, source + own[i] * row, F, y)
    else:
        for i in range(own.size):
            prefetch_run(source + own[min(i + AHEAD, own.size - 1)] * row, F, x)
            copy_row(target + i * row, source + own[i] * row, F, y)
    for i in range(max(start, count), stop):
        for f in range(F):
            y[i, f] = 0
