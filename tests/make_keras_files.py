"""Makes the Keras files in tests/data, once: KERAS_BACKEND=torch python tests/make_keras_files.py, with Keras 3.15.1, PyTorch 2.13 and h5py 3.14.

keras_steps.weights.h5, keras_steps.keras, keras_steps.h5: one model in the three forms that Keras 3 writes. keras_vgg_2016.h5: written by h5py in the
layout of the public VGG16 files of 2016 (layer_names at the root and nothing else; groups for layers without weights; block1_conv1_W_1:0), at small
size. keras_2.h5: likewise that of Keras 2 (model_weights, keras_version, names in chunks, all weights of a nested network in one group, kernel:0).
keras_expected.npz: inputs and Keras' predictions for each.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import h5py
import keras
import numpy as np
from keras import layers

DATA = Path(__file__).parent / "data"


def randomize(model: Any, seed: int) -> None:
    draw = np.random.default_rng(seed)
    for variable in model.variables:
        values = draw.uniform(-0.5, 0.5, variable.shape)
        variable.assign(values + 1 if "variance" in variable.path else values)


def steps() -> Any:
    """Names that Keras makes, as in a session in which layers were made before; only nested network, convolution and last layer have given ones."""
    for _ in range(3):
        layers.Dense(1), layers.GRU(1), layers.BatchNormalization()
    inner = keras.Sequential([keras.Input((6, 3)), layers.Conv1D(3, 2, name="windows"), layers.PReLU(shared_axes=[1])], name="inner")
    return keras.Sequential([keras.Input((6,)), layers.Embedding(7, 4), layers.Bidirectional(layers.LSTM(2, return_sequences=True)),
                             layers.TimeDistributed(layers.Dense(3)), layers.BatchNormalization(), inner, layers.GRU(3, reset_after=False),
                             layers.Dense(3, "relu"), layers.Dense(2, name="head")])


def images(nested: bool) -> Any:
    convolutions = [layers.Conv2D(4, 3, padding="same", activation="relu", name=f"block1_conv{number}") for number in (1, 2)]
    base = [keras.Input((8, 8, 3)), *convolutions, layers.MaxPooling2D(2, name="block1_pool")]
    rest = [layers.Flatten(name="flatten"), layers.Dense(3, "softmax", name="predictions")]
    return keras.Sequential([keras.Input((8, 8, 3)), keras.Sequential(base, name="vgg16"), *rest] if nested else [*base, *rest])


def write_2016(model: Any, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"input_1", *(layer.name.encode() for layer in model.layers)]
        file.create_group("input_1").attrs["weight_names"] = []
        for layer in model.layers:
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = [f"{layer.name}_{letter}_1:0".encode() for letter, _ in zip("Wb", layer.weights, strict=False)]
            for letter, weight in zip("Wb", layer.weights, strict=False):
                group[f"{layer.name}_{letter}_1:0"] = np.array(weight)


def write_2(model: Any, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"], file.attrs["backend"] = b"2.4.0", b"tensorflow"
        inside = file.create_group("model_weights")
        inside.attrs["keras_version"], inside.attrs["backend"] = b"2.4.0", b"tensorflow"
        inside.attrs["layer_names0"] = [b"input_2", b"vgg16"]
        inside.attrs["layer_names1"] = [b"flatten", b"dense_5"]
        for name in ("input_2", "flatten"):
            inside.create_group(name).attrs["weight_names"] = []
        entries = {"vgg16": [(f"{layer.name}/{weight.name}:0", weight) for layer in model.layers[0].layers for weight in layer.weights],
                   "dense_5": [(f"dense_5/{weight.name}:0", weight) for weight in model.layers[-1].weights]}
        for name, weights in entries.items():
            group = inside.create_group(name)
            group.attrs["weight_names"] = [weight.encode() for weight, _ in weights]
            for weight, values in weights:
                group[weight] = np.array(values)


def main() -> None:
    draw = np.random.default_rng(0)
    words, pictures = draw.integers(0, 7, (3, 6)).astype(np.int32), draw.uniform(-1, 1, (3, 8, 8, 3)).astype(np.float32)
    made = {"steps": (steps(), words), "vgg_2016": (images(False), pictures), "2": (images(True), pictures)}
    expected = {"words": words, "pictures": pictures}
    for seed, (name, (model, batch)) in enumerate(made.items()):
        randomize(model, seed)
        expected[name] = model.predict(batch, verbose=0)
    made["steps"][0].save_weights(DATA / "keras_steps.weights.h5")
    made["steps"][0].save(DATA / "keras_steps.keras")
    made["steps"][0].save(DATA / "keras_steps.h5")
    write_2016(made["vgg_2016"][0], DATA / "keras_vgg_2016.h5")
    write_2(made["2"][0], DATA / "keras_2.h5")
    np.savez(DATA / "keras_expected.npz", **expected)


if __name__ == "__main__":
    main()
