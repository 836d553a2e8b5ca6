"""Steps that benchmarks/gpu_check.sh has in all its parts: a process with a limit, the modules, a sanitizer's run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu.record import REPOSITORY, Record, tool

# The folder that gets the compiled modules.
PACKAGE = REPOSITORY / "fcntag"
SCRIPTS = REPOSITORY / "benchmarks" / "gpu"
# The tools of compute-sanitizer, in the order in which they run: the slowest gets the time that is left.
SANITIZERS = ("memcheck", "synccheck", "initcheck", "racecheck")
# compute-sanitizer's exit code where it found errors; the program itself never ends with it.
SANITIZER_EXIT = 86
# The record of a failed step keeps so many of its last lines.
TAIL_LINES = 40

# What a process finds: the modules, the GPU, and numba, which refuses to be imported beside a NumPy that it does not
# know. Each is "" or the reason why not.
_PROBE = """
import json
found = {}
def attempt(name, call):
    try:
        found[name] = call() or ""
    except BaseException as error:
        found[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
def numba():
    import numba
def modules():
    from fcntag import _C, _cuda
def gpu():
    from fcntag.engine import cuda_core
    return cuda_core.unavailable()
for call in (numba, modules, gpu):
    attempt(call.__name__, call)
print(json.dumps(found))
"""


# ---- processes ----


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start a command in a session of its own, with the checkout on its PYTHONPATH and its outputs in one pipe."""
    print("$ " + shlex.join(command).partition("\n")[0], flush=True)
    paths = [str(REPOSITORY), str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment},
        cwd=REPOSITORY,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    """End a process of ``start`` with all its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its session has its children, and nobody else's


def run(command: list[str], seconds: float, **environment: str) -> tuple[int | None, str, float]:
    """Run a command to its end, but no longer than ``seconds``, and show its output as it comes.

    Returns its exit code, or None if it was stopped; its output; and the seconds that it took.
    """
    begun = time.monotonic()
    stopped, started = threading.Event(), []

    def stop() -> None:
        stopped.set()
        kill(started[0])

    timer = threading.Timer(max(1.0, seconds), stop)
    lines: list[str] = []
    try:
        with undisturbed():
            started.append(start(command, **environment))
        timer.start()
        (process,) = started
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
        code: int | None = process.wait()
    except BaseException:  # this program is being ended, and leaves nobody on the GPU
        for process in started:
            kill(process)
        raise
    finally:
        timer.cancel()
    return (None if stopped.is_set() else code), "".join(lines), time.monotonic() - begun


class Background:
    """A process that runs beside the steps. Its output is kept, and not shown."""

    def __init__(self, command: list[str], **environment: str) -> None:
        self.begun = time.monotonic()
        with undisturbed():
            self.process = start(command, **environment)
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            self._lines.extend(lines)

    def end(self, seconds: float) -> tuple[int | None, str, float]:
        """Wait for its end, but no longer than ``seconds``; exit code (None: it was stopped), output, seconds."""
        code: int | None
        try:
            code = self.process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            code = None
        kill(self.process)  # its children may be there still
        self.process.wait()
        self._reader.join(5.0)
        return code, "".join(self._lines), time.monotonic() - self.begun


class _Signals:
    """Whether SIGTERM has to wait, and whether one waits."""

    held = 0
    waiting = False


@contextlib.contextmanager
def ended_politely() -> Iterator[None]:
    """Turn SIGTERM into SystemExit within the block, so that processes are ended and the JSON stays whole."""

    def leave(*_: object) -> None:
        _Signals.waiting = _Signals.held > 0
        if not _Signals.waiting:
            raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Have SIGTERM wait for the block's end: a process that has been started must be known to those who end it."""
    _Signals.held += 1
    try:
        yield
    finally:
        _Signals.held -= 1
    if _Signals.waiting and not _Signals.held:
        _Signals.waiting = False
        raise SystemExit(143)


def status_of(code: int | None) -> str:
    """The status of a step whose process ended with ``code``, or was stopped."""
    return "timed out" if code is None else "passed" if code == 0 else "failed"


def tail(text: str) -> list[str]:
    """The last lines of a step's output."""
    return text.splitlines()[-TAIL_LINES:]


def read(path: Path) -> Any:
    """A JSON file that another process wrote; None if it is not there or half written."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


# ---- the modules ----


def configure(folder: Path, target: Path, archs: str, cmake_dir: str) -> list[str]:
    """CMake's command for a build in ``folder`` of modules for this interpreter, which it puts into ``target``."""
    return [
        "cmake",
        "-S",
        str(REPOSITORY),
        "-B",
        str(folder),
        *(["-G", "Ninja"] if shutil.which("ninja") and not (folder / "CMakeCache.txt").exists() else []),
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={cmake_dir}",
        "-DFCNTAG_CUDA=1",
        f"-DFCNTAG_CUDA_ARCHS={archs.replace(',', ';')}",
    ]


def compile_modules(target: Path, archs: str, jobs: int, deadline: float) -> tuple[int | None, str, float]:
    """Compile ``_C`` and ``_cuda`` into ``target``, as ``run`` does. CMake builds only the files that have changed."""
    try:
        import pybind11
    except ImportError:
        return 1, "pybind11 is not installed for this python3\n", 0.0
    folder = REPOSITORY / "build" / f"gpu-{sysconfig.get_config_var('SOABI')}-{archs.replace(',', '-')}"
    cuda = {"CUDACXX": str(tool("nvcc"))} if tool("nvcc") and "CUDACXX" not in os.environ else {}
    command = configure(folder, target, archs, pybind11.get_cmake_dir())
    code, text, seconds = run(command, deadline - time.monotonic(), **cuda)
    if code == 0:
        command = ["cmake", "--build", str(folder), "--parallel", str(jobs)]
        code, text, more = run(command, deadline - time.monotonic(), **cuda)
        seconds += more
    return code, text, seconds


def build(record: Record, gpu: dict[str, str], deadline: float) -> bool:
    """Build ``_C`` and ``_cuda`` into the source tree, for this GPU alone; True if both are there."""
    archs = os.environ.get("FCNTAG_CUDA_ARCHS") or architecture(gpu["compute_cap"])
    code, text, seconds = compile_modules(PACKAGE, archs, record.data["machine"]["cpus"], deadline)
    record.add("build", status_of(code), seconds, architectures=archs, tail=[] if code == 0 else tail(text))
    return code == 0


def architecture(capability: str) -> str:
    """nvcc's name of a compute capability. "9.0" is 90a, which has instructions that later GPUs lack."""
    number = capability.replace(".", "")
    return f"{number}a" if number == "90" else number


def module_names() -> tuple[str, str]:
    """File names of the two modules for this interpreter."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return f"_C{suffix}", f"_cuda{suffix}"


def sources_digest() -> str:
    """16 hexadecimal digits of everything that the modules are compiled from."""
    found = hashlib.sha256()
    for path in sorted([REPOSITORY / "CMakeLists.txt", *(p for p in (REPOSITORY / "csrc").rglob("*") if p.is_file())]):
        if "__pycache__" not in path.parts:
            found.update(f"{path.relative_to(REPOSITORY)}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def prebuilt(folder: Path, gpu: dict[str, str]) -> str:
    """Copy the modules of prebuild.py's ``folder`` into the package; why it was not done, or "" if it was."""
    about = read(folder / "build.json")
    if not isinstance(about, dict):
        return f"{folder}: no build.json of benchmarks/gpu/prebuild.sh"
    names = module_names()
    if missing := [name for name in names if not (folder / name).is_file()]:
        return f"{folder}: no {', '.join(missing)}: built for Python {about.get('python')}"
    if about.get("sources") != sources_digest():
        return f"{folder}: built of other sources ({about.get('commit') or 'no commit'})"
    archs = str(about.get("architectures", "")).split(",")
    if architecture(gpu["compute_cap"]) not in archs:
        return f"{folder}: built for {', '.join(archs)}, and this GPU is {architecture(gpu['compute_cap'])}"
    for name in names:
        shutil.copyfile(folder / name, PACKAGE / name)
    return ""


def probe(seconds: float) -> dict[str, str]:
    """Why numba, the modules, and the GPU by them cannot be used, "" each if they can."""
    code, text, _ = run([sys.executable, "-c", _PROBE], seconds)
    lines = text.strip().splitlines()
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        why = "timed out" if code is None else f"the probe ended with exit code {code}"
        return dict.fromkeys(("numba", "modules", "gpu"), why)
    return {str(name): str(value) for name, value in found.items()}


# ---- verdicts ----


def sanitize(record: Record, kind: str, seconds: float) -> None:
    """Run a tool of compute-sanitizer on every kind of kernel, and record its verdict."""
    program = tool("compute-sanitizer")
    if program is None:
        record.add(kind, "not run", 0.0, why="compute-sanitizer is not installed")
        return
    command = [program, "--tool", kind, "--error-exitcode", str(SANITIZER_EXIT), "--print-limit", "20"]
    code, text, taken = run([*command, sys.executable, str(SCRIPTS / "correctness.py"), "--once"], seconds)
    verdict, why = sanitizer_verdict(code, text)
    record.add(kind, verdict, taken, why=why, tail=[] if verdict == "passed" else tail(text))


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


def bench_verdict(code: int | None, report: Any) -> tuple[str, str]:
    """Status and reason for a run of ``fcntag bench``.

    A peer that does not run, or computes something else, is named in the reason: it is no failure of fcntag's.
    """
    if code is None:
        return "timed out", "what was measured by then is here" if report else "nothing was measured by then"
    refused = report["refused"] if report else []
    peers = [line for line in refused if re.match(r"([a-z-]+ on |the library's )", line)]
    if code == 0 or (code == 1 and peers and len(peers) == len(refused)):
        return "passed", "; ".join(peers)
    return "failed", "; ".join(refused)
