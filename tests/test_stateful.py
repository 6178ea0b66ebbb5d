"""Stateful layers: a long sequence in pieces gives the numbers of one pass; what continues a state and what does not; truncated backpropagation."""

import numpy as np
import pytest

import nnkit
from helpers import assert_close, refused
from nnkit import GRU, LSTM, Bidirectional, Dense, Embedding, Input, Masking, Network, Sequential, SimpleRNN

N, T, I, U = 3, 12, 2, 4     # rows, steps of the whole, features, units
EXACT = 1e-12                # float64
CELLS = {"simple_rnn": SimpleRNN, "lstm": LSTM, "gru": GRU, "gru-before": lambda *units, **fields: GRU(*units, reset_after=False, **fields)}
every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)


def sequences(steps=T, seed=0):
    return np.random.default_rng(seed).standard_normal((N, steps, I))


def in_pieces(x, steps):
    """(N, T, ...) as batches of pieces: (T / steps N, steps, ...), piece after piece."""
    return np.concatenate(np.split(x, x.shape[1] // steps, axis=1))


def whole_of(y):
    """The other way."""
    return np.concatenate(np.split(y, len(y) // N), axis=1) if y.ndim > 2 else y[-N:]


def pair(cell, steps, *before, loss="mse", **fields):
    """A model of whole sequences, and one of pieces with the same parameters."""
    models = []
    for length, more, batch_size in ((None, {}, None), (steps, {"stateful": True}, N)):
        layers = [*before, cell(U, name="cell", **fields, **more)]
        models.append(nnkit.compile(Sequential([Input((length or T, I), batch_size=batch_size), *layers]), optimizer=nnkit.SGD(1e-30), loss=loss,
                                    dtype="float64", seed=5))
    whole, pieces = models
    pieces.set_parameters(whole.parameters)
    return whole, pieces


def states(model):
    return {name: values.copy() for name, values in model.parameters.items() if name.endswith("_state")}


# The same numbers.

@every_cell
@pytest.mark.parametrize("steps", [1, 3, 4, 12])
def test_pieces_give_the_numbers_of_the_whole(cell, steps):
    whole, pieces = pair(cell, steps, return_sequences=True)
    x = sequences()
    expected = whole.predict(x)
    assert_close(whole_of(pieces.predict(in_pieces(x, steps))), expected, EXACT)
    pieces.reset_states()
    one_by_one = [pieces.predict(piece) for piece in np.split(in_pieces(x, steps), T // steps)]
    assert_close(np.concatenate(one_by_one, axis=1), expected, EXACT)


def test_long_sequences_in_float32():
    """T = 10,000 in pieces of 100: float32 forgets its roundings as the cell forgets its past."""
    x = sequences(10_000).astype(np.float32)
    whole = nnkit.compile(Sequential([Input((10_000, I)), LSTM(U)]), seed=1)
    pieces = nnkit.compile(Sequential([Input((100, I), batch_size=N), LSTM(U, stateful=True)]), seed=1)
    pieces.set_parameters(whole.parameters)
    assert_close(pieces.predict(in_pieces(x, 100))[-N:], whole.predict(x), 1e-6)


def test_masked_steps_at_the_seams():
    """Padding before, behind and between leaves the state as it was, also where it fills a whole piece, of which the output is 0, as in Keras."""
    whole, pieces = pair(LSTM, 3, Masking(), return_sequences=True)
    x = sequences()
    x[0, 2:7], x[1, :4], x[2, 4:] = 0, 0, 0
    expected = whole.predict(x)
    y = whole_of(pieces.predict(in_pieces(x, 3)))
    for n in range(N):
        counts = x[n].any(-1)
        assert_close(y[n, counts], expected[n, counts], EXACT)
        assert_close(states(pieces)["cell/hidden_state"][n], expected[n, -1], EXACT)
    assert not y[2, 6:].any()


@every_cell
def test_states_are_returned_and_kept(cell):
    x, h = sequences(), Input((5, I), batch_size=N)
    model = nnkit.compile(Network(h, cell(U, name="cell", stateful=True, return_state=True)(h)), dtype="float64", seed=1)
    _, *ends = model.predict(x[:, :5])
    assert_close(list(states(model).values()), ends, EXACT)


def test_backwards_pieces_begin_where_the_piece_before_ended():
    """Going backwards, the state after the first step of a piece is where the next piece's last step begins, as in Keras."""
    model = nnkit.compile(Sequential([Input((4, I), batch_size=N), GRU(U, stateful=True, go_backwards=True)]), dtype="float64", seed=1)
    plain = nnkit.compile(Sequential([Input((8, I)), GRU(U)]), dtype="float64")
    plain.set_parameters({name: values for name, values in model.parameters.items() if "state" not in name})
    x = sequences(8)
    model.predict(x[:, :4])
    assert_close(model.predict(x[:, 4:]), plain.predict(np.concatenate([x[:, 3::-1], x[:, :3:-1]], axis=1)), EXACT)


def test_bidirectional_keeps_both_states():
    model = nnkit.compile(Sequential([Input((4, I), batch_size=N), Bidirectional(LSTM(U, stateful=True, return_sequences=True), merge_mode="sum")]),
                          dtype="float64", seed=1)
    assert sorted(states(model)) == [f"bidirectional/{way}_lstm/{name}" for way in ("backward", "forward") for name in ("cell_state", "hidden_state")]
    parts = []
    for way in ("forward", "backward"):
        part = nnkit.compile(Sequential([Input((4, I), batch_size=N), LSTM(U, stateful=True, return_sequences=True, go_backwards=way == "backward")]),
                             dtype="float64")
        part.set_parameters({f"lstm/{name.split('/')[2]}": values for name, values in model.parameters.items() if f"/{way}_" in name})
        parts.append(part)
    for piece in np.split(sequences(), 3, axis=1):
        ahead, back = (part.predict(piece) for part in parts)
        assert_close(model.predict(piece), ahead + back[:, ::-1], EXACT)


# What continues a state.

@every_cell
def test_training_evaluating_and_predicting_continue_the_state(cell):
    """Each of them takes three pieces on; learning rates are so small that the parameters stay."""
    _, pieces = pair(cell, 3)
    x = sequences(9)
    batches = in_pieces(x, 3)
    y = np.zeros((len(batches), U))
    pieces.predict(batches)
    expected = states(pieces)

    def continued(run):
        pieces.reset_states()
        assert not any(values.any() for values in states(pieces).values())
        run()
        for name, values in states(pieces).items():
            assert_close(values, expected[name], EXACT, name)
    continued(lambda: pieces.evaluate(batches, y))
    continued(lambda: pieces.fit(batches, y, shuffle=False, verbose=0))
    continued(lambda: [pieces.train_on_batch(batch, y[:N]) for batch in np.split(batches, 3)])
    continued(lambda: pieces.fit([(batch, y[:N]) for batch in np.split(batches, 3)], verbose=0))
    continued(lambda: (pieces.predict(batches[:N]), pieces.fit(batches[N:2 * N], y[:N], shuffle=False, verbose=0),
                       pieces.evaluate(batches[2 * N:], y[:N])))


def test_gradients_leave_the_state_and_stop_at_it():
    """They are those of a layer that is given the state as numbers: truncated backpropagation."""
    x, start = Input((3, I), name="x"), [Input((U,)), Input((U,))]
    given = nnkit.compile(Network([x, *start], LSTM(U, name="cell")(x, initial_state=start)), loss="mse", dtype="float64", seed=5)
    _, pieces = pair(LSTM, 3)
    given.set_parameters({name: values for name, values in pieces.parameters.items() if "state" not in name})
    first, second = np.split(sequences(6), 2, axis=1)
    y = np.random.default_rng(1).standard_normal((N, U))
    pieces.predict(first)
    before = states(pieces)
    found, again = pieces.gradients(second, y), pieces.gradients(second, y)
    expected = given.gradients((second, before["cell/hidden_state"], before["cell/cell_state"]), y)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_close(found[name], gradient, EXACT, name)
        np.testing.assert_array_equal(found[name], again[name])
    for name, values in states(pieces).items():
        np.testing.assert_array_equal(values, before[name])


def test_epochs_go_on_unless_a_callback_resets():
    _, pieces = pair(GRU, 3)
    batches, y = in_pieces(sequences(6), 3), np.zeros((2 * N, U))

    class Reset(nnkit.Callback):
        def on_epoch_begin(self, epoch, logs):
            self.model.reset_states()
    pieces.fit(batches, y, shuffle=False, verbose=0)
    once = states(pieces)
    pieces.fit(batches, y, shuffle=False, verbose=0)
    twice = states(pieces)
    assert not np.array_equal(once["cell/hidden_state"], twice["cell/hidden_state"])
    pieces.fit(batches, y, shuffle=False, verbose=0, epochs=3, callbacks=[Reset()])
    assert_close(states(pieces)["cell/hidden_state"], once["cell/hidden_state"], EXACT)


def test_parts_share_the_states():
    layers = [Embedding(7, I), LSTM(U, stateful=True, return_sequences=True), GRU(2, stateful=True), Dense(1)]
    model = nnkit.compile(Sequential([Input((3,), batch_size=N), *layers]), dtype="float64", seed=1)
    twin = nnkit.compile(model.spec, dtype="float64", seed=1)
    x = np.random.default_rng(0).integers(0, 7, (2 * N, 3))
    middle = model.submodel(outputs="lstm")
    rest = model.submodel(inputs="lstm")
    assert middle.graph.batch_size == rest.graph.batch_size == N
    for batch in np.split(x, 2):
        assert_close(rest.predict(middle.predict(batch)), twin.predict(batch), EXACT)
    for name, values in states(twin).items():
        assert_close(states(model)[name], values, EXACT, name)
    refused("predict: the number of samples must be a multiple of 3, the batch_size of the Input, received 4", middle.predict, x[:4])
    middle.reset_states()
    assert not any(values.any() for values in states(model).values())


def test_summary_and_parameters_name_states(capsys):
    model = nnkit.compile(Sequential([Input((3, I), batch_size=N), LSTM(U, stateful=True)]))
    assert list(model.parameters) == ["lstm/kernel", "lstm/recurrent_kernel", "lstm/bias", "lstm/hidden_state", "lstm/cell_state"]
    assert model.parameters["lstm/cell_state"].shape == (N, U)
    assert set(model.layout.gradients) == {"lstm/kernel", "lstm/recurrent_kernel", "lstm/bias"}
    model.summary()
    assert "parameters: 112, trainable 112, not trainable 0" in capsys.readouterr().out
    assert repr(model) == "<Model of 2 layers, 112 parameters, float32>"


# Memory.

def test_memory_is_flat_in_the_length_of_the_sequence():
    """What a step of 100 needs, whatever the length of the whole; in one piece it grows a hundredfold."""
    def arena(steps, **fields):
        batch_size = N if fields else None
        model = nnkit.compile(Sequential([Input((steps, I), batch_size=batch_size), LSTM(32, **fields), Dense(1)]), optimizer="adam", loss="mse")
        return model, model.build_plan("train", N).arena_bytes

    pieces, small = arena(100, stateful=True)
    _, plain = arena(100)
    _, large = arena(10_000)
    assert small <= plain + 10_000                       # and the state at the end, and panels
    assert large > 50 * small
    for length in (200, 10_000):
        x = in_pieces(sequences(length), 100)
        pieces.fit(x, np.zeros((len(x), 1)), shuffle=False, verbose=0)
        assert pieces.plan.arena_bytes == small
        assert pieces.memory.arena.nbytes <= 2 * small


def test_prediction_keeps_a_block_of_steps_alone():
    """Beside the sequence itself."""
    def arena(steps):
        model = nnkit.compile(Sequential([Input((steps, I)), LSTM(32)]))
        return model.build_plan("predict", N).arena_bytes - 4 * N * steps * I
    assert arena(10_000) < 1.1 * arena(100)


# What is refused.

def stateful(**fields):
    return Sequential([Input((3, I), batch_size=2), LSTM(U, stateful=True, **fields), Dense(1)])


def test_a_batch_size_is_needed():
    message = "layer 'lstm' is stateful: the Input must have a batch_size, Input(shape, batch_size=...)"
    refused(message, Sequential, [Input((3, I)), LSTM(U, stateful=True)])
    refused("layer 'both' is stateful: the Input must have a batch_size, Input(shape, batch_size=...)", Sequential,
            [Input((3, I)), Bidirectional(LSTM(U, stateful=True), name="both")])
    refused("Input: batch_size must be a whole number at least 1 or None, received 0", Input, (3, I), batch_size=0)
    x, z = Input((3, I), batch_size=2, name="x"), Input((U,), batch_size=3, name="z")
    both = nnkit.Add()([GRU(U, stateful=True)(x), z])
    refused("the batch_size of all inputs must be the same, received {'x': 2, 'z': 3}", Network, [x, z], both)


@pytest.mark.parametrize(("call", "message"), [
    (lambda m, x, y: m.fit(x, y), "fit: layer 'lstm' is stateful, so the order of samples matters: pass shuffle=False"),
    (lambda m, x, y: m.fit(x[:5], y[:5], shuffle=False),
     "fit: the number of samples must be a multiple of 2, the batch_size of the Input, received 5"),
    (lambda m, x, y: m.fit(x, y, shuffle=False, validation_split=0.5),
     "fit: the number of samples must be a multiple of 2, the batch_size of the Input, received 3"),
    (lambda m, x, y: m.fit(x, y, shuffle=False, validation_data=(x[:3], y[:3])),
     "fit: validation data: the number of samples must be a multiple of 2, the batch_size of the Input, received 3"),
    (lambda m, x, y: m.fit([(x[:3], y[:3])]), "fit: a batch must have 2 samples, the batch_size of the Input, received 3"),
    (lambda m, x, y: m.train_on_batch(x, y), "train_on_batch: a batch must have 2 samples, the batch_size of the Input, received 6"),
    (lambda m, x, y: m.gradients(x, y), "gradients: a batch must have 2 samples, the batch_size of the Input, received 6"),
    (lambda m, x, y: m.evaluate(x[:1], y[:1]), "evaluate: the number of samples must be a multiple of 2, the batch_size of the Input, received 1"),
    (lambda m, x, y: m.evaluate(iter([(x, y)])), "evaluate: a batch must have 2 samples, the batch_size of the Input, received 6"),
    (lambda m, x, y: m.predict(x[:3]), "predict: the number of samples must be a multiple of 2, the batch_size of the Input, received 3"),
], ids=lambda value: value[:40].replace(" ", "-") if isinstance(value, str) else "")
def test_another_batch_size_is_refused_and_changes_nothing(call, message):
    model = nnkit.compile(stateful(), optimizer="adam", loss="mse", seed=1)
    x, y = np.random.default_rng(0).standard_normal((6, 3, I)), np.zeros((6, 1))
    model.fit(x, y, shuffle=False, verbose=0)
    before = {name: values.copy() for name, values in model.parameters.items()}
    refused(message, call, model, x, y)
    for name, values in model.parameters.items():
        np.testing.assert_array_equal(values, before[name])


def test_batches_of_the_right_size_do_not_ask_for_an_order():
    """Whoever passes batches gives their order; and a batch_size that fits nothing gives way to that of the Input."""
    model = nnkit.compile(stateful(), optimizer="adam", loss="mse", seed=1)
    twin = nnkit.compile(stateful(), optimizer="adam", loss="mse", seed=1)
    x, y = np.random.default_rng(0).standard_normal((6, 3, I)), np.zeros((6, 1))
    model.fit([(x[k:k + 2], y[k:k + 2]) for k in (0, 2, 4)], verbose=0)
    twin.fit(x, y, batch_size=5, shuffle=False, verbose=0)
    for name, values in model.parameters.items():
        np.testing.assert_array_equal(values, twin.parameters[name])


def test_a_stateful_layer_takes_no_initial_state():
    x, h = Input((3, I), batch_size=2), Input((U,), batch_size=2, name="h")
    refused("layer 'gru' cannot take input and h: GRU: a stateful layer takes no initial_state: it begins where the batch before ended",
            GRU(U, stateful=True), x, initial_state=h)


def test_a_fixed_batch_size_without_states_shuffles():
    """A batch_size alone asks for whole batches, not for an order."""
    model = nnkit.compile(Sequential([Input((3, I), batch_size=2), LSTM(U), Dense(1)]), optimizer="adam", loss="mse")
    x, y = np.random.default_rng(0).standard_normal((6, 3, I)), np.zeros((6, 1))
    assert len(model.fit(x, y, epochs=2, verbose=0)["loss"]) == 2
    model.reset_states()
