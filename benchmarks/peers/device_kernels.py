"""Single kernels on a GPU: plans of one kernel or two, bound to a device, as the suites' `kernels.py` has them for the CPU.

The device is what the runtime asks for (`nnkit.runtime.cuda.Device`): that of NVIDIA's driver, or the interpreter of PTX that the tests have.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np
import scipy.sparse

import nnkit
from nnkit.layers.activation import ActivationFunction
from nnkit.optimizers import Optimizer
from nnkit.plan.builder import Builder
from nnkit.plan.layout import Layout, lay_out
from nnkit.plan.passes import optimise
from nnkit.plan.plan import Buffer, Plan
from nnkit.prims.csr import Csr, is_even
from nnkit.runtime.cuda import Block, Device, DeviceTape
from nnkit.runtime.device_memory import DeviceMemory

sys.path.append(str(Path(__file__).resolve().parents[1] / "suites"))
kernels = importlib.import_module("kernels")

COPY = nnkit.LeakyReLU(1.0)                              # y = x by the sweep of all activations: what it reaches without a formula


@attrs.frozen(eq=False)
class DeviceKernel:
    """A plan that can run, and its float32 result at an address. held: memory that it uses and that nobody else keeps."""

    tape: DeviceTape
    address: int
    held: tuple[Block, ...] = ()

    def run(self, times: int) -> None:
        """Run it so many times, one after the other; waits once, for the last."""
        self.tape.run(times)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Elements of the result, counted through all its rows."""
        found = np.empty(stop - start, np.float32)
        self.tape.device.read(self.address + 4 * start, found)
        return found


Made = dict[str, DeviceKernel]


def made_of(memory: DeviceMemory, emit: Callable[[Builder], tuple[Buffer, ...]]) -> Plan:
    """The plan of the steps that `emit` emits, as a model's for this device; it returns what of the arena has to last."""
    architecture = memory.device.architecture
    builder = Builder(memory.layout, 1, "train", backend="cuda", architecture=architecture)
    outputs = emit(builder)
    steps = tuple(builder.steps)
    return optimise(Plan(mode="train", batch=1, dtype="float32", steps=steps, groups=tuple(range(len(steps))), outputs=outputs), backend="cuda",
                    architecture=architecture)


def smallest() -> Layout:
    """Of a model of one weight: what runs of a plan need besides their arrays."""
    return lay_out(kernels.network_of(1), None, "float32", "cuda")


def sweep(memory: DeviceMemory, kernel: str, scalars: Sequence[float], shape: tuple[int, int], places: Mapping[str, Block]) -> DeviceKernel:
    """A kernel over the rows of matrices [R, C] that lie at these places; the first is written."""
    def emit(g: Builder) -> tuple[Buffer, ...]:
        written, *read = (Buffer(name, shape, "float32", "external") for name in places)
        g.step(kernel, [written], read, scalars=scalars, rows=shape[0])
        return ()
    tape = DeviceTape(made_of(memory, emit), memory)
    tape.bind({name: (block.address, shape) for name, block in places.items()})
    return DeviceKernel(tape, next(iter(places.values())).address, tuple(places.values()))


def activations(device: Device, x: np.ndarray, dy: np.ndarray, names: Sequence[str] = tuple(kernels.ACTIVATIONS)) -> Made:
    """A copy, then activations and their gradients on matrices [R, C]. All write into the same two arrays; of an activation whose gradient is taken
    from its output that is kept."""
    memory = DeviceMemory(device, smallest())
    given, above = Block.of(device, x), Block.of(device, dy)
    y, dx = Block(device, x.nbytes), Block(device, x.nbytes)
    made = {"copy": forward(memory, COPY, x.shape, y, given)}
    for name in names:
        spec, kept = kernels.ACTIVATIONS[name], given
        made[name] = forward(memory, spec, x.shape, y, given)
        if spec.keeps == "y":
            kept = Block(device, x.nbytes)
            forward(memory, spec, x.shape, kept, given).run(1)
        made[f"{name} gradient"] = sweep(memory, f"layers.activation.{spec.kernel}_backward", constants_of(spec), x.shape,
                                         {"dx": dx, "dy": above, "kept": kept})
    return made


def constants_of(spec: ActivationFunction) -> list[float]:
    """What both kernels of an activation take."""
    return [*spec.scalars(), 0.0, 0.0, 0.0][:3]


def forward(memory: DeviceMemory, spec: ActivationFunction, shape: tuple[int, int], y: Block, x: Block) -> DeviceKernel:
    """y = f(x)."""
    return sweep(memory, f"layers.activation.{spec.kernel}_forward", constants_of(spec), shape, {"y": y, "x": x})


def copying(device: Device, x: np.ndarray) -> DeviceKernel:
    """A copy of a matrix."""
    return forward(DeviceMemory(device, smallest()), COPY, x.shape, Block(device, x.nbytes), Block.of(device, x))


def optimizer(device: Device, spec: Optimizer, parameters: np.ndarray, gradients: np.ndarray) -> DeviceKernel:
    """One step of an optimizer over flat vectors, as in a model of so many parameters; the parameters are the result."""
    memory = DeviceMemory(device, lay_out(kernels.network_of(parameters.size), spec, "float32", "cuda"))
    kernels.begin_updates({name: memory.edit(buffer) for name, buffer in memory.layout.buffers.items()}, spec, parameters, gradients)

    def emit(g: Builder) -> tuple[Buffer, ...]:
        spec.lower(g, memory.layout)
        return ()
    tape = DeviceTape(made_of(memory, emit), memory)
    return DeviceKernel(tape, memory.address(memory.layout.buffers["parameters"]))


def optimizers(device: Device, parameters: np.ndarray, gradients: np.ndarray, names: Sequence[str] = tuple(kernels.OPTIMIZERS)) -> Made:
    """One step of every optimizer, each with vectors of its own."""
    return {name: optimizer(device, kernels.OPTIMIZERS[name], parameters, gradients) for name in names}


def sparse_product(device: Device, a: scipy.sparse.csr_matrix, x: np.ndarray) -> DeviceKernel:
    """y = A x, as layers on graphs ask for it: by rows where the entries of A lie evenly, else cut along the entries."""
    starts = a.indptr.astype(np.int64)
    csr = Csr.external("a", a.shape, a.nnz, "float32", ("a",) if is_even(starts) else ())
    memory = DeviceMemory(device, smallest())

    def emit(g: Builder) -> tuple[Buffer, ...]:
        y = g.buffer("y", a.shape[0], x.shape[1])
        csr.multiply(g, y, Buffer("x", x.shape, "float32", "external"))
        return (y,)
    plan = made_of(memory, emit)
    tape = DeviceTape(plan, memory)
    arrays = {csr.starts.name: starts, csr.columns.name: a.indices.astype(np.int32), csr.values.name: a.data.astype(np.float32), "x": x}
    places = {name: Block.of(device, np.ascontiguousarray(array)) for name, array in arrays.items()}
    tape.bind({name: (block.address, arrays[name].shape) for name, block in places.items()})
    return DeviceKernel(tape, memory.address(plan.outputs[0], plan), tuple(places.values()))
