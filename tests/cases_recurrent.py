"""Rows of SimpleRNN, LSTM and GRU."""

from cases import Case
from nnkit.initializers import RandomNormal
from nnkit.layers import GRU, LSTM, Dense, SimpleRNN
from nnkit.network import Network
from nnkit.tensors import Input


def with_start(layer, states, shape=(4, 3)):
    x, start = Input(shape, name="x"), [Input((layer.units,), name=f"start{k}") for k in range(states)]
    return Network([x, *start], layer(x, initial_state=start))


def both_ways(layer):
    """The states at the end of one layer are where another begins, as in an encoder and a decoder."""
    x = Input((5, 3))
    y, *states = layer(x)
    return Network(x, [y, SimpleRNN(layer.units)(x, initial_state=states[0])])


CASES = [
    Case("simple_rnn-last", [SimpleRNN(5)], (7, 3)),
    Case("simple_rnn-sequences-no-bias", [SimpleRNN(3, use_bias=False, return_sequences=True)], (4, 2), batch=11),
    Case("simple_rnn-relu-backwards", [SimpleRNN(4, activation="relu", go_backwards=True, return_sequences=True)], (5, 3)),
    Case("simple_rnn-elu-one-unit-one-step", [SimpleRNN(1, activation="elu")], (1, 1), batch=1),
    Case("simple_rnn-stacked", [SimpleRNN(4, return_sequences=True), SimpleRNN(3, return_sequences=True), Dense(2)], (4, 3)),
    Case("simple_rnn-start", with_start(SimpleRNN(3, return_sequences=True, return_state=True), 1), batch=5),
    Case("simple_rnn-linear-penalties", [SimpleRNN(3, activation="linear", kernel_regularizer="l1", recurrent_regularizer="l2",
                                                   bias_regularizer="l2", activity_regularizer="l2")], (3, 2)),
    Case("simple_rnn-selu-long-rows", [SimpleRNN(17, activation="selu", recurrent_initializer=RandomNormal(0.0, 0.1))], (3, 19)),
    Case("lstm-last", [LSTM(5)], (7, 3)),
    Case("lstm-sequences-groups", [LSTM(3, return_sequences=True)], (4, 2), batch=37),
    Case("lstm-no-bias-backwards", [LSTM(4, use_bias=False, go_backwards=True, return_sequences=True)], (5, 3)),
    Case("lstm-one-step", [LSTM(2, unit_forget_bias=False)], (1, 1), batch=2),
    Case("lstm-activations", [LSTM(3, activation="softsign", recurrent_activation="hard_sigmoid")], (4, 2)),
    Case("lstm-start-and-states", with_start(LSTM(3, return_state=True), 2), batch=5),
    Case("lstm-states-of-sequences", with_start(LSTM(2, return_state=True, return_sequences=True, go_backwards=True), 2), batch=4),
    Case("lstm-encoder", both_ways(LSTM(3, return_state=True))),
    Case("lstm-wide", [LSTM(33)], (2, 50), batch=2),
    Case("gru-last", [GRU(5)], (7, 3)),
    Case("gru-sequences-groups", [GRU(3, return_sequences=True)], (4, 2), batch=37),
    Case("gru-before", [GRU(4, reset_after=False, return_sequences=True)], (5, 3), batch=9),
    Case("gru-before-no-bias-backwards", [GRU(3, reset_after=False, use_bias=False, go_backwards=True)], (4, 2)),
    Case("gru-no-bias", [GRU(4, use_bias=False)], (5, 3)),
    Case("gru-activations", [GRU(3, activation="leaky_relu", recurrent_activation="linear", recurrent_initializer="zeros")], (3, 2)),
    Case("gru-start-and-state", with_start(GRU(3, return_state=True, return_sequences=True), 1), batch=5),
    Case("gru-before-start", with_start(GRU(3, reset_after=False, activation="exponential", recurrent_activation="softplus"), 1, (2, 3)), batch=3,
         parameters=lambda rng, name, shape: rng.standard_normal(shape) / 8),
    Case("gru-encoder", both_ways(GRU(2, return_state=True))),
    Case("simple_rnn-dropout", [SimpleRNN(4, dropout=0.4, recurrent_dropout=0.3, return_sequences=True)], (5, 3), batch=9, random=True),
    Case("lstm-dropout", [LSTM(3, dropout=0.4, recurrent_dropout=0.3, seed=5)], (5, 3), batch=9, random=True),
    Case("gru-dropout", [GRU(3, recurrent_dropout=0.4)], (5, 3), batch=9, random=True),
    Case("gru-before-dropout", [GRU(3, recurrent_dropout=0.4, reset_after=False, return_sequences=True)], (4, 3), batch=9, random=True),
]
