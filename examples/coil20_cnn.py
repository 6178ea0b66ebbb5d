"""A convolutional network on COIL-20: 20 things on a turntable, photographed every 5 degrees, 32 x 32 pixels.

Runs on COIL-20 where the environment variable NNKIT_DATA names a folder that holds coil20/coil20_32x32.npz, else on as many pictures of 20 shapes,
turned likewise, that are made on the spot, and says so. Every fourth view is for learning, the three between are for the test: the network sees each
thing every 20 degrees. Prints the test accuracy and what is confused most, and saves coil20_cnn.png: test images with what the network says.
"""

import argparse
import os
from pathlib import Path

import matplotlib
import numpy as np

import nnkit
from nnkit import Adam, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D, Sequential

matplotlib.use("Agg")  # write files; no window, so that the script runs on any machine
import matplotlib.pyplot as plt

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--out", type=Path, default=Path(), help="folder for the plot (default: the current one)")
options.add_argument("--quick", action="store_true", help="two epochs, to see that everything runs")
options = options.parse_args()

VIEWS = 72                             # of each thing, 5 degrees apart


def shapes() -> np.ndarray:
    """Pictures (20 * 72, 32, 32) from 0 to 1: stars of 3 to 7 corners, with notches of four depths, each turned by 5 degrees from view to view."""
    rng = np.random.default_rng(0)
    across, down = np.meshgrid(np.linspace(-1, 1, 32), np.linspace(-1, 1, 32))
    radius, angle = np.hypot(across, down), np.arctan2(down, across)
    pictures = []
    for thing in range(20):
        corners, notch = 3 + thing % 5, 0.08 * (1 + thing // 5)
        for view in range(VIEWS):
            turn = 2 * np.pi * view / VIEWS
            # A mark on one side, or a turned star would look like itself.
            edge = 0.65 + notch * np.cos(corners * (angle - turn)) + 0.1 * np.cos(angle - turn)
            picture = 1 / (1 + np.exp(np.clip(30 * (radius - edge), -50, 50))) * (0.75 + 0.25 * np.cos(angle - turn))
            pictures.append(picture + 0.05 * rng.standard_normal(picture.shape))
    return np.clip(pictures, 0, 1)


folder = os.environ.get("NNKIT_DATA")
if folder:
    with np.load(Path(folder) / "coil20" / "coil20_32x32.npz") as stored:
        images, labels = stored["images"] / np.float32(255), stored["labels"].astype(int)
    print("COIL-20")
else:
    images, labels = shapes(), np.repeat(np.arange(20), VIEWS)
    print("NNKIT_DATA is not set: 20 shapes made on the spot in place of COIL-20")
labels -= labels.min()                 # classes count from 0
seen = np.arange(len(images)) % 4 == 0
x_train, y_train, x_test, y_test = images[seen, ..., None], labels[seen], images[~seen, ..., None], labels[~seen]
print(f"{len(x_train)} images to learn from, {len(x_test)} to test")

spec = Sequential([
    Input((32, 32, 1)),
    Conv2D(16, 3, activation="relu"),
    MaxPooling2D(2),
    Conv2D(32, 3, activation="relu"),
    MaxPooling2D(2),
    Flatten(),
    Dense(128, activation="relu"),
    Dropout(0.3),
    Dense(20, activation="softmax"),
])
model = nnkit.compile(spec, optimizer=Adam(1e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"], seed=0)
model.fit(x_train, y_train, batch_size=32, epochs=2 if options.quick else 40, verbose=0)
print(f"Test accuracy: {model.evaluate(x_test, y_test)['accuracy']:.4f}")

answers = model.predict(x_test).argmax(axis=1)
confusion = np.zeros((20, 20), int)
np.add.at(confusion, (y_test, answers), 1)
np.fill_diagonal(confusion, 0)
thing, other = np.unravel_index(confusion.argmax(), confusion.shape)
if confusion.any():
    count, views = confusion[thing, other], (y_test == thing).sum()
    print(f"Confused most: thing {thing + 1} is taken for thing {other + 1} in {count} of its {views} test images")

# First what went wrong, then test images of every thing.
order = np.concatenate([np.flatnonzero(answers != y_test)[:20], np.arange(0, len(y_test), len(y_test) // 40)])[:40]
figure, panels = plt.subplots(4, 10, figsize=(12, 5.4), layout="constrained")
for panel, index in zip(panels.flat, order, strict=True):
    panel.imshow(x_test[index, :, :, 0], cmap="gray", vmin=0, vmax=1)
    said, thing = answers[index] + 1, y_test[index] + 1
    panel.set_title(f"{said}" if said == thing else f"{said}, is {thing}", color="black" if said == thing else "red", fontsize=9)
    panel.axis("off")
figure.savefig(options.out / "coil20_cnn.png", dpi=120)
print(f"Plot: {options.out / 'coil20_cnn.png'}")
