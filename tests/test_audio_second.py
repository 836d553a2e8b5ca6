"""What libsndfile does not know or refuses is read through PyAV, and what neither can read is named by both."""

from __future__ import annotations

import io
import struct
import sys

import numpy as np
import pytest
import soundfile

av = pytest.importorskip("av")

from support.audio_cases import encode, mono_of, streamed  # noqa: E402
from support.av_files import av_decode, av_file, notes  # noqa: E402

from fcntag.audio import open_track, streams  # noqa: E402
from fcntag.audio.formats import ENDINGS, FORMATS  # noqa: E402
from fcntag.audio.open import _LIBSNDFILES_OWN  # noqa: E402
from fcntag.audio.sniff import sniff  # noqa: E402
from fcntag.audio.source import open_source  # noqa: E402
from fcntag.errors import AudioError  # noqa: E402

SOUND = notes(30_000)
LOSSLESS = ("pcm_s16le", "pcm_s16be", "flac", "alac", "tta", "wavpack", "pcm_u8")
# ending: (container and codec for PyAV, row of the table)
CONTAINERS = {
    "ac3.wav": ("wav", "ac3", "wav"),
    "eac3.wav": ("wav", "eac3", "wav"),
    "layer2.wav": ("wav", "mp2", "wav"),
    "flac.wav": ("wav", "flac", "wav"),
    "wma.wav": ("wav", "wmav2", "wav"),
    "yamaha.wav": ("wav", "adpcm_yamaha", "wav"),
    "g722.wav": ("wav", "g722", "wav"),
    "ac3.w64": ("w64", "ac3", "w64"),
    "mp3.avi": ("avi", "libmp3lame", "avi"),
    "pcm.avi": ("avi", "pcm_s16le", "avi"),
    "alac.caf": ("caf", "alac", "caf"),
    "ac3.caf": ("caf", "ac3", "caf"),
    "ima.caf": ("caf", "adpcm_ima_qt", "caf"),
    "x.voc": ("voc", "pcm_u8", "voc"),
    "layer2.ts": ("mpegts", "mp2", "ts"),
    "aac.ts": ("mpegts", "aac", "ts"),
    "ac3.m2ts": ("mpegts", "ac3", "ts"),
    "layer2.mpg": ("mpeg", "mp2", "ps"),
    "layer2.vob": ("vob", "mp2", "ps"),
    "x.latm": ("latm", "aac", "latm"),
    "aac.nut": ("nut", "aac", "nut"),
    "flac.nut": ("nut", "flac", "nut"),
    "x.adx": ("adx", "adpcm_adx", "adx"),
    "x.aac": ("adts", "aac", "adts"),
    "x.ac3": ("ac3", "ac3", "ac3"),
    "x.eac3": ("eac3", "eac3", "ac3"),
    "x.tta": ("tta", "tta", "tta"),
    "x.wv": ("wv", "wavpack", "wavpack"),
    "x.wma": ("asf", "wmav2", "asf"),
    "x.flv": ("flv", "libmp3lame", "flv"),
    "flac.mka": ("matroska", "flac", "matroska"),
    "opus.webm": ("webm", "libopus", "matroska"),
    "x.m4b": ("ipod", "alac", "mp4"),
    "x.mov": ("mov", "pcm_s16be", "mp4"),
    "mp3.mp4": ("mp4", "libmp3lame", "mp4"),
    "x.rm": ("rm", "ac3", "rm"),
    "x.swf": ("swf", "libmp3lame", "swf"),
}


def make(name: str) -> bytes:
    container, codec, _ = CONTAINERS[name]
    options = {"mpegts_m2ts_mode": "1"} if name.endswith(".m2ts") else None
    sound, rate = SOUND, 44100
    if codec == "libopus":
        rate = 48000
    if codec == "g722":
        sound, rate = SOUND[:, :1], 16000
    return av_file(sound, rate, container, codec, bit_rate=128_000 if codec == "wmav2" else None, options=options)


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_works_whole(name):
    data = make(name)
    try:
        expected = mono_of(av_decode(data))
    except av.FFmpegError:  # PyAV's simplest use stops at a packet of side data at the end
        expected = mono_of(SOUND)
    opened = open_source(data)
    assert sniff(opened).key == CONTAINERS[name][2]
    with open_track(data) as track:
        out = np.concatenate(list(track.blocks(track.sample_rate)))
        assert track.warnings == []
    if "m4b" in name or CONTAINERS[name][1] in LOSSLESS:
        assert len(out) >= len(SOUND)
    assert abs(len(out) - len(expected)) <= 1024
    n = min(len(out), len(expected))
    np.testing.assert_allclose(out[:n], expected[:n], atol=1e-4)
    assert np.abs(out).max() > 0.2


@pytest.mark.parametrize("name", ["ac3.wav", "alac.caf", "mp3.avi", "layer2.ts", "flac.nut"])
def test_every_kind_of_source(name, tmp_path):
    data = make(name)
    (tmp_path / "misnamed.mp3").write_bytes(data)
    expected = streamed(data, 16000)
    np.testing.assert_array_equal(streamed(tmp_path / "misnamed.mp3", 16000), expected)
    np.testing.assert_array_equal(streamed(io.BytesIO(data), 16000), expected)
    with open_track(data) as track:
        np.testing.assert_array_equal(next(track.windows(16000, [3000], 2000)), expected[3000:5000])


@pytest.mark.parametrize("container", ["ogg", "matroska", "avi", "mpegts", "mp4", "flv", "asf", "nut"])
def test_a_video_is_tagged_by_its_sound(container):
    codec = {"ogg": "flac", "matroska": "flac", "nut": "flac", "avi": "pcm_s16le"}.get(container, "libmp3lame")
    picture = {"ogg": "vp8", "flv": "flv", "mpegts": "mpeg2video"}.get(container, "mpeg4")
    data = av_file(SOUND, 44100, container, codec, video=picture)
    out = streamed(data, 44100)
    expected = mono_of(av_decode(data)) if codec == "libmp3lame" else mono_of(SOUND)
    assert len(out) == len(expected)
    np.testing.assert_allclose(out, expected, atol=1e-4)


@pytest.mark.parametrize(
    "lines",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: audio/ogg\r\nServer: x\r\n\r\n",
        b"HTTP/1.0 200 OK\n\n",
        b"ICY 200 OK\r\nicy-name: " + b"station " * 100 + b"\r\n\r\n",
        b"Content-Type: audio/ogg\r\nContent-Length: 5\r\n\r\n",
    ],
)
@pytest.mark.parametrize("kind", ["ogg", "wav", "flac", "mp3", "opus"])
def test_a_servers_header_lines_in_front(lines, kind):
    data = encode(SOUND, 48000, kind)
    if kind == "mp3" and not lines.startswith((b"HTTP", b"ICY")):
        lines = b"HTTP/1.1 200 OK\r\n" + lines  # MP3 has no signature that could follow a single line
    np.testing.assert_array_equal(streamed(lines + data, 16000), streamed(data, 16000))


def test_text_with_colons_is_still_text():
    with pytest.raises(AudioError, match="it looks like text"):
        open_track(b"Title: a song\n\nIt has words, but no sound.\n" * 20)


@pytest.mark.parametrize("kind", ["adts", "ac3", "eac3", "latm", "mpegts"])
def test_a_recording_that_starts_in_the_middle_of_a_frame(kind):
    codec = {"ac3": "ac3", "eac3": "eac3", "mpegts": "mp2"}.get(kind, "aac")
    data = av_file(notes(60_000), 44100, kind, codec)
    whole, cut = streamed(data, 44100), streamed(data[1000:], 44100)
    assert len(whole) // 2 < len(cut) < len(whole)
    rest = slice(-len(cut) + 8192, -4096)
    np.testing.assert_allclose(cut[rest], whole[rest], atol=0.01)  # AAC's noise bands depend on where decoding began


def test_ac3_in_the_samples_of_a_wav_file():
    """As players write it for a digital line, and as DTS stands on a CD: libsndfile would read it as noise."""
    bursts = av_file(SOUND, 48000, "spdif", "ac3")
    file = io.BytesIO()
    soundfile.write(file, np.frombuffer(bursts, "<i2").reshape(-1, 2), 48000, format="WAV", subtype="PCM_16")
    expected = mono_of(av_decode(av_file(SOUND, 48000, "ac3", "ac3")))
    for data in (file.getvalue(), bursts):
        out = streamed(data, 48000)
        assert abs(len(out) - len(expected)) <= 1536
        np.testing.assert_allclose(out[:20000], expected[:20000], atol=1e-6)


def test_bw64_is_rf64_by_another_name():
    file = io.BytesIO()
    soundfile.write(file, SOUND, 44100, format="RF64", subtype="PCM_16")
    data = file.getvalue()
    np.testing.assert_array_equal(streamed(b"BW64" + data[4:], 44100), streamed(data, 44100))


@pytest.mark.parametrize("container", ["IRCAM", "PAF", "PVF", "AVR", "SVX", "NIST", "VOC", "W64", "RF64", "CAF", "AU"])
def test_what_libsndfile_alone_knows(container):
    file = io.BytesIO()
    soundfile.write(file, SOUND[:, :1], 44100, format=container, subtype="PCM_16")
    np.testing.assert_array_equal(streamed(file.getvalue(), 44100), streamed(encode(SOUND[:, :1], 44100, "wav"), 44100))


def test_a_change_between_mono_and_stereo_is_followed():
    """As broadcasts have it. The mix is mono anyway."""
    stereo, mono = notes(44100), notes(44100, 1)
    parts = [av_file(sound, 44100, "ac3", "ac3") for sound in (stereo, mono, stereo)]
    with open_track(b"".join(parts)) as track:
        out = np.concatenate(list(track.blocks(44100)))
        assert track.warnings == []
    n = len(streamed(parts[0], 44100))
    assert len(out) == 2 * n + len(streamed(parts[1], 44100))
    np.testing.assert_allclose(out[n + 4000 : 2 * n - 4000], streamed(parts[1], 44100)[4000 : n - 4000], atol=5e-3)


@pytest.mark.parametrize("n_channels", [3, 6, 7])
def test_planes_are_interleaved(n_channels, rng, monkeypatch):
    """What frames of very many channels go through gives the same samples."""
    samples = rng.integers(-8000, 8000, (9000, n_channels)).astype(np.int16)
    layout = {3: "3.0", 6: "5.1", 7: "6.1"}[n_channels]
    file = io.BytesIO()
    with av.open(file, "w", format="wv") as out:
        stream = out.add_stream("wavpack", rate=44100, layout=layout)
        stream.codec_context.format = "s16p"
        resampler = av.AudioResampler("s16p", layout, 44100)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate, frame.pts = 44100, 0
        for planar in resampler.resample(frame):
            out.mux(stream.encode(planar))
        out.mux(stream.encode(None))
    plain = streamed(file.getvalue(), 44100)
    np.testing.assert_allclose(plain, samples.mean(axis=1) / 32768, atol=1e-6)
    monkeypatch.setattr("fcntag.audio.av.SAFE_PLANES", 2)
    np.testing.assert_array_equal(streamed(file.getvalue(), 44100), plain)


# ---- what cannot be read ----


def error_of(data: bytes) -> str:
    with pytest.raises(AudioError) as error:
        open_track(data)
    message = str(error.value)
    assert "\n" not in message
    return message


def riff(form: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    body = form + b"".join(name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


AAC_IN_WAV = riff(
    b"WAVE", (b"fmt ", struct.pack("<HHIIHHH", 0xFF, 2, 44100, 16000, 1, 16, 0)), (b"data", bytes(range(256)) * 40)
)


def test_both_decoders_words_stand_in_one_line():
    message = error_of(AAC_IN_WAV)
    assert message.startswith("<bytes>: damaged or unusual AAC in WAV file (libsndfile ")
    assert "; PyAV: " in message


def test_without_pyav_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)  # import raises ImportError
    for data in (make("ac3.wav"), make("mp3.avi"), make("alac.caf"), make("x.adx"), make("layer2.ts"), b"\1\2\3" * 999):
        assert 'pip install "fcntag[av]"' in error_of(data)
    assert "AC-3 in WAV" in error_of(make("ac3.wav"))
    assert "AVI" in error_of(make("mp3.avi"))
    assert "MPEG transport stream" in error_of(make("layer2.ts"))


@pytest.mark.parametrize(
    ("form", "words"),
    [(b"WEBP", "a WebP image"), (b"RMID", "MIDI"), (b"sfbk", "SoundFont"), (b"ACON", r"RIFF \(ACON\)")],
)
def test_riff_is_wav_only_with_wave_inside(form, words):
    message = error_of(riff(form, (b"data", bytes(100))))
    assert "WAV" not in message.split("known formats")[0]
    with pytest.raises(AudioError, match=words):
        open_track(riff(form, (b"data", bytes(100))))


@pytest.mark.parametrize(
    ("container", "video", "title"),
    [
        ("avi", "mpeg4", "AVI"),
        ("mp4", "mpeg4", "MP4"),
        ("matroska", "mpeg4", "Matroska or WebM"),
        ("mpegts", "mpeg2video", "MPEG transport stream"),
        ("mpeg", "mpeg2video", "MPEG program stream"),
        ("ogg", "vp8", "Ogg"),
        ("flv", "flv", "Flash video"),
        ("nut", "mpeg4", "NUT"),
    ],
)
def test_a_video_without_sound_says_so(container, video, title):
    message = error_of(av_file(SOUND, 44100, container, None, video=video))
    assert message == f"<bytes>: {title} file without an audio stream"


def test_appledouble_is_named():
    assert "AppleDouble" in error_of(b"\0\x05\x16\x07\0\2\0\0" + bytes(80))


def test_accidents_are_no_sound(rng):
    """Headerless samples and noise look like a stream of something to FFmpeg now and then."""
    sound = (notes(40_000) * 32767).astype("<i2").tobytes()
    pieces = [rng.bytes(int(size)) for size in rng.integers(1, 40_000, 20)]
    pieces += [sound[int(at) : int(at) + 30_000] for at in rng.integers(0, 100_000, 10)]
    pieces += [
        notes(9000).tobytes(),
        notes(9000, 1).tobytes(),
        bytes(5000),
        b"[00:01.00] la la\n" * 50 + bytes([0, 255]),
    ]
    for data in pieces:
        assert "not a recognised sound file" in error_of(data) or "looks like" in error_of(data)


def test_an_unusual_adx_header_is_not_given_to_ffmpeg(monkeypatch):
    """Whatever FFmpeg would make of it: here the coding type is one that exists and is not built."""
    header = bytes(make("x.adx"))[:16]
    assert streams.adx_header_is_usual(header)
    assert not streams.adx_header_is_usual(header[:15])
    monkeypatch.setattr(streams, "adx_header_is_usual", lambda head: False)
    assert error_of(bytes(make("x.adx"))) == "<bytes>: damaged or unusual CRI ADX file (its header)"


def test_a_file_opens_no_other_file(tmp_path):
    """A playlist that is no text at first sight must not lead FFmpeg to files of its author's choice."""
    (tmp_path / "secret.ts").write_bytes(make("layer2.ts"))
    playlist = f"#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n".encode()
    for data in (b"#EXTM3U\n#\xff\xfe\x80\n" + playlist, b"ffconcat version 1.0\n#\xff\xfe\x80\nfile " + playlist):
        assert "not a recognised sound file" in error_of(data)


def test_damage_of_kinds_that_libsndfile_knows_is_told_as_before():
    wav, caf = encode(SOUND, 44100, "wav"), io.BytesIO()
    soundfile.write(caf, SOUND, 44100, format="CAF", subtype="PCM_16")
    with open_track(wav[:40000]) as track:  # cut in its samples: nothing is refused
        assert track.warnings == ["the WAV file is cut off: 39956 of 120000 bytes of samples are there"]
        assert sum(map(len, track.blocks(44100))) == (40000 - 44) // 4
    assert "damaged or unusual WAV file (libsndfile" in error_of(wav[:20])
    assert "damaged or unusual CAF file (libsndfile" in error_of(caf.getvalue()[:30])
    assert "damaged or unusual AIFF file (libsndfile" in error_of(encode(SOUND, 44100, "aiff")[:12])
    ogg = encode(SOUND, 44100, "ogg")
    assert "damaged or unusual Ogg Vorbis file (libsndfile" in error_of(ogg[:200])


# ---- the table ----

# Rows whose files no encoder here can write, each with the demuxer and a decoder of FFmpeg that read them.
UNWRITTEN = {
    "speex": ("ogg", "speex"),
    "shorten": ("shn", "shorten"),
    "ape": ("ape", "ape"),
    "musepack": ("mpc8", "mpc8"),
    "tak": ("tak", "tak"),
    "dsf": ("dsf", "dsd_lsbf_planar"),
    "dsdiff": ("iff", "dsd_msbf"),
    "dts": ("dts", "dca"),
    "mlp": ("mlp", "mlp"),
    "truehd": ("truehd", "truehd"),
    "amr": ("amr", "amrnb"),
    "ra": ("rm", "real_144"),
    "sox": ("sox", "pcm_s32le"),
    "mxf": ("mxf", "pcm_s16le"),
    "mmf": ("mmf", "adpcm_yamaha"),
    "oma": ("oma", "atrac3"),
    "riff": ("qcp", "qcelp"),
    "iff": ("iff", "8svx_exp"),
}


def test_every_row_of_the_table_can_be_read():
    written = {key for _, _, key in CONTAINERS.values()}
    for row in FORMATS.values():
        if row.decoder == "av" and row.key not in written:
            demuxer, codec = UNWRITTEN[row.key]
            assert demuxer in av.formats_available
            assert codec in av.codecs_available
        assert row.decoder or not row.endings  # what nothing reads has no ending that a search would find
    assert set(UNWRITTEN) & written == set()
    assert set(_LIBSNDFILES_OWN) <= set(FORMATS)


def test_every_ending_leads_to_its_row(tmp_path):
    """The usual ending of each container that can be written here is in the table."""
    for name in CONTAINERS:
        assert "." + name.rsplit(".", 1)[1] in ENDINGS
    wanted = (
        "wav flac ogg opus mp3 mp2 aif aiff au caf w64 dsf dff tta mpc tak webm weba spx ac3 eac3 dts amr 3gp voc",
        "mkv ra mlp thd ts mpg m2ts nut adx ogv avi m4a m4b wma ape wv",
    )
    assert {f".{ending}" for line in wanted for ending in line.split()} <= ENDINGS
    assert ENDINGS.isdisjoint({".txt", ".jpg", ".png", ".cue", ".log", ".m3u", ".pdf", ".mid", ".json", ".csv", ".py"})


@pytest.mark.parametrize(
    ("head", "key"),
    [
        (b"\x7f\xfe\x80\x01\xfc\x3c\x7f\xf0", "dts"),
        (b"\xfe\x7f\x01\x80\x3c\xfc\xf0\x7f", "dts"),
        (b"\x1f\xff\xe8\x00\x07\xf1\0\0", "dts"),
        (b"\xff\x1f\x00\xe8\xf1\x07\0\0", "dts"),
        (b"\x80\x75\xff\xd8\xf8\x72\x6f\xbb", "mlp"),
        (b"\x80\x75\xff\xd8\xf8\x72\x6f\xba", "truehd"),
        (b"tBaK\0\0\0\0", "tak"),
        (b"MPCK\0\0\0\0", "musepack"),
        (b"MP+\x07\0\0\0\0", "musepack"),
        (b"MAC \x96\x0f\0\0", "ape"),
        (b"ajkg\x02\0\0\0", "shorten"),
        (b".ra\xfd\0\x04\0\0", "ra"),
        (b"#!AMR-WB\n", "amr"),
        (b"DSD \x1c\0\0\0", "dsf"),
        (b"FRM8\0\0\0\0", "dsdiff"),
        (b"MMMD\0\0\0\x09", "mmf"),
    ],
)
def test_signatures(head, key):
    assert sniff(open_source(head + bytes(64))).key == key
    assert FORMATS[key].decoder == "av"


@pytest.mark.parametrize("n_channels", [1, 2, 6])
def test_integers_of_64_bits(n_channels):
    values = np.random.default_rng(n_channels).integers(-(1 << 62), 1 << 62, (3000, n_channels))
    body = values.astype("<i8").tobytes()
    width = 8 * n_channels
    head = struct.pack("<HHIIHH", 1, n_channels, 8000, 8000 * width, width, 64)
    size = struct.pack("<I", len(body))
    data = b"RIFF" + struct.pack("<I", len(body) + 36) + b"WAVEfmt \x10\0\0\0" + head + b"data" + size + body
    expected = mono_of((values / 2.0**63).astype(np.float32))
    np.testing.assert_allclose(streamed(data, 8000), expected, atol=1e-7)  # the mix is rounded once more
