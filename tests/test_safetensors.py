"""The container safetensors: what is written is read, here and by the package; what is damaged is refused; files are replaced at once or not."""

import contextlib
import json
import os
import pathlib
import re
import tracemalloc

import numpy as np
import pytest

from helpers import assert_same_bits
from mutate import mutated
from nnkit.io import safetensors
from nnkit.io.report import FormatError
from nnkit.io.safetensors import Reader, leftovers, write
from sweeps import sweep_seed

DTYPES = ("f8", "i8", "u8", "f4", "i4", "u4", "f2", "i2", "u2", "i1", "u1", "?")
SHAPES = ((3, 5), (), (1,), (0,), (2, 0, 7), (7, 1, 2, 3))


def arrays():
    """One of every dtype, in turn of every shape."""
    rng = np.random.default_rng(0)
    return {f"layer_{code}/kernel": np.asarray(rng.integers(0, 2 if code == "?" else 100, SHAPES[n % len(SHAPES)])).astype(code)
            for n, code in enumerate(DTYPES)}


def read_all(path):
    with Reader(path) as reader:
        return {name: reader.read(name) for name in reader.entries}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert_same_bits(np.asarray(found[name]), array, name)


def content(header, data=b""):
    """The bytes of a file with this header, as text or as what json makes of it."""
    text = header if isinstance(header, (str, bytes)) else json.dumps(header)
    text = text.encode() if isinstance(text, str) else text
    return len(text).to_bytes(8, "little") + text + data


def entry(shape=(2,), dtype="F32", offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "a.safetensors"
    metadata = {"a": 'quotes " and \\ and é', "b": ""}
    write(path, arrays(), metadata)
    with Reader(path) as reader:
        assert reader.metadata == metadata
        places = [(found.begin, found.end) for found in reader.entries.values()]
        assert places == sorted(places)
        for found in reader.entries.values():
            assert found.begin % np.dtype(found.natural).itemsize == 0
        assert reader._start % safetensors.ALIGNMENT == 0
    assert_same(read_all(path), arrays())


def test_nothing_at_all(tmp_path):
    write(tmp_path / "none", {})
    with Reader(tmp_path / "none") as reader:
        assert reader.entries == {}
        assert reader.metadata == {}


def test_the_package_reads_what_we_write_and_we_read_what_it_writes(tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    write(tmp_path / "ours", arrays(), {"who": "we"})
    assert_same(package.load_file(tmp_path / "ours"), arrays())
    package.save_file(arrays(), tmp_path / "theirs", {"who": "they"})
    assert_same(read_all(tmp_path / "theirs"), arrays())
    with Reader(tmp_path / "theirs") as reader:
        assert reader.metadata == {"who": "they"}


def test_arrays_that_lie_otherwise_in_memory(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    write(tmp_path / "a", {"turned": values.T, "part": values[:, ::2], "big": values.astype(">f4")})
    assert_same(read_all(tmp_path / "a"), {"turned": np.ascontiguousarray(values.T), "part": np.ascontiguousarray(values[:, ::2]), "big": values})


@pytest.mark.parametrize("kept", ["f8", "f4", "f2", "i8", "u1", "?"])
@pytest.mark.parametrize("wanted", ["f8", "f4"])
def test_reading_into_another_dtype(tmp_path, monkeypatch, kept, wanted):
    monkeypatch.setattr(safetensors, "BLOCK", 32)        # several blocks, the last one not full
    values = np.arange(35).reshape(5, 7).astype(kept)
    write(tmp_path / "a", {"first": np.ones(3), "x": values})
    target = np.full((5, 7), np.nan, wanted)
    with Reader(tmp_path / "a") as reader:
        reader.read_into("x", target)
    assert_same_bits(target, values.astype(wanted))


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
    values = np.array([0.0, -0.0, 1.0, -2.5, 3.0e38, np.inf, np.nan, 1e-40], np.float32)
    bits = values.view(np.uint32) >> 16
    (tmp_path / "a").write_bytes(content({"x": entry((8,), "BF16", (0, 16))}, bits.astype("<u2").tobytes()))
    found = read_all(tmp_path / "a")["x"]
    assert_same_bits(found, (bits << 16).view(np.float32))


def test_any_byte_of_a_boolean_counts(tmp_path):
    (tmp_path / "a").write_bytes(content({"x": entry((4,), "BOOL", (0, 4))}, b"\x00\x01\x02\xff"))
    assert read_all(tmp_path / "a")["x"].view(np.uint8).tolist() == [0, 1, 1, 1]


def test_wrong_targets_are_refused(tmp_path):
    write(tmp_path / "a", {"x": np.zeros((2, 3))})
    with Reader(tmp_path / "a") as reader:
        with pytest.raises(ValueError, match=r"^'x' must be read into a C-contiguous array of shape \(2, 3\), received shape \(3, 2\)$"):
            reader.read_into("x", np.zeros((3, 2)))
        with pytest.raises(ValueError, match=r"^'x' must be read into a C-contiguous array of shape \(2, 3\), received shape \(2, 3\)$"):
            reader.read_into("x", np.zeros((3, 2)).T)
        with pytest.raises(KeyError):
            reader.read("y")


def test_wrong_arrays_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^'x' must be an array of numbers that safetensors knows, received complex128$"):
        write(tmp_path / "a", {"x": np.zeros(2, complex)})
    assert os.listdir(tmp_path) == []


BAD = [
    (b"", "it has 0 bytes, fewer than any header"),
    (b"\x02\x00\x00\x00\x00\x00\x00\x00{", "it has 9 bytes, fewer than any header"),
    (b"\x00" * 8 + b"{}", "the length of its header must be from 2 to 2, received 0"),
    (b"\xff" * 8 + b"{}", "the length of its header must be from 2 to 2, received 18446744073709551615"),
    (b"\x03" + b"\x00" * 7 + b"{}", "the length of its header must be from 2 to 2, received 3"),
    (content(b'{"\xff":1}'), "its header is no UTF-8: invalid start byte at byte 2"),
    (content("[]"), "its header is no JSON object: '{' is missing at character 0"),
    (content("{1:2}"), "its header is no JSON object: '\"' is missing at character 1"),
    (content('{"x"}'), "its header is no JSON object: ':' is missing at character 4"),
    (content('{"x'), "its header is no JSON object: the string at character 1 is damaged"),
    (content('{"\\ud800":1}'), "its header is no JSON object: the string at character 1 is damaged"),
    (content("{} {}"), "its header goes on behind its end"),
    (content('{"__metadata__":{"a":1}}'), "its header is no JSON object: '\"' is missing at character 21"),
    (content('{"__metadata__":{'), "its header is no JSON object: '\"' is missing at character 17"),
    (content('{"__metadata__":{"a":"1"'), "its header is no JSON object: '}' is missing at character 24"),
    (content('{"__metadata__":{}'), "its header is no JSON object: '}' is missing at character 18"),
    (b"\x02" + b"\x00" * 7 + b"{ ", "its header is no JSON object: '\"' is missing at character 2"),
    (content('{"__metadata__":[]}'), "its header is no JSON object: '{' is missing at character 16"),
    (content('{"__metadata__":{"a":"1","a":"2"}}'), "its metadata has 'a' twice"),
    (content('{"__metadata__":{"a":"1"},"__metadata__":{}}'), "its header has '__metadata__' twice"),
    (content('{"x":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}', b"1234"),
     "its header has 'x' twice"),
    (content('{"x":[]}'), "what its header says of 'x' is no JSON object of dtype, shape and data_offsets"),
    (content('{"x":{"a":{}}}'), "what its header says of 'x' is no JSON object of dtype, shape and data_offsets"),
    (content('{"x":{"dtype":' + "[" * 1900 + "}}"), "what its header says of 'x' is no JSON object of dtype, shape and data_offsets"),
    (content('{"x":{"shape":[' + "1," * 5000 + "1]}}"), "what its header says of 'x' is no JSON object of dtype, shape and data_offsets"),
    (content({"x": {"dtype": "F32", "shape": []}}), "what its header says of 'x' must be dtype, shape and data_offsets, each once"),
    (content('{"x":{"dtype":"F32","dtype":"F64","shape":[],"data_offsets":[0,4]}}', b"1234"),
     "what its header says of 'x' must be dtype, shape and data_offsets, each once"),
    (content({"x": {**entry(), "more": 1}}), "what its header says of 'x' must be dtype, shape and data_offsets, each once"),
    (content({"x": entry(dtype="F8_E4M3")}),
     "dtype of 'x' must be one of F64, I64, U64, F32, I32, U32, F16, BF16, I16, U16, I8, U8, BOOL, received 'F8_E4M3'"),
    (content({"x": entry(dtype=["F32"])}),
     "dtype of 'x' must be one of F64, I64, U64, F32, I32, U32, F16, BF16, I16, U16, I8, U8, BOOL, received \"['F32']\""),
    *[(content({"x": {**entry(), "shape": shape}}), "shape of 'x' must be a list of at most 32 whole numbers of at least 0")
      for shape in (2, [2.0], [True], [-1], ["2"], None, [1] * 33)],
    *[(content({"x": {**entry(), "data_offsets": offsets}}), "data_offsets of 'x' must be two whole numbers, the second not below the first")
      for offsets in ([0], [0, 8, 8], [8, 0], [0.0, 8.0], [-8, 0], "08", [False, 8])],
    (content({"x": entry((3,))}, b"12345678"), "'x' of shape (3,) and dtype F32 needs 12 bytes, its data_offsets give 8"),
    (content({"x": entry((1 << 62, 1 << 62))}), f"'x' of shape ({1 << 62}, {1 << 62}) and dtype F32 needs {1 << 126} bytes, its data_offsets give 8"),
    (content({"x": entry((0, 1 << 62), offsets=(0, 0))}), "shape of 'x' is too large"),
    (content({"x": entry(), "y": entry(offsets=(4, 12))}, b"123456789012"),
     "the data of 'y', from byte 4 on, overlaps what lies before it, which ends at 8"),
    (content({"x": entry(), "y": entry(offsets=(12, 20))}, b"1" * 20), "the data of 'y', from byte 12 on, leaves a gap before it, which ends at 8"),
    (content({"x": entry(offsets=(4, 12))}, b"1" * 12), "the data of 'x', from byte 4 on, leaves a gap before it, which ends at 0"),
    (content({"x": entry()}, b"1234567"), "its header speaks of 8 bytes of data, but it has 7"),
    (content({"x": entry()}, b"123456789"), "its header speaks of 8 bytes of data, but it has 9"),
    (content({"x": entry((1 << 40,), offsets=(0, 1 << 42))}), f"its header speaks of {1 << 42} bytes of data, but it has 0"),
]


@pytest.mark.parametrize(("bytes_of_file", "reason"), BAD)
def test_bad_files_are_refused(tmp_path, bytes_of_file, reason):
    path = tmp_path / "a"
    path.write_bytes(bytes_of_file)
    with pytest.raises(FormatError, match="^" + re.escape(f"{str(path)!r} cannot be read as safetensors: {reason}") + "$"):
        Reader(path)


def test_numbers_of_thousands_of_digits_are_not_printed(tmp_path):
    (tmp_path / "a").write_bytes(content('{"x":{"dtype":"F32","shape":[' + "9" * 900 + "," + "9" * 900 + '],"data_offsets":[0,8]}}', b"12345678"))
    with pytest.raises(FormatError, match=r"of shape \(9{39}\.\.\. and dtype F32 needs 39{39}\.\.\. bytes, its data_offsets give 8$"):
        Reader(tmp_path / "a")


def test_a_missing_file_a_folder_and_a_device(tmp_path):
    with pytest.raises(FileNotFoundError):
        Reader(tmp_path / "none")
    with pytest.raises(OSError):  # noqa: PT011  (IsADirectoryError, PermissionError on Windows)
        Reader(tmp_path)
    if os.path.exists("/dev/zero"):
        with pytest.raises(FormatError, match=r"^'/dev/zero' cannot be read as safetensors: it is no regular file$"):
            Reader("/dev/zero")


def test_a_file_that_becomes_shorter(tmp_path):
    path = tmp_path / "a"
    write(path, {"x": np.zeros(1000)})
    with Reader(path) as reader:
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(FormatError, match=r"cannot be read as safetensors: it ends before its data does: it has become shorter$"):
            reader.read("x")


def test_a_header_of_many_values_takes_little_memory(tmp_path):
    size = 3_000_000
    for text in ('{"x":' + "[]," * (size // 3), '{"__metadata__":{"a":"' + "1" * size + '"}}', '{"x":{"shape":[' + "1," * (size // 2)):
        (tmp_path / "a").write_bytes(content(text))
        tracemalloc.start()
        with contextlib.suppress(FormatError):
            Reader(tmp_path / "a").close()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * size                           # bytes, text, the string that it holds


# Writing.

class Fails(Exception):
    pass


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, function):
    def fail(*_):
        raise Fails

    path = tmp_path / "a"
    write(path, {"x": np.zeros(3)})
    before = path.read_bytes()
    monkeypatch.setattr(safetensors.os, function, fail)
    with pytest.raises(Fails):
        write(path, {"x": np.ones(3)})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a"]


def test_files_are_on_the_disk_before_they_are_in_place(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(safetensors.os, name, lambda *arguments, name=name, original=original: (done.append(name), original(*arguments)))
    write(tmp_path / "a", {"x": np.zeros(3)})
    assert done == ["fsync", "replace"] + ["fsync"] * (os.name != "nt")


def test_a_link_is_written_through_and_permissions_stay(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    write(target, {"x": np.zeros(3)})
    if os.name != "nt":
        target.chmod(0o600)
        link.symlink_to(target)
        write(link, {"x": np.ones(3)})
        assert link.is_symlink()
        assert target.stat().st_mode & 0o777 == 0o600
        assert read_all(target)["x"].tolist() == [1, 1, 1]


def test_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "none" / "a", {})


def test_leftovers_of_killed_processes_are_found(tmp_path):
    assert leftovers(tmp_path / "none" / "a") == []
    for name in ("a", ".a.0123abcd.tmp", ".a.tmp", ".ab.0123abcd.tmp", ".a.0123abcd.tmp2"):
        (tmp_path / name).write_bytes(b"")
    assert leftovers(tmp_path / "a") == [str(tmp_path / ".a.0123abcd.tmp")]


# Fuzz.

def fuzz(path: pathlib.Path, seed: int, count: int) -> int:
    """Read damaged copies; returns how many were refused. Anything but FormatError is an error."""
    write(path, {**arrays(), "x": np.arange(500, dtype=np.float32)}, {"a": "b" * 50, "c": '{"d": [1, 2]}'})
    refused = 0
    for damaged in mutated(path.read_bytes(), seed, count):
        path.write_bytes(damaged)
        try:
            read_all(path)
        except FormatError:
            refused += 1
    return refused


def test_damaged_files_raise_nothing_else(tmp_path):
    assert fuzz(tmp_path / "a", 0, 400) > 100


@pytest.mark.sweep
@pytest.mark.parametrize("block", range(10))
def test_sweep_of_damaged_files(tmp_path, block):
    assert fuzz(tmp_path / "a", 100 * sweep_seed() + block, 2000) > 500
