"""Recognising the kind of a file by its first bytes. The name's extension is never looked at."""

from __future__ import annotations

from dataclasses import dataclass

from .id3 import skip_id3v2, skip_zeros
from .source import Source

# Each row: kind, offset, magic, name for people, decoder ("sndfile", "av", or "" for none).
_MAGIC = (
    ("wav", 0, b"RIFF", "WAV", "sndfile"),
    ("wav", 0, b"RIFX", "WAV (big-endian)", "sndfile"),
    ("wav", 0, b"RF64", "RF64", "sndfile"),
    ("w64", 0, b"riff\x2e\x91\xcf\x11", "Wave64", "sndfile"),
    ("aiff", 0, b"FORM", "AIFF", "sndfile"),
    ("flac", 0, b"fLaC", "FLAC", "sndfile"),
    ("au", 0, b".snd", "AU", "sndfile"),
    ("caf", 0, b"caff", "CAF", "sndfile"),
    ("nist", 0, b"NIST_1A", "NIST Sphere", "sndfile"),
    ("voc", 0, b"Creative Voice File", "VOC", "sndfile"),
    ("asf", 0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA (Windows Media Audio)", "av"),
    ("wavpack", 0, b"wvpk", "WavPack", "av"),
    ("ape", 0, b"MAC ", "Monkey's Audio", "av"),
    ("tta", 0, b"TTA1", "True Audio", "av"),
    ("musepack", 0, b"MPCK", "Musepack", "av"),
    ("musepack", 0, b"MP+", "Musepack", "av"),
    ("tak", 0, b"tBaK", "TAK", "av"),
    ("dsf", 0, b"DSD ", "DSD (DSF)", "av"),
    ("dsdiff", 0, b"FRM8", "DSD (DSDIFF)", "av"),
    ("matroska", 0, b"\x1a\x45\xdf\xa3", "Matroska or WebM", "av"),
    ("ac3", 0, b"\x0b\x77", "AC-3", "av"),
    ("amr", 0, b"#!AMR", "AMR", "av"),
    ("rm", 0, b".RMF", "RealMedia", "av"),
    ("flv", 0, b"FLV\x01", "Flash video", "av"),
    ("midi", 0, b"MThd", "MIDI (notes, not sound)", ""),
    ("pdf", 0, b"%PDF", "PDF", ""),
    ("zip", 0, b"PK\x03\x04", "a ZIP archive", ""),
    ("gzip", 0, b"\x1f\x8b\x08", "a gzip archive", ""),
    ("png", 0, b"\x89PNG", "a PNG image", ""),
    ("jpeg", 0, b"\xff\xd8\xff", "a JPEG image", ""),
    ("tracker", 0, b"Extended Module: ", "a tracker module", ""),
    ("tracker", 0, b"IMPM", "a tracker module", ""),
)
_OGG_CODECS = (
    (b"\x01vorbis", "vorbis", "Ogg Vorbis", "sndfile"),
    (b"OpusHead", "opus", "Ogg Opus", "sndfile"),
    (b"\x7fFLAC", "oggflac", "FLAC in Ogg", "sndfile"),
    (b"Speex   ", "speex", "Ogg Speex", "av"),
)
_MP4_CODECS = (
    (b"alac", "ALAC in MP4/M4A"),
    (b"mp4a", "AAC in MP4/M4A"),
    (b"ac-3", "AC-3 in MP4"),
    (b"Opus", "Opus in MP4"),
)


@dataclass(frozen=True)
class Kind:
    """``key`` is for the program, ``title`` for people. ``decoder`` is "sndfile", "av", "mpeg" or "" (none at all)."""

    key: str
    title: str
    decoder: str
    offset: int = 0  # where the content starts, behind tags that do not belong there


def sniff(source: Source) -> Kind:
    """Recognise the content of ``source``. Content without a magic number is "mpeg" until a scan says otherwise."""
    offset = skip_id3v2(source, 0, source.size)
    head = source.read_at(offset, 512)
    for key, at, magic, title, decoder in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return Kind(key, title, decoder, offset)
    if head[:4] == b"OggS":
        return _ogg(head, offset)
    if head[4:8] == b"ftyp":
        return _mp4(source, offset)
    # ADTS: an AAC frame has layer bits 00, which no MPEG audio frame has.
    if len(head) > 2 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return Kind("adts", "AAC (ADTS)", "av", offset)
    lowered = head.lstrip().lower()
    if lowered.startswith((b"<!doctype", b"<html", b"<?xml")):
        return Kind("html", "an HTML or XML page", "", offset)
    if offset == 0 and _is_text(head):
        return Kind("text", "text", "", offset)
    return Kind("mpeg", "MPEG audio", "mpeg", skip_zeros(source, offset, 1 << 20))


def _ogg(head: bytes, offset: int) -> Kind:
    n_segments = head[26] if len(head) > 26 else 0
    packet = head[27 + n_segments : 27 + n_segments + 8]
    for magic, key, title, decoder in _OGG_CODECS:
        if packet.startswith(magic):
            return Kind(key, title, decoder, offset)
    # A video or skeleton stream comes first: libsndfile may still find the sound.
    return Kind("ogg", "Ogg", "sndfile", offset)


def _mp4(source: Source, offset: int) -> Kind:
    """The codec name stands in the sample description, which lies in the first or the last part of the file."""
    for at in (offset, max(offset, source.size - (1 << 20))):
        block = source.read_at(at, 1 << 20)
        description = block.find(b"stsd")
        if description >= 0:
            for magic, title in _MP4_CODECS:
                if magic in block[description : description + 64]:
                    return Kind("mp4", title, "av", offset)
    return Kind("mp4", "MP4/M4A (AAC or ALAC)", "av", offset)


def _is_text(head: bytes) -> bool:
    try:
        text = head[:500].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head[:500]) - 4:  # more than a character cut at the end
            return False
        text = head[: error.start].decode("utf-8")
    return len(text) > 0 and all(c.isprintable() or c in "\t\r\n\f" for c in text)
