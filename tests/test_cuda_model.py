"""Whole models with backend="cuda", on a device that executes PTX on the CPU, beside the same models on the CPU."""

import copy
import random
import re
import subprocess
import sys

import numpy as np
import pytest

import nnkit
from nnkit import Dense, Dropout, Input, Network, Sequential
from nnkit.plan.layout import COUNTERS
from nnkit.runtime import driver, ptx_store

pytest.importorskip("numba_cuda", reason="needs nnkit[cuda-test]")
pytest.importorskip("nvidia.cu13", reason="needs nnkit[cuda-test]")
import ptx

LOSS = 2e-6                                              # a few roundings of float32
N = 17


@pytest.fixture
def device(monkeypatch):
    found = ptx.PtxDevice()
    monkeypatch.setattr(driver, "device", lambda: found)
    return found


def network():
    return Sequential([Input((5,)), Dense(7, "relu"), Dropout(0.2), Dense(3, "softmax")])


def data(n=N):
    rng = np.random.default_rng(3)
    return rng.standard_normal((n, 5)).astype(np.float32), rng.integers(0, 3, n)


def model(backend="cuda", spec=None, **named):
    return nnkit.compile(spec or network(), **{"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": "accuracy", "seed": 4,
                                               "backend": backend, **named})


def bits(model):
    """All that persists, as bytes."""
    return b"".join(values.tobytes() for values in model.parameters.values())


def same_history(one, other, rtol=LOSS):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_allclose(one[key], other[key], rtol=rtol, err_msg=key)


def both(**named):
    return model("cpu", **named), model("cuda", **named)


def test_a_model_trains_evaluates_and_predicts_as_on_the_cpu(device):
    x, y = data()
    host, other = both()
    named = {"batch_size": 4, "epochs": 3, "verbose": 0, "validation_split": 0.3, "class_weight": {0: 2.0, 1: 0.5}}
    same_history(other.fit(x, y, **named), host.fit(x, y, **named))
    np.testing.assert_allclose(other.predict(x), host.predict(x), rtol=0, atol=1e-6)
    found, expected = other.evaluate(x, y, batch_size=8), host.evaluate(x, y, batch_size=8)
    assert found == pytest.approx(expected, rel=LOSS)
    for name, values in host.parameters.items():
        np.testing.assert_allclose(other.parameters[name], values, rtol=0, atol=2e-6)
    assert (host.backend, other.backend) == ("cpu", "cuda")


def test_a_plan_is_made_for_the_architecture_of_the_device(device):
    """An LSTM whose recurrent kernel takes 1 MB: clusters share it where there are some."""
    spec = Sequential([Input((2, 3)), nnkit.LSTM(256, kernel_initializer="zeros", recurrent_initializer="zeros"), Dense(3, "softmax")])
    for architecture, form in (((9, 0), "cluster"), ((10, 0), "cluster"), ((8, 0), "walk")):
        device.architecture = architecture
        kernels = {step.kernel for step in model(spec=spec).build_plan("train", 4).steps if step.kernel.startswith("layers.recurrent.")}
        assert kernels == {f"layers.recurrent.lstm_{form}_forward", f"layers.recurrent.lstm_{form}_backward"}


def test_two_runs_give_the_same_bits(device):
    x, y = data()
    seen = set()
    for _ in range(2):
        trained = model()
        trained.fit(x, y, batch_size=4, epochs=2, verbose=0)
        seen.add(bits(trained))
    assert len(seen) == 1


def test_gradients_and_single_batches_are_those_of_the_cpu(device):
    x, y = data(6)
    host, other = both()
    expected, found = (each.gradients(x, y, inputs=True) for each in (host, other))
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=5e-7, atol=1e-7, err_msg=name)
    for count in (6, 4, 6):
        rates = [each.train_on_batch(x[:count], y[:count], mask=np.arange(count) % 3 > 0) for each in (host, other)]
        assert rates[1] == pytest.approx(rates[0], rel=LOSS)
    assert other.fit([(x, y), (x[:4], y[:4])], verbose=0)["loss"] == pytest.approx(host.fit([(x, y), (x[:4], y[:4])], verbose=0)["loss"], rel=LOSS)


def test_updates_by_gradients_of_ones_own_are_those_of_the_cpu(device):
    x, y = data(6)
    host, other = both(optimizer=nnkit.Adam(0.01, global_clipnorm=0.1))
    for _ in range(3):
        for each in (host, other):
            first, second = (each.gradients(x[part], y[part]) for part in (slice(0, 3), slice(3, 6)))
            each.apply_gradients({name: (first[name] + second[name]) / 2 for name in first})
    for name, values in host.parameters.items():
        np.testing.assert_allclose(other.parameters[name], values, rtol=1e-5, atol=1e-6, err_msg=name)       # Adam divides by small roots
    assert other.counters[COUNTERS["step"]] == 3


def test_what_moves_between_host_and_device(device):
    """The data set once in a call, whatever the number of epochs and of tapes; predictions once an epoch; parameters when somebody asks."""
    x, y = data(401)
    trained = model()
    trained.fit(x, y, batch_size=100, epochs=1, verbose=0)
    parameters = trained.memory.view(trained.layout.buffers["parameters"]).nbytes
    device.written.clear()
    device.fetched.clear()
    trained.fit(x, y, batch_size=100, epochs=3, verbose=0)
    assert device.written.count(x.nbytes) == 1
    assert device.fetched.count(401 * 3 * 4) == 3
    assert max(device.fetched) == 401 * 3 * 4
    assert len(device.fetched) < 3 * (5 + 2) + 3         # words that Python reads, at most for each batch
    assert trained.parameters
    assert parameters <= max(device.fetched[-1:]) < 2 * parameters


def test_data_changed_in_place_between_two_calls_is_seen(device):
    x, _ = data()
    trained = model()
    before = trained.predict(x)
    x *= 2
    assert not np.allclose(trained.predict(x), before)


def test_what_the_host_writes_reaches_the_device(device, tmp_path):
    x, y = data()
    host, other = both()
    for each in (host, other):
        each.fit(x, y, batch_size=5, epochs=1, verbose=0)
        each.set_parameters({"dense/bias": np.linspace(-1, 1, 7), "dense_1/kernel": np.ones((7, 3))})
        each.learning_rate = 0.05
    np.testing.assert_allclose(other.predict(x), host.predict(x), rtol=0, atol=1e-6)
    same_history(*(each.fit(x, y, batch_size=5, epochs=2, verbose=0) for each in (other, host)))
    for each in (host, other):
        each.reset_optimizer()
    same_history(*(each.fit(x, y, batch_size=5, epochs=1, verbose=0) for each in (other, host)), rtol=1e-5)
    host.save_weights(tmp_path / "weights.safetensors")
    other.load_weights(tmp_path / "weights.safetensors")
    assert bits(other) == bits(host)
    np.testing.assert_allclose(other.predict(x), host.predict(x), rtol=0, atol=1e-6)
    assert len(other.copy_parameters(model(seed=9)).copied) == 4
    np.testing.assert_allclose(other.predict(x), model("cpu", seed=9).predict(x), rtol=0, atol=1e-6)


def test_views_are_read_only_and_brought_up_to_date(device):
    x, y = data()
    trained = model()
    view = trained.parameters["dense/kernel"]
    with pytest.raises(ValueError, match="read-only"):
        view[...] = 0
    before = view.copy()
    trained.fit(x, y, epochs=1, verbose=0)
    assert (trained.parameters["dense/kernel"] != before).any()
    assert trained.parameters["dense/kernel"] is view    # one array, as of the last time that anybody asked


class Watching(nnkit.Callback):
    """Reads and writes parameters, evaluates, within and between epochs."""

    def __init__(self, x, y):
        self.x, self.y, self.seen = x, y, []

    def on_train_batch_end(self, batch, logs):
        self.seen.append(float(self.model.parameters["dense/kernel"].sum()))

    def on_epoch_end(self, epoch, logs):
        self.seen += self.model.evaluate(self.x, self.y).values()
        if epoch == 0:
            self.model.set_parameters({"dense/bias": np.full(7, 0.1)})


def test_callbacks_read_and_write_what_is_trained(device):
    x, y = data()
    seen, histories = [], []
    for each in both():
        watching = Watching(x[:5], y[:5])
        histories.append(each.fit(x, y, batch_size=5, epochs=2, verbose=0, callbacks=watching))
        seen.append(watching.seen)
    same_history(*histories)
    np.testing.assert_allclose(*seen, rtol=1e-5)


def test_early_stopping_puts_the_best_weights_back(device):
    x, y = data()
    stopped = []
    for each in both(optimizer=nnkit.SGD(3.0)):
        stopping = nnkit.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
        each.fit(x, y, batch_size=5, epochs=5, verbose=0, callbacks=stopping, validation_data=(x, y))
        stopped.append((stopping.best_epoch, stopping.stopped_epoch))
        assert each.evaluate(x, y)["loss"] == pytest.approx(stopping.best, rel=LOSS)
    assert stopped[0] == stopped[1]
    assert stopped[0][1] > 0


def test_freezing_lays_out_anew(device):
    x, y = data()
    histories = []
    for each in both():
        each.fit(x, y, batch_size=5, epochs=1, verbose=0)
        each.freeze("dense")
        kernel = each.parameters["dense/kernel"].copy()
        histories.append(each.fit(x, y, batch_size=5, epochs=2, verbose=0))
        assert (each.parameters["dense/kernel"] == kernel).all()
        each.unfreeze()
        each.fit(x, y, batch_size=5, epochs=1, verbose=0)
        assert (each.parameters["dense/kernel"] != kernel).any()
    same_history(*histories)


def test_submodels_and_cached_frozen_layers_use_the_same_memory(device):
    x, y = data(16)
    spec = Sequential([Input((5,)), Dense(7, "relu", trainable=False), Dense(3, "softmax")])
    trained = [model(spec=spec) for _ in range(2)]
    part = trained[0].submodel(outputs="dense_1")
    before = part.predict(x)
    named = {"batch_size": 4, "epochs": 2, "verbose": 0}
    same_history(trained[0].fit(x, y, **named), trained[1].fit(x, y, cache_frozen=True, **named))      # one product has no chain on chip: other sums
    for name, values in trained[0].parameters.items():
        np.testing.assert_allclose(trained[1].parameters[name], values, rtol=0, atol=2e-6)
    assert part.backend == "cuda"
    assert (part.predict(x) == trained[0].predict(x)).all()
    assert (part.predict(x) != before).any()


def test_a_file_of_one_backend_loads_on_the_other(device, tmp_path):
    x, y = data()
    for saved, loaded in (("cpu", "cuda"), ("cuda", "cpu")):
        first = model(saved)
        first.fit(x, y, batch_size=5, epochs=1, verbose=0)
        first.save(tmp_path / "model.nnkit")
        other = nnkit.load(tmp_path / "model.nnkit", backend=loaded)
        assert (bits(other), other.backend) == (bits(first), loaded)
        same_history(*(each.fit(x, y, batch_size=5, epochs=1, verbose=0) for each in (first, other)))


def test_a_copy_is_on_the_backend_of_the_model(device):
    x, y = data()
    first = model("cuda")
    first.fit(x, y, batch_size=5, epochs=1, verbose=0)
    before = bits(first)
    other = copy.deepcopy(first)
    assert (bits(other), other.backend) == (before, "cuda")
    history = other.fit(x, y, batch_size=5, epochs=1, verbose=0)
    assert bits(first) == before != bits(other)
    same_history(history, first.fit(x, y, batch_size=5, epochs=1, verbose=0))
    assert bits(first) == bits(other)


class Stopping(nnkit.Callback):
    def on_interval_end(self, epoch, batch, logs):
        if (epoch, batch) == (1, 2):
            raise KeyboardInterrupt

    interval = 1


def test_a_fit_that_resumes_has_the_bits_of_one_that_was_not_stopped(device, tmp_path):
    x, y = data()
    path = tmp_path / "run.nnkit"
    named = {"batch_size": 4, "epochs": 3, "verbose": 0}
    whole = model()
    expected = whole.fit(x, y, **named)
    stopped = model()
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(x, y, **named, callbacks=[nnkit.ModelCheckpoint(str(path), every=1), Stopping()])
    resumed = model()
    found = resumed.fit(x, y, **named, resume=path, callbacks=[nnkit.ModelCheckpoint(str(path), every=1)])
    assert bits(resumed) == bits(whole)
    assert dict(found) == dict(expected)


def test_an_interrupted_run_leaves_host_and_device_agreed(device, monkeypatch):
    """Ctrl-C while the device works: what it has done counts."""
    x, y = data()
    trained = model()
    trained.fit(x, y, batch_size=4, epochs=1, verbose=0)
    run = ptx.PtxGraph.run

    def interrupted(self, times):
        run(self, times)
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(ptx.PtxGraph, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained.fit(x, y, batch_size=4, epochs=1, verbose=0)
    steps = 5 + 1                                        # of the first fit, and the first piece of the second
    assert trained.counters[COUNTERS["step"]] == steps
    trained.fit(x, y, batch_size=4, epochs=1, verbose=0)
    assert trained.counters[COUNTERS["step"]] == steps + 5
    counted = np.zeros(1, np.int64)
    device.read(trained.memory.address(trained.layout.buffers["counters"]), counted)
    assert counted[0] == steps + 5


def test_a_stream_of_chunks_gives_the_bits_of_a_resident_data_set(device, monkeypatch):
    x, y = data(31)
    results = []
    for room in (1 << 30, 40_000):
        limited = ptx.PtxDevice(room=room)
        monkeypatch.setattr(driver, "device", lambda limited=limited: limited)
        trained = model()
        monkeypatch.setattr("nnkit.runtime.device_feed.SHARE", 0.8 if room > 40_000 else 0.02)
        history = trained.fit(x, y, batch_size=4, epochs=3, verbose=0, validation_split=0.2)
        found = trained.evaluate(x, y, batch_size=8)
        results.append((dict(history), bits(trained), found, trained.predict(x, batch_size=3).tobytes()))
        streamed = trained.memory.hold(trained.data(x, y).arrays, {})
        assert streamed.streams == (room == 40_000)
        assert not streamed.streams or streamed.chunk_bytes < x.nbytes
    assert results[0] == results[1]


class OnDevice:
    """What another library has on a device."""

    def __init__(self, device, array, **changes):
        self.array = np.ascontiguousarray(array)
        self.shape = self.array.shape
        self.address = device.allocate(self.array.nbytes)
        device.write(self.address, self.array)
        self.__cuda_array_interface__ = {"shape": array.shape, "typestr": self.array.dtype.str, "data": (self.address, False), "version": 3,
                                         "strides": None, "stream": None, **changes}


def test_arrays_on_the_device_are_used_in_place(device):
    x, y = data(400)
    trained, other = model(metrics=()), model(metrics=())
    given = OnDevice(device, x)
    expected = other.fit(x, y, batch_size=100, epochs=1, verbose=0, validation_split=0.25)
    device.written.clear()
    device.fetched.clear()
    found = trained.fit(given, OnDevice(device, y), batch_size=100, epochs=1, verbose=0, validation_split=0.25)
    predictions = trained.predict(given)
    assert not {x.nbytes, x[:300].nbytes, x[300:].nbytes} & {*device.written, *device.fetched}
    assert (predictions == other.predict(x)).all()
    assert dict(found) == dict(expected)
    assert bits(trained) == bits(other)


@pytest.mark.parametrize(("array", "changes", "message"), [
    (np.zeros((4, 5)), {}, "x must be float32 to be used where it lies, received float64 on a GPU"),
    (np.zeros((4, 6), np.float32), {}, "x must have shape (samples, 5), received (4, 6)"),
    (np.zeros((4, 5), np.float32), {"strides": (4, 16)},
     "x must be C-contiguous to be used where it lies, received strides (4, 16) for shape (4, 5)"),
    (np.zeros((4, 5), np.float32), {"data": (64, False)},
     "x must lie on the GPU that the model uses, the first one, received OnDevice that lies elsewhere"),
])
def test_arrays_on_a_device_that_do_not_fit_are_refused(device, array, changes, message):
    trained = model()
    with pytest.raises(ValueError) as caught:            # noqa: PT011 - the whole message is compared
        trained.predict(OnDevice(device, array, **changes))
    assert str(caught.value) == message


def test_the_cpu_refuses_an_array_on_a_device(device):
    with pytest.raises(TypeError) as caught:
        model("cpu").predict(OnDevice(device, data()[0]))
    assert str(caught.value) == ("x must lie in the host's memory for backend 'cpu', received OnDevice on a GPU: "
                                 "copy it there first, or compile the model with backend='cuda'")


def test_masked_time_steps_do_not_count(device):
    rng = np.random.default_rng(5)
    x, y = rng.integers(0, 6, (9, 4)), rng.integers(0, 3, (9, 4))
    spec = Sequential([Input((4,)), nnkit.Embedding(6, 5, mask_zero=True), Dense(3, "softmax")])
    results = [each.fit(x, y, batch_size=4, epochs=2, verbose=0) for each in both(spec=spec)]
    same_history(*results)
    with pytest.raises(ValueError, match=r"^x must hold whole numbers from 0 to 5 \(indices of an Embedding\), received 6 at position \(0, 0\)$"):
        model(spec=spec).predict(OnDevice(device, np.full((1, 4), 6, np.int32)))


def test_networks_of_several_inputs_and_outputs(device):
    x, _ = data(9)
    a, b = Input((5,), name="a"), Input((5,), name="b")
    h = Dense(4, "tanh")(nnkit.Add()([a, b]))
    spec = Network([a, b], [Dense(2, name="left")(h), Dense(1, name="right")(h)])
    rng = np.random.default_rng(5)
    y = {"left": rng.standard_normal((9, 2)), "right": rng.standard_normal((9, 1))}
    results = [each.fit({"a": x, "b": x[::-1]}, y, batch_size=4, epochs=2, verbose=0) for each in both(spec=spec, loss="mse", metrics=())]
    same_history(*results)


def test_a_graph_trains_as_on_the_cpu(device):
    x, y = data(9)
    a, g = Input((5,)), nnkit.GraphInput()
    spec = Network([a, g], nnkit.GraphConv(3, activation="softmax")([a, g]))
    graph = (np.random.default_rng(5).random((9, 9)) < 0.2).astype(float)
    mask = np.arange(9) % 3 > 0
    results = [each.fit((x, graph), y, epochs=3, verbose=0, mask=mask, validation_mask=~mask) for each in both(spec=spec)]
    same_history(*results)


def test_graphs_of_one_size_have_other_plans_where_one_has_a_long_row(device, monkeypatch):
    """A path and a star, of as many nodes and entries: batches of either in turns. Only a plan for a device asks how long rows are."""
    monkeypatch.setattr("nnkit.prims.csr.DEVICE_CHUNK", 7)         # 16 rows of a path have 48 entries with loops, of the star 63: more than 8 * 7
    V = 33
    path, star = (np.stack([np.arange(V - 1) * along, np.arange(1, V)]) for along in (1, 0))
    graphs = [nnkit.graph.Adjacency.of(np.concatenate([edges, edges[::-1]], axis=1), nodes=V) for edges in (path, star)]
    x, y = data(V)
    a, g = Input((5,)), nnkit.GraphInput()
    host, other = both(spec=Network([a, g], nnkit.GraphConv(3, activation="softmax")([a, g])))
    for graph in (*graphs, *graphs):
        assert other.train_on_batch((x, graph), y)["loss"] == pytest.approx(host.train_on_batch((x, graph), y)["loss"], rel=LOSS)
    for graph in (*graphs, *graphs):
        np.testing.assert_allclose(other.predict((x, graph)), host.predict((x, graph)), rtol=0, atol=1e-6)

    def products(each):
        return [{kernel for kernel in tape.plan.kernels if ".csr" in kernel} for key, tape in each.tapes.items() if key[0] == "predict"]
    by_rows, along_the_walk = {"prims.csr_rows.product"}, {"prims.csr.csr_product", "prims.csr.csr_join"}
    assert products(other) == [by_rows, along_the_walk]
    assert len(products(host)) == 1


@pytest.mark.parametrize(("layers", "batch", "shape", "digits", "kernel", "of"), [
    ([Input((64,)), Dense(2)], 2 ** 26, "(67108864, 64)", 32, "prims.feed.gather_rows", "training"),
    ([Input((64, 64, 8)), nnkit.Conv2D(4, 1)], 2 ** 16, "(65536, 32768)", 31, "prims.implicit.implicit_forward_narrow", "layer 'conv2d'"),
])
def test_batches_that_kernels_cannot_count_are_refused(device, layers, batch, shape, digits, kernel, of):
    engine = nnkit.compile(Sequential(layers), backend="cuda")
    message = (f"backend 'cuda': arrays of a batch must have fewer than 2^{digits} numbers for {kernel!r}, received shape {shape} for {of}: "
               "use a smaller batch")
    engine.runtime.check(engine.build_plan("predict", batch - 1))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        engine.runtime.check(engine.build_plan("predict", batch))


def test_a_layer_without_kernels_is_refused_when_the_model_is_compiled(device, monkeypatch):
    monkeypatch.setattr(ptx_store, "has_kernel", lambda name: not name.endswith("dropout_apply"))
    with pytest.raises(ValueError) as caught:            # noqa: PT011 - the whole message is compared
        model()
    assert str(caught.value) == ("backend 'cuda' has no kernel 'layers.dropout.dropout_apply' yet, which layer 'dropout' needs: "
                                 "use backend 'cpu'")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_formula_that_does_not_compile_for_a_gpu_is_refused_when_the_model_is_compiled(device, dtype):
    """Numba compiles Python's generator for CPUs alone. What it says is of its own making; it is one line at most."""
    nnkit.register_activation("cuda_drawn", lambda x: x + 0 * random.random(), lambda x: type(x)(1))
    nnkit.register_activation("cuda_drawn_back", lambda x: x, lambda x: 1 + 0 * random.random())
    nnkit.register_loss("cuda_loss_drawn", lambda y, t: y + 0 * random.random(), lambda y, t: type(y)(1))

    def refused(activation, **named):
        spec = Sequential([Input((4,)), Dense(3, activation)])
        nnkit.compile(spec, dtype=dtype, **named)        # on the CPU it is right
        with pytest.raises(ValueError) as caught:        # noqa: PT011 - the message is compared
            nnkit.compile(spec, dtype=dtype, backend="cuda", **named)
        found = re.fullmatch("backend 'cuda': (.*) must be a function that Numba can compile for a GPU, received one of which it says: .+",
                             str(caught.value))
        return found[1] if found else str(caught.value)
    assert refused("cuda_drawn") == "f of 'cuda_drawn'"
    assert refused("cuda_drawn_back", optimizer="sgd", loss="mse") == "df of 'cuda_drawn_back'"
    assert refused("relu", loss="cuda_loss_drawn") == "f of 'cuda_loss_drawn'"
    nnkit.compile(Sequential([Input((4,)), Dense(3, "cuda_drawn_back")]), dtype=dtype, backend="cuda")         # predicts without its derivative


def test_the_plan_shows_launches(device):
    plan = model().plan
    lines = str(plan).splitlines()
    assert lines[0] == f"plan train, batch 32, float32: {len(plan.steps)} steps in {len(plan.groups)} launches"
    assert lines[1].split()[:2] == ["step", "launch.lane"]
    found = [line.split()[1] for line in lines[2:-1]]
    assert (found[0], len(set(found)), len({each.split(".")[0] for each in found})) == ("0.0", len(plan.lanes), len(plan.groups))


def test_backends_are_checked_first(monkeypatch):
    with pytest.raises(ValueError) as caught:            # noqa: PT011 - the whole message is compared
        nnkit.compile(network(), optimizer="nonsense", backend="gpu")
    assert str(caught.value) == "compile: backend must be 'cpu' or 'cuda', received 'gpu'"

    def missing():
        raise RuntimeError("backend 'cuda' needs an NVIDIA GPU and its driver, found none (none)")
    monkeypatch.setattr(driver, "device", missing)
    with pytest.raises(RuntimeError, match=r"^backend 'cuda' needs an NVIDIA GPU and its driver, found none \(none\)$"):
        nnkit.compile(network(), optimizer="nonsense", backend="cuda")


def test_importing_nnkit_imports_nothing_of_cuda():
    code = "import sys, nnkit; print([name for name in sys.modules if name.split('.')[0] in ('cuda', 'numba_cuda') or 'runtime.driver' in name])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_precision_and_library_of_large_products(device, tmp_path):
    """Plans alone: how such products are computed test_cuda_cores.py and test_cuda_blas.py check."""
    spec = Sequential([Input((784,)), Dense(1024, "relu"), Dense(1024, "relu"), Dense(10, "softmax")])
    kernels = {}
    for named in ({}, {"precision": "tf32"}, {"precision": "bfloat16"}, {"blas": True}, {"blas": True, "precision": "tf32"}):
        found = model(spec=spec, **named)
        kernels[str(named)] = {step.kernel for step in found.build_plan("train", 4096).steps}
        assert {step.kernel for step in found.submodel(outputs="dense_1").build_plan("predict", 4096).steps} & kernels[str(named)]
    tiles, tf32, bfloat16, library, fast = kernels.values()
    assert "layers.dense.dense_forward_128" in tiles
    assert "layers.dense.dense_forward_128_tf32" in tf32
    assert "layers.dense.dense_forward_128_bfloat16" in bfloat16
    assert "blas.product" in library
    assert "blas.product_tf32" in fast
    found.save(tmp_path / "model.nnkit")
    again = nnkit.load(tmp_path / "model.nnkit", backend="cuda", precision="bfloat16")
    assert {step.kernel for step in again.build_plan("train", 4096).steps} == bfloat16
