"""Log-mel of 30 s: fcntag against NumPy, SciPy and PyTorch, one thread each, the same mel, outputs checked first.

    python benchmarks/bench_frontend.py --json benchmarks/results/frontend-<cpu>-<date>.json
    pytest benchmarks/bench_frontend.py --benchmark-only

Timed: waveform in memory to log-mel in memory. Not timed: decoding, resampling, building windows and filters.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported: one thread for everybody

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mel_peers import NumpyMel, TorchMel
from script import figures, parser, write_json

from fcntag import demo
from fcntag.bench.timing import alternate
from fcntag.engine import create_engine
from fcntag.model.document import Block, Head, Log
from fcntag.model.file import Model
from fcntag.model.paper import paper_model

SECONDS = 30
RATES = (12000, 16000)
# Frames of other lengths, at 16 kHz: n_fft, hop_length, n_mels. First the defaults of mel libraries, then lengths with
# other factors, an odd one and a prime.
LENGTHS = (
    (2048, 512, 128),
    (400, 200, 128),
    (1024, 256, 80),
    (4096, 1024, 128),
    (8192, 2048, 128),
    (441, 220, 80),
    (600, 150, 80),
    (882, 441, 80),
    (1000, 250, 80),
    (1103, 275, 80),
)
CASES = (*((rate, 512, 256, 96) for rate in RATES), *((16000, *length) for length in LENGTHS))
FRONTENDS = ("fcntag", "numpy", "scipy", "torch")
# A peer whose mel power differs by a larger share than this computes something else, and nothing is timed. Powers below
# FLOOR times the loudest are not compared: the rounding of a float32 FFT is a large share of them.
MAX_RELATIVE = 1e-3
FLOOR = 1e-7


def mel_model(rate: int, n_fft: int, hop_length: int, n_mels: int) -> Model:
    """A model whose front end is the paper's with these sizes for 30 s, in plain dB. Its network is never run."""
    document = paper_model("fcn5-narrow").document
    frontend = dataclasses.replace(
        document.frontend,
        sample_rate=rate,
        n_fft=n_fft,
        hop_length=hop_length,
        n_mels=n_mels,
        fmax=rate / 2,
        log=Log(kind="db", amin=1e-10),
        normalization="none",
    )
    block = Block(kernel=1, in_channels=1, out_channels=1, activation="none")
    document = dataclasses.replace(
        document,
        frontend=frontend,
        segments=dataclasses.replace(document.segments, n_samples=SECONDS * rate),
        blocks=(block,),
        head=Head(flatten="max", in_features=1),
    ).validate()
    tensors = {name: np.zeros(shape, np.float32) for name, shape in document.tensor_shapes().items()}
    return Model(document=document, tensors=tensors, sha256="", path="mel")


def wave_of(model: Model) -> np.ndarray:
    """The demo piece [n_samples], whose bands are quiet and loud, as music's are and noise's are not."""
    piece = demo.synthesise(0).mean(axis=1)
    return np.resize(piece, model.document.segments.n_samples).astype(np.float32)


def make(name: str, model: Model) -> Callable[[np.ndarray], np.ndarray]:
    """Front end ``name`` as a function [n_samples] -> [n_frames, n_mels]; raises ImportError if it is not here."""
    if name == "fcntag":
        engine = create_engine(model, threads=1, max_batch=1)
        return lambda wave: engine.log_mel(wave[None])[0].T
    if name == "torch":
        return TorchMel(model)
    return NumpyMel(model, fft=name)


def check(name: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest relative difference of the mel power above the floor; raises SystemExit if it is too large."""
    ours, theirs = (10.0 ** (x.astype(np.float64) / 10) for x in (ours, theirs))
    if ours.shape != theirs.shape:
        raise SystemExit(f"{name}: {theirs.shape} frames and bands, not {ours.shape}; nothing was timed")
    loud = ours > FLOOR * ours.max()
    difference = float((np.abs(theirs - ours) / ours)[loud].max())
    if not difference <= MAX_RELATIVE:
        raise SystemExit(f"{name}: mel power differs by {difference:.1e} of its value; nothing was timed")
    return difference


@pytest.mark.parametrize("name", FRONTENDS)
@pytest.mark.parametrize("case", CASES)
def test_log_mel(benchmark: Any, case: tuple[int, int, int, int], name: str) -> None:
    """30 s to log-mel on one thread."""
    model = mel_model(*case)
    wave = wave_of(model)
    try:
        function = make(name, model)
    except ImportError as error:
        pytest.skip(f"{name}: {error}")
    check(name, make("fcntag", model)(wave), function(wave))
    benchmark.group = f"log-mel of {SECONDS} s at {case[0]} Hz, n_fft {case[1]}, one thread"
    benchmark(function, wave)


def main() -> None:
    """Alternating runs, a table, and JSON."""
    options = parser(__doc__, repeats=31)
    options.add_argument("--cpu-time", action="store_true", help="of this process: for a machine that is not quiet")
    arguments = options.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    results: list[dict[str, Any]] = []
    for case in CASES:
        model = mel_model(*case)
        rate, n_fft, hop_length, n_mels = case
        wave = wave_of(model)
        functions: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
        missing = {}
        for name in FRONTENDS:
            try:
                functions[name] = make(name, model)
            except ImportError as error:
                missing[name] = str(error)
        ours = functions["fcntag"](wave)
        differences = {name: check(name, ours, function(wave)) for name, function in functions.items()}
        calls = {name: functools.partial(function, wave) for name, function in functions.items()}
        samples = alternate(calls, arguments.repeats, arguments.seconds, clock=clock)
        sizes = {"rate": rate, "n_fft": n_fft, "hop_length": hop_length, "n_mels": n_mels}
        row = {**sizes, "times": figures(samples, "fcntag"), "differences": differences}
        results.append({**row, "missing": missing})
        for name, times in row["times"].items():
            figure = f"{1e3 * times['p50_s']:7.2f} ms  {times['ratio']:5.2f} x fcntag's time"
            print(f"{rate} Hz  n_fft {n_fft:4}  {name:8} {figure}", flush=True)
        for name, reason in missing.items():
            print(f"{rate} Hz  n_fft {n_fft:4}  {name}: not installed ({reason})")
    write_json(arguments, 1, {"seconds": SECONDS, "results": results})


if __name__ == "__main__":
    main()
