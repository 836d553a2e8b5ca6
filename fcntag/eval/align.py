"""Matching the scores' tags with the annotations': by name, and merged where a map says so."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DatasetError
from .datasets import Dataset

Merges = Mapping[str, "tuple[str, ...]"]  # tag of the dataset -> tags of the model


@dataclass(frozen=True, eq=False)
class Truth:
    """A dataset in the words of a model: the tags that both know, in the dataset's order."""

    dataset: Dataset
    tags: tuple[str, ...]  # the model's, [n_tags]
    columns: np.ndarray  # int [n_tags], their places among the model's tags
    labels: np.ndarray  # bool [n_clips, n_tags]: the clip has one of the dataset's tags that stand for the model's
    sources: tuple[tuple[str, ...], ...]  # [n_tags], those tags of the dataset
    model_only: tuple[str, ...]  # tags that the dataset does not know
    dataset_only: tuple[str, ...]  # tags that the model does not know
    untagged: int = 0  # clips left out since they have none of the tags


def align(
    dataset: Dataset, model_tags: Sequence[str], merges: Merges | None = None, *, skip_untagged: bool = False
) -> Truth:
    """Match tags by name.

    A tag of ``merges`` goes where that says. Others match if they are the same. They also match if they differ only in
    case and in the characters between words (space, ``-``, ``_``), and no second tag on either side reads alike.

    Parameters
    ----------
    model_tags : labels of the scores' columns
    merges : tag of the dataset -> tags of the model that it counts for; with none it is left out
    skip_untagged : leave out clips with none of the matched tags, as the cleaned splits do

    Raises
    ------
    DatasetError : no tag matches, a map names an unknown tag, or ``skip_untagged`` leaves nothing
    """
    place = {tag: i for i, tag in enumerate(model_tags)}
    sources: dict[int, list[int]] = {}
    merges = merges or {}
    for name, targets in merges.items():
        if name not in dataset.tags:
            raise DatasetError(f"map: {name!r} is no tag of {_origin(dataset)}")
        for target in targets:
            if target not in place:
                raise DatasetError(f"map: {target!r} (for {name!r}) is no tag of the model")
            sources.setdefault(place[target], []).append(dataset.tags.index(name))
    mapped = set(merges)
    free = [k for k, tag in enumerate(dataset.tags) if tag not in mapped]
    for k in free:
        if dataset.tags[k] in place:
            sources.setdefault(place[dataset.tags[k]], []).append(k)
    used = {k for columns in sources.values() for k in columns}
    alike_model = _by_folded((tag, i) for i, tag in enumerate(model_tags))
    alike_dataset = _by_folded((dataset.tags[k], k) for k in free)
    for folded, columns in alike_dataset.items():
        models = alike_model.get(folded, [])
        if len(columns) == len(models) == 1 and columns[0] not in used and models[0] not in sources:
            sources[models[0]] = columns
            used.add(columns[0])
    if not sources:
        raise DatasetError(
            f"{_origin(dataset)}: none of its tags ({_some(dataset.tags)}) is one of the model's "
            f"({_some(model_tags)}); a map can tell which stand for which"
        )
    order = sorted(sources, key=lambda i: (min(sources[i]), i))
    labels = np.stack([dataset.labels[:, sources[i]].any(axis=1) for i in order], axis=1)
    untagged = 0
    if skip_untagged:
        tagged = labels.any(axis=1)
        untagged = int((~tagged).sum())
        if not tagged.any():
            raise DatasetError(f"{_origin(dataset)}: no clip has one of the {len(order)} tags")
        dataset, labels = dataset.keep(np.flatnonzero(tagged)), labels[tagged]
    return Truth(
        dataset,
        tuple(model_tags[i] for i in order),
        np.array(order, np.intp),
        labels,
        tuple(tuple(dataset.tags[k] for k in sorted(sources[i])) for i in order),
        tuple(tag for i, tag in enumerate(model_tags) if i not in sources),
        tuple(tag for k, tag in enumerate(dataset.tags) if k not in used),
        untagged,
    )


def read_merges(path: str) -> dict[str, tuple[str, ...]]:
    """A JSON object: tag of the dataset -> tag of the model, a list of them, or null to leave it out."""
    try:
        with open(path, encoding="utf-8") as file:
            data: Any = json.load(file)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise DatasetError(f"{path}: not JSON ({error})") from None
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: must be an object: tag of the dataset -> tag of the model, list of tags, or null")
    merges = {}
    for name, target in data.items():
        targets = [] if target is None else target if isinstance(target, list) else [target]
        if not all(isinstance(item, str) for item in targets):
            raise DatasetError(f"{path}: {name!r}: {target!r} is no tag, list of tags, or null")
        merges[name] = tuple(targets)
    return merges


def _by_folded(tags: Any) -> dict[str, list[int]]:
    folded: dict[str, list[int]] = {}
    for tag, index in tags:
        folded.setdefault(re.sub(r"[\s_-]+", " ", tag.casefold()).strip(), []).append(index)
    return folded


def _origin(dataset: Dataset) -> str:
    return str((dataset.source or {}).get("annotations", dataset.name))


def _some(tags: Sequence[str]) -> str:
    return ", ".join(tags[:3]) + (", ..." if len(tags) > 3 else "")
