"""FLAC streams with an imperfect header or bad frames, which libsndfile's reader cannot take.

The header of a streamed FLAC has no total. A cut or damaged file makes the decoder stop at the first bad frame. The
last frame's header tells the true total. A scan by sync word and checksums (RFC 9639) finds the good frames, which are
then presented behind a corrected header. The decoder fills the gaps with silence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from .id3 import audio_end
from .source import Source, Stream

if TYPE_CHECKING:
    import numpy as np

READ_BYTES = 1 << 20
MAX_HEADER = 16  # bytes of a frame header
CHECK_AT_ONCE = 256  # frames whose checksums are computed side by side
_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_BLOCK_SIZES = (0, 192, 576, 1152, 2304, 4608, 0, 0, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_BITS = (0, 8, 12, -1, 16, 20, 24, 32)


@dataclass(frozen=True)
class StreamInfo:
    """The STREAMINFO block, and the offsets of the sound. ``total`` counts samples per channel; 0 means unknown."""

    block: bytes
    audio_start: int
    audio_end: int
    max_block_size: int
    max_frame_bytes: int
    channels: int
    bits: int
    total: int

    @property
    def longest_frame(self) -> int:
        """Upper bound of a frame's size in bytes: the declared size or that of a verbatim frame, with a margin."""
        verbatim = self.max_block_size * self.channels * (self.bits + 1) // 8
        return max(self.max_frame_bytes, verbatim) + 1024


@dataclass(frozen=True)
class Frame:
    """Offset in the file, first sample and number of samples per channel of one FLAC frame."""

    offset: int
    first: int
    n_samples: int


def read_info(source: Source, offset: int) -> StreamInfo:
    """Parse the metadata of the FLAC stream at ``offset``. Raises ``ValueError`` with the reason."""
    at = offset + 4
    block = b""
    while True:
        head = source.read_at(at, 4)
        if len(head) < 4:
            raise ValueError("the file ends inside the FLAC metadata")
        size = int.from_bytes(head[1:], "big")
        if head[0] & 0x7F == 0 and not block:
            block = source.read_at(at + 4, size)
            if size != 34 or len(block) < 34:
                raise ValueError("the FLAC STREAMINFO block is damaged")
        at += 4 + size
        if head[0] & 0x80:
            break
    if not block:
        raise ValueError("the FLAC STREAMINFO block is missing")
    packed = int.from_bytes(block[10:18], "big")
    return StreamInfo(
        block=block,
        audio_start=at,
        audio_end=audio_end(source, at),
        max_block_size=int.from_bytes(block[2:4], "big"),
        max_frame_bytes=int.from_bytes(block[7:10], "big"),
        channels=(packed >> 41 & 7) + 1,
        bits=(packed >> 36 & 31) + 1,
        total=packed & (1 << 36) - 1,
    )


@lru_cache(maxsize=1)
def _tables() -> tuple[bytes, np.ndarray]:
    """Lookup tables of CRC-8 (x^8 + x^2 + x + 1) and CRC-16 (x^16 + x^15 + x^2 + 1), both from the top bit down."""
    import numpy as np

    crc8, crc16 = [], []
    for value in range(256):
        a, b = value, value << 8
        for _ in range(8):
            a = a << 1 ^ (0x107 if a & 0x80 else 0)
            b = b << 1 ^ (0x18005 if b & 0x8000 else 0)
        crc8.append(a)
        crc16.append(b)
    return bytes(crc8), np.array(crc16, np.uint16)


def parse_frame(data: bytes, at: int, offset: int, info: StreamInfo) -> Frame | None:
    """The frame whose header is ``data[at:]``, at ``offset`` in the file; None if it does not fit ``info``."""
    head = data[at : at + MAX_HEADER]
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    assignment = head[3] >> 4
    if (2 if assignment in (8, 9, 10) else assignment + 1) != info.channels:
        return None
    if _BITS[head[3] >> 1 & 7] not in (0, info.bits):
        return None
    # The number is coded like UTF-8, up to 7 bytes.
    n = 8 - (head[4] ^ 0xFF).bit_length()
    if n == 1 or n > 7 or len(head) < 4 + max(n, 1):
        return None
    number = head[4] & (0x7F if n == 0 else (0x7F >> n))
    for byte in head[5 : 4 + n]:
        if byte & 0xC0 != 0x80:
            return None
        number = number << 6 | byte & 0x3F
    i = 4 + max(n, 1)
    code = head[2] >> 4
    n_samples = _BLOCK_SIZES[code]
    if code in (6, 7):
        n_samples = int.from_bytes(head[i : i + code - 5], "big") + 1
        i += code - 5
    i += (0, 1, 2, 2)[max(0, (head[2] & 15) - 11)] if head[2] & 15 != 15 else 100
    if n_samples == 0 or n_samples > max(info.max_block_size, 16) or i >= len(head):
        return None
    crc8, _ = _tables()
    crc = 0
    for byte in head[:i]:
        crc = crc8[crc ^ byte]
    if crc != head[i]:
        return None
    return Frame(offset, number if head[1] & 1 else number * info.max_block_size, n_samples)


def _crc16(data: bytes) -> int:
    table = _tables()[1].tolist()
    crc = 0
    for byte in data:
        crc = (crc << 8 & 0xFFFF) ^ table[crc >> 8 ^ byte]
    return crc


def true_total(source: Source, info: StreamInfo) -> int | None:
    """Samples per channel up to the last frame, if that ends where the sound ends; else None (cut or damaged)."""
    start = max(info.audio_start, info.audio_end - info.longest_frame)
    # The last frame of a normal file is near the end, so the longest possible one need not be read to find it.
    for at in sorted({max(start, info.audio_end - (1 << 16)), start}, reverse=True):
        tail = source.read_at(at, info.audio_end - at)
        candidates = [
            frame
            for match in _SYNC.finditer(tail)
            if (frame := parse_frame(tail, match.start(), at + match.start(), info)) is not None
        ]
        for frame in reversed(candidates):
            end = frame.first + frame.n_samples
            if end == info.total or _crc16(tail[frame.offset - at :]) == 0:
                return end
    return None


def good_frames(source: Source, info: StreamInfo) -> list[tuple[Frame, int]]:
    """All frames whose header and checksum are right, each with its size in bytes, in order."""
    candidates: list[Frame] = []
    at = info.audio_start
    while at < info.audio_end:
        n_bytes = min(READ_BYTES, info.audio_end - at)
        block = source.read_at(at, n_bytes + MAX_HEADER)
        for match in _SYNC.finditer(block, 0, n_bytes + 1):
            frame = parse_frame(block, match.start(), at + match.start(), info)
            if frame is not None:
                candidates.append(frame)
        at += n_bytes
    good: list[tuple[Frame, int]] = []
    for k in range(0, len(candidates), CHECK_AT_ONCE):
        good += _check(source, info, candidates, k, min(k + CHECK_AT_ONCE, len(candidates)))
    ordered: list[tuple[Frame, int]] = []
    reached = -1
    for frame, size in good:
        if frame.first >= reached:
            ordered.append((frame, size))
            reached = frame.first + frame.n_samples
    return ordered


def _check(source: Source, info: StreamInfo, candidates: list[Frame], first: int, last: int) -> list[tuple[Frame, int]]:
    """Those of ``candidates[first:last]`` whose CRC-16 holds up to the next frame, or a later one if that is false."""
    import numpy as np

    ends = [c.offset for c in candidates[first + 1 : last + 1]]
    if last == len(candidates):
        ends.append(info.audio_end)
    sizes = [end - candidates[first + i].offset for i, end in enumerate(ends)]
    usable = [i for i, size in enumerate(sizes) if size <= info.longest_frame]
    good: list[tuple[Frame, int]] = []
    if usable:
        # Leading zeros do not change a CRC that starts at 0, so frames of different sizes are aligned at their ends.
        longest = max(sizes[i] for i in usable)
        data = np.zeros((longest, len(usable)), np.uint8)
        for column, i in enumerate(usable):
            data[longest - sizes[i] :, column] = np.frombuffer(
                source.read_at(candidates[first + i].offset, sizes[i]), np.uint8
            )
        table = _tables()[1]
        crc = np.zeros(len(usable), np.uint16)
        for row in data:
            crc = (crc << 8) ^ table[(crc >> 8) ^ row]
        right = {i for i, value in zip(usable, crc.tolist(), strict=True) if value == 0}
    else:
        right = set()
    for i, size in enumerate(sizes):
        frame = candidates[first + i]
        following = candidates[first + i + 1] if first + i + 1 < len(candidates) else None
        end_sample = frame.first + frame.n_samples
        if i in right or (following is None and end_sample == info.total and i in usable):
            good.append((frame, size))
        elif following is not None and following.first != end_sample:
            # The next sync word may be an accident inside this frame.
            for later in candidates[first + i + 2 : first + i + 4]:
                size = later.offset - frame.offset
                if size <= info.longest_frame and _crc16(source.read_at(frame.offset, size)) == 0:
                    good.append((frame, size))
                    break
    return good


def _header(info: StreamInfo, total: int) -> bytes:
    """A FLAC header with nothing but STREAMINFO, with ``total`` samples per channel and no checksum of the sound."""
    packed = int.from_bytes(info.block[10:18], "big") & ~((1 << 36) - 1) | total
    return b"fLaC\x80\x00\x00\x22" + info.block[:10] + packed.to_bytes(8, "big") + bytes(16)


def stream_with_total(source: Source, info: StreamInfo, total: int) -> Stream:
    """The stream as it is, behind a header that gives ``total``."""
    return Stream(source, [_header(info, total), (info.audio_start, info.audio_end - info.audio_start)])


def stream_of_frames(source: Source, info: StreamInfo, frames: list[tuple[Frame, int]]) -> Stream:
    """A stream of the given frames only."""
    pieces: list[bytes | tuple[int, int]] = []
    start = end = -1
    for frame, size in frames:
        if frame.offset != end:
            if end > start:
                pieces.append((start, end - start))
            start = frame.offset
        end = frame.offset + size
    if end > start:
        pieces.append((start, end - start))
    last = frames[-1][0]
    return Stream(source, [_header(info, last.first + last.n_samples), *pieces])
