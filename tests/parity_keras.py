"""A drawn network in Keras 3, float64: the same parameters and, since nnkit follows Keras, the same names and formulas throughout."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest

import nnkit
from nnkit.layers.conv import Convolutional
from nnkit.layers.window import Spatial
from nnkit.optimizers.schedules import Schedule
from nnkit.regularizers import Regularizer
from nnkit.spec import Spec
from parity_draw import Drawn, Results

# On TensorFlow and JAX Keras makes float32 of Python's numbers (slopes, rates, constants), and float64 results are good to 1e-7 only.
os.environ.setdefault("KERAS_BACKEND", "torch")
torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")
if keras.backend.backend() != "torch":
    pytest.skip(f"Keras runs on {keras.backend.backend()}, where float64 is not exact", allow_module_level=True)
from keras.src.backend.common.dtypes import BIT64_TO_BIT32_DTYPE  # noqa: E402
from keras.src.backend.torch import nn as torch_backend  # noqa: E402

torch.set_num_threads(1)                                 # small products: a second thread only waits
# On PyTorch Keras rounds float64 results of matmul and others to float32; no public setting stops it (Keras 3.15).
BIT64_TO_BIT32_DTYPE["float64"] = "float64"
torch_backend.softplus = lambda x: torch.nn.functional.softplus(x, threshold=40)     # PyTorch's own, 20, is 2e-9 off: see parity_torch.py
# It hands PyTorch views of kernels, of which some gradients are refused: "grad_weight needs to be contiguous" (PyTorch 2.13).
transpose_kernel = torch_backend._transpose_conv_kernel
torch_backend._transpose_conv_kernel = lambda kernel: transpose_kernel(kernel).contiguous()

__all__ = ["run", "run_layer", "run_merge"]


def arguments(spec: Spec) -> dict[str, Any]:
    """The fields as Keras' arguments, but for those that are nnkit's alone. Initializers are left out: all parameters are copied."""
    own = ("name", "row_updates", "learning_rate_factor")
    fields = [field.alias for field in attrs.fields(type(spec)) if field.alias not in own and not field.alias.endswith("_initializer")]
    return {name: convert(getattr(spec, name)) for name in fields}


def convert(value: Any) -> Any:
    """A regularizer or schedule as Keras'; anything else as it is."""
    if isinstance(value, Regularizer):
        return getattr(keras.regularizers, type(value).__name__)(**arguments(value))
    if isinstance(value, Schedule):
        return getattr(keras.optimizers.schedules, type(value).__name__)(**arguments(value))
    return list(value) if isinstance(value, tuple) else value


ACTIVATIONS: dict[type, Callable[[Any, Any], Any]] = {
    nnkit.Linear: lambda spec, x: x,
    nnkit.ReLU: lambda spec, x: keras.activations.relu(x, spec.negative_slope, spec.max_value, spec.threshold),
    nnkit.LeakyReLU: lambda spec, x: keras.activations.leaky_relu(x, spec.negative_slope),
    # Not hard_sigmoid and celu, which are PyTorch's on that backend: their derivatives take 1/6 and alpha as float32.
    nnkit.HardSigmoid: lambda spec, x: keras.ops.relu6(x + 3) / 6,
    nnkit.HardSiLU: lambda spec, x: keras.activations.hard_silu(x),
    nnkit.Sigmoid: lambda spec, x: keras.activations.sigmoid(x),
    nnkit.Tanh: lambda spec, x: keras.activations.tanh(x),
    nnkit.Exponential: lambda spec, x: keras.activations.exponential(x),
    nnkit.ELU: lambda spec, x: keras.activations.elu(x, spec.alpha),
    nnkit.SELU: lambda spec, x: keras.activations.selu(x),
    nnkit.CELU: lambda spec, x: spec.alpha * keras.activations.elu(x / spec.alpha),
    nnkit.GELU: lambda spec, x: keras.activations.gelu(x, spec.approximate),
    nnkit.SiLU: lambda spec, x: keras.activations.silu(x),
    nnkit.Mish: lambda spec, x: keras.activations.mish(x),
    nnkit.Softplus: lambda spec, x: keras.activations.softplus(x),
    nnkit.Softsign: lambda spec, x: keras.activations.softsign(x),
    nnkit.Softmax: lambda spec, x: keras.activations.softmax(x, spec.axis),
    nnkit.LogSoftmax: lambda spec, x: keras.activations.log_softmax(x, spec.axis),
}


def function(spec: Any) -> Callable[[Any], Any]:
    return lambda x: ACTIVATIONS[type(spec)](spec, x)


def activation_layers(spec: Any) -> list[Any]:
    """A layer where Keras has one, else its function in an Activation."""
    if isinstance(spec, (nnkit.ReLU, nnkit.LeakyReLU, nnkit.PReLU, nnkit.Softmax)):
        return [getattr(keras.layers, type(spec).__name__)(**arguments(spec))]
    return [keras.layers.Activation(function(spec))]


def activated_layers(spec: Any, given: dict[str, Any]) -> list[Any]:
    """PReLU as the activation of a Dense or convolution is a layer of its own in Keras; the penalty on the activity moves there."""
    layer = getattr(keras.layers, type(spec).__name__)
    if not isinstance(spec.activation, nnkit.PReLU):
        return [layer(**{**given, "activation": function(spec.activation)})]
    activity = given.pop("activity_regularizer")
    linear = layer(**{**given, "activation": None})
    return [linear, keras.layers.PReLU(**{**arguments(spec.activation), "trainable": spec.trainable}, activity_regularizer=activity)]


def convolution_layers(spec: Any) -> list[Any]:
    """Keras pads by words only; other zeros are a layer of their own."""
    given = arguments(spec)
    del given["algorithm"]
    if isinstance(spec.padding, str):
        return activated_layers(spec, given)
    zeros = spec.padding if spec.rank > 1 else spec.padding[0]
    return [getattr(keras.layers, f"ZeroPadding{spec.rank}D")(zeros), *activated_layers(spec, {**given, "padding": "valid"})]


def layers_of(spec: Any) -> list[Any]:
    """The Keras layers that do what the spec does."""
    if isinstance(spec, nnkit.Dense):
        return activated_layers(spec, arguments(spec))
    if isinstance(spec, Convolutional):
        return convolution_layers(spec)
    if isinstance(spec, nnkit.Activation):
        return activation_layers(spec.activation)
    if isinstance(spec, (nnkit.BatchNormalization, nnkit.LayerNormalization, nnkit.Dropout, nnkit.GaussianNoise, nnkit.Flatten, nnkit.Reshape)):
        return [getattr(keras.layers, type(spec).__name__)(**arguments(spec))]
    if isinstance(spec, Spatial):
        return [getattr(keras.layers, type(spec).__name__)(**places(spec))]
    return activation_layers(spec)


def places(spec: Any) -> dict[str, Any]:
    """The fields of a layer over places as Keras' arguments: of one axis it takes the number or pair itself; nothing there is trained."""
    found = {name: value for name, value in arguments(spec).items() if name != "trainable"}
    return {name: value[0] if spec.rank == 1 and isinstance(value, list) else value for name, value in found.items()}


class Network:
    """The drawn network as a compiled Keras model; variables by nnkit's names."""

    def __init__(self, drawn: Drawn) -> None:
        keras.utils.clear_session(free_memory=False)
        found = [(node, layers_of(node.layer)) for node in drawn.network.graph().nodes[1:]]
        self.model = keras.Sequential([keras.Input(drawn.input_shape), *(layer for _, layers in found for layer in layers)])
        self.model.compile(optimizer=getattr(keras.optimizers, type(drawn.optimizer).__name__)(**arguments(drawn.optimizer)),
                           loss=getattr(keras.losses, type(drawn.loss).__name__)(**arguments(drawn.loss)), run_eagerly=True)
        self.variables = {f"{node.name}/{variable.name}": variable for node, layers in found for layer in layers for variable in layer.weights
                          if "seed" not in variable.path}
        self.trainable = [name for name, variable in self.variables.items() if any(variable is v for v in self.model.trainable_variables)]
        self.rows = drawn.network.graph().output_shapes[0][:-1]
        self.set(drawn.parameters())

    def set(self, values: dict[str, np.ndarray]) -> None:
        assert values.keys() == self.variables.keys()
        for name, variable in self.variables.items():
            variable.assign(values[name])

    def weights(self, w: np.ndarray | None) -> np.ndarray | None:
        """A weight for each row: Keras does not spread a sample's weight over the rows of a sequence."""
        return None if w is None else np.broadcast_to(w.reshape(-1, *[1] * len(self.rows)), (len(w), *self.rows)).copy()

    def loss(self, x: Any, t: np.ndarray, w: np.ndarray | None, training: bool) -> tuple[Any, Any]:
        """Output and loss, penalties included."""
        y = self.model(x, training=training)
        t = keras.ops.convert_to_tensor(t)
        w = None if w is None else keras.ops.convert_to_tensor(self.weights(w))
        return y, self.model.compute_loss(x=x, y=t, y_pred=y, sample_weight=w, training=training)

    def gradients(self, x: np.ndarray, t: np.ndarray, w: np.ndarray | None) -> dict[str, np.ndarray]:
        """By name, that of the input as "x". Moving statistics move."""
        names, inputs = ["x", *self.trainable], keras.ops.convert_to_tensor(x)
        weights = [self.variables[name].value for name in self.trainable]
        inputs.requires_grad_(True)
        found = torch.autograd.grad(self.loss(inputs, t, w, True)[1], [inputs, *weights], allow_unused=True, materialize_grads=True)
        return dict(zip(names, map(keras.ops.convert_to_numpy, found), strict=True))

    def values(self) -> dict[str, np.ndarray]:
        return {name: np.array(keras.ops.convert_to_numpy(variable)) for name, variable in self.variables.items()}


def run(drawn: Drawn) -> Results:
    """Keras' results."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        network, batches = Network(drawn), drawn.batches()
        x, t, w = batches[0]
        y, loss = network.loss(keras.ops.convert_to_tensor(x), t, w, False)
        predictions, loss = keras.ops.convert_to_numpy(y), float(keras.ops.convert_to_numpy(loss))
        if not drawn.updates:
            return Results(predictions, loss, {}, [])
        gradients, trained, outputs = network.gradients(x, t, w), [drawn.parameters()], []
        for x, t, w in batches:
            network.set(trained[-1])
            outputs.append(keras.ops.convert_to_numpy(network.model(keras.ops.convert_to_tensor(x), training=True)))
            network.set(trained[-1])                     # moving statistics moved
            network.model.train_on_batch(x, t, sample_weight=network.weights(w))
            trained.append(network.values())
        return Results(predictions, loss, gradients, trained[1:], outputs)
    finally:
        keras.config.set_floatx(before)


def run_layer(layer: Any, x: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Output and input gradient of a layer without parameters, where the output's gradient is dy."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        inputs = torch.tensor(x, requires_grad=True)
        (made,) = layers_of(layer)
        y = made(inputs)
        (dx,) = torch.autograd.grad(y, inputs, torch.tensor(dy))
        return keras.ops.convert_to_numpy(y), dx.numpy()
    finally:
        keras.config.set_floatx(before)


def run_merge(layer: Any, x: tuple[np.ndarray, ...], dy: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Output and input gradients of a merge layer, where the output's gradient is dy."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        xs = [torch.tensor(values, requires_grad=True) for values in x]
        y = getattr(keras.layers, type(layer).__name__)(**arguments(layer))(xs)
        found = torch.autograd.grad(y, xs, torch.tensor(dy))
        return keras.ops.convert_to_numpy(y), [gradient.numpy() for gradient in found]
    finally:
        keras.config.set_floatx(before)
