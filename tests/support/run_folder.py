"""One folder for a whole run of the tests, whose processes (``pytest -n 2``) share what is costly to make."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

VARIABLE = "FCNTAG_TESTS_RUN_FOLDER"


def open_run(add_cleanup: Callable[[Callable[[], None]], None]) -> None:
    """Make the folder and name it to the processes that start later, unless this process is one of them."""
    if VARIABLE in os.environ:
        return
    os.environ[VARIABLE] = tempfile.mkdtemp(prefix="fcntag-tests-")
    add_cleanup(_close)


def _close() -> None:
    shutil.rmtree(os.environ.pop(VARIABLE), ignore_errors=True)


def run_folder(name: str) -> Path:
    """A folder within that of this run, made when it is first asked for."""
    folder = Path(os.environ[VARIABLE]) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def once(target: Path, make: Callable[[Path], object]) -> Path:
    """``target``, which the first caller of this run makes by ``make(path)``; others wait until it is there."""
    with open(f"{target}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            part = target.with_name(f"part-{target.name}")
            make(part)
            part.rename(target)
    return target
