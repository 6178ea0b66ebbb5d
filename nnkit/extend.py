"""For those who add pieces: everything that a layer, a loss, a metric and their kernels are made of, in one place.

    from nnkit.extend import Int, Layer, Matrix, kernel, row_share, spec

nnkit's own pieces are made of the same. docs/extending.md walks through an example. Importing this module imports Numba; `import nnkit` does not.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from nnkit.initializers import Initializer, initializer_field
from nnkit.jit import (
    Counters,
    Double,
    Doubles,
    Int,
    Kernel,
    LabelMatrix,
    Labels,
    Matrix,
    Ordinals,
    Real,
    Tensor3,
    Vector,
    kernel,
    routine,
    scalar,
)
from nnkit.layers.activation import ActivationFunction, register_activation
from nnkit.layers.base import Layer, Parameter, Shape
from nnkit.losses.base import Loss, PointwiseLoss, as_rows
from nnkit.losses.custom import pointwise_kernels, register_loss
from nnkit.metrics.base import Metric, alike, mean_of, weighted_sums
from nnkit.network import Network
from nnkit.plan.build import numbered_input
from nnkit.plan.builder import Builder
from nnkit.plan.layout import SUMS
from nnkit.plan.passes import work_tasks
from nnkit.plan.plan import Buffer
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.pointwise_cpu import share
from nnkit.prims.simd_cpu import address, part
from nnkit.regularizers import ActivityRegularizer, Regularizer
from nnkit.spec import boolean, child, choice, integer, real, shape_of, spec
from nnkit.tensors import Input
from nnkit.training.model import compile

__all__ = [
    "ActivationFunction", "ActivityRegularizer", "Buffer", "Builder", "Counters", "Double", "Doubles", "Initializer", "Int", "Kernel", "LabelMatrix",
    "Labels", "Layer", "Loss", "Matrix", "Metric", "Ordinals", "Parameter", "PointwiseLoss", "Real", "Regularizer", "Shape", "Tensor3", "Vector",
    "address", "alike", "as_rows", "boolean", "check_gradients", "child", "choice", "initializer_field", "integer", "kernel", "mean_of", "part",
    "pointwise_kernels", "real", "register_activation", "register_loss", "routine", "row_share", "scalar", "shape_of", "share", "spec",
    "weighted_sums", "work_tasks",
]

STEP = 1e-5                                              # of the central differences: their error is 1e-10, and 1e-11 of the loss by its rounding
NOISE = 0.1                                              # on the first parameters: a 0 or a 1 would hide a factor
FLOOR = 1e-3                                             # of the loss: smaller gradients than that drown in the loss's rounding


def check_gradients(layer: Layer, *shapes: Shape, batch: int = 3, loss: Any = "mean_squared_error", x: Any = None, y: Any = None, seed: int = 0,
                    tolerance: float = 1e-6) -> float:
    """Compare the gradients that a layer's backward steps give with central differences of the loss, number by number; the largest error.

    All is float64, in training mode, where a layer that draws random numbers draws the same ones each time.

    Args:
        layer: any layer or network; Activation("linear"), which does nothing, where a loss is to be checked.
        shapes: of the layer's inputs, without the batch. Small ones will do: the loss is computed twice for each number that goes in.
        batch: samples.
        loss: a loss or its name.
        x, y: the layer's input (for several inputs a tuple) of `batch` samples, and the targets; default: standard normal numbers.
        seed: of all that is drawn. Another one where a difference happens to straddle a bend, such as ReLU's at 0.
        tolerance: of the error, which is measured against the largest gradient of the same array (or a thousandth of the loss).

    Raises:
        ValueError: a gradient is further off than `tolerance`: its array, its place, both numbers.

    >>> from nnkit import Dense
    >>> check_gradients(Dense(3, activation="tanh"), (4,)) < 1e-8
    True
    """
    rng = np.random.default_rng(seed)
    inputs = [Input(shape) for shape in shapes]
    with warnings.catch_warnings():                      # of an activation that the loss is not meant for: here it is
        warnings.simplefilter("ignore", UserWarning)
        model = compile(Network(inputs, layer(*inputs)), loss=loss, dtype="float64", seed=seed, threads=1)
    given = [rng.standard_normal((batch, *shape)) for shape in shapes] if x is None else [x] if len(shapes) == 1 else x
    given = tuple(np.array(values, np.float64) for values in given)                # copies: they are moved in place
    y = rng.standard_normal((len(given[0]), *model.output_shape)) if y is None else y
    data = model.data(given if len(given) > 1 else given[0], y)
    for name in model.layout.gradients:
        model.parameters[name][...] += NOISE * rng.standard_normal(model.parameters[name].shape)
    start = {name: values.copy() for name, values in model.parameters.items()}
    found = model.gradients(given if len(given) > 1 else given[0], y, inputs=True)
    tape = model.tape("gradients", data.n, input_gradients=True)

    def objective() -> float:
        for name in start.keys() - found.keys():         # what training changes by itself, such as moving averages
            model.parameters[name][...] = start[name]
        model.feed(data).run(tape)
        return float(model.sums[SUMS["last"]])

    rows = {numbered_input(position): values for position, values in enumerate(data.inputs) if isinstance(values, np.ndarray)}
    arrays = {**model.parameters, **rows}
    floor = max(FLOOR * abs(objective()), sys.float_info.min)
    return max((_largest_error(name, gradient, arrays[name].reshape(gradient.shape), objective, floor, tolerance)
                for name, gradient in found.items() if gradient.size), default=0.0)


def _largest_error(name: str, gradient: np.ndarray, array: np.ndarray, objective: Callable[[], float], floor: float, tolerance: float) -> float:
    """The largest difference between a gradient and the central differences of objective() by `array`, which is moved in place and set back."""
    expected = np.zeros(array.shape)
    for place in np.ndindex(array.shape):
        value = array[place]
        sides = []
        for moved in (value + STEP, value - STEP):
            array[place] = moved
            sides.append(objective())
        array[place] = value
        expected[place] = (sides[0] - sides[1]) / (2 * STEP)
    error = np.abs(gradient - expected) / max(np.abs(gradient).max(), np.abs(expected).max(), floor)
    worst = np.unravel_index(int(error.argmax()), error.shape)
    if not error[worst] <= tolerance:
        raise ValueError(f"check_gradients: the gradient by {name}{list(map(int, worst))} is {gradient[worst]:.9g}, the central difference "
                         f"of the loss is {expected[worst]:.9g}")
    return float(error[worst])
