"""What the tests and benchmarks of the CUDA side share: a model's plans bound to a device, beside the model on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from helpers import Results, Rig, alone, parts
from nnkit.plan.build import build, shuffle_plan
from nnkit.plan.launch import ARCHITECTURE
from nnkit.plan.layout import COUNTERS, SUMS, lay_out
from nnkit.runtime.cpu import Memory
from nnkit.runtime.cuda import Device, DeviceTape
from nnkit.runtime.device_memory import DeviceMemory
from nnkit.runtime.ptx_store import Code, Lanes, codes

__all__ = ["DeviceModel", "code_of", "on_device"]


def code_of(lanes: Lanes, dtype: str, architecture: tuple[int, int] = ARCHITECTURE) -> Code:
    """The code of a launch of these kernels, by name. Raises ValueError where a kernel has no CUDA form."""
    return codes([lanes], dtype, architecture)[lanes]


def on_device(rig: Rig, device: Device, x: Any, t: Any, w: np.ndarray | None = None) -> tuple[Any, Results]:
    """What `rig.predict` and `rig.run` give, by the plans of its network for a device."""
    layout = lay_out(rig.graph, None, rig.dtype, "cuda")
    memory = DeviceMemory(device, layout)
    losses, found = [(rig.loss, 1.0)] * len(rig.graph.outputs), {}
    for mode in ("predict", "gradients"):
        for name, buffer in layout.parameters.items():
            memory.edit(buffer)[...] = rig.start[name]
        for buffer in layout.gradients.values():
            memory.edit(buffer)[...] = np.nan
        memory.view(layout.buffers["counters"])[:] = 0
        memory.view(layout.buffers["counters"])[COUNTERS["seed"]] = rig.seed
        memory.view(layout.buffers["sums"])[:] = 0
        plan = build(rig.graph, layout, mode, rig.batch, losses=losses, keep_predictions=True, input_gradients=mode == "gradients",
                     sizes=rig.feeds and rig.feeds.sizes, backend="cuda", architecture=device.architecture)
        written = rig.written()
        places = placed(device, rig.given(mode, x, t, w) | written)
        tape = memory.tape(plan, None)
        tape.bind({name: places[name] for name in tape.arrays if name in places})
        tape.run()
        for name, values in written.items():
            device.read(places[name][0], values)
        found[mode] = rig.outputs(values for name, values in written.items() if name.startswith("predictions"))
    return found["predict"], Results(
        y=found["gradients"], loss=float(memory.view(layout.buffers["sums"])[SUMS["last"]]),
        dx=alone(memory.read(buffer, plan).reshape(values.shape) for buffer, values in zip(plan.outputs, parts(x), strict=True)),
        gradients={name: memory.read(buffer) for name, buffer in layout.gradients.items()},
        updated={name: memory.read(buffer) for name, buffer in layout.parameters.items() if name not in layout.gradients})


def placed(device: Device, arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Copies of arrays on the device: for each its address and shape."""
    places = {}
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        places[name] = device.allocate(array.nbytes), array.shape
        device.write(places[name][0], array)
    return places


class DeviceModel:
    """A copy of a model's memory on a device, and its data set; trains there by the same plan."""

    def __init__(self, model: Any, device: Device) -> None:
        self.model, self.device = model, device
        self.memory = DeviceMemory(device, model.layout)
        self.fetched = Memory(model.layout)
        self.put(model.memory)
        self.arrays: dict[str, tuple[int, tuple[int, ...]]] = {}

    def put(self, memory: Memory) -> None:
        """Copy what persists there, from a memory of the same layout."""
        for buffer in self.model.layout.buffers.values():
            self.memory.edit(buffer)[...] = memory.view(buffer)

    def data(self, **arrays: np.ndarray) -> None:
        """Copy external arrays to the device: x, target, sample_weight (as "x/data", ...), order, predictions; others by their whole names."""
        names = {name if "/" in name or name in ("order", "predictions") else f"{name}/data": array for name, array in arrays.items()}
        self.arrays |= placed(self.device, names)

    def tape(self, mode: str, batch: int, **named: Any) -> DeviceTape:
        """The plan of a mode, bound to the device and its arrays."""
        model = self.model
        losses = [(output.loss, output.weight) for output in model.outputs]
        plan = build(model.graph, model.layout, mode, batch, losses=losses, optimizer=model.optimizer, backend="cuda",
                     architecture=self.device.architecture, **named)
        tape = DeviceTape(plan, self.memory)
        tape.bind(self.arrays)
        return tape

    def shuffle(self) -> DeviceTape:
        """The plan that draws an order of the samples."""
        tape = DeviceTape(shuffle_plan(self.model.layout, "cuda"), self.memory)
        tape.bind(self.arrays)
        return tape

    def fetch(self) -> DeviceModel:
        """Bring what persists here."""
        for buffer in self.model.layout.buffers.values():
            self.fetched.view(buffer)[...] = self.memory.view(buffer)
        return self

    def view(self, name: str) -> np.ndarray:
        """A persistent buffer, or a parameter, as it was last fetched."""
        layout = self.model.layout
        return self.fetched.view(layout.parameters.get(name) or layout.buffers[name])

    def begin_epoch(self, epoch: int = 0) -> None:
        """Position 0, sums cleared."""
        self.fetch()
        self.view("counters")[COUNTERS["epoch"]] = epoch
        self.view("counters")[COUNTERS["position"]] = 0
        self.view("sums")[:] = 0
        self.put(self.fetched)

    def train(self, tape: DeviceTape, steps: int, epochs: int, shuffle: DeviceTape | None = None) -> list[float]:
        """Epochs of so many steps, each in the order that `shuffle` draws; the losses of the epochs."""
        losses = []
        for epoch in range(epochs):
            self.begin_epoch(epoch)
            if shuffle is not None:
                shuffle.run()
            tape.run(steps)
            losses.append(self.loss())
        return losses

    def check_trained(self, losses: list[float], expected: list[float], parameters: float) -> bytes:
        """Losses as the CPU's, up to a few roundings of float32, and parameters as the model's, up to so much. Returns all bits that persist."""
        np.testing.assert_allclose(losses, expected, rtol=2e-6)
        self.fetch()
        for name, values in self.model.parameters.items():
            np.testing.assert_allclose(self.view(name), values, rtol=0, atol=parameters, err_msg=name)
        return self.bits()

    def bits(self) -> bytes:
        """All that persists, as it was last fetched."""
        return self.fetched.kept.tobytes() + self.fetched.training.tobytes()

    def predictions(self) -> np.ndarray:
        """What plans wrote there."""
        address, shape = self.arrays["predictions"]
        found = np.zeros(shape, self.model.dtype)
        self.device.read(address, found)
        return found

    def loss(self) -> float:
        """The mean loss since the epoch began."""
        sums = self.fetch().view("sums")
        return float(sums[SUMS["loss"]] / sums[SUMS["samples"]])
