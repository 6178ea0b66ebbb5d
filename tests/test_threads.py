"""The runner's helping threads: they change no bit, are not waited for, and are not needed."""

import hashlib
import os
import platform
import threading

import numpy as np
import pytest

import nnkit
from nnkit import Dense, Input, Sequential
from nnkit.runtime import threads

RNG = np.random.default_rng(3)
X = RNG.standard_normal((600, 200), dtype=np.float32)
Y = RNG.integers(0, 10, 600)


def trained(count, epochs=3):
    """A digest of the parameters after training in steps of several tasks."""
    spec = Sequential([Input((200,)), Dense(300, "relu"), Dense(10, "softmax")])
    model = nnkit.compile(spec, optimizer="adam", loss="sparse_categorical_crossentropy", threads=count)
    model.fit(X, Y, batch_size=128, epochs=epochs, verbose=0)
    assert model.tape("train", 128).helpers == min(count, threads.available_threads()) - 1
    return hashlib.sha256(b"".join(values.tobytes() for values in model.parameters.values())).hexdigest()


def test_helpers_change_no_bit():
    assert len({trained(1), *(trained(2) for _ in range(5))}) == 1


def test_nobody_waits_for_helpers_that_never_come(monkeypatch):
    expected = trained(2)
    monkeypatch.setattr("nnkit.runtime.cpu.ask_helpers", lambda count, job: None)
    assert trained(2) == expected


def test_a_helper_that_comes_too_late_does_nothing(monkeypatch):
    """It is called after the run: the ticket says that nothing is open."""
    expected = trained(2)
    late = []
    monkeypatch.setattr("nnkit.runtime.cpu.ask_helpers", lambda count, job: late.append(job))
    found = trained(2)
    for job in late:
        job()
    assert found == expected


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="only there the runner can say so")
@pytest.mark.parametrize("debug", ["0", "1"])
@pytest.mark.parametrize("rows", [1, 600], ids=["one task", "with helpers"])
def test_numbers_that_are_not_normal_count_as_zero_while_a_tape_runs(rows, debug, monkeypatch):
    monkeypatch.setenv("NNKIT_DEBUG", debug)
    small = np.float32(1e-39)
    model = nnkit.compile(Sequential([Input((200,)), Dense(300, use_bias=False)]), threads=2)
    model.set_parameters({"dense/kernel": np.full((200, 300), 1e-20)})
    assert not model.predict(np.full((rows, 200), 1e-21), batch_size=rows).any()       # the sum of the exact products is 200 * 1e-41
    assert not model.predict(np.full((rows, 200), small), batch_size=rows).any()
    assert model.predict(np.full((rows, 200), 1e-17), batch_size=rows).all()
    assert small * np.float32(0.5) > 0                                                 # elsewhere they are what they were


def test_two_models_train_at_the_same_time():
    expected = trained(1, 10)
    found = []
    several = [threading.Thread(target=lambda: found.append(trained(2, 10))) for _ in range(3)]
    for thread in several:
        thread.start()
    for thread in several:
        thread.join()
    assert found == [expected] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_goes_on():
    """It has none of the helpers, and starts its own."""
    expected = trained(2)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(write, trained(2).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read() == expected
    os.waitpid(child, 0)


def test_a_helper_takes_no_more_jobs_than_it_can_wait_for():
    started, go = threading.Event(), threading.Event()
    count = []

    def first():
        started.set()
        go.wait(60)

    threads.ask_helpers(1, first)
    assert started.wait(60)
    for _ in range(20):
        threads.ask_helpers(1, lambda: count.append(1))
    go.set()
    done = threading.Event()
    while not done.wait(0.01):
        threads.ask_helpers(1, done.set)
    assert len(count) == threads.BACKLOG


@pytest.mark.parametrize(("given", "expected"), [("3", 3), ("1", 1), ("0", None), ("many", None), ("", None)])
def test_available_threads(monkeypatch, given, expected):
    monkeypatch.setenv("NUMBA_NUM_THREADS", given)
    assert threads.available_threads() == (expected or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()))
