"""Warnings about samples in another range than a recording's: integers as floats, few bits in 32-bit words."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import soundfile
from support.audio_cases import encode, music_like
from support.cli_runner import fcntag

from fcntag import Tagger
from fcntag.audio import open_track

RATE = 16000
MUSIC = music_like(np.random.default_rng(5), 4 * RATE, 2, RATE)
MUSIC *= np.float32(0.9) / np.abs(MUSIC).max()


def warnings_of(source: object, rate: int | None = RATE, **options: object) -> list[str]:
    with open_track(source, sample_rate=rate, **options) as track:  # type: ignore[arg-type]
        assert track.warnings == []  # nothing is decoded yet
        for _ in track.blocks(RATE):
            pass
        return track.warnings


def scaled(factor: float, dtype: str) -> np.ndarray:
    return np.round(MUSIC.astype(np.float64) * factor).astype(dtype)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (scaled(127, "f4"), "integers of 8 bits; divide by 128"),
        (scaled(32767, "f4"), "integers of 16 bits; divide by 32768"),
        (scaled(32767, "f8")[:, 0], "integers of 16 bits; divide by 32768"),
        (scaled(32767, ">f8"), "integers of 16 bits; divide by 32768"),
        (scaled(300, "f2"), "integers of 16 bits; divide by 32768"),
        (scaled(2**23, "f4"), "integers of 24 bits; divide by 8388608"),
        (scaled(2**31, "f8"), "integers of 32 bits; divide by 2147483648"),
        (scaled(100, "f4") + np.float32(128), "unsigned integers of 8 bits; take off 128, then divide by 128"),
        (np.stack([MUSIC[:, 0], scaled(32767, "f4")[:, 0]], axis=1), "integers of 16 bits"),
        (MUSIC * np.float32(20), "float samples reach 18, and full scale is 1"),
        (MUSIC * np.float32(1e30), "float samples reach 9e+29, and full scale is 1"),
    ],
)
def test_floats_far_beyond_full_scale(array, words):
    (text,) = warnings_of(array)
    assert words in text


@pytest.mark.parametrize(
    "array",
    [
        MUSIC,
        MUSIC * np.float32(7 / 0.9),  # mixes that were never limited
        MUSIC * np.float32(1e-20),
        MUSIC + np.float32(0.5),  # an offset, and samples below 0
        np.full((RATE, 1), 0.5, np.float32),
        np.where(np.arange(RATE) % 1000 == 5, 5000, MUSIC[:RATE, 0]).astype(np.float32),  # 16 clicks in a second
        scaled(32767, "i2"),
        scaled(127, "i1"),
        (scaled(100, "i2") + 128).astype(np.uint8),
        scaled(100, "i2"),  # a quiet recording
        np.abs(scaled(32767, "i2")),
    ],
)
def test_what_a_recording_may_be_is_not_warned_of(array):
    assert warnings_of(array) == []


def test_floats_without_anything_below_zero():
    for array in ((MUSIC + 1) / 2, ((MUSIC + 1) * 127.5).round() / 255):
        (text,) = warnings_of(array.astype(np.float32))
        assert text == "no sample is below 0, and their mean is 0.50: the middle of a recording is 0"


@pytest.mark.parametrize("dtype", ["<i4", ">i4"])
@pytest.mark.parametrize(("bits", "factor"), [(16, 32767), (16, 5000), (24, 2**23 - 1), (24, 2**20)])
def test_few_bits_in_32(dtype, bits, factor):
    (text,) = warnings_of(scaled(factor, dtype))
    assert f"leaves the range of {bits} bits" in text
    assert f"multiply them by {2 ** (32 - bits)}" in text
    assert warnings_of(scaled(factor, "i4").astype(np.int64).__mul__(2 ** (32 - bits)).astype(dtype)) == []


def test_the_most_negative_value_of_16_bits_is_one_of_them():
    array = scaled(1000, "i4")
    array[777] = -32768
    assert "of 16 bits" in warnings_of(array)[0]
    array[777] = -32770
    assert "of 24 bits" in warnings_of(array)[0]
    array[777] = -(2**23) - 1
    assert warnings_of(array) == []


@pytest.mark.parametrize(
    "array",
    [
        scaled(2**31 - 1, "i4"),
        scaled(2**23 * 0.003, "i4") * 256,  # a converter of 24 bits, 60 dB below full scale: the low byte is not used
        scaled(127, "i4") * 65536,
        np.zeros(RATE, np.int32),
        np.random.default_rng(0).integers(-2, 3, RATE).astype(np.int32),  # what dither leaves of silence
    ],
)
def test_a_32_bit_recording_is_not_accused(array):
    assert warnings_of(array) == []


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("container", ["WAV", "AIFF", "CAF", "AU", "W64", "RF64"])
def test_files_of_floats(container, subtype):
    assert "of 16 bits" in warnings_of(written(scaled(32767, "f8"), container, subtype), None)[0]
    assert warnings_of(written(MUSIC, container, subtype), None) == []


@pytest.mark.parametrize("container", ["WAV", "AIFF", "CAF", "AU"])
def test_files_of_32_bit_integers(container):
    assert "of 16 bits" in warnings_of(written(scaled(32767, "i4"), container, "PCM_32"), None)[0]
    assert "of 24 bits" in warnings_of(written(scaled(2**23 - 1, "i4"), container, "PCM_32"), None)[0]
    assert warnings_of(written(MUSIC, container, "PCM_32"), None) == []


def written(samples: np.ndarray, container: str, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=container, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "opus", "mp3", "aiff"])
def test_files_of_other_kinds_say_nothing(kind):
    data = encode(MUSIC[:, :1], 48000 if kind == "opus" else RATE, kind)
    assert warnings_of(data, None) == []


def test_a_long_track_is_judged_by_all_that_was_decoded():
    """Few bits in a quiet beginning are no warning once the loud part has been seen; a second pass changes nothing."""
    quiet, loud = np.tile(scaled(32767, "i4")[:, 0], 10), scaled(2**31 - 1, "i4")[:, 0]
    with open_track(np.concatenate([quiet, loud]), sample_rate=RATE) as track:
        blocks = track.blocks(RATE)
        next(blocks)
        assert "of 16 bits" in track.warnings[0]
        for _ in blocks:
            pass
        assert track.warnings == []
    with open_track(quiet, sample_rate=RATE) as track:
        for _ in range(2):
            list(track.windows(RATE, [0, len(quiet) - RATE], RATE))
            assert len(track.warnings) == 1


def test_clicks_are_not_added_up_over_passes():
    array = MUSIC.copy()
    array[100:110, 0] = 1e4
    with open_track(array, sample_rate=RATE) as track:
        for _ in range(3):
            list(track.blocks(RATE))
        assert track.warnings == []


def test_the_record_carries_the_warning(tmp_path):
    sound = music_like(np.random.default_rng(6), 4 * RATE, 1, RATE)[:, 0]
    path = tmp_path / "floats.wav"
    soundfile.write(path, sound * 32767, RATE, subtype="FLOAT")
    with Tagger() as tagger:
        floats = (sound * 32767).astype("i2").astype(float)
        assert "of 16 bits" in tagger.tag(floats, sample_rate=RATE).warnings[0]
        assert tagger.tag(sound, sample_rate=RATE).warnings == ()
        assert tagger.tag((sound * 32767).astype("i2"), sample_rate=RATE).warnings == ()
        for result in tagger.tag_many([path, path.read_bytes()]):
            assert "of 16 bits" in result.warnings[0]
    done = fcntag("tag", "-f", "jsonl", "-", stdin=path.read_bytes())
    assert "of 16 bits" in json.loads(done.stdout)["warnings"][0]
    assert b"float samples reach" in done.stderr
    done = fcntag("tag", "-f", "csv", path)
    assert b"float samples reach" in done.stderr
