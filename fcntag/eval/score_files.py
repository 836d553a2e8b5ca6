"""Scores that were computed before: the files of ``fcntag tag``, or a matrix of another system.

.parquet        fcntag tag -f parquet
.jsonl, .json   fcntag tag -n 0
.csv            fcntag tag -n 0 (path,label,score,rank), or a matrix with the header path,TAG,TAG,...
.npy            float [n_clips, n_tags]; FILE.npy.json beside it with {"paths": [...], "labels": [...]}, or the
                rows in the order of the dataset (of its list, where one is given), and the tags given
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DatasetError, FcntagError
from .datasets import Dataset
from .datasets.base import load_array, rows_of
from .datasets.plain import PATH_HEADERS
from .scoring import Scores

ALL_TAGS = "every track needs all tags: fcntag tag -n 0 writes them"


@dataclass(eq=False)
class ScoreTable:
    """The contents of a file. Where ``paths`` is None, the rows are those of the dataset, in its order."""

    source: str
    tags: tuple[str, ...]
    paths: list[str] | None
    values: np.ndarray  # float [n, n_tags]
    errors: dict[str, str] = field(default_factory=dict)  # path -> error of a track that failed
    about: dict[str, Any] = field(default_factory=dict)

    def of(self, dataset: Dataset) -> Scores:
        """The rows of a dataset's clips. A scored path belongs to the clip whose path it is or ends in.

        Raises
        ------
        DatasetError : two rows of one clip differ, or no row is a clip's
        """
        n_clips = len(dataset.paths)
        scores = Scores(self.tags, np.full((n_clips, len(self.tags)), np.nan), np.zeros(n_clips, bool))
        scores.about = {"scores": self.source, **self.about}
        if self.paths is None:
            if len(self.values) != n_clips:
                raise DatasetError(
                    f"{self.source}: {len(self.values)} rows; the dataset has {n_clips} clips. "
                    f"{self.source}.json can name the rows"
                )
            scores.values[:], scores.known[:] = self.values, True
            return scores
        clips = _Clips(dataset)
        for path, row in zip(self.paths, self.values, strict=True):
            i = clips.find(path)
            if i is None:
                continue
            if scores.known[i] and (scores.values[i] != row).any():
                raise DatasetError(f"{self.source}: clip {dataset.paths[i]!r} is there twice, with different scores")
            scores.values[i], scores.known[i] = row, True
        if not scores.known.any():
            first = f"; it begins with {self.paths[0]!r}" if self.paths else ""
            raise DatasetError(f"{self.source}: has no scores of a clip of {dataset.name}{first}")
        for path, error in self.errors.items():
            i = clips.find(path)
            if i is not None and not scores.known[i]:
                scores.failed[dataset.paths[i]] = error
        scores.missing = [
            path
            for path, known in zip(dataset.paths, scores.known.tolist(), strict=True)
            if not known and path not in scores.failed
        ]
        return scores


class _Clips:
    """Finds a clip by a path that ends in its own."""

    def __init__(self, dataset: Dataset) -> None:
        self._rows: dict[str, int] = {}
        for i, path in enumerate(dataset.paths):
            stem, suffix = os.path.splitext(_printable(path))
            for infix in dataset.infixes:
                self._rows.setdefault(f"{stem}{infix}{dataset.suffix or suffix}", i)

    def find(self, path: str) -> int | None:
        path = _printable(path)
        while path:
            if path in self._rows:
                return self._rows[path]
            path = path.partition("/")[2]
        return None


def _printable(path: str) -> str:
    """As ``fcntag tag`` writes a path: bytes that are not UTF-8 as \\xe9."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def read_scores(path: str, tags: Sequence[str] | None = None) -> ScoreTable:
    """Read a file of scores; its ending tells the form.

    ``tags``: labels of the columns of a .npy that has no index beside it.

    Raises
    ------
    DatasetError : unreadable, not of a known form, tags missing, or scores that are not finite
    FcntagError : a Parquet file without pyarrow
    """
    suffix = os.path.splitext(path)[1].lower()
    readers = {".parquet": _parquet, ".jsonl": _jsonl, ".json": _json, ".csv": _csv}
    if suffix == ".npy":
        table = _npy(path, tags)
    elif suffix in readers:
        table = readers[suffix](path)
    else:
        raise DatasetError(f"{path}: scores are read from {', '.join(readers)} and .npy")
    bad = np.argwhere(~np.isfinite(table.values))
    if len(bad):
        row, column = bad[0]
        where = f"row {row}" if table.paths is None else repr(table.paths[row])
        value = table.values[row, column]
        raise DatasetError(f"{path}: the score of {table.tags[column]!r} in {where} is {value}; it must be a number")
    if len(set(table.tags)) != len(table.tags):
        raise DatasetError(f"{path}: a tag is there twice")
    return table


def _parquet(path: str) -> ScoreTable:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise FcntagError('pyarrow is not installed; it comes with: pip install "fcntag[eval]"') from None
    try:
        table = parquet.read_table(path)
        about = json.loads((table.schema.metadata or {})[b"fcntag"])
        labels = tuple(about["labels"])
        columns = {name: table.column(name).to_pylist() for name in ("path", "scores", "error")}
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or 'not a Parquet file'}") from None
    except (KeyError, TypeError, ValueError, pyarrow.ArrowException):
        raise DatasetError(f"{path}: not what fcntag tag -f parquet writes") from None
    rows = [
        (name, scores) for name, scores in zip(columns["path"], columns["scores"], strict=True) if scores is not None
    ]
    errors = {name: str(e) for name, e in zip(columns["path"], columns["error"], strict=True) if e is not None}
    for name, scores in rows:
        if len(scores) != len(labels):
            raise DatasetError(f"{path}: {name!r} has {len(scores)} scores for {len(labels)} tags")
    values = np.array([[math.nan if s is None else s for s in scores] for _, scores in rows], float)
    about = {key: about[key] for key in ("model", "engine") if key in about}
    return ScoreTable(path, labels, [name for name, _ in rows], values.reshape(len(rows), len(labels)), errors, about)


def _jsonl(path: str) -> ScoreTable:
    def records() -> Iterable[tuple[int, Any]]:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, json.loads(line)

    return _records(path, records(), "line")


def _json(path: str) -> ScoreTable:
    def records() -> Iterable[tuple[int, Any]]:
        with open(path, encoding="utf-8") as file:
            yield from enumerate(json.load(file), start=1)

    return _records(path, records(), "record")


def _records(path: str, records: Iterable[tuple[int, Any]], unit: str) -> ScoreTable:
    labels: dict[str, int] = {}
    found: dict[str, list[float]] = {}
    errors: dict[str, str] = {}
    about: dict[str, Any] = {}
    number = 0
    try:
        for number, record in records:
            name = record["path"]
            if record["error"] is not None:
                errors[name] = str(record["error"])
                continue
            scores = {tag["label"]: float(tag["score"]) for tag in record["tags"]}
            engine = {"model": record["model"], "engine": record["engine"]}
            labels = labels or {label: i for i, label in enumerate(scores)}
            about = about or engine
            if engine["model"] != about["model"]:
                raise DatasetError(f"{path}: {unit} {number} is of another model than those before")
            if scores.keys() != labels.keys():
                raise DatasetError(f"{path}: {unit} {number} has other tags than those before; {ALL_TAGS}")
            found[name] = [scores[label] for label in labels]
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from None
    except DatasetError:
        raise
    except (KeyError, TypeError, ValueError):
        raise DatasetError(f"{path}: after {unit} {number}: not a record of fcntag tag") from None
    values = np.array(list(found.values()), float).reshape(len(found), len(labels))
    return ScoreTable(path, tuple(labels), list(found), values, errors, about)


def _csv(path: str) -> ScoreTable:
    rows = rows_of(path, ",")
    _, header = next(rows, (0, []))
    if header[:3] == ["path", "label", "score"]:
        scores: dict[str, dict[str, float]] = {}
        labels: dict[str, None] = {}
        for line, row in rows:
            scores.setdefault(row[0], {})[row[1]] = _number(row, 2, path, line)
            labels.setdefault(row[1])
        for name, found in scores.items():
            if len(found) != len(labels):
                raise DatasetError(f"{path}: {name!r} has {len(found)} of {len(labels)} tags; {ALL_TAGS}")
        values = np.array([[found[label] for label in labels] for found in scores.values()], float)
        return ScoreTable(path, tuple(labels), list(scores), values.reshape(len(scores), len(labels)))
    if not header or header[0].lower() not in PATH_HEADERS or len(header) < 2:
        raise DatasetError(f"{path}: the first line must be path,label,score,rank, or path and the tags")
    names, matrix = [], []
    for line, row in rows:
        if len(row) != len(header):
            raise DatasetError(f"{path}: line {line}: {len(row)} fields; {len(header)} expected")
        names.append(row[0])
        matrix.append([_number(row, k, path, line) for k in range(1, len(row))])
    return ScoreTable(path, tuple(header[1:]), names, np.array(matrix, float).reshape(len(names), len(header) - 1))


def _number(row: list[str], column: int, path: str, line: int) -> float:
    try:
        return float(row[column])
    except (ValueError, IndexError):
        text = row[column] if column < len(row) else ""
        raise DatasetError(f"{path}: line {line}: {text!r} is not a score") from None


def _npy(path: str, tags: Sequence[str] | None) -> ScoreTable:
    values = load_array(path)
    if values.ndim != 2 or values.dtype.kind not in "fiub":
        raise DatasetError(f"{path}: {values.dtype} {list(values.shape)}; scores are numbers [n_clips, n_tags]")
    index, paths, errors, about = path + ".json", None, {}, {}
    if os.path.exists(index):
        try:
            with open(index, encoding="utf-8") as file:
                data = json.load(file)
            paths, tags = list(data["paths"]), list(data["labels"])
            errors = dict(data.get("errors", {}))
            about = {key: data[key] for key in ("model", "engine") if key in data}
        except (OSError, ValueError, KeyError, TypeError):
            raise DatasetError(f'{index}: not an object with "paths" and "labels"') from None
        if len(paths) != len(values):
            raise DatasetError(f"{path}: {len(values)} rows; {index} has {len(paths)} paths")
    if tags is None:
        raise DatasetError(f"{path}: no {index} names the columns, and no tags are given")
    if len(tags) != values.shape[1]:
        raise DatasetError(f"{path}: {values.shape[1]} columns for {len(tags)} tags")
    return ScoreTable(path, tuple(tags), paths, values.astype(float), errors, about)
