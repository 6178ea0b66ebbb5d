"""The object store: machine code of kernels, kept on disk and loaded without Numba.

`import numba` and the first load from Numba's own cache cost about 0.45 s. A kernel's object code needs neither: it calls nothing of Numba's,
so llvmlite alone can load it. Numba is imported only where something must be compiled.

One file holds one kernel for one dtype. Its folder is named by everything that the code depends on: the sources of the whole package,
Numba's and llvmlite's versions, Python's, the CPU's name and features, and the settings that change code generation. So a stale kernel is
impossible: after any change the folder is another one. Files are written under a temporary name and then renamed, and carry a checksum:
many processes may share a folder, a torn or foreign file is compiled anew, and a folder that cannot be written just keeps nothing.

The folder is $NNKIT_CACHE_DIR, or the user's cache folder.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import hashlib
import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
from llvmlite import binding as llvm

__all__ = [
    "KERNEL", "RUN", "Entry", "Stored", "compiled_count", "entries", "fingerprint", "folder", "link", "load", "prepare", "provide_give_way",
    "read_file", "register", "root", "sources", "writable", "write_file",
]

PACKAGE = pathlib.Path(__file__).resolve().parent.parent
MAGIC = b"nnkit object 1\n"
SHARED = "nnkit:"                                        # symbols of shared routines: nnkit:<name>:<dtype>
GIVE_WAY = "nnkit_give_way"                              # the system's call by which a thread lets others run

# How machine code is called, by Numba's convention: status(return slot, exception slot, int64 arguments).
KERNEL = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3)
RUN = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 7)


@attrs.frozen
class Entry:
    """A loaded entry point: its address and the signature of the arguments that it takes."""

    name: str
    address: int
    signature: str


@attrs.frozen
class Stored:
    """What a file of the store holds."""

    symbol: str
    signature: str
    externals: tuple[str, ...]
    data: bytes

    def to_bytes(self) -> bytes:
        """The content of the file: a magic line, a header in JSON, the object code."""
        header = {"symbol": self.symbol, "signature": self.signature, "externals": self.externals, "sha256": hashlib.sha256(self.data).hexdigest()}
        return MAGIC + json.dumps(header).encode() + b"\n" + self.data

    @classmethod
    def of(cls, code: Any, signature: str) -> Stored:
        """From freshly compiled object code."""
        return cls(symbol=code.symbol, signature=signature, externals=code.externals, data=code.data)

    @classmethod
    def from_bytes(cls, content: bytes) -> Stored | None:
        """None for anything but a whole, unharmed file."""
        if not content.startswith(MAGIC):
            return None
        line, separator, data = content[len(MAGIC):].partition(b"\n")
        try:
            header = json.loads(line)
            good = bool(separator) and hashlib.sha256(data).hexdigest() == header.pop("sha256")
            return cls(symbol=header["symbol"], signature=header["signature"], externals=tuple(header["externals"]), data=data) if good else None
        except (ValueError, KeyError, TypeError):
            return None


def default_folder() -> pathlib.Path:
    """The user's cache folder of this platform."""
    if sys.platform == "win32":
        return pathlib.Path(os.environ.get("LOCALAPPDATA", tempfile.gettempdir())) / "nnkit"
    if sys.platform == "darwin":
        return pathlib.Path.home() / "Library" / "Caches" / "nnkit"
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "nnkit"


@functools.cache
def fingerprint() -> str:
    """A hash of all that machine code depends on."""
    settings = sorted(f"{key}={value}" for key, value in os.environ.items() if key.startswith("NUMBA_") and not key.startswith("NUMBA_NUM_THREADS"))
    features = sorted(name for name, present in llvm.get_host_cpu_features().items() if present)
    facts = [importlib.metadata.version("numba"), importlib.metadata.version("llvmlite"), platform.python_version(), platform.machine(), sys.platform,
             llvm.get_host_cpu_name(), *features, *settings, sources()]
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:20]


def sources() -> str:
    """A hash of the package's sources."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def root() -> pathlib.Path:
    """What holds all folders of the store."""
    chosen = os.environ.get("NNKIT_CACHE_DIR")
    return pathlib.Path(chosen) if chosen else default_folder()


def folder() -> pathlib.Path:
    """Where this process's kernels are kept: one folder per fingerprint."""
    return root() / fingerprint()


_lock = threading.RLock()
_loaded: dict[tuple[str, str, bool], Entry] = {}
_engines: list[Any] = []                                 # keep machine code alive as long as the process
_compiling: list[str] = []                               # kernels that are being compiled: one, and what it needs
_compiled = 0


def compiled_count() -> int:
    """How many kernels this process had to compile."""
    return _compiled


def entries(names: Iterable[str], dtype: str, debug: bool = False) -> dict[str, Entry]:
    """The entry points of these kernels, by name; loaded from the store, or compiled and kept there.

    A name is "layers.dense.dense_forward": the function dense_forward of nnkit.layers.dense_cpu; others are kernels that were registered in this
    process ("user:module.function@1") and are never kept on disk, since their sources are not the package's.
    """
    with _lock:
        keys = {name: (name, dtype, debug) for name in names}
        prepare(keys.values())
        return {name: _loaded[key] for name, key in keys.items()}


def prepare(wanted: Iterable[tuple[str, str, bool]]) -> None:
    """Have these kernels (name, dtype, debug) loaded, several compiled at the same time: asking for all at once is the fastest way."""
    with _lock:
        missing = [key for key in dict.fromkeys(wanted) if key not in _loaded and not _load_stored(key)]
        if missing:
            from nnkit.runtime.compilers import compile_all

            _announce(missing)
            kept = [key for key in missing if key[0] not in USER_KERNELS]
            compile_all(kept, _compile)
            for key in missing:
                if key not in _loaded and not _load_stored(key):
                    _compile(key)


def _load_stored(key: tuple[str, str, bool]) -> bool:
    """Load a kernel from the store; False where it is not there."""
    stored = read_file(_path(*key)) if key[0] not in USER_KERNELS else None
    if stored is not None:
        _loaded[key] = load(key[0], stored)
    return stored is not None


def _announce(missing: list[tuple[str, str, bool]]) -> None:
    """Say what is compiled, since it takes seconds; $NNKIT_QUIET=1 silences it. What a kernel in turn needs is not told apart."""
    if os.environ.get("NNKIT_QUIET") or _compiling:
        return
    own: list[str] = []
    kept: list[str] = []
    for name, _, _ in missing:
        (own if name in USER_KERNELS else kept).append(name.rpartition(".")[2])
    for short, when in ((kept, "for this machine, once"), (own, "of your own, once in every process")):
        if short:
            shown = ", ".join(short[:4]) + (f" and {len(short) - 4} more" if len(short) > 4 else "")
            print(f"nnkit: compiling {len(short)} kernel{'s' * (len(short) > 1)} {when} ({shown})", file=sys.stderr, flush=True)


def _path(name: str, dtype: str, debug: bool) -> pathlib.Path:
    return folder() / f"{name}.{dtype}{'.debug' if debug else ''}.o"


def writable() -> bool:
    """Whether kernels can be kept."""
    try:
        folder().mkdir(parents=True, exist_ok=True)
        return os.access(folder(), os.W_OK)
    except OSError:
        return False


def read_file(path: pathlib.Path) -> Stored | None:
    """What the file holds; None where it is not there or damaged."""
    try:
        return Stored.from_bytes(path.read_bytes())
    except OSError:
        return None


def write_file(path: pathlib.Path, stored: Stored) -> None:
    """Under a temporary name, then renamed: readers see a whole file or none. A folder that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(stored.to_bytes())
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
    except OSError:
        pass


# Kernels registered in this process (a user's own layer, activation, loss, ...): name -> Kernel.
USER_KERNELS: dict[str, Any] = {}
_numbers: collections.Counter[str] = collections.Counter()


def register(name: str, kernels: Mapping[str, Any]) -> str:
    """Make kernels that are not nnkit's known, as "<name>@<number>" with the mapping's key behind it; returns that without the key.

    Every registration has another number: machine code of an earlier one of that name is never called in its place.
    """
    with _lock:
        _numbers[name] += 1
        unique = f"{name}@{_numbers[name]}"
        for key, kernel in kernels.items():
            kernel.step = unique + key
            USER_KERNELS[kernel.step] = kernel
    return unique


def _compile(key: tuple[str, str, bool]) -> None:
    """Compile a kernel, keep it, load it."""
    global _compiled
    name, dtype, debug = key
    if name in USER_KERNELS:
        kernel = USER_KERNELS[name]
    elif name.startswith("user:"):
        raise ValueError(f"no kernel {name!r} is registered in this process: give g.step the kernel itself")
    else:
        module, _, attribute = name.rpartition(".")
        kernel = getattr(importlib.import_module(f"nnkit.{module}_cpu"), attribute)
    _compiling.append(name)
    try:
        stored = Stored.of(kernel.compile(dtype, debug), kernel.signature)
    finally:
        _compiling.pop()
    _compiled += 1
    if name not in USER_KERNELS:
        write_file(_path(name, dtype, debug), stored)
    _loaded[key] = load(name, stored)


def link(name: str, dtype: str) -> str:
    """Make a shared routine callable by machine code; returns its symbol. Compiles it where it is not stored."""
    symbol = f"{SHARED}{name}:{dtype}"
    llvm.add_symbol(symbol, entries([name], dtype)[name].address)
    return symbol


def load(name: str, stored: Stored) -> Entry:
    """An engine of its own for every object, so that symbols of two objects never meet."""
    for symbol in stored.externals:
        if symbol.startswith(SHARED):
            link(*symbol.removeprefix(SHARED).split(":"))
    if GIVE_WAY in stored.externals:
        provide_give_way()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(stored.data))
    engine.finalize_object()
    _engines.append(engine)
    address = engine.get_function_address(stored.symbol)
    if not address:
        raise RuntimeError(f"kernel {name}: its object code holds no symbol {stored.symbol}")
    return Entry(name=name, address=address, signature=stored.signature)


def _target_machine() -> Any:
    _initialize_llvm()
    return llvm.Target.from_default_triple().create_target_machine(jit=True)


@functools.cache
def _initialize_llvm() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


@functools.cache
def provide_give_way() -> None:
    """Make the system's call known to LLVM under a name of ours."""
    library = ctypes.CDLL("kernel32" if sys.platform == "win32" else None)
    function = library.SwitchToThread if sys.platform == "win32" else library.sched_yield
    llvm.add_symbol(GIVE_WAY, ctypes.cast(function, ctypes.c_void_p).value)
