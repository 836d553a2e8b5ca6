"""Tracks in, one array of values per window out: a decode pool in front of one consumer that batches across files.

    sources -> [worker threads: open, plan, decode, resample] -> queues, one a track -> batches [B, n_samples]
            -> function(batch) [B, K] -> Outcome per track, in the order of the sources

Threads are enough: soundfile, soxr and the engine all release the GIL. A batch takes what is ready when the engine
is free, up to ``max_batch`` windows of one length, from as many tracks as it needs. Memory is bounded by the batch
and by DECODED_BYTES of windows waiting, whatever the number and the length of the tracks.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import AudioError, FcntagError
from .segments import SegmentPlan

if TYPE_CHECKING:
    import numpy as np

    from .audio import Track

    Function = Callable[[np.ndarray], np.ndarray]  # float32 [B, n_samples] -> [B, K]

# Windows decoded ahead of the engine: some hundred short ones, or a second one of the longest, for each worker.
DECODED_BYTES = 48 << 20
BATCH_BYTES = 128 << 20  # max_batch is for windows of some seconds; long ones fill every core or GPU with fewer
# A header can lie once; a length that differs again after decoding the whole track is a defect, not a repair.
MAX_PLANS = 3
CLOSE_SECONDS = 1.0  # a worker may sit in a read that nothing can interrupt (a pipe): leave it behind then


@dataclass(eq=False)
class Outcome:
    """What became of one source. ``error`` None: ``plan`` and ``values`` are set."""

    path: str
    plan: SegmentPlan | None = None
    values: np.ndarray | None = None  # [n_segments, K]
    duration_s: float | None = None
    warnings: tuple[str, ...] = ()
    error: Exception | None = None


@dataclass(eq=False)
class _Job:
    """One source on its way: the worker appends to ``ready``, the consumer takes from it, under the pool's lock."""

    source: Any
    sample_rate: int | None
    outcome: Outcome
    ready: deque[Any] = field(default_factory=deque)  # SegmentPlan, windows, ..., at last an _End
    plans: int = 0  # which plan the windows belong to: those of an earlier one are dropped
    parts: list[np.ndarray] = field(default_factory=list)
    waiting: int = 0  # windows in the batch that is being filled
    ended: bool = False

    @property
    def in_memory(self) -> bool:
        return not isinstance(self.source, (str, os.PathLike))


@dataclass(frozen=True)
class _End:
    warnings: tuple[str, ...] = ()
    duration_s: float | None = None
    error: Exception | None = None


class _Closed(Exception):
    """The consumer has gone; the worker stops where it is."""


class _Pool:
    """Worker threads that decode jobs in the order given, and block when DECODED_BYTES wait to be taken."""

    def __init__(self, workers: int, plan: Callable[[int], SegmentPlan], rate: int) -> None:
        self._workers, self._plan, self._rate = workers, plan, rate
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._bytes = 0
        self._head: _Job | None = None
        self._closed = False

    def submit(self, job: _Job) -> None:
        with self._changed:
            self._jobs.append(job)
            if self._idle < len(self._jobs) and len(self._threads) < self._workers:
                thread = threading.Thread(target=self._work, name="fcntag-decode", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify_all()

    def take(self, job: _Job, wait: bool) -> Any | None:
        """The next of ``job``'s plan, windows and end; None if there is none yet and ``wait`` is false."""
        with self._changed:
            if self._head is not job:
                self._head = job
                self._changed.notify_all()
            while not job.ready:
                if not wait:
                    return None
                self._changed.wait()
            item = job.ready.popleft()
            if not isinstance(item, (SegmentPlan, _End)):
                self._bytes -= item.nbytes
            self._changed.notify_all()
            return item

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _put(self, job: _Job, item: Any) -> None:
        with self._changed:
            if not isinstance(item, (SegmentPlan, _End)):
                # The job that the consumer waits for may always put one: jobs are taken in order, so it has a worker,
                # and no number of later tracks can keep it from making progress.
                while self._bytes + item.nbytes > DECODED_BYTES and not (self._head is job and not job.ready):
                    if self._closed:
                        raise _Closed
                    self._changed.wait()
                self._bytes += item.nbytes
            if self._closed:
                raise _Closed
            job.ready.append(item)
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._jobs and not self._closed:
                    self._changed.wait()
                self._idle -= 1
                if self._closed:
                    return
                job = self._jobs.popleft()
            try:
                try:
                    end = self._decode(job)
                except _Closed:
                    raise
                except Exception as error:  # whatever a decoder does, the other tracks go on
                    end = _End(error=error)
                job.source = None  # an array or file object must not live as long as its result waits
                self._put(job, end)
            except _Closed:
                return

    def _decode(self, job: _Job) -> _End:
        from .audio import display_name, open_track

        source = job.source
        if is_array(source):
            import numpy as np

            source = np.asarray(source)  # a tensor of another library, too
        with open_track(source, sample_rate=job.sample_rate, name=display_name(job.outcome.path)) as track:
            n_total = track.length(self._rate)
            for _ in range(MAX_PLANS):
                plan = self._plan(n_total)
                self._put(job, plan)
                for window in read_windows(track, plan):
                    self._put(job, window)
                n_true = track.length(self._rate)
                if n_true == n_total:
                    duration_s = track.duration_s
                    return _End(
                        warnings=(*track.warnings, *plan.warnings),
                        duration_s=n_total / self._rate if duration_s is None else duration_s,
                    )
                n_total = n_true  # the header lied: the windows decoded so far are not where the rule wants them
            raise AudioError(f"{track.name}: its length changes each time it is decoded; last {n_total} samples")


def read_windows(track: Track, plan: SegmentPlan) -> Iterator[np.ndarray]:
    """The plan's windows, each float32 [plan.n_samples], completed where the track is too short."""
    import numpy as np

    if plan.short != "repeat":
        yield from track.windows(plan.sample_rate, plan.starts, plan.n_samples)
        return
    for start in plan.starts:
        (once,) = track.windows(plan.sample_rate, [0], plan.n_total)
        window = np.zeros(plan.n_samples, np.float32)
        lead = max(0, -start)
        window[lead:] = np.take(once, np.arange(max(0, start), start + plan.n_samples), mode="wrap")
        yield window


class Batch:
    """Windows of one length on their way through ``function``."""

    def __init__(self, function: Function, max_batch: int) -> None:
        self._function, self._max_batch = function, max_batch
        self._buffer: np.ndarray | None = None  # [rows, n_samples], kept from batch to batch
        self._rows: list[tuple[_Job, int, int]] = []  # job, its plan's number, first row
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, job: _Job, window: np.ndarray) -> None:
        """Copy one window in, running the batch first where it is full or of another length."""
        import numpy as np

        n_samples = len(window)
        if self._buffer is None or self._buffer.shape[1] != n_samples:
            self.run()
            rows = max(1, min(self._max_batch, BATCH_BYTES // (4 * n_samples)))
            self._buffer = np.empty((rows, n_samples), np.float32)
        if self._count == len(self._buffer):
            self.run()
        if not self._rows or self._rows[-1][:2] != (job, job.plans):
            self._rows.append((job, job.plans, self._count))
        self._buffer[self._count] = window
        self._count += 1
        job.waiting += 1

    def run(self) -> None:
        """Send what is there through the function and hand the values to their jobs."""
        if not self._count:
            return
        assert self._buffer is not None
        values = self._function(self._buffer[: self._count])
        ends = [first for _, _, first in self._rows[1:]] + [self._count]
        for (job, plans, first), end in zip(self._rows, ends, strict=True):
            job.waiting -= end - first
            if plans == job.plans:
                job.parts.append(values[first:end])
        self._rows.clear()
        self._count = 0


def run_pipeline(
    sources: Iterable[Any],
    function: Function,
    *,
    plan: Callable[[int], SegmentPlan],
    rate: int,
    sample_rate: Callable[[Any], int | None],
    max_batch: int,
    workers: int,
) -> Iterator[Outcome]:
    """Yield one Outcome a source, in order; a source that fails gives one with ``error``. Errors of ``function`` rise.

    An Exception of the iterator ``sources`` rises after the outcomes of all that it gave before.
    ``sample_rate`` says which rate in Hz to open a source with (None for all but arrays). Reads at most
    ``workers + max_batch`` sources ahead, and ``2 * workers`` of those that are held in memory.
    """
    pool = _Pool(workers, plan, rate)
    batch = Batch(function, max_batch)
    iterator = iter(sources)
    exhausted = False
    failure: Exception | None = None  # of the iterator
    flying: deque[_Job] = deque()  # submitted and not yet yielded, in order
    unread: deque[_Job] = deque()  # those of them that have more to take
    try:
        while True:
            while not exhausted and len(unread) < workers + max_batch:
                if sum(job.in_memory for job in unread) >= 2 * workers:
                    break
                try:
                    source = next(iterator)
                except StopIteration:
                    exhausted = True
                    break
                except Exception as error:
                    exhausted, failure = True, error
                    break
                job = _Job(source, sample_rate(source), Outcome(name_of(source)))
                flying.append(job)
                unread.append(job)
                pool.submit(job)
            while flying and flying[0].ended and not flying[0].waiting:
                yield _finish(flying.popleft())
            if not unread:
                if not len(batch) and exhausted:
                    if failure is not None:
                        raise failure
                    return
                batch.run()
                continue
            job = unread[0]
            item = pool.take(job, wait=not len(batch))
            if item is None:
                batch.run()
            elif isinstance(item, SegmentPlan):
                job.plans += 1
                job.parts.clear()
                job.outcome.plan = item
            elif isinstance(item, _End):
                job.ended = True
                outcome = job.outcome
                outcome.warnings, outcome.duration_s, outcome.error = item.warnings, item.duration_s, item.error
                unread.popleft()
            else:
                batch.add(job, item)
    finally:
        pool.close()


def _finish(job: _Job) -> Outcome:
    import numpy as np

    outcome = job.outcome
    if outcome.error is None:
        assert outcome.plan is not None
        outcome.values = np.concatenate(job.parts)
        if len(outcome.values) != len(outcome.plan.starts):
            outcome.error = AudioError(f"{len(outcome.values)} windows decoded of {len(outcome.plan.starts)} planned")
        elif not np.isfinite(outcome.values).all():
            outcome.error = AudioError("the scores are not finite; the signal is too loud for float32 arithmetic")
    if outcome.error is not None:
        outcome.error = _named(outcome.path, outcome.error)
        outcome.values = None
    return outcome


def _named(path: str, error: Exception) -> Exception:
    """``error`` as a one-line FcntagError whose message starts with the track's name."""
    from .audio import display_name

    path = display_name(path)
    text = " ".join(str(error).split())
    if isinstance(error, FcntagError) and text.startswith(path):
        return error
    if not isinstance(error, FcntagError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    named = AudioError(f"{path}: {text}")
    named.__cause__ = error
    return named


def is_array(source: Any) -> bool:
    """Whether a source needs a sample rate beside it."""
    return hasattr(source, "__array__")


def name_of(source: Any) -> str:
    """What a result calls its source: the path as given, or a name in angle brackets."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "<bytes>"
    if is_array(source):
        return "<array>"
    name = getattr(source, "name", None)
    if not callable(getattr(source, "read", None)):
        return f"<{type(source).__name__}>"
    return os.fsdecode(name) if isinstance(name, (str, bytes)) and name else "<stream>"


def default_workers() -> int:
    """Decode threads: the CPUs of the affinity mask and cgroup quota, at most 4 (the engine needs them too)."""
    from . import _C

    return min(4, _C.available_threads())
