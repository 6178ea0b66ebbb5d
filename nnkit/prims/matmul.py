"""How a layer's lowering asks for the right factor of a matrix product. Kernels: matmul_cpu.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnkit.plan.passes import work_tasks

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["PACK_BYTES", "PACK_ROWS", "right_factor", "right_factor_transposed"]

# A matrix is packed where it is large for a core's cache and this many rows of the left factor share the cost of the copy.
PACK_BYTES, PACK_ROWS = 2 ** 18, 192


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


def pays(matrix: Buffer, rows: int) -> bool:
    """Whether packing is worth its copy."""
    return matrix.nbytes >= PACK_BYTES and rows >= PACK_ROWS
