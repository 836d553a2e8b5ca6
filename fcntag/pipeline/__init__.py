"""Tracks in, one array of values per window out: a decode pool in front of one consumer that batches across files.

    sources -> [feed: reads ahead] -> [worker threads: open, plan, decode, resample] -> queues, one a track
            -> batches [B, n_samples] -> function(batch) [B, K] -> Outcome per track, in the order of the sources

Threads are enough: soundfile, soxr and the engine all release the GIL. A batch takes what is ready when the engine
is free, up to ``max_batch`` windows of one length, from as many tracks as it needs. Memory is bounded by the batch
and by DECODED_BYTES of windows waiting, whatever the number and the length of the tracks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import AudioError, FcntagError
from .batch import Batch
from .decode import DecodePool, End, Job, default_workers, is_array
from .feed import Feed
from .segments import SegmentPlan

if TYPE_CHECKING:
    import numpy as np

    from .batch import Function

__all__ = ["Done", "Failed", "Outcome", "run_many", "run_one", "run_pipeline"]


@dataclass(frozen=True, eq=False)
class Done:
    """A source that was analysed: one row of values a window."""

    path: str
    plan: SegmentPlan
    values: np.ndarray  # [n_segments, K]
    duration_s: float | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Failed:
    """A source that could not be analysed. The message of ``error`` begins with the source's name."""

    path: str
    error: Exception
    duration_s: float | None
    warnings: tuple[str, ...]


Outcome = Done | Failed


def run_one(
    source: Any,
    function: Function,
    *,
    plan: Callable[[int], SegmentPlan],
    rate: int,
    sample_rate: int | None,
    max_batch: int,
) -> Done:
    """One source by itself; its error is raised. Arguments as for :func:`run_pipeline`."""
    (outcome,) = run_pipeline(
        [source], function, plan=plan, rate=rate, sample_rate=lambda _: sample_rate, max_batch=max_batch, workers=1
    )
    return _raise_error(outcome)


def run_many(
    sources: Iterable[Any],
    function: Function,
    *,
    plan: Callable[[int], SegmentPlan],
    rate: int,
    sample_rate: int | None,
    max_batch: int,
    workers: int | None,
    on_error: str,
) -> Iterator[Outcome]:
    """:func:`run_pipeline` with the options of ``Tagger.tag_many``, which are checked before the first source is read.

    ``sample_rate`` holds for those sources that are arrays; ``workers`` None means :func:`default_workers`;
    ``on_error="raise"`` raises the error of a failed source in the place of its outcome.
    """
    if isinstance(sources, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(sources, "read"):
        raise TypeError(f"sources: {type(sources).__name__} is one source; pass a list, or use tag()")
    if on_error not in ("record", "raise"):
        raise ValueError(f"on_error: {on_error!r} is not one of record, raise")
    run = run_pipeline(
        sources,
        function,
        plan=plan,
        rate=rate,
        sample_rate=lambda source: sample_rate if is_array(source) else None,
        max_batch=max_batch,
        workers=default_workers() if workers is None else workers,
    )
    return run if on_error == "record" else (_raise_error(outcome) for outcome in run)


def _raise_error(outcome: Outcome) -> Done:
    if isinstance(outcome, Failed):
        raise outcome.error
    return outcome


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

    An Exception of the iterator ``sources`` rises after the outcomes of all that it gave before. No outcome waits for a
    source: :class:`Feed` reads them, at most ``workers + max_batch`` ahead, and ``2 * workers`` of those in memory.
    ``sample_rate`` says which rate in Hz to open a source with (None for all but arrays). Raises FcntagError in a
    forked child of the process where the run began.
    """
    pool = DecodePool(workers, plan, rate)
    try:
        batch = Batch(function, max_batch)
        feed = Feed(sources, pool, sample_rate, ahead=workers + max_batch, ahead_in_memory=2 * workers)
        del sources  # the feed has the only reference, and lets go of it where it was read
        while True:
            pool.check()
            while feed.flying and feed.flying[0].end is not None and not feed.flying[0].waiting:
                yield _finish(feed.flying.popleft())
                pool.check()
            job = feed.head(wait=not len(batch))
            item = None if job is None else pool.take(job, wait=not len(batch))
            if pool.closed:
                continue
            if job is None and not len(batch):
                feed.raise_failure()
                return
            if job is None or item is None:
                batch.run()
            elif isinstance(item, SegmentPlan):
                job.plans += 1
                job.parts.clear()
                job.plan = item
            elif isinstance(item, End):
                job.end = item
                feed.drop_head()
            else:
                batch.add(job, item)
    finally:
        pool.close()


def _finish(job: Job) -> Outcome:
    import numpy as np

    assert job.end is not None
    error, duration_s, warnings = job.end.error, job.end.duration_s, job.end.warnings
    if error is None:
        assert job.plan is not None  # a worker that ends without an error has planned
        values = np.concatenate(job.parts)
        if len(values) != len(job.plan.starts):
            error = AudioError(f"{len(values)} windows decoded of {len(job.plan.starts)} planned")
        elif not np.isfinite(values).all():
            error = AudioError("the scores are not finite; the signal is too loud for float32 arithmetic")
        else:
            return Done(job.path, job.plan, values, duration_s, warnings)
    return Failed(job.path, _named(job.path, error), duration_s, warnings)


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
