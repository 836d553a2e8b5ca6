"""What a fork, and the end of the interpreter, do to threads and locks.

A fork copies the memory of a process and one of its threads. Locks that the other threads held stay locked in the child
for ever, and what they were changing stays half changed. :func:`here` tells such a child from its parent. Between
soundfile and libsndfile lies cffi, which has such a lock, so that no thread may be inside soundfile at a fork.

The end comes in two steps. First the functions of :mod:`atexit` run, while daemon threads go on; :func:`at_end` belongs
to this step. Then the interpreter goes, and before Python 3.14 a daemon thread that asks for its lock is ended on the
spot. In C++ that aborts the process, so that no thread may be inside soxr by then. One gate is for both libraries:
:data:`audio_libraries`.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable

# A call of soxr takes some milliseconds, and one of soundfile what its file takes. A thread that never comes back must
# hold up neither a fork nor the end.
WAIT_SECONDS = 2.0

_forks = 0  # of the interpreter, on the way from the first process to this one
_ending = False
_callbacks: list[Callable[[], None]] = []
_thread = threading.local()


def here() -> tuple[int, int]:
    """What identifies this process: it differs in every child of a fork, one by foreign C code included."""
    return os.getpid(), _forks


def ending() -> bool:
    """Whether the program has ended and only functions of :mod:`atexit` still run."""
    return _ending


def at_end(callback: Callable[[], None]) -> None:
    """Call ``callback`` when the program has ended: no more threads but daemons, and the interpreter still whole."""
    _callbacks.append(callback)


def wait_for_the_end() -> None:
    """Never return, in a daemon thread of a program that has ended; return at once in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        threading.Event().wait()


class Leaving(BaseException):
    """The program has ended: a thread of fcntag's own unwinds, so that it lets go of what it holds."""


def own_thread() -> None:
    """Mark the calling thread as fcntag's own: at the end it gets :class:`Leaving` where another one would wait."""
    _thread.late = _ending  # begun for a function of atexit, which may still tag


class Gate:
    """Counts the threads inside a library that neither a fork nor the end of the interpreter may find at work.

    Use it as a context manager around each call. A fork waits until nobody is inside, so that the child gets nothing
    half changed; so does the end, and after it nobody gets in.
    """

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._changed = threading.Condition()  # its lock can be taken twice: a signal handler may fork
        self._inside = 0
        self._forking = 0

    def __enter__(self) -> None:
        with self._changed:
            while self._forking and not _ending:
                self._changed.wait()
            if not _ending or getattr(_thread, "late", False):
                self._inside += 1
                return
        if hasattr(_thread, "late"):
            raise Leaving
        wait_for_the_end()
        with self._changed:
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def wait_until_empty(self) -> bool:
        """Wait until nobody is inside; False if that takes too long."""
        with self._changed:
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._inside == 0, WAIT_SECONDS)

    def before_fork(self) -> None:
        """Keep the others out until :meth:`after_fork`."""
        with self._changed:
            self._forking += 1
            self._changed.wait_for(lambda: self._inside == 0, WAIT_SECONDS)

    def after_fork(self) -> None:
        """Let them in again, in the parent."""
        with self._changed:
            self._forking -= 1
            self._changed.notify_all()

    def after_fork_in_child(self) -> None:
        """Begin anew: whoever was inside or had the lock is not in this process."""
        self._start()


audio_libraries = Gate()  # around what soxr computes, and what soundfile opens, reads and seeks


def _forked() -> None:
    global _forks
    _forks += 1
    audio_libraries.after_fork_in_child()


def _end() -> None:
    global _ending
    _ending = True
    for callback in _callbacks:
        callback()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=audio_libraries.before_fork, after_in_parent=audio_libraries.after_fork, after_in_child=_forked
    )
# Not threading's own hook, which runs before the program's other threads have ended: they may go on tagging.
atexit.register(_end)
