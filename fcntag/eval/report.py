"""The figures of an evaluation, and the forms in which they are written: table, JSON, CSV."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DatasetError, FcntagError
from . import metrics
from .align import Truth
from .scoring import Scores

SCHEMA = 1
NAMED = 5  # missing or broken files in the table; JSON has them all
CSV_HEADER = (
    *("label", "positives", "clips", "roc_auc", "roc_auc_low", "roc_auc_high"),
    *("pr_auc", "pr_auc_low", "pr_auc_high"),
)


@dataclass(frozen=True)
class Value:
    """A figure with its bootstrap interval; ``low``, ``high`` None where none was asked for or defined."""

    value: float
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """``{value, low, high}``"""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class TagReport:
    """One tag's figures."""

    label: str  # the model's
    sources: tuple[str, ...]  # tags of the dataset that stand for it
    positives: int  # clips that have it
    roc_auc: Value
    pr_auc: Value
    resamples_undefined: int = 0  # resamples without a positive or without a negative clip, left out


@dataclass(frozen=True, eq=False)
class Report:
    """An evaluation. The macro averages are over ``tags``; ``left_out`` has no positive or no negative clip."""

    dataset: str
    source: dict[str, Any]  # files and options that the dataset was read from
    about: dict[str, Any]  # model, engine and settings that computed the scores
    settings: dict[str, Any]  # resamples, seed, confidence
    clips: int  # evaluated
    cached: int  # of them from the cache
    untagged: int  # left out since they have none of the tags (``skip_untagged``)
    roc_auc: Value  # macro
    pr_auc: Value  # macro
    tags: tuple[TagReport, ...]
    left_out: tuple[tuple[str, int], ...]  # (label, positives)
    model_only: tuple[str, ...]
    dataset_only: tuple[str, ...]
    missing: tuple[str, ...]
    failed: dict[str, str]
    notes: tuple[str, ...] = ()
    published: tuple[dict[str, Any], ...] = field(default=())  # the model's figures on this dataset, by their authors

    def to_dict(self) -> dict[str, Any]:
        """Everything, of plain JSON types."""
        from .. import __version__

        return {
            "schema": SCHEMA,
            "fcntag": __version__,
            "dataset": {"name": self.dataset, **self.source},
            "scores": self.about,
            "settings": self.settings,
            "clips": {
                "evaluated": self.clips,
                "from_cache": self.cached,
                "untagged": self.untagged,
                "missing": len(self.missing),
                "failed": len(self.failed),
            },
            "macro": {
                "tags": len(self.tags),
                "roc_auc": self.roc_auc.to_dict(),
                "pr_auc": self.pr_auc.to_dict(),
            },
            "published": list(self.published),
            "tags": [
                {
                    "label": tag.label,
                    "annotated_as": list(tag.sources),
                    "positives": tag.positives,
                    "roc_auc": tag.roc_auc.to_dict(),
                    "pr_auc": tag.pr_auc.to_dict(),
                    "resamples_undefined": tag.resamples_undefined,
                }
                for tag in self.tags
            ],
            "left_out": [{"label": label, "positives": positives} for label, positives in self.left_out],
            "only_in_model": list(self.model_only),
            "only_in_dataset": list(self.dataset_only),
            "missing": list(self.missing),
            "failed": [{"path": path, "error": error} for path, error in self.failed.items()],
            "notes": list(self.notes),
        }

    def csv_rows(self) -> Iterator[tuple[Any, ...]]:
        """Rows under CSV_HEADER: the macro averages, then every tag; a field is empty where there is no value."""
        yield "(macro)", "", self.clips, *_fields(self.roc_auc), *_fields(self.pr_auc)
        for tag in self.tags:
            yield tag.label, tag.positives, self.clips, *_fields(tag.roc_auc), *_fields(tag.pr_auc)
        for label, positives in self.left_out:
            yield label, positives, self.clips, *[""] * 6

    def summary(self) -> str:
        """The macro averages in one line."""
        return f"macro over {len(self.tags)} tags: ROC-AUC {_text(self.roc_auc)}, PR-AUC {_text(self.pr_auc)}"

    def lines(self) -> Iterator[str]:
        """The report for people, tags by falling ROC-AUC."""
        of = [f"{len(self.missing)} missing"] if self.missing else []
        of += [f"{len(self.failed)} failed"] if self.failed else []
        of += [f"{self.untagged} without any of the tags left out"] if self.untagged else []
        of += [f"{self.cached} from the cache"] if self.cached else []
        split = self.source.get("list") or self.source.get("split")
        yield f"{self.dataset}{f', {split}' if split else ''}: {self.clips} clips" + "".join(f", {text}" for text in of)
        if "model" in self.about:
            engine = self.about.get("engine", {})
            yield (
                f"model {self.about['model']['name']} ({self.about['model']['sha256'][:12]}), "
                f"{engine.get('device')}, {engine.get('precision')}"
            )
        if "scores" in self.about:
            yield f"scores of {self.about['scores']}"
        if self.settings["resamples"]:
            yield (
                f"in brackets: {100 * self.settings['confidence']:g} % of {self.settings['resamples']} "
                f"resamples of the clips, seed {self.settings['seed']}"
            )
        yield ""
        best = sorted(self.tags, key=lambda tag: (-tag.roc_auc.value, tag.label))
        rows = [("macro", "", _text(self.roc_auc), _text(self.pr_auc))]
        rows += [(tag.label, str(tag.positives), _text(tag.roc_auc), _text(tag.pr_auc)) for tag in best]
        yield from _table(("tag", "positives", "ROC-AUC", "PR-AUC"), rows)
        yield ""
        for figure in self.published:
            yield f"published: {figure['name']} {figure['value']:.4f}, by {figure['by']}"
        yield from self._left_out()

    def _left_out(self) -> Iterator[str]:
        for label, positives in self.left_out:
            yield f"left out: {label}: {'every clip has it' if positives else 'no clip has it'}"
        if self.model_only:
            yield f"not in the dataset: {', '.join(self.model_only)}"
        if self.dataset_only:
            shown = ", ".join(self.dataset_only[:NAMED]) + (", ..." if len(self.dataset_only) > NAMED else "")
            yield f"not in the model: {len(self.dataset_only)} of the dataset's tags ({shown})"
        for note in self.notes:
            yield f"note: {note}"
        for title, names in (("missing", self.missing), ("failed", tuple(self.failed.values()))):
            for name in names[:NAMED]:
                yield f"{title}: {name}"
            if len(names) > NAMED:
                yield f"{title}: ... and {len(names) - NAMED} more (-f json lists them)"


def evaluate(
    truth: Truth,
    scores: Scores,
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    published: Sequence[dict[str, Any]] = (),
    notes: Sequence[str] = (),
) -> Report:
    """Compare scores with a dataset's annotations.

    Tags that no evaluated clip has, or that all have, are left out of the averages and listed. Clips without scores
    are left out and listed. Neither the order of the clips nor that of the tags changes a figure.

    Parameters
    ----------
    truth : the annotations (``align``), whose ``dataset`` the scores are for
    scores : of ``score``, or ``ScoreTable.of``; values of clips that are ``known`` must be finite
    resamples : int >= 0, of the bootstrap over the clips; 0: no intervals
    seed : int >= 0, of the resamples
    confidence : above 0, below 1
    published : figures to show beside, ``{name, value, by}`` (``published_figures``)
    notes : lines to add to the dataset's own

    Raises
    ------
    FcntagError : no clip has scores
    DatasetError : no tag has both a positive and a negative clip
    ValueError : scores that are not finite; resamples or confidence out of range; sizes that do not fit
    """
    dataset = truth.dataset
    if len(scores.known) != len(dataset.paths):
        raise ValueError(f"scores of {len(scores.known)} clips; the dataset has {len(dataset.paths)}")
    if not scores.known.any():
        first = next(iter(scores.failed.values()), None) or (
            f"{scores.missing[0]} is not there" if scores.missing else ""
        )
        raise FcntagError(
            f"{dataset.name}: no clip has scores: {len(scores.missing)} missing, {len(scores.failed)} failed; {first}"
        )
    rows = np.flatnonzero(scores.known)
    rows = rows[sorted(range(len(rows)), key=lambda i: dataset.paths[rows[i]])]
    labels, values = truth.labels[rows], scores.values[np.ix_(rows, truth.columns)].astype(np.float64)
    positives = labels.sum(axis=0)
    kept = [k for k in range(len(truth.tags)) if 0 < positives[k] < len(rows)]
    if not kept:
        raise DatasetError(
            f"{dataset.name}: none of {len(truth.tags)} tags has both a positive and a negative clip among {len(rows)}"
        )
    labels, values = metrics.check(labels, values)  # all columns: a NaN is refused whether its tag counts or not
    labels, values = labels[:, kept], values[:, kept]
    by_label = sorted(range(len(kept)), key=lambda k: truth.tags[kept[k]])
    point = metrics.per_tag(labels, values)
    intervals = None
    if resamples:
        intervals = metrics.bootstrap(
            labels[:, by_label], values[:, by_label], resamples=resamples, seed=seed, confidence=confidence
        )
    place = np.argsort(by_label)

    def value(which: int, k: int) -> Value:
        figure = float((point.roc_auc, point.pr_auc)[which][k])
        if intervals is None:
            return Value(figure)
        return Value(figure, _number(intervals.low[which, place[k]]), _number(intervals.high[which, place[k]]))

    def mean(which: int) -> Value:
        figure = metrics.macro((point.roc_auc, point.pr_auc)[which])
        if intervals is None:
            return Value(figure)
        return Value(figure, _number(intervals.macro_low[which]), _number(intervals.macro_high[which]))

    return Report(
        dataset=dataset.name,
        source={key: item for key, item in (dataset.source or {}).items() if item is not None},
        about=scores.about,
        settings={"resamples": resamples, "seed": seed, "confidence": confidence},
        clips=len(rows),
        cached=scores.cached,
        untagged=truth.untagged,
        roc_auc=mean(0),
        pr_auc=mean(1),
        tags=tuple(
            TagReport(
                truth.tags[column],
                truth.sources[column],
                int(positives[column]),
                value(0, k),
                value(1, k),
                0 if intervals is None else int(intervals.undefined[place[k]]),
            )
            for k, column in enumerate(kept)
        ),
        left_out=tuple((truth.tags[k], int(positives[k])) for k in range(len(truth.tags)) if k not in set(kept)),
        model_only=truth.model_only,
        dataset_only=truth.dataset_only,
        missing=tuple(scores.missing),
        failed=dict(scores.failed),
        notes=(*dataset.notes, *notes),
        published=tuple(published),
    )


def _number(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


def _fields(value: Value) -> tuple[Any, Any, Any]:
    return value.value, "" if value.low is None else value.low, "" if value.high is None else value.high


def _text(value: Value) -> str:
    interval = "" if value.low is None or value.high is None else f" [{value.low:.4f}, {value.high:.4f}]"
    return f"{value.value:.4f}{interval}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table: the first column left, the others right."""
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    for line in (head, *rows):
        cells = [f"{line[0]:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(line[1:], widths[1:], strict=True))]
        yield "  " + "  ".join(cells).rstrip()
