"""Fine-tuning of a head on VGG16's convolutions, which are frozen: a whole epoch, and one on what they make of the data, computed once."""

import time

import attrs
import numpy as np

import nnkit
from nnkit import Adam, Dense, Dropout, Flatten, Input, LambdaCallback, Sequential

SHAPE, SAMPLES, BATCH = (64, 64, 3), 64, 16


class FrozenBase:
    params = ("whole", "cached")
    param_names = ("base",)
    timeout = 300

    def setup(self, how):
        rng = np.random.default_rng(0)
        self.x, self.y = rng.random((SAMPLES, *SHAPE), dtype=np.float32), rng.integers(0, 2, SAMPLES)
        base = attrs.evolve(nnkit.models.vgg16(SHAPE, include_top=False), trainable=False)
        head = [Flatten(), Dense(256, activation="relu"), Dropout(0.5), Dense(1, activation="sigmoid")]
        self.model = nnkit.compile(Sequential([Input(SHAPE), base, *head]), optimizer=Adam(1e-4), loss="binary_crossentropy", seed=0)
        self.kernel = self.model.parameters["dense/kernel"]

    def _times(self, how, epochs):
        """Seconds of each epoch."""
        moments = []
        look = LambdaCallback(on_epoch_begin=lambda epoch, logs: moments.append(time.perf_counter()),
                              on_epoch_end=lambda epoch, logs: moments.append(time.perf_counter()))
        before = self.kernel.copy()
        self.model.fit(self.x, self.y, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=look, cache_frozen=how == "cached")
        assert not np.array_equal(self.kernel, before)
        return np.diff(moments)[::2]

    def track_later_epoch(self, how):
        return min(self._times(how, 6)[1:])
    track_later_epoch.unit = "s"

    def time_three_epochs(self, how):
        self._times(how, 3)
