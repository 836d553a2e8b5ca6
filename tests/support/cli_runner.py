"""Runs the command line, in a process of its own as a shell does or in this one, and the folder that its tests tag."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import fcntag as fcntag_package
from fcntag import demo
from fcntag.cli import main

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


@contextlib.contextmanager
def interrupts(disposition: Any) -> Iterator[None]:
    """SIGINT with this disposition, here and in the processes that are started meanwhile.

    A process that a shell starts in the background, or under nohup, ignores SIGINT, and so do all that it starts.
    """
    before = signal.signal(signal.SIGINT, disposition)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def start(*arguments: str | Path, ignore_interrupts: bool = False, **options: Any) -> subprocess.Popen[bytes]:
    """Start ``fcntag ARGUMENTS`` with pipes as stdout and stderr; SIGINT reaches it, however the tests were started."""
    disposition = signal.SIG_IGN if ignore_interrupts else signal.default_int_handler
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with interrupts(disposition):
        return subprocess.Popen(command(*arguments), env=environment(), **{**pipes, **options})


def lines(data: bytes) -> Sequence[str]:
    """Lines of an output, decoded strictly: what is not UTF-8 is a defect."""
    return data.decode("utf-8").splitlines()


@pytest.fixture(scope="module")
def piece() -> np.ndarray:
    return demo.synthesise(0)[: 44100 * 7]


@pytest.fixture
def folder(tmp_path, piece) -> Path:
    """good.wav, short.wav (0.5 s), bad.mp3 (text), and sub/deep.flac."""
    folder = tmp_path / "music"
    (folder / "sub").mkdir(parents=True)
    soundfile.write(folder / "good.wav", piece, 44100)
    soundfile.write(folder / "short.wav", piece[:22050], 44100)
    soundfile.write(folder / "sub" / "deep.flac", piece, 44100)
    (folder / "bad.mp3").write_text("not music")
    (folder / "notes.txt").write_text("not even named like music")
    return folder


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err
