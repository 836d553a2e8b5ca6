"""The optional PyAV (FFmpeg) reader, for formats that libsndfile does not know: AAC, ALAC, WMA, WavPack and others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import AudioError
from .aac_edges import AacEdges
from .levels import Stored
from .source import Source, Stream

if TYPE_CHECKING:
    import numpy as np
# By FFmpeg's name of the sample format, without the "p" of planar ones.
_STORED: dict[str, Stored] = {"flt": "float", "dbl": "float", "s32": "int32"}
_LOSSLESS = ("pcm_", "wavpack", "alac", "tta", "flac")

INSTALL = 'pip install "fcntag[av]"'
MAX_DSD_RATE = 6_144_000  # an eighth of 49.152 MHz, DSD1024: FFmpeg makes one sample of eight bits
MAX_ERRORS = 100  # damaged packets
SAFE_PLANES = 7  # a frame of more is interleaved before PyAV gives its samples, some of which ended the process
PEEK_FRAMES, PEEK_SAMPLES = 32, 1 << 16  # so many frames of a file tell whether it can be decoded
# Formats of FFmpeg with a signature of four bytes and more. FFmpeg takes headerless samples and noise for one of the
# others now and then: a few bits of a sync word that repeats are enough for it.
_SIGNED = (
    "aiff asf ast au avi bfstm bink bonk brstm caf dsf dss dxa film_cpk flac flv gxf hca iff ircam ivf "
    "matroska mmf mov mp4 mpc mpc8 mpeg mpegts mxf nut ogg oma pva qcp rm shn smk sox swf tak tta vivo voc vqf "
    "w64 wav wtv wv xwma"
)
_GUESS = {"format_whitelist": _SIGNED.replace(" ", ",")}
_OPTIONS = {"protocol_whitelist": "none"}  # a playlist or a reference inside a file opens no other file


class PyavMissing(AudioError):
    """PyAV is not installed."""


class NoAudio(AudioError):
    """A container without a stream of sound."""


class AvReader:
    """PyAV behind :class:`fcntag.audio.readers.Reader`; its seeks are not exact, so every pass starts at 0.

    With ``guess`` nothing is known of the content. Then only formats count that have a signature of their own.
    """

    def __init__(
        self, source: Source, title: str, offset: int, warn: Callable[[str], None], *, guess: bool = False
    ) -> None:
        self.warn = warn
        self._source = source
        self._title = title
        self._offset = offset
        self._guess = guess
        self._container: Any = None
        self.n_frames: int | None = None
        self.stored: Stored = "other"
        self._open()

    @property
    def max_rate(self) -> int | None:
        """The largest rate in Hz that the format has; None: as of any sound."""
        return MAX_DSD_RATE if self.codec.startswith(("dsd", "dst", "wavpack")) else None

    def _open(self) -> None:
        name = self._source.name
        try:
            import av
        except ImportError:
            raise PyavMissing(f"{name}: unsupported format {self._title}; it needs PyAV: {INSTALL}") from None
        self.close()
        stream = Stream(self._source, [(self._offset, self._source.size - self._offset)])
        try:
            # Tags need not be UTF-8, and nothing here reads them.
            options = _OPTIONS | (_GUESS if self._guess else {})
            # options= ended the process with some files under PyAV before 18; container_options= did not.
            self._container = av.open(stream, metadata_errors="ignore", container_options=options)
            if not self._container.streams.audio:
                if self._guess and not self._container.streams.video:
                    raise AudioError(f"{name}: not a recognised sound file")
                raise NoAudio(f"{name}: {self._kind_without_sound()} without an audio stream")
            audio = self._container.streams.audio[0]
            for other in reversed(self._container.streams.audio):  # a broadcast may name streams that it does not send
                if other.codec_context is not None and other.codec_context.sample_rate:
                    audio = other
            if audio.codec_context is None:
                raise AudioError(f"{name}: {self._title} file with a sound codec that PyAV {av.__version__} lacks")
            self.codec: str = audio.codec_context.name
            self.sample_rate = int(audio.codec_context.sample_rate or 0)
            self.n_channels = int(audio.codec_context.channels or 0)
            self._audio = audio
            self._edges = AacEdges.of(self._container, audio, self.sample_rate)
            self.stored = _STORED.get(
                audio.codec_context.format.name[:3] if audio.codec_context.format else "", "other"
            )
        except (av.FFmpegError, ValueError) as error:
            self.close()
            if isinstance(error, AudioError):
                raise
            raise AudioError(f"{name}: damaged {self._title} file ({error_text(error)})") from None
        finally:
            stream.check()
        self._stream = stream
        self._errors = 0
        self._frames = self._decode()
        self._rest: np.ndarray | None = None
        self._position = 0

    def _kind_without_sound(self) -> str:
        if self._guess:
            return f"a file of the format {self._container.format.name.split(',')[0]!r}"
        return f"{self._title} file"

    def has_sound(self) -> bool:
        """Whether the first frames can be decoded, and most packets of them; reading goes on with them.

        Some decoders make a frame or two of anything, and give up then.
        """
        import numpy as np

        first: list[np.ndarray] = []
        for frame in self._frames:
            first.append(frame)
            if len(first) == PEEK_FRAMES or sum(map(len, first)) > PEEK_SAMPLES:
                break
        self._stream.check()
        if first:
            self._rest = np.concatenate(first)
        return len(first) > self._errors

    def _packets(self) -> Iterator[tuple[Any, bool]]:
        """The packets of the stream, with None for one that cannot be read; and whether it is the last with content."""
        import av

        packets = self._container.demux(self._audio)
        held: Any = None
        errors = 0
        while errors <= MAX_ERRORS:
            try:
                packet = next(packets)
            except (StopIteration, av.EOFError, IndexError):
                # PyAV 18 meets an index of its own at the end of a broadcast that has begun a further stream midway.
                break
            except (av.FFmpegError, ValueError):
                errors += 1
                yield None, False
                continue
            if held is not None:
                yield held, packet.size == 0
            held = packet
        if held is not None:
            yield held, held.size > 0

    def _decode(self) -> Iterator[np.ndarray]:
        """Decoded frames as float32 [n, channels]; ends with a warning where the stream breaks."""
        import av

        edges, interleaver = self._edges, _Interleaver()
        for packet, is_last in self._packets():
            where = f"at {self._position / max(1, self.sample_rate):.2f} s"
            if edges is not None and packet is not None and packet.size:
                edges.packet(packet.pts, packet.duration, is_last)
            try:
                frames = [] if packet is None else [f for g in packet.decode() for f in interleaver.frames(g)]
            except (av.FFmpegError, ValueError) as error:
                if isinstance(error, av.EOFError):
                    break
                if packet.size == 0:  # nothing but side data, which some muxers put at the end
                    continue
                packet = None
            if packet is None:
                self._errors += 1
                if self._errors > MAX_ERRORS:
                    self.warn(f"decoding stopped {where} (too many damaged packets)")
                    return
                continue
            for frame in frames:
                if frame.sample_rate != self.sample_rate:
                    self.warn(f"the stream changes its rate {where}; only the part before is used")
                    return
                samples = _samples(frame, self.n_channels)
                if edges is not None:
                    samples = samples[edges.of_frame(frame.pts, len(samples))]
                if len(samples):
                    yield samples
        if self._errors:
            packets = "1 damaged packet" if self._errors == 1 else f"{self._errors} damaged packets"
            verb = "was" if self._errors == 1 else "were"
            self.warn(f"{packets} of the {self._title} stream {verb} left out")

    def can_seek(self) -> bool:
        return False

    def seek(self, frame: int) -> int:
        if self._position > 0:
            self._open()
        return 0

    def read_into(self, buffer: np.ndarray) -> int:
        done = 0
        while done < len(buffer):
            if self._rest is None or len(self._rest) == 0:
                self._rest = next(self._frames, None)
                self._stream.check()
                if self._rest is None:
                    break
            n = min(len(buffer) - done, len(self._rest))
            buffer[done : done + n] = self._rest[:n]
            self._rest = self._rest[n:]
            done += n
        self._position += done
        return done

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None


def error_text(error: Exception) -> str:
    """FFmpeg's own words, without the errno in front and the stream's name behind."""
    return str(getattr(error, "strerror", None) or error)


def _samples(frame: Any, n_channels: int) -> np.ndarray:
    """The frame's samples as float32 [n, n_channels], integers scaled so that the most negative is -1.

    A frame with another number of channels, as broadcasts have them where a programme ends, gives its mean in every
    channel, so that the mono mix is right.
    """
    import numpy as np

    present = len(frame.layout.channels)
    data = frame.to_ndarray()
    data = data.T if frame.format.is_planar else data.reshape(-1, present)
    if data.dtype.kind == "f":
        data = data.astype(np.float32, copy=False)
    elif data.dtype == np.uint8:
        data = (data.astype(np.float32) - np.float32(128)) * np.float32(1 / 128)
    else:
        data = data.astype(np.float32) * np.float32(2.0 ** (1 - 8 * data.dtype.itemsize))
    if present != n_channels:
        data = np.repeat(data.mean(axis=1, keepdims=True), n_channels, axis=1)
    return data


class _Interleaver:
    """Frames that PyAV makes no array of, turned into such as it does.

    Planar frames of many channels are put in one plane, and integers of 64 bits become doubles.
    """

    def __init__(self) -> None:
        self._made_for: tuple[str, int, int] | None = None
        self._resampler: Any = None

    def frames(self, frame: Any) -> list[Any]:
        """``frame``, or its samples in a packed format."""
        n_channels = len(frame.layout.channels)
        is_long = frame.format.name.startswith("s64")
        if not is_long and (n_channels <= SAFE_PLANES or not frame.format.is_planar):
            return [frame]
        import av

        wanted = (frame.format.name, n_channels, frame.sample_rate)
        if self._made_for != wanted:
            self._resampler = av.AudioResampler(
                "dbl" if is_long else frame.format.packed.name, frame.layout, frame.sample_rate
            )
            self._made_for = wanted
        return self._resampler.resample(frame)
