"""Whole epochs of `fit`, one-row predictions, and what `compile` costs before anything runs."""

import numpy as np

import nnkit
from nnkit import Adam, BatchNormalization, Dense, Dropout, Embedding, GlobalAveragePooling1D, Input, Sequential

WORKS = {
    # name: samples, features, layers, loss, batch size
    "mlp 20-64-32-1": (800, 20, [Dense(64, activation="relu"), Dense(32, activation="relu"), Dense(1, activation="sigmoid")],
                       "binary_crossentropy", 32),
    "dropout": (800, 20, [Dense(64, activation="relu"), Dropout(0.5), Dense(32, activation="relu"), Dropout(0.5), Dense(1, activation="sigmoid")],
                "binary_crossentropy", 32),
    "batch normalization": (800, 20, [Dense(64, activation="relu"), BatchNormalization(), Dense(1, activation="sigmoid")], "binary_crossentropy", 32),
    "autoencoder 20-10-20": (800, 20, [Dense(10, activation="relu"), Dense(20, activation="sigmoid")], "binary_crossentropy", 32),
    "digits 64-128-64-10": (1437, 64, [Dense(128, activation="relu"), Dense(64, activation="relu"), Dense(10, activation="softmax")],
                            "sparse_categorical_crossentropy", 32),
    "mlp 784-1024-1024-10": (5120, 784, [Dense(1024, activation="relu"), Dense(1024, activation="relu"), Dense(10, activation="softmax")],
                             "sparse_categorical_crossentropy", 256),
}
OPTIMIZERS = ("sgd", "adagrad", "rmsprop", "adam", "adamw", "adadelta", "nadam")


def job(name, optimizer="adam"):
    """A model and data of which it can learn something."""
    samples, features, layers, loss, batch_size = WORKS[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, features), dtype=np.float32)
    spec = Sequential([Input((features,)), *layers])
    outputs = spec.graph().output_shapes[0][0]
    scores = x @ rng.standard_normal((features, outputs), dtype=np.float32)
    y = scores.argmax(1) if loss.startswith("sparse") else 1 / (1 + np.exp(-scores))
    return nnkit.compile(spec, optimizer=optimizer, loss=loss, seed=0), x, y, batch_size


class Training:
    params = tuple(WORKS)
    param_names = ("work",)

    def setup(self, name):
        self.model, self.x, self.y, self.batch_size = job(name)
        before = self.model.evaluate(self.x, self.y)["loss"]
        self.model.fit(self.x, self.y, batch_size=self.batch_size, epochs=5, verbose=0)
        assert self.model.evaluate(self.x, self.y)["loss"] < before

    def time_epoch(self, name):
        self.model.fit(self.x, self.y, batch_size=self.batch_size, epochs=1, verbose=0)

    def time_predict_all(self, name):
        self.model.predict(self.x, batch_size=self.batch_size)

    def time_predict_one_row(self, name):
        self.model.predict(self.x[:1])


class ManyEpochs:
    """Twenty epochs in one call: the epoch itself, with little of the call."""

    def setup(self):
        self.model, self.x, self.y, _ = job("mlp 20-64-32-1")
        self.model.fit(self.x, self.y, batch_size=32, epochs=1, verbose=0)

    def time_mlp(self):
        self.model.fit(self.x, self.y, batch_size=32, epochs=20, verbose=0)


class Optimizers:
    params = OPTIMIZERS
    param_names = ("optimizer",)

    def setup(self, optimizer):
        self.model, self.x, self.y, _ = job("mlp 20-64-32-1", optimizer)
        before = self.model.evaluate(self.x, self.y)["loss"]
        self.model.fit(self.x, self.y, batch_size=32, epochs=5, verbose=0)
        assert self.model.evaluate(self.x, self.y)["loss"] < before

    def time_epoch(self, optimizer):
        self.model.fit(self.x, self.y, batch_size=32, epochs=1, verbose=0)


class Tables:
    """Steps of 32 texts of 100 words, of which there are 10,000: all alike or by Zipf's law; the table updated row by row and as a whole."""

    params = (("uniform", "Zipf"), ("closed", "replay", "dense"))
    param_names = ("words", "row_updates")

    def setup(self, law, row_updates):
        rng = np.random.default_rng(0)
        odds = 1 / np.arange(1, 10_001)
        self.x = rng.choice(10_000, (1600, 100), p=odds / odds.sum() if law == "Zipf" else None)
        self.y = (self.x % 7 == 0).sum(1) / 100
        spec = Sequential([Input((100,)), Embedding(10_000, 64), GlobalAveragePooling1D(), Dense(1)])
        self.model = nnkit.compile(spec, optimizer=Adam(row_updates=row_updates), loss="mse", seed=0)
        before = self.model.evaluate(self.x, self.y)["loss"]
        self.model.fit(self.x, self.y, epochs=5, verbose=0)
        assert self.model.evaluate(self.x, self.y)["loss"] < before

    def time_epoch(self, law, row_updates):
        self.model.fit(self.x, self.y, epochs=1, verbose=0)


class Compile:
    """From a spec to a model, and to its printed plan: no kernel is needed for either."""

    def setup(self):
        layers = WORKS["mlp 20-64-32-1"][2]
        self.spec = Sequential([Input((20,)), *layers])
        self.time_compile_and_print_plan()

    def time_compile(self):
        nnkit.compile(self.spec, optimizer=Adam(1e-3), loss="binary_crossentropy", seed=0)

    def time_compile_and_print_plan(self):
        assert "dense" in str(nnkit.compile(self.spec, optimizer=Adam(1e-3), loss="binary_crossentropy", seed=0).plan)
