"""Precision of products, sums in slices: what plans choose, and that networks train with it. Kernels: cuda_cases_cores.py, with all others."""

import re

import numpy as np
import pytest

import nnkit
from nnkit import Dense, Input, Sequential
from nnkit.plan.build import build
from nnkit.plan.launch import DEPTH, lanes_of
from nnkit.plan.products import microseconds, slices_worth, tile_side


def plan_of(spec, batch, precision="float32", dtype="float32", backend="cuda"):
    model = nnkit.compile(spec, optimizer="sgd", loss="mse", dtype=dtype)
    losses = [(output.loss, output.weight) for output in model.outputs]
    return build(model.graph, model.layout, "train", batch, losses=losses, optimizer=model.optimizer, backend=backend, precision=precision)


def wide():
    return Sequential([Input((4096,)), Dense(4096, "relu"), Dense(4096), Dense(10)])


MESSAGES = [
    ({"precision": "float16"}, "precision: must be 'float32', 'tf32' or 'bfloat16', received 'float16'"),
    ({"precision": "tf32", "dtype": "float64"}, "precision 'tf32' needs dtype 'float32', received dtype 'float64'"),
    ({"precision": "bfloat16", "backend": "cpu"}, "precision 'bfloat16' needs backend 'cuda', received backend 'cpu'"),
]


@pytest.mark.parametrize(("named", "message"), MESSAGES)
def test_a_precision_that_cannot_be_is_refused(named, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plan_of(Sequential([Input((3,)), Dense(2)]), 4, **named)


@pytest.mark.parametrize(("precision", "end"), [("float32", ""), ("tf32", "_tf32"), ("bfloat16", "_bfloat16")])
def test_large_products_have_the_precision_and_small_ones_stay(precision, end):
    image = Sequential([Input((32, 32, 64)), nnkit.Conv2D(128, 3, algorithm="direct"), nnkit.Conv2D(4, 1), nnkit.GlobalAveragePooling2D(), Dense(2)])
    found = {step.kernel.rpartition(".")[2] for spec in (wide(), image) for step in plan_of(spec, 64, precision).steps}
    assert found >= {f"dense_forward_64{end}", f"dense_backward_weight_128{end}", f"dense_backward_input_whole_64{end}", "dense_forward",
                     f"implicit_forward_128{end}", f"implicit_weight_128{end}", f"implicit_forward_narrow{end}"}
    assert not [name for name in found if name.endswith(("_tf32", "_bfloat16")) and not (end and name.endswith(end))]


def test_few_tiles_of_long_sums_go_in_slices():
    """128 x 4096 x 4096: 32 tiles, so 8 slices of 512; the plan shows their sum."""
    plan = plan_of(wide(), 128)
    position, step = next((position, step) for position, step in enumerate(plan.steps) if step.kernel == "layers.dense.dense_forward_128")
    assert step.writes[0].shape == (8 * 128, 4096)
    assert step.tasks == 8 * 32
    total = next(other for other in plan.steps[position + 1:] if other.reads and other.reads[0].name == step.writes[0].name)
    assert (total.kernel, total.reads[0].shape, total.writes[0].size) == ("prims.reduce.sum_middle", (1, 8, 128 * 4096), 128 * 4096)
    assert "dense/y/slices[1024x4096]" in str(plan)
    assert [step.writes[0].shape for step in plan.steps if step.kernel == "layers.dense.dense_backward_input_whole_128"] == [(1024, 4096)]


def test_few_places_of_many_channels_go_in_slices():
    spec = Sequential([Input((7, 7, 512)), nnkit.Conv2D(512, 3, padding="same", activation="relu"), nnkit.Conv2D(512, 3, padding="same"),
                       nnkit.GlobalAveragePooling2D(), Dense(2)])
    steps = plan_of(spec, 2).steps
    for name in ("implicit_forward_64", "implicit_input_64"):
        found = [step for step in steps if step.kernel.endswith(name)]
        assert found
        for step in found:
            slices = step.writes[0].shape[0] // 2
            assert slices == 16                          # of 16 tiles; 4 of 128 would be too few even in slices
            assert step.tasks == slices * 16
            assert step.scalars[-1] == 0                 # a ReLU comes after the sum
    assert "layers.activation.relu_forward" in {step.kernel for step in steps}


@pytest.mark.parametrize("depth", [1, 255, 256, 511, 512, 1000, 4096, 4608, 25088])
def test_no_slice_is_short_or_empty(depth):
    for tiles in (1, 2, 7, 32, 66, 99, 100, 1000):
        time, slices = slices_worth(tiles, depth, 128 * 128, tiles * 128 * 128)
        chunk = -(-depth // (slices * DEPTH)) * DEPTH
        assert (slices - 1) * chunk < depth
        assert slices == 1 or (chunk >= 256 and time < microseconds(tiles, 1, depth, 128 * 128, tiles * 128 * 128))


def test_the_size_of_tiles():
    """Large where the device is busy, if need be by slices, and the tiles are not mostly empty; 264 blocks run at a time."""
    sides = (128, 64, 32)
    assert tile_side(4096, 4096, 4096, sides) == (128, 1)
    assert tile_side(1024, 1024, 1024, sides) == (128, 4)    # 64 tiles
    assert tile_side(1536, 1536, 16384, sides) == (128, 11)  # 144 tiles in 6 turns of 264, not in one that leaves 120 places empty
    assert tile_side(1024, 1024, 16, sides) == (64, 1)       # too short for slices
    assert tile_side(33, 4096, 64, sides) == (32, 1)
    assert tile_side(32, 64, 1024, sides) == (32, 4)
    assert tile_side(32, 64, 1024, sides[:2]) == (64, 4)


def test_long_sums_of_small_products_are_shared():
    """16 x 7 sums over 2,708 rows: by one block they would be one load after the other. The bias is a sum of its own."""
    spec = Sequential([Input((2708, 16)), Dense(7, kernel_initializer="zeros"), nnkit.GlobalAveragePooling1D()])
    steps = [step for step in plan_of(spec, 1).steps if step.phase == "backward" and step.layer == "dense"]
    assert [step.kernel.rpartition(".")[2] for step in steps] == ["dense_backward_weight_32", "sum_chunks", "sum_middle", "sum_middle"]
    assert steps[0].tasks == 34                              # slices of 80 rows
    assert [buffer.shape for buffer in steps[0].writes] == [(34 * 16, 7), (0,)]
    long = plan_of(Sequential([Input((25088,)), Dense(1)]), 32)
    assert {"layers.dense.dense_forward_32", "layers.dense.dense_backward_weight"} <= set(long.kernels)
    few = plan_of(Sequential([Input((500, 16)), Dense(7), nnkit.GlobalAveragePooling1D()]), 1)
    assert "layers.dense.dense_backward_weight" in few.kernels


def interpreter():
    pytest.importorskip("numba_cuda", reason="needs nnkit[cuda-test]")
    pytest.importorskip("nvidia.cu13", reason="needs nnkit[cuda-test]")
    import ptx
    return ptx


# How far the loss of two steps may be from the CPU's: a factor is off by 2^-11 or 2^-8 of itself at most, and where many are summed, whose errors go
# either way, the sum by less than two factors are together, twice of which is in a square.
@pytest.mark.parametrize(("precision", "loss", "kernels"), [
    ("float32", 2e-6, {"dense_forward_32", "sum_middle"}),
    ("tf32", 4 * 2.0 ** -11, {"dense_forward_64_tf32", "dense_backward_weight_64_tf32", "sum_middle"}),
    ("bfloat16", 4 * 2.0 ** -8, {"dense_forward_64_bfloat16", "dense_backward_weight_64_bfloat16"}),
])
def test_a_network_trains_as_on_the_cpu(precision, loss, kernels):
    ptx = interpreter()
    from device_rig import DeviceModel

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 1024), np.float32), rng.standard_normal((64, 3), np.float32)
    model = nnkit.compile(Sequential([Input((1024,)), Dense(64, "relu"), Dense(3)]), optimizer=nnkit.SGD(0.01), loss="mse", seed=4)
    device = DeviceModel(model, ptx.PtxDevice())
    device.data(x=x, target=y, sample_weight=np.ones((64, 1), np.float32), order=np.zeros(64, np.int64))
    tape = device.tape("train", 32, precision=precision)
    assert {step.kernel.rpartition(".")[2] for step in tape.plan.steps} >= kernels
    (found,) = device.train(tape, 2, 1, device.shuffle())
    expected = model.fit(x, y, batch_size=32, epochs=1, verbose=0)["loss"][0]
    assert found == pytest.approx(expected, rel=loss)
    if precision != "float32":
        assert found != pytest.approx(expected, rel=2e-7)    # it is not float32


@pytest.mark.parametrize(("end", "unit"), [("_tf32", 2.0 ** -11), ("_bfloat16", 2.0 ** -8)])
def test_rounding_is_all_that_parts_it_from_the_cpu(end, unit):
    """Each factor is off by half a unit in the last place, so a product by 2 unit + unit^2 of itself; float32's own error is 1e-5 of that at most."""
    ptx = interpreter()
    from device_rig import code_of
    from nnkit.layers.dense_cpu import dense_forward
    from nnkit.plan.launch import SHARED_BYTES

    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((70, 90), np.float32), rng.standard_normal((90, 65), np.float32)
    none, expected, found = np.zeros(0, np.float32), np.zeros((70, 65), np.float32), np.zeros((70, 65), np.float32)
    dense_forward(0, 1, expected, x, w, none, none)
    device = ptx.PtxDevice()
    words = [4]
    for array in (found, x, w, none, none):
        words += [device.allocate(array.nbytes), *array.shape]
        device.write(words[-1 - array.ndim], array)
    ptx.run(device.load(code_of(((f"layers.dense.dense_forward_64{end}",),), "float32").ptx), device.memory, 4, SHARED_BYTES, words)
    device.read(words[1], found)
    error, bound = np.abs(found - expected), (np.abs(x) @ np.abs(w)) * (2 * unit + unit ** 2) * 1.001
    assert (error <= bound).all()
    assert error.max() > 0.02 * bound.max()              # and it is that rounding, not float32's


def test_what_needs_all_registers_is_a_launch_of_its_own():
    for lanes in lanes_of(plan_of(wide(), 4096, "tf32")):
        kernels = [step.kernel for lane in lanes for step in lane]
        assert len(kernels) == 1 or not any(kernel.endswith("_128_tf32") for kernel in kernels)
