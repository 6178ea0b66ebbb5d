"""The graph convolutional network of Kipf and Welling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnkit.layers.graph import GraphConv
from nnkit.models.autoencoder import as_sizes
from nnkit.network import Network
from nnkit.regularizers import Regularizer
from nnkit.tensors import GraphInput, Input
from nnkit.training.feed import as_whole

__all__ = ["gcn"]


def gcn(features: int, classes: int, *, hidden: Sequence[int] = (16,), dropout: float = 0.5, kernel_regularizer: Regularizer | str | None = None,
        sparse: bool = True) -> Network:
    """A graph convolutional network that classifies nodes: (V, features) and a graph -> (V, classes), probabilities.

    Layers: hidden_1, hidden_2, ... and classes, all `GraphConv`, without biases as in the authors' program; of a compiled model,
    `model.submodel(outputs="hidden_1")` gives embeddings.

    Args:
        features: of a node, at least 1.
        classes: at least 1.
        hidden: units of the hidden layers, which are ReLU; default one of 16.
        dropout: rate of each layer's input features that training drops, default 0.5.
        kernel_regularizer: penalty on the first layer's weight. Kipf and Welling's 5e-4, in PyTorch a weight_decay, is L2(2.5e-4) here: theirs is
            5e-4 / 2 sum w^2.
        sparse: whether features come as a SciPy sparse matrix (default), as bags of words do, or dense.

    Raises:
        ValueError: a size below 1, a rate that is none.

    Kipf and Welling, Semi-supervised classification with graph convolutional networks (ICLR 2017), section 3.1.

    >>> gcn(1433, 7).graph().output_shapes
    ((7,),)
    """
    x: Any = Input((as_whole(features, 1, "features"),), sparse=sparse)
    a = GraphInput()
    h = x
    for number, units in enumerate(as_sizes(hidden), 1):
        penalty = kernel_regularizer if number == 1 else None
        h = GraphConv(units, "relu", False, dropout=dropout, kernel_regularizer=penalty, name=f"hidden_{number}")([h, a])  # type: ignore[arg-type]
    return Network([x, a], GraphConv(as_whole(classes, 1, "classes"), "softmax", False, dropout=dropout, name="classes")([h, a]))  # type: ignore[arg-type]
