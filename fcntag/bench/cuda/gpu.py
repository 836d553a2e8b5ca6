"""The GPU: its ceilings, measured now, and its clocks, power and temperature as the driver's tool reports them.

This module reads, and changes no setting of the GPU.
"""

from __future__ import annotations

import os
import shutil
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
    which = _smi_index(index)
    found = _query(which, _BASIC + _MORE) or _query(which, _BASIC)
    return {name: value for name, value in found.items() if not value.startswith("[") and value != "N/A"}


def _smi_index(index: int) -> str:
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
