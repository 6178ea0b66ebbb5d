"""Rows of PReLU: alone, as an activation, with every pattern of shared axes."""

from cases import Case
from nnkit.layers.dense import Dense
from nnkit.layers.prelu import PReLU
from nnkit.regularizers import L1L2

CASES = [
    Case("prelu", [PReLU()], (5,), batch=7),
    Case("prelu-options", [PReLU("he_normal", alpha_regularizer=L1L2(0.2, 0.3))], (11,), batch=4),
    Case("prelu-shorthand", [Dense(3, "prelu"), Dense(2)], (4,), batch=5),
    Case("prelu-of-dense", [Dense(3, PReLU(shared_axes=1)), Dense(2, PReLU(alpha_initializer="ones"))], (4,), batch=5),
    Case("prelu-of-sequence", [Dense(3, PReLU(shared_axes=1))], (2, 4), batch=5),
    Case("prelu-one", [PReLU()], (1,), batch=67),
    Case("prelu-number", [PReLU(shared_axes=1)], (1,), batch=1),
    Case("prelu-wide", [PReLU()], (71,), batch=3),
    Case("prelu-unshared", [PReLU()], (2, 3, 5), batch=4),
    Case("prelu-channels-last", [PReLU(shared_axes=(1, 2))], (3, 5, 2), batch=4),
    Case("prelu-channels-first", [PReLU(shared_axes=[2, 3])], (3, 5, 2), batch=4),
    Case("prelu-all-shared", [PReLU(shared_axes=(1, 2))], (13, 7), batch=3),
    Case("prelu-middle-shared", [PReLU(shared_axes=(2,))], (3, 5, 2), batch=4),
    Case("prelu-ends-shared", [PReLU(shared_axes=(3, 1))], (3, 5, 2), batch=4),
    Case("prelu-alternating", [PReLU(shared_axes=(2, 4))], (2, 3, 2, 2), batch=3),
    Case("prelu-empty", [PReLU(shared_axes=1)], (0, 3), batch=2),
    Case("prelu-no-feature", [PReLU()], (0,), batch=2),
    Case("prelu-none-within-shared", [PReLU(shared_axes=2)], (3, 0), batch=2),
    Case("prelu-frozen", [Dense(4), PReLU(trainable=False), Dense(3, PReLU(trainable=False)), Dense(2)], (3,), batch=5),
    Case("prelu-between", [Dense(6), PReLU(), Dense(2, "tanh")], (4,), batch=9),
]
