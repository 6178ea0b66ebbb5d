"""Convolutions and poolings: single layers on the tape, forward and with their gradients; an epoch on images; the plan of VGG16."""

import os

import numpy as np

import nnkit
from nnkit import (
    AveragePooling2D,
    Conv1D,
    Conv2D,
    Conv2DTranspose,
    Conv3D,
    Dense,
    DepthwiseConv2D,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    MaxPooling2D,
    MaxPooling3D,
    SeparableConv2D,
    Sequential,
)

from . import kernels

THREADS = min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
BATCH = 16
LAYERS = {
    "conv1d 5, 64-64, 256": ((256, 64), Conv1D(64, 5, padding="same")),
    "conv2d 3x3, 1-32, 28x28": ((28, 28, 1), Conv2D(32, 3)),
    "conv2d 3x3, 3-64, 56x56": ((56, 56, 3), Conv2D(64, 3, padding="same")),
    "conv2d 3x3, 64-64, 28x28": ((28, 28, 64), Conv2D(64, 3, padding="same")),
    "conv2d 3x3, 256-256, 14x14": ((14, 14, 256), Conv2D(256, 3, padding="same")),
    "conv2d 1x1, 64-256, 28x28": ((28, 28, 64), Conv2D(256, 1)),
    "conv2d 5x5, 16-32, 28x28": ((28, 28, 16), Conv2D(32, 5)),
    "conv2d 3x3 strides 2, 32-64, 28x28": ((28, 28, 32), Conv2D(64, 3, strides=2, padding="same")),
    "conv2d 3x3 dilation 2, 32-32, 28x28": ((28, 28, 32), Conv2D(32, 3, dilation_rate=2, padding="same")),
    "conv2d 3x3 groups 4, 64-64, 28x28": ((28, 28, 64), Conv2D(64, 3, groups=4, padding="same")),
    "conv3d 3x3x3, 1-32, 16x16x16": ((16, 16, 16, 1), Conv3D(32, 3)),
    "conv3d 3x3x3, 16-32, 16x16x16": ((16, 16, 16, 16), Conv3D(32, 3)),
    "depthwise 3x3, 64, 56x56": ((56, 56, 64), DepthwiseConv2D(3, padding="same")),
    "separable 3x3, 64-64, 28x28": ((28, 28, 64), SeparableConv2D(64, 3, padding="same")),
    "transpose 3x3 strides 2, 64-32, 14x14": ((14, 14, 64), Conv2DTranspose(32, 3, strides=2, padding="same")),
    "max pooling 2x2, 64, 56x56": ((56, 56, 64), MaxPooling2D(2)),
    "max pooling 3x3 strides 2, 64, 56x56": ((56, 56, 64), MaxPooling2D(3, strides=2, padding="same")),
    "max pooling 2x2x2, 32, 16x16x16": ((16, 16, 16, 32), MaxPooling3D(2)),
    "average pooling 2x2, 64, 56x56": ((56, 56, 64), AveragePooling2D(2)),
    "global average pooling 64, 56x56": ((56, 56, 64), GlobalAveragePooling2D()),
}


class Layers:
    params = tuple(LAYERS)
    param_names = ("layer",)

    def setup(self, name):
        shape, layer = LAYERS[name]
        rng = np.random.default_rng(0)
        x = rng.standard_normal((BATCH, *shape), dtype=np.float32)
        model = nnkit.compile(Sequential([Input(shape), layer]), seed=0, threads=THREADS)
        dy = rng.standard_normal((BATCH, *model.output_shape), dtype=np.float32)
        made = kernels.passes(model, x, dy)
        (self.forward, values), (self.both, gradients) = made["forward"], made["forward and backward"]
        self.forward(1)
        y = values["y"].copy()
        np.testing.assert_array_equal(y, model.predict(x, batch_size=BATCH))
        self.both(1)
        # Without a bias y is of degree 1 in x and in every kernel (Euler): sum y dy = sum x dx = sum W dW. Sums of many numbers of both signs.
        sum_of = {"x": x, **{key: value for key, value in model.parameters.items() if key.endswith("kernel")}}
        tolerance = 1e-4 * np.linalg.norm(y) * np.linalg.norm(dy) / np.sqrt(y.size) * np.log2(y.size)
        for key, value in sum_of.items():
            assert abs(np.vdot(value.astype(float), gradients[key]) - np.vdot(y.astype(float), dy)) < tolerance

    def time_forward(self, name):
        self.forward(1)

    def time_forward_and_backward(self, name):
        self.both(1)


class DigitsCNN:
    """An epoch of 44 steps: images of 8 x 8, Conv2D 32 of 3 x 3, max pooling, Dense 128, Dense 10, batch 32."""

    def setup(self):
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((44 * 32, 8, 8, 1), dtype=np.float32)
        self.y = (self.x.reshape(-1, 64) @ rng.standard_normal((64, 10), dtype=np.float32)).argmax(axis=1)
        spec = Sequential([Input((8, 8, 1)), Conv2D(32, 3, activation="relu"), MaxPooling2D(2), Flatten(), Dense(128, activation="relu"),
                           Dense(10, activation="softmax")])
        self.model = nnkit.compile(spec, optimizer="adam", loss="sparse_categorical_crossentropy", seed=0)
        before = self.model.evaluate(self.x, self.y)["loss"]
        for _ in range(3):
            self.time_epoch()
        assert self.model.evaluate(self.x, self.y)["loss"] < before

    def time_epoch(self):
        self.model.fit(self.x, self.y, batch_size=32, epochs=1, verbose=0)

    def time_predict_all(self):
        self.model.predict(self.x)


class VGG16:
    """The network without its top: nothing is run."""

    def setup(self):
        spec = nnkit.models.vgg16(include_top=False, pooling="avg")
        self.model = nnkit.compile(spec, optimizer="sgd", loss="mse", seed=0)
        assert "block5_conv3" in str(self.model.build_plan("train", 8))

    def time_declare(self):
        nnkit.models.vgg16()

    def time_build_plan(self):
        self.model.build_plan("train", 8)

    def track_arena_share(self):
        """Bytes of the arena of a training step of 8 images for each byte that its buffers would need apart."""
        plan = self.model.build_plan("train", 8)
        return plan.arena_bytes / plan.separate_bytes
