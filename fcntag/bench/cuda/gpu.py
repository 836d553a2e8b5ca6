"""The GPU: its ceilings, measured now, and its clocks, power and temperature as the driver's tool reports them.

This module reads, and changes no setting of the GPU.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
from typing import Any

from ...engine.cuda_core import core

# Every driver that the kernels run on knows _BASIC; _MORE depends on the driver and the card.
_BASIC = ("name", "driver_version", "clocks.sm", "clocks.mem", "temperature.gpu", "memory.total")
_MORE = (
    "clocks.max.sm",
    "clocks.max.mem",
    "power.draw",
    "power.limit",
    "pstate",
    "utilization.gpu",
    "memory.used",
    "clocks_event_reasons.active",
    "persistence_mode",
    "mig.mode.current",
    "compute_mode",
)


def state(index: int = 0) -> dict[str, str]:
    """nvidia-smi's readings of GPU ``index``, counted as CUDA does, with their units; {} where that tool is missing."""
    which = smi_index(index)
    found = _query(which, _BASIC + _MORE) or _query(which, _BASIC)
    return {name: value for name, value in found.items() if not value.startswith("[") and value != "N/A"}


def smi_index(index: int) -> str:
    """nvidia-smi's name of CUDA's GPU ``index``: CUDA counts the GPUs that CUDA_VISIBLE_DEVICES lists, in its order."""
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return visible[index] if index < len(visible) else str(index)


def _query(which: str, fields: tuple[str, ...]) -> dict[str, str]:
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "-i", which]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = [value.strip() for value in run.stdout.strip().split(",")]
    return dict(zip(fields, values, strict=True)) if run.returncode == 0 and len(values) == len(fields) else {}


# Dense FLOP of 16-bit tensor cores and of float32 units in a cycle of a multiprocessor, by compute capability, where
# the vendor's datasheet gives them: 989 TFLOP/s are 132 multiprocessors x 4096 x 1.83 GHz.
_DATASHEET = {(8, 0): (2048, 128), (9, 0): (4096, 256)}
# Side of the square matrices whose product shows what the vendor's library reaches.
_LIBRARY_SIZE = 8192


def datasheet(info: dict[str, Any], sm_mhz: float) -> dict[str, float]:
    """The vendor's peaks at a clock of ``sm_mhz``, in TFLOP/s; {} for a GPU whose datasheet is not known here.

    ``info`` is the engine's ``device_info``.
    """
    rates = _DATASHEET.get(tuple(info.get("capability", ())))
    if rates is None:
        return {}
    cycles = info["multiprocessors"] * sm_mhz * 1e6
    matrix, plain = (rate * cycles * 1e-12 for rate in rates)
    names = {"bfloat16": matrix, "float16": matrix, "tf32": matrix / 2, "float32": plain}
    return {"sampled_sm_mhz": sm_mhz, **{f"datasheet_tflops_{name}": value for name, value in names.items()}}


def library_ceilings(device: int = 0) -> dict[str, float]:
    """TFLOP/s of PyTorch's bfloat16 product of two large random matrices; ImportError without PyTorch.

    The library has instructions (Hopper's wgmma) that fcntag's kernels do not use: this is the ceiling of the chip,
    and the mma.sync loop of ``ceilings`` that of the kernels.
    """
    import torch

    from .peers import event_times

    torch.cuda.set_device(device)
    a, b = (torch.randn(_LIBRARY_SIZE, _LIBRARY_SIZE, device=f"cuda:{device}").bfloat16() for _ in range(2))
    out = torch.empty_like(a)
    seconds = statistics.median(event_times(torch.cuda, lambda _: torch.matmul(a, b, out=out), 1, 10))
    return {"library_tflops_bfloat16": 2.0 * _LIBRARY_SIZE**3 / seconds * 1e-12}


def ceilings(device: int = 0) -> dict[str, Any]:
    """Measure the ceilings of GPU ``device``, of which the bench's percentages are.

    Returns
    -------
    ``copy_gb_s`` : a copy within device memory, bytes read plus written, in GB/s
    ``matrix_tflop_s`` : precision to TFLOP/s of its multiply-adds from registers (mma.sync; float32: fma), for those
        that the GPU has
    """
    module = core()
    major, minor = module.device_info(device)["capability"]
    precisions = ["float32", "float16"] + (["tf32x3", "tf32", "bfloat16"] if (major, minor) >= (8, 0) else [])
    return {
        "copy_gb_s": module.copy_gigabytes(device),
        "matrix_tflop_s": {precision: module.arithmetic_tflops(precision, device) for precision in precisions},
    }
