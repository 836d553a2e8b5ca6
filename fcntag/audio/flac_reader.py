"""The reader of FLAC: libsndfile on the file as it is, or on a stream with what is wrong put right.

libsndfile is the witness. A repair has to deliver whatever libsndfile delivers of the file itself; one that would
deliver other samples is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .flac import Frame, read_info
from .flac_frames import (
    FrameScan,
    good_frames,
    holds_second_stream,
    stream_of_frame,
    stream_of_frames,
    true_total,
    whole_stream,
)
from .readers import SndReader
from .source import Source, Stream

if TYPE_CHECKING:
    import numpy as np

COMPARE_FRAMES = 1 << 16
SECOND_STREAM = "another FLAC stream follows the first; only the first is used"


class FlacReader(SndReader):
    """FLAC whose header is made true before opening, and whose bad frames are taken out when one is met."""

    def __init__(self, source: Source, offset: int, warn: Callable[[str], None]) -> None:
        self.warn = warn
        self._info = info = read_info(source, offset)
        self._scan: FrameScan | None = None
        self._repaired = False
        self._searched = False  # for a second stream
        for text in info.lies:
            warn(text)
        plain = None if offset == 0 else lambda: Stream(source, [(offset, source.size - offset)])
        n_frames = true_total(source, info)
        exact = info.numbered and info.base == 0  # whether a decoder finds positions
        header_is_right = info.header_is_right and n_frames == info.total
        self._end = info.audio_end
        if n_frames is None or (info.total != n_frames and not (info.total == 0 and info.sizes_are_declared)):
            n_frames, exact = self._count(source, exact)
            header_is_right = info.header_is_right and n_frames == info.total and self._end == info.audio_end
        self._may_be_longer = info.total == 0 and self._scan is None
        corrected = lambda: whole_stream(source, info, self._end)  # noqa: E731
        self._open_best(source, plain if header_is_right else corrected, corrected, header_is_right, exact)
        self.n_frames = n_frames

    def _open_best(
        self,
        source: Source,
        make: Callable[[], Stream] | None,
        corrected: Callable[[], Stream],
        header_is_right: bool,
        exact: bool,
    ) -> None:
        import soundfile

        preroll = 0 if exact else None
        try:
            super().__init__(source, self.warn, make, preroll)
        except soundfile.LibsndfileError as error:
            if not header_is_right:
                raise
            super().__init__(source, self.warn, corrected, preroll)
            reason = error.error_string.strip().rstrip(".")
            self.warn(f"the FLAC metadata are damaged ({reason}); the sound was read without them")

    def _count(self, source: Source, exact: bool) -> tuple[int, bool]:
        """Samples by all whole frames, and whether a decoder finds positions; warns where the header lies."""
        info = self._info
        self._scan = scan = good_frames(source, info)
        n_good = scan.n_samples
        last = scan.frames[-1][0] if scan.frames else None
        self._end = scan.end if scan.frames else info.audio_start
        ends_whole = scan.second_stream or self._end == info.audio_end
        if scan.tail is not None and self._is_whole(source, scan.tail):
            # Its end is not known, so that what lies behind it stays in the stream. Nobody reads so far.
            last, n_good, ends_whole = scan.tail, n_good + scan.tail.n_samples, False
            self._end = min(info.audio_end, last.offset + last.longest)
        if last is None:
            raise ValueError("no audio samples (no whole FLAC frame)")
        if scan.second_stream:
            self.warn(SECOND_STREAM)
        n_frames = n_good if scan.is_whole or not info.numbered else info.end_sample(last)
        if scan.is_whole and (ends_whole or last is scan.tail):
            if info.total not in (0, n_frames):
                self.warn(f"the FLAC header promises {info.total} samples, the file has {n_frames}")
        else:
            self._warn_of_loss(scan, n_good)
        return n_frames, exact and ends_whole and scan.is_whole and info.end_sample(last) == n_frames

    def _is_whole(self, source: Source, frame: Frame) -> bool:
        """Whether the decoder takes the frame, whatever follows it."""
        import numpy as np
        import soundfile

        try:
            reader = SndReader(source, lambda text: None, lambda: stream_of_frame(source, self._info, frame))
        except soundfile.LibsndfileError:
            return False
        try:
            return reader.read_into(np.empty((frame.n_samples, reader.n_channels), np.float32)) == frame.n_samples
        finally:
            reader.close()

    def _warn_of_loss(self, scan: FrameScan, n_good: int) -> None:
        rate, total = self._info.rate, self._info.total
        end = scan.end if scan.second_stream and scan.frames else self._info.audio_end
        lost = end - self._info.audio_start - scan.n_bytes
        if total > n_good:
            of = f"{n_good / rate:.2f} of {total / rate:.2f} s"
            self.warn(f"the FLAC stream is damaged or cut off: {of} can be decoded")
        elif lost:
            self.warn(f"{lost} bytes of the FLAC stream are damaged and were left out")

    def read_into(self, buffer: np.ndarray) -> int:
        # What lies behind the last frame would be an error to the decoder, and a second stream would be sound.
        n_left = len(buffer) if self.n_frames is None or self._may_be_longer else self.n_frames - self.position
        if n_left <= 0:
            self._look_for_second_stream()
            return 0
        n = super().read_into(buffer[:n_left])
        if n == 0 and not self._repaired and not self._may_be_longer:
            return self._after_error(buffer[:n_left], "it ended early")
        return n

    def _look_for_second_stream(self) -> None:
        """Warn of a file that was appended: its frames may look like those of the first, with the right last position.

        The whole file is searched, which is worth it only where all of it has been read.
        """
        if not self._searched and holds_second_stream(self.source, self._info):
            self.warn(SECOND_STREAM)
        self._searched = True

    def _after_error(self, buffer: np.ndarray, reason: str) -> int:
        import numpy as np

        if self._repaired:
            return super()._after_error(buffer, reason)
        self._repaired = True
        scan = self._scan or good_frames(self.source, self._info)
        before, target = self.make_stream, self.position
        self.make_stream = lambda: stream_of_frames(self.source, self._info, scan)
        if not scan.frames or not self._repair_agrees(before, target):
            self.make_stream = before
            return super()._after_error(buffer, reason)
        if self._scan is None:
            self._warn_of_loss(scan, scan.n_samples)
        self.preroll = None
        self._open()
        skipped = np.empty((COMPARE_FRAMES, self.n_channels), np.float32)
        while self.position < target:
            if super().read_into(skipped[: target - self.position]) == 0:
                return 0
        return super().read_into(buffer)

    def _repair_agrees(self, before: Callable[[], Stream] | None, n_frames: int) -> bool:
        """Whether the repaired stream begins with the ``n_frames`` samples that were delivered without the repair.

        Silence agrees with everything: a decoder fills gaps with it, and mutes a frame whose checksum is wrong.
        """
        import numpy as np

        quiet = lambda text: None  # noqa: E731
        witness, repaired = (SndReader(self.source, quiet, make) for make in (before, self.make_stream))
        try:
            if (witness.n_channels, witness.sample_rate) != (repaired.n_channels, repaired.sample_rate):
                return n_frames == 0
            a, b = (np.empty((COMPARE_FRAMES, self.n_channels), np.float32) for _ in range(2))
            while witness.position < n_frames:
                n = min(COMPARE_FRAMES, n_frames - witness.position)
                n = witness.read_into(a[:n])
                if n == 0:
                    break
                if _fill(repaired, b[:n]) < n:
                    return False
                if not ((a[:n] == b[:n]) | (a[:n] == 0) | (b[:n] == 0)).all():
                    return False
            return True
        finally:
            witness.close()
            repaired.close()


def _fill(reader: SndReader, buffer: np.ndarray) -> int:
    """Read until ``buffer`` is full or the sound ends; returns how many rows."""
    done = 0
    while done < len(buffer) and (n := reader.read_into(buffer[done:])) > 0:
        done += n
    return done
