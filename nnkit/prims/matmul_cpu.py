"""The matrix product of dense, convolution and recurrent layers: C = C0 + A B, register-blocked.

M rows, N columns, K depth. Blocks of DEPTH along K and bands of rows keep A's part in the second-level cache while the panels of B, three
registers wide, pass by. B lies as a matrix, or packed: panel after panel, each row behind row, as `pack` and `pack_transposed` write it. Packed
it is read from the first byte to the last; in a large matrix the rows of a panel lie pages apart and fall into few sets of the cache (1024^3 on
one core: 98 GFLOP/s unpacked, 110 packed; `prims/matmul.py` says when packing pays). An element of C is summed in order of k by fma, whatever
tile it falls in: the bits depend neither on how rows are shared among tasks nor on the packing.
"""

from __future__ import annotations

from nnkit.jit import Int, Matrix, Vector, kernel, routine, shared, vector_bytes
from nnkit.prims.simd_cpu import address, copy_masked, itemsize, lanes, micro, transpose_tile

__all__ = ["pack", "pack_gates", "pack_gates_transposed", "pack_transposed", "product", "right_factor", "row_share", "transpose", "transpose_rows"]

# Rows of the main tile: 8 x 3 accumulators where there are 32 vector registers (AVX-512, NEON), 4 x 3 where there are 16 (AVX2).
ROWS = 4 if vector_bytes() == 32 else 8
HALF = ROWS // 2
DEPTH, BAND = 512, 64
# Four registers of columns, where B is no panels and there are registers enough: without this the last of them would be a narrow tile of its own.
WIDE = 4 if vector_bytes() != 32 else 0
WIDE_ROWS = 6

full3 = micro(ROWS, 3, masked=False)
edge3, edge2, edge1 = micro(ROWS, 3, masked=True), micro(ROWS, 2, masked=True), micro(ROWS, 1, masked=True)
half2, half1 = micro(HALF, 2, masked=True), micro(HALF, 1, masked=True)
row2, row1 = micro(1, 2, masked=True), micro(1, 1, masked=True)
wide6, wide5, wide4 = (micro(rows, 4, masked=True) for rows in (6, 5, 4))


@routine
def row_share(n, tasks, task):
    """The rows [start, stop) of task `task` of `tasks`, cut at multiples of 8, so that few tiles are torn, where there are enough rows."""
    each = 8 if n >= 8 * tasks else 1
    blocks = (n + each - 1) // each
    return min(n, blocks * task // tasks * each), min(n, blocks * (task + 1) // tasks * each)


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
def wide_panel(m, n, depth, a, rsa, csa, b, rsb, c, rsc, c0, rs0, like):
    """The same for n of four registers and at least 8 rows: tiles of 4 to 6 rows, as even as can be."""
    size = itemsize(like)
    tiles = (m + WIDE_ROWS - 1) // WIDE_ROWS
    for t in range(tiles):
        i = m * t // tiles
        rows = m * (t + 1) // tiles - i
        ai, ci = a + size * i * rsa, c + size * i * rsc
        si = c0 + size * i * rs0 if c0 != 0 else 0
        if rows == 6:
            wide6(depth, ai, rsa, csa, b, rsb, ci, rsc, si, rs0, n, like)
        elif rows == 5:
            wide5(depth, ai, rsa, csa, b, rsb, ci, rsc, si, rs0, n, like)
        else:
            wide4(depth, ai, rsa, csa, b, rsb, ci, rsc, si, rs0, n, like)


@shared
def product(m, n, depth, a, rsa, csa, b, rsb, c, rsc, c0, rs0, like):
    """C[m, n] = C0 + A[m, depth] B[depth, n] by addresses, strides in elements; A may be strided both ways, rows of B and C are contiguous.

    rsb: row stride of B, or 0 where B is packed. c0: address of C0, with row stride rs0 (0: one row for all, a bias), or 0 for none.
    `like`: an array, for its type.
    """
    size = itemsize(like)
    width = 3 * lanes(like)
    for k in range(0, max(depth, 1), DEPTH):
        part = min(DEPTH, depth - k)
        start, rs = (c0, rs0) if k == 0 else (c, rsc)
        for i in range(0, m, BAND):
            band = min(BAND, m - i)
            ai = a + size * (i * rsa + k * csa)
            for j in range(0, n, width):
                columns = min(width, n - j)
                bj, rb = (b + size * (k * rsb + j), rsb) if rsb else (b + size * (j * depth + k * columns), columns)
                sj = start + size * (i * rs + j) if start != 0 else 0
                cj = c + size * (i * rsc + j)
                if WIDE and rsb and width < n - j <= WIDE * lanes(like) and band >= 8:
                    wide_panel(band, n - j, part, ai, rsa, csa, bj, rb, cj, rsc, sj, rs, like)
                    break
                panel(band, columns, part, ai, rsa, csa, bj, rb, cj, rsc, sj, rs, like)


@routine
def right_factor(matrix, panels):
    """(address, row stride) of B for `product`: of its packed panels, or of the matrix itself where `panels` is empty."""
    if panels.size:
        return address(panels), 0
    return address(matrix), matrix.shape[1]


@routine
def pack_row(panels, x, k, rows, columns, like):
    """Row k of the panels of a matrix of so many rows and columns: its columns by three registers, of each such panel row behind row. By address;
    x is that of the matrix's row k."""
    size, lane = itemsize(like), lanes(like)
    for j in range(0, columns, 3 * lane):
        width = min(3 * lane, columns - j)
        for part in range(0, width, lane):
            copy_masked(panels + size * (j * rows + k * width + part), x + size * (j + part), width - part, like)


@routine
def pack_column(panels, x, rsx, i, rows, columns, like):
    """What one register of rows of a matrix, from row i on, gives to the panels of its transpose. By address; x is that of row i, of stride rsx."""
    size, lane = itemsize(like), lanes(like)
    first = i // (3 * lane) * 3 * lane
    width = min(3 * lane, rows - first)
    for j in range(0, columns, lane):
        transpose_tile(panels + size * (first * columns + j * width + i - first), width, x + size * j, rsx, min(lane, rows - i),
                       min(lane, columns - j), like)


@kernel
def pack(task: Int, tasks: Int, panels: Vector, x: Matrix) -> None:
    """The panels of x. Task t covers its share of the rows. Writes panels (=)."""
    rows, columns = x.shape
    for k in range(rows * task // tasks, rows * (task + 1) // tasks):
        pack_row(address(panels), address(x) + itemsize(x) * k * columns, k, rows, columns, x)


@kernel
def pack_gates(task: Int, tasks: Int, panels: Vector, x: Matrix, gates: Int) -> None:
    """The panels of each gate's columns of x [R, gates C], gate behind gate. Task t covers its share of the rows. Writes panels (=)."""
    rows, columns = x.shape[0], x.shape[1] // gates
    size = itemsize(x)
    for k in range(rows * task // tasks, rows * (task + 1) // tasks):
        for gate in range(gates):
            pack_row(address(panels) + size * gate * rows * columns, address(x) + size * (k * gates + gate) * columns, k, rows, columns, x)


@kernel
def pack_transposed(task: Int, tasks: Int, panels: Vector, x: Matrix) -> None:
    """The panels of the transpose of x. Task t covers its share of the rows of x. Writes panels (=)."""
    rows, columns = x.shape
    lane = lanes(x)
    blocks = (rows + lane - 1) // lane
    for block in range(blocks * task // tasks, blocks * (task + 1) // tasks):
        i = block * lane
        pack_column(address(panels), address(x) + itemsize(x) * i * columns, columns, i, rows, columns, x)


@kernel
def pack_gates_transposed(task: Int, tasks: Int, panels: Vector, x: Matrix, gates: Int) -> None:
    """The panels of the transposes of each gate's columns of x [R, gates C], gate behind gate. Task t covers its share of the rows of x. Writes
    panels (=)."""
    rows, columns = x.shape[0], x.shape[1] // gates
    size, lane = itemsize(x), lanes(x)
    blocks = (rows + lane - 1) // lane
    for block in range(blocks * task // tasks, blocks * (task + 1) // tasks):
        i = block * lane
        for gate in range(gates):
            source = address(x) + size * (i * gates + gate) * columns
            pack_column(address(panels) + size * gate * rows * columns, source, gates * columns, i, rows, columns, x)


@routine
def transpose_rows(y, x, rows, columns, first, last, like):
    """y[j, i] = x[i, j] for the rows i in [first, last) of x [rows, columns], by address; `first` is a multiple of a register's lanes."""
    size, lane = itemsize(like), lanes(like)
    for i in range(first, last, lane):
        for j in range(0, columns, lane):
            transpose_tile(y + size * (j * rows + i), rows, x + size * (i * columns + j), columns, min(lane, last - i), min(lane, columns - j), like)


@kernel
def transpose(task: Int, tasks: Int, y: Matrix, x: Matrix) -> None:
    """y[J, I] = x[I, J]. Task t covers its share of the rows of x, that is, columns of y. Writes y (=)."""
    rows, columns = x.shape
    lane = lanes(x)
    blocks = (rows + lane - 1) // lane
    transpose_rows(address(y), address(x), rows, columns, blocks * task // tasks * lane, min(rows, blocks * (task + 1) // tasks * lane), x)
