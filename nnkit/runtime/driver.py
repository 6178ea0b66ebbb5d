"""A device by NVIDIA's driver, called through cuda.bindings, which numba-cuda brings. Nothing of Numba's is needed to run what is compiled."""

from __future__ import annotations

import collections
import ctypes
import functools
import gc
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from nnkit.plan.launch import ENTRY, LEAST_ARCHITECTURE, THREADS
from nnkit.runtime.blas import Call, Library, Product, bindings
from nnkit.runtime.cuda import Node

__all__ = ["CudaDevice", "CudaGraph", "device"]

SMALL = 1 << 20                                          # bytes, of memory that is kept when it is given back
LEAST_DRIVER = 13000                                     # 13.0: PTX of the extra's toolkit is read by drivers for its version of CUDA or a later one

Method = TypeVar("Method", bound=Callable[..., Any])


@functools.cache
def _driver() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError:
        raise RuntimeError("backend 'cuda' needs the extra nnkit[cuda]: pip install 'nnkit[cuda]'") from None
    return driver


def call(name: str, *arguments: Any) -> Any:
    """A function of the driver. Raises RuntimeError with the driver's own words where it fails."""
    status, *results = getattr(_driver(), name)(*arguments)
    if status:
        raise failure(name, status)
    return results[0] if len(results) == 1 else tuple(results)


def failure(name: str, status: Any) -> RuntimeError:
    """The error for a function that failed, with the driver's own words."""
    _, text = _driver().cuGetErrorString(status)
    return RuntimeError(f"{name}: {text.decode() if isinstance(text, bytes) else status}")


def _version(number: int) -> tuple[int, int]:
    """A version of CUDA, as the driver counts them."""
    return number // 1000, number % 1000 // 10


def inside(method: Method) -> Method:
    """A method that calls the driver: the device's context is the thread's meanwhile. Then the thread has again what it had before, since other
    libraries take the device of the present context. Raises RuntimeError in a process that was forked, where the driver does not work."""
    @functools.wraps(method)
    def entered(self: Any, *arguments: Any) -> Any:
        if os.getpid() != self.process:
            raise RuntimeError("backend 'cuda' cannot be used in a process that was forked after it was used: start processes by 'spawn'")
        call("cuCtxPushCurrent", self.context)
        try:
            return method(self, *arguments)
        finally:
            _driver().cuCtxPopCurrent()
    return cast(Method, entered)


def at_home(method: Method) -> Method:
    """The same for what gives something back or waits. A process that was forked has no more than a copy of what its parent knew, so nothing is done
    there."""
    entered = inside(method)

    @functools.wraps(method)
    def unless_forked(self: Any, *arguments: Any) -> Any:
        return entered(self, *arguments) if os.getpid() == self.process else None
    return cast(Method, unless_forked)


@functools.cache
def device() -> CudaDevice:
    """The first device of this machine. Raises RuntimeError where there is none."""
    return CudaDevice()


class CudaDevice:
    """One GPU: its context, two streams, and the functions that were loaded. Any thread may use it, one at a time; what is not used any more may be
    given back by any thread at any time."""

    def __init__(self) -> None:
        try:
            call("cuInit", 0)
            number = call("cuDeviceGet", 0)
        except Exception as error:                       # cuda.bindings has errors of its own for a driver that is not there
            raise RuntimeError(f"backend 'cuda' needs an NVIDIA GPU and its driver, found none ({error})") from None
        version = int(call("cuDriverGetVersion"))
        if version < LEAST_DRIVER:
            raise RuntimeError("backend 'cuda' needs an NVIDIA driver for CUDA {}.{} or later (version 580 or later), received one for CUDA {}.{}"
                               .format(*_version(LEAST_DRIVER), *_version(version)))
        self.process, self.number = os.getpid(), int(number)
        attribute = _driver().CUdevice_attribute
        self.architecture = (int(call("cuDeviceGetAttribute", attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, number)),
                             int(call("cuDeviceGetAttribute", attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, number)))
        if self.architecture < LEAST_ARCHITECTURE:
            raise RuntimeError("backend 'cuda' needs a GPU of compute capability {}.{} or more, received {}.{}".format(*LEAST_ARCHITECTURE,
                                                                                                                   *self.architecture))
        most = attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        self.most_shared = int(call("cuDeviceGetAttribute", most, number))         # of a block; without asking it is 48 KB
        self.context = call("cuDevicePrimaryCtxRetain", number)
        self.stream, self.copies = self._new_stream(), self._new_stream()
        self._functions: dict[str, Any] = {}
        self._sizes: dict[int, int] = {}                 # of what is allocated
        self._spare: dict[int, list[int]] = collections.defaultdict(list)      # small memory by size, to be given again

    @inside
    def _new_stream(self) -> Any:
        return call("cuStreamCreate", 1)                 # 1: does not wait for the legacy default stream

    @inside
    def allocate(self, nbytes: int) -> int:
        """Zeroed memory."""
        size = max(256, 1 << (nbytes - 1).bit_length()) if nbytes <= SMALL else nbytes
        address = self._kept(size) or self._allocate(size)
        self._sizes[address] = size
        call("cuMemsetD8Async", address, 0, size, self.stream)
        return address

    def _kept(self, size: int) -> int:
        """Small memory that was given back, or 0."""
        try:
            return self._spare[size].pop()               # another thread may take the last one
        except IndexError:
            return 0

    def _allocate(self, size: int) -> int:
        driver = _driver()
        status, address = driver.cuMemAlloc(size)
        if status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            self._give_back()
            status, address = driver.cuMemAlloc(size)
        if status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise MemoryError(f"the GPU has no {size:,} bytes of memory left, {self.free():,} are free")
        if status:
            raise failure("cuMemAlloc", status)
        return int(address)

    def _give_back(self) -> None:
        """Whatever nobody has any more: of models that refer to themselves, and small memory."""
        gc.collect()
        self.synchronize()
        for spare in self._spare.values():
            while spare:
                call("cuMemFree", spare.pop())

    @at_home
    def release(self, address: int) -> None:
        """Give memory back; waits for what uses it. Small memory is kept: a batch takes some, and the driver's own way takes as long as a step."""
        size = self._sizes.pop(address)
        if size <= SMALL:
            self._spare[size].append(address)
        else:
            self.synchronize()
            call("cuMemFree", address)

    @inside
    def free(self) -> int:
        """Bytes that are free."""
        return int(call("cuMemGetInfo")[0])

    @inside
    def write(self, address: int, array: np.ndarray) -> None:
        """Copy an array to the device."""
        if array.nbytes:
            call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, self.stream)
            self.synchronize()                           # the array may be pinned memory of another library's, and change as soon as this returns

    @inside
    def read(self, address: int, array: np.ndarray) -> None:
        """Fill an array from the device."""
        if array.nbytes:
            call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, self.stream)
        self.synchronize()

    @inside
    def pinned(self, nbytes: int) -> np.ndarray:
        """Page-locked bytes of the host's, given back when nobody has the array any more."""
        address = int(call("cuMemHostAlloc", max(1, nbytes), 0))
        memory: Any = (ctypes.c_uint8 * max(1, nbytes)).from_address(address)
        weakref.finalize(memory, self._unpin, address).atexit = False
        return np.frombuffer(memory, np.uint8)[:nbytes]

    @at_home
    def _unpin(self, address: int) -> None:
        self.sent()
        call("cuMemFreeHost", address)

    @inside
    def send(self, address: int, array: np.ndarray) -> None:
        """Copy pinned memory beside what the other stream does."""
        if array.nbytes:
            call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, self.copies)

    @at_home
    def sent(self) -> None:
        """Wait for these copies."""
        call("cuStreamSynchronize", self.copies)

    @inside
    def wait_for(self, stream: int | None) -> None:
        """Wait for another library's stream, or for all."""
        if stream is None:
            call("cuCtxSynchronize")
        else:                                            # 1 and 2 are the driver's own names for its default streams
            call("cuStreamSynchronize", stream)

    @inside
    def holds(self, address: int) -> bool:
        """Whether memory of another library's lies on this device."""
        driver = _driver()
        status, number = driver.cuPointerGetAttribute(driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address)
        return status == driver.CUresult.CUDA_SUCCESS and int(number) == self.number

    def synchronize(self) -> None:
        """Wait for all that was asked for."""
        call("cuStreamSynchronize", self.stream)

    @inside
    def load(self, ptx: str) -> Any:
        """The function of a launch, compiled by the driver; the same PTX only once."""
        if ptx not in self._functions:
            module = call("cuModuleLoadData", ptx.encode() + b"\0")
            self._functions[ptx] = call("cuModuleGetFunction", module, ENTRY.encode())
            call("cuFuncSetAttribute", self._functions[ptx], _driver().CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                 self.most_shared)
        return self._functions[ptx]

    @inside
    def graph(self, nodes: Sequence[Node | Call], copies: int) -> CudaGraph:
        """A graph of so many copies of the nodes, one after the other."""
        return CudaGraph(self, nodes, copies)

    @at_home
    def destroy(self, graph: Any, executable: Any) -> None:
        """Give back a graph; the driver keeps it as long as it runs."""
        call("cuGraphExecDestroy", executable)
        call("cuGraphDestroy", graph)

    def check_library(self) -> None:
        """Raise RuntimeError where cuBLASLt cannot be called: see `bindings`."""
        bindings()

    @functools.cached_property
    def library(self) -> Library:
        """cuBLASLt on this GPU."""
        return Library(self)

    def captured(self, product: Product) -> Any:
        """The graph of what a call of the library launches. On a stream of its own, and without limits for other calls meanwhile: a finalizer may run
        at any moment, in any thread, and wait for a stream or give memory back, which would else spoil the capture."""
        stream = self._new_stream()
        call("cuStreamBeginCapture", stream, _driver().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED)
        try:
            product.enqueue(int(stream))
        finally:
            graph = call("cuStreamEndCapture", stream)
            call("cuStreamDestroy", stream)
        return graph


class CudaGraph:
    """An executable graph of kernel nodes and calls of a library, each of which waits for the one before."""

    def __init__(self, device: CudaDevice, nodes: Sequence[Node | Call], copies: int) -> None:
        self.device, self.context, self.process = device, device.context, device.process
        graph = call("cuGraphCreate", 0)
        self._products = [device.library.product(node) if isinstance(node, Call) else None for node in nodes]       # kept as long as the graph
        self._parameters = [_parameters(node) if product is None else (device.captured(product), None)
                            for node, product in zip(nodes, self._products, strict=True)]
        self._nodes: list[list[Any]] = [[] for _ in nodes]
        before: list[Any] = []
        for _ in range(copies):
            for own, product, (parameters, _) in zip(self._nodes, self._products, self._parameters, strict=True):
                add = "cuGraphAddKernelNode" if product is None else "cuGraphAddChildGraphNode"
                before = [call(add, graph, before, len(before), parameters)]
                own.append(before[0])
        for product, (captured, _) in zip(self._products, self._parameters, strict=True):
            if product is not None:
                call("cuGraphDestroy", captured)         # its nodes have been copied
        self._executable = call("cuGraphInstantiate", graph, 0)
        weakref.finalize(self, device.destroy, graph, self._executable).atexit = False
        self._launch = functools.partial(_driver().cuGraphLaunch, self._executable, device.stream)

    @inside
    def run(self, times: int) -> None:
        """Ask for so many runs; does not wait."""
        for _ in range(times):
            status, = self._launch()
            if status:
                raise failure("cuGraphLaunch", status)

    @inside
    def update(self, index: int) -> None:
        """The words of a node have changed: its parameters are copied anew."""
        for node in self._nodes[index]:
            call("cuGraphExecKernelNodeSetParams", self._executable, node, self._parameters[index][0])


def _parameters(node: Any) -> tuple[Any, np.ndarray]:
    """The node as the driver takes it; the second part are the addresses of its words, which must stay where they are."""
    addresses = node.words.ctypes.data + 8 * np.arange(node.words.size, dtype=np.int64)
    parameters = _driver().CUDA_KERNEL_NODE_PARAMS()
    parameters.func = node.function
    parameters.gridDimX, parameters.gridDimY, parameters.gridDimZ = node.blocks, 1, 1
    parameters.blockDimX, parameters.blockDimY, parameters.blockDimZ = THREADS, 1, 1
    parameters.sharedMemBytes = node.shared
    parameters.kernelParams = addresses.ctypes.data
    return parameters, addresses
