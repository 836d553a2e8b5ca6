"""The sources of a run: an iterator of the caller's that is read ahead of the results, within limits."""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .decode import Job, name_of

if TYPE_CHECKING:
    from .decode import DecodePool

# Their iterators give the next item at once and run none of the caller's code.
PLAIN = (list, tuple, set, frozenset, dict, deque, range)


class Feed:
    """Takes sources from an iterator, hands them to the decode pool and keeps their order.

    An iterator may take long for its next source, or wait for the result of the one before. It is therefore asked in a
    thread of its own, unless its class is in PLAIN: the consumer never waits for a source while it could do anything
    else. The thread runs in a copy of the caller's context (:mod:`contextvars`). It holds the only reference to the
    iterator, so that a generator that is left early is closed in the thread that ran it.
    """

    def __init__(
        self,
        sources: Iterable[Any],
        pool: DecodePool,
        sample_rate: Callable[[Any], int | None],
        *,
        ahead: int,
        ahead_in_memory: int,
    ) -> None:
        self._pool, self._sample_rate = pool, sample_rate
        self._ahead, self._ahead_in_memory = ahead, ahead_in_memory
        self.flying: deque[Job] = deque()  # taken from the iterator and not yet yielded, in order
        self._unread: deque[Job] = deque()  # those of them that have more to take
        self._ended = False
        self._failure: BaseException | None = None  # of the iterator
        self._room, self._more = pool.condition(), pool.condition()
        iterator = iter(sources)
        self._plain: Iterator[Any] | None = iterator if type(sources) in PLAIN else None
        if self._plain is None:
            pool.start("fcntag-feed", contextvars.copy_context().run, self._run, iterator)

    def head(self, wait: bool) -> Job | None:
        """The first job that has more to take; with ``wait`` only None when the sources have come to their end."""
        if self._plain is not None:
            while not self._ended and self._has_room():
                self._pull(self._plain)
        with self._pool.lock:
            while not self._unread:
                if not wait or self._ended or self._pool.closed:
                    return None
                self._more.wait()
            return self._unread[0]

    def drop_head(self) -> None:
        """The head has nothing more to take."""
        with self._pool.lock:
            self._unread.popleft()
            self._room.notify()

    def raise_failure(self) -> None:
        """Raise what the iterator raised, once all that it gave before has been yielded."""
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # its traceback leads to this frame

    def _has_room(self) -> bool:
        in_memory = sum(job.in_memory for job in self._unread)
        return len(self._unread) < self._ahead and in_memory < self._ahead_in_memory

    def _run(self, iterator: Iterator[Any]) -> None:
        while not self._ended:
            with self._pool.lock:
                while not self._pool.closed and not self._has_room():
                    self._room.wait()
                if self._pool.closed:
                    return
            try:
                self._pull(iterator)
            except BaseException as error:  # an exit, too, is the consumer's
                self._end(error)

    def _pull(self, iterator: Iterator[Any]) -> None:
        """Take one source; the end of all, or an error, ends the feed."""
        try:
            source = next(iterator)
            job = Job(source, self._sample_rate(source), name_of(source))
            with self._pool.lock:
                self._pool.submit(job)
                self.flying.append(job)
                self._unread.append(job)
                self._more.notify()
        except StopIteration:
            self._end(None)
        except Exception as error:
            self._end(error)

    def _end(self, failure: BaseException | None) -> None:
        with self._pool.lock:
            self._ended, self._failure = True, failure
            self._more.notify()
