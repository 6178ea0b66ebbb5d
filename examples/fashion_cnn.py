"""A convolutional network on Fashion-MNIST: grey images of ten kinds of clothing, 28 x 28 pixels.

Runs on 12,000 training and 2,000 test images where the environment variable NNKIT_DATA names a folder that holds
fashion_mnist/fashion_mnist_12k_2k.npz, else on the digits that come with scikit-learn, and says so. Prints the test accuracy (on Fashion-MNIST about
88 %), and saves fashion_cnn.png: one image, the filters of the first layer, and the feature maps of both convolutions.
"""

import argparse
import os
from pathlib import Path

import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import nnkit
from nnkit import Adam, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D, Sequential

matplotlib.use("Agg")  # write files; no window, so that the script runs on any machine
import matplotlib.pyplot as plt

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--out", type=Path, default=Path(), help="folder for the plot (default: the current one)")
options.add_argument("--quick", action="store_true", help="one epoch on a few images, to see that everything runs")
options = options.parse_args()

folder = os.environ.get("NNKIT_DATA")
if folder:
    with np.load(Path(folder) / "fashion_mnist" / "fashion_mnist_12k_2k.npz") as stored:
        x_train, x_test = stored["train_images"] / np.float32(255), stored["test_images"] / np.float32(255)
        y_train, y_test = stored["train_labels"], stored["test_labels"]
    classes = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
    print(f"Fashion-MNIST: {len(x_train):,} images to learn from, {len(x_test):,} to test")
else:
    digits = load_digits()
    x_train, x_test, y_train, y_test = train_test_split(digits.images / 16, digits.target, test_size=0.2, random_state=42, stratify=digits.target)
    classes = list("0123456789")
    print("NNKIT_DATA is not set: scikit-learn's digits of 8 x 8 pixels in place of Fashion-MNIST")
if options.quick:
    x_train, y_train = x_train[:1024], y_train[:1024]
x_train, x_test = x_train[..., None], x_test[..., None]              # grey images have one channel, the last axis

spec = Sequential([
    Input(x_train.shape[1:]),
    Conv2D(32, 3, padding="same", activation="relu", name="first"),
    MaxPooling2D(2),
    Conv2D(64, 3, padding="same", activation="relu", name="second"),    # sees twice as far: its inputs are 2 x 2 pixels each
    MaxPooling2D(2),
    Flatten(),
    Dropout(0.4),                      # 12,000 images are few for so many weights
    Dense(128, activation="relu"),
    Dropout(0.4),
    Dense(10, activation="softmax"),
])
model = nnkit.compile(spec, optimizer=Adam(1e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"], seed=0)
model.summary()
model.fit(x_train, y_train, batch_size=64, epochs=1 if options.quick else 15, validation_data=(x_test, y_test))
print(f"Test accuracy: {model.evaluate(x_test, y_test)['accuracy']:.4f}")


def tiles(images: np.ndarray, columns: int) -> np.ndarray:
    """Images (height, width, count) as one picture with that many columns, with empty pixels (NaN) between them."""
    height, width, count = images.shape
    framed = np.full((count, height + 1, width + 1), np.nan)
    framed[:, :height, :width] = np.moveaxis(images, -1, 0)
    return framed.reshape(-1, columns, height + 1, width + 1).swapaxes(1, 2).reshape(-1, columns * (width + 1))


# Both convolutions' outputs in one run: a submodel may have several.
image = x_test[:1]
first, second = model.submodel(outputs=["first", "second"]).predict(image)
filters = model.parameters["first/kernel"][:, :, 0]
figure, panels = plt.subplots(2, 2, figsize=(12, 8), width_ratios=[1, 2], layout="constrained")
panels = panels.ravel()
panels[0].imshow(image[0, :, :, 0], cmap="gray")
panels[0].set_title(f"{classes[y_test[0]]}; the network says {classes[model.predict(image).argmax()]}")
size = np.abs(filters).max()
panels[1].imshow(tiles(filters, 8), cmap="RdBu", vmin=-size, vmax=size)
panels[1].set_title("32 filters of the first convolution")
panels[2].imshow(tiles(second[0], 8), cmap="viridis")
panels[2].set_title("64 feature maps of the second convolution")
panels[3].imshow(tiles(first[0], 8), cmap="viridis")
panels[3].set_title("32 feature maps of the first")
for panel in panels:
    panel.axis("off")
figure.savefig(options.out / "fashion_cnn.png", dpi=120)
print(f"Plot: {options.out / 'fashion_cnn.png'}")
