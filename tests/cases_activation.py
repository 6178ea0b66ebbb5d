"""Rows of the activations: as layers of their own, inside another, every constant away from its default."""

import math

from cases import Case
from nnkit.layers.activation import (
    CELU, ELU, GELU, SELU, Activation, Exponential, HardSigmoid, HardSiLU, LeakyReLU, Linear, LogSoftmax, Mish, ReLU, Sigmoid, SiLU, Softmax,
    Softplus, Softsign, Tanh, UserActivation, register_activation,
)
from nnkit.layers.dense import Dense


def wide(rng, shape):
    """Numbers on both sides of every bend, a few of them well beyond."""
    return 3 * rng.standard_normal(shape)


register_activation("cases_sine", lambda x: math.sin(x) + 2 * x, lambda x: math.cos(x) + 2)
register_activation("cases_logistic", lambda x: 1 / (1 + math.exp(-2 * x)), lambda y: 2 * y * (1 - y), keeps="y")

ELEMENTWISE = [
    Linear(), ReLU(), ReLU(1.5), ReLU(negative_slope=0.2), ReLU(threshold=0.3), ReLU(2.0, 0.1, 0.7), LeakyReLU(), LeakyReLU(0.07), LeakyReLU(0.0),
    HardSigmoid(), HardSiLU(), Sigmoid(), Tanh(), Exponential(), ELU(), ELU(0.4), SELU(), CELU(), CELU(2.3), GELU(), GELU(True), SiLU(), Mish(),
    Softplus(), Softsign(), UserActivation("cases_sine"), UserActivation("cases_logistic"),
]

CASES = [
    *(Case(f"activation-{spec!r}", [spec], (7,), batch=5, x=wide) for spec in ELEMENTWISE),
    *(Case(f"activation-inside-{spec!r}", [Dense(5, spec), Dense(2, spec)], (3,), batch=4) for spec in ELEMENTWISE),
    Case("activation-layer", [Activation("silu"), Dense(3), Activation(ELU(0.7))], (2, 3), batch=3),
    Case("activation-relu6", [Dense(4), Activation("relu6")], (3,), x=wide),
    Case("activation-no-axes", [Activation("tanh")], (), batch=3),
    Case("activation-empty", [Activation("gelu")], (0,), batch=3),
    Case("activation-axes", [Mish()], (2, 1, 3), batch=2),
    Case("softmax", [Softmax()], (10,), batch=4, x=wide),
    Case("softmax-one", [Softmax()], (1,), batch=3),
    Case("softmax-two", [Softmax()], (2,), batch=9),
    Case("softmax-inside", [Dense(7, "softmax")], (3,), batch=2),
    Case("softmax-registers", [Softmax()], (37,), batch=3, x=wide),
    Case("softmax-more-than-a-block", [Softmax()], (2053,), batch=2, x=wide),
    Case("softmax-inner-axes", [Softmax()], (2, 3, 5), batch=3),
    Case("softmax-axis", [Softmax(axis=1)], (3, 5), batch=4),
    Case("softmax-axis-middle", [Softmax(axis=-2)], (2, 3, 19), batch=2, x=wide),
    Case("softmax-axis-then-ones", [Softmax(axis=-3)], (5, 1, 1), batch=3),
    Case("softmax-axis-one", [Softmax(axis=2)], (2, 1, 3), batch=2),
    Case("softmax-empty", [Softmax()], (0,), batch=3),
    Case("softmax-axis-empty", [Softmax(axis=1)], (0, 3), batch=2),
    Case("softmax-after-it-empty", [Softmax(axis=1)], (3, 0), batch=2),
    Case("log_softmax", [LogSoftmax()], (10,), batch=4, x=wide),
    Case("log_softmax-one", [LogSoftmax()], (1,), batch=11),
    Case("log_softmax-inside", [Dense(7, "log_softmax"), Dense(2)], (3,), batch=2),
    Case("log_softmax-registers", [LogSoftmax()], (41,), batch=3, x=wide),
    Case("log_softmax-more-than-a-block", [LogSoftmax()], (4099,), batch=2, x=wide),
    Case("log_softmax-inner-axes", [LogSoftmax()], (2, 3, 5), batch=3),
    Case("log_softmax-axis", [LogSoftmax(axis=1)], (3, 5), batch=4),
    Case("log_softmax-axis-middle", [LogSoftmax(axis=-2)], (2, 3, 19), batch=2, x=wide),
    Case("log_softmax-axis-empty", [LogSoftmax(axis=1)], (0, 3), batch=2),
]
