"""Track: one sound as mono float32 samples at any rate, streamed in blocks or in windows, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ..errors import AudioError
from . import resample
from .levels import Levels
from .readers import Reader, check_format
from .source import DecoderIOError, Source

if TYPE_CHECKING:
    import numpy as np

BLOCK_FRAMES = 1 << 16
BLOCK_SAMPLES = 1 << 18  # of all channels: many channels make shorter blocks
# A gap between two windows is decoded rather than jumped over where it is shorter than this (in seconds).
MIN_JUMP_S = 5.0
NEGLIGIBLE_S = 0.1  # Vorbis headers are often off by a block; that is nothing a user can act on


class Track:
    """A sound that was opened; made by :func:`open_track`. Use it from one thread at a time, or as a context manager.

    Attributes
    ----------
    name : one printable line
    sample_rate, n_channels : the source's own; the rate in Hz
    n_frames : samples per channel; None where only decoding can tell
    warnings : short sentences; decoding adds to them
    length_changed : whether decoding has shown that ``n_frames`` was wrong, and corrected it. :meth:`length` may then
        give another value than before. Compare the two to see whether windows planned from the old one still hold.
    """

    def __init__(self, name: str, source: Source | None, make_reader: Callable[[Track], Reader]) -> None:
        self.name = name
        self._warnings: list[str] = []
        self.length_changed = False
        self._source = source
        self._pass = 0
        self._closed = False
        self._reader = make_reader(self)
        self.sample_rate: int = self._reader.sample_rate
        self.n_channels: int = self._reader.n_channels
        self.n_frames: int | None = self._reader.n_frames
        self._levels = Levels(self._reader.stored)
        try:
            check_format(name, self.sample_rate, self.n_channels, getattr(self._reader, "max_rate", None))
            if self.n_frames == 0:
                raise self._no_samples()
        except AudioError:
            self._reader.close()
            raise

    def __enter__(self) -> Track:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the decoder, and the file if this object opened it."""
        self._closed = True
        self._reader.close()
        if self._source is not None:
            self._source.close()

    @property
    def duration_s(self) -> float | None:
        """Length in seconds; None where only decoding can tell."""
        return None if self.n_frames is None else self.n_frames / self.sample_rate

    @property
    def warnings(self) -> list[str]:
        """Short sentences: what was wrong with the source, then what is odd about the samples decoded so far."""
        return [*self._warnings, *self._levels.warnings()]

    def warn(self, text: str) -> None:
        """Add ``text`` to :attr:`warnings` unless it is there already (a second pass meets the same damage again)."""
        if text not in self._warnings:
            self._warnings.append(text)

    def length(self, rate: int) -> int:
        """Samples at ``rate`` Hz: ceil(n_frames * rate / sample_rate). Decodes once if ``n_frames`` is not known.

        Raises :class:`AudioError` if there are none.
        """
        n_frames = self.n_frames
        if n_frames is None:
            n_frames = sum(len(block) for block in self._frames(0))
        return resample.output_length(n_frames, self.sample_rate, rate)

    def blocks(self, rate: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Yield the mono mix at ``rate`` Hz as consecutive float32 arrays [n] that cover samples [start, stop).

        The samples are bit-identical to ``soxr.resample(mono, sample_rate, rate, "HQ")`` of the whole sound, with
        :meth:`length` samples (one zero may be appended). ``mono``: (L + R) * 0.5, or the mean over channels.
        ``stop`` None or beyond the end: to the end. May be called again; a new call ends the one before.
        Raises :class:`AudioError` for NaN or Inf, or if nothing at all can be decoded.
        """
        if start < 0 or (stop is not None and stop < start):
            raise ValueError(f"start={start}, stop={stop}; allowed: 0 <= start <= stop")
        check_format(self.name, rate, 1)
        outputs = self._unchanged(start, stop) if rate == self.sample_rate else self._resampled(rate, start, stop)
        at = start
        for array in outputs:
            if stop is not None and at + len(array) > stop:
                array = array[: stop - at]
            at += len(array)
            if len(array):
                yield array

    def windows(self, rate: int, starts: Sequence[int], n_samples: int) -> Iterator[np.ndarray]:
        """Yield one float32 array [n_samples] per entry of ``starts``: samples [start, start + n_samples) at ``rate``.

        ``starts`` must not fall. Windows may overlap, start before 0 and end behind the track; samples outside it are
        zeros. Nothing behind the last window is decoded. The parts in front of a window, and in a long gap between two,
        are skipped where the decoder can be positioned without changing a bit of the result. Samples and errors are
        those of :meth:`blocks`. If the starts came from :meth:`length`, compare it afterwards: decoding may have
        corrected it.
        """
        if n_samples < 1:
            raise ValueError(f"n_samples={n_samples}; allowed: 1 or more")
        if any(b < a for a, b in pairwise(starts)):
            raise ValueError("starts must not fall")
        jump = self._jump(rate) if len(starts) > 1 else None
        first = 0
        for k in range(1, len(starts) + 1):
            if k == len(starts) or (jump is not None and starts[k] - max(0, starts[k - 1] + n_samples) > jump):
                yield from self._windows_of_one_pass(rate, starts[first:k], n_samples)
                first = k

    def _jump(self, rate: int) -> int | None:
        """Samples at ``rate`` from which on a gap between windows is worth a seek; None: never."""
        step = resample.exact_step(self.sample_rate, rate)
        if step is None or not self._reader.can_seek():
            return None
        return int(rate * max(MIN_JUMP_S, 2 * step / self.sample_rate + resample.SETTLE_S))

    def _windows_of_one_pass(self, rate: int, starts: Sequence[int], n_samples: int) -> Iterator[np.ndarray]:
        import numpy as np

        held: list[tuple[int, np.ndarray]] = []  # (position, samples) that later windows may need again
        begin, end = max(0, starts[0]), max(0, starts[-1] + n_samples)
        known = None if self.n_frames is None else resample.output_length(self.n_frames, self.sample_rate, rate)
        blocks = iter(()) if end == begin or (known is not None and begin >= known) else self.blocks(rate, begin, end)
        reached = begin
        for start in starts:
            while held and held[0][0] + len(held[0][1]) <= start:
                held.pop(0)
            while reached < start + n_samples:
                block = next(blocks, None)
                if block is None:
                    break
                if reached + len(block) > start:
                    held.append((reached, block))
                reached += len(block)
            window = np.zeros(n_samples, np.float32)
            for position, block in held:
                a, b = max(position, start), min(position + len(block), start + n_samples)
                if a < b:
                    window[a - start : b - start] = block[a - position : b - position]
            yield window

    def _frames(self, first: int) -> Iterator[np.ndarray]:
        """Mono blocks at the source's rate from frame ``first`` on; each is valid until the next is asked for."""
        import numpy as np

        if self._closed:
            raise AudioError(f"{self.name}: the track is closed")
        self._pass += 1
        this_pass = self._pass
        self._levels.begin_pass()
        n_block = min(BLOCK_FRAMES, max(1024, BLOCK_SAMPLES // self.n_channels))
        buffer = np.empty((n_block, self.n_channels), np.float32)
        mono = np.empty(n_block, np.float32)
        try:
            at = self._reader.seek(first)
            while True:
                if self._pass != this_pass:
                    raise RuntimeError("another pass over this track has begun; one can run at a time")
                n = self._reader.read_into(buffer)
                if n == 0:
                    break
                drop = min(max(0, first - at), n)
                if drop < n:
                    block = buffer[drop:n]
                    self._levels.see(block)
                    mixed = _mix(block, mono[: n - drop])
                    if not _all_finite(mixed):
                        raise self._not_finite(block, at + drop)
                    yield mixed
                at += n
        except DecoderIOError as error:
            raise AudioError(f"{self.name}: {error}") from error
        self._reached_end(at)

    def _reached_end(self, n_frames: int) -> None:
        """Decoding came to its end after ``n_frames`` frames."""
        if n_frames == 0:
            raise self._no_samples()
        if self.n_frames is not None and n_frames != self.n_frames:
            self.length_changed = True
            if abs(self.n_frames - n_frames) > NEGLIGIBLE_S * self.sample_rate:
                decoded, promised = n_frames / self.sample_rate, self.n_frames / self.sample_rate
                self.warn(f"only {decoded:.2f} of {promised:.2f} s could be decoded")
        self.n_frames = n_frames

    def _no_samples(self) -> AudioError:
        reason = f" ({self._warnings[-1]})" if self._warnings else ""
        return AudioError(f"{self.name}: no audio samples{reason}")

    def _not_finite(self, block: np.ndarray, at: int) -> AudioError:
        """The error for NaN or Inf in ``block`` [n, channels], whose first frame is ``at``. It counts the rest too."""
        import numpy as np

        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if len(bad) == 0:
            return AudioError(f"{self.name}: the channels' sum exceeds float32 near {at / self.sample_rate:.2f} s")
        first, count = at + int(bad[0]), len(bad)
        rest = np.empty_like(block)
        while (n := self._reader.read_into(rest)) > 0:
            count += n - int(np.isfinite(rest[:n]).all(axis=1).sum())
        return AudioError(
            f"{self.name}: {count} frames hold NaN or Inf, the first is frame {first} "
            f"({first / self.sample_rate:.3f} s); only finite samples can be analysed"
        )

    def _unchanged(self, start: int, stop: int | None) -> Iterator[np.ndarray]:
        at = start
        for block in self._frames(start):
            yield block.copy()
            at += len(block)
            if stop is not None and at >= stop:
                return

    def _resampled(self, rate: int, start: int, stop: int | None) -> Iterator[np.ndarray]:
        """Resampled blocks from ``start`` on, up to at least ``stop`` or the end."""
        import numpy as np

        first_frame = self._aligned(rate, start)
        produced = first_frame * rate // self.sample_rate  # a whole number: first_frame is a multiple of the step
        stream = resample.stream(self.sample_rate, rate)
        ended = False
        frames, n_frames = self._frames(first_frame), first_frame
        while not ended:
            block = next(frames, None)
            ended = block is None
            n_frames += 0 if block is None else len(block)
            output = stream.resample_chunk(np.empty(0, np.float32) if block is None else block, last=ended)
            if ended:
                missing = resample.output_length(n_frames, self.sample_rate, rate) - produced - len(output)
                output = output[: len(output) + missing] if missing < 0 else np.pad(output, (0, missing))
            if not _all_finite(output):
                where = f"near {produced / rate:.2f} s"
                raise AudioError(f"{self.name}: the samples are too large to resample in float32 {where}")
            produced += len(output)
            skip = max(0, start - (produced - len(output)))
            if skip < len(output):
                yield output[skip:]
            if stop is not None and produced >= stop:
                return

    def _aligned(self, rate: int, start: int) -> int:
        """The last frame from which a resampler gives the full sound's samples at output ``start`` and behind."""
        wanted = (start - int(resample.SETTLE_S * rate)) * self.sample_rate // rate
        if wanted <= MIN_JUMP_S * self.sample_rate or not self._reader.can_seek():
            return 0
        step = resample.exact_step(self.sample_rate, rate)
        return 0 if step is None else wanted // step * step


def _all_finite(samples: np.ndarray) -> bool:
    """Whether no sample is NaN or Inf: a sum tells at half the cost of testing each, unless large ones overflow it."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.add.reduce(samples))) or bool(np.isfinite(samples).all())


def _mix(block: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Mean over the channels of ``block`` [n, channels] in float32, in ``out`` [n] or as a view of ``block``."""
    import numpy as np

    n_channels = block.shape[1]
    if n_channels == 1:
        return block[:, 0]
    if n_channels > 7:
        # From 8 values on NumPy sums in pairs. Below that it sums in order, as the cheaper loop over channels does.
        return block.mean(axis=1, out=out)
    with np.errstate(over="ignore", invalid="ignore"):
        np.add(block[:, 0], block[:, 1], out=out)
        for channel in range(2, n_channels):
            out += block[:, channel]
        if n_channels == 2:
            out *= np.float32(0.5)
        else:
            out /= np.float32(n_channels)
    return out
