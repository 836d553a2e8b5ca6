"""Ogg pages: FLAC is taken out of its Ogg wrapping, and streams are checked for exact seeks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .source import Source

READ_BYTES = 1 << 20
_CONTINUED, _FIRST, _LAST = 1, 2, 4  # header flags


@dataclass(frozen=True)
class Page:
    """One Ogg page: the place of its body, and the fields of its header (RFC 3533)."""

    offset: int
    body: int  # offset of the body
    size: int  # bytes of body
    flags: int
    granule: int
    serial: int
    sequence: int
    lacing: bytes


def pages(source: Source, at: int = 0) -> Iterator[Page]:
    """Every whole page from ``at`` on; bytes between pages are skipped."""
    block, base = b"", at
    while True:
        i = at - base
        if i + 282 > len(block):  # the longest page header
            block, base, i = source.read_at(at, READ_BYTES), at, 0
        if block[i : i + 4] != b"OggS":
            following = block.find(b"OggS", i + 1)
            if following >= 0:
                at = base + following
            elif len(block) < READ_BYTES:
                return
            else:
                at = base + len(block) - 3
            continue
        if i + 27 > len(block) or i + 27 + block[i + 26] > len(block):
            return
        lacing = block[i + 27 : i + 27 + block[i + 26]]
        size = sum(lacing)
        body = at + 27 + len(lacing)
        if body + size > source.size:
            return
        yield Page(
            at,
            body,
            size,
            block[i + 5],
            int.from_bytes(block[i + 6 : i + 14], "little", signed=True),
            int.from_bytes(block[i + 14 : i + 18], "little"),
            int.from_bytes(block[i + 18 : i + 22], "little"),
            lacing,
        )
        at = body + size


def last_page_warnings(source: Source, offset: int) -> list[str]:
    """Warnings about the end of an Ogg file: it is cut off, or a further stream follows the first (chained)."""
    starting = set()
    for page in pages(source, offset):
        if not page.flags & _FIRST:
            break
        starting.add(page.serial)
    tail = source.read_at(max(offset, source.size - (1 << 17)), 1 << 17)
    at = tail.rfind(b"OggS")
    if at < 0 or at + 27 > len(tail):
        return ["the Ogg stream ends in bytes that are not Ogg pages"]
    if int.from_bytes(tail[at + 14 : at + 18], "little") not in starting:
        return ["another Ogg stream follows the first; only the first is used"]
    size = 27 + tail[at + 26] + sum(tail[at + 27 : at + 27 + tail[at + 26]])
    if at + size > len(tail):
        return ["the Ogg stream is cut off in the middle of a page"]
    return []


def irregularities(source: Source, offset: int) -> list[str]:
    """Warnings about pages that make the decoder lose sound without a word; for streams that are not regular."""
    texts: dict[str, None] = {}
    sequences: dict[int, int] = {}
    last = largest = 0  # positions
    beginning = True
    for page in pages(source, offset):
        beginning = beginning and bool(page.flags & _FIRST)
        if page.flags & _FIRST and not beginning and page.sequence == 0:
            texts["another Ogg stream follows the first; only the first is used"] = None
            break
        if page.sequence != sequences.get(page.serial, -1) + 1:
            texts["pages of the Ogg stream are missing"] = None
        sequences[page.serial] = page.sequence
        if page.granule != -1:
            last, largest = page.granule, max(page.granule, largest)
    if last < largest:  # libsndfile ends there
        texts[f"the Ogg stream ends with position {last}, after {largest}; sound may be lost"] = None
    return list(texts)


def is_regular(source: Source, offset: int) -> bool:
    """Whether positions in the stream are reliable: it is one stream, lacks no page, and its granules never fall."""
    serial = granule = -1
    sequence = 0
    for page in pages(source, offset):
        if serial < 0:
            serial = page.serial
        if page.serial != serial or page.sequence != sequence:
            return False
        if page.granule != -1:
            if page.granule < granule:
                return False
            granule = page.granule
        sequence += 1
    return sequence > 2 and granule > 0


def is_celt(source: Source, offset: int) -> bool:
    """Whether every packet of an Opus stream is CELT.

    SILK's state reaches back without limit, so that a decoder that starts in the middle does not return to the same
    samples; CELT's decays within a few frames.
    """
    return all(page.sequence <= 1 or _all_celt(source, page) for page in pages(source, offset))


def _all_celt(source: Source, page: Page) -> bool:
    body = source.read_at(page.body, page.size)
    at = 0
    starts_packet = not page.flags & _CONTINUED
    for value in page.lacing:
        # The table-of-contents byte: configurations 16 to 31 are CELT (RFC 6716, table 2).
        if starts_packet and value > 0 and body[at] < 0x80:
            return False
        starts_packet = value < 255
        at += value
    return True


def flac_pieces(source: Source, offset: int) -> tuple[list[bytes | tuple[int, int]], list[str]]:
    """The native FLAC stream inside the first Ogg stream, as pieces (none: damaged start), and warnings."""
    pieces: list[bytes | tuple[int, int]] = []
    warnings: list[str] = []
    serial, sequence, ended = -1, 0, False
    for page in pages(source, offset):
        if serial < 0:
            # 0x7F "FLAC", version, number of header packets: 9 bytes, then the native stream (RFC 9639, 10.1).
            if source.read_at(page.body + 9, 4) != b"fLaC":
                return [], []
            serial, sequence = page.serial, page.sequence
            pieces.append((page.body + 9, page.size - 9))
        elif page.serial == serial and not (ended and page.flags & _FIRST):
            if page.sequence != sequence and not warnings:
                warnings.append("pages of the Ogg stream are missing")
            sequence = page.sequence
            pieces.append((page.body, page.size))
        elif ended:
            warnings.append("another Ogg stream follows the first; only the first is used")
            break
        sequence += 1
        ended = ended or bool(page.flags & _LAST)
    return pieces, warnings
