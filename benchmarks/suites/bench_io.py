"""Files: VGG16 without its top (58 MB of parameters) saved and loaded, beside the same bytes plainly written and read; peak memory of loading.

The file is in the operating system's cache when it is read; every write ends on the disk (fsync).
"""

import os
import subprocess
import sys
import tempfile

import numpy as np

import nnkit
from nnkit.models import vgg16

IMAGE = (64, 64, 3)

# Peak of a process that loads the file, beyond what it had before, over the file's size.
PEAK = """
import sys
import nnkit
from nnkit.io.safetensors import Reader

def resident(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

nnkit.load(sys.argv[1])                                  # a small one: whatever is imported late
before = resident("VmRSS")
model = nnkit.load(sys.argv[2])
print(resident("VmHWM") - before)
"""


def written(path, content):
    """The plain way to have bytes on the disk."""
    with open(path, "wb") as file:
        file.write(content)
        os.fsync(file.fileno())


class Vgg16:
    number = 1
    repeat = (5, 15, 20.0)
    warmup_time = 0.5
    timeout = 300

    def setup(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path, self.other, self.small = (os.path.join(self.folder.name, name) for name in ("a.nnkit", "b.nnkit", "small.nnkit"))
        self.model = nnkit.compile(vgg16(IMAGE, include_top=False), seed=0)
        self.model.save(self.path)
        nnkit.compile(nnkit.Sequential([nnkit.Input((2,)), nnkit.Dense(2)])).save(self.small)
        with open(self.path, "rb") as file:
            self.content = file.read()
        again = nnkit.load(self.path)
        assert all(np.array_equal(value, again.parameters[name]) for name, value in self.model.parameters.items())

    def teardown(self):
        self.folder.cleanup()

    def time_load(self):
        nnkit.load(self.path)

    def time_load_weights(self):
        self.model.load_weights(self.path)

    def time_read_plainly(self):
        np.fromfile(self.path, np.uint8)

    def time_save(self):
        self.model.save(self.other)

    def time_save_weights(self):
        self.model.save_weights(self.other)

    def time_write_plainly(self):
        written(self.other, self.content)

    def track_peak_of_load(self):
        if not sys.platform.startswith("linux"):
            raise NotImplementedError("needs /proc")     # asv's word for: skip
        result = subprocess.run([sys.executable, "-c", PEAK, self.small, self.path], check=True, capture_output=True, text=True)
        return float(result.stdout) / len(self.content)

    track_peak_of_load.unit = "times the file"
