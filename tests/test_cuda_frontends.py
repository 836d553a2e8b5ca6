"""The GPU's front end on the emulator against the float64 oracle: frames of any length, and every setting of them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from support.make_models import block, make_model
from support.numerics import assert_unpoisoned, max_abs, relative_l2

from fcntag import oracle
from fcntag.engine.cuda import CudaEngine, memory_needed
from fcntag.model.document import Log
from fcntag.model.file import Model

pytestmark = pytest.mark.usefixtures("cuda_core")

DB = Log(kind="db", amin=1e-10)
ABOVE_ROUNDING = Log(kind="db", amin=1e-2)  # 90 dB below the tone: what a transform in float leaves in other bins
NO_MEL: dict[str, Any] = dict(n_mels=0, fmin=0.0, fmax=0.0, mel_norm="none")
VGGISH: dict[str, Any] = dict(
    win_length=400,
    hop_length=160,
    framing="valid",
    pad_mode="constant",
    win_position="start",
    spectrum="magnitude",
    mel_scale="tensorflow",
    mel_norm="none",
    fmin=125.0,
    fmax=7500.0,
)

# Products of 2, 3 and 5, others with larger primes, some with one too large for a pass of its own; odd ones.
LENGTHS: dict[int, dict[str, Any]] = {
    64: dict(hop_length=100, pad_mode="constant"),
    67: dict(hop_length=40, window="hamming"),
    100: dict(hop_length=50, log=Log(kind="ln", offset=1e-6)),
    154: dict(hop_length=77, win_length=100),
    256: dict(hop_length=128, spectrum="magnitude"),
    400: dict(hop_length=160, mel_scale="htk", mel_norm="none"),
    441: dict(hop_length=220, framing="pad_end", pad_mode="constant"),
    600: dict(hop_length=300, framing="valid", win_length=480, win_position="start"),
    1000: dict(hop_length=500, mel_norm="sum", window="hamming_symmetric"),
    1024: dict(hop_length=512, framing="same_tensorflow", pad_mode="constant"),
    1103: dict(hop_length=700, framing="same_theano", window="hann_symmetric", pad_mode="constant"),
    2048: dict(hop_length=1024, n_mels=60, log=Log(kind="db", amin=1e-10, top_db=80.0)),
    2206: dict(hop_length=2000, layout="time_mel"),
    4096: dict(hop_length=2048, log=Log(kind="log10p1", gain=1e4)),
    8191: dict(hop_length=8000, n_mels=9),
    8192: dict(hop_length=4096, n_mels=40, framing="valid"),
}

SETTINGS: dict[str, dict[str, Any]] = {
    "ln above a floor": dict(n_fft=400, hop_length=200, log=Log(kind="ln", amin=1e-5)),
    "log10 of a sum": dict(n_fft=400, hop_length=200, log=Log(kind="log10", offset=1e-3)),
    "log1p": dict(n_fft=400, hop_length=200, log=Log(kind="log1p", gain=100.0), normalization="scalar"),
    "no logarithm": dict(n_fft=400, hop_length=200, log=Log(kind="none"), normalization="per_mel"),
    "float16": dict(n_fft=400, hop_length=200, rounding="float16", log=Log(kind="log1p", gain=10.0)),
    "squared magnitudes": dict(
        n_fft=300, hop_length=200, spectrum="magnitude", power_exponent=2, log=Log(kind="db", amin=1e-10, ref="max")
    ),
    "per frame": dict(n_fft=300, hop_length=200, normalization="per_frame"),
    "standardised": dict(n_fft=300, hop_length=200, normalization="standardize", log=Log(kind="ln", offset=1e-6)),
    "each band by itself": dict(n_fft=300, hop_length=100, normalization="standardize_per_mel"),
    "each band by itself, floored, by time": dict(
        n_fft=512,
        normalization="standardize_per_mel",
        layout="time_mel",
        log=Log(kind="db", amin=1e-10, ref="max", top_db=40.0),
    ),
    "VGGish": dict(VGGISH, n_mels=64, log=Log(kind="ln", offset=0.01), layout="time_mel"),
    "magnitudes of 512 points in dB": dict(spectrum="magnitude"),
    "log1p of 512 points": dict(log=Log(kind="log1p", gain=1.0)),
    "many bands": dict(n_fft=512, n_mels=700, hop_length=512),
    "STFT of 1025 rows": dict(
        kind="stft", n_fft=2048, hop_length=1500, n_bins=1025, first_bin=0, merged_bins=1, log=ABOVE_ROUNDING, **NO_MEL
    ),
    "STFT, magnitudes added": dict(
        kind="stft",
        n_fft=360,
        hop_length=180,
        n_bins=60,
        first_bin=1,
        merged_bins=3,
        spectrum="magnitude",
        log=Log(kind="none"),
        **NO_MEL,
    ),
    "MFCC": dict(kind="mfcc", n_fft=400, hop_length=160, n_mfcc=7, log=Log(kind="ln", offset=1e-6)),
    "MFCC below the maximum": dict(
        kind="mfcc",
        n_fft=1000,
        hop_length=250,
        n_mfcc=13,
        log=Log(kind="db", amin=1e-10, top_db=50.0),
        normalization="per_mel",
    ),
}


def model_of(fields: dict[str, Any], n_samples: int) -> Model:
    return make_model(np.random.default_rng(5), [block(2, window=(1, 1))], flatten="max", n_samples=n_samples, **fields)


def sounds(rng: np.random.Generator, batch: int, n_samples: int) -> np.ndarray:
    """Noise that fades away, on a constant and a tone: no band is silent, and none is like another."""
    fade = np.linspace(0, 5, n_samples)
    tone = 0.3 * np.sin(0.3 * np.arange(n_samples)) + 0.05
    return (np.exp(-fade) * rng.uniform(-0.5, 0.5, (batch, n_samples)) + tone).astype(np.float32)


@functools.cache
def case(name: int | str) -> tuple[Model, np.ndarray, np.ndarray]:
    """Model, waves and the oracle's network input of a case; both precisions ask for it."""
    if isinstance(name, int):
        fields, n_samples = dict(LENGTHS[name], n_fft=name), max(3 * name // 2 + 17, 700)
    else:
        fields, n_samples = SETTINGS[name], 3001
    model = model_of(fields, n_samples)
    waves = sounds(np.random.default_rng(6), 2, n_samples)
    return model, waves, oracle.network_input(model, waves)


def check(name: int | str, precision: str) -> None:
    model, waves, expected = case(name)
    with CudaEngine(model, precision=precision, max_batch=2) as engine:
        ours = engine.log_mel(waves)
        scores = engine.scores(waves)
        np.testing.assert_array_equal(engine.scores(waves[1:]), scores[1:])
    assert_unpoisoned(ours)
    assert ours.shape == expected.shape
    mfcc, rounded = model.document.frontend.kind == "mfcc", model.document.frontend.rounding == "float16"
    # One rounding to float32 behind a transform in double; a transform in float. The DCT sums in float32. Rounded to
    # half precision, a power may fall to either side.
    tolerance = 2e-4 if rounded else 2e-6 if mfcc else 2e-7 if precision == "float32" else 3e-6
    assert relative_l2(ours, expected) <= tolerance
    assert max_abs(ours, expected) <= (500 if rounded or mfcc else 20) * tolerance * np.abs(expected).max()
    if precision == "float32":
        scale = max(1.0, float(np.abs(oracle.logits(model, expected)).max()))
        assert max_abs(scores, oracle.scores_of(model, expected)) <= 1e-5 * scale


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("n_fft", LENGTHS)
def test_every_length(n_fft, precision) -> None:
    check(n_fft, precision)


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting(setting, precision) -> None:
    check(setting, precision)


@pytest.mark.parametrize("layout", ["mel_time", "time_mel"])
def test_a_band_that_never_changes_is_0(layout) -> None:
    """Where ln(amin) is no round number, too: its rounding over 1e-10 would be 3e-5."""
    log = Log(kind="ln", amin=1e-8)
    model = model_of(dict(n_fft=400, hop_length=190, log=log, normalization="standardize_per_mel", layout=layout), 4000)
    with CudaEngine(model, max_batch=1) as engine:
        assert not engine.log_mel(np.zeros((1, 4000), np.float32)).any()


@pytest.mark.parametrize("shared_bytes", [49_152, 65_536, 232_448])
def test_bits_do_not_depend_on_where_a_transform_lies(monkeypatch, shared_bytes) -> None:
    """Shared memory of a compute capability of 7.5, or less than any has, and of 9.0; else scratch memory."""
    for n_fft in (2048, 4096, 8192):
        model = model_of(dict(LENGTHS[n_fft], n_fft=n_fft), n_samples=9001)
        waves = sounds(np.random.default_rng(n_fft), 2, 9001)
        monkeypatch.delenv("FCNTAG_EMULATED_SHARED_BYTES", raising=False)
        with CudaEngine(model, max_batch=2) as engine:
            expected = engine.log_mel(waves)
        monkeypatch.setenv("FCNTAG_EMULATED_SHARED_BYTES", str(shared_bytes))
        with CudaEngine(model, max_batch=2) as engine:
            np.testing.assert_array_equal(engine.log_mel(waves), expected)


def test_segments_of_their_own_length(rng) -> None:
    """Scratch memory is planned for the longest segment and the largest batch, and serves all others."""
    fields = dict(n_fft=2062, hop_length=500, normalization="standardize_per_mel", log=DB, n_mels=8)
    model = make_model(
        np.random.default_rng(5), [block(2, window=(1, 1))], flatten="max", n_samples=6000, min_samples=2000, **fields
    )
    with CudaEngine(model, max_batch=3) as engine:
        for n_samples, batch in ((6000, 3), (2000, 1), (3501, 2)):
            waves = sounds(rng, batch, n_samples)
            scale = np.abs(oracle.logits(model, oracle.network_input(model, waves))).max()
            assert max_abs(engine.scores(waves), oracle.scores(model, waves)) <= 1e-5 * max(1.0, scale)


@pytest.mark.parametrize(
    "fields",
    [
        dict(n_fft=400, normalization="standardize_per_mel"),
        dict(n_fft=8191, hop_length=512),
        dict(n_fft=8192, hop_length=512, log=Log(kind="db", amin=1e-10, top_db=80.0)),
        dict(kind="mfcc", n_fft=1000, n_mfcc=13),
    ],
)
@pytest.mark.parametrize("max_batch", [1, 16])
def test_memory_is_known_before_it_is_taken(fields, max_batch) -> None:
    model = model_of(fields, n_samples=40_000)
    needed = memory_needed(model, max_batch=max_batch)
    with CudaEngine(model, max_batch=max_batch) as engine:
        assert abs(engine.memory_bytes - needed) <= 0.01 * needed
