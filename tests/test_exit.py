"""The end of a program that still tags: its exit code, and nothing on stderr.

Each case is a program of its own. What it tests is a race; the cases are the ones that failed nearly every time.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.cli_runner import environment, interrupts
from support.programs import FOREVER

from fcntag import demo, process
from fcntag.audio import readers
from fcntag.audio.source import Source, Stream

# Threads that never stop, and a main thread that ends while they are at work.
CASES = {
    "daemon in scores": "waves = np.zeros((16, 48128), np.float32); forever(lambda: tagger.scores(waves))",
    "daemon in tag": "forever(lambda: tagger.tag(track))",
    "daemon in tag, another in scores": """
waves = np.zeros((1, 48128), np.float32)
forever(lambda: tagger.tag(track))
forever(lambda: tagger.scores(waves))
""",
    "daemon in tag_many": "results = tagger.tag_many(itertools.repeat(track)); forever(lambda: next(results))",
    "daemon in embed_many": "results = tagger.embed_many(itertools.repeat(track)); forever(lambda: next(results))",
    "daemon in dense tagging": "forever(lambda: tagger.tag(track, segments='dense'))",
    "daemons that begin again": """
def work():
    with contextlib.suppress(Exception):
        for _ in tagger.tag_many([track] * 2): pass
forever(work)
forever(work)
""",
    "daemon in the construction of a Tagger": "forever(lambda: fcntag.Tagger(threads=2).close())",
    "live results of a list": "results = tagger.tag_many([track] * 100); next(results)",
    "live results of a generator": "results = tagger.tag_many(itertools.repeat(track)); next(results)",
    "live results in a cycle": """
results = [tagger.tag_many([track] * 100)]
next(results[0])
results.append(results)
del results
""",
    "live results of a generator that blocks": """
def sources():
    yield track
    threading.Event().wait()
results = tagger.tag_many(sources()); next(results)
""",
    "live results of a generator that reads stdin.buffer": """
def sources():
    yield track
    yield sys.stdin.buffer.readline().decode()
results = tagger.tag_many(sources()); next(results); time.sleep(0.2)
""",
    "a source that blocks in the middle of resampling": """
read_end, write_end = os.pipe()
pipe = os.fdopen(read_end, "rb", 0)
os.write(write_end, open(track, "rb").read()[:60000])
threading.Thread(target=lambda: tagger.tag(pipe), daemon=True).start(); time.sleep(0.3)
""",
    "results in a destructor": """
class Owner:
    def __init__(self): self.tagger, self.results = tagger, tagger.tag_many(itertools.repeat(track)); next(self.results)
    def __del__(self): self.results.close(); self.tagger.close()
owner = Owner()
waves = np.zeros((16, 48128), np.float32)
forever(lambda: tagger.scores(waves))
""",
    "tagging in a function of atexit": """
results = tagger.tag_many([track] * 100); next(results)
forever(lambda: tagger.tag(track))
""",
    "an exit in the middle of a loop": """
for result in tagger.tag_many(itertools.repeat(track)):
    sys.exit(0)
""",
    "os._exit": "results = tagger.tag_many(itertools.repeat(track)); next(results); os._exit(0)",
}
# Functions that are registered before fcntag's own run after them, when its threads have stopped.
HEAD = """
import atexit, contextlib, itertools, os, sys, threading, time
track = sys.argv[1]
def last():
    if "atexit" in sys.argv[2]:
        assert tagger.tag(track).error is None
        assert [r.error for r in tagger.tag_many(iter([track] * 2))] == [None] * 2
        try: next(results)
        except fcntag.FcntagError as error: assert "program has ended" in str(error), error
        else: raise AssertionError("results went on")
atexit.register(last)
import numpy as np
import fcntag
tagger = fcntag.Tagger(threads=2)
"""


@pytest.fixture(scope="module")
def track(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("track") / "track.flac"
    soundfile.write(path, np.tile(demo.synthesise(0), (3, 1)), 44100)
    return path


def end(code: str, track: Path, name: str = "", **options) -> tuple[int, bytes]:
    """Exit code and stderr of a program that has an open pipe as its stdin."""
    arguments = [sys.executable, "-c", HEAD + FOREVER + code, track, name]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), **options
    ) as program:
        try:
            errors = program.stderr.read()
            return program.wait(timeout=120), errors
        finally:
            program.kill()


@pytest.mark.parametrize("name", CASES)
def test_a_program_ends_well_while_fcntag_is_at_work(name, track):
    for _ in range(int(os.environ.get("FCNTAG_TEST_REPEATS", "1"))):
        assert end(CASES[name], track, name) == (0, b"")


def test_threads_that_are_no_daemons_go_on_after_the_main_thread(track):
    code = """
def work():
    threading.main_thread().join()
    for result in tagger.tag_many(iter([track] * 2)): assert result.error is None
    print("done", file=sys.stderr)
threading.Thread(target=work).start()
"""
    assert end(code, track) == (0, b"done\n")


@pytest.mark.parametrize("sources", ["[track] * 1000", "itertools.repeat(track)", "blocked()"])
def test_an_interrupt_ends_a_program_with_a_keyboard_interrupt(sources, track):
    code = f"""
import signal
def blocked():
    yield track
    threading.Event().wait()
threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
try:
    for result in tagger.tag_many({sources}): pass
except KeyboardInterrupt:
    sys.exit(7)
"""
    with interrupts(signal.default_int_handler):
        assert end(code, track) == (7, b"")


# ---- the gate ----


def started(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_a_fork_waits_until_nobody_is_inside_the_gate():
    gate = process.Gate()
    inside, leave, order = threading.Event(), threading.Event(), []

    def caller():
        with gate:
            inside.set()
            leave.wait(60)
            order.append("left")

    thread = started(caller)
    assert inside.wait(60)
    forker = started(lambda: (gate.before_fork(), order.append("forked"), gate.after_fork()))
    leave.set()
    thread.join(60)
    forker.join(60)
    assert order == ["left", "forked"]
    with gate:  # open again
        pass


def test_a_gate_that_is_never_left_holds_nothing_up_for_ever(monkeypatch):
    monkeypatch.setattr(process, "WAIT_SECONDS", 0.05)
    gate = process.Gate()
    with gate:  # as a signal handler that forks inside a call would find it
        gate.before_fork()
        gate.after_fork()
        assert not gate.wait_until_empty()
    assert gate.wait_until_empty()


def test_soundfile_opens_seeks_and_reads_inside_the_gate():
    """Its calls of the file that it decodes tell where it is."""
    inside: list[int] = []

    class Watched(Stream):
        def readinto(self, buffer) -> int:
            inside.append(process.audio_libraries._inside)
            return super().readinto(buffer)

        def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
            inside.append(process.audio_libraries._inside)
            return super().seek(offset, whence)

    file = io.BytesIO()
    soundfile.write(file, np.zeros((200_000, 2), np.float32), 44100, format="WAV")
    file.seek(0)
    source = Source("sound.wav", file, owned=False)
    reader = readers.SndReader(source, pytest.fail, lambda: Watched(source, [(0, source.size)]))
    buffer = np.empty((30_000, 2), np.float32)
    for call in (lambda: reader.seek(150_000), lambda: reader.read_into(buffer), reader.close):
        assert inside
        assert min(inside) >= 1
        inside.clear()
        call()
    assert process.audio_libraries.wait_until_empty()


def test_at_the_end_a_thread_of_fcntag_s_own_unwinds_at_the_gate(monkeypatch):
    gate, left = process.Gate(), []

    def worker():
        process.own_thread()
        monkeypatch.setattr(process, "_ending", True)
        with contextlib.suppress(process.Leaving), gate:
            left.append("inside")
        left.append("unwound")

    started(worker).join(60)
    assert left == ["unwound"]
    started(lambda: (process.own_thread(), gate.__enter__(), left.append("late"))).join(60)  # begun by atexit
    with gate:  # the main thread's own functions of atexit may still resample
        left.append("main")
    assert left == ["unwound", "late", "main"]
