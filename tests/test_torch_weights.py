"""Weights out of PyTorch's files, without PyTorch: both forms of file, what their pickles may say, which module belongs to which layer, layouts.

The files in tests/data were written once by PyTorch 2.13 on a little-endian machine; *.pt by torch.save(object, path), *.pth by
torch.save(object, path, _use_new_zipfile_serialization=False). Seed torch.manual_seed(0), then

- torch_vgg: the state_dict of a small network with the names of torchvision's VGG16, in this order: `features`, Sequential(Conv2d(3, 4, 3,
  padding=1), ReLU(), MaxPool2d(2), Conv2d(4, 6, 3, padding=1), ReLU(), MaxPool2d(2)), and `classifier`, Sequential(Linear(36, 8), ReLU(), Dropout(),
  Linear(8, 8), ReLU(), Dropout(), Linear(8, 5)) behind torch.flatten(x, 1).
- torch_text.pt: a checkpoint, {"epoch": 3, "model": state_dict, "optimizer": that of Adam after a step, "device": torch.device("cpu")}, of a network
  with embedding Embedding(11, 4), lstm LSTM(4, 3, bidirectional=True), norm LayerNorm(6), gru GRU(6, 5), bn BatchNorm1d(5), fc Linear(5, 2), both
  batch_first; fc(bn(the last step of gru(norm(lstm(embedding(x)))))). Running statistics and normalizations' weights are random, too.
- torch_tensors: an OrderedDict of the tensors that `TENSORS` holds, "shared", "transposed" and "part" in one storage.

torch_predictions.npz holds what the networks made in inference of the inputs that the tests make anew ("vgg", "text").
"""

import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import nnkit
from helpers import refused
from mutate import mutated
from nnkit import (
    GRU,
    LSTM,
    Activation,
    BatchNormalization,
    Bidirectional,
    Conv1D,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Input,
    LayerNormalization,
    MaxPooling2D,
    PReLU,
    ReLU,
    Reshape,
    SeparableConv1D,
    Sequential,
    SimpleRNN,
)
from nnkit.io.report import FormatError, compare
from nnkit.io.torch_layout import from_torch
from nnkit.io.torch_pickle import MOST_BYTES, read_pickled
from nnkit.io.weights import kind_of, read_weights
from sweeps import sweep_seed

DATA = Path(__file__).parent / "data"
BOTH = ("pt", "pth")

# Files that PyTorch wrote.

GRID = np.arange(24, dtype=np.float32)
TENSORS = {
    **{dtype: np.arange(6).reshape(2, 3).astype(dtype) for dtype in ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8")},
    "bool": np.arange(6).reshape(2, 3) > 0, "bfloat16": np.arange(6, dtype=np.float32).reshape(2, 3), "shared": GRID,
    "transposed": GRID.reshape(4, 6).T, "part": GRID.reshape(4, 6)[1:3, ::2], "number": np.float32(2.5), "empty": np.zeros((0, 3), np.float32),
    "parameter": np.arange(3, dtype=np.float32), "permuted": GRID.reshape(2, 3, 4).transpose(2, 0, 1)}


@pytest.mark.parametrize("form", BOTH)
def test_tensors(form):
    found = read_pickled(DATA / f"torch_tensors.{form}")
    assert found.keys() == TENSORS.keys()
    for name, expected in TENSORS.items():
        np.testing.assert_array_equal(found[name], expected, name)
        assert found[name].dtype == expected.dtype
        assert found[name].shape == expected.shape
        assert name == "empty" or not found[name].flags.writeable
    assert np.shares_memory(found["part"], found["shared"])
    assert kind_of(DATA / f"torch_tensors.{form}") == "torch"


def vgg(*names):
    conv1, conv2, fc1, fc2, fc3 = names
    return Sequential([
        Input((8, 12, 3)), Conv2D(4, 3, padding="same", activation="relu", name=conv1), MaxPooling2D(2), Conv2D(6, 3, padding="same", name=conv2),
        ReLU(), MaxPooling2D(2), Flatten(), Dense(8, "relu", name=fc1), Dropout(0.5), Dense(8, "relu", name=fc2), Dropout(0.5), Dense(5, name=fc3)])


TORCHVISION = ("features.0", "features.3", "classifier.0", "classifier.3", "classifier.6")
KERAS = ("block1_conv1", "block2_conv1", "fc1", "fc2", "predictions")


@pytest.mark.parametrize("form", BOTH)
@pytest.mark.parametrize(("own", "names"), [(TORCHVISION, None), (KERAS, None), (KERAS, dict(zip(KERAS, TORCHVISION, strict=True)))],
                         ids=["same path", "order", "names"])
def test_vgg_of_torchvision_names(form, own, names):
    model = nnkit.compile(vgg(*own))
    arrays, unused = from_torch(read_pickled(DATA / f"torch_vgg.{form}"), vgg(*own).graph(), names)
    assert arrays.keys() == model.parameters.keys()
    assert unused == ()
    model.set_parameters(arrays)
    images = np.linspace(-1, 1, 2 * 3 * 8 * 12, dtype=np.float32).reshape(2, 3, 8, 12).transpose(0, 2, 3, 1)
    with np.load(DATA / "torch_predictions.npz") as expected:
        np.testing.assert_allclose(model.predict(images), expected["vgg"], rtol=0, atol=1e-5)        # float32, sums of 36 terms near 1


def test_a_checkpoint_with_recurrent_layers():
    spec = Sequential([Input((6,)), Embedding(11, 4, name="embedding"), Bidirectional(LSTM(3, return_sequences=True), name="lstm"),
                       LayerNormalization(epsilon=1e-5, name="norm"), GRU(5, name="gru"), BatchNormalization(epsilon=1e-5, name="bn"),
                       Dense(2, name="fc")])
    model = nnkit.compile(spec)
    arrays, unused = from_torch(read_pickled(DATA / "torch_text.pt"), spec.graph())
    assert arrays.keys() == model.parameters.keys()
    assert unused == ()
    model.set_parameters(arrays)
    with np.load(DATA / "torch_predictions.npz") as expected:
        np.testing.assert_allclose(model.predict(np.arange(18).reshape(3, 6) % 11), expected["text"], rtol=0, atol=1e-5)


# Pickles, instruction by instruction.

def named(module, name):
    return f"c{module}\n{name}\n".encode()


def whole(n):
    return b"\x8a\x09" + n.to_bytes(9, "little", signed=True)


def text(content):
    return b"X" + struct.pack("<I", len(content.encode())) + content.encode()


def together(*items):
    return b"(" + b"".join(items) + b"t"


ORDERED, V2 = named("collections", "OrderedDict") + b")R", named("torch._utils", "_rebuild_tensor_v2")


def storage(key="0", size=6, cls="FloatStorage", *rest):
    return together(text("storage"), named("torch", cls), text(key), text("cpu"), whole(size), *rest) + b"Q"


def tensor(shape=(2, 3), strides=(3, 1), first=0, **fields):
    place = fields.pop("storage", None) or storage(**fields)
    return V2 + together(place, whole(first), *(together(*map(whole, numbers)) for numbers in (shape, strides)), b"\x89", ORDERED) + b"R"


def state(content, name="w"):
    return b"\x80\x02" + ORDERED + b"(" + text(name) + content + b"u."


NUMBERS = np.arange(6, dtype="<f4")


def archive(path, pickled, top="archive", storages=None, compression=zipfile.ZIP_STORED, **more):
    """The zip form."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(f"{top}/data.pkl", pickled)
        for key, content in ({"0": NUMBERS.tobytes()} if storages is None else storages).items():
            file.writestr(f"{top}/data/{key}", content)
        for name, content in more.items():
            file.writestr(f"{top}/{name}", content)
    return path


def sequence(path, pickled, keys=("0",), storages=None, magic=0x1950A86A20F9469CFC6C, version=1001, protocol=2):
    """The older form."""
    content = b"".join(pickle.dumps(part, protocol) for part in (magic, version, {"protocol_version": 1001, "little_endian": True})) + pickled
    content += pickle.dumps(list(keys), protocol)
    path.write_bytes(content + (struct.pack("<q", 6) + NUMBERS.tobytes() if storages is None else storages))
    return path


def check(message, path):
    refused(f"{str(path)!r} must be a state_dict that torch.save wrote, and nothing else: {message}", read_pickled, path, error=FormatError)


def test_archives_made_by_hand(tmp_path):
    path = tmp_path / "w.pt"
    expected = NUMBERS.reshape(2, 3)
    for fields in ({}, {"top": "any name at all"}, {"byteorder": b"little"}, {"version": b"3\n", ".format_version": b"1", "code/x.py": b"import os"}):
        np.testing.assert_array_equal(read_pickled(archive(path, state(tensor()), **fields))["w"], expected)
    found = read_pickled(archive(path, state(tensor()), storages={"0": expected.astype(">f4").tobytes()}, byteorder=b"big"))["w"]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.dtype("float32")
    bits = (np.float32([1.5, -2, 0, 3e38, 1e-39, -1]).view("<u4") >> 16).astype("<u2")
    for order, code in ((b"little", "<u2"), (b"big", ">u2")):
        found = read_pickled(archive(path, state(tensor(cls="BFloat16Storage")), storages={"0": bits.astype(code).tobytes()}, byteorder=order))["w"]
        np.testing.assert_array_equal(found.view(np.uint32).ravel(), bits.astype(np.uint32) << 16)
    found = read_pickled(archive(path, state(tensor((2, 3), (1, 2), cls="BoolStorage")), storages={"0": bytes([0, 1, 2, 255, 0, 7])}))["w"]
    np.testing.assert_array_equal(found, [[False, True, False], [True, True, True]])


def test_bytes_with_a_dtype(tmp_path):
    """_rebuild_tensor_v3: a storage of bytes, and tensors that say what they are."""
    untyped = together(text("storage"), named("torch.storage", "UntypedStorage"), text("0"), text("cpu"), whole(24)) + b"Q"

    def content(dtype, shape=(2, 3)):
        strides = (shape[1], 1)
        return named("torch._utils", "_rebuild_tensor_v3") + together(
            untyped, whole(0), together(*map(whole, shape)), together(*map(whole, strides)), b"\x89", ORDERED, named("torch", dtype)) + b"R"
    path = tmp_path / "w.pt"
    np.testing.assert_array_equal(read_pickled(archive(path, state(content("float32"))))["w"], NUMBERS.reshape(2, 3))
    np.testing.assert_array_equal(read_pickled(archive(path, state(content("uint16", (3, 4)))))["w"], NUMBERS.view("<u2").reshape(3, 4))
    check("tensor 'w' of shape (2, 3), strides (3, 1) and offset 0 must lie in its storage of 3 elements", archive(path, state(content("float64"))))
    check("it names torch.float8_e5m2", archive(path, state(content("float8_e5m2"))))


def test_files_of_python_2(tmp_path):
    """As PyTorch wrote them in 2017: text as byte strings, all items of an OrderedDict at once, parts of storages, _rebuild_tensor."""
    def old(text):
        return b"U" + bytes([len(text)]) + text.encode()
    part = together(old("storage"), named("torch", "FloatStorage"), old("0"), old("cpu"), whole(6), together(old("1"), whole(2), whole(4))) + b"Q"
    made = named("torch._utils", "_rebuild_tensor") + together(part, whole(1), together(whole(3)), together(whole(1))) + b"R"
    pickled = b"\x80\x02" + named("collections", "OrderedDict") + b"]](" + old("features.0.bias") + made + b"ea\x85R."
    found = read_pickled(sequence(tmp_path / "w.pth", pickled))
    assert found.keys() == {"features.0.bias"}
    np.testing.assert_array_equal(found["features.0.bias"], [3, 4, 5])


def test_where_the_state_is(tmp_path):
    path, w = tmp_path / "w.pt", tensor()
    inner = {key: text(key) + ORDERED + b"(" + text(key) + w + b"u" for key in ("state_dict", "model_state_dict", "model", "ema")}

    def keys(*items):
        return list(read_pickled(archive(path, b"\x80\x02}(" + b"".join(items) + b"u.")))
    assert keys(inner["model"], inner["state_dict"], text("epoch"), whole(3)) == ["state_dict"]
    assert keys(inner["model"], inner["model_state_dict"]) == ["model_state_dict"]
    assert keys(inner["model"], text("w"), w) == ["model"]
    assert keys(text("w"), w, text("model"), b"}", text("extra"), b"]", inner["ema"]) == ["w"]
    nothing = "it holds no tensors by name, neither itself nor under one of 'state_dict', 'model_state_dict', 'model'"
    check(nothing, archive(path, b"\x80\x02}(" + inner["ema"] + b"u."))
    check(nothing, archive(path, b"\x80\x02}(K\x01" + w + b"u."))
    check(nothing, archive(path, b"\x80\x02" + ORDERED + b"."))
    check("it holds no dictionary", archive(path, b"\x80\x02" + w + b"."))


# Pickles that do more than they should.

class Runs:
    """Pickled, a call of a function with arguments."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def hostile(folder):
    """Pickle -> the name that the message must have."""
    target = f"{folder}/made"
    made = "S'touch " + target + "'\n"
    return {
        **{pickle.dumps(Runs(os.system, f"touch {target}"), protocol): f"{os.system.__module__}.system" for protocol in range(6)},
        pickle.dumps(Runs(eval, f"open({target!r}, 'w').close()"), 4): "builtins.eval",
        pickle.dumps({"model": Runs(os.mkdir, target)}, 2): f"{os.mkdir.__module__}.mkdir",
        b"\x80\x02" + named("torch", "load") + together(text(target)) + b"R.": "torch.load",
        b"\x80\x02" + named("torch.hub", "load") + b".": "torch.hub.load",
        b"\x80\x02" + named("builtins", "getattr") + b".": "builtins.getattr",
        b"\x80\x02" + named("torch.nn.modules.linear", "Linear") + b")\x81}b.": "torch.nn.modules.linear.Linear",
        b"\x80\x02" + named("torch._utils", "_rebuild_qtensor") + b".": "torch._utils._rebuild_qtensor",
        b"\x80\x02" + named("torch", "ComplexFloatStorage") + b".": "torch.ComplexFloatStorage",
        b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93.": "torch.os.system",
        b"cos\nsystem\n(" + made.encode() + b"tR.": "os.system",
        b"(" + made.encode() + b"ios\nsystem\n.": "os.system",
        b"(cos\nsystem\n" + made.encode() + b"o.": "os.system",
        b"\x80\x02}" + named("os", "system") + b"b.": "os.system",
        b"\x80\x02" + ORDERED + b"}(" + text("__reduce__") + named("os", "system") + b"ub.": "os.system",
        b"\x80\x02N0" + named("os", "system") + b"0" + state(tensor())[2:]: "os.system",
    }


@pytest.mark.parametrize("form", BOTH)
def test_forbidden_names(tmp_path, form, monkeypatch):
    """They are named, nothing is looked up, let alone called."""
    pickles = hostile(tmp_path)
    for module, name in ((os, "system"), (os, "mkdir"), (pickle, "Unpickler"), (pickle, "loads")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("it ran"))
    before = {*sys.modules}
    for pickled, name in pickles.items():
        path = archive(tmp_path / "w.pt", pickled) if form == "pt" else sequence(tmp_path / "w.pth", pickled)
        check(f"it names {name}", path)
        path.unlink()
    assert not [*tmp_path.iterdir()]
    assert {*sys.modules} - before <= {"pickletools"}


def test_what_stands_for_names_is_not_changed_and_makes_nothing_else(tmp_path):
    path = tmp_path / "w.pt"
    for content, message in (
            (named("torch", "FloatStorage") + b")R", "it calls what needs no call"),
            (named("torch", "FloatStorage") + b")\x81", "it calls what needs no call"),
            (V2 + b"}b", "it changes a function"), (V2 + b"}(" + text("made") + b"K\x01ub", "it changes a function"),
            (tensor() + b"}b", "it changes what cannot be changed"), (text("a") + b")R", "it calls what cannot be called"),
            (V2 + b"]R", "it calls what cannot be called"), (V2 + b"NR", "it calls what cannot be called"),
            (named("collections", "OrderedDict") + b"K\x01\x85R", "an OrderedDict must be made of nothing, or of a list of keys and values"),
            (named("collections", "OrderedDict") + b"]]K\x01aa\x85R", "an OrderedDict must be made of nothing, or of a list of keys and values"),
            (named("torch._utils", "_rebuild_parameter") + b"NNN\x87R", "a parameter must be a tensor"),
            (V2 + together(b"N" * 6) + b"R", "a tensor must have a storage"),
            (b"NQ", "a persistent id must be that of a storage"), (b"Pname\n", "a persistent id must be that of a storage"),
            (together(text("module"), *[b"N"] * 4) + b"Q", "a persistent id must be that of a storage"),
            (together(text("storage"), V2, text("0"), text("cpu"), whole(6)) + b"Q", "a storage must be of a class and dtype that are known"),
            (storage(size=-1), "a storage must have a key and a number of elements"),
            (storage(size=1 << 63), "a storage must have a key and a number of elements"),
            (storage(size=6) + b"0" + storage(size=5), "storage '0' must be the same wherever it is named"),
            (storage(size=6) + b"0" + storage(cls="IntStorage"), "storage '0' must be the same wherever it is named"),
            (storage("0", 6, "FloatStorage", together(text("1"), whole(3), whole(4))), "a part of storage '0' must lie in it"),
            (b"\x82\x01", "it has the instruction EXT1"), (b"\x8f", "it has the instruction EMPTY_SET"),
            (b"\x96" + bytes(8), "it has the instruction BYTEARRAY8"),
            *((taken, "it takes what is not there") for taken in (b"h\x05", b"0", b"t", b"\x86", b"R", b"u", b"1", b"")),
            (b"Nr\xff\xff\xff\x7f", "it remembers 2147483647 objects"),
            (b"NNa", "it changes what cannot be changed"), (b"]NNs", "it changes what cannot be changed"),
            (V2.replace(b"_rebuild_tensor_v2", b"A" * 300), "it names torch._utils." + "A" * 200)):
        check(message, archive(path, b"\x80\x02" + content + b"."))
    flagged = V2 + together(storage(), whole(0), together(whole(6)), together(whole(1)), b"\x89", ORDERED, b"}(" + text("neg") + b"\x88u") + b"R"
    check("a tensor must hold its numbers as they are, received one that is to be negated or conjugated", archive(path, state(flagged)))


def test_a_small_pickle_cannot_work_for_ever(tmp_path):
    """Nested tuples that are one another, as a key; a list within itself; more text than there is; a pickle too long."""
    path = tmp_path / "w.pt"
    nested = b"N" + b"2\x86" * 200
    check("a dictionary's key must be text or a number", archive(path, b"\x80\x02}" + nested + b"Ns."))
    check("a persistent id must be that of a storage", archive(path, b"\x80\x02" + nested + b"Q."))
    check("it holds no dictionary", archive(path, b"\x80\x02]2a."))
    for content in (b"T\xff\xff\xff\x7f", b"\x8d" + b"\xff" * 8, b"\x8e" + b"\xff" * 7 + b"\x7f", b"\x8b\xff\xff\xff\x7f", b"\x95" + b"\xff" * 8,
                    b"I" + b"9" * 5000 + b"\n"):
        with pytest.raises(FormatError, match=r"^'.*' must be a state_dict that torch\.save wrote, and nothing else: "):
            read_pickled(archive(path, b"\x80\x04" + content + b"."))
    check(f"its pickle must have at most {MOST_BYTES} bytes, received {MOST_BYTES + 1}", archive(path, bytes(MOST_BYTES + 1)))


def test_forged_tensors(tmp_path):
    path = tmp_path / "w.pt"

    def lies(shape, strides, first):
        return f"tensor 'w' of shape {shape}, strides {strides} and offset {first} must lie in its storage of 6 elements"
    for shape, strides, first in (((2, 3), (3, 1), 1), ((2, 3), (4, 1), 0), ((7,), (1,), 0), ((6,), (1,), 1 << 61), ((2,), (1 << 61,), 0),
                                  ((), (), 6), ((1 << 61, 1 << 61), (1, 1), 0)):
        check(lies(shape, strides, first), archive(path, state(tensor(shape, strides, first))))
    for shape, strides in (((1 << 60,), (0,)), ((1 << 40, 1 << 40), (0, 0)), ((7,), (0,)), ((2, 2, 2), (1, 1, 1)), ((0, 1 << 61, 2), (1, 1, 1))):
        check(f"tensor 'w' of shape {shape} must have no more elements than its storage, 6: clone an expanded tensor",
              archive(path, state(tensor(shape, strides))))
    numbers = "tensor 'w' must have a shape, as many strides and an offset, all whole numbers at least 0"
    for shape, strides, first in (((-1,), (1,), 0), ((2,), (-1,), 0), ((2,), (1,), -1), ((2, 3), (1,), 0), ((1,) * 33, (1,) * 33, 0),
                                  ((1 << 62,), (1,), 0)):
        check(numbers, archive(path, state(tensor(shape, strides, first))))
    check(numbers, archive(path, state(V2 + together(storage(), b"\x88", b")", b")", b"N", b"N") + b"R")))
    check(numbers, archive(path, state(V2 + together(storage(), b"N", text("ab"), text("ab"), b"N", b"N") + b"R")))
    found = read_pickled(archive(path, state(tensor((0, 3), (3, 1)))))["w"]
    assert found.shape == (0, 3)


@pytest.mark.parametrize("size", [0, 5, 7, 6 << 50])
def test_storages_of_another_size(tmp_path, size):
    pickled = state(tensor((1,), (1,), size=size) if size else tensor())
    if size:
        check(f"storage '0' must have {4 * size} bytes in the archive, received 24", archive(tmp_path / "w.pt", pickled))
    check("storage '0' must have 24 bytes in the archive, received 0", archive(tmp_path / "w.pt", state(tensor()), storages={"0": b""}))
    check("storage '0' must have 24 bytes in the archive, received none", archive(tmp_path / "w.pt", state(tensor()), storages={"1": b""}))
    if size > 6:
        check("storage '0' must lie in the file: it is cut short", sequence(tmp_path / "w.pth", pickled))
    elif size == 5:
        check("storage '0' must have 5 elements, received another number", sequence(tmp_path / "w.pth", pickled))


def test_sequences_that_do_not_go_together(tmp_path):
    path = tmp_path / "w.pth"
    np.testing.assert_array_equal(read_pickled(sequence(path, state(tensor())))["w"], NUMBERS.reshape(2, 3))
    check("its magic number must be 119547037146038801333356", sequence(path, state(tensor()), magic=1))
    check("its magic number must be 119547037146038801333356", sequence(path, state(tensor()), magic="x"))
    check("its version must be 1001", sequence(path, state(tensor()), version=1002))
    each = "the storages behind its pickle must be those that it names, each once"
    for keys in (("1",), (0,), ("0", "0"), (("0",),)):
        check(each, sequence(path, state(tensor()), keys, struct.pack("<q", 6) + NUMBERS.tobytes() * 4))
    check("storage '0' must lie behind the pickle, received no such", sequence(path, state(tensor()), ()))
    short = struct.pack("<q", 6) + NUMBERS.tobytes()[:-1]
    check("storage '0' must lie in the file: it is cut short", sequence(path, state(tensor()), storages=short))
    path.write_bytes(b"")
    check("pickle exhausted before seeing STOP", path)
    with pytest.raises(FileNotFoundError):
        read_pickled(tmp_path / "none.pth")


# Archives that are not what they must be.

def changed(path, place, content, other=None):
    whole = bytearray(path.read_bytes())
    at = whole.index(place) if other is None else whole.rindex(place)
    whole[at:at + len(content)] = content
    path.write_bytes(whole)
    return path


def test_forged_archives(tmp_path):
    path = tmp_path / "w.pt"

    def fresh():
        return archive(path, state(tensor()))
    compressed = "its entry 'archive/data.pkl' is compressed, where PyTorch stores bytes as they are"
    elsewhere = "its entry 'archive/data.pkl' is not where the directory says"
    check(compressed, archive(path, state(tensor()), compression=zipfile.ZIP_DEFLATED))
    check("the archive must hold one data.pkl in its top folder", archive(path, state(tensor()), top="a/b"))
    with zipfile.ZipFile(fresh(), "a") as file:
        file.writestr("other/data.pkl", b"")
    check("the archive must hold one data.pkl in its top folder", path)
    with pytest.warns(UserWarning, match="Duplicate name"):
        check("its entry 'archive/data/0' is there twice", archive(path, state(tensor()), **{"data/0": b"x"}))
    check("the archive's byteorder must be little or big", archive(path, state(tensor()), byteorder=b"middle"))
    check("its entry 'archive/data/0' is damaged: the checksum is wrong", changed(fresh(), NUMBERS.tobytes(), b"\1"))
    check("its entry 'archive/data.pkl' is damaged: the checksum is wrong", changed(fresh(), state(tensor()), b"\x80\x03"))
    central = b"PK\x01\x02"
    first = struct.pack("<4s2H2H", central, 0x0314, 20, 0x0001, 0)
    check("its entry 'archive/data.pkl' is encrypted", changed(fresh(), central, first))
    entry = fresh().read_bytes()
    start = entry.index(central)
    for offset, number, message in (
            (42, 1 << 30, elsewhere), (42, len(entry), elsewhere), (24, 1 << 30, compressed),
            (24, 0xFFFFFFFF, "its zip64 numbers are missing"), (42, 0xFFFFFFFF, "its zip64 numbers are missing")):
        path.write_bytes(entry[:start + offset] + struct.pack("<L", number) + entry[start + offset + 4:])
        check(message, path)
    path.write_bytes(entry[:start + 20] + struct.pack("<2L", 1 << 30, 1 << 30) + entry[start + 28:])
    check("its entry 'archive/data.pkl' lies beyond the file", path)
    longer = len(state(tensor())) + 40
    path.write_bytes(entry[:start + 20] + struct.pack("<2L", longer, longer) + entry[start + 28:])
    check("its entries lie on one another", path)
    path.write_bytes(entry.replace(b"archive/data/0", b"archive/data/1", 1))
    check("its entry 'archive/data/0' has another name where it lies", path)


def test_the_directory_of_an_archive(tmp_path):
    path = archive(tmp_path / "w.pt", state(tensor()))
    content = path.read_bytes()
    end = content.index(b"PK\x05\x06")
    for offset, code, number, message in (
            (4, "H", 1, "it is a part of a zip archive in several files"), (8, "H", 3, "it is a part of a zip archive in several files"),
            (12, "L", 1 << 31, "its zip directory lies beyond the file"), (16, "L", 1 << 31, "its zip directory lies beyond the file"),
            (16, "L", 0, "its directory is damaged"), (20, "H", 9, "its zip directory does not end where the file ends")):
        path.write_bytes(content[:end + offset] + struct.pack(f"<{code}", number) + content[end + offset + struct.calcsize(f"<{code}"):])
        check(message, path)
    path.write_bytes(content[:end + 8] + struct.pack("<2H", 60000, 60000) + content[end + 12:])
    check("its directory is cut short", path)
    for length in range(4, len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(FormatError, match=r"^'.*' must be a state_dict that torch\.save wrote, and nothing else: "):
            read_pickled(path)


def test_zip64(tmp_path):
    """The numbers of large files: in fields of their own, wherever 32 bits do not do. PyTorch also writes such a directory for small files."""
    path = tmp_path / "w.pt"
    expected = NUMBERS.reshape(2, 3)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in (("a/data.pkl", state(tensor())), ("a/data/0", NUMBERS.tobytes())):
            with file.open(name, "w", force_zip64=True) as entry:
                entry.write(content)
    np.testing.assert_array_equal(read_pickled(path)["w"], expected)
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    sizes, place = len(state(tensor())), 0
    wide = struct.pack("<2H3Q", 1, 24, sizes, sizes, place)
    first = bytearray(content[start:start + 46 + len("a/data.pkl")])
    first[20:28] = first[42:46] * 0 + b"\xff" * 8
    first[42:46] = b"\xff" * 4
    first[30:32] = struct.pack("<H", len(wide))
    rest = content[start + len(first):content.index(b"PK\x05\x06")]
    directory = bytes(first) + wide + rest
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, len(directory), start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, start + len(directory), 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(content[:start] + directory + end64 + locator + end)
    np.testing.assert_array_equal(read_pickled(path)["w"], expected)
    path.write_bytes(content[:start] + directory + end64 + locator[:8] + struct.pack("<QL", 1 << 62, 1) + end)
    check("its zip64 directory is damaged", path)


# Damaged copies of whole files.

SMALL = [DATA / f"torch_tensors.{form}" for form in BOTH] + [DATA / f"torch_vgg.{form}" for form in BOTH]


def read_damaged(path, content):
    """Whether it could be read; anything but FormatError fails the test. What is read may have no more numbers than the file has bytes."""
    path.write_bytes(content)
    try:
        found = read_pickled(path)
    except FormatError:
        return False
    assert all(array.size <= len(content) for array in found.values())
    with np.errstate(all="ignore"):
        for array in found.values():
            array.sum()                                  # every cell lies in memory
    return True


@pytest.mark.parametrize("file", SMALL, ids=lambda file: file.name)
def test_damaged_files(tmp_path, file):
    whole = file.read_bytes()
    assert read_damaged(tmp_path / "whole", whole)
    read = [read_damaged(tmp_path / "damaged", content) for content in mutated(whole, seed=7, count=100)]
    assert read.count(False) > 30                        # some damage is only in numbers, or between the parts


def damaged_pickles(seed, count):
    """Pickles within archives that are sound, so that no checksum keeps them from being read."""
    for number, file in enumerate(sorted(DATA.glob("torch_*.pt"))):
        with zipfile.ZipFile(file) as whole:
            entries = {name.partition("/")[2]: whole.read(name) for name in whole.namelist()}
        for pickled in mutated(entries.pop("data.pkl"), seed=seed + number, count=count):
            yield pickled, entries


def read_damaged_pickles(folder, seed, count):
    for pickled, entries in damaged_pickles(seed, count):
        read_damaged(folder / "damaged", archive(folder / "sound", pickled, storages={}, **entries).read_bytes())


def test_damaged_pickles(tmp_path):
    read_damaged_pickles(tmp_path, seed=7, count=100)


@pytest.mark.sweep
@pytest.mark.parametrize("block", range(10))
def test_sweep_of_damaged_files(tmp_path, block):
    seed = 10 * (100 * sweep_seed() + block)
    for number, file in enumerate(SMALL):
        for content in mutated(file.read_bytes(), seed=seed + number, count=1000):
            read_damaged(tmp_path / "damaged", content)
    read_damaged_pickles(tmp_path, seed=seed, count=300)


@pytest.mark.parametrize("form", BOTH)
def test_every_byte_of_a_small_file(tmp_path, form):
    path = archive(tmp_path / "w", state(tensor())) if form == "pt" else sequence(tmp_path / "w", state(tensor()))
    whole = path.read_bytes()
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        read_damaged(path, bytes(content))
    for length in range(len(whole)):
        assert not read_damaged(path, whole[:length])


# Which module belongs to which layer.

RNG = np.random.default_rng(0)


def drawn(**shapes):
    """A state_dict: names with _ for dots."""
    return {name.replace("__", "."): RNG.standard_normal(shape) for name, shape in shapes.items()}


def chain(*layers, shape=(5,)):
    return Sequential([Input(shape), *layers]).graph()


LINEAR = drawn(fc1__weight=(4, 5), fc1__bias=(4,), fc2__weight=(3, 4), fc2__bias=(3,))


def test_modules_by_names():
    graph = chain(Dense(4, name="a"), Dense(3, name="b"))
    by_name, unused = from_torch(LINEAR, graph, {"a": "fc1", "b": "fc2"})
    assert unused == ()
    np.testing.assert_array_equal(by_name["a/kernel"], LINEAR["fc1.weight"].T)
    np.testing.assert_array_equal(by_name["b/bias"], LINEAR["fc2.bias"])
    by_order, _ = from_torch(LINEAR, graph)
    assert by_order.keys() == by_name.keys()
    assert all(np.array_equal(by_order[name], by_name[name]) for name in by_name)
    only, unused = from_torch(LINEAR, graph, {"a": "fc1"})
    assert only.keys() == {"a/kernel", "a/bias"}
    assert unused == ("fc2.weight", "fc2.bias")
    none, unused = from_torch(LINEAR, graph, {"a": "elsewhere"})
    assert none == {}                                    # names were given, so order means nothing
    assert unused == tuple(LINEAR)
    part, _ = from_torch(LINEAR, chain(Dense(4, name="fc1"), Dense(3, name="new")))
    assert part.keys() == {"fc1/kernel", "fc1/bias"}     # one name agrees, so names count
    nested = Sequential([Input((5,)), Sequential([Input((5,)), Dense(4, name="0")], name="body"), Dense(3, name="head")]).graph()
    state = drawn(body__0__weight=(4, 5), body__0__bias=(4,), head__weight=(3, 4), head__bias=(3,))
    assert from_torch(state, nested)[0].keys() == {"body/0/kernel", "body/0/bias", "head/kernel", "head/bias"}
    bare = {name.removeprefix("body."): w for name, w in state.items()}
    assert len(from_torch(bare, nested, {"body/*": "*"})[0]) == 4
    module = {"weight": LINEAR["fc1.weight"], "bias": LINEAR["fc1.bias"]}
    for names in (None, {"a": ""}):
        assert from_torch(module, chain(Dense(4, name="a")), names)[0].keys() == {"a/kernel", "a/bias"}


def test_modules_that_do_not_come_in_order():
    start = "no name in the file is that of a layer, and its modules are not the layers in their order: "
    end = "; names={layer: module} says which module belongs to which layer"
    refused(f"{start}layer 'b' (Dense) has kernel (4, 2), bias (2,), where the file goes on with 'fc2.weight' of shape (3, 4){end}",
            from_torch, LINEAR, chain(Dense(4, name="a"), Dense(2, name="b")))
    refused(f"{start}layer 'c' (Dense) has kernel (3, 2), bias (2,), where the file has no more{end}",
            from_torch, LINEAR, chain(Dense(4, name="a"), Dense(3, name="b"), Dense(2, name="c")))
    refused(f"{start}behind the last layer the file goes on with 'fc2.weight'{end}", from_torch, LINEAR, chain(Dense(4, name="a")))
    refused(f"{start}layer 'b' (Dense) has kernel (4, 3), where the file goes on with 'fc1.bias' of shape (4,){end}",
            from_torch, LINEAR, chain(Dense(4, use_bias=False, name="a"), Dense(3, use_bias=False, name="b")))
    refused(f"{start}layer 'n' (BatchNormalization) has gamma (4,), beta (4,), moving_mean (4,), moving_variance (4,), where the file goes on with "
            f"'fc2.weight' of shape (3, 4){end}", from_torch, LINEAR, chain(Dense(4, name="a"), BatchNormalization(name="n")))
    assert from_torch(LINEAR, chain(Dropout(0.5))) == ({}, tuple(LINEAR))


def test_sorted_names_have_no_order():
    """As safetensors writes them. Numbers alone tell their order nevertheless."""
    graph = chain(*(Dense(5, name=f"d{number}") for number in range(3)))
    for names in (("encoder", "middle", "decoder"), ("a.0", "b.1", "c.2"), ("a.0", "b", "c")):
        state = {f"{name}.{kind}": RNG.standard_normal((5, 5) if kind == "weight" else 5) for name in sorted(names) for kind in ("bias", "weight")}
        refused("no name in the file is that of a layer, and its names are sorted, so that the order of its modules is unknown; "
                "names={layer: module} says which module belongs to which layer", from_torch, state, graph)
    state = {f"layers.{number}.{kind}": RNG.standard_normal((5, 5) if kind == "weight" else 5)
             for number in sorted((2, 9, 10), key=str) for kind in ("bias", "weight")}
    assert list(state) == sorted(state)
    arrays, _ = from_torch(state, graph)
    for own, number in (("d0", 2), ("d1", 9), ("d2", 10)):
        np.testing.assert_array_equal(arrays[f"{own}/bias"], state[f"layers.{number}.bias"])


def test_shapes_that_do_not_fit_are_handed_over():
    graph = chain(Dense(4, name="fc1"), Dense(7, name="fc2"))
    arrays, unused = from_torch(LINEAR, graph)
    report = compare({name: parameter.shape for name, parameter in graph.parameters().items()}, arrays, unused)
    assert report.different == (("fc2/kernel", (4, 7), (4, 3)), ("fc2/bias", (7,), (3,)))
    layers = (Conv2D(3, 2, name="conv"), SeparableConv1D(3, 2, name="sep"), GRU(3, name="gru"), LSTM(3, name="lstm"), SimpleRNN(3, name="rnn"),
              Bidirectional(LSTM(2), name="both"), Embedding(7, 2, name="emb"), BatchNormalization(name="bn"), PReLU(name="pr"),
              LayerNormalization(name="ln"))
    shapes = {Conv2D: (5, 5, 2), Embedding: (4,)}
    for layer in layers:
        graph = chain(layer, shape=shapes.get(type(layer), (5, 2)))
        for rank in range(5):
            kinds = ("weight", "bias", "running_mean", "running_var", "depthwise.weight", "pointwise.weight", "pointwise.bias",
                     *(f"{kind}_l0{way}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") for way in ("", "_reverse")))
            arrays, _ = from_torch({f"{layer.name}.{kind}": np.zeros((11,) * rank) for kind in kinds}, graph)
            assert arrays.keys() == graph.parameters().keys()
            assert not any(array.shape == graph.parameters()[name].shape for name, array in arrays.items())


def test_what_one_layer_is_several_modules_of():
    graph = chain(SeparableConv1D(3, 2, name="sep"), Dense(2, PReLU(shared_axes=(1,)), name="fc"), shape=(6, 4))
    state = drawn(sep__depthwise__weight=(4, 1, 2), sep__pointwise__weight=(3, 4, 1), sep__pointwise__bias=(3,), fc__weight=(2, 3), fc__bias=(2,),
                  fc__alpha__weight=(2,))
    expected, unused = from_torch(state, graph)
    assert unused == ()
    assert {name: array.shape for name, array in expected.items()} == {name: p.shape for name, p in graph.parameters().items()}
    places = {"sep.depthwise": "body.0", "sep.pointwise": "body.1", "fc.alpha": "act", "fc": "head"}
    other = {}
    for name, w in state.items():
        path = max((path for path in places if name.startswith(f"{path}.")), key=len)
        other[places[path] + name.removeprefix(path)] = w
    for names in (None, {"sep/depthwise": "body.0", "sep/pointwise": "body.1", "fc/alpha": "act", "fc": "head"}):
        found, unused = from_torch(other, graph, names)
        assert unused == ()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    each = np.array([0.1, 0.2, 0.3, 0.4])
    for weight, shared in ((np.array([0.3]), None), (each, None), (each, (1,))):
        for layer in (PReLU(shared_axes=shared, name="a"), Activation(PReLU(shared_axes=shared), name="a")):
            graph = chain(layer, shape=(6, 4))
            ((_, alpha),) = from_torch({"a.weight": weight}, graph)[0].items()
            np.testing.assert_array_equal(alpha, np.broadcast_to(weight, graph.parameters()["a/alpha"].shape))


def test_a_recurrent_module_of_several_layers():
    state = drawn(rnn__weight_ih_l0=(12, 2), rnn__weight_hh_l0=(12, 3), rnn__bias_ih_l0=(12,), rnn__bias_hh_l0=(12,),
                  rnn__weight_ih_l1=(12, 3), rnn__weight_hh_l1=(12, 3), rnn__bias_ih_l1=(12,), rnn__bias_hh_l1=(12,))
    graph = chain(LSTM(3, return_sequences=True, name="a"), LSTM(3, name="b"), shape=(4, 2))
    for names in (None, {"a": "rnn", "b": "rnn.l1"}, {"a": "rnn.l0", "b": "rnn.l1"}):
        arrays, unused = from_torch(state, graph, names)
        assert unused == ()
        np.testing.assert_array_equal(arrays["b/recurrent_kernel"], state["rnn.weight_hh_l1"].T)
        np.testing.assert_array_equal(arrays["a/bias"], state["rnn.bias_ih_l0"] + state["rnn.bias_hh_l0"])


def test_layers_without_a_counterpart():
    none = "has no counterpart in PyTorch, whose weights could be taken for it"
    old = GRU(3, reset_after=False, name="old")
    refused(f"layer 'old', {old!r}, {none}", from_torch, {}, chain(Dense(4), old, shape=(4, 2)))
    both = Bidirectional(GRU(3, reset_after=False), name="both")
    refused(f"layer 'both', {both!r}, {none}", from_torch, {}, chain(both, shape=(4, 2)))


def test_counters_are_left_out_and_other_tensors_named():
    state = drawn(bn__weight=(5,), bn__bias=(5,), bn__running_mean=(5,), bn__running_var=(5,), bn__num_batches_tracked=(), bn__scale=(5,))
    arrays, unused = from_torch(state, chain(BatchNormalization(name="bn")))
    assert len(arrays) == 4
    assert unused == ("bn.scale",)
    assert from_torch(state, chain(BatchNormalization(center=False, scale=False, name="bn")))[1] == ("bn.weight", "bn.bias", "bn.scale")


# Channels first: by the definition, one cell after the other.

@pytest.mark.parametrize(("shape", "layers"), [
    ((4, 5, 3), ()), ((4, 5, 3), (Dropout(0.5), ReLU(), Activation("tanh"))), ((2, 3, 4, 5), ()), ((4, 3), (Conv1D(3, 1, name="c"),)),
    ((4, 1, 1), ()), ((1, 1, 6), ())])
@pytest.mark.parametrize("flat", [Flatten(), Reshape((-1,))], ids=["Flatten", "Reshape"])
def test_a_dense_behind_flatten(shape, layers, flat):
    graph = chain(*layers[:1], flat, *layers[1:], Dense(2, name="fc"), shape=shape)
    size, channels = int(np.prod(shape)), shape[-1]
    w = RNG.standard_normal((2, size))
    state = {"fc.weight": w, "fc.bias": np.zeros(2), "c.weight": np.zeros((3, 3, 1)), "c.bias": np.zeros(3)}
    kernel = from_torch(state, graph)[0]["fc/kernel"]
    for row, cell in enumerate(np.ndindex(*shape)):
        place = np.ravel_multi_index((cell[-1], *cell[:-1]), (channels, *shape[:-1]))
        np.testing.assert_array_equal(kernel[row], w[:, place])


def test_a_dense_that_sees_rows_in_their_own_order():
    """Sequences, words, sums over places, and what a recurrent layer makes are in the same order there."""
    w = RNG.standard_normal((2, 12))
    state = {"fc.weight": w, "fc.bias": np.zeros(2)}
    for graph in (chain(Flatten(), Dense(2, name="fc"), shape=(4, 3)), chain(Embedding(9, 3), Flatten(), Dense(2, name="fc"), shape=(4,)),
                  chain(Conv1D(2, 1), LSTM(3, return_sequences=True), Flatten(), Dense(2, name="fc"), shape=(4, 3)),
                  chain(Conv2D(12, 1), nnkit.GlobalAveragePooling2D(), Dense(2, name="fc"), shape=(3, 3, 2))):
        np.testing.assert_array_equal(from_torch(state, graph)[0]["fc/kernel"], w.T)


def test_orders_through_concatenate_and_to_images():
    image, row = Input((2, 2, 3)), Input((5,))
    h = nnkit.Concatenate()([Flatten()(image), row])
    y = Reshape((2, 1, 3))(ReLU()(BatchNormalization(name="bn")(Dense(6, name="fc")(h))))
    graph = nnkit.Network([image, row], Conv2D(1, 1, name="conv")(y)).graph()
    into, out = np.arange(12).reshape(3, 2, 2).transpose(1, 2, 0).ravel(), np.arange(6).reshape(3, 2, 1).transpose(1, 2, 0).ravel()
    state = drawn(fc__weight=(6, 17), fc__bias=(6,), bn__weight=(6,), bn__bias=(6,), bn__running_mean=(6,), bn__running_var=(6,))
    arrays, _ = from_torch(state, graph)
    np.testing.assert_array_equal(arrays["fc/kernel"], state["fc.weight"][out][:, [*into, *range(12, 17)]].T)
    np.testing.assert_array_equal(arrays["fc/bias"], state["fc.bias"][out])
    np.testing.assert_array_equal(arrays["bn/moving_variance"], state["bn.running_var"][out])


def test_what_is_added_to_an_image_in_a_row():
    image, row = Input((2, 2, 3)), Input((5,))
    h = nnkit.Add()([Flatten()(image), ReLU()(Dense(12, name="a")(row))])
    graph = nnkit.Network([image, row], Dense(2, name="b")(h)).graph()
    order = np.arange(12).reshape(3, 2, 2).transpose(1, 2, 0).ravel()
    state = drawn(a__weight=(12, 5), a__bias=(12,), b__weight=(2, 12), b__bias=(2,))
    arrays, _ = from_torch(state, graph)
    np.testing.assert_array_equal(arrays["a/kernel"], state["a.weight"][order].T)
    np.testing.assert_array_equal(arrays["a/bias"], state["a.bias"][order])
    np.testing.assert_array_equal(arrays["b/kernel"], state["b.weight"][:, order].T)
    np.testing.assert_array_equal(arrays["b/bias"], state["b.bias"])


def test_through_the_reader_of_any_file():
    graph = vgg(*TORCHVISION).graph()
    for form in BOTH:
        arrays, unused = read_weights(DATA / f"torch_vgg.{form}", graph)
        assert compare({name: parameter.shape for name, parameter in graph.parameters().items()}, arrays, unused).complete
        assert unused == ()


def test_importing_nnkit_imports_nothing_of_this():
    code = "import sys, nnkit; print([name for name in sys.modules if name.startswith('nnkit.io.torch') or name in ('pickletools', 'mmap')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(nnkit.__file__).parents[1])
    assert found.stdout.strip() == "[]"
