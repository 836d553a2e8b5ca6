"""Tracks of synthetic sound: every format, rate and kind of source; blocks and windows against the one-shot way."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from itertools import pairwise

import numpy as np
import pytest
from support.audio_cases import cut_windows, encode, mono_of, music_like, one_shot, streamed, whole

from fcntag.audio import open_track
from fcntag.audio.resample import _STEPS, exact_step, output_length
from fcntag.errors import AudioError

RATES = (8000, 11025, 22050, 44056, 44100, 48000, 96000, 192000)


@pytest.mark.parametrize("rate", [12000, 16000])
@pytest.mark.parametrize("sample_rate", RATES)
def test_streamed_resampling_is_bit_identical_to_one_shot(rng, sample_rate, rate):
    for n_frames in (1, 300, 65536, 2 * 65536 + 777):
        samples = music_like(rng, n_frames, 2, sample_rate)
        out = streamed(samples, rate, sample_rate=sample_rate)
        assert out.dtype == np.float32
        np.testing.assert_array_equal(out, one_shot(mono_of(samples), sample_rate, rate))


@pytest.mark.parametrize("kind", ["wav", "f32", "flac", "ogg", "opus", "mp3", "aiff"])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_every_format_equals_plain_soundfile(rng, tmp_path, kind, n_channels):
    sample_rate = 48000 if kind == "opus" else 44100
    data = encode(music_like(rng, 150_001, n_channels, sample_rate), sample_rate, kind)
    path = tmp_path / f"sound.{kind}"
    path.write_bytes(data)
    for rate in (16000, sample_rate):
        np.testing.assert_array_equal(streamed(path, rate), whole(data, rate))
    with open_track(path) as track:
        assert (track.n_channels, track.sample_rate, track.warnings) == (n_channels, sample_rate, [])
        assert track.n_frames == 150_001
        assert track.duration_s == pytest.approx(150_001 / sample_rate)


@pytest.mark.parametrize("n_channels", [1, 2, 3, 6, 7, 8, 13])
def test_the_mix_is_the_mean_over_channels(rng, n_channels):
    samples = rng.standard_normal((70_000, n_channels), dtype=np.float32)
    np.testing.assert_array_equal(streamed(samples, 16000, sample_rate=16000), mono_of(samples))


def test_stereo_mix_is_half_the_sum(rng):
    samples = rng.standard_normal((5000, 2), dtype=np.float32)
    expected = (samples[:, 0] + samples[:, 1]) * np.float32(0.5)
    np.testing.assert_array_equal(streamed(samples, 8000, sample_rate=8000), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "int8", "int16", "int32", ">i2", "uint8"])
def test_arrays_of_every_dtype(dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        array = np.array([0.0, 0.5, -1.0, 0.25], dtype)
    elif dtype == np.uint8:
        array = np.array([128, 192, 0, 160], dtype)
    else:
        full = 2 ** (8 * dtype.itemsize - 1)
        array = np.array([0, full // 2, -full, full // 4], dtype)
    np.testing.assert_array_equal(streamed(array, 8000, sample_rate=8000), [0.0, 0.5, -1.0, 0.25])


def test_int16_array_equals_the_file_of_it(rng):
    samples = rng.integers(-32768, 32768, (4000, 2), dtype=np.int16)
    data = encode(samples, 44100, "wav")
    np.testing.assert_array_equal(streamed(samples, 12000, sample_rate=44100), streamed(data, 12000))


def test_an_array_is_not_changed_and_may_be_read_only(rng):
    samples = music_like(rng, 1000, 1, 8000)
    samples.setflags(write=False)
    before = samples.copy()
    streamed(samples, 8000, sample_rate=8000)
    streamed(samples[::-1], 8000, sample_rate=8000)
    np.testing.assert_array_equal(samples, before)


@pytest.mark.parametrize(
    ("array", "sample_rate", "message"),
    [
        (np.zeros(10, np.float32), None, "needs sample_rate="),
        (np.zeros((2, 3, 4), np.float32), 8000, r"\[n_samples\] or \[n_samples, n_channels\]"),
        (np.zeros((2, 44100), np.float32), 44100, "transposed"),
        (np.zeros(10, complex), 8000, "allowed: float, int8"),
        (np.zeros(10, bool), 8000, "allowed: float, int8"),
        (np.zeros(10, np.int64), 8000, "allowed: float, int8"),
        (np.array(["a"]), 8000, "allowed: float, int8"),
        (np.ma.masked_greater(np.arange(10.0), 5), 8000, r"masked samples; fill them first \(numpy.ma.filled\)"),
        (np.ma.masked_less(np.zeros((10, 2), np.int16), 1), 8000, "masked samples"),
        (np.zeros(0, np.float32), 8000, "no audio samples"),
        (np.zeros((10, 0), np.float32), 8000, "0 channels"),
        (np.zeros(10, np.float32), 0, "0 Hz is not supported; allowed: 1000 to 768000"),
        (np.zeros(10, np.float32), -44100, "not supported"),
        (np.zeros(10, np.float32), 44100.5, "whole number"),
        (np.zeros(10, np.float32), True, "whole number"),
        (np.zeros(10, np.float32), float("nan"), "whole number"),
        (np.zeros(10, np.float32), "44100", "whole number"),
    ],
)
def test_bad_arrays_are_named(array, sample_rate, message):
    with pytest.raises(AudioError, match=message) as error:
        open_track(array, sample_rate=sample_rate, name="take 1")
    assert str(error.value).startswith("take 1: ")


def test_bytes_file_objects_and_pipes_give_the_same(rng, tmp_path):
    data = encode(music_like(rng, 60_000, 2, 44100), 44100, "flac")
    expected = whole(data, 16000)
    path = tmp_path / "x.bin"
    path.write_bytes(data)
    np.testing.assert_array_equal(streamed(path, 16000), expected)
    np.testing.assert_array_equal(streamed(str(path), 16000), expected)
    np.testing.assert_array_equal(streamed(data, 16000), expected)
    np.testing.assert_array_equal(streamed(bytearray(data), 16000), expected)
    np.testing.assert_array_equal(streamed(io.BytesIO(data), 16000), expected)
    with open(path, "rb") as file:
        np.testing.assert_array_equal(streamed(file, 16000), expected)
        assert not file.closed
    with open(path, "rb", buffering=0) as file:
        np.testing.assert_array_equal(streamed(file, 16000), expected)
    np.testing.assert_array_equal(streamed(OneWay(data), 16000), expected)


class OneWay:
    """A stream that can only be read forwards, a little at a time."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, n_bytes: int = -1) -> bytes:
        return self._file.read(min(n_bytes, 1000) if n_bytes >= 0 else 1000)

    def seekable(self) -> bool:
        return False


def test_a_pipe_like_stdin(rng):
    data = encode(music_like(rng, 30_000, 1, 22050), 22050, "mp3")
    code = (
        "import sys, numpy as np; from fcntag.audio import open_track\n"
        "with open_track(sys.stdin.buffer) as t: print(t.name, sum(len(b) for b in t.blocks(16000)), t.length(16000))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    n_samples = output_length(30_000, 22050, 16000)
    assert done.stdout.decode().split() == ["<stdin>", str(n_samples), str(n_samples)]
    assert done.stderr == b""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe(rng, tmp_path):
    data = encode(music_like(rng, 30_000, 1, 22050), 22050, "wav")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(data,))
    writer.start()
    np.testing.assert_array_equal(streamed(fifo, 16000), whole(data, 16000))
    writer.join()


def test_a_file_object_is_read_from_where_it_stands(rng):
    data = encode(music_like(rng, 4000, 1, 8000), 8000, "wav")
    file = io.BytesIO(b"something else" + data)
    file.seek(len(b"something else"))
    np.testing.assert_array_equal(streamed(file, 8000), whole(data, 8000))
    with pytest.raises(AudioError, match=r"<stream>: empty \(the file object stands at its end; seek\(0\) first\)"):
        open_track(_at_end(data))


def _at_end(data: bytes) -> io.BytesIO:
    file = io.BytesIO(data)
    file.seek(0, os.SEEK_END)
    return file


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "empty"),
        (io.BytesIO(b""), "empty"),
        (io.StringIO("RIFF"), "text mode"),
        (OneWay(b""), "empty"),
        (42, "<int>: got an int; a source is a path, bytes, a binary file object or a NumPy array"),
        (None, "<NoneType>: got None; a source is a path"),
        ([0.0, 0.1], "<list>: got a list; a source is a path"),
        ("no/such/file.wav", "no such file"),
        ("nul\0byte.wav", "not a usable path"),
        (b"\x00\x01\x02" * 1000, "not a recognised sound file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(1000), "looks like a PNG image"),
        (b"%PDF-1.4" + bytes(1000), "looks like PDF"),
    ],
)
def test_what_is_not_a_sound_is_named(source, message):
    with pytest.raises(AudioError, match=message) as error:
        open_track(source)
    assert "\n" not in str(error.value)


def test_closed_file_object():
    file = io.BytesIO(b"RIFF")
    file.close()
    with pytest.raises(AudioError, match="closed file"):
        open_track(file)


def test_sample_rate_is_refused_for_files(rng):
    data = encode(music_like(rng, 4000, 1, 8000), 8000, "wav")
    with pytest.raises(AudioError, match="only for arrays"):
        open_track(data, sample_rate=8000)


def test_failing_reads_are_audio_errors(rng):
    class Failing(io.BytesIO):
        fail = False

        def read(self, n_bytes: int | None = -1) -> bytes:
            if self.fail and self.tell() > 100_000:
                raise OSError("the cable was pulled")
            return super().read(n_bytes)

    file = Failing(encode(music_like(rng, 400_000, 2, 44100), 44100, "wav"))
    with open_track(file) as track:
        file.fail = True
        with pytest.raises(AudioError, match="<stream>: reading failed: the cable was pulled"):
            list(track.blocks(16000))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_counted(rng, bad):
    samples = music_like(rng, 200_000, 2, 44100)
    samples[100_000, 1] = bad
    samples[150_000:150_005, 0] = bad
    with (
        open_track(samples, sample_rate=44100) as track,
        pytest.raises(AudioError, match=r"<array>: 6 frames hold NaN or Inf, the first is frame 100000 \(2.268 s\)"),
    ):
        list(track.blocks(16000))


def test_huge_samples_do_not_crash():
    with open_track(np.full((50_000, 2), 1e30, np.float32), sample_rate=44100) as track:
        assert np.isfinite(np.concatenate(list(track.blocks(16000)))).all()
    with (
        open_track(np.full((50_000, 2), 3.4e38, np.float32), sample_rate=44100) as track,
        pytest.raises(AudioError, match="the channels' sum exceeds float32"),
    ):
        list(track.blocks(16000))
    square = np.where(np.arange(50_000) % 50 < 25, 3.4e38, -3.4e38).astype(np.float32)
    with (
        open_track(square, sample_rate=44100) as track,
        pytest.raises(AudioError, match="too large to resample in float32"),
    ):
        list(track.blocks(16000))
    with (
        open_track(np.full(5000, 1e300), sample_rate=8000) as track,
        pytest.raises(AudioError, match="5000 frames hold NaN or Inf"),
    ):
        list(track.blocks(8000))


@pytest.mark.parametrize(("sample_rate", "rate"), [(44100, 16000), (16000, 16000), (48000, 12000), (8000, 16000)])
def test_windows_equal_the_blocks(rng, sample_rate, rate):
    samples = music_like(rng, 20 * sample_rate, 2, sample_rate)
    full = one_shot(mono_of(samples), sample_rate, rate)
    n = len(full)
    with open_track(samples, sample_rate=sample_rate) as track:
        for starts, n_samples in (
            ([0], n),
            ([0], 5),
            ([-100, -1, 0, 1, 1, 500], 1000),  # overlapping, repeated, before the start
            ([-5000, -3000], 1000),  # wholly before the start
            ([n - 10, n - 1, n, n + 50], 100),  # over and behind the end
            ([n + 1000], 100),
            ([3 * rate, 12 * rate, 19 * rate], rate // 2),  # gaps
            (list(range(-2000, n, rate)), 3 * rate),
            ([11 * rate], rate),
            ([], 100),
        ):
            windows = list(track.windows(rate, starts, n_samples))
            assert len(windows) == len(starts)
            for window, expected in zip(windows, cut_windows(full, starts, n_samples), strict=True):
                assert window.dtype == np.float32
                np.testing.assert_array_equal(window, expected)
        assert track.warnings == []
        assert not track.length_changed
        for start, stop in ((0, 0), (0, 10), (12345, 12346), (13 * rate, 14 * rate), (n - 5, n + 5), (n + 5, None)):
            out = list(track.blocks(rate, start, stop))
            np.testing.assert_array_equal(np.concatenate([full[:0], *out]), full[start:stop])


def test_windows_do_not_share_memory(rng):
    samples = music_like(rng, 8000, 1, 8000)
    with open_track(samples, sample_rate=8000) as track:
        windows = list(track.windows(8000, [0, 0, 10], 100))
        blocks = list(track.blocks(8000))
    windows[0][:] = 7.0
    blocks[0][:] = 8.0
    np.testing.assert_array_equal(windows[1], samples[:100, 0])
    assert samples.max() < 1.0


def test_window_arguments_are_checked(rng):
    with open_track(music_like(rng, 8000, 1, 8000), sample_rate=8000) as track:
        with pytest.raises(ValueError, match="must not fall"):
            list(track.windows(8000, [10, 0], 100))
        with pytest.raises(ValueError, match="n_samples=0"):
            list(track.windows(8000, [0], 0))
        with pytest.raises(ValueError, match="start=-1"):
            list(track.blocks(8000, -1))
        with pytest.raises(AudioError, match="5 Hz is not supported"):
            list(track.blocks(5))


@pytest.mark.parametrize(("sample_rate", "rate"), sorted(_STEPS))
def test_streams_one_step_apart_are_bit_identical(sample_rate, rate):
    """The reason why a seek does not change a score; a soxr built otherwise would only lose the seeks, not the bits."""
    step = exact_step(sample_rate, rate)
    assert step == _STEPS[sample_rate, rate]
    assert step * rate % sample_rate == 0


def test_another_step_is_not_bit_identical(rng):
    """Guards the test above: an offset that is only a whole number of output samples is not enough."""
    noise = rng.standard_normal(44100 * 3, dtype=np.float32)
    full, shifted = one_shot(noise, 44100, 16000), one_shot(noise[441:], 44100, 16000)
    difference = np.abs(full[160:][16000:32000] - shifted[16000:32000])
    assert 0 < difference.max() < 1e-6


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg", "opus"])
@pytest.mark.parametrize("rate", [12000, 16000])
def test_late_windows_are_reached_by_seeking_without_changing_a_bit(rng, kind, rate, monkeypatch):
    sample_rate = 48000 if kind == "opus" else 44100
    data = encode(music_like(rng, 60 * sample_rate, 1, sample_rate), sample_rate, kind)
    full = streamed(data, rate)
    starts = [20 * rate + 123, 48 * rate + 7]
    with open_track(data) as track:
        read = 0
        original = track._reader.read_into

        def counting(buffer):
            nonlocal read
            n = original(buffer)
            read += n
            return n

        monkeypatch.setattr(track._reader, "read_into", counting)
        windows = list(track.windows(rate, starts, 2 * rate))
        assert not track.length_changed
    for window, expected in zip(windows, cut_windows(full, starts, 2 * rate), strict=True):
        np.testing.assert_array_equal(window, expected)
    assert read < 45 * sample_rate
    if kind in ("wav", "flac", "mp3") and rate == 16000:
        assert read < 20 * sample_rate


def test_nothing_behind_the_last_window_is_read(rng):
    data = encode(music_like(rng, 60 * 16000, 1, 16000), 16000, "wav")

    class Watched(io.BytesIO):
        furthest = 0

        def read(self, n_bytes: int | None = -1) -> bytes:
            out = super().read(n_bytes)
            self.furthest = max(self.furthest, self.tell())
            return out

    file = Watched(data)
    with open_track(file) as track:
        list(track.windows(16000, [0, 16000], 16000))
    assert file.furthest < len(data) // 4


def test_an_old_pass_ends_when_a_new_one_begins(rng):
    with open_track(music_like(rng, 400_000, 1, 44100), sample_rate=44100) as track:
        first = track.blocks(16000)
        next(first)
        again = np.concatenate(list(track.blocks(16000)))
        with pytest.raises(RuntimeError, match="another pass"):
            list(first)
        assert len(again) == track.length(16000)
    with pytest.raises(AudioError, match="closed"):
        list(track.blocks(16000))


def test_many_tracks_in_parallel(rng):
    data = {kind: encode(music_like(rng, 200_000, 2, 44100), 44100, kind) for kind in ("wav", "flac", "ogg", "mp3")}
    expected = {kind: whole(content, 16000) for kind, content in data.items()}
    wrong = []

    def work(kind: str) -> None:
        for _ in range(3):
            if not np.array_equal(streamed(data[kind], 16000), expected[kind]):
                wrong.append(kind)

    threads = [threading.Thread(target=work, args=(kind,)) for kind in list(data) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_names_are_one_printable_line(tmp_path):
    with pytest.raises(AudioError) as error:
        open_track(tmp_path / "two\nlines\x1b[31m.wav")
    assert "two\\nlines\\x1b[31m.wav: no such file" in str(error.value)


def test_output_length_is_rounded_up():
    for n, sample_rate, rate in ((1, 44100, 16000), (441, 44100, 160), (442, 44100, 16000), (44100, 44100, 44100)):
        assert output_length(n, sample_rate, rate) == int(np.ceil(n * rate / sample_rate))
    lengths = [output_length(n, 44100, 16000) for n in range(2000)]
    assert all(b - a in (0, 1) for a, b in pairwise(lengths))
