"""Weights out of Keras' files. How those in tests/data were made: make_keras_files.py, which also kept Keras' predictions.

Tolerance of predictions, float32: 1e-5 of the largest, ten times what another order of the sums costs.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import nnkit
from mutate import mutated
from nnkit import BatchNormalization, Bidirectional, Conv2D, Dense, Embedding, Flatten, Input, Sequential
from nnkit.io.keras_file import FileLayer, Weight, from_keras, read_layers
from nnkit.io.report import FormatError, compare
from sweeps import sweep_seed

DATA = Path(__file__).parent / "data"
EXPECTED = dict(np.load(DATA / "keras_expected.npz"))
STEPS = [DATA / f"keras_steps{form}" for form in (".weights.h5", ".keras", ".h5")]
ALL = [*STEPS, DATA / "keras_vgg_2016.h5", DATA / "keras_2.h5"]


def steps() -> Sequential:
    """The network of keras_steps, with names of nnkit's own where Keras' are its own."""
    inner = Sequential([Input((6, 3)), nnkit.Conv1D(3, 2, name="windows"), nnkit.PReLU(shared_axes=[1])], name="inner")
    both = Bidirectional(nnkit.LSTM(2, return_sequences=True))
    return Sequential([Input((6,)), Embedding(7, 4), both, nnkit.TimeDistributed(Dense(3)), BatchNormalization(), inner,
                       nnkit.GRU(3, reset_after=False), Dense(3, "relu"), Dense(2, name="head")])


def images(nested: bool = False, name: str | None = "predictions") -> Sequential:
    convolutions = [Conv2D(4, 3, padding="same", activation="relu", name=f"block1_conv{number}") for number in (1, 2)]
    base = [Input((8, 8, 3)), *convolutions, nnkit.MaxPooling2D(2)]
    rest = [Flatten(), Dense(3, "softmax", name=name)]
    return Sequential([Input((8, 8, 3)), Sequential(base, name="vgg16"), *rest] if nested else [*base, *rest])


def load(network: Any, path: Path, names: dict[str, str] | None = None) -> tuple[Any, tuple[str, ...]]:
    graph = network.graph()
    found, unused = from_keras(read_layers(path), graph, names)
    compare({name: parameter.shape for name, parameter in graph.parameters().items()}, found, unused).check(path.name)
    model = nnkit.compile(network, seed=1)
    model.set_parameters(found)
    return model, unused


def refused(error: type[ValueError], message: str) -> Any:
    """Expects the error with this very message."""
    return pytest.raises(error, match=f"^{re.escape(message)}$")


def assert_predicts(model: Any, batch: str, expected: str) -> None:
    np.testing.assert_allclose(model.predict(EXPECTED[batch]), EXPECTED[expected], rtol=0, atol=1e-5 * np.abs(EXPECTED[expected]).max())


@pytest.mark.parametrize("path", STEPS, ids=lambda path: path.name)
def test_three_forms_predict_as_in_keras(path: Path) -> None:
    model, unused = load(steps(), path)
    assert unused == ()
    assert_predicts(model, "words", "steps")


def test_layers_have_names_kinds_and_weights() -> None:
    first, second, third = map(read_layers, STEPS)
    assert [(layer.name, layer.kind) for layer in second] == [
        ("embedding", "embedding"), ("bidirectional", "bidirectional"), ("time_distributed", "time_distributed"),
        ("batch_normalization_3", "batch_normalization"), ("inner", "network"), ("gru_3", "gru"), ("dense_4", "dense"), ("head", "dense")]
    assert [(layer.name, layer.kind) for layer in third] == [(layer.name, layer.kind) for layer in second]
    assert {(layer.name, layer.kind) for layer in first} == {(layer.name, layer.kind.replace("network", "sequential")) for layer in second}
    assert [(layer.name, layer.kind, layer.path) for layer in second[4].layers] == [
        ("windows", "conv1d", "/layers/sequential/layers/conv1d"), ("p_re_lu", "p_re_lu", "/layers/sequential/layers/p_re_lu")]
    assert [weight.name for weight in third[1].weights][:2] == ["sequential/bidirectional/forward_lstm/lstm_cell/kernel",
                                                                "sequential/bidirectional/forward_lstm/lstm_cell/recurrent_kernel"]
    assert [weight.array.shape for weight in second[1].weights] == [weight.array.shape for weight in third[1].weights]


def test_public_layout_of_2016() -> None:
    model, unused = load(images(), DATA / "keras_vgg_2016.h5")
    assert unused == ()
    assert_predicts(model, "pictures", "vgg_2016")
    assert [layer.name for layer in read_layers(DATA / "keras_vgg_2016.h5")] == ["input_1", "block1_conv1", "block1_conv2", "block1_pool", "flatten",
                                                                                "predictions"]


@pytest.mark.parametrize("name", [None, "dense_5"])
def test_layout_of_keras_2(name: str | None) -> None:
    """Names in chunks, a nested network in one group; the last layer by its class and order, or by its name."""
    model, unused = load(images(nested=True, name=name), DATA / "keras_2.h5")
    assert unused == ()
    assert_predicts(model, "pictures", "2")


def test_names_say_which_layer_is_which() -> None:
    model, unused = load(images(name="mine"), DATA / "keras_2.h5", {"block1_*": "vgg16/block1_*", "mine": "dense_5"})
    assert unused == ()
    assert_predicts(model, "pictures", "2")
    _, unused = load(Sequential(images().layers[:4]), DATA / "keras_2.h5", {"*": "vgg16/*"})
    assert unused == ("dense_5/kernel", "dense_5/bias")


def test_a_part_of_the_network_leaves_the_rest() -> None:
    _, unused = load(Sequential(images().layers[:4]), DATA / "keras_vgg_2016.h5")
    assert unused == ("predictions/predictions_W_1", "predictions/predictions_b_1")


def test_a_layer_that_only_the_network_names_is_missing() -> None:
    """A new head: names that were given on both sides and differ never belong together; the same where `names` names what is not there."""
    for name, names in (("head", None), (None, {"dense": "new"})):
        found, unused = from_keras(read_layers(DATA / "keras_vgg_2016.h5"), images(name=name).graph(), names)
        assert len(found) == 4
        assert unused == ("predictions/predictions_W_1", "predictions/predictions_b_1")


def test_another_architecture_names_both_shapes() -> None:
    network = Sequential([Input((8, 8, 1)), *images().layers[1:]])
    with refused(ValueError, "keras_vgg_2016.h5 does not fit the network: block1_conv1/kernel of shape (3, 3, 1, 4) has shape (3, 3, 3, 4) there"):
        load(network, DATA / "keras_vgg_2016.h5")


def test_another_number_of_layers_asks_for_names() -> None:
    network = Sequential([Input((6,)), Embedding(7, 4), Flatten(), Dense(3), Dense(4), Dense(2)])
    with refused(ValueError, "neither names nor order tell which layers of kind dense belong together: the network has dense of (24, 3) and (3,), "
                             "dense_1 of (3, 4) and (4,), dense_2 of (4, 2) and (2,); the file has dense_4 of (3, 3) and (3,), "
                             "head of (3, 2) and (2,); say it by names={'dense': 'dense_4', ...}"):
        from_keras(read_layers(STEPS[0]), network.graph())


def test_names_in_nested_networks_are_whole() -> None:
    inner = Sequential([Input((6, 3)), nnkit.Conv1D(3, 2), nnkit.Conv1D(3, 2), Dense(1)], name="inner")
    there = [FileLayer("inner", "sequential", "/layers/sequential", (), (FileLayer("conv1d_4", "conv1d", "/x", (Weight(None, np.ones(3)),)),))]
    network = Sequential([Input((6, 3)), inner])
    with refused(ValueError, "neither names nor order tell which layers of kind conv1d belong together: the network has inner/conv1d of (2, 3, 3) "
                             "and (3,), inner/conv1d_1 of (2, 3, 3) and (3,); the file has inner/conv1d_4 of (3,); "
                             "say it by names={'inner/conv1d': 'inner/conv1d_4', ...}"):
        from_keras(there, network.graph())
    found, unused = from_keras(there, network.graph(), {"inner/conv1d": "inner/conv1d_4"})
    assert found == {}                                   # one array for two parameters: nothing is guessed
    assert unused == ("inner/conv1d_4/0",)


def test_no_layer_at_all_asks_for_names() -> None:
    network = Sequential([Input((8, 8, 3)), Conv2D(4, 3, name="first"), Flatten(), Dense(3, name="last")])
    with refused(ValueError, "no layer of the network (first, last) is in the file (block1_conv1, block1_conv2, predictions); say which is which by "
                             "names={'first': 'block1_conv1', ...}"):
        from_keras(read_layers(DATA / "keras_vgg_2016.h5"), network.graph())


def entries(kind: str, *names: str | None) -> list[FileLayer]:
    """Layers of Dense(2) on two features in a file; the array holds their number."""
    return [FileLayer(name, kind, f"/layers/{kind}_{number}", (Weight(None, np.full((2, 2), number)), Weight(None, np.zeros(2)))) for number, name
            in enumerate(names)]


def order_of(own: tuple[str | None, ...], there: tuple[str | None, ...]) -> list[int | None]:
    graph = Sequential([Input((2,)), *(Dense(2, name=name) for name in own)]).graph()
    found, _ = from_keras(entries("dense", *there), graph)
    return [int(found[f"{node.name}/kernel"][0, 0]) if f"{node.name}/kernel" in found else None for node in graph.nodes[1:]]


def test_order_is_asked_only_where_a_name_was_made() -> None:
    assert order_of((None, None), ("dense_7", "dense_8")) == [0, 1]
    assert order_of((None, None), ("dense_1", "dense_2")) == [0, 1]              # not the one of that name, dense_1
    assert order_of((None, None), (None, None)) == [0, 1]
    assert order_of(("a", "b"), ("dense_7", "dense_8")) == [0, 1]
    assert order_of((None, None), ("a", "b")) == [0, 1]
    assert order_of(("b", None), ("a", "b")) == [1, 0]
    assert order_of(("b", "c"), ("a", "b")) == [1, None]
    assert order_of(("b", None, None), ("a", "b", "c", "d")) == [1, None, None]
    with pytest.raises(ValueError, match="neither names nor order tell which layers of kind dense"):
        order_of((None, None), ("dense", "dense_1", "dense_2"))
    with pytest.raises(ValueError, match="neither names nor order tell which layers of kind dense"):
        order_of(("a", None), ("b", "dense_1"))


def test_nested_networks_of_two_classes_go_by_class_where_the_file_has_no_order() -> None:
    """Files name a Sequential's group and a functional network's apart, so their order among each other is lost."""
    def order(own: str, *kinds: str) -> list[int]:
        """Where the kernel comes from, of nested networks with a Dense each; own: s for a Sequential, n for a Network."""
        networks = [Sequential([Input((2,)), Dense(2)]) if each == "s" else nnkit.Network(x := Input((2,)), Dense(2)(x)) for each in own]
        there = [FileLayer(None, kind, f"/layers/{number}", (), (FileLayer(None, "dense", "/x", (Weight(None, np.full((2, 2), number)),
                                                                                              Weight(None, np.zeros(2)))),))
                 for number, kind in enumerate(kinds)]
        graph = Sequential([Input((2,)), *networks]).graph()
        found, unused = from_keras(there, graph)
        assert unused == ()
        return [int(found[f"{node.name}/kernel"][0, 0]) for node in graph.nodes[1:]]

    assert order("sn", "sequential", "functional") == order("ns", "functional", "sequential") == [0, 1]
    assert order("sn", "functional", "sequential") == order("ns", "sequential", "functional") == [1, 0]
    assert order("ss", "sequential", "sequential") == order("nn", "functional", "functional") == [0, 1]
    for own in ("ss", "nn"):
        with pytest.raises(ValueError, match="neither names nor order tell which layers of kind network belong together"):
            order(own, "sequential", "functional")


def test_weights_are_told_by_their_names_where_these_are_known() -> None:
    """Keras 2 kept trainable weights first, and calls the kernel of a depthwise convolution depthwise_kernel."""
    def found(layer: Any, shape: tuple[int, ...], *names: str) -> dict[str, int]:
        weights = tuple(Weight(f"x/{name}:0", np.array(number)) for number, name in enumerate(names))
        arrays, _ = from_keras([FileLayer("x", None, "/x", weights)], Sequential([Input(shape), layer]).graph())
        return {name: int(array) for name, array in arrays.items()}

    kept = found(BatchNormalization(name="x", scale=False), (3,), "gamma", "moving_mean", "moving_variance")
    assert kept == {"x/moving_mean": 1, "x/moving_variance": 2}
    assert found(Dense(2, name="x"), (3,), "bias", "kernel") == {"x/kernel": 1, "x/bias": 0}
    assert found(Dense(2, name="x"), (3,), "x_W", "x_b") == {"x/kernel": 0, "x/bias": 1}
    assert found(Dense(2, name="x"), (3,), "x_W") == {}
    assert found(nnkit.DepthwiseConv2D(3, name="x"), (5, 5, 1), "depthwise_kernel", "bias") == {"x/kernel": 0, "x/bias": 1}
    assert found(nnkit.SeparableConv2D(2, 3, name="x"), (5, 5, 1), "depthwise_kernel", "pointwise_kernel", "bias") == {
        "x/depthwise_kernel": 0, "x/pointwise_kernel": 1, "x/bias": 2}
    parts = [f"{way}_lstm_4/lstm_cell_9/{name}" for way in ("backward", "forward") for name in ("kernel", "recurrent_kernel", "bias")]
    assert found(Bidirectional(nnkit.LSTM(2), name="x"), (5, 1), *parts) == {
        "x/forward_lstm/kernel": 3, "x/forward_lstm/recurrent_kernel": 4, "x/forward_lstm/bias": 5,
        "x/backward_lstm/kernel": 0, "x/backward_lstm/recurrent_kernel": 1, "x/backward_lstm/bias": 2}


def test_an_activation_with_parameters_is_a_layer_in_keras() -> None:
    there = [*entries("dense", "dense_3"), FileLayer("p_re_lu_5", "p_re_lu", "/layers/p_re_lu", (Weight(None, np.ones(2)),))]
    graph = Sequential([Input((2,)), Dense(2, nnkit.PReLU())]).graph()
    assert from_keras(there, graph)[0].keys() == {"dense/kernel", "dense/bias", "dense/alpha"}
    assert from_keras(there, graph, {"dense": "dense_3", "dense/alpha": "p_re_lu_5"})[0].keys() == {"dense/kernel", "dense/bias", "dense/alpha"}


# Files that are not as they must be.

def written(path: Path, write: Callable[[Any], None], **options: Any) -> Path:
    with h5py.File(path, "w", **options) as file:
        write(file)
    return path


def a_layer(file: Any, **options: Any) -> None:
    file.attrs["layer_names"] = [b"dense"]
    group = file.create_group("dense")
    group.attrs["weight_names"] = [b"kernel:0"]
    if options:
        group.create_dataset("kernel:0", **options)


def compressed(file: Any) -> None:
    a_layer(file, data=np.zeros((64, 64), "f4"), compression="gzip")


def chunked(file: Any) -> None:
    a_layer(file, data=np.zeros((64, 64), "f4"), chunks=(8, 8))


def text(file: Any) -> None:
    a_layer(file, data=[b"abc"])


def soft_link(file: Any) -> None:
    a_layer(file)
    file["dense/kernel:0"] = h5py.SoftLink("/elsewhere")


def hard_link(file: Any) -> None:
    a_layer(file, data=np.zeros(3, "f4"))
    file["dense"].attrs["weight_names"] = [b"kernel:0", b"bias:0"]
    file["dense/bias:0"] = file["dense/kernel:0"]


def loop(file: Any) -> None:
    file.create_group("layers/dense/vars")
    file["layers/dense/cell"] = file["layers"]


def external(file: Any) -> None:
    a_layer(file, shape=(4,), dtype="f4", external=[("elsewhere.bin", 0, 16)])


def missing(file: Any) -> None:
    a_layer(file)


REFUSED: list[tuple[Callable[[Any], None], dict[str, Any], str]] = [
    (compressed, {}, "its dataset '/dense/kernel:0' is compressed, and nnkit reads arrays that are stored plainly"),
    (chunked, {}, "its dataset '/dense/kernel:0' is stored in chunks or in an unknown way, and nnkit reads arrays that are stored plainly"),
    (text, {}, "its dataset '/dense/kernel:0' must hold numbers"),
    (external, {}, "its dataset '/dense/kernel:0' lies in another file, and nnkit reads arrays that are stored plainly"),
    (missing, {}, "'/dense' must hold 'kernel:0', and it holds nothing"),
    (soft_link, {}, "/dense/kernel:0 is a link to another place, and weights must lie where their names say"),
    (hard_link, {}, "'/dense/bias:0' and '/dense/kernel:0' are one object"),
    (loop, {}, "'/layers/dense/cell' and '/layers' are one object"),
    (missing, {"libver": "latest"}, "it has the newer form of HDF5 (libver='latest'): copy it with h5py without that"),
    (missing, {"track_order": True}, "'/' has the newer form of HDF5 (libver='latest', track_order=True): copy it with h5py without these"),
]


@pytest.mark.parametrize(("write", "options", "fault"), REFUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_refuses_what_keras_does_not_write(write: Callable[[Any], None], options: dict[str, Any], fault: str, tmp_path: Path) -> None:
    path = written(tmp_path / "file.h5", write, **options)
    with refused(FormatError, f"{str(path)!r} is damaged, or not as Keras writes it: {fault}"):
        read_layers(path)


def test_other_files(tmp_path: Path) -> None:
    path, whole = tmp_path / "file", STEPS[0].read_bytes()
    config, inside = (zipfile.ZipFile(STEPS[1]).read(name) for name in ("config.json", "model.weights.h5"))

    def archive(**members: bytes) -> bytes:
        with zipfile.ZipFile(path, "w") as made:
            for name, content in members.items():
                made.writestr(name.replace("_", "."), content, zipfile.ZIP_DEFLATED if content is inside and "packed" in members else None)
        return path.read_bytes()

    file, both = repr(str(path)), "must be a .keras archive with config.json and model.weights.h5:"
    faults = {
        b"": f"{file} must be an HDF5 file, received one that begins with b''",
        b"not a weight file": f"{file} must be an HDF5 file, received one that begins with b'not a we'",
        whole[:5000]: f"{file} is cut short: it must have {len(whole)} bytes, received 5000",
        whole[:20]: f"{file} is damaged, or not as Keras writes it: it refers to 24 bytes at byte 24, and has 20",
        b"PK\x03\x04": f"{file} {both} File is not a zip file",
        archive(config_json=config): f"{file} {both} \"There is no item named 'model.weights.h5' in the archive\"",
        archive(config_json=config, model_weights_h5=inside, packed=b""): f"model.weights.h5 in {file} must be stored uncompressed, as Keras does",
        archive(config_json=b"{", model_weights_h5=inside):
            f"the config in {file} must be JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        archive(config_json=config, model_weights_h5=whole[:5000]):
            f"model.weights.h5 in {file} is cut short: it must have {len(whole)} bytes, received 5000",
    }
    for content, message in faults.items():
        path.write_bytes(content)
        with refused(FormatError, message):
            read_layers(path)


def test_no_weights(tmp_path: Path) -> None:
    path = written(tmp_path / "file.h5", lambda file: file.create_group("data"))
    fault = "must hold weights that Keras wrote: neither the attribute layer_names nor layers with variables are there"
    with refused(FormatError, f"{str(path)!r} {fault}"):
        read_layers(path)
    with pytest.raises(FileNotFoundError):
        read_layers(tmp_path / "none.h5")


def test_reads_without_h5py() -> None:
    code = ("import sys; sys.modules['h5py'] = None; from nnkit.io.keras_file import read_layers; "
            f"print([len(read_layers(path)) for path in {[*map(str, ALL)]!r}])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[8, 8, 8, 6, 4]\n"


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", "<i4", ">u2", "i1"])
def test_arrays_of_all_numbers(dtype: str, tmp_path: Path) -> None:
    values = np.arange(6).reshape(2, 3).astype(dtype)
    path = written(tmp_path / "file.h5", lambda file: a_layer(file, data=values))
    (layer,), (empty,) = read_layers(path), read_layers(written(tmp_path / "empty.h5", lambda file: a_layer(file, data=values[:, :0])))
    array = layer.weights[0].array
    assert array.dtype == values.dtype.newbyteorder("=")
    np.testing.assert_array_equal(array, values)
    assert empty.weights[0].array.shape == (2, 0)


def test_old_names_of_groups_and_models_made_of_attributes(tmp_path: Path) -> None:
    """Keras 2.13 calls the group of layers otherwise and gives no names; a subclassed model has its attributes' names; numbers count as numbers."""
    def old(file: Any) -> None:
        for number in range(12):
            file[f"_layer_checkpoint_dependencies/dense{f'_{number}' * (number > 0)}/vars/0"] = np.full((2, 2), number, "f4")

    def own_class(file: Any) -> None:
        file["encoder/vars/0"], file["encoder/vars/1"], file["optimizer/vars/0"] = np.ones((2, 2), "f4"), np.ones(2, "f4"), 1
        file["encoder/vars"].attrs["name"] = "dense_4"
        file["stack/dense/vars/0"], file["layers/dense/vars/0"] = np.ones((2, 2), "f4"), np.ones((2, 2), "f4")
        file.create_group("random/seed_generator/vars")

    layers = read_layers(written(tmp_path / "old.h5", old))
    assert [int(layer.weights[0].array[0, 0]) for layer in layers] == [*range(12)]
    assert {(layer.name, layer.kind) for layer in layers} == {(None, "dense")}
    layers = read_layers(written(tmp_path / "own.h5", own_class))
    assert [(layer.name, layer.kind, len(layer.weights), len(layer.layers)) for layer in layers] == [
        (None, "dense", 1, 0), ("dense_4", None, 2, 0), ("stack", None, 0, 1)]


def test_thousands_of_layers(tmp_path: Path) -> None:
    """Trees of more than one level, and headers that go on elsewhere; reading them all stays within what is counted."""
    def many(file: Any) -> None:
        for number in range(3000):
            group = file.create_group(f"layers/dense{f'_{number}' * (number > 0)}/vars")
            group.attrs["name"] = f"layer{number}"
            group["0"], group["1"] = np.full((1, 1), number, "f4"), np.zeros(1, "f4")

    def legacy(file: Any) -> None:
        names = [f"layer{number}" for number in range(3000)]
        for number in range(3):
            file.attrs[f"layer_names{number}"] = names[1000 * number:1000 * (number + 1)]      # as texts elsewhere, in global heaps
        for number, name in enumerate(names):
            file.create_group(name).attrs["weight_names"] = [f"{name}/kernel:0".encode()]
            file[f"{name}/{name}/kernel:0"] = np.full((1, 1), number, "f4")

    for write in (many, legacy):
        layers = read_layers(written(tmp_path / "file.h5", write))
        assert [(layer.name, int(layer.weights[0].array[0, 0])) for layer in layers] == [(f"layer{number}", number) for number in range(3000)]


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    """As h5py keeps it for Keras, opaque, and as a float of its own."""
    values = np.array([1.0, -2.5, 3e38], np.float32).view(np.uint32) >> 16 << 16
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_size(2)
    kind.set_ebias(127)
    upper = (values >> 16).astype("<u2")

    def own_float(file: Any) -> None:
        a_layer(file)
        made = h5py.h5d.create(file["dense"].id, b"kernel:0", kind, h5py.h5s.create_simple((3,)))
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, upper, kind)

    for write in (own_float, lambda file: a_layer(file, data=upper.view("V2"))):
        (layer,) = read_layers(written(tmp_path / "file.h5", write))
        np.testing.assert_array_equal(layer.weights[0].array, values.view(np.float32))


# Damaged files.

def fuzz(damaged: Iterator[bytes], path: Path) -> dict[str, int]:
    """How many damaged files were read and refused; raises what is neither FormatError nor a ValueError that asks for names."""
    outcomes = {"read": 0, "refused": 0}
    graph = steps().graph()
    for content in damaged:
        path.write_bytes(content)
        try:
            layers = read_layers(path)
        except FormatError:
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        try:
            for array in from_keras(layers, graph)[0].values():
                array.tobytes()                          # every byte is there
        except ValueError as error:
            assert "names={" in str(error)  # noqa: PT017
    return outcomes


def with_other_words(content: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Copies with some of their words of 8 bytes, which most addresses and lengths are, changed into others that might be such."""
    draw, size = random.Random(seed), len(content)
    for _ in range(count):
        copy = bytearray(content)
        for _ in range(draw.choice((1, 1, 2, 3))):
            place, other = (8 * draw.randrange(size // 8) for _ in range(2))
            words = (other, draw.randrange(size), size - other, 2 ** 64 - 1, 2 ** 63, 2 ** 32, 1, 0)
            copy[place:place + 8] = content[other:other + 8] if draw.random() < 0.3 else draw.choice(words).to_bytes(8, "little")
        yield bytes(copy)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_damaged_files_are_refused(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    outcomes = fuzz(chain(mutated(content, 1, 100), with_other_words(content, 1, 50)), tmp_path / "damaged")
    assert min(outcomes.values()) > 10


@pytest.mark.sweep
@pytest.mark.parametrize("block", range(10))
def test_sweep_of_damaged_files(block: int, tmp_path: Path) -> None:
    seed = 100 * sweep_seed() + block
    for path in ALL:
        content = path.read_bytes()
        print(fuzz(chain(mutated(content, seed, 600), with_other_words(content, seed, 400)), tmp_path / "damaged"))
