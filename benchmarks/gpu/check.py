"""The steps of benchmarks/gpu_check.sh: build, correctness, compute-sanitizer, benchmark.

Each step is a process of its own with a time limit, so that a step that crashes or hangs leaves the others and the
JSON alone. The JSON is written after every step.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpu.record import REPOSITORY, Record, find_gpu, summary, thinned, tool

RESULTS = REPOSITORY / "benchmarks" / "results"
# The tools of compute-sanitizer, in the order in which they run: the slowest gets the time that is left.
SANITIZERS = ("memcheck", "synccheck", "initcheck", "racecheck")
# compute-sanitizer's exit code where it found errors; the program itself never ends with it.
SANITIZER_EXIT = 86
MODELS = "fcn4,mtt-vgg,fcn5-narrow,fcn5"
# The record of a failed step keeps so many of its last lines.
TAIL_LINES = 40


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0 if every step passed, 1 if one failed, 4 without a GPU."""
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


# ---- steps ----


def run(command: list[str], seconds: float, **environment: str) -> tuple[int | None, str, float]:
    """Run a command to its end, but no longer than ``seconds``, and show its output as it comes.

    Returns its exit code, or None if it was stopped; its output; and the seconds that it took.
    """
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
        os.killpg(process.pid, signal.SIGKILL)  # its session has its children, and nobody else's

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
    """The status of a step whose process ended with ``code``, or was stopped."""
    return "timed out" if code is None else "passed" if code == 0 else "failed"


def tail(text: str) -> list[str]:
    """The last lines of a step's output."""
    return text.splitlines()[-TAIL_LINES:]


def build(record: Record, gpu: dict[str, str], deadline: float) -> bool:
    """Build ``_C`` and ``_cuda`` into the source tree, for this GPU alone; True if both are there.

    CMake builds again only the files that have changed.
    """
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
    """nvcc's name of a compute capability. "9.0" is 90a, which has instructions that later GPUs lack."""
    number = capability.replace(".", "")
    return f"{number}a" if number == "90" else number


def check(record: Record, arguments: argparse.Namespace, deadline: float) -> None:
    """Run the correctness check, and then the sanitizers, which share the time that it leaves."""
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
    """Status and reason for a run of compute-sanitizer.

    The summary that it prints decides, and the program that it watched must have come to its end.
    """
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


def bench(record: Record, arguments: argparse.Namespace, deadline: float) -> None:
    """Time fcntag alone in every precision and batch, then beside its peers.

    The peers that search for their kernels for minutes come last.
    """
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
            # The bench begins no group after its own limit, and has the rest of the time to end the last one.
            command += ["--minutes", f"{max(0.3, 0.85 * left / 60):.2f}", "--json", str(path)]
            code, text, seconds = run(command, left)
            report = read(path)
        if report:
            record.data.setdefault("benchmark", {})[name.removeprefix("bench ")] = thinned(report)
        status, why = bench_verdict(code, report)
        record.add(name, status, seconds, why=why, tail=[] if status == "passed" else tail(text))


def bench_verdict(code: int | None, report: Any) -> tuple[str, str]:
    """Status and reason for a run of ``fcntag bench``.

    A peer that does not run, or computes something else, is named in the reason: it is no failure of fcntag's.
    """
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


if __name__ == "__main__":
    sys.exit(main())
