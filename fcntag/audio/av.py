"""The optional PyAV (FFmpeg) reader, for formats that libsndfile does not know: AAC, ALAC, WMA, WavPack and others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import AudioError
from .levels import Stored
from .source import Source, Stream

if TYPE_CHECKING:
    import numpy as np
# By FFmpeg's name of the sample format, without the "p" of planar ones.
_STORED: dict[str, Stored] = {"flt": "float", "dbl": "float", "s32": "int32"}
_LOSSLESS = ("pcm_", "wavpack", "alac", "tta", "flac")


class AvReader:
    """PyAV behind :class:`fcntag.audio.readers.Reader`; its seeks are not exact, so every pass starts at 0."""

    def __init__(self, source: Source, title: str, offset: int, warn: Callable[[str], None]) -> None:
        self.warn = warn
        self._source = source
        self._title = title
        self._offset = offset
        self._container: Any = None
        self.n_frames: int | None = None
        self.stored: Stored = "other"
        self._open()

    def _open(self) -> None:
        try:
            import av
        except ImportError:
            raise AudioError(
                f'{self._source.name}: unsupported format {self._title}; it needs PyAV: pip install "fcntag[av]"'
            ) from None
        self.close()
        stream = Stream(self._source, [(self._offset, self._source.size - self._offset)])
        try:
            # Tags need not be UTF-8, and nothing here reads them.
            self._container = av.open(stream, metadata_errors="ignore")
            if not self._container.streams.audio:
                raise AudioError(f"{self._source.name}: {self._title} file without an audio stream")
            audio = self._container.streams.audio[0]
            self.sample_rate = int(audio.codec_context.sample_rate or 0)
            self.n_channels = int(audio.codec_context.channels or 0)
            self.stored = _STORED.get(
                audio.codec_context.format.name[:3] if audio.codec_context.format else "", "other"
            )
        except (av.FFmpegError, ValueError) as error:
            if isinstance(error, AudioError):
                raise
            raise AudioError(f"{self._source.name}: damaged {self._title} file ({error})") from None
        stream.check()
        self._stream = stream
        self._frames = self._decode()
        self._rest: np.ndarray | None = None
        self._position = 0

    def _decode(self) -> Iterator[np.ndarray]:
        """Decoded frames as float32 [n, channels]; ends with a warning where the stream breaks."""
        import av

        errors = 0
        packets = self._container.demux(audio=0)
        while True:
            where = f"at {self._position / max(1, self.sample_rate):.2f} s"
            try:
                packet = next(packets)
                frames = packet.decode()
            except StopIteration:
                break
            except (av.FFmpegError, ValueError) as error:
                if isinstance(error, av.EOFError):
                    break
                errors += 1
                if errors > 100:
                    self.warn(f"decoding stopped {where} (too many damaged packets)")
                    return
                continue
            for frame in frames:
                if frame.sample_rate != self.sample_rate or len(frame.layout.channels) != self.n_channels:
                    self.warn(f"the stream changes its rate or channels {where}; only the part before is used")
                    return
                yield _samples(frame, self.n_channels)
        if errors:
            self.warn(f"{errors} damaged packets of the {self._title} stream were left out")

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


def _samples(frame: Any, n_channels: int) -> np.ndarray:
    """The frame's samples as float32 [n, channels], integers scaled so that the most negative is -1."""
    import numpy as np

    data = frame.to_ndarray()
    data = data.T if frame.format.is_planar else data.reshape(-1, n_channels)
    if data.dtype.kind == "f":
        return data.astype(np.float32, copy=False)
    if data.dtype == np.uint8:
        return (data.astype(np.float32) - np.float32(128)) * np.float32(1 / 128)
    return data.astype(np.float32) * np.float32(2.0 ** (1 - 8 * data.dtype.itemsize))
