"""The store of PTX, arrays by DLPack, and the driver's functions called through one that keeps its memory on the host."""

import ctypes
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="needs nnkit[cuda-test]")
pytest.importorskip("nvidia.cu13", reason="needs nnkit[cuda-test]")
import nnkit
import ptx
from nnkit import Dense, Input, Sequential
from nnkit.runtime import driver, ptx_store
from nnkit.runtime.device_array import adopted

SCALED = (("prims.pointwise.scaled",),)
RUN = """
import sys
sys.path[:0] = {path!r}
import numpy as np, nnkit, ptx
from nnkit import Dense, Input, Sequential
from nnkit.runtime import driver, ptx_store
device = ptx.PtxDevice()
driver.device = lambda: device
model = nnkit.compile(Sequential([Input((3,)), Dense(2)]), optimizer="sgd", loss="mse", backend="cuda")
history = model.fit(np.ones((4, 3)), np.ones((4, 2)), batch_size=2, shuffle=False, verbose=0)
print(history["loss"], "numba" in sys.modules, ptx_store.compiled_count())
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NNKIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(ptx_store, "_known", {})
    return tmp_path


def compiled():
    """How many launches it takes to have this one."""
    ptx_store._known.clear()
    before = ptx_store.compiled_count()
    code = ptx_store.codes([SCALED], "float32")[SCALED]
    assert code.signatures == ("T1 T1 T",)
    assert ".target sm_90" in code.ptx
    return ptx_store.compiled_count() - before


def test_a_launch_is_compiled_once(folder):
    assert [compiled(), compiled()] == [1, 0]
    assert [path.suffix for path in folder.rglob("*") if path.is_file()] == [".ptx"]


def test_dtypes_and_architectures_have_launches_of_their_own(folder):
    compiled()
    other = ptx_store.codes([SCALED], "float64")[SCALED]
    older = ptx_store.codes([SCALED], "float32", (8, 0))[SCALED]
    assert ".target sm_80" in older.ptx
    assert ".f64" in other.ptx
    assert compiled() == 0


@pytest.mark.parametrize("harm", [lambda content: content[:-1], lambda content: b"", lambda content: content.replace(b"sm_90", b"sm_10"),
                                  lambda content: content.replace(b"scaled", b"Scaled")])
def test_what_is_harmed_or_foreign_is_compiled_anew(folder, harm):
    compiled()
    path, = folder.rglob("*.ptx")
    whole = path.read_bytes()
    path.write_bytes(harm(whole))
    assert path.read_bytes() != whole
    assert [compiled(), compiled()] == [1, 0]
    assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_written_keeps_nothing(folder, monkeypatch):
    (folder / "file").write_text("")
    monkeypatch.setenv("NNKIT_CACHE_DIR", str(folder / "file"))
    assert [compiled(), compiled()] == [1, 1]


def test_what_is_compiled_is_told_once(folder, monkeypatch, capsys):
    monkeypatch.delenv("NNKIT_QUIET", raising=False)
    compiled()
    compiled()
    assert capsys.readouterr().err == "nnkit: compiling 1 launch for this GPU, once (scaled)\n"


def test_kernels_are_known_without_numba():
    for name in ("layers.dense.dense_forward", "layers.activation.relu_backward", "prims.implicit.implicit_forward_64", "losses.reduce.report"):
        module, _, attribute = name.rpartition(".")
        assert attribute in ptx_store._names(module)
    assert not any(map(ptx_store.has_kernel, ("layers.dense.dense", "layers.nothing.nothing_forward", "user:layers.dense@1_forward")))


def test_what_is_stored_needs_no_numba(tmp_path):
    path = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(nnkit.__file__))]

    def run():
        env = {**os.environ, "NNKIT_CACHE_DIR": str(tmp_path), "NNKIT_QUIET": "1"}
        return subprocess.run([sys.executable, "-c", RUN.format(path=path)], capture_output=True, text=True, check=True, env=env).stdout.split("] ")
    first, again = run(), run()
    assert first[0] == again[0]
    assert first[1].startswith("True ")
    assert first[1] != "True 0\n"
    assert again[1] == "False 0\n"


# DLPack.

def capsule_of(address, array, code=2, strides=None):
    """A capsule as a library makes it for an array that lies at an address on a GPU; and what its deleter has been called with."""
    from nnkit.runtime import dlpack

    calls = []
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    steps = None if strides is None else (ctypes.c_int64 * array.ndim)(*strides)
    deleter = dlpack.DELETER(lambda managed: calls.append(managed))
    tensor = dlpack._Tensor(address - 8, 2, 0, array.ndim, code, 8 * array.itemsize, 1, shape, steps, 8)
    managed = dlpack._Managed(tensor, None, deleter)
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    name = b"dltensor"
    return new(ctypes.addressof(managed), name, None), calls, (managed, shape, steps, name)


class Exported:
    def __init__(self, *arguments, **named):
        self.capsule, self.calls, self.kept = capsule_of(*arguments, **named)

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, stream=None):
        assert stream == 1
        return self.capsule


def test_arrays_by_dlpack():
    device = ptx.PtxDevice()
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    address = device.allocate(array.nbytes)
    device.write(address, array)
    exported = Exported(address, array, strides=(4, 1))
    taken = adopted(exported, device, "x")
    assert (taken.address, taken.shape, taken.dtype) == (address, (3, 4), np.float32)
    assert (np.asarray(taken) == array).all()
    part = taken[1:]
    assert (part.address, part.shape) == (address + 16, (2, 4))
    del taken
    assert not exported.calls
    del part
    assert len(exported.calls) == 1
    with pytest.raises(ValueError, match=r"^x must be C-contiguous to be used where it lies, received strides \(4, 12\) for shape \(3, 4\)$"):
        adopted(Exported(address, array, strides=(1, 3)), device, "x")
    with pytest.raises(ValueError, match=r"^x must hold real numbers, received Exported of DLPack's type 5 with 1 lanes$"):
        adopted(Exported(address, array, code=5), device, "x")
    with pytest.raises(ValueError, match=r"^x must lie on the GPU that the model uses, the first one, received Exported that lies elsewhere$"):
        adopted(Exported(64, array), device, "x")


# The driver's side, as far as a host can do it.

class HostDriver:
    """NVIDIA's driver with the host's memory in the place of a device's; no launches."""

    CUresult = SimpleNamespace(CUDA_SUCCESS=0, CUDA_ERROR_OUT_OF_MEMORY=2)
    CUdevice_attribute = SimpleNamespace(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major", CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor",
                                         CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN="shared")
    CUpointer_attribute = SimpleNamespace(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL="device")

    def __init__(self):
        self.memory, self.waited, self.contexts, self.freed = {}, [], [], []

    def allocated(self, size):
        found = np.full(size, 0xFF, np.uint8)
        self.memory[found.ctypes.data] = found
        return found.ctypes.data

    cuInit = staticmethod(lambda flags: (0,))
    cuDeviceGet = staticmethod(lambda number: (0, 0))
    cuDevicePrimaryCtxRetain = staticmethod(lambda number: (0, "context"))
    cuDeviceGetAttribute = staticmethod(lambda name, number: (0, {"major": 8, "minor": 6, "shared": 166912}[name]))
    cuStreamCreate = staticmethod(lambda flags: (0, object()))
    cuMemGetInfo = staticmethod(lambda: (0, 1 << 20, 1 << 30))
    cuGetErrorString = staticmethod(lambda status: (0, b"some error"))

    def cuCtxSetCurrent(self, context):
        self.contexts.append(context)
        return 0,

    def cuMemAlloc(self, size):
        return (2, None) if size > 1 << 24 else (0, self.allocated(size))

    def cuMemHostAlloc(self, size, flags):
        return 0, self.allocated(size)

    def cuMemFree(self, address):
        self.freed.append(address)
        return 0,

    cuMemFreeHost = cuMemFree

    def cuMemsetD8Async(self, address, value, size, stream):
        ctypes.memset(address, value, size)
        return 0,

    def cuMemcpyHtoDAsync(self, to, of, size, stream):
        ctypes.memmove(to, of, size)
        return 0,

    cuMemcpyDtoHAsync = cuMemcpyHtoDAsync

    def cuStreamSynchronize(self, stream):
        self.waited.append(stream)
        return 0,

    def cuCtxSynchronize(self):
        self.waited.append("all")
        return 0,

    def cuPointerGetAttribute(self, name, address):
        return (0, 1) if address == 64 else (0, 0) if address in self.memory else (1, None)


@pytest.fixture
def host(monkeypatch):
    found = HostDriver()
    monkeypatch.setattr(driver, "_driver", lambda: found)
    return found


def test_memory_by_the_driver(host):
    device = driver.CudaDevice()
    assert device.architecture == (8, 6)
    small, large = device.allocate(1000), device.allocate((1 << 20) + 4)
    assert len(host.memory[small]) == 1024
    assert not host.memory[large].any()
    values = np.arange(250, dtype=np.float32)
    device.write(small, values)
    found = np.zeros_like(values)
    device.read(small, found)
    assert (found == values).all()
    device.release(small)
    device.release(large)
    assert host.freed == [large]
    assert device.allocate(900) == small                 # kept, and zeroed again
    assert not host.memory[small].any()
    with pytest.raises(MemoryError, match=r"^the GPU has no 33,554,432 bytes of memory left, 1,048,576 are free$"):
        device.allocate(1 << 25)


def test_a_device_that_is_too_old_is_refused(host, monkeypatch):
    monkeypatch.setattr(HostDriver, "cuDeviceGetAttribute", staticmethod(lambda name, number: (0, {"major": 7, "minor": 5, "shared": 65536}[name])))
    with pytest.raises(RuntimeError, match=r"^backend 'cuda' needs a GPU of compute capability 8\.0 or more, received 7\.5$"):
        driver.CudaDevice()


def test_pinned_memory_by_the_driver(host):
    device = driver.CudaDevice()
    pinned, target = device.pinned(8), device.allocate(8)
    address = pinned.ctypes.data
    pinned[:] = 7
    device.send(target, pinned.view(np.int64))
    device.sent()
    assert host.waited[-1] is device.copies
    assert (host.memory[target][:8] == 7).all()
    view = pinned[2:].reshape(2, 3)
    del pinned
    assert not host.freed
    del view
    assert host.freed == [address]


def test_streams_and_devices_of_other_libraries(host):
    device = driver.CudaDevice()
    device.wait_for(None)
    device.wait_for(77)
    assert host.waited == ["all", 77]
    assert device.holds(device.allocate(8))
    assert not device.holds(64)                          # on the second GPU
    assert not device.holds(65)                          # on none


def test_every_thread_enters_the_context(host):
    device = driver.CudaDevice()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: (device.free(), device.free()), range(2)))
    device.free()
    assert len(host.contexts) in (2, 3)                  # this thread, and one or both of the others


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_a_classifier_on_a_gpu_as_on_the_cpu():
    """The main job: 64 numbers, ten classes, a last batch that is smaller, validation, accuracy; the data set at once, and in chunks."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((1797, 64)).astype(np.float32)
    y = (x @ rng.standard_normal((64, 10))).argmax(1)
    spec = Sequential([Input((64,)), Dense(64, "relu"), Dense(32, "relu"), Dense(10, "softmax")])
    named = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": "accuracy", "seed": 4}
    expected = nnkit.compile(spec, **named).fit(x, y, epochs=3, verbose=0, validation_split=0.2)
    bits = set()
    for share in (0.8, 0.8, 1e-6):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nnkit.runtime.device_feed.SHARE", share)
            model = nnkit.compile(spec, backend="cuda", **named)
            history = model.fit(x, y, epochs=3, verbose=0, validation_split=0.2)
            bits.add(b"".join(values.tobytes() for values in model.parameters.values()))
    assert len(bits) == 1
    for key in expected:
        np.testing.assert_allclose(history[key], expected[key], rtol=2e-5, atol=2e-3 if "accuracy" in key else 0)
