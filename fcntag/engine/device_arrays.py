"""Arrays that lie on a GPU (CuPy's, PyTorch's, any with ``__cuda_array_interface__`` or DLPack), without a copy.

Who orders what: the work of an array's library may still be on its way on the stream that the library puts work on now
(:func:`current_stream`), and what it does next will go there. The engine waits for that stream before it reads or
writes, and the stream waits for the engine. DLPack has the library do the first half (``__dlpack__(stream=...)``) and
says nothing of the second.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from .cuda_core import core


@dataclass(frozen=True)
class DeviceArray:
    """float32 values in device memory: address, shape, and strides in elements. ``owner`` keeps the memory alive."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
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
    """Whether ``array`` says that it lies on a GPU (DLPack from a CUDA device, or ``__cuda_array_interface__``)."""
    if hasattr(array, "__dlpack_device__"):
        try:
            kind = int(array.__dlpack_device__()[0])
        except Exception:  # PyTorch's on its device "meta", for one
            return False
        if kind in _DLPACK_CUDA:
            return True
    return _interface(array) is not None


def device_array(array: Any, what: str, stream: int = 0, device: int = 0) -> DeviceArray:
    """``array`` without a copy. ``stream``: where it is going to be used; a DLPack producer orders its work before it.

    Raises TypeError if it is no array on a GPU, ValueError if it is not float32, lies on another GPU than ``device``,
    or is one that its library does not hand over.
    """
    if not is_device_array(array):
        raise TypeError(f"{what}: {type(array).__name__} is no array on a GPU (no __cuda_array_interface__, no DLPack)")
    if hasattr(array, "__dlpack_device__"):
        _check_place(what, int(array.__dlpack_device__()[1]), device)
    if _requires_gradient(array):
        raise ValueError(f"{what}: requires a gradient, which no score has; pass its .detach()")
    try:
        interface = _interface(array)
        # An interface without a stream leaves it to us what to wait for, unless we know the library: PyTorch's DLPack
        # would refuse arrays on another GPU than its current one, and streams that it did not make.
        ordered = interface is not None and ("stream" in interface or _library(array) is not None)
        if hasattr(array, "__dlpack__") and not ordered:
            # Numbers 0 and 1 are no streams in DLPack: the legacy default stream is 1.
            found = _from_dlpack(array, what, stream or 1)
        else:
            assert interface is not None
            found = _from_interface(array, interface, what)
            if found.address:  # a foreign address would take every CUDA library of the process down with it
                _check_place(what, int(core().device_of(found.address, device)), device)
    except (BufferError, RuntimeError) as error:  # deleted, sharded, on its way to another GPU
        raise ValueError(f"{what}: {type(array).__name__}: {str(error).partition(chr(10))[0]}") from None
    if all(found.shape) and found.address == 0:
        raise ValueError(f"{what}: shape {list(found.shape)} at address 0; it has no memory")
    if found.address % 4:  # a misaligned access ends the process's context
        raise ValueError(f"{what}: lies at address {found.address:#x}; float32 values lie at multiples of 4")
    return found


def current_stream(array: Any, device: int) -> int | None:
    """Address of the stream on which ``array``'s library has put its work, and will put what it does next.

    An array says it in ``__cuda_array_interface__["stream"]`` (CuPy, Numba). Where it does not, the library is asked:
    PyTorch, CuPy, Numba, Warp. None: nobody says, or ``array`` is not on a GPU. Call it inside a
    ``DeviceScope(device)``: some libraries answer for the thread's GPU.
    """
    if not is_device_array(array):
        return None
    stream = (_interface(array) or {}).get("stream")
    if stream is None:
        name = _library(array)
        if name is None:
            return None
        stream = _CURRENT_STREAM[name](sys.modules[name], device)
    if not isinstance(stream, Integral) or not 0 <= int(stream) < 1 << 64:
        raise ValueError(f"{type(array).__name__}: its stream is {stream!r}; expected an address")
    return plain_stream(int(stream))


def is_read_only(array: Any) -> bool:
    """Whether ``array`` says that nobody may write it, or is of a library whose arrays never change."""
    data = (_interface(array) or {}).get("data")
    return (isinstance(data, (tuple, list)) and len(data) > 1 and bool(data[1])) or _roots(array) & _IMMUTABLE != set()


def plain_stream(address: int) -> int:
    """``address`` with the legacy default stream as 0: CUDA knows it as 1, too."""
    return 0 if address == 1 else address


_DLPACK_CUDA = (2, 13)  # memory of a GPU, and managed memory
_IMMUTABLE = frozenset({"jax", "jaxlib", "tensorflow"})

# Libraries with a stream that is current, by the first name of their modules. They are in use: nothing is imported.
_CURRENT_STREAM: dict[str, Callable[[Any, int], int]] = {
    "torch": lambda torch, device: torch.cuda.current_stream(device).cuda_stream,
    "cupy": lambda cupy, device: cupy.cuda.get_current_stream().ptr,
    "numba": lambda numba, device: 2 if numba.config.CUDA_PER_THREAD_DEFAULT_STREAM else 0,
    "warp": lambda warp, device: warp.get_stream(f"cuda:{device}").cuda_stream,
}


def _requires_gradient(array: Any) -> bool:
    return getattr(array, "requires_grad", False) is True


def _interface(array: Any) -> dict[str, Any] | None:
    """``array.__cuda_array_interface__``, or None; PyTorch raises where a gradient is required."""
    return None if _requires_gradient(array) else getattr(array, "__cuda_array_interface__", None)


def _roots(array: Any) -> set[str]:
    """The first names of the modules that ``array``'s class and its bases come from."""
    return {str(kind.__module__).partition(".")[0] for kind in type(array).__mro__}


def _library(array: Any) -> str | None:
    """The library in ``_CURRENT_STREAM`` that ``array`` belongs to, or None."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, getattr(torch, "Tensor", ())):
        return "torch"
    roots = {"numba" if root == "numba_cuda" else root for root in _roots(array)}
    return next((name for name in _CURRENT_STREAM if name in roots and name in sys.modules), None)


def _from_dlpack(array: Any, what: str, stream: int) -> DeviceArray:
    capsule = array.__dlpack__(stream=stream)
    if type(capsule).__name__ != "PyCapsule":
        raise ValueError(f"{what}: __dlpack__ gave {type(capsule).__name__}; expected a capsule")
    described = core().describe_dlpack(capsule)
    _check_float32(what, (described["code"], described["bits"]) == (2, 32), f"DLPack type {described['code']}")
    shape, strides = tuple(described["shape"]), tuple(described["strides"])
    return DeviceArray(described["address"], shape, strides, (array, described["owner"]))


def _from_interface(array: Any, interface: dict[str, Any], what: str) -> DeviceArray:
    if interface.get("mask") is not None:
        raise ValueError(f"{what}: has a mask; fill its values first")
    try:
        kind, shape = str(interface["typestr"]), tuple(int(n) for n in interface["shape"])
        address, strides = int(interface["data"][0] or 0), interface.get("strides")
        strides = None if strides is None else tuple(int(s) for s in strides)
        numbers = [address, *shape, *(map(abs, strides or ()))]
        good = len(strides or shape) == len(shape) and all(0 <= n < 1 << 63 for n in numbers)
    except (KeyError, IndexError, TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{what}: its __cuda_array_interface__ is not that of an array")
    _check_float32(what, kind in ("<f4", "=f4"), kind)
    if strides is None:
        dense, step = [], 1
        for size in reversed(shape):
            dense.append(step)
            step *= size
        strides = tuple(reversed(dense))
    else:
        if any(s % 4 for s in strides):
            raise ValueError(f"{what}: strides of {list(strides)} bytes; float32 values lie 4 bytes apart")
        strides = tuple(s // 4 for s in strides)
    return DeviceArray(address, shape, strides, array)


def _check_place(what: str, place: int, device: int) -> None:
    if place != device:
        found = "is no device memory" if place < 0 else f"lies on GPU {place}"
        raise ValueError(f"{what}: {found}; this engine computes on GPU {device}")


def _check_float32(what: str, good: bool, found: str) -> None:
    if not good:
        raise ValueError(f"{what}: elements are {found}; expected float32")


def stream_address(stream: Any, device: int) -> int:
    """The cudaStream_t of ``stream`` as an int.

    Parameters
    ----------
    stream : an int, a stream of CuPy (``.ptr``), PyTorch or Warp (``.cuda_stream``), Numba, or any that speaks the
        protocol ``__cuda_stream__`` (cuda.core, RMM)
    device : the GPU that it has to belong to

    Raises
    ------
    TypeError : it is none of these
    ValueError : it belongs to another GPU, or is no address
    """
    for attribute in ("device_index", "device_id"):
        place = getattr(stream, attribute, None)
        if isinstance(place, int) and place >= 0 and place != device:
            raise ValueError(f"stream: belongs to GPU {place}; this engine computes on GPU {device}")
    address = _address_of(stream)
    if not 0 <= address < 1 << 64:
        raise ValueError(f"stream: {address} is no address of a stream")
    return plain_stream(address)


def _address_of(stream: Any) -> int:
    on_gpu = getattr(getattr(stream, "device", None), "type", "cuda") == "cuda"  # PyTorch has streams of a CPU
    for attribute in ("ptr", "cuda_stream", "native_handle"):  # the last one of torch.accelerator
        if on_gpu and hasattr(stream, attribute):
            return int(getattr(stream, attribute))
    if hasattr(stream, "__cuda_stream__"):
        protocol = stream.__cuda_stream__  # a method, in the first drafts a property
        _, address = protocol() if callable(protocol) else protocol
        return int(address)
    if (isinstance(stream, Integral) and not isinstance(stream, bool)) or _roots(stream) & {"numba", "numba_cuda"}:
        return int(stream)
    raise TypeError(f"stream: {type(stream).__name__}; expected a CuPy or PyTorch stream, or its address as an int")
