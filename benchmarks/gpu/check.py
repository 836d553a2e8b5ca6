"""The parts of benchmarks/gpu_check.sh: ``check`` and ``bench``, which take their time, and ``quick``, which has 590 s.

Each step is a process of its own with a time limit, so that a step that crashes or hangs leaves the others and the
JSON alone. The JSON is written after every step.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpu import quick, steps
from gpu.record import REPOSITORY, Record, find_gpu, summary, thinned

RESULTS = REPOSITORY / "benchmarks" / "results"
MODELS = "fcn4,mtt-vgg,fcn5-narrow,fcn5"
PARTS = ("check", "bench", "quick")


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0 if every step passed, 1 if one failed, 4 without a GPU."""
    begun = time.monotonic()
    options = argparse.ArgumentParser(
        prog="gpu_check.sh", description="Build, check and time fcntag on this machine's GPU."
    )
    options.add_argument("parts", nargs="*", metavar="PART", help="check, bench (default: both); or quick, alone")
    options.add_argument("--minutes", type=float, default=9.0, metavar="M", help="of check and bench each (default: 9)")
    options.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="default: benchmarks/results")
    options.add_argument("--models", default=MODELS, help=f"of the benchmark (default: {MODELS})")
    options.add_argument("--batch", default="1,8,64,256", help="of fcntag alone (default: 1,8,64,256)")
    options.add_argument("--precision", default="bfloat16,float32,tf32,float16", help="of fcntag alone (default: all)")
    options.add_argument("--beside-batch", default="1,64", help="beside peers (default: 1,64)")
    options.add_argument("--beside-precision", default="bfloat16,float32", help="beside peers (default: these)")
    options.add_argument("--peers", default="torch,torch-graph,jax,torchaudio,torchaudio-graph,torch-compile")
    options.add_argument(
        "--prebuilt", type=Path, metavar="DIR", help="take the modules that prebuild.sh left there, if they fit"
    )
    options.add_argument(
        "--seconds", type=float, default=quick.SECONDS, metavar="S", help=f"of quick (default: {quick.SECONDS:.0f})"
    )
    arguments = options.parse_args(argv)
    for part in arguments.parts:
        if part not in PARTS:
            options.error(f"{part!r} is not one of {', '.join(PARTS)}")
    if "quick" in arguments.parts and len(arguments.parts) > 1:
        options.error("quick goes alone: it has its own parts and its own limit")
    if not 60 <= arguments.seconds <= 3600:
        options.error(f"--seconds {arguments.seconds:g}: allowed: 60 to 3600")
    gpu = find_gpu()
    if gpu is None:
        print("gpu_check: no NVIDIA GPU found: nvidia-smi is missing or lists none", file=sys.stderr)
        return 4
    record = Record(arguments.results, gpu)
    with steps.ended_politely():
        if "quick" in arguments.parts:
            quick.Quick(record, gpu, begun + arguments.seconds, arguments.prebuilt).run()
            return record.finish()
        deadline = time.monotonic() + 60 * arguments.minutes
        if modules(record, gpu, arguments.prebuilt, deadline):
            for part in arguments.parts or ["check", "bench"]:
                (check if part == "check" else bench)(record, arguments, deadline)
                deadline = time.monotonic() + 60 * arguments.minutes
    return record.finish()


def modules(record: Record, gpu: dict[str, str], folder: Path | None, deadline: float) -> bool:
    """Take the modules of ``folder``, or build them; True if they are there."""
    if folder is not None:
        begun, why = time.monotonic(), steps.prebuilt(folder, gpu)
        record.add("prebuilt", "not run" if why else "passed", time.monotonic() - begun, why=why)
        if not why:
            return True
    return steps.build(record, gpu, deadline)


# ---- steps ----


def check(record: Record, arguments: argparse.Namespace, deadline: float) -> None:
    """Run the correctness check, and then the sanitizers, which share the time that it leaves."""
    del arguments
    script = str(steps.SCRIPTS / "correctness.py")
    with tempfile.TemporaryDirectory(prefix="fcntag-gpu-") as folder:
        path = Path(folder) / "correctness.json"
        left = 0.6 * (deadline - time.monotonic())
        soft = f"{max(0.1, (left - 30) / 60):.2f}"
        code, text, seconds = steps.run([sys.executable, script, "--json", str(path), "--minutes", soft], left)
        found = steps.read(path)
    if found:
        record.data["correctness"] = summary(found)
    record.add("correctness", steps.status_of(code), seconds, tail=[] if code == 0 else steps.tail(text))
    for i, kind in enumerate(steps.SANITIZERS):
        left = (deadline - time.monotonic()) / (len(steps.SANITIZERS) - i)
        if left < 5:
            record.add(kind, "not run", 0.0, why="no time left")
        else:
            steps.sanitize(record, kind, left)


def bench(record: Record, arguments: argparse.Namespace, deadline: float) -> None:
    """Time fcntag alone in every precision and batch, then beside its peers.

    The peers that search for their kernels for minutes come last.
    """
    quick_peers = ",".join(name for name in arguments.peers.split(",") if name != "torch-compile")
    slow = "torch-compile" if "torch-compile" in arguments.peers.split(",") else ""
    alone = ["-b", arguments.batch, "--precision", arguments.precision, "--peers", "none", "--seconds", "0.5"]
    parts = [("bench alone", alone, 0.35)]
    beside = ["-b", arguments.beside_batch, "--beside-only", "--no-cold", "--seconds", "1"]
    if quick_peers and quick_peers != "none":
        options = ["--precision", arguments.beside_precision, "--peers-reduced", "--peers", quick_peers]
        parts.append(("bench beside", [*beside, *options], 0.7))
    if slow:
        precision = arguments.beside_precision.split(",")[0]
        parts.append(("bench compiled", [*beside, "--precision", precision, "--peers", slow], 1.0))
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
            code, text, seconds = steps.run(command, left)
            report = steps.read(path)
        if report:
            record.data.setdefault("benchmark", {})[name.removeprefix("bench ")] = thinned(report)
        status, why = steps.bench_verdict(code, report)
        record.add(name, status, seconds, why=why, tail=[] if status == "passed" else steps.tail(text))


if __name__ == "__main__":
    sys.exit(main())
