"""Plans for the device: the order of launches, and whole networks trained in the interpreter of PTX beside the CPU."""

import numpy as np
import pytest

import nnkit
from nnkit import Dense, Input, Network, Sequential
from nnkit.plan.build import build
from nnkit.plan.launch import MOST_WORDS, dependences, lanes_of, regions, step_words
from nnkit.plan.passes import optimise
from nnkit.plan.plan import Buffer, Plan, Step


def device_plan(spec, batch, mode="train", **named):
    model = nnkit.compile(spec, **named)
    losses = [(output.loss, output.weight) for output in model.outputs]
    return build(model.graph, model.layout, mode, batch, losses=losses, optimizer=model.optimizer, backend="cuda")


def small_network():
    return Sequential([Input((20,)), Dense(64, "relu"), Dense(32, "tanh"), Dense(1, "sigmoid")])


def two_ended_network():
    x = Input((6,))
    h = Dense(9, "gelu")(x)
    return Network(x, [Dense(4, "softmax", name="kind")(h), Dense(2, name="place")(nnkit.Add()([Dense(9, "relu")(h), h]))])


# Without a device or an interpreter.

def test_a_training_step_is_four_launches():
    lanes = lanes_of(device_plan(small_network(), 32, optimizer="adam", loss="bce"))
    names = [[[step.kernel.rpartition(".")[2] for step in lane] for lane in launch] for launch in lanes]
    assert len(names) == 4
    assert [len(lane) for lane in names[0]] == [14]                  # forward and backward of the rows
    assert names[1] == [["dense_backward_weight"]] * 3 + [["accumulate"]]
    assert names[2:] == [[["adam_update"]], [["advance"]]]
    assert [lane[0].tasks for lane in lanes[0]] == [32]


def test_large_products_go_by_tiles_of_their_own():
    plan = device_plan(Sequential([Input((784,)), Dense(4096, "relu"), Dense(10, "softmax")]), 1024, optimizer="sgd",
                       loss="sparse_categorical_crossentropy")
    found = {step.kernel: step for step in plan.steps}
    assert found["layers.dense.dense_forward_128"].tasks == 8 * 32
    assert found["layers.dense.dense_backward_weight_128"].tasks == 7 * 32
    assert all(len(lane) == 1 for launch in lanes_of(plan) for lane in launch if lane[0].kernel.endswith("_128"))


PLANS = {
    "small": lambda: device_plan(small_network(), 32, optimizer="adam", loss="bce"),
    "deep": lambda: device_plan(Sequential([Input((8,)), *[Dense(8, "relu")] * 40, Dense(2)]), 5, optimizer="sgd", loss="mse"),
    "wide": lambda: device_plan(Sequential([Input((300,)), Dense(1000, "elu"), Dense(500, "selu"), Dense(3)]), 256, optimizer="rmsprop", loss="mse"),
    "predict": lambda: device_plan(small_network(), 7, mode="predict"),
}


@pytest.mark.parametrize("name", PLANS)
def test_no_step_overtakes_what_it_depends_on(name):
    plan = PLANS[name]()
    ordered = {id(step): (group, lane) for group, lanes in enumerate(lanes_of(plan)) for lane, steps in enumerate(lanes) for step in steps}
    assert len(ordered) == len(plan.steps)
    for later, earlier in enumerate(dependences(plan)):
        for index in earlier:
            (group, lane), (after, own) = ordered[id(plan.steps[index])], ordered[id(plan.steps[later])]
            assert group < after or (group == after and lane == own and plan.steps[index].rows == plan.steps[later].rows > 0)
    for lanes in lanes_of(plan):
        steps = [step for lane in lanes for step in lane]
        assert len(lanes) + sum(map(step_words, steps)) <= MOST_WORDS + 1
        assert all(len({step.tasks for step in lane}) == 1 for lane in lanes)


@pytest.mark.parametrize("name", PLANS)
def test_what_runs_at_the_same_time_shares_no_bytes_of_the_arena(name):
    """Of two lanes of a launch, and of a launch and what must outlive it."""
    plan = PLANS[name]()

    def ranges(buffers):
        for buffer in buffers:
            storage = plan.storage(buffer.name)
            if storage in plan.offsets and buffer.inside is None and buffer.size:
                yield plan.offsets[storage], plan.offsets[storage] + buffer.nbytes, storage
    for lanes in lanes_of(plan):
        for position, lane in enumerate(lanes):
            others = [step for other in lanes[:position] + lanes[position + 1:] for step in other]
            for start, end, name_ in [each for step in lane for each in ranges(step.writes + step.scratch)]:
                for begin, stop, other in [each for step in others for each in ranges(step.buffers)]:
                    assert end <= begin or stop <= start, (name_, other)


def test_pieces_of_a_vector_depend_on_each_other_where_they_meet():
    def piece(first, size):
        return Buffer(f"piece{first}", (size,), "float32", "gradient", ("gradients", first))
    whole = Buffer("gradients", (8,), "float32", "gradient")
    plan = optimise(Plan(mode="train", batch=1, dtype="float32", steps=tuple(
        Step(kernel="prims.pointwise.zero", layer="", phase="", writes=(buffer,)) for buffer in (piece(0, 3), piece(3, 3), piece(2, 2), whole))),
        backend="cuda")
    assert regions([piece(3, 3)], plan) == [("gradients", 12, 24)]
    assert [len(lane) for lane in lanes_of(plan)] == [2, 1, 1]


def test_the_public_face_has_no_cuda_yet():
    with pytest.raises(ValueError, match=r"^compile: backend must be 'cpu', received 'cuda'$"):
        nnkit.compile(small_network(), backend="cuda")


# In the interpreter.

def interpreter():
    pytest.importorskip("numba_cuda", reason="needs nnkit[cuda-test]")
    pytest.importorskip("nvidia.cu13", reason="needs nnkit[cuda-test]")
    return pytest.importorskip("ptx")


def small_data(samples):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((samples, 20)).astype(np.float32)
    return x, (x[:, :5].sum(1, keepdims=True) > 0).astype(np.float32)


@pytest.mark.parametrize("schedule", ["together", "rising", "falling"])
def test_a_network_trains_ten_steps_as_on_the_cpu(schedule):
    ptx = interpreter()
    from device_rig import DeviceModel

    x, y = small_data(64)
    epochs = 5 if schedule == "together" else 1
    model = nnkit.compile(small_network(), optimizer="adam", loss="bce", seed=4)
    device = DeviceModel(model, ptx.PtxDevice(schedule))
    device.data(x=x, target=y, sample_weight=np.ones((64, 1), np.float32), order=np.zeros(64, np.int64))
    shuffle, tape = device.shuffle(), device.tape("train", 32)
    losses = []
    for epoch in range(epochs):
        device.begin_epoch(epoch)
        shuffle.run()
        tape.run(2)
        losses.append(device.loss())
    history = model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)
    np.testing.assert_allclose(losses, history["loss"], rtol=2e-6)             # a few roundings of float32
    device.fetch()
    for name, values in model.parameters.items():
        np.testing.assert_allclose(device.view(name), values, rtol=0, atol=2e-6)


def test_a_device_predicts_and_evaluates_as_the_cpu():
    ptx = interpreter()
    from device_rig import DeviceModel

    x, y = small_data(14)
    model = nnkit.compile(small_network(), optimizer="adam", loss="bce", seed=4)
    device = DeviceModel(model, ptx.PtxDevice())
    device.data(x=x, target=y, sample_weight=np.ones((14, 1), np.float32), predictions=np.zeros((14, 1), np.float32))
    device.begin_epoch(0)
    device.tape("evaluate", 7).run(2)
    assert device.loss() == pytest.approx(model.evaluate(x, y)["loss"], rel=1e-6)
    device.begin_epoch(0)
    device.tape("predict", 7).run(2)
    found = np.zeros((14, 1), np.float32)
    device.device.read(device.arrays["predictions"][0], found)
    np.testing.assert_allclose(found, model.predict(x), rtol=2e-6)


def test_a_kernel_without_a_cuda_form_is_named():
    interpreter()
    from device_rig import DeviceModel

    ptx = interpreter()
    model = nnkit.compile(Sequential([Input((4, 4, 1)), nnkit.Conv2D(2, 3)]))
    device = DeviceModel(model, ptx.PtxDevice())
    with pytest.raises(ValueError, match=r"^there is no CUDA kernel 'prims\..*' yet$"):
        device.tape("predict", 2)


def test_without_a_gpu_the_driver_says_so_in_one_sentence():
    pytest.importorskip("cuda.bindings", reason="needs nnkit[cuda]")
    from nnkit.runtime import driver

    if gpu():
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match=r"^backend 'cuda' needs an NVIDIA GPU and its driver, found none \("):
        driver.device()


def gpu():
    """The GPU of this machine, or None."""
    from nnkit.runtime import driver

    try:
        return driver.device()
    except RuntimeError:
        return None


@pytest.mark.gpu
def test_a_gpu_trains_as_the_cpu_with_the_same_bits_every_time():
    pytest.importorskip("cuda.bindings", reason="needs nnkit[cuda]")
    device = gpu()
    if device is None:
        pytest.skip("there is no GPU")
    from device_rig import DeviceModel

    x, y = small_data(256)
    model = nnkit.compile(small_network(), optimizer="adam", loss="bce", seed=4)
    seen = set()
    for _ in range(5):
        trained = DeviceModel(model, device)
        trained.data(x=x, target=y, sample_weight=np.ones((256, 1), np.float32), order=np.zeros(256, np.int64))
        shuffle, tape = trained.shuffle(), trained.tape("train", 32)
        losses = []
        for epoch in range(3):
            trained.begin_epoch(epoch)
            shuffle.run()
            tape.run(8)
            losses.append(trained.loss())
        trained.fetch()
        seen.add(trained.fetched.kept.tobytes() + trained.fetched.training.tobytes())
    assert len(seen) == 1
    np.testing.assert_allclose(losses, model.fit(x, y, batch_size=32, epochs=3, verbose=0)["loss"], rtol=2e-6)
