"""The record of benchmarks/gpu_check.sh: the JSON with the machine, every step, and what the steps found."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# The version of the JSON's layout. A file of another version is not added to, but written anew.
FORMAT = 1
# The JSON keeps about so many samples of a row; its percentiles are those of all samples.
MAX_SAMPLES = 25


class Record:
    """The JSON as it grows. A run adds its steps to the file of an earlier run on the same GPU and day."""

    def __init__(self, folder: Path, gpu: dict[str, str]) -> None:
        slug = re.sub(r"[^a-z0-9]+", "-", gpu["name"].lower()).strip("-")
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"gpu-{slug}-{time.strftime('%Y-%m-%d', time.gmtime())}.json"
        self.data: dict[str, Any] = {"format": FORMAT, "tool": "gpu_check"}
        try:
            earlier = json.loads(self.path.read_text(encoding="utf-8"))
            if earlier.get("format") == FORMAT and earlier.get("tool") == "gpu_check":
                self.data = earlier
        except (OSError, ValueError, AttributeError):
            pass
        self.data["machine"] = machine(gpu)
        self.data.setdefault("steps", {})
        self.ran: list[str] = []

    def add(self, name: str, status: str, seconds: float, **more: Any) -> None:
        """Add a step that "passed", "failed", "timed out", or, as something that it needs is missing, was "not run"."""
        self.ran.append(name)
        commit = self.data["machine"]["commit"]  # an earlier run's steps may be another's
        self.data["steps"][name] = {"status": status, "seconds": round(seconds, 1), "commit": commit, **more}
        print(f"== {name}: {status}, {seconds:.0f} s", flush=True)
        self.save()

    def know_commit(self, commit: str) -> None:
        """Record what was run, where neither FCNTAG_COMMIT nor a repository tells."""
        self.data["machine"]["commit"] = self.data["machine"]["commit"] or commit

    def save(self) -> None:
        """Write the JSON, and the copy that FCNTAG_RESULTS_DIR asks for; each is there whole at any moment."""
        text = dumps(self.data) + "\n"
        replace_file(self.path, text)
        copy = os.environ.get("FCNTAG_RESULTS_DIR")
        if copy and Path(copy).resolve() != self.path.parent.resolve():
            Path(copy).mkdir(parents=True, exist_ok=True)
            replace_file(Path(copy) / self.path.name, text)

    def finish(self) -> int:
        """Print the steps of this run and the file's path; return the exit code, 1 if one of these steps failed."""
        self.save()
        steps = self.data["steps"]
        for name in self.ran:
            step, why = steps[name], str(steps[name].get("why", ""))[:120]
            print(f"{name:24} {step['status']:10} {step['seconds']:6.0f} s  {why}".rstrip())
        print(f"result: {self.path}")
        return 1 if any(steps[name]["status"] in ("failed", "timed out") for name in self.ran) else 0


def replace_file(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` at once: whoever reads it, or kills this process, finds all of the old or the new."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def dumps(value: Any, indent: int = 0) -> str:
    """JSON with a line for each row of numbers. One line for all, or a line for each number, nobody could read."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if not any(isinstance(v, dict) or (isinstance(v, list) and any(isinstance(w, dict) for w in v)) for v in inner):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    space = " " * (indent + 1)
    if isinstance(value, dict):
        parts = [f"{space}{json.dumps(str(k), ensure_ascii=False)}: {dumps(v, indent + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(parts) + "\n" + " " * indent + "}"
    return "[\n" + ",\n".join(space + dumps(v, indent + 1) for v in value) + "\n" + " " * indent + "]"


# ---- shortened results ----


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """A row for each case and precision, with its worst measurement; every measurement that failed."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in found["rows"]:
        groups.setdefault((row["case"], row["precision"]), []).append(row)

    def severity(row: dict[str, Any]) -> float:
        value = float(row["value"])
        if row["allowed"] == 0:
            return 0.0 if value == 0 else float("inf")
        return value / row["allowed"] if value == value else float("inf")

    table = []
    for (case, precision), rows in groups.items():
        worst = max(rows, key=severity)
        table.append(
            {
                "case": case,
                "precision": precision,
                "measurements": len(rows),
                "failed": sum(not row["passed"] for row in rows),
                "worst": worst["what"],
                "value": worst["value"],
                "allowed": worst["allowed"],
            }
        )
    return {
        "measurements": len(found["rows"]),
        "failed": found["failed"],
        "failures": [row for row in found["rows"] if not row["passed"]],
        "left_out": found["left_out"],
        **({"recomputed": found["recomputed"]} if "recomputed" in found else {}),
        "kernels": found["kernels"],
        "table": table,
    }


def thinned(report: dict[str, Any]) -> dict[str, Any]:
    """A bench report with every k-th sample of a row, to four digits; its percentiles are of all samples."""
    for row in report["rows"]:
        samples = row["samples_s"]
        row["n"] = len(samples)
        step = -(-len(samples) // MAX_SAMPLES)
        for name, value in row.items():
            if isinstance(value, float):
                row[name] = float(f"{value:.5g}")
        row["samples_s"] = [float(f"{s:.4g}") for s in samples[::step]]
    return report


# ---- the machine ----


def find_gpu() -> dict[str, str] | None:
    """Name, driver and compute capability of the first GPU that nvidia-smi lists; None without one."""
    fields = ("name", "driver_version", "compute_cap")
    lines = output(["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]).splitlines()
    values = [value.strip() for value in lines[0].split(",")] if lines else []
    return dict(zip(fields, values, strict=True)) if len(values) == len(fields) else None


def output(command: list[str]) -> str:
    """The output of a short command; "" if it fails or is not installed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=REPOSITORY, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def machine(gpu: dict[str, str]) -> dict[str, Any]:
    """The GPU and its driver, and CUDA, commit, packages and time."""
    from importlib import metadata

    packages = {}
    for name in ("numpy", "numba", "torch", "torchaudio", "jax", "cupy-cuda13x", "cupy-cuda12x"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "gpu": gpu,
        "nvcc": output([tool("nvcc") or "nvcc", "--version"]).rpartition("\n")[2],
        "python": sys.version.split()[0],
        "packages": packages,
        "commit": os.environ.get("FCNTAG_COMMIT") or output(["git", "describe", "--always", "--dirty"]),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def tool(name: str) -> str | None:
    """A program of the CUDA toolkit: on PATH, beside CUDACXX, or where the toolkit is installed by default."""
    found = shutil.which(name)
    if found is None:
        homes = [Path(os.environ["CUDACXX"]).parent] if "CUDACXX" in os.environ else []
        homes.append(Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin")
        found = next((str(home / name) for home in homes if (home / name).exists()), None)
    return found
