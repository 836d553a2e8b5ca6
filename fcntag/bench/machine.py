"""The machine that is timed: its CPU, the versions of the software, its load, and its measured ceilings."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

# A ceiling is the best of so many runs.
CEILING_RUNS = 5
# Above this load of other processes, in cores, the report warns that they disturb the times. Below it, the machine
# counts as quiet.
QUIET_LOAD = 0.5


def environment(threads: int) -> dict[str, Any]:
    """CPU, threads, versions, commit and time, for the JSON beside a result."""
    import numpy as np

    from .. import _C, __version__

    build = _C.build_info()
    return {
        "cpu": _cpu_name(),
        "cpus": _C.available_threads(),
        "threads": threads,
        "isa": build["isa"],
        "compiler": build["compiler"],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "fcntag": __version__,
        "commit": _commit(),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def ceilings(threads: int) -> dict[str, float]:
    """Multiply-add peak in GFLOP/s and copy bandwidth (read + written) in GB/s of ``threads`` threads, measured.

    Each is the best of several runs: other processes make a ceiling look lower, and nothing makes it look higher.
    """
    from .. import _C

    return {
        "fma_gflops": max(_C.fma_peak(threads) for _ in range(CEILING_RUNS)),
        "copy_gbytes": max(_C.copy_bandwidth(threads) for _ in range(CEILING_RUNS)),
    }


def others_load(own: float) -> float | None:
    """Load average of the last minute less ``own`` busy threads, at least 0; None where the system has none."""
    try:
        return max(0.0, os.getloadavg()[0] - own)
    except OSError:
        return None


class OthersCpu:
    """Counts the cores that other processes keep busy from now on. The load average follows too slowly for that."""

    def __init__(self) -> None:
        self._start = self._now()

    def cores(self) -> float | None:
        """Mean number of these cores since the object was made, at least 0; None where /proc/stat is missing."""
        start, now = self._start, self._now()
        if start is None or now is None or now[2] <= start[2]:
            return None
        everyone, own, wall = (b - a for a, b in zip(start, now, strict=True))
        return round(max(0.0, (everyone - own) / wall), 2)

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """CPU seconds of all processes, CPU seconds of this one with its ended children, and the clock."""
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        except OSError:
            return None
        user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, fields)
        own = sum(os.times()[:4])
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK"), own, time.monotonic()


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The checkout's commit; "" where the package is installed and not in a checkout of its own."""
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
