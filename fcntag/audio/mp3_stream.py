"""The decoder's view of MPEG audio: a clean virtual stream of the frames that :func:`fcntag.audio.mp3.scan` found.

The stream has one of three forms:

* A faultless file is decoded as it is (``Scan.plain``).
* Else the good frames stand behind a corrected Xing/Info header.
* Where there is no such header, the good frames stand alone with a pretended file size, from which the decoder's
  estimate is never too short. (A synthetic Xing header would make libmpg123 drop the first 529 samples.)

Frames with missing or suspect data (beside a gap, or with a bit reservoir in one) get zeroed side information. They
decode as silence, and keep their main data for the frames that refer back to it.
"""

from __future__ import annotations

from bisect import bisect_left

from .mp3 import DECODER_DELAY, Scan
from .mp3_frames import FrameFormat
from .source import Source, Stream

# libmpg123's filter bank turns a ring of 16 buffers, once for every 32 samples, and adds up in the ring's order.
# Streams that start a multiple of 16 x 32 samples of whole frames apart therefore agree to the last bit.
ALIGN_FRAMES = 8
FILTER_FRAMES = 4  # overlap and filter bank reach back one frame


def preroll_frames(frame_format: FrameFormat) -> int:
    """Frames to decode before a seek target: as many as the bit reservoir reaches back, and some for the filters."""
    if frame_format.layer != 3:
        return FILTER_FRAMES
    least_main_data = min(frame_format.sizes.values()) - 6 - frame_format.side_info_bytes
    reservoir = 511 if frame_format.version == 3 else 255
    return reservoir // max(1, least_main_data) + FILTER_FRAMES


def _main_data_begin(source: Source, offset: int, frame_format: FrameFormat) -> tuple[int, int]:
    """Two numbers of bytes: the frame's sound starts so far before its own main data, and it adds so much main data."""
    head = source.read_at(offset, 8)
    size = frame_format.sizes[head[1] << 8 | head[2]]
    at = 4 if head[1] & 1 else 6
    begin = head[at] << 1 | head[at + 1] >> 7 if frame_format.version == 3 else head[at]
    return begin, size - at - frame_format.side_info_bytes


def _bad_frames(source: Source, result: Scan, first: int) -> set[int]:
    """Frames that cannot be decoded right: odd ones, those beside gaps, and those whose bit reservoir is not there."""
    bad: set[int] = {k for k in result.odd if k >= first}
    starts = [gap for gap in result.gaps if gap >= first]
    bad.update(k for k in result.torn if k >= first)
    if result.format.layer != 3:
        return bad
    for start in [first, *starts]:
        available = 0
        for k in range(start, min(start + preroll_frames(result.format), result.n_frames)):
            begin, added = _main_data_begin(source, result.offsets[k], result.format)
            if begin <= available:
                break
            available += added
            bad.add(k)
    return bad


def _silenced(source: Source, offset: int, size: int, frame_format: FrameFormat) -> list[bytes | tuple[int, int]]:
    """The frame with its side information zeroed: silence, but its main data stays where the bit reservoir is.

    Only ``main_data_begin`` is kept: libmpg123 hands the reservoir on from frame to frame by it.
    """
    head = source.read_at(offset, 8)
    crc_bytes = 0 if head[1] & 1 else 2
    keep = 4 + frame_format.side_info_bytes + crc_bytes
    # Without a checksum, which would no longer fit, and with the channels of the frames around.
    channels = 0xC0 | head[3] & 0x0F if frame_format.mono else head[3] & (0x3F if head[3] >= 0xC0 else 0xFF)
    header = bytes((head[0], head[1] | 1, head[2], channels))
    begin = head[4 + crc_bytes : 6 + crc_bytes]
    begin = bytes((begin[0], begin[1] & 0x80 if frame_format.version == 3 else 0))
    return [header + begin + bytes(keep - 6), (offset + keep, size - keep)]


def _frame_pieces(source: Source, result: Scan, first: int) -> list[bytes | tuple[int, int]]:
    """The frames from index ``first`` on as pieces for :class:`Stream`."""
    pieces: list[bytes | tuple[int, int]] = []
    bad = sorted(_bad_frames(source, result, first))
    offsets = result.offsets
    for number, (run_first, run_end) in enumerate(result.runs):
        run_stop = result.runs[number + 1][0] if number + 1 < len(result.runs) else result.n_frames
        k = max(first, run_first)
        while k < run_stop:
            following = bisect_left(bad, k)
            stop = min(run_stop, bad[following]) if following < len(bad) else run_stop
            if stop > k:
                at = offsets[k]
                pieces.append((at, (offsets[stop] if stop < run_stop else run_end) - at))
            if stop < run_stop:
                size = (offsets[stop + 1] if stop + 1 < run_stop else run_end) - offsets[stop]
                pieces += _silenced(source, offsets[stop], size, result.format)
            k = stop + 1
    return pieces


def clean_stream(source: Source, result: Scan, first: int = 0) -> Stream:
    """A virtual file of the good frames from index ``first`` on; from 0 with the corrected Xing/Info header, if any."""
    pieces = _frame_pieces(source, result, first)
    tag = result.tag
    if first == 0 and tag is not None and tag.frames_at:
        frame = bytearray(source.read_at(tag.offset, tag.size))
        frame[tag.frames_at : tag.frames_at + 4] = result.n_frames.to_bytes(4, "big")
        if tag.bytes_at:
            n_bytes = sum(len(piece) if isinstance(piece, bytes) else piece[1] for piece in pieces)
            frame[tag.bytes_at : tag.bytes_at + 4] = min(n_bytes + tag.size, 0xFFFFFFFF).to_bytes(4, "big")
        if tag.delay_at:
            frame[tag.delay_at : tag.delay_at + 3] = (tag.delay << 12 | end_padding(result)).to_bytes(3, "big")
        return Stream(source, [bytes(frame), *pieces])
    # The decoder divides the size by that of one frame: with the largest that exist the result is never too small.
    return Stream(source, pieces, pretended_size=(result.n_frames + 16) * max(result.format.sizes.values()))


def end_padding(result: Scan) -> int:
    """Samples behind the sound to drop, as the last header of the stream gives them; 0 where its end is missing."""
    last = result.last_tag
    if last is None or not last.delay_at:
        return 0
    if last is not result.tag:
        return last.padding if result.complete else 0
    if last.n_frames == result.n_frames:
        return last.padding
    if result.n_frames < (last.n_frames or 0):
        return 0  # frames are missing, perhaps those that hold the padding; the decoder drops nothing either
    # There are more than the tag knew of: something was put behind them, unless its number of bytes is right.
    return last.padding if result.complete and result.end == last.offset + last.n_bytes else 0


def skipped_at_start(result: Scan) -> int:
    """Samples that the decoder drops in front (encoder and decoder delay) where there is a Xing or Info header."""
    if result.tag is None or not result.tag.frames_at:
        return 0
    return result.tag.delay + DECODER_DELAY
