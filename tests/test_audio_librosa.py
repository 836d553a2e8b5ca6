"""Samples and lengths beside librosa's: all bits are equal, and only one zero at the end may differ."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fcntag.audio import open_track
from fcntag.audio.resample import output_length

SOURCES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000)
TARGETS = (12000, 16000, 22050)
# librosa's product of a length and the rounded ratio of these rates can lie above the whole number that it should be.
ROUNDED_UP = {(rate, 12000) for rate in (11025, 22050, 44100, 88200, 176400)}


@pytest.mark.parametrize("rate", TARGETS)
@pytest.mark.parametrize("sample_rate", SOURCES)
def test_lengths(sample_rate, rate):
    step = sample_rate // math.gcd(sample_rate, rate)
    n = np.unique(np.concatenate([np.arange(1, 3000), np.arange(1, 20_000) * step, np.arange(1, 2000) * 44100 * 30]))
    ours = np.array([output_length(int(k), sample_rate, rate) for k in n])
    theirs = np.ceil(n * (float(rate) / sample_rate)).astype(int)  # as librosa.resample writes it
    differ = n[ours != theirs]
    assert (len(differ) > 0) == ((sample_rate, rate) in ROUNDED_UP)
    assert set(theirs - ours) <= {0, 1}
    assert not (differ % step).any()  # only where the length comes out even


@pytest.mark.parametrize("rate", TARGETS)
@pytest.mark.parametrize("sample_rate", SOURCES)
def test_samples(rng, sample_rate, rate):
    librosa = pytest.importorskip("librosa", reason="librosa is not installed")
    for n_samples in (1, 147, 147 * 61, 12_345):
        wave = rng.standard_normal(n_samples, dtype=np.float32)
        theirs = librosa.resample(wave, orig_sr=sample_rate, target_sr=rate, res_type="soxr_hq")
        with open_track(wave, sample_rate=sample_rate) as track:
            ours = np.concatenate(list(track.blocks(rate)))
        np.testing.assert_array_equal(ours, theirs[: len(ours)])
        assert len(theirs) - len(ours) in ((0, 1) if (sample_rate, rate) in ROUNDED_UP else (0,))
        assert not theirs[len(ours) :].any()


def test_the_example_of_the_documents():
    librosa = pytest.importorskip("librosa", reason="librosa is not installed")
    clip = np.ones(30 * 44100, np.float32)
    assert output_length(len(clip), 44100, 12000) == 360_000
    assert len(librosa.resample(clip, orig_sr=44100, target_sr=12000, res_type="soxr_hq")) == 360_001
