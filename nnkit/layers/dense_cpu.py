"""Kernels of Dense. R rows (batch times inner axes), I inputs, O outputs (units). Every array named in `writes` is written whole (=)."""

from __future__ import annotations

from nnkit.jit import Int, Matrix, Vector, kernel
from nnkit.layers.dense import COLUMNS
from nnkit.prims.matmul_cpu import product, right_factor, row_share
from nnkit.prims.pointwise_cpu import share
from nnkit.prims.reduce_cpu import columns_plain
from nnkit.prims.rows_cpu import dot_run
from nnkit.prims.simd_cpu import address, itemsize, lanes, prefetch_run, transpose_tile

__all__ = [
    "dense_backward_columns", "dense_backward_input", "dense_backward_weight", "dense_backward_weight_slices", "dense_forward",
    "dense_forward_slices",
]

STRIP = 8                                                # rows of a product before what is read next is fetched


@kernel
def dense_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, weight: Matrix, bias: Vector, panels: Vector) -> None:
    """y = x W + b. Shapes: y [R, O], x [R, I], weight [I, O], bias [O] or empty; panels: of weight, packed, or empty. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    inputs, outputs = weight.shape
    size = itemsize(y)
    if outputs == 1:                                     # a dot product for each row: whole registers instead of one column
        start_value = bias[0] if bias.size else y.dtype.type(0)
        for r in range(start, stop):
            y[r, 0] = start_value + dot_run(address(x) + size * r * inputs, address(weight), inputs, y)
        return
    b, rsb = right_factor(weight, panels)
    product(stop - start, outputs, inputs, address(x) + size * start * inputs, inputs, 1, b, rsb,
            address(y) + size * start * outputs, outputs, address(bias) if bias.size else 0, 0, y)


@kernel
def dense_forward_slices(task: Int, tasks: Int, parts: Matrix, x: Matrix, weight: Matrix, bias: Vector) -> None:
    """The products of slices of the inputs; the first one starts with b. Shapes: parts [slices, R O], x [R, I], weight [I, O], bias [O] or empty.

    Task t covers its share of the slices. Writes parts (=).
    """
    rows, inputs = x.shape
    outputs = weight.shape[1]
    size, slices = itemsize(x), parts.shape[0]
    for piece in range(slices * task // tasks, slices * (task + 1) // tasks):
        start, stop = inputs * piece // slices, inputs * (piece + 1) // slices
        product(rows, outputs, stop - start, address(x) + size * start, inputs, 1, address(weight) + size * start * outputs, outputs,
                address(parts) + size * piece * rows * outputs, outputs, address(bias) if bias.size and piece == 0 else 0, 0, x)


@kernel
def dense_backward_weight(task: Int, tasks: Int, dweight: Matrix, dbias: Vector, x: Matrix, dy: Matrix, panels: Vector) -> None:
    """dW = x^T dy, db = sum of dy over rows. Shapes: dweight [I, O], dbias [O] or empty, x [R, I], dy [R, O]; panels: of dy, or empty.

    Task t covers its share of the rows of dW, and the first one db. Writes dweight and dbias (=).
    """
    rows, outputs = dy.shape
    inputs = x.shape[1]
    size = itemsize(x)
    start, stop = row_share(inputs, tasks, task)
    if outputs == 1:                                     # the row dW^T = dy^T x: whole registers instead of one column
        product(1, stop - start, rows, address(dy), 1, 1, address(x) + size * start, inputs, address(dweight) + size * start, inputs, 0, 0, x)
    else:
        b, rsb = right_factor(dy, panels)
        product(stop - start, outputs, rows, address(x) + size * start, 1, inputs, b, rsb,
                address(dweight) + size * start * outputs, outputs, 0, 0, x)
    if task == 0 and dbias.size:
        columns_plain(rows, outputs, address(dbias), 0, address(dy), 0, outputs, 0, 0, x)


@kernel
def dense_backward_weight_slices(task: Int, tasks: Int, parts: Matrix, x: Matrix, dy: Matrix) -> None:
    """x^T dy of slices of the rows. Shapes: parts [slices, I O], x [R, I], dy [R, O]. Task t covers its share of the slices. Writes parts (=)."""
    rows, outputs = dy.shape
    inputs, size, slices = x.shape[1], itemsize(x), parts.shape[0]
    for piece in range(slices * task // tasks, slices * (task + 1) // tasks):
        start = rows * piece // slices
        count, to = rows * (piece + 1) // slices - start, address(parts) + size * piece * inputs * outputs
        left, right = address(x) + size * start * inputs, address(dy) + size * start * outputs
        if outputs == 1:                                 # as in dense_backward_weight
            product(1, inputs, count, right, 1, 1, left, inputs, to, inputs, 0, 0, x)
        else:
            product(inputs, outputs, count, left, 1, inputs, right, outputs, to, outputs, 0, 0, x)


@kernel
def dense_backward_input(task: Int, tasks: Int, dx: Matrix, dy: Matrix, transposed: Matrix, panels: Vector) -> None:
    """dx = dy W^T. Shapes: dx [R, I], dy [R, O], transposed [O, I] = W^T (not read where `panels` holds its panels). Row-local. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    outputs, inputs = transposed.shape
    size = itemsize(dx)
    b, rsb = right_factor(transposed, panels)
    product(stop - start, inputs, outputs, address(dy) + size * start * outputs, outputs, 1, b, rsb,
            address(dx) + size * start * inputs, inputs, 0, 0, dx)


@kernel
def dense_backward_columns(task: Int, tasks: Int, dx: Matrix, transposed: Matrix, weight: Matrix, columns: Matrix) -> None:
    """The same for few rows and a large weight, which is read as it is: dx^T = W dy^T. Shapes: dx [R, I], transposed [O, R] = dy^T, weight [I, O],
    columns [tasks, COLUMNS x R].

    Task t covers its share of the inputs. Writes dx (=).
    """
    outputs, rows = transposed.shape
    inputs = weight.shape[0]
    size, lane = itemsize(dx), lanes(dx)
    start, stop = share(inputs, tasks, task)
    part = address(columns) + size * task * columns.shape[1]
    for i in range(start, stop, COLUMNS):
        count = min(COLUMNS, stop - i)
        for k in range(0, count, STRIP):
            a = address(weight) + size * (i + k) * outputs
            prefetch_run(a + size * COLUMNS * outputs, STRIP * outputs, dx)
            product(min(STRIP, count - k), rows, outputs, a, outputs, 1, address(transposed), rows, part + size * k * rows, rows, 0, 0, dx)
        for k in range(0, count, lane):
            for r in range(0, rows, lane):
                transpose_tile(address(dx) + size * (r * inputs + i + k), inputs, part + size * (k * rows + r), rows, min(lane, count - k),
                               min(lane, rows - r), dx)
