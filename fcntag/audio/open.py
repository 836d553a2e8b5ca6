"""Opening a source: its format is recognised, its reader is made, and a Track reads through that."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import AudioError
from . import mp3, ogg, streams, wav
from .av import INSTALL, AvReader, NoAudio, PyavMissing
from .flac_reader import FlacReader
from .formats import FORMATS
from .mp3_reader import mp3_reader
from .readers import ArrayReader, Reader, SndReader
from .sniff import Kind, sniff
from .source import DecoderIOError, Source, Stream, check_kind, open_source, source_name
from .track import Track

if TYPE_CHECKING:
    import numpy as np


VORBIS_PREROLL = 1 << 14  # two of the longest blocks (8192 samples)
MOST_SAMPLES_A_BYTE = 4096  # of Ogg: silence in Vorbis is a packet of one byte, and a byte in the page's header
OPUS_PREROLL = 480_000  # 10 s: CELT's energy prediction has decayed beyond float32 long before
_KNOWN = "WAV, AIFF, FLAC, Ogg (Vorbis, Opus, FLAC), MP3, AU, CAF, W64"
_NO_HEADER = "samples without a header can be given as an array with sample_rate="
# What libsndfile decodes itself, by kind: where PyAV finds such a codec in a file that libsndfile refuses, the file
# is damaged. Any other codec is simply none of libsndfile's.
_LIBSNDFILES_OWN = {
    "wav": "pcm_",
    "w64": "pcm_",
    "aiff": "pcm_",
    "au": "pcm_",
    "caf": "pcm_",
    "flac": "flac",
    "vorbis": "vorbis",
    "opus": "opus",
}


def open_track(
    source: str | os.PathLike[Any] | bytes | np.ndarray | Any, sample_rate: int | None = None, name: str | None = None
) -> Track:
    """Open a sound and check its header; nothing is decoded yet.

    The content decides the format, never the name's extension.

    Parameters
    ----------
    source : a path, ``bytes`` with a file's content, a binary file object (read from its current position, not closed),
        or an array [n_samples] or [n_samples, n_channels] of float or PCM integers
    sample_rate : in Hz; required for an array, refused for anything else
    name : of the source, for messages

    Raises
    ------
    AudioError : the source cannot be read; the message starts with the name
    """
    import numpy as np

    if isinstance(source, np.ndarray):
        label = name or "<array>"
        if sample_rate is None:
            raise AudioError(f"{label}: an array needs sample_rate= (in Hz)")
        return Track(label, None, lambda track: ArrayReader(source, sample_rate, label))
    label = name or source_name(source)
    check_kind(source, label)
    if sample_rate is not None:
        raise AudioError(f"{label}: sample_rate= is only for arrays; a file brings its own")
    opened = open_source(source, name)
    try:
        return Track(opened.name, opened, lambda track: _open_reader(opened, track.warn))
    except DecoderIOError as error:
        opened.close()
        raise AudioError(f"{opened.name}: {error}") from error
    except BaseException:
        opened.close()
        raise


def _open_reader(source: Source, warn: Callable[[str], None]) -> Reader:
    import soundfile

    kind = sniff(source)
    if kind.decoder == "":
        raise AudioError(f"{source.name}: not a sound file (it looks like {kind.title}); known formats: {_KNOWN}")
    if kind.key == "adx" and not streams.adx_header_is_usual(source.read_at(kind.offset, 16)):
        raise AudioError(f"{source.name}: damaged or unusual {kind.title} file (its header)")
    if kind.decoder == "av":
        return AvReader(source, kind.title, kind.offset, warn)
    if kind.key == "wav" and streams.carries_frames(wav.first_samples(source, kind.offset)):
        reader = AvReader(source, f"AC-3 or DTS in {kind.title}", kind.offset, warn)
        if not reader.codec.startswith("pcm_"):
            return reader
        reader.close()  # an accident: FFmpeg takes the samples for samples
    try:
        plain = _sndfile_reader(source, kind, warn)
        return plain if plain.n_frames != 0 else _despite_header(source, kind, plain, warn)
    except soundfile.LibsndfileError as error:
        reason = f"libsndfile {soundfile.__libsndfile_version__}: {error.error_string.strip().rstrip('.')}"
        return _second_decoder(source, kind, reason, warn)
    except ValueError as error:
        if isinstance(error, AudioError):
            raise
        raise AudioError(f"{source.name}: damaged {kind.title} file ({error})") from None


def _second_decoder(source: Source, kind: Kind, reason: str, warn: Callable[[str], None]) -> Reader:
    """PyAV's reader for a file that libsndfile refuses, ``reason`` in its words.

    libsndfile calls a WAV file with AC-3 or DTS in it as malformed as a damaged one, so that its words do not tell
    whether another decoder can do more. Therefore any refusal is taken to PyAV, and a first frame has to come of it.
    """
    title = wav.title(source, kind.offset) or kind.title if kind.key == "wav" else kind.title
    refusal = f"{source.name}: damaged or unusual {title} file"
    try:
        reader = AvReader(source, title, kind.offset, warn)
        if not reader.has_sound():
            reader.close()
            raise AudioError("its packets cannot be decoded")
    except PyavMissing:
        raise AudioError(f"{refusal} ({reason}); PyAV may read it: {INSTALL}") from None
    except NoAudio:
        raise
    except AudioError as error:
        second = str(error).removeprefix(f"{source.name}: ").removeprefix(f"damaged {title} file ").strip("()")
        raise AudioError(f"{refusal} ({reason}; PyAV: {second})") from None
    if reader.codec.startswith(_LIBSNDFILES_OWN.get(kind.key, "?")):
        warn(f"read with PyAV, because the {title} file is damaged ({reason})")
    return reader


def _despite_header(source: Source, kind: Kind, reader: Reader, warn: Callable[[str], None]) -> Reader:
    """PyAV's reader, if it finds sound in a file of which libsndfile's ``reader`` has no sample; else ``reader``.

    The positions of Ogg pages, for one, may all be 0.
    """
    if kind.key == "wav":  # PyAV would take the chunks behind for samples
        return reader
    try:
        other = AvReader(source, kind.title, kind.offset, warn)
    except AudioError:
        return reader
    if not other.has_sound():
        other.close()
        return reader
    reader.close()
    warn(f"read with PyAV, because libsndfile finds no samples by the lengths in the {kind.title} file")
    return other


def _unknown(source: Source, offset: int, warn: Callable[[str], None]) -> Reader:
    """The reader of content without a signature and without MPEG frames; raises :class:`AudioError`."""
    refusal = f"{source.name}: not a recognised sound file; known formats: {_KNOWN}"
    found = streams.find(source, offset)
    if found is not None:
        key, at = found
        return AvReader(source, FORMATS[key].title, at, warn)
    if streams.carries_frames(source.read_at(offset, streams.SEARCH_BYTES)):
        return AvReader(source, "AC-3 or DTS as on a digital line", offset, warn)
    try:
        reader = AvReader(source, "unknown", offset, warn, guess=True)
        if reader.has_sound():
            return reader
        reader.close()
    except PyavMissing:
        raise AudioError(f"{refusal}, more with PyAV: {INSTALL}; {_NO_HEADER}") from None
    except NoAudio:
        raise
    except AudioError:
        pass
    raise AudioError(f"{refusal}; {_NO_HEADER}")


def _sndfile_reader(source: Source, kind: Kind, warn: Callable[[str], None]) -> Reader:
    offset = kind.offset
    if kind.decoder == "mpeg":
        scan = mp3.scan(source, offset)
        if scan is None:
            return _unknown(source, offset, warn)
        return mp3_reader(source, scan, warn)
    if kind.key == "flac":
        return FlacReader(source, offset, warn)
    if kind.key == "oggflac":
        pieces, warnings = ogg.flac_pieces(source, offset)
        for text in warnings:
            warn(text)
        if not pieces:
            raise ValueError("its first page is damaged")
        return FlacReader(Source(source.name, Stream(source, pieces), owned=False), 0, warn)  # type: ignore[arg-type]
    make_stream = None if offset == 0 else lambda: Stream(source, [(offset, source.size - offset)])
    if kind.title == "BW64":  # EBU's name for RF64 with more chunks allowed (ITU-R BS.2088); libsndfile knows the other
        make_stream = lambda: Stream(source, [b"RF64", (offset + 4, source.size - offset - 4)])  # noqa: E731
    if kind.key in ("vorbis", "opus"):
        is_opus = kind.key == "opus"
        for text in ogg.last_page_warnings(source, offset):
            warn(text)
        regular = ogg.is_regular(source, offset)
        reader = SndReader(
            source,
            warn,
            make_stream,
            preroll=(OPUS_PREROLL if is_opus else VORBIS_PREROLL) if regular else None,
            seek_is_exact=(lambda: ogg.is_celt(source, offset)) if is_opus else None,
        )
        if not regular:
            for text in ogg.irregularities(source, offset):
                warn(text)
            if reader.n_frames != 0:  # the length comes from the last position, which may be wrong: only decoding tells
                reader.n_frames = None
        elif reader.n_frames is not None and reader.n_frames > source.size * MOST_SAMPLES_A_BYTE:
            reader.n_frames = None  # windows would be planned, and made of zeros, for years
        return reader
    if kind.key == "wav":
        for text in wav.check_header(source, offset):
            warn(text)
        samples = wav.unnamed_samples(source, offset)
        if samples is not None and source.read_at(offset, 4) in (b"RIFF", b"RIFX"):
            head, rest = (offset, samples - 4 - offset), (samples, source.size - samples)
            make_stream = lambda: Stream(source, [head, wav.UNKNOWN_SIZE, rest])  # noqa: E731
    return SndReader(source, warn, make_stream)
