"""What benchmarks/gpu_check.sh does, step by step: build, correctness, compute-sanitizer, benchmark, one JSON.

Each step is a process of its own with a time limit; what one of them does to the GPU or to itself leaves the others and
the JSON alone. The JSON is written after every step.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
FORMAT = 1
SANITIZERS = ("memcheck", "synccheck", "initcheck", "racecheck")  # the slowest last
SANITIZER_EXIT = 86
MODELS = "fcn4,mtt-vgg,fcn5-narrow,fcn5"
TAIL_LINES = 40
MAX_SAMPLES = 25  # of a row that the JSON keeps; the percentiles are those of all


def main(argv: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(
        prog="gpu_check.sh", description="Build, check and time fcntag on this machine's GPU."
    )
    options.add_argument("parts", nargs="*", metavar="PART", help="check, bench (default: both)")
    options.add_argument("--minutes", type=float, default=9.0, metavar="M", help="for each part (default: 9)")
    options.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="default: benchmarks/results")
    options.add_argument("--models", default=MODELS, help=f"of the benchmark (default: {MODELS})")
    options.add_argument("--batch", default="1,8,64,256", help="of fcntag alone (default: 1,8,64,256)")
    options.add_argument("--precision", default="bfloat16,float32,tf32,float16", help="of fcntag alone (default: all)")
    options.add_argument("--beside-batch", default="1,64", help="beside peers (default: 1,64)")
    options.add_argument("--beside-precision", default="bfloat16,float32", help="beside peers (default: these)")
    options.add_argument("--peers", default="torch,torch-graph,jax,torchaudio,torchaudio-graph,torch-compile")
    arguments = options.parse_args(argv)
    for part in arguments.parts:
        if part not in ("check", "bench"):
            options.error(f"{part!r} is not one of check, bench")
    gpu = find_gpu()
    if gpu is None:
        print("gpu_check: no NVIDIA GPU found: nvidia-smi is missing or lists none", file=sys.stderr)
        return 4
    record = Record(arguments.results, gpu)
    deadline = time.monotonic() + 60 * arguments.minutes
    if build(record, gpu, deadline):
        for part in arguments.parts or ["check", "bench"]:
            (check if part == "check" else bench)(record, arguments, deadline)
            deadline = time.monotonic() + 60 * arguments.minutes
    return record.finish()


# ---- the record ----


class Record:
    """The JSON: what is known so far. A run on the same GPU and day adds its steps to what is there."""

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
        """A step: "passed", "failed", "timed out", or "not run" where something it needs is missing."""
        self.ran.append(name)
        self.data["steps"][name] = {"status": status, "seconds": round(seconds, 1), **more}
        print(f"== {name}: {status}, {seconds:.0f} s", flush=True)
        self.save()

    def save(self) -> None:
        text = dumps(self.data) + "\n"
        self.path.write_text(text, encoding="utf-8")
        copy = os.environ.get("FCNTAG_RESULTS_DIR")
        if copy and Path(copy).resolve() != self.path.parent.resolve():
            Path(copy).mkdir(parents=True, exist_ok=True)
            (Path(copy) / self.path.name).write_text(text, encoding="utf-8")

    def finish(self) -> int:
        """Print where it is and how it went; the exit code, of the steps of this run."""
        self.save()
        steps = self.data["steps"]
        for name in self.ran:
            print(f"{name:24} {steps[name]['status']:10} {steps[name]['seconds']:6.0f} s")
        print(f"result: {self.path}")
        return 1 if any(steps[name]["status"] in ("failed", "timed out") for name in self.ran) else 0


def dumps(value: Any, indent: int = 0) -> str:
    """JSON with a line for each row of numbers: neither one line of megabytes nor a line a number."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if not any(isinstance(v, dict) or (isinstance(v, list) and any(isinstance(w, dict) for w in v)) for v in inner):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    space = " " * (indent + 1)
    if isinstance(value, dict):
        parts = [f"{space}{json.dumps(str(k), ensure_ascii=False)}: {dumps(v, indent + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(parts) + "\n" + " " * indent + "}"
    return "[\n" + ",\n".join(space + dumps(v, indent + 1) for v in value) + "\n" + " " * indent + "]"


# ---- the machine ----


def find_gpu() -> dict[str, str] | None:
    """Name, driver and compute capability of the first GPU that nvidia-smi lists; None without one."""
    fields = ("name", "driver_version", "compute_cap")
    lines = output(["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]).splitlines()
    values = [value.strip() for value in lines[0].split(",")] if lines else []
    return dict(zip(fields, values, strict=True)) if len(values) == len(fields) else None


def output(command: list[str]) -> str:
    """What a short command prints; "" if it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=REPOSITORY, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def machine(gpu: dict[str, str]) -> dict[str, Any]:
    """GPU, driver, CUDA, commit, packages and time."""
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


# ---- steps ----


def run(command: list[str], seconds: float, **environment: str) -> tuple[int | None, str, float]:
    """Run to the end or for ``seconds``, showing what it prints: exit code (None: it was stopped), output, time."""
    print("$ " + shlex.join(command), flush=True)
    paths = [str(REPOSITORY), str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment}
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=variables,
        cwd=REPOSITORY,
        start_new_session=True,
    )
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        os.killpg(process.pid, signal.SIGKILL)  # its own session: its children, too, and nobody else's

    timer = threading.Timer(max(1.0, seconds), stop)
    timer.start()
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
        code: int | None = process.wait()
    finally:
        timer.cancel()
    return (None if stopped.is_set() else code), "".join(lines), time.monotonic() - start


def status_of(code: int | None) -> str:
    return "timed out" if code is None else "passed" if code == 0 else "failed"


def tail(text: str) -> list[str]:
    return text.splitlines()[-TAIL_LINES:]


def build(record: Record, gpu: dict[str, str], deadline: float) -> bool:
    """_C and _cuda into the source tree, for this GPU alone; what is up to date is not built again."""
    try:
        import pybind11
    except ImportError:
        record.add("build", "failed", 0.0, tail=["pybind11 is not installed for this python3"])
        return False
    archs = os.environ.get("FCNTAG_CUDA_ARCHS") or architecture(gpu["compute_cap"])
    folder = REPOSITORY / "build" / f"gpu-{sysconfig.get_config_var('SOABI')}-{archs.replace(',', '-')}"
    configure = [
        "cmake",
        "-S",
        str(REPOSITORY),
        "-B",
        str(folder),
        *(["-G", "Ninja"] if shutil.which("ninja") and not (folder / "CMakeCache.txt").exists() else []),
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={REPOSITORY / 'fcntag'}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        "-DFCNTAG_CUDA=1",
        f"-DFCNTAG_CUDA_ARCHS={archs.replace(',', ';')}",
    ]
    cuda = {"CUDACXX": str(tool("nvcc"))} if tool("nvcc") and "CUDACXX" not in os.environ else {}
    code, text, seconds = run(configure, deadline - time.monotonic(), **cuda)
    if code == 0:
        jobs = str(record.data["machine"]["cpus"])
        command = ["cmake", "--build", str(folder), "--parallel", jobs]
        code, text, more = run(command, deadline - time.monotonic(), **cuda)
        seconds += more
    record.add("build", status_of(code), seconds, architectures=archs, tail=[] if code == 0 else tail(text))
    return code == 0


def architecture(capability: str) -> str:
    """What nvcc calls compute capability "9.0": 90a there, with the instructions that later GPUs do not have."""
    number = capability.replace(".", "")
    return f"{number}a" if number == "90" else number


def check(record: Record, arguments: argparse.Namespace, deadline: float) -> None:
    """Correctness first: sanitizers take what time is left."""
    del arguments
    script = str(REPOSITORY / "benchmarks" / "gpu" / "correctness.py")
    with tempfile.TemporaryDirectory(prefix="fcntag-gpu-") as folder:
        path = Path(folder) / "correctness.json"
        left = 0.6 * (deadline - time.monotonic())
        soft = f"{max(0.1, (left - 30) / 60):.2f}"
        code, text, seconds = run([sys.executable, script, "--json", str(path), "--minutes", soft], left)
        found = read(path)
    if found:
        record.data["correctness"] = summary(found)
    record.add("correctness", status_of(code), seconds, tail=[] if code == 0 else tail(text))
    program = tool("compute-sanitizer")
    for i, kind in enumerate(SANITIZERS):
        if program is None:
            record.add(kind, "not run", 0.0, why="compute-sanitizer is not installed")
            continue
        options = [program, "--tool", kind, "--error-exitcode", str(SANITIZER_EXIT), "--print-limit", "20"]
        left = (deadline - time.monotonic()) / (len(SANITIZERS) - i)
        if left < 5:
            record.add(kind, "not run", 0.0, why="no time left")
            continue
        code, text, seconds = run([*options, sys.executable, script, "--once"], left)
        verdict, why = sanitizer_verdict(code, text)
        record.add(kind, verdict, seconds, why=why, tail=[] if verdict == "passed" else tail(text))


def sanitizer_verdict(code: int | None, text: str) -> tuple[str, str]:
    """Of one run of compute-sanitizer: its own summary decides, and the program must have come to its end."""
    if code is None:
        return "timed out", "stopped at its limit"
    found = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (\w+)", text)
    finished = re.search(r"^\d+ engines ran$", text, re.MULTILINE) is not None
    if found and any(int(count) for count, _ in found):
        return "failed", ", ".join(f"{count} {what}" for count, what in found)
    if code == SANITIZER_EXIT:
        return "failed", "errors"
    if found and finished and code == 0:
        return "passed", ", ".join(f"{count} {what}" for count, what in found)
    refused = re.search(r".*(?:not supported|Unable to|cannot|Failed to).*", text, re.IGNORECASE)
    if not finished and refused:
        return "not run", refused.group(0).strip()[:200]
    return "failed", f"exit code {code} without a summary"


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """A row for each case and precision with its worst measurement; what failed in full."""
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
        "kernels": found["kernels"],
        "table": table,
    }


def bench(record: Record, arguments: argparse.Namespace, deadline: float) -> None:
    """fcntag alone in every precision and batch, then beside its peers, then beside those that search for minutes."""
    quick = ",".join(name for name in arguments.peers.split(",") if name != "torch-compile") or "none"
    slow = "torch-compile" if "torch-compile" in arguments.peers.split(",") else ""
    alone = ["-b", arguments.batch, "--precision", arguments.precision, "--peers", "none", "--seconds", "0.5"]
    beside = ["-b", arguments.beside_batch, "--precision", arguments.beside_precision, "--peers-reduced", "--no-cold"]
    parts = [("bench alone", alone, 0.35), ("bench beside", [*beside, "--seconds", "1", "--peers", quick], 0.7)]
    if slow:
        precision = arguments.beside_precision.split(",")[0]
        options = ["-b", arguments.beside_batch, "--precision", precision, "--no-cold", "--seconds", "1"]
        parts.append(("bench compiled", [*options, "--peers", slow], 1.0))
    for name, options, share in parts:
        left = share * (deadline - time.monotonic())
        if left < 30:
            record.add(name, "not run", 0.0, why="no time left")
            continue
        with tempfile.TemporaryDirectory(prefix="fcntag-gpu-") as folder:
            path = Path(folder) / "bench.json"
            command = [sys.executable, "-m", "fcntag", "bench", "--device", "cuda", "-m", arguments.models, *options]
            # It begins nothing new after its own limit; what it is at then has some time to end.
            command += ["--minutes", f"{max(0.3, 0.85 * left / 60):.2f}", "--json", str(path)]
            code, text, seconds = run(command, left)
            report = read(path)
        if report:
            record.data.setdefault("benchmark", {})[name.removeprefix("bench ")] = thinned(report)
        status, why = bench_verdict(code, report)
        record.add(name, status, seconds, why=why, tail=[] if status == "passed" else tail(text))


def bench_verdict(code: int | None, report: Any) -> tuple[str, str]:
    """A peer that does not run or computes something else is told, and no failure of fcntag's."""
    if code is None:
        return "timed out", "what was measured by then is here" if report else "nothing was measured by then"
    refused = report["refused"] if report else []
    peers = [line for line in refused if re.match(r"[a-z-]+ on ", line)]
    if code == 0 or (code == 1 and peers and len(peers) == len(refused)):
        return "passed", "; ".join(peers)
    return "failed", "; ".join(refused)


def read(path: Path) -> Any:
    """A JSON file that another process wrote; None if it is not there or half written."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


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


if __name__ == "__main__":
    sys.exit(main())
