"""What the tests and benchmarks of the CUDA side share: a model's plans bound to a device, beside the model on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkit.plan.build import COUNTERS, SUMS, build, shuffle_plan
from nnkit.runtime.cpu import Memory
from nnkit.runtime.cuda import Device, DeviceTape
from nnkit.runtime.device_memory import DeviceMemory

__all__ = ["DeviceModel"]


class DeviceModel:
    """A copy of a model's memory on a device, and its data set; trains there by the same plan."""

    def __init__(self, model: Any, device: Device) -> None:
        self.model, self.device = model, device
        self.memory = DeviceMemory(device, model.layout)
        self.fetched = Memory(model.layout)
        self.memory.put(model.memory)
        self.arrays: dict[str, tuple[int, tuple[int, ...]]] = {}

    def data(self, **arrays: np.ndarray) -> None:
        """Copy external arrays to the device: x, target, sample_weight (as "x/data", ...), order, predictions; others by their whole names."""
        for name, array in arrays.items():
            array = np.ascontiguousarray(array)
            address = self.device.allocate(array.nbytes)
            self.device.write(address, array)
            self.arrays[name if "/" in name or name in ("order", "predictions") else f"{name}/data"] = address, array.shape

    def tape(self, mode: str, batch: int, **named: Any) -> DeviceTape:
        """The plan of a mode, bound to the device and its arrays."""
        model = self.model
        losses = [(output.loss, output.weight) for output in model.outputs]
        plan = build(model.graph, model.layout, mode, batch, losses=losses, optimizer=model.optimizer, backend="cuda", **named)
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
        self.memory.get(self.fetched)
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
        self.memory.put(self.fetched)

    def loss(self) -> float:
        """The mean loss since the epoch began."""
        sums = self.fetch().view("sums")
        return float(sums[SUMS["loss"]] / sums[SUMS["samples"]])
