"""The reader of FLAC: libsndfile on the file as it is, or on a stream with what is wrong put right.

libsndfile is the witness. A repair has to deliver whatever libsndfile delivers of the file itself; one that would
deliver other samples is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .flac import read_info
from .flac_frames import FrameScan, good_frames, stream_of_frames, true_total, whole_stream
from .readers import SndReader
from .source import Source, Stream

if TYPE_CHECKING:
    import numpy as np

COMPARE_FRAMES = 1 << 16


class FlacReader(SndReader):
    """FLAC whose header is made true before opening, and whose bad frames are taken out when one is met."""

    def __init__(self, source: Source, offset: int, warn: Callable[[str], None]) -> None:
        self.warn = warn
        self._info = info = read_info(source, offset)
        self._scan: FrameScan | None = None
        self._repaired = False
        for text in info.lies:
            warn(text)
        plain = None if offset == 0 else lambda: Stream(source, [(offset, source.size - offset)])
        n_frames = true_total(source, info)
        exact = info.numbered and info.base == 0  # whether a decoder finds positions
        header_is_right = info.header_is_right and n_frames == info.total
        end = None
        if n_frames is None or (info.total != n_frames and not (info.total == 0 and info.sizes_are_declared)):
            n_frames, exact = self._count(source, n_frames)
            end = None if self._scan is None else self._scan.end
            header_is_right = info.header_is_right and n_frames == info.total and end == info.audio_end
        corrected = lambda: whole_stream(source, info, end)  # noqa: E731
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

    def _count(self, source: Source, by_number: int | None) -> tuple[int, bool]:
        """Samples by all whole frames, and whether a decoder finds positions; warns where the header lies.

        ``by_number`` is the position behind the last frame, None where the sound does not end with a whole frame.
        """
        info = self._info
        self._scan = scan = good_frames(source, info)
        if not scan.frames:
            raise ValueError("no audio samples (no whole FLAC frame)")
        if scan.second_stream:
            self.warn("another FLAC stream follows the first; only the first is used")
        last = scan.frames[-1][0]
        if scan.is_whole:
            n_frames = scan.n_samples  # there is no gap that a position could tell of
        elif by_number is not None and not scan.second_stream:
            n_frames = by_number
        else:
            n_frames = info.end_sample(last) if info.numbered else scan.n_samples
        ends_whole = scan.second_stream or scan.end == info.audio_end
        if not ends_whole or not scan.is_whole:
            self._warn_of_loss(scan)
        elif info.total not in (0, n_frames):
            self.warn(f"the FLAC header promises {info.total} samples, the file has {n_frames}")
        exact = info.numbered and info.base == 0 and info.end_sample(last) == n_frames
        return n_frames, exact and ends_whole and scan.is_whole

    def _warn_of_loss(self, scan: FrameScan) -> None:
        rate, total = self._info.rate, self._info.total
        lost = (scan.end if scan.second_stream else self._info.audio_end) - self._info.audio_start - scan.n_bytes
        if total > scan.n_samples:
            of = f"{scan.n_samples / rate:.2f} of {total / rate:.2f} s"
            self.warn(f"the FLAC stream is damaged or cut off: {of} can be decoded")
        elif lost:
            self.warn(f"{lost} bytes of the FLAC stream are damaged and were left out")

    def _after_error(self, buffer: np.ndarray, reason: str) -> int:
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
            self._warn_of_loss(scan)
        self.preroll = None
        self._open()
        while self.position < target:
            if super().read_into(buffer[: target - self.position]) == 0:
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
