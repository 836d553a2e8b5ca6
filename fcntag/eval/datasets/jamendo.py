"""MTG-Jamendo (Bogdanov et al., 2019): full tracks with tags such as ``genre---rock``, ``instrument---piano``.

Tab separated: TRACK_ID, ARTIST_ID, ALBUM_ID, PATH, DURATION, then the track's tags, as many as it has. The dataset's
repository keeps ``data/splits/split-0/autotagging_top50tags-test.tsv`` and the like. PATH is 48/948.mp3; the smaller
download names that file 48/948.low.mp3, which is found as well.
"""

from __future__ import annotations

import os

from ...errors import DatasetError
from .base import Dataset, clean_path, make_dataset, rows_of
from .lists import select

NAME = "MTG-Jamendo"
COLUMNS = ("TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS")
SPLITS = ("train", "validation", "test")


def jamendo(
    annotations: str,
    *,
    audio: str | None = None,
    split: str = "test",
    clips: str | None = None,
    subset: str = "autotagging_top50tags",
    number: int = 0,
    top: int | None = None,
    suffix: str | None = None,
) -> Dataset:
    """Read MTG-Jamendo, or a TSV file of its form.

    Parameters
    ----------
    annotations : a TSV file, all of which is taken; or a folder with ``{subset}-{split}.tsv``: that of one split, of
        all splits, or the data folder of the dataset's repository
    audio : the folder that holds the folders 00 to 99; None: the working folder
    split : "train", "validation" or "test": which file of the folder
    clips : path of a list of clips (see ``lists``), by path or TRACK_ID; a split file of another subset will do
    subset, number : which file of which split of the folder
    top : so many tags, the most frequent; None: all
    suffix : ending of the sound files, if not that of the annotations

    Raises
    ------
    DatasetError : unreadable or not of this form; names file, line and value
    """
    import numpy as np

    if os.path.isdir(annotations):
        annotations = _split_file(annotations, split, subset, number)
    rows = rows_of(annotations, "\t")
    _, header = next(rows, (0, []))
    if tuple(header[: len(COLUMNS)]) != COLUMNS:
        raise DatasetError(
            f"{annotations}: begins with {header[:1]}; the first line must be {', '.join(COLUMNS)}, tab separated"
        )
    paths, tags_of, ids = [], [], {}
    for line, row in rows:
        if len(row) < 5:
            raise DatasetError(f"{annotations}: line {line}: {len(row)} fields; 5 or more expected")
        paths.append(clean_path(row[3]))
        tags_of.append([tag for tag in row[5:] if tag])
        ids[row[0]] = paths[-1]
    tags = sorted({tag for tags in tags_of for tag in tags})
    column = {tag: k for k, tag in enumerate(tags)}
    labels = np.zeros((len(paths), len(tags)), bool)
    for i, names in enumerate(tags_of):
        labels[i, [column[name] for name in names]] = True
    dataset = make_dataset(
        NAME,
        annotations,
        paths,
        tags,
        labels,
        audio=audio,
        suffix=suffix,
        infixes=("", ".low"),
        source={"annotations": annotations},
    ).top(top)
    if clips is None:
        return dataset
    place = {path: i for i, path in enumerate(dataset.paths)}
    return select(dataset, clips, {track: place[path] for track, path in ids.items()})


def _split_file(folder: str, split: str, subset: str, number: int) -> str:
    if split not in SPLITS:
        raise DatasetError(f"split: {split!r} is not one of {', '.join(SPLITS)}")
    name = f"{subset}-{split}.tsv"
    places = [os.path.join(folder, *parts, name) for parts in ((), (f"split-{number}",), ("splits", f"split-{number}"))]
    for place in places:
        if os.path.isfile(place):
            return place
    raise DatasetError(f"{folder}: no {name} in it, nor in split-{number} or splits/split-{number}")
