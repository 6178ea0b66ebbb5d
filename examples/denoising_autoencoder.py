"""Denoising autoencoder: in training it sees images with noise and is asked for the clean ones; then it cleans noisy images that it never saw.

Runs on the 1,797 digits that come with scikit-learn, and on Fashion-MNIST where the environment variable NNKIT_DATA names a folder that holds
fashion_mnist/fashion_mnist_12k_2k.npz. Prints the mean squared error of the noisy and of the cleaned test images (on the digits 8 times smaller), and
saves denoising_digits.png and denoising_fashion.png.
"""

import argparse
import os
from pathlib import Path

import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import nnkit
from nnkit import Adam, GaussianNoise
from nnkit.models import autoencoder

matplotlib.use("Agg")  # write files; no window, so that the script runs on any machine
import matplotlib.pyplot as plt

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--out", type=Path, default=Path(), help="folder for the plots (default: the current one)")
options.add_argument("--quick", action="store_true", help="two epochs, to see that everything runs")
options = options.parse_args()

NOISE = 0.5                            # standard deviation; black is 0 and white is 1, so this hides a good deal


def clean(name: str, x_train: np.ndarray, x_test: np.ndarray, code: int, hidden: tuple[int, ...], epochs: int) -> None:
    """Train on images (N, height, width) with numbers from 0 to 1; print the errors, save the picture."""
    height, width = x_test.shape[1:]
    x_train, x_test = x_train.reshape(len(x_train), -1), x_test.reshape(len(x_test), -1)
    # The noise is a layer: drawn anew in every step of training, so that no image is seen twice with the same noise, and absent elsewhere.
    network = autoencoder(height * width, code, hidden=hidden, corruption=GaussianNoise(NOISE))
    model = nnkit.compile(network, optimizer=Adam(1e-3), loss="binary_crossentropy", seed=0)
    model.fit(x_train, x_train, batch_size=64, epochs=2 if options.quick else epochs, verbose=0)

    noisy = x_test + NOISE * np.random.default_rng(0).standard_normal(x_test.shape)
    cleaned = model.predict(noisy)
    before, after = np.mean((noisy - x_test) ** 2), np.mean((cleaned - x_test) ** 2)
    print(f"{name}: mean squared error {before:.4f} with noise, {after:.4f} cleaned: {before / after:.1f} times smaller")

    figure, panels = plt.subplots(3, 12, figsize=(12, 3.5), layout="constrained")
    for row, (label, images) in enumerate({"original": x_test, "with noise": noisy, "cleaned": cleaned}.items()):
        for panel, image in zip(panels[row], images, strict=False):
            panel.imshow(image.reshape(height, width), cmap="gray", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[])
        panels[row, 0].set_ylabel(label)
    figure.suptitle(f"{name}: test images; mean squared error {before:.3f} with noise, {after:.3f} cleaned")
    path = options.out / f"denoising_{name}.png"
    figure.savefig(path, dpi=120)
    print(f"Plot: {path}")


train, test = train_test_split(load_digits().images / 16, test_size=0.2, random_state=42)
clean("digits", train, test, code=32, hidden=(256,), epochs=150)

folder = os.environ.get("NNKIT_DATA")
if folder:
    with np.load(Path(folder) / "fashion_mnist" / "fashion_mnist_12k_2k.npz") as stored:
        train, test = stored["train_images"] / np.float32(255), stored["test_images"] / np.float32(255)
    clean("fashion", train, test, code=64, hidden=(512,), epochs=10)
