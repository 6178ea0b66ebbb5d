"""What the functions of this package share that make networks for images: their arguments, and references to published weights."""

from __future__ import annotations

import os
from typing import Any

import attrs

from nnkit.layers.base import Layer, Shape
from nnkit.layers.dense import Dense
from nnkit.layers.pool import GlobalAveragePooling2D, GlobalMaxPooling2D
from nnkit.pretrained import Pretrained
from nnkit.spec import is_of_family
from nnkit.training.feed import as_whole

__all__ = ["GLOBAL", "Published", "as_image_shape", "check_pooling", "classifier"]

GLOBAL = {"avg": GlobalAveragePooling2D, "max": GlobalMaxPooling2D}


@attrs.frozen
class Published:
    """Published weights of a network: references by name, for the network with its top and without. input_shape: what the top is made for; None: any.

    They are of photographs of 3 channels and the 1,000 classes of ImageNet.
    """

    top: dict[str, Pretrained]
    no_top: dict[str, Pretrained]
    torch_names: tuple[tuple[str, str], ...] | None = None
    input_shape: Shape | None = None

    def reference(self, weights: Any, include_top: bool, input_shape: Shape, classes: int, activation: Any) -> Pretrained | None:
        """What the argument `weights` stands for: None, a Pretrained, the name of published weights, or the path of a file of any kind.

        Raises ValueError for anything else, and where published weights do not fit the other arguments.
        """
        if weights is None or is_of_family(weights, "weights"):
            return weights
        if not isinstance(weights, (str, os.PathLike)) or (isinstance(weights, str) and weights not in self.top and weights.isidentifier()):
            raise ValueError(f"weights must be None, {', '.join(map(repr, self.top))}, a Pretrained or the path of a file, './name' where its name "
                             f"has no dot, received {weights!r}")
        if weights not in self.top:
            return Pretrained(os.fspath(weights), torch_names=self.torch_names)
        if input_shape[-1] != 3:
            raise ValueError(f"input_shape must have 3 channels for weights={weights!r}, received {input_shape}")
        if not include_top:
            return self.no_top[weights]  # type: ignore[index]
        if classes != 1000:
            raise ValueError(f"classes must be 1000 for weights={weights!r} with the top, received {classes}")
        if self.input_shape not in (None, input_shape):
            raise ValueError(f"input_shape must be {self.input_shape} for weights={weights!r} with the top, received {input_shape}")
        if activation not in ("softmax", None):
            raise ValueError(f"classifier_activation must be 'softmax' or None for weights={weights!r}, received {activation!r}")
        return self.top[weights]  # type: ignore[index]


def as_image_shape(value: Any, smallest: int) -> tuple[int, int, int]:
    """(height, width, channels) of an image, height and width at least `smallest`. Raises ValueError."""
    if not (isinstance(value, (tuple, list)) and len(value) == 3):
        raise ValueError(f"input_shape must be (height, width, channels), received {value!r}")
    height, width, channels = (as_whole(size, low, "input_shape") for size, low in zip(value, (smallest, smallest, 1), strict=True))
    return height, width, channels


def check_pooling(pooling: Any, include_top: bool) -> None:
    """Raise ValueError for an unknown pooling, and for one with the top."""
    if pooling not in (None, *GLOBAL) or (include_top and pooling is not None):
        rule = "None with the top" if include_top else "'avg', 'max' or None"
        raise ValueError(f"pooling must be {rule}, received {pooling!r}")


def classifier(classes: Any, activation: Any, name: str) -> Layer:
    """The last layer; activation None: its plain sums, the logits."""
    return Dense(as_whole(classes, 1, "classes"), "linear" if activation is None else activation, name=name)  # type: ignore[arg-type]
