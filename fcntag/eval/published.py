"""A model's published figures, and whether an evaluation is of the very test set that they were published for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..catalogue.facts import entries
from .align import Truth
from .datasets.magnatagatune import FOLDERS
from .datasets.magnatagatune import NAME as MAGNATAGATUNE
from .scoring import Scores

if TYPE_CHECKING:
    from ..model.document import ModelDocument


def published_figures(
    document: ModelDocument, truth: Truth, scores: Scores
) -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
    """The figures of ``document`` that may stand beside an evaluation, and a line that says why there are none.

    A figure is one of a set of clips and tags. Beside other clips, or fewer, or with merged tags, it would invite a
    comparison that means nothing. It is therefore given only if every clip of the test set (as many as the catalogue
    states, ``test_clips``) has scores, and every tag of the model is one tag of the dataset. MagnaTagATune's test clips
    are those of the folders d, e and f.

    Returns
    -------
    figures : of ``{name, value, by}``
    notes : one line where the model has figures for this dataset but for another test set; else empty
    """
    figures = [metric for metric in document.metrics if metric.dataset == truth.dataset.name]
    if not figures:
        return (), ()
    why = _difference(document, truth, scores)
    if why is None:
        return tuple({"name": metric.name, "value": metric.value, "by": metric.by} for metric in figures), ()
    return (), (f"the published figures of {document.name} are not shown: {why}",)


def _difference(document: ModelDocument, truth: Truth, scores: Scores) -> str | None:
    """What differs from the test set that the figures are for; None if nothing does."""
    expected = next((entry.test_clips for entry in entries() if entry.name == document.name), 0)
    if not expected:
        return "their test set is not on record"
    if truth.dataset.name == MAGNATAGATUNE and _elsewhere(truth.dataset.paths):
        return f"they are for the {expected} clips of the test split, the folders {', '.join(FOLDERS['test'])}"
    evaluated, annotated = int(scores.known.sum()), len(truth.dataset.paths)
    if annotated != expected:
        return f"they are for a test set of {expected} clips, these are {annotated}"
    if evaluated != expected:
        return f"they are for {expected} clips, of which {evaluated} have scores here"
    if truth.model_only or any(len(names) != 1 for names in truth.sources):
        return f"they are for {len(document.tags)} tags, each of them one tag of the dataset"
    return None


def _elsewhere(paths: Sequence[str]) -> bool:
    return any(path[:1] not in FOLDERS["test"] or path[1:2] != "/" for path in paths)
