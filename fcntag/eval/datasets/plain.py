"""Datasets of one's own: a CSV (or tab separated .tsv) of paths and tags, in one of two forms.

path,rock,jazz          a matrix: the header names the tags, every other line holds 0 and 1
a/one.mp3,1,0

a/one.mp3,rock,loud     lists: each line a path and its tags; lines of the same path add up
a/two.mp3,jazz          (a header such as path,tags is skipped; a line of a path alone is a clip without tags)

path,split,rock,jazz    either form with a second column ``split``, as recipes/train.py takes it. There the tags of a
a/one.mp3,test,1,0      list may also stand in one field, separated by ";".
"""

from __future__ import annotations

import numpy as np

from ...errors import DatasetError
from .base import BINARY, Dataset, binary, clean_path, delimiter_of, make_dataset, rows_of
from .lists import HEADERS, select

PATH_HEADERS = HEADERS | {"audio", "clip", "track"}
TAG_HEADERS = frozenset(("tag", "tags", "label", "labels"))
# A file may call a split by any of these names, in upper or lower case.
SPLITS = {"train": "train", "training": "train", "valid": "validation", "val": "validation", "dev": "validation"}
SPLITS |= {"validation": "validation", "test": "test"}
CHOICES = ("train", "validation", "test", "all")


def plain(
    annotations: str,
    *,
    audio: str | None = None,
    split: str | None = None,
    clips: str | None = None,
    top: int | None = None,
    suffix: str | None = None,
) -> Dataset:
    """Read a CSV of paths and tags.

    Parameters
    ----------
    annotations : path of the file
    audio : the folder that paths start from; None: the working folder
    split : "train", "validation", "test" or "all", by the column ``split``; None: "test" if there is such a column and
        a clip has that split, else "all"; ignored where ``clips`` is given
    clips : path of a list of clips (see ``lists``), to take only those
    top : so many tags, the most frequent in the whole file; None: all
    suffix : ending of the sound files, if not that of the annotations

    Raises
    ------
    DatasetError : unreadable or not of one of the forms; names file, line and value
    """
    if split is not None and split not in CHOICES:
        raise DatasetError(f"split: {split!r} is not one of {', '.join(CHOICES)}")
    rows = list(rows_of(annotations, delimiter_of(annotations)))
    if not rows:
        raise DatasetError(f"{annotations}: is empty")
    header = [field.strip() for field in rows[0][1]]
    headed = header[0].lower() in PATH_HEADERS
    has_split = headed and len(header) > 1 and header[1].lower() == "split"
    splits = _splits(annotations, rows[1:]) if has_split else None
    lead = 2 if has_split else 1  # columns before the tags
    listed = all(name.lower() in TAG_HEADERS or not name for name in header[lead:])
    if headed and not listed:
        paths, tags, labels = _matrix(annotations, header, rows[1:], lead)
    else:
        paths, tags, labels = _lists(annotations, rows[1:] if headed else rows, lead)
    dataset = make_dataset(
        "csv", annotations, paths, tags, labels, audio=audio, suffix=suffix, source={"annotations": annotations}
    ).top(top)
    if clips is not None:
        return select(dataset, clips)
    if splits is not None:
        return _of_split(dataset, annotations, splits, split)
    if split is not None:
        raise DatasetError(f"{annotations}: the split {split!r} needs a second column: path,split,...")
    return dataset


def _splits(annotations: str, rows: list[tuple[int, list[str]]]) -> dict[str, str]:
    """The split of every path."""
    found: dict[str, str] = {}
    for line, row in rows:
        text, path = (row[1].strip() if len(row) > 1 else ""), clean_path(row[0])
        name = SPLITS.get(text.lower())
        if name is None:
            raise DatasetError(f"{annotations}: line {line}: split {text!r} is not one of {', '.join(SPLITS)}")
        if found.setdefault(path, name) != name:
            raise DatasetError(f"{annotations}: line {line}: clip {path!r} is in two splits, {found[path]} and {name}")
    return found


def _of_split(dataset: Dataset, annotations: str, splits: dict[str, str], split: str | None) -> Dataset:
    names = [splits[path] for path in dataset.paths]
    notes = []
    if split is None:
        split = "test" if "test" in names else "all"
        if split == "all":
            counts = ", ".join(f"{names.count(name)} {name}" for name in CHOICES if name in names)
            notes.append(f"{annotations}: no clip has the split 'test'; all are taken ({counts})")
    chosen = [i for i, name in enumerate(names) if split in (name, "all")]
    if not chosen:
        raise DatasetError(f"{annotations}: no clip has the split {split!r}")
    return dataset.keep(chosen, *notes, split=split)


Read = tuple[list[str], list[str], np.ndarray]


def _matrix(annotations: str, header: list[str], rows: list[tuple[int, list[str]]], lead: int) -> Read:
    paths, labels = [], []
    for line, row in rows:
        if len(row) != len(header):
            raise DatasetError(f"{annotations}: line {line}: {len(row)} fields; {len(header)} expected")
        paths.append(clean_path(row[0]))
        labels.append(binary(row[lead:], annotations, line))
    return paths, header[lead:], np.array(labels, bool).reshape(len(paths), len(header) - lead)


def _lists(annotations: str, rows: list[tuple[int, list[str]]], lead: int) -> Read:
    tags_of: dict[str, set[str]] = {}
    for line, row in rows:
        fields = row[lead:] if lead == 1 else ";".join(row[lead:]).split(";")
        names = {field.strip() for field in fields} - {""}
        if names and names <= BINARY:
            raise DatasetError(
                f"{annotations}: line {line}: {row[lead]!r} is no tag; a matrix of 0 and 1 needs a header: path,tag,..."
            )
        tags_of.setdefault(clean_path(row[0]), set()).update(names)
    tags = sorted(set().union(*tags_of.values()))
    column = {tag: k for k, tag in enumerate(tags)}
    labels = np.zeros((len(tags_of), len(tags)), bool)
    for i, names in enumerate(tags_of.values()):
        labels[i, [column[name] for name in names]] = True
    return list(tags_of), tags, labels
