"""The resampling filter of the GPU front end: one polyphase FIR per pair of rates, with the response of soxr HQ.

soxr resamples in stages; what they amount to was measured with impulses at every phase, for the rates of music files
to 16 and 12 kHz: a windowed sinc, flat to 0.913 of the lower Nyquist frequency, nothing above that frequency. The
numbers below are the Kaiser window and cut-off closest to it: 125 dB down, and within 0.007 of soxr's gain everywhere.
The largest differences lie inside the transition band, where the steps between soxr's own stages show; below 0.913 they
are soxr's, which droops by up to 0.001 for some pairs of rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..audio.resample import output_length

CUTOFF = 0.95687  # gain one half, of the lower Nyquist frequency
HALF_WIDTH = 98  # of the impulse response, in periods of the lower rate
KAISER_BETA = 12.9
MAX_TABLE_VALUES = 1 << 24  # 64 MB on the device; 44.1 to 16 kHz takes 86,720


@dataclass(frozen=True)
class ResampleFilter:
    """Output n lies at input position n * down / up = i + p / up and is sum_k phases[p, k] * x[i + 1 - n_taps / 2 + k].

    ``phases`` [up, n_taps] float32, n_taps even, each row sums to 1. Samples outside the clip are zero. There is no
    delay: the impulse response is symmetric about the output's own position.
    """

    up: int
    down: int
    phases: NDArray[np.float32]

    @property
    def n_taps(self) -> int:
        return int(self.phases.shape[1])


@lru_cache(maxsize=16)
def design(rate_in: int, rate_out: int) -> ResampleFilter:
    """The filter from ``rate_in`` to ``rate_out`` Hz; equal rates give one that passes samples on unchanged.

    Raises ValueError if a rate is not positive, or the rates have so little in common that the table of all phases
    would have more than MAX_TABLE_VALUES entries.
    """
    if rate_in < 1 or rate_out < 1:
        raise ValueError(f"resample: rates {rate_in} and {rate_out} Hz; both must be positive")
    divisor = math.gcd(rate_in, rate_out)
    up, down = rate_out // divisor, rate_in // divisor
    if up == down:
        return ResampleFilter(1, 1, np.array([[1, 0]], np.float32))
    stretch = max(1.0, rate_in / rate_out)  # input samples per period of the lower rate
    half = math.ceil(HALF_WIDTH * stretch)
    if 2 * half * up > MAX_TABLE_VALUES:
        raise ValueError(
            f"resample: {rate_in} to {rate_out} Hz is {up}/{down}, a table of {2 * half * up} values; at most"
            f" {MAX_TABLE_VALUES}. Resample on the host."
        )
    # tap k of phase p weighs the sample that lies (p / up + half - 1 - k) input samples before the output
    distance = (np.arange(up)[:, None] / up + (half - 1) - np.arange(2 * half)[None, :]) / stretch
    inside = np.sqrt(np.maximum(0.0, 1.0 - (distance / HALF_WIDTH) ** 2))
    window = np.where(np.abs(distance) < HALF_WIDTH, np.i0(KAISER_BETA * inside), 0.0)
    taps = np.sinc(CUTOFF * distance) * window
    taps /= taps.sum(axis=1, keepdims=True)  # a constant stays what it is, in every phase
    phases = taps.astype(np.float32)
    phases.setflags(write=False)  # shared by all callers
    return ResampleFilter(up, down, phases)


def mix(pcm: ArrayLike) -> NDArray[np.float32]:
    """PCM [n] or [n, n_channels] -> mono [n] as librosa mixes it: the mean over the channels, in float32."""
    pcm = np.asarray(pcm, dtype=np.float32)
    return pcm if pcm.ndim == 1 else pcm.mean(axis=1)


def resample(pcm: ArrayLike, rate_in: int, rate_out: int) -> NDArray[np.float64]:
    """PCM [n_in] or [n_in, n_channels] at ``rate_in`` -> mono [n_out] at ``rate_out``, float64 sums of float32 taps.

    The computation of csrc/cuda/frontend/resample.cu, written down plainly: its tests refer to it.
    """
    filters = design(rate_in, rate_out)
    mono = mix(pcm).astype(np.float64)
    n_out = output_length(len(mono), rate_in, rate_out)
    if n_out == 0:
        return np.zeros(0)
    before = filters.n_taps // 2 - 1
    padded = np.pad(mono, (before, filters.n_taps))
    windows = np.lib.stride_tricks.sliding_window_view(padded, filters.n_taps)
    out = np.empty(n_out)
    for first in range(min(filters.up, n_out)):  # outputs first, first + up, ... have one phase
        start, phase = divmod(first * filters.down, filters.up)
        out[first :: filters.up] = (
            windows[start :: filters.down][: len(out[first :: filters.up])] @ filters.phases[phase]
        )
    return out
