"""Memory: the peak of a training process, what of it is not data, arena and Numba, and whether it stays flat over many models."""

import subprocess
import sys

from .bench_training import WORKS, job

CODE = """
import resource, sys
import numba
import numpy as np
from suites.bench_training import job

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

imported = resident()
model, x, y, batch_size = job(sys.argv[1])
model.fit(x, y, batch_size=batch_size, epochs=2, verbose=0)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(peak / (imported + x.nbytes + y.nbytes + model.memory.kept.nbytes + model.memory.training.nbytes + model.memory.arena.nbytes))
"""


class Peak:
    params = ("mlp 20-64-32-1", "mlp 784-1024-1024-10")
    param_names = ("work",)

    def setup(self, name):
        assert name in WORKS

    def peakmem_training(self, name):
        model, x, y, batch_size = job(name)
        model.fit(x, y, batch_size=batch_size, epochs=2, verbose=0)


class Ratio:
    """Peak resident memory over (Numba imported + data + the model's two blocks: what persists, and the arena).

    Linux only: it reads the process's current size.
    """

    params = Peak.params
    param_names = ("work",)
    unit = "times"

    def setup(self, name):
        if not sys.platform.startswith("linux"):
            raise NotImplementedError("needs /proc")    # asv's word for: skip

    def track_peak_ratio(self, name):
        from pathlib import Path

        folder = Path(__file__).resolve().parents[1]
        result = subprocess.run([sys.executable, "-c", CODE, name], check=True, capture_output=True, text=True, cwd=folder)
        return float(result.stdout)


class Growth:
    """KiB that the process grows by, from the 50th to the 250th compile + fit + release."""

    unit = "KiB"
    timeout = 300

    def setup(self):
        if not sys.platform.startswith("linux"):
            raise NotImplementedError("needs /proc")

    def track_growth(self):
        def cycles(n):
            for _ in range(n):
                model, x, y, batch_size = job("mlp 20-64-32-1")
                model.fit(x, y, batch_size=batch_size, epochs=1, verbose=0)

        cycles(50)
        before = resident()
        cycles(200)
        return (resident() - before) / 1024


def resident():
    """Bytes of this process in memory now."""
    import resource

    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
