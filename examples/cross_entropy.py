"""Cross-entropy: the loss of classification, in its three forms.

It is the mean of -log(probability that the network gave to the true class): 0 for a network that is sure and right, log 2 = 0.693 for one that
guesses between two classes, and without limit for one that is sure and wrong. Binary, categorical and sparse categorical cross-entropy are this same
number for three ways to write labels: 0 or 1, one-hot rows, class numbers.
"""

import argparse

import numpy as np
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split

import nnkit
from nnkit import Dense, Input, Sequential

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--quick", action="store_true", help="two epochs, to see that everything runs")
options = options.parse_args()
epochs = 2 if options.quick else 10

X, y = make_classification(n_samples=1000, n_features=20, n_classes=2, random_state=42)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=42)

hidden = [Input((20,)), Dense(64, activation="relu"), Dense(32, activation="relu")]

# Binary: one output, the probability of class 1.
one_output = Sequential([*hidden, Dense(1, activation="sigmoid")])
model = nnkit.compile(one_output, optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"], seed=42)
model.fit(X_train, y_train, epochs=epochs, batch_size=32, validation_data=(X_test, y_test))
scores = model.evaluate(X_test, y_test)
print(f"Test accuracy: {scores['accuracy']:.4f}")

# The same number by hand, from the probabilities.
p = model.predict(X_test)[:, 0].astype(float)
by_hand = -np.mean(np.log(np.where(y_test == 1, p, 1 - p)))
print(f"Binary cross-entropy on the test data: {scores['loss']:.6f}; by hand: {by_hand:.6f}")

# Categorical: one output for each class. One-hot rows and class numbers are two ways to write the same labels, and train the same network.
two_outputs = Sequential([*hidden, Dense(2, activation="softmax")])
for loss, labels in (("categorical_crossentropy", np.eye(2)), ("sparse_categorical_crossentropy", np.arange(2))):
    model = nnkit.compile(two_outputs, optimizer="adam", loss=loss, metrics=["accuracy"], seed=42)
    model.fit(X_train, labels[y_train], epochs=epochs, batch_size=32, verbose=0)
    scores = model.evaluate(X_test, labels[y_test])
    print(f"{loss}: test loss {scores['loss']:.6f}, test accuracy {scores['accuracy']:.4f}")
