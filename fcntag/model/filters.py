"""Windows, mel filters, STFT bins, and the DCT and deltas of MFCC, in NumPy float64: every variant, in one place.

Sources: the Slaney scale is that of the Auditory Toolbox (linear below 1 kHz, logarithmic above, 27 steps per
factor of 6.4); the HTK scale is 2595 log10(1 + f / 700) (The HTK Book, 5.4). Deltas are derivatives of polynomials
fitted by least squares (Savitzky and Golay, Analytical Chemistry 36, 1964).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .frontend import DELTA_WIDTH

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
    """The filters from a power spectrum [n_fft // 2 + 1] to the rows that the log is taken of, float64.

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


def dct_matrix(n_mels: int, n_mfcc: int) -> np.ndarray:
    """The first ``n_mfcc`` rows of the orthonormal DCT-II of ``n_mels`` bands, [n_mfcc, n_mels], float64."""
    k, m = np.arange(n_mfcc)[:, None], np.arange(n_mels)[None, :]
    return np.sqrt(np.where(k == 0, 1.0, 2.0) / n_mels) * np.cos(np.pi * k * (2 * m + 1) / (2 * n_mels))


def delta_weights() -> np.ndarray:
    """Weights of DELTA_WIDTH neighbouring frames in a delta and in a delta-delta, [2, DELTA_WIDTH], float64.

    The first derivative of the line, and the second of the parabola, that lie closest to the frames.
    """
    t = np.arange(DELTA_WIDTH) - DELTA_WIDTH // 2
    arch = np.square(t) - np.square(t).mean()  # the parabola's part that no line can take
    return np.stack([t / np.square(t).sum(), 2.0 * arch / np.square(arch).sum()])


def delta_frames(n_frames: int) -> np.ndarray:
    """Which frames the deltas of every frame are fitted to, [n_frames, DELTA_WIDTH], int64.

    Those around it; near an end the first or last so many, whose line and parabola have one derivative throughout.
    ``n_frames`` must be at least DELTA_WIDTH, as documents see to.
    """
    first = np.clip(np.arange(n_frames) - DELTA_WIDTH // 2, 0, n_frames - DELTA_WIDTH)
    return first[:, None] + np.arange(DELTA_WIDTH)


def window(name: str, n_fft: int) -> np.ndarray:
    """Window [n_fft], float64: "hann" (periodic) or "hann_reversed" (the same, read backwards)."""
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n_fft) / n_fft)
    windows = {"hann": hann, "hann_reversed": hann[::-1].copy()}
    if name not in windows:  # the oracle and the engines share this function: a wrong window would look right
        raise ValueError(f"window {name!r} is not built; built: {', '.join(windows)}")
    return windows[name]
