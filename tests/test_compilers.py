"""Helper processes that compile: nothing is lost where they fail, and the folder holds the same kernels with and without them."""

import subprocess
import sys
import time

import pytest

from nnkit.runtime import compilers, store

KEYS = [(f"user:k{number}", "float32", False) for number in range(12)]


@pytest.fixture
def one_helper(monkeypatch):
    monkeypatch.setattr(compilers, "_helpers", lambda kernels: 1)


def helper(monkeypatch, code):
    """Let `code` run in place of the helper's program."""
    start = subprocess.Popen
    monkeypatch.setattr(compilers.subprocess, "Popen", lambda command, **options: start([sys.executable, "-c", code], **options))


def test_every_kernel_is_compiled_once_here_or_by_a_helper(one_helper, monkeypatch, tmp_path):
    seen = tmp_path / "seen"
    helper(monkeypatch, f"import sys\nfor line in sys.stdin:\n    open({str(seen)!r}, 'a').write(line); print('done', flush=True)")
    here = []

    def compile_here(key):
        here.append(key)
        if len(here) == 1:                               # give the helper the time to answer: the first one waits for its sign
            for _ in range(6000):
                if seen.exists():
                    break
                time.sleep(0.01)

    compilers.compile_all(KEYS, compile_here)
    there = [tuple(line.split()) for line in seen.read_text().splitlines()]
    assert there
    assert sorted([*(name for name, _, _ in here), *(name for name, _, _ in there)]) == sorted(name for name, _, _ in KEYS)
    assert (here[0], there[0][0]) == (KEYS[0], KEYS[-1][0])


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "import sys; sys.stdin.readline()", "import os; os.abort()"], ids=["ends", "leaves", "dies"])
def test_a_failing_helper_stops_nothing(one_helper, monkeypatch, code):
    helper(monkeypatch, code)
    here = []
    compilers.compile_all(KEYS, here.append)
    assert here == KEYS[:len(here)]
    assert len(here) >= len(KEYS) - 2                    # what it was handed last is compiled by the caller, who looks into the store


def test_no_interpreter_no_helper(monkeypatch):
    for executable in ("", None, "/opt/editor/bin/editor"):
        monkeypatch.setattr(sys, "executable", executable)
        assert compilers._helpers(100) == 0


def test_what_a_helper_lost_is_compiled_here(monkeypatch):
    """`prepare` looks for what helpers left, and compiles what is not there."""
    compiled = []
    monkeypatch.setattr(store, "_loaded", {})
    monkeypatch.setattr(store, "_load_stored", lambda key: False)
    monkeypatch.setattr(store, "_announce", lambda missing: None)
    monkeypatch.setattr(store, "_compile", compiled.append)
    monkeypatch.setattr(compilers, "compile_all", lambda wanted, compile_here: compile_here(wanted[0]))
    store.prepare([KEYS[0], ("prims.feed.advance", "float32", False), ("prims.random.shuffle", "float32", False)])
    assert {name for name, _, _ in compiled} == {"user:k0", "prims.feed.advance", "prims.random.shuffle"}


def test_an_error_here_ends_the_helper(one_helper, monkeypatch):
    helper(monkeypatch, "import sys\nfor line in sys.stdin: print('done', flush=True)")

    def fail(key):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compilers.compile_all(KEYS, fail)


def test_the_server_compiles_what_it_reads(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(sys, "stdin", iter(["prims.feed.advance float32 0\n", "prims.feed.scatter float64 1\n"]))
    monkeypatch.setattr(store, "entries", lambda names, dtype, debug: asked.append((*names, dtype, debug)))
    compilers.serve()
    assert asked == [("prims.feed.advance", "float32", False), ("prims.feed.scatter", "float64", True)]
    assert capsys.readouterr().out.split() == ["prims.feed.advance", "prims.feed.scatter"]
