"""The front end of a model document: from a waveform to the network's input, as data, with what it may hold.

Part of ``fcntag/model/document.py``, which validates the whole.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ModelError

DELTA_WIDTH = 9  # frames that a delta of MFCC is fitted to


@dataclass(frozen=True, kw_only=True)
class Log:
    """The logarithm of the mel power m >= 0, after ``power_exponent`` and rounding.

    ``log10p1``: log10(gain * m + 1), in float32 (musicnn).
    ``db``: 10 * log10(max(m, amin)); then minus the segment's maximum if ``ref == "max"``; then floored at
    (segment maximum - top_db) if ``top_db`` is set.
    """

    kind: Literal["db", "log10p1"]
    gain: float = 0.0  # log10p1 only
    amin: float = 0.0  # db only
    ref: Literal["one", "max"] = "one"  # db only
    top_db: float | None = None  # db only, in dB


@dataclass(frozen=True, kw_only=True)
class Frontend:
    """Waveform ``[n_samples]`` to the network's input ``[H, W]``; librosa's words, in Hz and samples.

    Rows, by ``kind``. mel: ``n_mels`` bands of the power spectrum, then exponent, rounding and log. stft: ``n_bins``
    rows in the place of mel bands, row r the sum of the powers of bins ``first_bin + r * merged_bins`` and the
    ``merged_bins - 1`` after it. mfcc: the first ``n_mfcc`` coefficients of the log-mel (its ``log`` applied), as
    librosa.feature.mfcc has them (DCT-II over the bands, orthonormal), then as many deltas and delta-deltas
    (librosa.feature.delta, order 1 and 2, width 9, mode "interp"), and only then the normalization.
    """

    kind: Literal["mel", "stft", "mfcc"]
    sample_rate: int
    n_fft: int  # 512; for stft also 256
    hop_length: int
    # center: n_fft/2 padded on both sides by pad_mode, 1 + n // hop frames (librosa).
    # valid: no padding, 1 + (n - n_fft) // hop frames.
    # same_theano: n_fft/2 zeros on the left, ceil(n / hop) frames (kapre on Theano).
    # same_tensorflow: ceil(n / hop) frames, padding split with the smaller half on the left (kapre on TensorFlow).
    framing: Literal["center", "valid", "same_theano", "same_tensorflow"]
    pad_mode: Literal["constant", "reflect"]
    # hann: periodic, 0.5 - 0.5 cos(2 pi k / n_fft). hann_reversed: the same read backwards (Theano flips kernels).
    window: Literal["hann", "hann_reversed"]
    n_mels: int = 0  # this and the next four: mel and mfcc, which must state them
    fmin: float = 0.0
    fmax: float = 0.0
    mel_scale: Literal["slaney", "htk"] = "slaney"
    mel_norm: Literal["slaney", "none"] = "none"  # slaney: each filter divided by half its bandwidth in Hz
    n_mfcc: int = 0  # mfcc, which must state it
    n_bins: int = 0  # this and the next two: stft, which must state them
    first_bin: int = 0
    merged_bins: int = 0
    power_exponent: int  # mel power is raised to this before the log: 1, or 2 where the original squared it again
    rounding: Literal["none", "float16"]  # float16: mel power rounded to nearest even, as the original stored it
    log: Log
    # scalar / per_mel / per_frame: y = scale * x + shift with tensors input.scale, input.shift of [1], [n_rows] (per
    # row, whatever the kind), [n_frames]; standardize (not mfcc): (x - mean) / (std + 1e-10) over the segment, biased
    # std; none: y = x.
    normalization: Literal["none", "scalar", "per_mel", "per_frame", "standardize"]
    layout: Literal["mel_time", "time_mel"]  # mfcc: mel_time only

    @property
    def n_rows(self) -> int:
        """Mel bands, STFT bins, or MFCC and their deltas: the input's side that is not time."""
        return {"mel": self.n_mels, "stft": self.n_bins, "mfcc": 3 * self.n_mfcc}[self.kind]

    @property
    def time_axis(self) -> int:
        """Which side of the input [H, W] is time: 1 for layout "mel_time", 0 for "time_mel"."""
        return 1 if self.layout == "mel_time" else 0

    def shape(self, n_rows: int, n_frames: int) -> tuple[int, int]:
        """(H, W) of an input with so many rows and frames."""
        return (n_rows, n_frames) if self.time_axis == 1 else (n_frames, n_rows)

    def rows_and_frames(self, height: int, width: int) -> tuple[int, int]:
        """Rows and frames of an input [H, W]: the inverse of :meth:`shape`."""
        return (height, width) if self.time_axis == 1 else (width, height)

    @property
    def frames_stand_alone(self) -> bool:
        """Whether a frame's values do not depend on the others: no delta, maximum, mean or deviation over a segment."""
        log = self.log
        return (
            self.kind != "mfcc"
            and self.normalization != "standardize"
            and not (log.kind == "db" and (log.ref == "max" or log.top_db is not None))
        )

    def idle_fields(self) -> list[str]:
        """Fields of other kinds that say nothing; JSON leaves them out."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return [name for name in _FOREIGN[self.kind] if getattr(self, name) == defaults[name]]

    def n_frames(self, n_samples: int) -> int:
        """Number of frames that a segment of ``n_samples`` gives (0 if it is too short for one)."""
        if self.framing == "center":
            return 1 + n_samples // self.hop_length
        if self.framing == "valid":
            return max(0, 1 + (n_samples - self.n_fft) // self.hop_length)
        return -(-n_samples // self.hop_length)

    def pad_left(self, n_samples: int) -> int:
        """Samples of padding in front of the first frame, for a segment of ``n_samples``."""
        if self.framing == "valid":
            return 0
        if self.framing == "same_tensorflow":
            total = (self.n_frames(n_samples) - 1) * self.hop_length + self.n_fft - n_samples
            return max(total, 0) // 2
        return self.n_fft // 2


_MEL_FIELDS = ("n_mels", "fmin", "fmax", "mel_scale", "mel_norm")
# Fields that a front end of this kind must state; those of other kinds it must not.
_KIND_FIELDS = {
    "mel": _MEL_FIELDS,
    "mfcc": (*_MEL_FIELDS, "n_mfcc"),
    "stft": ("n_bins", "first_bin", "merged_bins"),
}
_FOREIGN = {
    kind: tuple(dict.fromkeys(f for fields in _KIND_FIELDS.values() for f in fields if f not in own))
    for kind, own in _KIND_FIELDS.items()
}


def check_range(path: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ModelError(f"document.{path}: {value} is out of range; allowed: {low} to {high}")


def check_frontend(fe: Frontend) -> None:
    """Raise ModelError where a value is out of range."""
    check_range("frontend.sample_rate", fe.sample_rate, 1000, 768_000)
    sizes = (256, 512) if fe.kind == "stft" else (512,)  # what the engine's FFT of 512 points can give
    if fe.n_fft not in sizes:
        raise ModelError(f"document.frontend.n_fft: {fe.n_fft} is not built; built: {', '.join(map(str, sizes))}")
    check_range("frontend.hop_length", fe.hop_length, 1, fe.n_fft)
    _check_rows(fe)
    check_range("frontend.power_exponent", fe.power_exponent, 1, 2)
    if fe.log.kind == "db":
        check_range("frontend.log.amin", fe.log.amin, 1e-30, 1.0)
        if fe.log.top_db is not None:
            check_range("frontend.log.top_db", fe.log.top_db, 1e-3, 1000.0)
    else:
        check_range("frontend.log.gain", fe.log.gain, 1e-6, 1e9)


def _check_rows(fe: Frontend) -> None:
    if fe.kind == "stft":
        n_bins = fe.n_fft // 2 + 1
        check_range("frontend.first_bin", fe.first_bin, 0, n_bins - 1)
        check_range("frontend.merged_bins", fe.merged_bins, 1, n_bins - fe.first_bin)
        check_range("frontend.n_bins", fe.n_bins, 1, (n_bins - fe.first_bin) // fe.merged_bins)
        return
    check_range("frontend.n_mels", fe.n_mels, 1, 1024)
    check_range("frontend.fmin", fe.fmin, 0, fe.sample_rate / 2)
    check_range("frontend.fmax", fe.fmax, fe.fmin, fe.sample_rate / 2)
    if fe.fmax <= fe.fmin:
        raise ModelError(f"document.frontend.fmax: {fe.fmax} must be above fmin = {fe.fmin}")
    if fe.kind == "mfcc":
        check_range("frontend.n_mfcc", fe.n_mfcc, 1, fe.n_mels)
        for name, value in (("layout", "time_mel"), ("normalization", "standardize")):
            if getattr(fe, name) == value:
                raise ModelError(f"document.frontend.{name}: {value!r} is not built for kind 'mfcc'")


def check_kind_fields(value: dict[str, Any], path: str) -> None:
    """Raise ModelError where the JSON of a front end lacks a field of its kind, or has one of another."""
    kind = value["kind"]
    for name in _KIND_FIELDS[kind]:
        if name not in value:
            raise ModelError(f"{path}.{name}: missing")
    for name in _FOREIGN[kind]:
        if name in value:
            raise ModelError(f"{path}.{name}: has no meaning for kind {kind!r}; it goes with {_kinds_of(name)}")


def _kinds_of(name: str) -> str:
    return ", ".join(kind for kind, fields in _KIND_FIELDS.items() if name in fields)
