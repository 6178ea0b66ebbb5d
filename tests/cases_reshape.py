"""Rows of the layers that only change a shape."""

from cases import Case
from nnkit.layers.dense import Dense
from nnkit.layers.reshape import Flatten, Reshape

CASES = [
    Case("flatten", [Flatten()], (2, 3, 5), batch=4),
    Case("flatten-flat", [Dense(3, "tanh"), Flatten(), Dense(2)], (7,), batch=3),
    Case("flatten-between", [Dense(3, "tanh"), Flatten(), Dense(2)], (4, 5), batch=3),
    Case("flatten-no-axes", [Flatten(), Dense(2)], (), batch=3),
    Case("flatten-empty", [Flatten()], (3, 0), batch=2),
    Case("reshape", [Reshape((3, 4))], (2, 6), batch=5),
    Case("reshape-rest", [Dense(6, "tanh"), Reshape((2, -1, 3)), Dense(2)], (5,), batch=3),
    Case("reshape-flat", [Reshape((-1,)), Dense(4)], (3, 2), batch=3),
    Case("reshape-to-none", [Reshape(()), Flatten()], (1, 1), batch=4),
    Case("reshape-empty", [Reshape((2, 0))], (0, 3), batch=2),
]
