"""The front end of a model document: from a waveform to the network's input, as data, with what it may hold.

Part of ``fcntag/model/document.py``, which validates the whole.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ModelError

DELTA_WIDTH = 9  # frames that a delta of MFCC is fitted to
MIN_FFT, MAX_FFT = 64, 8192  # any length between, odd and prime ones too
MAX_HOP = 65536


@dataclass(frozen=True, kw_only=True)
class Log:
    """The logarithm of the rows m >= 0 that the filters give, after ``power_exponent`` and rounding.

    ``db``: 10 * log10(max(m, amin)); then minus the segment's maximum if ``ref == "max"``; then floored at
    (segment maximum - top_db) if ``top_db`` is set.
    ``log10p1``: log10(gain * m + 1) (musicnn). ``log1p``: ln(gain * m + 1).
    ``ln`` and ``log10``: of max(m, amin) + offset; one of the two must be positive.
    ``none``: m itself.
    """

    kind: Literal["db", "log10p1", "log1p", "ln", "log10", "none"]
    gain: float = 0.0  # log10p1 and log1p only
    amin: float = 0.0  # db, ln and log10 only
    ref: Literal["one", "max"] = "one"  # db only
    top_db: float | None = None  # db only, in dB
    offset: float = 0.0  # ln and log10 only


@dataclass(frozen=True, kw_only=True)
class Frontend:
    """Waveform ``[n_samples]`` to the network's input ``[H, W]``; librosa's words, in Hz and samples.

    Rows, by ``kind``. mel: ``n_mels`` bands of the ``spectrum``, then exponent, rounding and log. stft: ``n_bins`` rows
    in the place of mel bands, row r the sum of the spectrum's bins ``first_bin + r * merged_bins`` and the
    ``merged_bins - 1`` after it. mfcc: the first ``n_mfcc`` coefficients of the log-mel (its ``log`` applied), as
    librosa.feature.mfcc has them (DCT-II over the bands, orthonormal), then as many deltas and delta-deltas
    (librosa.feature.delta, order 1 and 2, width 9, mode "interp"), and only then the normalization.

    A field with a default may be missing in JSON. The defaults of those that came later are what was meant before.
    """

    kind: Literal["mel", "stft", "mfcc"]
    sample_rate: int
    n_fft: int  # MIN_FFT to MAX_FFT
    hop_length: int  # 1 to MAX_HOP; it may exceed n_fft
    # center: n_fft // 2 padded on both sides by pad_mode, 1 + n // hop frames (librosa); for an odd n_fft, which leaves
    # one sample less, 1 + (n - 1) // hop.
    # valid: no padding, 1 + (n - n_fft) // hop frames; with win_position "start", 1 + (n - win_length) // hop.
    # same_theano: n_fft // 2 zeros on the left, ceil(n / hop) frames (kapre on Theano).
    # same_tensorflow: ceil(n / hop) frames, padding split with the smaller half on the left (kapre on TensorFlow).
    # pad_end: ceil(n / hop) frames, zeros behind only (tf.signal.stft).
    framing: Literal["center", "valid", "same_theano", "same_tensorflow", "pad_end"]
    pad_mode: Literal["constant", "reflect"]
    # hann: periodic, 0.5 - 0.5 cos(2 pi k / L) with L = win_length. hann_reversed: the same read backwards (Theano
    # flips kernels). hann_symmetric: the same over L - 1. hamming, hamming_symmetric: 0.54 - 0.46 cos(...).
    window: Literal["hann", "hann_reversed", "hann_symmetric", "hamming", "hamming_symmetric"]
    win_length: int = 0  # 1 to n_fft (symmetric windows: from 2); 0: n_fft
    # Where the window lies in its n_fft points. center: (n_fft - win_length) // 2 zeros in front (librosa, PyTorch).
    # start: zeros behind only (tf.signal).
    win_position: Literal["center", "start"] = "center"
    spectrum: Literal["power", "magnitude"] = "power"  # of every bin, before the filters
    n_mels: int = 0  # this and the next four: mel and mfcc, which must state them
    fmin: float = 0.0
    fmax: float = 0.0
    # slaney, htk: triangles in Hz between edges that are even in mel. tensorflow: HTK's scale, triangles in mel, and
    # nothing of bin 0 (tf.signal.linear_to_mel_weight_matrix).
    mel_scale: Literal["slaney", "htk", "tensorflow"] = "slaney"
    # slaney: each filter divided by half its bandwidth in Hz. sum: by the sum of its weights over the bins.
    mel_norm: Literal["slaney", "none", "sum"] = "none"
    n_mfcc: int = 0  # mfcc, which must state it
    n_bins: int = 0  # this and the next two: stft, which must state them
    first_bin: int = 0
    merged_bins: int = 0
    power_exponent: int  # what the filters give is raised to this before the log: 1, or 2 where the original squared it
    rounding: Literal["none", "float16"]  # float16: mel power rounded to nearest even, as the original stored it
    log: Log
    # scalar / per_mel / per_frame: y = scale * x + shift with tensors input.scale, input.shift of [1], [n_rows] (per
    # row, whatever the kind), [n_frames]; standardize (not mfcc): (x - mean) / (std + 1e-10) over the segment, biased
    # std; standardize_per_mel (not mfcc): the same of every row by itself, over the segment's frames; none: y = x.
    normalization: Literal["none", "scalar", "per_mel", "per_frame", "standardize", "standardize_per_mel"]
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
            and not self.standardized_axes
            and not (log.kind == "db" and (log.ref == "max" or log.top_db is not None))
        )

    @property
    def standardized_axes(self) -> tuple[int, ...]:
        """Axes of [B, n_rows, n_frames] that the normalization takes mean and deviation over; () where it has none."""
        return {"standardize": (1, 2), "standardize_per_mel": (2,)}.get(self.normalization, ())

    @property
    def window_length(self) -> int:
        """Points of the window: ``win_length``, or ``n_fft`` where that is 0."""
        return self.win_length or self.n_fft

    @property
    def frame_length(self) -> int:
        """How far a frame reaches into the signal: no sample behind so many has a part in it."""
        return self.window_length if self.win_position == "start" else self.n_fft

    def idle_fields(self) -> list[str]:
        """Fields of other kinds, or later than the first documents, that say nothing; JSON leaves them out."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return [name for name in (*_FOREIGN[self.kind], *_LATER) if getattr(self, name) == defaults[name]]

    def n_frames(self, n_samples: int) -> int:
        """Number of frames that a segment of ``n_samples`` gives (0 if it is too short for one)."""
        if self.framing == "center":
            return 1 + (n_samples - self.n_fft % 2) // self.hop_length
        if self.framing == "valid":
            return max(0, 1 + (n_samples - self.frame_length) // self.hop_length)
        return -(-n_samples // self.hop_length)

    def pad_left(self, n_samples: int) -> int:
        """Samples of padding in front of the first frame, for a segment of ``n_samples``."""
        if self.framing in ("valid", "pad_end"):
            return 0
        if self.framing == "same_tensorflow":
            total = (self.n_frames(n_samples) - 1) * self.hop_length + self.n_fft - n_samples
            return max(total, 0) // 2
        return self.n_fft // 2


_LATER = ("win_length", "win_position", "spectrum")  # fields that the first documents do not have
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


_LOG_FIELDS = {  # a field of Log -> the kinds that it has a meaning for
    "gain": ("log10p1", "log1p"),
    "amin": ("db", "ln", "log10"),
    "ref": ("db",),
    "top_db": ("db",),
    "offset": ("ln", "log10"),
}


def check_range(path: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ModelError(f"document.{path}: {value} is out of range; allowed: {low} to {high}")


def check_frontend(fe: Frontend) -> None:
    """Raise ModelError where a value is out of range."""
    check_range("frontend.sample_rate", fe.sample_rate, 1000, 768_000)
    check_range("frontend.n_fft", fe.n_fft, MIN_FFT, MAX_FFT)
    check_range("frontend.hop_length", fe.hop_length, 1, MAX_HOP)
    if fe.win_length:
        check_range("frontend.win_length", fe.win_length, 2 if fe.window.endswith("_symmetric") else 1, fe.n_fft)
    _check_rows(fe)
    check_range("frontend.power_exponent", fe.power_exponent, 1, 2)
    _check_log(fe.log)


def _check_log(log: Log) -> None:
    for field in dataclasses.fields(log):
        kinds = _LOG_FIELDS.get(field.name, (log.kind,))
        if log.kind not in kinds and getattr(log, field.name) != field.default:
            raise ModelError(
                f"document.frontend.log.{field.name}: has no meaning for kind {log.kind!r}; "
                f"it goes with {', '.join(kinds)}"
            )
    if log.kind in _LOG_FIELDS["gain"]:
        check_range("frontend.log.gain", log.gain, 1e-6, 1e9)
    elif log.kind == "db":
        check_range("frontend.log.amin", log.amin, 1e-30, 1.0)
        if log.top_db is not None:
            check_range("frontend.log.top_db", log.top_db, 1e-3, 1000.0)
    elif log.kind != "none":
        for name in ("amin", "offset"):
            if getattr(log, name) != 0:
                check_range(f"frontend.log.{name}", getattr(log, name), 1e-30, 1e9)
        if log.amin == log.offset == 0:
            raise ModelError(
                f"document.frontend.log: amin and offset are 0, and silence has no logarithm; for kind {log.kind!r} "
                "one of them must be 1e-30 to 1e9"
            )


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
        for name, built in (
            ("layout", ("mel_time",)),
            ("normalization", ("none", "scalar", "per_mel", "per_frame")),
        ):
            value = getattr(fe, name)
            if value not in built:
                raise ModelError(
                    f"document.frontend.{name}: {value!r} is not built for kind 'mfcc'; built: {', '.join(built)}"
                )


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
