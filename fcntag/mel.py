"""Windows, mel filters and STFT bins in NumPy float64: every variant the models need, in one place.

Sources: the Slaney scale is that of the Auditory Toolbox (linear below 1 kHz, logarithmic above, 27 steps per
factor of 6.4); the HTK scale is 2595 log10(1 + f / 700) (The HTK Book, 5.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .frontend import Frontend

_LINEAR_HZ_PER_MEL = 200.0 / 3.0
_LOG_START_HZ = 1000.0
_LOG_START_MEL = _LOG_START_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0


def hz_to_mel(hz: np.ndarray | float, scale: str = "slaney") -> np.ndarray:
    """Frequency in Hz (>= 0) to mel, same shape, float64. ``scale``: "slaney" or "htk"."""
    hz = np.asarray(hz, dtype=np.float64)
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    above = np.maximum(hz, _LOG_START_HZ)  # keeps the log finite where the linear branch is taken
    return np.where(
        hz < _LOG_START_HZ, hz / _LINEAR_HZ_PER_MEL, _LOG_START_MEL + np.log(above / _LOG_START_HZ) / _LOG_STEP
    )


def mel_to_hz(mel: np.ndarray | float, scale: str = "slaney") -> np.ndarray:
    """Inverse of :func:`hz_to_mel`."""
    mel = np.asarray(mel, dtype=np.float64)
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return np.where(
        mel < _LOG_START_MEL,
        mel * _LINEAR_HZ_PER_MEL,
        _LOG_START_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _LOG_START_MEL) - _LOG_START_MEL)),
    )


def mel_filters(
    *, sample_rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float, scale: str, norm: str
) -> np.ndarray:
    """Triangular mel filters [n_mels, n_fft // 2 + 1], float64, for a power spectrum.

    ``fmin``, ``fmax`` in Hz; ``scale``: "slaney" or "htk"; ``norm``: "slaney" divides each filter by half its
    bandwidth in Hz, "none" leaves the peaks at 1.
    """
    bin_hz = np.linspace(0.0, sample_rate / 2.0, n_fft // 2 + 1)
    edges_hz = mel_to_hz(np.linspace(hz_to_mel(fmin, scale), hz_to_mel(fmax, scale), n_mels + 2), scale)
    left, centre, right = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising = (bin_hz - left) / (centre - left)
    falling = (right - bin_hz) / (right - centre)
    filters = np.maximum(0.0, np.minimum(rising, falling))
    if norm == "slaney":
        filters *= 2.0 / (right - left)
    return filters


def stft_filters(*, n_fft: int, n_bins: int, first_bin: int, merged_bins: int) -> np.ndarray:
    """STFT bins as filters [n_bins, n_fft // 2 + 1], float64: row r sums ``merged_bins`` neighbours."""
    filters = np.zeros((n_bins, n_fft // 2 + 1))
    for row in range(n_bins):
        start = first_bin + row * merged_bins
        filters[row, start : start + merged_bins] = 1.0
    return filters


def row_filters(frontend: Frontend) -> np.ndarray:
    """What turns a power spectrum [n_fft // 2 + 1] into the rows that the log is taken of, float64.

    [n_bins, n_fft // 2 + 1] for an STFT, [n_mels, n_fft // 2 + 1] for mel, and for MFCC, which come from mel.
    """
    if frontend.kind == "stft":
        return stft_filters(
            n_fft=frontend.n_fft,
            n_bins=frontend.n_bins,
            first_bin=frontend.first_bin,
            merged_bins=frontend.merged_bins,
        )
    return mel_filters(
        sample_rate=frontend.sample_rate,
        n_fft=frontend.n_fft,
        n_mels=frontend.n_mels,
        fmin=frontend.fmin,
        fmax=frontend.fmax,
        scale=frontend.mel_scale,
        norm=frontend.mel_norm,
    )


def window(name: str, n_fft: int) -> np.ndarray:
    """Window [n_fft], float64: "hann" (periodic) or "hann_reversed" (the same, read backwards)."""
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n_fft) / n_fft)
    return hann if name == "hann" else hann[::-1].copy()
