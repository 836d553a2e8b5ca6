"""Who may use the GPU: a file that one process locks while it times something.

``compile_ahead.py`` searches for PyTorch's kernels beside other steps, and each trial of its search is a timing. A
trial waits while a step of quick.py times fcntag, and a step that times fcntag waits for the trial.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def _lock(file: IO[str], end: float) -> bool:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.002)
        else:
            return True


@contextlib.contextmanager
def turn(path: Path, seconds: float = float("inf")) -> Iterator[bool]:
    """Hold the lock of the file ``path`` within the block; False if it did not come within ``seconds``.

    Whoever waits stands in line behind a second file: a process that takes one turn after the other lets the other in.
    The kernel gives both back when a process ends, however that happens.
    """
    end = time.monotonic() + seconds
    with path.open("a") as file:
        with path.with_name(f"{path.name}.line").open("a") as line:
            held = _lock(line, end) and _lock(file, end)
        yield held
