"""MPEG audio (layers I-III): finding the bytes of a file that are whole frames of one stream.

libsndfile believes the Xing/Info header's frame count, or without one estimates the length from the first frame's bit
rate and stops there, which loses the end of most variable bit rate files. A frame in the wrong place, a cut frame or
a second file behind the first makes libmpg123 write to stderr, resynchronise and sometimes give up. So every frame
header is visited first (in blocks of bounded size). :mod:`fcntag.audio.mp3_stream` makes a clean stream of the result.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, field

from .id3 import audio_end, skip_id3v2
from .source import Source

READ_BYTES = 1 << 20
SEARCH_BYTES = 1 << 20  # how far behind the tags the first frame may lie
RESYNC_BYTES = 1 << 22  # how much damaged data in one piece is searched for the next frame
MAX_WARNINGS = 3  # of one kind; more become one sentence
CONFIRM = 3  # consecutive frames that make a sync word believable
ACCIDENT_BYTES = 1 << 14
DECODER_DELAY = 529  # samples that libmpg123 adds to the encoder's delay
_SYNC = re.compile(rb"\xff[\xe2-\xff]")
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
# kbit/s by (MPEG-1?, layer), index 1..14. Source: ISO/IEC 11172-3 table 3-B.2 and ISO/IEC 13818-3.
_KBITS = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


@dataclass(frozen=True)
class FrameFormat:
    """The properties that all frames of one stream share."""

    version: int  # the header's two bits: 3 MPEG-1, 2 MPEG-2, 0 MPEG-2.5
    layer: int
    rate_index: int
    mono: bool
    sizes: dict[int, int] = field(compare=False, repr=False)  # second and third header byte -> frame size in bytes

    @property
    def family(self) -> tuple[int, int, int]:
        """What cannot change within a sound. The number of channels can: the two are mixed anyway."""
        return self.version, self.layer, self.rate_index

    @property
    def sample_rate(self) -> int:
        return _RATES[self.version][self.rate_index]

    @property
    def frame_samples(self) -> int:
        if self.layer == 1:
            return 384
        return 1152 if self.layer == 2 or self.version == 3 else 576

    @property
    def side_info_bytes(self) -> int:
        if self.version == 3:
            return 17 if self.mono else 32
        return 9 if self.mono else 17


def _frame_size(version: int, layer: int, kbits: int, rate: int, padding: int) -> int:
    if layer == 1:
        return (12 * kbits * 1000 // rate + padding) * 4
    per_frame = 72 if layer == 3 and version != 3 else 144
    return per_frame * kbits * 1000 // rate + padding


_FORMATS: dict[tuple[int, int, int, bool], FrameFormat] = {}
for _version in _RATES:
    for _layer in (1, 2, 3):
        for _rate_index in range(3):
            _sizes = {}
            for _index, _kbits in enumerate(_KBITS[_version == 3, _layer], start=1):
                for _low in range(4):  # padding and private bit
                    for _crc in (0, 1):
                        _second = 0xE0 | _version << 3 | (4 - _layer) << 1 | _crc
                        _third = _index << 4 | _rate_index << 2 | _low
                        _sizes[_second << 8 | _third] = _frame_size(
                            _version, _layer, _kbits, _RATES[_version][_rate_index], _low >> 1
                        )
            for _mono in (False, True):
                _key = (_version, _layer, _rate_index, _mono)
                _FORMATS[_key] = FrameFormat(_version, _layer, _rate_index, _mono, _sizes)


def parse_header(header: bytes) -> tuple[FrameFormat, int] | None:
    """Format and frame size in bytes of a 4-byte frame header; None if it is not one (free format counts as not)."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0 or header[3] & 3 == 2:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    rate_index = header[2] >> 2 & 3
    if version == 1 or layer == 4 or rate_index == 3:
        return None
    found = _FORMATS[version, layer, rate_index, header[3] >> 6 == 3]
    size = found.sizes.get(header[1] << 8 | header[2])
    return None if size is None else (found, size)


@dataclass
class Tag:
    """A Xing, Info or VBRI header: a first frame that carries no sound."""

    offset: int
    size: int
    kind: bytes
    n_frames: int | None = None
    n_bytes: int = 0
    frames_at: int = 0  # offset of the count inside the frame
    bytes_at: int = 0
    delay: int = 0  # the encoder's, in samples
    padding: int = 0
    delay_at: int = 0  # offset of the 3 bytes of delay and padding; 0: the frame is too short for them


def read_tag(source: Source, offset: int, size: int, frame_format: FrameFormat) -> Tag | None:
    """The Xing, Info or VBRI header in the frame at ``offset``, or None."""
    if frame_format.layer != 3:
        return None
    frame = source.read_at(offset, size)
    if frame[36:40] == b"VBRI":
        return Tag(offset, size, b"VBRI")
    for at in (4 + frame_format.side_info_bytes, 6 + frame_format.side_info_bytes):  # without and with a CRC
        if frame[at : at + 4] in (b"Xing", b"Info") and len(frame) >= at + 8:
            break
    else:
        return None
    tag = Tag(offset, size, frame[at : at + 4])
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    at += 8
    for bit, n_bytes in ((1, 4), (2, 4), (4, 100), (8, 4)):
        if not flags & bit:
            continue
        if at + n_bytes > len(frame):
            return tag
        if bit == 1:
            tag.n_frames, tag.frames_at = int.from_bytes(frame[at : at + 4], "big"), at
        elif bit == 2:
            tag.n_bytes, tag.bytes_at = int.from_bytes(frame[at : at + 4], "big"), at
        at += n_bytes
    if at + 24 <= len(frame):
        tag.delay_at = at + 21
        packed = int.from_bytes(frame[at + 21 : at + 24], "big")
        tag.delay, tag.padding = packed >> 12, packed & 0xFFF
    return tag


@dataclass
class Scan:
    """The result of :func:`scan`: where the good frames are, of one run of mono or of stereo.

    A stream that changes between the two has further runs in ``following`` of the first. All share the lists of
    damage and of warnings.
    """

    format: FrameFormat
    tag: Tag | None = None
    last_tag: Tag | None = None  # of a second file behind the first; its padding ends the sound
    plain: bool = True  # the decoder can be given the file as it is (if its own estimate of the length is enough)
    complete: bool = False  # the last frame ends where the data end: nothing is cut off
    offsets: array[int] = field(default_factory=lambda: array("q"))  # of every frame with sound
    runs: list[tuple[int, int]] = field(default_factory=list)  # (index of the first frame, offset behind the last one)
    gaps: list[int] = field(default_factory=list)  # indices of frames in front of which data is missing
    odd: list[int] = field(default_factory=list)  # indices of single frames with the wrong number of channels
    samples_before: int = 0  # those of the runs before this one
    trim_end: int = 0  # samples to drop at the end of a run whose tag stands before an earlier one
    following: list[Scan] = field(default_factory=list)
    damage: list[tuple[int, str]] = field(default_factory=list)  # bytes left out, and where
    warnings: list[str] = field(default_factory=list)

    @property
    def n_frames(self) -> int:
        return len(self.offsets)

    @property
    def n_samples(self) -> int:
        """Samples per channel that the frames decode to, before a tag's delay and padding are taken off."""
        return len(self.offsets) * self.format.frame_samples

    def seconds(self) -> float:
        """Where the run ends, from the start of the stream on."""
        return (self.samples_before + self.n_samples) / self.format.sample_rate


def _is_chain(source: Source, at: int, end: int, want: FrameFormat | None) -> FrameFormat | None:
    """The format of the frame at ``at`` if ``CONFIRM`` headers of it follow, or two frames that end with the data."""
    found: FrameFormat | None = None
    for count in range(CONFIRM):
        if at == end and count == 2:
            break
        parsed = parse_header(source.read_at(at, 4)) if at + 4 <= end else None
        if parsed is None or (found or want or parsed[0]) != parsed[0]:
            return None
        found = parsed[0]
        at += parsed[1]
    return found


def _find_chain(
    source: Source, at: int, search_bytes: int, end: int, want: FrameFormat | None = None
) -> tuple[int, FrameFormat] | None:
    """Offset and format of the first believable run of frames that starts in [at, at + search_bytes)."""
    search_end = min(end, at + search_bytes)
    while at < search_end:
        n_bytes = min(READ_BYTES, search_end - at)
        for match in _SYNC.finditer(source.read_at(at, n_bytes + 1)):
            found = _is_chain(source, at + match.start(), end, want)
            if found is not None:
                return at + match.start(), found
        at += n_bytes
    return None


def scan(source: Source, start: int) -> Scan | None:
    """Find the frames of the stream at or behind ``start`` (the first byte behind the tags); None if there are none."""
    end = audio_end(source, start)
    first = _find_chain(source, start, SEARCH_BYTES, end)
    if first is None:
        return None
    at, frame_format = first
    result = Scan(frame_format, plain=at == skip_id3v2(source, 0, end))
    at = _take_tag(source, at, result)
    runs = [result]
    while True:
        run = runs[-1]
        first_frame = run.n_frames
        at = _walk(source, at, end, run)
        if run.n_frames > first_frame:
            run.runs.append((first_frame, at))
        if at >= end:
            run.complete = True
            break
        result.plain = False
        at, channels_change = _resume(source, at, end, run)
        if at < 0:
            break
        if channels_change:
            run = _other_channels(run)
            at = _take_tag(source, at, run)
            runs.append(run)
    runs = [run for run in runs if run.n_frames]
    if not runs:
        return None
    result = runs[0]
    result.following = runs[1:]
    _share_out_padding(runs)
    _sum_up(result, runs)
    tag = result.tag
    if tag is None:
        result.plain = result.plain and end >= source.size - 128  # the decoder knows an ID3v1 tag, but no other
    elif tag.kind == b"VBRI" or tag.n_frames != result.n_frames:
        result.plain = False
    elif tag.n_bytes and abs(source.size - tag.offset - tag.n_bytes) * 200 > source.size:
        result.plain = False  # libmpg123 would write to stderr that the size is off
    return result


def _other_channels(run: Scan) -> Scan:
    """A new run behind ``run``, of stereo behind mono and the other way round."""
    frame_format = _FORMATS[(*run.format.family, not run.format.mono)]
    before = run.samples_before + run.n_samples
    return Scan(frame_format, plain=False, damage=run.damage, warnings=run.warnings, samples_before=before)


def _share_out_padding(runs: list[Scan]) -> None:
    """A header counts the frames of every run up to the next header; its padding lies behind the last of them."""
    governing, n_frames = None, 0
    for run, following in zip(runs, [*runs[1:], None], strict=True):
        if run.last_tag is not None:
            governing, n_frames = run.last_tag, 0
        n_frames += run.n_frames
        if following is not None and following.tag is not None:
            run.complete = True  # a file of its own
        if run.last_tag is None and governing is not None and governing.delay_at and n_frames == governing.n_frames:
            run.trim_end = max(0, governing.padding - DECODER_DELAY)


def _sum_up(result: Scan, runs: list[Scan]) -> None:
    if 0 < len(result.damage) <= MAX_WARNINGS:
        result.warnings[:0] = [f"{n_bytes} damaged bytes {where} were left out" for n_bytes, where in result.damage]
    elif result.damage:
        total = sum(n_bytes for n_bytes, _ in result.damage)
        result.warnings.insert(0, f"{total} damaged bytes in {len(result.damage)} places were left out")
    n_odd = sum(len(run.odd) for run in runs)
    if n_odd:
        frames = "1 MPEG frame has" if n_odd == 1 else f"{n_odd} MPEG frames have"
        result.warnings.append(f"{frames} other channels than the frames around, and became silence")


def _take_tag(source: Source, at: int, result: Scan) -> int:
    parsed = parse_header(source.read_at(at, 4))
    tag = read_tag(source, at, parsed[1], result.format) if parsed is not None else None
    result.last_tag = tag
    if result.n_frames == 0:
        result.tag = tag
    return at if tag is None else at + tag.size


def _walk(source: Source, at: int, end: int, result: Scan) -> int:
    """Follow frame after frame from ``at``; returns the offset of the first byte that is not part of a whole frame."""
    sizes, mono, append = result.format.sizes, result.format.mono, result.offsets.append
    while True:
        block = source.read_at(at, min(READ_BYTES, end - at))
        base, limit, i = at, len(block) - 4, 0
        if limit < 0:
            return at
        while i <= limit:
            size = sizes.get(block[i + 1] << 8 | block[i + 2])
            if size is None or block[i] != 0xFF or (block[i + 3] >= 0xC0) != mono or base + i + size > end:
                return base + i
            append(base + i)
            i += size
        at = base + i


def _resume(source: Source, at: int, end: int, result: Scan) -> tuple[int, bool]:
    """Where the stream goes on behind bytes at ``at`` that are no frame of it, and whether with other channels.

    The offset is -1 where it does not go on.
    """
    behind = skip_id3v2(source, at, end)
    parsed = parse_header(source.read_at(behind, 4))
    if parsed is not None and parsed[0] == result.format and behind > at:
        return _take_tag(source, behind, result), False  # a second file behind the first
    if parsed is not None and parsed[0] != result.format and parsed[0].family == result.format.family:
        stop, n_frames = _short_run(source, behind, end, parsed[0])
        if n_frames == CONFIRM:
            return behind, True
        if behind == at and result.format.layer == 3 and (stop == end or _is_chain(source, stop, end, result.format)):
            _take_odd(source, at, stop, result)
            return stop, False
    where = f"at {result.seconds():.2f} s"
    found = _find_chain(source, at, RESYNC_BYTES, end)
    channels_change = False
    if found is not None and found[1] != result.format:
        other = found
        # Damage can look like another format for three frames; then the old one comes back soon.
        found = _find_chain(source, at, other[0] - at + ACCIDENT_BYTES, end, result.format)
        if found is None and other[1].family == result.format.family:
            found, channels_change = other, True
        elif found is None:
            lost = _seconds_of_any(source, other[0], end)
            result.warnings.append(
                f"the MPEG stream changes {where} to {other[1].sample_rate} Hz layer {other[1].layer} "
                f"{'mono' if other[1].mono else 'stereo'}; only the part before is used, {lost:.2f} s are lost"
            )
            return -1, False
    if found is None:
        rest = end - at
        if not any(source.read_at(at, min(rest, READ_BYTES))):
            return -1, False  # zeros behind the last frame are padding, not sound
        cut = parse_header(source.read_at(at, 4))
        if cut is not None and cut[0] == result.format and at + cut[1] > end:
            result.warnings.append(f"the file is cut off inside an MPEG frame {where}")
        else:
            result.warnings.append(f"{rest} bytes {where} are not MPEG audio and were left out")
            if rest < min(result.format.sizes.values()) * 4:
                _mark_gap(result)  # the remains of a frame: so the one before may be in pieces too
        return -1, False
    result.damage.append((found[0] - at, where))
    _mark_gap(result)
    return found[0], channels_change


def _short_run(source: Source, at: int, end: int, frame_format: FrameFormat) -> tuple[int, int]:
    """Offset behind the frames of ``frame_format`` at ``at``, and their number; ``CONFIRM`` of them are enough."""
    n_frames = 0
    while n_frames < CONFIRM:
        parsed = parse_header(source.read_at(at, 4))
        if parsed is None or parsed[0] != frame_format or at + parsed[1] > end:
            break
        at += parsed[1]
        n_frames += 1
    return at, n_frames


def _take_odd(source: Source, at: int, stop: int, result: Scan) -> None:
    """One or two frames with the wrong number of channels: they keep their place, and are decoded as silence."""
    first = result.n_frames
    while at < stop:
        parsed = parse_header(source.read_at(at, 4))
        assert parsed is not None
        result.odd.append(result.n_frames)
        result.offsets.append(at)
        at += parsed[1]
    result.runs.append((first, stop))


def _seconds_of_any(source: Source, at: int, end: int) -> float:
    """Duration of all frames from ``at`` on, of whatever format."""
    seconds = 0.0
    while at < end:
        block, i = source.read_at(at, READ_BYTES), 0
        while (parsed := parse_header(block[i : i + 4])) is not None and i + parsed[1] <= len(block):
            seconds += parsed[0].frame_samples / parsed[0].sample_rate
            i += parsed[1]
        if i == 0:
            found = _find_chain(source, at + 1, RESYNC_BYTES, end)
            if found is None:
                break
            at = found[0]
        at += i
    return seconds


def _mark_gap(result: Scan) -> None:
    """Data is missing behind the last frame, which may be in pieces itself."""
    if result.format.layer == 3:
        result.gaps.append(result.n_frames)
    elif result.runs:
        # Layers I and II have no bit reservoir, so no other frame needs this one.
        first, _ = result.runs.pop()
        end = result.offsets.pop()
        if result.n_frames > first:
            result.runs.append((first, end))
