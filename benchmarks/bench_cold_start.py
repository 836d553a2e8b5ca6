"""What a user waits for the first time: `fcntag tag` of a 30 s MP3 from process start to output.

    python benchmarks/bench_cold_start.py --json benchmarks/results/cold-start-<cpu>-<date>.json

Each run is a new process with a warm file cache; wall and CPU seconds and peak RSS are the kernel's own account of it.
Also the installed size of the package without its dependencies.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import write_json


def make_mp3(path: Path, seconds: float = 30.0, sample_rate: int = 44100) -> None:
    """Stereo chords with noise: nothing an encoder could drop."""
    import soundfile

    rng = np.random.default_rng(0)
    t = np.arange(int(seconds * sample_rate)) / sample_rate
    tones = sum(np.sin(2 * np.pi * f * t + rng.uniform(0, 6)) for f in (110, 220, 277.2, 329.6, 880))
    audio = 0.1 * tones[:, None] + 0.02 * rng.standard_normal((len(t), 2))
    soundfile.write(path, audio.astype(np.float32), sample_rate, format="MP3")


def run(command: list[str]) -> dict[str, float]:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "max_rss_mb": usage.ru_maxrss / 1024}


def installed_mb() -> float:
    import fcntag

    folder = Path(fcntag.__file__).parent
    files = [f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    weights = folder / "weights"
    if not weights.is_dir():  # a source checkout: the weights lie at its top
        files += [f for f in (folder.parent / "weights").rglob("*") if f.is_file()]
    return sum(f.stat().st_size for f in files) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--model", default="mtt-vgg")
    parser.add_argument("--json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "song.mp3"
        make_mp3(path)
        command = [sys.executable, "-m", "fcntag", "tag", "-m", args.model, str(path)]
        run(command)  # fills the file cache and writes the bytecode
        runs = [run(command) for _ in range(args.repeats)]
    medians = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
    size = installed_mb()
    print(
        f"fcntag tag (30 s MP3, {args.model}): wall {medians['wall_s']:.2f} s, CPU {medians['cpu_s']:.2f} s,"
        f" peak RSS {medians['max_rss_mb']:.0f} MB; package {size:.1f} MB"
    )
    write_json(args.json, {"medians": medians, "installed_mb": size, "runs": runs})


if __name__ == "__main__":
    main()
