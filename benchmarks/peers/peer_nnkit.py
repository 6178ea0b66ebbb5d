"""nnkit's side: `fit`, `train_on_batch` and `predict` as its users call them; activations, optimizers and single layers on the tape."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from worker import Job, repeated, serve, threads
from workloads import CELLS, CLASSES, HIDDEN, LABELLED, RATE, SYMBOLS, WEIGHTS, WORDS, WORKS, kernels_of, on_a_gpu

import nnkit
from nnkit import (
    GRU,
    L2,
    LSTM,
    SGD,
    Adam,
    Add,
    BatchNormalization,
    Conv2D,
    Conv3D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Embedding,
    Flatten,
    GraphConv,
    GraphInput,
    Input,
    LeakyReLU,
    MaxPooling2D,
    MaxPooling3D,
    Network,
    ReLU,
    Sequential,
    SimpleRNN,
)


def placed(peer: str) -> dict[str, Any]:
    """Where `compile` is to run the plan, by the peer's name."""
    return {"backend": "cuda", "blas": peer.endswith("blas")} if "cuda" in peer else {"threads": threads()}


def network(work: str) -> Sequential | Network:
    if work == "char_lstm":
        return Sequential([Input((64,)), Embedding(SYMBOLS, 64), LSTM(256, return_sequences=True), Dense(SYMBOLS, activation="softmax")])
    if work in CELLS:
        layer = {"simple_rnn": SimpleRNN, "lstm": LSTM, "gru": GRU}[CELLS[work]](32)
        return Sequential([Input((100,)), Embedding(WORDS, 64), layer, Dense(1, activation="sigmoid")])
    if work == "vae":
        return nnkit.models.vae(784, (400,), 20)
    if work == "autoencoder":
        return Sequential([Input((20,)), Dense(10, activation="relu"), Dense(20, activation="sigmoid")])
    if work == "bigmlp":
        return Sequential([Input((784,)), Dense(1024, activation="relu"), Dense(1024, activation="relu"), Dense(10, activation="softmax")])
    if work == "mlp4096":
        return Sequential([Input((784,)), Dense(4096, activation="relu"), Dense(4096, activation="relu"), Dense(10, activation="softmax")])
    if work == "vgg16_batch64":
        return Sequential([Input((224, 224, 3)), nnkit.models.vgg16(include_top=False, pooling="avg"), Dense(CLASSES, activation="softmax")])
    if work == "lstm256":
        return Sequential([Input((100, 64)), LSTM(256), Dense(1, activation="sigmoid")])
    if work == "digits_cnn":
        return Sequential([Input((8, 8, 1)), Conv2D(32, 3, activation="relu"), MaxPooling2D(2), Flatten(), Dense(128, activation="relu"),
                           Dense(10, activation="softmax")])
    if work == "conv3d":
        return Sequential([Input((32, 32, 32, 1)), Conv3D(32, 3, activation="relu"), MaxPooling3D(2), Flatten(), Dense(128, activation="relu"),
                           Dense(20, activation="softmax")])
    if work == "dropout":
        return Sequential([Input((20,)), Dense(64, activation="relu"), Dropout(0.5), Dense(32, activation="relu"), Dropout(0.5),
                           Dense(1, activation="sigmoid")])
    if work == "classifier":
        penalty = L2(1e-4 / 2 / 32)                      # scikit-learn halves its alpha and divides it by the batch's size
        return Sequential([Input((20,)), *(Dense(units, activation="relu", kernel_regularizer=penalty) for units in (64, 32)),
                           Dense(1, activation="sigmoid", kernel_regularizer=penalty)])
    return Sequential([Input((20,)), Dense(64, activation="relu"), Dense(32, activation=LeakyReLU(0.01)), Dense(1, activation="sigmoid")])


def training(work: str, arrays: dict[str, np.ndarray], peer: str) -> Job:
    x, y = arrays["x"], arrays["y"]
    loss_name = "sparse_categorical_crossentropy" if work in LABELLED else "binary_crossentropy"
    optimizer = SGD(RATE) if work.startswith("vgg16") else Adam(1e-3)
    model = nnkit.compile(network(work), optimizer=optimizer, loss=loss_name, seed=0, **placed(peer))
    if "kernel1" in arrays:
        set_kernels(model, arrays)
    batch_size = WORKS[work].batch_size
    checks = given_weights(model, arrays, batch_size) if work in CELLS else {}

    def epochs(n: int) -> None:
        model.fit(x, y, batch_size=batch_size, epochs=n, verbose=0)

    def loss() -> float:
        return model.evaluate(x, y)["loss"]

    if not work.startswith("predict"):
        return Job({"epoch": epochs}, loss, checks)
    row = x[:1]

    def calls(n: int) -> None:
        for _ in range(n):
            model.predict(row)

    return Job({"train": epochs, "call": calls}, loss, checks)


def given_weights(model: nnkit.Model, arrays: dict[str, np.ndarray], batch_size: int) -> dict[str, np.ndarray]:
    """Embedding, recurrent layer and Dense get the weights of all peers; what the first batch gives, before training."""
    model.set_parameters({name: arrays[key] for name, key in zip(model.parameters, WEIGHTS, strict=False)})
    x, y = arrays["x"][:batch_size], arrays["y"][:batch_size]
    gradients = model.gradients(x, y)
    recurrent = next(name for name in gradients if name.endswith("recurrent_kernel"))
    return {"probabilities": model.predict(x), "recurrent gradient": gradients[recurrent], "embeddings gradient": gradients["embedding/embeddings"]}


def single_kernels() -> ModuleType:
    """The suites' module `kernels`; imported only by the work that needs it, since start-up is timed, too."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "suites"))
    return importlib.import_module("kernels")


def activations(arrays: dict[str, np.ndarray]) -> Job:
    return measured(single_kernels().activations(arrays["x"].reshape(-1, 4096), arrays["dy"].reshape(-1, 4096), threads()))


def optimizers(arrays: dict[str, np.ndarray]) -> Job:
    kernels = single_kernels()
    copy = kernels.copying(arrays["parameters"].reshape(-1, 1000), threads())
    return measured({"copy": copy, **kernels.optimizers(arrays["parameters"], arrays["gradients"], threads())})


def device_kernels(work: str, arrays: dict[str, np.ndarray]) -> Job:
    """`activations` and `optimizers` on the GPU; n runs are asked for at once, and waited for once."""
    from nnkit.runtime import driver

    device, kernels = driver.device(), importlib.import_module("device_kernels")
    first, second = (on_a_gpu(array) for array in arrays.values())
    if work == "activations":
        made = kernels.activations(device, first.reshape(-1, 4096), second.reshape(-1, 4096))
    else:
        made = {"copy": kernels.copying(device, first.reshape(-1, 1000)), **kernels.optimizers(device, first, second)}
    checks = {}
    for name, kernel in made.items():
        kernel.run(1)
        checks[name] = kernel.read(0, 64)
    return Job({name: kernel.run for name, kernel in made.items()}, checks=checks, note=f"{first.size:,} elements")


def measured(made: dict[str, tuple[Callable[[int], None], np.ndarray]]) -> Job:
    """Each kernel once for its values, then as often as the driver likes."""
    checks = {}
    for name, (run, result) in made.items():
        run(1)
        checks[name] = result.ravel()[:64].copy()
    return Job({name: run for name, (run, _) in made.items()}, checks=checks)


def set_kernels(model: nnkit.Model, arrays: dict[str, np.ndarray]) -> None:
    """The kernels in the order of the layers; biases start at 0."""
    names = [name for name in model.parameters if name.endswith("kernel")]
    model.set_parameters(dict(zip(names, kernels_of(arrays), strict=True)))


def memory(model: nnkit.Model) -> str:
    arena, block = (sum(array.nbytes for array in arrays) / 2**20
                    for arrays in ((model.memory.arena,), (model.memory.kept, model.memory.training)))
    return f"arena {arena:.0f} MB; parameters, gradients and what else lasts {block:.0f} MB"


def vgg16(work: str, arrays: dict[str, np.ndarray]) -> Job:
    spec = Sequential([Input((224, 224, 3)), nnkit.models.vgg16(include_top=False, pooling="avg"), Dense(CLASSES)])
    x, y = arrays["x"], arrays["y"]
    if work == "vgg16_forward":
        model = nnkit.compile(spec, seed=0, threads=threads())
        set_kernels(model, arrays)

        def call() -> np.ndarray:
            return model.predict(x, batch_size=len(x))
        return Job({"call": repeated(call)}, checks={"logits": call()}, note=memory(model))

    loss = nnkit.SparseCategoricalCrossentropy(from_logits=True)
    model = nnkit.compile(spec, optimizer=SGD(RATE), loss=loss, seed=0, threads=threads())
    set_kernels(model, arrays)

    def step() -> float:
        return model.train_on_batch(x, y)["loss"]

    checks = {"loss": np.array(step()), "bias gradient": -model.parameters["vgg16/block1_conv1/bias"] / RATE}
    return Job({"step": repeated(step)}, checks=checks, note=memory(model))


def one_layer(work: str) -> Network:
    if work == "lstm100":
        x = Input((100, 100))
        return Network(x, LSTM(100, return_sequences=True)(x))
    x = Input((56, 56, 64) if work == "resnet_block" else (112, 112, 64))
    if work == "depthwise":
        return Network(x, DepthwiseConv2D(3, padding="same", use_bias=False)(x))
    h = ReLU()(BatchNormalization()(Conv2D(64, 1, use_bias=False)(x)))
    h = ReLU()(BatchNormalization()(Conv2D(64, 3, padding="same", use_bias=False)(h)))
    h = BatchNormalization()(Conv2D(64, 1, use_bias=False)(h))
    return Network(x, ReLU()(Add()([h, x])))


def layer(work: str, arrays: dict[str, np.ndarray]) -> Job:
    """Forward, then backward from a given gradient of the output; beside it the public call, which needs a loss, checks data and copies gradients."""
    x, dy = arrays["x"], arrays["dy"]
    model = nnkit.compile(one_layer(work), loss="mse", seed=0, threads=threads())
    if work == "lstm100":
        model.set_parameters({f"lstm/{name}": arrays[name] for name in WEIGHTS if name in arrays})
    else:
        set_kernels(model, arrays)
    step, results = single_kernels().passes(model, x, dy)["forward and backward"]
    step(1)
    first = next(name for name in results if name.endswith("recurrent_kernel" if work == "lstm100" else "kernel"))
    checks = {"input gradient": results["x"].copy(), "kernel gradient": results[first].copy()}

    def call() -> object:
        return model.gradients(x, dy, inputs=True)
    return Job({"step": step, "Model.gradients, squared error": repeated(call)}, checks=checks)


def graph_network(work: str, F: int, classes: int) -> Network:
    """Two graph convolutions; dropout and L2 on Cora alone, whose features are sparse."""
    x, graph = Input((F,), sparse=work == "gcn"), GraphInput()
    rate, penalty = (0.5, L2(5e-4 / 2)) if work == "gcn" else (0.0, None)      # PyTorch's weight decay is the gradient's, half the penalty's factor
    h = GraphConv(HIDDEN[work], activation="relu", dropout=rate, kernel_regularizer=penalty)([x, graph])
    return Network([x, graph], GraphConv(classes, activation="softmax", dropout=rate)([h, graph]))


def graphs(work: str, arrays: dict[str, np.ndarray], peer: str) -> Job:
    y, mask, (first, second) = arrays["y"], arrays["training"], kernels_of(arrays)
    if work == "gcn":
        from scipy import sparse
        x = sparse.csr_matrix((arrays["values"], arrays["columns"], arrays["starts"]), (len(y), len(first)))
    else:
        x = arrays["x"]
    inputs = [x, nnkit.graph.Adjacency.of(arrays["edges"], nodes=len(y))]
    model = nnkit.compile(graph_network(work, len(first), second.shape[1]), optimizer=Adam(0.01), loss="sparse_categorical_crossentropy", seed=0,
                          **placed(peer))
    set_kernels(model, arrays)
    checks = {"probabilities": model.predict(inputs)[:64]}

    def epochs(n: int) -> None:
        model.fit(inputs, y, epochs=n, mask=mask, verbose=0)

    def loss() -> float:
        return model.evaluate(inputs, y, mask=mask)["loss"]

    return Job({"epoch": epochs}, loss, checks)


def prepare(work: str, arrays: dict[str, np.ndarray], peer: str) -> Job:
    if work in ("vgg16_forward", "vgg16_train"):
        return vgg16(work, arrays)
    if work in ("resnet_block", "depthwise", "lstm100"):
        return layer(work, arrays)
    if peer == "nnkit-cuda" and work in ("activations", "optimizers"):
        return device_kernels(work, arrays)
    if work in HIDDEN:
        return graphs(work, arrays, peer)
    special = {"activations": activations, "optimizers": optimizers}
    return special[work](arrays) if work in special else training(work, arrays, peer)


if __name__ == "__main__":
    serve(prepare)
