"""The kinds of files: what each is called, what decodes it, and the endings that its files have.

This is the only such table. ``fcntag.audio.sniff`` recognises a file by its content and finds its row here. The
command line takes from here which files of a folder to try.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """One kind of file. ``decoder`` is "sndfile", "av", "mpeg" (a scan of MPEG frames first) or "" (none at all)."""

    key: str
    title: str  # for people
    decoder: str
    endings: str = ""  # without dots; the first is the usual one


_TABLE = (
    Format("wav", "WAV", "sndfile", "wav wave rf64 bwf bw64"),
    Format("w64", "Wave64", "sndfile", "w64"),
    Format("aiff", "AIFF", "sndfile", "aiff aif aifc"),
    Format("svx", "8SVX", "sndfile", "8svx svx"),
    Format("flac", "FLAC", "sndfile", "flac"),
    Format("au", "AU", "sndfile", "au snd"),
    Format("caf", "CAF", "sndfile", "caf"),
    Format("nist", "NIST Sphere", "sndfile", "nist sph"),
    Format("voc", "VOC", "sndfile", "voc"),
    Format("ircam", "IRCAM", "sndfile", "sf"),
    Format("paf", "PAF", "sndfile", "paf"),
    Format("pvf", "PVF", "sndfile", "pvf"),
    Format("avr", "AVR", "sndfile", "avr"),
    Format("vorbis", "Ogg Vorbis", "sndfile", "ogg oga"),
    Format("opus", "Ogg Opus", "sndfile", "opus"),
    Format("oggflac", "FLAC in Ogg", "sndfile", "oga"),
    Format("ogg", "Ogg", "sndfile", "ogg ogv ogx"),
    Format("mpeg", "MPEG audio", "mpeg", "mp3 mp2 mp1 mpga mpa"),
    Format("speex", "Ogg Speex", "av", "spx"),
    Format("mp4", "MP4", "av", "m4a m4b m4r mp4 m4v mov qt aac alac 3gp 3g2 3ga f4a f4v"),
    Format("adts", "AAC (ADTS)", "av", "aac adts"),
    Format("latm", "AAC (LATM)", "av", "latm loas"),
    Format("asf", "WMA (Windows Media Audio)", "av", "wma asf wmv"),
    Format("wavpack", "WavPack", "av", "wv"),
    Format("ape", "Monkey's Audio", "av", "ape"),
    Format("tta", "True Audio", "av", "tta"),
    Format("musepack", "Musepack", "av", "mpc mpp mp+"),
    Format("tak", "TAK", "av", "tak"),
    Format("shorten", "Shorten", "av", "shn"),
    Format("dsf", "DSD (DSF)", "av", "dsf"),
    Format("dsdiff", "DSD (DSDIFF)", "av", "dff"),
    Format("matroska", "Matroska or WebM", "av", "mka mkv webm weba"),
    Format("ac3", "AC-3", "av", "ac3 eac3 ec3"),
    Format("dts", "DTS", "av", "dts dtshd"),
    Format("mlp", "MLP", "av", "mlp"),
    Format("truehd", "Dolby TrueHD", "av", "thd truehd"),
    Format("amr", "AMR", "av", "amr awb"),
    Format("ra", "RealAudio", "av", "ra"),
    Format("rm", "RealMedia", "av", "rm rmvb"),
    Format("flv", "Flash video", "av", "flv"),
    Format("avi", "AVI", "av", "avi divx"),
    Format("riff", "RIFF", "av", "amv qcp"),
    Format("iff", "IFF", "av", ""),
    Format("ts", "MPEG transport stream", "av", "ts m2ts mts m2t tp trp"),
    Format("ps", "MPEG program stream", "av", "mpg mpeg vob evo"),
    Format("nut", "NUT", "av", "nut"),
    Format("adx", "CRI ADX", "av", "adx"),
    Format("mxf", "MXF", "av", "mxf"),
    Format("swf", "Flash (SWF)", "av", "swf"),
    Format("sox", "SoX", "av", "sox"),
    Format("mmf", "Yamaha SMAF", "av", "mmf"),
    Format("oma", "Sony OpenMG", "av", "oma aa3"),
    Format("midi", "MIDI (notes, not sound)", ""),
    Format("appledouble", "an AppleDouble file: macOS keeps another file's attributes in it", ""),
    Format("pdf", "PDF", ""),
    Format("zip", "a ZIP archive", ""),
    Format("gzip", "a gzip archive", ""),
    Format("rar", "a RAR archive", ""),
    Format("7z", "a 7-Zip archive", ""),
    Format("png", "a PNG image", ""),
    Format("jpeg", "a JPEG image", ""),
    Format("gif", "a GIF image", ""),
    Format("webp", "a WebP image", ""),
    Format("tracker", "a tracker module", ""),
    Format("soundfont", "a SoundFont", ""),
    Format("html", "an HTML or XML page", ""),
    Format("text", "text", ""),
)
FORMATS = {row.key: row for row in _TABLE}
ENDINGS = frozenset(f".{ending}" for row in _TABLE for ending in row.endings.split())
