"""The frames of a FLAC stream: where the sound ends, which frames are whole, and streams made of those.

A frame is whole if the checksum at its end holds. Whole frames are presented to the decoder behind a header that gives
what they say of themselves, and no total: so the decoder reads to the end, whatever was promised. Gaps between their
positions get frames of silence. (libFLAC would make some itself, but libsndfile loses a part of those that a read ends
in.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .crc import crc8, crc16, crc16_table
from .flac import MAX_HEADER, READ_BYTES, SYNC, Frame, StreamInfo, candidates, parse_frame
from .source import Source, Stream

CHECK_AT_ONCE = 256  # frames whose checksums are computed side by side
CHECK_BYTES = 1 << 24  # of them
MAX_METADATA = 1 << 24
MAX_GAP = 1 << 24  # samples: six minutes of CD sound
_MAGIC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")


@dataclass(frozen=True)
class FrameScan:
    """All whole frames of a stream in order, each with its size in bytes."""

    frames: list[tuple[Frame, int]]
    tail: Frame | None  # a header behind them whose frame is cut, or whole with something else behind it
    second_stream: bool  # another FLAC stream follows

    @property
    def n_bytes(self) -> int:
        return sum(size for _, size in self.frames)

    @property
    def n_samples(self) -> int:
        return sum(frame.n_samples for frame, _ in self.frames)

    @property
    def end(self) -> int:
        """Offset behind the last frame."""
        last, size = self.frames[-1]
        return last.offset + size

    @property
    def is_whole(self) -> bool:
        """Whether the frames follow one another without a byte between them and without a missing number."""
        return self.end - self.frames[0][0].offset == self.n_bytes and all(
            a.is_followed_by(b) for (a, _), (b, _) in zip(self.frames, self.frames[1:], strict=False)
        )


def true_total(source: Source, info: StreamInfo) -> int | None:
    """Samples per channel up to the last frame, if that ends where the sound ends.

    None for a stream that is cut or damaged, and for one whose frames do not tell their position.
    """
    if not info.numbered:
        return None
    start = max(info.audio_start, info.audio_end - info.longest_frame)
    # The last frame of a normal file is near the end, so the longest possible one need not be read to find it.
    for at in sorted({max(start, info.audio_end - (1 << 16)), start}, reverse=True):
        tail = source.read_at(at, info.audio_end - at)
        found = [
            frame
            for match in SYNC.finditer(tail)
            if (frame := parse_frame(tail, match.start(), at + match.start())) is not None and info.fits(frame)
        ]
        for frame in reversed(found):
            end = info.end_sample(frame)
            if end == info.total or crc16(tail[frame.offset - at :]) == 0:
                return end
    return None


def good_frames(source: Source, info: StreamInfo) -> FrameScan:
    """All frames whose header and checksum are right, up to the start of a second stream."""
    found: list[Frame] = []
    end = info.audio_end
    for frame in candidates(source, info.audio_start, info.audio_end):
        if not info.fits(frame):
            continue
        if found and frame.number == 0 and (magic := _magic_before(source, found[-1], frame)) is not None:
            end = magic
            break
        found.append(frame)
    good: list[tuple[Frame, int]] = []
    for k in range(0, len(found), CHECK_AT_ONCE):
        good += _check(source, info, found, k, min(k + CHECK_AT_ONCE, len(found)), end)
    ordered: list[tuple[Frame, int]] = []
    least = 0
    for frame, size in good:
        if frame.number >= least:
            ordered.append((frame, size))
            least = frame.number + (frame.n_samples if frame.variable else 1)
    tail = None
    for frame in found:
        if not ordered or (frame.offset > ordered[-1][0].offset and ordered[-1][0].is_followed_by(frame)):
            tail = frame
            break
    return FrameScan(ordered, tail, second_stream=end < info.audio_end)


def holds_second_stream(source: Source, info: StreamInfo) -> bool:
    """Whether the start of another stream, of any format of samples, lies behind the first frame."""
    at = info.audio_start
    while at < source.size:
        if _MAGIC.search(source.read_at(at, READ_BYTES + 7)) is not None:
            return True
        at += READ_BYTES
    return False


def _magic_before(source: Source, before: Frame, frame: Frame) -> int | None:
    """Offset of the start of another stream between two frames."""
    match = _MAGIC.search(source.read_at(before.offset, min(frame.offset - before.offset, MAX_METADATA)))
    return None if match is None else before.offset + match.start()


def _check(
    source: Source, info: StreamInfo, found: list[Frame], first: int, last: int, end: int
) -> list[tuple[Frame, int]]:
    """Those of ``found[first:last]`` whose CRC-16 holds up to the next frame, or a later one if that is false.

    ``end`` is the offset where the last of them has to end.
    """
    ends = [frame.offset for frame in found[first + 1 : last + 1]]
    if last == len(found):
        ends.append(end)
    sizes = [frame_end - found[first + i].offset for i, frame_end in enumerate(ends)]
    usable = [i for i, size in enumerate(sizes) if size <= info.longest_frame]
    right: set[int] = set()
    group: list[int] = []
    longest = 0
    for i in usable:
        longest = max(longest, sizes[i])
        if group and longest * (len(group) + 1) > CHECK_BYTES:
            right |= _right(source, [(k, found[first + k].offset, sizes[k]) for k in group])
            group, longest = [], sizes[i]
        group.append(i)
    right |= _right(source, [(k, found[first + k].offset, sizes[k]) for k in group])
    good: list[tuple[Frame, int]] = []
    for i, size in enumerate(sizes):
        frame = found[first + i]
        following = found[first + i + 1] if first + i + 1 < len(found) else None
        if i in right:
            good.append((frame, _without_zeros(source, frame, size)))
        elif following is not None and not frame.is_followed_by(following):
            # The next sync word may be an accident inside this frame.
            for later in found[first + i + 2 : first + i + 4]:
                size = later.offset - frame.offset
                if size <= info.longest_frame and crc16(source.read_at(frame.offset, size)) == 0:
                    good.append((frame, size))
                    break
    return good


def _right(source: Source, places: list[tuple[int, int, int]]) -> set[int]:
    """The keys of those (key, offset, size) whose bytes have the CRC 0."""
    import numpy as np

    if not places:
        return set()
    # Leading zeros do not change a CRC that starts at 0, so frames of different sizes are aligned at their ends.
    longest = max(size for _, _, size in places)
    data = np.zeros((longest, len(places)), np.uint8)
    for column, (_, offset, size) in enumerate(places):
        data[longest - size :, column] = np.frombuffer(source.read_at(offset, size), np.uint8)
    table = crc16_table()
    crc = np.zeros(len(places), np.uint16)
    for row in data:
        crc = (crc << 8) ^ table[(crc >> 8) ^ row]
    return {key for (key, _, _), value in zip(places, crc.tolist(), strict=True) if value == 0}


def _without_zeros(source: Source, frame: Frame, size: int) -> int:
    """The frame's size without zeros that were put in behind it: they do not change a checksum that is 0."""
    if any(source.read_at(frame.offset + size - 3, 3)):
        return size
    return max(len(source.read_at(frame.offset, size).rstrip(b"\0")), MAX_HEADER)


def _header(info: StreamInfo) -> bytes:
    """A FLAC header with nothing but STREAMINFO, without a total and without a checksum of the sound."""
    smallest = largest = info.block_size
    if not info.block_size:
        smallest, largest = 16, 0xFFFF
    packed = info.rate << 44 | info.channels - 1 << 41 | info.header_bits - 1 << 36
    sizes = _bounded(smallest) + _bounded(largest)
    return b"fLaC\x80\x00\x00\x22" + sizes + bytes(6) + packed.to_bytes(8, "big") + bytes(16)


def _bounded(block_size: int) -> bytes:
    return min(max(16, block_size), 0xFFFF).to_bytes(2, "big")


def whole_stream(source: Source, info: StreamInfo, end: int | None = None) -> Stream:
    """Everything from the first frame to ``end`` (None: the end of the sound), behind a header that is right."""
    return Stream(source, [_header(info), (info.audio_start, (end or info.audio_end) - info.audio_start)])


def stream_of_frame(source: Source, info: StreamInfo, frame: Frame) -> Stream:
    """A stream of one frame, and of what lies behind it as far as the frame may reach."""
    return Stream(source, [_header(info), (frame.offset, min(frame.longest, info.audio_end - frame.offset))])


def stream_of_frames(source: Source, info: StreamInfo, scan: FrameScan) -> Stream:
    """A stream of the given frames, and of silence where some are missing between them."""
    pieces: list[bytes | tuple[int, int]] = []
    start = end = -1
    before: Frame | None = None
    for frame, size in scan.frames:
        if frame.offset != end or (before is not None and not before.is_followed_by(frame)):
            if end > start:
                pieces.append((start, end - start))
            start = frame.offset
            if before is not None:
                pieces += _silence(info, before, frame)
        end = frame.offset + size
        before = frame
    if end > start:
        pieces.append((start, end - start))
    return Stream(source, [_header(info), *pieces])


def _silence(info: StreamInfo, before: Frame, behind: Frame) -> list[bytes | tuple[int, int]]:
    """Frames of zeros from the end of ``before`` to the start of ``behind``; none where their positions are odd."""
    gap = info.first_sample(behind) - info.end_sample(before)
    if not info.numbered or not 0 < gap <= MAX_GAP:
        return []
    if not before.variable:
        return [_silent_frame(info, number, info.block_size) for number in range(before.number + 1, behind.number)]
    at = before.number + before.n_samples
    return [_silent_frame(info, k, min(behind.number - k, 0x8000)) for k in range(at, behind.number, 0x8000)]


def _silent_frame(info: StreamInfo, number: int, n_samples: int) -> bytes:
    """A frame of ``n_samples`` zeros in each channel (constant subframes), which leaves rate and bits to STREAMINFO."""
    head = bytes((0xFF, 0xF8 | (info.block_size == 0), 0x70, info.channels - 1 << 4))
    head += _coded(number) + (n_samples - 1).to_bytes(2, "big")
    head += bytes((crc8(head),))
    body = head + bytes((info.channels * (8 + info.header_bits) + 7) // 8)
    return body + crc16(body).to_bytes(2, "big")


def _coded(number: int) -> bytes:
    """A frame's number as RFC 9639 codes it: like UTF-8, up to 7 bytes."""
    if number < 0x80:
        return bytes((number,))
    rest: list[int] = []
    while number >= 1 << (6 - len(rest)):
        rest.insert(0, 0x80 | number & 0x3F)
        number >>= 6
    return bytes((0xFF << (7 - len(rest)) & 0xFF | number, *rest))
