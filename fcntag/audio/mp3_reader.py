"""The readers of MPEG audio: one for a run of mono or of stereo, and one for a stream that changes between the two."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from . import mp3_stream
from .levels import Stored
from .mp3 import DECODER_DELAY, Scan
from .readers import SndReader
from .source import Source

if TYPE_CHECKING:
    import numpy as np


def mp3_reader(source: Source, scan: Scan, warn: Callable[[str], None]) -> Mp3Reader | Mp3RunsReader:
    return Mp3RunsReader(source, scan, warn) if scan.following else Mp3Reader(source, scan, warn)


class Mp3Reader(SndReader):
    """MPEG audio as a clean stream of its frames; a seek makes one that starts some frames ahead of the target."""

    def __init__(self, source: Source, scan: Scan, warn: Callable[[str], None]) -> None:
        self.warn = warn
        self._scan = scan
        for text in scan.warnings:
            warn(text)
        plain = self._open_plain(source, scan)
        if not plain:
            super().__init__(source, warn, lambda: mp3_stream.clean_stream(source, scan))
        if scan.tag is None or not scan.tag.frames_at:
            if plain and (self.n_frames or 0) < scan.n_samples:
                self.make_stream = lambda: mp3_stream.clean_stream(source, scan)
                self._open()
            self.n_frames = scan.n_samples - scan.trim_end
        self._skipped = mp3_stream.skipped_at_start(scan)
        at_end = max(0, mp3_stream.end_padding(scan) - DECODER_DELAY) if self._skipped else scan.trim_end
        # Positions can be computed only where the decoder trims as much as the header says.
        self._can_seek = scan.n_samples - (self.n_frames or 0) == self._skipped + at_end

    def _open_plain(self, source: Source, scan: Scan) -> bool:
        """Try to give the decoder the file as it is, which it may refuse for a tag that it does not know."""
        import soundfile

        if not scan.plain or scan.following:
            return False
        try:
            super().__init__(source, self.warn)
        except soundfile.LibsndfileError:
            return False
        return True

    def can_seek(self) -> bool:
        return self._can_seek

    def seek(self, frame: int) -> int:
        per_frame = self._scan.format.frame_samples
        first = (frame + self._skipped) // per_frame - mp3_stream.preroll_frames(self._scan.format)
        first -= first % mp3_stream.ALIGN_FRAMES
        if first <= 0 or not self._can_seek or first >= self._scan.n_frames:
            if not (self._fresh and self.position == 0):
                self._open()
            return 0
        self._open(mp3_stream.clean_stream(self.source, self._scan, first))
        self._fresh = False
        self.position = first * per_frame - self._skipped
        # Until the reservoir is filled the samples differ; the caller drops everything before ``frame``.
        return self.position

    def read_into(self, buffer: np.ndarray) -> int:
        # The end padding is cut by the decoder only in a stream that starts with the header.
        if self.n_frames is not None and self.position + len(buffer) > self.n_frames:
            buffer = buffer[: max(0, self.n_frames - self.position)]
            if len(buffer) == 0:
                return 0
        return super().read_into(buffer)


class Mp3RunsReader:
    """Runs of mono and of stereo one behind the other, all of them as stereo; every pass starts at 0.

    A decoder cannot change its number of channels, so each run gets one of its own.
    """

    def __init__(self, source: Source, scan: Scan, warn: Callable[[str], None]) -> None:
        self._source = source
        self._runs = [scan, *scan.following]
        self._warn = warn
        self.sample_rate = scan.format.sample_rate
        self.n_channels = 2
        self.stored: Stored = "other"
        self.n_frames: int | None = sum(self._length(run) for run in self._runs)
        self._reader: Mp3Reader | None = None
        self.seek(0)

    def _length(self, run: Scan) -> int:
        if run.tag is None or not run.tag.frames_at:
            return run.n_samples - run.trim_end
        reader = Mp3Reader(self._source, run, self._warn)  # only the decoder knows how much it trims
        reader.close()
        return reader.n_frames or 0

    def can_seek(self) -> bool:
        return False

    def seek(self, frame: int) -> int:
        self.close()
        self._next = 0
        return 0

    def read_into(self, buffer: np.ndarray) -> int:
        import numpy as np

        while True:
            if self._reader is None:
                if self._next == len(self._runs):
                    return 0
                self._reader = Mp3Reader(self._source, self._runs[self._next], self._warn)
                self._next += 1
            if self._reader.n_channels == self.n_channels:
                n = self._reader.read_into(buffer)
            else:
                mono = np.empty((len(buffer), 1), np.float32)
                n = self._reader.read_into(mono)
                buffer[:n] = mono[:n]
            if n > 0:
                return n
            self.close()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
