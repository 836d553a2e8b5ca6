"""The CPU's transform of frames of any length, on every instruction set, against NumPy's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcntag import _C

# Powers of 2, of 3, 5 and 7, mixtures, primes that have a pass of their own (11 to 61) and those that go through a
# chirp, twice primes, neighbours of the ends.
LENGTHS = (64, 65, 67, 96, 100, 122, 125, 127, 128, 134, 200, 243, 256, 343, 400, 441, 512, 513, 600, 882, 961, 1000)
LONG = (1024, 1103, 1536, 1716, 2047, 2048, 2206, 4095, 4096, 6000, 8191, 8192)
FRAMES = 11  # one whole group of lanes and one that is not full, whatever the number of lanes


def config(n_fft: int, hop_length: int, **changed: Any) -> dict[str, Any]:
    """A front end in dB of every bin of the spectrum, as ``fcntag.engine.packing`` gives it to the core."""
    n_bins = n_fft // 2 + 1
    nothing = np.zeros(0, np.float32)
    plain = {
        "n_fft": n_fft,
        "window": 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft),
        "filters": np.eye(n_bins).ravel(),
        "n_mels": n_bins,
        "n_mfcc": 0,
        "hop_length": hop_length,
        "pad_mode": "constant",
        "magnitude": False,
        "power_exponent": 1,
        "float16": False,
        "log": "db",
        "gain": 0.0,
        "amin": 1e-30,
        "offset": 0.0,
        "ref_max": False,
        "top_db": 0.0,
        "normalization": "none",
        "scale": nothing,
        "shift": nothing,
        "time_mel": True,
    }
    return plain | changed


def check_length(n_fft: int, pool: Any) -> None:
    rng = np.random.default_rng(n_fft)
    hop = n_fft // 3 + 1
    wave = rng.standard_normal(hop * (FRAMES - 1) + n_fft).astype(np.float32)
    spectrum = config(n_fft, hop)
    melspec = _C.MelSpec(spectrum, pool=pool)
    ours = melspec.run(wave[None], pad_left=0, n_frames=FRAMES)[0].astype(np.float64)
    frames = np.stack([wave[t * hop : t * hop + n_fft] for t in range(FRAMES)]) * spectrum["window"]
    power = np.abs(np.fft.rfft(frames.astype(np.float64), axis=1)) ** 2
    # Both in float64, ours stored as a float32 of up to 60 dB, whose half step is 2e-6 dB. The smallest of 45,000 bins
    # of noise is some 50 dB below the others, where 1e-16 of the largest is 1e-13 of it.
    assert np.abs(ours - 10 * np.log10(power)).max() <= 4e-6, n_fft

    # A constant has three bins, and 0 elsewhere. What is there is the transform's own rounding: 1e-15 of the largest.
    ours = melspec.run(np.ones_like(wave)[None], pad_left=0, n_frames=FRAMES)[0]
    assert ours[:, 3:].max() <= ours[:, 0].min() - 300, n_fft

    # Frames that begin in front of the wave and end behind it are those of a wave with zeros there.
    left = n_fft // 2
    short = wave[: n_fft + 2 * hop]
    padded = np.concatenate([np.zeros(left, np.float32), short, np.zeros(FRAMES * hop + n_fft, np.float32)])
    inside = melspec.run(padded[None], pad_left=0, n_frames=FRAMES)
    assert np.array_equal(melspec.run(short[None], pad_left=left, n_frames=FRAMES), inside), n_fft
    several = melspec.run(np.stack([padded, 0 * padded, padded]), pad_left=0, n_frames=FRAMES)
    assert np.array_equal(several[2], inside[0]), n_fft


def check_rows(n_fft: int, pool: Any) -> None:
    """Rows, magnitudes and the steps behind them, on more frames than a task takes."""
    rng = np.random.default_rng(1)
    n_frames, hop = 150, 50
    filters = np.abs(rng.standard_normal((5, n_fft // 2 + 1)))
    filters[:, 40:] = 0
    wave = rng.standard_normal(hop * (n_frames - 1) + n_fft).astype(np.float32)
    options = config(n_fft, hop, filters=filters.ravel(), n_mels=5, magnitude=True, log="ln", amin=0.0, offset=0.5)
    frames = np.stack([wave[t * hop : t * hop + n_fft] for t in range(n_frames)]) * options["window"]
    expected = np.log(np.abs(np.fft.rfft(frames, axis=1)) @ filters.T + 0.5)
    run = {"pad_left": 0, "n_frames": n_frames}
    # float32 of values of up to 6: a half step is 2.4e-7; the core's logarithm is right to 1e-12
    ours = _C.MelSpec(options, pool=pool).run(wave[None], **run)[0]
    assert np.abs(ours - expected).max() <= 3e-7
    expected = (expected - expected.mean(axis=0)) / (expected.std(axis=0) + 1e-10)
    for time_mel in (True, False):
        options = options | {"normalization": "standardize_per_mel", "time_mel": time_mel}
        ours = _C.MelSpec(options, pool=pool).run(wave[None], **run)[0]
        assert np.abs((ours if time_mel else ours.T) - expected).max() <= 3e-7


def check_all() -> None:
    """In a process of its own, whose allocator fills memory with 0x7f: an output that is not written is 3.4e38."""
    pool = _C.ThreadPool(2)
    for n_fft in (*LENGTHS, *LONG):
        check_length(n_fft, pool)
    for n_fft in (512, 400, 441, 1103):
        check_rows(n_fft, pool)
    print(_C.build_info()["isa"])


@pytest.mark.parametrize("isa", _C.build_info()["isas_available"])
def test_every_length_on_every_instruction_set(isa) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import test_frame_lengths; test_frame_lengths.check_all()"],
        cwd=Path(__file__).parent,
        env={**os.environ, "FCNTAG_FORCE_ISA": isa, "MALLOC_PERTURB_": "128"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, isa), done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_fft": 63}, "n_fft=63; allowed: 64 to 8192"),
        ({"n_fft": 8193}, "n_fft=8193; allowed: 64 to 8192"),
        ({"window": np.ones(399)}, "window of 399 samples for n_fft=400"),
        ({"n_mels": 200}, "filters of 40401 values for n_mels=200 x 201"),
        ({"log": "pcen"}, "log='pcen'; built: db, log10p1, log1p, ln, log10, none"),
        ({"log": "ln", "amin": 0.0}, "amin=0, offset=0: silence would have no logarithm"),
        ({"normalization": "minmax"}, "normalization='minmax'; built: .*, standardize_per_mel"),
    ],
)
def test_what_the_core_refuses(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        _C.MelSpec(config(400, 100) | change, pool=_C.ThreadPool(1))


def test_memory_counts_the_transform() -> None:
    """Two threads of the largest: 4096 complex points and 4097 bins for at least two lanes of doubles each."""
    pool = _C.ThreadPool(2)
    sizes = [
        _C.MelSpec(config(n_fft, 64, filters=np.eye(1, n_fft // 2 + 1).ravel(), n_mels=1), pool=pool)
        for n_fft in (1024, 8192)
    ]
    small, large = (melspec.memory_bytes for melspec in sizes)
    assert large >= 2 * (2 * 4096 + 4097) * 2 * 8
    assert 7 <= large / small <= 9
