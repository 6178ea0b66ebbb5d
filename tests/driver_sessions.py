"""What a process does that has the driver of libcuda.py: each session is a test of nnkit's calls to NVIDIA's driver."""

from __future__ import annotations

import gc
import math
import os
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import nnkit
from libcuda import Driver
from nnkit.runtime import driver as nvidia
from nnkit.runtime.blas import Call, computed
from nnkit.runtime.cuda import Block
from nnkit.runtime.driver import call

SPEC = nnkit.Sequential([nnkit.Input((3,)), nnkit.Dense(5, activation="relu"), nnkit.Dropout(0.3), nnkit.Dense(1, activation="sigmoid")])
RNG = np.random.default_rng(5)
X = RNG.standard_normal((70, 3), dtype=np.float32)
Y = (X[:, 0] > 0).astype(np.float32)


def model(backend: str, **named: Any) -> nnkit.Model:
    return nnkit.compile(SPEC, optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"], seed=3, backend=backend, **named)


def close(found: Any, expected: Any) -> None:
    """float32, a few dozen steps: rounding differs in a few places of the last digits."""
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def training(driver: Driver) -> None:
    """fit, evaluate and predict give the CPU's numbers; the bits of two runs are the same; another data set goes into graphs that are there."""
    here, there = model("cpu"), model("cuda")
    for x, y in ((X, Y), (X[:40] * 2, Y[:40])):
        logs = [each.fit(x, y, batch_size=4, epochs=2, verbose=0) for each in (here, there)]
        close(logs[1]["loss"], logs[0]["loss"])
        close(there.predict(x), here.predict(x))
        close(list(there.evaluate(x, y).values()), list(here.evaluate(x, y).values()))
    for name, value in here.parameters.items():
        close(there.parameters[name], value)
    again = model("cuda")
    for x, y in ((X, Y), (X[:40] * 2, Y[:40])):
        again.fit(x, y, batch_size=4, epochs=2, verbose=0)
    for name, value in there.parameters.items():
        np.testing.assert_array_equal(again.parameters[name], value, strict=True)


def life(driver: Driver) -> None:
    """Whatever the host changes or asks for between runs and within them: nothing is read too early, nothing is lost."""
    found = {}
    for backend in ("cpu", "cuda"):
        one = model(backend)
        seen: list[float] = []
        watch = nnkit.LambdaCallback(on_train_batch_end=lambda batch, logs, seen=seen, one=one: seen.append(float(one.parameters["dense/bias"][0])))
        best = nnkit.EarlyStopping(patience=1, monitor="val_loss", restore_best_weights=True)
        one.fit(X, Y, batch_size=20, epochs=3, validation_data=(X[:9], Y[:9]), callbacks=[watch, best], verbose=0)
        one.set_parameters({"dense/bias": np.full(5, 0.25)})
        one.learning_rate = 0.02
        first = one.train_on_batch(X[:8], Y[:8])
        kept = dict(one.gradients(X[:8], Y[:8], inputs=True))
        one.freeze("dense")
        one.fit(X, Y, batch_size=20, epochs=1, verbose=0)
        one.unfreeze("dense")
        with tempfile.TemporaryDirectory() as folder:
            one.save(f"{folder}/one.nnkit")
            again = nnkit.load(f"{folder}/one.nnkit", backend=backend)
        logs = [each.fit(X, Y, batch_size=20, epochs=1, verbose=0)["loss"] for each in (one, again)]
        assert logs[0] == logs[1]
        found[backend] = seen, list(first.values()), list(kept.values()), logs, list(one.parameters.values()), one.predict(X[:1])
    for ours, theirs in zip(found["cuda"], found["cpu"], strict=True):
        for one, other in zip(ours, theirs, strict=True):
            close(one, other)


def streaming(driver: Driver) -> None:
    """A data set larger than the memory gives the bits of one that fits."""
    x, y = np.tile(X, (20, 1)), np.tile(Y, 20)
    first, second = model("cuda"), model("cuda")
    logs = first.fit(x, y, batch_size=100, epochs=2, verbose=0)
    predicted = first.predict(x)
    held = driver.pinned_bytes
    driver.room = sum(driver.sizes.values()) + 24_000
    streamed = second.fit(x, y, batch_size=100, epochs=2, verbose=0)
    assert driver.pinned_bytes > held, "nothing was streamed"
    assert streamed["loss"] == logs["loss"]
    np.testing.assert_array_equal(second.predict(x), predicted)


def memory(driver: Driver) -> None:
    """What a model has taken is given back with it, but for small memory that is kept for others; where there is none left, one sentence says so."""
    for _ in range(2):
        one = model("cuda")
        one.fit(X, Y, batch_size=4, epochs=1, verbose=0)
        del one
        gc.collect()
        held = sum(driver.sizes.values())
    one = model("cuda")
    one.fit(X, Y, batch_size=4, epochs=1, verbose=0)
    assert sum(driver.sizes.values()) == held, "a second model takes what the first one had"
    driver.room = held
    large = nnkit.Sequential([nnkit.Input((3000,)), nnkit.Dense(300)])
    with pytest.raises(MemoryError, match=r"^the GPU has no 3,609,600 bytes of memory left, [0-9,]+ are free$"):
        nnkit.compile(large, backend="cuda")
    driver.room = 1 << 30
    circle: list[Any] = [nnkit.compile(large, backend="cuda")]       # which only the garbage collector finds
    circle.append(circle)
    driver.room = sum(driver.sizes.values())
    del circle
    nnkit.compile(large, backend="cuda")


def library(driver: Driver) -> None:
    """Calls of a library are captured into the graph of a step: here one that computes by NumPy, from memory as it is when the graph runs."""
    multiplied = []
    garbage = [Block(nvidia.device(), 2 * nvidia.SMALL) for _ in range(2)]

    class Product:
        def __init__(self, call: Call) -> None:
            self.call = call

        def enqueue(self, stream: int) -> None:
            driver.later(stream, self.multiply)
            if len(garbage) == 2:                        # what nobody has any more goes back at any moment, in another thread or in this one
                other = threading.Thread(target=garbage.pop)
                other.start()
                other.join()
            garbage.clear()

        def multiply(self) -> None:
            y, *given = (driver.bytes_of(each.address, 4 * math.prod(each.shape)).view(np.float32).reshape(each.shape)
                         for each in (self.call.y, self.call.a, self.call.b, self.call.bias))
            y[...] = computed(self.call, *given)
            multiplied.append(self)

    nvidia.Library = lambda device: SimpleNamespace(product=Product)
    nvidia.bindings = lambda: None
    spec = nnkit.Sequential([nnkit.Input((64,)), nnkit.Dense(512, activation="relu"), nnkit.Dense(1)])
    x, y = RNG.standard_normal((300, 64), dtype=np.float32), RNG.standard_normal((300, 1), dtype=np.float32)
    here, there = (nnkit.compile(spec, optimizer="sgd", loss="mse", seed=1, **named) for named in ({}, {"backend": "cuda", "blas": True}))
    logs = [each.fit(x, y, batch_size=100, epochs=2, verbose=0) for each in (here, there)]
    assert not garbage
    assert len(multiplied) == 6 * len(set(multiplied)) > 0         # each node in each of the steps
    close(logs[1]["loss"], logs[0]["loss"])


class OnDevice:
    """Another library's array on the device."""

    def __init__(self, values: np.ndarray, device: int = 0) -> None:
        self.context = call("cuDevicePrimaryCtxRetain", device)
        call("cuCtxSetCurrent", self.context)            # for good, as other libraries do
        self.address = call("cuMemAlloc", values.nbytes)
        self.stream = call("cuStreamCreate", 1)
        self.values = values                             # its copy may still be under way when it is passed on
        call("cuMemcpyHtoDAsync", self.address, values.ctypes.data, values.nbytes, self.stream)
        self.__cuda_array_interface__ = {"shape": values.shape, "typestr": values.dtype.str, "data": (int(self.address), True), "version": 3,
                                         "strides": None, "stream": int(self.stream)}


def arrays(driver: Driver) -> None:
    """Arrays that lie on the device are read where they lie, after what their library has asked for; memory of the host's is refused."""
    one, other = model("cuda"), model("cuda")
    x, old = OnDevice(X), OnDevice(X)
    old.__cuda_array_interface__ |= {"version": 2, "stream": None}   # does not say of which stream it is
    logs = [each.fit(given, Y, batch_size=10, epochs=2, verbose=0)["loss"] for each, given in ((one, X), (other, x), (model("cuda"), old))]
    assert logs[0] == logs[1] == logs[2]
    np.testing.assert_array_equal(other.predict(x), one.predict(X))
    x.__cuda_array_interface__["data"] = (X.ctypes.data, True)
    with pytest.raises(ValueError, match=r"^x must lie on the GPU that the model uses, the first one, received OnDevice that lies elsewhere$"):
        other.predict(x)


def present() -> int:
    """The context that a library finds."""
    return int(call("cuCtxGetCurrent"))


def contexts(driver: Driver) -> None:
    """A library that works on the second GPU goes on there; its arrays are refused, and nothing of ours comes to lie there."""
    one, other = model("cuda"), model("cpu")
    assert not present()
    x = OnDevice(X, device=1)
    one.fit(X, Y, batch_size=10, epochs=1, verbose=0)
    other.fit(X, Y, batch_size=10, epochs=1, verbose=0)
    close(one.predict(X), other.predict(X))
    assert present() == int(x.context)
    assert list(driver.others) == [int(x.address)]
    with pytest.raises(ValueError, match=r"^x must lie on the GPU that the model uses, the first one, received OnDevice that lies elsewhere$"):
        one.predict(x)
    assert present() == int(x.context)
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda _: (one.predict(X), present()), range(4)):
            close(found[0], other.predict(X))
            assert not found[1]


def forks(driver: Driver) -> None:
    """A process that was forked says that it cannot use the GPU, and gives back nothing that is its parent's."""
    one = model("cuda")
    expected = one.predict(X)
    child = os.fork()
    if not child:
        broken: list[Any] = []
        sys.unraisablehook = broken.append
        with pytest.raises(RuntimeError, match=r"^backend 'cuda' cannot be used in a process that was forked after it was used: "
                                               r"start processes by 'spawn'$"):
            one.predict(X)
        del one
        gc.collect()
        os._exit(len(broken) + driver.orphaned)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(one.predict(X), expected)


def refusals(driver: Driver) -> None:
    """A driver or a GPU that is too old."""
    driver.version = 12040
    with pytest.raises(RuntimeError, match=r"^backend 'cuda' needs an NVIDIA driver for CUDA 13\.0 or later \(version 580 or later\), "
                                           r"received one for CUDA 12\.4$"):
        model("cuda")
    driver.version = 13000
    driver.attributes |= {75: 7, 76: 5}
    with pytest.raises(RuntimeError, match=r"^backend 'cuda' needs a GPU of compute capability 8\.0 or more, received 7\.5$"):
        model("cuda")


def blocks(driver: Driver) -> None:
    """Memory is zeroed, small memory too that is kept and given again; large memory, and pinned memory that nobody has, goes back."""
    device = nvidia.CudaDevice()
    small, large = device.allocate(1000), device.allocate(nvidia.SMALL + 4)
    assert driver.sizes == {small: 1024, large: nvidia.SMALL + 4}
    values, found = np.arange(250, dtype=np.float32), np.ones(nvidia.SMALL // 4 + 1, np.float32)
    device.read(large, found)
    assert not found.any()
    device.write(small, values)
    device.read(small, found[:250])
    np.testing.assert_array_equal(found[:250], values)
    device.release(small)
    device.release(large)
    assert driver.sizes == {small: 1024}
    assert device.allocate(900) == small
    device.read(small, found[:250])
    assert not found.any()
    pinned = device.pinned(8)
    pinned[:] = 7
    device.send(small, pinned.view(np.int64))
    view = pinned[2:].reshape(2, 3)
    del pinned
    assert len(driver.host) == 1
    del view
    assert not driver.host
    device.read(small, found[:2])
    assert found[:2].tobytes() == b"\7" * 8


def kernels(driver: Driver) -> None:
    """Some of the kernels alone, as `pytest -m gpu` runs all of them on a GPU."""
    from cuda_cases import CASES
    from test_cuda_kernels import check

    for case in CASES[::len(CASES) // 8]:
        check(case, lambda dtype, tasks: [nvidia.device()] * 2)
