"""Recognising the kind of a file by its first bytes. The name's ending is never looked at."""

from __future__ import annotations

import re
from dataclasses import dataclass

from . import streams
from .formats import FORMATS
from .id3 import skip_id3v2, skip_zeros
from .source import Source

# Signatures at the very start, and the row of fcntag.audio.formats that each stands for.
_MAGIC = (
    (b"riff\x2e\x91\xcf\x11", "w64"),
    (b"fLaC", "flac"),
    (b".snd", "au"),
    (b"caff", "caf"),
    (b"NIST_1A", "nist"),
    (b"Creative Voice File", "voc"),
    *((b"\x64\xa3" + bytes((machine, 0)), "ircam") for machine in (1, 2, 3, 4)),
    *((bytes((0, machine)) + b"\xa3\x64", "ircam") for machine in (1, 2, 3, 4)),
    (b" paf", "paf"),
    (b"fap ", "paf"),
    (b"PVF1", "pvf"),
    (b"2BIT", "avr"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (b"wvpk", "wavpack"),
    (b"MAC ", "ape"),
    (b"TTA1", "tta"),
    (b"MPCK", "musepack"),
    (b"MP+", "musepack"),
    (b"tBaK", "tak"),
    (b"ajkg", "shorten"),
    (b"DSD ", "dsf"),
    (b"FRM8", "dsdiff"),
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"\x0b\x77", "ac3"),
    (b"\x7f\xfe\x80\x01", "dts"),
    (b"\xfe\x7f\x01\x80", "dts"),
    (b"\x1f\xff\xe8\x00", "dts"),
    (b"\xff\x1f\x00\xe8", "dts"),
    (b"\x64\x58\x20\x25", "dts"),
    (b"DTSHDHDR", "dts"),
    (b"#!AMR", "amr"),
    (b".ra\xfd", "ra"),
    (b".RMF", "rm"),
    (b"FLV\x01", "flv"),
    (b"\0\0\x01\xba", "ps"),
    (b"nut/multimedia container\0", "nut"),
    (b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02", "mxf"),
    (b".SoX", "sox"),
    (b"XoS.", "sox"),
    (b"FWS", "swf"),
    (b"CWS", "swf"),
    (b"MMMD", "mmf"),
    (b"EA3\x01", "oma"),
    (b"ea3\x03", "oma"),
    (b"MThd", "midi"),
    (b"\0\x05\x16\x07", "appledouble"),
    (b"%PDF", "pdf"),
    (b"PK\x03\x04", "zip"),
    (b"\x1f\x8b\x08", "gzip"),
    (b"Rar!\x1a\x07", "rar"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"\x89PNG", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF8", "gif"),
    (b"Extended Module: ", "tracker"),
    (b"IMPM", "tracker"),
)
# RIFF and IFF are wrappings of many things; the four bytes behind the size tell of which.
_RIFF = {
    b"WAVE": "wav",
    b"AVI ": "avi",
    b"AVIX": "avi",
    b"RMID": "midi",
    b"WEBP": "webp",
    b"sfbk": "soundfont",
}
_RIFF_TITLES = {b"RIFF": "WAV", b"RIFX": "WAV (big-endian)", b"RF64": "RF64", b"BW64": "BW64"}
_IFF = {b"AIFF": "aiff", b"AIFC": "aiff", b"8SVX": "svx", b"16SV": "svx"}
_OGG = ((b"\x01vorbis", "vorbis"), (b"OpusHead", "opus"), (b"\x7fFLAC", "oggflac"), (b"Speex   ", "speex"))
_MP4 = (
    (b"alac", "ALAC in MP4/M4A"),
    (b"mp4a", "AAC in MP4/M4A"),
    (b"ac-3", "AC-3 in MP4"),
    (b"Opus", "Opus in MP4"),
)
# Atoms that a QuickTime file without "ftyp" starts with.
_QUICKTIME = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_HEADER_BYTES = 1 << 16  # how long the lines of a server's answer may be in front of the sound
_SERVER = (b"HTTP/1.", b"HTTP/2", b"ICY 200")


@dataclass(frozen=True)
class Kind:
    """``key`` is for the program, ``title`` for people. ``decoder`` is "sndfile", "av", "mpeg" or "" (none at all)."""

    key: str
    title: str
    decoder: str
    offset: int = 0  # where the content starts, behind tags that do not belong there


def kind_of(key: str, offset: int, title: str = "") -> Kind:
    """The row ``key`` of the table of formats, by its own title or another."""
    row = FORMATS[key]
    return Kind(key, title or row.title, row.decoder, offset)


def sniff(source: Source) -> Kind:
    """Recognise the content of ``source``. Content without a magic number is "mpeg" until a scan says otherwise."""
    offset = skip_id3v2(source, 0, source.size)
    head = source.read_at(offset, 1024)
    found = _signed(source, head, offset)
    if found is not None:
        return found
    lowered = head.lstrip().lower()
    if lowered.startswith((b"<!doctype", b"<html", b"<?xml")):
        return kind_of("html", offset)
    if offset == 0 and (behind := _behind_header_lines(source, head)) is not None:
        return behind
    if offset == 0 and _is_text(head):
        return kind_of("text", offset)
    return kind_of("mpeg", skip_zeros(source, offset, 1 << 20))


def _signed(source: Source, head: bytes, offset: int) -> Kind | None:
    """The kind of content that says itself what it is."""
    form = head[8:12]
    if head[:4] in _RIFF_TITLES:
        key = _RIFF.get(form, "riff") if len(form) == 4 else "wav"
        if key == "riff":
            return kind_of(key, offset, f"RIFF ({_printable(form)})")
        return kind_of(key, offset, _RIFF_TITLES[head[:4]] if key == "wav" else "")
    if head[:4] == b"FORM":
        key = _IFF.get(form, "iff") if len(form) == 4 else "aiff"
        return kind_of(key, offset, f"IFF ({_printable(form)})" if key == "iff" else "")
    for magic, key in _MAGIC:
        if head.startswith(magic):
            return kind_of(key, offset)
    if head[:4] == b"OggS":
        return _ogg(head, offset)
    if head[4:8] == b"ftyp" or (head[4:8] in _QUICKTIME and _is_quicktime(source, offset)):
        return _mp4(source, offset)
    if head[4:8] in (b"\xf8\x72\x6f\xba", b"\xf8\x72\x6f\xbb"):
        return kind_of("truehd" if head[7] == 0xBA else "mlp", offset)
    if head[:2] == b"\x80\0" and b"(c)CRI" in head[:512]:
        return kind_of("adx", offset)
    # ADTS: an AAC frame has layer bits 00, which no MPEG audio frame has.
    if len(head) > 2 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return kind_of("adts", offset)
    for key in ("ts", "latm"):
        if streams.is_chain(key, head, 0):
            return kind_of(key, offset)
    return None


def _printable(form: bytes) -> str:
    return "".join(chr(byte) if 32 < byte < 127 else "?" for byte in form.rstrip())


def _is_quicktime(source: Source, offset: int) -> bool:
    """Whether the first atom's length leads to a second atom or to the end of the file."""
    at = offset + int.from_bytes(source.read_at(offset, 4), "big")
    following = source.read_at(at, 8)[4:]
    return at == source.size or (at >= offset + 8 and re.fullmatch(rb"[a-zA-Z0-9 ]{4}", following) is not None)


def _behind_header_lines(source: Source, head: bytes) -> Kind | None:
    """The kind of what follows a server's header lines, as careless downloads save them in front of the sound."""
    first_line = head.split(b"\n", 1)[0]
    if not head.startswith(_SERVER) and not re.match(rb"[A-Za-z][A-Za-z0-9-]*:[ \t]?[ -~]*\r?$", first_line):
        return None
    block = source.read_at(0, _HEADER_BYTES)
    end = re.search(rb"\r?\n\r?\n", block)
    if end is None:
        return None
    offset = skip_id3v2(source, end.end(), source.size)
    found = _signed(source, source.read_at(offset, 1024), offset)
    if found is None and head.startswith(_SERVER):
        return kind_of("mpeg", offset)
    return found


def _ogg(head: bytes, offset: int) -> Kind:
    n_segments = head[26] if len(head) > 26 else 0
    packet = head[27 + n_segments : 27 + n_segments + 8]
    for magic, key in _OGG:
        if packet.startswith(magic):
            return kind_of(key, offset)
    # A video or skeleton stream comes first: libsndfile may still find the sound.
    return kind_of("ogg", offset)


def _mp4(source: Source, offset: int) -> Kind:
    """The codec name stands in the sample description, which lies in the first or the last part of the file."""
    for at in (offset, max(offset, source.size - (1 << 20))):
        block = source.read_at(at, 1 << 20)
        for description in re.finditer(b"stsd", block):
            for magic, title in _MP4:
                if magic in block[description.start() : description.start() + 64]:
                    return kind_of("mp4", offset, title)
    return kind_of("mp4", offset)


def _is_text(head: bytes) -> bool:
    try:
        text = head[:500].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head[:500]) - 4:  # more than a character cut at the end
            return False
        text = head[: error.start].decode("utf-8")
    return len(text) > 0 and all(c.isprintable() or c in "\t\r\n\f" for c in text)
