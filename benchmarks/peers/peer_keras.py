"""Keras' side, on its TensorFlow backend unless KERAS_BACKEND says otherwise: `fit` as its users call it."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
from keras import layers
from worker import Job, repeated, serve, threads
from workloads import CELLS, CLASSES, LABELLED, RATE, SYMBOLS, WEIGHTS, WORDS, WORKS, kernels_of

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
    if work == "char_lstm":
        return keras.Sequential([keras.Input((64,), dtype="int32"), layers.Embedding(SYMBOLS, 64), layers.LSTM(256, return_sequences=True),
                                 layers.Dense(SYMBOLS, activation="softmax")])
    if work in CELLS:
        layer = {"simple_rnn": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}[CELLS[work]](32)
        return keras.Sequential([keras.Input((100,), dtype="int32"), layers.Embedding(WORDS, 64), layer, layers.Dense(1, activation="sigmoid")])
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
    if work == "digits_cnn":
        return keras.Sequential([layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(2), layers.Flatten(),
                                 layers.Dense(128, activation="relu"), layers.Dense(10, activation="softmax")])
    if work == "conv3d":
        return keras.Sequential([layers.Conv3D(32, 3, activation="relu"), layers.MaxPooling3D(2), layers.Flatten(),
                                 layers.Dense(128, activation="relu"), layers.Dense(20, activation="softmax")])
    if work == "dropout":
        return keras.Sequential([layers.Dense(64, activation="relu"), layers.Dropout(0.5), layers.Dense(32, activation="relu"), layers.Dropout(0.5),
                                 layers.Dense(1, activation="sigmoid")])
    return keras.Sequential([layers.Dense(64, activation="relu"), layers.Dense(32), layers.LeakyReLU(0.01), layers.Dense(1, activation="sigmoid")])


def set_kernels(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """The kernels of convolutions and Dense layers in their order; biases start at 0."""
    weighted = [layer for layer in model.layers if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense))]
    for layer, kernel in zip(weighted, kernels_of(arrays), strict=True):
        layer.set_weights([kernel, *layer.get_weights()[1:]])


def vgg16(work: str, arrays: dict[str, np.ndarray]) -> Job:
    base = keras.applications.VGG16(weights=None, include_top=False, input_shape=(224, 224, 3), pooling="avg")
    model = keras.Model(base.input, layers.Dense(CLASSES)(base.output))
    set_kernels(model, arrays)
    model.compile(optimizer=keras.optimizers.SGD(RATE), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = arrays["x"], arrays["y"]
    if work == "vgg16_forward":
        def call() -> np.ndarray:
            return model.predict_on_batch(x)
        return Job({"call": repeated(call)}, checks={"logits": call()})

    def step() -> float:
        return float(model.train_on_batch(x, y))

    return Job({"step": repeated(step)}, checks={"loss": step(), "bias gradient": -model.get_layer("block1_conv1").get_weights()[1] / RATE})


def layer(work: str, arrays: dict[str, np.ndarray]) -> Job:
    """Forward, then backward from a given gradient of the output, for input and parameters: one compiled function."""
    inputs = keras.Input(arrays["x"].shape[1:])
    if work == "lstm100":
        model = keras.Model(inputs, layers.LSTM(100, return_sequences=True)(inputs))
        model.set_weights([arrays[name] for name in WEIGHTS if name in arrays])
    elif work == "resnet_block":
        h = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(64, 1, use_bias=False)(inputs)))
        h = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(64, 3, padding="same", use_bias=False)(h)))
        h = layers.BatchNormalization()(layers.Conv2D(64, 1, use_bias=False)(h))
        model = keras.Model(inputs, layers.ReLU()(layers.Add()([h, inputs])))
    else:
        model = keras.Model(inputs, layers.DepthwiseConv2D(3, padding="same", use_bias=False)(inputs))
    if work != "lstm100":
        set_kernels(model, arrays)
    x, dy = tf.constant(arrays["x"]), tf.constant(arrays["dy"])

    @tf.function
    def gradients(x: tf.Tensor, dy: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=True)
        return tape.gradient(y, [x, *(weight.value for weight in model.trainable_weights)], output_gradients=dy)

    def step() -> list[tf.Tensor]:
        return gradients(x, dy)

    dx, *dparams = step()
    dkernel = dparams[1 if work == "lstm100" else 0]
    checks = {"input gradient": dx.numpy(), "kernel gradient": dkernel.numpy()}
    return Job({"step": repeated(step, lambda last: last[0][0, 0].numpy())}, checks=checks)


def given_weights(model: keras.Model, arrays: dict[str, np.ndarray], batch_size: int) -> dict[str, np.ndarray]:
    """Embedding, recurrent layer and Dense get the weights of all peers; what the first batch gives, before training."""
    model.set_weights([arrays[name] for name in WEIGHTS] + [np.zeros(arrays["dense"].shape[1])])
    x, y = tf.constant(arrays["x"][:batch_size]), tf.constant(arrays["y"][:batch_size])
    with tf.GradientTape() as tape:
        probabilities = model(x, training=True)
        loss = model.compute_loss(y=y, y_pred=probabilities)
    weights = model.trainable_weights
    table, _, recurrent, *_ = tape.gradient(loss, [weight.value for weight in weights])
    return {"probabilities": probabilities.numpy(), "recurrent gradient": recurrent.numpy(),
            "embeddings gradient": tf.convert_to_tensor(table).numpy()}


def prepare(work: str, arrays: dict[str, np.ndarray], peer: str) -> Job:
    if work.startswith("vgg16"):
        return vgg16(work, arrays)
    if work in ("resnet_block", "depthwise", "lstm100"):
        return layer(work, arrays)
    x, y = arrays["x"], arrays["y"]
    model = network(work)
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy" if work in LABELLED else "binary_crossentropy")
    batch_size = WORKS[work].batch_size
    checks = given_weights(model, arrays, batch_size) if work in CELLS else {}

    def epochs(n: int) -> None:
        model.fit(x, y, epochs=n, batch_size=batch_size, verbose=0)

    def loss() -> float:
        return model.evaluate(x, y, batch_size=len(x), verbose=0)

    if not work.startswith("predict"):
        return Job({"epoch": epochs}, loss, checks)

    def calls(n: int) -> None:
        for _ in range(n):
            model.predict_on_batch(x[:1])

    return Job({"train": epochs, "call": calls}, loss, checks)


if __name__ == "__main__":
    serve(prepare)
