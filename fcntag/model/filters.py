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
    """Frequency in Hz (>= 0) to mel, same shape, float64. "htk" and "tensorflow" are one scale."""
    hz = np.asarray(hz, dtype=np.float64)
    if scale != "slaney":
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    above = np.maximum(hz, _LOG_START_HZ)  # keeps the log finite where the linear branch is taken
    return np.where(
        hz < _LOG_START_HZ, hz / _LINEAR_HZ_PER_MEL, _LOG_START_MEL + np.log(above / _LOG_START_HZ) / _LOG_STEP
    )


def mel_to_hz(mel: np.ndarray | float, scale: str = "slaney") -> np.ndarray:
    """Inverse of :func:`hz_to_mel`."""
    mel = np.asarray(mel, dtype=np.float64)
    if scale != "slaney":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return np.where(
        mel < _LOG_START_MEL,
        mel * _LINEAR_HZ_PER_MEL,
        _LOG_START_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _LOG_START_MEL) - _LOG_START_MEL)),
    )


def mel_filters(
    *, sample_rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float, scale: str, norm: str
) -> np.ndarray:
    """Triangular mel filters [n_mels, n_fft // 2 + 1], float64, for a spectrum of bins.

    ``fmin``, ``fmax`` in Hz; ``scale``: "slaney" and "htk" draw straight lines in Hz, "tensorflow" draws them in HTK's
    mel and gives bin 0 no weight. ``norm``: "slaney" divides each filter by half its bandwidth in Hz, "sum" by the sum
    of its weights (a filter that no bin lies in stays 0), "none" leaves the peaks at 1.
    """
    edges = np.linspace(hz_to_mel(fmin, scale), hz_to_mel(fmax, scale), n_mels + 2)
    edges_hz = mel_to_hz(edges, scale)
    n_bins = n_fft // 2 + 1
    if scale == "tensorflow":  # its last bin is at half the rate, even where an odd n_fft puts it below
        at = hz_to_mel(np.linspace(0.0, sample_rate / 2.0, n_bins), scale)
    elif n_fft % 2:
        edges, at = edges_hz, np.arange(n_bins) * sample_rate / n_fft
    else:
        edges, at = edges_hz, np.linspace(0.0, sample_rate / 2.0, n_bins)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (at - left) / (centre - left)
    falling = (right - at) / (right - centre)
    filters = np.maximum(0.0, np.minimum(rising, falling))
    if scale == "tensorflow":
        filters[:, 0] = 0.0
    if norm == "slaney":
        filters *= 2.0 / (edges_hz[2:] - edges_hz[:-2])[:, None]
    elif norm == "sum":
        total = filters.sum(axis=1, keepdims=True)
        filters /= np.where(total > 0, total, 1.0)
    elif norm != "none":  # the oracle and the engines share this function: a wrong norm would look right
        raise ValueError(f"mel norm {norm!r} is not built; built: slaney, sum, none")
    return filters


def stft_filters(*, n_fft: int, n_bins: int, first_bin: int, merged_bins: int) -> np.ndarray:
    """STFT bins as filters [n_bins, n_fft // 2 + 1], float64: row r sums ``merged_bins`` neighbours."""
    filters = np.zeros((n_bins, n_fft // 2 + 1))
    for row in range(n_bins):
        start = first_bin + row * merged_bins
        filters[row, start : start + merged_bins] = 1.0
    return filters


def row_filters(frontend: Frontend) -> np.ndarray:
    """The filters from a spectrum [n_fft // 2 + 1] to the rows that the log is taken of, float64.

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


def window(name: str, length: int) -> np.ndarray:
    """Window [length], float64, by its name in ``Frontend.window``; a periodic window of one point is 1."""
    cosine, _, how = name.partition("_")
    shapes = {"hann": (0.5, 0.5), "hamming": (0.54, 0.46)}
    built = ("hann", "hann_reversed", "hann_symmetric", "hamming", "hamming_symmetric")
    if name not in built:  # the oracle and the engines share this function: a wrong window would look right
        raise ValueError(f"window {name!r} is not built; built: {', '.join(built)}")
    if length == 1:
        return np.ones(1)
    mean, swing = shapes[cosine]
    taper = mean - swing * np.cos(2.0 * np.pi * np.arange(length) / (length - 1 if how == "symmetric" else length))
    return taper[::-1].copy() if how == "reversed" else taper


def frame_window(frontend: Frontend) -> np.ndarray:
    """The window of a frame, completed with zeros to [n_fft], float64."""
    taper = window(frontend.window, frontend.window_length)
    missing = frontend.n_fft - len(taper)
    left = missing // 2 if frontend.win_position == "center" else 0
    return np.pad(taper, (left, missing - left))
