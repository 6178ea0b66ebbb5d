"""A model of characters that learns to write: an LSTM reads a text and says at every character which one comes next.

Runs on Tiny Shakespeare (1.1 million characters of the plays) where the environment variable NNKIT_DATA names a folder that holds
tiny_shakespeare/input.txt, else on sentences that are made on the spot, and says so. The text is read as 64 stretches side by side, in pieces of 64
characters: the layer is stateful, so each piece goes on where the one before ended, while gradients reach back one piece at most (truncated
backpropagation through time). Prints the cross-entropy on the last tenth of the text, in nats a character (on Tiny Shakespeare at most 1.70, on the
made sentences, of which nothing better than 0.34 can be said, at most 0.40), and what the model writes, more and less boldly.
"""

import argparse
import os
from pathlib import Path

import numpy as np

import nnkit
from nnkit import LSTM, Adam, Dense, Embedding, Input, RandomNormal, Sequential
from nnkit.datasets import Characters, made_text, text_windows

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--quick", action="store_true", help="two epochs on a short text, to see that everything runs")
options = options.parse_args()

folder = os.environ.get("NNKIT_DATA")
if folder:
    text = (Path(folder) / "tiny_shakespeare" / "input.txt").read_text(encoding="utf-8")
    print(f"Tiny Shakespeare: {len(text):,} characters")
else:
    text = made_text(20_000 if options.quick else 300_000, seed=0)
    print(f"NNKIT_DATA is not set: {len(text):,} characters made on the spot in place of Shakespeare's")
if options.quick:
    text = text[:20_000]
ROWS, STEPS, EPOCHS = (8, 16, 2) if options.quick else (64, 64, 8)       # of Shakespeare 8 epochs are 1,960 steps

characters = Characters.fit(text)
ids = characters.encode(text)
seen = len(ids) * 9 // 10
x, y = text_windows(ids[:seen], STEPS, ROWS)
x_later, y_later = text_windows(ids[seen:], STEPS, ROWS)


def network(rows: int, steps: int) -> Sequential:
    """From the ids of some characters the probabilities of those that follow."""
    return Sequential([
        Input((steps,), batch_size=rows),                # a state belongs to a row, so the rows are counted
        Embedding(len(characters), 64, embeddings_initializer=RandomNormal(stddev=1.0)),      # few rows: they may start far apart
        LSTM(128, return_sequences=True, stateful=True),
        Dense(len(characters), activation="softmax"),    # at every step
    ])


model = nnkit.compile(network(ROWS, STEPS), optimizer=Adam(2e-3, global_clipnorm=5), loss="sparse_categorical_crossentropy", seed=0)
model.summary()
for epoch in range(EPOCHS):
    model.reset_states()                                 # the text begins again
    seen_loss = model.fit(x, y, batch_size=ROWS, shuffle=False, verbose=0)["loss"][0]
    model.reset_states()
    later_loss = model.evaluate(x_later, y_later, batch_size=ROWS)["loss"]
    steps = (epoch + 1) * len(x) // ROWS
    print(f"Epoch {epoch + 1}: {steps:,} steps, {seen_loss:.3f} nats a character, on the last tenth {later_loss:.3f}", flush=True)
print(f"Validation cross-entropy: {later_loss:.4f} nats ({later_loss / np.log(2):.3f} bits) a character")

# To write, the same network reads one character at a time; its state is all that it remembers of the text so far.
writer = nnkit.compile(network(1, 1), seed=0)
writer.set_parameters({name: value for name, value in model.parameters.items() if not name.endswith("_state")})


def write(count: int, temperature: float, begin: str = "\n", seed: int = 0) -> str:
    """Text of that many characters that goes on from `begin`. At low temperature likely characters become likelier still: careful, and repetitive."""
    rng = np.random.default_rng(seed)
    writer.reset_states()
    written = list(characters.encode(begin))
    for place in range(len(begin) + count - 1):
        following = writer.predict(np.array([[written[place]]]))[0, 0]
        if place >= len(begin) - 1:
            weights = following.astype(float) ** (1 / temperature)
            written.append(rng.choice(len(weights), p=weights / weights.sum()))
    return characters.decode(np.array(written))


for temperature in (0.5, 0.8, 1.0):
    print(f"\n-- written at temperature {temperature}:\n{write(100 if options.quick else 500, temperature).strip()}")
