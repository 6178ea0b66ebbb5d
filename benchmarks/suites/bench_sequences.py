"""Sequences: recurrent layers on the tape, forward and with their gradients; epochs on token ids whose frequencies fall as in a text; one row."""

import os

import numpy as np

import nnkit
from nnkit import GRU, LSTM, Bidirectional, Dense, Embedding, Input, Sequential, SimpleRNN

from . import kernels

THREADS = min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
BATCH, STEPS, WORDS = 32, 100, 10_000
LAYERS = {
    "simple rnn 64-32": (64, SimpleRNN(32)),
    "lstm 64-32": (64, LSTM(32)),
    "lstm 64-32 relu": (64, LSTM(32, activation="relu")),            # not the kernels for tanh and sigmoid
    "lstm 100-100 all steps": (100, LSTM(100, return_sequences=True)),
    "lstm 64-256 all steps": (64, LSTM(256, return_sequences=True)),
    "gru 64-32": (64, GRU(32)),
    "gru 64-32 reset before": (64, GRU(32, reset_after=False)),
    "bidirectional lstm 64-32": (64, Bidirectional(LSTM(32))),
}
TRAINING = {"embedding alone": None, "simple rnn": SimpleRNN(32), "lstm": LSTM(32), "lstm masked": LSTM(32), "gru": GRU(32)}


class Layers:
    timeout = 300
    params = tuple(LAYERS)
    param_names = ("layer",)

    def setup(self, name):
        inputs, layer = LAYERS[name]
        rng = np.random.default_rng(0)
        x = rng.standard_normal((BATCH, STEPS, inputs), dtype=np.float32)
        model = nnkit.compile(Sequential([Input((STEPS, inputs)), layer]), seed=0, threads=THREADS)
        dy = rng.standard_normal((BATCH, *model.output_shape), dtype=np.float32)
        made = kernels.passes(model, x, dy)
        (self.forward, values), (self.both, gradients) = made["forward"], made["forward and backward"]
        self.forward(1)
        y = values["y"].copy()
        np.testing.assert_allclose(y, model.predict(x, batch_size=BATCH), rtol=1e-5, atol=1e-6)
        self.both(1)
        # Along the input's gradient g: (L(x + s g) - L(x - s g)) / 2 s = |g|^2, where L = sum y dy.
        g = gradients["x"].astype(float)
        step = 1e-2 / np.linalg.norm(g)
        ahead, behind = (model.predict(x + sign * step * g, batch_size=BATCH).astype(float) for sign in (1, -1))
        np.testing.assert_allclose(np.vdot(ahead - behind, dy) / (2 * step), np.vdot(g, g), rtol=0.02)

    def time_forward(self, name):
        self.forward(1)

    def time_forward_and_backward(self, name):
        self.both(1)


def zipf_tokens(rng, rows):
    """Ids from 1 (rows, STEPS): id r with a share that falls as 1 / r."""
    share = 1 / np.arange(1, WORDS)
    return 1 + rng.choice(WORDS - 1, (rows, STEPS), p=share / share.sum())


def reader(layer, masked=False):
    """Embedding(10000, 64), the layer (without one a mean over the steps), Dense(1)."""
    layers = [Embedding(WORDS, 64, mask_zero=masked), layer or nnkit.GlobalAveragePooling1D(), Dense(1, activation="sigmoid")]
    return nnkit.compile(Sequential([Input((STEPS,)), *layers]), optimizer="adam", loss="binary_crossentropy", seed=0)


class Training:
    """An epoch of 32 steps, batch 32."""

    timeout = 300
    params = tuple(TRAINING)
    param_names = ("layer",)

    def setup(self, name):
        rng = np.random.default_rng(0)
        self.x = zipf_tokens(rng, 1024)
        self.y = rng.standard_normal(WORDS)[self.x].sum(axis=1) > 0
        if name == "lstm masked":                        # texts of 50 to 100 words, padded in front
            self.x[np.arange(STEPS) < rng.integers(0, STEPS // 2, (1024, 1))] = 0
        self.model = reader(TRAINING[name], masked=name == "lstm masked")
        before = self.model.evaluate(self.x, self.y)["loss"]
        for _ in range(3):
            self.time_epoch(name)
        assert self.model.evaluate(self.x, self.y)["loss"] < before

    def time_epoch(self, name):
        self.model.fit(self.x, self.y, batch_size=32, epochs=1, verbose=0)


class Prediction:
    """One row of 100 ids, NumPy array in and out."""

    params = ("simple rnn", "lstm", "gru")
    param_names = ("layer",)

    def setup(self, name):
        x = zipf_tokens(np.random.default_rng(0), 64)
        self.model, self.row = reader(TRAINING[name]), x[:1]
        np.testing.assert_allclose(self.model.predict(self.row), self.model.predict(x)[:1], rtol=1e-5)

    def time_predict_one_row(self, name):
        self.model.predict(self.row)


class Characters:
    """Embedding(65, 64), LSTM(256) at every step, Dense(65): a step of 64 windows of 64 symbols; and one symbol at a time, the state kept."""

    timeout = 300

    def network(self, rows, steps, stateful):
        layers = [Embedding(65, 64), LSTM(256, return_sequences=True, stateful=stateful), Dense(65, activation="softmax")]
        return Sequential([Input((steps,), batch_size=rows), *layers])

    def setup(self):
        rng = np.random.default_rng(0)
        self.x = rng.integers(0, 65, (64, 64))
        self.y = self.x[:, ::-1].copy()
        self.y[:, 1:] = self.x[:, :-1]                   # the symbol before: the network has to keep one
        self.model = nnkit.compile(self.network(64, 64, False), optimizer="adam", loss="sparse_categorical_crossentropy", seed=0)
        before = self.model.evaluate(self.x, self.y)["loss"]
        for _ in range(3):
            self.time_step()
        assert self.model.evaluate(self.x, self.y)["loss"] < before
        self.writer = nnkit.compile(self.network(1, 1, True), seed=0)
        self.writer.set_parameters(self.model.parameters)
        one_by_one = [self.writer.predict(symbol.reshape(1, 1))[0, 0] for symbol in self.x[0]]
        np.testing.assert_allclose(one_by_one, self.model.predict(self.x)[0], rtol=1e-4, atol=1e-6)

    def time_step(self):
        self.model.train_on_batch(self.x, self.y)

    def time_write_one_symbol(self):
        self.writer.predict(self.x[:1, :1])
