"""Tagger on a real model, one track at a time: every kind of source, windows, features, errors, life."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.tracks import GOOD, RATE, write_tracks

from fcntag import AudioError, FcntagError, ModelError, Tagger

CLOSED = r"^Tagger\('mtt-vgg', device='cpu', precision='float32'\) is closed$"


@pytest.fixture(scope="module")
def tagger():
    with Tagger("mtt-vgg") as tagger:
        yield tagger


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tracks")
    write_tracks(folder)
    return folder


# ---- one track ----


def test_tag(tagger, folder):
    result = tagger.tag(folder / "a-piece.flac")
    assert result.path == str(folder / "a-piece.flac")
    assert result.error is None
    assert result.tags == tagger.tags == tagger.model.document.tags
    assert result.duration_s == pytest.approx(19.944, abs=1e-3)
    n_segments = len(result.start_s)
    assert n_segments == 6
    assert result.segments.shape == (n_segments, 50)
    assert result.scores.shape == (50,)
    assert result.scores.dtype == result.segments.dtype == np.float32
    np.testing.assert_array_equal(result.scores, result.segments.astype(np.float64).mean(axis=0).astype(np.float32))
    assert result.start_s[0] == 0.0
    assert result.end_s[-1] <= result.duration_s
    assert (result.model.name, result.engine.device, result.engine.precision) == ("mtt-vgg", "cpu", "float32")
    assert result.model.sha256 == tagger.model.sha256
    assert result.top(1)[0][0] == "guitar"  # it is a plucked string, loudly


def test_all_kinds_of_source_agree(tagger, folder):
    path = folder / "h-48k.wav"
    expected = tagger.tag(path).segments
    samples, rate = soundfile.read(path, dtype="int16")
    for source, rate_of in [
        (str(path), None),
        (path.read_bytes(), None),
        (io.BytesIO(path.read_bytes()), None),
        (samples, rate),
        (samples.astype(np.float32) / 32768, rate),
        (np.stack([samples, samples], axis=1), rate),
    ]:
        np.testing.assert_array_equal(tagger.tag(source, sample_rate=rate_of).segments, expected)
    with open(path, "rb") as file:
        result = tagger.tag(file)
    np.testing.assert_array_equal(result.segments, expected)
    assert result.path == str(path)
    assert tagger.tag(path.read_bytes()).path == "<bytes>"
    assert tagger.tag(samples, sample_rate=rate).path == "<array>"


def test_tag_is_scores_of_its_windows(tagger, folder):
    samples, _ = soundfile.read(folder / "i-16k.flac", dtype="float32")
    segments = tagger.model.document.segments
    result = tagger.tag(folder / "i-16k.flac")
    padded = np.concatenate([np.zeros(segments.lead, np.float32), samples, np.zeros(segments.trail, np.float32)])
    waves = np.stack([padded[k * segments.hop_samples :][: segments.n_samples] for k in range(len(result.segments))])
    assert len(waves) == 1 + (len(padded) - segments.n_samples) // segments.hop_samples
    np.testing.assert_array_equal(tagger.scores(waves), result.segments)


def test_short_track_is_repeated_with_a_warning(tagger, folder):
    result = tagger.tag(folder / "d-short.wav")
    assert len(result.warnings) == 1
    assert "is shorter than the model's window of 2.976 s: repeated" in result.warnings[0]
    assert (result.start_s, result.end_s) == ([0.0], [0.5])
    samples, _ = soundfile.read(folder / "d-short.wav", dtype="float32")
    segments = tagger.model.document.segments
    wave = np.tile(samples, 7)[: segments.n_samples - segments.lead]
    wave = np.concatenate([np.zeros(segments.lead, np.float32), wave])
    np.testing.assert_array_equal(tagger.scores(wave[None]), result.segments)


def test_hop_and_segments(tagger, folder):
    path = folder / "a-piece.flac"
    default = tagger.tag(path)
    assert len(tagger.tag(path, hop=1.0).start_s) == 1 + (19.944 * RATE + 512 - 48128) // (62 * 256)
    center = tagger.tag(path, segments="center")
    assert len(center.start_s) == 1
    assert center.start_s[0] == pytest.approx((default.duration_s - 48128 / RATE) / 2, abs=1e-3)
    np.testing.assert_array_equal(tagger.tag(path, segments="first").segments[0], default.segments[0])
    np.testing.assert_array_equal(tagger.tag(path, segments="all").segments, default.segments)
    with pytest.raises(ValueError, match="hop"):
        tagger.tag(path, hop=0)
    with pytest.raises(ValueError, match="allowed: default, center, first, all"):
        tagger.tag(path, segments="last")


@pytest.mark.parametrize(
    ("name", "message"),
    [("c-text.mp3", "c-text.mp3: "), ("f-empty.wav", "no audio samples"), ("z-missing.wav", "no such file")],
)
def test_bad_file_is_one_line_that_starts_with_its_name(tagger, folder, name, message):
    with pytest.raises(AudioError, match=message) as caught:
        tagger.tag(folder / name)
    assert str(caught.value).startswith(f"{folder / name}: ")
    assert str(caught.value).count(str(folder / name)) == 1
    assert "\n" not in str(caught.value)


def test_array_needs_a_rate_and_a_file_must_not_have_one(tagger, folder):
    with pytest.raises(AudioError, match="sample_rate"):
        tagger.tag(np.zeros(RATE, np.float32))
    with pytest.raises(AudioError, match="sample_rate"):
        tagger.tag(folder / "h-48k.wav", sample_rate=48000)
    path = str(folder / "h-48k.wav")
    for source, name in [(path, path), (folder / "h-48k.wav", path), (b"x", "<bytes>"), (io.BytesIO(b"x"), "<stream>")]:
        with pytest.raises(AudioError) as caught:
            tagger.tag(source, sample_rate=44100)
        assert str(caught.value) == f"{name}: sample_rate= is only for arrays; a file brings its own"


@pytest.mark.parametrize("sample_rate", [None, 44100])
@pytest.mark.parametrize(
    ("source", "start"),
    [
        ([0.1, 0.2], "<list>: got a list; "),
        (None, "<NoneType>: got None; "),
        (3, "<int>: got an int; "),
        ((1, 2), "<tuple>: got a tuple; "),
    ],
)
def test_source_of_a_wrong_type_is_called_by_it(tagger, source, start, sample_rate):
    with pytest.raises(AudioError) as caught:
        tagger.tag(source, sample_rate=sample_rate)
    assert str(caught.value) == start + "a source is a path, bytes, a binary file object or a NumPy array"


# ---- scores, features, life ----


def test_scores_checks_its_input(tagger):
    n_samples = tagger.model.document.segments.n_samples
    assert tagger.scores(np.zeros((0, n_samples), np.float32)).shape == (0, 50)
    with pytest.raises(ValueError, match=r"float64 \[1, 48128\]; expected float32 \[B, n_samples\]"):
        tagger.scores(np.zeros((1, n_samples)))
    with pytest.raises(ValueError, match=r"expected float32 \[B, n_samples\]"):
        tagger.scores(np.zeros(n_samples, np.float32))
    with pytest.raises(ValueError, match="n_samples=100; mtt-vgg takes 48128"):
        tagger.scores(np.zeros((1, 100), np.float32))
    waves = np.zeros((2, n_samples), np.float32)
    waves[1, 5] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        tagger.scores(waves)


def test_embed(tagger, folder):
    path = folder / "a-piece.flac"
    head = tagger.embed(path)
    assert head.which == "head"
    assert head.segments.shape == (6, tagger.model.document.head.in_features)
    np.testing.assert_array_equal(head.mean, head.segments.astype(np.float64).mean(axis=0).astype(np.float32))
    # the dense layer on the features must give the scores
    weight, bias = tagger.model.tensors["head.weight"], tagger.model.tensors["head.bias"]
    logits = head.segments.astype(np.float64) @ weight.T.astype(np.float64) + bias
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), tagger.tag(path).segments, atol=1e-6)
    blocks = tagger.embed(path, "blocks")
    assert blocks.mean.shape == (5 * 128,)
    with pytest.raises(ValueError, match="'tail' is not one of head, blocks, auto"):
        tagger.embed(path, "tail")
    many = list(tagger.embed_many([path, folder / "c-text.mp3"], "blocks"))
    np.testing.assert_array_equal(many[0].segments, blocks.segments)
    assert many[1].mean is None
    assert "c-text.mp3" in many[1].error


def test_life(folder):
    tagger = Tagger("mtt-vgg", device="cpu", max_batch=4, threads=1)
    assert (tagger.device, tagger.precision, tagger.threads, tagger.sample_rate) == ("cpu", "float32", 1, RATE)
    assert tagger.memory_bytes > 4 * 600_000
    assert repr(tagger) == "Tagger('mtt-vgg', device='cpu', precision='float32')"
    tagger.warmup()
    tagger.close()
    tagger.close()
    for call in (
        lambda: tagger.tag(folder / "d-short.wav"),
        lambda: tagger.tag_many([]),
        lambda: tagger.warmup(),
        lambda: tagger.scores(None),
        lambda: tagger.embed(folder / "d-short.wav"),
        lambda: tagger.embed_many([]),
        lambda: tagger.memory_bytes,
        lambda: tagger.__enter__(),
    ):
        with pytest.raises(FcntagError, match=CLOSED):
            call()


def test_closing_under_a_run_is_the_same_error(folder, monkeypatch):
    for start in (
        lambda tagger: tagger.tag_many([folder / "a-piece.flac"] * 3),
        lambda tagger: tagger.embed_many([folder / "a-piece.flac"] * 3, "blocks"),
    ):
        tagger = Tagger("mtt-vgg", device="cpu", max_batch=1, threads=1)
        results = start(tagger)
        next(results)
        tagger.close()
        with pytest.raises(FcntagError, match=CLOSED):
            list(results)
    # closed by another thread between the check and the engine's own
    tagger = Tagger("mtt-vgg", device="cpu", threads=1)
    scores = tagger._engine.scores
    monkeypatch.setattr(tagger._engine, "scores", lambda waves: (tagger.close(), scores(waves))[1])
    with pytest.raises(FcntagError, match=CLOSED):
        tagger.tag(folder / "d-short.wav")


def test_construction_errors():
    with pytest.raises(ModelError, match="no-such-model"):
        Tagger("no-such-model")
    for arguments in ({"max_batch": 0}, {"threads": -1}, {"max_batch": 1.5}, {"max_batch": True}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            Tagger("mtt-vgg", **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": None}, "^model: got an object of type NoneType; it must be a name, a path or a loaded Model$"),
        ({"model": 3}, "^model: got an object of type int; it must be"),
        ({"model": b"x"}, "^model: got an object of type bytes; it must be"),
        ({"device": None}, "^device: None is of type NoneType; it must be a str$"),
        ({"precision": 32}, "^precision: 32 is of type int; it must be a str$"),
    ],
)
def test_arguments_of_a_wrong_type(arguments, message):
    with pytest.raises(TypeError, match=message):
        Tagger(**arguments)


def test_numbers_of_numpy_are_numbers(folder):
    with Tagger("mtt-vgg", device="cpu", max_batch=np.int64(4), threads=np.int32(1)) as tagger:
        (result,) = tagger.tag_many([folder / "a-piece.flac"], workers=np.int64(1), hop=np.float32(1))
        assert len(result.start_s) == len(tagger.tag(folder / "a-piece.flac", hop=1.0).start_s)


def test_auto_device_is_logged_once_with_its_reason(caplog):
    with caplog.at_level("INFO", logger="fcntag"), Tagger(device="auto"):
        pass
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("device auto: cpu (")
    caplog.clear()
    with caplog.at_level("INFO", logger="fcntag"), Tagger(device="cpu"):
        pass
    assert not caplog.records


def test_threads_of_the_caller_agree(tagger, folder):
    paths = [folder / name for name in GOOD]
    expected = [tagger.tag(path).segments for path in paths]
    results: list = [None] * 4

    def work(k: int) -> None:
        results[k] = [tagger.tag(path).segments for path in paths]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found in results:
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
