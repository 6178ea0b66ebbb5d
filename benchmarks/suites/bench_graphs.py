"""Networks that are no chains: merge layers, a deep residual network's plan, an epoch of the variational autoencoder."""

import numpy as np

import nnkit
from nnkit import Add, Average, Concatenate, Dense, Dot, Input, Maximum, Multiply, Network

BATCH = 256
MERGES = {"add": Add(), "multiply": Multiply(), "average": Average(), "maximum": Maximum(), "concatenate": Concatenate(), "dot": Dot(1)}


class Merges:
    """One merge layer on two activations of 1024 numbers: the gradients of a batch, two PReLU layers included."""

    params = tuple(MERGES)
    param_names = ("layer",)

    def setup(self, name):
        x = Input((1024,))
        merged = MERGES[name]([nnkit.PReLU()(x), nnkit.PReLU()(x)])
        self.model = nnkit.compile(Network(x, merged), loss="mse", seed=0)
        self.x = np.random.default_rng(0).standard_normal((BATCH, 1024), dtype=np.float32)
        self.y = np.zeros((BATCH, *merged.shape), np.float32)
        assert all(np.isfinite(gradient).all() for gradient in self.model.gradients(self.x, self.y).values())

    def time_gradients(self, name):
        self.model.gradients(self.x, self.y)


def residual_network(blocks=50, width=64):
    """Blocks h + W2 relu(W1 h)."""
    x = Input((width,))
    h = Dense(width)(x)
    for _ in range(blocks):
        h = Add()([h, Dense(width)(Dense(width, activation="relu")(h))])
    return Network(x, Dense(10, activation="softmax")(h))


class Residual:
    """50 residual blocks."""

    def setup(self):
        self.model = nnkit.compile(residual_network(), optimizer="adam", loss="sparse_categorical_crossentropy", seed=0)

    def time_declare(self):
        residual_network()

    def time_build_plan(self):
        self.model.build_plan("train", 128)

    def track_arena_share(self):
        """Bytes of the arena for each byte that its buffers would need apart."""
        plan = self.model.build_plan("train", 128)
        return plan.arena_bytes / plan.separate_bytes


class VariationalAutoencoder:
    """784-400-(20 + 20)-400-784, batch 128."""

    def setup(self):
        self.x = np.random.default_rng(0).random((93 * 128, 784), dtype=np.float32)
        self.model = nnkit.compile(nnkit.models.vae(784, (400,), 20), optimizer="adam", loss="binary_crossentropy", seed=0)
        before = self.model.evaluate(self.x, self.x)["loss"]
        self.time_epoch()
        assert self.model.evaluate(self.x, self.x)["loss"] < before

    def time_epoch(self):
        self.model.fit(self.x, self.x, batch_size=128, epochs=1, verbose=0)
