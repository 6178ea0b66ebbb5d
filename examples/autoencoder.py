"""Autoencoders: networks that learn to say again what they are told, through a code that does not let everything pass.

First the textbook's own, 20 numbers through 10; then a deep one, and two sparse ones, whose code is wider than the data but may use only a little of
itself at a time. Prints how well each one reconstructs rows that it has not seen, and saves autoencoder.png: a row and its reconstructions, and how
active the codes are.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler

import nnkit
from nnkit import L1, Dense, Input, KLSparsity, Sequential
from nnkit.models import autoencoder

matplotlib.use("Agg")  # write files; no window, so that the script runs on any machine
import matplotlib.pyplot as plt

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--out", type=Path, default=Path(), help="folder for the plot (default: the current one)")
options.add_argument("--quick", action="store_true", help="two epochs, to see that everything runs")
options = options.parse_args()

X, _ = make_classification(n_samples=1000, n_features=20, n_classes=2, random_state=42)      # the labels are not needed
X_train, X_test = train_test_split(X, test_size=0.2, random_state=42)
# A sigmoid gives numbers between 0 and 1, and binary cross-entropy compares such numbers: so each feature is brought into that range first.
scaler = MinMaxScaler(clip=True).fit(X_train)
X_train, X_test = scaler.transform(X_train), scaler.transform(X_test)

spec = Sequential([
    Input((20,)),
    Dense(10, activation="relu", name="latent"),
    Dense(20, activation="sigmoid"),
])
model = nnkit.compile(spec, optimizer="adam", loss="binary_crossentropy", seed=42)
model.fit(X_train, X_train, epochs=2 if options.quick else 10, batch_size=32, validation_data=(X_test, X_test))
print(f"Mean squared error on the test set: {np.mean((X_test - model.predict(X_test)) ** 2):.4f}")
print(f"  of the features' means, which know nothing of a row: {np.mean((X_test - X_train.mean(axis=0)) ** 2):.4f}")

# The same data through other codes, trained for longer. A code of 40 could just copy 20 numbers; the penalties are on its activations: KLSparsity
# wants the mean of each unit to be 0.05, L1 makes many activations exactly 0.
networks = {
    "plain, 10": autoencoder(20, 10),
    "deep, 10": autoencoder(20, 10, hidden=(64, 32)),
    "sigmoid, 40": autoencoder(20, 40, code_activation="sigmoid"),
    "sigmoid, 40, KLSparsity": autoencoder(20, 40, code_activation="sigmoid", activity_regularizer=KLSparsity(rho=0.05, weight=0.01)),
    "relu, 40": autoencoder(20, 40),
    "relu, 40, L1": autoencoder(20, 40, activity_regularizer=L1(0.005)),
}
figure, (row, sigmoids, relus) = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained", width_ratios=(2, 1, 1))
row.plot(X_test[0], "ko", label="original")
print(f"{'code':>24}   test MSE   mean activation   share below 0.05")
for name, network in networks.items():
    model = nnkit.compile(network, optimizer="adam", loss="binary_crossentropy", seed=42)
    model.fit(X_train, X_train, epochs=2 if options.quick else 200, batch_size=32, verbose=0)
    again, code = model.predict(X_test), model.submodel(outputs="latent").predict(X_test)
    print(f"{name:>24}   {np.mean((X_test - again) ** 2):.4f}     {code.mean():.3f}             {np.mean(code < 0.05):.0%}")
    if "10" in name or "," in name.partition("40")[2]:
        row.plot(again[0], label=name)
    if "40" in name:
        panel = sigmoids if "sigmoid" in name else relus
        panel.hist(np.minimum(code.ravel(), 1), bins=50, range=(0, 1), alpha=0.6, label=name)

row.set(title="one test row and its reconstructions", xlabel="feature", ylabel="value", xticks=range(20), ylim=(0.1, 0.8))
sigmoids.set(title="activations of a sigmoid code of 40", xlabel="activation", ylabel="how many, in 200 test rows")
relus.set(title="activations of a ReLU code of 40", xlabel="activation (the last bar: 1 or more)")
row.legend(loc="upper center", ncols=3)
sigmoids.legend()
relus.legend()
figure.savefig(options.out / "autoencoder.png", dpi=120)
print(f"Plot: {options.out / 'autoencoder.png'}")
