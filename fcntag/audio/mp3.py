"""MPEG audio (layers I-III): finding the bytes of a file that are whole frames of one stream.

libsndfile believes the Xing/Info header's frame count, or without one estimates the length from the first frame's bit
rate and stops there, which loses the end of most variable bit rate files. A frame in the wrong place, a cut frame or
a second file behind the first makes libmpg123 write to stderr, resynchronise and sometimes give up. So every frame
header is visited first (in blocks of bounded size). :mod:`fcntag.audio.mp3_stream` makes a clean stream of the result.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from .id3 import audio_end, content_end, skip_id3v2
from .mp3_frames import (
    CONFIRM,
    FORMATS,
    READ_BYTES,
    FrameFormat,
    Tag,
    find_chain,
    find_free_chain,
    is_chain,
    parse_header,
    read_tag,
    run_of,
    short_run,
)
from .source import Source

SEARCH_BYTES = 1 << 20  # how far behind the tags the first frame may lie
FAR_BYTES = 1 << 28  # how far it may lie where many frames follow it: an ID3v2 tag, whose size may be wrong, ends there
CONFIRM_FAR = 8
RESYNC_BYTES = 1 << 22  # how much damaged data in one piece is searched for the next frame
MAX_WARNINGS = 3  # of one kind; more become one sentence
ACCIDENT_BYTES = 1 << 14
DECODER_DELAY = 529  # samples that libmpg123 adds to the encoder's delay


@dataclass
class Scan:
    """The result of :func:`scan`: where the good frames are, of one run of mono or of stereo.

    A stream that changes between the two has further runs in ``following`` of the first. All share the lists of
    damage and of warnings.
    """

    format: FrameFormat
    tag: Tag | None = None
    last_tag: Tag | None = None  # of a second file behind the first; its padding ends the sound
    plain: bool = True  # the decoder can be given the file as it is (if its own estimate of the length is enough)
    complete: bool = False  # the last frame ends where the data end: nothing is cut off
    offsets: array[int] = field(default_factory=lambda: array("q"))  # of every frame with sound
    runs: list[tuple[int, int]] = field(default_factory=list)  # (index of the first frame, offset behind the last one)
    gaps: list[int] = field(default_factory=list)  # indices of frames in front of which data is missing
    torn: list[int] = field(default_factory=list)  # indices of frames that may be in pieces
    odd: list[int] = field(default_factory=list)  # indices of single frames with the wrong number of channels
    samples_before: int = 0  # those of the runs before this one
    trim_end: int = 0  # samples to drop at the end of a run whose tag stands before an earlier one
    following: list[Scan] = field(default_factory=list)
    damage: list[tuple[int, str]] = field(default_factory=list)  # bytes left out, and where
    warnings: list[str] = field(default_factory=list)

    @property
    def n_frames(self) -> int:
        return len(self.offsets)

    @property
    def end(self) -> int:
        """Offset behind the last frame."""
        return self.runs[-1][1]

    @property
    def n_samples(self) -> int:
        """Samples per channel that the frames decode to, before a tag's delay and padding are taken off."""
        return len(self.offsets) * self.format.frame_samples

    def seconds(self) -> float:
        """Where the run ends, from the start of the stream on."""
        return (self.samples_before + self.n_samples) / self.format.sample_rate


def scan(source: Source, start: int) -> Scan | None:
    """Find the frames of the stream at or behind ``start`` (the first byte behind the tags); None if there are none."""
    end = audio_end(source, start)
    first = _first_chain(source, start, end)
    if first is None:
        return None
    at_first, frame_format = first
    # A single frame where the sound should start belongs to it, though damage follows. It may be the one with the tag.
    lonely = parse_header(source.read_at(start, 4))
    if at_first > start and lonely is not None and lonely[0] == frame_format:
        at_first = start
    at = at_first
    hidden = start - at if at < start else at - start if at - start > SEARCH_BYTES else 0
    result = Scan(frame_format, plain=at == skip_id3v2(source, 0, end))
    at = _take_tag(source, at, result)
    runs = [result]
    while True:
        run = runs[-1]
        first_frame = run.n_frames
        at = _walk(source, at, end, run)
        if run.n_frames > first_frame:
            run.runs.append((first_frame, at))
        if at >= end:
            run.complete = True
            break
        result.plain = False
        at, channels_change = _resume(source, at, end, run)
        if at < 0:
            break
        if channels_change:
            run = _other_channels(run)
            at = _take_tag(source, at, run)
            runs.append(run)
    runs = [run for run in runs if run.n_frames]
    if not runs:
        return None
    result = runs[0]
    result.following = runs[1:]
    for run in runs:
        _check_tag(run)
    _share_out_padding(runs)
    _sum_up(result, runs)
    if hidden:
        side = "before" if at_first < start else "behind"
        result.warnings.insert(0, f"the sound starts {hidden} bytes {side} the end of the tags in front of it")
    tag = result.tag
    if tag is None:
        result.plain = result.plain and end >= source.size - 128  # the decoder knows an ID3v1 tag, but no other
    elif tag.kind == b"VBRI" or tag.n_frames != result.n_frames:
        result.plain = False
    elif tag.bytes_at and abs(source.size - tag.offset - tag.n_bytes) * 200 > source.size:
        result.plain = False  # libmpg123 would write to stderr that the size is off
    return result


def _first_chain(source: Source, start: int, end: int) -> tuple[int, FrameFormat] | None:
    """Offset and format of the first frames at or behind ``start``; before it, where an ID3v2 tag hides them."""
    inside = content_end(source, 0)
    if inside is not None and inside < start:
        hidden = find_chain(source, inside, start - inside, end, confirm=CONFIRM_FAR)
        if hidden is not None:
            return hidden
    return (
        find_chain(source, start, SEARCH_BYTES, end)
        or find_free_chain(source, start, SEARCH_BYTES, end)
        or find_chain(source, start + SEARCH_BYTES, FAR_BYTES, end, confirm=CONFIRM_FAR)
    )


def _other_channels(run: Scan) -> Scan:
    """A new run behind ``run``, of stereo behind mono and the other way round."""
    frame_format = FORMATS[(*run.format.family, not run.format.mono)]
    before = run.samples_before + run.n_samples
    return Scan(frame_format, plain=False, damage=run.damage, warnings=run.warnings, samples_before=before)


def _check_tag(run: Scan) -> None:
    """Take the tag away whose delay and padding leave nothing of the sound: the decoder would then refuse it."""
    tag = run.tag
    if tag is None or not tag.delay_at:
        return
    at_end = tag.padding if tag.n_frames == run.n_frames else 0
    if tag.delay + DECODER_DELAY + max(0, at_end - DECODER_DELAY) >= run.n_samples:
        run.warnings.append("the MP3 header's delay and padding are longer than the sound, and were not believed")
        run.plain = False
        if run.last_tag is tag:
            run.last_tag = None
        run.tag = None


def _share_out_padding(runs: list[Scan]) -> None:
    """A header counts the frames of every run up to the next header; its padding lies behind the last of them."""
    governing, n_frames = None, 0
    for run, following in zip(runs, [*runs[1:], None], strict=True):
        if run.last_tag is not None:
            governing, n_frames = run.last_tag, 0
        n_frames += run.n_frames
        if following is not None and following.tag is not None:
            run.complete = True  # a file of its own
        if run.last_tag is None and governing is not None and governing.delay_at and n_frames == governing.n_frames:
            run.trim_end = max(0, governing.padding - DECODER_DELAY)


def _sum_up(result: Scan, runs: list[Scan]) -> None:
    if 0 < len(result.damage) <= MAX_WARNINGS:
        result.warnings[:0] = [f"{n_bytes} damaged bytes {where} were left out" for n_bytes, where in result.damage]
    elif result.damage:
        total = sum(n_bytes for n_bytes, _ in result.damage)
        result.warnings.insert(0, f"{total} damaged bytes in {len(result.damage)} places were left out")
    promised = result.tag.n_frames or 0 if result.tag is not None else 0
    n_frames = sum(run.n_frames for run in runs)
    if not result.warnings and promised > n_frames * 1.01 + 2:
        per_frame = result.format.frame_samples / result.format.sample_rate
        of = f"{n_frames * per_frame:.2f} of {promised * per_frame:.2f} s"
        result.warnings.append(f"the MP3 header promises more frames than there are: {of} can be decoded")
    n_odd = sum(len(run.odd) for run in runs)
    if n_odd:
        frames = "1 MPEG frame has" if n_odd == 1 else f"{n_odd} MPEG frames have"
        result.warnings.append(f"{frames} other channels than the frames around, and became silence")


def _take_tag(source: Source, at: int, result: Scan) -> int:
    parsed = parse_header(source.read_at(at, 4))
    tag = read_tag(source, at, parsed[1], result.format) if parsed is not None else None
    result.last_tag = tag
    if result.n_frames == 0:
        result.tag = tag
    return at if tag is None else at + tag.size


def _walk(source: Source, at: int, end: int, result: Scan) -> int:
    """Follow frame after frame from ``at``; returns the offset of the first byte that is not part of a whole frame."""
    sizes, mono, append = result.format.sizes, result.format.mono, result.offsets.append
    while True:
        block = source.read_at(at, min(READ_BYTES, end - at))
        base, limit, i = at, len(block) - 4, 0
        if limit < 0:
            return at
        while i <= limit:
            size = sizes.get(block[i + 1] << 8 | block[i + 2])
            if size is None or block[i] != 0xFF or (block[i + 3] >= 0xC0) != mono or base + i + size > end:
                return base + i
            append(base + i)
            i += size
        at = base + i


def _resume(source: Source, at: int, end: int, result: Scan) -> tuple[int, bool]:
    """Where the stream goes on behind bytes at ``at`` that are no frame of it, and whether with other channels.

    The offset is -1 where it does not go on.
    """
    behind = skip_id3v2(source, at, end)
    parsed = parse_header(source.read_at(behind, 4))
    if parsed is not None and parsed[0] == result.format and behind > at:
        return _take_tag(source, behind, result), False  # a second file behind the first
    if parsed is not None and parsed[0] != result.format and parsed[0].family == result.format.family:
        stop, n_frames = short_run(source, behind, end, parsed[0])
        if n_frames == CONFIRM:
            return behind, True
        if behind == at and result.format.layer == 3 and (stop == end or is_chain(source, stop, end, result.format)):
            _take_odd(source, at, stop, result)
            return stop, False
    where = f"at {result.seconds():.2f} s"
    if parsed is not None and parsed[0].family != result.format.family:
        stop, seconds = run_of(source, behind, end, parsed[0].family)
        found = find_chain(source, stop, RESYNC_BYTES, end, result.format)
        if found is not None:
            # The frame before the change is whole: nothing but its own end leads to a frame of another kind.
            result.gaps.append(result.n_frames)
            if short_run(source, behind, end, parsed[0])[1] == CONFIRM:
                kind = f"{parsed[0].sample_rate} Hz layer {parsed[0].layer}"
                result.warnings.append(f"{seconds:.2f} s {where} are {kind} inside another stream, and were left out")
            else:
                result.damage.append((stop - at, where))
            return stop, False
    found = find_chain(source, at, RESYNC_BYTES, end)
    channels_change = False
    if found is not None and found[1] != result.format:
        other = found
        # Damage can look like another format for three frames; then the old one comes back soon.
        found = find_chain(source, at, other[0] - at + ACCIDENT_BYTES, end, result.format)
        if found is None and other[1].family == result.format.family:
            found, channels_change = other, True
        elif found is None:
            _, lost = run_of(source, other[0], end, other[1].family)
            result.warnings.append(
                f"the MPEG stream changes {where} to {other[1].sample_rate} Hz layer {other[1].layer} "
                f"{'mono' if other[1].mono else 'stereo'}; only the part before is used, {lost:.2f} s are lost"
            )
            return -1, False
    if found is None:
        rest = end - at
        if not any(source.read_at(at, min(rest, READ_BYTES))):
            return -1, False  # zeros behind the last frame are padding, not sound
        cut = parse_header(source.read_at(at, 4))
        if cut is not None and cut[0] == result.format and at + cut[1] > end:
            result.warnings.append(f"the file is cut off inside an MPEG frame {where}")
        else:
            result.warnings.append(f"{rest} bytes {where} are not MPEG audio and were left out")
        return -1, False
    result.damage.append((found[0] - at, where))
    # A hole as long as a frame is one whose header is damaged, and the frame before it is whole.
    _mark_gap(result, torn=found[0] - at not in result.format.sizes.values())
    return found[0], channels_change


def _take_odd(source: Source, at: int, stop: int, result: Scan) -> None:
    """One or two frames with the wrong number of channels: they keep their place, and are decoded as silence."""
    first = result.n_frames
    while at < stop:
        parsed = parse_header(source.read_at(at, 4))
        assert parsed is not None
        result.odd.append(result.n_frames)
        result.offsets.append(at)
        at += parsed[1]
    result.runs.append((first, stop))


def _mark_gap(result: Scan, torn: bool) -> None:
    """Data is missing behind the last frame, which may be in pieces itself (``torn``)."""
    if result.format.layer == 3:
        result.gaps.append(result.n_frames)
        if torn:
            result.torn.append(result.n_frames - 1)
    elif torn and result.runs:
        # Layers I and II have no bit reservoir, so no other frame needs this one.
        first, _ = result.runs.pop()
        end = result.offsets.pop()
        if result.n_frames > first:
            result.runs.append((first, end))
