"""Rows of the activations: as layers of their own, inside another, every constant away from its default."""

import math

import nnkit.layers.activation as act
from cases import Case
from nnkit.layers.dense import Dense


def wide(rng, shape):
    """Numbers on both sides of every bend, a few of them well beyond."""
    return 3 * rng.standard_normal(shape)


act.register_activation("cases_sine", lambda x: math.sin(x) + 2 * x, lambda x: math.cos(x) + 2)
act.register_activation("cases_logistic", lambda x: 1 / (1 + math.exp(-2 * x)), lambda y: 2 * y * (1 - y), keeps="y")

ELEMENTWISE = [
    act.Linear(), act.ReLU(), act.ReLU(1.5), act.ReLU(negative_slope=0.2), act.ReLU(threshold=0.3), act.ReLU(2.0, 0.1, 0.7), act.LeakyReLU(),
    act.LeakyReLU(0.07), act.LeakyReLU(0.0), act.HardSigmoid(), act.HardSiLU(), act.Sigmoid(), act.Tanh(), act.Exponential(), act.ELU(),
    act.ELU(0.4), act.SELU(), act.CELU(), act.CELU(2.3), act.GELU(), act.GELU(True), act.SiLU(), act.Mish(), act.Softplus(), act.Softsign(),
    act.UserActivation("cases_sine"), act.UserActivation("cases_logistic"),
]
INSIDE = [                                               # from x and from y
    act.Linear(), act.ReLU(), act.ReLU(2.0, 0.1, 0.7), act.HardSiLU(), act.Tanh(), act.CELU(2.3), act.GELU(), act.UserActivation("cases_logistic"),
]

CASES = [
    *(Case(f"activation-{spec!r}", [spec], (7,), batch=5, x=wide) for spec in ELEMENTWISE),
    *(Case(f"activation-inside-{spec!r}", [Dense(5, spec), Dense(2, spec)], (3,), batch=4) for spec in INSIDE),
    Case("activation-layer", [act.Activation("silu"), Dense(3), act.Activation(act.ELU(0.7))], (2, 3), batch=3),
    Case("activation-relu6", [Dense(4), act.Activation("relu6")], (3,), x=wide),
    Case("activation-no-axes", [act.Activation("tanh")], (), batch=3),
    Case("activation-empty", [act.Activation("gelu")], (0,), batch=3),
    Case("activation-axes", [act.Mish()], (2, 1, 3), batch=2),
]
