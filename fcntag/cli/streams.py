"""Standard output and error of a command: text that any terminal can show, the log, progress, and hushed libraries."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


class UsageError(Exception):
    """The command line cannot be obeyed as it stands: exit code 2, one line."""


def show(text: str) -> str:
    """``text`` with the bytes of a name that is not UTF-8 written as ``\\xe9``, so that it prints anywhere."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate that never came from a file name
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def show_line(text: str) -> str:
    """``show``, and control characters escaped: a file name must not move the cursor or fake a second line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in show(text))


def prepare_streams() -> None:
    """Make stdout and stderr safe to write to: closed ones lead nowhere, odd encodings escape what they lack."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # started with the descriptor closed (">&-")
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (lives as long as the process)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def libraries_hushed(hush: bool) -> Iterator[None]:
    """Keep the lines that C libraries print to descriptor 2 off the terminal; ``sys.stderr`` prints through a copy.

    libmpg123 reports damage inside a valid MP3 frame there, in its own words and without the file's name. The record's
    warnings tell the user about such damage.
    """
    try:
        hush = hush and sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):  # a stream of the caller's own
        hush = False
    if not hush:
        yield
        return
    own, original = os.dup(2), sys.stderr
    original.flush()
    sys.stderr = open(own, "w", encoding=original.encoding, errors=original.errors, buffering=1)  # noqa: SIM115
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(own, 2)
        sys.stderr.close()
        sys.stderr = original


def log(message: str) -> None:
    """One line on stderr, ``fcntag: message``, over the progress bar if there is one."""
    if Progress.shown is not None:
        Progress.shown.clear()
    print(f"fcntag: {show_line(message)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def logging_shown(verbose: bool) -> Iterator[None]:
    """Print the library's log on stderr, in the form of every other line, where ``verbose``."""
    if not verbose:
        yield
        return
    import logging

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log(record.getMessage())

    logger = logging.getLogger("fcntag")
    handler, level = Handler(), logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class Progress:
    """A counter on stderr, where that is a terminal and ``quiet`` is false; nothing anywhere else."""

    shown: Progress | None = None  # the one on the screen

    def __init__(self, quiet: bool, total: int | None = None) -> None:
        self._total = total
        self._done = self._failed = 0
        self._visible = False
        self._active = not quiet and sys.stderr.isatty()

    def __enter__(self) -> Progress:
        import time

        self._clock, self._start, self._last = time.monotonic, time.monotonic(), 0.0
        if self._active:
            Progress.shown = self
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        Progress.shown = None

    def step(self, failed: bool) -> None:
        """Count a track."""
        self._done += 1
        self._failed += failed
        now = self._clock()
        if not self._active or now - self._last < 0.1:
            return
        self._last = now
        of = "" if self._total is None else f" of {self._total}"
        bad = f", {self._failed} failed" if self._failed else ""
        rate = self._done / max(now - self._start, 1e-9)
        self.clear()
        sys.stderr.write(f"{self._done}{of} tracks{bad}, {rate:.1f} per second")
        sys.stderr.flush()
        self._visible = True

    def bytes(self, done: int, total: int | None) -> None:
        """Show how much of a download is done."""
        now = self._clock()
        if not self._active or (now - self._last < 0.1 and done != total):
            return
        self._last = now
        self.clear()
        of = "" if not total else f" of {total / 1e6:.1f}"
        sys.stderr.write(f"{done / 1e6:.1f}{of} MB")
        sys.stderr.flush()
        self._visible = True

    def clear(self) -> None:
        """Take the line off the screen, so that something else can be printed."""
        if self._visible:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
            self._visible = False
