"""Convolution in three dimensions: voxels, solid bodies in a cube of cells, named by a network that slides small cubes over them.

Runs on ModelNet10 (furniture and sanitary ware, 30 x 30 x 30 cells) where the environment variable NNKIT_DATA names a folder that holds
modelnet10/modelnet10_voxels30.npz, else on six kinds of bodies that are made on the spot, and says so. Prints the layers and the test accuracy (on
ModelNet10 at least 88 %), overall and class by class, and saves conv3d_voxels.png: test bodies with what the network says.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np

import nnkit
from nnkit import Adam, Conv3D, CosineDecay, Dense, Dropout, Flatten, Input, MaxPooling3D, Sequential

matplotlib.use("Agg")  # write files; no window, so that the script runs on any machine
import matplotlib.pyplot as plt

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--out", type=Path, default=Path(), help="folder for the plot (default: the current one)")
options.add_argument("--quick", action="store_true", help="one epoch on a few bodies, to see that everything runs")
options = options.parse_args()
rng = np.random.default_rng(0)


def made(count: int, size: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Bodies (count, size, size, size) of six kinds, each of random size, turned at random, with one cell in a hundred wrong; and their kinds."""
    axis = np.linspace(-1, 1, size)
    cells = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    kinds = rng.integers(6, size=count)
    bodies = np.empty((count, size, size, size), bool)
    for body, kind in zip(bodies, kinds, strict=True):
        turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))          # a random rotation; with a mirror, which changes none of them
        a, b, c = np.moveaxis((cells - rng.uniform(-0.1, 0.1, 3)) @ turn, -1, 0) / rng.uniform(0.5, 0.75)
        around = np.hypot(b, c)
        body[:] = (
            a**2 + around**2 < 1,                                                     # ball
            np.maximum(np.maximum(abs(a), abs(b)), abs(c)) < 0.8,                     # box
            (around < 0.7) & (abs(a) < 0.9),                                          # cylinder
            (abs(a) < 0.9) & (around < 0.5 * (0.9 - a)),                              # cone
            np.hypot(around - 0.75, a) < 0.3,                                         # ring
            np.minimum(np.minimum(np.hypot(a, b), np.hypot(b, c)), np.hypot(a, c)) + 0.1 * (abs(a) + abs(b) + abs(c)) < 0.4,    # cross
        )[kind]
        body ^= rng.random(body.shape) < 0.01
    return bodies, kinds


folder = os.environ.get("NNKIT_DATA")
if folder:
    with np.load(Path(folder) / "modelnet10" / "modelnet10_voxels30.npz") as stored:     # eight cells are one byte
        x_train, x_test = (np.unpackbits(stored[f"{part}_voxels_packed"], axis=-1, count=30) for part in ("train", "test"))
        y_train, y_test = stored["train_labels"], stored["test_labels"]
        classes = [str(name) for name in stored["class_names"]]
    print(f"ModelNet10: {len(x_train):,} bodies to learn from, {len(x_test):,} to test")
else:
    (x_train, y_train), (x_test, y_test) = made(64 if options.quick else 1200), made(60 if options.quick else 300)
    classes = ["ball", "box", "cylinder", "cone", "ring", "cross"]
    print(f"NNKIT_DATA is not set: {len(x_train):,} bodies made on the spot in place of ModelNet10, {len(x_test):,} to test")
chosen = rng.permutation(len(x_train))[:256 if options.quick else None]              # they are sorted by class
x_train, y_train = x_train[chosen, ..., None], y_train[chosen]                       # one channel, the last axis: filled or not
x_test = x_test[..., None].astype(np.float32)

spec = Sequential([
    Input(x_train.shape[1:]),
    Conv3D(16, kernel_size=5, strides=2, activation="relu"),     # every second place of each axis: an eighth of the numbers to go on with
    Conv3D(32, kernel_size=3, activation="relu"),
    MaxPooling3D(2),
    Flatten(),
    Dropout(0.3),
    Dense(128, activation="relu"),
    Dropout(0.4),
    Dense(len(classes), activation="softmax"),
])
epochs = 1 if options.quick else 16
rate = CosineDecay(2e-3, epochs * -(-len(x_train) // 64))        # falls to 0: the last epochs only settle
model = nnkit.compile(spec, optimizer=Adam(rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"], seed=0)
model.summary()


def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """An epoch in batches of 64, in a new order, every body mirrored or not along both level axes: a mirrored chair is a chair, too."""
    for indices in np.array_split(rng.permutation(len(x_train)), -(-len(x_train) // 64)):
        x = x_train[indices].astype(np.float32)
        for axis in (1, 2):
            mirrored = rng.random(len(x)) < 0.5
            x[mirrored] = np.flip(x[mirrored], axis)
        yield x, y_train[indices]


model.fit(batches, epochs=epochs)
print(f"Test accuracy of one look: {model.evaluate(x_test, y_test, batch_size=64)['accuracy']:.4f}")
# The network has four views of a body, as it is and mirrored: the mean of its answers is better than the first.
probabilities = np.mean([model.predict(np.flip(x_test, axes), batch_size=64) for axes in ((), 1, 2, (1, 2))], axis=0)
answers = probabilities.argmax(axis=1)
print(f"Test accuracy: {np.mean(answers == y_test):.4f}")
for number, name in enumerate(classes):
    print(f"  {name:12} {np.mean(answers[y_test == number] == number):.3f}")

# Two test bodies of every class. Colour: how deep the first filled cell lies, seen from the front.
figure, panels = plt.subplots(2, len(classes), figsize=(1.5 * len(classes), 3.6), layout="constrained")
for column, name in enumerate(classes):
    for row, index in enumerate(np.flatnonzero(y_test == column)[:2]):
        filled = x_test[index, ..., 0] > 0
        depth = np.where(filled.any(axis=1), filled.argmax(axis=1), np.nan)
        panels[row, column].imshow(depth.T, origin="lower", cmap="viridis_r")
        answer = classes[answers[index]]
        panels[row, column].set_title(answer, fontsize=9, color="black" if answer == name else "red")
for panel in panels.flat:
    panel.axis("off")
figure.suptitle("two test bodies of every class, and what the network says (red: wrong)")
figure.savefig(options.out / "conv3d_voxels.png", dpi=120)
print(f"Plot: {options.out / 'conv3d_voxels.png'}")
