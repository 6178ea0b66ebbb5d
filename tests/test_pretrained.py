"""Weights by reference: fields, JSON, which file is read for which network, its hash, files that are fetched, and everything that is refused.

What stands in files is read by a stand-in for `read_weights` here, which notes how it was called; the readers have tests of their own.
"""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import socket
import sys
import threading

import numpy as np
import pytest

import nnkit
from helpers import refused
from nnkit import Dense, Input, Network, Pretrained, Sequential, from_json, to_json
from nnkit.io import FormatError, weights
from nnkit.models import resnet, vgg16
from nnkit.pretrained import data_folder

DIGITS = "0123456789abcdef"
URL = "https://example.org/models/small-1.pth"

base = Sequential([Input((3,)), Dense(4, "relu", name="first"), Dense(2, name="second")], name="base")


def with_weights(reference, **fields):
    return Sequential(base.layers, name="base", weights=reference, **fields)


@pytest.fixture
def files(monkeypatch):
    """A stand-in for read_weights: path -> arrays by own name; calls are noted."""
    class Files(dict):
        calls: list = []  # noqa: RUF012

        def read(self, path, graph, names=None):
            self.calls.append((str(path), list(graph.parameters()), names))
            return self[str(path)], ("spare",)
    found = Files()
    found.calls = []
    monkeypatch.setattr(weights, "read_weights", found.read)
    return found


@pytest.fixture
def file(tmp_path, files):
    """A file, the first bytes of which are those of Keras', and what "stands in it"."""
    path = tmp_path / "base.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    rng = np.random.default_rng(0)
    files[str(path)] = {name: rng.standard_normal(declared.shape) for name, declared in base.graph().parameters().items()}
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Specs.

@pytest.mark.parametrize("reference", [
    Pretrained("x.h5"),
    Pretrained("~/a b/x.pt", hash="md5:" + 2 * DIGITS),
    Pretrained(URL, hash="sha256:" + DIGITS[:8]),
    Pretrained("C:\\models\\x.h5", names={"a": "b", "c*": "d.*"}),
    Pretrained("x", names=[["a", "b"]], torch_names=(("a", "c"),), hash="sha256:" + 4 * DIGITS),
])
def test_references_are_values(reference):
    assert eval(repr(reference), {"Pretrained": Pretrained}) == reference
    assert from_json(to_json(reference)) == reference
    assert hash(from_json(to_json(reference))) == hash(reference)
    x = Input((3,))
    for network in (with_weights(reference), Network(x, with_weights(reference)(x)), Network(x, base(x), weights=reference, trainable=False)):
        assert from_json(to_json(network)) == network == eval(repr(network), vars(nnkit))
        assert hash(from_json(to_json(network))) == hash(network)
    assert with_weights(reference) != base


def test_paths_and_dicts_become_fields(tmp_path):
    assert Pretrained(tmp_path / "x.h5", names={"a": "b"}) == Pretrained(str(tmp_path / "x.h5"), names=(("a", "b"),))
    assert with_weights(tmp_path / "x.h5").weights == with_weights(str(tmp_path / "x.h5")).weights == Pretrained(str(tmp_path / "x.h5"))
    assert repr(base).find("weights") == -1


def test_json_without_the_field_is_read():
    """Written before networks had weights."""
    text = to_json(base)
    assert ', "weights": null' in text
    assert from_json(text.replace(', "weights": null', "")) == base


HASH = "Pretrained: hash must be 'md5:' with 32 digits, 'sha256:' with the first 8 to 64 digits, in lower case, or None, received"
PATH = "Pretrained: path must be the path of a file or the https:// address of one, received"
NAMES = "must be pairs (own name of a layer, its name in the file), each own name once, or None, received"


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Pretrained(""), f"{PATH} ''"),
    (lambda: Pretrained(5), f"{PATH} 5"),
    (lambda: Pretrained("a\0b"), f"{PATH} 'a\\x00b'"),
    (lambda: Pretrained("ftp://example.org/x.h5"), f"{PATH} 'ftp://example.org/x.h5'"),
    (lambda: Pretrained("file:///etc/x.h5"), f"{PATH} 'file:///etc/x.h5'"),
    (lambda: Pretrained("https://example.org"), f"{PATH} 'https://example.org'"),
    (lambda: Pretrained("https://example.org/"), f"{PATH} 'https://example.org/'"),
    (lambda: Pretrained("https://example.org/a/.."), f"{PATH} 'https://example.org/a/..'"),
    (lambda: Pretrained("https://example.org/a\\b"), f"{PATH} 'https://example.org/a\\\\b'"),
    (lambda: Pretrained("x", hash="sha256:" + DIGITS[:7]), f"{HASH} 'sha256:{DIGITS[:7]}'"),
    (lambda: Pretrained("x", hash="sha256:" + 4 * DIGITS + "0"), f"{HASH} 'sha256:{4 * DIGITS}0'"),
    (lambda: Pretrained("x", hash="md5:" + DIGITS), f"{HASH} 'md5:{DIGITS}'"),
    (lambda: Pretrained("x", hash="sha256:" + DIGITS.upper()), f"{HASH} 'sha256:{DIGITS.upper()}'"),
    (lambda: Pretrained("x", hash=DIGITS), f"{HASH} '{DIGITS}'"),
    (lambda: Pretrained("x", hash=b"md5:"), f"{HASH} b'md5:'"),
    (lambda: Pretrained("x", names="ab"), f"Pretrained: names {NAMES} 'ab'"),
    (lambda: Pretrained("x", names=[("a", "b", "c")]), f"Pretrained: names {NAMES} (('a', 'b', 'c'),)"),
    (lambda: Pretrained("x", names=["ab"]), f"Pretrained: names {NAMES} ('ab',)"),
    (lambda: Pretrained("x", torch_names=[("a", "b"), ("a", "c")]), f"Pretrained: torch_names {NAMES} (('a', 'b'), ('a', 'c'))"),
    (lambda: Pretrained("x", names={"a": 1}), f"Pretrained: names {NAMES} (('a', 1),)"),
    (lambda: with_weights(5), "Sequential: weights must be a Pretrained, a path or None, received 5"),
    (lambda: with_weights(Dense(1)), "Sequential: weights must be a Pretrained, a path or None, received Dense(1)"),
])
def test_refused_fields(make, message):
    refused(message, make)


def test_a_network_refuses_weights_that_are_none():
    x = Input((3,))
    refused("Network: weights must be a Pretrained, a path or None, received []", Network, x, base(x), weights=[])


# What compile does.

def test_compile_reads_the_file(file, files):
    model = nnkit.compile(with_weights(file), seed=3)
    for name, values in files[str(file)].items():
        np.testing.assert_array_equal(model.parameters[name], values.astype(np.float32))
    assert files.calls == [(str(file), ["first/kernel", "first/bias", "second/kernel", "second/bias"], None)]
    files[str(file)]["first/kernel"][:] = 7                          # it keeps copies
    assert (model.parameters["first/kernel"] != 7).all()


def test_the_rest_is_drawn_as_ever(file, files):
    """A nested network's parameters have its name in front, its file has not; the others are what the same seed makes without the file."""
    spec = Sequential([Input((3,)), Dense(3, name="below"), with_weights(file), Dense(1, name="head")])
    model = nnkit.compile(spec, seed=3)
    plain = nnkit.compile(Sequential([*spec.layers[:2], base, spec.layers[3]]), seed=3)
    for name in plain.parameters:
        own = name.startswith("base/")
        expected = files[str(file)][name.removeprefix("base/")].astype(np.float32) if own else plain.parameters[name]
        np.testing.assert_array_equal(model.parameters[name], expected, err_msg=name)
    assert files.calls[0][1] == ["first/kernel", "first/bias", "second/kernel", "second/bias"]


def test_networks_in_networks(file, files, tmp_path):
    """Two levels down in a Network; a network that is called twice is read once; one within another that has a file is not read."""
    x, again = Input((3,)), with_weights(file)
    shared = Network(x, nnkit.Add()([again(x), again(Dense(3)(x))]), name="pair")
    model = nnkit.compile(Sequential([Input((3,)), shared, Dense(1)]))
    np.testing.assert_array_equal(model.parameters["pair/base/second/kernel"], files[str(file)]["second/kernel"].astype(np.float32))
    assert len(files.calls) == 1
    outer = tmp_path / "outer.h5"
    outer.write_bytes(b"x")
    whole = Sequential([Input((3,)), with_weights("not there"), Dense(1)], weights=outer)
    files[str(outer)] = {name: np.full(declared.shape, 5.0) for name, declared in whole.graph().parameters().items()}
    assert all((values == 5).all() for values in nnkit.compile(whole).parameters.values())
    assert [path for path, *_ in files.calls] == [str(file), str(outer)]


def test_frozen_and_trained(file, files):
    """A frozen nested network keeps what the file holds; one that is not frozen starts there."""
    x, y = np.random.default_rng(0).standard_normal((8, 3)), np.zeros((8, 1))
    for trainable in (False, True):
        spec = Sequential([Input((3,)), with_weights(file, trainable=trainable), Dense(1)])
        model = nnkit.compile(spec, optimizer="adam", loss="mse")
        before = model.predict(x)
        model.train_on_batch(x, y)
        kept = [np.array_equal(model.parameters[f"base/{name}"], values.astype(np.float32)) for name, values in files[str(file)].items()]
        assert all(kept) if not trainable else not any(kept)
        assert (model.predict(x) != before).any()


def test_submodels_read_nothing(file, files):
    model = nnkit.compile(with_weights(file))
    np.testing.assert_array_equal(model.submodel(outputs="second").predict([[1, 2, 3]]), model.predict([[1, 2, 3]]))
    assert len(files.calls) == 1


def test_a_part_takes_its_share(file, files):
    model = nnkit.compile(Sequential([Input((3,)), with_weights(file).part(outputs="first", name="begin"), Dense(1)]))
    np.testing.assert_array_equal(model.parameters["begin/first/kernel"], files[str(file)]["first/kernel"].astype(np.float32))
    assert files.calls[0][1] == ["first/kernel", "first/bias"]


def test_freezing_does_not_read_again(file, files):
    """The spec that `freeze` makes names the file as before; what was trained stays."""
    model = nnkit.compile(Sequential([Input((3,)), with_weights(file), Dense(1)]), optimizer="sgd", loss="mse")
    model.set_parameters({"base/first/bias": np.full(4, 9)})
    model.freeze("base")
    assert model.spec.layers[1].weights == Pretrained(file)
    assert (model.parameters["base/first/bias"] == 9).all()
    assert len(files.calls) == 1


def test_declaring_reads_nothing():
    """A spec may name a file that is not there: only compile looks."""
    spec = Sequential([Input((3,)), with_weights("not there"), Dense(1)])
    assert from_json(to_json(spec)) == spec
    assert spec.graph().output_shapes == ((1,),)


def test_states_of_rows_are_not_asked_for(tmp_path, files):
    """What a stateful layer keeps of each row of a batch is no weight."""
    path = tmp_path / "x"
    path.write_bytes(b"x")
    spec = Sequential([Input((4, 3), batch_size=2), nnkit.LSTM(5, stateful=True)], weights=path)
    files[str(path)] = {name: np.ones(declared.shape) for name, declared in spec.graph().parameters().items() if not declared.is_state}
    model = nnkit.compile(spec)
    assert {name for name, values in model.parameters.items() if (values == 1).all()} == set(files[str(path)])


# Names.

@pytest.mark.parametrize(("content", "torch"), [(b"\x89HDF\r\n\x1a\n", False), (b"\x80\x02", True)])
def test_names_by_what_the_file_is(tmp_path, files, content, torch):
    path = tmp_path / "some"
    path.write_bytes(content + bytes(20))
    files[str(path)] = {name: np.ones(declared.shape) for name, declared in base.graph().parameters().items()}
    own, modules = {"first": "dense"}, {"first": "features.0"}
    nnkit.compile(with_weights(Pretrained(path, names=own, torch_names=modules)))
    nnkit.compile(with_weights(Pretrained(path, torch_names=modules)))
    nnkit.compile(with_weights(Pretrained(path, names=own)))
    assert [names for _, _, names in files.calls] == [modules if torch else own, modules if torch else None, own]


@pytest.mark.parametrize("native", [True, False])
def test_names_of_safetensors(tmp_path, files, monkeypatch, native):
    """nnkit's own files have the names of layers, others those of modules."""
    module = pytest.importorskip("nnkit.io.native")
    monkeypatch.setattr(module, "is_native", lambda path: native)
    path = tmp_path / "x.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    files[str(path)] = {name: np.ones(declared.shape) for name, declared in base.graph().parameters().items()}
    nnkit.compile(with_weights(Pretrained(path, torch_names={"first": "0"})))
    assert files.calls[0][2] == (None if native else {"first": "0"})


def test_no_such_kind(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"something else")
    message = f"{str(path)!r} must be an .nnkit, .safetensors, .h5, .keras, .pt or .pth file, received one that begins with b'something'"
    for reference in (Pretrained(path), Pretrained(path, torch_names={"a": "b"})):
        refused(message, nnkit.compile, with_weights(reference), error=FormatError)


# Files that are not there or are others.

def test_missing_file(tmp_path, files):
    for path in (tmp_path / "none.h5", tmp_path):                    # a folder is no file
        refused(f"there is no file of weights {str(path)!r}", nnkit.compile, with_weights(path), error=FileNotFoundError)
    assert not files.calls


def test_home(file, files, monkeypatch):
    monkeypatch.setenv("HOME", str(file.parent))
    monkeypatch.setenv("USERPROFILE", str(file.parent))
    nnkit.compile(with_weights("~/base.h5"))
    assert files.calls[0][0] == str(file)


def test_hash(file, files):
    digest, md5 = sha256(file), hashlib.md5(file.read_bytes()).hexdigest()
    for right in (f"sha256:{digest}", f"sha256:{digest[:8]}", f"md5:{md5}"):
        nnkit.compile(with_weights(Pretrained(file, hash=right)))
    assert len(files.calls) == 3
    last = DIGITS[(int(md5[-1], 16) + 1) % 16]
    other = "1" if digest[8] == "0" else "0"
    for wrong, received in ((f"sha256:{digest[:8]}{other}", f"sha256:{digest[:9]}"), (f"md5:{md5[:-1]}{last}", f"md5:{md5}")):
        message = f"{str(file)!r} must have the hash {wrong}, received {received}: it is damaged or another file"
        refused(message, nnkit.compile, with_weights(Pretrained(file, hash=wrong, torch_names={"a": "b"})), error=FormatError)
    assert len(files.calls) == 3                                     # nothing was read


def test_a_file_of_another_network(file, files):
    found = files[str(file)]
    del found["second/bias"]
    found["first/kernel"] = np.zeros((5, 4))
    message = (f"base: the file {str(file)!r} does not fit the network: first/kernel of shape (3, 4) has shape (5, 4) there; "
               "second/bias is not there; not used: spare")
    refused(message, nnkit.compile, with_weights(file))
    refused(message, nnkit.compile, Sequential([Input((3,)), with_weights(file)]))


def test_the_first_ten_are_named(tmp_path, files):
    path = tmp_path / "x"
    path.write_bytes(b"x")
    files[str(path)] = {}
    begin = f"vgg16: the file {str(path)!r} does not fit the network: block1_conv1/kernel is not there; "
    end = "block3_conv1/bias is not there, and 16 more; not used: spare"
    with pytest.raises(ValueError, match=f"^{re.escape(begin)}.*{re.escape(end)}$"):
        nnkit.compile(vgg16((32, 32, 3), include_top=False, weights=Pretrained(path)))


# Files that are fetched.

@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of data, and no network: whoever asks for it fails."""
    monkeypatch.setenv("NNKIT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NNKIT_QUIET", "1")
    return tmp_path / "data"


class Downloader:
    """A stand-in for pooch's."""

    content: bytes | Exception = b""
    calls: list = []  # noqa: RUF012

    def __call__(self, url, output_file, pooch):
        self.calls.append(url)
        if isinstance(self.content, Exception):
            raise self.content
        with open(output_file, "wb") as file:
            file.write(self.content)


@pytest.fixture
def download(monkeypatch):
    pooch = pytest.importorskip("pooch")
    monkeypatch.setattr(pooch, "HTTPDownloader", Downloader)
    monkeypatch.setattr(Downloader, "calls", [])
    return lambda content: monkeypatch.setattr(Downloader, "content", content)


CONTENT = b"\x80\x02 weights"
HASHED = "sha256:" + hashlib.sha256(CONTENT).hexdigest()[:8]


def small(files, folder):
    files[str(folder / "small-1.pth")] = {name: np.full(declared.shape, 5.0) for name, declared in base.graph().parameters().items()}
    return with_weights(Pretrained(URL, hash=HASHED))


def test_a_file_that_is_here_is_not_fetched(folder, files, monkeypatch):
    """Not even pooch is asked for."""
    monkeypatch.setitem(sys.modules, "pooch", None)
    folder.mkdir()
    (folder / "small-1.pth").write_bytes(CONTENT)
    assert (nnkit.compile(small(files, folder)).parameters["first/kernel"] == 5).all()
    (folder / "small-1.pth").write_bytes(b"other")
    with pytest.raises(FormatError, match="must have the hash"):
        nnkit.compile(small(files, folder))


def test_fetching(folder, files, download):
    download(CONTENT)
    for _ in range(2):
        assert (nnkit.compile(small(files, folder)).parameters["first/kernel"] == 5).all()
    assert Downloader.calls == [URL]
    assert os.listdir(folder) == ["small-1.pth"]


def test_what_is_fetched_says_so(folder, files, download, monkeypatch, capfd):
    monkeypatch.delenv("NNKIT_QUIET")
    download(CONTENT)
    nnkit.compile(small(files, folder))
    assert f"nnkit: fetching {URL} into {folder}\n" in capfd.readouterr().err


def test_fetched_with_a_wrong_hash(folder, files, download):
    """Nothing stays there that would be taken for the file."""
    download(b"<html>not found</html>")
    received = "sha256:" + hashlib.sha256(b"<html>not found</html>").hexdigest()[:8]
    refused(f"{URL!r} must have the hash {HASHED}, received {received}: it is damaged or another file",
            nnkit.compile, small(files, folder), error=FormatError)
    assert os.listdir(folder) == []


def test_no_network(folder, files, download):
    download(ConnectionError("no route to host"))
    message = (f"{URL} could not be fetched: put the file at {str(folder / 'small-1.pth')!r}, or give the path of one "
               "(ConnectionError: no route to host)")
    refused(message, nnkit.compile, small(files, folder), error=OSError)
    assert os.listdir(folder) == []


def test_no_pooch(folder, files, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    message = (f"{URL} is fetched with pooch, which is not installed: pip install 'nnkit[io]', or put the file at "
               f"{str(folder / 'small-1.pth')!r}")
    refused(message, nnkit.compile, small(files, folder), error=ImportError)
    refused(message.replace(URL, vgg16(weights="torchvision").weights.path).replace("small-1", "vgg16-397923af"),
            nnkit.compile, vgg16((32, 32, 3), include_top=False, weights="torchvision"), error=ImportError)


def test_a_folder_that_cannot_be_made(tmp_path, files, download, monkeypatch):
    (tmp_path / "taken").write_bytes(b"a file")
    monkeypatch.setenv("NNKIT_DATA", str(tmp_path / "taken"))
    monkeypatch.setenv("NNKIT_QUIET", "1")
    with pytest.raises(OSError, match=r"^https://example.org/models/small-1.pth could not be fetched: put the file at "):
        nnkit.compile(small(files, tmp_path / "taken"))


def test_the_folder(monkeypatch):
    monkeypatch.setenv("NNKIT_DATA", "~/own")
    assert data_folder() == type(data_folder()).home() / "own"
    monkeypatch.delenv("NNKIT_DATA")
    assert data_folder().parts[-2:] == ("nnkit", "weights")


class Server(http.server.BaseHTTPRequestHandler):
    """Serves /small-1.pth, whole or with its end missing, and nothing else."""

    def do_GET(self):
        there = self.path in ("/small-1.pth", "/cut.pth")
        self.send_response(200 if there else 404)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/small-1.pth" else CONTENT[:-3])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    """The address of a server on this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


def test_pooch_itself(folder, files, server, monkeypatch):
    """Through pooch's own downloader; a file that is not there, one that is cut short, a server that is not there."""
    pytest.importorskip("pooch")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    small(files, folder)
    assert (nnkit.compile(with_weights(Pretrained(f"{server}/small-1.pth", hash=HASHED))).parameters["second/bias"] == 5).all()
    assert (folder / "small-1.pth").read_bytes() == CONTENT
    for name, error in (("other.pth", "HTTPError: 404"), ("cut.pth", r"\w+: ")):
        with pytest.raises(OSError, match=f"^{server}/{name} could not be fetched: put the file at .* or give the path of one [(]{error}"):
            nnkit.compile(with_weights(Pretrained(f"{server}/{name}")))
    with socket.socket() as free:                                    # a port where nobody listens
        free.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match=r"could not be fetched: .* [(]ConnectionError: "):
            nnkit.compile(with_weights(Pretrained(f"http://127.0.0.1:{free.getsockname()[1]}/x.pth")))
    assert os.listdir(folder) == ["small-1.pth"]


# Published names reach the reader.

def test_published_names(folder, files):
    folder.mkdir()
    (folder / "vgg16-397923af.pth").write_bytes(b"\x80\x02")
    network = vgg16((32, 32, 3), include_top=False, weights=Pretrained(folder / "vgg16-397923af.pth",
                                                                      torch_names=vgg16(weights="torchvision").weights.torch_names))
    files[str(folder / "vgg16-397923af.pth")] = {name: np.zeros(declared.shape) for name, declared in network.graph().parameters().items()}
    nnkit.compile(Sequential([Input((32, 32, 3)), network]))
    _, own, names = files.calls[0]
    assert own[:2] == ["block1_conv1/kernel", "block1_conv1/bias"]
    assert (names["block1_conv1"], names["block5_conv3"]) == ("features.0", "features.28")
    assert files.calls[0][0] == str(folder / "vgg16-397923af.pth")


def test_keras_published_file(folder):
    """A file laid out as Keras' vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5 is, with a top besides, through the real reader."""
    h5py = pytest.importorskip("h5py")
    folder.mkdir()
    path = folder / "vgg16.h5"
    network = vgg16((32, 32, 3), include_top=False, weights=path)
    shapes = {name: declared.shape for name, declared in network.graph().parameters().items()}
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        names = [node.name for node in network.graph().nodes[1:]] + ["flatten", "fc1"]
        file.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            group = file.create_group(name)
            kernel, bias = shapes.get(f"{name}/kernel", (5, 7) if name == "fc1" else None), shapes.get(f"{name}/bias", (7,))
            group.attrs["weight_names"] = [f"{name}/{name}_{letter}_1:0".encode() for letter in "Wb"] if kernel else np.empty(0, "S1")
            for letter, shape in (("W", kernel), ("b", bias)) if kernel else ():
                group.create_dataset(f"{name}/{name}_{letter}_1:0", data=rng.standard_normal(shape, np.float32))
    model = nnkit.compile(nnkit.Sequential([Input((32, 32, 3)), network]))
    with h5py.File(path) as file:
        for name, values in model.parameters.items():
            layer, kind = name.split("/")[1:]
            np.testing.assert_array_equal(values, file[f"{layer}/{layer}/{layer}_{'W' if kind == 'kernel' else 'b'}_1:0"][...], err_msg=name)


def test_resnet_needs_no_names(folder, files):
    folder.mkdir()
    path = folder / "r.pth"
    path.write_bytes(b"\x80\x02")
    network = resnet(18, (32, 32, 3), include_top=False, weights=path)
    files[str(path)] = {name: np.full(declared.shape, 0.5, np.float32) for name, declared in network.graph().parameters().items()}
    model = nnkit.compile(network)
    assert files.calls[0][2] is None
    assert (model.parameters["layer4.1.bn2/moving_variance"] == 0.5).all()
