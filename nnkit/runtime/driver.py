"""A device by NVIDIA's driver, called through cuda.bindings, which numba-cuda brings. Nothing of Numba's is needed to run what is compiled."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnkit.plan.launch import ENTRY, SHARED_BYTES, THREADS
from nnkit.runtime.cuda import Node

__all__ = ["CudaDevice", "CudaGraph", "device"]


@functools.cache
def _driver() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError:
        raise RuntimeError("backend 'cuda' needs the extra nnkit[cuda]: pip install 'nnkit[cuda]'") from None
    return driver


def call(name: str, *arguments: Any) -> Any:
    """A function of the driver. Raises RuntimeError with the driver's own words where it fails."""
    driver = _driver()
    status, *results = getattr(driver, name)(*arguments)
    if status != driver.CUresult.CUDA_SUCCESS:
        _, text = driver.cuGetErrorString(status)
        raise RuntimeError(f"{name}: {text.decode() if isinstance(text, bytes) else status}")
    return results[0] if len(results) == 1 else tuple(results)


@functools.cache
def device() -> CudaDevice:
    """The first device of this machine. Raises RuntimeError where there is none."""
    return CudaDevice()


class CudaDevice:
    """One GPU: its context, a stream, and the functions that were loaded."""

    def __init__(self) -> None:
        try:
            call("cuInit", 0)
            number = call("cuDeviceGet", 0)
        except Exception as error:                       # cuda.bindings has errors of its own for a driver that is not there
            raise RuntimeError(f"backend 'cuda' needs an NVIDIA GPU and its driver, found none ({error})") from None
        self.context = call("cuDevicePrimaryCtxRetain", number)
        call("cuCtxSetCurrent", self.context)
        self.stream = call("cuStreamCreate", 1)          # 1: does not wait for the legacy default stream
        self._functions: dict[str, Any] = {}

    def allocate(self, nbytes: int) -> int:
        """Zeroed memory."""
        address = call("cuMemAlloc", max(1, nbytes))
        call("cuMemsetD8", address, 0, max(1, nbytes))
        return int(address)

    def write(self, address: int, array: np.ndarray) -> None:
        """Copy an array to the device."""
        self.synchronize()
        if array.nbytes:
            call("cuMemcpyHtoD", address, array.ctypes.data, array.nbytes)

    def read(self, address: int, array: np.ndarray) -> None:
        """Fill an array from the device."""
        self.synchronize()
        if array.nbytes:
            call("cuMemcpyDtoH", array.ctypes.data, address, array.nbytes)

    def synchronize(self) -> None:
        """Wait for all that was asked for."""
        call("cuStreamSynchronize", self.stream)

    def load(self, ptx: str) -> Any:
        """The function of a launch, compiled by the driver; the same PTX only once."""
        if ptx not in self._functions:
            module = call("cuModuleLoadData", ptx.encode() + b"\0")
            self._functions[ptx] = call("cuModuleGetFunction", module, ENTRY.encode())
        return self._functions[ptx]

    def graph(self, nodes: Sequence[Node], copies: int) -> CudaGraph:
        """A graph of so many copies of the nodes, one after the other."""
        return CudaGraph(self, nodes, copies)


class CudaGraph:
    """An executable graph of kernel nodes, each of which waits for the one before."""

    def __init__(self, device: CudaDevice, nodes: Sequence[Node], copies: int) -> None:
        self.device = device
        graph = call("cuGraphCreate", 0)
        self._parameters = [_parameters(node) for node in nodes]
        self._nodes: list[list[Any]] = [[] for _ in nodes]
        before: list[Any] = []
        for _ in range(copies):
            for own, (parameters, _) in zip(self._nodes, self._parameters, strict=True):
                before = [call("cuGraphAddKernelNode", graph, before, len(before), parameters)]
                own.append(before[0])
        self._executable = call("cuGraphInstantiate", graph, 0)
        self._launch = functools.partial(_driver().cuGraphLaunch, self._executable, device.stream)

    def run(self, times: int) -> None:
        """Ask for so many runs; does not wait."""
        for _ in range(times):
            status, = self._launch()
            if status:
                raise RuntimeError(f"cuGraphLaunch: {status}")

    def update(self, index: int) -> None:
        """The words of a node have changed: its parameters are copied anew."""
        for node in self._nodes[index]:
            call("cuGraphExecKernelNodeSetParams", self._executable, node, self._parameters[index][0])


def _parameters(node: Node) -> tuple[Any, np.ndarray]:
    """The node as the driver takes it; the second part are the addresses of its words, which must stay where they are."""
    addresses = node.words.ctypes.data + 8 * np.arange(node.words.size, dtype=np.int64)
    parameters = _driver().CUDA_KERNEL_NODE_PARAMS()
    parameters.func = node.function
    parameters.gridDimX, parameters.gridDimY, parameters.gridDimZ = node.blocks, 1, 1
    parameters.blockDimX, parameters.blockDimY, parameters.blockDimZ = THREADS, 1, 1
    parameters.sharedMemBytes = node.shared
    if node.shared > SHARED_BYTES:                       # more must be asked for
        call("cuFuncSetAttribute", node.function, _driver().CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, node.shared)
    parameters.kernelParams = addresses.ctypes.data
    return parameters, addresses
