"""The GPU's clock while something is timed, as the driver's tool reports it from second to second."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import threading
import time
from typing import Any

from .gpu import smi_index

# Milliseconds between two readings.
_PERIOD_MS = 200


class ClockSampler:
    """Readings of the multiprocessors' clock of GPU ``index`` within the ``with`` block; none without nvidia-smi."""

    def __init__(self, index: int = 0) -> None:
        self._command = ["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits", "-i", smi_index(index)]
        self._command += [f"--loop-ms={_PERIOD_MS}"]
        self._readings: list[tuple[float, float]] = []
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> ClockSampler:
        if shutil.which("nvidia-smi") is None:
            return self
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True
            )
            self._thread = threading.Thread(target=self._read, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._thread is not None:
            self._process.kill()
            self._process.wait()
            self._thread.join()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # "[N/A]" and the like
                    self._readings.append((time.monotonic(), float(line)))

    def between(self, start: float, end: float) -> dict[str, Any]:
        """Median, least and greatest MHz of the readings from ``start`` to ``end`` of time.monotonic(); {} if none."""
        found = [mhz for when, mhz in list(self._readings) if start <= when <= end]
        if not found:
            return {}
        return {"sm_mhz": statistics.median(found), "least": min(found), "greatest": max(found), "readings": len(found)}
