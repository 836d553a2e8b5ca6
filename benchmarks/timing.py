"""Timing helpers: alternating runs in one process, medians and ratios, and a record of the machine."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAUSE_S = 0.03  # between two engines: their thread pools spin for a while after a run and would disturb the other


def alternate(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of ``repeats`` calls of each, taken in turn; every timed call follows an untimed one."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(PAUSE_S)
            call()
            start = time.perf_counter()
            call()
            samples[name].append(time.perf_counter() - start)
    return samples


def summary(samples: dict[str, list[float]], baseline: str) -> dict[str, Any]:
    """Milliseconds (median, p10, p90) of each, and the median of the pairwise ratios other / baseline."""
    out: dict[str, Any] = {}
    for name, values in samples.items():
        ordered = sorted(v * 1e3 for v in values)
        out[name] = {
            "median_ms": statistics.median(ordered),
            "p10_ms": ordered[len(ordered) // 10],
            "p90_ms": ordered[(len(ordered) * 9) // 10],
            "ratio": statistics.median(v / b for v, b in zip(values, samples[baseline], strict=True)),
        }
    return out


def environment() -> dict[str, Any]:
    """CPU, versions, commit and date, for the JSON beside a result."""
    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    from fcntag import _C, __version__

    return {
        "cpu": model,
        "threads": _C.available_threads(),
        "isa": _C.build_info()["isa"],
        "compiler": _C.build_info()["compiler"],
        "python": platform.python_version(),
        "fcntag": __version__,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def commit() -> str:
    root = Path(__file__).resolve().parent
    run = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return run.stdout.strip() or "unknown"


def write_json(path: str | None, result: dict[str, Any]) -> None:
    if path:
        Path(path).write_text(json.dumps({"environment": environment(), **result}, indent=1) + "\n")
