"""Transfer from VGG16: its thirteen convolutions, pretrained on photographs and frozen, below a small head that learns to tell two things apart.

The program of the textbook's section on pretraining: Flatten, Dense of 256, Dropout and a sigmoid on the frozen base, Adam with 1e-4. The weights are
read from a file where there is one: give its path (--weights), or put Keras' or torchvision's file, under the name that it is published with, into
the folder of the environment variable NNKIT_DATA. Without one the base has random weights of a fixed seed, and the script says so: what is shown is
then how it is done, not what pretraining brings.

Runs on two of COIL-20's toy cars, photographed from all sides, where NNKIT_DATA names a folder that holds coil20/coil20_32x32.npz, else on two
turning shapes that are made on the spot, and says so. Frozen layers give the same in every epoch, so `cache_frozen` runs them once; the times of the
epochs are printed. Saves vgg16_transfer.png: test images with what the network says.
"""

import argparse
import os
import time
from pathlib import Path

import matplotlib
import numpy as np
from scipy import ndimage

import nnkit
from nnkit import Adam, Callback, Dense, Dropout, Flatten, Input, Sequential
from nnkit.models import preprocess_input, vgg16

matplotlib.use("Agg")  # write files; no window, so that the script runs on any machine
import matplotlib.pyplot as plt

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--out", type=Path, default=Path(), help="folder for the plot (default: the current one)")
options.add_argument("--quick", action="store_true", help="images of 48 x 48 pixels and three epochs, to see that everything runs")
options.add_argument("--weights", type=Path, help="file of weights: Keras' .h5, torchvision's .pth, or one that nnkit wrote of this network")
options = options.parse_args()

SIZE = 48 if options.quick else 150
VIEWS = 72                             # of each thing, 5 degrees apart
PUBLISHED = ["vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", "vgg16_weights_tf_dim_ordering_tf_kernels.h5", "vgg16-397923af.pth"]

folder = Path(os.environ["NNKIT_DATA"]) if os.environ.get("NNKIT_DATA") else None


def shapes() -> np.ndarray:
    """Pictures (2 * 72, 32, 32) from 0 to 255: a large star of 4 corners, a smaller one of 5, brighter on one side, turned by 5 degrees each time."""
    rng = np.random.default_rng(0)
    across, down = np.meshgrid(np.linspace(-1, 1, 32), np.linspace(-1, 1, 32))
    radius, angle = np.hypot(across, down), np.arctan2(down, across)
    pictures = []
    for corners, size in ((4, 0.7), (5, 0.5)):
        for turn in np.linspace(0, 2 * np.pi, VIEWS, endpoint=False):
            edge = size + 0.12 * np.cos(corners * (angle - turn))
            picture = (radius < edge) * (0.7 + 0.2 * np.cos(angle - turn))
            pictures.append(picture + 0.05 * rng.standard_normal(picture.shape))
    return np.clip(pictures, 0, 1) * 255


def read_images() -> tuple[np.ndarray, list[str]]:
    """Grey images (2 * 72, 32, 32) from 0 to 255, the views of one thing after those of the other, and what they are called."""
    stored = folder / "coil20" / "coil20_32x32.npz" if folder else None
    if stored is None or not stored.is_file():
        print(f"{'no COIL-20 in NNKIT_DATA' if folder else 'NNKIT_DATA is not set'}: two shapes made on the spot in its place")
        return shapes(), ["large", "small"]
    print("COIL-20: things 3 and 6, two toy cars")
    with np.load(stored) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype(int)
    labels -= labels.min() - 1         # things count from 1
    return np.concatenate([images[labels == 3], images[labels == 6]]), ["thing 3", "thing 6"]


def find_weights() -> Path | None:
    """The file of weights, or None."""
    if options.weights:
        return options.weights
    return next((folder / name for name in PUBLISHED if (folder / name).is_file()), None) if folder else None


# Grey images of 32 x 32 become what VGG16 takes: larger, with three channels, less the mean that its weights are used to.
images, names = read_images()
weights = find_weights()
print(f"Weights of VGG16: {weights}" if weights else
      "No file of VGG16's weights was found or given (--weights): the base has random weights of a fixed seed")
mode = "torchvision" if weights and weights.suffix in (".pth", ".pt") else "keras"
larger = np.clip(ndimage.zoom(images.astype(np.float32), (1, SIZE / 32, SIZE / 32), order=1), 0, 255)
x = preprocess_input(np.repeat(larger[..., None], 3, axis=3), mode=mode)
y = np.repeat([0, 1], VIEWS)
seen = np.arange(len(x)) % 4 == 0      # every fourth view is for learning, the three between are for the test
x_train, y_train, x_test, y_test = x[seen], y[seen], x[~seen], y[~seen]
print(f"{len(x_train)} images of {SIZE} x {SIZE} pixels to learn from, {len(x_test)} to test")

base = vgg16((SIZE, SIZE, 3), include_top=False, weights=weights, trainable=False)
spec = Sequential([
    Input((SIZE, SIZE, 3)),
    base,
    Flatten(),
    Dense(256, activation="relu"),
    Dropout(0.5),
    Dense(1, activation="sigmoid"),
])
model = nnkit.compile(spec, optimizer=Adam(1e-4), loss="binary_crossentropy", metrics=["accuracy"], seed=0)
learned = sum(declared.size for declared in model.graph.parameters().values() if declared.trainable)
print(f"{sum(values.size for values in model.parameters.values()):,} parameters, of which {learned:,} are trained")


class Clock(Callback):
    """The moments at which epochs end."""

    def __init__(self) -> None:
        self.moments = [time.perf_counter()]

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Note the time."""
        self.moments.append(time.perf_counter())


clock = Clock()
epochs = 3 if options.quick else 60
history = model.fit(x_train, y_train, batch_size=12, epochs=epochs, validation_data=(x_test, y_test), callbacks=clock, verbose=0, cache_frozen=True)
first, *later = np.diff(clock.moments)
print(f"First epoch, with the base run over all images: {first:.2f} s; later epochs, of the head alone: {1000 * np.mean(later):.1f} ms each")
for epoch in range(epochs)[9::10]:
    print(f"epoch {epoch + 1}: test loss {history['val_loss'][epoch]:.4f}, accuracy {history['val_accuracy'][epoch]:.4f}")
print(f"Test accuracy: {history['val_accuracy'][-1]:.4f}")

answers = model.predict(x_test[::9])[:, 0]
figure, panels = plt.subplots(2, 6, figsize=(11, 4.2), layout="constrained")
for panel, picture, answer, truth in zip(panels.flat, larger[~seen][::9], answers, y_test[::9], strict=True):
    panel.imshow(picture, cmap="gray", vmin=0, vmax=255)
    said = int(answer > 0.5)
    panel.set_title(f"{names[said]} ({max(answer, 1 - answer):.2f})", color="black" if said == truth else "red", fontsize=9)
    panel.axis("off")
figure.savefig(options.out / "vgg16_transfer.png", dpi=120)
print(f"Plot: {options.out / 'vgg16_transfer.png'}")
