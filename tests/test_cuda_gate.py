"""Every CUDA kernel, alone and in the launches of plans, assembles for sm_90 and sm_80: no spills, no stack, no stray float64, a cap on registers."""

import pathlib
import re
import subprocess

import attrs
import pytest

import nnkit
from nnkit import Dense, Input, Sequential
from nnkit.plan.build import build
from nnkit.plan.launch import MOST_CLUSTER_SHARED, SHARED_BYTES, coded, lanes_of, scratch_bytes

pytest.importorskip("numba_cuda", reason="needs nnkit[cuda-test]")
toolkit = pytest.importorskip("nvidia.cu13", reason="needs nnkit[cuda-test]")
PTXAS = pathlib.Path(next(iter(toolkit.__path__))) / "bin" / "ptxas"
if not PTXAS.exists():
    pytest.skip("needs nnkit[cuda-test]", allow_module_level=True)

from device_rig import code_of  # noqa: E402
from nnkit import cuda_jit  # noqa: E402
from test_cuda_kernels import all_kernels  # noqa: E402
from test_cuda_training import device_plan, graph_plan  # noqa: E402

REGISTERS = {"sm_90": 128, "sm_80": 255}                 # of a thread; 128: two blocks of 256 are on a multiprocessor at least


def assembled(ptx, architecture, folder):
    """What ptxas says about a launch."""
    source = folder / "launch.ptx"
    if architecture != "sm_90":                          # what compile_launch makes for it differs in two lines
        ptx = ptx.replace(".target sm_90", f".target {architecture}").replace(".minnctapersm 2", ".minnctapersm 1")
    source.write_text(ptx)
    done = subprocess.run([PTXAS, "-v", f"-arch={architecture}", source, "-o", folder / "launch.cubin"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def number(pattern):
        found = re.search(pattern, done.stderr)
        return int(found[1]) if found else 0
    return {"registers": number(r"Used (\d+) registers"), "stack": number(r"(\d+) bytes stack"), "spilled": number(r"(\d+) bytes spill stores"),
            "shared": number(r"(\d+) bytes smem")}


def check(ptx, folder, doubles):
    clusters = "reqnctapercluster" in ptx                # which sm_80 has not
    for architecture, most in list(REGISTERS.items())[:1 if clusters else None]:
        found = assembled(ptx, architecture, folder)
        assert found["stack"] == found["spilled"] == 0, (architecture, found)
        assert found["registers"] <= most, (architecture, found)
        assert found["shared"] <= SHARED_BYTES, (architecture, found)
    entry = ptx[ptx.index(".entry"):]
    assert doubles or ".f64" not in entry, re.findall(r".*\.f64.*", entry)[:4]


@pytest.mark.parametrize("name", [name for name, _ in all_kernels()])
def test_a_kernel_assembles(name, tmp_path):
    doubles = any(argument.dtype == "float64" for argument in cuda_jit.find(name).arguments)
    check(code_of(((name,),), "float32").ptx, tmp_path, doubles)


def residual():
    """A block, small enough for the chain."""
    x = Input((8, 8, 3))
    h = nnkit.Conv2D(8, 3, padding="same", activation="relu")(x)
    part = nnkit.BatchNormalization()(nnkit.Conv2D(16, 3, strides=2, padding="same")(h))
    h = nnkit.Activation("relu")(nnkit.Add()([part, nnkit.Conv2D(16, 1, strides=2)(h)]))
    h = nnkit.Conv2DTranspose(8, 2, strides=2)(nnkit.SeparableConv2D(16, 3)(h))
    return nnkit.Network(x, Dense(10, "softmax")(nnkit.GlobalAveragePooling2D()(h)))


NETWORKS = {
    "small": (Sequential([Input((20,)), Dense(64, "relu"), Dense(32, "relu"), Dense(1, "sigmoid")]), 32, "bce"),
    "on chip": (Sequential([Input((64,)), Dense(128, "gelu"), nnkit.Dropout(0.3), Dense(128, "leaky_relu"), Dense(10, "softmax")]), 1024,
                "categorical_crossentropy"),
    "deep on chip": (Sequential([Input((8,)), *[Dense(16, "elu") for _ in range(5)], Dense(3)]), 32, "mse"),
    "wide": (Sequential([Input((784,)), Dense(512, "gelu"), Dense(10, "softmax")]), 128, "sparse_categorical_crossentropy"),
    "large": (Sequential([Input((784,)), Dense(4096, "relu"), Dense(4096, "relu"), Dense(10, "softmax")]), 4096, "sparse_categorical_crossentropy"),
    "normalized": (Sequential([Input((64,)), Dense(96), nnkit.BatchNormalization(), nnkit.Activation("gelu"), nnkit.Dropout(0.5),
                               Dense(1000, nnkit.PReLU()), nnkit.LayerNormalization(), Dense(10)]), 200, "mse"),
    "images": (Sequential([Input((32, 32, 16)), nnkit.GaussianNoise(0.1), nnkit.ZeroPadding2D(1), nnkit.BatchNormalization(), nnkit.MaxPooling2D(2),
                           nnkit.AveragePooling2D(3, strides=2), nnkit.UpSampling2D(2, interpolation="bilinear"), nnkit.GlobalMaxPooling2D(),
                           Dense(10)]), 64, "mse"),
    "convolutions": (residual(), 32, "sparse_categorical_crossentropy"),
    "recurrent": (Sequential([Input((9,)), nnkit.Embedding(50, 16, mask_zero=True), nnkit.Bidirectional(nnkit.LSTM(64, return_sequences=True)),
                              nnkit.GRU(33, recurrent_dropout=0.2), Dense(10)]), 64, "mse"),
    "stacks": (Sequential([Input((28, 28, 64)), nnkit.Conv2D(128, 3, padding="same", activation="relu"), nnkit.Conv2D(128, 3, padding="same"),
                           nnkit.BatchNormalization(), nnkit.Activation("relu"), nnkit.GlobalAveragePooling2D(), Dense(10)]), 64, "mse"),
    "large convolutions": (Sequential([Input((56, 56, 3)), nnkit.Conv2D(64, 3, strides=2, activation="relu"), nnkit.MaxPooling2D(2),
                                       nnkit.Conv2D(128, 3, padding="same", activation="relu", algorithm="direct"), nnkit.Conv2D(24, 3, groups=2),
                                       nnkit.DepthwiseConv2D(3), nnkit.GlobalAveragePooling2D(), Dense(10)]), 64, "mse"),
}


@pytest.mark.parametrize(("name", "precision"), [*((name, "float32") for name in NETWORKS), ("large", "tf32"), ("large convolutions", "tf32"),
                                                 ("large convolutions", "bfloat16")])
def test_the_launches_of_a_plan_assemble(name, precision, tmp_path):
    spec, batch, loss = NETWORKS[name]
    model = nnkit.compile(spec, optimizer="adam", loss=loss)
    plan = build(model.graph, model.layout, "train", batch, losses=[(output.loss, output.weight) for output in model.outputs],
                 optimizer=model.optimizer, backend="cuda", precision=precision)
    for lanes in lanes_of(plan):
        check(code_of(tuple(tuple(coded(step) for step in lane) for lane in lanes), "float32").ptx, tmp_path, doubles=True)


@pytest.mark.parametrize("name", ["attentive", "convolutional"])
def test_the_launches_of_a_network_on_a_graph_assemble(name, tmp_path):
    for lanes in lanes_of(graph_plan(name)):
        check(code_of(tuple(tuple(coded(step) for step in lane) for lane in lanes), "float32").ptx, tmp_path, doubles=True)


@pytest.mark.parametrize("layer", [nnkit.LSTM(256), nnkit.GRU(256), nnkit.SimpleRNN(600)], ids=["lstm", "gru", "simple_rnn"])
def test_walks_by_clusters_assemble_and_say_their_size(layer, tmp_path):
    """Each is a launch of its own. What it says of clusters comes from PTX alone: it is an ordinary node of a graph."""
    spec = Sequential([Input((100, 64)), attrs.evolve(layer, recurrent_initializer="zeros"), Dense(10)])
    launches = [lanes for lanes in lanes_of(device_plan(spec, 64, optimizer="sgd", loss="mse"))
                if any("_cluster_" in step.kernel for lane in lanes for step in lane)]
    assert [[[step.kernel.rpartition("_")[2] for step in lane] for lane in lanes] for lanes in launches] == [[["forward"]], [["backward"]]]
    for ((step,),) in launches:
        ptx = code_of(((coded(step),),), "float32").ptx
        assert re.search(r"^\.explicitcluster\n\.reqnctapercluster 8, 1, 1$", ptx, re.MULTILINE)
        assert step.tasks == 8 * 16                      # four rows to each cluster
        assert scratch_bytes([step]) <= MOST_CLUSTER_SHARED
        check(ptx, tmp_path, doubles=False)


def test_an_older_architecture_differs_in_two_lines():
    kernels = [[cuda_jit.find("prims.pointwise.scaled")]]
    new, old = (cuda_jit.compile_launch(kernels, "float32", architecture).splitlines() for architecture in ((9, 0), (8, 0)))
    assert [(a, b) for a, b in zip(new, old, strict=True) if a != b] == [(".target sm_90", ".target sm_80"), (".minnctapersm 2", ".minnctapersm 1")]


def test_clusters_are_refused_where_there_are_none():
    with pytest.raises(ValueError, match=r"^clusters of blocks need compute capability 9 or 10, received 8\.0$"):
        cuda_jit.compile_launch([[cuda_jit.find("layers.recurrent.gru_cluster_forward")]], "float32", (8, 0))


def test_the_gate_sees_a_stray_float64(tmp_path):
    from nnkit.jit import Int, Vector

    @cuda_jit.kernel
    def tenth(task: Int, tasks: Int, y: Vector) -> None:
        values = cuda_jit.data(y)
        values[cuda_jit.thread()] *= 0.1
    with pytest.raises(AssertionError, match="f64"):
        check(cuda_jit.compile_launch([[tenth]], "float32"), tmp_path, doubles=False)


def test_modules_of_kernels_alone_import_numba_cuda():
    package = pathlib.Path(nnkit.__file__).parent
    importing = {path.name for path in package.rglob("*.py") if re.search(r"^\s*(from|import) numba[._]cuda|^from numba import .*\bcuda\b",
                                                                          path.read_text(), re.MULTILINE)}
    assert importing == {"cuda_jit.py"}
