"""VGG16, the network of thirteen 3 x 3 convolutions."""

from __future__ import annotations

import os

from nnkit.layers.activation import ActivationFunction
from nnkit.layers.base import Layer, Shape
from nnkit.layers.conv import Conv2D
from nnkit.layers.dense import Dense
from nnkit.layers.pool import MaxPooling2D
from nnkit.layers.reshape import Flatten
from nnkit.models.published import GLOBAL, Published, as_image_shape, check_pooling, classifier
from nnkit.network import Sequential
from nnkit.pretrained import Pretrained
from nnkit.tensors import Input

__all__ = ["vgg16"]

BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))     # convolutions, and filters of each
SMALLEST = 32                                            # five poolings halve it to 1

KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels"
KERAS_TOP = Pretrained(f"{KERAS}.h5", hash="md5:64373286793e3c8b2b4e3219cbf3544b")
KERAS_NO_TOP = Pretrained(f"{KERAS}_notop.h5", hash="md5:6d6bbae143d832006294945121d1f1fc")

# torchvision numbers the modules of a Sequential, ReLUs and poolings among them.
PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
CONVOLUTIONS = [f"block{block}_conv{number}" for block, (count, _) in enumerate(BLOCKS, 1) for number in range(1, count + 1)]
TORCH_NAMES = (*((name, f"features.{place}") for name, place in zip(CONVOLUTIONS, PLACES, strict=True)),
               ("fc1", "classifier.0"), ("fc2", "classifier.3"), ("predictions", "classifier.6"))
TORCHVISION = Pretrained("https://download.pytorch.org/models/vgg16-397923af.pth", hash="sha256:397923af", torch_names=TORCH_NAMES)

PUBLISHED = Published(top={"imagenet": KERAS_TOP, "torchvision": TORCHVISION}, no_top={"imagenet": KERAS_NO_TOP, "torchvision": TORCHVISION},
                      torch_names=TORCH_NAMES, input_shape=(224, 224, 3))


def vgg16(input_shape: Shape = (224, 224, 3), classes: int = 1000, include_top: bool = True, pooling: str | None = None, *,
          weights: Pretrained | str | os.PathLike[str] | None = None, classifier_activation: ActivationFunction | str | None = "softmax",
          trainable: bool = True) -> Sequential:
    """VGG16: (height, width, channels) -> five blocks of 3 x 3 convolutions with ReLU, each with a 2 x 2 max pooling behind it -> classes.

    Layers, named as Keras names them: block1_conv1, block1_conv2, block1_pool, block2_conv1, ..., block5_pool; with the top flatten, fc1, fc2
    (Dense of 4096 with ReLU) and predictions (Dense with softmax). 138,357,544 parameters by default, 14,714,688 without the top. They start as those
    of the layers do, Glorot uniform; He normal lets so deep a network start better where it is trained from nothing.

    Args:
        input_shape: (height, width, channels) of an image, height and width at least 32.
        classes: units of the last layer; of no meaning without the top.
        include_top: whether the three Dense layers follow the blocks. Without them the output is (height // 32, width // 32, 512).
        pooling: without the top, "avg" or "max": the mean or the largest number of every channel, output (512,). None (default): neither.
        weights: where the parameters come from when `nnkit.compile` is called; default None: they are drawn.
            "imagenet": those that Keras publishes, by the authors of the paper, for images as `preprocess_input(images)` makes them.
            "torchvision": those that torchvision publishes, which are others, for `preprocess_input(images, mode="torchvision")`.
            Each is fetched once where the folder of data has no file of that name: see `Pretrained`. Both want 3 channels, and with the top 1,000
            classes and images of 224 x 224.
            A path: of any of these files, or one that nnkit, Keras or PyTorch wrote of this network, with these names or torchvision's.
        classifier_activation: of the last layer, default "softmax"; None: none, the outputs are logits.
        trainable: False freezes all of it.

    Raises:
        ValueError: an image too small or of other than three axes, classes below 1, an unknown pooling, pooling with the top, published weights for
            other images or classes.

    Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition (ICLR 2015), configuration D.

    >>> vgg16((64, 96, 3), include_top=False).graph().output_shapes
    ((2, 3, 512),)
    """
    shape = as_image_shape(input_shape, SMALLEST)
    check_pooling(pooling, include_top)
    layers: list[Layer] = [Input(shape)]
    for block, (count, filters) in enumerate(BLOCKS, 1):
        layers += [Conv2D(filters, 3, padding="same", activation="relu", name=f"block{block}_conv{number}")  # type: ignore[arg-type, misc]
                   for number in range(1, count + 1)]
        layers.append(MaxPooling2D(2, name=f"block{block}_pool"))  # type: ignore[arg-type]
    last = classifier(classes, classifier_activation, "predictions")     # refuses wrong classes without the top, too
    if include_top:
        layers.append(Flatten(name="flatten"))
        layers += [Dense(4096, "relu", name="fc1"), Dense(4096, "relu", name="fc2"), last]  # type: ignore[arg-type]
    elif pooling is not None:
        layers.append(GLOBAL[pooling]())
    reference = PUBLISHED.reference(weights, include_top, shape, classes, classifier_activation)
    return Sequential(tuple(layers), name="vgg16", trainable=trainable, weights=reference)
