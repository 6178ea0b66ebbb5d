"""How a layer's lowering asks for the right factor of a matrix product, and for the gradient of a weight. Kernels: matmul_cpu.py, dense_cpu.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnkit.plan.passes import work_tasks
from nnkit.prims.reduce import sum_slices

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["PACK_BYTES", "PACK_ROWS", "right_factor", "right_factor_transposed", "weight_gradient"]

# A matrix is packed where it is large for a core's cache and this many rows of the left factor share the cost of the copy.
PACK_BYTES, PACK_ROWS = 2 ** 18, 192
# Rows of a slice of a weight's gradient, at least, and how many slices there are at most.
SLICE, MOST_SLICES = 2 ** 16, 64


def right_factor(g: Builder, name: str, matrix: Buffer, rows: int) -> tuple[Buffer, Buffer]:
    """(matrix, panels) of the right factor of a product with `rows` rows; panels is empty where packing does not pay."""
    if g.backend != "cpu" or not pays(matrix, rows):
        return matrix, matrix.piece(0)
    panels = g.scratch(f"{name}_panels", matrix.size)
    g.step("prims.matmul.pack", [panels], [matrix], tasks=work_tasks(0, 2 * matrix.nbytes, most=-(-matrix.shape[0] // 16)))
    return matrix, panels


def right_factor_transposed(g: Builder, name: str, matrix: Buffer, rows: int) -> tuple[Buffer, Buffer]:
    """The same for the transpose of `matrix`: transposed, or straight into panels."""
    columns, depth = matrix.shape
    transposed, none = matrix.reshaped(depth, columns), matrix.piece(0)
    if min(matrix.shape) == 1:
        return transposed, none
    tasks = work_tasks(0, 2 * matrix.nbytes, most=-(-columns // 16))
    if pays(matrix, rows):
        panels = g.scratch(f"{name}_transposed_panels", matrix.size)
        g.step("prims.matmul.pack_transposed", [panels], [matrix], tasks=tasks)
        return transposed, panels
    transposed = g.scratch(f"{name}_transposed", depth, columns)
    g.step("prims.matmul.transpose", [transposed], [matrix], tasks=tasks)
    return transposed, none


def weight_gradient(g: Builder, dweight: Buffer, dbias: Buffer, x: Buffer, dy: Buffer, grain: int) -> None:
    """Emit dW = x^T dy [I, O] of x [R, I] and dy [R, O]; db, unless it is empty, is the sum of dy over the rows. grain: rows of dW worth a task.

    Of very many rows slices are multiplied, then added: in one go dW would be a sum of so many blocks of rows that float32 is not enough.
    """
    (rows, inputs), flops = x.shape, 2 * x.size * dy.shape[1]
    matrix, panels = right_factor(g, "dy", dy, inputs)
    slices = min(MOST_SLICES, rows // SLICE) if g.backend == "cpu" and not panels.size and not dbias.size else 1
    if slices <= 1:
        g.step("layers.dense.dense_backward_weight", [dweight, dbias], [x, matrix, panels], flops=flops,
               tasks=work_tasks(flops, 0, most=-(-inputs // grain)))
        return
    with sum_slices(g, dweight, slices) as parts:
        g.step("layers.dense.dense_backward_weight_slices", [parts], [x, dy], flops=flops, tasks=work_tasks(flops, x.nbytes + dy.nbytes, most=slices))


def pays(matrix: Buffer, rows: int) -> bool:
    """Whether packing is worth its copy."""
    return matrix.nbytes >= PACK_BYTES and rows >= PACK_ROWS
