"""The pieces of work that every peer does: data, sizes, the loss to reach, and the ratios that nnkit wants to reach.

Data are made by NumPy from a fixed seed, once, by the driver: no peer's start-up pays for making them.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]

ELEMENTS = 1 << 24        # activations run over arrays of 16 M float32
PARAMETERS = 10_000_000   # optimizer steps run over this many float32
DEVICE_TIMES = 8          # on a GPU arrays are these, so many times one behind the other: its cache holds little of them, and a launch is nothing

# What one pass reads and writes, in arrays of float32: the figure in GB/s is these bytes over the time.
ACTIVATIONS = ("relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus", "silu", "gelu")
OPTIMIZER_ARRAYS = {"copy": 2, "sgd": 3, "sgd_momentum": 5, "adagrad": 5, "rmsprop": 5, "adam": 7, "adamw": 7}


@dataclass(frozen=True)
class Work:
    """One piece of work. `epochs` of training from the initial parameters must bring the loss on all data into `loss`."""

    title: str
    unit: str                                            # what one repetition is
    make: Callable[[], Arrays]
    batch_size: int = 0
    epochs: int = 0
    loss: tuple[float, float] = (0.0, 0.0)
    peers: tuple[str, ...] = ("sklearn", "torch", "torch-compile", "keras", "jax")
    targets: dict[str, float] = field(default_factory=dict)   # peer -> how many times nnkit's time the peer should need
    limits: dict[tuple[str, str], float] = field(default_factory=dict)   # (row, item) -> seconds, where the target is absolute
    tolerance: float = 1e-4                              # share by which checked results may differ from nnkit's


def binary() -> Arrays:
    """800 rows of 20 features; the class is the sign of a small random network, so that there is something to learn."""
    rng = np.random.default_rng(42)
    x = rng.standard_normal((800, 20), dtype=np.float32)
    hidden = np.tanh(x @ rng.standard_normal((20, 8), dtype=np.float32) / 2)
    y = (hidden @ rng.standard_normal(8, dtype=np.float32) > 0).astype(np.float32)
    return {"x": x, "y": y}


def reconstruction() -> Arrays:
    """Features squeezed into (0, 1), which are input and target of the autoencoder."""
    x = binary()["x"]
    return {"x": x, "y": 1 / (1 + np.exp(-x))}


def images(count: int = 5120) -> Arrays:
    """Rows of 784 features in ten classes: the largest of ten random projections."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((count, 784), dtype=np.float32)
    y = np.argmax(x @ rng.standard_normal((784, 10), dtype=np.float32), axis=1)
    return {"x": x, "y": y.astype(np.int32)}


def fashion() -> Arrays:
    """11,904 images of 784 numbers from 0 to 1: Fashion-MNIST where NNKIT_DATA names a folder that holds it, else sums of smooth patterns."""
    count = 93 * 128                                     # whole batches: a scan needs equal ones
    folder = os.environ.get("NNKIT_DATA")
    if folder:
        with np.load(Path(folder) / "fashion_mnist" / "fashion_mnist_12k_2k.npz") as stored:
            x = stored["train_images"][:count].reshape(count, 784).astype(np.float32) / np.float32(255)
            return {"x": x, "y": x}
    rng = np.random.default_rng(3)
    place = np.linspace(0, np.pi, 28)
    patterns = np.array([np.outer(np.sin(i * place), np.sin(j * place)).ravel() for i in range(1, 5) for j in range(1, 5)])
    x = (1 / (1 + np.exp(-2 * rng.standard_normal((count, 16)) @ patterns))).astype(np.float32)
    return {"x": x, "y": x}


def elements() -> Arrays:
    """What an activation meets in practice: standard normal values, and gradients of the same kind."""
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal(ELEMENTS, dtype=np.float32) for name in ("x", "dy")}


def gradients() -> Arrays:
    """Gradients of 0.5 to 1.5 either way: none so small that the place of epsilon in a formula, on which libraries differ, would show."""
    rng = np.random.default_rng(2)
    size = rng.random(PARAMETERS, dtype=np.float32) + np.float32(0.5)
    return {"parameters": rng.standard_normal(PARAMETERS, dtype=np.float32), "gradients": np.where(rng.random(PARAMETERS) < 0.5, size, -size)}


# Convolutions. Images are channels last, (N, H, W, C); kernels are (*window, inputs, outputs); biases start at 0.

VGG16 = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))   # blocks: how many convolutions of how many filters; a pooling behind each block
CLASSES = 10                                                # of the layer behind them
RATE = 1e-3                                                 # learning rate of vgg16_train, plain SGD
# Tolerance of gradients behind ReLUs: a sum that rounds to the other side of 0 adds or removes the whole share of its place.
FLIPS = 0.03


def he_normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Normal numbers of variance 2 / inputs; the inputs are all axes but the last."""
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / np.prod(shape[:-1])))


def digits() -> Arrays:
    """1,408 digits of 8 x 8 pixels from 0 to 1, which come with scikit-learn: 44 whole batches of 32."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return {"x": (found.images[:1408, :, :, None] / 16).astype(np.float32), "y": found.target[:1408].astype(np.int32)}


def voxels() -> Arrays:
    """128 bodies in 32 x 32 x 32 cells of 0 and 1, in 20 classes: ball, box, cylinder, cone and ring, each in four sizes, not quite in the middle."""
    rng = np.random.default_rng(5)
    y = np.arange(128) % 20
    axis = np.linspace(-1, 1, 32)
    x = np.empty((128, 32, 32, 32, 1), np.float32)
    for body, label in zip(x, y, strict=True):
        a, b, c = np.meshgrid(*(axis - shift for shift in rng.uniform(-0.15, 0.15, 3)), indexing="ij")
        size, around = 0.3 + 0.15 * (label // 5), np.hypot(b, c)
        inside = (a**2 + around**2 < size**2,
                  np.maximum(np.maximum(abs(a), abs(b)), abs(c)) < size,
                  (around < size) & (abs(a) < size),
                  (abs(a) < size) & (2 * around < size - a),
                  np.hypot(around - size, a) < 0.15)
        body[..., 0] = inside[label % 5]
    return {"x": x, "y": y.astype(np.int32)}


def vgg16(count: int = 8) -> Arrays:
    """Images of normal numbers, their classes, and the weights: kernel1 to kernel13 of the convolutions, kernel14 of the last layer."""
    rng = np.random.default_rng(16)
    arrays = {"x": rng.standard_normal((count, 224, 224, 3), dtype=np.float32), "y": np.arange(count, dtype=np.int32) % CLASSES}
    channels = [3, *(filters for count, filters in VGG16 for _ in range(count))]
    for number, (inputs, filters) in enumerate(itertools.pairwise(channels), 1):
        arrays[f"kernel{number}"] = he_normal(rng, 3, 3, inputs, filters)
    return {**arrays, f"kernel{len(channels)}": he_normal(rng, channels[-1], CLASSES)}


def resnet_block() -> Arrays:
    """Input, the output's gradient, and the kernels of the three convolutions."""
    rng = np.random.default_rng(50)
    x, dy = rng.standard_normal((2, 8, 56, 56, 64), dtype=np.float32)
    return {"x": x, "dy": dy, **{f"kernel{number}": he_normal(rng, window, window, 64, 64) for number, window in enumerate((1, 3, 1), 1)}}


def depthwise() -> Arrays:
    """Input, the output's gradient, the kernel: one filter for each channel."""
    rng = np.random.default_rng(9)
    x, dy = rng.standard_normal((2, 8, 112, 112, 64), dtype=np.float32)
    return {"x": x, "dy": dy, "kernel1": rng.standard_normal((3, 3, 64, 1), dtype=np.float32) / np.float32(3)}


def kernels_of(arrays: Arrays) -> list[np.ndarray]:
    """The kernels in their order."""
    return [arrays[f"kernel{number}"] for number in range(1, 1 + sum(name.startswith("kernel") for name in arrays))]


# Sequences. Token ids are int32, (N, T). Gates stand in Keras' order: of an LSTM i, f, u, o; of a GRU, which is reset after the product, z, r, u.

GATES = {"simple_rnn": 1, "lstm": 4, "gru": 3}
CELLS = {"simple_rnn": "simple_rnn", "lstm": "lstm", "gru": "gru", "predict_lstm": "lstm", "char_lstm": "lstm"}   # work -> layer behind an Embedding
WEIGHTS = ("embeddings", "kernel", "recurrent_kernel", "bias", "dense")   # of these works; the last layer's bias starts at 0
WORDS, SYMBOLS = 10_000, 65


def glorot_uniform(rng: np.random.Generator, inputs: int, outputs: int) -> np.ndarray:
    """Uniform numbers of variance 2 / (inputs + outputs)."""
    limit = np.sqrt(6 / (inputs + outputs))
    return rng.uniform(-limit, limit, (inputs, outputs)).astype(np.float32)


def recurrent_weights(rng: np.random.Generator, cell: str, inputs: int, units: int) -> Arrays:
    """Kernel, recurrent kernel of orthonormal rows, bias (1 for the forget gate of an LSTM, else 0)."""
    width = GATES[cell] * units
    rows = np.linalg.qr(rng.standard_normal((width, units)))[0].T
    bias = np.zeros((2, width) if cell == "gru" else width, np.float32)
    if cell == "lstm":
        bias[units:2 * units] = 1
    return {"kernel": glorot_uniform(rng, inputs, width), "recurrent_kernel": rows.astype(np.float32), "bias": bias}


def reader(rng: np.random.Generator, cell: str, ids: int, units: int, outputs: int) -> Arrays:
    """First weights of an Embedding of 64 columns, a recurrent layer, Dense."""
    table = rng.uniform(-0.05, 0.05, (ids, 64)).astype(np.float32)
    return {"embeddings": table, **recurrent_weights(rng, cell, 64, units), "dense": glorot_uniform(rng, units, outputs)}


def reviews(cell: str) -> Arrays:
    """1,024 texts of 100 words, whose frequencies fall as 1 / rank; the class is the sign of the sum of what each word counts. And weights."""
    rng = np.random.default_rng(20)
    share = 1 / np.arange(1, WORDS + 1)
    x = rng.choice(WORDS, (1024, 100), p=share / share.sum())
    y = rng.standard_normal(WORDS)[x].sum(axis=1) > 0
    return {"x": x.astype(np.int32), "y": y.astype(np.float32), **reader(rng, cell, WORDS, 32, 1)}


def characters() -> Arrays:
    """512 windows of 64 symbols: each symbol has four that may follow it. Targets stand one symbol ahead. And weights."""
    rng = np.random.default_rng(21)
    follows, draws = rng.integers(0, SYMBOLS, (SYMBOLS, 4)), rng.integers(0, 4, 512 * 64)
    text = [0]
    for draw in draws:
        text.append(follows[text[-1], draw])
    x, y = (np.array(part, np.int32).reshape(512, 64) for part in (text[:-1], text[1:]))
    return {"x": x, "y": y, **reader(rng, "lstm", SYMBOLS, 256, SYMBOLS)}


def lstm100() -> Arrays:
    """Input, the gradient of the outputs of all steps, and weights."""
    rng = np.random.default_rng(100)
    x, dy = rng.standard_normal((2, 32, 100, 100), dtype=np.float32)
    return {"x": x, "dy": dy, **recurrent_weights(rng, "lstm", 100, 100)}


def signals() -> Arrays:
    """512 sequences of 100 steps of 64 numbers; the class is the sign of the last step's random projection."""
    rng = np.random.default_rng(256)
    x = rng.standard_normal((512, 100, 64), dtype=np.float32)
    return {"x": x, "y": (x[:, -1] @ rng.standard_normal(64, dtype=np.float32) > 0).astype(np.float32)}


# Graphs: "edges" int32 (2, E), sources and targets, each undirected edge in both directions. Sparse features in rows: "starts", "columns", "values".

CORA = {"nodes": 2708, "edges": 5278, "features": 1433, "classes": 7, "words": 18, "training": 140}
LARGE = {"nodes": 1_000_000, "edges": 5_000_000, "features": 32, "classes": 16}       # undirected: ten million entries
HIDDEN = {"gcn": 16, "gcn_large": 32}                    # features of the hidden nodes


def citations() -> Arrays:
    """Cora's graph where NNKIT_DATA names a folder that holds it, else one of its size: papers cite mostly their own class, and use its words.

    Rows of features sum to 1. "training": the nodes whose labels count. And weights.
    """
    rng = np.random.default_rng(22)
    folder = os.environ.get("NNKIT_DATA")
    if folder:
        with np.load(Path(folder) / "planetoid" / "cora.npz") as stored:
            starts, columns, labels, training = (stored[name] for name in ("features_indptr", "features_indices", "labels", "train_idx"))
            sources, targets = np.repeat(np.arange(len(labels)), np.diff(stored["adj_indptr"])), stored["adj_indices"]
    else:
        V, F, classes = (CORA[name] for name in ("nodes", "features", "classes"))
        labels = rng.integers(0, classes, V)
        training = np.concatenate([np.flatnonzero(labels == label)[:CORA["training"] // classes] for label in range(classes)])
        odds = rng.dirichlet(np.full(F, 0.05), classes)[labels] + 0.5 / F
        columns = np.argsort(odds / rng.exponential(size=(V, F)), axis=1)[:, -CORA["words"]:].ravel()
        starts = np.arange(V + 1) * CORA["words"]
        ends = np.sort(rng.integers(0, V, (8 * CORA["edges"], 2)), axis=1)
        kept = ends[(ends[:, 0] != ends[:, 1]) & ((labels[ends[:, 0]] == labels[ends[:, 1]]) | (rng.random(len(ends)) < 0.04))]
        pairs = rng.permutation(np.unique(kept, axis=0))[:CORA["edges"]]
        sources, targets = np.concatenate([pairs, pairs[:, ::-1]]).T
    counts = np.diff(starts)
    F, classes = CORA["features"], CORA["classes"]
    return {"starts": starts.astype(np.int64), "columns": columns.astype(np.int32), "values": np.repeat(1 / counts, counts).astype(np.float32),
            "edges": np.stack([sources, targets]).astype(np.int32), "y": labels.astype(np.int32), "training": training.astype(np.int32),
            "kernel1": glorot_uniform(rng, F, HIDDEN["gcn"]), "kernel2": glorot_uniform(rng, HIDDEN["gcn"], classes)}


def large_graph() -> Arrays:
    """Uniformly random edges; the class is the largest of random projections of the features, which have a part of the neighbours' in them."""
    rng = np.random.default_rng(23)
    V, F, classes = (LARGE[name] for name in ("nodes", "features", "classes"))
    ends = rng.integers(0, V, (2, LARGE["edges"]), dtype=np.int32)
    ends = ends[:, ends[0] != ends[1]]
    keys = np.sort(np.minimum(ends[0], ends[1]).astype(np.int64) * V + np.maximum(ends[0], ends[1]))
    keys = keys[np.append(True, keys[1:] != keys[:-1])]  # each once; of so many np.unique takes 100 times as long
    ends = np.stack([keys // V, keys % V]).astype(np.int32)
    x = rng.standard_normal((V, F), dtype=np.float32)
    y = np.argmax(x @ rng.standard_normal((F, classes), dtype=np.float32), axis=1)
    return {"x": x, "edges": np.concatenate([ends, ends[::-1]], axis=1), "y": y.astype(np.int32), "training": np.arange(V, dtype=np.int32),
            "kernel1": glorot_uniform(rng, F, HIDDEN["gcn_large"]), "kernel2": glorot_uniform(rng, HIDDEN["gcn_large"], classes)}


NETWORKS = ("torch", "torch-compile", "keras", "jax")
GRAPHS = ("pyg", "pyg-sparse", "pyg-compile")
CONVOLUTIONS = ("torch", "torch-channels-last", "torch-compile", "keras", "jax")
LABELLED = ("bigmlp", "digits_cnn", "conv3d", "char_lstm", "mlp4096", "vgg16_batch64")  # training with classes as targets
GPU_ONLY = ("mlp4096", "vgg16_batch64", "lstm256")       # too large for the processors that the others are timed on
# How many times nnkit's time PyTorch should need on a GPU: for a step of a few launches, and for one of large products by Numba's kernels.
SMALL = {"torch-cuda": 10, "torch-cuda-compile": 1.5, "torch-cuda-graph": 1.5}
PRODUCTS = dict.fromkeys(SMALL, 0.6)
READER = "100 words: Embedding(10000, 64), {}(32), Dense 1"

WORKS: dict[str, Work] = {
    "mlp": Work("MLP 20-64-32-1, batch 32, Adam", "epoch of 25 steps, shuffled", binary, 32, 20, (0.11, 0.19), NETWORKS,
                {"jax": 5, "torch": 90, "keras": 500, **SMALL}, limits={("nnkit", "epoch"): 25 * 4.6e-6}),
    "dropout": Work("the same with Dropout(0.5) twice", "epoch of 25 steps, shuffled", binary, 32, 20, (0.21, 0.29), NETWORKS, {"jax": 10}),
    "autoencoder": Work("autoencoder 20-10-20, BCE, batch 32, Adam", "epoch of 25 steps, shuffled", reconstruction, 32, 20, (0.645, 0.68), NETWORKS,
                        {"torch": 60}),
    "classifier": Work("MLPClassifier((64, 32), batch_size=32): ReLU, Adam, L2 of 1e-4", "epoch of 25 steps, shuffled", binary, 32, 20, (0.11, 0.19),
                       ("sklearn",), {"sklearn": 25}),
    "bigmlp": Work("MLP 784-1024-1024-10, batch 256, Adam", "epoch of 20 steps, shuffled", images, 256, 3, (0.008, 0.06), NETWORKS,
                   {"jax": 1.1, "torch": 1.1, "torch-compile": 1.1, "keras": 1.1}),
    "vae": Work("variational autoencoder 784-400-(20+20)-400-784, batch 128, Adam", "epoch of 93 steps, shuffled", fashion, 128, 2, (0.2, 0.65),
                NETWORKS, dict.fromkeys(NETWORKS, 1.3)),
    "digits_cnn": Work("digits 8 x 8: Conv2D 32 of 3 x 3, max pooling, Dense 128, Dense 10, batch 32, Adam", "epoch of 44 steps, shuffled",
                       digits, 32, 5, (0.1, 0.25), CONVOLUTIONS, {**dict.fromkeys(CONVOLUTIONS, 5), **SMALL}),
    "conv3d": Work("voxels 32 x 32 x 32: Conv3D 32 of 3 x 3 x 3, max pooling, Dense 128, Dense 20, batch 32, Adam", "epoch of 4 steps, shuffled",
                   voxels, 32, 5, (0.02, 0.9), CONVOLUTIONS, dict.fromkeys(CONVOLUTIONS, 3)),
    "vgg16_forward": Work("VGG16's 13 convolutions and 5 poolings at 224 x 224, mean of every channel, Dense 10; batch 8", "call, NumPy in and out",
                          vgg16, peers=CONVOLUTIONS, targets=dict.fromkeys(CONVOLUTIONS, 2.2), tolerance=1e-3),
    "vgg16_train": Work("the same network: forward, backward and SGD; batch 8", "step", vgg16, peers=CONVOLUTIONS,
                        targets=dict.fromkeys(CONVOLUTIONS, 2.2), tolerance=FLIPS),
    "resnet_block": Work("ResNet-style block on 8 x 56 x 56 x 64: convolutions 1x1, 3x3, 1x1, each with batch normalization, the input added; "
                         "forward and backward (kernels, gamma, beta, input)", "step", resnet_block, peers=CONVOLUTIONS,
                         targets=dict.fromkeys(CONVOLUTIONS, 1.5), tolerance=FLIPS),
    "depthwise": Work("DepthwiseConv2D 3x3, same, on 8 x 112 x 112 x 64: forward and backward (kernel, input)", "step", depthwise, peers=CONVOLUTIONS,
                      targets=dict.fromkeys(CONVOLUTIONS, 1.5), tolerance=1e-3),
    "simple_rnn": Work(READER.format("SimpleRNN") + ", batch 32, Adam", "epoch of 32 steps, shuffled", partial(reviews, "simple_rnn"), 32, 5,
                       (0.005, 0.06), NETWORKS, dict.fromkeys(NETWORKS, 7), tolerance=1e-3),
    "lstm": Work(READER.format("LSTM") + ", batch 32, Adam", "epoch of 32 steps, shuffled", partial(reviews, "lstm"), 32, 5,
                 (0.05, 0.25), NETWORKS, dict.fromkeys(NETWORKS, 2.2), tolerance=1e-3),
    "gru": Work(READER.format("GRU") + ", batch 32, Adam", "epoch of 32 steps, shuffled", partial(reviews, "gru"), 32, 5,
                (0.01, 0.2), NETWORKS, dict.fromkeys(NETWORKS, 9), tolerance=1e-3),
    "char_lstm": Work("64 symbols of 65: Embedding(65, 64), LSTM(256), Dense 65 at every step, batch 64, Adam", "epoch of 8 steps, shuffled",
                      characters, 64, 6, (3.0, 4.05), NETWORKS, dict.fromkeys(NETWORKS, 1.3), tolerance=1e-3),
    "lstm100": Work("LSTM(100) on 32 x 100 x 100, outputs of all steps: forward and backward (both kernels, bias, input)", "step", lstm100,
                    peers=NETWORKS, targets=dict.fromkeys(NETWORKS, 1.3), tolerance=1e-3),
    "predict_lstm": Work("predict of one row, " + READER.format("LSTM"), "call, NumPy in and out", partial(reviews, "lstm"), 32, 1, (0.55, 0.66),
                         NETWORKS, limits={("nnkit", "call"): 150e-6}, tolerance=1e-3),
    "gcn": Work("GCN 1433-16-7 on Cora, all nodes at once, dropout 0.5, L2 of 5e-4 on the first kernel, Adam 0.01, the loss of 140 nodes",
                "epoch of one step", citations, epochs=60, loss=(0.65, 1.2), peers=GRAPHS, targets={"pyg": 20, "pyg-sparse": 5, **SMALL}),
    "gcn_large": Work("GCN 32-32-16 on a random graph of a million nodes and ten million entries, all nodes at once, Adam 0.01, the loss of all",
                      "epoch of one step", large_graph, epochs=3, loss=(2.71, 2.735), peers=("pyg",)),
    "mlp4096": Work("MLP 784-4096-4096-10, batch 4096, Adam", "epoch of 5 steps, shuffled", partial(images, 5 * 4096), 4096, 2, (1.5, 2.25),
                    targets=PRODUCTS),
    "vgg16_batch64": Work("VGG16's convolutions and poolings at 224 x 224, mean of every channel, Dense 10; SGD; batch 64", "epoch of one step",
                          partial(vgg16, 64), 64, 1, (2, 9.8), targets=PRODUCTS),
    "lstm256": Work("LSTM(256) on sequences of 100 steps of 64 numbers, Dense 1, batch 64, Adam", "epoch of 8 steps, shuffled", signals, 64, 2,
                    (0.4, 0.7), targets=dict.fromkeys(SMALL, 1.0)),
    "predict": Work("predict of one row, MLP 20-64-32-1", "call, NumPy in and out", binary, 32, 1, (0.5, 0.7), limits={("nnkit", "call"): 10e-6}),
    "startup": Work("fresh process, import to the end of the first epoch of mlp", "process", binary, 32,
                    limits={("nnkit", "first epoch"): 0.6, ("nnkit, empty cache", "first epoch"): 6, ("nnkit", "import alone"): 0.35}),
    "activations": Work(f"activations and their gradients, {ELEMENTS >> 20} M elements", "pass", elements, peers=("torch",), targets={"torch": 1}),
    "optimizers": Work(f"optimizer steps, {PARAMETERS // 10**6} M parameters", "step", gradients, peers=("torch",), targets={"torch": 1}),
}


def on_a_gpu(given: np.ndarray) -> np.ndarray:
    """An array of `activations` or `optimizers` as peers on a GPU have it."""
    return np.tile(given, DEVICE_TIMES)


def traffic(work: str, item: str, gpu: bool = False) -> float:
    """Bytes that one repetition of an item of `activations` or `optimizers` must move at least."""
    times = DEVICE_TIMES if gpu else 1
    if work == "optimizers":
        return 4.0 * times * PARAMETERS * OPTIMIZER_ARRAYS[item]
    return 4.0 * times * ELEMENTS * (3 if item.endswith("gradient") else 2)   # x, y; or dy, saved value, dx
