"""The store of PTX: launches of a plan, kept on disk beside the kernels of the CPU, and read without Numba.

One file holds one launch for one dtype and one architecture, with the signatures of its kernels. Its folder is named by the sources of the package
and the versions of what compiles them, so a stale launch is impossible. Files are written and checked as those of `store.py` are: many processes may
share a folder, and a torn or foreign file is compiled anew.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from nnkit.plan.launch import ARCHITECTURE
from nnkit.runtime import store

__all__ = ["ARCHITECTURE", "Code", "codes", "compiled_count", "folder", "has_kernel"]

PACKAGES = ("numba", "numba-cuda", "llvmlite", "nvidia-nvvm")        # whose versions the PTX depends on

Lanes = tuple[tuple[str, ...], ...]                      # names of kernels
Key = tuple[Lanes, str, tuple[int, int]]                 # with dtype and architecture


@attrs.frozen
class Code:
    """PTX of a launch, and the signatures of the kernels of its steps."""

    ptx: str
    signatures: tuple[str, ...]


_lock = threading.RLock()
_known: dict[Key, Code] = {}
_compiled = 0


def compiled_count() -> int:
    """How many launches this process had to compile."""
    return _compiled


def codes(wanted: Iterable[Lanes], dtype: str, architecture: tuple[int, int] = ARCHITECTURE) -> dict[Lanes, Code]:
    """The code of launches of these kernels, by name; read from the store, or compiled and kept there. Raises ValueError where a kernel has no CUDA
    form."""
    global _compiled
    with _lock:
        keys = [(lanes, dtype, architecture) for lanes in dict.fromkeys(wanted)]
        missing = [key for key in keys if key not in _known and not _load_stored(key)]
        _announce(missing)
        for key in missing:
            _known[key] = _compile(key)
            _compiled += 1
            if not _of_user(key):
                store.write_file(_path(key), _stored(key, _known[key]))
        return {key[0]: _known[key] for key in keys}


def _compile(key: Key) -> Code:
    from nnkit import cuda_jit  # imports Numba

    lanes, dtype, architecture = key
    kernels = [[cuda_jit.find(name) for name in lane] for lane in lanes]
    return Code(cuda_jit.compile_launch(kernels, dtype, architecture), tuple(kernel.signature for lane in kernels for kernel in lane))


def _load_stored(key: Key) -> bool:
    """Read a launch from the store; False where it is not there, or is another one."""
    stored = None if _of_user(key) else store.read_file(_path(key))
    good = stored is not None and stored.symbol == _text(key) and len(stored.externals) == sum(map(len, key[0]))
    if good:
        assert stored is not None
        _known[key] = Code(stored.data.decode(), stored.externals)
    return good


def _of_user(key: Key) -> bool:
    """Whether there are a user's kernels in it: they have names for one process alone."""
    return any(name in store.USER_KERNELS for lane in key[0] for name in lane)


def _stored(key: Key, code: Code) -> store.Stored:
    """As a file: under `symbol` which launch it is, under `externals` the signatures."""
    return store.Stored(symbol=_text(key), signature="", externals=code.signatures, data=code.ptx.encode())


def _text(key: Key) -> str:
    return json.dumps(key)


def _path(key: Key) -> pathlib.Path:
    return folder() / f"{hashlib.sha256(_text(key).encode()).hexdigest()[:32]}.ptx"


def _announce(missing: Sequence[Key]) -> None:
    """Say what is compiled, since it takes seconds; $NNKIT_QUIET=1 silences it."""
    if missing and not os.environ.get("NNKIT_QUIET"):
        names = list(dict.fromkeys(name.rpartition(".")[2] for lanes, _, _ in missing for lane in lanes for name in lane))
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        print(f"nnkit: compiling {len(missing)} launch{'es' * (len(missing) > 1)} for this GPU, once ({shown})", file=sys.stderr, flush=True)


@functools.cache
def _fingerprint() -> str:
    """A hash of all that PTX depends on besides what is compiled."""
    alone = _version("nvidia-nvvm") != "-"               # else the compiler is that of a toolkit, or of an older package
    packages = (*PACKAGES, *(() if alone else ("nvidia-cuda-nvcc",)))
    variables = ("NUMBA_CUDA_", "NUMBA_FORCE_CUDA_CC", *(() if alone else ("CUDA_PATH", "CUDA_HOME")))
    facts = [store.sources(), *(f"{name} {_version(name)}" for name in packages)]
    facts += sorted(f"{key}={value}" for key, value in os.environ.items() if key.startswith(variables))
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:20]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "-"


def folder() -> pathlib.Path:
    """Where launches are kept: a folder beside those of the CPU's kernels."""
    return store.root() / f"ptx-{_fingerprint()}"


# Which kernels there are, without importing them: what they are made with imports Numba.

def has_kernel(name: str) -> bool:
    """Whether a step's kernel has a CUDA form."""
    module, _, attribute = name.rpartition(".")
    if attribute in _names(module):
        return True
    if name in store.USER_KERNELS:
        return store.USER_KERNELS[name].formula is not None
    if not _source(module):
        return False
    from nnkit import cuda_jit

    try:
        return bool(cuda_jit.find(name))
    except ValueError:
        return False


def _source(module: str) -> pathlib.Path | None:
    path = store.PACKAGE.joinpath(*module.split(".")[:-1], f"{module.rpartition('.')[2]}_cuda.py")
    return path if path.is_file() else None


@functools.cache
def _names(module: str) -> frozenset[str]:
    """The names that a module of CUDA kernels defines, read from its source."""
    import ast

    path = _source(module)
    tree: Any = ast.parse(path.read_text(encoding="utf-8")) if path is not None else ast.Module([], [])
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        for target in node.targets if isinstance(node, ast.Assign) else ():
            found |= {part.id for part in ast.walk(target) if isinstance(part, ast.Name)}
    return frozenset(found)
