"""Same seed, same bits: with 1 and 2 threads, in two processes (tests/test_store.py), and whatever the number of tasks."""

import hashlib

import numpy as np
import pytest

import nnkit
from nnkit import BatchNormalization, Dense, Dropout, Input, LayerNormalization, Sequential
from nnkit.plan import passes


def bits(threads, seed=1, epochs=2):
    spec = Sequential([Input((37,)), Dropout(0.1), Dense(64), BatchNormalization(), nnkit.ReLU(), Dense(129, activation="gelu"), LayerNormalization(),
                       Dropout(0.5), Dense(5, activation="softmax")])
    model = nnkit.compile(spec, optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"], seed=seed, threads=threads)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((700, 37)), rng.integers(0, 5, 700)
    history = model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
    everything = [*model.parameters.values(), model.predict(x), np.array(history["loss"]), np.array(history["accuracy"])]
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in everything)).hexdigest()


def test_one_and_two_threads_give_the_same_bits(monkeypatch):
    monkeypatch.setattr(passes, "TASK_FLOPS", 20_000)    # so that these small layers are cut into several tasks
    assert bits(1) == bits(2) == bits(None)


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
        model.counters[nnkit.plan.build.COUNTERS["epoch"]] = epoch
        tape.bind({"order": order})
        tape.run()
        assert np.array_equal(np.sort(order), np.arange(n))
        orders.append(order.tobytes())
    assert n < 8 or len(set(orders)) == 3
