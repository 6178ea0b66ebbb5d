"""The matrix product of dense, convolution and recurrent layers: C = C0 + A B, register-blocked.

M rows, N columns, K depth. Blocks of DEPTH along K keep B's part in the second-level cache; bands of rows keep A's part there while the panels
of B pass by. Where many rows share a panel it is first copied to the stack, row behind row: in a matrix whose rows are a power of two apart the
panel's rows would fall into few sets of the cache. An element of C is summed in order of k by fma, whatever tile it falls in: the bits do not
depend on how rows are shared among tasks.
"""

from __future__ import annotations

from nnkit.jit import Int, Matrix, kernel, routine, shared, vector_bytes
from nnkit.prims.simd_cpu import LANES32, address, copy_masked, itemsize, lanes, micro, stack_memory, transpose_tile

__all__ = ["product", "row_share", "transpose"]

# Rows of the main tile: 8 x 3 accumulators where there are 32 vector registers (AVX-512, NEON), 4 x 3 where there are 16 (AVX2).
ROWS = 4 if vector_bytes() == 32 else 8
HALF = ROWS // 2
DEPTH = 256
BAND, WIDE_BAND = 96, 384                                # rows of a band; of one that shares copied panels
FAR = 4096                                               # bytes between two rows of B from which on copying a panel pays (1024^3: 97 -> 101 GFLOP/s)

full3 = micro(ROWS, 3, masked=False)
edge3, edge2, edge1 = micro(ROWS, 3, masked=True), micro(ROWS, 2, masked=True), micro(ROWS, 1, masked=True)
half2, half1 = micro(HALF, 2, masked=True), micro(HALF, 1, masked=True)
row2, row1 = micro(1, 2, masked=True), micro(1, 1, masked=True)
panel_memory = stack_memory(DEPTH * 3 * LANES32)         # enough for float64, too: half the lanes


@routine
def row_share(n, tasks, task):
    """The rows [start, stop) of task `task` of `tasks`, cut at multiples of 8 so that few tiles are torn."""
    blocks = (n + 7) // 8
    return min(n, blocks * task // tasks * 8), min(n, blocks * (task + 1) // tasks * 8)


@routine
def panel(m, n, depth, a, rsa, csa, b, rsb, c, rsc, c0, rs0, like):
    """C = C0 + A B for n <= 3 registers of columns: tiles of ROWS rows, then of HALF, then single rows."""
    size, lane = itemsize(like), lanes(like)
    i = 0
    while i < m:
        ai, ci = a + size * i * rsa, c + size * i * rsc
        si = c0 + size * i * rs0 if c0 != 0 else 0
        if m - i >= ROWS:
            if n == 3 * lane:
                full3(depth, ai, rsa, csa, b, rsb, ci, rsc, si, rs0, n, like)
            elif n > 2 * lane:
                edge3(depth, ai, rsa, csa, b, rsb, ci, rsc, si, rs0, n, like)
            elif n > lane:
                edge2(depth, ai, rsa, csa, b, rsb, ci, rsc, si, rs0, n, like)
            else:
                edge1(depth, ai, rsa, csa, b, rsb, ci, rsc, si, rs0, n, like)
            i += ROWS
            continue
        for j in range(0, n, 2 * lane):
            bj, cj, sj = b + size * j, ci + size * j, si + size * j if si != 0 else 0
            width = n - j
            if m - i >= HALF:
                if width > lane:
                    half2(depth, ai, rsa, csa, bj, rsb, cj, rsc, sj, rs0, width, like)
                else:
                    half1(depth, ai, rsa, csa, bj, rsb, cj, rsc, sj, rs0, width, like)
            elif width > lane:
                row2(depth, ai, rsa, csa, bj, rsb, cj, rsc, sj, rs0, width, like)
            else:
                row1(depth, ai, rsa, csa, bj, rsb, cj, rsc, sj, rs0, width, like)
        i += HALF if m - i >= HALF else 1


@routine
def copy_panel(y, x, rsx, rows, columns, like):
    """y = x, rows x columns, at most 3 registers of columns; y's rows are 3 registers apart."""
    size, lane = itemsize(like), lanes(like)
    for k in range(rows):
        for j in range(0, columns, lane):
            copy_masked(y + size * (3 * k * lane + j), x + size * (k * rsx + j), columns - j, like)


@shared
def product(m, n, depth, a, rsa, csa, b, rsb, c, rsc, c0, rs0, like):
    """C[m, n] = C0 + A[m, depth] B[depth, n] by addresses, strides in elements; A may be strided both ways, rows of B and C are contiguous.

    c0: address of C0, with row stride rs0 (0: one row for all, a bias), or 0 for none. `like`: an array, for its type.
    """
    size = itemsize(like)
    width = 3 * lanes(like)
    copied = m >= WIDE_BAND // 2 and rsb * size >= FAR
    most = WIDE_BAND if copied else BAND
    memory = panel_memory(like)
    for k in range(0, max(depth, 1), DEPTH):
        part = min(DEPTH, depth - k)
        start, rs = (c0, rs0) if k == 0 else (c, rsc)
        for i in range(0, m, most):
            band = min(most, m - i)
            ai = a + size * (i * rsa + k * csa)
            for j in range(0, n, width):
                sj = start + size * (i * rs + j) if start != 0 else 0
                bj, rb, columns = b + size * (k * rsb + j), rsb, min(width, n - j)
                if copied:
                    copy_panel(memory, bj, rsb, part, columns, like)
                    bj, rb = memory, width
                panel(band, columns, part, ai, rsa, csa, bj, rb, c + size * (i * rsc + j), rsc, sj, rs, like)


@kernel
def transpose(task: Int, tasks: Int, y: Matrix, x: Matrix) -> None:
    """y[J, I] = x[I, J]. Task t covers its share of the rows of x, that is, columns of y. Writes y (=)."""
    size, lane = itemsize(x), lanes(x)
    blocks = (x.shape[0] + lane - 1) // lane
    for block in range(blocks * task // tasks, blocks * (task + 1) // tasks):
        i = block * lane
        rows = min(lane, x.shape[0] - i)
        for j in range(0, x.shape[1], lane):
            columns = min(lane, x.shape[1] - j)
            transpose_tile(address(y) + size * (j * y.shape[1] + i), y.shape[1], address(x) + size * (i * x.shape[1] + j), x.shape[1],
                           rows, columns, x)
