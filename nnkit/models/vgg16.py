"""VGG16, the network of thirteen 3 x 3 convolutions."""

from __future__ import annotations

from nnkit.layers.base import Layer, Shape
from nnkit.layers.conv import Conv2D
from nnkit.layers.dense import Dense
from nnkit.layers.pool import GlobalAveragePooling2D, GlobalMaxPooling2D, MaxPooling2D
from nnkit.layers.reshape import Flatten
from nnkit.network import Input, Sequential
from nnkit.training.feed import as_whole

__all__ = ["vgg16"]

BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))     # convolutions, and filters of each
SMALLEST = 32                                            # five poolings halve it to 1
GLOBAL = {"avg": GlobalAveragePooling2D, "max": GlobalMaxPooling2D}


def vgg16(input_shape: Shape = (224, 224, 3), classes: int = 1000, include_top: bool = True, pooling: str | None = None) -> Sequential:
    """VGG16: (height, width, channels) -> five blocks of 3 x 3 convolutions with ReLU, each with a 2 x 2 max pooling behind it -> classes.

    Layers, named as Keras names them: block1_conv1, block1_conv2, block1_pool, block2_conv1, ..., block5_pool; with the top flatten, fc1, fc2
    (Dense of 4096 with ReLU) and predictions (Dense with softmax). 138,357,544 parameters by default, 14,714,688 without the top. They start as those
    of the layers do, Glorot uniform; He normal lets so deep a network start better where it is trained from nothing.

    Args:
        input_shape: (height, width, channels) of an image, height and width at least 32.
        classes: units of the last layer; of no meaning without the top.
        include_top: whether the three Dense layers follow the blocks. Without them the output is (height // 32, width // 32, 512).
        pooling: without the top, "avg" or "max": the mean or the largest number of every channel, output (512,). None (default): neither.

    Raises:
        ValueError: an image too small or of other than three axes, classes below 1, an unknown pooling, pooling with the top.

    Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition (ICLR 2015), configuration D.

    >>> vgg16((64, 96, 3), include_top=False).graph().output_shapes
    ((2, 3, 512),)
    """
    if not (isinstance(input_shape, (tuple, list)) and len(input_shape) == 3):
        raise ValueError(f"input_shape must be (height, width, channels), received {input_shape!r}")
    height, width, channels = (as_whole(size, low, "input_shape") for size, low in zip(input_shape, (SMALLEST, SMALLEST, 1), strict=True))
    if pooling not in (None, *GLOBAL) or (include_top and pooling is not None):
        rule = "None with the top" if include_top else "'avg', 'max' or None"
        raise ValueError(f"pooling must be {rule}, received {pooling!r}")
    top = ((4096, "relu", "fc1"), (4096, "relu", "fc2"), (as_whole(classes, 1, "classes"), "softmax", "predictions"))
    layers: list[Layer] = [Input((height, width, channels))]
    for block, (count, filters) in enumerate(BLOCKS, 1):
        layers += [Conv2D(filters, 3, padding="same", activation="relu", name=f"block{block}_conv{number}")  # type: ignore[arg-type, misc]
                   for number in range(1, count + 1)]
        layers.append(MaxPooling2D(2, name=f"block{block}_pool"))  # type: ignore[arg-type]
    if include_top:
        layers.append(Flatten(name="flatten"))
        layers += [Dense(units, activation, name=name) for units, activation, name in top]  # type: ignore[arg-type]
    elif pooling is not None:
        layers.append(GLOBAL[pooling]())
    return Sequential(tuple(layers), name="vgg16")
