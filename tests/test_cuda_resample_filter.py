"""The GPU's resampling filter: its response, its reference implementation, and how far both are from soxr HQ."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soxr
from support.audio_cases import whole
from support.model_fixtures import ORIGINAL_FILES
from test_audio_music import TRACKS

from fcntag import Tagger
from fcntag.audio.resample import output_length
from fcntag.engine import resample_filter
from fcntag.engine.resample_filter import design, resample

PAIRS = [(r, rate) for rate in (16000, 12000) for r in (44100, 48000, 22050, 32000, 96000, 11025)]
pairs = pytest.mark.parametrize(("rate_in", "rate_out"), PAIRS)


def response(rate_in: int, rate_out: int, frequencies: np.ndarray) -> np.ndarray:
    """Complex gain of the filter's impulse response, all phases taken together, at ``frequencies`` [n] of the lower
    Nyquist frequency."""
    filters = design(rate_in, rate_out)
    positions = np.arange(filters.up)[:, None] / filters.up + filters.n_taps // 2 - 1 - np.arange(filters.n_taps)
    stretch = max(1.0, rate_in / rate_out)
    turns = np.exp(-1j * np.pi * np.outer(frequencies / stretch, positions.ravel()))
    return turns @ filters.phases.astype(np.float64).ravel() / filters.up


@pytest.mark.parametrize(("rate_in", "rate_out"), [(44100, 16000), (48000, 16000), (22050, 12000), (8000, 12000)])
def test_response_is_flat_then_nothing(rate_in, rate_out):
    passed = response(rate_in, rate_out, np.linspace(0, 0.913, 150))
    # float32 taps: half an ulp each, far below; 0: linear phase without delay
    assert np.abs(passed - 1).max() < 2e-6
    # 125 dB as designed; up to the other side of the input's spectrum, where an upsampler's images lie
    stopped = response(rate_in, rate_out, np.linspace(1.0, 2.2, 150))
    assert 20 * np.log10(np.abs(stopped).max()) < -124
    assert abs(response(rate_in, rate_out, np.array([resample_filter.CUTOFF]))[0]) == pytest.approx(0.5, abs=1e-3)


@pairs
def test_phases(rate_in, rate_out):
    filters = design(rate_in, rate_out)
    assert filters.up * rate_in == filters.down * rate_out
    assert math.gcd(filters.up, filters.down) == 1
    assert filters.phases.shape[0] == filters.up
    assert filters.n_taps % 2 == 0
    np.testing.assert_allclose(filters.phases.sum(axis=1, dtype=np.float64), 1, atol=2e-7)  # of float32 taps
    # the output at p / up sees its past as the one at -p / up its future
    flipped = filters.phases[1:][::-1, ::-1]
    np.testing.assert_allclose(flipped, filters.phases[1:], atol=1e-8)


def test_equal_rates_change_nothing(rng):
    pcm = rng.standard_normal((100, 1), dtype=np.float32)
    np.testing.assert_array_equal(resample(pcm, 16000, 16000), pcm[:, 0])


@pytest.mark.parametrize(("rate_in", "rate_out"), [(44100, 16000), (48000, 16000), (11025, 16000), (8000, 12000)])
def test_reference_is_the_documented_sum(rate_in, rate_out, rng):
    filters = design(rate_in, rate_out)
    pcm = rng.standard_normal(700, dtype=np.float32)
    out = resample(pcm, rate_in, rate_out)
    assert len(out) == output_length(700, rate_in, rate_out)
    for n in (0, 1, 17, len(out) // 2, len(out) - 1):
        i, p = divmod(n * filters.down, filters.up)
        first = i + 1 - filters.n_taps // 2
        expected = sum(
            float(filters.phases[p, k]) * float(pcm[first + k])
            for k in range(filters.n_taps)
            if 0 <= first + k < len(pcm)
        )
        assert out[n] == pytest.approx(expected, abs=1e-13)


def test_no_samples_give_none():
    assert resample(np.zeros((0, 2), np.float32), 44100, 16000).shape == (0,)
    assert len(resample(np.ones(1, np.float32), 44100, 16000)) == 1


def test_what_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        design(0, 16000)
    with pytest.raises(ValueError, match="Resample on the host"):
        design(192001, 16000)


def soxr_of(pcm: np.ndarray, rate_in: int, rate_out: int) -> np.ndarray:
    return soxr.resample(pcm, rate_in, rate_out, quality="HQ").astype(np.float64)


@pairs
def test_close_to_soxr(rate_in, rate_out, rng):
    """White noise is the worst case: as much inside the transition band, where filters differ, as anywhere."""
    noise = rng.uniform(-1, 1, 2 * rate_in).astype(np.float32)
    expected = soxr_of(noise, rate_in, rate_out)
    actual = resample(noise, rate_in, rate_out)
    n = min(len(actual), len(expected))  # librosa's length may be one more: a zero there, a sample here
    error = actual[:n] - expected[:n]
    assert (
        np.abs(error).max() < 0.05
    )  # at the very ends, where soxr's stages drop what they would have before and after
    error = error[16:-16]
    assert np.sqrt(np.mean(error**2)) < 4e-4  # measured 5e-5 to 3.6e-4
    assert np.abs(error).max() < 2e-3


@pairs
def test_a_sweep_below_the_transition_band_is_soxrs(rate_in, rate_out):
    seconds = np.arange(2 * rate_in) / rate_in
    top = 0.9 * min(rate_in, rate_out) / 2
    sweep = (0.9 * np.sin(2 * np.pi * (20 * seconds + (top - 20) / 4 * seconds**2))).astype(np.float32)
    margin = rate_out // 10  # the ends of the sweep are steps, with a spectrum of all frequencies
    error = (resample(sweep, rate_in, rate_out) - np.pad(soxr_of(sweep, rate_in, rate_out), (0, 2))[: 2 * rate_out])[
        margin:-margin
    ]
    # Where both rates are multiples of a common large one, soxr is as flat as this filter; else it droops by 0.001.
    assert np.abs(error).max() < (2e-6 if rate_in in (48000, 96000) or (rate_in, rate_out) == (32000, 16000) else 1e-3)


@pytest.mark.parametrize("model", ["mtt-vgg", "choi2016-fcn5-narrow"])
def test_scores_of_real_tracks_do_not_notice(shared: Path, models, model):
    import soundfile

    assert model == "mtt-vgg" or model in ORIGINAL_FILES
    with Tagger(models(model), device="cpu") as tagger:
        for name in TRACKS:
            path = shared / "music" / name
            pcm, rate = soundfile.read(path, dtype="float32", always_2d=True)
            ours = resample(pcm, rate, tagger.sample_rate).astype(np.float32)
            theirs = whole(path, tagger.sample_rate)
            assert len(ours) == len(theirs)
            inner = slice(16, -16)  # the ends, as above
            rms, signal = np.sqrt(np.mean((ours - theirs)[inner] ** 2)), np.sqrt(np.mean(theirs**2))
            assert rms < 1e-3 * signal, name  # measured 1e-6 to 4.5e-4
            difference = np.abs(
                tagger.tag(ours, sample_rate=tagger.sample_rate).scores
                - tagger.tag(theirs, sample_rate=tagger.sample_rate).scores
            )
            assert difference.max() < 1e-3, name  # measured 1.2e-4 at most
