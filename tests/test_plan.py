"""The plan: passes, liveness, what it prints."""

import re

import attrs
import pytest

import nnkit
from nnkit import Adam, Add, Dense, Input, Network, Sequential
from nnkit.plan import passes
from nnkit.plan.arena import in_arena, lives
from nnkit.plan.build import build
from nnkit.plan.layout import lay_out
from nnkit.plan.plan import Buffer, Plan, Step


def plan_of(layers, mode="train", batch=32, loss="binary_crossentropy", **options):
    graph = Sequential(layers).graph()
    optimizer = Adam()
    layout = lay_out(graph, optimizer, "float32")
    return build(graph, layout, mode, batch, losses=[(nnkit.spec.resolve("loss", loss), 1.0)], optimizer=optimizer, **options)


def kernels(plan):
    return [step.kernel.rpartition(".")[2] for step in plan.steps]


CLASSIFIER = [Input((20,)), Dense(64, activation="relu"), Dense(32, activation="tanh"), Dense(1, activation="sigmoid")]


def test_sigmoid_and_cross_entropy_fuse():
    names = kernels(plan_of(CLASSIFIER))
    assert "binary_crossentropy_logits_forward" in names
    assert "binary_crossentropy_logits_backward" in names
    assert not any(name.startswith("sigmoid") for name in names)


def test_the_sigmoid_stays_where_predictions_are_kept():
    names = kernels(plan_of(CLASSIFIER, keep_predictions=True))
    assert "sigmoid_forward" in names
    assert "sigmoid_backward" not in names
    assert "binary_crossentropy_logits_backward" in names


def test_another_loss_does_not_fuse():
    names = kernels(plan_of(CLASSIFIER, loss="mse"))
    assert "sigmoid_forward" in names
    assert "sigmoid_backward" in names


def test_the_gradient_of_the_input_is_dropped_unless_asked_for():
    first = [step for step in plan_of(CLASSIFIER).steps if step.layer == "dense"]
    assert not any(step.kernel.endswith("dense_backward_input") for step in first)
    asked = plan_of(CLASSIFIER, mode="gradients", input_gradients=True)
    assert [buffer.shape for buffer in asked.outputs] == [(32, 20)]
    assert any(step.kernel.endswith("dense_backward_input") for step in asked.steps if step.layer == "dense")


def test_frozen_layers_have_no_gradient_steps():
    layers = [Input((5,)), Dense(4, activation="relu", trainable=False), Dense(3, trainable=False), Dense(1)]
    backward = [step.layer for step in plan_of(layers, loss="mse").steps if step.phase == "backward"]
    assert set(backward) == {"loss", "dense_2"}


def test_a_frozen_layer_between_passes_the_gradient_on():
    layers = [Input((5,)), Dense(4), Dense(3, trainable=False), Dense(1)]
    steps = [(step.layer, step.kernel.rpartition(".")[2]) for step in plan_of(layers, loss="mse").steps if step.phase == "backward"]
    assert ("dense_1", "dense_backward_input") in steps
    assert ("dense_1", "dense_backward_weight") not in steps
    assert ("dense", "dense_backward_weight") in steps


def test_prediction_keeps_only_forward_steps():
    plan = plan_of(CLASSIFIER, mode="predict")
    assert {step.phase for step in plan.steps} == {"forward"}
    assert kernels(plan)[-2:] == ["scatter", "advance"]


def test_every_buffer_is_written_before_it_is_read():
    for mode in ("train", "gradients", "evaluate", "predict"):
        plan = plan_of(CLASSIFIER, mode=mode)
        written = set()
        for step in plan.steps:
            for buffer in step.reads + step.updates:
                if buffer.name in plan.offsets or plan.storage(buffer.name) in plan.offsets:
                    assert buffer.name in written, (mode, step.kernel, buffer.name)
            written.update(buffer.name for buffer in step.writes)


def check_no_overlap(plan):
    """Buffers that share bytes are never alive in the same group: from the first that touches them to the last, outputs to the end."""
    groups = {name: [] for name in plan.offsets}
    for group, (start, stop) in enumerate(plan.group_bounds()):
        for step in plan.steps[start:stop]:
            for buffer in step.buffers:
                groups.get(plan.storage(buffer.name), []).append(group)
    for buffer in plan.outputs:
        groups.get(plan.storage(buffer.name), []).append(len(plan.groups) - 1)
    life = {name: (min(touched), max(touched)) for name, touched in groups.items()}
    assert lives(plan) == life
    sizes = {}
    for buffer in plan.buffers.values():
        name = plan.storage(buffer.name)
        sizes[name] = max(sizes.get(name, 0), buffer.nbytes)
    names = sorted(plan.offsets)
    for i, a in enumerate(names):
        for b in names[i + 1:]:
            apart = life[a][1] < life[b][0] or life[b][1] < life[a][0]
            disjoint = plan.offsets[a] + sizes[a] <= plan.offsets[b] or plan.offsets[b] + sizes[b] <= plan.offsets[a]
            assert apart or disjoint, (a, b)
    assert all(offset % 64 == 0 for offset in plan.offsets.values())
    assert plan.arena_bytes <= plan.separate_bytes


def test_live_buffers_never_overlap_and_sharing_saves(monkeypatch):
    monkeypatch.setattr(passes, "TASK_FLOPS", 1000)      # many groups, so that lives end
    deep = [Input((50,)), *[Dense(50, activation="relu") for _ in range(8)], Dense(1, activation="sigmoid")]
    for mode in ("train", "predict", "evaluate"):
        plan = plan_of(deep, mode=mode, batch=200)
        check_no_overlap(plan)
    x = Input((50,))
    branches = [Dense(50, activation="relu")(Dense(50, activation="relu")(x)) for _ in range(3)]
    graph = Network(x, Dense(1)(Add()(branches))).graph()
    plan = build(graph, lay_out(graph, None, "float32"), "gradients", 200, losses=[(nnkit.losses.MeanSquaredError(), 1.0)], input_gradients=True)
    check_no_overlap(plan)                               # the output, a gradient that is a sum, is touched by several groups
    # Prediction of a deep chain needs two buffers at a time, in whatever groups; training needs all activations.
    assert plan_of(deep, mode="train", batch=200).arena_bytes < plan_of(deep, mode="train", batch=200).separate_bytes


def test_activations_run_in_place():
    plan = plan_of(CLASSIFIER, mode="predict")
    assert plan.storage("dense/relu") == plan.storage("dense/y") == "dense/y"


def test_in_place_is_refused_where_the_input_is_read_later():
    x, y, z = (Buffer(name, (4, 4), "float32", "activation") for name in "xyz")
    out = Buffer("out", (0, 4), "float32", "external")
    first = Step("k.a", "", "forward", writes=(x,))
    second = Step("k.b", "", "forward", writes=(y,), reads=(x,), in_place=True)
    third = Step("k.c", "", "forward", writes=(z,), reads=(y, x), in_place=True)
    last = Step("k.d", "", "forward", writes=(out,), reads=(z,))
    plan = passes.in_place(Plan("predict", 4, "float32", (first, second, third, last)))
    assert plan.shared == {"z": "y"}


def test_the_number_of_tasks_depends_on_shapes_and_groups_are_split_alike():
    plan = plan_of([Input((784,)), Dense(1024, activation="relu"), Dense(1024, activation="relu"), Dense(1, activation="sigmoid")], batch=256)
    assert max(step.tasks for step in plan.steps) > 1
    for start, stop in plan.group_bounds():
        assert len({step.tasks for step in plan.steps[start:stop]}) == 1
        if plan.steps[start].tasks > 1 and stop - start > 1:
            assert all(step.rows == 256 for step in plan.steps[start:stop])
    assert max(step.tasks for step in plan_of(CLASSIFIER).steps) == 1


def test_a_plan_prints_its_steps_bytes_and_graph():
    plan = plan_of(CLASSIFIER)
    text = str(plan)
    for word in ("layers.dense.dense_forward", "dense/kernel[20x64]", "optimizers.rules.adam_update", "in place of dense/y", f"{plan.flops:,}",
                 f"{plan.arena_bytes:,} bytes"):
        assert word in text
    graph = plan.to_dot()
    assert graph.startswith("digraph plan {")
    assert graph.count("[label=\"dense_forward") == 3
    assert graph.rstrip().endswith("}")


def test_a_plan_prints_every_array_and_where_it_lies():
    """Scratch memory, too; a dash stands for an array that is not there, which has no bytes and no place."""
    reader = [Input((7,)), nnkit.Embedding(11, 5, mask_zero=True), nnkit.LSTM(3), Dense(1, activation="sigmoid", use_bias=False)]
    images = [Input((9, 8, 2)), nnkit.Conv2D(4, 3, activation="relu"), nnkit.MaxPooling2D(2), nnkit.BatchNormalization(), nnkit.Flatten(), Dense(1)]
    for layers in (CLASSIFIER, reader, images):
        plan = plan_of(layers, loss="mse")
        lines = str(plan).splitlines()[2:-1]
        for step, line in zip(plan.steps, lines, strict=True):
            words = line.split()
            for buffer in step.buffers:
                if buffer.size:
                    assert any(word.startswith(f"{buffer.name}[") for word in words)
                else:
                    assert buffer.role == "external" or "-" in words
            places = [f"{plan.offsets[plan.storage(buffer.name)]:#x}" for buffer in step.writes + step.scratch if buffer.size and in_arena(buffer)]
            assert [word for word in words if word.startswith("0x")] == places
        assert "[0" not in "".join(lines)


def test_the_graph_of_a_plan_knows_who_writes_what():
    """Of the LSTM's arguments some are not there: they bear the name of its input, which the Embedding writes."""
    plan = plan_of([Input((7,)), nnkit.Embedding(11, 5), nnkit.LSTM(3), Dense(1)], loss="mse")
    writer = next(index for index, step in enumerate(plan.steps) if step.kernel.endswith("embedding_forward"))
    edges = re.findall(r"s(\d+) -> s(\d+) \[label=\"embedding/y\[", plan.to_dot())
    assert {int(start) for start, _ in edges} == {writer}
    assert {plan.steps[int(stop)].kernel.rpartition(".")[2] for _, stop in edges} == {"lstm_forward", "recurrent_weight"}


def test_a_view_of_another_size_is_refused():
    with pytest.raises(ValueError, match="buffer x of shape \\(4, 4\\) cannot be seen with shape \\(5, 3\\): the sizes differ"):
        Buffer("x", (4, 4), "float32", "activation").reshaped(5, 3)


def test_plans_are_frozen():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        plan_of(CLASSIFIER).batch = 3


def test_a_deep_residual_network_shares_its_memory():
    """50 blocks h + W2 relu(W1 h): what backward keeps is one activation of each layer; the gradients live briefly and share."""
    x = Input((8,))
    h = Dense(8)(x)
    for _ in range(50):
        h = nnkit.Add()([h, Dense(8)(Dense(8, activation="relu")(h))])
    model = nnkit.compile(nnkit.Network(x, Dense(3, activation="softmax")(h)), optimizer="adam", loss="sparse_categorical_crossentropy")
    plan = model.build_plan("train", 128)
    assert plan.arena_bytes <= 0.6 * plan.separate_bytes
    assert sum(step.kernel.endswith("sum_of_two") and step.phase == "backward" for step in plan.steps) == 50


def step_of(kernel, writes=(), reads=(), **fields):
    return Step(kernel, "layer", "forward", tuple(writes), reads=tuple(reads), **fields)


def test_hoist_moves_what_depends_on_parameters_alone():
    """It goes before the row-local run that it would part; not past a step that writes the parameter, and nothing else moves."""
    w, v = (Buffer(name, (8,), "float32", "parameter") for name in "wv")
    a, b, c, p, q, r = (Buffer(name, (8,), "float32", "activation") for name in "abcpqr")
    steps = [step_of("serial", [a], [a]), step_of("rows1", [b], [a], rows=8), step_of("pack w", [p], [w]), step_of("rows2", [c], [b, p], rows=8),
             Step("moves v", "layer", "forward", updates=(v,), reads=(c,), rows=8), step_of("pack v", [q], [v]), step_of("of a", [r], [a])]
    moved = passes.hoist(Plan(mode="predict", batch=8, dtype="float32", steps=tuple(steps)))
    assert [step.kernel for step in moved.steps] == ["serial", "pack w", "rows1", "rows2", "moves v", "pack v", "of a"]


@pytest.mark.parametrize(("worth", "tasks"), [(0, 1), (1, 1), (2, 2), (3, 2), (5, 4), (7, 6), (8, 8), (11, 8), (13, 12), (31, 28), (99, 32)])
def test_threads_share_tasks_evenly(worth, tasks):
    assert passes.work_tasks(worth * passes.TASK_FLOPS, 0, most=100) == tasks
