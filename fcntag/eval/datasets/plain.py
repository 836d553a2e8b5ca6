"""Datasets of one's own: a CSV (or tab separated .tsv) of paths and tags, in one of two forms.

path,rock,jazz          a matrix: the header names the tags, every other line holds 0 and 1
a/one.mp3,1,0

a/one.mp3,rock,loud     lists: each line a path and its tags; lines of the same path add up
a/two.mp3,jazz          (a header such as path,tags is skipped; a line of a path alone is a clip without tags)
"""

from __future__ import annotations

import numpy as np

from ...errors import DatasetError
from .base import BINARY, Dataset, binary, clean_path, delimiter_of, make_dataset, rows_of
from .lists import HEADERS, select

PATH_HEADERS = HEADERS | {"audio", "clip", "track"}
TAG_HEADERS = frozenset(("tag", "tags", "label", "labels"))


def plain(
    annotations: str,
    *,
    audio: str | None = None,
    clips: str | None = None,
    top: int | None = None,
    suffix: str | None = None,
) -> Dataset:
    """Read a CSV of paths and tags.

    Parameters
    ----------
    annotations : path of the file
    audio : the folder that paths start from; None: the working folder
    clips : path of a list of clips (see ``lists``), to take only those
    top : so many tags, the most frequent; None: all
    suffix : ending of the sound files, if not that of the annotations

    Raises
    ------
    DatasetError : unreadable or not of one of the forms; names file, line and value
    """
    rows = list(rows_of(annotations, delimiter_of(annotations)))
    if not rows:
        raise DatasetError(f"{annotations}: is empty")
    header = [field.strip() for field in rows[0][1]]
    headed = header[0].lower() in PATH_HEADERS
    listed = all(name.lower() in TAG_HEADERS or not name for name in header[1:])
    if headed and not listed:
        paths, tags, labels = _matrix(annotations, header, rows[1:])
    else:
        paths, tags, labels = _lists(annotations, rows[1:] if headed else rows)
    dataset = make_dataset(
        "csv", annotations, paths, tags, labels, audio=audio, suffix=suffix, source={"annotations": annotations}
    ).top(top)
    return dataset if clips is None else select(dataset, clips)


Read = tuple[list[str], list[str], np.ndarray]


def _matrix(annotations: str, header: list[str], rows: list[tuple[int, list[str]]]) -> Read:
    paths, labels = [], []
    for line, row in rows:
        if len(row) != len(header):
            raise DatasetError(f"{annotations}: line {line}: {len(row)} fields; {len(header)} expected")
        paths.append(clean_path(row[0]))
        labels.append(binary(row[1:], annotations, line))
    return paths, header[1:], np.array(labels, bool).reshape(len(paths), len(header) - 1)


def _lists(annotations: str, rows: list[tuple[int, list[str]]]) -> Read:
    tags_of: dict[str, set[str]] = {}
    for line, row in rows:
        names = {field.strip() for field in row[1:]} - {""}
        if names and names <= BINARY:
            raise DatasetError(
                f"{annotations}: line {line}: {row[1]!r} is no tag; a matrix of 0 and 1 needs a header: path,tag,..."
            )
        tags_of.setdefault(clean_path(row[0]), set()).update(names)
    tags = sorted(set().union(*tags_of.values()))
    column = {tag: k for k, tag in enumerate(tags)}
    labels = np.zeros((len(tags_of), len(tags)), bool)
    for i, names in enumerate(tags_of.values()):
        labels[i, [column[name] for name in names]] = True
    return list(tags_of), tags, labels
