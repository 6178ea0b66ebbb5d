"""References of the activations: the formulas, in float64."""

import numpy as np
from scipy import special

from nnkit.layers.activation import REGISTERED


def linear(spec, parameters, x, training=False):
    return x


def relu(spec, parameters, x, training=False):
    y = np.empty_like(x)
    for place, value in np.ndenumerate(x):
        if value > spec.threshold:
            y[place] = value if spec.max_value is None else min(value, spec.max_value)
        else:
            y[place] = spec.negative_slope * (value - spec.threshold) if spec.negative_slope else 0
    return y


def leaky_relu(spec, parameters, x, training=False):
    return np.where(x > 0, x, spec.negative_slope * x)


def hard_sigmoid(spec, parameters, x, training=False):
    return np.clip(x + 3, 0, 6) / 6


def hard_silu(spec, parameters, x, training=False):
    return np.maximum(x, -3) * np.clip(x + 3, 0, 6) / 6


def sigmoid(spec, parameters, x, training=False):
    return special.expit(x)


def tanh(spec, parameters, x, training=False):
    return np.tanh(x)


def exponential(spec, parameters, x, training=False):
    return np.exp(x)


def elu(spec, parameters, x, training=False):
    return np.where(x > 0, x, spec.alpha * np.expm1(np.minimum(x, 0)))


def selu(spec, parameters, x, training=False):
    return 1.0507009873554804934193349852946 * np.where(x > 0, x, 1.6732632423543772848170429916717 * np.expm1(np.minimum(x, 0)))


def celu(spec, parameters, x, training=False):
    return np.maximum(x, 0) + np.minimum(0, spec.alpha * np.expm1(np.minimum(x, 0) / spec.alpha))


def gelu(spec, parameters, x, training=False):
    if spec.approximate:
        return x * special.expit(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    return x * special.ndtr(x)


def silu(spec, parameters, x, training=False):
    return x * special.expit(x)


def mish(spec, parameters, x, training=False):
    return x * np.tanh(softplus(spec, parameters, x))


def softplus(spec, parameters, x, training=False):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def softsign(spec, parameters, x, training=False):
    return x / (1 + np.abs(x))


def user_activation(spec, parameters, x, training=False):
    f = REGISTERED[spec.function].f
    return np.array([f(value) for value in x.flat]).reshape(x.shape)


def activation(spec, parameters, x, training=False):
    import naive
    return naive.forward(spec.activation, parameters, x, training)
