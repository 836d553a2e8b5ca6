"""Arrays that lie on a GPU (CuPy's, PyTorch's, any with ``__cuda_array_interface__`` or DLPack), without a copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .cuda_core import core


@dataclass(frozen=True)
class DeviceArray:
    """float32 values in device memory: address, shape, and strides in elements.

    ``stream``: address of the stream on which the producer's work is, or None where nothing has to be waited for.
    ``owner`` keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    stream: int | None
    owner: Any

    @property
    def rows_are_dense(self) -> bool:
        """Whether everything behind the first axis is C-contiguous."""
        expected = 1
        for size, stride in zip(reversed(self.shape[1:]), reversed(self.strides[1:]), strict=True):
            if size > 1 and stride != expected:
                return False
            expected *= size
        return True


def is_device_array(array: Any) -> bool:
    """Whether ``array`` says that it lies on a GPU (``__cuda_array_interface__``, or DLPack from a CUDA device)."""
    if hasattr(array, "__cuda_array_interface__"):
        return True
    return hasattr(array, "__dlpack_device__") and int(array.__dlpack_device__()[0]) == _DLPACK_CUDA


def device_array(array: Any, what: str, stream: int = 0, device: int = 0) -> DeviceArray:
    """``array`` without a copy. ``stream``: where it is going to be used; a DLPack producer orders its work before it.

    Raises TypeError if it is no array on a GPU, ValueError if it is not float32 or lies on another GPU than ``device``.
    """
    if not is_device_array(array):
        raise TypeError(f"{what}: {type(array).__name__} is no array on a GPU (no __cuda_array_interface__, no DLPack)")
    if hasattr(array, "__dlpack_device__"):
        _check_place(what, int(array.__dlpack_device__()[1]), device)
    # An interface without a stream (PyTorch's) leaves it to us what to wait for; DLPack does the waiting itself.
    ordered = "stream" in getattr(array, "__cuda_array_interface__", ())
    if hasattr(array, "__dlpack__") and not ordered:
        # Numbers 0 and 1 are no streams in DLPack: the legacy default stream is 1.
        described = core().describe_dlpack(array.__dlpack__(stream=stream or 1))
        _check_float32(what, (described["code"], described["bits"]) == (2, 32), f"DLPack type {described['code']}")
        shape, strides = tuple(described["shape"]), tuple(described["strides"])
        return DeviceArray(described["address"], shape, strides, None, (array, described["owner"]))
    found = _from_interface(array, what)
    if found.address:  # a foreign address would take every CUDA library of the process down with it
        _check_place(what, int(core().device_of(found.address, device)), device)
    return found


_DLPACK_CUDA = 2


def _from_interface(array: Any, what: str) -> DeviceArray:
    interface = array.__cuda_array_interface__
    if interface.get("mask") is not None:
        raise ValueError(f"{what}: has a mask; fill its values first")
    _check_float32(what, interface["typestr"] in ("<f4", "=f4"), interface["typestr"])
    shape = tuple(int(n) for n in interface["shape"])
    strides = interface.get("strides")
    if strides is None:
        dense, step = [], 1
        for size in reversed(shape):
            dense.append(step)
            step *= size
        strides = tuple(reversed(dense))
    else:
        if any(int(s) % 4 for s in strides):
            raise ValueError(f"{what}: strides of {list(strides)} bytes; float32 values lie 4 bytes apart")
        strides = tuple(int(s) // 4 for s in strides)
    return DeviceArray(int(interface["data"][0] or 0), shape, strides, interface.get("stream"), array)


def _check_place(what: str, place: int, device: int) -> None:
    if place != device:
        found = "is no device memory" if place < 0 else f"lies on GPU {place}"
        raise ValueError(f"{what}: {found}; this engine computes on GPU {device}")


def _check_float32(what: str, good: bool, found: str) -> None:
    if not good:
        raise ValueError(f"{what}: elements are {found}; expected float32")


def stream_address(stream: Any) -> int:
    """The cudaStream_t of an int, a CuPy stream (``.ptr``) or a PyTorch stream (``.cuda_stream``), as an int."""
    for attribute in ("ptr", "cuda_stream"):
        if hasattr(stream, attribute):
            return int(getattr(stream, attribute))
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream
    raise TypeError(f"stream: {type(stream).__name__}; expected a CuPy or PyTorch stream, or its address as an int")
