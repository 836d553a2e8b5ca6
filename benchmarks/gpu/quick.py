"""``benchmarks/gpu_check.sh quick``: what a first run on a GPU must tell, in 590 seconds.

The steps run in the order in which they stand, most of them each in its turn of the GPU. A step gets what its row
allows, as long as the more valuable steps behind it keep the least that they need. One that would get less than its own
least is left out, and the record says for which it was.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gpu import counters, steps
from gpu.record import Record, summary, thinned, tool
from gpu.turns import turn

# The whole command, so that 10 of the 590 seconds are left for its end.
SECONDS = 580.0
# These are kept for the last step's end: its process is killed, and the JSON written.
MARGIN_S = 4.0
MODELS = ("fcn4", "fcn5-narrow", "mtt-vgg")
BATCHES = (64, 1)
# PyTorch compiles for minutes: in this order, from the start, and beside other steps.
COMPILED = tuple(f"{model}:{batch}" for batch in BATCHES for model in MODELS)
# ``modules`` may build for so long where nothing was built beforehand.
BUILD_S = 240.0
# Seconds that a step waits for its turn of the GPU. A trial of PyTorch's search takes less than one.
TURN_S = 15.0


@dataclass(frozen=True)
class Step:
    """A row of the schedule.

    Attributes
    ----------
    value : the smaller, the more valuable; a step keeps the time of those behind it whose value is smaller
    least : seconds below which it is not begun
    most : its limit in seconds
    alone : it times something, and PyTorch's compiler must not use the GPU meanwhile
    """

    name: str
    value: int
    least: float
    most: float
    alone: bool
    run: Callable[[Quick, str, float], None]


class Quick:
    """One run: the record, the GPU as nvidia-smi knows it, and the end on time.monotonic()'s clock."""

    def __init__(self, record: Record, gpu: dict[str, str], end: float, prebuilt: Path | None = None) -> None:
        self.record, self.gpu, self.end, self.folder = record, gpu, end, prebuilt
        self.compiler: steps.Background | None = None
        self.numba = ""
        record.data["quick"] = {"seconds": round(end - time.monotonic(), 1), "dropped": {}}

    def left(self) -> float:
        """Seconds that steps may still take."""
        return self.end - MARGIN_S - time.monotonic()

    def run(self) -> None:
        """All steps, as far as the time goes. Without modules, or with wrong scores, it stops and says why."""
        with tempfile.TemporaryDirectory(prefix="fcntag-gpu-") as scratch:
            self.scratch = Path(scratch)
            try:
                if not self.modules():
                    return
                self.compile_ahead()
                for i, step in enumerate(SCHEDULE):
                    self.take(step, SCHEDULE[i + 1 :])
                    if step.name == "smoke" and self.status("smoke") in ("failed", "timed out"):
                        self.stop(self.smoke_verdict())
                        return
            finally:
                self.end_compiler(0.0)

    def take(self, step: Step, behind: tuple[Step, ...]) -> None:
        """Run a step, or leave it out."""
        kept = {other.name: other.least for other in behind if other.value < step.value}
        allowed = min(step.most, self.left() - sum(kept.values()))
        if allowed < step.least:
            why = f"{max(0.0, self.left()):.0f} s left, it needs {step.least:.0f}"
            why += f", and {sum(kept.values()):.0f} are kept for {', '.join(kept)}" if kept else ""
            self.record.data["quick"]["dropped"][step.name] = why
            self.record.add(step.name, "not run", 0.0, why=why)
            return
        begun = time.monotonic()
        with self.in_turn(step.alone, allowed):
            step.run(self, step.name, allowed - (time.monotonic() - begun))

    @contextlib.contextmanager
    def in_turn(self, alone: bool, seconds: float) -> Iterator[None]:
        """Have the GPU for this step alone, where it asks for that; the compiler ends if it does not let go."""
        if not alone or self.compiler is None:
            yield
            return
        with contextlib.ExitStack() as stack:
            if not stack.enter_context(turn(self.scratch / "turns", min(TURN_S, seconds / 4))):
                self.end_compiler(0.0)
            yield

    def smoke_verdict(self) -> str:
        """Why nothing is worth timing."""
        rows = self.record.data.get("smoke", {}).get("failures", ())
        wrong = [f"{r['case']}, {r['precision']}: {r['what']} {r['value']}, allowed {r['allowed']}" for r in rows]
        return f"smoke: {'; '.join(wrong) or self.status('smoke')}"

    def status(self, name: str) -> str:
        """How a step of this run ended; "" if it has not."""
        return str(self.record.data["steps"][name]["status"]) if name in self.record.ran else ""

    def stop(self, why: str) -> None:
        """Have the JSON say why the rest was not run."""
        print(f"stopped: {why}", flush=True)
        self.record.data["quick"]["stopped"] = why
        self.record.save()

    # ---- modules ----

    def modules(self) -> bool:
        """Take the modules that were built beforehand, or build them, and see what can be imported."""
        begun = time.monotonic()
        if self.folder is not None:
            why = steps.prebuilt(self.folder, self.gpu)
            if not why:
                about = steps.read(self.folder / "build.json")
                self.record.data["modules"] = about
                self.record.know_commit(str(about.get("commit", "")))
                found = steps.probe(60.0)
                why = found["modules"]
            self.record.add("prebuilt", "not run" if why else "passed", time.monotonic() - begun, why=why)
            if not why:
                return self.usable(found)
        if not steps.build(self.record, self.gpu, time.monotonic() + min(BUILD_S, self.left())):
            self.stop("there are no modules")
            return False
        return self.usable(steps.probe(60.0))

    def usable(self, found: dict[str, str]) -> bool:
        """Whether the modules can be used on this GPU; what cannot be imported is told in a line."""
        self.record.know_commit(f"sources {steps.sources_digest()}")
        self.numba = found["numba"]
        if self.numba:
            print(f"numba cannot be imported ({self.numba}): only the oracle's stored values are compared with")
        why = found["modules"] or found["gpu"]
        self.record.data["quick"]["imports"] = found
        self.record.add("imports", "failed" if why else "passed", 0.0, why=why or self.numba)
        if why:
            self.stop(why)
        return not why

    # ---- PyTorch's compiler, beside the steps ----

    def caches(self) -> dict[str, str]:
        """Where PyTorch's compiler keeps what it finds, for it and for the bench behind it."""
        return {
            "TORCHINDUCTOR_CACHE_DIR": str(self.scratch / "inductor"),
            "TRITON_CACHE_DIR": str(self.scratch / "triton"),
        }

    def compile_ahead(self) -> None:
        """Start compiling, if PyTorch is there."""
        if self.record.data["machine"]["packages"].get("torch") == "not installed":
            self.record.add("compile ahead", "not run", 0.0, why="PyTorch is not installed")
            return
        command = [sys.executable, str(steps.SCRIPTS / "compile_ahead.py"), "--turns", str(self.scratch / "turns")]
        with steps.undisturbed():
            self.compiler = steps.Background([*command, *COMPILED], **self.caches())

    def end_compiler(self, seconds: float) -> None:
        """Wait so long for the compiler, end it, and record how far it came."""
        if self.compiler is None:
            return
        compiler, self.compiler = self.compiler, None
        code, text, taken = compiler.end(seconds)
        done = [line for line in text.splitlines() if line.endswith(" s") and ", batch " in line]
        status = "passed" if code == 0 else "stopped" if code is None else "not run"  # no failure of fcntag's
        why = text.strip().rpartition("\n")[2][:200] if status == "not run" else ""
        self.record.add("compile ahead", status, taken, compiled=done, why=why)

    # ---- steps ----

    def correctness(self, name: str, seconds: float, *options: str) -> None:
        """A run of correctness.py by stored values."""
        path = self.scratch / f"{name}.json"
        command = [sys.executable, str(steps.SCRIPTS / "correctness.py"), *options, "--json", str(path)]
        command += ["--minutes", f"{max(0.05, (seconds - 10) / 60):.2f}"]
        code, text, taken = steps.run(command, seconds)
        found = steps.read(path)
        if found:
            self.record.data[name] = summary(found)
        status = steps.status_of(code)
        self.record.add(name, status, taken, tail=[] if code == 0 else steps.tail(text))

    def smoke(self, name: str, seconds: float) -> None:
        """Two models' scores."""
        self.correctness(name, seconds, "--smoke")

    def everything(self, name: str, seconds: float) -> None:
        """All cases, whole models first."""
        self.correctness(name, seconds, "--stored")

    def time(self, name: str, seconds: float, precisions: str, *options: str) -> None:
        """A run of timings.py."""
        path = self.scratch / f"{name}.json"
        command = [sys.executable, str(steps.SCRIPTS / "timings.py"), "--json", str(path), "-m", ",".join(MODELS)]
        command += ["-b", ",".join(map(str, BATCHES)), "--precision", precisions, *options]
        # It begins no group after its own limit, and has the rest of the time to end the last one.
        command += ["--minutes", f"{max(0.05, 0.85 * seconds / 60):.2f}"]
        code, text, taken = steps.run(command, seconds, **self.caches())
        report = steps.read(path)
        if report:
            self.record.data.setdefault("benchmark", {})[f"quick {name}"] = thinned(report)
        status, why = steps.bench_verdict(code, report)
        left_out = [text for text in (report or {}).get("warnings", ()) if text.startswith("no time left")]
        self.record.add(
            name, status, taken, why=why, left_out=left_out, tail=[] if status == "passed" else steps.tail(text)
        )

    def timings(self, name: str, seconds: float) -> None:
        """fcntag's stages and whole runs in bfloat16."""
        self.time(name, seconds, "bfloat16")

    def other_timings(self, name: str, seconds: float) -> None:
        """The same in the other precisions."""
        self.time(name, seconds, "float32,tf32,float16")

    def peers(self, name: str, seconds: float) -> None:
        """Whole runs in turn with PyTorch as a recorded graph, and as it compiles; the compiler has ended by then."""
        if self.record.data["machine"]["packages"].get("torch") == "not installed":
            self.record.add(name, "not run", 0.0, why="PyTorch is not installed")
            return
        begun = time.monotonic()
        self.end_compiler(seconds / 3)
        left = seconds - (time.monotonic() - begun)
        self.time(name, left, "bfloat16", "--peers", "torch-graph,torch-compile")

    def sanitizer(self, name: str, seconds: float) -> None:
        """A tool of compute-sanitizer."""
        steps.sanitize(self.record, name, seconds)

    def counters(self, name: str, seconds: float) -> None:
        """Hardware counters of the largest layer."""
        program = tool("ncu")
        if program is None:
            self.record.add(name, "not run", 0.0, why="ncu is not installed")
            return
        code, text, taken = steps.run(counters.command(program, "fcn4", "bfloat16", 64), seconds)
        kernels = counters.kernels(text)
        if kernels:
            self.record.data["counters"] = {"largest": counters.largest(kernels), "kernels": kernels}
        status, why = counters.verdict(code, text, kernels)
        self.record.add(name, status, taken, why=why, tail=[] if status == "passed" else steps.tail(text))


# In the order of time. Correctness stands where PyTorch's compiler needs the GPU between two timings.
SCHEDULE = (
    Step("smoke", 0, 10.0, 60.0, False, Quick.smoke),
    Step("timings", 1, 20.0, 75.0, True, Quick.timings),
    Step("correctness", 3, 30.0, 110.0, False, Quick.everything),
    Step("peers", 2, 45.0, 180.0, False, Quick.peers),
    Step("memcheck", 4, 25.0, 80.0, False, Quick.sanitizer),
    Step("racecheck", 5, 30.0, 80.0, False, Quick.sanitizer),
    Step("counters", 6, 20.0, 45.0, True, Quick.counters),
    Step("other timings", 7, 25.0, 75.0, True, Quick.other_timings),
    Step("synccheck", 8, 25.0, 60.0, False, Quick.sanitizer),
    Step("initcheck", 9, 25.0, 60.0, False, Quick.sanitizer),
)
