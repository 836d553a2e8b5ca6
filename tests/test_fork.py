"""Forked children of a process that tags: they tag, or are told why not, and they end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.cli_runner import environment
from support.make_models import block, make_model
from support.programs import FOREVER

from fcntag import FcntagError, Tagger, demo
from fcntag.engine import create_engine
from fcntag.pipeline import decode

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

# What threads of the parent are doing when it forks. "results" are live ones of the thread that forks.
PARENTS = {
    "idle": "",
    "never used": "",
    "scores": "waves = np.zeros((16, 48128), np.float32); forever(lambda: tagger.scores(waves))",
    "tag": "forever(lambda: tagger.tag(track))",
    "features of the blocks": "forever(lambda: tagger.embed(track, 'blocks'))",
    "tag_many": "many = tagger.tag_many(itertools.repeat(track)); forever(lambda: next(many))",
    "results of a list": "results = tagger.tag_many([track] * 1000); next(results)",
    "results of a generator": "results = tagger.tag_many(itertools.repeat(track)); next(results)",
}
# Each child tags, unless it is of the parent that never did, and leaves in another way.
PROGRAM = (
    FOREVER
    + """
import faulthandler, itertools, os, signal, sys, time
import numpy as np
import fcntag

faulthandler.register(signal.SIGALRM, chain=True)  # a child that hangs tells where, and is killed
track, parent, code = sys.argv[1:]
tagger, results = fcntag.Tagger(threads=3), None
used = parent != "never used"
expected = tagger.tag(track).segments if used else None

def check(tagger):
    assert np.array_equal(tagger.tag(track).segments, expected)
    assert [np.array_equal(r.segments, expected) for r in tagger.tag_many(iter([track] * 2))] == [True] * 2
    tasks = "/proc/self/task"
    assert not os.path.exists(tasks) or len(os.listdir(tasks)) >= 3

def child(leave):
    global tagger, results
    if results is not None:
        try: next(results)
        except fcntag.FcntagError as error: assert "cannot go on in its forked child" in str(error), error
        else: raise AssertionError("inherited results went on")
    if used and leave != "unused":
        check(tagger)
    if used and leave == "grandchild":
        pid = os.fork()
        if pid == 0:
            signal.alarm(100)
            check(tagger)
            tagger.close()
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    if leave == "with":
        with tagger: pass
    if leave == "close":
        tagger.close()
    if leave == "close results" and results is not None:
        results.close()
    if leave == "del":
        del tagger, results
    if leave == "_exit":
        os._exit(0)
    sys.exit(0)

exec(code)
for leave in ("unused", "grandchild", "with", "close", "close results", "del", "_exit"):
    time.sleep(0.02)
    pid = os.fork()
    if pid == 0:
        signal.alarm(100)  # a child that hangs is killed, and its parent says so
        child(leave)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status: print(leave, status, file=sys.stderr)
if used and not code.startswith("many"):
    assert np.array_equal(tagger.tag(track).segments, expected)  # the parent goes on
if results is not None:
    next(results)
"""
)


@pytest.fixture(scope="module")
def track(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("track") / "track.flac"
    soundfile.write(path, demo.synthesise(0)[: 44100 * 12], 44100)
    return path


def check_program(*arguments: str | Path) -> None:
    """Run Python with these arguments: a program that ends with code 0 and writes nothing."""
    command = [sys.executable, *arguments]
    program = subprocess.run(command, capture_output=True, env=environment(), timeout=300, check=False)
    assert (program.returncode, program.stdout, program.stderr) == (0, b"", b"")


@pytest.mark.parametrize("parent", PARENTS)
def test_children_tag_and_end_whatever_the_parent_s_threads_do(parent, track):
    for _ in range(int(os.environ.get("FCNTAG_TEST_REPEATS", "1"))):
        check_program("-c", PROGRAM, track, parent, PARENTS[parent])


def in_child(check) -> int:
    """Exit code of a forked child that calls ``check``: 0, or 1 where it raises or returns False."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout's belongs to the parent
        signal.alarm(100)
        code = 1
        try:
            code = int(check() is False)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def hold(lock, inside: threading.Event, leave: threading.Event) -> threading.Thread:
    """A thread that has ``lock`` from ``inside`` to ``leave``."""

    def run():
        with lock:
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert inside.wait(60)
    return thread


@pytest.mark.parametrize("depth", [1, 2])
def test_an_engine_that_another_thread_was_using_is_made_anew(depth, rng):
    model = make_model(rng, [block(5, window=(2, 2)), block(17, window=(2, 3))])
    waves = rng.standard_normal((3, model.document.segments.n_samples)).astype(np.float32)
    with create_engine(model, threads=3) as engine:
        expected, network, log_mel = engine.scores(waves), engine._network, engine.log_mel(waves)

        def check():
            assert np.array_equal(engine.scores(waves), expected)
            assert engine._network is not network
            assert np.array_equal(engine.log_mel(waves), log_mel)
            assert engine.memory_bytes > 0
            if depth == 2:
                assert in_child(lambda: np.array_equal(engine.scores(waves), expected)) == 0
            engine.close()

        leave = threading.Event()
        thread = hold(engine._lock, threading.Event(), leave)
        try:
            assert in_child(check) == 0
            assert in_child(engine.close) == 0
        finally:
            leave.set()
            thread.join()
        # An engine that nobody was using keeps its weights, which the two processes share.
        assert in_child(lambda: engine.scores(waves) is not None and engine._network is network) == 0
        assert np.array_equal(engine.scores(waves), expected)


def test_a_child_that_another_library_forks_is_recognised(rng, monkeypatch):
    """C code forks without Python's hooks; the process's number tells, too."""
    from fcntag import process

    model = make_model(rng, [block(5, window=(2, 2)), block(17, window=(2, 3))])
    with create_engine(model, threads=2) as engine:
        lock = engine._lock
        with lock:
            pid = os.getpid()
            monkeypatch.setattr(process.os, "getpid", lambda: pid + 1)
            assert engine._lock is not lock
            assert not engine._lock.locked()


def test_results_whose_lock_is_held_can_be_closed_in_a_child(track):
    with Tagger(threads=2) as tagger:
        for sources in ([track] * 50, iter([track] * 50)):
            results = tagger.tag_many(sources)
            next(results)
            (pool,) = decode._open_pools
            leave = threading.Event()
            thread = hold(pool.lock, threading.Event(), leave)

            def check(results=results):
                with pytest.raises(FcntagError, match="cannot go on in its forked child"):
                    next(results)
                results.close()
                assert not decode._open_pools

            try:
                assert in_child(check) == 0
                assert in_child(results.close) == 0
            finally:
                leave.set()
                thread.join()
            assert len(list(results)) == 49


def test_results_that_had_not_begun_are_a_child_s_own(track):
    with Tagger(threads=2) as tagger:
        results = tagger.tag_many(iter([track] * 2))

        def check():
            assert [result.error for result in results] == [None] * 2

        assert in_child(check) == 0
        assert len(list(results)) == 2


MAP = """
import concurrent.futures, multiprocessing, sys
import fcntag

if __name__ == "__main__":
    how, track, kind = sys.argv[1:]
    context = multiprocessing.get_context(how)
    with fcntag.Tagger(threads=2, max_batch=5) as tagger:
        expected = tagger.tag(track)
        if kind == "pool":
            with context.Pool(2) as pool:
                results = pool.map(tagger.tag, [track] * 3)
        else:
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
                results = list(pool.map(tagger.tag, [track] * 3))
        for result in results:
            assert result.to_dict() == expected.to_dict()
            assert (result.segments == expected.segments).all()
"""


@pytest.mark.parametrize(
    ("how", "kind"), [("fork", "pool"), ("spawn", "pool"), ("forkserver", "pool"), ("fork", "executor")]
)
def test_pools_of_processes_map_a_tagger_over_tracks(how, kind, track, tmp_path):
    script = tmp_path / "script.py"  # the children import it
    script.write_text(MAP)
    check_program(script, how, track, kind)


def test_a_process_uses_the_tagger_of_its_parent(track):
    """multiprocessing's fork: the target is a function of the parent, with the parent's Tagger, used in ``with``."""
    code = """
import multiprocessing, sys, fcntag
tagger = fcntag.Tagger(threads=2)
expected = tagger.tag(sys.argv[1]).top(1)
def work():
    with tagger: assert tagger.tag(sys.argv[1]).top(1) == expected
process = multiprocessing.get_context("fork").Process(target=work)
process.start(); process.join(100)
sys.exit(process.exitcode)
"""
    check_program("-c", code, track)


APPLICATION = """
import os, threading, fcntag
track = os.environ["TRACK"]
tagger = fcntag.Tagger(threads=2)
expected = tagger.tag(track).top(3)
def work():
    while True: tagger.tag(track)
threading.Thread(target=work, daemon=True).start()
def application(environ, start):
    body = f"{os.getpid()} {tagger.tag(track).top(3) == expected}".encode()
    start("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def ask(address: str) -> str:
    """The body of a server's answer; the server may still be starting."""
    for _ in range(600):
        with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
            connection.settimeout(60)
            connection.connect(address)
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with connection.makefile() as file:
                answer = file.read().splitlines()
            if answer:  # a worker that has just had its last request closes the connection
                return answer[-1]
        time.sleep(0.1)
    raise AssertionError("no answer")


def test_workers_of_gunicorn_use_the_tagger_that_the_master_loaded(track, tmp_path):
    """``--preload``, with a thread that tags in the master, and workers that are replaced after two requests."""
    pytest.importorskip("gunicorn")
    (tmp_path / "application.py").write_text(APPLICATION)
    options = ["--preload", "--workers", "2", "--max-requests", "2", "--bind", "unix:server.sock"]
    program = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", *options, "application"],
        cwd=tmp_path,
        env=environment(TRACK=str(track)),
        stderr=subprocess.PIPE,
    )
    before = os.getcwd()
    os.chdir(tmp_path)  # the path of a socket has at most 107 bytes
    try:
        answers = [ask("server.sock").split() for _ in range(8)]
    finally:
        os.chdir(before)
        program.terminate()
        _, errors = program.communicate(timeout=100)
    assert {right for _, right in answers} == {"True"}
    assert len({worker for worker, _ in answers}) > 2
    assert program.returncode == 0
    assert not [
        word
        for word in (b"Traceback", b"terminate called", b"ABRT", b"SEGV", b"KILL", b"leaked", b"TIMEOUT")
        if word in errors
    ], errors
