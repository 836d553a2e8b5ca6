"""The CUDA core: the compiled module, whether it can be used, and the GPUs that it sees.

Importing this module, like importing fcntag, touches no driver; the functions do.
"""

from __future__ import annotations

import os
from typing import Any

from ..errors import DeviceError

_started_in: int | None = None  # process in which CUDA was first used


def core() -> Any:
    """The compiled module ``fcntag._cuda``. Raises DeviceError if this build has none, or in a forked child.

    A CUDA context does not survive fork(): the child's calls would fail one by one, with errors that name no cause.
    """
    global _started_in
    try:
        from .. import _cuda
    except ImportError as error:
        text = "this build of fcntag has no CUDA kernels; reinstall it where nvcc is found (FCNTAG_CUDA=1 requires it)"
        if "_cuda" not in str(error):
            text = f"the CUDA kernels cannot be loaded: {error}"
        raise DeviceError(text) from None
    if _started_in is None:
        _started_in = os.getpid()
    check_process(_started_in)
    return _cuda


def check_process(started_in: int) -> None:
    """Raises DeviceError if this process is a fork of the one that started CUDA."""
    if os.getpid() != started_in:
        raise DeviceError(
            f"CUDA was started in process {started_in} and cannot be used in its forked child {os.getpid()};"
            " start workers with multiprocessing.get_context('spawn')"
        )


def unavailable() -> str:
    """Why ``device="cuda"`` would fail, in a few words; "" if it would not."""
    try:
        return str(core().unavailable())
    except DeviceError as error:
        return str(error)


def devices() -> list[dict[str, Any]]:
    """Name, compute capability, memory, driver and runtime version of every GPU; [] if there is none."""
    if unavailable():
        return []
    return [core().device_info(i) for i in range(core().device_count())]
