"""AAC starts and ends where the file says it: LC and HE, edit lists and iTunes' note, MP4 and ADTS."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

av = pytest.importorskip("av")

from support.audio_cases import cut_windows, mono_of, streamed  # noqa: E402
from support.av_files import (  # noqa: E402
    as_he_aac,
    av_decode,
    av_file,
    itunes_note,
    lag,
    notes,
    with_edit_at,
    with_note,
)

from fcntag.audio import open_track  # noqa: E402
from fcntag.audio.aac_edges import AacEdges  # noqa: E402

N_FRAMES = 26_460  # 600 ms: edit lists count in milliseconds
PRIMING = 1024  # of FFmpeg's own encoder
TRACK = PRIMING + N_FRAMES  # the last packet's duration is that of the rest
HALF_TRACK = PRIMING + N_FRAMES // 2


def mono(data: bytes) -> np.ndarray:
    """All that PyAV decodes."""
    return mono_of(av_decode(data))


@pytest.fixture(scope="module")
def lc() -> bytes:
    return av_file(notes(N_FRAMES), 44100, "ipod", "aac", bit_rate=128_000)


@pytest.fixture(scope="module")
def lc_at_half_rate() -> bytes:
    return av_file(notes(N_FRAMES // 2, sample_rate=22050), 22050, "ipod", "aac", bit_rate=64_000)


def test_lc_with_an_edit_list_is_as_long_as_its_input(lc):
    out = streamed(lc, 44100)
    assert len(out) == N_FRAMES
    assert lag(out, mono_of(notes(N_FRAMES))) == 0


def test_lc_with_itunes_note(lc):
    """The encoder's 1024 samples of priming, and a remainder that adds up to whole frames."""
    everything = mono(with_note(lc, b""))
    out = streamed(with_note(lc, itunes_note(PRIMING, 200, N_FRAMES - 200)), 44100)
    np.testing.assert_array_equal(out, everything[PRIMING : TRACK - 200])


@pytest.mark.parametrize("priming", [1024, 2048, 2112, 3072, 17])
def test_he_counts_in_the_time_scale_of_its_core(lc_at_half_rate, priming):
    """One unit of the note is two samples. PyAV's own decoder drops half of them, or so many and a rest of a frame."""
    he = as_he_aac(lc_at_half_rate)
    everything = mono(with_note(he, b""))
    assert len(everything) % 2048 == 0
    count = HALF_TRACK - priming - 300
    data = with_note(he, itunes_note(priming, 300, count))
    with open_track(data) as track:
        assert track.sample_rate == 44100
    out = streamed(data, 44100)
    np.testing.assert_array_equal(out, everything[2 * priming : 2 * (priming + count)])


@pytest.mark.parametrize("media_time", [1024, 2048, 1000, 2112, 1])
def test_he_with_an_edit_list_that_starts_anywhere(lc_at_half_rate, media_time):
    he = as_he_aac(lc_at_half_rate)
    everything = mono(with_note(he, b""))
    out = streamed(with_edit_at(he, media_time), 44100)
    stop = min(2 * HALF_TRACK, 2 * media_time + N_FRAMES)  # the list's length has stayed
    assert 0 <= len(out) - (stop - 2 * media_time) < 2048  # FFmpeg 6 does not tell a shorter last packet
    np.testing.assert_array_equal(out, everything[2 * media_time :][: len(out)])


def test_he_without_any_word_about_priming_is_decoded_whole(lc_at_half_rate):
    data = with_note(as_he_aac(lc_at_half_rate), b"")
    np.testing.assert_array_equal(streamed(data, 44100), mono(data)[: 2 * HALF_TRACK])


@pytest.mark.parametrize(
    "note",
    [
        itunes_note(1024, 9000, 100),  # does not add up
        itunes_note(1024, 0, 1 << 40),
        itunes_note(1024, 100, 3),
    ],
)
def test_a_note_that_does_not_add_up_ends_nothing(lc, note):
    everything = mono(with_note(lc, b""))
    np.testing.assert_array_equal(streamed(with_note(lc, note), 44100), everything[PRIMING:TRACK])


@pytest.mark.parametrize("note", [itunes_note(0, 0, 0), itunes_note(16384, 0, 5), itunes_note(1 << 31, 0, 5), b""])
def test_a_note_without_sense_is_none(lc, note):
    everything = mono(with_note(lc, b""))
    np.testing.assert_array_equal(streamed(with_note(lc, note), 44100), everything[:TRACK])


@pytest.mark.parametrize("kind", ["adts", "mpegts", "matroska", "latm"])
def test_streams_that_say_nothing_are_decoded_as_ffmpeg_does_it(kind):
    data = av_file(notes(N_FRAMES), 44100, kind, "aac", bit_rate=128_000)
    expected = mono(data)
    np.testing.assert_array_equal(streamed(data, 44100), expected)
    assert len(expected) >= N_FRAMES


def test_every_kind_of_source_and_every_window_is_the_same(lc_at_half_rate, tmp_path):
    he = as_he_aac(lc_at_half_rate)
    data = with_note(he, itunes_note(2048, 300, HALF_TRACK - 2348))
    path = tmp_path / "he.m4a"
    path.write_bytes(data)
    expected = streamed(path, 16000)
    np.testing.assert_array_equal(streamed(data, 16000), expected)
    np.testing.assert_array_equal(streamed(io.BytesIO(data), 16000), expected)
    read, write = os.pipe()
    with os.fdopen(read, "rb") as pipe, open(path, "rb") as file:
        feeder = subprocess.Popen(["cat"], stdin=file, stdout=write)
        os.close(write)
        np.testing.assert_array_equal(streamed(pipe, 16000), expected)
        feeder.wait()
    starts = [-50, 0, 777, 3000, len(expected) - 100]
    with open_track(path) as track:
        for window, right in zip(track.windows(16000, starts, 500), cut_windows(expected, starts, 500), strict=True):
            np.testing.assert_array_equal(window, right)
        late = np.concatenate(list(track.blocks(16000, start=4000)))
        np.testing.assert_array_equal(late, expected[4000:])
        np.testing.assert_array_equal(np.concatenate(list(track.blocks(16000))), expected)


def test_a_cut_file_keeps_its_start():
    """Written in fragments, as for streaming, so that a cut file can be read."""
    flags = {"movflags": "frag_every_frame+empty_moov+default_base_moof"}
    data = av_file(notes(N_FRAMES), 44100, "mp4", "aac", bit_rate=128_000, options=flags)
    whole = streamed(data, 44100)
    everything = mono(data)
    np.testing.assert_array_equal(whole, everything)
    with open_track(data[: len(data) * 3 // 4]) as track:
        out = np.concatenate(list(track.blocks(44100)))
    assert 0.6 * len(whole) < len(out) < len(whole)
    np.testing.assert_array_equal(out, whole[: len(out)])


# ---- without files: what libraries of other versions deliver ----


def edges(note: str = "", duration: int | None = None, time_base: Fraction = Fraction(1, 22050), **changes) -> AacEdges:
    container = SimpleNamespace(
        format=SimpleNamespace(name=changes.get("container", "mov,mp4,m4a,3gp,3g2,mj2")), metadata={"iTunSMPB": note}
    )
    codec = SimpleNamespace(name=changes.get("codec", "aac"))
    stream = SimpleNamespace(
        time_base=time_base, duration=duration, codec_context=codec, frames=changes.get("frames", 4)
    )
    return AacEdges.of(container, stream, 44100)


@pytest.mark.parametrize("dropped", [0, 1024, 2048])
def test_what_the_decoder_has_dropped_itself_is_not_dropped_again(dropped):
    """FFmpeg 6 to 8 drop half of HE-AAC's priming, 5.1 and 9 all of it; a frame's position tells."""
    words = f" 00000000 {2048:08X} {500:08X} {1572:016X}"
    rule = edges(words, duration=4120)
    rule.packet(0, 1024, False)
    kept = []
    for pts in range(dropped, 4096, 1024):
        part = rule.of_frame(pts, 2048)
        kept += range(2 * pts + part.start, 2 * pts + part.stop)
    assert kept == list(range(4096, 2 * (2048 + 1572)))


def test_only_aac_in_mp4_with_a_fitting_time_scale_is_cut():
    assert edges() is not None
    assert edges(codec="alac") is None
    assert edges(container="matroska,webm") is None
    assert edges(time_base=Fraction(1, 1000)) is None
    assert edges(time_base=Fraction(1, 90000)) is None


def test_an_edit_list_may_end_inside_the_last_packet_only():
    for duration, stop in ((1500, 952), (900, 2048), (5000, 2048)):
        rule = edges(duration=duration)
        rule.packet(-1024, 1024, False)
        rule.packet(0, 1024, False)
        assert rule.of_frame(0, 2048) == slice(0, 2048)
        rule.packet(1024, 1024, True)
        assert rule.of_frame(1024, 2048) == slice(0, stop)


def test_the_last_packet_of_a_fragment_ends_nothing():
    rule = edges(duration=1500, frames=1)
    rule.packet(0, 1024, False)
    rule.packet(1024, 500, True)
    assert rule.of_frame(1024, 2048) == slice(0, 2048)


if shutil.which("fdkaac") is not None:  # an encoder of HE-AAC, which few systems have: its cases exist where it does

    @pytest.mark.parametrize(("profile", "delay"), [(2, 0), (5, 961), (29, 962)])
    @pytest.mark.parametrize("gapless", [0, 1, 2])
    def test_real_he_aac(tmp_path, profile, delay, gapless):
        """The decoder's delay of 961 samples (half a QMF frame and the rest of a window) is in no file and stays."""
        import soundfile

        sound = notes(3 * 44100)
        soundfile.write(tmp_path / "in.wav", sound, 44100)
        command = ["fdkaac", "-S", "-p", str(profile), "-b", "48000", "-G", str(gapless), "-o", "out.m4a", "in.wav"]
        subprocess.run(command, cwd=tmp_path, check=True)
        out = streamed(tmp_path / "out.m4a", 44100)
        assert abs(len(out) - len(sound)) <= 1
        assert lag(out, mono_of(sound)) == delay
