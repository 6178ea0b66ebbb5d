"""Frozen layers, learning rates of single layers, and the frozen beginning of a network computed once."""

import os

import attrs
import numpy as np
import pytest

import nnkit
from helpers import assert_same_bits, refused
from nnkit import (
    LSTM,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    Add,
    BatchNormalization,
    Bidirectional,
    Conv2D,
    Dense,
    Dropout,
    EarlyStopping,
    Embedding,
    ExponentialDecay,
    Flatten,
    GaussianNoise,
    GraphConv,
    GraphInput,
    Input,
    LambdaCallback,
    MaxPooling2D,
    Nadam,
    Network,
    RMSprop,
    Sequential,
    TimeDistributed,
)

IMAGES = Sequential([
    Input((8, 8, 2)), Conv2D(5, 3, activation="relu", name="c1"), BatchNormalization(name="bn"), MaxPooling2D(2), Conv2D(4, 2, name="c2"),
    Flatten(), Dropout(0.3), Dense(7, "relu", name="d1"), Dropout(0.2), Dense(3, "softmax", name="out"),
])
BASE = ("c1", "bn", "c2")


def images(n=48, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((n, 8, 8, 2), dtype=np.float32), rng.integers(0, 3, n)


def compiled(spec=IMAGES, optimizer="adam", loss="sparse_categorical_crossentropy", **options):
    return nnkit.compile(spec, optimizer=optimizer, loss=loss, seed=5, **options)


def frozen(spec, names):
    """The spec with trainable=False at these layers."""
    return Sequential([attrs.evolve(layer, trainable=layer.name not in names) for layer in spec.layers])


def values(model):
    return {name: array.copy() for name, array in model.parameters.items()}


def states(model):
    return {(state, name): model.memory.view(model.layout.piece(f"optimizer/{state}", name)).copy()
            for state in model.optimizer.states() for name in model.layout.gradients}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert_same_bits(found[name], array)


# Freezing.

def test_a_model_frozen_later_is_one_declared_so():
    x, y = images()
    declared, later = compiled(frozen(IMAGES, BASE)), compiled()
    later.freeze(*BASE)
    assert later.spec == declared.spec
    histories = [model.fit(x, y, epochs=3, batch_size=16, verbose=0) for model in (declared, later)]
    assert_same(values(later), values(declared))
    assert list(histories[0]["loss"]) == list(histories[1]["loss"])


def test_frozen_parameters_and_moving_averages_stay():
    x, y = images()
    model = compiled()
    model.fit(x, y, verbose=0)
    before = values(model)
    model.freeze("c?", "bn")
    model.fit(x, y, epochs=2, verbose=0)
    after = values(model)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {"d1/kernel", "d1/bias", "out/kernel", "out/bias"}
    assert {"bn/moving_mean", "bn/moving_variance"} <= before.keys() - moved


def test_the_plan_has_no_step_for_what_is_frozen():
    model = compiled()
    before = model.plan
    model.freeze(*BASE)
    after = model.plan
    assert {"c1", "bn", "c2"} <= {step.layer for step in before.steps if step.phase == "backward"}
    assert {step.layer for step in after.steps if step.phase == "backward"} == {"out", "d1", "loss"}       # through dropout with the ReLU
    assert "batch_norm_inference" in str(after)          # moving averages, not those of the batch
    assert "batch_norm_moments" in str(before)
    assert "batch_norm_moments" not in str(after)
    assert [step.updates[0].size for step in after.steps if step.kernel.endswith("adam_update")] == [model.layout.trainable_size]
    assert model.layout.trainable_size * 4 == model.layout.buffers["optimizer/velocity"].nbytes < model.layout.buffers["parameters"].nbytes
    assert after.flops < before.flops


def test_the_others_go_on_with_their_states():
    x, y = images()
    model = compiled(optimizer=Adam(0.01))
    model.fit(x, y, epochs=2, verbose=0)
    held, before = model.parameters["d1/kernel"], states(model)
    model.freeze("c1")
    after = states(model)
    assert {name for _, name in before.keys() - after.keys()} == {"c1/kernel", "c1/bias"}
    assert_same(after, {key: before[key] for key in after})
    model.unfreeze("c1")
    again = states(model)
    assert again.keys() == before.keys()
    assert_same({key: again[key] for key in after}, after)
    assert all(not again[key].any() for key in again.keys() - after.keys())
    assert held is model.parameters["d1/kernel"]         # views stay what they are
    old = held.copy()
    model.fit(x, y, verbose=0)
    assert not np.array_equal(held, old)


def test_freezing_nothing_new_changes_nothing():
    x, y = images()
    one, other = compiled(), compiled()
    for model in (one, other):
        model.fit(x, y, verbose=0)
    other.unfreeze()
    other.freeze("max_pooling2d", "dropout")             # layers without parameters
    for model in (one, other):
        model.fit(x, y, verbose=0)
    assert_same(values(other), values(one))
    assert other.spec == IMAGES


def test_all_frozen_and_trained_again():
    x, y = images()
    model = compiled()
    model.freeze()
    before = values(model)
    assert model.fit(x, y, verbose=0)["loss"][0] > 0
    assert_same(values(model), before)
    model.unfreeze()
    assert model.spec == IMAGES
    model.fit(x, y, verbose=0)
    assert not np.array_equal(model.parameters["out/bias"], before["out/bias"])


def nested():
    base = Sequential([Input((4,)), Dense(5, "relu", name="low"), Dense(6, "relu", name="high")], name="base")
    return Sequential([Input((4,)), base, Dense(3, name="low"), Dense(2, name="top")])


@pytest.mark.parametrize(("patterns", "expected"), [
    (["base"], {"base/low", "base/high"}), (["base/low"], {"base/low"}), (["low"], {"base/low", "low"}), (["base/*"], {"base/low", "base/high"}),
    (["l*"], {"base/low", "low"}), (["top", "high"], {"top", "base/high"}), ([], {"base/low", "base/high", "low", "top"}), (["?op"], {"top"}),
])
def test_what_a_name_means(patterns, expected):
    model = nnkit.compile(nested())
    model.freeze(*patterns)
    assert {node.name for node in model.graph.nodes if not node.layer.trainable} == expected
    assert nnkit.from_json(nnkit.to_json(model.spec)) == model.spec


def test_a_layer_of_a_frozen_network_is_trained_again():
    spec = nested()
    whole = Sequential([spec.layers[0], attrs.evolve(spec.layers[1], trainable=False), *spec.layers[2:]])
    model = nnkit.compile(whole)
    model.unfreeze("high")
    assert {node.name for node in model.graph.nodes if not node.layer.trainable} == {"input", "base/low"} - {"input"}
    assert repr(model.spec.layer("base")) == (
        "Sequential((Input((4,)), Dense(5, activation=ReLU(), name='low', trainable=False), Dense(6, activation=ReLU(), name='high')), name='base')")


def test_networks_declared_by_calls():
    x = Input((4,))
    shared = Dense(4, name="shared")
    spec = Network(x, {"a": Dense(2, name="head")(shared(shared(x)))})
    model = nnkit.compile(spec, optimizer="sgd", loss="mse")
    model.freeze("shared")
    assert eval(repr(model.spec), vars(nnkit)) == model.spec
    assert set(model.layout.gradients) == {"head/kernel", "head/bias"}
    assert model.spec.output_names == ("a",)


def test_a_submodel_made_before_still_shares_the_memory():
    x, y = images()
    model = compiled()
    part = model.submodel(outputs="d1")
    model.freeze(*BASE)
    model.fit(x, y, epochs=2, verbose=0)
    np.testing.assert_array_equal(part.predict(x), model.submodel(outputs="d1").predict(x))
    with pytest.raises(RuntimeError) as error:
        part.freeze("c1")
    assert str(error.value) == "freeze: a submodel is not trained by itself: change the whole model"


def test_an_unknown_layer():
    model = compiled()
    with pytest.raises(ValueError) as error:             # noqa: PT011
        model.freeze("c1", "block1_*")
    assert str(error.value).startswith("no layer is named 'block1_*': ")
    assert model.spec == IMAGES


def test_what_names_no_layers():
    model = compiled()
    for call in (model.freeze, model.unfreeze):
        refused("layers must be names or patterns, one after the other, received ['c1', 'c2']", call, ["c1", "c2"], error=TypeError)
    refused("set_learning_rate_factors: factors must be a dict of numbers by layer, received a list", model.set_learning_rate_factors, ["c1"],
            error=TypeError)
    assert model.spec == IMAGES


def test_a_callback_thaws_layers_between_epochs():
    x, y = images()
    model, alone = compiled(frozen(IMAGES, BASE)), compiled(frozen(IMAGES, BASE))
    thaw = LambdaCallback(on_epoch_end=lambda epoch, logs: model.unfreeze("c2") if epoch == 0 else None)
    model.fit(x, y, epochs=3, batch_size=16, verbose=0, callbacks=thaw)
    alone.fit(x, y, epochs=1, batch_size=16, verbose=0)
    alone.unfreeze("c2")
    alone.fit(x, y, epochs=3, initial_epoch=1, batch_size=16, verbose=0)
    assert_same(values(model), values(alone))


def test_not_within_an_epoch():
    x, y = images()
    model = compiled()
    with pytest.raises(RuntimeError) as error:
        model.fit(x, y, verbose=0, callbacks=LambdaCallback(on_train_batch_end=lambda batch, logs: model.freeze("c1")))
    assert str(error.value) == "freeze: not within an epoch; a callback may do it in on_epoch_begin or on_epoch_end"
    model.freeze("c1")                                   # the fit is over


def test_a_frozen_table_and_one_that_learns_again():
    """Rows that wait for updates are brought up to date before, and nothing is owed to a table for the time that it was frozen."""
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 2000, (64, 5)), rng.random((64, 1), dtype=np.float32)
    spec = Sequential([Input((5,)), Embedding(2000, 16, name="table"), Flatten(), Dense(1)])
    found = []
    for updates in ("closed", "replay", "dense"):
        model = compiled(spec, Adam(0.01, row_updates=updates), "mse")
        model.fit(x, y, epochs=2, verbose=0)
        model.freeze("table")
        assert model.layout.rowwise == ()
        before = model.parameters["table/embeddings"].copy()
        model.fit(x[:20], y[:20], epochs=3, verbose=0)
        assert_same_bits(model.parameters["table/embeddings"], before)
        model.unfreeze("table")
        assert bool(model.layout.rowwise) == (updates != "dense")
        model.fit(x[20:], y[20:], epochs=2, batch_size=7, verbose=0)
        found.append(values(model))
    assert_same(found[1], found[2])
    for name, array in found[0].items():
        np.testing.assert_allclose(array, found[2][name], rtol=1e-4, atol=1e-6)      # the closed form rounds otherwise than 30 updates


# Learning rates of single layers.

OPTIMIZERS = [SGD(0.1), SGD(0.1, momentum=0.9), SGD(0.1, momentum=0.9, nesterov=True), Adagrad(0.1), RMSprop(0.1), RMSprop(0.1, momentum=0.5),
              RMSprop(0.1, centered=True), RMSprop(0.1, centered=True, momentum=0.5), Adam(0.1), Adam(0.1, amsgrad=True), AdamW(0.1), Adadelta(0.1),
              Nadam(0.1), Adam(0.1, weight_decay=0.01, clipnorm=0.1), SGD(ExponentialDecay(0.1, 3, 0.5))]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=[f"{position}-{type(optimizer).__name__}" for position, optimizer in enumerate(OPTIMIZERS)])
def test_a_factor_is_another_learning_rate(optimizer):
    """Half of the rate for one layer and the whole for the others are, layer by layer, two optimizers; 0.5 is exact, so the bits agree."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((12, 3)), rng.standard_normal((12, 2))
    rate = optimizer.learning_rate
    half = attrs.evolve(optimizer, learning_rate=attrs.evolve(rate, initial_learning_rate=0.05) if not isinstance(rate, float) else 0.05)
    spec = Sequential([Input((3,)), Dense(4, name="a"), Dense(3, name="b", learning_rate_factor=0.5), Dense(2, name="c")])
    mixed, whole, halved = (compiled(spec if own is None else Sequential([attrs.evolve(layer, learning_rate_factor=1.0) for layer in spec.layers]),
                                     own or optimizer, "mse", dtype="float64") for own in (None, optimizer, half))
    for model in (whole, halved):
        model.set_parameters(values(mixed))
    for model in (mixed, whole, halved):
        model.train_on_batch(x, y)
    for name, array in mixed.parameters.items():
        assert_same_bits(array, (halved if name.startswith("b/") else whole).parameters[name])
    assert [run.factor for run in mixed.layout.runs] == [1.0, 0.5, 1.0]


def test_factors_of_nested_networks_multiply_and_can_be_set():
    spec = nested()
    base = attrs.evolve(spec.layers[1], learning_rate_factor=0.5)
    spec = Sequential([spec.layers[0], base, attrs.evolve(spec.layers[2], learning_rate_factor=3), spec.layers[3]])
    model = compiled(spec, "sgd", "mse")

    def factors():
        return {name: declared.learning_rate_factor for name, declared in model.graph.parameters().items() if name.endswith("bias")}

    assert factors() == {"base/low/bias": 0.5, "base/high/bias": 0.5, "low/bias": 3.0, "top/bias": 1.0}
    model.set_learning_rate_factors({"*": 0.25, "high": 2})
    assert factors() == {"base/low/bias": 0.25, "base/high/bias": 2.0, "low/bias": 0.25, "top/bias": 0.25}
    assert eval(repr(model.spec), vars(nnkit)) == model.spec


@pytest.mark.parametrize("factor", [0, -1.0, np.inf, np.nan, "1", None, True])
def test_what_is_no_factor(factor):
    with pytest.raises(ValueError) as error:             # noqa: PT011
        Dense(3, learning_rate_factor=factor)
    received = 0.0 if factor == 0 else factor
    assert str(error.value) == f"Dense: learning_rate_factor must be a finite number greater than 0, received {received!r}"


def test_a_table_with_a_factor_is_updated_as_a_whole():
    spec = Sequential([Input((5,)), Embedding(2000, 16, learning_rate_factor=0.5), Flatten(), Dense(1)])
    assert compiled(spec, "adam", "mse").layout.rowwise == ()


def test_an_optimizer_that_begins_anew():
    x, y = images()
    model, fresh = compiled(optimizer=Adam(0.01)), compiled(optimizer=Adam(0.01))
    model.fit(x, y, epochs=2, verbose=0)
    model.learning_rate = 0.5
    model.reset_optimizer()
    fresh.set_parameters(values(model))
    assert model.learning_rate == 0.01
    for each in (model, fresh):
        each.train_on_batch(x[:8], y[:8])                # dropout is drawn by the number of the update, which is 0 for both
    assert_same(values(model), values(fresh))


# The frozen beginning, computed once.

def both_ways(spec, x, y, freeze=(), cache=True, loss="sparse_categorical_crossentropy", dtype="float32", metrics=("accuracy",), **fit):
    """Train with and without the cache; the same bits are expected. Returns the cached model."""
    models = []
    for cached in (False, cache):
        model = nnkit.compile(spec, optimizer="adam", loss=loss, metrics=list(metrics), seed=7, dtype=dtype)
        if freeze:
            model.freeze(*freeze)
        history = model.fit(x, y, **{"verbose": 0, "epochs": 3, "batch_size": 16, "cache_frozen": cached, **fit})
        models.append((model, history, values(model)))
    assert_same(models[1][2], models[0][2])
    assert {key: list(found) for key, found in models[1][1].items()} == {key: list(found) for key, found in models[0][1].items()}
    return models[1][0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cached_is_the_same_bit_for_bit(dtype):
    x, y = images()
    both_ways(IMAGES, x, y, BASE, validation_data=images(20, 1), dtype=dtype)


def test_cached_in_files(tmp_path, capsys):
    x, y = images()
    model = compiled()
    model.freeze(*BASE)
    seen = []
    look = LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append({os.path.getsize(file) for file in tmp_path.glob("*/*.npy")}))
    model.fit(x, y, epochs=2, verbose=2, cache_frozen=tmp_path, callbacks=look, validation_data=images(20, 1))
    assert capsys.readouterr().out.startswith("computing flatten for 68 samples, 0.0 MB in files\nepoch 1/2: ")
    assert seen == [{128 + 48 * 16 * 4, 128 + 20 * 16 * 4}] * 2         # a header and (samples, 16) numbers
    assert list(tmp_path.iterdir()) == []
    both_ways(IMAGES, x, y, BASE, cache=tmp_path)


def test_cached_with_weights_and_the_best_epoch_restored():
    x, y = images()
    weights = np.random.default_rng(3).random(48)
    stop = EarlyStopping(patience=2, restore_best_weights=True)
    both_ways(IMAGES, x, y, BASE, sample_weight=weights, class_weight={1: 2.0}, validation_split=1 / 3, callbacks=stop, epochs=8)


def test_the_cache_ends_where_something_is_random_or_learns():
    """Noise in front of the frozen layers leaves nothing to cache; a batch normalization that learns ends it, also where it has no gamma and beta."""
    x, y = images()
    noisy = Sequential([Input((8, 8, 2)), GaussianNoise(0.1), *IMAGES.layers[1:]])
    with pytest.raises(ValueError) as error:             # noqa: PT011
        both_ways(noisy, x, y, BASE)
    assert str(error.value) == "fit: cache_frozen needs layers at the network's beginning that are frozen, received none: see freeze"
    plain = Sequential([*IMAGES.layers[:2], BatchNormalization(scale=False, center=False, name="bn"), *IMAGES.layers[3:]])
    both_ways(plain, x, y, ("c1", "c2"))


def test_a_cache_with_several_places_and_an_input_itself():
    """The head takes two outputs of the base, one input that the base takes, too, and one that it does not; it has two losses."""
    rng = np.random.default_rng(4)
    a, b = Input((6,), name="a"), Input((3,), name="b")
    low = Dense(6, "tanh", name="low", trainable=False)(a)
    high = Dense(6, "tanh", name="high", trainable=False)(low)
    joined = Add()([high, low, a])
    inner = Add()([Dense(6, name="side")(b), joined, Dense(6, name="skip")(a), Dense(6, name="near")(low)])
    spec = Network([a, b], {"one": Dense(2, name="top")(inner), "two": Dense(1, name="far")(high)})
    x = (rng.standard_normal((32, 6)), rng.standard_normal((32, 3)))
    y = {"one": rng.standard_normal((32, 2)), "two": rng.standard_normal((32, 1))}
    both_ways(spec, x, y, loss="mse", metrics=(), shuffle=False)


def test_an_output_that_is_frozen_itself():
    rng = np.random.default_rng(5)
    a = Input((6,))
    low = Dense(6, "tanh", name="low", trainable=False)(a)
    spec = Network(a, {"fixed": low, "free": Dense(2, name="top")(low)})
    y = {"fixed": rng.standard_normal((32, 6)), "free": rng.standard_normal((32, 2))}
    both_ways(spec, rng.standard_normal((32, 6)), y, loss="mse", metrics=())


def test_masks_do_not_get_lost():
    """The table gives a mask to the LSTM, which the cache could not keep: it begins behind the LSTM, or not at all."""
    rng = np.random.default_rng(6)
    x, y = rng.integers(0, 9, (32, 7)), rng.integers(0, 3, 32)
    layers = [Input((7,)), Embedding(9, 4, mask_zero=True, name="table"), LSTM(5, name="lstm"), Dense(4, name="d"), Dense(3, "softmax", name="out")]
    both_ways(Sequential(layers), x, y, ("table", "lstm"))
    with pytest.raises(ValueError) as error:             # noqa: PT011
        both_ways(Sequential(layers), x, y, ("table",))
    assert "received none" in str(error.value)


def test_what_cannot_be_cached(tmp_path):
    x, y = images()
    model = compiled(frozen(IMAGES, BASE))
    before = values(model)
    refused = [
        (lambda: model.fit([(x, y)], cache_frozen=True), "fit: cache_frozen needs arrays x and y, received batches"),
        (lambda: model.fit(x, y, cache_frozen=os.path.join(tmp_path, "no")),
         f"fit: cache_frozen must be True, False or a folder that exists, received {os.path.join(tmp_path, 'no')!r}"),
        (lambda: model.fit(x, y, cache_frozen=3), "fit: cache_frozen must be True, False or a folder that exists, received 3"),
        (lambda: compiled().fit(x, y, cache_frozen=True),
         "fit: cache_frozen needs layers at the network's beginning that are frozen, received none: see freeze"),
    ]
    for action, message in refused:
        with pytest.raises(ValueError) as error:         # noqa: PT011
            action()
        assert str(error.value) == message
    assert_same(values(model), before)
    nodes, graph = Input((3,)), GraphInput()
    spec = Network([nodes, graph], Dense(1)(GraphConv(2, trainable=False)([nodes, graph])))
    with pytest.raises(ValueError) as error:             # noqa: PT011
        nnkit.compile(spec, optimizer="sgd", loss="mse").fit((np.eye(3), np.eye(3)), np.zeros((3, 1)), cache_frozen=True)
    assert str(error.value) == "fit: cache_frozen cannot keep what is computed on a graph: all of it is one batch"


def test_what_is_cached_must_stay_frozen():
    x, y = images()
    model = compiled(frozen(IMAGES, BASE))
    with pytest.raises(RuntimeError) as error:
        model.fit(x, y, verbose=0, cache_frozen=True, callbacks=LambdaCallback(on_epoch_end=lambda epoch, logs: model.unfreeze("c2")))
    assert str(error.value) == "unfreeze: the fit has cached what is frozen (cache_frozen), so that must stay as it is until it ends"


# Layers in layers.

def test_what_a_wrapper_holds_is_frozen_by_either_flag():
    """Of Bidirectional one way alone; of TimeDistributed the layer, or all of it: then its batch normalization uses moving averages, too."""
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal((16, 5, 3)), rng.standard_normal((16, 5, 2))
    forward = LSTM(4, return_sequences=True, trainable=False)
    spec = Sequential([Input((5, 3)), Bidirectional(forward, backward_layer=attrs.evolve(forward, go_backwards=True, trainable=True)),
                       TimeDistributed(BatchNormalization(trainable=False), name="inner"), TimeDistributed(BatchNormalization(), trainable=False),
                       TimeDistributed(Dense(2, learning_rate_factor=0.5), learning_rate_factor=0.5, name="end")])
    model = compiled(spec, "adam", "mse")
    before = values(model)
    model.fit(x, y, epochs=2, verbose=0)
    moved = {name for name, array in values(model).items() if not np.array_equal(array, before[name])}
    assert moved == {"end/kernel", "end/bias", *(f"bidirectional/backward_lstm/{name}" for name in ("kernel", "recurrent_kernel", "bias"))}
    assert {run.factor for run in model.layout.runs} == {1.0, 0.25}
