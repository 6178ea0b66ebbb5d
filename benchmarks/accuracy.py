"""What networks reach on test data, beside the targets that the project set itself; exits with 1 where one is missed.

    python benchmarks/accuracy.py                        # all of them
    python benchmarks/accuracy.py digits fashion --seeds 5
    python benchmarks/accuracy.py --quick                # a short run of each: does it work? Targets do not count.

digits: scikit-learn's digits, the network of examples/digits_cnn.py on 5 splits; mean at least 98 %, each at least 97.5 %.
fashion: the network of examples/fashion_cnn.py on Fashion-MNIST (12,000 training images) beside the same network in PyTorch (same initialisation
rule, optimizer, batches, epochs), several seeds; nnkit's mean at most half a percentage point below PyTorch's. Needs PyTorch and nnkit in one
environment.
modelnet: examples/conv3d_voxels.py on ModelNet10; at least 88 %.
imdb: examples/imdb_lstm.py on 10,000 + 10,000 IMDB reviews of 200 words; LSTM and GRU at least 83 %.
simple_rnn: examples/imdb_simple_rnn.py on the same; the better of its two networks at least 75 %.
cora: examples/cora_gcn.py's network on 20 seeds, in Kipf and Welling's setting; mean at least 81.5 %, each at least 79.5 %.
shakespeare: examples/shakespeare.py, an LSTM of 128 units, 1,960 steps of 64 x 64 characters; at most 1.70 nats a character on the last tenth.

The data of all but the first: NNKIT_DATA names a folder that holds fashion_mnist/fashion_mnist_12k_2k.npz, modelnet10/modelnet10_voxels30.npz,
imdb/imdb_part1.npz, planetoid/cora.npz and tiny_shakespeare/input.txt. What is an example is seeded, and trained once.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import nnkit
from nnkit import L2, Adam, Conv2D, CosineDecay, Dense, Dropout, Flatten, Input, MaxPooling2D, Sequential
from nnkit.datasets import load_graph_npz
from nnkit.models import gcn

ROOT = Path(__file__).resolve().parents[1]
BATCH = 64                                               # of fashion
Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]   # training images and labels, test images and labels


def report(name: str, values: list[float]) -> None:
    listed = " ".join(f"{value:.4f}" for value in values)
    print(f"{name:16} {listed}   mean {np.mean(values):.4f}, smallest {min(values):.4f}", flush=True)


def digits(quick: bool, seeds: int) -> bool:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    epochs = 2 if quick else 60
    values = []
    for seed in range(seeds):
        x, x_test, y, y_test = train_test_split(found.images[..., None] / 16, found.target, test_size=0.2, random_state=seed)
        spec = Sequential([Input((8, 8, 1)), Conv2D(32, 3, activation="relu"), MaxPooling2D(2), Flatten(), Dropout(0.4),
                           Dense(128, activation="relu"), Dense(10, activation="softmax")])
        rate = CosineDecay(3e-3, epochs * -(-len(x) // 32))
        model = nnkit.compile(spec, optimizer=Adam(rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"], seed=seed)
        model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)
        values.append(model.evaluate(x_test, y_test)["accuracy"])
    report("digits", values)
    return np.mean(values) >= 0.98 and min(values) >= 0.975


def fashion_with_nnkit(data: Split, epochs: int, seed: int) -> float:
    x, y, x_test, y_test = data
    spec = Sequential([Input((28, 28, 1)), Conv2D(32, 3, padding="same", activation="relu"), MaxPooling2D(2),
                       Conv2D(64, 3, padding="same", activation="relu"), MaxPooling2D(2), Flatten(), Dropout(0.4), Dense(128, activation="relu"),
                       Dropout(0.4), Dense(10, activation="softmax")])
    model = nnkit.compile(spec, optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"], seed=seed)
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
    return model.evaluate(x_test, y_test)["accuracy"]


def fashion_with_torch(data: Split, epochs: int, seed: int) -> float:
    """Its layers start as nnkit's and Keras' do: Glorot uniform, zeros."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                          nn.Flatten(), nn.Dropout(0.4), nn.Linear(64 * 7**2, 128), nn.ReLU(), nn.Dropout(0.4), nn.Linear(128, 10))
    for layer in model:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    x, x_test = (torch.from_numpy(images).movedim(-1, 1).contiguous() for images in (data[0], data[2]))
    y, y_test = (torch.from_numpy(labels.astype(np.int64)) for labels in (data[1], data[3]))
    optimizer = torch.optim.Adam(model.parameters(), eps=1e-7)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        return (model(x_test).argmax(1) == y_test).double().mean().item()


def fashion(quick: bool, seeds: int) -> bool:
    with np.load(data_folder() / "fashion_mnist" / "fashion_mnist_12k_2k.npz") as stored:
        x, x_test = (stored[f"{part}_images"][..., None] / np.float32(255) for part in ("train", "test"))
        y, y_test = stored["train_labels"], stored["test_labels"]
    if quick:
        x, y, x_test, y_test = x[:512], y[:512], x_test[:200], y_test[:200]
    epochs = 1 if quick else 15
    means = {}
    for name, run in {"nnkit": fashion_with_nnkit, "torch": fashion_with_torch}.items():
        values = [run((x, y, x_test, y_test), epochs, seed) for seed in range(seeds)]
        report(f"fashion, {name}", values)
        means[name] = np.mean(values)
    return means["nnkit"] >= means["torch"] - 0.005


def modelnet(quick: bool, seeds: int) -> bool:
    value = printed_by("conv3d_voxels.py", quick, r"Test accuracy: ([\d.]+)")[0]
    report("modelnet", [value])
    return value >= 0.88


def imdb(quick: bool, seeds: int) -> bool:
    values = printed_by("imdb_lstm.py", quick, r"(?:LSTM|GRU): test accuracy ([\d.]+)")
    report("imdb, LSTM, GRU", values)
    return min(values) >= 0.83


def simple_rnn(quick: bool, seeds: int) -> bool:
    values = printed_by("imdb_simple_rnn.py", quick, r": test accuracy ([\d.]+)")
    report("imdb, SimpleRNN", values)
    return max(values) >= 0.75


def cora(quick: bool, seeds: int) -> bool:
    graph = load_graph_npz(data_folder() / "planetoid" / "cora.npz")
    words = graph.features.multiply(1 / graph.features.sum(axis=1)).tocsr()
    spec = gcn(words.shape[1], graph.classes, kernel_regularizer=L2(2.5e-4))
    values = []
    for seed in range(2 if quick else 20):
        model = nnkit.compile(spec, optimizer=Adam(0.01), loss="sparse_categorical_crossentropy", metrics=["accuracy"], seed=seed)
        model.fit([words, graph.adjacency], graph.labels, epochs=5 if quick else 200, mask=graph.train_mask, verbose=0)
        values.append(model.evaluate([words, graph.adjacency], graph.labels, mask=graph.test_mask)["accuracy"])
    report("cora", values)
    return np.mean(values) >= 0.815 and min(values) >= 0.795


def shakespeare(quick: bool, seeds: int) -> bool:
    value = printed_by("shakespeare.py", quick, r"Validation cross-entropy: ([\d.]+)")[0]
    report("shakespeare", [value])
    return value <= 1.70


def printed_by(example: str, quick: bool, pattern: str) -> list[float]:
    """The numbers that an example prints, run on the real data."""
    data_folder()
    path = ROOT / "examples" / example
    with tempfile.TemporaryDirectory() as folder:
        plots = ["--out", folder] if '"--out"' in path.read_text(encoding="utf-8") else []
        command = [sys.executable, str(path), *plots, *["--quick"] * quick]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [float(value) for value in re.findall(pattern, printed)]


def data_folder() -> Path:
    folder = os.environ.get("NNKIT_DATA")
    if not folder:
        raise SystemExit("NNKIT_DATA must name the folder of the data: see the head of this file")
    return Path(folder)


SETS: dict[str, Callable[[bool, int], bool]] = {
    "digits": digits, "fashion": fashion, "modelnet": modelnet, "imdb": imdb, "simple_rnn": simple_rnn, "cora": cora,
    "shakespeare": shakespeare,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"which of {', '.join(SETS)} (default: all)")
    parser.add_argument("--seeds", type=int, default=5, help="splits of digits, seeds of fashion (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a short run of each, to see that everything works")
    options = parser.parse_args()
    for name in options.sets:
        if name not in SETS:
            parser.error(f"unknown set {name!r}: known are {', '.join(SETS)}")
    missed = [name for name in options.sets or SETS if not SETS[name](options.quick, 2 if options.quick else options.seeds)]
    if missed and not options.quick:
        print(f"target missed: {', '.join(missed)}")
    return int(bool(missed) and not options.quick)


if __name__ == "__main__":
    sys.exit(main())
