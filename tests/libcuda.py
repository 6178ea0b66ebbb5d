"""NVIDIA's driver library without a GPU, for the code that calls it: the real cuda.bindings find it under the driver's name.

A small C library, which is compiled here, exports the functions that nnkit calls and hands each call to `Driver`. Memory is that of the PTX
interpreter, launches are run by it. What is asked for on a stream waits there until somebody synchronizes with that stream, so a result that is read
too early, or pinned memory that is written too early, shows as a wrong number. Calls that a driver would refuse, or answer by a crash, are faults:
without a context, in the context of the other GPU, during a capture, in a forked process, launches that are too large.

Once a process has it, it has a "GPU": tests run in processes of their own, by `python tests/libcuda.py SESSION` (sessions: driver_sessions.py).
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np

import ptx

SUCCESS, INVALID, NO_MEMORY, NO_DRIVER, NO_CONTEXT, NOT_FOUND, CAPTURED, SPOILT = 0, 1, 2, 3, 201, 500, 900, 901
WORDS = {INVALID: b"invalid argument", NO_MEMORY: b"out of memory", NO_DRIVER: b"initialization error", NO_CONTEXT: b"invalid device context",
         NOT_FOUND: b"named symbol not found", CAPTURED: b"operation not permitted when stream is capturing",
         SPOILT: b"operation failed due to a previous error during capture"}
SHARED = 97                                              # the attribute of a device: most shared memory of a block, by asking
FREELY = ("cuInit", "cuDriverGetVersion", "cuGetErrorString", "cuDeviceGet", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain", "cuCtxGetCurrent",
          "cuCtxSetCurrent", "cuCtxPushCurrent", "cuCtxPopCurrent")         # need no context
UNSAFE = ("cuMemAlloc", "cuMemFree", "cuMemHostAlloc", "cuMemFreeHost", "cuModuleLoadData", "cuCtxSynchronize")      # not by who captures, see there
GLOBAL, OF_THREAD, RELAXED = range(3)                    # modes of a capture
DEVICE_ORDINAL = 9                                       # the attribute of a pointer
SHARED_SIZE = 8                                          # the attribute of a function: most dynamic shared memory
STATIC_SHARED = 48 * 1024                                # what a function has without asking
PARAMETER_BYTES = 4096                                   # of a launch

SOURCE = """
#include <stdint.h>
#include <string.h>
static int (*handler)(const char *, uint64_t *);
void answer(int (*given)(const char *, uint64_t *)) {{ handler = given; }}
{functions}
int cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *status) {{
    *found = 0;
    if (!strcmp(name, "cuGetProcAddress")) *found = (void *)cuGetProcAddress_v2;
    {table}
    if (status) *status = *found ? 0 : 1;
    return *found ? 0 : 500;
}}
"""
FUNCTION = """int {0}(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) {{
    uint64_t words[6] = {{a, b, c, d, e, f}};
    return handler("{0}", words);
}}"""
ENTRY = "if (!strcmp(name, \"{0}\")) *found = (void *){0};"
HANDLER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint64))


class Refused(Exception):
    """A call that the driver answers with an error."""


class KernelNode(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS."""

    _fields_ = [("function", ctypes.c_uint64), *((f"{kind}{axis}", ctypes.c_uint32) for kind in ("grid", "block") for axis in "XYZ"),
                ("shared", ctypes.c_uint32), ("parameters", ctypes.c_uint64), ("extra", ctypes.c_uint64), ("kernel", ctypes.c_uint64),
                ("context", ctypes.c_uint64)]


@attrs.frozen
class Launch:
    """What a node of a graph does: a copy of its parameters, as the driver makes it."""

    program: ptx.Program
    blocks: int
    shared: int
    words: tuple[int, ...]


Actions = tuple[Callable[[], None], ...]                 # what a stream was asked for while it was captured


@attrs.define
class Capture:
    """What a stream is asked for while it is captured. mode: who may do what meanwhile; thread: whose it is."""

    mode: int
    thread: int
    actions: list[Callable[[], None]] = attrs.field(factory=list)
    spoilt: bool = False


@attrs.define
class Graph:
    """Nodes in the order in which they were added, each behind the ones that it names."""

    launches: dict[int, Launch | Actions] = attrs.field(factory=dict)
    before: dict[int, tuple[int, ...]] = attrs.field(factory=dict)
    parent: int = 0                                      # of an executable graph: what it was made of


def store(address: int, value: int, kind: Any = ctypes.c_uint64) -> None:
    """Write a result where the caller wants it."""
    kind.from_address(address).value = value


class Driver:
    """The functions by name; arguments are words, addresses of the host's among them."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.memory, self.room = ptx.Memory(), room
        self.sizes: dict[int, int] = {}                  # of memory on the device
        self.others: dict[int, int] = {}                 # sizes of memory on the second GPU
        self.host: dict[int, Any] = {}                   # pinned memory
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.owners: dict[int, int] = {}                 # of streams: their contexts
        self.captures: dict[int, Capture] = {}           # by stream
        self.contexts = (0x100, 0x108)                   # the primary ones of two GPUs
        self.entered: dict[int, list[int]] = {}          # by thread: its contexts, the last one is the present one
        self.things: dict[int, Any] = {}                 # modules, functions, graphs by handle
        self.asked: dict[int, int] = {}                  # shared memory that a function may have
        self.runs: dict[Launch, ptx.Run] = {}
        self.launched = self.pinned_bytes = self.orphaned = 0        # orphaned: calls of forked processes
        self.handles = iter(range(0x1000, 1 << 30, 8))
        self.process = os.getpid()
        self.fault: BaseException | None = None
        self.version = 13000
        self.attributes = {75: 9, 76: 0, SHARED: 232_448}            # compute capability 9.0

    def call(self, name: bytes, words: Any) -> int:
        """A call from C."""
        try:
            self.permit(name.decode())
            getattr(self, name.decode())(*(int(words[k]) for k in range(6)))
            return SUCCESS
        except Refused as refused:
            return int(refused.args[0])
        except BaseException as error:                   # nothing may pass through C
            self.fault = self.fault or error
            traceback.print_exc()
            return 999

    def permit(self, name: str) -> None:
        """Refuse what a driver refuses whatever is asked for."""
        if os.getpid() != self.process:
            self.orphaned += 1
            raise Refused(NO_DRIVER)
        if name not in FREELY and not self.present():
            raise Refused(NO_CONTEXT)
        meant = [each for each in self.captures.values() if each.mode == GLOBAL or (each.mode == OF_THREAD and each.thread == threading.get_ident())]
        if name in UNSAFE and meant:
            for capture in meant:
                capture.spoilt = True
            raise Refused(CAPTURED)

    def present(self) -> int:
        """The context of this thread, or 0."""
        return self.entered.get(threading.get_ident(), [0])[-1]

    def handle(self, thing: Any) -> int:
        """A new handle."""
        number = next(self.handles)
        self.things[number] = thing
        return number

    def later(self, stream: int, action: Callable[[], None]) -> None:
        """Ask for something on a stream."""
        if self.owners[stream] != self.present():
            raise Refused(INVALID)
        (self.captures[stream].actions if stream in self.captures else self.streams[stream]).append(action)

    def drain(self, stream: int) -> None:
        """Do what was asked for on a stream."""
        if stream in self.captures:
            self.captures[stream].spoilt = True
            raise Refused(CAPTURED)
        actions, self.streams[stream] = self.streams[stream], []
        for action in actions:
            action()

    # Device, context, streams.

    def cuInit(self, *_: int) -> None: ...

    def cuDriverGetVersion(self, place: int, *_: int) -> None:
        store(place, self.version, ctypes.c_int)

    def cuGetErrorString(self, error: int, place: int, *_: int) -> None:
        words = ctypes.c_char_p(WORDS.get(error, b"unknown error"))
        self.things[-error] = words                      # stays where it is
        store(place, ctypes.cast(words, ctypes.c_void_p).value or 0)

    def cuDeviceGet(self, place: int, number: int, *_: int) -> None:
        store(place, number, ctypes.c_int)

    def cuDeviceGetAttribute(self, place: int, attribute: int, *_: int) -> None:
        store(place, self.attributes[attribute], ctypes.c_int)

    def cuDevicePrimaryCtxRetain(self, place: int, number: int, *_: int) -> None:
        store(place, self.contexts[number])

    def cuCtxSetCurrent(self, context: int, *_: int) -> None:
        self.cuCtxPushCurrent(context)
        self.entered[threading.get_ident()][-2:-1] = []

    def cuCtxGetCurrent(self, place: int, *_: int) -> None:
        store(place, self.present())

    def cuCtxPushCurrent(self, context: int, *_: int) -> None:
        assert context in self.contexts
        self.entered.setdefault(threading.get_ident(), [0]).append(context)

    def cuCtxPopCurrent(self, place: int, *_: int) -> None:
        store(place, self.present())
        self.entered[threading.get_ident()].pop()

    def cuCtxSynchronize(self, *_: int) -> None:
        for stream in self.streams:
            if self.owners[stream] == self.present():
                self.drain(stream)

    def cuStreamCreate(self, place: int, flags: int, *_: int) -> None:
        assert flags == 1
        store(place, handle := self.handle("stream"))
        self.streams[handle], self.owners[handle] = [], self.present()

    def cuStreamDestroy(self, stream: int, *_: int) -> None:
        self.drain(stream)
        del self.streams[stream]

    def cuStreamSynchronize(self, stream: int, *_: int) -> None:
        if stream in (1, 2):                             # the default streams, of which nothing has been asked
            return
        self.drain(stream)

    def cuStreamBeginCapture(self, stream: int, mode: int, *_: int) -> None:
        assert mode in (GLOBAL, OF_THREAD, RELAXED)
        assert not self.streams[stream]
        self.captures[stream] = Capture(mode, threading.get_ident())

    def cuStreamEndCapture(self, stream: int, place: int, *_: int) -> None:
        capture = self.captures.pop(stream)
        if capture.spoilt:
            raise Refused(SPOILT)
        store(place, self.handle(Graph({self.handle("node"): tuple(capture.actions)})))

    # Memory.

    def cuMemAlloc(self, place: int, size: int, *_: int) -> None:
        if not size:
            raise Refused(INVALID)
        if size > self.room - sum(self.sizes.values()):
            raise Refused(NO_MEMORY)
        address = self.memory.allocate(size)
        self.memory.array(address, size)[:] = 0xA5       # not zeros
        (self.sizes if self.present() == self.contexts[0] else self.others)[address] = size
        store(place, address)

    def cuMemFree(self, address: int, *_: int) -> None:
        for stream in self.streams.keys() - self.captures.keys():
            self.drain(stream)
        self.memory.valid[address - ptx.BASE:address - ptx.BASE + self.sizes.pop(address)] = False

    def cuMemGetInfo(self, free: int, total: int, *_: int) -> None:
        store(free, self.room - sum(self.sizes.values()))
        store(total, self.room)

    def cuMemHostAlloc(self, place: int, size: int, *_: int) -> None:
        memory = ctypes.create_string_buffer(size)
        store(place, address := ctypes.addressof(memory))
        self.host[address] = memory
        self.pinned_bytes += size

    def cuMemFreeHost(self, address: int, *_: int) -> None:
        assert not any(self.streams.values()), "pinned memory is given back while copies may read it"
        ctypes.memset(address, 0xA5, len(self.host[address]))
        del self.host[address]

    def cuPointerGetAttribute(self, place: int, attribute: int, address: int, *_: int) -> None:
        assert attribute == DEVICE_ORDINAL
        found = [number for number, sizes in enumerate((self.sizes, self.others))
                 if any(start <= address < start + size for start, size in sizes.items())]
        if not found:
            raise Refused(INVALID)
        store(place, found[0], ctypes.c_int)

    def cuMemsetD8Async(self, address: int, value: int, size: int, stream: int, *_: int) -> None:
        self.later(stream, lambda: self.bytes_of(address, size).fill(value))

    def cuMemcpyHtoDAsync(self, address: int, source: int, size: int, stream: int, *_: int) -> None:
        if any(start <= source < start + len(memory) for start, memory in self.host.items()):
            self.later(stream, lambda: self.copy(self.bytes_of(address, size), source, size))
        else:                                            # memory that may move is copied at once
            kept = np.frombuffer(ctypes.string_at(source, size), np.uint8)
            self.later(stream, lambda: np.copyto(self.bytes_of(address, size), kept))

    def cuMemcpyDtoHAsync(self, target: int, address: int, size: int, stream: int, *_: int) -> None:
        self.later(stream, lambda: ctypes.memmove(target, self.bytes_of(address, size).tobytes(), size) and None)

    @staticmethod
    def copy(target: np.ndarray, source: int, size: int) -> None:
        """Bytes of the host's, as they are now."""
        target[:] = np.frombuffer(ctypes.string_at(source, size), np.uint8)

    def bytes_of(self, address: int, size: int) -> np.ndarray:
        """Memory of the device's that exists."""
        assert self.memory.valid[address - ptx.BASE:address - ptx.BASE + size].all(), f"{size} bytes at {address:#x} are not there"
        return self.memory.array(address, size)

    # Functions.

    def cuModuleLoadData(self, place: int, image: int, *_: int) -> None:
        store(place, self.handle(ptx.Program(ctypes.string_at(image).decode())))

    def cuModuleGetFunction(self, place: int, module: int, name: int, *_: int) -> None:
        program = self.things[module]
        if ctypes.string_at(name).decode() != program.name:
            raise Refused(NOT_FOUND)
        store(place, self.handle(program))

    def cuFuncSetAttribute(self, function: int, attribute: int, value: int, *_: int) -> None:
        assert attribute == SHARED_SIZE
        if value > self.attributes[SHARED]:
            raise Refused(INVALID)
        self.asked[function] = value

    # Graphs.

    def cuGraphCreate(self, place: int, *_: int) -> None:
        store(place, self.handle(Graph()))

    def cuGraphAddKernelNode(self, place: int, graph: int, before: int, count: int, parameters: int, *_: int) -> None:
        self.add(place, graph, before, count, self.launch(parameters))

    def add(self, place: int, graph: int, before: int, count: int, launch: Launch | Actions) -> None:
        """Add a node."""
        own: Graph = self.things[graph]
        named = tuple((ctypes.c_uint64 * count).from_address(before)) if count else ()
        if any(node not in own.launches for node in named):
            raise Refused(INVALID)
        store(place, node := self.handle("node"))
        own.launches[node], own.before[node] = launch, named

    def cuGraphAddChildGraphNode(self, place: int, graph: int, before: int, count: int, child: int, *_: int) -> None:
        self.add(place, graph, before, count, tuple(action for actions in self.things[child].launches.values() for action in actions))

    def launch(self, place: int) -> Launch:
        """Copy the parameters of a node."""
        given = KernelNode.from_address(place)
        program = self.things[given.function]
        if (given.blockX * given.blockY * given.blockZ > 1024 or not 0 < given.gridX < 1 << 31 or given.gridX % program.cluster
                or given.shared > self.asked.get(given.function, STATIC_SHARED) or 8 * len(program.parameters) > PARAMETER_BYTES):
            raise Refused(INVALID)
        assert (given.blockX, given.blockY, given.blockZ, given.gridY, given.gridZ) == (ptx.THREADS, 1, 1, 1, 1)
        addresses = (ctypes.c_uint64 * len(program.parameters)).from_address(given.parameters)
        return Launch(program, given.gridX, given.shared, tuple(ctypes.c_int64.from_address(address).value for address in addresses))

    def cuGraphInstantiateWithFlags(self, place: int, graph: int, *_: int) -> None:
        own: Graph = self.things[graph]
        nodes = list(own.launches)
        for behind, node in zip(nodes[1:], nodes, strict=False):
            assert own.before[behind] == (node,), "nodes that do not wait for each other are not run here"
        store(place, self.handle(Graph(dict(own.launches), own.before, graph)))

    def cuGraphLaunch(self, executable: int, stream: int, *_: int) -> None:
        launches = list(self.things[executable].launches.values())
        self.later(stream, lambda: self.go(launches))

    def go(self, launches: Sequence[Launch | Actions]) -> None:
        """Run these, one after the other."""
        for launch in launches:
            if isinstance(launch, tuple):
                for action in launch:
                    action()
                continue
            if launch not in self.runs:
                self.runs[launch] = ptx.Run(launch.program, self.memory, launch.blocks, launch.shared, launch.words)
            self.runs[launch].go("together")
            self.launched += 1

    def cuGraphExecKernelNodeSetParams(self, executable: int, node: int, parameters: int, *_: int) -> None:
        own: Graph = self.things[executable]
        old, new = own.launches[node], self.launch(parameters)
        if node not in self.things[own.parent].launches or not isinstance(old, Launch) or old.program is not new.program:
            raise Refused(INVALID)
        own.launches[node] = new

    def cuGraphExecDestroy(self, executable: int, *_: int) -> None:
        del self.things[executable]                      # launches that wait have what they need

    def cuGraphDestroy(self, graph: int, *_: int) -> None:
        del self.things[graph]


def install(folder: str) -> Driver:
    """Make this process one that has a GPU; the library lies in `folder`."""
    names = [name for name in vars(Driver) if name.startswith("cu")]
    text = SOURCE.format(functions="\n".join(map(FUNCTION.format, names)), table="\n    ".join(map(ENTRY.format, names)))
    source, library = pathlib.Path(folder, "libcuda.c"), pathlib.Path(folder, "libcuda.so.1")
    source.write_text(text)
    subprocess.run(["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(library), str(source)], check=True)
    driver = Driver()
    driver.loaded = ctypes.CDLL(str(library))            # whoever looks for a library of this name finds the one that is there
    driver.handler = HANDLER(driver.call)
    driver.loaded.answer(driver.handler)
    return driver


if __name__ == "__main__":
    import driver_sessions

    with tempfile.TemporaryDirectory() as place:
        used = install(place)
        getattr(driver_sessions, sys.argv[1])(used)
        if used.fault is not None:
            raise used.fault
