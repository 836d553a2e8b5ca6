"""How sources reach the pipeline: results that do not wait for the next source, and iterators that are left early."""

from __future__ import annotations

import contextvars
import gc
import itertools
import os
import queue
import sqlite3
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.cli_runner import records, run

from fcntag import Tagger, demo
from fcntag.cli import inputs
from fcntag.pipeline import decode


@pytest.fixture(scope="module")
def tagger():
    with Tagger(threads=1) as tagger:
        yield tagger


@pytest.fixture(scope="module")
def track(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("track") / "track.wav"
    soundfile.write(path, demo.synthesise(0)[: 44100 * 4], 44100)
    return path


def feeders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fcntag-feed"]


@pytest.mark.parametrize("method", ["tag_many", "embed_many"])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_source_may_wait_for_the_result_before_it(method, workers, tagger, track):
    answers: queue.Queue[str | None] = queue.Queue()
    answers.put("begin")

    def sources():
        while (answer := answers.get(timeout=60)) != "enough":
            assert answer in ("begin", str(track))
            yield track

    results = getattr(tagger, method)(sources(), workers=workers)
    for count, result in zip(range(1, 6), results, strict=False):
        assert result.error is None
        answers.put(result.path if count < 5 else "enough")
    assert list(results) == []


def test_a_window_of_the_last_track_does_not_wait_for_a_full_batch(track):
    """Also where the track is in the batch with others, and where it failed."""
    answers: queue.Queue[int] = queue.Queue()
    groups = [[track, track, "none.wav"], ["none.wav"], [track] * 5]

    def sources():
        for group in groups:
            yield from group
            for _ in group:
                answers.get(timeout=60)

    with Tagger(threads=1, max_batch=64) as tagger:
        errors = []
        for result in tagger.tag_many(sources(), workers=2):
            errors.append(result.error is not None)
            answers.put(1)
    assert errors == [False, False, True, True] + [False] * 5


def test_order_is_kept_while_sources_come_slowly(tagger, track, rng):
    pauses = threading.Event()
    names = [track if rng.random() < 0.5 else f"missing-{i}" for i in range(40)]

    def sources():
        for name in names:
            pauses.wait(float(rng.random()) * 0.01)
            yield name

    assert [result.path for result in tagger.tag_many(sources(), workers=3)] == [str(name) for name in names]


def test_read_ahead_is_bounded_while_nobody_takes_results(track):
    taken = 0

    def sources():
        nonlocal taken
        while True:
            taken += 1
            yield track

    with Tagger(max_batch=4, threads=1) as tagger:
        results = tagger.tag_many(sources(), workers=2)
        next(results)
        before = -1
        while taken != before:  # until the feed has run as far as it may
            before = taken
            threading.Event().wait(0.1)
        assert taken <= 1 + (2 + 4) + 4 + 1
        results.close()


@pytest.mark.parametrize("leave", ["close", "del", "break"])
def test_an_iterator_that_blocks_for_ever_does_not_hold_up_the_end(leave, tagger, track):
    never = threading.Event()
    before = len(feeders())

    def sources():
        yield track
        never.wait()

    results = tagger.tag_many(sources())
    next(results)
    if leave == "close":
        results.close()
    elif leave == "del":
        results = None
    else:
        for _ in tagger.tag_many(itertools.chain([track], sources())):
            break
    never.set()  # the thread ends with the call that it waits for
    results = None  # "break" has left this run as it was
    for thread in feeders():
        thread.join(60)
    assert len(feeders()) == before


def test_a_generator_that_is_left_is_closed_in_its_own_thread(tagger, track):
    threads = []

    def sources():
        try:
            threads.append(threading.current_thread())
            while True:
                yield track
        finally:
            threads.append(threading.current_thread())

    results = tagger.tag_many(sources())
    next(results)
    results.close()
    assert len(threads) == 2
    assert threads[0] is threads[1]
    assert threads[0].name == "fcntag-feed"


def test_a_generator_that_the_caller_keeps_goes_on(tagger, track):
    sources = (track for _ in itertools.count())
    results = tagger.tag_many(sources)
    next(results)
    results.close()
    assert next(sources) == track


def test_a_list_needs_no_thread_of_its_own(tagger, track):
    for sources in ([track] * 3, (track,) * 3, {track: 1}, {track}):
        results = tagger.tag_many(sources)
        next(results)
        assert not feeders()
        results.close()


@pytest.mark.parametrize("error", [OSError("gone"), KeyboardInterrupt("stop"), SystemExit(3)])
def test_whatever_the_iterator_raises_reaches_the_consumer_in_order(error, tagger, track):
    def sources():
        yield from [track] * 3
        raise error

    results = tagger.tag_many(sources(), workers=2)
    assert [next(results).error for _ in range(3)] == [None] * 3
    with pytest.raises(type(error)) as raised:
        next(results)
    assert raised.value is error


def test_a_source_without_a_name_is_an_error_in_its_place(tagger, track):
    class Odd:
        def __fspath__(self):
            raise RuntimeError("no name")

    os.PathLike.register(Odd)
    for sources in ([track, Odd()], iter([track, Odd()])):
        results = tagger.tag_many(sources)
        assert next(results).error is None
        with pytest.raises(RuntimeError, match="no name"):
            next(results)


def test_the_iterator_runs_in_the_context_of_the_caller(tagger, track):
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")
    name.set("ours")
    seen = []

    def sources():
        seen.append(name.get())
        name.set("theirs")
        yield track

    assert len(list(tagger.tag_many(sources()))) == 1
    assert seen == ["ours"]
    assert name.get() == "ours"


def test_rows_of_a_database_are_sources_where_its_connection_allows_threads(tagger, track):
    """An sqlite3 connection belongs to its thread unless it is told otherwise; its error says so."""
    for check in (True, False):
        connection = sqlite3.connect(":memory:", check_same_thread=check)
        connection.execute("create table tracks (path text)")
        connection.executemany("insert into tracks values (?)", [(str(track),)] * 3)
        rows = connection.execute("select path from tracks")
        results = tagger.tag_many(path for (path,) in rows)
        if check:
            with pytest.raises(sqlite3.ProgrammingError, match="thread"):
                next(results)
        else:
            assert [result.error for result in results] == [None] * 3
        connection.close()


def test_a_pool_that_its_own_worker_collects_is_closed(tagger, track, monkeypatch):
    """Garbage is collected in whatever thread runs: here, in the one that feeds the results that are garbage."""
    collected = threading.Event()

    def sources():
        yield track
        while not collected.is_set():
            gc.collect()
            yield track

    holder = [tagger.tag_many(sources())]
    next(holder[0])
    (pool,) = decode._open_pools
    monkeypatch.setattr(pool, "stop", lambda stop=pool.stop: (stop(), collected.set()))
    holder.append(holder)
    del holder
    assert collected.wait(60)
    for thread in feeders():
        thread.join(60)
    assert not feeders()


def test_a_thread_that_cannot_start_is_an_error_and_no_hang(tagger, track, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for sources in ([track], iter([track])):
        with pytest.raises(RuntimeError, match="can't start new thread"):
            list(tagger.tag_many(sources))


def test_fewer_workers_than_asked_for_still_tag(tagger, track, monkeypatch):
    started = []
    start = threading.Thread.start

    def start_one(thread):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    assert [result.error for result in tagger.tag_many([track] * 5, workers=4)] == [None] * 5


@pytest.mark.parametrize("command", ["tag", "taggram"])
def test_the_command_line_writes_a_result_when_it_is_there(command, tmp_path, track, monkeypatch, capsys):
    """A folder whose second file is found only after the first one's line can be read."""
    out = tmp_path / "out.jsonl"

    def sound_files(folder, fail, passed):
        yield str(track)
        deadline = time.monotonic() + 60
        while not (out.exists() and out.read_text().count("\n") == 1) and time.monotonic() < deadline:
            time.sleep(0.01)
        yield str(track) if out.read_text() else "too late"

    monkeypatch.setattr(inputs, "sound_files", sound_files)
    code, _, errors = run(capsys, command, "-r", track.parent, "-f", "jsonl", "-o", out, "-q", "-n", "3")
    assert (code, errors) == (0, "")
    assert [record["path"] for record in records(out.read_text())] == [str(track)] * 2


def test_scores_of_a_slow_feed_are_those_of_a_list(tagger, track):
    expected = [result.segments for result in tagger.tag_many([track] * 6)]
    slow = (threading.Event().wait(0.01) or track for _ in range(6))
    for result, segments in zip(tagger.tag_many(slow), expected, strict=True):
        np.testing.assert_array_equal(result.segments, segments)
