"""The multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

from nnkit.layers.activation import Activation, ActivationFunction
from nnkit.layers.base import Layer
from nnkit.layers.dense import Dense
from nnkit.layers.dropout import Dropout
from nnkit.layers.norm import BatchNormalization
from nnkit.models.autoencoder import as_sizes
from nnkit.network import Sequential
from nnkit.tensors import Input
from nnkit.training.feed import as_whole

__all__ = ["mlp"]


def mlp(inputs: int, outputs: int, *, hidden: Sequence[int] = (64,), activation: ActivationFunction | str = "relu",
        output_activation: ActivationFunction | str = "linear", dropout: float = 0.0, batch_norm: bool = False) -> Sequential:
    """A multilayer perceptron: (inputs) -> hidden layers -> (outputs).

    Layers: hidden_1, hidden_2, ..., output, all Dense; dropout_1, ... behind each hidden one where there is dropout. With batch_norm, hidden_1 is
    followed by norm_1 (BatchNormalization, so hidden_1 has no bias) and activation_1, in this order.

    Args:
        inputs: numbers of a sample, at least 1.
        outputs: units of the last layer, at least 1.
        hidden: units of the hidden layers, default one of 64; () for a linear model.
        activation: of the hidden layers.
        output_activation: "linear" (default) for regression, "sigmoid" for two classes or several labels, "softmax" for classes.
        dropout: rate of each hidden layer's outputs that training drops, default 0: none.
        batch_norm: whether hidden layers are normalized, default False.

    Raises:
        ValueError: a size below 1, a rate that is none, an unknown activation.

    Rumelhart, Hinton and Williams, Learning representations by back-propagating errors (Nature 1986).

    >>> [node.name for node in mlp(20, 3, hidden=(64, 32), output_activation="softmax", dropout=0.2).graph().nodes]
    ['input', 'hidden_1', 'dropout_1', 'hidden_2', 'dropout_2', 'output']
    """
    if type(batch_norm) is not bool:
        raise ValueError(f"batch_norm must be True or False, received {batch_norm!r}")
    layers: list[Layer] = [Input((as_whole(inputs, 1, "inputs"),))]
    for number, units in enumerate(as_sizes(hidden), 1):
        if batch_norm:
            layers += [Dense(units, use_bias=False, name=f"hidden_{number}"), BatchNormalization(name=f"norm_{number}"),
                       Activation(activation, name=f"activation_{number}")]  # type: ignore[arg-type]
        else:
            layers.append(Dense(units, activation, name=f"hidden_{number}"))  # type: ignore[arg-type]
        drop = Dropout(dropout, name=f"dropout_{number}")                # refuses what is no rate
        layers += [drop] * (drop.rate > 0)
    layers.append(Dense(as_whole(outputs, 1, "outputs"), output_activation, name="output"))  # type: ignore[arg-type]
    return Sequential(tuple(layers))
