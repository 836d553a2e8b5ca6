"""The demo piece: the same for the same seed, another for another, and sound as audio."""

from __future__ import annotations

import numpy as np
import pytest

from fcntag import demo


def test_same_seed_same_piece():
    np.testing.assert_array_equal(demo.synthesise(3), demo.synthesise(3))
    assert not np.array_equal(demo.synthesise(3)[:80_000], demo.synthesise(4)[:80_000])


@pytest.mark.parametrize("seed", range(4))
def test_shape_and_level(seed):
    piece = demo.synthesise(seed)
    assert piece.dtype == np.float32
    assert piece.ndim == 2
    assert piece.shape[1] == 2
    assert 18 <= len(piece) / demo.SAMPLE_RATE <= 22
    assert np.abs(piece).max() == pytest.approx(0.8)
    assert abs(piece.mean()) < 1e-3
    assert np.abs(piece[-100:]).max() < 0.01  # it fades out, it is not cut off
    assert not np.array_equal(piece[:, 0], piece[:, 1])
    seconds = piece[: len(piece) // demo.SAMPLE_RATE * demo.SAMPLE_RATE].reshape(-1, demo.SAMPLE_RATE * 2)
    assert (np.sqrt((seconds**2).mean(axis=1)) > 0.002).all()  # something sounds in every second


@pytest.mark.parametrize("hz", [110.0, 261.63, 440.0])
def test_string_is_in_tune(hz):
    sound = demo._pluck(np.random.default_rng(0), hz, 2.0)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    frequencies = np.fft.rfftfreq(len(sound), 1 / demo.SAMPLE_RATE)
    near = (frequencies > 0.8 * hz) & (frequencies < 1.2 * hz)
    found = frequencies[near][spectrum[near].argmax()]
    # the delay line is a whole number of samples: half a sample in the period, and one bin of the spectrum
    assert abs(found - hz) <= 0.5 * hz**2 / demo.SAMPLE_RATE + 0.5
