"""A tagging dataset after reading, and the reading that all formats share."""

from __future__ import annotations

import csv
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import DatasetError

NAMED = 3  # examples in a note
BINARY = frozenset(("0", "1", "0.0", "1.0"))  # the spellings of a cell in a matrix of labels


@dataclass(frozen=True, eq=False)
class Dataset:
    """Clips with their tags, as annotated.

    ``paths`` are those of the annotations, relative to ``audio``; each is there once. ``labels[i, k]``: clip i has tag
    k. ``notes`` are one line for each oddity in the annotations.
    """

    name: str  # as models name it: "MagnaTagATune", "MTG-Jamendo", "Million Song Dataset"; else "csv"
    paths: tuple[str, ...]  # [n_clips]
    tags: tuple[str, ...]  # [n_tags]
    labels: np.ndarray  # bool [n_clips, n_tags]
    audio: str | None = None  # folder of the sound files; None: paths are taken from the working folder
    suffix: str | None = None  # ".wav": the files end in it whatever the annotations say
    infixes: tuple[str, ...] = ("",)  # MTG-Jamendo's low-quality copies of 48/948.mp3 are named 48/948.low.mp3
    source: dict[str, Any] | None = None  # files and options that it was read from, of plain JSON types
    notes: tuple[str, ...] = ()

    def file(self, index: int) -> str:
        """The sound file of a clip; the first of its possible names where none exists."""
        stem, suffix = os.path.splitext(os.path.join(self.audio or "", self.paths[index]))
        names = [f"{stem}{infix}{suffix if self.suffix is None else self.suffix}" for infix in self.infixes]
        return next((name for name in names if os.path.exists(name)), names[0])

    def keep(self, rows: Sequence[int] | np.ndarray, *notes: str, **source: Any) -> Dataset:
        """The clips ``rows``, in that order."""
        return replace(
            self,
            paths=tuple(self.paths[i] for i in rows),
            labels=self.labels[np.asarray(rows, np.intp)],
            source={**(self.source or {}), **source},
            notes=(*self.notes, *notes),
        )

    def top(self, n: int | None) -> Dataset:
        """The ``n`` tags with the most clips (equal counts: the earlier column), in the order of the columns."""
        if n is None or n >= len(self.tags):
            return self
        best = np.sort(np.argsort(-self.labels.sum(axis=0), kind="stable")[:n])
        return replace(self, tags=tuple(self.tags[k] for k in best), labels=self.labels[:, best])


def make_dataset(
    name: str, annotations: str, paths: Sequence[str], tags: Sequence[str], labels: np.ndarray, **more: Any
) -> Dataset:
    """A Dataset of rows as read; a clip that is there twice with the same tags counts once, and a note says so.

    Raises
    ------
    DatasetError : no clips, no tags, a tag twice, or a clip twice with different tags
    """
    if not paths:
        raise DatasetError(f"{annotations}: has no clips")
    if not tags:
        raise DatasetError(f"{annotations}: has no tags")
    seen_tags: set[str] = set()
    for tag in tags:
        if tag in seen_tags:
            raise DatasetError(f"{annotations}: tag {tag!r} is there twice")
        seen_tags.add(tag)
    first: dict[str, int] = {}
    twice: list[str] = []
    for i, path in enumerate(paths):
        if path not in first:
            first[path] = i
        elif (labels[first[path]] != labels[i]).any():
            raise DatasetError(
                f"{annotations}: clip {path!r} is there twice, with different tags (rows {first[path] + 1}, {i + 1})"
            )
        else:
            twice.append(path)
    dataset = Dataset(name, tuple(paths), tuple(tags), labels, **more)
    if not twice:
        return dataset
    return dataset.keep(list(first.values()), f"{annotations}: {count(twice, 'clip')} repeated, counted once")


def count(names: Sequence[str], noun: str) -> str:
    """``3 clips ('a.mp3', 'b.mp3', ...)``"""
    shown = ", ".join(map(repr, names[:NAMED])) + (", ..." if len(names) > NAMED else "")
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'} ({shown})"


def clean_path(path: str) -> str:
    """A path as annotations write it, without a leading ``./`` that would make two of one."""
    while path.startswith("./"):
        path = path[2:].lstrip("/")
    return path


def rows_of(path: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of every line that is not empty.

    Bytes that are not UTF-8 stay as they are, as in names of files.

    Raises
    ------
    DatasetError : the file cannot be opened, or is not text
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            for row in reader:
                if row and any(row):
                    if any("\0" in field for field in row):
                        raise DatasetError(f"{path}: line {reader.line_num} is not text")
                    yield reader.line_num, row
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from None
    except csv.Error as error:
        raise DatasetError(f"{path}: line {reader.line_num}: {error}") from None


def binary(fields: Iterable[str], path: str, line: int) -> list[bool]:
    """Fields that are 0 or 1; raises DatasetError that names the first other one."""
    values = []
    for field in fields:
        text = field.strip()
        if text not in BINARY:
            raise DatasetError(f"{path}: line {line}: {field!r} is neither 0 nor 1")
        values.append(text[0] == "1")
    return values


def delimiter_of(path: str) -> str:
    """Tab for .tsv and .txt, else comma."""
    return "\t" if path.lower().endswith((".tsv", ".txt")) else ","


def load_array(path: str) -> np.ndarray:
    """A .npy file; objects (pickles) are refused, since loading them could run code.

    Raises
    ------
    DatasetError : unreadable, damaged, or holding objects
    """
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or 'not a .npy file'}") from None
    except (ValueError, EOFError, zipfile.BadZipFile):  # NumPy takes a file that is no .npy for a pickle
        raise DatasetError(f"{path}: not a .npy file, or one of Python objects, which are not loaded") from None
    if not isinstance(array, np.ndarray):
        raise DatasetError(f"{path}: is an .npz archive; give a .npy file")
    return array
