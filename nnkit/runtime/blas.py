"""Large products by NVIDIA's cuBLASLt, called through nvmath.bindings.cublasLt: the extra nnkit[cuda-blas].

A step `blas.product`, which plan/products.py puts in the place of a product by tiles where `blas=True` asks for it, is a node of the graph like a
launch, but a call of the library, which is captured. Descriptors and algorithm are made once, before the capture; the workspace is one for all,
since nodes come one after the other.

The library counts columns first. Memory that holds a row-major matrix holds its transpose for it: so y = A B is asked for as y^T = B^T A^T.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from typing import Any, Protocol

import attrs
import numpy as np

from nnkit.plan.plan import Step

__all__ = ["WORKSPACE", "Call", "Library", "Operand", "Product", "bindings", "call_of", "computed"]

WORKSPACE = 32 * 2 ** 20                                 # bytes, as NVIDIA recommends for this architecture
ALGORITHMS = 1                                           # that are asked for: the first is the one that the library thinks fastest
ALIGNED = 256                                            # bytes: what the library takes addresses for multiples of, unless it is told otherwise
COMPUTE = {"": "COMPUTE_32F", "_tf32": "COMPUTE_32F_FAST_TF32", "_bfloat16": "COMPUTE_32F_FAST_16BF"}


@attrs.frozen
class Operand:
    """A row-major matrix on the device, a stack of such, or a vector."""

    address: int
    shape: tuple[int, ...]

    @property
    def alignment(self) -> int:
        """The largest power of 2, at most ALIGNED, of which all its matrices' addresses are multiples."""
        apart = 4 * math.prod(self.shape[-2:]) if len(self.shape) > 2 else 0
        found = self.address | apart | ALIGNED
        return found & -found


@attrs.frozen
class Call:
    """y = A B (+ bias), then max(y, 0) if relu; A and B as they lie, or transposed. Of stacks matrix by matrix, without bias. compute: a name of
    cublas.ComputeType."""

    y: Operand
    a: Operand
    b: Operand
    bias: Operand
    transpose_a: bool
    transpose_b: bool
    relu: bool
    compute: str


class Allocator(Protocol):
    """What is asked of a device."""

    def allocate(self, nbytes: int) -> int:
        """Memory that lives as long as the device."""


def call_of(step: Step, addresses: list[int]) -> Call:
    """The call that a step `blas.product` is, its arrays being there."""
    y, a, b, bias = (Operand(address, buffer.shape) for address, buffer in zip(addresses, step.buffers, strict=True))
    transpose_a, transpose_b, relu = map(bool, step.scalars)
    return Call(y, a, b, bias, transpose_a, transpose_b, relu, COMPUTE[step.kernel.removeprefix("blas.product")])


def computed(call: Call, a: np.ndarray, b: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The call's result by NumPy, in float32 whatever the precision."""
    y = (a.swapaxes(-2, -1) if call.transpose_a else a) @ (b.swapaxes(-2, -1) if call.transpose_b else b)
    y = y + bias if bias.size else y
    return np.maximum(y, 0) if call.relu else y


def bindings() -> tuple[Any, Any, Any]:
    """(cublasLt, cublas, the number of float32 among its types). Raises RuntimeError where the extra is missing."""
    try:
        from nvmath import CudaDataType
        from nvmath.bindings import cublas, cublasLt
    except ImportError:
        raise RuntimeError("blas=True needs the extra nnkit[cuda-blas]: pip install 'nnkit[cuda-blas]'") from None
    return cublasLt, cublas, int(CudaDataType.CUDA_R_32F)


class Library:
    """cuBLASLt on one device: its handle, the workspace, and the numbers 1 and 0 that it reads."""

    def __init__(self, device: Allocator, found: tuple[Any, Any, Any] | None = None) -> None:
        self.lt, self.cublas, self.float32 = found or bindings()
        self.handle = self.lt.create()
        self.workspace = device.allocate(WORKSPACE)
        self.factors = np.array([1, 0], np.float32)      # alpha, beta

    def put(self, what: str, handle: int, name: str, value: int) -> None:
        """Set an attribute of a descriptor ("matmul_desc"), a layout or a preference."""
        lt = self.lt
        attribute = getattr(lt, f"{what.title().replace('_', '')}Attribute")[name]
        held = np.array([value], getattr(lt, f"get_{what}_attribute_dtype")(attribute))
        getattr(lt, f"{what}_set_attribute")(handle, int(attribute), held.ctypes.data, held.nbytes)

    def product(self, call: Call) -> Product:
        """The call, ready."""
        return Product(self, call)


def _destroy(lt: Any, descriptor: int, layouts: list[int]) -> None:
    """Give back what a product was described by; the library's own memory on the host."""
    lt.matmul_desc_destroy(descriptor)
    for layout in layouts:
        lt.matrix_layout_destroy(layout)


class Product:
    """A call with its descriptors and its algorithm."""

    def __init__(self, library: Library, call: Call) -> None:
        self.library, self.call = library, call
        lt, cublas = library.lt, library.cublas
        self.descriptor = lt.matmul_desc_create(int(cublas.ComputeType[call.compute]), library.float32)
        operation, biased = cublas.Operation, bool(call.bias.shape[0])
        epilogue = {(False, False): "DEFAULT", (True, False): "RELU", (False, True): "BIAS", (True, True): "RELU_BIAS"}[call.relu, biased]
        attributes = {"TRANSA": operation.T if call.transpose_b else operation.N, "TRANSB": operation.T if call.transpose_a else operation.N,
                      "EPILOGUE": lt.Epilogue[epilogue], **({"BIAS_POINTER": call.bias.address} if biased else {})}
        for name, value in attributes.items():
            library.put("matmul_desc", self.descriptor, name, int(value))
        self.layouts = [self._layout(operand) for operand in (call.b, call.a, call.y)]
        weakref.finalize(self, _destroy, lt, self.descriptor, self.layouts).atexit = False
        self.algorithm = self._algorithm()

    def _layout(self, operand: Operand) -> int:
        *stacks, rows, columns = operand.shape
        layout = int(self.library.lt.matrix_layout_create(self.library.float32, columns, rows, columns))
        if stacks:
            self.library.put("matrix_layout", layout, "BATCH_COUNT", stacks[0])
            self.library.put("matrix_layout", layout, "STRIDED_BATCH_OFFSET", rows * columns)
        return layout

    def _algorithm(self) -> Any:
        """The library's choice for these shapes. Raises RuntimeError where it has none."""
        lt = self.library.lt
        call, preference = self.call, lt.matmul_preference_create()
        self.library.put("matmul_preference", preference, "MAX_WORKSPACE_BYTES", WORKSPACE)
        for name, operand in {"A": call.b, "B": call.a, "C": call.y, "D": call.y}.items():
            self.library.put("matmul_preference", preference, f"MIN_ALIGNMENT_{name}_BYTES", operand.alignment)
        found, count = lt.MatmulHeuristicResult(ALGORITHMS), ctypes.c_int(0)
        right, left, result = self.layouts
        lt.matmul_algo_get_heuristic(self.library.handle, self.descriptor, right, left, result, result, preference, ALGORITHMS, found.ptr,
                                     ctypes.addressof(count))
        lt.matmul_preference_destroy(preference)
        if count.value == 0:
            raise RuntimeError(f"cuBLASLt has no algorithm for a product of {self.call.a.shape} and {self.call.b.shape}")
        return found                                     # an algorithm is what the result begins with

    def enqueue(self, stream: int) -> None:
        """Ask for the product on a stream, which may be capturing."""
        call, library = self.call, self.library
        right, left, result = self.layouts
        one, zero = library.factors.ctypes.data, library.factors.ctypes.data + library.factors.itemsize
        library.lt.matmul(library.handle, self.descriptor, one, call.b.address, right, call.a.address, left, zero, call.y.address, result,
                          call.y.address, result, self.algorithm.ptr, library.workspace, WORKSPACE, stream)
