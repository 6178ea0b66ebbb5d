"""Dense: the fully connected layer. Kernels: dense_cpu.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from nnkit.initializers import Initializer, initializer_field
from nnkit.layers.activation import ActivationFunction
from nnkit.layers.base import Layer, Parameter, Shape
from nnkit.plan.passes import work_tasks
from nnkit.prims.csr import Csr
from nnkit.prims.matmul import PACK_BYTES, PACK_ROWS, right_factor, right_factor_transposed, weight_gradient
from nnkit.prims.reduce import sum_rows, sum_slices
from nnkit.regularizers import ActivityRegularizer, Regularizer
from nnkit.spec import boolean, child, integer, spec

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["Dense"]

COLUMNS = 64                                             # inputs whose gradients are formed at a time where the weight is read as it is
DEEP_BYTES = 2 ** 20                                     # of a weight that stays in no second-level cache: few rows do not share it by rows
DEPTH = 512                                              # fewest inputs worth a slice
GRAIN = 32                                               # fewest rows of a task that reads a whole large weight
MANY = 8192                                              # rows from which on db is a sum of sums: one alone would outgrow its terms


@spec()
class Dense(Layer):
    """y = activation(x W + b) over the last axis.

    units: size of the output's last axis, at least 1. activation: a spec or its name. use_bias: whether there is a b.
    kernel_initializer, bias_initializer: how W (parameter "kernel", shape (inputs, units)) and b ("bias", (units,)) start.
    kernel_regularizer, bias_regularizer: penalties on W and b. activity_regularizer: penalty on the output (L1 and L2: divided by the batch size).
    Input (N, ..., inputs), output (N, ..., units). Same conventions as Keras; PyTorch's Linear keeps the transpose of W.

    >>> Dense(64, activation="relu").output_shape((20,))
    (64,)
    """

    keeps_mask: ClassVar[bool] = True

    units: int = integer(low=1)
    activation: ActivationFunction = child("activation", default="linear")
    use_bias: bool = boolean(default=True)
    kernel_initializer: Initializer = initializer_field(default="glorot_uniform")
    bias_initializer: Initializer = initializer_field(default="zeros")
    kernel_regularizer: Regularizer | None = child("regularizer", default=None, none=True, kw_only=True)
    bias_regularizer: Regularizer | None = child("regularizer", default=None, none=True, kw_only=True)
    activity_regularizer: ActivityRegularizer | None = child("activity_regularizer", default=None, none=True, kw_only=True)

    @property
    def takes_sparse(self) -> bool:
        """Yes."""
        return True

    def output_shape(self, *shapes: Shape) -> Shape:
        """The input's shape with `units` as its last entry."""
        (shape,) = shapes
        if not shape:
            raise ValueError("Dense needs at least one axis besides the batch, received samples of shape ()")
        return self.activation.output_shape((*shape[:-1], self.units))

    def parameters(self, *shapes: Shape) -> Mapping[str, Parameter]:
        """The weight, the bias, and what the activation learns."""
        (shape,) = shapes
        found = {"kernel": Parameter((shape[-1], self.units), self.kernel_initializer, regularizer=self.kernel_regularizer)}
        if self.use_bias:
            found["bias"] = Parameter((self.units,), self.bias_initializer, regularizer=self.bias_regularizer)
        return {**found, **self.activation.parameters((*shape[:-1], self.units))}

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """The product, then the activation."""
        y = affine(g, xs[0], "kernel", "bias" if self.use_bias else None)
        return g.penalize(self.activation.lower(g, y), self.activity_regularizer)


def affine(g: Builder, x: Buffer | Csr, kernel: str, bias: str | None = None) -> Buffer:
    """y = x W (+ b) over the last axis, W and b the current layer's parameters of these names; backward: dW and db from x and dy, dx from dy and the
    transpose of W."""
    if isinstance(x, Csr):
        return sparse_affine(g, x, kernel, bias)
    weight, b = g.parameter(kernel), g.parameter(bias) if bias is not None else None
    y = g.buffer("y", *x.shape[:-1], weight.shape[1])
    x2, y2 = x.rows(len(x.shape) - 1), y.rows(len(y.shape) - 1)
    flops = 2 * x2.shape[0] * weight.size
    rows = x2.shape[0]
    none = weight.piece(0)
    if g.backend == "cpu" and rows < 2 * GRAIN and weight.nbytes >= DEEP_BYTES and weight.shape[1] > 1:
        deep_product(g, y2, x2, weight, b)
    else:
        matrix, panels = right_factor(g, kernel, weight, rows)
        g.step("layers.dense.dense_forward", [y2], [x2, matrix, b or none, panels], rows=rows, grain=grain(weight), flops=flops,
               filters=(weight, b or none))

    def backward(dy: Buffer) -> Buffer:
        dy2 = dy.rows(len(dy.shape) - 1)
        db = g.gradient(bias) if bias is not None else none
        if bias is not None and rows >= MANY and g.backend == "cpu":
            sum_rows(g, db, dy2)
            db = none
        weight_gradient(g, g.gradient(kernel), db, x2, dy2, 2 * GRAIN)
        dx = g.buffer("dx", *x.shape)
        input_gradient(g, dx.rows(len(dx.shape) - 1), dy2, weight)
        return dx
    g.on_backward(y, [x], backward)
    return y


def sparse_affine(g: Builder, x: Csr, kernel: str, bias: str | None) -> Buffer:
    """The same of a sparse x: dW = x^T dy by the transpose of x; there is a gradient for each of its values."""
    weight = g.parameter(kernel)
    y = g.buffer("y", x.shape[0], weight.shape[1])
    x.multiply(g, y, weight, g.parameter(bias) if bias is not None else None)

    def backward(dy: Buffer) -> Buffer:
        x.transposed(g).multiply(g, g.gradient(kernel), dy)
        if bias is not None:
            sum_rows(g, g.gradient(bias), dy)
        return x.entry_gradient(g, dy, weight)
    g.on_backward(y, [x.values], backward)
    return y


def grain(weight: Buffer) -> int:
    """Fewest rows worth a task, each of which reads the whole weight: fewer where that stays in every core's cache."""
    return GRAIN if weight.nbytes >= PACK_BYTES else GRAIN // 2


def deep_product(g: Builder, y: Buffer, x: Buffer, weight: Buffer, bias: Buffer | None) -> None:
    """y = x W (+ b) of few rows with a large weight: slice by slice of the inputs, so that each part of W is read once, then the slices' sum."""
    flops = 2 * x.shape[0] * weight.size
    slices = work_tasks(flops, weight.nbytes, most=max(1, weight.shape[0] // DEPTH))
    with sum_slices(g, y, slices) as parts:
        g.step("layers.dense.dense_forward_slices", [parts], [x, weight, bias or weight.piece(0)], flops=flops, tasks=slices)


def input_gradient(g: Builder, dx: Buffer, dy: Buffer, weight: Buffer) -> None:
    """dx = dy W^T of matrices: by the transpose of W; where W is large and rows are fewer than its columns, by those of dy and dx."""
    rows, flops = dy.shape[0], 2 * dy.shape[0] * weight.size
    if g.backend == "cuda":
        g.step("layers.dense.dense_backward_input_whole", [dx], [dy, weight], rows=rows, flops=flops)
        return
    if weight.nbytes >= PACK_BYTES and rows < min(PACK_ROWS, weight.shape[1]):
        transposed = g.scratch("dy_transposed", weight.shape[1], rows)
        g.step("prims.matmul.transpose", [transposed], [dy])
        tasks = work_tasks(flops, weight.nbytes, most=-(-weight.shape[0] // COLUMNS))
        g.step("layers.dense.dense_backward_columns", [dx], [transposed, weight], scratch=[g.scratch("columns", tasks, COLUMNS * rows)], tasks=tasks,
               flops=flops)
        return
    matrix, panels = right_factor_transposed(g, "kernel", weight, rows)
    g.step("layers.dense.dense_backward_input", [dx], [dy, matrix, panels], rows=rows, grain=grain(weight), flops=flops)
