"""MP3 streams that change, and headers and tags that lie: never less than the plain decoder gives."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from support.audio_cases import decoded, encode, mono_of, music_like, plain_decoder

from fcntag.audio import mp3, open_track
from fcntag.audio.source import open_source
from fcntag.errors import AudioError

RATE = 44100
PER_FRAME = 1152
SKIPPED = 576 + 529  # the encoder's delay and the decoder's
PADDING = 1404 - 529


def made(n_samples: int, n_channels: int, rate: int = RATE) -> bytes:
    rng = np.random.default_rng(n_samples + n_channels)
    return encode(music_like(rng, n_samples, n_channels, rate), rate, "mp3")


STEREO, MONO, OTHER_RATE = made(RATE, 2), made(30_000, 1), made(22050, 2, 22050)


def tag_of(data: bytes) -> mp3.Tag:
    scan = mp3.scan(open_source(data), 0)
    assert scan is not None
    assert scan.tag is not None
    return scan.tag


def frames_of(data: bytes) -> list[bytes]:
    """The frames that hold sound, without the one with the header."""
    scan = mp3.scan(open_source(data), 0)
    assert scan is not None
    ends = [*scan.offsets[1:], scan.runs[-1][1]]
    return [data[at:end] for at, end in zip(scan.offsets, ends, strict=True)]


S, M, O = frames_of(STEREO), frames_of(MONO), frames_of(OTHER_RATE)  # noqa: E741
HEAD = STEREO[: tag_of(STEREO).size]
TAG = tag_of(STEREO)


def join(frames: list[bytes]) -> bytes:
    return b"".join(frames)


def exact(data: bytes) -> np.ndarray:
    """What soundfile gives of a faultless file."""
    samples, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return mono_of(samples)


def alone(frames: list[bytes]) -> np.ndarray:
    """The sound of a run of frames by itself."""
    return decoded(join(frames))[0]


def starts_like_the_plain_decoder(data: bytes) -> tuple[np.ndarray, list[str]]:
    """All samples and the warnings; the plain decoder gives no other samples, and no more."""
    out, _, warnings = decoded(data)
    plain = plain_decoder(data)
    if plain is not None:
        assert len(out) >= len(plain)
        np.testing.assert_array_equal(out[: len(plain)], plain)
    return out, warnings


# ---- mono and stereo ----


@pytest.mark.parametrize(
    "parts", [(MONO, STEREO), (STEREO, MONO), (STEREO, MONO, STEREO), (MONO, STEREO, MONO, STEREO)]
)
def test_files_of_mono_and_stereo_one_behind_the_other(parts):
    """Each file brings its own header, by which its delay and padding are dropped."""
    out, warnings = starts_like_the_plain_decoder(join(list(parts)))
    np.testing.assert_array_equal(out, np.concatenate([exact(part) for part in parts]))
    assert warnings == []


def test_with_an_id3_tag_between_them():
    tag = b"ID3\x03\0\0\0\0\x03\x74" + bytes(500)
    out, warnings = starts_like_the_plain_decoder(tag + MONO + tag + STEREO + b"TAG" + bytes(125))
    np.testing.assert_array_equal(out, np.concatenate([exact(MONO), exact(STEREO)]))
    assert warnings == []


def test_a_header_that_counts_the_frames_of_all_runs():
    """Its delay is dropped in front of the first run, its padding behind the last."""
    n_frames = len(S) + len(M)
    head = HEAD[: TAG.frames_at] + n_frames.to_bytes(4, "big") + HEAD[TAG.frames_at + 4 :]
    out, warnings = starts_like_the_plain_decoder(head + join(S) + join(M))
    assert len(out) == n_frames * PER_FRAME - SKIPPED - PADDING
    np.testing.assert_array_equal(out[len(S) * PER_FRAME - SKIPPED :], alone(M)[:-PADDING])
    assert warnings == []


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    runs=st.lists(st.tuples(st.integers(0, 20), st.integers(3, 8)), min_size=1, max_size=8), mono_first=st.booleans()
)
def test_runs_without_any_header(runs, mono_first):
    """Runs that start anywhere in a file: only the frames that lack their bit reservoir are silent."""
    parts = [(M if (k + mono_first) % 2 else S)[at : at + n] for k, (at, n) in enumerate(runs)]
    data = join([join(part) for part in parts])
    out, _, warnings = decoded(data)
    plain = plain_decoder(data)
    assert plain is None or len(plain) <= len(out)
    np.testing.assert_array_equal(out, np.concatenate([alone(part) for part in parts]))
    assert len(out) == sum(n for _, n in runs) * PER_FRAME
    assert warnings == []


def test_windows_of_a_changing_stream_are_those_of_the_whole():
    data = MONO + STEREO
    whole = decoded(data)[0]
    with open_track(data) as track:
        assert track.n_channels == 2
        for start, window in zip((5, 29_000, 60_000), track.windows(RATE, [5, 29_000, 60_000], 2000), strict=True):
            np.testing.assert_array_equal(window, whole[start : start + 2000])


@pytest.mark.parametrize("n_odd", [1, 2])
def test_single_odd_frames_keep_their_place(n_odd):
    """Such a frame is damage or leftover: it is silent, and nothing behind it moves."""
    data = join(S[:10] + M[3 : 3 + n_odd] + S[10:])
    out, warnings = starts_like_the_plain_decoder(data)
    assert len(out) == (len(S) + n_odd) * PER_FRAME
    np.testing.assert_array_equal(out[: 10 * PER_FRAME], alone(S)[: 10 * PER_FRAME])
    np.testing.assert_allclose(out[-10 * PER_FRAME :], alone(S)[-10 * PER_FRAME :], atol=1e-6)
    frames = "1 MPEG frame has" if n_odd == 1 else "2 MPEG frames have"
    assert warnings == [f"{frames} other channels than the frames around, and became silence"]


def test_joint_stereo_dual_channel_and_stereo_are_one():
    """The header's mode changes nothing in the number of channels."""
    frames = [frame[:3] + bytes((frame[3] & 0x3F | (k % 2 * 0x80),)) + frame[4:] for k, frame in enumerate(S)]
    out, warnings = starts_like_the_plain_decoder(HEAD + join(frames))
    assert len(out) == RATE
    assert warnings == []


@pytest.mark.parametrize(("layer", "n_samples", "size"), [(1, 384, 4 * (12 * 128_000 // RATE)), (2, 1152, 417)])
def test_layers_one_and_two(layer, n_samples, size):
    """Frames without any allocated bit are silence; their number is what counts."""
    index = 4 if layer == 1 else 8
    head = bytes((0xFF, 0xF9 | (4 - layer) << 1, index << 4))
    stereo, mono = (head + bytes((mode,)) + bytes(size - 4) for mode in (0x00, 0xC0))
    out, warnings = starts_like_the_plain_decoder(stereo * 12 + mono * 9 + stereo * 5)
    assert len(out) == 26 * n_samples
    assert not out.any()
    assert warnings == []


# ---- another rate ----


def test_another_rate_behind_says_what_is_lost():
    out, warnings = starts_like_the_plain_decoder(STEREO + join(O))
    np.testing.assert_array_equal(out, exact(STEREO))
    lost = len(O) * 576 / 22050
    change = "the MPEG stream changes at 1.04 s to 22050 Hz layer 3 stereo"
    assert warnings == [f"{change}; only the part before is used, {lost:.2f} s are lost"]


def test_another_rate_inside_is_left_out_and_nothing_else():
    out, warnings = starts_like_the_plain_decoder(HEAD + join(S[:20] + O[3:30] + S[20:]))
    np.testing.assert_array_equal(out[: 20 * PER_FRAME - SKIPPED], exact(STEREO)[: 20 * PER_FRAME - SKIPPED])
    assert len(out) == len(S) * PER_FRAME - SKIPPED - PADDING
    assert len(warnings) == 1
    assert warnings[0].endswith("are 22050 Hz layer 3 inside another stream, and were left out")


# ---- headers that lie ----


def put(data: bytes, at: int, value: int, n_bytes: int) -> bytes:
    return data[:at] + value.to_bytes(n_bytes, "big") + data[at + n_bytes :]


@pytest.mark.parametrize("count", [1, 20, 39, 41, 1000, (1 << 32) - 1])
def test_the_count_of_frames_lies(count):
    out, warnings = starts_like_the_plain_decoder(put(STEREO, TAG.frames_at, count, 4))
    np.testing.assert_array_equal(out[:RATE], exact(STEREO))
    # Of a larger count the decoder concludes that the end is missing, with the padding.
    assert len(out) == RATE + (PADDING if count > len(S) else 0)
    assert len(warnings) == (count > 42)


def test_a_count_of_none():
    """The plain decoder then drops no delay and gives half the sound; the header has the delay all the same."""
    out, _, warnings = decoded(put(STEREO, TAG.frames_at, 0, 4))
    np.testing.assert_array_equal(out, exact(STEREO))
    assert warnings == []


@pytest.mark.parametrize("count", [0, 1, 9911, 40_000, (1 << 32) - 1])
def test_the_count_of_bytes_lies(count, capfd):
    out, warnings = decoded(put(STEREO, TAG.bytes_at, count, 4))[::2]
    np.testing.assert_array_equal(out, exact(STEREO))
    assert warnings == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("delay", [0, 1, 576, 4095])
@pytest.mark.parametrize("padding", [0, 1, 528, 1404, 4095])
def test_delay_and_padding_are_those_of_the_decoder(delay, padding):
    data = put(STEREO, TAG.delay_at, delay << 12 | padding, 3)
    out, warnings = starts_like_the_plain_decoder(data)
    assert len(out) == len(S) * PER_FRAME - delay - 529 - max(0, padding - 529)
    assert warnings == []


@pytest.mark.parametrize(("delay", "padding"), [(4095, 4095), (4095, 0), (0, 4095)])
def test_delay_and_padding_longer_than_the_sound(delay, padding):
    short = made(1000, 2)
    out, _, warnings = decoded(put(short, tag_of(short).delay_at, delay << 12 | padding, 3))
    assert len(out) == len(frames_of(short)) * PER_FRAME
    assert warnings == ["the MP3 header's delay and padding are longer than the sound, and were not believed"]


@pytest.mark.parametrize("flags", [0, 1, 2, 4, 7, 8, 9, 15])
def test_a_header_without_some_of_its_fields(flags):
    starts_like_the_plain_decoder(put(STEREO, TAG.frames_at - 4, flags, 4))


def test_a_vbri_header_is_no_sound():
    head = HEAD[:36] + b"VBRI" + bytes(len(HEAD) - 40)
    out, _, warnings = decoded(head + join(S))
    np.testing.assert_array_equal(out, alone(S))
    assert warnings == []


def test_a_crc_that_is_promised_and_not_there():
    """Where the bit lies, the side information is read two bytes late: noise, neither more nor less of it."""
    for first, last in ((0, len(S)), (10, 11)):
        frames = [f[:1] + bytes((f[1] & 0xFE,)) + f[2:] if first <= k < last else f for k, f in enumerate(S)]
        out, warnings = starts_like_the_plain_decoder(HEAD + join(frames))
        assert len(out) == RATE
        assert warnings == []


def test_free_format():
    """Frames without a bit rate in their headers, all of one size."""
    size = min(len(frame) for frame in S)
    frames = [(f[:2] + bytes((f[2] & 0x0D,)) + f[3:])[:size] for f in S]
    for front, behind in ((b"", b""), (b"ID3\x03\0\0\0\0\0\x05" + bytes(5), b"TAG" + bytes(125))):
        data = front + join(frames) + behind
        out, warnings = starts_like_the_plain_decoder(data)
        assert len(out) == len(S) * PER_FRAME
        assert warnings == []


# ---- tags that lie ----


def id3(size: int, body: bytes, flags: int = 0) -> bytes:
    digits = bytes((size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127))
    return b"ID3\x03\0" + bytes((flags,)) + digits + body


def picture(n_bytes: int) -> bytes:
    return b"APIC" + n_bytes.to_bytes(4, "big") + b"\0\0" + np.random.default_rng(1).bytes(n_bytes)


NOISE = np.random.default_rng(2).bytes(2_500_000)
FRONTS = {
    "right": (id3(3000, bytes(3000)), None),
    "a footer": (id3(3000, bytes(3000), 0x10) + b"3DI\x04\0\0" + bytes(4), None),
    "too short": (id3(100, picture(2990)), None),
    "nothing": (id3(0, picture(2990)), None),
    "half a frame too long": (id3(3500, bytes(3000)), "before"),
    "twenty frames too long": (id3(12_000, bytes(3000)), "before"),
    "a picture, too long": (id3(12_000, picture(2990)), "before"),
    "longer than the file": (id3((1 << 28) - 1, bytes(3000)), "before"),
    "a footer that is not there": (id3(3000, bytes(3000), 0x10), "before"),
    "two megabytes of zeros": (id3(10, bytes(2_500_000)), "behind"),
    "two megabytes of noise": (id3(10, NOISE), "behind"),
    "no tag, two megabytes of noise": (NOISE, "behind"),
}


@pytest.mark.parametrize("name", FRONTS)
def test_a_tag_in_front(name):
    front, side = FRONTS[name]
    out, _, warnings = decoded(front + STEREO)
    np.testing.assert_array_equal(out, exact(STEREO))
    assert len(warnings) == (side is not None)
    assert side is None or f"bytes {side} the end of the tags" in warnings[0]


APE = b"APETAGEX" + struct.pack("<I", 2000)
BEHIND = {
    "ID3v1": b"TAG" + bytes(125),
    "APE": APE + struct.pack("<III", 32, 0, 0) + bytes(8),
    "APE with an item": b"\x03\0\0\0\0\0\0\0Year\x00123" + APE + struct.pack("<III", 32 + 16, 1, 0) + bytes(8),
    "APE over frames": APE + struct.pack("<III", 32 + 5000, 0, 0) + bytes(8),
    "APE over everything": APE + struct.pack("<III", (1 << 32) - 1, 3, 0) + bytes(8),
    "APE without its header": APE + struct.pack("<III", 32, 0, 1 << 31) + bytes(8),
    "Lyrics3": b"LYRICSBEGIN" + b"x" * 20 + b"000031LYRICS200",
    "Lyrics3 over frames": b"LYRICSBEGIN" + b"x" * 20 + b"009031LYRICS200",
    "ID3v2.4 over frames": b"3DI\x04\0\0\0\0\x40\0",
    "zeros": bytes(5000),
    "noise": NOISE[:700],
}


@pytest.mark.parametrize("name", BEHIND)
def test_a_tag_behind(name):
    out, warnings = starts_like_the_plain_decoder(STEREO + BEHIND[name])
    np.testing.assert_array_equal(out, exact(STEREO))
    assert len(warnings) == (name in ("noise", "Lyrics3 over frames"))


def test_a_frame_in_front_of_damage_is_heard():
    """The header's frame is followed by rubbish; so is a frame in the middle, whose successor's header is damaged."""
    out, _, warnings = decoded(HEAD + b"\0" + join(S))
    np.testing.assert_array_equal(out, exact(STEREO))
    assert warnings == ["1 damaged bytes at 0.00 s were left out"]
    broken = [*S[:20], b"\0" + S[20][1:], *S[21:]]
    out = decoded(HEAD + join(broken))[0]
    np.testing.assert_array_equal(out[: 20 * PER_FRAME - SKIPPED], exact(STEREO)[: 20 * PER_FRAME - SKIPPED])


def test_noise_and_other_files_are_no_mp3():
    for data in (NOISE, bytes(2_000_000), b"\xff" * 100_000, b"\xff\xfb\x00\x64" * 5000):
        with pytest.raises(AudioError, match="not a recognised sound file"):
            open_track(data)


@pytest.mark.parametrize("data", [STEREO, MONO], ids=["stereo", "mono"])
def test_the_reserved_emphasis_in_every_frame(data):
    """No decoder minds the value, which only says how the sound was recorded."""
    truth, _, _ = decoded(data)
    changed = bytearray(data)
    for frame in (tag_of(data).offset, *scanned(data).offsets):
        changed[frame + 3] = changed[frame + 3] & ~3 | 2
    out, _, said = decoded(bytes(changed))
    np.testing.assert_array_equal(out, truth)
    assert said == []


def scanned(data: bytes) -> mp3.Scan:
    scan = mp3.scan(open_source(data), 0)
    assert scan is not None
    return scan
