"""Readers: blocks of float32 samples [n, channels] at the file's own rate, from the start or from a seek target.

All readers share one shape (:class:`Reader`). ``seek`` returns the position from which the following reads deliver
exactly the samples of an uninterrupted decode, which may lie before the target; the caller drops the difference.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import AudioError
from ..process import audio_libraries
from .levels import Stored
from .source import Source, Stream

if TYPE_CHECKING:
    import numpy as np

MIN_RATE, MAX_RATE = 1000, 768_000
MAX_CHANNELS = 1024  # libsndfile's own limit
MARK_EVERY = 64  # rows; at most so many of those decoded right before a failure are left out
# Samples of these formats do not depend on where decoding started (given the preroll). Those of GSM and G.72x do.
_EXACT_SUBTYPES = frozenset(
    ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "MS_ADPCM", "VORBIS", "OPUS")
)
# What a lossy decoder gives is not stored as floats; damage can make it loud.
_STORED: dict[str, Stored] = {"PCM_32": "int32", "FLOAT": "float", "DOUBLE": "float"}


class Reader(Protocol):
    """One decoder for one source; used by one thread at a time."""

    sample_rate: int
    n_channels: int
    n_frames: int | None  # per channel; None: only decoding can tell
    stored: Stored

    def can_seek(self) -> bool:
        """Whether ``seek`` gets near its target; where it cannot it returns 0."""

    def seek(self, frame: int) -> int:
        """Start again at ``frame`` or earlier; returns where."""

    def read_into(self, buffer: np.ndarray) -> int:
        """Fill ``buffer`` [n, channels] from the front; returns how many rows, 0 at the end."""

    def close(self) -> None: ...


def check_format(name: str, sample_rate: int, n_channels: int, max_rate: int | None = None) -> None:
    """Raise :class:`AudioError` for rates and channel counts that no recording has; ``max_rate``: that of its kind."""
    most = max_rate or MAX_RATE
    if not MIN_RATE <= sample_rate <= most:
        raise AudioError(f"{name}: sample rate {sample_rate} Hz is not supported; allowed: {MIN_RATE} to {most} Hz")
    if not 1 <= n_channels <= MAX_CHANNELS:
        raise AudioError(f"{name}: {n_channels} channels are not supported; allowed: 1 to {MAX_CHANNELS}")


class ArrayReader:
    """Samples that are already in memory: ``[n]`` or ``[n, channels]``, float or PCM integers."""

    def __init__(self, array: np.ndarray, sample_rate: int, name: str) -> None:
        import numpy as np

        if np.ma.is_masked(array):
            raise AudioError(f"{name}: has masked samples; fill them first (numpy.ma.filled)")
        if array.ndim not in (1, 2):
            raise AudioError(f"{name}: array of shape {array.shape}; allowed: [n_samples] or [n_samples, n_channels]")
        kind = array.dtype.kind
        if not (kind == "f" or (kind == "i" and array.dtype.itemsize <= 4) or array.dtype == np.uint8):
            raise AudioError(f"{name}: array of dtype {array.dtype}; allowed: float, int8, int16, int32, uint8")
        self._array = array if array.ndim == 2 else array[:, None]
        self.n_frames: int | None = self._array.shape[0]
        self.n_channels = self._array.shape[1]
        if self.n_channels > MAX_CHANNELS >= self._array.shape[0]:
            raise AudioError(f"{name}: array of shape {array.shape} looks transposed; allowed: [n_samples, n_channels]")
        if isinstance(sample_rate, bool) or not isinstance(sample_rate, numbers.Real) or sample_rate % 1 != 0:
            raise AudioError(f"{name}: sample_rate={sample_rate!r}; allowed: a whole number of Hz")
        self.sample_rate = int(sample_rate)
        check_format(name, self.sample_rate, self.n_channels)
        # The scale is libsndfile's: the most negative value becomes -1, and 8-bit unsigned is centred at 128.
        self._offset: int = 128 if array.dtype == np.uint8 else 0
        self._scale: Any = None if kind == "f" else np.float32(2.0 ** (1 - 8 * array.dtype.itemsize))
        self.stored: Stored = "float" if kind == "f" else "int32" if array.dtype.itemsize == 4 else "other"
        self._at: int = 0

    def can_seek(self) -> bool:
        return True

    def seek(self, frame: int) -> int:
        self._at = min(frame, self._array.shape[0])
        return self._at

    def read_into(self, buffer: np.ndarray) -> int:
        import numpy as np

        part = self._array[self._at : self._at + len(buffer)]
        out = buffer[: len(part)]
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes Inf, which is reported as such
            out[...] = part
        if self._offset:
            out -= np.float32(self._offset)
        if self._scale is not None:
            out *= self._scale
        self._at += len(part)
        return len(part)

    def close(self) -> None:
        self._array = self._array[:0]


@lru_cache(maxsize=1)
def _file_class() -> Any:
    """soundfile's class, which opens, seeks and reads inside the gate, and does not seek after each read.

    Such a seek, to the present position, costs MP3 and Vorbis a partial decode, and fails where a stream cannot seek at
    all. The gate is for threads that fork while others decode. ``close`` stays outside: garbage collection calls it as
    well, and may do so in the thread that forks.
    """
    import soundfile

    class File(soundfile.SoundFile):
        def __init__(self, file: int | Stream, closefd: bool = True) -> None:
            with audio_libraries:
                super().__init__(file, closefd=closefd)

        def seekable(self) -> bool:
            return False

        def seek(self, frames: int, whence: int = os.SEEK_SET) -> int:
            with audio_libraries:
                return super().seek(frames, whence)

        def buffer_read_into(self, buffer: Any, dtype: Any) -> int:
            with audio_libraries:
                return super().buffer_read_into(buffer, dtype)

    return File


class SndReader:
    """libsndfile behind :class:`Reader`.

    ``make_stream`` makes the virtual file to decode; None stands for the source itself. ``preroll`` is the number of
    frames to decode before a seek target; with None it never seeks. ``seek_is_exact`` is asked once, before the first
    seek.
    """

    def __init__(
        self,
        source: Source,
        warn: Callable[[str], None],
        make_stream: Callable[[], Stream] | None = None,
        preroll: int | None = 0,
        seek_is_exact: Callable[[], bool] | None = None,
    ) -> None:
        self.source = source
        self.warn = warn
        self.make_stream = make_stream
        self.preroll = preroll
        self.position = 0
        self._seek_is_exact = seek_is_exact
        self._stream: Stream | None = None
        self._file: Any = None
        file = self._open()
        self.sample_rate: int = file.samplerate
        self.n_channels: int = file.channels
        # libsndfile says 2**63 - 1 where it does not know the number.
        self.n_frames: int | None = file.frames if 0 <= file.frames < 1 << 62 else None
        self.stored: Stored = _STORED.get(file.subtype, "other")
        if file.subtype not in _EXACT_SUBTYPES:
            self.preroll = None

    def can_seek(self) -> bool:
        if self.preroll is not None and self._seek_is_exact is not None:
            if not self._seek_is_exact():
                self.preroll = None
            self._seek_is_exact = None
        return self.preroll is not None

    def _open(self, stream: Stream | None = None) -> Any:
        """Start a new decoder, on ``stream`` or else on the whole source; returns soundfile's object."""
        self.close()
        if stream is None and self.make_stream is not None:
            stream = self.make_stream()
        descriptor = self.source.descriptor
        if stream is None and descriptor is not None:
            self._stream = None
            os.lseek(descriptor, 0, os.SEEK_SET)
            self._file = _file_class()(descriptor, closefd=False)
        else:
            self._stream = stream = stream or Stream(self.source, [(0, self.source.size)])
            try:
                self._file = _file_class()(stream)
            finally:
                stream.check()
        self.position = 0
        self._fresh = True
        self._failure: str | None = None
        return self._file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def seek(self, frame: int) -> int:
        import soundfile

        target = max(0, frame - (self.preroll or 0)) if self.can_seek() else 0
        if not (self._fresh and self.position == 0):
            self._open()
        if target > 0:
            try:
                self.position = self._file.seek(target)
                self._fresh = False
            except soundfile.LibsndfileError:
                self.preroll = None  # a stream that cannot seek is read from its start
                self._open()
        return self.position

    def read_into(self, buffer: np.ndarray) -> int:
        import numpy as np
        import soundfile

        self._fresh = False
        if self._failure is not None:
            reason, self._failure = self._failure, None
            return self._after_error(buffer, reason)
        # soundfile raises without saying how much it had read. Rows that still hold the mark, NaN, were not filled.
        marks = buffer[::MARK_EVERY, 0]
        marks[:] = np.nan
        try:
            n = self._file.buffer_read_into(buffer, "float32")
        except soundfile.LibsndfileError as error:
            unfilled = np.flatnonzero(np.isnan(marks))
            n = max(0, int(unfilled[0] if len(unfilled) else len(marks)) - 1) * MARK_EVERY
            self.position += n
            self._check_stream()
            if n == 0:
                return self._after_error(buffer, error.error_string)
            self._failure = error.error_string  # libsndfile reports it once; afterwards it pretends to be at the end
            return n
        self._check_stream()
        self.position += n
        return n

    def _check_stream(self) -> None:
        if self._stream is not None:
            self._stream.check()

    def _after_error(self, buffer: np.ndarray, reason: str) -> int:
        """Go on after the decoder gave up before it delivered anything; returns like ``read_into``."""
        self.warn(f"decoding stopped at {self.position / self.sample_rate:.2f} s ({reason.strip().rstrip('.')})")
        return 0
