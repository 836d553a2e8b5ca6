"""Bare streams of frames, without a container: found by a chain of frames, each as long as its header says.

A recording of a broadcast or a cut piece of a stream may start in the middle of a frame, so that its first bytes say
nothing. Two bytes of a sync word mean little by themselves; four frames in a row are no accident.
"""

from __future__ import annotations

import re

from .source import Source

SEARCH_BYTES = 1 << 16
CONFIRM = 4  # frames in a row
_SYNC = re.compile(
    rb"\xff[\xf0\xf1\xf8\xf9]|\x56[\xe0-\xff]|\x0b\x77|\x7f\xfe\x80\x01|\xfe\x7f\x01\x80|\x47", re.DOTALL
)
_KEYS = {0xFF: "adts", 0x56: "latm", 0x0B: "ac3", 0x7F: "dts", 0xFE: "dts", 0x47: "ts"}
# kbit/s of AC-3 by half its size code. Source: ETSI TS 102 366, table 4.13.
_AC3_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
# What 16-bit samples of a CD or of a digital line (IEC 61937) begin with where they carry AC-3 or DTS.
_IN_PCM = (b"\x72\xf8\x1f\x4e", b"\xff\x1f\x00\xe8", b"\xfe\x7f\x01\x80", b"\x1f\xff\xe8\x00", b"\x7f\xfe\x80\x01")


def find(source: Source, offset: int) -> tuple[str, int] | None:
    """Key in the table of formats and offset of the first chain of frames near ``offset``, or None."""
    block = source.read_at(offset, 2 * SEARCH_BYTES)
    for match in _SYNC.finditer(block, 0, SEARCH_BYTES):
        at = match.start()
        key = _KEYS[block[at]]
        if is_chain(key, block, at):
            return key, offset + at - (4 if key == "ts" and _step(block, at) == 192 and at >= 4 else 0)
    return None


def is_chain(key: str, block: bytes, at: int) -> bool:
    """Whether frames of one kind follow one another in ``block`` from ``at`` on, at least ``CONFIRM`` of them."""
    if key == "ts":
        return _step(block, at) > 0 or _step(block, at + 4) == 192
    for _ in range(CONFIRM):
        size = _SIZES[key](block[at : at + 10])
        if size == 0:
            return False
        at += size
    return True


def carries_frames(pcm: bytes) -> bool:
    """Whether 16-bit samples are no sound but a coded stream: the same sync word at least three times."""
    return any(pcm.count(word) >= 3 for word in _IN_PCM)


def adx_header_is_usual(head: bytes) -> bool:
    """Whether an ADX header has the one coding that FFmpeg decodes: type 3, blocks of 18 bytes, 4 bits a sample.

    No other is given to FFmpeg, which was seen to end the process.
    """
    rate = int.from_bytes(head[8:12], "big")
    return len(head) >= 16 and head[4:7] == b"\x03\x12\x04" and head[7] > 0 and 0 < rate <= 768_000


def _step(block: bytes, at: int) -> int:
    """The distance of the sync bytes of an MPEG transport stream; 0: they do not repeat."""
    for step in (188, 192, 204):
        if block[at : at + step * CONFIRM + 1 : step] == b"\x47" * (CONFIRM + 1):
            return step
    return 0


def _adts(head: bytes) -> int:
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return 0
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return size if size > 7 else 0


def _latm(head: bytes) -> int:
    if len(head) < 3 or head[0] != 0x56 or head[1] & 0xE0 != 0xE0:
        return 0
    size = (head[1] & 0x1F) << 8 | head[2]
    return size + 3 if size else 0


def _ac3(head: bytes) -> int:
    if len(head) < 6 or head[:2] != b"\x0b\x77":
        return 0
    rate_code, version = head[4] >> 6, head[5] >> 3
    if 10 < version <= 16:  # E-AC-3
        return 2 * (((head[2] & 7) << 8 | head[3]) + 1)
    code = head[4] & 63
    if version > 10 or rate_code == 3 or code >= 2 * len(_AC3_KBITS):
        return 0
    kbits = _AC3_KBITS[code >> 1]
    if rate_code == 1:  # 44.1 kHz: 1536 samples are no whole number of words
        return 2 * (kbits * 96_000 // 44_100 + (code & 1))
    return kbits * (4 if rate_code == 0 else 6)


def _dts(head: bytes) -> int:
    if head[:4] == b"\xfe\x7f\x01\x80":  # bytes swapped
        head = bytes(head[i ^ 1] for i in range(len(head) & ~1))
    if len(head) < 8 or head[:4] != b"\x7f\xfe\x80\x01":
        return 0
    size = ((head[5] & 3) << 12 | head[6] << 4 | head[7] >> 4) + 1
    return size if size >= 96 else 0


_SIZES = {"adts": _adts, "latm": _latm, "ac3": _ac3, "dts": _dts}
