"""Where a model lives and what runs it: the CPU, or a GPU.

A backend makes memories, and a memory makes all else that a model asks for; `cpu.Memory` says what each of it does. Nothing but this module asks
which backend it is. `import nnkit` imports nothing of CUDA's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import attrs

from nnkit.plan.launch import ARCHITECTURE, LIBRARY
from nnkit.plan.layout import Layout
from nnkit.plan.plan import PERSISTENT, Plan, Step
from nnkit.plan.products import check_precision
from nnkit.runtime import cpu
from nnkit.runtime.device_array import adopted, on_host
from nnkit.runtime.store import USER_KERNELS

__all__ = ["NAMES", "Backend", "backend_of"]

NAMES = ("cpu", "cuda")
SIGNED = ("prims.implicit.", "prims.depthwise.")         # kernels that count the places of a batch in 31 bits; all others count in 32: see `divided`


@attrs.frozen
class Backend:
    """name: "cpu" or "cuda". memory(layout, shared): the memory of a model, where `shared` is given on that of another. device: None on the CPU.
    precision, blas: of large products, as for `nnkit.compile`."""

    name: str
    memory: Callable[[Layout, Any], Any]
    device: Any = None
    precision: str = "float32"
    blas: bool = False

    @property
    def architecture(self) -> tuple[int, int]:
        """That plans are made for: the device's compute capability."""
        return ARCHITECTURE if self.device is None else self.device.architecture

    def check_products(self, dtype: str) -> None:
        """Refuse a precision that products of this dtype cannot have here, or a library that is not there. Raises ValueError, RuntimeError."""
        check_precision(self.precision, dtype, self.name, self.blas)
        if self.blas:
            self.device.check_library()

    def adopt(self, value: Any, what: str) -> Any:
        """What a user passed as `what`, arrays that lie on a GPU already included. Raises TypeError, ValueError."""
        return adopted(value, self.device, what)

    def on_host(self, value: Any, what: str) -> Any:
        """The same with copies of those arrays on the host, for what is looked at before it is used."""
        return on_host(self.adopt(value, what))

    @property
    def heeds_evenness(self) -> bool:
        """Whether plans depend on how the entries of sparse matrices lie: a CPU's products are cut the same way for all matrices."""
        return self.device is not None

    def check(self, plan: Plan) -> None:
        """Refuse a plan with a kernel that the backend does not have, or with a user's formula that does not compile for it. Raises ValueError."""
        if self.device is None:
            return
        from nnkit.runtime import ptx_store

        for step in plan.steps:
            if not (step.kernel.startswith(LIBRARY) or ptx_store.has_kernel(step.kernel)):
                raise ValueError(f"backend 'cuda' has no kernel {step.kernel!r} yet, which {_whose(step)} needs: use backend 'cpu'")
            _check_sizes(step)
            if step.kernel in USER_KERNELS:
                self._check_formula(step.kernel, plan.dtype)

    def _check_formula(self, kernel: str, dtype: str) -> None:
        from nnkit.cuda_jit import check_formula  # imports Numba, as the formula's registration did

        try:
            check_formula(kernel, dtype, self.device.architecture)
        except ValueError as error:
            found = re.fullmatch(r"(?:user:|losses\.user\.)(.*)@\d+_(forward|backward)", kernel)
            assert found is not None
            raise ValueError(f"backend 'cuda': {'f' if found[2] == 'forward' else 'df'} of {found[1]!r} {error}") from error


def _check_sizes(step: Step) -> None:
    """Refuse arrays of a batch whose elements the kernels cannot count. Raises ValueError."""
    digits = 31 if step.kernel.startswith(SIGNED) else 32
    for buffer in step.buffers:
        if buffer.size >= 2 ** digits and buffer.role != "external" and buffer.role not in PERSISTENT:
            raise ValueError(f"backend 'cuda': arrays of a batch must have fewer than 2^{digits} numbers for {step.kernel!r}, received shape "
                             f"{buffer.shape} for {_whose(step)}: use a smaller batch")


def _whose(step: Step) -> str:
    return f"layer {step.layer!r}" if step.layer else "training"


def backend_of(name: Any, action: str, precision: str = "float32", blas: bool = False) -> Backend:
    """The backend of that name, for a function of the public face. Raises ValueError for another name, RuntimeError where there is no GPU for it, or
    not the packages that it needs."""
    if name not in NAMES:
        raise ValueError(f"{action}: backend must be 'cpu' or 'cuda', received {name!r}")
    if name == "cpu":
        return Backend(name, cpu.Memory, None, precision, blas)
    from nnkit.runtime import driver
    from nnkit.runtime.device_memory import DeviceMemory

    device = driver.device()
    return Backend(name, functools.partial(DeviceMemory, device), device, precision, blas)
