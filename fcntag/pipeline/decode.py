"""The decode pool: threads that open, plan, decode and resample tracks, in order and within a limit of memory."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import process
from ..errors import AudioError, FcntagError
from .segments import SegmentPlan

if TYPE_CHECKING:
    import numpy as np

    from ..audio import Track


# Bytes of windows that are decoded ahead of the engine. This holds some hundred short windows, or a second one of the
# longest for each worker; less would let the engine wait, and more would only cost memory.
DECODED_BYTES = 48 << 20
# A header can lie once; a length that differs again after decoding the whole track is a defect, not a repair.
MAX_PLANS = 3
# A worker may sit in a read that nothing can interrupt (a pipe). Closing waits for it so long, then leaves it behind.
CLOSE_SECONDS = 1.0


@dataclass(eq=False)
class Job:
    """One source on its way. The worker appends to ``ready`` and the consumer takes from it, under the pool's lock."""

    source: Any
    sample_rate: int | None
    path: str
    ready: deque[Any] = field(default_factory=deque)  # SegmentPlan, windows, ..., at last an End
    plans: int = 0  # number of the plan that the windows belong to; windows of an earlier plan are dropped
    parts: list[np.ndarray] = field(default_factory=list)
    waiting: int = 0  # windows in the batch that is being filled
    plan: SegmentPlan | None = None  # the latest
    end: End | None = None

    @property
    def in_memory(self) -> bool:
        return not isinstance(self.source, (str, os.PathLike))


@dataclass(frozen=True)
class End:
    warnings: tuple[str, ...] = ()
    duration_s: float | None = None
    error: Exception | None = None


class _Closed(BaseException):
    """The consumer has gone; the worker stops where it is."""


class DecodePool:
    """Worker threads that decode jobs in the order given, and block when DECODED_BYTES wait to be taken."""

    def __init__(self, workers: int, plan: Callable[[int], SegmentPlan], rate: int) -> None:
        if process.ending():
            process.wait_for_the_end()
        if sys.is_finalizing():  # no thread starts any more
            raise FcntagError("the interpreter is shutting down; nothing can be decoded any more")
        self._workers, self._plan, self._rate = workers, plan, rate
        self._process = process.here()
        self.lock = threading.RLock()
        self._conditions: list[threading.Condition] = []
        self._changed = self.condition()
        self._jobs: deque[Job] = deque()
        self.threads: list[threading.Thread] = []
        self._started = 0  # workers
        self._idle = 0
        self._bytes = 0
        self._head: Job | None = None
        self.closed = False
        _open_pools.add(self)

    def inherited(self) -> bool:
        """Whether this process is a forked child of the pool's: its threads are not here, its lock may never open."""
        return process.here() != self._process

    def check(self) -> None:
        """Raise FcntagError where the pool's threads are gone: in a forked child, or when the program has ended.

        Without the lock: a daemon thread of a program that has ended does not return.
        """
        if self.inherited():
            raise FcntagError(
                f"these results were begun in process {self._process[0]} and cannot go on in its forked child "
                f"{os.getpid()}; ask for them anew there"
            )
        if self.closed:
            process.wait_for_the_end()
            raise FcntagError("these results cannot go on: the program has ended")

    def condition(self) -> threading.Condition:
        """A condition with the pool's lock, which :meth:`stop` notifies."""
        self._conditions.append(threading.Condition(self.lock))
        return self._conditions[-1]

    def start(self, name: str, *call: Any) -> None:
        """Start a thread for a function with arguments that returns after :meth:`stop`."""
        thread = threading.Thread(target=_run, args=(sys.stdin, *call), name=name, daemon=True)
        thread.start()
        self.threads.append(thread)

    def submit(self, job: Job) -> None:
        """Put a job behind the others. RuntimeError where the system starts no thread at all."""
        with self.lock:
            self._jobs.append(job)
            if self._idle < len(self._jobs) and self._started < self._workers:
                try:
                    self.start("fcntag-decode", self._work)
                    self._started += 1
                except RuntimeError:  # no more threads: those that there are must do
                    if not self._started:
                        raise
            self._changed.notify_all()

    def take(self, job: Job, wait: bool) -> Any | None:
        """The next of ``job``'s plan, windows and end; None if there is none and ``wait`` is false, or at the end."""
        with self.lock:
            if self._head is not job:
                self._head = job
                self._changed.notify_all()
            while not job.ready:
                if not wait or self.closed:
                    return None
                self._changed.wait()
            item = job.ready.popleft()
            if not isinstance(item, (SegmentPlan, End)):
                self._bytes -= item.nbytes
            self._changed.notify_all()
            return item

    def stop(self) -> None:
        """Tell the workers to stop where they are, without waiting for them. Does nothing in a forked child."""
        if self.closed or self.inherited():
            return
        with self.lock:
            self.closed = True
            for condition in self._conditions:
                condition.notify_all()

    def close(self) -> None:
        """Stop the workers, and wait a moment until they have let go of their tracks."""
        self.stop()
        if not self.inherited():
            join(self.threads)
        _open_pools.discard(self)

    def _put(self, job: Job, item: Any) -> None:
        with self._changed:
            if not isinstance(item, (SegmentPlan, End)):
                # The job that the consumer waits for may always put one: jobs are taken in order, so it has a worker,
                # and no number of later tracks can keep it from making progress.
                while self._bytes + item.nbytes > DECODED_BYTES and not (self._head is job and not job.ready):
                    if self.closed:
                        raise _Closed
                    self._changed.wait()
                self._bytes += item.nbytes
            if self.closed:
                raise _Closed
            job.ready.append(item)
            self._changed.notify_all()

    def _work(self) -> None:
        process.own_thread()
        while True:
            with self._changed:
                self._idle += 1
                while not self._jobs and not self.closed:
                    self._changed.wait()
                self._idle -= 1
                if self.closed:
                    return
                job = self._jobs.popleft()
            try:
                try:
                    end = self._decode(job)
                except (_Closed, process.Leaving):
                    raise
                except Exception as error:  # whatever a decoder does, the other tracks go on
                    end = End(error=error)
                except BaseException as error:  # an exit that a file object of the caller's asks for is not ours
                    end = End(error=RuntimeError(f"{type(error).__name__}: {error}"))
                job.source = None  # an array or file object must not live as long as its result waits
                self._put(job, end)
            except (_Closed, process.Leaving):
                return

    def _decode(self, job: Job) -> End:
        from ..audio import display_name, open_track

        source = job.source
        if is_array(source):
            import numpy as np

            source = np.asarray(source)  # a tensor of another library, too
        with open_track(source, sample_rate=job.sample_rate, name=display_name(job.path)) as track:
            n_total = track.length(self._rate)
            for _ in range(MAX_PLANS):
                plan = self._plan(n_total)
                self._put(job, plan)
                for window in read_windows(track, plan):
                    self._put(job, window)
                n_true = track.length(self._rate)
                if n_true == n_total:
                    duration_s = track.duration_s
                    return End(
                        warnings=(*track.warnings, *plan.warnings),
                        duration_s=n_total / self._rate if duration_s is None else duration_s,
                    )
                n_total = n_true  # the header lied: the windows decoded so far are not where the rule wants them
            raise AudioError(f"{track.name}: its length changes each time it is decoded; last {n_total} samples")


def _run(stdin: Any, function: Callable[..., None], *arguments: Any) -> None:
    """Call a function of the caller's sources and keep ``stdin`` meanwhile.

    The thread may sit in a read of ``stdin.buffer`` when the program ends. The interpreter aborts where it has to close
    the stream then; with a reference in this frame it leaves it open.
    """
    function(*arguments)


def join(threads: Sequence[threading.Thread]) -> None:
    """Wait for threads that were told to stop, CLOSE_SECONDS for all together."""
    deadline = time.monotonic() + CLOSE_SECONDS
    for thread in threads:
        if thread is not threading.current_thread():  # which may run a collection of garbage that closes its own pool
            thread.join(max(0.0, deadline - time.monotonic()))


_open_pools: set[DecodePool] = set()


def _close_pools() -> None:
    """Stop every pool while the interpreter is whole: a worker must not be inside a decoder when it goes."""
    pools = [pool for pool in list(_open_pools) if not pool.inherited()]
    for pool in pools:
        pool.stop()
    join([thread for pool in pools for thread in pool.threads])


process.at_end(_close_pools)


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


def is_array(source: Any) -> bool:
    """Whether a source needs a sample rate beside it."""
    return hasattr(source, "__array__")


def name_of(source: Any) -> str:
    """The name of a source in its result: the path as given, or a name in angle brackets."""
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
    from .. import _C

    return min(4, _C.available_threads())
