"""Fresh processes: the import alone, and to the end of the first epoch with the store of compiled kernels full and empty."""

import os
import subprocess
import sys
import tempfile

FIRST_EPOCH = """
import numpy as np
import nnkit
from nnkit import Dense, Input, Sequential

x = np.random.default_rng(0).standard_normal((800, 20), dtype=np.float32)
spec = Sequential([Input((20,)), Dense(64, activation="relu"), Dense(32, activation="relu"), Dense(1, activation="sigmoid")])
model = nnkit.compile(spec, optimizer="adam", loss="binary_crossentropy", seed=0)
history = model.fit(x, x[:, 0] > 0, batch_size=32, epochs=1, verbose=0)
assert 0 < history["loss"][0] < 1
"""


def process(code, cache):
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"NNKIT_CACHE_DIR": cache, "NNKIT_QUIET": "1"})


class Startup:
    number = 1
    repeat = 7
    warmup_time = 0
    timeout = 300

    def setup(self):
        self.warm = tempfile.TemporaryDirectory()
        process(FIRST_EPOCH, self.warm.name)

    def teardown(self):
        self.warm.cleanup()

    def time_interpreter_and_numpy(self):
        process("import numpy", self.warm.name)

    def time_import(self):
        process("import nnkit", self.warm.name)

    def time_first_epoch_warm(self):
        process(FIRST_EPOCH, self.warm.name)


class EmptyCache:
    """Each repetition has a new empty folder."""

    number = 1
    repeat = 3
    warmup_time = 0
    rounds = 1
    timeout = 300

    def setup(self):
        self.empty = tempfile.TemporaryDirectory()

    def teardown(self):
        self.empty.cleanup()

    def time_first_epoch_empty(self):
        process(FIRST_EPOCH, self.empty.name)
