"""Dropout: in every training step half of the neurons of each hidden layer are switched off at random.

No neuron can then rely on another one being there, which keeps the network from learning the training data by heart. When it predicts, all neurons
take part; the values kept in training were doubled, so that sums have the same expected size in both cases. The last lines show what it changes.
"""

import argparse

from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split

import nnkit
from nnkit import Dense, Dropout, Input, Sequential

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--quick", action="store_true", help="two epochs, to see that everything runs")
options = options.parse_args()

X, y = make_classification(n_samples=1000, n_features=20, n_classes=2, random_state=42)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=42)


def train(rate: float, epochs: int, verbose: int) -> nnkit.Model:
    """The network with that dropout rate after both hidden layers; a rate of 0 is none."""
    spec = Sequential([
        Input((20,)),
        Dense(64, activation="relu"),
        Dropout(rate),
        Dense(32, activation="relu"),
        Dropout(rate),
        Dense(1, activation="sigmoid"),   # probability of class 1
    ])
    model = nnkit.compile(spec, optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"], seed=42)
    model.fit(X_train, y_train, epochs=epochs, batch_size=32, validation_data=(X_test, y_test), verbose=verbose)
    return model


model = train(rate=0.5, epochs=2 if options.quick else 10, verbose=1)
print(f"Test accuracy: {model.evaluate(X_test, y_test)['accuracy']:.4f}")

# Trained for long, the network without dropout knows its 800 rows perfectly and is sure of itself where it is wrong: see the test loss.
for rate in (0.0, 0.5):
    model = train(rate, epochs=2 if options.quick else 200, verbose=0)
    seen, unseen = model.evaluate(X_train, y_train), model.evaluate(X_test, y_test)
    print(f"rate {rate}: training loss {seen['loss']:.3f}, test loss {unseen['loss']:.3f}, test accuracy {unseen['accuracy']:.4f}")
