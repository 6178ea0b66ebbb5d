"""Rows of Sampling: gradients under one draw, with the divergence. The noise itself: test_sampling.py."""

from cases import Case
from nnkit.layers.dense import Dense
from nnkit.layers.noise import GaussianNoise
from nnkit.layers.sampling import Sampling
from nnkit.models import vae
from nnkit.network import Network
from nnkit.tensors import Input


def alone(shape, layer):
    """mean and log_variance -> z."""
    mean, log_variance = Input(shape, name="mean"), Input(shape, name="log_variance")
    return Network([mean, log_variance], layer([mean, log_variance]))


def twice():
    """Two draws of one mean, then one with the same tensor for both."""
    x = Input((5,))
    mean, log_variance = GaussianNoise(0.1)(x), Dense(5, "tanh")(x)
    first, second = Sampling(0.3, name="first")([mean, log_variance]), Sampling(0.5, seed=3, name="second")([mean, log_variance])
    return Network(x, [first, Sampling(0.0, name="third")([second, second])])


CASES = [
    Case("sampling", alone((7,), Sampling()), batch=5, random=True),
    Case("sampling-one", alone((1,), Sampling(0.5)), batch=1, random=True),
    Case("sampling-no-divergence", alone((3,), Sampling(0.0, seed=4)), batch=5, random=True),
    Case("sampling-axes", alone((2, 3, 5), Sampling(2.0)), batch=3, random=True),
    Case("sampling-no-axes", alone((), Sampling(0.3)), batch=13, random=True),
    Case("sampling-empty", alone((0,), Sampling()), batch=3),
    Case("sampling-wide", alone((263,), Sampling(0.01)), batch=4, random=True),
    Case("sampling-twice", twice(), batch=4, random=True),
    Case("sampling-vae", vae(6, hidden=(5, 4), latent=2, activation="tanh"), batch=7, random=True),
]
