"""The extent of tags around the sound: ID3v2 in front; ID3v1, APE, Lyrics3 and ID3v2.4 behind."""

from __future__ import annotations

from .source import Source


def skip_id3v2(source: Source, at: int, end: int) -> int:
    """Offset behind the ID3v2 tags that follow one another at ``at`` (``at`` if there is none), at most ``end``."""
    while True:
        head = source.read_at(at, 10)
        if len(head) < 10 or head[:3] != b"ID3" or head[3] == 0xFF or max(head[6:10]) > 0x7F:
            return min(at, end)
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        at += 10 + size + (10 if head[5] & 0x10 else 0)  # 0x10: a footer follows


def skip_zeros(source: Source, at: int, limit: int) -> int:
    """Offset of the first byte that is not zero in [at, at + limit); ``at`` if there is none."""
    block = source.read_at(at, limit)
    stripped = block.lstrip(b"\0")
    return at + len(block) - len(stripped) if stripped else at


def audio_end(source: Source, start: int) -> int:
    """Offset where the sound ends and the tags behind it begin."""
    end = source.size
    while end > start:
        tail = source.read_at(max(start, end - 160), min(160, end - start))
        if tail[-128:-125] == b"TAG":
            end -= 128
        elif tail[-32:-24] == b"APETAGEX":
            size = int.from_bytes(tail[-20:-16], "little")
            has_header = int.from_bytes(tail[-12:-8], "little") >> 31
            end -= max(size, 32) + 32 * has_header  # the footer itself counts, whatever a damaged size says
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            end -= int(tail[-15:-9]) + 15
        elif tail[-10:-7] == b"3DI" and max(tail[-4:]) <= 0x7F:
            end -= (tail[-4] << 21 | tail[-3] << 14 | tail[-2] << 7 | tail[-1]) + 20
        else:
            return end
    return max(end, start)
