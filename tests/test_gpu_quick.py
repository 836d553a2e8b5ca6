"""``benchmarks/gpu_check.sh quick`` without a GPU: its schedule by a stand-in clock, and each step by stand-ins."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from support.make_models import block, make_model

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from gpu import check, compile_ahead, counters, prebuild, quick, record, steps, timings, turns

from fcntag.bench.cuda import gpu as bench_gpu
from fcntag.bench.cuda import group, measure, peers
from fcntag.bench.peers import PeerEntry
from fcntag.engine import create_engine
from fcntag.model.file import write_model

BENCHMARKS = Path(check.__file__).resolve().parent.parent
GPU = {"name": "NVIDIA H100 80GB HBM3", "driver_version": "580.1", "compute_cap": "9.0"}
FOUND = {"numba": "", "modules": "", "gpu": ""}
NAMES = [step.name for step in quick.SCHEDULE]


class Machine:
    """A clock, and processes that take the seconds that ``cost`` says of their step, or are stopped at their limit.

    Attributes
    ----------
    log : of every process its name, its limit, and its command
    fails : names of steps that end with exit code 1
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.cost: Callable[[str], float] = lambda name: 1.0
        self.fails: dict[str, Any] = {}
        self.found = dict(FOUND)
        self.log: list[tuple[str, float, list[str]]] = []
        self.environments: dict[str, dict[str, str]] = {}
        monkeypatch.setattr(quick, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(steps, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(check, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(steps, "run", self.run)
        monkeypatch.setattr(steps, "tool", lambda name: f"/toolkit/{name}")
        monkeypatch.setattr(quick, "tool", lambda name: f"/toolkit/{name}")
        machine = self

        class Compiler:
            def __init__(self, command: list[str], **environment: str) -> None:
                self.command, self.begun = command, machine.now
                machine.log.append(("compile ahead", 0.0, command))
                machine.environments["compile ahead"] = environment

            def end(self, seconds: float) -> tuple[int | None, str, float]:
                left = self.begun + machine.cost("compile ahead") - machine.now
                machine.now += min(max(left, 0.0), seconds)
                done = "fcn4, batch 64: 31.2 s\n"
                return (None if left > seconds else 0), done, machine.now - self.begun

        monkeypatch.setattr(steps, "Background", Compiler)
        metadata = record.machine

        def with_torch(gpu: dict[str, str]) -> dict[str, Any]:
            found = metadata(gpu)
            return {**found, "packages": {**found["packages"], "torch": "2.11"}}

        monkeypatch.setattr(record, "machine", with_torch)

    def run(self, command: list[str], seconds: float, **environment: str) -> tuple[int | None, str, float]:
        assert seconds > 0
        name = self.name(command)
        self.log.append((name, seconds, command))
        self.environments[name] = environment
        taken = min(self.cost(name), seconds)
        self.now += taken
        code = None if self.cost(name) > seconds else 1 if name in self.fails else 0
        if "--json" in command and self.cost(name) <= seconds:
            rows = self.fails.get(name) or []
            data = {"rows": rows, "failed": len(rows), "left_out": [], "kernels": [], "refused": [], "warnings": []}
            Path(command[command.index("--json") + 1]).write_text(json.dumps(data))
        text = "3 engines ran\n========= ERROR SUMMARY: 0 errors\n"
        if name == "probe":
            text = json.dumps(self.found) + "\n"
        if name == "counters":
            text = NCU
        return code, text, taken

    @staticmethod
    def name(command: list[str]) -> str:
        """The step that runs ``command``."""
        if command[1] == "-c":
            return "probe"
        if command[0] == "cmake":
            return "build"
        if command[0].endswith("compute-sanitizer"):
            return command[command.index("--tool") + 1]
        if command[0].endswith("ncu"):
            return "counters"
        return Path(command[command.index("--json") + 1]).stem


_COLUMNS = {
    "ID": ("", "0", "1", "2"),
    "Process ID": ("", "7", "7", "7"),
    "Kernel Name": ("", "conv_first_float16<8>(P)", "conv_block<B, 320>(P)", "conv_block<B, 320>(P)"),
    "Grid Size": ("", "(36864, 1, 1)", "(9900, 1, 1)", "(792, 1, 1)"),
    "Block Size": ("", "(128, 1, 1)", "(256, 1, 1)", "(256, 1, 1)"),
    "gpu__time_duration.sum": ("ns", "310,400", "2,956,128.5", "n/a"),
    "sm__inst_executed_pipe_tensor.avg.pct": ("%", "12.5", "47.1", "44"),
    "smsp__average_warps_issue_stalled_barrier.pct": ("%", "3.25", "21.5", "20"),
    "launch__registers_per_thread": ("register/thread", "80", "249", "249"),
    "dram__bytes.sum": ("byte", "1", "2", "3"),
}
_TABLE = [tuple(_COLUMNS), *zip(*_COLUMNS.values(), strict=True)]
# What ncu prints: its own lines, the program's, and a table with a line of units.
NCU = "\n".join(
    [
        "==PROF== Connected to process 7",
        "2 engines ran",
        "==PROF== Disconnected from process 7",
        *(",".join(f'"{cell}"' for cell in row) for row in _TABLE),
        "",
    ]
)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A GPU in name, and a clock of the test's own."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(f'#!/bin/sh\necho "{", ".join(GPU.values())}"\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{smi.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FCNTAG_COMMIT", "abc")
    monkeypatch.setattr(steps, "PACKAGE", tmp_path / "package")
    (tmp_path / "package").mkdir()
    return Machine(monkeypatch)


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """A folder of modules that were built beforehand."""
    folder = tmp_path / "prebuilt"
    folder.mkdir()
    for name in steps.module_names():
        (folder / name).write_bytes(name.encode())
    about = {"python": "3.12.3", "architectures": "80,90a", "commit": "def", "sources": steps.sources_digest()}
    (folder / "build.json").write_text(json.dumps(about))
    return folder


def run_quick(tmp_path: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of the command."""
    code = check.main(["quick", "--results", str(tmp_path / "results"), *options])
    (path,) = (tmp_path / "results").glob("*.json")
    return code, json.loads(path.read_text())


# ---- the whole command ----


def test_every_step_is_run_in_order_and_recorded(
    machine: Machine, modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FCNTAG_RESULTS_DIR", str(tmp_path / "copy"))
    code, data = run_quick(tmp_path, "--prebuilt", str(modules))
    assert code == 0
    assert [name for name, _, _ in machine.log] == ["probe", "compile ahead", *NAMES]
    order = ["prebuilt", "imports", *NAMES]
    order.insert(order.index("peers"), "compile ahead")  # it ends before anything is timed beside its networks
    assert list(data["steps"]) == order
    assert {step["status"] for step in data["steps"].values()} == {"passed"}
    assert {step["commit"] for step in data["steps"].values()} == {"abc"}
    assert data["quick"]["dropped"] == {}
    assert set(data["benchmark"]) == {"quick timings", "quick peers", "quick other timings"}
    assert data["steps"]["compile ahead"]["compiled"] == ["fcn4, batch 64: 31.2 s"]
    assert data["counters"]["largest"] == 1
    assert {path.name for path in steps.PACKAGE.iterdir()} == set(steps.module_names())
    (copied,) = (tmp_path / "copy").iterdir()
    assert json.loads(copied.read_text()) == data
    # The bench finds what the compiler left.
    assert machine.environments["compile ahead"] == machine.environments["peers"]
    assert set(machine.environments["peers"]) == {"TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"}
    limits = {name: seconds for name, seconds, _ in machine.log}
    assert all(limits[step.name] <= step.most for step in quick.SCHEDULE)


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("compiler", [60.0, 1e9])
def test_the_whole_is_never_longer_than_its_limit(
    built: bool, compiler: float, machine: Machine, modules: Path, tmp_path: Path
) -> None:
    """Every process takes all that it may. What matters gets its time, and what goes first is what matters least."""
    begun = machine.now
    machine.cost = lambda name: {"probe": 8.0, "build": 45.0, "compile ahead": compiler}.get(name, 1e9)
    machine.cost = (lambda cost: lambda name: 20.0 if name == "smoke" else cost(name))(machine.cost)
    options = ["--prebuilt", str(modules)] if built else []
    code, data = run_quick(tmp_path, *options)
    assert code == 1  # everything timed out
    assert machine.now - begun <= quick.SECONDS
    dropped = list(data["quick"]["dropped"])
    assert dropped == [name for name in NAMES if data["steps"][name]["status"] == "not run"]
    ran = [step for step in quick.SCHEDULE if step.name not in dropped]
    assert max(step.value for step in ran) < min(step.value for step in quick.SCHEDULE if step.name in dropped)
    assert {"smoke", "timings", "peers", "correctness", "memcheck"} <= {step.name for step in ran}
    assert all("s left, it needs" in why for why in data["quick"]["dropped"].values())
    assert data["steps"]["initcheck"]["why"] == data["quick"]["dropped"]["initcheck"]


def test_time_is_kept_for_what_is_more_valuable(machine: Machine, modules: Path, tmp_path: Path) -> None:
    """With 180 seconds: correctness, which comes first, leaves the peers what they need, and says so."""
    machine.cost = lambda name: {"smoke": 20.0, "probe": 8.0}.get(name, 1e9)
    _, data = run_quick(tmp_path, "--prebuilt", str(modules), "--seconds", "180")
    ran = [name for name in NAMES if data["steps"][name]["status"] != "not run"]
    assert ran == ["smoke", "timings", "peers"]
    assert "45 are kept for peers" in data["quick"]["dropped"]["correctness"]
    assert machine.now <= 1000.0 + 180


def test_wrong_scores_stop_it_early(machine: Machine, modules: Path, tmp_path: Path) -> None:
    row = {"case": "fcn4, from waves", "precision": "bfloat16", "what": "scores, maximum", "value": 0.5}
    machine.fails["smoke"] = [{**row, "allowed": 0.01, "passed": False}]
    code, data = run_quick(tmp_path, "--prebuilt", str(modules))
    assert code == 1
    assert [name for name, _, _ in machine.log] == ["probe", "compile ahead", "smoke"]
    assert data["quick"]["stopped"] == "smoke: fcn4, from waves, bfloat16: scores, maximum 0.5, allowed 0.01"
    assert data["smoke"]["failures"][0]["value"] == 0.5
    assert "timings" not in data["steps"]


def test_a_smoke_test_that_hangs_stops_it_too(machine: Machine, modules: Path, tmp_path: Path) -> None:
    machine.cost = lambda name: 1e9 if name == "smoke" else 1.0
    code, data = run_quick(tmp_path, "--prebuilt", str(modules))
    assert (code, data["quick"]["stopped"]) == (1, "smoke: timed out")


@pytest.mark.parametrize(
    ("found", "code", "why"),
    [
        ({"numba": "ImportError: Numba needs NumPy 2.4 or less. Got NumPy 2.5."}, 0, None),
        ({"gpu": "the driver is too old"}, 1, "the driver is too old"),
    ],
)
def test_what_cannot_be_imported_is_told_in_a_line(
    found: dict[str, str],
    code: int,
    why: str | None,
    machine: Machine,
    modules: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine.found.update(found)
    ended, data = run_quick(tmp_path, "--prebuilt", str(modules))
    assert (ended, data["quick"].get("stopped")) == (code, why)
    (reason,) = found.values()
    assert data["steps"]["imports"]["why"] == reason
    if code == 0:
        assert f"numba cannot be imported ({reason})" in capsys.readouterr().out


def test_a_compiler_that_fails_is_no_failure_of_ours(
    machine: Machine, modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps.Background, "end", lambda self, seconds: (1, "Traceback\nRuntimeError: no Triton\n", 3.0))
    code, data = run_quick(tmp_path, "--prebuilt", str(modules))
    assert code == 0
    step = data["steps"]["compile ahead"]
    assert (step["status"], step["why"], step["compiled"]) == ("not run", "RuntimeError: no Triton", [])


def test_without_pytorch_the_rest_goes_on(
    machine: Machine, modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = {"torch": "not installed"}
    monkeypatch.setattr(record, "machine", lambda gpu: {"packages": packages, "commit": "", "cpus": 2, "gpu": gpu})
    code, data = run_quick(tmp_path, "--prebuilt", str(modules))
    assert code == 0
    not_run = [name for name, step in data["steps"].items() if step["status"] == "not run"]
    assert not_run == ["compile ahead", "peers"]
    assert data["steps"]["peers"]["why"] == "PyTorch is not installed"


def test_without_the_tools_the_rest_goes_on(
    machine: Machine, modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "tool", lambda name: None)
    monkeypatch.setattr(quick, "tool", lambda name: None)
    code, data = run_quick(tmp_path, "--prebuilt", str(modules))
    assert code == 0
    assert {name for name, step in data["steps"].items() if step["status"] == "not run"} == {
        *("memcheck", "racecheck", "synccheck", "initcheck", "counters")
    }


def test_quick_goes_alone(capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["quick", "bench"], ["quick", "--seconds", "5"]):
        with pytest.raises(SystemExit):
            check.main(options)
    assert "allowed: 60 to 3600" in capsys.readouterr().err


def test_the_command_without_modules(tmp_path: Path) -> None:
    """As a process: nvidia-smi and CMake are stand-ins, and the build fails."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("nvidia-smi", f'echo "{", ".join(GPU.values())}"'), ("cmake", "echo no compiler; exit 1")):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    environment = {**os.environ, "PYTHON": sys.executable, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    environment["FCNTAG_RESULTS_DIR"] = str(tmp_path / "copy")
    environment.pop("FCNTAG_COMMIT", None)
    command = [str(BENCHMARKS / "gpu_check.sh"), "quick", "--results", str(tmp_path / "results")]
    command += ["--prebuilt", str(tmp_path / "nothing")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1, done.stderr
    (path,) = (tmp_path / "copy").iterdir()
    data = json.loads(path.read_text())
    assert data["steps"]["prebuilt"]["why"].endswith("no build.json of benchmarks/gpu/prebuild.sh")
    assert (data["steps"]["build"]["status"], data["steps"]["build"]["tail"]) == ("failed", ["no compiler"])
    assert data["quick"]["stopped"] == "there are no modules"


def test_the_documents_schedule_is_the_schedule() -> None:
    """A row of benchmarks/README.md may name two steps, which then share what is the same."""
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d, ]+) \| ([^|]*) \| ([\d, and]+) \|", text, re.MULTILINE)
    found = {}
    for values, names, seconds in rows:
        named = re.findall(r"`([^`]+)`", names)
        value, (*least, most) = [int(v) for v in values.split(", ")], [float(n) for n in re.findall(r"\d+", seconds)]
        for i, name in enumerate(named):
            found[name] = (value[i], least[min(i, len(least) - 1)], most)
    assert found == {step.name: (step.value, step.least, step.most) for step in quick.SCHEDULE}
    assert list(found) == NAMES


# ---- modules that were built beforehand ----


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda folder, about: (folder / "build.json").unlink(), "no build.json"),
        (lambda folder, about: (folder / steps.module_names()[1]).unlink(), "built for Python 3.12.3"),
        (lambda folder, about: about.update(sources="0" * 16), "built of other sources (def)"),
        (lambda folder, about: about.update(architectures="80,120"), "built for 80, 120, and this GPU is 90a"),
    ],
)
def test_modules_that_do_not_fit_are_built(
    damage: Any, why: str, machine: Machine, modules: Path, tmp_path: Path
) -> None:
    about = json.loads((modules / "build.json").read_text())
    damage(modules, about)
    if (modules / "build.json").exists():
        (modules / "build.json").write_text(json.dumps(about))
    code, data = run_quick(tmp_path, "--prebuilt", str(modules))
    assert code == 0
    assert why in data["steps"]["prebuilt"]["why"]
    assert data["steps"]["build"]["status"] == "passed"
    assert not list(steps.PACKAGE.iterdir())


def test_modules_that_cannot_be_imported_are_built(
    machine: Machine, modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: Iterator[dict[str, str]] = iter([{**FOUND, "modules": "ImportError: GLIBC_2.38 not found"}, FOUND])
    monkeypatch.setattr(steps, "probe", lambda seconds: next(answers))
    code, data = run_quick(tmp_path, "--prebuilt", str(modules))
    assert code == 0
    assert data["steps"]["prebuilt"]["why"] == "ImportError: GLIBC_2.38 not found"
    assert data["steps"]["build"]["status"] == "passed"


def test_the_commit_is_known_without_a_repository(
    machine: Machine, modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FCNTAG_COMMIT")
    real = record.output
    monkeypatch.setattr(record, "output", lambda command: "" if command[0] == "git" else real(command))
    assert run_quick(tmp_path / "a", "--prebuilt", str(modules))[1]["machine"]["commit"] == "def"
    assert run_quick(tmp_path / "b")[1]["machine"]["commit"] == f"sources {steps.sources_digest()}"
    monkeypatch.setenv("FCNTAG_COMMIT", "abc")
    assert run_quick(tmp_path / "c", "--prebuilt", str(modules))[1]["machine"]["commit"] == "abc"


def test_the_probe_is_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    found = steps.probe(120.0)
    assert set(found) == set(FOUND)
    assert found["numba"] == ""
    monkeypatch.setattr(steps, "run", lambda command, seconds: (None, "half a li", 1.0))
    assert steps.probe(1.0) == dict.fromkeys(FOUND, "timed out")
    monkeypatch.setattr(steps, "run", lambda command, seconds: (-11, "", 1.0))
    assert steps.probe(1.0) == dict.fromkeys(FOUND, "the probe ended with exit code -11")


def test_what_is_needed_to_build_beforehand_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prebuild, "tool", lambda name: None)
    assert prebuild.main([str(tmp_path)]) == 2
    assert "no nvcc" in capsys.readouterr().err
    monkeypatch.setattr(prebuild, "tool", lambda name: "/nowhere/nvcc")
    text = "a\n  error: unsupported GNU version\nninja: build stopped\n"
    monkeypatch.setattr(steps, "compile_modules", lambda *_: (1, text, 1.0))
    assert prebuild.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith("prebuild: the build failed: error: unsupported GNU version\n")
    monkeypatch.setattr(prebuild.sysconfig, "get_path", lambda name: "/nowhere")
    assert prebuild.main([str(tmp_path)]) == 2
    assert "/nowhere/Python.h is missing" in capsys.readouterr().err
    done = subprocess.run(
        [str(BENCHMARKS / "gpu" / "prebuild.sh"), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": "/nowhere/python3.12"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        2,
        "prebuild: /nowhere/python3.12 does not run; name an interpreter with PYTHON\n",
    )


def test_modules_and_what_they_are(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What prebuild.py writes, quick takes."""
    folder = tmp_path / "made"

    def compile_modules(target: Path, archs: str, jobs: int, deadline: float) -> tuple[int, str, float]:
        for name in steps.module_names():
            (target / name).write_bytes(b"x" * 1000)
        return 0, "", 1.0

    monkeypatch.setattr(prebuild, "tool", lambda name: "/nowhere/nvcc")
    monkeypatch.setattr(prebuild, "time", SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr(steps, "compile_modules", compile_modules)
    assert prebuild.main([str(folder)]) == 0
    about = json.loads((folder / "build.json").read_text())
    assert (about["architectures"], about["commit"], about["bytes"]) == ("90a", "abc", 2000)
    assert "MiB; allowed: 64" in capsys.readouterr().out
    code, data = run_quick(tmp_path, "--prebuilt", str(folder))
    assert (code, data["modules"]) == (0, about)
    monkeypatch.setattr(prebuild, "checkout_bytes", lambda: prebuild.MOST_BYTES)
    assert prebuild.main([str(folder)]) == 1


# ---- processes and turns ----


def is_gone(pid: int) -> bool:
    """Whether a process has ended, within 20 seconds."""
    for _ in range(200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def test_a_process_beside_the_steps_is_ended_with_its_children(tmp_path: Path) -> None:
    beside = steps.Background(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/child; echo begun; wait"])
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
        assert beside.process.poll() is None
        time.sleep(0.01)
    code, text, _ = beside.end(0.0)
    assert (code, text) == (None, "begun\n")
    assert is_gone(int((tmp_path / "child").read_text()))
    assert steps.Background(["sh", "-c", "echo $WHAT; exit 3"], WHAT="x").end(60.0)[:2] == (3, "x\n")


def test_a_run_that_is_ended_leaves_nobody_on_the_gpu(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(BENCHMARKS)!r})
from gpu import steps
with steps.ended_politely():
    steps.run(["sh", "-c", "echo $$ > {tmp_path}/part; mv {tmp_path}/part {tmp_path}/child; sleep 60"], 60.0)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
    while not (tmp_path / "child").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert is_gone(int((tmp_path / "child").read_text()))


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    record.replace_file(path, "old")
    with path.open() as before:
        record.replace_file(path, "new and longer")
        assert before.read() == "old"  # whoever had begun to read it
    assert path.read_text() == "new and longer"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_turns(tmp_path: Path) -> None:
    path = tmp_path / "turns"
    with turns.turn(path) as ours:
        assert ours
        with turns.turn(path, 0.05) as theirs:
            assert not theirs
    with turns.turn(path, 0.0) as again:
        assert again


def test_whoever_takes_one_turn_after_the_other_lets_the_other_in(tmp_path: Path) -> None:
    path, stop = tmp_path / "turns", threading.Event()

    def greedy() -> None:
        while not stop.is_set():
            with turns.turn(path):
                time.sleep(0.001)

    thread = threading.Thread(target=greedy)
    thread.start()
    try:
        for _ in range(5):
            with turns.turn(path, 60.0) as ours:
                assert ours
    finally:
        stop.set()
        thread.join()


class Benchmarker:
    """Inductor's, as far as it matters: one of its methods calls another."""

    def __init__(self) -> None:
        self.trials: list[str] = []

    def benchmark(self, what: str) -> float:
        return self.benchmark_gpu(what)

    def benchmark_gpu(self, what: str) -> float:
        self.trials.append(what)
        return 1.5


def test_a_trial_waits_while_something_is_timed(tmp_path: Path) -> None:
    benchmarker, path = Benchmarker(), tmp_path / "turns"
    assert compile_ahead.trials_in_turn(benchmarker, path)
    assert benchmarker.benchmark("first") == 1.5  # one turn, though two methods ask for it
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(benchmarker.benchmark("second")))
    with turns.turn(path):
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert benchmarker.trials == ["first"]
    thread.join(60)
    assert (found, benchmarker.trials) == ([1.5], ["first", "second"])
    assert not compile_ahead.trials_in_turn(object(), path)


def test_real_inductor_has_what_the_stand_in_stands_for(tmp_path: Path) -> None:
    from torch._inductor.runtime.benchmarking import benchmarker

    assert compile_ahead.trials_in_turn(copy.copy(benchmarker), tmp_path / "turns")
    assert callable(benchmarker.benchmark_gpu)


# ---- the programs of the steps, on the emulator ----


@pytest.fixture
def small(tmp_path: Path, rng: np.random.Generator, cuda_core: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Path of a model; the emulated module is ``fcntag._cuda``."""
    blocks = [block(9, window=(2, 2)), block(8, activation="elu", affine=True, window=(4, 4))]
    model = make_model(rng, blocks, n_samples=8000)
    path = tmp_path / "small.safetensors"
    write_model(path, model.document, model.tensors)
    found = {"copy_gb_s": 1000.0, "matrix_tflop_s": {"float32": 50.0, "bfloat16": 700.0}}
    monkeypatch.setattr(bench_gpu, "ceilings", lambda index: found)
    monkeypatch.setattr(measure, "Settings", lambda **options: SETTINGS(**{**options, "repeats": 4}))
    monkeypatch.setattr(timings, "Settings", measure.Settings)
    monkeypatch.setattr(measure, "COLD_CACHE_BYTES", 1 << 20)
    monkeypatch.setattr(peers, "_ROTATED_BYTES", 1)
    with create_engine(model) as engine:
        known = engine.scores(group.random_clips(model)[:1])
    monkeypatch.setattr(timings, "known_scores", lambda names: dict.fromkeys(names, known))
    return str(path)


SETTINGS = measure.Settings


class Silent:
    """A peer that computes what fcntag does, and is timed as half a second."""

    stages = ("scores",)
    made: ClassVar[list[tuple[str, int, str]]] = []

    def __init__(self, variant: Any, precision: str, batch: int, device: str) -> None:
        self.made.append((precision, batch, device))
        self.engine = create_engine(variant.original)

    def output(self, waves: np.ndarray) -> np.ndarray:
        return self.engine.scores(waves)

    def times(self, stage: str, repeats: int) -> list[float]:
        return [0.5] * repeats

    def close(self) -> None:
        self.engine.close()


def test_timings(small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "timings.json"
    options = ["--json", str(path), "--minutes", "5", "-m", small, "-b", "2,1", "--precision", "bfloat16"]
    assert timings.main([*options, "--seconds", "0.01"]) == 0
    report = json.loads(path.read_text())
    stages = {(row["stage"], row["batch"]) for row in report["rows"]}
    for batch in (1, 2):
        assert {("block 2", batch), ("block 2, device time", batch), ("scores", batch)} <= stages
    assert not {stage for stage, _ in stages} & {"cold", "load", "first"}
    assert record.thinned(report)["rows"]
    monkeypatch.setitem(peers.PEERS, "silent", PeerEntry(("numpy",), Silent))
    assert timings.main([*options, "--seconds", "0.01", "--peers", "silent"]) == 0
    report = json.loads(path.read_text())
    assert {row["engine"] for row in report["rows"]} == {"fcntag", "silent"}
    assert "block 2" not in {row["stage"] for row in report["rows"]}


def test_timings_that_cannot_begin_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntag._cuda", None)
    monkeypatch.delattr("fcntag._cuda", raising=False)
    options = ["--json", str(tmp_path / "a.json"), "--minutes", "1", "-m", "mtt-vgg", "-b", "1"]
    with pytest.raises(SystemExit, match=r"timings: .*this build of fcntag has no CUDA kernels"):
        timings.main([*options, "--precision", "bfloat16"])


def test_known_scores_are_those_of_the_models_that_are_timed() -> None:
    assert set(timings.known_scores(("mtt-vgg", "fcn3"))) == {"mtt-vgg"}
    from gpu.make_oracle import TIMED

    assert set(TIMED) == set(quick.MODELS)


def test_what_is_timed_is_compiled_ahead(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch._inductor.runtime.benchmarking as inductor

    monkeypatch.setattr(inductor, "benchmarker", Benchmarker())
    monkeypatch.setitem(peers.PEERS, "silent", PeerEntry(("numpy",), Silent))
    monkeypatch.setattr(Silent, "made", [])
    arguments = ["--turns", str(tmp_path / "turns"), f"{small}:64", f"{small}:1"]
    assert compile_ahead.main(arguments, device="cpu", peer="silent") == 0
    assert Silent.made == [("bfloat16", 64, "cpu"), ("bfloat16", 1, "cpu")]
    printed = capsys.readouterr().out.splitlines()
    assert len([line for line in printed if ", batch " in line and line.endswith(" s")]) == 2
    monkeypatch.setattr(inductor, "benchmarker", object())
    assert compile_ahead.main(arguments, device="cpu", peer="silent") == 3
    assert "not known here" in capsys.readouterr().out
    assert quick.COMPILED[:2] == ("fcn4:64", "fcn5-narrow:64")


def test_the_run_that_is_profiled(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fcntag.engine.cuda import CudaEngine

    calls: list[tuple[str, Any]] = []
    monkeypatch.setattr(CudaEngine, "use_graphs", lambda self, use: calls.append(("graphs", use)))
    monkeypatch.setattr(CudaEngine, "scores", lambda self, waves: calls.append((self.precision, waves.shape)))
    counters.main([small, "bfloat16", "3"])
    assert calls == [("graphs", False), ("bfloat16", (3, 8000))]


def test_counters_are_read() -> None:
    kernels = counters.kernels(NCU)
    assert [kernel["kernel"] for kernel in kernels] == ["conv_first_float16<8>(P)", *["conv_block<B, 320>(P)"] * 2]
    assert kernels[1]["grid"] == "(9900, 1, 1)"
    assert kernels[1]["counters"] == {
        "gpu__time_duration.sum": 2956128.5,
        "sm__inst_executed_pipe_tensor.avg.pct": 47.1,
        "smsp__average_warps_issue_stalled_barrier.pct": 21.5,
        "launch__registers_per_thread": 249.0,
    }
    assert "gpu__time_duration.sum" not in kernels[2]["counters"]
    assert counters.largest(kernels) == 1
    assert counters.verdict(0, NCU, kernels) == ("passed", "conv_block<B, 320>(P): 2956128 ns")
    assert counters.kernels("==ERROR== ERR_NVGPUCTRPERM - no permission\n") == []
    refused = counters.verdict(1, "x\n==ERROR== ERR_NVGPUCTRPERM - no permission\n", [])
    assert refused == ("not run", "==ERROR== ERR_NVGPUCTRPERM - no permission")
    assert counters.verdict(None, "", [])[0] == "timed out"
    assert counters.verdict(1, "Segmentation fault", [])[0] == "failed"


def test_the_profiler_leaves_the_clocks_alone() -> None:
    command = counters.command("/toolkit/ncu", "fcn4", "bfloat16", 64)
    assert command[command.index("--clock-control") + 1] == "none"
    assert command[-5:] == [sys.executable, counters.__file__, "fcn4", "bfloat16", "64"]
