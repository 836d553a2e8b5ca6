"""Lists of clips: which part of a dataset to evaluate, in the forms in which splits of tagging datasets circulate.

A text file (.txt, .tsv, .csv) with one clip a line, or a .npy array of strings. A line is a path, an id, or several
fields of which one is (Won's MagnaTagATune ``index<TAB>path``, musicnn's ``clip_id<TAB>[0, 1, ...]``, MTG-Jamendo's
own split files); a header, or any line none of whose fields is a clip, is reported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from ...errors import DatasetError
from .base import Dataset, clean_path, count, delimiter_of, load_array, rows_of

PICKLES = (".cp", ".pkl", ".pickle", ".p")
HEADERS = frozenset(("path", "track_id", "clip_id", "id", "file", "filename", "mp3_path"))


def read_list(path: str) -> list[list[str]]:
    """The fields of every line.

    Raises
    ------
    DatasetError : unreadable, a pickle, empty, or an array of something else than strings
    """
    lower = path.lower()
    if lower.endswith(PICKLES):
        raise DatasetError(
            f"{path}: a pickle, which is not loaded since it could run code; save the list as text, one clip a line"
        )
    if lower.endswith(".npy"):
        array = load_array(path)
        if array.ndim != 1 or array.dtype.kind not in "US":
            raise DatasetError(f"{path}: {array.dtype} {list(array.shape)}; a list is an array of strings [n]")
        texts = [
            value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value) for value in array
        ]
        entries = [text.split("\t") for text in texts]
    else:
        entries = [fields for _, fields in rows_of(path, delimiter_of(path))]
    if not entries:
        raise DatasetError(f"{path}: is empty")
    return entries


def select(dataset: Dataset, path: str, ids: Mapping[str, int] | None = None) -> Dataset:
    """The clips of ``dataset`` that the list at ``path`` names, in the order of the list.

    ``ids``: other names of the clips -> row. A field is a path, an id, or a path with another ending (a list made for
    converted audio); paths go first in a line, since an index beside one is not a clip's id. Each clip counts once;
    lines that name none become a note.

    Raises
    ------
    DatasetError : the list is unreadable or names no clip of the dataset
    """
    rows = {name: i for i, name in enumerate(dataset.paths)}
    stems: dict[str, int] = {}
    for i, name in enumerate(dataset.paths):
        stems.setdefault(os.path.splitext(name)[0], i)
    chosen: dict[int, None] = {}
    unknown: list[str] = []
    for number, fields in enumerate(read_list(path)):
        row = _find(fields, rows, stems, ids or {})
        if row is not None:
            chosen.setdefault(row)
        elif number or fields[0].lower() not in HEADERS:
            unknown.append(fields[0])
    source = (dataset.source or {}).get("annotations", dataset.name)
    if not chosen:
        raise DatasetError(
            f"{path}: names no clip of {source}; it begins with {unknown[0]!r}" if unknown else f"{path}: is empty"
        )
    notes = [f"{path}: {count(unknown, 'line')} not in {source}"] if unknown else []
    return dataset.keep(list(chosen), *notes, list=path)


def _find(
    fields: Sequence[str], rows: Mapping[str, int], stems: Mapping[str, int], ids: Mapping[str, int]
) -> int | None:
    names = [clean_path(field.strip()) for field in fields]
    for table in (rows, stems, ids):
        for name in names:
            key = os.path.splitext(name)[0] if table is stems else name
            if key in table and (table is not stems or "." in os.path.basename(name)):
                return table[key]
    return None
