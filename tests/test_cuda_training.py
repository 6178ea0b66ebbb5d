"""Plans for the device: the order of launches, and whole networks trained in the interpreter of PTX beside the CPU."""

import contextlib

import attrs
import numpy as np
import pytest
import scipy.sparse

import nnkit
from nnkit import (
    GAT,
    GIN,
    Add,
    Concatenate,
    Dense,
    Dropout,
    EdgeDot,
    Flatten,
    GraphConv,
    GraphInput,
    GraphSAGE,
    Input,
    Network,
    Reshape,
    Sequential,
)
from nnkit.graph import Adjacency
from nnkit.plan.build import build
from nnkit.plan.builder import Sizes
from nnkit.plan.launch import (
    ARCHITECTURE,
    CLUSTERS,
    MOST_SHARED,
    MOST_WORDS,
    dependences,
    lanes_of,
    regions,
    scratch_bytes,
    shared_bytes,
    step_words,
)
from nnkit.plan.layout import lay_out
from nnkit.plan.passes import optimise
from nnkit.plan.plan import Buffer, Plan, Step
from nnkit.training.data import Data
from nnkit.training.graphs import sizes_of


def device_plan(spec, batch, mode="train", sizes=None, precision="float32", architecture=ARCHITECTURE, **named):
    model = nnkit.compile(spec, **named)
    losses = [(output.loss, output.weight) for output in model.outputs]
    return build(model.graph, model.layout, mode, batch, losses=losses, optimizer=model.optimizer, backend="cuda", sizes=sizes,
                 precision=precision, architecture=architecture)


def small_network():
    return Sequential([Input((20,)), Dense(64, "relu"), Dense(32, "tanh"), Dense(1, "sigmoid")])


# Without a device or an interpreter.

def test_a_training_step_is_three_launches():
    network = Sequential([Input((20,)), Dense(200, "relu"), Dense(32, "tanh"), Dense(1, "sigmoid")])
    lanes = lanes_of(device_plan(network, 32, optimizer="adam", loss="bce"))
    names = [[[step.kernel.rpartition(".")[2] for step in lane] for lane in launch] for launch in lanes]
    assert [len(lane) for lane in names[0]] == [1, 14]               # the counters' copy; forward and backward of the rows
    assert names[1:] == [[["dense_backward_weight"]] * 3 + [["accumulate"], ["advance"]], [["adam_update"]]]
    assert [lane[0].tasks for lane in lanes[0]] == [1, 32]


def test_large_products_go_by_tiles_of_their_own():
    plan = device_plan(Sequential([Input((784,)), Dense(4096, "relu"), Dense(10, "softmax")]), 1024, optimizer="sgd",
                       loss="sparse_categorical_crossentropy")
    found = {step.kernel: step for step in plan.steps}
    assert found["layers.dense.dense_forward_128"].tasks == 8 * 32
    assert found["layers.dense.dense_backward_weight_128"].tasks == 7 * 32
    assert all(len(lane) == 1 for launch in lanes_of(plan) for lane in launch if lane[0].kernel.endswith("_128"))


def digits_network(filters=16):
    return Sequential([Input((8, 8, 1)), nnkit.Conv2D(filters, 3, activation="relu"), nnkit.MaxPooling2D(2),
                       nnkit.Conv2D(2 * filters, 3, activation="relu"), Flatten(), Dense(10, "softmax")])


def test_small_convolutions_join_the_chain():
    lanes = lanes_of(device_plan(digits_network(), 32, optimizer="adam", loss="sparse_categorical_crossentropy"))
    names = [[[step.kernel.rpartition(".")[2] for step in lane] for lane in launch] for launch in lanes]
    assert [len(lane) for lane in names[0]] == [1, 13]               # the counters' copy; forward and backward of the rows, ReLUs fused
    assert names[0][1][1:5] == ["implicit_forward", "max_forward", "implicit_forward", "dense_forward"]
    assert sorted(lane[0] for lane in names[1])[-4:] == ["implicit_weight", "implicit_weight", "sum_chunks", "sum_chunks"]
    assert len(names) == 4                                           # the sums of slices are a launch of their own


def test_large_convolutions_go_by_tiles_and_slices():
    spec = Sequential([Input((56, 56, 64)), nnkit.Conv2D(128, 3, padding="same", algorithm="direct"), nnkit.Conv2D(24, 3, strides=2, padding="same"),
                       nnkit.DepthwiseConv2D(3), nnkit.GlobalAveragePooling2D(), Dense(2)])
    plan = device_plan(spec, 32, optimizer="sgd", loss="mse")
    found = {step.kernel.removeprefix("prims."): step for step in plan.steps}
    assert found["implicit.implicit_forward_128"].tasks == 32 * 56 * 56 // 128
    assert found["implicit.implicit_forward_narrow"].tasks == 4 * 32 * 28 * 28 // 128          # in slices, for which there is room
    assert found["implicit.implicit_input_128"].tasks == 4 * 32 * 28 * 28 // 128
    parts = [step.writes[0].shape[0] for step in plan.steps if "_weight" in step.kernel and "implicit" in step.kernel]
    assert all(1 < slices <= 264 for slices in parts)
    assert not {step.kernel for step in plan.steps} & {"prims.taps.turn", "prims.direct.pack_filters", "prims.matmul.transpose"}


def stacked_network():
    """Convolutions for which Winograd's transforms pay, and one for which they do not."""
    return Sequential([Input((28, 28, 64)), nnkit.Conv2D(128, 3, padding="same", activation="relu"),
                       nnkit.Conv2D(256, 3, padding="same", activation="relu"), nnkit.Conv2D(24, 3), nnkit.GlobalAveragePooling2D(), Dense(2)])


def test_a_large_convolution_is_a_product_of_stacks_where_that_pays():
    plan = device_plan(stacked_network(), 32, optimizer="sgd", loss="mse")
    found = {phase: [step.kernel.removeprefix("prims.stacks.") for step in plan.steps if "stacks" in step.kernel and step.layer == "conv2d_1"
                     and step.phase == phase] for phase in ("forward", "backward")}
    assert found["forward"] == ["factors4", "product_128", "outputs4"]
    assert sorted(found["backward"]) == ["factors4", "outputs4", "product_128", "product_turned_128", "weight4", "weight_factors4"]
    product = next(step for step in plan.steps if step.kernel == "prims.stacks.product_128" and step.layer == "conv2d_1")
    assert [buffer.shape for buffer in product.buffers] == [(36, 32 * 49, 256), (36, 32 * 49, 128), (36, 128, 256)]
    assert product.tasks == 36 * 13 * 2
    assert not [step for step in plan.steps if step.layer == "conv2d_2" and "stacks" in step.kernel]
    assert "layers.activation.relu_forward" not in {step.kernel for step in plan.steps if step.layer.startswith("conv2d")}


@pytest.mark.parametrize("named", [{"precision": "tf32"}, {"dtype": "float64"}])
def test_in_another_precision_it_is_not(named):
    """Tensor cores round factors too much for Winograd's transforms, and float64 asks for all digits."""
    assert not [kernel for kernel in device_plan(stacked_network(), 32, optimizer="sgd", loss="mse", **named).kernels if "stacks" in kernel]


def test_a_normalization_goes_into_the_kernel_that_stacks_are_made_of():
    plan = device_plan(Sequential([Input((28, 28, 64)), nnkit.Conv2D(128, 3), nnkit.BatchNormalization()]), 32, mode="predict", optimizer="sgd",
                       loss="mse")
    steps = {step.kernel.rpartition(".")[2]: step for step in plan.steps}
    assert "batch_norm_normalize" not in steps
    scaled, shift = steps["batch_norm_fold"].writes
    assert steps["factors4"].reads[0].name == scaled.name
    assert steps["outputs4"].reads[1].name == shift.name


@pytest.mark.parametrize(("batch", "rows"), [(64, 64 * 14), (600, 600), (1, 784)])
def test_sweeps_over_few_large_samples_are_cut_finer(batch, rows):
    """28 x 28 places of 256 numbers: 4 x 132 blocks are to have some. Sums of the whole image keep the batch's rows."""
    spec = Sequential([Input((28, 28, 256)), nnkit.BatchNormalization(), nnkit.Activation("gelu"), Dropout(0.1), nnkit.GlobalAveragePooling2D()])
    lanes = [lane for lanes in lanes_of(device_plan(spec, batch, optimizer="sgd", loss="mse")) for lane in lanes]
    swept = ["batch_norm_normalize", "gelu_forward", "dropout_apply"]
    (chain,) = [lane for lane in lanes if lane[0].kernel.endswith("batch_norm_normalize")]
    assert [step.kernel.rpartition(".")[2] for step in chain][:3] == swept
    gathered = next(lane for lane in lanes if lane[0].kernel == "prims.feed.gather_rows")[0]
    assert [(step.rows, step.writes[0].shape) for step in (gathered, *chain[:3])] == [(rows, (rows, batch * 784 * 256 // rows))] * 4


def test_a_recurrent_layer_is_a_walk_between_products():
    spec = Sequential([Input((100, 64)), nnkit.LSTM(256, recurrent_initializer="zeros"), Dense(10)])
    plan = device_plan(spec, 64, optimizer="sgd", loss="mse", architecture=(8, 0))
    names = [[[step.kernel.rpartition(".")[2] for step in lane] for lane in launch] for launch in lanes_of(plan)]
    assert sum(["lstm_walk_forward"] in lanes for lanes in names) == sum(["lstm_walk_backward"] in lanes for lanes in names) == 1
    walk = next(step for step in plan.steps if step.kernel.endswith("lstm_walk_forward"))
    assert walk.tasks == 64 // 4
    assert MOST_SHARED - 16 * 1024 * 4 < scratch_bytes([walk]) <= MOST_SHARED      # what is left is less than a round of rows of R
    found = {step.kernel.rpartition(".")[2] for step in plan.steps}
    assert found >= {"dense_forward_128", "dense_backward_weight_128", "sum_chunks"}


def walks_of(layer, batch=64, dtype="float32", architecture=ARCHITECTURE):
    spec = Sequential([Input((3, 5)), attrs.evolve(layer, kernel_initializer="zeros", recurrent_initializer="zeros"), Dense(1)])
    plan = device_plan(spec, batch, optimizer="sgd", loss="mse", dtype=dtype, architecture=architecture)
    return {step.kernel.rpartition("_")[2]: step for step in plan.steps if "recurrent" in step.kernel and step.kernel.endswith("ward")}


FORMS = [                                                # a block has 163,840 bytes; of LSTM(100), R takes 160,000, h twice 3,200, gradients 6,400
    (nnkit.LSTM(95), "float32", "walk", "walk"), (nnkit.LSTM(100), "float32", "walk", "cluster"), (nnkit.LSTM(104), "float32", "cluster", "cluster"),
    (nnkit.LSTM(256), "float32", "cluster", "cluster"), (nnkit.LSTM(320), "float32", "cluster", "cluster"),
    (nnkit.LSTM(336), "float32", "walk", "walk"), (nnkit.LSTM(256), "float64", "walk", "walk"), (nnkit.LSTM(200), "float64", "cluster", "cluster"),
    (nnkit.GRU(115), "float32", "walk", "cluster"), (nnkit.GRU(352), "float32", "cluster", "cluster"),
    (nnkit.SimpleRNN(190), "float32", "walk", "walk"), (nnkit.SimpleRNN(600), "float32", "cluster", "cluster"),
    (nnkit.GRU(256, reset_after=False), "float32", "walk", "walk"),
]


@pytest.mark.parametrize(("layer", "dtype", "forward", "backward"), FORMS)
def test_a_cluster_walks_where_it_has_room_for_a_recurrent_kernel_and_a_block_has_not(layer, dtype, forward, backward):
    walks, others = walks_of(layer, dtype=dtype), [walks_of(layer, dtype=dtype, architecture=other) for other in ((8, 9), (12, 0))]
    assert [("walk", "cluster")["_cluster_" in walks[way].kernel] for way in ("forward", "backward")] == [forward, backward]
    assert not any("_cluster_" in step.kernel for found in others for step in found.values())


SIZED = {
    "chip": Sequential([Input((128,)), *[Dense(128, "relu", kernel_initializer="zeros")] * 2, Dense(10)]),
    "walk": Sequential([Input((5, 64)), nnkit.LSTM(256, recurrent_initializer="zeros"), Dense(10)]),
    "tiles": Sequential([Input((784,)), *[Dense(2048, "relu", kernel_initializer="zeros")] * 2, Dense(10)]),
    "images": Sequential([Input((28, 28, 64)), nnkit.Conv2D(128, 3, padding="same", kernel_initializer="zeros"), nnkit.GlobalAveragePooling2D()]),
}


@pytest.mark.parametrize("precision", ["float32", "tf32"])
@pytest.mark.parametrize("name", SIZED)
def test_plans_take_no_more_shared_memory_than_the_device_has(name, precision):
    """Kilobytes of a block, as the CUDA programming guide has them."""
    found = {}
    for architecture, kilobytes in (((8, 0), 163), ((8, 6), 99), ((8, 9), 99), ((9, 0), 227), ((10, 0), 227), ((12, 0), 99)):
        plan = device_plan(SIZED[name], 64, optimizer="sgd", loss="mse", precision=precision, architecture=architecture)
        found[architecture] = max(shared_bytes(plan, lanes) for lanes in lanes_of(plan))
        assert found[architecture] <= kilobytes * 1024
    if name in ("chip", "walk"):
        assert found[8, 0] > 99 * 1024


def test_units_that_do_not_fit_on_chip_are_refused():
    spec = Sequential([Input((2, 3)), nnkit.LSTM(3000, kernel_initializer="zeros", recurrent_initializer="zeros")])
    with pytest.raises(ValueError, match=r"^layer 'lstm': 3000 units in float32 take 192016 bytes of shared memory, a block of a GPU has 163840$"):
        device_plan(spec, 2, optimizer="sgd", loss="mse")


def test_the_backend_changes_no_plan_of_the_cpu():
    model = nnkit.compile(digits_network(), optimizer="adam", loss="sparse_categorical_crossentropy")
    plan = build(model.graph, model.layout, "train", 32, losses=[(output.loss, output.weight) for output in model.outputs], optimizer=model.optimizer)
    assert not [step.kernel for step in plan.steps if "implicit" in step.kernel or "channels_" in step.kernel]


def graph_sizes(even):
    """Of a graph that convolutional_graph takes; even: whether blocks may take rows."""
    entries = {"x": 5000, "x1/symmetric_loops": 2000, "x1/row_loops": 2000}
    return Sizes(300, tuple(entries.items()), tuple(f"{name}{side}" for name in entries for side in ("", "/transposed")) if even else ())


PLANS = {
    "small": lambda: device_plan(small_network(), 32, optimizer="adam", loss="bce"),
    "deep": lambda: device_plan(Sequential([Input((8,)), *[Dense(8, "relu")] * 40, Dense(2)]), 5, optimizer="sgd", loss="mse"),
    "wide": lambda: device_plan(Sequential([Input((300,)), Dense(1000, "elu"), Dense(500, "selu"), Dense(3)]), 256, optimizer="rmsprop", loss="mse"),
    "predict": lambda: device_plan(small_network(), 7, mode="predict"),
    "normalized": lambda: device_plan(normalized_network(), 32, optimizer=nnkit.Adam(clipnorm=1), loss="bce"),
    "images": lambda: device_plan(image_network(), 12, optimizer="adam", loss="sparse_categorical_crossentropy"),
    "convolutions": lambda: device_plan(residual_network(), 8, optimizer="adam", loss="sparse_categorical_crossentropy"),
    "large convolutions": lambda: device_plan(digits_network(64), 512, optimizer="adam", loss="sparse_categorical_crossentropy"),
    "graph": lambda: device_plan(convolutional_graph(), 300, sizes=graph_sizes(even=False), optimizer="adam", loss="sparse_categorical_crossentropy"),
    "even graph": lambda: device_plan(convolutional_graph(), 300, sizes=graph_sizes(even=True), optimizer="adam",
                                      loss="sparse_categorical_crossentropy"),
    "attention": lambda: device_plan(attentive_graph(), 300, sizes=Sizes(300, (("x1/plain_loops", 2000), ("x1/plain", 1700))), optimizer="adam",
                                     loss="sparse_categorical_crossentropy"),
    "stacks": lambda: device_plan(stacked_network(), 32, optimizer="adam", loss="mse"),
    "slices": lambda: device_plan(Sequential([Input((7, 7, 512)), nnkit.Conv2D(512, 3, padding="same", activation="relu"),
                                              nnkit.Conv2D(512, 3, strides=2, activation="relu"), Flatten(), Dense(2048, "relu"), Dense(2)]), 4,
                                  precision="tf32", optimizer="adam", loss="mse"),
    "recurrent": lambda: device_plan(recurrent_network(), 7, optimizer="adam", loss="sparse_categorical_crossentropy"),
    "two ways": lambda: device_plan(two_way_network(), 64, optimizer="adam", loss="sparse_categorical_crossentropy"),
    "long sequences": lambda: device_plan(Sequential([Input((10_000, 8)), nnkit.LSTM(256, recurrent_initializer="zeros"), Dense(2)]), 64,
                                           optimizer="adam", loss="mse"),
    "few large images": lambda: device_plan(Sequential([Input((64, 64, 8)), nnkit.MaxPooling2D(2), nnkit.UpSampling2D(2), nnkit.GlobalMaxPooling2D(),
                                                        Dense(2)]), 4, optimizer="adam", loss="mse"),
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
        written = {region[:2] for step in steps for region in regions(step.writes + step.updates, plan)}
        gathered = {region[:2] for step in steps for region in regions([step.reads[position] for position in step.gathers], plan)}
        assert not written & gathered
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


def test_what_follows_a_product_with_a_sparse_matrix_goes_on_in_its_launch():
    """Even rows: a training step of a graph convolutional network is eight launches. Else products are cut along the walk, and joined in the next."""
    def kernels(plan):
        return [[[step.kernel.rpartition(".")[2] for step in lane] for lane in lanes] for lanes in lanes_of(plan)]
    even, uneven = kernels(PLANS["even graph"]()), kernels(PLANS["graph"]())
    assert len(even) == 8
    assert [lane for lanes in even for lane in lanes if "product" in lane] == [
        ["product"],                                     # X W
        ["product", "relu_forward", "dropout_apply", "dense_forward"],
        ["product", "sparse_categorical_crossentropy_logits_forward", "sparse_categorical_crossentropy_logits_backward"],
        ["product", "dense_backward_input_whole", "relu_dropout_backward"],
        ["product"], ["product"]]                        # of A^T, of X^T
    assert even[-1] == [["add_penalty_gradient_within", "adam_update"]]
    assert [lane for lanes in uneven for lane in lanes if "csr_join" in lane][1:4] == [
        ["csr_join", *lane[1:]] for lanes in even for lane in lanes if "product" in lane and len(lane) > 1]


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
    losses = device.train(device.tape("train", 32), 2, epochs, device.shuffle())
    device.check_trained(losses, model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)["loss"], parameters=2e-6)


def normalized_network():
    return Sequential([Input((20,)), Dense(33, use_bias=False), nnkit.BatchNormalization(), nnkit.Activation("relu"), Dropout(0.3),
                       Dense(7, nnkit.PReLU(alpha_initializer=nnkit.initializers.Constant(0.2))), nnkit.LayerNormalization(),
                       Dense(1, "sigmoid", kernel_regularizer=nnkit.L1L2(l1=1e-3, l2=1e-2))])


def image_network():
    """All that a network on images has but the convolution; the channels are in two places."""
    x = Input((8, 6, 3))
    h = nnkit.BatchNormalization()(nnkit.ZeroPadding2D(((0, 1), (1, 0)))(x))
    largest = nnkit.MaxPooling2D(3, strides=2)(h)
    mean = nnkit.AveragePooling2D(3, strides=2)(nnkit.SpatialDropout2D(0.4)(nnkit.GaussianNoise(0.2)(h)))
    h = Add()([nnkit.Multiply()([largest, mean]), Dense(3)(largest)])
    h = nnkit.BatchNormalization(axis=1)(nnkit.UpSampling2D(2, interpolation="bilinear")(nnkit.Maximum()([h, mean])))
    h = nnkit.PReLU(shared_axes=(1, 2))(nnkit.Cropping2D(1)(h))
    ends = [nnkit.GlobalMaxPooling2D()(h), Flatten()(nnkit.MaxPooling2D(2)(h)), nnkit.GlobalAveragePooling2D()(nnkit.UpSampling2D(2)(h))]
    return Network(x, Dense(4, "softmax")(nnkit.LayerNormalization()(Concatenate()(ends))))


def variational_network():
    x = Input((4, 5))
    h = Dense(9, "tanh", activity_regularizer=nnkit.L2(1e-3))(Flatten()(x))
    z = nnkit.Sampling(beta=0.1)([Dense(3)(h), Dense(3)(h)])
    return Network(x, Reshape((4, 5))(Dense(20)(nnkit.Subtract()([Dense(9, "relu")(z), nnkit.Average()([h, Dense(9)(z)])]))))


def masked_network():
    """Steps that count for nothing in the loss."""
    return Sequential([Input((5, 3)), nnkit.Masking(), Dense(4, "tanh"), Dense(2)])


def masked_steps(samples):
    x = batches(samples, 5, 3)
    x[:, 3:] = 0
    x[0, 3, 1] = 1
    return x


def word_network():
    """A table so large that the CPU goes through it row by row; the mean over the steps that are not padding."""
    return Sequential([Input((6,)), nnkit.Embedding(1100, 15, mask_zero=True), nnkit.GlobalAveragePooling1D(), Dense(4, "softmax")])


def words(samples):
    found = np.random.default_rng(3).integers(1, 1100, (samples, 6))
    found[:, 4:] = 0
    found[1, :4] = 7
    return found.astype(np.int32)


def signed_data(samples):
    x, y = small_data(samples)
    return x, 2 * y - 1


def labels(samples, classes=4):
    return np.random.default_rng(5).integers(0, classes, (samples, 1)).astype(np.int32)


def batches(samples, *shape):
    return np.random.default_rng(3).standard_normal((samples, *shape)).astype(np.float32)


def convolutional_network():
    return Sequential([Input((8, 8, 1)), nnkit.Conv2D(6, 3, activation="relu"), nnkit.MaxPooling2D(2), nnkit.Conv2D(5, 2, activation="relu"),
                       Flatten(), Dense(4, "softmax")])


def residual_network():
    """A block whose way past has a stride, groups and channels by themselves behind it; a transposed convolution at the end."""
    x = Input((7, 6, 3))
    h = nnkit.BatchNormalization()(nnkit.Conv2D(6, 3, strides=2, padding="same", use_bias=False)(x))
    h = nnkit.BatchNormalization()(nnkit.Conv2D(6, 3, padding="same", groups=2)(nnkit.Activation("relu")(h)))
    past = nnkit.BatchNormalization()(nnkit.Conv2D(6, 1, strides=2, use_bias=False)(x))
    h = nnkit.Activation("relu")(Add()([h, past]))
    h = nnkit.DepthwiseConv2D(3, padding="same", activation="relu")(h)
    h = nnkit.SeparableConv2D(4, 2, dilation_rate=2, padding="same", depth_multiplier=2, activation="relu")(h)
    h = nnkit.Conv2DTranspose(5, 3, strides=2, padding="same", activation="relu")(h)
    return Network(x, Dense(4, "softmax")(nnkit.GlobalAveragePooling2D()(h)))


def winograd_network():
    """Stacks of matrices; a normalization that goes into a kernel in prediction."""
    return Sequential([Input((5, 6, 2)), nnkit.Conv2D(4, 3, padding="same", algorithm="winograd4", activation="relu"),
                       nnkit.Conv2D(3, 3, algorithm="winograd4", use_bias=False), nnkit.BatchNormalization(), Flatten(), Dense(4, "softmax")])


def volume_network():
    return Sequential([Input((5, 6, 4, 2)), nnkit.Conv3D(4, (2, 3, 2), activation="relu"), nnkit.MaxPooling3D((1, 2, 1)),
                       nnkit.Conv3D(3, 2, strides=(2, 1, 1), padding="same", kernel_regularizer=nnkit.L2(1e-3)), Flatten(), Dense(4, "softmax")])


def recurrent_network():
    """Words that are padding, in the middle, too; a mask that goes through layers; dropout of states; all forms of cells."""
    x = Input((6,))
    h = nnkit.Embedding(30, 5, mask_zero=True)(x)
    h = nnkit.SimpleRNN(7, return_sequences=True, recurrent_dropout=0.2)(h)
    h = nnkit.LSTM(6, return_sequences=True, recurrent_dropout=0.3, dropout=0.1)(h)
    h = nnkit.GRU(5, return_sequences=True, go_backwards=True)(h)
    return Network(x, Dense(4, "softmax")(nnkit.GRU(3, reset_after=False, recurrent_dropout=0.2)(h)))


def padded_network():
    """The same with one cell."""
    return Sequential([Input((6,)), nnkit.Embedding(30, 5, mask_zero=True), nnkit.GRU(3, recurrent_dropout=0.2), Dense(4, "softmax")])


def two_way_network():
    """Both directions side by side in launches; then a layer for each step, and states that a further layer begins with."""
    x = Input((5, 3))
    h = nnkit.TimeDistributed(Dense(4, "relu"))(nnkit.Bidirectional(nnkit.LSTM(3, return_sequences=True))(x))
    _, state = nnkit.GRU(4, return_state=True, return_sequences=True)(h)
    return Network(x, Dense(4, "softmax")(nnkit.SimpleRNN(4, activation="softsign")(h, initial_state=state)))


def stateful_network():
    """A state that goes on from batch to batch."""
    return Sequential([Input((4, 3), batch_size=6), nnkit.LSTM(5, stateful=True), Dense(4, "softmax")])


def clustered_network():
    """Cells whose recurrent kernels clusters share where a block has little memory: masks, dropout of states, states that are given and given on."""
    x = Input((4,))
    h = nnkit.Embedding(30, 3, mask_zero=True)(x)
    h, state, _ = nnkit.LSTM(9, return_sequences=True, return_state=True, recurrent_dropout=0.2)(h)
    h = nnkit.GRU(9, return_sequences=True, go_backwards=True)(h, initial_state=state)
    return Network(x, Dense(4, "softmax")(nnkit.SimpleRNN(11, activation="softsign")(h)))


def short_words(samples):
    found = words(samples) % 29 + 1
    found[:, 4:] = 0
    found[0], found[1, 2], found[2, :3] = 0, 0, 0
    return found.astype(np.int32)


LONG = ("recurrent", "two ways")                         # a minute each


TRAINED = {
    "recurrent": lambda: (recurrent_network(), "adam", "sparse_categorical_crossentropy", short_words(10), labels(10)),
    "two ways": lambda: (two_way_network(), nnkit.SGD(0.1), "sparse_categorical_crossentropy", batches(10, 5, 3), labels(10)),
    "padded": lambda: (padded_network(), "adam", "sparse_categorical_crossentropy", short_words(10), labels(10)),
    "stateful": lambda: (stateful_network(), "adam", "sparse_categorical_crossentropy", batches(12, 4, 3), labels(12)),
    "normalized": lambda: (normalized_network(), nnkit.Adam(0.01, clipnorm=0.5), "bce", *small_data(24)),
    "clipped by value": lambda: (small_network(), nnkit.SGD(0.1, momentum=0.9, clipvalue=0.01), "hinge", *signed_data(24)),
    "clipped together": lambda: (small_network(), nnkit.RMSprop(0.01, global_clipnorm=0.1), "squared_hinge", *signed_data(24)),
    "images": lambda: (image_network(), "adam", "sparse_categorical_crossentropy", batches(12, 8, 6, 3), labels(12)),
    "convolutional": lambda: (convolutional_network(), "adam", "sparse_categorical_crossentropy", batches(12, 8, 8, 1), labels(12)),
    "residual": lambda: (residual_network(), nnkit.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy", batches(8, 7, 6, 3), labels(8)),
    "winograd": lambda: (winograd_network(), nnkit.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy", batches(6, 5, 6, 2), labels(6)),
    "volumes": lambda: (volume_network(), "adam", "sparse_categorical_crossentropy", batches(6, 5, 6, 4, 2), labels(6)),
    "masked": lambda: (masked_network(), nnkit.SGD(0.1, momentum=0.9), "mse", masked_steps(8), batches(8, 5, 2)),
    "words": lambda: (word_network(), nnkit.Adam(0.01, row_updates="dense"), "sparse_categorical_crossentropy", words(8), labels(8)),
    "variational": lambda: (variational_network(), "adam", "mse", batches(14, 4, 5), batches(14, 4, 5)),
}


CLUSTERED = {
    "clusters": lambda: (clustered_network(), "adam", "sparse_categorical_crossentropy", short_words(10)[:, :4].copy(), labels(10)),
    "a cluster": lambda: (Sequential([Input((3, 3)), nnkit.Masking(), nnkit.LSTM(9, recurrent_dropout=0.2), Dense(4, "softmax")]), nnkit.SGD(0.1),
                          "sparse_categorical_crossentropy", masked_steps(10)[:, 2:].copy(), labels(10)),
}


def little_shared_memory(monkeypatch):
    """A block has so little that clusters share what small layers have, too."""
    monkeypatch.setattr("nnkit.prims.walk.most_shared", lambda architecture: 256)


def train_beside_the_cpu(name, on):
    """Ten steps on a device and on the CPU: moving averages, masks, noise and penalties among what must agree. Then both evaluate and predict, where
    layers do something else then. Returns what the device has then of all that persists."""
    from device_rig import DeviceModel

    spec, optimizer, loss, x, y = (TRAINED | CLUSTERED)[name]()
    samples, epochs = len(x), 5
    model = nnkit.compile(spec, optimizer=optimizer, loss=loss, seed=4)
    device = DeviceModel(model, on)
    width = int(np.prod(model.output_shape))
    device.data(x=x.reshape(samples, -1), target=y.reshape(samples, -1), sample_weight=np.ones((samples, 1), np.float32),
                order=np.arange(samples), predictions=np.zeros((samples, width), np.float32))
    shuffled = not model.graph.stateful
    tape = device.tape("train", samples // 2)
    if name in CLUSTERED:
        assert not any("_walk_" in step.kernel for step in tape.plan.steps)
    losses = device.train(tape, 2, epochs, device.shuffle() if shuffled else None)
    history = model.fit(x, y, batch_size=samples // 2, epochs=epochs, shuffle=shuffled, verbose=0)
    kept = device.check_trained(losses, history["loss"], parameters=1e-4)
    if name in ("normalized", "variational", "residual", "winograd"):
        device.begin_epoch(0)
        device.tape("evaluate", samples // 2).run(2)
        assert device.loss() == pytest.approx(model.evaluate(x, y, batch_size=samples // 2)["loss"], rel=1e-4)
        device.begin_epoch(0)
        device.tape("predict", samples // 2).run(2)
        np.testing.assert_allclose(device.predictions(), model.predict(x).reshape(samples, width), rtol=0, atol=1e-4)
    return kept


NODES = 21


def neighbours(seed=7):
    """Edges of a small graph: a node that all others see, one without neighbours, the others at random."""
    rng = np.random.default_rng(seed)
    edges = np.triu(rng.uniform(0, 1, (NODES, NODES)) < 0.15, 1)
    edges[3] = True
    edges = edges | edges.T
    edges[5] = edges[:, 5] = False
    return edges


def convolutional_graph():
    """Sparse features, more entries than a chunk of the device's; dropout, a penalty; some of the nodes count."""
    x, a = Input((40,), sparse=True), GraphInput()
    h = GraphConv(19, "relu", dropout=0.3, kernel_regularizer="l2")([x, a])
    return Network([x, a], GraphConv(4, "softmax", normalization="row", dropout=0.2)([h, a]))


def attentive_graph():
    """Heads side by side, then their mean; dropout of the attention; sums of neighbours with a weight that is learnt."""
    x, a = Input((7,)), GraphInput()
    h = GAT(5, "elu", heads=3, attention_dropout=0.3)([x, a])
    h = GIN(6, hidden_units=(5,), train_eps=True)([h, a])
    return Network([x, a], GAT(4, "softmax", heads=2, concat=False)([h, a]))


def pooled_graphs():
    """Means and largest of neighbours, then of whole graphs."""
    x, a = Input((7,)), GraphInput()
    h = GraphSAGE(9, "relu", aggregator="max")([x, a])
    h = GraphSAGE(5, "relu", dropout=0.2)([h, a])
    ends = [nnkit.GlobalGraphPooling(pooling)([h, a]) for pooling in ("mean", "max")]
    return Network([x, a], Dense(4, "softmax")(Concatenate()(ends)))


def graph_before_layers():
    """Products of Dense behind that with the adjacency: they go on chip."""
    x, a = Input((7,)), GraphInput()
    h = GraphConv(9, "relu")([x, a])
    h = Dense(11, "tanh")(Dense(6, "elu")(h))
    return Network([x, a], GraphConv(4, "softmax")([h, a]))


def linked_graph():
    """How likely edges are, from the nodes' embeddings."""
    x, a, pairs = Input((7,)), GraphInput(), Input((2,))
    return Network([x, a, pairs], EdgeDot()([GraphConv(6)([x, a]), pairs]))


def features(sparse=False):
    x = np.random.default_rng(3).standard_normal((NODES, 40 if sparse else 7))
    return scipy.sparse.csr_matrix(np.where(np.abs(x) > 0.4, x, 0)) if sparse else x


def graph_inputs(segments=None):
    graph = Adjacency.of(neighbours().astype(float))
    return [features(), graph if segments is None else attrs.evolve(graph, segments=np.array(segments))]


ON_GRAPHS = {
    "convolutional": lambda: (convolutional_graph(), "sparse_categorical_crossentropy", [features(True), neighbours().astype(float)], labels(NODES),
                              np.arange(NODES) % 3 > 0),
    "before layers": lambda: (graph_before_layers(), "sparse_categorical_crossentropy", graph_inputs(), labels(NODES), None),
    "attentive": lambda: (attentive_graph(), "sparse_categorical_crossentropy", graph_inputs(), labels(NODES), None),
    "pooled": lambda: (pooled_graphs(), "sparse_categorical_crossentropy", graph_inputs((0, 8, 8, 20, 21)), labels(4), None),
    "linked": lambda: (linked_graph(), nnkit.BinaryCrossentropy(from_logits=True),
                       [*graph_inputs(), np.random.default_rng(2).integers(0, NODES, (30, 2))], labels(30, 2), None),
}


def test_on_a_gpu_tables_are_updated_as_a_whole():
    by_row, swept = (nnkit.compile(word_network(), optimizer=nnkit.Adam(row_updates=how), loss="mse") for how in ("closed", "dense"))
    assert by_row.layout.rowwise == ("embedding/embeddings",)
    assert lay_out(by_row.graph, by_row.optimizer, "float32", "cuda") == swept.layout


def graph_plan(name):
    """The plan of a training step of one of these networks."""
    spec, loss, x, y, mask = ON_GRAPHS[name]()
    model = nnkit.compile(spec, optimizer=nnkit.Adam(0.01), loss=loss)
    given = Data.of(x, y, model.graph, model.outputs, "float32", mask=mask)
    losses = [(output.loss, output.weight) for output in model.outputs]
    return build(model.graph, model.layout, "train", len(y), losses=losses, optimizer=model.optimizer, backend="cuda",
                 sizes=sizes_of(given.inputs, evenness=True))


def train_a_graph_beside_the_cpu(name, on, even=True):
    """Ten steps on a device and on the CPU, all nodes in one batch; then one predicts. Returns what the device has then of all that persists.
    even: whether plans are told that the matrices are even."""
    from device_rig import DeviceModel

    spec, loss, x, y, mask = ON_GRAPHS[name]()
    model = nnkit.compile(spec, optimizer=nnkit.Adam(0.01), loss=loss, seed=4)
    given = Data.of(x, y, model.graph, model.outputs, "float32", mask=mask)
    device = DeviceModel(model, on)
    width = int(np.prod(model.output_shape))
    device.data(**given.arrays, predictions=np.zeros((len(y), width), np.float32))
    sizes = sizes_of(given.inputs, evenness=True)
    assert len(sizes.even) == 2 * len(sizes.entries)
    sizes = sizes if even else attrs.evolve(sizes, even=())
    losses = device.train(device.tape("train", len(y), sizes=sizes), 1, 10)
    kept = device.check_trained(losses, model.fit(x, y, epochs=10, mask=mask, verbose=0)["loss"], parameters=1e-4)
    if name == "convolutional":
        device.begin_epoch(0)
        device.tape("predict", len(y), sizes=sizes).run(1)
        np.testing.assert_allclose(device.predictions(), model.predict(x).reshape(len(y), width), rtol=0, atol=1e-4)
    return kept


@pytest.mark.parametrize(("name", "even"), [*((name, True) for name in ON_GRAPHS), ("convolutional", False)])
def test_networks_on_graphs_train_ten_steps_as_on_the_cpu(name, even):
    train_a_graph_beside_the_cpu(name, interpreter().PtxDevice(watched=True), even)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.sweep) if name in LONG else name for name in TRAINED])
def test_networks_train_ten_steps_as_on_the_cpu(name):
    train_beside_the_cpu(name, interpreter().PtxDevice(watched=True))


@pytest.mark.parametrize("name", [pytest.param("clusters", marks=pytest.mark.sweep), "a cluster"])
def test_networks_whose_walks_are_clusters_train_as_on_the_cpu(name, monkeypatch):
    little_shared_memory(monkeypatch)
    train_beside_the_cpu(name, interpreter().PtxDevice(watched=True))


def test_convolutions_by_tiles_train_as_on_the_cpu():
    """Those too large for the chain: two steps."""
    ptx = interpreter()
    from device_rig import DeviceModel

    spec = Sequential([Input((12, 11, 2)), nnkit.Conv2D(8, 1), nnkit.Conv2D(40, 5, padding="same", activation="relu"), nnkit.GlobalMaxPooling2D(),
                       Dense(4, "softmax")])
    x, y = batches(6, 12, 11, 2), labels(6)
    model = nnkit.compile(spec, optimizer="adam", loss="sparse_categorical_crossentropy", seed=4)
    device = DeviceModel(model, ptx.PtxDevice(watched=True))
    device.data(x=x.reshape(6, -1), target=y, sample_weight=np.ones((6, 1), np.float32), order=np.zeros(6, np.int64))
    tape = device.tape("train", 3)
    kernels = {step.kernel.rpartition(".")[2] for step in tape.plan.steps}
    assert kernels >= {"implicit_forward_64", "implicit_input_narrow", "implicit_weight_64"}
    losses = device.train(tape, 2, 1, device.shuffle())
    device.check_trained(losses, model.fit(x, y, batch_size=3, epochs=1, verbose=0)["loss"], parameters=1e-4)


def test_a_device_predicts_and_evaluates_as_the_cpu():
    ptx = interpreter()
    from device_rig import DeviceModel

    x, y = small_data(14)
    model = nnkit.compile(small_network(), optimizer="adam", loss="bce", seed=4)
    device = DeviceModel(model, ptx.PtxDevice(watched=True))
    device.data(x=x, target=y, sample_weight=np.ones((14, 1), np.float32), predictions=np.zeros((14, 1), np.float32))
    device.begin_epoch(0)
    device.tape("evaluate", 7).run(2)
    assert device.loss() == pytest.approx(model.evaluate(x, y)["loss"], rel=1e-6)
    device.begin_epoch(0)
    device.tape("predict", 7).run(2)
    np.testing.assert_allclose(device.predictions(), model.predict(x), rtol=2e-6)


def test_a_kernel_without_a_cuda_form_is_named():
    interpreter()
    from nnkit import cuda_jit

    with pytest.raises(ValueError, match=r"^there is no CUDA kernel 'prims.winograd.transform' yet$"):
        cuda_jit.find("prims.winograd.transform")


def test_without_a_gpu_the_driver_says_so_in_one_sentence():
    pytest.importorskip("cuda.bindings", reason="needs nnkit[cuda]")
    from nnkit.runtime import driver

    with contextlib.suppress(RuntimeError):
        driver.device()
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match=r"^backend 'cuda' needs an NVIDIA GPU and its driver, found none \("):
        driver.device()


@pytest.mark.gpu
def test_a_gpu_trains_as_the_cpu_with_the_same_bits_every_time(gpu):
    from device_rig import DeviceModel

    x, y = small_data(256)
    model = nnkit.compile(small_network(), optimizer="adam", loss="bce", seed=4)
    seen = set()
    for _ in range(5):
        trained = DeviceModel(model, gpu)
        trained.data(x=x, target=y, sample_weight=np.ones((256, 1), np.float32), order=np.zeros(256, np.int64))
        losses = trained.train(trained.tape("train", 32), 8, 3, trained.shuffle())
        seen.add(trained.bits())
    assert len(seen) == 1
    np.testing.assert_allclose(losses, model.fit(x, y, batch_size=32, epochs=3, verbose=0)["loss"], rtol=2e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("name", TRAINED)
def test_networks_train_on_a_gpu_as_on_the_cpu_with_the_same_bits_every_time(name, gpu):
    assert len({train_beside_the_cpu(name, gpu) for _ in range(3)}) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("name", CLUSTERED)
def test_clusters_train_on_a_gpu_as_on_the_cpu_with_the_same_bits_every_time(name, gpu, monkeypatch):
    if gpu.architecture[0] not in CLUSTERS:
        pytest.skip("this GPU has no clusters")
    little_shared_memory(monkeypatch)
    assert len({train_beside_the_cpu(name, gpu) for _ in range(3)}) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("name", ON_GRAPHS)
def test_networks_on_graphs_train_on_a_gpu_as_on_the_cpu_with_the_same_bits_every_time(name, gpu):
    assert len({train_a_graph_beside_the_cpu(name, gpu) for _ in range(3)}) == 1
