"""The object store: no compiler on a known machine, never a stale kernel, safe with many processes and bad folders."""

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

from nnkit.runtime import store

PROGRAM = textwrap.dedent("""
    import sys, hashlib, numpy as np, nnkit
    from nnkit.runtime import store
    from nnkit import Sequential, Input, Dense
    spec = Sequential([Input((5,)), Dense(4, activation="relu"), Dense(1, activation="sigmoid")])
    model = nnkit.compile(spec, optimizer="adam", loss="binary_crossentropy", seed=3, threads=1)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 5)), rng.integers(0, 2, 50)
    model.fit(x, y, epochs=2, batch_size=16, verbose=0)
    digest = hashlib.sha256(b"".join(p.tobytes() for p in model.parameters.values())).hexdigest()
    print(store.compiled_count(), "numba" in sys.modules, digest)
""")


def run(folder, program=PROGRAM, **environment):
    env = {**os.environ, "NNKIT_CACHE_DIR": str(folder), "NNKIT_QUIET": "1", "NNKIT_DEBUG": "0", **environment}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    compiled, numba, digest = done.stdout.split()
    return int(compiled), numba == "True", digest, done.stderr


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A folder that one process filled, and the bits that it trained."""
    folder = tmp_path_factory.mktemp("store")
    compiled, numba, digest, _ = run(folder)
    assert compiled > 4                                  # helper processes compile the others
    assert numba
    return folder, digest


def test_a_second_process_compiles_nothing_and_does_not_import_numba(warm):
    folder, digest = warm
    assert run(folder)[:3] == (0, False, digest)


def test_a_second_process_runs_in_parallel_without_numba(tmp_path):
    """Steps large enough for several tasks: what was compiled in one process must not hold addresses of that process."""
    program = PROGRAM.replace("Dense(4,", "Dense(300,").replace("Input((5,))", "Input((400,))").replace("(50, 5)", "(300, 400)").replace(
        "threads=1", "threads=2").replace("0, 2, 50", "0, 2, 300").replace("batch_size=16", "batch_size=128")
    compiled, _, digest, _ = run(tmp_path, program)
    assert compiled > 4
    assert any("runtime.tape.assist" in path.name for path in tmp_path.rglob("*.o"))
    assert run(tmp_path, program)[:3] == (0, False, digest)


def test_the_first_run_says_what_it_compiles(tmp_path):
    errors = run(tmp_path, NNKIT_QUIET="")[3]
    assert "nnkit: compiling" in errors
    assert "for this machine, once" in errors


def copy(folder, to):
    for path in folder.rglob("*.o"):
        target = to / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())


@pytest.mark.parametrize("harm", [lambda data: data[:len(data) // 2], lambda data: b"", lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
                                  lambda data: b"x" + data],
                         ids=["torn", "empty", "flipped", "foreign"])
def test_a_harmed_file_is_compiled_anew(warm, tmp_path, harm):
    folder, digest = warm
    copy(folder, tmp_path)
    (victim,) = tmp_path.rglob("optimizers.rules.adam_update.float32.o")
    victim.write_bytes(harm(victim.read_bytes()))
    assert run(tmp_path)[:3] == (1, True, digest)
    assert run(tmp_path)[:3] == (0, False, digest)


def test_a_folder_that_cannot_be_written_keeps_nothing_and_works(warm, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")                   # works for root too, whom permissions do not stop
    compiled, _, digest, _ = run(blocked)
    assert compiled > 10
    assert digest == warm[1]


def test_many_processes_may_fill_one_folder(warm, tmp_path):
    env = {**os.environ, "NNKIT_CACHE_DIR": str(tmp_path), "NNKIT_QUIET": "1", "NNKIT_DEBUG": "0"}
    started = [subprocess.Popen([sys.executable, "-c", PROGRAM], env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    digests = {process.communicate(timeout=300)[0].split()[2] for process in started}
    assert digests == {warm[1]}
    assert run(tmp_path)[:2] == (0, False)
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_fingerprint_covers_sources_versions_and_settings(monkeypatch, tmp_path):
    before = store.fingerprint()
    store.fingerprint.cache_clear()
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+sse2")
    assert store.fingerprint() != before
    monkeypatch.undo()
    store.fingerprint.cache_clear()
    package = tmp_path / "nnkit"
    for path in store.PACKAGE.rglob("*.py"):
        target = package / path.relative_to(store.PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    monkeypatch.setattr(store, "PACKAGE", pathlib.Path(package))
    assert store.fingerprint() == before
    store.fingerprint.cache_clear()
    helper = package / "scalar.py"
    helper.write_text(helper.read_text() + "\n# changed\n")
    assert store.fingerprint() != before
    store.fingerprint.cache_clear()


def test_an_unknown_kernel_is_an_error():
    with pytest.raises(AttributeError):
        store.entries(["layers.dense.no_such_kernel"], "float32")
