"""A list of ids with a matrix of tags, the form in which Million Song Dataset splits circulate.

Ids are text, one a line (``TRAAAAW128F429D538``); row i of the matrix belongs to line i. musicnn's files hold both,
``id<TAB>[0, 1, 0, ...]``. The sound file of an id is given by a template; that of the Million Song Dataset by default.
"""

from __future__ import annotations

import json
import os
import string
from typing import Any

import numpy as np

from ...errors import DatasetError
from .base import BINARY, Dataset, binary, clean_path, delimiter_of, load_array, make_dataset, rows_of
from .lists import read_list, select
from .tag_names import read_tags

NAME = "Million Song Dataset"
TEMPLATE = "{id[2]}/{id[3]}/{id[4]}/{id}.mp3"  # A/B/C/TRABC....mp3


def msd(
    ids: str,
    labels: str | None = None,
    *,
    tags: str | tuple[str, ...] | None = None,
    audio: str | None = None,
    template: str = TEMPLATE,
    clips: str | None = None,
    top: int | None = None,
    suffix: str | None = None,
) -> Dataset:
    """Read ids and their tags.

    Parameters
    ----------
    ids : path of a list (text or .npy), one id a line; or lines of id and ``[0, 1, ...]``, then without ``labels``
    labels : the matrix [n_ids, n_tags] of 0 and 1: .npy; .npz as ``scipy.sparse.save_npz`` writes it (needs SciPy, in
        the extra "eval"), or with one array; .csv or .tsv, whose first line may be the tags
    tags : path of a file of names (one a line, a .npy array, or a list in a Python or JSON file), or the tags; None:
        the first line of the CSV
    audio : folder that the template starts from; None: the working folder
    template : path of an id: ``{id}``, single characters ``{id[2]}``, and ``{stem}``, the id without its ending
    clips : path of a list of ids or paths, to take only those
    top : so many tags, the most frequent; None: all
    suffix : ending of the sound files, in the place of the template's

    Raises
    ------
    DatasetError : unreadable, or sizes that do not fit; names file and value
    """
    check_template(template)
    entries = read_list(ids)
    names = [fields[0] for fields in entries]
    header: tuple[str, ...] | None = None
    if labels is None:
        matrix = np.array([_inline(fields, ids, i) for i, fields in enumerate(entries)], bool)
    else:
        matrix, header = read_matrix(labels)
    if isinstance(tags, str):
        tags = read_tags(tags)
    if tags is None:
        tags = header
    source = labels or ids
    if tags is None:
        raise DatasetError(
            f"{source}: has {matrix.shape[1]} columns without names; name a file with the tags, one a line"
        )
    if len(matrix) != len(names):
        raise DatasetError(f"{source}: {len(matrix)} rows; {ids} has {len(names)} ids")
    if matrix.shape[1] != len(tags):
        raise DatasetError(f"{source}: {matrix.shape[1]} columns for {len(tags)} tags")
    about: dict[str, Any] = {"annotations": ids, "labels": labels, "template": template}
    paths = [path_of(name, template, ids) for name in names]
    dataset = make_dataset(NAME, ids, paths, tags, matrix, audio=audio, suffix=suffix, source=about).top(top)
    if clips is None:
        return dataset
    place = {path: i for i, path in enumerate(dataset.paths)}
    return select(dataset, clips, {name: place[path] for name, path in zip(names, paths, strict=True)})


def check_template(template: str) -> None:
    """Raises DatasetError where a template holds something else than {id}, {id[N]}, {stem}, or no id at all."""
    allowed = "{id}, {id[0]}, {id[1]}, ... and {stem}"
    try:
        fields = [(name, form or "", conversion) for _, name, form, conversion in string.Formatter().parse(template)]
    except ValueError as error:
        raise DatasetError(f"template {template!r}: {error}; allowed: {allowed}") from None
    used = [field for field in fields if field[0] is not None]
    for name, form, conversion in used:
        index = name[3:-1] if name.startswith("id[") and name.endswith("]") else None
        known = name in ("id", "stem") or (index is not None and index.isdecimal())
        if not known or form or conversion:
            raise DatasetError(f"template {template!r}: {{{name}}} is not one of {allowed}")
    if not used:
        raise DatasetError(f"template {template!r}: names the same file for every id; it needs some of {allowed}")


def path_of(name: str, template: str, ids: str) -> str:
    """The path of one id."""
    try:
        return clean_path(template.format(id=name, stem=os.path.splitext(name)[0]))
    except IndexError:
        raise DatasetError(f"{ids}: id {name!r} is too short for the template {template!r}") from None


def read_matrix(path: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """bool [n, n_tags], and the tags where the file names them."""
    lower = path.lower()
    if lower.endswith((".csv", ".tsv", ".txt")):
        return _text_matrix(path)
    matrix: Any = _archive(path) if lower.endswith(".npz") else load_array(path)
    if matrix.ndim != 2 or matrix.dtype.kind not in "biuf":
        raise DatasetError(f"{path}: {matrix.dtype} {list(matrix.shape)}; labels are numbers [n_ids, n_tags]")
    odd = np.argwhere((matrix != 0) & (matrix != 1))
    if len(odd):
        raise DatasetError(f"{path}: {matrix[tuple(odd[0])]} in row {odd[0][0]} is neither 0 nor 1")
    return matrix.astype(bool), None


def _archive(path: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise DatasetError(f"{path}: not an .npz archive")
            if "format" not in archive.files:
                if len(archive.files) != 1:
                    raise DatasetError(f"{path}: holds {', '.join(archive.files)}; one array, or a SciPy sparse matrix")
                return archive[archive.files[0]]
    except DatasetError:
        raise
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or 'not an .npz archive'}") from None
    except Exception as error:  # zipfile, zlib and NumPy each have their own
        raise DatasetError(f"{path}: not an .npz archive ({error})") from None
    try:
        from scipy import sparse
    except ImportError:
        raise DatasetError(f'{path}: a sparse matrix needs SciPy; it comes with: pip install "fcntag[eval]"') from None
    try:
        return sparse.load_npz(path).toarray()
    except Exception as error:
        raise DatasetError(f"{path}: not a sparse matrix ({error})") from None


def _text_matrix(path: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    header: tuple[str, ...] | None = None
    rows: list[list[bool]] = []
    width = 0
    for line, fields in rows_of(path, delimiter_of(path)):
        if not width:
            width = len(fields)
            if any(field.strip() not in BINARY for field in fields):
                header = tuple(field.strip() for field in fields)
                continue
        if len(fields) != width:
            raise DatasetError(f"{path}: line {line}: {len(fields)} fields; {width} expected")
        rows.append(binary(fields, path, line))
    return np.array(rows, bool).reshape(len(rows), width), header


def _inline(fields: list[str], path: str, index: int) -> list[bool]:
    """The vector beside an id, ``[0, 1, ...]``."""
    try:
        values = json.loads(fields[1])
        if isinstance(values, list) and values and all(value in (0, 1) for value in values):
            return [bool(value) for value in values]
    except (IndexError, ValueError):
        pass
    raise DatasetError(f"{path}: id {fields[0]!r} has no vector [0, 1, ...] beside it; name the file with the labels")
