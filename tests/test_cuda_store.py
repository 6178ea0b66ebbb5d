"""The store of PTX, and arrays by DLPack."""

import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="needs nnkit[cuda-test]")
pytest.importorskip("nvidia.cu13", reason="needs nnkit[cuda-test]")
import nnkit
import ptx
from nnkit import Dense, Input, Sequential
from nnkit.runtime import ptx_store
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


def test_a_store_serves_machines_with_other_toolkits(monkeypatch):
    """The compiler is that of nvidia-nvvm, wherever the machine's own toolkit lies and whether ptxas is there; without that package it is another."""
    def fingerprint(home, **versions):
        monkeypatch.setenv("CUDA_HOME", home)
        monkeypatch.setattr(ptx_store, "_version", lambda package: versions.get(package.replace("-", "_"), "-"))
        return ptx_store._fingerprint.__wrapped__()
    here = fingerprint("/usr/local/cuda", nvidia_nvvm="13.0.88", nvidia_cuda_nvcc="13.0.88")
    assert fingerprint("/opt/cuda", nvidia_nvvm="13.0.88") == here
    others = [fingerprint("/opt/cuda", nvidia_nvvm="13.0.89"), fingerprint("/opt/cuda"), fingerprint("/usr/local/cuda"),
              fingerprint("/opt/cuda", nvidia_cuda_nvcc="13.0.88"), fingerprint("/opt/cuda", nvidia_nvvm="13.0.88", numba_cuda="0.30.5")]
    assert len({here, *others}) == 6


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
