"""The engine: one model's front end and network on one device. ``create_engine`` chooses the device.

``base`` has the promise that every device keeps, ``cpu`` and ``cuda`` keep it, ``dense`` evaluates whole tracks.
Importing this package loads neither NumPy nor a compiled core, so that the command line can ask for ``PRECISIONS``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import DeviceError

if TYPE_CHECKING:
    from ..model.file import Model
    from .base import Engine
    from .cpu import CpuEngine
    from .cuda import CudaEngine

__all__ = ["CPU_PRECISIONS", "MAX_GPU_BATCH", "PRECISIONS", "CpuEngine", "CudaEngine", "Engine", "create_engine"]

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
CPU_PRECISIONS = ("float32", "bfloat16")
MAX_GPU_BATCH = 4096  # csrc/cuda/network.cpp refuses more: its kernels count images in one dimension of their grid

_HOMES = {"CpuEngine": "cpu", "CudaEngine": "cuda", "Engine": "base"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def create_engine(
    model: Model,
    *,
    device: str = "auto",
    precision: str = "float32",
    max_batch: int = 64,
    threads: int | None = None,
    reduce: bool = True,
) -> Engine:
    """An engine for ``model``.

    Parameters
    ----------
    device : "auto", "cpu" or "cuda[:N]". "auto" is the CPU until the kernels have been checked on real GPUs.
    precision : "float32"; "bfloat16" (on the CPU, Winograd blocks multiply bfloat16 and sum in float32; the first
        block, small last maps and the head stay float32); on a GPU also "tf32" and "float16"
    max_batch : int >= 1, most segments computed in one call of the core
    threads : CPU threads; None or 0: FCNTAG_NUM_THREADS, or else the CPUs of the affinity mask and cgroup quota
    reduce : leave out the work that cannot change a score; see ``fcntag.reduce``

    Raises
    ------
    DeviceError : the device or precision is not available
    ValueError : an argument is out of range
    """
    from .. import _C
    from .cpu import CpuEngine, thread_count

    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and (kind != "cuda" or not index.isdigit())):
        raise ValueError(f"device={device!r}; allowed: auto, cpu, cuda, cuda:N")
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}; allowed: {', '.join(PRECISIONS)}")
    if kind == "cuda":
        from .cuda import CudaEngine

        thread_count(threads, 1)  # a wrong number is wrong on any device
        return CudaEngine(model, index=int(index or 0), precision=precision, max_batch=max_batch, reduce=reduce)
    if precision not in CPU_PRECISIONS:
        built = ", ".join(CPU_PRECISIONS)
        raise DeviceError(f"precision={precision!r} is not built for the CPU; built: {built}")
    if precision == "bfloat16":
        info = _C.build_info()
        if not info["bfloat16"]:
            raise DeviceError(f"precision='bfloat16' needs a CPU with AVX512_BF16; instruction set here: {info['isa']}")
    return CpuEngine(model, precision=precision, max_batch=max_batch, threads=threads, reduce=reduce)
