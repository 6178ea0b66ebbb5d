"""Pretraining on real data: what a network learned from the digits 0 to 4 helps it to read 5 to 9 when few of these have labels.

A small convolutional network learns to tell the digits 0 to 4 apart, on scikit-learn's images of 8 x 8 pixels, each moved by up to one pixel, too.
Its convolutions are taken into a new network and frozen, and a new head learns the digits 5 to 9 from 10, 20, 50 or 100 labelled images of each.
Beside it the same network learns the same from nothing, convolutions included. Prints the mean test accuracy of ten seeds, which draw the labelled
images too, and saves digits_transfer.png: accuracy against the number of labels, with and without pretraining. The gain is a point where labels are
few (95.4 against 94.5 % with 10 of each), and nothing is lost where they are many (98.5 against 98.4 % with 100), though only the head is trained.
"""

import argparse
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
options.add_argument("--quick", action="store_true", help="few epochs and one seed, to see that everything runs")
options = options.parse_args()

LABELS = [10, 20, 50, 100]             # labelled images of each class
SEEDS = range(1 if options.quick else 10)
EPOCHS = 2 if options.quick else 60
SETTINGS = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}

digits = load_digits()
images, labels = (digits.images[..., None] / 16).astype(np.float32), digits.target
old, new = labels < 5, labels >= 5



def head(prefix: str) -> list[nnkit.Layer]:
    """What stands on the convolutions; the layers' names begin with the prefix."""
    return [Flatten(), Dropout(0.3), Dense(128, activation="relu", name=f"{prefix}_hidden"), Dropout(0.5),
            Dense(5, activation="softmax", name=f"{prefix}_digits")]


def moved(images: np.ndarray) -> np.ndarray:
    """The images moved by -1, 0 and 1 pixels down and across, nine times as many."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.concatenate([padded[:, down:down + 8, across:across + 8] for down in range(3) for across in range(3)])


# The task that has many labels: 0 to 4.
first = Sequential([
    Input((8, 8, 1)),
    Conv2D(32, 3, padding="same", activation="relu", name="conv1"),
    Conv2D(64, 3, activation="relu", name="conv2"),
    MaxPooling2D(2, name="pool"),
    *head("old"),
])
x_old, x_old_test, y_old, y_old_test = train_test_split(images[old], labels[old], test_size=0.2, stratify=labels[old], random_state=0)
pretrained = nnkit.compile(first, optimizer=Adam(1e-3), seed=0, **SETTINGS)
pretrained.fit(moved(x_old), np.tile(y_old, 9), batch_size=32, epochs=EPOCHS // 5 + 1, verbose=0)
print(f"Digits 0 to 4, {len(x_old)} labels: test accuracy {pretrained.evaluate(x_old_test, y_old_test)['accuracy']:.4f}")

# The task that has few: 5 to 9. The new network has the old one's layers up to the pooling, and a head of its own (with names of its own, or
# `copy_parameters` would copy the old one's).
second = Sequential([Input((8, 8, 1)), first.part(outputs="pool", name="base"), *head("new")])
x_pool, x_test, y_pool, y_test = train_test_split(images[new], labels[new] - 5, test_size=350, stratify=labels[new], random_state=0)


def accuracy(count: int, seed: int, with_pretraining: bool) -> float:
    """Test accuracy after learning from `count` images of each class, which the seed draws."""
    rng = np.random.default_rng(seed)
    chosen = np.concatenate([rng.permutation(np.flatnonzero(y_pool == digit))[:count] for digit in range(5)])
    model = nnkit.compile(second, optimizer=Adam(1e-3), seed=seed, **SETTINGS)
    if with_pretraining:
        report = model.copy_parameters(pretrained, names={"base/*": "*"})
        if count == LABELS[0] and seed == 0:
            print(report)                                                # what was found there, and that the head was not
        model.freeze("base/*")
    # Frozen layers give the same for an image in every epoch: they are run once, and each epoch trains the head alone.
    model.fit(x_pool[chosen], y_pool[chosen], batch_size=16, epochs=EPOCHS, verbose=0, cache_frozen=with_pretraining)
    return model.evaluate(x_test, y_test)["accuracy"]


found = {kind: np.array([[accuracy(count, seed, kind == "with") for seed in SEEDS] for count in LABELS]) for kind in ("with", "without")}
print(f"\nDigits 5 to 9, test accuracy on {len(x_test)} images: mean of {len(SEEDS)} seeds (lowest to highest)")
print("labels a class   with pretraining          without")
for position, count in enumerate(LABELS):
    shown = [f"{values[position].mean():.4f} ({values[position].min():.4f} to {values[position].max():.4f})" for values in found.values()]
    print(f"{count:14}   {shown[0]}   {shown[1]}")

figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
for kind, values in found.items():
    axes.plot(LABELS, values.mean(axis=1), marker="o", label=f"{kind} pretraining")
    axes.fill_between(LABELS, values.min(axis=1), values.max(axis=1), alpha=0.2)
axes.set(xscale="log", xticks=LABELS, xticklabels=LABELS, xlabel="labelled images of each class", ylabel="test accuracy",
         title="Digits 5 to 9 after 0 to 4")
axes.minorticks_off()
axes.legend()
figure.savefig(options.out / "digits_transfer.png", dpi=120)
print(f"Plot: {options.out / 'digits_transfer.png'}")
