"""Scores of a dataset's clips: from a Tagger, clip by clip, with or without a cache."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .cache import Note, ScoreCache, binding_of
from .datasets import Dataset

if TYPE_CHECKING:
    from ..result import Result
    from ..tagger import Tagger

OnClip = Callable[["Result | None"], None]  # None: a clip that was not tagged (missing, or in the cache)


@dataclass(eq=False)
class Scores:
    """A row for every clip of a dataset; one without scores is NaN, and ``missing`` or ``failed`` names the clip."""

    tags: tuple[str, ...]  # labels, [n_tags]
    values: np.ndarray  # float [n_clips, n_tags]
    known: np.ndarray  # bool [n_clips]
    # Sound files that are not there, by the path that was looked for; of a file of scores: clips that it lacks.
    missing: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # path -> error, one line
    cached: int = 0  # clips whose scores were in the cache
    about: dict[str, Any] = field(default_factory=dict)  # model, engine and settings that computed them


def score(
    tagger: Tagger,
    dataset: Dataset,
    *,
    cache: str | None = None,
    hop: float | None = None,
    segments: str | None = None,
    workers: int | None = None,
    on_clip: OnClip | None = None,
    note: Note | None = None,
) -> Scores:
    """Tag every clip of a dataset.

    A clip that is missing or broken is listed and does not stop the run. With ``cache`` an interrupted run goes on
    where it was, whatever ended it.

    Parameters
    ----------
    cache : folder for the scores (see ``fcntag.eval.cache``; needs pyarrow); None: nothing is kept
    hop, segments, workers : as for ``Tagger.tag_many``
    on_clip : is called after each clip, with its Result if it was tagged now
    note : called with one line for each part of the cache that is not used

    Raises
    ------
    ValueError : hop, segments or workers out of range
    FcntagError : pyarrow is not installed
    OSError : the cache cannot be written
    """
    n_clips, n_tags = len(dataset.paths), len(tagger.tags)
    scores = Scores(tagger.tags, np.full((n_clips, n_tags), np.nan, np.float32), np.zeros(n_clips, bool))
    binding = binding_of(tagger, hop, segments)
    scores.about = {name: binding[name] for name in ("model", "engine", "hop_s", "segments")}
    step = on_clip or (lambda result: None)
    flying: deque[tuple[int, str, os.stat_result]] = deque()

    def sources(store: ScoreCache | None) -> Iterator[str]:
        for i, path in enumerate(dataset.paths):
            file = dataset.file(i)
            known = None if store is None else store.get(file)
            if known is not None:
                scores.values[i], scores.known[i] = known, True
                scores.cached += 1
                step(None)
                continue
            try:
                status = os.stat(file)
            except OSError as error:
                if isinstance(error, FileNotFoundError):
                    scores.missing.append(file)
                else:
                    scores.failed[path] = f"{file}: {error.strerror or error}"
                step(None)
                continue
            flying.append((i, file, status))
            yield file

    with contextlib.ExitStack() as stack:
        store = None
        if cache is not None:
            store = stack.enter_context(ScoreCache(cache, binding, tagger.tags, note or (lambda text: None)))
        results = tagger.tag_many(sources(store), hop=hop, segments=segments, workers=workers)
        stack.enter_context(contextlib.closing(results))  # type: ignore[type-var]
        for result in results:
            i, file, status = flying.popleft()
            if result.scores is None:
                scores.failed[dataset.paths[i]] = str(result.error)
            else:
                scores.values[i], scores.known[i] = result.scores, True
                if store is not None:
                    store.put(file, status, result.scores)
            step(result)
    return scores
