"""Arrays and streams of other libraries, as far as an engine sees them, on the emulated module.

Streams run late (``FCNTAG_EMULATED_LATE_STREAMS``): work waits until somebody waits for it, so that a result which is
read without having been ordered is the memory's old contents.
"""

from __future__ import annotations

import ctypes
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class Streams:
    """Streams of the emulated module ``core``, made and used by somebody else."""

    def __init__(self, core: ModuleType) -> None:
        library = ctypes.CDLL(core.__file__)
        pointer = ctypes.c_void_p
        library.fcntag_test_stream.restype = pointer
        library.fcntag_test_copy.argtypes = [pointer, pointer, pointer, ctypes.c_size_t]
        for name in ("synchronize", "begin_capture", "end_capture"):
            getattr(library, f"fcntag_test_{name}").argtypes = [pointer]
        self._library = library

    def new(self, device: int = 0) -> int:
        return int(self._library.fcntag_test_stream(device))

    def copy(self, stream: int, target: np.ndarray, source: np.ndarray) -> None:
        """Put a copy on ``stream``; both arrays must live until it has run."""
        assert target.nbytes == source.nbytes
        assert target.flags.c_contiguous
        assert source.flags.c_contiguous
        self._library.fcntag_test_copy(stream, target.ctypes.data, source.ctypes.data, target.nbytes)

    def synchronize(self, stream: int) -> None:
        self._library.fcntag_test_synchronize(stream)

    def begin_capture(self, stream: int) -> None:
        self._library.fcntag_test_begin_capture(stream)

    def end_capture(self, stream: int) -> int:
        """How much was recorded: launches, copies, events."""
        return int(self._library.fcntag_test_end_capture(stream))

    def forget_contexts(self) -> None:
        self._library.fcntag_test_forget_contexts()


class Array:
    """Host memory that claims to lie on a GPU. ``said`` goes into ``__cuda_array_interface__``."""

    def __init__(self, array: np.ndarray, **said: Any) -> None:
        self.array, self.said = array, said

    @property
    def __cuda_array_interface__(self):
        a = self.array
        strides = None if a.flags.c_contiguous else a.strides
        return {
            "shape": a.shape,
            "typestr": a.dtype.str,
            "data": (a.ctypes.data, False),
            "strides": strides,
            "version": 3,
            **self.said,
        }


def library(name: str, **contents: Any) -> tuple[ModuleType, type[Array]]:
    """A module of that name, and a class of arrays that come from it."""
    module = ModuleType(name)
    module.__dict__.update(contents)
    kind = type("Array", (Array,), {"__module__": f"{name}.core"})
    return module, kind


def torch_library(streams: dict[int, int]) -> tuple[ModuleType, type[Array]]:
    """PyTorch: no "stream" in the interface; ``streams`` are the current ones by GPU. Its DLPack is not to be used."""

    class Tensor(Array):
        requires_grad = False
        asked: list[Any] = []  # noqa: RUF012 (of all tensors)

        def __dlpack_device__(self):
            return 2, self.said.get("device", 0)

        def __dlpack__(self, stream=None):
            self.asked.append(stream)
            raise BufferError("Can't export tensors on a different CUDA device index.")

        @property
        def __cuda_array_interface__(self):
            if self.requires_grad:
                raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.")
            return {k: v for k, v in super().__cuda_array_interface__.items() if k not in ("device", "stream")}

    module = ModuleType("torch")
    current = lambda device=None: SimpleNamespace(cuda_stream=streams[device], device_index=device)  # noqa: E731
    module.__dict__.update(Tensor=Tensor, cuda=SimpleNamespace(current_stream=current))
    return module, Tensor


class Capsule:
    """DLPack alone. Its library's work is on ``own``; it orders that before the stream that it is told, if any."""

    def __init__(
        self, array: np.ndarray, core: ModuleType | None = None, own: int | None = None, kind: int = 2
    ) -> None:
        self.array, self.core, self.own, self.kind, self.asked = array, core, own, kind, []

    def __dlpack_device__(self):
        return self.kind, 0

    def __dlpack__(self, stream=None):
        self.asked.append(stream)
        if self.core is not None and self.own is not None:
            self.core.wait_for(stream, self.own, 0)
        return self.array.__dlpack__()
