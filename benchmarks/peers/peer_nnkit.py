"""nnkit's side: `fit` and `predict` as its users call them; activations and optimizers as single kernels on the tape."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
from worker import Job, serve, threads
from workloads import WORKS

import nnkit
from nnkit import L2, Adam, Dense, Dropout, Input, LeakyReLU, Network, Sequential


def network(work: str) -> Sequential | Network:
    if work == "vae":
        return nnkit.models.vae(784, (400,), 20)
    if work == "autoencoder":
        return Sequential([Input((20,)), Dense(10, activation="relu"), Dense(20, activation="sigmoid")])
    if work == "bigmlp":
        return Sequential([Input((784,)), Dense(1024, activation="relu"), Dense(1024, activation="relu"), Dense(10, activation="softmax")])
    if work == "dropout":
        return Sequential([Input((20,)), Dense(64, activation="relu"), Dropout(0.5), Dense(32, activation="relu"), Dropout(0.5),
                           Dense(1, activation="sigmoid")])
    if work == "classifier":
        penalty = L2(1e-4 / 2 / 32)                      # scikit-learn halves its alpha and divides it by the batch's size
        return Sequential([Input((20,)), *(Dense(units, activation="relu", kernel_regularizer=penalty) for units in (64, 32)),
                           Dense(1, activation="sigmoid", kernel_regularizer=penalty)])
    return Sequential([Input((20,)), Dense(64, activation="relu"), Dense(32, activation=LeakyReLU(0.01)), Dense(1, activation="sigmoid")])


def training(work: str, arrays: dict[str, np.ndarray]) -> Job:
    x, y = arrays["x"], arrays["y"]
    loss_name = "sparse_categorical_crossentropy" if work == "bigmlp" else "binary_crossentropy"
    model = nnkit.compile(network(work), optimizer=Adam(1e-3), loss=loss_name, seed=0, threads=threads())
    batch_size = WORKS[work].batch_size

    def epochs(n: int) -> None:
        model.fit(x, y, batch_size=batch_size, epochs=n, verbose=0)

    def loss() -> float:
        return model.evaluate(x, y)["loss"]

    if work != "predict":
        return Job({"epoch": epochs}, loss)
    row = x[:1]

    def calls(n: int) -> None:
        for _ in range(n):
            model.predict(row)

    return Job({"train": epochs, "call": calls}, loss)


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


def measured(made: dict[str, tuple[Callable[[int], None], np.ndarray]]) -> Job:
    """Each kernel once for its values, then as often as the driver likes."""
    checks = {}
    for name, (run, result) in made.items():
        run(1)
        checks[name] = result.ravel()[:64].copy()
    return Job({name: run for name, (run, _) in made.items()}, checks=checks)


def prepare(work: str, arrays: dict[str, np.ndarray], peer: str) -> Job:
    special = {"activations": activations, "optimizers": optimizers}
    return special[work](arrays) if work in special else training(work, arrays)


if __name__ == "__main__":
    serve(prepare)
