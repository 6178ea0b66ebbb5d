"""Rows of networks as graphs: shared layers, tensors that feed several layers, skip connections, nested networks, several inputs and outputs."""

from cases import Case
from nnkit.layers.activation import Activation
from nnkit.layers.dense import Dense
from nnkit.layers.dropout import Dropout
from nnkit.layers.merge import Add, Average, Concatenate, Dot, Maximum, Multiply, Subtract
from nnkit.layers.norm import BatchNormalization, LayerNormalization
from nnkit.layers.prelu import PReLU
from nnkit.layers.reshape import Flatten, Reshape
from nnkit.network import Network, Sequential
from nnkit.regularizers import L1L2, L2
from nnkit.tensors import Input


def shared_twice():
    x, z = Input((5,)), Input((5,))
    twin = Dense(3, "tanh")
    return Network([x, z], Subtract()([twin(x), twin(z)]))


def shared_in_a_row():
    """One layer three times behind itself; its activation learns, its penalties count once (weights) and for every call (activity)."""
    x = Input((4,))
    layer = Dense(4, PReLU(), kernel_regularizer=L1L2(0.1, 0.2), activity_regularizer=L2(0.3))
    return Network(x, layer(layer(layer(x))))


def maximum_of_shared():
    x = Input((4,))
    layer = Dense(4, "tanh")
    return Network(x, Maximum()([layer(x), layer(layer(x))]))


def shared_normalization():
    """The moving averages move twice."""
    x, z = Input((3,)), Input((3,))
    h = BatchNormalization(momentum=0.7)
    return Network([x, z], Multiply()([h(Dense(3)(x)), h(z)]))


def fan_out(times):
    x = Input((5,))
    h = Dense(4, "tanh")(x)
    return Network(x, Concatenate()([Dense(units + 2, "sigmoid")(h) for units in range(times)]))


def input_fan_out():
    x = Input((5,))
    return Network(x, Add()([Dense(5)(x), Dense(5, "tanh")(x), x, x]))


def crossed():
    """Two tensors that feed the same two layers: both gradients are sums of the same two."""
    x = Input((4,))
    a, b = Dense(3, "tanh")(x), Dense(3, "sigmoid")(x)
    return Network(x, Concatenate()([Activation("tanh")(Add()([a, b])), Activation("sigmoid")(Add()([b, a])), Add()([a, b])]))


def residual(*blocks):
    """x + f(x), block after block."""
    x = h = Input((5,))
    for block in blocks:
        inner = h
        for layer in block:
            inner = layer(inner)
        h = Add()([h, inner])
    return Network(x, Dense(2)(h))


def views():
    """Tensors that are only seen with another shape have one gradient."""
    x = Input((2, 3))
    h = Dense(3, "tanh")(x)
    return Network(x, [Dense(2)(Flatten()(h)), Dense(4)(Reshape((3, 2))(h)), h])


def nested_twice():
    part = Sequential([Input((4,)), Dense(3, "tanh"), Dense(4)])
    x, z = Input((4,)), Input((4,))
    return Network([x, z], Average()([part(x), part(part(z)), z]))


def nested_of_two_outputs():
    a, b = Input((3,)), Input((2,))
    h = Dense(4, "tanh")(Concatenate()([a, b]))
    part = Network([a, b], {"sum": Dense(3)(h), "code": h})
    x, z = Input((3,)), Input((2,))
    total, code = part(x, z)
    again, _ = part(total, Dense(2)(code))
    return Network([x, z], {"far": again, "near": total, "code": code})


def nested_deep():
    """A network in a network in a network; the middle one is frozen."""
    core = Sequential([Input((3,)), Dense(3, "tanh"), Dense(3, "sigmoid")])
    x = Input((3,))
    middle = Network(x, Add()([core(x), x]), trainable=False)
    y = Input((3,))
    return Network(y, Dense(2)(middle(Dense(3)(y))))


def outputs_within():
    """An output that another output is made from, and one named twice."""
    x = Input((4,))
    h = Dense(3, "tanh")(x)
    y = Dense(2, "softmax")(h)
    return Network(x, {"latent": h, "again": h, "class": y})


def two_towers():
    x, z = Input((3, 4)), Input((5,))
    keys, query = Dense(6)(x), Dense(6, "tanh")(z)
    weights = Activation("softmax")(Dot(axes=(2, 1))([keys, query]))
    return Network([x, z], [Dot(axes=1)([weights, x]), weights])


CASES = [
    Case("network-shared-twice", shared_twice(), batch=4),
    Case("network-shared-in-a-row", shared_in_a_row(), batch=3),
    Case("network-shared-normalization", shared_normalization(), batch=7),
    Case("network-fan-out-two", fan_out(2), batch=4),
    Case("network-fan-out-three", fan_out(3), batch=3),
    Case("network-fan-out-of-the-input", input_fan_out(), batch=4),
    Case("network-crossed", crossed(), batch=3),
    Case("network-residual", residual([Dense(7, "tanh"), Dense(5)]), batch=4),
    Case("network-residual-blocks", residual(*([LayerNormalization(), Dense(3, "gelu"), Dense(5)] for _ in range(3))), batch=3),
    Case("network-residual-batch-normalization", residual([Dense(5), BatchNormalization()], [BatchNormalization(), Dense(5, "tanh")]), batch=6),
    Case("network-residual-dropout", residual([Dense(5, "tanh"), Dropout(0.4)], [Dropout(0.3), Dense(5)]), batch=5, random=True),
    Case("network-views", views(), batch=3),
    Case("network-nested-twice", nested_twice(), batch=4),
    Case("network-nested-of-two-outputs", nested_of_two_outputs(), batch=3),
    Case("network-nested-deep", nested_deep(), batch=4),
    Case("network-outputs-within", outputs_within(), batch=5),
    Case("network-two-towers", two_towers(), batch=3),
    Case("network-maximum-of-shared", maximum_of_shared(), batch=3),
]
