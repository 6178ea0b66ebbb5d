"""Activation functions that keep gradients alive: a network with leaky ReLU, then ReLU, LeakyReLU, PReLU and ELU side by side.

ReLU gives zero, and passes no gradient, wherever its input is negative: a neuron that is negative for all data never learns again. The other three
let some gradient through: LeakyReLU a fixed share, PReLU a share that is learned, ELU a smooth curve. Saves activations.png.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split

import nnkit
from nnkit import ELU, Adam, Dense, Input, LeakyReLU, PReLU, ReLU, Sequential

matplotlib.use("Agg")  # write files; no window, so that the script runs on any machine
import matplotlib.pyplot as plt

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--out", type=Path, default=Path(), help="folder for the plot (default: the current one)")
options.add_argument("--quick", action="store_true", help="two epochs, to see that everything runs")
options = options.parse_args()
epochs = 2 if options.quick else 10

X, y = make_classification(n_samples=1000, n_features=20, n_classes=2, random_state=42)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=42)

spec = Sequential([
    Input((20,)),
    Dense(64, activation="relu"),
    Dense(32, activation="leaky_relu"),
    Dense(1, activation="sigmoid"),    # probability of class 1
])
model = nnkit.compile(spec, optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"], seed=42)
model.fit(X_train, y_train, epochs=epochs, batch_size=32, validation_data=(X_test, y_test))
print(f"Test accuracy: {model.evaluate(X_test, y_test)['accuracy']:.4f}")

# The same network with each of the four in both hidden layers, from the same initial weights and the same order of batches (seed).
figure, (shapes, curves) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
z = np.linspace(-3, 3, 301)
for kind in (ReLU, LeakyReLU, PReLU, ELU):
    name = kind.__name__
    network = Sequential([Input((20,)), Dense(64), kind(), Dense(32), kind(), Dense(1, activation="sigmoid")])
    model = nnkit.compile(network, optimizer=Adam(1e-3), loss="binary_crossentropy", metrics=["accuracy"], seed=42)
    history = model.fit(X_train, y_train, epochs=3 * epochs, batch_size=32, validation_data=(X_test, y_test), verbose=0)
    print(f"{name:>9}: test accuracy {model.evaluate(X_test, y_test)['accuracy']:.4f}")
    curves.plot(history["loss"], label=name)

    # A layer alone is a network, too: its values over an interval are its graph. PReLU's slope is what the first one learned, on average.
    alone = nnkit.compile(Sequential([Input((1,)), kind()]), seed=42)
    for values in alone.parameters.values():
        values[...] = np.mean(model.parameters["p_re_lu/alpha"])
    shapes.plot(z, alone.predict(z[:, None])[:, 0], label=name)

shapes.set(title="functions", xlabel="input", ylabel="output")
curves.set(title="training", xlabel="epoch", ylabel="binary cross-entropy")
curves.legend()
figure.savefig(options.out / "activations.png", dpi=120)
print(f"Plot: {options.out / 'activations.png'}")
