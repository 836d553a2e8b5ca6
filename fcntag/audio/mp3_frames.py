"""MPEG audio frames: their headers, the Xing, Info and VBRI headers in a first frame, and runs of frames in a file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .source import Source

READ_BYTES = 1 << 20
CONFIRM = 3  # consecutive frames that make a sync word believable
CONFIRM_FREE = 6  # the same in free format, where any distance between sync words could be a size
MIN_FREE_BYTES, MAX_FREE_BYTES = 40, 1 << 13  # a header and side information; what decoders take
SYNC = re.compile(rb"\xff[\xe2-\xff]")
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


FORMATS: dict[tuple[int, int, int, bool], FrameFormat] = {}
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
                FORMATS[_key] = FrameFormat(_version, _layer, _rate_index, _mono, _sizes)


def parse_header(header: bytes) -> tuple[FrameFormat, int] | None:
    """Format and frame size in bytes of a 4-byte frame header; None if it is not one (free format counts as not)."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    rate_index = header[2] >> 2 & 3
    if version == 1 or layer == 4 or rate_index == 3:
        return None
    found = FORMATS[version, layer, rate_index, header[3] >> 6 == 3]
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


def is_chain(
    source: Source, at: int, end: int, want: FrameFormat | None = None, confirm: int = CONFIRM
) -> FrameFormat | None:
    """The format of the frame at ``at`` if ``confirm`` headers of it follow, or two frames that end with the data."""
    found: FrameFormat | None = None
    for count in range(confirm):
        if at == end and count == 2 and confirm == CONFIRM:
            break
        parsed = parse_header(source.read_at(at, 4)) if at + 4 <= end else None
        if parsed is None or (found or want or parsed[0]) != parsed[0]:
            return None
        found = parsed[0]
        at += parsed[1]
    return found


def find_chain(
    source: Source,
    at: int,
    search_bytes: int,
    end: int,
    want: FrameFormat | None = None,
    confirm: int = CONFIRM,
) -> tuple[int, FrameFormat] | None:
    """Offset and format of the first believable run of frames that starts in [at, at + search_bytes)."""
    search_end = min(end, at + search_bytes)
    while at < search_end:
        n_bytes = min(READ_BYTES, search_end - at)
        block = source.read_at(at, n_bytes + 3)
        for match in SYNC.finditer(block, 0, n_bytes + 1):
            i = match.start()
            if i == n_bytes or parse_header(block[i : i + 4]) is None:
                continue
            found = is_chain(source, at + i, end, want, confirm)
            if found is not None:
                return at + i, found
        at += n_bytes
    return None


def find_free_chain(source: Source, at: int, search_bytes: int, end: int) -> tuple[int, FrameFormat] | None:
    """Like :func:`find_chain` for free format: the headers name no bit rate, so their distance is the frames' size."""
    block = source.read_at(at, min(search_bytes, end - at))
    for match in SYNC.finditer(block):
        i = match.start()
        head = block[i : i + 4]
        if len(head) < 4 or head[2] >> 4:
            continue
        # With any bit rate in the place of none the header has to be right.
        parsed = parse_header(bytes((head[0], head[1], head[2] | 0x10, head[3])))
        if parsed is None:
            continue
        unit = 4 if parsed[0].layer == 1 else 1
        for later in SYNC.finditer(block, i + 4, i + MAX_FREE_BYTES):
            if not _same_stream(block, i, later.start()):
                continue
            size = later.start() - i - unit * (head[2] >> 1 & 1)
            if size < MIN_FREE_BYTES:
                break  # a pattern that repeats itself
            if _is_free_chain(block, i, size, unit):
                return at + i, _free_format(parsed[0], size, unit)
    return None


def _same_stream(block: bytes, at: int, other: int) -> bool:
    """Whether the headers at two places differ in nothing but padding, private bit and what may change in stereo."""
    a, b = block[at : at + 4], block[other : other + 4]
    if len(b) < 4 or a[:2] != b[:2] or (a[2] ^ b[2]) & 0xFC:
        return False
    return (a[3] >= 0xC0) == (b[3] >= 0xC0)


def _is_free_chain(block: bytes, at: int, size: int, unit: int) -> bool:
    first = at
    for _ in range(CONFIRM_FREE):
        if not _same_stream(block, first, at):
            return False
        at += size + unit * (block[at + 2] >> 1 & 1)
    return True


def _free_format(like: FrameFormat, size: int, unit: int) -> FrameFormat:
    second = 0xE0 | like.version << 3 | (4 - like.layer) << 1
    sizes = {
        (second | crc) << 8 | like.rate_index << 2 | low: size + unit * (low >> 1) for crc in (0, 1) for low in range(4)
    }
    return FrameFormat(like.version, like.layer, like.rate_index, like.mono, sizes)


def run_of(source: Source, at: int, end: int, family: tuple[int, int, int]) -> tuple[int, float]:
    """Offset behind the frames of ``family`` that follow one another at ``at``, and their duration in seconds."""
    seconds = 0.0
    while at < end:
        block, i = source.read_at(at, READ_BYTES), 0
        while (parsed := parse_header(block[i : i + 4])) is not None and parsed[0].family == family:
            if at + i + parsed[1] > end:
                break
            seconds += parsed[0].frame_samples / parsed[0].sample_rate
            i += parsed[1]
        if i == 0:
            break
        at += i
    return at, seconds


def short_run(source: Source, at: int, end: int, frame_format: FrameFormat) -> tuple[int, int]:
    """Offset behind the frames of ``frame_format`` at ``at``, and their number; ``CONFIRM`` of them are enough."""
    n_frames = 0
    while n_frames < CONFIRM:
        parsed = parse_header(source.read_at(at, 4))
        if parsed is None or parsed[0] != frame_format or at + parsed[1] > end:
            break
        at += parsed[1]
        n_frames += 1
    return at, n_frames
