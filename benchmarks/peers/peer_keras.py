"""Keras' side, on its TensorFlow backend unless KERAS_BACKEND says otherwise: `fit` as its users call it."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
from keras import layers
from worker import Job, serve, threads
from workloads import WORKS

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads())
    tf.config.threading.set_inter_op_parallelism_threads(threads())

keras.utils.set_random_seed(0)


class Sampling(layers.Layer):
    """The draw of a variational autoencoder; adds the divergence for each pixel to the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, inputs: list) -> object:
        mean, log_variance = inputs
        ops = keras.ops
        self.add_loss(0.5 * ops.mean(ops.sum(ops.square(mean) + ops.exp(log_variance) - 1 - log_variance, axis=1)) / 784)
        return mean + ops.exp(0.5 * log_variance) * keras.random.normal(ops.shape(mean), seed=self.seeds)


def network(work: str) -> keras.Model:
    if work == "vae":
        x = keras.Input((784,))
        h = layers.Dense(400, activation="relu")(x)
        z = Sampling()([layers.Dense(20)(h), layers.Dense(20)(h)])
        return keras.Model(x, layers.Dense(784, activation="sigmoid")(layers.Dense(400, activation="relu")(z)))
    if work == "autoencoder":
        return keras.Sequential([layers.Dense(10, activation="relu"), layers.Dense(20, activation="sigmoid")])
    if work == "bigmlp":
        return keras.Sequential([layers.Dense(1024, activation="relu"), layers.Dense(1024, activation="relu"),
                                 layers.Dense(10, activation="softmax")])
    if work == "dropout":
        return keras.Sequential([layers.Dense(64, activation="relu"), layers.Dropout(0.5), layers.Dense(32, activation="relu"), layers.Dropout(0.5),
                                 layers.Dense(1, activation="sigmoid")])
    return keras.Sequential([layers.Dense(64, activation="relu"), layers.Dense(32), layers.LeakyReLU(0.01), layers.Dense(1, activation="sigmoid")])


def prepare(work: str, arrays: dict[str, np.ndarray], peer: str) -> Job:
    x, y = arrays["x"], arrays["y"]
    model = network(work)
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy" if work == "bigmlp" else "binary_crossentropy")
    batch_size = WORKS[work].batch_size

    def epochs(n: int) -> None:
        model.fit(x, y, epochs=n, batch_size=batch_size, verbose=0)

    def loss() -> float:
        return model.evaluate(x, y, batch_size=len(x), verbose=0)

    if work != "predict":
        return Job({"epoch": epochs}, loss)

    def calls(n: int) -> None:
        for _ in range(n):
            model.predict_on_batch(x[:1])

    return Job({"train": epochs, "call": calls}, loss)


if __name__ == "__main__":
    serve(prepare)
