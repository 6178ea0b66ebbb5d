"""Does a review praise the film or not? LSTM and GRU beside each other: gates let a network keep for long what it has read.

Runs on 10,000 + 10,000 IMDB reviews where the environment variable NNKIT_DATA names a folder that holds imdb/imdb_part1.npz, else on reviews that are
made on the spot, and says so. A fifth of the training reviews decides when to stop; prints the test accuracies (on IMDB at least 83 %), and saves
imdb_lstm.png: what the network thinks after every word of two test reviews.
"""

import argparse
import os
from pathlib import Path

import matplotlib
import numpy as np

import nnkit
from nnkit import GRU, LSTM, Adam, Dense, EarlyStopping, Embedding, Input, Sequential, SpatialDropout1D
from nnkit.datasets import Vocabulary, imdb_vocabulary, load_imdb, made_reviews, pad_sequences

matplotlib.use("Agg")  # write files; no window, so that the script runs on any machine
import matplotlib.pyplot as plt

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--out", type=Path, default=Path(), help="folder for the plot (default: the current one)")
options.add_argument("--quick", action="store_true", help="one epoch on a few reviews, to see that everything runs")
options = options.parse_args()

folder = os.environ.get("NNKIT_DATA")
if folder:
    path = Path(folder) / "imdb" / "imdb_part1.npz"
    words, length = 10_000, 200
    (reviews, y_train), (later, y_test) = load_imdb(path, num_words=words)
    vocabulary = imdb_vocabulary(path, num_words=words)
    print("IMDB")
else:
    words, length = 200, 60
    (reviews, y_train), (later, y_test) = (made_reviews(count, length, words, seed) for seed, count in enumerate((6000, 2000)))
    kinds = (words - 4) // 4           # good words, bad words, and the others that say nothing
    vocabulary = Vocabulary(["not", *(f"{kind}{n}" for kind, count in (("good", kinds), ("bad", kinds), ("word", words)) for n in range(count))])
    print("NNKIT_DATA is not set: reviews made on the spot in place of IMDB's")
if options.quick:
    reviews, y_train, later, y_test = reviews[:512], y_train[:512], later[:500], y_test[:500]
# Short reviews get zeros in front, which mask_zero hides from the layers behind; of long ones the end is kept.
x_train, x_test = pad_sequences(reviews, length), pad_sequences(later, length)
print(f"{len(x_train):,} reviews to learn from, {len(x_test):,} to test")


def network(layer: LSTM | GRU) -> Sequential:
    """The probability that a review is positive."""
    return Sequential([
        Input((length,)),
        Embedding(words, 64, mask_zero=True),
        SpatialDropout1D(0.5),         # whole columns of the embedding: what the network knows of a word must not hang on a few numbers
        layer,
        Dense(1, activation="sigmoid"),
    ])


models = {}
for layer in (LSTM(32, name="reader"), GRU(32, name="reader")):
    kind = type(layer).__name__
    model = models[kind] = nnkit.compile(network(layer), optimizer=Adam(1e-3), loss="binary_crossentropy", metrics=["accuracy"], seed=0)
    patience = EarlyStopping(monitor="val_loss", patience=2, restore_best_weights=True)
    epochs = 1 if options.quick else 12
    history = model.fit(x_train, y_train, batch_size=32, epochs=epochs, validation_split=0.2, callbacks=[patience], verbose=0)
    print(f"{kind}: stopped after epoch {len(history['loss'])}, best in epoch {patience.best_epoch + 1}, "
          f"validation accuracy {history['val_accuracy'][patience.best_epoch]:.4f}")
    print(f"{kind}: test accuracy {model.evaluate(x_test, y_test)['accuracy']:.4f}", flush=True)

# The same LSTM with its output at every step: with the same parameters it says what it thinks so far.
step_by_step = nnkit.compile(network(LSTM(32, return_sequences=True, name="reader")), seed=0)
step_by_step.set_parameters(models["LSTM"].parameters)
lengths = np.count_nonzero(x_test, axis=1)
short = np.flatnonzero(lengths < 60)
shown = [short[y_test[short] == label][lengths[short[y_test[short] == label]].argmax()] for label in (0, 1)]
figure, panels = plt.subplots(2, 1, figsize=(13, 7), layout="constrained")
for panel, review in zip(panels, shown, strict=True):
    count = lengths[review]
    thinks = step_by_step.predict(x_test[review:review + 1])[0, -count:, 0]
    read = [vocabulary.decode([word]) or "(start)" for word in x_test[review, -count:]]
    panel.bar(np.arange(count), thinks - 0.5, bottom=0.5, color=np.where(thinks > 0.5, "tab:green", "tab:red"))
    panel.axhline(0.5, color="black", linewidth=0.8)
    panel.set(ylim=(0, 1), xlim=(-1, count), ylabel="probability: positive",
              title=f"a {('negative', 'positive')[y_test[review]]} review; what the LSTM thinks after each word, at the end {thinks[-1]:.2f}")
    panel.set_xticks(np.arange(count), read, rotation=90, fontsize=8)
figure.savefig(options.out / "imdb_lstm.png", dpi=120)
print(f"Plot: {options.out / 'imdb_lstm.png'}")
