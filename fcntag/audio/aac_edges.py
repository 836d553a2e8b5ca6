"""Where the sound of an AAC track in an MP4 file starts and ends, as the file says it.

An AAC encoder puts priming samples in front of the sound and padding behind it. An MP4 file tells how many by an edit
list, or by iTunes' note "iTunSMPB". Both count in the track's time scale. HE-AAC usually has the scale of its core
there, so that one unit is two samples of the decoded sound.

FFmpeg's libraries disagree about that factor. Their decoders drop the priming themselves, but they take the count for
samples of the output. PyAV brings those libraries, so that HE-AAC starts up to 3072 samples too early in it, which
moves a tag's score by 0.03 and a window's by 0.13. FFmpeg 5.1 and 9 take the factor into account, 6.0 to 8.1 do not.
FFmpeg 9 also cuts the padding, the others leave it. All of them tell where a frame lies on the track's time line,
and that is right in all of them. So this module decides by the time line, and the result is the same with any PyAV:
what FFmpeg 9's command line gives. (Where an edit list starts in the middle of a frame of HE-AAC, FFmpeg 9 is off by
the rest of that frame. There the file's own number is kept, as FFmpeg 5.1 keeps it.)

ADTS, LATM, MPEG-TS and Flash have no such field. Everything that is in them is decoded, as FFmpeg does it.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

MAX_PRIMING = 16384  # FFmpeg takes a larger count in iTunSMPB for nonsense, too


class AacEdges:
    """Which samples of each decoded frame belong to the sound.

    ``units`` is the number of samples per unit of the track's time scale. Positions on the time line are in that unit.
    """

    def __init__(self, units: int, duration: int | None, n_packets: int, note: str) -> None:
        self._units = units
        self._duration = duration
        self._n_packets = n_packets  # in the index; a file in fragments has more
        self._priming, self._remainder, self._count = _parse(note)
        self._seen = 0
        self._start: int | None = None  # the sound's first position; None: the decoder knows it
        self._end: int | None = None  # and the one behind its last
        self._to_drop: int | None = None  # samples that are still to be dropped; None: before the first frame

    @classmethod
    def of(cls, container: Any, stream: Any, sample_rate: int) -> AacEdges | None:
        """The edges of ``stream``, or None where it is no AAC in MP4 or its time scale is no fraction of the rate."""
        if "mp4" not in container.format.name.split(",") or stream.codec_context.name not in ("aac", "aac_fixed"):
            return None
        units = Fraction(stream.time_base or 0) * sample_rate
        if units < 1 or units.denominator != 1:
            return None
        return cls(int(units), stream.duration, stream.frames, container.metadata.get("iTunSMPB", ""))

    def packet(self, pts: int | None, duration: int | None, is_last: bool) -> None:
        """Say, before its frames come, where a packet lies and how long it is."""
        self._seen += 1
        if pts is None:
            return
        if self._seen == 1:
            self._first_packet(pts)
        # Fragments have no common index. Where they end is unsaid, and FFmpeg keeps everything.
        if is_last and duration and self._seen <= self._n_packets:
            end = pts + duration
            # An edit list's length counts where it ends inside this packet. Any other is rounded, or a lie.
            if self._start == 0 and self._duration is not None and pts < self._duration < end:
                end = self._duration
            self._end = end if self._end is None else min(end, self._end)

    def _first_packet(self, pts: int) -> None:
        if pts < 0:  # an edit list has moved the packets, so that the sound starts at 0
            self._start = 0
        elif self._priming:
            self._start = pts + self._priming
            # A note that does not add up to the track's length was written for another version of the file.
            if self._duration == self._priming + self._count + self._remainder:
                self._end = self._start + self._count

    def of_frame(self, pts: int | None, n_samples: int) -> slice:
        """The samples to keep of a frame at ``pts`` with ``n_samples`` samples."""
        if pts is None:
            return slice(0, n_samples)
        # A frame ends on a whole unit, as a packet does. Where the decoder has moved its start to a place between two
        # units, libavcodec rounds that up.
        position = pts * self._units - n_samples % self._units
        if self._to_drop is None:
            self._to_drop = 0 if self._start is None else max(0, self._start * self._units - position)
        first = min(n_samples, self._to_drop)
        self._to_drop -= first
        stop = n_samples if self._end is None else min(n_samples, self._end * self._units - position)
        return slice(first, max(first, stop))


def _parse(note: str) -> tuple[int, int, int]:
    """Priming, remainder and number of samples in "iTunSMPB": hexadecimal words behind a reserved one; else zeros."""
    words = note.split()[1:4]
    try:
        priming, remainder, count = (int(word, 16) for word in words)
    except ValueError:
        return 0, 0, 0
    return (priming, remainder, count) if 0 < priming < MAX_PRIMING and count > 0 else (0, 0, 0)
