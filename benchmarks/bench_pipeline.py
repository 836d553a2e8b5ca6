"""A directory of MP3s to scores: fcntag's tag_many against soundfile + soxr + SciPy mel + ONNX Runtime, mtt-vgg.

    python benchmarks/bench_pipeline.py --clips 24 --json benchmarks/results/pipeline-<cpu>-<date>.json
    pytest benchmarks/bench_pipeline.py --benchmark-only

Clips are 30 s of the demo piece by seed (or --folder). Timed: from paths to scores, models loaded and warm. CPU
seconds are the whole process's. The peer runs in both ways that pipeline_peer.py knows, on the original network and
on the reduced one; compare with the fastest.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported: each decode thread does its own BLAS

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from script import figures, parser, write_json

from fcntag import Tagger, load_model
from fcntag.bench.clips import write_clip
from fcntag.bench.timing import alternate

MODEL = "mtt-vgg"
# A peer whose scores differ by more computes something else, and nothing is timed. The mel is rounded to float16, and
# where float32's last bit decides the direction, it moves by 5e-4 of its value.
MAX_DIFFERENCE = 1e-4


def write_clips(folder: Path, count: int) -> list[Path]:
    """So many clips, all different."""
    return [write_clip(folder, seed) for seed in range(count)]


def check(name: str, ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """Largest score difference; raises SystemExit if it is too large."""
    difference = float(np.abs(np.stack(theirs) - np.stack(ours)).max())
    if not difference <= MAX_DIFFERENCE:
        raise SystemExit(f"{name}: scores differ by {difference:.1e}; nothing was timed")
    return difference


def peers(threads: int) -> dict[str, Any]:
    """The peer, run in every way that it knows, by name."""
    from pipeline_peer import MODES, Pipeline

    model = load_model(MODEL)
    return {
        f"onnxruntime {mode} {'reduced' if reduced else 'original'}": Pipeline(model, threads, mode, reduced)
        for mode in MODES
        for reduced in (False, True)
    }


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Few clips, as this suite only watches one number over time; the script measures."""
    return write_clips(tmp_path_factory.mktemp("clips"), 8)


def test_tag_many(benchmark: Any, clips: list[Path]) -> None:
    """fcntag, end to end."""
    benchmark.group = f"{len(clips)} clips of 30 s"
    with Tagger(MODEL) as tagger:
        benchmark.pedantic(lambda: list(tagger.tag_many(clips)), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("reduced", [False, True], ids=["original", "reduced"])
@pytest.mark.parametrize("mode", ["batched", "per_file"])
def test_onnxruntime(benchmark: Any, clips: list[Path], mode: str, reduced: bool) -> None:
    """The peer, end to end."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from pipeline_peer import Pipeline

    benchmark.group = f"{len(clips)} clips of 30 s"
    with Tagger(MODEL) as tagger:
        threads = tagger.threads
        ours = [result.scores for result in tagger.tag_many(clips)]
    pipeline = Pipeline(load_model(MODEL), threads, mode, reduced)
    check("onnxruntime", ours, pipeline.run(clips))
    benchmark.pedantic(pipeline.run, args=(clips,), rounds=5, warmup_rounds=1)


def main() -> None:
    """Alternating runs, a table, and JSON."""
    options = parser(__doc__, repeats=7)
    options.add_argument("--clips", type=int, default=24)
    options.add_argument("--folder", type=Path, help="tag the sound files here instead")
    options.add_argument("--threads", type=int, default=0)
    arguments = options.parse_args()
    if arguments.folder:
        arguments.folder = str(arguments.folder)
    with tempfile.TemporaryDirectory() as temporary, Tagger(MODEL, threads=arguments.threads) as tagger:
        if arguments.folder:
            paths = sorted(path for path in Path(arguments.folder).iterdir() if path.is_file())
        else:
            paths = write_clips(Path(temporary), arguments.clips)
        runs: dict[str, Callable[[], list[Any]]] = {
            "fcntag": lambda: [
                result.scores for result in tagger.tag_many(paths, workers=tagger.threads, on_error="raise")
            ]
        }
        for name, pipeline in peers(tagger.threads).items():
            runs[name] = lambda pipeline=pipeline: pipeline.run(paths)
        ours = runs["fcntag"]()
        differences = {name: check(name, ours, run()) for name, run in runs.items()}
        cpu: dict[str, list[float]] = {name: [] for name in runs}

        def timed(name: str) -> None:
            start = time.process_time()
            runs[name]()
            cpu[name].append(time.process_time() - start)

        samples = alternate(
            {name: (lambda name=name: timed(name)) for name in runs}, arguments.repeats, arguments.seconds
        )
        cpu = {name: values[-len(samples[name]) :] for name, values in cpu.items()}  # without the warm-up
        times = figures(samples, "fcntag")
        for name, figure in times.items():
            figure["cpu_s_per_clip"] = statistics.median(cpu[name]) / len(paths)
            figure["clips_per_s"] = len(paths) / figure["p50_s"]
            figure["cpu_ratio"] = figure["cpu_s_per_clip"] / times["fcntag"]["cpu_s_per_clip"]
            print(
                f"{name:30} {figure['clips_per_s']:7.1f} clips/s  {1e3 * figure['cpu_s_per_clip']:6.1f} ms CPU a clip"
                f"  {figure['ratio']:5.2f} x fcntag's wall  {figure['cpu_ratio']:5.2f} x its CPU"
                f"  (scores within {differences[name]:.0e})"
            )
        result = {"clips": len(paths), "times": times, "differences": differences, "cpu_s": cpu}
        write_json(arguments, tagger.threads, result)


if __name__ == "__main__":
    main()
