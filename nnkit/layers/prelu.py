"""PReLU: a ReLU that learns its slope below 0. Kernels: prelu_cpu.py."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from nnkit.initializers import Initializer, initializer_field
from nnkit.layers.activation import ActivationFunction
from nnkit.layers.base import Parameter, Shape
from nnkit.plan.passes import work_tasks
from nnkit.prims.reduce import Tiling
from nnkit.regularizers import Regularizer
from nnkit.spec import child, shape_of, spec

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["PReLU"]

Expansion = tuple[int, int, int]                         # [A, B] -> [A, S, B]: alpha repeated along one run of shared axes


@spec("prelu")
class PReLU(ActivationFunction):
    """f(x) = x where x > 0, alpha x elsewhere; alpha is learned. At x = 0 the derivative is alpha, that of the left side.

    alpha_initializer: how alpha starts, default 0 (Keras; PyTorch: 0.25). alpha_regularizer: penalty on alpha. shared_axes: axes along which one
    alpha serves all cells, counted from 1 since axis 0 is the batch; for images (N, H, W, C) with one alpha for each channel (1, 2).
    Parameter "alpha": the shape of a sample, 1 along the shared axes. As the activation of another layer, it is that layer's parameter.
    Raises ValueError where a shared axis is none of the input's. He, Zhang, Ren and Sun, Delving deep into rectifiers (2015), equation 1.

    >>> PReLU(shared_axes=(1, 2)).parameters((28, 28, 8))["alpha"].shape
    (1, 1, 8)
    """

    alpha_initializer: Initializer = initializer_field(default="zeros")
    alpha_regularizer: Regularizer | None = child("regularizer", default=None, none=True)
    shared_axes: tuple[int, ...] | None = shape_of(default=None, low=1, none=True)

    def _shared(self, shape: Shape) -> list[bool]:
        """For each axis of a sample, whether alpha is shared along it."""
        axes = self.shared_axes or ()
        if not all(axis in range(1, len(shape) + 1) for axis in axes):
            raise ValueError(f"PReLU: shared_axes must lie from 1 to {len(shape)} for samples of shape {shape}, received {self.shared_axes}")
        return [position + 1 in axes for position in range(len(shape))]

    def output_shape(self, *shapes: Shape) -> Shape:
        """The input's."""
        self._shared(shapes[0])
        return shapes[0]

    def parameters(self, *shapes: Shape) -> Mapping[str, Parameter]:
        """alpha."""
        (shape,) = shapes
        alpha = tuple(1 if shared else d for d, shared in zip(shape, self._shared(shape), strict=True))
        return {"alpha": Parameter(alpha, self.alpha_initializer, regularizer=self.alpha_regularizer)}

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """y row by row, with alpha repeated along the shared axes; backward: dalpha summed over the batch and these axes, dx row by row."""
        (x,) = xs
        outer, columns, expansions = self._expansions(x.shape)
        alpha = g.parameter("alpha")
        tiling = Tiling(outer, columns, g.backend == "cuda")
        expanded = expand(g, alpha, [*expansions, (1, tiling.map_fold, columns)])
        y = g.buffer("y", *x.shape)
        g.step("layers.prelu.prelu_forward", [y.rows()], [x.rows(), expanded], rows=x.shape[0], in_place=True)

        def backward(dy: Buffer) -> Buffer:
            partial = g.buffer("alpha_sums", tiling.chunks, tiling.width)
            steps = [(a, s, b) for a, s, b in [*expansions, (1, tiling.chunks * tiling.fold, columns)] if s != 1]
            dalpha = g.gradient("alpha")
            if not steps:
                partial = dalpha.reshaped(1, columns)
            reads = [dy.reshaped(outer, columns), x.reshaped(outer, columns)]
            g.step("layers.prelu.prelu_gradient_sums", [partial], reads, scalars=[tiling.fold, tiling.chunk],
                   tasks=tiling.tasks(2 * x.size, 2 * x.nbytes), flops=2 * x.size)
            contract(g, partial, steps, dalpha)
            dx = g.buffer("dx", *x.shape)
            g.step("layers.prelu.prelu_input", [dx.rows()], [dy.rows(), x.rows(), expanded], rows=x.shape[0], in_place=True)
            return dx
        g.on_backward(y, [x], backward)
        return y

    def _expansions(self, shape: Shape) -> tuple[int, int, list[Expansion]]:
        """How often alpha's period fits into x of this shape, the period's size, and how alpha becomes its period.

        Shared axes that follow the batch need no copies: they count as rows, as the batch does.
        """
        axes = list(zip(shape[1:], self._shared(shape[1:]), strict=True))
        outer = shape[0] * math.prod(d for d, _ in itertools.takewhile(lambda axis: axis[1], axes))
        axes = list(itertools.dropwhile(lambda axis: axis[1], axes))
        expansions = []
        for position, (d, shared) in enumerate(axes):
            if shared and d != 1:
                before, after = math.prod(d for d, _ in axes[:position]), math.prod(d for d, shared in axes[position:] if not shared)
                expansions.append((before, d, after))
        return outer, math.prod(d for d, _ in axes), expansions


def expand(g: Builder, x: Buffer, expansions: list[Expansion]) -> Buffer:
    """x repeated, expansion after expansion, as a vector; x itself where there is nothing to repeat."""
    for a, s, b in expansions:
        if s != 1:
            y = g.buffer("alpha_repeated", a, s, b)
            g.step("layers.prelu.prelu_repeat", [y], [x.reshaped(a, b)], tasks=work_tasks(0, y.nbytes, most=a * s))
            x = y
    return x.flat()


def contract(g: Builder, dy: Buffer, expansions: list[Expansion], target: Buffer) -> None:
    """Write to `target` the sums of dy over all copies that `expand` makes, the last expansion first."""
    for position in reversed(range(len(expansions))):
        a, s, b = expansions[position]
        dx = target if position == 0 else g.buffer("alpha_sum", a, b)
        g.step("prims.reduce.sum_middle", [dx.reshaped(a, b)], [dy.reshaped(a, s, b)],
               tasks=work_tasks(0, dy.nbytes, most=a if a != 1 else -(-b // 64)))
        dy = dx
