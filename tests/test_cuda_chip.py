"""Chains on chip: when there are any, what lies where, and networks trained on them in the interpreter of PTX beside the CPU."""

import itertools

import numpy as np
import pytest

import nnkit
from nnkit import Dense, Dropout, Input, Sequential
from nnkit.plan.chip import MOST_BLOCKS, width_on_chip
from nnkit.plan.launch import MOST_SHARED, coded, lanes_of, scratch_bytes, shared_bytes
from nnkit.plan.plan import CHIP
from test_cuda_training import batches, device_plan, digits_network, interpreter, labels, small_network


def wide_network(width=128):
    return Sequential([Input((64,)), Dense(width, "relu"), Dense(width, "relu"), Dense(10, "softmax")])


def names_of(plan):
    return [[[step.kernel.rpartition(".")[2] for step in lane] for lane in lanes] for lanes in lanes_of(plan)]


# The plan.

def test_a_training_step_of_a_small_network_is_two_launches():
    plan = device_plan(small_network(), 32, optimizer="adam", loss="bce")
    rows, update = names_of(plan)
    assert rows == [["copy_counters"], [
        *["bring"] * 3, *["gather_rows"] * 3, "arrive", "dense_forward_few", "relu_forward", "dense_forward_few",
        "tanh_forward", "dense_forward_few", "binary_crossentropy_logits_forward", "binary_crossentropy_logits_backward", "dense_backward_weight_few",
        "dense_backward_input_few", "tanh_backward", "dense_backward_weight_few", "dense_backward_input_few", "relu_backward",
        "dense_backward_weight_few"]]
    assert update == [["sum_parts", "adam_update"], ["accumulate"], ["advance"]]
    chain = lanes_of(plan)[0][1]
    assert {step.tasks for step in chain} == {32}                    # a row each
    assert {step.kernel.rpartition(".")[2] for step in chain if any(buffer.role == "activation" for buffer in step.buffers)} == {
        "binary_crossentropy_logits_forward"}                        # whose rows the sum of the loss reads
    assert "shared memory of a block 19,200 bytes" in str(plan)


def test_penalties_on_weights_take_no_launch_of_their_own():
    layers = [Dense(units, activation, kernel_regularizer="l2") for units, activation in ((64, "relu"), (32, "tanh"), (1, "sigmoid"))]
    plan = device_plan(Sequential([Input((20,)), *layers]), 32, optimizer="adam", loss="bce")
    assert names_of(plan)[1:] == [[["sum_parts", *["add_penalty_gradient_within"] * 3, "adam_update"], ["accumulate"], ["advance"]]]
    sums, *penalties, update = lanes_of(plan)[1][0]
    assert [step.scalars[2:] for step in penalties] == [(buffer.inside[1], update.reads[0].size) for step in penalties for buffer in step.updates]
    assert {step.rows for step in (sums, *penalties, update)} == {-(-update.reads[0].size // 32)}


def test_what_others_read_stays_in_global_memory():
    x = Input((6,))
    h = Dense(9, "relu", activity_regularizer=nnkit.L2(1e-3))(x)
    plan = device_plan(nnkit.Network(x, Dense(1)(Dense(5, "tanh")(h))), 10, optimizer="adam", loss="mse")
    roles = {buffer.name: buffer.role for step in plan.steps for buffer in step.buffers}
    assert roles["dense/relu"] == "activation"
    assert roles["dense_1/tanh"] == "chip_rows"


@pytest.mark.parametrize(("spec", "batch"), [
    (lambda: wide_network(129), 32),                                 # too wide
    (lambda: Sequential([Input((64,)), *[Dense(128, "relu") for _ in range(4)], Dense(10)]), 32),      # too many weights
    (lambda: wide_network(), 12_000),                                # more blocks than are worth their parts of the gradients
    (lambda: Sequential([Input((20,)), Dense(1)]), 32),              # one product has nothing to hand over
    (lambda: digits_network(), 32),                                  # convolutions copy to shared memory themselves
    (lambda: Sequential([Input((8,)), *[Dense(8, "relu") for _ in range(6)], Dense(2)]), 5),           # too many words for one launch
])
def test_a_chain_stays_as_it_was_where_a_rule_fails(spec, batch):
    plan = device_plan(spec(), batch, optimizer="sgd", loss="mse")
    assert not any(step.on_chip or step.kernel.startswith("prims.chip.") for step in plan.steps)
    assert plan.chip_bytes == 0 == len(plan.chip)


@pytest.mark.parametrize(("batch", "tasks"), [(1, 1), (32, 32), (128, 64), (1024, 128), (4096, 128), (8192, 200)])
def test_blocks_have_room_for_their_rows(batch, tasks):
    plan = device_plan(wide_network(), batch, optimizer="adam", loss="sparse_categorical_crossentropy")
    chain = next(lane for lane in lanes_of(plan)[0] if any(step.on_chip for step in lane))
    assert {step.tasks for step in chain} == {tasks}
    assert tasks <= MOST_BLOCKS
    assert scratch_bytes(chain) < plan.chip_bytes == shared_bytes(plan, lanes_of(plan)[0]) <= MOST_SHARED


@pytest.mark.parametrize("batch", [7, 500])
def test_what_lies_on_chip_at_the_same_time_shares_no_bytes(batch):
    network = Sequential([Input((13,)), Dense(37, "gelu"), Dropout(0.3), Dense(61, "leaky_relu"), Dense(5, "softmax")])
    plan = device_plan(network, batch, optimizer="adam", loss="categorical_crossentropy")
    chain = next(lane for lane in lanes_of(plan)[0] if any(step.on_chip for step in lane))
    lives, ends = {}, {}
    for position, step in enumerate(chain):
        for buffer in step.buffers:
            if buffer.role in CHIP:
                name = plan.storage(buffer.name)
                lives.setdefault(name, [position, position])[1] = position
                held = -(-buffer.shape[0] // step.tasks) if buffer.role == "chip_rows" else buffer.shape[0]
                ends[name] = max(ends.get(name, 0), plan.chip[name] + held * int(np.prod(buffer.shape[1:])) * 4)
    assert set(lives) == set(plan.chip)
    assert len(lives) > 12
    for name, (first, last) in lives.items():
        assert plan.chip[name] % 16 == 0
        assert scratch_bytes(chain) <= plan.chip[name]
        assert ends[name] <= plan.chip_bytes
        for other, (begin, end) in lives.items():
            if other != name and begin <= last and first <= end:
                assert ends[name] <= plan.chip[other] or ends[other] <= plan.chip[name], (name, other)


def test_the_parts_fill_the_gradients_that_the_update_reads():
    plan = device_plan(small_network(), 32, optimizer="adam", loss="bce")
    (parts,) = (buffer for step in plan.steps if step.kernel == "prims.chip.sum_parts" for buffer in step.reads)
    filled = sorted(step.scalars[at:at + 2] for step in plan.steps if step.kernel == "prims.chip.dense_backward_weight_few" for at in (0, 2))
    assert filled[0][0] == 0
    assert filled[-1][1] == parts.shape[1] == next(step.reads[0].size for step in plan.steps if step.kernel.endswith("adam_update"))
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(filled))


@pytest.mark.parametrize("outputs", [1, 4, 5, 10, 32, 64, 127, 128])
def test_columns_of_a_weight_on_chip_lie_in_different_banks(outputs):
    width = width_on_chip(outputs)
    assert outputs <= width < outputs + 8
    assert sorted(row * width // 4 % 8 for row in range(8)) == list(range(8))      # of 16 bytes each, which eight threads read at a time


# In the interpreter.

@pytest.mark.parametrize("schedule", ["together", "rising", "falling"])
@pytest.mark.parametrize("tasks", [1, 3])
def test_what_is_brought_is_there_after_it_arrived(tasks, schedule):
    ptx = interpreter()
    from device_rig import code_of

    rng = np.random.default_rng(2)
    x, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((11, 5), (5, 7), (7,)))
    targets, order = rng.integers(0, 9, (11, 2)).astype(np.int32), rng.permutation(11)
    counters = np.array([0, 4, 0, 0, 0, 0, 0, 0])
    device = ptx.PtxDevice(schedule)

    def words(array):
        place = device.allocate(array.nbytes)
        device.write(place, array)
        return [place, *array.shape]
    rows, width = 7, width_on_chip(7)
    own_w, own_b, own_x, own_t = (0, 5, width), (512, 7), (1024, rows, 5), (2048, rows, 2)
    y, y_t, seen = np.zeros((rows, 7), np.float32), np.zeros((rows, 2), np.int32), np.zeros(8, np.int64)
    results = [words(y), words(y_t)]
    given = [*words(order), *words(counters)]
    no_order = [0, 0]
    code = code_of(((
        "prims.chip.bring", "prims.chip.gather_rows", "prims.chip.gather_labels", "prims.chip.arrive", "prims.chip.dense_forward_few@-rww",
        "prims.feed.gather_labels@-r--"),), "float32")
    # The last step reads the task's rows of the labels where they lie, in their order.
    launch = [tasks, *own_w, *own_b, *words(w), *words(b), *own_x, *words(x), *given, *own_t, *words(targets), *given,
              *results[0], *own_x, *own_w, *own_b, *results[1], *own_t, *no_order, *words(seen)]
    ptx.run(device.load(code.ptx), device.memory, tasks, 4096, launch, schedule)
    for (place, *_), array in zip(results, (y, y_t), strict=True):
        device.read(place, array)
    np.testing.assert_allclose(y, x[order[4:]] @ w + b, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(y_t, targets[order[4:]])


NETWORKS = {                                             # network, optimizer, loss, x, y, batch
    "a few rows": lambda: (Sequential([Input((13,)), Dense(37, "leaky_relu", kernel_regularizer="l2"), Dropout(0.3), Dense(128, "gelu"),
                                       Dense(10, "softmax", kernel_regularizer="l1")]), "adam", "sparse_categorical_crossentropy",
                           batches(74, 13), labels(74, 10), 37),
    "tiles of rows": lambda: (Sequential([Input((5,)), Dense(9, "relu"), Dense(7, use_bias=False, kernel_regularizer="l2"),
                                          Dense(6, "tanh", trainable=False), Dense(3, bias_regularizer="l2")]),
                              nnkit.SGD(0.1, momentum=0.9), "mse", batches(1400, 5), batches(1400, 3), 700),
    "parts of a chain": lambda: (Sequential([Input((5,)), Dense(9, "elu", kernel_regularizer=nnkit.L2(1e-2)), nnkit.LayerNormalization(), Dense(6),
                                             Dense(1)]), nnkit.Adam(0.01, global_clipnorm=0.5), "mse", batches(20, 5), batches(20, 1), 10),
}


def trained(name, device, epochs=5):
    """Steps on a device beside the CPU's; both must agree in losses and parameters. Returns all bits that persist."""
    from device_rig import DeviceModel

    spec, optimizer, loss, x, y, batch = NETWORKS[name]()
    model = nnkit.compile(spec, optimizer=optimizer, loss=loss, seed=4)
    twin = DeviceModel(model, device)
    twin.data(x=x, target=y, sample_weight=np.ones((len(x), 1), np.float32), order=np.zeros(len(x), np.int64))
    shuffle, tape = twin.shuffle(), twin.tape("train", batch)
    assert tape.plan.chip_bytes
    losses = twin.train(tape, 2, epochs, shuffle)
    return twin.check_trained(losses, model.fit(x, y, batch_size=batch, epochs=epochs, verbose=0)["loss"], parameters=4e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_train_as_on_the_cpu(name):
    trained(name, interpreter().PtxDevice(watched=True))


def test_the_bits_do_not_depend_on_who_goes_first():
    ptx = interpreter()
    assert len({trained("a few rows", ptx.PtxDevice(schedule), epochs=1) for schedule in ptx.SCHEDULES}) == 1


def test_predictions_come_from_the_chip():
    ptx = interpreter()
    from device_rig import DeviceModel

    model = nnkit.compile(wide_network(33), seed=4)
    x = batches(30, 64)
    twin = DeviceModel(model, ptx.PtxDevice(watched=True))
    twin.data(x=x, predictions=np.zeros((30, 10), np.float32))
    tape = twin.tape("predict", 15)
    assert tape.plan.chip_bytes
    twin.begin_epoch()
    tape.run(2)
    np.testing.assert_allclose(twin.predictions(), model.predict(x), rtol=0, atol=2e-7)     # probabilities


def test_gradients_agree_in_float64():
    ptx = interpreter()
    from device_rig import DeviceModel

    batch = 600
    spec = Sequential([Input((7,)), Dense(33, "tanh"), Dense(12, "softplus"), Dense(1)])
    model = nnkit.compile(spec, optimizer="sgd", loss="mse", seed=4, dtype="float64")
    x, y = batches(batch, 7).astype(np.float64), batches(batch, 1).astype(np.float64)
    twin = DeviceModel(model, ptx.PtxDevice(watched=True))
    twin.data(x=x, target=y, sample_weight=np.ones((batch, 1)))
    tape = twin.tape("gradients", batch)
    assert tape.plan.chip_bytes
    twin.begin_epoch()
    tape.run()
    twin.fetch()
    expected = gradients_of_the_cpu(model, x, y)
    for name, buffer in model.layout.gradients.items():
        np.testing.assert_allclose(twin.fetched.view(buffer), expected[name], rtol=1e-12, atol=1e-15)


def gradients_of_the_cpu(model, x, y):
    """By the network's formula, in NumPy."""
    w1, b1, w2, b2, w3, b3 = (model.parameters[f"dense{layer}/{name}"] for layer in ("", "_1", "_2") for name in ("kernel", "bias"))
    a1 = np.tanh(x @ w1 + b1)
    z2 = a1 @ w2 + b2
    a2 = np.logaddexp(0, z2)
    dz3 = 2 * (a2 @ w3 + b3 - y) / len(x)
    dz2 = dz3 @ w3.T / (1 + np.exp(-z2))
    dz1 = dz2 @ w2.T * (1 - a1 * a1)
    pairs = {"dense": (x, dz1), "dense_1": (a1, dz2), "dense_2": (a2, dz3)}
    return {f"{layer}/{name}": a.T @ dz if name == "kernel" else dz.sum(0) for layer, (a, dz) in pairs.items() for name in ("kernel", "bias")}


def test_the_code_names_where_arrays_lie():
    plan = device_plan(small_network(), 32, optimizer="adam", loss="bce")
    found = {coded(step) for step in plan.steps}
    assert {"prims.chip.bring@ww--", "prims.chip.gather_rows@r---", "prims.chip.dense_forward_few@rrww", "layers.activation.tanh_backward@rrr",
            "losses.crossentropy.binary_crossentropy_logits_forward@-rrr-", "prims.chip.dense_backward_weight_few@-rr",
            "optimizers.rules.adam_update", "prims.chip.arrive"} <= found


# On a device.

@pytest.mark.gpu
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_train_on_a_gpu_as_on_the_cpu_with_the_same_bits_every_time(name, gpu):
    assert len({trained(name, gpu) for _ in range(3)}) == 1
