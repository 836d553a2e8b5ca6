"""tag_many and the pipeline below it: bit-equality with tag, order, laziness, bounded memory, ends that come early."""

from __future__ import annotations

import io
import os
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.tracks import GOOD, RATE, all_tracks, write_tracks

from fcntag import AudioError, Tagger, catalogue, pipeline
from fcntag.pipeline import decode
from fcntag.pipeline.segments import SegmentPlan
from fcntag.pull import pull


@pytest.fixture(scope="module")
def tagger():
    with Tagger("mtt-vgg") as tagger:
        yield tagger


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tracks")
    write_tracks(folder)
    return folder


def check_many(tagger: Tagger, paths: list[Path], expected: dict[str, np.ndarray], **options) -> None:
    results = list(tagger.tag_many(paths, **options))
    assert [result.path for result in results] == [str(path) for path in paths]
    for result in results:
        if result.error is None:
            np.testing.assert_array_equal(result.segments, expected[result.path])
        else:
            assert result.scores is None
    assert {result.path for result in results if result.error is None} == expected.keys()


@pytest.mark.parametrize("name", ["mtt-vgg", "msd-vgg"])
def test_tag_many_is_bit_equal_to_tag(name, folder):
    with Tagger(name, max_batch=5, threads=1) as one:
        expected = {str(folder / good): one.tag(folder / good).segments for good in GOOD}
    for max_batch, threads, workers in [(1, 1, 1), (3, 2, 2), (64, 3, 4), (64, 1, 1)]:
        with Tagger(name, max_batch=max_batch, threads=threads) as many:
            check_many(many, all_tracks(folder), expected, workers=workers)


@pytest.mark.parametrize("name", ["mtt-vgg", "choi2017-compact"])
def test_tag_many_over_music_is_bit_equal_to_tag(name, shared, home):
    if not catalogue.entry(name).embedded:
        pull(name, shared / "weights/choi2017/C_weights_theano.hdf5")
    paths = sorted(path for path in (shared / "music").iterdir() if path.suffix != ".md")
    assert len(paths) == 12
    with Tagger(name, threads=1) as one:
        expected = {str(path): one.tag(path).segments for path in paths}
    for max_batch, threads in [(1, 2), (3, 1), (64, 3)]:
        with Tagger(name, max_batch=max_batch, threads=threads) as many:
            check_many(many, paths, expected)


def test_batches_hold_windows_of_several_tracks(tagger, folder, monkeypatch):
    sizes = []
    scores = tagger._engine.scores
    # An engine slower than the decoders, so that windows wait for it
    monkeypatch.setattr(
        tagger._engine, "scores", lambda waves: (sizes.append(len(waves)), time.sleep(0.2), scores(waves))[2]
    )
    list(tagger.tag_many([folder / "e-16k.wav"] * 20))
    assert sum(sizes) == 20  # one window a track
    assert max(sizes) > 1


def test_on_error_raise(tagger, folder):
    results = tagger.tag_many([folder / "d-short.wav", folder / "c-text.mp3"], on_error="raise")
    assert next(results).error is None
    with pytest.raises(AudioError, match=r"c-text\.mp3"):
        next(results)


def test_options_are_checked_at_once(tagger, folder):
    for options, word in [
        ({"hop": -1}, "hop"),
        ({"segments": "x"}, "segments"),
        ({"workers": 0}, "workers"),
        ({"on_error": "ignore"}, "on_error"),
    ]:
        with pytest.raises(ValueError, match=word):
            tagger.tag_many([folder / "d-short.wav"], **options)
    path = folder / "d-short.wav"
    with open(path, "rb") as file:
        for source in (str(path), path, b"x", bytearray(b"x"), memoryview(b"x"), file, io.BytesIO(b"x")):
            with pytest.raises(TypeError, match="one source"):
                tagger.tag_many(source)


def test_nothing_in_nothing_out(tagger):
    assert list(tagger.tag_many([])) == []


def test_lazy_and_bounded_lookahead(folder):
    taken = 0

    def sources():
        nonlocal taken
        while True:
            taken += 1
            yield folder / "d-short.wav"

    with Tagger(max_batch=4) as tagger:
        results = tagger.tag_many(sources(), workers=2)
        assert taken == 0
        for _ in range(30):
            next(results)
        # those read ahead, those in the batch, and the one pulled last
        assert taken <= 30 + (2 + 4) + 4 + 1
        results.close()


def test_arrays_are_read_less_far_ahead(tagger):
    taken = 0

    def sources():
        nonlocal taken
        while True:
            taken += 1
            yield np.full(8000, 0.1, np.float32)

    results = tagger.tag_many(sources(), sample_rate=RATE, workers=1)
    next(results)
    assert taken <= 2 + 64 + 1  # two ahead, and what the batch may have held
    results.close()


def test_abandoned_run_stops_its_threads(tagger, folder):
    before = threading.active_count()
    results = tagger.tag_many([folder / "a-piece.flac"] * 50, workers=3)
    next(results)
    results.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_error_of_the_source_iterator_rises(tagger, folder):
    def sources():
        yield folder / "d-short.wav"
        raise RuntimeError("the list ended badly")

    results = tagger.tag_many(sources())
    assert next(results).error is None  # what was given before is delivered first
    with pytest.raises(RuntimeError, match="the list ended badly"):
        next(results)


@pytest.mark.parametrize("max_batch", [1, 3, 64])
def test_no_result_is_lost_when_the_source_iterator_fails(folder, max_batch):
    def sources():
        yield from [folder / "a-piece.flac", folder / "c-text.mp3", folder / "d-short.wav"] * 5
        raise OSError("the disk has gone")

    with Tagger(max_batch=max_batch) as tagger:
        results = tagger.tag_many(sources(), workers=2)
        assert [next(results).error is None for _ in range(15)] == [True, False, True] * 5
        with pytest.raises(OSError, match="the disk has gone"):
            next(results)


def test_decode_threads_keep_to_the_quota(monkeypatch):
    for available, expected in [(1, 1), (3, 3), (64, 4)]:
        monkeypatch.setattr("fcntag._C.available_threads", lambda available=available: available)
        assert pipeline.default_workers() == expected


def test_unusable_sources_are_records(tagger, folder):
    results = list(tagger.tag_many([None, 3.5, b"", folder, "bad\0name.wav", folder / "d-short.wav"]))
    assert [result.error is None for result in results] == [False] * 5 + [True]
    for result in results[:5]:
        assert "\n" not in result.error


# ---- inside the pipeline ----


class Track:
    """A track whose header promises ``promised`` samples, and that proves to have ``true`` after the first pass."""

    def __init__(self, name: str, promised: int, true: list[int]) -> None:
        self.name, self.sample_rate, self.warnings = name, RATE, []
        self._length, self._true = promised, true

    @property
    def duration_s(self) -> float:
        return self._length / RATE

    def length(self, rate: int) -> int:
        return self._length

    def windows(self, rate, starts, n_samples):
        if self._true:
            self._length = self._true.pop(0)
        for start in starts:
            yield np.full(n_samples, start, np.float32)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def run(track, monkeypatch, hop: int = 100, max_batch: int = 7):
    import fcntag.audio

    monkeypatch.setattr(fcntag.audio, "open_track", lambda source, **_: track)
    return list(
        pipeline.run_pipeline(
            ["x.wav"],
            lambda waves: waves[:, :2] * 1,
            plan=lambda n: SegmentPlan(list(range(0, n, hop)), 50, n, RATE, None, ()),
            rate=RATE,
            sample_rate=lambda _: None,
            max_batch=max_batch,
            workers=1,
        )
    )


@pytest.mark.parametrize("true", [1500, 3000])
def test_lying_header_is_planned_again(true, monkeypatch):
    (outcome,) = run(Track("x.wav", 2000, [true]), monkeypatch)
    assert isinstance(outcome, pipeline.Done)
    np.testing.assert_array_equal(outcome.values[:, 0], np.arange(0, true, 100))
    assert outcome.duration_s == true / RATE


def test_length_that_never_settles_is_an_error(monkeypatch):
    (outcome,) = run(Track("x.wav", 2000, [1500, 1600, 1700, 1800]), monkeypatch)
    assert str(outcome.error).startswith("x.wav: its length changes each time it is decoded")


def test_scores_that_are_not_finite_are_an_error(monkeypatch):
    track = Track("x.wav", 100, [])
    track.windows = lambda rate, starts, n: iter([np.full(n, np.nan, np.float32)])
    (outcome,) = run(track, monkeypatch)
    assert str(outcome.error).startswith("x.wav: the scores are not finite")
    assert isinstance(outcome, pipeline.Failed)


def test_decoder_crash_is_named(monkeypatch):
    track = Track("x.wav", 100, [])

    def windows(rate, starts, n):
        raise MemoryError("no room\nfor this")

    track.windows = windows
    (outcome,) = run(track, monkeypatch)
    assert str(outcome.error) == "x.wav: MemoryError: no room for this"


def test_long_track_in_bounded_memory(tmp_path):
    # 90 minutes at 16 kHz are 346 MB of float32 samples
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(90 * 60 * 8000, np.uint8).astype(np.int16), 8000, subtype="PCM_U8")
    held = 0

    def plan(n_total: int) -> SegmentPlan:
        return SegmentPlan(list(range(0, n_total - 48000 + 1, 48000)), 48000, n_total, RATE, None, ())

    def slow(waves: np.ndarray) -> np.ndarray:
        time.sleep(0.002 * len(waves))  # slower than the decoder, so that windows pile up as far as they may
        return waves[:, :1] * 1

    tracemalloc.start()
    try:
        (outcome,) = pipeline.run_pipeline(
            [path], slow, plan=plan, rate=RATE, sample_rate=lambda _: None, max_batch=64, workers=2
        )
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(outcome, pipeline.Done)
    assert len(outcome.values) == 1800
    assert held < decode.DECODED_BYTES + 64 * 48000 * 4 + (32 << 20)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc/self/statm")
def test_memory_does_not_grow_with_the_number_of_tracks(tagger, folder):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    paths = [folder / name for name in ("d-short.wav", "c-text.mp3", "e-16k.wav", "h-48k.wav")]
    sizes = [resident() for result in tagger.tag_many(paths * 100)]
    assert len(sizes) == 400
    # Growth from the second quarter on: a leak of one window (190 kB) a track would be 38 MB
    assert max(sizes[200:]) - max(sizes[:200]) < 16 << 20


@pytest.mark.parametrize("budget", [1, 5000, 1 << 20])
@pytest.mark.parametrize(("workers", "max_batch"), [(1, 1), (2, 3), (6, 4), (3, 64)])
def test_no_budget_and_no_pool_can_block(workers, max_batch, budget, monkeypatch, rng):
    """Hundreds of tracks of 0 to 40 windows, two window lengths, errors and wrong lengths, whatever may wait."""
    import fcntag.audio

    class Random(Track):
        def windows(self, rate, starts, n_samples):
            for window in super().windows(rate, starts, n_samples):
                if self.name.startswith("bad") and window[0] > 500:
                    raise AudioError(f"{self.name}: damaged")
                yield window

    def open_track(source, **_):
        kind, n_total, true = source.split(":")
        return Random(f"{kind}:{n_total}:{true}", int(n_total), [int(true)] if true else [])

    def plan(n_total: int) -> SegmentPlan:
        starts = list(range(0, n_total, 100))
        return SegmentPlan(starts, 50 + 10 * (len(starts) % 2), n_total, RATE, None, ())

    monkeypatch.setattr(fcntag.audio, "open_track", open_track)
    monkeypatch.setattr(decode, "DECODED_BYTES", budget)
    sources = []
    for _ in range(300):
        true = f"{rng.integers(1, 4000)}" if rng.random() < 0.2 else ""
        sources.append(f"{rng.choice(['good', 'bad'])}:{rng.integers(1, 4000)}:{true}")
    outcomes = list(
        pipeline.run_pipeline(
            iter(sources),
            lambda waves: waves[:, :1] * 1,
            plan=plan,
            rate=RATE,
            sample_rate=lambda _: None,
            max_batch=max_batch,
            workers=workers,
        )
    )
    assert [outcome.path for outcome in outcomes] == sources
    for source, outcome in zip(sources, outcomes, strict=True):
        kind, n_total, true = source.split(":")
        n_true = int(true or n_total)
        longest = n_true if kind == "good" else max(n_true, int(n_total))
        if kind == "bad" and longest > 601:
            assert "damaged" in str(outcome.error)
        else:
            assert isinstance(outcome, pipeline.Done)
            np.testing.assert_array_equal(outcome.values[:, 0], np.arange(0, n_true, 100))
