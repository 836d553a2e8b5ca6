"""Checks of a WAV header where libsndfile would mislead or say nothing. libsndfile reads the samples either way."""

from __future__ import annotations

from collections.abc import Iterator

from .source import Source

# Programs write these sizes where they cannot know the right one (into a pipe). They are no sign of a cut file.
_UNKNOWN_SIZES = frozenset((0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF - 36, 0x7FFFFFFF - 36, 0x7FFFF000))
UNKNOWN_SIZE = b"\xff" * 4  # libsndfile then reads to the end of the file
_PCM, _EXTENSIBLE = 1, 0xFFFE
# Format tags of what libsndfile does not decode, for messages. Source: Microsoft's mmreg.h, RFC 2361.
_TAGS = {
    0x00FF: "AAC",
    0x1600: "AAC (ADTS)",
    0x1601: "AAC",
    0x1602: "AAC (LATM)",
    0x1610: "AAC",
    0x4143: "AAC",
    0x706D: "AAC",
    0xA106: "AAC",
    0x0092: "AC-3",
    0x2000: "AC-3",
    0x0008: "DTS",
    0x2001: "DTS",
    0x0050: "MPEG layer 2",
    0x0055: "MP3",
    0x0160: "WMA 1",
    0x0161: "WMA 2",
    0x0162: "WMA Pro",
    0x0163: "WMA lossless",
    0x0270: "ATRAC3",
    0x704F: "Opus",
    0xA109: "Speex",
    0xF1AC: "FLAC",
}
MAX_CHUNKS = 1000


def _chunks(source: Source, offset: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset and size of each chunk's content, as far as the sizes lead."""
    head = source.read_at(offset, 12)
    at = offset + 12
    for _ in range(MAX_CHUNKS):
        chunk = source.read_at(at, 8)
        if len(chunk) < 8:
            return
        size = _number(chunk[4:8], head)
        yield chunk[:4], at + 8, size
        at += 8 + size + (size & 1)


def title(source: Source, offset: int) -> str:
    """ "AC-3 in WAV" and the like, where the header names a codec of which libsndfile knows nothing; else empty."""
    head = source.read_at(offset, 12)
    for name, at, _ in _chunks(source, offset):
        if name == b"fmt ":
            tag = _number(source.read_at(at, 2), head)
            codec = _TAGS.get(_number(source.read_at(at + 24, 2), head) if tag == _EXTENSIBLE else tag)
            return f"{codec} in WAV" if codec else ""
    return ""


def first_samples(source: Source, offset: int, n_bytes: int = 1 << 15) -> bytes:
    """The first bytes of 16-bit stereo PCM; empty for anything else."""
    head = source.read_at(offset, 12)
    for name, at, size in _chunks(source, offset):
        if name == b"fmt ":
            fmt = source.read_at(at, 16)
            if _number(fmt[:2], head) not in (_PCM, _EXTENSIBLE) or _number(fmt[2:4], head) != 2:
                return b""
            if _number(fmt[14:16], head) != 16:
                return b""
        elif name == b"data":
            return source.read_at(at, min(size, n_bytes))
    return b""


def unnamed_samples(source: Source, offset: int) -> int | None:
    """Where the samples begin behind a header that says that there are none; None if that is true.

    A recorder that was switched off leaves such a header. Chunks that fill the rest of the file are no sound.
    """
    start, end = None, offset + 12
    for name, at, size in _chunks(source, offset):
        if name == b"data" and start is None:
            if size > 0:
                return None
            start = at
        end = at + size + (size & 1)
    return None if start is None or source.size <= end <= source.size + 1 else start


def check_header(source: Source, offset: int) -> list[str]:
    """Warnings about a data chunk that is cut off or said to be empty. Raises ``ValueError`` for impossible fields."""
    head = source.read_at(offset, 12)
    for name, at, size in _chunks(source, offset):
        if name == b"fmt ":
            fmt = source.read_at(at, 16)
            if len(fmt) == 16:
                _check_fmt(fmt, head)
        elif name == b"data":
            present = source.size - at
            if size == 0 and present > 0:
                used = "" if unnamed_samples(source, offset) is None else "; they were taken for its samples"
                return [f"the WAV header says that it holds no samples, though {present} bytes follow{used}"]
            if size > present and size not in _UNKNOWN_SIZES and head[:4] not in (b"RF64", b"BW64"):
                return [f"the WAV file is cut off: {present} of {size} bytes of samples are there"]
            break
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
