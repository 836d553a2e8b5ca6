"""Hardware counters of one run of a network, by Nsight Compute: which kernel is the largest, and what it waits for.

    python benchmarks/gpu/counters.py MODEL PRECISION BATCH      the run that ncu watches

The GPU's clocks are left alone.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

# The convolutions of one run, which are launched one by one for this.
_KERNELS, _LAUNCHES = "regex:conv", 12
_SECTIONS = (
    "SpeedOfLight",
    "ComputeWorkloadAnalysis",
    "SchedulerStats",
    "WarpStateStats",
    "Occupancy",
    "LaunchStats",
)
# Of the hundreds of counters of these sections the record keeps those that tell how busy the tensor cores and the
# schedulers are, and what warps wait for. Names differ from GPU to GPU.
_KEPT = re.compile(
    r"gpu__time_duration|pipe_tensor|issue_active|inst_issued|issue_stalled|warps_active|cycles_active|cycles_elapsed"
    r"|throughput.*pct|registers_per_thread|shared_mem_per_block|occupancy_limit|waves_per_multiprocessor"
)
_NAMES = ("Kernel Name", "Grid Size", "Block Size")
_DURATION = "gpu__time_duration.sum"


def command(program: str, model: str, precision: str, batch: int) -> list[str]:
    """The command that watches one run; its output is a table among other lines."""
    options = ["--clock-control", "none", "--csv", "--page", "raw", "--print-units", "base"]
    options += ["--kernel-name", _KERNELS, "--launch-count", str(_LAUNCHES)]
    for section in _SECTIONS:
        options += ["--section", section]
    return [program, *options, sys.executable, __file__, model, precision, str(batch)]


def kernels(text: str) -> list[dict[str, Any]]:
    """Name, grid, block and counters of every kernel in ncu's output, in the order of their launches."""
    lines = text.splitlines()
    head = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if head is None:
        return []
    found = []
    table = csv.reader(line for line in lines[head:] if line.startswith('"'))
    names = next(table)
    for row in table:
        cells = dict(zip(names, row, strict=False))
        if not cells["ID"]:
            continue  # the units
        counters = {}
        for name in names:
            if _KEPT.search(name) and (value := _number(cells.get(name, ""))) is not None:
                counters[name] = value
        found.append({**{name.split()[0].lower(): cells.get(name, "") for name in _NAMES}, "counters": counters})
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def largest(found: Sequence[dict[str, Any]]) -> int:
    """Index of the kernel that took longest."""
    return max(range(len(found)), key=lambda i: found[i]["counters"].get(_DURATION, 0.0))


def verdict(code: int | None, text: str, found: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Status and reason. A machine that lets nobody read its counters is no failure of fcntag's."""
    if code is None:
        return "timed out", "stopped at its limit"
    if code == 0 and found:
        one = found[largest(found)]
        return "passed", f"{one['kernel'][:80]}: {one['counters'].get(_DURATION, 0.0):.0f} ns"
    refused = re.search(r".*(?:==ERROR==|ERR_NVGPUCTRPERM|Failed to|not supported).*", text)
    if refused:
        return "not run", refused.group(0).strip()[:200]
    return "failed", f"exit code {code}, and no kernel was seen"


def main(argv: Sequence[str]) -> None:
    """Run the network once."""
    from fcntag.catalogue.names import load_any
    from fcntag.engine.cuda import CudaEngine

    model, _ = load_any(argv[0])
    batch = int(argv[2])
    waves = np.random.default_rng(0).random((batch, model.document.segments.n_samples), np.float32) - np.float32(0.5)
    with CudaEngine(model, precision=argv[1], max_batch=batch) as engine:
        engine.use_graphs(False)  # a graph is one thing to ncu
        engine.scores(waves)


if __name__ == "__main__":
    main(sys.argv[1:])
