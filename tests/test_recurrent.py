"""Recurrent layers: blocks of steps, dropout by its effect, several outputs in networks, and what is refused. Values and gradients: the case table;
other libraries: test_parity_recurrent.py; states between batches: test_stateful.py; masks in networks: test_masks.py."""

import numpy as np
import pytest

import nnkit
from helpers import Rig, assert_close, assert_same_bits, debug_mode, parts, refused
from nnkit import (
    GRU,
    LSTM,
    Bidirectional,
    Concatenate,
    Dense,
    Embedding,
    Input,
    Masking,
    Network,
    Sequential,
    SimpleRNN,
    TimeDistributed,
    from_json,
    to_json,
)
from nnkit.prims.recurrent import MOST_STEPS

EXACT = 1e-12                # float64


def random_parameters(network, seed=1):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(declared.shape) * 0.6 / np.sqrt(declared.shape[0]) for name, declared in network.graph().parameters().items()}


# Blocks of steps: prediction keeps a block of at most 64 steps, training all.

@pytest.mark.parametrize(("units", "batch", "dtype"),
                         [(1, 1, "float32"), (3, 9, "float32"), (3, 33, "float64"), (64, 37, "float64"), (49, 7, "float32")])
@pytest.mark.parametrize("masked", [False, True])
def test_prediction_in_blocks_has_the_bits_of_training(units, batch, dtype, masked):
    for T in (1, 7, 8, 9, 63, 64, 65, 127, 128, 129):
        x, starts = Input((T, 1)), [Input((units,)), Input((units,))]
        read = Masking()(x) if masked else x
        ahead = LSTM(units, return_sequences=True, return_state=True)(read, initial_state=starts)
        back = GRU(units, go_backwards=True, reset_after=T % 2 == 0)(read)
        network = Network([x, *starts], [*ahead, back])
        rig = Rig(network, random_parameters(network), batch, dtype=dtype, debug=False)
        rng = np.random.default_rng(T)
        xs = (rng.standard_normal((batch, T, 1)) * (rng.random((batch, T, 1)) < (0.7 if masked else 1)), *rng.standard_normal((2, batch, units)))
        dys = tuple(np.zeros((batch, *shape)) for shape in network.graph().output_shapes)
        for found, expected in zip(rig.predict(xs), rig.run(xs, dys).y, strict=True):
            assert_same_bits(found, expected, f"T={T}")


def test_blocks_of_steps_in_debug_mode():
    """Red zones, NaN and index checks, with more steps than a block has."""
    x = np.random.default_rng(0).standard_normal((9, MOST_STEPS + 3, 2))
    x[3], x[4, :40], x[5, 20:] = 0, 0, 0
    spec = Sequential([Input(x.shape[1:]), Masking(), Bidirectional(LSTM(3, return_sequences=True)), SimpleRNN(2)])
    expected = nnkit.compile(spec, dtype="float64", seed=1).predict(x)
    with debug_mode(True):
        checked = nnkit.compile(spec, loss="mse", dtype="float64", seed=1)
        assert_close(checked.predict(x), expected, EXACT)
        assert all(np.isfinite(gradient).all() for gradient in checked.gradients(x, np.zeros((9, 2))).values())


# Dropout, by its effect.

ROWS, UNITS, RATE = 400, 7, 0.3
KEPT = 1 / (1 - RATE)


def in_training(layer, x, parameters, seed=11):
    """The layer's output in training, in float64."""
    network = Sequential([Input(x.shape[1:]), layer])
    name = network.graph().nodes[1].name
    rig = Rig(network, {f"{name}/{key}": values for key, values in parameters.items()}, len(x), debug=False, seed=seed)
    (y,) = parts(rig.run(x, np.zeros((len(x), *network.graph().output_shapes[0]))).y)
    return y


def assert_is_a_mask(factors):
    """0 or 1 / (1 - rate), of mean 1 within five standard deviations of so many draws, unlike for rows and units."""
    assert {*np.unique(np.round(factors, 9))} == {0, round(KEPT, 9)}
    deviation = np.sqrt(RATE / (1 - RATE) / factors.size)
    assert abs(factors.mean() - 1) < 5 * deviation
    assert len(np.unique(factors, axis=0)) > 80          # of 128 patterns; many rows with one mask would show few


def test_dropout_of_inputs_is_one_mask_for_all_steps():
    """A linear layer without a past gives x times its mask."""
    parameters = {"kernel": np.eye(UNITS), "recurrent_kernel": np.zeros((UNITS, UNITS))}
    layer = SimpleRNN(UNITS, activation="linear", use_bias=False, dropout=RATE, return_sequences=True)
    x = np.ones((ROWS, 5, UNITS))
    y = in_training(layer, x, parameters)
    assert_is_a_mask(y[:, 0])
    for t in range(1, 5):
        np.testing.assert_array_equal(y[:, t], y[:, 0])
    assert (in_training(layer, x, parameters, seed=12) != y).any()
    model = nnkit.compile(Sequential([Input((5, UNITS)), layer]), dtype="float64")
    model.set_parameters({f"simple_rnn/{name}": values for name, values in parameters.items()})
    np.testing.assert_array_equal(model.predict(x), x)


def test_dropout_of_the_state_is_one_mask_for_all_steps():
    """h = x + mask h', x = 1 at the first step alone: powers of the mask."""
    parameters = {"kernel": np.eye(UNITS), "recurrent_kernel": np.eye(UNITS)}
    x = np.zeros((ROWS, 5, UNITS))
    x[:, 0] = 1
    layer = SimpleRNN(UNITS, activation="linear", use_bias=False, recurrent_dropout=RATE, return_sequences=True)
    y = in_training(layer, x, parameters)
    assert_is_a_mask(y[:, 1])
    for t in range(5):
        assert_close(y[:, t], y[:, 1] ** t, EXACT)


@pytest.mark.parametrize(("cls", "gates"), [(LSTM, 4), (GRU, 3)])
def test_dropout_of_the_state_is_one_mask_for_all_gates(cls, gates):
    """Each gate in turn is the only one that reads the state: what it sees of it is dropped at the same places."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((37, 2, UNITS))
    seen = []
    for gate in range(gates):
        recurrent = np.zeros((UNITS, gates * UNITS))
        parameters = {"kernel": rng.standard_normal((UNITS, gates * UNITS)), "recurrent_kernel": recurrent,
                      "bias": np.full((2, gates * UNITS) if cls is GRU else gates * UNITS, 0.2)}
        layer = cls(UNITS, recurrent_dropout=RATE, seed=5, return_sequences=True)
        without = in_training(layer, x, parameters)
        recurrent[:, gate * UNITS:(gate + 1) * UNITS] = np.eye(UNITS)
        seen.append(in_training(layer, x, parameters)[:, 1] != without[:, 1])
    for other in seen[1:]:
        np.testing.assert_array_equal(other, seen[0])
    assert 0.5 < seen[0].mean() < 0.9


def test_a_seed_repeats_the_masks_and_updates_change_them():
    spec = Sequential([Input((4, 3)), LSTM(5, dropout=0.4, recurrent_dropout=0.4), Dense(1)])
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((9, 4, 3)), rng.standard_normal((9, 1))
    model, twin = (nnkit.compile(spec, optimizer=nnkit.SGD(1e-30), loss="mse", seed=2) for _ in range(2))
    losses = [model.train_on_batch(x, y)["loss"] for _ in range(4)]
    assert losses == [twin.train_on_batch(x, y)["loss"] for _ in range(4)]
    assert len({*losses}) == 4
    assert model.evaluate(x, y) == model.evaluate(x, y)


# Several outputs.

WORDS, U = 9, 4


def translator():
    """An encoder, whose states are where a decoder begins."""
    text, before = Input((5,), name="text"), Input((3,), name="before")
    _, *states = LSTM(U, return_state=True, name="encoder")(Embedding(WORDS, 3, mask_zero=True, name="words")(text))
    y = LSTM(U, return_sequences=True, name="decoder")(Embedding(WORDS, 3, name="others")(before), initial_state=states)
    return Network([text, before], TimeDistributed(Dense(WORDS, activation="softmax"), name="next")(y))


def texts(n=40, seed=0):
    """Texts, and the first three words of each turned round; what the decoder is given is shifted by one."""
    x = np.random.default_rng(seed).integers(1, WORDS, (n, 5))
    y = x[:, 2::-1]
    x[::3, 4:] = 0
    return (x, np.concatenate([np.zeros((n, 1), int), y[:, :-1]], axis=1)), y


def test_an_encoder_and_a_decoder_learn_together():
    model = nnkit.compile(translator(), optimizer=nnkit.Adam(0.02), loss="sparse_categorical_crossentropy", metrics=["accuracy"], seed=1)
    x, y = texts()
    history = model.fit(x, y, epochs=60, batch_size=8, verbose=0)
    assert history["loss"][-1] < 0.6 * history["loss"][0]          # measured 0.39, and an accuracy of 0.72, of 0.12 by chance
    assert history["accuracy"][-1] > 0.5
    before = {name: values.copy() for name, values in model.parameters.items()}
    model.train_on_batch(x, y)
    assert all((before[name] != values).any() for name, values in model.parameters.items())        # gradients go through the states


def test_parts_through_states():
    """The encoder's outputs are its last step's and the states; the decoder takes the states alone."""
    model = nnkit.compile(translator(), dtype="float64", seed=1)
    (x, before), _ = texts()
    encoder, decoder = model.submodel(outputs="encoder"), model.submodel(inputs=["encoder", "before"])
    assert [(output.name, output.shape) for output in encoder.outputs] == [("encoder", (U,)), ("encoder_1", (U,)), ("encoder_2", (U,))]
    assert decoder.graph.input_names == ("encoder", "encoder_1", "before")
    y, h, c = encoder.predict(x)
    np.testing.assert_array_equal(y, h)
    expected = model.predict((x, before))
    assert_close(decoder.predict((h, c, before)), expected, EXACT)
    assert_close(decoder.predict({"encoder": h, "encoder_1": c, "before": before}), expected, EXACT)
    steps = model.submodel(outputs=["decoder", "encoder"])
    assert [output.name for output in steps.outputs] == ["decoder", "encoder", "encoder_1", "encoder_2"]
    refused("submodel: no output depends on 'encoder'", model.submodel, inputs=["decoder", "encoder"])


def stateful_outputs():
    x = Input((5, 3), name="x")
    y, h, c, h2, c2 = Bidirectional(LSTM(U, return_state=True, return_sequences=True), name="both")(x)
    z, s = GRU(2 * U, return_state=True, name="top")(y, initial_state=Concatenate(name="bridge")([h, h2]))
    return Network(x, {"cells": Concatenate()([c, c2]), "last": z, "state": s, "ahead": h})


def test_states_as_outputs_of_a_network():
    model = nnkit.compile(stateful_outputs(), optimizer="adam", loss={"ahead": "mse", "state": "mse"}, dtype="float64", seed=1)
    x = np.random.default_rng(0).standard_normal((9, 5, 3))
    found = model.predict(x)
    assert {name: y.shape for name, y in found.items()} == {"cells": (9, 2 * U), "last": (9, 2 * U), "state": (9, 2 * U), "ahead": (9, U)}
    np.testing.assert_array_equal(found["last"], found["state"])
    y = model.submodel(outputs="both").predict(x)[0]
    assert_close(found["ahead"], y[:, -1, :U], EXACT)
    logs = model.train_on_batch(x, {"ahead": np.zeros((9, U)), "state": np.zeros((9, 2 * U))})
    assert list(logs) == ["loss", "state_loss", "ahead_loss"]
    assert logs["loss"] == pytest.approx(logs["ahead_loss"] + logs["state_loss"], rel=1e-12)


@pytest.mark.parametrize("make", [translator, stateful_outputs])
def test_networks_of_states_survive_text(make):
    network = make()
    again = from_json(to_json(network))
    assert again == network
    assert again.graph() == network.graph()
    x = [np.random.default_rng(1).integers(0, 3, (4, *shape)) for shape in network.graph().input_shapes]
    first, second = (nnkit.compile(spec, seed=3).predict(x if len(x) > 1 else x[0]) for spec in (network, again))
    for a, b in zip(*([*found.values()] if isinstance(found, dict) else [found] for found in (first, second)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_summary_shows_all_outputs(capsys):
    nnkit.compile(translator()).summary()
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "(None, 4) (None, 4) (None, 4)" in lines["encoder"]
    assert "(None, 3, 4) " in lines["decoder"]
    assert lines["encoder"].split()[-1] == str(4 * U * (3 + U + 1))


X = Input((5, 3))


def test_several_outputs_where_one_is_needed():
    refused("Sequential: layer 'lstm' has 3 outputs, but the layer behind it takes one", Sequential, [X, LSTM(U, return_state=True), Dense(2)])
    refused("Sequential: layer 'bidirectional' has 2 outputs, but the layer behind it takes one", Sequential,
            [X, Bidirectional(GRU(U), merge_mode=None), Dense(2)])
    assert Sequential([X, GRU(U, return_state=True)]).graph().output_names == ("gru", "gru_1")
    refused("layer 'dense' cannot take input -> lstm and input -> lstm and input -> lstm: it needs 1 input, received 3", Dense(2),
            LSTM(U, return_state=True)(X))
    one = LSTM(U)(X)
    with pytest.raises(TypeError, match=r"^a <Tensor input -> lstm of shape \(4,\)> cannot be unpacked: it is one output of a layer$"):
        _, _, _ = one


# What is refused.

FITS = "linear, tanh, sigmoid, relu, hard_sigmoid, leaky_relu, elu, selu, softplus, softsign, exponential"
S, S3 = Input((U,), name="s"), Input((3,), name="s3")
NONE_FIT = f"must be an activation whose derivative follows from its value ({FITS}), received"


@pytest.mark.parametrize(("make", "message"), [
    (lambda: LSTM(2, activation="gelu"), f"LSTM: activation {NONE_FIT} GELU()"),
    (lambda: GRU(2, recurrent_activation="softmax"), f"GRU: recurrent_activation {NONE_FIT} Softmax()"),
    (lambda: SimpleRNN(2, activation=nnkit.ReLU(max_value=6)), f"SimpleRNN: activation {NONE_FIT} ReLU(max_value=6.0)"),
    (lambda: SimpleRNN(2, activation=nnkit.PReLU()), f"SimpleRNN: activation {NONE_FIT} PReLU()"),
    (lambda: SimpleRNN(0), "SimpleRNN: units must be a whole number at least 1, received 0"),
    (lambda: LSTM(2, dropout=1.0), "LSTM: dropout must be a finite number at least 0 and less than 1, received 1.0"),
    (lambda: GRU(2, recurrent_dropout=-0.1), "GRU: recurrent_dropout must be a finite number at least 0 and less than 1, received -0.1"),
    (lambda: LSTM(2)(Input((0, 3))),
     "layer 'lstm' cannot take input: LSTM must have samples of shape (steps, features), both at least 1, received (0, 3)"),
    (lambda: GRU(2)(Input((4, 0))),
     "layer 'gru' cannot take input: GRU must have samples of shape (steps, features), both at least 1, received (4, 0)"),
    (lambda: SimpleRNN(2)(Input((4,))),
     "layer 'simple_rnn' cannot take input: SimpleRNN must have samples of shape (steps, features), both at least 1, received (4,)"),
    (lambda: SimpleRNN(2)(Input((4, 3, 2))),
     "layer 'simple_rnn' cannot take input: SimpleRNN must have samples of shape (steps, features), both at least 1, received (4, 3, 2)"),
    (lambda: LSTM(U)(X, initial_state=[S, S3]),
     "layer 'lstm' cannot take input and s and s3: LSTM: initial_state must be 2 tensors of shape (4,), received (4,) and (3,)"),
    (lambda: LSTM(U)(X, initial_state=S), "layer 'lstm' cannot take input and s: LSTM: initial_state must be 2 tensors of shape (4,), received (4,)"),
    (lambda: GRU(U)(X, initial_state=[S3]), "layer 'gru' cannot take input and s3: GRU: initial_state must be 1 tensor of shape (4,), received (3,)"),
    (lambda: GRU(U)(X, initial_state=[S, S]), "layer 'gru' cannot take input and s and s: it needs 1 to 2 inputs, received 3"),
    (lambda: Masking()(Input((4,))), "layer 'masking' cannot take input: Masking must have samples of shape (steps, features), received (4,)"),
    (lambda: Masking("0"), "Masking: mask_value must be a finite number, received '0'"),
    (lambda: Bidirectional(Dense(2)), "Bidirectional: layer must be a SimpleRNN, an LSTM or a GRU, received Dense(2)"),
    (lambda: Bidirectional("lstm"), "Bidirectional: layer must be a SimpleRNN, an LSTM or a GRU, received 'lstm'"),
    (lambda: Bidirectional(LSTM(2), backward_layer=Dense(3)),
     "Bidirectional: backward_layer must be a SimpleRNN, an LSTM or a GRU or None, received Dense(3)"),
    (lambda: Bidirectional(LSTM(2), backward_layer=LSTM(2)),
     "Bidirectional: of layer and backward_layer one must have go_backwards, received False for both"),
    (lambda: Bidirectional(LSTM(2), backward_layer=LSTM(3, go_backwards=True)),
     "Bidirectional: units must be the same for layer and backward_layer, received 2 and 3"),
    (lambda: Bidirectional(LSTM(2), backward_layer=LSTM(2, go_backwards=True, return_sequences=True)),
     "Bidirectional: return_sequences must be the same for layer and backward_layer, received False and True"),
    (lambda: Bidirectional(LSTM(2), backward_layer=LSTM(2, go_backwards=True, return_state=True)),
     "Bidirectional: return_state must be the same for layer and backward_layer, received False and True"),
    (lambda: Bidirectional(LSTM(2), backward_layer=LSTM(2, go_backwards=True, stateful=True)),
     "Bidirectional: stateful must be the same for layer and backward_layer, received False and True"),
    (lambda: Bidirectional(LSTM(2), backward_layer=GRU(2, go_backwards=True)),
     "Bidirectional: layer and backward_layer must have as many states, received LSTM(2) and GRU(2, go_backwards=True)"),
    (lambda: Bidirectional(LSTM(2), merge_mode="max"),
     "Bidirectional: merge_mode must be one of 'concat', 'sum', 'mul', 'ave' or None, received 'max'"),
    (lambda: Bidirectional(LSTM(2), merge_mode=["sum"]),
     "Bidirectional: merge_mode must be one of 'concat', 'sum', 'mul', 'ave' or None, received ['sum']"),
    (lambda: Bidirectional(GRU(U))(X, initial_state=S),
     "layer 'bidirectional' cannot take input and s: Bidirectional: initial_state must be of both layers, 2 in all, received 1"),
    (lambda: Bidirectional(GRU(U))(X, initial_state=[S, S3]),
     "layer 'bidirectional' cannot take input and s and s3: GRU: initial_state must be 1 tensor of shape (4,), received (3,)"),
    (lambda: TimeDistributed(Sequential([Input((3,)), Dense(2)])),
     "TimeDistributed: layer must be a layer of one input and one output, received Sequential((Input((3,)), Dense(2)))"),
    (lambda: TimeDistributed(nnkit.Add()), "TimeDistributed: layer must be a layer of one input and one output, received Add()"),
    (lambda: TimeDistributed(LSTM(2, return_state=True)),
     "TimeDistributed: layer must be a layer of one input and one output, received LSTM(2, return_state=True)"),
    (lambda: TimeDistributed(LSTM(2, stateful=True)),
     "TimeDistributed: layer must not be stateful, received LSTM(2, stateful=True): the rows of its batches are steps"),
    (lambda: TimeDistributed(Bidirectional(LSTM(2, stateful=True))),
     "TimeDistributed: layer must not be stateful, received Bidirectional(LSTM(2, stateful=True)): the rows of its batches are steps"),
    (lambda: TimeDistributed(Dense(2))(Input(())),
     "layer 'time_distributed' cannot take input: TimeDistributed must have samples of shape (steps, ...), received ()"),
    (lambda: TimeDistributed(nnkit.Conv1D(2, 3))(Input((3, 5))),
     "layer 'time_distributed' cannot take input: Conv1D needs samples of 2 axes (steps, channels), received samples of shape (5,)"),
    (lambda: Embedding(0, 3), "Embedding: input_dim must be a whole number at least 1, received 0"),
    (lambda: Embedding(3, 2.5), "Embedding: output_dim must be a whole number at least 1, received 2.5"),
    (lambda: Embedding(3, 2, mask_zero=True)(Input(())),
     "layer 'embedding' cannot take input: Embedding: mask_zero needs samples of time steps, received samples of shape ()"),
    (lambda: Sequential([Input((4,)), Dense(3), Embedding(5, 2)]),
     "layer 'embedding' must take whole numbers from an Input, received what layer 'dense' computes"),
    (lambda: Sequential([Input((4,)), Dense(4), nnkit.Reshape((2, 2)), Embedding(5, 2)]),
     "layer 'embedding' must take whole numbers from an Input, received what layer 'dense' computes"),
    (lambda: Network(i := Input((4,)), [Embedding(5, 2)(i), Dense(3)(i)]),
     "input 'input' must hold whole numbers for layer 'embedding' and numbers for layer 'dense': declare two Inputs"),
    (lambda: Network(i := Input((4,), name="i"), [Embedding(5, 2)(i), nnkit.Reshape((2, 2))(i)]),
     "input 'i' must hold whole numbers for layer 'embedding' and numbers for layer 'output': declare two Inputs"),
])
def test_what_cannot_be_declared(make, message):
    refused(message, make)


def test_initial_states_are_tensors():
    rule = "the inputs of GRU must be Inputs or what layers return when they are called on them, received"
    refused(f"{rule} 'zeros'", GRU(U), X, initial_state="zeros", error=TypeError)
    refused(f"{rule} array([0., 0.])", GRU(U), X, initial_state=np.zeros(2), error=TypeError)


RANGE = "x must hold whole numbers from 0 to 8 (indices of an Embedding), received"
UNEQUAL = "x must be a rectangular array, received rows of unequal length: nnkit.datasets.pad_sequences makes sequences equally long"


@pytest.mark.parametrize(("x", "error", "message"), [
    ([[0, 1, 9], [1, 2, 3]], ValueError, f"{RANGE} 9 at position (0, 2)"),
    ([[0, 1, 8], [1, -1, 3]], ValueError, f"{RANGE} -1 at position (1, 1)"),
    ([[0, 1, 2.5], [1, 2, 3]], ValueError, "x must hold whole numbers, received 2.5 at position (0, 2)"),
    ([[0, np.nan, 2], [1, 2, 3]], ValueError, "x must hold whole numbers, received nan at position (0, 1)"),
    ([[0, np.inf, 2], [1, 2, 3]], ValueError, "x must hold whole numbers, received inf at position (0, 1)"),
    ([[0, 2 ** 40, 2], [1, 2, 3]], ValueError, "x must fit int32, received 1099511627776 at position (0, 1)"),
    (np.array([[0, 2 ** 63, 2]], np.uint64), ValueError, "x must fit int32, received 9223372036854775808 at position (0, 1)"),
    ([[0, 1], [1, 2, 3]], ValueError, UNEQUAL),
    (np.array([[0, 1], [1, 2, 3]], object), ValueError, UNEQUAL),
    ([np.array([0, 1]), np.array([2])], ValueError, UNEQUAL),
    ([[1, 2, 3, 4]], ValueError, "x must have shape (samples, 3), received (1, 4)"),
    ([1, 2, 3], ValueError, "x must have shape (samples, 3), received (3,): a single sample needs a leading axis, x[np.newaxis]"),
    (np.zeros((0, 3)), ValueError, "x must hold at least one sample, received shape (0, 3)"),
    (np.zeros((2, 0)), ValueError, "x must have shape (samples, 3), received (2, 0)"),
    ([["a", "b", "c"]], TypeError, "x must hold real numbers, received strings (dtype <U1)"),
])
def test_wrong_token_ids(x, error, message):
    model = nnkit.compile(Sequential([Input((3,)), Embedding(WORDS, 2), GRU(2)]), optimizer="adam", loss="mse")
    refused(message, model.predict, x, error=error)
    refused(message, model.fit, x, np.zeros((len(x), 2)), error=error)
    assert model.predict([[8, 0.0, True]]).shape == (1, 2)


def test_the_smallest_table_limits_the_ids():
    x = Input((3,))
    model = nnkit.compile(Network(x, Concatenate()([Embedding(9, 2)(x), Embedding(5, 2)(x)])))
    refused("x must hold whole numbers from 0 to 4 (indices of an Embedding), received 5 at position (0, 1)", model.predict, [[0, 5, 1]])
