"""The autoencoder: plain, deep, sparse or denoising."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnkit.layers.activation import ActivationFunction
from nnkit.layers.base import Layer
from nnkit.layers.dense import Dense
from nnkit.network import Network
from nnkit.regularizers import ActivityRegularizer
from nnkit.tensors import Input
from nnkit.training.feed import as_whole

__all__ = ["as_sizes", "autoencoder", "dense", "dense_stack"]


def as_sizes(hidden: Any) -> tuple[int, ...]:
    """Sizes of hidden layers. Raises ValueError."""
    if not isinstance(hidden, (list, tuple)):
        raise ValueError(f"hidden must be a list of whole numbers at least 1, received {hidden!r}")
    return tuple(as_whole(units, 1, "hidden") for units in hidden)


def dense(h: Any, units: int, activation: ActivationFunction | str, name: str, **fields: Any) -> Any:
    """A Dense layer of that name on h."""
    return Dense(units, activation, name=name, **fields)(h)  # type: ignore[arg-type]


def dense_stack(h: Any, sizes: Sequence[int], activation: ActivationFunction | str, prefix: str) -> Any:
    """Dense layers of these sizes, one on top of the other, named prefix_1, prefix_2, ..."""
    for number, units in enumerate(sizes, 1):
        h = dense(h, units, activation, f"{prefix}_{number}")
    return h


def autoencoder(inputs: int, code: int, *, hidden: Sequence[int] = (), activation: ActivationFunction | str = "relu",
                code_activation: ActivationFunction | str | None = None, output_activation: ActivationFunction | str = "sigmoid",
                activity_regularizer: ActivityRegularizer | str | None = None, corruption: Layer | None = None) -> Network:
    """An autoencoder: (inputs) -> hidden layers -> code -> the hidden layers in reverse -> (inputs); train it with targets y = x.

    Layers: the corruption where there is one; encoder_1, encoder_2, ..., latent; decoder_1, decoder_2, ..., reconstruction, all others Dense.
    Of a compiled model, `model.submodel(outputs="latent")` is the encoder and `model.submodel(inputs="latent")` the decoder.

    Args:
        inputs: numbers of a sample, at least 1.
        code: units of the layer "latent", at least 1. Fewer than `inputs` make the network find what the data have in common; as many or more
            need a penalty or a corruption, or it learns to copy.
        hidden: units of the hidden layers from input to code; the deep form. Default: none.
        activation: of the hidden layers, and of the code unless `code_activation` is given.
        code_activation: "sigmoid" for `KLSparsity`, whose means lie between 0 and 1.
        output_activation: "sigmoid" (default) for numbers from 0 to 1, with the loss "binary_crossentropy" or "mse"; "linear" for others.
        activity_regularizer: penalty on the code, the sparse form: L1(...) or KLSparsity(...).
        corruption: a layer on the input that only training knows, the denoising form: GaussianNoise(0.5), or Dropout(0.3), which sets numbers
            to 0 and enlarges the others. The targets stay clean.

    Raises:
        ValueError: a size below 1, an unknown activation or regularizer.

    Hinton and Salakhutdinov, Reducing the dimensionality of data with neural networks (Science 2006); Vincent, Larochelle, Bengio and Manzagol,
    Extracting and composing robust features with denoising autoencoders (ICML 2008).

    >>> autoencoder(20, 10).graph().nodes[1].name
    'latent'
    """
    size, units, sizes = as_whole(inputs, 1, "inputs"), as_whole(code, 1, "code"), as_sizes(hidden)
    x = Input((size,))
    h = x if corruption is None else corruption(x)
    h = dense_stack(h, sizes, activation, "encoder")
    z = dense(h, units, code_activation or activation, "latent", activity_regularizer=activity_regularizer)
    h = dense_stack(z, sizes[::-1], activation, "decoder")
    return Network(x, dense(h, size, output_activation, "reconstruction"))
