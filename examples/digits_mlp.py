"""Handwritten digits: 1,797 real images of 8 x 8 pixels that come with scikit-learn, classified by a small network.

Prints the plan (what runs in one training step, and what it costs), trains with early stopping, prints the test accuracy (97 % or more), and
saves the learning curve as digits_mlp.png.
"""

import argparse
from pathlib import Path

import matplotlib
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import nnkit
from nnkit import Adam, Dense, Dropout, EarlyStopping, Input, Sequential

matplotlib.use("Agg")  # write files; no window, so that the script runs on any machine

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--out", type=Path, default=Path(), help="folder for the plot (default: the current one)")
options.add_argument("--quick", action="store_true", help="two epochs, to see that everything runs")
options = options.parse_args()

# Pixels are 0 to 16; networks learn best from inputs of about unit size. Labels stay whole numbers: the "sparse" loss takes them as they are.
x, y = load_digits(return_X_y=True)
x = x / 16
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.2, random_state=42, stratify=y)

spec = Sequential([
    Input((64,)),
    Dense(128, activation="relu"),
    Dropout(0.3),                      # 1,437 images are few: without it the network learns them by heart
    Dense(64, activation="relu"),
    Dense(10, activation="softmax"),   # probabilities of the ten digits
])
model = nnkit.compile(spec, optimizer=Adam(1e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"], seed=0)
print(model.plan)

# A tenth of the training data decides when to stop. The test data are looked at once, at the end.
patience = EarlyStopping(monitor="val_loss", patience=15, restore_best_weights=True)
history = model.fit(x_train, y_train, batch_size=32, epochs=2 if options.quick else 80, validation_split=0.1, callbacks=[patience])

print(f"Test accuracy: {model.evaluate(x_test, y_test)['accuracy']:.4f}")

axes = history.plot()    # one panel for the loss, one for the accuracy; dashed: validation
axes[0].figure.savefig(options.out / "digits_mlp.png", dpi=120)
print(f"Learning curve: {options.out / 'digits_mlp.png'}")
