"""Backpropagation in the smallest useful network: 20 inputs, five hidden neurons, one output.

Shows what the algorithm is made of: the forward pass, the gradient of every parameter, and an optimizer that follows it. One gradient is checked
against the definition of a derivative.
"""

import argparse

import numpy as np
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split

import nnkit
from nnkit import L2, Adam, Dense, EarlyStopping, Input, Sequential

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--quick", action="store_true", help="a few epochs, to see that everything runs")
options = options.parse_args()

X, y = make_classification(n_samples=1000, n_features=20, n_classes=2, random_state=42)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=42)

spec = Sequential([
    Input((20,)),
    Dense(5, activation="relu", kernel_regularizer=L2(1e-4)),
    Dense(1, activation="sigmoid", kernel_regularizer=L2(1e-4)),
])

# Backward pass: one derivative of the loss for every parameter, from one sweep through the network. In float64, to compare it with a difference.
model = nnkit.compile(spec, loss="binary_crossentropy", dtype="float64", seed=42)
gradients = model.gradients(X_train, y_train)
for name, gradient in gradients.items():
    print(f"d loss / d {name}: shape {gradient.shape}, norm {np.linalg.norm(gradient):.4f}")

# The definition of a derivative, for one weight: move it a little both ways, and look at the loss.
weight = model.parameters["dense/kernel"]
losses = []
start, step = weight[0, 0], 1e-5
for weight[0, 0] in (start + step, start - step):
    losses.append(model.evaluate(X_train, y_train)["loss"])
weight[0, 0] = start
print(f"dense/kernel[0, 0]: backward pass {gradients['dense/kernel'][0, 0]:.8f}, difference {(losses[0] - losses[1]) / (2 * step):.8f}")

# Training is these gradients again and again, on 200 rows at a time, until the loss has not fallen by 1e-4 for ten epochs.
model = nnkit.compile(spec, optimizer=Adam(1e-3), loss="binary_crossentropy", metrics=["accuracy"], seed=42)
stop = EarlyStopping(monitor="loss", min_delta=1e-4, patience=10)
history = model.fit(X_train, y_train, batch_size=200, epochs=5 if options.quick else 1000, callbacks=[stop], verbose=0)

print(f"Epochs: {len(history['loss'])}, loss {history['loss'][0]:.3f} -> {history['loss'][-1]:.3f}")
print(f"Test accuracy: {model.evaluate(X_test, y_test)['accuracy']:.4f}")
