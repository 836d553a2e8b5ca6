"""Runs the command line in a process of its own, as a shell does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import fcntag as fcntag_package

PACKAGE_HOME = str(Path(fcntag_package.__file__).resolve().parent.parent)


def command(*arguments: str | Path) -> list[str]:
    """The argument vector of ``fcntag ARGUMENTS`` with this interpreter."""
    return [sys.executable, "-m", "fcntag", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, with the package that this process imported (installed, or a source tree)."""
    path = os.pathsep.join(filter(None, [PACKAGE_HOME, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **changes}


def fcntag(*arguments: str | Path, stdin: bytes | None = None, **changes: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``fcntag ARGUMENTS`` to its end."""
    return subprocess.run(
        command(*arguments),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        env=environment(**changes),
        timeout=300,
        check=False,
    )


def lines(data: bytes) -> Sequence[str]:
    """Lines of an output, decoded strictly: what is not UTF-8 is a defect."""
    return data.decode("utf-8").splitlines()
