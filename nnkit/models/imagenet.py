"""Around networks of ImageNet: images as their weights want them, and what their 1,000 outputs are called.

Images are arrays (..., height, width, 3), red, green and blue from 0 to 255. Cutting and resizing them is for the caller, with the library that reads
them; torchvision's weights were measured on images whose shorter side was made 256, and of which the middle 224 x 224 were taken.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnkit.io.report import FormatError
from nnkit.training.feed import as_whole

__all__ = ["Label", "decode_predictions", "preprocess_input", "read_labels"]

MEAN_BGR = (103.939, 116.779, 123.68)                    # of the training images, 0 to 255: keras/applications/imagenet_utils.py, mode "caffe"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)       # of the training images, 0 to 1: torchvision/transforms/_presets.py

WORDNET = re.compile(r"(n\d{8})\s+(.+)")


def preprocess_input(images: Any, mode: str = "keras") -> np.ndarray:
    """Images (..., height, width, 3), RGB from 0 to 255, as published weights want them; a new array of the same shape.

    Args:
        images: whole numbers or floats; float64 stays float64, anything else becomes float32.
        mode: "keras" (default), for weights="imagenet" of `vgg16`: blue, green, red, less the mean of each; from about -124 to 151.
            "torchvision", for weights="torchvision": x / 255, less the mean of each channel, divided by its deviation; from about -2.1 to 2.6.
            The two kinds of weights do not understand each other's images.

    Raises:
        TypeError: no real numbers. ValueError: another shape, an unknown mode.

    >>> preprocess_input(np.full((1, 1, 3), 255.0)).round(2).tolist()
    [[[151.06, 138.22, 131.32]]]
    """
    if mode not in ("keras", "torchvision"):
        raise ValueError(f"mode must be 'keras' or 'torchvision', received {mode!r}")
    array = np.asarray(images)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"images must be numbers from 0 to 255, received an array of {array.dtype}")
    if array.ndim < 3 or array.shape[-1] != 3:
        raise ValueError(f"images must have shape (..., height, width, 3), received {array.shape}")
    dtype = np.float64 if array.dtype == np.float64 else np.float32
    if mode == "keras":
        return np.subtract(array[..., ::-1], np.asarray(MEAN_BGR, dtype), dtype=dtype)
    values = np.divide(array, dtype(255), dtype=dtype)
    values -= np.asarray(MEAN, dtype)
    values /= np.asarray(DEVIATION, dtype)
    return values


class Label(NamedTuple):
    """A class: its id in WordNet ("n01440764"; empty where a file has none) and its name. Two classes may share a name: there are two cranes."""

    id: str
    name: str


def read_labels(path: str | os.PathLike[str]) -> tuple[Label, ...]:
    """The classes of a network's outputs, in their order.

    path: Keras' imagenet_class_index.json, {"0": ["n01440764", "tench"], ...}; or a text with one class a line, with or without its WordNet id in
    front ("n01440764 tench, Tinca tinca"). Raises OSError where it cannot be read, `FormatError` for anything else, or where a class is missing.
    """
    where = repr(os.fspath(path))
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"labels in {where} must be UTF-8 text: {error}") from None
    if text.lstrip().startswith("{"):
        return _of_index(text, where)
    lines = [line.strip() for line in text.strip().splitlines()]
    if not all(lines) or not lines:
        raise FormatError(f"labels in {where} must be one a line, received {'a blank line' if lines else 'none'}")
    return tuple(Label(*found.groups()) if (found := WORDNET.fullmatch(line)) else Label("", line) for line in lines)


def _of_index(text: str, where: str) -> tuple[Label, ...]:
    """The labels of {"0": [id, name], ...}. Raises FormatError."""
    try:
        index = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"labels in {where} must be JSON: {error}") from None
    found = []
    for number in range(len(index)):
        entry = index.get(str(number))
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
            raise FormatError(f"labels in {where} must have [id, name] for every class from '0' to '{len(index) - 1}', received {entry!r:.80} for "
                              f"'{number}'")
        found.append(Label(*entry))
    if not found:
        raise FormatError(f"labels in {where} must name at least one class, received none")
    return tuple(found)


def decode_predictions(predictions: Any, labels: Sequence[Label], top: int = 5) -> list[list[tuple[str, str, float]]]:
    """For each sample the `top` most probable classes as (id, name, probability), the most probable first.

    Args:
        predictions: (N, classes), what the network's `predict` gives.
        labels: of all classes, as `read_labels` gives them.
        top: how many, 1 to the number of classes; default 5.

    Raises:
        ValueError: another shape, or another number of classes than labels.

    >>> decode_predictions([[0.1, 0.7, 0.2]], [Label("n1", "tench"), Label("n2", "goldfish"), Label("n3", "shark")], top=2)
    [[('n2', 'goldfish', 0.7), ('n3', 'shark', 0.2)]]
    """
    array = np.asarray(predictions)
    if array.ndim != 2 or array.dtype.kind not in "fiu" or array.shape[1] != len(labels):
        raise ValueError(f"predictions must be numbers of shape (samples, {len(labels)}), as there are labels, received {array.dtype} of shape "
                         f"{array.shape}")
    if as_whole(top, 1, "top") > len(labels):
        raise ValueError(f"top must be at most {len(labels)}, the number of labels, received {top}")
    order = np.argsort(-array.astype(float), axis=1, kind="stable")[:, :top]
    return [[(*labels[c], float(row[c])) for c in best] for row, best in zip(array, order, strict=True)]
