"""FLAC headers, and how far they can be believed (RFC 9639).

STREAMINFO and the lengths of the metadata blocks carry no checksum, and files whose fields are wrong are common. Every
frame repeats what matters (channels, bits, rate, block size, position) behind a checksum of its own. So the first
frames are looked at before anything is decoded, and where the two disagree the frames are believed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .crc import crc8, crc16
from .id3 import audio_end
from .source import Source

READ_BYTES = 1 << 20
MAX_HEADER = 16  # bytes of a frame header
STREAMINFO_BYTES = 34
MAX_FRAME_BYTES = 1 << 22  # above eight channels of 65535 samples of 32 bits
# libsndfile refuses a header that says so, though it reads frames that do. (Of 32 bits it turns the sign round.)
REFUSED_BITS = (12, 20)
MAX_BLOCKS = 100_000  # of metadata; a chain of lengths through other data could be as long as the file
WRONG_LENGTHS = "the lengths of the FLAC metadata are wrong; the sound was found by its frames"
SYNC = re.compile(rb"\xff[\xf8\xf9]")
_BLOCK_SIZES = (0, 192, 576, 1152, 2304, 4608, 0, 0, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_BITS = (0, 8, 12, -1, 16, 20, 24, 32)
_RATES = (0, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)


@dataclass(frozen=True)
class Frame:
    """The header of one frame. ``bits`` and ``rate`` are 0 where it leaves them to STREAMINFO."""

    offset: int  # in the file
    number: int  # of the first sample where ``variable``, else of the frame
    n_samples: int  # per channel
    variable: bool
    channels: int
    bits: int
    rate: int

    def is_followed_by(self, other: Frame) -> bool:
        """Whether ``other`` has the number of the next frame of the same stream."""
        expected = self.number + (self.n_samples if self.variable else 1)
        return other.number == expected and other.variable == self.variable and other.channels == self.channels

    @property
    def longest(self) -> int:
        """Upper bound of the size in bytes: that of a frame that stores its samples as they are, with a margin."""
        return self.n_samples * self.channels * ((self.bits or 32) + 1) // 8 + 1024


@dataclass(frozen=True)
class StreamInfo:
    """A FLAC stream as its first frames show it; ``total`` is what the header says.

    Attributes
    ----------
    audio_start, audio_end : offsets of the first frame, and behind the last
    rate, channels, bits : in Hz; true to the frames
    total : samples per channel by STREAMINFO; 0: unknown
    block_size : samples of each frame but the last where all are as long; 0 where they differ
    numbered : whether the frames' numbers give positions; not in old streams of frames of differing length
    base : the position that the first frame gives itself; above 0 in a stream that was cut out of a longer one
    lies : sentences about the fields that the frames contradict
    header_is_right : whether a decoder can be given the file with its own header
    header_bits : what a header has to say for libsndfile to read the frames
    sizes_are_declared : whether STREAMINFO has the same block size as the frames
    longest_frame : in bytes; an upper bound
    """

    audio_start: int
    audio_end: int
    rate: int
    channels: int
    bits: int
    total: int
    block_size: int
    numbered: bool
    base: int
    lies: tuple[str, ...]
    header_is_right: bool
    header_bits: int
    sizes_are_declared: bool
    longest_frame: int

    def fits(self, frame: Frame) -> bool:
        return frame.channels == self.channels and frame.bits in (0, self.bits)

    def first_sample(self, frame: Frame) -> int:
        """The frame's position in samples, from that of the first frame on."""
        return (frame.number if frame.variable else frame.number * self.block_size) - self.base

    def end_sample(self, frame: Frame) -> int:
        return self.first_sample(frame) + frame.n_samples


def parse_frame(data: bytes, at: int, offset: int) -> Frame | None:
    """The frame whose header is ``data[at:]``, at ``offset`` in the file; None if there is none."""
    head = data[at : at + MAX_HEADER]
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    assignment, bits, rate_code = head[3] >> 4, _BITS[head[3] >> 1 & 7], head[2] & 15
    if assignment > 10 or bits < 0 or rate_code == 15:
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
    rate_bytes = (1, 2, 2)[rate_code - 12] if rate_code >= 12 else 0
    rate = int.from_bytes(head[i : i + rate_bytes], "big")
    rate = rate * (1000, 1, 10)[rate_code - 12] if rate_bytes else _RATES[rate_code]
    i += rate_bytes
    if n_samples == 0 or i >= len(head):
        return None
    if crc8(head[:i]) != head[i]:
        return None
    channels = 2 if assignment in (8, 9, 10) else assignment + 1
    return Frame(offset, number, n_samples, bool(head[1] & 1), channels, bits, rate)


def candidates(source: Source, at: int, end: int, read_bytes: int = READ_BYTES) -> Iterator[Frame]:
    """Yield everything in [at, end) that looks like a frame's header: it has a sync word and the header's checksum."""
    while at < end:
        n_bytes = min(read_bytes, end - at)
        block = source.read_at(at, n_bytes + MAX_HEADER)
        for match in SYNC.finditer(block, 0, n_bytes + 1):
            if match.start() < n_bytes and (frame := parse_frame(block, match.start(), at + match.start())) is not None:
                yield frame
        at += n_bytes


def _frame_at(source: Source, offset: int) -> Frame | None:
    return parse_frame(source.read_at(offset, MAX_HEADER), 0, offset)


def _following(source: Source, frame: Frame, end: int) -> Frame | None:
    """The next frame, told by its number; None behind the last."""
    for other in candidates(source, frame.offset + 1, min(end, frame.offset + frame.longest), 1 << 15):
        if frame.is_followed_by(other):
            return other
    return None


def read_info(source: Source, offset: int) -> StreamInfo:
    """What the metadata and the first frames of the FLAC stream at ``offset`` say.

    Raises ``ValueError`` with the reason where no frame is found.
    """
    block = source.read_at(offset + 8, STREAMINFO_BYTES)
    if len(block) < STREAMINFO_BYTES:
        raise ValueError("the file ends inside the FLAC metadata")
    behind_block = offset + 8 + STREAMINFO_BYTES
    start = _behind_metadata(source, offset)
    end = audio_end(source, behind_block if start is None else start)
    first = None if start is None else _frame_at(source, start)
    lies: list[str] = []
    if int.from_bytes(source.read_at(offset + 5, 3), "big") != STREAMINFO_BYTES:
        lies.append(WRONG_LENGTHS)
    if first is None or first.number > 0:
        # The lengths of the blocks may lead past the first frames, or to where there is none.
        earlier = _search(source, behind_block, end, first)
        if earlier is not None:
            first = earlier
            lies[:] = [WRONG_LENGTHS]
    if first is None:
        raise ValueError("no audio samples (no whole FLAC frame)")
    return _believe(block, first, _following(source, first, end), end, lies)


def _behind_metadata(source: Source, offset: int) -> int | None:
    """Offset behind the last metadata block, by the blocks' own lengths; None where they lead nowhere."""
    at = offset + 4
    for _ in range(MAX_BLOCKS):
        head = source.read_at(at, 4)
        if len(head) < 4 or head[0] & 0x7F == 0x7F:
            return None
        # The first block has one length, whatever it says.
        at += 4 + (STREAMINFO_BYTES if at == offset + 4 else int.from_bytes(head[1:], "big"))
        if head[0] & 0x80:
            return at if at < source.size else None
    return None


def _search(source: Source, at: int, end: int, known: Frame | None) -> Frame | None:
    """The first frame from ``at`` on that another one follows, or that ends with the sound.

    ``known`` is a frame that the metadata lead to. What stands before it counts only if it belongs to the same stream.
    """
    stop = end if known is None else known.offset
    for frame in candidates(source, at, stop):
        following = _following(source, frame, end)
        if following is not None:
            if known is None or (frame.variable == known.variable and frame.number < known.number):
                return frame
        elif end - frame.offset <= frame.longest and crc16(source.read_at(frame.offset, end - frame.offset)) == 0:
            return frame
    return None


def _believe(block: bytes, first: Frame, second: Frame | None, end: int, lies: list[str]) -> StreamInfo:
    """Set STREAMINFO ``block`` beside the first two frames."""
    smallest, largest = int.from_bytes(block[:2], "big"), int.from_bytes(block[2:4], "big")
    declared_bytes = min(int.from_bytes(block[7:10], "big"), MAX_FRAME_BYTES)
    packed = int.from_bytes(block[10:18], "big")
    rate, channels, bits = packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
    right = not lies
    if first.rate and first.rate != rate and (second is None or second.rate == first.rate):
        lies.append(f"the FLAC header says {rate} Hz, the frames say {first.rate} Hz")
        rate = first.rate
    if first.channels != channels:
        lies.append(f"the FLAC header says {_count(channels)}, the frames have {_count(first.channels)}")
        channels = first.channels
    if first.bits and first.bits != bits:
        lies.append(f"the FLAC header says {bits} bits a sample, the frames have {first.bits}")
        bits = first.bits
    if rate == 0:
        raise ValueError("the header says 0 Hz")
    right = right and len(lies) == 0
    block_size = first.n_samples
    declared = True
    if first.variable:
        block_size = 0
    elif second is not None and second.n_samples > block_size:
        block_size, declared = 0, smallest != largest
    elif second is not None:
        declared = smallest == largest == block_size
        # Other values are an encoder's way to say nothing; this one makes decoders fill in silence, or seek elsewhere.
        if smallest == largest >= 16 and not declared:
            lies.append(f"the FLAC header says {largest} samples a frame, the frames have {block_size}")
    return StreamInfo(
        audio_start=first.offset,
        audio_end=end,
        rate=rate,
        channels=channels,
        bits=bits,
        total=packed & (1 << 36) - 1,
        block_size=block_size,
        numbered=first.variable or block_size > 0,
        base=first.number if first.variable else first.number * block_size,
        lies=tuple(lies),
        header_is_right=right and declared and first.bits not in REFUSED_BITS,
        header_bits=24 if first.bits in REFUSED_BITS else bits,
        sizes_are_declared=declared,
        longest_frame=max(first.longest, declared_bytes) if block_size else MAX_FRAME_BYTES,
    )


def _count(channels: int) -> str:
    return f"{channels} channel{'s' if channels > 1 else ''}"
