"""Same seed, same bits: with 1 and 2 threads, in two processes (tests/test_store.py), and whatever the number of tasks."""

import hashlib

import numpy as np
import pytest

import nnkit
from nnkit import (
    GRU,
    LSTM,
    BatchNormalization,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    GlobalAveragePooling1D,
    Input,
    LayerNormalization,
    Network,
    Sequential,
    SimpleRNN,
    TimeDistributed,
)
from nnkit.layers.dropout_cpu import dropout_apply
from nnkit.plan import passes
from nnkit.plan.layout import COUNTERS
from nnkit.prims.random_cpu import shuffle


def digest(model, history, x):
    """Of all parameters, the predictions and what the history says."""
    predictions = model.predict(x)
    everything = [*model.parameters.values(), *(predictions if isinstance(predictions, tuple) else [predictions]),
                  *(np.array(column) for _, column in sorted(history.items()))]
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in everything)).hexdigest()


def bits(threads, seed=1, epochs=2):
    spec = Sequential([Input((37,)), Dropout(0.1), Dense(64), BatchNormalization(), nnkit.ReLU(), Dense(129, activation="gelu"), LayerNormalization(),
                       Dropout(0.5), Dense(5, activation="softmax")])
    model = nnkit.compile(spec, optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"], seed=seed, threads=threads)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((700, 37)), rng.integers(0, 5, 700)
    history = model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
    return digest(model, history, x)


def bits_of_sequences(threads, seed=1):
    """Recurrent layers with masks, dropout and states, two outputs, several groups of rows with a ragged last one."""
    x = Input((13,))
    h = Embedding(50, 17, mask_zero=True)(x)
    y, *states = LSTM(19, return_sequences=True, return_state=True, dropout=0.2, recurrent_dropout=0.3)(h)
    y = Bidirectional(GRU(11, return_sequences=True, recurrent_dropout=0.2))(y)
    z = GRU(19, reset_after=False, go_backwards=True)(Dropout(0.2)(y), initial_state=states[:1])
    mean = GlobalAveragePooling1D()(SimpleRNN(9, return_sequences=True, activation="relu")(y))
    network = Network(x, [TimeDistributed(Dense(5, activation="softmax"))(y), Dense(1)(nnkit.Concatenate()([z, mean]))])
    model = nnkit.compile(network, optimizer="adam", loss=["sparse_categorical_crossentropy", "mse"], metrics=[["accuracy"], []], seed=seed,
                          threads=threads)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 50, (77, 13)) * (np.arange(13) < rng.integers(0, 14, (77, 1)))
    history = model.fit(ids, [rng.integers(0, 5, (77, 13)), rng.standard_normal((77, 1))], batch_size=37, epochs=2, verbose=0)
    return digest(model, history, ids)


def test_one_and_two_threads_give_the_same_bits(monkeypatch):
    monkeypatch.setattr(passes, "TASK_FLOPS", 20_000)    # so that these small layers are cut into several tasks
    assert bits(1) == bits(2) == bits(None)


def test_one_and_two_threads_give_the_same_bits_of_sequences(monkeypatch):
    monkeypatch.setattr(passes, "TASK_FLOPS", 20_000)
    assert bits_of_sequences(1) == bits_of_sequences(2) == bits_of_sequences(None)
    assert bits_of_sequences(1) != bits_of_sequences(1, seed=2)


def test_the_number_of_tasks_does_not_change_row_local_results(monkeypatch):
    spec = Sequential([Input((37,)), Dense(64, activation="relu"), Dense(5)])
    x = np.random.default_rng(0).standard_normal((257, 37))
    found = []
    for task_flops in (10**9, 10_000):
        monkeypatch.setattr(passes, "TASK_FLOPS", task_flops)
        found.append(nnkit.compile(spec, seed=2, threads=2).predict(x, batch_size=257).tobytes())
    assert found[0] == found[1]


def test_seeds_matter_and_repeat():
    assert bits(1, seed=1, epochs=1) == bits(1, seed=1, epochs=1)
    assert bits(1, seed=1, epochs=1) != bits(1, seed=2, epochs=1)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 1000])
def test_a_shuffled_order_is_a_permutation_that_epochs_change(n):
    model = nnkit.compile(Sequential([Input((1,)), Dense(1)]), optimizer="sgd", loss="mse", seed=5)
    tape = model.tape("shuffle", 0)
    orders = []
    for epoch in range(3):
        order = np.full(n, -1)
        model.counters[nnkit.plan.layout.COUNTERS["epoch"]] = epoch
        tape.bind({"order": order})
        tape.run()
        assert np.array_equal(np.sort(order), np.arange(n))
        orders.append(order.tobytes())
    assert n < 8 or len(set(orders)) == 3


def test_both_halves_of_a_seed_count():
    """Orders and masks of seeds that differ by 2**32 differ."""
    orders = []
    for seed in (5, 5 + 2**32):
        counters, order = np.zeros(8, np.int64), np.empty(100, np.int64)
        counters[COUNTERS["seed"]] = seed
        shuffle(0, 1, order, counters)
        y = np.empty((1, 100), np.float32)
        dropout_apply(0, 1, y, np.ones_like(y), counters, 0.5, np.float32(1), 1, -1)
        orders.append((order.tolist(), y.tolist()))
    assert orders[0][0] != orders[1][0]
    assert orders[0][1] != orders[1][1]
