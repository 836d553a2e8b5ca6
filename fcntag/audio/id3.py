"""The extent of tags around the sound: ID3v2 in front; ID3v1, APE, Lyrics3 and ID3v2.4 behind.

The sizes in tags are often wrong. A size is believed only where what it leads to looks right.
"""

from __future__ import annotations

from .source import Source

HEADER_BYTES = 10
MAX_FRAMES = 10_000  # of a tag
MAX_PADDING = 1 << 24
FIRST_BYTES, READ_BYTES = 1 << 12, 1 << 20  # most tags have no padding
_SOUNDS = (b"fLaC", b"OggS", b"RIFF", b"RIFX", b"RF64", b"FORM")


def skip_id3v2(source: Source, at: int, end: int) -> int:
    """Offset behind the ID3v2 tags that follow one another at ``at`` (``at`` if there is none), at most ``end``."""
    first = at
    while True:
        head = source.read_at(at, HEADER_BYTES)
        if not _is_id3v2(head):
            break
        at += HEADER_BYTES + _size(head) + (HEADER_BYTES if head[5] & 0x10 else 0)  # 0x10: a footer follows
    if at > first and source.read_at(at, 4) not in _SOUNDS:
        inside = content_end(source, first)
        if inside is not None and source.read_at(inside, 4) in _SOUNDS:
            return min(inside, end)
    return min(at, end)


def _is_id3v2(head: bytes) -> bool:
    return len(head) == HEADER_BYTES and head[:3] == b"ID3" and head[3] != 0xFF and max(head[6:10]) <= 0x7F


def _size(head: bytes) -> int:
    return head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]


def content_end(source: Source, at: int) -> int | None:
    """Offset behind the frames and the zeros of the ID3v2 tag at ``at``, whatever size it gives itself.

    None where there is no such tag.
    """
    head = source.read_at(at, HEADER_BYTES)
    if not _is_id3v2(head):
        return None
    version = head[3]
    name_bytes, head_bytes = (3, 6) if version == 2 else (4, 10)
    at += HEADER_BYTES
    for _ in range(MAX_FRAMES):
        frame = source.read_at(at, head_bytes)
        name = frame[:name_bytes]
        if len(frame) < head_bytes or not (name.isalnum() and name.isascii() and name == name.upper()):
            break
        size = frame[name_bytes : name_bytes + name_bytes]
        if version == 4 and max(size) <= 0x7F:
            n_bytes = size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3]
        else:
            n_bytes = int.from_bytes(size, "big")
        if at + head_bytes + n_bytes > source.size:
            break
        at += head_bytes + n_bytes
    return skip_zeros(source, at, MAX_PADDING)


def skip_zeros(source: Source, at: int, limit: int) -> int:
    """Offset of the first byte that is not zero in [at, at + limit); ``at`` if there is none."""
    start, end = at, at + limit
    n_bytes = FIRST_BYTES
    while at < end:
        block = source.read_at(at, min(n_bytes, end - at))
        n_bytes = READ_BYTES
        stripped = block.lstrip(b"\0")
        if stripped:
            return at + len(block) - len(stripped)
        if not block:
            break
        at += len(block)
    return start


def audio_end(source: Source, start: int) -> int:
    """Offset where the sound ends and the tags behind it begin."""
    end = source.size
    while end > start:
        tail = source.read_at(max(start, end - 160), min(160, end - start))
        if tail[-128:-125] == b"TAG":
            end -= 128
        elif tail[-32:-24] == b"APETAGEX":
            end = _ape_start(source, end, tail[-32:])
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            begin = end - int(tail[-15:-9]) - 15
            # Without its start the tag is no longer than these words.
            end = begin if source.read_at(max(begin, 0), 11) == b"LYRICSBEGIN" else end - 15
        elif tail[-10:-7] == b"3DI" and max(tail[-4:]) <= 0x7F:
            begin = end - 2 * HEADER_BYTES - (tail[-4] << 21 | tail[-3] << 14 | tail[-2] << 7 | tail[-1])
            end = begin if source.read_at(max(begin, 0), 3) == b"ID3" else end - HEADER_BYTES
        else:
            return end
    return max(end, start)


def _ape_start(source: Source, end: int, footer: bytes) -> int:
    """Where the APE tag begins whose ``footer`` ends at ``end``: its items have to fill the size that it gives."""
    items_end = end - 32
    size = int.from_bytes(footer[12:16], "little")  # of the items and the footer
    at = end - size
    has_header = footer[23] >> 7
    if 32 <= size <= end:
        for _ in range(min(int.from_bytes(footer[16:20], "little"), MAX_FRAMES)):
            head = source.read_at(at, 8 + 256)
            name_end = head.find(b"\0", 8)
            if at >= items_end or name_end < 0:
                break
            at += name_end + 1 + int.from_bytes(head[:4], "little")
        if at == items_end:
            begin = end - size
            return begin - 32 if has_header and source.read_at(max(begin - 32, 0), 8) == b"APETAGEX" else begin
    return items_end
