"""Residual networks of 18 and 34 layers."""

from __future__ import annotations

import os
from typing import Any

from nnkit.initializers import VarianceScaling
from nnkit.layers.activation import Activation, ActivationFunction
from nnkit.layers.base import Shape
from nnkit.layers.conv import Conv2D
from nnkit.layers.merge import Add
from nnkit.layers.norm import BatchNormalization
from nnkit.layers.pool import MaxPooling2D
from nnkit.models.published import GLOBAL, Published, as_image_shape, check_pooling, classifier
from nnkit.network import Network
from nnkit.pretrained import Pretrained
from nnkit.tensors import Input

__all__ = ["resnet"]

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}            # residual blocks of each stage
FILTERS = (64, 128, 256, 512)                            # of each stage
FILES = {18: "f37072fd", 34: "b627a593"}                 # the first digits of the sha256 of torchvision's files, as their names carry them


def _published(depth: int) -> Published:
    found = {"torchvision": Pretrained(f"https://download.pytorch.org/models/resnet{depth}-{FILES[depth]}.pth", hash=f"sha256:{FILES[depth]}")}
    return Published(top=found, no_top=found)


def resnet(depth: int = 18, input_shape: Shape = (224, 224, 3), classes: int = 1000, include_top: bool = True, pooling: str | None = None, *,
           weights: Pretrained | str | os.PathLike[str] | None = None, classifier_activation: ActivationFunction | str | None = "softmax",
           trainable: bool = True) -> Network:
    """ResNet-18 or ResNet-34: (height, width, channels) -> a 7 x 7 convolution, a pooling, four stages of residual blocks -> mean -> classes.

    A residual block is x -> relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x)))))), with 3 x 3 convolutions; the first of stages 2 to 4 halves height
    and width, and its shortcut is a 1 x 1 convolution of stride 2 and a normalization, elsewhere x itself.

    Layers, named as torchvision names its modules: conv1, bn1, relu, maxpool; layer1.0.conv1, layer1.0.bn1, ..., layer2.0.downsample.0 (convolution)
    and .1 (normalization), ...; with the top avgpool and fc. torchvision has one module relu for a block; here these are layer1.0.relu and
    layer1.0.relu_2, and the sum is layer1.0.add. 11,689,512 and 21,797,672 trainable parameters, and the moving statistics of the normalizations.
    Normalizations have epsilon 1e-5 and momentum 0.9 (PyTorch's 0.1); their moving variance is the biased one, PyTorch's the unbiased. Convolutions
    start as torchvision's do: normal, of variance 2 / fan_out.

    Args:
        depth: 18 or 34, layers with weights.
        input_shape: (height, width, channels) of an image.
        classes: units of the last layer; of no meaning without the top.
        include_top: whether avgpool and fc follow. Without them the output is (ceil(height / 32), ceil(width / 32), 512).
        pooling: without the top, "avg" or "max": the mean or the largest number of every channel, output (512,). None (default): neither.
        weights: "torchvision": those that it publishes, for `preprocess_input(images, mode="torchvision")`, with 3 channels and, with the top, 1,000
            classes; fetched once where the folder of data has no file of that name. A path or a Pretrained: see there. Default None: drawn.
        classifier_activation: of the last layer, default "softmax"; None: none, the outputs are logits, as in torchvision.
        trainable: False freezes all of it; the normalizations then use their moving statistics.

    Raises:
        ValueError: another depth, an image of other than three axes, classes below 1, an unknown pooling, pooling with the top, published weights for
            other channels or classes.

    He, Zhang, Ren and Sun, Deep residual learning for image recognition (CVPR 2016), table 1; shortcuts of option B.

    >>> resnet(18, (64, 96, 3), include_top=False).graph().output_shapes
    ((2, 3, 512),)
    """
    if type(depth) is not int or depth not in BLOCKS:
        raise ValueError(f"depth must be 18 or 34, received {depth!r}")
    shape = as_image_shape(input_shape, 1)
    check_pooling(pooling, include_top)
    x = Input(shape)
    h = Activation("relu", name="relu")(_normalized(x, 64, 7, 2, "conv1", "bn1"))  # type: ignore[arg-type]
    h = MaxPooling2D(3, 2, 1, name="maxpool")(h)  # type: ignore[arg-type]
    for stage, (count, filters) in enumerate(zip(BLOCKS[depth], FILTERS, strict=True), 1):
        for number in range(count):
            h = _block(h, filters, 2 if stage > 1 and number == 0 else 1, f"layer{stage}.{number}")
    last = classifier(classes, classifier_activation, "fc")              # refuses wrong classes without the top, too
    if include_top:
        h = last(GLOBAL["avg"](name="avgpool")(h))
    elif pooling is not None:
        h = GLOBAL[pooling]()(h)
    reference = _published(depth).reference(weights, include_top, shape, classes, classifier_activation)
    return Network(x, h, name=f"resnet{depth}", trainable=trainable, weights=reference)


def _normalized(x: Any, filters: int, window: int, stride: int, convolution: str, normalization: str) -> Any:
    """A convolution without bias, padded so that stride 1 keeps the places, and a normalization."""
    start = VarianceScaling(scale=2.0, mode="fan_out", distribution="untruncated_normal")
    h = Conv2D(filters, window, stride, window // 2, use_bias=False, kernel_initializer=start, name=convolution)(x)  # type: ignore[arg-type, misc]
    return BatchNormalization(momentum=0.9, epsilon=1e-5, name=normalization)(h)


def _block(x: Any, filters: int, stride: int, name: str) -> Any:
    """A residual block; with a stride its shortcut is a convolution."""
    h = Activation("relu", name=f"{name}.relu")(_normalized(x, filters, 3, stride, f"{name}.conv1", f"{name}.bn1"))  # type: ignore[arg-type]
    h = _normalized(h, filters, 3, 1, f"{name}.conv2", f"{name}.bn2")
    shortcut = _normalized(x, filters, 1, stride, f"{name}.downsample.0", f"{name}.downsample.1") if stride > 1 else x
    return Activation("relu", name=f"{name}.relu_2")(Add(name=f"{name}.add")([h, shortcut]))  # type: ignore[arg-type]
