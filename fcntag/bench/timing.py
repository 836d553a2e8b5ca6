"""Timing of calls that must not disturb one another: in turn, in one process, after a warm-up."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import FcntagError

# The pause before every call. The peers' threads spin for some milliseconds after a run, and would take the cores from
# the engine that runs next.
PAUSE_S = 0.04
# So many rounds are run even where the time limit has passed.
MIN_ROUNDS = 3
# A call of so many seconds or more warms itself up. A shorter one is preceded by an untimed call.
LONG_S = 0.5


def alternate(
    calls: dict[str, Callable[[], Any]],
    repeats: int,
    seconds: float = 60.0,
    pause: float = PAUSE_S,
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Seconds, by ``clock``, of ``repeats`` calls of each, in turn; short calls are each preceded by an untimed one.

    Stops after ``seconds`` seconds, but not before MIN_ROUNDS rounds (or ``repeats``, if fewer). Every round starts
    with another call, so that none always follows the same neighbour.
    """
    clock = clock or time.perf_counter
    samples: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    end = time.perf_counter() + seconds
    for k in range(repeats):
        if k >= MIN_ROUNDS and time.perf_counter() > end:
            break
        turn = k % len(names)
        for name in names[turn:] + names[:turn]:
            call = calls[name]
            time.sleep(pause)
            if not samples[name] or samples[name][-1] < LONG_S:
                call()
            start = clock()
            call()
            samples[name].append(clock() - start)
    return samples


@contextlib.contextmanager
def contention(processes: int) -> Iterator[None]:
    """Keep so many processes running within the block, each of which keeps one core busy and is pinned nowhere."""
    spinners: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(processes):
            spinners.append(
                subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
            )
        for spinner in spinners:
            assert spinner.stdout is not None
            spinner.stdout.readline()  # a line says that it runs
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.communicate()


@dataclass(frozen=True)
class ProcessRun:
    """The kernel's account of one process, from its start to its end."""

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int


# A child's peak RSS starts at that of the process that forked it. This process may hold several runtimes, so a small
# process in between forks.
_LAUNCHER = """
import json, os, sys, time
start = time.perf_counter()
pid = os.fork()
if pid == 0:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.execvp(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(pid, 0)
wall = time.perf_counter() - start
code = os.waitstatus_to_exitcode(status)
print(json.dumps([code, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
"""


def run_process(command: list[str], environment: dict[str, str] | None = None) -> ProcessRun:
    """Run ``command`` to its end, its output thrown away; raises FcntagError with its last line if it fails."""
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command]
    run = subprocess.run(launcher, capture_output=True, text=True, errors="replace", env=environment, check=True)
    code, wall, cpu, peak_rss = json.loads(run.stdout)
    if code != 0:
        last = run.stderr.strip().rpartition("\n")[2]
        raise FcntagError(f"{' '.join(command)}: exit code {code}: {last}")
    return ProcessRun(wall, cpu, int(peak_rss) * (1 if sys.platform == "darwin" else 1024))
