"""Every entry of the collection of hard files: what its manifest expects, nothing printed, bounded memory."""

from __future__ import annotations

import os
import re
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support.audio_cases import mono_of, one_shot, streamed, whole

from fcntag.audio import display_name, open_track
from fcntag.audio.source import Source
from fcntag.errors import AudioError

# name -> (frames, channels, sample rate) of what is decoded without a warning
GOOD = {
    "silence_5s.wav": (40000, 1, 8000),
    "len_1.wav": (1, 1, 44100),
    "len_300.wav": (300, 2, 44100),
    "len_500ms.wav": (8000, 2, 16000),
    "len_2999ms.flac": (47984, 1, 16000),
    "pcm_u8.wav": (38400, 1, 12000),
    "pcm_24.wav": (38400, 1, 12000),
    "pcm_32.wav": (25600, 1, 8000),
    "float32.wav": (38400, 1, 12000),
    "float64.wav": (25600, 1, 8000),
    "ulaw_8k.wav": (25600, 1, 8000),
    "gsm_8k.wav": (25600, 1, 8000),
    "wild_ms_adpcm.wav": (174704, 1, 22050),
    "extensible_24.wav": (12000, 1, 12000),
    "rf64.wav": (12000, 1, 12000),
    "aiff.aiff": (12000, 1, 12000),
    "rate_192k.wav": (57600, 1, 192000),
    "rate_8k.wav": (25600, 1, 8000),
    "rate_11025_odd.wav": (35280, 1, 11025),
    "rate_44056_weird.wav": (44056, 1, 44056),
    "ch6.wav": (4000, 6, 8000),
    "ch6.flac": (4000, 6, 8000),
    "antiphase.wav": (38400, 2, 12000),
    "huge_float.wav": (38400, 1, 12000),
    "denormal_float.wav": (38400, 1, 12000),
    "over_unity_float.wav": (38400, 1, 12000),
    "dc_offset.wav": (38400, 1, 12000),
    "dc_only.flac": (48000, 1, 12000),
    "clipped_noise.wav": (48000, 1, 12000),
    "fullscale_sine.flac": (48000, 1, 12000),
    "impulse.flac": (48000, 1, 12000),
    "ok.mp3": (176400, 2, 44100),
    "vbr_noxing.mp3": (178560, 2, 44100),
    "ok.ogg": (176400, 2, 44100),
    "ok.flac": (38400, 1, 12000),
    "ok.opus": (192000, 2, 48000),
    "layer2.mp2": (177408, 2, 44100),
    "ogg_flac.oga": (38400, 1, 12000),
    "hdr_data_ffffffff.wav": (38400, 1, 12000),
    "hdr_data_small.wav": (500, 1, 12000),
    "big_list_chunk.wav": (38400, 1, 12000),
    "really_mp3.wav": (176400, 2, 44100),
    "really_flac.mp3": (38400, 1, 12000),
    "really_wav.mp3": (38400, 1, 12000),
    "no_extension": (176400, 2, 44100),
    "ünï cødé – 音楽 'q'.wav": (38400, 1, 12000),
    "latin1_\\xe9.wav": (38400, 1, 12000),
    "big_id3_cover.mp3": (176400, 2, 44100),
    "id3v1_ape_tail.mp3": (176400, 2, 44100),
    "double_id3.mp3": (176400, 2, 44100),
    "junk_before.mp3": (176400, 2, 44100),
    "two_mp3_cat.mp3": (354960, 2, 44100),
    "id3_before.flac": (38400, 1, 12000),
    "unknown_total.flac": (38400, 1, 12000),
}
# what such a file is warned of all the same
WARNED = {"huge_float.wav": "float samples reach 7.7524e+29, and full scale is 1"}
# name -> (least and most frames, part of the warning); at least the first eighth equals the undamaged file's
PARTLY = {
    "chained.ogg": ((176400, 176400), "another Ogg stream follows", "ok.ogg"),
    "trunc_half.mp3": ((80000, 90000), "cut off inside an MPEG frame", "ok.mp3"),
    "trunc_half.ogg": ((44736, 44736), "cut off in the middle of a page", "ok.ogg"),
    "trunc_half.flac": ((16384, 20480), "1.37 of 3.20 s can be decoded", "ok.flac"),
    "trunc_half.opus": ((47688, 47688), "cut off in the middle of a page", "ok.opus"),
    "trunc_half.wav": ((25594, 25594), "102378 of 204800 bytes", None),
    "hdr_data_0.wav": ((38400, 38400), "no samples, though 76800 bytes follow; they were taken for its samples", None),
    "corrupt_mid.mp3": ((160000, 176400), "damaged bytes at 2.01 s were left out", "ok.mp3"),
    "corrupt_mid.ogg": ((130448, 130448), "only 2.96 of 4.00 s", "ok.ogg"),
    "corrupt_mid.flac": ((30000, 38400), "2.52 of 3.20 s can be decoded", "ok.flac"),
    "rate_change.mp3": ((176400, 176400), "changes at 4.05 s to 22050 Hz layer 3 mono", "ok.mp3"),
}
BAD = {
    "len_0.wav": "no audio samples",
    "rate_1hz.wav": "sample rate 1 Hz is not supported; allowed: 1000 to 768000 Hz",
    "nan.wav": "10 frames hold NaN or Inf, the first is frame 1000",
    "inf.wav": "2 frames hold NaN or Inf, the first is frame 2000",
    "trunc_head.mp3": "not a recognised sound file",
    "trunc_head.ogg": "damaged or unusual Ogg Vorbis file",
    "trunc_head.flac": "damaged FLAC file (no audio samples",
    "trunc_head.opus": "damaged or unusual Ogg Opus file",
    "hdr_ch0.wav": "the header says 0 channels",
    "hdr_ch65535.wav": "Too many channels",
    "hdr_rate0.wav": "the header says 0 Hz",
    "hdr_rate_4g.wav": "the header says 4294967295 Hz",
    "hdr_bits_0.wav": "the header says 0 bits per sample",
    "text.mp3": "not a sound file (it looks like text)",
    "html.ogg": "not a sound file (it looks like an HTML or XML page)",
    "zero_bytes.wav": "empty file (0 bytes)",
    "zero_bytes.mp3": "empty file (0 bytes)",
    "random.mp3": "not a recognised sound file",
    "zeros.mp3": "not a recognised sound file",
    "raw_pcm.raw": "can be given as an array with sample_rate=",
    "directory.wav": "is a directory",
    "dangling_link.wav": "no such file (a link to",
}
# read through PyAV: name -> (frames, channels, sample rate)
OPTIONAL = {
    "aac.m4a": (177152, 2, 44100, "AAC in MP4/M4A"),
    "wavpack.wv": (38400, 1, 12000, "WavPack"),
    "wma.wma": (176128, 2, 44100, "WMA (Windows Media Audio)"),
    "alac.m4a": (38400, 1, 12000, "ALAC in MP4/M4A"),
}


@pytest.fixture
def hard(shared: Path, tmp_path: Path):
    """Path of an entry by name; the three that version control cannot hold are made here."""

    def path_of(name: str) -> str | bytes | Path:
        if name == "latin1_\\xe9.wav":
            path = os.fsencode(tmp_path) + b"/latin1_\xe9.wav"
            Path(os.fsdecode(path)).write_bytes((shared / "hard" / "pcm_u8.wav").read_bytes())
            return os.fsdecode(path)
        if name == "dangling_link.wav":
            (tmp_path / name).symlink_to(tmp_path / "gone.wav")
            return tmp_path / name
        if name == "directory.wav":
            (tmp_path / name).mkdir()
            return tmp_path / name
        return shared / "hard" / name

    return path_of


def test_every_entry_of_the_manifest_is_tested(shared: Path):
    text = (shared / "hard" / "MANIFEST.md").read_text(encoding="utf-8")
    entries = set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))
    tested = [*GOOD, *PARTLY, *BAD, *OPTIONAL]
    assert sorted(name.rstrip("/") for name in entries) == sorted(tested)
    stored = {p.name for p in (shared / "hard").iterdir() if p.name != "MANIFEST.md"}
    assert stored <= set(tested)


@pytest.mark.parametrize("name", GOOD)
def test_good_files(hard, name: str, capfd):
    path = hard(name)
    n_frames, n_channels, sample_rate = GOOD[name]
    with open_track(path) as track:
        assert (track.n_frames, track.n_channels, track.sample_rate) == (n_frames, n_channels, sample_rate)
        for rate in (12000, 16000):
            out = np.concatenate(list(track.blocks(rate)))
            assert len(out) == track.length(rate) == -(-n_frames * rate // sample_rate)
            assert np.isfinite(out).all()
        assert track.warnings == ([WARNED[name]] if name in WARNED else [])
        assert track.name.endswith(name)
        track.name.encode("utf-8")
    assert capfd.readouterr() == ("", "")


def _reads_whole(name: str) -> bool:
    """Whether plain soundfile decodes the entry right by its content alone."""
    return name not in ("vbr_noxing.mp3", "ogg_flac.oga", "unknown_total.flac", "junk_before.mp3", "two_mp3_cat.mp3")


@pytest.mark.parametrize("name", [name for name in GOOD if _reads_whole(name)])
def test_good_files_equal_plain_soundfile(hard, name: str):
    data = Path(hard(name)).read_bytes()
    np.testing.assert_array_equal(streamed(hard(name), 16000), whole(data, 16000))


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("big_id3_cover.mp3", "ok.mp3"),
        ("id3v1_ape_tail.mp3", "ok.mp3"),
        ("double_id3.mp3", "ok.mp3"),
        ("junk_before.mp3", "ok.mp3"),
        ("really_mp3.wav", "ok.mp3"),
        ("id3_before.flac", "ok.flac"),
        ("unknown_total.flac", "ok.flac"),
        ("ogg_flac.oga", "ok.flac"),
        ("really_flac.mp3", "ok.flac"),
        ("no_extension", "ok.ogg"),
    ],
)
def test_wrapping_does_not_change_the_samples(shared: Path, name: str, same_as: str):
    expected = streamed(shared / "hard" / same_as, 16000)
    np.testing.assert_array_equal(streamed(shared / "hard" / name, 16000), expected)
    np.testing.assert_array_equal(streamed((shared / "hard" / name).read_bytes(), 16000), expected)


def test_an_mp3_without_xing_header_is_read_to_its_end(shared: Path):
    """The same frames behind a correct header give the same samples, but for the 529 that a header takes off."""
    data = (shared / "hard" / "vbr_noxing.mp3").read_bytes()
    out = streamed(data, 44100)
    assert len(out) == 155 * 1152
    head = bytearray(417)  # an MPEG-1 layer III frame of 128 kbit/s at 44.1 kHz, as it would be in front
    head[:4] = data[0:2] + bytes((0x90, data[3]))
    head[36:52] = b"Xing" + (3).to_bytes(4, "big") + (155).to_bytes(4, "big") + (len(data) + 417).to_bytes(4, "big")
    np.testing.assert_array_equal(whole(bytes(head) + data, 44100)[: 155 * 1152 - 529], out[529:])


def test_second_file_behind_the_first(shared: Path):
    both, one = streamed(shared / "hard" / "two_mp3_cat.mp3", 44100), streamed(shared / "hard" / "ok.mp3", 44100)
    np.testing.assert_array_equal(both[: len(one)], one)
    # The second starts with its own encoder and decoder delay; its sound is the first one's again.
    np.testing.assert_allclose(both[-len(one) :][2000:], one[2000:], atol=1e-5)


def test_ultrasound_does_not_alias(hard):
    out = streamed(hard("rate_192k.wav"), 16000)
    spectrum = np.abs(np.fft.rfft(out * np.hanning(len(out))))
    peak = int(spectrum.argmax())
    assert peak * 16000 / len(out) == pytest.approx(440, abs=5)
    others = np.delete(spectrum, np.arange(max(0, peak - 5), peak + 6))
    assert others.max() < 1e-3 * spectrum[peak]


def test_six_channels_are_averaged(hard):
    import soundfile

    samples, sample_rate = soundfile.read(str(hard("ch6.wav")), dtype="float32")
    np.testing.assert_array_equal(streamed(hard("ch6.wav"), 8000), mono_of(samples))
    np.testing.assert_array_equal(streamed(hard("ch6.flac"), 16000), one_shot(mono_of(samples), sample_rate, 16000))


@pytest.mark.parametrize("name", PARTLY)
def test_partly_good_files(hard, shared: Path, name: str, capfd):
    (least, most), message, undamaged = PARTLY[name]
    with open_track(hard(name)) as track:
        planned = track.length(16000)
        out = np.concatenate(list(track.blocks(16000)))
        assert least <= track.n_frames <= most
        assert len(out) == track.length(16000)
        assert track.length_changed == (planned != len(out))
        assert np.isfinite(out).all()
        assert len(track.warnings) == 1
        assert message in track.warnings[0]
        assert str(shared) not in track.warnings[0]
        windows = list(track.windows(16000, [0, len(out) - 100], 200))
        np.testing.assert_array_equal(windows[0], out[:200])
        np.testing.assert_array_equal(windows[1], np.pad(out[-100:], (0, 100)))
        assert len(track.warnings) == 1
    if undamaged is not None:
        expected = streamed(shared / "hard" / undamaged, 16000)
        np.testing.assert_array_equal(out[: len(out) // 8], expected[: len(out) // 8])
    assert capfd.readouterr() == ("", "")


def test_windows_planned_from_a_wrong_header_are_zeros_behind_the_end(hard):
    with open_track(hard("corrupt_mid.ogg")) as track:
        planned = track.length(16000)
        assert planned == 64000
        windows = list(track.windows(16000, [0, 40000, 60000], 16000))
        assert track.length_changed
        assert track.length(16000) < planned
        assert windows[1].any()
        assert not windows[1][-5000:].any()
        assert not windows[2].any()


def test_damaged_flac_keeps_what_lies_behind_the_damage(hard):
    out, good = streamed_with_warnings(hard("corrupt_mid.flac")), streamed(hard("ok.flac"), 12000)
    assert len(out) == len(good)
    np.testing.assert_array_equal(out[:16384], good[:16384])
    np.testing.assert_array_equal(out[-12000:], good[-12000:])


def test_damaged_mp3_keeps_what_lies_behind_the_damage(hard):
    out, good = streamed_with_warnings(hard("corrupt_mid.mp3"), 44100), streamed(hard("ok.mp3"), 44100)
    np.testing.assert_array_equal(out[:80000], good[:80000])
    np.testing.assert_allclose(out[-60000:], good[-60000:], atol=1e-5)


def streamed_with_warnings(path: Path, rate: int = 12000) -> np.ndarray:
    with open_track(path) as track:
        return np.concatenate(list(track.blocks(rate)))


@pytest.mark.parametrize("name", BAD)
def test_bad_files(hard, name: str, capfd):
    path = hard(name)
    with pytest.raises(AudioError) as error, open_track(path) as track:
        list(track.blocks(16000))
    message = str(error.value)
    assert message.startswith(display_name(path) + ": ")
    assert BAD[name] in message
    assert "\n" not in message
    assert len(message) < len(display_name(path)) + 250
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", OPTIONAL)
def test_formats_that_need_pyav(hard, name: str, capfd):
    n_frames, n_channels, sample_rate, _ = OPTIONAL[name]
    with open_track(hard(name)) as track:
        assert (track.n_channels, track.sample_rate) == (n_channels, sample_rate)
        out = np.concatenate(list(track.blocks(16000)))
        assert abs(track.n_frames - n_frames) <= 4096  # decoders differ in the padding of the last packet
        assert len(out) == track.length(16000)
        assert track.warnings == []
        np.testing.assert_array_equal(next(track.windows(16000, [5000], 10000)), out[5000:15000])
    assert capfd.readouterr() == ("", "")


def test_lossless_formats_through_pyav_are_exact(hard):
    expected = streamed(hard("ok.flac"), 12000)
    for name in ("alac.m4a", "wavpack.wv"):
        np.testing.assert_array_equal(streamed_with_warnings(hard(name)), expected)


@pytest.mark.parametrize("name", OPTIONAL)
def test_without_pyav_the_format_and_the_extra_are_named(hard, name: str, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)  # import raises ImportError
    with pytest.raises(AudioError) as error:
        open_track(hard(name))
    assert OPTIONAL[name][3] in str(error.value)
    assert 'pip install "fcntag[av]"' in str(error.value)


def test_memory_does_not_grow_with_the_file_or_its_header(hard, tmp_path: Path):
    """Ten minutes of stereo are 212 MB as float32; header lies promise far more."""
    import soundfile

    path = tmp_path / "long.flac"
    block = (np.arange(44100 * 2).reshape(-1, 2) % 997 - 498).astype(np.int16)
    with soundfile.SoundFile(path, "w", 44100, 2) as file:
        for _ in range(600):
            file.write(block)
    tracemalloc.start()
    try:
        with open_track(path) as track:
            assert sum(len(block) for block in track.blocks(16000)) == 600 * 16000
            for window in track.windows(16000, list(range(-1000, 600 * 16000, 300_000)), 48000):
                assert len(window) == 48000
        with open_track(path.read_bytes()) as track:
            list(track.windows(16000, [590 * 16000], 16000))
        for name in ("hdr_data_ffffffff.wav", "unknown_total.flac", "trunc_half.wav", "rf64.wav"):
            streamed_with_warnings(hard(name))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size + (12 << 20)  # the bytes given as an argument, and a few blocks


def test_very_many_gaps_are_one_warning(shared: Path):
    data = (shared / "hard" / "vbr_noxing.mp3").read_bytes()
    block = data[: len(data) // 2]
    # Every copy ends inside a frame, and three bytes of rubbish stand in front of the next.
    with open_track((block + b"abc") * 400) as track:
        n_samples = sum(len(block) for block in track.blocks(16000))
        assert n_samples > 400 * 1.5 * 16000
        assert len(track.warnings) == 2
        assert "in 399 places were left out" in track.warnings[0]
        assert "cut off" in track.warnings[1]


def test_opening_fails_without_leaving_the_file_open(hard, monkeypatch):
    opened = []
    original = Source.close
    monkeypatch.setattr(Source, "close", lambda self: (opened.append(self), original(self)))
    for name in ("rate_1hz.wav", "random.mp3", "len_0.wav", "hdr_ch0.wav"):
        with pytest.raises(AudioError):
            open_track(hard(name))
        assert opened.pop().file.closed
