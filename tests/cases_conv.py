"""Rows of the convolutions. Filters 17, 33 and 50 are more than one, two and three registers of float64, of float32 ragged ones."""

from cases import Case
from nnkit.layers.conv import (
    Conv1D,
    Conv1DTranspose,
    Conv2D,
    Conv2DTranspose,
    Conv3D,
    Conv3DTranspose,
    DepthwiseConv1D,
    DepthwiseConv2D,
    SeparableConv1D,
    SeparableConv2D,
)
from nnkit.layers.dense import Dense
from nnkit.layers.norm import BatchNormalization
from nnkit.layers.prelu import PReLU
from nnkit.layers.reshape import Flatten
from nnkit.prims.convolution import ALGORITHMS
from nnkit.regularizers import L1, L1L2, L2

PENALTIES = {"bias_regularizer": L1(0.1), "activity_regularizer": L2(0.7), "bias_initializer": "ones"}

# For each algorithm, layers and samples that it can compute.
GENERAL = [
    (Conv2D, {"filters": 5, "kernel_size": 3}, (6, 7, 3)),
    (Conv2D, {"filters": 17, "kernel_size": (3, 2), "strides": (2, 1), "padding": "same", "use_bias": False}, (5, 4, 2)),
    (Conv2D, {"filters": 34, "kernel_size": 2, "padding": ((0, 1), (2, 0))}, (3, 2, 19)),
    (Conv1D, {"filters": 6, "kernel_size": 3, "padding": "causal", "dilation_rate": 2, "groups": 2}, (7, 4)),
    (Conv3D, {"filters": 3, "kernel_size": 2}, (3, 2, 4, 2)),
    (Conv2DTranspose, {"filters": 3, "kernel_size": 3, "strides": 2, "padding": "same"}, (3, 2, 4)),
    (Conv2DTranspose, {"filters": 18, "kernel_size": (2, 3), "padding": (1, 0), "dilation_rate": 2}, (3, 2, 5)),
    (DepthwiseConv2D, {"kernel_size": 3, "depth_multiplier": 2, "padding": 1}, (4, 5, 3)),
]
PLAIN = [(cls, fields, shape) for cls, fields, shape in GENERAL if cls is not DepthwiseConv2D and not {"groups", "dilation_rate"} & {*fields}]
IMAGES = [
    (Conv2D, {"filters": 5, "kernel_size": 3}, (6, 7, 3)),
    (Conv2D, {"filters": 17, "kernel_size": 3, "padding": "same", "use_bias": False, "activation": "relu"}, (5, 3, 19)),
    (Conv2D, {"filters": 3, "kernel_size": 3, "padding": ((2, 1), (0, 3))}, (1, 9, 2)),
    (Conv2DTranspose, {"filters": 3, "kernel_size": 3, "padding": "same"}, (4, 2, 4)),
    (Conv3D, {"filters": 4, "kernel_size": (1, 3, 3), "padding": (0, 1, 1)}, (2, 3, 3, 2)),
]
NAMED = {
    "taps": GENERAL,
    "direct": GENERAL,
    "few": PLAIN,
    "winograd2": IMAGES,
    "winograd4": IMAGES,
    "product": [
        (Conv2D, {"filters": 19, "kernel_size": 1}, (3, 5, 4)),
        (Conv3D, {"filters": 2, "kernel_size": 1, "use_bias": False}, (2, 3, 1, 3)),
        (Conv1DTranspose, {"filters": 5, "kernel_size": 1}, (6, 3)),
        (Conv1DTranspose, {"filters": 3, "kernel_size": 1, "use_bias": False}, (5, 4)),
        (DepthwiseConv1D, {"kernel_size": 1, "depth_multiplier": 3}, (5, 1)),
    ],
    "depthwise": [
        (DepthwiseConv2D, {"kernel_size": 3, "depth_multiplier": 2, "padding": 1}, (4, 5, 3)),
        (DepthwiseConv2D, {"kernel_size": (2, 3), "strides": (1, 2), "padding": "same", "use_bias": False}, (3, 4, 19)),
        (DepthwiseConv1D, {"kernel_size": 4, "dilation_rate": 2}, (9, 17)),
        (SeparableConv2D, {"filters": 4, "kernel_size": 3, "depth_multiplier": 3}, (4, 3, 2)),
        (Conv3D, {"filters": 6, "kernel_size": 2, "groups": 3}, (2, 3, 2, 3)),
    ],
}
# float32 by Winograd's transforms, which add before and after the products and multiply by numbers other than 1: another digit is lost.
TRANSFORMED = {"winograd2": 1e-4, "winograd4": 1e-4}

CASES = [
    # Conv1D
    Case("conv1d", [Conv1D(4, 3)], (7, 3)),
    Case("conv1d-options", [Conv1D(3, 3, 2, "same", dilation_rate=2, activation="tanh", kernel_initializer="he_normal",
                                   kernel_regularizer=L1L2(0.2, 0.3), **PENALTIES)], (8, 2), batch=4),
    Case("conv1d-causal", [Conv1D(5, 3, padding="causal", dilation_rate=3)], (7, 2)),
    Case("conv1d-causal-strides", [Conv1D(2, 4, 3, "causal")], (11, 3), batch=2),
    Case("conv1d-pair", [Conv1D(3, 2, padding=(3, 1))], (4, 2)),                                        # windows that see nothing but padding
    Case("conv1d-strides-beyond-the-window", [Conv1D(2, 2, 5)], (13, 3)),                               # places that no window covers
    Case("conv1d-one-of-each", [Conv1D(1, 1)], (1, 1), batch=1),
    Case("conv1d-same-shorter-than-the-window", [Conv1D(2, 7, padding="same")], (2, 3)),
    Case("conv1d-groups", [Conv1D(6, 3, groups=3, use_bias=False)], (5, 6), batch=2),
    Case("conv1d-no-step", [Conv1D(3, 3, padding="same")], (0, 2), batch=2),
    Case("conv1d-no-channel", [Conv1D(3, 2)], (4, 0), batch=2),
    # Conv2D
    Case("conv2d", [Conv2D(5, 3)], (5, 6, 3)),
    Case("conv2d-not-square", [Conv2D(3, (2, 5), (3, 1), "same", activation="relu")], (7, 4, 2)),
    Case("conv2d-odd-zero-behind", [Conv2D(2, (4, 2), 2, "same")], (5, 7, 1)),
    Case("conv2d-dilation", [Conv2D(4, (3, 2), padding=((2, 0), (1, 3)), dilation_rate=(1, 3))], (3, 5, 2), batch=2),
    Case("conv2d-strides-and-dilation", [Conv2D(3, 2, (2, 3), padding=(1, 2), dilation_rate=2)], (6, 5, 2), batch=2),
    Case("conv2d-ragged-17", [Conv2D(17, 2)], (3, 4, 5), batch=2),
    Case("conv2d-ragged-33", [Conv2D(33, (1, 3), padding="same")], (2, 5, 3), batch=2),
    Case("conv2d-ragged-50", [Conv2D(50, 1)], (2, 3, 19), batch=2),
    Case("conv2d-channels-16", [Conv2D(3, 3, padding="same", use_bias=False)], (3, 3, 16), batch=2),
    Case("conv2d-channels-130", [Conv2D(2, 2)], (2, 3, 130), batch=1),                                  # several blocks of the kernel's gradient
    Case("conv2d-one-channel", [Conv2D(4, 3, padding="same")], (6, 5, 1), batch=9),                     # images enough to share them out
    Case("conv2d-one-filter", [Conv2D(1, 3)], (3, 5, 4)),
    Case("conv2d-whole-image", [Conv2D(3, (4, 3))], (4, 3, 2), batch=5),
    Case("conv2d-many-rows", [Conv2D(2, (3, 1))], (23, 2, 1), batch=1),                                 # one image in pieces
    Case("conv2d-groups", [Conv2D(6, 3, 2, "same", groups=2)], (5, 4, 4), batch=2),
    Case("conv2d-groups-of-one", [Conv2D(6, 2, groups=3, dilation_rate=(2, 1))], (4, 3, 3), batch=2),
    Case("conv2d-prelu", [Conv2D(3, 2, activation=PReLU(shared_axes=(1, 2)))], (3, 4, 2), batch=4),
    Case("conv2d-penalties", [Conv2D(2, 2, kernel_regularizer=L2(0.3), **PENALTIES)], (3, 3, 2), batch=4),
    Case("conv2d-frozen", [Conv2D(2, 2, activation="tanh"), Conv2D(3, 2, activation="tanh", trainable=False), Conv2D(1, 1)], (4, 4, 2), batch=2),
    Case("conv2d-classifier", [Conv2D(3, 3, activation="relu", padding="same"), Conv2D(4, 3, 2), BatchNormalization(), Flatten(), Dense(2)],
         (7, 6, 1), batch=4),
    Case("conv2d-no-row", [Conv2D(3, 2, padding="same")], (0, 3, 2), batch=2),
    Case("conv2d-only-padding", [Conv2D(2, 3, padding=2)], (0, 1, 3), batch=2),
    Case("conv2d-no-channel", [Conv2D(3, 2)], (3, 3, 0), batch=2),
    # Conv3D
    Case("conv3d", [Conv3D(3, 2)], (3, 4, 2, 2), batch=2),
    Case("conv3d-options", [Conv3D(4, (1, 2, 3), (2, 1, 3), "same", dilation_rate=(1, 2, 1), groups=2, kernel_regularizer=L1(0.1))],
         (3, 3, 5, 2), batch=2),
    Case("conv3d-pairs", [Conv3D(2, 2, padding=((1, 0), (0, 2), (1, 1)), activation="sigmoid", use_bias=False)], (2, 1, 3, 1), batch=2),
    Case("conv3d-pointwise", [Conv3D(7, 1)], (1, 3, 2, 5), batch=2),
    # Transposed
    Case("conv1d_transpose", [Conv1DTranspose(3, 3)], (4, 2)),
    Case("conv1d_transpose-gaps", [Conv1DTranspose(2, 2, 5)], (3, 2)),                                  # places that no number reaches
    Case("conv1d_transpose-same", [Conv1DTranspose(4, 4, 3, "same", activation="tanh")], (3, 3), batch=2),
    Case("conv1d_transpose-output_padding", [Conv1DTranspose(3, 3, 3, "same", 1)], (4, 2), batch=2),
    Case("conv1d_transpose-dilation", [Conv1DTranspose(3, 3, padding="same", dilation_rate=2)], (5, 1)),
    Case("conv1d_transpose-pair", [Conv1DTranspose(2, 4, 2, (1, 3), output_padding=1, kernel_regularizer=L1L2(0.2, 0.1), **PENALTIES)],
         (4, 3), batch=2),
    Case("conv1d_transpose-no-step", [Conv1DTranspose(2, 3)], (0, 2), batch=2),
    Case("conv2d_transpose", [Conv2DTranspose(3, 3, 2, "same")], (3, 4, 2), batch=2),
    Case("conv2d_transpose-options", [Conv2DTranspose(2, (3, 2), (1, 3), padding=(1, 0), output_padding=(0, 2), kernel_initializer="he_normal")],
         (3, 2, 5), batch=2),
    Case("conv2d_transpose-ragged", [Conv2DTranspose(17, 2, use_bias=False)], (2, 3, 3), batch=2),
    Case("conv2d_transpose-strides-and-dilation", [Conv2DTranspose(2, (2, 3), (2, 1), output_padding=(1, 0), dilation_rate=(3, 2))],
         (2, 3, 1), batch=9),
    Case("conv2d_transpose-decoder", [Dense(8, "relu"), Conv2DTranspose(2, 3, 2, "same", activation="relu"), Conv2D(1, 3, padding="same")], (2, 2, 3),
         batch=2),
    Case("conv2d_transpose-frozen", [Conv2D(2, 2), Conv2DTranspose(2, 2, trainable=False)], (3, 3, 1), batch=2),
    Case("conv3d_transpose", [Conv3DTranspose(2, 2, (1, 2, 3), "same")], (2, 1, 2, 3), batch=2),
    Case("conv3d_transpose-valid", [Conv3DTranspose(2, (2, 1, 3), 2, output_padding=1)], (1, 2, 2, 1), batch=2),
    # Depthwise
    Case("depthwise_conv1d", [DepthwiseConv1D(3)], (6, 5)),
    Case("depthwise_conv1d-options", [DepthwiseConv1D(2, 2, (1, 2), 3, dilation_rate=2, depthwise_initializer="he_normal",
                                                      depthwise_regularizer=L1L2(0.2, 0.3), **PENALTIES)], (5, 2), batch=4),
    Case("depthwise_conv1d-no-channel", [DepthwiseConv1D(2)], (3, 0), batch=2),
    Case("depthwise_conv2d", [DepthwiseConv2D(3, padding="same")], (4, 5, 3), batch=2),
    Case("depthwise_conv2d-ragged", [DepthwiseConv2D((3, 2), activation="tanh")], (3, 4, 19), batch=2),
    Case("depthwise_conv2d-multiplier", [DepthwiseConv2D(2, (2, 1), "same", depth_multiplier=5, use_bias=False)], (5, 3, 2), batch=9),
    Case("depthwise_conv2d-one-channel", [DepthwiseConv2D((1, 3), dilation_rate=(1, 2), depth_multiplier=3)], (2, 7, 1)),
    # Separable
    Case("separable_conv1d", [SeparableConv1D(4, 3)], (6, 3)),
    Case("separable_conv1d-options", [SeparableConv1D(3, 2, 2, "same", 2, depthwise_regularizer=L1(0.1), pointwise_regularizer=L2(0.2),
                                                      activation="tanh", pointwise_initializer="he_normal", **PENALTIES)], (5, 2), batch=4),
    Case("separable_conv1d-no-step", [SeparableConv1D(3, 2, padding="same")], (0, 2), batch=2),
    Case("separable_conv2d", [SeparableConv2D(5, 3, padding="same")], (4, 3, 3), batch=2),
    Case("separable_conv2d-options", [SeparableConv2D(2, (2, 3), padding=(1, 0), dilation_rate=(2, 1), depth_multiplier=3, use_bias=False)],
         (4, 5, 2), batch=2),
    # Every algorithm by its name
    *(Case(f"{cls.__name__.lower()}-{algorithm}-{number}", [cls(**fields, algorithm=algorithm)], shape, batch=2,
           single=TRANSFORMED.get(algorithm, 2e-5))
      for algorithm in ALGORITHMS for number, (cls, fields, shape) in enumerate(NAMED[algorithm])),
]
