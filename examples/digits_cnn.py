"""A convolutional network on handwritten digits: the 1,797 images of 8 x 8 pixels that come with scikit-learn; what its filters see.

Thirty-two filters of 3 x 3 slide over the image, a pooling keeps the largest number of every 2 x 2 places, two Dense layers name the digit. Prints
the layers and the test accuracy (about 99 %), and saves digits_cnn.png: the filters that it learned, and the feature maps that they make of one
digit.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import nnkit
from nnkit import Adam, Conv2D, CosineDecay, Dense, Dropout, Flatten, Input, MaxPooling2D, Sequential

matplotlib.use("Agg")  # write files; no window, so that the script runs on any machine
import matplotlib.pyplot as plt

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--out", type=Path, default=Path(), help="folder for the plot (default: the current one)")
options.add_argument("--quick", action="store_true", help="two epochs, to see that everything runs")
options = options.parse_args()

# Pixels are 0 to 16. A convolution wants an axis of channels, the last one: grey images have one channel.
digits = load_digits()
X, y = digits.images[..., None] / 16, digits.target
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=42)

spec = Sequential([
    Input((8, 8, 1)),
    Conv2D(32, kernel_size=3, activation="relu", name="filters"),    # 6 x 6 places where a window of 3 x 3 fits, 32 numbers at each
    MaxPooling2D(2),                                                 # 3 x 3 places: where exactly a stroke lay does not matter any more
    Flatten(),
    Dropout(0.4),                                                    # 1,437 images are few: without it the network learns them by heart
    Dense(128, activation="relu"),
    Dense(10, activation="softmax"),                                 # probabilities of the ten digits
])
epochs = 2 if options.quick else 60
steps = epochs * -(-len(X_train) // 32)
model = nnkit.compile(spec, optimizer=Adam(CosineDecay(3e-3, steps)), loss="sparse_categorical_crossentropy", metrics=["accuracy"], seed=0)
model.summary()
model.fit(X_train, y_train, epochs=epochs, batch_size=32)
print(f"Test accuracy: {model.evaluate(X_test, y_test)['accuracy']:.4f}")

# The first layer alone is a model, too: what it gives for one digit are the feature maps.
digit = X_test[:1]
maps = model.submodel(outputs="filters").predict(digit)[0]           # (6, 6, 32)
filters = model.parameters["filters/kernel"][:, :, 0]                # (3, 3, 32)


def tiles(images: np.ndarray) -> np.ndarray:
    """Images (height, width, 32) as one picture of 4 rows and 8 columns, with empty pixels (NaN) between them."""
    height, width, count = images.shape
    framed = np.full((count, height + 1, width + 1), np.nan)
    framed[:, :height, :width] = np.moveaxis(images, -1, 0)
    return framed.reshape(4, 8, height + 1, width + 1).swapaxes(1, 2).reshape(4 * (height + 1), 8 * (width + 1))


figure, panels = plt.subplots(1, 3, figsize=(15, 3.6), width_ratios=[1, 2, 2], layout="constrained")
panels[0].imshow(digit[0, :, :, 0], cmap="gray")
panels[0].set_title(f"a {y_test[0]}; the network says {model.predict(digit).argmax()}")
size = np.abs(filters).max()
panels[1].imshow(tiles(filters), cmap="RdBu", vmin=-size, vmax=size)
panels[1].set_title("the 32 filters: red below 0, blue above")
panels[2].imshow(tiles(maps), cmap="viridis")
panels[2].set_title("what they make of the digit, after ReLU")
for panel in panels:
    panel.axis("off")
figure.savefig(options.out / "digits_cnn.png", dpi=120)
print(f"Plot: {options.out / 'digits_cnn.png'}")
