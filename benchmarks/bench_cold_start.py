"""A user's first `fcntag tag`: a 30 s clip from the start of the process to its exit, and the installed size.

    python benchmarks/bench_cold_start.py --json benchmarks/results/cold-start-<cpu>-<date>.json
    pytest benchmarks/bench_cold_start.py --benchmark-only

Each run is a new process with a warm file cache; wall and CPU seconds and peak RSS are the kernel's own account of it.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from script import parser, write_json

import fcntag
from fcntag.bench.clips import write_clip
from fcntag.bench.timing import ProcessRun, run_process


def tag(clip: Path, model: str = "mtt-vgg") -> ProcessRun:
    """One cold run of the command line."""
    return run_process([sys.executable, "-m", "fcntag", "tag", "-q", "-m", model, str(clip)])


def installed_bytes() -> int:
    """Size of the package without its dependencies."""
    folder = Path(fcntag.__file__).parent
    files = [f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    if not (folder / "weights").is_dir():  # a source checkout: the weights lie at its top
        files += [f for f in (folder.parent / "weights").rglob("*") if f.is_file()]
    return sum(f.stat().st_size for f in files)


def test_cold_tag(benchmark: Any, tmp_path: Path) -> None:
    """A new process that tags one clip."""
    clip = write_clip(tmp_path)
    benchmark.pedantic(tag, args=(clip,), rounds=5, warmup_rounds=1)


def main() -> None:
    """Medians and JSON."""
    options = parser(__doc__, repeats=9)
    options.add_argument("--model", default="mtt-vgg")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(Path(folder))
        tag(clip, arguments.model)  # fills the file cache and writes the bytecode
        runs = [dataclasses.asdict(tag(clip, arguments.model)) for _ in range(arguments.repeats)]
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    size = installed_bytes()
    print(
        f"fcntag tag (30 s clip, {arguments.model}): wall {medians['wall_s']:.2f} s, CPU {medians['cpu_s']:.2f} s,"
        f" peak RSS {medians['peak_rss_bytes'] / 1e6:.0f} MB; package {size / 1e6:.1f} MB"
    )
    write_json(arguments, 0, {"medians": medians, "installed_bytes": size, "runs": runs})


if __name__ == "__main__":
    main()
