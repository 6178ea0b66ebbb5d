"""LeNet-5, the convolutional network that read handwritten digits."""

from __future__ import annotations

from nnkit.layers.activation import ActivationFunction
from nnkit.layers.base import Shape
from nnkit.layers.conv import Conv2D
from nnkit.layers.dense import Dense
from nnkit.layers.pool import AveragePooling2D, MaxPooling2D
from nnkit.layers.reshape import Flatten
from nnkit.models.published import as_image_shape
from nnkit.network import Sequential
from nnkit.tensors import Input
from nnkit.training.feed import as_whole

__all__ = ["lenet"]

POOLINGS = {"avg": AveragePooling2D, "max": MaxPooling2D}


def lenet(input_shape: Shape = (32, 32, 1), classes: int = 10, *, padding: str = "valid", activation: ActivationFunction | str = "tanh",
          pooling: str = "avg") -> Sequential:
    """LeNet-5 in the form of the textbooks: (height, width, channels) -> two 5 x 5 convolutions, each with a 2 x 2 pooling behind it -> classes.

    Layers, named as in the paper: c1 (6 filters), s2, c3 (16 filters), s4, flatten, c5 (Dense of 120: on 32 x 32 pixels the paper's 5 x 5 convolution
    of a 5 x 5 map), f6 (Dense of 84), output (Dense with softmax). 61,706 parameters by default.

    What differs from the paper: every filter of c3 sees all six maps, not a choice of them; poolings have no weights and no sigmoid; tanh is not
    scaled; the output is a softmax, not distances to drawn digits (its radial basis functions).

    Args:
        input_shape: (height, width, channels) of an image; height and width at least 16, with padding="same" at least 12.
        classes: units of the last layer.
        padding: of c1, "valid" (default) or "same". With "same", images of 28 x 28 pixels give the same network as those of 32 x 32 without.
        activation: of all layers but the last, default "tanh"; "relu" in later programs.
        pooling: "avg" (default) or "max", as in later programs.

    Raises:
        ValueError: an image too small or of other than three axes, classes below 1, an unknown padding, activation or pooling.

    LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition (Proceedings of the IEEE 1998), section II.B.

    >>> lenet((28, 28, 1), padding="same").graph().output_shapes
    ((10,),)
    """
    if padding not in ("valid", "same"):
        raise ValueError(f"padding must be 'valid' or 'same', received {padding!r}")
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be 'avg' or 'max', received {pooling!r}")
    shape, count = as_image_shape(input_shape, 16 if padding == "valid" else 12), as_whole(classes, 1, "classes")
    pool = POOLINGS[pooling]
    return Sequential((
        Input(shape),
        Conv2D(6, 5, padding=padding, activation=activation, name="c1"),  # type: ignore[arg-type, misc]
        pool(2, name="s2"),  # type: ignore[arg-type]
        Conv2D(16, 5, activation=activation, name="c3"),  # type: ignore[arg-type, misc]
        pool(2, name="s4"),  # type: ignore[arg-type]
        Flatten(name="flatten"),
        Dense(120, activation, name="c5"),  # type: ignore[arg-type]
        Dense(84, activation, name="f6"),  # type: ignore[arg-type]
        Dense(count, "softmax", name="output"),  # type: ignore[arg-type]
    ), name="lenet")
