"""Embedding and Masking. Kernels: embedding_cpu.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from nnkit.initializers import Initializer, initializer_field
from nnkit.layers.base import Layer, Parameter, Shape
from nnkit.plan.passes import work_tasks
from nnkit.regularizers import Regularizer
from nnkit.spec import boolean, child, integer, real, spec

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["Embedding", "Masking"]

STRIP = 256                                              # fewest rows of a table worth a task of its gradient: each looks at all indices
MANY, ROUND = 4096, 8                                    # indices, or ROUND for each row, that are summed in one go: adding these sums costs little


@spec()
class Embedding(Layer):
    """y = E[x]: every whole number of the input stands for a row of a table that is learnt.

    input_dim: rows of E, at least 1; indices must lie from 0 to input_dim - 1, which is checked where data comes in. output_dim: columns, at least 1.
    embeddings_initializer: how E (parameter "embeddings", (input_dim, output_dim)) starts, default "uniform" from -0.05 to 0.05; an array, too.
    embeddings_regularizer: penalty on E. mask_zero: index 0 is padding, so layers behind skip these steps (see `Masking`); default False.
    Training computes the gradient of the batch's rows alone and updates these rows; the others catch up when they are next read, as `row_updates` of
    the optimizer says. A table that is small, has a regularizer, or is of a layer that is called more than once, is updated as a whole.
    Input (N, ...) of an `Input` that only layers of indices take (through Flatten and Reshape, too), output (N, ..., output_dim).
    As Keras 3; PyTorch's starts with normal numbers, and padding_idx there keeps a row at 0 and masks nothing.

    >>> Embedding(1000, 8).output_shape((20,))
    (20, 8)
    """

    input_dim: int = integer(low=1)
    output_dim: int = integer(low=1)
    embeddings_initializer: Initializer = initializer_field(default="random_uniform")
    embeddings_regularizer: Regularizer | None = child("regularizer", default=None, none=True)
    mask_zero: bool = boolean(default=False, kw_only=True)

    @property
    def index_limit(self) -> int:
        """input_dim."""
        return self.input_dim

    def output_shape(self, *shapes: Shape) -> Shape:
        """The input's shape and a last axis of output_dim. Raises ValueError where a mask needs time steps that are not there."""
        if self.mask_zero and not shapes[0]:
            raise ValueError("Embedding: mask_zero needs samples of time steps, received samples of shape ()")
        return (*shapes[0], self.output_dim)

    def parameters(self, *shapes: Shape) -> Mapping[str, Parameter]:
        """The table."""
        shape = self.input_dim, self.output_dim
        return {"embeddings": Parameter(shape, self.embeddings_initializer, regularizer=self.embeddings_regularizer, rowwise=True)}

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """Copy rows; backward: add them up, in the order of the indices."""
        (x,) = xs
        table = g.parameter("embeddings")
        indices = x.flat()
        touched = g.touched("embeddings", indices)
        y = g.buffer("y", *x.shape, self.output_dim)
        g.step("layers.embedding.embedding_forward", [y.reshaped(x.size, self.output_dim)], [indices, table], rows=x.size)
        if self.mask_zero:
            mask = g.buffer("mask", *x.shape)
            g.step("layers.embedding.nonzero", [mask.flat()], [indices], rows=x.size)
            g.set_masks(mask if len(x.shape) == 2 else None)

        def backward(dy: Buffer) -> None:
            if touched is not None:
                touched.add_up(g, g.gradient("embeddings"), dy.reshaped(x.size, self.output_dim))
                return
            tasks = work_tasks(0, table.nbytes + 2 * dy.nbytes, most=-(-self.input_dim // STRIP))
            long = g.backend == "cpu" and x.size > max(MANY, ROUND * self.input_dim)
            g.step("layers.embedding.embedding_backward", [g.gradient("embeddings")], [indices, dy.reshaped(x.size, self.output_dim)],
                   scratch=[g.scratch("recent", table.size if long else 0)], tasks=tasks)
        g.on_backward(y, [x], backward)
        return y


@spec()
class Masking(Layer):
    """Steps at which every number is `mask_value` (default 0) count for nothing in the layers behind that heed masks.

    Those are the recurrent layers, which keep state and output as they were, and `GlobalAveragePooling1D`, whose mean is over the other steps; loss
    and metrics of an output that has time steps are over the others, too. Layers that keep time steps (Dense, Dropout, activations, ...) hand the
    mask on; all others drop it. Input and output (N, T, ...); the masked steps of the output are 0, as in Keras 3.
    """

    mask_value: float = real(default=0.0)

    keeps_mask: ClassVar[bool] = False

    def output_shape(self, *shapes: Shape) -> Shape:
        """The input's. Raises ValueError where there are no time steps."""
        if len(shapes[0]) < 2:
            raise ValueError(f"Masking must have samples of shape (steps, features), received {shapes[0]}")
        return shapes[0]

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """The mask, and x with 0 where it is 0; backward dx = dy there, 0 elsewhere."""
        (x,) = xs
        mask, y = g.buffer("mask", *x.shape[:2]), g.buffer("y", *x.shape)
        rows, features = math.prod(x.shape[:2]), math.prod(x.shape[2:])
        g.step("layers.embedding.masking_forward", [y.reshaped(rows, features), mask.flat()], [x.reshaped(rows, features)],
               scalars=[self.mask_value], rows=rows)
        g.set_masks(mask)

        def backward(dy: Buffer) -> Buffer:
            dx = g.buffer("dx", *x.shape)
            g.step("layers.embedding.masking_backward", [dx.reshaped(rows, features)], [dy.reshaped(rows, features), mask.flat()], rows=rows)
            return dx
        g.on_backward(y, [x], backward)
        return y
