"""Arrays on a GPU by DLPack, for what has no CUDA array interface: https://dmlc.github.io/dlpack/latest/.

A producer hands a capsule with a `DLManagedTensor`, whose layout is fixed. Who takes it renames the capsule, and calls the tensor's deleter in the
end.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np

from nnkit.runtime.cuda import Device
from nnkit.runtime.device_array import DeviceArray, in_place

__all__ = ["taken"]

KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}                 # DLPack's codes of types -> NumPy's
LEGACY_STREAM = 1                                        # the consumer's stream: what the producer has asked for is done before work on that one


class _Tensor(ctypes.Structure):
    """DLTensor."""

    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
                ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64)]


class _Managed(ctypes.Structure):
    """DLManagedTensor."""


DELETER = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", DELETER)]


class _Owner:
    """Keeps a tensor alive."""


def taken(value: Any, device: Device, what: str) -> DeviceArray:
    """The array of an object with `__dlpack__`, where it lies. Raises ValueError for one that cannot be used there."""
    capsule = value.__dlpack__(stream=LEGACY_STREAM)
    device.wait_for(LEGACY_STREAM)
    managed = _managed(capsule)
    owner = _Owner()
    if managed.deleter:
        weakref.finalize(owner, managed.deleter, ctypes.byref(managed)).atexit = False
    tensor = managed.tensor
    shape = tuple(tensor.shape[:tensor.ndim])
    if tensor.lanes != 1 or tensor.code not in KINDS:
        raise ValueError(f"{what} must hold real numbers, received {type(value).__name__} of DLPack's type {tensor.code} with {tensor.lanes} lanes")
    dtype = np.dtype(f"{KINDS[tensor.code]}{tensor.bits // 8}")
    strides = tuple(stride * dtype.itemsize for stride in tensor.strides[:tensor.ndim]) if tensor.strides else None
    address = (tensor.data or 0) + tensor.byte_offset
    return in_place(DeviceArray(device, address, shape, dtype, owner), strides, value, what)


def _managed(capsule: Any) -> _Managed:
    """What a capsule holds, which is then used."""
    interface = ctypes.pythonapi
    interface.PyCapsule_GetPointer.restype, interface.PyCapsule_GetPointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    interface.PyCapsule_SetName.restype, interface.PyCapsule_SetName.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]
    pointer = interface.PyCapsule_GetPointer(capsule, b"dltensor")
    interface.PyCapsule_SetName(capsule, USED)
    return _Managed.from_address(pointer)


USED = b"used_dltensor"                                  # kept here: the capsule does not copy it
