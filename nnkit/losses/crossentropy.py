"""Cross-entropies, and the divergence of distributions. Kernels: crossentropy_cpu.py. R rows (entries of all axes but the last), C classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnkit.layers.base import Shape
from nnkit.losses.base import ENTRY_FLOPS, Loss, PointwiseLoss, as_rows, refuse_outside
from nnkit.spec import base, boolean, integer, real, spec
from nnkit.training.feed import as_labels, as_samples, shape_of_given

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["BinaryCrossentropy", "CategoricalCrossentropy", "KLDivergence", "SparseCategoricalCrossentropy"]


def _refuse_labels(y: Any, output_shape: Shape, label: str) -> None:
    """Raise ValueError where targets have the shape of class labels."""
    shape = shape_of_given(y)
    if output_shape and output_shape[-1] > 1 and shape[1:] in (output_shape[:-1], (*output_shape[:-1], 1)):
        expected = ", ".join(["samples", *map(str, output_shape)])
        raise ValueError(f"y must have shape ({expected}) for {label}, received {shape}: class labels need the loss sparse_categorical_crossentropy")


@spec("binary_crossentropy", "bce", "BCE")
class BinaryCrossentropy(PointwiseLoss):
    """l = -t log y - (1 - t) log(1 - y), y a probability clipped to [1e-7, 1 - 1e-7]; with logits z, l = max(z, 0) - z t + log(1 + exp(-|z|)).

    from_logits: the output is z, not sigmoid(z); default False. On top of a sigmoid the plan takes the logits form by itself.
    label_smoothing: s in [0, 1], default 0; targets become t (1 - s) + s / 2.
    Output: any shape; the mean over the last axis is a row's loss. Targets: of the same shape, from 0 to 1; others are refused (ValueError).
    As Keras 3. PyTorch's BCELoss clamps the logarithms at -100 instead.
    """

    from_logits: bool = boolean(default=False)
    label_smoothing: float = real(default=0.0, low=0, high=1)

    module: ClassVar[str] = "crossentropy"

    def prepare(self, y: Any, output_shape: Shape, dtype: str, check_finite: bool = False) -> np.ndarray:
        """Targets of the output's shape, from 0 to 1; (N,) does for an output of one number."""
        _refuse_labels(y, output_shape, self.label)
        t = super().prepare(y, output_shape, dtype, check_finite)
        refuse_outside(t, 0, 1, "hold values from 0 to 1 for binary_crossentropy")
        return t

    def classes(self, output_shape: Shape) -> int | None:
        """Two on one unit."""
        return 2 if output_shape[-1:] in ((), (1,)) else output_shape[-1]

    @property
    def kernel(self) -> str:
        """The form for probabilities or for logits."""
        return "binary_crossentropy_logits" if self.from_logits else "binary_crossentropy"

    def scalars(self) -> tuple[float, ...]:
        """label_smoothing."""
        return (self.label_smoothing,)

    def logits(self) -> Mapping[str, str]:
        """On a sigmoid the logits form."""
        return {} if self.from_logits else {"layers.activation.sigmoid_forward": "binary_crossentropy_logits"}


@spec("kl_divergence", "kld", "KLD")
class KLDivergence(PointwiseLoss):
    """l = sum over the last axis of t log(t / y), both clipped to [1e-7, 1] (Kullback and Leibler 1951).

    Output and targets: probabilities of one shape; targets outside of [0, 1] are refused (ValueError). As Keras 3; PyTorch's KLDivLoss takes
    log y and, by default, averages over all entries.
    """

    module: ClassVar[str] = "crossentropy"
    mean: ClassVar[bool] = False

    def prepare(self, y: Any, output_shape: Shape, dtype: str, check_finite: bool = False) -> np.ndarray:
        """Targets of the output's shape, from 0 to 1."""
        t = super().prepare(y, output_shape, dtype, check_finite)
        refuse_outside(t, 0, 1, "hold probabilities from 0 to 1 for kl_divergence")
        return t


@base
class ClassLoss(Loss):
    """Base of the losses that compare a distribution over C classes, the last axis of the output, with the true class."""

    from_logits: bool = boolean(default=False)

    scratch: ClassVar[tuple[str, ...]] = ()              # vectors of a number for each row that forward needs

    def check(self, output_shape: Shape) -> None:
        """The last axis must hold at least two classes."""
        if not output_shape or output_shape[-1] < 2:
            raise ValueError(f"{self.label} must have an output of at least 2 classes on its last axis, received shape {output_shape}: "
                             "use binary_crossentropy for two classes on one unit")

    def classes(self, output_shape: Shape) -> int | None:
        """The last axis."""
        return output_shape[-1]

    def lower(self, g: Builder, y: Buffer, t: Buffer, w: Buffer) -> Buffer:
        """One step forward, which keeps what the step backward reads; on a softmax a pass puts the logits forms in their place."""
        y2 = as_rows(y)
        R, C = y2.shape
        t2, more, scalars = self.operands(g, t, w)
        rows, kept, scale = g.buffer("rows", R), g.buffer("kept", R, C), g.buffer("scale", R)
        logits = f"losses.crossentropy.{self.label}_logits"
        name = logits if self.from_logits else f"losses.crossentropy.{self.label}"

        def fused(part: str) -> dict[str, str]:
            return {} if self.from_logits else {"layers.softmax.softmax_forward": f"{logits}_{part}"}
        g.step(f"{name}_forward", [rows, kept, scale], [y2, t2, w, *more], scratch=[g.scratch(part, R) for part in self.scratch], scalars=scalars,
               rows=R, flops=ENTRY_FLOPS * R * C, logits=fused("forward"))

        def backward(_: Buffer) -> Buffer:
            dy = g.buffer("dy", *y.shape)
            g.step(f"{name}_backward", [as_rows(dy)], [y2, t2, w, kept, scale, *more], scalars=scalars, rows=R, flops=4 * R * C,
                   logits=fused("backward"))
            return dy
        g.on_backward(rows, [y], backward)
        return rows

    def operands(self, g: Builder, t: Buffer, w: Buffer) -> tuple[Buffer, tuple[Buffer, ...], tuple[float | int, ...]]:
        """Targets as the kernels take them, further arrays, and scalars."""
        raise TypeError(f"{type(self).__name__} does not say what its kernels read")


@spec("categorical_crossentropy")
class CategoricalCrossentropy(ClassLoss):
    """l = -sum_c t log(y / sum y), y / sum y clipped to [1e-7, 1 - 1e-7]; with logits z, l = sum_c t (log sum exp(z) - z).

    from_logits: the output is z, not softmax(z); default False. On top of a softmax the plan takes the logits form by itself.
    label_smoothing: s in [0, 1], default 0; targets become t (1 - s) + s / C.
    Output: (..., C), C at least 2. Targets: of the same shape, one-hot rows or probabilities from 0 to 1; others are refused (ValueError). For
    labels take SparseCategoricalCrossentropy. A row of zeros counts as no loss and no gradient. As Keras 3.
    """

    label_smoothing: float = real(default=0.0, low=0, high=1)

    scratch: ClassVar[tuple[str, ...]] = ("logs",)

    def prepare(self, y: Any, output_shape: Shape, dtype: str, check_finite: bool = False) -> np.ndarray:
        """Targets of the output's shape, from 0 to 1."""
        _refuse_labels(y, output_shape, self.label)
        t = super().prepare(y, output_shape, dtype, check_finite)
        refuse_outside(t, 0, 1, "hold one-hot rows or probabilities from 0 to 1 for categorical_crossentropy")
        return t

    def operands(self, g: Builder, t: Buffer, w: Buffer) -> tuple[Buffer, tuple[Buffer, ...], tuple[float | int, ...]]:
        """Targets as rows; label_smoothing."""
        return as_rows(t), (), (self.label_smoothing,)


@spec("sparse_categorical_crossentropy")
class SparseCategoricalCrossentropy(ClassLoss):
    """CategoricalCrossentropy with class labels: l = -log(y[t] / sum y), or with logits z, l = log sum exp(z) - z[t].

    from_logits: the output is z, not softmax(z); default False. On top of a softmax the plan takes the logits form by itself.
    ignore_class: rows with this label, like masked ones, count neither in the loss nor in the mean over rows nor in metrics, and have no gradient;
    default None.
    Output: (..., C), C at least 2. Targets: whole numbers 0 to C - 1 (or ignore_class) of the output's shape without its last axis, which may
    stand as 1; others are refused (ValueError). As Keras 3, whose mean, too, is over the rows of a batch that are left; its metrics count the others
    as wrong. Over several batches a batch counts by its samples, whatever is left of them, so the loss of `evaluate` depends a little on batch_size.
    """

    ignore_class: int | None = integer(default=None, none=True)

    def classes(self, output_shape: Shape) -> int | None:
        """The last axis; a label that is ignored may lie beside them."""
        return super().classes(output_shape) if self.ignore_class is None else None

    def counted(self, targets: np.ndarray) -> np.ndarray | None:
        """Those whose label is not ignored."""
        return None if self.ignore_class is None else targets != self.ignore_class

    def target(self, output_shape: Shape) -> tuple[Shape, str]:
        """A label for each row."""
        return output_shape[:-1], "int32"

    def prepare(self, y: Any, output_shape: Shape, dtype: str, check_finite: bool = False) -> np.ndarray:
        """Labels as int32, of the output's shape without its last axis."""
        places, classes = output_shape[:-1], output_shape[-1]
        if not places:
            return as_labels(y, classes, "y", self.ignore_class)
        shape = shape_of_given(y)
        if shape[1:] == output_shape and classes > 1:
            expected = ", ".join(["samples", *map(str, places)])
            raise ValueError(f"y must have shape ({expected}), received {shape}: one-hot rows need the loss categorical_crossentropy")
        last = (1,) if shape[1:] == (*places, 1) else ()
        labels = as_samples(y, (*places, *last), "int32", "y").reshape(-1, *places)
        self._refuse_unknown(labels, classes)
        return labels

    def _refuse_unknown(self, labels: np.ndarray, classes: int) -> None:
        wrong = (labels < 0) | (labels >= classes)
        if self.ignore_class is not None:
            wrong &= labels != self.ignore_class
        if wrong.any():
            place = tuple(map(int, np.unravel_index(int(wrong.argmax()), labels.shape)))
            also = f", or {self.ignore_class} to ignore" if self.ignore_class is not None else ""
            raise ValueError(f"y must hold class labels from 0 to {classes - 1}{also}, received {labels[place]} at position {place}")

    def operands(self, g: Builder, t: Buffer, w: Buffer) -> tuple[Buffer, tuple[Buffer, ...], tuple[float | int, ...]]:
        """Labels as a vector; the share of valid rows, where a class is ignored; that class. w leaves out masked rows already."""
        labels, mask = t.flat(), g.mask()
        if self.ignore_class is None:
            return labels, (w.piece(0),), (0,)
        valid = g.buffer("valid", 1)
        counts = mask.flat() if mask is not None else w.piece(0)
        g.step("losses.crossentropy.valid_share", [valid], [labels, counts], scalars=[self.ignore_class])
        return labels, (valid,), (self.ignore_class,)
