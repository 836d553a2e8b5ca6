"""FLAC headers that lie: the sound is that of the frames, never less than the plain decoder gives."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from support.audio_cases import decoded, encode, mono_of, plain_decoder
from support.flac_writer import MAGIC, block, flac, frames, stream_info, with_field

from fcntag.audio import flac_reader, open_track
from fcntag.audio.flac_frames import FrameScan
from fcntag.errors import AudioError

RATE = 44100
STEADY = [576] * 12 + [100]
UNEVEN = [100, 2000, 576, 16, 300, 1152, 17, 5]


def made(
    bits: int = 16,
    n_channels: int = 2,
    rate: int = RATE,
    blocks: list[int] = STEADY,
    **options: object,
) -> tuple[bytes, np.ndarray]:
    """A file and its mono mix."""
    integers = np.random.default_rng(bits + n_channels).integers(-(2 ** (bits - 3)), 2 ** (bits - 3), (sum(blocks), 1))
    integers = np.concatenate([np.roll(integers, k, axis=0) for k in range(n_channels)], axis=1)
    data = flac(integers, rate, bits, blocks, **options)  # type: ignore[arg-type]
    return data, mono_of((integers / 2.0 ** (bits - 1)).astype(np.float32))


def check(data: bytes, truth: np.ndarray, rate: int = RATE, warnings: tuple[str, ...] = ()) -> None:
    """The sound is ``truth``, no shorter than the plain decoder's; one warning each has the words of ``warnings``."""
    out, own_rate, said = decoded(data)
    np.testing.assert_array_equal(out, truth)
    assert own_rate == rate
    plain = plain_decoder(data)
    assert plain is None or len(plain) <= len(out)
    assert len(said) == len(warnings)
    for text, words in zip(said, warnings, strict=True):
        assert words in text


@pytest.mark.parametrize("n_channels", [1, 2, 3, 8])
@pytest.mark.parametrize("bits", [8, 12, 16, 20, 24])
def test_every_width_is_read(bits, n_channels):
    data, truth = made(bits, n_channels, rate=11025, blocks=[400, 400, 30])
    check(data, truth, 11025)


@pytest.mark.parametrize("name_all", [True, False])
@pytest.mark.parametrize("rate", [8000, 11025, 44100, 192000])
def test_every_blocking_is_read(rate, name_all):
    for blocks, variable in ((STEADY, False), (UNEVEN, True), (UNEVEN, False), ([200], False), ([5], True)):
        data, truth = made(rate=rate, blocks=blocks, variable=variable, name_all=name_all)
        check(data, truth, rate)
        check(with_field(data, "total", 0), truth, rate)


LIES = [
    ("min block", 0, ()),
    ("min block", 65535, ()),
    ("max block", 0, ()),
    ("max block", 15, ()),
    ("max block", 575, ()),
    ("max block", 65535, ()),
    ("blocks", 0, ()),
    ("blocks", 15 << 16 | 15, ()),
    ("blocks", 575 << 16 | 575, ("575 samples a frame, the frames have 576",)),
    ("blocks", 577 << 16 | 577, ("577 samples a frame, the frames have 576",)),
    ("blocks", 0xFFFFFFFF, ("65535 samples a frame, the frames have 576",)),
    ("min frame", 0, ()),
    ("min frame", 0xFFFFFF, ()),
    ("max frame", 1, ()),
    ("max frame", 0xFFFFFF, ()),
    ("md5", 1, ()),
    ("total", 0, ()),
    ("total", 1, ("promises 1 samples",)),
    ("total", sum(STEADY) - 1, ("promises",)),
    ("total", sum(STEADY) + 1, ("promises",)),
    ("total", (1 << 36) - 1, ("promises 68719476735 samples",)),
    ("rate", 0, ("0 Hz, the frames say 44100 Hz",)),
    ("rate", 1, ("1 Hz, the frames say 44100 Hz",)),
    ("rate", 48000, ("48000 Hz, the frames say 44100 Hz",)),
    ("rate", 655350, ("655350 Hz, the frames say 44100 Hz",)),
    ("channels", 0, ("1 channel, the frames have 2 channels",)),
    ("channels", 7, ("8 channels, the frames have 2 channels",)),
    ("bits", 3, ("4 bits a sample, the frames have 16",)),
    ("bits", 23, ("24 bits a sample, the frames have 16",)),
    ("bits", 31, ("32 bits a sample, the frames have 16",)),
]


@pytest.mark.parametrize(("field", "value", "warnings"), LIES)
def test_a_field_of_streaminfo_lies(field, value, warnings):
    data, truth = made()
    check(with_field(data, field, value), truth, warnings=warnings)


@pytest.mark.parametrize("variable", [True, False])
@pytest.mark.parametrize(("field", "value", "warnings"), LIES)
def test_a_field_lies_about_frames_of_differing_length(field, value, warnings, variable):
    data, truth = made(blocks=UNEVEN, variable=variable)
    if field == "total":
        value += (sum(UNEVEN) - sum(STEADY)) if 1 < value < 1 << 35 else 0
    check(with_field(data, field, value), truth, warnings=() if field == "blocks" else warnings)


def comment(n: int = 4) -> bytes:
    body = struct.pack("<I", 3) + b"enc" + struct.pack("<I", n)
    for k in range(n):
        text = f"KEY{k}=some value {k}".encode()
        body += struct.pack("<I", len(text)) + text
    return body


def picture(n_bytes: int) -> bytes:
    image = np.random.default_rng(0).bytes(n_bytes)
    return struct.pack(">II", 3, 9) + b"image/png" + struct.pack(">IIIIII", 0, 500, 500, 24, 0, len(image)) + image


WORDS = comment()
INFO = stream_info(RATE, 2, 16, sum(STEADY), 576, 576)
FOUND = "the sound was found by its frames"
WITHOUT = "the sound was read without them"
METADATA = {
    "no last flag": ([block(0, INFO), block(4, WORDS)], FOUND),
    "no last flag, padding": ([block(0, INFO), block(4, WORDS), block(1, bytes(3000))], FOUND),
    "comment too short": ([block(0, INFO), block(4, WORDS, True, len(WORDS) - 5)], FOUND),
    "comment too short, more behind": (
        [block(0, INFO), block(4, WORDS, False, len(WORDS) - 5), block(1, bytes(100), True)],
        FOUND,
    ),
    "comment too long": ([block(0, INFO), block(4, WORDS, True, len(WORDS) + 5)], FOUND),
    "comment over frames": ([block(0, INFO), block(4, WORDS, True, len(WORDS) + 9000)], FOUND),
    "comment beyond the file": ([block(0, INFO), block(4, WORDS, True, 0xFFFFFF)], FOUND),
    "comment of nothing": ([block(0, INFO), block(4, WORDS, True, 0)], FOUND),
    "padding too short": ([block(0, INFO), block(1, bytes(5000), True, 4000)], FOUND),
    "padding too long": ([block(0, INFO), block(1, bytes(5000), True, 9000)], FOUND),
    "picture wraps": ([block(0, INFO), block(6, picture((1 << 24) + 700_000), True)], FOUND),
    "a type that is forbidden": ([block(0, INFO), block(127, b"abc" * 50, True)], FOUND),
    "last flag too early": ([block(0, INFO, True), block(4, WORDS, True)], FOUND),
    "streaminfo of 33 bytes": ([block(0, INFO, False, 33), block(4, WORDS, True)], FOUND),
    "streaminfo of 40 bytes": ([block(0, INFO, True, 40)], FOUND),
    "streaminfo of 600 bytes": ([block(0, INFO, False, 600), block(4, WORDS, True)], FOUND),
    "streaminfo of no bytes": ([block(0, INFO, True, 0)], FOUND),
    "streaminfo of another type": ([block(4, INFO), block(1, bytes(100), True)], WITHOUT),
    "a comment that lies inside": ([block(0, INFO), block(4, b"\xff\xff\xff\x7f" + WORDS[4:], True)], WITHOUT),
    "a picture that lies inside": ([block(0, INFO), block(6, struct.pack(">II", 3, 1 << 30) + b"abc", True)], WITHOUT),
    "a cue sheet of noise": ([block(0, INFO), block(5, bytes(range(200)), True)], WITHOUT),
    "a type of the future": ([block(0, INFO), block(100, b"abc" * 50, True)], None),
    "two headers": ([block(0, INFO), block(0, INFO, True)], None),
    "an empty application": ([block(0, INFO), block(2, b"", True)], None),
    "an empty seek table": ([block(0, INFO), block(3, b"", True)], None),
    "a seek table of 25 bytes": ([block(0, INFO), block(3, bytes(25), True)], None),
    "a seek table that lies": (
        [block(0, INFO), block(3, b"".join(struct.pack(">QQH", k * 576, k * 97, 576) for k in range(12)), True)],
        None,
    ),
}


@pytest.fixture(scope="module")
def sound() -> tuple[bytes, np.ndarray]:
    """The frames of a file without its header, and its mono mix."""
    data, truth = made()
    return data[42:], truth


@pytest.mark.parametrize("name", METADATA)
def test_lengths_of_the_metadata_lie(sound, name):
    blocks, warning = METADATA[name]
    audio, truth = sound
    data = MAGIC + b"".join(blocks) + audio
    check(data, truth, warnings=() if warning is None else (warning,))


def test_metadata_and_fields_lie_together(sound):
    audio, truth = sound
    data = MAGIC + block(0, INFO) + block(4, WORDS, True, len(WORDS) - 5) + audio
    data = with_field(with_field(with_field(data, "blocks", 0), "total", 7), "rate", 8000)
    check(data, truth, warnings=(FOUND, "8000 Hz", "promises 7 samples"))


@pytest.mark.parametrize("n_bytes", [1, 700, 70_000])
@pytest.mark.parametrize("total", [sum(STEADY), 0])
def test_what_lies_behind_the_last_frame_costs_nothing(n_bytes, total):
    data, truth = made()
    junk = np.random.default_rng(n_bytes).bytes(n_bytes)
    out, _, said = decoded(with_field(data, "total", total) + junk)
    np.testing.assert_array_equal(out, truth)
    assert len(said) <= 1


def test_a_second_file_behind_the_first():
    one, truth = made()
    other, _ = made(blocks=[*STEADY, *STEADY[:-1]][::-1][:3] + STEADY)
    check(one + other, truth, warnings=("another FLAC stream follows the first",))
    longer, longer_truth = made(blocks=[576] * 30 + [9])
    check(longer + one, longer_truth, warnings=("another FLAC stream follows the first",))


def test_a_second_file_is_told_of_though_the_positions_fit():
    """The last frame of another file of the same length says what the header of the first promises."""
    one, truth = made()
    for other in (one, encode(np.zeros((len(truth), 1), np.float32), 22050, "flac")):
        out, _, said = decoded(one + other)
        np.testing.assert_array_equal(out, truth)
        assert said == ["another FLAC stream follows the first; only the first is used"]


def test_a_stream_that_begins_in_the_middle():
    """The first three frames are missing: their numbers tell, and the plain decoder starts with the fourth."""
    data, truth = made()
    parts = frames_of(data)
    cut = data[:42] + b"".join(parts[3:])
    check(cut, truth[3 * 576 :], warnings=("promises",))


def frames_of(data: bytes) -> list[bytes]:
    """The frames of a steady 16-bit stereo file: verbatim ones have a known size."""
    parts, at = [], 42
    for n_samples in STEADY:
        size = 8 + 2 * (1 + 2 * n_samples) + 2  # header, two channels, checksum
        parts.append(data[at : at + size])
        at += size
    assert b"".join(parts) == data[42:]
    return parts


@pytest.mark.parametrize("where", [1, 5, 11])
@pytest.mark.parametrize("what", ["byte", "zeros", "lost"])
def test_behind_a_damaged_frame_nothing_moves(where, what):
    """Of a damaged frame there is silence. All others are where they belong, whatever the size of the reads."""
    data, truth = made()
    parts = frames_of(data)
    expected = truth.copy()
    if what == "zeros":
        parts[where] = bytes(1000) + parts[where]
    else:
        expected[where * 576 : (where + 1) * 576] = 0
        parts[where] = parts[where][:900] + b"\x55" + parts[where][901:] if what == "byte" else parts[where][:60]
    with open_track(data[:42] + b"".join(parts)) as track:
        out = np.concatenate(list(track.blocks(RATE)))
        np.testing.assert_array_equal(out, expected)
        assert len(track.warnings) == 1


def test_a_repair_that_contradicts_the_plain_decoder_is_dropped(monkeypatch):
    data, truth = made()
    parts = frames_of(data)
    parts[8] = parts[8][:900] + b"\x55" + parts[8][901:]
    damaged = data[:42] + b"".join(parts)
    plain = plain_decoder(damaged)
    assert plain is not None

    def wrong(source: object, info: object) -> FrameScan:
        scan = good_frames(source, info)
        return FrameScan(scan.frames[1:], None, False)  # everything comes a frame too early

    good_frames = flac_reader.good_frames
    monkeypatch.setattr(flac_reader, "good_frames", wrong)
    with open_track(damaged) as track:
        out = np.concatenate(list(track.blocks(RATE)))
        assert len(out) >= 8 * 576 - 2 * 64  # of the rows right before an error up to 128 are not known
        truth[8 * 576 : 9 * 576] = 0  # the decoder mutes it
        np.testing.assert_array_equal(out, truth[: len(out)])
        assert "decoding stopped at" in track.warnings[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [("blocks", 0), ("blocks", 575 << 16 | 575), ("blocks", 16 << 16 | 65535), ("total", 0), ("total", 123), (None, 0)],
)
@pytest.mark.parametrize("variable", [True, False])
def test_windows_far_apart_are_those_of_the_whole(field, value, variable):
    """A decoder looks for positions by the header's block size: a wrong one leads elsewhere."""
    blocks = [100, 2000, 576, 16, 1152] * 30 if variable else [576] * 200
    integers = np.random.default_rng(9).integers(-100, 100, (sum(blocks), 1))
    data = flac(integers, 8000, 8, blocks, variable)
    if field is not None:
        data = with_field(data, field, value)
    truth = (integers[:, 0] / 128).astype(np.float32)
    starts = [100, 60_000, 114_000]
    with open_track(data) as track:
        for start, window in zip(starts, track.windows(8000, starts, 500), strict=True):
            np.testing.assert_array_equal(window, truth[start : start + 500])
    if not variable:
        points = b"".join(struct.pack(">QQH", k * 5760, k * 1001, 576) for k in range(20))
        with open_track(data[:4] + block(0, data[8:42]) + block(3, points, True) + data[42:]) as track:
            for start, window in zip(starts, track.windows(8000, starts, 500), strict=True):
                np.testing.assert_array_equal(window, truth[start : start + 500])


@pytest.mark.parametrize("size", [0, 300, 600, 1 << 27])
def test_an_id3_tag_of_a_wrong_size_in_front(sound, size):
    audio, truth = sound
    tag = b"ID3\x03\0\0" + bytes((size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127))
    body = b"TIT2" + (20).to_bytes(4, "big") + bytes(22) + bytes(500)
    check(tag + body + MAGIC + block(0, INFO, True) + audio, truth)


def test_a_header_without_frames_is_refused():
    data, _ = made()
    for cut in (30, 42, 43):
        with pytest.raises(AudioError, match=r"^<bytes>: damaged FLAC file \("):
            open_track(data[:cut])


def test_frames_are_written_as_the_reader_reads_them():
    """The writer of these tests and soundfile agree on a plain file, so that the lies are the only difference."""
    integers = np.random.default_rng(0).integers(-1000, 1000, (1000, 2))
    data = flac(integers, RATE, 16, [600, 400], True)
    assert data[42:] == b"".join(frames(integers, RATE, 16, [600, 400], True))
    np.testing.assert_array_equal(plain_decoder(data), mono_of((integers / 32768).astype(np.float32)))
