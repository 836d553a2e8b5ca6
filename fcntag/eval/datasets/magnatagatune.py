"""MagnaTagATune (Law et al., ISMIR 2009): 25,863 clips of 29 s with 188 tags, in sixteen folders 0 to f.

``annotations_final.csv`` is tab separated: clip_id, a column 0 or 1 a tag, mp3_path. The usual split takes the folders
0 to b for training, c for validation and d, e, f for testing (12:1:3), and the 50 most frequent tags; clips without
any of them stay in. Won et al. (2020) and others leave those out: give their list (``clips``) or ``skip_untagged``.
"""

from __future__ import annotations

from ...errors import DatasetError
from .base import Dataset, binary, clean_path, count, make_dataset, rows_of
from .lists import select

NAME = "MagnaTagATune"
FOLDERS = {"train": "0123456789ab", "validation": "c", "test": "def", "all": "0123456789abcdef"}


def magnatagatune(
    annotations: str,
    *,
    audio: str | None = None,
    split: str = "test",
    clips: str | None = None,
    top: int | None = 50,
    suffix: str | None = None,
) -> Dataset:
    """Read MagnaTagATune.

    Parameters
    ----------
    annotations : path of annotations_final.csv
    audio : the folder that holds the folders 0 to f; None: the working folder
    split : "train", "validation", "test" or "all", by folder; ignored where ``clips`` is given
    clips : path of a list of clips (see ``lists``), by path or clip_id, in the place of ``split``
    top : so many tags, the most frequent in the whole file; None: all
    suffix : ending of the sound files, if not that of the annotations

    Raises
    ------
    DatasetError : unreadable or not of this form; names file, line and value
    """
    import numpy as np

    if split not in FOLDERS:
        raise DatasetError(f"split: {split!r} is not one of {', '.join(FOLDERS)}")
    rows = rows_of(annotations, "\t")
    _, header = next(rows, (0, []))
    if len(header) < 3 or header[0] != "clip_id" or header[-1] != "mp3_path":
        raise DatasetError(
            f"{annotations}: begins with {header[:1]}; the first line must be clip_id, the tags and mp3_path, "
            "tab separated"
        )
    paths, labels, ids = [], [], {}
    for line, row in rows:
        if len(row) != len(header):
            raise DatasetError(f"{annotations}: line {line}: {len(row)} fields; {len(header)} expected")
        paths.append(clean_path(row[-1]))
        labels.append(np.array(binary(row[1:-1], annotations, line)))
        ids[row[0]] = paths[-1]
    dataset = make_dataset(
        NAME,
        annotations,
        paths,
        header[1:-1],
        np.array(labels, bool),
        audio=audio,
        suffix=suffix,
        source={"annotations": annotations},
    ).top(top)
    if clips is not None:
        place = {path: i for i, path in enumerate(dataset.paths)}
        return select(dataset, clips, {clip: place[path] for clip, path in ids.items()})
    return _folders(dataset, annotations, split)


def _folders(dataset: Dataset, annotations: str, split: str) -> Dataset:
    """The clips in the folders of a split."""
    folders = [path.split("/")[0] if "/" in path else "" for path in dataset.paths]
    odd = [
        path for path, name in zip(dataset.paths, folders, strict=True) if len(name) != 1 or name not in FOLDERS["all"]
    ]
    chosen = [i for i, name in enumerate(folders) if len(name) == 1 and name in FOLDERS[split]]
    if split == "all":
        return dataset.keep(range(len(folders)), split=split)
    if not chosen:
        raise DatasetError(f"{annotations}: no clip in the folders {', '.join(FOLDERS[split])} of split {split!r}")
    notes = [f"{annotations}: {count(odd, 'clip')} in none of the folders 0 to f, and so in no split"] if odd else []
    return dataset.keep(chosen, *notes, split=split)
