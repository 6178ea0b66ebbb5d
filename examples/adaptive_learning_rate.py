"""Optimizers that adapt the learning rate of every parameter: a network trained by Adam, then Adagrad, RMSprop and Adam side by side.

All three divide a parameter's step by the typical size of its gradients. Adagrad counts all gradients so far, so its steps only shrink; RMSprop
forgets old ones; Adam also averages the gradient itself (momentum) and corrects both averages for their start at zero.
Saves adaptive_learning_rate.png.
"""

import argparse
from pathlib import Path

import matplotlib
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split

import nnkit
from nnkit import Adagrad, Adam, Dense, Input, RMSprop, Sequential

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
    Dense(32, activation="relu"),
    Dense(1, activation="sigmoid"),    # probability of class 1
])
model = nnkit.compile(spec, optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"], seed=42)
model.fit(X_train, y_train, epochs=epochs, batch_size=32, validation_data=(X_test, y_test))
print(f"Test accuracy: {model.evaluate(X_test, y_test)['accuracy']:.4f}")

# A spec is a value: the same one serves every run, and the seed gives each the same initial weights and the same order of batches.
for optimizer in (Adagrad(1e-2), RMSprop(1e-3), Adam(1e-3)):
    model = nnkit.compile(spec, optimizer=optimizer, loss="binary_crossentropy", metrics=["accuracy"], seed=42)
    history = model.fit(X_train, y_train, epochs=3 * epochs, batch_size=32, validation_data=(X_test, y_test), verbose=0)
    print(f"{optimizer!r:>16}: test accuracy {model.evaluate(X_test, y_test)['accuracy']:.4f}")
    line, = plt.plot(history["loss"], label=repr(optimizer))
    plt.plot(history["val_loss"], "--", color=line.get_color())

plt.xlabel("epoch")
plt.ylabel("binary cross-entropy (dashed: test data)")
plt.legend()
plt.savefig(options.out / "adaptive_learning_rate.png", dpi=120)
print(f"Plot: {options.out / 'adaptive_learning_rate.png'}")
