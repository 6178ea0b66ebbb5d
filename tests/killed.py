"""A training that is killed again and again: the script that test_checkpoint runs, and what watches it."""

from __future__ import annotations

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np

import nnkit
from nnkit import Adam, Callback, CSVLogger, Dense, Dropout, EarlyStopping, Embedding, Flatten, Input, ModelCheckpoint, ReduceLROnPlateau, Sequential
from nnkit.io.safetensors import Reader

EPOCHS, BATCH, SAMPLES = 6, 8, 150                       # 15 whole batches and a smaller one of the samples that validation leaves


class Slow(Callback):
    """Says when training begins, and makes it last, so that a kill falls somewhere into it."""

    interval = 1

    def __init__(self, seconds: float, folder: pathlib.Path) -> None:
        self.seconds, self.folder = seconds, folder

    def on_train_begin(self, logs: dict[str, float]) -> None:
        (self.folder / "ready").touch()

    def on_interval_end(self, epoch: int, batch: int, logs: dict[str, float]) -> None:
        time.sleep(self.seconds)


def train(folder: pathlib.Path, every: str | int, seconds: float, resume: bool = True) -> None:
    """The script: a network with dropout and a table that is updated row by row, four callbacks. At its end final.nnkit and history.txt are there."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 2500, (SAMPLES, 4)), rng.integers(0, 2, SAMPLES)
    spec = Sequential([Input((4,)), Embedding(2500, 8), Flatten(), Dropout(0.4), Dense(8, activation="relu"), Dense(1, activation="sigmoid")])
    model = nnkit.compile(spec, optimizer=Adam(0.01), loss="binary_crossentropy", metrics=["accuracy", "auc"], seed=1)
    assert model.layout.rowwise
    path = folder / "run.nnkit"
    callbacks = [ReduceLROnPlateau(monitor="loss", patience=1, min_delta=0.05), EarlyStopping("val_loss", patience=4, restore_best_weights=True),
                 CSVLogger(folder / "log.csv"), ModelCheckpoint(path, every=every), Slow(seconds, folder)]
    history = model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, validation_split=0.17, callbacks=callbacks, verbose=0, resume=path if resume else None)
    model.save(folder / "final.nnkit")
    (folder / "history.txt").write_text(repr((history.epoch, history.history)))


def outcome(folder: pathlib.Path) -> tuple[bytes, str, str]:
    """What a finished run left."""
    return (folder / "final.nnkit").read_bytes(), (folder / "history.txt").read_text(), (folder / "log.csv").read_text()


def kill_and_resume(folder: pathlib.Path, every: str | int, seconds: float, draw: random.Random, kills: int) -> int:
    """Run the script, kill it at random moments, start it again, until it ends; returns how often it was killed. Every file seen can be read."""
    killed = 0
    while True:
        began = time.monotonic()
        process = subprocess.Popen([sys.executable, __file__, str(folder), str(every), str(seconds)], env=os.environ | {"NNKIT_QUIET": "1"})
        if killed < kills:
            try:
                (folder / "ready").unlink(missing_ok=True)
                while not (folder / "ready").exists() and process.poll() is None:
                    time.sleep(0.002)                    # what comes before is not what is tested
                process.wait(draw.uniform(0, 1.5 * seconds * EPOCHS * 16))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        assert process.wait(600) in (0, -signal.SIGKILL), f"after {time.monotonic() - began:.1f} s"
        for path in folder.glob("*.nnkit"):
            nnkit.load(path)
            with Reader(path) as reader:
                assert reader.entries
        if process.returncode == 0:
            return killed
        killed += 1


if __name__ == "__main__":
    where, often = pathlib.Path(sys.argv[1]), sys.argv[2]
    train(where, int(often) if often.isdigit() else often, float(sys.argv[3]))
