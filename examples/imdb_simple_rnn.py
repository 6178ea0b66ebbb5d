"""Does a review praise the film or not? A simple recurrent network reads 200 words one after the other, in two forms.

The first is the textbook's: SimpleRNN with tanh. What it reads early hardly reaches its end (the vanishing gradient), so it learns the training
reviews by heart before it has understood any. The second adds one idea: ReLU, and a recurrent kernel that starts as the identity, so that the state
simply stays until training says otherwise (Le, Jaitly and Hinton, A simple way to initialize recurrent networks of rectified linear units, 2015).

Runs on 10,000 + 10,000 IMDB reviews where the environment variable NNKIT_DATA names a folder that holds imdb/imdb_part1.npz, else on reviews that are
made on the spot, and says so. A fifth of the training reviews decides when to stop; prints the test accuracies (on IMDB about 55 to 75 % and at least
80 %), and saves imdb_simple_rnn.png: how strongly the loss depends on a word so many words before the end, and the learning curves.
"""

import argparse
import os
from pathlib import Path

import matplotlib
import numpy as np

import nnkit
from nnkit import Adam, Dense, EarlyStopping, Embedding, Input, Sequential, SimpleRNN
from nnkit.datasets import load_imdb, made_reviews, pad_sequences

matplotlib.use("Agg")  # write files; no window, so that the script runs on any machine
import matplotlib.pyplot as plt

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--out", type=Path, default=Path(), help="folder for the plot (default: the current one)")
options.add_argument("--quick", action="store_true", help="one epoch on a few reviews, to see that everything runs")
options = options.parse_args()

folder = os.environ.get("NNKIT_DATA")
if folder:
    words, length = 10_000, 200
    (reviews, y_train), (later, y_test) = load_imdb(Path(folder) / "imdb" / "imdb_part1.npz", num_words=words)
    print("IMDB")
else:
    words, length = 200, 60
    (reviews, y_train), (later, y_test) = (made_reviews(count, length, words, seed) for seed, count in enumerate((6000, 2000)))
    print("NNKIT_DATA is not set: reviews made on the spot in place of IMDB's")
if options.quick:
    reviews, y_train, later, y_test = reviews[:512], y_train[:512], later[:500], y_test[:500]
# Short reviews get zeros in front, which mask_zero hides from the layers behind; of long ones the end is kept.
x_train, x_test = pad_sequences(reviews, length), pad_sequences(later, length)
print(f"{len(x_train):,} reviews to learn from, {len(x_test):,} to test")

networks = {
    "tanh": (SimpleRNN(32), Adam(1e-3)),
    "ReLU from the identity": (SimpleRNN(32, activation="relu", recurrent_initializer="identity"), Adam(1e-3, global_clipnorm=1)),
}


def reach(model: nnkit.Model) -> np.ndarray:
    """Mean length of the loss's gradient by the vector of a word, over whole test reviews, from the last word back to the first."""
    rnn, dense = model.spec.layers[-2:]
    reader = nnkit.compile(Sequential([Input((length, 64)), rnn, dense]), loss="binary_crossentropy", seed=0)    # what stands behind the Embedding
    reader.set_parameters({name: model.parameters[name] for name in reader.parameters})
    whole = np.flatnonzero(x_test[:, 0])[:256]
    gradient = reader.gradients(model.parameters["embedding/embeddings"][x_test[whole]], y_test[whole], inputs=True)["x"]
    return np.linalg.norm(gradient, axis=-1).mean(axis=0)[::-1]


figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
for name, (rnn, optimizer) in networks.items():
    spec = Sequential([Input((length,)), Embedding(words, 64, mask_zero=True), rnn, Dense(1, activation="sigmoid")])
    model = nnkit.compile(spec, optimizer=optimizer, loss="binary_crossentropy", metrics=["accuracy"], seed=0)
    untrained = reach(model)
    patience = EarlyStopping(monitor="val_loss", patience=3, restore_best_weights=True)
    history = model.fit(x_train, y_train, batch_size=64, epochs=1 if options.quick else 12, validation_split=0.2, callbacks=[patience], verbose=0)
    print(f"{name}: stopped after epoch {len(history['loss'])}, best in epoch {patience.best_epoch + 1}")
    print(f"{name}: test accuracy {model.evaluate(x_test, y_test)['accuracy']:.4f}", flush=True)

    line, = left.semilogy(untrained / untrained[0], linestyle="dashed", label=f"{name}, before training")
    trained = reach(model)
    left.semilogy(trained / trained[0], color=line.get_color(), label=f"{name}, trained")
    epochs = np.arange(1, len(history["loss"]) + 1)
    right.plot(epochs, history["accuracy"], color=line.get_color(), label=f"{name}, training", marker="o")
    right.plot(epochs, history["val_accuracy"], color=line.get_color(), linestyle="dashed", label=f"{name}, validation", marker="o")
left.set(xlabel="words before the last", ylabel="gradient by the word, in those of the last word's")
right.set(xlabel="epoch", ylabel="accuracy", ylim=(0.25, 1.02))     # room for the legend below
left.legend()
right.legend(loc="lower right")
figure.savefig(options.out / "imdb_simple_rnn.png", dpi=120)
print(f"Plot: {options.out / 'imdb_simple_rnn.png'}")
