"""Checks of a WAV header where libsndfile would mislead or say nothing. libsndfile reads the samples either way."""

from __future__ import annotations

from .source import Source

# Programs write these sizes where they cannot know the right one (into a pipe). They are no sign of a cut file.
_UNKNOWN_SIZES = frozenset((0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF - 36, 0x7FFFFFFF - 36, 0x7FFFF000))
_PCM = 1
MAX_CHUNKS = 1000


def check_header(source: Source, offset: int) -> list[str]:
    """Warnings about a data chunk that is cut off or said to be empty. Raises ``ValueError`` for impossible fields."""
    head = source.read_at(offset, 12)
    at = offset + 12
    for _ in range(MAX_CHUNKS):
        chunk = source.read_at(at, 8 + 16)
        if len(chunk) < 8:
            break
        size = _number(chunk[4:8], head)
        if chunk[:4] == b"fmt " and len(chunk) == 24:
            _check_fmt(chunk[8:], head)
        elif chunk[:4] == b"data":
            present = source.size - at - 8
            if size == 0 and present > 0:
                return [f"the WAV header says that it holds no samples, though {present} bytes follow"]
            if size > present and size not in _UNKNOWN_SIZES and head[:4] != b"RF64":
                return [f"the WAV file is cut off: {present} of {size} bytes of samples are there"]
            break
        at += 8 + size + (size & 1)
    return []


def _number(field: bytes, head: bytes) -> int:
    return int.from_bytes(field, "big" if head[:4] == b"RIFX" else "little")


def _check_fmt(fmt: bytes, head: bytes) -> None:
    channels, rate, bits = _number(fmt[2:4], head), _number(fmt[4:8], head), _number(fmt[14:16], head)
    if channels == 0:
        raise ValueError("the header says 0 channels")
    if rate == 0 or rate >= 1 << 31:
        raise ValueError(f"the header says {rate} Hz")
    if bits == 0 and _number(fmt[:2], head) == _PCM:
        raise ValueError("the header says 0 bits per sample")
