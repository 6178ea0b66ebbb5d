"""Rows of Embedding and Masking."""

from cases import Case, normal
from nnkit.layers import (
    GRU,
    LSTM,
    Add,
    BatchNormalization,
    Concatenate,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    Masking,
    Reshape,
    SimpleRNN,
)
from nnkit.network import Network
from nnkit.tensors import Input


def indices(limit):
    """Whole numbers from 0 to limit - 1."""
    return lambda rng, shape: rng.integers(0, limit, shape)


def padded(limit):
    """The same, with 0 on the left of one row, on the right of another, in the middle, and in one row alone."""
    def sample(rng, shape):
        x = rng.integers(1, limit, shape)
        x[0, :shape[1] // 2] = 0
        x[1 % shape[0], shape[1] // 2:] = 0
        x[2 % shape[0]] = 0
        x[3 % shape[0], 1:-1:2] = 0
        return x
    return sample


def holes(rng, shape):
    """Normal numbers with steps of zeros: on the left, on the right, everywhere."""
    x = normal(rng, shape)
    x[0, :2] = 0
    x[1 % shape[0], -2:] = 0
    x[2 % shape[0]] = 0
    return x


def two_texts():
    a, b = Input((4,)), Input((3,))
    table = Embedding(7, 3, mask_zero=True)
    return Network([a, b], LSTM(4, return_sequences=True)(Concatenate(axis=1)([table(a), table(b)])))


def two_views():
    """Two masks of the same steps, features side by side."""
    a, b = Input((4,)), Input((4,))
    return Network([a, b], GRU(3)(Concatenate()([Embedding(7, 3, mask_zero=True)(a), Embedding(7, 2, mask_zero=True)(b)])))


def masked_sum():
    x = Input((5, 2))
    y = Masking()(x)
    return Network(x, GRU(3)(Add()([Dense(2)(y), y])))


CASES = [
    Case("embedding-sequence", [Embedding(11, 5)], (4,), x=indices(11)),
    Case("embedding-one-index", [Embedding(3, 1)], (), x=indices(3), batch=5),
    Case("embedding-one-row-flat", [Embedding(1, 17, embeddings_regularizer="l2"), Flatten(), Dense(2)], (3,), x=indices(1), batch=2),
    Case("embedding-of-views", [Reshape((2, 3)), Embedding(13, 2, embeddings_initializer="ones"), Reshape((3, 4))], (6,), x=indices(13)),
    Case("embedding-mask-last", [Embedding(9, 4, mask_zero=True), LSTM(3)], (6,), x=padded(9), batch=5),
    Case("embedding-mask-sequences", [Embedding(9, 4, mask_zero=True), GRU(3, return_sequences=True), Dense(2)], (6,), x=padded(9), batch=11),
    Case("embedding-mask-goes-through", [Embedding(9, 3, mask_zero=True), Dense(4, activation="tanh"), BatchNormalization(trainable=False),
                                         SimpleRNN(3, go_backwards=True, return_sequences=True), SimpleRNN(2)], (5,), x=padded(9), batch=5),
    Case("embedding-mask-dropout", [Embedding(9, 3, mask_zero=True), Dropout(0.3), GRU(3, reset_after=False, recurrent_dropout=0.2)], (5,),
         x=padded(9), batch=5, random=True),
    Case("embedding-of-two-texts", two_texts(), x=padded(7), batch=5),
    Case("embedding-of-two-views", two_views(), x=padded(7), batch=5, seed=1),
    Case("masking-lstm", [Masking(), LSTM(3, return_sequences=True)], (5, 2), x=holes, moved=False, batch=4),
    Case("masking-lstm-backwards", [Masking(), LSTM(3, go_backwards=True)], (5, 2), x=holes, moved=False, batch=4),
    Case("masking-value", [Masking(-1.5), SimpleRNN(3, return_sequences=True)], (4, 1), x=lambda rng, shape: rng.choice([-1.5, 0.3, 1.0], shape),
         batch=9, moved=False),
    Case("masking-gru-groups", [Masking(), GRU(2, return_sequences=True)], (4, 3), x=holes, moved=False, batch=37),
    Case("masking-gru-before", [Masking(), GRU(2, reset_after=False)], (4, 3), x=holes, moved=False, batch=3),
    Case("masking-mean", [Masking(), GlobalAveragePooling1D(), Dense(2)], (5, 19), x=holes, moved=False, batch=4),
    Case("masking-mean-one-channel", [Masking(), GlobalAveragePooling1D(keepdims=True)], (3, 1), x=holes, moved=False, batch=11),
    Case("embedding-mean", [Embedding(9, 5, mask_zero=True), Dense(3, activation="tanh"), GlobalAveragePooling1D()], (6,), x=padded(9), batch=7),
    Case("masking-images", [Masking(), Dense(2)], (4, 3, 2), x=holes, moved=False),
    Case("masking-sum", masked_sum(), x=holes, moved=False, batch=4),
]
