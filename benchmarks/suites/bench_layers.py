"""One layer at a time: prediction, and the gradients of a batch. The call of `predict` or `gradients` is part of the figure."""

import numpy as np

import nnkit
from nnkit import BatchNormalization, Dense, Dropout, GaussianNoise, Input, LayerNormalization, PReLU, Sequential

BATCH = 256
LAYERS = {
    "dense 20-64": ((20,), Dense(64)),
    "dense 1024-1024": ((1024,), Dense(1024)),
    "dense 1024-1024 relu": ((1024,), Dense(1024, activation="relu")),
    "dense 1024-10 softmax": ((1024,), Dense(10, activation="softmax")),
    "prelu 1024": ((1024,), PReLU()),
    "dropout 1024": ((1024,), Dropout(0.5)),
    "gaussian noise 1024": ((1024,), GaussianNoise(0.1)),
    "batch normalization 1024": ((1024,), BatchNormalization()),
    "layer normalization 1024": ((1024,), LayerNormalization()),
}


class Layers:
    params = tuple(LAYERS)
    param_names = ("layer",)

    def setup(self, name):
        shape, layer = LAYERS[name]
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((BATCH, *shape), dtype=np.float32)
        # A layer before it, so that the gradient for the layer's input is needed, too.
        self.model = nnkit.compile(Sequential([Input(shape), nnkit.PReLU(), layer]), loss="mse", seed=0)
        output = self.model.predict(self.x, batch_size=BATCH)
        self.y = np.zeros_like(output)
        gradients = self.model.gradients(self.x, self.y)
        assert np.isfinite(output).all()
        assert all(np.isfinite(gradient).all() for gradient in gradients.values())

    def time_predict(self, name):
        self.model.predict(self.x, batch_size=BATCH)

    def time_gradients(self, name):
        self.model.gradients(self.x, self.y)
