"""The variational autoencoder."""

from __future__ import annotations

from collections.abc import Sequence

from nnkit.layers.activation import ActivationFunction
from nnkit.layers.sampling import Sampling
from nnkit.models.autoencoder import as_sizes, dense, dense_stack
from nnkit.network import Network
from nnkit.tensors import Input
from nnkit.training.feed import as_whole

__all__ = ["vae"]


def vae(inputs: int = 784, hidden: Sequence[int] = (400,), latent: int = 20, *, beta: float = 1.0, activation: ActivationFunction | str = "relu",
        output_activation: ActivationFunction | str = "sigmoid", seed: int | None = None) -> Network:
    """A variational autoencoder: (inputs) -> hidden layers -> mean and log_variance -> a draw -> the hidden layers in reverse -> (inputs).

    Layers: encoder_1, encoder_2, ...; mean and log_variance, Dense on the last of them; latent, the `Sampling` of both; decoder_1, decoder_2,
    ..., reconstruction. Of a compiled model, `model.submodel(outputs="latent")` is the encoder, which gives the mean, and
    `model.submodel(inputs="latent")` the decoder: standard normal numbers become new samples. Train with targets y = x from 0 to 1 and the loss
    "binary_crossentropy".

    The loss is the negative evidence lower bound for each of the D = `inputs` numbers of a sample: "binary_crossentropy" is a mean over them, so
    the layer "latent" has beta / D. Reported are its two parts, "reconstruction_loss" and "kl_loss", and their sum "loss"; times D they are what
    papers give, in nats for each sample:

        D reconstruction_loss = -mean log p(x | z)      D kl_loss = beta mean KL(q(z | x) || p(z))      D loss = -ELBO where beta = 1

    With the loss "mse" and a linear output, p(x | z) is normal with a standard deviation s where beta = 2 s^2 (but for a constant, and with
    D / (2 s^2) for D).

    Args:
        inputs: numbers of a sample, at least 1; default 784, an image of 28 x 28.
        hidden: units of the hidden layers from input to code, default one of 400.
        latent: numbers of the code, at least 1, default 20.
        beta: weight of the divergence, at least 0, default 1; above 1 the code is more regular and the reconstruction worse.
        activation: of the hidden layers. output_activation: of the reconstruction.
        seed: of the layer "latent"; None (default) takes the model's.

    Raises:
        ValueError: a size below 1, a negative beta, an unknown activation.

    Kingma and Welling, Auto-Encoding Variational Bayes (ICLR 2014), section 3; beta: Higgins et al., beta-VAE (ICLR 2017).

    >>> vae(64, hidden=(32,), latent=2).graph().output_shapes
    ((64,),)
    """
    size, units, sizes = as_whole(inputs, 1, "inputs"), as_whole(latent, 1, "latent"), as_sizes(hidden)
    scale = Sampling(beta).beta / size                   # the layer refuses what is no weight
    x = Input((size,))
    h = dense_stack(x, sizes, activation, "encoder")
    mean, log_variance = dense(h, units, "linear", "mean"), dense(h, units, "linear", "log_variance")
    z = Sampling(scale, seed=seed, name="latent")([mean, log_variance])
    h = dense_stack(z, sizes[::-1], activation, "decoder")
    return Network(x, dense(h, size, output_activation, "reconstruction"))
