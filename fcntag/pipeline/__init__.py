"""Tracks in, one array of values per window out: a decode pool in front of one consumer that batches across files.

    sources -> [worker threads: open, plan, decode, resample] -> queues, one a track -> batches [B, n_samples]
            -> function(batch) [B, K] -> Outcome per track, in the order of the sources

Threads are enough: soundfile, soxr and the engine all release the GIL. A batch takes what is ready when the engine
is free, up to ``max_batch`` windows of one length, from as many tracks as it needs. Memory is bounded by the batch
and by DECODED_BYTES of windows waiting, whatever the number and the length of the tracks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import AudioError, FcntagError
from .batch import Batch
from .decode import DecodePool, End, Job, Outcome, default_workers, is_array, name_of
from .segments import SegmentPlan

if TYPE_CHECKING:
    from .batch import Function

__all__ = ["Outcome", "default_workers", "is_array", "run_pipeline"]


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
    pool = DecodePool(workers, plan, rate)
    batch = Batch(function, max_batch)
    iterator = iter(sources)
    exhausted = False
    failure: Exception | None = None  # of the iterator
    flying: deque[Job] = deque()  # submitted and not yet yielded, in order
    unread: deque[Job] = deque()  # those of them that have more to take
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
                job = Job(source, sample_rate(source), Outcome(name_of(source)))
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
            elif isinstance(item, End):
                job.ended = True
                outcome = job.outcome
                outcome.warnings, outcome.duration_s, outcome.error = item.warnings, item.duration_s, item.error
                unread.popleft()
            else:
                batch.add(job, item)
    finally:
        pool.close()


def _finish(job: Job) -> Outcome:
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
    from ..audio import display_name

    path = display_name(path)
    text = " ".join(str(error).split())
    if isinstance(error, FcntagError) and text.startswith(path):
        return error
    if not isinstance(error, FcntagError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    named = AudioError(f"{path}: {text}")
    named.__cause__ = error
    return named
