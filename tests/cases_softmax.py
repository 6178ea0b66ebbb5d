"""Rows of Softmax and LogSoftmax: along rows of every length, along other axes, empty ones."""

from cases import Case
from cases_activation import wide
from nnkit.layers.dense import Dense
from nnkit.layers.softmax import LogSoftmax, Softmax

CASES = [
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
