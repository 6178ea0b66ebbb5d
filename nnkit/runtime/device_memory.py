"""The memory of a model on a device, and its mirror on the host.

What persists lies in both places. The host's side is an ordinary `cpu.Memory`: initial values, files and whatever else Python does happen there.
Three parts of it, each of which knows which side is newer:

- the parameters, and what belongs to training (gradients, states of the optimizer). They are copied where the other side is asked for, no sooner: a
  run of a plan that reads them uploads what the host has changed, `view`, `edit` and `read` fetch what a run has changed.
- the control words: counters, sums, learning rates, a few hundred bytes. Python reads and writes them as it likes between two runs: they go up before
  every run, where they have changed, and come back after it.

Views of the parameters are therefore read-only, and show what was fetched last. Who wants to write asks for `edit`.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nnkit.plan.layout import Layout
from nnkit.plan.plan import CHIP, Buffer, Plan
from nnkit.runtime import cpu
from nnkit.runtime.cuda import Block, Device, DeviceTape
from nnkit.runtime.device_feed import DeviceHeld

__all__ = ["DeviceMemory"]

CONTROL = ("counters", "sums", "learning_rates")         # they lie one behind the other at the end of what a layout keeps
COUNTED = ("counters", "sums", "penalties")              # what runs change of it, and what nobody but steps reads


class Twin:
    """Bytes that are on the host and on a device. newer: "host", "device", or "" where both are the same."""

    def __init__(self, device: Device, host: np.ndarray, address: int) -> None:
        self.device, self.host, self.address = device, host, address
        self.newer = "host"

    def fetch(self) -> None:
        """Bring them here, where the device has newer ones."""
        if self.newer == "device":
            self.device.read(self.address, self.host)
            self.newer = ""

    def send(self) -> None:
        """Bring them to the device, where the host has newer ones."""
        if self.newer == "host":
            self.device.write(self.address, self.host)
            self.newer = ""


class _State:
    """What a model and its submodels share on a device."""

    def __init__(self, device: Device, host: cpu.Memory) -> None:
        layout = host.layout
        self.device, self.kept = device, Block(device, layout.kept_bytes)
        self.start, self.end = layout.offsets[CONTROL[0]], layout.offsets[CONTROL[-1]]
        self.parameters = Twin(device, host.kept[:self.start], self.kept.address)
        self.control = host.kept[self.start:]
        self.known: np.ndarray | None = None             # the control words that the device has
        self.arena = Block(device, 0)
        self.running = False
        self.renew(host)

    def renew(self, host: cpu.Memory) -> None:
        """What belongs to training, anew."""
        self.trained = Block(self.device, host.training.nbytes)
        self.training = Twin(self.device, host.training, self.trained.address)

    def send_control(self) -> None:
        """Let the device have the control words."""
        if self.known is None or not np.array_equal(self.known, self.control):
            self.device.write(self.kept.address + self.start, self.control)
            self.known = self.control.copy()

    def fetch_control(self) -> None:
        """Take what the device has counted."""
        counted = self.control[:self.end - self.start]
        self.device.read(self.kept.address + self.start, counted)
        assert self.known is not None
        self.known[:len(counted)] = counted


class DeviceMemory:
    """The memory of one model on a device: see the module's docstring. `cpu.Memory` says what its functions do.

    shared: the memory of another model of the same layout, which both then use, the arena too.
    """

    def __init__(self, device: Device, layout: Layout, shared: DeviceMemory | None = None) -> None:
        self.device, self.layout = device, layout
        self.host: cpu.Memory = cpu.Memory(layout, None if shared is None else shared.host)
        self._held: weakref.WeakKeyDictionary[Any, DeviceHeld] = weakref.WeakKeyDictionary()
        self._state: _State = _State(device, self.host) if shared is None else shared._state

    def lay_out_anew(self, layout: Layout) -> None:
        """Use another layout with the same kept part; what belongs to training is then zeros."""
        self.layout = layout
        self.host.lay_out_anew(layout)
        self._state.renew(self.host)

    def reserve(self, nbytes: int) -> None:
        """Make the arena at least this large; tapes notice it."""
        if nbytes > self._state.arena.nbytes:
            self._state.arena = Block(self.device, 0)    # the old one is given back first
            self._state.arena = Block(self.device, nbytes)

    def places(self) -> tuple[int, int, int]:
        """Where everything lies: what tapes write into their words."""
        return self._state.kept.address, self._state.trained.address, self._state.arena.address

    def address(self, buffer: Buffer, plan: Plan | None = None) -> int:
        """Where the buffer's first element lies on the device; of one on chip, its offset there."""
        if plan is not None and buffer.role in CHIP:
            return plan.chip[plan.storage(buffer.name)]
        if plan is not None and buffer.inside is None and plan.storage(buffer.name) in plan.offsets:
            return self._state.arena.address + plan.offsets[plan.storage(buffer.name)]
        offset, kept = cpu.persistent_offset(buffer, self.layout), self.layout.kept_bytes
        return self._state.kept.address + offset if offset < kept else self._state.trained.address + offset - kept

    # What Python sees.

    def _twin(self, buffer: Buffer) -> Twin | None:
        """What the buffer belongs to; None for control words."""
        offset = cpu.persistent_offset(buffer, self.layout)
        if offset >= self.layout.kept_bytes:
            return self._state.training
        return self._state.parameters if offset < self._state.start else None

    def view(self, buffer: Buffer) -> np.ndarray:
        """A read-only array over a persistent buffer, as it is now; of control words a live one that may be written."""
        twin, array = self._twin(buffer), self.host.view(buffer)
        if twin is not None:
            twin.fetch()
            array.flags.writeable = False
        return array

    def edit(self, buffer: Buffer) -> np.ndarray:
        """The same to be written at once: the device gets all of it before its next run."""
        twin = self._twin(buffer)
        if twin is not None:
            twin.fetch()
            twin.newer = "host"
        return self.host.view(buffer)

    def read(self, buffer: Buffer, plan: Plan | None = None) -> np.ndarray:
        """A copy of a buffer, that of one of the arena as `plan` lays it out; no more than that is fetched."""
        twin = None if plan is not None else self._twin(buffer)
        if plan is None and (twin is None or twin.newer != "device"):
            return self.host.view(buffer).copy()
        found = np.empty(buffer.shape, buffer.dtype)
        self.device.read(self.address(buffer, plan), found)
        return found

    def fetch(self) -> None:
        """Bring views of parameters up to date that somebody holds."""
        self._state.parameters.fetch()

    # What tapes do around a run.

    def before(self, changes: Iterable[str]) -> None:
        """A run follows that changes these vectors: let the device have what it reads."""
        state = self._state
        state.parameters.send()
        state.training.send()
        state.send_control()
        state.running = True
        for name in set(changes) - {*COUNTED}:
            (state.parameters if self.layout.offsets[name] < state.start else state.training).newer = "device"

    def after(self) -> None:
        """Wait for the run, and take what it has counted."""
        if self._state.running:
            self._state.running = False
            self._state.fetch_control()

    # What a backend makes: see backend.py.

    def tape(self, plan: Plan, threads: int | None) -> DeviceTape:
        """The plan, bound to this memory."""
        return DeviceTape(plan, self)

    def prepare(self, plans: Iterable[Plan]) -> None:
        """Nothing: a tape has all of its launches compiled when it is made."""

    def hold(self, arrays: Mapping[str, Any], written: Mapping[str, np.ndarray], owner: Any = None) -> DeviceHeld:
        """Arrays that plans read, for one use; arrays like `written` will be written for them. owner: they stay on the device as long as it lives."""
        held = self._held.get(owner) if owner is not None else None
        if held is None:
            held = DeviceHeld(self, arrays, written)
            if owner is not None:
                self._held[owner] = held
        return held
