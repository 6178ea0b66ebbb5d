"""Arrays of other libraries that lie on a GPU already: CuPy's, PyTorch's, Numba's, JAX's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from nnkit.runtime.cuda import Device

__all__ = ["DeviceArray", "adopted", "in_place", "is_on_device", "on_host"]

DLPACK_CUDA = 2                                          # how DLPack calls the memory of a GPU
MOST_PARTS = 64                                          # inputs or outputs of a network; longer lists are numbers


class DeviceArray:
    """An array on the device, used where it is. NumPy gets a copy of it, fetched once: np.asarray(array).

    owner: whose memory it is; it is kept alive.
    """

    def __init__(self, device: Device, address: int, shape: tuple[int, ...], dtype: np.dtype, owner: Any) -> None:
        self.device, self.address, self.shape, self.dtype, self.owner = device, address, shape, dtype, owner
        self._fetched: np.ndarray | None = None

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self._fetched is None:
            fetched = np.empty(self.shape, self.dtype)
            self.device.read(self.address, fetched)
            fetched.flags.writeable = False
            self._fetched = fetched
        found = self._fetched.astype(dtype or self.dtype, copy=False)
        return found.copy() if copy else found

    def __getitem__(self, rows: Any) -> Any:
        """Rows [start:stop] where they are; of anything else a copy on the host."""
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            return np.asarray(self)[rows]
        start, stop, _ = rows.indices(len(self))
        address = self.address + start * (self.nbytes // max(1, len(self)))
        return DeviceArray(self.device, address, (max(0, stop - start), *self.shape[1:]), self.dtype, self.owner)

    def reshape(self, *shape: int) -> DeviceArray:
        """The same memory with another shape of the same size."""
        return DeviceArray(self.device, self.address, shape, self.dtype, self.owner)


def is_on_device(value: Any) -> bool:
    """Whether this is an array in the memory of a GPU."""
    if type(value) is np.ndarray:
        return False
    if hasattr(value, "__cuda_array_interface__"):
        return True
    return hasattr(value, "__dlpack_device__") and not hasattr(value, "__array_interface__") and value.__dlpack_device__()[0] == DLPACK_CUDA


def adopted(value: Any, device: Device | None, what: str) -> Any:
    """What a user passed, with `DeviceArray`s in the place of arrays on a GPU, inside of tuples, lists and dicts, too.

    Raises TypeError where there is no device, ValueError for an array that cannot be used where it is.
    """
    if value is None or type(value) is np.ndarray:       # nearly always so, and on the way of one row
        return value
    if isinstance(value, Mapping):
        return {name: adopted(part, device, f"{what}[{name!r}]") for name, part in value.items()} if _any(value.values()) else value
    if isinstance(value, (tuple, list)):
        few = len(value) <= MOST_PARTS
        return tuple(adopted(part, device, f"{what}[{i}]") for i, part in enumerate(value)) if few and _any(value) else value
    if not is_on_device(value):
        return value
    if device is None:
        raise TypeError(f"{what} must lie in the host's memory for backend 'cpu', received {type(value).__name__} on a GPU: "
                        "copy it there first, or compile the model with backend='cuda'")
    return _by_interface(value, device, what)


def on_host(value: Any) -> Any:
    """What `adopted` gave, with copies on the host in the place of arrays on a device."""
    if value is None or type(value) is np.ndarray:
        return value
    if isinstance(value, DeviceArray):
        return np.asarray(value)
    if isinstance(value, dict):
        return {name: on_host(part) for name, part in value.items()}
    return tuple(map(on_host, value)) if isinstance(value, tuple) else value


def _any(parts: Any) -> bool:
    """Whether one of the parts is an array on a GPU."""
    return any(is_on_device(part) for part in parts)


def _by_interface(value: Any, device: Device, what: str) -> DeviceArray:
    """By the CUDA array interface, https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html."""
    if not hasattr(value, "__cuda_array_interface__"):
        from nnkit.runtime.dlpack import taken

        return taken(value, device, what)
    found = value.__cuda_array_interface__
    shape, dtype = tuple(found["shape"]), np.dtype(found["typestr"])
    address, strides = int(found["data"][0]), found.get("strides")
    if found.get("mask") is not None:
        raise ValueError(f"{what} must have no mask, received {type(value).__name__} with one")
    array = in_place(DeviceArray(device, address, shape, dtype, value), None if strides is None else tuple(strides), value, what)
    if found.get("version", 0) < 3:
        device.wait_for(None)                            # it does not say of which stream it is
    elif found.get("stream") is not None:
        device.wait_for(int(found["stream"]))
    return array


def in_place(array: DeviceArray, strides: tuple[int, ...] | None, value: Any, what: str) -> DeviceArray:
    """The array of the user's `value`, which can be used where it lies: C-contiguous, on the model's device. strides: in bytes. Raises ValueError."""
    expected, elements = array.dtype.itemsize, math.prod(array.shape)
    for size, stride in zip(reversed(array.shape), reversed(strides or ()), strict=False):
        if size > 1 and stride != expected and elements:
            raise ValueError(f"{what} must be C-contiguous to be used where it lies, received strides {strides} for shape {array.shape}")
        expected *= size
    if array.address and not array.device.holds(array.address):
        raise ValueError(f"{what} must lie on the GPU that the model uses, the first one, received {type(value).__name__} that lies elsewhere")
    return array
