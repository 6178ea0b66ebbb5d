"""Variational autoencoder: the code of an image is a small cloud instead of a point, so that every place of the code means something.

Two networks: one with a code of two numbers, which can be drawn as a plane, and one with more, whose decoder then draws new images from normal
random numbers. Runs on the 1,797 digits that come with scikit-learn, and on Fashion-MNIST where the environment variable NNKIT_DATA names a folder
that holds fashion_mnist/fashion_mnist_12k_2k.npz. Prints the evidence lower bound (ELBO) of the test images and its two parts, and saves
vae_digits.png and vae_fashion.png: reconstructions beside originals, the plane, samples.
"""

import argparse
import os
from pathlib import Path

import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import nnkit
from nnkit import Adam
from nnkit.models import vae

matplotlib.use("Agg")  # write files; no window, so that the script runs on any machine
import matplotlib.pyplot as plt

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--out", type=Path, default=Path(), help="folder for the plots (default: the current one)")
options.add_argument("--quick", action="store_true", help="two epochs, to see that everything runs")
options = options.parse_args()


def train(x_train: np.ndarray, x_test: np.ndarray, latent: int, hidden: tuple[int, ...], epochs: int) -> nnkit.Model:
    """A network with that code; prints the bound on the test images."""
    pixels = x_train.shape[1]
    model = nnkit.compile(vae(pixels, hidden, latent), optimizer=Adam(1e-3), loss="binary_crossentropy", seed=0)
    model.fit(x_train, x_train, batch_size=64, epochs=2 if options.quick else epochs, verbose=0)
    # Losses are for each pixel; times the pixels they are for each image, in nats.
    found = model.evaluate(x_test, x_test)
    bound, reconstruction, divergence = (pixels * found[key] for key in ("loss", "reconstruction_loss", "kl_loss"))
    print(f"  code of {latent:2d}: ELBO {-bound:.2f} = -({reconstruction:.2f} reconstruction + {divergence:.2f} divergence)")
    return model


def tiles(images: np.ndarray, columns: int, size: int) -> np.ndarray:
    """Images (rows * columns, size * size) as one picture, with a pixel of white between them."""
    framed = np.pad(images.reshape(-1, size, size), ((0, 0), (0, 1), (0, 1)), constant_values=1)
    return framed.reshape(-1, columns, size + 1, size + 1).swapaxes(1, 2).reshape(-1, columns * (size + 1))


def show(name: str, x_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, classes: list[str], latent: int, hidden: tuple[int, ...],
         epochs: int) -> None:
    """Train both networks on images (N, size, size) with numbers from 0 to 1; save the picture."""
    print(f"{name}: {len(x_train)} images to learn from, {len(x_test)} to test")
    size = x_test.shape[1]
    x_train, x_test = x_train.reshape(len(x_train), -1), x_test.reshape(len(x_test), -1)
    flat = train(x_train, x_test, 2, hidden, epochs)
    deep = train(x_train, x_test, latent, hidden, epochs)

    figure, panels = plt.subplots(2, 2, figsize=(14, 13.5), layout="constrained")
    pairs = np.stack([x_test[:40].reshape(4, 10, -1), deep.predict(x_test[:40]).reshape(4, 10, -1)], axis=1)      # row of originals, row of copies
    panels[0, 0].imshow(tiles(pairs, 10, size), cmap="gray", vmin=0, vmax=1)
    panels[0, 0].set_title(f"code of {latent}: test images, each above its reconstruction")

    # Standard normal numbers are what the decoder has learned to expect: it makes new images of them.
    draws = np.random.default_rng(0).standard_normal((80, latent))
    panels[0, 1].imshow(tiles(deep.submodel(inputs="latent").predict(draws), 10, size), cmap="gray", vmin=0, vmax=1)
    panels[0, 1].set_title(f"code of {latent}: samples")

    # Encoder and decoder are models of their own, which share the memory of the whole.
    plane = flat.submodel(outputs="latent").predict(x_test)
    for number, label in enumerate(classes):
        panels[1, 0].scatter(*plane[y_test == number].T, color=f"C{number}", s=12, label=label)
    panels[1, 0].legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)
    panels[1, 0].set(title="code of 2: the test images", xlim=(-3, 3), ylim=(-3, 3), aspect="equal")

    place = np.linspace(-2.75, 2.75, 12)                 # twelve half units from -3 to 3
    grid = np.array([[a, b] for b in place[::-1] for a in place])
    panels[1, 1].imshow(tiles(flat.submodel(inputs="latent").predict(grid), 12, size), cmap="gray", vmin=0, vmax=1, extent=(-3, 3, -3, 3))
    panels[1, 1].set_title("code of 2: the same plane, decoded")
    for panel in panels[0]:
        panel.axis("off")
    path = options.out / f"vae_{name}.png"
    figure.savefig(path, dpi=80)
    print(f"Plot: {path}")


digits = load_digits()
x_train, x_test, _, y_test = train_test_split(digits.images / 16, digits.target, test_size=0.2, random_state=42, stratify=digits.target)
show("digits", x_train, x_test, y_test, list("0123456789"), latent=8, hidden=(256, 128), epochs=200)

folder = os.environ.get("NNKIT_DATA")
if folder:
    with np.load(Path(folder) / "fashion_mnist" / "fashion_mnist_12k_2k.npz") as stored:
        x_train, x_test = stored["train_images"] / np.float32(255), stored["test_images"] / np.float32(255)
        y_test = stored["test_labels"]
    names = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
    show("fashion", x_train, x_test, y_test, names, latent=20, hidden=(400,), epochs=20)
