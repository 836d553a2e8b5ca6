"""From the names on the command line to sources for ``Tagger``: files, folders, stdin."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..audio.formats import ENDINGS

# A folder is searched for files with these endings. A file that is named itself is always tried, because its content
# decides, not its name.
EXTENSIONS = ENDINGS
# Folders that systems make for themselves: file attributes, thumbnails and previews (named like the sound files they
# belong to), deleted files, snapshots. They are compared in lower case.
_PASSED_FOLDERS = frozenset(
    (
        ".appledouble",  # netatalk
        "@eadir",  # Synology
        "#recycle",
        "#snapshot",
        "@recycle",  # QNAP
        "@recently-snapshot",
        ".@__thumb",
        "$recycle.bin",  # Windows
        "recycler",
        "system volume information",
        ".trash",  # macOS, Linux
        ".trashes",
        ".spotlight-v100",
        ".fseventsd",
        ".temporaryitems",
        ".documentrevisions-v100",
        ".snapshots",
        ".zfs",
        "lost+found",
    )
)
_TRASH_OF_USER = ".trash-"  # freedesktop's, with the user's number behind
_APPLE_DOUBLE = b"\0\x05\x16\x07"
_TS_SYNC = 0x47


@dataclass
class PassedOver:
    """What the search of folders did not take."""

    endings: int = 0  # files whose ending is none of a sound file
    attributes: int = 0  # AppleDouble files, "._name"
    folders: list[str] = field(default_factory=list)  # names of system folders

    def line(self) -> str:
        """One line for people; empty if nothing was passed over."""
        others = f"{_count(self.endings, 'file')} with other endings passed over" if self.endings else ""
        parts = []
        if self.attributes:
            parts.append(f"{_count(self.attributes, 'AppleDouble file')} (._*)")
        if self.folders:
            names = ", ".join(sorted(set(self.folders)))
            parts.append(f"{_count(len(self.folders), 'system folder')} ({names})")
        if not parts:
            return others
        return f"{others}; also {' and '.join(parts)}" if others else f"{' and '.join(parts)} passed over"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def collect(
    names: Sequence[str], recursive: bool, fail: Callable[[str], None], passed: PassedOver | None = None
) -> Iterator[Any]:
    """Yield the sources in the order of ``names``; "-" is stdin, a folder (with ``recursive``) its sound files.

    Folders are walked in sorted order. Links to folders are followed, but no folder is entered twice. ``fail`` is
    called with one line for a folder that cannot be listed or holds no sound file. ``passed`` counts what the folders
    hold besides.
    """
    passed = PassedOver() if passed is None else passed
    for name in names:
        if name == "-":
            if sys.stdin is None:  # started with the descriptor closed ("<&-")
                fail("<stdin>: is closed")
            else:
                yield _stdin()
        elif recursive and os.path.isdir(name):
            found = False
            for path in sound_files(name, fail, passed):
                found = True
                yield path
            if not found:
                fail(f"{name}: no sound files in it")
        else:
            yield name


def _stdin() -> Any:
    """Stdin, unbuffered: the interpreter aborts at exit if a thread still holds the lock of ``sys.stdin.buffer``."""
    try:
        file = io.FileIO(sys.stdin.fileno(), closefd=False)
    except (OSError, ValueError):  # a stream of the caller's own, without descriptor
        return sys.stdin.buffer
    file.name = "<stdin>"
    return file


def sound_files(folder: str, fail: Callable[[str], None], passed: PassedOver | None = None) -> Iterator[str]:
    """The files in ``folder`` and below that are named like sound files, as ``collect`` finds them."""
    passed = PassedOver() if passed is None else passed
    seen: set[tuple[int, int]] = set()
    todo = [folder]
    while todo:
        current = todo.pop()
        try:
            status = os.stat(current)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(current) as entries:
                listing = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            fail(f"{current}: {error.strerror}")
            continue
        folders = []
        for entry in listing:
            if _is_folder(entry):
                if _is_system_folder(entry.name):
                    passed.folders.append(entry.name)
                else:
                    folders.append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() not in EXTENSIONS:
                passed.endings += 1
            elif entry.name.startswith("._") and _head(entry.path) == _APPLE_DOUBLE:
                passed.attributes += 1
            elif entry.name.lower().endswith(".ts") and _is_other_ts(_head(entry.path)):
                passed.endings += 1
            else:
                yield entry.path
        todo.extend(reversed(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a ring of links: whoever opens it says so, and the walk goes on
        return False


def _is_system_folder(name: str) -> bool:
    lower = name.lower()
    return lower in _PASSED_FOLDERS or lower.startswith(_TRASH_OF_USER)


def _is_other_ts(head: bytes) -> bool:
    """Whether a ``.ts`` file is text: TypeScript and Qt's translations share the ending with transport streams."""
    return len(head) > 0 and head[0] != _TS_SYNC and all(byte in b"\t\r\n" or byte >= 32 for byte in head)


def _head(path: str) -> bytes:
    """The first four bytes; none where the file cannot be read, which the decoder will report better."""
    try:
        if not os.path.isfile(path):  # a named pipe would wait for its writer
            return b""
        with open(path, "rb") as file:
            return file.read(4)
    except OSError:
        return b""


def hint(path: str) -> str:
    """The end of an error line about ``path``: a hint for folders, else nothing."""
    return " (-r takes the sound files in it)" if path and os.path.isdir(path) else ""
