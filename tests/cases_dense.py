"""Rows of Dense and of whole small networks."""

from cases import Case
from nnkit.layers.dense import Dense
from nnkit.regularizers import L1, L1L2, L2, KLSparsity

CASES = [
    Case("dense", [Dense(4)], (3,)),
    Case("dense-prime", [Dense(7, "tanh")], (5,), batch=11),
    Case("dense-tiles", [Dense(53, "sigmoid")], (37,), batch=19),                   # more than one register, ragged tiles
    Case("dense-deep", [Dense(3)], (263,), batch=2),                                # two blocks of the product's depth
    Case("dense-wide", [Dense(101)], (2,), batch=1),
    Case("dense-no-bias", [Dense(5, use_bias=False)], (2,), batch=7),
    Case("dense-one-unit", [Dense(1)], (13,), batch=5),
    Case("dense-one-input", [Dense(6, "tanh")], (1,), batch=5),
    Case("dense-one-of-each", [Dense(1)], (1,), batch=1),
    Case("dense-inner-axes", [Dense(5, "tanh")], (2, 3, 7), batch=3),
    Case("dense-no-input", [Dense(3)], (0,), batch=4),
    Case("dense-no-row", [Dense(3)], (0, 2), batch=4),
    Case("dense-penalties", [Dense(3, kernel_regularizer=L1L2(0.3, 0.2), bias_regularizer=L1(0.1), activity_regularizer=L2(0.7))], (5,), batch=4),
    Case("dense-frozen", [Dense(4, "tanh"), Dense(3, "tanh", trainable=False), Dense(2)], (5,), batch=4),
    Case("dense-stack", [Dense(6, "tanh", name="first"), Dense(5, "sigmoid", activity_regularizer=L1(0.1)), Dense(2)], (3,), batch=9),
    Case("dense-sparsity", [Dense(5, "sigmoid", activity_regularizer=KLSparsity(0.1, 0.7)), Dense(2)], (3,), batch=7),
    Case("dense-sparsity-inner-axes", [Dense(11, "sigmoid", activity_regularizer=KLSparsity(0.6, 2.0))], (2, 3, 4), batch=3),
    Case("dense-sparsity-one", [Dense(1, "sigmoid", activity_regularizer=KLSparsity(0.3, 0.1))], (1,), batch=1),
    Case("dense-sparsity-no-row", [Dense(3, "sigmoid", activity_regularizer="kl_sparsity")], (0, 2), batch=4),
]
