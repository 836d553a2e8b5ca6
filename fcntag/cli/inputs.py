"""From the names on the command line to sources for ``Tagger``: files, folders, stdin."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

# A folder is searched for files with these endings. A file that is named itself is always tried, because its content
# decides, not its name.
EXTENSIONS = frozenset(
    f".{suffix}"
    for group in (
        "wav wave w64 rf64 aif aiff aifc au snd caf flac mp3 mp2 mpga ogg oga opus",
        "m4a m4b mp4 aac alac wma wv ape mka",  # with the extra [av]
    )
    for suffix in group.split()
)


def collect(names: Sequence[str], recursive: bool, fail: Callable[[str], None]) -> Iterator[Any]:
    """Yield the sources in the order of ``names``; "-" is stdin, a folder (with ``recursive``) its sound files.

    Folders are walked in sorted order. Links to folders are followed, but no folder is entered twice. ``fail`` is
    called with one line for a folder that cannot be listed or holds no sound file. Files are not opened here.
    """
    for name in names:
        if name == "-":
            if sys.stdin is None:  # started with the descriptor closed ("<&-")
                fail("<stdin>: is closed")
            else:
                yield _stdin()
        elif recursive and os.path.isdir(name):
            found = False
            for path in sound_files(name, fail):
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


def sound_files(folder: str, fail: Callable[[str], None]) -> Iterator[str]:
    """The files in ``folder`` and below that are named like sound files, as ``collect`` finds them."""
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
            if entry.is_dir():
                folders.append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                yield entry.path
        todo.extend(reversed(folders))


def hint(path: str) -> str:
    """The end of an error line about ``path``: a hint for folders, else nothing."""
    return " (-r takes the sound files in it)" if path and os.path.isdir(path) else ""
