"""CUDA kernels of Dense. R rows (batch times inner axes), I inputs, O outputs (units). Every array named in `writes` is written whole (=).

Weights are read as they are: `panels`, which the twins on the CPU may be given, is always empty here. Of each product there is a form for small
matrices under the twin's name and one for each size of tile (dense_forward_128), also on tensor cores (dense_forward_128_tf32); plan/products.py
chooses.
"""

from __future__ import annotations

from typing import Any

from nnkit.cuda_jit import Kernel, data, kernel, nothing
from nnkit.jit import Int, Matrix, Vector
from nnkit.prims.block_cuda import columns_of, divided, piece_count, row_share
from nnkit.prims.cores_cuda import WAYS
from nnkit.prims.matmul_cuda import ARITHMETIC, Way, product, product_transposed, tiled
from nnkit.prims.reduce_cuda import sum_columns

__all__ = [
    "dense_backward_input_whole", "dense_backward_input_whole_32", "dense_backward_input_whole_64", "dense_backward_input_whole_64_bfloat16",
    "dense_backward_input_whole_64_tf32", "dense_backward_input_whole_128", "dense_backward_input_whole_128_bfloat16",
    "dense_backward_input_whole_128_tf32", "dense_backward_weight", "dense_backward_weight_32", "dense_backward_weight_64",
    "dense_backward_weight_64_bfloat16", "dense_backward_weight_64_tf32", "dense_backward_weight_128", "dense_backward_weight_128_bfloat16",
    "dense_backward_weight_128_tf32", "dense_forward", "dense_forward_32", "dense_forward_64", "dense_forward_64_bfloat16", "dense_forward_64_tf32",
    "dense_forward_128", "dense_forward_128_bfloat16", "dense_forward_128_tf32",
]


@kernel
def dense_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, weight: Matrix, bias: Vector, panels: Vector) -> None:
    """y = x W + b. Shapes: y [R, O], x [R, I], weight [I, O], bias [O] or empty. Row-local. Writes y (=)."""
    start, stop = row_share(y.shape[0], tasks, task)
    inputs, outputs = weight.shape
    product(start, stop, outputs, inputs, data(y), data(x), inputs, 1, data(weight), outputs, 1, bias)


@kernel
def dense_backward_weight(task: Int, tasks: Int, dweight: Matrix, dbias: Vector, x: Matrix, dy: Matrix, panels: Vector) -> None:
    """dW = x^T dy, db = sum of dy over rows. Shapes: dweight [I, O], dbias [O] or empty, x [R, I], dy [R, O].

    Task t covers its share of the rows of dW and of the strips of columns of dy. Writes dweight and dbias (=).
    """
    start, stop = row_share(dweight.shape[0], tasks, task)
    rows, outputs = dy.shape
    product(start, stop, outputs, rows, data(dweight), data(x), 1, x.shape[1], data(dy), outputs, 1, nothing(dbias))
    if dbias.size:
        columns = columns_of(outputs)
        first, last = row_share(piece_count(1, outputs, columns), tasks, task)
        sum_columns(data(dbias), 0, data(dy), 0, rows, outputs, outputs, rows, 1, columns, first, last, dy)


@kernel
def dense_backward_input_whole(task: Int, tasks: Int, dx: Matrix, dy: Matrix, weight: Matrix) -> None:
    """dx = dy W^T. Shapes: dx [R, I], dy [R, O], weight [I, O]. Row-local. Writes dx (=)."""
    start, stop = row_share(dx.shape[0], tasks, task)
    inputs, outputs = weight.shape
    product_transposed(start, stop, inputs, outputs, data(dx), data(dy), data(weight), dx)


def forward_by_tiles(side: int, way: Way) -> Kernel:
    """dense_forward by tiles; not row-local: task t covers its share of the tiles. y may hold the sums of slices of k, one behind the other."""
    tile_product: Any = tiled(way, side, True, False)

    @kernel
    def forward(task: Int, tasks: Int, y: Matrix, x: Matrix, weight: Matrix, bias: Vector, panels: Vector) -> None:
        """y = x W + b."""
        rows, inputs = x.shape
        outputs = weight.shape[1]
        slices = divided(y.shape[0], max(1, rows))[0]
        tile_product(task, tasks, slices, rows, outputs, inputs, data(y), data(x), inputs, data(weight), outputs, bias, panels, y)
    return forward


def backward_weight_by_tiles(side: int, way: Way) -> Kernel:
    """dense_backward_weight by tiles. dweight may hold the sums of slices of the rows, one behind the other; dbias is then empty."""
    tile_product: Any = tiled(way, side, False, False)

    @kernel
    def backward(task: Int, tasks: Int, dweight: Matrix, dbias: Vector, x: Matrix, dy: Matrix, panels: Vector) -> None:
        """dW = x^T dy, db = sum of dy over rows."""
        rows, inputs = x.shape
        outputs = dy.shape[1]
        slices = divided(dweight.shape[0], max(1, inputs))[0]
        tile_product(task, tasks, slices, inputs, outputs, rows, data(dweight), data(x), inputs, data(dy), outputs, panels, dbias, dweight)
    return backward


def backward_input_by_tiles(side: int, way: Way) -> Kernel:
    """dense_backward_input_whole by tiles; not row-local. dx may hold the sums of slices of k, one behind the other."""
    tile_product: Any = tiled(way, side, True, True)

    @kernel
    def backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix, weight: Matrix) -> None:
        """dx = dy W^T."""
        rows, outputs = dy.shape
        inputs = weight.shape[0]
        none = nothing(weight)
        slices = divided(dx.shape[0], max(1, rows))[0]
        tile_product(task, tasks, slices, rows, inputs, outputs, data(dx), data(dy), outputs, data(weight), outputs, none, none, dx)
    return backward


SIDES, CORES = (32, 64, 128), ("_tf32", "_bfloat16")
dense_forward_32, dense_forward_64, dense_forward_128 = (forward_by_tiles(side, ARITHMETIC) for side in SIDES)
dense_backward_weight_32, dense_backward_weight_64, dense_backward_weight_128 = (backward_weight_by_tiles(side, ARITHMETIC) for side in SIDES)
dense_backward_input_whole_32, dense_backward_input_whole_64, dense_backward_input_whole_128 = (
    backward_input_by_tiles(side, ARITHMETIC) for side in SIDES)

# On tensor cores: see `plan.products.size_products`.
dense_forward_64_tf32, dense_forward_64_bfloat16 = (forward_by_tiles(64, WAYS[end]) for end in CORES)
dense_forward_128_tf32, dense_forward_128_bfloat16 = (forward_by_tiles(128, WAYS[end]) for end in CORES)
dense_backward_weight_64_tf32, dense_backward_weight_64_bfloat16 = (backward_weight_by_tiles(64, WAYS[end]) for end in CORES)
dense_backward_weight_128_tf32, dense_backward_weight_128_bfloat16 = (backward_weight_by_tiles(128, WAYS[end]) for end in CORES)
dense_backward_input_whole_64_tf32, dense_backward_input_whole_64_bfloat16 = (backward_input_by_tiles(64, WAYS[end]) for end in CORES)
dense_backward_input_whole_128_tf32, dense_backward_input_whole_128_bfloat16 = (backward_input_by_tiles(128, WAYS[end]) for end in CORES)
