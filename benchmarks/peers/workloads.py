"""The pieces of work that every peer does: data, sizes, the loss to reach, and the ratios that nnkit wants to reach.

Data are made by NumPy from a fixed seed, once, by the driver: no peer's start-up pays for making them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]

ELEMENTS = 1 << 24        # activations run over arrays of 16 M float32
PARAMETERS = 10_000_000   # optimizer steps run over this many float32

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


def images() -> Arrays:
    """5,120 rows of 784 features in ten classes: the largest of ten random projections."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((5120, 784), dtype=np.float32)
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


NETWORKS = ("torch", "torch-compile", "keras", "jax")

WORKS: dict[str, Work] = {
    "mlp": Work("MLP 20-64-32-1, batch 32, Adam", "epoch of 25 steps, shuffled", binary, 32, 20, (0.11, 0.19), NETWORKS,
                {"jax": 5, "torch": 90, "keras": 500}, limits={("nnkit", "epoch"): 25 * 4.6e-6}),
    "dropout": Work("the same with Dropout(0.5) twice", "epoch of 25 steps, shuffled", binary, 32, 20, (0.21, 0.29), NETWORKS, {"jax": 10}),
    "autoencoder": Work("autoencoder 20-10-20, BCE, batch 32, Adam", "epoch of 25 steps, shuffled", reconstruction, 32, 20, (0.645, 0.68), NETWORKS,
                        {"torch": 60}),
    "classifier": Work("MLPClassifier((64, 32), batch_size=32): ReLU, Adam, L2 of 1e-4", "epoch of 25 steps, shuffled", binary, 32, 20, (0.11, 0.19),
                       ("sklearn",), {"sklearn": 25}),
    "bigmlp": Work("MLP 784-1024-1024-10, batch 256, Adam", "epoch of 20 steps, shuffled", images, 256, 3, (0.008, 0.06), NETWORKS,
                   {"jax": 1.1, "torch": 1.1, "torch-compile": 1.1, "keras": 1.1}),
    "vae": Work("variational autoencoder 784-400-(20+20)-400-784, batch 128, Adam", "epoch of 93 steps, shuffled", fashion, 128, 2, (0.2, 0.65),
                NETWORKS, dict.fromkeys(NETWORKS, 1.3)),
    "predict": Work("predict of one row, MLP 20-64-32-1", "call, NumPy in and out", binary, 32, 1, (0.5, 0.7), limits={("nnkit", "call"): 10e-6}),
    "startup": Work("fresh process, import to the end of the first epoch of mlp", "process", binary, 32,
                    limits={("nnkit", "first epoch"): 0.6, ("nnkit, empty cache", "first epoch"): 6, ("nnkit", "import alone"): 0.35}),
    "activations": Work(f"activations and their gradients, {ELEMENTS >> 20} M elements", "pass", elements, peers=("torch",), targets={"torch": 1}),
    "optimizers": Work(f"optimizer steps, {PARAMETERS // 10**6} M parameters", "step", gradients, peers=("torch",), targets={"torch": 1}),
}


def traffic(work: str, item: str) -> float:
    """Bytes that one repetition of an item of `activations` or `optimizers` must move at least."""
    if work == "optimizers":
        return 4.0 * PARAMETERS * OPTIMIZER_ARRAYS[item]
    return 4.0 * ELEMENTS * (3 if item.endswith("gradient") else 2)   # x, y; or dy, saved value, dx
