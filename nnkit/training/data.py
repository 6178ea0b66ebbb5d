"""A checked data set: what `fit`, `evaluate` and `predict` hand to the plans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from nnkit.layers.base import Shape
from nnkit.losses.base import Loss
from nnkit.training.feed import as_samples, as_weights, class_weights, same_length

__all__ = ["Data"]


@attrs.frozen(eq=False)
class Data:
    """C-contiguous arrays of one length n: inputs, targets in the form that the loss takes, weights."""

    inputs: tuple[np.ndarray, ...]
    targets: np.ndarray
    weights: np.ndarray

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.targets)

    def part(self, start: int, stop: int) -> Data:
        """The samples [start, stop), without a copy."""
        inputs = tuple(x[start:stop] for x in self.inputs)
        return attrs.evolve(self, inputs=inputs, targets=self.targets[start:stop], weights=self.weights[start:stop])

    def arrays(self) -> dict[str, np.ndarray]:
        """The external arrays of a plan by name."""
        return {**input_arrays(self.inputs), "target/data": self.targets, "sample_weight/data": self.weights}

    @classmethod
    def of(cls, x: Any, y: Any, shapes: tuple[Shape, ...], loss: Loss, output_shape: Shape, dtype: str, sample_weight: Any = None,
           class_weight: Mapping[int, float] | None = None, check_finite: bool = False) -> Data:
        """Check everything that the user passed. Raises TypeError or ValueError with one sentence."""
        inputs = as_inputs(x, shapes, dtype, check_finite)
        targets = loss.prepare(y, output_shape, dtype, check_finite)
        n = same_length(x=inputs[0], y=targets)
        weights = as_weights(sample_weight, n, dtype) if sample_weight is not None else np.ones(n, dtype)
        if class_weight is not None:
            weights = class_weights(class_weight, y, dtype, weights)
        return cls(inputs=inputs, targets=targets, weights=weights)


def as_inputs(x: Any, shapes: tuple[Shape, ...], dtype: str, check_finite: bool = False) -> tuple[np.ndarray, ...]:
    """The inputs of the network, checked: one array, or a tuple of as many as it has inputs."""
    if len(shapes) == 1:
        return (as_samples(x, shapes[0], dtype, "x", check_finite),)
    if not isinstance(x, (tuple, list)) or len(x) != len(shapes):
        raise ValueError(f"x must be a tuple of {len(shapes)} arrays, one for each input, received {type(x).__name__}")
    arrays = tuple(as_samples(part, shape, dtype, f"x[{i}]", check_finite) for i, (part, shape) in enumerate(zip(x, shapes, strict=True)))
    same_length(**{f"x[{i}]": array for i, array in enumerate(arrays)})
    return arrays


def input_arrays(inputs: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    """The external input arrays of a plan by name."""
    return {f"x{position}/data" if position else "x/data": array for position, array in enumerate(inputs)}
