"""Checks of a command's outputs: one that would lose data, or fail after minutes of work, is refused at once."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping

from .inputs import EXTENSIONS, sound_files
from .streams import UsageError

Outputs = Mapping[str, "str | None"]  # option -> the path given with it


def check_outputs(outputs: Outputs, inputs: Iterable[str] = (), recursive: bool = False) -> None:
    """Raise UsageError where an output cannot be created, or is an input or another output.

    ``inputs`` are files that are read ("-" is stdin), and folders. With ``recursive`` the sound files in a folder are
    inputs too.
    """
    inputs = list(inputs)
    seen: dict[str, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            raise UsageError(f"{option} {path}: no such folder: {folder}")
        if os.path.isdir(path):
            raise UsageError(f"{option} {path}: is a folder; name a file")
        for other, name in seen.items():
            if _same(path, name):
                raise UsageError(f"{option} {path}: is what {other} writes, too; name another file")
        if any(_is_input(path, name, recursive) for name in inputs):
            raise UsageError(f"{path}: is an input, and would be overwritten")
        seen[option] = path


def _same(a: str, b: str) -> bool:
    if os.path.exists(a) and os.path.exists(b):
        return os.path.samefile(a, b)
    return os.path.realpath(a) == os.path.realpath(b)


def _is_input(path: str, name: str, recursive: bool) -> bool:
    if name == "-":
        return _is_stdin(path)
    if not (recursive and os.path.isdir(name)):
        return _same(path, name)
    # The walk may be long, so it is made only where the search of a folder would find the name.
    if not os.path.exists(path) or os.path.splitext(path)[1].lower() not in EXTENSIONS:
        return False
    return any(_same(path, found) for found in sound_files(name, lambda message: None))


def _is_stdin(path: str) -> bool:
    """Whether stdin is read from that very file; a terminal or /dev/null may be both."""
    try:
        status = os.fstat(0)
        return stat.S_ISREG(status.st_mode) and os.path.samestat(status, os.stat(path))
    except OSError:
        return False
